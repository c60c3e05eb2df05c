//! What a reply says: whether it refuses a credential, whether it may be stored, and which documents a write touched that only its reply names.
//!
//! A reply is read by the same rules as a request (`json`, `coding`), and more strictly: its body counts only if it was held and decoded to its
//! end. What is in doubt is never used for an answer of ours, and makes a write one of everything.

use std::borrow::Cow;

use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;

use super::{
    BodySeen, Profile, Route, RouteId,
    body::Language,
    coding::{self, Content},
    facts::headers,
    json::{Gathered, Paths},
    scope::{self, Part, Template},
    selector::Selector,
    truth::{Found, Test, Truth},
};
use crate::model::Scope;

/// A final response of the app.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its whole body, as it came; none if it was longer than what was held, or not held.
    pub body: Option<&'a [u8]>,
}

impl<'a> Reply<'a> {
    /// The decoded body, if it is JSON for certain and was read to its end. The type may be missing, as real apps leave it out.
    fn json(&self) -> Option<Cow<'a, [u8]>> {
        match coding::decode(self.headers, BodySeen::Whole(self.body?)) {
            Content::Whole(text) if text.is_empty() || matches!(Language::of(self.headers), Language::Json | Language::Unsaid) => {
                Some(text)
            }
            _ => None,
        }
    }

    /// What a selector finds in this reply, whose body is `json`.
    fn find<'f>(&self, selector: &Selector, slot: usize, json: &Gathered<'f>) -> Found<'f>
    where
        'a: 'f,
    {
        match selector {
            Selector::ReplyJson(_) => json.found(slot).clone(),
            Selector::ReplyHeader(name) => headers(self.headers, name),
            _ => Found::unread(),
        }
    }
}

/// What the paths find in a reply's JSON.
fn gather<'t>(paths: &Paths, json: Option<&'t [u8]>) -> Gathered<'t> {
    match json {
        Some([]) => paths.nothing(false),
        Some(text) => paths.gather(text, true),
        None => paths.nothing(true),
    }
}

/// Tests on a reply, ready to be asked.
#[derive(Debug, Default)]
pub struct Tests {
    list: Vec<(Selector, usize, Test)>,
    paths: Paths,
}

impl Tests {
    /// Prepares tests whose selectors read the reply.
    #[must_use]
    pub fn new(tests: &[(Selector, Test)]) -> Self {
        let mut paths = Paths::default();
        let list = tests.iter().map(|(selector, test)| (selector.clone(), slot(selector, &mut paths), test.clone())).collect();
        Self { list, paths }
    }

    /// Whether any of them certainly holds.
    #[must_use]
    pub fn any(&self, reply: &Reply<'_>) -> bool {
        self.judge(reply).contains(&Truth::Yes)
    }

    /// Whether all of them certainly hold.
    #[must_use]
    pub fn all(&self, reply: &Reply<'_>) -> bool {
        self.judge(reply).iter().all(|truth| *truth == Truth::Yes)
    }

    fn judge(&self, reply: &Reply<'_>) -> SmallVec<[Truth; 4]> {
        let json = if self.read_body() { reply.json() } else { None };
        let gathered = gather(&self.paths, json.as_deref());
        self.list.iter().map(|(selector, slot, test)| test.holds(&reply.find(selector, *slot, &gathered))).collect()
    }

    /// Whether one of them looks into the body.
    #[must_use]
    pub fn read_body(&self) -> bool {
        !self.paths.is_empty()
    }

    /// As written, for `explain`.
    #[must_use]
    pub fn shown(&self) -> Vec<String> {
        self.list.iter().map(|(selector, _, test)| format!("{selector} = {test}")).collect()
    }
}

/// The slot of a selector that reads the reply's JSON; 0 for any other.
fn slot(selector: &Selector, paths: &mut Paths) -> usize {
    if let Selector::ReplyJson(path) = selector { paths.slot(path) } else { 0 }
}

