//! Values as selectors find them, and tests on them: true, false, or unknown where what was read does not decide.

use std::borrow::Cow;

use smallvec::SmallVec;

/// The most bytes of a value whose text is used.
pub const TEXT_MAX: usize = 1024;

/// A value that a selector found.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// JSON's `null`.
    Null,
    /// `true` or `false`.
    Flag(bool),
    /// A whole number that every JSON reader understands alike: between -(2^53 - 1) and 2^53 - 1, without fraction or exponent.
    Integer(i64),
    /// Any other number: readers differ in what they make of it, so it has no text.
    Number(f64),
    /// A text of at most 1 KiB without control characters.
    Text(Cow<'a, str>),
    /// A text that is too long, holds control characters or cannot be decoded: it is there and not empty, but it has no text.
    Opaque,
    /// It is there, but readers differ in what it says: it may even be empty.
    Unclear,
    /// An array or object, or an element that holds elements.
    Container {
        /// Whether it is `[]` or `{}`.
        empty: bool,
    },
}

impl<'a> Value<'a> {
    /// A text, opaque if it is too long or holds control characters.
    #[must_use]
    pub fn from_text(text: Cow<'a, str>) -> Self {
        if usable(&text) { Self::Text(text) } else { Self::Opaque }
    }

    /// What it contributes to a scope, a client's name or a comparison; none for what has no such text.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Flag(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
            Self::Integer(number) => Some(Cow::Owned(number.to_string())),
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Null | Self::Number(_) | Self::Opaque | Self::Unclear | Self::Container { .. } => None,
        }
    }

    fn is_empty(&self) -> Truth {
        match self {
            Self::Null => Truth::Yes,
            Self::Text(text) => text.is_empty().into(),
            Self::Container { empty } => (*empty).into(),
            Self::Flag(_) | Self::Integer(_) | Self::Number(_) | Self::Opaque => Truth::No,
            Self::Unclear => Truth::Unknown,
        }
    }
}

/// Whether a text may stand in scopes and names: at most [`TEXT_MAX`] bytes, no control characters.
#[must_use]
pub fn usable(text: &str) -> bool {
    text.len() <= TEXT_MAX && !text.chars().any(char::is_control)
}

/// What a selector found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found<'a> {
    /// Every value that was read.
    pub values: SmallVec<[Value<'a>; 2]>,
    /// There may be more, or what is there could not be read: what was not found is not decided.
    pub open: bool,
    /// An element under a `[*]` lacks it: `values` does not speak for all elements.
    pub gap: bool,
}

impl<'a> Found<'a> {
    /// Nothing, and that is certain.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// It could not be read.
    #[must_use]
    pub fn unread() -> Self {
        Self { open: true, ..Self::default() }
    }

    /// The same, borrowing nothing.
    #[must_use]
    pub fn into_owned<'b>(self) -> Found<'b> {
        let own = |value| match value {
            Value::Null => Value::Null,
            Value::Flag(flag) => Value::Flag(flag),
            Value::Integer(number) => Value::Integer(number),
            Value::Number(number) => Value::Number(number),
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::Opaque => Value::Opaque,
            Value::Unclear => Value::Unclear,
            Value::Container { empty } => Value::Container { empty },
        };
        Found { values: self.values.into_iter().map(own).collect(), open: self.open, gap: self.gap }
    }

    /// One value, certainly.
    #[must_use]
    pub fn one(value: Value<'a>) -> Self {
        let mut found = Self::default();
        found.values.push(value);
        found
    }
}

/// Kleene's three values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// What was read does not decide it.
    Unknown,
}

impl Truth {
    /// `No` wins over `Unknown`, `Unknown` over `Yes`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Unknown,
        }
    }

    /// `Yes` wins over `Unknown`, `Unknown` over `No`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        self.negated().and(other.negated()).negated()
    }

    /// The opposite; `Unknown` stays.
    #[must_use]
    pub fn negated(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl From<bool> for Truth {
    fn from(flag: bool) -> Self {
        if flag { Self::Yes } else { Self::No }
    }
}

/// What is asked of what a selector found.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// Found, whatever it holds.
    Present,
    /// Nothing found, or every value found is null, "", [] or {}.
    Empty,
    /// Some value found equals one of these; numbers and booleans by their JSON text.
    AnyOf(Vec<String>),
    /// Some value found matches; `*` stands for any characters, `/` too.
    Glob(String),
    /// Some value found is a number above this.
    Over(f64),
    /// The opposite.
    Not(Box<Test>),
}

