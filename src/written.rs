//! What somebody wrote: a TOML file as nodes that know where they stand, a reader that collects every mistake, and the
//! mistakes themselves, told with file, line, column, a caret and what to write instead.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    ops::{Range, RangeInclusive},
    sync::Arc,
    time::Duration,
};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use toml::de::{DeTable, DeValue};

use crate::units;

/// A text with the name under which mistakes in it are told: a path, or `--set app.seats=32`.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// A path, or the flag that said it.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// A place in a source.
#[derive(Clone, Debug)]
pub struct At {
    /// The text it is a place of.
    pub source: Arc<Source>,
    /// Byte offsets into the text.
    pub span: Range<usize>,
}

impl At {
    /// Line and column, both from 1; the column counts characters.
    #[must_use]
    pub fn line_column(&self) -> (usize, usize) {
        let before = self.source.text.get(..self.span.start).unwrap_or(&self.source.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl fmt::Display for At {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(formatter, "{}:{line}:{column}", self.source.name)
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What stands there.
    pub value: Value,
    /// Where.
    pub at: At,
}

/// What can stand in a TOML file.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// `true` or `false`.
    Flag(bool),
    /// An array.
    List(Vec<Node>),
    /// A table, its keys in the order of the file.
    Table(Vec<(Key, Node)>),
    /// A date, which no key takes.
    Date(String),
}

impl Value {
    /// The kind of value, for a mistake: "a string".
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Date(_) => "a date",
        }
    }
}

/// A key with its place.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its last segment, unquoted.
    pub name: String,
    /// Where it stands.
    pub at: At,
}

/// How bad a mistake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is not used.
    Error,
    /// The file is used, but probably does not do what its author thinks.
    Warning,
}

/// One thing that is wrong, where, and what to write instead.
#[derive(Clone, Debug)]
pub struct Mistake {
    /// Whether it keeps the file from being used.
    pub severity: Severity,
    /// Where it stands; none for what is about no text, such as a file that cannot be read.
    pub at: Option<At>,
    /// What is wrong, without a full stop.
    pub what: String,
    /// What to write instead, without a full stop; may be empty.
    pub instead: String,
}

impl fmt::Display for Mistake {
    /// One line: `file:line:column: what; instead`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(formatter, "{at}: ")?;
        }
        formatter.write_str(&self.what)?;
        if !self.instead.is_empty() {
            write!(formatter, "; {}", self.instead)?;
        }
        Ok(())
    }
}

/// All mistakes found so far. Shared by reference while a file is read, so that every one is told at once.
#[derive(Debug, Default)]
pub struct Mistakes {
    list: RefCell<Vec<Mistake>>,
}

impl Mistakes {
    /// Adds an error.
    pub fn error(&self, at: &At, what: impl Into<String>, instead: impl Into<String>) {
        self.add(Mistake { severity: Severity::Error, at: Some(at.clone()), what: what.into(), instead: instead.into() });
    }

    /// Adds a warning.
    pub fn warning(&self, at: &At, what: impl Into<String>, instead: impl Into<String>) {
        self.add(Mistake { severity: Severity::Warning, at: Some(at.clone()), what: what.into(), instead: instead.into() });
    }

    /// Adds an error that stands nowhere, such as a file that cannot be read.
    pub fn elsewhere(&self, what: impl Into<String>, instead: impl Into<String>) {
        self.add(Mistake { severity: Severity::Error, at: None, what: what.into(), instead: instead.into() });
    }

    /// Adds a mistake.
    pub fn add(&self, mistake: Mistake) {
        self.list.borrow_mut().push(mistake);
    }

    /// Whether one of them keeps the file from being used.
    #[must_use]
    pub fn any_error(&self) -> bool {
        self.list.borrow().iter().any(|mistake| mistake.severity == Severity::Error)
    }

    /// All of them, in the order of files and places.
    #[must_use]
    pub fn into_list(self) -> Vec<Mistake> {
        let mut list = self.list.into_inner();
        list.sort_by_key(|mistake| mistake.at.as_ref().map_or((String::new(), 0), |at| (at.source.name.clone(), at.span.start)));
        list
    }
}

