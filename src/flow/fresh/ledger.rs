//! Which documents were written when.

/// What a poll reads.
#[derive(Clone, Debug, Default)]
pub struct Reads;
