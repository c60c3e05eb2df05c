//! The whole path of a request in memory: what tidegate adds to a proxy, without sockets, HTTP parsing and the app.
//!
//! `cargo bench --bench flow`

use std::{net::IpAddr, sync::Arc, time::Duration};

use divan::Bencher;
use http::{HeaderMap, HeaderValue, Request, StatusCode, request::Parts};
use tidegate::{
    clock,
    config::Settings,
    flow::{
        accept::head,
        classify::{self, ClientHasher, documents::Documents},
        gate::Gate,
        origin::headers,
        report::{ClientShown, Exchange, LogSink, Report, server_timing},
        tune,
    },
    model::{Classes, Outcome},
    profile::{self, BodySeen, Profile},
    written::{Mistakes, Source},
};

const BODY: &[u8] = br#"{"token":"5a3c0d9be1f2478890ab","file_id":"d41d8cd98f00b204","version":1234,"changes":[]}"#;
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn main() {
    divan::main();
}

/// Everything that the path needs.
struct House {
    profile: Profile,
    gate: Gate,
    documents: Documents,
    clients: ClientHasher,
    report: Report,
    via: HeaderValue,
    peer_text: HeaderValue,
}

impl House {
    fn new() -> Self {
        let settings = Settings::defaults();
        let text = profile::shipped("dynalist").expect("it is shipped").to_owned();
        let source = Arc::new(Source { name: "dynalist".to_owned(), text });
        let none = |name: &str| Err(format!("{name} is not needed"));
        let profile = Profile::compile(&source, &none, &Classes::shipped(), &Mistakes::default()).expect("it is valid");
        Self {
            profile,
            gate: Gate::new(&settings, Box::new(|_| {})),
            documents: Documents::new(&settings),
            clients: ClientHasher::new([1, 2]),
            report: Report::new(&settings, LogSink::off()),
            via: HeaderValue::from_static("1.1 tidegate-1"),
            peer_text: HeaderValue::from_static("192.0.2.7"),
        }
    }

    /// One request from its head to its record.
    async fn pass(&self, mut head: Parts, mut answer: HeaderMap) -> HeaderMap {
        let arrived = clock::now();
        let checked = head::check(&head, true, false, "tidegate-1", 1 << 30).expect("a good head");
        let mut reading = self.profile.read(&head, BodySeen::Whole(BODY), PEER);
        if checked.upgrade {
            classify::undeclared_upgrade(&mut reading);
        }
        let key = self.clients.key(&reading.client);
        let intent = classify::intent(&reading, key, &self.documents, clock::now());
        let (class, documents) = (intent.class, intent.documents.clone());
        let permit = self.gate.enter(intent).await.expect("there is room");
        let target = head.uri.clone();
        headers::outgoing(
            &mut head.headers,
            &headers::Hop { peer: PEER, peer_text: &self.peer_text, trusted: false, via: &self.via, upgrade: false },
        );
        let told = server_timing::read(&answer);
        headers::incoming(&mut answer, false);
        let (account, waited, shadows) = (permit.account(), permit.waited, permit.shadows());
        drop(permit);
        let end = tune::End::Answered(StatusCode::OK);
        let took = Duration::from_micros(100);
        let finished = tune::Finished { class: reading.class, cost: reading.cost, app: took, database: told.time, reply: 140, end };
        tune::teach(&self.documents, &documents, &finished, clock::now());
        let exchange = Exchange {
            id: 1,
            method: head.method,
            target: Some(target),
            client: ClientShown::of(reading.client, key, false),
            route: Arc::from("sync"),
            class: Some(class),
            account: Some(account),
            documents: reading.reads,
            effect: reading.effect,
            everything: false,
            stream: false,
            outcome: Outcome::Forwarded,
            rule: None,
            failure: None,
            shadows,
            status: 200,
            app_status: Some(200),
            arrived,
            ended: clock::now(),
            waited: Some(waited),
            predicted: None,
            app: Some(took),
            database: told.time,
            queries: told.queries,
            poll: None,
            bytes_in: BODY.len() as u64,
            bytes_out: 140,
        };
        self.report.ended(&exchange);
        self.report.released(&exchange);
        answer
    }
}

fn request() -> Parts {
    let request = Request::post("/sync")
        .header("host", "notes.example")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64)")
        .header("accept", "*/*")
        .header("accept-encoding", "gzip, br")
        .header("content-type", "application/json")
        .header("content-length", BODY.len())
        .header("cf-ray", "8f2a1b3c4d5e6f70-FRA")
        .header("x-forwarded-for", "203.0.113.9");
    request.body(()).expect("a request").into_parts().0
}

fn answer() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("content-length", HeaderValue::from_static("140"));
    headers.insert("server-timing", HeaderValue::from_static("db;dur=0.4;count=2"));
    headers
}

#[divan::bench]
fn a_sync_that_waits_for_nobody(bencher: Bencher) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let house = House::new();
    bencher.with_inputs(|| (request(), answer())).bench_local_values(|(head, answer)| runtime.block_on(house.pass(head, answer)));
}
