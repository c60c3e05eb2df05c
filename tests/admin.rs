//! What operators see and do, over real sockets: metrics, state, configuration, reload, stop, and the commands.

mod common;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{Answer, App, PROFILE, Tidegate, Wire, get, request, wire::exchange};
use serde_json::Value;

fn tidegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).stdin(Stdio::null()).output().expect("tidegate runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn page(tidegate: &Tidegate, path: &str) -> Value {
    let (status, body) = tidegate.ask(path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Waits until `/config` says so.
async fn until(tidegate: &Tidegate, pointer: &str, wanted: &Value) {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let config = page(tidegate, "/config").await;
        if config.pointer(pointer) == Some(wanted) {
            return;
        }
        assert!(Instant::now() < until, "{pointer} is {:?}, not {wanted}", config.pointer(pointer));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An answer of the admin listener to a head as it stands.
async fn answer(tidegate: &Tidegate, head: &str) -> Answer {
    exchange(tidegate.admin, format!("{head}\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn the_metrics_are_valid_and_count_what_happened() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "[class.import]\nclosed = true").await;
    assert_eq!(get(tidegate.listen, "/a").await.status, 200);
    assert_eq!(get(tidegate.listen, "/large/b").await.status, 200);
    assert_eq!(request(tidegate.listen, "POST", "/import/c", &[], b"x").await.status, 503);
    for (series, wanted) in [
        ("tidegate_requests_total{class=\"sync\",outcome=\"forwarded\"}", 1.0),
        ("tidegate_requests_total{class=\"large\",outcome=\"forwarded\"}", 1.0),
        ("tidegate_requests_total{class=\"import\",outcome=\"refused\"}", 1.0),
        ("tidegate_refusals_total{class=\"import\",rule=\"closed\"}", 1.0),
        ("tidegate_request_seconds_count{class=\"sync\"}", 1.0),
        ("tidegate_in_flight{class=\"sync\"}", 0.0),
        ("tidegate_queued{class=\"sync\"}", 0.0),
        ("tidegate_app_up", 1.0),
        ("tidegate_config_reload_success", 1.0),
    ] {
        tidegate.until_metric(series, wanted).await;
    }
    assert!(tidegate.metric("tidegate_app_seconds_total{class=\"sync\"}").await > 0.0);
    let (_, metrics) = tidegate.ask("/metrics").await;
    match Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Err(_) => eprintln!("promtool is not installed: not checked"),
        Ok(mut promtool) => {
            promtool.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("it reads");
            let said = promtool.wait_with_output().expect("it ends");
            assert!(
                said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(),
                "{}{}",
                text(&said.stdout),
                text(&said.stderr)
            );
        }
    }
}

#[tokio::test]
async fn state_shows_who_runs_who_waits_and_who_takes_the_time() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    let listen = tidegate.listen;
    let first = tokio::spawn(async move { get(listen, "/slow?ms=1500").await.status });
    app.until_running("slow", 1).await;
    let second = tokio::spawn(async move { get(listen, "/later").await.status });
    tidegate.until_metric("tidegate_queued{class=\"sync\"}", 1.0).await;
    let state = page(&tidegate, "/state").await;
    let sync = &state["classes"]["sync"];
    assert_eq!((&sync["in_flight"], &sync["queued"], &state["seats"]), (&1.into(), &1.into(), &1.into()), "{state}");
    assert!(sync["oldest_running_seconds"].as_f64().is_some_and(|age| age > 0.0), "{sync}");
    assert!(sync["oldest_waiting_seconds"].as_f64().is_some(), "{sync}");
    assert_eq!(state["app"]["server"], app.address.to_string());
    assert_eq!((first.await.expect("answered"), second.await.expect("answered")), (200, 200));
    tidegate.log(2).await;
    let state = page(&tidegate, "/state").await;
    let top = &state["top"];
    assert_eq!((&top["routes"][0]["name"], &top["documents"][0]["name"]), (&"read".into(), &"doc:slow".into()), "{top}");
    assert!(top["documents"][0]["app_seconds"].as_f64().is_some_and(|seconds| (1.4..3.0).contains(&seconds)), "{top}");
    assert!(top["clients"][0]["name"].as_str().is_some_and(|name| name.len() == 16 && !name.contains('.')), "clients are hashed: {top}");
    assert_eq!(state["classes"]["sync"]["requests"]["forwarded"], 2);
}

#[tokio::test]
async fn the_access_log_tells_of_every_request_and_never_of_credentials() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    get(tidegate.listen, "/a?token=topsecret&bytes=7").await;
    request(tidegate.listen, "POST", "/large/b", &["authorization: Bearer topsecret", "cookie: c=topsecret"], b"12345").await;
    request(tidegate.listen, "GET", "/a", &["x-client: ann"], &[]).await;
    let lines = tidegate.log(3).await;
    let fields =
        "app_ms bytes_in bytes_out class client db_ms documents effect id method outcome path route rule status time total_ms wait_ms";
    for line in &lines {
        let mut names: Vec<&str> = line.as_object().expect("an object").keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names.join(" "), fields);
        assert!(!line.to_string().contains("topsecret") && !line.to_string().contains("ann"), "{line}");
    }
    let wrote = lines.iter().find(|line| line["method"] == "POST").expect("logged");
    for (field, wanted) in [
        ("route", Value::from("large")),
        ("class", "large".into()),
        ("effect", "write".into()),
        ("documents", serde_json::json!(["doc:b"])),
        ("outcome", "forwarded".into()),
        ("status", 200.into()),
        ("path", "/large/b".into()),
        ("bytes_in", 5.into()),
        ("rule", Value::Null),
    ] {
        assert_eq!(wrote[field], wanted, "{field}: {wrote}");
    }
}

#[tokio::test]
async fn a_rotated_access_log_is_let_go_at_sighup() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    get(tidegate.listen, "/a").await;
    tidegate.log(1).await;
    let path = tidegate.folder.path().join("access.log");
    fs::rename(&path, tidegate.folder.path().join("access.log.1")).expect("renamed");
    tidegate.signal("HUP");
    tidegate.until_metric("tidegate_config_reloads_total{result=\"taken\"}", 1.0).await;
    get(tidegate.listen, "/b").await;
    assert_eq!(tidegate.log(1).await[0]["path"], "/b");
}

