//! How a client behaves: it syncs when it is due, one request at a time, gives up waiting, tries again with back-off, keeps what
//! was typed until the service has it.

use std::{collections::HashMap, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::json;

use super::{
    plan::{Member, Role, Ticks},
    wire::{Ending, Said, Wire},
    witness::{Asks, Witness},
};
use crate::{
    clock::{self, Moment},
    lab::{
        kind::Kind,
        scenario::Scenario,
        tally::{Tally, WishId},
    },
};

/// What all clients of one side share.
#[derive(Debug)]
pub struct World {
    /// What is played.
    pub scenario: Arc<Scenario>,
    /// Whom they ask: the service itself, or tidegate.
    pub address: SocketAddr,
    /// When it began.
    pub start: Moment,
    /// What they have seen.
    pub tally: Arc<Tally>,
    /// What they were told together.
    pub witness: Witness,
}

impl World {
    fn moment(&self, offset: Duration) -> Moment {
        self.start + self.scenario.pace.clock(offset)
    }

    async fn sleep(&self, incident: Duration) {
        tokio::time::sleep(self.scenario.pace.clock(incident)).await;
    }
}

/// One thing that a client asks, for as often as it has to.
#[derive(Debug)]
struct Letter {
    kind: Kind,
    path: &'static str,
    body: Bytes,
    /// Who is answered by the answer.
    wishes: Vec<WishId>,
    /// What it brings.
    changes: Vec<Typed>,
    /// Whether it only asks whether anything is new.
    is_poll: bool,
    /// Whose versions it asks for.
    asks: Asks,
}

/// A change that was typed and is not acknowledged.
#[derive(Clone, Debug)]
struct Typed {
    id: String,
    wish: WishId,
}

/// A client's connection and its own habits, which go with each letter and come back.
#[derive(Debug)]
struct Sender {
    wire: Wire,
    world: Arc<World>,
    name: String,
    requests: u32,
    honours_retry_after: bool,
    random: fastrand::Rng,
    /// The newest version of each document that it was told.
    seen: HashMap<String, u32>,
}

impl Sender {
    fn new(world: &Arc<World>, name: &str, honours_retry_after: bool, seed: u64) -> Self {
        Self {
            wire: Wire::to(world.address),
            world: Arc::clone(world),
            name: name.to_owned(),
            requests: 0,
            honours_retry_after,
            random: fastrand::Rng::with_seed(!seed),
            seen: HashMap::new(),
        }
    }

    /// Sends a letter until it is answered or the client gives up.
    async fn deliver(&mut self, letter: &Letter) -> Option<Said> {
        let world = Arc::clone(&self.world);
        let crowd = &world.scenario.crowd;
        for attempt in 0..=crowd.retries {
            let before = world.witness.before(&letter.asks);
            let ending = {
                let _in_flight = world.tally.sent();
                self.requests += 1;
                let id = format!("{}-{}", self.name, self.requests);
                self.wire.post(letter.path, &id, letter.body.clone(), world.scenario.pace.clock(crowd.timeout)).await
            };
            let mut told = None;
            match ending {
                Ending::Done(said) => {
                    world.tally.checked(world.witness.check(&letter.asks, &before, &said, &mut self.seen));
                    if letter.is_poll {
                        world.tally.poll_answered(said.by);
                    }
                    return Some(said);
                }
                Ending::Refused(retry_after) => {
                    told = retry_after.filter(|_| self.honours_retry_after);
                    world.tally.ended(letter.kind, |endings| endings.refused += 1);
                }
                Ending::TimedOut => world.tally.ended(letter.kind, |endings| endings.timed_out += 1),
                Ending::Failed | Ending::Lost => world.tally.ended(letter.kind, |endings| endings.failed += 1),
            }
            if attempt < crowd.retries {
                // One second told is one second of the incident, a tenth by the clock. tidegate measures and predicts by the
                // clock, so that in the incident's terms its clients come back up to ten times sooner than it meant: the
                // error is to its disadvantage. (The other way round its least, a whole second, would keep them away for ten.)
                let wait = told.unwrap_or_else(|| self.back_off(attempt));
                world.sleep(wait).await;
            }
        }
        None
    }

    fn back_off(&mut self, attempt: u32) -> Duration {
        let (first, most) = self.world.scenario.crowd.back_off;
        let doubled = first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(most);
        doubled.mul_f64(0.5 + self.random.f64())
    }
}

type Running = Pin<Box<dyn Future<Output = (Sender, Letter, Option<Said>)> + Send>>;

/// A client with documents open.
#[derive(Debug)]
pub struct Client {
    member: Member,
    world: Arc<World>,
    sender: Option<Sender>,
    versions: HashMap<String, u32>,
    polls: Vec<WishId>,
    changes: Vec<Typed>,
    reads: Vec<(String, WishId)>,
    typed: u32,
    /// A change is on its way.
    writing: bool,
    /// Gave up on a change; it goes with the next sync that is due.
    resting: bool,
}

impl Client {
    /// A client that has done nothing yet.
    #[must_use]
    pub fn new(member: Member, world: &Arc<World>) -> Self {
        let sender = Sender::new(world, &member.name, member.honours_retry_after, member.seed);
        Self {
            versions: member.documents.iter().map(|document| (document.clone(), 1)).collect(),
            member,
            world: Arc::clone(world),
            sender: Some(sender),
            polls: Vec::new(),
            changes: Vec::new(),
            reads: Vec::new(),
            typed: 0,
            writing: false,
            resting: false,
        }
    }

    /// Syncs by its plan until that ends and nothing is left to say.
    pub async fn live(mut self) {
        let mut ticks = Ticks::of(&self.member, &self.world.scenario);
        let mut next = ticks.next(None);
        let mut running: Option<Running> = None;
        loop {
            if running.is_none() {
                running = self.begin(next.is_none());
            }
            if next.is_none() && running.is_none() {
                return;
            }
            tokio::select! {
                (due, writes) = tick(&self.world, next) => {
                    self.due(self.world.moment(due), writes);
                    next = ticks.next(Some(due));
                }
                (sender, letter, said) = ended(&mut running) => {
                    running = None;
                    self.sender = Some(sender);
                    self.settle(letter, said);
                }
            }
        }
    }

    /// Notes what the client wants now.
    fn due(&mut self, due: Moment, writes: bool) {
        let kind = match (self.member.role, writes) {
            (Role::App, false) => Kind::Poll,
            (Role::App, true) => Kind::Change,
            (Role::Large, _) => Kind::Large,
            (Role::Api, _) => Kind::Api,
        };
        // As long as something typed is not acknowledged, what is due is to send it.
        let is_poll = !writes && !self.writing && self.changes.is_empty();
        let wish = if is_poll { self.world.tally.poll(kind, due) } else { self.world.tally.wish(kind, due) };
        self.resting = false;
        if writes {
            self.typed += 1;
            self.changes.push(Typed { id: format!("{}-c{}", self.member.name, self.typed), wish });
        } else {
            self.polls.push(wish);
        }
    }

    /// Begins the next request, if there is anything to say. What was typed goes first, and a sync with changes is a poll too.
    fn begin(&mut self, last_chance: bool) -> Option<Running> {
        let letter = if !self.changes.is_empty() && (!self.resting || last_chance) {
            self.sync()
        } else if let Some((document, wish)) = self.reads.pop() {
            self.read(document, wish)
        } else if self.polls.is_empty() {
            return None;
        } else {
            self.poll()
        };
        self.writing = !letter.changes.is_empty();
        let mut sender = self.sender.take()?;
        Some(Box::pin(async move {
            let said = sender.deliver(&letter).await;
            (sender, letter, said)
        }))
    }

    fn own(&self) -> (String, u32) {
        let document = self.member.documents.first().cloned().unwrap_or_default();
        let version = self.versions.get(&document).copied().unwrap_or_default();
        (document, version)
    }

    fn sync(&mut self) -> Letter {
        let (document, version) = self.own();
        let changes = std::mem::take(&mut self.changes);
        let listed: Vec<_> = changes.iter().map(|typed| json!({ "action": "insert", "id": typed.id, "content": "typed" })).collect();
        let body = json!({ "token": self.member.token, "file_id": document, "version": version, "changes": listed });
        let (kind, path) = match self.member.role {
            Role::App => (Kind::Change, "/sync"),
            Role::Large => (Kind::Large, "/sync"),
            Role::Api => (Kind::Api, "/api/v1/doc/edit"),
        };
        let mut wishes: Vec<WishId> = changes.iter().map(|typed| typed.wish).collect();
        wishes.append(&mut self.polls);
        let asks = Asks::Document(document, Some(version));
        Letter { kind, path, body: body.to_string().into(), wishes, changes, is_poll: false, asks }
    }

    fn poll(&mut self) -> Letter {
        let wishes = std::mem::take(&mut self.polls);
        let (document, version) = self.own();
        let token = &self.member.token;
        if self.member.role == Role::Api {
            let body = json!({ "token": token, "file_ids": self.member.documents }).to_string().into();
            let path = "/api/v1/doc/check_for_updates";
            let asks = Asks::Versions(self.member.documents.clone());
            return Letter { kind: Kind::Api, path, body, wishes, changes: Vec::new(), is_poll: true, asks };
        }
        let kind = if self.member.role == Role::Large { Kind::Large } else { Kind::Poll };
        let body = json!({ "token": token, "file_id": document, "version": version, "changes": [] }).to_string().into();
        let asks = Asks::Document(document, Some(version));
        Letter { kind, path: "/sync", body, wishes, changes: Vec::new(), is_poll: true, asks }
    }

    fn read(&self, document: String, wish: WishId) -> Letter {
        let body = json!({ "token": self.member.token, "file_id": document }).to_string().into();
        let path = "/api/v1/doc/read";
        let asks = Asks::Document(document, None);
        Letter { kind: Kind::Api, path, body, wishes: vec![wish], changes: Vec::new(), is_poll: false, asks }
    }

    /// A letter was answered or given up.
    fn settle(&mut self, letter: Letter, said: Option<Said>) {
        self.writing = false;
        let Some(said) = said else {
            self.resting = !letter.changes.is_empty();
            self.changes.splice(0..0, letter.changes);
            return;
        };
        // What fell due in the meantime asked for nothing else.
        let late = std::mem::take(&mut self.polls);
        self.world.tally.answered(letter.wishes.into_iter().chain(late));
        self.world.tally.acknowledged(letter.changes.into_iter().map(|typed| typed.id));
        match letter.asks {
            Asks::Document(document, _) => {
                self.versions.insert(document, said.version);
            }
            Asks::Versions(_) => self.look_at(&said.versions),
            Asks::Nothing => {}
        }
    }

    /// Documents that have changed are read whole, now.
    fn look_at(&mut self, versions: &HashMap<String, u32>) {
        let now = clock::now();
        let changed = versions.iter().filter(|(document, version)| self.versions.get(*document) != Some(*version));
        let reads: Vec<(String, WishId)> = changed.map(|(document, _)| (document.clone(), self.world.tally.wish(Kind::Api, now))).collect();
        self.reads.extend(reads);
    }
}

/// Waits for the next sync to be due; for ever if there is none.
async fn tick(world: &World, next: Option<(Duration, bool)>) -> (Duration, bool) {
    match next {
        Some((due, writes)) => {
            tokio::time::sleep_until(clock::instant(world.moment(due))).await;
            (due, writes)
        }
        None => std::future::pending().await,
    }
}

/// Waits for the end of what runs; for ever if nothing does.
async fn ended(running: &mut Option<Running>) -> (Sender, Letter, Option<Said>) {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

/// Somebody who comes over from another service and imports a document, at `begin` in incident time.
pub async fn import(world: Arc<World>, index: usize, begin: Duration) {
    let due = world.moment(begin);
    tokio::time::sleep_until(clock::instant(due)).await;
    let name = format!("i{index}");
    let honours = fastrand::Rng::with_seed(index as u64).f64() < world.scenario.crowd.honour_retry_after;
    let mut sender = Sender::new(&world, &name, honours, index as u64);
    let wish = world.tally.wish(Kind::Import, due);
    let id = format!("{name}-c1");
    let items = json!([{ "action": "insert", "id": id, "content": "- an item of the outline\n".repeat(40) }]);
    let body = json!({ "token": name, "file_id": format!("document-{name}"), "source": "the competitor", "changes": items });
    let letter = Letter {
        kind: Kind::Import,
        path: "/import",
        body: body.to_string().into(),
        wishes: vec![wish],
        changes: Vec::new(),
        is_poll: false,
        asks: Asks::Nothing,
    };
    if sender.deliver(&letter).await.is_some() {
        world.tally.answered([wish]);
        world.tally.acknowledged([id]);
    }
}
