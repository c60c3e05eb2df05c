//! One request from its head to its end: whoever holds it last reports it. A request ends in exactly one outcome, reported once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, StatusCode, Version};
use parking_lot::Mutex;

use super::{
    accept::LineState,
    classify::{documents::Documents, shell::Hold},
    fresh::{ledger::NotSolid, replay::NotKept},
    origin::{Close, Held, Watch},
    report::{Exchange, Report, server_timing},
    tune,
};
use crate::{
    clock,
    model::{Class, DocumentKeys, FailureKind, Outcome},
    profile::Cost,
    wire::{Cut, pipe::End, upload::Progress},
};

/// What is learned from a request once the app is done with it.
#[derive(Debug)]
pub struct Lesson {
    /// Its documents.
    pub documents: DocumentKeys,
    /// The class of its route.
    pub class: Class,
    /// What its route remembers.
    pub cost: Cost,
    /// Whether it is open-ended; its time teaches nothing.
    pub stream: bool,
}

/// A request on its way.
#[derive(Debug)]
pub struct Tracked {
    exchange: Mutex<Exchange>,
    lesson: Mutex<Option<Lesson>>,
    held: Mutex<(Option<Hold>, Option<Arc<Progress>>)>,
    ended: AtomicBool,
    report: Report,
    documents: Arc<Documents>,
    line: Arc<LineState>,
    version: Version,
}

impl Tracked {
    /// Begins to track a request; `version` is the client's.
    #[must_use]
    pub fn new(exchange: Exchange, report: Report, documents: Arc<Documents>, line: Arc<LineState>, version: Version) -> Arc<Self> {
        Arc::new(Self {
            exchange: Mutex::new(exchange),
            lesson: Mutex::default(),
            held: Mutex::default(),
            ended: AtomicBool::new(false),
            report,
            documents,
            line,
            version,
        })
    }

    /// Adds to what is known of it.
    pub fn note<T>(&self, note: impl FnOnce(&mut Exchange) -> T) -> T {
        note(&mut self.exchange.lock())
    }

    /// What is to be learned from it.
    pub fn teach(&self, lesson: Lesson) {
        *self.lesson.lock() = Some(lesson);
    }

    /// What is to be learned from it, for whoever asks in its place.
    pub fn take_lesson(&self) -> Option<Lesson> {
        self.lesson.lock().take()
    }

    /// Memory that is held, and an upload that goes on, until it has ended.
    pub fn keep(&self, hold: Option<Hold>, progress: Option<Arc<Progress>>) {
        *self.held.lock() = (hold, progress);
    }

    /// The client's side ends. Only the first end counts.
    pub fn end(&self, outcome: Outcome, bytes_out: u64) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.line.end();
        let mut exchange = self.exchange.lock();
        if let Some(progress) = &self.held.lock().1 {
            exchange.bytes_in = progress.bytes();
        }
        exchange.outcome = outcome;
        exchange.bytes_out = bytes_out;
        exchange.ended = clock::now();
        self.report.ended(&exchange);
    }
}

impl Watch for Tracked {
    fn asked(&self, solid: Result<(), NotSolid>) {
        if let Some(poll) = &mut self.exchange.lock().poll {
            poll.solid = Some(solid);
        }
    }

    fn kept(&self, kept: Result<(), NotKept>) {
        if let Some(poll) = &mut self.exchange.lock().poll {
            poll.kept = Some(kept);
        }
    }

    fn answered(&self, status: StatusCode, headers: &HeaderMap) {
        let told = server_timing::read(headers);
        let mut exchange = self.exchange.lock();
        if !self.ended.load(Ordering::Acquire) {
            exchange.status = status.as_u16();
        }
        exchange.app_status = Some(status.as_u16());
        exchange.database = told.time;
        exchange.queries = told.queries;
    }

    fn held(&self, held: Held) {
        let mut exchange = self.exchange.lock();
        exchange.account = Some(held.account);
        exchange.app = (held.close != Close::Unsent).then_some(held.hold);
        exchange.shadows = held.shadows;
        let (database, status) = (exchange.database, exchange.app_status);
        drop(exchange);
        let lesson = self.lesson.lock().take();
        if let Some(lesson) = lesson {
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            learn(&self.documents, &lesson, (held.close, status), held.hold, database, held.reply);
        }
    }

    fn ended(&self, end: End, given: u64) {
        match end {
            End::Whole => self.end(Outcome::Forwarded, given),
            End::Gone => self.end(Outcome::Gone, given),
            End::Cut(cut) => {
                self.exchange.lock().failure = match cut {
                    Cut::App => Some(FailureKind::ResponseIncomplete),
                    Cut::AppStalled => Some(FailureKind::ReadTimeout),
                    Cut::Late => Some(FailureKind::ResponseTimeout),
                    Cut::Upload(_) | Cut::SlowReader | Cut::Stopping => None,
                };
                // Without chunks only a reset shows that the body is not whole.
                if self.version < Version::HTTP_11 {
                    self.line.abort();
                }
                self.end(Outcome::Failed, given);
            }
        }
    }
}

/// Learns from a call that is over.
pub fn learn(
    documents: &Documents,
    lesson: &Lesson,
    (close, status): (Close, Option<StatusCode>),
    app: Duration,
    database: Option<Duration>,
    reply: u64,
) {
    let end = match (close, status) {
        _ if lesson.stream => tune::End::Stream,
        (Close::Whole | Close::Late, Some(status)) => tune::End::Answered(status),
        (Close::GivenUp, _) => tune::End::TimedOut,
        (Close::Unsent, _) => tune::End::Unsent,
        (Close::Whole | Close::Late | Close::Cut, _) => tune::End::Cut,
    };
    let finished = tune::Finished { class: lesson.class, cost: lesson.cost, app, database, reply, end };
    tune::teach(documents, &lesson.documents, &finished, clock::now());
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.end(Outcome::Gone, 0);
        self.report.released(&self.exchange.lock());
    }
}

/// The client's side while its answer is being made: when it is dropped before there is one, the client has left.
#[derive(Debug)]
pub struct Side(Option<Arc<Tracked>>);

impl Side {
    /// Watches the client's side of a request.
    #[must_use]
    pub fn new(tracked: &Arc<Tracked>) -> Self {
        Self(Some(Arc::clone(tracked)))
    }

    /// There is an answer: of `bytes` bytes, with this outcome.
    pub fn answered(mut self, outcome: Outcome, bytes: u64) {
        if let Some(tracked) = self.0.take() {
            tracked.end(outcome, bytes);
        }
    }

    /// There is an answer whose end is told by its body.
    pub fn streams(mut self) {
        self.0 = None;
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let Some(tracked) = self.0.take() else { return };
        if std::thread::panicking() {
            tracked.note(|exchange| exchange.status = StatusCode::INTERNAL_SERVER_ERROR.as_u16());
            tracked.end(Outcome::Failed, 0);
        } else {
            tracked.end(Outcome::Gone, 0);
        }
    }
}

/// How long a client is asked to stay away after a failure of the app, before jitter.
pub const FAILURE_PAUSE: Duration = Duration::from_secs(5);
