//! What the whole ledger shares without a lock: the sequence, the cell `all`, the cell `everything`, and how many writes suspend all answers.
//!
//! `all` is part of every document. `everything` is BELOW(root), "was anything written?": every write counts itself there, and its last write
//! is the sequence itself. The order of the single operations is the proof; each is needed where it stands:
//!
//! * a write goes up (`writers`), takes its number (`sequence`), marks (`last_write`), and only then may its first byte be sent. Whoever sees
//!   its number in `s` sees it in `writers` too (Release and Acquire of `sequence`), or sees that it has ended;
//! * a write ends by raising `quiet_from` and then going down. Whoever sees it down (Release and Acquire of `writers`) sees `quiet_from`, which
//!   is why that is read last;
//! * a notice raises `quiet_from` before it takes its number, for it has no writers by which it would be seen;
//! * what a write that suspends learns is marked before `suspended` goes down, and `suspended` is read before any `last_write`.
//!
//! Between the begin of a write and a poll that starts after its end lie system calls on both sides, so nothing needs a total order.

use super::sync::{
    AtomicU16, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// What the root says of a question at one moment. `quiet_from` is an opaque number that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The number of the last write.
    pub last_write: u64,
    /// Writes that run.
    pub writers: u64,
    /// Before this, what the app shows need not last.
    pub quiet_from: u64,
    /// Who wrote last; may be another's for as long as two write at the same time.
    pub cause: u16,
}

/// What a check against `s` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// No write that concerns every document has begun since.
    Unchanged,
    /// A write runs whose documents are not known yet.
    Suspended,
    /// One has begun; who wrote.
    Written(u16),
}

/// The shared part of a ledger.
#[derive(Debug)]
pub struct Root {
    sequence: AtomicU64,
    suspended: AtomicU64,
    all_last_write: AtomicU64,
    all_writers: AtomicU64,
    all_quiet_from: AtomicU64,
    all_cause: AtomicU16,
    everything_writers: AtomicU64,
    everything_quiet_from: AtomicU64,
    everything_cause: AtomicU16,
}

impl Root {
    /// Nothing was written; `all` is quiet from the first on, `everything` from the second.
    pub fn new(all_quiet_from: u64, everything_quiet_from: u64, cause: u16) -> Self {
        Self {
            sequence: AtomicU64::new(0),
            suspended: AtomicU64::new(0),
            all_last_write: AtomicU64::new(0),
            all_writers: AtomicU64::new(0),
            all_quiet_from: AtomicU64::new(all_quiet_from),
            all_cause: AtomicU16::new(cause),
            everything_writers: AtomicU64::new(0),
            everything_quiet_from: AtomicU64::new(everything_quiet_from),
            everything_cause: AtomicU16::new(cause),
        }
    }

    /// So many writes begin. Before any of their numbers is taken.
    pub fn enter(&self, count: u64, cause: u16) {
        self.everything_cause.store(cause, Relaxed);
        self.everything_writers.fetch_add(count, Relaxed);
    }

    /// A write ended. After its documents were told.
    pub fn leave(&self, quiet_from: u64) {
        self.everything_quiet_from.fetch_max(quiet_from, Relaxed);
        self.everything_writers.fetch_sub(1, Release);
    }

    /// A notice comes, which has no writers. Before any of its numbers is taken.
    pub fn pass(&self, quiet_from: u64, cause: u16) {
        self.everything_cause.store(cause, Relaxed);
        self.everything_quiet_from.fetch_max(quiet_from, Relaxed);
    }

    /// The next number: inside the lock of the cell that it is for.
    pub fn next(&self) -> u64 {
        self.sequence.fetch_add(1, Release) + 1
    }

    /// So many writes of everything begin; after [`enter`](Self::enter).
    pub fn begin_all(&self, count: u64, cause: u16) {
        self.all_writers.fetch_add(count, Relaxed);
        self.mark_all(cause);
    }

    /// A write of everything ended; before [`leave`](Self::leave).
    pub fn end_all(&self, quiet_from: u64) {
        self.all_quiet_from.fetch_max(quiet_from, Relaxed);
        self.all_writers.fetch_sub(1, Release);
    }

    /// Everything was written by somebody else; after [`pass`](Self::pass).
    pub fn notice_all(&self, quiet_from: u64, cause: u16) {
        self.all_quiet_from.fetch_max(quiet_from, Relaxed);
        self.mark_all(cause);
    }

    fn mark_all(&self, cause: u16) {
        let number = self.next();
        self.all_cause.store(cause, Relaxed);
        self.all_last_write.fetch_max(number, Release);
    }

    /// A write begins whose documents nobody knows yet.
    pub fn suspend(&self) {
        self.suspended.fetch_add(1, Relaxed);
    }

    /// It ended, and its documents are marked.
    pub fn resume(&self) {
        self.suspended.fetch_sub(1, Release);
    }

    /// The sequence; before anything else is asked.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Acquire)
    }

    /// The cell `all`.
    pub fn all(&self) -> State {
        let writers = self.all_writers.load(Acquire);
        State {
            writers,
            quiet_from: self.all_quiet_from.load(Relaxed),
            last_write: self.all_last_write.load(Acquire),
            cause: self.all_cause.load(Relaxed),
        }
    }

    /// The cell `everything`.
    pub fn everything(&self) -> State {
        let writers = self.everything_writers.load(Acquire);
        State {
            writers,
            quiet_from: self.everything_quiet_from.load(Relaxed),
            last_write: self.sequence.load(Acquire),
            cause: self.everything_cause.load(Relaxed),
        }
    }

    /// How many writes run whose documents nobody knows yet.
    pub fn suspended(&self) -> u64 {
        self.suspended.load(Acquire)
    }

    /// Whether something has begun since `s` that concerns every question, or, of one that reads everything, whether anything has. Before any
    /// document is asked, for `suspended` must be read first.
    pub fn check(&self, s: u64, everything: bool) -> Check {
        if self.suspended() != 0 {
            return Check::Suspended;
        }
        if self.all_last_write.load(Acquire) > s {
            return Check::Written(self.all_cause.load(Relaxed));
        }
        if everything && self.sequence.load(Acquire) > s {
            return Check::Written(self.everything_cause.load(Relaxed));
        }
        Check::Unchanged
    }
}
