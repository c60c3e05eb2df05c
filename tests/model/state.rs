//! What the model remembers: the ledger, stored answers, polls under way and waiting, writes, and what anybody was shown.
//!
//! There are as many clients as there may be: any of them may ask at any moment. Of all of them together the model keeps only
//! what a promise needs (`seen`, `acknowledged`, `must`), since an answer that is wrong for one of them is wrong for the union.
//! Time is ticks left on timers, so a run has no end in time. Sequence numbers are kept by their order only (`normal`).

use std::hash::{Hash, Hasher};

/// The most writes, attempts counted singly.
pub const WRITES: usize = 4;
/// The most documents; the keys of the ledger are as many.
pub const DOCUMENTS: usize = 2;
/// The most polls at the app at once.
pub const POLLS: usize = 2;
/// The most questions: polls with one question are identical.
pub const QUESTIONS: usize = 2;
/// The most groups of polls that wait for the next poll of their question.
pub const WAITING: usize = 2;

/// Time left on a timer, or passed.
pub type Ticks = u8;
/// A timer that never runs out.
pub const FOREVER: Ticks = Ticks::MAX;
/// A sequence number.
pub type Number = u8;

/// What writes did to documents: one bit for each write and document. It says what an answer shows, or must show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Effects(pub u8);

impl Effects {
    pub const NONE: Self = Self(0);

    /// What a write does to these documents (one bit each).
    pub const fn of(write: usize, documents: u8) -> Self {
        let mut bits = 0;
        let mut document = 0;
        while document < DOCUMENTS {
            bits |= ((documents >> document) & 1) << (document * WRITES + write);
            document += 1;
        }
        Self(bits)
    }

    /// Everything that could be done to these documents.
    pub const fn all_on(documents: u8) -> Self {
        let mut bits = 0;
        let mut write = 0;
        while write < WRITES {
            bits |= Self::of(write, documents).0;
            write += 1;
        }
        Self(bits)
    }

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn on(self, documents: u8) -> Self {
        Self(self.0 & Self::all_on(documents).0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub const fn has(self, other: Self) -> bool {
        other.without(self).0 == 0
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// What the ledger knows of a key. `quiet` is `quiet_from`, as ticks that are left until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cell {
    pub last_write: Number,
    pub writers: u8,
    pub quiet: Ticks,
}

/// One shard, the cell that is part of every document, and the count of writes whose documents nobody knows yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    pub seq: Number,
    pub entries: [Option<Cell>; DOCUMENTS],
    pub floor: Cell,
    pub all: Cell,
    pub suspended: u8,
}

/// How far the call of a write is, as tidegate sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Call {
    #[default]
    Unsent,
    /// Classified, and not yet sent.
    Queued,
    /// The first byte is with the app.
    Running,
    /// The head of the answer came, the rest did not.
    Streaming,
    /// A whole answer came that says it is done.
    Answered,
    /// A whole answer came with an error status.
    Failed,
    /// Over for us; the app may not have finished (`late`).
    Over,
}

/// One attempt to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each of them is true or false by itself")]
pub struct Write {
    pub call: Call,
    /// Which of the scenario's kinds.
    pub kind: u8,
    /// Under which process or profile it was classified.
    pub era: u8,
    /// The ledger counts it: its begin is done, its end is due.
    pub counted: bool,
    /// `all.writers` counts it too, from a reload on (rule 17).
    pub held: bool,
    pub committed: bool,
    pub acknowledged: bool,
    /// After it was given up: for how long the app may still commit.
    pub late: Ticks,
    /// After the commit: for how long a replica may not show it.
    pub lag: Ticks,
    /// After the commit: how long ago, counted up to the largest age limit.
    pub since: Ticks,
}

impl Write {
    fn normal(&mut self) {
        if self.call == Call::Answered && self.acknowledged && !self.counted {
            self.call = Call::Over;
        }
        if self.call == Call::Over {
            self.era = 0;
            if !self.committed && self.late == 0 {
                *self = Self { call: Call::Over, ..Self::default() };
            }
        }
    }
}

/// A stored answer to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    pub era: u8,
    pub s: Number,
    /// Since asking.
    pub age: Ticks,
    pub shows: Effects,
}

