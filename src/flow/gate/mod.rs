//! Admission: token buckets, bounded fair queues, seats. Every refusal is explained and says when to come back.
// CONTRACT STUB: signatures that the rest of the house is written against. The bodies are to be replaced.

pub mod buckets;

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::{
    clock::Moment,
    config::Settings,
    model::{Class, DocumentKey, DocumentKeys, Intent, Refusal, Rule},
};

/// The running gate; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    _shared: Arc<()>,
}

/// Rules that would have refused a request, had their mode been `enforce`, with the class at admission.
pub type Shadows = SmallVec<[Rule; 2]>;

/// A refusal with what would also have refused it.
#[derive(Debug)]
pub struct Refused {
    /// Why, and when to come back.
    pub refusal: Refusal,
    /// Rules in shadow mode that would have refused it before.
    pub shadows: Shadows,
    /// How long it waited.
    pub waited: Duration,
}

/// A seat at the app, returned when it is dropped. Nothing reaches the app without one.
#[derive(Debug)]
pub struct Permit {
    /// The class at admission.
    pub class: Class,
    /// When it got its seat.
    pub started: Moment,
    /// How long it waited.
    pub waited: Duration,
    /// How long it was expected to wait when it arrived; none if it did not wait.
    pub predicted: Option<Duration>,
    /// Rules in shadow mode that would have refused it.
    pub shadows: Shadows,
}

impl Permit {
    /// The class whose account is charged now: another one if the request outlived `long_after`.
    #[must_use]
    pub fn account(&self) -> Class {
        todo!()
    }

    /// A stream that has gone silent gives its seat back and from then on counts only against `[stream]`.
    pub fn keep_stream_only(&mut self) {
        todo!()
    }

    /// An upgrade that was answered 101 becomes a stream: false if `[stream] max` or `per_client` forbids it.
    pub fn become_stream(&mut self) -> bool {
        todo!()
    }
}

/// What a class looks like at a moment, for `/state` and `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct ClassView {
    /// Seats charged to it.
    pub in_flight: usize,
    /// Seats that are its own.
    pub reserve: usize,
    /// The most it may take while others want them.
    pub ceiling: usize,
    /// The most it may take while nobody else does.
    pub idle_ceiling: usize,
    /// Requests that wait.
    pub queued: usize,
    /// The age of the one that waits longest.
    pub oldest_waiting: Duration,
    /// The age of the one that runs longest.
    pub oldest_running: Duration,
    /// The mean time that a seat of it was held of late.
    pub mean_hold: Duration,
    /// What a newcomer would be told now.
    pub predicted_wait: Duration,
    /// In shadow mode: seats of the virtual schedule.
    pub shadow_in_flight: usize,
    /// In shadow mode: waiters of the virtual schedule.
    pub shadow_queued: usize,
}

/// What the gate looks like at a moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Seats in all (L).
    pub seats: usize,
    /// Seats taken.
    pub in_flight: usize,
    /// Open streams.
    pub streams: usize,
    /// Per class, by its index.
    pub classes: Vec<ClassView>,
}

/// A running request that outlived `long_after` and was moved: its documents become dear at once.
#[derive(Debug)]
pub struct Moved {
    /// Its documents.
    pub documents: DocumentKeys,
    /// The class at admission.
    pub class: Class,
}

impl Gate {
    /// A gate by these settings. `moved` is called (outside of all locks) for each request that is moved while it runs.
    #[must_use]
    pub fn new(_settings: &Settings, _moved: Box<dyn Fn(Moved) + Send + Sync>) -> Self {
        todo!()
    }

    /// Waits for a seat. Dropping the future leaves the queue and gives back everything taken on the way.
    ///
    /// # Errors
    /// The refusal of the first rule that refuses.
    #[expect(clippy::unused_async, reason = "a stub")]
    pub async fn enter(&self, _intent: Intent) -> Result<Permit, Box<Refused>> {
        todo!()
    }

    /// New settings take effect whole; nobody who waits or runs is thrown out.
    pub fn reload(&self, _settings: &Settings) {
        todo!()
    }

    /// How many app servers are healthy, at least 1: L = seats x this.
    pub fn servers(&self, _healthy: usize) {
        todo!()
    }

    /// Its state now.
    #[must_use]
    pub fn view(&self) -> View {
        todo!()
    }
}

const _: fn(DocumentKey) = |_| {};
