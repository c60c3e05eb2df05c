//! Everything that an answer depends on, as a hash.
