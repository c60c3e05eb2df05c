//! The shells under real threads: writers and pollers of a few documents, with an app in memory whose versions are the clock. Whatever a poll is
//! given, every document in it is at least as new as the app had it when the poll came.

use std::{
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use fastrand::Rng;
use tidegate::{
    clock::{Boot, Moment},
    flow::fresh::{
        answers::Answers,
        join::shell::{Joins, Lead, Place, Running, Shared, View},
        keys::{Key, Keyring, Reads},
        ledger::{
            Asked, Cause, Ledger, Quiet,
            generation::{End, shell::Generation},
        },
        question::Question,
    },
    model::Scope,
    profile::RouteId,
};

use super::{
    app::{LEAVES, Versions, leaves},
    coding::{decode, encode},
    reference::Mask,
};

/// Documents, and the scopes that are written: each is one of them, or holds some.
const WRITTEN: [(&str, Mask); 6] = [("doc:a", 1), ("doc:b", 2), ("tree:/t/x", 4), ("tree:/t/y", 8), ("tree:/t", 12), ("*", 15)];
const READ: [(&str, Mask); 5] = [("doc:a", 1), ("doc:b", 2), ("tree:/t/x", 4), ("tree:/t", 12), ("*", 15)];

const POLLERS: u64 = 4;
const WRITERS: u64 = 3;
const POLLS: u32 = 12_000;
const MEMBERS_MAX: usize = 100;
const DOUBT: u64 = 3;
const STUCK_AFTER: Duration = Duration::from_secs(20);
const ROUTE: RouteId = RouteId(0);
const AGE_MAX: Duration = Duration::from_hours(1);

struct Scene {
    keys: Keyring,
    ledger: Arc<Ledger>,
    answers: Answers,
    joins: Arc<Joins<Versions>>,
    generation: Mutex<Arc<Generation>>,
    app: [AtomicU64; LEAVES],
    /// Time stands while it is read.
    now: RwLock<u64>,
    over: AtomicBool,
    ids: AtomicU64,
    replayed: AtomicU64,
    joined: AtomicU64,
    shared: AtomicU64,
    late: AtomicU64,
}

/// What is asked.
struct Poll {
    question: Question,
    mask: Mask,
    reads: Reads,
}

fn scope(text: &str) -> Scope {
    match text.strip_prefix("tree:") {
        _ if text == "*" => Scope::All,
        Some(path) => Scope::Tree(path.into()),
        None => Scope::Plain(text.into()),
    }
}

/// Lets others in, now and then.
fn pause(random: &mut Rng) {
    if random.u8(0..4) == 0 {
        thread::yield_now();
    }
}

impl Scene {
    fn new(documents_max: usize) -> Self {
        Self {
            keys: Keyring::new([5, 6], 16),
            ledger: Arc::new(Ledger::new(documents_max, Moment(0))),
            answers: Answers::for_largest(1 << 20, 1024),
            joins: Arc::new(Joins::new()),
            generation: Mutex::new(Generation::new(0, 1)),
            app: Default::default(),
            now: RwLock::new(1),
            over: AtomicBool::new(false),
            ids: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            late: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        *self.now.read().expect("nobody panics in it")
    }

    fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.generation.lock().expect("nobody panics in it"))
    }

    fn versions(&self) -> Versions {
        std::array::from_fn(|leaf| u32::try_from(self.app[leaf].load(SeqCst)).expect("few versions"))
    }

    fn commit(&self, mask: Mask, random: &mut Rng) {
        for leaf in leaves(mask) {
            self.app[leaf].fetch_add(1, SeqCst);
            pause(random);
        }
    }

    fn write(&self, random: &mut Rng) {
        let mut member = self.generation().enter(ROUTE, &self.ledger);
        // Everything is written seldom.
        let count = WRITTEN.len() - usize::from(random.u8(0..8) > 0);
        let (text, mask) = WRITTEN[random.usize(..count)];
        let touched = self.keys.writes(&[scope(text)]);
        match random.u8(0..16) {
            0..=9 => {
                self.ledger.begin(&touched, Cause::from(ROUTE));
                pause(random);
                self.commit(mask, random);
                self.ledger.end(&touched, Moment(self.now()), Quiet::Settle);
                member.ends(End::Known(Moment(self.now())));
            }
            10 => {
                self.ledger.begin(&touched, Cause::from(ROUTE));
                self.ledger.unsent(&touched);
            }
            11..=12 => {
                self.ledger.suspend();
                pause(random);
                self.commit(mask, random);
                self.ledger.notice(&touched, Moment(self.now()), Cause::NOTICE);
                self.ledger.resume();
                member.ends(End::Known(Moment(self.now())));
            }
            _ => {
                self.ledger.begin(&touched, Cause::from(ROUTE));
                pause(random);
                let lost = self.now();
                self.ledger.end(&touched, Moment(lost + DOUBT), Quiet::Doubt);
                member.ends(End::Unknown(Moment(lost + DOUBT)));
                drop(member);
                pause(random);
                // Taken late, strictly before the doubt is over: time stands meanwhile.
                let now = self.now.read().expect("nobody panics in it");
                if *now < lost + DOUBT {
                    self.commit(mask, random);
                    self.late.fetch_add(1, SeqCst);
                }
            }
        }
    }

    fn reload(&self) {
        let new = Generation::new(self.generation().id() + 1, 1);
        let mut current = self.generation.lock().expect("nobody panics in it");
        current.retire(|_| false, &self.ledger);
        self.answers.clear();
        *current = new;
    }

    /// A stored answer that proves.
    fn replay(&self, poll: &Poll) -> Option<Versions> {
        let stored = self.answers.get(&poll.question)?;
        let asked = Asked { s: stored.s, asked_at: stored.asked_at, solid: Ok(()) };
        let proof = self.ledger.prove(&poll.reads, &asked, Boot(self.now()), AGE_MAX).ok()?;
        Some(decode(tidegate::flow::fresh::replay::replay(&stored.kept, proof, Duration::ZERO)).1)
    }

    async fn poll(&self, random: &mut Rng) {
        let (text, mask) = READ[random.usize(..READ.len())];
        let generation = self.generation();
        let mut member = generation.enter(ROUTE, &self.ledger);
        let reads = self.keys.reads(&[scope(text)], Key(1), 256).expect("few keys");
        let question =
            Question((u128::from(mask) + 256 * u128::from(generation.id())).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let poll = Poll { question, mask, reads };
        let owed = self.versions();
        pause(random);
        if !member.is_current() {
            return;
        }
        if let Some(versions) = self.replay(&poll) {
            self.replayed.fetch_add(1, SeqCst);
            return check("replayed", &poll, &versions, &owed);
        }
        let proves = |running: &Running| self.ledger.prove(&running.reads, &running.asked(), Boot(self.now()), AGE_MAX).is_ok();
        match self.joins.arrive(poll.question, MEMBERS_MAX, proves) {
            Place::Full => {}
            Place::Member(waits, _) if random.u8(0..8) == 0 => drop(waits),
            Place::Member(mut waits, shared) => {
                if let Some(versions) = waits.answer().await {
                    check(if shared == Shared::Joined { "joined" } else { "shared" }, &poll, &versions, &owed);
                    let count = if shared == Shared::Joined { &self.joined } else { &self.shared };
                    count.fetch_add(1, SeqCst);
                }
            }
            Place::Lead(lead) => {
                if random.u8(0..8) == 0 {
                    lead.client_left();
                }
                tokio::select! {
                    biased;
                    () = lead.abandoned() => return,
                    () = lead.turn() => {}
                }
                if let Some(versions) = self.replay(&poll).filter(|_| member.is_current()) {
                    check("settled", &poll, &versions, &owed);
                    return lead.deliver(versions);
                }
                let known = self.ask(&poll, &lead, member.is_current(), random);
                let now = Moment(self.now());
                member.ends(if known { End::Known(now) } else { End::Unknown(now) });
            }
        }
    }

    /// Rules 7 and 8; false if the call breaks off.
    fn ask(&self, poll: &Poll, lead: &Lead<Versions>, is_current: bool, random: &mut Rng) -> bool {
        let now = self.now();
        let asked = self.ledger.ask(&poll.reads, Moment(now), Boot(now));
        let solid = asked.solid.is_ok() && is_current;
        lead.sent(Running { reads: poll.reads.clone(), s: asked.s, asked_at: asked.asked_at, solid });
        pause(random);
        let mut versions = [0; LEAVES];
        for leaf in leaves(poll.mask) {
            versions[leaf] = self.versions()[leaf];
            pause(random);
        }
        if random.u8(0..16) == 0 {
            return false;
        }
        if solid {
            let id = self.ids.fetch_add(1, SeqCst);
            self.answers.put(poll.question, encode(id, &versions, &poll.reads, &asked));
        }
        lead.deliver(versions);
        true
    }
}

fn check(how: &str, poll: &Poll, versions: &Versions, owed: &Versions) {
    for leaf in leaves(poll.mask) {
        assert!(versions[leaf] >= owed[leaf], "{how}: version {} of document {leaf}, but the app had {}", versions[leaf], owed[leaf]);
    }
}

/// Runs all threads to their end.
fn play(scene: &Scene, seed: u64) {
    thread::scope(|threads| {
        let pollers: Vec<_> = (0..POLLERS)
            .map(|number| {
                threads.spawn(move || {
                    let mut random = Rng::with_seed(seed + number);
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
                    for _ in 0..POLLS {
                        let poll = async { tokio::time::timeout(STUCK_AFTER, scene.poll(&mut random)).await };
                        runtime.block_on(poll).expect("nobody is stuck");
                    }
                })
            })
            .collect();
        for number in 0..WRITERS {
            threads.spawn(move || {
                let mut random = Rng::with_seed(seed + 100 + number);
                while !scene.over.load(SeqCst) {
                    scene.write(&mut random);
                    // Else nobody ever finds a quiet document.
                    for _ in 0..random.u8(0..40) {
                        thread::yield_now();
                    }
                }
            });
        }
        threads.spawn(move || {
            let mut random = Rng::with_seed(seed + 200);
            while !scene.over.load(SeqCst) {
                *scene.now.write().expect("nobody panics in it") += 1;
                if random.u8(0..100) == 0 {
                    scene.reload();
                }
                thread::sleep(Duration::from_micros(200));
            }
        });
        let ended: Vec<_> = pollers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        scene.over.store(true, SeqCst);
        assert!(ended.iter().all(Result::is_ok), "seed {seed}");
    });
}

#[test]
fn whatever_threads_do_at_the_same_time_no_poll_is_given_what_is_older_than_the_app_when_it_came() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..1 << 60));
    println!("SEED={seed}");
    for documents_max in [2, 4_096] {
        let scene = Scene::new(documents_max);
        play(&scene, seed);
        let [replayed, joined, shared, late] = [&scene.replayed, &scene.joined, &scene.shared, &scene.late].map(|count| count.load(SeqCst));
        println!("room for {documents_max}: {replayed} replayed, {joined} joined, {shared} shared, {late} late writes");
        assert!(replayed > 100 && joined > 0 && shared > 0 && late > 0, "too seldom");
        assert_eq!(scene.joins.view(), View::default(), "all is given back");
        // One more, as the ledger rounds moments up.
        let view = scene.ledger.view(Moment(scene.now() + DOUBT + 1));
        assert_eq!((view.suspended, view.all.writers, view.everything.writers), (0, 0, 0), "all is given back");
        assert_eq!((view.all_solid, view.floors_in_doubt), (Ok(()), 0));
    }
}
