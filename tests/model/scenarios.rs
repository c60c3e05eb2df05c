//! What may happen in a run, and how much of it: the bounds of each scenario, by the names that the rules were found with.

use crate::{
    promises::Promise,
    state::{FOREVER, Ticks},
};

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
/// P3 follows from P2: whatever anybody saw was committed. Where P2 is promised and room is dear, P3 is not asked for.
const MOST: &[Promise] = &[Acknowledged, Shown, Shared];
/// What is promised whatever the app does later than it should.
const LEAST: &[Promise] = &[Acknowledged, Shared];

/// One document, one question, two writes, two polls at once, entries dropped.
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

// ------------------------------------------------------------------------------------------- what every change must hold
pub const LEAVE: Scenario = Scenario { name: "clients leave", leave: true, ..BASE };
pub const THREE: Scenario = Scenario { name: "three writes", writes: 3, polls: 1, doubt: 1, late: 1, ..BASE };
pub const RESTART: Scenario = Scenario { name: "restart", kill: true, ..BASE };
pub const LAG: Scenario = Scenario { name: "lag", doubt: 1, late: 1, settle: 2, lag: 2, ..BASE };
/// One poll over two documents, and writes to either or both.
pub const TWO: Scenario = Scenario {
    name: "two documents",
    kinds: &[kind(1, Named::Request), kind(2, Named::Request), kind(3, Named::Request)],
    questions: &[3],
    polls: 1,
    promises: MOST,
    ..BASE
};
/// Two questions, of which one reads a document more.
pub const ROUTES: Scenario = Scenario {
    name: "two routes",
    kinds: &[kind(1, Named::Request), kind(2, Named::Request)],
    questions: &[1, 3],
    polls: 1,
    doubt: 1,
    late: 1,
    ..BASE
};
pub const STREAM: Scenario = Scenario { name: "streamed answer", stream: true, ..BASE };
pub const ERRORS: Scenario = Scenario { name: "error status", errors: true, ..BASE };
pub const RETRY: Scenario = Scenario { name: "retry", writes: 3, polls: 1, retry: true, ..BASE };
pub const UPGRADE: Scenario = Scenario { name: "upgrade", upgrade: true, ..BASE };
pub const STAR: Scenario = Scenario { name: "*, restart", kinds: &[kind(1, Named::Request), kind(1, Named::Everything)], ..RESTART };
pub const NARROW: Scenario = Scenario { name: "undeclared documents", kinds: &[kind(1, Named::Answer)], ..BASE };
pub const NARROW_LAG: Scenario = Scenario { name: "undeclared documents, lag", doubt: 1, late: 1, settle: 1, lag: 1, ..NARROW };
pub const NARROW_RESTART: Scenario = Scenario { name: "undeclared documents, restart", kill: true, ..NARROW };
pub const PENDING: Scenario = Scenario { name: "pending", kinds: &[kind(1, Named::Pending)], promises: LEAST, ..BASE };
pub const NOTICE: Scenario = Scenario { name: "notice", kinds: &[kind(1, Named::Notice)], promises: LEAST, ..BASE };
/// The app commits whenever it likes, and nothing is ever in doubt: P1 holds all the same.
pub const WITHOUT_DOUBT: Scenario =
    Scenario { name: "without doubt, restart", doubt: 0, late: FOREVER, kill: true, promises: LEAST, ..BASE };
