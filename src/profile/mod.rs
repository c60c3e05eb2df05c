//! How a sync service speaks: routes, selectors, tests and effects, compiled from TOML to something fast.
// CONTRACT STUB: signatures that the rest of the house is written against. The bodies are to be replaced.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, request::Parts};

use crate::{
    model::{Class, Classes, Effect, Refusal, Scope},
    written::{Mistakes, Source},
};

/// A compiled profile; immutable, shared by all requests.
#[derive(Debug)]
pub struct Profile {
    /// Its name.
    pub name: String,
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
    Named { name: String, secret: bool },
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
    /// What it reads.
    pub reads: Vec<Scope>,
    /// What it writes.
    pub writes: Vec<Scope>,
    /// `Write` if `writes` is not empty, `Poll` if the route has `answer` and nothing was unknown, `Read`, or `None`.
    pub effect: Effect,
    /// Whether it is open-ended.
    pub stream: Option<StreamKind>,
    /// Whether a test or the body could not be read far enough, so that it writes `"*"`.
    pub unknown: bool,
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
    /// Compiles a profile. `extend` finds the text of another profile by the name in `extends`. Unknown classes and everything else that
    /// is wrong goes to `mistakes`; `None` if any of it is an error.
    pub fn compile(
        _source: &Arc<Source>,
        _extend: &dyn Fn(&str) -> Result<Arc<Source>, String>,
        _classes: &Classes,
        _mistakes: &Mistakes,
    ) -> Option<Self> {
        todo!()
    }

    /// Whether a route that this head could still match, or the credential or client, reads the body.
    #[must_use]
    pub fn inspects(&self, _head: &Parts) -> bool {
        todo!()
    }

    /// What the request is. Pure.
    #[must_use]
    pub fn read(&self, _head: &Parts, _body: BodySeen<'_>, _peer: IpAddr) -> Reading {
        todo!()
    }

    /// A route's name, `unmatched` where none matched.
    #[must_use]
    pub fn route_name(&self, _route: RouteId) -> &str {
        todo!()
    }

    /// How many routes there are.
    #[must_use]
    pub fn routes(&self) -> usize {
        todo!()
    }

    /// The classes that its routes use, for the check that a `[class.X]` of a new name is used.
    #[must_use]
    pub fn classes_used(&self) -> Vec<Class> {
        todo!()
    }

    /// A refusal in the profile's shape; `None` where it has none (the caller then answers with problem JSON).
    #[must_use]
    pub fn refusal(&self, _refusal: &Refusal, _class: &str, _id: &str) -> Option<Shaped> {
        todo!()
    }

    /// Our own 502 or 504 in the profile's `failure` shape; `None` where it has none.
    #[must_use]
    pub fn failure(&self, _status: StatusCode, _retry_after: Duration, _class: &str, _id: &str) -> Option<Shaped> {
        todo!()
    }
}

/// The text of a shipped profile.
#[must_use]
pub fn shipped(_name: &str) -> Option<&'static str> {
    todo!()
}

/// The names of the shipped profiles.
pub const SHIPPED: [&str; 5] = ["dynalist", "couchdb", "kinto", "caldav", "generic"];
