//! The median of what requests of a class cost: of the last five minutes, and of the very last ones.

use crate::clock::Moment;

/// Four buckets per octave; values from 2^40 on (12 days in microseconds, 1 TiB) share the last one.
const BUCKETS: usize = 160;

/// Five minutes in slots of 30 s; the newest one is being filled.
const SLOTS: usize = 10;
const SLOT: u64 = 30_000_000_000;

/// As many of the very last samples count for themselves, and as many again before them.
const RECENT: u32 = 32;

/// Fewer samples give no median.
const SAMPLES_MIN: u32 = 16;

/// The bucket of a value: the first four hold one value each, then its octave and the two bits after the leading one.
fn bucket(value: u64) -> usize {
    if value < 4 {
        return usize::try_from(value).unwrap_or(0);
    }
    let octave = value.ilog2();
    let quarter = (value >> (octave - 2)) & 3;
    (4 * (octave as usize - 1) + usize::try_from(quarter).unwrap_or(0)).min(BUCKETS - 1)
}

/// The least value of a bucket.
fn floor(bucket: usize) -> u64 {
    let quarter = (bucket % 4) as u64;
    match bucket / 4 {
        0 => quarter,
        octave => (4 + quarter) << (octave - 1),
    }
}

#[derive(Clone, Debug)]
struct Histogram {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Histogram {
    const EMPTY: Self = Self { counts: [0; BUCKETS], total: 0 };

    fn add(&mut self, bucket: usize) {
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.total = self.total.saturating_add(1);
    }

    fn subtract(&mut self, other: &Self) {
        for (count, gone) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_sub(gone);
        }
        self.total = self.total.saturating_sub(other.total);
    }

    /// The lower median of this and another one together, interpolated inside its bucket; `None` below [`SAMPLES_MIN`].
    #[expect(clippy::cast_precision_loss, reason = "a median need not be exact")]
    fn median_with(&self, other: &Self) -> Option<f32> {
        let total = self.total.saturating_add(other.total);
        if total < SAMPLES_MIN {
            return None;
        }
        let rank = total.div_ceil(2);
        let mut below = 0;
        for bucket in 0..BUCKETS {
            let count = self.counts[bucket].saturating_add(other.counts[bucket]);
            if count > 0 && below + count >= rank {
                let (low, high) = (floor(bucket) as f32, floor(bucket + 1) as f32 - 1.0);
                let share = (rank - below) as f32 / count as f32;
                return Some(low + (high - low) * share);
            }
            below = below.saturating_add(count);
        }
        None
    }
}

/// What requests of one class cost of late, by one kind.
#[derive(Clone, Debug)]
pub(super) struct Window {
    slots: Box<[Histogram]>,
    /// The sum of all slots.
    sum: Histogram,
    /// The very last samples: those being counted, and those before.
    recent: [Histogram; 2],
    /// The number of the newest slot since the beginning of time.
    newest: u64,
}

impl Window {
    /// No sample yet.
    pub(super) fn new() -> Self {
        Self { slots: vec![Histogram::EMPTY; SLOTS].into(), sum: Histogram::EMPTY, recent: [const { Histogram::EMPTY }; 2], newest: 0 }
    }

    /// Forgets what is older than five minutes. Returns the moment at which there will be more to forget.
    pub(super) fn advance(&mut self, now: Moment) -> Moment {
        let slot = now.0 / SLOT;
        let steps = slot.saturating_sub(self.newest).min(SLOTS as u64);
        for _ in 0..steps {
            // The oldest slot becomes the newest; which one it is in the array does not matter as long as it goes round.
            self.slots.rotate_right(1);
            self.sum.subtract(&self.slots[0]);
            self.slots[0] = Histogram::EMPTY;
            self.turn();
        }
        self.newest = self.newest.max(slot);
        Moment((self.newest + 1).saturating_mul(SLOT))
    }

