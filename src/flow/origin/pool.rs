//! Connections to the app: a stack of idle ones, a cap, an idle time below the app's own, a maximum age, and the app's name resolved again
//! on a timer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};

use super::socket::{Reset, Socket};
use crate::{
    clock::{self, Moment},
    config::settings::App,
    model::FailureKind,
    wire::{Body, upload::Progress},
};

/// The most bytes of a response's head.
const HEAD_BYTES_MAX: usize = 128 * 1024;

/// How many connects must fail in a row before an app without health path counts as down.
const DOWN_AFTER: u32 = 5;

/// The margin by which a connection is given up before the app's own idle time ends.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// A connection while a request uses it.
#[derive(Debug)]
pub struct Lease {
    /// Where requests are sent.
    pub sender: SendRequest<Body>,
    /// Whether a request was sent on it before.
    pub reused: bool,
    /// How the upload on it stands; an answer may come before its end.
    pub progress: Option<Arc<Progress>>,
    driver: AbortHandle,
    reset: Reset,
    address: SocketAddr,
    born: Moment,
    idle_max: Duration,
    place: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// The app said how long it keeps an idle connection, in seconds.
    pub fn hint(&mut self, seconds: u64) {
        let idle = Duration::from_secs(seconds);
        self.idle_max = self.idle_max.min(idle.saturating_sub(IDLE_MARGIN).max(idle / 2));
    }

    /// The call on it is given up: the connection is closed now, by a reset.
    pub fn reset(&self) {
        self.reset.set();
        self.driver.abort();
    }

    /// An open-ended request keeps its connection for long: it leaves the cap to the others.
    pub fn leave_cap(&mut self) {
        self.place = None;
    }
}

/// Counts an open connection.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Idle {
    lease: Lease,
    since: Moment,
}

/// The connections to one app server.
#[derive(Debug)]
pub struct Pool {
    settings: ArcSwap<App>,
    server: String,
    idle: Mutex<Vec<Idle>>,
    returned: Notify,
    open: Arc<AtomicUsize>,
    places: Arc<Semaphore>,
    addresses: ArcSwap<Vec<SocketAddr>>,
    next: AtomicUsize,
    failed_connects: AtomicU32,
}

impl Pool {
    /// An empty pool to one `host:port`.
    #[must_use]
    pub fn new(server: String, settings: App) -> Self {
        Self {
            places: Arc::new(Semaphore::new(settings.connections_max as usize)),
            settings: ArcSwap::from_pointee(settings),
            server,
            idle: Mutex::default(),
            returned: Notify::new(),
            open: Arc::default(),
            addresses: ArcSwap::default(),
            next: AtomicUsize::new(0),
            failed_connects: AtomicU32::new(0),
        }
    }

    /// New time-outs hold for connections from now on. The cap follows: one that shrank takes effect as connections end.
    pub fn reload(&self, settings: App) {
        let (before, after) = (self.settings.load().connections_max, settings.connections_max);
        if after > before {
            self.places.add_permits((after - before) as usize);
        } else if before > after {
            let places = Arc::clone(&self.places);
            tokio::spawn(async move {
                if let Ok(gone) = places.acquire_many_owned(before - after).await {
                    gone.forget();
                }
            });
        }
        self.settings.store(Arc::new(settings));
    }

    /// Whether the last connects failed.
    #[must_use]
    pub fn looks_down(&self) -> bool {
        self.failed_connects.load(Ordering::Relaxed) >= DOWN_AFTER
    }

    /// The app has answered, so it is not down, however many connects have failed.
    pub fn answers(&self) {
        if self.failed_connects.load(Ordering::Relaxed) > 0 {
            self.failed_connects.store(0, Ordering::Relaxed);
        }
    }

