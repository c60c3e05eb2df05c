//! What the gate's queue promises: bounds on its length and its waits, caps per client and per document, fairness, writes first, reserves.

#![expect(clippy::float_cmp, reason = "counts are exact")]

mod common;

use std::time::{Duration, Instant};

use common::{Answer, App, Tidegate, get, pause, wire::get_as};
use tokio::task::JoinHandle;

/// No class keeps seats.
const NO_RESERVES: &str = "class.sync.reserve = 0.0\nclass.large.reserve = 0.0\nclass.import.reserve = 0.0\n";

/// Asks in the background.
fn ask(tidegate: &Tidegate, method: &'static str, client: &str, target: &str) -> JoinHandle<Answer> {
    let (address, client, target) = (tidegate.listen, format!("x-client: {client}"), target.to_owned());
    tokio::spawn(async move { common::request(address, method, &target, &[&client], &[]).await })
}

#[tokio::test]
async fn who_waits_too_long_is_refused_at_its_deadline() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1\nclass.other.wait_max = \"300ms\"").await;
    let first = ask(&tidegate, "GET", "a", "/other/a?until=done");
    app.until_running("other", 1).await;
    let since = Instant::now();
    let answer = get_as(tidegate.listen, "b", "/other/b").await;
    assert!(since.elapsed() >= Duration::from_millis(300));
    assert_eq!((answer.status, answer.rule().as_str()), (503, "deadline"));
    assert!((1..=15).contains(&answer.retry_after()));
    app.let_go("done");
    assert_eq!(first.await.expect("no panic").status, 200);
    let lines = tidegate.at_rest(2).await;
    let refused = lines.iter().find(|line| line["outcome"] == "refused").expect("its line");
    assert!(refused["wait_ms"].as_f64().expect("a wait") >= 300.0 && refused["app_ms"].is_null());
    assert_eq!(app.targets().len(), 1);
}

#[tokio::test]
async fn when_the_queue_is_full_the_client_with_the_most_waiting_gives_way() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1\nclass.other.queue_max = 2").await;
    let first = ask(&tidegate, "GET", "a", "/other/first?until=done");
    app.until_running("other", 1).await;
    let older = ask(&tidegate, "GET", "a", "/other/older");
    tidegate.until_queued(1).await;
    let newer = ask(&tidegate, "GET", "a", "/other/newer");
    tidegate.until_queued(2).await;
    let own = get_as(tidegate.listen, "a", "/other/own").await;
    assert_eq!((own.status, own.rule().as_str()), (503, "queue_full"));
    assert!((1..=15).contains(&own.retry_after()));
    let other = ask(&tidegate, "GET", "b", "/other/other");
    let newer = newer.await.expect("no panic");
    assert_eq!((newer.status, newer.rule().as_str()), (429, "queue_full"));
    assert!((1..=15).contains(&newer.retry_after()));
    app.let_go("done");
    for answer in [first, older, other] {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
    tidegate.at_rest(5).await;
}

#[tokio::test]
async fn a_client_at_its_cap_is_passed_over_and_told_429() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 4\nclass.other.client.in_flight = 1\nclass.other.wait_max = \"600ms\"").await;
    let first = ask(&tidegate, "GET", "a", "/other/a?until=done");
    app.until_running("other", 1).await;
    let second = ask(&tidegate, "GET", "a", "/other/a");
    tidegate.until_queued(1).await;
    assert_eq!(get_as(tidegate.listen, "b", "/other/b").await.status, 200, "others go on");
    let second = second.await.expect("no panic");
    assert_eq!((second.status, second.rule().as_str()), (429, "client_cap"));
    assert!((1..=15).contains(&second.retry_after()));
    app.let_go("done");
    assert_eq!(first.await.expect("no panic").status, 200);
    assert_eq!(get_as(tidegate.listen, "a", "/other/a").await.status, 200);
    tidegate.at_rest(4).await;
}

#[tokio::test]
async fn a_client_has_one_seat_per_document_in_large_and_import() {
    let app = App::start().await;
    for (class, target) in [("large", "/large/"), ("import", "/import/")] {
        let tidegate = Tidegate::start(app.address, &format!("class.{class}.client.in_flight = 8")).await;
        let (one, other, done) = (format!("{target}one"), format!("{target}other"), format!("until={class}"));
        let running = [
            ask(&tidegate, "POST", "a", &format!("{one}?{done}")),
            ask(&tidegate, "POST", "a", &format!("{other}?{done}")),
            ask(&tidegate, "POST", "b", &format!("{one}?{done}")),
        ];
        app.until_running(class, 3).await;
        let second = ask(&tidegate, "POST", "a", &one);
        tidegate.until_queued(1).await;
        pause(100).await;
        assert_eq!(app.running(class).len(), 3);
        app.let_go(class);
        for answer in running.into_iter().chain([second]) {
            assert_eq!(answer.await.expect("no panic").status, 200);
        }
        tidegate.at_rest(4).await;
    }
}

