//! The memory that all requests share: stripes of documents and a window per class, each under a lock that is held for one step.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;

use super::{
    Bounds, KINDS, Kind, Known, Sample,
    median::Window,
    saved::{self, SAVED_MAX, Saved},
    stripe::{Document, Stripe},
};
use crate::{
    clock::Moment,
    config::Settings,
    model::{CLASSES_MAX, Class, Classes, DocumentKey, Scope},
};

/// The most stripes; fewer where few documents are remembered.
const STRIPES_MAX: usize = 256;

/// Below so many samples the median is computed for each of them, beyond for one in eight.
const SAMPLES_EACH: u32 = 256;

/// The memory of documents: bounded, sharded, shared by all requests.
pub struct Documents {
    stripes: Box<[Mutex<Stripe>]>,
    windows: Box<[ClassWindow]>,
    bounds: ArcSwap<InForce>,
    /// The key of the keyed hash of documents.
    secret: ArcSwap<[u64; 2]>,
}

/// What requests of one class cost of late, and the medians as of the last sample.
struct ClassWindow {
    windows: Mutex<[Window; KINDS.len()]>,
    /// By kind: the median as the bits of an `f32`; not a number if there is none.
    medians: [AtomicU32; KINDS.len()],
    /// Until when the medians are good without a sample.
    until: AtomicU64,
}

/// The bounds as the request path needs them.
struct InForce {
    /// By kind.
    long: [f32; KINDS.len()],
    /// By class: how long a request has run when it is moved, in microseconds.
    long_after: [f32; CLASSES_MAX],
    classes: Classes,
}

impl From<Bounds> for InForce {
    fn from(bounds: Bounds) -> Self {
        let long_cost = micros(bounds.long_cost);
        let mut long_after = [2.0 * long_cost; CLASSES_MAX];
        for (after, set) in long_after.iter_mut().zip(bounds.long_after) {
            *after = set.map_or(*after, micros);
        }
        #[expect(clippy::cast_precision_loss, reason = "a bound need not be exact")]
        let long_reply = bounds.long_reply as f32;
        Self { long: [long_cost, long_reply], long_after, classes: bounds.classes }
    }
}

fn micros(span: Duration) -> f32 {
    span.as_secs_f32() * 1e6
}

impl ClassWindow {
    fn new() -> Self {
        Self {
            windows: Mutex::new(KINDS.map(|_| Window::new())),
            medians: std::array::from_fn(|_| AtomicU32::new(f32::NAN.to_bits())),
            until: AtomicU64::new(0),
        }
    }

    fn median(&self, kind: Kind) -> Option<f32> {
        let median = f32::from_bits(self.medians[kind as usize].load(Ordering::Relaxed));
        (!median.is_nan()).then_some(median)
    }

    fn publish(&self, kind: Kind, median: Option<f32>) {
        self.medians[kind as usize].store(median.unwrap_or(f32::NAN).to_bits(), Ordering::Relaxed);
    }

    /// Forgets what is too old, which is seldom anything.
    fn advance(&self, windows: &mut [Window; KINDS.len()], now: Moment) {
        if now.0 < self.until.load(Ordering::Relaxed) {
            return;
        }
        for kind in KINDS {
            let until = windows[kind as usize].advance(now);
            self.until.store(until.0, Ordering::Relaxed);
            self.publish(kind, windows[kind as usize].median());
        }
    }

    /// The medians of all kinds.
    fn medians(&self, now: Moment) -> [Option<f32>; KINDS.len()] {
        if now.0 >= self.until.load(Ordering::Relaxed) {
            self.advance(&mut self.windows.lock(), now);
        }
        KINDS.map(|kind| self.median(kind))
    }

    /// Counts a sample (one that says how much it was at least only if it does not lower the median), and returns the median with it.
    fn learn(&self, kind: Kind, value: u64, exact: bool, now: Moment) -> Option<f32> {
        let mut windows = self.windows.lock();
        self.advance(&mut windows, now);
        let window = &mut windows[kind as usize];
        #[expect(clippy::cast_precision_loss, reason = "a median need not be exact")]
        let counts = exact || self.median(kind).is_none_or(|median| value as f32 >= median);
        if counts {
            window.add(value);
            if window.samples() < SAMPLES_EACH || window.samples().is_multiple_of(8) {
                self.publish(kind, window.median());
            }
        }
        self.median(kind)
    }
}

impl fmt::Debug for Documents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Documents").field("stripes", &self.stripes.len()).finish_non_exhaustive()
    }
}

