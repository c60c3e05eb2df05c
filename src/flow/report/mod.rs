//! What is told of every request: metrics, the access log, decision headers, and who is eating the database.
pub mod decision;
pub mod exchange;
pub mod fresh;
pub mod log;
pub mod metrics;
pub mod response;
pub mod server_timing;
pub mod told;
pub mod top;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

pub use self::{
    decision::Problem,
    exchange::{ClientShown, Decided, Exchange},
    fresh::{Again, Asked, Detail, Fwd, Invalidation, Mismatch, PollEnd, RoutePolls, Why, cache_status},
    log::LogSink,
    server_timing::DatabaseTime,
    top::Ranked,
};
use self::{fresh::Polls, metrics::Metrics, top::Top};
use crate::{
    clock::{self, Moment},
    config::Settings,
    flow::{
        fresh::{ledger::Cause, view},
        gate,
    },
    model::{Class, Classes, Outcome, Rule},
    profile::RouteId,
};

/// What is told of requests; cheap to clone.
#[derive(Clone, Debug)]
pub struct Report {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metrics: Metrics,
    log: LogSink,
    top: Top,
    polls: Polls,
    classes: ArcSwap<Classes>,
}

/// What is read from the running parts when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The gate.
    pub gate: gate::View,
    /// Documents of which something is remembered.
    pub documents: usize,
    /// Of them, the dear ones.
    pub documents_dear: usize,
    /// The app.
    pub app: AppView,
    /// Connections of clients.
    pub connections: usize,
    /// Local answers.
    pub fresh: view::View,
}

/// What the app looks like at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppView {
    /// Its address, as it stands in the settings.
    pub server: String,
    /// Whether it answers.
    pub up: bool,
    /// Connections to it in the pool.
    pub idle: usize,
    /// Connections to it with a request on them.
    pub busy: usize,
    /// Requests at the app whose client has its 504 already, or whose connection we closed.
    pub zombies: usize,
    /// The last failure, for people.
    pub last_error: Option<String>,
}

/// What was counted of one class since the start, by the indices of outcomes and rules.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// By [`Outcome::index`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// By [`Rule::index`].
    pub refusals: [u64; Rule::ALL.len()],
    /// By [`Rule::index`].
    pub shadow_refusals: [u64; Rule::ALL.len()],
    /// Charged to its account.
    pub app_seconds: f64,
    /// Charged to its account.
    pub database_seconds: f64,
    /// Charged to its account.
    pub database_queries: u64,
}

/// The settings in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigScrape {
    /// The hash of all files and flags that they were read from.
    pub hash: String,
    /// How long they have been in force.
    pub age: Duration,
    /// Whether the last reload was taken; true before the first.
    pub last_reload_taken: bool,
    /// Reloads that were taken.
    pub reloads_taken: u64,
    /// Reloads that were refused.
    pub reloads_refused: u64,
}

impl Report {
    /// A report of nothing so far.
    #[must_use]
    pub fn new(settings: &Settings, log: LogSink) -> Self {
        let classes = ArcSwap::from_pointee(settings.classes.clone());
        Self { shared: Arc::new(Shared { metrics: Metrics::new(settings), log, top: Top::default(), polls: Polls::default(), classes }) }
    }

    /// The client's side of a request has ended. To be called exactly once for each.
    pub fn ended(&self, exchange: &Exchange) {
        self.shared.metrics.ended(exchange);
        let answered = matches!(exchange.outcome, Outcome::Forwarded | Outcome::Fresh | Outcome::Joined);
        if let (Some(poll), Some(class), true) = (&exchange.poll, exchange.class, answered) {
            self.poll(poll.route, class, poll.refined().0);
        }
    }

    /// The app's side of a request has ended as well, or it never had one. To be called exactly once for each, after [`Report::ended`].
    pub fn released(&self, exchange: &Exchange) {
        let shared = &*self.shared;
        shared.metrics.released(exchange);
        if exchange.app.is_some() {
            shared.top.add(exchange, clock::now());
        }
        let classes = shared.classes.load();
        let arrived = clock::wall().checked_sub(clock::now().since(exchange.arrived)).unwrap_or_else(clock::wall);
        shared.log.write(exchange, exchange.class.map(|class| classes.name(class)), arrived);
    }

