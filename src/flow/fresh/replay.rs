//! An answer in the form in which it is kept, and said again.
//!
//! A header map takes 1 to 2 KiB, so an answer is kept as one run of bytes: its headers, the places in its body that are renewed, and its body. A
//! replay makes a header map anew, whose values, like the body, are slices of that run: what it allocates does not depend on how
//! long they are.
//!
//! ```text
//! headers:  code of the name (u8; 255: a name follows, after its length as u8), renewal (u8), length of the value (u16), value
//! renewals: start and end in the body (u32 each), renewal (u8)
//! body
//! ```

mod names;

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response::Parts};

use super::{
    judge::{self, Digest, Fields},
    ledger::Proof,
    question::is_always_asked,
};
use crate::{
    profile::{Answer, Now},
    wire::{Body, Response},
};

/// Why an answer is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotKept {
    /// The route does not declare its status, or it is one that is never stored: 1xx, 206, 401, 403, 5xx.
    Status,
    /// It sets a cookie.
    SetCookie,
    /// It depends on what is no part of the question (RFC 9110 section 12.5.5).
    Vary,
    /// It has trailers, or announces them.
    Trailers,
    /// The request asked for another protocol.
    Upgrade,
    /// It is longer than `answer_max`, or its head is longer than can be kept.
    Size,
    /// Its end was that of the connection, or it was cut.
    Framing,
    /// The reply fails the route's `only_if`.
    OnlyIf,
    /// A part of its body that the route renews was not found.
    Renew,
    /// The poll reads everything, or more documents than are kept track of.
    Scope,
}

impl NotKept {
    /// Every reason, in the order of the declaration.
    pub const ALL: [Self; 10] = [
        Self::Status,
        Self::SetCookie,
        Self::Vary,
        Self::Trailers,
        Self::Upgrade,
        Self::Size,
        Self::Framing,
        Self::OnlyIf,
        Self::Renew,
        Self::Scope,
    ];

    /// As it stands in metrics and in `Cache-Status`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::SetCookie => "set_cookie",
            Self::Vary => "vary",
            Self::Trailers => "trailers",
            Self::Upgrade => "upgrade",
            Self::Size => "size",
            Self::Framing => "framing",
            Self::OnlyIf => "only_if",
            Self::Renew => "renew",
            Self::Scope => "scope",
        }
    }

    /// The index into a per-reason array.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Whether an answer with this head may be kept. What the head does not show is the caller's to ask: size, framing, trailers, `only_if`.
///
/// # Errors
/// The first reason why not.
pub fn may_keep(
    method: &Method,
    request: &HeaderMap,
    head: &Parts,
    rules: &Answer,
    is_noise: impl Fn(&HeaderName) -> bool,
) -> Result<(), NotKept> {
    let status = head.status;
    let never = status.is_informational()
        || status.is_server_error()
        || matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if *method == Method::CONNECT || request.contains_key(header::UPGRADE) || head.headers.contains_key(header::UPGRADE) {
        return Err(NotKept::Upgrade);
    }
    if head.headers.contains_key(header::SET_COOKIE) {
        return Err(NotKept::SetCookie);
    }
    if head.headers.contains_key(header::TRAILER) {
        return Err(NotKept::Trailers);
    }
    for value in head.headers.get_all(header::VARY) {
        for name in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
            let name = HeaderName::from_bytes(name).ok().filter(|name| name != "*").ok_or(NotKept::Vary)?;
            if !is_always_asked(&name) && is_noise(&name) {
                return Err(NotKept::Vary);
            }
        }
    }
    // Last, for an answer that is refused for this alone may still be shared.
    if never || !rules.statuses.contains(&status) {
        return Err(NotKept::Status);
    }
    Ok(())
}

/// An answer as it is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    status: StatusCode,
    fields: u16,
    renewals: u16,
    /// Where the body begins.
    head: u32,
    bytes: Bytes,
}

/// The code of a name that is written out.
const NAMED: u8 = u8::MAX;

/// The bytes of one renewal.
const RENEWAL: usize = 9;

