//! The path of a request: accept, classify, fresh, gate, origin, report, tune.
pub mod classify;
pub mod gate;
pub mod tune;
