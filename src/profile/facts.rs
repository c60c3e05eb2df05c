//! What one request shows: selectors are looked up in its head and body, the body parsed at most once, and only if something asks.

use std::{borrow::Cow, cell::OnceCell};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, COOKIE},
    request::Parts,
};

use super::{
    BodySeen,
    body::{self, Language},
    coding::{self, Content},
    json::{Gathered, Paths},
    multipart,
    path::{self, Captures, Target},
    selector::Selector,
    truth::{Found, Truth, Value},
    xml::{Elements, Names},
};

/// What all selectors of a profile look for in a body, found in one pass of it.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    /// In JSON.
    pub json: Paths,
    /// In XML.
    pub xml: Names,
}

/// A selector, ready to be looked up.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What it looks for.
    pub selector: Selector,
    /// For `json.` and `xml.`: its slot among the profile's paths or names. For JSON in a field or header: its slot in `inner`.
    slot: usize,
    inner: Option<Paths>,
}

impl Probe {
    /// Prepares a selector; what it looks for in a body is added to `looks`.
    #[must_use]
    pub fn new(selector: Selector, looks: &mut Looks) -> Self {
        let mut inner = None;
        let slot = match &selector {
            Selector::Json(path) => looks.json.slot(path),
            Selector::Xml(name) => looks.xml.slot(name),
            Selector::FormJson(_, path) | Selector::HeaderJson(_, path) => inner.get_or_insert_with(Paths::default).slot(path),
            _ => 0,
        };
        Self { selector, slot, inner }
    }

    /// What stands in the JSON of a field or header.
    fn inner<'t>(&self, text: &'t [u8]) -> Found<'t> {
        self.inner.as_ref().map_or_else(Found::unread, |paths| paths.gather(text, true).found(self.slot).clone())
    }
}

/// One request.
#[derive(Debug)]
pub struct Facts<'a> {
    head: &'a Parts,
    seen: BodySeen<'a>,
    content: &'a OnceCell<Content<'a>>,
    looks: &'a Looks,
    prefix: &'a [String],
    gathered: OnceCell<Gathered<'a>>,
    elements: OnceCell<Elements<'a>>,
    /// Its path behind the profile's prefix; none if it can match no route.
    pub target: Option<Target<'a>>,
}

impl<'a> Facts<'a> {
    /// The facts of a request; `content` takes the decoded body if something asks for it.
    #[must_use]
    pub fn new(head: &'a Parts, seen: BodySeen<'a>, content: &'a OnceCell<Content<'a>>, looks: &'a Looks, prefix: &'a [String]) -> Self {
        let target = Target::parse(head.uri.path(), prefix);
        Self { head, seen, content, looks, prefix, gathered: OnceCell::new(), elements: OnceCell::new(), target }
    }

    fn content(&self) -> &'a Content<'a> {
        self.content.get_or_init(|| coding::decode(&self.head.headers, self.seen))
    }

    /// Whether the body was read and decoded to its end.
    #[must_use]
    pub fn whole(&self) -> bool {
        matches!(self.content(), Content::Whole(_))
    }

    /// Whether what follows a prefix can be watched: plain JSON. What stands whole in it is then taken to hold.
    #[must_use]
    pub fn watchable(&self) -> bool {
        matches!(self.content(), Content::Prefix(Cow::Borrowed(_)))
            && matches!(Language::of(&self.head.headers), Language::Json | Language::Unsaid)
    }

    /// Whether the body is longer than `limit` bytes.
    #[must_use]
    pub fn longer(&self, limit: u64) -> Truth {
        body::longer(self.head, self.seen, limit)
    }

