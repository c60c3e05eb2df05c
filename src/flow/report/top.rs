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
pub const FADE: Duration = Duration::from_mins(5);

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
        for scope in exchange.scopes() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Moment {
        Moment::default() + Duration::from_secs_f64(seconds)
    }

    fn name(key: u64) -> String {
        format!("document {key}")
    }

    /// What the sketch should say, without bounds.
    #[derive(Default)]
    struct Exact {
        samples: Vec<(u64, f64, f64)>,
    }

    impl Exact {
        fn of(&self, key: Option<u64>, now: f64) -> f64 {
            let faded = |then: f64, seconds: f64| seconds * ((then - now) / FADE.as_secs_f64()).exp();
            self.samples.iter().filter(|sample| key.is_none_or(|key| key == sample.0)).map(|sample| faded(sample.2, sample.1)).sum()
        }
    }

    #[test]
    fn estimates_are_never_too_small_and_at_most_their_error_too_large() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut sketch, mut exact, mut now) = (Sketch::default(), Exact::default(), 0.0);
            for _ in 0..4000 {
                now += random.f64() * 0.5;
                // A few keys take much, a long tail takes little.
                let key = if random.f64() < 0.3 { random.u64(0..8) } else { random.u64(8..5000) };
                let seconds = random.f64() * if key < 8 { 5.0 } else { 0.1 };
                sketch.add(key, &name(key), seconds, at(now));
                exact.samples.push((key, seconds, now));
            }
            let total = exact.of(None, now);
            let ranked = sketch.list(ENTRIES, at(now));
            for found in &ranked {
                let key = found.name.strip_prefix("document ").and_then(|key| key.parse().ok()).expect("our names");
                let truth = exact.of(Some(key), now);
                assert!(found.app_seconds >= truth - 1e-6, "seed {seed}: {found:?} is below {truth}");
                assert!(found.app_seconds - found.error_seconds <= truth + 1e-6, "seed {seed}: {found:?} exceeds {truth}");
                assert!((found.share - found.app_seconds / total).abs() < 1e-6, "seed {seed}");
            }
            let mut heavy: Vec<u64> = (0..8).collect();
            heavy.sort_by(|a, b| exact.of(Some(*b), now).total_cmp(&exact.of(Some(*a), now)));
            let names: Vec<String> = ranked.iter().take(8).map(|found| found.name.clone()).collect();
            assert_eq!(names, heavy.into_iter().map(name).collect::<Vec<_>>(), "seed {seed}");
        }
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut sketch = Sketch::default();
        for key in 0..100_000 {
            sketch.add(key, &name(key), 0.001, at(1.0));
        }
        assert_eq!((sketch.entries.len(), sketch.weights.len(), sketch.index.len()), (ENTRIES, ENTRIES, ENTRIES));
        for (at, entry) in sketch.entries.iter().enumerate() {
            assert_eq!(sketch.index.get(&entry.key), Some(&at));
        }
    }

    #[test]
    fn old_weight_fades_and_the_scale_never_overflows() {
        let mut sketch = Sketch::default();
        sketch.add(1, "old", 100.0, at(0.0));
        sketch.add(2, "new", 60.0, at(300.0));
        let ranked = sketch.list(2, at(300.0));
        assert_eq!(ranked[0].name, "new");
        assert!((ranked[1].app_seconds - 100.0 / std::f64::consts::E).abs() < 1e-9);
        let years = 315_360_000.0;
        sketch.add(3, "much later", 1.0, at(years));
        let ranked = sketch.list(9, at(years));
        assert_eq!(ranked.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["much later"]);
        assert!((ranked[0].app_seconds - 1.0).abs() < 1e-9 && (ranked[0].share - 1.0).abs() < 1e-9);
    }

    #[test]
    fn scaling_down_changes_nothing_that_is_seen() {
        let mut sketch = Sketch::default();
        let before_scaling = FADE.as_secs_f64() * EXPONENT_MAX - 1.0;
        sketch.add(1, "a", 8.0, at(before_scaling));
        let a = sketch.list(1, at(before_scaling))[0].app_seconds;
        let b = sketch.list(1, at(before_scaling + 2.0))[0].app_seconds;
        assert!(sketch.origin > Moment::default(), "it was scaled in between");
        assert!((a - 8.0).abs() < 1e-9 && (b / a - (-2.0 / FADE.as_secs_f64()).exp()).abs() < 1e-9);
    }

    #[test]
    fn errors_are_scaled_with_their_weights() {
        let mut sketch = Sketch::default();
        let before = FADE.as_secs_f64() * EXPONENT_MAX - 1.0;
        for key in 0..=ENTRIES as u64 {
            sketch.add(key, &name(key), 1.0, at(before));
        }
        for moment in [before, before + 2.0] {
            let ranked = sketch.list(1, at(moment));
            assert_eq!(ranked[0].name, name(ENTRIES as u64), "the last took over an entry");
            assert!((ranked[0].app_seconds / ranked[0].error_seconds - 2.0).abs() < 1e-9, "{ranked:?}");
        }
        assert!(sketch.origin > Moment::default(), "it was scaled in between");
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let mut text = Bounded::default();
        assert!(write!(text, "{}é", "a".repeat(NAME_BYTES_MAX - 1)).is_err());
        assert_eq!(text.as_str(), "a".repeat(NAME_BYTES_MAX - 1));
    }
}
