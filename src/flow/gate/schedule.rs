//! Who has a seat: seats among classes, a queue inside each. A state machine without a clock: every call says what time it is, and what
//! follows from it is appended to a list of [`Event`]s.
//!
//! With L seats of which `total` are taken, and for each class a reserve r, a ceiling m and `n` seats charged to it, a class may start
//! iff `total < L` and one of these holds:
//!
//! * `n < r`;
//! * `n < m` and `total + kept < L`;
//! * `n < idle ceiling`, no other class has a waiter, and `total` + the unfilled reserves of the others `< L`.
//!
//! *Kept* are the unfilled reserves of the others if the class is slow, and nothing if it is not: work that cannot be pre-empted must
//! not sit on someone else's reserve. For a request of whose documents nothing is known all unfilled reserves are kept, its own class's
//! too. With few seats the reserves, at least one seat each, can come to more than L - 1; what is beyond that is not kept, so that no
//! request is passed over for ever.
//!
//! Among the classes that may start: one below its reserve first, then the least `n / weight`, then the oldest request.
//!
//! After every call nobody waits who may start. So a newcomer that may start overtakes nobody, and is not queued at all.

use std::time::Duration;

use super::{
    queue::{Ask, BY_CLASS, Entry, Manner, Queue},
    slab::{Key, List, Slab},
};
use crate::{clock::Moment, config::settings::Shares, model::DocumentKeys};

/// Seats without a limit, with room to add to them.
const UNLIMITED: usize = usize::MAX / 4;

/// The limits of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Its share of the seats.
    pub shares: Shares,
    /// Its weight among the classes that may start.
    pub weight: u32,
    /// Whether it may not borrow kept seats and is refused on predicted wait.
    pub slow: bool,
    /// How it queues.
    pub manner: Manner,
    /// The longest wait.
    pub wait_max: Duration,
    /// The most that wait.
    pub queue_max: usize,
    /// A request that runs for longer moves into another account.
    pub long_after: Option<Duration>,
}

impl Limits {
    /// The same without a limit of seats.
    #[must_use]
    pub fn unlimited(self) -> Self {
        Self { shares: Shares { reserve: 0, ceiling: UNLIMITED, idle_ceiling: UNLIMITED }, ..self }
    }
}

/// Why a schedule refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The queue was full.
    Full,
    /// The queue was full, and its client had the most waiting.
    Displaced,
    /// It would have waited for too long.
    Predicted,
    /// It did wait for too long.
    Deadline,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub cause: Cause,
    /// Whether its client's own seats stood in its way.
    pub capped: bool,
    /// What a newcomer would have to expect.
    pub wait: Duration,
}

/// What became of a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It has a seat.
    Started(Key),
    /// It waits.
    Waits(Key),
    /// Neither.
    Refused(Denial),
}

/// What became of others; each names the request's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It got its seat.
    Started { owner: u32, waited: Duration, predicted: Option<Duration> },
    /// It waits no longer.
    Refused { owner: u32, denial: Denial },
    /// It was moved into its long account.
    Moved { owner: u32 },
}

#[derive(Debug)]
struct Account {
    limits: Limits,
    in_flight: usize,
    queue: Queue,
    /// Those that move when they have run for `long_after`, in the order of their starts.
    watched: List,
}

impl Account {
    fn unfilled(&self) -> usize {
        self.limits.shares.reserve.saturating_sub(self.in_flight)
    }
}

/// Which requests of a class may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Nobody,
    Known,
    Everybody,
}

/// Seats and queues of all classes.
#[derive(Debug)]
pub struct Schedule {
    seats: usize,
    total: usize,
    accounts: Vec<Account>,
    entries: Slab<Entry>,
    sequence: u64,
    waiting: usize,
}

impl Schedule {
    /// A schedule of `seats` (none: without a limit), nobody in it.
    pub fn new(seats: Option<usize>, limits: &[Limits], now: Moment) -> Self {
        let mut schedule = Self { seats: 0, total: 0, accounts: Vec::new(), entries: Slab::new(), sequence: 0, waiting: 0 };
        schedule.change(seats, limits, now, &mut Vec::new());
        schedule
    }

