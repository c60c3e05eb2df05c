//! How polls were answered: `Cache-Status` (RFC 9211), and per route what was answered here, what would have been and whether rightly, and
//! who made answers stale.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{flow::fresh::ledger::Cause, profile::RouteId};

/// How many different causes one route remembers.
const CAUSES_MAX: usize = 16;

/// How a poll was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollEnd {
    /// By a stored answer.
    Hit,
    /// By the answer to a poll that ran already when it came.
    Joined,
    /// By the answer to a poll that was sent after it came, together with others.
    Shared,
    /// By the app.
    Forwarded(Why),
}

/// Why a poll went to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Why {
    /// The word of RFC 9211 section 2.2.
    pub fwd: Fwd,
    /// What it was in particular.
    pub detail: Option<Detail>,
}

/// `fwd` of RFC 9211 section 2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fwd {
    /// Nothing is stored for its question.
    UriMiss,
    /// What is stored is not proven any more.
    Stale,
    /// Its question, or what the app would say to it, may not be stored or replayed now.
    Bypass,
}

impl Fwd {
    /// All of them, in the order of the declaration.
    pub const ALL: [Self; 3] = [Self::UriMiss, Self::Stale, Self::Bypass];
}

/// Declares the details with their words, and every `Cache-Status` that they make as a text that needs no allocation.
macro_rules! details {
    ($($(#[$contract:meta])* $name:ident = $word:literal,)*) => {
        /// `detail` of RFC 9211 section 2.8: what it was in particular.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Detail {
            $($(#[$contract])* $name,)*
        }

        impl Detail {
            /// All of them, in the order of the declaration.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name),*];

            /// As it stands in `Cache-Status` and in the metrics.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }

        fn forwarded(why: Why, stored: bool) -> &'static str {
            match (why.fwd, why.detail, stored) {
                (Fwd::UriMiss, None, false) => "tidegate; fwd=uri-miss",
                (Fwd::UriMiss, None, true) => "tidegate; fwd=uri-miss; stored",
                (Fwd::Stale, None, false) => "tidegate; fwd=stale",
                (Fwd::Stale, None, true) => "tidegate; fwd=stale; stored",
                (Fwd::Bypass, None, false) => "tidegate; fwd=bypass",
                (Fwd::Bypass, None, true) => "tidegate; fwd=bypass; stored",
                $(
                    (Fwd::UriMiss, Some(Detail::$name), false) => concat!("tidegate; fwd=uri-miss; detail=", $word),
                    (Fwd::UriMiss, Some(Detail::$name), true) => concat!("tidegate; fwd=uri-miss; stored; detail=", $word),
                    (Fwd::Stale, Some(Detail::$name), false) => concat!("tidegate; fwd=stale; detail=", $word),
                    (Fwd::Stale, Some(Detail::$name), true) => concat!("tidegate; fwd=stale; stored; detail=", $word),
                    (Fwd::Bypass, Some(Detail::$name), false) => concat!("tidegate; fwd=bypass; detail=", $word),
                    (Fwd::Bypass, Some(Detail::$name), true) => concat!("tidegate; fwd=bypass; stored; detail=", $word),
                )*
            }
        }
    };
}

details! {
    /// A write to one of its documents runs, or has begun since the app was asked.
    Writer = "writer",
    /// A write to one of its documents has an outcome that nobody knows, or tidegate has only just started.
    Doubt = "doubt",
    /// A replica may still lag behind a write.
    Settle = "settle",
    /// The stored answer is too old.
    Age = "age",
    /// Its documents cannot be named, or are too many.
    Scope = "scope",
    /// The answer is too long to be kept.
    Size = "size",
    /// The answer has a status that its route does not declare.
    Status = "status",
    /// The answer has what is never kept: `Set-Cookie`, trailers, `Vary` on what the question lacks.
    Header = "header",
    /// The answer fails the route's `only_if`.
    Shape = "shape",
    /// It shows no credential, and the profile does not say `anonymous`.
    Credential = "credential",
    /// Its body was not read whole, or not understood.
    Body = "body",
    /// A write runs that names its documents only in its answer.
    Suspended = "suspended",
    /// Its route, or everything, is `off`.
    Mode = "off",
    /// Its route, or everything, is `verify`, or a mismatch put it back there.
    Verify = "verify",
    /// It was read by a profile that a reload has replaced.
    Reload = "reload",
}

/// The value of `Cache-Status` on the answer to a poll; `stored`: the app's answer was kept.
#[must_use]
pub fn cache_status(end: PollEnd, stored: bool) -> HeaderValue {
    HeaderValue::from_static(match end {
        PollEnd::Hit => "tidegate; hit",
        PollEnd::Joined => "tidegate; fwd=miss; collapsed; detail=joined",
        PollEnd::Shared => "tidegate; fwd=miss; collapsed; detail=shared",
        PollEnd::Forwarded(why) => forwarded(why, stored),
    })
}

/// How many different ends a poll may have.
pub const ENDS: usize = 3 + Fwd::ALL.len() * (Detail::ALL.len() + 1);

impl PollEnd {
    /// Every end, in the order of [`PollEnd::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        let details = || std::iter::once(None).chain(Detail::ALL.into_iter().map(Some));
        let forwarded = Fwd::ALL.into_iter().flat_map(move |fwd| details().map(move |detail| Self::Forwarded(Why { fwd, detail })));
        [Self::Hit, Self::Joined, Self::Shared].into_iter().chain(forwarded)
    }

    /// The index into an array of [`ENDS`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Hit => 0,
            Self::Joined => 1,
            Self::Shared => 2,
            Self::Forwarded(Why { fwd, detail }) => {
                3 + fwd as usize * (Detail::ALL.len() + 1) + detail.map_or(0, |detail| detail as usize + 1)
            }
        }
    }

    /// The result and the detail, as they stand in the metrics.
    #[must_use]
    pub fn labels(self) -> [&'static str; 2] {
        const NONE: &str = "none";
        match self {
            Self::Hit => ["hit", NONE],
            Self::Joined => ["joined", NONE],
            Self::Shared => ["shared", NONE],
            Self::Forwarded(Why { fwd, detail }) => {
                let fwd = match fwd {
                    Fwd::UriMiss => "uri_miss",
                    Fwd::Stale => "stale",
                    Fwd::Bypass => "bypass",
                };
                [fwd, detail.map_or(NONE, Detail::label)]
            }
        }
    }
}