#[tokio::test]
async fn a_changed_file_a_signal_and_a_request_reload() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "[class.sync]\nqueue_max = 11").await;
    until(&tidegate, "/settings/class/sync/queue_max", &11.into()).await;
    let before = page(&tidegate, "/config").await["config"]["hash"].clone();
    tidegate.rewrite(|text| text.replace("queue_max = 11", "queue_max = 12"));
    until(&tidegate, "/settings/class/sync/queue_max", &12.into()).await;
    assert_ne!(page(&tidegate, "/config").await["config"]["hash"], before);
    tidegate.rewrite(|text| text.replace("queue_max = 12", "queue_max = 13"));
    tidegate.signal("HUP");
    until(&tidegate, "/settings/class/sync/queue_max", &13.into()).await;
    tidegate.rewrite(|text| text.replace("queue_max = 13", "queue_max = 14"));
    let (status, body) = tidegate.tell("/reload").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(page(&tidegate, "/config").await.pointer("/settings/class/sync/queue_max"), Some(&14.into()));
    assert_eq!(get(tidegate.listen, "/a").await.status, 200);
}

#[tokio::test]
async fn a_broken_file_is_loud_and_changes_nothing_whichever_way_it_comes() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "[class.sync]\nqueue_max = 11").await;
    tidegate.rewrite(|text| text.replace("queue_max = 11", "queue_mux = 12\nweight = \"heavy\""));
    // By itself, after two equal reads.
    tidegate.until_metric("tidegate_config_reload_success", 0.0).await;
    let state = page(&tidegate, "/state").await;
    let told = state["config"]["last_error"].as_str().expect("a reason");
    assert!(
        told.contains("queue_mux") && told.contains("queue_max") && told.contains("weight") && told.contains("tidegate.toml:"),
        "{told}"
    );
    assert_eq!(page(&tidegate, "/config").await.pointer("/settings/class/sync/queue_max"), Some(&11.into()));
    // By request.
    let (status, body) = tidegate.tell("/reload").await;
    assert!(status == 422 && body.contains("queue_mux") && body.contains('^'), "{status} {body}");
    // By signal.
    let refused = tidegate.metric("tidegate_config_reloads_total{result=\"refused\"}").await;
    tidegate.signal("HUP");
    tidegate.until_metric("tidegate_config_reloads_total{result=\"refused\"}", refused + 1.0).await;
    assert_eq!(get(tidegate.listen, "/a").await.status, 200);
    // It is told once per content, not every two seconds.
    tokio::time::sleep(Duration::from_millis(4500)).await;
    assert!((tidegate.metric("tidegate_config_reloads_total{result=\"refused\"}").await - refused - 1.0).abs() < 1e-9);
    assert!(tidegate.events().contains("the reload was refused"));
    tidegate.rewrite(|text| text.replace("queue_mux = 12\nweight = \"heavy\"", "queue_max = 15"));
    until(&tidegate, "/settings/class/sync/queue_max", &15.into()).await;
    tidegate.until_metric("tidegate_config_reload_success", 1.0).await;
}

