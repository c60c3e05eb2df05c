//! The cost of a token from a bucket and of what is known of documents; `cargo bench --bench limits`.

use std::time::Duration;

use divan::{Bencher, black_box};
use fastrand::Rng;
use tidegate::{
    clock::Moment,
    config::settings::Rate,
    flow::{
        classify::documents::{Bounds, Documents, Sample},
        gate::buckets::Buckets,
    },
    model::{Class, Classes, DocumentKey, Mode, Scope},
    profile::Cost,
};

const MILLION: u64 = 1_000_000;
const ROOM: usize = 1_000_000;
const THREADS: [usize; 2] = [1, 2];
const SYNC: Class = Class(1);

fn main() {
    divan::main();
}

fn buckets(keys: u64) -> Buckets {
    let buckets = Buckets::new(2 * ROOM);
    buckets.reload(&[Some(Rate { per_second: 1e6, burst: 1000, mode: Mode::Enforce })], Moment(0));
    for key in 0..keys {
        let _ = buckets.take(0, key, Moment(0));
    }
    buckets
}

/// A token that is there.
#[divan::bench(threads = THREADS)]
fn take_hot_key(bencher: Bencher) {
    let buckets = buckets(1);
    bencher.with_inputs(|| Moment(fastrand::u64(..1 << 40))).bench_values(|now| buckets.take(0, 0, now));
}

/// The peer: governor's own store with one key, and its own clock.
#[divan::bench(threads = THREADS)]
fn take_hot_key_of_plain_governor(bencher: Bencher) {
    let quota = governor::Quota::per_second(std::num::NonZeroU32::MAX);
    let limiter = governor::RateLimiter::direct(quota);
    bencher.bench(|| limiter.check().is_ok());
}

/// A token of one of a million buckets.
#[divan::bench(threads = THREADS)]
fn take_million_keys(bencher: Bencher) {
    let buckets = buckets(MILLION);
    bencher.with_inputs(|| fastrand::u64(..MILLION)).bench_values(|key| buckets.take(0, key, Moment(1 << 40)));
}

/// A token that is not there.
#[divan::bench(threads = THREADS)]
fn refuse_hot_key(bencher: Bencher) {
    let buckets = buckets(1);
    while buckets.take(0, 0, Moment(0)).is_ok() {}
    bencher.bench(|| buckets.take(0, 0, black_box(Moment(0))));
}

fn documents(count: u64) -> Documents {
    let documents = Documents::bounded(Bounds {
        documents_max: ROOM,
        long_cost: Duration::from_millis(25),
        long_reply: 100_000,
        long_after: vec![Some(Duration::from_secs(1)); 5],
        classes: Classes::shipped(),
    });
    let mut random = Rng::with_seed(1);
    for number in 0..count {
        documents.learn(&[key(number)], &sample(random.u64(1000..50_000)), Moment(0));
    }
    documents
}

/// Spread as a hash would be.
fn key(number: u64) -> DocumentKey {
    DocumentKey(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn sample(micros: u64) -> Sample {
    Sample { class: SYNC, cost: Cost::App, app: Duration::from_micros(micros), database: None, reply: 0 }
}

/// What is known of one of so many documents.
#[divan::bench(threads = THREADS, args = [1000, MILLION / 2])]
fn look(bencher: Bencher, count: u64) {
    let documents = documents(count);
    bencher.with_inputs(|| key(fastrand::u64(..count))).bench_values(|key| documents.look(&[key], SYNC, Moment(1)));
}

/// What a finished request teaches about one of so many documents.
#[divan::bench(threads = THREADS, args = [1000, MILLION / 2])]
fn learn(bencher: Bencher, count: u64) {
    let documents = documents(count);
    bencher
        .with_inputs(|| (key(fastrand::u64(..count)), sample(fastrand::u64(1000..50_000))))
        .bench_values(|(key, sample)| documents.learn(&[key], &sample, Moment(1)));
}

/// The keyed hash of a document's name.
#[divan::bench]
fn key_of(bencher: Bencher) {
    let documents = documents(0);
    let scope = Scope::Plain("document:2f7a0c1e-5b7d-4a9e".into());
    bencher.bench(|| documents.key_of(black_box(&scope)));
}

/// What is written every minute, at most.
#[divan::bench(sample_count = 5)]
fn save_of_half_a_million(bencher: Bencher) {
    let documents = documents(MILLION / 2);
    bencher.bench(|| documents.save().to_string().len());
}
