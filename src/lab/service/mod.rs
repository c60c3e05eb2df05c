//! A small sync service as of 2017: JSON over HTTP/1.1, `SQLite` behind a pool of connections, no protection of its own. It works
//! on when a client has gone, as app servers do.

mod answers;
pub mod pool;
pub mod store;

use std::{
    collections::HashSet,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::pool::{Failure, Pool, PoolView};
use super::{
    folder::Folder,
    scenario::{Faults, Scenario, TableState},
};

/// The most bytes of a request body.
const BODY_MAX: usize = 1 << 20;
/// The most request ids that are remembered to find those that arrive twice.
const REQUESTS_MAX: usize = 1 << 20;

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    is_open: watch::Sender<bool>,
    /// Bound and not listening: while the service is stopped nobody else gets its port.
    _port: TcpSocket,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What all requests share.
#[derive(Debug)]
struct Shared {
    scenario: Arc<Scenario>,
    pool: Arc<Pool>,
    faults: Mutex<Faults>,
    arrived: Mutex<Arrived>,
    /// Past the pool, to count at the end.
    reader: Arc<Mutex<Connection>>,
    /// Held for its `Drop`; declared last, so that all connections are closed first.
    _folder: Folder,
}

/// Which requests came, by the ids that clients gave them.
#[derive(Debug, Default)]
struct Arrived {
    ids: HashSet<Box<str>>,
    twice: u64,
}

/// What changes of clients have come to, read from the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How often each change stands in the database, by its id.
    pub applied: std::collections::HashMap<String, u32>,
    /// Requests that arrived more than once, though their client sent them once.
    pub arrived_twice: u64,
}

