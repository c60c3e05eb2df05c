//! The end of the demo: the table side by side and the verdict, as text.

use std::{fmt::Write, time::Duration};

use super::{
    figures::{Figures, Row, Share},
    kind::Kind,
    scenario::Scenario,
};

/// The share of normal syncs that tidegate is to answer in good time during an incident, in percent.
const GOAL: f64 = 98.0;

/// The shares that answering unchanged syncs itself is to reach, in percent.
pub mod goals {
    /// Of the database seconds that go into no-op syncs: saved.
    pub const SAVED: f64 = 60.0;
    /// Of the large polls in the surge: answered within the client's time-out.
    pub const LARGE_POLLS: f64 = 85.0;
    /// The same with the imports beside it.
    pub const LARGE_POLLS_BESIDE_IMPORTS: f64 = 75.0;
    /// Of the polls in a maintenance window: answered.
    pub const MAINTENANCE: f64 = 80.0;
}

/// Both sides' figures, side by side.
#[must_use]
pub fn table(scenario: &Scenario, bare: &Figures, behind: &Figures) -> String {
    let mut text = String::new();
    let heads = "offered  <=1 s    all   p50   p95   p99 refused t-out";
    line(&mut text, "", "bare", "behind tidegate");
    line(&mut text, "", heads, heads);
    for kind in Kind::ALL {
        line(&mut text, kind.label(), &cells(&bare.rows[kind.index()]), &cells(&behind.rows[kind.index()]));
    }
    let _ = writeln!(
        text,
        "(offered: syncs that were due; <=1 s, all: answered within 1 s, and at all; times from when a sync was due to its answer,\n \
         retries within; refused, t-out: single requests refused, and given up on after {}. Retry-After is told in seconds by the\n \
         clock and waited for in seconds of the incident: clients come back sooner than tidegate means them to.)\n",
        show(Some(scenario.crowd.timeout))
    );
    short(&mut text, "normal syncs within 1 s", "bare", "behind tidegate");
    for (phase, (bare, behind)) in scenario.phases.iter().zip(bare.phases.iter().zip(&behind.phases)) {
        let fault = if phase.faults.any() { "!" } else { " " };
        short(&mut text, &format!("{fault} {}", phase.name), &percent(*bare), &percent(*behind));
    }
    short(&mut text, "! the incident in all", &percent(bare.incident), &percent(behind.incident));
    text.push('\n');
    let timeout = show(Some(scenario.crowd.timeout));
    short(&mut text, &format!("large polls answered within the client's time-out ({timeout})"), "bare", "behind tidegate");
    let by_phase = bare.large_polls_by_phase.iter().zip(&behind.large_polls_by_phase);
    for (phase, (bare, behind)) in scenario.phases.iter().zip(by_phase) {
        let fault = if phase.faults.any() { "!" } else { " " };
        short(&mut text, &format!("{fault} {}", phase.name), &percent(*bare), &percent(*behind));
    }
    short(&mut text, "! the incident in all", &percent(bare.large_polls), &percent(behind.large_polls));
    text.push_str("(from when they were due; a poll that is due while something typed waits to be sent is none: it goes with that.)\n\n");
    unchanged(&mut text, bare, behind);
    short(&mut text, "database seconds", "bare", "behind tidegate");
    for kind in Kind::ALL {
        short(&mut text, kind.label(), &seconds(bare.database[kind.index()]), &seconds(behind.database[kind.index()]));
    }
    short(&mut text, "no-op syncs, of all these", &seconds(bare.unchanged), &seconds(behind.unchanged));
    text.push('\n');
    checked(&mut text, bare, behind);
    let (b, t) = (&bare.writes, &behind.writes);
    short(&mut text, "writes", "bare", "behind tidegate");
    short(&mut text, "acknowledged", &b.acknowledged.to_string(), &t.acknowledged.to_string());
    short(&mut text, "lost", &b.lost.to_string(), &t.lost.to_string());
    short(&mut text, "doubled", &b.doubled.to_string(), &t.doubled.to_string());
    short(&mut text, "requests that arrived twice", &b.repeated.to_string(), &t.repeated.to_string());
    text
}

/// What tidegate answers itself, and in a maintenance window.
fn unchanged(text: &mut String, bare: &Figures, behind: &Figures) {
    short(text, "unchanged syncs", "bare", "behind tidegate");
    short(
        text,
        "polls answered without a question of their own at the service",
        &percent(bare.polls.spared()),
        &percent(behind.polls.spared()),
    );
    let stored = [bare, behind].map(|figures| percent(figures.polls.by_tidegate()));
    short(text, "  by tidegate, from what it has stored", &stored[0], &stored[1]);
    if bare.maintenance.of + behind.maintenance.of > 0 {
        let name = "polls answered in the maintenance window";
        short(text, name, &percent(bare.maintenance), &percent(behind.maintenance));
    }
    text.push('\n');
}

