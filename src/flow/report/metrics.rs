//! Every metric, declared once. Labels are classes, outcomes, rules, failures, states, and the profile's route names: never data of a client.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, GenericCounter, MetricVec, MetricVecBuilder},
    proto::MetricFamily,
};

use super::{
    ConfigScrape, Counts, DatabaseTime, Scrape,
    exchange::Exchange,
    fresh::{Again, Asked, ENDS, Invalidation, PollEnd, RoutePolls},
};
use crate::{
    config::{Settings, settings::FreshMode},
    flow::fresh::view::View,
    model::{CLASSES_MAX, Class, Effect, FailureKind, Outcome, Rule},
};

/// The buckets of everything that is waited for, in seconds.
pub const SECONDS_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0];

/// The label of what was never classed.
pub const NO_CLASS: &str = "none";

/// Whether a local answer would have been right.
const VERIFIED: [&str; 3] = ["right", "wrong", "unjudged"];

/// All metrics in their own registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    handles: ArcSwap<Handles>,
    gauges: Mutex<Gauges>,
}

/// What is counted request by request.
#[derive(Debug)]
struct Families {
    requests: IntCounterVec,
    refusals: IntCounterVec,
    shadow_refusals: IntCounterVec,
    failures: IntCounterVec,
    moved: IntCounterVec,
    request_seconds: HistogramVec,
    queue_seconds: HistogramVec,
    predicted_wait: HistogramVec,
    predicted_wait_error: HistogramVec,
    app_seconds: CounterVec,
    database_seconds: CounterVec,
    database_queries: IntCounterVec,
    request_bytes: IntCounterVec,
    response_bytes: IntCounterVec,
    everything_writes: IntCounterVec,
    polls: IntCounterVec,
    invalidations: IntCounterVec,
    asked_again: IntCounterVec,
    mismatches: IntCounterVec,
    verified: IntCounterVec,
}

/// The resolved series of every class; what was never classed stands last.
#[derive(Debug)]
struct Handles {
    classes: Vec<Option<Arc<PerClass>>>,
    none: Arc<PerClass>,
    failures: [IntCounter; FailureKind::ALL.len()],
    invalidations: [IntCounter; Invalidation::ALL.len()],
    asked_again: [[IntCounter; Again::ALL.len()]; Asked::ALL.len()],
    mode: FreshMode,
}

impl Handles {
    fn of(&self, class: Option<Class>) -> &PerClass {
        class.and_then(|class| self.classes.get(class.index())?.as_ref()).unwrap_or(&self.none)
    }
}

#[derive(Clone, Debug)]
struct PerClass {
    name: String,
    removed: bool,
    requests: [IntCounter; Outcome::ALL.len()],
    refusals: [IntCounter; Rule::ALL.len()],
    shadow_refusals: [IntCounter; Rule::ALL.len()],
    moved: IntCounter,
    request_seconds: Histogram,
    queue_seconds: Histogram,
    predicted_wait: Histogram,
    predicted_wait_error: Histogram,
    app_seconds: Counter,
    database_seconds: Counter,
    database_queries: IntCounter,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
    /// By [`PollEnd::index`], each resolved when it first happens: most never do.
    polls: [OnceLock<IntCounter>; ENDS],
}

/// Local answers.
#[derive(Debug)]
struct FreshGauges {
    mode: IntGaugeVec,
    counts: [IntGauge; 7],
    evicted: IntCounter,
    questions: IntGaugeVec,
    doubt: [Gauge; 2],
}

