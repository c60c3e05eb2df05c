//! The only reader of time. Decisions take a [`Moment`] and never ask.

use std::{
    ops::{Add, Sub},
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A point in monotonic time, in nanoseconds since the process first asked; good for 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The time that went by since `earlier`; zero if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(span)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(span)))
    }
}

/// A span in whole nanoseconds, at most `u64::MAX`.
#[must_use]
pub fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Now, by the monotonic clock.
#[must_use]
pub fn now() -> Moment {
    Moment(nanoseconds(START.elapsed()))
}

/// A point in the time since the machine started, in nanoseconds, which goes on while it is suspended (`CLOCK_BOOTTIME`): for ages, which
/// must not stand still with the machine. A type of its own, so that the two clocks are never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Boot(pub u64);

impl Boot {
    /// The time that went by since `earlier`; zero if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Now, by the clock that goes on while the machine is suspended.
#[must_use]
pub fn boot() -> Boot {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Boot(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0)))
}

/// The instant of tokio's timers at which `moment` will have come.
#[must_use]
pub fn instant(moment: Moment) -> tokio::time::Instant {
    tokio::time::Instant::from_std(*START + Duration::from_nanos(moment.0))
}

/// The time since 1970 by the wall clock, for what people and other machines read.
#[must_use]
pub fn since_epoch() -> Duration {
    wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Now, by the wall clock: for what people and other machines read, never for a decision.
#[must_use]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
