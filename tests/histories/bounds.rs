//! How a history is bounded, what its steps are, and what may be wrong in it on purpose.

/// How a history is bounded, and what happens in it.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub settle: u64,
    pub doubt: u64,
    pub age_max: u64,
    /// How far the app's replicas lag behind.
    pub lag: u64,
    pub members_max: usize,
    /// Nothing is evicted: all that the reference proves must be answered.
    pub roomy: bool,
    /// How many documents the ledger has room for; if few, how they are spread decides which of them are forgotten.
    pub documents_max: usize,
    /// Of the keys, and so of how they are spread.
    pub secret: [u64; 2],
    /// Some writes come past the proxy, and are told later.
    pub hidden: bool,
    /// Some writes run without a promise (rule 21).
    pub pending: bool,
    /// Profiles of every second generation forget a document.
    pub misread: bool,
    /// Which polls and writes there are, of all.
    pub reads: [u8; 2],
    pub writes: [u8; 3],
    /// Whether each proof is compared with the reference's, beside the promises.
    pub compared: bool,
    pub fault: Fault,
}

/// What is wrong on purpose, in the app or in how the parts are driven, so that the checks can be seen to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The app takes a write later than `doubt` after it was lost.
    CommitsTooLate,
    /// Replicas lag behind by more than `settle`.
    LagsTooLong,
    /// The app takes a write after it has answered.
    CommitsAfterAnswer,
    /// The profile forgets a document, and is never corrected.
    Undeclared,
    BeginsAfterFirstByte,
    ErrorIsKnown,
    RetryForgetsFirst,
    TunnelIsKnown,
    NoDoubt,
    NoSettle,
    OnlyFirstDocument,
    SequenceAtAnswer,
    KeepsNotSolid,
    JoinsNotSolid,
    JoinsUnproven,
    NotSuspended,
    ListAfterAnswer,
    NoticeAfterAnswer,
    RestartsWithoutDoubt,
    RestartKeepsAnswers,
    ReloadForgetsRunning,
    ReloadForgetsQuiet,
    JudgesWithoutLedger,
}

/// What happens in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tick,
    Sleep,
    Poll,
    Arrive,
    Ask,
    FirstByte,
    Read,
    Answer,
    Leave,
    BreakOff,
    Refresh,
    Write,
    Begin,
    Send,
    Unsend,
    Commit,
    Whole,
    End,
    Acknowledge,
    Lose,
    Told,
    Others,
    Restart,
    Stop,
    Reload,
}

/// One step: what, and which of the choices that there are at that moment.
#[derive(Clone, Copy, Debug)]
pub struct Step(pub Kind, pub [u8; 3]);

/// How often something was seen, so that a history in which nothing happens cannot pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub polls: u64,
    pub own: u64,
    pub replayed: u64,
    pub joined: u64,
    pub shared: u64,
    pub settled: u64,
    pub refreshed: u64,
    pub writes: u64,
    pub lost: u64,
    pub late: u64,
    pub restarts: u64,
    pub reloads: u64,
}

impl Seen {
    pub fn counts(&mut self) -> [&mut u64; 12] {
        let Self { polls, own, replayed, joined, shared, settled, refreshed, writes, lost, late, restarts, reloads } = self;
        [polls, own, replayed, joined, shared, settled, refreshed, writes, lost, late, restarts, reloads]
    }
}
