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
use checker::{Promise, Violation};
use common::Tidegate;
use crowd::{Crowd, Plan, World, name_of};
use faults::{Fault, Front, LATE_MAX};
use history::{History, Truth};

/// For how long a cache doubts a lost write. Far above [`LATE_MAX`], for the machine may be busy.
const DOUBT: Duration = Duration::from_millis(1200);

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
fresh.doubt = "1200ms"
fresh.start_doubt = "0s"
fresh.age_max = "4s"
fresh.refresh_after = "700ms"
fresh.audit = 50
"#;

/// What a second start has instead of `fresh.start_doubt` in [`ON`].
const START_DOUBT: (&str, &str) = ("fresh.start_doubt = \"0s\"", "fresh.start_doubt = \"1200ms\"");

/// What stands between the clients and the service.
enum Place {
    Nothing,
    Cache(Cache),
    Tidegate(Box<Tidegate>),
}

/// What is to stand there.
#[derive(Clone, Debug)]
enum Wanted {
    Nothing,
    Cache(Mistake),
    /// With these settings beside [`SETTINGS`].
    Tidegate(String),
}

impl Wanted {
    async fn start(&self, app: SocketAddr) -> Place {
        match self {
            Self::Nothing => Place::Nothing,
            Self::Cache(mistake) => Place::Cache(Cache::start(app, *mistake, DOUBT).await),
            Self::Tidegate(settings) => Place::Tidegate(Box::new(Tidegate::start(app, &format!("{SETTINGS}{settings}")).await)),
        }
    }
}

impl Place {
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

    /// What it says of itself since its start.
    async fn says(&self) -> Said {
        let Self::Tidegate(tidegate) = self else { return Said::default() };
        let metrics = tidegate.metrics().await;
        let outcome = |outcome: &str| {
            let ours = metrics.iter().filter(|(name, _)| name.starts_with("tidegate_requests_total{") && name.contains(outcome));
            ours.map(|(_, count)| count).sum()
        };
        Said {
            replayed: outcome("outcome=\"fresh\""),
            joined: outcome("outcome=\"joined\""),
            asked_again: common::sum(&metrics, "tidegate_fresh_asked_again_total{"),
            mismatches: common::sum(&metrics, "tidegate_fresh_mismatches_total"),
        }
    }
}

/// What tidegate says of itself, over all its lives.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    replayed: f64,
    joined: f64,
    /// Questions of replays that it put to the app again.
    asked_again: f64,
    /// Answers of its own that it found to be wrong by that.
    mismatches: f64,
}

impl Said {
    fn and(self, other: Self) -> Self {
        Self {
            replayed: self.replayed + other.replayed,
            joined: self.joined + other.joined,
            asked_again: self.asked_again + other.asked_again,
            mismatches: self.mismatches + other.mismatches,
        }
    }
}

/// When what happens, by the writes that have come to the app: so a run holds as much on a slow machine as on a fast one.
struct Course {
    /// It ends.
    writes: usize,
    /// The app restarts.
    restarts: Vec<usize>,
    /// What stands between is killed and started again.
    kills: Vec<usize>,
}

impl Course {
    /// Two seconds of a machine that has nothing else to do.
    fn short() -> Self {
        Self { writes: 110, restarts: vec![55], kills: vec![80] }
    }

    /// A run with so many writes.
    fn of(writes: usize) -> Self {
        let every = |from: usize, step| (from..writes).step_by(step).collect();
        Self { writes, restarts: every(50, 70), kills: every(100, 120) }
    }
}

