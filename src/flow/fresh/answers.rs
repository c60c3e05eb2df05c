//! What the app said, kept within a bound of bytes.
//!
//! The bound is of everything that an answer takes: its bytes, its keys, its places in the tables, and what the allocator adds. What is used
//! stays: a poll that is asked once, as after each change, does not push out one that is asked again (Clock-PRO, from `quick_cache`). Nothing here
//! says whether an answer still holds; that is the ledger's to prove.

mod shell;

use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use quick_cache::{
    OptionsBuilder, Weighter,
    unsync::{Cache, DefaultLifecycle},
};

pub use self::shell::Answers;
use super::{
    keys::{self, Reads},
    ledger::Asked,
    question::Question,
    replay::{Kept, chunk},
};
use crate::{clock::Boot, profile::RouteId};

/// A stored answer.
#[derive(Debug)]
pub struct Stored {
    /// What the app said.
    pub kept: Kept,
    /// Which documents it shows.
    pub reads: Reads,
    /// The number of the last write when the app was asked.
    pub s: u64,
    /// When the app was asked.
    pub asked_at: Boot,
    /// The route of the poll.
    pub route: RouteId,
}

impl Stored {
    /// The bytes that it takes in a store, tables and allocator included.
    #[must_use]
    pub fn size(&self) -> usize {
        let keys = if self.reads.keys.spilled() { chunk(self.reads.keys.capacity() * size_of::<keys::Key>()) } else { 0 };
        chunk(2 * size_of::<usize>() + size_of::<Self>()) + self.kept.allocated() + keys + PLACE
    }

    /// How it was put to the app, for the ledger; only what was solid is stored.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked { s: self.s, asked_at: self.asked_at, solid: Ok(()) }
    }

    /// Whether the app was asked for this one after it was asked for the other: after a later write, or of the same state but later.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.s, self.asked_at) > (other.s, other.asked_at)
    }
}

/// What one answer takes in the tables of a stripe: 40 bytes in the list, 5 in the map, and its share of what both keep in reserve and of the
/// answers that were pushed out and are remembered by their hash. Measured: `tests/answers.rs` holds it against resident bytes.
const PLACE: usize = 64;

/// What became of an answer that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is stored.
    Stored,
    /// One that is as new, or newer, is stored already.
    Older,
    /// It is larger than a stripe holds; what was stored stays.
    TooLarge,
}

/// How many answers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Answers.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Answers that were pushed out by others since the start.
    pub evicted: u64,
    /// The size of the largest answer that can be stored.
    pub largest: u64,
}

/// A question in the table; as two halves, as a whole one would be aligned to 16 bytes and cost as many more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key([u64; 2]);

impl Key {
    #[expect(clippy::cast_possible_truncation, reason = "these are its halves")]
    fn new(question: Question) -> Self {
        Self([question.0 as u64, (question.0 >> 64) as u64])
    }

    fn question(self) -> Question {
        Question(u128::from(self.0[0]) | u128::from(self.0[1]) << 64)
    }
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.0[0]);
    }
}

/// A question is a keyed hash already.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, half: u64) {
        self.0 = half;
    }
}

#[derive(Clone, Copy, Debug)]
struct Sizes;

impl Weighter<Key, Arc<Stored>> for Sizes {
    fn weight(&self, _: &Key, stored: &Arc<Stored>) -> u64 {
        stored.size() as u64
    }
}

type Table = Cache<Key, Arc<Stored>, Sizes, BuildHasherDefault<AsItIs>, DefaultLifecycle<Key, Arc<Stored>>>;

/// A part of the store, with its share of the bytes.
pub struct Stripe {
    table: Table,
    evicted: u64,
}

/// The size of an answer by which the memory of those that were pushed out is measured.
const TYPICAL: u64 = 1024;

/// How much of a stripe is for answers that were asked for again, and so the size of the largest answer that it takes, in hundredths.
const HOT: u64 = 95;

/// A share of the memory of those that were pushed out.
const GHOSTS: f64 = 0.25;

