//! A pipe of body frames, bounded in bytes: the app's response is read into it ahead of the client, so that a slow reader holds no seat.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::{Budget, Cut};
use crate::clock;

/// How long a reader keeps the writer waiting, in all, between two looks at its rate.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// What is told when the reading end is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last frame was taken.
    Whole,
    /// It ended by an error.
    Cut(Cut),
    /// It was dropped before its end: the client left.
    Gone,
}

/// Called once with how the body ended for its reader, and how many bytes it was given.
pub type Ending = Box<dyn FnOnce(End, u64) + Send + Sync>;

#[derive(Debug, Default)]
struct State {
    /// Each with what it holds of the budget.
    frames: VecDeque<(Frame<Bytes>, u64)>,
    bytes: usize,
    end: Option<Result<(), Cut>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    reader_gone: bool,
}

/// The writing end.
#[derive(Debug)]
pub struct Feed {
    state: Arc<Mutex<State>>,
    budget: Arc<Budget>,
    capacity: usize,
    rate_min: u64,
    sent: u64,
    waited: Duration,
    /// What had been read when the rate was looked at last.
    window_from: u64,
}

/// The reading end: a body.
pub struct Tap {
    state: Arc<Mutex<State>>,
    budget: Arc<Budget>,
    length: Option<u64>,
    given: u64,
    ending: Option<Ending>,
}

impl fmt::Debug for Tap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tap").field("length", &self.length).field("given", &self.given).finish_non_exhaustive()
    }
}

/// What became of a frame that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Taken,
    /// The client has left; nothing more needs to be sent.
    Gone,
    /// The client reads slower than the least rate; it was cut off.
    TooSlow,
}

/// A pipe that holds up to `capacity` bytes while `budget` allows, and one frame in any case. `length` is the body's, if it is known;
/// `rate_min` is in bytes per second of waiting for the reader.
#[must_use]
pub fn pipe(capacity: usize, budget: Arc<Budget>, length: Option<u64>, rate_min: u64, ending: Ending) -> (Feed, Tap) {
    let state = Arc::new(Mutex::new(State::default()));
    let feed = Feed {
        state: Arc::clone(&state),
        budget: Arc::clone(&budget),
        capacity,
        rate_min,
        sent: 0,
        waited: Duration::ZERO,
        window_from: 0,
    };
    (feed, Tap { state, budget, length, given: 0, ending: Some(ending) })
}