/// The app commits whenever it likes: how stale an answer may then be.
pub const AGE: Scenario = Scenario {
    name: "age",
    polls: 1,
    doubt: 1,
    late: FOREVER,
    age_max: 3,
    age_max_down: 3,
    promises: &[Acknowledged, Shared, Age],
    ..BASE
};
pub const AGE_LAG: Scenario = Scenario { name: "age, lag", settle: 2, lag: 2, ..AGE };
pub const AGE_DOWN: Scenario = Scenario { name: "age, app down", age_max: 2, age_max_down: 3, ..AGE };
pub const AUDIT: Scenario = Scenario { name: "audit", audit: true, promises: &[Acknowledged, Shown, Shared, Audit], ..BASE };
pub const AUDIT_LAG: Scenario = Scenario { name: "audit, lag", doubt: 1, late: 1, settle: 1, lag: 1, ..AUDIT };
pub const NEXT: Scenario = Scenario { name: "next", next: true, leave: true, ..BASE };
pub const NEXT_LAG: Scenario = Scenario { name: "next, lag", doubt: 1, late: 1, settle: 2, lag: 2, ..NEXT };
pub const NEXT_RESTART: Scenario = Scenario { name: "next, restart", kill: true, ..NEXT };
pub const HAND_OVER: Scenario = Scenario { name: "hand-over", hand_over: true, promises: MOST, ..BASE };
pub const HAND_OVER_LAG: Scenario = Scenario { name: "hand-over, lag", polls: 1, doubt: 1, late: 1, settle: 1, lag: 1, ..HAND_OVER };
/// A reload after which the documents have other keys, with a poll in flight and others waiting.
pub const RELOAD: Scenario = Scenario { name: "reload", polls: 1, next: true, reloads: 1, promises: MOST, ..BASE };
pub const RELOAD_LAG: Scenario = Scenario { name: "reload, lag", next: false, doubt: 1, late: 1, settle: 1, lag: 1, ..RELOAD };
pub const RELOAD_RETRY: Scenario = Scenario { name: "reload, retry", writes: 3, next: false, retry: true, doubt: 1, late: 1, ..RELOAD };
pub const RELOAD_AUDIT: Scenario = Scenario { name: "reload, audit", next: false, audit: true, promises: AUDIT.promises, ..RELOAD };
/// The profile before the reload did not know the write for one, and promises nothing.
pub const CORRECTED: Scenario = Scenario {
    name: "corrected profile",
    kinds: &[Kind { touches: 1, named: Named::Request, named_before: Named::Nobody }],
    promised_from: 1,
    ..RELOAD
};

// ------------------------------------------------------------------------------------------------- what takes too long
pub const LEAVE_THREE: Scenario = Scenario { name: "clients leave, three writes", writes: 3, doubt: 1, late: 1, promises: MOST, ..LEAVE };
pub const THREE_TWICE: Scenario = Scenario { name: "three writes, two polls", polls: 2, promises: MOST, ..THREE };
pub const THREE_RESTART: Scenario = Scenario { name: "three writes, restart", kill: true, ..THREE_TWICE };
pub const THREE_LAG: Scenario = Scenario { name: "three writes, lag", settle: 1, lag: 1, ..THREE };
pub const NEXT_THREE_LAG: Scenario = Scenario { name: "next, three writes, lag", writes: 3, promises: MOST, ..NEXT_LAG };
pub const TWO_TWICE: Scenario = Scenario { name: "two documents, two polls", polls: 2, doubt: 1, late: 1, ..TWO };
pub const HAND_OVER_AUDIT: Scenario = Scenario { name: "hand-over, audit", audit: true, promises: AUDIT.promises, ..HAND_OVER };
pub const RELOAD_TWICE: Scenario = Scenario { name: "two reloads", reloads: 2, ..RELOAD };
pub const RELOAD_POLLS: Scenario = Scenario { name: "reload, two polls", polls: 2, ..RELOAD };

// ------------------------------------------------------------------------------------------------- what is meant to fail
pub const TOO_LATE: Scenario = Scenario { name: "commits later than doubt", late: BASE.doubt + 1, ..BASE };
pub const TOO_LAGGING: Scenario = Scenario { name: "lags longer than settle", lag: LAG.settle + 1, ..LAG };
/// The documents only from the answer's header, and no rule 13.
pub const HEADER_ONLY: Scenario = Scenario { name: "documents from the header only", promises: ALL, ..NOTICE };
/// Writes that nobody tells us of: an audit finds them.
pub const HIDDEN: Scenario = Scenario { name: "a write past tidegate", kinds: &[kind(1, Named::Nobody)], ..AUDIT };
