//! The strict reading of a request's head: what two parsers could read differently is refused before anything is forwarded.

use std::fmt;

use http::{HeaderMap, Method, StatusCode, Uri, Version, header, request::Parts, uri::Authority};

/// The name under which this proxy stands in `Via` (RFC 9110 section 7.6.3), before a dash and the process's own token.
pub const PSEUDONYM: &str = "tidegate";

/// The most tidegates in one chain; more are a loop through several processes.
const CHAIN_MAX: usize = 8;

/// What a head asks for, beyond its method, target and headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The client waits for `100 Continue` before it sends its body.
    pub expects: bool,
    /// It asks for another protocol (RFC 9110 section 7.8), other than h2c.
    pub upgrade: bool,
    /// The length that was declared; `None` for chunks or no body.
    pub length: Option<u64>,
    /// Whether a body follows.
    pub body: bool,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No `Host`, or several, or one that is no authority.
    Host,
    /// An absolute target whose authority is not the `Host`.
    Authority,
    /// A target that is neither a path nor `*` with OPTIONS.
    Target,
    /// CONNECT: tidegate is no forward proxy.
    Connect,
    /// A body on TRACE (RFC 9110 section 9.3.8).
    Trace,
    /// A transfer coding other than exactly `chunked`.
    TransferCoding,
    /// `Transfer-Encoding` more than once, or beside `Content-Length` (RFC 9112 section 6.1).
    Framing,
    /// `Expect` other than `100-continue`.
    Expect,
    /// The declared length is above `body_bytes_max`.
    TooLarge,
    /// It came through this process before.
    Loop,
}

impl Malformed {
    /// The status that answers it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Host | Self::Authority | Self::Target | Self::Framing | Self::Trace => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Expect => StatusCode::EXPECTATION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Loop => StatusCode::LOOP_DETECTED,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Host => "send exactly one Host header with a valid authority",
            Self::Authority => "the target's authority and the Host header must be the same",
            Self::Target => "the request target must be a path, or * with OPTIONS",
            Self::Connect => "CONNECT is not supported: this is no forward proxy",
            Self::Trace => "a TRACE request must have no body",
            Self::TransferCoding => "the only supported transfer coding is chunked",
            Self::Framing => "send either one Content-Length or one Transfer-Encoding",
            Self::Expect => "the only supported expectation is 100-continue",
            Self::TooLarge => "the request body is larger than this service takes",
            Self::Loop => "the request has passed through this proxy before: check the app's address for a loop",
        })
    }
}

/// Checks a head. `ambiguous`: it framed its body in two ways, as the guard below hyper saw. `token` is this process's own in `Via`;
/// `body_bytes_max` bounds the declared length.
///
/// # Errors
/// What is wrong; nothing of the request may be forwarded then.
pub fn check(head: &Parts, has_body: bool, ambiguous: bool, token: &str, body_bytes_max: u64) -> Result<Checked, Malformed> {
    if ambiguous {
        return Err(Malformed::Framing);
    }
    let host = host(&head.headers, head.version)?;
    target(&head.method, &head.uri, host)?;
    let chunked = transfer_coding(&head.headers)?;
    let length = if chunked { None } else { declared_length(&head.headers)? };
    if length.is_some_and(|length| length > body_bytes_max) {
        return Err(Malformed::TooLarge);
    }
    if head.method == Method::TRACE && (has_body || chunked) {
        return Err(Malformed::Trace);
    }
    let expects = expectation(head)?;
    if loops(&head.headers, token) {
        return Err(Malformed::Loop);
    }
    let upgrade = head.version == Version::HTTP_11 && asks_upgrade(&head.headers);
    Ok(Checked { expects, upgrade, length, body: has_body || chunked })
}

fn host(headers: &HeaderMap, version: Version) -> Result<Option<&str>, Malformed> {
    let mut values = headers.get_all(header::HOST).iter();
    let Some(value) = values.next() else {
        return if version == Version::HTTP_11 { Err(Malformed::Host) } else { Ok(None) };
    };
    if values.next().is_some() {
        return Err(Malformed::Host);
    }
    let text = value.to_str().map_err(|_| Malformed::Host)?;
    let authority: Authority = text.parse().map_err(|_| Malformed::Host)?;
    if text.contains('@') || text.ends_with(':') || authority.host().is_empty() {
        return Err(Malformed::Host);
    }
    Ok(Some(text))
}

fn target(method: &Method, uri: &Uri, host: Option<&str>) -> Result<(), Malformed> {
    if method == Method::CONNECT {
        return Err(Malformed::Connect);
    }
    match (uri.scheme_str(), uri.authority()) {
        (None, None) => {
            let path = uri.path();
            if path.starts_with('/') || (path == "*" && method == Method::OPTIONS) { Ok(()) } else { Err(Malformed::Target) }
        }
        (Some("http" | "https"), Some(authority)) => {
            let same = host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_str()));
            if same { Ok(()) } else { Err(Malformed::Authority) }
        }
        _ => Err(Malformed::Target),
    }
}

fn transfer_coding(headers: &HeaderMap) -> Result<bool, Malformed> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(false) };
    if values.next().is_some() || headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Malformed::Framing);
    }
    if value.as_bytes().eq_ignore_ascii_case(b"chunked") { Ok(true) } else { Err(Malformed::TransferCoding) }
}

fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().map_err(|_| Malformed::Framing)?;
    if values.next().is_some() || text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed::Framing);
    }
    text.parse().map(Some).map_err(|_| Malformed::TooLarge)
}

fn expectation(head: &Parts) -> Result<bool, Malformed> {
    let mut values = head.headers.get_all(header::EXPECT).iter();
    let Some(value) = values.next() else { return Ok(false) };
    if values.next().is_some() || !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        return Err(Malformed::Expect);
    }
    // An HTTP/1.0 client does not know it (RFC 9110 section 10.1.1).
    Ok(head.version == Version::HTTP_11)
}

/// Whether `Connection` names `token` (RFC 9110 section 7.6.1).
#[must_use]
pub fn connection_names(headers: &HeaderMap, token: &str) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case(token))
}

fn asks_upgrade(headers: &HeaderMap) -> bool {
    if !connection_names(headers, "upgrade") {
        return false;
    }
    let mut protocols = headers.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    protocols.any(|protocol| !protocol.trim().is_empty() && !protocol.trim().eq_ignore_ascii_case("h2c"))
}

fn loops(headers: &HeaderMap, token: &str) -> bool {
    let received = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut chain = 0;
    for entry in received {
        let Some(name) = entry.split_whitespace().nth(1) else { continue };
        if name == token {
            return true;
        }
        chain += usize::from(name.starts_with(PSEUDONYM));
    }
    chain >= CHAIN_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, target: &str, headers: &[(&'static str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn verdict(method: &str, target: &str, headers: &[(&'static str, &str)]) -> Result<Checked, Malformed> {
        check(&head(method, target, headers), false, false, "tidegate-1a", 1000)
    }

    #[test]
    fn exactly_one_valid_host_is_taken() {
        assert!(verdict("GET", "/a", &[("host", "a.example:80")]).is_ok());
        for wrong in [
            vec![],
            vec![("host", "a"), ("host", "a")],
            vec![("host", "a b")],
            vec![("host", "u@a")],
            vec![("host", "")],
            vec![("host", "a:")],
        ] {
            assert_eq!(verdict("GET", "/a", &wrong), Err(Malformed::Host), "{wrong:?}");
        }
    }

    #[test]
    fn an_absolute_target_must_agree_with_its_host() {
        assert!(verdict("GET", "http://a.example/x", &[("host", "A.example")]).is_ok());
        assert_eq!(verdict("GET", "http://b.example/x", &[("host", "a.example")]), Err(Malformed::Authority));
        assert_eq!(verdict("OPTIONS", "*", &[("host", "a")]).map(|checked| checked.body), Ok(false));
        assert_eq!(verdict("GET", "*", &[("host", "a")]), Err(Malformed::Target));
        assert_eq!(verdict("CONNECT", "a:80", &[("host", "a:80")]), Err(Malformed::Connect));
    }

    #[test]
    fn there_is_one_way_to_frame_a_body() {
        assert!(verdict("POST", "/", &[("host", "a"), ("transfer-encoding", "Chunked")]).expect("chunked").body);
        for wrong in ["gzip, chunked", "chunked, chunked", ",chunked", "identity"] {
            assert_eq!(verdict("POST", "/", &[("host", "a"), ("transfer-encoding", wrong)]), Err(Malformed::TransferCoding));
        }
        let both = [("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "3")];
        assert_eq!(verdict("POST", "/", &both), Err(Malformed::Framing));
        let twice = [("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(verdict("POST", "/", &twice), Err(Malformed::Framing));
        assert_eq!(verdict("POST", "/", &[("host", "a"), ("content-length", "1001")]), Err(Malformed::TooLarge));
        assert_eq!(verdict("POST", "/", &[("host", "a"), ("content-length", "+3")]), Err(Malformed::Framing));
    }

    #[test]
    fn the_only_expectation_is_100_continue() {
        assert!(verdict("POST", "/", &[("host", "a"), ("expect", "100-Continue")]).expect("known").expects);
        assert_eq!(verdict("POST", "/", &[("host", "a"), ("expect", "cookies")]), Err(Malformed::Expect));
    }

    #[test]
    fn a_loop_is_found() {
        assert_eq!(verdict("GET", "/", &[("host", "a"), ("via", "1.1 x, 1.1 tidegate-1a")]), Err(Malformed::Loop));
        assert!(verdict("GET", "/", &[("host", "a"), ("via", "1.1 tidegate-2b")]).is_ok());
        let chain = ["1.1 tidegate-2b"; 8].join(", ");
        assert_eq!(verdict("GET", "/", &[("host", "a"), ("via", &chain)]), Err(Malformed::Loop));
    }

    #[test]
    fn h2c_is_no_upgrade() {
        let ask =
            |protocol: &str| verdict("GET", "/", &[("host", "a"), ("connection", "Upgrade"), ("upgrade", protocol)]).expect("fine").upgrade;
        assert!(ask("websocket"));
        assert!(!ask("h2c"));
        assert!(!verdict("GET", "/", &[("host", "a"), ("upgrade", "websocket")]).expect("fine").upgrade);
    }
}