    /// How many connections are open, and how many of them idle.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.open.load(Ordering::Relaxed), self.idle.lock().len())
    }

    /// The app, as the settings name it.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The addresses that the app's name has now.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.load().to_vec()
    }

    /// A connection: the one that was used last and still lives, else a new one. With `fresh`, a new one in any case.
    ///
    /// # Errors
    /// Why none could be made.
    pub async fn lease(&self, fresh: bool) -> Result<Lease, FailureKind> {
        if !fresh && let Some(lease) = self.take_idle() {
            return Ok(lease);
        }
        let timeout = self.settings.load().connect_timeout;
        let connected = tokio::time::timeout(timeout, self.connect(fresh)).await;
        match connected {
            Ok(connected) => connected,
            Err(_) if self.places.available_permits() == 0 => Err(FailureKind::ConnectionLimit),
            Err(_) => {
                self.failed_connects.fetch_add(1, Ordering::Relaxed);
                Err(FailureKind::ConnectTimeout)
            }
        }
    }

    fn take_idle(&self) -> Option<Lease> {
        let now = clock::now();
        let settings = self.settings.load();
        let mut idle = self.idle.lock();
        while let Some(Idle { lease, since }) = idle.pop() {
            let usable = now.since(since) < lease.idle_max
                && now.since(lease.born) < settings.age_max
                && !lease.sender.is_closed()
                && self.addresses.load().contains(&lease.address);
            if usable {
                return Some(lease);
            }
        }
        None
    }

    async fn connect(&self, fresh: bool) -> Result<Lease, FailureKind> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => match self.wait_for_place(fresh).await {
                Ok(place) => place,
                Err(lease) => return Ok(lease),
            },
        };
        let addresses = self.resolved().await?;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut failure = FailureKind::DnsError;
        for offset in 0..addresses.len() {
            let address = addresses[first.wrapping_add(offset) % addresses.len()];
            match TcpStream::connect(address).await {
                Ok(socket) => return self.handshake(socket, address, place).await,
                Err(error) => {
                    failure = FailureKind::of_connect(&error);
                    tracing::debug!(%address, %error, "the app could not be reached");
                }
            }
        }
        self.failed_connects.fetch_add(1, Ordering::Relaxed);
        Err(failure)
    }

    /// At the cap: an idle connection makes place for a fresh one, or one that comes back is used as it is.
    async fn wait_for_place(&self, fresh: bool) -> Result<OwnedSemaphorePermit, Lease> {
        loop {
            if fresh {
                self.idle.lock().pop();
            } else if let Some(lease) = self.take_idle() {
                return Err(lease);
            }
            tokio::select! {
                Ok(place) = Arc::clone(&self.places).acquire_owned() => return Ok(place),
                () = self.returned.notified() => {}
            }
        }
    }

    async fn handshake(&self, socket: TcpStream, address: SocketAddr, place: OwnedSemaphorePermit) -> Result<Lease, FailureKind> {
        let reset = Reset::default();
        let socket = TokioIo::new(Socket::new(socket, reset.clone()));
        let handshake = http1::Builder::new().max_header_size(HEAD_BYTES_MAX).max_buf_size(HEAD_BYTES_MAX * 2).handshake(socket);
        let (sender, connection) = handshake.await.map_err(|_| FailureKind::ConnectFailed)?;
        let open = Open::count(&self.open);
        self.failed_connects.store(0, Ordering::Relaxed);
        let driver = tokio::spawn(async move {
            // Counted until the end, however that comes.
            let _open = open;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%address, %error, "a connection to the app ended");
            }
        });
        let idle_max = self.settings.load().idle_timeout;
        Ok(Lease {
            sender,
            reused: false,
            progress: None,
            driver: driver.abort_handle(),
            reset,
            address,
            born: clock::now(),
            idle_max,
            place: Some(place),
        })
    }

    /// A connection whose response was read whole is used again, unless the request is still on its way: then the app does not want the
    /// rest, and the connection is closed.
    pub fn give_back(&self, mut lease: Lease) {
        if lease.progress.take().is_some_and(|progress| progress.ended().is_none()) {
            lease.driver.abort();
            return;
        }
        if lease.sender.is_closed() || lease.place.is_none() {
            return;
        }
        lease.reused = true;
        self.idle.lock().push(Idle { lease, since: clock::now() });
        self.returned.notify_one();
    }

    async fn resolved(&self) -> Result<Arc<Vec<SocketAddr>>, FailureKind> {
        let known = self.addresses.load_full();
        if !known.is_empty() {
            return Ok(known);
        }
        self.resolve().await;
        let known = self.addresses.load_full();
        if known.is_empty() { Err(FailureKind::DnsError) } else { Ok(known) }
    }

    /// Asks for the addresses of the app's name again. Connections to addresses that are gone are used no more; while the name cannot be
    /// resolved, the last known addresses stay.
    pub async fn resolve(&self) {
        match tokio::net::lookup_host(self.server.as_str()).await {
            Ok(found) => {
                let mut addresses: Vec<SocketAddr> = found.collect();
                addresses.sort_unstable();
                addresses.dedup();
                if !addresses.is_empty() && addresses != **self.addresses.load() {
                    self.addresses.store(Arc::new(addresses));
                }
            }
            Err(error) => {
                tracing::warn!(server = %self.server, %error, "the app's name could not be resolved; its last known addresses stay");
            }
        }
    }

    /// Closes connections that have been idle for too long or have become too old.
    pub fn sweep(&self) {
        let now = clock::now();
        let settings = self.settings.load();
        self.idle.lock().retain(|idle| {
            !idle.lease.sender.is_closed() && now.since(idle.since) < idle.lease.idle_max && now.since(idle.lease.born) < settings.age_max
        });
    }

    /// Closes every idle connection.
    pub fn close_idle(&self) {
        self.idle.lock().clear();
    }
}
