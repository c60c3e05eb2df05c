//! What stopping promises: running requests end, readiness fails first, what is left is cut and counted, a second signal ends it at once.

mod common;

use std::time::{Duration, Instant};

use common::{App, Tidegate, Wire, get, pause, request, wire::message};
use tokio::net::TcpStream;

/// The lines of the access log after the end, when nobody answers on the admin listener any more.
fn outcomes(tidegate: &Tidegate) -> Vec<String> {
    let mut outcomes: Vec<_> = tidegate.lines().iter().map(|line| line["outcome"].as_str().expect("an outcome").to_owned()).collect();
    outcomes.sort();
    outcomes
}

async fn until_closed(tidegate: &Tidegate) {
    common::eventually("a closed listener", || async { TcpStream::connect(tidegate.listen).await.is_err().then_some(()) }).await;
}

#[tokio::test]
async fn running_and_waiting_requests_end_before_it_stops() {
    let app = App::start().await;
    let mut tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    let mut idle = Wire::connect(tidegate.listen).await;
    idle.send(message("GET", "/other/idle", &[], &[])).await;
    assert_eq!(idle.answer().await.header("connection"), None);
    let mut running = Wire::connect(tidegate.listen).await;
    running.send(message("GET", "/other/a?until=done&bytes=3000000", &[], &[])).await;
    app.until_running("other", 1).await;
    let mut waiting = Wire::connect(tidegate.listen).await;
    waiting.send(message("POST", "/other/b?echo", &[], b"typed")).await;
    tidegate.until_queued(1).await;
    tidegate.signal("TERM");
    until_closed(&tidegate).await;
    assert!(idle.ends().await, "idle connections are closed");
    assert_eq!(tidegate.ask("/readyz").await.0, 503);
    assert_eq!(tidegate.ask("/healthz").await.0, 200);
    pause(200).await;
    assert!(!tidegate.has_ended());
    app.let_go("done");
    let answer = running.answer().await;
    assert_eq!((answer.body.len(), answer.whole), (3_000_000, true));
    let answer = waiting.answer().await;
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("typed", Some("close")));
    assert!(waiting.ends().await);
    assert_eq!(tidegate.exit_code().await, Some(0));
    assert_eq!(outcomes(&tidegate), ["forwarded"; 3]);
}

#[tokio::test]
async fn readiness_fails_at_once_while_accepting_goes_on_for_drain_delay() {
    let app = App::start().await;
    let mut tidegate = Tidegate::start(app.address, "listen.drain_delay = \"1500ms\"").await;
    assert_eq!(tidegate.ask("/readyz").await.0, 200);
    let mut kept = Wire::connect(tidegate.listen).await;
    kept.send(message("GET", "/other/a", &[], &[])).await;
    assert_eq!(kept.answer().await.status, 200);
    let since = Instant::now();
    tidegate.signal("TERM");
    common::eventually("readiness fails", || async { (tidegate.ask("/readyz").await.0 == 503).then_some(()) }).await;
    assert!(since.elapsed() < Duration::from_millis(1200));
    // New connections are served, and old ones are asked to go.
    let mut late = Wire::connect(tidegate.listen).await;
    for wire in [&mut late, &mut kept] {
        wire.send(message("GET", "/other/a?bytes=3", &[], &[])).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text().as_str(), answer.header("connection")), (200, "xxx", Some("close")));
        assert!(wire.ends().await);
    }
    until_closed(&tidegate).await;
    assert!(since.elapsed() >= Duration::from_millis(1400));
    assert_eq!(tidegate.exit_code().await, Some(0));
    assert_eq!(outcomes(&tidegate), ["forwarded"; 3]);
}

