//! The call to the app: a permit in, an answer out. The seat is charged until the app is really done, whatever the client does.

pub mod headers;
pub mod health;
pub mod pool;
pub mod pump;
pub mod seat;
pub mod socket;
pub mod tunnel;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{Request, Response, StatusCode, request, response};
use hyper::{body::Incoming, client::conn::TrySendError, upgrade::OnUpgrade};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use self::seat::Zombie;
pub use self::{
    pool::{Lease, Pool},
    seat::{Close, Held, Seat, Watch},
};
use crate::{
    clock::{self, Moment},
    config::settings::App,
    flow::{
        accept::{Drain, Stage},
        fresh::stake::Stake,
        gate::Permit,
    },
    model::FailureKind,
    wire::{Body, Budget, Fault, upload::Progress},
};

/// How often a request may be sent again of which no byte was written.
const ATTEMPTS_MAX: usize = 3;

/// How long a stream keeps its seat at the most.
const STREAM_SEAT_MAX: Duration = Duration::from_secs(5);

/// How long a call that was given up keeps its seat at the least.
const ZOMBIE_MARGIN: Duration = Duration::from_secs(5);

/// The app, as calls see it.
#[derive(Debug)]
pub struct Origin {
    /// Its connections.
    pub pool: Arc<Pool>,
    settings: ArcSwap<App>,
    buffers: Arc<Budget>,
    zombies: Arc<AtomicUsize>,
    tasks: TaskTracker,
    drain: Drain,
    rate_min: AtomicUsize,
    health: health::Health,
    last_failure: Mutex<Option<(FailureKind, Moment)>>,
}

/// One call.
#[derive(Debug)]
pub struct Job {
    /// The head, its headers already those of the next hop.
    pub head: request::Parts,
    /// The body.
    pub body: Body,
    /// How the client's sending stands, where the body streams.
    pub progress: Option<Arc<Progress>>,
    /// The seat.
    pub permit: Permit,
    /// Who wants to know.
    pub watch: Arc<dyn Watch>,
    /// The write that it makes, or the question that it asks.
    pub stake: Box<Stake>,
    /// It may be sent again though it was written: safe, bodiless, and it writes no document.
    pub repeatable: bool,
    /// It is open-ended.
    pub stream: bool,
    /// The client's side of an upgrade that it asks for.
    pub upgrade: Option<OnUpgrade>,
    /// The class's `head_timeout`.
    pub head_timeout: Duration,
}

/// The app's answer.
#[derive(Debug)]
pub struct Answer {
    /// Its head, its headers already those of the previous hop.
    pub head: response::Parts,
    /// Its body.
    pub body: Body,
    /// The bytes of a body that is handed over whole. `None`: [`Watch::ended`] tells when the client has it.
    pub whole: Option<u64>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The app failed.
    App(FailureKind),
    /// The client's own body failed.
    Client(Fault),
    /// The upgrade would be one stream too many.
    Streams,
}

enum Waited {
    Answer(Response<Incoming>),
    Failed(Box<TrySendError<Request<Body>>>),
    Late,
    /// The app does not read the request.
    Stuck,
    Stopping,
}

/// When a call is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    sent: Moment,
    head_timeout: Duration,
    total: Moment,
    zombie_ttl: Duration,
}

impl Deadlines {
    /// Until when the seat of a call that is given up now is charged.
    pub(crate) fn zombie(&self) -> Moment {
        (self.sent + self.zombie_ttl).max(clock::now() + ZOMBIE_MARGIN)
    }

    /// When the whole answer must have come.
    pub(crate) fn total(&self) -> Moment {
        self.total
    }
}

impl Origin {
    /// The app by these settings. `rate_min` is the least bytes per second of a body that holds a seat.
    #[must_use]
    pub fn new(settings: &App, rate_min: u64, tasks: TaskTracker, drain: Drain) -> Self {
        let server = settings.servers.first().cloned().unwrap_or_default();
        Self {
            pool: Arc::new(Pool::new(server, settings.clone())),
            buffers: Arc::new(Budget::new(settings.buffer_memory_max)),
            settings: ArcSwap::from_pointee(settings.clone()),
            zombies: Arc::default(),
            tasks,
            drain,
            rate_min: AtomicUsize::new(usize::try_from(rate_min).unwrap_or(usize::MAX)),
            health: health::Health::default(),
            last_failure: Mutex::default(),
        }
    }

