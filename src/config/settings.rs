//! What tidegate runs with: every value checked, in bounds, with its default applied. Nothing here can half-fail.

use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::model::{Class, Classes, Mode};

/// All settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which profile speaks the service's language.
    pub profile: ProfileChoice,
    /// The listener in front.
    pub listen: Listen,
    /// The operators' listener; absent with `--admin` and `[admin] address` unset.
    pub admin: Option<Admin>,
    /// The app servers.
    pub app: App,
    /// How much of bodies is read.
    pub inspect: Inspect,
    /// Queue and seats.
    pub gate: Gate,
    /// Open-ended requests.
    pub stream: Stream,
    /// Local answers.
    pub fresh: Fresh,
    /// Every class's name and index.
    pub classes: Classes,
    /// Per class, by its index; a class that a reload removed keeps its place with `removed` set.
    pub class: Vec<ClassSettings>,
    /// The access log.
    pub log: Log,
    /// Where what was learned is kept over a restart.
    pub state_file: Option<PathBuf>,
    /// Who sees `Tidegate-Decision`.
    pub report: Report,
    /// The dotted names of keys whose values came from the environment: masked wherever settings are shown.
    pub masked: BTreeSet<String>,
}

impl Settings {
    /// From a request's first byte to the moment when its seat is given up: `app.zombie_ttl`, else the class's `head_timeout` + 5 s.
    #[must_use]
    pub fn zombie_ttl(&self, class: Class) -> Duration {
        self.app.zombie_ttl.unwrap_or_else(|| self.of(class).head_timeout + Duration::from_secs(5))
    }

    /// The settings of a class.
    #[must_use]
    pub fn of(&self, class: Class) -> &ClassSettings {
        &self.class[class.index()]
    }
}

/// The profiles that every tidegate brings along; `profile::SHIPPED` holds their texts' names, and a test compares the two.
pub const SHIPPED_PROFILES: [&str; 5] = ["dynalist", "couchdb", "kinto", "caldav", "generic"];

/// Where the profile comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileChoice {
    /// A shipped one.
    Shipped(String),
    /// A file; relative paths were resolved against the configuration file's folder.
    File(PathBuf),
}

/// `[listen]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// Where clients, or the CDN, connect.
    pub address: SocketAddr,
    /// Whose word on the client's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The header that tells a trusted proxy's client.
    pub client_address: ClientAddress,
    /// The most connections at a time.
    pub connections_max: usize,
    /// Idle time between requests before a connection is closed.
    pub keep_alive: Duration,
    /// From a head's first byte to its end.
    pub head_timeout: Duration,
    /// Between two reads of a request body, and between two writes of a response.
    pub body_timeout: Duration,
    /// The most bytes of one head.
    pub head_bytes_max: usize,
    /// The most bytes of one request body; 413 beyond.
    pub body_bytes_max: u64,
    /// The least bytes per second of a body that holds a seat while it crawls; 0: any.
    pub body_rate_min: u64,
    /// How long accepting goes on after SIGTERM.
    pub drain_delay: Duration,
    /// How long running requests may take after that.
    pub drain_timeout: Duration,
}

/// `[listen] client_address`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// `X-Forwarded-For`, from the right, through trusted hops.
    XForwardedFor,
    /// `Forwarded` (RFC 7239), from the right, through trusted hops.
    Forwarded,
    /// `CF-Connecting-IP`.
    CfConnectingIp,
    /// `True-Client-IP`.
    TrueClientIp,
}

/// `[admin]`
#[derive(Clone, PartialEq)]
pub struct Admin {
    /// Where operators and Prometheus connect.
    pub address: SocketAddr,
    /// What they must show beyond loopback: `Authorization: Bearer ...`. Read from `token_file`; masked wherever it is shown.
    pub token: Option<Arc<str>>,
    /// The file that it was read from.
    pub token_file: Option<PathBuf>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "hidden");
        formatter
            .debug_struct("Admin")
            .field("address", &self.address)
            .field("token", &token)
            .field("token_file", &self.token_file)
            .finish()
    }
}

