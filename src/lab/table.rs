//! The end of the demo: the table side by side and the verdict, as text.

use std::{fmt::Write, time::Duration};

use super::{
    figures::{Figures, Row, Share},
    kind::Kind,
    scenario::Scenario,
};

/// The share of normal syncs that tidegate is to answer in good time during an incident, in percent.
const GOAL: f64 = 98.0;

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
    short(&mut text, "database seconds", "bare", "behind tidegate");
    for kind in Kind::ALL {
        let of = |figures: &Figures| format!("{:.0}", figures.database[kind.index()].as_secs_f64());
        short(&mut text, kind.label(), &of(bare), &of(behind));
    }
    text.push('\n');
    let (b, t) = (&bare.writes, &behind.writes);
    short(&mut text, "writes", "bare", "behind tidegate");
    short(&mut text, "acknowledged", &b.acknowledged.to_string(), &t.acknowledged.to_string());
    short(&mut text, "lost", &b.lost.to_string(), &t.lost.to_string());
    short(&mut text, "doubled", &b.doubled.to_string(), &t.doubled.to_string());
    short(&mut text, "requests that arrived twice", &b.repeated.to_string(), &t.repeated.to_string());
    text
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
    let said = match (without, with) {
        (Some(without), Some(with)) if with >= GOAL && without < GOAL => "tidegate kept the service usable",
        (Some(without), Some(with)) if with >= GOAL && without >= GOAL => "the service would have been usable without tidegate too",
        (Some(without), Some(with)) if with > without + 5.0 => "tidegate helped, but not enough",
        (Some(without), Some(with)) if with + 5.0 < without => "tidegate made it worse",
        (Some(_), Some(_)) => "tidegate did not help",
        _ => "nothing was wrong, so there is nothing to judge",
    };
    let writes = |figures: &Figures| match (figures.writes.lost, figures.writes.doubled) {
        (0, 0) => "none".to_owned(),
        (lost, doubled) => format!("{lost} lost and {doubled} doubled"),
    };
    format!(
        "Verdict: {said}: during the incident {} of the normal syncs were answered within 1 s behind tidegate and {} without it{}; \
         of the acknowledged writes {} were lost or doubled behind tidegate and {} without it.",
        percent(behind.incident),
        percent(bare.incident),
        price(bare, behind),
        writes(behind),
        writes(bare)
    )
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
    use crate::lab::figures::Writes;

    fn figures(good: usize, lost: usize) -> Figures {
        Figures {
            rows: Default::default(),
            incident: Share { part: good, of: 1000 },
            phases: Vec::new(),
            database: Default::default(),
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
        assert!(verdict(&figures(200, 0), &figures(995, 3)).contains("3 lost and 0 doubled were lost or doubled behind tidegate"));
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
    fn a_share_is_never_rounded_up_to_all() {
        assert_eq!(percent(Share { part: 9999, of: 10000 }), "99.9%");
        assert_eq!(percent(Share { part: 5, of: 5 }), "100%");
        assert_eq!(percent(Share { part: 0, of: 0 }), "-");
    }
}
