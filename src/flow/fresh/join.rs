//! Who asks the same question: at most one asks the app, and one waits, whatever the ledger says (`FRESH` rules 10, 11 and 19).
//!
//! Those who share one answer are a *group*: its *lead*, whose call goes to the gate and to the app, and its *members*, who wait for what
//! the lead meets. Of a question there are at most two groups:
//!
//! * `next` has not been sent. Whoever comes becomes its member: a poll that is sent after the last of those who share it came shows what
//!   the app shows. It is *held* while there is a `first`; then it has its *turn* and goes through the gate.
//! * `first` has been sent. Whoever comes becomes its member only if it was solid and proves; its other members came before it was sent.
//!
//! ```text
//!  arrive            first ended            sent (before the first byte)           ended
//!  ──────► next, held ──────► next, its turn ──────────► first, running ───────────────► gone, the next has its turn
//!                                   │ abandoned                 ▲ sent all the same           ▲
//!                                   ▼                           │                             │
//!                            first, not sent ───────────────────┴──── its lead gave up ───────┘
//! ```
//!
//! A lead whose client has left goes on as long as its group has members. If it has none and was not sent, it is *abandoned*: told to give
//! up its place. From then on nobody becomes its member; and since it may be about to send at this very moment, it stands as `first` until
//! it has given up, so that there are never two at the app. A refresh begins as such a `first`: it waits for nobody, and until it is sent
//! nobody can know what it proves.
//!
//! A [`Ticket`] names a group for ever: a call that comes too late finds nobody, and does nothing.

pub mod shell;

use std::collections::HashMap;

use super::{ledger::Reads, question::Question};
use crate::clock::Boot;

/// What is known of a poll that runs at the app (rule 7).
#[derive(Clone, Debug)]
pub struct Running {
    /// What it reads.
    pub reads: Reads,
    /// The number of the last write when it was sent.
    pub s: u64,
    /// When it was sent.
    pub asked_at: Boot,
    /// Whether no document of it was being written, or in doubt, when it was sent.
    pub solid: bool,
}

/// Names a group; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Names a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Chair {
    group: Ticket,
    number: u64,
}

/// What became of a poll that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// It leads the next group, and has its turn.
    Leads(Ticket),
    /// It leads the next group, which is held until the one that runs has ended.
    LeadsNext(Ticket),
    /// It shares the next poll, which has not been sent.
    Shares(Chair),
    /// It shares the poll that runs, which was solid and proves.
    Joins(Chair),
    /// So many share already that it may not.
    Full,
}

/// What is to be done when a lead has ended.
#[derive(Debug)]
pub struct Ended<L, M> {
    /// Who gets what it met, in the order of their coming.
    pub members: Vec<M>,
    /// The lead whose turn it now is.
    pub turn: Option<L>,
}

/// How many run and wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Groups that run at the app; with them leads that are about to give up, and refreshes about to be sent.
    pub running: usize,
    /// Groups that have not been sent.
    pub waiting: usize,
    /// Those who share, leads not counted.
    pub members: usize,
}

/// Who asks the same, and who waits for whom. `L` is how a lead is told, `M` how a member is.
#[derive(Debug)]
pub struct Joins<L, M> {
    /// Exactly the questions of which somebody runs or waits.
    entries: HashMap<Question, Entry<L, M>, foldhash::fast::RandomState>,
    /// The number that the next group or member gets.
    number: u64,
}

#[derive(Debug)]
struct Entry<L, M> {
    first: Option<Group<L, M>>,
    next: Option<Group<L, M>>,
}

#[derive(Debug)]
struct Group<L, M> {
    ticket: Ticket,
    lead: L,
    /// Whether the lead's own client waits for it.
    client: bool,
    /// In the order of their coming, which is that of their numbers.
    members: Vec<(u64, M)>,
    /// What is known of it since it was sent.
    running: Option<Running>,
}

impl<L, M> Group<L, M> {
    fn new(ticket: Ticket, lead: L, client: bool) -> Self {
        Self { ticket, lead, client, members: Vec::new(), running: None }
    }

    fn seat(&mut self, number: u64, member: M) -> Chair {
        self.members.push((number, member));
        Chair { group: self.ticket, number }
    }
}

impl<L, M> Entry<L, M> {
    fn groups(&self) -> impl Iterator<Item = &Group<L, M>> {
        self.first.iter().chain(&self.next)
    }

    fn find(&mut self, ticket: Ticket) -> Option<&mut Group<L, M>> {
        self.first.iter_mut().chain(&mut self.next).find(|group| group.ticket == ticket)
    }

    fn members(&self) -> usize {
        self.groups().map(|group| group.members.len()).sum()
    }
}

impl<L, M> Default for Joins<L, M> {
    fn default() -> Self {
        Self { entries: HashMap::default(), number: 0 }
    }
}

impl<L: Clone, M> Joins<L, M> {
    /// A poll arrives that may share. At most `members_max` share one question, the leads not counted. `proves` is asked of a solid poll
    /// that runs: whether rule 9 holds of it now. `lead` is kept if it leads, `member` made if it shares.
    pub fn arrive(
        &mut self,
        question: Question,
        members_max: usize,
        proves: impl FnOnce(&Running) -> bool,
        lead: L,
        member: impl FnOnce() -> M,
    ) -> Arrived {
        let number = self.number;
        let Some(entry) = self.entries.get_mut(&question) else {
            let next = Some(Group::new(Ticket(number), lead, true));
            self.entries.insert(question, Entry { first: None, next });
            self.number += 1;
            return Arrived::Leads(Ticket(number));
        };
        let full = entry.members() >= members_max;
        let joinable = entry.first.as_mut().filter(|first| first.running.as_ref().is_some_and(|running| running.solid && proves(running)));
        self.number += 1;
        match (joinable, &mut entry.next) {
            (Some(_), _) | (None, Some(_)) if full => Arrived::Full,
            (Some(first), _) => Arrived::Joins(first.seat(number, member())),
            (None, Some(next)) => Arrived::Shares(next.seat(number, member())),
            (None, none) => {
                *none = Some(Group::new(Ticket(number), lead, true));
                Arrived::LeadsNext(Ticket(number))
            }
        }
    }