/// What is read when somebody asks. Behind one lock, so that two scrapes do not mix.
#[derive(Debug)]
struct Gauges {
    in_flight: IntGaugeVec,
    queued: IntGaugeVec,
    reserve: IntGaugeVec,
    ceiling: IntGaugeVec,
    oldest_running: GaugeVec,
    oldest_waiting: GaugeVec,
    shadow_in_flight: IntGaugeVec,
    shadow_queued: IntGaugeVec,
    seats: IntGauge,
    seats_taken: IntGauge,
    streams: IntGauge,
    app_up: IntGauge,
    app_connections: IntGaugeVec,
    zombies: IntGauge,
    connections: IntGauge,
    documents: IntGauge,
    documents_dear: IntGauge,
    log_lines_dropped: IntCounter,
    fresh: FreshGauges,
    reload_success: IntGauge,
    reloads: IntCounterVec,
    config_age: Gauge,
    config_info: IntGaugeVec,
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let registry = Registry::new();
        let families = Families::new(&registry);
        let gauges = Gauges::new(&registry);
        #[cfg(target_os = "linux")]
        register(&registry, Box::new(prometheus::process_collector::ProcessCollector::for_self()));
        let handles = ArcSwap::from_pointee(families.resolve(settings, &[]));
        Self { registry, families, handles, gauges: Mutex::new(gauges) }
    }

    /// New classes get their series; those of removed classes and of routes that are gone disappear.
    pub fn reload(&self, settings: &Settings, routes: &BTreeSet<String>) {
        let before = self.handles.load_full();
        for class in before.classes.iter().flatten() {
            let gone = settings.classes.find(&class.name).is_none_or(|found| settings.of(found).removed);
            if gone {
                self.families.remove(&class.name);
            }
        }
        self.handles.store(Arc::new(self.families.resolve(settings, &before.classes)));
        for family in [&self.families.everything_writes, &self.families.mismatches, &self.families.verified] {
            forget(family, "route", |route| !routes.contains(route));
        }
    }

    /// A poll was answered.
    pub fn poll(&self, class: Class, end: PollEnd) {
        let handles = self.handles.load();
        let class = handles.of(Some(class));
        // A class that was removed shows nothing new.
        if !class.removed {
            let [result, detail] = end.labels();
            let counter = || self.families.polls.with_label_values(&[&*class.name, result, detail]);
            class.polls[end.index()].get_or_init(counter).inc();
        }
    }

    /// Stored answers became stale.
    pub fn invalidated(&self, by: Invalidation) {
        self.handles.load().invalidations[by as usize].inc();
    }

    /// A question was put to the app again, or was to be.
    pub fn asked_again(&self, asked: Asked, again: Again) {
        self.handles.load().asked_again[asked as usize][again as usize].inc();
    }

    /// The client's side of a request has ended.
    pub fn ended(&self, exchange: &Exchange) {
        let handles = self.handles.load();
        let class = handles.of(exchange.class);
        class.requests[exchange.outcome.index()].inc();
        if let (Outcome::Refused, Some(rule)) = (exchange.outcome, exchange.rule) {
            class.refusals[rule.index()].inc();
        }
        if let (Outcome::Failed, Some(kind)) = (exchange.outcome, exchange.failure) {
            handles.failures[kind as usize].inc();
        }
        // A refusal is no answer, and a stream lasts as long as its client likes: neither says how long people wait.
        if exchange.outcome != Outcome::Refused && !exchange.stream {
            class.request_seconds.observe(exchange.ended.since(exchange.arrived).as_secs_f64());
        }
        if let Some(waited) = exchange.waited {
            class.queue_seconds.observe(waited.as_secs_f64());
            if let (Some(predicted), None) = (exchange.predicted, exchange.rule) {
                class.predicted_wait.observe(predicted.as_secs_f64());
                class.predicted_wait_error.observe(predicted.abs_diff(waited).as_secs_f64());
            }
        }
        class.request_bytes.inc_by(exchange.bytes_in);
        class.response_bytes.inc_by(exchange.bytes_out);
    }

    /// The app's side of a request has ended too.
    pub fn released(&self, exchange: &Exchange) {
        let handles = self.handles.load();
        // Only now is it known what the virtual queue would have done.
        for rule in &exchange.shadows {
            handles.of(exchange.class).shadow_refusals[rule.index()].inc();
        }
        let told = DatabaseTime { time: exchange.database, queries: exchange.queries };
        self.charge(exchange.account.or(exchange.class), exchange.app.unwrap_or_default(), &told);
        if exchange.app.is_some() {
            if exchange.effect == Effect::Write {
                let by = if exchange.everything { Invalidation::Everything } else { Invalidation::Write };
                handles.invalidations[by as usize].inc();
            }
            if exchange.everything {
                self.families.everything_writes.with_label_values(&[&*exchange.route]).inc();
            }
        }
        if exchange.account.is_some() && exchange.account != exchange.class {
            handles.of(exchange.class).moved.inc();
        }
    }

    /// The app worked on a request, or on a question of our own.
    pub fn charge(&self, account: Option<Class>, app: Duration, told: &DatabaseTime) {
        let handles = self.handles.load();
        let account = handles.of(account);
        account.app_seconds.inc_by(app.as_secs_f64());
        account.database_seconds.inc_by(told.time.unwrap_or_default().as_secs_f64());
        account.database_queries.inc_by(told.queries.unwrap_or(0));
    }

    /// The text exposition (version 0.0.4) of everything, with the gauges as `scrape` has them.
    #[must_use]
    pub fn encode(&self, scrape: &Scrape, config: &ConfigScrape, polls: &[RoutePolls], log_lines_dropped: u64) -> Vec<u8> {
        let gauges = self.gauges.lock();
        let handles = self.handles.load();
        gauges.fill(scrape, &handles);
        gauges.fresh.fill(&scrape.fresh, handles.mode);
        self.families.raise(polls);
        gauges.fill_config(config);
        raise(&gauges.log_lines_dropped, log_lines_dropped);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }

    /// How many requests ended how, and how many were refused or would have been, since the start.
    #[must_use]
    pub fn counts(&self, class: Option<Class>) -> Counts {
        let handles = self.handles.load();
        let class = handles.of(class);
        Counts {
            outcomes: class.requests.each_ref().map(GenericCounter::get),
            refusals: class.refusals.each_ref().map(GenericCounter::get),
            shadow_refusals: class.shadow_refusals.each_ref().map(GenericCounter::get),
            app_seconds: class.app_seconds.get(),
            database_seconds: class.database_seconds.get(),
            database_queries: class.database_queries.get(),
        }
    }
}

