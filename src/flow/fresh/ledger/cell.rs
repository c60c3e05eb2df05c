//! What is known of one document: when it was last written, who writes it now, and from when on what the app shows of it lasts.

use super::{Cause, NotSolid, Quiet, atomic};
use crate::clock::Moment;

/// The state of a document, or of the floor for all documents without an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// The number of the last write that began, or of the last notice.
    pub(super) last_write: u64,
    /// Before this moment, what the app shows need not last.
    pub(super) quiet_from: Moment,
    /// Writes that run.
    pub(super) writers: u32,
    /// Who wrote last.
    pub(super) cause: Cause,
    /// Why `quiet_from` lies ahead, if it does.
    pub(super) quiet: Quiet,
}

impl Cell {
    /// Never written, and in doubt until then.
    pub(super) fn new(quiet_from: Moment) -> Self {
        Self { last_write: 0, quiet_from, writers: 0, cause: Cause::STARTED, quiet: Quiet::Doubt }
    }

    /// A write begins.
    pub(super) fn begin(&mut self, number: u64, cause: Cause) {
        self.writers = self.writers.saturating_add(1);
        self.last_write = self.last_write.max(number);
        self.cause = cause;
    }

    /// A write ends; nothing was sent of it if there is no `quiet`.
    pub(super) fn end(&mut self, quiet: Option<(Moment, Quiet)>) {
        if let Some((from, why)) = quiet {
            self.raise_quiet(from, why);
        }
        self.writers = self.writers.saturating_sub(1);
    }

    /// It was written by somebody else.
    pub(super) fn notice(&mut self, number: u64, quiet_from: Moment, cause: Cause) {
        self.last_write = self.last_write.max(number);
        self.cause = cause;
        self.raise_quiet(quiet_from, Quiet::Settle);
    }

    /// The later of two moments counts, with its reason; of one moment the graver reason.
    pub(super) fn raise_quiet(&mut self, from: Moment, why: Quiet) {
        (self.quiet_from, self.quiet) = (self.quiet_from, self.quiet).max((from, why));
    }

    /// Takes in what another cell knows, but for its writers: the floor, when an entry is dropped.
    pub(super) fn absorb(&mut self, other: &Self) {
        if other.last_write > self.last_write {
            (self.last_write, self.cause) = (other.last_write, other.cause);
        }
        self.raise_quiet(other.quiet_from, other.quiet);
    }

    /// This cell with `all` added, which is part of every document.
    pub(super) fn with(mut self, all: &Self) -> Self {
        self.absorb(all);
        self.writers = self.writers.saturating_add(all.writers);
        self
    }

    /// Whether what the app shows now lasts.
    pub(super) fn solid(&self, now: Moment) -> Result<(), NotSolid> {
        match self.quiet {
            _ if self.writers > 0 => Err(NotSolid::Writer),
            _ if self.quiet_from <= now => Ok(()),
            Quiet::Doubt => Err(NotSolid::Doubt),
            Quiet::Settle => Err(NotSolid::Settle),
        }
    }
}

impl From<atomic::State> for Cell {
    fn from(state: atomic::State) -> Self {
        let (quiet_from, quiet) = unpack(state.quiet_from);
        let writers = u32::try_from(state.writers).unwrap_or(u32::MAX);
        Self { last_write: state.last_write, quiet_from, writers, cause: Cause(state.cause), quiet }
    }
}

/// A moment and its reason in one number that only grows: the moment is rounded up to an even nanosecond, doubt is the last bit.
pub(super) fn pack(from: Moment, why: Quiet) -> u64 {
    (from.0.saturating_add(1) & !1) | u64::from(why == Quiet::Doubt)
}

fn unpack(packed: u64) -> (Moment, Quiet) {
    (Moment(packed & !1), if packed & 1 == 1 { Quiet::Doubt } else { Quiet::Settle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_moment_counts_and_of_one_moment_the_graver_reason() {
        let mut cell = Cell::new(Moment(0));
        for (from, why, wanted) in [
            (10, Quiet::Settle, (10, Quiet::Settle)),
            (8, Quiet::Doubt, (10, Quiet::Settle)),
            (10, Quiet::Doubt, (10, Quiet::Doubt)),
            (10, Quiet::Settle, (10, Quiet::Doubt)),
            (12, Quiet::Settle, (12, Quiet::Settle)),
        ] {
            cell.raise_quiet(Moment(from), why);
            assert_eq!((cell.quiet_from, cell.quiet), (Moment(wanted.0), wanted.1));
        }
    }

    #[test]
    fn a_moment_and_its_reason_fit_one_number_that_grows_with_both() {
        let times = [0, 1, 2, 3, 1000, 1001, u64::MAX - 2];
        for (from, why) in times.iter().flat_map(|from| [(*from, Quiet::Settle), (*from, Quiet::Doubt)]) {
            let (moment, reason) = unpack(pack(Moment(from), why));
            assert!(reason == why && moment.0 >= from && moment.0 - from <= 1, "{from}: {moment:?}");
        }
        assert!(pack(Moment(10), Quiet::Doubt) > pack(Moment(10), Quiet::Settle));
        assert!(pack(Moment(11), Quiet::Settle) > pack(Moment(10), Quiet::Doubt));
    }

    #[test]
    fn a_cell_is_solid_if_nobody_writes_and_it_is_quiet() {
        let mut cell = Cell::new(Moment(0));
        assert_eq!(cell.solid(Moment(0)), Ok(()));
        cell.begin(1, Cause(1));
        assert_eq!(cell.solid(Moment(0)), Err(NotSolid::Writer));
        cell.begin(2, Cause(2));
        cell.end(Some((Moment(10), Quiet::Doubt)));
        assert_eq!(cell.solid(Moment(99)), Err(NotSolid::Writer));
        cell.end(None);
        assert_eq!(cell.solid(Moment(9)), Err(NotSolid::Doubt));
        assert_eq!(cell.solid(Moment(10)), Ok(()));
        let all = Cell { writers: 1, last_write: 1, ..Cell::new(Moment(20)) };
        let both = cell.with(&all);
        assert_eq!((both.writers, both.last_write, both.quiet_from, both.cause), (1, 2, Moment(20), Cause(2)));
    }
}
