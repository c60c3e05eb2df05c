//! The seat that a call holds at the app, and what is told when it is given up.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, response::Parts};

use crate::{
    clock::{self, Moment},
    flow::{
        fresh::{ledger::NotSolid, replay::NotKept, stake::Stake},
        gate::{Permit, Shadows},
    },
    model::Class,
    wire::{pipe::End, upload::Progress},
};

/// Who wants to know how a call goes. Each is called at most once, in this order, but for `asked` and `kept`, which only polls
/// have, and `ended`, which may come at any time.
pub trait Watch: Send + Sync + 'static {
    /// An attempt at a poll is about to be sent: whether its answer will last.
    fn asked(&self, solid: Result<(), NotSolid>);
    /// The answer to a poll is whole: whether it is kept.
    fn kept(&self, kept: Result<(), NotKept>);
    /// The app's head has come.
    fn answered(&self, status: StatusCode, headers: &HeaderMap);
    /// The app is done with it, or was given up.
    fn held(&self, held: Held);
    /// The client has the whole answer, or has left; with the bytes that it was given.
    fn ended(&self, end: End, given: u64);
}

impl fmt::Debug for dyn Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Watch")
    }
}

/// How the app ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Its answer was read to the last byte, in time.
    Whole,
    /// Its answer was read to the last byte, after we had given the call up.
    Late,
    /// The connection broke, or was closed by us.
    Cut,
    /// It was given up at `zombie_ttl`.
    GivenUp,
    /// It never had it: no connection could be made, or no byte was written.
    Unsent,
}

/// What a seat was held for.
#[derive(Clone, Debug)]
pub struct Held {
    /// The class whose account is charged.
    pub account: Class,
    /// From the first byte sent to the end.
    pub hold: Duration,
    /// How the app ended it.
    pub close: Close,
    /// The bytes of the reply that came.
    pub reply: u64,
    /// The rules in shadow mode that would have refused it.
    pub shadows: Shadows,
}

/// A seat with the record of its use, and what hangs on the call. It is given up when this is dropped.
#[derive(Debug)]
pub struct Seat {
    permit: Option<Permit>,
    watch: Arc<dyn Watch>,
    /// What hangs on the call.
    pub stake: Box<Stake>,
    progress: Option<Arc<Progress>>,
    sent: Option<Moment>,
    released: Option<Moment>,
    close: Close,
    /// The bytes of the reply that came.
    pub reply: u64,
}

impl Seat {
    /// A seat that nothing was sent on.
    #[must_use]
    pub fn new(permit: Permit, watch: Arc<dyn Watch>, stake: Box<Stake>, progress: Option<Arc<Progress>>) -> Self {
        Self { permit: Some(permit), watch, stake, progress, sent: None, released: None, close: Close::Unsent, reply: 0 }
    }

    /// The first byte of an attempt is about to be sent.
    pub fn send(&mut self) -> Moment {
        self.close = Close::Cut;
        if let Some(solid) = self.stake.sending() {
            self.watch.asked(solid);
        }
        *self.sent.get_or_insert_with(clock::now)
    }

    /// Nothing of it was written after all.
    pub fn unsent(&mut self) {
        self.close = Close::Unsent;
        self.stake.unsent();
    }

    /// The app's final head has come, and nothing of it has gone on.
    pub fn answered(&mut self, head: &Parts) {
        self.watch.answered(head.status, &head.headers);
        self.stake.answered(head);
    }

    /// The app's answer was read to its last byte; `body` is what was wanted of it.
    pub fn whole(&mut self, close: Close, body: Option<Bytes>, trailers: bool) {
        self.close = close;
        let sent = self.progress.as_ref().is_none_or(|progress| progress.ended().is_some() && progress.fault().is_none());
        if let Some(kept) = self.stake.whole(body, trailers, sent) {
            self.watch.kept(kept);
        }
    }

    /// How the app ended it; the last word counts.
    pub fn close(&mut self, close: Close) {
        self.close = close;
    }

    /// Who watches.
    #[must_use]
    pub fn watch(&self) -> &Arc<dyn Watch> {
        &self.watch
    }

    /// An open-ended request has gone silent: it counts only against `[stream]` from now on.
    pub fn keep_stream_only(&mut self) {
        if self.released.is_none()
            && let Some(permit) = &mut self.permit
        {
            permit.keep_stream_only();
            self.released = Some(clock::now());
        }
    }

    /// Whether the seat itself is still charged.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.released.is_none()
    }

    /// A 101 makes it a stream, unless `[stream]` forbids it.
    pub fn become_stream(&mut self) -> bool {
        self.permit.as_mut().is_some_and(Permit::become_stream)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let end = self.released.unwrap_or_else(clock::now);
        let charged = self.sent.map_or(Duration::ZERO, |sent| end.since(sent));
        let record = Held { account: permit.account(), hold: charged, close: self.close, reply: self.reply, shadows: permit.shadows() };
        drop(permit);
        self.watch.held(record);
    }
}

/// Counts a call that goes on without its client, or whose connection we closed.
#[derive(Debug)]
pub struct Zombie(Arc<AtomicUsize>);

impl Zombie {
    /// One more.
    #[must_use]
    pub fn count(zombies: &Arc<AtomicUsize>) -> Self {
        zombies.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(zombies))
    }
}

impl Drop for Zombie {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
