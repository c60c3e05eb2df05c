//! A scenario: the service, its crowd and the phases of an incident, as data. All times in it are of the incident.

use std::{path::Path, sync::Arc, time::Duration};

use super::pace::Pace;
use crate::written::{self, Mistake, Mistakes, Source, Table};

/// The one that is played when no other is named.
const SHIPPED: &str = include_str!("../../config/scenarios/outage-2017.toml");

/// What is played.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What the screen calls it.
    pub name: String,
    /// The crowd's plan is drawn from it: the same for both sides, and for every run.
    pub seed: u64,
    /// How much faster than life it is played.
    pub pace: Pace,
    /// Whether tidegate answers unchanged syncs itself, or forwards them all.
    pub answers_unchanged: bool,
    /// The service.
    pub service: ServicePlan,
    /// Its clients.
    pub crowd: CrowdPlan,
    /// What happens, in order.
    pub phases: Vec<Phase>,
}

/// `[service]`: what its database does, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePlan {
    /// Database connections, and so the most requests that it can work on at once.
    pub connections: u32,
    /// Change rows of a document that is not large.
    pub rows: u32,
    /// Change rows of a large document. A document with at least half as many counts as large.
    pub rows_large: u32,
    /// What any query takes.
    pub query_time: Duration,
    /// What a row takes in a healthy table.
    pub row_time: Duration,
    /// What a row of a large document takes while the table is de-optimised: the least and the most.
    pub row_time_deoptimised: (Duration, Duration),
    /// What a row takes once the table was optimised.
    pub row_time_repaired: Duration,
    /// How long the other service takes to hand over what is imported: the least and the most.
    pub import_time: (Duration, Duration),
    /// After what time an import gives up when the other service does not answer.
    pub import_hang: Duration,
}

impl ServicePlan {
    /// Whether a document with so many rows is large.
    #[must_use]
    pub fn is_large(&self, rows: u32) -> bool {
        rows >= self.rows_large / 2
    }
}

/// `[crowd]`: who they are and how they behave.
#[derive(Clone, Debug, PartialEq)]
pub struct CrowdPlan {
    /// Devices with a document of usual size open.
    pub clients: u32,
    /// Clients of the public API.
    pub api_clients: u32,
    /// Devices with a large document open.
    pub large_clients: u32,
    /// The share of the documents that are open on two devices of their owner; the others are on one.
    pub two_devices: f64,
    /// How often a client syncs.
    pub poll_interval: Duration,
    /// How often a client with a large document syncs.
    pub large_poll_interval: Duration,
    /// The share of syncs that bring a change.
    pub writes: f64,
    /// When a client gives up waiting.
    pub timeout: Duration,
    /// How often it tries again before it gives up; changes are kept and sent with the next sync.
    pub retries: u32,
    /// The share of the clients that wait for as long as `Retry-After` says.
    pub honour_retry_after: f64,
    /// What the others, and all after a time-out, wait before they try again: at first, and at most; it doubles.
    pub back_off: (Duration, Duration),
    /// Within what time those who come with a new phase arrive.
    pub arrival: Duration,
}

/// `[[phase]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// What the screen calls it.
    pub name: String,
    /// How long it lasts.
    pub lasts: Duration,
    /// The share of the clients that are there.
    pub present: f64,
    /// How much oftener than usual they sync.
    pub rate: f64,
    /// Imports begun per second.
    pub imports_per_second: f64,
    /// What is wrong.
    pub faults: Faults,
}

/// What is wrong with the service; the default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The state of the table behind sync.
    pub table: TableState,
    /// Whether imports hang because the other service does not answer.
    pub imports_hang: bool,
    /// Whether the service is stopped for maintenance: it takes no connections, and closes those that it has once they are idle.
    pub stopped: bool,
}

impl Faults {
    /// Whether anything is wrong.
    #[must_use]
    pub fn any(&self) -> bool {
        self.is_sick() || self.stopped
    }

    /// Whether it runs, with something wrong.
    #[must_use]
    pub fn is_sick(&self) -> bool {
        !self.stopped && (self.table == TableState::Deoptimised || self.imports_hang)
    }
}

/// The state of the table behind sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableState {
    /// As it had always been.
    #[default]
    Healthy,
    /// The rows of large documents lie scattered: each costs a read of its own.
    Deoptimised,
    /// Optimised: faster than before.
    Repaired,
}

