//! What an operator's file means: its defaults, its mistakes, and what of it may change while tidegate runs.

use std::{collections::BTreeSet, io, path::Path, sync::Arc, time::Duration};

use tidegate::{
    config::{
        self, Loaded, Set, Settings, Surroundings,
        settings::{AccessLog, FreshMode, ProfileChoice, SHIPPED_PROFILES},
    },
    model::{Classes, Mode, SHIPPED_CLASSES},
    profile,
    written::{self, Mistake, Mistakes, Severity, Source},
};

const SHIPPED: &str = include_str!("../config/tidegate.toml");

fn environment(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8123".to_owned()),
        "HOST" => Some("app.secret.internal".to_owned()),
        "SPAN" => Some("7m".to_owned()),
        _ => None,
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("/etc/tidegate/admin.token") => Ok("s3cret-t0ken\n".to_owned()),
        Some("/etc/tidegate/other.token") => Ok("an0ther\n".to_owned()),
        Some("/etc/tidegate/empty.token") => Ok(" \n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn read(text: &str, overlays: &[&str], previous: Option<&Classes>) -> (Option<Loaded>, Vec<Mistake>) {
    let source = Arc::new(Source { name: "t.toml".to_owned(), text: text.to_owned() });
    let overlays: Vec<Set> = overlays.iter().map(|argument| Set::parse(argument).expect(argument)).collect();
    let mistakes = Mistakes::default();
    let surroundings = Surroundings { folder: Path::new("/etc/tidegate"), environment: &environment, read_file: &read_file, previous };
    let loaded = config::load(&source, &overlays, &surroundings, &mistakes);
    (loaded, mistakes.into_list())
}

fn loaded(text: &str, overlays: &[&str]) -> Settings {
    let (loaded, mistakes) = read(text, overlays, None);
    loaded.unwrap_or_else(|| panic!("{text}\n{}", written::render(&mistakes))).settings
}

/// All errors as lines.
fn errors(text: &str) -> Vec<String> {
    let (loaded, mistakes) = read(text, &[], None);
    let errors: Vec<String> = mistakes.iter().filter(|mistake| mistake.severity == Severity::Error).map(ToString::to_string).collect();
    assert_eq!(loaded.is_none(), !errors.is_empty(), "{text}: {errors:?}");
    errors
}

fn warnings(text: &str) -> Vec<String> {
    let (loaded, mistakes) = read(text, &[], None);
    assert!(loaded.is_some(), "{text}\n{}", written::render(&mistakes));
    mistakes.iter().map(ToString::to_string).collect()
}

/// The shipped file with every key that is absent by default written out.
fn uncommented() -> String {
    let key = |line: &str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    SHIPPED.lines().map(|line| if key(line) { &line[1..] } else { line }).fold(String::new(), |text, line| text + line + "\n")
}

/// The dotted names of all values below a node; a list is one value.
fn leaves(node: &written::Node, path: &str, into: &mut BTreeSet<String>) {
    if let written::Value::Table(fields) = &node.value {
        for (key, field) in fields {
            leaves(field, &if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) }, into);
        }
    } else {
        into.insert(path.to_owned());
    }
}

fn keys_of(text: &str) -> BTreeSet<String> {
    let source = Arc::new(Source { name: "t.toml".to_owned(), text: text.to_owned() });
    let mistakes = Mistakes::default();
    let mut keys = BTreeSet::new();
    leaves(&written::parse(&source, &mistakes), "", &mut keys);
    assert!(!mistakes.any_error(), "{text}");
    keys
}

/// Keys of later work: absent from the shipped file, refused by name.
const REFUSED: [&str; 2] = ["listen.tls", "class.noop.slow_age"];

