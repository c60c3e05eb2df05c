//! Writes: rules 2 to 6, 12 and 13.

use std::sync::Arc;

use tidegate::{
    flow::fresh::{
        keys::Touched,
        ledger::{Cause, Quiet, generation::shell::Member},
    },
    profile::RouteId,
};

use super::{CREDENTIALS, FORGOTTEN, Found, GRANTS, MISREAD, SCOPES, WRITES, World, choose, mask, moment, raise, scopes, trace};
use crate::{
    app::{Attempt, LEAVES, Versions, leaves},
    bounds::Fault,
    reference::{ALL, Mask, OTHERS},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    New,
    Begun,
    Sent,
    Whole,
    Ended,
    Done,
}

/// A write.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) device: usize,
    pub(super) route: RouteId,
    pub(super) declared: Mask,
    pub(super) touched: Touched,
    pub(super) actual: Mask,
    /// Its answer names what it wrote.
    pub(super) later: bool,
    pub(super) suspends: bool,
    pub(super) progress: Progress,
    pub(super) event: Option<usize>,
    pub(super) attempt: Option<usize>,
    pub(super) was_lost: bool,
    pub(super) acked: bool,
    pub(super) member: Option<Member>,
    pub(super) member_event: Option<usize>,
}

impl World {
    pub(super) fn write(&mut self, device: u8, shape: u8, kind: u8) -> Found {
        let scope = WRITES[usize::from(self.bounds.writes[usize::from(shape) % self.bounds.writes.len()]) % WRITES.len()];
        let route = RouteId(u16::from(kind / 8 % 2));
        let generation = match &self.retired {
            Some(retired) if (kind / 16).is_multiple_of(8) => Arc::clone(retired),
            _ => Arc::clone(&self.generation),
        };
        // Generations that misread have even numbers.
        let misread = self.bounds.misread && generation.id() % 2 == 0 || self.is(Fault::Undeclared);
        let later = kind % 8 == 1 || (kind % 8 == 2 && self.bounds.pending);
        let (mut touched, mut declared, mut actual) = (self.keys.writes(&scopes(scope)), mask(scope), mask(scope));
        if route == MISREAD {
            actual |= 1 << FORGOTTEN;
            if !misread {
                touched.add(&self.keys.writes(&scopes(&[FORGOTTEN])));
                declared = actual;
            }
        }
        if later {
            (touched, declared) = (Touched::default(), 0);
        }
        let is_new = Arc::ptr_eq(&generation, &self.generation);
        let member = generation.enter(route, &self.ledger);
        let order = self.order();
        let member_event = (!is_new && route == MISREAD).then(|| self.reference.begin(ALL, order));
        self.writes.push(Write {
            device: usize::from(device) % CREDENTIALS.len(),
            route,
            declared,
            touched,
            actual,
            later,
            suspends: later && kind % 8 == 1,
            progress: Progress::New,
            event: None,
            attempt: None,
            was_lost: false,
            acked: false,
            member: Some(member),
            member_event,
        });
        trace!(self, "{:?}", self.writes.last());
        Ok(())
    }

    pub(super) fn which(&self, pick: u8, progress: Progress) -> Option<usize> {
        choose(&self.writes, pick, |write| write.progress == progress)
    }

    pub(super) fn register(&mut self, write: usize) {
        let order = self.order();
        let Write { suspends, ref touched, declared, route, .. } = self.writes[write];
        if suspends && !self.is(Fault::NotSuspended) {
            self.ledger.suspend();
        }
        if suspends {
            self.reference.suspend();
        }
        self.ledger.begin(touched, Cause::from(route));
        self.writes[write].event = Some(self.reference.begin(declared, order));
    }

    /// Rule 2.
    pub(super) fn begin(&mut self, pick: u8) -> Found {
        let Some(write) = self.which(pick, Progress::New) else { return Ok(()) };
        trace!(self, "write {write} begins");
        if !self.is(Fault::BeginsAfterFirstByte) {
            self.register(write);
        }
        self.writes[write].progress = Progress::Begun;
        Ok(())
    }

    pub(super) fn send(&mut self, pick: u8, kind: u8) -> Found {
        let Some(write) = self.which(pick, Progress::Begun) else { return Ok(()) };
        trace!(self, "write {write} is sent");
        self.seen.writes += 1;
        let Write { actual, later, suspends, .. } = self.writes[write];
        self.app.attempts.push(Attempt {
            mask: actual,
            open: true,
            until: u64::MAX,
            lost: None,
            is_tunnel: kind.is_multiple_of(8),
            known: false,
            wrote: [0; LEAVES],
            hidden: later && !suspends,
        });
        let write = &mut self.writes[write];
        (write.attempt, write.progress) = (Some(self.app.attempts.len() - 1), Progress::Sent);
        Ok(())
    }

