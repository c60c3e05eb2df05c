//! The ledger that all requests share: a lock around each shard, held for one step, and a root without one.

use std::{fmt, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use super::{
    Asked, Cause, Looked, Proof, Quiet, Stale, View,
    atomic::Root,
    cell::{Cell, pack},
    proves,
    shard::Shard,
    solid, unchanged,
};
use crate::{
    clock::{Boot, Moment},
    flow::fresh::keys::{Key, Reads, Touched},
};

/// The most shards; fewer where few documents are remembered.
const SHARDS_MAX: usize = 1024;

/// The fewest entries of a shard, for which it is worth its while.
const SHARD_ENTRIES_MIN: usize = 8;

/// Which documents were written when.
pub struct Ledger {
    root: Root,
    /// A power of two of them.
    shards: Box<[Mutex<Shard>]>,
    entries_max: usize,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ledger").field("root", &self.root).field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Nothing is known, and everything is in doubt until `quiet_from` (rule 15). At most `documents_max` entries, but at least two; more only
    /// while more than that are being written.
    #[must_use]
    pub fn new(documents_max: usize, quiet_from: Moment) -> Self {
        let shards = 1 << (documents_max / SHARD_ENTRIES_MIN).clamp(1, SHARDS_MAX).ilog2();
        let room = (documents_max / shards / 2).max(1);
        let everything = pack(quiet_from, Quiet::Doubt);
        Self {
            root: Root::new(everything, everything, Cause::STARTED.0),
            shards: (0..shards).map(|_| Mutex::new(Shard::new(room, quiet_from))).collect(),
            entries_max: 2 * room * shards,
        }
    }

    /// Nothing is known, and only these documents are in doubt, each until its moment: after a stop at which all writes had ended (rule 15).
    #[must_use]
    pub fn with_doubts(documents_max: usize, doubts: &[(Key, Moment)]) -> Self {
        let mut ledger = Self::new(documents_max, Moment(0));
        for (key, quiet_from) in doubts {
            ledger.shard(*key).doubt(*key, *quiet_from);
        }
        let latest = doubts.iter().map(|(_, quiet_from)| *quiet_from).max().unwrap_or_default();
        ledger.root = Root::new(0, pack(latest, Quiet::Doubt), Cause::STARTED.0);
        ledger
    }

    /// An attempt at a write begins: before its first byte is sent (rule 2). Must be ended, once, by [`end`](Self::end) or
    /// [`unsent`](Self::unsent) with the same documents.
    pub fn begin(&self, touched: &Touched, cause: Cause) {
        if touched.is_empty() {
            return;
        }
        self.root.enter(1, cause.0);
        if touched.all {
            self.root.begin_all(1, cause.0);
        }
        for key in &touched.keys {
            // The number is taken inside the lock: one from before it could be older than a poll that saw no writer.
            self.shard(*key).mark(*key, |cell| cell.begin(self.root.next(), cause));
        }
    }

    /// So many writes of everything begin at once, each to be ended by itself.
    pub fn begin_all(&self, count: usize, cause: Cause) {
        if count > 0 {
            self.root.enter(count as u64, cause.0);
            self.root.begin_all(count as u64, cause.0);
        }
    }

    /// A write that had begun ended before one byte of it was written (rule 3).
    pub fn unsent(&self, touched: &Touched) {
        self.finish(touched, None);
    }

    /// A write ended: known (rule 3), with what replicas may lag behind, or unknown (rule 4), with what the app may still do about it.
    /// `quiet_from` is computed from a clock read after the end.
    pub fn end(&self, touched: &Touched, quiet_from: Moment, quiet: Quiet) {
        self.finish(touched, Some((quiet_from, quiet)));
    }

    fn finish(&self, touched: &Touched, quiet: Option<(Moment, Quiet)>) {
        if touched.is_empty() {
            return;
        }
        let packed = quiet.map_or(0, |(from, why)| pack(from, why));
        if touched.all {
            self.root.end_all(packed);
        }
        for key in &touched.keys {
            self.shard(*key).end(*key, quiet);
        }
        self.root.leave(packed);
    }

    /// Something else wrote these documents (rule 12): before a byte of the response that says so goes on.
    pub fn notice(&self, touched: &Touched, quiet_from: Moment, cause: Cause) {
        if touched.is_empty() {
            return;
        }
        let packed = pack(quiet_from, Quiet::Settle);
        self.root.pass(packed, cause.0);
        if touched.all {
            self.root.notice_all(packed, cause.0);
        }
        for key in &touched.keys {
            self.shard(*key).mark(*key, |cell| cell.notice(self.root.next(), quiet_from, cause));
        }
    }

    /// A write begins whose documents only its answer names (rule 13): nothing is proven until it [resumes](Self::resume).
    pub fn suspend(&self) {
        self.root.suspend();
    }

    /// It ended, and what it wrote was told: its list by [`notice`](Self::notice); else everything, by `notice` or, if its end is unknown, by
    /// [`begin`](Self::begin) and [`end`](Self::end).
    pub fn resume(&self) {
        self.root.resume();
    }

    /// A poll is about to be put to the app (rule 7): before its first byte, with clocks that were read before.
    #[must_use]
    pub fn ask(&self, reads: &Reads, now: Moment, asked_at: Boot) -> Asked {
        // First: a write that begins from here on has a higher number, one before it shows in what is asked below.
        let s = self.root.sequence();
        let everything = reads.everything.then(|| self.root.everything());
        let shared = [Some(self.root.all()), everything].into_iter().flatten().map(Cell::from);
        let own = reads.keys.iter().map(|key| self.shard(*key).look(*key).0);
        Asked { s, asked_at, solid: solid(shared.chain(own), now) }
    }

    /// Whether the answer to a poll may be given to another one that came before this call (rules 9 and 10). `boot` is now.
    ///
    /// # Errors
    /// Why not.
    pub fn prove(&self, reads: &Reads, asked: &Asked, boot: Boot, age_max: Duration) -> Result<Proof, Stale> {
        proves(asked, boot, age_max, || self.compare(reads, asked.s))
    }

    /// Whether nothing of this was written since `s`, whatever its age (rule 18).
    #[must_use]
    pub fn unchanged(&self, reads: &Reads, s: u64) -> bool {
        self.compare(reads, s).is_ok()
    }

    fn compare(&self, reads: &Reads, s: u64) -> Result<(), Stale> {
        // First: what a write that suspends has learned is marked before it resumes.
        let root = self.root.check(s, reads.everything);
        unchanged(s, root, reads.keys.iter().map(|key| self.shard(*key).look(*key).0))
    }

    /// Documents have other names from now on: what may be in doubt under old ones is so under all of the new ones.
    pub fn doubt_everything(&self, quiet_from: Moment) {
        let latest = Cell::from(self.root.everything()).quiet_from;
        let packed = pack(quiet_from.max(latest), Quiet::Doubt);
        self.root.pass(packed, Cause::RELOADED.0);
        self.root.notice_all(packed, Cause::RELOADED.0);
    }

    /// What is known of these documents, for operators. Of `all`, see [`view`](Self::view).
    #[must_use]
    pub fn look(&self, touched: &Touched) -> Vec<(Key, Looked)> {
        let all = Cell::from(self.root.all());
        let look = |key: &Key| {
            let (cell, entry) = self.shard(*key).look(*key);
            (*key, Looked::of(&cell.with(&all), entry))
        };
        touched.keys.iter().map(look).collect()
    }

    /// The documents that are not quiet yet, and for how long, for the next start (rule 15); none if a write runs, or if documents are in
    /// doubt that have no entry and so cannot be named: then the next start doubts everything. Looks at every entry.
    #[must_use]
    pub fn doubts(&self, now: Moment) -> Option<Vec<(Key, Duration)>> {
        let all = Cell::from(self.root.all());
        let running = self.root.suspended() > 0 || self.root.everything().writers > 0;
        if running || all.solid(now).is_err() {
            return None;
        }
        let mut doubts = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            shard.floor().solid(now).ok()?;
            for (key, cell) in shard.entries().filter(|(_, cell)| cell.solid(now).is_err()) {
                if cell.writers > 0 {
                    return None;
                }
                doubts.push((key, cell.quiet_from.since(now)));
            }
        }
        Some(doubts)
    }

    /// The ledger as a whole. Takes every lock once: off the path of requests.
    #[must_use]
    pub fn view(&self, now: Moment) -> View {
        let all = Cell::from(self.root.all());
        let everything = Cell::from(self.root.everything());
        let mut view = View {
            entries: 0,
            entries_max: self.entries_max,
            bytes: 0,
            seq: self.root.sequence(),
            suspended: self.root.suspended(),
            all: Looked::of(&all, true),
            everything: Looked::of(&everything, true),
            all_solid: all.solid(now),
            parts: self.shards.len(),
            floors_in_doubt: 0,
        };
        for shard in &self.shards {
            let shard = shard.lock();
            view.entries += shard.len();
            view.bytes += shard.bytes();
            view.floors_in_doubt += usize::from(shard.floor().solid(now).is_err());
        }
        view
    }

    /// The shard of a key: by bits that its table uses neither for a place nor as a mark.
    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        let [_, first, second, ..] = key.0.to_be_bytes();
        let index = usize::from(u16::from_be_bytes([first, second]));
        self.shards[index & (self.shards.len() - 1)].lock()
    }

    /// The invariants of every shard.
    #[cfg(test)]
    pub(super) fn check(&self) {
        for shard in &self.shards {
            // Inside the lock: what the shard holds was given out before.
            let shard = shard.lock();
            shard.check(self.root.sequence());
        }
    }

    /// The writers of `all` and of `everything`.
    #[cfg(test)]
    pub(super) fn root(&self) -> (u64, u64) {
        (self.root.all().writers, self.root.everything().writers)
    }

    #[cfg(test)]
    pub(super) fn has_dropped(&self) -> bool {
        self.shards.iter().any(|shard| shard.lock().has_dropped())
    }
}