/// Every key outside of classes with a valid value that is not its default.
const CHANGED: [(&str, &str); 70] = [
    ("profile", "'couchdb'"),
    ("listen.address", "'[::]:1'"),
    ("listen.trusted_proxies", "['10.0.0.0/8']"),
    ("listen.client_address", "'true-client-ip'"),
    ("listen.connections_max", "7"),
    ("listen.keep_alive", "'7s'"),
    ("listen.head_timeout", "'7s'"),
    ("listen.body_timeout", "'7s'"),
    ("listen.head_bytes_max", "'16KiB'"),
    ("listen.body_bytes_max", "'7B'"),
    ("listen.body_rate_min", "'0'"),
    ("listen.drain_delay", "'7s'"),
    ("listen.drain_timeout", "'7s'"),
    ("admin.address", "'127.0.0.2:9090'"),
    ("admin.token_file", "'other.token'"),
    ("app.servers", "'app.internal:80'"),
    ("app.health", "'/up?deep=1'"),
    ("app.health_interval", "'100ms'"),
    ("app.seats", "32"),
    ("app.connections_max", "100"),
    ("app.connect_timeout", "'7s'"),
    ("app.head_timeout", "'7s'"),
    ("app.body_timeout", "'7s'"),
    ("app.total_timeout", "'77s'"),
    ("app.zombie_ttl", "'77s'"),
    ("app.upstream_cancels", "true"),
    ("app.idle_timeout", "'7s'"),
    ("app.age_max", "'7s'"),
    ("app.resolve_interval", "'7s'"),
    ("app.buffer", "'7KiB'"),
    ("app.buffer_memory_max", "'7MiB'"),
    ("inspect.bytes_max", "'7KiB'"),
    ("inspect.memory_max", "'7MiB'"),
    ("gate.mode", "'shadow'"),
    ("gate.linger", "'7s'"),
    ("gate.linger_bytes", "'7KiB'"),
    ("gate.lingering_max", "7"),
    ("gate.long_cost", "'2.5ms'"),
    ("gate.long_reply", "'7KiB'"),
    ("gate.documents_max", "7"),
    ("gate.clients_max", "7"),
    ("stream.max", "77"),
    ("stream.per_client", "7"),
    ("fresh.mode", "'on'"),
    ("fresh.age_max", "'2h'"),
    ("fresh.age_max_down", "'7h'"),
    ("fresh.refresh_after", "'7s'"),
    ("fresh.doubt", "'77s'"),
    ("fresh.start_doubt", "'0s'"),
    ("fresh.settle", "'7s'"),
    ("fresh.answers_max", "'7MiB'"),
    ("fresh.answer_max", "'7KiB'"),
    ("fresh.documents_max", "7"),
    ("fresh.keys_max", "7"),
    ("fresh.depth_max", "7"),
    ("fresh.joiners_max", "7"),
    ("fresh.audit", "0"),
    ("log.access", "'off'"),
    ("log.clients_plain", "true"),
    ("log.lines_max", "7"),
    ("state.file", "'other.state'"),
    ("report.expose", "'all'"),
    ("class.noop.slow", "true"),
    ("class.sync.slow", "true"),
    ("class.large.slow", "false"),
    ("class.import.slow", "false"),
    ("class.other.slow", "true"),
    ("class.import.head_timeout", "'7s'"),
    ("class.large.reserve", "0.1"),
    ("class.import.ceiling", "0.2"),
];

/// The keys of every class with a valid value that is nobody's default.
const CLASS_CHANGED: [(&str, &str); 18] = [
    ("reserve", "0.03"),
    ("ceiling", "0.7"),
    ("idle_ceiling", "0.9"),
    ("weight", "3"),
    ("wait_max", "'100ms'"),
    ("queue_max", "0"),
    ("head_timeout", "'33s'"),
    ("long_after", "'7s'"),
    ("rate.per_second", "0.7"),
    ("rate.burst", "7"),
    ("rate.mode", "'enforce'"),
    ("client.in_flight", "7"),
    ("client.rate.per_second", "0.7"),
    ("client.rate.burst", "7"),
    ("client.rate.mode", "'enforce'"),
    ("client.mode", "'off'"),
    ("mode", "'off'"),
    ("closed", "true"),
];

/// Both tables: every key that can be changed.
fn changes() -> Vec<(String, &'static str)> {
    let classes = SHIPPED_CLASSES.iter().flat_map(|class| CLASS_CHANGED.map(|(key, value)| (format!("class.{class}.{key}"), value)));
    CHANGED.iter().map(|(key, value)| ((*key).to_owned(), *value)).chain(classes).collect()
}

#[test]
fn the_shipped_file_means_the_defaults() {
    let (shipped, mistakes) = read(SHIPPED, &[], None);
    assert!(mistakes.is_empty(), "{}", written::render(&mistakes));
    assert_eq!(shipped.expect("no mistakes").settings, Settings::defaults());
}

#[test]
fn what_the_shipped_file_writes_behind_a_hash_is_valid_too() {
    let whole = loaded(&uncommented(), &[]);
    let admin = whole.admin.expect("an admin listener");
    assert_eq!(admin.token.as_deref(), Some("s3cret-t0ken"));
    let hidden = keys_of(&uncommented()).difference(&keys_of(SHIPPED)).count();
    assert!(hidden > 40, "{hidden}");
}

#[test]
fn the_shipped_file_holds_every_key_that_is_read_and_no_other() {
    let tables = ["", "listen", "admin", "app", "inspect", "gate", "stream", "fresh", "log", "state", "report"].map(str::to_owned);
    let classes =
        SHIPPED_CLASSES.iter().flat_map(|class| ["", ".client", ".client.rate", ".rate"].map(|below| format!("class.{class}{below}")));
    let mut known = BTreeSet::new();
    for table in tables.into_iter().chain(classes) {
        let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
        let complaint = errors(&format!("{header}zzzz = 1"));
        let (_, list) = complaint.iter().find_map(|line| line.split_once("known here: ")).unwrap_or_else(|| panic!("{complaint:?}"));
        let dotted = |key: &str| if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        known.extend(list.split(", ").map(dotted));
    }
    known.retain(|key| !known_tables().contains(key.as_str()));
    let refused: BTreeSet<String> =
        known.iter().filter(|key| REFUSED.contains(&key.as_str()) || key.ends_with(".slow_age")).cloned().collect();
    assert_eq!(refused.len(), REFUSED.len() + SHIPPED_CLASSES.len() - 1);
    let active: BTreeSet<String> = known.difference(&refused).cloned().collect();
    assert_eq!(keys_of(&uncommented()), active);
    let without = ["listen.proxy_protocol"].map(str::to_owned);
    let changed: BTreeSet<String> = changes().into_iter().map(|(key, _)| key).chain(without).collect();
    assert_eq!(changed, active, "the tests below change every key");
}

