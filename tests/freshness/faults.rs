//! The service's front, where things go wrong: it stands between a cache and the demo's sync service and passes requests on late, loses
//! answers, resets connections and restarts. What it took up it carries out, also when the connection is closed, as an app's queue does.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    history::{At, Version},
    line::{Ending, Letter, Line, Reply},
};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write waits in the app for up to 200 ms.
    CommitDelayed,
    /// A write waits for longer than the cache does (its `head_timeout`), and is then done and answered.
    CommitAfterTimeout,
    /// A write is done, and instead of an answer the connection is closed.
    AnswerLost,
    /// A write is done, and its answer breaks off.
    AnswerCut,
    /// The connection is closed at once, and the write is never done.
    Reset,
    /// The connection is closed at once, and the write is done up to 400 ms later.
    ResetThenCommit,
    /// The answer is 500 at once, and the write is done up to 400 ms later.
    ErrorThenCommit,
    /// A poll waits before it reads.
    PollDelayed,
    /// A poll reads, and its answer is held up.
    PollHeld,
    /// The connection is closed instead of answering a poll.
    PollReset,
    /// The answer to a poll breaks off.
    PollCut,
    /// A poll is answered with 500.
    PollError,
    /// The app restarts: all connections are closed, and for a while there is nobody who listens.
    Restart,
    /// A write that is under way while the cache is killed.
    KilledMidWrite,
}

/// All of them, in their order.
pub const FAULTS: [Fault; 14] = [
    Fault::CommitDelayed,
    Fault::CommitAfterTimeout,
    Fault::AnswerLost,
    Fault::AnswerCut,
    Fault::Reset,
    Fault::ResetThenCommit,
    Fault::ErrorThenCommit,
    Fault::PollDelayed,
    Fault::PollHeld,
    Fault::PollReset,
    Fault::PollCut,
    Fault::PollError,
    Fault::Restart,
    Fault::KilledMidWrite,
];

/// What happens to writes: of [`DECK_OF_WRITES`] so many meet it, in an order drawn by lot, and so each is sure to happen.
const OF_WRITES: [(Fault, usize); 7] = [
    (Fault::CommitDelayed, 8),
    (Fault::CommitAfterTimeout, 2),
    (Fault::AnswerLost, 1),
    (Fault::AnswerCut, 1),
    (Fault::Reset, 1),
    (Fault::ResetThenCommit, 2),
    (Fault::ErrorThenCommit, 2),
];
const DECK_OF_WRITES: usize = 40;

/// The same for polls that reach the app.
const OF_POLLS: [(Fault, usize); 5] =
    [(Fault::PollDelayed, 6), (Fault::PollHeld, 12), (Fault::PollReset, 1), (Fault::PollCut, 1), (Fault::PollError, 1)];
const DECK_OF_POLLS: usize = 200;

/// The longest that a cache may wait for the head of an answer, so that [`Fault::CommitAfterTimeout`] comes after it.
pub const HEAD_TIMEOUT: Duration = Duration::from_millis(400);

/// The longest after the loss of a connection at which a write may still be done (A1 of the promise), but for what the machine adds.
pub const LATE_MAX: Duration = Duration::from_millis(600);

/// How the credentials of those begin whom the service answers nothing.
pub const STRANGER: &str = "stranger";

/// A running front.
#[derive(Debug)]
pub struct Front {
    /// Where the cache, or a client without one, connects.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// Bound and never listened on: keeps the port while nobody listens.
    _port: TcpSocket,
    running: Mutex<Option<(CancellationToken, JoinHandle<()>)>>,
}

#[derive(Debug)]
struct Shared {
    service: SocketAddr,
    start: Instant,
    rough: AtomicBool,
    lots: Mutex<Lots>,
    counts: [AtomicU64; FAULTS.len()],
    record: Mutex<Record>,
    idle: Mutex<Vec<Line>>,
    tasks: TaskTracker,
    /// Writes that it has taken up and not yet answered.
    writing: AtomicUsize,
    late_max: AtomicU64,
}

/// Who draws, and what is left of each deck.
#[derive(Debug)]
struct Lots {
    random: fastrand::Rng,
    writes: Vec<Option<Fault>>,
    polls: Vec<Option<Fault>>,
}

#[derive(Clone, Debug, Default)]
struct Record {
    arrivals: HashMap<String, u32>,
    /// By change: its document, and the version that it made.
    versions: HashMap<String, (String, Version)>,
}

/// What a request says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    file_id: String,
    changes: Vec<SaidChange>,
}

#[derive(Debug, Deserialize)]
struct SaidChange {
    id: String,
}

/// What the service says to a write.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Done {
    #[serde(rename = "_code")]
    code: String,
    version: u32,
}

/// A request's lot.
#[derive(Clone, Copy, Debug)]
struct Lot {
    fault: Option<Fault>,
    /// Before the service gets it.
    before: Duration,
    /// Between the service's answer and ours.
    after: Duration,
}

/// The connection is closed without an answer.
#[derive(Debug)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("closed")
    }
}

impl std::error::Error for Closed {}

