//! What can be seen: every request has one outcome and one line, and figures and lines agree.

#![expect(clippy::float_cmp, reason = "counts are exact")]

mod common;

use std::collections::BTreeMap;

use common::{
    App, Tidegate, Wire, get, request,
    wire::{exchange, message},
};

#[tokio::test]
async fn every_outcome_has_one_line_with_every_field_and_the_figures_agree() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.import.closed = true\nlog.clients_plain = true").await;
    let answer = request(tidegate.listen, "POST", "/doc/a?bytes=7&db=12.5", &["x-client: alice"], b"hello").await;
    assert_eq!(answer.status, 200);
    assert_eq!(request(tidegate.listen, "POST", "/import/a", &["x-client: alice"], b"hello").await.status, 503);
    assert_eq!(get(tidegate.listen, "/doc/b?die").await.status, 502);
    assert_eq!(exchange(tidegate.listen, "GET /doc HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await.status, 400);
    assert_eq!(request(tidegate.listen, "POST", "/inspected?status=404", &[], br#"{"kind":"k","id":"i"}"#).await.status, 404);
    let mut leaver = Wire::connect(tidegate.listen).await;
    leaver.send(message("GET", "/large/c?until=done", &[], &[])).await;
    app.until_running("large", 1).await;
    leaver.reset();
    tidegate.until_metric(r#"tidegate_requests_total{class="large",outcome="gone"}"#, 1.0).await;
    app.let_go("done");

    let lines = tidegate.at_rest(6).await;
    let line = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap_or_else(|| panic!("{path} in {lines:#?}"));
    let fields = |path: &str, names: &[&str]| names.iter().map(|name| line(path)[*name].to_string()).collect::<Vec<_>>().join(" ");
    let names = ["method", "client", "route", "class", "documents", "effect", "outcome", "rule", "status", "bytes_in", "bytes_out"];
    assert_eq!(fields("/doc/a", &names), r#""POST" "alice" "write" "sync" ["doc:doc/a"] "write" "forwarded" null 200 5 7"#);
    assert!(line("/doc/a")["time"].as_str().expect("a time").ends_with('Z'));
    assert!(line("/doc/a")["app_ms"].as_f64().expect("a time") <= line("/doc/a")["total_ms"].as_f64().expect("a time"));
    assert_eq!((&line("/doc/a")["db_ms"], &line("/doc/a")["wait_ms"]), (&12.5.into(), &0.0.into()));
    assert!(fields("/import/a", &names[..9]).ends_with(r#"["doc:a"] "write" "refused" "closed" 503"#));
    assert!(line("/import/a")["app_ms"].is_null());
    assert!(fields("/doc/b", &names[..9]).ends_with(r#"["doc:doc/b"] "read" "failed" null 502"#));
    assert!(fields("/doc", &names[..9]).ends_with(r#""none" [] "none" "refused" "malformed" 400"#));
    assert!(fields("/inspected", &names[..9]).ends_with(r#""inspected" "sync" ["doc:i"] "write" "forwarded" null 404"#));
    assert!(fields("/large/c", &names[..8]).ends_with(r#""large read" "large" ["doc:c"] "read" "gone" null"#));

    let metrics = tidegate.metrics().await;
    let mut counted: BTreeMap<(String, String), f64> = BTreeMap::new();
    for line in &lines {
        let key = (line["class"].as_str().expect("a class").to_owned(), line["outcome"].as_str().expect("an outcome").to_owned());
        *counted.entry(key).or_default() += 1.0;
    }
    for ((class, outcome), count) in counted {
        assert_eq!(metrics[&format!("tidegate_requests_total{{class=\"{class}\",outcome=\"{outcome}\"}}")], count);
    }
    assert_eq!(metrics[r#"tidegate_refusals_total{class="import",rule="closed"}"#], 1.0);
    assert_eq!(metrics[r#"tidegate_refusals_total{class="none",rule="malformed"}"#], 1.0);
    assert_eq!(metrics[r#"tidegate_failures_total{error="connection_terminated"}"#], 1.0);
    assert_eq!(metrics[r#"tidegate_database_seconds_total{class="sync"}"#], 0.0125);
    assert_eq!(metrics[r#"tidegate_database_queries_total{class="sync"}"#], 3.0);
    assert_eq!(metrics[r#"tidegate_request_bytes_total{class="sync"}"#], 5.0 + 21.0);
    assert_eq!(metrics[r#"tidegate_response_bytes_total{class="import"}"#], line("/import/a")["bytes_out"].as_f64().expect("a number"));
    assert_eq!(metrics[r#"tidegate_request_seconds_count{class="sync"}"#], 3.0);
    assert_eq!(metrics[r#"tidegate_request_seconds_count{class="import"}"#], 0.0, "a refusal is no answer");
    assert_eq!(metrics["tidegate_log_lines_dropped_total"], 0.0);
}

#[tokio::test]
async fn who_takes_the_apps_time_is_told() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "log.clients_plain = true").await;
    for (client, target) in [("heavy", "/doc/dear?ms=400"), ("light", "/doc/cheap?ms=20")] {
        request(tidegate.listen, "GET", target, &[&format!("x-client: {client}")], &[]).await;
    }
    tidegate.at_rest(2).await;
    let top = &tidegate.state().await["top"];
    assert_eq!(
        (&top["documents"][0]["name"], &top["clients"][0]["name"], &top["routes"][0]["name"]),
        (&"doc:doc/dear".into(), &"heavy".into(), &"read".into())
    );
    assert!(top["documents"][0]["app_seconds"].as_f64().expect("seconds") >= 0.4);
}

#[tokio::test]
async fn the_longest_runner_is_seen_while_it_runs() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", "/import/a?until=done", &[], &[])).await;
    app.until_running("import", 1).await;
    common::eventually("an age", || async {
        (tidegate.metric(r#"tidegate_oldest_running_seconds{class="import"}"#).await >= 0.3).then_some(())
    })
    .await;
    assert!(tidegate.state().await["classes"]["import"]["oldest_running_seconds"].as_f64().expect("seconds") >= 0.3);
    app.let_go("done");
    assert_eq!(wire.answer().await.status, 200);
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn writes_of_everything_are_counted_by_route() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    // Duplicate keys on a selector's path make it unread.
    assert_eq!(request(tidegate.listen, "POST", "/inspected", &[], br#"{"kind":"k","id":"a","id":"b"}"#).await.status, 200);
    // The second one may come long after the prefix.
    let long = format!(r#"{{"kind":"k","id":"a","text":"{}","id":"b"}}"#, "x".repeat(100_000));
    assert_eq!(request(tidegate.listen, "POST", "/inspected", &[], long.as_bytes()).await.status, 200);
    let lines = tidegate.at_rest(2).await;
    for line in &lines {
        assert_eq!((&line["route"], &line["effect"]), (&"inspected".into(), &"write".into()));
        assert!(line["documents"].as_array().expect("scopes").contains(&"*".into()), "{line}");
    }
    assert_eq!(lines[1]["bytes_in"], long.len());
    tidegate.until_metric(r#"tidegate_everything_writes_total{route="inspected"}"#, 2.0).await;
}
