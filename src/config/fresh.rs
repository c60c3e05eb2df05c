//! `[fresh]`: local answers to unchanged syncs. What an operator may leave out depends on the classes' time-outs.

use std::time::Duration;

use super::{
    settings::{ClassSettings, Fresh, FreshMode},
    typed::{count, size, span, whole},
};
use crate::written::Table;

const MODES: [(&str, FreshMode); 3] = [("off", FreshMode::Off), ("verify", FreshMode::Verify), ("on", FreshMode::On)];

/// `doubt` while it is not set is never shorter.
const DOUBT_LEAST: Duration = Duration::from_mins(2);

/// Reads `[fresh]`. Nobody but the operator knows how long the app may still commit a write that was lost, so the default of `doubt` is a
/// guess from what clients are made to wait.
pub(super) fn read(table: &Table<'_>, classes: &[ClassSettings]) -> Fresh {
    let longest = classes.iter().map(|class| class.head_timeout).max().unwrap_or_default();
    let doubt = span(table, "doubt", "1ms", "7d", DOUBT_LEAST.max(longest.saturating_mul(2)));
    let fresh = Fresh {
        mode: table.choice("mode", &MODES).unwrap_or(FreshMode::Verify),
        age_max: span(table, "age_max", "1ms", "7d", Duration::from_hours(1)),
        age_max_down: span(table, "age_max_down", "1ms", "30d", Duration::from_hours(12)),
        refresh_after: span(table, "refresh_after", "1ms", "7d", Duration::from_mins(10)),
        doubt,
        doubt_written: table.node("doubt").is_some(),
        start_doubt: span(table, "start_doubt", "0s", "7d", doubt),
        settle: span(table, "settle", "0s", "1h", Duration::ZERO),
        answers_max: size(table, "answers_max", "1KiB", "1024GiB", 256 << 20),
        answer_max: whole(size(table, "answer_max", "1B", "1GiB", 256 << 10)),
        documents_max: count(table, "documents_max", 1..=1_000_000_000, 1_000_000),
        keys_max: count(table, "keys_max", 1..=10_000, 256),
        depth_max: count(table, "depth_max", 1..=256, 16),
        joiners_max: count(table, "joiners_max", 1..=1_000_000, 1000),
        audit: count(table, "audit", 0..=1_000_000_000, 1000),
    };
    table.finish();
    fresh
}
