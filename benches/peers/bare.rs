//! The least that a proxy on hyper can be: pooled connections, small replies handed over whole, nothing else.

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, client::conn::http1::SendRequest, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

use crate::Outcome;

/// Before the two addresses, it makes this program the bare proxy.
pub const FLAG: &str = "--bare-proxy";

type Pool = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

/// Serves on the first address, forwards to the second, until killed.
pub async fn run(addresses: &[String]) -> Outcome<()> {
    let [own, app, ..] = addresses else { return Err("two addresses are needed".into()) };
    let (own, app): (SocketAddr, SocketAddr) = (own.parse()?, app.parse()?);
    let listener = TcpListener::bind(own).await?;
    let pool = Pool::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        let service = service_fn(move |request| forward(request, app, pool.clone()));
        spawn_local(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn forward(request: Request<Incoming>, app: SocketAddr, pool: Pool) -> Outcome<Response<Full<Bytes>>> {
    let mut pooled = pool.borrow_mut().pop();
    if let Some(sender) = &mut pooled
        && sender.ready().await.is_err()
    {
        pooled = None;
    }
    let mut sender = match pooled {
        Some(sender) => sender,
        None => connect(app).await?,
    };
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    pool.borrow_mut().push(sender);
    Ok(Response::from_parts(head, Full::new(body)))
}

async fn connect(app: SocketAddr) -> Outcome<SendRequest<Incoming>> {
    let stream = TcpStream::connect(app).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    Ok(sender)
}
