//! Upgrades: after a 101 the bytes of both sides are passed on until one of them ends, or a drain cuts them.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio_util::task::TaskTracker;

use super::{Close, STREAM_SEAT_MAX, Seat};
use crate::{
    clock,
    flow::accept::{Drain, Stage},
    wire::pipe::End,
};

/// How long both sides may take to switch.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a tunnel that holds its seat is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Passes bytes between both sides of an upgrade, in a task of its own.
pub(super) fn open(tasks: &TaskTracker, drain: Drain, client: OnUpgrade, app: OnUpgrade, mut seat: Seat) {
    tasks.spawn(async move {
        let watch = Arc::clone(seat.watch());
        let given = Arc::new(AtomicU64::new(0));
        let switched = tokio::time::timeout(SWITCH_TIMEOUT, async { tokio::try_join!(client, app) }).await;
        if let Ok(Ok((client, app))) = switched {
            let copied = Arc::clone(&given);
            let mut client = Counted { side: TokioIo::new(client), written: copied };
            let mut app = TokioIo::new(app);
            tokio::select! {
                result = copy_bidirectional(&mut client, &mut app) => {
                    seat.close(if result.is_ok() { Close::Whole } else { Close::Cut });
                }
                () = release(&mut seat, &given) => {}
                () = drain.reached(Stage::Cut) => {}
            }
        }
        drop(seat);
        watch.ended(End::Whole, given.load(Ordering::Relaxed));
    });
}

/// Gives the seat back once the tunnel has been silent for a second, or after five; then goes on for ever.
async fn release(seat: &mut Seat, given: &AtomicU64) {
    let until = clock::now() + STREAM_SEAT_MAX;
    let mut before = given.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(LOOK).await;
        let now = given.load(Ordering::Relaxed);
        if now == before || clock::now() >= until {
            break;
        }
        before = now;
    }
    seat.keep_stream_only();
    std::future::pending::<()>().await;
}

/// A side of which the written bytes are counted.
struct Counted {
    side: TokioIo<Upgraded>,
    written: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.side).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = result {
            self.written.fetch_add(count as u64, Ordering::Relaxed);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_shutdown(context)
    }
}
