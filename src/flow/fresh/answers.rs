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
    keys::Reads,
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
        let keys = if self.reads.keys.spilled() { chunk(self.reads.keys.capacity() * size_of::<u64>()) } else { 0 };
        chunk(2 * size_of::<usize>() + size_of::<Self>()) + self.kept.allocated() + keys + PLACE
    }

    /// How it was asked: as a poll whose answer lasts, for no other is stored.
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

/// What one answer takes in the tables of a stripe, on average: 40 bytes in the list and 5 in the map, both doubled when full, and its share of
/// the answers that were pushed out and are remembered by their hash.
const PLACE: usize = 96;

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
