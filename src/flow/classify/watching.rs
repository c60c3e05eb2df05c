//! Watches an upload for whatever contradicts what its beginning showed, and widens its request to a write of everything.

use std::fmt;

use crate::{
    profile::{Verdict, Watcher},
    wire::upload::Watch,
};

/// What must have happened before the bytes that made it necessary go on.
pub type Widen = Box<dyn FnOnce() + Send + Sync>;

/// A watcher and what is done once it says so.
pub struct Watching {
    watcher: Box<Watcher>,
    widen: Option<Widen>,
}

impl Watching {
    /// `widen` is called at most once, within the passing of a frame: it must not wait.
    #[must_use]
    pub fn new(watcher: Box<Watcher>, widen: Widen) -> Self {
        Self { watcher, widen: Some(widen) }
    }

    fn heed(&mut self, verdict: Verdict) {
        if verdict == Verdict::Widen
            && let Some(widen) = self.widen.take()
        {
            widen();
        }
    }
}

impl Watch for Watching {
    fn pass(&mut self, bytes: &[u8]) {
        let verdict = self.watcher.push(bytes);
        self.heed(verdict);
    }

    fn end(&mut self) {
        let verdict = self.watcher.finish();
        self.heed(verdict);
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watching").field("widened", &self.widen.is_none()).finish_non_exhaustive()
    }
}
