//! The polls that share an answer, as calls meet them: a short lock around some of the questions, a channel for each member, a bell for
//! each lead. Nothing is delivered, rung or awaited under a lock.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{Arrived, Chair, Ended, Ticket};
pub use super::{Running, View};
use crate::flow::fresh::question::Question;

/// How many locks the questions are spread over.
const STRIPES: usize = 64;

/// The questions of one lock.
type Stripe<D> = super::Joins<Arc<Bell>, oneshot::Sender<D>>;

/// Who asks the same question at this moment, and who waits for whom; `D` is what those who share are given.
pub struct Joins<D> {
    stripes: Box<[Mutex<Stripe<D>>]>,
}

/// Where a poll that arrived finds itself.
#[derive(Debug)]
pub enum Place<D> {
    /// It asks the app, for itself and for those who come to share.
    Lead(Lead<D>),
    /// It waits for what another one meets.
    Member(Member<D>, Shared),
    /// So many share this question already that it may not.
    Full,
}

/// What a member shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// A poll that runs at the app (rule 10).
    Joined,
    /// A poll that had not been sent when this one came (rule 11).
    Waits,
}

/// A call that asks for a group. Its clones are one lead, for the parts of a call; when the last is dropped and nothing was delivered, the
/// members are given nothing, and the next lead has its turn.
pub struct Lead<D>(Arc<Call<D>>);

struct Call<D> {
    joins: Arc<Joins<D>>,
    question: Question,
    ticket: Ticket,
    bell: Arc<Bell>,
}

/// Waits for what a lead meets; leaves when it is dropped.
pub struct Member<D> {
    joins: Arc<Joins<D>>,
    question: Question,
    chair: Chair,
    /// `None` when it has been told.
    told: Option<oneshot::Receiver<D>>,
}

/// How a lead is told.
#[derive(Debug, Default)]
struct Bell {
    turn: AtomicBool,
    abandoned: AtomicBool,
    rung: Notify,
}

impl Bell {
    fn ring(&self, why: &AtomicBool) {
        why.store(true, Ordering::Release);
        self.rung.notify_waiters();
    }

    async fn heard(&self, why: &AtomicBool) {
        loop {
            // Made before the look, it hears what is rung after it.
            let rung = self.rung.notified();
            if why.load(Ordering::Acquire) {
                return;
            }
            rung.await;
        }
    }
}

impl<D> Default for Joins<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D> Joins<D> {
    /// Nobody asks.
    #[must_use]
    pub fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::default()).collect() }
    }

    fn stripe(&self, question: Question) -> &Mutex<Stripe<D>> {
        let low = question.0 as usize;
        &self.stripes[low % STRIPES]
    }

    /// A poll arrives that may share. At most `members_max` share one question, the leads not counted. `proves` is asked of a solid poll
    /// that runs, under this question's lock, whether rule 9 holds of it now: it must not come back here.
    pub fn arrive(self: &Arc<Self>, question: Question, members_max: usize, proves: impl FnOnce(&Running) -> bool) -> Place<D> {
        let bell = Arc::<Bell>::default();
        let mut told = None;
        let member = || {
            let (teller, receiver) = oneshot::channel();
            told = Some(receiver);
            teller
        };
        let arrived = self.stripe(question).lock().arrive(question, members_max, proves, Arc::clone(&bell), member);
        let member = |chair| Member { joins: Arc::clone(self), question, chair, told };
        match arrived {
            Arrived::Leads(ticket) => {
                bell.turn.store(true, Ordering::Release);
                Place::Lead(self.lead(question, ticket, bell))
            }
            Arrived::LeadsNext(ticket) => Place::Lead(self.lead(question, ticket, bell)),
            Arrived::Shares(chair) => Place::Member(member(chair), Shared::Waits),
            Arrived::Joins(chair) => Place::Member(member(chair), Shared::Joined),
            Arrived::Full => Place::Full,
        }
    }

    /// A question is to be asked again in the background (rule 19): `None` if somebody runs or waits for it already. Such a lead has no
    /// client and has its turn; until it is sent nobody shares it.
    #[must_use]
    pub fn refresh(self: &Arc<Self>, question: Question) -> Option<Lead<D>> {
        let bell = Arc::new(Bell { turn: AtomicBool::new(true), ..Bell::default() });
        let ticket = self.stripe(question).lock().refresh(question, Arc::clone(&bell))?;
        Some(self.lead(question, ticket, bell))
    }

    fn lead(self: &Arc<Self>, question: Question, ticket: Ticket, bell: Arc<Bell>) -> Lead<D> {
        Lead(Arc::new(Call { joins: Arc::clone(self), question, ticket, bell }))
    }

    /// How many run and wait.
    #[must_use]
    pub fn view(&self) -> View {
        self.stripes.iter().map(|stripe| stripe.lock().view()).fold(View::default(), |sum, view| View {
            running: sum.running + view.running,
            waiting: sum.waiting + view.waiting,
            members: sum.members + view.members,
        })
    }
}

