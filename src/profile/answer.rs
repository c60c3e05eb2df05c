//! `answer`: what of a poll's reply may be stored and how it is replayed. Read, checked and carried here; acted on by the stage that answers.
//! What is asked of questions and replies stands in `question` and `reply`.

use std::{fmt, time::Duration};

use http::StatusCode;

use super::{
    file::reply_tests,
    selector::Selector,
    truth::{Test, glob},
};
use crate::{
    units,
    written::{Table, Value},
};

/// What a route lets be answered locally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerMode {
    /// Nothing.
    Off,
    /// Nothing, but it is counted what would have been answered.
    Verify,
    /// What is provably unchanged.
    On,
}

/// The forms of the time that a replayed part is renewed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// Seconds.
    Seconds,
    /// Seconds with two decimals.
    Hundredths,
    /// Milliseconds.
    Millis,
}

/// `answer`
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The statuses that are stored; 200 alone by default.
    pub statuses: Vec<StatusCode>,
    /// The lower of it and `[fresh] mode` holds.
    pub mode: Option<AnswerMode>,
    /// The longest time for which one answer is replayed.
    pub age_max: Option<Duration>,
    /// What of the body is part of the question; none: all bytes.
    pub key_body: Option<Vec<Selector>>,
    /// Noise of this route, beside the profile's; `*` stands for any characters.
    pub ignore_headers: Vec<String>,
    /// Tests that the reply must pass.
    pub only_if: Vec<(Selector, Test)>,
    /// Parts of the reply that are renewed when it is replayed: `header.NAME` or `json.PATH`.
    pub renew: Vec<(Selector, Now)>,
    /// Headers of the reply that are not replayed; `*` stands for any characters.
    pub drop: Vec<String>,
}

impl Answer {
    /// Reads the table.
    #[must_use]
    pub fn read(table: &Table<'_>) -> Self {
        let answer = Self {
            statuses: statuses(table),
            mode: table.choice("mode", &[("off", AnswerMode::Off), ("verify", AnswerMode::Verify), ("on", AnswerMode::On)]),
            age_max: table.parsed("age_max", units::duration),
            key_body: key_body(table),
            ignore_headers: header_names(table, "ignore_headers").unwrap_or_default(),
            only_if: reply_tests(table, "only_if").unwrap_or_default(),
            renew: renew(table),
            drop: drop(table),
        };
        table.finish();
        answer
    }
}

fn statuses(table: &Table<'_>) -> Vec<StatusCode> {
    const FORM: &str = "write a list such as [200, 304]; 1xx, 206, 401, 403 and 5xx are never stored";
    let Some(node) = table.node("statuses") else { return vec![StatusCode::OK] };
    let Value::List(list) = &node.value else {
        table.mistakes.error(&node.at, format!("`{}` must be a list, not {}", table.name_of("statuses"), node.value.kind()), FORM);
        return Vec::new();
    };
    let mut statuses = Vec::new();
    for item in list {
        let status = if let Value::Integer(number) = item.value { u16::try_from(number).ok() } else { None };
        match status.filter(|status| (200..500).contains(status) && ![206, 401, 403].contains(status)).map(StatusCode::from_u16) {
            Some(Ok(status)) => statuses.push(status),
            _ => table.mistakes.error(&item.at, "this is no status that can be stored", FORM),
        }
    }
    if list.is_empty() {
        table.mistakes.error(&node.at, "no status at all would be stored", FORM);
    }
    statuses
}

fn key_body(table: &Table<'_>) -> Option<Vec<Selector>> {
    let mut selectors = Vec::new();
    for (text, at) in table.texts("key_body")? {
        match Selector::parse(text) {
            Ok(selector) if selector.reads_body() => selectors.push(selector),
            Ok(_) => table.mistakes.error(at, format!("{text} does not stand in the body"), "write json.PATH, form.NAME or xml.LOCALNAME"),
            Err(instead) => table.mistakes.error(at, format!("\"{text}\" is no selector"), instead),
        }
    }
    Some(selectors)
}

/// A list of header names, in lower case, in which `*` stands for any characters.
pub fn header_names(table: &Table<'_>, key: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for (text, at) in table.texts(key)? {
        let valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte));
        let name = text.to_ascii_lowercase();
        if !valid {
            table.mistakes.error(at, format!("\"{text}\" is no name of a header"), "write it without a colon, such as \"x-client-build\"");
        } else if ["authorization", "cookie"].iter().any(|secret| glob(&name, secret)) {
            table.mistakes.error(
                at,
                format!("\"{text}\" would leave out who asks"),
                "authorization and cookie are always part of the question",
            );
        } else {
            names.push(name);
        }
    }
    Some(names)
}

fn renew(table: &Table<'_>) -> Vec<(Selector, Now)> {
    let Some(table) = table.table("renew") else { return Vec::new() };
    let mut list = Vec::new();
    for (key, _) in table.entries() {
        let now = table.choice(&key.name, &[("now", Now::Seconds), ("now.2", Now::Hundredths), ("now.ms", Now::Millis)]);
        match Selector::parse(&key.name) {
            Ok(Selector::Json(path)) if path.names_several() => {
                table.mistakes.error(
                    &key.at,
                    format!("`{}` names several values", key.name),
                    "name one, such as \"json.a.b\" or \"json.a[0]\"",
                );
            }
            Ok(selector @ (Selector::Header(_) | Selector::Json(_))) => list.extend(now.map(|now| (selector, now))),
            _ => table.mistakes.error(
                &key.at,
                format!("`{}` is no part of a reply that can be renewed", key.name),
                "write \"header.NAME\" or \"json.PATH\"",
            ),
        }
    }
    list
}

fn drop(table: &Table<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for (text, at) in table.texts("drop").unwrap_or_default() {
        match text.strip_prefix("header.") {
            Some(name) if !name.is_empty() => names.push(name.to_ascii_lowercase()),
            _ => table.mistakes.error(at, format!("\"{text}\" cannot be dropped"), "write \"header.NAME\"; `*` stands for any characters"),
        }
    }
    names
}

impl fmt::Display for Answer {
    /// For `explain`: `200 304, only if reply.json._code = ["Ok"]`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, status) in self.statuses.iter().enumerate() {
            write!(formatter, "{}{}", if index == 0 { "" } else { " " }, status.as_u16())?;
        }
        if let Some(mode) = self.mode {
            let word = match mode {
                AnswerMode::Off => "off",
                AnswerMode::Verify => "verify",
                AnswerMode::On => "on",
            };
            write!(formatter, ", mode {word}")?;
        }
        if let Some(age) = self.age_max {
            write!(formatter, ", for {}", units::show_duration(age))?;
        }
        for selector in self.key_body.iter().flatten() {
            write!(formatter, ", keyed by {selector}")?;
        }
        for (selector, test) in &self.only_if {
            write!(formatter, ", only if {selector} = {test}")?;
        }
        for (selector, _) in &self.renew {
            write!(formatter, ", renewing {selector}")?;
        }
        for name in &self.drop {
            write!(formatter, ", without header.{name}")?;
        }
        Ok(())
    }
}
