//! Polls, and refreshes: rules 7 to 12, 18 and 19.

use std::time::Duration;

use tidegate::{
    clock::Boot,
    flow::fresh::{
        join::{Arrived, Chair, Running, Ticket},
        keys::{Reads, Touched},
        ledger::{
            Asked, Cause, Proof,
            generation::{End, shell::Member},
        },
        question::Question,
        replay,
    },
    profile::RouteId,
};

use super::{CREDENTIALS, Found, GRANTS, READS, TICK, World, choose, mask, moment, raise, scopes, span, trace};
use crate::{
    app::{LEAVES, Versions, leaves},
    bounds::Fault,
    coding::{decode, encode},
    reference::Mask,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    New,
    Leads,
    Shares(usize, Chair),
    Joined(usize, Chair),
    Done,
}

/// A poll, or a refresh.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) device: usize,
    /// Whether its client is there.
    pub(super) client: bool,
    pub(super) mask: Mask,
    pub(super) reads: Reads,
    pub(super) question: Question,
    pub(super) member: Option<Member>,
    pub(super) event: Option<usize>,
    /// Whether its profile declares everything.
    pub(super) is_right: bool,
    pub(super) started: u64,
    pub(super) acked: Versions,
    pub(super) seen: Versions,
    /// What was owed when it was last checked.
    pub(super) owed: Versions,
    pub(super) phase: Phase,
    pub(super) turn: bool,
    pub(super) waited: bool,
    pub(super) abandoned: bool,
    pub(super) ticket: Option<Ticket>,
    pub(super) attempt: Option<Asking>,
    /// The last attempt that others may join.
    pub(super) running: Option<Asking>,
    pub(super) was_lost: bool,
    /// What a refresh is compared with.
    pub(super) against: Option<u64>,
}

/// A question as it was put to the app.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) asked: Asked,
    /// When, in the order of events.
    pub(super) order: u64,
    pub(super) tick: u64,
    pub(super) boot: u64,
    pub(super) is_solid: bool,
    pub(super) sent: bool,
    pub(super) shown: [Option<u32>; LEAVES],
}

/// An answer that was stored.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) question: Question,
    pub(super) versions: Versions,
    pub(super) asking: Asking,
    pub(super) epoch: u64,
}

impl Record {
    pub(super) fn s(&self) -> u64 {
        self.asking.asked.s
    }

    pub(super) fn asked_at(&self) -> Boot {
        self.asking.asked.asked_at
    }
}

