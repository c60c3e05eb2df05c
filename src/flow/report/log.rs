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
    exchange::{ClientShown, Exchange, PATH_SHOWN_MAX},
    metrics::NO_CLASS,
};
use crate::config::settings::{AccessLog, Log};

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
    client: Shown<'a, ClientShown>,
    route: Option<&'a str>,
    class: &'a str,
    documents: Scopes<'a>,
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
        client: Shown(&exchange.client),
        route: Some(&*exchange.route).filter(|route| !route.is_empty()),
        class: class.unwrap_or(NO_CLASS),
        documents: Scopes(exchange),
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

/// Something that stands in the line as its text.
struct Shown<'a, T: ?Sized>(&'a T);

impl<T: fmt::Display + ?Sized> Serialize for Shown<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

/// A request's documents as an array.
struct Scopes<'a>(&'a Exchange);

impl Serialize for Scopes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.scopes().map(Shown))
    }
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        clock::Moment,
        flow::report::exchange::tests::exchange,
        model::{Class, ClientKey, Effect, Outcome, Rule, SCOPES_SHOWN_MAX, Scope},
    };

    fn line(exchange: &Exchange) -> Value {
        let mut bytes = Vec::new();
        line_of(exchange, Some("sync"), UNIX_EPOCH + Duration::from_millis(1_503_912_600_123), &mut bytes);
        assert_eq!(bytes.iter().position(|byte| *byte == b'\n'), Some(bytes.len() - 1), "one line");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    fn log(path: PathBuf, lines_max: usize) -> Log {
        Log { access: AccessLog::File(path), clients_plain: false, lines_max }
    }

    #[test]
    fn a_line_has_every_field_in_its_order() {
        let mut exchange = exchange();
        exchange.documents = vec![Scope::Plain("doc:a\"b\n".into()), Scope::Tree("/x".into()), Scope::All];
        exchange.effect = Effect::Write;
        exchange.database = Some(Duration::from_micros(1234));
        let mut bytes = Vec::new();
        line_of(&exchange, Some("sync"), UNIX_EPOCH, &mut bytes);
        assert_eq!(
            String::from_utf8(bytes).expect("text"),
            concat!(
                r#"{"time":"1970-01-01T00:00:00.000Z","id":"000000000000002a","method":"POST","path":"/sync","client":"0000000000000007","#,
                r#""route":"sync","class":"sync","documents":["doc:a\"b\n","tree:/x","*"],"effect":"write","outcome":"forwarded","#,
                r#""rule":null,"status":200,"wait_ms":2.0,"app_ms":20.0,"db_ms":1.234,"total_ms":25.0,"bytes_in":10,"bytes_out":20}"#,
                "\n"
            )
        );
    }

    #[test]
    fn what_is_absent_is_null_and_a_query_is_never_shown() {
        let mut exchange = exchange();
        exchange.outcome = Outcome::Refused;
        exchange.rule = Some(Rule::Closed);
        exchange.target = Some("/sync?token=secret".parse().expect("a target"));
        (exchange.waited, exchange.app, exchange.status) = (None, None, 0);
        let shown = line(&exchange);
        for field in ["wait_ms", "app_ms", "db_ms", "status"] {
            assert_eq!(shown[field], Value::Null, "{field}");
        }
        assert_eq!(
            (&shown["time"], &shown["path"], &shown["rule"]),
            (&json!("2017-08-28T09:30:00.123Z"), &json!("/sync"), &json!("closed"))
        );
        exchange.target = None;
        assert_eq!(line(&exchange)["path"], Value::Null);
    }

    #[test]
    fn a_line_is_bounded() {
        let mut exchange = exchange();
        exchange.target = Some(format!("/{}", "a".repeat(5000)).parse().expect("a target"));
        exchange.method = http::Method::from_bytes("X".repeat(500).as_bytes()).expect("a method");
        exchange.documents = (0..1000).map(|n| Scope::Plain(format!("doc:{n}").into())).collect();
        let shown = line(&exchange);
        assert_eq!(shown["path"].as_str().map(str::len), Some(PATH_SHOWN_MAX));
        assert_eq!(shown["method"].as_str().map(str::len), Some(32));
        assert_eq!(shown["documents"].as_array().map(Vec::len), Some(SCOPES_SHOWN_MAX));
    }

    #[test]
    fn times_are_shown_as_rfc_3339() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_735_689_600, "2025-01-01T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn what_waits_is_written_when_the_sink_is_closed_and_a_rotated_file_is_let_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let sink = LogSink::open(&log(path.clone(), 1000)).expect("open");
        sink.write(&exchange(), Some("sync"), UNIX_EPOCH);
        std::fs::rename(&path, &rotated).expect("rename");
        sink.reopen(&log(path.clone(), 1000)).expect("reopen");
        sink.write(&exchange(), Some("sync"), UNIX_EPOCH);
        sink.write(&exchange(), Some("sync"), UNIX_EPOCH);
        sink.close();
        sink.write(&exchange(), Some("sync"), UNIX_EPOCH);
        let lines = |path: &PathBuf| std::fs::read_to_string(path).expect("readable").lines().count();
        assert_eq!((lines(&rotated), lines(&path), sink.dropped()), (1, 2, 0));
    }

    #[test]
    fn a_sink_that_cannot_be_opened_leaves_the_old_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let sink = LogSink::open(&log(path.clone(), 10)).expect("open");
        assert!(sink.reopen(&log(folder.path().join("missing/access.log"), 10)).is_err());
        sink.write(&exchange(), None, UNIX_EPOCH);
        drop(sink);
        assert_eq!(std::fs::read_to_string(path).expect("readable").lines().count(), 1);
    }

    #[test]
    fn lines_beyond_the_bound_are_dropped_and_counted_without_waiting() {
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (go, stuck) = std::sync::mpsc::channel();
        let sink = LogSink::off();
        sink.start(Stuck(stuck), 4);
        for _ in 0..100 {
            sink.write(&exchange(), None, UNIX_EPOCH);
        }
        // Four wait, and the writer may hold one more.
        assert!((95..=96).contains(&sink.dropped()), "{}", sink.dropped());
        drop(go);
        let before = sink.dropped();
        sink.close();
        assert_eq!(sink.dropped(), before, "what was dropped stays counted");
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = LogSink::off();
        sink.start(Full, 100);
        for _ in 0..3 {
            sink.write(&exchange(), None, UNIX_EPOCH);
        }
        sink.close();
        assert_eq!(sink.dropped(), 3);
    }

    #[test]
    fn what_was_never_classed_is_none_and_has_no_route() {
        let mut exchange = exchange();
        exchange.class = None::<Class>;
        exchange.route = "".into();
        exchange.client = super::super::ClientShown::Hashed(ClientKey(1));
        (exchange.arrived, exchange.ended) = (Moment(5), Moment(0));
        let mut bytes = Vec::new();
        line_of(&exchange, None, UNIX_EPOCH, &mut bytes);
        let shown: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!((&shown["class"], &shown["route"], &shown["total_ms"]), (&json!("none"), &Value::Null, &json!(0.0)));
    }
}
