//! The order of the rules, without a clock: closed, client rate, class rate, streams, queue, seat. The first refusal wins, and gives back
//! what was taken on the way.
//!
//! Two schedules run side by side. The *real* one acts: it knows the limits whose mode is `enforce`, and has seats without a limit while
//! `[gate] mode` is not. The *virtual* one exists while anything of queue, seats or client caps is in `shadow`: it knows what is in shadow
//! as well, and its seats are freed by the real ends. Whoever it refuses goes on, and the rule is noted.

mod aside;

use std::{sync::Arc, time::Duration};

use foldhash::fast::RandomState;

use super::{
    ClassView, Moved, Shadows, View,
    buckets::Buckets,
    queue::{Ask, Manner},
    schedule::{Arrival, Cause, Denial, Event, Limits, Schedule},
    slab::{Key, Slab},
};
use crate::{
    clock::Moment,
    config::{
        Settings,
        settings::{ClassSettings, Rate, Shares},
    },
    model::{CLASSES_MAX, Class, ClientKey, Intent, Mode, Refusal, Rule},
};

/// A refusal's `Retry-After` grows by a random factor between 1 and this, so that those who were refused together do not return together.
const JITTER_MAX: f64 = 1.5;

/// The least `Retry-After`, and the most of the queue and of the other rules, as clients see them.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_QUEUE_MAX: Duration = Duration::from_secs(15);
const RETRY_OTHER_MAX: Duration = Duration::from_mins(2);

/// What is told where nothing can be computed: a closed class opens when an operator says so, a stream ends when its client likes.
const RETRY_CLOSED: Duration = Duration::from_secs(30);
const RETRY_STREAM: Duration = Duration::from_secs(10);

/// Requests of a class that the gate does not know are admitted as `other`, which is always there.
const OTHER: Class = Class(4);

/// Names a request from [`Core::enter`] to [`Core::leave`].
pub type Ticket = Key;

/// What became of a newcomer.
#[derive(Debug)]
pub enum Entered {
    /// It has a seat.
    Seat(Ticket, Shadows),
    /// It waits; a [`Notice`] will tell.
    Wait(Ticket),
    /// It was refused and is forgotten.
    Refused(Refusal, Shadows),
}

/// What became of somebody who waited or ran.
#[derive(Debug)]
pub enum Notice {
    /// Got a seat.
    Seat {
        /// Who.
        ticket: Ticket,
        /// How long it waited.
        waited: Duration,
        /// How long it was expected to wait.
        predicted: Option<Duration>,
        /// What in shadow would have refused it so far.
        shadows: Shadows,
    },
    /// Was refused and is forgotten.
    Refused {
        /// Who.
        ticket: Ticket,
        /// Why, and when to come back.
        refusal: Refusal,
        /// What in shadow would have refused it before.
        shadows: Shadows,
        /// How long it waited.
        waited: Duration,
    },
    /// Was moved.
    Moved(Moved),
}

#[derive(Debug)]
struct Request {
    class: Class,
    client: ClientKey,
    arrived: Moment,
    place: Option<Key>,
    virtual_place: Option<Key>,
    streams: bool,
    client_token: bool,
    class_token: bool,
    shadows: Shadows,
}

/// What the rules before the queue need to know of a class.
#[derive(Clone, Copy, Debug)]
struct Rules {
    closed: bool,
    rate: Option<Rate>,
    client_rate: Option<Rate>,
    client_mode: Mode,
}

/// The state of the gate.
#[derive(Debug)]
pub struct Core {
    settings: Arc<Settings>,
    servers: usize,
    rules: Vec<Rules>,
    real: Schedule,
    shadow: Option<Schedule>,
    client_rates: Arc<Buckets>,
    class_rates: Arc<Buckets>,
    requests: Slab<Request>,
    streams: usize,
    streams_of: std::collections::HashMap<u64, usize, RandomState>,
    random: fastrand::Rng,
    events: Vec<Event>,
    /// When a class refused somebody last.
    refused: [Option<Moment>; CLASSES_MAX],
}

impl Core {
    /// An empty gate by these settings. `seed` is that of the jitter.
    #[must_use]
    pub fn new(settings: Arc<Settings>, seed: u64, now: Moment) -> Self {
        let mut core = Self {
            rules: Vec::new(),
            real: Schedule::new(None, &[], now),
            shadow: None,
            client_rates: Arc::new(Buckets::new(settings.gate.clients_max)),
            class_rates: Arc::new(Buckets::new(CLASSES_MAX)),
            requests: Slab::new(),
            streams: 0,
            streams_of: std::collections::HashMap::default(),
            random: fastrand::Rng::with_seed(seed),
            events: Vec::new(),
            refused: [None; CLASSES_MAX],
            servers: 1,
            settings: Arc::clone(&settings),
        };
        core.reload(settings, now, &mut Vec::new());
        core
    }

    /// The buckets, for a sweep now and then.
    #[must_use]
    pub fn buckets(&self) -> [Arc<Buckets>; 2] {
        [Arc::clone(&self.client_rates), Arc::clone(&self.class_rates)]
    }

    /// New settings take effect whole; nobody who waits or runs is thrown out.
    pub fn reload(&mut self, settings: Arc<Settings>, now: Moment, notices: &mut Vec<Notice>) {
        self.rules = settings
            .class
            .iter()
            .map(|class| Rules {
                closed: class.closed || class.removed,
                rate: class.rate.filter(|rate| rate.mode != Mode::Off),
                client_rate: class.client_rate.filter(|rate| rate.mode != Mode::Off),
                client_mode: class.client_mode,
            })
            .collect();
        let rates: Vec<_> = self.rules.iter().map(|rules| rules.client_rate).collect();
        self.client_rates.reload(&rates, now);
        let rates: Vec<_> = self.rules.iter().map(|rules| rules.rate).collect();
        self.class_rates.reload(&rates, now);
        self.settings = settings;
        self.resize(now, notices);
    }

    /// How many app servers are healthy, at least 1.
    pub fn servers(&mut self, healthy: usize, now: Moment, notices: &mut Vec<Notice>) {
        self.servers = healthy.max(1);
        self.resize(now, notices);
    }

    fn seats(&self) -> usize {
        self.settings.app.seats as usize * self.servers
    }

