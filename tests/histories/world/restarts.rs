//! Restarts and reloads: rules 15 and 17.

use std::sync::Arc;

use tidegate::{
    clock::Moment,
    flow::fresh::{
        join::Joins,
        keys::Key,
        ledger::{Ledger, generation::shell::Generation},
    },
    profile::RouteId,
};

use super::{
    Found, MISREAD, World, moment,
    polls::Phase,
    store, trace,
    writes::{Progress, Write},
};
use crate::{
    bounds::Fault,
    reference::{ALL, Reference},
};

impl World {
    /// All calls are gone. What ran may still be taken by the app.
    pub(super) fn all_gone(&mut self) {
        for write in std::mem::take(&mut self.writes) {
            let attempt = write.attempt.filter(|attempt| !self.app.attempts[*attempt].known);
            if let Some(attempt) = attempt {
                self.lost(attempt);
            }
        }
        for poll in &mut self.polls {
            (poll.phase, poll.member, poll.ticket) = (Phase::Done, None, None);
        }
        self.joins = Joins::default();
        if !self.is(Fault::RestartKeepsAnswers) {
            self.answers = store(self.bounds.roomy);
        }
        self.epoch += 1;
        self.generation = Generation::new(self.generation.id(), 4);
        self.retired = None;
    }

    /// Rule 15, after a kill.
    pub(super) fn restart(&mut self) -> Found {
        self.seen.restarts += 1;
        self.all_gone();
        let start = self.now + self.bounds.doubt + self.bounds.settle;
        let quiet_from = if self.is(Fault::RestartsWithoutDoubt) { self.now } else { start };
        trace!(self, "killed and started again, quiet from {quiet_from}");
        self.ledger = Arc::new(Ledger::new(self.bounds.documents_max, moment(quiet_from)));
        self.reference = Reference::new(start);
        Ok(())
    }

    /// Rule 15, after a stop that waits for all writes, if there is none.
    pub(super) fn stop_cleanly(&mut self) -> Found {
        let now = moment(self.now);
        let runs = |write: &&Write| matches!(write.progress, Progress::Begun | Progress::Sent | Progress::Whole);
        let running = self.writes.iter().any(|write| runs(&write));
        // A write without a promise stands nowhere while it runs.
        let promised = self.writes.iter().any(|write| runs(&write) && (write.suspends || write.declared != 0));
        let polls = self.polls.iter().any(|poll| poll.event.is_some()) || self.writes.iter().any(|write| write.member_event.is_some());
        let Some(doubts) = self.ledger.doubts(now) else { return self.restart() };
        if promised && self.bounds.compared {
            return Err("a stop is called clean although a write runs".to_owned());
        }
        if polls || running {
            return self.restart();
        }
        self.seen.restarts += 1;
        self.all_gone();
        trace!(self, "stopped and started again, in doubt: {doubts:?}");
        let doubts: Vec<(Key, Moment)> = doubts.into_iter().map(|(key, left)| (key, now + left)).collect();
        self.ledger = Arc::new(Ledger::with_doubts(self.bounds.documents_max, &doubts));
        Ok(())
    }

    /// Rule 17.
    pub(super) fn reload(&mut self) -> Found {
        self.seen.reloads += 1;
        let new = Generation::new(self.generation.id() + 1, 4);
        let old = std::mem::replace(&mut self.generation, new);
        trace!(self, "a profile is loaded that declares {}", if self.is_right { "less" } else { "more" });
        if !self.is(Fault::ReloadForgetsRunning) {
            old.retire(|route| route != MISREAD && route != RouteId(2), &self.ledger);
        }
        self.answers.clear();
        self.epoch += 1;
        let order = self.order();
        for write in &mut self.writes {
            let current = write.member.as_ref().is_some_and(|member| member.generation() == old.id());
            if current && write.route == MISREAD {
                write.member_event = Some(self.reference.begin(ALL, order));
            }
        }
        for poll in &mut self.polls {
            if poll.member.as_ref().is_some_and(|member| member.generation() == old.id()) {
                poll.event = Some(self.reference.begin(ALL, order));
            }
        }
        if !self.is(Fault::ReloadForgetsQuiet) {
            // Those that ended before, too, may have written what was not declared.
            let quiet_from = self.quiet(false);
            self.ledger.doubt_everything(moment(quiet_from));
            self.reference.notice(ALL, order, quiet_from);
        }
        if self.bounds.misread {
            self.is_right = !self.is_right;
        }
        self.retired = Some(old);
        Ok(())
    }
}
