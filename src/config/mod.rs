//! What the operator wrote: a file and flags as typed, then as checked settings.
//!
//! Two steps, as ripgrep's `lowargs` and `hiargs`: `typed` reads each key by itself, against its kind and bounds; `check` holds the
//! keys against each other. Every mistake of both is told at once, and only where there is none do settings come out.
mod check;
mod class;
mod environment;
mod fresh;
mod overlay;
pub mod settings;
mod show;
mod typed;

use std::{io, path::Path, sync::Arc};

pub use overlay::Set;
pub use settings::Settings;
pub use show::describe;

use crate::{
    model::{Class, Classes},
    written::{self, At, Mistakes, Source},
};

/// What a configuration refers to outside of its text. Reading it is the caller's, so that the rest is pure.
pub struct Surroundings<'a> {
    /// The folder that relative paths start from: the configuration file's.
    pub folder: &'a Path,
    /// The value of an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// The text of a file that the configuration names (`admin.token_file`).
    pub read_file: &'a dyn Fn(&Path) -> io::Result<String>,
    /// The classes before a reload: their indices stay.
    pub previous: Option<&'a Classes>,
}

/// Checked settings, with what a caller needs to check them against the profile.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Every `[class.X]` of a name that is not shipped, with its place: a mistake unless a route uses it.
    pub class_places: Vec<(Class, At)>,
    /// Where `profile` stands, for mistakes such as a file that cannot be read.
    pub profile_place: At,
}

/// Reads a configuration with what `--set` said laid over it. Every mistake goes to `mistakes`; `None` if any of them is an error.
/// A configuration without a file is an empty `source` and overlays made by [`Set::flag`].
pub fn load(source: &Arc<Source>, overlays: &[Set], surroundings: &Surroundings<'_>, mistakes: &Mistakes) -> Option<Loaded> {
    let found = Mistakes::default();
    let mut root = written::parse(source, &found);
    for overlay in overlays {
        overlay.lay_over(&mut root);
    }
    let missing = Mistakes::default();
    let filled = environment::fill(&mut root, surroundings.environment, &missing);
    let places = check::Places::of(&root);
    let (mut settings, class_places) = typed::read(&root, surroundings, &found);
    settings.masked = filled.iter().map(|filled| filled.key.clone()).collect();
    check::check(&settings, &places, &found);
    let sound = !found.any_error() && !missing.any_error();
    let seen = found.into_list().into_iter().filter_map(|mistake| environment::hide(mistake, &filled));
    for mistake in missing.into_list().into_iter().chain(seen) {
        mistakes.add(mistake);
    }
    sound.then(|| Loaded { settings, class_places, profile_place: places.at("profile").clone() })
}

impl Settings {
    /// What an empty file means.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "it cannot: a test reads the defaults")]
    pub fn defaults() -> Self {
        let source = Arc::new(Source { name: "defaults".to_owned(), text: String::new() });
        let surroundings = Surroundings {
            folder: Path::new(""),
            environment: &|_| None,
            read_file: &|_| Err(io::ErrorKind::NotFound.into()),
            previous: None,
        };
        load(&source, &[], &surroundings, &Mistakes::default()).expect("the defaults break no rule").settings
    }
}

/// The keys that differ but cannot change while tidegate runs; a reload that would change any of them is refused whole.
///
/// The listeners were bound at the start, perhaps with rights that are gone since. The pool of connections belongs to its server. What
/// the other five bound was allocated at the start, and `fresh.depth_max` is part of the names of what was written. Everything else takes
/// effect on a reload, at the latest with the next connection.
#[must_use]
pub fn unchangeable(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let admin = |settings: &Settings| settings.admin.as_ref().map(|admin| admin.address);
    [
        ("listen.address", old.listen.address != new.listen.address),
        ("admin.address", admin(old) != admin(new)),
        ("app.servers", old.app.servers != new.app.servers),
        ("gate.lingering_max", old.gate.lingering_max != new.gate.lingering_max),
        ("gate.documents_max", old.gate.documents_max != new.gate.documents_max),
        ("gate.clients_max", old.gate.clients_max != new.gate.clients_max),
        ("fresh.documents_max", old.fresh.documents_max != new.fresh.documents_max),
        ("fresh.depth_max", old.fresh.depth_max != new.fresh.depth_max),
        ("log.access", old.log.access != new.log.access),
        ("log.lines_max", old.log.lines_max != new.log.lines_max),
        ("state.file", old.state_file != new.state_file),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}
