//! A world in virtual time around the real gate core and the real memory of documents: an app with so many workers and a queue without
//! end in front of them, and clients that time out and come again.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use tidegate::{
    clock::Moment,
    config::Settings,
    flow::{
        classify::documents::{Documents, Known, Sample},
        gate::core::{Core, Entered, Notice, Ticket},
    },
    model::{Class, ClientKey, DocumentKey, Intent, Mode},
    profile::Cost,
};

pub const SYNC: Class = Class(1);
pub const LARGE: Class = Class(2);
pub const IMPORT: Class = Class(3);

/// A client gives up an attempt after this.
const PATIENCE: f64 = 30.0;
/// How often it tries again.
const RETRIES: u32 = 5;
/// How many honour `Retry-After`; the others come back after half a second to two.
const HONEST: f64 = 0.7;

/// When requests come.
#[derive(Clone)]
pub enum Arrivals {
    /// So many per second from a moment on.
    Rate(Vec<(f64, f64)>),
    /// Clients with so many requests under way each, a pause after each of up to so many seconds.
    Loop { parallel: u32, pause: f64 },
    /// Each client once, some time in these seconds.
    Once { from: f64, until: f64 },
}

/// A kind of traffic.
#[derive(Clone)]
pub struct Source {
    /// The class of its route.
    pub class: Class,
    /// When its requests come.
    pub arrivals: Arrivals,
    /// How long the app works on one: from a moment on, between so many and so many seconds.
    pub work: Vec<(f64, f64, f64)>,
    /// How many clients it has.
    pub clients: u64,
    /// How many documents, the same ones for the same client; known from the beginning.
    pub documents: u64,
    /// The share of requests that are for a document that nobody has asked for before.
    pub fresh: f64,
}

/// What became of one wish of a client, over all its attempts.
#[derive(Clone, Copy)]
pub struct Wish {
    /// Whose traffic it belongs to.
    pub source: usize,
    /// When it was first sent, in seconds.
    pub sent: f64,
    /// How long until it was answered; none if it never was.
    pub answered: Option<f64>,
    /// Whether its document was dear at an attempt.
    pub dear: bool,
    client: u64,
    document: u64,
    tries: u32,
    known: bool,
}

struct Attempt {
    wish: usize,
    class: Class,
    ticket: Option<Ticket>,
    started: Option<Moment>,
    /// The client still waits for it.
    awaited: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A source has its next request, or would have.
    Arrival(usize),
    /// A client sends a wish, again or for the first time.
    Send(usize),
    /// A client gives up an attempt.
    TimeOut(usize),
    /// The app has done its work.
    Done(usize),
}

pub struct World<'a> {
    pub documents: Documents,
    pub wishes: Vec<Wish>,
    sources: &'a [Source],
    core: Core,
    random: Rng,
    now: Moment,
    end: f64,
    agenda: BinaryHeap<Reverse<(Moment, u64, Happening)>>,
    order: u64,
    attempts: Vec<Attempt>,
    /// By the index of a ticket: the attempt that waits or runs.
    owners: Vec<usize>,
    workers: usize,
    busy: usize,
    line: VecDeque<usize>,
    fresh: u64,
    notices: Vec<Notice>,
}

/// Seconds since the beginning.
fn seconds(moment: Moment) -> f64 {
    moment.since(BEGINNING).as_secs_f64()
}

const BEGINNING: Moment = Moment(1_000_000_000_000);

fn moment(seconds: f64) -> Moment {
    BEGINNING + Duration::from_secs_f64(seconds)
}

/// A source's document that was known from the beginning.
fn key(source: usize, document: u64) -> DocumentKey {
    DocumentKey((source as u64 + 1) << 32 | document)
}

/// The last step that has begun.
fn step<T: Copy>(steps: &[T], from: impl Fn(&T) -> f64, now: f64) -> T {
    *steps.iter().rev().find(|step| from(step) <= now).expect("the first step begins at 0")
}

impl<'a> World<'a> {
    /// `workers` at the app, and as many seats; the gate off or as shipped.
    pub fn new(sources: &'a [Source], workers: u32, guarded: bool, seed: u64) -> Self {
        let mut settings = Settings::defaults();
        settings.app.seats = workers;
        if !guarded {
            settings.gate.mode = Mode::Off;
            for class in &mut settings.class {
                class.client_mode = Mode::Off;
            }
        }
        let documents = Documents::new(&settings);
        Self {
            documents,
            wishes: Vec::new(),
            sources,
            core: Core::new(Arc::new(settings), seed, BEGINNING),
            random: Rng::with_seed(seed),
            now: BEGINNING,
            end: 0.0,
            agenda: BinaryHeap::new(),
            order: 0,
            attempts: Vec::new(),
            owners: Vec::new(),
            workers: workers as usize,
            busy: 0,
            line: VecDeque::new(),
            fresh: 1 << 40,
            notices: Vec::new(),
        }
    }