    /// Counts a sample, after [`Window::advance`].
    pub(super) fn add(&mut self, value: u64) {
        let bucket = bucket(value);
        self.slots[0].add(bucket);
        self.sum.add(bucket);
        self.recent[0].add(bucket);
        if self.recent[0].total >= RECENT {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.recent.swap(0, 1);
        self.recent[0] = Histogram::EMPTY;
    }

    /// The larger one of the medians over five minutes and of the very last samples; `None` if there are too few to say.
    pub(super) fn median(&self) -> Option<f32> {
        let long = self.sum.median_with(&Histogram::EMPTY)?;
        let recent = self.recent[0].median_with(&self.recent[1]);
        Some(recent.map_or(long, |recent| recent.max(long)))
    }

    /// How many samples the five minutes hold.
    pub(super) fn samples(&self) -> u32 {
        self.sum.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Moment {
        Moment(count * 1_000_000_000)
    }

    fn near(median: Option<f32>, value: f32) -> bool {
        median.is_some_and(|median| (median / value - 1.0).abs() < 0.15)
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for value in (0..10_000).chain((14..40).flat_map(|octave| [(1 << octave) - 1, 1 << octave, (1 << octave) + (1 << (octave - 2))])) {
            let bucket = bucket(value);
            assert!(floor(bucket) <= value && value < floor(bucket + 1), "{value} in {bucket}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_median_agrees_with_sorting() {
        let mut random = fastrand::Rng::with_seed(1);
        for size in [16, 17, 100, 3000] {
            let mut window = Window::new();
            let mut values: Vec<u64> = (0..size).map(|_| 2_u64.pow(random.u32(0..24)) + random.u64(0..1000)).collect();
            for value in &values {
                window.sum.add(bucket(*value));
            }
            values.sort_unstable();
            #[expect(clippy::cast_precision_loss, reason = "near is enough")]
            let middle = values[values.len().div_ceil(2) - 1] as f32;
            let median = window.median().expect("enough");
            assert!((median / middle - 1.0).abs() < 0.25, "{size}: {median} {middle}");
        }
    }

    #[test]
    fn few_samples_have_no_median() {
        let mut window = Window::new();
        (0..15).for_each(|_| window.add(1000));
        assert_eq!(window.median(), None);
        window.add(1000);
        assert!(near(window.median(), 1000.0));
    }

    #[test]
    fn what_is_older_than_five_minutes_is_forgotten() {
        let mut window = Window::new();
        (0..100).for_each(|_| window.add(50_000));
        window.advance(seconds(269));
        assert!(near(window.median(), 50_000.0));
        (0..60).for_each(|_| window.add(1000));
        assert!(near(window.median(), 50_000.0));
        assert_eq!(window.advance(seconds(300)), seconds(330));
        assert_eq!(window.samples(), 60);
        assert!(near(window.median(), 1000.0));
        window.advance(seconds(100_000));
        assert_eq!((window.samples(), window.median()), (0, None));
        assert!(window.sum.counts.iter().all(|count| *count == 0));
    }

    #[test]
    fn it_follows_a_class_that_turns_slow_within_some_dozen_samples() {
        let mut window = Window::new();
        for second in 0..290 {
            window.advance(seconds(second));
            (0..150).for_each(|_| window.add(20_000));
        }
        let mut count = 0;
        while near(window.median(), 20_000.0) {
            window.add(200_000);
            count += 1;
        }
        assert!(count <= 33, "{count}");
    }

    #[test]
    fn a_few_slow_requests_do_not_move_it() {
        let mut window = Window::new();
        let mut random = fastrand::Rng::with_seed(2);
        for step in 0..100_000 {
            window.advance(Moment(step * 10_000_000));
            window.add(if random.u8(..) < 26 { 15_000_000 } else { 20_000 });
            assert!(step < 16 || near(window.median(), 20_000.0), "{step}");
        }
    }
}
