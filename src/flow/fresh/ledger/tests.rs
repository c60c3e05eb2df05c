//! The ledger beside a reference that forgets nothing and knows no keys, in a million random steps; and under real threads beside an app whose
//! versions are looked at.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use fastrand::Rng;

use super::*;
use crate::{
    flow::fresh::keys::{Key, Keyring, Reads, Touched},
    model::Scope,
};

const KEYS_MAX: usize = 256;
const DEPTH_MAX: usize = 16;

/// A time span; `quiet_from` is kept in even nanoseconds, and so all times here are even.
const AGE_MAX: Duration = Duration::from_micros(4);

fn seed() -> u64 {
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..))
}

/// What can be written: scopes, and credentials, which are denied.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Thing {
    Scope(Scope),
    Credential(u8),
}

/// All things: every node of a binary tree of depth 3, plain documents, everything, credentials.
fn things() -> Vec<Thing> {
    let mut paths = vec![String::new()];
    for depth in 0..3 {
        let parents: Vec<String> = paths.iter().filter(|path| path.matches('/').count() == depth).cloned().collect();
        paths.extend(parents.iter().flat_map(|parent| [format!("{parent}/a"), format!("{parent}/b")]));
    }
    paths[0] = "/".to_owned();
    let trees = paths.into_iter().map(|path| Scope::Tree(path.into()));
    let plain = (0..24).map(|number| Scope::Plain(format!("doc:{number}").into()));
    let scopes = trees.chain(plain).chain([Scope::All]).map(Thing::Scope);
    scopes.chain((0..4).map(Thing::Credential)).collect()
}

/// Whether who reads one sees a write of the other, by the scopes alone.
fn concerns(written: &Thing, read: &Thing) -> bool {
    let (Thing::Scope(written), Thing::Scope(read)) = (written, read) else {
        // Every notice counts for who reads everything, and who writes everything writes credentials, too.
        return written == read || *written == Thing::Scope(Scope::All) || *read == Thing::Scope(Scope::All);
    };
    match (written, read) {
        (Scope::All, _) | (_, Scope::All) => true,
        (Scope::Tree(written), Scope::Tree(read)) => {
            let segments = |path: &Arc<str>| -> Vec<String> { path.split('/').filter(|part| !part.is_empty()).map(String::from).collect() };
            segments(written).iter().zip(segments(read)).all(|(one, other)| *one == other)
        }
        (written, read) => written == read,
    }
}

/// A write or a notice, remembered for ever.
#[derive(Clone, Debug)]
struct Written {
    things: Vec<usize>,
    /// The step at which it began.
    step: u64,
    runs: bool,
    quiet_from: u64,
}

/// What is known of all writes of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    step: u64,
    runs: u32,
    quiet_from: u64,
}

/// Remembers every write, by things instead of keys.
#[derive(Default)]
struct Reference {
    written: Vec<Written>,
    /// By thing: a summary of `written`, which is compared with it now and then.
    known: Vec<Known>,
    suspended: u64,
}

impl Reference {
    fn begin(&mut self, things: &[usize], step: u64, runs: bool, quiet_from: u64) -> usize {
        for thing in things {
            let known = &mut self.known[*thing];
            known.step = step;
            known.runs += u32::from(runs);
            known.quiet_from = known.quiet_from.max(quiet_from);
        }
        self.written.push(Written { things: things.to_vec(), step, runs, quiet_from });
        self.written.len() - 1
    }

    fn end(&mut self, write: usize, quiet_from: u64) {
        let written = &mut self.written[write];
        (written.runs, written.quiet_from) = (false, quiet_from);
        for thing in &written.things {
            let known = &mut self.known[*thing];
            known.runs -= 1;
            known.quiet_from = known.quiet_from.max(quiet_from);
        }
    }

    /// The summary, from the list of all writes.
    fn slowly(&self) -> Vec<Known> {
        let mut all = vec![Known::default(); self.known.len()];
        for written in &self.written {
            for thing in &written.things {
                let known = &mut all[*thing];
                known.step = known.step.max(written.step);
                known.runs += u32::from(written.runs);
                known.quiet_from = known.quiet_from.max(written.quiet_from);
            }
        }
        all
    }
}