impl Feed {
    /// Whether the client has left.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.state.lock().reader_gone
    }

    /// Comes when the client has left.
    pub async fn gone(&self) {
        poll_fn(|context| {
            let mut state = self.state.lock();
            if state.reader_gone {
                return Poll::Ready(());
            }
            state.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Puts a frame in, waiting for room. When this is dropped while it waits, the frame is lost.
    pub async fn send(&mut self, frame: Frame<Bytes>) -> Sent {
        let size = frame.data_ref().map_or(0, Bytes::len);
        let mut frame = Some(frame);
        let mut sent = self.put(&mut frame, size);
        while sent.is_none() {
            let since = clock::now();
            let waiting = poll_fn(|context| self.poll_put(&mut frame, size, context));
            sent = tokio::time::timeout(RATE_WINDOW.saturating_sub(self.waited), waiting).await.ok();
            self.waited += clock::now().since(since);
            if self.too_slow() {
                self.finish(Err(Cut::SlowReader));
                return Sent::TooSlow;
            }
        }
        if sent == Some(Sent::Taken) {
            self.sent += size as u64;
        }
        sent.unwrap_or(Sent::Gone)
    }

    /// Puts the frame in if there is room for it. An empty pipe always has room for one, whatever the budget says.
    fn put(&self, frame: &mut Option<Frame<Bytes>>, size: usize) -> Option<Sent> {
        let reader = {
            let mut state = self.state.lock();
            if state.reader_gone {
                return Some(Sent::Gone);
            }
            let within = state.bytes + size <= self.capacity && self.budget.take(size as u64);
            if !within && state.bytes > 0 {
                return None;
            }
            if let Some(frame) = frame.take() {
                state.bytes += size;
                state.frames.push_back((frame, if within { size as u64 } else { 0 }));
            }
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        Some(Sent::Taken)
    }

    fn poll_put(&self, frame: &mut Option<Frame<Bytes>>, size: usize, context: &mut Context<'_>) -> Poll<Sent> {
        if let Some(sent) = self.put(frame, size) {
            return Poll::Ready(sent);
        }
        self.state.lock().writer = Some(context.waker().clone());
        self.put(frame, size).map_or(Poll::Pending, Poll::Ready)
    }

    /// Whether the reader took too little since its rate was looked at last; looked at once it has kept us waiting for long enough.
    fn too_slow(&mut self) -> bool {
        if self.waited < RATE_WINDOW {
            return false;
        }
        let read = self.sent.saturating_sub(self.state.lock().bytes as u64);
        let slow = read.saturating_sub(self.window_from) < self.rate_min.saturating_mul(self.waited.as_secs());
        (self.waited, self.window_from) = (Duration::ZERO, read);
        slow
    }

    /// Ends the body: whole, or cut. Only the first end counts.
    pub fn finish(&self, end: Result<(), Cut>) {
        let reader = {
            let mut state = self.state.lock();
            state.end.get_or_insert(end);
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.finish(Err(Cut::App));
    }
}

impl Tap {
    fn ended(&mut self, end: End) {
        if let Some(ending) = self.ending.take() {
            ending(end, self.given);
        }
    }
}

impl Body for Tap {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let mut state = self.state.lock();
        if let Some((frame, held)) = state.frames.pop_front() {
            let size = frame.data_ref().map_or(0, Bytes::len);
            state.bytes -= size;
            let writer = state.writer.take();
            drop(state);
            self.budget.give_back(held);
            self.given += size as u64;
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(end) = state.end else {
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        match end {
            Ok(()) => {
                self.ended(End::Whole);
                Poll::Ready(None)
            }
            Err(cut) => {
                self.ended(End::Cut(cut));
                Poll::Ready(Some(Err(cut)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.lock();
        state.frames.is_empty() && state.end == Some(Ok(()))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, |length| SizeHint::with_exact(length.saturating_sub(self.given)))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let (writer, held, at_end) = {
            let mut state = self.state.lock();
            state.reader_gone = true;
            let at_end = state.frames.is_empty() && state.end == Some(Ok(()));
            let held: u64 = state.frames.drain(..).map(|(_, held)| held).sum();
            (state.writer.take(), held, at_end)
        };
        self.budget.give_back(held);
        if let Some(writer) = writer {
            writer.wake();
        }
        // hyper stops asking once the declared length was given, before the end is seen.
        let whole = self.length == Some(self.given) || at_end;
        self.ended(if whole { End::Whole } else { End::Gone });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use http_body_util::BodyExt;

    use super::*;

    fn data(size: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![0; size]))
    }

    /// How the reading end ended.
    type Told = Arc<Mutex<Option<(End, u64)>>>;

    fn open(capacity: usize, budget: &Arc<Budget>) -> (Feed, Tap, Told) {
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let (feed, tap) = pipe(capacity, Arc::clone(budget), None, 1024, Box::new(move |end, given| *tell.lock() = Some((end, given))));
        (feed, tap, told)
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_and_the_budget_is_given_back() {
        let budget = Arc::new(Budget::new(1000));
        let (mut feed, mut tap, told) = open(300, &budget);
        assert_eq!(feed.send(data(100)).await, Sent::Taken);
        assert_eq!(feed.send(data(200)).await, Sent::Taken);
        assert_eq!(budget.used(), 300);
        feed.finish(Ok(()));
        drop(feed);
        assert_eq!(tap.frame().await.expect("a frame").expect("data").into_data().expect("data").len(), 100);
        assert_eq!(tap.frame().await.expect("a frame").expect("data").into_data().expect("data").len(), 200);
        assert!(tap.frame().await.is_none());
        assert_eq!(budget.used(), 0);
        assert_eq!(*told.lock(), Some((End::Whole, 300)));
    }

    #[tokio::test]
    async fn a_full_pipe_waits_for_its_reader() {
        let budget = Arc::new(Budget::new(1000));
        let (mut feed, mut tap, _) = open(100, &budget);
        assert_eq!(feed.send(data(100)).await, Sent::Taken);
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let writer = tokio::spawn(async move {
            let sent = feed.send(data(50)).await;
            counted.store(1, Ordering::SeqCst);
            (feed, sent)
        });
        tokio::task::yield_now().await;
        assert_eq!(count.load(Ordering::SeqCst), 0);
        tap.frame().await.expect("a frame").expect("data");
        let (feed, sent) = writer.await.expect("no panic");
        assert_eq!(sent, Sent::Taken);
        drop(feed);
        tap.frame().await.expect("a frame").expect("data");
        assert_eq!(tap.frame().await.expect("the end").expect_err("cut"), Cut::App);
    }

    #[tokio::test]
    async fn an_empty_pipe_takes_one_frame_beyond_every_bound() {
        let budget = Arc::new(Budget::new(10));
        let (mut feed, tap, told) = open(5, &budget);
        assert_eq!(feed.send(data(500)).await, Sent::Taken);
        assert_eq!(budget.used(), 0);
        drop(tap);
        assert_eq!(*told.lock(), Some((End::Gone, 0)));
        assert_eq!(feed.send(data(1)).await, Sent::Gone);
        feed.gone().await;
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_reader_that_leaves_before_the_first_byte_is_gone_though_the_app_is_done() {
        let budget = Arc::new(Budget::new(1000));
        let (mut feed, tap, told) = open(300, &budget);
        assert_eq!(feed.send(data(100)).await, Sent::Taken);
        feed.finish(Ok(()));
        drop(tap);
        assert_eq!(*told.lock(), Some((End::Gone, 0)));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_reader_below_the_least_rate_is_cut_off() {
        let budget = Arc::new(Budget::new(10_000));
        let (mut feed, mut tap, _) = open(5, &budget);
        assert_eq!(feed.send(data(50)).await, Sent::Taken);
        feed.waited = RATE_WINDOW.saturating_sub(Duration::from_millis(20));
        assert_eq!(feed.send(data(50)).await, Sent::TooSlow);
        tap.frame().await.expect("what was sent before").expect("data");
        assert_eq!(tap.frame().await.expect("the end").expect_err("cut"), Cut::SlowReader);
    }
}
