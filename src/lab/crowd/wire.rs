//! A client's end of the wire: one keep-alive connection, opened again when it was lost, and a time-out after which it is closed.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
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
    #[serde(rename = "_code", default)]
    code: String,
    /// The document's version.
    #[serde(default)]
    pub version: u32,
    /// The versions of several documents.
    #[serde(default)]
    pub versions: HashMap<String, u32>,
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
    let said: Said = serde_json::from_slice(body).unwrap_or_default();
    let refused = matches!(head.status.as_u16(), 429 | 503) || said.code.eq_ignore_ascii_case("TooManyRequests");
    if refused {
        let seconds = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        return Ending::Refused(seconds.map(Duration::from_secs));
    }
    if head.status.is_success() && said.code.eq_ignore_ascii_case("ok") { Ending::Done(said) } else { Ending::Failed }
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
    fn a_refusal_in_the_shape_of_the_protocol_is_known_as_one() {
        let refused = of(200, Some("3"), r#"{"_code":"TooManyRequests","_msg":"Try again in 3 s."}"#);
        assert!(matches!(refused, Ending::Refused(Some(wait)) if wait == Duration::from_secs(3)), "{refused:?}");
        assert!(matches!(of(503, None, ""), Ending::Refused(None)));
        assert!(matches!(of(200, None, r#"{"_code":"OK","version":3}"#), Ending::Done(Said { version: 3, .. })));
        assert!(matches!(of(200, None, r#"{"_code":"LockFail"}"#), Ending::Failed));
        assert!(matches!(of(502, None, r#"{"_code":"Ok"}"#), Ending::Failed));
    }
}