    /// Other limits from now on. Nobody is thrown out; who waits does so under the new ones. Classes are never fewer than before.
    pub fn change(&mut self, seats: Option<usize>, limits: &[Limits], now: Moment, events: &mut Vec<Event>) {
        self.seats = seats.unwrap_or(UNLIMITED);
        for (index, limits) in limits.iter().enumerate() {
            match self.accounts.get_mut(index) {
                Some(account) => {
                    account.limits = *limits;
                    account.queue.change(&mut self.entries, limits.manner);
                }
                None => self.accounts.push(Account {
                    limits: *limits,
                    in_flight: 0,
                    queue: Queue::new(limits.manner, now),
                    watched: List::new(BY_CLASS),
                }),
            }
        }
        self.dispatch(now, events);
        self.advance(now, events);
    }

    /// A request comes.
    pub fn arrive(&mut self, ask: Ask, now: Moment, events: &mut Vec<Event>) -> Arrival {
        let class = ask.class;
        let account = &self.accounts[class];
        let capped = account.queue.blocked(ask.client, &ask.documents);
        let may = match self.may(class) {
            May::Everybody => true,
            May::Known => !ask.unseen,
            May::Nobody => false,
        };
        if may && !capped {
            return Arrival::Started(self.seat_newcomer(ask, now));
        }
        let limits = &account.limits;
        let ahead = account.queue.ahead(ask.client, ask.writes);
        let wait = self.expected(class, ahead);
        let denial = |cause| Arrival::Refused(Denial { cause, capped, wait });
        if limits.slow && ahead > 0 && wait > limits.wait_max {
            return denial(Cause::Predicted);
        }
        let mut displaced = None;
        if account.queue.len() >= limits.queue_max {
            displaced = account.queue.displaced_by(ask.client);
            if displaced.is_none() {
                return denial(Cause::Full);
            }
        }
        if let Some(index) = displaced {
            self.refuse(index, Cause::Displaced, now, events);
        }
        self.sequence += 1;
        let mut entry = Entry::new(ask, self.sequence, now);
        entry.predicted = Some(wait);
        let key = self.entries.insert(entry);
        self.accounts[class].queue.wait(&mut self.entries, key.index, now);
        self.waiting += 1;
        Arrival::Waits(key)
    }

    fn seat_newcomer(&mut self, ask: Ask, now: Moment) -> Key {
        self.sequence += 1;
        let class = ask.class;
        let key = self.entries.insert(Entry::new(ask, self.sequence, now));
        self.accounts[class].queue.start(&mut self.entries, key.index, now);
        self.seat(key.index, now);
        key
    }

    /// A request that waits goes away, or one that runs gives its seat back. Nothing happens if it has done so before.
    pub fn leave(&mut self, key: Key, now: Moment, events: &mut Vec<Event>) {
        let Some(entry) = self.entries.get(key) else { return };
        let class = entry.account;
        if entry.running {
            self.total -= 1;
            self.end_hold(key.index, now);
        } else {
            self.accounts[class].queue.leave(&mut self.entries, key.index, now);
            self.waiting -= 1;
        }
        self.entries.remove(key.index);
        self.dispatch(now, events);
    }

    /// Lets time pass: refuses whoever has waited for too long and moves whoever has run for too long.
    pub fn advance(&mut self, now: Moment, events: &mut Vec<Event>) {
        let mut changed = false;
        for class in 0..self.accounts.len() {
            while let Some(index) = self.accounts[class].queue.oldest() {
                if self.entries[index].arrived + self.accounts[class].limits.wait_max > now {
                    break;
                }
                self.refuse(index, Cause::Deadline, now, events);
                changed = true;
            }
            while let Some(index) = self.overdue(class, now) {
                self.relocate(index, now);
                events.push(Event::Moved { owner: self.entries[index].owner });
                changed = true;
            }
        }
        if changed {
            self.dispatch(now, events);
        }
    }

    /// When [`Schedule::advance`] has something to do next.
    pub fn next(&self) -> Option<Moment> {
        let deadlines = self.accounts.iter().filter_map(|account| {
            let oldest = account.queue.oldest()?;
            Some(self.entries[oldest].arrived + account.limits.wait_max)
        });
        let moves = self.accounts.iter().filter_map(|account| {
            let first = account.watched.head()?;
            Some(self.entries[first].started + account.limits.long_after?)
        });
        deadlines.chain(moves).min()
    }