    /// Requests come until `end`; what is under way then is played to its end.
    pub fn run(&mut self, end: f64) {
        self.end = end;
        self.remember();
        for source in 0..self.sources.len() {
            self.begin(source);
        }
        while let Some(Reverse((when, _, happening))) = self.agenda.pop() {
            while let Some(next) = self.core.next().filter(|next| *next <= when) {
                self.now = self.now.max(next);
                self.core.advance(self.now, &mut self.notices);
                self.hear();
            }
            self.now = when;
            match happening {
                Happening::Arrival(source) => self.arrival(source),
                Happening::Send(wish) => self.send(wish),
                Happening::TimeOut(attempt) => self.time_out(attempt),
                Happening::Done(attempt) => self.done(attempt),
            }
            self.hear();
        }
    }

    /// What the documents of every source cost while all was well, learned in any order.
    fn remember(&mut self) {
        let documents = |(index, source): (usize, &Source)| (0..source.documents).map(move |document| (index, document));
        let mut all: Vec<_> = self.sources.iter().enumerate().flat_map(documents).collect();
        self.random.shuffle(&mut all);
        for (index, document) in all {
            let source = &self.sources[index];
            let (_, low, high) = source.work[0];
            let app = Duration::from_secs_f64(low + (high - low) * self.random.f64());
            let sample = Sample { class: source.class, cost: Cost::App, app, database: None, reply: 500 };
            self.documents.learn(&[key(index, document)], &sample, BEGINNING);
        }
    }

    fn plan(&mut self, when: f64, happening: Happening) {
        self.order += 1;
        self.agenda.push(Reverse((moment(when), self.order, happening)));
    }

    fn begin(&mut self, source: usize) {
        let traffic = &self.sources[source];
        match traffic.arrivals {
            Arrivals::Rate(_) => self.plan(0.0, Happening::Arrival(source)),
            Arrivals::Loop { parallel, pause } => {
                for client in 0..traffic.clients {
                    for _ in 0..parallel {
                        let when = self.random.f64() * pause.max(0.1);
                        self.wish(source, client, when);
                    }
                }
            }
            Arrivals::Once { from, until } => {
                for client in 0..traffic.clients {
                    let when = from + (until - from) * self.random.f64();
                    self.wish(source, client, when);
                }
            }
        }
    }

    fn wish(&mut self, source: usize, client: u64, when: f64) {
        let traffic = &self.sources[source];
        let known = traffic.documents > 0 && self.random.f64() >= traffic.fresh;
        let document = if known { client % traffic.documents } else { self.fresh };
        self.fresh += 1;
        self.wishes.push(Wish { source, sent: when, answered: None, dear: false, client, document, tries: 0, known });
        self.plan(when, Happening::Send(self.wishes.len() - 1));
    }

    /// Arrivals as random as they come (Poisson), thinned out to the rate of the moment.
    fn arrival(&mut self, source: usize) {
        let now = seconds(self.now);
        let traffic = &self.sources[source];
        let Arrivals::Rate(steps) = &traffic.arrivals else { return };
        let most = steps.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let (_, rate) = step(steps, |step| step.0, now);
        let comes = now > 0.0 && self.random.f64() * most < rate;
        let next = now - (1.0 - self.random.f64()).ln() / most;
        if next < self.end {
            self.plan(next, Happening::Arrival(source));
        }
        if comes {
            let client = self.random.u64(0..traffic.clients);
            self.wish(source, client, now);
        }
    }

    fn send(&mut self, index: usize) {
        let wish = &mut self.wishes[index];
        wish.tries += 1;
        let source = &self.sources[wish.source];
        let document = if wish.known { key(wish.source, wish.document) } else { DocumentKey(wish.document) };
        let known = if source.class == IMPORT { Known::default() } else { self.documents.look(&[document], source.class, self.now) };
        wish.dear |= known.dear;
        let class = if known.dear { LARGE } else { source.class };
        let intent = Intent {
            class,
            long: if source.class == IMPORT { IMPORT } else { LARGE },
            client: ClientKey((wish.source as u64) << 32 | wish.client),
            documents: [document].into_iter().collect(),
            writes: source.class == IMPORT,
            unseen: known.unseen,
            stream: false,
        };
        let attempt = self.attempts.len();
        self.attempts.push(Attempt { wish: index, class: source.class, ticket: None, started: None, awaited: true });
        let now = seconds(self.now);
        match self.core.enter(intent, self.now, &mut self.notices) {
            Entered::Seat(ticket, _) => {
                self.own(ticket, attempt);
                self.forward(attempt);
            }
            Entered::Wait(ticket) => self.own(ticket, attempt),
            Entered::Refused(refusal, _) => {
                self.attempts[attempt].awaited = false;
                self.again(index, Some(refusal.retry_after));
                return;
            }
        }
        self.plan(now + PATIENCE, Happening::TimeOut(attempt));
    }