fn known_tables() -> BTreeSet<String> {
    let mut tables: BTreeSet<String> =
        ["listen", "admin", "app", "inspect", "gate", "stream", "fresh", "class", "log", "state", "report"].map(str::to_owned).into();
    for class in SHIPPED_CLASSES {
        tables.extend(["client", "client.rate", "rate"].map(|below| format!("class.{class}.{below}")));
    }
    tables
}

#[test]
fn every_key_changes_the_settings_and_what_is_shown_of_them() {
    let base = uncommented();
    for (key, value) in changes() {
        // An idle ceiling needs a ceiling below it to differ from.
        let room = key.strip_suffix("idle_ceiling").map(|class| format!("{class}ceiling=0.7"));
        let room: Vec<&str> = room.iter().map(String::as_str).collect();
        let before = loaded(&base, &room);
        let change = format!("{key}={value}");
        let after = loaded(&base, &[room, vec![&change]].concat());
        assert_ne!(before, after, "{key}");
        assert_ne!(before.shown(), after.shown(), "{key}");
    }
}

#[test]
fn keys_of_later_work_are_refused_by_name() {
    for key in REFUSED {
        let (table, name) = key.rsplit_once('.').expect("a dotted key");
        let errors = errors(&format!("[{table}]\n{name} = 'x'"));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&format!("t.toml:2:1: `{key}` needs ")), "{errors:?}");
        assert!(errors[0].ends_with(", which this version does not have; remove it"), "{errors:?}");
    }
    for (text, wanted) in [
        ("[listen]\nproxy_protocol = true", "t.toml:2:1: `listen.proxy_protocol` needs the PROXY protocol"),
        ("[app]\nservers = ['a:1', 'b:1']", "t.toml:2:19: `app.servers` with several servers needs balancing"),
        ("listen.tls.address = '0.0.0.0:443'", "t.toml:1:8: `listen.tls` needs TLS"),
    ] {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(wanted) && errors[0].contains(", which this version does not have; "), "{wanted}: {errors:?}");
    }
}