    fn resize(&mut self, now: Moment, notices: &mut Vec<Notice>) {
        let (seats, mode) = (self.seats(), self.settings.gate.mode);
        let settings = Arc::clone(&self.settings);
        let classes = &settings.class;
        let acting: Vec<_> =
            classes.iter().map(|class| limits(class, seats, mode == Mode::Enforce, |mode| mode == Mode::Enforce)).collect();
        self.real.change((mode == Mode::Enforce).then_some(seats), &acting, now, &mut self.events);
        self.tell_real(now, notices);
        let supposed: Vec<_> = classes.iter().map(|class| limits(class, seats, mode != Mode::Off, |mode| mode != Mode::Off)).collect();
        let wanted = mode == Mode::Shadow || classes.iter().any(|class| class.client_mode == Mode::Shadow);
        let seats = (mode != Mode::Off).then_some(seats);
        match &mut self.shadow {
            Some(shadow) if wanted => {
                shadow.change(seats, &supposed, now, &mut self.events);
                self.tell_shadow();
            }
            shadow => {
                *shadow = wanted.then(|| Schedule::new(seats, &supposed, now));
                for index in self.requests.iter().map(|(index, _)| index).collect::<Vec<_>>() {
                    self.requests[index].virtual_place = None;
                }
            }
        }
    }

    /// A request comes.
    pub fn enter(&mut self, intent: Intent, now: Moment, notices: &mut Vec<Notice>) -> Entered {
        let known = |class: Class| class.index() < self.rules.len();
        let class = if known(intent.class) { intent.class } else { OTHER };
        let long = if known(intent.long) { intent.long } else { class };
        let mut request = Request {
            class,
            client: intent.client,
            arrived: now,
            place: None,
            virtual_place: None,
            streams: false,
            client_token: false,
            class_token: false,
            shadows: Shadows::new(),
        };
        if let Err(refusal) = self.before_queue(&mut request, intent.stream, now) {
            self.refused[class.index()] = Some(now);
            self.give_back(&request, now);
            return Entered::Refused(refusal, request.shadows);
        }
        let ticket = self.requests.insert(request);
        let ask = Ask {
            owner: ticket.index,
            class: class.index(),
            long: long.index(),
            client: intent.client.0,
            documents: intent.documents,
            writes: intent.writes,
            unseen: intent.unseen,
            stream: intent.stream,
        };
        let supposed = self.shadow.is_some().then(|| ask.clone());
        let arrival = self.real.arrive(ask, now, &mut self.events);
        self.tell_real(now, notices);
        let (place, started) = match arrival {
            Arrival::Started(key) => (key, true),
            Arrival::Waits(key) => (key, false),
            Arrival::Refused(denial) => {
                self.refused[class.index()] = Some(now);
                return Entered::Refused(self.refusal(denial), self.turn_away(ticket.index, now));
            }
        };
        self.requests[ticket.index].place = Some(place);
        if let (Some(shadow), Some(ask)) = (&mut self.shadow, supposed) {
            match shadow.arrive(ask, now, &mut self.events) {
                Arrival::Started(key) | Arrival::Waits(key) => self.requests[ticket.index].virtual_place = Some(key),
                Arrival::Refused(denial) => self.note(ticket.index, denial),
            }
            self.tell_shadow();
        }
        if started { Entered::Seat(ticket, self.requests[ticket.index].shadows.clone()) } else { Entered::Wait(ticket) }
    }

    fn before_queue(&mut self, request: &mut Request, stream: bool, now: Moment) -> Result<(), Refusal> {
        let rules = self.rules[request.class.index()];
        if rules.closed {
            return Err(self.other(Rule::Closed, false, RETRY_CLOSED));
        }
        if let Some(rate) = rules.client_rate {
            match self.client_rates.take(request.class.0, request.client.0, now) {
                Ok(()) => request.client_token = true,
                Err(wait) if rate.mode == Mode::Enforce => return Err(self.other(Rule::ClientRate, true, wait)),
                Err(_) => request.shadows.push(Rule::ClientRate),
            }
        }
        if let Some(rate) = rules.rate {
            match self.class_rates.take(request.class.0, 0, now) {
                Ok(()) => request.class_token = true,
                Err(wait) if rate.mode == Mode::Enforce => return Err(self.other(Rule::ClassRate, false, wait)),
                Err(_) => request.shadows.push(Rule::ClassRate),
            }
        }
        if stream {
            if let Err(own_doing) = self.open_stream(request.client) {
                return Err(self.other(Rule::Stream, own_doing, RETRY_STREAM));
            }
            request.streams = true;
        }
        Ok(())
    }

    /// Counts a stream; else says whether that is its client's doing.
    fn open_stream(&mut self, client: ClientKey) -> Result<(), bool> {
        if self.streams >= self.settings.stream.max {
            return Err(false);
        }
        let open = self.streams_of.get(&client.0).copied().unwrap_or(0);
        if open >= self.settings.stream.per_client {
            return Err(true);
        }
        self.streams_of.insert(client.0, open + 1);
        self.streams += 1;
        Ok(())
    }

    fn close_stream(&mut self, client: ClientKey) {
        self.streams -= 1;
        if let Some(open) = self.streams_of.get_mut(&client.0) {
            *open -= 1;
            if *open == 0 {
                self.streams_of.remove(&client.0);
            }
        }
    }

    /// Forgets a request that was refused, and says what would have refused it before.
    fn turn_away(&mut self, index: u32, now: Moment) -> Shadows {
        let Some(request) = self.requests.remove(index) else { return Shadows::new() };
        self.give_back(&request, now);
        request.shadows
    }

    /// Gives back what a request that does not get its seat has taken on the way.
    fn give_back(&mut self, request: &Request, now: Moment) {
        if request.client_token {
            self.client_rates.give_back(request.class.0, request.client.0, now);
        }
        if request.class_token {
            self.class_rates.give_back(request.class.0, 0, now);
        }
        if request.streams {
            self.close_stream(request.client);
        }
    }

    /// A request ends. `used`: it came to use its seat; else it also gets back what it took on the way. Nothing happens the second time.
    pub fn leave(&mut self, ticket: Ticket, used: bool, now: Moment, notices: &mut Vec<Notice>) {
        if self.requests.get(ticket).is_none() {
            return;
        }
        self.free_seat(ticket, now, notices);
        let Some(request) = self.requests.remove(ticket.index) else { return };
        if !used {
            self.give_back(&request, now);
        } else if request.streams {
            self.close_stream(request.client);
        }
    }

