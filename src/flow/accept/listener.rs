//! Accepting connections and serving HTTP/1.1 on each, until a drain ends them.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderValue;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::TaskTracker;
use tower::Layer;

use super::{
    drain::{Drain, Stage},
    guard::GuardLayer,
    line::{Line, LineState},
};
use crate::{
    config::settings::Listen,
    wire::{Request, Response},
};

/// Connections that the kernel keeps for us while we are busy: a CDN that reconnects must not overflow it.
const BACKLOG: i32 = 4096;

/// How long accepting rests after an error such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// The most headers of one request.
const HEADERS_MAX: usize = 100;

/// A client's connection, as the requests on it see it.
#[derive(Debug)]
pub struct Connection {
    /// Who connected.
    pub peer: SocketAddr,
    /// Its address as it stands in `X-Forwarded-For`.
    pub peer_text: HeaderValue,
    /// What its socket and its requests tell each other.
    pub line: Arc<LineState>,
}

/// Binds a listening socket.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What the listener needs of the house.
#[derive(Debug)]
pub struct Front {
    /// Its limits, as they stand now.
    pub listen: Arc<ArcSwap<Listen>>,
    /// How far a drain has come.
    pub drain: Drain,
    /// Every connection's task.
    pub tasks: TaskTracker,
    /// A place per connection.
    pub places: Arc<Semaphore>,
}

impl Front {
    /// Accepts and serves until the drain is [`Stage::Closed`].
    pub async fn run<S, F>(&self, listener: TcpListener, serve: S)
    where
        S: Fn(Request, Arc<Connection>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let closed = self.drain.reached(Stage::Closed);
        tokio::pin!(closed);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closed => return,
                accepted = self.accept(&listener) => accepted,
            };
            match accepted {
                Ok((socket, peer, place)) => self.spawn(socket, peer, place, serve.clone()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (socket, peer) = listener.accept().await?;
        Ok((socket, peer, place))
    }

    fn spawn<S, F>(&self, socket: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit, serve: S)
    where
        S: Fn(Request, Arc<Connection>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        // Without it answers would only be slower.
        let _ = socket.set_nodelay(true);
        let listen = self.listen.load();
        let line = Arc::new(LineState::default());
        let io = TokioIo::new(Line::new(socket, Arc::clone(&line), listen.head_timeout, listen.body_timeout));
        let peer_text = HeaderValue::try_from(peer.ip().to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let connection = Arc::new(Connection { peer, peer_text, line });
        let service = tower::service_fn(move |request: Request| {
            connection.line.begin();
            let response = serve(request, Arc::clone(&connection));
            async move { Ok::<_, Infallible>(response.await) }
        });
        let service = TowerToHyperService::new(GuardLayer.layer(service));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(listen.keep_alive)
            .max_headers(HEADERS_MAX)
            .max_buf_size(listen.head_bytes_max.max(8192))
            .serve_connection(io, service)
            .with_upgrades();
        let drain = self.drain.clone();
        self.tasks.spawn(async move {
            tokio::pin!(served);
            tokio::select! {
                result = served.as_mut() => return note(result, peer, place),
                () = drain.reached(Stage::Closed) => served.as_mut().graceful_shutdown(),
            }
            tokio::select! {
                result = served.as_mut() => note(result, peer, place),
                () = drain.reached(Stage::Cut) => drop(place),
            }
        });
    }
}

fn note(result: hyper::Result<()>, peer: SocketAddr, place: OwnedSemaphorePermit) {
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
    drop(place);
}
