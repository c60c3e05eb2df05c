//! What forwarding promises of bodies: constant memory, bodies that end badly on either side, time-outs.

mod common;

use std::time::{Duration, Instant};

use common::{
    App, Tidegate, Wire, get, pause, request,
    wire::{WireApp, message},
};

const GIB: usize = 1 << 30;
const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn one_gib_each_way_takes_constant_memory() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    get(tidegate.listen, "/warm?bytes=2000000").await;
    let before = tidegate.resident();
    let address = tidegate.listen;
    let down = tokio::spawn(async move {
        let mut wire = Wire::connect(address).await;
        wire.send(message("GET", &format!("/down?bytes={GIB}"), &[], &[])).await;
        let head = wire.head().await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        // A slow reader first: what the app has does not pile up here.
        let mut taken = wire.skip(1 << 20).await;
        pause(1000).await;
        taken += wire.skip(GIB - taken).await;
        taken
    });
    let up = tokio::spawn(async move {
        let mut wire = Wire::connect(address).await;
        wire.send(message("POST", "/up", &[&format!("content-length: {GIB}")], &[])).await;
        let part = vec![b'x'; 1 << 20];
        for _ in 0..1024 {
            wire.send(&part).await;
        }
        wire.answer().await.status
    });
    let mut most = before;
    while !(down.is_finished() && up.is_finished()) {
        most = most.max(tidegate.resident());
        pause(20).await;
    }
    assert_eq!(down.await.expect("no panic"), GIB);
    assert_eq!(up.await.expect("no panic"), 200);
    let seen = &app.seen_of("/up")[0];
    assert_eq!((seen.length, seen.whole), (GIB, true));
    println!("1 GiB each way: memory grew by {} KiB", (most - before) / 1024);
    assert!(most - before < 32 * MIB, "memory grew by {} MiB", (most - before) / MIB);
    let lines = tidegate.at_rest(3).await;
    assert!(lines.iter().any(|line| line["bytes_in"] == GIB) && lines.iter().any(|line| line["bytes_out"] == GIB));
}

#[tokio::test]
async fn an_answer_that_the_app_cuts_short_is_cut_short_to_the_client() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    // Large and small, with a length and in chunks: never a whole body. `trickle`: the head is on its way before the connection breaks.
    let cuts = ["bytes=9000000&cut=300000", "bytes=5000&piece=1000&cut=2000&trickle=50"];
    for target in cuts.iter().flat_map(|cut| [format!("/a?{cut}"), format!("/a?{cut}&chunked")]) {
        let mut wire = Wire::connect(tidegate.listen).await;
        wire.send(message("GET", &target, &[], &[])).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 200);
        assert!(!answer.whole, "{target} looks whole with {} bytes", answer.body.len());
        // An old client knows the end by the connection's: only a reset tells it.
        let mut old = Wire::connect(tidegate.listen).await;
        old.send(format!("GET {target} HTTP/1.0\r\nhost: test\r\n\r\n")).await;
        let answer = old.try_answer().await;
        assert!(old.was_reset() || answer.is_some_and(|answer| !answer.whole), "{target} looks whole to HTTP/1.0");
    }
    let lines = tidegate.at_rest(8).await;
    assert!(lines.iter().all(|line| line["outcome"] == "failed" && line["status"] == 200), "{lines:#?}");
    tidegate.until_metric(r#"tidegate_failures_total{error="http_response_incomplete"}"#, 8.0).await;
}

#[tokio::test]
async fn an_answer_that_breaks_before_any_of_it_went_on_is_a_502() {
    let app = WireApp::start(|mut wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot a hundred").await;
    })
    .await;
    let tidegate = Tidegate::start(app.address, "").await;
    let answer = get(tidegate.listen, "/a").await;
    assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=http_response_incomplete")));
    let lines = tidegate.at_rest(1).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["status"]), (&"failed".into(), &502.into()));
}