impl Test {
    /// Whether it holds. A value that was found decides; what was not found decides only if nothing is open.
    #[must_use]
    pub fn holds(&self, found: &Found<'_>) -> Truth {
        match self {
            Self::Present => some(found, |_| Truth::Yes),
            Self::Empty => some(found, |value| value.is_empty().negated()).negated(),
            Self::AnyOf(words) => some(found, |value| match value {
                Value::Number(_) | Value::Unclear => Truth::Unknown,
                _ => Truth::from(value.text().is_some_and(|text| words.iter().any(|word| *word == text))),
            }),
            Self::Glob(pattern) => some(found, |value| match value {
                Value::Number(_) | Value::Opaque | Value::Unclear => Truth::Unknown,
                _ => Truth::from(value.text().is_some_and(|text| glob(pattern, &text))),
            }),
            Self::Over(limit) => some(found, |value| match value {
                Value::Opaque | Value::Unclear => Truth::Unknown,
                Value::Number(number) => Truth::from(number > limit),
                #[expect(clippy::cast_precision_loss, reason = "integers are within 2^53")]
                Value::Integer(number) => Truth::from(*number as f64 > *limit),
                Value::Text(text) => Truth::from(text.parse::<f64>().is_ok_and(|number| number > *limit)),
                _ => Truth::No,
            }),
            Self::Not(test) => test.holds(found).negated(),
        }
    }
}

fn some(found: &Found<'_>, holds: impl Fn(&Value<'_>) -> Truth) -> Truth {
    let start = if found.open { Truth::Unknown } else { Truth::No };
    found.values.iter().fold(start, |truth, value| truth.or(holds(value)))
}

impl std::fmt::Display for Test {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Present => formatter.write_str("\"present\""),
            Self::Empty => formatter.write_str("\"empty\""),
            Self::AnyOf(words) => write!(formatter, "{words:?}"),
            Self::Glob(pattern) => write!(formatter, "{{ glob = {pattern:?} }}"),
            Self::Over(limit) => write!(formatter, "{{ over = {limit} }}"),
            Self::Not(test) => match &**test {
                Self::Present => formatter.write_str("\"absent\""),
                Self::Empty => formatter.write_str("\"nonempty\""),
                test => write!(formatter, "{{ not = {test} }}"),
            },
        }
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters. Linear but for one step back to the last star.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&'static str], open: bool) -> Found<'static> {
        Found { values: texts.iter().map(|text| Value::Text(Cow::Borrowed(*text))).collect(), open, gap: false }
    }

    fn any_of(words: &[&str]) -> Test {
        Test::AnyOf(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn a_value_that_was_found_decides_even_if_there_may_be_more() {
        assert_eq!(Test::Present.holds(&texts(&["a"], true)), Truth::Yes);
        assert_eq!(Test::Empty.holds(&texts(&["a"], true)), Truth::No);
        assert_eq!(any_of(&["a"]).holds(&texts(&["b", "a"], true)), Truth::Yes);
        assert_eq!(Test::Not(Box::new(any_of(&["a"]))).holds(&texts(&["a"], true)), Truth::No);
    }

    #[test]
    fn what_was_not_found_decides_only_if_all_was_read() {
        for test in [Test::Present, Test::Empty, any_of(&["a"]), Test::Glob("a*".to_owned()), Test::Over(1.0)] {
            assert_eq!(test.holds(&Found::unread()), Truth::Unknown, "{test}");
            assert_ne!(test.holds(&Found::nothing()), Truth::Unknown, "{test}");
        }
        assert_eq!(Test::Empty.holds(&Found::nothing()), Truth::Yes);
        assert_eq!(Test::Empty.holds(&texts(&[""], true)), Truth::Unknown);
        assert_eq!(Test::Not(Box::new(any_of(&["a"]))).holds(&texts(&["b"], true)), Truth::Unknown);
    }

    #[test]
    fn numbers_that_readers_take_differently_equal_nothing_for_certain() {
        assert_eq!(any_of(&["1"]).holds(&Found::one(Value::Number(1.0))), Truth::Unknown);
        assert_eq!(any_of(&["1"]).holds(&Found::one(Value::Integer(1))), Truth::Yes);
        assert_eq!(any_of(&["true"]).holds(&Found::one(Value::Flag(true))), Truth::Yes);
        assert_eq!(Test::Over(50.0).holds(&Found::one(Value::Number(50.5))), Truth::Yes);
        assert_eq!(Test::Over(50.0).holds(&Found::one(Value::Integer(50))), Truth::No);
    }

    #[test]
    fn a_value_without_text_is_still_there() {
        let opaque = Found::one(Value::from_text("x".repeat(TEXT_MAX + 1).into()));
        assert_eq!(Test::Present.holds(&opaque), Truth::Yes);
        assert_eq!(Test::Empty.holds(&opaque), Truth::No);
        assert_eq!(any_of(&["x"]).holds(&opaque), Truth::No);
        assert_eq!(Test::Glob("x*".to_owned()).holds(&opaque), Truth::Unknown);
        assert_eq!(Value::from_text("a\nb".into()), Value::Opaque);
    }

    #[test]
    fn a_star_matches_slashes_too() {
        for (pattern, text, expected) in [
            ("*/default*", "/buckets/default/x", true),
            ("*%*", "/a%20b", true),
            ("*%*", "/ab", false),
            ("a*b*c", "aXbYbc", true),
            ("a*b*c", "aXbYb", false),
            ("", "", true),
            ("*", "", true),
            ("a", "", false),
            ("**a", "ba", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
