//! What eats the app: the clients, documents and routes that took most of its time of late, found in bounded memory.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k elements in data streams", ICDT 2005) with
//! weights: a fixed number of entries; a newcomer takes over the smallest one with its weight, which is remembered as the newcomer's
//! possible error. Whatever has more than `total / entries` is among them, and no estimate is too small.
//!
//! Old weight fades by forward decay (Cormode, Shkapenyuk, Srivastava, Xu: "Forward decay", ICDE 2009): what comes later weighs more, by
//! `exp(time since the sketch's beginning / FADE)`, and everything is divided by the same factor when it is read, so that nothing is touched
//! in between. A steady load of one app second per second reads as [`FADE`].

use std::{
    collections::HashMap,
    fmt::{self, Write},
    hash::BuildHasher,
    time::Duration,
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::exchange::Exchange;
use crate::clock::Moment;

/// After this time a second counts for 1/e of what it was: "now" is the last five minutes, roughly.
pub const FADE: Duration = Duration::from_secs(300);

/// How many names one sketch remembers.
const ENTRIES: usize = 256;

/// The most bytes of a name that are kept.
const NAME_BYTES_MAX: usize = 256;

/// The exponent at which a sketch is scaled down, far below the overflow of `f64` (e^709).
const EXPONENT_MAX: f64 = 100.0;

/// Sketches of clients, documents and routes.
#[derive(Debug, Default)]
pub struct Top {
    hasher: RandomState,
    clients: Mutex<Sketch>,
    documents: Mutex<Sketch>,
    routes: Mutex<Sketch>,
}

/// Who took most of the app's time of late.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tops {
    /// By client, as it may be shown.
    pub clients: Vec<Ranked>,
    /// By document. A request's time counts for each of its documents.
    pub documents: Vec<Ranked>,
    /// By the profile's route.
    pub routes: Vec<Ranked>,
}

/// One of those who took most.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Its name.
    pub name: String,
    /// App seconds of late: those of five minutes ago count for 1/e.
    pub app_seconds: f64,
    /// By how much that may be too high, because the name shares an entry with rarer ones.
    pub error_seconds: f64,
    /// Its share of all app seconds of late, 0 to 1.
    pub share: f64,
}

impl Top {
    /// Counts a request that the app has worked on.
    pub fn add(&self, exchange: &Exchange, now: Moment) {
        let seconds = exchange.app.unwrap_or_default().as_secs_f64();
        self.add_one(&self.clients, &exchange.client, seconds, now);
        for scope in exchange.documents.iter().take(crate::model::SCOPES_SHOWN_MAX) {
            self.add_one(&self.documents, scope, seconds, now);
        }
        self.add_one(&self.routes, &exchange.route, seconds, now);
    }

    fn add_one(&self, sketch: &Mutex<Sketch>, name: &dyn fmt::Display, seconds: f64, now: Moment) {
        let mut text = Bounded::default();
        let _ = write!(text, "{name}");
        let key = self.hasher.hash_one(text.as_str());
        sketch.lock().add(key, text.as_str(), seconds, now);
    }

    /// The first `count` of each.
    #[must_use]
    pub fn list(&self, count: usize, now: Moment) -> Tops {
        let first = |sketch: &Mutex<Sketch>| sketch.lock().list(count, now);
        Tops { clients: first(&self.clients), documents: first(&self.documents), routes: first(&self.routes) }
    }
}

/// A text on the stack, cut at [`NAME_BYTES_MAX`].
struct Bounded {
    bytes: [u8; NAME_BYTES_MAX],
    length: usize,
}

impl Default for Bounded {
    fn default() -> Self {
        Self { bytes: [0; NAME_BYTES_MAX], length: 0 }
    }
}

impl Bounded {
    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let cut = text.floor_char_boundary(NAME_BYTES_MAX - self.length);
        self.bytes[self.length..self.length + cut].copy_from_slice(&text.as_bytes()[..cut]);
        self.length += cut;
        if cut == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// A Space-Saving sketch with forward decay. Weights are in seconds times `exp((moment - origin) / FADE)`.
#[derive(Debug, Default)]
struct Sketch {
    /// The moment at which a second weighs 1.
    origin: Moment,
    total: f64,
    weights: Vec<f64>,
    entries: Vec<Entry>,
    index: HashMap<u64, usize, RandomState>,
}

#[derive(Debug)]
struct Entry {
    key: u64,
    name: String,
    error: f64,
}

impl Sketch {
    fn add(&mut self, key: u64, name: &str, seconds: f64, now: Moment) {
        let weight = seconds * self.factor(now);
        self.total += weight;
        if let Some(&at) = self.index.get(&key) {
            self.weights[at] += weight;
            return;
        }
        if self.entries.len() < ENTRIES {
            self.index.insert(key, self.entries.len());
            self.entries.push(Entry { key, name: name.to_owned(), error: 0.0 });
            self.weights.push(weight);
            return;
        }
        let at = self.smallest();
        let entry = &mut self.entries[at];
        self.index.remove(&entry.key);
        self.index.insert(key, at);
        entry.key = key;
        entry.name.clear();
        entry.name.push_str(name);
        entry.error = self.weights[at];
        self.weights[at] += weight;
    }

    fn smallest(&self) -> usize {
        let mut smallest = 0;
        for at in 1..self.weights.len() {
            if self.weights[at] < self.weights[smallest] {
                smallest = at;
            }
        }
        smallest
    }

    /// What a second weighs now. Once that grows too large, everything is scaled down to a new origin.
    fn factor(&mut self, now: Moment) -> f64 {
        let exponent = now.since(self.origin).as_secs_f64() / FADE.as_secs_f64();
        if exponent <= EXPONENT_MAX {
            return exponent.exp();
        }
        let scale = (-exponent).exp();
        self.origin = now;
        self.total *= scale;
        for (weight, entry) in self.weights.iter_mut().zip(&mut self.entries) {
            *weight *= scale;
            entry.error *= scale;
        }
        1.0
    }

    fn list(&mut self, count: usize, now: Moment) -> Vec<Ranked> {
        let factor = self.factor(now);
        let mut order: Vec<usize> = (0..self.entries.len()).filter(|at| self.weights[*at] / factor >= 0.0005).collect();
        order.sort_unstable_by(|a, b| self.weights[*b].total_cmp(&self.weights[*a]));
        let ranked = |at: usize| Ranked {
            name: self.entries[at].name.clone(),
            app_seconds: self.weights[at] / factor,
            error_seconds: self.entries[at].error / factor,
            share: if self.total > 0.0 { self.weights[at] / self.total } else { 0.0 },
        };
        order.into_iter().take(count).map(ranked).collect()
    }
}
