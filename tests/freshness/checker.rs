//! Says afterwards what was promised and not kept. It knows nothing of caches: only what clients saw, and what was true.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use crate::history::{At, By, FIRST, History, Outcome, Seen, Truth, Version};

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// P1: a poll that starts after a write was acknowledged shows it.
    Acknowledged,
    /// P2: a write whose outcome no client knows is shown as soon as the service shows it.
    Lost,
    /// The strong form of both: a write is shown from its commit on, before its acknowledgement arrives too.
    Current,
    /// P3: who has seen a version is never given an older one.
    Forward,
    /// An answer holds exactly the changes between the version asked for and the version told.
    Exact,
    /// Every write comes to the service once at most, and stands in the database once at most.
    Once,
    /// What was acknowledged is in the database.
    Kept,
    /// What was refused is not.
    Refused,
    /// Nobody gets what only others may see.
    Private,
    /// An answer that is said to be whole is whole.
    Whole,
    /// At the end all clients hold what the service holds.
    Converged,
}

/// One breach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub promise: Promise,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.promise, self.what)
    }
}

/// All breaches, those of the answers first.
pub fn check(history: &History, truth: &Truth) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |promise, what| found.push(Violation { promise, what });
    answers(history, truth, &mut report);
    forward(history, &mut report);
    exact(history, truth, &mut report);
    writes(history, truth, &mut report);
    for what in &history.leaks {
        report(Promise::Private, what.clone());
    }
    for what in &history.mangled {
        report(Promise::Whole, what.clone());
    }
    converged(history, truth, &mut report);
    found
}

/// How many breaches of each promise.
pub fn count(found: &[Violation]) -> BTreeMap<Promise, usize> {
    let mut counts = BTreeMap::new();
    for violation in found {
        *counts.entry(violation.promise).or_default() += 1;
    }
    counts
}

/// When each change was first acknowledged.
fn acknowledged(history: &History) -> HashMap<&str, At> {
    let mut first = HashMap::new();
    for push in &history.pushes {
        if let Outcome::Acknowledged(at) = push.outcome {
            let known = first.entry(push.change.as_str()).or_insert(at);
            *known = at.min(*known);
        }
    }
    first
}

/// A version with the earliest time from which every poll must show it.
struct Due<'a> {
    made: &'a Version,
    acknowledged: Option<At>,
    /// The earliest of this version's and all later ones': a later version shows this one too.
    at: At,
}

fn dues<'a>(versions: &'a [Version], acknowledged: &HashMap<&str, At>) -> Vec<Due<'a>> {
    let mut earliest = At::MAX;
    let mut dues: Vec<Due<'a>> = Vec::with_capacity(versions.len());
    for version in versions.iter().rev() {
        let told = acknowledged.get(version.change.as_str()).copied();
        earliest = earliest.min(version.shown).min(told.unwrap_or(At::MAX));
        dues.push(Due { made: version, acknowledged: told, at: earliest });
    }
    dues.reverse();
    dues
}

/// P1, P2 and the strong form: an answer is not older than what was due when its poll began.
fn answers(history: &History, truth: &Truth, report: &mut impl FnMut(Promise, String)) {
    let acknowledged = acknowledged(history);
    let dues: Vec<_> = truth.versions.iter().map(|versions| dues(versions, &acknowledged)).collect();
    for seen in &history.seen {
        let dues = &dues[seen.document];
        let newer = &dues[dues.partition_point(|due| due.made.number <= seen.version)..];
        if newer.first().is_none_or(|due| due.at >= seen.begun) {
            continue;
        }
        let (mut told, mut lost, mut shown) = (None, None, None);
        for due in newer {
            match due.acknowledged {
                Some(at) if at < seen.begun => told = told.or(Some((due, at))),
                None if due.made.shown < seen.begun => lost = lost.or(Some((due, due.made.shown))),
                Some(_) if due.made.shown < seen.begun => shown = shown.or(Some((due, due.made.shown))),
                _ => {}
            }
        }
        for (promise, broken) in [(Promise::Acknowledged, told), (Promise::Lost, lost), (Promise::Current, shown)] {
            if let Some((due, at)) = broken {
                report(promise, format!("{} began {} us after version {} was due", told_by(seen), seen.begun - at, due.made.number));
            }
        }
    }
}

fn told_by(seen: &Seen) -> String {
    let by = match seen.by {
        By::Service => "forwarded",
        By::Replay => "a replay",
        By::Join => "a join",
    };
    format!("client {}, document {}, version {} ({by}, {} to {} us)", seen.client, seen.document, seen.version, seen.begun, seen.ended)
}

