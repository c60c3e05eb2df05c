//! The rules of the ledger: what a write marks when it begins and ends, and what a poll reads there. Each function is atomic, as
//! it is under a shard's lock. Numbers of rules are those of the text that the product follows.

use crate::{
    model::World,
    mutations::Weakened as W,
    scenarios::Named,
    state::{Cell, DOCUMENTS, Ledger, Ticks, Write},
};

/// The keys of a poll or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// One bit each.
    pub documents: u8,
    /// `all` is touched (every poll reads it anyway).
    pub all: bool,
}

impl Keys {
    fn each(self) -> impl Iterator<Item = usize> {
        (0..DOCUMENTS).filter(move |document| self.documents >> document & 1 == 1)
    }
}

impl World {
    /// What was known of a write when it was classified.
    pub fn named(&self, write: &Write) -> Named {
        let kind = self.scenario.kinds[usize::from(write.kind)];
        if write.era < self.scenario.reloads { kind.named_before } else { kind.named }
    }

    /// Rule 1. After a reload every document has another key: that of the other one.
    pub fn keys(&self, documents: u8, era: u8) -> Keys {
        const { assert!(DOCUMENTS == 2) };
        let swapped = self.scenario.reloads > 0 && era % 2 == 1;
        let documents = if swapped { (documents & 1) << 1 | documents >> 1 } else { documents };
        Keys { documents, all: false }
    }

    pub fn keys_of(&self, write: &Write) -> Keys {
        let touches = self.scenario.kinds[usize::from(write.kind)].touches;
        if self.named(write) == Named::Everything { Keys { documents: 0, all: true } } else { self.keys(touches, write.era) }
    }

    /// Rule 2, and rule 13 for a write whose documents only its answer names.
    pub fn begin(&self, ledger: &mut Ledger, write: &Write) {
        match self.named(write) {
            Named::Answer => {
                if !self.weakened(W::NarrowNotSuspended) {
                    ledger.suspended += 1;
                }
            }
            Named::Pending | Named::Notice | Named::Nobody => {}
            Named::Request | Named::Everything => self.each_cell(ledger, self.keys_of(write), |cell, number| {
                if !self.weakened(W::BeginNoWriters) {
                    cell.writers += 1;
                }
                if !self.weakened(W::BeginNoLastWrite) {
                    cell.last_write = number;
                }
            }),
        }
    }

    /// Rule 3: a known end.
    pub fn end_known(&self, ledger: &mut Ledger, write: &Write) {
        let settle = if self.weakened(W::EndNoSettle) { 0 } else { self.scenario.settle };
        match self.named(write) {
            Named::Answer => {
                self.notice(ledger, self.keys_of(write));
                ledger.suspended = ledger.suspended.saturating_sub(1);
            }
            Named::Pending | Named::Notice => self.notice(ledger, self.keys_of(write)),
            Named::Nobody => {}
            Named::Request | Named::Everything => self.leave(ledger, self.keys_of(write), settle),
        }
    }

    /// Rule 4: an end that says nothing of the outcome.
    pub fn end_unknown(&self, ledger: &mut Ledger, write: &Write) {
        let ticks = self.doubt();
        match self.named(write) {
            Named::Answer | Named::Pending => {
                self.notice(ledger, Keys { documents: 0, all: true });
                self.hush(&mut ledger.all, ticks);
                if self.named(write) == Named::Answer {
                    ledger.suspended = ledger.suspended.saturating_sub(1);
                }
            }
            Named::Notice | Named::Nobody => {}
            Named::Request | Named::Everything => self.leave(ledger, self.keys_of(write), ticks),
        }
    }

    /// Rule 3: not one byte was written.
    pub fn end_unsent(&self, ledger: &mut Ledger, write: &Write) {
        match self.named(write) {
            Named::Answer => ledger.suspended = ledger.suspended.saturating_sub(1),
            Named::Pending | Named::Notice | Named::Nobody => {}
            Named::Request | Named::Everything => self.leave(ledger, self.keys_of(write), 0),
        }
    }

    /// `doubt + settle`.
    pub fn doubt(&self) -> Ticks {
        let settle = if self.weakened(W::DoubtWithoutSettle) { 0 } else { self.scenario.settle };
        let doubt = if self.weakened(W::NoDoubt) { 0 } else { self.scenario.doubt };
        (doubt + settle).saturating_sub(Ticks::from(self.weakened(W::DoubtTickShort)))
    }

