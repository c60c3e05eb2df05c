//! Settings and requests for the tests of the gate.

use std::time::Duration;

use crate::{
    clock::Moment,
    config::Settings,
    model::{Class, ClientKey, DocumentKey, Intent},
};

pub const NOOP: Class = Class(0);
pub const SYNC: Class = Class(1);
pub const LARGE: Class = Class(2);
pub const IMPORT: Class = Class(3);
pub const OTHER: Class = Class(4);

pub fn at(seconds: f64) -> Moment {
    Moment::default() + Duration::from_secs_f64(1000.0 + seconds)
}

pub fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// The shipped classes with `seats`.
pub fn settings(seats: u32) -> Settings {
    let mut settings = Settings::defaults();
    settings.app.seats = seats;
    settings
}

/// A read of a known document by a client of that number, one document per client.
pub fn intent(class: Class, client: u64) -> Intent {
    Intent {
        class,
        long: LARGE,
        client: ClientKey(client),
        documents: [DocumentKey(client)].into_iter().collect(),
        writes: false,
        unseen: false,
        stream: false,
    }
}
