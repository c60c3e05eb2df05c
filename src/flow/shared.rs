//! Polls: answered by what is stored, by sharing the answer to another one, or by the app for themselves and those who share; and questions of
//! our own, asked again to see whether what is replayed is still right.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll as Polled},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{
    Answered, Asked, Flow, Plan, Under, app_failed,
    background::Background,
    call_failed,
    fresh::{
        Again, Delivered, Why,
        join::shell::{Lead, Member, Place, Shared},
        ledger::Stale,
        question::Question,
        replay,
        shell::Local,
    },
    gate, job,
    origin::{self, Answer, CallError},
    pause, refused_at_gate, refused_by,
    report::{Exchange, PollEnd, exchange::PollAnswered, told},
    surviving::Surviving,
    tracked::Tracked,
};
use crate::{
    clock,
    config::settings::FreshMode,
    model::{Class, ClientKey, FailureKind, Intent, Outcome, Refusal, Rule},
    profile::RouteId,
    wire::Response,
};

/// The class of what is asked again.
const NOOP: Class = Class(0);

/// What becomes of a request that was read.
pub(super) enum Standing {
    /// It asks the app for itself.
    Alone(Asked, Intent),
    /// It asks for itself and for those who come to share.
    Leads(Lead<Delivered>, Asked, Intent),
    /// It waits for what another one meets.
    Shares(Member<Delivered>, Shared, Asked, Intent),
}

/// What a lead met.
enum Met {
    Answer(Box<Answer>),
    Local(Local),
    Refused(Box<gate::Refused>),
    Failed(CallError),
    /// Nobody waits for it any more.
    Nobody,
}

/// What a lead needs to go on without its client.
struct Call {
    flow: Arc<Flow>,
    plan: Arc<Plan>,
    tracked: Arc<Tracked>,
    lead: Lead<Delivered>,
}

impl Flow {
    /// Whether it is answered here, shares, or goes on.
    pub(super) fn fresh(self: &Arc<Self>, mut asked: Asked, intent: Intent, under: &Under<'_>) -> Result<Standing, Box<Answered>> {
        let Some(poll) = asked.poll.clone() else { return Ok(Standing::Alone(asked, intent)) };
        note(poll.route, Why::Miss, under);
        match self.fresh.replay(&poll, asked.stake.member(), self.is_away(&intent, under.plan)) {
            Ok(local) if poll.mode == FreshMode::On => {
                self.knock(&intent, under)?;
                return Err(self.local(local, Some((asked, intent)), under));
            }
            Ok(local) => {
                note(poll.route, Why::Verify, under);
                asked.stake.compare(local.stored, Again::Verify);
            }
            Err(why) => {
                if let Why::Stale(Stale::Written(cause)) = why {
                    self.report.stale_by(poll.route, cause);
                }
                note(poll.route, why, under);
            }
        }
        if poll.mode != FreshMode::On || !asked.stake.member().is_current() {
            return Ok(Standing::Alone(asked, intent));
        }
        match self.fresh.arrive(&poll, self.is_away(&intent, under.plan)) {
            Place::Lead(lead) => Ok(Standing::Leads(lead, asked, intent)),
            Place::Member(member, shared) => {
                self.knock(&intent, under)?;
                Ok(Standing::Shares(member, shared, asked, intent))
            }
            Place::Full => Err(refused_by(&Refusal { rule: Rule::QueueFull, own_doing: false, retry_after: pause() }, under)),
        }
    }

    /// Whether the app is down, or the class is closed for maintenance: then answers last longer.
    fn is_away(&self, intent: &Intent, plan: &Plan) -> bool {
        !self.origin.is_up() || plan.settings.of(intent.class).closed
    }

    /// A client's own rate is the only rule that concerns what needs no seat.
    fn knock(&self, intent: &Intent, under: &Under<'_>) -> Result<(), Box<Answered>> {
        match self.gate.knock(intent.class, intent.client) {
            Ok(shadows) => {
                if !shadows.is_empty() {
                    under.tracked.note(|exchange| exchange.shadows = shadows);
                }
                Ok(())
            }
            Err(refused) => {
                let gate::Refused { refusal, shadows, .. } = *refused;
                under.tracked.note(|exchange| exchange.shadows = shadows);
                Err(refused_by(&refusal, under))
            }
        }
    }

