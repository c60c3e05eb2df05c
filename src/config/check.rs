//! The second step: keys held against each other.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{
    Settings,
    settings::{ClassSettings, ClientAddress},
};
use crate::{
    units,
    written::{At, Mistakes, Node, Value},
};

/// The most that all reserves may come to.
const RESERVES_MAX: f64 = 0.9;

/// Where every key that was written stands.
#[derive(Debug)]
pub(super) struct Places {
    file: At,
    known: BTreeMap<String, At>,
}

impl Places {
    /// The places of a whole file.
    pub fn of(root: &Node) -> Self {
        let mut places = Self { file: root.at.clone(), known: BTreeMap::new() };
        places.add(root, "");
        places
    }

    fn add(&mut self, node: &Node, path: &str) {
        let Value::Table(fields) = &node.value else { return };
        for (key, field) in fields {
            let path = if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
            self.add(field, &path);
            self.known.insert(path, field.at.clone());
        }
    }

    /// Whether a key was written.
    pub fn written(&self, key: &str) -> bool {
        self.known.contains_key(key)
    }

    /// Where the value of a key stands, else the nearest table around it that was written.
    pub fn at(&self, key: &str) -> &At {
        let mut path = key;
        loop {
            if let Some(at) = self.known.get(path) {
                return at;
            }
            match path.rsplit_once('.') {
                Some((around, _)) => path = around,
                None => return &self.file,
            }
        }
    }

    /// The place of the first of these keys that was written.
    fn first(&self, keys: &[&str]) -> &At {
        keys.iter().find(|key| self.written(key)).map_or(&self.file, |key| self.at(key))
    }
}

/// Tells of every rule between keys that these settings break.
pub(super) fn check(settings: &Settings, places: &Places, mistakes: &Mistakes) {
    required(places, mistakes);
    addresses(settings, places, mistakes);
    sizes(settings, places, mistakes);
    timeouts(settings, places, mistakes);
    ages(settings, places, mistakes);
    reserves(settings, places, mistakes);
    for (class, name) in settings.classes.iter() {
        shares(settings.of(class), name, places, mistakes);
        class_timeouts(settings, settings.of(class), name, places, mistakes);
    }
}

/// The defaults of these two are rarely what is meant.
fn required(places: &Places, mistakes: &Mistakes) {
    if !places.written("profile") {
        mistakes.warning(
            places.at("profile"),
            "`profile` is not set: \"generic\" tells reads from writes and takes the path for the document",
            "write profile = \"couchdb\", or whatever your service speaks",
        );
    }
    if !places.written("app.servers") {
        mistakes.warning(
            places.at("app.servers"),
            "`app.servers` is not set: requests go to 127.0.0.1:3000",
            "write servers = [\"host:port\"] under [app]",
        );
    }
}

fn addresses(settings: &Settings, places: &Places, mistakes: &Mistakes) {
    let listen = settings.listen.address;
    if let Some(admin) = &settings.admin {
        if admin.address.port() != 0 && same_port(listen, admin.address) {
            mistakes.error(
                places.at("admin.address"),
                format!("`admin.address` {} meets `listen.address` {listen}", admin.address),
                "write another port",
            );
        }
        if !admin.address.ip().to_canonical().is_loopback() && admin.token_file.is_none() {
            mistakes.error(
                places.at("admin.address"),
                "`admin.address` can be reached from other machines without a token",
                "write token_file = \"admin.token\" beside it, or a loopback address such as \"127.0.0.1:9090\"",
            );
        }
    }
    let ours = [Some(listen), settings.admin.as_ref().map(|admin| admin.address)];
    for server in settings.app.servers.iter().filter_map(|server| server.parse::<SocketAddr>().ok()) {
        if ours.into_iter().flatten().any(|address| answers(address, server)) {
            mistakes.error(
                places.at("app.servers"),
                format!("`app.servers` names {server}, where tidegate itself listens"),
                "write the address of the app",
            );
        }
    }
    if settings.listen.trusted_proxies.is_empty() && settings.listen.client_address != ClientAddress::XForwardedFor {
        mistakes.warning(
            places.at("listen.client_address"),
            "`listen.client_address` is believed from nobody, since `listen.trusted_proxies` is empty",
            "write trusted_proxies = [...] with the networks of your CDN",
        );
    }
}

