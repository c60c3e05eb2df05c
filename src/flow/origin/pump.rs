//! The app's response on its way to the client: a small one is handed over whole, any other is read ahead of its reader.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{CallError, Close, Deadlines, Lease, Origin, STREAM_SEAT_MAX, Seat, seat::Zombie};
use crate::{
    clock::{self, Moment},
    flow::{accept::Stage, fresh::stake::Stake},
    model::FailureKind,
    wire::{
        Body, Budget, Cut, Feed,
        pipe::{self, Sent},
    },
};

/// The longest response that is handed over whole.
const WHOLE_MAX: usize = 64 * 1024;

/// How long the rest of a small response is waited for, before its head goes on without it.
const WHOLE_PATIENCE: Duration = Duration::from_millis(5);

/// How long a stream must be silent after its head to lose its seat.
const STREAM_SILENCE: Duration = Duration::from_secs(1);

impl Origin {
    /// Makes the client's body of the app's, and its size where it is handed over whole.
    ///
    /// # Errors
    /// It broke before anything of the answer has gone to the client, who is told so.
    pub(super) async fn body(
        &self,
        mut incoming: Incoming,
        lease: Lease,
        mut seat: Seat,
        deadlines: Deadlines,
        stream: bool,
    ) -> Result<(Body, Option<u64>), CallError> {
        let length = incoming.size_hint().exact();
        let settings = self.settings.load();
        let mut begun = Begun::default();
        if !stream && let Some(max) = seat.stake.holds() {
            let patience = settings.body_timeout.min(deadlines.total().since(clock::now()));
            let fits = length.is_none_or(|length| length <= max as u64);
            let read = fits && matches!(tokio::time::timeout(patience, begun.read(&mut incoming, max)).await, Ok(true));
            let held = read.then(|| begun.joined());
            seat.stake.replied(held.as_deref());
        }
        if !stream && !begun.broken && length.is_none_or(|length| length <= WHOLE_MAX as u64) {
            let whole = matches!(tokio::time::timeout(WHOLE_PATIENCE, begun.read(&mut incoming, WHOLE_MAX)).await, Ok(true));
            if whole {
                let size = begun.size as u64;
                let (bytes, trailers) = begun.into_whole();
                seat.reply = size;
                seat.whole(Close::Whole, Some(bytes.clone()), trailers.is_some());
                drop(seat);
                self.pool.give_back(lease);
                let body = if trailers.is_some() { Body::Trailed(bytes, trailers) } else { Body::full(bytes) };
                return Ok((body, Some(size)));
            }
        }
        if begun.broken {
            return Err(CallError::App(FailureKind::ResponseIncomplete));
        }
        let watch = Arc::clone(seat.watch());
        let rate_min = self.rate_min.load(Ordering::Relaxed) as u64;
        let ending = Box::new(move |end, given| watch.ended(end, given));
        let (feed, tap) = pipe::pipe(settings.buffer, Arc::clone(&self.buffers), length, rate_min, ending);
        let pump = Pump {
            copy: Copy::of(&seat.stake, &self.buffers),
            feed,
            seat,
            deadlines,
            stream,
            idle: settings.body_timeout,
            gone: false,
            until: deadlines.total(),
            given_up: false,
            zombies: Arc::clone(&self.zombies),
            zombie: None,
        };
        self.spawn_pump(pump, begun, incoming, lease);
        Ok((Body::Tap(tap), None))
    }

    fn spawn_pump(&self, mut pump: Pump, begun: Begun, mut incoming: Incoming, lease: Lease) {
        let drain = self.drain.clone();
        let pool = Arc::clone(&self.pool);
        self.tasks.spawn(async move {
            let done = tokio::select! {
                done = pump.run(begun, &mut incoming) => done,
                () = drain.reached(Stage::Cut) => {
                    pump.feed.finish(Err(Cut::Stopping));
                    false
                }
            };
            let given_up = pump.given_up;
            drop(pump);
            if done {
                pool.give_back(lease);
            } else if given_up {
                lease.reset();
            }
        });
    }
}

