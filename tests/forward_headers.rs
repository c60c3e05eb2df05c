//! What forwarding promises of headers: what is removed, what is set, whose word is believed.

mod common;

use common::{App, Tidegate, get, request};

/// What a client may send that must not pass as it is.
const SENT: [&str; 19] = [
    "connection: close, X-Named, host",
    "x-named: 1",
    "keep-alive: timeout=5",
    "te: trailers, gzip",
    "proxy-authorization: Basic eDp5",
    "upgrade: h2c",
    "http2-settings: AAMAAABk",
    "tidegate-decision: class=noop",
    "x_client: 7",
    "x-forwarded-for: 9.9.9.9",
    "x-forwarded-for: 8.8.8.8",
    "x-forwarded-proto: https",
    "x-forwarded-host: public.example",
    "forwarded: for=9.9.9.9",
    "x-real-ip: 9.9.9.9",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "cookie: a=1",
    "cookie: b=2",
    "authorization: Bearer secret",
];

#[tokio::test]
async fn what_belongs_to_one_connection_stops_here_and_nobody_is_believed() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    assert_eq!(request(tidegate.listen, "GET", "/a", &SENT, &[]).await.status, 200);
    let seen = &app.seen()[0];
    for name in [
        "x-named",
        "keep-alive",
        "te",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
        "tidegate-decision",
        "x_client",
        "forwarded",
        "x-real-ip",
    ] {
        assert!(!seen.headers.contains_key(name), "{name} passed: {seen:?}");
    }
    assert!(!seen.header("connection").contains("amed"));
    assert_eq!(seen.header("host"), "test");
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-forwarded-host"), "test");
    assert!(seen.header("via").starts_with("1.1 tidegate-"));
    assert_eq!(seen.header("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(seen.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(seen.header("authorization"), "Bearer secret");
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn a_trusted_proxys_chain_is_continued() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "listen.trusted_proxies = [\"127.0.0.0/8\"]").await;
    assert_eq!(request(tidegate.listen, "GET", "/a", &SENT, &[]).await.status, 200);
    let seen = &app.seen()[0];
    assert_eq!(seen.header("x-forwarded-for"), "9.9.9.9, 8.8.8.8, 127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "https");
    assert_eq!(seen.header("x-forwarded-host"), "public.example");
    assert_eq!(seen.header("forwarded"), "for=9.9.9.9, for=127.0.0.1");
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn the_clients_address_is_the_peers_or_what_a_trusted_proxy_says() {
    const RATE: &str = "log.clients_plain = true\nclass.other.client.rate = { per_second = 0.01, burst = 1 }\n";
    let app = App::start().await;
    let from = |listen, chain: &'static str| async move { request(listen, "GET", "/other/a", &[chain], &[]).await.status };

    let tidegate = Tidegate::start(app.address, RATE).await;
    assert_eq!(from(tidegate.listen, "x-forwarded-for: 1.1.1.1").await, 200);
    assert_eq!(from(tidegate.listen, "x-forwarded-for: 2.2.2.2").await, 429, "anybody can write a header");
    let lines = tidegate.at_rest(2).await;
    assert!(lines.iter().all(|line| line["client"] == "127.0.0.1"));

    let trusting = format!("{RATE}listen.trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]");
    let tidegate = Tidegate::start(app.address, &trusting).await;
    assert_eq!(from(tidegate.listen, "x-forwarded-for: 1.1.1.1").await, 200);
    assert_eq!(from(tidegate.listen, "x-forwarded-for: 2.2.2.2").await, 200);
    assert_eq!(
        from(tidegate.listen, "x-forwarded-for: 3.3.3.3, 2.2.2.2, 10.0.0.7").await,
        429,
        "the first from the right that is no proxy"
    );
    let clients: Vec<_> = tidegate.at_rest(3).await.iter().map(|line| line["client"].clone()).collect();
    assert_eq!(clients, ["1.1.1.1", "2.2.2.2", "2.2.2.2"]);

    let named = format!("{trusting}\nlisten.client_address = \"cf-connecting-ip\"");
    let tidegate = Tidegate::start(app.address, &named).await;
    assert_eq!(from(tidegate.listen, "cf-connecting-ip: 4.4.4.4").await, 200);
    assert_eq!(from(tidegate.listen, "cf-connecting-ip: 4.4.4.4").await, 429);
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn clients_are_hashed_and_no_credential_stands_in_the_log() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    for client in ["alice", "alice", "bob"] {
        request(
            tidegate.listen,
            "GET",
            "/a?token=hidden",
            &[&format!("x-client: {client}"), "authorization: Bearer hidden", "cookie: hidden"],
            &[],
        )
        .await;
    }
    let lines = tidegate.at_rest(3).await;
    assert_eq!(lines[0]["client"], lines[1]["client"]);
    assert_ne!(lines[0]["client"], lines[2]["client"]);
    let text = std::fs::read_to_string(tidegate.folder.path().join("access.log")).expect("a log");
    assert!(!text.contains("hidden") && !text.contains("alice") && !text.contains("127.0.0.1"), "{text}");
}

#[tokio::test]
async fn what_the_app_says_to_us_stops_here() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let target = "/a?bytes=3&h=connection:x-named&h=x-named:1&h=keep-alive:timeout%3D5&h=proxy-authenticate:Basic&h=tidegate-changed:doc%3Aa&h=tidegate-decision:fake&h=x_under:1&h=set-cookie:a%3D1&h=set-cookie:b%3D2&h=x-own:1&h=server:app";
    let answer = get(tidegate.listen, target).await;
    for name in ["x-named", "keep-alive", "proxy-authenticate", "tidegate-changed"] {
        assert!(answer.header(name).is_none(), "{name} passed: {}", answer.head);
    }
    assert_eq!((answer.header("x-own"), answer.header("x_under"), answer.header("server")), (Some("1"), Some("1"), Some("app")));
    assert_eq!(answer.head.matches("set-cookie").count(), 2);
    assert_eq!(answer.header("tidegate-decision"), Some("class=sync; rule=none; mode=enforce"));
    assert_eq!(answer.head.matches("tidegate-decision").count(), 1);
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn the_decision_is_shown_to_whom_the_operator_wants() {
    let app = App::start().await;
    for (expose, shown) in [("none", false), ("trusted", true), ("all", true)] {
        let tidegate = Tidegate::start(app.address, &format!("report.expose = \"{expose}\"")).await;
        assert_eq!(get(tidegate.listen, "/a").await.header("tidegate-decision").is_some(), shown, "{expose}");
        tidegate.at_rest(1).await;
    }
}

#[tokio::test]
async fn an_http_1_0_request_without_host_reaches_the_app_with_one() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    assert_eq!(common::wire::exchange(tidegate.listen, "GET /a HTTP/1.0\r\n\r\n").await.status, 200);
    assert_eq!(app.seen()[0].header("host"), app.address.to_string());
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn a_small_body_of_unknown_length_holds_no_more_memory_than_it_has() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "inspect.memory_max = \"100KiB\"").await;
    let listen = tidegate.listen;
    let send = async move |target: &str, id: &str| {
        let body = format!("{{\"kind\":1,\"id\":\"{id}\"}}");
        let head = format!("POST {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
        common::wire::exchange(listen, format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())).await.status
    };
    let first = tokio::spawn(async move { send("/inspected?until=go", "a").await });
    app.until_running("inspected", 1).await;
    assert_eq!(send("/inspected", "b").await, 200);
    app.let_go("go");
    assert_eq!(first.await.expect("no panic"), 200);
    let lines = tidegate.at_rest(2).await;
    assert!(lines.iter().all(|line| line["documents"] != serde_json::json!(["*"])), "{lines:?}");
}
