//! Sockets in front: connections and their limits, the client's address, and the strict reading of heads.

pub mod address;
pub mod drain;
pub mod framing;
pub mod guard;
pub mod head;
pub mod line;
pub mod listener;

pub use self::{
    drain::{Drain, Stage},
    head::{Checked, Malformed},
    line::LineState,
    listener::Connection,
};
