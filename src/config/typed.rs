//! The first step: each key by itself, of the right kind and within its bounds, else a mistake; what is absent has its default.

use std::{
    collections::BTreeSet,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Surroundings, class, fresh,
    settings::{
        AccessLog, Admin, App, ClientAddress, Expose, Gate, Inspect, Listen, Log, ProfileChoice, Report, SHIPPED_PROFILES, Settings, Stream,
    },
};
use crate::{
    model::{Class, Mode},
    units,
    written::{At, Mistakes, Node, Table, Value, suggestion},
};

/// The words of every `mode`.
pub(super) const MODES: [(&str, Mode); 3] = [("off", Mode::Off), ("shadow", Mode::Shadow), ("enforce", Mode::Enforce)];

const CLIENT_ADDRESSES: [(&str, ClientAddress); 4] = [
    ("x-forwarded-for", ClientAddress::XForwardedFor),
    ("forwarded", ClientAddress::Forwarded),
    ("cf-connecting-ip", ClientAddress::CfConnectingIp),
    ("true-client-ip", ClientAddress::TrueClientIp),
];

const EXPOSES: [(&str, Expose); 3] = [("none", Expose::None), ("trusted", Expose::Trusted), ("all", Expose::All)];

/// Reads the whole file. Where a key is wrong its default stands, so that everything else is still checked.
pub(super) fn read(root: &Node, surroundings: &Surroundings<'_>, mistakes: &Mistakes) -> (Settings, Vec<(Class, At)>) {
    let empty = Node { value: Value::Table(Vec::new()), at: root.at.clone() };
    let nothing = |name: &str| Table::of(&empty, name, mistakes).expect("an empty table is a table");
    let root = Table::of(root, "", mistakes).unwrap_or_else(|| nothing(""));
    let section = |name: &str| root.table(name).unwrap_or_else(|| nothing(name));
    let app = app(&section("app"));
    let gate = gate(&section("gate"));
    let inherited = class::Inherited { head_timeout: app.head_timeout, mode: gate.mode };
    let class = class::read(&section("class"), surroundings.previous, inherited);
    let fresh = fresh::read(&section("fresh"), &class.settings);
    let settings = Settings {
        profile: profile(&root, surroundings),
        listen: listen(&section("listen")),
        admin: admin(&section("admin"), surroundings),
        app,
        inspect: inspect(&section("inspect")),
        gate,
        stream: stream(&section("stream")),
        fresh,
        classes: class.classes,
        class: class.settings,
        log: log(&section("log"), surroundings),
        state_file: state(&section("state"), surroundings),
        report: report(&section("report")),
        masked: BTreeSet::new(),
    };
    root.finish();
    (settings, class.places)
}

fn profile(root: &Table<'_>, surroundings: &Surroundings<'_>) -> ProfileChoice {
    let choice = root.parsed("profile", |text| {
        if SHIPPED_PROFILES.contains(&text) {
            Ok(ProfileChoice::Shipped(text.to_owned()))
        } else if is_path(text) {
            Ok(ProfileChoice::File(surroundings.folder.join(text)))
        } else {
            Err(format!("{} (a profile of your own is a path, such as \"./mine.toml\")", suggestion(text, &SHIPPED_PROFILES)))
        }
    });
    choice.unwrap_or_else(|| ProfileChoice::Shipped("generic".to_owned()))
}

fn listen(table: &Table<'_>) -> Listen {
    let listen = Listen {
        address: table.parsed("address", address).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
        trusted_proxies: trusted_proxies(table),
        client_address: table.choice("client_address", &CLIENT_ADDRESSES).unwrap_or(ClientAddress::XForwardedFor),
        connections_max: count(table, "connections_max", 1..=1_000_000, 20_000),
        keep_alive: span(table, "keep_alive", "1ms", "1d", seconds(920)),
        head_timeout: span(table, "head_timeout", "1ms", "1h", seconds(10)),
        body_timeout: span(table, "body_timeout", "1ms", "1h", seconds(15)),
        head_bytes_max: whole(size(table, "head_bytes_max", "8KiB", "1MiB", 32 << 10)),
        body_bytes_max: size(table, "body_bytes_max", "1B", "1024GiB", 1 << 30),
        body_rate_min: size(table, "body_rate_min", "0B", "1GiB", 1 << 10),
        drain_delay: span(table, "drain_delay", "0s", "1h", Duration::ZERO),
        drain_timeout: span(table, "drain_timeout", "0s", "1d", seconds(30)),
    };
    later(table, "tls", "TLS");
    if let Some(true) = table.flag("proxy_protocol") {
        refuse(table, "proxy_protocol", "the PROXY protocol", "write proxy_protocol = false");
    }
    table.finish();
    listen
}

fn trusted_proxies(table: &Table<'_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for (text, at) in table.texts("trusted_proxies").unwrap_or_default() {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => networks.push(network.trunc()),
            Err(_) => table.mistakes.error(
                at,
                format!("`{}` cannot hold \"{text}\"", table.name_of("trusted_proxies")),
                "write a network or an address, such as \"10.0.0.0/8\" or \"192.0.2.7\"",
            ),
        }
    }
    networks
}

