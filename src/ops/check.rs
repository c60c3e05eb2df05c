//! `tidegate check FILE`: every mistake at once, each with its place and what to write instead, and what the settings come to.

use std::path::Path;

use super::load::{self, Flags, Loaded, Origin};
use crate::{
    config::{self, settings::ProfileChoice},
    written::{self, Mistakes, Severity, Source, Value},
};

/// What a check found, for the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Mistakes and warnings; empty if there are none.
    pub complaints: String,
    /// What the settings come to; empty if the file is not used.
    pub summary: String,
    /// Whether the file would be used.
    pub sound: bool,
}

/// Checks a configuration with its profile, or a profile by itself, with what `--set` says laid over it. The examples of the profile are
/// run as well.
#[must_use]
pub fn check(file: &Path, set: &[String]) -> Checked {
    let flags = Flags { set: set.to_vec(), ..Flags::default() };
    let profile_alone = is_profile(file);
    let origin = if profile_alone {
        // Where the app is does not matter, so nobody is to be warned that it is not said.
        Origin::new(None, &Flags { profile: Some(as_path(file)), app: Some("127.0.0.1:3000".to_owned()), ..flags })
    } else {
        Origin::new(Some(file.to_owned()), &flags)
    };
    let origin = match origin {
        Ok(origin) => origin,
        Err(mistakes) => return Checked { complaints: written::render(&mistakes), summary: String::new(), sound: false },
    };
    match load::load(&origin, None) {
        Ok(loaded) => {
            let summary = if profile_alone { String::new() } else { format!("\n{}", config::describe(&loaded.settings)) };
            let warnings = count(loaded.warnings.len(), "warning");
            let summary = format!("{} is sound: {}{warnings}.\n{summary}", file.display(), speaks(&loaded));
            Checked { complaints: written::render(&loaded.warnings), summary, sound: true }
        }
        Err(refused) => {
            let errors = refused.mistakes.iter().filter(|mistake| mistake.severity == Severity::Error).count();
            let warnings = refused.mistakes.len() - errors;
            let tail = format!("{} is not used{}{}.\n", file.display(), count(errors, "error"), count(warnings, "warning"));
            Checked { complaints: written::render(&refused.mistakes) + &tail, summary: String::new(), sound: false }
        }
    }
}

fn speaks(loaded: &Loaded) -> String {
    let routes = loaded.profile.routes();
    let routes = format!("{routes} {}", if routes == 1 { "route" } else { "routes" });
    match &loaded.settings.profile {
        ProfileChoice::Shipped(name) => format!("the shipped profile {name}, {routes}"),
        ProfileChoice::File(path) => format!("the profile {} in {}, {routes}", loaded.profile.name, path.display()),
    }
}

fn count(number: usize, noun: &str) -> String {
    match number {
        0 => String::new(),
        1 => format!(", 1 {noun}"),
        many => format!(", {many} {noun}s"),
    }
}

/// A file that has routes, or builds upon another one, is a profile.
fn is_profile(file: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    let source = std::sync::Arc::new(Source { name: String::new(), text });
    match written::parse(&source, &Mistakes::default()).value {
        Value::Table(fields) => {
            fields.iter().any(|(key, _)| ["name", "route", "extends", "example", "unmatched"].contains(&key.name.as_str()))
        }
        _ => false,
    }
}

/// The file so that it is taken for a path and not for the name of a shipped profile.
fn as_path(file: &Path) -> String {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).display().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn checked(text: &str, set: &[&str]) -> Checked {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file.toml");
        fs::write(&file, text).expect("written");
        check(&file, &set.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_sound_configuration_is_shown_as_seats() {
        let found = checked("profile = \"generic\"\n[app]\nservers = [\"127.0.0.1:3000\"]\nseats = 8\n", &["class.large.ceiling=0.5"]);
        assert!(found.sound && found.complaints.is_empty(), "{found:?}");
        assert!(found.summary.contains("the shipped profile generic") && found.summary.contains("8 seats"), "{}", found.summary);
    }

    #[test]
    fn mistakes_and_warnings_are_counted() {
        let found = checked("profile = \"generic\"\n[app]\nseets = 8\n[class.sync]\nweight = 0\n", &[]);
        assert!(!found.sound && found.summary.is_empty(), "{found:?}");
        assert!(found.complaints.contains("is not used, 2 errors"), "{}", found.complaints);
        let found = checked("", &["nonsense"]);
        assert!(!found.sound && found.complaints.contains("KEY=VALUE"), "{}", found.complaints);
    }

    #[test]
    fn a_profile_is_checked_by_itself_and_its_examples_are_run() {
        let profile =
            "name = \"mine\"\n[[route]]\nname = \"r\"\npath = \"/x\"\nwrites = []\n[[example]]\nrequest = \"GET /x\"\n[example.expect]\n";
        let found = checked(&format!("{profile}route = \"r\"\n"), &[]);
        assert!(found.sound && !found.summary.contains("seats"), "{found:?}");
        let found = checked(&format!("{profile}route = \"other\"\n"), &[]);
        assert!(!found.sound && found.complaints.contains("other"), "{found:?}");
    }
}