#[tokio::test]
async fn an_app_that_fails_before_its_head_gives_a_502_that_says_how() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let answer = request(tidegate.listen, "POST", "/a?die", &[], b"x").await;
    assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=connection_terminated")));
    assert_eq!((answer.header("content-type"), answer.header("cache-control")), (Some("application/problem+json"), Some("no-store")));
    assert!((1..=120).contains(&answer.retry_after()));
    let lines = tidegate.at_rest(1).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["status"]), (&"failed".into(), &502.into()));

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let tidegate = Tidegate::start(nobody, "").await;
    let answer = get(tidegate.listen, "/a").await;
    assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=connection_refused")));
    tidegate.at_rest(1).await;

    let talker = WireApp::start(|mut wire, _| async move {
        wire.head().await;
        wire.send("I am no web server\r\n\r\n").await;
    })
    .await;
    let tidegate = Tidegate::start(talker.address, "").await;
    let answer = get(tidegate.listen, "/a").await;
    assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=http_protocol_error")));
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn a_bad_body_is_the_clients_fault() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.upstream_cancels = true").await;
    // In what is read before the queue, and in what streams; on a route that inspects, and on one that does not.
    for (target, good) in [("/a", 10), ("/a", 200_000), ("/inspected", 10), ("/inspected", 200_000)] {
        for bad in ["\r\nxyz\r\nabc\r\n0\r\n\r\n", "\r\n-1\r\n\r\n", "yes\r\n0\r\n\r\n", "\r\nfffffffffffffffff\r\n"] {
            let mut wire = Wire::connect(tidegate.listen).await;
            wire.send(format!("POST {target} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n{good:x}\r\n")).await;
            wire.send(vec![b'x'; good]).await;
            wire.try_send(bad).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, 400, "{target} with {good} bytes before {bad:?}");
            assert!(wire.ends().await, "what follows a bad body cannot be trusted");
        }
    }
    assert!(app.seen().iter().all(|seen| !seen.whole), "nothing of it looked whole to the app");
    let lines = tidegate.at_rest(16).await;
    assert!(lines.iter().all(|line| line["outcome"] == "refused" && line["rule"] == "malformed"), "{lines:#?}");
}

#[tokio::test]
async fn an_upload_that_stands_still_is_answered_408() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "listen.body_timeout = \"300ms\"\napp.upstream_cancels = true").await;
    for sent in [10, 200_000] {
        let mut wire = Wire::connect(tidegate.listen).await;
        wire.send(message("POST", "/a", &["content-length: 300000"], &[])).await;
        wire.send(vec![b'x'; sent]).await;
        assert_eq!(wire.answer().await.status, 408, "after {sent} bytes");
        assert!(wire.ends().await);
    }
    assert!(app.seen().iter().all(|seen| !seen.whole));
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn an_upload_that_crawls_loses_its_seat() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "listen.body_rate_min = \"100KiB\"\napp.upstream_cancels = true").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("POST", "/other/a", &["content-length: 300000"], &[])).await;
    wire.send(vec![b'x'; 70_000]).await;
    let mut status = 0;
    for _ in 0..200 {
        if !wire.try_send(b"x").await || !wire.silent(50).await {
            status = wire.answer().await.status;
            break;
        }
    }
    assert_eq!(status, 408);
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn at_the_head_timeout_the_client_gets_504_and_the_seat_stays_charged_until_the_app_is_done() {
    let app = App::start().await;
    let tidegate = Tidegate::start(
        app.address,
        "app.seats = 1\napp.head_timeout = \"300ms\"\napp.zombie_ttl = \"65s\"\nclass.other.wait_max = \"10s\"",
    )
    .await;
    let answer = request(tidegate.listen, "POST", "/other/a?until=done", &[], b"x").await;
    assert_eq!((answer.status, answer.header("proxy-status")), (504, Some("tidegate; error=http_response_timeout")));
    assert_eq!((tidegate.in_flight().await, tidegate.metric("tidegate_zombies").await), (1, 1.0));
    assert_eq!(app.running("other").len(), 1, "the app still works on it");
    let mut next = Wire::connect(tidegate.listen).await;
    next.send(message("GET", "/other/next", &[], &[])).await;
    tidegate.until_queued(1).await;
    assert!(next.silent(300).await, "there is no second seat");
    app.let_go("done");
    assert_eq!(next.answer().await.status, 200);
    assert_eq!(app.most("other"), 1);
    let lines = tidegate.at_rest(2).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["status"]), (&"failed".into(), &504.into()));
}

