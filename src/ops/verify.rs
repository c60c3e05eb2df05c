//! Whether local answers can be trusted: what `verify` has found, for the log every hour and for `tidegate explain --verify`.

use std::{fmt::Write, time::Duration};

use crate::{
    config::settings::FreshMode,
    flow::report::{Report, RoutePolls},
    units::show_duration,
};

/// How often it is told.
pub const INTERVAL: Duration = Duration::from_hours(1);

/// How many routes that made answers stale are named for each route.
const CAUSES_SHOWN: usize = 3;

/// Tells in the log, every so often and for as long as it is polled, what would have been answered here since the last time.
pub async fn tell(report: Report, mode: impl Fn() -> FreshMode, every: Duration) {
    let mut before = report.polls();
    loop {
        tokio::time::sleep(every).await;
        let now = report.polls();
        match news(&since(&before, &now), mode(), every) {
            Some((true, text)) => tracing::warn!("{text}"),
            Some((false, text)) => tracing::info!("{text}"),
            None => {}
        }
        before = now;
    }
}

/// What was counted since then. A route that is new, or counts anew, counts whole.
fn since(before: &[RoutePolls], now: &[RoutePolls]) -> Vec<RoutePolls> {
    let one = |now: &RoutePolls| {
        let known = before.iter().find(|route| route.route == now.route && route.polls <= now.polls);
        let Some(before) = known else { return now.clone() };
        RoutePolls {
            polls: now.polls - before.polls,
            would_hit: now.would_hit.saturating_sub(before.would_hit),
            right: now.right.saturating_sub(before.right),
            wrong: now.wrong.saturating_sub(before.wrong),
            unjudged: now.unjudged.saturating_sub(before.unjudged),
            ..now.clone()
        }
    };
    now.iter().map(one).collect()
}

/// What there is to be told of a span: whether something was wrong, and a sentence. Nothing where there were no polls, and in mode `on` nothing
/// but what was wrong on the routes that are in `verify`.
fn news(routes: &[RoutePolls], mode: FreshMode, span: Duration) -> Option<(bool, String)> {
    let wrong = routes.iter().any(|route| route.wrong > 0);
    let polled = routes.iter().any(|route| route.polls > 0);
    let told = match mode {
        FreshMode::Off => false,
        FreshMode::Verify => polled,
        FreshMode::On => wrong,
    };
    told.then(|| (wrong, format!("in the last {}, {}", show_duration(span), sentence(routes, mode))))
}

/// What it comes to, and what to do about it.
fn sentence(routes: &[RoutePolls], mode: FreshMode) -> String {
    let sum = |count: fn(&RoutePolls) -> u64| routes.iter().map(count).sum::<u64>();
    let (polls, would, right, wrong) = (sum(|r| r.polls), sum(|r| r.would_hit), sum(|r| r.right), sum(|r| r.wrong));
    if polls == 0 {
        return "there was no poll".to_owned();
    }
    let share = (would * 100 + polls / 2) / polls;
    let mut text = format!("tidegate would have answered {share} % of {polls} polls itself, {wrong} wrong");
    // Writing into a string cannot fail.
    let _ = match (wrong, right, mode) {
        (0, 0, _) => write!(text, ", but none of that is proven yet"),
        (0, _, FreshMode::On) => Ok(()),
        (0, _, _) => write!(text, "; turn on with fresh.mode = \"on\""),
        _ => {
            let named: Vec<String> =
                routes.iter().filter(|route| route.wrong > 0).map(|route| format!("{} ({})", route.route, route.wrong)).collect();
            write!(text, ", on route {}: do not turn these on; see the runbook on mismatches", named.join(", "))
        }
    };
    text
}