    /// Not a byte of it was written: it is given up, or goes on another connection.
    pub(super) fn unsend(&mut self, pick: u8, again: u8) -> Found {
        let Some(write) = self.which(pick, Progress::Begun) else { return Ok(()) };
        if self.is(Fault::BeginsAfterFirstByte) {
            return Ok(());
        }
        trace!(self, "write {write} was not sent");
        let Write { suspends, ref touched, event, .. } = self.writes[write];
        self.ledger.unsent(touched);
        self.reference.unsent(event.expect("it has begun"));
        self.resume(suspends);
        self.writes[write].progress = Progress::New;
        if again.is_multiple_of(2) {
            self.finish_write(write, None);
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, suspends: bool) {
        if suspends {
            self.reference.resume();
            if !self.is(Fault::NotSuspended) {
                self.ledger.resume();
            }
        }
    }

    /// The app takes a write.
    pub(super) fn commit(&mut self, pick: u8, which: u8) -> Found {
        let those = self.app.may_commit(self.now);
        if those.is_empty() {
            return Ok(());
        }
        let index = those[usize::from(pick) % those.len()];
        let attempt = &self.app.attempts[index];
        let (mask, hidden, lost) = (attempt.mask, attempt.hidden, attempt.lost.is_some());
        let some = if mask & which == 0 { mask } else { mask & which };
        // What is granted is written by denials alone.
        for leaf in leaves(some & !(3 << GRANTS)) {
            let version = self.app.write(leaf, self.now);
            self.app.attempts[index].wrote[leaf] = version;
            if !hidden {
                self.owed[leaf] = version;
            }
        }
        self.seen.late += u64::from(lost);
        trace!(self, "the app takes attempt {index}: {:?}{}", self.app.attempts[index].wrote, if lost { ", late" } else { "" });
        self.app.attempts[index].open = self.app.attempts[index].is_tunnel;
        if self.is(Fault::BeginsAfterFirstByte) {
            let late = self.writes.iter().position(|write| write.attempt == Some(index) && write.event.is_none());
            if let Some(write) = late {
                self.register(write);
            }
        }
        Ok(())
    }

    /// The last byte of a complete answer has come.
    pub(super) fn whole(&mut self, pick: u8) -> Found {
        let Some(write) = self.which(pick, Progress::Sent) else { return Ok(()) };
        let is_late = self.is(Fault::CommitsAfterAnswer);
        let attempt = &mut self.app.attempts[self.writes[write].attempt.expect("it was sent")];
        if attempt.is_tunnel {
            return Ok(());
        }
        if is_late {
            attempt.until = self.now + 20;
        } else {
            attempt.open = false;
        }
        trace!(self, "write {write} is answered");
        self.writes[write].progress = Progress::Whole;
        Ok(())
    }

    /// Rule 3, and rules 12 and 13 before it.
    pub(super) fn end(&mut self, pick: u8, how: u8) -> Found {
        let Some(write) = self.which(pick, Progress::Whole) else { return Ok(()) };
        if self.writes[write].event.is_none() {
            self.register(write);
        }
        let Write { suspends, later, attempt, event, .. } = self.writes[write];
        let attempt = attempt.expect("it was sent");
        let wrote = self.app.attempts[attempt].wrote;
        if later && !self.is(Fault::ListAfterAnswer) {
            if how.is_multiple_of(8) {
                self.notice(&Touched::everything(), ALL);
            } else {
                self.list(wrote);
            }
        }
        let quiet = self.quiet(true);
        trace!(self, "write {write} ends, quiet from {quiet}");
        self.ledger.end(&self.writes[write].touched, moment(quiet), Quiet::Settle);
        self.reference.end(event.unwrap_or_else(|| self.writes[write].event.expect("it has begun")), quiet);
        self.resume(suspends);
        self.app.attempts[attempt].known = true;
        raise(&mut self.owed, &wrote);
        self.writes[write].progress = Progress::Ended;
        self.finish_write(write, Some(true));
        Ok(())
    }

    pub(super) fn list(&mut self, wrote: Versions) {
        let mut touched = Touched::default();
        let mut mask = 0;
        for leaf in (0..GRANTS).filter(|leaf| wrote[*leaf] > 0) {
            let scope = SCOPES.iter().position(|(_, mask)| *mask == 1 << leaf).expect("each has a scope of its own");
            touched.add(&self.keys.writes(&scopes(&[scope])));
            mask |= 1 << leaf;
        }
        self.notice(&touched, mask);
    }

    /// The call is over; a write that can still be acknowledged stays for that.
    pub(super) fn finish_write(&mut self, write: usize, known: Option<bool>) {
        let this = &mut self.writes[write];
        if this.progress != Progress::Ended || this.acked {
            this.progress = Progress::Done;
        }
        let known = if this.was_lost { Some(false) } else { known };
        let (member, event) = (this.member.take(), this.member_event.take());
        self.end_member(member, event, known);
    }

    pub(super) fn acknowledge(&mut self, pick: u8) -> Found {
        let ready = |write: &Write| {
            let early = write.progress == Progress::Whole && (!write.later || self.is(Fault::ListAfterAnswer));
            !write.acked && (early || write.progress == Progress::Ended)
        };
        let Some(write) = choose(&self.writes, pick, ready) else { return Ok(()) };
        let this = &mut self.writes[write];
        this.acked = true;
        let wrote = self.app.attempts[this.attempt.expect("it was sent")].wrote;
        if this.progress == Progress::Ended {
            this.progress = Progress::Done;
        }
        let device = this.device;
        trace!(self, "write {write} is acknowledged: {wrote:?}");
        raise(&mut self.acked, &wrote);
        raise(&mut self.seen_by[device], &wrote);
        Ok(())
    }

    /// Rules 4, 5 and 6: nobody knows what becomes of it; it may be sent again.
    pub(super) fn lose(&mut self, pick: u8, again: u8) -> Found {
        let lost = |write: &Write| matches!(write.progress, Progress::Sent | Progress::Whole) && !write.acked;
        let Some(write) = choose(&self.writes, pick, lost) else { return Ok(()) };
        if self.writes[write].event.is_none() {
            self.register(write);
        }
        let Write { suspends, later, attempt, event, .. } = self.writes[write];
        let index = attempt.expect("it was sent");
        self.lost(index);
        let retries = again.is_multiple_of(4);
        let is_tunnel = self.app.attempts[index].is_tunnel;
        let (mut quiet, mut why) = (self.quiet(false), Quiet::Doubt);
        let answered = self.writes[write].progress == Progress::Whole;
        if (self.is(Fault::ErrorIsKnown) && answered) || (self.is(Fault::TunnelIsKnown) && is_tunnel) {
            (quiet, why) = (self.quiet(true), Quiet::Settle);
        }
        trace!(self, "write {write} is lost, quiet from {quiet}");
        let order = self.order();
        if later {
            let everything = Touched::everything();
            self.ledger.begin(&everything, Cause::NOTICE);
            self.ledger.end(&everything, moment(quiet), why);
            self.reference.notice(ALL, order, quiet);
        }
        let touched = &self.writes[write].touched;
        if self.is(Fault::RetryForgetsFirst) && retries {
            self.ledger.unsent(touched);
        } else {
            self.ledger.end(touched, moment(quiet), why);
        }
        self.reference.end(event.unwrap_or_else(|| self.writes[write].event.expect("it has begun")), quiet);
        self.resume(suspends);
        let this = &mut self.writes[write];
        (this.was_lost, this.event, this.attempt) = (true, None, None);
        if retries {
            this.progress = Progress::New;
        } else {
            self.finish_write(write, Some(false));
        }
        Ok(())
    }

    /// The app may take it strictly before the doubt is over.
    pub(super) fn lost(&mut self, attempt: usize) {
        self.seen.lost += 1;
        let late = if self.is(Fault::CommitsTooLate) { 20 } else { 0 };
        let attempt = &mut self.app.attempts[attempt];
        (attempt.lost, attempt.until, attempt.hidden) = (Some(self.now), self.now + self.bounds.doubt + late, false);
        let wrote = attempt.wrote;
        raise(&mut self.owed, &wrote);
    }

    /// Something is written past the proxy, or what was is told (rule 12).
    pub(super) fn told(&mut self, leaf: u8, tells: u8) -> Found {
        let leaf = usize::from(leaf) % GRANTS;
        if tells.is_multiple_of(2) {
            self.app.write(leaf, self.now);
            trace!(self, "document {leaf} is written past the proxy");
            return Ok(());
        }
        let version = self.app.version(leaf);
        let mut wrote = [0; LEAVES];
        wrote[leaf] = version.max(1);
        if !self.is(Fault::NoticeAfterAnswer) {
            self.list(wrote);
        }
        self.owed[leaf] = version;
        trace!(self, "document {leaf} is told to have changed");
        Ok(())
    }

    /// Documents that nobody polls are written, which takes room in the ledger.
    pub(super) fn others(&mut self, pick: u8) -> Found {
        for number in (0..24).map(|offset| pick.wrapping_add(offset) % 64) {
            let touched = self.keys.named(&format!("doc:other-{number}")).expect("a sound name");
            self.ledger.begin(&touched, Cause::UNMATCHED);
            self.ledger.unsent(&touched);
        }
        let order = self.order();
        let event = self.reference.begin(OTHERS, order);
        self.reference.unsent(event);
        trace!(self, "other documents are written");
        Ok(())
    }
}
