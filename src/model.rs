//! The nouns that every layer shares: classes, documents, clients, intents, refusals, outcomes.

mod failure;

use std::{fmt, sync::Arc, time::Duration};

use smallvec::SmallVec;

pub use self::failure::FailureKind;

/// The most classes that a configuration may name; per-class state is an array of this length at most.
pub const CLASSES_MAX: usize = 16;

/// The most scopes of one request that the access log shows.
pub const SCOPES_SHOWN_MAX: usize = 64;

/// A class of requests, interned at load: an index into per-class arrays, below [`CLASSES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class(pub u8);

impl Class {
    /// The index into a per-class array.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The names of all classes, in the order of their indices. An index keeps its name over every reload: new classes are
/// appended, and one that was removed keeps its place so that it can drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    names: Vec<Arc<str>>,
}

/// The classes that are always there, in this order.
pub const SHIPPED_CLASSES: [&str; 5] = ["noop", "sync", "large", "import", "other"];

impl Classes {
    /// The five classes that are always there.
    #[must_use]
    pub fn shipped() -> Self {
        Self { names: SHIPPED_CLASSES.iter().map(|name| Arc::from(*name)).collect() }
    }

    /// Adds a name unless it is there; `None` if that would exceed [`CLASSES_MAX`].
    pub fn intern(&mut self, name: &str) -> Option<Class> {
        if let Some(class) = self.find(name) {
            return Some(class);
        }
        if self.names.len() >= CLASSES_MAX {
            return None;
        }
        self.names.push(Arc::from(name));
        self.find(name)
    }

    /// The class of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Class> {
        let index = self.names.iter().position(|known| &**known == name)?;
        u8::try_from(index).ok().map(Class)
    }

    /// The name of a class; `none` for an index that was never given out.
    #[must_use]
    pub fn name(&self, class: Class) -> &str {
        self.names.get(class.index()).map_or("none", |name| &**name)
    }

    /// Every class with its name.
    pub fn iter(&self) -> impl Iterator<Item = (Class, &str)> {
        (0u8..).map(Class).zip(self.names.iter().map(|name| &**name))
    }

    /// How many classes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never true: the shipped classes are always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl Default for Classes {
    fn default() -> Self {
        Self::shipped()
    }
}

/// The keyed hash of a document's scope: what is remembered of a document is kept under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey(pub u64);

/// The documents of one request.
pub type DocumentKeys = SmallVec<[DocumentKey; 4]>;

/// The keyed hash of whom a request is limited as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(pub u64);

/// What a request reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// `"*"`: everything.
    All,
    /// `kind` or `kind:text`, compared as it stands.
    Plain(Arc<str>),
    /// `tree:/path`: the path with its ancestors and descendants; holds the normalised path without `tree:`.
    Tree(Arc<str>),
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => formatter.write_str("*"),
            Self::Plain(text) => formatter.write_str(text),
            Self::Tree(path) => write!(formatter, "tree:{path}"),
        }
    }
}

/// What a request does to documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Touches no document.
    None,
    /// Reads documents; its answer may not be stored.
    Read,
    /// Reads documents, and its answer may be stored and replayed.
    Poll,
    /// May change documents.
    Write,
}

impl Effect {
    /// As it stands in the access log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Poll => "poll",
            Self::Write => "write",
        }
    }
}

/// What a request asks of the gate: everything that admission decides upon.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// The class that admits it, dear documents already considered.
    pub class: Class,
    /// The account it moves to when it outlives its class's `long_after`.
    pub long: Class,
    /// Who is limited and queued fairly.
    pub client: ClientKey,
    /// Its documents, for what is remembered of them and for one seat per client and document.
    pub documents: DocumentKeys,
    /// Whether it may change documents.
    pub writes: bool,
    /// Whether nothing is known of one of its documents; false if it names none.
    pub unseen: bool,
    /// Whether it is open-ended: a long poll, an event stream, an upgrade.
    pub stream: bool,
}

/// The rule that refused a request; the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// The class is closed or in maintenance.
    Closed,
    /// The client's own rate.
    ClientRate,
    /// The client's own cap of requests in flight was why it waited for too long.
    ClientCap,
    /// The class's rate.
    ClassRate,
    /// The class's circuit breaker.
    Breaker,
    /// Too many retries while the class is saturated.
    RetryBudget,
    /// The class's queue is full.
    QueueFull,
    /// It would wait longer than `wait_max`.
    PredictedWait,
    /// It waited for `wait_max`.
    Deadline,
    /// Too many open streams.
    Stream,
    /// The request itself was at fault: our 4xx other than 429.
    Malformed,
}

impl Rule {
    /// Every rule, in the order of the declaration.
    pub const ALL: [Self; 11] = [
        Self::Closed,
        Self::ClientRate,
        Self::ClientCap,
        Self::ClassRate,
        Self::Breaker,
        Self::RetryBudget,
        Self::QueueFull,
        Self::PredictedWait,
        Self::Deadline,
        Self::Stream,
        Self::Malformed,
    ];

    /// As it stands in metrics, the access log and refusal bodies.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ClientRate => "client_rate",
            Self::ClientCap => "client_cap",
            Self::ClassRate => "class_rate",
            Self::Breaker => "breaker",
            Self::RetryBudget => "retry_budget",
            Self::QueueFull => "queue_full",
            Self::PredictedWait => "predicted_wait",
            Self::Deadline => "deadline",
            Self::Stream => "stream",
            Self::Malformed => "malformed",
        }
    }

    /// The index into a per-rule array.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A request that is not admitted: by which rule, as whose doing, and when it may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub rule: Rule,
    /// Whether this client's own doing was the cause (429) or the service's state (503).
    pub own_doing: bool,
    /// When it may come back: computed from what refused it, jittered.
    pub retry_after: Duration,
}

impl Refusal {
    /// 429 for this client's doing, 503 for the service's state (RFC 6585 section 4, RFC 9110 section 15.6.4).
    #[must_use]
    pub fn status(&self) -> http::StatusCode {
        if self.own_doing { http::StatusCode::TOO_MANY_REQUESTS } else { http::StatusCode::SERVICE_UNAVAILABLE }
    }
}

/// How a request ended; every request ends in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The app's answer was passed on, whatever its status.
    Forwarded,
    /// Answered by tidegate itself.
    Fresh,
    /// Shared the answer to another request.
    Joined,
    /// Not admitted, or malformed.
    Refused,
    /// The app failed: our own 502 or 504.
    Failed,
    /// The client left first.
    Gone,
}

impl Outcome {
    /// Every outcome, in the order of the declaration.
    pub const ALL: [Self; 6] = [Self::Forwarded, Self::Fresh, Self::Joined, Self::Refused, Self::Failed, Self::Gone];

    /// As it stands in metrics and the access log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Fresh => "fresh",
            Self::Joined => "joined",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Gone => "gone",
        }
    }

    /// The index into a per-outcome array.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Whether a limit acts, only says what it would have done, or does neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Neither acts nor counts.
    Off,
    /// Counts what it would have refused.
    Shadow,
    /// Refuses.
    Enforce,
}

impl Mode {
    /// As it stands in the configuration and in `Tidegate-Decision`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Enforce => "enforce",
        }
    }
}