/// What the clients found when they checked every answer.
fn checked(text: &mut String, bare: &Figures, behind: &Figures) {
    short(text, "answers", "bare", "behind tidegate");
    let mut row = |name: &str, of: &dyn Fn(&Figures) -> u64| short(text, name, &of(bare).to_string(), &of(behind).to_string());
    row("checked", &|figures| figures.checked.answers);
    row("stale: older than what anybody was told before the question", &|figures| figures.checked.stale);
    row("backwards: older than what the same client was told", &|figures| figures.checked.backwards);
    row("foreign: no answer to the question", &|figures| figures.checked.foreign);
    text.push('\n');
}

fn seconds(span: Duration) -> String {
    format!("{:.0}", span.as_secs_f64())
}

fn line(text: &mut String, name: &str, bare: &str, behind: &str) {
    let _ = writeln!(text, "{name:<8} {bare:<53} | {behind}");
}

fn short(text: &mut String, name: &str, bare: &str, behind: &str) {
    let _ = writeln!(text, "{name:<72} {bare:>9} {behind:>16}");
}

fn cells(row: &Row) -> String {
    format!(
        "{:>7} {:>6} {:>6} {:>5} {:>5} {:>5} {:>7} {:>5}",
        row.good.of,
        percent(row.good),
        percent(row.answered),
        show(row.p50),
        show(row.p95),
        show(row.p99),
        row.endings.refused,
        row.endings.timed_out
    )
}

/// A share as people read it; never rounded up to all.
#[must_use]
pub fn percent(share: Share) -> String {
    match share.percent() {
        None => "-".to_owned(),
        Some(percent) if share.part == share.of || share.part == 0 => format!("{percent:.0}%"),
        Some(percent) => format!("{:.1}%", (percent * 10.0).floor() / 10.0),
    }
}

/// A time as people read it; `None` is never.
#[must_use]
pub fn show(time: Option<Duration>) -> String {
    match time.map(|time| time.as_secs_f64()) {
        None => "never".to_owned(),
        Some(seconds) if seconds < 0.9995 => format!("{:.0}ms", seconds * 1000.0),
        Some(seconds) if seconds < 9.95 => format!("{seconds:.1}s"),
        Some(seconds) => format!("{seconds:.0}s"),
    }
}

/// What the figures come to, in one sentence.
#[must_use]
pub fn verdict(bare: &Figures, behind: &Figures) -> String {
    let (without, with) = (bare.incident.percent(), behind.incident.percent());
    let harmed = |figures: &Figures| figures.writes.lost + figures.writes.doubled;
    let said = match (without, with) {
        _ if behind.wrong() > bare.wrong() => "tidegate gave wrong answers, which nothing makes up for",
        _ if harmed(behind) > harmed(bare) => "tidegate cost writes, which nothing makes up for",
        (Some(without), Some(with)) if with >= GOAL && without < GOAL => "tidegate kept the service usable",
        (Some(without), Some(with)) if with >= GOAL && without >= GOAL => "the service would have been usable without tidegate too",
        (Some(without), Some(with)) if with > without + 5.0 => "tidegate helped, but not enough",
        (Some(without), Some(with)) if with + 5.0 < without => "tidegate made it worse",
        (Some(_), Some(_)) => "tidegate did not help",
        _ => "nothing was wrong, so there is nothing to judge",
    };
    let writes = |figures: &Figures| match (figures.writes.lost, figures.writes.doubled) {
        (0, 0) => "none".to_owned(),
        (lost, doubled) => format!("{} ({lost} lost, {doubled} doubled)", lost + doubled),
    };
    format!(
        "Verdict: {said}: during the incident {} of the normal syncs were answered within 1 s behind tidegate and {} without it{}; \
         of the acknowledged writes {} were lost or doubled behind tidegate and {} without it.\n{}",
        percent(behind.incident),
        percent(bare.incident),
        price(bare, behind),
        writes(behind),
        writes(bare),
        spared(bare, behind)
    )
}

