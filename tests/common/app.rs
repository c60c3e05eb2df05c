//! An app that does as its requests say, and remembers what it was asked.
//!
//! The query tells: `ms` to wait before the answer, `bytes` of the answer, `status`, `chunked`, `trickle` (ms between pieces of 64 KiB),
//! `cut` (bytes after which the connection is broken), `die` (the connection is closed without an answer), `trailer`, `echo`.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

/// A request as the app saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    /// Its body's length, once it was read; the bytes themselves are not kept.
    pub length: usize,
    /// Whether the body came whole.
    pub whole: bool,
    pub trailers: Option<HeaderMap>,
}

#[derive(Debug, Default)]
struct Journal {
    seen: Vec<Seen>,
    running: HashMap<String, usize>,
    most: HashMap<String, usize>,
    connections: usize,
}

/// A running app.
pub struct App {
    pub address: SocketAddr,
    journal: Arc<Mutex<Journal>>,
    task: JoinHandle<()>,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl App {
    /// Starts it on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let journal = Arc::new(Mutex::new(Journal::default()));
        let kept = Arc::clone(&journal);
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                kept.lock().expect("not poisoned").connections += 1;
                let journal = Arc::clone(&kept);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(request, Arc::clone(&journal)));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await;
                });
            }
        });
        Self { address, journal, task }
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.journal.lock().expect("not poisoned").seen.clone()
    }

    /// How many requests of a first path segment run now, and how many ran at the most.
    pub fn running(&self, segment: &str) -> (usize, usize) {
        let journal = self.journal.lock().expect("not poisoned");
        let of = |map: &HashMap<String, usize>| map.get(segment).copied().unwrap_or(0);
        (of(&journal.running), of(&journal.most))
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.journal.lock().expect("not poisoned").connections
    }

    /// Waits until as many run.
    pub async fn until_running(&self, segment: &str, count: usize) {
        for _ in 0..1000 {
            if self.running(segment).0 == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} run of {segment}, not {count}", self.running(segment).0);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a request while the app works on it, also when nobody listens any more.
struct Running {
    journal: Arc<Mutex<Journal>>,
    segment: String,
}

impl Running {
    fn new(journal: &Arc<Mutex<Journal>>, segment: &str) -> Self {
        let mut kept = journal.lock().expect("not poisoned");
        let now = kept.running.entry(segment.to_owned()).or_default();
        *now += 1;
        let now = *now;
        let most = kept.most.entry(segment.to_owned()).or_default();
        *most = now.max(*most);
        drop(kept);
        Self { journal: Arc::clone(journal), segment: segment.to_owned() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(now) = self.journal.lock().expect("not poisoned").running.get_mut(&self.segment) {
            *now -= 1;
        }
    }
}

async fn answer(mut request: Request<Incoming>, journal: Arc<Mutex<Journal>>) -> Result<Response<Body>, Infallible> {
    let query: HashMap<String, String> =
        request.uri().query().map(|query| form_urlencoded::parse(query.as_bytes()).into_owned().collect()).unwrap_or_default();
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
    let path = request.uri().path().to_owned();
    let segment = path.split('/').nth(1).unwrap_or_default().to_owned();
    let running = Running::new(&journal, &segment);
    let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
    let index = {
        let mut kept = journal.lock().expect("not poisoned");
        kept.seen.push(Seen {
            method: request.method().to_string(),
            path,
            headers: request.headers().clone(),
            length: 0,
            whole: false,
            trailers: None,
        });
        kept.seen.len() - 1
    };
    if let (Some(upgrade), false) = (upgrade, query.contains_key("refuse")) {
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let mut socket = TokioIo::new(upgraded);
                let (mut reader, mut writer) = tokio::io::split(&mut socket);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            }
            drop(running);
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        return Ok(response.body(empty()).expect("a response"));
    }
    let mut echoed = Vec::new();
    let mut body = request.into_body();
    let mut whole = true;
    let mut trailers = None;
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => {
                    length += data.len();
                    if query.contains_key("echo") {
                        echoed.extend_from_slice(&data);
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    {
        let mut kept = journal.lock().expect("not poisoned");
        kept.seen[index].length = length;
        kept.seen[index].whole = whole;
        kept.seen[index].trailers = trailers;
    }
    if !whole {
        return Ok(Response::new(empty()));
    }
    // The work goes on whether or not somebody listens, as in a real app server.
    let work = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(number("ms").unwrap_or(0))).await;
        let trickle = number("trickle");
        (running, trickle)
    });
    let (running, trickle) = work.await.expect("no panic");
    if query.contains_key("die") {
        // A handler that never answers, and whose connection is dropped with it.
        panic_quietly();
    }
    let cut = number("cut");
    let bytes = if query.contains_key("echo") { None } else { number("bytes") };
    let mut response = Response::builder().status(u16::try_from(number("status").unwrap_or(200)).unwrap_or(500));
    if let Some(timing) = query.get("db") {
        response = response.header("server-timing", format!("db;dur={timing};count=3"));
    }
    let total = bytes.unwrap_or(echoed.len() as u64);
    if !query.contains_key("chunked") && !query.contains_key("trailer") {
        response = response.header("content-length", total);
    }
    if query.contains_key("trailer") {
        response = response.header("trailer", "x-sum");
    }
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(2);
    let trailer = query.contains_key("trailer");
    tokio::spawn(async move {
        let _running = running;
        let mut sent = 0;
        while sent < total {
            let size = (total - sent).min(65536);
            let piece = if bytes.is_some() {
                Bytes::from(vec![b'x'; size as usize])
            } else {
                Bytes::copy_from_slice(&echoed[sent as usize..(sent + size) as usize])
            };
            if cut.is_some_and(|cut| sent + size > cut) {
                let _ = sender.send(Err(std::io::Error::other("cut"))).await;
                return;
            }
            if sender.send(Ok(Frame::data(piece))).await.is_err() {
                return;
            }
            sent += size;
            if let Some(pause) = trickle {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        if trailer {
            let mut fields = HeaderMap::new();
            fields.insert("x-sum", "42".parse().expect("a value"));
            let _ = sender.send(Ok(Frame::trailers(fields))).await;
        }
    });
    Ok(response.body(BodyExt::boxed(Pieces(receiver))).expect("a response"))
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

fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("the app dies"))
}
