//! What `fresh` promises, one thing at a time: what is answered here, what is shared, and what makes either end.

mod common;

use std::time::Duration;

use common::{Answer, App, Tidegate, Wire, eventually, pause, request, wire::message};

/// Documents in a path, trees, an inbox whose document only the reply names.
const PROFILE: &str = r#"
name = "fresh"
credential = ["header.authorization"]

[[route]]
name = "inbox"
method = ["POST"]
path = "/inbox"
writes = ["doc:{reply.header.x-document}"]

[[route]]
name = "tree poll"
method = ["GET"]
path = "/tree/{rest*}"
reads = ["tree:{path}"]
answer = {}

[[route]]
name = "tree write"
path = "/tree/{rest*}"
writes = ["tree:{path}"]

[[route]]
name = "never"
method = ["GET"]
path = "/never/{id}"
reads = ["doc:{path.id}"]
answer = { mode = "verify" }

[[route]]
name = "asked by POST"
method = ["POST"]
path = "/ask"
reads = ["doc:a"]
answer = {}

[[route]]
name = "poll"
method = ["GET", "HEAD"]
path = "/{id}"
reads = ["doc:{path.id}"]
answer = { statuses = [200, 404] }

[[route]]
name = "write"
path = "/{id}"
writes = ["doc:{path.id}"]

[[route]]
name = "last"
path = "/last"
writes = []
"#;

const ON: &str = "fresh.mode = \"on\"\nfresh.start_doubt = \"0s\"\nfresh.doubt = \"700ms\"\n";

async fn start(app: &App, settings: &str) -> Tidegate {
    Tidegate::start_with(app.address, PROFILE, &format!("{ON}{settings}")).await
}

async fn ask(tidegate: &Tidegate, target: &str) -> Answer {
    ask_as(tidegate, "alice", target).await
}

async fn ask_as(tidegate: &Tidegate, who: &str, target: &str) -> Answer {
    request(tidegate.listen, "GET", target, &[&format!("authorization: {who}")], &[]).await
}

async fn put(tidegate: &Tidegate, target: &str) -> Answer {
    request(tidegate.listen, "PUT", target, &["authorization: bob"], b"text").await
}

/// A poll that is under way.
async fn send(tidegate: &Tidegate, target: &str) -> Wire {
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("GET", target, &["authorization: alice"], &[])).await;
    wire
}

/// The last member of `Cache-Status`, which is ours.
fn status(answer: &Answer) -> String {
    answer.header("cache-status").unwrap_or("none").to_owned()
}

fn is_hit(answer: &Answer) -> bool {
    status(answer) == "tidegate; hit"
}

async fn asked(app: &App, beginning: &str) -> usize {
    app.seen_of(beginning).len()
}