#[tokio::test]
async fn a_key_that_cannot_change_refuses_the_whole_reload_and_names_itself() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "[class.sync]\nqueue_max = 11").await;
    tidegate.rewrite(|text| {
        text.replace("listen.address = \"127.0.0.1:0\"", "listen.address = \"127.0.0.1:1\"").replace("queue_max = 11", "queue_max = 12")
    });
    let (status, body) = tidegate.tell("/reload").await;
    assert!(status == 422 && body.contains("listen.address"), "{status} {body}");
    assert_eq!(page(&tidegate, "/config").await.pointer("/settings/class/sync/queue_max"), Some(&11.into()));
}

#[tokio::test]
async fn a_changed_profile_is_seen_and_a_broken_one_refused() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    get(tidegate.listen, "/large/a").await;
    assert_eq!(tidegate.log(1).await[0]["class"], "large");
    let profile = tidegate.folder.path().join("profile.toml");
    fs::write(&profile, PROFILE.replace("class = \"large\"", "class = \"lorge\"")).expect("written");
    tidegate.until_metric("tidegate_config_reload_success", 0.0).await;
    let state = page(&tidegate, "/state").await;
    let told = state["config"]["last_error"].as_str().unwrap_or_default();
    assert!(told.contains("lorge") && told.contains("profile.toml:"), "{told}");
    fs::write(&profile, PROFILE.replace("class = \"large\"", "class = \"other\"")).expect("written");
    tidegate.until_metric("tidegate_config_reload_success", 1.0).await;
    get(tidegate.listen, "/large/a").await;
    assert_eq!(tidegate.log(2).await[1]["class"], "other");
}

#[tokio::test]
async fn what_the_app_says_of_its_database_is_charged_to_the_class() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    get(tidegate.listen, "/large/a?db=250.5").await;
    get(tidegate.listen, "/large/a?db=249.5").await;
    tidegate.until_metric("tidegate_database_seconds_total{class=\"large\"}", 0.5).await;
    tidegate.until_metric("tidegate_database_queries_total{class=\"large\"}", 6.0).await;
    assert!(tidegate.log(2).await.iter().any(|line| line["db_ms"] == 250.5));
}

/// The bucket would be full 100 times over if a reload filled it.
#[tokio::test]
async fn a_hundred_reloads_under_load_fail_no_request_and_give_no_extra_burst() {
    const BURST: f64 = 200.0;
    const PER_SECOND: f64 = 20.0;
    let app = App::start().await;
    let rates = format!("[class.large]\nrate = {{ per_second = {PER_SECOND}, burst = {BURST} }}\nclient = {{ in_flight = 64 }}\n");
    let tidegate = Tidegate::start(app.address, &format!("{rates}[class.sync]\nqueue_max = 1000")).await;
    let listen = tidegate.listen;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let started = Instant::now();
    let crowd: Vec<_> = ["/a?ms=5", "/b?ms=5", "/large/c", "/large/d"]
        .into_iter()
        .map(|target| {
            let stop = std::sync::Arc::clone(&stop);
            tokio::spawn(async move {
                let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    *statuses.entry(get(listen, target).await.status).or_default() += 1;
                }
                (target, statuses)
            })
        })
        .collect();
    for number in 0..100 {
        tidegate.rewrite(|text| {
            let (from, to) =
                if number % 2 == 0 { ("queue_max = 1000", "queue_max = 999") } else { ("queue_max = 999", "queue_max = 1000") };
            text.replace(from, to)
        });
        let (status, body) = tidegate.tell("/reload").await;
        assert_eq!(status, 200, "{body}");
    }
    // The bucket is empty by now, or the test has shown nothing.
    let until = Instant::now() + Duration::from_secs(20);
    while tidegate.metric("tidegate_refusals_total{class=\"large\",rule=\"class_rate\"}").await < 1.0 {
        assert!(Instant::now() < until, "the load is too small to empty the bucket");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut admitted = 0;
    for one in crowd {
        let (target, statuses) = one.await.expect("no panic");
        if target.starts_with("/large") {
            assert!(statuses.keys().all(|status| [200, 503].contains(status)), "{target}: {statuses:?}");
            admitted += statuses.get(&200).copied().unwrap_or(0);
        } else {
            assert!(statuses.keys().all(|status| *status == 200) && !statuses.is_empty(), "{target}: {statuses:?}");
        }
    }
    let most = BURST * 1.02 + PER_SECOND * started.elapsed().as_secs_f64();
    assert!(f64::from(admitted) <= most, "{admitted} were admitted in {:?}, at most {most}", started.elapsed());
    assert!((tidegate.metric("tidegate_config_reloads_total{result=\"taken\"}").await - 100.0).abs() < 1.5);
}

