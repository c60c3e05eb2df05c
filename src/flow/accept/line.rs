//! A client's socket with what hyper does not watch: the time from a head's first byte to its end, the time between two writes, and a
//! close by reset for bodies that must not look whole.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::framing::Framing;
use crate::wire::upload::Abort;

/// What the socket and the requests on it tell each other.
#[derive(Debug, Default)]
pub struct LineState {
    serving: AtomicBool,
    abort: Abort,
    requests: AtomicU64,
    ambiguous: AtomicU64,
}

impl LineState {
    /// A head is complete and its request runs: what is read from now on is its body.
    pub fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.serving.store(true, Ordering::Release);
    }

    /// Whether the head of the request that runs frames its body in two ways, of which hyper shows one.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == self.ambiguous.load(Ordering::Relaxed)
    }

    /// The request has its answer: what is read from now on begins a head.
    pub fn end(&self) {
        self.serving.store(false, Ordering::Release);
    }

    /// The connection is to be closed by a reset.
    pub fn abort(&self) {
        self.abort.set();
    }
}

/// A client's socket.
#[derive(Debug)]
pub struct Line {
    socket: TcpStream,
    state: Arc<LineState>,
    head_timeout: Duration,
    write_timeout: Duration,
    framing: Framing,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl Line {
    /// Wraps a socket.
    #[must_use]
    pub fn new(socket: TcpStream, state: Arc<LineState>, head_timeout: Duration, write_timeout: Duration) -> Self {
        Self { socket, state, head_timeout, write_timeout, framing: Framing::default(), reading: None, writing: None }
    }

    /// A head that began and does not end runs into its time-out, unless an answer before it is still being written.
    fn watch_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.serving.load(Ordering::Acquire) || !self.framing.is_in_head() || self.writing.is_some() {
            self.reading = None;
            return Poll::Pending;
        }
        let timeout = self.head_timeout;
        let timer = self.reading.get_or_insert_with(|| Box::pin(sleep(timeout)));
        timer.as_mut().poll(context).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the request head took too long")))
    }

    fn watch_write<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.writing = None;
            return result;
        }
        let timeout = self.write_timeout;
        let timer = self.writing.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.state.abort();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")))
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(context, buffer);
        if result.is_pending() {
            return self.watch_head(context);
        }
        if let Some(head) = self.framing.see(&buffer.filled()[before..]) {
            self.state.ambiguous.store(head, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch_write(context, result)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(context, parts);
        self.watch_write(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_flush(context);
        self.watch_write(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.state.abort.is_set() {
            // Closing with a linger of zero sends a reset; if it cannot be set, the close is an ordinary one.
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}
