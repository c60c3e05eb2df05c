//! One keep-alive connection that asks and waits, opened again when it was lost: the clients' end, and that of the service's front and of
//! the caches.

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, header, request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};

/// A connection to one address.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    open: Option<Open>,
}

/// Closed when it is dropped.
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

/// A POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub path: String,
    /// `x-request-id`
    pub id: String,
    /// `authorization`
    pub authorization: String,
    pub body: Bytes,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// `Cache-Status`, if there was one.
    pub cache: Option<String>,
    pub body: Bytes,
}

impl Letter {
    /// A request as one to pass on.
    pub fn of(head: &request::Parts, body: Bytes) -> Self {
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        Self { path: head.uri.path().to_owned(), id: text("x-request-id"), authorization: text("authorization"), body }
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an answer that came whole.
    Whole(Reply),
    /// With an answer that broke off.
    Cut(Reply),
    /// Without an answer.
    Lost,
    /// Without a byte sent: there was no connection.
    Unsent,
}

impl Line {
    /// Connects when it first needs to.
    pub fn to(address: SocketAddr) -> Self {
        Self { address, open: None }
    }

    /// Whether it still has the connection that it had.
    pub fn is_open(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.sender.is_closed())
    }

    /// Sends a letter and waits for the whole answer. Whoever drops this closes the connection.
    pub async fn post(&mut self, letter: &Letter) -> Ending {
        let open = self.open.take().filter(|open| !open.sender.is_closed());
        let mut open = match open {
            Some(open) => open,
            None => match self.connect().await {
                Ok(open) => open,
                Err(()) => return Ending::Unsent,
            },
        };
        if open.sender.ready().await.is_err() {
            return Ending::Unsent;
        }
        let request = Request::post(&letter.path)
            .header(header::HOST, "service.test")
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-request-id", &letter.id)
            .header(header::AUTHORIZATION, &letter.authorization)
            .body(Full::new(letter.body.clone()))
            .expect("a path and an id that are valid");
        let Ok(response) = open.sender.send_request(request).await else { return Ending::Lost };
        let (head, mut body) = response.into_parts();
        let cache = head.headers.get("cache-status").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut read = BytesMut::new();
        let mut whole = true;
        while let Some(frame) = body.frame().await {
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => read.extend_from_slice(&data),
                Ok(Err(_)) => {}
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        let reply = Reply { status: head.status.as_u16(), cache, body: read.freeze() };
        if whole {
            self.open = Some(open);
            Ending::Whole(reply)
        } else {
            Ending::Cut(reply)
        }
    }

    /// The same, for as long as `patience` lasts; then it is lost.
    pub async fn post_within(&mut self, letter: &Letter, patience: Duration) -> Ending {
        tokio::time::timeout(patience, self.post(letter)).await.unwrap_or(Ending::Lost)
    }

    async fn connect(&self) -> Result<Open, ()> {
        let stream = TcpStream::connect(self.address).await.map_err(|_| ())?;
        stream.set_nodelay(true).map_err(|_| ())?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| ())?;
        let driver = tokio::spawn(async move {
            // How it ended is seen by the call.
            let _ = connection.await;
        });
        Ok(Open { sender, driver })
    }
}