    /// A stored answer; its question may be put to the app again, in the background.
    fn local(self: &Arc<Self>, local: Local, asked: Option<(Asked, Intent)>, under: &Under<'_>) -> Box<Answered> {
        let Local { stored, proof, again } = local;
        let response = replay::replay(&stored.kept, proof, clock::since_epoch());
        under.tracked.note(|exchange| answered_by(exchange, PollEnd::Hit));
        if let (Some(why), Some((mut asked, intent))) = (again, asked) {
            asked.stake.compare(stored, why);
            self.ask_again(asked, intent, why, under);
        }
        whole(response, Outcome::Fresh)
    }

    /// Puts a question to the app although its answer is known, if somebody's seat is free and nobody wants it (rule 19).
    fn ask_again(self: &Arc<Self>, mut asked: Asked, intent: Intent, why: Again, under: &Under<'_>) {
        let Some(poll) = &asked.poll else { return };
        let class = if intent.class == intent.long { intent.long } else { NOOP };
        let lead = self.fresh.joins.refresh(poll.question);
        let permit = lead.as_ref().and_then(|_| self.gate.spare(Intent { class, client: ourselves(poll.question), ..intent }));
        let (Some(lead), Some(permit)) = (lead, permit) else {
            self.report.not_asked_again(why);
            return;
        };
        asked.stake.lead(lead);
        let watch = Background::new(self, under.tracked.take_lesson());
        let job = job(asked, permit, watch, under.plan);
        let flow = Arc::clone(self);
        self.tasks.spawn(async move { drop(flow.origin.call(job).await) });
    }

    /// Asks the app for itself and for those who share. Goes on without its client as long as somebody waits for it, or it was sent.
    pub(super) async fn lead(
        self: &Arc<Self>,
        lead: Lead<Delivered>,
        mut asked: Asked,
        intent: Intent,
        under: &Under<'_>,
    ) -> Result<Answered, Box<Answered>> {
        let until = patience(&asked, under);
        let held = !lead.has_turn();
        asked.stake.lead(lead.clone());
        let call = Call { flow: Arc::clone(self), plan: Arc::clone(under.plan), tracked: Arc::clone(under.tracked), lead: lead.clone() };
        let leading = Leading { call: Surviving::new(call.ask(asked, intent), self.tasks.clone()), lead };
        // Who waits for another's answer first has one time-out for all of it, from its own arrival (rule 11).
        let met = if held { timeout_at(until, leading).await.unwrap_or(Met::Failed(late())) } else { leading.await };
        match met {
            Met::Answer(answer) => {
                let Answer { head, body, whole } = *answer;
                Ok(Answered { response: Response::from_parts(head, body), outcome: Outcome::Forwarded, whole })
            }
            Met::Local(local) => Err(self.local(local, None, under)),
            Met::Refused(refused) => Err(refused_at_gate(*refused, under)),
            Met::Failed(error) => Err(call_failed(error, under)),
            Met::Nobody => Err(call_failed(CallError::App(FailureKind::Internal), under)),
        }
    }

    /// Waits for what another one meets.
    pub(super) async fn share(
        self: &Arc<Self>,
        mut member: Member<Delivered>,
        shared: Shared,
        asked: Asked,
        intent: Intent,
        under: &Under<'_>,
    ) -> Result<Answered, Box<Answered>> {
        let until = patience(&asked, under);
        let Ok(delivered) = timeout_at(until, member.answer()).await else { return Err(call_failed(late(), under)) };
        let end = if shared == Shared::Joined { PollEnd::Joined } else { PollEnd::Shared };
        match delivered {
            Some(Delivered::Answer(kept)) => {
                under.tracked.note(|exchange| answered_by(exchange, end));
                Err(whole(replay::share(&kept), Outcome::Joined))
            }
            Some(Delivered::Refused(refusal)) => Err(refused_by(&refusal, under)),
            Some(Delivered::Failed(kind)) => Err(app_failed(kind, under)),
            None => Err(app_failed(FailureKind::ResponseIncomplete, under)),
            // A write may have begun since: then it is a poll like any other again.
            Some(Delivered::Stored) => {
                let standing = self.fresh(asked, intent, under)?;
                Box::pin(self.stand(standing, under)).await
            }
            Some(Delivered::Alone) => self.alone(asked, intent, under).await,
        }
    }
}

