//! Each rule weakened alone, and what must then break: the checker has to find every one of them. The figures are those that the
//! rules were first found with: the steps of the shortest trace that breaks P1, P2, P3, P4 (and AGE and AUDIT), `no` where none
//! was found, `-` where that was not asked; then the first trace.

use crate::{
    promises::Promise,
    scenarios::{self as on, Scenario},
};

macro_rules! mutations {
    ($($name:ident = $rule:literal, $scenario:expr, $steps:literal, $trace:literal;)*) => {
        /// A rule that is left out, or taken wrongly.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Weakened {
            $($name,)*
        }

        impl Weakened {
            pub const EVERY: &[Self] = &[$(Self::$name,)*];

            /// The row of this mutation.
            pub fn row(self) -> Row {
                match self {
                    $(Self::$name => Row { rule: $rule, scenario: $scenario, steps: $steps, trace: $trace },)*
                }
            }
        }
    };
}

/// What is known of a mutation.
pub struct Row {
    pub rule: &'static str,
    pub scenario: Scenario,
    /// P1 P2 P3 P4 AGE AUDIT.
    steps: &'static str,
    pub trace: &'static str,
}

impl Row {
    /// What must break, and after how many steps it was found to.
    pub fn breaks(&self) -> Vec<(Promise, usize)> {
        self.columns().filter_map(|(promise, steps)| Some((promise, steps.parse().ok()?))).collect()
    }

    /// What was found never to break.
    pub fn keeps(&self) -> Vec<Promise> {
        self.columns().filter(|(_, steps)| *steps == "no").map(|(promise, _)| promise).collect()
    }

    fn columns(&self) -> impl Iterator<Item = (Promise, &'static str)> {
        Promise::EVERY.into_iter().zip(self.steps.split(' '))
    }
}

