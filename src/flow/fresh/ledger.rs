//! Which documents were written when: what is known since a poll was asked proves its answer, or does not.
//!
//! A *cell* holds a document's last write (a number from one sequence), how many writes of it run, and `quiet_from`: before that moment what the
//! app shows of it need not last, because a write was lost on the way or replicas lag behind. Documents that were written of late have cells of
//! their own in a [`shard`]; all others share that shard's floor. Polls make no cells. The cell `all` is part of every document.
//!
//! A write begins in all its cells before its first byte goes to the app, and ends when nothing of it can come any more. A poll takes
//! the sequence as its `s` first and then asks whether its documents are *solid*: nobody writes them, and they are quiet. A solid poll's answer
//! is *proven* at a later moment if no document of it was written since `s` ([`proves`]). That is all: a write that began before `s`
//! had ended when the poll was asked, for else the poll would not be solid; one that began after it shows in `last_write`.
//!
//! There is no time of check to time of use: an answer takes effect at its check, which lies after its poll's start. Many documents need no
//! snapshot: "not written since s" can only turn false, so what holds at the last document's check held at the first one's.
//!
//! Here and in [`cell`], [`shard`] and [`atomic`] are the decisions; `shell` puts a lock around each shard.

mod atomic;
mod cell;
pub mod generation;
mod shard;
pub mod shell;
#[cfg(test)]
mod tests;

/// Where [`atomic`] has its atomics from.
mod sync {
    pub use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
}

use std::time::Duration;

use self::{atomic::Check, cell::Cell};
use crate::{
    clock::{Boot, Moment},
    profile::RouteId,
};

pub use self::shell::Ledger;

/// Who wrote a document last: the index of a route, or one of the causes that are no route. For people: no decision depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cause(pub u16);

impl Cause {
    /// A request that matched no route.
    pub const UNMATCHED: Self = Self(u16::MAX);
    /// The app said so in an answer's head.
    pub const NOTICE: Self = Self(u16::MAX - 1);
    /// An operator said so.
    pub const INVALIDATED: Self = Self(u16::MAX - 2);
    /// The app denied something to the credential.
    pub const DENIED: Self = Self(u16::MAX - 3);
    /// A request that was classified by an older profile.
    pub const RELOADED: Self = Self(u16::MAX - 4);
    /// Nobody since the start.
    pub const STARTED: Self = Self(u16::MAX - 5);
    /// Nobody knows: its entry was dropped, or it never had one and another's was.
    pub const FORGOTTEN: Self = Self(u16::MAX - 6);
    /// Another process, which handed over to this one.
    pub const HANDED_OVER: Self = Self(u16::MAX - 7);
    /// A poll was answered differently without a write.
    pub const MISMATCH: Self = Self(u16::MAX - 8);

    /// The route, if it was one.
    #[must_use]
    pub fn route(self) -> Option<RouteId> {
        (self.0 < Self::MISMATCH.0).then_some(RouteId(self.0))
    }

    /// As it stands in logs and metrics; none for a route, whose name the profile knows.
    #[must_use]
    pub fn label(self) -> Option<&'static str> {
        Some(match self {
            Self::UNMATCHED => "unmatched",
            Self::NOTICE => "notice",
            Self::INVALIDATED => "invalidated",
            Self::DENIED => "denied",
            Self::RELOADED => "reloaded",
            Self::STARTED => "started",
            Self::FORGOTTEN => "forgotten",
            Self::HANDED_OVER => "handed_over",
            Self::MISMATCH => "mismatch",
            _ => return None,
        })
    }
}

impl From<RouteId> for Cause {
    fn from(route: RouteId) -> Self {
        Self(if route == RouteId::UNMATCHED { u16::MAX } else { route.0.min(Self::MISMATCH.0 - 1) })
    }
}

/// Why `quiet_from` lies ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quiet {
    /// A write ended well, and replicas may lag behind it.
    Settle,
    /// The app may still commit a write that was lost.
    Doubt,
}

