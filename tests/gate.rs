//! What the gate promises before its queue: closed classes, rates, their order, what a refusal gives back, modes, and how a refusal looks.

mod common;

use std::collections::BTreeSet;

use common::{
    App, Tidegate, Wire, get, request,
    wire::{get_as, message},
};

#[tokio::test]
async fn a_closed_class_is_refused_and_the_others_are_not() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.other.closed = true").await;
    let answer = get(tidegate.listen, "/other/a").await;
    assert_eq!((answer.status, answer.rule().as_str()), (503, "closed"));
    assert_eq!(get(tidegate.listen, "/a").await.status, 200);
    assert_eq!(app.targets(), ["/a"]);
    let lines = tidegate.at_rest(2).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["rule"], &lines[0]["class"]), (&"refused".into(), &"closed".into(), &"other".into()));
}

#[tokio::test]
async fn a_refusal_says_why_and_when_to_come_back() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.other.closed = true").await;
    let answer = get(tidegate.listen, "/other/a").await;
    assert_eq!((answer.header("content-type"), answer.header("cache-control")), (Some("application/problem+json"), Some("no-store")));
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("problem JSON");
    assert_eq!((&problem["status"], &problem["class"], &problem["rule"]), (&503.into(), &"other".into(), &"closed".into()));
    assert_eq!(problem["retry_after"], answer.retry_after());
    assert!(answer.header("proxy-status").is_none(), "the app did nothing wrong");
    // Those who were refused together do not return together.
    let mut seconds = BTreeSet::new();
    for _ in 0..30 {
        seconds.insert(get(tidegate.listen, "/other/a").await.retry_after());
    }
    assert!(seconds.len() > 3 && seconds.iter().all(|seconds| (30..=45).contains(seconds)), "{seconds:?}");
    tidegate.at_rest(31).await;
}

#[tokio::test]
async fn a_client_over_its_rate_is_told_429_and_the_others_are_served() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.other.client.rate = { per_second = 0.05, burst = 2 }").await;
    for wanted in [200, 200, 429, 429] {
        let answer = get_as(tidegate.listen, "a", "/other/a").await;
        assert_eq!(answer.status, wanted);
        if wanted == 429 {
            assert_eq!(answer.rule(), "client_rate");
            // A token in 20 s, times 1 to 1.5.
            assert!((15..=31).contains(&answer.retry_after()), "{}", answer.head);
        }
    }
    assert_eq!(get_as(tidegate.listen, "b", "/other/a").await.status, 200);
    assert_eq!(get_as(tidegate.listen, "a", "/a").await.status, 200, "the rate is the class's");
    let lines = tidegate.at_rest(6).await;
    assert_eq!(lines.iter().filter(|line| line["rule"] == "client_rate").count(), 2);
    tidegate.until_metric(r#"tidegate_refusals_total{class="other",rule="client_rate"}"#, 2.0).await;
}

#[tokio::test]
async fn a_class_over_its_rate_is_told_503() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.other.rate = { per_second = 0.001, burst = 2 }").await;
    for (client, wanted) in [("a", 200), ("b", 200), ("c", 503)] {
        let answer = get_as(tidegate.listen, client, "/other/a").await;
        assert_eq!(answer.status, wanted);
        if wanted == 503 {
            assert_eq!(answer.rule(), "class_rate");
            assert!((60..=120).contains(&answer.retry_after()), "never more than two minutes: {}", answer.head);
        }
    }
    tidegate.at_rest(3).await;
}

#[tokio::test]
async fn the_first_rule_that_refuses_wins() {
    let app = App::start().await;
    let rates = "class.other.client.rate = { per_second = 0.01, burst = 1 }\nclass.other.rate = { per_second = 0.01, burst = 1 }\n";
    let tidegate = Tidegate::start(app.address, rates).await;
    assert_eq!(get_as(tidegate.listen, "a", "/other/a").await.status, 200);
    assert_eq!(get_as(tidegate.listen, "a", "/other/a").await.rule(), "client_rate");
    assert_eq!(get_as(tidegate.listen, "b", "/other/a").await.rule(), "class_rate");
    tidegate.at_rest(3).await;
    let tidegate = Tidegate::start(app.address, &format!("{rates}class.other.closed = true")).await;
    for _ in 0..3 {
        assert_eq!(get_as(tidegate.listen, "a", "/other/a").await.rule(), "closed");
    }
    tidegate.at_rest(3).await;
}

