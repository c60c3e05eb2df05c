//! The live display: both sides beside each other, drawn over itself on a terminal, as a line every few seconds elsewhere.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write},
    time::Duration,
};

use super::{
    figures::Share,
    pace::Pace,
    scenario::Scenario,
    service::pool::PoolView,
    table::{percent, show},
    tally::Recent,
};

/// Between two pictures on a terminal, by the clock.
const PICTURE: Duration = Duration::from_millis(500);
/// Between two lines elsewhere, by the clock.
const LINE: Duration = Duration::from_secs(3);

/// Where the demo shows itself.
#[derive(Debug)]
pub struct Screen {
    kind: ScreenKind,
}

#[derive(Debug)]
enum ScreenKind {
    /// Nothing is shown.
    Silent,
    /// One line at a time.
    Lines,
    /// A picture that is drawn over the one before, which has so many lines.
    Picture(usize),
}

/// One side at a moment; times by the clock.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// What its clients see.
    pub recent: Recent,
    /// Its database.
    pub pool: PoolView,
}

impl Screen {
    /// Standard output: a picture on a terminal, lines elsewhere.
    #[must_use]
    pub fn stdout() -> Self {
        let kind = if std::io::stdout().is_terminal() { ScreenKind::Picture(0) } else { ScreenKind::Lines };
        Self { kind }
    }

    /// Nothing is shown.
    #[must_use]
    pub fn silent() -> Self {
        Self { kind: ScreenKind::Silent }
    }

    /// How long to wait between two calls of [`Screen::show`], by the clock.
    #[must_use]
    pub fn interval(&self) -> Duration {
        if matches!(self.kind, ScreenKind::Picture(_)) { PICTURE } else { LINE }
    }

    /// Says something that stays.
    pub fn say(&mut self, text: &str) {
        if !matches!(self.kind, ScreenKind::Silent) {
            put(&format!("{text}\n"));
        }
        if let ScreenKind::Picture(lines) = &mut self.kind {
            *lines = 0;
        }
    }

    /// Shows both sides at `offset` in incident time.
    pub fn show(&mut self, scenario: &Scenario, offset: Duration, sides: &[Side; 2]) {
        match &mut self.kind {
            ScreenKind::Silent => {}
            ScreenKind::Lines => put(&line(scenario, offset, sides)),
            ScreenKind::Picture(before) => {
                let picture = picture(scenario, offset, sides);
                let mut text = String::new();
                if *before > 0 {
                    // Up to the first line of the picture before.
                    let _ = write!(text, "\x1b[{before}A");
                }
                for line in picture.lines() {
                    // Each line is cleared to its end.
                    let _ = writeln!(text, "{line}\x1b[K");
                }
                *before = picture.lines().count();
                put(&text);
            }
        }
    }
}