fn admin(table: &Table<'_>, surroundings: &Surroundings<'_>) -> Option<Admin> {
    let address = table.parsed("address", address);
    let token_file = table.parsed("token_file", path).map(|path| surroundings.folder.join(path));
    if let (None, Some(at)) = (table.node("address"), table.node("token_file").map(|node| &node.at)) {
        table.mistakes.error(at, "`admin.token_file` stands without `admin.address`", "write address = \"127.0.0.1:9090\" beside it");
    }
    let token = token_file.as_ref().and_then(|path| {
        let at = table.node("token_file").map_or(table.at, |node| &node.at);
        match (surroundings.read_file)(path) {
            Err(error) => {
                let what = format!("`admin.token_file` cannot be read: {error}");
                table.mistakes.error(at, what, "name a readable file that holds the token");
                None
            }
            Ok(text) if text.trim().is_empty() || !text.trim().chars().all(|c| c.is_ascii_graphic()) => {
                table.mistakes.error(
                    at,
                    "`admin.token_file` names a file that holds no token",
                    "put one line into it, of visible ASCII characters without spaces, such as `openssl rand -hex 32` prints",
                );
                None
            }
            Ok(text) => Some(Arc::from(text.trim())),
        }
    });
    table.finish();
    Some(Admin { address: address?, token, token_file })
}

fn app(table: &Table<'_>) -> App {
    let seats = count(table, "seats", 1..=100_000, 64);
    let app = App {
        servers: servers(table),
        health: table.parsed("health", |text| {
            let fits = text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic() && c != '#');
            if fits { Ok(text.to_owned()) } else { Err("write a path, such as \"/health\"".to_owned()) }
        }),
        health_interval: span(table, "health_interval", "10ms", "1h", seconds(5)),
        seats,
        connections_max: count(table, "connections_max", 1..=1_000_000, 1024.max(seats)),
        connect_timeout: span(table, "connect_timeout", "1ms", "1h", seconds(1)),
        head_timeout: span(table, "head_timeout", "1ms", "1d", seconds(30)),
        body_timeout: span(table, "body_timeout", "1ms", "1d", seconds(15)),
        total_timeout: span(table, "total_timeout", "1ms", "7d", seconds(600)),
        zombie_ttl: table.parsed("zombie_ttl", within("1ms", "7d", units::duration)),
        upstream_cancels: table.flag("upstream_cancels").unwrap_or(false),
        idle_timeout: span(table, "idle_timeout", "1ms", "1d", seconds(4)),
        age_max: span(table, "age_max", "1ms", "7d", seconds(600)),
        resolve_interval: span(table, "resolve_interval", "10ms", "1d", seconds(30)),
        buffer: whole(size(table, "buffer", "0B", "1GiB", 1 << 20)),
        buffer_memory_max: size(table, "buffer_memory_max", "0B", "1024GiB", 256 << 20),
    };
    table.finish();
    app
}

fn servers(table: &Table<'_>) -> Vec<String> {
    let fallback = || vec!["127.0.0.1:3000".to_owned()];
    let Some(texts) = table.texts("servers") else { return fallback() };
    let at = table.node("servers").map_or(table.at, |node| &node.at);
    if texts.is_empty() {
        table.mistakes.error(at, "`app.servers` names no server", "write one, such as servers = [\"127.0.0.1:3000\"]");
    }
    if let Some((_, second)) = texts.get(1) {
        table.mistakes.error(
            second,
            "`app.servers` with several servers needs balancing, which this version does not have",
            "write one server",
        );
    }
    let mut servers = Vec::new();
    for (text, at) in texts {
        match server(text) {
            Ok(server) => servers.push(server),
            Err(instead) => table.mistakes.error(at, format!("`app.servers` cannot hold \"{text}\""), instead),
        }
    }
    if servers.is_empty() { fallback() } else { servers }
}

/// `host:port`, else what to write instead.
fn server(text: &str) -> Result<String, String> {
    const FORM: &str = "write a host and a port, such as \"127.0.0.1:3000\" or \"app.internal:3000\"";
    if text.starts_with("unix:") {
        return Err(format!("app servers on Unix sockets need a later version; {FORM}"));
    }
    if text.starts_with("https:") {
        return Err(format!("app servers behind TLS need a later version; {FORM}"));
    }
    if let Some(rest) = text.strip_prefix("http://") {
        return Err(format!("write \"{}\"", rest.trim_end_matches('/')));
    }
    let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
    let port_fits = port.parse::<u16>().is_ok_and(|port| port > 0) && port.chars().all(|c| c.is_ascii_digit());
    let host_fits = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    if port_fits && host_fits { Ok(text.to_owned()) } else { Err(FORM.to_owned()) }
}

