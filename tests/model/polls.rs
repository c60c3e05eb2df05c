//! A poll on its way: sent, shared, waited for, answered, kept and replayed (rules 7 to 11, 18 and 19), and what the app shows
//! (assumption A2: what was current at some moment between the poll's first byte and the end of its answer, or less than the
//! replicas' lag earlier; each document at a moment of its own).

use crate::{
    model::{Step, World},
    mutations::Weakened as W,
    promises::Promise,
    state::{DOCUMENTS, Effects, Poll, State, Stored, Ticks, Waiting},
};

impl World {
    pub fn possible_polls(&self, state: &State, steps: &mut Vec<Step>) {
        for (question, _) in (0_u8..).zip(self.scenario.questions) {
            self.possible_questions(state, question, steps);
        }
        for (index, poll) in (0..).zip(&state.polls) {
            if let Some(poll) = poll {
                self.possible_answers(state, index, poll, steps);
            }
        }
        for (index, waiting) in (0..).zip(&state.waiting) {
            let Some(waiting) = waiting else { continue };
            if self.replays(state, waiting.question.into(), waiting.era) {
                steps.push(Step::ReplayWaiting(index));
            } else if self.may_ask(state) && !Self::runs(state, waiting.question, waiting.era) {
                steps.push(Step::AskWaiting(index));
            }
            if self.scenario.leave {
                steps.push(Step::LeaveWaiting(index));
            }
        }
        if state.old_lives && state.old_stored.is_some() {
            steps.push(Step::ReplayOld);
        }
    }

    fn possible_questions(&self, state: &State, question: u8, steps: &mut Vec<Step>) {
        let index = usize::from(question);
        let replays = self.replays(state, index, state.era);
        let waited_for = state.waiting.iter().flatten().any(|waiting| waiting.question == question && waiting.era == state.era);
        let busy = Self::runs(state, question, state.era) || waited_for;
        if replays {
            steps.push(Step::Replay(question));
        }
        // Between finding nothing to replay and being sent a poll waits for a seat, and meanwhile another may be stored: so a
        // poll may be sent whatever is stored. It is then what a refresh is (rule 19).
        if self.may_ask(state) && !(self.scenario.next && busy) {
            steps.push(Step::Ask(question));
        }
        if self.scenario.next && busy && !replays && (waited_for || state.waiting.iter().any(Option::is_none)) {
            steps.push(Step::Wait(question));
        }
        if replays && self.scenario.audit && self.may_ask(state) {
            steps.push(Step::Audit(question));
        }
        if self.watched & Promise::Backwards.bit() != 0 && self.looked(state, index) != state.seen {
            steps.push(Step::Look(question));
        }
    }

    fn possible_answers(&self, state: &State, index: u8, poll: &Poll, steps: &mut Vec<Step>) {
        let reads = self.scenario.questions[usize::from(poll.question)];
        for document in 0..DOCUMENTS as u8 {
            if (reads & !poll.read) >> document & 1 == 0 {
                continue;
            }
            let committed = self.committed(state).on(1 << document);
            let lagging = self.lagging(state).on(1 << document);
            // Every subset of what lags may be missing.
            let mut missing = lagging;
            loop {
                steps.push(Step::Show(index, document, committed.without(missing)));
                if missing.is_none() {
                    break;
                }
                missing = Effects((missing.0 - 1) & lagging.0);
            }
        }
        if poll.read == reads {
            steps.push(Step::Deliver(index));
        }
        if self.joins(state, poll) {
            steps.push(Step::Join(index));
        }
        if self.scenario.leave && poll.attended {
            steps.push(Step::Leave(index));
        }
    }

    fn may_ask(&self, state: &State) -> bool {
        state.polls.iter().flatten().count() < self.scenario.polls
    }

    /// An identical poll is at the app. The profile's generation is part of the question (rule 17).
    fn runs(state: &State, question: u8, era: u8) -> bool {
        let same = |poll: &&Poll| poll.question == question && poll.era == era && poll.expected.is_none();
        state.polls.iter().flatten().any(|poll| same(&poll))
    }

