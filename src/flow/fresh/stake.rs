//! What hangs on a call to the app: the write that it makes, or the question that it asks.

mod shell;

pub use self::shell::Stake;