    fn free_seat(&mut self, ticket: Ticket, now: Moment, notices: &mut Vec<Notice>) {
        let Some(request) = self.requests.get_mut(ticket) else { return };
        let (place, virtual_place) = (request.place.take(), request.virtual_place.take());
        if let Some(key) = place {
            self.real.leave(key, now, &mut self.events);
            self.tell_real(now, notices);
        }
        if let (Some(key), Some(shadow)) = (virtual_place, &mut self.shadow) {
            shadow.leave(key, now, &mut self.events);
            self.tell_shadow();
        }
    }

    /// A stream gives its seat back and counts only against `[stream]` from now on. Anything else keeps its seat.
    pub fn keep_stream_only(&mut self, ticket: Ticket, now: Moment, notices: &mut Vec<Notice>) {
        if self.requests.get(ticket).is_some_and(|request| request.streams) {
            self.free_seat(ticket, now, notices);
        }
    }

    /// Makes a stream of a request that was none; false if there are too many.
    pub fn become_stream(&mut self, ticket: Ticket) -> bool {
        let Some(request) = self.requests.get(ticket) else { return false };
        if request.streams {
            return true;
        }
        let opened = self.open_stream(request.client).is_ok();
        self.requests[ticket.index].streams = opened;
        opened
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Moment, notices: &mut Vec<Notice>) {
        self.real.advance(now, &mut self.events);
        self.tell_real(now, notices);
        if let Some(shadow) = &mut self.shadow {
            shadow.advance(now, &mut self.events);
            self.tell_shadow();
        }
    }

    /// When [`Core::advance`] has something to do next.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        self.real.next().into_iter().chain(self.shadow.as_ref().and_then(Schedule::next)).min()
    }

    fn tell_real(&mut self, now: Moment, notices: &mut Vec<Notice>) {
        if self.events.is_empty() {
            return;
        }
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Started { owner, waited, predicted } => {
                    let shadows = self.requests[owner].shadows.clone();
                    notices.push(Notice::Seat { ticket: self.requests.key(owner), waited, predicted, shadows });
                }
                Event::Refused { owner, denial } => self.refuse_waiter(owner, denial, now, notices),
                Event::Moved { owner } => {
                    let request = &self.requests[owner];
                    let documents = request.place.and_then(|key| self.real.documents(key)).cloned().unwrap_or_default();
                    notices.push(Notice::Moved(Moved { documents, class: request.class }));
                }
            }
        }
        self.events = events;
    }

    fn refuse_waiter(&mut self, owner: u32, denial: Denial, now: Moment, notices: &mut Vec<Notice>) {
        let ticket = self.requests.key(owner);
        let Some(request) = self.requests.remove(owner) else { return };
        if let (Some(key), Some(shadow)) = (request.virtual_place, &mut self.shadow) {
            let mut events = Vec::new();
            shadow.leave(key, now, &mut events);
            for event in events {
                self.note_event(event);
            }
        }
        self.give_back(&request, now);
        self.refused[request.class.index()] = Some(now);
        let refusal = self.refusal(denial);
        notices.push(Notice::Refused { ticket, refusal, shadows: request.shadows, waited: now.since(request.arrived) });
    }

    fn tell_shadow(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.note_event(event);
        }
        self.events = events;
    }

    fn note_event(&mut self, event: Event) {
        if let Event::Refused { owner, denial } = event {
            self.requests[owner].virtual_place = None;
            self.note(owner, denial);
        }
    }

    /// Notes what would have refused a request, if it was a rule in shadow.
    fn note(&mut self, owner: u32, denial: Denial) {
        let (rule, _) = verdict(denial);
        let request = &mut self.requests[owner];
        let mode = if rule == Rule::ClientCap { self.rules[request.class.index()].client_mode } else { self.settings.gate.mode };
        if mode == Mode::Shadow {
            request.shadows.push(rule);
        }
    }

    /// Whether a request still waits or runs.
    #[must_use]
    pub fn knows(&self, ticket: Ticket) -> bool {
        self.requests.get(ticket).is_some()
    }

    /// The rules in shadow mode that would have refused a request so far.
    #[must_use]
    pub fn shadows(&self, ticket: Ticket) -> Shadows {
        self.requests.get(ticket).map(|request| request.shadows.clone()).unwrap_or_default()
    }

    /// The class whose account is charged.
    #[must_use]
    pub fn account(&self, ticket: Ticket) -> Option<Class> {
        let account = self.real.account(self.requests.get(ticket)?.place?)?;
        u8::try_from(account).ok().map(Class)
    }

    fn refusal(&mut self, denial: Denial) -> Refusal {
        let (rule, own_doing) = verdict(denial);
        Refusal { rule, own_doing, retry_after: self.jitter(denial.wait, RETRY_QUEUE_MAX) }
    }

    fn other(&mut self, rule: Rule, own_doing: bool, wait: Duration) -> Refusal {
        Refusal { rule, own_doing, retry_after: self.jitter(wait, RETRY_OTHER_MAX) }
    }

    /// The bounds hold for what clients see: the wait is brought into them first, leaving room for the jitter, so that not all long waits
    /// end up as the same number.
    fn jitter(&mut self, wait: Duration, most: Duration) -> Duration {
        let wait = wait.clamp(RETRY_MIN, most.div_f64(JITTER_MAX));
        wait.mul_f64(1.0 + (JITTER_MAX - 1.0) * self.random.f64()).min(most)
    }

    /// Its state at a moment.
    #[must_use]
    pub fn view(&self, now: Moment) -> View {
        let seats = self.seats();
        let classes = self.settings.class.iter().enumerate().map(|(index, class)| {
            let shares = shares(class, seats);
            let sight = self.real.sight(index, now);
            let supposed =
                if self.settings.gate.mode == Mode::Shadow { self.shadow.as_ref().map(|shadow| shadow.sight(index, now)) } else { None };
            ClassView {
                in_flight: sight.in_flight,
                reserve: shares.reserve,
                ceiling: shares.ceiling,
                idle_ceiling: shares.idle_ceiling,
                queued: sight.queued,
                oldest_waiting: sight.oldest_waiting,
                oldest_running: sight.oldest_running,
                mean_hold: sight.mean_hold,
                predicted_wait: supposed.unwrap_or(sight).predicted_wait,
                shadow_in_flight: supposed.unwrap_or_default().in_flight,
                shadow_queued: supposed.unwrap_or_default().queued,
            }
        });
        View { seats, in_flight: self.real.in_flight(), streams: self.streams, classes: classes.collect() }
    }
}

