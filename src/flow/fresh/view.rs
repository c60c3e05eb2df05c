//! What operators see of local answers, as plain data: the shell below fills it, the admin listener shows it. No credential is ever part of it.

mod shell;

use std::time::Duration;

use serde::{Serialize, Serializer};

/// The most stored answers that a document names.
pub const DEPENDENTS_SHOWN_MAX: usize = 20;

/// Local answers at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// Stored answers.
    pub answers: usize,
    /// Their bytes, with all that is kept of them.
    pub answers_bytes: u64,
    /// Answers that were dropped for want of room, since the start.
    pub evicted: u64,
    /// Entries of the ledger.
    pub documents: usize,
    /// Their bytes.
    pub documents_bytes: usize,
    /// Writes in flight.
    pub writers: usize,
    /// Writes in flight that name their documents only in their answer: nothing is replayed while there is one.
    pub suspended: usize,
    /// Questions that the app is asked just now and that may be shared.
    pub running: usize,
    /// Questions that wait for the one before them.
    pub waiting: usize,
    /// Polls that share or wait for another's answer.
    pub joiners: usize,
    /// How long it takes until no document is in doubt or may lag any more, if nothing else is lost.
    #[serde(rename = "doubt_seconds", serialize_with = "seconds")]
    pub doubt: Duration,
    /// The share of the documents without an entry that are in doubt, 0 to 1: all of them after a start.
    pub in_doubt: f64,
    /// The routes that a mismatch put back to `verify`.
    pub distrusted: Vec<String>,
}

/// What the ledger knows of a document, and what depends on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DocumentView {
    /// Its scope.
    pub document: String,
    /// Whether it has an entry of its own; else it shares one with all that were not written of late.
    pub entry: bool,
    /// The number of its last write; 0: none since the start.
    pub last_write: u64,
    /// The number of the newest write of all, to hold it against.
    pub newest_write: u64,
    /// The route of its last write, or what else it was, in brackets.
    pub last_write_by: String,
    /// Writes in flight.
    pub writers: u32,
    /// How long it is still in doubt, or may lag.
    #[serde(rename = "doubt_seconds", serialize_with = "seconds")]
    pub doubt: Duration,
    /// Which of the two: `doubt` or `settle`; none if neither.
    pub doubt_by: Option<&'static str>,
    /// How many stored answers depend on it.
    pub answers: usize,
    /// The newest of them, at most [`DEPENDENTS_SHOWN_MAX`].
    pub dependents: Vec<Dependent>,
}

/// A stored answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dependent {
    /// The route of its question.
    pub route: String,
    /// Since the app was asked.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// Its status.
    pub status: u16,
    /// All that is kept of it.
    pub bytes: usize,
    /// Whether no write to any of its documents has begun since the app was asked.
    pub unchanged: bool,
}

/// What an invalidation did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Invalidated {
    /// The scopes, as they were understood.
    pub scopes: Vec<String>,
    /// How many keys of the ledger they touch.
    pub keys: usize,
    /// Whether everything was invalidated.
    pub everything: bool,
    /// How many stored answers depended on them, and are not replayed any more.
    pub answers: usize,
}

fn seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((span.as_secs_f64() * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_seconds_under_names_that_say_so() {
        let view = DocumentView { doubt: Duration::from_millis(1500), ..DocumentView::default() };
        assert_eq!(serde_json::to_value(&view).expect("plain data")["doubt_seconds"], 1.5);
        let view = View { doubt: Duration::from_micros(1), ..View::default() };
        assert_eq!(serde_json::to_value(&view).expect("plain data")["doubt_seconds"], 0.0);
    }
}
