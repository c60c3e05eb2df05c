//! Reloading: on SIGHUP, when a file has changed, and when an operator asks. Whole or not at all, one at a time, and loud when refused.
//!
//! Files are read every two seconds instead of watched: watches are lost over renames, over the swap of a symbolic link (a Kubernetes
//! `ConfigMap`) and on network file systems. What was written counts once two reads in a row saw the same, so that a half-written file is
//! never used; what was refused is told once per content.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::MissedTickBehavior,
};

use super::load::{self, Files, Loaded, Origin, Refused};
use crate::{
    clock::{self, Moment},
    config,
    flow::report::{ConfigScrape, Report},
    written::{self, Mistake, Severity},
};

/// How often the files are read.
pub const WATCH_EVERY: Duration = Duration::from_secs(2);

/// What is done with files that have changed. Pure: it is told what stands in them.
#[derive(Debug)]
struct Watcher {
    /// What was used or refused last.
    handled: Files,
    /// What was seen once, and is used when it is seen again.
    candidate: Option<Files>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing has changed.
    Wait,
    /// Something has changed: load it, and say with [`Watcher::looked`] what was read.
    Look,
    /// What was loaded has not changed since: use or refuse it.
    Use,
}

impl Watcher {
    fn new(handled: Files) -> Self {
        Self { handled, candidate: None }
    }

    /// The files to read next.
    fn paths(&self) -> Vec<PathBuf> {
        self.candidate.as_ref().unwrap_or(&self.handled).keys().cloned().collect()
    }

    /// Takes what stands in the files of [`Watcher::paths`] now.
    fn see(&self, seen: &Files) -> Step {
        match &self.candidate {
            Some(candidate) if candidate == seen => Step::Use,
            None if *seen == self.handled => Step::Wait,
            Some(_) | None => Step::Look,
        }
    }

    /// What a load has read: another set of files than before, perhaps.
    fn looked(&mut self, read: Files) {
        self.candidate = (read != self.handled).then_some(read);
    }

    /// What was used or refused.
    fn handled(&mut self, read: Files) {
        self.handled = read;
        self.candidate = None;
    }
}

/// The settings in force.
#[derive(Debug)]
pub struct InForce {
    /// They themselves.
    pub loaded: Arc<Loaded>,
    /// Since when.
    pub since: Moment,
    /// Since when, for people.
    pub since_wall: SystemTime,
}

/// A reload that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The hash of what is in force now.
    pub hash: String,
    /// Its warnings as text; empty if there are none.
    pub warnings: String,
}

/// Asks for reloads and knows what is in force; cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloader {
    shared: Arc<Shared>,
    asks: mpsc::Sender<oneshot::Sender<Result<Taken, String>>>,
}

#[derive(Debug)]
struct Shared {
    in_force: ArcSwap<InForce>,
    origin: Origin,
    last_taken: AtomicBool,
    taken: AtomicU64,
    refused: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Reloader {
    /// Reloads now.
    ///
    /// # Errors
    /// Everything that is wrong, as text; nothing has changed then.
    pub async fn reload(&self) -> Result<Taken, String> {
        let (answer, answered) = oneshot::channel();
        let stopping = || "tidegate is stopping".to_owned();
        self.asks.send(answer).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// The settings in force.
    #[must_use]
    pub fn in_force(&self) -> Arc<InForce> {
        self.shared.in_force.load_full()
    }

    /// Where they come from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.shared.origin
    }

    /// Why the last reload was refused; `None` if it was taken.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.shared.last_error.lock().clone()
    }

    /// What the metrics show.
    #[must_use]
    pub fn scrape(&self) -> ConfigScrape {
        let in_force = self.in_force();
        ConfigScrape {
            hash: in_force.loaded.hash.clone(),
            age: clock::now().since(in_force.since),
            last_reload_taken: self.shared.last_taken.load(Ordering::Relaxed),
            reloads_taken: self.shared.taken.load(Ordering::Relaxed),
            reloads_refused: self.shared.refused.load(Ordering::Relaxed),
        }
    }
}

