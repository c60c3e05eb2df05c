//! How a request was read, as text for `tidegate explain`.

use std::{cell::OnceCell, net::IpAddr};

use http::request::Parts;

use super::{BodySeen, Client, Profile, Reading, StreamKind, facts::Facts, truth::Truth};

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
    /// The scopes it writes.
    pub writes: Vec<String>,
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
    let facts = Facts::new(head, body, &content, &profile.paths, &profile.prefix);
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
    let reading = profile.read(head, body, peer);
    Explanation {
        route: profile.route_name(reading.route).to_owned(),
        client: reading.client.shown(),
        effect: reading.effect.label(),
        reads: reading.reads.iter().map(ToString::to_string).collect(),
        writes: reading.writes.iter().map(ToString::to_string).collect(),
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
