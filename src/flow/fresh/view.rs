//! What operators see of local answers: plain data that the shell fills and the admin listener shows. No credential is ever part of it.

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
    /// Of them, those with a write of unknown outcome, or that may still lag.
    pub documents_in_doubt: usize,
    /// Writes in flight that name their documents only in their answer: nothing is replayed while there is one.
    pub suspended: usize,
    /// Questions that the app is asked just now and that may be shared.
    pub running: usize,
    /// Questions that wait for the one before them.
    pub waiting: usize,
    /// Polls that share or wait for another's answer.
    pub joiners: usize,
    /// How long everything is still in doubt: after a start.
    #[serde(rename = "doubt_seconds", serialize_with = "seconds")]
    pub doubt: Duration,
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
    /// The number of its last write, of all that were counted since the start.
    pub last_write: u64,
    /// The route of that write, or what else it was; unknown where the entry is shared.
    pub last_write_by: Option<String>,
    /// How long ago that was.
    #[serde(rename = "last_write_seconds", serialize_with = "some_seconds")]
    pub last_write_age: Option<Duration>,
    /// Writes in flight.
    pub writers: u32,
    /// How long it is still in doubt, or may lag.
    #[serde(rename = "doubt_seconds", serialize_with = "seconds")]
    pub doubt: Duration,
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
    /// Whether it would be replayed now.
    pub proven: bool,
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

#[expect(clippy::ref_option, reason = "serde passes the field itself")]
fn some_seconds<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => seconds(span, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_seconds_under_names_that_say_so() {
        let view = DocumentView { doubt: Duration::from_millis(1500), ..DocumentView::default() };
        let shown = serde_json::to_value(&view).expect("plain data");
        assert_eq!((&shown["doubt_seconds"], &shown["last_write_seconds"]), (&1.5.into(), &serde_json::Value::Null));
        let view = DocumentView { last_write_age: Some(Duration::from_millis(250)), ..view };
        assert_eq!(serde_json::to_value(&view).expect("plain data")["last_write_seconds"], 0.25);
        assert_eq!(serde_json::to_value(View::default()).expect("plain data")["doubt_seconds"], 0.0);
    }
}
