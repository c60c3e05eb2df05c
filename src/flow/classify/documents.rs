//! What is known of documents: what each costs, and which are dear.
// CONTRACT STUB: signatures that the rest of the house is written against. The bodies are to be replaced.

use std::time::Duration;

use crate::{
    clock::Moment,
    config::Settings,
    model::{Class, DocumentKey},
    profile::Cost,
};

/// The memory of documents: bounded, sharded, shared by all requests.
#[derive(Debug)]
pub struct Documents {}

/// What is known of a request's documents together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// One of them is dear.
    pub dear: bool,
    /// Of one of them nothing is known.
    pub unseen: bool,
}

/// What one request cost.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The class of its route (not the `long` class it may have been admitted as).
    pub class: Class,
    /// What its route remembers.
    pub cost: Cost,
    /// The time that the app took.
    pub app: Duration,
    /// Of it in the database, where the app told.
    pub database: Option<Duration>,
    /// The reply's size in bytes.
    pub reply: u64,
}

impl Documents {
    /// An empty memory.
    #[must_use]
    pub fn new(_settings: &Settings) -> Self {
        todo!()
    }

    /// The key of a scope; none of `"*"`.
    #[must_use]
    pub fn key_of(&self, _scope: &crate::model::Scope) -> Option<DocumentKey> {
        todo!()
    }

    /// What is known of these documents. `class` is that of the route.
    #[must_use]
    pub fn look(&self, _keys: &[DocumentKey], _class: Class, _now: Moment) -> Known {
        todo!()
    }

    /// Learns from a finished request.
    pub fn learn(&self, _keys: &[DocumentKey], _sample: &Sample, _now: Moment) {
        todo!()
    }

    /// These documents are dear from now on: a request for them outlived `long_after`.
    pub fn moved(&self, _keys: &[DocumentKey], _class: Class, _now: Moment) {
        todo!()
    }

    /// New thresholds; what is known stays.
    pub fn reload(&self, _settings: &Settings) {
        todo!()
    }

    /// How many documents are remembered, and how many of them are dear.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        todo!()
    }

    /// Everything worth keeping over a restart, as JSON text. Document keys are keyed hashes; the key is part of what is kept.
    #[must_use]
    pub fn save(&self) -> serde_json::Value {
        todo!()
    }

    /// Takes back what [`Documents::save`] gave; false if it cannot be understood (nothing is changed then).
    pub fn restore(&self, _saved: &serde_json::Value, _now: Moment) -> bool {
        todo!()
    }
}