/// A ledger, its reference, and what goes on between them.
struct Session {
    random: Rng,
    seed: u64,
    things: Vec<Thing>,
    concerns: Vec<Vec<bool>>,
    ring: Keyring,
    ledger: Ledger,
    /// Whether the ledger has room for everything: then it must know as much as the reference.
    roomy: bool,
    reference: Reference,
    now: u64,
    step: u64,
    running: Vec<(usize, Touched)>,
    /// The most writes at the same time.
    writes_max: usize,
    /// By key of an entry: its writers.
    writers: HashMap<Key, u32>,
    asked: Vec<(Vec<usize>, Reads, Asked, u64)>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    solid: u32,
    proven: u32,
    /// What the reference would have proven.
    lost: u32,
}

impl Session {
    fn new(documents_max: usize, roomy: bool, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let things = things();
        let concerns = things.iter().map(|read| things.iter().map(|written| concerns(written, read)).collect()).collect();
        let ring = Keyring::new([random.u64(..), random.u64(..)], DEPTH_MAX);
        let writes_max = [1, 2, 3, 12][random.usize(..4)];
        let start = if random.bool() { 200 } else { 0 };
        let reference = Reference { known: vec![Known { quiet_from: start, ..Known::default() }; things.len()], ..Reference::default() };
        let ledger = Ledger::new(documents_max, Moment(start));
        Self {
            random,
            seed,
            things,
            concerns,
            ring,
            ledger,
            roomy,
            reference,
            now: 0,
            step: 0,
            running: Vec::new(),
            writes_max,
            writers: HashMap::new(),
            asked: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn some_things(&mut self) -> Vec<usize> {
        let scopes = self.things.len() - 4;
        let everything = scopes - 1;
        if self.random.u8(..) < 4 {
            return vec![everything];
        }
        let count = 1 + usize::from(self.random.u8(..) < 64) + usize::from(self.random.u8(..) < 32);
        // Half of what is written are a few documents, as in life.
        let (from, spread) = if self.random.bool() { (0, everything) } else { (12, 6) };
        let mut things: Vec<usize> = (0..count).map(|_| from + self.random.usize(..spread)).collect();
        things.dedup();
        things
    }

    fn touched(&self, things: &[usize]) -> Touched {
        let mut touched = Touched::default();
        for thing in things {
            touched.add(&match &self.things[*thing] {
                Thing::Scope(scope) => self.ring.writes(std::slice::from_ref(scope)),
                Thing::Credential(number) => Touched::one(self.ring.credential(&[*number])),
            });
        }
        touched
    }

    /// A moment at which something is quiet: now, soon or late.
    fn quiet_from(&mut self) -> (u64, Quiet) {
        match self.random.u8(..32) {
            0 => (self.now + 400, Quiet::Doubt),
            1..=8 => (self.now + 20, Quiet::Settle),
            _ => (self.now, Quiet::Settle),
        }
    }

    fn play(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step += 1;
            match self.random.u8(..100) {
                0..20 if self.running.len() < self.writes_max => self.begin(),
                0..42 => self.end(),
                42..47 => self.notice(),
                47..49 => self.suspend_or_resume(),
                49..70 => self.ask(),
                70..92 => self.prove(),
                _ => self.now += 2 * self.random.u64(..20),
            }
        }
        let full = self.reference.slowly();
        for (summary, slow) in self.reference.known.iter().zip(full) {
            assert_eq!((summary.step, summary.runs), (slow.step, slow.runs), "seed {}: the reference is wrong", self.seed);
        }
        self.ledger.check();
        if self.roomy {
            assert_eq!(self.tally.lost, 0);
        }
    }

    fn begin(&mut self) {
        let things = self.some_things();
        let touched = self.touched(&things);
        self.ledger.begin(&touched, Cause(3));
        for key in &touched.keys {
            *self.writers.entry(*key).or_default() += 1;
        }
        let write = self.reference.begin(&things, self.step, true, 0);
        self.running.push((write, touched.clone()));
        self.check(&touched);
    }

    fn end(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let (write, touched) = self.running.swap_remove(self.random.usize(..self.running.len()));
        let (quiet_from, why) = self.quiet_from();
        if self.random.u8(..10) == 0 {
            self.ledger.unsent(&touched);
            self.reference.end(write, 0);
        } else {
            self.ledger.end(&touched, Moment(quiet_from), why);
            self.reference.end(write, quiet_from);
        }
        for key in &touched.keys {
            *self.writers.entry(*key).or_default() -= 1;
        }
        self.check(&touched);
    }

    fn notice(&mut self) {
        let credentials = self.things.len() - 4;
        let things = if self.random.bool() { self.some_things() } else { vec![self.random.usize(credentials..credentials + 4)] };
        let touched = self.touched(&things);
        let (quiet_from, _) = self.quiet_from();
        self.ledger.notice(&touched, Moment(quiet_from), Cause::NOTICE);
        self.reference.begin(&things, self.step, false, quiet_from);
        self.check(&touched);
    }

    fn suspend_or_resume(&mut self) {
        if self.reference.suspended > 0 {
            self.notice();
            self.ledger.resume();
            self.reference.suspended -= 1;
        } else if self.random.u8(..4) == 0 {
            self.ledger.suspend();
            self.reference.suspended += 1;
        }
    }

    fn ask(&mut self) {
        let credential = self.random.u8(..4);
        let mut things = self.some_things();
        let scopes: Vec<Scope> = things
            .iter()
            .filter_map(|thing| if let Thing::Scope(scope) = &self.things[*thing] { Some(scope.clone()) } else { None })
            .collect();
        things.push(self.things.len() - 4 + usize::from(credential));
        let reads = self.ring.reads(&scopes, self.ring.credential(&[credential]), KEYS_MAX).expect("a few keys");
        let asked = self.ledger.ask(&reads, Moment(self.now), Boot(self.now));
        let known = self.known(&things);
        let wanted = known.runs == 0 && known.quiet_from <= self.now;
        let found = asked.solid;
        let context = format!("seed {}, step {}: {things:?} solid {found:?}, {known:?}", self.seed, self.step);
        assert!(found.is_err() || wanted, "{context}");
        if self.roomy {
            assert!(found.is_ok() == wanted && (found == Err(NotSolid::Writer)) == (known.runs > 0), "{context}");
        }
        self.tally.solid += u32::from(found.is_ok());
        let entry = (things, reads, asked, self.step);
        if found.is_err() && self.random.u8(..8) > 0 {
            return;
        }
        if self.asked.len() < 48 {
            self.asked.push(entry);
        } else {
            let place = self.random.usize(..48);
            self.asked[place] = entry;
        }
    }

    fn prove(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let (things, reads, asked, step) = &self.asked[self.random.usize(..self.asked.len())];
        let known = self.known(things);
        let found = self.ledger.prove(reads, asked, Boot(self.now), AGE_MAX);
        let young = Boot(self.now).since(asked.asked_at) < AGE_MAX;
        let unwritten = self.reference.suspended == 0 && known.step <= *step;
        let context = format!("seed {}, step {}: {things:?} asked at {step} proven {found:?}, {known:?}", self.seed, self.step);
        assert!(found.is_err() || (young && unwritten && asked.solid.is_ok()), "{context}");
        assert!(!self.ledger.unchanged(reads, asked.s) || unwritten, "{context}");
        let lost = found.is_err() && young && unwritten && asked.solid.is_ok();
        if self.roomy {
            assert!(!lost && self.ledger.unchanged(reads, asked.s) == unwritten, "{context}");
        }
        self.tally.lost += u32::from(lost);
        self.tally.proven += u32::from(found.is_ok());
    }

    /// What the reference knows of a question.
    fn known(&self, read: &[usize]) -> Known {
        let mut all = Known::default();
        for read in read {
            for known in self.concerns[*read].iter().zip(&self.reference.known).filter_map(|(concerns, known)| concerns.then_some(known)) {
                all.step = all.step.max(known.step);
                all.runs += known.runs;
                all.quiet_from = all.quiet_from.max(known.quiet_from);
            }
        }
        all
    }

    /// The invariants: everywhere, or at what was just changed where everywhere would take too long.
    fn check(&self, touched: &Touched) {
        if !self.roomy || self.step.is_multiple_of(64) {
            self.ledger.check();
        }
        let everywhere = self.reference.known[self.things.len() - 5].runs;
        assert_eq!(self.ledger.root(), (u64::from(everywhere), self.running.len() as u64), "seed {}: writers", self.seed);
        for (key, looked) in self.ledger.look(touched) {
            let writers = self.writers.get(&key).copied().unwrap_or(0);
            assert_eq!(looked.writers, writers + everywhere, "seed {}, step {}: writers of {key:?}", self.seed, self.step);
            assert!(looked.entry || writers == 0, "seed {}: an entry with writers was dropped", self.seed);
        }
    }
}

#[test]
fn in_a_million_random_steps_nothing_is_proven_that_was_written_since() {
    let seed = seed();
    println!("SEED={seed}");
    let (mut solid, mut proven, mut lost) = (0, 0, 0);
    for (round, documents_max) in (0..).zip([0, 2, 16, 24, 40, 64, 90, 20_000, 20_000, 20_000]) {
        for part in 0..10 {
            let roomy = documents_max == 20_000;
            let mut session = Session::new(documents_max, roomy, seed.wrapping_add(round * 10 + part));
            session.play(10_000);
            let tally = &session.tally;
            assert_eq!(session.ledger.has_dropped(), !roomy, "seed {seed}: at most {documents_max} entries");
            (solid, proven, lost) = (solid + tally.solid, proven + tally.proven, lost + tally.lost);
        }
    }
    println!("{solid} solid, {proven} proven, {lost} lost to dropped entries");
    assert!(solid > 20_000 && proven > 4_000 && lost > 300, "seed {seed}: {solid} solid, {proven} proven, {lost} lost to dropped entries");
}

#[test]
fn what_is_in_doubt_at_a_clean_stop_is_in_doubt_at_the_next_start_and_nothing_else() {
    let seed = seed();
    println!("SEED={seed}");
    let mut named = 0;
    for round in 0..200 {
        let mut session = Session::new(20_000, true, seed.wrapping_add(round));
        session.play(200);
        let running = session.running.len() as u64 + session.reference.suspended;
        assert!(running == 0 || session.ledger.doubts(Moment(session.now)).is_none(), "seed {seed}: a write runs");
        while !session.running.is_empty() {
            session.end();
        }
        while session.reference.suspended > 0 {
            session.suspend_or_resume();
        }
        let everything = session.known(&[session.things.len() - 5]);
        let all = session.reference.known[session.things.len() - 5];
        let doubts = session.ledger.doubts(Moment(session.now));
        assert_eq!(doubts.is_none(), all.quiet_from > session.now, "seed {seed}: {all:?}");
        let Some(doubts) = doubts else { continue };
        assert_eq!(doubts.is_empty(), everything.quiet_from <= session.now, "seed {seed}");
        let doubts: Vec<(Key, Moment)> = doubts.into_iter().map(|(key, span)| (key, Moment(0) + span)).collect();
        named += doubts.len();
        let next = Ledger::with_doubts(20_000, &doubts);
        for ahead in [0, 10, 30, 500] {
            for _ in 0..20 {
                let things = session.some_things();
                let scopes: Vec<Scope> = things
                    .iter()
                    .filter_map(|thing| if let Thing::Scope(scope) = &session.things[*thing] { Some(scope.clone()) } else { None })
                    .collect();
                let credential = session.ring.credential(b"nobody");
                let reads = session.ring.reads(&scopes, credential, KEYS_MAX).expect("a few keys");
                let wanted = session.known(&things).quiet_from <= session.now + ahead;
                let asked = next.ask(&reads, Moment(ahead), Boot(0));
                assert_eq!(asked.solid.is_ok(), wanted, "seed {seed}: {scopes:?} {ahead} after the start");
            }
        }
    }
    assert!(named > 50, "seed {seed}: {named} documents in doubt");
}

#[test]
fn a_start_in_doubt_ends_and_cannot_name_its_doubts() {
    let ledger = Ledger::new(1000, Moment(100));
    let reads = Reads { everything: false, keys: [Key(1)].into_iter().collect() };
    let wide = Reads { everything: true, ..reads.clone() };
    for reads in [&reads, &wide] {
        assert_eq!(ledger.ask(reads, Moment(99), Boot(0)).solid, Err(NotSolid::Doubt));
        assert_eq!(ledger.ask(reads, Moment(100), Boot(0)).solid, Ok(()));
    }
    assert_eq!(ledger.doubts(Moment(99)), None);
    assert_eq!(ledger.doubts(Moment(100)), Some(Vec::new()));
    let view = ledger.view(Moment(99));
    assert_eq!((view.all_solid, view.entries, view.seq), (Err(NotSolid::Doubt), 0, 0));
    assert!(view.floors_in_doubt > 0 && ledger.view(Moment(100)).floors_in_doubt == 0);
}

#[test]
fn a_doubt_whose_entry_was_dropped_cannot_be_named() {
    let ledger = Ledger::new(2, Moment(0));
    for touched in (0..10).map(|key| Touched::one(Key(key))) {
        ledger.begin(&touched, Cause(1));
        ledger.end(&touched, Moment(100), Quiet::Doubt);
    }
    assert_eq!(ledger.doubts(Moment(99)), None);
    assert_eq!(ledger.doubts(Moment(100)), Some(Vec::new()));
}

#[test]
fn an_answer_says_why_it_is_stale() {
    let ledger = Ledger::new(1000, Moment(0));
    let reads = Reads { everything: false, keys: [Key(1)].into_iter().collect() };
    let age_max = Duration::from_secs(1);
    let asked = ledger.ask(&reads, Moment(0), Boot(5));
    let prove = |asked: &Asked, boot: u64| ledger.prove(&reads, asked, Boot(boot), age_max).err();
    assert_eq!(prove(&asked, 5), None);
    assert_eq!(prove(&asked, 1_000_000_004), None);
    assert_eq!(prove(&asked, 1_000_000_005), Some(Stale::Age));
    assert!(ledger.unchanged(&reads, asked.s), "age aside");
    ledger.suspend();
    assert_eq!(prove(&asked, 5), Some(Stale::Suspended));
    ledger.resume();
    assert_eq!(prove(&asked, 5), None);
    ledger.begin(&Touched::one(Key(2)), Cause(9));
    assert_eq!(prove(&asked, 5), None);
    ledger.begin(&Touched::one(Key(1)), Cause(9));
    assert_eq!(prove(&asked, 5), Some(Stale::Written(Cause(9))));
    let during = ledger.ask(&reads, Moment(0), Boot(5));
    assert_eq!(prove(&during, 5), Some(Stale::NotSolid(NotSolid::Writer)));
    ledger.end(&Touched::one(Key(1)), Moment(10), Quiet::Settle);
    assert_eq!(ledger.ask(&reads, Moment(9), Boot(5)).solid, Err(NotSolid::Settle));
    let after = ledger.ask(&reads, Moment(10), Boot(5));
    assert_eq!(prove(&after, 5), None);
    ledger.notice(&Touched::everything(), Moment(0), Cause::NOTICE);
    assert_eq!(prove(&after, 5), Some(Stale::Written(Cause::NOTICE)));
    let (key, looked) = ledger.look(&Touched::one(Key(1)))[0];
    assert_eq!((key, looked.writers, looked.quiet_from, looked.cause), (Key(1), 0, Moment(10), Cause::NOTICE));
    assert!(looked.entry && !ledger.look(&Touched::one(Key(3)))[0].1.entry);
}

#[test]
fn causes_tell_routes_from_others() {
    for (cause, route, label) in [
        (Cause::from(RouteId(3)), Some(RouteId(3)), None),
        (Cause::from(RouteId::UNMATCHED), None, Some("unmatched")),
        (Cause::MISMATCH, None, Some("mismatch")),
        (Cause::NOTICE, None, Some("notice")),
    ] {
        assert_eq!((cause.route(), cause.label()), (route, label));
    }
}

/// An app with documents that are read and written by several threads through one ledger.
struct App {
    ledger: Ledger,
    ring: Keyring,
    scopes: Vec<Scope>,
    versions: Vec<AtomicU64>,
}

/// How many documents the tests' app holds.
const DOCUMENTS: usize = 40;

impl App {
    fn new(documents_max: usize) -> Self {
        let scope = |number: usize| match number % 2 {
            0 => Scope::Plain(format!("doc:{number}").into()),
            _ => Scope::Tree(format!("/{}/{}", number % 3, number).into()),
        };
        Self {
            ledger: Ledger::new(documents_max, Moment(0)),
            ring: Keyring::new([1, 2], DEPTH_MAX),
            scopes: (0..DOCUMENTS).map(scope).collect(),
            versions: (0..DOCUMENTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn some(random: &mut Rng) -> [usize; 2] {
        [random.usize(..DOCUMENTS), random.usize(..DOCUMENTS)]
    }

    fn write(&self, random: &mut Rng) {
        let some = Self::some(random);
        let mut touched = self.ring.writes(&some.map(|document| self.scopes[document].clone()));
        let commit = || {
            for document in some {
                self.versions[document].fetch_add(1, SeqCst);
            }
        };
        match random.u8(..16) {
            0 => {
                self.ledger.suspend();
                commit();
                self.ledger.notice(&touched, Moment(0), Cause(1));
                return self.ledger.resume();
            }
            1 => touched = Touched::everything(),
            _ => {}
        }
        self.ledger.begin(&touched, Cause(1));
        commit();
        self.ledger.end(&touched, Moment(0), Quiet::Settle);
    }

    fn shown(&self, some: [usize; 2]) -> [u64; 2] {
        some.map(|document| self.versions[document].load(SeqCst))
    }

    /// Polls and, of the answers kept, proves one; how many were proven.
    fn poll(&self, random: &mut Rng, kept: &mut Vec<([usize; 2], Reads, Asked, [u64; 2])>) -> u32 {
        let some = Self::some(random);
        let everything = random.u8(..8) == 0;
        let scopes = if everything { vec![Scope::All] } else { some.map(|document| self.scopes[document].clone()).to_vec() };
        let reads = self.ring.reads(&scopes, Key(9), KEYS_MAX).expect("a few keys");
        let asked = self.ledger.ask(&reads, Moment(0), Boot(0));
        let entry = (some, reads, asked, self.shown(some));
        if kept.len() < 8 {
            kept.push(entry);
        } else {
            kept[random.usize(..8)] = entry;
        }
        let mut proven = 0;
        for (some, reads, asked, answer) in kept {
            let current = self.shown(*some);
            if self.ledger.prove(reads, asked, Boot(0), Duration::from_secs(1)).is_ok() {
                let new = answer.iter().zip(current).all(|(answer, current)| *answer >= current);
                assert!(new, "versions {answer:?} of {some:?} are proven, {current:?} were shown before the check");
                proven += 1;
            }
        }
        proven
    }
}

#[test]
fn under_threads_nothing_is_proven_that_is_older_than_what_the_app_showed_before() {
    for documents_max in [8, 32, 256] {
        let app = App::new(documents_max);
        let proven = AtomicU64::new(0);
        thread::scope(|scope| {
            for number in 0..2 {
                let (app, proven) = (&app, &proven);
                scope.spawn(move || {
                    let mut random = Rng::with_seed(number);
                    for _ in 0..20_000 {
                        app.write(&mut random);
                        if random.u8(..64) == 0 {
                            thread::yield_now();
                        }
                    }
                });
                scope.spawn(move || {
                    let mut random = Rng::with_seed(100 + number);
                    let mut kept = Vec::new();
                    for _ in 0..10_000 {
                        proven.fetch_add(u64::from(app.poll(&mut random, &mut kept)), SeqCst);
                    }
                });
            }
        });
        app.ledger.check();
        assert_eq!(app.ledger.root(), (0, 0), "all writes ended");
        assert!(proven.into_inner() > 100, "at most {documents_max} entries: hardly anything was proven");
    }
}
