//! Whether two answers are the same, volatile parts aside (`FRESH` rule 18).
//!
//! Compared are the status, the body and the headers that last. What does not last: what belongs to one connection, `Date` and `Age`, what a
//! tidegate said of its own doing (`Cache-Status`), what the app says of the time that this one request took (`Server-Timing`), and what the
//! route's `drop` and `renew` name. `Content-Length` lasts only where there is no body that tells it (HEAD and 304). The order of different headers
//! says nothing, that of one header's values does (RFC 9110 section 5.3).

use std::{fmt, hash::Hasher, ops::Range};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response::Parts};
use siphasher::sip128::{Hasher128, SipHasher24};
use smallvec::SmallVec;

use super::question::by_name;
use crate::profile::{Answer, Now, Selector, glob, json_value_range};

/// What an answer says, as a hash with 128 bits. It has no key, so that the digests of two processes can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// Whether an answer of this status says what the app knows of its documents: an error says nothing, nor does a refusal.
#[must_use]
pub fn says_something(status: StatusCode) -> bool {
    !status.is_server_error()
        && !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// The digest of an answer of the app, by the route's rules. `body` is the whole body.
#[must_use]
pub fn digest(head: &Parts, body: &[u8], rules: &Answer) -> Digest {
    let mut fields: Fields<'_> = lasting(&head.headers, body.is_empty(), rules)
        .filter(|field| field.renewed.is_none())
        .map(|field| (field.name, field.value.as_bytes()))
        .collect();
    let renewals = renewals(body, rules);
    digest_of(head.status, &mut fields, body, renewals.list.iter().map(|(range, _)| range.clone()))
}

/// Headers that are compared.
pub(super) type Fields<'a> = SmallVec<[(&'a HeaderName, &'a [u8]); 24]>;

/// The digest of these parts; `renewed` are the ranges of the body that are left out, in order.
pub(super) fn digest_of(status: StatusCode, fields: &mut Fields<'_>, body: &[u8], renewed: impl Iterator<Item = Range<usize>>) -> Digest {
    fields.sort_by(|(one, _), (other, _)| by_name(one, other));
    let mut hasher = SipHasher24::new();
    let part = |hasher: &mut SipHasher24, bytes: &[u8]| {
        hasher.write(&(bytes.len() as u64).to_le_bytes());
        hasher.write(bytes);
    };
    hasher.write(&status.as_u16().to_le_bytes());
    hasher.write(&(fields.len() as u64).to_le_bytes());
    for (name, value) in fields {
        part(&mut hasher, name.as_str().as_bytes());
        part(&mut hasher, value);
    }
    let mut from = 0;
    for range in renewed {
        part(&mut hasher, body.get(from..range.start).unwrap_or_default());
        from = range.end;
    }
    part(&mut hasher, body.get(from..).unwrap_or_default());
    Digest(hasher.finish128().as_u128())
}

/// A header of an answer that is kept.
pub(super) struct Field<'a> {
    pub name: &'a HeaderName,
    pub value: &'a HeaderValue,
    /// The form of the time that stands in its place when it is replayed.
    pub renewed: Option<Now>,
}

/// Headers that are never kept: they belong to one connection (RFC 9110 section 7.6.1) or to one answer.
const PASSING: [HeaderName; 12] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::DATE,
    header::AGE,
    HeaderName::from_static("server-timing"),
];

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The headers of an answer that last, in the order in which the app sent them.
pub(super) fn lasting<'a>(headers: &'a HeaderMap, bodiless: bool, rules: &'a Answer) -> impl Iterator<Item = Field<'a>> {
    let named = named_by_connection(headers);
    headers.iter().filter_map(move |(name, value)| {
        let text = name.as_str();
        let passes = PASSING.contains(name)
            || text.starts_with("tidegate-")
            || named.contains(name)
            || (*name == header::CONTENT_LENGTH && !bodiless)
            || (*name == CACHE_STATUS && is_ours(value))
            || rules.drop.iter().any(|pattern| glob(pattern, text));
        let renewed = || rules.renew.iter().find(|(selector, _)| matches!(selector, Selector::Header(renewed) if renewed == name));
        (!passes).then(|| Field { name, value, renewed: renewed().map(|(_, now)| *now) })
    })
}

/// The headers that `Connection` names.
fn named_by_connection(headers: &HeaderMap) -> SmallVec<[HeaderName; 2]> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect()
}

/// Whether a line of `Cache-Status` begins with what a tidegate says (RFC 9211 section 2).
fn is_ours(value: &HeaderValue) -> bool {
    let name = value.as_bytes().split(|byte| matches!(byte, b';' | b',')).next().unwrap_or_default();
    name.trim_ascii() == b"tidegate"
}

/// The parts of a JSON body that are renewed.
pub(super) struct Renewals {
    /// Where they stand, in order, and what stands there when it is replayed.
    pub list: SmallVec<[(Range<usize>, Now); 2]>,
    /// Whether every part that the rules name was found.
    pub complete: bool,
}