impl Front {
    /// Opens it before the service at `service`.
    pub fn open(service: SocketAddr, start: Instant, seed: u64) -> Self {
        let port = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = port.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            service,
            start,
            rough: AtomicBool::new(true),
            lots: Mutex::new(Lots { random: fastrand::Rng::with_seed(seed), writes: Vec::new(), polls: Vec::new() }),
            counts: Default::default(),
            record: Mutex::default(),
            idle: Mutex::default(),
            tasks: TaskTracker::new(),
            writing: AtomicUsize::new(0),
            late_max: AtomicU64::new(0),
        });
        let front = Self { address, shared, _port: port, running: Mutex::default() };
        front.listen();
        front
    }

    fn listen(&self) {
        let listener = bound(self.address).listen(1024).expect("the port is kept");
        let stop = CancellationToken::new();
        let accepting = accept(listener, Arc::clone(&self.shared), stop.clone());
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            let _ = ended.run_until_cancelled_owned(accepting).await;
        });
        *locked(&self.running) = Some((stop, task));
    }

    /// Closes the listener and every connection.
    async fn shut(&self) {
        let running = locked(&self.running).take();
        if let Some((stop, task)) = running {
            stop.cancel();
            // It was cancelled; the port is free when it has ended.
            let _ = task.await;
        }
    }

    /// The app restarts. What it took up before is carried out nevertheless: that is the worse case.
    pub async fn restart(&self, down: Duration) {
        self.shared.happened(Fault::Restart);
        self.shut().await;
        sleep(down).await;
        self.listen();
    }

    /// From now on nothing goes wrong.
    pub fn calm(&self) {
        self.shared.rough.store(false, Ordering::Relaxed);
    }

    /// Waits until all that was taken up is carried out.
    pub async fn at_rest(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.tasks.reopen();
    }

    /// Waits for a moment in which a write is under way, and counts that.
    pub async fn mid_write(&self) {
        while self.shared.writing.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        self.shared.happened(Fault::KilledMidWrite);
    }

    /// Waits until so many writes have come.
    pub async fn until_writes(&self, count: usize) {
        while locked(&self.shared.record).arrivals.len() < count {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// How often each fault happened.
    pub fn counts(&self) -> Vec<(Fault, u64)> {
        FAULTS.into_iter().zip(&self.shared.counts).map(|(fault, count)| (fault, count.load(Ordering::Relaxed))).collect()
    }

    /// The longest that a write was done after its connection had been lost.
    pub fn late_max(&self) -> Duration {
        Duration::from_micros(self.shared.late_max.load(Ordering::Relaxed))
    }

    /// How often each request that writes came.
    pub fn arrivals(&self) -> HashMap<String, u32> {
        locked(&self.shared.record).arrivals.clone()
    }

    /// The versions of a document, ascending.
    pub fn versions(&self, document: &str) -> Vec<Version> {
        let record = locked(&self.shared.record);
        let mut versions: Vec<_> = record.versions.values().filter(|(of, _)| of == document).map(|(_, version)| version.clone()).collect();
        versions.sort_by_key(|version| version.number);
        versions
    }

    /// Closes everything.
    pub async fn close(self) {
        self.shut().await;
        self.at_rest().await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("not poisoned")
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Two sockets may share a port while neither listens; then one may.
    socket.set_reuseaddr(true).expect("allowed");
    socket.bind(address).expect("a port of our own");
    socket
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(stream, Arc::clone(&shared))));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    if locked(&shared.lots).random.bool() {
        // Whenever it is closed, by a reset; the others by a FIN.
        let _ = stream.set_zero_linger();
    }
    let service = service_fn(|request| take(request, Arc::clone(&shared)));
    // How it ended is this front's own doing, or its client's.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Set when nobody can answer the request any more: it was answered, or its connection is gone.
struct Attended(Arc<OnceLock<At>>, Instant);

impl Drop for Attended {
    fn drop(&mut self) {
        let _ = self.0.set(since(self.1));
    }
}

/// Counts a write that is under way.
struct Writing(Arc<Shared>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Microseconds since `start`.
pub fn since(start: Instant) -> At {
    u64::try_from(start.elapsed().as_micros()).expect("no test lasts for so long")
}

async fn take(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Tail>, Closed> {
    let (head, body) = request.into_parts();
    let letter = Letter::of(&head, body.collect().await.map_err(|_| Closed)?.to_bytes());
    let said: Said = serde_json::from_slice(&letter.body).unwrap_or_default();
    if letter.authorization.starts_with(STRANGER) {
        return Ok(respond(200, Bytes::from_static(br#"{"_code":"NotAllowed","_msg":""}"#), false));
    }
    let writes = !said.changes.is_empty();
    if writes {
        *locked(&shared.record).arrivals.entry(letter.id.clone()).or_default() += 1;
    }
    let lot = shared.draw(writes);
    if let Some(fault) = lot.fault {
        shared.happened(fault);
    }
    let attended = Attended(Arc::default(), shared.start);
    let (answer, answered) = oneshot::channel();
    if !matches!(lot.fault, Some(Fault::Reset | Fault::PollReset | Fault::PollError)) {
        let writing = writes.then(|| {
            shared.writing.fetch_add(1, Ordering::Relaxed);
            Writing(Arc::clone(&shared))
        });
        let unattended = Arc::clone(&attended.0);
        let carrying = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            sleep(lot.before).await;
            let lost_for = |at: &At| Duration::from_micros(since(carrying.start).saturating_sub(*at));
            let late = unattended.get().is_some_and(|at| lost_for(at) > LATE_MAX);
            if late {
                // The machine's doing. An app has a time limit of its own.
                return;
            }
            let ending = carrying.ask(&letter).await;
            if writes {
                carrying.note(&said, &ending, &unattended);
            }
            sleep(lot.after).await;
            drop(writing);
            // Nobody may wait for it any more.
            let _ = answer.send(ending);
        });
    }
    match lot.fault {
        Some(Fault::Reset | Fault::ResetThenCommit | Fault::PollReset) => return Err(Closed),
        Some(Fault::ErrorThenCommit | Fault::PollError) => return Ok(respond(500, Bytes::new(), false)),
        _ => {}
    }
    let Ok(Ending::Whole(reply)) = answered.await else { return Err(Closed) };
    drop(attended);
    match lot.fault {
        Some(Fault::AnswerLost) => Err(Closed),
        Some(Fault::AnswerCut | Fault::PollCut) => Ok(respond(reply.status, reply.body, true)),
        _ => Ok(respond(reply.status, reply.body, false)),
    }
}

impl Lots {
    fn next(&mut self, writes: bool) -> Option<Fault> {
        let (deck, of, size): (_, &[_], _) =
            if writes { (&mut self.writes, &OF_WRITES, DECK_OF_WRITES) } else { (&mut self.polls, &OF_POLLS, DECK_OF_POLLS) };
        if deck.is_empty() {
            deck.extend(of.iter().flat_map(|(fault, times)| [Some(*fault)].repeat(*times)));
            deck.resize(size, None);
            self.random.shuffle(deck);
        }
        deck.pop().flatten()
    }
}

impl Shared {
    fn happened(&self, fault: Fault) {
        self.counts[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn draw(&self, writes: bool) -> Lot {
        let mut lots = locked(&self.lots);
        let mut ms = |from: u64, to: u64| Duration::from_micros(lots.random.u64(from * 1000..to * 1000));
        let (plain, short, late, timed_out) = ((ms(0, 4), ms(0, 6)), ms(20, 200), ms(20, 400), ms(450, 600));
        let fault = if self.rough.load(Ordering::Relaxed) { lots.next(writes) } else { None };
        let (before, after) = match fault {
            Some(Fault::CommitDelayed | Fault::PollDelayed) => (short, plain.1),
            Some(Fault::CommitAfterTimeout) => (timed_out, plain.1),
            Some(Fault::ResetThenCommit | Fault::ErrorThenCommit) => (late, plain.1),
            Some(Fault::PollHeld) => (plain.0, short),
            _ => plain,
        };
        Lot { fault, before, after }
    }

    /// Asks the service itself.
    async fn ask(&self, letter: &Letter) -> Ending {
        let idle = locked(&self.idle).pop();
        let mut line = idle.unwrap_or_else(|| Line::to(self.service));
        let ending = line.post(letter).await;
        if line.is_open() {
            locked(&self.idle).push(line);
        }
        ending
    }

    /// Notes a write that is done now at the latest.
    fn note(&self, said: &Said, ending: &Ending, lost: &OnceLock<At>) {
        let Ending::Whole(Reply { status: 200, body, .. }) = ending else { return };
        let Ok(Done { code, version }) = serde_json::from_slice(body) else { return };
        if code != "Ok" {
            return;
        }
        let shown = since(self.start);
        if let Some(lost) = lost.get() {
            self.late_max.fetch_max(shown.saturating_sub(*lost), Ordering::Relaxed);
        }
        let mut record = locked(&self.record);
        for change in &said.changes {
            let made = Version { number: version, change: change.id.clone(), shown };
            let (_, known) = record.versions.entry(change.id.clone()).or_insert_with(|| (said.file_id.clone(), made));
            // Of a change that came twice the first one made the version, whichever is answered first.
            known.number = known.number.min(version);
            known.shown = known.shown.min(shown);
        }
    }
}

/// An answer's body, which may break off.
#[derive(Debug)]
pub struct Tail {
    left: Bytes,
    cut: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// An answer with this body, or, if it is cut, with half of it and then the connection's end.
pub fn respond(status: u16, body: Bytes, cut: bool) -> Response<Tail> {
    let length = body.len();
    let tail = if cut {
        // What was written of it is to arrive before the end does.
        Tail { left: body.slice(..length / 2), cut: Some(Box::pin(sleep(Duration::from_millis(3)))) }
    } else {
        Tail { left: body, cut: None }
    };
    let mut response = Response::new(tail);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

impl http_body::Body for Tail {
    type Data = Bytes;
    type Error = Closed;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Closed>>> {
        if !self.left.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.left)))));
        }
        match &mut self.cut {
            Some(until) => until.as_mut().poll(context).map(|()| Some(Err(Closed))),
            None => Poll::Ready(None),
        }
    }
}