/// Which rule a denial counts under, and whether it is the client's own doing.
fn verdict(denial: Denial) -> (Rule, bool) {
    match denial.cause {
        _ if denial.capped => (Rule::ClientCap, true),
        Cause::Displaced => (Rule::QueueFull, true),
        Cause::Full => (Rule::QueueFull, false),
        Cause::Predicted => (Rule::PredictedWait, false),
        Cause::Deadline => (Rule::Deadline, false),
    }
}

/// The shares of a class; one that was removed drains and keeps nothing.
fn shares(class: &ClassSettings, seats: usize) -> Shares {
    let shares = class.shares(seats);
    if class.removed { Shares { reserve: 0, ..shares } } else { shares }
}

fn limits(class: &ClassSettings, seats: usize, seated: bool, counts: impl Fn(Mode) -> bool) -> Limits {
    let caps = counts(class.client_mode);
    let limits = Limits {
        shares: shares(class, seats),
        weight: class.weight.max(1),
        slow: class.slow,
        manner: Manner {
            writes_first: class.slow,
            client_max: if caps { class.client_in_flight.unwrap_or(u32::MAX) } else { u32::MAX },
            one_per_document: class.slow && caps,
        },
        wait_max: class.wait_max,
        queue_max: class.queue_max,
        long_after: class.long_after,
    };
    if seated { limits } else { limits.unlimited() }
}

#[cfg(test)]
mod tests {
    use super::{
        super::trial::{IMPORT, LARGE, NOOP, OTHER, SYNC, at, intent, secs, settings},
        *,
    };

    /// A gate with a list of what it told.
    struct Bench {
        core: Core,
        notices: Vec<Notice>,
    }

    impl Bench {
        fn new(settings: Settings) -> Self {
            Self { core: Core::new(Arc::new(settings), 7, at(0.0)), notices: Vec::new() }
        }

        fn enter(&mut self, intent: Intent, now: f64) -> Entered {
            self.core.enter(intent, at(now), &mut self.notices)
        }

        fn seat(&mut self, intent: Intent, now: f64) -> Ticket {
            match self.enter(intent, now) {
                Entered::Seat(ticket, _) => ticket,
                other => panic!("no seat: {other:?}"),
            }
        }

        fn wait(&mut self, intent: Intent, now: f64) -> Ticket {
            match self.enter(intent, now) {
                Entered::Wait(ticket) => ticket,
                other => panic!("did not wait: {other:?}"),
            }
        }

        fn refused(&mut self, intent: Intent, now: f64) -> Refusal {
            match self.enter(intent, now) {
                Entered::Refused(refusal, _) => refusal,
                other => panic!("not refused: {other:?}"),
            }
        }

        fn end(&mut self, ticket: Ticket, now: f64) {
            self.core.leave(ticket, true, at(now), &mut self.notices);
        }

        fn pass(&mut self, now: f64) {
            self.core.advance(at(now), &mut self.notices);
        }

        fn reload(&mut self, settings: Settings, now: f64) {
            self.core.reload(Arc::new(settings), at(now), &mut self.notices);
        }

        /// The tickets that got a seat since the last call, in that order.
        fn seated(&mut self) -> Vec<Ticket> {
            self.notices.drain(..).filter_map(|notice| if let Notice::Seat { ticket, .. } = notice { Some(ticket) } else { None }).collect()
        }

        fn refusals(&mut self) -> Vec<(Ticket, Refusal)> {
            let refused = |notice| if let Notice::Refused { ticket, refusal, .. } = notice { Some((ticket, refusal)) } else { None };
            self.notices.drain(..).filter_map(refused).collect()
        }

        fn in_flight(&self, class: Class, now: f64) -> usize {
            self.core.view(at(now)).classes[class.index()].in_flight
        }
    }

    #[test]
    fn a_class_without_rivals_takes_every_seat_and_not_one_more() {
        let mut bench = Bench::new(settings(64));
        for client in 0..64 {
            bench.seat(intent(SYNC, client), 0.0);
        }
        let first = bench.wait(intent(SYNC, 64), 0.0);
        assert_eq!(bench.core.view(at(0.0)).in_flight, 64);
        assert!(bench.seated().is_empty());
        let ticket = bench.core.requests.key(0);
        bench.end(ticket, 1.0);
        assert_eq!(bench.seated(), [first]);
    }

    #[test]
    fn imports_beyond_their_ceiling_leave_the_reserves_of_others_free() {
        let mut bench = Bench::new(settings(64));
        // 64 - 16 (sync) - 16 (large) = 32 while nobody waits, below the idle ceiling of 48.
        for client in 0..32 {
            bench.seat(intent(IMPORT, client), 0.0);
        }
        bench.wait(intent(IMPORT, 99), 0.0);
        assert_eq!(bench.in_flight(IMPORT, 0.0), 32);
    }

    #[test]
    fn the_idle_ceiling_ends_when_another_class_has_a_waiter() {
        let mut bench = Bench::new(settings(64));
        for _ in 0..4 {
            bench.seat(intent(SYNC, 1), 0.0);
        }
        let waiter = bench.wait(intent(SYNC, 1), 0.0);
        for client in 10..18 {
            bench.seat(intent(IMPORT, client), 0.0);
        }
        let import = bench.wait(intent(IMPORT, 20), 0.0);
        bench.core.leave(waiter, false, at(1.0), &mut bench.notices);
        assert_eq!(bench.seated(), [import]);
    }

    #[test]
    fn slow_classes_do_not_borrow_kept_seats_and_others_do() {
        let mut bench = Bench::new(settings(64));
        for client in 0..44 {
            bench.seat(intent(OTHER, client), 0.0);
        }
        // 20 seats are left; kept are 16 of sync and 4 of import, so that large has its reserve and no more.
        for client in 100..116 {
            bench.seat(intent(LARGE, client), 0.0);
        }
        bench.wait(intent(LARGE, 200), 0.0);
        for client in 300..304 {
            bench.seat(intent(OTHER, client), 0.0);
        }
        assert_eq!(bench.core.view(at(0.0)).in_flight, 64);
    }

