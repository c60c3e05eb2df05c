//! The ledger's lock-free part under every interleaving and every value that the memory model allows a load to see (loom), and each of its
//! memory orders weakened alone, which must be caught.
//!
//! The file under test is the crate's own. Its atomics are loom's, in a wrapper that can take one line's order for `Relaxed`.

#[path = "../src/flow/fresh/ledger/atomic.rs"]
mod atomic;

/// What the file under test takes for atomics.
mod sync {
    use std::{
        panic::Location,
        sync::atomic::{AtomicU32, Ordering::SeqCst},
    };

    // Causes decide nothing: they need not be explored.
    pub use std::sync::atomic::{AtomicU16, Ordering};

    /// The line of the file under test whose order is weakened; none is the zeroth.
    pub static WEAKENED: AtomicU32 = AtomicU32::new(0);

    #[track_caller]
    fn weakened(order: Ordering) -> Ordering {
        if Location::caller().line() == WEAKENED.load(SeqCst) { Ordering::Relaxed } else { order }
    }

    #[derive(Debug)]
    pub struct AtomicU64(loom::sync::atomic::AtomicU64);

    impl AtomicU64 {
        pub fn new(value: u64) -> Self {
            Self(loom::sync::atomic::AtomicU64::new(value))
        }

        #[track_caller]
        pub fn load(&self, order: Ordering) -> u64 {
            self.0.load(weakened(order))
        }

        #[track_caller]
        pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            self.0.fetch_add(value, weakened(order))
        }

        #[track_caller]
        pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
            self.0.fetch_sub(value, weakened(order))
        }

        #[track_caller]
        pub fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
            self.0.fetch_max(value, weakened(order))
        }
    }
}

use std::{
    panic,
    sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use loom::{
    sync::{Arc, Mutex, atomic::AtomicU64},
    thread,
};

use self::atomic::{Check, Root, State};

/// A ledger and an app with one document. What the app shows is read and written without any order of its own: where the ledger does not make
/// one, a poll may be shown the old version.
struct World {
    root: Root,
    version: AtomicU64,
    /// The cell of a document with its lock: the number of its last write, and its writers.
    document: Mutex<(u64, u64)>,
}

/// The time at which polls ask; [`LATER`] is after it.
const NOW: u64 = 5;
const LATER: u64 = 10;

/// Runs `write` and `poll` side by side, then `after` with what the poll found.
fn beside<T: 'static>(write: fn(&World), poll: fn(&World) -> T, after: fn(&World, T)) {
    loom::model(move || {
        let world = Arc::new(World { root: Root::new(0, 0, 0), version: AtomicU64::new(0), document: Mutex::new((0, 0)) });
        let writer = thread::spawn({
            let world = Arc::clone(&world);
            move || write(&world)
        });
        let found = poll(&world);
        writer.join().expect("the writer ends");
        after(&world, found);
    });
}

fn solid(state: State) -> bool {
    state.writers == 0 && state.quiet_from <= NOW
}

/// A poll by rule 7: its `s`, whether it is solid, and the version that it was shown.
fn ask(world: &World, cell: fn(&World) -> bool) -> (u64, bool, u64) {
    let s = world.root.sequence();
    let solid = cell(world);
    (s, solid, world.version.load(Relaxed))
}

fn ask_all(world: &World) -> (u64, bool, u64) {
    ask(world, |world| solid(world.root.all()))
}

fn ask_everything(world: &World) -> (u64, bool, u64) {
    ask(world, |world| solid(world.root.everything()))
}

/// What was shown to a solid poll and is proven once all is done is the last version.
fn proven_is_new(world: &World, everything: bool, (s, solid, shown): (u64, bool, u64)) {
    let proven = solid && world.root.check(s, everything) == Check::Unchanged;
    assert!(!proven || shown == world.version.load(Relaxed), "version {shown} is proven, asked at {s}");
}

/// Nothing asked before everything is quiet is proven once a write has begun.
fn nothing_is_proven(world: &World, everything: bool, (s, solid, _): (u64, bool, u64)) {
    assert!(!solid || world.root.check(s, everything) != Check::Unchanged, "a poll in doubt is proven, asked at {s}");
}

