//! The end rules of a call, in its `Drop`.

use bytes::Bytes;
use http::response::Parts;

/// What hangs on a call.
#[derive(Debug, Default)]
pub struct Stake {}

impl Stake {
    /// The first byte of an attempt's head is about to be sent.
    pub fn sending(&mut self) {}
    /// Not one byte of the attempt was written.
    pub fn unsent(&mut self) {}
    /// The attempt ended in a way of which nobody knows whether it took effect.
    pub fn lost(&mut self) {}
    /// The final head has come; nothing of it has gone on.
    pub fn answered(&mut self, _head: &Parts) {}
    /// Up to how many bytes of the reply's body must be read before anything of it goes on; none: it need not be read.
    pub fn holds(&self) -> Option<usize> {
        None
    }
    /// The reply's body, if it is not longer than that.
    pub fn replied(&mut self, _body: Option<&[u8]>) {}
    /// Up to how many bytes of the reply's body are wanted; 0: none.
    pub fn copies(&self) -> usize {
        0
    }
    /// It is longer than that, or there was no memory for it.
    pub fn too_long(&mut self) {}
    /// The answer is complete to its last byte. `body`: what was copied of it; `trailers`: whether it has any; `sent`: the request was sent
    /// whole.
    pub fn whole(&mut self, _body: Option<Bytes>, _trailers: bool, _sent: bool) {}
}
