//! The rules, a scenario and at most one weakened rule, as a model that the checker explores: what may happen next, and what it
//! does. The steps themselves stand in `writes` (tidegate and the app, for a write), `polls` and `lives` (restarts and reloads).

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use stateright::{Model, Property};

use crate::{
    ledger,
    mutations::Weakened,
    promises::Promise,
    scenarios::Scenario,
    state::{Effects, FOREVER, State, Ticks},
};

/// Where the rules are tried.
#[derive(Debug)]
pub struct World {
    pub scenario: Scenario,
    pub weakened: Option<Weakened>,
    /// The promises that this run asks about, by their bits.
    pub watched: u8,
    /// Which steps were ever taken, by `Step::bit`: a promise kept because nothing happens shows nothing.
    pub taken: AtomicU64,
}

/// One step. `u8`s are writes, polls, questions or documents by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// A write is classified, and waits.
    Queue(u8, u8),
    /// Rules 2 and 13, then the first byte; the write and its kind. `BeginOld`: through the process that is being replaced.
    Begin(u8, u8),
    BeginOld(u8, u8),
    /// With `Weakened::BeginAfterFirstByte`: what `Begin` left out.
    Count(u8),
    /// The app commits; `Late`: after tidegate gave the call up.
    Commit(u8),
    Late(u8),
    /// The head of the answer comes.
    Head(u8),
    /// A whole answer comes, or one with an error status.
    Answer(u8),
    Error(u8),
    /// Rules 3, 4 and 12, after the answer came.
    End(u8),
    /// The answer goes on to the client.
    Acknowledge(u8),
    /// The call is lost, or the tunnel closed: rule 4.
    Lose(u8),
    Close(u8),
    /// The connection failed before the first byte (rule 3), or after it and the call is made again (rule 5).
    Unsent(u8),
    Retry(u8, u8),
    /// A poll is sent (rule 7); it is read for (document, and what it shows of it), and answered.
    Ask(u8),
    Show(u8, u8, Effects),
    Deliver(u8),
    /// Rule 10. `ReplayOld`: by the process that is being replaced.
    Replay(u8),
    Join(u8),
    ReplayOld,
    /// Rule 11: wait; then be answered all the same, or be asked.
    Wait(u8),
    ReplayWaiting(u8),
    AskWaiting(u8),
    /// All clients of a poll, or of those that wait for the next, leave.
    Leave(u8),
    LeaveWaiting(u8),
    /// Rules 18 and 19: a question whose answer is being replayed is put to the app too.
    Audit(u8),
    /// A client sees the documents of a question by a route that is never answered here.
    Look(u8),
    /// Rule 14.
    Evict(u8),
    Tick,
    Jump,
    /// The app goes down or comes back.
    Turn,
    Kill,
    HandOver,
    OldEnds,
    Reload,
}

impl Step {
    /// One bit for each name of a step.
    pub fn bit(self) -> u64 {
        1 << self.order()
    }

    #[rustfmt::skip]
    fn order(self) -> u8 {
        match self {
            Self::Queue(..) => 0, Self::Begin(..) => 1, Self::BeginOld(..) => 2, Self::Count(_) => 3, Self::Commit(_) => 4,
            Self::Late(_) => 5, Self::Head(_) => 6, Self::Answer(_) => 7, Self::Error(_) => 8, Self::End(_) => 9,
            Self::Acknowledge(_) => 10, Self::Lose(_) => 11, Self::Close(_) => 12, Self::Unsent(_) => 13, Self::Retry(..) => 14,
            Self::Ask(_) => 15, Self::Show(..) => 16, Self::Deliver(_) => 17, Self::Replay(_) => 18, Self::Join(_) => 19,
            Self::ReplayOld => 20, Self::Wait(_) => 21, Self::ReplayWaiting(_) => 22, Self::AskWaiting(_) => 23,
            Self::Leave(_) => 24, Self::LeaveWaiting(_) => 25, Self::Audit(_) => 26, Self::Look(_) => 27, Self::Evict(_) => 28,
            Self::Tick => 29, Self::Jump => 30, Self::Turn => 31, Self::Kill => 32, Self::HandOver => 33, Self::OldEnds => 34,
            Self::Reload => 35,
        }
    }
}

