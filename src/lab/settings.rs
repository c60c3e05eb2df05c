//! The configuration of the demo's tidegate: the shipped defaults with every time divided by the pace and every rate multiplied by
//! it, as TOML, so that it passes through the same reading as an operator's file.

use std::{fmt::Write, net::SocketAddr, time::Duration};

use super::scenario::Scenario;

/// `[class.NAME]` keys that are times, in seconds as shipped (DESIGN section 10's table); the shares are used as shipped.
const CLASSES: [(&str, &[(&str, u64)]); 5] = [
    ("noop", &[("wait_max", 20), ("long_after", 1)]),
    ("sync", &[("wait_max", 20), ("long_after", 1)]),
    ("large", &[("wait_max", 25)]),
    ("import", &[("wait_max", 20), ("head_timeout", 60)]),
    ("other", &[("wait_max", 20)]),
];

/// The configuration for a tidegate in front of `app`.
#[must_use]
pub fn settings(scenario: &Scenario, app: SocketAddr) -> String {
    let scaled = |span: Duration| format!("\"{}us\"", scenario.pace.clock(span).as_micros());
    let seconds = |seconds: u64| scaled(Duration::from_secs(seconds));
    let mut text = String::from("profile = \"dynalist\"\n");
    let _ = writeln!(text, "[listen]\naddress = \"127.0.0.1:0\"");
    let _ = writeln!(text, "head_timeout = {}\nbody_timeout = {}\ndrain_timeout = {}", seconds(10), seconds(15), seconds(30));
    let _ = writeln!(text, "[admin]\naddress = \"127.0.0.1:0\"");
    let _ = writeln!(text, "[app]\nservers = [\"{app}\"]\nseats = {}", scenario.service.connections);
    let _ = writeln!(text, "head_timeout = {}\nbody_timeout = {}", seconds(30), seconds(15));
    // As long as the class with the longest time-out takes by default, head_timeout + 5 s; the 5 s are scaled too.
    let _ = writeln!(text, "zombie_ttl = {}", seconds(65));
    let _ = writeln!(text, "[gate]\nlinger = {}\nlong_cost = {}", seconds(5), scaled(Duration::from_millis(25)));
    for (class, keys) in CLASSES {
        let _ = writeln!(text, "[class.{class}]");
        for (key, value) in keys {
            let _ = writeln!(text, "{key} = {}", seconds(*value));
        }
    }
    text.push_str("[log]\naccess = \"off\"\n");
    text
}