/// A poll at the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Poll {
    pub question: u8,
    pub era: u8,
    pub s: Number,
    /// Since asking.
    pub age: Ticks,
    pub solid: bool,
    /// Somebody waits for it.
    pub attended: bool,
    /// The documents that the app has read for it, one bit each, and what it found.
    pub read: u8,
    pub shows: Effects,
    /// What those who share it were promised (P4), and what is too old to be missing (AGE).
    pub must: Effects,
    pub must_by_age: Effects,
    /// A refresh or an audit: the answer that was replayed, and its `s`.
    pub expected: Option<(Effects, Number)>,
}

/// Those who wait for the next poll of a question (rule 11), and what they were promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Waiting {
    pub question: u8,
    pub era: u8,
    pub must: Effects,
}

/// Everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub writes: [Write; WRITES],
    pub ledger: Ledger,
    pub stored: [Option<Stored>; QUESTIONS],
    pub polls: [Option<Poll>; POLLS],
    pub waiting: [Option<Waiting>; WAITING],
    /// What any client was shown.
    pub seen: Effects,
    /// Processes and profiles before the present one.
    pub era: u8,
    /// The process before this one has not ended (hand-over), and what it would still replay if it were let.
    pub old_lives: bool,
    pub old_stored: Option<Effects>,
    /// The app is down or in maintenance.
    pub down: bool,
    /// The promises that the last step broke.
    pub broken: u8,
}

impl State {
    /// The same state as every other that differs in nothing that matters: sequence numbers count how many of the `s` that are
    /// still of use are smaller (numbers are compared with an `s` and never with each other), slots of polls have an order, and
    /// of a write that is over nothing is kept but what it did and may do.
    #[must_use]
    pub fn normal(mut self) -> Self {
        self.writes.iter_mut().for_each(Write::normal);
        self.number();
        self.polls.sort_unstable();
        self.waiting.sort_unstable();
        self
    }

    fn number(&mut self) {
        // Bit n: some poll or answer was asked at number n.
        let mut asked = 0_u32;
        let stored = self.stored.iter().flatten().map(|answer| answer.s);
        let polls = self.polls.iter().flatten().flat_map(|poll| [Some(poll.s), poll.expected.map(|(_, s)| s)]);
        for s in stored.chain(polls.flatten()) {
            asked |= 1 << s;
        }
        let place = |number: &mut Number| *number = (asked & ((1 << *number) - 1)).count_ones() as Number;
        let ledger = &mut self.ledger;
        place(&mut ledger.seq);
        let cells = ledger.entries.iter_mut().flatten().chain([&mut ledger.floor, &mut ledger.all]);
        cells.for_each(|cell| place(&mut cell.last_write));
        self.stored.iter_mut().flatten().for_each(|answer| place(&mut answer.s));
        for poll in self.polls.iter_mut().flatten() {
            place(&mut poll.s);
            if let Some((_, s)) = &mut poll.expected {
                place(s);
            }
        }
    }
}

impl Hash for State {
    /// All fields as one run of bytes: hashed one by one they cost more than all the rest.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self { writes, ledger, stored, polls, waiting, seen, era, old_lives, old_stored, down, broken } = self;
        let mut bytes = Bytes { buffer: [0; 192], length: 0 };
        (writes, ledger, stored, polls, waiting).hash(&mut bytes);
        (seen, era, old_lives, old_stored, down, broken).hash(&mut bytes);
        hasher.write(&bytes.buffer[..bytes.length]);
    }
}

/// Collects what would be hashed. Lengths and the numbers of variants are small.
struct Bytes {
    buffer: [u8; 192],
    length: usize,
}

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.buffer[self.length] = byte;
        self.length += 1;
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u8(number as u8);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_usize(number.unsigned_abs());
    }

    fn finish(&self) -> u64 {
        unreachable!("only collects")
    }
}
