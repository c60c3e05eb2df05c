//! A client's end of the wire: one keep-alive connection, opened again when it was lost, and a time-out after which it is closed.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::IgnoredAny};
use tokio::{net::TcpStream, task::JoinHandle};

/// The most bytes of a reply.
const REPLY_MAX: usize = 4 << 20;

/// A client's connection.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    host: String,
    open: Option<Open>,
}

/// An open connection; closed when it is dropped.
#[derive(Debug)]
struct Open {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// How a request ended.
#[derive(Debug)]
pub enum Ending {
    /// `_code` is `Ok`: done.
    Done(Said),
    /// Not done, come back: HTTP 429 or 503, or `_code` `TooManyRequests`; with what `Retry-After` said.
    Refused(Option<Duration>),
    /// Answered, but not with what was asked for: another status or `_code`.
    Failed,
    /// The connection was refused or lost.
    Lost,
    /// No answer in time.
    TimedOut,
}

/// What a reply says, as far as clients look at it.
#[derive(Debug, Default, Deserialize)]
pub struct Said {
    /// How it went.
    #[serde(rename = "_code", default)]
    pub code: String,
    /// Which document it is of.
    #[serde(default)]
    pub file_id: String,
    /// What is newer than the client's version.
    #[serde(default)]
    pub changes: Vec<IgnoredAny>,
    /// The document's version.
    #[serde(default)]
    pub version: u32,
    /// The versions of several documents.
    #[serde(default)]
    pub versions: HashMap<String, u32>,
    /// Who answered.
    #[serde(skip)]
    pub by: AnsweredBy,
}

/// Who answered, by the header `Cache-Status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnsweredBy {
    /// The service.
    #[default]
    Service,
    /// tidegate, from what it has stored.
    Stored,
    /// The service, once for several who asked the same.
    Shared,
}

impl Wire {
    /// Connects when it first needs to.
    #[must_use]
    pub fn to(address: SocketAddr) -> Self {
        Self { address, host: address.to_string(), open: None }
    }

    /// Sends a request and waits for its reply for `timeout` by the clock.
    pub async fn post(&mut self, path: &str, id: &str, body: Bytes, timeout: Duration) -> Ending {
        // In flight it belongs to the exchange: whoever drops that closes it.
        let open = self.open.take();
        match tokio::time::timeout(timeout, self.exchange(open, path, id, body)).await {
            Ok(Ok((open, ending))) => {
                self.open = Some(open);
                ending
            }
            Ok(Err(())) => Ending::Lost,
            Err(_) => Ending::TimedOut,
        }
    }

    async fn exchange(&self, open: Option<Open>, path: &str, id: &str, body: Bytes) -> Result<(Open, Ending), ()> {
        let mut open = match open {
            Some(open) if !open.sender.is_closed() => open,
            _ => self.connect().await?,
        };
        open.sender.ready().await.map_err(|_| ())?;
        let request = Request::post(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-request-id", id)
            .body(Full::new(body))
            .map_err(|_| ())?;
        let (head, body) = open.sender.send_request(request).await.map_err(|_| ())?.into_parts();
        let body = Limited::new(body, REPLY_MAX).collect().await.map_err(|_| ())?.to_bytes();
        Ok((open, ending(&head, &body)))
    }

    async fn connect(&self) -> Result<Open, ()> {
        let stream = TcpStream::connect(self.address).await.map_err(|_| ())?;
        stream.set_nodelay(true).map_err(|_| ())?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| ())?;
        let driver = tokio::spawn(async move {
            // How it ended is seen by the exchange.
            let _ = connection.await;
        });
        Ok(Open { sender, driver })
    }
}

fn ending(head: &http::response::Parts, body: &[u8]) -> Ending {
    let mut said: Said = serde_json::from_slice(body).unwrap_or_default();
    said.by = answered_by(head);
    let refused = matches!(head.status.as_u16(), 429 | 503) || said.code.eq_ignore_ascii_case("TooManyRequests");
    if refused {
        let seconds = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        return Ending::Refused(seconds.map(Duration::from_secs));
    }
    if head.status.is_success() && said.code.eq_ignore_ascii_case("ok") { Ending::Done(said) } else { Ending::Failed }
}

fn answered_by(head: &http::response::Parts) -> AnsweredBy {
    let status = head.headers.get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is = |parameter: &str| status.split(';').any(|part| part.trim() == parameter);
    if is("hit") {
        AnsweredBy::Stored
    } else if is("collapsed") {
        AnsweredBy::Shared
    } else {
        AnsweredBy::Service
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, retry_after: Option<&str>, body: &str) -> Ending {
        let mut response = http::Response::builder().status(status);
        if let Some(value) = retry_after {
            response = response.header(header::RETRY_AFTER, value);
        }
        ending(&response.body(()).expect("valid").into_parts().0, body.as_bytes())
    }

    #[test]
    fn who_answered_is_told_by_cache_status() {
        for (value, by) in [
            ("tidegate; hit", AnsweredBy::Stored),
            ("tidegate; fwd=miss; collapsed; detail=joined", AnsweredBy::Shared),
            ("tidegate; fwd=uri-miss; stored", AnsweredBy::Service),
        ] {
            let response = http::Response::builder().header("cache-status", value).body(()).expect("valid");
            assert_eq!(answered_by(&response.into_parts().0), by, "{value}");
        }
    }

    #[test]
    fn a_refusal_in_the_shape_of_the_protocol_is_known_as_one() {
        let refused = of(200, Some("3"), r#"{"_code":"TooManyRequests","_msg":"Try again in 3 s."}"#);
        assert!(matches!(refused, Ending::Refused(Some(wait)) if wait == Duration::from_secs(3)), "{refused:?}");
        assert!(matches!(of(503, None, ""), Ending::Refused(None)));
        assert!(matches!(of(200, None, r#"{"_code":"OK","version":3}"#), Ending::Done(Said { version: 3, .. })));
        assert!(matches!(of(200, None, r#"{"_code":"LockFail"}"#), Ending::Failed));
        assert!(matches!(of(502, None, r#"{"_code":"Ok"}"#), Ending::Failed));
    }
}