/// Whether a listener on `address` would answer who connects to `server`; of other machines' addresses nothing is known.
fn answers(address: SocketAddr, server: SocketAddr) -> bool {
    let any = address.ip().is_unspecified() && server.ip().is_loopback();
    address.port() == server.port() && (any || address.ip() == server.ip())
}

/// Whether the two cannot both be listened on.
fn same_port(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (any || one.ip() == other.ip())
}

fn sizes(settings: &Settings, places: &Places, mistakes: &Mistakes) {
    let app = &settings.app;
    if app.connections_max < app.seats {
        mistakes.error(
            places.at("app.connections_max"),
            format!("`app.connections_max` {} is below `app.seats` {}", app.connections_max, app.seats),
            format!("write at least {}: each seat needs a connection", app.seats),
        );
    }
    let buffer = u64::try_from(app.buffer).unwrap_or(u64::MAX);
    let bytes_max = u64::try_from(settings.inspect.bytes_max).unwrap_or(u64::MAX);
    let answer_max = u64::try_from(settings.fresh.answer_max).unwrap_or(u64::MAX);
    for (whole, of_all, part, of_one) in [
        ("app.buffer_memory_max", app.buffer_memory_max, "app.buffer", buffer),
        ("inspect.memory_max", settings.inspect.memory_max, "inspect.bytes_max", bytes_max),
        ("fresh.answers_max", settings.fresh.answers_max, "fresh.answer_max", answer_max),
    ] {
        if of_all < of_one {
            mistakes.error(
                places.first(&[whole, part]),
                format!("`{whole}` {} holds not even one `{part}` of {}", units::show_bytes(of_all), units::show_bytes(of_one)),
                format!("write {whole} = \"{}\" or more", units::show_bytes(of_one)),
            );
        }
    }
    if settings.stream.per_client > settings.stream.max && places.written("stream.per_client") {
        mistakes.warning(
            places.at("stream.per_client"),
            format!("`stream.per_client` can never be reached: `stream.max` is {}", settings.stream.max),
            "lower it, or raise `stream.max`",
        );
    }
}

fn timeouts(settings: &Settings, places: &Places, mistakes: &Mistakes) {
    let app = &settings.app;
    for (key, span) in [("app.connect_timeout", app.connect_timeout), ("app.head_timeout", app.head_timeout)] {
        if span > app.total_timeout {
            longer(places.first(&[key, "app.total_timeout"]), key, span, "app.total_timeout", app.total_timeout, mistakes);
        }
    }
    if let Some(ttl) = app.zombie_ttl.filter(|ttl| *ttl < app.head_timeout) {
        longer(places.at("app.zombie_ttl"), "app.head_timeout", app.head_timeout, "app.zombie_ttl", ttl, mistakes);
    }
}

/// The times of `[fresh]`, each of which bounds another.
fn ages(settings: &Settings, places: &Places, mistakes: &Mistakes) {
    let fresh = &settings.fresh;
    let shown = units::show_duration;
    if fresh.refresh_after >= fresh.age_max {
        mistakes.error(
            places.first(&["fresh.refresh_after", "fresh.age_max"]),
            format!("`fresh.refresh_after` {} is not below `fresh.age_max` {}", shown(fresh.refresh_after), shown(fresh.age_max)),
            format!("write refresh_after = \"{}\" or less, so that an answer is asked again before it expires", shown(fresh.age_max / 6)),
        );
    }
    if fresh.age_max_down < fresh.age_max {
        mistakes.error(
            places.first(&["fresh.age_max_down", "fresh.age_max"]),
            format!("`fresh.age_max_down` {} is below `fresh.age_max` {}", shown(fresh.age_max_down), shown(fresh.age_max)),
            format!("write age_max_down = \"{}\" or more: an app that is down is no reason to answer less", shown(fresh.age_max)),
        );
    }
    let longest = settings.classes.iter().map(|(class, name)| (settings.of(class).head_timeout, name)).max();
    if let Some((span, name)) = longest.filter(|(span, _)| fresh.doubt < *span) {
        mistakes.warning(
            places.at("fresh.doubt"),
            format!("`fresh.doubt` {} is below the head_timeout {} of class {name}", shown(fresh.doubt), shown(span)),
            "write the longest time for which the app may still commit a lost write: what waits in its queue, plus its own time limit",
        );
    }
}

