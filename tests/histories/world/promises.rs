//! What must hold of every answer.

use super::{Found, World, polls::Poll};
use crate::app::{Attempt, Versions, leaves};

impl World {
    /// What the code says must follow from the reference; and, if nothing was forgotten, from it the code's.
    pub(super) fn compare(&self, what: &str, found: &dyn std::fmt::Debug, is: bool, expected: bool) -> Found {
        let agrees = if self.bounds.roomy { is == expected } else { !is || expected };
        if agrees || !self.bounds.compared {
            return Ok(());
        }
        Err(format!("{what}: {found:?}, but the reference says {expected}"))
    }

    /// Whether the promises are made to this poll: its profile declares everything, and is in force.
    pub(super) fn is_promised(&self, poll: usize) -> bool {
        self.polls[poll].is_right
    }

    /// P2: no answer that was asked before a lost write was quiet is given to another poll once that write has begun.
    pub(super) fn undoubted(&self, poll: usize, asked: u64) -> Found {
        let mask = self.polls[poll].mask;
        let doubt = self.bounds.doubt + self.bounds.settle;
        let harms = |attempt: &&Attempt| {
            let running = !attempt.known && attempt.lost.is_none();
            attempt.mask & mask != 0 && !attempt.hidden && (running || attempt.lost.is_some_and(|lost| asked < lost + doubt))
        };
        match self.app.attempts.iter().find(harms) {
            Some(attempt) if self.is_promised(poll) => {
                Err(format!("P2: poll {poll} shares an answer that was asked at {asked}: {attempt:?}"))
            }
            _ => Ok(()),
        }
    }

    /// The strong form, P1 and P3, of an answer that this poll did not ask for itself.
    pub(super) fn strong(&self, poll: usize, versions: &Versions) -> Found {
        let Poll { mask, ref owed, ref acked, ref seen, .. } = self.polls[poll];
        if !self.is_promised(poll) {
            return Ok(());
        }
        for leaf in leaves(mask) {
            let version = versions[leaf];
            if version < owed[leaf] {
                return Err(format!("poll {poll} gets version {version} of document {leaf}; at its check the app had {}", owed[leaf]));
            }
            if version < acked[leaf] {
                return Err(format!("P1: poll {poll} gets version {version} of document {leaf}; {} was acknowledged", acked[leaf]));
            }
            if version < seen[leaf] && !self.bounds.hidden && !self.bounds.pending {
                return Err(format!("P3: poll {poll} gets version {version} of document {leaf}; its device has seen {}", seen[leaf]));
            }
        }
        Ok(())
    }

    /// What the app said, to a poll that came before it was asked: no older than what it showed to anybody then.
    pub(super) fn fresh(&self, poll: usize, versions: &Versions) -> Found {
        let Poll { mask, started, ref acked, .. } = self.polls[poll];
        let lag = self.lag();
        let since = if lag == 0 { started } else { (started + 1).saturating_sub(lag) };
        for leaf in leaves(mask) {
            if !self.app.was_current(leaf, versions[leaf], since) {
                return Err(format!("poll {poll} shares version {} of document {leaf}, asked before it came", versions[leaf]));
            }
            if lag == 0 && versions[leaf] < acked[leaf] {
                return Err(format!(
                    "P1: poll {poll} shares version {} of document {leaf}; {} was acknowledged",
                    versions[leaf], acked[leaf]
                ));
            }
        }
        Ok(())
    }
}
