//! Which documents were written when.