    /// A question is to be asked again in the background (rule 19): `None` if somebody runs or waits for it already. Its lead has its turn.
    pub fn refresh(&mut self, question: Question, lead: L) -> Option<Ticket> {
        if self.entries.contains_key(&question) {
            return None;
        }
        let ticket = Ticket(self.number);
        self.number += 1;
        self.entries.insert(question, Entry { first: Some(Group::new(ticket, lead, false)), next: None });
        Some(ticket)
    }

    /// The lead is about to send the first byte of an attempt. The second attempt's `running` replaces the first's: whoever joined the
    /// first came before the second. False if it may not, as it has ended or has not had its turn.
    #[must_use]
    pub fn sent(&mut self, question: Question, ticket: Ticket, running: Running) -> bool {
        let Some(entry) = self.entries.get_mut(&question) else { return false };
        if entry.first.is_none() {
            entry.first = entry.next.take_if(|next| next.ticket == ticket);
        }
        let Some(first) = entry.first.as_mut().filter(|first| first.ticket == ticket) else { return false };
        first.running = Some(running);
        true
    }

    /// The lead has met something, at the app or before it came there, or nothing at all: its group is no more.
    pub fn end(&mut self, question: Question, ticket: Ticket) -> Ended<L, M> {
        let mut ended = Ended { members: Vec::new(), turn: None };
        let Some(entry) = self.entries.get_mut(&question) else { return ended };
        let group = if let Some(first) = entry.first.take_if(|first| first.ticket == ticket) {
            ended.turn = entry.next.as_ref().map(|next| next.lead.clone());
            Some(first)
        } else {
            entry.next.take_if(|next| next.ticket == ticket)
        };
        ended.members = group.into_iter().flat_map(|group| group.members).map(|(_, member)| member).collect();
        if entry.groups().next().is_none() {
            self.entries.remove(&question);
        }
        ended
    }

    /// The lead's own client has left. The lead is returned if it is abandoned by that.
    #[must_use]
    pub fn client_left(&mut self, question: Question, ticket: Ticket) -> Option<L> {
        self.entries.get_mut(&question)?.find(ticket)?.client = false;
        self.abandon(question, ticket)
    }

    /// A member has left. Its lead is returned if it is abandoned by that.
    #[must_use]
    pub fn leave(&mut self, question: Question, chair: Chair) -> Option<L> {
        let group = self.entries.get_mut(&question)?.find(chair.group)?;
        let place = group.members.binary_search_by_key(&chair.number, |(number, _)| *number).ok()?;
        group.members.remove(place);
        self.abandon(question, chair.group)
    }

    /// Tells the lead of a group that was not sent, and for which nobody waits any more.
    fn abandon(&mut self, question: Question, ticket: Ticket) -> Option<L> {
        let entry = self.entries.get_mut(&question)?;
        let group = entry.next.take_if(|next| next.ticket == ticket && !next.client && next.members.is_empty())?;
        let lead = group.lead.clone();
        // A held one has sent nothing, and never will; one that has its turn may be about to.
        if entry.first.is_none() {
            entry.first = Some(group);
        }
        Some(lead)
    }

    /// How many share with this lead.
    #[must_use]
    pub fn members(&self, question: Question, ticket: Ticket) -> usize {
        self.group(question, ticket).map_or(0, |group| group.members.len())
    }

    /// Whether this lead was sent and has not ended.
    #[must_use]
    pub fn runs(&self, question: Question, ticket: Ticket) -> bool {
        self.group(question, ticket).is_some_and(|group| group.running.is_some())
    }

    fn group(&self, question: Question, ticket: Ticket) -> Option<&Group<L, M>> {
        self.entries.get(&question)?.groups().find(|group| group.ticket == ticket)
    }

    /// How many run and wait.
    #[must_use]
    pub fn view(&self) -> View {
        self.entries.values().fold(View::default(), |view, entry| View {
            running: view.running + usize::from(entry.first.is_some()),
            waiting: view.waiting + usize::from(entry.next.is_some()),
            members: view.members + entry.members(),
        })
    }

    /// What always holds.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        for entry in self.entries.values() {
            assert!(entry.groups().next().is_some(), "an entry without a group");
            for group in entry.groups() {
                assert!(group.ticket.0 < self.number, "a ticket that was never given");
                assert!(group.members.is_sorted_by_key(|(number, _)| *number), "members out of order");
                assert!(group.members.last().is_none_or(|(number, _)| *number < self.number), "a chair that was never given");
            }
            if let Some(first) = &entry.first {
                assert!(first.running.is_some() || first.members.is_empty(), "members of a lead that gives up, or of a refresh not sent");
            }
            if let Some(next) = &entry.next {
                assert!(next.running.is_none(), "the next one runs");
                assert!(next.client || !next.members.is_empty(), "nobody waits for it, and its lead was not told");
                assert!(entry.first.as_ref().is_none_or(|first| first.ticket < next.ticket), "the next one came first");
            }
        }
    }
}
