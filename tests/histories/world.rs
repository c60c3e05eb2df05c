//! One history: the real ledger, answers and joins between devices and a simulated app, driven as the path drives them, step by step, and
//! compared with the reference after each. Time is passed in; nothing here waits.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use tidegate::{
    clock::{Boot, Moment},
    flow::fresh::{
        answers::{Answers, Stored},
        join::{Arrived, Chair, Joins, Running, Ticket},
        keys::{Key, Keyring, Reads, Touched},
        ledger::{
            Asked, Cause, Ledger, Proof, Quiet,
            generation::{
                End,
                shell::{Generation, Member},
            },
        },
        question::Question,
        replay,
    },
    model::Scope,
    profile::{Answer, RouteId},
    wire::{Body, Response},
};

use super::{
    app::{App, Attempt, LEAVES, Versions, leaves},
    reference::{ALL, Mask, Reference},
};

/// A unit of the simulated time, in nanoseconds.
const TICK: u64 = 1_000;

/// Which credential a device has.
const CREDENTIALS: [usize; 3] = [0, 0, 1];

/// The first of the documents that say what is granted.
const GRANTS: usize = 5;

/// Scopes, and the documents that they hold.
const SCOPES: [(&str, Mask); 8] =
    [("doc:a", 1), ("doc:b", 2), ("tree:/t/x", 4), ("tree:/t/y", 8), ("tree:/t", 12), ("tree:/u", 16), ("tree:/", 28), ("*", ALL)];

/// What polls read, as scopes.
const READS: [&[usize]; 8] = [&[0], &[1], &[0, 1], &[2], &[4], &[2, 0], &[6], &[7]];

/// What writes write, as scopes.
const WRITES: [&[usize]; 10] = [&[0], &[1], &[0, 1], &[2], &[3], &[4], &[5], &[0, 3], &[6], &[7]];

/// The route whose writes an older profile declares in part only.
const MISREAD: RouteId = RouteId(1);

/// A document that such a profile forgets.
const FORGOTTEN: usize = 1;

/// How a history is bounded, and what happens in it.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub settle: u64,
    pub doubt: u64,
    pub age_max: u64,
    /// How far the app's replicas lag behind.
    pub lag: u64,
    pub members_max: usize,
    /// Nothing is evicted: all that the reference proves must be answered.
    pub roomy: bool,
    /// Some writes come past the proxy, and are told later.
    pub hidden: bool,
    /// Some writes run without a promise (rule 21).
    pub pending: bool,
    /// Profiles of every second generation forget a document.
    pub misread: bool,
    /// Which polls and writes there are, of all.
    pub reads: [u8; 2],
    pub writes: [u8; 3],
    /// Whether each proof is compared with the reference's, beside the promises.
    pub compared: bool,
    pub fault: Fault,
}

/// What is wrong on purpose, in the app or in how the parts are driven, so that the checks can be seen to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The app takes a write later than `doubt` after it was lost.
    CommitsTooLate,
    /// Replicas lag behind by more than `settle`.
    LagsTooLong,
    /// The app takes a write after it has answered.
    CommitsAfterAnswer,
    /// The profile forgets a document, and is never corrected.
    Undeclared,
    BeginsAfterFirstByte,
    ErrorIsKnown,
    RetryForgetsFirst,
    TunnelIsKnown,
    NoDoubt,
    NoSettle,
    OnlyFirstDocument,
    SequenceAtAnswer,
    KeepsNotSolid,
    JoinsNotSolid,
    JoinsUnproven,
    NotSuspended,
    ListAfterAnswer,
    NoticeAfterAnswer,
    RestartsWithoutDoubt,
    RestartKeepsAnswers,
    ReloadForgetsRunning,
    ReloadForgetsQuiet,
    JudgesWithoutLedger,
}

/// What happens in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tick,
    Sleep,
    Poll,
    Arrive,
    Ask,
    FirstByte,
    Read,
    Answer,
    Leave,
    BreakOff,
    Refresh,
    Write,
    Begin,
    Send,
    Unsend,
    Commit,
    Whole,
    End,
    Acknowledge,
    Lose,
    Told,
    Restart,
    Stop,
    Reload,
}

