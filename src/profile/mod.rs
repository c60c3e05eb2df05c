//! How a sync service speaks: routes, selectors, tests and effects, compiled from TOML to something fast.
//!
//! A profile goes through two forms: `file` is what was written, every key checked by itself and with its place; `Profile` is what it means,
//! with classes and paths resolved, checked as a whole (`check`) and tried on its own examples (`example`). A request is then read by
//! `Profile::read`: routes are filtered by method and path, tests are asked in order, and the body is decoded and parsed at most once, and only if
//! something asks for what it holds.
//!
//! What the proxy reads must be what the app reads. So everything that two readers may take differently counts as unread: it makes a test unknown
//! and a scope `"*"` (`json`, `xml`, `multipart`, `coding`, `path` and `facts` say what that is). JSON is read in bodies whose `Content-Type` says
//! JSON (`application/json`, `.../...+json`, UTF-8) and in those that say nothing, which real clients send; in any other body, `json.` selectors
//! are unread. For XML it is the same; forms must say that they are.
//!
//! How long a body is matters only where something looks into it: a route that is chosen by method and path alone, with scopes from the head, is
//! certain whatever follows. Where the choice of the route or one of its scopes reads the body, and that goes on behind the prefix, a value that
//! stands whole in the prefix counts if the rest is plain JSON, which can be watched (`watch`); else, or if the prefix does not decide, the request
//! writes `"*"`. A poll whose body was not read to its end is a plain read.
//!
//! The stages behind ask it three more things: whether two polls are one question (`question`), what a reply says (`reply`), and whether another
//! profile would read a request alike (`meaning`).

mod answer;
mod body;
mod check;
mod coding;
mod compile;
mod example;
mod explain;
mod facts;
mod file;
mod json;
mod meaning;
mod multipart;
mod path;
mod question;
mod reply;
mod scope;
mod selector;
mod truth;
mod watch;
mod xml;

use std::{cell::OnceCell, net::IpAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap, Method, StatusCode,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};

use self::{
    coding::Content,
    facts::{Facts, Looks, Probe},
    file::Shape,
    path::{Captures, Pattern},
    question::{KeySelectors, Noise},
    scope::{Shown, Template},
};
use crate::{
    model::{Class, Classes, Effect, Refusal, Scope},
    written::{Mistakes, Source},
};

pub use self::{
    answer::{Answer, AnswerMode, Now},
    explain::{Explanation, Step},
    json::json_value_range,
    path::normalise,
    question::{KeyBody, Secret},
    reply::{Later, Reply},
    selector::{JsonPath, JsonStep, Selector},
    truth::{Found, Test, Truth, Value, glob},
    watch::{DEPTH_MAX, Verdict, Watcher},
};

/// The most scopes that a request may write; with more it writes everything.
pub const WRITES_MAX: usize = 64;

/// The most scopes that a request may read; with more it reads everything.
pub const READS_MAX: usize = 256;

/// A compiled profile; immutable, shared by all requests.
#[derive(Debug)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// May answers to requests without any credential be stored?
    pub anonymous: bool,
    prefix: Vec<String>,
    credential: Vec<Probe>,
    client: Vec<Probe>,
    denied: reply::Tests,
    noise: Noise,
    unmatched: Class,
    unmatched_long: Class,
    failure: Option<Shape>,
    reject: Option<Shape>,
    routes: Vec<Route>,
    looks: Looks,
    /// Whether the credential or the client stands in the body.
    who_in_body: bool,
    meaning: u64,
    /// One number for each route, and one for requests that none takes.
    meanings: Vec<u64>,
}

/// A compiled route.
#[derive(Debug)]
struct Route {
    name: String,
    methods: Vec<Method>,
    patterns: Vec<Pattern>,
    when: Vec<Vec<(Probe, Test)>>,
    body_over: Option<u64>,
    class: Class,
    long: Class,
    cost: Cost,
    stream: Option<StreamKind>,
    reads: Option<Vec<Template<Probe>>>,
    /// Those that the request names.
    writes: Option<Vec<Template<Probe>>>,
    /// Those that only the reply names.
    later: Vec<Template<Probe>>,
    pending: Option<Vec<Template<Probe>>>,
    key_body: Option<KeySelectors>,
    noise: Noise,
    only_if: reply::Tests,
    answer: Option<Answer>,
    /// Whether a test looks into the body.
    tests_body: bool,
    /// Whether a scope does.
    scopes_body: bool,
}