fn class_timeouts(settings: &Settings, class: &ClassSettings, name: &str, places: &Places, mistakes: &Mistakes) {
    let app = &settings.app;
    let key = format!("class.{name}.head_timeout");
    if class.head_timeout != app.head_timeout {
        if class.head_timeout > app.total_timeout {
            let at = places.first(&[&key, "app.total_timeout"]);
            longer(at, &key, class.head_timeout, "app.total_timeout", app.total_timeout, mistakes);
        }
        if let Some(ttl) = app.zombie_ttl.filter(|ttl| *ttl < class.head_timeout) {
            longer(places.at("app.zombie_ttl"), &key, class.head_timeout, "app.zombie_ttl", ttl, mistakes);
        }
    }
    let long_after = format!("class.{name}.long_after");
    if let Some(span) = class.long_after.filter(|span| *span >= class.head_timeout && places.written(&long_after)) {
        mistakes.warning(
            places.at(&long_after),
            format!(
                "`{long_after}` {} is not below the class's `head_timeout` {}",
                units::show_duration(span),
                units::show_duration(class.head_timeout)
            ),
            "lower it, so that requests are moved before they time out",
        );
    }
}

fn longer(at: &At, key: &str, span: Duration, bound: &str, limit: Duration, mistakes: &Mistakes) {
    let (span, limit) = (units::show_duration(span), units::show_duration(limit));
    mistakes.error(
        at,
        format!("`{key}` {span} is longer than `{bound}` {limit}"),
        format!("write {bound} = \"{span}\" or more, or a shorter `{key}`"),
    );
}

fn reserves(settings: &Settings, places: &Places, mistakes: &Mistakes) {
    let kept: Vec<(&str, f64)> =
        settings.classes.iter().map(|(class, name)| (name, settings.of(class).reserve)).filter(|(_, reserve)| *reserve > 0.0).collect();
    let sum: f64 = kept.iter().map(|(_, reserve)| reserve).sum();
    // Shares are written in decimal, whose sums are not exact in binary.
    if sum <= RESERVES_MAX + 1e-9 {
        return;
    }
    let largest = kept.iter().map(|(name, reserve)| (format!("class.{name}.reserve"), *reserve)).filter(|(key, _)| places.written(key));
    let at = largest.max_by(|a, b| a.1.total_cmp(&b.1)).map_or_else(|| places.at("class"), |(key, _)| places.at(&key));
    let shown: Vec<String> = kept.iter().map(|(name, reserve)| format!("{name} {}", rounded(*reserve))).collect();
    mistakes.error(
        at,
        format!("the reserves of all classes come to {}: {}", rounded(sum), shown.join(", ")),
        format!("lower them to {RESERVES_MAX} in all, so that something is left to borrow"),
    );
}

fn shares(class: &ClassSettings, name: &str, places: &Places, mistakes: &Mistakes) {
    let [reserve, ceiling, idle_ceiling] = ["reserve", "ceiling", "idle_ceiling"].map(|key| format!("class.{name}.{key}"));
    if class.ceiling < class.reserve {
        mistakes.error(
            places.first(&[&ceiling, &reserve]),
            format!("`{ceiling}` {} is below `{reserve}` {}", class.ceiling, class.reserve),
            format!("write ceiling = {} or more, or a lower reserve", class.reserve),
        );
    }
    if class.ceiling <= 0.0 {
        mistakes.error(places.at(&ceiling), format!("`{ceiling}` cannot be 0"), "write closed = true to refuse the whole class");
    }
    if let Some(idle) = class.idle_ceiling.filter(|idle| *idle < class.ceiling) {
        mistakes.error(
            places.first(&[&idle_ceiling, &ceiling]),
            format!("`{idle_ceiling}` {idle} is below `{ceiling}` {}", class.ceiling),
            format!("write idle_ceiling = {} or more", class.ceiling),
        );
    }
}

/// A share without the noise of binary fractions.
fn rounded(share: f64) -> f64 {
    (share * 1e6).round() / 1e6
}