/// Asks until it is answered here.
async fn until_hit(tidegate: &Tidegate, target: &str) -> Answer {
    eventually("a local answer", || async {
        let answer = ask(tidegate, target).await;
        is_hit(&answer).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn a_poll_is_answered_here_until_its_document_is_written() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    let first = ask(&tidegate, "/a?bytes=100&h=x-version:1&h=age:7").await;
    assert_eq!(status(&first), "tidegate; fwd=uri-miss; stored");
    let again = ask(&tidegate, "/a?bytes=100&h=x-version:1&h=age:7").await;
    assert!(is_hit(&again), "{}", status(&again));
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!((again.header("x-version"), again.header("age")), (Some("1"), None));
    assert!(again.header("date").is_some());
    assert!(is_hit(&ask(&tidegate, "/a?bytes=100&h=x-version:1&h=age:7").await));
    assert_eq!(asked(&app, "/a").await, 1);

    assert_eq!(put(&tidegate, "/b").await.status, 200);
    assert!(is_hit(&ask(&tidegate, "/a?bytes=100&h=x-version:1&h=age:7").await), "another document was written");
    assert_eq!(put(&tidegate, "/a").await.status, 200);
    let stale = ask(&tidegate, "/a?bytes=100&h=x-version:1&h=age:7").await;
    assert_eq!(status(&stale), "tidegate; fwd=stale; stored; detail=writer");
    assert!(is_hit(&ask(&tidegate, "/a?bytes=100&h=x-version:1&h=age:7").await));
    let lines = tidegate.at_rest(8).await;
    assert_eq!(lines.iter().filter(|line| line["outcome"] == "fresh").count(), 4);
}

#[tokio::test]
async fn another_credential_and_another_question_are_another_answer() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    for (who, target) in [("alice", "/a?count"), ("bob", "/a?count"), ("alice", "/a?count&x=1")] {
        assert_eq!(status(&ask_as(&tidegate, who, target).await), "tidegate; fwd=uri-miss; stored", "{who} {target}");
    }
    let other = request(tidegate.listen, "GET", "/a?count", &["authorization: alice", "accept: text/html"], &[]).await;
    assert_eq!(status(&other), "tidegate; fwd=uri-miss; stored");
    let noise = request(tidegate.listen, "GET", "/a?count", &["authorization: alice", "cf-ray: 1", "user-agent: x"], &[]).await;
    assert!(is_hit(&noise));
    let nobody = request(tidegate.listen, "GET", "/a?count", &[], &[]).await;
    assert_eq!(status(&nobody), "tidegate; fwd=bypass; detail=credential");
}

#[tokio::test]
async fn the_body_is_part_of_the_question_and_what_has_trailers_is_none() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    let ask = |body: &'static str| request(tidegate.listen, "POST", "/ask?echo", &["authorization: alice"], body.as_bytes());
    assert!(!is_hit(&ask("one").await) && !is_hit(&ask("two").await));
    let one = ask("one").await;
    assert_eq!((is_hit(&one), one.text().as_str()), (true, "one"));
    let trailed = |body: &str| {
        let head = "POST /ask?echo HTTP/1.1\r\nhost: x\r\nauthorization: alice\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
        format!("{head}{:x}\r\n{body}\r\n0\r\nx-sum: 1\r\n\r\n", body.len())
    };
    for body in ["one", "two", "one"] {
        let answer = common::wire::exchange(tidegate.listen, trailed(body)).await;
        assert_eq!((status(&answer).as_str(), answer.text().as_str()), ("tidegate; fwd=bypass; detail=body", body));
    }
}

#[tokio::test]
async fn the_head_alone_and_another_status_are_answered_as_declared() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    for hit in [false, true] {
        let answer = request(tidegate.listen, "GET", "/a?status=404&bytes=3", &["authorization: alice"], &[]).await;
        assert_eq!((answer.status, answer.body.len(), is_hit(&answer)), (404, 3, hit));
        let mut wire = Wire::connect(tidegate.listen).await;
        wire.send(message("HEAD", "/a?bytes=30", &["authorization: alice"], &[])).await;
        let head = wire.answer_to("HEAD").await;
        assert_eq!((head.status, head.header("content-length"), is_hit(&head)), (200, Some("30"), hit));
    }
}

#[tokio::test]
async fn what_may_not_be_kept_is_asked_for_every_time() {
    let app = App::start().await;
    let tidegate = start(&app, "fresh.answer_max = \"8KiB\"").await;
    for (target, detail) in [
        ("/a?h=set-cookie:x", "header"),
        ("/a?h=vary:user-agent", "header"),
        ("/a?h=vary:*", "header"),
        ("/a?status=410", "status"),
        ("/a?status=500", "status"),
        ("/a?status=206&bytes=3", "status"),
        ("/a?bytes=10000", "size"),
        ("/a?bytes=10&trailer", "header"),
    ] {
        for _ in 0..2 {
            let answer = ask(&tidegate, target).await;
            assert_eq!(status(&answer), format!("tidegate; fwd=uri-miss; detail={detail}"), "{target}");
        }
    }
    assert_eq!(status(&ask(&tidegate, "/a?h=vary:accept").await), "tidegate; fwd=uri-miss; stored");
}