/// In the notation of the text: b0 = write 0 begins, q = a poll is sent, v1 = the app shows one write, d = delivered, t = tick ...
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(write, _) => write!(f, "queue{write}"),
            Self::Begin(write, _) => write!(f, "b{write}"),
            Self::BeginOld(write, _) => write!(f, "b{write}-old"),
            Self::Count(write) => write!(f, "count{write}"),
            Self::Commit(write) => write!(f, "c{write}"),
            Self::Late(write) => write!(f, "late{write}"),
            Self::Head(write) => write!(f, "head{write}"),
            Self::Answer(write) => write!(f, "r{write}"),
            Self::Error(write) => write!(f, "5xx{write}"),
            Self::End(write) => write!(f, "e{write}"),
            Self::Acknowledge(write) => write!(f, "ack{write}"),
            Self::Lose(write) => write!(f, "lose{write}"),
            Self::Close(write) => write!(f, "close{write}"),
            Self::Unsent(write) => write!(f, "unsent{write}"),
            Self::Retry(write, _) => write!(f, "retry{write}"),
            Self::Ask(_) => write!(f, "q"),
            Self::Show(_, _, effects) => write!(f, "v{}", effects.0.count_ones()),
            Self::Deliver(_) => write!(f, "d"),
            Self::Replay(_) => write!(f, "REPLAY"),
            Self::Join(_) => write!(f, "join"),
            Self::ReplayOld => write!(f, "REPLAY-old"),
            Self::Wait(_) => write!(f, "wait"),
            Self::ReplayWaiting(_) => write!(f, "REPLAY-waiting"),
            Self::AskWaiting(_) => write!(f, "next"),
            Self::Leave(_) | Self::LeaveWaiting(_) => write!(f, "leave"),
            Self::Audit(_) => write!(f, "audit"),
            Self::Look(_) => write!(f, "look"),
            Self::Evict(_) => write!(f, "x"),
            Self::Tick => write!(f, "t"),
            Self::Jump => write!(f, "jump"),
            Self::Turn => write!(f, "turn"),
            Self::Kill => write!(f, "kill"),
            Self::HandOver => write!(f, "handover"),
            Self::OldEnds => write!(f, "old-ends"),
            Self::Reload => write!(f, "reload"),
        }
    }
}

impl World {
    pub fn new(scenario: Scenario, weakened: Option<Weakened>, watched: u8) -> Self {
        Self { scenario, weakened, watched, taken: AtomicU64::new(0) }
    }

    pub fn weakened(&self, rule: Weakened) -> bool {
        self.weakened == Some(rule)
    }

    /// Rule 9: how old an answer may become.
    pub fn age_max(&self, state: &State) -> Ticks {
        if state.down { self.scenario.age_max_down } else { self.scenario.age_max }
    }

    /// Time passes for everybody.
    fn tick(&self, state: &mut State) {
        // Ages are counted up to where they make a difference.
        let counted = self.scenario.age_max.max(self.scenario.age_max_down);
        let settled = if counted == 0 { 0 } else { counted + self.scenario.settle };
        let older = |age: &mut Ticks| *age = counted.min(*age + 1);
        let left = |timer: &mut Ticks| *timer = if *timer == FOREVER { FOREVER } else { timer.saturating_sub(1) };
        ledger::tick(&mut state.ledger, 1);
        state.stored.iter_mut().flatten().for_each(|answer| older(&mut answer.age));
        state.polls.iter_mut().flatten().for_each(|poll| older(&mut poll.age));
        for write in &mut state.writes {
            left(&mut write.late);
            left(&mut write.lag);
            if write.committed {
                write.since = settled.min(write.since + 1);
            }
        }
    }

