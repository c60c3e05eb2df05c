//! Bodies: how long they are, which language they say they speak, and the fields of urlencoded ones.

use std::borrow::Cow;

use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};

use super::{
    BodySeen, multipart, path,
    truth::{Found, Truth, Value},
};

/// `Content-Length`, if there is exactly one that is a number.
#[must_use]
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    let first = all.next()?.to_str().ok()?.parse().ok();
    if all.next().is_some() { None } else { first }
}

/// Whether a body is longer than `limit`: as `Content-Length` says, or by what was read. One of unknown length that exceeds the prefix counts
/// as longer.
#[must_use]
pub fn longer(head: &Parts, body: BodySeen<'_>, limit: u64) -> Truth {
    let over = |bytes: &[u8]| u64::try_from(bytes.len()).is_ok_and(|length| length > limit);
    match (content_length(&head.headers), body) {
        (_, BodySeen::Whole(bytes)) => over(bytes).into(),
        (Some(length), _) => (length > limit).into(),
        (None, BodySeen::Prefix(_)) => Truth::Yes,
        (None, BodySeen::Unread) => Truth::Unknown,
    }
}

/// The language that a body is in, as its `Content-Type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language<'h> {
    /// `application/json` or `.../...+json`, in UTF-8.
    Json,
    /// `application/x-www-form-urlencoded`, in UTF-8.
    Form,
    /// `multipart/form-data`, with its boundary.
    Multipart(&'h str),
    /// `text/xml`, `application/xml` or `.../...+xml`, in UTF-8 as far as was said.
    Xml,
    /// None was said.
    Unsaid,
    /// Something else, or more than one.
    Other,
}

impl<'h> Language<'h> {
    /// Reads `Content-Type`.
    #[must_use]
    pub fn of(headers: &'h HeaderMap) -> Self {
        let mut all = headers.get_all(CONTENT_TYPE).iter();
        let Some(first) = all.next() else { return Self::Unsaid };
        let Some(text) = first.to_str().ok().filter(|_| all.next().is_none()) else { return Self::Other };
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let foreign = parts.filter_map(|part| part.split_once('=')).any(|(name, value)| {
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("charset") && !value.eq_ignore_ascii_case("utf-8") && !value.eq_ignore_ascii_case("utf8")
        });
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let ends = |end: &str| {
            essence.len().checked_sub(end.len()).and_then(|start| essence.get(start..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        };
        if foreign {
            Self::Other
        } else if is("application/json") || ends("+json") {
            Self::Json
        } else if is("application/x-www-form-urlencoded") {
            Self::Form
        } else if is("multipart/form-data") {
            multipart::boundary(text).map_or(Self::Other, Self::Multipart)
        } else if is("text/xml") || is("application/xml") || ends("+xml") {
            Self::Xml
        } else {
            Self::Other
        }
    }
}

/// The values of a name in an urlencoded text, a query or a form. A value that cannot be decoded is there but has no text. If the text is
/// only a beginning, its last pair may be cut and does not count.
#[must_use]
pub fn form_values<'a>(text: &'a str, wanted: &str, whole: bool) -> Found<'a> {
    let mut found = Found { open: !whole, ..Found::default() };
    let text = if whole { text } else { &text[..text.rfind('&').unwrap_or(0)] };
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if form_text(name).as_deref() == Some(wanted) {
            found.values.push(form_text(value).map_or(Value::Opaque, Value::from_text));
        }
    }
    found
}

/// The values of a name in an urlencoded text, however long: for JSON that stands in a field. None if one cannot be decoded.
#[must_use]
pub fn form_texts<'a>(text: &'a str, wanted: &str) -> Option<Vec<Cow<'a, str>>> {
    let pairs = text.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(name, _)| form_text(name).as_deref() == Some(wanted)).map(|(_, value)| form_text(value)).collect()
}

fn form_text(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains('+') {
        return path::decode(raw);
    }
    path::decode(&raw.replace('+', " ")).map(|text| Cow::Owned(text.into_owned()))
}
