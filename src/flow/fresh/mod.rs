//! Answers that are provably unchanged: what the app said is replayed exactly as long as no write to its documents has begun since the app was
//! asked, provided that none was running or in doubt when it was asked.
//!
//! `keys` makes keys of scopes, `question` a hash of everything that an answer depends on. `ledger` knows which documents were written when,
//! and alone makes a `Proof`; `answers` keeps what the app said, `replay` says it again, `judge` compares two answers; `join` knows who
//! asks the same. All of these are pure; `shell` puts them behind locks, and `view` is what operators see of it.

pub mod answers;
pub mod join;
pub mod judge;
pub mod keys;
pub mod ledger;
pub mod question;
pub mod replay;
pub mod view;
