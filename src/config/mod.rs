//! What the operator wrote: a file (or flags) as typed, then as checked settings.
pub mod settings;

pub use settings::Settings;