impl<D> Call<D> {
    /// Who is to be told what the lead met; the next lead has its turn.
    fn end(&self) -> Vec<oneshot::Sender<D>> {
        let Ended { members, turn } = self.joins.stripe(self.question).lock().end(self.question, self.ticket);
        if let Some(next) = turn {
            next.ring(&next.turn);
        }
        members
    }
}

impl<D> Drop for Call<D> {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl<D: Clone + Send> Lead<D> {
    /// Comes when it may go to the gate: at once, unless it is held because one of its question runs. Never for a held one that is abandoned.
    pub async fn turn(&self) {
        self.0.bell.heard(&self.0.bell.turn).await;
    }

    /// Whether it may go to the gate.
    #[must_use]
    pub fn has_turn(&self) -> bool {
        self.0.bell.turn.load(Ordering::Acquire)
    }

    /// To be called immediately before the first byte of each attempt, with what is then known (rule 7): from now on nobody becomes a member
    /// but by joining. Only for a lead that has had its turn; one that has not delivers nothing.
    pub fn sent(&self, running: Running) {
        let Call { joins, question, ticket, .. } = &*self.0;
        let sent = joins.stripe(*question).lock().sent(*question, *ticket, running);
        if !sent {
            drop(self.0.end());
        }
    }

    /// What it met goes to all members, and the next lead has its turn. Only the first delivery counts.
    pub fn deliver(&self, met: D) {
        let mut members = self.0.end();
        let last = members.pop();
        // One that just left needs nothing.
        for member in members {
            let _ = member.send(met.clone());
        }
        if let Some(last) = last {
            let _ = last.send(met);
        }
    }

    /// Its own client is gone: from now on it asks for its members only, and for those who will ask again.
    pub fn client_left(&self) {
        let Call { joins, question, ticket, .. } = &*self.0;
        let abandoned = joins.stripe(*question).lock().client_left(*question, *ticket);
        if let Some(lead) = abandoned {
            lead.ring(&lead.abandoned);
        }
    }

    /// Comes when nobody waits for it any more, neither its own client nor a member, and it was not sent: then it is to be dropped. From then
    /// on nobody becomes its member.
    pub async fn abandoned(&self) {
        self.0.bell.heard(&self.0.bell.abandoned).await;
    }

    /// How many share with it.
    #[must_use]
    pub fn members(&self) -> usize {
        let Call { joins, question, ticket, .. } = &*self.0;
        joins.stripe(*question).lock().members(*question, *ticket)
    }

    /// Whether somebody shares with it, or it was sent, and it has not ended. Once its client has left (and that was said), a lead that is not
    /// wanted never will be.
    #[must_use]
    pub fn wanted(&self) -> bool {
        let Call { joins, question, ticket, .. } = &*self.0;
        let stripe = joins.stripe(*question).lock();
        stripe.runs(*question, *ticket) || stripe.members(*question, *ticket) > 0
    }
}

impl<D> Member<D> {
    /// What the lead met; `None` if it met nothing because its call broke off, or if this was told already. May be dropped and asked again.
    pub async fn answer(&mut self) -> Option<D> {
        let answer = self.told.as_mut()?.await.ok();
        self.told = None;
        answer
    }
}

impl<D> Drop for Member<D> {
    fn drop(&mut self) {
        if self.told.is_none() {
            return;
        }
        let abandoned = self.joins.stripe(self.question).lock().leave(self.question, self.chair);
        if let Some(lead) = abandoned {
            lead.ring(&lead.abandoned);
        }
    }
}

impl<D> Clone for Lead<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D> fmt::Debug for Joins<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Joins").finish_non_exhaustive()
    }
}

impl<D> fmt::Debug for Lead<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lead").field("question", &self.0.question).field("ticket", &self.0.ticket).finish_non_exhaustive()
    }
}

