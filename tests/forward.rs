//! What forwarding promises of messages: keep-alive, pipelining, bodies that are none, trailers, `Expect`, heads that are refused.

mod common;

use common::{
    App, Tidegate, Wire, get, request,
    wire::{exchange, message},
};

#[tokio::test]
async fn a_request_reaches_the_app_and_its_answer_the_client() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let target = "/a%2Fb/c?bytes=5&h=x-own:1&q=%20+a";
    let answer = request(tidegate.listen, "POST", target, &["content-type: text/plain"], b"hello").await;
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-own")), (200, "xxxxx", Some("1")));
    let seen = &app.seen()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.length, seen.whole), ("POST", target, 5, true));
    assert_eq!(seen.header("content-type"), "text/plain");
    assert_eq!(seen.header("content-length"), "5");
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn both_sides_keep_their_connections_alive() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    for number in 0..20 {
        wire.send(message("POST", "/a?echo", &[], format!("number {number}").as_bytes())).await;
        assert_eq!(wire.answer().await.text(), format!("number {number}"));
    }
    assert_eq!(app.connections(), 1, "one pooled connection is enough");
    tidegate.at_rest(20).await;
}

#[tokio::test]
async fn an_old_client_without_keep_alive_is_answered_and_closed() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send("GET /a?bytes=100&chunked HTTP/1.0\r\nhost: test\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.body.len(), answer.reset), (200, 100, false));
    assert!(answer.header("transfer-encoding").is_none(), "an HTTP/1.0 client knows no chunks");
    wire = Wire::connect(tidegate.listen).await;
    wire.send("GET /a?bytes=100 HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n").await;
    assert_eq!(wire.answer().await.body.len(), 100);
    wire.send("GET /a?bytes=200000 HTTP/1.0\r\nhost: test\r\n\r\n").await;
    assert_eq!(wire.answer().await.body.len(), 200_000);
    assert!(wire.ends().await);
    tidegate.at_rest(3).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    let all: Vec<u8> =
        (1..=10).flat_map(|number| message("POST", &format!("/a?echo&ms={}", 50 / number), &[], &[b'0'; 8][..number % 8])).collect();
    wire.send(all).await;
    for number in 1..=10 {
        assert_eq!(wire.answer().await.body.len(), number % 8);
    }
    tidegate.at_rest(10).await;
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_order() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("HEAD", "/a?bytes=123456", &[], &[])).await;
    let answer = wire.answer_to("HEAD").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("123456")));
    wire.send(message("HEAD", "/a?bytes=10&chunked", &[], &[])).await;
    assert_eq!(wire.answer_to("HEAD").await.status, 200);
    for status in [204, 304] {
        wire.send(message("GET", &format!("/a?status={status}&chunked"), &[], &[])).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status);
        assert!(answer.header("transfer-encoding").is_none());
    }
    wire.send(message("DELETE", "/a?status=204&chunked", &[], &[])).await;
    assert_eq!(wire.answer().await.status, 204);
    wire.send(message("GET", "/a?bytes=3", &[], &[])).await;
    assert_eq!(wire.answer().await.text(), "xxx");
    assert_eq!(app.connections(), 1);
    tidegate.at_rest(6).await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    // Small ones are handed over whole, large ones stream.
    for size in [5, 300_000] {
        let mut wire = Wire::connect(tidegate.listen).await;
        wire.send(format!(
            "POST /a?bytes={size}&trailer HTTP/1.1\r\nhost: test\r\nte: trailers\r\ntrailer: x-digest\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n"
        ))
        .await;
        wire.send(vec![b'y'; size]).await;
        wire.send("\r\n0\r\nx-digest: abc\r\n\r\n").await;
        let answer = wire.answer().await;
        assert_eq!((answer.body.len(), answer.whole), (size, true));
        assert_eq!(answer.trailers, ["x-sum: 42"]);
        let seen = app.seen().pop().expect("it came");
        assert_eq!((seen.length, seen.whole), (size, true));
        assert_eq!(seen.trailers.expect("trailers")["x-digest"], "abc", "with {size} bytes");
    }
    tidegate.at_rest(2).await;
}

const EXPECTING: [&str; 2] = ["expect: 100-continue", "content-length: 300000"];

#[tokio::test]
async fn a_client_that_expects_100_continue_is_told_once_it_is_admitted() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    let mut first = Wire::connect(tidegate.listen).await;
    first.send(message("GET", "/other/a?until=first", &[], &[])).await;
    app.until_running("other", 1).await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("POST", "/other/b?echo", &EXPECTING, &[])).await;
    tidegate.until_queued(1).await;
    assert!(wire.silent(200).await, "nothing is asked for before there is a seat");
    app.let_go("first");
    assert_eq!(wire.answer().await.status, 100);
    wire.send(vec![b'z'; 300_000]).await;
    assert_eq!(wire.answer().await.body, vec![b'z'; 300_000]);
    assert!(app.seen()[1].headers.get("expect").is_none(), "it was answered here");
    assert_eq!(first.answer().await.status, 200);
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn on_a_route_that_inspects_100_continue_comes_before_the_queue() {
    let app = App::start().await;
    let tidegate =
        Tidegate::start(app.address, "app.seats = 1\nclass.sync.reserve = 0.0\nclass.large.reserve = 0.0\nclass.import.reserve = 0.0")
            .await;
    let mut first = Wire::connect(tidegate.listen).await;
    first.send(message("GET", "/other/a?until=first", &[], &[])).await;
    app.until_running("other", 1).await;
    let mut wire = Wire::connect(tidegate.listen).await;
    let body = r#"{"kind":"x","id":"a"}"#;
    wire.send(message("POST", "/inspected?echo", &["expect: 100-continue", &format!("content-length: {}", body.len())], &[])).await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(body).await;
    tidegate.until_queued(1).await;
    app.let_go("first");
    assert_eq!(wire.answer().await.text(), body);
    let lines = tidegate.at_rest(2).await;
    assert!(lines.iter().any(|line| line["route"] == "inspected" && line["documents"][0] == "doc:a"));
}

