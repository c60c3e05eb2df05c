//! What the tests over real sockets share: the real binary in a folder of its own, an app that does as it is told and remembers what it
//! was asked, and clients that speak raw bytes.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod app;

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub use app::App;

/// The profile of these tests: one route per class, clients by a header.
pub const PROFILE: &str = r#"
name = "test"
client = ["header.x-client"]
credential = ["header.authorization"]

[[route]]
name = "feed"
path = "/feed/{rest*}"
stream = "sse"
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

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// The real binary.
pub struct Tidegate {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub folder: TempDir,
    child: Child,
}

impl Tidegate {
    /// Starts tidegate in front of `app`; `more` is appended to its configuration, whose tables it may not repeat. `{folder}` in it is the
    /// test's own folder.
    pub async fn start(app: SocketAddr, more: &str) -> Self {
        Self::start_with(app, "", "", more).await
    }

    /// The same, with further keys of `[listen]` and `[app]`.
    pub async fn start_with(app: SocketAddr, listen_keys: &str, app_keys: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listen: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let admin: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        fs::write(folder.path().join("profile.toml"), PROFILE).expect("a profile");
        let more = more.replace("{folder}", &folder.path().display().to_string());
        let config = format!(
            "profile = \"./profile.toml\"\n[listen]\naddress = \"{listen}\"\n{listen_keys}\n[admin]\naddress = \"{admin}\"\n[log]\naccess = \"./access.log\"\n[app]\nservers = [\"{app}\"]\n{app_keys}\n{more}\n"
        );
        fs::write(folder.path().join("tidegate.toml"), config).expect("a configuration");
        let events = fs::File::create(folder.path().join("events.log")).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(folder.path().join("tidegate.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(events)
            .spawn()
            .expect("tidegate starts");
        let tidegate = Self { listen, admin, folder, child };
        tidegate.until_ready().await;
        tidegate
    }

    async fn until_ready(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.listen).await.is_err() || TcpStream::connect(self.admin).await.is_err() {
            assert!(Instant::now() < until, "tidegate does not start: {}", self.events());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("tidegate.toml")
    }

    /// What it said on standard error.
    pub fn events(&self) -> String {
        fs::read_to_string(self.folder.path().join("events.log")).unwrap_or_default()
    }

    /// The lines of the access log, once there are at least `count`.
    pub async fn log(&self, count: usize) -> Vec<serde_json::Value> {
        let path = self.folder.path().join("access.log");
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            if lines.len() >= count || Instant::now() > until {
                assert!(lines.len() >= count, "only {} lines: {text}", lines.len());
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name: `TERM`, `HUP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let until = Instant::now() + Duration::from_secs(40);
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
        let answer = raw(self.admin, format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes()).await;
        let answer = Answer::read(&answer);
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// A POST on the admin listener.
    pub async fn tell(&self, path: &str) -> (u16, String) {
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ntidegate-admin: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let answer = Answer::read(&raw(self.admin, head.as_bytes()).await);
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// The value of one series, such as `tidegate_in_flight{class="sync"}`; 0 if it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let (status, text) = self.ask("/metrics").await;
        assert_eq!(status, 200, "{text}");
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
    }

    /// Waits until a series has a value.
    pub async fn until_metric(&self, series: &str, wanted: f64) {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let value = self.metric(series).await;
            if (value - wanted).abs() < 1e-9 {
                return;
            }
            assert!(Instant::now() < until, "{series} is {value}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// Changes its configuration file by text.
    pub fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(self.config()).expect("a configuration");
        let mut file = fs::File::create(self.config()).expect("writable");
        file.write_all(change(text).as_bytes()).expect("written");
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

/// An answer as bytes on the wire, read apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body is whole by its own framing.
    pub whole: bool,
}

impl Answer {
    /// Reads the first answer in these bytes; its body is decoded.
    pub fn read(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let rest = &bytes[end + 4..];
        let mut answer = Self { status, head, body: Vec::new(), whole: true };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.whole = answer.unchunk(rest);
        } else if let Some(length) = answer.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
            answer.whole = rest.len() >= length;
            answer.body = rest[..length.min(rest.len())].to_vec();
        } else {
            answer.body = rest.to_vec();
        }
        answer
    }

    fn unchunk(&mut self, mut rest: &[u8]) -> bool {
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let Ok(size) = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16) else { return false };
            rest = &rest[end + 2..];
            if size == 0 {
                return rest.ends_with(b"\r\n");
            }
            if rest.len() < size + 2 {
                self.body.extend_from_slice(&rest[..size.min(rest.len())]);
                return false;
            }
            self.body.extend_from_slice(&rest[..size]);
            rest = &rest[size + 2..];
        }
        false
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends bytes and reads until the other side closes; what came before an error is returned.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    socket.write_all(bytes).await.expect("it reads");
    read_all(&mut socket).await
}

/// Reads until the end, an error, or 30 s.
pub async fn read_all(socket: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 65536];
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_secs(30), socket.read(&mut part)).await {
        if count == 0 {
            break;
        }
        all.extend_from_slice(&part[..count]);
    }
    all
}

/// One request on a connection of its own; `headers` are whole lines without their ends.
pub async fn request(address: SocketAddr, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    if !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    Answer::read(&raw(address, &bytes).await)
}

/// A GET.
pub async fn get(address: SocketAddr, target: &str) -> Answer {
    request(address, "GET", target, &[], &[]).await
}
