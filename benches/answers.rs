//! What a local answer costs: the question, the look into a store of a million answers, the proof, the replay; and the bytes that each takes.
//!
//! Beside it a peer: the same response made of parts that need neither copying nor counting.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header, request, response};
use tidegate::{
    clock::{Boot, Moment},
    flow::fresh::{
        answers::{Answers, Stored},
        judge,
        keys::{Key, Reads},
        ledger::{Ledger, Proof},
        question::{Asked, Question, Questioner},
        replay::{self, Kept},
    },
    model::Classes,
    profile::{Answer, BodySeen, Now, Profile, RouteId, Selector, shipped},
    wire::Body,
    written::{Mistakes, Source},
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const EPOCH: Duration = Duration::from_millis(1_700_000_000_123);
const MILLION: u64 = 1_000_000;

/// A million answers, and a ledger in which nothing was written.
#[expect(clippy::print_stdout, reason = "figures are what a benchmark is for")]
static FULL: LazyLock<(Answers, Ledger)> = LazyLock::new(|| {
    let answers = Answers::new(1 << 30);
    let before = resident();
    fill(&answers, MILLION);
    let view = answers.view();
    let resident = resident().saturating_sub(before);
    println!(
        "{} answers of 300 bytes, 8 headers, 2 keys: {} bytes each as accounted, {} resident; {} MiB in all, evicted {}",
        view.count,
        view.bytes / view.count,
        resident / view.count,
        resident >> 20,
        view.evicted
    );
    (answers, Ledger::new(1 << 20, Moment(0)))
});

fn main() {
    LazyLock::force(&FULL);
    divan::main();
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn fill(answers: &Answers, count: u64) {
    let (head, body, rules) = (head(), body(), rules(&[]));
    for number in 0..count {
        let kept = replay::keep(&head, &body, &rules).expect("it can be kept");
        let reads = Reads { everything: false, keys: [Key(number), Key(!number)].into_iter().collect() };
        answers.put(question(number), Stored { kept, reads, s: 1, asked_at: Boot(1), route: RouteId(0) });
    }
}

/// The halves of a question are as random as those of a hash.
fn question(number: u64) -> Question {
    let mut random = fastrand::Rng::with_seed(number);
    Question(random.u128(..))
}

fn rules(renew: &[(&str, Now)]) -> Answer {
    Answer {
        statuses: vec![StatusCode::OK],
        mode: None,
        age_max: None,
        key_body: None,
        ignore_headers: Vec::new(),
        only_if: Vec::new(),
        renew: renew.iter().map(|(text, now)| (Selector::parse(text).expect("a selector"), *now)).collect(),
        drop: vec!["ratelimit-*".to_owned()],
    }
}

const FIELDS: [(&str, &str); 8] = [
    ("content-type", "application/json; charset=utf-8"),
    ("cache-control", "no-store, private"),
    ("etag", "\"7f2c0a91d4e1\""),
    ("server", "app/2.4"),
    ("vary", "accept-encoding"),
    ("x-content-type-options", "nosniff"),
    ("x-document-version", "4711"),
    ("access-control-allow-origin", "https://app.example.org"),
];

fn head() -> response::Parts {
    let mut head = http::Response::new(()).into_parts().0;
    for (name, value) in FIELDS {
        head.headers.append(name, HeaderValue::from_static(value));
    }
    head.headers.append("date", HeaderValue::from_static("Thu, 01 Jan 2026 00:00:00 GMT"));
    head.headers.append("content-length", HeaderValue::from_static("300"));
    head
}

fn body() -> Bytes {
    Bytes::from(format!(r#"{{"ts":1700000000,"text":"{}"}}"#, "x".repeat(273)))
}

fn kept(renew: &[(&str, Now)]) -> Kept {
    replay::keep(&head(), &body(), &rules(renew)).expect("it can be kept")
}

fn proof() -> Proof {
    let (_, ledger) = &*FULL;
    let reads = Reads { everything: false, keys: [Key(1), Key(2)].into_iter().collect() };
    let asked = ledger.ask(&reads, Moment(1), Boot(1));
    ledger.prove(&reads, &asked, Boot(2), Duration::from_hours(1)).expect("nothing was written")
}

/// A poll as a CDN passes it on: 8 headers that count, 7 that are noise, 300 bytes.
struct Poll {
    profile: Profile,
    head: request::Parts,
    body: String,
    questioner: Questioner,
}

impl Poll {
    fn new() -> Self {
        let text = shipped("dynalist").expect("a shipped profile").to_owned();
        let source = Arc::new(Source { name: "dynalist".to_owned(), text });
        let profile = Profile::compile(&source, &|_| Err(String::new()), &Classes::shipped(), &Mistakes::default()).expect("it is good");
        let request = Request::builder()
            .method("POST")
            .uri("/api/v1/doc/read")
            .header("host", "sync.example.org")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/plain, */*")
            .header("accept-encoding", "gzip, br")
            .header("accept-language", "en-GB,en;q=0.9")
            .header("origin", "https://app.example.org")
            .header("referer", "https://app.example.org/d/aBcDeFgHiJ")
            .header("cookie", "session=0123456789abcdef0123456789abcdef")
            .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36")
            .header("content-length", "300")
            .header("cf-ray", "89f0c1d2e3f4a5b6-FRA")
            .header("cf-connecting-ip", "192.0.2.7")
            .header("x-forwarded-for", "192.0.2.7, 198.51.100.1")
            .header("x-forwarded-proto", "https")
            .header("via", "1.1 tidegate-1");
        let token = "t".repeat(64);
        let mut body = format!(r#"{{"token":"{token}","file_id":"aBcDeFgHiJ","rest":""#);
        body.push_str(&"c".repeat(298 - body.len()));
        body.push_str("\"}");
        Self { profile, head: request.body(()).expect("a request").into_parts().0, body, questioner: Questioner::new([1, 2]) }
    }

    fn ask(&self, route: RouteId, secret: &[u8]) -> Question {
        let noise = |name: &HeaderName| self.profile.is_noise(route, name);
        self.questioner.question(7, route, black_box(&self.head), secret, Asked::Body(black_box(self.body.as_bytes())), noise)
    }
}

#[divan::bench]
fn question_of_300_bytes(bencher: Bencher<'_, '_>) {
    let poll = Poll::new();
    let reading = poll.profile.read(&poll.head, BodySeen::Whole(poll.body.as_bytes()), IpAddr::V4(Ipv4Addr::LOCALHOST));
    bencher.bench_local(|| poll.ask(reading.route, reading.secret.as_bytes()));
}

/// A hit among so many answers, each as likely.
#[divan::bench(args = [1_000, MILLION])]
fn hit(bencher: Bencher<'_, '_>, count: u64) {
    let small = Answers::new(64 << 20);
    fill(&small, count.min(1_000));
    let answers = if count == MILLION { &FULL.0 } else { &small };
    let mut random = fastrand::Rng::with_seed(7);
    bencher.with_inputs(|| question(random.u64(0..count))).bench_local_refs(|question| answers.get(question).expect("it is there"));
}

#[divan::bench(args = [1_000, MILLION])]
fn miss(bencher: Bencher<'_, '_>, count: u64) {
    let small = Answers::new(64 << 20);
    fill(&small, count.min(1_000));
    let answers = if count == MILLION { &FULL.0 } else { &small };
    let mut random = fastrand::Rng::with_seed(7);
    bencher.with_inputs(|| question(random.u64(count..2 * count))).bench_local_refs(|question| answers.get(question).is_none());
}

#[divan::bench]
fn proof_of_2_keys(bencher: Bencher<'_, '_>) {
    let (_, ledger) = &*FULL;
    let mut random = fastrand::Rng::with_seed(7);
    let reads = || Reads { everything: false, keys: [Key(random.u64(..)), Key(random.u64(..))].into_iter().collect() };
    let asked = ledger.ask(&Reads::default(), Moment(1), Boot(1));
    bencher.with_inputs(reads).bench_local_refs(|reads| ledger.prove(reads, &asked, Boot(2), Duration::from_hours(1)).is_ok());
}

/// Question, look and proof, among a million: what a poll costs before it is known whether it is answered.
#[divan::bench]
fn question_hit_and_proof(bencher: Bencher<'_, '_>) {
    let (answers, ledger) = &*FULL;
    let poll = Poll::new();
    let reading = poll.profile.read(&poll.head, BodySeen::Whole(poll.body.as_bytes()), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut random = fastrand::Rng::with_seed(7);
    bencher.with_inputs(|| question(random.u64(0..MILLION))).bench_local_refs(|other| {
        black_box(poll.ask(reading.route, reading.secret.as_bytes()));
        let stored = answers.get(other).expect("it is there");
        ledger.prove(&stored.reads, &stored.asked(), Boot(2), Duration::from_hours(1)).is_ok()
    });
}

#[divan::bench]
fn replay_of_300_bytes(bencher: Bencher<'_, '_>) {
    let kept = kept(&[]);
    bencher.with_inputs(proof).bench_local_values(|proof| replay::replay(black_box(&kept), proof, EPOCH));
}

#[divan::bench]
fn replay_with_two_renewed_parts(bencher: Bencher<'_, '_>) {
    let kept = kept(&[("json.ts", Now::Seconds), ("header.x-document-version", Now::Millis)]);
    bencher.with_inputs(proof).bench_local_values(|proof| replay::replay(black_box(&kept), proof, EPOCH));
}

/// The peer: the same response from static parts.
#[divan::bench]
fn the_same_response_from_static_parts(bencher: Bencher<'_, '_>) {
    const NAMES: [HeaderName; 8] = [
        header::CONTENT_TYPE,
        header::CACHE_CONTROL,
        header::ETAG,
        header::SERVER,
        header::VARY,
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderName::from_static("x-document-version"),
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
    ];
    static BODY: [u8; 300] = [b'x'; 300];
    bencher.with_inputs(proof).bench_local_values(|_| {
        let mut headers = HeaderMap::with_capacity(black_box(12));
        for (name, (_, value)) in NAMES.iter().zip(FIELDS) {
            headers.append(name.clone(), HeaderValue::from_static(black_box(value)));
        }
        let mut response = http::Response::new(Body::full(Bytes::from_static(black_box(&BODY))));
        *response.headers_mut() = headers;
        response
    });
}

/// The other way to keep an answer, for those who share: its header map is cloned.
#[divan::bench]
fn share(bencher: Bencher<'_, '_>) {
    let whole = replay::Whole::new(&head(), body(), None);
    bencher.bench_local(|| replay::share(black_box(&whole)));
}

#[divan::bench]
fn keep(bencher: Bencher<'_, '_>) {
    let (head, body, rules) = (head(), body(), rules(&[]));
    bencher.bench_local(|| replay::keep(black_box(&head), black_box(&body), &rules));
}

#[divan::bench]
fn digest(bencher: Bencher<'_, '_>) {
    let (head, body, rules) = (head(), body(), rules(&[]));
    bencher.bench_local(|| judge::digest(black_box(&head), black_box(&body), &rules));
}
