//! Everything that an answer depends on, as a hash.

/// Everything that an answer depends on, as a keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question(pub u128);
