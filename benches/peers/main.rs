//! tidegate beside nginx and a bare hyper proxy: processor time per proxied request, in interleaved rounds of one run.
//!
//!     cargo bench --bench peers                                     # about 90 s; needs nginx and taskset
//!     cargo bench --bench peers -- --rounds 9 --seconds 3 --access-log
//!     cargo bench --bench peers -- local                            # answered without the app
//!     cargo bench --bench peers -- local --entries 1000000 --app-stopped
//!
//! The work is the most frequent request of a sync service: a poll of an unchanged document, a JSON POST of about 110 bytes answered
//! with about 140, over 64 keep-alive connections, each another client and document. Every proxy has one worker and core 1 to itself;
//! the app and the clients share core 0 and cost less than any proxy, so that the proxies are what is saturated. tidegate reads the
//! bodies (profile `dynalist`, gate in force, shipped defaults); nginx and the bare proxy do not. Access logs are off for all, or,
//! with `--access-log`, written to a file by tidegate and nginx.
//!
//! With `local`, nobody asks the app: tidegate replays what it has stored (mode `on`), nginx returns the same body from its configuration, and a bare
//! hyper server from memory. `--entries` is over how many documents the polls go, each stored first; `--app-stopped` stops the app before.
//! Without `local`, tidegate's mode is `off`: it forwards.
//!
//! What counts is the ratio of two contenders in one round: single figures depend on the machine and on its day.
#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

mod bare;
mod contender;
mod load;

use std::{env, error::Error, process::ExitCode, time::Duration};

use contender::Contender;
use tokio::{net::TcpListener, task::LocalSet};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What one turn of one contender measured.
struct Turn {
    /// Processor microseconds per request.
    cost: f64,
    requests_per_second: f64,
    /// Milliseconds.
    p50: f64,
    p99: f64,
}

#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
#[derive(Clone, Copy)]
struct Plan {
    rounds: usize,
    seconds: f64,
    access_log: bool,
    /// Answered without the app.
    local: bool,
    /// Over how many documents the polls go.
    entries: usize,
    app_stopped: bool,
    /// Run as a test: once, briefly, only to see that it works.
    smoke: bool,
}

