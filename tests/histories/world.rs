//! One history: the real ledger, answers and joins between devices and a simulated app, driven as the path drives them, step by step, and
//! compared with the reference after each. Time is passed in; nothing here waits.

mod polls;
mod promises;
mod restarts;
mod writes;

use std::{sync::Arc, time::Duration};

use tidegate::{
    clock::Moment,
    flow::fresh::{
        answers::Answers,
        join::Joins,
        keys::{Key, Keyring},
        ledger::{Ledger, generation::shell::Generation},
    },
    model::Scope,
    profile::RouteId,
};

use self::{
    polls::{Poll, Record},
    writes::Write,
};
use super::{
    app::{App, LEAVES, Versions},
    bounds::{Bounds, Fault, Kind, Seen, Step},
    reference::{ALL, Mask, Reference},
};

/// A broken promise, or a difference from the reference.
pub type Found = Result<(), String>;

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

/// What a history consists of.
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

use trace;

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

impl World {
    pub fn new(bounds: Bounds) -> Self {
        let start = bounds.doubt + bounds.settle;
        Self {
            bounds,
            now: 0,
            boot: 0,
            order: 0,
            keys: Keyring::new(bounds.secret, 16),
            ledger: Arc::new(Ledger::new(bounds.documents_max, moment(start))),
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
            Kind::Others => self.others(a),
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
}
