//! Token buckets, many of them: one per group (a class's rate, its clients' rate) and key, decided by governor's GCRA on a store of ours.
//!
//! governor's own stores cannot do what a proxy needs that is tuned while it runs: a limiter's quota cannot change, a new limiter is a full
//! burst, and a store moved into a new limiter denies everything for as long as the old one lived, since arrival times count from each
//! limiter's start. So a bucket here is one number, the *absolute* theoretical arrival time (TAT) of the next conforming request in
//! nanoseconds of [`Moment`]; the bucket is full when that time has come. A limiter is a value made for one decision: quota, bucket and
//! `now`, which is both its clock and its start. It costs a few instructions, and there is no clock to share, to freeze or to fake.
//!
//! **Reload.** Every set of quotas has a generation, and every stripe of the table knows the one that its buckets were written under. The
//! first to touch a stripe after a reload rewrites its buckets: what a bucket had used at the moment of the reload is kept in *tokens* (its
//! lead over that moment, times new period / old period, rounded up), and at most the new burst, so that a smaller bucket is empty and never
//! in debt. The reload itself goes on to touch every stripe, so a stripe is never more than one generation behind.
//!
//! **Bounds.** There are at most `keys_max` buckets. A newcomer beyond that makes its stripe drop the buckets that are full again (they say
//! nothing), once a second at most; if that frees nothing, it shares one bucket with all such newcomers of its stripe and group, and is
//! counted. Nothing fails, and a flood of made-up keys gets one rate per stripe rather than one per key.
//!
//! Here is what is pure; `shell` holds the locks.

mod shell;

use std::{cell::Cell, collections::HashMap, num::NonZeroU32, time::Duration};

use foldhash::fast::RandomState;
use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};

pub use self::shell::Buckets;
use crate::{
    clock::{Moment, nanoseconds},
    config::settings::Rate,
};

/// Period x burst stays below this many nanoseconds (146 years): governor computes with unchecked 64 bits.
const FILL_MAX: u64 = 1 << 62;

/// The least time between two sweeps of a stripe that has no room for a newcomer.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// The quota of a rate. The period is rounded up to whole nanoseconds, so that a bucket never gives more than was written.
fn quota(rate: &Rate) -> Quota {
    let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates, and the bounds follow")]
    let period = (1e9 / rate.per_second).ceil() as u64;
    let period = period.clamp(1, (FILL_MAX - 1) / u64::from(burst.get()));
    Quota::with_period(Duration::from_nanos(period)).unwrap_or(Quota::per_second(burst)).allow_burst(burst)
}

fn period(quota: &Quota) -> u64 {
    nanoseconds(quota.replenish_interval())
}

/// The time in which an empty bucket becomes full.
fn fill(quota: &Quota) -> u64 {
    period(quota) * u64::from(quota.burst_size().get())
}

/// The quotas of one generation, with those of the one before.
struct Limits {
    generation: u64,
    /// When they took effect.
    since: Moment,
    /// By group.
    quotas: Vec<Option<Quota>>,
    before: Vec<Option<Quota>>,
}

impl Limits {
    /// No group has a rate.
    fn none() -> Self {
        Self { generation: 0, since: Moment::default(), quotas: Vec::new(), before: Vec::new() }
    }

    fn next(&self, rates: &[Option<Rate>], now: Moment) -> Self {
        let quotas = rates.iter().map(|rate| rate.as_ref().map(quota)).collect();
        Self { generation: self.generation + 1, since: now, quotas, before: self.quotas.clone() }
    }

    fn of(&self, group: u8) -> Option<&Quota> {
        self.quotas.get(usize::from(group))?.as_ref()
    }
}

/// One bucket during one decision, as governor sees it: its arrival time counts from `now`.
struct View<'a> {
    arrival: &'a Cell<u64>,
    now: Moment,
}

impl StateStore for View<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let lead = self.arrival.get().saturating_sub(self.now.0);
        let (outcome, next) = decide(Some(Nanos::new(lead)))?;
        self.arrival.set(self.now.0.saturating_add(next.as_u64()));
        Ok(outcome)
    }
}

