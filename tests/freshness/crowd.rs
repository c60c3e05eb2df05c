//! The clients: users with several devices each, that poll and push the documents they share, one request at a time, and note what they
//! were told.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    faults::{STRANGER, since},
    history::{At, By, Document, FIRST, History, Outcome, Push, Replica, Seen},
    line::{Ending, Letter, Line, Reply},
};

/// When a client gives up.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a client asks at the end until it gets an answer, a tenth of a second apart.
const LAST_TRIES: u32 = 100;

/// Who they are and how they behave.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub users: usize,
    /// Clients of each user; they share its credential.
    pub devices: usize,
    pub documents: usize,
    /// Documents that each user has open.
    pub open: usize,
    /// Clients whose credential the service refuses.
    pub strangers: usize,
    /// Of 1,000 requests.
    pub writes: u32,
    /// Between two requests of a client, on average.
    pub pause: Duration,
}

impl Plan {
    /// Nearly sixty clients.
    pub fn of(seed: u64) -> Self {
        Self { seed, users: 18, devices: 3, documents: 36, open: 3, strangers: 3, writes: 40, pause: Duration::from_millis(20) }
    }

    /// The documents that a user has open; neighbours share some.
    fn documents_of(&self, user: usize) -> Vec<Document> {
        (0..self.open).map(|number| (user * self.open / 2 + number * 5) % self.documents).collect()
    }

    pub fn clients(&self) -> usize {
        self.users * self.devices + self.strangers
    }
}

/// What the clients share.
#[derive(Debug)]
pub struct World {
    pub plan: Plan,
    pub start: Instant,
    /// Whom they ask; another one after a restart.
    pub address: Mutex<SocketAddr>,
    /// The newest version of each document that anybody was told, for strangers to ask for.
    newest: Vec<AtomicU32>,
    history: Mutex<History>,
    over: AtomicBool,
}

/// A document's name.
pub fn name_of(document: Document) -> String {
    format!("d{document}")
}

fn token_of(user: usize) -> String {
    format!("user-{user:03}")
}

/// What an answer says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    #[serde(rename = "_code")]
    code: String,
    version: u32,
    changes: Vec<ToldChange>,
    versions: HashMap<String, u32>,
}

#[derive(Debug, Deserialize)]
struct ToldChange {
    id: String,
}

/// What became of a question.
#[derive(Debug)]
enum Said {
    Done(Told, By),
    Refused,
    Failed,
}

#[derive(Debug)]
struct Client {
    world: Arc<World>,
    index: usize,
    token: String,
    authorization: String,
    documents: Vec<Document>,
    versions: HashMap<Document, u32>,
    replicas: HashMap<Document, BTreeSet<String>>,
    /// Changes whose outcome is unknown and which will be sent again.
    unsure: Vec<(Document, String)>,
    line: Line,
    address: SocketAddr,
    random: fastrand::Rng,
    requests: u32,
}

impl World {
    pub fn new(plan: Plan, start: Instant, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            plan,
            start,
            address: Mutex::new(address),
            newest: (0..plan.documents).map(|_| AtomicU32::new(FIRST)).collect(),
            history: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    /// Where they ask from now on.
    pub fn moved(&self, address: SocketAddr) {
        *self.address.lock().expect("not poisoned") = address;
    }

    fn address(&self) -> SocketAddr {
        *self.address.lock().expect("not poisoned")
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("not poisoned")
    }
}

/// A crowd that is running.
#[derive(Debug)]
pub struct Crowd {
    world: Arc<World>,
    clients: Vec<tokio::task::JoinHandle<Client>>,
}

impl Crowd {
    pub fn start(world: &Arc<World>) -> Self {
        let clients = (0..world.plan.clients()).map(|index| tokio::spawn(Client::new(world, index).live())).collect();
        Self { world: Arc::clone(world), clients }
    }