/// Makes an answer one that can be kept. Headers that belong to one connection or one answer are left out, as are those that the route drops;
/// `judge` says which.
///
/// # Errors
/// `Renew` if a part of the body that the route renews is not there; `Size` if the head is longer than can be kept (a value of 64 KiB).
pub fn keep(head: &Parts, body: &Bytes, rules: &Answer) -> Result<Kept, NotKept> {
    let renewals = judge::renewals(body, rules);
    if !renewals.complete {
        return Err(NotKept::Renew);
    }
    let mut bytes = Vec::with_capacity(head_bytes(head, body, rules) + renewals.list.len() * RENEWAL + body.len());
    let mut fields = 0_u16;
    for field in judge::lasting(&head.headers, body.is_empty(), rules) {
        fields = fields.checked_add(1).ok_or(NotKept::Size)?;
        write_name(&mut bytes, field.name)?;
        bytes.push(code(field.renewed));
        let value = if field.renewed.is_some() { &[] } else { field.value.as_bytes() };
        bytes.extend_from_slice(&u16::try_from(value.len()).map_err(|_| NotKept::Size)?.to_le_bytes());
        bytes.extend_from_slice(value);
    }
    for (range, now) in &renewals.list {
        for place in [range.start, range.end] {
            bytes.extend_from_slice(&u32::try_from(place).map_err(|_| NotKept::Size)?.to_le_bytes());
        }
        bytes.push(code(Some(*now)));
    }
    let begins = u32::try_from(bytes.len()).map_err(|_| NotKept::Size)?;
    bytes.extend_from_slice(body);
    let renewals = u16::try_from(renewals.list.len()).map_err(|_| NotKept::Size)?;
    Ok(Kept { status: head.status, fields, renewals, head: begins, bytes: Bytes::from(bytes) })
}

/// How many bytes the headers take.
fn head_bytes(head: &Parts, body: &Bytes, rules: &Answer) -> usize {
    let field = |field: judge::Field<'_>| {
        let name = if names::code(field.name).is_some() { 1 } else { 2 + field.name.as_str().len() };
        name + 3 + if field.renewed.is_some() { 0 } else { field.value.len() }
    };
    judge::lasting(&head.headers, body.is_empty(), rules).map(field).sum()
}

fn write_name(bytes: &mut Vec<u8>, name: &HeaderName) -> Result<(), NotKept> {
    if let Some(code) = names::code(name) {
        bytes.push(code);
    } else {
        let name = name.as_str().as_bytes();
        bytes.extend_from_slice(&[NAMED, u8::try_from(name.len()).map_err(|_| NotKept::Size)?]);
        bytes.extend_from_slice(name);
    }
    Ok(())
}

fn code(renewed: Option<Now>) -> u8 {
    match renewed {
        None => 0,
        Some(Now::Seconds) => 1,
        Some(Now::Hundredths) => 2,
        Some(Now::Millis) => 3,
    }
}

fn renewed(code: u8) -> Option<Now> {
    match code {
        1 => Some(Now::Seconds),
        2 => Some(Now::Hundredths),
        3 => Some(Now::Millis),
        _ => None,
    }
}

/// The time since 1970 in one of its forms.
fn text(now: Now, epoch: Duration) -> String {
    match now {
        Now::Seconds => epoch.as_secs().to_string(),
        Now::Hundredths => format!("{}.{:02}", epoch.as_secs(), epoch.subsec_millis() / 10),
        Now::Millis => epoch.as_millis().to_string(),
    }
}

/// One header as it is kept.
struct Line {
    name: HeaderName,
    value: Range<usize>,
    renewed: Option<Now>,
}

/// Reads what `keep` wrote, from the front.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn line(&mut self) -> Option<Line> {
        let name = match self.byte()? {
            NAMED => {
                let length = self.byte()?;
                HeaderName::from_lowercase(self.take(usize::from(length))?).ok()?
            }
            code => names::name(code)?,
        };
        let renewed = renewed(self.byte()?);
        let length = usize::from(u16::from_le_bytes(self.take(2)?.try_into().ok()?));
        let start = self.at;
        self.take(length)?;
        Some(Line { name, value: start..self.at, renewed })
    }

    fn renewal(&mut self) -> Option<(Range<usize>, Now)> {
        let mut place = || Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?) as usize);
        let range = place()?..place()?;
        Some((range, renewed(self.byte()?)?))
    }
}