/// A clock that stands still.
struct At(Moment);

impl Clock for At {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.0)
    }
}

/// Takes one token from the bucket with this arrival time.
fn take(arrival: &mut u64, quota: &Quota, now: Moment) -> Result<(), Duration> {
    let view = View { arrival: Cell::from_mut(arrival), now };
    let limiter: RateLimiter<_, _, _, NoOpMiddleware<Nanos>> = RateLimiter::new(*quota, view, At(now));
    limiter.check().map_err(|until| until.wait_time_from(At(now).now()))
}

/// What a bucket's arrival time becomes when its quota changes at `since`: the tokens that it lacks stay the same, up to the new burst.
fn rescale(arrival: u64, old: &Quota, new: &Quota, since: Moment) -> u64 {
    let lead = u128::from(arrival.saturating_sub(since.0));
    let scaled = (lead * u128::from(period(new))).div_ceil(u128::from(period(old)));
    let lead = u64::try_from(scaled).unwrap_or(u64::MAX).min(fill(new));
    since.0.saturating_add(lead)
}

/// The buckets of one group in one stripe.
#[derive(Default)]
struct Group {
    /// Each key's arrival time.
    arrivals: HashMap<u64, u64, RandomState>,
    /// The arrival time of the bucket that newcomers share while there is no room.
    shared: u64,
}

/// A part of the table, under one lock.
#[derive(Default)]
struct Stripe {
    /// The generation of quotas that the arrival times were written under.
    generation: u64,
    groups: Vec<Group>,
    /// No sweep for a newcomer's sake before this.
    sweep_from: Moment,
}

impl Stripe {
    /// Rewrites what was written under the quotas of the generation before. Returns how many buckets were dropped with their group's rate.
    fn follow(&mut self, limits: &Limits) -> usize {
        if self.generation >= limits.generation {
            return 0;
        }
        debug_assert_eq!(self.generation + 1, limits.generation, "a reload touches every stripe before the next one begins");
        self.generation = limits.generation;
        self.groups.resize_with(limits.quotas.len().max(self.groups.len()), Group::default);
        let mut dropped = 0;
        for (index, group) in self.groups.iter_mut().enumerate() {
            let old = limits.before.get(index).and_then(Option::as_ref);
            let new = limits.quotas.get(index).and_then(Option::as_ref);
            match (old, new) {
                (Some(old), Some(new)) if old == new => {}
                (Some(old), Some(new)) => {
                    for arrival in group.arrivals.values_mut() {
                        *arrival = rescale(*arrival, old, new, limits.since);
                    }
                    group.shared = rescale(group.shared, old, new, limits.since);
                }
                _ => {
                    dropped += group.arrivals.len();
                    *group = Group::default();
                }
            }
        }
        dropped
    }

    /// One token of this key's bucket. A key without one gets one if `room` says so; `None` if it does not.
    fn take(&mut self, group: u8, key: u64, quota: &Quota, now: Moment, room: impl FnOnce() -> bool) -> Option<Result<(), Duration>> {
        let group = self.groups.get_mut(usize::from(group))?;
        if let Some(arrival) = group.arrivals.get_mut(&key) {
            return Some(take(arrival, quota, now));
        }
        if !room() {
            return None;
        }
        let mut arrival = 0;
        let outcome = take(&mut arrival, quota, now);
        group.arrivals.insert(key, arrival);
        Some(outcome)
    }

    /// One token of the bucket that newcomers share while there is no room.
    fn take_shared(&mut self, group: u8, quota: &Quota, now: Moment) -> Result<(), Duration> {
        self.groups.get_mut(usize::from(group)).map_or(Ok(()), |group| take(&mut group.shared, quota, now))
    }

    /// Gives a token back. A key without a bucket had its token from the shared one, or its bucket is full and was swept.
    fn give_back(&mut self, group: u8, key: u64, quota: &Quota) {
        if let Some(group) = self.groups.get_mut(usize::from(group)) {
            let arrival = group.arrivals.get_mut(&key).unwrap_or(&mut group.shared);
            *arrival = arrival.saturating_sub(period(quota));
        }
    }

