//! What the app says about its database: `Server-Timing: db;dur=12.3;count=4` (W3C Server Timing).
//!
//! `dur` is in milliseconds. The number of queries is the parameter `count`, or else the whole number at the beginning of `desc`
//! (`desc="4 queries"`). Several `db` entries add up. What cannot be read is passed over: a wrong header costs a figure, nothing else.

use std::time::Duration;

use http::HeaderMap;

/// What the app says about its database for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseTime {
    /// The time in the database; at most a day.
    pub time: Option<Duration>,
    /// How many queries it took; at most [`QUERIES_MAX`].
    pub queries: Option<u64>,
}

/// The most queries of one request that are believed.
pub const QUERIES_MAX: u64 = 1_000_000;

/// The most bytes of `Server-Timing` that are read.
const BYTES_MAX: usize = 8192;

/// The most entries that are read.
const ENTRIES_MAX: usize = 64;

/// The longest time of one request that is believed, in milliseconds: a day.
const MILLISECONDS_MAX: f64 = 86_400_000.0;

/// Reads all `Server-Timing` fields of a head.
#[must_use]
pub fn read(headers: &HeaderMap) -> DatabaseTime {
    let mut found = DatabaseTime::default();
    let mut bytes_left = BYTES_MAX;
    let mut entries_left = ENTRIES_MAX;
    for value in headers.get_all("server-timing") {
        let Some(left) = bytes_left.checked_sub(value.len()) else { break };
        bytes_left = left;
        let Ok(text) = value.to_str() else { continue };
        for entry in pieces(text, ',') {
            let Some(left) = entries_left.checked_sub(1) else { return found };
            entries_left = left;
            add(&mut found, entry);
        }
    }
    found
}

fn add(found: &mut DatabaseTime, entry: &str) {
    let mut parameters = pieces(entry, ';');
    if !parameters.next().is_some_and(|name| name.trim().eq_ignore_ascii_case("db")) {
        return;
    }
    let (mut dur, mut count, mut desc) = (None, None, None);
    for parameter in parameters {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let value = value.trim();
        // Of a parameter that stands twice the first counts (section 3.1).
        match name.trim() {
            name if name.eq_ignore_ascii_case("dur") => dur = dur.or(Some(value)),
            name if name.eq_ignore_ascii_case("count") => count = count.or(Some(value)),
            name if name.eq_ignore_ascii_case("desc") => desc = desc.or(Some(value)),
            _ => {}
        }
    }
    if let Some(milliseconds) = dur.and_then(milliseconds) {
        let time = found.time.unwrap_or_default() + Duration::from_secs_f64(milliseconds / 1000.0);
        found.time = Some(time.min(Duration::from_hours(24)));
    }
    if let Some(more) = count.and_then(leading_number).or_else(|| desc.and_then(leading_number)) {
        found.queries = Some(found.queries.unwrap_or(0).saturating_add(more).min(QUERIES_MAX));
    }
}

fn milliseconds(value: &str) -> Option<f64> {
    let number: f64 = value.trim_matches('"').trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then(|| number.min(MILLISECONDS_MAX))
}

/// The whole number at the beginning, unless letters or a fraction follow at once: `4`, `"4"`, `"4 queries"`, not `4.5`, `4th`.
fn leading_number(value: &str) -> Option<u64> {
    let text = value.trim_start_matches('"').trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if !rest.is_empty() && !rest.starts_with([' ', '"', '\t']) {
        return None;
    }
    digits.parse().ok()
}

/// The text cut at a separator outside of quoted strings.
fn pieces(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        for (at, c) in text.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ if c == separator && !quoted => {
                    rest = Some(&text[at + c.len_utf8()..]);
                    return Some(&text[..at]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(text)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[&str]) -> (Option<f64>, Option<u64>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("server-timing", HeaderValue::from_str(value).expect("valid"));
        }
        let found = read(&headers);
        (found.time.map(|time| time.as_secs_f64() * 1000.0), found.queries)
    }

    #[test]
    fn time_and_queries_of_the_database_are_read() {
        assert_eq!(of(&["db;dur=12.5;count=4"]), (Some(12.5), Some(4)));
        assert_eq!(of(&["cache;dur=1, DB ; dur = 2 ; desc = \"4 queries\", app;dur=9"]), (Some(2.0), Some(4)));
        assert_eq!(of(&["db;dur=1;count=1", "db;dur=2;count=2"]), (Some(3.0), Some(3)));
        assert_eq!(of(&["db;dur=\"7\""]), (Some(7.0), None));
        assert_eq!(of(&["db;dur=1;dur=2"]), (Some(1.0), None), "the first counts");
        assert_eq!(of(&[]), (None, None));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        for wrong in
            ["db", "db;dur", "db;dur=", "db;dur=-1", "db;dur=NaN", "db;dur=inf", "db;dur=x", "mydb;dur=1", "a;desc=\"db;dur=1\"", ",;,;="]
        {
            assert_eq!(of(&[wrong]), (None, None), "{wrong}");
        }
        assert_eq!(of(&["db;dur=1;desc=\"users, db;dur=5\""]), (Some(1.0), None));
        assert_eq!(of(&["db;dur=1;desc=\"unclosed, db;dur=5"]), (Some(1.0), None));
        assert_eq!(of(&["db;dur=1;count=4.5"]), (Some(1.0), None));
        assert_eq!(of(&["db;dur=1e300;count=99999999999"]), (Some(MILLISECONDS_MAX), Some(QUERIES_MAX)));
    }

    #[test]
    fn only_so_much_is_read() {
        let many = "x,".repeat(100) + "db;dur=1";
        assert_eq!(of(&[&many]), (None, None));
        let long = "x".repeat(BYTES_MAX + 1);
        assert_eq!(of(&["db;dur=1", &long, "db;dur=1"]), (Some(1.0), None));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_its_bounds_hold(values in prop::collection::vec("(db|;|dur|=|count|desc|,|\"|\\\\|[0-9]{1,20}|\\.|e|-| |x){0,40}", 0..4)) {
            let mut headers = HeaderMap::new();
            for value in &values {
                if let Ok(value) = HeaderValue::from_str(value) {
                    headers.append("server-timing", value);
                }
            }
            let found = read(&headers);
            prop_assert!(found.time.is_none_or(|time| time <= Duration::from_hours(24)));
            prop_assert!(found.queries.is_none_or(|queries| queries <= QUERIES_MAX));
        }

        #[test]
        fn what_was_written_is_read(dur in 0.0..1e7f64, count in 0..QUERIES_MAX, noise in "[a-z]{1,8}") {
            prop_assume!(noise != "db");
            let text = format!("{noise};dur=3.5;desc=\"a;b,c\", db;{noise}={noise};dur={dur};count={count}");
            let (time, queries) = of(&[&text]);
            prop_assert!((time.expect("there") - dur).abs() < 1e-3);
            prop_assert_eq!(queries, Some(count));
        }
    }
}
