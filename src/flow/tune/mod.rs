//! What requests took -> what is known of documents.

use std::time::Duration;

use super::{classify::documents::Sample, origin::Close};
use crate::{model::Class, profile::Cost};

/// A request that the app is done with.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// The class of its route.
    pub class: Class,
    /// What its route remembers.
    pub cost: Cost,
    /// How the app ended it.
    pub close: Close,
    /// The status that the app answered with.
    pub status: Option<u16>,
    /// How long the app had it.
    pub app: Duration,
    /// Of that, how long the database had it, where the app told.
    pub database: Option<Duration>,
    /// The bytes of the reply.
    pub reply: u64,
}

/// What is learned from it, if anything. A refusal of the app's (4xx), an error that came fast and a connection that broke say nothing of
/// what the document costs; a time-out does: at least as much as it took.
#[must_use]
pub fn sample(finished: &Finished) -> Option<Sample> {
    let success = finished.status.is_some_and(|status| (200..400).contains(&status) || status == 404);
    let teaches = match finished.close {
        Close::Whole | Close::Late => success,
        Close::GivenUp => true,
        Close::Cut | Close::Unsent => false,
    };
    teaches.then_some(Sample {
        class: finished.class,
        cost: finished.cost,
        app: finished.app,
        database: finished.database,
        reply: finished.reply,
    })
}