impl Route {
    /// Whether method and path fit, and what the path's names match.
    fn fits<'p>(&'p self, head: &Parts, facts: &'p Facts<'_>) -> Option<Captures<'p>> {
        if !self.methods.is_empty() && !self.methods.contains(&head.method) {
            return None;
        }
        let segments = facts.target.as_ref()?.segments();
        if self.patterns.is_empty() {
            return Some(Captures::new());
        }
        self.patterns.iter().find(|pattern| pattern.matches(segments)).map(|pattern| pattern.captures(segments))
    }

    /// Whether its tests hold, given that it fits.
    fn holds(&self, facts: &Facts<'_>, captures: &Captures<'_>) -> Truth {
        let mut truth = self.body_over.map_or(Truth::Yes, |limit| facts.longer(limit));
        if truth == Truth::No || self.when.is_empty() {
            return truth;
        }
        let mut any = Truth::No;
        for tests in &self.when {
            let mut all = Truth::Yes;
            for (probe, test) in tests {
                all = all.and(test.holds(&facts.find(probe, captures)));
                if all == Truth::No {
                    break;
                }
            }
            any = any.or(all);
            if any == Truth::Yes {
                break;
            }
        }
        truth = truth.and(any);
        truth
    }

    /// What it writes: as the request names it, and what only the reply will name. Everything, if what the request shows of the latter is not
    /// certain.
    fn writes(&self, shown: Shown<'_, '_, '_>) -> (Vec<Scope>, Option<Later>) {
        let named = scope::scopes(self.writes.as_deref().unwrap_or_default(), shown, WRITES_MAX);
        if self.later.is_empty() || named.contains(&Scope::All) {
            return (named, None);
        }
        let Some(filled) = scope::fill(&self.later, shown, WRITES_MAX) else { return (vec![Scope::All], None) };
        let pending = self.pending.as_ref().map(|templates| scope::scopes(templates, shown, WRITES_MAX));
        (named, Some(Later::new(filled, pending, shown.prefix)))
    }
}

/// The route that a request takes.
struct Choice<'p> {
    index: usize,
    route: &'p Route,
    captures: Captures<'p>,
    /// One of its tests is unknown.
    unknown: bool,
    /// Whether a route up to this one tests the body.
    looked: bool,
}

/// What was read of a body before it is classed.
#[derive(Clone, Copy, Debug)]
pub enum BodySeen<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its beginning; there is more.
    Prefix(&'a [u8]),
    /// Nothing was read (memory bound), though it may not be empty.
    Unread,
}

/// Which route: an index into the profile's routes; [`RouteId::UNMATCHED`] where none matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub u16);

impl RouteId {
    /// No route matched.
    pub const UNMATCHED: Self = Self(u16::MAX);
}

/// Who is limited and queued fairly.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// What the `client` selectors found, or, where `client` is not set, the credential's values.
    /// `secret` says that it came from the credential: then it is shown hashed only, whatever the log's settings.
    Named {
        /// What was found; several values are joined by a comma and a space.
        name: String,
        /// Whether it is a secret.
        secret: bool,
    },
    /// The peer's address: IPv4 /32, IPv6 /64.
    Address(IpAddr),
}

/// What is remembered of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// App time.
    App,
    /// Database time where `Server-Timing` tells it, else app time.
    Database,
    /// Reply size.
    Reply,
}

/// The kinds of open-ended requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A long poll.
    LongPoll,
    /// Server-sent events.
    Events,
    /// A WebSocket, or any other upgrade.
    WebSocket,
}