    #[test]
    fn an_unknown_document_is_passed_over_while_only_kept_seats_are_left() {
        let mut bench = Bench::new(settings(64));
        for client in 0..28 {
            bench.seat(intent(SYNC, client), 0.0);
        }
        // Sync has its reserve; kept are 16 of large and 4 of import, so that 16 seats are for anybody.
        let unseen = |client| Intent { unseen: true, ..intent(SYNC, client) };
        for client in 100..116 {
            bench.seat(unseen(client), 0.0);
        }
        let unknown = bench.wait(unseen(200), 0.0);
        let known = bench.seat(intent(SYNC, 201), 0.0);
        bench.end(known, 0.1);
        assert!(bench.seated().is_empty(), "the freed seat is a kept one");
        let one = bench.core.requests.key(0);
        bench.end(one, 0.2);
        assert_eq!(bench.seated(), [unknown]);
    }

    #[test]
    fn an_unknown_document_may_not_sit_on_its_own_class_reserve() {
        let mut bench = Bench::new(settings(64));
        // Kept are all 16 + 16 + 4.
        for client in 0..28 {
            bench.seat(Intent { unseen: true, ..intent(NOOP, client) }, 0.0);
        }
        bench.wait(Intent { unseen: true, ..intent(SYNC, 100) }, 0.0);
        bench.seat(intent(SYNC, 101), 0.0);
    }

    #[test]
    fn an_unknown_document_gets_a_seat_however_few_there_are() {
        for seats in 1..12 {
            let mut bench = Bench::new(settings(seats));
            let first = bench.seat(Intent { unseen: true, ..intent(SYNC, 1) }, 0.0);
            bench.end(first, 0.1);
            bench.seat(Intent { unseen: true, ..intent(LARGE, 2) }, 0.2);
        }
    }

    #[test]
    fn below_its_reserve_comes_first_then_the_least_by_weight_then_the_oldest() {
        let mut bench = Bench::new(settings(8));
        let running: Vec<_> = (0..8).map(|client| bench.seat(intent(OTHER, client), 0.0)).collect();
        let noop = bench.wait(intent(NOOP, 20), 1.0);
        let other = bench.wait(intent(OTHER, 21), 0.5);
        let large = bench.wait(intent(LARGE, 22), 2.0);
        let sync = bench.wait(intent(SYNC, 23), 3.0);
        for ticket in running {
            bench.end(ticket, 4.0);
        }
        // Large and sync stand below their reserves, both with none: large is older. Then noop with none, then other.
        assert_eq!(bench.seated(), [large, sync, noop, other]);
    }