    /// The routes whose polls are counted, in the profile's order; what no route matches stands last. Without it no poll is counted.
    pub fn routes(&self, names: &[Arc<str>]) {
        self.shared.polls.routes(names);
    }

    /// A poll was answered: to be called exactly once for each.
    pub fn poll(&self, route: RouteId, class: Class, end: PollEnd) {
        self.shared.metrics.poll(class, end);
        self.shared.polls.ended(route, end);
    }

    /// The stored answer to a poll turned out to be stale, by a write of this route or by what else it was.
    pub fn stale_by(&self, poll: RouteId, cause: Cause) {
        self.shared.polls.stale_by(poll, cause);
    }

    /// A poll that went to the app because of mode `verify` would have been answered here: rightly, wrongly, or nobody can say.
    pub fn would_have(&self, poll: RouteId, right: Option<bool>) {
        self.shared.polls.would_have(poll, right);
    }

    /// Stored answers became stale other than by a write that passes through: those are counted as they end.
    pub fn invalidated(&self, by: Invalidation) {
        self.shared.metrics.invalidated(by);
    }

    /// A question was put to the app again, or was to be.
    pub fn asked_again(&self, asked: Asked, again: Again) {
        self.shared.metrics.asked_again(asked, again);
    }

    /// The app worked on a question of our own, charged to this account.
    pub fn background(&self, account: Class, app: Duration, told: &DatabaseTime) {
        self.shared.metrics.charge(Some(account), app, told);
    }

    /// A difference that no write explains, beside [`Report::asked_again`]: an event with both digests, and a metric.
    pub fn mismatch(&self, found: &Mismatch) {
        let route = self.shared.polls.mismatch(found.route);
        tracing::error!(
            %route,
            asked = found.asked.label(),
            stored = format_args!("{:032x}", found.stored),
            found = format_args!("{:032x}", found.found),
            age_ms = u64::try_from(found.age.as_millis()).unwrap_or(u64::MAX),
            "the app answers otherwise although no write was seen; the route is put back to verify until POST /audit/reset"
        );
    }

    /// What is known of every route's polls.
    #[must_use]
    pub fn polls(&self) -> Vec<RoutePolls> {
        self.shared.polls.list()
    }

    /// Opens the access log anew: as these settings want it, or because the file was rotated. It may block for about a second.
    ///
    /// # Errors
    /// The file cannot be opened; nothing has changed then.
    pub fn reopen_log(&self, settings: &Settings) -> std::io::Result<()> {
        self.shared.log.reopen(&settings.log)
    }

    /// New settings: classes get their series, those of removed classes and of routes other than these disappear.
    pub fn reload(&self, settings: &Settings, routes: &BTreeSet<String>) {
        self.shared.metrics.reload(settings, routes);
        self.shared.classes.store(Arc::new(settings.classes.clone()));
    }

    /// Writes what waits for the access log, for about a second at most; later lines are dropped.
    pub fn close(&self) {
        self.shared.log.close();
    }

    /// The metrics as text (Prometheus exposition format 0.0.4).
    #[must_use]
    pub fn metrics(&self, scrape: &Scrape, config: &ConfigScrape) -> Vec<u8> {
        self.shared.metrics.encode(scrape, config, &self.shared.polls.list(), self.shared.log.dropped())
    }

    /// What was counted of a class since the start; of what was never classed for `None`.
    #[must_use]
    pub fn counts(&self, class: Option<Class>) -> Counts {
        self.shared.metrics.counts(class)
    }

    /// Lines of the access log that were dropped since the start.
    #[must_use]
    pub fn log_lines_dropped(&self) -> u64 {
        self.shared.log.dropped()
    }

    /// Who took most of the app's time of late, at most `count` of each kind.
    #[must_use]
    pub fn top(&self, count: usize, now: Moment) -> top::Tops {
        self.shared.top.list(count, now)
    }
}