impl Documents {
    /// An empty memory with a random key.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self::bounded(Bounds::of(settings))
    }

    /// The same by bounds alone.
    #[must_use]
    pub fn bounded(bounds: Bounds) -> Self {
        let max = bounds.documents_max;
        // A power of two, rounded down.
        let stripes = 1 << (max / 64).clamp(1, STRIPES_MAX).ilog2();
        // The standard library's state comes from the system's source of randomness.
        let random = RandomState::new();
        Self {
            stripes: (0..stripes).map(|_| Mutex::new(Stripe::new(max / stripes))).collect(),
            windows: (0..CLASSES_MAX).map(|_| ClassWindow::new()).collect(),
            bounds: ArcSwap::from_pointee(bounds.into()),
            secret: ArcSwap::from_pointee([random.hash_one(0), random.hash_one(1)]),
        }
    }

    /// The key of a document; none for `"*"`, which is no document.
    #[must_use]
    pub fn key_of(&self, scope: &Scope) -> Option<DocumentKey> {
        let [first, second] = **self.secret.load();
        let mut hasher = SipHasher13::new_with_keys(first, second);
        let (kind, text) = match scope {
            Scope::All => return None,
            Scope::Plain(text) => (0, text),
            Scope::Tree(path) => (1, path),
        };
        hasher.write_u8(kind);
        hasher.write(text.as_bytes());
        Some(DocumentKey(hasher.finish()))
    }

    /// What is known of these documents. `class` is that of the route.
    #[must_use]
    pub fn look(&self, keys: &[DocumentKey], class: Class, now: Moment) -> Known {
        let mut known = Known::default();
        let medians = self.medians(class, now);
        for key in keys {
            match self.stripe(*key).lock().find(*key) {
                Some(document) => known.dear |= document.is_dear(medians, now),
                None => known.unseen = true,
            }
        }
        known
    }

    /// Learns from a finished request. One without documents still counts in its class's median.
    pub fn learn(&self, keys: &[DocumentKey], sample: &Sample, now: Moment) {
        self.take_in(keys, sample, true, now);
    }

    /// Learns from a request that ended before it was done: it cost at least so much. Lowers no cost and no median.
    pub fn learn_at_least(&self, keys: &[DocumentKey], sample: &Sample, now: Moment) {
        self.take_in(keys, sample, false, now);
    }

    fn take_in(&self, keys: &[DocumentKey], sample: &Sample, exact: bool, now: Moment) {
        let (kind, value) = sample.value();
        let median = self.windows.get(sample.class.index()).and_then(|window| window.learn(kind, value, exact, now));
        let long = self.bounds.load().long[kind as usize];
        #[expect(clippy::cast_precision_loss, reason = "an average need not be exact")]
        let value = value as f32;
        for key in keys {
            self.stripe(*key).lock().change(*key, sample.class, |document| {
                let average = document.average_mut(kind);
                if exact {
                    average.learn(value, long, median, now);
                } else {
                    average.learn_at_least(value, long, median, now);
                }
            });
        }
    }

    /// These documents are dear from now on: a request for them outlived the `long_after` of `class`.
    pub fn moved(&self, keys: &[DocumentKey], class: Class, now: Moment) {
        let taken = self.bounds.load().long_after.get(class.index()).copied().unwrap_or_default();
        for key in keys {
            self.stripe(*key).lock().change(*key, class, |document| document.average_mut(Kind::Time).moved(taken, now));
        }
    }

    /// New thresholds; what is known stays, as far as `documents_max` allows.
    pub fn reload(&self, settings: &Settings) {
        let bounds = Bounds::of(settings);
        let max = bounds.documents_max / self.stripes.len();
        self.bounds.store(Arc::new(bounds.into()));
        for stripe in &self.stripes {
            stripe.lock().bound(max);
        }
    }

    /// How many documents are remembered, and how many of them are dear as of their classes' last samples. Walks them all.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let medians: Vec<_> = self.windows.iter().map(|window| KINDS.map(|kind| window.median(kind))).collect();
        let is_dear = |document: &&Document| {
            let medians = medians.get(document.class.index()).copied().unwrap_or_default();
            document.is_dear(medians, Moment(u64::MAX))
        };
        self.stripes.iter().fold((0, 0), |(all, dear), stripe| {
            let stripe = stripe.lock();
            (all + stripe.documents().len(), dear + stripe.documents().iter().filter(is_dear).count())
        })
    }

    /// What a document's requests cost on average: time at the app (or its database), and the size of replies; as far as known.
    #[must_use]
    pub fn cost(&self, key: DocumentKey) -> (Option<Duration>, Option<u64>) {
        let stripe = self.stripe(key);
        let cost = |kind| stripe.lock().find(key).and_then(|document| document.average(kind).cost());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, and a cast saturates")]
        (cost(Kind::Time).map(|micros| Duration::from_micros(micros as u64)), cost(Kind::Reply).map(|bytes| bytes as u64))
    }

    /// Everything worth keeping over a restart: the key of the hash, dear documents, those in use, and others as far as there is room.
    /// Document keys are keyed hashes; the key is part of what is kept.
    #[must_use]
    pub fn save(&self) -> serde_json::Value {
        let secret = **self.secret.load();
        let most = SAVED_MAX / self.stripes.len();
        let mut documents = Vec::new();
        for stripe in &self.stripes {
            let mut some = stripe.lock().documents().to_vec();
            if some.len() > most {
                some.sort_by_key(|document| (!document.is_marked(), !document.is_in_use()));
                some.truncate(most);
            }
            documents.append(&mut some);
        }
        saved::format(&Saved { secret, documents }, &self.bounds.load().classes)
    }

    /// Takes back what [`Documents::save`] gave, in place of what is known; false if it cannot be understood (nothing is changed then).
    /// To be called before the first request: keys that were given out before mean nothing afterwards.
    pub fn restore(&self, saved: &serde_json::Value, now: Moment) -> bool {
        let Some(Saved { secret, documents }) = saved::parse(saved, &self.bounds.load().classes, now) else {
            return false;
        };
        self.secret.store(secret.into());
        for stripe in &self.stripes {
            stripe.lock().clear();
        }
        // Dear ones last: where there is less room than before, they push the others out.
        for marked in [false, true] {
            for document in documents.iter().filter(|document| document.is_marked() == marked) {
                let fill = |new: &mut Document| *new = *document;
                self.stripe(document.key).lock().change(document.key, document.class, fill);
            }
        }
        true
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.stripes.iter().for_each(|stripe| stripe.lock().check());
    }

    fn medians(&self, class: Class, now: Moment) -> [Option<f32>; KINDS.len()] {
        self.windows.get(class.index()).map(|window| window.medians(now)).unwrap_or_default()
    }

    /// Keys are hashes already.
    #[expect(clippy::cast_possible_truncation, reason = "the lower bits choose")]
    fn stripe(&self, key: DocumentKey) -> &Mutex<Stripe> {
        &self.stripes[key.0 as usize & (self.stripes.len() - 1)]
    }
}