impl Kept {
    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The bytes that it takes in memory, with those of the allocator and those that its first replay adds.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.allocated()
    }

    /// The same without the value itself.
    #[must_use]
    pub fn allocated(&self) -> usize {
        // The second is the count of those who share the bytes.
        if self.bytes.is_empty() { 0 } else { chunk(self.bytes.len()) + chunk(3 * size_of::<usize>()) }
    }

    /// How long its body is.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.bytes.len() - self.begins()
    }

    /// What it says: equal to `judge::digest` of the app's answer.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let (lines, renewals) = self.read();
        let lines: Vec<Line> = lines.filter(|line| line.renewed.is_none()).collect();
        let mut fields: Fields<'_> =
            lines.iter().map(|line| (&line.name, self.bytes.get(line.value.clone()).unwrap_or_default())).collect();
        judge::digest_of(self.status, &mut fields, self.body(), renewals.map(|(range, _)| range))
    }

    fn begins(&self) -> usize {
        (self.head as usize).min(self.bytes.len())
    }

    fn body(&self) -> &[u8] {
        self.bytes.get(self.begins()..).unwrap_or_default()
    }

    /// Its headers, and what of its body is renewed.
    fn read(&self) -> (impl Iterator<Item = Line>, impl Iterator<Item = (Range<usize>, Now)>) {
        let renewals = usize::from(self.renewals) * RENEWAL;
        let split = self.begins().saturating_sub(renewals);
        let mut head = Reader { bytes: self.bytes.get(..split).unwrap_or_default(), at: 0 };
        let mut rest = Reader { bytes: self.bytes.get(split..self.begins()).unwrap_or_default(), at: 0 };
        (std::iter::from_fn(move || head.line()), std::iter::from_fn(move || rest.renewal()))
    }

    /// The body with the time in its places.
    fn renewed_body(&self, renewals: impl Iterator<Item = (Range<usize>, Now)>, epoch: Duration) -> Bytes {
        let body = self.body();
        let mut bytes = Vec::with_capacity(body.len() + 16 * usize::from(self.renewals));
        let mut from = 0;
        for (range, now) in renewals {
            bytes.extend_from_slice(body.get(from..range.start).unwrap_or_default());
            let quote: &[u8] = if body.get(range.start) == Some(&b'"') { b"\"" } else { b"" };
            bytes.extend_from_slice(quote);
            bytes.extend_from_slice(text(now, epoch).as_bytes());
            bytes.extend_from_slice(quote);
            from = range.end;
        }
        bytes.extend_from_slice(body.get(from..).unwrap_or_default());
        Bytes::from(bytes)
    }
}

/// What an allocator takes for so many bytes: glibc's header of 8 bytes, and chunks in steps of 16, of 32 at least.
#[must_use]
pub fn chunk(bytes: usize) -> usize {
    (bytes + 8).next_multiple_of(16).max(32)
}

/// How many headers a response gets beside the app's.
const ADDED: usize = 4;

/// The answer once more. `epoch` is the time since 1970, for the parts that are renewed. There is no `Date`: the server adds a fresh one; and no
/// `Age`, as the answer is as new as its check.
#[must_use]
pub fn replay(kept: &Kept, proof: Proof, epoch: Duration) -> Response {
    drop(proof);
    let (lines, renewals) = kept.read();
    let mut headers = HeaderMap::try_with_capacity(usize::from(kept.fields) + ADDED).unwrap_or_default();
    for line in lines {
        let value = match line.renewed {
            Some(now) => HeaderValue::try_from(text(now, epoch)),
            None => HeaderValue::from_maybe_shared(kept.bytes.slice(line.value)),
        };
        if let Ok(value) = value {
            // Only more than 32,768 headers would not find room, and so many were never there.
            let _ = headers.try_append(line.name, value);
        }
    }
    let body = if kept.renewals == 0 { kept.bytes.slice(kept.begins()..) } else { kept.renewed_body(renewals, epoch) };
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = kept.status;
    *response.headers_mut() = headers;
    response
}

/// An answer of the app, whole, for those who share the poll that it answers: nothing of it is dropped or renewed.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Its status.
    pub status: StatusCode,
    /// Its headers as they go on to a client.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

impl Whole {
    /// The answer with this head, without what the head carries for this process alone.
    #[must_use]
    pub fn new(head: &Parts, body: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { status: head.status, headers: head.headers.clone(), body, trailers }
    }
}