/// A tidegate by arguments of its own; it ends with the test.
struct Other(std::process::Child);

impl Other {
    fn start(arguments: &[&str], folder: &Path) -> Self {
        let events = fs::File::create(folder.join("events.log")).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("run")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(events)
            .spawn()
            .expect("tidegate starts");
        Self(child)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn curl(address: &str, path: &str) -> Option<Value> {
    use std::io::Read as _;
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    serde_json::from_slice(&answer[end + 4..]).ok()
}

fn until_sync(address: &str, pointer: &str, wanted: &Value) {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let config = curl(address, "/config").unwrap_or_default();
        if config.pointer(pointer) == Some(wanted) {
            return;
        }
        assert!(Instant::now() < until, "{pointer} is {:?}, not {wanted}", config.pointer(pointer));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_swap_of_a_symbolic_link_is_seen_and_flags_are_laid_over_every_reload() {
    let folder = tempfile::tempdir().expect("a folder");
    let admin = format!("127.0.0.1:{}", free_port());
    // As Kubernetes mounts a ConfigMap: tidegate.toml -> ..data/tidegate.toml, ..data -> ..1
    let version = |name: &str, queue_max: usize| {
        fs::create_dir(folder.path().join(name)).expect("a folder");
        let config =
            format!("profile = \"generic\"\n[app]\nservers = [\"127.0.0.1:1\"]\nseats = 3\n[class.sync]\nqueue_max = {queue_max}\n");
        fs::write(folder.path().join(name).join("tidegate.toml"), config).expect("written");
    };
    version("..1", 21);
    symlink("..1", folder.path().join("..data")).expect("linked");
    symlink("..data/tidegate.toml", folder.path().join("tidegate.toml")).expect("linked");
    let config = folder.path().join("tidegate.toml").display().to_string();
    let arguments = ["--config", &config, "--listen", "127.0.0.1:0", "--admin", &admin, "--set", "app.seats=9", "--set", "log.access=off"];
    let _running = Other::start(&arguments, folder.path());
    until_sync(&admin, "/settings/class/sync/queue_max", &21.into());
    for (number, queue_max) in [("..2", 22), ("..3", 23)] {
        version(number, queue_max);
        symlink(number, folder.path().join("..data_tmp")).expect("linked");
        fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).expect("swapped");
        until_sync(&admin, "/settings/class/sync/queue_max", &queue_max.into());
    }
    let config = curl(&admin, "/config").expect("it answers");
    assert_eq!(config.pointer("/settings/app/seats"), Some(&9.into()));
    assert_eq!(config["flags"][2], "--set app.seats", "{config}");
}

#[tokio::test]
async fn a_token_opens_and_is_never_shown() {
    let app = App::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("admin.token"), "opensesame\n").expect("written");
    let (listen, admin) = (free_port(), free_port());
    let config = format!(
        "profile = \"generic\"\n[listen]\naddress = \"127.0.0.1:{listen}\"\n[admin]\naddress = \"127.0.0.1:{admin}\"\ntoken_file = \"admin.token\"\n[app]\nservers = [\"{}\"]\n[log]\naccess = \"off\"\n",
        app.address
    );
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, config).expect("written");
    let _running = Other::start(&["--config", &file.display().to_string()], folder.path());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], admin));
    let ask = async |head: &str| exchange(address, format!("{head}\r\nconnection: close\r\n\r\n")).await;
    let until = Instant::now() + Duration::from_secs(15);
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < until, "it does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = ask("GET /metrics HTTP/1.1\r\nhost: localhost").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer realm=\"tidegate\"")));
    assert_eq!(ask("GET /metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer opensesam").await.status, 401);
    assert_eq!(ask("POST /drain HTTP/1.1\r\nhost: localhost\r\ntidegate-admin: 1\r\ncontent-length: 0").await.status, 401);
    assert_eq!(ask("GET /healthz HTTP/1.1\r\nhost: 10.0.0.1").await.status, 200);
    assert_eq!(ask("GET /readyz HTTP/1.1\r\nhost: 10.0.0.1").await.status, 200);
    let shown = ask("GET /config HTTP/1.1\r\nhost: tidegate.internal\r\nauthorization: Bearer opensesame").await;
    assert_eq!(shown.status, 200);
    assert!(!shown.text().contains("opensesame"), "{}", shown.text());
    // A new token is taken without a restart.
    fs::write(folder.path().join("admin.token"), "openwheat\n").expect("written");
    let until = Instant::now() + Duration::from_secs(15);
    while ask("GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer openwheat").await.status != 200 {
        assert!(Instant::now() < until, "the new token is not taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ask("GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer opensesame").await.status, 401);
}

#[tokio::test]
async fn a_page_in_the_operators_browser_reaches_nothing() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    assert_eq!(answer(&tidegate, "GET /state HTTP/1.1\r\nhost: evil.example").await.status, 403);
    assert_eq!(answer(&tidegate, "POST /drain HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0").await.status, 403);
    let wrong = answer(&tidegate, "GET /drain HTTP/1.1\r\nhost: localhost\r\ntidegate-admin: 1").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert_eq!(answer(&tidegate, "GET /nowhere HTTP/1.1\r\nhost: localhost").await.status, 404);
    assert_eq!(tidegate.tell("/maintenance").await.0, 501);
    assert_eq!(tidegate.ask("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}", "a".repeat(20_000));
    assert!(matches!(answer(&tidegate, &long).await.status, 431 | 400));
    let started = Instant::now();
    let mut wire = Wire::connect(tidegate.admin).await;
    wire.send("GET / HTTP/1.1\r\n").await;
    assert!(wire.ends().await, "it is still open after {:?}", started.elapsed());
}

#[tokio::test]
async fn readiness_ends_with_the_drain_and_the_process_with_exit_code_0() {
    let app = App::start().await;
    let mut tidegate = Tidegate::start(app.address, "listen.drain_delay = \"1s\"\nlisten.drain_timeout = \"10s\"").await;
    let listen = tidegate.listen;
    let running = tokio::spawn(async move { get(listen, "/slow?ms=2500").await.status });
    app.until_running("slow", 1).await;
    assert_eq!(tidegate.tell("/drain").await.0, 202);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((tidegate.ask("/readyz").await.0, tidegate.ask("/healthz").await.0), (503, 200));
    let late = get(listen, "/late").await;
    assert_eq!((late.status, late.header("connection")), (200, Some("close")), "accepting goes on for drain_delay");
    assert_eq!(running.await.expect("answered"), 200, "what runs is answered");
    assert_eq!(tidegate.exit_code().await, Some(0));
    let lines = tidegate.log(2).await;
    assert!(lines.iter().any(|line| line["path"] == "/slow"), "the log was written to the end");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let app = App::start().await;
    let mut tidegate = Tidegate::start(app.address, "").await;
    let listen = tidegate.listen;
    tokio::spawn(async move { get(listen, "/slow?ms=20000").await });
    app.until_running("slow", 1).await;
    tidegate.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    tidegate.signal("TERM");
    assert_eq!(tidegate.exit_code().await, Some(1));
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn check_tells_every_mistake_at_once_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    let path = file.display().to_string();
    fs::write(&file, "profile = \"couchdb\"\n[app]\nseets = 3\n[class.sync]\nweight = 0\n[class.wiki]\nreserve = 0.1\n").expect("written");
    let said = tidegate(&["check", &path]);
    let told = text(&said.stdout);
    assert_eq!(said.status.code(), Some(1), "{told}");
    for part in ["seets", "seats", ":3:1", "weight", ":5:", "^"] {
        assert!(told.contains(part), "`{part}` is not in:\n{told}");
    }
    fs::write(&file, "profile = \"couchdb\"\n[class.wiki]\nreserve = 0.1\n").expect("written");
    let said = tidegate(&["check", &path]);
    let told = text(&said.stdout);
    assert!(
        said.status.code() == Some(1) && told.contains("no route of the profile uses the class `wiki`") && told.contains(":2:"),
        "{told}"
    );
    fs::write(&file, "profile = \"couchdb\"\n[app]\nservers = [\"127.0.0.1:3000\"]\n").expect("written");
    let said = tidegate(&["check", &path, "--set", "app.seats=32"]);
    let told = text(&said.stdout);
    assert!(said.status.code() == Some(0) && told.contains("32 seats") && told.contains("import"), "{told}");
}

#[test]
fn check_tells_of_the_configuration_and_of_its_profile_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, "profile = \"./mine.toml\"\n[app]\nseets = 3\n").expect("written");
    fs::write(folder.path().join("mine.toml"), "name = \"mine\"\n[[route]]\nname = \"r\"\npath = \"/x\"\nclass = \"nowhere\"\n")
        .expect("written");
    let told = text(&tidegate(&["check", &file.display().to_string()]).stdout);
    assert!(told.contains("seets") && told.contains("nowhere") && told.contains("mine.toml:5"), "{told}");
    // A profile by itself.
    let said = tidegate(&["check", &folder.path().join("mine.toml").display().to_string()]);
    assert!(said.status.code() == Some(1) && text(&said.stdout).contains("nowhere"), "{}", text(&said.stdout));
}

