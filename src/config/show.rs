//! Settings as operators read them: JSON for `/config`, a table for `tidegate check`.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::settings::{AccessLog, ClassSettings, ClientAddress, Expose, FreshMode, ProfileChoice, Rate, Settings};
use crate::{
    model::Class,
    units::{show_bytes, show_duration},
};

impl ProfileChoice {
    /// Its name or its path.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Shipped(name) => name.clone(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

impl ClientAddress {
    /// As it stands in the configuration; for all but `forwarded` also the name of the header.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
            Self::CfConnectingIp => "cf-connecting-ip",
            Self::TrueClientIp => "true-client-ip",
        }
    }
}

impl FreshMode {
    /// As it stands in the configuration.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Verify => "verify",
            Self::On => "on",
        }
    }
}

impl Expose {
    /// As it stands in the configuration.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Trusted => "trusted",
            Self::All => "all",
        }
    }
}

impl AccessLog {
    /// As it stands in the configuration.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Off => "off".to_owned(),
            Self::Stdout => "stdout".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

impl Settings {
    /// All seats at the app, as long as all of its servers are healthy.
    #[must_use]
    pub fn seats(&self) -> usize {
        usize::try_from(self.app.seats).unwrap_or(usize::MAX).saturating_mul(self.app.servers.len().max(1))
    }

    /// Everything that is in force, in the shape of the file; each class's shares also as seats. The token and whatever came from
    /// the environment are masked.
    #[must_use]
    pub fn shown(&self) -> Value {
        let mut shown = json!({
            "profile": self.profile.label(),
            "listen": self.shown_listen(),
            "admin": self.admin.as_ref().map(|admin| json!({
                "address": admin.address.to_string(),
                "token": admin.token.as_ref().map(|_| MASK),
                "token_file": admin.token_file.as_ref().map(|path| path.display().to_string()),
            })),
            "app": self.shown_app(),
            "inspect": {
                "bytes_max": size(self.inspect.bytes_max),
                "memory_max": show_bytes(self.inspect.memory_max),
            },
            "gate": {
                "mode": self.gate.mode.label(),
                "linger": show_duration(self.gate.linger),
                "linger_bytes": show_bytes(self.gate.linger_bytes),
                "lingering_max": self.gate.lingering_max,
                "long_cost": show_duration(self.gate.long_cost),
                "long_reply": show_bytes(self.gate.long_reply),
                "documents_max": self.gate.documents_max,
                "clients_max": self.gate.clients_max,
            },
            "stream": { "max": self.stream.max, "per_client": self.stream.per_client },
            "fresh": self.shown_fresh(),
            "class": self.shown_classes(),
            "log": {
                "access": self.log.access.label(),
                "clients_plain": self.log.clients_plain,
                "lines_max": self.log.lines_max,
            },
            "state": { "file": self.state_file.as_ref().map(|path| path.display().to_string()) },
            "report": { "expose": self.report.expose.label() },
        });
        for key in &self.masked {
            if let Some(value) = shown.pointer_mut(&format!("/{}", key.replace('.', "/"))) {
                *value = Value::from(MASK);
            }
        }
        shown
    }

    fn shown_listen(&self) -> Value {
        let listen = &self.listen;
        json!({
            "address": listen.address.to_string(),
            "trusted_proxies": listen.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "client_address": listen.client_address.label(),
            "proxy_protocol": false,
            "connections_max": listen.connections_max,
            "keep_alive": show_duration(listen.keep_alive),
            "head_timeout": show_duration(listen.head_timeout),
            "body_timeout": show_duration(listen.body_timeout),
            "head_bytes_max": size(listen.head_bytes_max),
            "body_bytes_max": show_bytes(listen.body_bytes_max),
            "body_rate_min": show_bytes(listen.body_rate_min),
            "drain_delay": show_duration(listen.drain_delay),
            "drain_timeout": show_duration(listen.drain_timeout),
        })
    }

    fn shown_app(&self) -> Value {
        let app = &self.app;
        json!({
            "servers": app.servers,
            "health": app.health,
            "health_interval": show_duration(app.health_interval),
            "seats": app.seats,
            "connections_max": app.connections_max,
            "connect_timeout": show_duration(app.connect_timeout),
            "head_timeout": show_duration(app.head_timeout),
            "body_timeout": show_duration(app.body_timeout),
            "total_timeout": show_duration(app.total_timeout),
            "zombie_ttl": app.zombie_ttl.map(show_duration),
            "upstream_cancels": app.upstream_cancels,
            "idle_timeout": show_duration(app.idle_timeout),
            "age_max": show_duration(app.age_max),
            "resolve_interval": show_duration(app.resolve_interval),
            "buffer": size(app.buffer),
            "buffer_memory_max": show_bytes(app.buffer_memory_max),
        })
    }

    fn shown_fresh(&self) -> Value {
        let fresh = &self.fresh;
        json!({
            "mode": fresh.mode.label(),
            "age_max": show_duration(fresh.age_max),
            "age_max_down": show_duration(fresh.age_max_down),
            "refresh_after": show_duration(fresh.refresh_after),
            "doubt": show_duration(fresh.doubt),
            "start_doubt": show_duration(fresh.start_doubt),
            "settle": show_duration(fresh.settle),
            "answers_max": show_bytes(fresh.answers_max),
            "answer_max": size(fresh.answer_max),
            "documents_max": fresh.documents_max,
            "keys_max": fresh.keys_max,
            "depth_max": fresh.depth_max,
            "joiners_max": fresh.joiners_max,
            "audit": fresh.audit,
        })
    }

