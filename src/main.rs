//! Arguments in, exit code out.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidegate::{
    ops::{
        check,
        explain::{self, Question},
        health,
        load::{self, Flags, Origin},
        visit::Desk,
    },
    written::{self, Mistake},
};
use tracing_subscriber::EnvFilter;

/// Overload protection for document-sync services: a reverse proxy that knows what kind of sync each request is.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = "Exit codes: 0 all well, 1 it failed, 2 the command line cannot be read.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stand in front of an app server until SIGTERM; SIGHUP reloads.
    #[command(after_help = RUN_HELP)]
    Run(Run),
    /// Check a configuration, or a profile, and tell every mistake at once.
    #[command(after_help = CHECK_HELP)]
    Check(Check),
    /// Say what a request would be taken for and which rules it is held to; ask a running tidegate what it knows of its documents.
    #[command(after_help = EXPLAIN_HELP)]
    Explain(Explain),
    /// Ask a running tidegate whether it is well.
    #[command(after_help = "Exit codes: 0 it is, 1 it is not, or nobody answers.")]
    Health(Health),
    /// Play the outage of 2017, with and without tidegate, side by side.
    #[cfg(feature = "demo")]
    #[command(after_help = DEMO_HELP)]
    Demo(Demo),
}

const RUN_HELP: &str = "\
Examples:
  tidegate run --listen 127.0.0.1:8080 --app 127.0.0.1:3000 --profile couchdb
  tidegate run --config tidegate.toml --set app.seats=32

Signals: SIGHUP reloads, SIGTERM and SIGINT drain, a second one ends at once.
Exit codes: 0 drained, 1 it could not start, 2 the command line cannot be read.";

const CHECK_HELP: &str = "\
Examples:
  tidegate check tidegate.toml
  tidegate check profiles/mine.toml

Exit codes: 0 sound (there may be warnings), 1 it would not be used.";

#[cfg(feature = "demo")]
const DEMO_HELP: &str = "\
Ten times faster than life; it takes about 75 seconds and needs nothing else.
Exit codes: 0 tidegate kept its promise, 1 it did not, or the demo could not run.";

const EXPLAIN_HELP: &str = "\
Examples:
  tidegate explain --profile couchdb --target /notes/_changes
  tidegate explain --config tidegate.toml --method POST --target /api/v1/doc/read \\
    --header 'content-type: application/json' --body '{\"token\":\"t\",\"file_id\":\"a\"}'
  tidegate explain --config tidegate.toml --target /notes/_changes --admin 127.0.0.1:9090
  tidegate explain --verify

With --admin a running tidegate is asked when the request's documents were written last, whether they are in
doubt, and which stored answers depend on them. With --verify it tells per route what was polled, what would
have been answered locally and whether rightly, and what made stored answers stale most often.

Exit codes: 0 explained, 1 the configuration or the request cannot be read, or nobody answers.";

/// Where operators usually ask.
const ADMIN: &str = "127.0.0.1:9090";

