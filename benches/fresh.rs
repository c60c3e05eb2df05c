//! The cost of local answers: keys, and the ledger that proves them; `cargo bench --bench fresh`.

use std::{
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use divan::{Bencher, black_box};
use tidegate::{
    clock::{Boot, Moment},
    flow::fresh::{
        keys::{Key, Keyring, Reads, Touched},
        ledger::{Cause, Ledger, Quiet},
    },
    model::Scope,
};

const MILLION: u64 = 1_000_000;
const THREADS: [usize; 2] = [1, 2];

/// Calls of one sample: so many that the cache holds little of what they touch.
const SAMPLE: u32 = 1000;

const AGE_MAX: Duration = Duration::from_hours(1);
const CREDENTIAL: Key = Key(0x1234_5678_9abc_def0);

fn main() {
    divan::main();
}

/// Spread as a hash would be.
fn key(number: u64) -> Key {
    Key(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn written(key: Key) -> Touched {
    Touched::one(key)
}

fn write(ledger: &Ledger, touched: &Touched) {
    ledger.begin(touched, Cause(1));
    ledger.end(touched, Moment(1), Quiet::Settle);
}

/// With so many documents written, and room for twice as many, so that none is dropped.
fn ledger(documents: u64) -> Ledger {
    let ledger = Ledger::new(usize::try_from(4 * documents).unwrap_or(usize::MAX), Moment(0));
    for number in 0..documents {
        write(&ledger, &written(key(number)));
    }
    ledger
}

/// Documents that have an entry in [`FULL`].
const HELD: Range<u64> = 6 * MILLION..12 * MILLION;

/// A ledger with room for ten million documents after it has seen twelve million.
static FULL: LazyLock<Ledger> = LazyLock::new(|| {
    let ledger = Ledger::new(10_000_000, Moment(0));
    for number in 0..12 * MILLION {
        write(&ledger, &written(key(number)));
    }
    ledger
});

/// Documents that nobody has written yet.
static NEW: AtomicU64 = AtomicU64::new(1 << 40);

fn tree() -> Scope {
    Scope::Tree("/accounts/7f3a91/folders/inbox".into())
}

fn ring() -> Keyring {
    Keyring::new([1, 2], 16)
}

/// What everything here may be measured by: one uncontended lock, taken and given back.
#[divan::bench]
fn a_lock_alone(bencher: Bencher) {
    let lock = parking_lot::Mutex::new(0_u64);
    bencher.bench(|| *black_box(&lock).lock());
}

/// A poll of everything quiet, whose answer is proven as long as nothing is written.
fn prove(bencher: Bencher, ledger: &Ledger, documents: Range<u64>) {
    let asked = ledger.ask(&Reads::default(), Moment(1), Boot(0));
    let reads = || Reads { everything: false, keys: [key(fastrand::u64(documents.clone()))].into_iter().collect() };
    let check = |reads: Reads| ledger.prove(&reads, &asked, Boot(1), AGE_MAX).is_ok();
    assert!(check(reads()), "nothing is proven");
    bencher.with_inputs(reads).bench_values(check);
}

/// Whether the answer about one of so many written documents is proven, as a replay asks it.
#[divan::bench(threads = THREADS, args = [1000, MILLION], sample_size = SAMPLE)]
fn prove_one_document(bencher: Bencher, documents: u64) {
    let ledger = ledger(documents);
    prove(bencher, &ledger, 0..documents);
}

/// The same beside ten million written documents.
#[divan::bench(threads = THREADS, sample_size = SAMPLE)]
fn prove_one_document_of_ten_million(bencher: Bencher) {
    prove(bencher, &FULL, HELD);
}

/// What is noted of a poll before it is sent.
#[divan::bench(threads = THREADS)]
fn ask_one_document(bencher: Bencher) {
    let ledger = ledger(1000);
    bencher
        .with_inputs(|| Reads { everything: false, keys: [key(fastrand::u64(..1000)), CREDENTIAL].into_iter().collect() })
        .bench_values(|reads| ledger.ask(&reads, Moment(1), Boot(0)));
}

/// The keys of one document and a credential.
#[divan::bench]
fn keys_of_a_document(bencher: Bencher) {
    let ring = ring();
    let scopes = [Scope::Plain("document:2f7a0c1e-5b7d-4a9e".into())];
    bencher.bench(|| ring.reads(black_box(&scopes), CREDENTIAL, 256));
}

/// The keys of a node of a tree at depth 4 and a credential.
#[divan::bench]
fn keys_of_a_tree(bencher: Bencher) {
    let (ring, scopes) = (ring(), [tree()]);
    bencher.bench(|| ring.reads(black_box(&scopes), CREDENTIAL, 256));
}

/// Keys and check of a node of a tree at depth 4.
#[divan::bench]
fn keys_and_prove_of_a_tree(bencher: Bencher) {
    let (ring, scopes, ledger) = (ring(), [tree()], ledger(1000));
    let reads = ring.reads(&scopes, CREDENTIAL, 256).unwrap_or_default();
    let asked = ledger.ask(&reads, Moment(1), Boot(0));
    bencher.bench(|| {
        let reads = ring.reads(black_box(&scopes), CREDENTIAL, 256).unwrap_or_default();
        ledger.prove(&reads, &asked, Boot(1), AGE_MAX).is_ok()
    });
}

/// A write of one of so many documents, from its begin to its end.
#[divan::bench(threads = THREADS, args = [1000, MILLION], sample_size = SAMPLE)]
fn begin_and_end_of_one_document(bencher: Bencher, documents: u64) {
    let ledger = ledger(documents);
    bencher.with_inputs(|| written(key(fastrand::u64(..documents)))).bench_values(|touched| write(&ledger, &touched));
}

/// A write of one of ten million documents with an entry.
#[divan::bench(threads = THREADS, sample_size = SAMPLE)]
fn begin_and_end_of_one_document_of_ten_million(bencher: Bencher) {
    bencher.with_inputs(|| written(key(fastrand::u64(HELD)))).bench_values(|touched| write(&FULL, &touched));
}

/// A write of a new document where ten million have an entry and none is left: now and then a generation is dropped.
#[divan::bench(threads = THREADS, sample_size = SAMPLE)]
fn begin_and_end_of_a_new_document_beside_ten_million(bencher: Bencher) {
    LazyLock::force(&FULL);
    bencher.with_inputs(|| written(key(NEW.fetch_add(1, Ordering::Relaxed)))).bench_values(|touched| write(&FULL, &touched));
}

/// A write of a node of a tree at depth 4, its keys made.
#[divan::bench]
fn begin_and_end_of_a_tree(bencher: Bencher) {
    let ledger = ledger(1000);
    let touched = ring().writes(&[tree()]);
    bencher.bench(|| write(&ledger, black_box(&touched)));
}

/// The same beside ten million written documents.
#[divan::bench(sample_size = SAMPLE)]
fn begin_and_end_of_a_tree_beside_ten_million(bencher: Bencher) {
    let ring = ring();
    let touched = |number: u64| ring.writes(&[Scope::Tree(format!("/accounts/{number:x}/folders/{}", number % 7).into())]);
    LazyLock::force(&FULL);
    bencher.with_inputs(|| touched(fastrand::u64(..MILLION))).bench_values(|touched| write(&FULL, &touched));
}

/// A write of everything.
#[divan::bench(threads = THREADS)]
fn begin_and_end_of_everything(bencher: Bencher) {
    let (ledger, touched) = (ledger(1000), Touched::everything());
    bencher.bench(|| write(&ledger, &touched));
}
