//! What the clients saw, and what was true: plain values, with times in microseconds since the run began.

use std::collections::{BTreeSet, HashMap};

/// Microseconds since the run began.
pub type At = u64;

/// A document, by its number.
pub type Document = usize;

/// The version of every document at the beginning.
pub const FIRST: u32 = 1;

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The service, as far as anybody knows.
    Service,
    /// The cache, from its store.
    Replay,
    /// The cache, with the answer to another's question.
    Join,
}

/// What a client was told about one document, by a poll or in the answer to a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub client: usize,
    pub document: Document,
    /// Before the first byte of the question.
    pub begun: At,
    /// After the last byte of the answer.
    pub ended: At,
    /// "What is newer than this?"
    pub asked: u32,
    pub version: u32,
    /// The changes newer than `asked`, by their ids; none in an answer that tells versions only.
    pub changes: Option<Vec<String>>,
    pub by: By,
}

/// One request that brings one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    pub document: Document,
    pub change: String,
    /// Every request has its own id, also the second that brings the same change.
    pub request: String,
    pub outcome: Outcome,
}

/// What the client knows of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Told at this time that it was done.
    Acknowledged(At),
    /// Told that it was certainly not done.
    Refused,
    /// An error, no answer or half of one: it may have been done, or may yet be.
    Unknown,
}

/// What a client holds of a document at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub client: usize,
    pub document: Document,
    pub version: u32,
    pub changes: BTreeSet<String>,
}

/// All that the clients saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub seen: Vec<Seen>,
    pub pushes: Vec<Push>,
    pub replicas: Vec<Replica>,
    /// Answers that a stranger must not have got.
    pub leaks: Vec<String>,
    /// Answers that came whole, say that all is well, and make no sense.
    pub mangled: Vec<String>,
    pub polls: Polls,
}

/// How the polls went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polls {
    pub sent: u64,
    pub answered: u64,
    pub replayed: u64,
    pub joined: u64,
    /// Those whose client did not wait for the answer.
    pub left: u64,
}

impl Polls {
    /// Those that the cache answered itself, of all that were sent, in percent.
    pub fn percent_local(self) -> u64 {
        100 * (self.replayed + self.joined) / self.sent.max(1)
    }
}

/// What happened at the service.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// Of each document, by version, ascending.
    pub versions: Vec<Vec<Version>>,
    /// How often each change stands in the database at the end.
    pub applied: HashMap<String, u32>,
    /// How often each request that writes came.
    pub arrivals: HashMap<String, u32>,
}

/// A version that a push made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub number: u32,
    pub change: String,
    /// When the service had said so: the commit lies before.
    pub shown: At,
}

impl Truth {
    /// The document's version at the end.
    pub fn last(&self, document: Document) -> u32 {
        self.versions[document].last().map_or(FIRST, |version| version.number)
    }

    /// The changes after `from` up to `to`, in no order.
    pub fn changes(&self, document: Document, from: u32, to: u32) -> BTreeSet<&str> {
        self.versions[document]
            .iter()
            .filter(|known| known.number > from && known.number <= to)
            .map(|known| known.change.as_str())
            .collect()
    }
}
