//! What may happen in a run, and how much of it: the bounds of each scenario, by the names that the rules were found with.

use crate::{promises::Promise, state::Ticks};

/// How the documents that a write touches become known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By the request (rule 2).
    Request,
    /// The request is taken to touch everything: `*`, or too many keys.
    Everything,
    /// By the answer only (rule 13).
    Answer,
    /// By the answer only, and the profile says `pending = []` (rule 21).
    Pending,
    /// The route is none that writes; the answer carries a notice (rule 12).
    Notice,
    /// By nobody: against assumption A3.
    Nobody,
}

/// A kind of write.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The documents that it changes, one bit each.
    pub touches: u8,
    pub named: Named,
    /// How a profile before the last reload knew it.
    pub named_before: Named,
}

const fn kind(touches: u8, named: Named) -> Kind {
    Kind { touches, named, named_before: named }
}

/// Bounds, times in ticks, what may happen, and what is promised.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a list of what may happen")]
pub struct Scenario {
    pub name: &'static str,
    pub writes: usize,
    pub kinds: &'static [Kind],
    /// For each question the documents that it reads, one bit each.
    pub questions: &'static [u8],
    /// Polls at the app at once.
    pub polls: usize,
    /// For how long an outcome that nobody knows is in doubt (rule 4), and for how long the app does commit after a loss.
    pub doubt: Ticks,
    pub late: Ticks,
    /// For how long the replicas are trusted to lag (rules 3 and 12), and for how long they do.
    pub settle: Ticks,
    pub lag: Ticks,
    /// Rule 9; 0: without limit.
    pub age_max: Ticks,
    pub age_max_down: Ticks,
    pub promises: &'static [Promise],
    /// Entries are dropped (rule 14).
    pub evict: bool,
    /// Killed with -9 and started again (rule 15).
    pub kill: bool,
    /// Clients leave.
    pub leave: bool,
    /// Identical polls wait for the next one (rule 11).
    pub next: bool,
    /// The head of an answer comes before the app commits.
    pub stream: bool,
    /// Error statuses.
    pub errors: bool,
    /// A second attempt after a lost first one, and attempts of which not one byte was written (rules 3 and 5).
    pub retry: bool,
    /// Upgrades and tunnels (rule 6).
    pub upgrade: bool,
    /// Replayed answers are asked again (rules 18 and 19).
    pub audit: bool,
    /// A new process takes over from a living one (rule 16).
    pub hand_over: bool,
    /// How often the profile changes, and with it the keys of all documents (rule 17).
    pub reloads: u8,
    /// Answers of this era and later are promised something: a profile that hides a write promises nothing.
    pub promised_from: u8,
}

use Promise::{Acknowledged, Age, Audit, Backwards, Shared, Shown};

const ALL: &[Promise] = &[Acknowledged, Shown, Backwards, Shared];
const NO_CLIENTS: &[Promise] = &[Acknowledged, Shown, Shared];

/// One document, one question, two writes, two polls at once, documents dropped.
pub const BASE: Scenario = Scenario {
    name: "base",
    writes: 2,
    kinds: &[kind(1, Named::Request)],
    questions: &[1],
    polls: 2,
    doubt: 2,
    late: 2,
    settle: 0,
    lag: 0,
    age_max: 0,
    age_max_down: 0,
    promises: ALL,
    evict: true,
    kill: false,
    leave: false,
    next: false,
    stream: false,
    errors: false,
    retry: false,
    upgrade: false,
    audit: false,
    hand_over: false,
    reloads: 0,
    promised_from: 0,
};

pub const LEAVE: Scenario = Scenario { name: "clients leave", leave: true, ..BASE };
pub const THREE: Scenario = Scenario { name: "three writes", writes: 3, polls: 1, doubt: 1, late: 1, ..BASE };
pub const THREE_RESTART: Scenario = Scenario { name: "three writes, restart", kill: true, promises: NO_CLIENTS, ..THREE };
pub const THREE_LAG: Scenario = Scenario { name: "three writes, lag", settle: 1, lag: 1, ..THREE };
pub const RESTART: Scenario = Scenario { name: "restart", kill: true, promises: NO_CLIENTS, ..BASE };
pub const TWO: Scenario = Scenario {
    name: "two documents",
    kinds: &[kind(1, Named::Request), kind(2, Named::Request), kind(3, Named::Request)],
    questions: &[3],
    polls: 1,
    promises: NO_CLIENTS,
    ..BASE
};
pub const ROUTES: Scenario = Scenario {
    name: "two routes",
    kinds: &[kind(1, Named::Request), kind(2, Named::Request)],
    questions: &[1, 3],
    polls: 1,
    doubt: 1,
    late: 1,
    ..BASE
};
pub const LAG: Scenario = Scenario { name: "lag", doubt: 1, late: 1, settle: 2, lag: 2, ..BASE };
pub const STREAM: Scenario = Scenario { name: "streamed answer", stream: true, promises: NO_CLIENTS, ..BASE };
pub const ERRORS: Scenario = Scenario { name: "error status", errors: true, promises: NO_CLIENTS, ..BASE };
pub const RETRY: Scenario = Scenario { name: "retry", writes: 3, polls: 1, retry: true, promises: NO_CLIENTS, ..BASE };
pub const STAR: Scenario =
    Scenario { name: "*, restart", kinds: &[kind(1, Named::Request), kind(1, Named::Everything)], polls: 1, ..RESTART };
pub const UPGRADE: Scenario = Scenario { name: "upgrade", upgrade: true, promises: NO_CLIENTS, ..BASE };
pub const NARROW: Scenario =
    Scenario { name: "undeclared documents", kinds: &[kind(1, Named::Answer)], promises: NO_CLIENTS, ..BASE };
pub const NARROW_LAG: Scenario = Scenario { name: "undeclared documents, lag", doubt: 1, late: 1, settle: 1, lag: 1, ..NARROW };
pub const NOTICE: Scenario =
    Scenario { name: "notice", kinds: &[kind(1, Named::Notice)], promises: &[Acknowledged, Shared], ..BASE };
pub const PENDING: Scenario =
    Scenario { name: "pending", kinds: &[kind(1, Named::Pending)], promises: &[Acknowledged, Shared], ..BASE };
pub const AGE: Scenario = Scenario {
    name: "age",
    doubt: 1,
    late: crate::state::FOREVER,
    age_max: 3,
    age_max_down: 3,
    promises: &[Acknowledged, Shared, Age],
    polls: 1,
    ..BASE
};
pub const AUDIT: Scenario = Scenario { name: "audit", audit: true, promises: &[Acknowledged, Shown, Shared, Audit], ..BASE };
pub const NEXT: Scenario = Scenario { name: "next", next: true, promises: NO_CLIENTS, ..BASE };
pub const NEXT_LAG: Scenario = Scenario { name: "next, lag", doubt: 1, late: 1, settle: 2, lag: 2, ..NEXT };
pub const HAND_OVER: Scenario = Scenario { name: "hand-over", hand_over: true, promises: NO_CLIENTS, ..BASE };
/// The documents have other keys after the reload.
pub const RELOAD: Scenario = Scenario { name: "reload", reloads: 1, next: true, promises: NO_CLIENTS, ..BASE };
