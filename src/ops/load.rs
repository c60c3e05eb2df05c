//! From what the command line said to settings and a compiled profile: every file read once, every mistake told at once.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write,
    fs::File,
    hash::Hasher,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{
    config::{self, Set, Settings, settings::ProfileChoice},
    model::Classes,
    profile::{self, Profile},
    written::{self, At, Mistake, Mistakes, Severity, Source, Value},
};

/// The most bytes of one file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Where settings come from: a file or none, with flags laid over it.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// A configuration given as text, where there is no file.
    pub text: Option<Arc<Source>>,
    /// What flags said, in the order in which they are laid over the file.
    pub overlays: Vec<Set>,
    /// The flags as they may be shown: without the values of `--set`.
    pub flags: Vec<String>,
}

/// The flags of `tidegate run` that stand for a key.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--listen`
    pub listen: Option<String>,
    /// `--app`
    pub app: Option<String>,
    /// `--profile`
    pub profile: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--set KEY=VALUE`, any number.
    pub set: Vec<String>,
}

impl Origin {
    /// Reads the flags. A profile's path on the command line is relative to the working directory, not to the configuration file.
    ///
    /// # Errors
    /// Every `--set` that cannot be read.
    pub fn new(config: Option<PathBuf>, flags: &Flags) -> Result<Self, Vec<Mistake>> {
        let mistakes = Mistakes::default();
        let mut origin = Self { config, ..Self::default() };
        let profile = flags.profile.as_deref().map(from_here);
        for (flag, key, value) in [
            ("--listen", "listen.address", &flags.listen),
            ("--app", "app.servers", &flags.app),
            ("--profile", "profile", &profile),
            ("--admin", "admin.address", &flags.admin),
        ] {
            if let Some(value) = value {
                origin.overlays.push(Set::flag(flag, key, value));
                origin.flags.push(format!("{flag} {value}"));
            }
        }
        for argument in &flags.set {
            match Set::parse(argument) {
                Ok(set) => {
                    origin.overlays.push(set);
                    origin.flags.push(format!("--set {}", argument.split_once('=').map_or("", |(key, _)| key.trim())));
                }
                Err(instead) => mistakes.elsewhere(format!("`--set {argument}` cannot be read"), instead),
            }
        }
        if mistakes.any_error() { Err(mistakes.into_list()) } else { Ok(origin) }
    }
}

fn from_here(profile: &str) -> String {
    if profile::SHIPPED.contains(&profile) || !(profile.contains('/') || Path::new(profile).extension().is_some()) {
        return profile.to_owned();
    }
    std::path::absolute(profile).map_or_else(|_| profile.to_owned(), |path| path.display().to_string())
}

/// Settings and profile, checked against each other, with where they came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The profile.
    pub profile: Arc<Profile>,
    /// Every file that was read, or that should have been.
    pub files: Files,
    /// The hash of all files and flags, as 32 hex digits: equal means that the same was written.
    pub hash: String,
    /// What is probably not as its author thinks.
    pub warnings: Vec<Mistake>,
}

/// Files by path, with a hash of what stood in them; `None` for one that could not be read.
pub type Files = BTreeMap<PathBuf, Option<u128>>;

/// Why nothing could be loaded.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Everything that is wrong, warnings included.
    pub mistakes: Vec<Mistake>,
    /// Every file that was read, or that should have been: when one of them changes, it is worth another try.
    pub files: Files,
}

/// Reads everything that `origin` names. `previous` are the classes before a reload, whose indices stay.
///
/// # Errors
/// Everything that is wrong.
pub fn load(origin: &Origin, previous: Option<&Classes>) -> Result<Loaded, Box<Refused>> {
    let reading = Reading::default();
    let mistakes = Mistakes::default();
    let found = reading.settings_and_profile(origin, previous, &mistakes);
    let files = reading.files.into_inner();
    let refused = mistakes.any_error();
    let list = mistakes.into_list();
    match found {
        Some((settings, profile)) if !refused => {
            let hash = hash_of_all(origin, &files);
            Ok(Loaded { settings, profile: Arc::new(profile), files, hash, warnings: list })
        }
        _ => Err(Box::new(Refused { mistakes: list, files })),
    }
}

/// What stands in these files now.
#[must_use]
pub fn read_again<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Files {
    paths.into_iter().map(|path| (path.clone(), read(path).ok().map(|bytes| hash(&bytes)))).collect()
}

/// Files that are being read, remembered by path.
#[derive(Default)]
struct Reading {
    files: RefCell<Files>,
}

impl Reading {
    fn settings_and_profile(&self, origin: &Origin, previous: Option<&Classes>, mistakes: &Mistakes) -> Option<(Settings, Profile)> {
        let source = match &origin.config {
            Some(path) => self.source(path).map_err(|error| mistakes.elsewhere(cannot_read(path, &error), "")).ok()?,
            None => origin.text.clone().unwrap_or_else(|| Arc::new(Source { name: "no file".to_owned(), text: String::new() })),
        };
        let folder = origin.config.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let surroundings =
            config::Surroundings { folder, environment: &|name| std::env::var(name).ok(), read_file: &|path| self.text(path), previous };
        let Some(found) = config::load(&source, &origin.overlays, &surroundings, mistakes) else {
            self.profile_of_a_broken_file(&source, folder, mistakes);
            return None;
        };
        let profile = self.profile(&found.settings.profile, &found.profile_place, &found.settings.classes, mistakes)?;
        let used = profile.classes_used();
        for (class, at) in found.class_places.iter().filter(|(class, _)| !used.contains(class)) {
            unused(found.settings.classes.name(*class), at, mistakes);
        }
        Some((found.settings, profile))
    }

    fn profile(&self, choice: &ProfileChoice, place: &At, classes: &Classes, mistakes: &Mistakes) -> Option<Profile> {
        let source = match self.profile_source(choice) {
            Ok(source) => source,
            Err(what) => {
                mistakes.error(place, what, "");
                return None;
            }
        };
        let folder = match choice {
            ProfileChoice::File(path) => path.parent().unwrap_or(Path::new("")),
            ProfileChoice::Shipped(_) => Path::new(""),
        };
        let extend = |name: &str| {
            let shipped = profile::SHIPPED.contains(&name);
            self.profile_source(&if shipped { ProfileChoice::Shipped(name.to_owned()) } else { ProfileChoice::File(folder.join(name)) })
        };
        Profile::compile(&source, &extend, classes, mistakes)
    }

    fn profile_source(&self, choice: &ProfileChoice) -> Result<Arc<Source>, String> {
        match choice {
            ProfileChoice::Shipped(name) => profile::shipped(name)
                .map(|text| Arc::new(Source { name: format!("the shipped profile {name}"), text: text.to_owned() }))
                .ok_or_else(|| format!("there is no shipped profile `{name}`")),
            ProfileChoice::File(path) => self.source(path).map_err(|error| cannot_read(path, &error)),
        }
    }

    /// The mistakes of a profile whose configuration is broken, so that both are told at once. The configuration's own are told already.
    fn profile_of_a_broken_file(&self, source: &Arc<Source>, folder: &Path, mistakes: &Mistakes) {
        let root = written::parse(source, &Mistakes::default());
        let Value::Table(fields) = &root.value else { return };
        let at = |wanted: &str| fields.iter().find(|(key, _)| key.name == wanted).map(|(_, node)| node);
        let mut classes = Classes::shipped();
        let own: Vec<_> = match at("class").map(|node| &node.value) {
            Some(Value::Table(named)) => named.iter().map(|(key, _)| key).filter(|key| classes.find(&key.name).is_none()).collect(),
            _ => Vec::new(),
        };
        for key in &own {
            classes.intern(&key.name);
        }
        let Some(node) = at("profile") else { return };
        if let Value::Text(name) = &node.value
            && !profile::SHIPPED.contains(&name.as_str())
            && folder.join(name).is_file()
        {
            let Some(profile) = self.profile(&ProfileChoice::File(folder.join(name)), &node.at, &classes, mistakes) else { return };
            let used: Vec<_> = profile.classes_used().into_iter().map(|class| classes.name(class)).collect();
            for key in own.iter().filter(|key| !used.contains(&key.name.as_str())) {
                unused(&key.name, &key.at, mistakes);
            }
        }
    }

    fn source(&self, path: &Path) -> io::Result<Arc<Source>> {
        // Without `./` in its middle.
        let shown: PathBuf = path.components().collect();
        Ok(Arc::new(Source { name: shown.display().to_string(), text: self.text(path)? }))
    }

    fn text(&self, path: &Path) -> io::Result<String> {
        let bytes = read(path);
        let seen = bytes.as_ref().ok().map(|bytes| hash(bytes));
        self.files.borrow_mut().insert(path.to_owned(), seen);
        String::from_utf8(bytes?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
    }
}

fn unused(class: &str, at: &At, mistakes: &Mistakes) {
    let instead = format!("give a route of the profile `class = \"{class}\"`, or take [class.{class}] out");
    mistakes.error(at, format!("no route of the profile uses the class `{class}`"), instead);
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("`{}` cannot be read: {error}", path.display())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 4 MiB"));
    }
    Ok(bytes)
}