#[tokio::test]
async fn a_poll_that_overlaps_a_write_is_not_kept() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    // The write begins first.
    let mut write = Wire::connect(tidegate.listen).await;
    write.send(message("PUT", "/a?until=written", &["authorization: bob"], b"x")).await;
    app.until_running("a", 1).await;
    assert_eq!(status(&ask(&tidegate, "/a?bytes=1").await), "tidegate; fwd=bypass; detail=writer");
    app.let_go("written");
    assert_eq!(write.answer().await.status, 200);
    assert_eq!(status(&ask(&tidegate, "/a?bytes=1").await), "tidegate; fwd=uri-miss; stored");
    // The poll begins first.
    let mut poll = send(&tidegate, "/b?until=asked").await;
    app.until_running("b", 1).await;
    assert_eq!(put(&tidegate, "/b").await.status, 200);
    app.let_go("asked");
    assert_eq!(poll.answer().await.status, 200);
    assert!(!is_hit(&ask(&tidegate, "/b?until=asked").await), "it was asked before the write");
}

#[tokio::test]
async fn a_write_whose_outcome_nobody_knows_is_doubted_for_as_long_as_it_may_be_committed() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    assert!(!is_hit(&ask(&tidegate, "/a?bytes=1").await));
    assert!(is_hit(&ask(&tidegate, "/a?bytes=1").await));
    assert_eq!(put(&tidegate, "/a?die").await.status, 502);
    let begun = std::time::Instant::now();
    assert_eq!(status(&ask(&tidegate, "/a?bytes=1").await), "tidegate; fwd=stale; detail=writer");
    assert_eq!(status(&ask(&tidegate, "/a?bytes=1").await), "tidegate; fwd=stale; detail=writer");
    until_hit(&tidegate, "/a?bytes=1").await;
    assert!(begun.elapsed() >= Duration::from_millis(600), "{:?}", begun.elapsed());
    // A 5xx may have been committed as well.
    assert_eq!(put(&tidegate, "/a?status=503").await.status, 503);
    assert!(!is_hit(&ask(&tidegate, "/a?bytes=1").await));
    assert!(!is_hit(&ask(&tidegate, "/a?bytes=1").await));
}

#[tokio::test]
async fn after_a_start_everything_is_in_doubt() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    let tidegate = {
        drop(tidegate);
        Tidegate::start_with(app.address, PROFILE, "fresh.mode = \"on\"\nfresh.start_doubt = \"1s\"").await
    };
    assert_eq!(status(&ask(&tidegate, "/a?bytes=1").await), "tidegate; fwd=bypass; detail=doubt");
    assert_eq!(status(&ask(&tidegate, "/a?bytes=1").await), "tidegate; fwd=bypass; detail=doubt");
    until_hit(&tidegate, "/a?bytes=1").await;
}

#[tokio::test]
async fn identical_polls_share_one_question_and_one_seat() {
    let app = App::start().await;
    let tidegate = start(&app, "app.seats = 1").await;
    let mut first = send(&tidegate, "/a?until=shown&bytes=7").await;
    app.until_running("a", 1).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(send(&tidegate, "/a?until=shown&bytes=7").await);
    }
    tidegate.until_metric("tidegate_fresh_joiners", 20.0).await;
    assert_eq!((tidegate.in_flight().await, tidegate.queued().await), (1, 0));
    app.let_go("shown");
    assert_eq!(first.answer().await.body.len(), 7);
    for other in &mut others {
        let answer = other.answer().await;
        assert_eq!((answer.status, answer.body.len()), (200, 7));
        assert!(status(&answer).contains("collapsed"), "{}", status(&answer));
    }
    assert_eq!(asked(&app, "/a").await, 1);
    let lines = tidegate.at_rest(21).await;
    assert_eq!(lines.iter().filter(|line| line["outcome"] == "joined").count(), 20);
}

#[tokio::test]
async fn a_poll_that_all_its_clients_left_runs_on_and_serves_the_retry() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    let first = send(&tidegate, "/a?until=shown&bytes=5").await;
    app.until_running("a", 1).await;
    first.reset();
    let second = send(&tidegate, "/a?until=shown&bytes=5").await;
    tidegate.until_metric("tidegate_fresh_joiners", 1.0).await;
    second.reset();
    tidegate.until_metric("tidegate_fresh_joiners", 0.0).await;
    app.let_go("shown");
    until_hit(&tidegate, "/a?until=shown&bytes=5").await;
    assert_eq!(asked(&app, "/a").await, 1);
}

