//! The header rules of a proxy: what is removed, what is set, in both directions. Header maps are changed in place, never copied.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

/// Fields that belong to one connection (RFC 9110 section 7.6.1), and those that ask this hop for something.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Fields that `Connection` may name without effect: they frame or address the message, and we set them ourselves.
const NEVER_BY_NAME: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::TRAILER];

/// Fields that ask something of this hop alone.
const ASKED_OF_US: [HeaderName; 2] = [header::EXPECT, HeaderName::from_static("http2-settings")];

/// Fields, beside all of `X-Forwarded-*`, by which a client that is no trusted proxy could pretend to be somebody else.
const SPOOFABLE: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("cf-connecting-ip"),
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What the request's headers are set from.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// Who is connected to us.
    pub peer: IpAddr,
    /// The same as it stands in `X-Forwarded-For`.
    pub peer_text: &'a HeaderValue,
    /// Whether its `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted: bool,
    /// This process's name in `Via`.
    pub via: &'a HeaderValue,
    /// Whether an upgrade is asked for, so that `Upgrade` passes through.
    pub upgrade: bool,
}

/// Makes a request's headers those of the next hop. `Host` stays as it was received; `Content-Length` is the caller's business. Names with
/// `_` are dropped, as CGI-style apps confuse them with those with `-`.
pub fn outgoing(headers: &mut HeaderMap, hop: &Hop<'_>) {
    let upgrade = if hop.upgrade { protocols(headers) } else { None };
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove(headers, |name| {
        let text = name.as_str();
        ASKED_OF_US.contains(name) || text.contains('_') || (!hop.trusted && (SPOOFABLE.contains(name) || text.starts_with("x-forwarded-")))
    });
    forwarded(headers, hop);
    headers.append(header::VIA, hop.via.clone());
    if let Some(protocol) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// The protocols that an upgrade asks for, but HTTP/2 in clear: it would carry requests that nobody reads.
fn protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let all = headers.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let wanted: SmallVec<[&str; 2]> =
        all.map(str::trim).filter(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case("h2c")).collect();
    HeaderValue::try_from(wanted.join(", ")).ok().filter(|_| !wanted.is_empty())
}

/// Makes a response's headers those of the previous hop. A `Content-Length` beside `Transfer-Encoding` is dropped, as the chunks were
/// what was read (RFC 9112 section 6.3).
pub fn incoming(headers: &mut HeaderMap, upgraded: bool) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let protocol = if upgraded { headers.get(header::UPGRADE).cloned() } else { None };
    remove(headers, |_| false);
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// How long the app keeps an idle connection, where it says so: `Keep-Alive: timeout=5`, in seconds.
#[must_use]
pub fn keep_alive_seconds(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    text.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.trim().parse().ok())
}

/// Removes what belongs to one connection, what `Connection` names, our own names, which nobody else may use, and what `also` says: in one
/// pass, as most heads hold nothing of it.
fn remove(headers: &mut HeaderMap, also: impl Fn(&HeaderName) -> bool) {
    let mut gone: SmallVec<[HeaderName; 8]> = headers
        .keys()
        .filter(|name| {
            let text = name.as_str();
            HOP_BY_HOP.contains(name) || text.starts_with("tidegate-") || also(name)
        })
        .cloned()
        .collect();
    if gone.contains(&header::CONNECTION) {
        let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let named = named.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
        gone.extend(named.filter(|name| !NEVER_BY_NAME.contains(name)));
    }
    for name in gone {
        headers.remove(name);
    }
}

fn forwarded(headers: &mut HeaderMap, hop: &Hop<'_>) {
    let chain = {
        let earlier: SmallVec<[&str; 2]> = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
        if earlier.is_empty() {
            Some(hop.peer_text.clone())
        } else {
            let own = hop.peer_text.to_str().unwrap_or_default();
            HeaderValue::try_from(format!("{}, {own}", earlier.join(", "))).ok()
        }
    };
    if let Some(chain) = chain {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    if hop.trusted && headers.contains_key(header::FORWARDED) {
        let peer = hop.peer.to_canonical();
        let node = if peer.is_ipv6() { format!("for=\"[{peer}]\"") } else { format!("for={peer}") };
        if let Ok(value) = HeaderValue::try_from(node) {
            headers.append(header::FORWARDED, value);
        }
    }
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn send(fields: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        let mut headers = map(fields);
        let via = HeaderValue::from_static("1.1 tidegate-1");
        let peer_text = HeaderValue::from_static("192.0.2.7");
        let peer = "192.0.2.7".parse().expect("an address");
        outgoing(&mut headers, &Hop { peer, peer_text: &peer_text, trusted, via: &via, upgrade: false });
        headers
    }

    #[test]
    fn what_belongs_to_one_connection_stays_on_it() {
        let headers = send(
            &[
                ("host", "a"),
                ("connection", "close, X-Mine, host"),
                ("x-mine", "1"),
                ("keep-alive", "timeout=5"),
                ("te", "gzip"),
                ("expect", "100-continue"),
            ],
            false,
        );
        for gone in ["connection", "x-mine", "keep-alive", "te", "expect"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(headers["host"], "a");
        assert_eq!(headers["via"], "1.1 tidegate-1");
    }

    #[test]
    fn nobody_but_a_trusted_proxy_says_who_the_client_is() {
        let fields = [
            ("host", "a"),
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
        ];
        let headers = send(&fields, false);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert!(!headers.contains_key("forwarded") && !headers.contains_key("x-real-ip"));
        let headers = send(&fields, true);
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers.get_all("forwarded").iter().count(), 2);
    }

    #[test]
    fn our_own_names_and_names_with_underscores_are_dropped() {
        let headers = send(&[("host", "a"), ("tidegate-decision", "x"), ("x_forwarded_for", "1")], true);
        assert!(!headers.contains_key("tidegate-decision") && !headers.contains_key("x_forwarded_for"));
        let mut headers = map(&[("tidegate-changed", "doc:a"), ("content-type", "a/b"), ("x_own", "1")]);
        incoming(&mut headers, false);
        assert!(!headers.contains_key("tidegate-changed") && headers.contains_key("content-type") && headers.contains_key("x_own"));
    }

    #[test]
    fn an_upgrade_goes_on_without_http_2_in_clear() {
        let fields = map(&[("upgrade", "h2c, websocket"), ("upgrade", "H2C")]);
        assert_eq!(protocols(&fields).expect("one is left"), "websocket");
        assert_eq!(protocols(&map(&[("upgrade", "h2c")])), None);
    }

    #[test]
    fn a_length_beside_chunks_is_dropped() {
        let mut headers = map(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
        incoming(&mut headers, false);
        assert!(headers.is_empty());
    }

    #[test]
    fn the_apps_own_idle_time_is_heard() {
        assert_eq!(keep_alive_seconds(&map(&[("keep-alive", "max=10, timeout=5")])), Some(5));
        assert_eq!(keep_alive_seconds(&map(&[("keep-alive", "timeout=soon")])), None);
    }
}
