//! `/state` and `/config`: what goes on, and what is in force, as JSON for people and scripts.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::reload::Reloader;
use crate::{
    clock,
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
