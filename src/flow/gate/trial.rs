//! Settings and requests for the tests of the gate.

use std::time::Duration;

use crate::{
    clock::Moment,
    config::settings::{
        AccessLog, App, ClassSettings, ClientAddress, Expose, Gate, Inspect, Listen, Log, ProfileChoice, Report, Settings, Stream,
    },
    model::{Class, Classes, ClientKey, DocumentKey, Intent, Mode},
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

fn class(slow: bool, reserve: f64, ceiling: f64, weight: u32, wait_max: f64, queue_max: usize, in_flight: u32) -> ClassSettings {
    ClassSettings {
        removed: false,
        slow,
        reserve,
        ceiling,
        idle_ceiling: slow.then_some(0.75),
        weight,
        wait_max: secs(wait_max),
        queue_max,
        head_timeout: secs(30.0),
        long_after: None,
        rate: None,
        client_in_flight: Some(in_flight),
        client_rate: None,
        client_mode: Mode::Enforce,
        mode: Mode::Enforce,
        closed: false,
    }
}

/// The shipped classes with `seats`.
pub fn settings(seats: u32) -> Settings {
    let second = |settings| ClassSettings { long_after: Some(secs(1.0)), ..settings };
    Settings {
        profile: ProfileChoice::Shipped("generic".to_owned()),
        listen: Listen {
            address: ([127, 0, 0, 1], 0).into(),
            trusted_proxies: Vec::new(),
            client_address: ClientAddress::XForwardedFor,
            connections_max: 1000,
            keep_alive: secs(920.0),
            head_timeout: secs(10.0),
            body_timeout: secs(15.0),
            head_bytes_max: 32768,
            body_bytes_max: 1 << 30,
            body_rate_min: 1,
            drain_delay: secs(0.0),
            drain_timeout: secs(30.0),
        },
        admin: None,
        app: App {
            servers: vec!["127.0.0.1:1".to_owned()],
            health: None,
            seats,
            connections_max: seats,
            connect_timeout: secs(1.0),
            head_timeout: secs(30.0),
            body_timeout: secs(15.0),
            total_timeout: secs(600.0),
            zombie_ttl: None,
            upstream_cancels: false,
            idle_timeout: secs(4.0),
            age_max: secs(600.0),
            resolve_interval: secs(5.0),
            buffer: 1 << 20,
            buffer_memory_max: 1 << 28,
        },
        inspect: Inspect { bytes_max: 65536, memory_max: 1 << 26 },
        gate: Gate {
            mode: Mode::Enforce,
            linger: secs(5.0),
            linger_bytes: 1 << 26,
            lingering_max: 100,
            long_cost: secs(0.025),
            long_reply: 1 << 20,
            documents_max: 1 << 16,
            clients_max: 1 << 16,
        },
        stream: Stream { max: 10_000, per_client: 8 },
        classes: Classes::shipped(),
        class: vec![
            second(class(false, 0.0, 1.0, 4, 20.0, 4000, 4)),
            second(class(false, 0.25, 1.0, 8, 20.0, 4000, 4)),
            class(true, 0.25, 0.625, 2, 25.0, 400, 1),
            class(true, 0.06, 0.125, 1, 20.0, 200, 1),
            class(false, 0.0, 1.0, 4, 20.0, 1000, 8),
        ],
        log: Log { access: AccessLog::Off, clients_plain: false, lines_max: 1000 },
        state_file: None,
        report: Report { expose: Expose::None },
    }
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
