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
        self.relimit(seats, limits, now);
        self.dispatch(now, events);
        self.advance(now, events);
    }

    fn relimit(&mut self, seats: Option<usize>, limits: &[Limits], now: Moment) {
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
        self.vacate(key, now);
        self.dispatch(now, events);
    }

    fn vacate(&mut self, key: Key, now: Moment) {
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
    }

    /// Lets time pass: refuses whoever has waited for too long and moves whoever has run for too long.
    pub fn advance(&mut self, now: Moment, events: &mut Vec<Event>) {
        if self.expire(now, events) {
            self.dispatch(now, events);
        }
    }

    fn expire(&mut self, now: Moment, events: &mut Vec<Event>) -> bool {
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
        changed
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
            self.grant(index, now, events);
        }
    }

    fn grant(&mut self, index: u32, now: Moment, events: &mut Vec<Event>) {
        let class = self.entries[index].account;
        self.accounts[class].queue.start_waiter(&mut self.entries, index, now);
        self.waiting -= 1;
        self.seat(index, now);
        let entry = &self.entries[index];
        events.push(Event::Started { owner: entry.owner, waited: now.since(entry.arrived), predicted: entry.predicted });
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

    /// Whether anybody waits for a seat.
    pub fn waits(&self) -> bool {
        self.waiting > 0
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::DocumentKey;

    impl Schedule {
        fn count(&self, of: impl Fn(&Entry) -> bool) -> usize {
            self.entries.iter().filter(|(_, entry)| of(entry)).count()
        }

        /// DESIGN's rule word for word, for one waiter.
        fn may_start(&self, entry: &Entry) -> bool {
            let class = entry.account;
            let limits = &self.accounts[class].limits;
            let in_flight = |class| self.count(|entry| entry.running && entry.account == class);
            let total = self.count(|entry| entry.running);
            let unfilled = |class: usize| self.accounts[class].limits.shares.reserve.saturating_sub(in_flight(class));
            let excess = (self.accounts.iter().map(|account| account.limits.shares.reserve).sum::<usize>() + 1).saturating_sub(self.seats);
            let all = 0..self.accounts.len();
            let others: usize = all.clone().filter(|other| *other != class).map(unfilled).sum();
            let count = in_flight(class);
            if total >= self.seats {
                return false;
            }
            let own = self.count(|other| other.running && other.account == class && other.client == entry.client);
            let occupied = limits.manner.one_per_document
                && self.entries.iter().any(|(_, other)| {
                    other.holds_documents()
                        && other.account == class
                        && other.client == entry.client
                        && other.documents.iter().any(|document| entry.documents.contains(document))
                });
            if own >= limits.manner.client_max as usize || occupied {
                return false;
            }
            let rivals = self.entries.iter().any(|(_, other)| !other.running && other.account != class);
            let idle = count < limits.shares.idle_ceiling && !rivals && total + others < self.seats;
            if entry.unseen {
                let everything: usize = all.map(unfilled).sum();
                return (count < limits.shares.ceiling || idle) && total + everything.saturating_sub(excess) < self.seats;
            }
            let kept = if limits.slow { others.saturating_sub(excess) } else { 0 };
            count < limits.shares.reserve || (count < limits.shares.ceiling && total + kept < self.seats) || idle
        }

        /// Who should start next, found by looking at everybody.
        fn rightful(&self) -> Option<u32> {
            let mut best: Option<(u32, usize)> = None;
            for class in 0..self.accounts.len() {
                let account = &self.accounts[class];
                let startable = self.entries.iter().filter(|(_, entry)| !entry.running && entry.account == class && self.may_start(entry));
                let first = startable.min_by_key(|(_, entry)| {
                    let read = !(entry.writes && account.limits.slow);
                    (read, account.queue.tag(entry.client), entry.sequence)
                });
                let Some((index, _)) = first else { continue };
                let rank = |index: u32, class: usize| {
                    let limits = &self.accounts[class].limits;
                    let count = self.count(|entry| entry.running && entry.account == class);
                    let entry = &self.entries[index];
                    let below = count < limits.shares.reserve && !entry.unseen;
                    (!below, count * 1_000_000_007 / limits.weight as usize, entry.sequence)
                };
                if best.is_none_or(|(other, other_class)| rank(index, class) < rank(other, other_class)) {
                    best = Some((index, class));
                }
            }
            best.map(|(index, _)| index)
        }

        /// Asserts whatever must hold between two calls.
        fn check(&self) {
            assert_eq!(self.total, self.count(|entry| entry.running));
            assert_eq!(self.waiting, self.count(|entry| !entry.running));
            assert_eq!(self.waiting + self.total, self.entries.len());
            for (class, account) in self.accounts.iter().enumerate() {
                assert_eq!(account.in_flight, self.count(|entry| entry.running && entry.account == class));
                account.queue.check(&self.entries, class);
                let mut watched = 0;
                let (mut next, mut last) = (account.watched.head(), Moment::default());
                while let Some(index) = next {
                    let entry = &self.entries[index];
                    assert!(entry.running && entry.watched && entry.account == class && entry.started >= last);
                    last = entry.started;
                    watched += 1;
                    next = account.watched.next(&self.entries, index);
                }
                assert_eq!(watched, self.count(|entry| entry.watched && entry.account == class));
            }
            assert_eq!(self.rightful(), None, "somebody waits who may start");
        }

        /// What [`Schedule::dispatch`] does, each choice compared with the rightful one.
        fn audited_dispatch(&mut self, now: Moment, events: &mut Vec<Event>) {
            loop {
                let rightful = self.rightful();
                let chosen = self.choose();
                assert_eq!(chosen, rightful);
                let Some(index) = chosen else { return };
                self.grant(index, now, events);
            }
        }
    }

    fn random_limits(random: &mut fastrand::Rng, seats: usize) -> Vec<Limits> {
        let mut left = seats * 9 / 10;
        (0..5)
            .map(|class| {
                let reserve = if random.bool() { random.usize(0..=left.min(3)) } else { 0 };
                left -= reserve;
                let ceiling = random.usize(reserve.max(1)..=seats.max(reserve).max(1));
                let slow = random.bool();
                Limits {
                    shares: Shares { reserve, ceiling, idle_ceiling: random.usize(ceiling..=ceiling.max(seats)) },
                    weight: random.u32(1..9),
                    slow,
                    manner: Manner {
                        writes_first: slow,
                        client_max: if random.bool() { random.u32(1..4) } else { u32::MAX },
                        one_per_document: slow && random.bool(),
                    },
                    wait_max: Duration::from_millis(random.u64(1..3000)),
                    queue_max: random.usize(0..8),
                    long_after: (class < 2 && random.bool()).then(|| Duration::from_millis(random.u64(1..500))),
                }
            })
            .collect()
    }

    fn random_ask(random: &mut fastrand::Rng, owner: u32) -> Ask {
        let documents = (0..random.usize(0..3)).map(|_| DocumentKey(random.u64(0..4))).collect();
        Ask {
            owner,
            class: random.usize(0..5),
            long: random.usize(0..5),
            client: random.u64(0..6),
            documents,
            writes: random.bool(),
            unseen: random.u8(0..4) == 0,
            stream: random.u8(0..8) == 0,
        }
    }

    /// Random events on one schedule, with every choice and every invariant checked.
    fn storm(seed: u64, steps: usize) {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut seats = random.usize(1..14);
        let mut now = Moment(1_000_000_000);
        let limits = random_limits(&mut random, seats);
        let mut schedule = Schedule::new(Some(seats), &limits, now);
        let mut events = Vec::new();
        let mut keys: HashMap<u32, Key> = HashMap::new();
        let mut virtual_times = [0; 5];
        for step in 0..steps {
            now = now + Duration::from_micros(random.u64(0..20_000));
            match random.u8(0..100) {
                0..50 => {
                    let owner = u32::try_from(step).unwrap();
                    let ask = random_ask(&mut random, owner);
                    let (class, before) = (ask.class, schedule.accounts[ask.class].queue.len());
                    match schedule.arrive(ask, now, &mut events) {
                        Arrival::Started(key) | Arrival::Waits(key) => {
                            keys.insert(owner, key);
                        }
                        Arrival::Refused(denial) => {
                            let limits = &schedule.accounts[class].limits;
                            match denial.cause {
                                Cause::Predicted => assert!(limits.slow && before > 0 && denial.wait > limits.wait_max),
                                Cause::Full => assert!(before >= limits.queue_max),
                                _ => panic!("{denial:?}"),
                            }
                        }
                    }
                    assert!(schedule.accounts[class].queue.len() <= schedule.accounts[class].limits.queue_max.max(before));
                }
                50..92 => {
                    let Some(owner) = keys.keys().copied().min_by_key(|owner| owner.wrapping_mul(2_654_435_761) ^ random.u32(..)) else {
                        continue;
                    };
                    let key = keys.remove(&owner).unwrap();
                    schedule.vacate(key, now);
                    schedule.audited_dispatch(now, &mut events);
                }
                92..99 => {
                    schedule.expire(now, &mut events);
                    schedule.audited_dispatch(now, &mut events);
                    assert!(schedule.next().is_none_or(|next| next > now));
                }
                _ => {
                    seats = random.usize(1..14);
                    let limits = random_limits(&mut random, seats);
                    schedule.relimit(Some(seats), &limits, now);
                    schedule.audited_dispatch(now, &mut events);
                }
            }
            for event in events.drain(..) {
                match event {
                    Event::Started { owner, .. } => assert!(keys.contains_key(&owner), "{owner} started without having come"),
                    Event::Refused { owner, .. } => assert!(keys.remove(&owner).is_some(), "{owner} was refused twice"),
                    Event::Moved { .. } => {}
                }
            }
            assert_eq!(keys.len(), schedule.entries.len());
            schedule.check();
            for (class, last) in virtual_times.iter_mut().enumerate() {
                let time = schedule.accounts[class].queue.time(now);
                assert!(time >= *last, "virtual time went back");
                *last = time;
            }
        }
        for (_, key) in keys {
            schedule.leave(key, now, &mut events);
        }
        schedule.check();
        assert_eq!((schedule.total, schedule.waiting, schedule.entries.len()), (0, 0, 0));
    }

    #[test]
    fn every_choice_in_a_storm_is_the_rightful_one() {
        for seed in 0..100 {
            storm(seed, 5_000);
        }
    }

    #[test]
    fn every_choice_in_a_long_storm_is_the_rightful_one() {
        for seed in 100..110 {
            storm(seed, 50_000);
        }
    }

    /// Water filling: nobody gets more than it asks for, and nobody gets less than another one unless it asks for less.
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn max_min(seats: f64, demands: &[f64]) -> Vec<f64> {
        let mut shares = vec![0.0; demands.len()];
        let mut open: Vec<usize> = (0..demands.len()).collect();
        let mut left = seats;
        while !open.is_empty() {
            let level = left / open.len() as f64;
            let (met, unmet): (Vec<_>, Vec<_>) = open.iter().partition(|client| demands[**client] <= level);
            if met.is_empty() {
                for client in unmet {
                    shares[client] = level;
                }
                break;
            }
            for client in met {
                shares[client] = demands[client];
                left -= demands[client];
            }
            open = unmet;
        }
        shares
    }

    /// A client of the fairness test: so many requests at a time, each of so many seconds, one after the other; or, with an interval,
    /// one every so many seconds, whatever became of the last.
    struct Habit {
        parallel: u32,
        hold: f64,
        interval: f64,
    }

    /// Seats used by each client on average, `seconds` long.
    fn shares_of(seats: usize, cap: u32, habits: &[Habit], seconds: f64, seed: u64) -> Vec<f64> {
        let mut random = fastrand::Rng::with_seed(seed);
        let limits = Limits {
            shares: Shares { reserve: 0, ceiling: seats, idle_ceiling: seats },
            weight: 1,
            slow: false,
            manner: Manner { writes_first: false, client_max: cap, one_per_document: false },
            wait_max: Duration::from_secs(100_000),
            queue_max: 100_000,
            long_after: None,
        };
        let start = Moment(1_000_000_000);
        let mut schedule = Schedule::new(Some(seats), &[limits], start);
        let mut used = vec![0.0; habits.len()];
        let mut running: HashMap<u32, Key> = HashMap::new();
        // What happens at a moment: a client (`false`) sends a request, or (`true`) a request of it ends.
        let mut agenda = std::collections::BinaryHeap::new();
        for (client, habit) in habits.iter().enumerate() {
            for _ in 0..habit.parallel {
                agenda.push(std::cmp::Reverse((start + Duration::from_secs_f64(random.f64() * 0.01), false, client, 0)));
            }
        }
        let (mut events, mut owners, mut owner_of) = (Vec::new(), 0, HashMap::new());
        let end = start + Duration::from_secs_f64(seconds);
        while let Some(std::cmp::Reverse((now, ends, client, owner))) = agenda.pop() {
            if now > end {
                break;
            }
            let mut started = Vec::new();
            if ends {
                let key = running.remove(&owner).unwrap();
                schedule.leave(key, now, &mut events);
                if habits[client].interval == 0.0 {
                    agenda.push(std::cmp::Reverse((now, false, client, 0)));
                }
            } else {
                if habits[client].interval > 0.0 {
                    let interval = Duration::from_secs_f64(habits[client].interval * random.f64() * 2.0);
                    agenda.push(std::cmp::Reverse((now + interval, false, client, 0)));
                }
                owners += 1;
                let ask = Ask {
                    owner: owners,
                    class: 0,
                    long: 0,
                    client: client as u64,
                    documents: [].into_iter().collect(),
                    writes: false,
                    unseen: false,
                    stream: false,
                };
                match schedule.arrive(ask, now, &mut events) {
                    Arrival::Started(key) => {
                        running.insert(owners, key);
                        started.push((owners, client));
                    }
                    Arrival::Waits(key) => {
                        running.insert(owners, key);
                        owner_of.insert(owners, client);
                    }
                    Arrival::Refused(denial) => panic!("{denial:?}"),
                }
            }
            for event in events.drain(..) {
                if let Event::Started { owner, .. } = event {
                    started.push((owner, owner_of.remove(&owner).unwrap()));
                }
            }
            for (owner, client) in started {
                let hold = habits[client].hold * (0.5 + random.f64());
                used[client] += hold;
                agenda.push(std::cmp::Reverse((now + Duration::from_secs_f64(hold), true, client, owner)));
            }
        }
        used.iter().map(|used| used / seconds).collect()
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn clients_get_their_max_min_fair_share_of_seat_time() {
        for (seed, seats, cap, habits) in [
            (1, 4, u32::MAX, vec![(40, 1.0, 0.0), (2, 1.0, 0.0), (4, 1.0, 0.0), (8, 1.0, 0.0)]),
            (2, 4, u32::MAX, vec![(10, 0.02, 0.0), (10, 0.2, 0.0), (10, 2.0, 0.0), (10, 8.0, 0.0)]),
            (3, 8, 2, vec![(20, 0.5, 0.0), (20, 3.0, 0.0), (1, 0.1, 0.5), (9, 1.0, 0.0), (9, 1.0, 0.0), (9, 0.3, 0.0)]),
            (4, 2, 1, vec![(5, 1.0, 0.0), (5, 1.0, 0.0), (5, 5.0, 0.0), (1, 0.05, 1.0), (1, 0.05, 1.0)]),
            (5, 16, u32::MAX, (2..40).map(|n| (n, 0.1 * f64::from(n % 7 + 1), 0.0)).collect()),
        ] {
            let habits: Vec<_> = habits.into_iter().map(|(parallel, hold, interval)| Habit { parallel, hold, interval }).collect();
            let demand = |habit: &Habit| {
                if habit.interval > 0.0 { habit.hold / habit.interval } else { f64::from(habit.parallel.min(cap)) }
            };
            let fair = max_min(seats as f64, &habits.iter().map(demand).collect::<Vec<_>>());
            let got = shares_of(seats, cap, &habits, 4000.0, seed);
            println!("seed {seed}: fair {fair:.3?} got {got:.3?}");
            for (fair, got) in fair.iter().zip(&got) {
                assert!((fair - got).abs() <= 0.05 * fair.max(0.2), "seed {seed}: fair {fair:.3}, got {got:.3}");
            }
        }
    }
}