/// All mistakes as text for a terminal without colours: each with file, line and column, the line, a caret and what to write instead.
#[must_use]
pub fn render(mistakes: &[Mistake]) -> String {
    let renderer = Renderer::plain();
    let mut text = String::new();
    for mistake in mistakes {
        let level = match mistake.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut report = match &mistake.at {
            Some(at) => vec![
                level.primary_title(mistake.what.as_str()).element(
                    Snippet::source(at.source.text.as_str())
                        .path(at.source.name.as_str())
                        .annotation(AnnotationKind::Primary.span(visible(at))),
                ),
            ],
            None => vec![Group::with_title(level.primary_title(mistake.what.as_str()))],
        };
        if !mistake.instead.is_empty() {
            report.push(Group::with_title(Level::HELP.secondary_title(mistake.instead.as_str())));
        }
        text.push_str(&renderer.render(&report));
        text.push_str("\n\n");
    }
    text
}

/// The span of a place, cut to its first line and into the text, so that a whole table is not underlined.
fn visible(at: &At) -> Range<usize> {
    let text = &at.source.text;
    let start = at.span.start.min(text.len());
    let end = at.span.end.clamp(start, text.len());
    let line = text[start..end].find('\n').unwrap_or(end - start);
    start..start + line
}

/// Reads a TOML text into nodes; every syntax error becomes a mistake, and what could be read is returned.
#[must_use]
pub fn parse(source: &Arc<Source>, mistakes: &Mistakes) -> Node {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let at = At { source: Arc::clone(source), span };
        mistakes.error(&at, error.message().to_owned(), "");
    }
    let at = At { source: Arc::clone(source), span: table.span() };
    Node { value: Value::Table(fields(source, table.into_inner())), at }
}

fn fields(source: &Arc<Source>, table: DeTable<'_>) -> Vec<(Key, Node)> {
    let mut fields: Vec<(Key, Node)> = table
        .into_iter()
        .map(|(key, value)| {
            let at = At { source: Arc::clone(source), span: key.span() };
            let key = Key { name: key.into_inner().into_owned(), at };
            let at = At { source: Arc::clone(source), span: value.span() };
            (key, Node { value: convert(source, value.into_inner()), at })
        })
        .collect();
    fields.sort_by_key(|(key, _)| key.at.span.start);
    fields
}

fn convert(source: &Arc<Source>, value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| Value::Date(number.as_str().to_owned()), Value::Integer)
        }
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Float(f64::NAN), Value::Float),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(list) => Value::List(
            list.into_iter()
                .map(|item| {
                    let at = At { source: Arc::clone(source), span: item.span() };
                    Node { value: convert(source, item.into_inner()), at }
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(fields(source, table)),
    }
}

/// Lays `over` over `base`: tables are merged key by key, everything else is replaced.
pub fn lay_over(base: &mut Node, over: Node) {
    match (&mut base.value, over.value) {
        (Value::Table(below), Value::Table(above)) => {
            for (key, node) in above {
                match below.iter_mut().find(|(known, _)| known.name == key.name) {
                    Some((_, known)) => lay_over(known, node),
                    None => below.push((key, node)),
                }
            }
        }
        (value, above) => {
            *value = above;
            base.at = over.at;
        }
    }
}

/// A table that is read key by key. A key of the wrong kind is a mistake and counts as absent; [`Table::finish`] tells of keys that
/// nobody asked for, with the nearest that exists.
#[derive(Debug)]
pub struct Table<'a> {
    fields: &'a [(Key, Node)],
    /// Where the table stands.
    pub at: &'a At,
    /// Its own dotted name, empty for the whole file.
    pub path: String,
    asked: RefCell<BTreeSet<String>>,
    /// Where mistakes go.
    pub mistakes: &'a Mistakes,
}

impl<'a> Table<'a> {
    /// Reads a node that must be a table.
    pub fn of(node: &'a Node, path: impl Into<String>, mistakes: &'a Mistakes) -> Option<Self> {
        let path = path.into();
        match &node.value {
            Value::Table(fields) => Some(Self { fields, at: &node.at, path, asked: RefCell::default(), mistakes }),
            other => {
                mistakes.error(
                    &node.at,
                    format!("`{path}` must be a table, not {}", other.kind()),
                    format!("write [{path}] and its keys below"),
                );
                None
            }
        }
    }

