//! Clients that leave, and clients that read slowly: what runs inside the app is counted by the app itself. No seat is lost, and none is
//! free before the app is done.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    App, Tidegate, Wire, pause,
    wire::{get_as, message},
};
use tokio::net::TcpSocket;

/// More than the kernel's own buffers hold.
const SIZE: usize = 20_000_000;

/// A client whose kernel takes little ahead of it.
async fn slow_reader(tidegate: &Tidegate) -> Wire {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    Wire::new(socket.connect(tidegate.listen).await.expect("it listens"))
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_frees_no_seat_early() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    for number in 0..3 {
        let name = format!("done{number}");
        let mut leaver = Wire::connect(tidegate.listen).await;
        leaver.send(message("POST", &format!("/other/a?until={name}"), &[], b"x")).await;
        app.until_running("other", 1).await;
        leaver.reset();
        let mut next = Wire::connect(tidegate.listen).await;
        next.send(message("GET", "/other/next", &[], &[])).await;
        tidegate.until_queued(1).await;
        assert!(next.silent(200).await, "the app still works on the first");
        assert_eq!(tidegate.in_flight().await, 1);
        app.let_go(&name);
        assert_eq!(next.answer().await.status, 200);
    }
    assert_eq!(app.most("other"), 1);
    let lines = tidegate.at_rest(6).await;
    assert_eq!(lines.iter().filter(|line| line["outcome"] == "gone").count(), 3);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_answer_frees_no_seat_early() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    let mut leaver = Wire::connect(tidegate.listen).await;
    leaver.send(message("GET", "/other/a?bytes=300000&halt=done", &[], &[])).await;
    leaver.head().await.expect("an answer");
    leaver.skip(1000).await;
    leaver.reset();
    let mut next = Wire::connect(tidegate.listen).await;
    next.send(message("GET", "/other/next", &[], &[])).await;
    tidegate.until_queued(1).await;
    tidegate.until_metric("tidegate_zombies", 1.0).await;
    assert!(next.silent(200).await);
    app.let_go("done");
    assert_eq!(next.answer().await.status, 200);
    assert_eq!(app.most("other"), 1);
    let lines = tidegate.at_rest(2).await;
    assert!(lines.iter().any(|line| line["outcome"] == "gone" && line["status"] == 200));
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_frees_its_place_at_once() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1\nclass.other.wait_max = \"15s\"").await;
    let mut first = Wire::connect(tidegate.listen).await;
    first.send(message("GET", "/other/first?until=done", &[], &[])).await;
    app.until_running("other", 1).await;
    let (mut leavers, fitting) = (Vec::new(), vec![b'x'; 60_000]);
    for (method, body) in [("GET", &b""[..]), ("POST", &fitting)] {
        let mut leaver = Wire::connect(tidegate.listen).await;
        leaver.send(message(method, "/other/leaver", &[], body)).await;
        leavers.push(leaver);
    }
    tidegate.until_queued(2).await;
    leavers.into_iter().for_each(Wire::reset);
    tidegate.until_queued(0).await;
    app.let_go("done");
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(app.targets().len(), 1, "nobody asks the app for those who left");
    let lines = tidegate.at_rest(3).await;
    assert_eq!(lines.iter().filter(|line| line["outcome"] == "gone").count(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_with_a_body_still_to_come_frees_its_place_at_its_deadline() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1\nclass.other.wait_max = \"1s\"").await;
    let mut first = Wire::connect(tidegate.listen).await;
    first.send(message("GET", "/other/first?until=done", &[], &[])).await;
    app.until_running("other", 1).await;
    let mut leaver = Wire::connect(tidegate.listen).await;
    leaver.send(message("POST", "/other/leaver", &["content-length: 500000"], &[])).await;
    leaver.send(vec![b'x'; 100_000]).await;
    tidegate.until_queued(1).await;
    leaver.reset();
    tidegate.until_queued(0).await;
    app.let_go("done");
    assert_eq!(first.answer().await.status, 200);
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_upload_is_one_outcome_and_no_lost_seat() {
    let app = App::start().await;
    let keys = "app.seats = 2\napp.head_timeout = \"1s\"\nclass.import.head_timeout = \"1s\"\n";
    for (cancels, kept) in [(true, 0), (false, 1)] {
        let tidegate = Tidegate::start(app.address, &format!("{keys}app.upstream_cancels = {cancels}")).await;
        // Before the queue there is no seat to lose.
        let mut early = Wire::connect(tidegate.listen).await;
        early.send(message("POST", "/other/early", &["content-length: 500"], &[])).await;
        early.send(b"x").await;
        let mut late = Wire::connect(tidegate.listen).await;
        late.send(message("POST", "/other/late", &["content-length: 500000"], &[])).await;
        late.send(vec![b'x'; 100_000]).await;
        app.until_running("other", 1).await;
        early.reset();
        late.reset();
        app.until_running("other", 0).await;
        tidegate.until_metric(r#"tidegate_requests_total{class="other",outcome="gone"}"#, 1.0).await;
        assert_eq!(tidegate.in_flight().await, kept, "whether the app has noticed is only known where upstream_cancels says so");
        let lines = tidegate.at_rest(2).await;
        assert!(lines.iter().all(|line| line["outcome"] == "gone"), "{lines:#?}");
    }
    assert!(app.seen_of("/other/early").is_empty());
    assert!(app.seen_of("/other/late").iter().all(|seen| !seen.whole));
}

/// What the figures said while the storm blew.
async fn watch(tidegate: &Tidegate, app: &App, over: &AtomicBool, seats: usize) -> usize {
    let mut looks = 0;
    while !over.load(Ordering::Relaxed) {
        let before = app.running("other");
        let charged = tidegate.in_flight().await;
        let after = app.running("other");
        // What ran before and after ran in between as well.
        let ran = before.intersection(&after).count();
        assert!(charged >= ran, "{ran} run in the app, but only {charged} seats are charged");
        assert!(charged <= seats, "{charged} seats are charged of {seats}");
        looks += 1;
        pause(1).await;
    }
    looks
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_of_leavers_the_app_never_runs_more_than_its_seats() {
    const SEATS: usize = 5;
    const CLIENTS: u64 = 40;
    const EACH: u64 = 15;
    let app = App::start().await;
    let settings = format!(
        "app.seats = {SEATS}\nclass.other.client.in_flight = 1000\nclass.other.queue_max = 10000\n{}",
        "app.head_timeout = \"1s\"\nclass.import.head_timeout = \"1s\"\n"
    );
    let tidegate = Tidegate::start(app.address, &settings).await;
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for seed in 0..CLIENTS {
        let (address, answered) = (tidegate.listen, Arc::clone(&answered));
        clients.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            for turn in 0..EACH {
                let mut wire = Wire::connect(address).await;
                let (ms, bytes) = (random.u64(0..30), [0, 500, 100_000, 1_500_000][random.usize(0..4)]);
                let target = format!("/other/a?ms={ms}&bytes={bytes}");
                match random.u8(0..4) {
                    // Stays to the end.
                    0 => {
                        wire.send(message("GET", &target, &[], &[])).await;
                        assert_eq!(wire.answer().await.status, 200);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    // Leaves before the answer or in the middle of it.
                    1 | 2 => {
                        wire.send(message("POST", &target, &[], b"hello")).await;
                        let _ = tokio::time::timeout(Duration::from_millis(random.u64(0..60)), wire.skip(1000)).await;
                        wire.reset();
                    }
                    // Leaves in the middle of its upload. Few do so once they have a seat, which then counts for five seconds.
                    _ => {
                        let length = if turn == 0 { 400_000 } else { 60_000 };
                        wire.send(message("POST", &target, &[&format!("content-length: {length}")], &[])).await;
                        wire.try_send(vec![b'x'; random.usize(0..length)]).await;
                        pause(random.u64(0..20)).await;
                        wire.reset();
                    }
                }
            }
        }));
    }
    let storm = async {
        for client in clients {
            client.await.expect("a client's own assertions hold");
        }
        over.store(true, Ordering::Relaxed);
    };
    let ((), looks) = tokio::join!(storm, watch(&tidegate, &app, &over, SEATS));
    assert!(looks > 10);
    assert!(app.most("other") <= SEATS, "{} ran at a time", app.most("other"));
    assert!(answered.load(Ordering::Relaxed) > 50);
    // A connection that was reset before its head was read is no request.
    let metrics = common::eventually("rest", || async {
        let metrics = tidegate.metrics().await;
        (common::sum(&metrics, "tidegate_seats_taken")
            + common::sum(&metrics, "tidegate_queued{")
            + common::sum(&metrics, "tidegate_zombies")
            < 0.5)
            .then_some(metrics)
    })
    .await;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let ended = common::sum(&metrics, "tidegate_requests_total{") as usize;
    assert!(ended <= usize::try_from(CLIENTS * EACH).expect("few"));
    tidegate.at_rest(ended).await;
}

#[tokio::test]
async fn a_slow_reader_of_900_kb_holds_no_seat() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1").await;
    let mut reader = slow_reader(&tidegate).await;
    reader.send(message("GET", "/other/a?bytes=900000", &[], &[])).await;
    app.until_seen("/other/a", 1).await;
    tidegate.until_in_flight(0).await;
    assert_eq!(get_as(tidegate.listen, "b", "/other/next?bytes=900000").await.body.len(), 900_000);
    assert_eq!(reader.answer().await.body.len(), 900_000);
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn what_is_read_ahead_is_bounded_and_past_it_the_seat_is_held() {
    let app = App::start().await;
    for (seen, buffer, held) in [(1, "32MiB", 0), (2, "1MiB", 1)] {
        let tidegate = Tidegate::start(app.address, &format!("app.seats = 1\napp.buffer = \"{buffer}\"")).await;
        let mut reader = slow_reader(&tidegate).await;
        reader.send(message("GET", &format!("/other/a?bytes={SIZE}"), &[], &[])).await;
        app.until_seen("/other/a", seen).await;
        if held == 0 {
            tidegate.until_in_flight(0).await;
        } else {
            pause(500).await;
            assert_eq!(tidegate.in_flight().await, 1);
        }
        assert_eq!(reader.answer().await.body.len(), SIZE);
        tidegate.at_rest(1).await;
    }
}

#[tokio::test]
async fn what_is_read_ahead_is_bounded_over_all_responses() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 2\napp.buffer = \"32MiB\"\napp.buffer_memory_max = \"32MiB\"").await;
    let mut readers = Vec::new();
    for (count, held) in [(1, 0), (2, 1)] {
        let mut reader = slow_reader(&tidegate).await;
        reader.send(message("GET", "/other/a?bytes=25000000", &[], &[])).await;
        readers.push(reader);
        app.until_seen("/other/a", count).await;
        tidegate.until_in_flight(held).await;
    }
    pause(500).await;
    assert_eq!(tidegate.in_flight().await, 1, "one fits, the other keeps its seat");
    for reader in &mut readers {
        assert_eq!(reader.answer().await.body.len(), 25_000_000);
    }
    tidegate.at_rest(2).await;
}

#[tokio::test]
async fn a_reader_below_the_least_rate_loses_its_seat() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "app.seats = 1\nlisten.body_rate_min = \"1MiB\"").await;
    let mut reader = slow_reader(&tidegate).await;
    reader.send(message("GET", "/other/a?bytes=40000000", &[], &[])).await;
    app.until_seen("/other/a", 1).await;
    assert_eq!(tidegate.in_flight().await, 1);
    tidegate.until_in_flight(0).await;
    app.until_running("other", 0).await;
    let answer = reader.answer().await;
    assert!(!answer.whole, "{} bytes", answer.body.len());
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn a_reader_that_stops_altogether_is_cut_off() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "listen.body_timeout = \"500ms\"").await;
    let mut reader = slow_reader(&tidegate).await;
    reader.send(message("GET", "/other/a?bytes=40000000", &[], &[])).await;
    let lines = tidegate.at_rest(1).await;
    assert_ne!(lines[0]["outcome"], "forwarded");
    assert!(reader.try_answer().await.is_none_or(|answer| !answer.whole));
}
