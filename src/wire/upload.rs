//! What a client sends: read up to a prefix before the queue, then streamed, with time-outs, bounds and a record of how it ended. An
//! upload that nobody wants any more is read on and thrown away for a while, so that the answer to it is heard.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    sync::Semaphore,
    time::{Sleep, sleep},
};

use crate::clock::{self, Moment};

/// How long a sender keeps us waiting, in all, between two looks at its rate.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// How many times the idle time-out the beginning of a body may take.
const BEGINNING_MAX: u32 = 4;

/// How long a client waits for `100 Continue` before it may send all the same (RFC 9110 section 10.1.1); curl waits for as long.
const EXPECT_PATIENCE: Duration = Duration::from_secs(1);

/// How a client's body failed; the fault is always the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Its framing is malformed: 400.
    Malformed = 1,
    /// The client left.
    Gone = 2,
    /// Nothing came for `body_timeout`: 408.
    Stalled = 3,
    /// It came slower than `body_rate_min` while a seat was held for it: 408.
    TooSlow = 4,
    /// It is longer than `body_bytes_max`: 413.
    TooLarge = 5,
}

impl Fault {
    const ALL: [Self; 5] = [Self::Malformed, Self::Gone, Self::Stalled, Self::TooSlow, Self::TooLarge];

    /// The status that answers it (RFC 9110 section 15.5).
    #[must_use]
    pub fn status(self) -> http::StatusCode {
        match self {
            Self::Malformed | Self::Gone => http::StatusCode::BAD_REQUEST,
            Self::Stalled | Self::TooSlow => http::StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => http::StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    fn of(error: &hyper::Error) -> Self {
        let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
        match source.map(std::io::Error::kind) {
            Some(std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData | std::io::ErrorKind::Other) => Self::Malformed,
            Some(std::io::ErrorKind::TimedOut) => Self::Stalled,
            _ => Self::Gone,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => "the request body is malformed",
            Self::Gone => "the client left while it was sending",
            Self::Stalled => "the request body stopped coming",
            Self::TooSlow => "the request body comes too slowly",
            Self::TooLarge => "the request body is too large",
        }
        .fmt(formatter)
    }
}

/// How an upload stands, seen from outside while somebody else reads it.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    ended: AtomicU64,
    fault: AtomicU8,
}

impl Progress {
    /// How many bytes have come.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// When its last byte was passed on; none while it goes on.
    #[must_use]
    pub fn ended(&self) -> Option<Moment> {
        match self.ended.load(Ordering::Acquire) {
            0 => None,
            at => Some(Moment(at)),
        }
    }

    /// How it failed.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        let code = self.fault.load(Ordering::Acquire);
        Fault::ALL.into_iter().find(|fault| *fault as u8 == code)
    }

    fn end(&self) {
        self.ended.store(clock::now().0.max(1), Ordering::Release);
    }

    fn fail(&self, fault: Fault) -> Fault {
        self.fault.store(fault as u8, Ordering::Release);
        fault
    }
}

/// Bounds on one upload.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Between two reads.
    pub idle: Duration,
    /// The most bytes.
    pub bytes_max: u64,
    /// The least bytes per second of waiting, while a seat is held.
    pub rate_min: u64,
}

/// Reads on what nobody wants, bounded in bytes, time and number, so that a refusal is heard (a client that is still sending does not read).
#[derive(Debug)]
pub struct Linger {
    places: Arc<Semaphore>,
    bytes_max: AtomicU64,
    time_ns: AtomicU64,
}