#[tokio::test]
async fn a_refusal_gives_back_what_it_took_on_the_way() {
    let app = App::start().await;
    let settings = "app.seats = 1\nclass.other.wait_max = \"200ms\"\nclass.other.client.rate = { per_second = 0.01, burst = 2 }\nclass.other.rate = { per_second = 0.01, burst = 4 }";
    let tidegate = Tidegate::start(app.address, settings).await;
    let mut first = Wire::connect(tidegate.listen).await;
    first.send(message("GET", "/other/first?until=done", &["x-client: first"], &[])).await;
    app.until_running("other", 1).await;
    // Each takes a token of the client's and one of the class's, waits, and is refused.
    for _ in 0..4 {
        assert_eq!(get_as(tidegate.listen, "a", "/other/a").await.rule(), "deadline");
    }
    // So does one that leaves the queue by itself.
    let mut leaver = Wire::connect(tidegate.listen).await;
    leaver.send(message("GET", "/other/leaver", &["x-client: a"], &[])).await;
    tidegate.until_queued(1).await;
    leaver.reset();
    tidegate.until_queued(0).await;
    app.let_go("done");
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(get_as(tidegate.listen, "a", "/other/a").await.status, 200);
    assert_eq!(get_as(tidegate.listen, "a", "/other/a").await.status, 200);
    assert_eq!(get_as(tidegate.listen, "a", "/other/a").await.rule(), "client_rate");
    // Which the class's bucket has not noticed: one of its four is left.
    assert_eq!(get_as(tidegate.listen, "b", "/other/a").await.status, 200);
    assert_eq!(get_as(tidegate.listen, "b", "/other/a").await.rule(), "class_rate");
    tidegate.at_rest(11).await;
}

#[tokio::test]
async fn rates_have_modes_of_their_own() {
    let app = App::start().await;
    let shadow = r#"tidegate_shadow_refusals_total{class="other",rule="client_rate"}"#;
    // The mode of the rate, of the client's table, of the class, of the gate; and what becomes of the second request.
    let cases: [(&str, &str, u16, f64); 6] = [
        (", mode = \"shadow\"", "", 200, 1.0),
        (", mode = \"off\"", "", 200, 0.0),
        ("", "class.other.mode = \"shadow\"", 200, 1.0),
        ("", "class.other.client.mode = \"shadow\"", 200, 1.0),
        ("", "gate.mode = \"shadow\"", 200, 1.0),
        (", mode = \"enforce\"", "gate.mode = \"shadow\"", 429, 0.0),
    ];
    for (own, around, status, counted) in cases {
        let settings = format!("class.other.client.rate = {{ per_second = 0.01, burst = 1{own} }}\n{around}");
        let tidegate = Tidegate::start(app.address, &settings).await;
        assert_eq!(get(tidegate.listen, "/other/a").await.status, 200);
        let answer = get(tidegate.listen, "/other/a").await;
        assert_eq!(answer.status, status, "{settings}");
        if counted > 0.0 {
            assert_eq!(answer.header("tidegate-decision"), Some("class=other; rule=client_rate; mode=shadow"), "{settings}");
        }
        let lines = tidegate.at_rest(2).await;
        assert_eq!(lines[1]["outcome"], if status == 200 { "forwarded" } else { "refused" });
        tidegate.until_metric(shadow, counted).await;
    }
}

#[tokio::test]
async fn a_refusal_has_the_profiles_shape() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "profile = \"dynalist\"\nclass.sync.closed = true").await;
    let body = br#"{"token":"t","file_id":"a","changes":[{"action":"edit"}]}"#;
    let answer = request(tidegate.listen, "POST", "/api/v1/doc/edit", &["content-type: application/json"], body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let shaped: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(shaped["_code"], "TooManyRequests");
    let seconds = answer.retry_after();
    assert!(shaped["_msg"].as_str().expect("a text").contains(&seconds.to_string()), "{shaped}");
    assert_eq!((answer.header("cache-control"), answer.rule().as_str()), (Some("no-store"), "closed"));
    let lines = tidegate.at_rest(1).await;
    assert_eq!((&lines[0]["outcome"], &lines[0]["status"], &lines[0]["route"]), (&"refused".into(), &200.into(), &"edit".into()));
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn our_own_failures_have_the_profiles_shape_and_keep_their_status() {
    let app = App::start().await;
    let profile = format!("{}\n", common::PROFILE).replacen(
        "name = \"test\"",
        "name = \"test\"\nfailure = { headers = { x-shape = \"ours\" }, body = 'try again in {retry_after} s' }",
        1,
    );
    let tidegate = Tidegate::start_with(app.address, &profile, "").await;
    let answer = get(tidegate.listen, "/a?die").await;
    assert_eq!((answer.status, answer.header("x-shape")), (502, Some("ours")));
    assert_eq!(answer.text(), format!("try again in {} s", answer.retry_after()));
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_terminated"));
    tidegate.at_rest(1).await;
}
