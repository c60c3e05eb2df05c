//! What the tests over real sockets share: the real binary in a folder of its own, an app that does as it is told and remembers what it
//! was asked, and clients that speak raw bytes.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]
#![allow(clippy::print_stderr, reason = "what tidegate said helps where a test has failed")]

pub mod app;
pub mod wire;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

pub use app::App;
pub use wire::{Answer, Wire, get, request};

/// The profile of these tests: a route per class, clients by a header.
pub const PROFILE: &str = r#"
name = "test"
client = ["header.x-client"]

[[route]]
name = "feed"
path = "/feed/{rest*}"
stream = "sse"
class = "other"
writes = []

[[route]]
name = "other"
path = "/other/{rest*}"
class = "other"
writes = []

[[route]]
name = "import"
path = "/import/{id}"
class = "import"
writes = ["doc:{path.id}"]

[[route]]
name = "large read"
method = ["GET", "HEAD"]
path = "/large/{id}"
class = "large"
reads = ["doc:{path.id}"]

[[route]]
name = "large"
path = "/large/{id}"
class = "large"
writes = ["doc:{path.id}"]

[[route]]
name = "inspected"
method = ["POST"]
path = "/inspected"
when = { "json.kind" = "present" }
writes = ["doc:{json.id}"]

[[route]]
name = "read"
method = ["GET", "HEAD"]
path = "/{rest*}"
class = "sync"
reads = ["doc:{path.rest}"]

[[route]]
name = "write"
path = "/{rest*}"
writes = ["doc:{path.rest}"]
"#;

/// The fields of a line of the access log that dashboards rest on.
pub const LOG_FIELDS: [&str; 15] = [
    "time",
    "client",
    "route",
    "class",
    "documents",
    "effect",
    "outcome",
    "rule",
    "status",
    "wait_ms",
    "app_ms",
    "db_ms",
    "total_ms",
    "bytes_in",
    "bytes_out",
];

/// The longest that a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The real binary.
pub struct Tidegate {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub folder: TempDir,
    child: Child,
}

impl Tidegate {
    /// Starts tidegate in front of `app` with these settings: lines of dotted keys, such as `app.seats = 2`. `{folder}` in them is the
    /// test's own folder.
    pub async fn start(app: SocketAddr, settings: &str) -> Self {
        Self::start_with(app, PROFILE, settings).await
    }

    /// The same with `--set` for each of these.
    pub async fn start_set(app: SocketAddr, settings: &str, set: &[&str]) -> Self {
        Self::run(Self::lay_out(app, PROFILE, settings), set).await
    }

    /// The same with a profile of its own.
    pub async fn start_with(app: SocketAddr, profile: &str, settings: &str) -> Self {
        Self::run(Self::lay_out(app, profile, settings), &[]).await
    }

    /// In front of an app that is named.
    pub async fn start_named(app: &str, settings: &str) -> Self {
        Self::run(Self::lay_out(app, PROFILE, settings), &[]).await
    }