    /// Drops the buckets that are full again, which say nothing; returns how many.
    fn sweep(&mut self, now: Moment) -> usize {
        let mut dropped = 0;
        for group in &mut self.groups {
            let before = group.arrivals.len();
            group.arrivals.retain(|_, arrival| *arrival > now.0);
            let after = group.arrivals.len();
            dropped += before - after;
            if group.arrivals.capacity() > 64 && group.arrivals.capacity() / 4 > after {
                group.arrivals.shrink_to(after * 2);
            }
        }
        dropped
    }

    /// The same for the sake of a newcomer, at most once per [`SWEEP_PAUSE`].
    fn sweep_for_room(&mut self, now: Moment) -> usize {
        if now < self.sweep_from {
            return 0;
        }
        self.sweep_from = now + SWEEP_PAUSE;
        self.sweep(now)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    use fastrand::Rng;

    use super::*;
    use crate::model::Mode;

    const SECOND: u64 = 1_000_000_000;

    fn rate(per_second: f64, burst: u32) -> Rate {
        Rate { per_second, burst, mode: Mode::Enforce }
    }

    fn buckets(keys_max: usize, rates: &[Option<Rate>]) -> Buckets {
        let buckets = Buckets::new(keys_max);
        buckets.reload(rates, Moment(0));
        buckets
    }

    /// How many tokens there are at once.
    fn drain(buckets: &Buckets, group: u8, key: u64, now: Moment) -> u32 {
        let mut count = 0;
        while buckets.take(group, key, now).is_ok() {
            count += 1;
        }
        count
    }

    fn seed() -> u64 {
        let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        println!("SEED={seed}");
        seed
    }

    /// A token bucket as the textbook has it: what it lacks, in nanoseconds of refilling.
    #[derive(Clone, Copy)]
    struct Reference {
        lacks: u128,
        seen: u64,
        period: u128,
        burst: u128,
    }

    impl Reference {
        fn new(rate: &Rate, now: u64) -> Self {
            let quota = quota(rate);
            Self { lacks: 0, seen: now, period: u128::from(period(&quota)), burst: u128::from(quota.burst_size().get()) }
        }

        fn at(&mut self, now: u64) {
            self.lacks = self.lacks.saturating_sub(u128::from(now - self.seen));
            self.seen = now;
        }

        fn take(&mut self, now: u64) -> Result<(), u128> {
            self.at(now);
            let after = self.lacks + self.period;
            let full = self.burst * self.period;
            if after <= full {
                self.lacks = after;
                return Ok(());
            }
            Err(after - full)
        }

        fn give_back(&mut self, now: u64) {
            self.at(now);
            self.lacks = self.lacks.saturating_sub(self.period);
        }

        fn reload(&mut self, rate: &Rate, now: u64) {
            self.at(now);
            let new = Self::new(rate, now);
            if (new.period, new.burst) != (self.period, self.burst) {
                self.lacks = (self.lacks * new.period).div_ceil(self.period).min(new.burst * new.period);
            }
            (self.period, self.burst) = (new.period, new.burst);
        }
    }

    #[test]
    fn a_million_random_steps_agree_with_an_exact_reference() {
        const GROUPS: u8 = 4;
        let mut random = Rng::with_seed(seed());
        let mut now = 0;
        let any = |random: &mut Rng| {
            let per_second = 10_f64.powf(random.f64() * 7.0 - 3.0);
            Some(rate(per_second, random.u32(1..200)))
        };
        let mut rates: Vec<_> = (0..GROUPS).map(|_| any(&mut random)).collect();
        let buckets = buckets(10_000, &rates);
        let mut references: HashMap<(u8, u64), Reference> = HashMap::new();
        for step in 0..1_000_000 {
            now += if random.u8(..) == 0 { random.u64(..100 * SECOND) } else { random.u64(..SECOND / 500) };
            let (group, key) = (random.u8(..GROUPS), random.u64(..20));
            let known = rates[usize::from(group)].as_ref().expect("every group has a rate");
            let reference = references.entry((group, key)).or_insert_with(|| Reference::new(known, now));
            match random.u32(..20_000) {
                0..2 => {
                    let changed = usize::from(group);
                    rates[changed] = if random.bool() { any(&mut random) } else { rates[changed] };
                    buckets.reload(&rates, Moment(now));
                    let changed = rates[changed].as_ref().expect("every group has a rate");
                    references.iter_mut().filter(|(of, _)| of.0 == group).for_each(|(_, reference)| reference.reload(changed, now));
                }
                2..6 => buckets.sweep(Moment(now)),
                6..3000 => {
                    buckets.give_back(group, key, Moment(now));
                    reference.give_back(now);
                }
                _ => {
                    let (is, ought) = (buckets.take(group, key, Moment(now)), reference.take(now));
                    assert_eq!(is.map_err(|wait| wait.as_nanos()), ought, "step {step}, group {group}, key {key}");
                }
            }
            assert!(buckets.len() <= usize::from(GROUPS) * 20);
        }
    }

    #[test]
    fn no_window_holds_more_than_the_burst_and_what_the_rate_gave_whatever_is_reloaded() {
        let seed = seed();
        for round in 0..50 {
            let mut random = Rng::with_seed(seed.wrapping_add(round));
            let burst = random.u32(1..100);
            let mut now = SECOND;
            let first = rate(random.f64() * 1000.0 + 0.1, burst);
            let buckets = buckets(100, &[Some(first)]);
            // What may have been passed since each moment at which a request passed, as a potential: passed - given by the rate.
            let (mut given, mut passed) = (0.0, 0_u32);
            let mut per_second = first.per_second;
            let mut least: f64 = 0.0;
            for _ in 0..20_000 {
                let step = random.u64(..SECOND / 100);
                now += step;
                #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
                {
                    given += step as f64 * 1e-9 * per_second;
                }
                least = least.min(f64::from(passed) - given);
                if random.u32(..200) == 0 {
                    per_second = random.f64() * 1000.0 + 0.1;
                    buckets.reload(&[Some(rate(per_second, burst))], Moment(now));
                }
                // Threads read their clocks before they get here, so a moment may be a little old.
                if buckets.take(0, 7, Moment(now - random.u64(..1000))).is_ok() {
                    passed += 1;
                }
                let most = f64::from(passed) - given - least;
                assert!(most <= f64::from(burst) + 0.01, "{most} tokens beyond the rate with a burst of {burst}");
            }
            assert!(passed > burst);
        }
    }

    #[test]
    fn a_hundred_reloads_under_load_give_no_extra_burst() {
        const BURST: u32 = 1000;
        let rates = [Some(rate(1.0, BURST)), Some(rate(1.0, BURST))];
        let others = [Some(rate(2.0, BURST)), Some(rate(1.0, BURST))];
        let buckets = buckets(1000, &rates);
        let passed = [AtomicU64::new(0), AtomicU64::new(0)];
        // Time stands still, so that only the bursts can pass, and the reloads go on for as long as the tokens do.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for step in 0..20_000 {
                        let group = u8::try_from(step % 2).expect("below 2");
                        if buckets.take(group, 7, Moment(SECOND)).is_ok() {
                            passed[usize::from(group)].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            scope.spawn(|| {
                for step in 0..100 {
                    buckets.reload(if step % 2 == 0 { &others } else { &rates }, Moment(SECOND));
                    thread::yield_now();
                }
            });
        });
        for count in &passed {
            assert_eq!(count.load(Ordering::Relaxed), u64::from(BURST));
        }
    }