impl Families {
    fn new(registry: &Registry) -> Self {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name"))
        };
        let seconds =
            |name: &str, help: &str| registered(registry, CounterVec::new(Opts::new(name, help), &["class"]).expect("a valid name"));
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS_BUCKETS.to_vec());
            registered(registry, HistogramVec::new(options, &["class"]).expect("a valid name"))
        };
        Self {
            requests: counters(
                "tidegate_requests_total",
                "Requests by the class at admission and by how they ended.",
                &["class", "outcome"],
            ),
            refusals: counters("tidegate_refusals_total", "Refused requests by the rule that refused them.", &["class", "rule"]),
            shadow_refusals: counters(
                "tidegate_shadow_refusals_total",
                "Requests that a rule in shadow mode would have refused.",
                &["class", "rule"],
            ),
            failures: counters("tidegate_failures_total", "Requests that the app failed, by RFC 9209 error type.", &["error"]),
            moved: counters(
                "tidegate_moved_total",
                "Requests that outlived long_after and were charged to another class, by the class at admission.",
                &["class"],
            ),
            request_seconds: histogram(
                "tidegate_request_seconds",
                "From a request's head to its response's last byte or its client's leaving; without refusals and streams.",
            ),
            queue_seconds: histogram("tidegate_queue_seconds", "How long requests waited for a seat, or until they were refused."),
            predicted_wait: histogram(
                "tidegate_predicted_wait_seconds",
                "How long requests that waited and got a seat were expected to wait.",
            ),
            predicted_wait_error: histogram(
                "tidegate_predicted_wait_error_seconds",
                "The distance between predicted and actual wait, either way.",
            ),
            app_seconds: seconds("tidegate_app_seconds_total", "The app's time by the class that was charged for it."),
            database_seconds: seconds(
                "tidegate_database_seconds_total",
                "The database's time as the app tells it in Server-Timing, by the class that was charged.",
            ),
            database_queries: counters(
                "tidegate_database_queries_total",
                "Database queries as the app tells them in Server-Timing, by the class that was charged.",
                &["class"],
            ),
            request_bytes: counters("tidegate_request_bytes_total", "Bytes of request bodies that were read.", &["class"]),
            response_bytes: counters("tidegate_response_bytes_total", "Bytes of response bodies that were written.", &["class"]),
            everything_writes: counters(
                "tidegate_everything_writes_total",
                "Requests that reached the app and counted as writing everything, by route.",
                &["route"],
            ),
            polls: counters(
                "tidegate_fresh_polls_total",
                "Polls that were answered, by how, and by why they went to the app.",
                &["class", "result", "detail"],
            ),
            invalidations: counters("tidegate_fresh_invalidations_total", "What made stored answers stale.", &["cause"]),
            asked_again: counters(
                "tidegate_fresh_asked_again_total",
                "Questions that were put to the app again, by the reason and by what came of it.",
                &["reason", "result"],
            ),
            mismatches: counters(
                "tidegate_fresh_mismatches_total",
                "Answers of the app that differ from the stored one although no write was seen, by route.",
                &["route"],
            ),
            verified: counters(
                "tidegate_fresh_verified_total",
                "Polls that would have been answered here in mode `on`, by route and by whether that would have been right.",
                &["route", "result"],
            ),
        }
    }

    /// What is counted by route is counted elsewhere.
    fn raise(&self, polls: &[RoutePolls]) {
        for row in polls {
            let route = &*row.route;
            raise(&self.mismatches.with_label_values(&[route]), row.mismatches);
            for (result, count) in VERIFIED.into_iter().zip([row.right, row.wrong, row.unjudged]) {
                raise(&self.verified.with_label_values(&[route, result]), count);
            }
        }
    }

    /// Series for every class that is there. One that was removed keeps its old handles, no longer shown, until its requests have ended.
    fn resolve(&self, settings: &Settings, before: &[Option<Arc<PerClass>>]) -> Handles {
        let mut classes: Vec<Option<Arc<PerClass>>> = Vec::with_capacity(CLASSES_MAX);
        for (class, name) in settings.classes.iter() {
            let old = before.get(class.index()).and_then(Option::as_ref);
            classes.push(match (settings.of(class).removed, old) {
                (true, old) => old.map(|old| Arc::new(PerClass { removed: true, ..(**old).clone() })),
                (false, Some(old)) if !old.removed => Some(Arc::clone(old)),
                (false, _) => Some(Arc::new(self.class(name))),
            });
        }
        let failures = FailureKind::ALL.map(|kind| self.failures.with_label_values(&[kind.label()]));
        let invalidations = Invalidation::ALL.map(|by| self.invalidations.with_label_values(&[by.label()]));
        let again = |asked: Asked| Again::ALL.map(|again| self.asked_again.with_label_values(&[asked.label(), again.label()]));
        let (asked_again, mode) = (Asked::ALL.map(again), settings.fresh.mode);
        Handles { classes, none: Arc::new(self.class(NO_CLASS)), failures, invalidations, asked_again, mode }
    }

    fn class(&self, name: &str) -> PerClass {
        PerClass {
            name: name.to_owned(),
            removed: false,
            requests: Outcome::ALL.map(|outcome| self.requests.with_label_values(&[name, outcome.label()])),
            refusals: Rule::ALL.map(|rule| self.refusals.with_label_values(&[name, rule.label()])),
            shadow_refusals: Rule::ALL.map(|rule| self.shadow_refusals.with_label_values(&[name, rule.label()])),
            moved: self.moved.with_label_values(&[name]),
            request_seconds: self.request_seconds.with_label_values(&[name]),
            queue_seconds: self.queue_seconds.with_label_values(&[name]),
            predicted_wait: self.predicted_wait.with_label_values(&[name]),
            predicted_wait_error: self.predicted_wait_error.with_label_values(&[name]),
            app_seconds: self.app_seconds.with_label_values(&[name]),
            database_seconds: self.database_seconds.with_label_values(&[name]),
            database_queries: self.database_queries.with_label_values(&[name]),
            request_bytes: self.request_bytes.with_label_values(&[name]),
            response_bytes: self.response_bytes.with_label_values(&[name]),
            polls: [const { OnceLock::new() }; ENDS],
        }
    }
}