    /// What a selector finds.
    #[must_use]
    pub fn find<'f>(&'f self, probe: &Probe, captures: &'f Captures<'_>) -> Cow<'f, Found<'a>> {
        let found = match &probe.selector {
            Selector::Path => match &self.target {
                Some(target) => Found::one(Value::from_text(target.text().into())),
                None => Found::one(Value::Opaque),
            },
            Selector::Capture(wanted) => match captures.iter().find(|(name, _)| name == wanted) {
                Some((_, text)) => Found::one(Value::from_text(text.clone().into_owned().into())),
                None => Found::nothing(),
            },
            Selector::Query(name) => self.head.uri.query().map_or_else(Found::nothing, |query| body::form_values(query, name, true)),
            Selector::Header(name) => headers(&self.head.headers, name),
            Selector::HeaderPath(name) => {
                header_values(&self.head.headers, name, |text| match Target::parse(path::of_url(text), self.prefix) {
                    Some(target) => Value::from_text(target.text().into()),
                    None => Value::Opaque,
                })
            }
            Selector::Cookie(name) => self.cookies(name),
            Selector::BasicUser => self.basic_user(),
            Selector::Json(_) => return Cow::Borrowed(self.gathered.get_or_init(|| self.gather()).found(probe.slot)),
            Selector::Form(name) => self.form(name),
            Selector::FormJson(name, _) => self.form_json(name, probe),
            Selector::HeaderJson(name, _) => self.header_json(name, probe),
            Selector::Xml(_) => return Cow::Borrowed(self.elements.get_or_init(|| self.gather_xml()).found(probe.slot)),
            Selector::XmlRoot => return Cow::Borrowed(&self.elements.get_or_init(|| self.gather_xml()).root),
            Selector::ReplyJson(_) | Selector::ReplyHeader(_) => Found::unread(),
        };
        Cow::Owned(found)
    }

    /// What stands in the JSON of a header. Two headers of the name, and one that is not ASCII, are unread.
    fn header_json(&self, name: &HeaderName, probe: &Probe) -> Found<'a> {
        let mut values = self.head.headers.get_all(name).iter();
        match (values.next().map(http::HeaderValue::to_str), values.next()) {
            (None, _) => Found::nothing(),
            (Some(Ok(text)), None) => probe.inner(text.as_bytes()),
            _ => Found::unread(),
        }
    }

    fn cookies(&self, wanted: &str) -> Found<'a> {
        let mut found = Found::nothing();
        for header in self.head.headers.get_all(COOKIE) {
            let Ok(text) = header.to_str() else {
                found.open = true;
                continue;
            };
            let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
            found.values.extend(pairs.filter(|(name, _)| name.trim() == wanted).map(|(_, value)| Value::from_text(value.trim().into())));
        }
        found
    }

    fn basic_user(&self) -> Found<'a> {
        let user = |text: &'a str| {
            let (scheme, encoded) = text.split_once(' ')?;
            if !scheme.eq_ignore_ascii_case("basic") {
                return None;
            }
            let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
            let text = String::from_utf8(decoded).ok()?;
            text.split_once(':').map(|(user, _)| Value::from_text(user.to_owned().into()))
        };
        let values = self.head.headers.get_all(AUTHORIZATION).iter();
        Found { values: values.filter_map(|value| value.to_str().ok().and_then(user)).collect(), ..Found::default() }
    }

    /// JSON is read in a body that says it is JSON, and in one that says nothing: real clients leave the type out, and their apps read JSON all
    /// the same. In a body that says it is something else, whether the app reads JSON is in doubt, so it is unread. An empty body holds nothing.
    fn gather(&self) -> Gathered<'a> {
        let (bytes, whole) = match self.content() {
            Content::Whole(bytes) if bytes.is_empty() => return self.looks.json.nothing(false),
            Content::Whole(bytes) => (bytes, true),
            Content::Prefix(bytes) => (bytes, false),
            Content::Unread => return self.looks.json.nothing(true),
        };
        match Language::of(&self.head.headers) {
            Language::Json | Language::Unsaid => {
                let mut gathered = self.looks.json.gather(bytes, whole);
                if self.watchable() {
                    self.looks.json.settle(&mut gathered);
                }
                gathered
            }
            Language::Form | Language::Multipart(_) | Language::Xml | Language::Other => self.looks.json.nothing(true),
        }
    }

    /// XML is read in a body that says it is XML, and in one that says nothing.
    fn gather_xml(&self) -> Elements<'a> {
        match self.content() {
            Content::Whole(bytes) if bytes.is_empty() => self.looks.xml.nothing(false),
            Content::Unread => self.looks.xml.nothing(true),
            content => match Language::of(&self.head.headers) {
                Language::Xml | Language::Unsaid => self.looks.xml.gather(content.bytes(), matches!(content, Content::Whole(_))),
                Language::Json | Language::Form | Language::Multipart(_) | Language::Other => self.looks.xml.nothing(true),
            },
        }
    }

    /// A form is read only in a body that says it is one; JSON holds no form; anything else is in doubt.
    fn form(&self, name: &str) -> Found<'a> {
        let (content, whole) = (self.content(), self.whole());
        match Language::of(&self.head.headers) {
            _ if whole && content.bytes().is_empty() => Found::nothing(),
            _ if *content == Content::Unread => Found::unread(),
            Language::Form => match std::str::from_utf8(content.bytes()) {
                Ok(text) => body::form_values(text, name, whole),
                Err(_) => Found::unread(),
            },
            Language::Multipart(boundary) => multipart::values(content.bytes(), boundary, name, whole),
            Language::Json => Found::nothing(),
            Language::Xml | Language::Unsaid | Language::Other => Found::unread(),
        }
    }

    /// What stands in the JSON of a form's field. A field that occurs twice, or that a prefix may have cut, is unread.
    fn form_json(&self, name: &str, probe: &Probe) -> Found<'a> {
        let content = self.content();
        match Language::of(&self.head.headers) {
            Language::Json if *content != Content::Unread => Found::nothing(),
            _ if !self.whole() => Found::unread(),
            _ if content.bytes().is_empty() => Found::nothing(),
            Language::Form => match std::str::from_utf8(content.bytes()).ok().and_then(|text| body::form_texts(text, name)).as_deref() {
                Some([]) => Found::nothing(),
                Some([Cow::Borrowed(one)]) => probe.inner(one.as_bytes()),
                Some([Cow::Owned(one)]) => probe.inner(one.as_bytes()).into_owned(),
                _ => Found::unread(),
            },
            Language::Multipart(boundary) => match multipart::text(content.bytes(), boundary, name) {
                Ok(one) => probe.inner(one.as_bytes()),
                Err(found) => found.into_owned(),
            },
            Language::Json | Language::Xml | Language::Unsaid | Language::Other => Found::unread(),
        }
    }
}

/// The values of a header.
#[must_use]
pub fn headers<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Found<'a> {
    header_values(headers, name, |text| Value::from_text(text.into()))
}

fn header_values<'a>(headers: &'a HeaderMap, name: &HeaderName, read: impl Fn(&'a str) -> Value<'a>) -> Found<'a> {
    let values = headers.get_all(name).iter();
    Found { values: values.map(|value| value.to_str().map_or(Value::Opaque, &read)).collect(), ..Found::default() }
}
