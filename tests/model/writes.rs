//! A write on its way: what tidegate does with its call, and when the app commits (assumption A1: between the first byte and the
//! last byte of a whole answer, or, if that did not come, before the loss + `doubt`).

use crate::{
    model::{Step, World},
    mutations::Weakened as W,
    scenarios::Named,
    state::{Call, Effects, Ledger, State, Ticks, Write},
};

impl World {
    /// What the writes of which this is so did.
    pub fn effects(&self, state: &State, such: impl Fn(&Write) -> bool) -> Effects {
        let done = |(index, write): (usize, &Write)| Effects::of(index, self.scenario.kinds[usize::from(write.kind)].touches);
        state.writes.iter().enumerate().filter(|(_, write)| such(write)).map(done).fold(Effects::NONE, Effects::and)
    }

    pub fn possible_writes(&self, state: &State, steps: &mut Vec<Step>) {
        let scenario = &self.scenario;
        let mut others_sent = true;
        for (index, write) in (0_u8..).zip(&state.writes[..scenario.writes]) {
            match write.call {
                // Writes that nobody has sent are all alike: the first of them is the next.
                Call::Unsent => {
                    if others_sent {
                        self.possible_begins(state, index, steps);
                    }
                    others_sent = false;
                    continue;
                }
                Call::Queued => steps.push(Step::Begin(index, write.kind)),
                Call::Running | Call::Streaming => self.possible_runs(state, index, write, steps),
                Call::Answered | Call::Failed => {
                    if write.counted {
                        steps.push(Step::End(index));
                    }
                    let notice_done = !write.counted || !self.acknowledges_after_end(write);
                    if write.call == Call::Answered && !write.acknowledged && notice_done {
                        steps.push(Step::Acknowledge(index));
                    }
                }
                Call::Over => {}
            }
            if !write.committed && write.late > 0 {
                steps.push(Step::Late(index));
            }
        }
    }

    fn possible_begins(&self, state: &State, index: u8, steps: &mut Vec<Step>) {
        for (kind, _) in (0..).zip(self.scenario.kinds) {
            // Only where profiles change does it matter when a write was classified.
            steps.push(if self.scenario.reloads > 0 { Step::Queue(index, kind) } else { Step::Begin(index, kind) });
            if state.old_lives {
                steps.push(Step::BeginOld(index, kind));
            }
        }
    }

    fn possible_runs(&self, state: &State, index: u8, write: &Write, steps: &mut Vec<Step>) {
        if !write.counted && self.weakened(W::BeginAfterFirstByte) {
            steps.push(Step::Count(index));
        } else {
            steps.push(Step::Lose(index));
        }
        if self.scenario.upgrade {
            steps.push(Step::Close(index));
        }
        if write.committed {
            steps.push(Step::Answer(index));
        } else {
            steps.push(Step::Commit(index));
            if self.scenario.stream && write.call == Call::Running {
                steps.push(Step::Head(index));
            }
        }
        if self.scenario.errors {
            steps.push(Step::Error(index));
        }
        if self.scenario.retry {
            if !write.committed {
                steps.push(Step::Unsent(index));
            }
            let unused = state.writes[..self.scenario.writes].iter().position(|other| other.call == Call::Unsent);
            if let Some(again) = unused {
                steps.push(Step::Retry(index, again as u8));
            }
        }
    }

    /// Rules 12, 13 and 21: what an answer says of documents is noted before a byte of it goes on.
    fn acknowledges_after_end(&self, write: &Write) -> bool {
        let by_answer = matches!(self.named(write), Named::Answer | Named::Pending | Named::Notice);
        by_answer && !self.weakened(W::NoticeAfterAnswer)
    }

    pub fn queue(state: &mut State, index: usize, kind: u8) {
        state.writes[index] = Write { call: Call::Queued, kind, era: state.era, ..Write::default() };
    }

    pub fn send(&self, state: &mut State, index: usize, kind: u8) {
        let write = &mut state.writes[index];
        let era = if write.call == Call::Queued { write.era } else { state.era };
        *write = Write { call: Call::Running, kind, era, ..*write };
        if !self.weakened(W::BeginAfterFirstByte) {
            self.count(state, index);
        }
    }

