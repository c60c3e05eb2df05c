//! What forwarding promises of the connections to the app: what is sent again and what is not, caps and ages, an app that is down.

mod common;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    App, Tidegate, Wire, get, pause, request,
    wire::{WireApp, get_as, header_of},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// How often each request, by its `x-id`, came to the app.
type Record = Arc<Mutex<HashMap<String, usize>>>;

/// Takes one request off the wire, with its body, and writes it down; false at the end of the connection.
async fn take(wire: &mut Wire, record: &Record) -> bool {
    let Some(head) = wire.head().await else { return false };
    let length = header_of(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    if wire.bytes(length).await.len() < length {
        return false;
    }
    let id = header_of(&head, "x-id").unwrap_or_default().to_owned();
    *record.lock().expect("not poisoned").entry(id).or_default() += 1;
    true
}

/// An app that closes its connections after they idled for so long.
async fn closing_app(idle: Duration, record: &Record) -> WireApp {
    let record = Arc::clone(record);
    WireApp::start(move |mut wire, _| {
        let record = Arc::clone(&record);
        async move {
            while let Ok(true) = tokio::time::timeout(idle, take(&mut wire, &record)).await {
                wire.send(OK).await;
            }
        }
    })
    .await
}

/// Many rounds of parallel requests, each about when the app gives up the connections of the round before.
async fn around_the_idle_timeout(method: &'static str, body: &'static [u8], record: &Record) -> Vec<(String, u16, Option<String>)> {
    const IDLE: Duration = Duration::from_millis(60);
    const PARALLEL: usize = 10;
    let app = closing_app(IDLE, record).await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut random = fastrand::Rng::with_seed(11);
    let mut answers = Vec::new();
    for round in 0..30 {
        let asked = (0..PARALLEL).map(|number| {
            let (address, id) = (tidegate.listen, format!("{round}-{number}"));
            let early = Duration::from_micros(random.u64(0..6000));
            tokio::spawn(async move {
                tokio::time::sleep(IDLE.saturating_sub(Duration::from_millis(4)) + early).await;
                let headers = [format!("x-id: {id}"), format!("x-client: {id}")];
                let answer = request(address, method, "/other/a", &[&headers[0], &headers[1]], body).await;
                (id, answer.status, answer.header("proxy-status").map(str::to_owned))
            })
        });
        for answer in asked.collect::<Vec<_>>() {
            answers.push(answer.await.expect("no panic"));
        }
    }
    tidegate.at_rest(30 * PARALLEL).await;
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_reaches_the_app_at_most_once_however_its_pooled_connection_ends() {
    let record = Record::default();
    let answers = around_the_idle_timeout("POST", b"once", &record).await;
    let record = record.lock().expect("not poisoned");
    assert_eq!(answers.len(), 300);
    for (id, status, proxy_status) in answers {
        let came = record.get(&id).copied().unwrap_or(0);
        match status {
            200 => assert_eq!(came, 1, "{id}"),
            502 => assert!(came <= 1 && proxy_status.as_deref() == Some("tidegate; error=connection_terminated"), "{id} came {came} times"),
            other => panic!("{id} was answered {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_is_sent_again_when_its_pooled_connection_ends() {
    let record = Record::default();
    let answers = around_the_idle_timeout("GET", b"", &record).await;
    assert_eq!(answers.iter().filter(|(_, status, _)| *status != 200).count(), 0, "{answers:?}");
}

/// An app that answers the first request on a connection and, once the second has come, closes it without a word.
async fn app_of_one_answer(record: &Record) -> WireApp {
    let record = Arc::clone(record);
    WireApp::start(move |mut wire, _| {
        let record = Arc::clone(&record);
        async move {
            take(&mut wire, &record).await;
            wire.send(OK).await;
            take(&mut wire, &record).await;
        }
    })
    .await
}

#[tokio::test]
async fn only_what_is_safe_bodiless_and_writes_nothing_is_sent_again() {
    // Method, route, body, and whether it may be sent again.
    let cases: [(&str, &str, &[u8], bool); 7] = [
        ("GET", "/other/a", b"", true),
        ("HEAD", "/other/a", b"", true),
        ("OPTIONS", "/other/a", b"", true),
        ("GET", "/other/a", b"body", false),
        ("POST", "/other/a", b"", false),
        ("PUT", "/other/a", b"body", false),
        ("GET", "/import/a", b"", false),
    ];
    for (method, target, body, again) in cases {
        let record = Record::default();
        let app = app_of_one_answer(&record).await;
        let tidegate = Tidegate::start(app.address, "").await;
        assert_eq!(get(tidegate.listen, "/other/first").await.status, 200);
        let answer = request(tidegate.listen, method, target, &["x-id: second"], body).await;
        let came = record.lock().expect("not poisoned")["second"];
        assert_eq!((answer.status, came), if again { (200, 2) } else { (502, 1) }, "{method} {target}");
        tidegate.at_rest(2).await;
    }
}

#[tokio::test]
async fn nothing_is_sent_again_after_a_fresh_connection_has_failed() {
    let record = Record::default();
    let kept = Arc::clone(&record);
    let app = WireApp::start(move |mut wire, _| {
        let record = Arc::clone(&kept);
        async move {
            take(&mut wire, &record).await;
        }
    })
    .await;
    let tidegate = Tidegate::start(app.address, "").await;
    assert_eq!(request(tidegate.listen, "GET", "/other/a", &["x-id: a"], &[]).await.status, 502);
    assert_eq!(record.lock().expect("not poisoned")["a"], 1);
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn a_post_on_a_connection_that_was_closed_long_ago_finds_another() {
    let record = Record::default();
    let app = closing_app(Duration::from_millis(50), &record).await;
    let tidegate = Tidegate::start(app.address, "").await;
    for number in 0..5 {
        let id = format!("x-id: {number}");
        assert_eq!(request(tidegate.listen, "POST", "/other/a", &[&id], b"x").await.status, 200);
        pause(120).await;
    }
    assert!(record.lock().expect("not poisoned").values().all(|came| *came == 1));
    tidegate.at_rest(5).await;
}

#[tokio::test]
async fn a_second_sending_keeps_its_one_seat() {
    let record = Record::default();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (kept, counted, highest) = (Arc::clone(&record), Arc::clone(&now), Arc::clone(&most));
    let app = WireApp::start(move |mut wire, _| {
        let (record, now, most) = (Arc::clone(&kept), Arc::clone(&counted), Arc::clone(&highest));
        async move {
            for round in 0.. {
                if !take(&mut wire, &record).await || round > 0 {
                    return;
                }
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                pause(20).await;
                now.fetch_sub(1, Ordering::SeqCst);
                wire.send(OK).await;
            }
        }
    })
    .await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    let asked: Vec<_> = (0..20)
        .map(|number| {
            let address = tidegate.listen;
            tokio::spawn(async move { get_as(address, &number.to_string(), "/other/a").await.status })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.expect("no panic"), 200);
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
    tidegate.at_rest(20).await;
}

#[tokio::test]
async fn connections_to_the_app_have_a_cap() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 2\napp.connections_max = 2").await;
    let asked: Vec<_> = (0..30)
        .map(|number| {
            let address = tidegate.listen;
            tokio::spawn(async move { get_as(address, &number.to_string(), "/other/a?ms=10").await.status })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.expect("no panic"), 200);
    }
    assert_eq!(app.connections(), 2);
    tidegate.at_rest(30).await;
}

#[tokio::test]
async fn connections_to_the_app_end_before_they_are_too_old_or_idle_for_too_long() {
    for settings in ["app.idle_timeout = \"200ms\"", "app.age_max = \"200ms\""] {
        let app = App::start().await;
        let tidegate = Tidegate::start(app.address, settings).await;
        get(tidegate.listen, "/other/a").await;
        get(tidegate.listen, "/other/a").await;
        assert_eq!(app.connections(), 1);
        pause(250).await;
        get(tidegate.listen, "/other/a").await;
        assert_eq!(app.connections(), 2, "{settings}");
        tidegate.until_metric(r#"tidegate_app_connections{state="idle"}"#, 0.0).await;
        tidegate.at_rest(3).await;
    }
}

#[tokio::test]
async fn an_app_that_says_how_long_it_keeps_connections_is_believed() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.idle_timeout = \"60s\"").await;
    get(tidegate.listen, "/other/a?h=keep-alive:timeout%3D1").await;
    pause(600).await;
    get(tidegate.listen, "/other/a").await;
    assert_eq!(app.connections(), 2);
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn an_app_without_health_path_is_down_after_five_failed_connects_and_up_with_the_first_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address: SocketAddr = listener.local_addr().expect("an address");
    drop(listener);
    let tidegate = Tidegate::start(address, "").await;
    for number in 0..5 {
        assert!((tidegate.metric("tidegate_app_up").await - 1.0).abs() < 1e-9, "after {number}");
        assert_eq!(get(tidegate.listen, "/other/a").await.status, 502);
    }
    tidegate.until_metric("tidegate_app_up", 0.0).await;
    let app = App::start_on(address).await;
    assert_eq!(get(tidegate.listen, "/other/a").await.status, 200);
    tidegate.until_metric("tidegate_app_up", 1.0).await;
    assert_eq!(tidegate.ask("/readyz").await.0, 200, "whatever the app does");
    drop(app);
    tidegate.at_rest(6).await;
}

#[tokio::test]
async fn an_app_with_a_health_path_is_judged_by_it() {
    let well = Arc::new(AtomicBool::new(true));
    let kept = Arc::clone(&well);
    let app = WireApp::start(move |mut wire, _| {
        let well = Arc::clone(&kept);
        async move {
            while let Some(head) = wire.head().await {
                let sick = head.starts_with("GET /health ") && !well.load(Ordering::Relaxed);
                wire.send(if sick { "HTTP/1.1 503 Sick\r\ncontent-length: 0\r\n\r\n" } else { OK }).await;
            }
        }
    })
    .await;
    let tidegate = Tidegate::start(app.address, "app.health = \"/health\"\napp.health_interval = \"100ms\"").await;
    tidegate.until_metric("tidegate_app_up", 1.0).await;
    well.store(false, Ordering::Relaxed);
    tidegate.until_metric("tidegate_app_up", 0.0).await;
    assert_eq!(get(tidegate.listen, "/other/a").await.status, 200, "requests are still tried");
    well.store(true, Ordering::Relaxed);
    tidegate.until_metric("tidegate_app_up", 1.0).await;
    assert!(tidegate.events().contains("the app is down") && tidegate.events().contains("the app is up again"));
    tidegate.at_rest(1).await;
}
