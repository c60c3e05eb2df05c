//! What is known of documents: what each costs, and which are dear.
//!
//! A large sync can be a 46-byte request, so what a document's requests cost is remembered: an EWMA, with weight 0.3 for the newest, of the
//! time that the app or its database took, and another one of the size of replies. A document is *dear* while its cost is above `long_cost`
//! (half of that to stop; for reply sizes `long_reply`) and above 8 x the median of its route's class over the last five minutes: when
//! everything is slow, nothing is dear, else an outage would push every request into the large class. What this takes, beyond the sentence:
//!
//! * **The median** is of all requests whose route has the class, whatever class they were admitted as, so dear documents count in it. Where
//!   they are more than half of their class, it has no cheap majority that they could stand in the way of, and none of them is dear.
//! * **It must not lag.** Half of five minutes would have to pass until it follows a class that turns slow at once, and by then every
//!   document would be dear. So the larger one counts of the medians over five minutes and over the last 32 to 64 requests (of the last
//!   minute at most), and what a sample finds takes effect two seconds later, when its neighbours have ended too; the median is asked again
//!   at every look.
//! * **Few samples** (below 16) give no median: nothing becomes dear by its cost, and what is dear stays so. Hence a restart, which keeps
//!   documents but not the medians, keeps dear documents dear.
//! * **What is left of an outage makes nothing dear.** A document becomes dear only by a sample that is itself above both bounds; one whose
//!   average still stands high from a slow hour is not called dear when the median has fallen back.
//! * **A class that turns slow as a whole** makes its dear documents ordinary at once, for as long as it is slow. Those without a sample in
//!   that time are dear again afterwards; the others need a new one.
//! * **A request that was moved** while it ran gives its documents a cost of at least the class's `long_after` and makes them dear at once, with
//!   no delay and however few samples there are, until a real sample says otherwise. The median may still overrule it: in an outage every
//!   request is moved.
//! * **What ended badly** says how much a document costs at least: it never lowers a cost or a median.
//!
//! Memory is bounded: a document is forgotten when its stripe is full and the clock's hand finds that nobody asked for it since it last came
//! by; a dear one has three lives. `cost` judges, `median` counts, `stripe` remembers, `saved` is the form on disk; `shell` holds the locks.

mod cost;
mod median;
mod saved;
mod shell;
mod stripe;

use std::time::Duration;

pub use self::shell::Documents;
use crate::{
    config::Settings,
    model::{Class, Classes},
    profile::Cost,
};

/// What is known of a request's documents together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// One of them is dear.
    pub dear: bool,
    /// Of one of them nothing is known.
    pub unseen: bool,
}

/// What one request cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The class of its route (not the `long` class it may have been admitted as).
    pub class: Class,
    /// What its route remembers.
    pub cost: Cost,
    /// The time that the app took.
    pub app: Duration,
    /// Of it in the database, where the app told.
    pub database: Option<Duration>,
    /// The reply's size in bytes.
    pub reply: u64,
}

/// What of the settings concerns the memory of documents.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// The most documents that are remembered.
    pub documents_max: usize,
    /// Above this, and above 8 x its class's median, a document is dear.
    pub long_cost: Duration,
    /// The same for the size of replies, in bytes.
    pub long_reply: u64,
    /// By class: how long a request has run when it is moved.
    pub long_after: Vec<Option<Duration>>,
    /// The names of the classes, for what is saved.
    pub classes: Classes,
}

impl Bounds {
    /// As the settings have them.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            documents_max: settings.gate.documents_max,
            long_cost: settings.gate.long_cost,
            long_reply: settings.gate.long_reply,
            long_after: settings.class.iter().map(|class| class.long_after).collect(),
            classes: settings.classes.clone(),
        }
    }
}

/// What can be remembered of a document; the index of per-kind arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Time at the app or its database, in microseconds.
    Time,
    /// The size of replies, in bytes.
    Reply,
}

const KINDS: [Kind; 2] = [Kind::Time, Kind::Reply];