impl Families {
    fn remove(&self, class: &str) {
        let gone = |name: &str| name == class;
        for counters in [&self.requests, &self.refusals, &self.shadow_refusals, &self.moved, &self.polls] {
            forget(counters, "class", gone);
        }
        for counters in [&self.database_queries, &self.request_bytes, &self.response_bytes] {
            forget(counters, "class", gone);
        }
        for histograms in [&self.request_seconds, &self.queue_seconds, &self.predicted_wait, &self.predicted_wait_error] {
            forget(histograms, "class", gone);
        }
        for counters in [&self.app_seconds, &self.database_seconds] {
            forget(counters, "class", gone);
        }
    }
}

impl Gauges {
    fn new(registry: &Registry) -> Self {
        let one = |name: &str, help: &str| registered(registry, IntGauge::new(name, help).expect("a valid name"));
        let real = |name: &str, help: &str| registered(registry, Gauge::new(name, help).expect("a valid name"));
        let by = |name: &str, help: &str, label: &str| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), &[label]).expect("a valid name"))
        };
        let real_by =
            |name: &str, help: &str| registered(registry, GaugeVec::new(Opts::new(name, help), &["class"]).expect("a valid name"));
        let build = by("tidegate_build_info", "The version that runs.", "version");
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            in_flight: by("tidegate_in_flight", "Seats taken, by the class that is charged.", "class"),
            queued: by("tidegate_queued", "Requests that wait for a seat.", "class"),
            reserve: by("tidegate_reserve", "Seats that are the class's own.", "class"),
            ceiling: by("tidegate_ceiling", "The most seats that the class may take while others want them.", "class"),
            oldest_running: real_by("tidegate_oldest_running_seconds", "The age of the request that runs longest."),
            oldest_waiting: real_by("tidegate_oldest_waiting_seconds", "The age of the request that waits longest."),
            shadow_in_flight: by("tidegate_shadow_in_flight", "Virtual seats taken while the gate is in shadow mode.", "class"),
            shadow_queued: by("tidegate_shadow_queued", "Virtual waiters while the gate is in shadow mode.", "class"),
            seats: one("tidegate_seats", "Seats at the app in all."),
            seats_taken: one("tidegate_seats_taken", "Seats taken in all."),
            streams: one("tidegate_streams", "Open streams: long polls, event streams, upgrades."),
            app_up: one("tidegate_app_up", "Whether the app answers: 1 or 0."),
            app_connections: by("tidegate_app_connections", "Connections to the app by state.", "state"),
            zombies: one("tidegate_zombies", "Requests at the app whose client has its time-out already."),
            connections: one("tidegate_connections", "Connections of clients."),
            documents: one("tidegate_documents", "Documents of which something is remembered."),
            documents_dear: one("tidegate_documents_dear", "Documents that cost far more than others of their class."),
            log_lines_dropped: registered(
                registry,
                IntCounter::new("tidegate_log_lines_dropped_total", "Lines of the access log that were dropped.").expect("a valid name"),
            ),
            fresh: FreshGauges::new(registry),
            reload_success: one("tidegate_config_reload_success", "Whether the last reload was taken: 1 or 0."),
            reloads: registered(
                registry,
                IntCounterVec::new(Opts::new("tidegate_config_reloads_total", "Reloads by result."), &["result"]).expect("a valid name"),
            ),
            config_age: real("tidegate_config_age_seconds", "How long the settings have been in force."),
            config_info: by("tidegate_config_info", "The hash of all files that are in force.", "hash"),
        }
    }

    fn fill(&self, scrape: &Scrape, handles: &Handles) {
        for vector in [&self.in_flight, &self.queued, &self.reserve, &self.ceiling, &self.shadow_in_flight, &self.shadow_queued] {
            vector.reset();
        }
        self.oldest_running.reset();
        self.oldest_waiting.reset();
        for (class, view) in handles.classes.iter().zip(&scrape.gate.classes) {
            let Some(class) = class.as_ref().filter(|class| !class.removed || view.in_flight + view.queued > 0) else { continue };
            let name = &[class.name.as_str()];
            self.in_flight.with_label_values(name).set(whole(view.in_flight));
            self.queued.with_label_values(name).set(whole(view.queued));
            self.reserve.with_label_values(name).set(whole(view.reserve));
            self.ceiling.with_label_values(name).set(whole(view.ceiling));
            self.shadow_in_flight.with_label_values(name).set(whole(view.shadow_in_flight));
            self.shadow_queued.with_label_values(name).set(whole(view.shadow_queued));
            self.oldest_running.with_label_values(name).set(view.oldest_running.as_secs_f64());
            self.oldest_waiting.with_label_values(name).set(view.oldest_waiting.as_secs_f64());
        }
        self.seats.set(whole(scrape.gate.seats));
        self.seats_taken.set(whole(scrape.gate.in_flight));
        self.streams.set(whole(scrape.gate.streams));
        self.app_up.set(i64::from(scrape.app.up));
        for (state, count) in [("idle", scrape.app.idle), ("busy", scrape.app.busy)] {
            self.app_connections.with_label_values(&[state]).set(whole(count));
        }
        self.zombies.set(whole(scrape.app.zombies));
        self.connections.set(whole(scrape.connections));
        self.documents.set(whole(scrape.documents));
        self.documents_dear.set(whole(scrape.documents_dear));
    }

    fn fill_config(&self, config: &ConfigScrape) {
        self.reload_success.set(i64::from(config.last_reload_taken));
        raise(&self.reloads.with_label_values(&["taken"]), config.reloads_taken);
        raise(&self.reloads.with_label_values(&["refused"]), config.reloads_refused);
        self.config_age.set(config.age.as_secs_f64());
        self.config_info.reset();
        self.config_info.with_label_values(&[&*config.hash]).set(1);
    }
}

