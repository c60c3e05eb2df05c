//! What operators see and do of local answers, over real sockets: a document's entry, invalidation, mismatches, what verify found, and the
//! documents in doubt over a restart.

mod common;

use std::{
    net::SocketAddr,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Answer, Tidegate, eventually, request};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PROFILE: &str = r#"
name = "notes"
credential = ["header.authorization"]

[[route]]
name = "read"
method = ["GET"]
path = "/doc/{id}"
class = "noop"
reads = ["doc:{path.id}"]
answer = {}

[[route]]
name = "save"
path = "/doc/{id}"
writes = ["doc:{path.id}"]
"#;

/// Every answer may be replayed from the first moment, and nothing is asked again by chance.
const ON: &str = "[fresh]\nmode = \"on\"\nstart_doubt = \"0s\"\naudit = 0";

/// An app of one document, which may change past tidegate.
struct Notes {
    address: SocketAddr,
    version: Arc<AtomicU64>,
}

impl Notes {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let version = Arc::new(AtomicU64::new(1));
        let shown = Arc::clone(&version);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&shown)));
            }
        });
        Self { address, version }
    }

    /// What a script would do to the database.
    fn change_secretly(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }
}

/// Answers one head after the other with the version; a POST, which has no body here, makes a new one.
async fn converse(mut stream: TcpStream, version: Arc<AtomicU64>) -> Option<()> {
    let mut read = Vec::new();
    loop {
        while !read.windows(4).any(|window| window == b"\r\n\r\n") {
            (stream.read_buf(&mut read).await.ok()? > 0).then_some(())?;
        }
        if read.starts_with(b"POST") {
            version.fetch_add(1, Ordering::SeqCst);
        }
        read.clear();
        let text = format!("version {}", version.load(Ordering::SeqCst));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

async fn poll(tidegate: &Tidegate) -> (String, String) {
    let answer = request(tidegate.listen, "GET", "/doc/a", &["authorization: Bearer topsecret"], &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    (answer.header("cache-status").unwrap_or_default().to_owned(), answer.text())
}

/// Polls until the answer comes from tidegate.
async fn until_hit(tidegate: &Tidegate) {
    eventually("a local answer", || async { (poll(tidegate).await.0 == "tidegate; hit").then_some(()) }).await;
}

async fn tell(tidegate: &Tidegate, path: &str, body: &str) -> Answer {
    request(tidegate.admin, "POST", path, &["host: localhost", "tidegate-admin: 1"], body.as_bytes()).await
}

fn explain(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("explain").args(arguments).output().expect("tidegate runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn document(tidegate: &Tidegate) -> Value {
    let (status, text) = tidegate.ask("/state?document=doc:a").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test]
async fn a_document_shows_its_last_write_and_what_depends_on_it_and_is_invalidated() {
    let app = Notes::start().await;
    let tidegate = Tidegate::start_with(app.address, PROFILE, ON).await;
    request(tidegate.listen, "POST", "/doc/a", &["authorization: Bearer topsecret", "content-length: 0"], &[]).await;
    until_hit(&tidegate).await;
    let view = document(&tidegate).await;
    assert_eq!((&view["last_write_by"], &view["writers"], &view["answers"]), (&"save".into(), &0.into(), &1.into()), "{view}");
    assert_eq!((&view["dependents"][0]["route"], &view["dependents"][0]["unchanged"]), (&"read".into(), &true.into()), "{view}");
    assert!(!view.to_string().contains("topsecret"), "{view}");

    let config = tidegate.config().display().to_string();
    let admin = tidegate.admin.to_string();
    let output = explain(&["--config", &config, "--target", "/doc/a", "--admin", &admin]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for part in ["doc:a:", "by save", "1 depend on it", "route read, status 200", "unchanged since"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }

    let answer = tell(&tidegate, "/invalidate", r#"{"scopes": ["doc:a", "doc:b", "tree:/x"]}"#).await;
    let did: Value = serde_json::from_str(&answer.text()).expect("JSON");
    assert_eq!((answer.status, &did["answers"], &did["everything"]), (200, &1.into(), &false.into()), "{did}");
    assert_eq!(did["scopes"], json!(["doc:a", "doc:b", "tree:/x"]));
    assert_eq!(poll(&tidegate).await.0, "tidegate; fwd=stale; stored; detail=writer");
    assert_eq!(document(&tidegate).await["last_write_by"], "(invalidated)");
    tidegate.until_metric("tidegate_fresh_invalidations_total{cause=\"invalidate\"}", 3.0).await;
    until_hit(&tidegate).await;
    assert_eq!(tell(&tidegate, "/invalidate", r#"{"all": true}"#).await.status, 200);
    assert_ne!(poll(&tidegate).await.0, "tidegate; hit");
}

#[tokio::test]
async fn what_cannot_be_invalidated_is_told_how_to_write_it_and_changes_nothing() {
    let app = Notes::start().await;
    let tidegate = Tidegate::start_with(app.address, PROFILE, ON).await;
    until_hit(&tidegate).await;
    for (body, status, part) in [
        (r#"{"scopes": ["doc:a", "doc:"]}"#, 400, "\"doc:\" is no scope: write \"doc:x\""),
        (r#"{"scopes": ["tree:relative"]}"#, 400, "\"tree:relative\" is no scope"),
        (r#"{"scope": ["doc:a"]}"#, 400, "unknown field `scope`"),
        ("", 400, "{\"all\": true}"),
        (&" ".repeat(2 << 20), 413, "at most 1048576 bytes"),
    ] {
        let answer = tell(&tidegate, "/invalidate", body).await;
        assert!(answer.status == status && answer.text().contains(part), "{} {}", answer.status, answer.text());
    }
    let unarmed = request(tidegate.admin, "POST", "/invalidate", &["host: localhost"], br#"{"all": true}"#).await;
    assert_eq!(unarmed.status, 403);
    assert_eq!(tidegate.ask("/state?document=a%20b").await.0, 400);
    assert_eq!(poll(&tidegate).await.0, "tidegate; hit", "nothing was invalidated");
}

#[tokio::test]
async fn a_change_that_nobody_announced_is_found_and_its_route_put_back_until_an_operator_says_so() {
    let app = Notes::start().await;
    let tidegate = Tidegate::start_with(app.address, PROFILE, &ON.replace("audit = 0", "audit = 1")).await;
    until_hit(&tidegate).await;
    tidegate.until_metric("tidegate_fresh_asked_again_total{reason=\"audit\",result=\"same\"}", 1.0).await;
    app.change_secretly();
    poll(&tidegate).await;
    tidegate.until_metric("tidegate_fresh_mismatches_total{route=\"read\"}", 1.0).await;
    // The difference counts as a write; what the app says now is kept, and only compared.
    assert_eq!(poll(&tidegate).await.0, "tidegate; fwd=stale; stored; detail=writer");
    assert_eq!(poll(&tidegate).await, ("tidegate; fwd=bypass; stored; detail=verify".to_owned(), "version 2".to_owned()));
    let state = tidegate.state().await;
    assert_eq!(state["fresh"]["now"]["distrusted"], json!(["read"]), "{state}");
    assert!(tidegate.events().contains("put back to verify"), "{}", tidegate.events());

    assert_eq!(tell(&tidegate, "/audit/reset", r#"{"routes": ["save"]}"#).await.text().matches("\"reset\": 0").count(), 1);
    let answer = tell(&tidegate, "/audit/reset", "").await;
    assert!(answer.status == 200 && answer.text().contains("\"reset\": 1"), "{}", answer.text());
    until_hit(&tidegate).await;
    assert_eq!(poll(&tidegate).await.1, "version 2");
}

#[tokio::test]
async fn verify_answers_nothing_and_says_what_would_have_been_right() {
    let app = Notes::start().await;
    let tidegate = Tidegate::start_with(app.address, PROFILE, &ON.replace("\"on\"", "\"verify\"")).await;
    let right = "tidegate_fresh_verified_total{result=\"right\",route=\"read\"}";
    for _ in 0..3 {
        assert!(!poll(&tidegate).await.0.contains("hit"));
    }
    tidegate.until_metric(right, 2.0).await;
    app.change_secretly();
    assert_eq!(poll(&tidegate).await.1, "version 2");
    tidegate.until_metric("tidegate_fresh_verified_total{result=\"wrong\",route=\"read\"}", 1.0).await;
    request(tidegate.listen, "POST", "/doc/a", &["authorization: Bearer topsecret", "content-length: 0"], &[]).await;
    poll(&tidegate).await;
    let admin = tidegate.admin.to_string();
    let output = explain(&["--verify", "--admin", &admin]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let row: Vec<&str> = text.lines().find(|line| line.starts_with("read")).expect("a row").split_whitespace().collect();
    assert_eq!(row.join(" "), "read 5 0 3 2 1 0 0 save (1)", "{text}");
    assert!(text.contains("1 wrong, on route read (1)"), "{text}");
}

#[tokio::test]
async fn explain_says_what_to_do_where_nobody_listens() {
    let output = explain(&["--verify", "--admin", "127.0.0.1:1"]);
    let text = said(&output);
    assert!(!output.status.success() && text.contains("127.0.0.1:1 does not answer") && text.contains("[admin] address"), "{text}");
    let output = explain(&["--target", "/", "--profile", "generic", "--admin", "127.0.0.1:1"]);
    assert!(!output.status.success() && said(&output).contains("Name that address with --admin"), "{}", said(&output));
    let output = explain(&["--profile", "generic"]);
    assert!(said(&output).contains("--target"), "{}", said(&output));
}

#[tokio::test]
async fn after_a_clean_stop_only_what_was_in_doubt_is_and_after_a_crash_everything() {
    let app = Notes::start().await;
    let settings = format!("state.file = \"./state\"\n{ON}");
    let mut tidegate = Tidegate::start_with(app.address, PROFILE, &settings).await;
    until_hit(&tidegate).await;
    tidegate.signal("TERM");
    assert_eq!(tidegate.exit_code().await, Some(0));
    tidegate.rewrite(|text| text.replace("start_doubt = \"0s\"", "start_doubt = \"1h\""));
    let tidegate = tidegate.again().await;
    until_hit(&tidegate).await;
    // Killed: what was in the file has been used.
    let tidegate = tidegate.again().await;
    for _ in 0..3 {
        assert_eq!(poll(&tidegate).await.0, "tidegate; fwd=bypass; detail=doubt");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(tidegate.metric("tidegate_fresh_doubt_ratio").await > 0.99);
}