impl Scenario {
    /// The outage of 2017.
    ///
    /// # Errors
    /// Every mistake in it, which a test excludes.
    pub fn shipped() -> Result<Self, Vec<Mistake>> {
        Self::parse("outage-2017.toml", SHIPPED)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Every mistake in it, with its place.
    pub fn load(path: &Path) -> Result<Self, Vec<Mistake>> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&name, &text),
            Err(error) => {
                let mistakes = Mistakes::default();
                mistakes.elsewhere(format!("{name} cannot be read: {error}"), "name a file such as config/scenarios/outage-2017.toml");
                Err(mistakes.into_list())
            }
        }
    }

    /// Reads a text; `name` stands in its mistakes.
    ///
    /// # Errors
    /// Every mistake in it, with its place.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Mistake>> {
        let mistakes = Mistakes::default();
        let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
        let node = written::parse(&source, &mistakes);
        let read = Table::of(&node, "", &mistakes).and_then(|table| scenario(&table));
        match read {
            Some(scenario) if !mistakes.any_error() => Ok(scenario),
            _ => Err(mistakes.into_list()),
        }
    }

    /// How long all phases last together.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.phases.iter().map(|phase| phase.lasts).sum()
    }

    /// The phase at `offset` from the start, with its index and the offset at which it ends; `None` after the last.
    #[must_use]
    pub fn phase_at(&self, offset: Duration) -> Option<(usize, &Phase, Duration)> {
        let mut end = Duration::ZERO;
        self.phases.iter().enumerate().find_map(|(index, phase)| {
            end += phase.lasts;
            (offset < end).then_some((index, phase, end))
        })
    }
}

fn scenario(table: &Table<'_>) -> Option<Scenario> {
    let name = required(table, "name", Table::text).map(str::to_owned);
    let seed = required(table, "seed", |table, key| table.integer(key, 0..=u64::from(u32::MAX)));
    let pace = required(table, "pace", |table, key| table.number(key, 1.0..=100.0));
    let answers_unchanged = if table.node("answers_unchanged").is_some() { table.flag("answers_unchanged") } else { Some(true) };
    let service = required(table, "service", Table::table).as_ref().and_then(service);
    let crowd = required(table, "crowd", Table::table).as_ref().and_then(crowd);
    let phases: Option<Vec<Phase>> = table.tables("phase").iter().map(phase).collect();
    table.finish();
    let phases = phases?;
    if phases.is_empty() {
        table.mistakes.error(table.at, "nothing happens in it", "write at least one [[phase]]");
    }
    Some(Scenario {
        name: name?,
        seed: seed?,
        pace: Pace(pace?),
        answers_unchanged: answers_unchanged?,
        service: service?,
        crowd: crowd?,
        phases,
    })
}

fn service(table: &Table<'_>) -> Option<ServicePlan> {
    let connections = count(table, "connections", 1..=256);
    let rows = count(table, "rows", 1..=10_000);
    let rows_large = count(table, "rows_large", 2..=100_000);
    let query_time = required(table, "query_time", Table::duration);
    let row_time = required(table, "row_time", Table::duration);
    let row_time_deoptimised = range(table, "row_time_deoptimised");
    let row_time_repaired = required(table, "row_time_repaired", Table::duration);
    let import_time = range(table, "import_time");
    let import_hang = required(table, "import_hang", Table::duration);
    table.finish();
    if let (Some(rows), Some(large)) = (rows, rows_large)
        && rows >= large / 2
    {
        table.mistakes.error(table.key_at("rows_large"), "`service.rows_large` must be more than twice `service.rows`", "raise it");
    }
    Some(ServicePlan {
        connections: connections?,
        rows: rows?,
        rows_large: rows_large?,
        query_time: query_time?,
        row_time: row_time?,
        row_time_deoptimised: row_time_deoptimised?,
        row_time_repaired: row_time_repaired?,
        import_time: import_time?,
        import_hang: import_hang?,
    })
}

fn crowd(table: &Table<'_>) -> Option<CrowdPlan> {
    let clients = count(table, "clients", 1..=5000);
    let api_clients = count(table, "api_clients", 0..=5000);
    let large_clients = count(table, "large_clients", 0..=5000);
    let two_devices = share(table, "two_devices");
    let poll_interval = required(table, "poll_interval", positive);
    let large_poll_interval = required(table, "large_poll_interval", positive);
    let writes = share(table, "writes");
    let timeout = required(table, "timeout", positive);
    let retries = count(table, "retries", 0..=100);
    let honour_retry_after = share(table, "honour_retry_after");
    let back_off = range(table, "back_off");
    let arrival = required(table, "arrival", Table::duration);
    table.finish();
    Some(CrowdPlan {
        clients: clients?,
        api_clients: api_clients?,
        large_clients: large_clients?,
        two_devices: two_devices?,
        poll_interval: poll_interval?,
        large_poll_interval: large_poll_interval?,
        writes: writes?,
        timeout: timeout?,
        retries: retries?,
        honour_retry_after: honour_retry_after?,
        back_off: back_off?,
        arrival: arrival?,
    })
}

