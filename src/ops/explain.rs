//! `tidegate explain`: what one request would be taken for, and which rules the gate would hold it to; and, asked of a running tidegate, what it
//! knows of the request's documents, or what `verify` has found.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
};

use http::{HeaderName, HeaderValue, Method, Request, Uri, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{load::Loaded, verify, visit::Desk};
use crate::{
    config::settings::{ClassSettings, FreshMode, Rate},
    flow::report::RoutePolls,
    model::Mode,
    profile::{BodySeen, Client, Explanation, Reading},
    units::{show_bytes, show_duration},
};

/// The most documents of one request that a running tidegate is asked for.
const DOCUMENTS_ASKED_MAX: usize = 16;

/// A request as the command line describes it.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The method.
    pub method: String,
    /// The target: a path with an optional query.
    pub target: String,
    /// Lines `name: value`.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
    /// The address that it comes from; loopback if none is given.
    pub peer: Option<IpAddr>,
}

/// Says what the request is and which rules it is held to.
///
/// # Errors
/// A sentence that says what is wrong with the question.
pub fn explain(loaded: &Loaded, question: &Question) -> Result<String, String> {
    let head = head(question)?;
    let (body, seen) = seen(loaded, &head, &question.body);
    let peer = question.peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let explanation = loaded.profile.explain(&head, body, peer);
    let mut text = routes(&explanation);
    text.push_str(&what_it_is(loaded, &explanation, seen));
    text.push('\n');
    text.push_str(&rules(loaded, &explanation.reading));
    Ok(text)
}