#[tokio::test]
async fn an_answer_that_comes_after_our_504_is_kept() {
    let app = App::start().await;
    let tidegate = start(&app, "app.head_timeout = \"300ms\"").await;
    assert_eq!(ask(&tidegate, "/a?until=shown&bytes=5").await.status, 504);
    app.let_go("shown");
    assert_eq!(until_hit(&tidegate, "/a?until=shown&bytes=5").await.body.len(), 5);
    assert_eq!(asked(&app, "/a").await, 1);
}

#[tokio::test]
async fn polls_that_may_not_join_wait_and_share_the_next_one() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    let mut old = send(&tidegate, "/a?until=first&count").await;
    app.until_running("a", 1).await;
    assert_eq!(put(&tidegate, "/a").await.status, 200);
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(send(&tidegate, "/a?until=first&count").await);
    }
    tidegate.until_metric("tidegate_fresh_joiners", 4.0).await;
    assert_eq!(asked(&app, "/a?until=first&count").await, 1, "one asks, and one waits");
    app.let_go("first");
    assert_eq!(old.answer().await.header("x-count"), Some("1"));
    for other in &mut others {
        assert_eq!(other.answer().await.header("x-count"), Some("2"), "they came after the write");
    }
    assert_eq!(asked(&app, "/a?until=first&count").await, 2);
}

#[tokio::test]
async fn an_answer_too_long_to_be_shared_goes_to_the_first_and_the_others_ask_for_themselves() {
    let app = App::start().await;
    let tidegate = start(&app, "app.buffer = \"64KiB\"\nfresh.answer_max = \"16KiB\"").await;
    let mut polls = vec![send(&tidegate, "/a?until=shown&bytes=300000").await];
    app.until_running("a", 1).await;
    polls.push(send(&tidegate, "/a?until=shown&bytes=300000").await);
    tidegate.until_metric("tidegate_fresh_joiners", 1.0).await;
    app.let_go("shown");
    for poll in &mut polls {
        assert_eq!(poll.answer().await.body.len(), 300_000);
    }
    assert_eq!(asked(&app, "/a").await, 2);
}

#[tokio::test]
async fn no_more_than_joiners_max_wait_for_one_question() {
    let app = App::start().await;
    let tidegate = start(&app, "fresh.joiners_max = 2").await;
    let mut polls = vec![send(&tidegate, "/a?until=shown").await];
    app.until_running("a", 1).await;
    polls.push(send(&tidegate, "/a?until=shown").await);
    polls.push(send(&tidegate, "/a?until=shown").await);
    tidegate.until_metric("tidegate_fresh_joiners", 2.0).await;
    let refused = ask(&tidegate, "/a?until=shown").await;
    assert_eq!((refused.status, refused.rule()), (503, "queue_full".to_owned()));
    app.let_go("shown");
    for poll in &mut polls {
        assert_eq!(poll.answer().await.status, 200);
    }
}

#[tokio::test]
async fn what_the_app_meets_goes_to_all_who_share_it() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    let mut polls = vec![send(&tidegate, "/a?until=dead&die").await];
    app.until_running("a", 1).await;
    polls.push(send(&tidegate, "/a?until=dead&die").await);
    tidegate.until_metric("tidegate_fresh_joiners", 1.0).await;
    app.let_go("dead");
    for poll in &mut polls {
        assert_eq!(poll.answer().await.status, 502);
    }
}

#[tokio::test]
async fn a_write_below_a_node_concerns_its_ancestors_and_descendants_only() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    for path in ["/tree/a", "/tree/a/b", "/tree/a/b/c", "/tree/x"] {
        assert!(!is_hit(&ask(&tidegate, path).await));
    }
    assert_eq!(put(&tidegate, "/tree/a/b").await.status, 200);
    for (path, hit) in [("/tree/a", false), ("/tree/a/b", false), ("/tree/a/b/c", false), ("/tree/x", true)] {
        assert_eq!(is_hit(&ask(&tidegate, path).await), hit, "{path}");
    }
}

