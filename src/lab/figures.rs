//! What came of it: the figures of one side, all times of the incident.

use std::{collections::HashMap, time::Duration};

use super::{
    kind::{Kind, PerKind},
    pace::Pace,
    scenario::Scenario,
    service::{Written, pool::PoolView},
    tally::{Checked, Counted, Endings, PollsAnswered, Wish, percentile},
};
use crate::clock::Moment;

/// What counts as answered in good time.
pub const GOOD: Duration = Duration::from_secs(1);

/// A part of a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How many.
    pub part: usize,
    /// Of how many.
    pub of: usize,
}

impl Share {
    /// From 0 to 100; `None` of nothing.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    pub fn percent(self) -> Option<f64> {
        (self.of > 0).then(|| 100.0 * self.part as f64 / self.of as f64)
    }

    fn add(&mut self, counts: bool) {
        self.of += 1;
        self.part += usize::from(counts);
    }
}

/// One line of the table. Percentiles are of all that was offered: `None` is "never answered".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Answered within [`GOOD`].
    pub good: Share,
    /// Answered at all.
    pub answered: Share,
    /// The median time.
    pub p50: Option<Duration>,
    /// The 95th of a hundred.
    pub p95: Option<Duration>,
    /// The 99th of a hundred.
    pub p99: Option<Duration>,
    /// How requests ended that brought no answer.
    pub endings: Endings,
}

/// What became of what was typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// The service said that it has them.
    pub acknowledged: usize,
    /// Of these, not in the database.
    pub lost: usize,
    /// In the database more than once.
    pub doubled: usize,
    /// Requests that reached the service more than once, though their client sent them once.
    pub repeated: u64,
}

/// The figures of one side.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// By kind.
    pub rows: PerKind<Row>,
    /// Normal syncs answered within [`GOOD`], of those that were due while something was wrong with a service that ran.
    pub incident: Share,
    /// The same by phase.
    pub phases: Vec<Share>,
    /// Polls of large documents answered before their client's time-out was over, counted from when they were due, in the incident.
    pub large_polls: Share,
    /// The same by phase.
    pub large_polls_by_phase: Vec<Share>,
    /// Polls of all documents that were due while the service was stopped and were answered before it ran again.
    pub maintenance: Share,
    /// Who answered the polls that were answered.
    pub polls: PollsAnswered,
    /// For how long connections of the database were held, by kind.
    pub database: PerKind<Duration>,
    /// How much of it for syncs that brought nothing and found nothing new.
    pub unchanged: Duration,
    /// What the clients found in the answers.
    pub checked: Checked,
    /// What became of what was typed.
    pub writes: Writes,
}

impl Figures {
    /// From the clients' record, the database and the pool's account (by the clock).
    #[must_use]
    pub fn of(scenario: &Scenario, start: Moment, counted: &Counted, written: &Written, pool: &PoolView) -> Self {
        let rows = Kind::ALL.map(|kind| row(scenario.pace, kind, counted));
        let mut figures = Self {
            rows,
            incident: Share::default(),
            phases: vec![Share::default(); scenario.phases.len()],
            large_polls: Share::default(),
            large_polls_by_phase: vec![Share::default(); scenario.phases.len()],
            maintenance: Share::default(),
            polls: counted.polls,
            database: pool.spent.map(|span| scenario.pace.incident(span)),
            unchanged: scenario.pace.incident(pool.unchanged),
            checked: counted.checked,
            writes: writes(counted, &written.applied, written.arrived_twice),
        };
        for wish in &counted.wishes {
            figures.count(scenario, start, wish);
        }
        figures
    }

    /// Counts a wish in the phase in which it was due.
    fn count(&mut self, scenario: &Scenario, start: Moment, wish: &Wish) {
        // What is due at the very end may be noted after the last phase.
        let Some((index, phase, end)) = scenario.phase_at(scenario.pace.incident(wish.due.since(start))) else { return };
        if wish.kind.is_normal() {
            let good = is_good(scenario.pace, wish);
            self.phases[index].add(good);
            if phase.faults.is_sick() {
                self.incident.add(good);
            }
        }
        if wish.is_poll && wish.kind == Kind::Large {
            let in_time = wish.took().is_some_and(|took| scenario.pace.incident(took) <= scenario.crowd.timeout);
            self.large_polls_by_phase[index].add(in_time);
            if phase.faults.is_sick() {
                self.large_polls.add(in_time);
            }
        }
        if wish.is_poll && phase.faults.stopped {
            self.maintenance.add(wish.answered.is_some_and(|answered| scenario.pace.incident(answered.since(start)) < end));
        }
    }

