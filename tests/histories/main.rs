//! The real ledger, answers and joins against a slow reference that remembers everything, over random histories of devices, a simulated app
//! and all that can go wrong between them. What must hold of each answer that is not the poll's own: every document in it is at least as new as the app's own state when it
//! was checked; acknowledged writes are seen; none is answered while a write that nobody knows the end of may come; no device sees an older
//! version than it has seen. And whatever the reference proves is answered, unless it was evicted, so that nothing is proven by silence.
//!
//! A history that fails is cut down to the steps that it takes. `SEED=n` runs one history again, `HISTORIES=n` more of them; `TELL=1` tells how
//! each fault is found.

#![expect(clippy::similar_names, clippy::struct_excessive_bools, reason = "attempts have many facts, and verbs have tenses")]
#![expect(clippy::unnecessary_wraps, reason = "every step of a history has one form")]
#![expect(clippy::print_stdout, reason = "seeds are to be seen")]

mod app;
mod bounds;
mod coding;
mod reference;
mod threads;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bounds::{Bounds, Fault, Kind, Seen, Step};
use world::{Found, World};

/// The steps of a history.
const STEPS: usize = 400;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// How often each kind of step comes.
const WEIGHTS: [(Kind, usize); 25] = [
    (Kind::Tick, 64),
    (Kind::Sleep, 1),
    (Kind::Poll, 56),
    (Kind::Arrive, 80),
    (Kind::Ask, 52),
    (Kind::FirstByte, 44),
    (Kind::Read, 16),
    (Kind::Answer, 60),
    (Kind::Leave, 10),
    (Kind::BreakOff, 4),
    (Kind::Refresh, 10),
    (Kind::Write, 16),
    (Kind::Begin, 16),
    (Kind::Send, 16),
    (Kind::Unsend, 4),
    (Kind::Commit, 16),
    (Kind::Whole, 12),
    (Kind::End, 12),
    (Kind::Acknowledge, 12),
    (Kind::Lose, 4),
    (Kind::Told, 6),
    (Kind::Others, 6),
    (Kind::Restart, 1),
    (Kind::Stop, 1),
    (Kind::Reload, 1),
];

/// Room for more documents than there are.
const ROOM: usize = 4_096;

/// Room for some of them, in several shards: a document and its reader's credential need not be forgotten together.
const CROWD: usize = 32;

/// The steps of writes.
const WRITING: [Kind; 9] =
    [Kind::Write, Kind::Begin, Kind::Send, Kind::Commit, Kind::Whole, Kind::End, Kind::Acknowledge, Kind::Lose, Kind::Others];

/// How the history of this seed is bounded.
fn bounds(random: &mut fastrand::Rng, fault: Fault) -> Bounds {
    let settle = random.u64(0..4);
    let documents_max = [2, CROWD, CROWD, ROOM, ROOM, ROOM][random.usize(0..6)];
    let base = Bounds {
        settle,
        doubt: if documents_max == CROWD || random.u8(0..4) == 0 { 15 } else { random.u64(1..8) },
        age_max: random.u64(10..60),
        lag: if random.bool() { settle } else { 0 },
        members_max: random.usize(0..5),
        roomy: documents_max == ROOM,
        documents_max,
        secret: [random.u64(..), random.u64(..)],
        hidden: random.u8(0..4) == 0,
        pending: random.u8(0..4) == 0,
        misread: random.u8(0..4) == 0,
        reads: std::array::from_fn(|_| random.u8(..)),
        writes: std::array::from_fn(|_| random.u8(..)),
        compared: fault == Fault::None,
        fault,
    };
    match fault {
        Fault::NoSettle => Bounds { settle: 3, lag: 3, ..base },
        Fault::NoticeAfterAnswer => Bounds { hidden: true, ..base },
        Fault::JudgesWithoutLedger => Bounds { hidden: false, pending: false, ..base },
        Fault::ReloadForgetsRunning => Bounds { misread: true, ..base },
        Fault::ReloadForgetsQuiet => Bounds { misread: true, documents_max: ROOM, doubt: 12, reads: [1, 1], writes: [0, 0, 0], ..base },
        Fault::Undeclared => Bounds { misread: false, ..base },
        _ => base,
    }
}

fn history(seed: u64, fault: Fault) -> (Bounds, Vec<Step>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let bounds = bounds(&mut random, fault);
    // In some histories there are as many writes as polls.
    let writes = if bounds.documents_max == CROWD || random.u8(0..4) == 0 { 4 } else { 1 };
    let weight = |kind: Kind, weight: usize| if WRITING.contains(&kind) { writes * weight } else { weight };
    let kinds: Vec<Kind> = WEIGHTS.iter().flat_map(|(kind, usual)| std::iter::repeat_n(*kind, weight(*kind, *usual))).collect();
    let mut step = || Step(kinds[random.usize(..kinds.len())], std::array::from_fn(|_| random.u8(..)));
    let often = |step: Step| match step.0 {
        // What it takes is rare.
        Kind::Restart | Kind::Stop if fault == Fault::ReloadForgetsQuiet => Step(Kind::Reload, step.1),
        _ => step,
    };
    (bounds, (0..STEPS).map(|_| often(step())).collect())
}