#[tokio::test]
async fn the_app_says_itself_what_has_changed_and_clients_do_not_hear_it() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    for path in ["/a", "/b", "/tree/c"] {
        assert!(!is_hit(&ask(&tidegate, path).await));
    }
    let told = ask(&tidegate, "/d?h=tidegate-changed:doc:a%2C%20tree:%2Ftree%2Fc").await;
    assert_eq!(told.header("tidegate-changed"), None);
    for (path, hit) in [("/a", false), ("/b", true), ("/tree/c", false)] {
        assert_eq!(is_hit(&ask(&tidegate, path).await), hit, "{path}");
    }
    // A client cannot say so.
    request(tidegate.listen, "GET", "/e", &["authorization: alice", "tidegate-changed: *"], &[]).await;
    assert!(is_hit(&ask(&tidegate, "/b").await));
    ask(&tidegate, "/f?h=tidegate-changed:%C3%A9").await;
    assert!(!is_hit(&ask(&tidegate, "/b").await), "what cannot be read is everything");
}

#[tokio::test]
async fn a_denial_drops_what_is_stored_for_its_credential() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    assert!(!is_hit(&ask(&tidegate, "/a").await) && !is_hit(&ask_as(&tidegate, "carol", "/a").await));
    assert_eq!(ask(&tidegate, "/b?status=403").await.status, 403);
    assert!(!is_hit(&ask(&tidegate, "/a").await));
    assert!(is_hit(&ask_as(&tidegate, "carol", "/a").await));
}

#[tokio::test]
async fn while_a_write_runs_whose_document_only_its_reply_names_nothing_is_answered_here() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    assert!(!is_hit(&ask(&tidegate, "/a").await) && !is_hit(&ask(&tidegate, "/b").await));
    let mut inbox = Wire::connect(tidegate.listen).await;
    inbox.send(message("POST", "/inbox?until=put&h=x-document:a", &["authorization: bob"], b"x")).await;
    app.until_running("inbox?until=put&h=x-document:a".split('?').next().expect("a path"), 1).await;
    assert_eq!(status(&ask(&tidegate, "/b").await), "tidegate; fwd=stale; stored; detail=suspended");
    app.let_go("put");
    assert_eq!(inbox.answer().await.status, 200);
    assert!(!is_hit(&ask(&tidegate, "/a").await), "the reply named it");
    assert!(is_hit(&ask(&tidegate, "/b").await));
    // A reply that names none.
    assert_eq!(request(tidegate.listen, "POST", "/inbox", &["authorization: bob"], b"x").await.status, 200);
    assert!(!is_hit(&ask(&tidegate, "/b").await));
}

#[tokio::test]
async fn what_a_reply_names_may_be_written_until_its_last_byte() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    assert!(!is_hit(&ask(&tidegate, "/a").await));
    let mut inbox = Wire::connect(tidegate.listen).await;
    inbox.send(message("POST", "/inbox?h=x-document:a&bytes=2&piece=1&halt=put", &["authorization: bob"], b"x")).await;
    assert!(inbox.head().await.is_some(), "the head, and with it the document's name, has come");
    assert!(!is_hit(&ask(&tidegate, "/a").await), "this may show the document as it was");
    app.let_go("put");
    assert_eq!(inbox.bytes(2).await.len(), 2);
    tidegate.at_rest(3).await;
    assert!(!is_hit(&ask(&tidegate, "/a").await), "the write was acknowledged");
}

#[tokio::test]
async fn a_write_that_one_reload_spared_counts_at_the_next() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    let mut write = Wire::connect(tidegate.listen).await;
    write.send(message("PUT", "/a?until=put", &["authorization: bob"], b"x")).await;
    app.until_running("a", 1).await;
    let profile = tidegate.config().with_file_name("profile.toml");
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&profile).expect("the profile");
        std::fs::write(&profile, text.replace(from, to)).expect("it is written");
    };
    // A route behind that of the write.
    change("name = \"last\"\npath = \"/last\"", "name = \"last\"\npath = \"/utmost\"");
    assert_eq!(tidegate.tell("/reload").await.0, 200);
    change("doc:", "note:");
    assert_eq!(tidegate.tell("/reload").await.0, 200);
    // Longer than everything is in doubt after a reload.
    pause(900).await;
    assert_eq!(status(&ask(&tidegate, "/a?bytes=1").await), "tidegate; fwd=bypass; detail=writer");
    app.let_go("put");
    assert_eq!(write.answer().await.status, 200);
    assert_eq!(status(&ask(&tidegate, "/a?bytes=1").await), "tidegate; fwd=uri-miss; stored");
}