/// The app's own answer for one more of those who share it.
#[must_use]
pub fn share(whole: &Whole) -> Response {
    let body = match &whole.trailers {
        Some(trailers) => Body::Trailed(whole.body.clone(), Some(trailers.clone())),
        None => Body::full(whole.body.clone()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = whole.status;
    *response.headers_mut() = whole.headers.clone();
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        clock::{Boot, Moment},
        flow::fresh::{
            keys::Reads,
            ledger::{Asked, Ledger},
        },
        profile::{JsonPath, Selector},
    };

    const EPOCH: Duration = Duration::from_millis(1_700_000_000_987);

    fn proof() -> Proof {
        let ledger = Ledger::new(16, Moment(0));
        let asked = Asked { s: 0, asked_at: Boot(0), solid: Ok(()) };
        ledger.prove(&Reads::default(), &asked, Boot(0), Duration::from_secs(1)).expect("nothing was written")
    }

    fn rules(renew: &[(&str, Now)], drop: &[&str]) -> Answer {
        let selector = |text: &str| match text.strip_prefix("header.") {
            Some(name) => Selector::Header(name.parse().expect("a name")),
            None => Selector::Json(JsonPath::parse(text.strip_prefix("json.").expect("json")).expect("a path")),
        };
        Answer {
            statuses: [200, 201, 204, 206, 304, 401, 403, 404, 503].map(|status| StatusCode::from_u16(status).expect("a status")).to_vec(),
            mode: None,
            age_max: None,
            key_body: None,
            ignore_headers: Vec::new(),
            only_if: Vec::new(),
            renew: renew.iter().map(|(text, now)| (selector(text), *now)).collect(),
            drop: drop.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn head(status: u16, fields: &[(&str, &str)]) -> Parts {
        let mut head = http::Response::new(()).into_parts().0;
        head.status = StatusCode::from_u16(status).expect("a status");
        for (name, value) in fields {
            let name = name.parse::<HeaderName>().expect("a name");
            head.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        head
    }

    async fn taken_apart(response: Response) -> (StatusCode, Vec<(String, Vec<u8>)>, Bytes, Option<HeaderMap>) {
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body");
        let trailers = body.trailers().cloned();
        (head.status, listed(&head.headers), body.to_bytes(), trailers)
    }

    fn listed(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[tokio::test]
    async fn what_was_kept_is_said_again_but_for_what_is_named() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        println!("SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let rules = rules(&[("header.x-weave-timestamp", Now::Hundredths)], &["ratelimit-*", "x-gone"]);
        let names = [
            ("content-type", true),
            ("link", true),
            ("etag", true),
            ("x-nobody-knows-it", true),
            ("x-a", true),
            ("server", true),
            ("x-weave-timestamp", true),
            ("date", false),
            ("age", false),
            ("connection", false),
            ("content-length", false),
            ("server-timing", false),
            ("ratelimit-reset", false),
            ("x-gone", false),
        ];
        for _ in 0..5_000 {
            let mut expected = Vec::new();
            let mut head = head(*random.choice([200, 201, 404].iter()).expect("one"), &[]);
            let count = random.usize(0..20);
            for _ in 0..count {
                let (name, lasts) = names[random.usize(0..names.len())];
                let value: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(32..127)).chain([0xe9]).collect();
                let value = if name == "connection" { b"close".to_vec() } else { value };
                head.headers.append(name, HeaderValue::from_bytes(&value).expect("a value"));
                if lasts {
                    expected.push((name.to_owned(), if name == "x-weave-timestamp" { b"1700000000.98".to_vec() } else { value }));
                }
            }
            let body: Bytes = (0..random.usize(1..600)).map(|_| random.u8(..)).collect();
            let kept = keep(&head, &body, &rules).expect("it can be kept");
            assert_eq!(kept.digest(), judge::digest(&head, &body, &rules), "{head:?}");
            assert_eq!((kept.status(), kept.body_len()), (head.status, body.len()));
            let (status, mut fields, again, trailers) = taken_apart(replay(&kept, proof(), EPOCH)).await;
            assert_eq!((status, &again, trailers), (head.status, &body, None));
            // Values of one header stay in order; different headers are not compared by order.
            fields.sort_by(|one, other| one.0.cmp(&other.0));
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            assert_eq!(fields, expected);
        }
    }

    #[tokio::test]
    async fn headers_come_in_the_order_of_the_app() {
        let fields = [("server", "a"), ("link", "1"), ("x-own-name", "b"), ("link", "2"), ("content-type", "c"), ("link", "3")];
        let head = head(200, &fields);
        let kept = keep(&head, &Bytes::from_static(b"x"), &rules(&[], &[])).expect("it can be kept");
        let (_, again, ..) = taken_apart(replay(&kept, proof(), EPOCH)).await;
        assert_eq!(again, listed(&head.headers));
        assert_eq!(again.len(), 6);
    }

    #[tokio::test]
    async fn parts_are_renewed_in_their_form() {
        let renew = [
            ("header.x-weave-timestamp", Now::Hundredths),
            ("json.ts", Now::Seconds),
            ("json.a[1].ms", Now::Millis),
            ("json.t", Now::Hundredths),
        ];
        let body = Bytes::from_static(br#"{"t" : "2026-01-01", "a":[0,{"ms":  1,"x":"ts"}],"ts":12, "z":[]}"#);
        let head = head(200, &[("x-weave-timestamp", "1.00"), ("content-length", "64")]);
        let rules = rules(&renew, &[]);
        let kept = keep(&head, &body, &rules).expect("it can be kept");
        assert_eq!(kept.digest(), judge::digest(&head, &body, &rules));
        let (_, fields, again, _) = taken_apart(replay(&kept, proof(), EPOCH)).await;
        let expected = r#"{"t" : "1700000000.98", "a":[0,{"ms":  1700000000987,"x":"ts"}],"ts":1700000000, "z":[]}"#;
        assert_eq!(std::str::from_utf8(&again).expect("text"), expected);
        assert_eq!(fields, [("x-weave-timestamp".to_owned(), b"1700000000.98".to_vec())], "its length is told by the new body");
        let early = Duration::from_millis(5_007);
        let (_, fields, again, _) = taken_apart(replay(&kept, proof(), early)).await;
        assert_eq!(fields[0].1, b"5.00");
        assert!(again.ends_with(br#""ts":5, "z":[]}"#));
    }

    #[test]
    fn an_answer_without_the_part_that_is_renewed_is_not_kept() {
        let rules = rules(&[("json.ts", Now::Seconds)], &[]);
        for body in [r#"{"a":1}"#, "", "{", r#"{"ts":1,"ts":2}"#, r#"{"ts":null}"#, r#"{"ts":{}}"#, r#"{"ts":true}"#, "\u{1f}\u{8b}"] {
            assert_eq!(keep(&head(200, &[]), &Bytes::from_static(body.as_bytes()), &rules).err(), Some(NotKept::Renew), "{body}");
        }
        assert!(keep(&head(200, &[]), &Bytes::from_static(br#"{"ts":1}"#), &rules).is_ok());
    }

    #[test]
    fn a_head_that_is_too_long_is_not_kept() {
        let long = "x".repeat(70_000);
        let body = Bytes::new();
        assert_eq!(keep(&head(200, &[("x-a", &long)]), &body, &rules(&[], &[])).err(), Some(NotKept::Size));
        let name = "x".repeat(300);
        assert_eq!(keep(&head(200, &[(&name, "a")]), &body, &rules(&[], &[])).err(), Some(NotKept::Size));
        assert!(keep(&head(200, &[("x-a", &long[..65_535])]), &body, &rules(&[], &[])).is_ok());
    }

    #[test]
    fn only_what_may_be_kept_is_kept() {
        let may = |method: Method, request: &[(&str, &str)], status: u16, fields: &[(&str, &str)]| {
            let noise = |name: &HeaderName| matches!(name.as_str(), "user-agent" | "x-forwarded-proto" | "authorization" | "cookie");
            may_keep(&method, &head(200, request).headers, &head(status, fields), &rules(&[], &[]), noise)
        };
        let get = |status, fields: &[(&str, &str)]| may(Method::GET, &[], status, fields);
        for status in 100..600 {
            let expected = [200, 201, 204, 304, 404].contains(&status);
            assert_eq!(get(status, &[]).err(), (!expected).then_some(NotKept::Status), "{status}");
        }
        assert_eq!(get(200, &[("set-cookie", "a=b")]), Err(NotKept::SetCookie));
        assert_eq!(get(200, &[("trailer", "x-sum")]), Err(NotKept::Trailers));
        assert_eq!(get(200, &[("upgrade", "h2c")]), Err(NotKept::Upgrade));
        assert_eq!(may(Method::GET, &[("upgrade", "websocket")], 200, &[]), Err(NotKept::Upgrade));
        assert_eq!(may(Method::CONNECT, &[], 200, &[]), Err(NotKept::Upgrade));
        for vary in ["*", "User-Agent", "accept, x-forwarded-proto", "accept,*", "a b"] {
            assert_eq!(get(200, &[("vary", vary)]), Err(NotKept::Vary), "{vary}");
        }
        assert_eq!(get(200, &[("vary", "accept"), ("vary", "user-agent")]), Err(NotKept::Vary));
        for vary in ["", "Accept-Encoding", "accept, cookie , Authorization,Host", ","] {
            assert_eq!(get(200, &[("vary", vary), ("cache-control", "no-store, private")]), Ok(()), "{vary}");
        }
    }

    /// What a hyper server sends for a replay, to this request line.
    async fn sent(kept: Kept, request: &str) -> String {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let service = hyper::service::service_fn(move |_| {
            let response = replay(&kept, proof(), EPOCH);
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        let serving = tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service));
        client.write_all(format!("{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await.expect("written");
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("read");
        serving.await.expect("served").expect("served well");
        text.to_ascii_lowercase()
    }

    #[tokio::test]
    async fn on_the_wire_there_is_one_fresh_date_and_the_right_length() {
        let fields = [("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("age", "7"), ("etag", "\"1\""), ("content-length", "5")];
        let keep = |status, body: &'static str| keep(&head(status, &fields), &Bytes::from_static(body.as_bytes()), &rules(&[], &[]));
        let check = |text: &str| {
            assert_eq!(text.matches("\r\ndate: ").count(), 1, "{text}");
            assert!(!text.contains(" 1970 ") && !text.contains("\r\nage:") && text.contains("\r\netag: \"1\"\r\n"), "{text}");
        };
        let got = sent(keep(200, "hello").expect("kept"), "GET /").await;
        check(&got);
        assert!(got.contains("\r\ncontent-length: 5\r\n") && got.ends_with("\r\n\r\nhello"), "{got}");
        let asked = sent(keep(200, "").expect("kept"), "HEAD /").await;
        check(&asked);
        assert!(asked.contains("\r\ncontent-length: 5\r\n") && asked.ends_with("\r\n\r\n"), "{asked}");
        let unchanged = sent(keep(304, "").expect("kept"), "GET /").await;
        check(&unchanged);
        assert!(unchanged.starts_with("http/1.1 304 ") && unchanged.ends_with("\r\n\r\n"), "{unchanged}");
    }

    #[tokio::test]
    async fn those_who_share_get_the_apps_own_answer() {
        let head = head(503, &[("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("set-cookie", "a=b"), ("set-cookie", "c=d"), ("age", "7")]);
        let trailers: HeaderMap = [(HeaderName::from_static("x-sum"), HeaderValue::from_static("1"))].into_iter().collect();
        for trailers in [None, Some(trailers)] {
            let whole = Whole::new(&head, Bytes::from_static(b"down"), trailers.clone());
            for _ in 0..2 {
                let (status, fields, body, sent) = taken_apart(share(&whole)).await;
                assert_eq!((status, fields, &body[..], sent), (head.status, listed(&head.headers), &b"down"[..], trailers.clone()));
            }
        }
    }

    #[test]
    fn every_reason_has_its_own_label_and_place() {
        for (index, reason) in NotKept::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(NotKept::ALL[..index].iter().all(|other| other.label() != reason.label()));
        }
    }

    #[test]
    fn an_answer_is_written_into_exactly_the_bytes_that_were_asked_for() {
        let rules = rules(&[("header.x-a", Now::Seconds)], &["x-gone"]);
        let body = Bytes::from_static(b"hello");
        let head = head(200, &[("content-type", "a/b"), ("x-own-name", "12"), ("x-a", "9"), ("x-gone", "1"), ("date", "x")]);
        let kept = keep(&head, &body, &rules).expect("it can be kept");
        assert_eq!(head_bytes(&head, &body, &rules), kept.begins());
        assert_eq!(kept.size(), size_of::<Kept>() + chunk(kept.begins() + 5) + 32);
    }
}