impl World {
    pub(super) fn new_poll(&mut self, device: u8, shape: u8, client: bool) -> usize {
        let shape = usize::from(self.bounds.reads[usize::from(shape) % self.bounds.reads.len()]) % READS.len();
        let device = usize::from(device) % CREDENTIALS.len();
        let credential = CREDENTIALS[device];
        let reads = self.keys.reads(&scopes(READS[shape]), self.credential(credential), 256).expect("few keys");
        let number = (shape + 8 * credential) as u128 + 16 * u128::from(self.generation.id());
        let route = RouteId(2);
        self.polls.push(Poll {
            device,
            client,
            mask: mask(READS[shape]) | 1 << (GRANTS + credential),
            reads,
            question: Question((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
            member: Some(self.generation.enter(route, &self.ledger)),
            event: None,
            is_right: self.is_right,
            started: self.now,
            acked: self.acked,
            seen: self.seen_by[device],
            owed: [0; LEAVES],
            phase: Phase::New,
            turn: false,
            waited: false,
            abandoned: false,
            ticket: None,
            attempt: None,
            running: None,
            was_lost: false,
            against: None,
        });
        self.polls.len() - 1
    }

    pub(super) fn poll(&mut self, device: u8, shape: u8) -> Found {
        self.seen.polls += 1;
        let poll = self.new_poll(device, shape, true);
        trace!(self, "poll {poll} of device {} reads {:#b}", self.polls[poll].device, self.polls[poll].mask);
        Ok(())
    }

    /// The ledger's word on whether an answer still proves, compared with the reference's.
    pub(super) fn proves(&self, mask: Mask, reads: &Reads, asked: &Asked, asking: &Asking) -> Result<Option<Proof>, String> {
        let proof = self.ledger.prove(reads, asked, Boot(self.boot * TICK), span(self.bounds.age_max));
        let young = self.boot - asking.boot < self.bounds.age_max;
        let expected = asking.is_solid && young && self.reference.is_unchanged(mask, asking.order);
        self.compare("prove", &proof, proof.is_ok(), expected)?;
        Ok(proof.ok())
    }

    /// Rule 10, for what is stored: its versions if it may be replayed.
    pub(super) fn replayable(&mut self, poll: usize) -> Result<Option<(u64, Versions)>, String> {
        let Poll { question, mask, ref reads, ref member, .. } = self.polls[poll];
        if !member.as_ref().is_some_and(Member::is_current) {
            return Ok(None);
        }
        let stored = self.answers.get(&question);
        let proven = match &stored {
            None => None,
            Some(stored) => {
                let asked = Asked { s: stored.s, asked_at: stored.asked_at, solid: Ok(()) };
                let is_kept = |record: &Record| record.epoch == self.epoch || self.is(Fault::RestartKeepsAnswers);
                let is_it = |record: &&Record| {
                    record.question == question && (record.s(), record.asked_at()) == (stored.s, stored.asked_at) && is_kept(record)
                };
                let Some(record) = self.records.iter().find(is_it) else {
                    return Err(format!("an answer that was not stored since the store was emptied: {stored:?}"));
                };
                let proof = self.proves(mask, reads, &asked, &record.asking)?;
                proof.map(|proof| decode(replay::replay(&stored.kept, proof, Duration::ZERO)))
            }
        };
        let newest = self.records.iter().rev().find(|record| record.question == question && record.epoch == self.epoch);
        if let Some(record) = newest
            && self.bounds.roomy
            && self.bounds.compared
            && proven.is_none()
            && record.asking.is_solid
            && self.boot - record.asking.boot < self.bounds.age_max
            && self.reference.is_unchanged(mask, record.asking.order)
        {
            return Err(format!("poll {poll} is not answered by what is stored: {record:?}"));
        }
        Ok(proven)
    }

    pub(super) fn arrive(&mut self, pick: u8) -> Found {
        let Some(poll) = choose(&self.polls, pick, |poll| poll.phase == Phase::New) else { return Ok(()) };
        if let Some((id, versions)) = self.replayable(poll)? {
            trace!(self, "poll {poll} is answered by stored answer {id}: {versions:?}");
            self.seen.replayed += 1;
            self.polls[poll].owed = self.owed;
            let asked = self.records[usize::try_from(id).expect("an index")].asking.tick;
            self.undoubted(poll, asked)?;
            self.strong(poll, &versions)?;
            self.deliver(poll, &versions);
            self.depart(poll, None);
            return Ok(());
        }
        if !self.polls[poll].member.as_ref().is_some_and(Member::is_current) {
            // Goes its own way: neither kept, joined nor answered here.
            self.depart(poll, None);
            return Ok(());
        }
        let mut compared = Ok(());
        let (question, mask) = (self.polls[poll].question, self.polls[poll].mask);
        let runs = |other: &&Poll| other.question == question && other.phase == Phase::Leads && other.running.is_some();
        let asking = self.polls.iter().find(runs).and_then(|running| running.running.clone());
        let mut joins = std::mem::take(&mut self.joins);
        let proves = |running: &Running| {
            let Some(asking) = &asking else {
                compared = Err("asked whether nothing proves".to_owned());
                return false;
            };
            let proof = self.proves(mask, &running.reads, &running.asked(), asking);
            let proves = matches!(proof, Ok(Some(_)));
            compared = proof.map(drop);
            proves || self.is(Fault::JoinsUnproven)
        };
        let arrived = joins.arrive(question, self.bounds.members_max, proves, poll, || poll);
        self.joins = joins;
        compared?;
        trace!(self, "poll {poll} arrives: {arrived:?}");
        let leader = |chair: Chair| self.polls.iter().position(|poll| poll.ticket == Some(chair.group())).expect("its lead");
        match arrived {
            Arrived::Leads(ticket) | Arrived::LeadsNext(ticket) => {
                let turn = matches!(arrived, Arrived::Leads(_));
                let poll = &mut self.polls[poll];
                (poll.ticket, poll.turn, poll.waited, poll.phase) = (Some(ticket), turn, !turn, Phase::Leads);
            }
            Arrived::Shares(chair) => self.polls[poll].phase = Phase::Shares(leader(chair), chair),
            Arrived::Joins(chair) => {
                let lead = leader(chair);
                (self.polls[poll].phase, self.polls[poll].owed) = (Phase::Joined(lead, chair), self.owed);
                self.undoubted(poll, asking.as_ref().map_or(0, |asking| asking.tick))?;
            }
            Arrived::Full => self.depart(poll, None),
        }
        Ok(())
    }

    /// A lead that has its turn: asks rule 10 again if it waited, then the ledger (rule 7), immediately before its first byte.
    pub(super) fn ask(&mut self, pick: u8, choice: u8) -> Found {
        let may = |poll: &Poll| poll.phase == Phase::Leads && poll.turn && poll.attempt.as_ref().is_none_or(|asking| !asking.sent);
        let Some(poll) = choose(&self.polls, pick, may) else { return Ok(()) };
        if self.polls[poll].abandoned && choice.is_multiple_of(2) {
            trace!(self, "poll {poll} gives up");
            return self.end_poll(poll, None);
        }
        if self.polls[poll].attempt.is_some() {
            return Ok(());
        }
        let is_again = self.polls[poll].waited && self.polls[poll].against.is_none() && !self.polls[poll].was_lost;
        if is_again && let Some((id, versions)) = self.replayable(poll)? {
            trace!(self, "poll {poll} waited and is answered by stored answer {id}: {versions:?}");
            self.seen.settled += 1;
            let asked = self.records[usize::try_from(id).expect("an index")].asking.tick;
            return self.settle(poll, &versions, asked);
        }
        self.put(poll)?;
        let Poll { question, ticket, ref reads, ref attempt, ref member, .. } = self.polls[poll];
        let asked = attempt.as_ref().expect("just asked").asked;
        let solid = (asked.solid.is_ok() || self.is(Fault::JoinsNotSolid)) && member.as_ref().is_some_and(Member::is_current);
        let running = Running { reads: reads.clone(), s: asked.s, asked_at: asked.asked_at, solid };
        if !self.joins.sent(question, ticket.expect("a lead has one"), running) {
            return Err(format!("poll {poll} has its turn and may not be sent"));
        }
        self.polls[poll].running = self.polls[poll].attempt.clone();
        Ok(())
    }

    /// Rule 7.
    pub(super) fn put(&mut self, poll: usize) -> Found {
        let order = self.order();
        let Poll { ref reads, mask, .. } = self.polls[poll];
        let mut asked = self.ledger.ask(reads, moment(self.now), Boot(self.boot * TICK));
        if self.is(Fault::OnlyFirstDocument) {
            let first = Reads { everything: false, keys: reads.keys[..1].into() };
            asked = self.ledger.ask(&first, moment(self.now), Boot(self.boot * TICK));
        }
        let is_solid = self.reference.is_solid(mask, self.now);
        self.compare("ask", &asked, asked.solid.is_ok(), is_solid)?;
        trace!(self, "poll {poll} asks: {asked:?}");
        let asking = Asking { asked, order, tick: self.now, boot: self.boot, is_solid, sent: false, shown: [None; LEAVES] };
        self.polls[poll].attempt = Some(asking);
        Ok(())
    }

    pub(super) fn first_byte(&mut self, pick: u8) -> Found {
        let unsent = |poll: &Poll| poll.phase == Phase::Leads && poll.turn && poll.attempt.as_ref().is_some_and(|asking| !asking.sent);
        if let Some(poll) = choose(&self.polls, pick, unsent) {
            self.polls[poll].attempt.as_mut().expect("chosen").sent = true;
        }
        Ok(())
    }

    pub(super) fn runs(poll: &Poll) -> bool {
        poll.phase == Phase::Leads && poll.attempt.as_ref().is_some_and(|asking| asking.sent)
    }

    pub(super) fn lag(&self) -> u64 {
        if self.is(Fault::LagsTooLong) { self.bounds.settle + 3 } else { self.bounds.lag }
    }

    /// The app reads a document for a poll.
    pub(super) fn read(&mut self, pick: u8, leaf: u8, version: u8) -> Found {
        let Some(poll) = choose(&self.polls, pick, Self::runs) else { return Ok(()) };
        let leaf = usize::from(leaf) % LEAVES;
        let shown = self.app.show(leaf, self.now, self.lag(), version);
        let asking = self.polls[poll].attempt.as_mut().expect("it runs");
        if asking.shown[leaf].is_none() {
            asking.shown[leaf] = Some(shown);
            trace!(self, "the app reads document {leaf} for poll {poll}: version {shown}");
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, pick: u8, how: u8, version: u8) -> Found {
        let Some(poll) = choose(&self.polls, pick, Self::runs) else { return Ok(()) };
        match how % 32 {
            0 => {
                trace!(self, "the connection of poll {poll} breaks, and it is sent again");
                (self.polls[poll].attempt, self.polls[poll].was_lost) = (None, true);
                Ok(())
            }
            1 => {
                trace!(self, "poll {poll} fails");
                self.polls[poll].was_lost = true;
                self.end_poll(poll, None)
            }
            2 => self.deny(poll),
            _ => {
                let mut versions = [0; LEAVES];
                let asking = self.polls[poll].attempt.clone().expect("it runs");
                for leaf in leaves(self.polls[poll].mask) {
                    versions[leaf] = asking.shown[leaf].unwrap_or_else(|| self.app.show(leaf, self.now, self.lag(), version));
                }
                self.answered(poll, asking, versions)
            }
        }
    }

    /// What was granted to a credential is no more, which the app tells with its answer (rule 12).
    pub(super) fn deny(&mut self, poll: usize) -> Found {
        let credential = CREDENTIALS[self.polls[poll].device];
        let leaf = GRANTS + credential;
        self.app.write(leaf, self.now);
        trace!(self, "poll {poll} is denied");
        let touched = Touched::one(self.credential(credential));
        if !self.is(Fault::NoticeAfterAnswer) {
            self.notice(&touched, 1 << leaf);
        }
        self.owed[leaf] = self.app.version(leaf);
        self.end_poll(poll, None)
    }

    pub(super) fn notice(&mut self, touched: &Touched, mask: Mask) {
        let quiet = self.quiet(true);
        self.ledger.notice(touched, moment(quiet), Cause::NOTICE);
        let order = self.order();
        self.reference.notice(mask, order, quiet);
    }

    /// A complete answer of the app: kept (rule 8), judged if it is a refresh (rule 18), and given to all who share it.
    pub(super) fn answered(&mut self, poll: usize, mut asking: Asking, versions: Versions) -> Found {
        if self.is(Fault::SequenceAtAnswer) {
            asking.asked.s = self.ledger.view(moment(self.now)).seq;
        }
        trace!(self, "the app answers poll {poll}: {versions:?}");
        let Poll { question, mask, ref reads, against, ref member, .. } = self.polls[poll];
        if let Some(against) = against {
            let record = &self.records[usize::try_from(against).expect("an index")];
            let unchanged = self.ledger.unchanged(reads, record.asking.asked.s) || self.is(Fault::JudgesWithoutLedger);
            self.compare("judge", &unchanged, unchanged, self.reference.is_unchanged(mask, record.asking.order))?;
            if unchanged && record.versions != versions && self.is_promised(poll) && !self.bounds.hidden && !self.bounds.pending {
                return Err(format!("poll {poll} seems to show a change without a write"));
            }
        }
        let solid = asking.asked.solid.is_ok() || self.is(Fault::KeepsNotSolid);
        if solid && member.as_ref().is_some_and(Member::is_current) {
            let id = self.records.len() as u64;
            self.records.push(Record { question, versions, asking: asking.clone(), epoch: self.epoch });
            self.answers.put(question, encode(id, &versions, reads, &asking.asked));
        }
        self.end_poll(poll, Some((versions, asking.tick)))
    }

    /// A lead was answered from the store, and with it those who share it.
    pub(super) fn settle(&mut self, lead: usize, versions: &Versions, asked: u64) -> Found {
        for poll in self.over(lead)? {
            self.polls[poll].owed = self.owed;
            self.undoubted(poll, asked)?;
            self.strong(poll, versions)?;
            self.deliver(poll, versions);
            self.depart(poll, None);
        }
        self.polls[lead].owed = self.owed;
        if self.polls[lead].client {
            self.undoubted(lead, asked)?;
            self.strong(lead, versions)?;
            self.deliver(lead, versions);
        }
        self.depart(lead, None);
        Ok(())
    }

    /// A lead ended with what the app said, or with nothing that concerns documents.
    pub(super) fn end_poll(&mut self, lead: usize, met: Option<(Versions, u64)>) -> Found {
        for poll in self.over(lead)? {
            if let Some((versions, _)) = &met {
                if matches!(self.polls[poll].phase, Phase::Joined(..)) {
                    self.seen.joined += 1;
                    self.strong(poll, versions)?;
                } else {
                    self.seen.shared += 1;
                    self.fresh(poll, versions)?;
                }
                self.deliver(poll, versions);
            }
            self.depart(poll, None);
        }
        if let Some((versions, _)) = &met
            && self.polls[lead].client
        {
            self.seen.own += 1;
            self.fresh(lead, versions)?;
            self.deliver(lead, versions);
        }
        let sent = self.polls[lead].attempt.as_ref().is_some_and(|asking| asking.sent) || self.polls[lead].was_lost;
        self.depart(lead, sent.then_some(met.is_some() && !self.polls[lead].was_lost));
        Ok(())
    }

    /// The group of a lead is over; those who shared it.
    pub(super) fn over(&mut self, lead: usize) -> Result<Vec<usize>, String> {
        let Poll { question, ticket, .. } = self.polls[lead];
        let ended = self.joins.end(question, ticket.expect("a lead has one"));
        let shares = |poll: &Poll| matches!(poll.phase, Phase::Shares(of, _) | Phase::Joined(of, _) if of == lead);
        let expected: Vec<usize> = (0..self.polls.len()).filter(|poll| shares(&self.polls[*poll])).collect();
        let mut members = ended.members;
        members.sort_unstable();
        if members != expected {
            return Err(format!("lead {lead} has the members {members:?}, not {expected:?}"));
        }
        if let Some(next) = ended.turn {
            trace!(self, "poll {next} has its turn");
            self.polls[next].turn = true;
        }
        Ok(members)
    }

    pub(super) fn deliver(&mut self, poll: usize, versions: &Versions) {
        raise(&mut self.seen_by[self.polls[poll].device], versions);
    }

    /// A poll is over: nothing of it was sent, or it ended known, or not.
    pub(super) fn depart(&mut self, poll: usize, known: Option<bool>) {
        self.polls[poll].phase = Phase::Done;
        let (member, event) = (self.polls[poll].member.take(), self.polls[poll].event.take());
        self.end_member(member, event, known);
    }

    pub(super) fn end_member(&mut self, member: Option<Member>, event: Option<usize>, known: Option<bool>) {
        let quiet = self.quiet(known == Some(true));
        if let Some(mut member) = member {
            member.ends(match known {
                None => End::Unsent,
                Some(true) => End::Known(moment(quiet)),
                Some(false) => End::Unknown(moment(quiet)),
            });
        }
        match (event, known) {
            (None, _) => {}
            (Some(event), None) => self.reference.unsent(event),
            (Some(event), Some(_)) => self.reference.end(event, quiet),
        }
    }

    /// A client leaves.
    pub(super) fn leave(&mut self, pick: u8) -> Found {
        let Some(poll) = choose(&self.polls, pick, |poll| poll.phase != Phase::Done && poll.client) else { return Ok(()) };
        trace!(self, "the client of poll {poll} leaves");
        self.polls[poll].client = false;
        let question = self.polls[poll].question;
        let abandoned = match self.polls[poll].phase {
            Phase::Leads => self.joins.client_left(question, self.polls[poll].ticket.expect("a lead has one")),
            Phase::Shares(_, chair) | Phase::Joined(_, chair) => {
                let abandoned = self.joins.leave(question, chair);
                self.depart(poll, None);
                abandoned
            }
            Phase::New | Phase::Done => {
                self.depart(poll, None);
                None
            }
        };
        if let Some(lead) = abandoned {
            trace!(self, "poll {lead} is abandoned");
            self.polls[lead].abandoned = true;
            if !self.polls[lead].turn {
                return self.end_poll(lead, None);
            }
        }
        Ok(())
    }

    /// A call breaks off.
    pub(super) fn break_off(&mut self, pick: u8) -> Found {
        let Some(poll) = choose(&self.polls, pick, |poll| poll.phase == Phase::Leads) else { return Ok(()) };
        trace!(self, "the call of poll {poll} breaks off");
        self.polls[poll].was_lost |= self.polls[poll].attempt.is_some();
        self.end_poll(poll, None)
    }

    /// Rule 19.
    pub(super) fn refresh(&mut self, device: u8, shape: u8) -> Found {
        let poll = self.new_poll(device, shape, false);
        let replayable = self.replayable(poll)?;
        let question = self.polls[poll].question;
        if let Some((id, _)) = replayable
            && let Some(ticket) = self.joins.refresh(question, poll)
        {
            trace!(self, "poll {poll} refreshes answer {id}");
            self.seen.refreshed += 1;
            let poll = &mut self.polls[poll];
            (poll.ticket, poll.turn, poll.phase, poll.against) = (Some(ticket), true, Phase::Leads, Some(id));
        } else {
            self.depart(poll, None);
        }
        Ok(())
    }
}