/// Why the answer to a poll would not last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotSolid {
    /// Replicas may lag behind a write that ended well.
    Settle,
    /// The app may still commit a write that was lost.
    Doubt,
    /// A write runs.
    Writer,
}

/// A poll as it was put to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The sequence when it was asked.
    pub s: u64,
    /// When, for its age.
    pub asked_at: Boot,
    /// Whether its answer lasts: only such an answer is kept, and only such a poll is joined.
    pub solid: Result<(), NotSolid>,
}

/// Why an answer proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stale {
    /// It was not solid when it was asked: it is never an answer to anybody else.
    NotSolid(NotSolid),
    /// It is too old.
    Age,
    /// A write runs whose documents nobody knows yet: it may be good again.
    Suspended,
    /// One of its documents was written since.
    Written(Cause),
}

/// That an answer is still the app's: at the moment of the check each of its documents was at least as new in it as in the app. Only
/// [`Ledger::prove`] makes one, and only with one may an answer be given that this poll did not get itself.
#[derive(Debug)]
#[must_use = "a proof is there to be shown"]
pub struct Proof(());

/// What the ledger knows of a document, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The number of the last write that began, or of the last notice.
    pub last_write: u64,
    /// Writes that run.
    pub writers: u32,
    /// Before this moment, what the app shows need not last.
    pub quiet_from: Moment,
    /// Why, if it lies ahead.
    pub quiet: Quiet,
    /// Who wrote last.
    pub cause: Cause,
    /// Whether it has an entry of its own; else this is the floor of all that have none.
    pub entry: bool,
}

impl Looked {
    fn of(cell: &Cell, entry: bool) -> Self {
        let Cell { last_write, quiet_from, writers, cause, quiet } = *cell;
        Self { last_write, writers, quiet_from, quiet, cause, entry }
    }
}

/// The ledger as a whole, for operators and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Documents with an entry.
    pub entries: usize,
    /// The most documents that have one.
    pub entries_max: usize,
    /// The memory of the entries.
    pub bytes: usize,
    /// The last number given out.
    pub seq: u64,
    /// Writes that run whose documents nobody knows yet.
    pub suspended: u64,
    /// The cell `all`.
    pub all: Looked,
    /// The cell `everything`: all writes that run, and the latest `quiet_from` of any document.
    pub everything: Looked,
    /// Whether `all` is solid now.
    pub all_solid: Result<(), NotSolid>,
    /// Parts of the ledger.
    pub parts: usize,
    /// Of them, those whose floor is not solid yet: documents without an entry there are in doubt.
    pub floors_in_doubt: usize,
}

/// Whether the answers of a poll with these cells last: the gravest reason why not.
fn solid(cells: impl Iterator<Item = Cell>, now: Moment) -> Result<(), NotSolid> {
    cells.filter_map(|cell| cell.solid(now).err()).max().map_or(Ok(()), Err)
}

/// Whether nothing of these cells was written since `s`. `root` was checked before the first cell is looked at.
fn unchanged(s: u64, root: Check, cells: impl Iterator<Item = Cell>) -> Result<(), Stale> {
    match root {
        Check::Suspended => return Err(Stale::Suspended),
        Check::Written(cause) => return Err(Stale::Written(Cause(cause))),
        Check::Unchanged => {}
    }
    // The latest, to be told why.
    let written = cells.filter(|cell| cell.last_write > s).max_by_key(|cell| cell.last_write);
    written.map_or(Ok(()), |cell| Err(Stale::Written(cell.cause)))
}

/// Whether an answer is proven; the only maker of proofs. `boot` is now, and `unchanged` compares its documents.
fn proves(asked: &Asked, boot: Boot, age_max: Duration, unchanged: impl FnOnce() -> Result<(), Stale>) -> Result<Proof, Stale> {
    asked.solid.map_err(Stale::NotSolid)?;
    if boot.since(asked.asked_at) >= age_max {
        return Err(Stale::Age);
    }
    unchanged().map(|()| Proof(()))
}