fn hash(bytes: &[u8]) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish128().as_u128()
}

fn hash_of_all(origin: &Origin, files: &Files) -> String {
    let mut text = format!("{:?}{:?}", origin.text.as_ref().map(|source| &source.text), origin.overlays);
    for (path, seen) in files {
        // Writing into a string cannot fail.
        let _ = write!(text, "\n{} {seen:?}", path.display());
    }
    format!("{:032x}", hash(text.as_bytes()))
}

/// Whether any of them keeps the files from being used.
#[must_use]
pub fn any_error(mistakes: &[Mistake]) -> bool {
    mistakes.iter().any(|mistake| mistake.severity == Severity::Error)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const ROUTE: &str = "name = \"mine\"\n[[route]]\nname = \"r\"\npath = \"/x\"\nwrites = []\n";

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("written");
        }
        folder
    }

    fn origin(folder: &TempDir, set: &[&str]) -> Origin {
        let flags = Flags { set: set.iter().map(|set| (*set).to_owned()).collect(), ..Flags::default() };
        Origin::new(Some(folder.path().join("tidegate.toml")), &flags).expect("flags")
    }

    fn names(folder: &TempDir, files: &Files) -> Vec<String> {
        files.keys().map(|path| path.strip_prefix(folder.path()).unwrap_or(path).display().to_string()).collect()
    }

    fn told(refused: &Refused) -> String {
        written::render(&refused.mistakes)
    }

    #[test]
    fn every_file_that_counts_is_read_and_hashed() {
        let other = ROUTE.replace("mine", "other");
        let folder = folder(&[
            (
                "tidegate.toml",
                "profile = \"./mine.toml\"\n[admin]\naddress = \"127.0.0.1:9090\"\ntoken_file = \"token\"\n[app]\nservers = [\"127.0.0.1:1\"]\n",
            ),
            ("mine.toml", &format!("extends = \"./other.toml\"\n{ROUTE}")),
            ("other.toml", &other),
            ("token", "opensesame"),
        ]);
        let first = load(&origin(&folder, &[]), None).map_err(|refused| told(&refused)).expect("sound");
        assert_eq!(names(&folder, &first.files), ["mine.toml", "other.toml", "tidegate.toml", "token"]);
        assert_eq!((first.profile.name.as_str(), first.hash.len()), ("mine", 32));
        assert_eq!(read_again(first.files.keys()), first.files);
        let again = load(&origin(&folder, &[]), None).expect("sound");
        assert_eq!(again.hash, first.hash);
        for (name, text) in
            [("token", "openwheat"), ("other.toml", &format!("# new\n{other}")), ("tidegate.toml", "profile = \"./mine.toml\"")]
        {
            fs::write(folder.path().join(name), text).expect("written");
            assert_ne!(load(&origin(&folder, &[]), None).expect("sound").hash, first.hash, "{name}");
            assert_ne!(read_again(first.files.keys()), first.files, "{name}");
        }
        let hash = |set: &[&str]| load(&origin(&folder, set), None).expect("sound").hash;
        assert_eq!(hash(&[]), hash(&[]));
        assert_ne!(hash(&["app.seats=3"]), hash(&[]), "flags count too");
    }

    #[test]
    fn what_is_wrong_is_told_at_once_with_the_files_to_watch() {
        let folder = folder(&[
            ("tidegate.toml", "profile = \"./mine.toml\"\n[class.sync]\nweight = -1\nqueue_mux = 3\n[class.wiki]\n"),
            ("mine.toml", &format!("{ROUTE}class = \"wiki\"\nlong = \"wake\"\npaths = 3\n")),
        ]);
        let refused = load(&origin(&folder, &[]), None).expect_err("refused");
        let told = told(&refused);
        for part in ["weight", "queue_mux", "wake", "paths", "mine.toml:", "tidegate.toml:3"] {
            assert!(told.contains(part), "`{part}` is not in\n{told}");
        }
        assert_eq!(names(&folder, &refused.files), ["mine.toml", "tidegate.toml"]);
    }

    #[test]
    fn a_class_that_no_route_uses_is_told_with_its_place() {
        let folder = folder(&[("tidegate.toml", "profile = \"./mine.toml\"\n[class.wiki]\nweight = 2\n"), ("mine.toml", ROUTE)]);
        let refused = load(&origin(&folder, &[]), None).expect_err("refused");
        let told = told(&refused);
        assert!(told.contains("no route of the profile uses the class `wiki`") && told.contains("tidegate.toml:2:"), "{told}");
        fs::write(folder.path().join("mine.toml"), format!("{ROUTE}class = \"wiki\"\n")).expect("written");
        assert!(load(&origin(&folder, &[]), None).is_ok());
    }

    #[test]
    fn a_file_that_is_not_there_not_text_or_too_long_is_told_and_watched() {
        let folder = folder(&[("tidegate.toml", "profile = \"./missing.toml\"\n")]);
        let refused = load(&origin(&folder, &[]), None).expect_err("refused");
        assert!(told(&refused).contains("missing.toml"), "{}", told(&refused));
        assert_eq!(refused.files.get(&folder.path().join("./missing.toml")), Some(&None));
        fs::write(folder.path().join("tidegate.toml"), [0xff, 0xfe]).expect("written");
        assert!(told(&load(&origin(&folder, &[]), None).expect_err("refused")).contains("UTF-8"));
        fs::write(folder.path().join("tidegate.toml"), "# long\n".repeat(1 << 20)).expect("written");
        assert!(told(&load(&origin(&folder, &[]), None).expect_err("refused")).contains("4 MiB"));
        fs::remove_file(folder.path().join("tidegate.toml")).expect("removed");
        let refused = load(&origin(&folder, &[]), None).expect_err("refused");
        assert_eq!(names(&folder, &refused.files), ["tidegate.toml"]);
    }

    #[test]
    fn flags_alone_are_enough_and_values_of_set_are_not_shown() {
        let flags = Flags {
            listen: Some("127.0.0.1:8080".to_owned()),
            app: Some("127.0.0.1:3000".to_owned()),
            profile: Some("couchdb".to_owned()),
            admin: None,
            set: vec!["app.seats = 7".to_owned()],
        };
        let origin = Origin::new(None, &flags).expect("flags");
        assert_eq!(origin.flags, ["--listen 127.0.0.1:8080", "--app 127.0.0.1:3000", "--profile couchdb", "--set app.seats"]);
        let loaded = load(&origin, None).map_err(|refused| told(&refused)).expect("sound");
        assert_eq!((loaded.settings.app.seats, loaded.files.len()), (7, 0));
        let wrong = Flags { set: vec!["a".to_owned(), "app.seats=3".to_owned(), "=".to_owned()], ..Flags::default() };
        assert_eq!(Origin::new(None, &wrong).expect_err("refused").len(), 2, "all at once");
    }

    #[test]
    fn a_profile_on_the_command_line_is_relative_to_where_one_stands() {
        assert_eq!(from_here("couchdb"), "couchdb");
        assert_eq!(from_here("couchdv"), "couchdv", "a mistyped name is told as such");
        for path in ["./mine.toml", "mine.toml", "profiles/mine"] {
            assert!(Path::new(&from_here(path)).is_absolute(), "{path}");
        }
    }
}
