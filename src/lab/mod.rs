//! The lab: `tidegate demo` plays an incident with two copies of a small sync service, one bare and one behind tidegate, and the same
//! crowd for each. The slowness is real waiting and no work: a query really runs, and then holds its connection for as long as the
//! rows that it touched would have taken, because in 2017 the processor looked idle, and a scan that ate it here would measure the
//! scheduler.

pub mod crowd;
pub mod display;
pub mod figures;
pub mod folder;
pub mod kind;
pub mod pace;
pub mod scenario;
pub mod service;
pub mod settings;
pub mod table;
pub mod tally;
pub mod tidegate;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use self::{
    crowd::{Crowd, plan},
    display::{Screen, Side},
    figures::{Figures, GOOD},
    scenario::{Faults, Scenario},
    service::Service,
    tidegate::{Tidegate, start_tidegate},
};
use crate::{
    clock::{self, Moment},
    written,
};

/// What the live display calls "the last seconds", in incident time.
const RECENT: Duration = Duration::from_secs(30);
/// How long the crowd may go on after the last phase, in incident time: a time-out and what follows it.
const PATIENCE: Duration = Duration::from_secs(40);

/// What `tidegate demo` was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Leave both sides running at the end, to look at.
    pub serve: bool,
    /// Play this scenario instead of the outage of 2017.
    pub scenario: Option<PathBuf>,
}

/// Both sides, running.
#[derive(Debug)]
pub struct Stage {
    scenario: Arc<Scenario>,
    bare: Service,
    behind: Service,
    tidegate: Tidegate,
}

/// What came of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// Without tidegate.
    pub bare: Figures,
    /// With it.
    pub behind: Figures,
}

/// `tidegate demo`: plays a scenario and shows it. The exit code is 0 if it could be played, whatever came of it.
pub async fn run(options: Options) -> ExitCode {
    let played = match options.scenario.as_deref().map_or_else(Scenario::shipped, Scenario::load) {
        Ok(scenario) => show(scenario, options.serve).await,
        Err(mistakes) => Err(written::render(&mistakes)),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Plays a scenario on standard output.
async fn show(scenario: Scenario, serve: bool) -> Result<(), String> {
    let mut screen = Screen::stdout();
    let stage = Stage::set(scenario).await?;
    screen.say(&stage.addresses());
    screen.say(&format!("{}\n", display::told(stage.scenario.pace)));
    let results = stage.play(&mut screen).await?;
    screen.say(&format!("\n{}", table::table(&stage.scenario, &results.bare, &results.behind)));
    screen.say(&table::verdict(&results.bare, &results.behind));
    if serve {
        screen.say(&format!("\n{}\nCtrl-C ends it.", stage.addresses()));
        interrupted().await;
    }
    stage.clear().await;
    Ok(())
}

/// Waits for Ctrl-C, or for what else ends a program politely. A signal that cannot be listened to ends it rudely, as ever.
async fn interrupted() {
    let one = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = one(SignalKind::interrupt()) => {}
        () = one(SignalKind::terminate()) => {}
        () = one(SignalKind::hangup()) => {}
    }
}

#[expect(clippy::print_stderr, reason = "the one place where the demo says why it cannot be played")]
fn fail(why: &str) -> ExitCode {
    eprintln!("{}", why.trim_end());
    ExitCode::FAILURE
}

impl Stage {
    /// Starts two services with equal documents, and tidegate in front of the second.
    ///
    /// # Errors
    /// Why one of them does not start.
    pub async fn set(scenario: Scenario) -> Result<Self, String> {
        let scenario = Arc::new(scenario);
        let documents = plan::documents(&scenario, &plan::members(&scenario));
        let start = |documents| Service::start(&scenario, documents);
        let bare = start(documents.clone()).await.map_err(|error| error.to_string())?;
        let behind = start(documents).await.map_err(|error| error.to_string())?;
        let tidegate = start_tidegate(&settings::settings(&scenario, behind.address))?;
        Ok(Self { scenario, bare, behind, tidegate })
    }

    /// Where everything is to be seen.
    #[must_use]
    pub fn addresses(&self) -> String {
        let Self { bare, behind, tidegate, .. } = self;
        format!(
            "bare service      http://{}\nservice behind    http://{}\ntidegate          http://{}\nits admin         http://{admin}/state \
             http://{admin}/metrics http://{admin}/config\n",
            bare.address,
            behind.address,
            tidegate.address,
            admin = tidegate.admin,
        )
    }

    /// Plays all phases, or until it is interrupted, and counts.
    ///
    /// # Errors
    /// Why the databases cannot be read at the end.
    pub async fn play(&self, screen: &mut Screen) -> Result<Results, String> {
        let start = clock::now();
        let crowds = [Crowd::start(&self.scenario, self.bare.address, start), Crowd::start(&self.scenario, self.tidegate.address, start)];
        tokio::select! {
            () = self.phases(start, &crowds, screen) => {}
            // Cut short: what was seen so far is counted.
            () = interrupted() => {}
        }
        let patience = self.scenario.pace.clock(PATIENCE);
        let [bare, behind] = crowds;
        let (bare, behind) = tokio::join!(bare.finish(patience), behind.finish(patience));
        let figures = async |service: &Service, tally: Arc<tally::Tally>| {
            let written = service.written().await.map_err(|error| error.to_string())?;
            Ok::<_, String>(Figures::of(&self.scenario, start, &tally.counted(), &written, &service.pool()))
        };
        Ok(Results { bare: figures(&self.bare, bare).await?, behind: figures(&self.behind, behind).await? })
    }

    /// Goes through the phases and shows them.
    async fn phases(&self, start: Moment, crowds: &[Crowd; 2], screen: &mut Screen) {
        let pace = self.scenario.pace;
        let mut shown = clock::now();
        loop {
            let now = clock::now();
            let offset = pace.incident(now.since(start));
            let Some((_, phase, end)) = self.scenario.phase_at(offset) else { break };
            self.set_faults(phase.faults);
            if now >= shown {
                screen.show(&self.scenario, offset, &self.sides(crowds, now));
                shown = now + screen.interval();
            }
            tokio::time::sleep_until(clock::instant(shown.min(start + pace.clock(end)))).await;
        }
        self.set_faults(self.scenario.phases.last().map(|phase| phase.faults).unwrap_or_default());
    }

    fn set_faults(&self, faults: Faults) {
        self.bare.set(faults);
        self.behind.set(faults);
    }

    fn sides(&self, crowds: &[Crowd; 2], now: Moment) -> [Side; 2] {
        let pace = self.scenario.pace;
        let side = |crowd: &Crowd, service: &Service| Side {
            recent: crowd.tally.recent(now, pace.clock(RECENT), pace.clock(GOOD)),
            pool: service.pool(),
        };
        [side(&crowds[0], &self.bare), side(&crowds[1], &self.behind)]
    }

    /// Stops everything.
    pub async fn clear(self) {
        self.tidegate.stop().await;
        self.bare.stop().await;
        self.behind.stop().await;
    }
}