    /// Answers that should not have been given.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        let Checked { stale, backwards, foreign, .. } = self.checked;
        stale + backwards + foreign
    }
}

fn is_good(pace: Pace, wish: &Wish) -> bool {
    wish.took().is_some_and(|took| pace.incident(took) <= GOOD)
}

fn row(pace: Pace, kind: Kind, counted: &Counted) -> Row {
    let mut row = Row { endings: counted.endings[kind.index()], ..Row::default() };
    let mut times = Vec::new();
    for wish in counted.wishes.iter().filter(|wish| wish.kind == kind) {
        row.good.add(is_good(pace, wish));
        row.answered.add(wish.answered.is_some());
        times.push(wish.took().map_or(Duration::MAX, |took| pace.incident(took)));
    }
    times.sort_unstable();
    let time = |of| percentile(&times, of).filter(|time| *time < Duration::MAX);
    (row.p50, row.p95, row.p99) = (time(50), time(95), time(99));
    row
}

fn writes(counted: &Counted, applied: &HashMap<String, u32>, repeated: u64) -> Writes {
    Writes {
        acknowledged: counted.acknowledged.len(),
        lost: counted.acknowledged.iter().filter(|id| !applied.contains_key(*id)).count(),
        doubled: applied.values().filter(|times| **times > 1).count(),
        repeated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(wishes: Vec<Wish>, acknowledged: &[&str]) -> Counted {
        let acknowledged = acknowledged.iter().map(|id| (*id).to_owned()).collect();
        Counted { wishes, endings: Default::default(), acknowledged, checked: Checked::default(), polls: PollsAnswered::default() }
    }

    #[test]
    fn what_was_never_answered_is_slower_than_everything() {
        let wish = |answered: Option<u64>| Wish {
            kind: Kind::Poll,
            due: Moment(0),
            is_poll: true,
            answered: answered.map(|ms| Moment(ms * 1_000_000)),
        };
        let row = row(Pace(10.0), Kind::Poll, &counted(vec![wish(Some(5)), wish(Some(101)), wish(None)], &[]));
        assert_eq!((row.good.part, row.answered.part, row.good.of), (1, 2, 3));
        assert_eq!((row.p50, row.p99), (Some(Duration::from_millis(1010)), None));
    }

    #[test]
    fn a_write_is_lost_if_it_was_acknowledged_and_is_not_there() {
        let applied = HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
        let writes = writes(&counted(Vec::new(), &["a", "c"]), &applied, 0);
        assert_eq!((writes.acknowledged, writes.lost, writes.doubled), (2, 1, 1));
    }

    #[test]
    fn only_what_was_due_while_something_was_wrong_belongs_to_the_incident() {
        let scenario = Scenario::shipped().expect("shipped");
        let calm = Wish { kind: Kind::Poll, due: Moment(0), is_poll: true, answered: None };
        let later = scenario.pace.clock(scenario.phases[0].lasts);
        let wrong = Wish { due: Moment(0) + later, ..calm };
        let large = Wish { kind: Kind::Large, ..wrong };
        let counted = counted(vec![calm, wrong, large], &[]);
        let figures = Figures::of(&scenario, Moment(0), &counted, &Written::default(), &PoolView::default());
        assert_eq!(figures.incident, Share { part: 0, of: 1 });
        assert_eq!((figures.phases[0].of, figures.phases[1].of), (1, 1));
        assert_eq!((figures.large_polls, figures.large_polls_by_phase[1]), (Share { part: 0, of: 1 }, Share { part: 0, of: 1 }));
    }

    #[test]
    fn a_poll_in_a_maintenance_window_counts_if_it_is_answered_before_the_service_runs_again() {
        let scenario = Scenario::shipped().expect("shipped");
        let index = scenario.phases.iter().position(|phase| phase.faults.stopped).expect("there is one");
        let begin: Duration = scenario.phases[..index].iter().map(|phase| phase.lasts).sum();
        let at = |offset| Moment(0) + scenario.pace.clock(begin + offset);
        let due = at(scenario.phases[index].lasts.saturating_sub(Duration::from_secs(1)));
        let wish = |after| Wish { kind: Kind::Poll, due, is_poll: true, answered: Some(due + scenario.pace.clock(after)) };
        let written = Wish { is_poll: false, ..wish(Duration::ZERO) };
        let counted = counted(vec![wish(Duration::from_millis(500)), wish(Duration::from_secs(2)), written], &[]);
        let figures = Figures::of(&scenario, Moment(0), &counted, &Written::default(), &PoolView::default());
        assert_eq!((figures.maintenance, figures.incident.of), (Share { part: 1, of: 2 }, 0));
    }
}