/// One step: what, and which of the choices that there are at that moment.
#[derive(Clone, Copy, Debug)]
pub struct Step(pub Kind, pub [u8; 3]);

/// How often something was seen, so that a history in which nothing happens cannot pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub polls: u64,
    pub own: u64,
    pub replayed: u64,
    pub joined: u64,
    pub shared: u64,
    pub settled: u64,
    pub refreshed: u64,
    pub writes: u64,
    pub lost: u64,
    pub late: u64,
    pub restarts: u64,
    pub reloads: u64,
}

impl Seen {
    pub fn counts(&mut self) -> [&mut u64; 12] {
        let Self { polls, own, replayed, joined, shared, settled, refreshed, writes, lost, late, restarts, reloads } = self;
        [polls, own, replayed, joined, shared, settled, refreshed, writes, lost, late, restarts, reloads]
    }
}

/// A broken promise, or a difference from the reference.
pub type Found = Result<(), String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Leads,
    Shares(usize, Chair),
    Joined(usize, Chair),
    Done,
}

/// A poll, or a refresh.
#[derive(Debug)]
struct Poll {
    device: usize,
    /// Whether its client is there.
    client: bool,
    mask: Mask,
    reads: Reads,
    question: Question,
    member: Option<Member>,
    event: Option<usize>,
    /// Whether its profile declares everything.
    is_right: bool,
    started: u64,
    acked: Versions,
    seen: Versions,
    /// What was owed when it was last checked.
    owed: Versions,
    phase: Phase,
    turn: bool,
    waited: bool,
    abandoned: bool,
    ticket: Option<Ticket>,
    attempt: Option<Asking>,
    /// The last attempt that others may join.
    running: Option<Asking>,
    was_lost: bool,
    /// What a refresh is compared with.
    against: Option<u64>,
}

/// A question as it was put to the app.
#[derive(Clone, Debug)]
struct Asking {
    asked: Asked,
    /// When, in the order of events.
    order: u64,
    tick: u64,
    boot: u64,
    is_solid: bool,
    sent: bool,
    shown: [Option<u32>; LEAVES],
}

/// An answer that was stored.
#[derive(Clone, Debug)]
struct Record {
    question: Question,
    versions: Versions,
    asking: Asking,
    epoch: u64,
}

impl Record {
    fn s(&self) -> u64 {
        self.asking.asked.s
    }