    /// The dotted name of one of its keys.
    #[must_use]
    pub fn name_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Whatever stands at `key`.
    pub fn node(&self, key: &str) -> Option<&'a Node> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.fields.iter().find(|(known, _)| known.name == key).map(|(_, node)| node)
    }

    /// Where `key` itself stands, or the table where it is absent.
    #[must_use]
    pub fn key_at(&self, key: &str) -> &'a At {
        self.fields.iter().find(|(known, _)| known.name == key).map_or(self.at, |(known, _)| &known.at)
    }

    /// All keys with their values, for tables whose keys are names; none of them is unknown afterwards.
    pub fn entries(&self) -> &'a [(Key, Node)] {
        self.asked.borrow_mut().extend(self.fields.iter().map(|(key, _)| key.name.clone()));
        self.fields
    }

    fn wrong(&self, key: &str, node: &Node, wanted: &str, instead: &str) {
        let name = self.name_of(key);
        self.mistakes.error(&node.at, format!("`{name}` must be {wanted}, not {}", node.value.kind()), instead);
    }

    /// A string.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        let node = self.node(key)?;
        if let Value::Text(text) = &node.value {
            return Some(text);
        }
        self.wrong(key, node, "a string", &format!("write {key} = \"...\""));
        None
    }

    /// A string that `read` understands; its error says what to write instead.
    pub fn parsed<T>(&self, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(key)?;
        read(text)
            .map_err(|instead| {
                let name = self.name_of(key);
                self.mistakes.error(
                    &self.node(key).map_or(self.at, |node| &node.at).clone(),
                    format!("`{name}` cannot be \"{text}\""),
                    instead,
                );
            })
            .ok()
    }

    /// A duration such as `"5s"`.
    pub fn duration(&self, key: &str) -> Option<Duration> {
        self.with_unit(key, "5s", units::duration)
    }

    /// A size such as `"64KiB"`.
    pub fn bytes(&self, key: &str) -> Option<u64> {
        self.with_unit(key, "64KiB", units::bytes)
    }

    fn with_unit<T>(&self, key: &str, example: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let node = self.node(key)?;
        if matches!(node.value, Value::Text(_)) {
            return self.parsed(key, read);
        }
        self.wrong(key, node, "a string with a unit", &format!("write {key} = \"...\", such as \"{example}\""));
        None
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        self.parsed(key, |text| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            found.ok_or_else(|| format!("write one of {}", quoted(&words)))
        })
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        let node = self.node(key)?;
        if let Value::Flag(flag) = node.value {
            return Some(flag);
        }
        self.wrong(key, node, "true or false", &format!("write {key} = true or {key} = false"));
        None
    }

    /// A whole number within bounds.
    pub fn integer(&self, key: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let node = self.node(key)?;
        let Value::Integer(number) = node.value else {
            self.wrong(key, node, "a whole number", &format!("write a whole number from {} to {}", bounds.start(), bounds.end()));
            return None;
        };
        let found = u64::try_from(number).ok().filter(|number| bounds.contains(number));
        if found.is_none() {
            let name = self.name_of(key);
            let instead = format!("write a whole number from {} to {}", bounds.start(), bounds.end());
            self.mistakes.error(&node.at, format!("`{name}` cannot be {number}"), instead);
        }
        found
    }

    /// A number, whole or not, within bounds.
    pub fn number(&self, key: &str, bounds: RangeInclusive<f64>) -> Option<f64> {
        let node = self.node(key)?;
        #[expect(clippy::cast_precision_loss, reason = "bounds are far below 2^53")]
        let number = match node.value {
            Value::Integer(number) => number as f64,
            Value::Float(number) => number,
            _ => {
                self.wrong(key, node, "a number", &format!("write a number from {} to {}", bounds.start(), bounds.end()));
                return None;
            }
        };
        if bounds.contains(&number) {
            return Some(number);
        }
        let name = self.name_of(key);
        self.mistakes.error(
            &node.at,
            format!("`{name}` cannot be {number}"),
            format!("write a number from {} to {}", bounds.start(), bounds.end()),
        );
        None
    }

    /// A string or a list of strings, each with its place.
    pub fn texts(&self, key: &str) -> Option<Vec<(&'a str, &'a At)>> {
        let node = self.node(key)?;
        let list = match &node.value {
            Value::List(list) => list.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut texts = Vec::new();
        for item in list {
            if let Value::Text(text) = &item.value {
                texts.push((text.as_str(), &item.at));
            } else {
                self.wrong(key, item, "a string or a list of strings", "write each in quotation marks");
            }
        }
        Some(texts)
    }

    /// A table.
    pub fn table(&self, key: &str) -> Option<Table<'a>> {
        Table::of(self.node(key)?, self.name_of(key), self.mistakes)
    }

    /// A list of tables, as `[[key]]` makes them.
    pub fn tables(&self, key: &str) -> Vec<Table<'a>> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let name = self.name_of(key);
        if let Value::List(list) = &node.value {
            return list.iter().filter_map(|item| Table::of(item, name.clone(), self.mistakes)).collect();
        }
        self.wrong(key, node, "a list of tables", &format!("write [[{name}]]"));
        Vec::new()
    }

    /// Tells of every key that nobody asked for, with the nearest that exists.
    pub fn finish(&self) {
        let asked = self.asked.borrow();
        for (key, _) in self.fields.iter().filter(|(key, _)| !asked.contains(&key.name)) {
            let known: Vec<&str> = asked.iter().map(String::as_str).collect();
            self.mistakes.error(&key.at, format!("there is no key `{}`", self.name_of(&key.name)), suggestion(&key.name, &known));
        }
    }
}