    #[test]
    fn threads_share_a_bucket_without_an_extra_token() {
        let buckets = buckets(1000, &[Some(rate(10.0, 500))]);
        let clock = AtomicU64::new(0);
        let passed: u64 = thread::scope(|scope| {
            let work = || {
                let mut passed = 0;
                for _ in 0..10_000 {
                    let now = clock.fetch_add(SECOND / 10_000, Ordering::Relaxed);
                    passed += u64::from(buckets.take(0, 1, Moment(now)).is_ok());
                }
                passed
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        // 4 s at 10 a second.
        assert!((539..=540).contains(&passed), "{passed}");
    }

    #[test]
    fn a_refusal_says_when_there_will_be_a_token() {
        let buckets = buckets(10, &[Some(rate(4.0, 3))]);
        assert_eq!(drain(&buckets, 0, 1, Moment(0)), 3);
        assert_eq!(buckets.take(0, 1, Moment(0)), Err(Duration::from_millis(250)));
        assert_eq!(buckets.take(0, 1, Moment(SECOND / 5)), Err(Duration::from_millis(50)));
        assert_eq!(buckets.take(0, 1, Moment(SECOND / 4)), Ok(()));
        assert!(buckets.take(0, 1, Moment(SECOND / 4)).is_err());
        assert_eq!(buckets.take(0, 2, Moment(SECOND / 4)), Ok(()));
    }

    #[test]
    fn a_group_without_a_rate_always_passes() {
        let buckets = buckets(10, &[None, Some(rate(1.0, 1))]);
        for _ in 0..1000 {
            assert_eq!(buckets.take(0, 1, Moment(0)), Ok(()));
            assert_eq!(buckets.take(9, 1, Moment(0)), Ok(()));
        }
        assert!(buckets.is_empty());
        assert_eq!(drain(&buckets, 1, 1, Moment(0)), 1);
    }

    #[test]
    fn what_is_given_back_never_exceeds_the_burst() {
        let buckets = buckets(10, &[Some(rate(1.0, 5))]);
        assert_eq!(drain(&buckets, 0, 1, Moment(SECOND)), 5);
        buckets.give_back(0, 1, Moment(SECOND));
        assert_eq!(drain(&buckets, 0, 1, Moment(SECOND)), 1);
        for _ in 0..100 {
            buckets.give_back(0, 1, Moment(SECOND));
            buckets.give_back(0, 2, Moment(SECOND));
        }
        assert_eq!(drain(&buckets, 0, 1, Moment(SECOND)), 5);
        assert_eq!(drain(&buckets, 0, 2, Moment(SECOND)), 5);
    }

    #[test]
    fn a_reload_keeps_what_was_used_also_after_an_hour() {
        let now = Moment(3600 * SECOND);
        for (new, left) in [
            (rate(1.0, 100), 40),
            (rate(10.0, 100), 40),
            (rate(0.01, 100), 40),
            (rate(1.0, 150), 90),
            (rate(1.0, 61), 1),
            (rate(1.0, 60), 0),
            (rate(1.0, 10), 0),
        ] {
            let buckets = buckets(10, &[Some(rate(1.0, 100))]);
            for _ in 0..60 {
                buckets.take(0, 1, now).expect("there are 100");
            }
            buckets.reload(&[Some(new)], now);
            assert_eq!(drain(&buckets, 0, 1, now), left, "{new:?}");
        }
    }

    #[test]
    fn a_smaller_bucket_is_empty_and_never_in_debt() {
        let buckets = buckets(10, &[Some(rate(10.0, 100))]);
        assert_eq!(drain(&buckets, 0, 1, Moment(0)), 100);
        buckets.reload(&[Some(rate(10.0, 5))], Moment(0));
        assert_eq!(buckets.take(0, 1, Moment(0)), Err(Duration::from_millis(100)));
        assert_eq!(buckets.take(0, 1, Moment(SECOND / 10)), Ok(()));
    }

    #[test]
    fn a_bucket_that_a_reload_does_not_touch_keeps_its_hour_of_uptime() {
        let now = Moment(3600 * SECOND);
        let rates = [Some(rate(1.0, 100))];
        let buckets = buckets(10, &rates);
        assert_eq!(drain(&buckets, 0, 1, now), 100);
        for _ in 0..100 {
            buckets.reload(&rates, now);
            assert_eq!(buckets.take(0, 1, now), Err(Duration::from_secs(1)));
            assert_eq!(buckets.len(), 1);
        }
        assert_eq!(drain(&buckets, 0, 1, Moment(now.0 + 3 * SECOND)), 3);
    }

    #[test]
    fn a_group_that_loses_its_rate_forgets() {
        let buckets = buckets(10, &[Some(rate(1.0, 2)), Some(rate(1.0, 2))]);
        assert_eq!(drain(&buckets, 0, 1, Moment(0)) + drain(&buckets, 1, 1, Moment(0)), 4);
        buckets.reload(&[None, Some(rate(1.0, 2))], Moment(0));
        assert_eq!(buckets.len(), 1);
        assert_eq!(buckets.take(0, 1, Moment(0)), Ok(()));
        buckets.reload(&[], Moment(0));
        assert!(buckets.is_empty());
        assert_eq!(buckets.take(1, 1, Moment(0)), Ok(()));
    }

    #[test]
    fn a_sweep_drops_full_buckets_only() {
        let buckets = buckets(10_000, &[Some(rate(1.0, 2))]);
        for key in 0..5000 {
            buckets.take(0, key, Moment(0)).expect("a full bucket");
        }
        for key in 0..100 {
            buckets.take(0, key, Moment(0)).expect("one is left");
        }
        assert_eq!(buckets.len(), 5000);
        buckets.sweep(Moment(SECOND - 1));
        assert_eq!(buckets.len(), 5000);
        buckets.sweep(Moment(SECOND));
        assert_eq!(buckets.len(), 100);
        assert_eq!(drain(&buckets, 0, 1, Moment(SECOND)), 1);
        buckets.sweep(Moment(9 * SECOND));
        assert!(buckets.is_empty());
    }

    #[test]
    fn a_flood_of_keys_shares_a_bucket_and_hurts_nobody_who_has_one() {
        const KEYS: usize = 1000;
        let buckets = buckets(KEYS, &[Some(rate(0.1, 10))]);
        for key in 0..1000 {
            buckets.take(0, key, Moment(0)).expect("room");
        }
        let passed = (1000..51_000).filter(|key| buckets.take(0, *key, Moment(0)).is_ok()).count();
        assert_eq!(buckets.len(), KEYS);
        assert_eq!(buckets.shared(), 50_000);
        assert_eq!(passed, buckets.stripes.len() * 10, "one shared bucket of 10 per stripe");
        for key in 0..1000 {
            assert_eq!(drain(&buckets, 0, key, Moment(0)), 9);
        }
        // When the others are full again, their places are free.
        assert_eq!(drain(&buckets, 0, 99_999, Moment(1000 * SECOND)), 10);
        for key in 100_000..100_100 {
            drain(&buckets, 0, key, Moment(1000 * SECOND));
        }
        assert!(buckets.len() < KEYS);
        // A token of the shared bucket comes back to it.
        let tiny = super::tests::buckets(0, &[Some(rate(0.1, 2))]);
        assert_eq!(drain(&tiny, 0, 1, Moment(0)), 2);
        tiny.give_back(0, 2, Moment(0));
        assert_eq!(drain(&tiny, 0, 3, Moment(0)), 1);
    }

    #[test]
    fn extreme_rates_neither_overflow_nor_pass_for_ever() {
        for extreme in
            [rate(1e-9, u32::MAX), rate(1e-300, 1), rate(f64::MIN_POSITIVE, u32::MAX), rate(1e-5, 300_000), rate(1e12, 3), rate(1.0, 0)]
        {
            let buckets = buckets(10, &[Some(extreme)]);
            let late = Moment(100 * 365 * 86_400 * SECOND);
            for now in [Moment(0), Moment(SECOND), late] {
                assert_eq!(buckets.take(0, 1, now), Ok(()), "{extreme:?}");
                buckets.give_back(0, 1, now);
            }
            let few = extreme.burst.clamp(1, 10);
            for _ in 0..few {
                let _ = buckets.take(0, 2, late);
            }
            if extreme.burst < 10 {
                assert!(buckets.take(0, 2, late).is_err(), "{extreme:?}");
            }
            buckets.reload(&[Some(rate(1.0, 1))], late);
            assert!(buckets.take(0, 2, late).is_err());
            buckets.reload(&[Some(extreme)], late);
        }
    }
}