/// Where the configuration comes from.
#[derive(Args, Debug)]
struct Source {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A shipped profile (dynalist couchdb kinto caldav generic), or a profile's path.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// One key laid over the file, such as app.seats=32 (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args, Debug)]
struct Run {
    #[command(flatten)]
    source: Source,
    /// Where clients, or the CDN, connect.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The app server.
    #[arg(long, value_name = "ADDRESS")]
    app: Option<String>,
    /// Where operators and Prometheus connect.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// How events are written to standard error; `TIDEGATE_LOG` filters them (such as `info` or `tidegate=debug`).
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Args, Debug)]
struct Check {
    /// A configuration, or a profile.
    file: PathBuf,
    /// One key laid over the file (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args, Debug)]
struct Explain {
    #[command(flatten)]
    source: Source,
    /// The request's method; POST if there is a body, else GET.
    #[arg(long)]
    method: Option<String>,
    /// The path, with its query.
    #[arg(long, value_name = "PATH", required_unless_present = "verify")]
    target: Option<String>,
    /// A header `name: value` (repeatable).
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// The body.
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file")]
    body: Option<String>,
    /// The file that holds the body.
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// The address that the request comes from.
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// Ask the tidegate whose admin listener is here what it knows of the request's documents.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The file with the admin listener's token; the configuration's own where it names one.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Say what verify has found, by route; asks 127.0.0.1:9090 or --admin.
    #[arg(long, conflicts_with_all = ["target", "config", "profile", "set", "method", "header", "body", "body_file", "peer"])]
    verify: bool,
}

#[derive(Args, Debug)]
struct Health {
    /// The admin listener.
    #[arg(long, value_name = "ADDRESS", default_value = ADMIN)]
    admin: String,
}

#[cfg(feature = "demo")]
#[derive(Args, Debug)]
struct Demo {
    /// Leave everything running at the end, with the addresses to look at.
    #[arg(long)]
    serve: bool,
    /// Another scenario than the outage of 2017.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run(arguments),
        Command::Check(arguments) => check(&arguments),
        Command::Explain(arguments) => explain(arguments),
        Command::Health(arguments) => health(&arguments),
        #[cfg(feature = "demo")]
        Command::Demo(Demo { serve, scenario }) => tidegate::app::block_on(tidegate::lab::run(tidegate::lab::Options { serve, scenario })),
    }
}

fn run(arguments: Run) -> ExitCode {
    start_events(arguments.log_format);
    let Source { config, profile, set } = arguments.source;
    let flags = Flags { listen: arguments.listen, app: arguments.app, profile, admin: arguments.admin, set };
    match Origin::new(config, &flags) {
        Ok(origin) => tidegate::app::run(origin),
        Err(mistakes) => complain(&mistakes),
    }
}

/// Events go to standard error; standard output is the access log's.
fn start_events(format: LogFormat) {
    let filter = EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => events.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => events.json().flatten_event(true).init(),
    }
}

fn check(arguments: &Check) -> ExitCode {
    let checked = check::check(&arguments.file, &arguments.set);
    say(&checked.complaints);
    say(&checked.summary);
    if checked.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn explain(arguments: Explain) -> ExitCode {
    let token = match arguments.token_file.as_deref().map(std::fs::read_to_string).transpose() {
        Ok(token) => token.map(|token| token.trim().to_owned()),
        Err(error) => return fail(&format!("the file of --token-file cannot be read: {error}")),
    };
    let Some(target) = arguments.target.filter(|_| !arguments.verify) else {
        let address = arguments.admin.unwrap_or_else(|| ADMIN.to_owned());
        return told(explain::verified(&Desk { address, token }));
    };
    let Source { config, profile, set } = arguments.source;
    let flags = Flags { profile, set, ..Flags::default() };
    let body = match (arguments.body, &arguments.body_file) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(path)) => match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => return fail(&format!("`{}` cannot be read: {error}", path.display())),
        },
        (None, None) => Vec::new(),
    };
    let method = arguments.method.unwrap_or_else(|| if body.is_empty() { "GET" } else { "POST" }.to_owned());
    let question = Question { method, target, headers: arguments.header, body, peer: arguments.peer };
    let loaded = match Origin::new(config, &flags).and_then(|origin| load::load(&origin, None).map_err(|refused| refused.mistakes)) {
        Ok(loaded) => loaded,
        Err(mistakes) => return complain(&mistakes),
    };
    let explained = explain::explain(&loaded, &question);
    let (Ok(_), Some(address)) = (&explained, arguments.admin) else { return told(explained) };
    told(explained);
    say("\n");
    let own = || loaded.settings.admin.as_ref().and_then(|admin| admin.token.as_deref().map(str::to_owned));
    told(explain::documents(&loaded, &question, &Desk { address, token: token.or_else(own) }))
}

fn told(outcome: Result<String, String>) -> ExitCode {
    match outcome {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(why) => fail(&why),
    }
}

fn health(arguments: &Health) -> ExitCode {
    match health::ask(&arguments.admin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn say(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "this is where commands complain")]
fn fail(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

fn complain(mistakes: &[Mistake]) -> ExitCode {
    fail(written::render(mistakes).trim_end())
}