/// What a running tidegate knows of the documents of this request: when each was written last, whether it is in doubt, and which stored
/// answers depend on it.
///
/// # Errors
/// Sentences that say what is wrong and what to do.
pub fn documents(loaded: &Loaded, question: &Question, desk: &Desk) -> Result<String, String> {
    let head = head(question)?;
    let (body, _) = seen(loaded, &head, &question.body);
    let explanation = loaded.profile.explain(&head, body, question.peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let mut scopes: Vec<&String> = explanation.reads.iter().chain(&explanation.writes).collect();
    scopes.sort();
    scopes.dedup();
    let mut text = format!("at {}:\n", desk.address);
    if scopes.is_empty() {
        text.push_str("it names no document, so no stored answer depends on it\n");
    }
    for scope in scopes.iter().take(DOCUMENTS_ASKED_MAX) {
        // What is shown of a tree is decoded, and what is asked for is decoded again.
        let written = if scope.starts_with("tree:") { scope.replace('%', "%25") } else { (*scope).clone() };
        let path = format!("/state?document={}", utf8_percent_encode(&written, NON_ALPHANUMERIC));
        text.push_str(&document(scope, &desk.get(&path)?));
    }
    if scopes.len() > DOCUMENTS_ASKED_MAX {
        let _ = writeln!(text, "... and {} more", scopes.len() - DOCUMENTS_ASKED_MAX);
    }
    Ok(text)
}

/// What a running tidegate has found out by `verify`.
///
/// # Errors
/// Sentences that say what is wrong and what to do.
pub fn verified(desk: &Desk) -> Result<String, String> {
    let mut state = desk.get("/state")?;
    let fresh = state["fresh"].take();
    let unknown = || format!("{} says nothing of local answers: is it tidegate's admin listener, of this version?", desk.address);
    let mode = match fresh["mode"].as_str() {
        Some("off") => FreshMode::Off,
        Some("verify") => FreshMode::Verify,
        Some("on") => FreshMode::On,
        _ => return Err(unknown()),
    };
    let routes: Vec<RoutePolls> = serde_json::from_value(fresh["routes"].clone()).map_err(|_| unknown())?;
    let distrusted: Vec<String> = serde_json::from_value(fresh["now"]["distrusted"].clone()).unwrap_or_default();
    Ok(verify::table(&routes, mode, &distrusted))
}

/// One document, as `/state?document=` shows it.
fn document(scope: &str, view: &Value) -> String {
    let count = |key: &str| view[key].as_u64().unwrap_or(0);
    let seconds = |value: &Value| format!("{} s", value.as_f64().unwrap_or(0.0));
    let by = view["last_write_by"].as_str().unwrap_or("(unknown)");
    let last = match (count("last_write"), view["entry"].as_bool()) {
        (0, _) => "none since the start".to_owned(),
        (number, Some(true)) => format!("number {number} of {}, by {by}", count("newest_write")),
        (number, _) => format!("not of late: before number {number} of {}, which is kept for all such documents", count("newest_write")),
    };
    let doubt = view["doubt_by"].as_str().map_or_else(|| "no".to_owned(), |why| format!("for {} ({why})", seconds(&view["doubt_seconds"])));
    let mut rows = vec![
        (format!("{scope}:"), String::new()),
        ("  last write".to_owned(), last),
        ("  writes running".to_owned(), count("writers").to_string()),
        ("  in doubt".to_owned(), doubt),
        ("  stored answers".to_owned(), format!("{} depend on it", count("answers"))),
    ];
    for found in view["dependents"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let state = if found["unchanged"].as_bool() == Some(true) { "unchanged since" } else { "written since: not replayed" };
        let route = found["route"].as_str().unwrap_or_default();
        let (status, bytes) = (found["status"].as_u64().unwrap_or(0), found["bytes"].as_u64().unwrap_or(0));
        rows.push((
            String::new(),
            format!("route {route}, status {status}, {bytes} bytes, asked {} ago, {state}", seconds(&found["age_seconds"])),
        ));
    }
    table(&rows)
}

/// The routes that were asked, with every test and how it came out.
fn routes(explanation: &Explanation) -> String {
    let mut rows = Vec::new();
    for step in &explanation.steps {
        rows.push((format!("{}:", step.route), step.holds.to_owned()));
        rows.extend(step.tests.iter().map(|(test, holds)| (format!("  {test}"), (*holds).to_owned())));
    }
    if rows.is_empty() {
        return "no route has this method and path\n\n".to_owned();
    }
    format!("routes of this method and path, up to the first that holds or may hold:\n{}\n", table(&rows))
}

fn head(question: &Question) -> Result<Parts, String> {
    let method = Method::from_bytes(question.method.as_bytes()).map_err(|_| format!("`{}` is no method", question.method))?;
    let target: Uri = question.target.parse().map_err(|error| format!("`{}` is no target: {error}", question.target))?;
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = method;
    head.uri = target;
    for line in &question.headers {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("`{line}` is no header: write `name: value`"))?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| format!("`{name}` is no header's name"))?;
        let value =
            HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| format!("the value of `{name}` cannot stand in a header"))?;
        head.headers.append(name, value);
    }
    if !question.body.is_empty() && !head.headers.contains_key("content-length") {
        head.headers.insert("content-length", HeaderValue::from(question.body.len()));
    }
    Ok(head)
}

fn seen<'a>(loaded: &Loaded, head: &Parts, body: &'a [u8]) -> (BodySeen<'a>, String) {
    let most = loaded.settings.inspect.bytes_max;
    match body.get(..most) {
        Some(prefix) if body.len() > most => {
            let text = format!("the first {} of {} bytes", show_bytes(most as u64), body.len());
            (BodySeen::Prefix(prefix), text)
        }
        _ if loaded.profile.inspects(head) => (BodySeen::Whole(body), format!("all {} bytes", body.len())),
        _ => (BodySeen::Whole(body), "not needed".to_owned()),
    }
}