    /// Ends it; all its requests have ended then.
    pub async fn stop(self) -> Resting {
        self.world.over.store(true, Ordering::Relaxed);
        let mut clients = Vec::with_capacity(self.clients.len());
        for client in self.clients {
            clients.push(client.await.expect("a client does not panic"));
        }
        Resting { world: self.world, clients }
    }
}

/// A crowd that has ended.
#[derive(Debug)]
pub struct Resting {
    world: Arc<World>,
    clients: Vec<Client>,
}

impl Resting {
    /// Every client polls each of its documents once more. Gives all that was seen.
    pub async fn converge(self) -> History {
        let mut last = Vec::new();
        for client in self.clients {
            last.push(tokio::spawn(client.converge()));
        }
        let mut replicas = Vec::new();
        for client in last {
            replicas.extend(client.await.expect("a client does not panic"));
        }
        let mut history = std::mem::take(&mut *self.world.history());
        history.replicas = replicas;
        history
    }
}

impl Client {
    fn new(world: &Arc<World>, index: usize) -> Self {
        let plan = &world.plan;
        let user = index / plan.devices;
        let stranger = user >= plan.users;
        let documents = if stranger { Vec::new() } else { plan.documents_of(user) };
        let address = world.address();
        Self {
            world: Arc::clone(world),
            index,
            token: token_of(user),
            authorization: if stranger { format!("{STRANGER} {index}") } else { format!("Bearer {}", token_of(user)) },
            versions: documents.iter().map(|document| (*document, FIRST)).collect(),
            replicas: documents.iter().map(|document| (*document, BTreeSet::new())).collect(),
            documents,
            unsure: Vec::new(),
            line: Line::to(address),
            address,
            random: fastrand::Rng::with_seed(plan.seed.wrapping_mul(1000).wrapping_add(index as u64)),
            requests: 0,
        }
    }

    fn is_stranger(&self) -> bool {
        self.authorization.starts_with(STRANGER)
    }

    async fn live(mut self) -> Self {
        while !self.world.over.load(Ordering::Relaxed) {
            let pause = self.world.plan.pause.mul_f64(2.0 * self.random.f64());
            sleep(pause).await;
            if self.is_stranger() {
                self.pry().await;
                continue;
            }
            let document = self.documents[self.random.usize(..self.documents.len())];
            if let Some((document, change)) = self.unsure.pop() {
                self.push(document, change).await;
            } else {
                match self.random.u32(0..1000) {
                    drawn if drawn < self.world.plan.writes => {
                        let change = format!("{}-{}-{}", self.world.plan.seed, self.index, self.requests);
                        self.push(document, change).await;
                    }
                    drawn if drawn < 200 => self.updates().await,
                    _ => drop(self.poll(document).await),
                }
            }
        }
        self
    }

    /// Sends a request, for which a few clients do not wait for long.
    async fn ask(&mut self, path: &str, body: &serde_json::Value, hasty: u32) -> Ending {
        let address = self.world.address();
        if address != self.address {
            (self.address, self.line) = (address, Line::to(address));
        }
        self.requests += 1;
        let id = format!("{}-{}-{}", self.world.plan.seed, self.index, self.requests);
        let letter = Letter { path: path.to_owned(), id, authorization: self.authorization.clone(), body: body.to_string().into() };
        if self.random.u32(0..1000) >= hasty {
            return self.line.post_within(&letter, PATIENCE).await;
        }
        let patience = Duration::from_micros(self.random.u64(1_000..60_000));
        let ending = self.line.post_within(&letter, patience).await;
        if ending == Ending::Lost {
            self.world.history().polls.left += 1;
        }
        ending
    }

    /// Reads an answer.
    fn read(&self, ending: &Ending) -> Said {
        let Ending::Whole(Reply { status, cache, body }) = ending else { return Said::Failed };
        match status {
            200 => {}
            429 | 503 => return Said::Refused,
            _ => return Said::Failed,
        }
        let told: Result<Told, _> = serde_json::from_slice(body);
        match told {
            Ok(told) if told.code == "Ok" => Said::Done(told, by(cache.as_deref())),
            Ok(told) if told.code == "TooManyRequests" => Said::Refused,
            Ok(told) if told.code == "NotAllowed" && self.is_stranger() => Said::Failed,
            _ => {
                let what = format!("client {} got {:?}", self.index, String::from_utf8_lossy(body));
                self.world.history().mangled.push(what);
                Said::Failed
            }
        }
    }

    /// "Anything new?"; whether there was an answer.
    async fn poll(&mut self, document: Document) -> bool {
        let asked = self.versions[&document];
        let body = json!({ "token": self.token, "file_id": name_of(document), "version": asked, "changes": [] });
        let begun = since(self.world.start);
        let ending = self.ask("/sync", &body, 15).await;
        let said = self.read(&ending);
        self.count_poll(&said);
        let Said::Done(told, by) = said else { return false };
        self.take(document, begun, asked, told, by);
        true
    }

    fn count_poll(&self, said: &Said) {
        let polls = &mut self.world.history().polls;
        polls.sent += 1;
        if let Said::Done(_, by) = said {
            polls.answered += 1;
            match by {
                By::Service => {}
                By::Replay => polls.replayed += 1,
                By::Join => polls.joined += 1,
            }
        }
    }