    fn lay_out(app: impl std::fmt::Display, profile: &str, settings: &str) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("profile.toml"), profile).expect("a profile");
        let profile = if settings.contains("profile =") { "" } else { "profile = \"./profile.toml\"\n" };
        let config = format!(
            "{profile}listen.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\nlog.access = \"./access.log\"\napp.servers = [\"{app}\"]\n{}\n",
            settings.replace("{folder}", &folder.path().display().to_string())
        );
        fs::write(folder.path().join("tidegate.toml"), config).expect("a configuration");
        folder
    }

    async fn run(folder: TempDir, set: &[&str]) -> Self {
        let events = fs::File::create(folder.path().join("events.log")).expect("a log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(folder.path().join("tidegate.toml"))
            .args(set.iter().flat_map(|key| ["--set", key]))
            .env_remove("TIDEGATE_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(events)
            .spawn()
            .expect("tidegate starts");
        let until = Instant::now() + PATIENCE;
        loop {
            let said = fs::read_to_string(folder.path().join("events.log")).unwrap_or_default();
            if let Some((listen, admin)) = addresses(&said) {
                return Self { listen, admin, folder, child };
            }
            let ended = child.try_wait().expect("it can be waited for");
            assert!(ended.is_none() && Instant::now() < until, "tidegate does not start: {said}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts it anew in the same folder, after it has ended.
    pub async fn again(mut self) -> Self {
        let empty = tempfile::tempdir().expect("a folder");
        let folder = std::mem::replace(&mut self.folder, empty);
        drop(self);
        Self::run(folder, &[]).await
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("tidegate.toml")
    }

    /// What it said on standard error.
    pub fn events(&self) -> String {
        fs::read_to_string(self.folder.path().join("events.log")).unwrap_or_default()
    }

    /// The lines of the access log so far.
    pub fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// The lines of the access log, once there are at least `count`.
    pub async fn log(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} lines in the access log"), || async {
            let lines = self.lines();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name: `TERM`, `HUP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_some()
    }

    /// Waits for its end.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code();
            }
            assert!(Instant::now() < until, "tidegate does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A GET on the admin listener: status and body.
    pub async fn ask(&self, path: &str) -> (u16, String) {
        let answer = request(self.admin, "GET", path, &["host: localhost"], &[]).await;
        (answer.status, answer.text())
    }

    /// A POST on the admin listener.
    pub async fn tell(&self, path: &str) -> (u16, String) {
        let answer = request(self.admin, "POST", path, &["host: localhost", "tidegate-admin: 1", "content-length: 0"], &[]).await;
        (answer.status, answer.text())
    }

    /// `/state` as JSON.
    pub async fn state(&self) -> Value {
        let (status, text) = self.ask("/state").await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Every series of `/metrics` with its value.
    pub async fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = self.ask("/metrics").await;
        assert_eq!(status, 200, "{text}");
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        series.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
    }

    /// The value of one series, such as `tidegate_in_flight{class="sync"}`; 0 if it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        self.metrics().await.get(series).copied().unwrap_or(0.0)
    }

    /// The seats that are charged, over all classes.
    pub async fn in_flight(&self) -> usize {
        whole(sum(&self.metrics().await, "tidegate_in_flight{"))
    }

    /// Those who wait, over all classes.
    pub async fn queued(&self) -> usize {
        whole(sum(&self.metrics().await, "tidegate_queued{"))
    }

    /// Waits until so many seats are charged.
    pub async fn until_in_flight(&self, wanted: usize) {
        eventually(&format!("{wanted} in flight"), || async { (self.in_flight().await == wanted).then_some(()) }).await;
    }

    /// Waits until so many wait.
    pub async fn until_queued(&self, wanted: usize) {
        eventually(&format!("{wanted} queued"), || async { (self.queued().await == wanted).then_some(()) }).await;
    }

    /// Waits until a series has a value.
    pub async fn until_metric(&self, series: &str, wanted: f64) {
        eventually(&format!("{series} {wanted}"), || async { ((self.metric(series).await - wanted).abs() < 1e-9).then_some(()) }).await;
    }

    /// What holds at the end of every test, once nothing runs any more: no seat is charged, nobody waits, every one of the `sent` requests
    /// has exactly one outcome and one line in the access log, and every line has every field. Gives the lines.
    pub async fn at_rest(&self, sent: usize) -> Vec<Value> {
        let busy = ["tidegate_in_flight{", "tidegate_queued{", "tidegate_zombies", "tidegate_streams", "tidegate_seats_taken"];
        let until = Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics().await;
            let left: f64 = busy.iter().map(|name| sum(&metrics, name)).sum();
            let ended = whole(sum(&metrics, "tidegate_requests_total{"));
            let lines = self.lines();
            if left < 0.5 && ended == sent && lines.len() == sent {
                for line in &lines {
                    assert!(LOG_FIELDS.iter().all(|field| line.get(field).is_some()), "a field is missing in {line}");
                }
                return lines;
            }
            let wrong = || {
                let is_busy = |name: &str| busy.iter().any(|busy| name.starts_with(busy));
                let busy: Vec<_> = metrics.iter().filter(|(name, value)| is_busy(name) && **value > 0.0).collect();
                format!("{sent} were sent, {ended} ended, {} lines; busy: {busy:?}\n{lines:#?}", lines.len())
            };
            assert!(Instant::now() < until && ended <= sent && lines.len() <= sent, "{}", wrong());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// Changes its configuration file, in one step.
    pub fn rewrite(&self, change: impl FnOnce(&str) -> String) {
        let text = fs::read_to_string(self.config()).expect("a configuration");
        let changed = change(&text);
        assert_ne!(changed, text, "nothing to change");
        let beside = self.folder.path().join("tidegate.toml.new");
        fs::write(&beside, changed).expect("written");
        fs::rename(&beside, self.config()).expect("renamed");
    }
}

impl Drop for Tidegate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what tidegate said ---\n{}", self.events());
        }
    }
}

/// The addresses in the event that tells of the start.
fn addresses(said: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line = said.lines().find(|line| line.contains("serving address="))?;
    let listen = line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok()?;
    let admin = line.split("admin=Some(").nth(1)?.split(')').next()?.parse().ok()?;
    Some((listen, admin))
}

/// The sum over the series whose names begin so.
pub fn sum(metrics: &BTreeMap<String, f64>, beginning: &str) -> f64 {
    metrics.iter().filter(|(name, _)| name.starts_with(beginning)).map(|(_, value)| value).sum()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn whole(value: f64) -> usize {
    value as usize
}

/// Asks until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < until, "it did not come: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sleeps where only the wire can tell that nothing happens.
pub async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