impl FreshGauges {
    fn new(registry: &Registry) -> Self {
        let one = |(name, help)| registered(registry, IntGauge::new(name, help).expect("a valid name"));
        let by = |name: &str, help: &str, label: &str| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), &[label]).expect("a valid name"))
        };
        let counts = [
            ("tidegate_fresh_answers", "Stored answers."),
            ("tidegate_fresh_answers_bytes", "Bytes of stored answers, with all that is kept of them."),
            ("tidegate_fresh_documents", "Documents whose last write is remembered by itself."),
            ("tidegate_fresh_writers", "Writes in flight."),
            ("tidegate_fresh_suspended", "Writes in flight that name their documents only in their answer."),
            ("tidegate_fresh_joiners", "Polls that share or wait for another's answer."),
            ("tidegate_fresh_distrusted_routes", "Routes that a mismatch put back to verify."),
        ];
        let evicted = IntCounter::new("tidegate_fresh_evicted_total", "Stored answers that were dropped for want of room.");
        let real = |(name, help)| registered(registry, Gauge::new(name, help).expect("a valid name"));
        let doubt = [
            ("tidegate_fresh_doubt_seconds", "Until no document is in doubt any more, if nothing else is lost."),
            ("tidegate_fresh_doubt_ratio", "The share of documents not written of late that are in doubt: 1 after a start."),
        ];
        Self {
            mode: by("tidegate_fresh_mode", "1 for the mode of local answers that is in force: off, verify or on.", "mode"),
            counts: counts.map(one),
            evicted: registered(registry, evicted.expect("a valid name")),
            questions: by("tidegate_fresh_questions", "Questions that may be shared: at the app, or waiting for the one there.", "state"),
            doubt: doubt.map(real),
        }
    }

    fn fill(&self, view: &View, mode: FreshMode) {
        for known in [FreshMode::Off, FreshMode::Verify, FreshMode::On] {
            self.mode.with_label_values(&[known.label()]).set(i64::from(known == mode));
        }
        let bytes = usize::try_from(view.answers_bytes).unwrap_or(usize::MAX);
        let known = [view.answers, bytes, view.documents, view.writers, view.suspended, view.joiners, view.distrusted.len()];
        self.counts.iter().zip(known).for_each(|(gauge, count)| gauge.set(whole(count)));
        raise(&self.evicted, view.evicted);
        for (state, count) in [("running", view.running), ("waiting", view.waiting)] {
            self.questions.with_label_values(&[state]).set(whole(count));
        }
        self.doubt.iter().zip([view.doubt.as_secs_f64(), view.in_doubt]).for_each(|(gauge, value)| gauge.set(value));
    }
}