#[tokio::test]
async fn zombie_ttl_gives_a_seat_up_at_last() {
    let app = App::start().await;
    let tidegate = Tidegate::start(
        app.address,
        "app.seats = 1\napp.head_timeout = \"200ms\"\napp.zombie_ttl = \"200ms\"\nclass.import.head_timeout = \"200ms\"",
    )
    .await;
    let answer = get(tidegate.listen, "/other/a?until=never").await;
    assert_eq!(answer.status, 504);
    let since = Instant::now();
    assert_eq!(tidegate.in_flight().await, 1);
    // At least 5 s after the time-out, whatever zombie_ttl says.
    tidegate.until_in_flight(0).await;
    assert!(since.elapsed() > Duration::from_secs(3));
    assert_eq!(app.running("other").len(), 1, "the app never ended it");
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn a_class_has_a_head_timeout_of_its_own() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.head_timeout = \"20s\"\nclass.other.head_timeout = \"200ms\"").await;
    assert_eq!(get(tidegate.listen, "/other/a?ms=1000").await.status, 504);
    assert_eq!(get(tidegate.listen, "/a?ms=1000").await.status, 200);
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn the_head_timeout_counts_from_the_last_byte_of_the_request() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.head_timeout = \"500ms\"").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("POST", "/other/a", &["content-length: 400000"], &[])).await;
    for _ in 0..10 {
        wire.send(vec![b'x'; 40_000]).await;
        pause(100).await;
    }
    assert_eq!(wire.answer().await.status, 200);
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn an_app_that_stops_in_the_middle_is_cut_off() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.body_timeout = \"300ms\"\napp.seats = 1").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", "/other/a?bytes=200000&chunked&halt=never", &[], &[])).await;
    let answer = wire.answer().await;
    assert!(!answer.whole && answer.body.len() == 3 * 65536);
    assert_eq!((tidegate.in_flight().await, app.running("other").len()), (1, 1), "the app still works on it");
    app.let_go("never");
    let lines = tidegate.at_rest(1).await;
    assert_eq!(lines[0]["outcome"], "failed");
}

#[tokio::test]
async fn an_exchange_ends_at_total_timeout() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.connect_timeout = \"300ms\"\napp.head_timeout = \"300ms\"\nclass.import.head_timeout = \"300ms\"\napp.total_timeout = \"500ms\"\n").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", "/other/a?bytes=3000000&chunked&trickle=50", &[], &[])).await;
    assert!(!wire.answer().await.whole);
    let lines = tidegate.at_rest(1).await;
    assert_eq!(lines[0]["outcome"], "failed");
}

#[tokio::test]
async fn the_bytes_of_large_bodies_pass_unchanged() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut random = fastrand::Rng::with_seed(7);
    let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(3_000_000).collect();
    let length = format!("content-length: {}", body.len());
    for framing in ["transfer-encoding: chunked", &length] {
        let mut wire = Wire::connect(tidegate.listen).await;
        wire.send(message("POST", "/a?echo&chunked", &[framing], &[])).await;
        let mut sent = body.clone();
        if framing.starts_with("transfer") {
            sent = body
                .chunks(70_001)
                .flat_map(|part| [format!("{:x}\r\n", part.len()).into_bytes(), part.to_vec(), b"\r\n".to_vec()].concat())
                .collect();
            sent.extend_from_slice(b"0\r\n\r\n");
        }
        wire.send(sent).await;
        let answer = wire.answer().await;
        assert!(answer.whole && answer.body == body);
    }
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn an_app_that_hangs_on_a_long_upload_runs_into_its_head_timeout() {
    let app = App::start().await;
    let tidegate =
        Tidegate::start(app.address, "app.head_timeout = \"300ms\"\nclass.import.head_timeout = \"300ms\"\napp.zombie_ttl = \"1s\"").await;
    let answer = request(tidegate.listen, "POST", "/other/a?until=never", &[], &vec![b'x'; 200_000]).await;
    assert_eq!((answer.status, answer.header("proxy-status")), (504, Some("tidegate; error=http_response_timeout")));
    app.let_go("never");
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn an_app_that_does_not_read_an_upload_is_given_up() {
    let deaf = WireApp::start(|wire, _| async move {
        pause(20_000).await;
        drop(wire);
    })
    .await;
    let tidegate =
        Tidegate::start(deaf.address, "app.head_timeout = \"500ms\"\nclass.import.head_timeout = \"500ms\"\napp.zombie_ttl = \"1s\"").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("POST", "/other/a", &["content-length: 50000000"], &[])).await;
    let sending = tokio::spawn(async move {
        wire.try_send(vec![b'x'; 50_000_000]).await;
        wire.answer().await
    });
    let answer = sending.await.expect("no panic");
    assert_eq!((answer.status, answer.header("proxy-status")), (504, Some("tidegate; error=connection_write_timeout")));
}

#[tokio::test]
async fn a_stalled_answer_gives_its_seat_up_though_its_client_has_left() {
    let app = App::start().await;
    let tidegate = Tidegate::start(
        app.address,
        "app.body_timeout = \"300ms\"\napp.head_timeout = \"300ms\"\nclass.import.head_timeout = \"300ms\"\napp.zombie_ttl = \"600ms\"",
    )
    .await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", "/other/a?bytes=200000&chunked&halt=never", &[], &[])).await;
    wire.head().await.expect("a head");
    drop(wire);
    tidegate.until_in_flight(0).await;
    assert_eq!(app.running("other").len(), 1, "the app never ended it");
    app.let_go("never");
    tidegate.at_rest(1).await;
}