    fn asked_at(&self) -> Boot {
        self.asking.asked.asked_at
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    New,
    Begun,
    Sent,
    Whole,
    Ended,
    Done,
}

/// A write.
#[derive(Debug)]
struct Write {
    device: usize,
    route: RouteId,
    declared: Mask,
    touched: Touched,
    actual: Mask,
    /// Its answer names what it wrote.
    later: bool,
    suspends: bool,
    progress: Progress,
    event: Option<usize>,
    attempt: Option<usize>,
    was_lost: bool,
    acked: bool,
    member: Option<Member>,
    member_event: Option<usize>,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    bounds: Bounds,
    now: u64,
    boot: u64,
    order: u64,
    keys: Keyring,
    ledger: Arc<Ledger>,
    answers: Answers,
    joins: Joins<usize, usize>,
    generation: Arc<Generation>,
    retired: Option<Arc<Generation>>,
    is_right: bool,
    reference: Reference,
    records: Vec<Record>,
    /// Counts how often the store was emptied.
    epoch: u64,
    app: App,
    owed: Versions,
    acked: Versions,
    seen_by: [Versions; CREDENTIALS.len()],
    polls: Vec<Poll>,
    writes: Vec<Write>,
    pub seen: Seen,
    pub trace: Option<Vec<String>>,
}

macro_rules! trace {
    ($world:expr, $($what:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            trace.push(format!($($what)*));
        }
    };
}

fn moment(tick: u64) -> Moment {
    Moment(tick * TICK)
}

fn span(ticks: u64) -> Duration {
    Duration::from_nanos(ticks * TICK)
}

fn mask(scopes: &[usize]) -> Mask {
    scopes.iter().fold(0, |mask, scope| mask | SCOPES[*scope].1)
}

fn scopes(scopes: &[usize]) -> Vec<Scope> {
    let scope = |scope: &usize| match SCOPES[*scope].0 {
        "*" => Scope::All,
        text => text.strip_prefix("tree:").map_or_else(|| Scope::Plain(text.into()), |path| Scope::Tree(path.into())),
    };
    scopes.iter().map(scope).collect()
}

fn raise(versions: &mut Versions, other: &Versions) {
    for (version, other) in versions.iter_mut().zip(other) {
        *version = (*version).max(*other);
    }
}

/// The `pick`th of those for which something holds.
fn choose<T>(all: &[T], pick: u8, holds: impl Fn(&T) -> bool) -> Option<usize> {
    let those: Vec<usize> = (0..all.len()).filter(|index| holds(&all[*index])).collect();
    (!those.is_empty()).then(|| those[usize::from(pick) % those.len()])
}

fn store(roomy: bool) -> Answers {
    if roomy { Answers::for_largest(1 << 20, 1024) } else { Answers::for_largest(2_500, 1024) }
}

fn rules() -> Answer {
    Answer {
        statuses: vec![StatusCode::OK],
        mode: None,
        age_max: None,
        key_body: None,
        ignore_headers: Vec::new(),
        only_if: Vec::new(),
        renew: Vec::new(),
        drop: Vec::new(),
    }
}

impl World {
    pub fn new(bounds: Bounds) -> Self {
        let start = bounds.doubt + bounds.settle;
        Self {
            bounds,
            now: 0,
            boot: 0,
            order: 0,
            keys: Keyring::new([3, 4], 16),
            ledger: Arc::new(Ledger::new(Self::documents_max(bounds), moment(start))),
            answers: store(bounds.roomy),
            joins: Joins::default(),
            generation: Generation::new(0, 4),
            retired: None,
            is_right: !bounds.misread,
            reference: Reference::new(start),
            records: Vec::new(),
            epoch: 0,
            app: App::default(),
            owed: [0; LEAVES],
            acked: [0; LEAVES],
            seen_by: [[0; LEAVES]; CREDENTIALS.len()],
            polls: Vec::new(),
            writes: Vec::new(),
            seen: Seen::default(),
            trace: None,
        }
    }

    fn documents_max(bounds: Bounds) -> usize {
        if bounds.roomy { 4_096 } else { 2 }
    }

    fn is(&self, fault: Fault) -> bool {
        self.bounds.fault == fault
    }

    fn order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Until when what the app shows need not last, after an end that is known, or not.
    fn quiet(&self, known: bool) -> u64 {
        let doubt = if known || self.is(Fault::NoDoubt) { 0 } else { self.bounds.doubt };
        let settle = if self.is(Fault::NoSettle) { 0 } else { self.bounds.settle };
        self.now + doubt + settle
    }

    fn credential(&self, credential: usize) -> Key {
        self.keys.credential(&[u8::try_from(credential).expect("few credentials")])
    }

    /// One step, and all that must hold after it.
    pub fn step(&mut self, step: Step) -> Found {
        let Step(kind, [a, b, c]) = step;
        match kind {
            Kind::Tick => self.tick(1 + u64::from(a % 3)),
            Kind::Sleep => self.sleep(1 + u64::from(a % 8)),
            Kind::Poll => self.poll(a, b),
            Kind::Arrive => self.arrive(a),
            Kind::Ask => self.ask(a, b),
            Kind::FirstByte => self.first_byte(a),
            Kind::Read => self.read(a, b, c),
            Kind::Answer => self.answer(a, b, c),
            Kind::Leave => self.leave(a),
            Kind::BreakOff => self.break_off(a),
            Kind::Refresh => self.refresh(a, b),
            Kind::Write => self.write(a, b, c),
            Kind::Begin => self.begin(a),
            Kind::Send => self.send(a, b),
            Kind::Unsend => self.unsend(a, b),
            Kind::Commit => self.commit(a, b),
            Kind::Whole => self.whole(a),
            Kind::End => self.end(a, b),
            Kind::Acknowledge => self.acknowledge(a),
            Kind::Lose => self.lose(a, b),
            Kind::Told if self.bounds.hidden => self.told(a, b),
            Kind::Told => Ok(()),
            Kind::Restart => self.restart(),
            Kind::Stop => self.stop_cleanly(),
            Kind::Reload => self.reload(),
        }
    }

