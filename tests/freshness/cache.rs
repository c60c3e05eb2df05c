//! Small caches to stand in tidegate's place: one that makes no mistake, and one for each mistake that a cache can make. They know the
//! service's protocol, keep everything under one lock, and are made to be wrong in one way at a time.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    checker::Promise,
    faults::{Closed, HEAD_TIMEOUT, Tail, respond},
    line::{Ending, Letter, Line, Reply},
};

/// How long it waits for an answer after its client got a 504.
const ZOMBIE: Duration = Duration::from_secs(3);

/// What a cache does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Nothing: it keeps the rules.
    None,
    /// Nothing: it has no store.
    NoCache,
    NeverEmpties,
    EmptiesAfterTheAnswer,
    EmptiesBeforeTheWrite,
    EmptiesBothTimes,
    ForgetsALostWrite,
    TakesAnErrorForAnEnd,
    TakesItsTimeoutForAnEnd,
    DoubtsTooBriefly,
    ShortensADoubt,
    StartsWithoutDoubt,
    KeepsItsStoreOverARestart,
    IgnoresTheCredential,
    IgnoresTheBody,
    JoinsAnOlderPoll,
    ServesByAge,
    FilesUnderTheFirstDocument,
    RemembersTheVersion,
    RepeatsAWrite,
    PassesHalfAnswersOn,
    AcknowledgesWhatWasLost,
}

impl Mistake {
    /// What it breaks: one of these, whatever else it breaks as well.
    pub fn breaks(self) -> &'static [Promise] {
        match self {
            Self::None | Self::NoCache => &[],
            Self::NeverEmpties | Self::KeepsItsStoreOverARestart | Self::ServesByAge | Self::FilesUnderTheFirstDocument => {
                &[Promise::Acknowledged]
            }
            Self::EmptiesAfterTheAnswer | Self::EmptiesBeforeTheWrite | Self::EmptiesBothTimes | Self::JoinsAnOlderPoll => {
                &[Promise::Acknowledged, Promise::Lost, Promise::Current, Promise::Forward]
            }
            Self::ForgetsALostWrite
            | Self::TakesAnErrorForAnEnd
            | Self::TakesItsTimeoutForAnEnd
            | Self::DoubtsTooBriefly
            | Self::ShortensADoubt
            | Self::StartsWithoutDoubt
            | Self::RemembersTheVersion => &[Promise::Lost, Promise::Current, Promise::Forward],
            Self::IgnoresTheCredential => &[Promise::Private],
            Self::IgnoresTheBody => &[Promise::Exact],
            Self::RepeatsAWrite => &[Promise::Once],
            Self::PassesHalfAnswersOn => &[Promise::Whole],
            Self::AcknowledgesWhatWasLost => &[Promise::Kept, Promise::Exact],
        }
    }

    /// Whether it keeps whatever comes, until a write empties it.
    fn is_naive(self) -> bool {
        matches!(self, Self::NeverEmpties | Self::EmptiesAfterTheAnswer | Self::EmptiesBeforeTheWrite | Self::EmptiesBothTimes)
    }
}

/// A running cache.
#[derive(Debug)]
pub struct Cache {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    app: SocketAddr,
    mistake: Mistake,
    doubt: Duration,
    state: Mutex<State>,
    idle: Mutex<Vec<Line>>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    seq: u64,
    cells: HashMap<String, Cell>,
    /// Before it, all documents are in doubt.
    quiet_from: Instant,
    store: HashMap<String, Stored>,
    running: HashMap<String, Running>,
    /// The newest version seen of each document, for the cache that answers from it.
    newest: HashMap<String, u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    last_write: u64,
    writers: u32,
    quiet_from: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Stored {
    s: u64,
    kept_at: Instant,
    documents: Vec<String>,
    reply: Reply,
}

/// A poll at the app.
#[derive(Debug)]
struct Running {
    number: u64,
    s: u64,
    solid: bool,
    documents: Vec<String>,
    answer: watch::Receiver<Option<Ending>>,
}

/// What a request says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    file_id: String,
    file_ids: Vec<String>,
    version: u32,
    changes: Vec<serde_json::Value>,
}

