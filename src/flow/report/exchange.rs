//! Everything that is known about one request at its end.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use http::{Method, Uri};

use super::{PollEnd, told};
use crate::{
    clock::Moment,
    flow::{
        fresh::{ledger::NotSolid, replay::NotKept},
        gate::Shadows,
    },
    model::{Class, ClientKey, Effect, FailureKind, Mode, Outcome, Rule, SCOPES_SHOWN_MAX, Scope},
    profile::{Client, RouteId},
};

/// A request that has ended, as metrics and the access log see it. It holds no credential.
#[derive(Debug)]
pub struct Exchange {
    /// Its number, shown as 16 hex digits here, in refusals and in events.
    pub id: u64,
    /// Its method.
    pub method: Method,
    /// Its target, of which the path is shown, cut to [`PATH_SHOWN_MAX`]; `None` where the path itself is a secret.
    pub target: Option<Uri>,
    /// Who sent it, as it may be shown.
    pub client: ClientShown,
    /// The profile's name for its route, `unmatched` where none matched; empty if it was never read.
    pub route: Arc<str>,
    /// The class at admission; `None` if it was never classed.
    pub class: Option<Class>,
    /// The class whose account was charged at the end; `None` if it never had a seat.
    pub account: Option<Class>,
    /// What it reads and writes.
    pub documents: Vec<Scope>,
    /// What it does to them.
    pub effect: Effect,
    /// Whether it writes `"*"`.
    pub everything: bool,
    /// Whether it was open-ended; its duration says nothing about slowness then.
    pub stream: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// The rule that refused it.
    pub rule: Option<Rule>,
    /// In which way the app failed it.
    pub failure: Option<FailureKind>,
    /// The rules that would have refused it.
    pub shadows: Shadows,
    /// The status that the client saw, or would have seen; 0 if it left before there was one.
    pub status: u16,
    /// The status that the app answered with; `None` if it never did.
    pub app_status: Option<u16>,
    /// When its head had arrived.
    pub arrived: Moment,
    /// When the last byte had gone to the client, or it had left.
    pub ended: Moment,
    /// How long it waited for a seat; `None` if it never asked for one.
    pub waited: Option<Duration>,
    /// How long it was expected to wait when it arrived; `None` if it did not wait.
    pub predicted: Option<Duration>,
    /// How long the app had it; `None` if it never reached the app.
    pub app: Option<Duration>,
    /// Of that, how long the database had it, where the app tells.
    pub database: Option<Duration>,
    /// How many queries that were, where the app tells.
    pub queries: Option<u64>,
    /// How it was answered, if it is a poll.
    pub poll: Option<PollAnswered>,
    /// The bytes of its body that were read.
    pub bytes_in: u64,
    /// The bytes of the response's body that were written.
    pub bytes_out: u64,
}

/// A poll, and how it was answered so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollAnswered {
    /// Its route.
    pub route: RouteId,
    /// How.
    pub end: PollEnd,
    /// Whether the app's answer will last, once it is asked.
    pub solid: Option<Result<(), NotSolid>>,
    /// Whether the app's answer is kept, once it is whole.
    pub kept: Option<Result<(), NotKept>>,
}

impl PollAnswered {
    /// How it was answered, by all that is known, and whether the app's answer is stored.
    #[must_use]
    pub fn refined(&self) -> (PollEnd, bool) {
        match self.end {
            PollEnd::Forwarded(why) => {
                let (why, stored) = told::refine(why, self.solid, self.kept);
                (PollEnd::Forwarded(why), stored)
            }
            end => (end, false),
        }
    }
}

impl Exchange {
    /// It turned out to write everything.
    pub fn widen(&mut self) {
        self.documents.insert(0, Scope::All);
        self.effect = Effect::Write;
        self.everything = true;
    }

