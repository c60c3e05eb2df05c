//! The rules by which syncs are answered from memory, tried in every order in which things can happen.
//!
//! This is a model of the rules, not of the code: it imports nothing of the product. A state is what tidegate, the app and the clients
//! know at some moment (`state`); a step is one thing that happens (`model`): a write begins, commits, is answered or lost
//! (`writes`), a poll is sent, shown something, joined, answered or replayed (`polls`), tidegate is killed, replaced or reloaded
//! (`lives`), a tick passes. What the ledger does stands in `ledger`, rule by rule; what is promised of every answer, in `promises`.
//! The checker (stateright, by way of `check`) visits every state that can be reached in a scenario (`scenarios`) and finds
//! whether any breaks a promise. Bounded are the writes, the polls at the app at once, and the documents. Unbounded are time, the
//! clients, and how often anything but a write happens.
//!
//! That the promises hold shows little unless they can break: `mutations` weakens each rule alone, and the checker must find what
//! breaks, in no more steps than it took when the rules were found.
//!
//! `MODEL=whole cargo test --test model -- --nocapture` (a step of `tests/run`) exhausts every scenario and prints distinct states and
//! seconds: some 16 million states in half a minute on two quiet cores, hardly longer in a debug build than in an optimised one. Without
//! `MODEL=whole` a debug build tries the first 20,000 steps of each scenario; the weakened rules are found out all the same. The largest
//! scenarios, and that a weakened rule breaks only what it should, are for `--ignored` (`tests/long`).

#![expect(clippy::print_stdout, reason = "figures")]
#![expect(clippy::cast_possible_truncation, reason = "every index and every count of the model is below 256")]

mod check;
mod ledger;
mod lives;
mod model;
mod mutations;
mod polls;
mod promises;
mod scenarios;
mod state;
mod writes;

use std::env;

use check::{Outcome, line};
use model::Step;
use mutations::Weakened;
use promises::{Promise, bits};
use scenarios::{self as on, Scenario};

/// How many steps a scenario is explored for; none: to its end.
fn steps_max() -> Option<usize> {
    let whole = !cfg!(debug_assertions) || env::var_os("MODEL").is_some_and(|extent| extent == "whole");
    (!whole).then_some(20_000)
}

// ------------------------------------------------------------------------------------------------------- what holds

macro_rules! holds {
    ($($test:ident: $scenario:ident,)*) => {
        $(#[test]
        fn $test() {
            holds(on::$scenario);
        })*
    };
}

macro_rules! holds_at_length {
    ($($test:ident: $scenario:ident,)*) => {
        $(#[test]
        #[ignore = "millions of states: tests/long"]
        fn $test() {
            holds(on::$scenario);
        })*
    };
}

holds! {
    nothing_is_stale: BASE,
    nothing_is_stale_when_clients_leave: LEAVE,
    nothing_is_stale_with_three_writes: THREE,
    nothing_is_stale_after_a_kill: RESTART,
    nothing_is_stale_with_lagging_replicas: LAG,
    nothing_is_stale_over_two_documents: TWO,
    nothing_is_stale_by_two_routes: ROUTES,
    nothing_is_stale_with_streamed_answers: STREAM,
    nothing_is_stale_with_error_statuses: ERRORS,
    nothing_is_stale_with_retries: RETRY,
    nothing_is_stale_with_upgrades: UPGRADE,
    nothing_is_stale_with_writes_to_everything: STAR,
    nothing_is_stale_with_undeclared_documents: NARROW,
    nothing_is_stale_with_undeclared_documents_and_lag: NARROW_LAG,
    nothing_is_stale_with_undeclared_documents_and_a_kill: NARROW_RESTART,
    nothing_acknowledged_is_missed_where_nothing_is_pending: PENDING,
    nothing_acknowledged_is_missed_that_was_announced: NOTICE,
    nothing_acknowledged_is_missed_without_doubt: WITHOUT_DOUBT,
    nothing_is_staler_than_the_age_limit: AGE,
    nothing_is_staler_than_the_age_limit_and_the_lag: AGE_LAG,
    nothing_is_staler_than_the_age_limit_of_an_app_that_is_down: AGE_DOWN,
    no_audit_is_wrong: AUDIT,
    no_audit_is_wrong_with_lagging_replicas: AUDIT_LAG,
    the_next_poll_is_right: NEXT,
    the_next_poll_is_right_with_lagging_replicas: NEXT_LAG,
    the_next_poll_is_right_after_a_kill: NEXT_RESTART,
    nothing_is_stale_through_a_hand_over: HAND_OVER,
    nothing_is_stale_through_a_hand_over_with_lag: HAND_OVER_LAG,
    nothing_is_stale_through_a_reload: RELOAD,
    nothing_is_stale_through_a_reload_with_lag: RELOAD_LAG,
    nothing_is_stale_through_a_reload_with_retries: RELOAD_RETRY,
    no_audit_is_wrong_through_a_reload: RELOAD_AUDIT,
    nothing_is_stale_once_the_profile_is_corrected: CORRECTED,
}

