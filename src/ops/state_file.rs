//! What was learned, kept over a restart: read at the start, written every minute and at the end, off the request path.
//!
//! The file is JSON with a version and a section per part of the house; a section that is not known is left alone. It is written to a second
//! file beside it, which then takes its name, so that it is whole at every moment. It is a help and never a condition: one that cannot be
//! understood is told, kept aside as `NAME.broken`, and done without.
//!
//! Only a clean stop writes which documents are in doubt (FRESH rule 15: a lost write may still be committed). The next start takes that
//! out before it uses it, so that no later one can: were it found again after a crash, it would hide what was lost since.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    flow::{
        classify::documents::Documents,
        fresh::{keys::Key, shell::Doubts},
    },
};

const VERSION: u64 = 2;

/// The versions that are read: the first had no documents in doubt.
const VERSIONS: std::ops::RangeInclusive<u64> = 1..=VERSION;

/// A longer file is none of ours.
const BYTES_MAX: u64 = 64 << 20;

/// How often it is written.
pub const INTERVAL: Duration = Duration::from_mins(1);

/// The text of a state file.
fn encode(documents: &Value, doubts: Option<&Doubts>) -> Vec<u8> {
    let mut state = json!({ "state_version": VERSION, "documents": documents });
    if let Some(doubts) = doubts {
        state["doubts"] = doubts_section(doubts);
    }
    text_of(&state)
}

fn text_of(state: &Value) -> Vec<u8> {
    let mut text = state.to_string().into_bytes();
    text.push(b'\n');
    text
}

/// A state file's text.
///
/// # Errors
/// Why this is no state file, as the end of a sentence.
fn decode(text: &[u8]) -> Result<Value, String> {
    let state: Value = serde_json::from_slice(text).map_err(|error| format!("is not JSON: {error}"))?;
    match state.get("state_version").and_then(Value::as_u64) {
        Some(version) if VERSIONS.contains(&version) => Ok(state),
        Some(version) => Err(format!("has version {version}, and this tidegate reads {VERSION}")),
        None => Err("is not a state file of tidegate".to_owned()),
    }
}

/// Times are what is left of them, rounded up: they are counted anew from the next start, and no clock is asked how long ago the stop was.
fn doubts_section(doubts: &Doubts) -> Value {
    let left = |span: Duration| u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let documents: Vec<(u64, u64)> = doubts.doubts.iter().map(|(key, span)| (key.0, left(*span))).collect();
    json!({ "secret": doubts.secret, "names": doubts.names, "documents_ms": documents })
}

/// The documents in doubt; `None` where anything of it cannot be understood, for half of them would be worse than none.
fn doubts_of(section: Value) -> Option<Doubts> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Section {
        secret: [u64; 2],
        names: u64,
        documents_ms: Vec<(u64, u64)>,
    }
    let Section { secret, names, documents_ms } = serde_json::from_value(section).ok()?;
    let doubts = documents_ms.into_iter().map(|(key, left)| (Key(key), Duration::from_millis(left))).collect();
    Some(Doubts { secret, names, doubts })
}