/// Why a service does not start.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the service does not start: {}", self.0)
    }
}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rusqlite::Error> for StartError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl Service {
    /// Makes a database with these documents and listens on a port of its own on loopback.
    ///
    /// # Errors
    /// What the file system, the database or the network says.
    pub async fn start(scenario: &Arc<Scenario>, documents: Vec<store::Seed>) -> Result<Self, StartError> {
        let folder = Folder::new()?;
        let path = folder.path().join("service.db");
        let connections = scenario.service.connections;
        let (reader, pool) = tokio::task::spawn_blocking(move || {
            let mut connection = Connection::open(&path)?;
            store::prepare(&connection)?;
            store::fill(&mut connection, &documents)?;
            Ok::<_, StartError>((connection, Pool::open(&path, connections)?))
        })
        .await
        .map_err(|error| StartError(error.to_string()))??;
        let shared = Arc::new(Shared {
            scenario: Arc::clone(scenario),
            pool: Arc::new(pool),
            faults: Mutex::default(),
            arrived: Mutex::default(),
            reader: Arc::new(Mutex::new(reader)),
            _folder: folder,
        });
        let port = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = port.local_addr()?;
        let (is_open, open) = watch::channel(true);
        let door = Door { listener: Some(listen(address)?), address, is_open: open };
        let service = Self { address, shared, is_open, _port: port, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let accepting = door.accept(Arc::clone(&service.shared), service.stop.clone(), service.tasks.clone());
        service.tasks.spawn(service.stop.clone().run_until_cancelled_owned(accepting));
        Ok(service)
    }

    /// What is wrong from now on, for requests that have not got their connection of the database. A service that is stopped does what it
    /// has begun to its end.
    pub fn set(&self, faults: Faults) {
        *self.shared.faults.lock() = faults;
        self.is_open.send_if_modified(|open| std::mem::replace(open, !faults.stopped) == faults.stopped);
    }

    /// Its pool now.
    #[must_use]
    pub fn pool(&self) -> PoolView {
        self.shared.pool.view()
    }

    /// What has been written so far, by the database itself: read past the pool.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn written(&self) -> Result<Written, StartError> {
        let reader = Arc::clone(&self.shared.reader);
        let applied =
            tokio::task::spawn_blocking(move || store::applied(&reader.lock())).await.map_err(|error| StartError(error.to_string()))??;
        Ok(Written { applied: applied.into_iter().collect(), arrived_twice: self.shared.arrived.lock().twice })
    }

    /// Closes everything; its database is gone afterwards.
    pub async fn stop(self) {
        self.stop.cancel();
        self.shared.pool.close();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    // A crowd that comes at once must not be kept waiting by the kernel.
    bind(address)?.listen(1024)
}

/// Where connections come in; none while the service is stopped.
struct Door {
    listener: Option<TcpListener>,
    address: SocketAddr,
    is_open: watch::Receiver<bool>,
}

impl Door {
    async fn accept(mut self, shared: Arc<Shared>, stop: CancellationToken, tasks: TaskTracker) {
        loop {
            let Some(listener) = &self.listener else {
                until(&mut self.is_open, true).await;
                self.listener = listen(self.address).ok();
                if self.listener.is_none() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                continue;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = until(&mut self.is_open, false) => {
                    self.listener = None;
                    continue;
                }
            };
            match accepted {
                Ok((stream, _)) => {
                    let serving = serve(stream, self.is_open.clone(), Arc::clone(&shared), stop.clone(), tasks.clone());
                    tasks.spawn(stop.clone().run_until_cancelled_owned(serving));
                }
                // Out of descriptors: those in use come free.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// Waits until the service is open, or is not; for ever once it has ended.
async fn until(is_open: &mut watch::Receiver<bool>, open: bool) {
    if is_open.wait_for(|is_open| *is_open == open).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn serve(stream: TcpStream, mut is_open: watch::Receiver<bool>, shared: Arc<Shared>, stop: CancellationToken, tasks: TaskTracker) {
    // Without it answers wait for the acknowledgement of the ones before; the demo measures milliseconds.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| take(request, Arc::clone(&shared), stop.clone(), tasks.clone()));
    let connection = hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // A client that leaves is no error of ours.
    let _ = tokio::select! {
        ended = &mut connection => ended,
        () = until(&mut is_open, false) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

/// The service closes the connection without an answer.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("closed")
    }
}

impl std::error::Error for Closed {}

/// Takes one request and works on it in a task of its own, which goes on when the client has gone.
async fn take(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
) -> Result<Response<Full<Bytes>>, Closed> {
    let (head, body) = request.into_parts();
    if let Some(id) = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()) {
        shared.arrived.lock().note(id);
    }
    let body = Limited::new(body, BODY_MAX).collect().await.map_err(|_| Closed)?.to_bytes();
    let work = async move { answers::answer(&shared, head.uri.path(), &body).await };
    match tasks.spawn(stop.run_until_cancelled_owned(work)).await {
        Ok(Some(Ok(answer))) => Ok(respond(&answer)),
        Ok(Some(Err(Failure::Database(_)))) => Ok(status(StatusCode::INTERNAL_SERVER_ERROR)),
        Ok(Some(Err(Failure::Stopped)) | None) | Err(_) => Err(Closed),
    }
}

impl Arrived {
    fn note(&mut self, id: &str) {
        if self.ids.contains(id) {
            self.twice += 1;
        } else if self.ids.len() < REQUESTS_MAX {
            self.ids.insert(id.into());
        }
    }
}

/// A reply of the service.
#[derive(Debug)]
struct Answer {
    body: serde_json::Value,
    /// How long it held a connection of the database, by the clock, and how often it asked it.
    database: Option<(Duration, u32)>,
}

fn respond(answer: &Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body.to_string())));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some((span, queries)) = answer.database
        && let Ok(value) = HeaderValue::try_from(format!("db;dur={:.1};count={queries}", span.as_secs_f64() * 1000.0))
    {
        headers.insert("server-timing", value);
    }
    response
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

impl Shared {
    /// How long a query that touched so many rows holds its connection, by the clock.
    fn query_time(&self, rows: u32) -> Duration {
        let plan = &self.scenario.service;
        let row = match self.faults.lock().table {
            TableState::Deoptimised if plan.is_large(rows) => between(plan.row_time_deoptimised),
            TableState::Healthy | TableState::Deoptimised => plan.row_time,
            TableState::Repaired => plan.row_time_repaired,
        };
        self.scenario.pace.clock(plan.query_time + row.saturating_mul(rows))
    }

    /// How long the other service takes for an import, by the clock.
    fn import_time(&self, faults: Faults) -> Duration {
        let plan = &self.scenario.service;
        self.scenario.pace.clock(if faults.imports_hang { plan.import_hang } else { between(plan.import_time) })
    }
}

fn between((least, most): (Duration, Duration)) -> Duration {
    least + most.saturating_sub(least).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lab::crowd::wire::{Ending, Wire};

    const PATIENCE: Duration = Duration::from_secs(5);

    async fn service(change: impl FnOnce(&mut Scenario)) -> Service {
        let mut scenario = Scenario::shipped().expect("shipped");
        change(&mut scenario);
        let seed = |file_id: &str, rows| store::Seed { file_id: file_id.to_owned(), rows };
        let documents = vec![seed("small", 10), seed("large", scenario.service.rows_large)];
        Service::start(&Arc::new(scenario), documents).await.expect("it starts")
    }

    fn typed(id: &str) -> Bytes {
        json!({ "token": "t", "file_id": "small", "version": 1, "changes": [{ "id": id, "content": "x" }] }).to_string().into()
    }

    #[tokio::test]
    async fn every_endpoint_answers_as_its_clients_expect() {
        let service = service(|_| ()).await;
        let mut wire = Wire::to(service.address);
        let poll = json!({ "token": "t", "file_id": "small", "version": 1, "changes": [] });
        for (path, body, version) in [
            ("/sync", poll.clone(), 1),
            ("/sync", json!({ "token": "t", "file_id": "small", "version": 1, "changes": [{ "id": "a" }] }), 2),
            ("/api/v1/doc/edit", json!({ "token": "t", "file_id": "small", "version": 2, "changes": [{ "id": "b" }] }), 3),
            ("/api/v1/doc/read", json!({ "token": "t", "file_id": "small" }), 3),
            ("/import", json!({ "token": "t", "file_id": "new", "changes": [{ "id": "c" }] }), 1),
        ] {
            let ending = wire.post(path, path, body.to_string().into(), PATIENCE).await;
            assert!(matches!(&ending, Ending::Done(said) if said.version == version), "{path}: {ending:?}");
        }
        let watched = json!({ "token": "t", "file_ids": ["small", "new", "none"] }).to_string().into();
        let ending = wire.post("/api/v1/doc/check_for_updates", "w", watched, PATIENCE).await;
        assert!(matches!(&ending, Ending::Done(said) if said.versions.len() == 2 && said.versions["small"] == 3), "{ending:?}");
        for (path, body) in [("/sync", json!({ "file_id": "small" })), ("/sync", json!({ "token": "t" })), ("/none", poll)] {
            let ending = wire.post(path, "wrong", body.to_string().into(), PATIENCE).await;
            assert!(matches!(ending, Ending::Failed), "{path}: {ending:?}");
        }
        let written = service.written().await.expect("read");
        assert_eq!(written.applied.len(), 3);
        assert_eq!(written.arrived_twice, 3, "`/sync` was sent twice under one id, and `wrong` three times");
        service.stop().await;
    }

    #[tokio::test]
    async fn it_works_on_when_its_client_has_gone() {
        let service = service(|scenario| scenario.service.query_time = Duration::from_secs(3)).await;
        let mut wire = Wire::to(service.address);
        let ending = wire.post("/sync", "1", typed("kept"), Duration::from_millis(100)).await;
        assert!(matches!(ending, Ending::TimedOut), "{ending:?}");
        assert_eq!(service.pool().busy, 1, "it holds its connection though nobody waits for it");
        assert_eq!(service.written().await.expect("read").applied["kept"], 1);
        service.stop().await;
    }

    #[tokio::test]
    async fn a_sync_of_a_large_document_is_slow_while_the_table_is_de_optimised_though_nothing_has_changed() {
        let service = service(|scenario| scenario.pace = super::super::pace::Pace(100.0)).await;
        service.set(Faults { table: TableState::Deoptimised, ..Faults::default() });
        let mut wire = Wire::to(service.address);
        let mut took = async |file_id: &str| {
            let begun = std::time::Instant::now();
            let body = json!({ "token": "t", "file_id": file_id, "version": 1, "changes": [] }).to_string().into();
            assert!(matches!(wire.post("/sync", file_id, body, PATIENCE).await, Ending::Done(_)));
            begun.elapsed()
        };
        let (small, large) = (took("small").await, took("large").await);
        assert!(large >= Duration::from_millis(100) && small < large, "{small:?} {large:?}");
        assert!(service.pool().spent[super::super::kind::Kind::Large.index()] >= Duration::from_millis(100));
        service.stop().await;
    }

    #[tokio::test]
    async fn a_stopped_service_takes_no_connections_until_it_runs_again_and_closes_those_that_it_has() {
        let service = service(|_| ()).await;
        let mut old = Wire::to(service.address);
        assert!(matches!(old.post("/sync", "1", typed("a"), PATIENCE).await, Ending::Done(_)));
        service.set(Faults { stopped: true, ..Faults::default() });
        // The connection that is idle is closed, and the port is left, a moment later.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut new = Wire::to(service.address);
        assert!(matches!(old.post("/sync", "2", typed("b"), PATIENCE).await, Ending::Lost));
        assert!(matches!(new.post("/sync", "3", typed("c"), PATIENCE).await, Ending::Lost));
        let written = service.written().await.expect("read");
        assert_eq!(written.applied.into_keys().collect::<Vec<_>>(), ["a"]);
        service.set(Faults::default());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(matches!(new.post("/sync", "4", typed("c"), PATIENCE).await, Ending::Done(_)));
        service.stop().await;
    }

    #[tokio::test]
    async fn a_service_that_is_being_stopped_does_what_it_has_begun_to_its_end() {
        let service = service(|scenario| scenario.service.query_time = Duration::from_secs(3)).await;
        let mut wire = Wire::to(service.address);
        let (ending, ()) = tokio::join!(wire.post("/sync", "1", typed("kept"), PATIENCE), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            service.set(Faults { stopped: true, ..Faults::default() });
        });
        assert!(matches!(ending, Ending::Done(_)), "{ending:?}");
        service.stop().await;
    }
}