/// Puts new settings into force everywhere; it cannot fail.
pub type Apply = Box<dyn Fn(&Arc<Loaded>) + Send + Sync>;

/// The task that reloads.
pub struct Reloads {
    shared: Arc<Shared>,
    asks: mpsc::Receiver<oneshot::Sender<Result<Taken, String>>>,
    watcher: Watcher,
    /// What was loaded when the watcher looked.
    looked: Option<Result<Loaded, Box<Refused>>>,
    apply: Apply,
    report: Report,
    every: Duration,
}

/// Reloading of what was loaded first. [`Reloads::run`] must be spawned; it ends when every [`Reloader`] is gone.
#[must_use]
pub fn reloads(origin: Origin, first: Arc<Loaded>, report: Report, apply: Apply) -> (Reloader, Reloads) {
    let (asks, asked) = mpsc::channel(8);
    let watcher = Watcher::new(first.files.clone());
    let in_force = InForce { loaded: first, since: clock::now(), since_wall: clock::wall() };
    let shared = Arc::new(Shared {
        in_force: ArcSwap::from_pointee(in_force),
        origin,
        last_taken: AtomicBool::new(true),
        taken: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        last_error: Mutex::default(),
    });
    let reloader = Reloader { shared: Arc::clone(&shared), asks };
    (reloader, Reloads { shared, asks: asked, watcher, looked: None, apply, report, every: WATCH_EVERY })
}

impl Reloads {
    /// Reloads whenever there is cause, one after the other.
    pub async fn run(mut self) {
        let mut hangups = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::error!(%error, "SIGHUP cannot be listened to; reload by file or by POST /reload"))
            .ok();
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let hangup = async {
                match &mut hangups {
                    Some(hangups) => hangups.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                asked = self.asks.recv() => {
                    let Some(answer) = asked else { return };
                    let result = self.reload_now("POST /reload").await;
                    // The asker may have left; the reload stands all the same.
                    let _ = answer.send(result);
                }
                _ = hangup => {
                    self.reopen_log().await;
                    // What is wrong has been told.
                    let _ = self.reload_now("SIGHUP").await;
                }
                _ = ticks.tick() => self.watch().await,
            }
        }
    }

    async fn watch(&mut self) {
        let paths = self.watcher.paths();
        let Ok(seen) = spawn_blocking(move || load::read_again(&paths)).await else { return };
        match self.watcher.see(&seen) {
            Step::Wait => {}
            Step::Look => {
                let found = self.load().await;
                self.watcher.looked(files_of(&found));
                self.looked = Some(found);
            }
            Step::Use => {
                if let Some(found) = self.looked.take() {
                    let _ = self.finish("a changed file", found);
                }
            }
        }
    }

    async fn reload_now(&mut self, cause: &'static str) -> Result<Taken, String> {
        let found = self.load().await;
        self.finish(cause, found)
    }

    async fn load(&self) -> Result<Loaded, Box<Refused>> {
        let shared = Arc::clone(&self.shared);
        let loading = spawn_blocking(move || {
            let in_force = shared.in_force.load();
            load::load(&shared.origin, Some(&in_force.loaded.settings.classes))
        });
        loading.await.unwrap_or_else(|error| {
            Err(Box::new(Refused { mistakes: vec![nowhere(format!("loading failed: {error}"), "")], files: Files::new() }))
        })
    }

    async fn reopen_log(&self) {
        let (report, in_force) = (self.report.clone(), self.shared.in_force.load_full());
        let reopened = spawn_blocking(move || report.reopen_log(&in_force.loaded.settings)).await;
        if let Ok(Err(error)) = reopened {
            tracing::error!(%error, "the access log cannot be opened anew; the old file is written on");
        }
    }

    /// Uses what was loaded, or refuses it whole.
    fn finish(&mut self, cause: &'static str, found: Result<Loaded, Box<Refused>>) -> Result<Taken, String> {
        self.watcher.handled(files_of(&found));
        self.looked = None;
        let accepted = found.map_err(|refused| refused.mistakes).and_then(|loaded| {
            let keys = config::unchangeable(&self.shared.in_force.load().loaded.settings, &loaded.settings);
            if keys.is_empty() { Ok(loaded) } else { Err(keys.into_iter().map(unchangeable).collect()) }
        });
        match accepted {
            Ok(loaded) => Ok(self.take(cause, Arc::new(loaded))),
            Err(mistakes) => Err(self.refuse(cause, &mistakes)),
        }
    }

    fn take(&mut self, cause: &'static str, loaded: Arc<Loaded>) -> Taken {
        (self.apply)(&loaded);
        let warnings = written::render(&loaded.warnings);
        let hash = loaded.hash.clone();
        self.shared.in_force.store(Arc::new(InForce { loaded, since: clock::now(), since_wall: clock::wall() }));
        self.shared.last_taken.store(true, Ordering::Relaxed);
        self.shared.taken.fetch_add(1, Ordering::Relaxed);
        *self.shared.last_error.lock() = None;
        tracing::info!(cause, hash, "reloaded");
        if !warnings.is_empty() {
            tracing::warn!("the new configuration has warnings\n{warnings}");
        }
        Taken { hash, warnings }
    }

    fn refuse(&self, cause: &'static str, mistakes: &[Mistake]) -> String {
        let text = written::render(mistakes);
        self.shared.last_taken.store(false, Ordering::Relaxed);
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        *self.shared.last_error.lock() = Some(text.clone());
        tracing::error!(cause, "the reload was refused, nothing has changed\n{text}");
        text
    }
}