    /// In the ledger of the old process, which no longer matters.
    pub fn send_old(state: &mut State, index: usize, kind: u8) {
        state.writes[index] = Write { call: Call::Running, kind, counted: true, ..Write::default() };
    }

    pub fn count(&self, state: &mut State, index: usize) {
        self.begin(&mut state.ledger, &state.writes[index]);
        state.writes[index].counted = true;
    }

    pub fn commit(&self, state: &mut State, index: usize) {
        let write = &mut state.writes[index];
        *write = Write { committed: true, late: 0, lag: self.scenario.lag, ..*write };
    }

    pub fn head(&self, state: &mut State, index: usize) {
        state.writes[index].call = Call::Streaming;
        if self.weakened(W::EndAtHead) {
            self.ended(state, index, Self::end_known, self.scenario.settle);
        }
    }

    pub fn answer(state: &mut State, index: usize) {
        state.writes[index].call = Call::Answered;
    }

    pub fn error(&self, state: &mut State, index: usize) {
        state.writes[index].call = Call::Failed;
        self.gives_up(state, index);
    }

    /// From now on the app has so long.
    pub fn gives_up(&self, state: &mut State, index: usize) {
        let write = &mut state.writes[index];
        write.late = if write.committed { 0 } else { self.scenario.late };
    }

    pub fn end(&self, state: &mut State, index: usize) {
        let known = state.writes[index].call == Call::Answered || self.weakened(W::ErrorIsKnown);
        if known {
            self.ended(state, index, Self::end_known, self.scenario.settle);
        } else {
            self.ended(state, index, Self::end_unknown, self.doubt());
            Self::over(state, index);
        }
    }

    pub fn lose(&self, state: &mut State, index: usize) {
        self.gives_up(state, index);
        self.ended(state, index, Self::end_unknown, self.doubt());
        Self::over(state, index);
    }

    pub fn close(&self, state: &mut State, index: usize) {
        if self.weakened(W::CloseIsKnown) {
            self.gives_up(state, index);
            self.ended(state, index, Self::end_known, self.scenario.settle);
            Self::over(state, index);
        } else {
            self.lose(state, index);
        }
    }

    pub fn unsent(&self, state: &mut State, index: usize) {
        self.ended(state, index, Self::end_unsent, 0);
        Self::over(state, index);
    }

    /// Rule 5. What rule 17 holds for the request goes over to the second attempt, and the first has left its doubt with `all` too.
    pub fn retry(&self, state: &mut State, index: usize, again: usize) {
        let write = state.writes[index];
        self.gives_up(state, index);
        if self.weakened(W::RetryForgetsFirst) {
            self.ended(state, index, Self::end_unsent, 0);
        } else if write.held && self.weakened(W::ReloadForgetsFirstAttempt) {
            state.writes[index].held = false;
            state.ledger.all.writers -= 1;
            self.ended(state, index, Self::end_unknown, self.doubt());
        } else {
            self.ended(state, index, Self::end_unknown, self.doubt());
        }
        Self::over(state, index);
        state.writes[again] = Write { call: Call::Queued, kind: write.kind, era: write.era, held: write.held, ..Write::default() };
        state.ledger.all.writers += u8::from(write.held);
        self.send(state, again, write.kind);
    }

    /// An end by one of the rules, in the ledger that counts the write, and the end of what rule 17 holds for it.
    fn ended(&self, state: &mut State, index: usize, end: fn(&Self, &mut Ledger, &Write), ticks: Ticks) {
        let write = state.writes[index];
        if write.counted && !self.is_replaced(state, &write) {
            end(self, &mut state.ledger, &write);
        }
        if write.held {
            state.ledger.all.writers -= 1;
            self.hush(&mut state.ledger.all, ticks);
        }
        state.writes[index] = Write { counted: false, held: false, ..write };
    }

    /// Another process counts it.
    fn is_replaced(&self, state: &State, write: &Write) -> bool {
        self.scenario.hand_over && write.era < state.era
    }

    /// Nothing more comes of it, but what the app still does.
    pub fn over(state: &mut State, index: usize) {
        state.writes[index].call = Call::Over;
    }
}
