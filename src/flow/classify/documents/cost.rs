//! What one kind of cost of one document is, and whether it makes the document dear.

use std::time::Duration;

use crate::clock::Moment;

/// The weight of the newest sample.
const WEIGHT: f32 = 0.3;

/// A dear document costs more than this many times the median of its class.
const MEDIANS: f32 = 8.0;

/// What a sample finds takes effect so much later: by then the median has seen whether the others are slow too.
const SETTLE: Duration = Duration::from_secs(2);

/// A moment in units of 2^27 ns (0.13 s); good for 18 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp(u32);

impl Stamp {
    const NEVER: Self = Self(u32::MAX);

    /// The last one at or before `now`.
    fn at(now: Moment) -> Self {
        Self(u32::try_from(now.0 >> 27).unwrap_or(u32::MAX - 1))
    }
}

/// The average cost of one kind, in the kind's unit, and whether it is a dear one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Average {
    /// Negative: nothing is known.
    cost: f32,
    /// From when on the document is dear.
    dear_from: Stamp,
}

impl Average {
    /// Nothing is known.
    pub(super) const NONE: Self = Self { cost: -1.0, dear_from: Stamp::NEVER };

    /// As it was saved.
    pub(super) fn restored(cost: f32, dear: bool, now: Moment) -> Self {
        Self { cost, dear_from: if dear { Stamp::at(now) } else { Stamp::NEVER } }
    }

    /// The cost, if anything is known.
    pub(super) fn cost(self) -> Option<f32> {
        (self.cost >= 0.0).then_some(self.cost)
    }

    /// Whether samples or a move have made it dear, whatever the median is now.
    pub(super) fn is_marked(self) -> bool {
        self.dear_from != Stamp::NEVER
    }

    /// Takes a sample in; `long` is the bound of this kind, `median` that of the route's class, which already holds the sample.
    pub(super) fn learn(&mut self, sample: f32, long: f32, median: Option<f32>, now: Moment) {
        self.cost = if self.cost < 0.0 { sample } else { self.cost + WEIGHT * (sample - self.cost) };
        let above = median.is_none_or(|median| self.cost > MEDIANS * median);
        if self.is_marked() {
            if self.cost <= long / 2.0 || !above {
                self.dear_from = Stamp::NEVER;
            }
        } else if median.is_some_and(|median| self.cost.min(sample) > long.max(MEDIANS * median)) {
            self.dear_from = Stamp::at(now + SETTLE);
        }
    }

    /// Takes in that something cost at least `sample`: only what raises the average teaches.
    pub(super) fn learn_at_least(&mut self, sample: f32, long: f32, median: Option<f32>, now: Moment) {
        if sample > self.cost {
            self.learn(sample, long, median, now);
        }
    }

    /// A request has taken `taken` and still runs: dear from now on.
    pub(super) fn moved(&mut self, taken: f32, now: Moment) {
        self.cost = self.cost.max(taken);
        self.dear_from = self.dear_from.min(Stamp::at(now));
    }