/// What a request is.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its route.
    pub route: RouteId,
    /// Its route's class.
    pub class: Class,
    /// The class of its dear documents, and the account of requests that outlive `long_after`.
    pub long: Class,
    /// What is remembered of its documents.
    pub cost: Cost,
    /// Who sent it.
    pub client: Client,
    /// Whether a credential was found.
    pub credential: bool,
    /// The credential, of all selectors that found one.
    pub secret: Secret,
    /// What it reads.
    pub reads: Vec<Scope>,
    /// What it writes, as far as the request itself names it.
    pub writes: Vec<Scope>,
    /// The documents that it writes and that only its reply names.
    pub later: Option<Later>,
    /// `Write` if `writes` is not empty or there is `later`, `Poll` if the route has `answer` and nothing was unknown, `Read`, or `None`.
    pub effect: Effect,
    /// Whether it is open-ended.
    pub stream: Option<StreamKind>,
    /// Whether a test, or a body that decides something, could not be read far enough, so that it writes `"*"`.
    pub unknown: bool,
    /// Where all this was taken from a body's beginning: what the whole body must be shown to while it is passed on, from its first byte. If
    /// it says so, the request writes everything, whatever its effect was.
    pub watch: Option<Box<Watcher>>,
}

/// A response of ours in the profile's shape.
#[derive(Clone, Debug)]
pub struct Shaped {
    /// Its status.
    pub status: StatusCode,
    /// Its headers; without `Retry-After` and `Cache-Control`, which the caller always sets.
    pub headers: HeaderMap,
    /// Its body.
    pub body: bytes::Bytes,
}

impl Profile {
    /// Compiles a profile. `extend` finds the text of another profile by the name in `extends`. Unknown classes, examples that do not come out
    /// and everything else that is wrong goes to `mistakes`, warnings too; `None` if any of it is an error.
    pub fn compile(
        source: &Arc<Source>,
        extend: &dyn Fn(&str) -> Result<Arc<Source>, String>,
        classes: &Classes,
        mistakes: &Mistakes,
    ) -> Option<Self> {
        compile::compile(source, extend, classes, mistakes)
    }

    /// Whether a route that this head could still match, or the credential or client, reads the body.
    #[must_use]
    pub fn inspects(&self, head: &Parts) -> bool {
        if self.who_in_body {
            return true;
        }
        let content = OnceCell::from(Content::Unread);
        let facts = Facts::new(head, BodySeen::Unread, &content, &self.looks, &self.prefix);
        for route in &self.routes {
            if route.fits(head, &facts).is_some() {
                if route.tests_body || route.scopes_body {
                    return true;
                }
                if route.when.is_empty() && route.body_over.is_none() {
                    return false;
                }
            }
        }
        false
    }

    /// What the request is. Pure.
    #[must_use]
    pub fn read(&self, head: &Parts, body: BodySeen<'_>, peer: IpAddr) -> Reading {
        let content = OnceCell::new();
        let facts = Facts::new(head, body, &content, &self.looks, &self.prefix);
        let (client, secret) = self.who(&facts, peer);
        let credential = !secret.is_empty();
        let Some(choice) = self.choose(head, &facts) else {
            let silent = head.method.is_safe() && !upgrades(head) && (facts.whole() || !self.inspects(head));
            let writes = if silent { Vec::new() } else { vec![Scope::All] };
            return Reading {
                route: RouteId::UNMATCHED,
                class: self.unmatched,
                long: self.unmatched_long,
                cost: Cost::App,
                client,
                credential,
                secret,
                reads: Vec::new(),
                later: None,
                effect: if writes.is_empty() { Effect::None } else { Effect::Write },
                writes,
                stream: None,
                unknown: false,
                watch: None,
            };
        };
        let route = choice.route;
        let shown = Shown { facts: &facts, captures: &choice.captures, prefix: &self.prefix };
        let reads = route.reads.as_ref().map(|templates| scope::scopes(templates, shown, READS_MAX));
        let beginning = (choice.looked || route.scopes_body) && !facts.whole();
        let unknown = choice.unknown || (beginning && !facts.watchable());
        let undeclared = upgrades(head) && route.stream != Some(StreamKind::WebSocket);
        let (writes, later) = if unknown || undeclared {
            (vec![Scope::All], None)
        } else if route.writes.is_some() {
            route.writes(shown)
        } else {
            let silent = reads.is_some() || (head.method.is_safe() && route.stream != Some(StreamKind::WebSocket));
            (if silent { Vec::new() } else { vec![Scope::All] }, None)
        };
        let watch = (beginning && !writes.contains(&Scope::All)).then(|| Box::new(self.watcher(head, &facts, choice.index)));
        let reads = reads.unwrap_or_default();
        let effect = if !writes.is_empty() || later.is_some() {
            Effect::Write
        } else if route.answer.is_some() && matches!(body, BodySeen::Whole(_)) {
            Effect::Poll
        } else if reads.is_empty() {
            Effect::None
        } else {
            Effect::Read
        };
        Reading {
            route: RouteId(u16::try_from(choice.index).unwrap_or(u16::MAX)),
            class: route.class,
            long: route.long,
            cost: route.cost,
            client,
            credential,
            secret,
            reads,
            writes,
            later,
            effect,
            stream: route.stream,
            unknown,
            watch,
        }
    }

