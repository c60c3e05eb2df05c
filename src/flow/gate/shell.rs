//! The gate as requests meet it: one short lock around the core, a channel for each request that waits, and one task that wakes at the
//! next deadline or move. The task ends with the gate.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::sleep_until,
};

use super::{
    Moved, Refused, Shadows, View,
    core::{Core, Entered, Notice, Ticket},
};
use crate::{
    clock::{self, Moment},
    config::Settings,
    model::{Class, Intent},
};

/// How often keys whose buckets are full again are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The running gate; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    moved: Box<dyn Fn(Moved) + Send + Sync>,
    clock: fn() -> Moment,
    alarm: Arc<Alarm>,
}

struct State {
    core: Core,
    /// Who waits, by the index of the ticket.
    waiters: Vec<Option<oneshot::Sender<Answer>>>,
    notices: Vec<Notice>,
    /// When the task wakes.
    armed: Option<Moment>,
}

/// Wakes the task.
#[derive(Debug, Default)]
struct Alarm {
    notify: Notify,
    /// Whether there is a task.
    kept: AtomicBool,
}

type Answer = Result<Granted, Box<Refused>>;

#[derive(Debug)]
struct Granted {
    seat: Seat,
    started: Moment,
    waited: Duration,
    predicted: Option<Duration>,
    shadows: Shadows,
}

/// A place in the core that is given up when dropped.
struct Seat {
    shared: Arc<Shared>,
    ticket: Ticket,
    /// Whether its request came to use it; else what was taken on the way is given back as well.
    used: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.leave(self.ticket, self.used);
    }
}

/// A request that waits; leaves the queue when dropped.
struct Waiting<'a> {
    shared: &'a Arc<Shared>,
    ticket: Ticket,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.leave(self.ticket, false);
        }
    }
}

/// What a newcomer meets.
enum Door {
    Open(Granted),
    Shut(Box<Refused>),
    Wait(Ticket, oneshot::Receiver<Answer>),
}

/// A seat at the app, returned when it is dropped. Nothing reaches the app without one.
#[derive(Debug)]
pub struct Permit {
    /// The class at admission.
    pub class: Class,
    /// When it got its seat.
    pub started: Moment,
    /// How long it waited.
    pub waited: Duration,
    /// How long it was expected to wait when it arrived; none if it did not wait.
    pub predicted: Option<Duration>,
    /// Rules in shadow mode that would have refused it before it started; [`Permit::shadows`] knows the later ones too.
    pub shadows: Shadows,
    seat: Seat,
}

impl Permit {
    /// The class whose account is charged now: another one if the request outlived `long_after`.
    #[must_use]
    pub fn account(&self) -> Class {
        self.seat.shared.state.lock().core.account(self.seat.ticket).unwrap_or(self.class)
    }

    /// Rules in shadow mode that would have refused it by now. In shadow a request runs at once while its double waits in the virtual
    /// queue, so this is complete only at its end: ask before the permit is dropped.
    #[must_use]
    pub fn shadows(&self) -> Shadows {
        self.seat.shared.state.lock().core.shadows(self.seat.ticket)
    }

    /// A stream that has gone silent gives its seat back and from then on counts only against `[stream]`. Anything else keeps its seat.
    pub fn keep_stream_only(&mut self) {
        let ticket = self.seat.ticket;
        self.seat.shared.act(|core, now, notices| core.keep_stream_only(ticket, now, notices));
    }

    /// An upgrade that was answered 101 becomes a stream: false if `[stream] max` or `per_client` forbids it.
    pub fn become_stream(&mut self) -> bool {
        self.seat.shared.state.lock().core.become_stream(self.seat.ticket)
    }
}

impl Gate {
    /// A gate by these settings. `moved` is called (outside of all locks) for each request that is moved while it runs.
    #[must_use]
    pub fn new(settings: &Settings, moved: Box<dyn Fn(Moved) + Send + Sync>) -> Self {
        Self::with_clock(settings, moved, clock::now)
    }

    fn with_clock(settings: &Settings, moved: Box<dyn Fn(Moved) + Send + Sync>, clock: fn() -> Moment) -> Self {
        let core = Core::new(Arc::new(settings.clone()), fastrand::u64(..), clock());
        let state = State { core, waiters: Vec::new(), notices: Vec::new(), armed: None };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), moved, clock, alarm: Arc::default() }) }
    }

    /// Waits for a seat. Dropping the future leaves the queue and gives back everything taken on the way.
    ///
    /// # Errors
    /// The refusal of the first rule that refuses.
    pub async fn enter(&self, intent: Intent) -> Result<Permit, Box<Refused>> {
        let class = intent.class;
        match self.shared.enter(intent) {
            Door::Open(Granted { seat, started, waited, predicted, shadows }) => {
                Ok(Permit { class, started, waited, predicted, shadows, seat })
            }
            Door::Shut(refused) => Err(refused),
            Door::Wait(ticket, answer) => {
                let mut waiting = Waiting { shared: &self.shared, ticket, answered: false };
                let answer = answer.await.expect("a waiter's sender is kept until it is used or the waiter has left");
                waiting.answered = true;
                let Granted { mut seat, started, waited, predicted, shadows } = answer?;
                seat.used = true;
                Ok(Permit { class, started, waited, predicted, shadows, seat })
            }
        }
    }

    /// New settings take effect whole; nobody who waits or runs is thrown out.
    pub fn reload(&self, settings: &Settings) {
        let settings = Arc::new(settings.clone());
        self.shared.act(|core, now, notices| core.reload(settings, now, notices));
    }

    /// How many app servers are healthy, at least 1: L = seats x this.
    pub fn servers(&self, healthy: usize) {
        self.shared.act(|core, now, notices| core.servers(healthy, now, notices));
    }

    /// Its state now.
    #[must_use]
    pub fn view(&self) -> View {
        self.shared.state.lock().core.view((self.shared.clock)())
    }
}

