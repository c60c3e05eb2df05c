//! A part of the ledger: the documents written of late, in two generations, and a floor for all others.
//!
//! A full young generation becomes the old one, and what the old one held is dropped, but for documents that are being written: the floor is
//! raised to what is dropped, so that a document without an entry counts as written when any dropped one was. A document that is written again
//! moves to the young generation, and so only what was not written for a whole generation raises the floor.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::{Cause, Quiet, cell::Cell};
use crate::{clock::Moment, flow::fresh::keys::Key};

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

type Cells = HashMap<Key, Cell, BuildHasherDefault<Plain>>;

/// The bytes of an entry, its mark in the table included.
const ENTRY_BYTES: usize = size_of::<(Key, Cell)>() + 1;

/// Cells by key, and the floor under them.
#[derive(Debug)]
pub(super) struct Shard {
    young: Cells,
    old: Cells,
    floor: Cell,
    /// Entries that the young generation took in, those carried over counted up to half of `room`, so that a generation of documents that
    /// are all being written is not looked through at every step.
    taken: usize,
    /// How many a generation takes in.
    room: usize,
}

impl Shard {
    /// Nothing was written, and everything is quiet from then on.
    pub(super) fn new(room: usize, quiet_from: Moment) -> Self {
        let floor = Cell::new(quiet_from);
        Self { young: Cells::default(), old: Cells::default(), floor, taken: 0, room: room.max(1) }
    }

    /// What is known of a document, and whether it has an entry of its own.
    pub(super) fn look(&self, key: Key) -> (Cell, bool) {
        match self.young.get(&key).or_else(|| self.old.get(&key)) {
            Some(cell) => (*cell, true),
            None => (self.floor, false),
        }
    }

    /// Changes a document's entry, which is made if there is none; it is the youngest then.
    pub(super) fn mark(&mut self, key: Key, change: impl FnOnce(&mut Cell)) {
        if let Some(cell) = self.young.get_mut(&key) {
            return change(cell);
        }
        let known = self.old.remove(&key);
        if self.taken >= self.room {
            self.turn();
        }
        // The floor never has writers.
        let mut cell = known.unwrap_or(self.floor);
        change(&mut cell);
        self.young.insert(key, cell);
        self.taken += 1;
    }

    /// A write of this document ended: known, unknown, or before anything was sent (none).
    pub(super) fn end(&mut self, key: Key, quiet: Option<(Moment, Quiet)>) {
        let cell = self.young.get_mut(&key).or_else(|| self.old.get_mut(&key));
        debug_assert!(cell.as_ref().is_some_and(|cell| cell.writers > 0), "a write ended that never began");
        if let Some(cell) = cell {
            cell.end(quiet);
        }
    }

    /// Makes an entry that is quiet from then on, of a document that was in doubt before a stop.
    pub(super) fn doubt(&mut self, key: Key, quiet_from: Moment) {
        self.mark(key, |cell| cell.raise_quiet(quiet_from, Quiet::Doubt));
    }

    /// Drops the old generation and begins a new one.
    fn turn(&mut self) {
        let mut carried = Vec::new();
        for (key, cell) in self.old.drain() {
            if cell.writers > 0 {
                carried.push((key, cell));
            } else {
                self.floor.absorb(&cell);
                self.floor.cause = Cause::FORGOTTEN;
            }
        }
        std::mem::swap(&mut self.young, &mut self.old);
        self.taken = carried.len().min(self.room / 2);
        self.young.extend(carried);
    }

    /// What counts for a document without an entry.
    pub(super) fn floor(&self) -> Cell {
        self.floor
    }

    /// Every entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Key, &Cell)> {
        self.young.iter().chain(&self.old).map(|(key, cell)| (*key, cell))
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// The memory of the entries, and of the room that is kept for more.
    pub(super) fn bytes(&self) -> usize {
        let table = |cells: &Cells| match cells.capacity() {
            0 => 0,
            capacity => (capacity * 8 / 7).next_power_of_two() * ENTRY_BYTES,
        };
        table(&self.young) + table(&self.old)
    }

