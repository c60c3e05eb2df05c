//! From settings to running servers, and to their end.

use std::{
    fmt, io,
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Notify, Semaphore, oneshot},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock,
    flow::{
        Flow, Plan,
        accept::{Connection, Drain, Stage, listener, listener::Front},
        fresh::view::{DocumentView, Invalidated},
        report::{AppView, LogSink, Report, Scrape},
    },
    ops::{
        admin::{self, Console},
        load::{self, Loaded, Origin},
        reload,
        state_file::StateFile,
        verify,
    },
    written,
};

/// How long what was cut may take to end.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// Why tidegate could not start.
#[derive(Debug)]
pub struct StartError {
    what: String,
    source: io::Error,
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A running tidegate. Dropping it does not stop it; [`Running::stop`] does.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    admin: Option<SocketAddr>,
    house: Arc<House>,
    ended: JoinHandle<()>,
}

/// What the parts of a running tidegate share.
#[derive(Debug)]
struct House {
    flow: Arc<Flow>,
    front: Front,
    stop: Notify,
    /// Whether everything that ran had ended by itself at the end of the drain, so that no write can begin any more.
    clean: AtomicBool,
}

impl Running {
    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Drains, as SIGTERM does, and waits for the end.
    pub async fn stop(self) {
        self.house.stop.notify_one();
        // A panic in the drain has been told by the runtime; there is nothing left to wait for.
        let _ = self.ended.await;
    }
}

impl admin::Running for House {
    fn scrape(&self) -> Scrape {
        let (documents, documents_dear) = self.flow.documents.counts();
        let (gate, app, connections) = (self.flow.gate.view(), self.app_view(), self.front.tasks.len());
        Scrape { gate, documents, documents_dear, app, connections, fresh: self.flow.fresh.view() }
    }

    fn ready(&self) -> bool {
        self.flow.drain.stage() == Stage::Open
    }

    fn drain(&self) {
        self.stop.notify_one();
    }

    fn document(&self, scope: &str) -> Option<DocumentView> {
        let profile = Arc::clone(&self.flow.plan.load().profile);
        self.flow.fresh.document(scope, |route| profile.route_name(route).to_owned())
    }

    fn invalidate(&self, scopes: &[String]) -> Result<Invalidated, String> {
        self.flow.fresh.invalidate(scopes)
    }

    fn reset_audit(&self, routes: Option<&[String]>) -> usize {
        self.flow.fresh.promote(routes)
    }
}

/// Starts everything that `loaded` says.
///
/// # Errors
/// An address that cannot be bound, or an access log that cannot be opened.
pub fn start(origin: Origin, loaded: Loaded) -> Result<Running, StartError> {
    let failed = |what: String| move |source| StartError { what, source };
    let settings = &loaded.settings;
    let listen = settings.listen.clone();
    let log = LogSink::open(&settings.log).map_err(failed("the access log cannot be opened".to_owned()))?;
    let socket = listener::bind(listen.address).map_err(failed(format!("listen.address {} cannot be bound", listen.address)))?;
    let address = socket.local_addr().map_err(failed("listen.address".to_owned()))?;
    let console = match &settings.admin {
        None => None,
        Some(admin) => {
            let what = format!("admin.address {} cannot be bound", admin.address);
            Some(listener::bind(admin.address).map_err(failed(what))?)
        }
    };
    let admin = console.as_ref().and_then(|console| console.local_addr().ok());

    let report = Report::new(settings, log);
    let drain = Drain::default();
    let calls = TaskTracker::new();
    let plan = Plan::new(settings.clone(), Arc::clone(&loaded.profile));
    let doubts = settings.state_file.clone().and_then(|path| StateFile::new(path).take_doubts());
    if let Some(doubts) = &doubts {
        tracing::info!(documents = doubts.doubts.len(), "the last process stopped cleanly: only these are in doubt");
    }
    let flow = Flow::new(plan, report.clone(), drain.clone(), calls.clone(), doubts);
    let front = Front {
        places: Arc::new(Semaphore::new(listen.connections_max)),
        listen: Arc::new(ArcSwap::from_pointee(listen)),
        drain,
        tasks: TaskTracker::new(),
    };
    let house = Arc::new(House { flow, front, stop: Notify::new(), clean: AtomicBool::new(false) });

    let applied = Arc::clone(&house);
    let apply = Box::new(move |loaded: &Arc<Loaded>| applied.apply(loaded));
    let (reloader, reloads) = reload::reloads(origin, Arc::new(loaded), report.clone(), apply);
    let ended = tokio::spawn(Arc::clone(&house).live(socket, console, reloader, reloads, calls));
    Ok(Running { address, admin, house, ended })
}

impl House {
    fn app_view(&self) -> AppView {
        let origin = &self.flow.origin;
        let (open, idle) = origin.pool.counts();
        AppView {
            server: origin.pool.server().to_owned(),
            up: origin.is_up(),
            idle,
            busy: open.saturating_sub(idle),
            zombies: origin.zombies(),
            last_error: origin.last_failure(clock::now()),
        }
    }

    /// Puts new settings into force everywhere.
    fn apply(&self, loaded: &Arc<Loaded>) {
        let listen = &loaded.settings.listen;
        let (before, after) = (self.front.listen.load().connections_max, listen.connections_max);
        if after > before {
            self.front.places.add_permits(after - before);
        } else if before > after {
            let places = Arc::clone(&self.front.places);
            let surplus = u32::try_from(before - after).unwrap_or(u32::MAX);
            // Connections that are open stay open; the cap is reached as they end.
            tokio::spawn(async move {
                if let Ok(gone) = places.acquire_many_owned(surplus).await {
                    gone.forget();
                }
            });
        }
        self.front.listen.store(Arc::new(listen.clone()));
        self.flow.reload(Plan::new(loaded.settings.clone(), Arc::clone(&loaded.profile)));
    }

