//! What forwarding makes of apps that speak in other ways: early answers, interim ones, bodies that end with the connection, names.

mod common;

use std::time::Duration;

use common::{
    App, Tidegate, Wire, get, pause, request,
    wire::{WireApp, header_of, message},
};

#[tokio::test]
async fn the_first_bytes_of_an_answer_do_not_wait_for_its_last() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    for framing in ["", "&chunked"] {
        let mut wire = Wire::connect(tidegate.listen).await;
        let name = format!("done{framing}").replace('&', "");
        wire.send(message("GET", &format!("/other/a?bytes=200&piece=100&halt={name}{framing}"), &[], &[])).await;
        assert!(wire.head().await.expect("a head").starts_with("HTTP/1.1 200"));
        assert!(!wire.bytes(50).await.is_empty());
        assert_eq!(app.running("other").len(), 1);
        app.let_go(&name);
        assert!(wire.bytes(100).await.len() == 100);
    }
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn an_app_that_answers_before_it_has_read_the_upload_is_heard() {
    for close in [true, false] {
        let app = WireApp::start(move |mut wire, _| async move {
            wire.head().await;
            wire.send("HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 4\r\n\r\nmuch").await;
            if close {
                wire.finish().await;
            }
            pause(2000).await;
        })
        .await;
        let tidegate = Tidegate::start(app.address, "app.upstream_cancels = true").await;
        for size in [300_000, 5_000_000] {
            let mut wire = Wire::connect(tidegate.listen).await;
            wire.try_send(message("POST", "/other/a", &[], &vec![b'x'; size])).await;
            let answer = wire.answer().await;
            assert_eq!((answer.status, answer.text().as_str()), (413, "much"), "{size} bytes, the app closes: {close}");
        }
        tidegate.at_rest(2).await;
    }
}

#[tokio::test]
async fn interim_answers_of_the_app_do_not_confuse_anybody() {
    let app = WireApp::start(|mut wire, _| async move {
        while wire.head().await.is_some() {
            wire.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    for _ in 0..3 {
        wire.send(message("GET", "/other/a", &[], &[])).await;
        let mut answer = wire.answer().await;
        while answer.status < 200 {
            answer = wire.answer().await;
        }
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    tidegate.at_rest(3).await;
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_ends_so_that_a_cut_shows() {
    let app = WireApp::start(|mut wire, _| async move {
        let head = wire.head().await.expect("a request");
        wire.send("HTTP/1.0 200 OK\r\n\r\n").await;
        wire.send(vec![b'x'; 200_000]).await;
        if head.starts_with("GET /other/cut") {
            pause(50).await;
            wire.reset();
        }
    })
    .await;
    let tidegate = Tidegate::start(app.address, "").await;
    let answer = get(tidegate.listen, "/other/whole").await;
    assert_eq!((answer.status, answer.body.len(), answer.whole), (200, 200_000, true));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"), "its end is told, not guessed");
    let answer = get(tidegate.listen, "/other/cut").await;
    assert!(!answer.whole, "{} bytes look whole", answer.body.len());
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn an_answer_framed_in_two_ways_is_passed_on_in_one() {
    let app = WireApp::start(|mut wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    })
    .await;
    let tidegate = Tidegate::start(app.address, "").await;
    let answer = get(tidegate.listen, "/other/a").await;
    if answer.status == 200 {
        assert_eq!((answer.text().as_str(), answer.whole), ("hello", true));
        let framings = ["content-length", "transfer-encoding"].iter().filter(|name| answer.header(name).is_some()).count();
        assert_eq!(framings, 1, "{}", answer.head);
    } else {
        assert_eq!(answer.status, 502);
    }
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn what_an_app_says_unasked_is_never_an_answer_to_the_next() {
    let app = WireApp::start(|mut wire, _| async move {
        while let Some(head) = wire.head().await {
            let path = head.split(' ').nth(1).expect("a path").to_owned();
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len())).await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray").await;
        }
    })
    .await;
    let tidegate = Tidegate::start(app.address, "").await;
    for number in 0..10 {
        let target = format!("/other/{number}");
        let answer = get(tidegate.listen, &target).await;
        assert!(answer.status == 502 || answer.text() == target, "{target} was answered {}", answer.text());
    }
    tidegate.at_rest(10).await;
}

#[tokio::test]
async fn an_app_is_found_by_its_name() {
    let app = App::start().await;
    let tidegate = Tidegate::start_named(&format!("localhost:{}", app.address.port()), "").await;
    let answer = get(tidegate.listen, "/other/a?bytes=3").await;
    assert_eq!(answer.text(), "xxx");
    assert_eq!(app.seen()[0].header("host"), "test", "the name is ours, the Host is the client's");
    tidegate.at_rest(1).await;
    let tidegate = Tidegate::start_named("nowhere.invalid:80", "").await;
    let answer = get(tidegate.listen, "/other/a").await;
    let proxy_status = answer.header("proxy-status").expect("it says why");
    assert!(proxy_status.starts_with("tidegate; error=dns_") || proxy_status.ends_with("connection_timeout"), "{proxy_status}");
    assert!([502, 504].contains(&answer.status));
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn bodies_beyond_the_memory_for_inspection_pass_unread() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "inspect.bytes_max = \"64KiB\"\ninspect.memory_max = \"64KiB\"").await;
    let body = format!(r#"{{"kind":"k","id":"a","text":"{}"}}"#, "x".repeat(50_000));
    let mut first = Wire::connect(tidegate.listen).await;
    first.send(message("POST", "/inspected?until=done", &["x-client: a"], body.as_bytes())).await;
    app.until_running("inspected", 1).await;
    assert_eq!(request(tidegate.listen, "POST", "/inspected?echo", &["x-client: b"], body.as_bytes()).await.text(), body);
    app.let_go("done");
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(request(tidegate.listen, "POST", "/inspected", &["x-client: c"], body.as_bytes()).await.status, 200);
    let lines = tidegate.at_rest(3).await;
    let read = lines.iter().filter(|line| line["documents"][0] == "doc:a").count();
    assert_eq!((read, lines.iter().filter(|line| line["documents"][0] == "*").count()), (2, 1), "{lines:#?}");
}

#[tokio::test]
async fn a_request_without_a_body_has_no_framing_and_one_with_a_length_keeps_it() {
    let app = WireApp::start(|mut wire, _| async move {
        while let Some(head) = wire.head().await {
            let length = header_of(&head, "content-length").and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
            let body = if header_of(&head, "transfer-encoding").is_some() { "chunks".to_owned() } else { length.to_string() };
            wire.bytes(length).await;
            let framed = ["content-length", "transfer-encoding"].iter().filter(|name| header_of(&head, name).is_some()).count();
            let text = format!("{body} {framed}");
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())).await;
            if body == "chunks" {
                tokio::time::sleep(Duration::from_millis(50)).await;
                return;
            }
        }
    })
    .await;
    let tidegate = Tidegate::start(app.address, "").await;
    assert_eq!(get(tidegate.listen, "/other/a").await.text(), "0 0");
    assert_eq!(request(tidegate.listen, "POST", "/other/a", &["content-length: 0"], &[]).await.text(), "0 1");
    assert_eq!(request(tidegate.listen, "POST", "/other/a", &[], b"four").await.text(), "4 1");
    assert_eq!(request(tidegate.listen, "POST", "/other/a", &[], &vec![b'x'; 200_000]).await.text(), "200000 1");
    // Read whole before the queue, it has a length.
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send("POST /other/a HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n").await;
    assert_eq!(wire.answer().await.text(), "4 1");
    tidegate.at_rest(5).await;
}