    /// One writer fewer, and what the app shows need not last for so many ticks.
    fn leave(&self, ledger: &mut Ledger, keys: Keys, ticks: Ticks) {
        for document in keys.each() {
            let cell = self.entry(ledger, document);
            cell.writers = cell.writers.saturating_sub(1);
            self.hush(cell, ticks);
        }
        if keys.all {
            ledger.all.writers = ledger.all.writers.saturating_sub(1);
            self.hush(&mut ledger.all, ticks);
        }
    }

    /// `quiet_from = max(quiet_from, now + ticks)`.
    pub fn hush(&self, cell: &mut Cell, ticks: Ticks) {
        cell.quiet = if self.weakened(W::QuietOverwritten) { ticks } else { cell.quiet.max(ticks) };
    }

    /// Rule 12.
    pub fn notice(&self, ledger: &mut Ledger, keys: Keys) {
        if self.weakened(W::NoticeNeedsEntry) && keys.each().any(|document| ledger.entries[document].is_none()) {
            return;
        }
        let settle = self.scenario.settle;
        self.each_cell(ledger, keys, |cell, number| {
            cell.last_write = number;
            self.hush(cell, settle);
        });
    }

    /// The cells of these keys, each with a number of its own, made if absent.
    fn each_cell(&self, ledger: &mut Ledger, keys: Keys, mut visit: impl FnMut(&mut Cell, u8)) {
        for document in keys.each() {
            ledger.seq += 1;
            let number = ledger.seq;
            visit(self.entry(ledger, document), number);
        }
        if keys.all {
            ledger.seq += 1;
            visit(&mut ledger.all, ledger.seq);
        }
    }

    /// A new entry is a copy of the floor without writers.
    fn entry<'a>(&self, ledger: &'a mut Ledger, document: usize) -> &'a mut Cell {
        let quiet = if self.weakened(W::EntryForgetsFloorQuiet) { 0 } else { ledger.floor.quiet };
        let new = Cell { last_write: ledger.floor.last_write, writers: 0, quiet };
        ledger.entries[document].get_or_insert(new)
    }

    /// The entry, else the floor; with `all` added.
    fn look(&self, ledger: &Ledger, document: usize) -> Cell {
        let floor = if self.weakened(W::LookupIgnoresFloor) { Cell::default() } else { ledger.floor };
        let cell = ledger.entries[document].unwrap_or(floor);
        Cell {
            last_write: cell.last_write.max(ledger.all.last_write),
            writers: cell.writers + ledger.all.writers,
            quiet: cell.quiet.max(ledger.all.quiet),
        }
    }

    /// The cells that a poll looks at.
    fn looks<'a>(&'a self, ledger: &'a Ledger, keys: Keys) -> impl Iterator<Item = Cell> + 'a {
        let enough = if self.weakened(W::FirstDocumentOnly) { 1 } else { DOCUMENTS };
        keys.each().take(enough).map(|document| self.look(ledger, document))
    }

    /// Rule 7: nothing is being written, and nothing in doubt.
    pub fn solid(&self, ledger: &Ledger, keys: Keys) -> bool {
        self.looks(ledger, keys).all(|cell| {
            (cell.writers == 0 || self.weakened(W::SolidIgnoresWriters)) && (cell.quiet == 0 || self.weakened(W::SolidIgnoresQuiet))
        })
    }

    /// Rule 9, the part about writes: none began since.
    pub fn unwritten_since(&self, ledger: &Ledger, s: u8, keys: Keys) -> bool {
        self.looks(ledger, keys).all(|cell| cell.last_write <= s)
    }

    /// Rule 14, if the entry may be dropped.
    pub fn evict(&self, ledger: &mut Ledger, document: usize) {
        if let Some(cell) = ledger.entries[document].take() {
            if !self.weakened(W::FloorNotRaised) {
                ledger.floor.last_write = ledger.floor.last_write.max(cell.last_write);
            }
            if !self.weakened(W::FloorNotRaised) && !self.weakened(W::FloorQuietNotRaised) {
                ledger.floor.quiet = ledger.floor.quiet.max(cell.quiet);
            }
        }
    }

    /// Rule 15.
    pub fn fresh_ledger(&self) -> Ledger {
        let quiet = if self.weakened(W::RestartNoDoubt) { 0 } else { self.scenario.doubt + self.scenario.settle };
        Ledger { floor: Cell { quiet, ..Cell::default() }, ..Ledger::default() }
    }
}

/// A tick of the clock that the ledger reads.
pub fn tick(ledger: &mut Ledger, ticks: Ticks) {
    let cells = ledger.entries.iter_mut().flatten().chain([&mut ledger.floor, &mut ledger.all]);
    cells.for_each(|cell| cell.quiet = cell.quiet.saturating_sub(ticks));
}