/// What answering unchanged syncs was good for, in one sentence.
fn spared(bare: &Figures, behind: &Figures) -> String {
    let saved = saved(bare, behind).map_or_else(|| "-".to_owned(), |saved| format!("{saved:.0}%"));
    let maintenance = if behind.maintenance.of > 0 {
        format!(", of all polls {} instead of {} while the service was stopped", percent(behind.maintenance), percent(bare.maintenance))
    } else {
        String::new()
    };
    format!(
        "Unchanged syncs: {} of the answered polls put no question of their own to the service, no-op syncs took {} database seconds \
         instead of {} ({saved} saved); of the large polls in the incident {} instead of {} were answered within the client's \
         time-out{maintenance}; of {} answers behind tidegate {} were stale, {} went backwards and {} were foreign.",
        percent(behind.polls.spared()),
        seconds(behind.unchanged),
        seconds(bare.unchanged),
        percent(behind.large_polls),
        percent(bare.large_polls),
        behind.checked.answers,
        behind.checked.stale,
        behind.checked.backwards,
        behind.checked.foreign,
    )
}

/// How much fewer database seconds went into no-op syncs behind tidegate, in percent; below 0 if more did, `None` if none did without it.
#[must_use]
pub fn saved(bare: &Figures, behind: &Figures) -> Option<f64> {
    (!bare.unchanged.is_zero()).then(|| 100.0 * (1.0 - behind.unchanged.as_secs_f64() / bare.unchanged.as_secs_f64()))
}

/// What was answered less often behind tidegate than without it, by more than one in a hundred.
fn price(bare: &Figures, behind: &Figures) -> String {
    let mut kinds = Vec::new();
    for kind in Kind::ALL {
        let [without, with] = [bare, behind].map(|figures| figures.rows[kind.index()].answered);
        if without.percent().zip(with.percent()).is_some_and(|(without, with)| with + 1.0 < without) {
            kinds.push(format!("{} instead of {} of the {}", percent(with), percent(without), kind.label()));
        }
    }
    if kinds.is_empty() { String::new() } else { format!(", at the price that {} were answered at all", kinds.join(" and ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{
        figures::Writes,
        tally::{Checked, PollsAnswered},
    };

    fn figures(good: usize, lost: usize) -> Figures {
        Figures {
            rows: Default::default(),
            incident: Share { part: good, of: 1000 },
            phases: Vec::new(),
            large_polls: Share::default(),
            large_polls_by_phase: Vec::new(),
            maintenance: Share::default(),
            polls: PollsAnswered::default(),
            database: Default::default(),
            unchanged: Duration::ZERO,
            checked: Checked::default(),
            writes: Writes { acknowledged: 10, lost, ..Writes::default() },
        }
    }

    #[test]
    fn the_verdict_says_what_the_figures_say() {
        let good = verdict(&figures(200, 0), &figures(995, 0));
        assert!(good.contains("kept the service usable") && good.contains("99.5%") && good.contains("20.0%"), "{good}");
        assert!(verdict(&figures(200, 0), &figures(900, 0)).contains("not enough"));
        assert!(verdict(&figures(200, 0), &figures(210, 0)).contains("did not help"));
        assert!(verdict(&figures(900, 0), &figures(200, 0)).contains("made it worse"));
        assert!(verdict(&figures(990, 0), &figures(995, 0)).contains("without tidegate too"));
        let lost = verdict(&figures(200, 0), &figures(995, 3));
        assert!(lost.contains("tidegate cost writes") && lost.contains("3 (3 lost, 0 doubled) were lost or doubled behind"), "{lost}");
    }

    #[test]
    fn the_verdict_tells_the_price() {
        let (mut bare, mut behind) = (figures(200, 0), figures(995, 0));
        assert_eq!(price(&bare, &behind), "");
        bare.rows[Kind::Import.index()].answered = Share { part: 9, of: 10 };
        behind.rows[Kind::Import.index()].answered = Share { part: 6, of: 10 };
        behind.rows[Kind::Poll.index()].answered = Share { part: 10, of: 10 };
        assert_eq!(price(&bare, &behind), ", at the price that 60.0% instead of 90.0% of the imports were answered at all");
    }

    #[test]
    fn the_verdict_tells_what_was_spared_and_what_was_wrong() {
        let (mut bare, mut behind) = (figures(200, 0), figures(995, 0));
        (bare.unchanged, behind.unchanged) = (Duration::from_secs(400), Duration::from_secs(100));
        behind.maintenance = Share { part: 9, of: 10 };
        let said = verdict(&bare, &behind);
        assert!(said.contains("100 database seconds instead of 400 (75% saved)") && said.contains("90.0% instead of -"), "{said}");
        behind.checked.stale = 1;
        assert!(verdict(&bare, &behind).contains("gave wrong answers"));
    }

    #[test]
    fn a_share_is_never_rounded_up_to_all() {
        assert_eq!(percent(Share { part: 9999, of: 10000 }), "99.9%");
        assert_eq!(percent(Share { part: 5, of: 5 }), "100%");
        assert_eq!(percent(Share { part: 0, of: 0 }), "-");
    }
}