#[test]
fn explain_says_what_a_request_is_and_which_rules_hold_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("profile.toml");
    fs::write(&profile, PROFILE).expect("written");
    let body = folder.path().join("body");
    fs::write(&body, "{\"kind\":1,\"id\":\"a\"}").expect("written");
    let (profile, body) = (profile.display().to_string(), body.display().to_string());
    let said = tidegate(&[
        "explain",
        "--profile",
        &profile,
        "--method",
        "POST",
        "--target",
        "/inspected",
        "--header",
        "content-type: application/json",
        "--header",
        "authorization: Bearer topsecret",
        "--body-file",
        &body,
        "--set",
        "class.sync.rate={ per_second = 7, burst = 9 }",
    ]);
    let told = text(&said.stdout);
    assert_eq!(said.status.code(), Some(0), "{told}{}", text(&said.stderr));
    for part in ["inspected", "doc:a", "write", "sync", "7 per second, burst 9", "large"] {
        assert!(told.contains(part), "`{part}` is not in:\n{told}");
    }
    assert!(!told.contains("topsecret"), "{told}");
    let said = tidegate(&["explain", "--profile", &profile, "--target", "no target"]);
    assert!(said.status.code() == Some(1) && text(&said.stderr).contains("no target"), "{}", text(&said.stderr));
}