#[tokio::test]
async fn slow_classes_refuse_at_once_what_would_wait_for_too_long() {
    let app = App::start().await;
    let settings = format!("{NO_RESERVES}app.seats = 1\nclass.large.wait_max = \"10s\"\nclass.other.wait_max = \"10s\"");
    let tidegate = Tidegate::start(app.address, &settings).await;
    // What one takes is known from the last one; four of them would take more than ten seconds.
    assert_eq!(get_as(tidegate.listen, "a", "/large/0?ms=3000").await.status, 200);
    let running = ask(&tidegate, "GET", "a", "/large/1?until=done");
    app.until_running("large", 1).await;
    let mut waiting = Vec::new();
    for (count, client) in ["b", "c", "d"].iter().enumerate() {
        waiting.push(ask(&tidegate, "GET", client, "/large/2"));
        tidegate.until_queued(count + 1).await;
    }
    let since = Instant::now();
    let answer = get_as(tidegate.listen, "e", "/large/2").await;
    assert_eq!((answer.status, answer.rule().as_str()), (503, "predicted_wait"));
    assert!(since.elapsed() < Duration::from_secs(5), "it did not have to wait for that");
    // The queue says its predicted wait, and 1 to 15 s.
    assert!((10..=15).contains(&answer.retry_after()));
    app.let_go("done");
    for answer in waiting.into_iter().chain([running]) {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
    tidegate.at_rest(6).await;
}

#[tokio::test]
async fn a_heavy_client_does_not_stand_in_the_way_of_a_light_one() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    // The class learns what a request takes.
    get_as(tidegate.listen, "x", "/other/x?ms=50").await;
    let mut all = vec![ask(&tidegate, "GET", "x", "/other/x?until=done")];
    app.until_running("other", 1).await;
    for count in 1..=6 {
        all.push(ask(&tidegate, "GET", "heavy", "/other/heavy?ms=20"));
        tidegate.until_queued(count).await;
    }
    all.push(ask(&tidegate, "GET", "light", "/other/light?ms=20"));
    tidegate.until_queued(7).await;
    app.let_go("done");
    for answer in all {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
    let order = app.targets().iter().skip(2).position(|target| target.contains("light")).expect("it ran");
    assert!(order <= 1, "it came as number {order}: {:?}", app.targets());
    tidegate.at_rest(9).await;
}

#[tokio::test]
async fn in_a_slow_class_what_writes_goes_first() {
    let app = App::start().await;
    for (class, writes_first) in [("large", true), ("other", false)] {
        let before = app.targets().len();
        let tidegate = Tidegate::start(app.address, &format!("{NO_RESERVES}app.seats = 1")).await;
        let mut all = vec![ask(&tidegate, "GET", "x", &format!("/{class}/x?until={class}"))];
        app.until_running(class, 1).await;
        for (count, client) in ["a", "b", "c"].iter().enumerate() {
            all.push(ask(&tidegate, "GET", client, &format!("/{class}/read{client}")));
            tidegate.until_queued(count + 1).await;
        }
        all.push(ask(&tidegate, "POST", "d", &format!("/{class}/typed")));
        tidegate.until_queued(4).await;
        app.let_go(class);
        for answer in all {
            assert_eq!(answer.await.expect("no panic").status, 200);
        }
        let order = app.targets()[before + 1..].iter().position(|target| target.contains("typed")).expect("it ran");
        assert_eq!(order == 0, writes_first, "{:?}", app.targets());
        tidegate.at_rest(5).await;
    }
}

#[tokio::test]
async fn reserves_keep_seats_for_syncs_while_imports_flood() {
    let app = App::start().await;
    // Of 8 seats 2 are reserved for sync, 2 for large and 1 for import.
    let tidegate = Tidegate::start(app.address, "app.seats = 8").await;
    assert_eq!(get_as(tidegate.listen, "a", "/known").await.status, 200);
    let flood: Vec<_> =
        (0..20).map(|number| ask(&tidegate, "POST", &format!("i{number}"), &format!("/import/{number}?until=done"))).collect();
    // 4 are kept from them.
    app.until_running("import", 4).await;
    tidegate.until_queued(16).await;
    let since = Instant::now();
    for _ in 0..5 {
        assert_eq!(get_as(tidegate.listen, "a", "/known").await.status, 200);
    }
    assert!(since.elapsed() < Duration::from_secs(5), "it waited for an import");
    // Of what nothing is known it may turn out to be large: it is passed over while only kept seats are left.
    let unseen = ask(&tidegate, "GET", "b", "/unseen");
    tidegate.until_queued(17).await;
    assert_eq!(get_as(tidegate.listen, "a", "/known").await.status, 200, "while others go on");
    assert_eq!(app.most("import"), 4);
    app.let_go("done");
    for answer in flood.into_iter().chain([unseen]) {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
    tidegate.at_rest(28).await;
}

#[tokio::test]
async fn the_ceiling_of_a_class_holds_while_others_wait() {
    let app = App::start().await;
    let settings =
        format!("{NO_RESERVES}app.seats = 4\nclass.large.ceiling = 0.5\nclass.large.idle_ceiling = 0.5\nclass.large.client.in_flight = 8");
    let tidegate = Tidegate::start(app.address, &settings).await;
    let large: Vec<_> = (0..5).map(|number| ask(&tidegate, "GET", "a", &format!("/large/{number}?until=done"))).collect();
    app.until_running("large", 2).await;
    tidegate.until_queued(3).await;
    let others: Vec<_> = (0..2).map(|_| ask(&tidegate, "GET", "b", "/other/b?until=done")).collect();
    app.until_running("other", 2).await;
    app.let_go("done");
    for answer in large.into_iter().chain(others) {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
    assert_eq!(app.most("large"), 2);
    tidegate.at_rest(7).await;
}

#[tokio::test]
async fn in_shadow_everything_runs_and_what_would_have_been_refused_is_counted() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "gate.mode = \"shadow\"\napp.seats = 1\nclass.other.wait_max = \"200ms\"").await;
    let all: Vec<_> = (0..4).map(|number| ask(&tidegate, "GET", &format!("{number}"), "/other/a?until=done")).collect();
    app.until_running("other", 4).await;
    assert_eq!(tidegate.in_flight().await, 4);
    pause(400).await;
    app.let_go("done");
    for answer in all {
        let answer = answer.await.expect("no panic");
        assert_eq!(answer.status, 200);
        assert!(answer.header("tidegate-decision").expect("it is shown").ends_with("mode=shadow"));
    }
    tidegate.at_rest(4).await;
    let metrics = tidegate.metrics().await;
    assert_eq!(metrics[r#"tidegate_shadow_refusals_total{class="other",rule="deadline"}"#], 3.0);
    assert_eq!(common::sum(&metrics, "tidegate_refusals_total{"), 0.0);
}

#[tokio::test]
async fn with_the_gate_off_nothing_is_refused_or_counted() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "gate.mode = \"off\"\napp.seats = 1\nclass.other.wait_max = \"200ms\"").await;
    let all: Vec<_> = (0..4).map(|number| ask(&tidegate, "GET", &format!("{number}"), "/other/a?until=done")).collect();
    app.until_running("other", 4).await;
    pause(400).await;
    app.let_go("done");
    for answer in all {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
    tidegate.at_rest(4).await;
    let metrics = tidegate.metrics().await;
    assert_eq!(common::sum(&metrics, "tidegate_shadow_refusals_total{") + common::sum(&metrics, "tidegate_refusals_total{"), 0.0);
}

#[tokio::test]
async fn the_queue_is_measured() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    let first = ask(&tidegate, "GET", "a", "/other/a?until=done");
    app.until_running("other", 1).await;
    let second = ask(&tidegate, "GET", "b", "/other/b");
    tidegate.until_queued(1).await;
    let state = tidegate.state().await;
    assert_eq!((&state["classes"]["other"]["in_flight"], &state["classes"]["other"]["queued"]), (&1.into(), &1.into()));
    assert!(state["classes"]["other"]["oldest_waiting_seconds"].as_f64().expect("a number") >= 0.0);
    pause(300).await;
    app.let_go("done");
    assert_eq!(first.await.expect("no panic").status, 200);
    assert_eq!(second.await.expect("no panic").status, 200);
    get(tidegate.listen, "/other/c").await;
    let lines = tidegate.at_rest(3).await;
    let waits: Vec<f64> = lines.iter().map(|line| line["wait_ms"].as_f64().expect("a wait")).collect();
    assert_eq!(waits.iter().filter(|wait| **wait >= 250.0).count(), 1, "{waits:?}");
    let metrics = tidegate.metrics().await;
    assert_eq!(metrics[r#"tidegate_queue_seconds_count{class="other"}"#], 3.0);
    assert!(metrics[r#"tidegate_queue_seconds_sum{class="other"}"#] >= 0.25);
}