/// What made stored answers stale, by what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// A write to named documents.
    Write,
    /// A write to everything.
    Everything,
    /// `Tidegate-Changed` on a response of the app.
    Notice,
    /// `POST /invalidate`.
    Invalidate,
    /// A denial for a credential.
    Denied,
    /// A reload that changed the profile.
    Reload,
    /// A difference that no write explains.
    Mismatch,
}

impl Invalidation {
    /// All of them, in the order of the declaration.
    pub const ALL: [Self; 7] = [Self::Write, Self::Everything, Self::Notice, Self::Invalidate, Self::Denied, Self::Reload, Self::Mismatch];

    /// As it stands in the metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Everything => "everything",
            Self::Notice => "notice",
            Self::Invalidate => "invalidate",
            Self::Denied => "denied",
            Self::Reload => "reload",
            Self::Mismatch => "mismatch",
        }
    }
}

/// Why a question was put to the app again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Its answer was older than `refresh_after`.
    Refresh,
    /// As a sample.
    Audit,
}

impl Asked {
    /// All of them, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::Refresh, Self::Audit];

    /// As it stands in the metrics and in events.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Audit => "audit",
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The app says the same.
    Same,
    /// It says something else although no write was seen.
    Mismatch,
    /// It says something else after a write, or nothing that can be compared.
    Unjudged,
    /// No seat was free, or the class was refusing: it was not asked.
    Dropped,
}

impl Again {
    /// All of them, in the order of the declaration.
    pub const ALL: [Self; 4] = [Self::Same, Self::Mismatch, Self::Unjudged, Self::Dropped];

    /// As it stands in the metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Mismatch => "mismatch",
            Self::Unjudged => "unjudged",
            Self::Dropped => "dropped",
        }
    }
}

/// A difference that no write explains.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The poll's route.
    pub route: RouteId,
    /// Why the app was asked again.
    pub asked: Asked,
    /// A digest of the stored answer, volatile parts aside.
    pub stored: u128,
    /// The same of what the app says.
    pub found: u128,
    /// How old the stored answer was.
    pub age: Duration,
}

/// What is counted of every route's polls. A route keeps its counts over a reload as long as it keeps its name.
#[derive(Debug, Default)]
pub struct Polls {
    rows: ArcSwap<Vec<Arc<Row>>>,
}

/// One route's polls.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// The route's name.
    pub name: Arc<str>,
    polls: AtomicU64,
    local: AtomicU64,
    right: AtomicU64,
    wrong: AtomicU64,
    unjudged: AtomicU64,
    mismatches: AtomicU64,
    causes: Mutex<Causes>,
}

