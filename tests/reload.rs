//! What reloading promises to those who run and wait, to classes that are gone, and to buckets; `admin.rs` has the paths of a reload.

#![expect(clippy::float_cmp, reason = "counts are exact")]

mod common;

use std::fs;

use common::{App, PROFILE, Tidegate, Wire, get, wire::message};

#[tokio::test]
async fn a_class_that_no_route_uses_is_told_with_every_other_mistake() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    tidegate.rewrite(|text| format!("{text}class.other.wait_max = \"soon\"\nclass.othre.closed = true\n"));
    let (status, told) = tidegate.tell("/reload").await;
    assert_eq!(status, 422);
    assert!(told.contains("soon") && told.contains("no route of the profile uses the class `othre`"), "{told}");
    assert_eq!(get(tidegate.listen, "/other/a").await.status, 200);
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn who_runs_and_who_waits_does_not_notice_a_reload() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1\nclass.other.wait_max = \"15s\"").await;
    let mut running = Wire::connect(tidegate.listen).await;
    running.send(message("GET", "/other/a?until=done&bytes=5", &[], &[])).await;
    app.until_running("other", 1).await;
    let mut waiting = Wire::connect(tidegate.listen).await;
    waiting.send(message("GET", "/other/b?until=done", &[], &[])).await;
    tidegate.until_queued(1).await;
    tidegate.rewrite(|text| format!("{text}class.other.queue_max = 7\n"));
    assert_eq!(tidegate.tell("/reload").await.0, 200);
    assert_eq!((tidegate.queued().await, tidegate.in_flight().await), (1, 1));
    // More seats are used at once.
    tidegate.rewrite(|text| text.replace("app.seats = 1", "app.seats = 2"));
    assert_eq!(tidegate.tell("/reload").await.0, 200);
    app.until_running("other", 2).await;
    // Fewer of them throw nobody out, and let nobody in until there are fewer.
    tidegate.rewrite(|text| text.replace("app.seats = 2", "app.seats = 1"));
    assert_eq!(tidegate.tell("/reload").await.0, 200);
    assert_eq!(tidegate.in_flight().await, 2);
    let mut third = Wire::connect(tidegate.listen).await;
    third.send(message("GET", "/other/c", &[], &[])).await;
    tidegate.until_queued(1).await;
    app.let_go("done");
    assert_eq!(running.answer().await.body.len(), 5);
    for wire in [&mut waiting, &mut third] {
        assert_eq!(wire.answer().await.status, 200);
    }
    tidegate.at_rest(3).await;
}

#[tokio::test]
async fn a_class_that_was_removed_drains() {
    let app = App::start().await;
    let with = PROFILE.replacen(
        "[[route]]",
        "[[route]]\nname = \"extra\"\npath = \"/extra/{id}\"\nclass = \"extra\"\nwrites = []\n\n[[route]]",
        1,
    );
    let tidegate = Tidegate::start_with(app.address, &with, "class.extra.weight = 2").await;
    let mut running = Wire::connect(tidegate.listen).await;
    running.send(message("GET", "/extra/a?until=done", &[], &[])).await;
    app.until_running("extra", 1).await;
    fs::write(tidegate.folder.path().join("profile.toml"), PROFILE).expect("written");
    tidegate.rewrite(|text| text.replace("class.extra.weight = 2", ""));
    assert_eq!(tidegate.tell("/reload").await.0, 200);
    assert_eq!(tidegate.metric(r#"tidegate_in_flight{class="extra"}"#).await, 1.0);
    assert_eq!(tidegate.state().await["classes"]["extra"]["removed"], true);
    assert!(get(tidegate.listen, "/extra/a").await.header("tidegate-decision").expect("shown").contains("class=sync"));
    app.let_go("done");
    assert_eq!(running.answer().await.status, 200);
    common::eventually("no class extra", || async { tidegate.state().await["classes"]["extra"].is_null().then_some(()) }).await;
    assert_eq!(tidegate.log(2).await.len(), 2);
    assert_eq!((tidegate.in_flight().await, tidegate.queued().await), (0, 0));
}

#[tokio::test]
async fn a_changed_bucket_keeps_its_used_cells() {
    let app = App::start().await;
    let tidegate =
        Tidegate::start(app.address, "class.other.client.in_flight = 50\nclass.other.rate = { per_second = 0.01, burst = 10 }").await;
    let admitted = |most: usize| {
        let tidegate = &tidegate;
        async move {
            let mut admitted = 0;
            for _ in 0..most {
                admitted += usize::from(get(tidegate.listen, "/other/a").await.status == 200);
            }
            admitted
        }
    };
    assert_eq!(admitted(6).await, 6);
    for (before, after, left) in [("10", "20", 14), ("20", "5", 0), ("5", "8", 3)] {
        tidegate.rewrite(|text| text.replace(&format!("burst = {before}"), &format!("burst = {after}")));
        assert_eq!(tidegate.tell("/reload").await.0, 200);
        assert_eq!(admitted(left + 3).await, left, "from {before} to {after}");
    }
    tidegate.at_rest(6 + 17 + 3 + 6).await;
}

#[tokio::test]
async fn without_an_admin_listener_a_signal_reloads_all_the_same() {
    let app = App::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    let write = |closed: bool| {
        let text = format!(
            "profile = \"generic\"\nlisten.address = \"127.0.0.1:0\"\nlog.access = \"off\"\napp.servers = [\"{}\"]\nclass.noop.closed = {closed}\n",
            app.address
        );
        std::fs::write(&file, text).expect("written");
    };
    write(false);
    let events = std::fs::File::create(folder.path().join("events.log")).expect("a log");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "--config"])
        .arg(&file)
        .stderr(events)
        .spawn()
        .expect("tidegate starts");
    let listen: std::net::SocketAddr = common::eventually("its address", || async {
        let said = std::fs::read_to_string(folder.path().join("events.log")).ok()?;
        let rest = said.split("address=").nth(1)?;
        rest.split_whitespace().next()?.parse().ok()
    })
    .await;
    assert_eq!(get(listen, "/a").await.status, 200);
    write(true);
    let hangup = std::process::Command::new("kill").args(["-HUP", &child.id().to_string()]).status().expect("kill runs");
    assert!(hangup.success());
    common::eventually("the reload", || async { (get(listen, "/a").await.status == 503).then_some(()) }).await;
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
