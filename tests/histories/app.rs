//! The app: documents with versions, replicas that lag, and writes that may take effect long after their caller has given them up.

use super::reference::Mask;

/// Documents; the last two are what the app grants to each of two credentials.
pub const LEAVES: usize = 7;

/// A version of each document.
pub type Versions = [u32; LEAVES];

/// The documents of a set.
pub fn leaves(mask: Mask) -> impl Iterator<Item = usize> {
    (0..LEAVES).filter(move |leaf| mask & (1 << leaf) != 0)
}

/// One attempt at a write, as the app has it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What it writes, whatever was declared.
    pub mask: Mask,
    /// Whether it may still take effect: it is being worked on.
    pub open: bool,
    /// Until when it may although nobody waits for it.
    pub until: u64,
    /// When the proxy lost it.
    pub lost: Option<u64>,
    /// It may take effect more than once.
    pub is_tunnel: bool,
    /// It ended, and it is known how.
    pub known: bool,
    /// What it wrote.
    pub wrote: Versions,
    /// Nobody promises that its documents are seen before it ended.
    pub hidden: bool,
}

/// The app, with all versions that it ever had.
#[derive(Debug, Default)]
pub struct App {
    /// By document, and by version: when the next one took its place.
    superseded: [Vec<u64>; LEAVES],
    pub attempts: Vec<Attempt>,
}

impl App {
    /// The version of a document.
    pub fn version(&self, leaf: usize) -> u32 {
        u32::try_from(self.superseded[leaf].len()).expect("few versions")
    }

    /// A new version of a document.
    pub fn write(&mut self, leaf: usize, now: u64) -> u32 {
        self.superseded[leaf].push(now);
        self.version(leaf)
    }

    /// Whether this version was current at that moment or later.
    pub fn was_current(&self, leaf: usize, version: u32, since: u64) -> bool {
        self.superseded[leaf].get(version as usize).is_none_or(|superseded| *superseded >= since)
    }

    /// A version that some replica shows, which lags by less than `lag`: the `pick`th, beginning with the newest.
    pub fn show(&self, leaf: usize, now: u64, lag: u64, pick: u8) -> u32 {
        let newest = self.version(leaf);
        let shown = |version: &u32| *version == newest || self.superseded[leaf][*version as usize] + lag > now;
        let count = (0..=newest).rev().take_while(shown).count();
        newest - u32::from(pick) % u32::try_from(count).expect("few versions")
    }

    /// The attempts that may take effect now.
    pub fn may_commit(&self, now: u64) -> Vec<usize> {
        let may = |attempt: &Attempt| attempt.open && now < attempt.until;
        (0..self.attempts.len()).filter(|index| may(&self.attempts[*index])).collect()
    }
}