/// A text with one mistake, where it is told, and part of what is told.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("prfile = 'x'", "1:1", "there is no key `prfile`; did you mean `profile`?"),
    ("profile = 'dynalis'", "1:11", "did you mean `dynalist`? (a profile of your own is a path"),
    ("profile = 3", "1:11", "`profile` must be a string, not a whole number"),
    ("[lisen]\naddress = ''", "1:2", "there is no key `lisen`; did you mean `listen`?"),
    ("listen = 3", "1:10", "`listen` must be a table, not a whole number; write [listen]"),
    ("[listen]\naddress = 'localhost:80'", "2:11", "write \"127.0.0.1:80\""),
    ("[listen]\naddress = ':80'", "2:11", "write \"0.0.0.0:80\" or \"[::]:80\""),
    ("[listen]\naddress = '8080'", "2:11", "write \"127.0.0.1:8080\", or \"0.0.0.0:8080\" for everybody"),
    ("[listen]\naddress = '1.2.3.4'", "2:11", "write an address and a port"),
    ("[listen]\ntrusted_proxies = ['10.0.0.0/8', '10.0.0.0/33']", "2:34", "`listen.trusted_proxies` cannot hold \"10.0.0.0/33\""),
    ("[listen]\nclient_address = 'x-real-ip'", "2:18", "write one of \"x-forwarded-for\", \"forwarded\""),
    ("[listen]\nconnections_max = 0", "2:19", "write a whole number from 1 to 1000000"),
    ("[listen]\nkeep_alive = '5'", "2:14", "write a number and a unit"),
    ("[listen]\nkeep_alive = 5", "2:14", "`listen.keep_alive` must be a string"),
    ("[listen]\nkeep_alive = '0'", "2:14", "write at least \"1ms\" and at most \"1d\""),
    ("[listen]\nhead_bytes_max = '1KiB'", "2:18", "write at least \"8KiB\" and at most \"1MiB\""),
    ("[listen]\nkeep_alive = '5s'\nkeep_alive = '6s'", "3:1", "duplicate key"),
    (
        "[admin]\naddress = '127.0.0.1:8080'",
        "2:11",
        "`admin.address` 127.0.0.1:8080 meets `listen.address` 127.0.0.1:8080; write another port",
    ),
    ("[admin]\naddress = '0.0.0.0:9090'", "2:11", "can be reached from other machines without a token; write token_file"),
    ("[admin]\ntoken_file = 'admin.token'", "2:14", "`admin.token_file` stands without `admin.address`"),
    ("[admin]\naddress = '127.0.0.1:1'\ntoken_file = 'x'", "3:14", "`admin.token_file` cannot be read: "),
    ("[admin]\naddress = '127.0.0.1:1'\ntoken_file = 'empty.token'", "3:14", "names a file that holds no token"),
    ("[app]\nservers = []", "2:11", "`app.servers` names no server"),
    ("[app]\nservers = 'app'", "2:11", "write a host and a port"),
    ("[app]\nservers = 'app:0'", "2:11", "write a host and a port"),
    ("[app]\nservers = 'http://app:80/'", "2:11", "write \"app:80\""),
    ("[app]\nservers = 'https://app'", "2:11", "app servers behind TLS need a later version"),
    ("[app]\nservers = 'unix:/run/app'", "2:11", "app servers on Unix sockets need a later version"),
    ("[app]\nservers = '127.0.0.1:8080'", "2:11", "names 127.0.0.1:8080, where tidegate itself listens"),
    ("[app]\nhealth = 'health'", "2:10", "write a path, such as \"/health\""),
    ("[app]\nseats = 0", "2:9", "write a whole number from 1 to 100000"),
    ("[app]\nseats = 64.0", "2:9", "`app.seats` must be a whole number, not a number"),
    ("[app]\nconnections_max = 63", "2:19", "`app.connections_max` 63 is below `app.seats` 64"),
    ("[app]\nhead_timeout = '11m'", "2:16", "`app.head_timeout` 11m is longer than `app.total_timeout` 10m"),
    ("[app]\ntotal_timeout = '59s'", "2:17", "`class.import.head_timeout` 1m is longer than `app.total_timeout` 59s"),
    ("[app]\nzombie_ttl = '59s'", "2:14", "`class.import.head_timeout` 1m is longer than `app.zombie_ttl` 59s"),
    ("[app]\nupstream_cancels = 'yes'", "2:20", "write upstream_cancels = true or upstream_cancels = false"),
    ("[app]\nbuffer_memory_max = '1KiB'", "2:21", "holds not even one `app.buffer` of 1MiB"),
    ("[inspect]\nbytes_max = '64MiB'\nmemory_max = '1MiB'", "3:14", "write inspect.memory_max = \"64MiB\" or more"),
    ("[gate]\nmode = 'on'", "2:8", "write one of \"off\", \"shadow\", \"enforce\""),
    ("[gate]\nlngr = '1s'", "2:1", "there is no key `gate.lngr`; did you mean `linger`?"),
    ("[fresh]\nmode = 'yes'", "2:8", "write one of \"off\", \"verify\", \"on\""),
    ("[fresh]\ndoubt = '0s'", "2:9", "write at least \"1ms\" and at most \"7d\""),
    ("[fresh]\naudit = -1", "2:9", "write a whole number from 0 to"),
    ("[fresh]\nkeys_max = 0", "2:12", "write a whole number from 1 to"),
    ("[fresh]\nanswer_max = '300MiB'", "2:14", "`fresh.answers_max` 256MiB holds not even one `fresh.answer_max` of 300MiB"),
    ("[fresh]\nage_max = '5m'", "2:11", "`fresh.refresh_after` 10m is not below `fresh.age_max` 5m; write refresh_after = \"50s\" or less"),
    ("[fresh]\nrefresh_after = '1h'", "2:17", "`fresh.refresh_after` 1h is not below `fresh.age_max` 1h"),
    ("[fresh]\nage_max = '13h'", "2:11", "`fresh.age_max_down` 12h is below `fresh.age_max` 13h; write age_max_down = \"13h\" or more"),
    ("[log]\naccess = 'stdot'", "2:10", "write \"stdout\", \"off\", or a path"),
    ("[report]\nexpose = 'me'", "2:10", "write one of \"none\", \"trusted\", \"all\""),
    ("[state]\nfile = ''", "2:8", "write a path"),
    ("[class.Big]", "1:8", "a class cannot be called `Big`; write a small letter"),
    ("[class.none]", "1:8", "a class cannot be called `none`"),
    ("[class]\nnoop = 3", "2:8", "`class.noop` must be a table"),
    ("[class.sync]\nreserve = 0.91", "2:11", "write a number from 0 to 0.9"),
    (
        "[class.sync]\nreserve = 0.6",
        "2:11",
        "the reserves of all classes come to 0.91: sync 0.6, large 0.25, import 0.06; lower them to 0.9 in all",
    ),
    ("[class.large]\nceiling = 0.2", "2:11", "`class.large.ceiling` 0.2 is below `class.large.reserve` 0.25"),
    ("[class.noop]\nceiling = 0", "2:11", "write closed = true"),
    ("[class.large]\nidle_ceiling = 0.5", "2:16", "`class.large.idle_ceiling` 0.5 is below `class.large.ceiling` 0.625"),
    ("[class.large]\nceiling = 0.8", "2:11", "`class.large.idle_ceiling` 0.75 is below `class.large.ceiling` 0.8"),
    ("[class.noop]\nweight = 0", "2:10", "write a whole number from 1 to 1000"),
    ("[class.noop]\nlong_after = 'off'", "2:14", "or \"never\""),
    ("[class.noop]\nhead_timeout = '11m'", "2:16", "`class.noop.head_timeout` 11m is longer than `app.total_timeout` 10m"),
    (
        "[class.noop]\nrate = { per_second = 1, brst = 2, burst = 1 }",
        "2:26",
        "there is no key `class.noop.rate.brst`; did you mean `burst`?",
    ),
    ("[class.noop]\nrate = { per_second = 1 }", "2:1", "`class.noop.rate.burst` is missing"),
    ("[class.noop]\nrate = { burst = 1 }", "2:1", "`class.noop.rate.per_second` is missing"),
    ("[class.noop]\nrate = { per_second = 0, burst = 1 }", "2:23", "`class.noop.rate.per_second` cannot be 0"),
    ("[class.noop]\nrate = { per_second = nan, burst = 1 }", "2:23", "`class.noop.rate.per_second` cannot be NaN"),
    ("[class.noop]\nrate = { per_second = 1, burst = 0 }", "2:34", "write a whole number from 1 to"),
    ("[class.noop]\nrate = { per_second = 1e-9, burst = 5 }", "2:37", "would take longer than 146 years to fill"),
    ("[class.noop]\nclient = { in_flight = 0 }", "2:24", "write a whole number from 1 to"),
    ("[class.noop]\nclient.rate = 3", "2:15", "`class.noop.client.rate` must be a table"),
    ("[state]\nfile = '${NOBODY}'", "2:9", "the environment variable `NOBODY` is not set"),
    ("app.servers = 'x:${NOBODY}'", "1:18", "the environment variable `NOBODY` is not set"),
    ("app.servers = \"\\u0024{NOBODY}\"", "1:15", "the environment variable `NOBODY` is not set"),
    ("[state]\nfile = 'a${PORT'", "2:8", "a `${` without its `}`"),
    ("[state]\nfile = 'a${}'", "2:10", "`${}` names no environment variable"),
];

