//! Runs the checker: a scenario to its end, or a weakened rule up to the shortest trace that breaks a promise.
//!
//! stateright searches breadth first, but goes on for the rest of a block of states after it found something, and remembers what it
//! found last. So a search that found a trace is repeated below its length until it finds none.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use stateright::{Checker, HasDiscoveries, Model};

use crate::{
    model::{Step, World},
    mutations::Weakened,
    promises::Promise,
    scenarios::Scenario,
};

/// What a search found.
pub struct Outcome {
    /// Distinct states.
    pub states: usize,
    /// Steps of the longest of the shortest ways to a state.
    pub depth: usize,
    pub taken: Duration,
    pub broken: Option<(&'static str, Vec<Step>)>,
    /// The steps that were ever taken, by `Step::bit`.
    pub steps: u64,
}

/// All states of a scenario, or the first so many steps (in a debug build).
pub fn explore(scenario: Scenario, weakened: Option<Weakened>, watched: u8, steps_max: Option<usize>) -> Outcome {
    search(scenario, weakened, watched, None, steps_max)
}

/// The shortest trace that breaks this promise, and the distinct states until the first find.
pub fn shortest(scenario: Scenario, weakened: Option<Weakened>, promise: Promise) -> Outcome {
    let mut outcome = search(scenario, weakened, promise.bit(), None, None);
    while let Some((_, trace)) = &outcome.broken {
        let shorter = search(scenario, weakened, promise.bit(), Some(trace.len()), None);
        if shorter.broken.is_none() {
            break;
        }
        outcome = Outcome { states: outcome.states, taken: outcome.taken + shorter.taken, ..shorter };
    }
    outcome
}

/// A trace of fewer than `below` steps, if there is one.
fn search(scenario: Scenario, weakened: Option<Weakened>, watched: u8, below: Option<usize>, generated_max: Option<usize>) -> Outcome {
    let begun = Instant::now();
    let mut checker = World::new(scenario, weakened, watched).checker().finish_when(HasDiscoveries::AnyFailures);
    if let Some(below) = below {
        // The checker counts states along a path, and judges those before this one.
        checker = checker.target_max_depth(below + 1);
    }
    if let Some(generated_max) = generated_max {
        checker = checker.target_state_count(generated_max);
    }
    let checker = checker.spawn_bfs().join();
    let broken = checker.discoveries().into_iter().map(|(name, path)| (name, path.into_actions())).min_by_key(|(_, trace)| trace.len());
    Outcome {
        states: checker.unique_state_count(),
        depth: checker.max_depth() - 1,
        taken: begun.elapsed(),
        broken,
        steps: checker.model().taken.load(Ordering::Relaxed),
    }
}

/// A trace in one line.
pub fn line(trace: &[Step]) -> String {
    trace.iter().map(Step::to_string).collect::<Vec<_>>().join(" ")
}