impl Linger {
    /// At most `places` at a time, each for `time` and `bytes_max` bytes.
    #[must_use]
    pub fn new(places: usize, time: Duration, bytes_max: u64) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            bytes_max: AtomicU64::new(bytes_max),
            time_ns: AtomicU64::new(clock::nanoseconds(time)),
        }
    }

    /// Other bounds for those that begin from now on.
    pub fn set(&self, time: Duration, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.time_ns.store(clock::nanoseconds(time), Ordering::Relaxed);
    }

    fn begin(&self, mut body: Incoming) {
        let (Ok(place), Ok(runtime)) = (Arc::clone(&self.places).try_acquire_owned(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let mut left = self.bytes_max.load(Ordering::Relaxed);
        let time = Duration::from_nanos(self.time_ns.load(Ordering::Relaxed));
        runtime.spawn(async move {
            let reading = async {
                while let Some(Ok(frame)) = body.frame().await {
                    left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                    if left == 0 {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(time, reading).await;
            drop(place);
        });
    }
}

/// Sees a body before whoever asks for it does. It must not wait.
pub trait Watch: fmt::Debug + Send + Sync {
    /// These bytes are about to be passed on. They come in order, from the first byte of the body, none left out.
    fn pass(&mut self, bytes: &[u8]);

    /// The body has ended, and that is about to be told; where its length is known, with its last bytes. Never called if it breaks off.
    fn end(&mut self);
}

/// A client's body.
#[derive(Debug)]
pub struct Upload {
    prefix: Option<Bytes>,
    rest: Option<Incoming>,
    declared: Option<u64>,
    limits: Limits,
    charged: bool,
    waited: Duration,
    /// The bytes that had come when its rate was looked at last.
    window_from: u64,
    waiting_since: Option<Moment>,
    timer: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
    linger: Arc<Linger>,
    born: Moment,
    /// Set while the client waits for `100 Continue`: reading would send it.
    expects: bool,
    watch: Option<Box<dyn Watch>>,
}

/// What was read of a body before the queue.
#[derive(Debug)]
pub enum Beginning {
    /// All of it, with its trailers.
    Whole(Bytes, Option<HeaderMap>),
    /// As much as the bound allowed; the rest is to come.
    Prefix(Bytes),
}

impl Upload {
    /// A body of which nothing was read. `expects`: the client waits for `100 Continue` before it sends (RFC 9110 section 10.1.1).
    #[must_use]
    pub fn new(body: Incoming, expects: bool, limits: Limits, linger: Arc<Linger>) -> Self {
        let declared = body.size_hint().exact();
        Self {
            prefix: None,
            rest: Some(body),
            declared,
            limits,
            charged: false,
            waited: Duration::ZERO,
            window_from: 0,
            waiting_since: None,
            born: clock::now(),
            timer: None,
            progress: Arc::default(),
            linger,
            expects,
            watch: None,
        }
    }

    /// From now on `watch` sees what is passed on, the beginning that was read already too. To be given after [`Upload::begin`], whose own
    /// reading it must not see.
    pub fn watch(&mut self, watch: Box<dyn Watch>) {
        self.watch = Some(watch);
    }

    /// How it stands, for whoever hands it away.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// From now on a seat is held for it, and the least rate holds.
    pub fn charge(&mut self) {
        self.charged = true;
    }

    /// Reads up to `max` bytes, which will be passed on before the rest. After [`Beginning::Whole`] nothing is left in it. Dropping this
    /// future loses what it has read; the upload must then be dropped too.
    ///
    /// # Errors
    /// How the client failed.
    pub async fn begin(&mut self, max: usize) -> Result<Beginning, Fault> {
        let mut frames = Gathered::default();
        let declared = self.declared.and_then(|length| usize::try_from(length).ok());
        if declared.is_some_and(|length| length > max) {
            frames.bytes.reserve(max);
        }
        let late = clock::now() + self.limits.idle * BEGINNING_MAX;
        while frames.len() <= max {
            // Nothing of it is passed on yet, so that its end has not come either, even where its length says that this was all.
            match std::future::poll_fn(|context| self.poll_rest(context)).await {
                None => return Ok(Beginning::Whole(frames.take(), frames.trailers)),
                Some(frame) => frames.add(frame?),
            }
            if clock::now() > late {
                return Err(self.broke(Fault::Stalled));
            }
        }
        let bytes = frames.take();
        self.prefix = Some(bytes.clone());
        Ok(Beginning::Prefix(bytes.slice(..max)))
    }

    /// Whether its last byte was passed on.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.prefix.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Exact where the client declared a length.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        let prefix = self.prefix.as_ref().map_or(0, |prefix| prefix.len() as u64);
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        rest.exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(prefix + rest))
    }

    /// The next frame.
    pub fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let polled = match self.prefix.take() {
            Some(prefix) => Poll::Ready(Some(Ok(Frame::data(prefix)))),
            None => self.poll_rest(context),
        };
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.pass(frame);
        }
        polled
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.expects = false;
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        match Pin::new(rest).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(self.came(frame))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.broke(Fault::of(&error))))),
            Poll::Ready(None) => {
                self.rest = None;
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => self.wait(context),
        }
    }

    fn pass(&mut self, frame: &Frame<Bytes>) {
        match (&mut self.watch, frame.data_ref()) {
            (Some(watch), Some(bytes)) => watch.pass(bytes),
            (Some(_), None) => self.end_watch(),
            (None, _) => {}
        }
        // A body of a declared length is not asked again after its last byte.
        if self.is_end_stream() {
            self.end();
        }
    }

    /// What the watch does at the end is done before anybody can see that it has ended.
    fn end(&mut self) {
        self.end_watch();
        self.progress.end();
    }

    fn end_watch(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            watch.end();
        }
    }

    fn came(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Fault> {
        if let Some(since) = self.waiting_since.take() {
            self.waited += clock::now().since(since);
            self.timer = None;
        }
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        let bytes = self.progress.bytes.fetch_add(size, Ordering::Relaxed) + size;
        if bytes > self.limits.bytes_max {
            return Err(self.broke(Fault::TooLarge));
        }
        if self.charged && self.waited >= RATE_WINDOW {
            let least = self.limits.rate_min.saturating_mul(self.waited.as_secs());
            if bytes - self.window_from < least {
                return Err(self.broke(Fault::TooSlow));
            }
            (self.waited, self.window_from) = (Duration::ZERO, bytes);
        }
        Ok(frame)
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.waiting_since.get_or_insert_with(clock::now);
        let idle = self.limits.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(idle)));
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(self.broke(Fault::Stalled))))
    }

    /// The client is at fault: nothing more is read, but for lingering where it still sends.
    fn broke(&mut self, fault: Fault) -> Fault {
        self.watch = None;
        if let Some(rest) = self.rest.take()
            && fault == Fault::TooLarge
        {
            self.linger.begin(rest);
        }
        self.progress.fail(fault)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take()
            && (!self.expects || clock::now().since(self.born) > EXPECT_PATIENCE)
            && !rest.is_end_stream()
        {
            self.linger.begin(rest);
        }
    }
}