    fn tick(&mut self, ticks: u64) -> Found {
        (self.now, self.boot) = (self.now + ticks, self.boot + ticks);
        trace!(self, "{ticks} ticks go by: {}", self.now);
        Ok(())
    }

    /// The machine is suspended for a while: one clock stands, the other does not.
    fn sleep(&mut self, ticks: u64) -> Found {
        self.boot += ticks;
        trace!(self, "the machine sleeps for {ticks} ticks");
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------------ polls

    fn new_poll(&mut self, device: u8, shape: u8, client: bool) -> usize {
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

    fn poll(&mut self, device: u8, shape: u8) -> Found {
        self.seen.polls += 1;
        let poll = self.new_poll(device, shape, true);
        trace!(self, "poll {poll} of device {} reads {:#b}", self.polls[poll].device, self.polls[poll].mask);
        Ok(())
    }

    /// The ledger's word on whether an answer still proves, compared with the reference's.
    fn proves(&self, mask: Mask, reads: &Reads, asked: &Asked, asking: &Asking) -> Result<Option<Proof>, String> {
        let proof = self.ledger.prove(reads, asked, Boot(self.boot * TICK), span(self.bounds.age_max));
        let young = self.boot - asking.boot < self.bounds.age_max;
        let expected = asking.is_solid && young && self.reference.is_unchanged(mask, asking.order);
        self.compare("prove", &proof, proof.is_ok(), expected)?;
        Ok(proof.ok())
    }

    /// What the code says must follow from the reference; and, if nothing was forgotten, from it the code's.
    fn compare(&self, what: &str, found: &dyn std::fmt::Debug, is: bool, expected: bool) -> Found {
        let agrees = if self.bounds.roomy { is == expected } else { !is || expected };
        if agrees || !self.bounds.compared {
            return Ok(());
        }
        Err(format!("{what}: {found:?}, but the reference says {expected}"))
    }

    /// Rule 10, for what is stored: its versions if it may be replayed.
    fn replayable(&mut self, poll: usize) -> Result<Option<(u64, Versions)>, String> {
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

    fn arrive(&mut self, pick: u8) -> Found {
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
    fn ask(&mut self, pick: u8, choice: u8) -> Found {
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
    fn put(&mut self, poll: usize) -> Found {
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

    fn first_byte(&mut self, pick: u8) -> Found {
        let unsent = |poll: &Poll| poll.phase == Phase::Leads && poll.turn && poll.attempt.as_ref().is_some_and(|asking| !asking.sent);
        if let Some(poll) = choose(&self.polls, pick, unsent) {
            self.polls[poll].attempt.as_mut().expect("chosen").sent = true;
        }
        Ok(())
    }

    fn runs(poll: &Poll) -> bool {
        poll.phase == Phase::Leads && poll.attempt.as_ref().is_some_and(|asking| asking.sent)
    }

    fn lag(&self) -> u64 {
        if self.is(Fault::LagsTooLong) { self.bounds.settle + 3 } else { self.bounds.lag }
    }

    /// The app reads a document for a poll.
    fn read(&mut self, pick: u8, leaf: u8, version: u8) -> Found {
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

    fn answer(&mut self, pick: u8, how: u8, version: u8) -> Found {
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
    fn deny(&mut self, poll: usize) -> Found {
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

    fn notice(&mut self, touched: &Touched, mask: Mask) {
        let quiet = self.quiet(true);
        self.ledger.notice(touched, moment(quiet), Cause::NOTICE);
        let order = self.order();
        self.reference.notice(mask, order, quiet);
    }

    /// A complete answer of the app: kept (rule 8), judged if it is a refresh (rule 18), and given to all who share it.
    fn answered(&mut self, poll: usize, mut asking: Asking, versions: Versions) -> Found {
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
    fn settle(&mut self, lead: usize, versions: &Versions, asked: u64) -> Found {
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
    fn end_poll(&mut self, lead: usize, met: Option<(Versions, u64)>) -> Found {
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
    fn over(&mut self, lead: usize) -> Result<Vec<usize>, String> {
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

    /// Whether the promises are made to this poll: its profile declares everything, and is in force.
    fn is_promised(&self, poll: usize) -> bool {
        self.polls[poll].is_right
    }

    /// P2: no answer that was asked before a lost write was quiet is given to another poll once that write has begun.
    fn undoubted(&self, poll: usize, asked: u64) -> Found {
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
    fn strong(&self, poll: usize, versions: &Versions) -> Found {
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
    fn fresh(&self, poll: usize, versions: &Versions) -> Found {
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

    fn deliver(&mut self, poll: usize, versions: &Versions) {
        raise(&mut self.seen_by[self.polls[poll].device], versions);
    }

    /// A poll is over: nothing of it was sent, or it ended known, or not.
    fn depart(&mut self, poll: usize, known: Option<bool>) {
        self.polls[poll].phase = Phase::Done;
        let (member, event) = (self.polls[poll].member.take(), self.polls[poll].event.take());
        self.end_member(member, event, known);
    }

    fn end_member(&mut self, member: Option<Member>, event: Option<usize>, known: Option<bool>) {
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
    fn leave(&mut self, pick: u8) -> Found {
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
    fn break_off(&mut self, pick: u8) -> Found {
        let Some(poll) = choose(&self.polls, pick, |poll| poll.phase == Phase::Leads) else { return Ok(()) };
        trace!(self, "the call of poll {poll} breaks off");
        self.polls[poll].was_lost |= self.polls[poll].attempt.is_some();
        self.end_poll(poll, None)
    }

    /// Rule 19.
    fn refresh(&mut self, device: u8, shape: u8) -> Found {
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

    // ----------------------------------------------------------------------------------------------------- writes

    fn write(&mut self, device: u8, shape: u8, kind: u8) -> Found {
        let scope = WRITES[usize::from(self.bounds.writes[usize::from(shape) % self.bounds.writes.len()]) % WRITES.len()];
        let route = RouteId(u16::from(kind / 8 % 2));
        let generation = match &self.retired {
            Some(retired) if kind / 16 % 8 == 0 => Arc::clone(retired),
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

    fn which(&self, pick: u8, progress: Progress) -> Option<usize> {
        choose(&self.writes, pick, |write| write.progress == progress)
    }

    fn register(&mut self, write: usize) {
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
    fn begin(&mut self, pick: u8) -> Found {
        let Some(write) = self.which(pick, Progress::New) else { return Ok(()) };
        trace!(self, "write {write} begins");
        if !self.is(Fault::BeginsAfterFirstByte) {
            self.register(write);
        }
        self.writes[write].progress = Progress::Begun;
        Ok(())
    }

    fn send(&mut self, pick: u8, kind: u8) -> Found {
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
    fn unsend(&mut self, pick: u8, again: u8) -> Found {
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

    fn resume(&mut self, suspends: bool) {
        if suspends {
            self.reference.resume();
            if !self.is(Fault::NotSuspended) {
                self.ledger.resume();
            }
        }
    }

    /// The app takes a write.
    fn commit(&mut self, pick: u8, which: u8) -> Found {
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
            late.into_iter().for_each(|write| self.register(write));
        }
        Ok(())
    }

    /// The last byte of a complete answer has come.
    fn whole(&mut self, pick: u8) -> Found {
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
    fn end(&mut self, pick: u8, how: u8) -> Found {
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

    fn list(&mut self, wrote: Versions) {
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
    fn finish_write(&mut self, write: usize, known: Option<bool>) {
        let this = &mut self.writes[write];
        if this.progress != Progress::Ended || this.acked {
            this.progress = Progress::Done;
        }
        let known = if this.was_lost { Some(false) } else { known };
        let (member, event) = (this.member.take(), this.member_event.take());
        self.end_member(member, event, known);
    }

    fn acknowledge(&mut self, pick: u8) -> Found {
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
    fn lose(&mut self, pick: u8, again: u8) -> Found {
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
    fn lost(&mut self, attempt: usize) {
        self.seen.lost += 1;
        let late = if self.is(Fault::CommitsTooLate) { 20 } else { 0 };
        let attempt = &mut self.app.attempts[attempt];
        (attempt.lost, attempt.until, attempt.hidden) = (Some(self.now), self.now + self.bounds.doubt + late, false);
        let wrote = attempt.wrote;
        raise(&mut self.owed, &wrote);
    }

    /// Something is written past the proxy, or what was is told (rule 12).
    fn told(&mut self, leaf: u8, tells: u8) -> Found {
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

    // ---------------------------------------------------------------------------------------- restarts and reloads

    /// All calls are gone. What ran may still be taken by the app.
    fn all_gone(&mut self) {
        for write in std::mem::take(&mut self.writes) {
            let attempt = write.attempt.filter(|attempt| !self.app.attempts[*attempt].known);
            attempt.into_iter().for_each(|attempt| self.lost(attempt));
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
    fn restart(&mut self) -> Found {
        self.seen.restarts += 1;
        self.all_gone();
        let start = self.now + self.bounds.doubt + self.bounds.settle;
        let quiet_from = if self.is(Fault::RestartsWithoutDoubt) { self.now } else { start };
        trace!(self, "killed and started again, quiet from {quiet_from}");
        self.ledger = Arc::new(Ledger::new(Self::documents_max(self.bounds), moment(quiet_from)));
        self.reference = Reference::new(start);
        Ok(())
    }

    /// Rule 15, after a stop that waits for all writes, if there is none.
    fn stop_cleanly(&mut self) -> Found {
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
        self.ledger = Arc::new(Ledger::with_doubts(Self::documents_max(self.bounds), &doubts));
        Ok(())
    }

    /// Rule 17.
    fn reload(&mut self) -> Found {
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
        if self.bounds.misread {
            self.is_right = !self.is_right;
            if !self.is(Fault::ReloadForgetsQuiet) {
                // Those that ended before, too, may have written what was not declared.
                let latest = self.ledger.view(moment(self.now)).everything.quiet_from;
                self.ledger.notice(&Touched::everything(), latest, Cause::RELOADED);
                let quiet_from = self.reference.quiet_from();
                self.reference.notice(ALL, order, quiet_from);
            }
        }
        self.retired = Some(old);
        Ok(())
    }
}

// -------------------------------------------------------------------------------------------------------------- answers

/// An answer as it is stored, with its number and its versions.
fn encode(id: u64, versions: &Versions, reads: &Reads, asked: &Asked) -> Stored {
    let words: Vec<String> =
        std::iter::once(id).chain(versions.iter().map(|version| u64::from(*version))).map(|word| word.to_string()).collect();
    let body = Bytes::from(words.join(" "));
    let head = http::Response::builder().header("content-length", body.len()).body(()).expect("a sound head").into_parts().0;
    let kept = replay::keep(&head, &body, &rules()).expect("a small answer");
    Stored { kept, reads: reads.clone(), s: asked.s, asked_at: asked.asked_at, route: RouteId(2) }
}

/// The number of a replayed answer, and its versions.
fn decode(response: Response) -> (u64, Versions) {
    let Body::Full(body) = response.into_body() else { panic!("a replay without a body") };
    let text = std::str::from_utf8(&body).expect("digits");
    let mut words = text.split(' ').map(|word| word.parse::<u64>().expect("a number"));
    let id = words.next().expect("its number");
    let mut versions = [0; LEAVES];
    for (version, word) in versions.iter_mut().zip(words) {
        *version = u32::try_from(word).expect("a version");
    }
    (id, versions)
}
