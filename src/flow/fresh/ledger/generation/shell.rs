//! A profile's generation with its lock, and the requests that belong to it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{End, Members};
use crate::{
    flow::fresh::{
        keys::Touched,
        ledger::{Cause, Ledger, Quiet},
    },
    profile::RouteId,
};

/// A profile in force, or one that was.
#[derive(Debug)]
pub struct Generation {
    id: u64,
    retired: AtomicBool,
    members: Mutex<Members>,
}

/// A request that was classified by a generation, until it has ended.
pub struct Member {
    generation: Arc<Generation>,
    ledger: Arc<Ledger>,
    route: RouteId,
    end: End,
}

impl Generation {
    /// The generation of a profile with so many routes. `id` is part of every question asked under it.
    #[must_use]
    pub fn new(id: u64, routes: usize) -> Arc<Self> {
        Arc::new(Self { id, retired: AtomicBool::new(false), members: Mutex::new(Members::new(routes)) })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A request was classified by this profile. If that is retired already, it writes everything from here on, unless its route is exempt.
    #[must_use]
    pub fn enter(self: &Arc<Self>, route: RouteId, ledger: &Arc<Ledger>) -> Member {
        if self.members.lock().enter(route) {
            ledger.begin_all(1, Cause::RELOADED);
        }
        Member { generation: Arc::clone(self), ledger: Arc::clone(ledger), route, end: End::Unsent }
    }

    /// Another profile takes over: before the first request is classified by it. Each request that has not ended writes everything until it
    /// ends, unless its route is exempt, which must read, write and be chosen as ever.
    pub fn retire(&self, exempt: impl Fn(RouteId) -> bool, ledger: &Ledger) {
        let mut members = self.members.lock();
        self.retired.store(true, Ordering::Release);
        // Inside the lock: who leaves from here on ends what begins here.
        ledger.begin_all(members.retire(exempt), Cause::RELOADED);
    }
}

impl Member {
    /// Whether its generation is in force: if not, it is neither kept, joined nor answered by us, exempt or not.
    #[must_use]
    pub fn is_current(&self) -> bool {
        !self.generation.retired.load(Ordering::Acquire)
    }

    /// The number of its generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.id
    }

    /// How it ends when it is dropped: as if nothing was sent, unless this says otherwise.
    pub fn ends(&mut self, how: End) {
        self.end = how;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.generation.members.lock().leave(self.route) {
            return;
        }
        let everything = Touched::everything();
        match self.end {
            End::Unsent => self.ledger.unsent(&everything),
            End::Known(quiet_from) => self.ledger.end(&everything, quiet_from, Quiet::Settle),
            End::Unknown(quiet_from) => self.ledger.end(&everything, quiet_from, Quiet::Doubt),
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Member").field("generation", &self.generation.id).field("route", &self.route).finish_non_exhaustive()
    }
}