/// Lifts a counter to what was counted elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    register(registry, Box::new(collector.clone()));
    collector
}

fn register(registry: &Registry, collector: Box<dyn Collector>) {
    registry.register(collector).expect("every name is declared once, in this file");
}

/// Takes away the series whose `label` is `gone`.
fn forget<B: MetricVecBuilder>(family: &MetricVec<B>, label: &str, gone: impl Fn(&str) -> bool) {
    for metric in family.collect().iter().flat_map(MetricFamily::get_metric) {
        let labels: HashMap<&str, &str> = metric.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
        if labels.get(label).is_some_and(|value| gone(value)) {
            let _ = family.remove(&labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, process::Stdio};

    use super::*;
    use crate::{
        flow::{
            fresh::view,
            gate::{ClassView, View},
            report::{AppView, Detail, Fwd, Why, exchange::tests::exchange},
        },
        model::Rule,
    };

    fn settings(extra: Option<&str>) -> Settings {
        let mut settings = Settings::defaults();
        if let Some(name) = extra {
            settings.classes.intern(name).expect("room");
            settings.class.push(settings.class[1].clone());
        }
        settings
    }

    fn scrape() -> Scrape {
        let class = ClassView { in_flight: 3, queued: 2, ceiling: 40, oldest_running: Duration::from_millis(1500), ..ClassView::default() };
        Scrape {
            gate: View { seats: 64, in_flight: 15, streams: 1, classes: vec![class; 5] },
            documents: 10,
            documents_dear: 1,
            app: AppView { up: true, idle: 4, busy: 5, zombies: 6, ..AppView::default() },
            connections: 7,
            fresh: view::View { answers: 3, evicted: 2, running: 1, doubt: Duration::from_millis(1500), ..view::View::default() },
        }
    }

    fn text(metrics: &Metrics, scrape: &Scrape) -> String {
        let config = ConfigScrape { hash: "abc".to_owned(), last_reload_taken: true, reloads_refused: 2, ..ConfigScrape::default() };
        String::from_utf8(metrics.encode(scrape, &config, &[polls()], 9)).expect("text")
    }

    fn polls() -> RoutePolls {
        RoutePolls { route: "read".to_owned(), polls: 9, right: 3, wrong: 1, mismatches: 2, ..RoutePolls::default() }
    }

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "`{line}` is not in:\n{text}");
    }

    #[test]
    fn an_exchange_counts_where_it_belongs() {
        let metrics = Metrics::new(&settings(None));
        let mut moved = exchange();
        moved.account = Some(Class(2));
        moved.database = Some(Duration::from_millis(250));
        moved.queries = Some(3);
        moved.everything = true;
        moved.effect = Effect::Write;
        moved.predicted = Some(Duration::from_millis(6));
        metrics.ended(&moved);
        metrics.released(&moved);
        let text = text(&metrics, &scrape());
        for line in [
            "tidegate_requests_total{class=\"sync\",outcome=\"forwarded\"} 1",
            "tidegate_requests_total{class=\"none\",outcome=\"refused\"} 0",
            "tidegate_request_seconds_bucket{class=\"sync\",le=\"0.025\"} 1",
            "tidegate_request_seconds_bucket{class=\"sync\",le=\"0.01\"} 0",
            "tidegate_queue_seconds_count{class=\"sync\"} 1",
            "tidegate_predicted_wait_error_seconds_bucket{class=\"sync\",le=\"0.005\"} 1",
            "tidegate_app_seconds_total{class=\"large\"} 0.02",
            "tidegate_app_seconds_total{class=\"sync\"} 0",
            "tidegate_database_seconds_total{class=\"large\"} 0.25",
            "tidegate_database_queries_total{class=\"large\"} 3",
            "tidegate_moved_total{class=\"sync\"} 1",
            "tidegate_everything_writes_total{route=\"sync\"} 1",
            "tidegate_fresh_invalidations_total{cause=\"everything\"} 1",
            "tidegate_request_bytes_total{class=\"sync\"} 10",
            "tidegate_response_bytes_total{class=\"sync\"} 20",
        ] {
            has(&text, line);
        }
    }

    #[test]
    fn a_refusal_counts_by_its_rule_and_is_no_answer() {
        let metrics = Metrics::new(&settings(None));
        let mut refused = exchange();
        refused.outcome = Outcome::Refused;
        refused.rule = Some(Rule::Deadline);
        refused.shadows.push(Rule::ClientRate);
        (refused.app, refused.account, refused.predicted) = (None, None, Some(Duration::ZERO));
        metrics.ended(&refused);
        metrics.released(&refused);
        let mut malformed = exchange();
        malformed.class = None;
        malformed.outcome = Outcome::Refused;
        malformed.rule = Some(Rule::Malformed);
        malformed.waited = None;
        metrics.ended(&malformed);
        let mut failed = exchange();
        failed.outcome = Outcome::Failed;
        failed.failure = Some(FailureKind::ResponseTimeout);
        failed.stream = true;
        metrics.ended(&failed);
        let text = text(&metrics, &scrape());
        for line in [
            "tidegate_refusals_total{class=\"sync\",rule=\"deadline\"} 1",
            "tidegate_shadow_refusals_total{class=\"sync\",rule=\"client_rate\"} 1",
            "tidegate_refusals_total{class=\"none\",rule=\"malformed\"} 1",
            "tidegate_failures_total{error=\"http_response_timeout\"} 1",
            "tidegate_request_seconds_count{class=\"sync\"} 0",
            "tidegate_queue_seconds_count{class=\"sync\"} 2",
            "tidegate_predicted_wait_seconds_count{class=\"sync\"} 0",
            "tidegate_app_seconds_total{class=\"sync\"} 0",
        ] {
            has(&text, line);
        }
        let counts = metrics.counts(Some(Class(1)));
        assert_eq!((counts.outcomes[Outcome::Refused.index()], counts.refusals[Rule::Deadline.index()]), (1, 1));
    }

    #[test]
    fn gauges_say_what_the_scrape_says() {
        let metrics = Metrics::new(&settings(None));
        let first = text(&metrics, &scrape());
        for line in [
            "tidegate_in_flight{class=\"import\"} 3",
            "tidegate_queued{class=\"sync\"} 2",
            "tidegate_ceiling{class=\"sync\"} 40",
            "tidegate_oldest_running_seconds{class=\"sync\"} 1.5",
            "tidegate_seats 64",
            "tidegate_app_up 1",
            "tidegate_app_connections{state=\"idle\"} 4",
            "tidegate_app_connections{state=\"busy\"} 5",
            "tidegate_zombies 6",
            "tidegate_connections 7",
            "tidegate_documents_dear 1",
            "tidegate_log_lines_dropped_total 9",
            "tidegate_config_reload_success 1",
            "tidegate_config_reloads_total{result=\"refused\"} 2",
            "tidegate_config_info{hash=\"abc\"} 1",
        ] {
            has(&first, line);
        }
        let ours = |text: &str| text.lines().filter(|line| line.starts_with("tidegate_")).map(str::to_owned).collect::<Vec<_>>();
        assert!(ours(&first) == ours(&text(&metrics, &scrape())), "asking twice changes nothing");
    }

    #[test]
    fn polls_count_by_how_they_were_answered_and_routes_by_how_rightly() {
        let metrics = Metrics::new(&settings(None));
        let writer = PollEnd::Forwarded(Why { fwd: Fwd::Stale, detail: Some(Detail::Writer) });
        for end in [PollEnd::Hit, PollEnd::Hit, PollEnd::Joined, writer] {
            metrics.poll(Class(0), end);
        }
        metrics.invalidated(Invalidation::Notice);
        metrics.asked_again(Asked::Audit, Again::Dropped);
        let text = text(&metrics, &scrape());
        for line in [
            "tidegate_fresh_polls_total{class=\"noop\",detail=\"none\",result=\"hit\"} 2",
            "tidegate_fresh_polls_total{class=\"noop\",detail=\"none\",result=\"joined\"} 1",
            "tidegate_fresh_polls_total{class=\"noop\",detail=\"writer\",result=\"stale\"} 1",
            "tidegate_fresh_invalidations_total{cause=\"notice\"} 1",
            "tidegate_fresh_invalidations_total{cause=\"write\"} 0",
            "tidegate_fresh_asked_again_total{reason=\"audit\",result=\"dropped\"} 1",
            "tidegate_fresh_mismatches_total{route=\"read\"} 2",
            "tidegate_fresh_verified_total{result=\"right\",route=\"read\"} 3",
            "tidegate_fresh_verified_total{result=\"wrong\",route=\"read\"} 1",
            "tidegate_fresh_mode{mode=\"verify\"} 1",
            "tidegate_fresh_mode{mode=\"on\"} 0",
            "tidegate_fresh_answers 3",
            "tidegate_fresh_evicted_total 2",
            "tidegate_fresh_questions{state=\"running\"} 1",
            "tidegate_fresh_doubt_seconds 1.5",
        ] {
            has(&text, line);
        }
        assert_eq!(text.matches("tidegate_fresh_polls_total{").count(), 3, "what never happened has no series");
    }

    #[test]
    fn a_removed_class_and_a_route_that_is_gone_lose_their_series() {
        let metrics = Metrics::new(&settings(Some("wiki")));
        let mut wiki = exchange();
        wiki.class = Some(Class(5));
        wiki.everything = true;
        metrics.ended(&wiki);
        metrics.released(&wiki);
        metrics.poll(Class(5), PollEnd::Hit);
        let with_wiki = |view: &str| view.contains("wiki");
        assert!(with_wiki(&text(&metrics, &scrape())));
        let mut without = settings(Some("wiki"));
        without.class[5].removed = true;
        metrics.reload(&without, &BTreeSet::from(["other".to_owned()]));
        metrics.ended(&wiki);
        metrics.poll(Class(5), PollEnd::Hit);
        metrics.poll(Class(5), PollEnd::Joined);
        let gone = text(&metrics, &scrape());
        assert!(!with_wiki(&gone) && !gone.contains("route=\"sync\""), "{gone}");
        // Its requests still run: the gauges go on until they have ended.
        let mut draining = scrape();
        draining.gate.classes.push(ClassView { in_flight: 1, ..ClassView::default() });
        has(&text(&metrics, &draining), "tidegate_in_flight{class=\"wiki\"} 1");
        assert!(!with_wiki(&text(&metrics, &scrape())));
        metrics.reload(&settings(Some("wiki")), &BTreeSet::new());
        metrics.ended(&wiki);
        metrics.poll(Class(5), PollEnd::Hit);
        has(&text(&metrics, &scrape()), "tidegate_fresh_polls_total{class=\"wiki\",detail=\"none\",result=\"hit\"} 1");
        has(&text(&metrics, &scrape()), "tidegate_requests_total{class=\"wiki\",outcome=\"forwarded\"} 1");
    }

    #[test]
    fn a_reload_loses_no_count_of_a_class_that_stays() {
        let metrics = Metrics::new(&settings(None));
        metrics.ended(&exchange());
        metrics.reload(&settings(Some("wiki")), &BTreeSet::new());
        metrics.ended(&exchange());
        let text = text(&metrics, &scrape());
        has(&text, "tidegate_requests_total{class=\"sync\",outcome=\"forwarded\"} 2");
        has(&text, "tidegate_requests_total{class=\"wiki\",outcome=\"forwarded\"} 0");
    }

    /// Asks promtool, where it is installed.
    #[test]
    fn promtool_finds_nothing_to_say() {
        let metrics = Metrics::new(&settings(None));
        let mut everything = exchange();
        everything.everything = true;
        metrics.ended(&everything);
        metrics.released(&everything);
        let Ok(mut promtool) = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            eprintln!("promtool is not installed: not checked");
            return;
        };
        promtool.stdin.take().expect("piped").write_all(text(&metrics, &scrape()).as_bytes()).expect("it reads");
        let said = promtool.wait_with_output().expect("it ends");
        assert!(
            said.status.success() && said.stderr.is_empty() && said.stdout.is_empty(),
            "{}{}",
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
    }
}