/// P3. The answers of one client, in the order of their questions; it has one question at a time.
fn forward(history: &History, report: &mut impl FnMut(Promise, String)) {
    let mut order: Vec<&Seen> = history.seen.iter().collect();
    order.sort_by_key(|seen| (seen.client, seen.document, seen.begun));
    let mut last: Option<&Seen> = None;
    for seen in order {
        let before = last.filter(|before| (before.client, before.document) == (seen.client, seen.document));
        match before.filter(|before| before.version > seen.version) {
            Some(before) => report(Promise::Forward, format!("{} had seen version {}", told_by(seen), before.version)),
            None => last = Some(seen),
        }
    }
}

/// What an answer says is what the service holds.
fn exact(history: &History, truth: &Truth, report: &mut impl FnMut(Promise, String)) {
    for seen in &history.seen {
        let exists = seen.version == FIRST || truth.versions[seen.document].iter().any(|known| known.number == seen.version);
        if !exists {
            report(Promise::Exact, format!("{}: there is no such version", told_by(seen)));
            continue;
        }
        let Some(changes) = &seen.changes else { continue };
        let expected = truth.changes(seen.document, seen.asked, seen.version);
        let got: BTreeSet<&str> = changes.iter().map(String::as_str).collect();
        if got != expected || got.len() != changes.len() {
            report(Promise::Exact, format!("{} since {}: told {changes:?}, not {expected:?}", told_by(seen), seen.asked));
        }
    }
}

/// Each write once, none lost, none that was refused.
fn writes(history: &History, truth: &Truth, report: &mut impl FnMut(Promise, String)) {
    for (request, times) in truth.arrivals.iter().filter(|(_, times)| **times > 1) {
        report(Promise::Once, format!("request {request} came {times} times"));
    }
    for (change, times) in truth.applied.iter().filter(|(_, times)| **times > 1) {
        report(Promise::Once, format!("change {change} stands {times} times in the database"));
    }
    let mut refused_only: HashMap<&str, bool> = HashMap::new();
    for push in &history.pushes {
        *refused_only.entry(push.change.as_str()).or_insert(true) &= push.outcome == Outcome::Refused;
        if matches!(push.outcome, Outcome::Acknowledged(_)) && !truth.applied.contains_key(&push.change) {
            report(Promise::Kept, format!("change {} of document {} was acknowledged and is gone", push.change, push.document));
        }
    }
    for change in truth.applied.keys() {
        match refused_only.get(change.as_str()) {
            Some(false) => {}
            Some(true) => report(Promise::Refused, format!("change {change} was refused and is in the database")),
            None => report(Promise::Once, format!("change {change} was sent by nobody")),
        }
    }
}

