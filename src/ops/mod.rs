//! What operators see and do: admin listener, reload, maintenance, and what is kept over a restart.
pub mod state_file;