    fn documents(&self, question: u8) -> u8 {
        self.scenario.questions[usize::from(question)]
    }

    // ------------------------------------------------------------------------------------------------------------ rules

    /// Rule 9.
    fn proves(&self, state: &State, question: u8, era: u8, s: u8, age: Ticks) -> bool {
        let limit = self.age_max(state);
        let young = limit == 0 || age < limit || self.weakened(W::NoAgeLimit);
        young && self.unwritten_since(&state.ledger, s, self.keys(self.documents(question), era))
    }

    /// Rule 10, for an answer that is stored, and a poll that was classified in this era.
    pub fn replays(&self, state: &State, question: usize, era: u8) -> bool {
        let Some(stored) = &state.stored[question] else { return false };
        let suspended = state.ledger.suspended > 0 && !self.weakened(W::ReplayIgnoresSuspended);
        let present = era == state.era && stored.era == state.era;
        let present = present || self.weakened(W::ReloadKeepsStore) || self.weakened(W::ReloadKeepsPolls);
        present
            && !suspended
            && (self.weakened(W::ReplayIgnoresWrites) || self.proves(state, question as u8, stored.era, stored.s, stored.age))
    }

    /// Rule 10, for a poll that runs.
    fn joins(&self, state: &State, poll: &Poll) -> bool {
        let keys = self.keys(self.documents(poll.question), poll.era);
        let suspended = state.ledger.suspended > 0 && !self.weakened(W::JoinIgnoresSuspended);
        let quiet_now = self.weakened(W::JoinQuietNow) && self.solid(&state.ledger, keys);
        let solid = poll.solid || quiet_now || self.weakened(W::JoinNotSolid);
        let proven = self.proves(state, poll.question, poll.era, poll.s, poll.age) || self.weakened(W::JoinIgnoresWrites);
        self.is_present(state, poll.era) && !suspended && solid && proven
    }

    /// Rules 16 and 17: what an older process or profile asked is neither kept nor joined.
    fn is_present(&self, state: &State, era: u8) -> bool {
        era == state.era || self.weakened(W::ReloadKeepsPolls)
    }

    /// Rule 7. `expected`: the poll is a refresh or an audit of this answer.
    pub fn ask(&self, state: &mut State, question: usize, expected: Option<(Effects, u8)>) {
        let era = state.era;
        self.ask_for(state, question as u8, era, expected, Effects::NONE);
    }

    fn ask_for(&self, state: &mut State, question: u8, era: u8, expected: Option<(Effects, u8)>, must: Effects) {
        let ledger = &state.ledger;
        let poll = Poll {
            question,
            era,
            s: ledger.seq,
            age: 0,
            solid: self.solid(ledger, self.keys(self.documents(question), era)),
            attended: expected.is_none(),
            read: 0,
            shows: Effects::NONE,
            must,
            must_by_age: Effects::NONE,
            expected,
        };
        let free = state.polls.iter_mut().find(|slot| slot.is_none()).expect("a poll is sent only where there is room");
        *free = Some(poll);
    }

    /// The app reads a document for a poll.
    pub fn show(state: &mut State, index: usize, document: u8, shows: Effects) {
        let poll = state.polls[index].as_mut().expect("a poll that runs");
        poll.read |= 1 << document;
        poll.shows = poll.shows.and(shows);
    }

    /// The answer is whole: it goes to those who wait, is compared (18) and kept (8).
    pub fn deliver(&self, state: &mut State, index: usize) {
        let poll = state.polls[index].take().expect("a poll that runs");
        let shared = if poll.shows.has(poll.must) { 0 } else { Promise::Shared.bit() };
        let aged = if poll.shows.has(poll.must_by_age) { 0 } else { Promise::Age.bit() };
        self.judge(state, shared | aged);
        if poll.attended && self.watched & Promise::Backwards.bit() != 0 {
            state.seen = state.seen.and(poll.shows);
        }
        if self.weakened(W::NextGetsTheRunning) {
            self.give_to_waiting(state, &poll);
        }
        self.compare(state, &poll);
        if poll.solid && self.is_present(state, poll.era) {
            let s = if self.weakened(W::SAtArrival) { state.ledger.seq } else { poll.s };
            let age = if self.weakened(W::AgeFromStoring) { 0 } else { poll.age };
            state.stored[usize::from(poll.question)] = Some(Stored { era: poll.era, s, age, shows: poll.shows });
        }
    }