    /// Whether the document is dear by this kind, beside requests of a class with this median.
    pub(super) fn is_dear(self, median: Option<f32>, now: Moment) -> bool {
        self.dear_from <= Stamp::at(now) && self.is_marked() && median.is_none_or(|median| self.cost > MEDIANS * median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: f32 = 25_000.0;
    const NOW: Moment = Moment(1_000_000_000_000);

    fn after(samples: &[f32], median: Option<f32>) -> Average {
        let mut average = Average::NONE;
        for sample in samples {
            average.learn(*sample, LONG, median, NOW);
        }
        average
    }

    fn dear(average: Average, median: Option<f32>) -> bool {
        average.is_dear(median, NOW + 2 * SETTLE)
    }

    #[test]
    fn the_newest_sample_weighs_three_tenths() {
        assert_eq!(Average::NONE.cost(), None);
        assert_eq!(after(&[1000.0], None).cost(), Some(1000.0));
        assert_eq!(after(&[1000.0, 2000.0], None).cost(), Some(1300.0));
        assert_eq!(after(&[1000.0, 0.0], None).cost(), Some(700.0));
    }

    #[test]
    fn a_document_is_dear_above_both_bounds_only() {
        assert!(dear(after(&[26_000.0], Some(2000.0)), Some(2000.0)));
        assert!(!dear(after(&[25_000.0], Some(2000.0)), Some(2000.0)));
        assert!(!dear(after(&[26_000.0], Some(3250.0)), Some(3250.0)));
        assert!(dear(after(&[26_000.0], Some(3200.0)), Some(3200.0)));
    }

    #[test]
    fn half_the_bound_is_needed_to_stop() {
        let mut average = after(&[26_000.0], Some(1000.0));
        average.learn(0.0, LONG, Some(1000.0), NOW);
        assert_eq!(average.cost(), Some(18_200.0));
        assert!(dear(average, Some(1000.0)));
        average.learn(0.0, LONG, Some(1000.0), NOW);
        assert_eq!(average.cost(), Some(12_740.0));
        assert!(dear(average, Some(1000.0)));
        average.learn(0.0, LONG, Some(1000.0), NOW);
        assert!(!dear(average, Some(1000.0)));
        // And all of it to begin again.
        average.learn(24_000.0, LONG, Some(1000.0), NOW);
        assert!(!dear(average, Some(1000.0)));
    }

    #[test]
    fn what_a_sample_finds_takes_effect_when_its_neighbours_have_ended() {
        let average = after(&[1e7], Some(1000.0));
        assert!(!average.is_dear(Some(1000.0), NOW));
        assert!(!average.is_dear(Some(1000.0), NOW + SETTLE / 2));
        assert!(average.is_dear(Some(1000.0), NOW + SETTLE));
        assert!(!average.is_dear(Some(2e6), NOW + SETTLE));
    }

    #[test]
    fn a_class_that_turns_slow_makes_a_dear_document_ordinary_for_as_long() {
        let mut average = after(&[1e6], Some(1000.0));
        assert!(dear(average, Some(1000.0)));
        assert!(!dear(average, Some(200_000.0)));
        assert!(dear(average, Some(1000.0)), "it had no sample in that time");
        average.learn(1e6, LONG, Some(200_000.0), NOW);
        assert!(!dear(average, Some(1000.0)), "a sample agreed that it is as slow as the others");
        average.learn(1e6, LONG, Some(1000.0), NOW);
        assert!(dear(average, Some(1000.0)), "and a new one says that it is dear after all");
    }

    #[test]
    fn what_is_left_of_an_outage_makes_nothing_dear() {
        let mut average = after(&[2e6; 20], Some(2e6));
        for _ in 0..20 {
            average.learn(20_000.0, LONG, Some(20_000.0), NOW);
            assert!(!dear(average, Some(20_000.0)), "{average:?}");
        }
    }

    #[test]
    fn without_a_median_nothing_becomes_dear_and_what_is_dear_stays() {
        assert!(!dear(after(&[1e7; 20], None), None));
        let mut average = after(&[1e7], Some(1000.0));
        average.learn(1e7, LONG, None, NOW);
        assert!(dear(average, None));
        let restored = Average::restored(50_000.0, true, NOW);
        assert!(restored.is_dear(None, NOW));
        assert!(!Average::restored(50_000.0, false, NOW).is_dear(None, NOW));
    }

    #[test]
    fn a_moved_request_makes_its_document_dear_at_once_until_samples_say_otherwise() {
        let mut average = Average::NONE;
        average.moved(1e6, NOW);
        assert!(average.is_dear(None, NOW) && average.is_dear(Some(20_000.0), NOW));
        assert!(average.is_dear(Some(20_000.0), NOW + Duration::from_secs(1_000_000)), "also if its sample never comes");
        assert!(!average.is_dear(Some(1e6), NOW), "in an outage every request is moved");
        let mut samples = 0;
        while average.is_dear(Some(2000.0), NOW) {
            average.learn(1000.0, LONG, Some(2000.0), NOW);
            samples += 1;
        }
        assert!((10..=14).contains(&samples), "{samples}");
        let mut known = after(&[3e6], Some(1000.0));
        known.moved(1e6, NOW);
        assert_eq!(known.cost(), Some(3e6));
        assert!(known.is_dear(Some(1000.0), NOW), "no delay any more");
    }

    #[test]
    fn what_ended_badly_only_raises_a_cost() {
        let mut average = after(&[1e6], Some(1000.0));
        average.learn_at_least(10.0, LONG, Some(1000.0), NOW);
        assert_eq!(average.cost(), Some(1e6));
        average.learn_at_least(2e6, LONG, Some(1000.0), NOW);
        assert_eq!(average.cost(), Some(1.3e6));
        let mut unknown = Average::NONE;
        unknown.learn_at_least(3e7, LONG, Some(1000.0), NOW);
        assert!(dear(unknown, Some(1000.0)));
    }
}