holds_at_length! {
    at_length_clients_leave_three_writes: LEAVE_THREE,
    at_length_three_writes_two_polls: THREE_TWICE,
    at_length_three_writes_restart: THREE_RESTART,
    at_length_three_writes_lag: THREE_LAG,
    at_length_next_three_writes_lag: NEXT_THREE_LAG,
    at_length_two_documents_two_polls: TWO_TWICE,
    at_length_hand_over_audit: HAND_OVER_AUDIT,
    at_length_two_reloads: RELOAD_TWICE,
    at_length_reload_two_polls: RELOAD_POLLS,
}

/// No promise breaks, and everything happened that may: promises are easily kept where nothing does.
fn holds(scenario: Scenario) {
    let outcome = check::explore(scenario, None, bits(scenario.promises), steps_max());
    report(scenario.name, &outcome);
    if let Some((promise, trace)) = &outcome.broken {
        panic!("{}: {promise} breaks: {}", scenario.name, line(trace));
    }
    if steps_max().is_none() {
        let never: Vec<String> =
            expected(&scenario).into_iter().filter(|step| outcome.steps & step.bit() == 0).map(|step| step.to_string()).collect();
        assert!(never.is_empty(), "{}: never happened: {}", scenario.name, never.join(" "));
    }
}

fn report(name: &str, outcome: &Outcome) {
    let seconds = outcome.taken.as_secs_f64();
    println!("{name:<32}{:>10} states, {:>2} steps deep, {seconds:>6.1} s", outcome.states, outcome.depth);
}

/// What must happen in a scenario at least once.
fn expected(scenario: &Scenario) -> Vec<Step> {
    use Step as S;
    let always = [S::Begin(0, 0), S::Commit(0), S::Answer(0), S::End(0), S::Acknowledge(0), S::Lose(0), S::Ask(0)];
    let mut steps = always.to_vec();
    steps.extend([S::Show(0, 0, state::Effects::NONE), S::Deliver(0), S::Replay(0), S::Join(0), S::Tick, S::Evict(0)]);
    let where_it_may: [(bool, &[Step]); 14] = [
        (scenario.late > 0, &[S::Late(0)]),
        (scenario.kill, &[S::Kill]),
        (scenario.leave, &[S::Leave(0)]),
        (scenario.leave && scenario.next, &[S::LeaveWaiting(0)]),
        (scenario.next, &[S::Wait(0), S::ReplayWaiting(0), S::AskWaiting(0)]),
        (scenario.stream, &[S::Head(0)]),
        (scenario.errors, &[S::Error(0)]),
        (scenario.retry, &[S::Retry(0, 1), S::Unsent(0)]),
        (scenario.upgrade, &[S::Close(0)]),
        (scenario.audit, &[S::Audit(0)]),
        (scenario.hand_over, &[S::HandOver, S::BeginOld(0, 0), S::OldEnds]),
        (scenario.reloads > 0, &[S::Reload, S::Queue(0, 0)]),
        (scenario.age_max_down > scenario.age_max, &[S::Turn]),
        (scenario.promises.contains(&Promise::Backwards), &[S::Look(0)]),
    ];
    steps.extend(where_it_may.iter().filter(|(may, _)| *may).flat_map(|(_, steps)| *steps));
    steps
}

// ---------------------------------------------------------------------------------------------- what is meant to fail

#[test]
fn an_app_that_commits_later_than_doubt_makes_answers_stale() {
    fails(on::TOO_LATE, Promise::Shown, 9);
    fails(on::TOO_LATE, Promise::Shared, 9);
}

#[test]
fn a_replica_that_lags_longer_than_settle_makes_answers_stale() {
    fails(on::TOO_LAGGING, Promise::Shown, 10);
    fails(on::TOO_LAGGING, Promise::Shared, 10);
}

#[test]
fn documents_from_the_header_only_do_without_rule_13_at_a_price() {
    fails(on::HEADER_ONLY, Promise::Shown, 6);
    fails(on::HEADER_ONLY, Promise::Shared, 6);
}

#[test]
fn an_audit_finds_a_write_that_went_past_tidegate() {
    fails(on::HIDDEN, Promise::Audit, 8);
}

fn fails(scenario: Scenario, promise: Promise, steps: usize) {
    let outcome = check::shortest(scenario, None, promise);
    let (_, trace) = outcome.broken.as_ref().unwrap_or_else(|| panic!("{}: {} holds", scenario.name, promise.name()));
    println!("{:<46}{:<6}{:>3} steps (known: {steps:>2}): {}", scenario.name, promise.name(), trace.len(), line(trace));
    assert!(trace.len() <= steps, "{}: a trace of {steps} steps was known", scenario.name);
}

// --------------------------------------------------------------------------------------------- what each rule is for