impl Plan {
    fn from_arguments() -> Outcome<Self> {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let smoke = !arguments.iter().any(|argument| argument == "--bench");
        let value = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|place| arguments.get(place + 1));
        Ok(Self {
            rounds: value("--rounds").map_or(Ok(if smoke { 1 } else { 7 }), |text| text.parse())?,
            seconds: value("--seconds").map_or(Ok(if smoke { 0.2 } else { 3.0 }), |text| text.parse())?,
            access_log: arguments.iter().any(|argument| argument == "--access-log"),
            local: arguments.iter().any(|argument| argument == "local"),
            entries: value("--entries").map_or(Ok(load::CONNECTIONS), |text| text.parse())?,
            app_stopped: arguments.iter().any(|argument| argument == "--app-stopped"),
            smoke,
        })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Into::into).and_then(|runtime| {
        let tasks = LocalSet::new();
        match arguments.iter().position(|argument| argument == bare::FLAG) {
            Some(place) => tasks.block_on(&runtime, bare::run(&arguments[place + 1..])),
            None => tasks.block_on(&runtime, async {
                let plan = Plan::from_arguments()?;
                compare(&plan).await?;
                // As a test, both.
                if plan.smoke { compare(&Plan { local: true, ..plan }).await } else { Ok(()) }
            }),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn compare(plan: &Plan) -> Outcome<()> {
    if let Err(missing) = contender::tools() {
        if plan.smoke {
            println!("peers: left out, {missing}");
            return Ok(());
        }
        return Err(missing);
    }
    contender::pin_this_process()?;
    let app = TcpListener::bind("127.0.0.1:0").await?;
    let upstream = app.local_addr()?;
    let app = tokio::task::spawn_local(load::serve(app));

    let folder = tempfile::tempdir()?;
    let nginx = if plan.local { None } else { Some(upstream) };
    let mut contenders = vec![
        Contender::tidegate(upstream, folder.path(), plan.access_log, plan.local)?,
        Contender::nginx(nginx, folder.path(), plan.access_log)?,
        Contender::bare(nginx)?,
    ];
    if env::var_os("WITHOUT_TIDEGATE").is_some() {
        contenders.remove(0);
    }
    for contender in &mut contenders {
        contender.wait_until_it_answers().await?;
    }
    if plan.local
        && let Some(tidegate) = contenders.iter().find(|contender| contender.name == "tidegate")
    {
        let mut crowd = load::Crowd::connect(tidegate.address, plan.entries).await?;
        crowd.ask_once().await?;
        if plan.app_stopped {
            app.abort();
        }
    }

    let mut turns: Vec<Vec<Turn>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.rounds {
        for place in 0..contenders.len() {
            // Another one begins in each round, so that none always follows the same neighbour.
            let place = (place + round) % contenders.len();
            turns[place].push(measure(&contenders[place], plan).await?);
        }
    }
    if plan.smoke {
        println!("peers: {} contenders answered; `cargo bench --bench peers` measures", contenders.len());
    } else {
        print(&contenders, &turns, plan);
    }
    Ok(())
}

async fn measure(contender: &Contender, plan: &Plan) -> Outcome<Turn> {
    let seconds = plan.seconds;
    let mut crowd = load::Crowd::connect(contender.address, plan.entries).await?;
    let warm_up = Duration::from_secs_f64(seconds / 6.0);
    crowd.run(warm_up).await?;
    let before = contender.processor_time()?;
    let seen = crowd.run(Duration::from_secs_f64(seconds)).await?;
    let spent = contender.processor_time()?.saturating_sub(before);
    let requests = f64::from(u32::try_from(seen.milliseconds.len())?);
    if requests == 0.0 {
        return Err(format!("{} answered nothing", contender.name).into());
    }
    Ok(Turn {
        cost: spent.as_secs_f64() * 1e6 / requests,
        requests_per_second: requests / seen.elapsed.as_secs_f64(),
        p50: quantile(&seen.milliseconds, 0.5),
        p99: quantile(&seen.milliseconds, 0.99),
    })
}

fn print(contenders: &[Contender], turns: &[Vec<Turn>], plan: &Plan) {
    let log = if plan.access_log { "written to a file (but for the bare proxy)" } else { "off" };
    let what = if plan.local { "answered locally" } else { "proxied" };
    println!("{what}: {} rounds of {} s, {} connections, access logs {log}", plan.rounds, plan.seconds, load::CONNECTIONS);
    if plan.local {
        println!("{} documents, the app {}", plan.entries, if plan.app_stopped { "stopped" } else { "running" });
    }
    println!("{:<12}{:>34}{:>14}{:>10}{:>10}", "", "processor us per request (range)", "requests/s", "p50 ms", "p99 ms");
    for (contender, turns) in contenders.iter().zip(turns) {
        let all = |value: fn(&Turn) -> f64| -> Vec<f64> { turns.iter().map(value).collect() };
        let costs = all(|turn| turn.cost);
        println!(
            "{:<12}{:>14.1} ({:>6.1} .. {:>6.1}){:>14.0}{:>10.2}{:>10.2}",
            contender.name,
            quantile(&costs, 0.5),
            quantile(&costs, 0.0),
            quantile(&costs, 1.0),
            quantile(&all(|turn| turn.requests_per_second), 0.5),
            quantile(&all(|turn| turn.p50), 0.5),
            quantile(&all(|turn| turn.p99), 0.5),
        );
    }
    let Some(nginx) = contenders.iter().position(|contender| contender.name == "nginx") else { return };
    for (contender, own) in contenders.iter().zip(turns).filter(|(contender, _)| contender.name != "nginx") {
        let ratios: Vec<f64> = own.iter().zip(&turns[nginx]).map(|(own, nginx)| own.cost / nginx.cost).collect();
        let (low, high) = (quantile(&ratios, 0.0), quantile(&ratios, 1.0));
        println!("{} / nginx: {:.2} ({low:.2} .. {high:.2})", contender.name, quantile(&ratios, 0.5));
    }
}

/// The value below which this share of the values lies; the median for 0.5.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list that fits"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