impl<D> fmt::Debug for Member<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Member").field("question", &self.question).field("chair", &self.chair).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::{clock::Boot, flow::fresh::keys::Reads};

    const QUESTION: Question = Question(7);
    const NOBODY: View = View { running: 0, waiting: 0, members: 0 };

    fn running(solid: bool) -> Running {
        Running { reads: Reads::default(), s: 0, asked_at: Boot(0), solid }
    }

    fn lead(joins: &Arc<Joins<u32>>) -> Lead<u32> {
        match joins.arrive(QUESTION, 10, |_| false) {
            Place::Lead(lead) => lead,
            other => panic!("does not lead: {other:?}"),
        }
    }

    fn member(joins: &Arc<Joins<u32>>, proves: bool, shared: Shared) -> Member<u32> {
        match joins.arrive(QUESTION, 10, |_| proves) {
            Place::Member(member, what) if what == shared => member,
            other => panic!("does not share: {other:?}"),
        }
    }

    /// Whether it does not come by itself.
    async fn is_pending<F: Future>(future: F) -> bool {
        timeout(Duration::from_millis(1), future).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_share_a_poll_get_what_it_meets_and_the_next_lead_has_its_turn() {
        let joins = Arc::new(Joins::new());
        let first = lead(&joins);
        first.turn().await;
        let mut waits = member(&joins, false, Shared::Waits);
        assert!(!first.wanted() || first.members() == 1);
        first.sent(running(true));
        let mut joined = member(&joins, true, Shared::Joined);
        let next = lead(&joins);
        let mut of_next = member(&joins, false, Shared::Waits);
        assert!(is_pending(next.turn()).await, "held while the first one runs");
        assert!(is_pending(waits.answer()).await, "and asked again below");
        assert_eq!(joins.view(), View { running: 1, waiting: 1, members: 3 });
        first.deliver(1);
        first.deliver(2);
        assert_eq!((waits.answer().await, joined.answer().await), (Some(1), Some(1)));
        assert_eq!(waits.answer().await, None, "told once");
        next.turn().await;
        next.deliver(3);
        assert_eq!(of_next.answer().await, Some(3), "settled without being sent");
        assert_eq!(joins.view(), NOBODY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lead_that_breaks_off_leaves_nobody_stuck() {
        let joins = Arc::new(Joins::new());
        let first = lead(&joins);
        let mut shares = member(&joins, false, Shared::Waits);
        let (turned, waits) = oneshot::channel();
        let call = tokio::spawn(async move {
            let part = first.clone();
            first.sent(running(false));
            let _ = turned.send(());
            tokio::task::yield_now().await;
            drop(part);
            panic!("on purpose");
        });
        waits.await.expect("it was sent");
        let next = lead(&joins);
        assert!(call.await.is_err());
        assert_eq!(shares.answer().await, None);
        timeout(Duration::from_secs(1), next.turn()).await.expect("its turn");
        drop(next);
        assert_eq!(joins.view(), NOBODY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lead_for_which_nobody_waits_is_told_and_nobody_comes_to_it() {
        let joins = Arc::new(Joins::new());
        let first = lead(&joins);
        let (one, two) = (member(&joins, false, Shared::Waits), member(&joins, false, Shared::Waits));
        first.client_left();
        drop(one);
        assert!(first.wanted() && is_pending(first.abandoned()).await);
        drop(two);
        timeout(Duration::from_secs(1), first.abandoned()).await.expect("to be told");
        assert!(!first.wanted());
        let next = lead(&joins);
        assert!(is_pending(next.turn()).await, "the first one may be about to be sent");
        drop(first);
        next.turn().await;
        next.sent(running(true));
        next.client_left();
        assert!(next.wanted() && is_pending(next.abandoned()).await, "what was sent runs on, for those who ask again");
        let mut again = member(&joins, true, Shared::Joined);
        next.deliver(4);
        assert_eq!(again.answer().await, Some(4));
        assert_eq!(joins.view(), NOBODY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_lead_that_is_abandoned_never_has_its_turn() {
        let joins = Arc::new(Joins::new());
        let first = lead(&joins);
        first.sent(running(false));
        let held = lead(&joins);
        held.client_left();
        held.abandoned().await;
        let other = lead(&joins);
        first.deliver(1);
        other.turn().await;
        assert!(is_pending(held.turn()).await);
        drop(held);
        assert_eq!(joins.view(), View { running: 0, waiting: 1, members: 0 }, "its end is not the other one's");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lead_that_is_sent_before_its_turn_delivers_nothing() {
        let joins = Arc::new(Joins::new());
        let first = lead(&joins);
        first.sent(running(true));
        let held = lead(&joins);
        let mut shares = member(&joins, false, Shared::Waits);
        held.sent(running(true));
        held.deliver(9);
        assert_eq!(shares.answer().await, None);
        assert_eq!(joins.view(), View { running: 1, waiting: 0, members: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_waits_for_nobody_and_is_joined_only_once_it_is_sent() {
        let joins = Arc::new(Joins::<u32>::new());
        let refresh = joins.refresh(QUESTION).expect("nobody asks");
        assert!(joins.refresh(QUESTION).is_none());
        refresh.turn().await;
        let next = lead(&joins);
        drop(next);
        refresh.sent(running(true));
        let mut joined = member(&joins, true, Shared::Joined);
        refresh.deliver(5);
        assert_eq!(joined.answer().await, Some(5));
        let asks = lead(&joins);
        assert!(joins.refresh(QUESTION).is_none(), "somebody asks");
        drop(asks);
        assert_eq!(joins.view(), NOBODY);
    }

    #[tokio::test]
    async fn beyond_the_most_members_a_poll_is_refused() {
        let joins = Arc::new(Joins::<u32>::new());
        let asks = |members_max| joins.arrive(QUESTION, members_max, |_| true);
        let Place::Lead(first) = asks(2) else { panic!("leads") };
        let Place::Member(_shares, Shared::Waits) = asks(2) else { panic!("shares") };
        first.sent(running(true));
        let Place::Member(joined, Shared::Joined) = asks(2) else { panic!("joins") };
        assert!(matches!(asks(2), Place::Full));
        drop(joined);
        assert!(matches!(asks(2), Place::Member(..)), "one has left");
        assert!(matches!(joins.arrive(QUESTION, 2, |_| false), Place::Lead(_)), "it leads the next one, a member of none");
    }
}