    /// What it reads and writes, each scope once, at most [`SCOPES_SHOWN_MAX`].
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        let distinct = |(index, scope): &(usize, &Scope)| !self.documents[..*index].contains(scope);
        self.documents.iter().take(SCOPES_SHOWN_MAX).enumerate().filter(distinct).map(|(_, scope)| scope)
    }
}

/// The most bytes of a path that the access log shows.
pub const PATH_SHOWN_MAX: usize = 1024;

/// Who sent a request, as it may stand in the access log and in `/state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientShown {
    /// As it is: the operator wants it, and it is no secret.
    Name(String),
    /// An address, as it is.
    Address(IpAddr),
    /// The keyed hash of whom it is limited as.
    Hashed(ClientKey),
}

impl ClientShown {
    /// Hashed unless the operator wants clients plain (`log.clients_plain`) and it is no secret.
    #[must_use]
    pub fn of(client: Client, key: ClientKey, plain: bool) -> Self {
        match client {
            Client::Named { name, secret: false } if plain => Self::Name(name),
            Client::Address(address) if plain => Self::Address(address),
            Client::Named { .. } | Client::Address(_) => Self::Hashed(key),
        }
    }
}

impl fmt::Display for ClientShown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Address(address) => address.fmt(formatter),
            Self::Hashed(key) => write!(formatter, "{:016x}", key.0),
        }
    }
}

/// What `Tidegate-Decision` says of a request: the mode and the rule that decided, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The rule; `None`: none refused.
    pub rule: Option<Rule>,
    /// The mode in which the rule ran, or of the gate if there is none.
    pub mode: Mode,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A forwarded sync: 2 ms of waiting, 20 ms at the app, 25 ms in all.
    pub fn exchange() -> Exchange {
        let arrived = Moment(1_000_000_000);
        Exchange {
            id: 42,
            method: Method::POST,
            target: Some(Uri::from_static("/sync")),
            client: ClientShown::Hashed(ClientKey(7)),
            route: Arc::from("sync"),
            class: Some(Class(1)),
            account: Some(Class(1)),
            documents: vec![Scope::Plain(Arc::from("doc:a"))],
            effect: Effect::Read,
            everything: false,
            stream: false,
            outcome: Outcome::Forwarded,
            rule: None,
            app_status: Some(200),
            failure: None,
            shadows: Shadows::new(),
            status: 200,
            arrived,
            ended: arrived + Duration::from_millis(25),
            waited: Some(Duration::from_millis(2)),
            predicted: None,
            app: Some(Duration::from_millis(20)),
            database: None,
            queries: None,
            poll: None,
            bytes_in: 10,
            bytes_out: 20,
        }
    }

    #[test]
    fn a_document_that_is_read_and_written_is_shown_once() {
        let mut exchange = exchange();
        let doc = |name: &str| Scope::Plain(Arc::from(name));
        exchange.documents = vec![doc("a"), Scope::All, doc("b"), doc("a"), Scope::All];
        assert_eq!(exchange.scopes().map(ToString::to_string).collect::<Vec<_>>(), ["a", "*", "b"]);
        exchange.documents = (0..1000).map(|number| doc(&number.to_string())).collect();
        assert_eq!(exchange.scopes().count(), SCOPES_SHOWN_MAX);
    }

    #[test]
    fn a_client_is_hashed_unless_it_is_wanted_plain_and_no_secret() {
        let named = |secret| Client::Named { name: "ann".to_owned(), secret };
        let key = ClientKey(0xab);
        assert_eq!(ClientShown::of(named(false), key, true).to_string(), "ann");
        assert_eq!(ClientShown::of(named(false), key, false).to_string(), "00000000000000ab");
        assert_eq!(ClientShown::of(named(true), key, true).to_string(), "00000000000000ab");
        let address = Client::Address(IpAddr::from([192, 0, 2, 7]));
        assert_eq!(ClientShown::of(address.clone(), key, true).to_string(), "192.0.2.7");
        assert_eq!(ClientShown::of(address, key, false).to_string(), "00000000000000ab");
    }
}
