//! What operators ask for in the bodies and queries of the admin listener: strict, bounded, and told how to write it.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde::Deserialize;

/// The most bytes of a body: the scopes of a large repair.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How a scope is written.
pub const SCOPE_FORM: &str = "write \"doc:x\" or another kind, \"tree:/a/path\", or \"*\" for everything";

/// Reads a body whole.
///
/// # Errors
/// A status and a sentence.
pub async fn read<B: Body>(body: B) -> Result<Bytes, (StatusCode, String)> {
    let reading = Limited::new(body.map_err(|_| "cut short"), BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("Send at most {BODY_BYTES_MAX} bytes, in several requests if need be.\n")))
        }
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "The body was cut short.\n".to_owned())),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "The body did not come in time.\n".to_owned())),
    }
}

/// The scope that `/state?document=` asks for; none if it asks for everything.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn document(query: Option<&str>) -> Result<Option<String>, &'static str> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    let written = query.strip_prefix("document=").filter(|scope| !scope.is_empty() && !scope.contains('&'));
    let written = written.ok_or("Write /state?document=doc:x, with whatever is no letter or digit as %XX.\n")?;
    let scope = percent_encoding::percent_decode_str(written).decode_utf8();
    scope.map(Cow::into_owned).map(Some).map_err(|_| "The document must be UTF-8, with whatever is no letter or digit as %XX.\n")
}

/// The scopes of `POST /invalidate`.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalidate(pub Vec<String>);

impl Invalidate {
    /// Reads `{"scopes": [...]}` or `{"all": true}`.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        const FORM: &str = "write {\"scopes\": [\"doc:x\", \"tree:/a\"]} or {\"all\": true}";
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            scopes: Option<Vec<String>>,
            all: Option<bool>,
        }
        let written: Written = serde_json::from_slice(body).map_err(|error| format!("The body cannot be read ({error}): {FORM}"))?;
        match written {
            Written { scopes: None, all: Some(true) } => Ok(Self(vec!["*".to_owned()])),
            Written { scopes: Some(scopes), all: None } if !scopes.is_empty() => Ok(Self(scopes)),
            _ => Err(format!("The body says nothing to invalidate, or two things at once: {FORM}")),
        }
    }
}

/// The routes of `POST /audit/reset`; none: all.
#[derive(Debug, PartialEq, Eq)]
pub struct ResetAudit(pub Option<Vec<String>>);

impl ResetAudit {
    /// Reads nothing, or `{"routes": [...]}`.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            routes: Option<Vec<String>>,
        }
        if body.trim_ascii().is_empty() {
            return Ok(Self(None));
        }
        let written: Result<Written, _> = serde_json::from_slice(body);
        let form = |error| format!("The body cannot be read ({error}): write {{\"routes\": [\"read\"]}}, or nothing for all routes");
        written.map(|written| Self(written.routes)).map_err(form)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use http_body_util::Full;
    use hyper::body::Frame;

    use super::*;

    #[test]
    fn a_document_is_asked_for_by_its_scope() {
        assert_eq!(document(None), Ok(None));
        assert_eq!(document(Some("")), Ok(None));
        assert_eq!(document(Some("document=doc:x")), Ok(Some("doc:x".to_owned())));
        assert_eq!(document(Some("document=tree%3A%2Fa%20b%2B")), Ok(Some("tree:/a b+".to_owned())));
        for wrong in ["document=", "doc=x", "document=a&document=b", "document=%FF", "x"] {
            assert!(document(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_to_be_invalidated_is_said_in_one_of_two_ways() {
        assert_eq!(Invalidate::parse(br#"{"scopes": ["doc:x", "tree:/a"]}"#), Ok(Invalidate(vec!["doc:x".into(), "tree:/a".into()])));
        assert_eq!(Invalidate::parse(br#" {"all":true} "#), Ok(Invalidate(vec!["*".into()])));
        for wrong in [
            &b""[..],
            b"{}",
            b"[]",
            br#"{"all":false}"#,
            br#"{"all":true,"scopes":["a"]}"#,
            br#"{"scopes":[]}"#,
            br#"{"scopes":"doc:x"}"#,
            br#"{"scopes":[1]}"#,
            br#"{"scopes":["a"],"scopes":["b"]}"#,
            br#"{"scope":["a"]}"#,
            br#"{"all":true} {"all":true}"#,
            b"\xff",
        ] {
            let said = Invalidate::parse(wrong).expect_err("refused");
            assert!(said.contains("{\"all\": true}"), "{said}");
        }
    }

    #[test]
    fn routes_are_reset_by_name_or_all_at_once() {
        assert_eq!(ResetAudit::parse(b" \n"), Ok(ResetAudit(None)));
        assert_eq!(ResetAudit::parse(b"{}"), Ok(ResetAudit(None)));
        assert_eq!(ResetAudit::parse(br#"{"routes":["read"]}"#), Ok(ResetAudit(Some(vec!["read".into()]))));
        assert!(ResetAudit::parse(br#"{"route":["read"]}"#).is_err_and(|said| said.contains("nothing for all")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_bounded_in_bytes_and_time() {
        assert_eq!(read(Full::new(Bytes::from_static(b"{}"))).await, Ok(Bytes::from_static(b"{}")));
        let long = read(Full::new(Bytes::from(vec![b' '; BODY_BYTES_MAX + 1]))).await;
        assert_eq!(long.map_err(|(status, _)| status), Err(StatusCode::PAYLOAD_TOO_LARGE));
        assert_eq!(read(Silence).await.map_err(|(status, _)| status), Err(StatusCode::REQUEST_TIMEOUT));
    }

    /// A body that never comes.
    struct Silence;

    impl Body for Silence {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }
}