    /// New settings hold for calls from now on.
    pub fn reload(&self, settings: &App, rate_min: u64) {
        self.pool.reload(settings.clone());
        self.buffers.resize(settings.buffer_memory_max);
        self.settings.store(Arc::new(settings.clone()));
        self.rate_min.store(usize::try_from(rate_min).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Calls that go on without their client, or whose connection we closed.
    #[must_use]
    pub fn zombies(&self) -> usize {
        self.zombies.load(Ordering::Relaxed)
    }

    /// Bytes of responses that are held for their readers.
    #[must_use]
    pub fn buffered(&self) -> u64 {
        self.buffers.used()
    }

    /// How the app failed last, and how long ago.
    #[must_use]
    pub fn last_failure(&self, now: Moment) -> Option<String> {
        let (kind, at) = (*self.last_failure.lock())?;
        Some(format!("{}, {} s ago", kind.label(), now.since(at).as_secs()))
    }

    /// Puts a request to the app. At most one attempt whose bytes the app may have seen, unless it is repeatable. When this future is
    /// dropped the connection is closed; wrap it where the call must outlive its client.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn call(&self, job: Job) -> Result<Answer, CallError> {
        let answer = self.attempt(job).await;
        if let Err(CallError::App(kind)) = &answer {
            *self.last_failure.lock() = Some((*kind, clock::now()));
        }
        answer
    }

    async fn attempt(&self, job: Job) -> Result<Answer, CallError> {
        let Job { mut head, mut body, progress, permit, watch, stake, repeatable, stream, upgrade, head_timeout } = job;
        let mut seat = Seat::new(permit, watch, stake, progress.clone());
        let mut attempts = 0;
        let mut fresh = false;
        loop {
            attempts += 1;
            let mut lease = self.pool.lease(fresh).await.map_err(CallError::App)?;
            lease.progress.clone_from(&progress);
            let again = (repeatable && lease.reused).then(|| head.clone());
            let deadlines = self.deadlines(seat.send(), head_timeout);
            let mut sending = Box::pin(lease.sender.try_send_request(Request::from_parts(head, body)));
            match self.wait(sending.as_mut(), &mut seat, &deadlines, progress.as_deref(), stream).await {
                Waited::Answer(response) => return self.answered(response, lease, seat, deadlines, upgrade, stream).await,
                Waited::Late => {
                    self.outlive(sending, lease, seat, &deadlines);
                    return Err(CallError::App(FailureKind::ResponseTimeout));
                }
                Waited::Stuck => {
                    self.outlive(sending, lease, seat, &deadlines);
                    return Err(CallError::App(FailureKind::WriteTimeout));
                }
                Waited::Stopping => return Err(CallError::App(FailureKind::Internal)),
                Waited::Failed(mut error) => {
                    if let Some(request) = error.take_message()
                        && attempts < ATTEMPTS_MAX
                    {
                        seat.unsent();
                        (head, body) = request.into_parts();
                        fresh = attempts + 1 == ATTEMPTS_MAX;
                    } else if let Some(copy) = again {
                        (head, body) = (copy, Body::Empty);
                        fresh = true;
                    } else {
                        lease.reset();
                        return Err(self.failed(error.error(), seat, &deadlines, progress.as_deref()));
                    }
                }
            }
        }
    }

    fn deadlines(&self, sent: Moment, head_timeout: Duration) -> Deadlines {
        let settings = self.settings.load();
        let zombie_ttl = settings.zombie_ttl.unwrap_or(head_timeout + ZOMBIE_MARGIN);
        Deadlines { sent, head_timeout, total: sent + settings.total_timeout, zombie_ttl }
    }

    /// Waits for the head. The time-out counts from the last byte of the request; a body that still streams has limits of its own.
    async fn wait<F>(&self, mut sending: F, seat: &mut Seat, deadlines: &Deadlines, progress: Option<&Progress>, stream: bool) -> Waited
    where
        F: Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> + Unpin,
    {
        let mut cut = pin!(self.drain.reached(Stage::Cut));
        let mut open_ended = false;
        let mut moved = 0;
        let first = if stream { STREAM_SEAT_MAX } else { deadlines.head_timeout };
        let mut until = deadlines.sent + first;
        loop {
            tokio::select! {
                biased;
                result = &mut sending => return result.map_or_else(|error| Waited::Failed(Box::new(error)), Waited::Answer),
                () = &mut cut => return Waited::Stopping,
                () = tokio::time::sleep_until(clock::instant(until)), if !open_ended => {}
            }
            if stream {
                seat.keep_stream_only();
                open_ended = true;
                continue;
            }
            let now = clock::now();
            let last_byte = match progress.map(|progress| (progress.ended(), progress.bytes())) {
                None => deadlines.sent,
                Some((Some(ended), _)) => ended,
                // Its client has limits of its own; that nothing moved for so long is the app's doing.
                Some((None, bytes)) if bytes == moved => return Waited::Stuck,
                Some((None, bytes)) => {
                    moved = bytes;
                    now
                }
            };
            until = (last_byte + deadlines.head_timeout).min(deadlines.total);
            if until <= now {
                return Waited::Late;
            }
        }
    }

    /// The client gets its 504, but the app goes on: the connection stays open and the seat charged until the app has answered, or until
    /// `zombie_ttl`.
    fn outlive<F>(&self, sending: F, lease: Lease, mut seat: Seat, deadlines: &Deadlines)
    where
        F: Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> + Send + 'static,
    {
        let zombie = Zombie::count(&self.zombies);
        let until = clock::instant(deadlines.zombie());
        let cut = self.drain.clone();
        self.tasks.spawn(async move {
            seat.close(Close::GivenUp);
            let finishing = async {
                match sending.await {
                    Ok(response) => {
                        let (mut head, body) = response.into_parts();
                        seat.answered(&head);
                        headers::incoming(&mut head.headers, false);
                        seat.stake.passes(&head);
                        pump::finish_late(body, &mut seat).await;
                    }
                    Err(_) => seat.close(Close::Cut),
                }
            };
            tokio::select! {
                () = finishing => {}
                () = tokio::time::sleep_until(until) => {}
                () = cut.reached(Stage::Cut) => {}
            }
            // The connection has served a request that nobody waited for: it is not used again.
            lease.reset();
            drop((lease, seat, zombie));
        });
    }

    fn failed(&self, error: &hyper::Error, seat: Seat, deadlines: &Deadlines, progress: Option<&Progress>) -> CallError {
        if let Some(fault) = progress.and_then(Progress::fault) {
            self.abandon(seat, deadlines);
            return CallError::Client(fault);
        }
        CallError::App(if error.is_parse_too_large() {
            FailureKind::HeadTooLarge
        } else if error.is_parse() {
            FailureKind::ProtocolError
        } else {
            FailureKind::ConnectionTerminated
        })
    }

    /// We closed the connection: the app may not have noticed, so the seat stays charged until `zombie_ttl`, unless `upstream_cancels`.
    pub(crate) fn abandon(&self, mut seat: Seat, deadlines: &Deadlines) {
        seat.stake.lost();
        if self.settings.load().upstream_cancels {
            return;
        }
        let zombie = Zombie::count(&self.zombies);
        let until = clock::instant(deadlines.zombie());
        let cut = self.drain.clone();
        // Nothing is lost when it is dropped with the process: a drain does not wait for it.
        tokio::spawn(async move {
            seat.close(Close::GivenUp);
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = cut.reached(Stage::Cut) => {}
            }
            drop((seat, zombie));
        });
    }