    fn own(&mut self, ticket: Ticket, attempt: usize) {
        let slot = ticket.index as usize;
        if self.owners.len() <= slot {
            self.owners.resize(slot + 1, usize::MAX);
        }
        self.owners[slot] = attempt;
        self.attempts[attempt].ticket = Some(ticket);
    }

    /// Hears what the gate has told.
    fn hear(&mut self) {
        while !self.notices.is_empty() {
            for notice in std::mem::take(&mut self.notices) {
                match notice {
                    Notice::Seat { ticket, .. } => self.forward(self.owners[ticket.index as usize]),
                    Notice::Refused { ticket, refusal, .. } => {
                        let attempt = &mut self.attempts[self.owners[ticket.index as usize]];
                        attempt.ticket = None;
                        attempt.awaited = false;
                        let wish = attempt.wish;
                        self.again(wish, Some(refusal.retry_after));
                    }
                    Notice::Moved(moved) => self.documents.moved(&moved.documents, moved.class, self.now),
                }
            }
        }
    }

    fn again(&mut self, wish: usize, retry_after: Option<Duration>) {
        if self.wishes[wish].tries > RETRIES {
            return;
        }
        let own = 0.5 + 1.5 * self.random.f64();
        let pause = retry_after.map(|wait| wait.as_secs_f64()).filter(|_| self.random.f64() < HONEST).unwrap_or(own);
        self.plan(seconds(self.now) + pause, Happening::Send(wish));
    }

    fn time_out(&mut self, index: usize) {
        let attempt = &mut self.attempts[index];
        if !std::mem::take(&mut attempt.awaited) {
            return;
        }
        let (wish, started) = (attempt.wish, attempt.started);
        if started.is_none()
            && let Some(ticket) = attempt.ticket.take()
        {
            self.core.leave(ticket, false, self.now, &mut self.notices);
        }
        self.again(wish, None);
    }

    fn forward(&mut self, attempt: usize) {
        self.attempts[attempt].started = Some(self.now);
        self.line.push_back(attempt);
        self.work();
    }

    fn work(&mut self) {
        let now = seconds(self.now);
        while self.busy < self.workers {
            let Some(attempt) = self.line.pop_front() else { return };
            self.busy += 1;
            let source = &self.sources[self.wishes[self.attempts[attempt].wish].source];
            let (_, low, high) = step(&source.work, |step| step.0, now);
            let hold = low + (high - low) * self.random.f64();
            self.plan(now + hold, Happening::Done(attempt));
        }
    }

    fn done(&mut self, index: usize) {
        let attempt = &mut self.attempts[index];
        let app = self.now.since(attempt.started.expect("it was forwarded"));
        let (wish, class) = (attempt.wish, attempt.class);
        if let Some(ticket) = attempt.ticket.take() {
            self.core.leave(ticket, true, self.now, &mut self.notices);
        }
        let awaited = std::mem::take(&mut self.attempts[index].awaited);
        let Wish { source, sent, client, document, known, .. } = self.wishes[wish];
        let document = if known { key(source, document) } else { DocumentKey(document) };
        let sample = Sample { class, cost: Cost::App, app, database: None, reply: 500 };
        self.documents.learn(&[document], &sample, self.now);
        let now = seconds(self.now);
        if awaited {
            self.wishes[wish].answered = Some(now - sent);
            if let Arrivals::Loop { pause, .. } = self.sources[source].arrivals {
                let next = now + pause * self.random.f64();
                if next < self.end {
                    self.wish(source, client, next);
                }
            }
        }
        self.busy -= 1;
        self.work();
    }

    /// The wishes of a source that were first sent in this time.
    pub fn sent(&self, source: usize, from: f64, until: f64) -> impl Iterator<Item = &Wish> {
        self.wishes.iter().filter(move |wish| wish.source == source && (from..until).contains(&wish.sent))
    }

    /// The share of them that were answered within so many seconds.
    pub fn within(&self, source: usize, from: f64, until: f64, limit: f64) -> f64 {
        let (mut all, mut good) = (0.0, 0.0);
        for wish in self.sent(source, from, until) {
            all += 1.0;
            good += if wish.answered.is_some_and(|time| time <= limit) { 1.0 } else { 0.0 };
        }
        assert!(all > 0.0, "nothing was sent");
        good / all
    }

    /// This percentile of all times of a source; without end where one was never answered.
    pub fn percentile(&self, source: usize, share: f64) -> f64 {
        let mut times: Vec<f64> = self.sent(source, 0.0, f64::MAX).map(|wish| wish.answered.unwrap_or(f64::INFINITY)).collect();
        times.sort_by(f64::total_cmp);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
        let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len());
        times[index - 1]
    }
}
