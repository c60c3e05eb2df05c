//! Inside a class: a queue per client, start-time fair among clients, with a cap of seats for each.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996). Every client has a *tag*, the virtual start of its next request, in
//! nanoseconds of seat time. The smallest tag starts first; a start adds the class's mean hold to it, and when the seat comes back that
//! estimate is replaced by what was really used. The class's *virtual time* follows the tags of those that are taken from the queue; a
//! client that was away comes back at the virtual time, so that nobody saves up rights by being idle, and nobody is more than
//! [`DEBT_MAX`] behind or before it, so that one huge request does not shut its client out for good. While nobody waits, every client could have had at least a
//! seat of its own, so the virtual time then goes on like the clock: debts are paid off by calm.
//!
//! Waiters stand in *lanes*: what writes before what only reads in a slow class, and those whose documents are known apart from those of
//! which nothing is known, since the latter may be passed over. A lane holds the clients that could start a request of it now, so that
//! nothing is scanned: a client at its cap stands in none, and a waiter whose document its client already has a seat for is parked there.

use std::{collections::BTreeSet, time::Duration};

use foldhash::fast::RandomState;

use super::slab::{Link, Linked, List, NIL, Slab};
use crate::{
    clock::{Moment, nanoseconds},
    model::DocumentKeys,
};

type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// The most that a client's tag may lie away from the virtual time, in nanoseconds of seat time.
pub const DEBT_MAX: u64 = 30_000_000_000;

/// The most clients without any request whose debts a class remembers.
const DEBTORS_MAX: usize = 4096;

/// The weight of the newest hold in the mean.
const MEAN_WEIGHT: f64 = 0.1;

const LANES: usize = 4;

/// Which list a link belongs to: the lane (or the parking place), the client's arrivals, the class's arrivals (or its running requests).
const BY_LANE: usize = 0;
const BY_CLIENT: usize = 1;
/// The links of the class's own lists.
pub const BY_CLASS: usize = 2;

/// A request that waits or runs.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts about a request")]
pub struct Entry {
    /// Whose it is: the core's index of the request.
    pub owner: u32,
    /// The class in whose queue or account it stands.
    pub account: usize,
    /// The account it moves to.
    pub long: usize,
    /// Its client.
    pub client: u64,
    /// Its documents.
    pub documents: DocumentKeys,
    /// Whether it may change documents.
    pub writes: bool,
    /// Whether nothing is known of one of its documents.
    pub unseen: bool,
    /// Whether it is open-ended.
    pub stream: bool,
    /// When it came.
    pub arrived: Moment,
    /// When it got its seat, in the account where it is now.
    pub since: Moment,
    /// When it got its seat at all.
    pub started: Moment,
    /// The order of arrival.
    pub sequence: u64,
    /// How long it was expected to wait when it came.
    pub predicted: Option<Duration>,
    /// Whether it has a seat.
    pub running: bool,
    /// Whether it was moved into another account.
    pub moved: bool,
    /// Whether it stands in its class's list of those that may have to be moved.
    pub watched: bool,
    slot: u32,
    charged: u64,
    seated: bool,
    parked: Option<u64>,
    lane: usize,
    links: [Link; 3],
}

impl Linked for Entry {
    fn link(&mut self, which: usize) -> &mut Link {
        &mut self.links[which]
    }

    fn link_ref(&self, which: usize) -> Link {
        self.links[which]
    }

    fn order(&self) -> u64 {
        self.sequence
    }
}

/// What a request asks of a schedule.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The core's index of the request.
    pub owner: u32,
    /// Its class.
    pub class: usize,
    /// The account it moves to.
    pub long: usize,
    /// Its client.
    pub client: u64,
    /// Its documents.
    pub documents: DocumentKeys,
    /// Whether it may change documents.
    pub writes: bool,
    /// Whether nothing is known of one of its documents.
    pub unseen: bool,
    /// Whether it is open-ended.
    pub stream: bool,
}

