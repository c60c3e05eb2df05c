//! What makes two polls one question: who asks, what of the body counts, and which headers are noise.

use std::{cell::OnceCell, fmt};

use http::{HeaderName, header::HeaderMap, request::Parts};

use super::{
    BodySeen, Profile, RouteId,
    facts::{Facts, Looks, Probe},
    path::Captures,
    selector::Selector,
    truth::{Found, Value, glob},
};

/// What the `credential` selectors found: whose question it is. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The values of all selectors that found something, selector by selector, each with its length, so that no two credentials make the same
    /// bytes. Empty if none did.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether no credential was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what the selector of this number found; what is no text, or an empty one, counts as not found. Whether there was anything.
    pub fn add(&mut self, number: usize, found: &Found<'_>) -> bool {
        let mut any = false;
        for value in found.values.iter().filter(|value| value.text().is_some_and(|text| !text.is_empty())) {
            write_length(&mut self.0, number);
            write(&mut self.0, value);
            any = true;
        }
        any
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("hidden")
    }
}

/// What of a poll's body is part of its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyBody {
    /// All of its bytes: the route has no `key_body`.
    Whole,
    /// What these bytes hold instead: the values that `key_body` names, with those in the body that the route's scopes are made of.
    Values(Vec<u8>),
    /// A selector's finding is not certain: the poll cannot be answered, for it could be taken for another question.
    Uncertain,
}

/// The selectors of a route's `key_body`, ready to be looked up.
#[derive(Debug)]
pub struct KeySelectors {
    probes: Vec<Probe>,
}

impl KeySelectors {
    /// Prepares `key_body`. The selectors in the body that the route's scopes are made of are part of the question whatever it says: else a
    /// poll of one document could be answered with another's.
    #[must_use]
    pub fn new<'s>(key_body: &'s [Selector], reads: impl Iterator<Item = &'s Selector>, looks: &mut Looks) -> Self {
        let mut selectors: Vec<&Selector> = key_body.iter().collect();
        for selector in reads.filter(|selector| selector.reads_body()) {
            if !selectors.contains(&selector) {
                selectors.push(selector);
            }
        }
        Self { probes: selectors.into_iter().map(|selector| Probe::new(selector.clone(), looks)).collect() }
    }

    /// What they find in a whole body. A credential in the body must be certain too: what counts as not found there would else stand in no
    /// question.
    #[must_use]
    pub fn find(&self, credential: &[Probe], head: &Parts, body: &[u8], looks: &Looks, prefix: &[String]) -> KeyBody {
        let content = OnceCell::new();
        let facts = Facts::new(head, BodySeen::Whole(body), &content, looks, prefix);
        let none = Captures::new();
        let in_body = credential.iter().filter(|probe| probe.selector.reads_body());
        if in_body.map(|probe| facts.find(probe, &none)).any(|found| !certain(&found)) {
            return KeyBody::Uncertain;
        }
        let mut bytes = Vec::with_capacity(64);
        for probe in &self.probes {
            let found = facts.find(probe, &none);
            if !certain(&found) {
                return KeyBody::Uncertain;
            }
            write_length(&mut bytes, found.values.len());
            found.values.iter().for_each(|value| write(&mut bytes, value));
        }
        KeyBody::Values(bytes)
    }
}

/// Whether these are all values, each in its place and each with a text that no other value has.
fn certain(found: &Found<'_>) -> bool {
    !found.open && !found.gap && found.values.iter().all(|value| matches!(value, Value::Null) || value.text().is_some())
}

/// A value with its kind and length.
fn write(bytes: &mut Vec<u8>, value: &Value<'_>) {
    let kind = match value {
        Value::Text(_) => b't',
        Value::Integer(_) => b'i',
        Value::Flag(_) => b'f',
        _ => b'n',
    };
    bytes.push(kind);
    let text = value.text().unwrap_or_default();
    write_length(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

fn write_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

impl Profile {
    /// Whether a request's header is never part of its question: the built-in list, and `ignore_headers` of the profile and of the route's
    /// `answer`. A header in which a credential or a document is found never is noise. Headers that `Connection` names are the caller's
    /// business. Asked for every header of every poll: allocates nothing.
    #[must_use]
    pub fn is_noise(&self, route: RouteId, header: &HeaderName) -> bool {
        self.route(route).map_or(&self.noise, |route| &route.noise).holds(header)
    }

    /// What of a poll's whole body is part of its question.
    #[must_use]
    pub fn key_body(&self, route: RouteId, head: &Parts, body: &[u8]) -> KeyBody {
        match self.route(route).and_then(|route| route.key_body.as_ref()) {
            None => KeyBody::Whole,
            Some(selectors) => selectors.find(&self.credential, head, body, &self.looks, &self.prefix),
        }
    }
}

/// Noise, ready to be asked for every header of every poll.
#[derive(Debug, Default)]
pub struct Noise {
    /// Beside the built-in list; `*` stands for any characters.
    ignored: Vec<String>,
    /// Headers by which the profile tells who asks or for what: never noise.
    kept: HeaderMap<()>,
}

impl Noise {
    /// The noise of a route.
    #[must_use]
    pub fn new<'s>(ignored: impl Iterator<Item = &'s String>, told_by: impl Iterator<Item = &'s Selector>) -> Self {
        let kept = told_by.filter_map(Selector::header).map(|name| (name.clone(), ())).collect();
        Self { ignored: ignored.cloned().collect(), kept }
    }

    /// Whether the header is noise. Allocates nothing.
    #[must_use]
    pub fn holds(&self, header: &HeaderName) -> bool {
        let name = header.as_str();
        let noise = built_in(name) || self.ignored.iter().any(|pattern| glob(pattern, name));
        noise && (self.kept.is_empty() || !self.kept.contains_key(header))
    }
}

/// The headers that are never part of a question: of the way that a request came, of one connection, and `User-Agent`.
fn built_in(name: &str) -> bool {
    matches!(
        name,
        "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host"
            | "x-real-ip"
            | "true-client-ip"
            | "cf-connecting-ip"
            | "cf-ray"
            | "cf-visitor"
            | "cf-ipcountry"
            | "cdn-loop"
            | "via"
            | "x-request-id"
            | "x-correlation-id"
            | "x-amzn-trace-id"
            | "x-cloud-trace-context"
            | "traceparent"
            | "tracestate"
            | "baggage"
            | "b3"
            | "user-agent"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
            | "content-length"
    ) || name.starts_with("x-b3-")
}
