//! The table of buckets that all threads share: stripes, each under a lock that is held for one decision.

use std::{
    fmt,
    hash::BuildHasher,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use governor::Quota;
use parking_lot::{Mutex, MutexGuard};

use super::{Limits, Stripe};
use crate::{clock::Moment, config::settings::Rate};

/// The most stripes; fewer where there are few keys.
const STRIPES_MAX: usize = 256;

/// Token buckets by group and key, shared by all threads. Time comes with every call; moments of different threads may be out of order.
pub struct Buckets {
    pub(super) stripes: Box<[Mutex<Stripe>]>,
    spread: RandomState,
    limits: ArcSwap<Limits>,
    /// One reload at a time, each to its end: a stripe is never more than one generation behind.
    reloading: Mutex<()>,
    keys: AtomicUsize,
    keys_max: usize,
    shared: AtomicU64,
}

impl fmt::Debug for Buckets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Buckets").field("keys", &self.len()).field("keys_max", &self.keys_max).finish_non_exhaustive()
    }
}

impl Buckets {
    /// No buckets yet, and no rates: everything passes until [`Buckets::reload`]. At most `keys_max` keys get buckets of their own.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        let stripes = (keys_max / 64).clamp(1, STRIPES_MAX).next_power_of_two();
        Self {
            stripes: (0..stripes).map(|_| Mutex::default()).collect(),
            spread: RandomState::default(),
            limits: ArcSwap::from_pointee(Limits::none()),
            reloading: Mutex::new(()),
            keys: AtomicUsize::new(0),
            keys_max,
            shared: AtomicU64::new(0),
        }
    }

    /// Takes one token of this key's bucket in this group. A group without a rate always passes.
    ///
    /// # Errors
    /// The bucket is empty: the time until there is a token, if nobody else takes it.
    pub fn take(&self, group: u8, key: u64, now: Moment) -> Result<(), Duration> {
        let Some((mut stripe, quota)) = self.stripe(group, key) else {
            return Ok(());
        };
        if let Some(outcome) = stripe.take(group, key, &quota, now, || self.reserve()) {
            return outcome;
        }
        self.forget(stripe.sweep_for_room(now));
        if let Some(outcome) = stripe.take(group, key, &quota, now, || self.reserve()) {
            return outcome;
        }
        self.shared.fetch_add(1, Ordering::Relaxed);
        stripe.take_shared(group, &quota, now)
    }

    /// Gives back a token that was taken for a request that was then refused by another rule. A bucket never holds more than its burst.
    pub fn give_back(&self, group: u8, key: u64, _now: Moment) {
        if let Some((mut stripe, quota)) = self.stripe(group, key) {
            stripe.give_back(group, key, &quota);
        }
    }

    /// New rates, by group, from `now` on. What buckets had used stays used: see the head of `buckets`. A group that loses its rate forgets.
    pub fn reload(&self, rates: &[Option<Rate>], now: Moment) {
        let _only = self.reloading.lock();
        self.limits.store(self.limits.load().next(rates, now).into());
        let limits = self.limits.load();
        for stripe in &self.stripes {
            self.forget(stripe.lock().follow(&limits));
        }
    }

    /// Drops the buckets that are full again; to be called every minute or so. One stripe at a time is locked.
    pub fn sweep(&self, now: Moment) {
        for stripe in &self.stripes {
            self.forget(stripe.lock().sweep(now));
        }
    }

    /// How many keys have buckets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Whether no key has a bucket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a key had to do with the bucket that newcomers share because `keys_max` was reached.
    #[must_use]
    pub fn shared(&self) -> u64 {
        self.shared.load(Ordering::Relaxed)
    }

    /// This key's stripe, locked and of the generation of the quota beside it; `None` if the group has no rate.
    fn stripe(&self, group: u8, key: u64) -> Option<(MutexGuard<'_, Stripe>, Quota)> {
        loop {
            let limits = self.limits.load();
            let quota = *limits.of(group)?;
            #[expect(clippy::cast_possible_truncation, reason = "the lower bits choose")]
            let index = self.spread.hash_one((key, group)) as usize & (self.stripes.len() - 1);
            let mut stripe = self.stripes[index].lock();
            self.forget(stripe.follow(&limits));
            if stripe.generation == limits.generation {
                return Some((stripe, quota));
            }
        }
    }

    /// Claims room for one more bucket.
    fn reserve(&self) -> bool {
        self.keys.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |keys| (keys < self.keys_max).then_some(keys + 1)).is_ok()
    }

    fn forget(&self, dropped: usize) {
        if dropped > 0 {
            self.keys.fetch_sub(dropped, Ordering::Relaxed);
        }
    }
}
