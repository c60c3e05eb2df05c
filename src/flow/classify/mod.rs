//! Which route, which client, which documents, poll or write, which class.
pub mod documents;
