//! What is promised of every answer that is a replay or a join. A step that breaks a promise sets its bit, and the state is
//! explored no further: the checker's properties are "this bit is never set".

use crate::{
    model::World,
    state::{Effects, State},
};

/// The promises, each judged alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// P1: a poll that starts after a write was acknowledged never gets an answer from before it.
    Acknowledged,
    /// P2, in its strong form: an answer shows all that the app has committed at the moment of the check.
    Shown,
    /// P3: who has seen version n is never given an older one.
    Backwards,
    /// P4: all this for polls that share another's answer.
    Shared,
    /// AGE: an answer lacks nothing that was committed `age_max + settle` ago or earlier: it was asked less than `age_max` ago, and
    /// the replica that answered lagged for less than `settle`.
    Age,
    /// AUDIT: while every write passes here, no audit finds a mismatch.
    Audit,
}

impl Promise {
    pub const EVERY: [Self; 6] = [Self::Acknowledged, Self::Shown, Self::Backwards, Self::Shared, Self::Age, Self::Audit];

    /// Its bit in `State::broken`.
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Acknowledged => "P1",
            Self::Shown => "P2",
            Self::Backwards => "P3",
            Self::Shared => "P4",
            Self::Age => "AGE",
            Self::Audit => "AUDIT",
        }
    }
}

/// The bits of these.
pub fn bits(promises: &[Promise]) -> u8 {
    promises.iter().fold(0, |bits, promise| bits | promise.bit())
}

impl World {
    /// What the app has committed.
    pub fn committed(&self, state: &State) -> Effects {
        self.effects(state, |write| write.committed)
    }

    /// What was acknowledged to anybody.
    pub fn acknowledged(&self, state: &State) -> Effects {
        self.effects(state, |write| write.acknowledged)
    }

    /// What some replica may not show yet.
    pub fn lagging(&self, state: &State) -> Effects {
        self.effects(state, |write| write.committed && write.lag > 0)
    }

    /// What was committed so long ago that nobody's answer may lack it.
    pub fn aged(&self, state: &State) -> Effects {
        let limit = self.age_max(state);
        let settled = limit + self.scenario.settle;
        if limit == 0 { Effects::NONE } else { self.effects(state, |write| write.committed && write.since >= settled) }
    }

    /// What a poll that joins now must get to see: all that is committed, where that is promised.
    pub fn owed(&self, state: &State) -> Effects {
        if self.scenario.promises.contains(&Promise::Shown) { self.committed(state) } else { self.acknowledged(state) }
    }

    /// Judges an answer that is replayed now.
    pub fn replayed(&self, state: &mut State, question: usize, shows: Effects) {
        let documents = self.scenario.questions[question];
        let lacks = |effects: Effects| !shows.has(effects.on(documents));
        let judge = |promise: Promise, kept: bool| if kept { 0 } else { promise.bit() };
        self.judge(
            state,
            judge(Promise::Acknowledged, !lacks(self.acknowledged(state)))
                | judge(Promise::Shown, !lacks(self.committed(state)))
                | judge(Promise::Backwards, !lacks(state.seen))
                | judge(Promise::Age, !lacks(self.aged(state))),
        );
    }

    /// Notes what was broken, if this run asks about it.
    pub fn judge(&self, state: &mut State, broken: u8) {
        if state.era >= self.scenario.promised_from {
            state.broken |= broken & self.watched;
        }
    }
}