impl Entry {
    /// A request that has neither a place nor a seat yet.
    pub fn new(ask: Ask, sequence: u64, now: Moment) -> Self {
        Self {
            owner: ask.owner,
            account: ask.class,
            long: ask.long,
            client: ask.client,
            documents: ask.documents,
            writes: ask.writes,
            unseen: ask.unseen,
            stream: ask.stream,
            arrived: now,
            since: now,
            started: now,
            sequence,
            predicted: None,
            running: false,
            moved: false,
            watched: false,
            slot: NIL,
            charged: 0,
            seated: false,
            parked: None,
            lane: 0,
            links: [Link::default(); 3],
        }
    }
}

#[derive(Debug)]
struct Client {
    key: u64,
    running: u32,
    waiting: [u32; 2],
    lanes: [List; LANES],
    arrivals: List,
    tag: u64,
    placed: [Option<(u64, u64)>; LANES],
    debtor: bool,
}

impl Client {
    fn waits(&self) -> u32 {
        self.waiting[0] + self.waiting[1]
    }
}

/// The seats of one client for one document, and who waits for them.
#[derive(Debug)]
struct Occupied {
    running: u32,
    parked: List,
}

/// How a class queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Whether what writes goes before what only reads.
    pub writes_first: bool,
    /// The most seats of one client; `u32::MAX`: no cap.
    pub client_max: u32,
    /// Whether a client has at most one seat per document.
    pub one_per_document: bool,
}

/// The queue of one class, with what is remembered of its clients.
#[derive(Debug)]
pub struct Queue {
    manner: Manner,
    clients: Slab<Client>,
    slots: HashMap<u64, u32>,
    lanes: [BTreeSet<(u64, u64, u32)>; LANES],
    /// How many clients have more than `n` waiters of a kind: `levels[kind][n]`.
    levels: [Vec<u32>; 2],
    sizes: BTreeSet<(u32, u32)>,
    arrivals: List,
    waiting: usize,
    occupied: HashMap<(u64, u64), Occupied>,
    virtual_time: u64,
    calm_since: Moment,
    debtors: BTreeSet<(u64, u32)>,
    mean_hold: Option<f64>,
}