/// Reads the body of an answer that comes after its client was told that it does not, for what hangs on the call.
pub(super) async fn finish_late(mut body: Incoming, seat: &mut Seat) {
    let wanted = seat.stake.holds().unwrap_or(0).max(seat.stake.copies());
    let mut begun = Begun::default();
    let read = begun.read(&mut body, wanted).await;
    if read {
        seat.reply = begun.size as u64;
        let (bytes, trailers) = begun.into_whole();
        if let Some(max) = seat.stake.holds() {
            seat.stake.replied((bytes.len() <= max).then_some(&bytes[..]));
        }
        seat.whole(Close::Late, Some(bytes), trailers.is_some());
        return;
    }
    // Longer than anybody wants: only its end counts.
    if seat.stake.holds().is_some() {
        seat.stake.replied(None);
    }
    seat.stake.too_long();
    begun.frames.clear();
    while !begun.broken {
        match body.frame().await {
            None => break,
            Some(Ok(frame)) => begun.size += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => begun.broken = true,
        }
    }
    seat.reply = begun.size as u64;
    if begun.broken {
        seat.close(Close::Cut);
    } else {
        seat.whole(Close::Late, None, false);
    }
}

/// A copy of a body that is passed on, for what hangs on the call: frames share their bytes, so it costs memory only where the reader has
/// taken them already.
#[derive(Debug)]
struct Copy {
    parts: Vec<Bytes>,
    size: usize,
    max: usize,
    trailers: bool,
    budget: Arc<Budget>,
}

impl Copy {
    fn of(stake: &Stake, budget: &Arc<Budget>) -> Option<Self> {
        let max = stake.copies();
        (max > 0).then(|| Self { parts: Vec::new(), size: 0, max, trailers: false, budget: Arc::clone(budget) })
    }

    /// False if it is too long, or there is no memory for it.
    fn add(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(data) = frame.data_ref() else {
            self.trailers |= frame.is_trailers();
            return true;
        };
        if self.size + data.len() > self.max || !self.budget.take(data.len() as u64) {
            return false;
        }
        self.size += data.len();
        self.parts.push(data.clone());
        true
    }

    fn bytes(&mut self) -> Bytes {
        join(std::mem::take(&mut self.parts), self.size)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.budget.give_back(self.size as u64);
    }
}

/// Parts in a row as one.
fn join(parts: Vec<Bytes>, size: usize) -> Bytes {
    let mut parts = parts.into_iter();
    let first = parts.next().unwrap_or_default();
    let Some(second) = parts.next() else { return first };
    let mut all = BytesMut::with_capacity(size);
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    parts.for_each(|part| all.extend_from_slice(&part));
    all.freeze()
}

/// The first frames of a response, before it is known whether it is small.
#[derive(Debug, Default)]
struct Begun {
    frames: Vec<Frame<Bytes>>,
    size: usize,
    /// Its last frame has been read.
    ended: bool,
    /// The app's connection broke in the middle of it.
    broken: bool,
}

impl Begun {
    /// Reads on; true at a whole end within `max` bytes, false beyond that or where the body broke.
    async fn read(&mut self, incoming: &mut Incoming, max: usize) -> bool {
        while self.size <= max {
            if self.ended {
                return true;
            }
            match incoming.frame().await {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    self.size += frame.data_ref().map_or(0, Bytes::len);
                    self.frames.push(frame);
                }
                Some(Err(_)) => {
                    self.broken = true;
                    return false;
                }
            }
        }
        false
    }

    /// What has come so far as one.
    fn joined(&self) -> Bytes {
        join(self.frames.iter().filter_map(|frame| frame.data_ref().cloned()).collect(), self.size)
    }

    fn into_whole(mut self) -> (Bytes, Option<HeaderMap>) {
        let trailers: Option<HeaderMap> = self.frames.pop_if(|frame| frame.is_trailers()).and_then(|frame| frame.into_trailers().ok());
        let data = self.frames.into_iter().filter_map(|frame| frame.into_data().ok()).collect();
        (join(data, self.size), trailers)
    }
}

