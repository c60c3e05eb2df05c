//! Requests, responses and bodies as they cross tidegate, and the bounded reading of what clients send.

pub mod pipe;
pub mod upload;

use std::{
    fmt,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

pub use self::{
    pipe::{Feed, Tap},
    upload::{Fault, Linger, Upload},
};

/// A request as the server takes it in.
pub type Request = http::Request<hyper::body::Incoming>;

/// A response as it goes to the client.
pub type Response = http::Response<Body>;

/// A body on its way, one value for every shape, without a box.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Known whole.
    Full(Bytes),
    /// Known whole, with trailers (RFC 9110 section 6.5); framed by chunks.
    Trailed(Bytes, Option<HeaderMap>),
    /// What a client sends, its beginning possibly read already.
    Upload(Box<Upload>),
    /// What the app sends, read ahead of the client.
    Tap(Tap),
}

impl Body {
    /// The body of these bytes.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }

    /// A second copy, for a second sending; `None` where only one can be had.
    #[must_use]
    pub fn copy(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Full(bytes) => Some(Self::Full(bytes.clone())),
            Self::Trailed(bytes, trailers) => Some(Self::Trailed(bytes.clone(), trailers.clone())),
            Self::Upload(_) | Self::Tap(_) => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Trailed(bytes, trailers) => {
                if !bytes.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
                }
                let trailers = trailers.take();
                *self = Self::Empty;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Self::Upload(upload) => Pin::new(upload.as_mut()).poll_frame(context).map_err(Cut::Upload),
            Self::Tap(tap) => Pin::new(tap).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) | Self::Trailed(..) => false,
            Self::Upload(upload) => upload.is_end_stream(),
            Self::Tap(tap) => tap.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Trailed(..) => SizeHint::default(),
            Self::Upload(upload) => upload.size_hint(),
            Self::Tap(tap) => tap.size_hint(),
        }
    }
}

/// Why a body ends before its end: the connection that carries it is closed, so that it never looks whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The client's own sending broke off.
    Upload(Fault),
    /// The app's connection broke in the middle of its response.
    App,
    /// The app sent nothing for `body_timeout`.
    AppStalled,
    /// The response outlived its `total_timeout`.
    Late,
    /// The client read slower than `body_rate_min` while a seat was held for it.
    SlowReader,
    /// tidegate is stopping.
    Stopping,
}

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upload(fault) => return fault.fmt(formatter),
            Self::App => "the app's response was cut short",
            Self::AppStalled => "the app stopped in the middle of its response",
            Self::Late => "the response took longer than its time-out",
            Self::SlowReader => "the client reads too slowly",
            Self::Stopping => "tidegate is stopping",
        }
        .fmt(formatter)
    }
}

impl std::error::Error for Cut {}

/// A bound on bytes held in memory over all requests.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    max: AtomicU64,
}

impl Budget {
    /// A budget of `max` bytes.
    #[must_use]
    pub fn new(max: u64) -> Self {
        Self { used: AtomicU64::new(0), max: AtomicU64::new(max) }
    }

    /// Takes `bytes`, or nothing at all and false.
    pub fn take(&self, bytes: u64) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        self.used.try_update(Ordering::Relaxed, Ordering::Relaxed, |used| used.checked_add(bytes).filter(|sum| *sum <= max)).is_ok()
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How many bytes are held.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Another bound; what is held stays held.
    pub fn resize(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }
}