#[test]
fn every_mistake_has_its_place_and_says_what_to_write_instead() {
    for (text, place, part) in MISTAKES {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{text}: {errors:#?}");
        assert!(errors[0].starts_with(&format!("t.toml:{place}: ")), "{text}: {errors:?}");
        assert!(errors[0].contains(part), "{text}: {errors:?}");
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_with_carets() {
    let all = "profile = 'dynalis'\n[listen]\naddress = 'localhost:80'\n[app]\nseats = 0\nhealth = 1\n[class.sync]\nreserve = 0.8\n";
    let (loaded, mistakes) = read(all, &[], None);
    assert!(loaded.is_none());
    let errors = mistakes.iter().filter(|mistake| mistake.severity == Severity::Error).count();
    assert_eq!(errors, 5, "{mistakes:#?}");
    let text = written::render(&mistakes);
    for place in ["t.toml:1:11", "t.toml:3:11", "t.toml:5:9", "t.toml:6:10", "t.toml:8:11", "^^^^^^^^^"] {
        assert!(text.contains(place), "{place} in\n{text}");
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let quiet = "profile = 'couchdb'\napp.servers = 'a:1'\n";
    assert!(warnings(quiet).is_empty());
    for (text, part) in [
        ("app.servers = 'a:1'", "`profile` is not set"),
        ("profile = 'couchdb'", "`app.servers` is not set: requests go to 127.0.0.1:3000"),
        (&format!("{quiet}listen.client_address = 'forwarded'"), "t.toml:3:25: `listen.client_address` is believed from nobody"),
        (&format!("{quiet}stream = {{ max = 3, per_client = 4 }}"), "t.toml:3:34: `stream.per_client` can never be reached"),
        (&format!("{quiet}fresh.doubt = '59s'"), "t.toml:3:15: `fresh.doubt` 59s is below the head_timeout 1m of class import"),
        (&format!("{quiet}class.noop.long_after = '30s'"), "t.toml:3:25: `class.noop.long_after` 30s is not below"),
    ] {
        let warnings = warnings(text);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(part), "{warnings:?}");
    }
}

/// Name, slow, reserve, ceiling, idle ceiling, weight, wait, queue, per client, long after, head time-out: seconds.
type Row = (&'static str, bool, f64, f64, Option<f64>, u32, u64, usize, u32, Option<u64>, u64);

#[test]
fn the_shipped_classes_have_the_shares_of_the_design() {
    let table: [Row; 5] = [
        ("noop", false, 0.0, 1.0, None, 4, 20, 4000, 4, Some(1), 30),
        ("sync", false, 0.25, 1.0, None, 8, 20, 4000, 4, Some(1), 30),
        ("large", true, 0.25, 0.625, Some(0.75), 2, 25, 400, 1, None, 30),
        ("import", true, 0.06, 0.125, Some(0.75), 1, 20, 200, 1, None, 60),
        ("other", false, 0.0, 1.0, None, 4, 20, 1000, 8, None, 30),
    ];
    let settings = Settings::defaults();
    let found: Vec<Row> = settings
        .classes
        .iter()
        .map(|(index, _)| {
            let class = settings.of(index);
            assert!(!class.removed && !class.closed && class.rate.is_none() && class.client_rate.is_none());
            assert_eq!((class.mode, class.client_mode), (Mode::Enforce, Mode::Enforce));
            let (wait, long) = (class.wait_max.as_secs(), class.long_after.map(|span| span.as_secs()));
            let client = class.client_in_flight.expect("a cap");
            let name = SHIPPED_CLASSES[index.index()];
            (
                name,
                class.slow,
                class.reserve,
                class.ceiling,
                class.idle_ceiling,
                class.weight,
                wait,
                class.queue_max,
                client,
                long,
                class.head_timeout.as_secs(),
            )
        })
        .collect();
    assert_eq!(found, table);
}

#[test]
fn a_mode_is_inherited_from_the_table_around_it() {
    let modes = |text: &str| {
        let settings = loaded(text, &[]);
        let class = settings.of(settings.classes.find("noop").expect("shipped")).clone();
        let rate = class.rate.expect("a rate").mode;
        let client_rate = class.client_rate.expect("a rate").mode;
        [settings.gate.mode, class.mode, rate, class.client_mode, client_rate].map(Mode::label).join(" ")
    };
    let rates = "[class.noop]\nrate = { per_second = 1, burst = 1 }\nclient.rate = { per_second = 1, burst = 1 }\n";
    assert_eq!(modes(rates), "enforce enforce enforce enforce enforce");
    assert_eq!(modes(&format!("gate.mode = 'shadow'\n{rates}")), "shadow shadow shadow shadow shadow");
    assert_eq!(modes(&format!("{rates}mode = 'shadow'")), "enforce shadow shadow shadow shadow");
    assert_eq!(modes(&format!("{rates}client.mode = 'shadow'")), "enforce enforce enforce shadow shadow");
    assert_eq!(
        modes(
            &format!("{rates}client.mode = 'shadow'\nclient.rate.mode = 'off'")
                .replace("client.rate = { per_second = 1, burst = 1 }", "client.rate.per_second = 1\nclient.rate.burst = 1")
        ),
        "enforce enforce enforce shadow off"
    );
}

#[test]
fn a_class_without_its_own_head_timeout_has_the_apps() {
    let settings = loaded("[app]\nhead_timeout = '9s'\n[class.sync]\nhead_timeout = '8s'", &[]);
    let spans: Vec<u64> = settings.class.iter().map(|class| class.head_timeout.as_secs()).collect();
    assert_eq!(spans, [9, 8, 9, 60, 9]);
    let ttls: Vec<u64> = settings.classes.iter().map(|(class, _)| settings.zombie_ttl(class).as_secs()).collect();
    assert_eq!(ttls, [14, 13, 14, 65, 14]);
}

#[test]
fn paths_start_from_the_files_folder() {
    let settings = loaded("profile = 'mine.toml'\nstate.file = 's/x'\nlog.access = '/var/log/a'", &[]);
    let other = loaded("log.access = 'access.log'", &[]);
    assert_eq!(other.log.access, AccessLog::File("/etc/tidegate/access.log".into()));
    assert_eq!(settings.profile, ProfileChoice::File("/etc/tidegate/mine.toml".into()));
    assert_eq!(settings.state_file.as_deref(), Some(Path::new("/etc/tidegate/s/x")));
    assert_eq!(settings.log.access, AccessLog::File("/var/log/a".into()));
}

#[test]
fn a_flag_is_laid_over_the_file_and_named_in_its_mistakes() {
    let file = "[app]\nseats = 8\nhealth = '/h'\n[class.import]\nrate = { per_second = 1, burst = 2 }\n";
    let settings = loaded(file, &["app.seats=32", "gate.linger=2s", "class.import.rate.burst=9", "listen.address=127.0.0.1:1"]);
    assert_eq!((settings.app.seats, settings.app.health.as_deref()), (32, Some("/h")));
    assert_eq!(settings.gate.linger, Duration::from_secs(2));
    assert_eq!(settings.of(settings.classes.find("import").expect("shipped")).rate.expect("a rate").burst, 9);
    assert_eq!(settings.listen.address.port(), 1);
    let (loaded, mistakes) = read(file, &["app.seats=0", "app.seat=3"], None);
    assert!(loaded.is_none());
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert!(lines.iter().any(|line| line.starts_with("--set app.seats=0:1:11: `app.seats` cannot be 0")), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.starts_with("--set app.seat=3:1:5: there is no key `app.seat`; did you mean `seats`?")),
        "{lines:?}"
    );
}

#[test]
fn three_flags_do_without_a_file() {
    let source = Arc::new(Source { name: "flags".to_owned(), text: String::new() });
    let flags = [
        Set::flag("--listen", "listen.address", "127.0.0.1:8081"),
        Set::flag("--app", "app.servers", "127.0.0.1:3001"),
        Set::flag("--profile", "profile", "couchdb"),
        Set::flag("--admin", "admin.address", "127.0.0.1:9090"),
    ];
    let surroundings = Surroundings { folder: Path::new(""), environment: &environment, read_file: &read_file, previous: None };
    let mistakes = Mistakes::default();
    let settings = config::load(&source, &flags, &surroundings, &mistakes).expect("valid").settings;
    assert!(mistakes.into_list().is_empty());
    assert_eq!(settings.app.servers, ["127.0.0.1:3001"]);
    assert_eq!(settings.profile, ProfileChoice::Shipped("couchdb".to_owned()));
    assert_eq!(settings.admin.expect("an admin").address.port(), 9090);
}

#[test]
fn what_came_from_the_environment_is_used_and_shown_nowhere() {
    let settings = loaded("app.servers = '${HOST}:${PORT}'\n[class.sync]\nhead_timeout = '${SPAN}'", &[]);
    assert_eq!(settings.app.servers, ["app.secret.internal:8123"]);
    let shown = settings.shown();
    assert_eq!(shown["app"]["servers"], "(hidden)");
    assert_eq!(shown["class"]["sync"]["head_timeout"], "(hidden)");
    assert!(!shown.to_string().contains("secret"));
    let wrong = "app.servers = 'a b ${HOST}'";
    let (loaded, mistakes) = read(wrong, &[], None);
    assert!(loaded.is_none());
    let text = written::render(&mistakes);
    assert!(text.contains("cannot hold \"a b ${HOST}\"") && !text.contains("secret"), "{text}");
}

#[test]
fn a_token_stands_in_no_text() {
    let settings = loaded("admin = { address = '0.0.0.0:9090', token_file = 'admin.token' }", &[]);
    assert_eq!(settings.admin.as_ref().and_then(|admin| admin.token.as_deref()), Some("s3cret-t0ken"));
    assert_eq!(settings.shown()["admin"]["token"], "(hidden)");
    assert!(!format!("{settings:?}{}{}", settings.shown(), config::describe(&settings)).contains("s3cret"));
}

#[test]
fn a_class_keeps_its_index_over_reloads_and_its_place_when_removed() {
    let (first, _) = read("[class.b]\n[class.a]\nweight = 7", &[], None);
    let first = first.expect("valid");
    let names: Vec<(&str, String)> =
        first.class_places.iter().map(|(class, at)| (first.settings.classes.name(*class), at.to_string())).collect();
    assert_eq!(names, [("b", "t.toml:1:8".to_owned()), ("a", "t.toml:2:8".to_owned())]);
    let (second, _) = read("[class.c]\n[class.a]", &[], Some(&first.settings.classes));
    let second = second.expect("valid");
    let names: Vec<(&str, bool)> =
        second.settings.classes.iter().map(|(class, name)| (name, second.settings.of(class).removed)).skip(5).collect();
    assert_eq!(names, [("b", true), ("a", false), ("c", false)]);
    assert_eq!(second.settings.class.len(), 8);
    let (third, _) = read("[class.b]", &[], Some(&second.settings.classes));
    let third = third.expect("valid").settings;
    let removed: Vec<bool> = third.class.iter().skip(5).map(|class| class.removed).collect();
    assert_eq!(removed, [false, true, true]);
}

#[test]
fn the_seventeenth_class_is_one_too_many() {
    let many = |count: usize| (0..count).fold(String::new(), |text, number| format!("{text}[class.c{number}]\n"));
    assert!(errors(&many(11)).is_empty());
    let errors = errors(&many(12));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("t.toml:12:8: `class.c11` is one class too many: at most 16"), "{errors:?}");
}

#[test]
fn what_cannot_change_live_names_itself_and_is_marked_in_the_shipped_file() {
    let base = uncommented();
    let before = loaded(&base, &[]);
    let mut marked = 0;
    for (key, value) in CHANGED {
        let after = loaded(&base, &[&format!("{key}={value}")]);
        let named = config::unchangeable(&before, &after);
        let restart = comment_of(key).contains("(restart)");
        assert_eq!(named, if restart { vec![key] } else { Vec::new() }, "{key}");
        marked += usize::from(restart);
    }
    assert_eq!(marked, SHIPPED.matches("(restart)").count() - 1, "the head of the file explains the word once");
    let without = Settings { admin: None, ..before.clone() };
    assert_eq!(config::unchangeable(&before, &without), ["admin.address"]);
}

/// The comment above a key of the shipped file.
fn comment_of(key: &str) -> String {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let body = if section.is_empty() { SHIPPED } else { SHIPPED.split_once(&format!("\n[{section}]\n")).expect("a table of this name").1 };
    let starts = |line: &str| line.trim_start_matches('#').split_once(" = ").is_some_and(|(known, _)| known == name);
    let lines: Vec<&str> = body.lines().take_while(|line| !starts(line)).collect();
    lines.iter().rev().take_while(|line| line.starts_with("# ")).fold(String::new(), |text, line| format!("{line}{text}"))
}

#[test]
fn two_listeners_and_the_app_need_addresses_of_their_own() {
    let clash = |listen: &str, admin: &str, app: &str| {
        errors(&format!("listen.address = '{listen}'\nadmin.address = '{admin}'\napp.servers = '{app}'")).len()
    };
    assert_eq!(clash("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"), 0);
    assert_eq!(clash("127.0.0.1:1", "127.0.0.2:1", "127.0.0.1:3"), 0);
    assert_eq!(clash("0.0.0.0:1", "127.0.0.1:1", "127.0.0.1:3"), 1);
    assert_eq!(clash("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:3"), 0);
    assert_eq!(clash("0.0.0.0:1", "127.0.0.1:2", "127.0.0.1:1"), 1);
    assert_eq!(clash("0.0.0.0:1", "127.0.0.1:2", "10.0.0.9:1"), 0);
    assert_eq!(clash("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:2"), 1);
    assert_eq!(clash("[::1]:1", "[::1]:2", "[::1]:1"), 1);
}

#[test]
fn reserves_of_exactly_nine_tenths_are_enough() {
    let text =
        "class.sync.reserve = 0\nclass.large.reserve = 0.2\nclass.import = { reserve = 0.4, ceiling = 0.5 }\nclass.other.reserve = 0.3";
    let settings = loaded(text, &[]);
    assert!(settings.class.iter().map(|class| class.reserve).sum::<f64>() > 0.9, "their sum in binary is above");
}

#[test]
fn trusted_networks_are_cut_to_their_length() {
    let settings = loaded("listen.trusted_proxies = ['10.1.2.3/8', '192.0.2.7', '2001:db8::1/32']", &[]);
    let shown: Vec<String> = settings.listen.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]);
}

