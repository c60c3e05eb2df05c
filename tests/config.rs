//! What an operator's file means: its defaults, its mistakes, and what of it may change while tidegate runs.

use std::{collections::BTreeSet, io, path::Path, sync::Arc, time::Duration};

use tidegate::{
    config::{
        self, Loaded, Set, Settings, Surroundings,
        settings::{AccessLog, ProfileChoice, SHIPPED_PROFILES},
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

#[test]
fn the_shipped_file_means_the_defaults() {
    let (shipped, mistakes) = read(SHIPPED, &[], None);
    assert!(mistakes.is_empty(), "{}", written::render(&mistakes));
    assert_eq!(shipped.expect("no mistakes").settings, Settings::defaults());
}