fn converged(history: &History, truth: &Truth, report: &mut impl FnMut(Promise, String)) {
    for replica in &history.replicas {
        let last = truth.last(replica.document);
        let expected = truth.changes(replica.document, FIRST, last);
        let held: BTreeSet<&str> = replica.changes.iter().map(String::as_str).collect();
        if replica.version != last || held != expected {
            let missing: Vec<_> = expected.difference(&held).collect();
            let more: Vec<_> = held.difference(&expected).collect();
            let what = format!(
                "client {} holds version {} of document {} and not {last}; missing {missing:?}, too many {more:?}",
                replica.client, replica.version, replica.document
            );
            report(Promise::Converged, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Push, Replica};

    /// Document 0: change `a` made version 2 at 100 and was acknowledged at 120; `b` made version 3 at 200, and its answer was lost.
    fn world() -> (History, Truth) {
        let version = |number, change: &str, shown| Version { number, change: change.to_owned(), shown };
        let truth = Truth {
            versions: vec![vec![version(2, "a", 100), version(3, "b", 200)]],
            applied: [("a".to_owned(), 1), ("b".to_owned(), 1)].into(),
            arrivals: [("1".to_owned(), 1), ("2".to_owned(), 1)].into(),
        };
        let push =
            |change: &str, request: &str, outcome| Push { document: 0, change: change.to_owned(), request: request.to_owned(), outcome };
        let history =
            History { pushes: vec![push("a", "1", Outcome::Acknowledged(120)), push("b", "2", Outcome::Unknown)], ..History::default() };
        (history, truth)
    }

    fn seen(begun: At, asked: u32, version: u32, changes: &[&str]) -> Seen {
        let changes = Some(changes.iter().map(|change| (*change).to_owned()).collect());
        Seen { client: 0, document: 0, begun, ended: begun + 5, asked, version, changes, by: By::Replay }
    }

    /// The promises that are broken if clients saw this.
    fn broken(answers: &[Seen]) -> Vec<Promise> {
        let (mut history, truth) = world();
        history.seen = answers.to_vec();
        check(&history, &truth).iter().map(|violation| violation.promise).collect()
    }

    #[test]
    fn a_history_in_which_all_went_well_has_no_violation() {
        assert_eq!(broken(&[seen(10, 1, 1, &[]), seen(130, 1, 2, &["a"]), seen(150, 2, 2, &[]), seen(201, 1, 3, &["a", "b"])]), []);
    }

    #[test]
    fn a_poll_may_be_older_than_what_was_committed_after_it_began() {
        assert_eq!(broken(&[seen(99, 1, 1, &[]), seen(200, 2, 2, &[])]), []);
    }

    #[test]
    fn a_poll_that_began_after_an_acknowledgement_must_show_the_write() {
        assert_eq!(broken(&[seen(121, 1, 1, &[])]), [Promise::Acknowledged]);
    }

    #[test]
    fn a_poll_that_began_between_commit_and_acknowledgement_must_show_the_write() {
        assert_eq!(broken(&[seen(110, 1, 1, &[])]), [Promise::Current]);
    }

    #[test]
    fn a_write_whose_answer_was_lost_must_be_shown_once_the_service_shows_it() {
        assert_eq!(broken(&[seen(201, 2, 2, &[])]), [Promise::Lost]);
        assert_eq!(broken(&[seen(201, 1, 1, &[])]), [Promise::Acknowledged, Promise::Lost]);
    }

    #[test]
    fn a_client_must_not_go_backwards_even_where_nothing_was_due() {
        assert_eq!(broken(&[seen(90, 1, 2, &["a"]), seen(95, 1, 1, &[])]), [Promise::Forward]);
        let other = Seen { client: 1, ..seen(95, 1, 1, &[]) };
        assert_eq!(broken(&[seen(90, 1, 2, &["a"]), other]), [], "another client may");
    }

    #[test]
    fn an_answer_must_hold_exactly_the_changes_that_were_asked_for() {
        for wrong in [&["a", "b"][..], &[], &["x"], &["a", "a"]] {
            assert_eq!(broken(&[seen(130, 1, 2, wrong)]), [Promise::Exact], "{wrong:?}");
        }
        assert_eq!(broken(&[seen(130, 1, 7, &["a"])]), [Promise::Exact], "a version that never was");
        assert_eq!(broken(&[Seen { changes: None, ..seen(130, 1, 2, &[]) }]), [], "it told versions only");
    }

    /// The promises that are broken after this change to a history in which all went well.
    fn broken_by(change: impl FnOnce(&mut History, &mut Truth)) -> Vec<Promise> {
        let (mut history, mut truth) = world();
        change(&mut history, &mut truth);
        check(&history, &truth).iter().map(|violation| violation.promise).collect()
    }

    #[test]
    fn a_write_must_come_once_and_stand_once() {
        assert_eq!(broken_by(|_, truth| *truth.arrivals.get_mut("1").expect("there") = 2), [Promise::Once]);
        assert_eq!(broken_by(|_, truth| *truth.applied.get_mut("a").expect("there") = 2), [Promise::Once]);
        assert_eq!(broken_by(|_, truth| truth.applied.extend([("x".to_owned(), 1)])), [Promise::Once], "sent by nobody");
    }

    #[test]
    fn an_acknowledged_write_must_be_there_and_a_lost_one_need_not() {
        assert_eq!(broken_by(|_, truth| truth.applied.retain(|change, _| change != "a")), [Promise::Kept]);
        assert_eq!(broken_by(|_, truth| truth.applied.retain(|change, _| change != "b")), []);
    }

    #[test]
    fn a_refused_write_must_not_be_there_unless_it_was_sent_again() {
        assert_eq!(broken_by(|history, _| history.pushes[1].outcome = Outcome::Refused), [Promise::Refused]);
        let again = |history: &mut History, _: &mut Truth| {
            history.pushes.push(Push { request: "3".to_owned(), outcome: Outcome::Refused, ..history.pushes[1].clone() });
        };
        assert_eq!(broken_by(again), []);
    }

    #[test]
    fn every_client_must_hold_what_the_service_holds_at_the_end() {
        let replica = |version, changes: &[&str]| Replica {
            client: 0,
            document: 0,
            version,
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
        };
        assert_eq!(broken_by(|history, _| history.replicas.push(replica(3, &["a", "b"]))), []);
        for wrong in [replica(2, &["a"]), replica(3, &["a"]), replica(3, &["a", "b", "c"])] {
            assert_eq!(broken_by(|history, _| history.replicas.push(wrong)), [Promise::Converged]);
        }
    }

    #[test]
    fn leaks_and_half_answers_are_violations() {
        assert_eq!(broken_by(|history, _| history.leaks.push(String::new())), [Promise::Private]);
        assert_eq!(broken_by(|history, _| history.mangled.push(String::new())), [Promise::Whole]);
    }
}
