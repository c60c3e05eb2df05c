//! What the clients of one side have seen: every wish with when it was due and when it was answered, and every request's end.
//! A wish counts from the moment when it was due, also if its client still waited for the one before.

use std::{collections::HashSet, time::Duration};

use parking_lot::Mutex;

use super::{
    crowd::wire::AnsweredBy,
    figures::Share,
    kind::{Kind, PerKind},
};
use crate::clock::{self, Moment};

/// A wish in the list of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WishId(usize);

/// Something that a client wanted of the service.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// What.
    pub kind: Kind,
    /// When it should have been sent.
    pub due: Moment,
    /// Whether it is only to know whether anything is new, and nothing typed waits to go with it.
    pub is_poll: bool,
    /// When it was answered; `None`: not yet, or given up.
    pub answered: Option<Moment>,
}

impl Wish {
    /// How long it took, or `None` if it is not answered.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        self.answered.map(|answered| answered.since(self.due))
    }
}

/// How requests ended that brought no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endings {
    /// Refused, with when to come back.
    pub refused: u64,
    /// No answer before the client gave up waiting.
    pub timed_out: u64,
    /// An error, or the connection was lost.
    pub failed: u64,
}

/// What the clients found when they checked answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Answers that were checked.
    pub answers: u64,
    /// Older than what somebody was told before the question was put: an acknowledged write was not in it.
    pub stale: u64,
    /// Older than what the same client was told before.
    pub backwards: u64,
    /// Not an answer to the question.
    pub foreign: u64,
}

/// Who answered the polls that were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollsAnswered {
    /// The service, each for itself.
    pub service: usize,
    /// tidegate, from what it has stored.
    pub stored: usize,
    /// The service, once for several.
    pub shared: usize,
}

impl PollsAnswered {
    /// What tidegate answered from what it has stored.
    #[must_use]
    pub fn by_tidegate(self) -> Share {
        Share { part: self.stored, of: self.service + self.stored + self.shared }
    }

    /// What needed no question of its own at the service.
    #[must_use]
    pub fn spared(self) -> Share {
        Share { part: self.stored + self.shared, ..self.by_tidegate() }
    }
}

/// The clients' own record of one side.
#[derive(Debug, Default)]
pub struct Tally {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wishes: Vec<Wish>,
    endings: PerKind<Endings>,
    in_flight: usize,
    acknowledged: HashSet<String>,
    checked: Checked,
    polls: PollsAnswered,
}

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub struct InFlight<'a>(&'a Tally);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state.lock().in_flight -= 1;
    }
}

/// A copy of all that was counted.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Every wish, in the order in which they were noted.
    pub wishes: Vec<Wish>,
    /// How requests ended that brought no answer.
    pub endings: PerKind<Endings>,
    /// The ids of all changes that the service has acknowledged.
    pub acknowledged: HashSet<String>,
    /// What was found in answers.
    pub checked: Checked,
    /// Who answered polls.
    pub polls: PollsAnswered,
}

/// The last seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent {
    /// Normal wishes that were due then and are answered or late.
    pub normal: usize,
    /// Those of them that were answered within the time that counts as good.
    pub good: usize,
    /// The median of their times, by the clock; that of one that still waits is its age.
    pub p50: Duration,
    /// The 99th of a hundred.
    pub p99: Duration,
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests refused since the start.
    pub refused: u64,
    /// Requests that timed out since the start.
    pub timed_out: u64,
    /// Who answered polls since the start.
    pub polls: PollsAnswered,
}

impl Tally {
    /// Notes a wish that was due at `due`.
    pub fn wish(&self, kind: Kind, due: Moment) -> WishId {
        self.note(Wish { kind, due, is_poll: false, answered: None })
    }

    /// Notes that somebody wanted to know at `due` whether anything is new.
    pub fn poll(&self, kind: Kind, due: Moment) -> WishId {
        self.note(Wish { kind, due, is_poll: true, answered: None })
    }

    fn note(&self, wish: Wish) -> WishId {
        let mut state = self.state.lock();
        state.wishes.push(wish);
        WishId(state.wishes.len() - 1)
    }