#[tokio::test]
async fn a_refusal_instead_of_100_continue_saves_the_upload() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.other.closed = true").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("POST", "/other/b", &EXPECTING, &[])).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.rule().as_str()), (503, "closed"));
    assert!(wire.ends().await, "a body that was never asked for cannot be told from the next request");
    let lines = tidegate.at_rest(1).await;
    assert_eq!(lines[0]["bytes_in"], 0);
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn only_100_continue_can_be_expected() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    assert_eq!(request(tidegate.listen, "POST", "/a", &["expect: tea"], b"x").await.status, 417);
    tidegate.at_rest(1).await;
}

/// Heads that are answered with a status and never forwarded.
const REFUSED: [(u16, &str); 23] = [
    (400, "GET / HTTP/1.1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nhost:\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nhost: a b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n"),
    (400, "GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET * HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET nowhere HTTP/1.1\r\nhost: a\r\n\r\n"),
    (405, "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\nx"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x1\r\n\r\nx"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    (400, "TRACE / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx"),
    (501, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
];

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_and_never_forwarded() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    for (status, bytes) in REFUSED {
        let mut wire = Wire::connect(tidegate.listen).await;
        // What is smuggled behind it must not be read as a request either.
        wire.try_send(format!("{bytes}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{bytes:?}");
        assert!(wire.ends().await, "{bytes:?} leaves the connection open");
    }
    assert_eq!(app.targets(), Vec::<String>::new());
    let metrics = tidegate.metrics().await;
    let (ended, malformed) =
        (common::sum(&metrics, "tidegate_requests_total{"), metrics[r#"tidegate_refusals_total{class="none",rule="malformed"}"#]);
    assert!((ended - malformed).abs() < 0.5, "{ended} ended, {malformed} as malformed");
}

#[tokio::test]
async fn an_absolute_target_is_forwarded_as_a_path() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let answer = exchange(tidegate.listen, "GET http://Test:80/a/b?bytes=2 HTTP/1.1\r\nhost: test:80\r\n\r\n").await;
    assert_eq!(answer.text(), "xx");
    assert_eq!(exchange(tidegate.listen, "OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n").await.status, 200);
    assert_eq!(app.targets(), ["/a/b?bytes=2", "*"]);
    assert_eq!(app.seen()[0].header("host"), "test:80");
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn a_request_that_came_through_before_is_a_loop() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    get(tidegate.listen, "/a").await;
    let via = app.seen()[0].header("via");
    let answer = request(tidegate.listen, "GET", "/a", &["via: 1.1 other", &format!("via: {via}")], &[]).await;
    assert_eq!(answer.status, 508);
    assert!(answer.header("proxy-status").is_some());
    assert_eq!(request(tidegate.listen, "GET", "/a", &["via: 1.1 other"], &[]).await.status, 200);
    assert_eq!(app.seen()[1].header("via"), format!("1.1 other, {via}"));
    tidegate.at_rest(3).await;
}

#[tokio::test]
async fn what_is_too_large_is_told_so() {
    let app = App::start().await;
    let tidegate =
        Tidegate::start(app.address, "listen.body_bytes_max = \"100kB\"\nlisten.head_bytes_max = \"8KiB\"\napp.upstream_cancels = true")
            .await;
    assert_eq!(request(tidegate.listen, "POST", "/a", &[], &vec![b'x'; 100_001]).await.status, 413);
    assert!(app.seen().is_empty(), "a declared length is enough to know");
    assert_eq!(request(tidegate.listen, "POST", "/a", &[], &vec![b'x'; 100_000]).await.status, 200);
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send("POST /b HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n186a1\r\n").await;
    wire.try_send(vec![b'x'; 100_001]).await;
    assert_eq!(wire.answer().await.status, 413);
    assert!(app.seen_of("/b").iter().all(|seen| !seen.whole), "what was begun there does not look whole");
    tidegate.at_rest(3).await;
    let long = format!("x-long: {}", "y".repeat(20_000));
    assert_eq!(request(tidegate.listen, "GET", "/a", &[&long], &[]).await.status, 431);
}

#[tokio::test]
async fn a_head_that_stands_still_is_given_up() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "listen.head_timeout = \"300ms\"\nlisten.keep_alive = \"20s\"").await;
    let mut idle = Wire::connect(tidegate.listen).await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send("GET / HTTP/1.1\r\nhost: te").await;
    let head = wire.head().await;
    assert!(head.is_none_or(|head| head.starts_with("HTTP/1.1 408")));
    assert!(wire.ends().await);
    // Between two requests another clock runs.
    idle.send(message("GET", "/a", &[], &[])).await;
    assert_eq!(idle.answer().await.status, 200);
    assert!(idle.silent(600).await);
    idle.send(message("GET", "/a", &[], &[])).await;
    assert_eq!(idle.answer().await.status, 200);
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn a_connection_that_idles_for_too_long_is_closed() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "listen.keep_alive = \"300ms\"").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", "/a", &[], &[])).await;
    assert_eq!(wire.answer().await.status, 200);
    assert!(wire.ends().await);
    tidegate.at_rest(1).await;
}
