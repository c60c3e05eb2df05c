//! `/state` and `/config`: what goes on, and what is in force, as JSON for people and scripts.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::reload::Reloader;
use crate::{
    clock,
    config::Settings,
    flow::{
        gate::ClassView,
        report::{Counts, Ranked, Report, Scrape, log::rfc3339},
    },
    model::{Outcome, Rule},
};

/// What goes on now: per class seats, queue, waits and refusals by rule; the app; who takes its time.
#[must_use]
pub fn state(scrape: &Scrape, report: &Report, reloader: &Reloader, top: usize) -> Value {
    let in_force = reloader.in_force();
    let settings = &in_force.loaded.settings;
    let mut classes = Map::new();
    for (class, name) in settings.classes.iter() {
        let view = scrape.gate.classes.get(class.index()).cloned().unwrap_or_default();
        let (removed, closed) = (settings.of(class).removed, settings.of(class).closed);
        if removed && view.in_flight + view.queued == 0 {
            continue;
        }
        classes.insert(name.to_owned(), class_state(&view, removed, closed, &report.counts(Some(class))));
    }
    let malformed = report.counts(None);
    let top = report.top(top, clock::now());
    json!({
        "time": rfc3339(clock::wall()),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": seconds(clock::now().since(clock::Moment::default())),
        "config": config_state(reloader),
        "seats": scrape.gate.seats,
        "in_flight": scrape.gate.in_flight,
        "streams": scrape.gate.streams,
        "connections": scrape.connections,
        "app": {
            "server": scrape.app.server,
            "up": scrape.app.up,
            "connections": { "idle": scrape.app.idle, "busy": scrape.app.busy },
            "zombies": scrape.app.zombies,
            "last_error": scrape.app.last_error,
        },
        "documents": { "known": scrape.documents, "dear": scrape.documents_dear },
        "fresh": fresh_state(settings, scrape, report),
        "classes": classes,
        "never_classed": { "requests": outcomes(&malformed), "refusals": rules(&malformed.refusals) },
        "top": {
            "documents": ranking(&top.documents),
            "clients": ranking(&top.clients),
            "routes": ranking(&top.routes),
        },
        "log_lines_dropped": report.log_lines_dropped(),
    })
}

/// Local answers: what is stored and known, and per route what was, or would have been, answered here.
fn fresh_state(settings: &Settings, scrape: &Scrape, report: &Report) -> Value {
    let fresh = &settings.fresh;
    json!({
        "mode": fresh.mode.label(),
        "now": scrape.fresh,
        "answers_bytes_max": fresh.answers_max,
        "documents_max": fresh.documents_max,
        "routes": report.polls(),
    })
}

/// What is in force, where from, its hash and age; secrets are masked.
#[must_use]
pub fn config(reloader: &Reloader) -> Value {
    let in_force = reloader.in_force();
    let loaded = &in_force.loaded;
    json!({
        "config": config_state(reloader),
        "file": reloader.origin().config.as_ref().map(|path| path.display().to_string()),
        "flags": reloader.origin().flags,
        "files": loaded.files.keys().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "profile": loaded.profile.name,
        "warnings": loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "settings": loaded.settings.shown(),
    })
}

fn config_state(reloader: &Reloader) -> Value {
    let in_force = reloader.in_force();
    let scrape = reloader.scrape();
    json!({
        "hash": scrape.hash,
        "in_force_since": rfc3339(in_force.since_wall),
        "age_seconds": seconds(scrape.age),
        "last_reload_taken": scrape.last_reload_taken,
        "reloads_taken": scrape.reloads_taken,
        "reloads_refused": scrape.reloads_refused,
        "last_error": reloader.last_error(),
    })
}

fn class_state(view: &ClassView, removed: bool, closed: bool, counts: &Counts) -> Value {
    json!({
        "in_flight": view.in_flight,
        "reserve": view.reserve,
        "ceiling": view.ceiling,
        "idle_ceiling": view.idle_ceiling,
        "queued": view.queued,
        "oldest_waiting_seconds": seconds(view.oldest_waiting),
        "oldest_running_seconds": seconds(view.oldest_running),
        "mean_hold_seconds": seconds(view.mean_hold),
        "predicted_wait_seconds": seconds(view.predicted_wait),
        "shadow": { "in_flight": view.shadow_in_flight, "queued": view.shadow_queued },
        "closed": closed,
        "removed": removed,
        "requests": outcomes(counts),
        "refusals": rules(&counts.refusals),
        "shadow_refusals": rules(&counts.shadow_refusals),
        "app_seconds": rounded(counts.app_seconds),
        "database_seconds": rounded(counts.database_seconds),
        "database_queries": counts.database_queries,
    })
}

fn outcomes(counts: &Counts) -> Map<String, Value> {
    Outcome::ALL.iter().map(|outcome| (outcome.label().to_owned(), counts.outcomes[outcome.index()].into())).collect()
}

