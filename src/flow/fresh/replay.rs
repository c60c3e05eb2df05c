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

pub mod located;
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
    /// A document of it was being written, or in doubt, when it was asked.
    NotSolid,
}

impl NotKept {
    /// Every reason, in the order of the declaration.
    pub const ALL: [Self; 11] = [
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
        Self::NotSolid,
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
            Self::NotSolid => "not_solid",
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