/// `[app]`
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    /// `host:port` of the app server. Exactly one until several are built.
    pub servers: Vec<String>,
    /// A path that answers 2xx while the app is well; absent: the app is judged by the requests alone.
    pub health: Option<String>,
    /// How often that path is asked.
    pub health_interval: Duration,
    /// How many requests one server can work on at once.
    pub seats: u32,
    /// The most pooled connections to one server; never below `seats`.
    pub connections_max: u32,
    /// To open a connection.
    pub connect_timeout: Duration,
    /// From the last byte of a request to the head of its response; a class may have its own.
    pub head_timeout: Duration,
    /// Between two reads of a response.
    pub body_timeout: Duration,
    /// From a request's first byte to its response's last.
    pub total_timeout: Duration,
    /// From a request's first byte to the moment when its seat is given up; `None`: the class's `head_timeout` + 5 s.
    pub zombie_ttl: Option<Duration>,
    /// Whether the app stops working on a request whose connection was closed.
    pub upstream_cancels: bool,
    /// How long a pooled connection may idle: below the app's own.
    pub idle_timeout: Duration,
    /// How old a connection may become.
    pub age_max: Duration,
    /// How often the name is resolved again.
    pub resolve_interval: Duration,
    /// The most bytes of one response that are read ahead of a slow client.
    pub buffer: usize,
    /// The most bytes of all responses that are read ahead.
    pub buffer_memory_max: u64,
}

/// `[inspect]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// The most bytes of one body that are held and read.
    pub bytes_max: usize,
    /// The most bytes of all bodies that are held at a time.
    pub memory_max: u64,
}

/// `[gate]`
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// Of queue and seats; the default of every class's own `mode`.
    pub mode: Mode,
    /// How long a refused body is read and thrown away.
    pub linger: Duration,
    /// How much of it.
    pub linger_bytes: u64,
    /// The most refused bodies read at a time, over all connections.
    pub lingering_max: usize,
    /// A document whose cost is above this, and above 8 x its class's median, is dear.
    pub long_cost: Duration,
    /// The same for routes that remember the size of replies (`cost = "reply"`), in bytes.
    pub long_reply: u64,
    /// The most documents that are remembered.
    pub documents_max: usize,
    /// The most clients whose rates are remembered.
    pub clients_max: usize,
}

/// `[stream]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The most open streams.
    pub max: usize,
    /// The most of one client.
    pub per_client: usize,
}

/// `[fresh]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Whether unchanged syncs are answered locally; the lower of it and a route's own holds.
    pub mode: FreshMode,
    /// The longest time for which an answer is replayed, from the moment when the app was asked. Above `refresh_after`.
    pub age_max: Duration,
    /// The same while the app is down or in maintenance; never below `age_max`.
    pub age_max_down: Duration,
    /// A replay of an answer that is older also puts its question to the app again, in the background.
    pub refresh_after: Duration,
    /// How long the app may still commit a write after its call was lost: its queue plus its own time limit. Above 0.
    pub doubt: Duration,
    /// Whether `doubt` was written, else it is 120 s or twice the longest `head_timeout` of a class, whichever is more.
    pub doubt_written: bool,
    /// How long everything is in doubt after a start.
    pub start_doubt: Duration,
    /// The largest lag of a replica that the app reads from.
    pub settle: Duration,
    /// The most bytes of all stored answers.
    pub answers_max: u64,
    /// The most bytes of one; never above `answers_max`.
    pub answer_max: usize,
    /// The most entries of the ledger: documents whose last write is remembered by itself.
    pub documents_max: usize,
    /// The most keys of one poll; with more its answer is never kept.
    pub keys_max: usize,
    /// The most levels of a `tree:` scope; deeper ones are cut, which is only coarser.
    pub depth_max: usize,
    /// The most polls that wait for the answer to one question.
    pub joiners_max: usize,
    /// One in so many local answers is asked again, at random; 0: none.
    pub audit: u32,
}

/// `[fresh] mode`, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FreshMode {
    /// Nothing is answered locally, stored or compared; writes are noted all the same, so that switching on needs nothing.
    Off,
    /// Nothing is answered locally; it is counted what would have been, and whether that would have been right.
    Verify,
    /// What is provably unchanged is answered locally.
    On,
}