/// Who made a route's answers stale, by Space-Saving: see `top`.
#[derive(Debug, Default)]
struct Causes {
    entries: Vec<(Cause, u64)>,
}

impl Causes {
    fn add(&mut self, cause: Cause) {
        if let Some((_, count)) = self.entries.iter_mut().find(|(known, _)| *known == cause) {
            *count += 1;
        } else if self.entries.len() < CAUSES_MAX {
            self.entries.push((cause, 1));
        } else if let Some(least) = self.entries.iter_mut().min_by_key(|(_, count)| *count) {
            *least = (cause, least.1 + 1);
        }
    }
}

/// One route's polls as they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutePolls {
    /// The route.
    pub route: String,
    /// Polls that were answered, whoever did it.
    pub polls: u64,
    /// Of them, those that were answered here.
    pub local: u64,
    /// Those that would have been answered here in mode `on`; the sum of the following three.
    pub would_hit: u64,
    /// The app said the same.
    pub right: u64,
    /// It said something else although no write was seen.
    pub wrong: u64,
    /// A write came in between, or it said nothing that can be compared.
    pub unjudged: u64,
    /// Differences that were found by asking again in mode `on`.
    pub mismatches: u64,
    /// Who made most of its stored answers stale, and how often; from the most to the least.
    pub invalidated_by: Vec<InvalidatedBy>,
}

/// A route that made answers stale, or what else it was, in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidatedBy {
    /// Its name.
    pub route: String,
    /// How often.
    pub count: u64,
}

impl Polls {
    /// These are the profile's routes, in their order; what no route matches stands last.
    pub fn routes(&self, names: &[Arc<str>]) {
        let before = self.rows.load();
        let known: HashMap<&str, &Arc<Row>> = before.iter().map(|row| (&*row.name, row)).collect();
        let rows = names.iter().map(|name| match known.get(&**name) {
            Some(row) => {
                // Indices may mean other routes now.
                row.causes.lock().entries.clear();
                Arc::clone(row)
            }
            None => Arc::new(Row { name: Arc::clone(name), ..Row::default() }),
        });
        let rows = rows.collect();
        self.rows.store(Arc::new(rows));
    }

    fn with(&self, route: RouteId, change: impl FnOnce(&Row)) {
        let rows = self.rows.load();
        if let Some(row) = rows.get(usize::from(route.0)).or_else(|| rows.last()) {
            change(row);
        }
    }