impl Stripe {
    /// An empty one, for so many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { table: table(bytes_max), evicted: 0 }
    }

    /// The answer to this question, which counts as a use of it.
    #[must_use]
    pub fn get(&self, question: &Question) -> Option<&Arc<Stored>> {
        self.table.get(&Key::new(*question))
    }

    /// Stores an answer, unless one that is as new stands there.
    pub fn put(&mut self, question: Question, stored: Arc<Stored>) -> Put {
        let key = Key::new(question);
        if stored.size() as u64 > self.largest() {
            return Put::TooLarge;
        }
        let replaced = match self.table.peek(&key) {
            Some(other) if !stored.is_newer_than(other) => return Put::Older,
            other => other.is_some(),
        };
        let before = self.table.len() + usize::from(!replaced);
        self.table.insert(key, stored);
        self.evicted += before.saturating_sub(self.table.len()) as u64;
        Put::Stored
    }

    /// Takes the answer to this question out.
    pub fn remove(&mut self, question: &Question) -> Option<Arc<Stored>> {
        self.table.remove(&Key::new(*question)).map(|(_, stored)| stored)
    }

    /// Forgets everything; gives it to be dropped.
    #[must_use]
    pub fn clear(&mut self) -> impl Sized + use<> {
        let bytes_max = self.table.capacity();
        std::mem::replace(&mut self.table, table(bytes_max))
    }

    /// Another bound; what is beyond it is pushed out.
    pub fn resize(&mut self, bytes_max: u64) {
        let before = self.table.len();
        self.table.set_capacity(bytes_max);
        self.evicted += before.saturating_sub(self.table.len()) as u64;
    }

    /// How much there is.
    #[must_use]
    pub fn view(&self) -> View {
        View { count: self.table.len() as u64, bytes: self.table.weight(), evicted: self.evicted, largest: self.largest() }
    }

    /// Every answer, in no order.
    pub fn each(&self, mut visit: impl FnMut(&Question, &Stored)) {
        for (key, stored) in self.table.iter() {
            visit(&key.question(), stored);
        }
    }

    fn largest(&self) -> u64 {
        // One byte less, as the table computes the same with less care.
        (self.table.capacity() / 100 * HOT).saturating_sub(1)
    }
}