fn a_write_of_everything() {
    let write = |world: &World| {
        world.root.enter(1, 0);
        world.root.begin_all(1, 0);
        world.version.store(1, Relaxed);
        world.root.end_all(0);
        world.root.leave(0);
    };
    beside(write, ask_all, |world, found| proven_is_new(world, false, found));
    beside(write, ask_everything, |world, found| proven_is_new(world, true, found));
}

fn a_write_of_one_document() {
    let write = |world: &World| {
        world.root.enter(1, 0);
        {
            let mut document = world.document.lock().expect("nobody panics");
            document.1 += 1;
            document.0 = world.root.next();
        }
        world.version.store(1, Relaxed);
        world.document.lock().expect("nobody panics").1 -= 1;
        world.root.leave(0);
    };
    beside(write, ask_everything, |world, found| proven_is_new(world, true, found));
    let ask_document = |world: &World| ask(world, |world| world.document.lock().expect("nobody panics").1 == 0);
    beside(write, ask_document, |world, (s, solid, shown)| {
        let proven = solid && world.document.lock().expect("nobody panics").0 <= s;
        assert!(!proven || shown == 1, "version {shown} is proven, asked at {s}");
    });
}

fn a_write_whose_end_is_unknown() {
    let write = |world: &World| {
        world.root.enter(1, 0);
        world.root.begin_all(1, 0);
        world.root.end_all(LATER);
        world.root.leave(LATER);
    };
    beside(write, ask_all, |world, found| nothing_is_proven(world, false, found));
    beside(write, ask_everything, |world, found| nothing_is_proven(world, true, found));
}

fn a_notice() {
    let notice = |world: &World| {
        world.root.pass(LATER, 0);
        world.root.notice_all(LATER, 0);
    };
    beside(notice, ask_all, |world, found| nothing_is_proven(world, false, found));
    beside(notice, ask_everything, |world, found| nothing_is_proven(world, true, found));
}

/// Who has seen what such a write made is not given what was before. Seeing it is an order of its own: it came from the app.
fn a_write_that_suspends() {
    let everything = |world: &World| {
        world.root.suspend();
        world.version.store(1, Release);
        world.root.pass(0, 0);
        world.root.notice_all(0, 0);
        world.root.resume();
    };
    let replay = |world: &World| {
        if world.version.load(Acquire) == 1 {
            assert_ne!(world.root.check(0, false), Check::Unchanged, "an answer from before is given");
        }
    };
    beside(everything, replay, |_, ()| ());
    let listed = |world: &World| {
        world.root.suspend();
        world.version.store(1, Release);
        world.document.lock().expect("nobody panics").0 = world.root.next();
        world.root.resume();
    };
    let replay = |world: &World| {
        if world.version.load(Acquire) == 1 && world.root.check(0, false) == Check::Unchanged {
            assert!(world.document.lock().expect("nobody panics").0 > 0, "an answer from before is given");
        }
    };
    beside(listed, replay, |_, ()| ());
}

const SCENARIOS: [fn(); 5] =
    [a_write_of_everything, a_write_of_one_document, a_write_whose_end_is_unknown, a_notice, a_write_that_suspends];

/// Whether some scenario fails.
fn fails() -> bool {
    SCENARIOS.into_iter().any(|scenario| std::thread::spawn(scenario).join().is_err())
}

#[test]
fn nothing_stale_is_proven_and_every_order_is_needed() {
    for scenario in SCENARIOS {
        scenario();
    }
    // A number that is only compared needs no order: what came before it is not looked at because of it.
    let compared = |line: &str| line.contains("_last_write") || line.contains("> s") || line.contains("last_write:");
    let ordered = |line: &str| line.contains("Release)") || line.contains("Acquire)");
    let text = include_str!("../src/flow/fresh/ledger/atomic.rs");
    let lines = (1..).zip(text.lines()).filter(|(_, line)| ordered(line) && !line.trim_start().starts_with("//"));
    let needed: Vec<(u32, &str)> = lines.filter(|(_, line)| !compared(line)).collect();
    assert_eq!(needed.len(), 8, "a line for each order: {needed:#?}");
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let missed: Vec<&(u32, &str)> = needed
        .iter()
        .filter(|(line, _)| {
            sync::WEAKENED.store(*line, SeqCst);
            !fails()
        })
        .collect();
    sync::WEAKENED.store(0, SeqCst);
    panic::set_hook(hook);
    assert!(missed.is_empty(), "weakened alone, these are not caught: {missed:#?}");
}
