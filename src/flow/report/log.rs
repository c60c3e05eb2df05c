//! The access log: one line of JSON per request, written off the request path. A line that finds no room is dropped and counted.

use std::{
    cell::RefCell,
    fmt,
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::{
    decision::show_id,
    exchange::{Exchange, PATH_SHOWN_MAX},
    metrics::NO_CLASS,
};
use crate::{
    config::settings::{AccessLog, Log},
    model::{SCOPES_SHOWN_MAX, Scope},
};

/// Where access lines go. Shared by all requests; what waits is written when it is closed or dropped.
#[derive(Debug, Default)]
pub struct LogSink {
    writer: ArcSwapOption<NonBlocking>,
    open: Mutex<Option<Open>>,
    /// Lines dropped by writers that are closed by now.
    dropped_before: AtomicU64,
}

#[derive(Debug)]
struct Open {
    guard: WorkerGuard,
    full: ErrorCounter,
    failed: Arc<AtomicU64>,
}

impl Open {
    fn dropped(&self) -> u64 {
        self.full.dropped_lines() as u64 + self.failed.load(Ordering::Relaxed)
    }
}

impl LogSink {
    /// A sink as the settings want it.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(log: &Log) -> io::Result<Self> {
        let sink = Self::default();
        sink.reopen(log)?;
        Ok(sink)
    }

    /// A sink that drops everything uncounted.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Opens anew, as the settings want it and also when they did not change, so that a rotated file is let go. What waits for the old
    /// writer is written first, for about a second at most: not to be called where blocking does harm.
    ///
    /// # Errors
    /// The file cannot be opened for appending; the old writer stays then.
    pub fn reopen(&self, log: &Log) -> io::Result<()> {
        match &log.access {
            AccessLog::Off => self.replace(None),
            AccessLog::Stdout => self.start(io::stdout(), log.lines_max),
            AccessLog::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                self.start(BufWriter::with_capacity(1 << 16, file), log.lines_max);
            }
        }
        Ok(())
    }

    /// Writes what waits, for about a second at most; lines that come later are dropped.
    pub fn close(&self) {
        self.replace(None);
    }

    /// How many lines were dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let open = self.open.lock().as_ref().map_or(0, Open::dropped);
        self.dropped_before.load(Ordering::Relaxed) + open
    }

    fn start<W: Write + Send + 'static>(&self, sink: W, lines_max: usize) {
        let failed = Arc::new(AtomicU64::new(0));
        let sink = Counted { sink, failed: Arc::clone(&failed) };
        let (writer, guard) =
            NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines_max.max(1)).thread_name("access-log").finish(sink);
        let full = writer.error_counter();
        self.replace(Some((writer, Open { guard, full, failed })));
    }

    fn replace(&self, new: Option<(NonBlocking, Open)>) {
        let (writer, open) = new.unzip();
        self.writer.store(writer.map(Arc::new));
        let old = std::mem::replace(&mut *self.open.lock(), open);
        if let Some(Open { guard, full, failed }) = old {
            // Dropping the guard writes what waits.
            drop(guard);
            self.dropped_before.fetch_add(full.dropped_lines() as u64 + failed.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Writes one line, without waiting.
    pub fn write(&self, exchange: &Exchange, class: Option<&str>, arrived: SystemTime) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let Some(writer) = &*self.writer.load() else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            line_of(exchange, class, arrived, line);
            // It never fails: a line that finds no room is dropped and counted.
            let _ = NonBlocking::clone(writer).write(line);
        });
    }
}

/// A writer that counts what it could not write, because nobody else does.
struct Counted<W> {
    sink: W,
    failed: Arc<AtomicU64>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.sink.write_all(line).inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// The fields in the order of the line; names are fixed, dashboards and tools rest on them.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    id: &'a str,
    method: &'a str,
    path: Option<&'a str>,
    #[serde(serialize_with = "shown")]
    client: &'a dyn fmt::Display,
    route: &'a str,
    class: &'a str,
    #[serde(serialize_with = "scopes")]
    documents: &'a [Scope],
    effect: &'a str,
    outcome: &'a str,
    rule: Option<&'a str>,
    status: Option<u16>,
    wait_ms: Option<f64>,
    app_ms: Option<f64>,
    db_ms: Option<f64>,
    total_ms: f64,
    bytes_in: u64,
    bytes_out: u64,
}

/// The line of one request, with its newline.
fn line_of(exchange: &Exchange, class: Option<&str>, arrived: SystemTime, line: &mut Vec<u8>) {
    let path = exchange.target.as_ref().map(http::Uri::path);
    let fields = Line {
        time: &rfc3339(arrived),
        id: &show_id(exchange.id),
        method: cut(exchange.method.as_str(), 32),
        path: path.map(|path| cut(path, PATH_SHOWN_MAX)),
        client: &exchange.client,
        route: &exchange.route,
        class: class.unwrap_or(NO_CLASS),
        documents: &exchange.documents[..exchange.documents.len().min(SCOPES_SHOWN_MAX)],
        effect: exchange.effect.label(),
        outcome: exchange.outcome.label(),
        rule: exchange.rule.map(crate::model::Rule::label),
        status: (exchange.status > 0).then_some(exchange.status),
        wait_ms: exchange.waited.map(milliseconds),
        app_ms: exchange.app.map(milliseconds),
        db_ms: exchange.database.map(milliseconds),
        total_ms: milliseconds(exchange.ended.since(exchange.arrived)),
        bytes_in: exchange.bytes_in,
        bytes_out: exchange.bytes_out,
    };
    match serde_json::to_writer(&mut *line, &fields) {
        Ok(()) => line.push(b'\n'),
        Err(_) => line.clear(),
    }
}

fn shown<S: Serializer>(value: &&dyn fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn scopes<S: Serializer>(scopes: &&[Scope], serializer: S) -> Result<S::Ok, S::Error> {
    struct Shown<'a>(&'a Scope);
    impl Serialize for Shown<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self.0)
        }
    }
    serializer.collect_seq(scopes.iter().map(Shown))
}

/// At most so many bytes of a text.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Milliseconds with three decimals.
#[expect(clippy::cast_precision_loss, reason = "exact below 285 years")]
fn milliseconds(span: Duration) -> f64 {
    span.as_micros() as f64 / 1000.0
}

/// `2017-08-28T09:30:00.000Z` (RFC 3339, UTC). Times before 1970 are shown as 1970.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z", second % 60, since.subsec_millis())
}

/// Year, month and day of a number of days since 1970-01-01 (Hinnant: "chrono-compatible low-level date algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}
