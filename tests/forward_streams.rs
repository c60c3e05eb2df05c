//! What forwarding promises of streams: declared ones and upgrades.

mod common;

use std::time::{Duration, Instant};

use common::{
    App, Tidegate, Wire, get, pause, request,
    wire::{get_as, message},
};

const UPGRADE: [&str; 2] = ["connection: upgrade", "upgrade: echo"];

/// A feed that sends something every 50 ms, for ever as tests go.
const LIVELY: &str = "/feed/a?chunked&bytes=1000000&piece=100&trickle=50";

#[tokio::test]
async fn a_streams_head_comes_at_once_and_its_seat_is_given_back_after_a_second_of_silence() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1\napp.body_timeout = \"2s\"").await;
    let mut feed = Wire::connect(tidegate.listen).await;
    let since = Instant::now();
    feed.send(message("GET", "/feed/a?chunked&bytes=200&piece=100&halt=news", &[], &[])).await;
    let head = feed.head().await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"));
    assert_eq!(feed.bytes(6).await, b"64\r\nxx", "the first event does not wait for the second");
    assert_eq!(tidegate.in_flight().await, 1);
    tidegate.until_in_flight(0).await;
    assert!(since.elapsed() > Duration::from_millis(900));
    assert!((tidegate.metric("tidegate_streams").await - 1.0).abs() < 1e-9);
    assert_eq!(get(tidegate.listen, "/other/next").await.status, 200, "the seat is somebody else's now");
    // Neither is there a time-out between two reads.
    pause(2500).await;
    app.let_go("news");
    assert_eq!(feed.skip(200 + 2 + 4 + 5 - 6).await, 205);
    let lines = tidegate.at_rest(2).await;
    assert!(lines.iter().any(|line| line["route"] == "feed" && line["outcome"] == "forwarded" && line["bytes_out"] == 200));
}

#[tokio::test]
async fn a_lively_stream_keeps_its_seat_for_five_seconds_and_ends_with_its_client() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    let mut feed = Wire::connect(tidegate.listen).await;
    let since = Instant::now();
    feed.send(message("GET", LIVELY, &[], &[])).await;
    feed.head().await.expect("an answer");
    pause(2000).await;
    assert_eq!(tidegate.in_flight().await, 1);
    tidegate.until_in_flight(0).await;
    assert!(since.elapsed() > Duration::from_millis(4900));
    assert_eq!(app.running("feed").len(), 1);
    feed.reset();
    app.until_running("feed", 0).await;
    let lines = tidegate.at_rest(1).await;
    assert_eq!(lines[0]["outcome"], "gone");
}