impl Call {
    async fn ask(self, asked: Asked, intent: Intent) -> Met {
        let Self { flow, lead, tracked, plan } = &self;
        let away = flow.is_away(&intent, plan);
        if !lead.has_turn() {
            tokio::select! {
                () = lead.turn() => {}
                () = lead.abandoned() => return Met::Nobody,
            }
            if let Some(local) = self.again(&asked, away) {
                return Met::Local(local);
            }
        }
        let entered = tokio::select! {
            biased;
            entered = flow.gate.enter(intent) => entered,
            () = lead.abandoned() => return Met::Nobody,
        };
        let mut permit = match entered {
            Ok(permit) => permit,
            Err(refused) => {
                lead.deliver(Delivered::Refused(refused.refusal));
                return Met::Refused(refused);
            }
        };
        tracked.note(|exchange| {
            exchange.waited = Some(permit.waited);
            exchange.predicted = permit.predicted;
        });
        if permit.waited > Duration::ZERO
            && let Some(local) = self.again(&asked, away)
        {
            permit.unused();
            return Met::Local(local);
        }
        let watch = Arc::clone(tracked) as Arc<dyn origin::Watch>;
        match flow.origin.call(job(asked, permit, watch, plan)).await {
            Ok(answer) => Met::Answer(Box::new(answer)),
            Err(error) => {
                match error {
                    // The call goes on: whoever shares it waits on, each for as long as its own time-out.
                    CallError::App(FailureKind::ResponseTimeout | FailureKind::WriteTimeout) => {}
                    CallError::App(kind) => lead.deliver(Delivered::Failed(kind)),
                    CallError::Client(_) | CallError::Streams => lead.deliver(Delivered::Alone),
                }
                Met::Failed(error)
            }
        }
    }

    /// Whether it was answered while it waited (rule 11).
    fn again(&self, asked: &Asked, away: bool) -> Option<Local> {
        let local = self.flow.fresh.replay(asked.poll.as_ref()?, asked.stake.member(), away).ok()?;
        self.lead.deliver(Delivered::Stored);
        Some(local)
    }
}

/// A lead with its client. When it is dropped, the client has left: the call goes on by itself if it is wanted.
struct Leading<F: Future<Output = Met> + Send + 'static> {
    call: Surviving<F>,
    lead: Lead<Delivered>,
}

impl<F: Future<Output = Met> + Send + 'static> Future for Leading<F> {
    type Output = Met;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled<Met> {
        Pin::new(&mut self.call).poll(context)
    }
}

impl<F: Future<Output = Met> + Send + 'static> Drop for Leading<F> {
    fn drop(&mut self) {
        self.lead.client_left();
        if !self.lead.wanted() {
            self.call.forget();
        }
    }
}

/// Notes why a poll goes to the app.
pub(super) fn note(route: RouteId, why: Why, under: &Under<'_>) {
    if let Some(why) = told::why(why) {
        let poll = PollAnswered { route, end: PollEnd::Forwarded(why), solid: None, kept: None };
        under.tracked.note(|exchange| exchange.poll = Some(poll));
    }
}

/// A poll needs no answer of its own.
fn answered_by(exchange: &mut Exchange, end: PollEnd) {
    if let Some(poll) = &mut exchange.poll {
        poll.end = end;
    }
}

/// When somebody who waits for another's answer has waited for long enough.
fn patience(asked: &Asked, under: &Under<'_>) -> Instant {
    let head_timeout: Duration = under.plan.settings.of(asked.class).head_timeout;
    clock::instant(under.tracked.note(|exchange| exchange.arrived) + head_timeout)
}

/// Who asks again, for the fair queues and the caps: each question is a client of its own, as none may hold another up.
fn ourselves(question: Question) -> ClientKey {
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
    let half = question.0 as u64;
    ClientKey(half)
}

fn late() -> CallError {
    CallError::App(FailureKind::ResponseTimeout)
}

/// An answer that is known whole.
fn whole(response: Response, outcome: Outcome) -> Box<Answered> {
    let size = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    Box::new(Answered { response, outcome, whole: Some(size) })
}