    /// A poll was answered.
    pub fn ended(&self, route: RouteId, end: PollEnd) {
        self.with(route, |row| {
            row.polls.fetch_add(1, Ordering::Relaxed);
            if !matches!(end, PollEnd::Forwarded(_)) {
                row.local.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// A stored answer turned out to be stale.
    pub fn stale_by(&self, route: RouteId, cause: Cause) {
        self.with(route, |row| row.causes.lock().add(cause));
    }

    /// A poll that went to the app would have been answered here.
    pub fn would_have(&self, route: RouteId, right: Option<bool>) {
        self.with(route, |row| {
            let counter = match right {
                Some(true) => &row.right,
                Some(false) => &row.wrong,
                None => &row.unjudged,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// A difference without a write. Gives the route's name.
    pub fn mismatch(&self, route: RouteId) -> Arc<str> {
        let mut name = Arc::from("");
        self.with(route, |row| {
            row.mismatches.fetch_add(1, Ordering::Relaxed);
            name = Arc::clone(&row.name);
        });
        name
    }

    /// Every route that had a poll.
    #[must_use]
    pub fn list(&self) -> Vec<RoutePolls> {
        let rows = self.rows.load();
        rows.iter().map(|row| shown(row, &rows)).filter(|row| row.polls + row.would_hit > 0).collect()
    }
}

fn shown(row: &Row, rows: &[Arc<Row>]) -> RoutePolls {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let name = |cause: Cause| match (cause.label(), cause.route()) {
        (Some(label), _) => format!("({label})"),
        (None, Some(route)) => rows.get(usize::from(route.0)).or_else(|| rows.last()).map_or_else(String::new, |row| row.name.to_string()),
        (None, None) => String::new(),
    };
    let mut causes = row.causes.lock().entries.clone();
    causes.sort_by_key(|(cause, count)| Reverse((*count, *cause)));
    let (right, wrong, unjudged) = (get(&row.right), get(&row.wrong), get(&row.unjudged));
    RoutePolls {
        route: row.name.to_string(),
        polls: get(&row.polls),
        local: get(&row.local),
        would_hit: right + wrong + unjudged,
        right,
        wrong,
        unjudged,
        mismatches: get(&row.mismatches),
        invalidated_by: causes.into_iter().map(|(cause, count)| InvalidatedBy { route: name(cause), count }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn polls(names: &[&str]) -> Polls {
        let polls = Polls::default();
        polls.routes(&arcs(names));
        polls
    }

    fn arcs(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    const WRITER: PollEnd = PollEnd::Forwarded(Why { fwd: Fwd::Stale, detail: Some(Detail::Writer) });

    #[test]
    fn cache_status_says_what_became_of_a_poll() {
        let status = |end, stored| cache_status(end, stored).to_str().expect("ASCII").to_owned();
        assert_eq!(status(PollEnd::Hit, false), "tidegate; hit");
        assert_eq!(status(WRITER, false), "tidegate; fwd=stale; detail=writer");
        assert_eq!(status(WRITER, true), "tidegate; fwd=stale; stored; detail=writer");
        let miss = PollEnd::Forwarded(Why { fwd: Fwd::UriMiss, detail: None });
        assert_eq!(status(miss, true), "tidegate; fwd=uri-miss; stored");
        let bypass = PollEnd::Forwarded(Why { fwd: Fwd::Bypass, detail: Some(Detail::Scope) });
        assert_eq!(status(bypass, false), "tidegate; fwd=bypass; detail=scope");
        assert!(status(PollEnd::Joined, false).contains("; collapsed") && status(PollEnd::Shared, false).contains("; collapsed"));
    }

    #[test]
    fn every_end_has_an_index_labels_and_a_text_of_its_own() {
        let all: Vec<PollEnd> = PollEnd::all().collect();
        assert_eq!(all.len(), ENDS);
        assert!(all.iter().enumerate().all(|(index, end)| end.index() == index));
        assert_eq!(all.iter().map(|end| end.labels()).collect::<BTreeSet<_>>().len(), ENDS);
        let texts: BTreeSet<Vec<u8>> = all.iter().map(|end| cache_status(*end, false).as_bytes().to_vec()).collect();
        assert_eq!(texts.len(), ENDS);
    }

    #[test]
    fn a_route_shows_its_polls_and_who_made_them_stale() {
        let polls = polls(&["read", "write", "unmatched"]);
        polls.ended(RouteId(0), PollEnd::Hit);
        polls.ended(RouteId(0), WRITER);
        for cause in [Cause(1), Cause(1), Cause::NOTICE, Cause::UNMATCHED] {
            polls.stale_by(RouteId(0), cause);
        }
        for right in [Some(true), Some(true), Some(false), None] {
            polls.would_have(RouteId(0), right);
        }
        assert_eq!(&*polls.mismatch(RouteId(0)), "read");
        let list = polls.list();
        assert_eq!(list.len(), 1, "routes without polls are not shown: {list:?}");
        let read = &list[0];
        assert_eq!((read.polls, read.local, read.would_hit, read.right, read.wrong, read.unjudged, read.mismatches), (2, 1, 4, 2, 1, 1, 1));
        let causes: Vec<(&str, u64)> = read.invalidated_by.iter().map(|by| (by.route.as_str(), by.count)).collect();
        assert_eq!(causes, [("write", 2), ("(unmatched)", 1), ("(notice)", 1)]);
    }

    #[test]
    fn causes_are_bounded_and_the_most_frequent_one_stays() {
        let polls = polls(&["read", "unmatched"]);
        polls.ended(RouteId(0), WRITER);
        for cause in 0..1000 {
            polls.stale_by(RouteId(0), Cause(cause % 100));
            polls.stale_by(RouteId(0), Cause::INVALIDATED);
        }
        let by = polls.list().remove(0).invalidated_by;
        assert_eq!(by.len(), CAUSES_MAX);
        assert_eq!((by[0].route.as_str(), by[0].count), ("(invalidated)", 1000));
    }

    #[test]
    fn counts_follow_the_name_of_a_route_over_a_reload() {
        let polls = polls(&["read", "old", "unmatched"]);
        polls.ended(RouteId(0), PollEnd::Hit);
        polls.ended(RouteId(1), PollEnd::Hit);
        polls.stale_by(RouteId(0), Cause(1));
        polls.routes(&arcs(&["new", "read", "unmatched"]));
        polls.ended(RouteId(1), PollEnd::Hit);
        polls.ended(RouteId(9), PollEnd::Hit);
        let list: Vec<(String, u64, usize)> =
            polls.list().into_iter().map(|row| (row.route, row.polls, row.invalidated_by.len())).collect();
        assert_eq!(list, [("read".to_owned(), 2, 0), ("unmatched".to_owned(), 1, 0)]);
    }
}