#[tokio::test]
async fn the_upstream_request_ends_when_a_streams_client_leaves_before_its_head() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut feed = Wire::connect(tidegate.listen).await;
    // The app waits inside of its handler, which ends with the connection.
    feed.send(message("GET", "/feed/a?until=never", &[], &[])).await;
    app.until_running("feed", 1).await;
    tidegate.until_metric(r#"tidegate_app_connections{state="busy"}"#, 1.0).await;
    feed.reset();
    tidegate.until_metric(r#"tidegate_app_connections{state="busy"}"#, 0.0).await;
    app.let_go("never");
    let lines = tidegate.at_rest(1).await;
    assert_eq!(lines[0]["outcome"], "gone");
}

#[tokio::test]
async fn a_stream_has_no_head_timeout_and_no_total() {
    let app = App::start().await;
    let settings = "app.connect_timeout = \"200ms\"\napp.head_timeout = \"300ms\"\nclass.import.head_timeout = \"300ms\"\napp.total_timeout = \"500ms\"";
    let tidegate = Tidegate::start(app.address, settings).await;
    let mut feed = Wire::connect(tidegate.listen).await;
    feed.send(message("GET", "/feed/a?until=news&bytes=4", &[], &[])).await;
    assert!(feed.silent(1000).await);
    app.let_go("news");
    assert_eq!(feed.answer().await.text(), "xxxx");
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn streams_are_counted_for_all_and_for_each_client() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "stream.max = 3\nstream.per_client = 2").await;
    let mut open = Vec::new();
    for client in ["a", "a", "b"] {
        let mut feed = Wire::connect(tidegate.listen).await;
        feed.send(message("GET", LIVELY, &[&format!("x-client: {client}")], &[])).await;
        assert!(feed.head().await.expect("an answer").starts_with("HTTP/1.1 200"));
        open.push(feed);
        if open.len() == 2 {
            let answer = get_as(tidegate.listen, "a", LIVELY).await;
            assert_eq!((answer.status, answer.rule().as_str()), (429, "stream"));
            assert!((1..=120).contains(&answer.retry_after()));
        }
    }
    let answer = get_as(tidegate.listen, "c", LIVELY).await;
    assert_eq!((answer.status, answer.rule().as_str()), (503, "stream"));
    assert!((1..=120).contains(&answer.retry_after()));
    // What is no stream does not mind.
    assert_eq!(get_as(tidegate.listen, "c", "/other/a").await.status, 200);
    open.remove(0).reset();
    tidegate.until_metric("tidegate_streams", 2.0).await;
    let mut feed = Wire::connect(tidegate.listen).await;
    feed.send(message("GET", LIVELY, &["x-client: c"], &[])).await;
    assert!(feed.head().await.expect("an answer").starts_with("HTTP/1.1 200"));
    drop((open, feed));
    app.until_running("feed", 0).await;
    let lines = tidegate.at_rest(7).await;
    assert_eq!(lines.iter().filter(|line| line["rule"] == "stream" && line["outcome"] == "refused").count(), 2);
}

#[tokio::test]
async fn an_upgrade_passes_through_and_counts_as_a_stream() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    // What is sent in the same breath belongs to the new protocol.
    wire.send([message("GET", "/other/socket", &UPGRADE, &[]), b"early ".to_vec()].concat()).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("echo")));
    wire.send("and late").await;
    assert_eq!(wire.bytes(14).await, b"early and late");
    assert!((tidegate.metric("tidegate_streams").await - 1.0).abs() < 1e-9);
    tidegate.until_in_flight(0).await;
    assert_eq!(get(tidegate.listen, "/other/next").await.status, 200);
    let much = vec![b'm'; 1_000_000];
    for part in much.chunks(50_000) {
        wire.send(part).await;
        assert_eq!(wire.bytes(part.len()).await, part);
    }
    wire.finish().await;
    assert!(wire.ends().await, "its end passes through as well");
    let lines = tidegate.at_rest(2).await;
    let line = lines.iter().find(|line| line["status"] == 101).expect("its line");
    assert_eq!((&line["outcome"], &line["bytes_out"]), (&"forwarded".into(), &1_000_014.into()));
    assert_eq!(line["documents"][0], "*", "nobody declared it, so it may write everything");
}

#[tokio::test]
async fn an_upgrade_that_the_app_declines_is_an_ordinary_answer() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", "/other/a?refuse&bytes=4", &UPGRADE, &[])).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "xxxx"));
    wire.send(message("GET", "/other/a?bytes=1", &[], &[])).await;
    assert_eq!(wire.answer().await.text(), "x");
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn an_upgrade_beyond_the_most_streams_is_refused() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "stream.max = 1\nstream.per_client = 1").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", "/other/socket", &UPGRADE, &[])).await;
    assert_eq!(wire.answer().await.status, 101);
    let answer = request(tidegate.listen, "GET", "/other/socket", &UPGRADE, &[]).await;
    assert_eq!((answer.status, answer.rule().as_str()), (503, "stream"));
    assert!((1..=120).contains(&answer.retry_after()));
    drop(wire);
    app.until_running("other", 0).await;
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn both_sides_of_an_upgrade_end_together() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", "/other/socket", &UPGRADE, &[])).await;
    assert_eq!(wire.answer().await.status, 101);
    wire.reset();
    app.until_running("other", 0).await;
    tidegate.at_rest(1).await;
}
