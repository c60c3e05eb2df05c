//! `[class.NAME]`: the shipped classes with their defaults, and what the operator says of them and of classes of their own.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    settings::{ClassSettings, Rate},
    typed::{self, MODES},
};
use crate::{
    clock,
    model::{CLASSES_MAX, Class, Classes, Mode, SHIPPED_CLASSES},
    units,
    written::{At, Table},
};

/// The most characters of a class's name.
const NAME_MAX: usize = 32;

/// Tokens per second of a bucket.
const PER_SECOND: RangeInclusive<f64> = 1e-9..=1e9;

/// The longest time in which an empty bucket fills: arrival times stay far from the end of `u64` nanoseconds.
const FILL_MAX: u128 = 1 << 62;

/// The defaults of a class; those of a name that is not shipped are those of `other`.
fn defaults(name: &str, head_timeout: Duration, mode: Mode) -> ClassSettings {
    let other = ClassSettings {
        removed: false,
        slow: false,
        reserve: 0.0,
        ceiling: 1.0,
        idle_ceiling: None,
        weight: 4,
        wait_max: Duration::from_secs(20),
        queue_max: 1000,
        head_timeout,
        long_after: None,
        rate: None,
        client_in_flight: Some(8),
        client_rate: None,
        client_mode: mode,
        mode,
        closed: false,
    };
    let quick = ClassSettings { queue_max: 4000, client_in_flight: Some(4), long_after: Some(Duration::from_secs(1)), ..other.clone() };
    let slow = ClassSettings { slow: true, idle_ceiling: Some(0.75), client_in_flight: Some(1), ..other.clone() };
    match name {
        "noop" => quick,
        "sync" => ClassSettings { reserve: 0.25, weight: 8, ..quick },
        "large" => ClassSettings { reserve: 0.25, ceiling: 0.625, weight: 2, wait_max: Duration::from_secs(25), queue_max: 400, ..slow },
        "import" => {
            ClassSettings { reserve: 0.06, ceiling: 0.125, weight: 1, queue_max: 200, head_timeout: Duration::from_mins(1), ..slow }
        }
        _ => other,
    }
}

/// What a class inherits from the rest of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inherited {
    /// `app.head_timeout`.
    pub head_timeout: Duration,
    /// `gate.mode`.
    pub mode: Mode,
}

/// Every class with its settings, and the places of those that are not shipped.
#[derive(Debug)]
pub(super) struct Read {
    pub classes: Classes,
    pub settings: Vec<ClassSettings>,
    pub places: Vec<(Class, At)>,
}

/// Reads `[class]`. An index of `previous` keeps its name; a class of it that is no longer written is there, but removed.
pub(super) fn read(table: &Table<'_>, previous: Option<&Classes>, inherited: Inherited) -> Read {
    let mut classes = previous.cloned().unwrap_or_default();
    let mut places = Vec::new();
    for (key, _) in table.entries() {
        if let Some(complaint) = unfit(&key.name) {
            table.mistakes.error(&key.at, format!("a class cannot be called `{}`", key.name), complaint);
            continue;
        }
        let known = SHIPPED_CLASSES.contains(&key.name.as_str());
        match classes.intern(&key.name) {
            Some(class) if !known => places.push((class, key.at.clone())),
            Some(_) => {}
            None => {
                let names: Vec<&str> = classes.iter().map(|(_, name)| name).collect();
                table.mistakes.error(
                    &key.at,
                    format!("`class.{}` is one class too many: at most {CLASSES_MAX}", key.name),
                    format!("use one of {}; one that a reload removed keeps its place until a restart", names.join(", ")),
                );
            }
        }
    }
    let settings = classes
        .iter()
        .map(|(class, name)| {
            let fallback = defaults(name, inherited.head_timeout, inherited.mode);
            let written = table.entries().iter().any(|(key, _)| key.name == name);
            if written {
                return table.table(name).map_or(fallback.clone(), |table| one(&table, &fallback));
            }
            let removed = !SHIPPED_CLASSES.contains(&name) && !places.iter().any(|(place, _)| *place == class);
            ClassSettings { removed, ..fallback }
        })
        .collect();
    Read { classes, settings, places }
}