/// What `tidegate explain --verify` prints: per route what was polled, what would have been answered here and whether rightly, and what made
/// stored answers stale most often.
#[must_use]
pub fn table(routes: &[RoutePolls], mode: FreshMode, distrusted: &[String]) -> String {
    let head = ["route", "polls", "answered", "would-be hits", "right", "wrong", "unjudged", "mismatches", "made stale most by"];
    let mut rows = vec![head.map(str::to_owned)];
    for route in routes {
        let causes: Vec<String> = route.invalidated_by.iter().take(CAUSES_SHOWN).map(|by| format!("{} ({})", by.route, by.count)).collect();
        let count = |number: u64| number.to_string();
        rows.push([
            route.route.clone(),
            count(route.polls),
            count(route.local),
            count(route.would_hit),
            count(route.right),
            count(route.wrong),
            count(route.unjudged),
            count(route.mismatches),
            if causes.is_empty() { "-".to_owned() } else { causes.join(", ") },
        ]);
    }
    let widths: Vec<usize> = (0..head.len()).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = format!("fresh.mode = \"{}\", since the start:\n\n", mode.label());
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    let _ = writeln!(text, "\nSince the start {}.", sentence(routes, mode));
    if !distrusted.is_empty() {
        let _ = writeln!(text, "Put back to verify by a mismatch, until POST /audit/reset: {}.", distrusted.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::report::fresh::InvalidatedBy;

    const HOUR: Duration = Duration::from_hours(1);

    fn route(name: &str, polls: u64, right: u64, wrong: u64) -> RoutePolls {
        let invalidated_by = vec![InvalidatedBy { route: "save".to_owned(), count: 7 }];
        RoutePolls { route: name.to_owned(), polls, would_hit: right + wrong, right, wrong, invalidated_by, ..RoutePolls::default() }
    }

    #[test]
    fn the_log_says_what_would_have_been_answered_and_how_to_turn_it_on() {
        let (wrong, text) = news(&[route("read", 900, 600, 0), route("list", 100, 30, 0)], FreshMode::Verify, HOUR).expect("news");
        assert!(!wrong);
        assert_eq!(
            text,
            "in the last 1h, tidegate would have answered 63 % of 1000 polls itself, 0 wrong; turn on with fresh.mode = \"on\""
        );
    }

    #[test]
    fn what_was_wrong_is_a_warning_that_names_its_routes() {
        let (wrong, text) = news(&[route("read", 900, 600, 2), route("list", 100, 30, 0)], FreshMode::Verify, HOUR).expect("news");
        assert!(wrong && text.contains("2 wrong, on route read (2): do not turn") && !text.contains("list"), "{text}");
        assert!(!text.contains("turn on with"), "{text}");
        assert!(news(&[route("read", 9, 6, 2)], FreshMode::On, HOUR).is_some());
    }

    #[test]
    fn nothing_is_told_where_nothing_was_polled_or_all_is_on_and_well() {
        assert_eq!(news(&[], FreshMode::Verify, HOUR), None);
        assert_eq!(news(&[route("read", 0, 0, 0)], FreshMode::Verify, HOUR), None);
        assert_eq!(news(&[route("read", 9, 6, 0)], FreshMode::On, HOUR), None);
        assert_eq!(news(&[route("read", 9, 6, 1)], FreshMode::Off, HOUR), None);
        let (_, text) = news(&[route("read", 9, 0, 0)], FreshMode::Verify, HOUR).expect("news");
        assert!(text.ends_with("none of that is proven yet"), "{text}");
    }

    #[test]
    fn an_hour_counts_only_what_is_new() {
        let before = [route("read", 900, 600, 2), route("gone", 5, 5, 5)];
        let now = [route("read", 1000, 650, 2), route("new", 10, 1, 1)];
        let found: Vec<(u64, u64, u64)> = since(&before, &now).iter().map(|route| (route.polls, route.right, route.wrong)).collect();
        assert_eq!(found, [(100, 50, 0), (10, 1, 1)]);
        assert_eq!(since(&before, &[route("read", 3, 1, 0)])[0].polls, 3, "counted anew");
    }

    #[test]
    fn the_table_says_per_route_what_would_have_been_and_who_made_it_stale() {
        let text = table(&[route("read", 900, 600, 2)], FreshMode::Verify, &["read".to_owned()]);
        let row: Vec<&str> = text.lines().find(|line| line.starts_with("read")).expect("a row").split_whitespace().collect();
        assert_eq!(row.join(" "), "read 900 0 602 600 2 0 0 save (7)");
        assert!(text.contains("until POST /audit/reset: read.") && text.contains("67 % of 900 polls"), "{text}");
        assert!(table(&[], FreshMode::On, &[]).contains("there was no poll"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_again_and_again() {
        let settings = crate::config::Settings::defaults();
        let report = Report::new(&settings, crate::flow::report::LogSink::off());
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = std::sync::Arc::clone(&asked);
        let mode = move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            FreshMode::Verify
        };
        let telling = tokio::spawn(tell(report, mode, HOUR));
        tokio::time::sleep(HOUR * 3 + HOUR / 2).await;
        telling.abort();
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 3);
    }
}