/// Reads the app's response ahead of its reader, and on to its end when the reader has left: the seat is charged until the app is done.
struct Pump {
    /// For what hangs on the call; none once it is too long.
    copy: Option<Copy>,
    feed: Feed,
    seat: Seat,
    deadlines: Deadlines,
    stream: bool,
    idle: Duration,
    /// Nobody reads any more.
    gone: bool,
    /// When it is given up or, if it was, when its seat is.
    until: Moment,
    given_up: bool,
    zombies: Arc<AtomicUsize>,
    zombie: Option<Zombie>,
}

/// What came of waiting for a frame.
enum Came {
    Frame(Option<Result<Frame<Bytes>, hyper::Error>>),
    Gone,
    Silent,
    Stalled,
    Late,
}

impl Pump {
    /// True if the response came whole and the connection can be used again.
    async fn run(&mut self, begun: Begun, incoming: &mut Incoming) -> bool {
        let head_at = clock::now();
        for frame in begun.frames {
            self.pass(frame).await;
        }
        if begun.ended {
            self.end();
            return !self.given_up;
        }
        loop {
            if self.gone && self.stream {
                return false;
            }
            let late = !self.stream && clock::now() >= self.until;
            let came = if late { Came::Late } else { self.next(incoming, head_at).await };
            match came {
                Came::Frame(Some(Ok(frame))) => self.pass(frame).await,
                Came::Frame(None) => {
                    self.end();
                    return !self.given_up;
                }
                Came::Frame(Some(Err(_))) => {
                    self.seat.close(Close::Cut);
                    self.feed.finish(Err(Cut::App));
                    return false;
                }
                Came::Gone => self.leave(),
                Came::Silent => self.seat.keep_stream_only(),
                Came::Stalled | Came::Late if self.given_up => {
                    self.seat.close(Close::GivenUp);
                    return false;
                }
                Came::Stalled => self.give_up(Cut::AppStalled),
                Came::Late => self.give_up(Cut::Late),
            }
        }
    }

    async fn next(&self, incoming: &mut Incoming, head_at: Moment) -> Came {
        let now = clock::now();
        let silent_at = (now + STREAM_SILENCE).min(head_at + STREAM_SEAT_MAX);
        let stalled_at = if self.given_up { self.until } else { (now + self.idle).min(self.until) };
        tokio::select! {
            biased;
            frame = incoming.frame() => Came::Frame(frame),
            () = self.feed.gone(), if !self.gone => Came::Gone,
            () = tokio::time::sleep_until(clock::instant(silent_at)), if self.stream && self.seat.is_held() => Came::Silent,
            () = tokio::time::sleep_until(clock::instant(stalled_at)), if !self.stream => {
                if stalled_at < self.until { Came::Stalled } else { Came::Late }
            }
        }
    }

    /// The answer is complete.
    fn end(&mut self) {
        let copy = self.copy.take();
        let trailers = copy.as_ref().is_some_and(|copy| copy.trailers);
        let bytes = copy.map(|mut copy| copy.bytes());
        self.seat.whole(if self.given_up { Close::Late } else { Close::Whole }, bytes, trailers);
        self.feed.finish(Ok(()));
    }

    /// Passes a frame on to its reader, for whom the app waits no longer than for the whole answer.
    async fn pass(&mut self, frame: Frame<Bytes>) {
        self.seat.reply += frame.data_ref().map_or(0, |data| data.len() as u64);
        if self.copy.as_mut().is_some_and(|copy| !copy.add(&frame)) {
            self.copy = None;
            self.seat.stake.too_long();
        }
        if self.gone {
            return;
        }
        if self.stream {
            if self.feed.send(frame).await != Sent::Taken {
                self.leave();
            }
            return;
        }
        match tokio::time::timeout_at(clock::instant(self.until), self.feed.send(frame)).await {
            Ok(Sent::Taken) => {}
            Ok(Sent::Gone | Sent::TooSlow) => self.leave(),
            Err(_) => self.give_up(Cut::Late),
        }
    }

    fn leave(&mut self) {
        self.gone = true;
        if !self.stream {
            self.zombie.get_or_insert_with(|| Zombie::count(&self.zombies));
        }
    }

    /// The client is cut off; the seat stays charged until the app is done, or for as long as that of any call that was given up.
    fn give_up(&mut self, cut: Cut) {
        self.feed.finish(Err(cut));
        self.leave();
        self.given_up = true;
        self.until = self.deadlines.zombie();
    }
}