impl Sample {
    /// What of it is remembered, and how much.
    fn value(&self) -> (Kind, u64) {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        match self.cost {
            Cost::App => (Kind::Time, micros(self.app)),
            Cost::Database => (Kind::Time, micros(self.database.unwrap_or(self.app))),
            Cost::Reply => (Kind::Reply, self.reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, thread};

    use fastrand::Rng;

    use super::*;
    use crate::{
        clock::Moment,
        model::{DocumentKey, Scope},
    };

    const SYNC: Class = Class(1);
    const OTHER: Class = Class(4);
    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn bounds(documents_max: usize) -> Bounds {
        let long_after = vec![Some(SECOND), Some(SECOND), None, None, None];
        Bounds { documents_max, long_cost: 25 * MS, long_reply: 100_000, long_after, classes: Classes::shipped() }
    }

    fn app(app: Duration) -> Sample {
        Sample { class: SYNC, cost: Cost::App, app, database: None, reply: 0 }
    }

    fn key(number: u64) -> DocumentKey {
        DocumentKey(number)
    }

    /// A class whose requests take 5 ms, for half a minute.
    fn calm(documents: &Documents, now: &mut Moment) {
        for number in 0..3000 {
            *now = *now + 10 * MS;
            documents.learn(&[key(1000 + number % 100)], &app(5 * MS), *now);
        }
    }

    fn dear(documents: &Documents, number: u64, now: Moment) -> bool {
        documents.look(&[key(number)], SYNC, now).dear
    }

    #[test]
    fn a_document_whose_requests_cost_much_is_dear_and_its_neighbours_are_not() {
        let (documents, mut now) = (Documents::bounded(bounds(10_000)), Moment(0));
        calm(&documents, &mut now);
        assert_eq!(documents.look(&[key(1)], SYNC, now), Known { dear: false, unseen: true });
        documents.learn(&[key(1)], &app(SECOND), now);
        now = now + 3 * SECOND;
        assert_eq!(documents.look(&[key(1)], SYNC, now), Known { dear: true, unseen: false });
        assert_eq!(documents.look(&[key(1000)], SYNC, now), Known { dear: false, unseen: false });
        assert_eq!(documents.look(&[key(1000), key(1), key(2)], SYNC, now), Known { dear: true, unseen: true });
        assert_eq!(documents.look(&[], SYNC, now), Known::default());
        assert_eq!(documents.counts(), (101, 1));
        assert_eq!(documents.cost(key(1)), (Some(SECOND), None));
    }

    #[test]
    fn the_database_time_counts_where_the_app_tells_it() {
        let (documents, now) = (Documents::bounded(bounds(100)), Moment(0));
        let database = |database| Sample { cost: Cost::Database, database, ..app(80 * MS) };
        documents.learn(&[key(1)], &database(Some(3 * MS)), now);
        documents.learn(&[key(2)], &database(None), now);
        assert_eq!(documents.cost(key(1)).0, Some(3 * MS));
        assert_eq!(documents.cost(key(2)).0, Some(80 * MS));
    }

    #[test]
    fn replies_have_a_bound_and_a_median_of_their_own() {
        let (documents, mut now) = (Documents::bounded(bounds(1000)), Moment(0));
        calm(&documents, &mut now);
        let reply = |reply| Sample { cost: Cost::Reply, reply, ..app(SECOND) };
        for number in 0..100 {
            documents.learn(&[key(number % 10)], &reply(2000), now);
        }
        documents.learn(&[key(50)], &reply(500_000), now);
        documents.learn(&[key(51)], &reply(90_000), now);
        now = now + 3 * SECOND;
        assert!(dear(&documents, 50, now));
        assert!(!dear(&documents, 51, now) && !dear(&documents, 1, now));
    }

    #[test]
    fn the_median_is_of_the_routes_class() {
        let (documents, mut now) = (Documents::bounded(bounds(1000)), Moment(0));
        calm(&documents, &mut now);
        for number in 0..100 {
            documents.learn(&[key(number)], &Sample { class: OTHER, ..app(200 * MS) }, now);
        }
        now = now + 3 * SECOND;
        assert!(!documents.look(&[key(1)], OTHER, now).dear);
        documents.learn(&[key(1)], &app(200 * MS), now);
        now = now + 3 * SECOND;
        assert!(documents.look(&[key(1)], SYNC, now).dear);
        assert!(!documents.look(&[key(1)], OTHER, now).dear);
    }

    #[test]
    fn when_everything_turns_ten_times_slower_no_document_becomes_dear() {
        for seed in 0..10 {
            let mut random = Rng::with_seed(seed);
            let (documents, mut now) = (Documents::bounded(bounds(100_000)), Moment(0));
            // 150 a second that take some 20 ms (lognormal, one in a thousand five times as long) on documents of which some are asked for often.
            let (mut ends, mut slow) = (std::collections::BTreeMap::new(), 1.0);
            for step in 0..150 * 1200 {
                now = now + Duration::from_micros(random.u64(0..13_333));
                slow = if (150 * 400..150 * 700).contains(&step) { 10.0 } else { 1.0 };
                let document = key(random.u64(0..20) * random.u64(0..20));
                assert!(!documents.look(&[document], SYNC, now).dear, "seed {seed}, step {step}");
                let normal = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
                let took = Duration::from_secs_f64(0.02 * slow * (0.5 * normal).exp());
                ends.insert((now + took, step), (document, took));
                while let Some(ended) = ends.first_entry().filter(|entry| entry.key().0 <= now) {
                    let (at, (document, took)) = (ended.key().0, ended.remove());
                    documents.learn(&[document], &app(took), at);
                    // The gate calls it while the request runs; at its end is late, which is the harder case.
                    if took > SECOND {
                        documents.moved(&[document], SYNC, at);
                    }
                }
            }
            assert!(slow < 2.0);
        }
    }

    #[test]
    fn a_moved_request_makes_its_documents_dear_at_once_also_unseen_ones() {
        let (documents, mut now) = (Documents::bounded(bounds(1000)), Moment(0));
        documents.moved(&[key(7)], SYNC, now);
        assert!(dear(&documents, 7, now), "without a median");
        calm(&documents, &mut now);
        documents.moved(&[key(8), key(1000)], SYNC, now);
        assert_eq!(documents.look(&[key(8)], SYNC, now), Known { dear: true, unseen: false });
        assert!(dear(&documents, 1000, now));
        assert_eq!(documents.cost(key(8)).0, Some(SECOND));
        documents.moved(&[key(9)], OTHER, now);
        assert!(dear(&documents, 9, now), "of a class without long_after");
        calm(&documents, &mut now);
        assert!(dear(&documents, 8, now) && dear(&documents, 9, now), "their samples never came");
        assert!(!dear(&documents, 1000, now), "cheap samples came");
    }

    #[test]
    fn what_ended_badly_lowers_neither_a_cost_nor_the_median() {
        let (documents, mut now) = (Documents::bounded(bounds(1000)), Moment(0));
        calm(&documents, &mut now);
        documents.learn(&[key(1)], &app(SECOND), now);
        now = now + 3 * SECOND;
        for _ in 0..10_000 {
            documents.learn_at_least(&[key(1), key(2)], &app(Duration::ZERO), now);
        }
        assert!(dear(&documents, 1, now));
        documents.learn(&[key(3)], &app(30 * MS), now);
        assert!(!dear(&documents, 3, now + 3 * SECOND), "the median is still 5 ms");
        // But when everything times out, everything is slow.
        for number in 0..10_000 {
            documents.learn_at_least(&[key(100 + number % 50)], &app(30 * SECOND), now);
        }
        assert!((100..150).all(|number| !dear(&documents, number, now + 3 * SECOND)));
    }

    #[test]
    fn a_restart_keeps_dear_documents_dear_and_the_names_of_all() {
        let (documents, mut now) = (Documents::bounded(bounds(10_000)), Moment(0));
        calm(&documents, &mut now);
        let scope = Scope::Plain("document:a".into());
        let a = documents.key_of(&scope).expect("a document");
        documents.learn(&[a], &app(SECOND), now);
        documents.moved(&[key(2)], SYNC, now);
        let saved = documents.save().to_string();
        let again = Documents::bounded(bounds(10_000));
        assert_ne!(again.key_of(&scope), Some(a), "every memory has a secret of its own");
        let start = Moment(5);
        assert!(again.restore(&serde_json::from_str(&saved).expect("JSON"), start));
        assert_eq!(again.key_of(&scope), Some(a));
        assert_eq!(again.look(&[a], SYNC, start), Known { dear: true, unseen: false });
        assert_eq!(again.look(&[key(1000)], SYNC, start), Known { dear: false, unseen: false });
        assert_eq!(again.counts(), (102, 2));
        let mut now = start;
        calm(&again, &mut now);
        assert!(again.look(&[a, key(2)], SYNC, now).dear);
        // Less room: the dear ones are kept.
        let small = Documents::bounded(bounds(10));
        assert!(small.restore(&serde_json::from_str(&saved).expect("JSON"), start));
        assert_eq!(small.counts(), (10, 2));
        small.check();
    }

    #[test]
    fn what_cannot_be_understood_changes_nothing() {
        let documents = Documents::bounded(bounds(100));
        let scope = Scope::Plain("document:a".into());
        let before = documents.key_of(&scope);
        documents.moved(&[key(1)], SYNC, Moment(0));
        assert!(!documents.restore(&serde_json::json!({"version": 1}), Moment(0)));
        assert_eq!((documents.key_of(&scope), documents.counts()), (before, (1, 1)));
    }

    #[test]
    fn more_documents_than_are_saved_keep_the_dear_ones() {
        let documents = Documents::bounded(bounds(200_000));
        let mut random = Rng::with_seed(3);
        (0..150_000).for_each(|_| documents.learn(&[key(random.u64(..))], &app(MS), Moment(0)));
        let dear: Vec<_> = (0..200).map(|_| key(random.u64(..))).collect();
        documents.moved(&dear, SYNC, Moment(0));
        let again = Documents::bounded(bounds(200_000));
        assert!(again.restore(&documents.save(), Moment(0)));
        assert!((90_000..=100_000).contains(&again.counts().0));
        assert!(dear.iter().all(|key| again.look(&[*key], SYNC, Moment(0)).dear));
    }

    #[test]
    fn everything_is_no_document_and_trees_are_not_texts() {
        let documents = Documents::bounded(bounds(100));
        assert_eq!(documents.key_of(&Scope::All), None);
        let plain = documents.key_of(&Scope::Plain("/a".into()));
        assert_ne!(plain, documents.key_of(&Scope::Tree("/a".into())));
        assert_eq!(plain, documents.key_of(&Scope::Plain("/a".into())));
    }

    #[test]
    fn threads_neither_lose_documents_nor_deadlock() {
        let documents = Documents::bounded(bounds(1000));
        thread::scope(|scope| {
            for seed in 0..4 {
                let documents = &documents;
                scope.spawn(move || {
                    let mut random = Rng::with_seed(seed);
                    for step in 0..20_000 {
                        let keys = [key(random.u64(..3000)), key(random.u64(..3000))];
                        let now = Moment(step * 20_000_000);
                        match random.u8(..100) {
                            0 => documents.moved(&keys, SYNC, now),
                            1 => assert!(documents.counts().0 <= 1000),
                            2..50 => documents.learn(&keys, &app(MS), now),
                            _ => _ = documents.look(&keys, SYNC, now),
                        }
                    }
                });
            }
        });
        documents.check();
    }

    /// A document as the sentence has it, with nothing bounded.
    #[derive(Clone, Copy)]
    struct Reference {
        cost: f64,
        marked: bool,
    }

    #[test]
    fn a_million_random_steps_keep_what_is_promised() {
        let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        println!("SEED={seed}");
        let mut random = Rng::with_seed(seed);
        let (documents, mut now) = (Documents::bounded(bounds(4096)), Moment(0));
        let mut references: HashMap<u64, Reference> = HashMap::new();
        let mut base = 5000.0;
        for step in 0..1_000_000 {
            now = now + Duration::from_micros(random.u64(0..5000));
            if random.u32(..50_000) == 0 {
                base = 10_f64.powf(random.f64() * 4.0 + 1.0);
                now = now + SECOND * random.u32(..400);
            }
            // Few enough that none is forgotten.
            let number = random.u64(..1000);
            match random.u8(..) {
                0 => {
                    documents.moved(&[key(number)], SYNC, now);
                    let reference = references.entry(number).or_insert(Reference { cost: 0.0, marked: false });
                    *reference = Reference { cost: reference.cost.max(1e6), marked: true };
                }
                1..120 => {
                    let heavy = if number < 30 { 1000.0 } else { 1.0 };
                    let took = Duration::from_secs_f64(1e-6 * base * heavy * random.f64());
                    documents.learn(&[key(number)], &app(took), now);
                    let sample = took.as_secs_f64() * 1e6;
                    let reference = references.entry(number).or_insert(Reference { cost: sample, marked: false });
                    reference.cost += 0.3 * (sample - reference.cost);
                    reference.marked = (reference.marked && reference.cost > 12_499.0) || reference.cost.min(sample) > 24_999.0;
                }
                _ => {
                    let known = documents.look(&[key(number)], SYNC, now);
                    let reference = references.get(&number);
                    assert_eq!(known.unseen, reference.is_none(), "step {step}");
                    assert!(!known.dear || reference.is_some_and(|reference| reference.marked), "step {step}");
                    let cost = documents.cost(key(number)).0.map(|cost| cost.as_secs_f64() * 1e6);
                    let near = |cost: f64| reference.is_some_and(|known| (cost - known.cost).abs() <= 2.0 + known.cost * 1e-4);
                    assert!(cost.is_none_or(near), "step {step}: {cost:?}, {:?}", reference.map(|reference| reference.cost));
                }
            }
            if step % 10_000 == 0 {
                documents.check();
                let (all, dear) = documents.counts();
                assert!(all == references.len() && dear <= references.values().filter(|reference| reference.marked).count());
            }
        }
    }
}
