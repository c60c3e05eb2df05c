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

use super::{
    keys::Reads,
    ledger::{Asked, NotSolid},
    question::Question,
};
use crate::clock::Boot;

/// What is known of a poll that runs at the app (rule 7).
#[derive(Clone, Debug)]
pub struct Running {
    /// What its answer depends on.
    pub reads: Reads,
    /// The number of the last write when it was sent.
    pub s: u64,
    /// When it was sent.
    pub asked_at: Boot,
    /// Whether no document of it was being written, or in doubt, when it was sent.
    pub solid: bool,
}

impl Running {
    /// The same for the ledger, which says whether it proves.
    #[must_use]
    pub fn asked(&self) -> Asked {
        // Why it is not solid does not matter here: it proves nothing.
        let solid = if self.solid { Ok(()) } else { Err(NotSolid::Writer) };
        Asked { s: self.s, asked_at: self.asked_at, solid }
    }
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

impl Chair {
    /// The group that it is a member of.
    #[must_use]
    pub fn group(self) -> Ticket {
        self.group
    }
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
#[cfg_attr(test, derive(Clone))]
pub struct Joins<L, M> {
    /// Exactly the questions of which somebody runs or waits.
    entries: HashMap<Question, Entry<L, M>, foldhash::fast::RandomState>,
    /// The number that the next group or member gets.
    number: u64,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Entry<L, M> {
    first: Option<Group<L, M>>,
    next: Option<Group<L, M>>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that ever happened, and what must follow from it.
    #[derive(Clone, Default)]
    struct World {
        joins: Joins<usize, usize>,
        leads: Vec<Lead>,
        members: Vec<Member>,
        members_max: usize,
        done: Vec<String>,
    }

    #[derive(Clone, Debug)]
    #[expect(clippy::struct_excessive_bools, reason = "what happened to it, one fact each")]
    struct Lead {
        question: Question,
        ticket: Ticket,
        client: bool,
        refresh: bool,
        turn: bool,
        /// Whether it was solid when it was last sent.
        sent: Option<bool>,
        abandoned: bool,
        ended: bool,
    }

    #[derive(Clone, Debug)]
    struct Member {
        lead: usize,
        chair: Chair,
        deliveries: usize,
        left: bool,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Arrive { question: u128, proves: bool },
        Refresh { question: u128 },
        Sent { lead: usize, solid: bool },
        End { lead: usize },
        ClientLeft { lead: usize },
        Leave { member: usize },
    }

    fn running(solid: bool) -> Running {
        Running { reads: Reads::default(), s: 0, asked_at: Boot(0), solid }
    }

    impl Lead {
        /// Whether it may yet do something at the app.
        fn stands(&self) -> bool {
            !self.ended && (self.turn || !self.abandoned)
        }

        /// Whether whoever comes shares it.
        fn waits(&self) -> bool {
            !self.ended && !self.abandoned && !self.refresh && self.sent.is_none()
        }
    }

    impl World {
        fn new(members_max: usize) -> Self {
            Self { members_max, ..Self::default() }
        }

        fn waiting_members(&self, lead: usize) -> Vec<usize> {
            let there =
                |(index, member): (usize, &Member)| (member.lead == lead && member.deliveries == 0 && !member.left).then_some(index);
            self.members.iter().enumerate().filter_map(there).collect()
        }

        fn of(&self, question: Question) -> impl Iterator<Item = (usize, &Lead)> {
            self.leads.iter().enumerate().filter(move |(_, lead)| lead.question == question)
        }

        fn step(&mut self, step: Step) {
            self.done.push(format!("{step:?}"));
            match step {
                Step::Arrive { question, proves } => self.arrive(Question(question), proves),
                Step::Refresh { question } => self.refresh(Question(question)),
                Step::Sent { lead, solid } => self.sent(lead, solid),
                Step::End { lead } => self.end(lead),
                Step::ClientLeft { lead } => {
                    let Lead { question, ticket, .. } = self.leads[lead];
                    let told = self.joins.client_left(question, ticket);
                    self.leads[lead].client = false;
                    self.told(lead, told);
                }
                Step::Leave { member } => {
                    let Member { lead, chair, .. } = self.members[member];
                    let told = self.joins.leave(self.leads[lead].question, chair);
                    self.members[member].left |= self.members[member].deliveries == 0;
                    self.told(lead, told);
                }
            }
            self.joins.check();
            self.check();
        }

        fn arrive(&mut self, question: Question, proves: bool) {
            let runs = self.of(question).find(|(_, lead)| !lead.ended && lead.sent.is_some()).map(|(index, lead)| (index, lead.sent));
            let waits = self.of(question).find(|(_, lead)| lead.waits()).map(|(index, _)| index);
            let stands = self.of(question).any(|(_, lead)| lead.stands());
            let sharing = (0..self.leads.len())
                .filter(|lead| self.leads[*lead].question == question)
                .map(|lead| self.waiting_members(lead).len())
                .sum::<usize>();
            let asked = |running: &Running| {
                assert!(running.solid && runs.is_some_and(|(_, sent)| sent == Some(true)), "only a solid one is asked what it proves");
                proves
            };
            let (lead, member) = (self.leads.len(), self.members.len());
            let arrived = self.joins.arrive(question, self.members_max, asked, lead, || member);
            let joins = runs.filter(|(_, sent)| *sent == Some(true) && proves).map(|(index, _)| index);
            match arrived {
                Arrived::Joins(chair) => {
                    let lead = joins.expect("joined what it may not join");
                    assert_eq!(chair.group, self.leads[lead].ticket);
                    self.members.push(Member { lead, chair, deliveries: 0, left: false });
                }
                Arrived::Shares(chair) => {
                    assert_eq!(joins, None, "may join, but waits");
                    let lead = waits.expect("shares what does not wait");
                    assert_eq!(chair.group, self.leads[lead].ticket);
                    self.members.push(Member { lead, chair, deliveries: 0, left: false });
                }
                Arrived::Leads(ticket) | Arrived::LeadsNext(ticket) => {
                    assert_eq!((joins, waits), (None, None), "leads although it may share");
                    let turn = matches!(arrived, Arrived::Leads(_));
                    assert_eq!(turn, !stands, "held exactly while another one stands");
                    self.leads.push(Lead {
                        question,
                        ticket,
                        client: true,
                        refresh: false,
                        turn,
                        sent: None,
                        abandoned: false,
                        ended: false,
                    });
                }
                Arrived::Full => {
                    assert!(joins.or(waits).is_some() && sharing >= self.members_max, "refused without need");
                }
            }
            assert!(sharing <= self.members_max);
        }

        fn refresh(&mut self, question: Question) {
            let free = !self.of(question).any(|(_, lead)| lead.stands());
            let ticket = self.joins.refresh(question, self.leads.len());
            assert_eq!(ticket.is_some(), free, "refreshed exactly when nobody stands");
            let lead =
                |ticket| Lead { question, ticket, client: false, refresh: true, turn: true, sent: None, abandoned: false, ended: false };
            self.leads.extend(ticket.map(lead));
        }

        fn sent(&mut self, lead: usize, solid: bool) {
            let Lead { question, ticket, turn, ended, .. } = self.leads[lead];
            let sent = self.joins.sent(question, ticket, running(solid));
            assert_eq!(sent, turn && !ended, "sent exactly when it has its turn");
            if sent {
                self.leads[lead].sent = Some(solid);
            }
        }

        fn end(&mut self, lead: usize) {
            let Lead { question, ticket, turn, ended, .. } = self.leads[lead];
            let members = self.waiting_members(lead);
            let next = self.of(question).find(|(index, other)| *index != lead && other.waits()).map(|(index, _)| index);
            let told = self.joins.end(question, ticket);
            assert_eq!(told.members, members, "exactly those who wait for it, in their order");
            assert_eq!(told.turn, next.filter(|_| turn && !ended), "whoever was held has its turn");
            self.leads[lead].ended = true;
            for member in members {
                self.members[member].deliveries += 1;
            }
            if let Some(next) = told.turn {
                assert!(!self.leads[next].turn);
                self.leads[next].turn = true;
            }
        }

        fn told(&mut self, lead: usize, told: Option<usize>) {
            let abandoned = self.leads[lead].waits() && !self.leads[lead].client && self.waiting_members(lead).is_empty();
            assert_eq!(told, abandoned.then_some(lead), "told exactly when nobody waits for it");
            self.leads[lead].abandoned |= abandoned;
        }

        fn check(&self) {
            let mut view = View::default();
            let questions: std::collections::BTreeSet<Question> = self.leads.iter().map(|lead| lead.question).collect();
            for question in questions {
                let runs = self.of(question).filter(|(_, lead)| !lead.ended && lead.sent.is_some()).count();
                let turns = self.of(question).filter(|(_, lead)| lead.turn && lead.stands()).count();
                let waits = self.of(question).filter(|(_, lead)| lead.waits()).count();
                let stands = self.of(question).filter(|(_, lead)| lead.stands()).count();
                assert!(runs <= 1 && waits <= 1 && turns <= 1, "{runs} run, {waits} wait, {turns} have their turn");
                assert!(stands == 0 || turns == 1, "stuck: nobody has its turn");
                view.waiting += waits;
                view.running += stands - waits;
            }
            view.members = self.members.iter().filter(|member| member.deliveries == 0 && !member.left).count();
            assert_eq!(self.joins.view(), view);
            for member in &self.members {
                assert!(member.deliveries + usize::from(member.left) <= 1, "told twice");
                assert!(!self.leads[member.lead].ended || member.deliveries + usize::from(member.left) == 1, "never told");
            }
        }

        /// Everybody who can still do something gives up.
        fn drain(&mut self) {
            for lead in 0..self.leads.len() {
                self.step(Step::End { lead });
            }
            assert!(self.joins.entries.is_empty(), "memory of what is no more");
        }

        /// Forgets what can do nothing any more, so that a long run stays fast.
        fn forget(&mut self) {
            let first = self.leads.iter().position(|lead| !lead.ended).unwrap_or(self.leads.len());
            assert!(first == self.leads.len() && self.joins.entries.is_empty());
            (self.leads, self.members, self.done) = Default::default();
        }
    }

    #[test]
    fn in_a_million_random_steps_nobody_is_stuck_told_twice_or_given_an_older_answer() {
        for seed in 0..2_500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut world = World::new(random.usize(0..4));
            let questions = random.u128(1..3);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..random.usize(1..10) {
                    for _ in 0..random.usize(1..160) {
                        let (leads, members) = (world.leads.len(), world.members.len());
                        // Mostly the young ones, who still do something.
                        let mut late =
                            |count: usize| count - 1 - random.usize(0..count).min(random.usize(0..count)).min(random.usize(0..count));
                        let (lead, member) = ((leads > 0).then(|| late(leads)), (members > 0).then(|| late(members)));
                        let question = random.u128(0..questions);
                        let step = match (random.u32(0..12), lead, member) {
                            (0..=1, Some(lead), _) => Step::End { lead },
                            (2..=3, Some(lead), _) => Step::Sent { lead, solid: random.u8(0..4) > 0 },
                            (4, Some(lead), _) => Step::ClientLeft { lead },
                            (5..=6, _, Some(member)) => Step::Leave { member },
                            (7, ..) => Step::Refresh { question },
                            _ => Step::Arrive { question, proves: random.bool() },
                        };
                        world.step(step);
                    }
                    world.drain();
                    world.forget();
                }
            }));
            assert!(outcome.is_ok(), "seed {seed}: {}", world.done.join("\n"));
        }
    }

    #[test]
    fn every_history_of_six_steps_keeps_the_rules() {
        fn explore(world: &World, depth: usize, seen: &mut usize) {
            *seen += 1;
            if depth == 0 {
                world.clone().drain();
                return;
            }
            let leads = (0..world.leads.len()).flat_map(|lead| {
                [Step::Sent { lead, solid: true }, Step::Sent { lead, solid: false }, Step::End { lead }, Step::ClientLeft { lead }]
            });
            let members = (0..world.members.len()).map(|member| Step::Leave { member });
            let others =
                [Step::Arrive { question: 0, proves: true }, Step::Arrive { question: 0, proves: false }, Step::Refresh { question: 0 }];
            for step in others.into_iter().chain(leads).chain(members) {
                let mut next = world.clone();
                next.step(step);
                explore(&next, depth - 1, seen);
            }
        }
        let mut seen = 0;
        explore(&World::new(1), 6, &mut seen);
        println!("{seen} histories");
        assert!(seen > 100_000);
    }
}
