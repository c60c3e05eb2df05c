//! `[[example]]`: requests that a profile must read as it says it does.

use std::{
    cell::OnceCell,
    net::{IpAddr, Ipv4Addr},
};

use http::{Request, Uri, header::CONTENT_LENGTH, request::Parts};

use super::{
    BodySeen, Profile, RouteId,
    coding::DECODED_MAX,
    facts::Facts,
    file::{Example, File, Placed},
    path::Captures,
};
use crate::{
    model::{Classes, Scope},
    written::Mistakes,
};

/// Whom an example comes from if it names no client (RFC 5737).
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Reads every example. One of the profile's own, the first `own_examples`, that does not come out is an error; those of a profile that it
/// extends count as examples, but what they expect was said of that one. Warns of routes and credentials that no example shows.
pub fn run(profile: &Profile, file: &File, own: usize, own_examples: usize, classes: &Classes, mistakes: &Mistakes) {
    let mut shown_routes = vec![false; profile.routes.len()];
    let mut shown_credentials = vec![false; profile.credential.len()];
    for (index, example) in file.examples.iter().enumerate() {
        let Some(head) = head(example, mistakes) else { continue };
        let body = seen(example);
        let reading = profile.read(&head, body, PEER);
        if let Some(shown) = shown_routes.get_mut(usize::from(reading.route.0)) {
            *shown = true;
        }
        let content = OnceCell::new();
        let facts = Facts::new(&head, body, &content, &profile.looks, &profile.prefix);
        for (probe, shown) in profile.credential.iter().zip(&mut shown_credentials) {
            *shown |= facts.find(probe, &Captures::new()).values.iter().any(|value| value.text().is_some_and(|text| !text.is_empty()));
        }
        if index < own_examples {
            compare(profile, example, &reading, classes, mistakes);
        }
    }
    for (route, _) in file.routes.iter().zip(shown_routes).take(own).filter(|(_, shown)| !shown) {
        mistakes.warning(&route.at, format!("the route `{}` has no example", route.name), "write an [[example]] that it takes");
    }
    for (credential, _) in file.credential.iter().flatten().zip(shown_credentials).filter(|(_, shown)| !shown) {
        let what = format!("no example shows the credential {}", credential.value);
        mistakes.warning(&credential.at, what, "write an [[example]] that holds it: a credential that is not found stands in no question");
    }
}

/// The body of an example as a request's would be seen: its beginning, if it is long or if `content-length` says that there is more.
fn seen(example: &Example) -> BodySeen<'_> {
    let said = example.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let body = &example.body[..example.body.len().min(DECODED_MAX)];
    if body.len() < example.body.len() || said.is_some_and(|length| length > body.len()) {
        BodySeen::Prefix(body)
    } else {
        BodySeen::Whole(body)
    }
}

fn head(example: &Example, mistakes: &Mistakes) -> Option<Parts> {
    let Placed { value, at } = &example.request;
    let wrong = || mistakes.error(at, format!("\"{value}\" is no request"), "write a method and a target, such as \"GET /path?query\"");
    let request = value.split_once(' ').and_then(|(method, target)| {
        let target: Uri = target.parse().ok()?;
        Request::builder().method(method).uri(target).body(()).ok()
    });
    let Some(request) = request else {
        wrong();
        return None;
    };
    let (mut head, ()) = request.into_parts();
    head.headers = example.headers.clone();
    Some(head)
}

fn compare(profile: &Profile, example: &Example, reading: &super::Reading, classes: &Classes, mistakes: &Mistakes) {
    let told = |what: &str, expected: &Option<Placed<String>>, came: &str| {
        if let Some(Placed { value, at }) = expected
            && value != came
        {
            mistakes.error(at, format!("this example's {what} is \"{came}\", not \"{value}\""), "correct the example or the routes");
        }
    };
    told("route", &example.route, profile.route_name(reading.route));
    if let Some(route) = &example.route
        && route.value != "unmatched"
        && !profile.routes.iter().any(|known| known.name == route.value)
    {
        let names: Vec<&str> =
            profile.routes.iter().map(|route| route.name.as_str()).chain([profile.route_name(RouteId::UNMATCHED)]).collect();
        mistakes.error(&route.at, format!("there is no route `{}`", route.value), crate::written::suggestion(&route.value, &names));
    }
    told("client", &example.client, &reading.client.shown());
    told("class", &example.class, classes.name(reading.class));
    told("effect", &example.effect, reading.effect.label());
    for (what, expected, came) in [("reads", &example.reads, &reading.reads), ("writes", &example.writes, &reading.writes)] {
        let Some(Placed { value, at }) = expected else { continue };
        let mut came: Vec<String> = came.iter().map(Scope::to_string).collect();
        if what == "writes" {
            came.extend(reading.later.iter().flat_map(super::Later::shown));
        }
        let mut wanted = value.clone();
        came.sort();
        wanted.sort();
        if came != wanted {
            mistakes.error(at, format!("this example {what} {came:?}, not {wanted:?}"), "correct the example or the routes");
        }
    }
}
