//! From outside: nearly sixty clients poll and push documents of the demo's sync service over real sockets, through tidegate or through
//! a cache that is wrong on purpose, while everything goes wrong that can; afterwards a checker that knows nothing of caches says whether
//! every promise was kept.
#![cfg(feature = "demo")]
#![allow(clippy::print_stdout, reason = "the figures are what these tests are for")]

mod cache;
mod checker;
#[path = "../common/mod.rs"]
mod common;
mod crowd;
mod faults;
mod history;
mod line;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use tidegate::lab::{
    pace::Pace,
    scenario::Scenario,
    service::{Service, store::Seed},
};

use cache::{Cache, Mistake};
use checker::Violation;
use crowd::{Crowd, Plan, World, name_of};
use faults::{Fault, Front, LATE_MAX};
use history::{History, Truth};

/// For how long a cache doubts a lost write. Far above [`LATE_MAX`], for the machine may be busy.
const DOUBT: Duration = Duration::from_millis(1500);

/// How often a mistake may go undetected before it counts as not found.
const ROUNDS_MAX: u64 = 12;

/// How many wrong caches are played beside each other.
const AT_A_TIME: usize = 4;

/// What stands between the clients and the service.
enum Place {
    Nothing,
    Cache(Cache),
}

impl Place {
    fn address(&self, app: SocketAddr) -> SocketAddr {
        match self {
            Self::Nothing => app,
            Self::Cache(cache) => cache.address,
        }
    }

    /// Kills it and starts it again.
    async fn again(self) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            Self::Cache(cache) => Self::Cache(cache.kill_and_start().await),
        }
    }
}

/// When what happens; from the beginning of a run.
struct Course {
    length: Duration,
    /// The app restarts.
    restarts: Vec<Duration>,
    /// What stands between is killed and started again.
    kills: Vec<Duration>,
}

impl Course {
    fn short() -> Self {
        let ms = Duration::from_millis;
        Self { length: ms(1800), restarts: vec![ms(900)], kills: vec![ms(1200)] }
    }
}

/// What came of a run.
struct Run {
    history: History,
    truth: Truth,
    found: Vec<Violation>,
    faults: Vec<(Fault, u64)>,
    late_max: Duration,
}

impl Run {
    fn show(&self, name: &str, plan: &Plan) {
        let (polls, pushes) = (self.history.polls, self.history.pushes.len());
        let versions: usize = self.truth.versions.iter().map(Vec::len).sum();
        let faults: Vec<_> = self.faults.iter().map(|(fault, count)| format!("{fault:?} {count}")).collect();
        println!(
            "{name}, seed {}: {} clients, {} polls ({} answered, {} replayed, {} joined: {} % local), {pushes} pushes, {versions} versions, \
             latest commit {} ms after its connection was lost; {}",
            plan.seed,
            plan.clients(),
            polls.sent,
            polls.answered,
            polls.replayed,
            polls.joined,
            polls.percent_local(),
            self.late_max.as_millis(),
            faults.join(", "),
        );
        for violation in self.found.iter().take(20) {
            println!("    {violation}");
        }
    }
}

async fn service(plan: &Plan) -> Service {
    let mut scenario = Scenario::shipped().expect("shipped");
    scenario.pace = Pace(100.0);
    scenario.service.query_time = Duration::ZERO;
    scenario.service.row_time = Duration::ZERO;
    let documents = (0..plan.documents).map(|document| Seed { file_id: name_of(document), rows: 3 }).collect();
    Service::start(&Arc::new(scenario), documents).await.expect("it starts")
}

/// Plays a run from its beginning to its end, and checks it.
async fn play(plan: Plan, course: &Course, place: impl AsyncFnOnce(SocketAddr) -> Place) -> Run {
    let service = service(&plan).await;
    let start = Instant::now();
    let front = Front::open(service.address, start, plan.seed);
    let mut place = place(front.address).await;
    let world = World::new(plan, start, place.address(front.address));
    let crowd = Crowd::start(&world);
    let begun = tokio::time::Instant::now();

    let restarts = async {
        for at in &course.restarts {
            tokio::time::sleep_until(begun + *at).await;
            front.restart(Duration::from_millis(60)).await;
        }
    };
    let kills = async {
        for at in &course.kills {
            tokio::time::sleep_until(begun + *at).await;
            front.mid_write().await;
            place = place.again().await;
            world.moved(place.address(front.address));
        }
        place
    };
    let ((), place, ()) = tokio::join!(restarts, kills, tokio::time::sleep_until(begun + course.length));

    let resting = crowd.stop().await;
    front.calm();
    // What the place has not passed on yet.
    tokio::time::sleep(Duration::from_millis(50)).await;
    front.at_rest().await;
    let history = resting.converge().await;
    drop(place);
    let truth = Truth {
        versions: (0..plan.documents).map(|document| front.versions(&name_of(document))).collect(),
        applied: service.written().await.expect("read").applied,
        arrivals: front.arrivals(),
    };
    let (faults, late_max) = (front.counts(), front.late_max());
    front.close().await;
    service.stop().await;
    let found = checker::check(&history, &truth);
    Run { history, truth, found, faults, late_max }
}