    /// The first route whose method and path fit and all of whose tests are true or unknown.
    fn choose<'p>(&'p self, head: &Parts, facts: &'p Facts<'_>) -> Option<Choice<'p>> {
        let mut looked = false;
        for (index, route) in self.routes.iter().enumerate() {
            let Some(captures) = route.fits(head, facts) else { continue };
            looked |= route.tests_body;
            let truth = route.holds(facts, &captures);
            if truth != Truth::No {
                return Some(Choice { index, route, captures, unknown: truth == Truth::Unknown, looked });
            }
        }
        None
    }

    /// Who sends it, and the credential that it shows. The first selector that finds something names the client; all its values count.
    fn who(&self, facts: &Facts<'_>, peer: IpAddr) -> (Client, Secret) {
        let none = Captures::new();
        let name = |found: &Found<'_>| {
            let mut name = String::new();
            for text in found.values.iter().filter_map(truth::Value::text).filter(|text| !text.is_empty()) {
                if !name.is_empty() {
                    name.push_str(", ");
                }
                name.push_str(&text);
            }
            (!name.is_empty()).then_some(name)
        };
        let mut client =
            self.client.iter().find_map(|probe| name(&facts.find(probe, &none))).map(|name| Client::Named { name, secret: false });
        let mut secret = Secret::default();
        for (number, probe) in self.credential.iter().enumerate() {
            let found = facts.find(probe, &none);
            if secret.add(number, &found) && client.is_none() {
                client = name(&found).map(|name| Client::Named { name, secret: true });
            }
        }
        (client.unwrap_or_else(|| Client::Address(network(peer))), secret)
    }

    /// How the request was read, for `tidegate explain`: every test that was asked, and what the route says as text.
    #[must_use]
    pub fn explain(&self, head: &Parts, body: BodySeen<'_>, peer: IpAddr) -> Explanation {
        explain::explain(self, head, body, peer)
    }

    /// A route's name, `unmatched` where none matched.
    #[must_use]
    pub fn route_name(&self, route: RouteId) -> &str {
        self.route(route).map_or("unmatched", |route| &route.name)
    }

    /// How many routes there are.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.routes.len()
    }

    /// What of a route's replies may be stored; none for a route without `answer`.
    #[must_use]
    pub fn answer(&self, route: RouteId) -> Option<&Answer> {
        self.route(route)?.answer.as_ref()
    }

    fn route(&self, route: RouteId) -> Option<&Route> {
        self.routes.get(usize::from(route.0))
    }

    /// The classes that its routes use, for the check that a `[class.X]` of a new name is used.
    #[must_use]
    pub fn classes_used(&self) -> Vec<Class> {
        let mut used = vec![self.unmatched, self.unmatched_long];
        used.extend(self.routes.iter().flat_map(|route| [route.class, route.long]));
        used.sort_unstable();
        used.dedup();
        used
    }

    /// A number that differs, but for a collision, between profiles of which one could read a request's effects or credential differently from the
    /// other. It compares profiles of one process only.
    #[must_use]
    pub fn meaning(&self) -> u64 {
        self.meaning
    }

    /// A number for all that decides how a request that takes this route is read: prefix, credential, client, `denied`, noise, `unmatched` and
    /// every route up to it, with what they touch and answer; of one that no route takes, all routes. Where two profiles of one process have
    /// the same number, both read such a request alike. Classes and names of routes are left out.
    #[must_use]
    pub fn meaning_up_to(&self, route: RouteId) -> u64 {
        self.meanings.get(usize::from(route.0)).or(self.meanings.last()).copied().unwrap_or(self.meaning)
    }

    /// A refusal in the profile's shape; `None` where it has none (the caller then answers with problem JSON). `class` and `id` must be words that
    /// need no escaping in the body's language.
    #[must_use]
    pub fn refusal(&self, refusal: &Refusal, class: &str, id: &str) -> Option<Shaped> {
        let shape = self.reject.as_ref()?;
        let status = shape.status.unwrap_or_else(|| refusal.status());
        Some(shaped(shape, status, [&seconds(refusal.retry_after), class, refusal.rule.label(), id]))
    }

    /// Our own 502 or 504 in the profile's `failure` shape; `None` where it has none. `{rule}` is `failed` in it.
    #[must_use]
    pub fn failure(&self, status: StatusCode, retry_after: Duration, class: &str, id: &str) -> Option<Shaped> {
        let shape = self.failure.as_ref()?;
        Some(shaped(shape, status, [&seconds(retry_after), class, "failed", id]))
    }
}