#[tokio::test]
async fn what_still_runs_at_drain_timeout_is_cut_and_counted() {
    let app = App::start().await;
    let mut tidegate = Tidegate::start(app.address, "listen.drain_timeout = \"700ms\"").await;
    let mut unanswered = Wire::connect(tidegate.listen).await;
    unanswered.send(message("POST", "/other/a?until=never", &[], b"x")).await;
    let mut half = Wire::connect(tidegate.listen).await;
    half.send(message("GET", "/other/b?bytes=300000&chunked&halt=never", &["x-client: b"], &[])).await;
    half.head().await.expect("an answer");
    let mut feed = Wire::connect(tidegate.listen).await;
    feed.send(message("GET", "/feed/a?bytes=1000000&piece=100&trickle=20&chunked", &[], &[])).await;
    feed.head().await.expect("an answer");
    let mut socket = Wire::connect(tidegate.listen).await;
    socket.send(message("GET", "/other/socket", &["connection: upgrade", "upgrade: echo"], &[])).await;
    assert_eq!(socket.answer().await.status, 101);
    socket.send("still there").await;
    assert_eq!(socket.bytes(11).await, b"still there");
    app.until_running("other", 3).await;
    let since = Instant::now();
    tidegate.signal("TERM");
    until_closed(&tidegate).await;
    socket.send("and now").await;
    assert_eq!(socket.bytes(7).await, b"and now", "until the time-out nothing changes for it");
    assert_eq!(tidegate.exit_code().await, Some(0));
    let elapsed = since.elapsed();
    assert!(elapsed >= Duration::from_millis(650) && elapsed < Duration::from_secs(8), "{elapsed:?}");
    assert!(unanswered.try_answer().await.is_none_or(|answer| answer.status >= 500));
    let rest = half.bytes(1_000_000).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut answer never looks whole");
    let rest = feed.bytes(10_000_000).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    socket.ends().await;
    let events = tidegate.events();
    let line = events.lines().find(|line| line.contains("drain_timeout is cut")).unwrap_or_else(|| panic!("{events}"));
    let cut: usize = line.split("cut=").nth(1).and_then(|count| count.trim().parse().ok()).expect("a count");
    assert!(cut >= 4, "{line}");
    assert_eq!(tidegate.lines().len(), 4, "{:#?}", tidegate.lines());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let app = App::start().await;
    for signals in [["TERM", "TERM"], ["INT", "TERM"]] {
        let mut tidegate = Tidegate::start(app.address, "").await;
        let mut running = Wire::connect(tidegate.listen).await;
        running.send(message("GET", "/other/a?until=never", &[], &[])).await;
        tidegate.until_in_flight(1).await;
        tidegate.signal(signals[0]);
        until_closed(&tidegate).await;
        assert!(!tidegate.has_ended());
        let since = Instant::now();
        tidegate.signal(signals[1]);
        assert_eq!(tidegate.exit_code().await, Some(1), "it was cut short");
        assert!(since.elapsed() < Duration::from_secs(5));
        assert!(running.try_answer().await.is_none());
    }
}

#[tokio::test]
async fn with_nothing_to_wait_for_it_stops_at_once() {
    let app = App::start().await;
    for way in ["TERM", "INT", "POST /drain"] {
        let mut tidegate = Tidegate::start(app.address, "").await;
        let mut idle = Wire::connect(tidegate.listen).await;
        idle.send(message("GET", "/other/a", &[], &[])).await;
        assert_eq!(idle.answer().await.status, 200);
        let since = Instant::now();
        if way == "POST /drain" {
            assert_eq!(tidegate.tell("/drain").await.0, 202);
        } else {
            tidegate.signal(way);
        }
        assert_eq!(tidegate.exit_code().await, Some(0), "{way}");
        assert!(since.elapsed() < Duration::from_secs(8), "{way} took {:?}", since.elapsed());
        assert!(idle.ends().await);
        assert_eq!(tidegate.lines().len(), 1);
    }
}

#[tokio::test]
async fn a_call_that_outlived_its_client_is_waited_for() {
    let app = App::start().await;
    let mut tidegate = Tidegate::start(app.address, "").await;
    let mut leaver = Wire::connect(tidegate.listen).await;
    leaver.send(message("POST", "/other/a?until=done", &[], b"typed")).await;
    app.until_running("other", 1).await;
    leaver.reset();
    tidegate.until_metric(r#"tidegate_requests_total{class="other",outcome="gone"}"#, 1.0).await;
    tidegate.signal("TERM");
    until_closed(&tidegate).await;
    pause(300).await;
    assert!(!tidegate.has_ended(), "the app still works on it");
    app.let_go("done");
    assert_eq!(tidegate.exit_code().await, Some(0));
    assert_eq!(outcomes(&tidegate), ["gone"]);
}

#[tokio::test]
async fn what_cannot_start_says_so_and_exits_with_1() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("run").args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (listen, server) = (tidegate.listen.to_string(), app.address.to_string());
    let (code, text) = run(&["--listen", &listen, "--app", &server, "--profile", "generic"]);
    assert!(code == Some(1) && text.contains(&listen), "{code:?} {text}");
    let (code, text) = run(&["--config", "/nowhere/tidegate.toml"]);
    assert!(code == Some(1) && text.contains("/nowhere/tidegate.toml"), "{code:?} {text}");
    assert_eq!(request(tidegate.listen, "GET", "/other/a", &[], &[]).await.status, 200, "the first one serves on");
    assert_eq!(get(tidegate.listen, "/other/a").await.status, 200);
    tidegate.at_rest(2).await;
}