fn what_it_is(loaded: &Loaded, explanation: &Explanation, body: String) -> String {
    let classes = &loaded.settings.classes;
    let reading = &explanation.reading;
    let client = match &reading.client {
        Client::Named { secret: true, .. } => "its credential (only ever shown hashed)".to_owned(),
        Client::Named { .. } => explanation.client.clone(),
        Client::Address(address) => format!("{address} (its address: neither client nor credential was found)"),
    };
    let unknown = if reading.unknown { "yes: something could not be read, so it writes everything" } else { "no" };
    let rows = [
        ("profile", loaded.profile.name.clone()),
        ("route", explanation.route.clone()),
        ("body read", body),
        ("client", client),
        ("credential in", scopes(&explanation.credential)),
        ("reads", scopes(&explanation.reads)),
        ("writes", scopes(&explanation.writes)),
        ("the reply names", scopes(&explanation.later)),
        ("while it runs", while_it_runs(explanation)),
        ("effect", explanation.effect.to_owned()),
        ("answer", explanation.answer.clone().unwrap_or_else(|| "never stored".to_owned())),
        ("question", explanation.question.unwrap_or("not one that is answered").to_owned()),
        ("asked of replies", scopes(&explanation.asked_of_reply)),
        ("replies held", if explanation.reply_held { "yes: their bodies are read first" } else { "no" }.to_owned()),
        ("unknown", unknown.to_owned()),
        ("stream", explanation.stream.unwrap_or("no").to_owned()),
        ("class", classes.name(reading.class).to_owned()),
        ("long", format!("{} (if one of its documents is dear, or it outlives long_after)", classes.name(reading.long))),
        ("dear", "known only to a running tidegate: see its /state".to_owned()),
    ];
    table(&rows)
}

fn while_it_runs(explanation: &Explanation) -> String {
    match &explanation.pending {
        _ if explanation.later.is_empty() => "what it writes is known".to_owned(),
        Some(pending) => format!("held back: {}", scopes(pending)),
        None => "every stored answer is held back".to_owned(),
    }
}

fn scopes(scopes: &[String]) -> String {
    if scopes.is_empty() { "nothing".to_owned() } else { scopes.join("  ") }
}

fn rules(loaded: &Loaded, reading: &Reading) -> String {
    let settings = &loaded.settings;
    let class = settings.of(reading.class);
    let gate = settings.gate.mode;
    let rate = |rate: Option<Rate>| {
        rate.map_or_else(
            || "none".to_owned(),
            |rate| format!("{} per second, burst {}, {}", rate.per_second, rate.burst, rate.mode.label()),
        )
    };
    let shares = class.shares(settings.seats());
    let in_flight = class.client_in_flight.map_or_else(|| "no cap".to_owned(), |cap| format!("{cap}, {}", class.client_mode.label()));
    let mut rows = vec![
        ("closed", if class.closed { "yes: refused, 503" } else { "no" }.to_owned()),
        ("client_rate", rate(class.client_rate)),
        ("class_rate", rate(class.rate)),
        ("queue_full", format!("beyond {} waiting, {}", class.queue_max, gate.label())),
        ("predicted_wait", predicted(class, gate)),
        ("deadline", format!("after {}, {}", show_duration(class.wait_max), gate.label())),
        ("client_cap", format!("in flight per client: {in_flight}")),
        (
            "seats",
            format!(
                "of {}: {} its own, {} while others want them, {} while nobody does",
                settings.seats(),
                shares.reserve,
                shares.ceiling,
                shares.idle_ceiling
            ),
        ),
        (
            "long_after",
            class.long_after.map_or_else(
                || "never moved".to_owned(),
                |after| format!("after {} charged to {}", show_duration(after), settings.classes.name(reading.long)),
            ),
        ),
        ("head_timeout", format!("504 after {}", show_duration(class.head_timeout))),
    ];
    if reading.stream.is_some() {
        rows.push(("stream", format!("{} open, {} of one client", settings.stream.max, settings.stream.per_client)));
    }
    format!("rules of class {}, in their order:\n{}", settings.classes.name(reading.class), table(&rows))
}

