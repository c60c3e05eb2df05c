//! Scopes as keys of the ledger.

use smallvec::SmallVec;

/// What a poll reads, as keys of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// It reads everything.
    pub everything: bool,
    /// Its keys.
    pub keys: SmallVec<[u64; 4]>,
}