/// Writes to standard output; if nobody reads it any more, the demo plays on unseen.
fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Minutes and seconds of the incident.
fn clock(offset: Duration) -> String {
    let seconds = offset.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn phase_name(scenario: &Scenario, offset: Duration) -> &str {
    scenario.phase_at(offset).map_or("over; the last answers come in", |(_, phase, _)| &phase.name)
}

fn good(recent: &Recent) -> String {
    percent(Share { part: recent.good, of: recent.normal })
}

fn line(scenario: &Scenario, offset: Duration, sides: &[Side; 2]) -> String {
    let side = |side: &Side| {
        format!(
            "{:>6} within 1 s, p99 {:>5}, pool queue {:>3}, refused {:>3}",
            good(&side.recent),
            time(scenario.pace, side.recent.p99),
            side.pool.waiting,
            side.recent.refused
        )
    };
    let [bare, behind] = [side(&sides[0]), side(&sides[1])];
    format!("{:>5}  bare: {bare} | tidegate: {behind} | {}\n", clock(offset), phase_name(scenario, offset))
}

fn time(pace: Pace, span: Duration) -> String {
    show(Some(pace.incident(span)))
}

fn picture(scenario: &Scenario, offset: Duration, sides: &[Side; 2]) -> String {
    let pace = scenario.pace;
    let offset = offset.min(scenario.length());
    let mut text = String::new();
    let _ = writeln!(text, "{BOLD}{}{PLAIN}", short(&scenario.name));
    let _ = writeln!(text, "{}", told(pace));
    let _ = writeln!(text, "[{}] {} of {}", bar(scenario, offset), clock(offset), clock(scenario.length()));
    let _ = writeln!(text, "{BOLD}{}{PLAIN}\n", short(phase_name(scenario, offset)));
    let _ = writeln!(text, "{:<44} {:>14}   {:>16}", "normal syncs, the last 30 s", "bare", "behind tidegate");
    let [bare, behind] = [colour(&sides[0].recent), colour(&sides[1].recent)];
    let [bare_good, behind_good] = [good(&sides[0].recent), good(&sides[1].recent)];
    let name = "  answered within 1 s";
    let _ = writeln!(text, "{name:<44} {bare}{bare_good:>14}{PLAIN}   {behind}{behind_good:>16}{PLAIN}");
    let mut row = |name: &str, of: &dyn Fn(&Side) -> String| {
        let [bare, behind] = [of(&sides[0]), of(&sides[1])];
        let _ = writeln!(text, "{name:<44} {bare:>14}   {behind:>16}");
    };
    row("  p50", &|side| time(pace, side.recent.p50));
    row("  p99", &|side| time(pace, side.recent.p99));
    row("clients' requests in flight", &|side| side.recent.in_flight.to_string());
    row("database connections in use", &|side| format!("{} of {}", side.pool.busy, scenario.service.connections));
    row("requests that wait for one", &|side| side.pool.waiting.to_string());
    row("  for", &|side| time(pace, side.pool.wait));
    row("polls that tidegate answered itself, so far", &|side| percent(side.recent.polls.by_tidegate()));
    row("refused so far", &|side| side.recent.refused.to_string());
    row("given up on so far", &|side| side.recent.timed_out.to_string());
    text
}

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// Green where nearly all are answered in good time, red where many are not.
fn colour(recent: &Recent) -> &'static str {
    match (Share { part: recent.good, of: recent.normal }).percent() {
        Some(percent) if percent >= 98.0 => GREEN,
        Some(percent) if percent < 90.0 => RED,
        _ => PLAIN,
    }
}

/// A name that fits on a line: one that wraps would spoil the next picture.
fn short(name: &str) -> String {
    name.chars().take(78).collect()
}

/// How far it is: `=` and `#` is over, `#` and `.` is where something is wrong.
fn bar(scenario: &Scenario, offset: Duration) -> String {
    const CELLS: u32 = 50;
    (0..CELLS)
        .map(|cell| {
            let at = scenario.length() * cell / CELLS;
            let wrong = scenario.phase_at(at).is_some_and(|(_, phase, _)| phase.faults.any());
            match (at < offset, wrong) {
                (true, true) => '#',
                (true, false) => '=',
                (false, true) => '.',
                (false, false) => ' ',
            }
        })
        .collect()
}

/// How times are to be read.
#[must_use]
pub fn told(pace: Pace) -> String {
    format!("{} times faster than life: all times are incident time, 1 s = {} s by the clock", pace.0, 1.0 / pace.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(good: usize) -> Side {
        Side { recent: Recent { normal: 100, good, ..Recent::default() }, pool: PoolView::default() }
    }

    #[test]
    fn a_picture_fits_on_80_columns_and_has_as_many_lines_as_the_one_before() {
        let scenario = Scenario::shipped().expect("shipped");
        let visible = |line: &str| {
            let plain = [BOLD, RED, GREEN, PLAIN].iter().fold(line.to_owned(), |line, code| line.replace(code, ""));
            plain.chars().count()
        };
        let mut lines = Vec::new();
        for step in 0..=20 {
            let text = picture(&scenario, scenario.length() * step / 20, &[side(20), side(99)]);
            assert!(text.lines().all(|line| visible(line) <= 80), "{text}");
            lines.push(text.lines().count());
        }
        assert!(lines.iter().all(|count| *count == lines[0]));
    }

    #[test]
    fn the_bar_shows_where_something_is_wrong_and_how_far_it_is() {
        let scenario = Scenario::shipped().expect("shipped");
        let bar = bar(&scenario, scenario.phases[0].lasts + scenario.phases[1].lasts);
        assert!(bar.starts_with("====") && bar.contains("##..") && bar.ends_with("  "), "{bar}");
    }
}