impl Profile {
    /// Whether something looks into the bodies of this route's replies: they must then be held until they are read.
    #[must_use]
    pub fn reads_reply_body(&self, route: RouteId) -> bool {
        let looks = |route: &Route| {
            let mut later = route.later.iter().flat_map(Template::selectors);
            route.only_if.read_body() || later.any(|probe| matches!(probe.selector, Selector::ReplyJson(_)))
        };
        self.denied.read_body() || self.route(route).is_some_and(looks)
    }

    /// Whether a reply refuses a credential: 401, 403, or one of the tests in `denied` certainly holds.
    #[must_use]
    pub fn is_denied(&self, reply: &Reply<'_>) -> bool {
        matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || self.denied.any(reply)
    }

    /// Whether every test in the route's `only_if` certainly holds; true if it has none. What else keeps a reply from being stored, such as its
    /// status, is not asked here.
    #[must_use]
    pub fn may_keep(&self, route: RouteId, reply: &Reply<'_>) -> bool {
        self.route(route).is_none_or(|route| route.only_if.all(reply))
    }
}

/// The documents of a write that only its reply names.
#[derive(Clone, Debug, PartialEq)]
pub struct Later {
    /// The scopes that the reply completes; what the request shows is filled in.
    scopes: Vec<Filled>,
    pending: Option<Vec<Scope>>,
    prefix: Vec<String>,
}

/// A scope in which only what the reply says is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// Whether it is a `tree:`.
    pub tree: bool,
    /// Its parts, in their order.
    pub parts: Vec<Part>,
}

impl Later {
    /// What a request's write leaves to its reply.
    #[must_use]
    pub fn new(scopes: Vec<Filled>, pending: Option<Vec<Scope>>, prefix: &[String]) -> Self {
        Self { scopes, pending, prefix: prefix.to_vec() }
    }

    /// The scopes that nothing may be replayed of while the write runs; none: everything is suspended meanwhile.
    #[must_use]
    pub fn pending(&self) -> Option<&[Scope]> {
        self.pending.as_deref()
    }

    /// What the reply says was written, each scope once and [`super::WRITES_MAX`] at most. `"*"` whenever something is not found or not certain.
    #[must_use]
    pub fn scopes(&self, reply: &Reply<'_>) -> Vec<Scope> {
        let mut paths = Paths::default();
        for selector in self.scopes.iter().flat_map(Filled::selectors) {
            slot(selector, &mut paths);
        }
        let json = reply.json();
        let gathered = gather(&paths, json.as_deref());
        let find = |selector: &Selector| {
            let slot = if let Selector::ReplyJson(path) = selector { paths.slot_of(path)? } else { 0 };
            Some(reply.find(selector, slot, &gathered).into_owned())
        };
        let mut list = Vec::new();
        for filled in &self.scopes {
            if scope::complete(filled, &find, &self.prefix, super::WRITES_MAX, &mut list).is_none() {
                return vec![Scope::All];
            }
        }
        list
    }

    /// The scopes as text, with the selectors that the reply answers, such as `doc:{reply.json.id}`.
    #[must_use]
    pub fn shown(&self) -> Vec<String> {
        self.scopes.iter().map(ToString::to_string).collect()
    }
}

impl Filled {
    fn selectors(&self) -> impl Iterator<Item = &Selector> {
        self.parts.iter().filter_map(|part| match part {
            Part::Reply(selector) => Some(selector),
            Part::Texts(_) => None,
        })
    }
}

impl std::fmt::Display for Filled {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.tree { "tree:" } else { "" })?;
        for part in &self.parts {
            match part {
                Part::Texts(texts) if texts.len() == 1 => formatter.write_str(&texts[0])?,
                Part::Texts(texts) => write!(formatter, "({})", texts.join("|"))?,
                Part::Reply(selector) => write!(formatter, "{{{selector}}}")?,
            }
        }
        Ok(())
    }
}