mutations! {
    BeginAfterFirstByte = "begin: bump after the first byte", on::BASE, "no 6 7 6", "b0 q v0 c0 join d";
    BeginNoLastWrite = "begin: no last_write", on::BASE, "8 6 7 6", "q b0 v0 c0 join d";
    BeginNoWriters = "begin: no writers", on::BASE, "8 6 7 6", "q b0 v0 c0 join d";
    EntryForgetsFloorQuiet = "begin: new entry forgets floor.quiet", on::RESTART, "no 11 - 11", "b0 kill b1 c1 r1 e1 q v1 late0 join d";
    EndNoSettle = "end: no settle", on::LAG, "9 8 9 8", "b0 c0 r0 e0 q join v0 d";
    EndAtHead = "end: at the response head", on::STREAM, "9 7 - 7", "b0 head0 q v0 c0 join d";
    ErrorIsKnown = "end: an error status counts as known", on::ERRORS, "no 8 - 8", "b0 5xx0 e0 q v0 late0 join d";
    RetryForgetsFirst = "end: retry forgets the first attempt", on::RETRY, "no 10 - 10", "b0 retry0 c0 r0 e0 q v1 late0 join d";
    CloseIsKnown = "end: a closed upgrade counts as known", on::UPGRADE, "no 7 - 7", "b0 close0 q v0 late0 join d";
    DoubtTickShort = "unknown: doubt one tick short", on::BASE, "no 8 9 8", "b0 lose0 t q v0 late0 join d";
    NoDoubt = "unknown: no doubt", on::BASE, "no 7 8 7", "b0 lose0 q v0 late0 join d";
    DoubtWithoutSettle = "unknown: doubt without settle", on::LAG, "no 8 9 8", "b0 c0 lose0 t q join v0 d";
    QuietOverwritten = "quiet_from: overwritten, not max", on::BASE, "no 11 12 11", "b0 c0 r0 b1 lose1 e0 q v1 late1 join d";
    SAtArrival = "poll: s noted at arrival", on::BASE, "8 6 7 no", "q b0 v0 c0 d REPLAY";
    SolidIgnoresWriters = "poll: solid ignores writers", on::BASE, "8 6 7 6", "b0 q v0 c0 join d";
    SolidIgnoresQuiet = "poll: solid ignores quiet_from", on::BASE, "no 7 8 7", "b0 lose0 q v0 late0 join d";
    FirstDocumentOnly = "poll: only the first document is checked", on::TWO, "9 7 - 7", "b0 q v0 v0 c0 join d";
    ReplayIgnoresWrites = "replay: last_write not compared", on::BASE, "8 6 7 no", "q b0 v0 c0 d REPLAY";
    AgeFromStoring = "replay: age counted from storing", on::AGE, "- - - no 11", "b0 lose0 t q v0 late0 t d t t REPLAY";
    NoAgeLimit = "replay: no age limit", on::AGE, "- - - no 11", "b0 lose0 t q v0 late0 d t t t REPLAY";
    ReplayIgnoresSuspended = "replay: ignores suspended", on::NARROW, "no 6 - no", "b0 q v0 c0 d REPLAY";
    JoinIgnoresSuspended = "join: ignores suspended", on::NARROW, "no no - 6", "b0 q v0 c0 join d";
    NarrowNotSuspended = "narrow: not suspended at begin", on::NARROW, "no 6 - 6", "b0 q v0 c0 join d";
    JoinNotSolid = "join: a poll that is not solid", on::BASE, "no no no 6", "b0 q v0 c0 join d";
    JoinIgnoresWrites = "join: last_write not compared", on::BASE, "no no no 6", "q b0 v0 c0 join d";
    JoinQuietNow = "join: not solid, but writers == 0 now", on::BASE, "no no no 8", "b0 q v0 c0 r0 e0 join d";
    NextGetsTheRunning = "next: waiters get the poll that already runs", on::NEXT, "no no no 6", "b0 q v0 c0 wait d";
    EvictWriters = "evict: entry with writers", on::BASE, "9 7 8 7", "b0 x q v0 c0 join d";
    FloorNotRaised = "evict: floor not raised", on::BASE, "10 8 9 8", "q b0 lose0 v0 late0 d x REPLAY";
    FloorQuietNotRaised = "evict: floor.quiet not raised", on::BASE, "no 8 9 8", "b0 lose0 x q v0 late0 join d";
    LookupIgnoresFloor = "lookup: floor not read on a miss", on::BASE, "10 8 9 8", "b0 lose0 x q v0 late0 join d";
    RestartNoDoubt = "restart: no doubt", on::RESTART, "no 7 - 7", "b0 kill q v0 late0 join d";
    RestartKeepsStore = "restart: store kept", on::RESTART, "9 7 - no", "q b0 v0 c0 d kill REPLAY";
    HandOverNoHold = "hand-over: no hold while the old lives", on::HAND_OVER, "11 9 - no", "b0 handover t t q v0 c0 d REPLAY";
    OldStillReplays = "hand-over: the old process still replays", on::HAND_OVER, "9 7 - no", "q v0 d handover b0 c0 REPLAY-old";
    NoticeAfterAnswer = "notice: passed on before the bump", on::NOTICE, "8 - - 8", "b0 q v0 c0 r0 ack0 join d";
    NoticeNeedsEntry = "notice: ignored without an entry", on::NOTICE, "9 - - 9", "b0 q v0 c0 r0 e0 ack0 join d";
    AuditCheckedAtSend = "audit: write race checked at send only", on::AUDIT, "no no - no - 8", "q v0 d audit b0 c0 v1 d";
    WallClock = "clock: wall clock jumps forward", on::BASE, "no 8 9 8", "b0 lose0 jump q v0 late0 join d";
    // Rule 17: found by this model.
    ReloadNoHold = "reload: requests under way hold nothing", on::RELOAD, "12 10 - 10", "queue0 b0 reload t t q v0 c0 join d";
    ReloadForgetsQueued = "reload: waiting requests hold nothing", on::RELOAD, "12 10 - 10", "queue0 reload b0 t t q v0 c0 join d";
    ReloadForgetsDoubt = "reload: writes that ended in doubt are forgotten", on::RELOAD, "no 9 - 9", "queue0 b0 lose0 reload q v0 late0 join d";
    ReloadCarriesDoubt = "reload: a write that the old profile did not know is forgotten", on::CORRECTED, "no 9 - 9", "queue0 b0 lose0 reload q v0 late0 join d";
    ReloadKeepsStore = "reload: the store is kept", on::RELOAD, "10 8 - no", "q v0 d reload queue0 b0 c0 REPLAY";
    ReloadKeepsPolls = "reload: a poll in flight is kept and joined", on::RELOAD, "10 8 - 8", "q v0 reload queue0 b0 c0 join d";
    ReloadKeepsAudits = "reload: an audit in flight is still judged", on::RELOAD_AUDIT, "no no - no - 10", "q v0 d audit reload queue0 b0 c0 v1 d";
    ReloadForgetsFirstAttempt = "reload: only the last attempt of a request counts", on::RELOAD_RETRY, "no 11 - 11", "queue0 b0 reload t retry0 unsent1 q v0 late0 join d";
}