/// `[class.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct ClassSettings {
    /// True after a reload without it: takes no newcomers and drains.
    pub removed: bool,
    /// May not borrow kept seats; writes first; refused on predicted wait.
    pub slow: bool,
    /// The share of the seats that is its own.
    pub reserve: f64,
    /// The most that it may take while others want them, as a share.
    pub ceiling: f64,
    /// The most that it may take while nobody else does, as a share; `None`: the ceiling.
    pub idle_ceiling: Option<f64>,
    /// Its weight among the classes that may start.
    pub weight: u32,
    /// The longest wait for a seat.
    pub wait_max: Duration,
    /// The most that wait.
    pub queue_max: usize,
    /// From the last byte of a request to the head of its response.
    pub head_timeout: Duration,
    /// A request that runs for longer moves into the account of its route's `long` class; `None`: never.
    pub long_after: Option<Duration>,
    /// The class's own token bucket.
    pub rate: Option<Rate>,
    /// The most of one client in flight.
    pub client_in_flight: Option<u32>,
    /// Each client's token bucket.
    pub client_rate: Option<Rate>,
    /// The mode of `client_in_flight`, which `client_rate` inherits: its own, else the class's.
    pub client_mode: Mode,
    /// The class's mode, which its rates and client caps inherit: default `[gate] mode`.
    pub mode: Mode,
    /// True: refused, 503.
    pub closed: bool,
}

/// What a class's shares come to with a number of seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Seats that are its own.
    pub reserve: usize,
    /// The most that it may take while others want them; at least 1, and never below `reserve`.
    pub ceiling: usize,
    /// The most that it may take while nobody else does; never below `ceiling`.
    pub idle_ceiling: usize,
}

impl ClassSettings {
    /// The shares as seats of `seats` in all. A share is rounded to the nearest seat; a reserve that is not 0 is at least 1, so that
    /// with very few seats the reserves of all classes may sum to more than there are.
    #[must_use]
    pub fn shares(&self, seats: usize) -> Shares {
        let reserve = if self.reserve > 0.0 { portion(self.reserve, seats).max(1) } else { 0 };
        let ceiling = portion(self.ceiling, seats).max(reserve).max(1);
        let idle_ceiling = self.idle_ceiling.map_or(ceiling, |share| portion(share, seats).max(ceiling));
        Shares { reserve, ceiling, idle_ceiling }
    }
}

/// A share of `seats`, rounded to the nearest whole seat.
fn portion(share: f64, seats: usize) -> usize {
    #[expect(clippy::cast_precision_loss, reason = "seats are far below 2^53")]
    let exact = (share * seats as f64).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share lies in 0..=1")]
    let whole = exact as usize;
    whole
}

/// A token bucket (GCRA).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens per second; above 0.
    pub per_second: f64,
    /// The most tokens at a time; at least 1, and burst / `per_second` below 2^62 ns.
    pub burst: u32,
    /// Off, shadow or enforce; default: that of the table around it (`class.NAME`, or `class.NAME.client`).
    pub mode: Mode,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Where the access log goes.
    pub access: AccessLog,
    /// Whether clients stand in it as they are, instead of hashed.
    pub clients_plain: bool,
    /// The most lines that wait to be written; beyond that they are dropped and counted.
    pub lines_max: usize,
}

/// `[log] access`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// `[report]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who sees `Tidegate-Decision`.
    pub expose: Expose,
}

/// `[report] expose`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expose {
    /// Nobody.
    None,
    /// Peers in `trusted_proxies`, and loopback.
    Trusted,
    /// Everybody.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(reserve: f64, ceiling: f64, idle_ceiling: Option<f64>) -> ClassSettings {
        ClassSettings {
            removed: false,
            slow: false,
            reserve,
            ceiling,
            idle_ceiling,
            weight: 1,
            wait_max: Duration::from_secs(20),
            queue_max: 200,
            head_timeout: Duration::from_secs(30),
            long_after: None,
            rate: None,
            client_in_flight: None,
            client_rate: None,
            client_mode: Mode::Enforce,
            mode: Mode::Enforce,
            closed: false,
        }
    }

    fn seats(class: &ClassSettings, seats: usize) -> (usize, usize, usize) {
        let shares = class.shares(seats);
        (shares.reserve, shares.ceiling, shares.idle_ceiling)
    }

    #[test]
    fn a_share_is_rounded_and_never_starves_its_class() {
        let import = class(0.06, 0.125, Some(0.75));
        assert_eq!(seats(&import, 64), (4, 8, 48));
        assert_eq!(seats(&import, 8), (1, 1, 6));
        assert_eq!(seats(&import, 1), (1, 1, 1));
        assert_eq!(seats(&class(0.0, 1.0, None), 64), (0, 64, 64));
        assert_eq!(seats(&class(0.0, 0.001, None), 64), (0, 1, 1));
        assert_eq!(seats(&class(0.5, 0.25, Some(0.1)), 10), (5, 5, 5));
    }
}