#[tokio::test]
async fn health_asks_the_running_one() {
    let app = App::start().await;
    let running = Tidegate::start(app.address, "").await;
    let admin = running.admin.to_string();
    assert_eq!(tidegate(&["health", "--admin", &admin]).status.code(), Some(0));
    drop(running);
    let said = tidegate(&["health", "--admin", &admin]);
    assert!(said.status.code() == Some(1) && text(&said.stderr).contains("does not answer"), "{}", text(&said.stderr));
}

#[test]
fn a_command_line_that_cannot_be_read_ends_with_2_and_a_file_with_1() {
    assert_eq!(tidegate(&["fly"]).status.code(), Some(2));
    let said = tidegate(&["run", "--config", "/nowhere/tidegate.toml"]);
    assert!(said.status.code() == Some(1) && text(&said.stderr).contains("/nowhere/tidegate.toml"), "{}", text(&said.stderr));
    let said = tidegate(&["run", "--set", "nonsense"]);
    assert!(said.status.code() == Some(1) && text(&said.stderr).contains("KEY=VALUE"), "{}", text(&said.stderr));
    let help = text(&tidegate(&["run", "--help"]).stdout);
    assert!(help.contains("SIGHUP") && help.contains("Exit codes") && help.contains("--profile couchdb"), "{help}");
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
