//! Selectors: where in a request or reply a value stands, as written in profiles.

use std::fmt;

use http::HeaderName;

/// A step of a path into JSON.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JsonStep {
    /// The value of this key.
    Key(String),
    /// Every element of an array.
    Each,
    /// One element, from 0.
    Index(usize),
    /// The names of an object's keys; the last step only.
    Keys,
}

/// A path into JSON: `a.b[*].c`, `a[50]`, `a~keys`; `[*].a` where the document itself is an array.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JsonPath(pub Vec<JsonStep>);

/// The most steps of a path.
const STEPS_MAX: usize = 16;

/// The largest index in a path.
const INDEX_MAX: usize = 1_000_000;

impl JsonPath {
    /// Reads a path.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write a path such as a.b, a[*].b, a[50] or a~keys";
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if steps.len() >= STEPS_MAX {
                return Err(format!("write at most {STEPS_MAX} steps"));
            }
            if rest == "~keys" {
                steps.push(JsonStep::Keys);
                break;
            }
            if let Some(inner) = rest.strip_prefix('[') {
                let (index, after) = inner.split_once(']').ok_or(FORM)?;
                steps.push(match index {
                    "*" => JsonStep::Each,
                    _ => JsonStep::Index(index.parse().ok().filter(|index| *index <= INDEX_MAX).ok_or(FORM)?),
                });
                rest = after;
                continue;
            }
            if !steps.is_empty() {
                rest = rest.strip_prefix('.').ok_or(FORM)?;
            }
            let end = rest.find(['.', '[', ']', '~']).unwrap_or(rest.len());
            if end == 0 {
                return Err(FORM.to_owned());
            }
            steps.push(JsonStep::Key(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        if steps.is_empty() { Err(FORM.to_owned()) } else { Ok(Self(steps)) }
    }
}

impl JsonPath {
    /// Whether it can name several values.
    #[must_use]
    pub fn names_several(&self) -> bool {
        self.0.iter().any(|step| matches!(step, JsonStep::Each | JsonStep::Keys))
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                JsonStep::Key(key) if index == 0 => formatter.write_str(key)?,
                JsonStep::Key(key) => write!(formatter, ".{key}")?,
                JsonStep::Each => formatter.write_str("[*]")?,
                JsonStep::Index(index) => write!(formatter, "[{index}]")?,
                JsonStep::Keys => formatter.write_str("~keys")?,
            }
        }
        Ok(())
    }
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// `path`: the request's path behind the profile's `prefix`.
    Path,
    /// `path.NAME`: what a `{NAME}` of the route's path matched.
    Capture(String),
    /// `query.NAME`
    Query(String),
    /// `header.NAME`
    Header(HeaderName),
    /// `header.NAME#path`: the path of the URL in a header.
    HeaderPath(HeaderName),
    /// `header.NAME#JSONPATH`: in the JSON that a header holds.
    HeaderJson(HeaderName, JsonPath),
    /// `cookie.NAME`
    Cookie(String),
    /// `basic.user`: the user name of `Authorization: Basic` (RFC 7617).
    BasicUser,
    /// `json.PATH`: in the JSON body.
    Json(JsonPath),
    /// `form.NAME`: a field of an urlencoded or multipart body.
    Form(String),
    /// `form.NAME#JSONPATH`: in the JSON that a field holds.
    FormJson(String, JsonPath),
    /// `xml.LOCALNAME`: the text of each element of this name, whatever its namespace.
    Xml(String),
    /// `xml.root`: the local name of the outermost element.
    XmlRoot,
    /// `reply.json.PATH`: in the JSON body of the reply.
    ReplyJson(JsonPath),
    /// `reply.header.NAME`: a header of the reply.
    ReplyHeader(HeaderName),
}