    /// These wishes are answered now.
    pub fn answered(&self, wishes: impl IntoIterator<Item = WishId>) {
        let now = clock::now();
        let mut state = self.state.lock();
        for WishId(index) in wishes {
            state.wishes[index].answered = Some(now);
        }
    }

    /// The service has said that it has these changes.
    pub fn acknowledged(&self, changes: impl IntoIterator<Item = String>) {
        self.state.lock().acknowledged.extend(changes);
    }

    /// An answer was checked.
    pub fn checked(&self, found: Checked) {
        let checked = &mut self.state.lock().checked;
        checked.answers += found.answers;
        checked.stale += found.stale;
        checked.backwards += found.backwards;
        checked.foreign += found.foreign;
    }

    /// A poll was answered.
    pub fn poll_answered(&self, by: AnsweredBy) {
        let polls = &mut self.state.lock().polls;
        *match by {
            AnsweredBy::Service => &mut polls.service,
            AnsweredBy::Stored => &mut polls.stored,
            AnsweredBy::Shared => &mut polls.shared,
        } += 1;
    }

    /// A request is on its way.
    pub fn sent(&self) -> InFlight<'_> {
        self.state.lock().in_flight += 1;
        InFlight(self)
    }

    /// A request ended without an answer.
    pub fn ended(&self, kind: Kind, note: impl FnOnce(&mut Endings)) {
        note(&mut self.state.lock().endings[kind.index()]);
    }

    /// All that was counted so far.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let state = self.state.lock();
        Counted {
            wishes: state.wishes.clone(),
            endings: state.endings,
            acknowledged: state.acknowledged.clone(),
            checked: state.checked,
            polls: state.polls,
        }
    }

    /// The last `window` by the clock, as of `now`; what is answered within `good` counts as good.
    #[must_use]
    pub fn recent(&self, now: Moment, window: Duration, good: Duration) -> Recent {
        let state = self.state.lock();
        let mut times: Vec<Duration> = Vec::new();
        // Wishes are noted when they are due, so that the last ones are the latest; some slack for late timers.
        for wish in state.wishes.iter().rev().take_while(|wish| now.since(wish.due) < window + good) {
            let age = now.since(wish.due);
            if wish.kind.is_normal() && age < window && (wish.answered.is_some() || age > good) {
                times.push(wish.took().unwrap_or(age));
            }
        }
        times.sort_unstable();
        let sum = |of: fn(&Endings) -> u64| state.endings.iter().map(of).sum();
        Recent {
            normal: times.len(),
            good: times.iter().filter(|time| **time <= good).count(),
            p50: percentile(&times, 50).unwrap_or_default(),
            p99: percentile(&times, 99).unwrap_or_default(),
            in_flight: state.in_flight,
            refused: sum(|endings| endings.refused),
            timed_out: sum(|endings| endings.timed_out),
            polls: state.polls,
        }
    }
}

/// The value below or at which so many of a hundred lie (nearest rank), of a sorted list; `None` of an empty one.
#[must_use]
pub fn percentile<T: Copy>(sorted: &[T], of_hundred: usize) -> Option<T> {
    let rank = (sorted.len() * of_hundred).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!([50, 95, 99, 100].map(|of| percentile(&hundred, of)), [Some(50), Some(95), Some(99), Some(100)]);
        assert_eq!(percentile(&[7, 8], 50), Some(7));
        assert_eq!(percentile::<u32>(&[], 50), None);
    }

    #[test]
    fn one_that_still_waits_counts_with_its_age_once_it_is_late() {
        let tally = Tally::default();
        let good = Duration::from_millis(100);
        let answered = tally.wish(Kind::Poll, Moment(0));
        tally.state.lock().wishes[answered.0].answered = Some(Moment(40 * MS));
        tally.wish(Kind::Poll, Moment(10 * MS));
        tally.wish(Kind::Large, Moment(10 * MS));
        let early = tally.recent(Moment(90 * MS), Duration::from_secs(1), good);
        assert_eq!((early.normal, early.good), (1, 1));
        let late = tally.recent(Moment(500 * MS), Duration::from_secs(1), good);
        assert_eq!((late.normal, late.good, late.p99), (2, 1, Duration::from_millis(490)));
    }
}