fn phase(table: &Table<'_>) -> Option<Phase> {
    let name = required(table, "name", Table::text).map(str::to_owned);
    let lasts = required(table, "lasts", positive);
    let present = share(table, "present");
    let rate = if table.node("rate").is_some() { table.number("rate", 0.01..=100.0) } else { Some(1.0) };
    let imports_per_second =
        if table.node("imports_per_second").is_some() { table.number("imports_per_second", 0.0..=100.0) } else { Some(0.0) };
    let states = [("healthy", TableState::Healthy), ("de-optimised", TableState::Deoptimised), ("repaired", TableState::Repaired)];
    let table_state = if table.node("table").is_some() { table.choice("table", &states) } else { Some(TableState::Healthy) };
    let imports_hang = if table.node("imports_hang").is_some() { table.flag("imports_hang") } else { Some(false) };
    let stopped = if table.node("stopped").is_some() { table.flag("stopped") } else { Some(false) };
    table.finish();
    Some(Phase {
        name: name?,
        lasts: lasts?,
        present: present?,
        rate: rate?,
        imports_per_second: imports_per_second?,
        faults: Faults { table: table_state?, imports_hang: imports_hang?, stopped: stopped? },
    })
}

/// Reads a key that must be there; its absence is a mistake.
fn required<'a, T>(table: &Table<'a>, key: &str, read: impl FnOnce(&Table<'a>, &str) -> Option<T>) -> Option<T> {
    if table.node(key).is_none() {
        table.mistakes.error(table.at, format!("`{}` is missing", table.name_of(key)), "see config/scenarios/outage-2017.toml");
        return None;
    }
    read(table, key)
}

fn positive(table: &Table<'_>, key: &str) -> Option<Duration> {
    let span = table.duration(key)?;
    if span.is_zero() {
        table.mistakes.error(table.key_at(key), format!("`{}` cannot be 0", table.name_of(key)), "write a longer time");
        return None;
    }
    Some(span)
}

fn count(table: &Table<'_>, key: &str, bounds: std::ops::RangeInclusive<u64>) -> Option<u32> {
    required(table, key, |table, key| table.integer(key, bounds)).and_then(|number| u32::try_from(number).ok())
}

fn share(table: &Table<'_>, key: &str) -> Option<f64> {
    required(table, key, |table, key| table.number(key, 0.0..=1.0))
}

/// Two times, the least and the most.
fn range(table: &Table<'_>, key: &str) -> Option<(Duration, Duration)> {
    let texts = required(table, key, Table::texts)?;
    let spans: Result<Vec<Duration>, ()> = texts
        .iter()
        .map(|(text, at)| {
            crate::units::duration(text).map_err(|instead| {
                table.mistakes.error(at, format!("`{}` cannot be \"{text}\"", table.name_of(key)), instead);
            })
        })
        .collect();
    match spans.ok()?.as_slice() {
        [least, most] if least <= most => Some((*least, *most)),
        _ => {
            table.mistakes.error(
                table.key_at(key),
                format!("`{}` must be the least and the most", table.name_of(key)),
                format!("write {key} = [\"1s\", \"2s\"]"),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_scenario_has_no_mistake_and_lasts_about_75_seconds_by_the_clock() {
        let scenario = Scenario::shipped().unwrap_or_else(|mistakes| panic!("{}", written::render(&mistakes)));
        let clock = scenario.pace.clock(scenario.length()).as_secs_f64();
        assert!((60.0..=78.0).contains(&clock), "{clock}");
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let text = SHIPPED.replace("seed = ", "sead = ").replace("connections = 16", "connections = 0").replace("\"30s\"", "\"soon\"");
        let mistakes = Scenario::parse("s.toml", &text).expect_err("three mistakes");
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|line| line.contains("`seed` is missing")), "{told:?}");
        assert!(told.iter().any(|line| line.contains("did you mean `seed`?")), "{told:?}");
        assert!(told.iter().any(|line| line.contains("`service.connections` cannot be 0")), "{told:?}");
        assert!(told.iter().any(|line| line.contains("`crowd.timeout` cannot be \"soon\"")), "{told:?}");
        assert!(told.iter().all(|line| line.starts_with("s.toml:")), "{told:?}");
    }

    #[test]
    fn a_phase_begins_when_the_one_before_has_ended() {
        let scenario = Scenario::shipped().expect("shipped");
        let first = scenario.phases[0].lasts;
        assert_eq!(scenario.phase_at(first.mul_f64(0.999)).map(|(index, ..)| index), Some(0));
        assert_eq!(scenario.phase_at(first).map(|(index, ..)| index), Some(1));
        assert_eq!(scenario.phase_at(scenario.length()), None);
    }
}
