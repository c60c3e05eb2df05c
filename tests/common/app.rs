//! An app that does as its requests say, and remembers what it was asked.
//!
//! The query tells: `until=NAME` waits for [`App::let_go`] before the answer, `ms` waits for so long; `status`; `bytes` of the answer, or
//! `echo` for those of the request; `chunked` sends them without a length, `trickle` so many ms after each piece, `piece` bytes each;
//! `halt=NAME` waits for [`App::let_go`] before the last piece; `cut` breaks the connection after so many bytes; `die` breaks it instead of
//! an answer; `trailer` sends a trailer `x-sum`; `h=name:value` sets a header (repeatable); `db` tells `Server-Timing`; `refuse` answers
//! an upgrade with 200; `count` sets `x-count` to how often this target was asked for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, response};
use http_body::Frame;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Where a piece's bytes come from.
static BYTES: [u8; 65536] = [b'x'; 65536];

/// A request as the app saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// With the query.
    pub target: String,
    pub headers: HeaderMap,
    /// Its body's length, once it was read; the bytes themselves are not kept.
    pub length: usize,
    /// Whether the body came whole.
    pub whole: bool,
    pub trailers: Option<HeaderMap>,
}

impl Seen {
    /// All values of a header, in one line.
    pub fn header(&self, name: &str) -> String {
        self.headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect::<Vec<_>>().join(", ")
    }
}

#[derive(Debug, Default)]
struct Journal {
    seen: Vec<Seen>,
    running: BTreeMap<String, BTreeSet<usize>>,
    most: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Shared {
    journal: Mutex<Journal>,
    connections: AtomicUsize,
    gone: watch::Sender<BTreeSet<String>>,
}

impl Shared {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().expect("not poisoned")
    }

    async fn let_go(&self, name: &str) {
        let mut gone = self.gone.subscribe();
        let _ = gone.wait_for(|gone| gone.contains(name)).await;
    }
}

/// A running app.
pub struct App {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl App {
    /// Starts it on a port of its own.
    pub async fn start() -> Self {
        Self::start_on(([127, 0, 0, 1], 0).into()).await
    }

    /// Starts it on this address.
    pub async fn start_on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared =
            Arc::new(Shared { journal: Mutex::default(), connections: AtomicUsize::new(0), gone: watch::Sender::new(BTreeSet::new()) });
        let kept = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                kept.connections.fetch_add(1, Ordering::Relaxed);
                socket.set_nodelay(true).expect("a socket");
                let shared = Arc::clone(&kept);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await;
                });
            }
        });
        Self { address, shared, task }
    }

    /// Lets those go on that wait for this name.
    pub fn let_go(&self, name: &str) {
        self.shared.gone.send_modify(|gone| {
            gone.insert(name.to_owned());
        });
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.journal().seen.clone()
    }

    /// The targets of every request so far.
    pub fn targets(&self) -> Vec<String> {
        self.shared.journal().seen.iter().map(|seen| seen.target.clone()).collect()
    }

    /// The requests whose targets begin so.
    pub fn seen_of(&self, beginning: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.target.starts_with(beginning)).collect()
    }

    /// Waits until as many came whose targets begin so.
    pub async fn until_seen(&self, beginning: &str, count: usize) {
        super::eventually(&format!("{count} of {beginning} at the app"), || async {
            (self.seen_of(beginning).len() == count).then_some(())
        })
        .await;
    }

    /// Which requests of a first path segment run now.
    pub fn running(&self, segment: &str) -> BTreeSet<usize> {
        self.shared.journal().running.get(segment).cloned().unwrap_or_default()
    }

    /// How many of them ran at the most.
    pub fn most(&self, segment: &str) -> usize {
        self.shared.journal().most.get(segment).copied().unwrap_or(0)
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Waits until as many run.
    pub async fn until_running(&self, segment: &str, count: usize) {
        super::eventually(&format!("{count} of {segment} at the app"), || async { (self.running(segment).len() == count).then_some(()) })
            .await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a request while the app works on it, also when nobody listens any more.
struct Running {
    shared: Arc<Shared>,
    segment: String,
    id: usize,
}

impl Running {
    fn new(shared: &Arc<Shared>, segment: String, seen: Seen) -> Self {
        let mut journal = shared.journal();
        let id = journal.seen.len();
        journal.seen.push(seen);
        let running = journal.running.entry(segment.clone()).or_default();
        running.insert(id);
        let now = running.len();
        let most = journal.most.entry(segment.clone()).or_default();
        *most = now.max(*most);
        drop(journal);
        Self { shared: Arc::clone(shared), segment, id }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(running) = self.shared.journal().running.get_mut(&self.segment) {
            running.remove(&self.id);
        }
    }
}

/// What the query says.
#[derive(Clone, Debug, Default)]
struct Script {
    words: HashMap<String, String>,
    headers: Vec<(String, String)>,
}

impl Script {
    fn of(query: &str) -> Self {
        let mut script = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()).into_owned() {
            match value.split_once(':').filter(|_| name == "h") {
                Some((name, value)) => script.headers.push((name.to_owned(), value.to_owned())),
                None => {
                    script.words.insert(name, value);
                }
            }
        }
        script
    }

    fn has(&self, word: &str) -> bool {
        self.words.contains_key(word)
    }

    fn number(&self, word: &str) -> Option<usize> {
        self.words.get(word)?.parse().ok()
    }

    fn head(&self, length: usize) -> response::Builder {
        let mut response = Response::builder().status(u16::try_from(self.number("status").unwrap_or(200)).expect("a status"));
        if let Some(time) = self.words.get("db") {
            response = response.header("server-timing", format!("db;dur={time};count=3"));
        }
        if self.has("trailer") {
            response = response.header("trailer", "x-sum");
        } else if !self.has("chunked") {
            response = response.header("content-length", length);
        }
        self.headers.iter().fold(response, |response, (name, value)| response.header(name.as_str(), value.as_str()))
    }
}

async fn answer(mut request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let script = Script::of(request.uri().query().unwrap_or_default());
    let seen = Seen {
        method: request.method().to_string(),
        target: request.uri().to_string(),
        headers: request.headers().clone(),
        length: 0,
        whole: false,
        trailers: None,
    };
    let target = seen.target.clone();
    let running = Running::new(&shared, request.uri().path().split('/').nth(1).unwrap_or_default().to_owned(), seen);
    if request.headers().contains_key("upgrade") && !script.has("refuse") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(echo_both_ways(upgrade, running));
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        return Ok(response.body(empty()).expect("a response"));
    }
    let Some(echoed) = take(request.into_body(), &script, &shared, running.id).await else {
        return Ok(Response::new(empty()));
    };
    // The work goes on whether or not somebody listens, as in a real app server.
    let (waiting, kept) = (script.clone(), Arc::clone(&shared));
    let work = tokio::spawn(async move {
        if let Some(name) = waiting.words.get("until") {
            kept.let_go(name).await;
        }
        if let Some(ms) = waiting.number("ms") {
            tokio::time::sleep(Duration::from_millis(ms as u64)).await;
        }
        running
    });
    let running = work.await.expect("no panic");
    if script.has("die") {
        std::panic::resume_unwind(Box::new("the app dies"));
    }
    let total = script.number("bytes").unwrap_or(echoed.len());
    let mut response = script.head(total);
    if script.has("count") {
        response = response.header("x-count", shared.journal().seen.iter().filter(|seen| seen.target == target).count());
    }
    let (sender, receiver) = mpsc::channel(2);
    // The work ends before its last byte is out, or tidegate could let the next request in while this one is still counted.
    let running = (total > 0 || script.has("trailer")).then_some(running);
    tokio::spawn(async move {
        // When nobody takes it any more there is nothing left to do.
        let _ = send(&sender, &script, &shared, &echoed, total, running).await;
    });
    Ok(response.body(BodyExt::boxed(Pieces(receiver))).expect("a response"))
}

