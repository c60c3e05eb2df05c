//! Admission: token buckets, bounded fair queues, seats. Every refusal is explained and says when to come back.
//!
//! The first refusal wins: closed class (503), client rate (429), class rate (503), streams (429 or 503), queue (503; 429 where the
//! client's own cap was why), seat. `core` holds that order, `schedule` shares the seats among the classes, `queue` orders the waiters of
//! a class; none of them knows a clock. `shell` puts them behind a lock and lets requests wait.

pub mod buckets;
pub mod core;
mod queue;
mod schedule;
mod shell;
mod slab;
#[cfg(test)]
mod trial;

use std::time::Duration;

pub use shell::{Gate, Permit};
use smallvec::SmallVec;

use crate::model::{Class, DocumentKeys, Refusal, Rule};

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
    /// Seats taken; more than there are while requests run that an earlier limit admitted, or while `[gate] mode` is not `enforce`.
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