macro_rules! needed {
    ($($test:ident: $($weakened:ident)*,)*) => {
        const TRIED: &[&[Weakened]] = &[$(&[$(Weakened::$weakened),*],)*];

        $(#[test]
        fn $test() {
            [$(Weakened::$weakened),*].into_iter().for_each(breaks);
        })*
    };
}

needed! {
    a_begin_must_come_before_the_first_byte: BeginAfterFirstByte,
    a_begin_must_raise_last_write: BeginNoLastWrite,
    a_begin_must_count_a_writer: BeginNoWriters,
    a_new_entry_must_take_over_the_floor: EntryForgetsFloorQuiet,
    a_known_end_must_wait_for_the_replicas: EndNoSettle,
    a_write_must_not_end_at_the_head_of_its_answer: EndAtHead,
    an_error_status_must_leave_doubt: ErrorIsKnown,
    a_retry_must_leave_doubt_of_the_first_attempt: RetryForgetsFirst,
    a_closed_tunnel_must_leave_doubt: CloseIsKnown,
    doubt_must_last_as_long_as_the_app_may_commit: DoubtTickShort NoDoubt,
    doubt_must_include_the_lag: DoubtWithoutSettle,
    a_quiet_time_must_never_shrink: QuietOverwritten,
    s_must_be_noted_before_the_poll_is_sent: SAtArrival,
    a_solid_poll_must_meet_no_writer_and_no_doubt: SolidIgnoresWriters SolidIgnoresQuiet,
    every_document_of_a_poll_must_be_looked_at: FirstDocumentOnly,
    a_replay_must_compare_last_write: ReplayIgnoresWrites,
    age_must_be_limited_and_counted_from_asking: AgeFromStoring NoAgeLimit,
    a_write_of_unknown_documents_must_suspend_all: ReplayIgnoresSuspended JoinIgnoresSuspended NarrowNotSuspended,
    only_a_solid_poll_that_proves_may_be_joined: JoinNotSolid JoinIgnoresWrites JoinQuietNow,
    those_who_wait_must_get_the_next_poll: NextGetsTheRunning,
    an_entry_with_writers_must_stay: EvictWriters,
    a_dropped_entry_must_raise_the_floor: FloorNotRaised FloorQuietNotRaised,
    a_miss_must_read_the_floor: LookupIgnoresFloor,
    a_start_must_be_in_doubt_and_empty: RestartNoDoubt RestartKeepsStore,
    a_hand_over_must_hold_and_silence_the_old: HandOverNoHold OldStillReplays,
    a_notice_must_come_first_and_make_its_entry: NoticeAfterAnswer NoticeNeedsEntry,
    an_audit_must_be_judged_when_its_answer_has_come: AuditCheckedAtSend,
    the_clock_must_not_jump: WallClock,
    a_reload_must_hold_for_requests_under_way: ReloadNoHold ReloadForgetsQueued,
    a_reload_must_leave_doubt: ReloadForgetsDoubt ReloadCarriesDoubt,
    a_reload_must_empty_the_store: ReloadKeepsStore,
    a_reload_must_let_go_of_polls_in_flight: ReloadKeepsPolls,
    a_reload_must_let_go_of_audits_in_flight: ReloadKeepsAudits,
    a_reload_must_mind_every_attempt_of_a_request: ReloadForgetsFirstAttempt,
}

/// With this rule weakened, what was known to break does break, in no more steps than were known.
fn breaks(weakened: Weakened) {
    let row = weakened.row();
    for (promise, known) in row.breaks() {
        let outcome = check::shortest(row.scenario, Some(weakened), promise);
        let Some((_, trace)) = &outcome.broken else {
            panic!("{}: {} holds, known to break by {}", row.rule, promise.name(), row.trace);
        };
        let (steps, states) = (trace.len(), outcome.states);
        println!("{:<64}{:<6}{steps:>3} steps (known: {known:>2}), {states:>7} states: {}", row.rule, promise.name(), line(trace));
        assert!(steps <= known, "{}: {} breaks by {}, and in {known} steps", row.rule, promise.name(), row.trace);
    }
}

#[test]
fn every_weakened_rule_is_tried() {
    let tried: Vec<Weakened> = TRIED.concat();
    let missing: Vec<&Weakened> = Weakened::EVERY.iter().filter(|weakened| !tried.contains(weakened)).collect();
    assert!(missing.is_empty(), "not tried: {missing:?}");
}

#[test]
#[ignore = "each a whole space: tests/long"]
fn a_weakened_rule_breaks_only_what_it_should() {
    for weakened in Weakened::EVERY {
        let row = weakened.row();
        let outcome = check::explore(row.scenario, Some(*weakened), bits(&row.keeps()), steps_max());
        report(row.rule, &outcome);
        if let Some((promise, trace)) = &outcome.broken {
            panic!("{}: {promise} breaks: {}", row.rule, line(trace));
        }
    }
}
