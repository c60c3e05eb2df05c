//! How a request was read, as text for `tidegate explain`.

use std::{cell::OnceCell, net::IpAddr};

use http::request::Parts;

use super::{BodySeen, Client, KeyBody, Profile, Reading, StreamKind, facts::Facts, path::Captures, question::Secret, truth::Truth};
use crate::model::{Effect, Scope};

/// A route that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub route: String,
    /// Its tests as written, and how each came out: `true`, `false` or `unknown`. Of several tables of tests one must hold.
    pub tests: Vec<(String, &'static str)>,
    /// How all of them came out.
    pub holds: &'static str,
}

/// How a request was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The reading itself.
    pub reading: Reading,
    /// The route's name, `unmatched` where none matched.
    pub route: String,
    /// The client as found; a secret if [`Client::Named`] in `reading` says so.
    pub client: String,
    /// `none`, `read`, `poll` or `write`.
    pub effect: &'static str,
    /// The scopes it reads.
    pub reads: Vec<String>,
    /// The scopes it writes, as far as the request names them.
    pub writes: Vec<String>,
    /// The scopes it writes that only the reply completes, such as `doc:{reply.json.id}`.
    pub later: Vec<String>,
    /// What is not replayed while such a write runs: these scopes; none: nothing at all is.
    pub pending: Option<Vec<String>>,
    /// The credential selectors that found something. Never what they found.
    pub credential: Vec<String>,
    /// What of a poll's body is part of its question, in words; none if it is no poll.
    pub question: Option<&'static str>,
    /// What is asked of each reply before it is passed on: the tests of `denied` and of the route's `only_if`.
    pub asked_of_reply: Vec<String>,
    /// Whether replies are held until their bodies are read.
    pub reply_held: bool,
    /// What may be stored of its reply; none if the route has no `answer`.
    pub answer: Option<String>,
    /// The kind of stream, as written in profiles.
    pub stream: Option<&'static str>,
    /// The routes whose method and path fit, up to the one that was taken.
    pub steps: Vec<Step>,
}

impl Client {
    /// As it is named, whether or not that is a secret.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Named { name, .. } => name.clone(),
            Self::Address(address) => address.to_string(),
        }
    }
}

fn word(truth: Truth) -> &'static str {
    match truth {
        Truth::Yes => "true",
        Truth::No => "false",
        Truth::Unknown => "unknown",
    }
}

/// Explains a request, as [`Profile::explain`] says.
pub fn explain(profile: &Profile, head: &Parts, body: BodySeen<'_>, peer: IpAddr) -> Explanation {
    let content = OnceCell::new();
    let facts = Facts::new(head, body, &content, &profile.looks, &profile.prefix);
    let mut steps = Vec::new();
    for route in &profile.routes {
        let Some(captures) = route.fits(head, &facts) else { continue };
        let mut tests: Vec<(String, &'static str)> = Vec::new();
        if let Some(limit) = route.body_over {
            tests.push((format!("body_over = \"{}\"", crate::units::show_bytes(limit)), word(facts.longer(limit))));
        }
        tests.extend(
            route
                .when
                .iter()
                .flatten()
                .map(|(probe, test)| (format!("{} = {test}", probe.selector), word(test.holds(&facts.find(probe, &captures))))),
        );
        let truth = route.holds(&facts, &captures);
        steps.push(Step { route: route.name.clone(), tests, holds: word(truth) });
        if truth != Truth::No {
            break;
        }
    }
    let none = Captures::new();
    let shows = |number_probe: &(usize, &super::Probe)| Secret::default().add(number_probe.0, &facts.find(number_probe.1, &none));
    let credential = profile.credential.iter().enumerate().filter(shows).map(|(_, probe)| probe.selector.to_string()).collect();
    let reading = profile.read(head, body, peer);
    let question = match body {
        BodySeen::Whole(bytes) if reading.effect == Effect::Poll => Some(match profile.key_body(reading.route, head, bytes) {
            KeyBody::Whole => "all of the body",
            KeyBody::Values(_) => "of the body what `key_body` names",
            KeyBody::Uncertain => "unanswerable: what `key_body` names is not certain in this body",
        }),
        _ => None,
    };
    let mut asked_of_reply: Vec<String> = profile.denied.shown().into_iter().map(|test| format!("denied if {test}")).collect();
    asked_of_reply
        .extend(profile.route(reading.route).iter().flat_map(|route| route.only_if.shown()).map(|test| format!("kept only if {test}")));
    let text = |scopes: &[Scope]| scopes.iter().map(ToString::to_string).collect::<Vec<_>>();
    Explanation {
        route: profile.route_name(reading.route).to_owned(),
        client: reading.client.shown(),
        effect: reading.effect.label(),
        reads: text(&reading.reads),
        writes: text(&reading.writes),
        later: reading.later.iter().flat_map(super::Later::shown).collect(),
        pending: reading.later.as_ref().and_then(|later| later.pending()).map(text),
        credential,
        question,
        asked_of_reply,
        reply_held: profile.reads_reply_body(reading.route),
        answer: profile.answer(reading.route).map(ToString::to_string),
        stream: reading.stream.map(|stream| match stream {
            StreamKind::LongPoll => "longpoll",
            StreamKind::Events => "sse",
            StreamKind::WebSocket => "websocket",
        }),
        steps,
        reading,
    }
}