fn predicted(class: &ClassSettings, gate: Mode) -> String {
    if class.slow {
        format!("beyond {}, {}", show_duration(class.wait_max), gate.label())
    } else {
        "not in this class: it is not slow".to_owned()
    }
}

fn table<N: AsRef<str>>(rows: &[(N, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{:width$}  {value}", name.as_ref());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::load::{Flags, Origin, load};

    const PROFILE: &str = r#"
name = "mine"
credential = ["header.authorization"]
client = ["query.user"]

[[route]]
name = "save"
method = ["POST"]
path = "/save"
when = { "json.kind" = ["big"] }
class = "large"
writes = ["doc:{json.id}"]

[[route]]
name = "feed"
path = "/feed"
stream = "sse"
writes = []
"#;

    fn loaded(set: &[&str]) -> Loaded {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mine.toml");
        std::fs::write(&file, PROFILE).expect("written");
        let set = set.iter().map(|set| (*set).to_owned()).collect();
        let flags = Flags { profile: Some(file.display().to_string()), app: Some("127.0.0.1:1".to_owned()), set, ..Flags::default() };
        load(&Origin::new(None, &flags).expect("flags"), None).expect("sound")
    }

    fn question(target: &str, headers: &[&str], body: &str) -> Question {
        let headers = headers.iter().map(|header| (*header).to_owned()).collect();
        let method = if body.is_empty() { "GET" } else { "POST" }.to_owned();
        Question { method, target: target.to_owned(), headers, body: body.into(), peer: None }
    }

    fn has(text: &str, row: &str, value: &str) {
        let found = text
            .lines()
            .any(|line| line.split_once(row).is_some_and(|(before, after)| before.is_empty() && after.trim().starts_with(value)));
        assert!(found, "`{row}` is not `{value}` in:\n{text}");
    }

    #[test]
    fn a_request_is_read_as_it_would_be() {
        let asked = question("/save?user=ann", &["content-type: application/json"], "{\"kind\":\"big\",\"id\":\"a\"}");
        let text = explain(&loaded(&["class.large.wait_max=7s"]), &asked).expect("explained");
        for (row, value) in [
            ("route", "save"),
            ("client", "ann"),
            ("writes", "doc:a"),
            ("effect", "write"),
            ("class", "large"),
            ("predicted_wait", "beyond 7s, enforce"),
            ("save:", "true"),
        ] {
            has(&text, row, value);
        }
    }

    #[test]
    fn a_body_beyond_the_bound_is_read_as_far_as_it_would_be() {
        let body = format!("{{\"pad\":\"{}\",\"kind\":\"big\",\"id\":\"a\"}}", "x".repeat(5000));
        let asked = question("/save", &["content-type: application/json"], &body);
        let text = explain(&loaded(&["inspect.bytes_max=1KiB"]), &asked).expect("explained");
        has(&text, "body read", "the first 1KiB of");
        has(&text, "writes", "*");
        has(&text, "unknown", "yes");
    }

    #[test]
    fn a_credential_is_never_shown() {
        let asked = question("/feed", &["authorization: Bearer topsecret"], "");
        let text = explain(&loaded(&[]), &asked).expect("explained");
        has(&text, "client", "its credential");
        has(&text, "stream", "sse");
        assert!(text.contains("10000 open, 8 of one client") && !text.contains("topsecret"), "{text}");
    }

    #[test]
    fn a_question_that_makes_no_sense_is_told_so() {
        let loaded = loaded(&[]);
        for (wrong, part) in [
            (question("no target", &[], ""), "no target"),
            (question("/", &["nonsense"], ""), "name: value"),
            (question("/", &["a b: c"], ""), "no header's name"),
            (Question { method: "GE T".to_owned(), ..question("/", &[], "") }, "no method"),
        ] {
            assert!(explain(&loaded, &wrong).is_err_and(|why| why.contains(part)), "{part}");
        }
    }
}