fn table(bytes_max: u64) -> Table {
    let mut options = OptionsBuilder::new();
    #[expect(clippy::cast_precision_loss, reason = "hundredths are exact enough")]
    options.hot_allocation(HOT as f64 / 100.0).ghost_allocation(GHOSTS).weight_capacity(bytes_max);
    options.estimated_items_capacity(usize::try_from(bytes_max / TYPICAL).unwrap_or(usize::MAX));
    let options = options.build().expect("all that it asks for is set");
    Table::with_options(options, Sizes, BuildHasherDefault::default(), DefaultLifecycle::default())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use http::{HeaderValue, Response};

    use super::*;
    use crate::{flow::fresh::replay, profile::Answer};

    fn kept(length: usize) -> Kept {
        let mut head = Response::new(()).into_parts().0;
        head.headers.insert("content-type", HeaderValue::from_static("a/b"));
        let rules = Answer {
            statuses: vec![http::StatusCode::OK],
            mode: None,
            age_max: None,
            key_body: None,
            ignore_headers: Vec::new(),
            only_if: Vec::new(),
            renew: Vec::new(),
            drop: Vec::new(),
        };
        replay::keep(&head, &Bytes::from(vec![b'x'; length]), &rules).expect("it can be kept")
    }

    fn stored(kept: &Kept, s: u64, asked_at: u64) -> Arc<Stored> {
        Arc::new(Stored { kept: kept.clone(), reads: Reads::default(), s, asked_at: Boot(asked_at), route: RouteId(0) })
    }

    fn question(number: u64) -> Question {
        // Spread as a hash would be, and told apart by either half.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Question(u128::from(spread) | u128::from(number) << 64)
    }

    #[test]
    fn a_question_is_the_same_after_the_table() {
        for question in [Question(0), Question(u128::MAX), Question(1 << 64), question(7)] {
            assert_eq!(Key::new(question).question(), question);
        }
        assert_ne!(Key::new(Question(1)), Key::new(Question(1 << 64 | 1)), "the whole question is compared, not its hash");
    }

    #[test]
    fn an_older_answer_never_replaces_a_newer_one() {
        let kept = kept(10);
        let mut stripe = Stripe::new(1 << 20);
        let mut put = |s, asked_at| stripe.put(question(1), stored(&kept, s, asked_at));
        assert_eq!(put(5, 100), Put::Stored);
        for (s, asked_at) in [(5, 100), (5, 99), (4, 100), (4, 200)] {
            assert_eq!(put(s, asked_at), Put::Older, "{s} {asked_at}");
        }
        assert_eq!((put(5, 101), put(6, 101), put(7, 90), put(6, 500)), (Put::Stored, Put::Stored, Put::Stored, Put::Older));
        let found = stripe.get(&question(1)).expect("stored");
        assert_eq!((found.s, found.asked_at), (7, Boot(90)));
        assert_eq!(stripe.view().evicted, 0, "to be replaced is not to be pushed out");
    }

    #[test]
    fn what_is_used_outlives_what_was_asked_once() {
        let kept = kept(300);
        let each = stored(&kept, 1, 1).size() as u64;
        let mut stripe = Stripe::new(each * 1000);
        for number in 0..200 {
            assert_eq!(stripe.put(question(number), stored(&kept, 1, 1)), Put::Stored);
        }
        for round in 0..100_u64 {
            for number in 0..200 {
                let _ = stripe.get(&question(number));
            }
            for number in 0..500 {
                stripe.put(question(1000 + round * 500 + number), stored(&kept, 1, 1));
            }
        }
        let left = (0..200).filter(|number| stripe.get(&question(*number)).is_some()).count();
        assert!(left >= 195, "{left} of 200 used answers are left after 50,000 that were not");
        let view = stripe.view();
        assert_eq!((view.count, view.count + view.evicted, view.bytes), (1000, 50_200, each * 1000));
    }

    #[test]
    fn an_answer_larger_than_a_stripe_holds_leaves_what_is_there() {
        let mut stripe = Stripe::new(10_000);
        let small = kept(100);
        let largest = stripe.view().largest;
        assert_eq!(stripe.put(question(1), stored(&small, 1, 1)), Put::Stored);
        let over = usize::try_from(largest).expect("small");
        assert_eq!(stripe.put(question(1), stored(&kept(over), 2, 2)), Put::TooLarge);
        assert_eq!(stripe.get(&question(1)).map(|found| found.s), Some(1));
        let mut length = over;
        while stored(&kept(length), 2, 2).size() as u64 > largest {
            length -= 1;
        }
        assert_eq!(stripe.put(question(1), stored(&kept(length), 2, 2)), Put::Stored, "the largest that is said to fit fits");
        assert_eq!(stripe.get(&question(1)).map(|found| found.s), Some(2));
    }

    #[test]
    fn there_is_room_for_the_largest_answer_in_every_stripe() {
        for (bytes_max, answer_max) in
            [(256 << 20, 256 << 10), (1 << 20, 256 << 10), (1 << 30, 8 << 20), (64 << 30, 256 << 10), (8 << 20, 1 << 20)]
        {
            let answers = Answers::for_largest(bytes_max, answer_max);
            assert!(answers.view().largest >= answer_max + 4096, "{bytes_max} {answer_max} {:?}", answers.view());
        }
        assert_eq!(Answers::new(0).put(question(1), Arc::into_inner(stored(&kept(1), 1, 1)).expect("one")), Put::TooLarge);
    }

    /// What was put last under each question and not taken out; what was pushed out is still there.
    type Reference = HashMap<Question, Arc<Stored>>;

    fn compare(stripe: &Stripe, reference: &Reference, seed: u64) {
        let (mut count, mut bytes) = (0, 0);
        stripe.each(|question, stored| {
            let last = reference.get(question).unwrap_or_else(|| panic!("SEED={seed}: {question:?} was never put, or taken out"));
            assert!(std::ptr::eq(&raw const **last, stored), "SEED={seed}: {question:?} is not what was put last");
            count += 1;
            bytes += stored.size() as u64;
        });
        let view = stripe.view();
        assert_eq!((view.count, view.bytes), (count, bytes), "SEED={seed}");
    }

    #[test]
    fn in_a_million_random_steps_what_comes_out_is_what_was_put_last_and_the_bound_holds() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        println!("SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let sizes: Vec<Kept> = [1, 60, 300, 900, 3000, 9000, 20_000].into_iter().map(kept).collect();
        let mut reference = Reference::new();
        let mut bytes_max = 60_000;
        let mut stripe = Stripe::new(bytes_max);
        let mut outcomes = [0_u64; 3];
        let (mut hits, mut misses) = (0, 0);
        for step in 0..1_000_000_u64 {
            // Some questions are asked much more often than others.
            let below = random.u64(0..200);
            let number = question(random.u64(0..=below));
            match random.u16(0..1000) {
                0 => {
                    bytes_max = [0, 3000, 20_000, 60_000, 200_000][random.usize(0..5)];
                    stripe.resize(bytes_max);
                }
                1 if random.u8(0..20) == 0 => {
                    drop(stripe.clear());
                    reference.clear();
                }
                2..40 => {
                    let removed = stripe.remove(&number);
                    let last = reference.remove(&number);
                    assert!(removed.is_none() || removed.as_ref().map(Arc::as_ptr) == last.as_ref().map(Arc::as_ptr), "SEED={seed} {step}");
                }
                40..500 => {
                    let below = random.usize(0..sizes.len());
                    let size = random.usize(0..=below);
                    let put = stored(&sizes[size], (step / 100).saturating_sub(random.u64(0..3)), step.saturating_sub(random.u64(0..300)));
                    let before = stripe.table.peek(&Key::new(number)).cloned();
                    let outcome = stripe.put(number, Arc::clone(&put));
                    let expected = match before {
                        _ if put.size() as u64 > stripe.view().largest => Put::TooLarge,
                        Some(before) if (put.s, put.asked_at) <= (before.s, before.asked_at) => Put::Older,
                        _ => Put::Stored,
                    };
                    assert_eq!(outcome, expected, "SEED={seed} {step}");
                    outcomes[outcome as usize] += 1;
                    if outcome == Put::Stored {
                        reference.insert(number, put);
                    }
                }
                _ => match (stripe.get(&number), reference.get(&number)) {
                    (Some(found), Some(last)) => {
                        assert!(Arc::ptr_eq(found, last), "SEED={seed} {step}");
                        hits += 1;
                    }
                    (Some(_), None) => panic!("SEED={seed} {step}: an answer that was never put, or taken out"),
                    (None, _) => misses += 1,
                },
            }
            assert!(stripe.view().bytes <= bytes_max, "SEED={seed} {step}: {:?}", stripe.view());
            if step % 1000 == 0 {
                compare(&stripe, &reference, seed);
            }
        }
        let evicted = stripe.view().evicted;
        assert!(outcomes.iter().all(|count| *count > 1000) && hits > 100_000 && misses > 10_000, "{outcomes:?} {hits} {misses}");
        assert!(evicted > 50_000 && evicted < outcomes[0], "{evicted}");
    }

    #[test]
    fn threads_never_see_an_answer_give_way_to_an_older_one() {
        let answers = Answers::new(64 << 20);
        let kept = kept(100);
        let count = 500;
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (answers, kept) = (&answers, &kept);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread);
                    let mut seen = vec![(0, Boot(0)); count];
                    for step in 0..100_000_u64 {
                        let number = random.usize(0..count);
                        if random.bool() {
                            let new = Stored {
                                kept: kept.clone(),
                                reads: Reads::default(),
                                s: (step / 1000).saturating_sub(random.u64(0..3)),
                                asked_at: Boot(step.saturating_sub(random.u64(0..1000))),
                                route: RouteId(0),
                            };
                            answers.put(question(number as u64), new);
                        } else if let Some(found) = answers.get(&question(number as u64)) {
                            assert!((found.s, found.asked_at) >= seen[number], "thread {thread} {step}");
                            seen[number] = (found.s, found.asked_at);
                        }
                    }
                });
            }
        });
        let mut visited = 0;
        answers.each(|_, _| visited += 1);
        assert_eq!((answers.view().count, answers.view().evicted), (visited, 0));
        assert!(visited >= 490, "{visited}");
        assert!(answers.get(&question(0)).is_some());
        answers.remove(&question(0));
        assert!(answers.get(&question(0)).is_none());
        answers.resize(10_000);
        assert!(answers.view().bytes <= 10_000 && answers.view().evicted > 400);
        answers.clear();
        assert_eq!((answers.view().count, answers.view().bytes), (0, 0));
    }
}