/// What came of a run.
struct Run {
    history: History,
    truth: Truth,
    found: Vec<Violation>,
    faults: Vec<(Fault, u64)>,
    late_max: Duration,
    said: Said,
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
        let Said { replayed, joined, asked_again, mismatches } = self.said;
        if replayed + joined > 0.0 {
            println!("    by its own count {replayed} replayed, {joined} joined, {asked_again} asked again, {mismatches} of these wrong");
        }
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
async fn play(plan: Plan, course: &Course, wanted: &Wanted) -> Run {
    let service = service(&plan).await;
    let start = Instant::now();
    let front = Front::open(service.address, start, plan.seed);
    let mut place = wanted.start(front.address).await;
    let world = World::new(plan, start, place.address(front.address));
    let crowd = Crowd::start(&world);
    let restarts = async {
        for at in &course.restarts {
            front.until_writes(*at).await;
            front.restart(Duration::from_millis(60)).await;
        }
    };
    let kills = async {
        let mut said = Said::default();
        for at in &course.kills {
            front.until_writes(*at).await;
            said = said.and(place.says().await);
            place.prepare();
            front.mid_write().await;
            place = place.again().await;
            world.moved(place.address(front.address));
        }
        (place, said)
    };
    let ((), (place, said), ()) = tokio::join!(restarts, kills, front.until_writes(course.writes));

    let resting = crowd.stop().await;
    front.calm();
    // What the place has not passed on yet.
    tokio::time::sleep(Duration::from_millis(50)).await;
    front.at_rest().await;
    let history = resting.converge().await;
    let said = said.and(place.says().await);
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
    Run { history, truth, found, faults, late_max, said }
}

/// Plays rounds until the checker finds what must be broken.
async fn is_caught(name: &str, breaks: &[Promise], wanted: &Wanted) {
    for seed in 1..=ROUNDS_MAX {
        let plan = Plan::of(seed);
        let run = play(plan, &Course::short(), wanted).await;
        let counts = checker::count(&run.found);
        if let Some(first) = run.found.iter().find(|violation| breaks.contains(&violation.promise)) {
            println!("{name} was caught in round {seed}: {counts:?}, such as {first}");
            return;
        }
        run.show(&format!("{name} was not caught breaking {breaks:?} (but {counts:?})"), &plan);
    }
    panic!("{name} was never caught breaking {breaks:?}");
}

/// Plays a run in which nothing may be broken. What is broken in a run in which the machine itself was too slow for A1 says nothing: it is
/// played again.
async fn keeps_every_promise(name: &str, plan: Plan, course: &Course, wanted: &Wanted) -> Run {
    let mut plan = plan;
    for _ in 0..3 {
        let run = play(plan, course, wanted).await;
        run.show(name, &plan);
        let is_broken = !run.found.is_empty() || run.said.mismatches > 0.5;
        if is_broken && run.late_max >= DOUBT {
            plan.seed += 1_000_000;
            continue;
        }
        assert!(run.found.is_empty(), "{} violations: {:?}", run.found.len(), checker::count(&run.found));
        assert!(!is_broken, "tidegate itself found {} of its answers wrong", run.said.mismatches);
        for (fault, count) in &run.faults {
            let planned = *fault != Fault::KilledMidWrite || !course.kills.is_empty();
            assert!(*count > 0 || !planned, "{fault:?} never happened");
        }
        return run;
    }
    panic!("the machine is too slow: writes were done more than {DOUBT:?} after their connection was lost, where {LATE_MAX:?} is meant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn straight_to_the_service_every_promise_is_kept() {
    let course = Course { kills: Vec::new(), ..Course::short() };
    let run = keeps_every_promise("straight", Plan::of(1), &course, &Wanted::Nothing).await;
    assert_eq!(run.history.polls.percent_local(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_proxy_without_a_store_every_promise_is_kept() {
    let wanted = Wanted::Cache(Mistake::NoCache);
    let run = keeps_every_promise("a proxy without a store", Plan::of(1), &Course::short(), &wanted).await;
    assert_eq!(run.history.polls.percent_local(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_cache_that_keeps_the_rules_every_promise_is_kept() {
    let wanted = Wanted::Cache(Mistake::None);
    let run = keeps_every_promise("a cache that keeps the rules", Plan::of(1), &Course::short(), &wanted).await;
    assert!(run.history.polls.percent_local() >= 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_tidegate_that_forwards_all_every_promise_is_kept() {
    let wanted = Wanted::Tidegate("fresh.mode = \"off\"".to_owned());
    let run = keeps_every_promise("a tidegate that forwards all", Plan::of(1), &Course::short(), &wanted).await;
    assert_eq!(run.history.polls.percent_local(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_tidegate_every_promise_is_kept_and_a_third_of_the_polls_is_answered_locally() {
    let plan = Plan { writes: 30, ..Plan::of(1) };
    let run = keeps_every_promise("tidegate", plan, &Course::of(300), &Wanted::Tidegate(ON.to_owned())).await;
    assert!(run.history.polls.percent_local() >= 30);
    assert!(run.said.asked_again > 0.0, "refresh and audit took part");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tidegate_that_is_told_to_doubt_too_briefly_is_caught() {
    let settings = ON.replace("fresh.doubt = \"1200ms\"", "fresh.doubt = \"20ms\"");
    assert_ne!(settings, ON);
    is_caught("tidegate with 20 ms of doubt", &[Promise::Lost], &Wanted::Tidegate(settings)).await;
}

/// Run by `tests/long`: `FRESHNESS_MINUTES` of runs (5), with seeds from `FRESHNESS_SEED` on (1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn through_tidegate_every_promise_is_kept_for_minutes() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let until = Instant::now() + Duration::from_secs(60 * number("FRESHNESS_MINUTES", 5));
    let mut seed = number("FRESHNESS_SEED", 1);
    while Instant::now() < until {
        for (name, settings, plan, course) in long_runs(seed) {
            let settings = format!("{ON}{settings}");
            keeps_every_promise(name, plan, &course, &Wanted::Tidegate(settings)).await;
        }
        seed += 1;
    }
}

/// What is played for minutes, each with settings of its own beside [`ON`].
fn long_runs(seed: u64) -> [(&'static str, &'static str, Plan, Course); 5] {
    let plan = Plan::of(seed);
    let course = || Course::of(600);
    let killed_often = Course { kills: (80..600).step_by(80).collect(), ..course() };
    [
        ("as usual", "", plan, course()),
        ("killed every two seconds", "", plan, killed_often),
        ("with room for few", "fresh.documents_max = 24\nfresh.answer_max = \"4KiB\"\nfresh.answers_max = \"64KiB\"", plan, course()),
        ("with few seats", "app.seats = 4\nfresh.settle = \"30ms\"", plan, course()),
        ("in a hurry", "", Plan { pause: Duration::from_millis(4), writes: 80, ..plan }, course()),
    ]
}

/// Plays all of these, a few at a time: they wait more than they work.
async fn are_caught(mistakes: &[Mistake]) {
    for few in mistakes.chunks(AT_A_TIME) {
        let mut running = JoinSet::new();
        for mistake in few {
            let mistake = *mistake;
            running.spawn(async move {
                is_caught(&format!("{mistake:?}"), mistake.breaks(), &Wanted::Cache(mistake)).await;
            });
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
    are_caught(&[Mistake::IgnoresTheCredential, Mistake::IgnoresTheBody, Mistake::JoinsAnOlderPoll, Mistake::FilesUnderTheFirstDocument])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_that_repeat_writes_or_make_up_answers_are_caught() {
    are_caught(&[Mistake::RepeatsAWrite, Mistake::PassesHalfAnswersOn, Mistake::AcknowledgesWhatWasLost]).await;
}
