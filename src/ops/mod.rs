//! What operators do with tidegate: load and reload its files, look at it, check and explain what they wrote.
pub mod admin;
mod ask;
pub mod check;
pub mod explain;
pub mod health;
pub mod load;
pub mod reload;
pub mod state;
pub mod state_file;
pub mod verify;
pub mod visit;