    /// Serves until it is told to stop, then drains.
    async fn live(
        self: Arc<Self>,
        socket: TcpListener,
        console: Option<TcpListener>,
        reloader: reload::Reloader,
        reloads: reload::Reloads,
        calls: TaskTracker,
    ) {
        let state_file = self.flow.plan.load().settings.state_file.clone().map(StateFile::new);
        if let Some(file) = &state_file
            && file.read(&self.flow.documents).await
        {
            tracing::info!("what was learned before is taken back from the state file");
        }
        let kept = CancellationToken::new();
        let keeping = state_file.map(|file| {
            let ending = Arc::clone(&self);
            let doubts = move || {
                let plan = ending.flow.plan.load();
                let clean = ending.clean.load(Ordering::Relaxed);
                if clean { ending.flow.fresh.doubts(&plan.settings, &plan.profile) } else { None }
            };
            tokio::spawn(file.keep(Arc::clone(&self.flow.documents), kept.clone(), doubts))
        });
        let mut chores = tokio::task::JoinSet::new();
        let (closing, closed) = oneshot::channel::<()>();
        chores.spawn(reloads.run());
        let watched = Arc::clone(&self);
        chores.spawn(async move { watched.flow.origin.watch().await });
        let flow = Arc::clone(&self.flow);
        chores.spawn(verify::tell(self.flow.report.clone(), move || flow.plan.load().settings.fresh.mode, verify::INTERVAL));
        // Without an operators' listener the reloads go on for as long as somebody could still ask for them: this one.
        let asker = reloader.clone();
        let served = console.map(|console| {
            let desk = Console { running: Arc::clone(&self) as Arc<dyn admin::Running>, report: self.flow.report.clone(), reloader };
            tokio::spawn(admin::serve(console, Arc::new(desk), async move {
                // The sender is dropped at the end, which is as good as a word.
                let _ = closed.await;
            }))
        });
        let accepting = Arc::clone(&self);
        let front = tokio::spawn(async move {
            let flow = Arc::clone(&accepting.flow);
            let told = Arc::clone(&flow);
            let malformed = Arc::new(move |connection: &Connection, status| told.malformed_head(connection, status));
            accepting.front.run(socket, move |request, connection| Arc::clone(&flow).serve(request, connection), malformed).await;
        });

        self.stop.notified().await;
        self.drain(&calls).await;

        // Both have their end behind them, or are cut now.
        front.abort();
        drop(asker);
        kept.cancel();
        if let Some(keeping) = keeping {
            // It has told what went wrong.
            let _ = keeping.await;
        }
        drop(closing);
        if let Some(served) = served {
            let _ = tokio::time::timeout(CUT_GRACE, served).await;
        }
        let report = self.flow.report.clone();
        // A log that cannot be written any more keeps nobody from stopping.
        let _ = tokio::task::spawn_blocking(move || report.close()).await;
    }

    async fn drain(&self, calls: &TaskTracker) {
        let (delay, timeout) = {
            let listen = self.front.listen.load();
            (listen.drain_delay, listen.drain_timeout)
        };
        let drain = &self.flow.drain;
        tracing::info!(delay_ms = delay.as_millis(), timeout_ms = timeout.as_millis(), "draining");
        drain.advance(Stage::Closing);
        tokio::time::sleep(delay).await;
        drain.advance(Stage::Closed);
        self.front.tasks.close();
        calls.close();
        let ending = async {
            self.front.tasks.wait().await;
            calls.wait().await;
        };
        if tokio::time::timeout(timeout, ending).await.is_err() {
            let cut = self.front.tasks.len() + calls.len();
            tracing::warn!(cut, "what still ran at drain_timeout is cut");
            drain.advance(Stage::Cut);
            let ending = async {
                self.front.tasks.wait().await;
                calls.wait().await;
            };
            let _ = tokio::time::timeout(CUT_GRACE, ending).await;
        } else {
            self.clean.store(true, Ordering::Relaxed);
        }
        self.flow.origin.pool.close_idle();
    }
}

/// Runs until SIGTERM or SIGINT; a second one ends it at once. Exit code 0 after an orderly end, 1 if it could not start or was cut short.
/// The number of threads is that of the processors, or `TOKIO_WORKER_THREADS`.
#[must_use]
pub fn run(origin: Origin) -> ExitCode {
    block_on(serve(origin))
}

/// Drives a command on a runtime of its own; what still runs at its end is dropped.
#[must_use]
#[expect(clippy::print_stderr, reason = "where it says why it cannot start, there may be no subscriber yet")]
pub fn block_on(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(command);
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("tidegate cannot start its threads: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "what keeps it from starting is for the terminal, whatever the events' filter")]
async fn serve(origin: Origin) -> ExitCode {
    let loaded = match load::load(&origin, None) {
        Ok(loaded) => loaded,
        Err(refused) => {
            eprint!("{}", written::render(&refused.mistakes));
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let signals = signal(SignalKind::terminate()).and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("tidegate cannot listen to signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let running = match start(origin, loaded) {
        Ok(running) => running,
        Err(error) => {
            eprintln!("tidegate cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(address = %running.address, admin = ?running.admin, "serving");
    let Running { house, mut ended, .. } = running;
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = &mut ended => return ExitCode::SUCCESS,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stopping {
            tracing::warn!("stopped at once by a second signal");
            return ExitCode::FAILURE;
        }
        stopping = true;
        house.stop.notify_one();
    }
}