/// What is wrong with a name, as what to write instead.
fn unfit(name: &str) -> Option<String> {
    let first = name.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    if name == "none" {
        return Some("use another name: `none` is the class of what could not be read".to_owned());
    }
    (!first || !rest || name.len() > NAME_MAX)
        .then(|| format!("write a small letter, then small letters, digits, `_` and `-`, at most {NAME_MAX} in all"))
}

fn one(table: &Table<'_>, base: &ClassSettings) -> ClassSettings {
    let mode = table.choice("mode", &MODES).unwrap_or(base.mode);
    let client = Client::read(table, mode);
    let settings = ClassSettings {
        removed: false,
        slow: table.flag("slow").unwrap_or(base.slow),
        reserve: table.number("reserve", 0.0..=0.9).unwrap_or(base.reserve),
        ceiling: table.number("ceiling", 0.0..=1.0).unwrap_or(base.ceiling),
        idle_ceiling: table.number("idle_ceiling", 0.0..=1.0).or(base.idle_ceiling),
        weight: typed::count(table, "weight", 1..=1000, base.weight),
        wait_max: typed::span(table, "wait_max", "0s", "1h", base.wait_max),
        queue_max: typed::count(table, "queue_max", 0..=1_000_000, base.queue_max),
        head_timeout: typed::span(table, "head_timeout", "1ms", "1d", base.head_timeout),
        long_after: long_after(table, base.long_after),
        rate: rate(table, mode),
        client_in_flight: client.in_flight.or(base.client_in_flight),
        client_rate: client.rate,
        client_mode: client.mode,
        mode,
        closed: table.flag("closed").unwrap_or(base.closed),
    };
    typed::later(table, "slow_age", "the circuit breaker");
    table.finish();
    settings
}

/// A duration, or `"never"`.
fn long_after(table: &Table<'_>, base: Option<Duration>) -> Option<Duration> {
    let written = table.parsed("long_after", |text| {
        if text == "never" {
            return Ok(None);
        }
        let span = typed::within("1ms", "1d", units::duration)(text);
        span.map(Some).map_err(|instead| format!("{instead}, or \"never\""))
    });
    written.unwrap_or(base)
}

/// `client = { in_flight, rate, mode }`
struct Client {
    in_flight: Option<u32>,
    rate: Option<Rate>,
    mode: Mode,
}

impl Client {
    fn read(class: &Table<'_>, inherited: Mode) -> Self {
        let Some(table) = class.table("client") else {
            return Self { in_flight: None, rate: None, mode: inherited };
        };
        let mode = table.choice("mode", &MODES).unwrap_or(inherited);
        let in_flight = table.integer("in_flight", 1..=100_000).and_then(|number| u32::try_from(number).ok());
        let rate = rate(&table, mode);
        table.finish();
        Self { in_flight, rate, mode }
    }
}

/// `rate = { per_second, burst, mode }`: a token bucket must say how fast it fills and how much it holds.
fn rate(around: &Table<'_>, inherited: Mode) -> Option<Rate> {
    let table = around.table("rate")?;
    let per_second = table.number("per_second", PER_SECOND);
    let burst = table.integer("burst", 1..=u64::from(u32::MAX)).and_then(|number| u32::try_from(number).ok());
    let mode = table.choice("mode", &MODES).unwrap_or(inherited);
    table.finish();
    for (key, example) in [("per_second", "per_second = 2"), ("burst", "burst = 10")] {
        if table.node(key).is_none() {
            let what = format!("`{}` is missing", table.name_of(key));
            table.mistakes.error(around.key_at("rate"), what, format!("write a whole rate, such as {{ {example}, ... }}"));
        }
    }
    let rate = Rate { per_second: per_second?, burst: burst?, mode };
    let period = Duration::try_from_secs_f64(1.0 / rate.per_second).map_or(u64::MAX, clock::nanoseconds);
    if u128::from(period) * u128::from(rate.burst) >= FILL_MAX {
        table.mistakes.error(
            &table.node("burst").map_or(table.at, |node| &node.at).clone(),
            format!("`{}` would take longer than 146 years to fill", table.path),
            "lower burst or raise per_second",
        );
        return None;
    }
    Some(rate)
}