impl Queue {
    /// An empty queue.
    pub fn new(manner: Manner, now: Moment) -> Self {
        Self {
            manner,
            clients: Slab::new(),
            slots: HashMap::default(),
            lanes: Default::default(),
            levels: Default::default(),
            sizes: BTreeSet::new(),
            arrivals: List::new(BY_CLASS),
            waiting: 0,
            occupied: HashMap::default(),
            virtual_time: 0,
            calm_since: now,
            debtors: BTreeSet::new(),
            mean_hold: None,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// The waiter that has waited longest.
    pub fn oldest(&self) -> Option<u32> {
        self.arrivals.head()
    }

    /// The mean time that a seat was held of late; none before the first came back.
    pub fn mean_hold(&self) -> Option<Duration> {
        self.mean_hold.map(Duration::from_secs_f64)
    }

    /// Counts a hold towards the mean.
    pub fn count_hold(&mut self, hold: Duration) {
        let hold = hold.as_secs_f64();
        self.mean_hold = Some(self.mean_hold.map_or(hold, |mean| mean + MEAN_WEIGHT * (hold - mean)));
    }

    /// How many requests of this kind by this client would have to start before another one of its: its own, and of each other client as many.
    pub fn ahead(&self, client: u64, writes: bool) -> usize {
        let kind = self.kind(writes);
        let own = self.slots.get(&client).map_or(0, |slot| self.clients[*slot].waiting[kind]) as usize;
        let fair: u32 = self.levels[kind].iter().take(own + 1).sum();
        let first = if kind == 1 { self.waiting_of(0) } else { 0 };
        fair as usize + first
    }

    fn waiting_of(&self, kind: usize) -> usize {
        self.levels[kind].iter().sum::<u32>() as usize
    }

    fn kind(&self, writes: bool) -> usize {
        usize::from(!(writes && self.manner.writes_first))
    }

    /// Whether the client's own seats stand in its way: its cap, or a seat for one of these documents.
    pub fn blocked(&self, client: u64, documents: &DocumentKeys) -> bool {
        let capped = self.slots.get(&client).is_some_and(|slot| self.clients[*slot].running >= self.manner.client_max);
        capped || self.occupied_by(client, documents).is_some()
    }

    fn occupied_by(&self, client: u64, documents: &DocumentKeys) -> Option<u64> {
        if !self.manner.one_per_document || self.occupied.is_empty() {
            return None;
        }
        documents.iter().map(|key| key.0).find(|key| self.occupied.get(&(client, *key)).is_some_and(|place| place.running > 0))
    }

    /// The newest waiter of the client with the most waiting; none if that would be the newcomer's own client, itself counted.
    pub fn displaced_by(&self, client: u64) -> Option<u32> {
        let own = self.slots.get(&client).map_or(0, |slot| self.clients[*slot].waits());
        let (most, slot) = *self.sizes.last()?;
        if own + 1 >= most {
            return None;
        }
        self.clients[slot].arrivals.tail()
    }

    fn virtual_now(&self, now: Moment) -> u64 {
        if self.waiting == 0 { self.virtual_time.saturating_add(nanoseconds(now.since(self.calm_since))) } else { self.virtual_time }
    }

    fn client(&mut self, key: u64, now: Moment) -> u32 {
        let virtual_now = self.virtual_now(now);
        if let Some(slot) = self.slots.get(&key).copied() {
            let client = &mut self.clients[slot];
            if std::mem::take(&mut client.debtor) {
                self.debtors.remove(&(client.tag, slot));
                client.tag = client.tag.max(virtual_now);
            }
            return slot;
        }
        let slot = self
            .clients
            .insert(Client {
                key,
                running: 0,
                waiting: [0; 2],
                lanes: [List::new(BY_LANE); LANES],
                arrivals: List::new(BY_CLIENT),
                tag: virtual_now,
                placed: [None; LANES],
                debtor: false,
            })
            .index;
        self.slots.insert(key, slot);
        slot
    }

    /// Forgets a client that has nothing here any more, unless it has a debt.
    fn release(&mut self, slot: u32, now: Moment) {
        let virtual_now = self.virtual_now(now);
        let client = &mut self.clients[slot];
        if client.running > 0 || client.waits() > 0 {
            return;
        }
        if client.tag > virtual_now {
            client.debtor = true;
            self.debtors.insert((client.tag, slot));
        } else {
            self.forget(slot);
        }
        while let Some((tag, debtor)) = self.debtors.first().copied() {
            if tag > virtual_now && self.debtors.len() <= DEBTORS_MAX {
                break;
            }
            self.debtors.pop_first();
            self.forget(debtor);
        }
    }

    fn forget(&mut self, slot: u32) {
        if let Some(client) = self.clients.remove(slot) {
            self.slots.remove(&client.key);
        }
    }

    /// Brings a client's places in the lanes up to date with its tag, its cap and the heads of its lists.
    fn refresh(&mut self, entries: &Slab<Entry>, slot: u32) {
        let client = &mut self.clients[slot];
        let capped = client.running >= self.manner.client_max;
        for lane in 0..LANES {
            let head = if capped { None } else { client.lanes[lane].head() };
            let place = head.map(|head| (client.tag, entries[head].sequence));
            if place == client.placed[lane] {
                continue;
            }
            if let Some((tag, sequence)) = client.placed[lane] {
                self.lanes[lane].remove(&(tag, sequence, slot));
            }
            if let Some((tag, sequence)) = place {
                self.lanes[lane].insert((tag, sequence, slot));
            }
            client.placed[lane] = place;
        }
    }

    /// A request begins to wait.
    pub fn wait(&mut self, entries: &mut Slab<Entry>, index: u32, now: Moment) {
        let slot = self.client(entries[index].client, now);
        let virtual_now = self.virtual_now(now);
        self.virtual_time = virtual_now;
        self.calm_since = now;
        let client = &mut self.clients[slot];
        if client.waits() == 0 {
            client.tag = client.tag.max(virtual_now);
        }
        entries[index].slot = slot;
        client.arrivals.push(entries, index);
        self.arrivals.push(entries, index);
        self.waiting += 1;
        self.place(entries, index);
        self.refresh(entries, slot);
    }

    /// Counts a waiter and puts it into its lane, or parks it.
    fn place(&mut self, entries: &mut Slab<Entry>, index: u32) {
        let entry = &entries[index];
        let (slot, kind) = (entry.slot, self.kind(entry.writes));
        let lane = kind * 2 + usize::from(entry.unseen);
        entries[index].lane = lane;
        self.resize(slot, kind, true);
        self.enlist(entries, index);
    }

    fn enlist(&mut self, entries: &mut Slab<Entry>, index: u32) {
        let (client, slot, lane) = (entries[index].client, entries[index].slot, entries[index].lane);
        if let Some(document) = self.occupied_by(client, &entries[index].documents) {
            entries[index].parked = Some(document);
            if let Some(place) = self.occupied.get_mut(&(client, document)) {
                place.parked.insert(entries, index);
            }
        } else {
            entries[index].parked = None;
            self.clients[slot].lanes[lane].insert(entries, index);
        }
    }

    fn delist(&mut self, entries: &mut Slab<Entry>, index: u32) {
        let entry = &mut entries[index];
        let (client, slot, lane) = (entry.client, entry.slot, entry.lane);
        match entry.parked.take() {
            Some(document) => {
                if let Some(place) = self.occupied.get_mut(&(client, document)) {
                    place.parked.remove(entries, index);
                }
            }
            None => self.clients[slot].lanes[lane].remove(entries, index),
        }
    }

    fn resize(&mut self, slot: u32, kind: usize, more: bool) {
        let client = &mut self.clients[slot];
        let before = client.waits();
        let levels = &mut self.levels[kind];
        if more {
            let level = client.waiting[kind] as usize;
            if levels.len() == level {
                levels.push(0);
            }
            levels[level] += 1;
            client.waiting[kind] += 1;
        } else {
            client.waiting[kind] -= 1;
            let level = client.waiting[kind] as usize;
            levels[level] -= 1;
            if levels.last() == Some(&0) {
                levels.pop();
            }
        }
        self.sizes.remove(&(before, slot));
        let after = client.waits();
        if after > 0 {
            self.sizes.insert((after, slot));
        }
    }

    /// A request waits no longer: it leaves, is refused, or is about to start.
    pub fn leave(&mut self, entries: &mut Slab<Entry>, index: u32, now: Moment) {
        let slot = self.withdraw(entries, index, now);
        self.release(slot, now);
    }

    fn withdraw(&mut self, entries: &mut Slab<Entry>, index: u32, now: Moment) -> u32 {
        let (slot, kind) = (entries[index].slot, entries[index].lane / 2);
        self.delist(entries, index);
        self.clients[slot].arrivals.remove(entries, index);
        self.arrivals.remove(entries, index);
        self.resize(slot, kind, false);
        self.waiting -= 1;
        if self.waiting == 0 {
            self.calm_since = now;
        }
        self.refresh(entries, slot);
        slot
    }

    /// The waiter that would start next, if any may: known ones, or (`unseen`) also those of which nothing is known.
    pub fn pick(&mut self, entries: &mut Slab<Entry>, unseen: bool) -> Option<u32> {
        for kind in 0..2 {
            loop {
                let known = self.lanes[kind * 2].first();
                let other = if unseen { self.lanes[kind * 2 + 1].first() } else { None };
                let Some((_, _, slot)) = [known, other].into_iter().flatten().min().copied() else { break };
                let lane = kind * 2 + usize::from(known.is_none_or(|known| other.is_some_and(|other| other < known)));
                let Some(head) = self.clients[slot].lanes[lane].head() else { break };
                if self.occupied_by(entries[head].client, &entries[head].documents).is_none() {
                    return Some(head);
                }
                self.delist(entries, head);
                self.enlist(entries, head);
                self.refresh(entries, slot);
            }
        }
        None
    }

    /// A waiter that was picked takes its seat.
    pub fn start_waiter(&mut self, entries: &mut Slab<Entry>, index: u32, now: Moment) {
        let slot = entries[index].slot;
        self.virtual_time = self.virtual_time.max(self.clients[slot].tag);
        self.withdraw(entries, index, now);
        self.seat(entries, index, slot, now);
    }

    /// A request takes a seat without having waited here.
    pub fn start(&mut self, entries: &mut Slab<Entry>, index: u32, now: Moment) {
        let slot = self.client(entries[index].client, now);
        let virtual_now = self.virtual_now(now);
        let client = &mut self.clients[slot];
        if client.waits() == 0 {
            client.tag = client.tag.max(virtual_now);
        }
        entries[index].slot = slot;
        self.seat(entries, index, slot, now);
    }

    fn seat(&mut self, entries: &mut Slab<Entry>, index: u32, slot: u32, now: Moment) {
        let virtual_now = self.virtual_now(now);
        let estimate = self.mean_hold().map_or(0, nanoseconds);
        let client = &mut self.clients[slot];
        client.running += 1;
        let tag = client.tag.max(virtual_now.saturating_sub(DEBT_MAX));
        client.tag = settled(tag, estimate, 0, virtual_now);
        let entry = &mut entries[index];
        // What was added in fact: only so much is taken off again when the seat comes back.
        entry.charged = client.tag.saturating_sub(tag);
        entry.seated = self.manner.one_per_document && !entry.documents.is_empty();
        if entry.seated {
            for document in &entry.documents {
                self.occupied
                    .entry((entry.client, document.0))
                    .or_insert_with(|| Occupied { running: 0, parked: List::new(BY_LANE) })
                    .running += 1;
            }
        }
        if client.waits() > 0 {
            self.refresh(entries, slot);
        }
    }

    /// A seat comes back (or moves to another account) after `hold`.
    pub fn end(&mut self, entries: &mut Slab<Entry>, index: u32, hold: Duration, now: Moment) {
        let virtual_now = self.virtual_now(now);
        let (slot, charged) = (entries[index].slot, entries[index].charged);
        let client = &mut self.clients[slot];
        client.running -= 1;
        client.tag = settled(client.tag, nanoseconds(hold), charged, virtual_now);
        if std::mem::take(&mut entries[index].seated) {
            let (client, documents) = (entries[index].client, entries[index].documents.clone());
            for document in documents {
                self.vacate(entries, (client, document.0));
            }
        }
        if self.clients[slot].waits() > 0 {
            self.refresh(entries, slot);
        } else {
            self.release(slot, now);
        }
    }

    fn vacate(&mut self, entries: &mut Slab<Entry>, place: (u64, u64)) {
        let Some(occupied) = self.occupied.get_mut(&place) else { return };
        occupied.running -= 1;
        if occupied.running > 0 {
            return;
        }
        let Some(mut occupied) = self.occupied.remove(&place) else { return };
        while let Some(index) = occupied.parked.head() {
            occupied.parked.remove(entries, index);
            self.enlist(entries, index);
        }
    }

    /// Queues in another manner from now on; everybody keeps the place that arrival and tag give.
    pub fn change(&mut self, entries: &mut Slab<Entry>, manner: Manner) {
        if manner == self.manner {
            return;
        }
        let mut waiters = Vec::with_capacity(self.waiting);
        let mut next = self.arrivals.head();
        while let Some(index) = next {
            next = self.arrivals.next(entries, index);
            waiters.push(index);
        }
        for index in &waiters {
            let (slot, kind) = (entries[*index].slot, entries[*index].lane / 2);
            self.delist(entries, *index);
            self.resize(slot, kind, false);
        }
        self.manner = manner;
        for index in &waiters {
            self.place(entries, *index);
        }
        let slots: Vec<u32> = self.clients.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.refresh(entries, slot);
        }
    }
}

/// A tag with `actual` instead of `charged` seat time, at most [`DEBT_MAX`] beyond the virtual time.
fn settled(tag: u64, actual: u64, charged: u64, virtual_now: u64) -> u64 {
    tag.saturating_add(actual).saturating_sub(charged).min(virtual_now.saturating_add(DEBT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Entry {
        /// Whether its client's places for its documents are taken by it.
        pub fn holds_documents(&self) -> bool {
            self.seated
        }
    }

    impl Queue {
        /// The tag of a client that waits here.
        pub fn tag(&self, client: u64) -> u64 {
            self.clients[self.slots[&client]].tag
        }

        /// The virtual time.
        pub fn time(&self, now: Moment) -> u64 {
            self.virtual_now(now)
        }

        fn walk(&self, list: &List, entries: &Slab<Entry>) -> Vec<u32> {
            let mut found: Vec<u32> = Vec::new();
            let mut next = list.head();
            while let Some(index) = next {
                assert!(found.len() < self.waiting, "a list runs in a circle");
                assert!(found.last().is_none_or(|last| entries[*last].sequence < entries[index].sequence), "a list is out of order");
                found.push(index);
                next = list.next(entries, index);
            }
            assert_eq!(list.tail(), found.last().copied());
            found
        }

        /// Asserts whatever must hold between two calls.
        pub fn check(&self, entries: &Slab<Entry>, class: usize) {
            let here = |running: bool| entries.iter().filter(move |(_, entry)| entry.account == class && entry.running == running);
            let waiters: BTreeSet<u32> = here(false).map(|(index, _)| index).collect();
            assert_eq!(self.waiting, waiters.len());
            assert_eq!(self.walk(&self.arrivals, entries).into_iter().collect::<BTreeSet<_>>(), waiters);
            let mut levels = [Vec::new(), Vec::new()];
            let mut sizes = BTreeSet::new();
            let mut lanes: [BTreeSet<(u64, u64, u32)>; LANES] = Default::default();
            let mut placed = 0;
            for (slot, client) in self.clients.iter() {
                assert_eq!(self.slots[&client.key], slot);
                let own = |running| here(running).filter(|(_, entry)| entry.client == client.key);
                assert_eq!(client.running as usize, own(true).count());
                assert_eq!(client.waits() as usize, own(false).count());
                assert_eq!(self.walk(&client.arrivals, entries).len(), client.waits() as usize);
                assert!(client.tag <= self.virtual_time.saturating_add(DEBT_MAX) || self.waiting == 0);
                let nothing = client.running == 0 && client.waits() == 0;
                assert_eq!(nothing, client.debtor, "a client without any request is kept only for its debt");
                assert_eq!(client.debtor, self.debtors.contains(&(client.tag, slot)));
                if client.waits() > 0 {
                    sizes.insert((client.waits(), slot));
                }
                for (kind, levels) in levels.iter_mut().enumerate() {
                    let count = client.waiting[kind] as usize;
                    assert_eq!(count, own(false).filter(|(_, entry)| self.kind(entry.writes) == kind).count());
                    if levels.len() < count {
                        levels.resize(count, 0);
                    }
                    levels[..count].iter_mut().for_each(|level| *level += 1);
                }
                for (lane, found) in lanes.iter_mut().enumerate() {
                    let list = self.walk(&client.lanes[lane], entries);
                    for index in &list {
                        let entry = &entries[*index];
                        assert!(!entry.running && entry.parked.is_none() && entry.slot == slot && entry.lane == lane);
                    }
                    placed += list.len();
                    if let Some(head) = list.first().filter(|_| client.running < self.manner.client_max) {
                        found.insert((client.tag, entries[*head].sequence, slot));
                    }
                }
            }
            assert_eq!((&self.levels, &self.sizes, &self.lanes), (&levels, &sizes, &lanes));
            assert_eq!(self.slots.len(), self.clients.len());
            assert_eq!(self.debtors.len(), self.clients.iter().filter(|(_, client)| client.debtor).count());
            for ((client, document), place) in &self.occupied {
                let mut holders = 0;
                for (_, entry) in here(true).filter(|(_, entry)| entry.seated && entry.client == *client) {
                    holders += entry.documents.iter().filter(|key| key.0 == *document).count();
                }
                assert_eq!(place.running as usize, holders);
                assert!(holders > 0, "an empty place is kept");
                placed += self.walk(&place.parked, entries).len();
            }
            assert_eq!(placed, self.waiting, "everybody who waits stands in one lane or is parked");
        }
    }

    #[test]
    fn the_mean_hold_follows_what_was_seen() {
        let mut queue = Queue::new(Manner { writes_first: false, client_max: 1, one_per_document: false }, Moment(0));
        assert_eq!(queue.mean_hold(), None);
        queue.count_hold(Duration::from_secs(1));
        queue.count_hold(Duration::from_secs(2));
        assert_eq!(queue.mean_hold(), Some(Duration::from_millis(1100)));
    }
}