#[test]
fn check_shows_the_shares_as_seats() {
    let text = config::describe(&loaded("app.seats = 64\n[class.import]\nrate = { per_second = 2, burst = 10, mode = 'shadow' }", &[]));
    let import: Vec<&str> = text.lines().find(|line| line.starts_with("import")).expect("a row").split_whitespace().collect();
    assert_eq!(import.join(" "), "import yes 4 8 48 1 20s 200 1 - 1m 2, burst 10 (shadow) - enforce");
    assert!(text.starts_with("64 seats, shared as follows:\nclass   slow  reserve"), "{text}");
}

#[test]
fn doubt_follows_the_longest_head_timeout_while_it_is_not_set_and_check_says_so() {
    let doubts = |text: &str| {
        let settings = loaded(text, &[]);
        (settings.fresh.doubt.as_secs(), settings.fresh.start_doubt.as_secs(), config::describe(&settings))
    };
    let (doubt, start, text) = doubts("");
    assert_eq!((doubt, start), (120, 120));
    assert_eq!(loaded("", &[]).fresh.mode, FreshMode::Verify);
    assert!(text.contains("in doubt for 2m: fresh.doubt is not set") && text.contains("fresh.mode = \"verify\""), "{text}");
    let (doubt, start, _) = doubts("class.large.head_timeout = '90s'\nclass.import.head_timeout = '2m'");
    assert_eq!((doubt, start), (240, 240));
    let (doubt, start, text) = doubts("[fresh]\nmode = 'on'\ndoubt = '61s'");
    assert_eq!((doubt, start), (61, 61));
    assert!(text.contains("in doubt for 61s (fresh.doubt)") && text.contains("fresh.mode = \"on\""), "{text}");
    let (doubt, start, _) = doubts("[fresh]\nstart_doubt = '0'");
    assert_eq!((doubt, start), (120, 0));
}