    async fn answered(
        &self,
        mut response: Response<Incoming>,
        mut lease: Lease,
        mut seat: Seat,
        deadlines: Deadlines,
        upgrade: Option<OnUpgrade>,
        stream: bool,
    ) -> Result<Answer, CallError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            seat.watch().answered(response.status(), response.headers());
            let Some(client) = upgrade else { return Err(CallError::App(FailureKind::UpgradeFailed)) };
            if !seat.become_stream() {
                return Err(CallError::Streams);
            }
            let app = hyper::upgrade::on(&mut response);
            let (mut head, _) = response.into_parts();
            headers::incoming(&mut head.headers, true);
            lease.leave_cap();
            tunnel::open(&self.tasks, self.drain.clone(), client, app, seat);
            return Ok(Answer { head, body: Body::Empty, whole: None });
        }
        if let Some(seconds) = headers::keep_alive_seconds(response.headers()) {
            lease.hint(seconds);
        }
        self.pool.answers();
        let (mut head, incoming) = response.into_parts();
        seat.answered(&head);
        headers::incoming(&mut head.headers, false);
        seat.stake.passes(&head);
        head.version = http::Version::HTTP_11;
        if stream {
            lease.leave_cap();
        }
        let (body, whole) = self.body(incoming, lease, seat, deadlines, stream).await?;
        Ok(Answer { head, body, whole })
    }
}
