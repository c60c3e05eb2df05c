//! Stored answers take as much memory as the store says: its bound is one of resident bytes.

use std::{fs, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, response};
use tidegate::{
    clock::{Boot, Moment},
    flow::fresh::{
        answers::{Answers, Stored},
        keys::{Key, Reads},
        ledger::Ledger,
        question::Question,
        replay,
    },
    profile::{Answer, RouteId},
};

const BYTES_MAX: u64 = 96 << 20;

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").expect("a Linux");
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("its second number");
    pages * 4096
}

fn rules() -> Answer {
    Answer {
        statuses: vec![StatusCode::OK],
        mode: None,
        age_max: None,
        key_body: None,
        ignore_headers: Vec::new(),
        only_if: Vec::new(),
        renew: Vec::new(),
        drop: Vec::new(),
    }
}

fn head() -> response::Parts {
    let mut head = http::Response::new(()).into_parts().0;
    for (name, value) in [("content-type", "application/json"), ("etag", "\"7f2c0a91d4e1\""), ("x-document-version", "4711")] {
        head.headers.append(name, HeaderValue::from_static(value));
    }
    head
}

/// Puts so many answers, each of which was replayed once, with bodies of these lengths.
fn fill(answers: &Answers, count: u64, random: &mut fastrand::Rng, length: impl Fn(&mut fastrand::Rng) -> usize) {
    let (head, rules, ledger) = (head(), rules(), Ledger::new(16, Moment(0)));
    for _ in 0..count {
        let kept = replay::keep(&head, &Bytes::from(vec![b'x'; length(random)]), &rules).expect("it can be kept");
        let reads = Reads { everything: false, keys: (0..random.u64(1..7)).map(Key).collect() };
        let question = Question(random.u128(..));
        answers.put(question, Stored { kept, reads, s: 1, asked_at: Boot(1), route: RouteId(0) });
        if let Some(stored) = answers.get(&question) {
            let proof = ledger.prove(&stored.reads, &stored.asked(), Boot(1), Duration::from_secs(1)).expect("nothing was written");
            drop(replay::replay(&stored.kept, proof, Duration::ZERO));
        }
    }
}

#[test]
fn the_bound_of_the_store_is_one_of_resident_bytes() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut measure = |name: &str, count: u64, length: &dyn Fn(&mut fastrand::Rng) -> usize| {
        let before = resident();
        let answers = Answers::new(BYTES_MAX);
        fill(&answers, count, &mut random, length);
        let (view, taken) = (answers.view(), resident().saturating_sub(before));
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let ratio = taken as f64 / view.bytes as f64;
        println!(
            "{name}: {} answers, {} bytes each, resident / accounted = {ratio:.3}, evicted {}",
            view.count,
            view.bytes / view.count,
            view.evicted
        );
        assert!(view.bytes <= BYTES_MAX);
        // Dropped last, so that what one measure frees is not what the next one takes.
        (answers, ratio)
    };
    let small = measure("small, none pushed out", 100_000, &|_| 300);
    let tiny = measure("without a body, none pushed out", 100_000, &|_| 0);
    let mixed = measure("mixed, most pushed out", 400_000, &|random| 1 << random.u32(0..14));
    for (_, ratio) in [&small, &tiny] {
        assert!((0.9..1.1).contains(ratio), "{ratio}");
    }
    // What was pushed out leaves gaps.
    assert!((0.8..1.3).contains(&mixed.1), "{}", mixed.1);
}