/// Rules that refused at least once.
fn rules(counts: &[u64; Rule::ALL.len()]) -> Map<String, Value> {
    let refusing = Rule::ALL.iter().filter(|rule| counts[rule.index()] > 0);
    refusing.map(|rule| (rule.label().to_owned(), counts[rule.index()].into())).collect()
}

fn ranking(ranked: &[Ranked]) -> Vec<Value> {
    let one = |one: &Ranked| {
        json!({
            "name": one.name,
            "app_seconds": rounded(one.app_seconds),
            "error_seconds": rounded(one.error_seconds),
            "share": rounded(one.share),
        })
    };
    ranked.iter().map(one).collect()
}

fn seconds(span: Duration) -> f64 {
    rounded(span.as_secs_f64())
}

/// Three decimals.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        clock::Moment,
        config::Settings,
        flow::{
            gate::View,
            report::{AppView, LogSink, exchange::tests::exchange},
        },
        ops::{
            load::{Flags, Origin, load},
            reload::reloads,
        },
    };

    fn running(set: &[&str]) -> (Report, Reloader) {
        let set = set.iter().map(|set| (*set).to_owned()).collect();
        let flags = Flags { app: Some("127.0.0.1:3000".to_owned()), profile: Some("generic".to_owned()), set, ..Flags::default() };
        let origin = Origin::new(None, &flags).expect("flags");
        let loaded = load(&origin, None).expect("sound");
        let report = Report::new(&loaded.settings, LogSink::off());
        let (reloader, _) = reloads(origin, Arc::new(loaded), report.clone(), Box::new(|_| {}));
        (report, reloader)
    }

    #[test]
    fn the_state_says_what_runs_waits_and_was_refused() {
        let (report, reloader) = running(&["class.large.closed=true"]);
        let mut refused = exchange();
        (refused.outcome, refused.rule, refused.app) = (Outcome::Refused, Some(Rule::Deadline), None);
        report.ended(&refused);
        report.released(&refused);
        let mut slow = exchange();
        slow.arrived = clock::now();
        slow.app = Some(Duration::from_secs(3));
        report.ended(&slow);
        report.released(&slow);
        let class = ClassView { in_flight: 2, queued: 1, oldest_running: Duration::from_millis(1500), ..ClassView::default() };
        let scrape = Scrape {
            gate: View { seats: 8, in_flight: 10, classes: vec![class; 5], ..View::default() },
            app: AppView { server: "127.0.0.1:3000".to_owned(), up: true, zombies: 1, ..AppView::default() },
            documents: 4,
            ..Scrape::default()
        };
        let state = state(&scrape, &report, &reloader, 5);
        let at = |pointer: &str| state.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(at("/classes/sync/in_flight"), 2);
        assert_eq!(at("/classes/sync/oldest_running_seconds"), 1.5);
        assert_eq!(at("/classes/sync/refusals"), json!({ "deadline": 1 }));
        assert_eq!(at("/classes/sync/requests/refused"), 1);
        assert_eq!(at("/classes/large/closed"), true);
        assert_eq!(at("/app/zombies"), 1);
        assert_eq!(at("/documents/known"), 4);
        assert_eq!((at("/top/documents/0/name"), at("/top/documents/0/app_seconds")), ("doc:a".into(), json!(3.0)));
        assert_eq!(at("/top/documents/1"), Value::Null, "what was refused took nothing");
    }

    #[test]
    fn a_removed_class_is_shown_until_it_has_drained() {
        let (report, reloader) = running(&[]);
        let mut loaded = (*reloader.in_force().loaded).clone();
        let mut settings: Settings = loaded.settings.clone();
        settings.class[4].removed = true;
        loaded.settings = settings;
        let (reloader, _) = reloads(reloader.origin().clone(), Arc::new(loaded), report.clone(), Box::new(|_| {}));
        let mut scrape = Scrape { gate: View { classes: vec![ClassView::default(); 5], ..View::default() }, ..Scrape::default() };
        assert!(state(&scrape, &report, &reloader, 5)["classes"].get("other").is_none());
        scrape.gate.classes[4].in_flight = 1;
        assert_eq!(state(&scrape, &report, &reloader, 5)["classes"]["other"]["removed"], true);
    }

    #[test]
    fn the_configuration_says_what_is_in_force_and_where_from() {
        let (_, reloader) = running(&["class.sync.queue_max=5"]);
        let config = config(&reloader);
        assert_eq!(config["settings"]["class"]["sync"]["queue_max"], 5);
        assert_eq!(config["flags"], json!(["--app 127.0.0.1:3000", "--profile generic", "--set class.sync.queue_max"]));
        assert_eq!((&config["profile"], &config["file"]), (&json!("generic"), &Value::Null));
        assert_eq!(config["config"]["hash"].as_str().map(str::len), Some(32));
        assert!(reloader.in_force().since >= Moment::default());
    }
}