/// "did you mean `burst`?", or all that there is.
#[must_use]
pub fn suggestion(word: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|candidate| (strsim::jaro_winkler(word, candidate), *candidate)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, candidate)) if likeness > 0.8 => format!("did you mean `{candidate}`?"),
        _ if known.is_empty() => "remove it".to_owned(),
        _ => format!("known here: {}", known.join(", ")),
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Arc<Source> {
        Arc::new(Source { name: "t.toml".to_owned(), text: text.to_owned() })
    }

    #[test]
    fn every_mistake_is_told_with_its_place_and_what_to_write_instead() {
        let mistakes = Mistakes::default();
        let node = parse(&source("seats = \"x\"\nlingr = \"5s\"\nlinger = \"soon\"\n"), &mistakes);
        let table = Table::of(&node, "", &mistakes).expect("a table");
        assert_eq!(table.integer("seats", 1..=10), None);
        assert_eq!(table.duration("linger"), None);
        table.finish();
        let list = mistakes.into_list();
        let lines: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("t.toml:1:9: `seats` must be a whole number"), "{}", lines[0]);
        assert!(lines[1].starts_with("t.toml:2:1: there is no key `lingr`; did you mean `linger`?"), "{}", lines[1]);
        assert!(lines[2].starts_with("t.toml:3:10: `linger` cannot be \"soon\""), "{}", lines[2]);
        let text = render(&list);
        assert!(text.contains("t.toml:2:1") && text.contains("^^^^^"), "{text}");
    }

    #[test]
    fn several_syntax_errors_are_told_at_once() {
        let mistakes = Mistakes::default();
        let _ = parse(&source("a = \nb = 1\nc = = 2\n"), &mistakes);
        assert!(mistakes.into_list().len() >= 2);
    }

    #[test]
    fn a_flag_is_laid_over_a_file() {
        let mistakes = Mistakes::default();
        let mut base = parse(&source("[app]\nseats = 1\nhealth = \"/h\"\n"), &mistakes);
        lay_over(&mut base, parse(&source("app.seats = 2"), &mistakes));
        let table = Table::of(&base, "", &mistakes).expect("a table");
        let app = table.table("app").expect("a table");
        assert_eq!(app.integer("seats", 1..=10), Some(2));
        assert_eq!(app.text("health"), Some("/h"));
    }
}
