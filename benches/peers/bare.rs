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

use crate::{Outcome, load};

/// Before one or two addresses, it makes this program the bare proxy.
pub const FLAG: &str = "--bare-proxy";

type Pool = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

/// Serves on the first address, forwards to the second, if there is one, until killed.
pub async fn run(addresses: &[String]) -> Outcome<()> {
    let [own, app @ ..] = addresses else { return Err("an address is needed".into()) };
    let own: SocketAddr = own.parse()?;
    let app: Option<SocketAddr> = app.first().map(|app| app.parse()).transpose()?;
    let listener = TcpListener::bind(own).await?;
    let pool = Pool::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        let service = service_fn(move |request| {
            let pool = pool.clone();
            async move {
                match app {
                    Some(app) => forward(request, app, pool).await,
                    None => answer(request).await,
                }
            }
        });
        spawn_local(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(request: Request<Incoming>) -> Outcome<Response<Full<Bytes>>> {
    request.into_body().collect().await?;
    let response = Response::builder().header("server", "app").header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from_static(load::BODY.as_bytes())))?)
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
