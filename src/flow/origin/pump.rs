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
    flow::accept::Stage,
    model::FailureKind,
    wire::{
        Body, Cut, Feed,
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
        let mut begun = Begun::default();
        if !stream && length.is_none_or(|length| length <= WHOLE_MAX as u64) {
            let whole = matches!(tokio::time::timeout(WHOLE_PATIENCE, begun.read(&mut incoming)).await, Ok(true));
            if whole {
                seat.reply = begun.size as u64;
                seat.close(Close::Whole);
                drop(seat);
                self.pool.give_back(lease);
                let size = begun.size as u64;
                return Ok((begun.into_body(), Some(size)));
            }
            if begun.broken {
                return Err(CallError::App(FailureKind::ResponseIncomplete));
            }
        }
        let watch = Arc::clone(seat.watch());
        let settings = self.settings.load();
        let rate_min = self.rate_min.load(Ordering::Relaxed) as u64;
        let ending = Box::new(move |end, given| watch.ended(end, given));
        let (feed, tap) = pipe::pipe(settings.buffer, Arc::clone(&self.buffers), length, rate_min, ending);
        let pump = Pump {
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
            drop(pump);
            if done {
                pool.give_back(lease);
            }
        });
    }
}

/// Reads a body to its end and throws it away; false if it broke.
pub(super) async fn discard(mut body: Incoming, size: &mut u64) -> bool {
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => *size += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_) => return false,
        }
    }
    true
}

/// The first frames of a response, before it is known whether it is small.
#[derive(Debug, Default)]
struct Begun {
    frames: Vec<Frame<Bytes>>,
    size: usize,
    /// The app's connection broke in the middle of it.
    broken: bool,
}

impl Begun {
    /// Reads on; true at a whole end within [`WHOLE_MAX`], false beyond it or where the body broke.
    async fn read(&mut self, incoming: &mut Incoming) -> bool {
        while self.size <= WHOLE_MAX {
            match incoming.frame().await {
                None => return true,
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

    fn into_body(mut self) -> Body {
        if self.frames.is_empty() {
            return Body::Empty;
        }
        let trailers: Option<HeaderMap> = self.frames.pop_if(|frame| frame.is_trailers()).and_then(|frame| frame.into_trailers().ok());
        let mut data = self.frames.into_iter().filter_map(|frame| frame.into_data().ok());
        let first = data.next().unwrap_or_default();
        let bytes = match data.next() {
            None => first,
            Some(second) => {
                let mut all = BytesMut::with_capacity(self.size);
                all.extend_from_slice(&first);
                all.extend_from_slice(&second);
                data.for_each(|part| all.extend_from_slice(&part));
                all.freeze()
            }
        };
        if trailers.is_some() { Body::Trailed(bytes, trailers) } else { Body::full(bytes) }
    }
}

/// Reads the app's response ahead of its reader, and on to its end when the reader has left: the seat is charged until the app is done.
struct Pump {
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
        if begun.broken {
            self.feed.finish(Err(Cut::App));
            return false;
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
                    self.seat.close(if self.given_up { Close::Late } else { Close::Whole });
                    self.feed.finish(Ok(()));
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

    /// Passes a frame on to its reader, for whom the app waits no longer than for the whole answer.
    async fn pass(&mut self, frame: Frame<Bytes>) {
        self.seat.reply += frame.data_ref().map_or(0, |data| data.len() as u64);
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