/// Plays rounds with a cache that makes a mistake, until the checker finds what it must break.
async fn is_caught(mistake: Mistake) {
    for seed in 1..=ROUNDS_MAX {
        let plan = Plan::of(seed);
        let run = play(plan, &Course::short(), async |app| Place::Cache(Cache::start(app, mistake, DOUBT).await)).await;
        let counts = checker::count(&run.found);
        if let Some(first) = run.found.iter().find(|violation| violation.promise == mistake.breaks()) {
            println!("{mistake:?} was caught in round {seed}: {counts:?}, such as {first}");
            return;
        }
        run.show(&format!("{mistake:?} was not caught breaking {:?} (but {counts:?})", mistake.breaks()), &plan);
    }
    panic!("{mistake:?} was never caught breaking {:?}", mistake.breaks());
}

/// Plays a run in which nothing may be broken. A run in which the machine itself was too slow for A1 says nothing, and is played again.
async fn keeps_every_promise(name: &str, course: &Course, place: impl AsyncFn(SocketAddr) -> Place) -> Run {
    let mut seed = 1;
    loop {
        let plan = Plan::of(seed);
        let run = play(plan, course, &place).await;
        run.show(name, &plan);
        if run.late_max < DOUBT {
            assert!(run.found.is_empty(), "{} violations: {:?}", run.found.len(), checker::count(&run.found));
            for (fault, count) in &run.faults {
                let planned = *fault != Fault::KilledMidWrite || !course.kills.is_empty();
                assert!(*count > 0 || !planned, "{fault:?} never happened");
            }
            return run;
        }
        assert!(seed < 3, "the machine is too slow: a write was done {:?} after its connection was lost, not {LATE_MAX:?}", run.late_max);
        seed += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn straight_to_the_service_every_promise_is_kept() {
    let course = Course { kills: Vec::new(), ..Course::short() };
    let run = keeps_every_promise("straight", &course, async |_| Place::Nothing).await;
    assert_eq!(run.history.polls.percent_local(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_proxy_without_a_store_every_promise_is_kept() {
    let start = async |app| Place::Cache(Cache::start(app, Mistake::NoCache, DOUBT).await);
    let run = keeps_every_promise("a proxy without a store", &Course::short(), start).await;
    assert_eq!(run.history.polls.percent_local(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_cache_that_keeps_the_rules_every_promise_is_kept() {
    let start = async |app| Place::Cache(Cache::start(app, Mistake::None, DOUBT).await);
    let run = keeps_every_promise("a cache that keeps the rules", &Course::short(), start).await;
    assert!(run.history.polls.percent_local() >= 30);
}

/// Plays all of these, a few at a time: they wait more than they work.
async fn are_caught(mistakes: &[Mistake]) {
    for few in mistakes.chunks(AT_A_TIME) {
        let mut running = JoinSet::new();
        for mistake in few {
            running.spawn(is_caught(*mistake));
        }
        running.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_that_empty_at_the_wrong_time_are_caught() {
    are_caught(&[
        Mistake::NeverEmpties,
        Mistake::EmptiesAfterTheAnswer,
        Mistake::EmptiesBeforeTheWrite,
        Mistake::EmptiesBothTimes,
        Mistake::ServesByAge,
        Mistake::RemembersTheVersion,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_that_do_not_doubt_what_they_should_are_caught() {
    are_caught(&[
        Mistake::ForgetsALostWrite,
        Mistake::TakesAnErrorForAnEnd,
        Mistake::TakesItsTimeoutForAnEnd,
        Mistake::DoubtsTooBriefly,
        Mistake::ShortensADoubt,
        Mistake::StartsWithoutDoubt,
        Mistake::KeepsItsStoreOverARestart,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_that_take_one_question_for_another_are_caught() {
    are_caught(&[
        Mistake::IgnoresTheCredential,
        Mistake::IgnoresTheBody,
        Mistake::JoinsAnOlderPoll,
        Mistake::FilesUnderTheFirstDocument,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_that_repeat_writes_or_make_up_answers_are_caught() {
    are_caught(&[Mistake::RepeatsAWrite, Mistake::PassesHalfAnswersOn, Mistake::AcknowledgesWhatWasLost]).await;
}