/// What an answer says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    #[serde(rename = "_code")]
    code: String,
    version: u32,
}

impl Cache {
    /// Starts one before `app`. `doubt` is how long a lost write may still be done.
    pub async fn start(app: SocketAddr, mistake: Mistake, doubt: Duration) -> Self {
        // Nothing can have been in flight before the first start.
        Self::launch(app, mistake, doubt, Instant::now(), HashMap::new()).await
    }

    /// Kills it, with all that is in flight, and starts another one in its place.
    pub async fn kill_and_start(self) -> Self {
        self.stop.cancel();
        let Shared { app, mistake, doubt, .. } = *self.shared;
        let doubtful = mistake != Mistake::StartsWithoutDoubt;
        let quiet_from = Instant::now() + if doubtful { doubt } else { Duration::ZERO };
        let mut store = HashMap::new();
        if mistake == Mistake::KeepsItsStoreOverARestart {
            store.clone_from(&self.shared.state().store);
            for stored in store.values_mut() {
                stored.s = 0;
            }
        }
        Self::launch(app, mistake, doubt, quiet_from, store).await
    }

    async fn launch(app: SocketAddr, mistake: Mistake, doubt: Duration, quiet_from: Instant, store: HashMap<String, Stored>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let state = State { seq: 0, cells: HashMap::new(), quiet_from, store, running: HashMap::new(), newest: HashMap::new() };
        let shared = Shared { app, mistake, doubt, state: Mutex::new(state), idle: Mutex::default(), stop: stop.clone() };
        let shared = Arc::new(shared);
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&shared))));
        Self { address, shared, stop }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let stop = shared.stop.clone();
        tokio::spawn(stop.run_until_cancelled_owned(serve(stream, Arc::clone(&shared))));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| take(request, Arc::clone(&shared)));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn take(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Tail>, Closed> {
    let (head, body) = request.into_parts();
    let letter = Letter::of(&head, body.collect().await.map_err(|_| Closed)?.to_bytes());
    let said: Said = serde_json::from_slice(&letter.body).unwrap_or_default();
    if said.changes.is_empty() { Ok(shared.poll(letter, said).await) } else { Ok(shared.write(letter, said).await) }
}

/// Passes an answer on; what is missing of it is a 502.
fn pass(ending: Ending, mistake: Mistake, how: &'static str) -> Response<Tail> {
    let mut response = match ending {
        Ending::Whole(reply) => respond(reply.status, reply.body, false),
        Ending::Cut(half) if mistake == Mistake::PassesHalfAnswersOn => respond(half.status, half.body, false),
        Ending::Cut(_) | Ending::Lost | Ending::Unsent => respond(502, Bytes::new(), false),
    };
    response.headers_mut().insert("cache-status", HeaderValue::from_static(how));
    response
}

const HIT: &str = "tidegate; hit";
const JOINED: &str = "tidegate; fwd=stale; collapsed";
const FORWARDED: &str = "tidegate; fwd=uri-miss";

/// What becomes of a poll.
enum Way {
    Replay(Reply),
    Wait(watch::Receiver<Option<Ending>>, &'static str),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// What makes two questions the same.
    fn key(&self, letter: &Letter) -> String {
        let Letter { path, authorization, body, .. } = letter;
        let body = String::from_utf8_lossy(body);
        match self.mistake {
            Mistake::IgnoresTheBody => format!("{path} {authorization}"),
            Mistake::IgnoresTheCredential => format!("{path} {body}"),
            _ => format!("{path} {authorization} {body}"),
        }
    }

    async fn poll(self: Arc<Self>, letter: Letter, said: Said) -> Response<Tail> {
        let (mut answer, how) = match self.way(letter, said) {
            Way::Replay(reply) => return pass(Ending::Whole(reply), self.mistake, HIT),
            Way::Wait(answer, how) => (answer, how),
        };
        let ended = async { answer.wait_for(Option::is_some).await.ok().and_then(|ending| ending.clone()) };
        match timeout(HEAD_TIMEOUT, ended).await {
            Ok(ending) => pass(ending.unwrap_or(Ending::Lost), self.mistake, how),
            Err(_) => respond(504, Bytes::new(), false),
        }
    }

    /// Answers, joins, or puts the question to the app in a task that outlives its client.
    fn way(self: &Arc<Self>, letter: Letter, said: Said) -> Way {
        let key = self.key(&letter);
        let mut documents = if said.file_ids.is_empty() { vec![said.file_id] } else { said.file_ids };
        let mut state = self.state();
        if self.mistake == Mistake::RemembersTheVersion && documents.len() == 1 && state.newest.get(&documents[0]) == Some(&said.version) {
            return Way::Replay(forged(said.version));
        }
        if self.mistake == Mistake::FilesUnderTheFirstDocument {
            documents.truncate(1);
        }
        if let Some(stored) = state.store.get(&key)
            && self.proves(&state, stored)
        {
            return Way::Replay(stored.reply.clone());
        }
        if let Some(running) = state.running.get(&key)
            && self.joinable(&state, running)
        {
            return Way::Wait(running.answer.clone(), JOINED);
        }
        let s = state.seq;
        let solid = self.mistake.is_naive() || state.solid(&documents);
        let (tell, answer) = watch::channel(None);
        state.seq += 1;
        let number = state.seq;
        state.running.insert(key.clone(), Running { number, s, solid, documents: documents.clone(), answer: answer.clone() });
        drop(state);
        let shared = Arc::clone(self);
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            let ending = timeout(ZOMBIE, shared.ask(&letter)).await.unwrap_or(Ending::Lost);
            shared.keep(&key, number, s, solid, documents, &ending);
            tell.send_replace(Some(ending));
        }));
        Way::Wait(answer, FORWARDED)
    }

    fn proves(&self, state: &State, stored: &Stored) -> bool {
        match self.mistake {
            Mistake::NoCache => false,
            Mistake::ServesByAge => stored.kept_at.elapsed() < Duration::from_millis(300),
            mistake if mistake.is_naive() => true,
            _ => state.unwritten(&stored.documents, stored.s),
        }
    }

    fn joinable(&self, state: &State, running: &Running) -> bool {
        match self.mistake {
            Mistake::JoinsAnOlderPoll => true,
            Mistake::NoCache | Mistake::ServesByAge => false,
            mistake if mistake.is_naive() => false,
            _ => running.solid && state.unwritten(&running.documents, running.s),
        }
    }

    fn keep(&self, key: &str, number: u64, s: u64, solid: bool, documents: Vec<String>, ending: &Ending) {
        let mut state = self.state();
        if state.running.get(key).is_some_and(|running| running.number == number) {
            state.running.remove(key);
        }
        let Ending::Whole(reply) = ending else { return };
        let Ok(told) = serde_json::from_slice::<Told>(&reply.body) else { return };
        if reply.status != 200 || told.code != "Ok" {
            return;
        }
        if told.version > 0 {
            state.newest(&documents[0], told.version);
        }
        if solid && self.mistake != Mistake::NoCache {
            let stored = Stored { s, kept_at: Instant::now(), documents, reply: reply.clone() };
            state.store.insert(key.to_owned(), stored);
        }
    }

    async fn ask(&self, letter: &Letter) -> Ending {
        let idle = self.idle.lock().expect("not poisoned").pop();
        let mut line = idle.unwrap_or_else(|| Line::to(self.app));
        let ending = line.post(letter).await;
        if line.is_open() {
            self.idle.lock().expect("not poisoned").push(line);
        }
        ending
    }

    async fn write(self: Arc<Self>, letter: Letter, said: Said) -> Response<Tail> {
        let document = said.file_id;
        self.begin(&document);
        let (tell, told) = oneshot::channel();
        let shared = Arc::clone(&self);
        let written = document.clone();
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            let mut ending = timeout(ZOMBIE, shared.ask(&letter)).await.unwrap_or(Ending::Lost);
            if shared.mistake == Mistake::RepeatsAWrite && ending == Ending::Lost {
                ending = timeout(ZOMBIE, shared.ask(&letter)).await.unwrap_or(Ending::Lost);
            }
            shared.end(&written, &ending);
            // Its client may be gone.
            let _ = tell.send(ending);
        }));
        let ending = tokio::select! {
            ending = told => ending.unwrap_or(Ending::Lost),
            () = sleep(HEAD_TIMEOUT) => {
                if self.mistake == Mistake::TakesItsTimeoutForAnEnd {
                    self.state().ended(&document, None);
                }
                if self.mistake == Mistake::AcknowledgesWhatWasLost {
                    return pass(Ending::Whole(forged(said.version + 1)), self.mistake, FORWARDED);
                }
                return respond(504, Bytes::new(), false);
            }
        };
        if self.mistake == Mistake::AcknowledgesWhatWasLost && !matches!(ending, Ending::Whole(_)) {
            return pass(Ending::Whole(forged(said.version + 1)), self.mistake, FORWARDED);
        }
        pass(ending, self.mistake, FORWARDED)
    }

    fn begin(&self, document: &str) {
        let mut state = self.state();
        if matches!(self.mistake, Mistake::EmptiesBeforeTheWrite | Mistake::EmptiesBothTimes) {
            state.store.retain(|_, stored| !stored.documents.iter().any(|known| known == document));
        }
        if !self.mistake.is_naive() {
            state.seq += 1;
            let seq = state.seq;
            let cell = state.cells.entry(document.to_owned()).or_default();
            cell.writers += 1;
            cell.last_write = seq;
        }
    }

    fn end(&self, document: &str, ending: &Ending) {
        let mut state = self.state();
        if matches!(self.mistake, Mistake::EmptiesAfterTheAnswer | Mistake::EmptiesBothTimes) {
            state.store.retain(|_, stored| !stored.documents.iter().any(|known| known == document));
        }
        if let Ending::Whole(reply) = ending
            && let Ok(told) = serde_json::from_slice::<Told>(&reply.body)
            && told.version > 0
        {
            state.newest(document, told.version);
        }
        if self.mistake.is_naive() {
            return;
        }
        let known = match ending {
            Ending::Unsent => true,
            Ending::Whole(reply) => self.mistake == Mistake::TakesAnErrorForAnEnd || !matches!(reply.status, 202 | 408 | 500..),
            Ending::Cut(_) | Ending::Lost => self.mistake == Mistake::ForgetsALostWrite,
        };
        let doubt = if self.mistake == Mistake::DoubtsTooBriefly { self.doubt / 20 } else { self.doubt };
        let mut quiet_from = (!known).then(|| Instant::now() + doubt);
        if self.mistake == Mistake::ShortensADoubt {
            quiet_from = quiet_from.or(Some(Instant::now()));
            state.cells.entry(document.to_owned()).or_default().quiet_from = None;
        }
        state.ended(document, quiet_from);
    }
}

fn forged(version: u32) -> Reply {
    Reply { status: 200, cache: None, body: json!({ "_code": "Ok", "version": version, "changes": [] }).to_string().into() }
}

impl State {
    /// No write began since `s`.
    fn unwritten(&self, documents: &[String], s: u64) -> bool {
        documents.iter().all(|document| self.cells.get(document).is_none_or(|cell| cell.last_write <= s))
    }

    /// No write is under way or in doubt.
    fn solid(&self, documents: &[String]) -> bool {
        let now = Instant::now();
        let quiet = |cell: &Cell| cell.writers == 0 && cell.quiet_from.is_none_or(|from| from <= now);
        self.quiet_from <= now && documents.iter().all(|document| self.cells.get(document).is_none_or(quiet))
    }

    fn ended(&mut self, document: &str, quiet_from: Option<Instant>) {
        let cell = self.cells.entry(document.to_owned()).or_default();
        cell.writers = cell.writers.saturating_sub(1);
        cell.quiet_from = cell.quiet_from.max(quiet_from);
    }

    fn newest(&mut self, document: &str, version: u32) {
        let known = self.newest.entry(document.to_owned()).or_default();
        *known = version.max(*known);
    }
}