    fn apply(&self, state: &mut State, step: Step) {
        match step {
            Step::Queue(write, kind) => Self::queue(state, write.into(), kind),
            Step::Begin(write, kind) => self.send(state, write.into(), kind),
            Step::BeginOld(write, kind) => Self::send_old(state, write.into(), kind),
            Step::Count(write) => self.count(state, write.into()),
            Step::Commit(write) | Step::Late(write) => self.commit(state, write.into()),
            Step::Head(write) => self.head(state, write.into()),
            Step::Answer(write) => Self::answer(state, write.into()),
            Step::Error(write) => self.error(state, write.into()),
            Step::End(write) => self.end(state, write.into()),
            Step::Acknowledge(write) => state.writes[usize::from(write)].acknowledged = true,
            Step::Lose(write) => self.lose(state, write.into()),
            Step::Close(write) => self.close(state, write.into()),
            Step::Unsent(write) => self.unsent(state, write.into()),
            Step::Retry(write, again) => self.retry(state, write.into(), again.into()),
            Step::Ask(question) => self.ask(state, question.into(), None),
            Step::Show(poll, document, shows) => Self::show(state, poll.into(), document, shows),
            Step::Deliver(poll) => self.deliver(state, poll.into()),
            Step::Replay(question) => self.replay(state, question.into()),
            Step::Join(poll) => self.join(state, poll.into()),
            Step::ReplayOld => self.replayed(state, 0, state.old_stored.unwrap_or_default()),
            Step::Wait(question) => self.wait(state, question.into()),
            Step::ReplayWaiting(waiting) => self.replay_waiting(state, waiting.into()),
            Step::AskWaiting(waiting) => self.ask_waiting(state, waiting.into()),
            Step::Leave(poll) => Self::leave_poll(state, poll.into()),
            Step::LeaveWaiting(waiting) => state.waiting[usize::from(waiting)] = None,
            Step::Audit(question) => self.audit(state, question.into()),
            Step::Look(question) => state.seen = self.looked(state, question.into()),
            Step::Evict(document) => self.evict(&mut state.ledger, document.into()),
            Step::Tick => self.tick(state),
            Step::Jump => ledger::tick(&mut state.ledger, FOREVER),
            Step::Turn => state.down = !state.down,
            Step::Kill => self.kill(state),
            Step::HandOver => self.hand_over(state),
            Step::OldEnds => self.old_ends(state),
            Step::Reload => self.reload(state),
        }
    }

    /// Steps of the world at large.
    fn others(&self, state: &State, steps: &mut Vec<Step>) {
        for (document, entry) in (0..).zip(&state.ledger.entries) {
            let droppable = entry.is_some_and(|cell| cell.writers == 0 || self.weakened(Weakened::EvictWriters));
            if self.scenario.evict && droppable {
                steps.push(Step::Evict(document));
            }
        }
        steps.push(Step::Tick);
        if self.weakened(Weakened::WallClock) {
            steps.push(Step::Jump);
        }
        if self.scenario.age_max_down > self.scenario.age_max {
            steps.push(Step::Turn);
        }
        self.possible_lives(state, steps);
    }
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        // What follows a broken promise says nothing.
        if state.broken == 0 {
            self.possible_writes(state, steps);
            self.possible_polls(state, steps);
            self.others(state, steps);
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        if self.taken.load(Ordering::Relaxed) & step.bit() == 0 {
            self.taken.fetch_or(step.bit(), Ordering::Relaxed);
        }
        let mut next = *state;
        self.apply(&mut next, step);
        Some(next.normal())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn kept<const PROMISE: u8>(_: &World, state: &State) -> bool {
            state.broken & PROMISE == 0
        }
        let all = [
            (Promise::Acknowledged, Property::always("P1", kept::<{ Promise::Acknowledged.bit() }>)),
            (Promise::Shown, Property::always("P2", kept::<{ Promise::Shown.bit() }>)),
            (Promise::Backwards, Property::always("P3", kept::<{ Promise::Backwards.bit() }>)),
            (Promise::Shared, Property::always("P4", kept::<{ Promise::Shared.bit() }>)),
            (Promise::Age, Property::always("AGE", kept::<{ Promise::Age.bit() }>)),
            (Promise::Audit, Property::always("AUDIT", kept::<{ Promise::Audit.bit() }>)),
        ];
        all.into_iter().filter(|(promise, _)| self.watched & promise.bit() != 0).map(|(_, property)| property).collect()
    }
}