    #[test]
    fn a_client_at_its_cap_is_passed_over_and_that_is_its_own_doing() {
        let mut bench = Bench::new(settings(64));
        let running: Vec<_> = (0..8).map(|_| bench.seat(intent(OTHER, 1), 0.0)).collect();
        let ninth = bench.wait(intent(OTHER, 1), 0.0);
        bench.seat(intent(OTHER, 2), 0.0);
        bench.end(running[0], 1.0);
        assert_eq!(bench.seated(), [ninth]);
        let late = bench.wait(intent(OTHER, 1), 2.0);
        bench.pass(21.9);
        assert!(bench.refusals().is_empty());
        bench.pass(22.0);
        let refusals = bench.refusals();
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].0, late);
        assert_eq!(refusals[0].1.rule, Rule::ClientCap);
        assert_eq!(refusals[0].1.status(), http::StatusCode::TOO_MANY_REQUESTS);
    }

    #[test]
    fn whoever_waits_until_the_deadline_is_refused_with_503() {
        let mut bench = Bench::new(settings(1));
        bench.seat(intent(SYNC, 1), 0.0);
        let late = bench.wait(intent(SYNC, 2), 1.0);
        assert_eq!(bench.core.next(), Some(at(1.0)), "the running one may have to move");
        bench.pass(21.0);
        let refusals = bench.refusals();
        assert_eq!((refusals[0].0, refusals[0].1.rule, refusals[0].1.own_doing), (late, Rule::Deadline, false));
    }

    #[test]
    fn a_client_has_one_seat_per_document_in_a_slow_class() {
        let mut wide = settings(64);
        wide.class[LARGE.index()].client_in_flight = Some(3);
        let mut bench = Bench::new(wide);
        let first = bench.seat(intent(LARGE, 1), 0.0);
        let same = bench.wait(intent(LARGE, 1), 0.1);
        bench.seat(Intent { documents: [crate::model::DocumentKey(9)].into_iter().collect(), ..intent(LARGE, 1) }, 0.2);
        bench.seat(Intent { documents: [crate::model::DocumentKey(1)].into_iter().collect(), ..intent(LARGE, 2) }, 0.3);
        bench.end(first, 1.0);
        assert_eq!(bench.seated(), [same]);
    }

    #[test]
    fn what_writes_comes_first_in_a_slow_class_only() {
        for (class, slow) in [(LARGE, true), (OTHER, false)] {
            let mut bench = Bench::new(settings(1));
            let running = bench.seat(intent(class, 1), 0.0);
            let read = bench.wait(intent(class, 2), 0.1);
            let write = bench.wait(Intent { writes: true, ..intent(class, 3) }, 0.2);
            bench.end(running, 0.3);
            assert_eq!(bench.seated(), [if slow { write } else { read }]);
        }
    }

    #[test]
    fn the_client_that_used_less_starts_first() {
        let mut bench = Bench::new(settings(1));
        let heavy = bench.seat(intent(OTHER, 1), 0.0);
        let heavy_again = bench.wait(intent(OTHER, 1), 0.1);
        let light = bench.wait(intent(OTHER, 2), 0.2);
        bench.end(heavy, 10.0);
        assert_eq!(bench.seated(), [light]);
        bench.end(light, 10.1);
        assert_eq!(bench.seated(), [heavy_again]);
    }

    #[test]
    fn a_full_queue_refuses_the_newest_of_the_client_with_the_most_waiting() {
        let mut small = settings(1);
        small.class[OTHER.index()].queue_max = 3;
        let mut bench = Bench::new(small);
        bench.seat(intent(OTHER, 1), 0.0);
        bench.wait(intent(OTHER, 2), 0.1);
        bench.wait(intent(OTHER, 3), 0.2);
        let newest = bench.wait(intent(OTHER, 2), 0.3);
        bench.wait(intent(OTHER, 4), 0.4);
        let refusals = bench.refusals();
        assert_eq!((refusals.len(), refusals[0].0), (1, newest));
        assert_eq!((refusals[0].1.rule, refusals[0].1.own_doing), (Rule::QueueFull, true));
        // Everybody has one waiting: nobody has more than the newcomer would.
        let refusal = bench.refused(intent(OTHER, 5), 0.5);
        assert_eq!((refusal.rule, refusal.own_doing), (Rule::QueueFull, false));
    }

    #[test]
    fn a_full_queue_refuses_the_newcomer_of_the_client_with_the_most_waiting() {
        let mut small = settings(1);
        small.class[OTHER.index()].queue_max = 3;
        let mut bench = Bench::new(small);
        bench.seat(intent(OTHER, 1), 0.0);
        for client in [2, 2, 3] {
            bench.wait(intent(OTHER, client), 0.1);
        }
        assert_eq!(bench.refused(intent(OTHER, 2), 0.2).rule, Rule::QueueFull);
        assert!(bench.notices.is_empty());
    }

    #[test]
    fn a_predicted_wait_refuses_in_slow_classes_but_never_the_first_to_wait() {
        for (class, slow) in [(LARGE, true), (OTHER, false)] {
            let mut bench = Bench::new(settings(1));
            let mean = bench.seat(intent(class, 1), 0.0);
            bench.end(mean, 20.0);
            bench.seat(intent(class, 2), 20.0);
            bench.wait(intent(class, 3), 20.0);
            if slow {
                let refusal = bench.refused(intent(class, 4), 20.0);
                assert_eq!((refusal.rule, refusal.own_doing), (Rule::PredictedWait, false));
                // A write would be the first to start.
                bench.wait(Intent { writes: true, ..intent(class, 5) }, 20.0);
            } else {
                bench.wait(intent(class, 4), 20.0);
            }
        }
    }

    #[test]
    fn one_clients_backlog_does_not_refuse_another_on_predicted_wait() {
        let mut bench = Bench::new(settings(1));
        let mean = bench.seat(intent(LARGE, 1), 0.0);
        bench.end(mean, 5.0);
        bench.seat(intent(LARGE, 1), 5.0);
        for _ in 0..5 {
            bench.wait(intent(LARGE, 2), 5.0);
        }
        assert_eq!(bench.refused(intent(LARGE, 2), 5.0).rule, Rule::PredictedWait);
        bench.wait(intent(LARGE, 3), 5.0);
    }

    #[test]
    fn a_request_that_runs_for_long_is_charged_to_its_long_class() {
        let mut bench = Bench::new(settings(64));
        let slow: Vec<_> = (0..50).map(|client| bench.seat(intent(SYNC, client), 0.0)).collect();
        assert_eq!(bench.core.next(), Some(at(1.0)));
        bench.pass(1.0);
        let moved = bench.notices.drain(..).filter(|notice| matches!(notice, Notice::Moved(moved) if moved.class == SYNC)).count();
        assert_eq!((moved, bench.in_flight(SYNC, 1.0), bench.in_flight(LARGE, 1.0)), (50, 0, 50));
        assert_eq!(bench.core.account(slow[0]), Some(LARGE));
        // Large stands above its ceiling of 40 and, since somebody else waits, starts nothing until it has drained.
        let waiter = bench.wait(intent(LARGE, 100), 1.5);
        for _ in 0..4 {
            bench.seat(intent(NOOP, 101), 1.5);
        }
        bench.wait(intent(NOOP, 101), 1.5);
        for ticket in &slow[..10] {
            bench.end(*ticket, 2.0);
        }
        assert!(bench.seated().is_empty());
        bench.end(slow[10], 2.1);
        assert_eq!(bench.seated(), [waiter]);
    }

    #[test]
    fn a_stream_is_not_moved() {
        let mut bench = Bench::new(settings(64));
        bench.seat(Intent { stream: true, ..intent(SYNC, 1) }, 0.0);
        bench.pass(5.0);
        assert!(bench.notices.is_empty());
        assert_eq!(bench.in_flight(SYNC, 5.0), 1);
    }

    #[test]
    fn a_silent_stream_gives_its_seat_back_and_still_counts() {
        let mut few = settings(1);
        few.stream.per_client = 2;
        few.stream.max = 3;
        let mut bench = Bench::new(few);
        let stream = |client| Intent { stream: true, ..intent(OTHER, client) };
        let mut open = Vec::new();
        for client in [1, 1, 2] {
            let ticket = bench.seat(stream(client), 0.0);
            bench.core.keep_stream_only(ticket, at(1.0), &mut bench.notices);
            open.push(ticket);
        }
        assert_eq!((bench.core.view(at(1.0)).in_flight, bench.core.view(at(1.0)).streams), (0, 3));
        let refusal = bench.refused(stream(3), 1.0);
        assert_eq!((refusal.rule, refusal.own_doing), (Rule::Stream, false));
        bench.end(open[2], 2.0);
        let refusal = bench.refused(stream(1), 2.0);
        assert_eq!((refusal.rule, refusal.own_doing), (Rule::Stream, true));
        let upgrade = bench.seat(intent(OTHER, 1), 3.0);
        assert!(!bench.core.become_stream(upgrade), "its client has two");
        bench.end(open[0], 3.0);
        assert!(bench.core.become_stream(upgrade));
        bench.end(upgrade, 4.0);
        bench.end(open[1], 4.0);
        assert_eq!(bench.core.view(at(4.0)).streams, 0);
        assert!(bench.core.streams_of.is_empty());
    }

    #[test]
    fn what_is_no_stream_keeps_its_seat() {
        let mut bench = Bench::new(settings(1));
        let ticket = bench.seat(intent(OTHER, 1), 0.0);
        bench.core.keep_stream_only(ticket, at(1.0), &mut bench.notices);
        assert_eq!(bench.core.view(at(1.0)).in_flight, 1);
    }

    #[test]
    fn a_closed_class_refuses_and_one_that_was_removed_drains() {
        let mut bench = Bench::new(settings(1));
        let running = bench.seat(intent(IMPORT, 1), 0.0);
        let waiter = bench.wait(intent(IMPORT, 2), 0.0);
        let mut without = settings(1);
        without.class[IMPORT.index()].removed = true;
        bench.reload(without.clone(), 1.0);
        let refusal = bench.refused(intent(IMPORT, 3), 1.0);
        assert_eq!((refusal.rule, refusal.own_doing), (Rule::Closed, false));
        bench.end(running, 2.0);
        assert_eq!(bench.seated(), [waiter]);
        without.class[IMPORT.index()].removed = false;
        without.class[IMPORT.index()].closed = true;
        bench.reload(without, 3.0);
        assert_eq!(bench.refused(intent(IMPORT, 3), 3.0).rule, Rule::Closed);
    }

    fn limited(mode: Mode) -> Settings {
        let mut limited = settings(1);
        limited.class[OTHER.index()].client_rate = Some(Rate { per_second: 0.2, burst: 2, mode });
        limited.class[OTHER.index()].rate = Some(Rate { per_second: 0.1, burst: 3, mode });
        limited
    }

    #[test]
    fn a_clients_rate_is_its_own_doing_and_a_class_rate_is_not() {
        let mut bench = Bench::new(limited(Mode::Enforce));
        for _ in 0..2 {
            let ticket = bench.seat(intent(OTHER, 1), 0.0);
            bench.end(ticket, 0.0);
        }
        let refusal = bench.refused(intent(OTHER, 1), 0.0);
        assert_eq!((refusal.rule, refusal.own_doing), (Rule::ClientRate, true));
        assert!((5.0..=7.5).contains(&refusal.retry_after.as_secs_f64()), "a token in 5 s: {:?}", refusal.retry_after);
        let ticket = bench.seat(intent(OTHER, 2), 0.0);
        bench.end(ticket, 0.0);
        let refusal = bench.refused(intent(OTHER, 3), 0.0);
        assert_eq!((refusal.rule, refusal.own_doing), (Rule::ClassRate, false));
        assert!((10.0..=15.0).contains(&refusal.retry_after.as_secs_f64()), "a token in 10 s: {:?}", refusal.retry_after);
        bench.seat(intent(SYNC, 1), 0.0);
    }

    #[test]
    fn a_refusal_gives_back_the_tokens_taken_on_the_way() {
        let mut tight = limited(Mode::Enforce);
        tight.class[OTHER.index()].queue_max = 0;
        let mut bench = Bench::new(tight);
        bench.seat(intent(OTHER, 1), 0.0);
        for _ in 0..50 {
            assert_eq!(bench.refused(intent(OTHER, 2), 0.0).rule, Rule::QueueFull, "neither its own tokens nor the class's are used up");
        }
        let mut closed = limited(Mode::Enforce);
        closed.class[OTHER.index()].closed = true;
        let mut bench = Bench::new(closed);
        for _ in 0..50 {
            assert_eq!(bench.refused(intent(OTHER, 2), 0.0).rule, Rule::Closed, "closed comes before the rates");
        }
        bench.reload(limited(Mode::Enforce), 0.0);
        let running = bench.seat(intent(OTHER, 2), 0.0);
        for _ in 0..50 {
            let waiter = bench.wait(intent(OTHER, 2), 0.0);
            bench.core.leave(waiter, false, at(0.0), &mut bench.notices);
        }
        let late = bench.wait(intent(OTHER, 2), 0.0);
        assert_eq!(bench.refused(intent(OTHER, 2), 0.0).rule, Rule::ClientRate);
        // Two come within the 20 s; the one of the waiter at its deadline comes on top, up to the burst.
        bench.pass(20.0);
        assert_eq!(bench.refusals()[0].0, late);
        bench.end(running, 20.0);
        for _ in 0..2 {
            let ticket = bench.seat(intent(OTHER, 2), 20.0);
            bench.end(ticket, 20.0);
        }
    }

    #[test]
    fn rates_in_shadow_are_noted_and_rates_that_are_off_are_not() {
        for (mode, noted) in [(Mode::Shadow, vec![Rule::ClientRate, Rule::ClassRate]), (Mode::Off, vec![])] {
            let mut bench = Bench::new(limited(mode));
            let mut last = Shadows::new();
            for _ in 0..5 {
                let Entered::Seat(ticket, shadows) = bench.enter(intent(OTHER, 1), 0.0) else { panic!("refused in {mode:?}") };
                bench.end(ticket, 0.0);
                last = shadows;
            }
            assert_eq!(last.as_slice(), noted);
        }
    }

    #[test]
    fn a_debt_is_clamped() {
        let mut bench = Bench::new(settings(1));
        let huge = bench.seat(intent(OTHER, 1), 0.0);
        let other = bench.wait(intent(OTHER, 2), 0.0);
        bench.end(huge, 10_000.0);
        assert_eq!(bench.seated(), [other]);
        // It used 10 000 s and owes 30 s: that is what another client may use before it.
        let again = bench.wait(intent(OTHER, 1), 10_000.0);
        let rival = bench.wait(intent(OTHER, 3), 10_000.0);
        bench.wait(intent(OTHER, 3), 10_000.0);
        let rival_at_last = bench.wait(intent(OTHER, 3), 10_000.0);
        bench.end(other, 10_001.0);
        assert_eq!(bench.seated(), [rival]);
        bench.end(rival, 10_002.0);
        let second = bench.seated();
        assert!(second != [again] && second != [rival_at_last]);
        bench.end(second[0], 10_032.0);
        assert_eq!(bench.seated(), [again]);
        bench.end(again, 10_033.0);
        assert_eq!(bench.seated(), [rival_at_last]);
        bench.end(rival_at_last, 10_034.0);
    }

    #[test]
    fn calm_pays_debts_off() {
        for (calm, paid) in [(20.0, false), (40.0, true)] {
            let mut bench = Bench::new(settings(1));
            let huge = bench.seat(intent(OTHER, 1), 0.0);
            let other = bench.wait(intent(OTHER, 2), 0.0);
            bench.end(huge, 100.0);
            assert_eq!(bench.seated(), [other]);
            bench.end(other, 100.0);
            let quiet = bench.seat(intent(OTHER, 4), 100.0 + calm);
            let debtor = bench.wait(intent(OTHER, 1), 100.0 + calm);
            let rival = bench.wait(intent(OTHER, 5), 100.0 + calm);
            bench.end(quiet, 101.0 + calm);
            assert_eq!(bench.seated(), [if paid { debtor } else { rival }]);
        }
    }

    #[test]
    fn a_reload_throws_nobody_out_and_waiters_get_the_new_limits() {
        let mut bench = Bench::new(settings(2));
        let running = [bench.seat(intent(OTHER, 1), 0.0), bench.seat(intent(OTHER, 2), 0.0)];
        let waiters = [bench.wait(intent(OTHER, 3), 0.0), bench.wait(intent(OTHER, 4), 0.5)];
        bench.reload(settings(1), 1.0);
        assert_eq!(bench.core.view(at(1.0)).in_flight, 2);
        bench.end(running[0], 2.0);
        assert!(bench.seated().is_empty());
        bench.reload(settings(3), 3.0);
        assert_eq!(bench.seated(), waiters);
        let last = bench.wait(intent(OTHER, 5), 4.0);
        let mut hasty = settings(3);
        hasty.class[OTHER.index()].wait_max = secs(2.0);
        bench.reload(hasty, 5.0);
        assert_eq!(bench.core.next(), Some(at(6.0)));
        bench.pass(6.0);
        assert_eq!(bench.refusals()[0].0, last);
    }

    #[test]
    fn more_healthy_servers_are_more_seats() {
        let mut bench = Bench::new(settings(1));
        bench.seat(intent(OTHER, 1), 0.0);
        let waiter = bench.wait(intent(OTHER, 2), 0.0);
        bench.core.servers(2, at(1.0), &mut bench.notices);
        assert_eq!(bench.seated(), [waiter]);
        bench.core.servers(0, at(1.0), &mut bench.notices);
        assert_eq!(bench.core.view(at(1.0)).seats, 1);
    }

    #[test]
    fn in_shadow_everything_runs_at_once_and_the_virtual_queue_says_what_would_have_been() {
        let mut shadow = settings(1);
        shadow.gate.mode = Mode::Shadow;
        for class in &mut shadow.class {
            class.client_mode = Mode::Shadow;
        }
        let mut bench = Bench::new(shadow);
        let first = bench.seat(intent(OTHER, 1), 0.0);
        let second = bench.seat(intent(OTHER, 2), 0.0);
        let third = bench.seat(intent(OTHER, 3), 0.0);
        let view = bench.core.view(at(0.0));
        assert_eq!((view.in_flight, view.classes[4].shadow_in_flight, view.classes[4].shadow_queued), (3, 1, 2));
        bench.end(first, 5.0);
        bench.pass(20.0);
        assert!(bench.core.shadows(second).is_empty(), "it has the virtual seat since 5 s");
        assert_eq!(bench.core.shadows(third).as_slice(), [Rule::Deadline]);
        bench.end(second, 21.0);
        bench.end(third, 21.0);
        let view = bench.core.view(at(21.0));
        assert_eq!((view.in_flight, view.classes[4].shadow_in_flight, view.classes[4].shadow_queued), (0, 0, 0));
    }

    #[test]
    fn in_shadow_a_full_virtual_queue_is_noted_at_once() {
        let mut shadow = settings(1);
        shadow.gate.mode = Mode::Shadow;
        shadow.class[OTHER.index()].queue_max = 1;
        let mut bench = Bench::new(shadow);
        bench.seat(intent(OTHER, 1), 0.0);
        bench.seat(intent(OTHER, 2), 0.0);
        let Entered::Seat(_, shadows) = bench.enter(intent(OTHER, 3), 0.0) else { panic!("refused in shadow") };
        assert_eq!(shadows.as_slice(), [Rule::QueueFull]);
    }

    #[test]
    fn a_cap_holds_although_queue_and_seats_are_off() {
        let mut off = settings(1);
        off.gate.mode = Mode::Off;
        let mut bench = Bench::new(off);
        let running: Vec<_> = (0..8).map(|_| bench.seat(intent(OTHER, 1), 0.0)).collect();
        let waiter = bench.wait(intent(OTHER, 1), 0.0);
        bench.seat(intent(OTHER, 2), 0.0);
        bench.end(running[0], 1.0);
        assert_eq!(bench.seated(), [waiter]);
    }

    #[test]
    fn a_cap_in_shadow_holds_nobody_and_is_noted() {
        let mut lax = settings(64);
        lax.class[OTHER.index()].client_mode = Mode::Shadow;
        let mut bench = Bench::new(lax);
        for _ in 0..8 {
            bench.seat(intent(OTHER, 1), 0.0);
        }
        let ninth = bench.seat(intent(OTHER, 1), 0.0);
        bench.pass(20.0);
        assert_eq!(bench.core.shadows(ninth).as_slice(), [Rule::ClientCap]);
    }

    #[test]
    fn what_clients_are_told_lies_in_the_bounds_after_jitter() {
        let mut bench = Bench::new(settings(1));
        let mut seen = (f64::MAX, 0.0_f64);
        for seconds in [0.0, 0.5, 3.0, 9.0, 14.0, 1000.0] {
            for _ in 0..200 {
                let told = bench.core.jitter(secs(seconds), RETRY_QUEUE_MAX).as_secs_f64();
                seen = (seen.0.min(told), seen.1.max(told));
                let base = seconds.clamp(1.0, 10.0);
                assert!((base..=base * 1.5).contains(&told), "{seconds} {told}");
            }
        }
        assert!(seen.0 >= 1.0 && seen.1 <= 15.0 && seen.1 > 14.0, "{seen:?}");
        assert!((80.0..=120.0).contains(&bench.core.jitter(secs(9999.0), RETRY_OTHER_MAX).as_secs_f64()));
    }

    #[test]
    fn a_class_that_the_gate_does_not_know_is_admitted_as_other() {
        let mut bench = Bench::new(settings(4));
        bench.seat(intent(Class(15), 1), 0.0);
        assert_eq!(bench.in_flight(OTHER, 0.0), 1);
    }
}
