//! Answers that are provably unchanged: what the app said is replayed exactly as long as no write to its documents has begun since the app was
//! asked, provided that none was running or in doubt when it was asked.
//!
//! `keys` makes keys of scopes, `question` a hash of everything that an answer depends on. `ledger` knows which documents were written when,
//! and alone makes a `Proof`; `answers` keeps what the app said, `replay` says it again, `judge` compares two answers; `join` knows who
//! asks the same. All of these are pure. `shell` is the stage as requests meet it, and `stake` is what hangs on a call to the app: the write
//! that it makes or the question that it asks, with the rules of its end in its `Drop`. `view` is what operators see of it all.

pub mod answers;
pub mod join;
pub mod judge;
pub mod keys;
pub mod ledger;
pub mod question;
pub mod replay;
pub mod shell;
pub mod stake;
pub mod view;

use std::{sync::Arc, time::Duration};

use self::{judge::Digest, keys::Reads, ledger::Cause, question::Question, replay::Whole};
use crate::{
    config::settings::FreshMode,
    model::{FailureKind, Refusal},
    profile::RouteId,
};

pub use self::{shell::Fresh, stake::Stake};

/// A poll whose answer may be kept.
#[derive(Clone, Debug)]
pub struct Poll {
    /// Everything that its answer depends on.
    pub question: Question,
    /// What it reads, and whose it is.
    pub reads: Reads,
    /// Its route.
    pub route: RouteId,
    /// What may be done with it; never `Off`.
    pub mode: FreshMode,
    /// The longest time for which its answer is replayed, where its route says so.
    pub age_max: Option<Duration>,
}

/// Why an answer is neither kept nor given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoPoll {
    /// It is no poll.
    Effect,
    /// Its mode is `off`.
    Mode,
    /// It shows no credential.
    Credential,
    /// It reads more than `keys_max` keys.
    Scope,
    /// What of its body is part of the question is not certain.
    Body,
    /// It was read by a profile that a reload has replaced.
    Reload,
}

/// What those who share a question are given.
#[derive(Clone, Debug)]
pub enum Delivered {
    /// The app's answer.
    Answer(Arc<Whole>),
    /// What is stored proves by now: each is to ask for it.
    Stored,
    /// The gate refused it.
    Refused(Refusal),
    /// The app failed.
    Failed(FailureKind),
    /// The answer is too long to be shared: each asks for itself.
    Alone,
}

/// Why a question is put to the app although its answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Again {
    /// `verify`: whether the answer would have been right.
    Verify,
    /// The answer is older than `refresh_after` (rule 19).
    Refresh,
    /// Once in `audit` answers (rule 18).
    Audit,
}

impl Again {
    /// As it stands in metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Refresh => "refresh",
            Self::Audit => "audit",
        }
    }
}

/// What came of asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same.
    Same,
    /// Another one, although no write was seen: the answer before, and the one after.
    Mismatch(Digest, Digest),
    /// Another one or the same; it says nothing, because of a write meanwhile, or because of what it is.
    Nothing,
}

/// A question that was asked again, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its route.
    pub route: RouteId,
    /// Why it was asked again.
    pub why: Again,
    /// What came of it.
    pub verdict: Verdict,
    /// How old the answer was that it was compared with.
    pub age: Duration,
}

/// Who is told what happens here.
pub trait Tell: Send + Sync + 'static {
    /// A question was asked again.
    fn judged(&self, judged: Judged);
    /// Documents were invalidated other than by a write that passes through.
    fn invalidated(&self, cause: Cause, everything: bool);
}

/// Why a poll was not answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is no poll that could be.
    NoPoll(NoPoll),
    /// Nothing is stored.
    Miss,
    /// What is stored is not proven.
    Stale(ledger::Stale),
    /// What is stored proves, and is compared with what the app says.
    Verify,
}
