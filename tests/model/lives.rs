//! The process and its profile: killed and started again (rule 15), replaced by another while it lives (16), and reloaded (17).

use crate::{
    model::{Step, World},
    mutations::Weakened as W,
    state::{Call, Ledger, State, Write},
};

impl World {
    pub fn possible_lives(&self, state: &State, steps: &mut Vec<Step>) {
        if self.scenario.kill {
            steps.push(Step::Kill);
        }
        if self.scenario.hand_over && state.era == 0 {
            steps.push(Step::HandOver);
        }
        if state.old_lives {
            steps.push(Step::OldEnds);
        }
        if state.era < self.scenario.reloads {
            steps.push(Step::Reload);
        }
    }

    /// Kill -9, and a start: all that tidegate knew is gone. What the app was doing goes on.
    pub fn kill(&self, state: &mut State) {
        self.lose_calls(state, |_| true);
        state.ledger = self.fresh_ledger();
        if !self.weakened(W::RestartKeepsStore) {
            state.stored = State::default().stored;
        }
        state.polls = State::default().polls;
        state.waiting = State::default().waiting;
    }

    /// The calls of such writes end with the process that made them.
    fn lose_calls(&self, state: &mut State, such: impl Fn(&Write) -> bool) {
        for index in 0..state.writes.len() {
            let write = state.writes[index];
            if write.call == Call::Unsent || write.call == Call::Over || !such(&write) {
                continue;
            }
            match write.call {
                Call::Running | Call::Streaming => self.gives_up(state, index),
                _ => {}
            }
            state.writes[index] = Write { call: Call::Over, counted: false, held: false, ..state.writes[index] };
        }
    }

    /// Rule 16. Nothing is kept of the old process's ledger: from now on it answers nothing itself, and nobody asks it.
    pub fn hand_over(&self, state: &mut State) {
        if self.weakened(W::OldStillReplays) {
            state.old_stored = state.stored[0].filter(|_| self.replays(state, 0, state.era)).map(|stored| stored.shows);
        }
        state.era += 1;
        state.old_lives = true;
        state.ledger = self.fresh_ledger();
        state.ledger.all.writers = u8::from(!self.weakened(W::HandOverNoHold));
        state.stored = State::default().stored;
    }

    /// The old process ends, or is ended: its polls are gone, its calls are lost.
    pub fn old_ends(&self, state: &mut State) {
        self.lose_calls(state, |write| write.era == 0);
        for slot in &mut state.polls {
            *slot = slot.filter(|poll| poll.era > 0);
        }
        state.old_lives = false;
        state.old_stored = None;
        if !self.weakened(W::HandOverNoHold) {
            state.ledger.all.writers -= 1;
            let ticks = self.doubt();
            self.hush(&mut state.ledger.all, ticks);
        }
    }

    /// Rule 17. Doubts and lags of writes that have ended stand under names that no poll asks for any more, or, if the profile
    /// did not know the write for one, nowhere: so everything is in doubt, as after a start.
    pub fn reload(&self, state: &mut State) {
        let Ledger { entries, floor, all, .. } = state.ledger;
        state.era += 1;
        if !self.weakened(W::ReloadKeepsStore) {
            state.stored = State::default().stored;
        }
        let ticks = if self.weakened(W::ReloadForgetsDoubt) {
            0
        } else if self.weakened(W::ReloadCarriesDoubt) {
            entries.iter().flatten().chain([&floor, &all]).map(|cell| cell.quiet).max().unwrap_or_default()
        } else {
            self.doubt()
        };
        self.hush(&mut state.ledger.all, ticks);
        for write in &mut state.writes {
            let under_way = match write.call {
                Call::Unsent | Call::Over => false,
                Call::Queued => !self.weakened(W::ReloadForgetsQueued),
                Call::Answered | Call::Failed => write.counted,
                Call::Running | Call::Streaming => true,
            };
            if under_way && !write.held && !self.weakened(W::ReloadNoHold) {
                write.held = true;
                state.ledger.all.writers += 1;
            }
        }
    }
}
