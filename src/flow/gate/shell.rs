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
    model::{Class, ClientKey, Intent},
};

/// How often keys whose buckets are full again are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

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

    /// It is not used after all: what was taken on the way is given back with the seat.
    pub fn unused(&mut self) {
        self.seat.used = false;
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
    #[expect(clippy::missing_panics_doc, reason = "it cannot: a waiter's sender is dropped only once the waiter has left")]
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

    /// Whether a client's rate lets it have an answer that costs no seat.
    ///
    /// # Errors
    /// The refusal.
    pub fn knock(&self, class: Class, client: ClientKey) -> Result<Shadows, Box<Refused>> {
        let now = (self.shared.clock)();
        let knocked = self.shared.state.lock().core.knock(class, client, now);
        knocked.map_err(|(refusal, shadows)| Box::new(Refused { refusal, shadows, waited: Duration::ZERO }))
    }

    /// A seat that nobody wants, at once or not at all.
    #[must_use]
    pub fn spare(&self, intent: Intent) -> Option<Permit> {
        let class = intent.class;
        let ticket = self.shared.step(|state, now| state.core.spare(intent, now, &mut state.notices).map(|ticket| (ticket, now)));
        let (ticket, started) = ticket?;
        let seat = Seat { shared: Arc::clone(&self.shared), ticket, used: true };
        Some(Permit { class, started, waited: Duration::ZERO, predicted: None, shadows: Shadows::new(), seat })
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

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use tokio::time::{advance, sleep, timeout};

    use super::{
        super::trial::{IMPORT, LARGE, OTHER, SYNC, intent, secs, settings},
        *,
    };
    use crate::{
        clock::nanoseconds,
        config::settings::Rate,
        model::{Mode, Rule},
    };

    /// Follows tokio's clock, which a test can stop.
    fn stopped() -> Moment {
        Moment(nanoseconds(tokio::time::Instant::now().duration_since(clock::instant(Moment(0)))))
    }

    fn gate(settings: &Settings) -> Gate {
        Gate::with_clock(settings, Box::new(|_| {}), stopped)
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_that_is_dropped_lets_the_next_one_in() {
        let gate = gate(&settings(1));
        let first = gate.enter(intent(OTHER, 1)).await.unwrap();
        assert_eq!((first.class, first.waited, first.predicted, first.account()), (OTHER, Duration::ZERO, None, OTHER));
        let mut second = pin!(gate.enter(intent(OTHER, 2)));
        assert!(poll(second.as_mut()).is_pending());
        advance(secs(2.0)).await;
        drop(first);
        let second = second.await.unwrap();
        // The stopped clock began a little before ours.
        assert!(second.waited >= secs(1.9) && second.predicted.is_some());
        drop(second);
        assert_eq!(gate.view().in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_goes_away_costs_no_seat_and_no_token() {
        let mut scarce = settings(1);
        scarce.class[OTHER.index()].client_rate = Some(Rate { per_second: 0.001, burst: 1, mode: Mode::Enforce });
        let gate = gate(&scarce);
        let first = gate.enter(intent(OTHER, 1)).await.unwrap();
        {
            let mut second = pin!(gate.enter(intent(OTHER, 2)));
            assert!(poll(second.as_mut()).is_pending());
            assert_eq!(gate.view().classes[OTHER.index()].queued, 1);
        }
        assert_eq!(gate.view().classes[OTHER.index()].queued, 0);
        drop(first);
        let refused = gate.enter(intent(OTHER, 1)).await.unwrap_err();
        assert_eq!(refused.refusal.rule, Rule::ClientRate, "a token that was used is not given back");
        drop(gate.enter(intent(OTHER, 2)).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_that_nobody_came_to_take_is_given_back_with_its_token() {
        let mut scarce = settings(1);
        scarce.class[OTHER.index()].client_rate = Some(Rate { per_second: 0.001, burst: 1, mode: Mode::Enforce });
        let gate = gate(&scarce);
        let first = gate.enter(intent(OTHER, 1)).await.unwrap();
        {
            let mut second = pin!(gate.enter(intent(OTHER, 2)));
            assert!(poll(second.as_mut()).is_pending());
            drop(first);
            assert_eq!(gate.view().in_flight, 1, "it has its seat, but was not polled since");
        }
        assert_eq!(gate.view().in_flight, 0);
        drop(gate.enter(intent(OTHER, 2)).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_comes_without_anybody_asking() {
        let gate = gate(&settings(1));
        let _seat = gate.enter(intent(OTHER, 1)).await.unwrap();
        let refused = gate.enter(intent(OTHER, 2)).await.unwrap_err();
        assert_eq!(refused.refusal.rule, Rule::Deadline);
        assert!((20.0..20.01).contains(&refused.waited.as_secs_f64()), "{:?}", refused.waited);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_brings_a_deadline_forward() {
        let gate = gate(&settings(1));
        let _seat = gate.enter(intent(OTHER, 1)).await.unwrap();
        let waiter = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(intent(OTHER, 2)).await }
        });
        sleep(secs(1.0)).await;
        let mut hasty = settings(1);
        hasty.class[OTHER.index()].wait_max = secs(3.0);
        gate.reload(&hasty);
        let refused = waiter.await.unwrap().unwrap_err();
        assert!((3.0..3.01).contains(&refused.waited.as_secs_f64()), "{:?}", refused.waited);
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_for_long_is_moved_and_told() {
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let moved = Box::new(move |moved: Moved| told.send((moved.class, moved.documents)).unwrap());
        let gate = Gate::with_clock(&settings(4), moved, stopped);
        let quick = gate.enter(intent(SYNC, 1)).await.unwrap();
        let slow = gate.enter(intent(SYNC, 2)).await.unwrap();
        sleep(secs(0.9)).await;
        drop(quick);
        sleep(secs(0.2)).await;
        assert_eq!((slow.class, slow.account()), (SYNC, LARGE));
        let (class, documents) = heard.recv().await.unwrap();
        assert_eq!((class, documents.as_slice()), (SYNC, intent(SYNC, 2).documents.as_slice()));
        assert!(heard.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_silent_gives_its_seat_away() {
        let gate = gate(&settings(1));
        let mut stream = gate.enter(Intent { stream: true, ..intent(OTHER, 1) }).await.unwrap();
        let mut next = pin!(gate.enter(intent(OTHER, 2)));
        assert!(poll(next.as_mut()).is_pending());
        stream.keep_stream_only();
        let next = next.await.unwrap();
        assert_eq!((gate.view().in_flight, gate.view().streams), (1, 1));
        drop((stream, next));
        assert_eq!((gate.view().in_flight, gate.view().streams), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn shadows_are_complete_at_the_end() {
        let mut shadow = settings(1);
        shadow.gate.mode = Mode::Shadow;
        let gate = gate(&shadow);
        let _first = gate.enter(intent(OTHER, 1)).await.unwrap();
        let second = gate.enter(intent(OTHER, 2)).await.unwrap();
        sleep(secs(21.0)).await;
        assert!(second.shadows.is_empty());
        assert_eq!(second.shadows().as_slice(), [Rule::Deadline]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_gate() {
        let gate = gate(&settings(1));
        let seat = gate.enter(intent(SYNC, 1)).await.unwrap();
        let alarm = Arc::clone(&gate.shared.alarm);
        sleep(secs(0.1)).await;
        assert!(alarm.kept.load(Ordering::Acquire));
        drop(gate);
        sleep(secs(0.1)).await;
        assert!(alarm.kept.load(Ordering::Acquire), "a permit keeps it alive");
        drop(seat);
        sleep(secs(0.1)).await;
        assert!(!alarm.kept.load(Ordering::Acquire));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_forgotten_in_a_crowd_that_comes_and_goes() {
        let mut crowded = settings(3);
        for class in &mut crowded.class {
            class.queue_max = 10_000;
            class.wait_max = Duration::from_mins(5);
            class.rate = Some(Rate { per_second: 1e6, burst: 1_000_000, mode: Mode::Enforce });
        }
        let gate = Gate::new(&crowded, Box::new(|_| {}));
        let mut tasks = Vec::new();
        for number in 0..4000_u64 {
            let gate = gate.clone();
            tasks.push(tokio::spawn(async move {
                let class = [OTHER, SYNC, LARGE, IMPORT][usize::try_from(number % 4).unwrap()];
                let wish = Intent { writes: number % 3 == 0, unseen: number % 5 == 0, ..intent(class, number % 37) };
                if number % 2 == 0 {
                    // It leaves after a while, wherever it stands then.
                    let stay = async {
                        let _permit = gate.enter(wish).await;
                        tokio::task::yield_now().await;
                    };
                    let _ = timeout(Duration::from_micros(number), stay).await;
                    return;
                }
                let permit = gate.enter(wish).await;
                tokio::task::yield_now().await;
                drop(permit);
            }));
        }
        for task in tasks {
            timeout(Duration::from_mins(1), task).await.expect("somebody waits for ever").unwrap();
        }
        let view = gate.view();
        assert_eq!((view.in_flight, view.classes.iter().map(|class| class.queued).sum::<usize>()), (0, 0));
    }
}