    fn give_to_waiting(&self, state: &mut State, poll: &Poll) {
        for slot in 0..state.waiting.len() {
            if let Some(waiting) = state.waiting[slot].filter(|waiting| waiting.question == poll.question) {
                state.waiting[slot] = None;
                self.judge(state, if poll.shows.has(waiting.must) { 0 } else { Promise::Shared.bit() });
            }
        }
    }

    /// Rule 18. An audit of an older process or profile says nothing: it looks under names that nobody marks any more.
    fn compare(&self, state: &mut State, poll: &Poll) {
        let Some((expected, s)) = poll.expected else { return };
        let keys = self.keys(self.documents(poll.question), poll.era);
        let unwritten = state.ledger.suspended == 0 && self.unwritten_since(&state.ledger, s, keys);
        let present = poll.era == state.era || self.weakened(W::ReloadKeepsAudits);
        if poll.shows != expected && present && (unwritten || self.weakened(W::AuditCheckedAtSend)) {
            self.judge(state, Promise::Audit.bit());
            self.notice(&mut state.ledger, keys);
        }
    }

    pub fn replay(&self, state: &mut State, question: usize) {
        let stored = state.stored[question].expect("replayed is what is stored");
        self.replayed(state, question, stored.shows);
    }

    pub fn join(&self, state: &mut State, index: usize) {
        let (owed, aged) = (self.owed(state), self.aged(state));
        let promised = state.era >= self.scenario.promised_from;
        let poll = state.polls[index].as_mut().expect("a poll that runs");
        poll.attended = true;
        let documents = self.scenario.questions[usize::from(poll.question)];
        if promised && self.watched & Promise::Shared.bit() != 0 {
            poll.must = poll.must.and(owed.on(documents));
        }
        if promised && self.watched & Promise::Age.bit() != 0 {
            poll.must_by_age = poll.must_by_age.and(aged.on(documents));
        }
    }

    /// Rule 11. Those who wait get what they would have got by asking for themselves: all that every replica shows.
    pub fn wait(&self, state: &mut State, question: usize) {
        let (question, era) = (question as u8, state.era);
        let must = if self.watched & Promise::Shared.bit() == 0 {
            Effects::NONE
        } else {
            self.committed(state).without(self.lagging(state)).on(self.documents(question))
        };
        let same = |slot: &&mut Option<Waiting>| slot.is_some_and(|waiting| waiting.question == question && waiting.era == era);
        if let Some(Some(waiting)) = state.waiting.iter_mut().find(same) {
            waiting.must = waiting.must.and(must);
        } else {
            let free = state.waiting.iter_mut().find(|slot| slot.is_none()).expect("they wait only where there is room");
            *free = Some(Waiting { question, era, must });
        }
    }

    pub fn replay_waiting(&self, state: &mut State, index: usize) {
        let waiting = state.waiting[index].take().expect("somebody waits");
        self.replay(state, waiting.question.into());
    }

    pub fn ask_waiting(&self, state: &mut State, index: usize) {
        let Waiting { question, era, must } = state.waiting[index].take().expect("somebody waits");
        self.ask_for(state, question, era, None, must);
    }

    pub fn leave_poll(state: &mut State, index: usize) {
        let poll = state.polls[index].as_mut().expect("a poll that runs");
        *poll = Poll { attended: false, must: Effects::NONE, must_by_age: Effects::NONE, ..*poll };
    }

    /// Rule 19: past `refresh_after`, or one in a thousand; here, at any moment.
    pub fn audit(&self, state: &mut State, question: usize) {
        let stored = state.stored[question].expect("audited is what is stored");
        self.ask(state, question, Some((stored.shows, stored.s)));
    }

    /// What is seen by one who looks at the documents of a question.
    pub fn looked(&self, state: &State, question: usize) -> Effects {
        state.seen.and(self.committed(state).on(self.scenario.questions[question]))
    }
}