#[tokio::test]
async fn an_old_answer_is_replayed_and_asked_for_again_and_a_mismatch_ends_the_trust_in_its_route() {
    let app = App::start().await;
    let tidegate = start(&app, "fresh.refresh_after = \"300ms\"").await;
    assert_eq!(ask(&tidegate, "/a?count").await.header("x-count"), Some("1"));
    assert_eq!(ask(&tidegate, "/b?bytes=3").await.status, 200);
    pause(400).await;
    assert!(is_hit(&ask(&tidegate, "/b?bytes=3").await));
    app.until_seen("/b", 2).await;
    let same = ask(&tidegate, "/b?bytes=3").await;
    assert!(is_hit(&same), "{}", status(&same));
    // The app counts how often it is asked: no write explains that.
    assert!(is_hit(&ask(&tidegate, "/a?count").await));
    app.until_seen("/a", 2).await;
    let verified = eventually("the route is verified", || async {
        let answer = ask(&tidegate, "/b?bytes=3").await;
        (status(&answer) == "tidegate; fwd=bypass; stored; detail=verify").then_some(answer)
    })
    .await;
    assert_eq!(verified.status, 200);
    assert!(tidegate.events().contains("POST /audit/reset"));
    assert_eq!(tidegate.tell("/audit/reset").await.0, 200);
    assert!(is_hit(&ask(&tidegate, "/b?bytes=3").await));
}

#[tokio::test]
async fn in_verify_mode_everything_is_forwarded_and_it_is_counted_what_would_have_been() {
    let app = App::start().await;
    let tidegate = Tidegate::start_with(app.address, PROFILE, "fresh.start_doubt = \"0s\"").await;
    for _ in 0..3 {
        assert_eq!(ask(&tidegate, "/a?bytes=3").await.status, 200);
    }
    assert_eq!(asked(&app, "/a").await, 3);
    assert_eq!(status(&ask(&tidegate, "/a?bytes=3").await), "tidegate; fwd=bypass; stored; detail=verify");
    ask(&tidegate, "/b?count").await;
    ask(&tidegate, "/b?count").await;
    let polls = tidegate.state().await["fresh"]["routes"].clone();
    let row = polls.as_array().expect("a list").iter().find(|row| row["route"] == "poll").expect("its row").clone();
    assert_eq!((&row["would_hit"], &row["right"], &row["wrong"]), (&4.into(), &3.into(), &1.into()), "{row}");
}

#[tokio::test]
async fn a_route_of_its_own_mode_is_never_above_it() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    for _ in 0..3 {
        assert!(!is_hit(&ask(&tidegate, "/never/a").await));
    }
}

#[tokio::test]
async fn what_is_learned_survives_a_reload_that_leaves_the_profile_as_it_is() {
    let app = App::start().await;
    let tidegate = start(&app, "app.seats = 8").await;
    assert!(!is_hit(&ask(&tidegate, "/a").await));
    tidegate.rewrite(|text| text.replace("app.seats = 8", "app.seats = 9"));
    assert_eq!(tidegate.tell("/reload").await.0, 200);
    assert!(is_hit(&ask(&tidegate, "/a").await));
    // A poll that is classified by the old profile is neither kept nor joined under the new one.
    let mut poll = send(&tidegate, "/b?until=shown").await;
    app.until_running("b", 1).await;
    let profile = tidegate.config().with_file_name("profile.toml");
    let text = std::fs::read_to_string(&profile).expect("the profile");
    std::fs::write(&profile, text.replace("name = \"never\"", "name = \"seldom\"\nclass = \"sync\"").replace("/never/", "/seldom/"))
        .expect("it is written");
    assert_eq!(tidegate.tell("/reload").await.0, 200);
    assert!(tidegate.events().contains("every stored answer was dropped"));
    let bypass = ask(&tidegate, "/a").await;
    assert_eq!(status(&bypass), "tidegate; fwd=bypass; detail=writer", "the old poll may have been a write of anything");
    app.let_go("shown");
    assert_eq!(poll.answer().await.status, 200);
    // What was lost before the reload may be in doubt under names that nobody knows.
    assert_eq!(status(&ask(&tidegate, "/a").await), "tidegate; fwd=bypass; detail=doubt");
    until_hit(&tidegate, "/a").await;
    assert!(!is_hit(&ask(&tidegate, "/b?until=shown").await));
}