    fn overdue(&self, class: usize, now: Moment) -> Option<u32> {
        let account = &self.accounts[class];
        let after = account.limits.long_after?;
        account.watched.head().filter(|first| self.entries[*first].started + after <= now)
    }

    fn refuse(&mut self, index: u32, cause: Cause, now: Moment, events: &mut Vec<Event>) {
        let entry = &self.entries[index];
        let (owner, class) = (entry.owner, entry.account);
        let capped = self.accounts[class].queue.blocked(entry.client, &entry.documents);
        self.accounts[class].queue.leave(&mut self.entries, index, now);
        self.waiting -= 1;
        let ahead = self.accounts[class].queue.len();
        let denial = Denial { cause, capped, wait: self.expected(class, ahead) };
        self.entries.remove(index);
        events.push(Event::Refused { owner, denial });
    }

    /// Takes a seat for an entry that its queue has counted already.
    fn seat(&mut self, index: u32, now: Moment) {
        let entry = &mut self.entries[index];
        entry.running = true;
        entry.started = now;
        entry.since = now;
        entry.watched = entry.long != entry.account && !entry.stream;
        let (class, watched) = (entry.account, entry.watched);
        if watched {
            self.accounts[class].watched.push(&mut self.entries, index);
        }
        self.accounts[class].in_flight += 1;
        self.total += 1;
    }

    /// Takes a running entry out of its account; the seat itself stays taken.
    fn end_hold(&mut self, index: u32, now: Moment) {
        let entry = &mut self.entries[index];
        let (class, hold, stream) = (entry.account, now.since(entry.since), entry.stream);
        let account = &mut self.accounts[class];
        if std::mem::take(&mut entry.watched) {
            account.watched.remove(&mut self.entries, index);
        }
        account.in_flight -= 1;
        account.queue.end(&mut self.entries, index, hold, now);
        if !stream {
            account.queue.count_hold(hold);
        }
    }

    fn relocate(&mut self, index: u32, now: Moment) {
        self.end_hold(index, now);
        let entry = &mut self.entries[index];
        entry.account = entry.long;
        entry.since = now;
        entry.moved = true;
        let account = &mut self.accounts[entry.long];
        account.queue.start(&mut self.entries, index, now);
        account.in_flight += 1;
    }

    fn dispatch(&mut self, now: Moment, events: &mut Vec<Event>) {
        while let Some(index) = self.choose() {
            let class = self.entries[index].account;
            self.accounts[class].queue.start_waiter(&mut self.entries, index, now);
            self.waiting -= 1;
            self.seat(index, now);
            let entry = &self.entries[index];
            events.push(Event::Started { owner: entry.owner, waited: now.since(entry.arrived), predicted: entry.predicted });
        }
    }

    /// The waiter that starts next, if one may.
    fn choose(&mut self) -> Option<u32> {
        if self.waiting == 0 || self.total >= self.seats {
            return None;
        }
        let mut best: Option<(u32, Rank)> = None;
        for class in 0..self.accounts.len() {
            if self.accounts[class].queue.len() == 0 {
                continue;
            }
            let may = self.may(class);
            if may == May::Nobody {
                continue;
            }
            let account = &mut self.accounts[class];
            let Some(index) = account.queue.pick(&mut self.entries, may == May::Everybody) else { continue };
            let entry = &self.entries[index];
            let rank = Rank {
                above_reserve: entry.unseen || account.in_flight >= account.limits.shares.reserve,
                in_flight: account.in_flight,
                weight: account.limits.weight,
                sequence: entry.sequence,
            };
            if best.as_ref().is_none_or(|(_, least)| rank.precedes(least)) {
                best = Some((index, rank));
            }
        }
        best.map(|(index, _)| index)
    }

