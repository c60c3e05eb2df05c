//! What was learned, kept over a restart: read at the start, written every minute and at the end, off the request path.
//!
//! The file is JSON with a version and a section per part of the house; a section that is not known is left alone. It is written to a second
//! file beside it, which then takes its name, so that it is whole at every moment. It is a help and never a condition: one that cannot be
//! understood is told, kept aside as `NAME.broken`, and done without.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{clock, flow::classify::documents::Documents};

const VERSION: u64 = 1;

/// A longer file is none of ours.
const BYTES_MAX: u64 = 64 << 20;

/// How often it is written.
pub const INTERVAL: Duration = Duration::from_mins(1);

/// The text of a state file.
fn encode(documents: &Value) -> Vec<u8> {
    let mut text = json!({ "state_version": VERSION, "documents": documents }).to_string().into_bytes();
    text.push(b'\n');
    text
}

/// The section of documents in a state file's text.
///
/// # Errors
/// Why this is no state file, as the end of a sentence.
fn decode(text: &[u8]) -> Result<Value, String> {
    let mut state: Value = serde_json::from_slice(text).map_err(|error| format!("is not JSON: {error}"))?;
    match state.get("state_version").and_then(Value::as_u64) {
        Some(VERSION) => Ok(state["documents"].take()),
        Some(version) => Err(format!("has version {version}, and this tidegate reads {VERSION}")),
        None => Err("is not a state file of tidegate".to_owned()),
    }
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

    /// Writes what `documents` knows.
    ///
    /// # Errors
    /// What the file system says; the file is then as it was.
    pub async fn write(&self, documents: &Arc<Documents>) -> io::Result<()> {
        let (file, documents) = (self.clone(), Arc::clone(documents));
        spawn_blocking(move || file.replace(&encode(&documents.save()))).await.map_err(io::Error::other)?
    }

    /// Writes every [`INTERVAL`], and once more when `stop` comes; then ends. A failure is told in the log, once until it works again.
    pub async fn keep(self, documents: Arc<Documents>, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let last = stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none();
            match self.write(&documents).await {
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
        let taken = decode(&text).and_then(|section| {
            let known = documents.restore(&section, clock::now());
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
        file.write(&known(1)).await.expect("writable");
        file.write(&known(3)).await.expect("writable");
        let again = documents();
        assert!(file.read(&again).await);
        assert_eq!(again.counts(), (3, 3));
        assert_eq!(names(&folder), ["state"]);
        let mode = fs::metadata(&file.path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_broken_or_foreign_file_is_kept_aside_and_done_without() {
        let whole = encode(&known(3).save());
        let half = whole[..whole.len() / 2].to_vec();
        for text in [
            half,
            b"".to_vec(),
            b"\xff\xfe".to_vec(),
            b"[]".to_vec(),
            b"{}".to_vec(),
            br#"{"state_version":2,"documents":{}}"#.to_vec(),
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
            file.write(&documents).await.expect("writable");
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
        file.write(&known(2)).await.expect("writable");
        fs::create_dir(folder.path().join("state.new")).expect("creatable");
        assert!(file.write(&known(3)).await.is_err());
        let again = documents();
        assert!(file.read(&again).await);
        assert_eq!(again.counts().0, 2);
        assert!(StateFile::new(folder.path().join("no/such/folder")).write(&known(1)).await.is_err());
        let is_a_folder = StateFile::new(folder.path().to_owned());
        assert!(!is_a_folder.read(&documents()).await && folder.path().is_dir());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_written_every_minute_and_at_the_end() {
        let folder = TempDir::new().expect("a folder");
        let file = StateFile::new(folder.path().join("state"));
        let (memory, stop) = (known(1), CancellationToken::new());
        let keeping = tokio::spawn(file.clone().keep(Arc::clone(&memory), stop.clone()));
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
    }
}