    fn shown_classes(&self) -> Map<String, Value> {
        self.classes.iter().map(|(class, name)| (name.to_owned(), self.shown_class(class))).collect()
    }

    fn shown_class(&self, index: Class) -> Value {
        let class = self.of(index);
        let shares = class.shares(self.seats());
        json!({
            "removed": class.removed,
            "slow": class.slow,
            "reserve": class.reserve,
            "ceiling": class.ceiling,
            "idle_ceiling": class.idle_ceiling,
            "seats": {
                "of": self.seats(),
                "reserve": shares.reserve,
                "ceiling": shares.ceiling,
                "idle_ceiling": shares.idle_ceiling,
            },
            "weight": class.weight,
            "wait_max": show_duration(class.wait_max),
            "queue_max": class.queue_max,
            "head_timeout": show_duration(class.head_timeout),
            "long_after": class.long_after.map_or_else(|| "never".to_owned(), show_duration),
            "rate": class.rate.map(shown_rate),
            "client": {
                "in_flight": class.client_in_flight,
                "rate": class.client_rate.map(shown_rate),
                "mode": class.client_mode.label(),
            },
            "mode": class.mode.label(),
            "closed": class.closed,
        })
    }
}

/// What stands where a secret would.
const MASK: &str = "(hidden)";

fn shown_rate(rate: Rate) -> Value {
    json!({ "per_second": rate.per_second, "burst": rate.burst, "mode": rate.mode.label() })
}

fn size(bytes: usize) -> String {
    show_bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// The classes as a table for `tidegate check`, the shares as seats, and what becomes of unchanged syncs; what came from the environment is
/// not in it.
#[must_use]
pub fn describe(settings: &Settings) -> String {
    let head =
        ["class", "slow", "reserve", "ceiling", "idle", "weight", "wait_max", "queue_max", "per client", "long_after", "head_timeout"]
            .into_iter()
            .chain(["rate/s", "client rate/s", "mode"])
            .map(str::to_owned)
            .collect();
    let mut rows: Vec<Vec<String>> = vec![head];
    rows.extend(settings.classes.iter().map(|(class, name)| row(settings.of(class), name, settings.seats())));
    let columns = rows[0].len();
    let widths: Vec<usize> = (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let seats = settings.seats();
    let mut text = format!("{seats} {}, shared as follows:\n", if seats == 1 { "seat" } else { "seats" });
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&local_answers(settings));
    text
}

/// What `[fresh]` comes to, above all what an operator should set and has not.
fn local_answers(settings: &Settings) -> String {
    let fresh = &settings.fresh;
    let mut text = match fresh.mode {
        FreshMode::Off => return "Unchanged syncs: all go to the app, and nothing is learned of them (fresh.mode = \"off\").\n".to_owned(),
        FreshMode::Verify => {
            "Unchanged syncs: all go to the app; it is counted what would have been answered here, and whether rightly \
             (fresh.mode = \"verify\").\n"
        }
        FreshMode::On => "Unchanged syncs: answered here while no write to their documents has begun (fresh.mode = \"on\").\n",
    }
    .to_owned();
    let doubt = show_duration(fresh.doubt);
    if fresh.doubt_written {
        let _ = writeln!(text, "A lost write leaves its documents in doubt for {doubt} (fresh.doubt).");
    } else {
        let _ = writeln!(
            text,
            "A lost write leaves its documents in doubt for {doubt}: fresh.doubt is not set, so it is 120 s or twice the longest \
             head_timeout, whichever is more. Set it to the longest time for which your app may still commit a request after its \
             connection is gone: what waits in its queue, plus its own time limit."
        );
    }
    text
}

fn row(class: &ClassSettings, name: &str, seats: usize) -> Vec<String> {
    let shares = class.shares(seats);
    let rate = |rate: Option<Rate>| {
        rate.map_or_else(|| "-".to_owned(), |rate| format!("{}, burst {} ({})", rate.per_second, rate.burst, rate.mode.label()))
    };
    let state = match class {
        ClassSettings { removed: true, .. } => "removed",
        ClassSettings { closed: true, .. } => "closed",
        _ => class.mode.label(),
    };
    let client = class.client_in_flight.map_or_else(|| "-".to_owned(), |number| number.to_string());
    vec![
        name.to_owned(),
        if class.slow { "yes" } else { "-" }.to_owned(),
        shares.reserve.to_string(),
        shares.ceiling.to_string(),
        shares.idle_ceiling.to_string(),
        class.weight.to_string(),
        show_duration(class.wait_max),
        class.queue_max.to_string(),
        if class.client_mode == class.mode { client } else { format!("{client} ({})", class.client_mode.label()) },
        class.long_after.map_or_else(|| "-".to_owned(), show_duration),
        show_duration(class.head_timeout),
        rate(class.rate),
        rate(class.client_rate),
        state.to_owned(),
    ]
}