/// Where the values stand that the route renews; only numbers and strings can be.
pub(super) fn renewals(body: &[u8], rules: &Answer) -> Renewals {
    let mut renewals = Renewals { list: SmallVec::new(), complete: true };
    for (selector, now) in &rules.renew {
        let Selector::Json(path) = selector else { continue };
        let range = json_value_range(body, path);
        let range = range.filter(|range| matches!(body.get(range.start), Some(b'"' | b'-' | b'0'..=b'9')));
        match range {
            Some(range) => renewals.list.push((range, *now)),
            None => renewals.complete = false,
        }
    }
    renewals.list.sort_by_key(|(range, _)| range.start);
    renewals.list.dedup_by_key(|(range, _)| range.start);
    renewals
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Response};

    use super::*;
    use crate::profile::{Answer, JsonPath};

    fn rules() -> Answer {
        Answer {
            statuses: vec![StatusCode::OK],
            mode: None,
            age_max: None,
            key_body: None,
            ignore_headers: Vec::new(),
            only_if: Vec::new(),
            renew: vec![
                (Selector::Header(HeaderName::from_static("x-weave-timestamp")), Now::Hundredths),
                (Selector::Json(JsonPath::parse("ts").expect("a path")), Now::Seconds),
            ],
            drop: vec!["ratelimit-*".to_owned()],
        }
    }

    fn head(status: u16, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut head = Response::new(()).into_parts().0;
        head.status = StatusCode::from_u16(status).expect("a status");
        for (name, value) in fields {
            head.headers.append(*name, HeaderValue::from_static(value));
        }
        head
    }

    fn of(status: u16, fields: &[(&'static str, &'static str)], body: &str) -> Digest {
        digest(&head(status, fields), body.as_bytes(), &rules())
    }

    const FIELDS: [(&str, &str); 3] = [("content-type", "application/json"), ("link", "a"), ("link", "b")];
    const BODY: &str = r#"{"a":1,"ts":1700000000,"b":2}"#;

    #[test]
    fn what_is_volatile_makes_no_difference() {
        let same = of(200, &FIELDS, BODY);
        for more in [
            ("date", "Thu, 01 Jan 2026 00:00:00 GMT"),
            ("age", "7"),
            ("server-timing", "db;dur=7"),
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "29"),
            ("ratelimit-remaining", "7"),
            ("x-weave-timestamp", "1700000000.12"),
            ("cache-status", "tidegate; fwd=uri-miss"),
            ("tidegate-decision", "x"),
        ] {
            let mut fields = FIELDS.to_vec();
            fields.insert(1, more);
            assert_eq!(of(200, &fields, BODY), same, "{more:?}");
        }
        assert_eq!(of(200, &[("connection", "x-hop"), ("x-hop", "1"), FIELDS[0], FIELDS[1], FIELDS[2]], BODY), same);
        assert_eq!(of(200, &[FIELDS[1], FIELDS[2], FIELDS[0]], BODY), same, "the order of different headers says nothing");
        assert_eq!(of(200, &FIELDS, r#"{"a":1,"ts":1800000000.5,"b":2}"#), same);
        assert_eq!(of(200, &FIELDS, r#"{"a":1,"ts":"soon","b":2}"#), same);
    }

    #[test]
    fn what_lasts_makes_a_difference() {
        let mut seen = vec![of(200, &FIELDS, BODY)];
        seen.push(of(201, &FIELDS, BODY));
        seen.push(of(200, &FIELDS[..2], BODY));
        seen.push(of(200, &[FIELDS[0], FIELDS[2], FIELDS[1]], BODY));
        seen.push(of(200, &[FIELDS[0], FIELDS[1], FIELDS[2], ("cache-status", "other; hit")], BODY));
        seen.push(of(200, &[FIELDS[0], FIELDS[1], FIELDS[2], ("etag", "\"1\"")], BODY));
        seen.push(of(200, &FIELDS, r#"{"a":1,"ts":1700000000,"b":3}"#));
        seen.push(of(200, &FIELDS, r#"{"a":2,"ts":1700000000,"b":2}"#));
        seen.push(of(200, &FIELDS, r#"{"a":1,"ts":null,"b":2}"#));
        seen.push(of(200, &FIELDS, r#"{"a":1,"b":2}"#));
        seen.push(of(200, &FIELDS, r#"{"a":1,"ts":1700000000,"ts":1700000000,"b":2}"#));
        seen.push(of(200, &FIELDS, ""));
        for (index, digest) in seen.iter().enumerate() {
            assert!(!seen[..index].contains(digest), "{index}");
        }
    }

    #[test]
    fn without_a_body_the_length_says_how_long_it_would_be() {
        let length = |length| of(200, &[("content-length", length)], "");
        assert_ne!(length("5"), length("6"));
    }

    #[test]
    fn errors_and_refusals_say_nothing() {
        for status in 100..600 {
            let silent = [401, 403, 408, 429].contains(&status) || status >= 500;
            assert_eq!(says_something(StatusCode::from_u16(status).expect("a status")), !silent, "{status}");
        }
    }
}