#[test]
fn the_shipped_profiles_have_the_same_names_everywhere() {
    assert_eq!(SHIPPED_PROFILES, profile::SHIPPED);
}

#[test]
fn no_text_makes_reading_panic() {
    const ODD: [char; 18] = ['"', '\'', '[', ']', '{', '}', '=', '.', '\n', ',', '#', '0', 'é', '$', '-', 'x', 'e', ' '];
    let seed = 2017;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let whole = uncommented();
    let (mut sound, mut broken) = (0, 0);
    for _ in 0..300 {
        let mut text: Vec<char> = whole.chars().collect();
        for _ in 0..random.usize(1..4) {
            let start = random.usize(..text.len());
            let end = (start + random.usize(..20)).min(text.len());
            let other: Vec<char> = (0..random.usize(..4)).map(|_| random.choice(ODD).unwrap_or('x')).collect();
            text.splice(start..end, other);
        }
        let text: String = text.into_iter().collect();
        let (loaded, mistakes) = read(&text, &[], None);
        let _ = written::render(&mistakes);
        if let Some(loaded) = loaded {
            sound += 1;
            let _ = (loaded.settings.shown(), config::describe(&loaded.settings));
        } else {
            broken += 1;
        }
    }
    assert!(sound > 10 && broken > 10, "{sound} {broken}");
}