const FORMS: &str = "write path, path.NAME, query.NAME, header.NAME, header.NAME#path, header.NAME#JSONPATH, cookie.NAME, basic.user, json.PATH, \
    form.NAME, form.NAME#JSONPATH, xml.LOCALNAME, xml.root, reply.json.PATH or reply.header.NAME";

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('.').unwrap_or((text, ""));
        if name.is_empty() && text != "path" {
            return Err(FORMS.to_owned());
        }
        Ok(match (kind, name) {
            ("path", "") if text == "path" => Self::Path,
            ("path", name) => Self::Capture(name.to_owned()),
            ("query", name) => Self::Query(name.to_owned()),
            ("header", name) => match name.split_once('#') {
                None => Self::Header(header_name(name)?),
                Some((name, "path")) => Self::HeaderPath(header_name(name)?),
                Some((name, path)) => Self::HeaderJson(header_name(name)?, JsonPath::parse(path)?),
            },
            ("cookie", name) => Self::Cookie(name.to_owned()),
            ("basic", "user") => Self::BasicUser,
            ("basic", _) => return Err("write basic.user".to_owned()),
            ("json", path) => Self::Json(JsonPath::parse(path)?),
            ("form", name) => match name.split_once('#') {
                None => Self::Form(name.to_owned()),
                Some(("", _)) => return Err("write form.NAME#JSONPATH".to_owned()),
                Some((name, path)) => Self::FormJson(name.to_owned(), JsonPath::parse(path)?),
            },
            ("xml", "root") => Self::XmlRoot,
            ("xml", name) => Self::Xml(name.to_owned()),
            ("reply", rest) => match rest.split_once('.') {
                Some(("json", path)) => Self::ReplyJson(JsonPath::parse(path)?),
                Some(("header", name)) => Self::ReplyHeader(header_name(name)?),
                _ => return Err("write reply.json.PATH or reply.header.NAME".to_owned()),
            },
            _ => return Err(FORMS.to_owned()),
        })
    }

    /// Whether it is read in the body of a request.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Form(_) | Self::FormJson(..) | Self::Xml(_) | Self::XmlRoot)
    }

    /// Whether it is read in the reply.
    #[must_use]
    pub fn reads_reply(&self) -> bool {
        matches!(self, Self::ReplyJson(_) | Self::ReplyHeader(_))
    }

    /// Why it cannot tell who asks, if it cannot: a sentence that says what to write instead.
    #[must_use]
    pub fn cannot_tell_who(&self) -> Option<String> {
        match self {
            Self::ReplyJson(_) | Self::ReplyHeader(_) => Some("name it by the request: the reply comes too late".to_owned()),
            Self::Capture(_) => Some("write path, or what every request has: a name in a path belongs to one route".to_owned()),
            _ => None,
        }
    }

    /// The header that it reads in a request.
    #[must_use]
    pub fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) | Self::HeaderPath(name) | Self::HeaderJson(name, _) => Some(name),
            _ => None,
        }
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(name).map_err(|_| "write a header's name, such as header.x-client".to_owned())
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => formatter.write_str("path"),
            Self::Capture(name) => write!(formatter, "path.{name}"),
            Self::Query(name) => write!(formatter, "query.{name}"),
            Self::Header(name) => write!(formatter, "header.{name}"),
            Self::HeaderPath(name) => write!(formatter, "header.{name}#path"),
            Self::HeaderJson(name, path) => write!(formatter, "header.{name}#{path}"),
            Self::Cookie(name) => write!(formatter, "cookie.{name}"),
            Self::BasicUser => formatter.write_str("basic.user"),
            Self::Json(path) => write!(formatter, "json.{path}"),
            Self::Form(name) => write!(formatter, "form.{name}"),
            Self::FormJson(name, path) => write!(formatter, "form.{name}#{path}"),
            Self::Xml(name) => write!(formatter, "xml.{name}"),
            Self::XmlRoot => formatter.write_str("xml.root"),
            Self::ReplyJson(path) => write!(formatter, "reply.json.{path}"),
            Self::ReplyHeader(name) => write!(formatter, "reply.header.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_selector_reads_back() {
        for text in [
            "path",
            "path.db",
            "query.feed",
            "header.authorization",
            "header.destination#path",
            "header.x-meta#a[*].b",
            "cookie.sid",
            "basic.user",
            "json.token",
            "json.requests[*].path",
            "json.changes[50]",
            "json.docs~keys",
            "json.[*].id",
            "form.push",
            "form.push#[*].share_id",
            "xml.href",
            "xml.root",
            "reply.json._code",
            "reply.header.etag",
        ] {
            assert_eq!(Selector::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in [
            "",
            "json",
            "json.",
            "json.a..b",
            "json.a[",
            "json.a[x]",
            "json.a[-1]",
            "json.a~keys.b",
            "json.a~values",
            "json.a]b",
            "path.",
            "basic.password",
            "header.a b",
            "reply.body",
            "reply.json.",
            "form.#a",
            "body.x",
            "json.a[1]b",
            "json.a[99999999]",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