#[tokio::test]
async fn a_write_that_was_lost_before_a_reload_is_doubted_under_its_new_name() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    assert_eq!(put(&tidegate, "/a?die").await.status, 502);
    let profile = tidegate.config().with_file_name("profile.toml");
    let text = std::fs::read_to_string(&profile).expect("the profile");
    std::fs::write(&profile, text.replace("doc:", "note:")).expect("it is written");
    assert_eq!(tidegate.tell("/reload").await.0, 200);
    for _ in 0..2 {
        assert_eq!(status(&ask(&tidegate, "/a?bytes=1").await), "tidegate; fwd=bypass; detail=doubt");
    }
    until_hit(&tidegate, "/a?bytes=1").await;
}

#[tokio::test]
async fn while_the_app_is_down_old_answers_go_on() {
    let app = App::start().await;
    let tidegate = start(&app, "app.idle_timeout = \"100ms\"\nfresh.refresh_after = \"200ms\"\nfresh.age_max = \"400ms\"").await;
    assert!(!is_hit(&ask(&tidegate, "/a").await));
    pause(500).await;
    drop(app);
    for _ in 0..6 {
        request(tidegate.listen, "GET", "/x", &["authorization: alice"], &[]).await;
    }
    let answer = ask(&tidegate, "/a").await;
    assert!(is_hit(&answer), "{} {}", answer.status, status(&answer));
}

#[tokio::test]
async fn killed_it_doubts_everything_and_stopped_cleanly_only_what_is_in_doubt() {
    let app = App::start().await;
    let mut tidegate =
        Tidegate::start_with(app.address, PROFILE, "fresh.mode = \"on\"\nfresh.start_doubt = \"700ms\"\nstate.file = \"./tidegate.state\"")
            .await;
    until_hit(&tidegate, "/a").await;
    tidegate.signal("KILL");
    assert_ne!(tidegate.exit_code().await, Some(0));
    let mut tidegate = tidegate.again().await;
    assert_eq!(status(&ask(&tidegate, "/a").await), "tidegate; fwd=bypass; detail=doubt");
    until_hit(&tidegate, "/a").await;
    assert_eq!(put(&tidegate, "/b?die").await.status, 502);
    tidegate.signal("TERM");
    assert_eq!(tidegate.exit_code().await, Some(0));
    let tidegate = tidegate.again().await;
    assert_eq!(status(&ask(&tidegate, "/b?bytes=1").await), "tidegate; fwd=bypass; detail=doubt");
    assert_eq!(status(&ask(&tidegate, "/a").await), "tidegate; fwd=uri-miss; stored");
}

#[tokio::test]
async fn an_open_upgrade_that_no_route_declares_may_write_anything() {
    let app = App::start().await;
    let tidegate = start(&app, "").await;
    assert!(!is_hit(&ask(&tidegate, "/a").await));
    let mut tunnel = Wire::connect(tidegate.listen).await;
    tunnel.send("GET /b HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
    assert!(tunnel.head().await.expect("a head").contains("101"));
    assert!(!is_hit(&ask(&tidegate, "/a").await) && !is_hit(&ask(&tidegate, "/a").await));
    tunnel.reset();
    until_hit(&tidegate, "/a").await;
}

#[tokio::test]
async fn a_clients_rate_holds_for_local_answers_and_nothing_else_does() {
    let app = App::start().await;
    let settings =
        "class.noop.client.rate = { per_second = 0.01, burst = 3 }\nclass.noop.rate = { per_second = 0.01, burst = 1, mode = \"enforce\" }";
    let tidegate = start(&app, settings).await;
    assert_eq!(ask(&tidegate, "/a").await.status, 200);
    assert!(is_hit(&ask(&tidegate, "/a").await) && is_hit(&ask(&tidegate, "/a").await));
    let refused = ask(&tidegate, "/a").await;
    assert_eq!((refused.status, refused.rule()), (429, "client_rate".to_owned()));
}