fn files_of(found: &Result<Loaded, Box<Refused>>) -> Files {
    match found {
        Ok(loaded) => loaded.files.clone(),
        Err(refused) => refused.files.clone(),
    }
}

fn unchangeable(key: &'static str) -> Mistake {
    nowhere(format!("`{key}` cannot change while tidegate runs"), "put the old value back, or start tidegate anew")
}

fn nowhere(what: String, instead: &str) -> Mistake {
    Mistake { severity: Severity::Error, at: None, what, instead: instead.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, u128)]) -> Files {
        list.iter().map(|(path, hash)| (PathBuf::from(path), (*hash > 0).then_some(*hash))).collect()
    }

    /// A disk, and a watcher of it whose every load reads what `needs` says.
    struct World {
        disk: Files,
        watcher: Watcher,
        /// What was used or refused, in order.
        used: Vec<Files>,
        pending: Option<Files>,
    }

    impl World {
        fn new(disk: &[(&str, u128)]) -> Self {
            let disk = files(disk);
            Self { watcher: Watcher::new(disk.clone()), disk, used: Vec::new(), pending: None }
        }

        fn read(&self, paths: &[PathBuf]) -> Files {
            paths.iter().map(|path| (path.clone(), self.disk.get(path).copied().flatten())).collect()
        }

        fn tick(&mut self, needs: &[&str]) -> Step {
            let step = self.watcher.see(&self.read(&self.watcher.paths()));
            match step {
                Step::Wait => {}
                Step::Look => {
                    let read = self.read(&needs.iter().map(PathBuf::from).collect::<Vec<_>>());
                    self.watcher.looked(read.clone());
                    self.pending = Some(read);
                }
                Step::Use => {
                    let read = self.pending.take().expect("it looked before");
                    self.watcher.handled(read.clone());
                    self.used.push(read);
                }
            }
            step
        }
    }

    #[test]
    fn a_change_is_used_once_it_was_read_twice() {
        let mut world = World::new(&[("a", 1)]);
        assert_eq!(world.tick(&["a"]), Step::Wait);
        world.disk = files(&[("a", 2)]);
        assert_eq!(
            [world.tick(&["a"]), world.tick(&["a"]), world.tick(&["a"]), world.tick(&["a"])],
            [Step::Look, Step::Use, Step::Wait, Step::Wait]
        );
        assert_eq!(world.used, [files(&[("a", 2)])]);
    }

    #[test]
    fn a_half_written_file_is_never_used() {
        let mut world = World::new(&[("a", 1)]);
        for half in 2..6 {
            world.disk = files(&[("a", half)]);
            assert_eq!(world.tick(&["a"]), Step::Look, "{half}");
        }
        assert_eq!(world.tick(&["a"]), Step::Use);
        assert_eq!(world.used, [files(&[("a", 5)])]);
    }

    #[test]
    fn a_change_that_is_taken_back_is_nothing() {
        let mut world = World::new(&[("a", 1)]);
        world.disk = files(&[("a", 2)]);
        world.tick(&["a"]);
        world.disk = files(&[("a", 1)]);
        assert_eq!([world.tick(&["a"]), world.tick(&["a"])], [Step::Look, Step::Wait]);
        assert!(world.used.is_empty());
    }

    #[test]
    fn a_file_that_is_newly_named_is_watched_and_must_stand_still_too() {
        let mut world = World::new(&[("a", 1)]);
        world.disk = files(&[("a", 2), ("profile", 7)]);
        assert_eq!(world.tick(&["a", "profile"]), Step::Look);
        world.disk = files(&[("a", 2), ("profile", 8)]);
        assert_eq!(world.tick(&["a", "profile"]), Step::Look);
        assert_eq!(world.tick(&["a", "profile"]), Step::Use);
        world.disk = files(&[("a", 2), ("profile", 9)]);
        assert_eq!([world.tick(&["a", "profile"]), world.tick(&["a", "profile"])], [Step::Look, Step::Use]);
        assert_eq!(world.used.len(), 2);
    }

    #[test]
    fn a_file_that_is_gone_is_told_once_and_its_return_is_seen() {
        let mut world = World::new(&[("a", 1)]);
        world.disk = files(&[]);
        let steps: Vec<Step> = (0..5).map(|_| world.tick(&["a"])).collect();
        assert_eq!(steps, [Step::Look, Step::Use, Step::Wait, Step::Wait, Step::Wait]);
        world.disk = files(&[("a", 1)]);
        assert_eq!([world.tick(&["a"]), world.tick(&["a"])], [Step::Look, Step::Use]);
    }

    #[test]
    fn whatever_happens_only_what_was_seen_twice_in_a_row_is_used_and_the_last_word_wins() {
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut world = World::new(&[("a", 1), ("b", 1)]);
            let mut history = vec![world.disk.clone()];
            for _ in 0..60 {
                if random.f64() < 0.4 {
                    world.disk = files(&[("a", random.u128(0..3)), ("b", random.u128(0..3))]);
                }
                let before = world.used.len();
                world.tick(&["a", "b"]);
                history.push(world.disk.clone());
                if world.used.len() > before {
                    let (used, seen) = (&world.used[before], &history[history.len() - 2..]);
                    let of_both = |disk: &Files| world.read(&[PathBuf::from("a"), PathBuf::from("b")]) == *used && disk == &seen[1];
                    assert!(of_both(&seen[0]), "seed {seed}: {used:?} after {seen:?}");
                    assert_ne!(Some(used), before.checked_sub(1).map(|last| &world.used[last]), "seed {seed}: told twice");
                }
            }
            for _ in 0..3 {
                world.tick(&["a", "b"]);
            }
            let now = world.read(&[PathBuf::from("a"), PathBuf::from("b")]);
            assert_eq!(world.used.last().unwrap_or(&files(&[("a", 1), ("b", 1)])), &now, "seed {seed}");
        }
    }
}