fn run(world: &mut World, steps: &[Step]) -> Found {
    let all = AssertUnwindSafe(|| steps.iter().try_for_each(|step| world.step(*step)));
    catch_unwind(all).unwrap_or_else(|_| Err("it panicked".to_owned()))
}

/// The fewest steps that still fail, by leaving out ever smaller parts.
fn shrink(bounds: Bounds, mut steps: Vec<Step>) -> Vec<Step> {
    let mut part = steps.len().div_ceil(2);
    loop {
        let mut from = 0;
        let before = steps.len();
        while from < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(from..(from + part).min(steps.len()));
            if run(&mut World::new(bounds), &fewer).is_err() {
                steps = fewer;
            } else {
                from += part;
            }
        }
        if part == 1 && steps.len() == before {
            return steps;
        }
        part = (part / 2).max(1);
    }
}

/// What a failure looks like: the shortest history, told step by step.
fn tell(seed: u64, bounds: Bounds, steps: Vec<Step>) -> String {
    let steps = shrink(bounds, steps);
    let mut world = World::new(bounds);
    world.trace = Some(Vec::new());
    let found = run(&mut world, &steps);
    format!("SEED={seed} {bounds:?}\n  {}\n{found:?}", world.trace.unwrap_or_default().join("\n  "))
}

fn add(sum: &mut Seen, seen: Seen) {
    for (sum, seen) in sum.counts().into_iter().zip({ seen }.counts()) {
        *sum += *seen;
    }
}

/// How often each thing must be seen in a thousand histories, about half of what is usual.
const SEEN_MIN: [u64; 12] = [20_000, 4_000, 800, 300, 1_500, 5, 150, 2_500, 1_000, 200, 500, 400];

#[test]
fn no_history_breaks_a_promise_and_all_that_is_provable_is_answered() {
    let first = number("SEED").unwrap_or(0);
    let histories = number("HISTORIES").unwrap_or(if number("SEED").is_some() { 1 } else { 3_000 });
    let mut seen = Seen::default();
    for seed in first..first + histories {
        let (bounds, steps) = history(seed, Fault::None);
        let mut world = World::new(bounds);
        let found = run(&mut world, &steps);
        assert!(found.is_ok(), "{}", tell(seed, bounds, steps));
        add(&mut seen, world.seen);
    }
    println!("{} steps in {histories} histories from seed {first}: {seen:?}", histories * STEPS as u64);
    if histories >= 1_000 {
        for (count, least) in { seen }.counts().into_iter().zip(SEEN_MIN) {
            assert!(*count >= least * histories / 1_000, "too seldom seen: {seen:?}");
        }
    }
}

/// In how many histories a fault must be found.
const FAULT_HISTORIES: u64 = 10_000;

fn is_found(fault: Fault) -> Option<u64> {
    (0..FAULT_HISTORIES).find(|seed| {
        let (bounds, steps) = history(*seed, fault);
        let found = run(&mut World::new(bounds), &steps);
        if number("TELL").is_some() && found.is_err() {
            println!("{fault:?}: {}", tell(*seed, bounds, steps));
        }
        found.is_err()
    })
}

#[test]
fn every_weaker_rule_and_every_app_that_breaks_its_word_is_found_out_by_the_promises_alone() {
    let faults = [
        Fault::CommitsTooLate,
        Fault::LagsTooLong,
        Fault::CommitsAfterAnswer,
        Fault::Undeclared,
        Fault::BeginsAfterFirstByte,
        Fault::ErrorIsKnown,
        Fault::RetryForgetsFirst,
        Fault::TunnelIsKnown,
        Fault::NoDoubt,
        Fault::NoSettle,
        Fault::OnlyFirstDocument,
        Fault::SequenceAtAnswer,
        Fault::KeepsNotSolid,
        Fault::JoinsNotSolid,
        Fault::JoinsUnproven,
        Fault::NotSuspended,
        Fault::ListAfterAnswer,
        Fault::NoticeAfterAnswer,
        Fault::RestartsWithoutDoubt,
        Fault::RestartKeepsAnswers,
        Fault::ReloadForgetsRunning,
        Fault::ReloadForgetsQuiet,
        Fault::JudgesWithoutLedger,
    ];
    let missed: Vec<Fault> = faults
        .into_iter()
        .filter(|fault| {
            let found = is_found(*fault);
            println!("{fault:?}: found in history {found:?}");
            found.is_none()
        })
        .collect();
    assert!(missed.is_empty(), "not found in {FAULT_HISTORIES} histories each: {missed:?}");
}