    fn may(&self, class: usize) -> May {
        if self.total >= self.seats {
            return May::Nobody;
        }
        let account = &self.accounts[class];
        let Shares { reserve, ceiling, idle_ceiling } = account.limits.shares;
        let (count, slow) = (account.in_flight, account.limits.slow);
        if count >= ceiling.max(idle_ceiling) {
            return May::Nobody;
        }
        let all = self.unfilled();
        let others = all - account.unfilled();
        let free = |kept: usize| self.total + kept.saturating_sub(self.excess()) < self.seats;
        let idle = count < idle_ceiling && self.waiting == account.queue.len() && self.total + others < self.seats;
        if (count < ceiling || idle) && free(all) {
            May::Everybody
        } else if count < reserve || (count < ceiling && free(if slow { others } else { 0 })) || idle {
            May::Known
        } else {
            May::Nobody
        }
    }

    /// All unfilled reserves.
    fn unfilled(&self) -> usize {
        self.accounts.iter().map(Account::unfilled).sum()
    }

    /// What the reserves together, at least one seat each, have above L - 1.
    fn excess(&self) -> usize {
        let reserves: usize = self.accounts.iter().map(|account| account.limits.shares.reserve).sum();
        (reserves + 1).saturating_sub(self.seats)
    }

    /// How many seats the class may have now.
    fn reach(&self, class: usize) -> usize {
        let account = &self.accounts[class];
        let Shares { reserve, ceiling, idle_ceiling } = account.limits.shares;
        let others = self.unfilled() - account.unfilled();
        let alone = self.waiting == account.queue.len();
        let kept = if account.limits.slow || alone && idle_ceiling > ceiling { others.saturating_sub(self.excess()) } else { 0 };
        let left = self.seats.saturating_sub(self.total - account.in_flight + kept);
        left.min(if alone { idle_ceiling } else { ceiling }).max(reserve).max(1)
    }

    fn expected(&self, class: usize, ahead: usize) -> Duration {
        let Some(hold) = self.accounts[class].queue.mean_hold() else { return Duration::ZERO };
        #[expect(clippy::cast_precision_loss, reason = "a ratio of small counts")]
        let rounds = (ahead + 1) as f64 / self.reach(class) as f64;
        Duration::try_from_secs_f64(hold.as_secs_f64() * rounds).unwrap_or(Duration::MAX)
    }

    /// The account that a running or waiting request is charged to.
    pub fn account(&self, key: Key) -> Option<usize> {
        self.entries.get(key).map(|entry| entry.account)
    }

    /// The documents of a running or waiting request.
    pub fn documents(&self, key: Key) -> Option<&DocumentKeys> {
        self.entries.get(key).map(|entry| &entry.documents)
    }

    /// Seats that are taken.
    pub fn in_flight(&self) -> usize {
        self.total
    }

    /// What a class looks like at a moment.
    pub fn sight(&self, class: usize, now: Moment) -> Sight {
        let account = &self.accounts[class];
        let running = self.entries.iter().filter(|(_, entry)| entry.running && entry.account == class);
        Sight {
            in_flight: account.in_flight,
            queued: account.queue.len(),
            oldest_waiting: account.queue.oldest().map_or(Duration::ZERO, |index| now.since(self.entries[index].arrived)),
            oldest_running: running.map(|(_, entry)| now.since(entry.started)).max().unwrap_or_default(),
            mean_hold: account.queue.mean_hold().unwrap_or_default(),
            predicted_wait: if self.may(class) == May::Nobody { self.expected(class, account.queue.len()) } else { Duration::ZERO },
        }
    }
}

/// What decides between the candidates of two classes.
#[derive(Debug)]
struct Rank {
    above_reserve: bool,
    in_flight: usize,
    weight: u32,
    sequence: u64,
}

impl Rank {
    fn precedes(&self, other: &Self) -> bool {
        let own = self.in_flight as u128 * u128::from(other.weight);
        let others = other.in_flight as u128 * u128::from(self.weight);
        (self.above_reserve, own, self.sequence) < (other.above_reserve, others, other.sequence)
    }
}

/// What a class looks like at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight {
    /// Seats charged to it.
    pub in_flight: usize,
    /// Requests that wait.
    pub queued: usize,
    /// The age of the one that waits longest.
    pub oldest_waiting: Duration,
    /// The age of the one that runs longest.
    pub oldest_running: Duration,
    /// The mean time that a seat of it was held of late.
    pub mean_hold: Duration,
    /// What a newcomer would have to expect.
    pub predicted_wait: Duration,
}