/// Whole seconds, rounded up, as `Retry-After` wants them (RFC 9110 section 10.2.3).
fn seconds(span: Duration) -> String {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0)).to_string()
}

fn shaped(shape: &Shape, status: StatusCode, values: [&str; 4]) -> Shaped {
    let mut body = String::with_capacity(shape.body.len() + 32);
    let mut rest = shape.body.as_str();
    while let Some(start) = rest.find('{') {
        body.push_str(&rest[..start]);
        rest = &rest[start..];
        let known = file::WORDS.iter().zip(values).find_map(|(word, value)| {
            let behind = rest.strip_prefix('{')?.strip_prefix(word)?.strip_prefix('}')?;
            Some((value, behind))
        });
        if let Some((value, behind)) = known {
            body.push_str(value);
            rest = behind;
        } else {
            body.push('{');
            rest = &rest[1..];
        }
    }
    body.push_str(rest);
    Shaped { status, headers: shape.headers.clone(), body: body.into() }
}

/// An address as clients are told apart by it: IPv4 whole, IPv6 by its /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

/// Whether a request asks for another protocol on its connection (RFC 9110 section 7.8); HTTP/2 in clear is none.
fn upgrades(head: &Parts) -> bool {
    let mut protocols = head.headers.get_all(UPGRADE).iter().peekable();
    if protocols.peek().is_none() {
        return head.method == Method::CONNECT;
    }
    let listed = |value: &http::HeaderValue, word: &str| {
        value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    };
    let only_h2c = protocols.all(|value| value.as_bytes().eq_ignore_ascii_case(b"h2c"));
    !only_h2c && head.headers.get_all(CONNECTION).iter().any(|value| listed(value, "upgrade"))
}

/// The text of a shipped profile.
#[must_use]
pub fn shipped(name: &str) -> Option<&'static str> {
    match name {
        "dynalist" => Some(include_str!("../../config/profiles/dynalist.toml")),
        "couchdb" => Some(include_str!("../../config/profiles/couchdb.toml")),
        "kinto" => Some(include_str!("../../config/profiles/kinto.toml")),
        "caldav" => Some(include_str!("../../config/profiles/caldav.toml")),
        "generic" => Some(include_str!("../../config/profiles/generic.toml")),
        _ => None,
    }
}

/// The names of the shipped profiles.
pub const SHIPPED: [&str; 5] = ["dynalist", "couchdb", "kinto", "caldav", "generic"];

#[cfg(test)]
mod tests;