/// Bytes as they come in: a single frame is kept as it is.
#[derive(Debug, Default)]
struct Gathered {
    first: Option<Bytes>,
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.as_ref().map_or(self.bytes.len(), Bytes::len)
    }

    fn add(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) if self.first.is_none() && self.bytes.is_empty() && self.bytes.capacity() == 0 => self.first = Some(data),
            Ok(data) => {
                if let Some(first) = self.first.take() {
                    self.bytes.extend_from_slice(&first);
                }
                self.bytes.extend_from_slice(&data);
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }

    fn take(&mut self) -> Bytes {
        self.first.take().unwrap_or_else(|| std::mem::take(&mut self.bytes).freeze())
    }
}

/// Whether a connection's answer must be a reset, so that a cut body of no known length never looks whole (RFC 9112 section 8).
#[derive(Debug, Default)]
pub struct Abort(AtomicBool);

impl Abort {
    /// Close by a reset.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether to close by a reset.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use parking_lot::Mutex;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Diary(Arc<Mutex<Vec<String>>>);

    impl Diary {
        fn note(&self, text: String) {
            self.0.lock().push(text);
        }
    }

    #[derive(Debug)]
    struct Witness(Diary, Arc<Progress>);

    impl Watch for Witness {
        fn pass(&mut self, bytes: &[u8]) {
            assert_eq!(self.1.ended(), None);
            self.0.note(format!("seen {}", String::from_utf8_lossy(bytes)));
        }

        fn end(&mut self) {
            assert_eq!(self.1.ended(), None, "its end can be seen already");
            self.0.note("seen whole".to_owned());
        }
    }

    /// What a watch and the reader of a body saw, in order. `parts` are sent one by one, and the last one ends the connection.
    async fn diary(parts: &[&str], ahead: usize) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let diary = Diary::default();
        let kept = diary.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let diary = kept.clone();
            async move {
                let limits = Limits { idle: Duration::from_secs(5), bytes_max: 20, rate_min: 1 };
                let linger = Arc::new(Linger::new(0, Duration::ZERO, 0));
                let mut upload = Upload::new(request.into_body(), false, limits, linger);
                let beginning = upload.begin(ahead).await.expect("a beginning");
                assert!(matches!(beginning, Beginning::Prefix(_)));
                upload.watch(Box::new(Witness(diary.clone(), upload.progress())));
                loop {
                    let ended = upload.is_end_stream();
                    match std::future::poll_fn(|context| Pin::new(&mut upload).poll_frame(context)).await {
                        Some(Ok(frame)) if frame.is_trailers() => diary.note("got trailers".to_owned()),
                        Some(Ok(frame)) => {
                            diary.note(format!("got {}", String::from_utf8_lossy(&frame.into_data().expect("data"))));
                        }
                        Some(Err(fault)) => diary.note(format!("{fault:?}")),
                        None => {
                            diary.note(if ended { "over" } else { "ends" }.to_owned());
                            return Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()));
                        }
                    }
                }
            }
        });
        let serving = tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service).into_future());
        for part in parts {
            client.write_all(part.as_bytes()).await.expect("it reads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client.shutdown().await.expect("it reads");
        let _ = serving.await.expect("no panic");
        diary.0.lock().join(", ")
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_sees_every_byte_and_the_end_before_they_are_passed_on() {
        let length = ["POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", "def", "ghi"];
        let expected = "seen abc, got abc, seen def, got def, seen ghi, seen whole, got ghi, over";
        assert_eq!(diary(&length, 1).await, expected);
        let expected = "seen abcdef, got abcdef, seen ghi, seen whole, got ghi, over";
        assert_eq!(diary(&length, 5).await, expected, "what was read ahead is seen as well");
        let chunked = ["POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "2\r\nde\r\n", "0\r\n\r\n"];
        assert_eq!(diary(&chunked, 1).await, "seen abc, got abc, seen de, got de, seen whole, ends");
        let trailed =
            ["POST / HTTP/1.1\r\nhost: a\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "0\r\nx-sum: 1\r\n\r\n"];
        assert_eq!(diary(&trailed, 1).await, "seen abc, got abc, seen whole, got trailers, ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_sees_no_end_of_a_body_that_breaks_off() {
        let cut = ["POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", "def"];
        assert_eq!(diary(&cut, 1).await, "seen abc, got abc, seen def, got def, Gone, over");
        let long = ["POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "14\r\n01234567890123456789\r\n"];
        assert_eq!(diary(&long, 1).await, "seen abc, got abc, TooLarge, over");
    }
}