    /// Notes an answer of `/sync` and takes what is new into the replica.
    fn take(&mut self, document: Document, begun: At, asked: u32, told: Told, by: By) {
        let changes: Vec<String> = told.changes.into_iter().map(|change| change.id).collect();
        if told.version >= asked {
            self.versions.insert(document, told.version);
            self.replicas.entry(document).or_default().extend(changes.iter().cloned());
        }
        self.note(document, begun, asked, told.version, Some(changes), by);
    }

    fn note(&self, document: Document, begun: At, asked: u32, version: u32, changes: Option<Vec<String>>, by: By) {
        self.world.newest[document].fetch_max(version, Ordering::Relaxed);
        let ended = since(self.world.start);
        self.world.history().seen.push(Seen { client: self.index, document, begun, ended, asked, version, changes, by });
    }

    /// "Which versions do they have?"
    async fn updates(&mut self) {
        let names: Vec<String> = self.documents.iter().map(|document| name_of(*document)).collect();
        let body = json!({ "token": self.token, "file_ids": names });
        let begun = since(self.world.start);
        let ending = self.ask("/api/v1/doc/check_for_updates", &body, 15).await;
        let said = self.read(&ending);
        self.count_poll(&said);
        let Said::Done(told, by) = said else { return };
        if told.versions.len() != names.len() || names.iter().any(|name| !told.versions.contains_key(name)) {
            self.world.history().mangled.push(format!("client {} asked for {names:?} and got {:?}", self.index, told.versions));
            return;
        }
        for (document, name) in self.documents.iter().zip(&names) {
            self.note(*document, begun, 0, told.versions[name], None, by);
        }
    }

    async fn push(&mut self, document: Document, change: String) {
        let asked = self.versions[&document];
        let body = json!({
            "token": self.token, "file_id": name_of(document), "version": asked, "changes": [{ "id": change, "content": "typed" }]
        });
        let path = if self.random.bool() { "/sync" } else { "/api/v1/doc/edit" };
        let begun = since(self.world.start);
        let ending = self.ask(path, &body, 30).await;
        let request = format!("{}-{}-{}", self.world.plan.seed, self.index, self.requests);
        let outcome = match self.read(&ending) {
            Said::Done(told, by) => {
                self.take(document, begun, asked, told, by);
                Outcome::Acknowledged(since(self.world.start))
            }
            Said::Refused => Outcome::Refused,
            Said::Failed => Outcome::Unknown,
        };
        // Some try again until they know; of the others nobody will ever know but by what the service shows.
        if outcome == Outcome::Unknown && self.random.u32(0..3) == 0 {
            self.unsure.push((document, change.clone()));
        }
        self.world.history().pushes.push(Push { document, change, request, outcome });
    }

    /// A stranger asks what a user would, to the letter, but for the credential in the head.
    async fn pry(&mut self) {
        let user = self.random.usize(..self.world.plan.users);
        let documents = self.world.plan.documents_of(user);
        let document = documents[self.random.usize(..documents.len())];
        let newest = self.world.newest[document].load(Ordering::Relaxed);
        let body = json!({ "token": token_of(user), "file_id": name_of(document), "version": newest, "changes": [] });
        let ending = self.ask("/sync", &body, 0).await;
        if let Said::Done(told, _) = self.read(&ending) {
            let what = format!("client {} is a stranger and got version {} of document {document}", self.index, told.version);
            self.world.history().leaks.push(what);
        }
    }

    async fn converge(mut self) -> Vec<Replica> {
        if self.is_stranger() {
            return Vec::new();
        }
        for document in self.documents.clone() {
            for _ in 0..LAST_TRIES {
                if self.poll(document).await {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        let Self { index, documents, versions, mut replicas, .. } = self;
        let replica = |document: Document| Replica {
            client: index,
            document,
            version: versions[&document],
            changes: replicas.remove(&document).unwrap_or_default(),
        };
        documents.into_iter().map(replica).collect()
    }
}

/// Who answered, by `Cache-Status`.
fn by(cache: Option<&str>) -> By {
    let parameters = || cache.unwrap_or_default().split(';').skip(1).map(str::trim);
    if parameters().any(|parameter| parameter == "hit") {
        By::Replay
    } else if parameters().any(|parameter| parameter == "collapsed") {
        By::Join
    } else {
        By::Service
    }
}