fn inspect(table: &Table<'_>) -> Inspect {
    let inspect = Inspect {
        bytes_max: whole(size(table, "bytes_max", "1KiB", "64MiB", 64 << 10)),
        memory_max: size(table, "memory_max", "1KiB", "1024GiB", 64 << 20),
    };
    table.finish();
    inspect
}

fn gate(table: &Table<'_>) -> Gate {
    let gate = Gate {
        mode: table.choice("mode", &MODES).unwrap_or(Mode::Enforce),
        linger: span(table, "linger", "0s", "1h", seconds(5)),
        linger_bytes: size(table, "linger_bytes", "0B", "1024GiB", 64 << 20),
        lingering_max: count(table, "lingering_max", 0..=1_000_000, 1000),
        long_cost: span(table, "long_cost", "1us", "1h", Duration::from_millis(25)),
        long_reply: size(table, "long_reply", "1B", "1024GiB", 256 << 10),
        documents_max: count(table, "documents_max", 1..=100_000_000, 100_000),
        clients_max: count(table, "clients_max", 1..=100_000_000, 100_000),
    };
    table.finish();
    gate
}

fn stream(table: &Table<'_>) -> Stream {
    let stream = Stream { max: count(table, "max", 0..=1_000_000, 10_000), per_client: count(table, "per_client", 0..=1_000_000, 8) };
    table.finish();
    stream
}

fn log(table: &Table<'_>, surroundings: &Surroundings<'_>) -> Log {
    let access = table.parsed("access", |text| match text {
        "off" => Ok(AccessLog::Off),
        "stdout" => Ok(AccessLog::Stdout),
        _ if is_path(text) => Ok(AccessLog::File(surroundings.folder.join(text))),
        _ => Err("write \"stdout\", \"off\", or a path such as \"./access.log\"".to_owned()),
    });
    let log = Log {
        access: access.unwrap_or(AccessLog::Stdout),
        clients_plain: table.flag("clients_plain").unwrap_or(false),
        lines_max: count(table, "lines_max", 1..=10_000_000, 10_000),
    };
    table.finish();
    log
}

fn state(table: &Table<'_>, surroundings: &Surroundings<'_>) -> Option<PathBuf> {
    let file = table.parsed("file", path).map(|path| surroundings.folder.join(path));
    table.finish();
    file
}

fn report(table: &Table<'_>) -> Report {
    let report = Report { expose: table.choice("expose", &EXPOSES).unwrap_or(Expose::Trusted) };
    table.finish();
    report
}

/// An address with its port, else what to write instead.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let port = |text: &str| text.parse::<u16>().is_ok();
        match text.rsplit_once(':') {
            Some(("localhost", number)) if port(number) => format!("write \"127.0.0.1:{number}\""),
            Some(("" | "*", number)) if port(number) => format!("write \"0.0.0.0:{number}\" or \"[::]:{number}\""),
            None if port(text) => format!("write \"127.0.0.1:{text}\", or \"0.0.0.0:{text}\" for everybody"),
            _ => "write an address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"".to_owned(),
        }
    })
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("write a path".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// Whether a text is meant as a path, not as a word: it has a folder or an extension.
fn is_path(text: &str) -> bool {
    text.contains('/') || text.trim_start_matches('.').contains('.')
}

/// A duration within bounds, which are written as the operator would.
pub(super) fn span(table: &Table<'_>, key: &str, least: &str, most: &str, fallback: Duration) -> Duration {
    table.parsed(key, within(least, most, units::duration)).unwrap_or(fallback)
}

/// A size within bounds, in bytes.
pub(super) fn size(table: &Table<'_>, key: &str, least: &str, most: &str, fallback: u64) -> u64 {
    table.parsed(key, within(least, most, units::bytes)).unwrap_or(fallback)
}

/// A reader of values with units that also keeps them within bounds.
pub(super) fn within<T: PartialOrd>(
    least: &str,
    most: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> impl FnOnce(&str) -> Result<T, String> {
    move |text| {
        let value = read(text)?;
        let above = read(least).is_ok_and(|least| least <= value);
        let below = read(most).is_ok_and(|most| value <= most);
        if above && below { Ok(value) } else { Err(format!("write at least \"{least}\" and at most \"{most}\"")) }
    }
}

/// A whole number within bounds that the key's own type holds.
pub(super) fn count<T: TryFrom<u64> + Display>(table: &Table<'_>, key: &str, bounds: RangeInclusive<u64>, fallback: T) -> T {
    table.integer(key, bounds).and_then(|number| T::try_from(number).ok()).unwrap_or(fallback)
}

/// A size as a number of what fits into memory.
pub(super) fn whole(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A key whose work is not built: it may only be absent.
pub(super) fn later(table: &Table<'_>, key: &str, needs: &str) {
    if table.node(key).is_some() {
        refuse(table, key, needs, "remove it");
    }
}

fn refuse(table: &Table<'_>, key: &str, needs: &str, instead: &str) {
    let what = format!("`{}` needs {needs}, which this version does not have", table.name_of(key));
    table.mistakes.error(table.key_at(key), what, instead);
}
