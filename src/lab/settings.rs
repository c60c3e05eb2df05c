//! The configuration of the demo's tidegate, as TOML: the shipped defaults, with every time that concerns the service's work played as
//! much faster as the incident is. Left as they are: shares and counts, what concerns connections as such (opening, idling, resolving), and
//! what has no key. No rate is limited by default, so there is none to play faster.

use std::{fmt::Write, net::SocketAddr, time::Duration};

use super::scenario::Scenario;
use crate::config::Settings;

/// The configuration for a tidegate in front of `app`.
#[must_use]
pub fn settings(scenario: &Scenario, app: SocketAddr) -> String {
    let default = Settings::defaults();
    let seats = scenario.service.connections;
    // One for all classes: that of the class whose requests may take longest.
    let zombie_ttl = default.classes.iter().map(|(class, _)| default.zombie_ttl(class)).max().unwrap_or_default();
    let mut text = String::from("profile = \"dynalist\"\n");
    let mut table = |name: &str, fixed: &str, times: &[(&str, Option<Duration>)]| {
        let _ = writeln!(text, "\n[{name}]\n{fixed}");
        for (key, time) in times {
            if let Some(time) = time {
                let _ = writeln!(text, "{key} = \"{}us\"", scenario.pace.clock(*time).as_micros());
            }
        }
    };
    let times = [
        ("head_timeout", Some(default.listen.head_timeout)),
        ("body_timeout", Some(default.listen.body_timeout)),
        ("drain_timeout", Some(default.listen.drain_timeout)),
    ];
    table("listen", "address = \"127.0.0.1:0\"", &times);
    table("admin", "address = \"127.0.0.1:0\"", &[]);
    let times = [
        ("head_timeout", Some(default.app.head_timeout)),
        ("body_timeout", Some(default.app.body_timeout)),
        ("total_timeout", Some(default.app.total_timeout)),
        ("zombie_ttl", Some(zombie_ttl)),
    ];
    table("app", &format!("servers = [\"{app}\"]\nseats = {seats}"), &times);
    let fresh = &default.fresh;
    let times = [
        ("age_max", Some(fresh.age_max)),
        ("age_max_down", Some(fresh.age_max_down)),
        ("refresh_after", Some(fresh.refresh_after)),
        ("doubt", Some(fresh.doubt)),
        ("settle", Some(fresh.settle)),
    ];
    // The service starts with tidegate: nothing can have been on its way to it before.
    let mode = if scenario.answers_unchanged { "on" } else { "off" };
    table("fresh", &format!("mode = \"{mode}\"\nstart_doubt = \"0s\""), &times);
    table("gate", "", &[("linger", Some(default.gate.linger)), ("long_cost", Some(default.gate.long_cost))]);
    for (class, name) in default.classes.iter() {
        let class = default.of(class);
        let times = [("wait_max", Some(class.wait_max)), ("head_timeout", Some(class.head_timeout)), ("long_after", class.long_after)];
        table(&format!("class.{name}"), "", &times);
    }
    table("log", "access = \"off\"", &[]);
    text
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::{
        config::{self, Surroundings, settings::FreshMode},
        written::{Mistakes, Source, render},
    };

    #[test]
    fn the_service_is_protected_by_the_shipped_defaults_ten_times_faster() {
        let scenario = Scenario::shipped().expect("shipped");
        let text = settings(&scenario, SocketAddr::from(([127, 0, 0, 1], 3000)));
        let source = Arc::new(Source { name: "demo".to_owned(), text });
        let mistakes = Mistakes::default();
        let surroundings = Surroundings {
            folder: Path::new(""),
            environment: &|_| None,
            read_file: &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
            previous: None,
        };
        let loaded = config::load(&source, &[], &surroundings, &mistakes);
        let found = loaded.unwrap_or_else(|| panic!("{}", render(&mistakes.into_list()))).settings;
        let default = Settings::defaults();
        assert_eq!(found.app.seats, scenario.service.connections);
        assert_eq!((found.fresh.mode, found.fresh.start_doubt), (FreshMode::On, Duration::ZERO));
        assert_eq!((found.fresh.doubt * 10, found.fresh.refresh_after * 10), (default.fresh.doubt, default.fresh.refresh_after));
        assert_eq!(found.gate.long_cost * 10, default.gate.long_cost);
        for (class, name) in default.classes.iter() {
            let (mut found, default) = (found.of(class).clone(), default.of(class).clone());
            assert_eq!(found.wait_max * 10, default.wait_max, "{name}");
            assert_eq!(found.head_timeout * 10, default.head_timeout, "{name}");
            assert_eq!(found.long_after.map(|time| time * 10), default.long_after, "{name}");
            (found.wait_max, found.head_timeout, found.long_after) = (default.wait_max, default.head_timeout, default.long_after);
            assert_eq!(found, default, "{name}: nothing else differs");
        }
    }
}