/// Reads a request's body and writes down how it ended; its bytes if they are asked for, none if it was not whole.
async fn take(mut body: Incoming, script: &Script, shared: &Shared, id: usize) -> Option<Vec<u8>> {
    let mut echoed = Vec::new();
    let (mut length, mut whole, mut trailers) = (0, true, None);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                length += data.len();
                if script.has("echo") {
                    echoed.extend_from_slice(&data);
                }
            }
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    let mut journal = shared.journal();
    let seen = &mut journal.seen[id];
    (seen.length, seen.whole, seen.trailers) = (length, whole, trailers);
    whole.then_some(echoed)
}

type Sender = mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>;

async fn send(sender: &Sender, script: &Script, shared: &Shared, echoed: &[u8], total: usize, running: Option<Running>) -> Option<()> {
    let mut running = running;
    let piece_max = script.number("piece").unwrap_or(BYTES.len());
    let mut sent = 0;
    while sent < total {
        let size = (total - sent).min(piece_max);
        if script.number("cut").is_some_and(|cut| sent + size > cut) {
            return sender.send(Err(std::io::Error::other("cut"))).await.ok();
        }
        if sent + size == total
            && let Some(name) = script.words.get("halt")
        {
            shared.let_go(name).await;
        }
        let piece =
            if script.has("echo") { Bytes::copy_from_slice(&echoed[sent..sent + size]) } else { Bytes::from_static(&BYTES[..size]) };
        if sent + size == total && !script.has("trailer") {
            running = None;
        }
        sender.send(Ok(Frame::data(piece))).await.ok()?;
        sent += size;
        if let Some(ms) = script.number("trickle") {
            tokio::time::sleep(Duration::from_millis(ms as u64)).await;
        }
    }
    if script.has("trailer") {
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", "42".parse().expect("a value"));
        drop(running);
        sender.send(Ok(Frame::trailers(fields))).await.ok()?;
    }
    Some(())
}

async fn echo_both_ways(upgrade: hyper::upgrade::OnUpgrade, running: Running) {
    if let Ok(upgraded) = upgrade.await {
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
    }
    drop(running);
}

/// A body of what comes through a channel.
struct Pieces(mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context)
    }
}

fn empty() -> Body {
    BodyExt::boxed(http_body_util::Empty::new().map_err(|never| match never {}))
}
