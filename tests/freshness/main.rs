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
    fs,
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
use common::Tidegate;
use crowd::{Crowd, Plan, World, name_of};
use faults::{Fault, Front, LATE_MAX};
use history::{History, Truth};

/// For how long a cache doubts a lost write. Far above [`LATE_MAX`], for the machine may be busy.
const DOUBT: Duration = Duration::from_millis(1500);

/// How often a mistake may go undetected before it counts as not found.
const ROUNDS_MAX: u64 = 12;

/// How many wrong caches are played beside each other.
const AT_A_TIME: usize = 4;

/// The settings of tidegate that all its runs share. Its clients' caps are no part of what is tested.
const SETTINGS: &str = r#"
profile = "dynalist"
app.head_timeout = "400ms"
gate.long_cost = "10s"
class.noop.client.in_flight = 64
class.sync.client.in_flight = 64
class.import.head_timeout = "400ms"
"#;

/// Local answers, with every time as much shorter as the run is. Before its first start nothing can have been in flight.
const ON: &str = r#"
fresh.mode = "on"
fresh.doubt = "1500ms"
fresh.start_doubt = "0s"
fresh.age_max = "4s"
fresh.refresh_after = "700ms"
fresh.audit = 50
"#;

/// What a second start has instead of `fresh.start_doubt` in [`ON`].
const START_DOUBT: (&str, &str) = ("fresh.start_doubt = \"0s\"", "fresh.start_doubt = \"1500ms\"");

/// What stands between the clients and the service.
enum Place {
    Nothing,
    Cache(Cache),
    Tidegate(Box<Tidegate>),
}

impl Place {
    async fn tidegate(app: SocketAddr, settings: &str) -> Self {
        Self::Tidegate(Box::new(Tidegate::start(app, &format!("{SETTINGS}{settings}")).await))
    }

    fn address(&self, app: SocketAddr) -> SocketAddr {
        match self {
            Self::Nothing => app,
            Self::Cache(cache) => cache.address,
            Self::Tidegate(tidegate) => tidegate.listen,
        }
    }

    /// What is to be done before it is killed.
    fn prepare(&self) {
        if let Self::Tidegate(tidegate) = self
            && fs::read_to_string(tidegate.config()).expect("a configuration").contains(START_DOUBT.0)
        {
            tidegate.rewrite(|text| text.replace(START_DOUBT.0, START_DOUBT.1));
        }
    }

    /// Kills it and starts it again.
    async fn again(self) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            Self::Cache(cache) => Self::Cache(cache.kill_and_start().await),
            Self::Tidegate(tidegate) => Self::Tidegate(Box::new(tidegate.again().await)),
        }
    }

    /// The answers of its own in which it found a mistake itself, when it asked again.
    async fn mismatches(&self) -> f64 {
        match self {
            Self::Tidegate(tidegate) => common::sum(&tidegate.metrics().await, "tidegate_fresh_mismatches_total"),
            Self::Nothing | Self::Cache(_) => 0.0,
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

    /// The app restarts two and a half times as often as tidegate is killed.
    fn of_seconds(seconds: u64) -> Self {
        let every = |from: u64, ms: u64| (0..).map(|n| Duration::from_millis(from + n * ms)).take_while(|at| at.as_secs() < seconds).collect();
        Self { length: Duration::from_secs(seconds), restarts: every(1000, 2000), kills: every(2500, 5000) }
    }
}

/// What came of a run.
struct Run {
    history: History,
    truth: Truth,
    found: Vec<Violation>,
    faults: Vec<(Fault, u64)>,
    late_max: Duration,
    mismatches: f64,
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
        let mut mismatches = 0.0;
        for at in &course.kills {
            tokio::time::sleep_until(begun + *at).await;
            mismatches += place.mismatches().await;
            place.prepare();
            front.mid_write().await;
            place = place.again().await;
            world.moved(place.address(front.address));
        }
        (place, mismatches)
    };
    let ((), (place, mismatches), ()) = tokio::join!(restarts, kills, tokio::time::sleep_until(begun + course.length));

    let resting = crowd.stop().await;
    front.calm();
    // What the place has not passed on yet.
    tokio::time::sleep(Duration::from_millis(50)).await;
    front.at_rest().await;
    let history = resting.converge().await;
    let mismatches = mismatches + place.mismatches().await;
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
    Run { history, truth, found, faults, late_max, mismatches }
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
            assert!(run.mismatches < 0.5, "tidegate itself found {} answers wrong", run.mismatches);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_tidegate_that_forwards_all_every_promise_is_kept() {
    let start = async |app| Place::tidegate(app, "fresh.mode = \"off\"").await;
    let run = keeps_every_promise("a tidegate that forwards all", &Course::short(), start).await;
    assert_eq!(run.history.polls.percent_local(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_tidegate_every_promise_is_kept_and_a_third_of_the_polls_is_answered_locally() {
    let run = keeps_every_promise("tidegate", &Course::of_seconds(8), async |app| Place::tidegate(app, ON).await).await;
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
