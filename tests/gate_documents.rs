//! What the gate promises of documents that cost much: moved while they run, admitted as large afterwards, remembered over a restart.

#![expect(clippy::float_cmp, reason = "counts are exact")]

mod common;

use common::{
    App, Tidegate, Wire, get, pause,
    wire::{get_as, message},
};

fn class_of(answer: &common::Answer) -> String {
    let decision = answer.header("tidegate-decision").expect("it is shown");
    decision.trim_start_matches("class=").split(';').next().expect("a class").to_owned()
}

#[tokio::test]
async fn a_request_that_runs_long_is_charged_to_its_long_class_and_its_document_is_dear_from_then_on() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.sync.long_after = \"300ms\"\nstate.file = \"./tidegate.state\"").await;
    assert_eq!(class_of(&get(tidegate.listen, "/heavy").await), "sync");
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", "/heavy?until=done", &[], &[])).await;
    app.until_running("heavy", 1).await;
    assert_eq!(tidegate.metric(r#"tidegate_in_flight{class="sync"}"#).await, 1.0);
    tidegate.until_metric(r#"tidegate_in_flight{class="large"}"#, 1.0).await;
    assert_eq!(tidegate.metric(r#"tidegate_in_flight{class="sync"}"#).await, 0.0);
    // Others of the same document are large while it still runs.
    assert_eq!(class_of(&get_as(tidegate.listen, "b", "/heavy").await), "large");
    app.let_go("done");
    let answer = wire.answer().await;
    assert_eq!((answer.status, class_of(&answer).as_str()), (200, "sync"), "the class is that of its admission");
    assert_eq!(class_of(&get(tidegate.listen, "/heavy").await), "large");
    assert_eq!(class_of(&get(tidegate.listen, "/light").await), "sync");
    let lines = tidegate.at_rest(5).await;
    assert!(lines.iter().any(|line| line["class"] == "sync" && line["app_ms"].as_f64().expect("a time") >= 300.0));
    let metrics = tidegate.metrics().await;
    assert_eq!(metrics[r#"tidegate_moved_total{class="sync"}"#], 1.0);
    assert!(metrics[r#"tidegate_app_seconds_total{class="large"}"#] >= 0.3, "its time is charged where it ran");
    assert_eq!(metrics["tidegate_documents_dear"], 1.0);

    let mut tidegate = tidegate;
    tidegate.signal("TERM");
    assert_eq!(tidegate.exit_code().await, Some(0));
    let tidegate = tidegate.again().await;
    assert_eq!(class_of(&get(tidegate.listen, "/heavy").await), "large", "a restart forgets nothing");
    assert_eq!(class_of(&get(tidegate.listen, "/light").await), "sync");
}

#[tokio::test]
async fn without_a_state_file_a_restart_forgets() {
    let app = App::start().await;
    let mut tidegate = Tidegate::start(app.address, "class.sync.long_after = \"200ms\"").await;
    assert_eq!(get(tidegate.listen, "/heavy?ms=500").await.status, 200);
    assert_eq!(class_of(&get(tidegate.listen, "/heavy").await), "large");
    tidegate.signal("TERM");
    assert_eq!(tidegate.exit_code().await, Some(0));
    let tidegate = tidegate.again().await;
    assert_eq!(class_of(&get(tidegate.listen, "/heavy").await), "sync");
}

#[tokio::test]
async fn a_document_that_costs_far_more_than_others_is_dear() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.sync.long_after = \"never\"").await;
    for number in 0..30 {
        assert_eq!(get(tidegate.listen, &format!("/light{number}")).await.status, 200);
    }
    for _ in 0..3 {
        assert_eq!(class_of(&get(tidegate.listen, "/heavy?ms=900").await), "sync");
    }
    // What was found takes effect once its neighbours have ended as well.
    pause(2200).await;
    get(tidegate.listen, "/light0").await;
    assert_eq!(class_of(&get(tidegate.listen, "/heavy").await), "large");
    assert_eq!(class_of(&get(tidegate.listen, "/light1").await), "sync");
    tidegate.at_rest(36).await;
}

#[tokio::test]
async fn a_large_class_that_stands_above_its_ceiling_starts_nothing_until_it_has_drained() {
    let app = App::start().await;
    let settings = "app.seats = 8\nclass.sync.long_after = \"200ms\"\nclass.large.reserve = 0.0\nclass.large.ceiling = 0.125\nclass.large.idle_ceiling = 0.125";
    let tidegate = Tidegate::start(app.address, settings).await;
    let mut moved = Vec::new();
    for number in 0..3 {
        let mut wire = Wire::connect(tidegate.listen).await;
        wire.send(message("GET", &format!("/heavy/{number}?until=done{number}"), &[], &[])).await;
        moved.push(wire);
    }
    tidegate.until_metric(r#"tidegate_in_flight{class="large"}"#, 3.0).await;
    let mut large = Wire::connect(tidegate.listen).await;
    large.send(message("GET", "/large/a", &["x-client: b"], &[])).await;
    tidegate.until_queued(1).await;
    for number in 0..3 {
        pause(100).await;
        assert_eq!(tidegate.queued().await, 1, "with {} of one seat taken", 3 - number);
        app.let_go(&format!("done{number}"));
        assert_eq!(moved.remove(0).answer().await.status, 200);
    }
    assert_eq!(large.answer().await.status, 200);
    tidegate.at_rest(4).await;
}