    #[cfg(test)]
    pub(super) fn check(&self, sequence: u64) {
        assert_eq!(self.floor.writers, 0, "nobody writes the floor");
        assert!(self.floor.last_write <= sequence);
        assert!(self.taken <= self.room, "a generation took in {} of {}", self.taken, self.room);
        for (key, cell) in &self.young {
            assert!(!self.old.contains_key(key), "{key:?} stands in both generations");
            assert!(cell.last_write <= sequence);
        }
        for (key, cell) in self.entries() {
            assert!(cell.last_write <= sequence, "{key:?} has a number that was never given out");
        }
    }

    #[cfg(test)]
    pub(super) fn has_dropped(&self) -> bool {
        self.floor.cause == Cause::FORGOTTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(shard: &mut Shard, key: u64, number: u64) {
        shard.mark(Key(key), |cell| cell.begin(number, Cause(1)));
        shard.check(number);
    }

    fn end(shard: &mut Shard, key: u64, quiet_from: u64) {
        shard.end(Key(key), Some((Moment(quiet_from), Quiet::Settle)));
    }

    #[test]
    fn what_is_dropped_raises_the_floor_and_a_new_entry_starts_there() {
        let mut shard = Shard::new(2, Moment(5));
        assert_eq!(shard.look(Key(1)), (Cell::new(Moment(5)), false));
        for key in 1..=4 {
            begin(&mut shard, key, key);
            end(&mut shard, key, 10 * key);
        }
        assert_eq!((shard.len(), shard.floor()), (4, Cell::new(Moment(5))), "there is room for two generations of two");
        begin(&mut shard, 5, 5);
        let (floor, own) = shard.look(Key(1));
        assert_eq!((floor.last_write, floor.quiet_from, floor.writers, own), (2, Moment(20), 0, false));
        assert_eq!(floor.cause, Cause::FORGOTTEN);
        begin(&mut shard, 6, 6);
        let (cell, own) = shard.look(Key(6));
        assert_eq!((cell.last_write, cell.quiet_from, cell.writers, own), (6, Moment(20), 1, true));
        assert_eq!(shard.look(Key(3)).0.last_write, 3, "the generation before the last is whole");
    }

    #[test]
    fn who_is_written_stays_however_many_come() {
        let mut shard = Shard::new(2, Moment(0));
        begin(&mut shard, 1, 1);
        for number in 2..1000 {
            begin(&mut shard, number, number);
            end(&mut shard, number, 0);
            let (cell, own) = shard.look(Key(1));
            assert!(own && cell.writers == 1);
            assert!(shard.len() <= 4, "{} entries", shard.len());
        }
        end(&mut shard, 1, 7);
        for number in 1000..1010 {
            begin(&mut shard, number, number);
            end(&mut shard, number, 0);
        }
        assert_eq!((shard.look(Key(1)).1, shard.floor().quiet_from), (false, Moment(7)));
    }

    #[test]
    fn a_document_that_is_written_again_does_not_raise_the_floor() {
        let mut shard = Shard::new(4, Moment(0));
        for number in 1..1000 {
            // Every third write is that of one document.
            let key = if number % 3 == 0 { 0 } else { number };
            begin(&mut shard, key, number);
            end(&mut shard, key, 0);
            assert!(number < 3 || shard.look(Key(0)).1);
            assert!(shard.floor().last_write + 3 <= number.max(3), "the floor is what was not written for a generation");
        }
    }

    #[test]
    fn more_documents_that_are_being_written_than_there_is_room_for_are_all_kept_and_go_when_they_end() {
        let mut shard = Shard::new(2, Moment(0));
        for key in 1..=100 {
            begin(&mut shard, key, key);
        }
        assert_eq!(shard.len(), 100);
        for key in 1..=100 {
            end(&mut shard, key, 0);
        }
        for key in 101..=110 {
            begin(&mut shard, key, key);
            end(&mut shard, key, 0);
        }
        assert!(shard.len() <= 4, "{} entries", shard.len());
    }

    #[test]
    fn an_entry_takes_thirty_two_bytes_and_its_mark() {
        assert_eq!(ENTRY_BYTES, 33);
        let mut shard = Shard::new(100, Moment(0));
        assert_eq!(shard.bytes(), 0);
        (0..100).for_each(|key| begin(&mut shard, key, key));
        assert_eq!(shard.bytes(), 128 * 33);
    }
}