/// The file `[state] file`.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// At this path.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Gives `documents` what the file holds; to be called before the first request. True if there was something. Never fails: what is wrong
    /// is told in the log.
    pub async fn read(&self, documents: &Arc<Documents>) -> bool {
        let (file, documents) = (self.clone(), Arc::clone(documents));
        spawn_blocking(move || file.read_now(&documents)).await.unwrap_or(false)
    }

    /// Writes what `documents` knows and, at the end of a clean stop, which documents are in doubt.
    ///
    /// # Errors
    /// What the file system says; the file is then as it was.
    async fn write(&self, documents: &Arc<Documents>, doubts: Option<Doubts>) -> io::Result<()> {
        let (file, documents) = (self.clone(), Arc::clone(documents));
        let write = move || file.replace(&encode(&documents.save(), doubts.as_ref()));
        spawn_blocking(write).await.map_err(io::Error::other)?
    }

    /// Takes out of the file which documents are in doubt: to be called once, before the first request. `None` if the last process did not
    /// stop cleanly, if it did not say, or if it cannot be taken out. Blocks; never fails: what is wrong is told in the log.
    #[must_use]
    pub fn take_doubts(&self) -> Option<Doubts> {
        // What else may be wrong with the file is told when the rest of it is read.
        let mut state = decode(&self.text().ok()?).ok()?;
        let section = state.as_object_mut()?.remove("doubts")?;
        let file = self.path.display();
        if let Err(error) = self.replace(&text_of(&state)) {
            tracing::warn!(%file, %error, "the documents in doubt cannot be taken out of the state file: everything is in doubt instead");
            return None;
        }
        let doubts = doubts_of(section);
        if doubts.is_none() {
            tracing::warn!(%file, "the documents in doubt in the state file cannot be understood: everything is in doubt instead");
        }
        doubts
    }

    /// Writes every [`INTERVAL`], and once more when `stop` comes, with the documents in doubt that `last` then tells; then ends. A failure is
    /// told in the log, once until it works again.
    pub async fn keep(self, documents: Arc<Documents>, stop: CancellationToken, last: impl FnOnce() -> Option<Doubts>) {
        let mut failing = false;
        let mut doubts = Some(last);
        loop {
            let last = stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none();
            let doubts = doubts.take_if(|_| last).and_then(|doubts| doubts());
            match self.write(&documents, doubts).await {
                Err(error) if !failing || last => {
                    tracing::warn!(file = %self.path.display(), %error, "the state file cannot be written");
                    failing = true;
                }
                Err(_) => {}
                Ok(()) => failing = false,
            }
            if last {
                return;
            }
        }
    }

    fn read_now(&self, documents: &Documents) -> bool {
        let file = self.path.display();
        let text = match self.text() {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return false,
            Err(error) => {
                tracing::warn!(%file, %error, "the state file cannot be read; starting without it");
                return false;
            }
        };
        let taken = decode(&text).and_then(|state| {
            let known = documents.restore(&state["documents"], clock::now());
            known.then_some(()).ok_or_else(|| "holds documents that cannot be understood".to_owned())
        });
        let Err(reason) = taken else {
            return true;
        };
        let aside = self.beside(".broken");
        match fs::rename(&self.path, &aside) {
            Ok(()) => {
                tracing::warn!(%file, kept = %aside.display(), "the state file {reason}; it is kept aside, starting without it");
            }
            Err(error) => tracing::warn!(%file, %error, "the state file {reason} and cannot be moved aside; starting without it"),
        }
        false
    }

    /// The file's bytes, at most one more than a state file may have (which is then no JSON any more).
    fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        File::open(&self.path)?.take(BYTES_MAX + 1).read_to_end(&mut text)?;
        Ok(text)
    }

    /// Puts this text in the file's place, whole or not at all. Readable by its owner only: it holds the key of the documents' hash.
    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let new = self.beside(".new");
        let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).and_then(|mut file| {
            file.write_all(text)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        });
        if let Err(error) = written {
            // What is left of it would only take room; that it cannot be removed either says nothing new.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(suffix);
        PathBuf::from(name)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::{
        clock::Moment,
        flow::classify::documents::Bounds,
        model::{Class, Classes, DocumentKey},
    };

    fn documents() -> Arc<Documents> {
        Arc::new(Documents::bounded(Bounds {
            documents_max: 1000,
            long_cost: Duration::from_millis(25),
            long_reply: 1000,
            long_after: Vec::new(),
            classes: Classes::shipped(),
        }))
    }

    fn known(count: u64) -> Arc<Documents> {
        let documents = documents();
        (0..count).for_each(|key| documents.moved(&[DocumentKey(key)], Class(1), Moment(0)));
        documents
    }

    fn names(folder: &TempDir) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_is_written_is_read_at_the_next_start() {
        let folder = TempDir::new().expect("a folder");
        let file = StateFile::new(folder.path().join("state"));
        assert!(!file.read(&documents()).await);
        file.write(&known(1), None).await.expect("writable");
        file.write(&known(3), None).await.expect("writable");
        let again = documents();
        assert!(file.read(&again).await);
        assert_eq!(again.counts(), (3, 3));
        assert_eq!(names(&folder), ["state"]);
        let mode = fs::metadata(&file.path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_broken_or_foreign_file_is_kept_aside_and_done_without() {
        let whole = encode(&known(3).save(), None);
        let half = whole[..whole.len() / 2].to_vec();
        for text in [
            half,
            b"".to_vec(),
            b"\xff\xfe".to_vec(),
            b"[]".to_vec(),
            b"{}".to_vec(),
            br#"{"state_version":2,"documents":{}}"#.to_vec(),
            br#"{"state_version":3,"documents":{}}"#.to_vec(),
            br#"{"state_version":1}"#.to_vec(),
            br#"{"state_version":1,"documents":{"version":1}}"#.to_vec(),
            "[".repeat(100_000).into_bytes(),
        ] {
            let folder = TempDir::new().expect("a folder");
            let file = StateFile::new(folder.path().join("state"));
            fs::write(&file.path, &text).expect("writable");
            let documents = known(1);
            assert!(!file.read(&documents).await);
            assert_eq!(documents.counts(), (1, 1));
            assert_eq!(names(&folder), ["state.broken"]);
            assert_eq!(fs::read(folder.path().join("state.broken")).expect("there"), text);
            file.write(&documents, None).await.expect("writable");
            assert_eq!(names(&folder), ["state", "state.broken"]);
        }
    }

    #[tokio::test]
    async fn a_section_of_another_part_is_left_alone() {
        let folder = TempDir::new().expect("a folder");
        let file = StateFile::new(folder.path().join("state"));
        let state = json!({"state_version": 1, "other": [1], "documents": known(2).save()});
        fs::write(&file.path, state.to_string()).expect("writable");
        let again = documents();
        assert!(file.read(&again).await);
        assert_eq!(again.counts().0, 2);
    }

    #[tokio::test]
    async fn where_nothing_can_be_written_the_old_file_stays() {
        let folder = TempDir::new().expect("a folder");
        let file = StateFile::new(folder.path().join("state"));
        file.write(&known(2), None).await.expect("writable");
        fs::create_dir(folder.path().join("state.new")).expect("creatable");
        assert!(file.write(&known(3), None).await.is_err());
        let again = documents();
        assert!(file.read(&again).await);
        assert_eq!(again.counts().0, 2);
        assert!(StateFile::new(folder.path().join("no/such/folder")).write(&known(1), None).await.is_err());
        let is_a_folder = StateFile::new(folder.path().to_owned());
        assert!(!is_a_folder.read(&documents()).await && folder.path().is_dir());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_written_every_minute_and_at_the_end() {
        let folder = TempDir::new().expect("a folder");
        let file = StateFile::new(folder.path().join("state"));
        let (memory, stop) = (known(1), CancellationToken::new());
        let keeping = tokio::spawn(file.clone().keep(Arc::clone(&memory), stop.clone(), || Some(doubts())));
        tokio::time::sleep(INTERVAL / 2).await;
        assert!(names(&folder).is_empty());
        tokio::time::sleep(INTERVAL).await;
        while !file.path.exists() {
            tokio::task::yield_now().await;
        }
        memory.moved(&[DocumentKey(99)], Class(1), Moment(0));
        stop.cancel();
        keeping.await.expect("it ends");
        let again = documents();
        assert!(file.read(&again).await);
        assert_eq!(again.counts().0, 2);
        assert!(file.take_doubts().is_some(), "the last one says what is in doubt");
    }

    fn doubts() -> Doubts {
        Doubts {
            names: 7,
            secret: [u64::MAX, 1 << 60],
            doubts: vec![(Key(u64::MAX - 1), Duration::from_micros(1500)), (Key(3), Duration::from_hours(1))],
        }
    }

    #[tokio::test]
    async fn documents_in_doubt_are_taken_once_and_their_times_never_shrink() {
        let folder = TempDir::new().expect("a folder");
        let file = StateFile::new(folder.path().join("state"));
        assert!(file.take_doubts().is_none());
        file.write(&known(2), Some(doubts())).await.expect("writable");
        let taken = file.take_doubts().expect("it says");
        assert_eq!(taken.secret, doubts().secret);
        assert_eq!(taken.doubts, [(Key(u64::MAX - 1), Duration::from_millis(2)), (Key(3), Duration::from_hours(1))]);
        assert!(file.take_doubts().is_none(), "a crash must not find them again");
        let again = documents();
        assert!(file.read(&again).await);
        assert_eq!(again.counts().0, 2, "the rest of the file stays");
        file.write(&known(2), Some(doubts())).await.expect("writable");
        file.write(&known(2), None).await.expect("writable");
        assert!(file.take_doubts().is_none(), "what is written while it runs says nothing of doubts");
    }

    #[tokio::test]
    async fn doubts_that_cannot_be_taken_out_or_understood_are_not_used() {
        let folder = TempDir::new().expect("a folder");
        let file = StateFile::new(folder.path().join("state"));
        file.write(&known(2), Some(doubts())).await.expect("writable");
        fs::create_dir(folder.path().join("state.new")).expect("creatable");
        assert!(file.take_doubts().is_none(), "the file cannot be replaced");
        fs::remove_dir(folder.path().join("state.new")).expect("removable");
        assert!(file.take_doubts().is_some());
        for section in [
            json!({"secret": [1], "documents_ms": []}),
            json!({"secret": [1, 2]}),
            json!([]),
            json!({"secret": [1, 2], "documents_ms": [[1, -1]]}),
        ] {
            let state = json!({"state_version": 2, "documents": known(1).save(), "doubts": section});
            fs::write(&file.path, state.to_string()).expect("writable");
            assert!(file.take_doubts().is_none(), "{section}");
            assert!(!fs::read_to_string(&file.path).expect("there").contains("doubts"), "{section}");
        }
    }
}