impl Shared {
    fn enter(self: &Arc<Self>, intent: Intent) -> Door {
        self.step(|state, now| {
            let State { core, waiters, notices, .. } = state;
            match core.enter(intent, now, notices) {
                Entered::Seat(ticket, shadows) => {
                    let seat = Seat { shared: Arc::clone(self), ticket, used: true };
                    Door::Open(Granted { seat, started: now, waited: Duration::ZERO, predicted: None, shadows })
                }
                Entered::Refused(refusal, shadows) => Door::Shut(Box::new(Refused { refusal, shadows, waited: Duration::ZERO })),
                Entered::Wait(ticket) => {
                    let (sender, answer) = oneshot::channel();
                    let index = ticket.index as usize;
                    if waiters.len() <= index {
                        waiters.resize_with(index + 1, || None);
                    }
                    waiters[index] = Some(sender);
                    Door::Wait(ticket, answer)
                }
            }
        })
    }

    fn leave(self: &Arc<Self>, ticket: Ticket, used: bool) {
        self.step(|state, now| {
            if !used && state.core.knows(ticket) {
                // It may have a seat already and its answer be under way: then there is no sender any more.
                if let Some(waiter) = state.waiters.get_mut(ticket.index as usize) {
                    *waiter = None;
                }
            }
            state.core.leave(ticket, used, now, &mut state.notices);
        });
    }

    fn act(self: &Arc<Self>, change: impl FnOnce(&mut Core, Moment, &mut Vec<Notice>)) {
        self.step(|state, now| change(&mut state.core, now, &mut state.notices));
    }

    /// Changes the state and, after the lock is free again, tells everybody whom it concerns.
    fn step<R>(self: &Arc<Self>, change: impl FnOnce(&mut State, Moment) -> R) -> R {
        let mut state = self.state.lock();
        let now = (self.clock)();
        let result = change(&mut state, now);
        let letters = if state.notices.is_empty() { None } else { Some(self.address(&mut state, now)) };
        let next = state.core.next();
        let sooner = next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed));
        if sooner {
            state.armed = next;
        }
        drop(state);
        if sooner {
            self.wake();
        }
        for letter in letters.into_iter().flatten() {
            match letter {
                // Whoever has gone meanwhile gives everything back by dropping it.
                Letter::Answer(sender, answer) => drop(sender.send(answer)),
                Letter::Moved(moved) => (self.moved)(moved),
            }
        }
        result
    }

    fn address(self: &Arc<Self>, state: &mut State, now: Moment) -> Vec<Letter> {
        let State { notices, waiters, .. } = state;
        let mut sender_of = |ticket: Ticket| waiters.get_mut(ticket.index as usize).and_then(Option::take);
        let letter = |notice| match notice {
            Notice::Seat { ticket, waited, predicted, shadows } => {
                let sender = sender_of(ticket)?;
                let seat = Seat { shared: Arc::clone(self), ticket, used: false };
                Some(Letter::Answer(sender, Ok(Granted { seat, started: now, waited, predicted, shadows })))
            }
            Notice::Refused { ticket, refusal, shadows, waited } => {
                Some(Letter::Answer(sender_of(ticket)?, Err(Box::new(Refused { refusal, shadows, waited }))))
            }
            Notice::Moved(moved) => Some(Letter::Moved(moved)),
        };
        notices.drain(..).filter_map(letter).collect()
    }

    /// Tells the task that it has to wake sooner, and starts it the first time.
    fn wake(self: &Arc<Self>) {
        if !self.alarm.kept.load(Ordering::Acquire)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !self.alarm.kept.swap(true, Ordering::AcqRel)
        {
            let keeper = Keeper { alarm: Arc::clone(&self.alarm) };
            runtime.spawn(keep_time(Arc::downgrade(self), keeper));
        }
        self.alarm.notify.notify_one();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.alarm.notify.notify_one();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Seat").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// What is told after the lock is free.
enum Letter {
    Answer(oneshot::Sender<Answer>, Answer),
    Moved(Moved),
}

/// The task's life: when its runtime ends before the gate does, another one may be started.
struct Keeper {
    alarm: Arc<Alarm>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.alarm.kept.store(false, Ordering::Release);
    }
}

/// Lets the gate's time pass at deadlines and moves, until the gate is gone.
async fn keep_time(gate: Weak<Shared>, keeper: Keeper) {
    let mut swept = (gate.upgrade()).map(|shared| (shared.clock)()).unwrap_or_default();
    loop {
        let Some(armed) = gate.upgrade().map(|shared| shared.state.lock().armed) else { return };
        match armed {
            Some(moment) => {
                tokio::select! {
                    () = sleep_until(clock::instant(moment)) => {}
                    () = keeper.alarm.notify.notified() => {}
                }
            }
            None => keeper.alarm.notify.notified().await,
        }
        let Some(shared) = gate.upgrade() else { return };
        let now = (shared.clock)();
        shared.step(|state, now| {
            if state.armed.is_some_and(|armed| armed <= now) {
                state.armed = None;
                state.core.advance(now, &mut state.notices);
            }
        });
        if now.since(swept) >= SWEEP_INTERVAL {
            swept = now;
            let buckets = shared.state.lock().core.buckets();
            for buckets in buckets {
                buckets.sweep(now);
            }
        }
    }
}
