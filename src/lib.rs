//! tidegate: overload protection for document-sync services.
//!
//! The layers, lowest first; a module imports lower layers only (`tests/layers.rs` reads the sources and enforces it):
//!
//! | layer | modules |
//! | --- | --- |
//! | 0 | `model` `clock` `units` `written` `wire` |
//! | 1 | `config` `profile` |
//! | 2 | `store` |
//! | 3 | `flow` |
//! | 4 | `ops` |
//! | 5 | `app` |
//! | 6 | `lab` |
pub mod app;
pub mod clock;
pub mod config;
pub mod flow;
#[cfg(feature = "demo")]
pub mod lab;
pub mod model;
pub mod ops;
pub mod profile;
pub mod units;
pub mod wire;
pub mod written;
