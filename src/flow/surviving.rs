//! A future that is spawned when it is dropped: the call to the app outlives its client, and costs no task of its own while it does not.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use tokio_util::task::TaskTracker;

/// A future that goes on by itself when it is dropped before its end.
pub struct Surviving<F: Future<Output: Send + 'static> + Send + 'static> {
    future: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F: Future<Output: Send + 'static> + Send + 'static> fmt::Debug for Surviving<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Surviving").finish_non_exhaustive()
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Surviving<F> {
    /// Wraps a future; `tasks` counts those that go on by themselves.
    pub fn new(future: F, tasks: TaskTracker) -> Self {
        Self { future: Some(Box::pin(future)), tasks }
    }

    /// It need not go on: it is dropped at once.
    pub fn forget(&mut self) {
        self.future = None;
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Future for Surviving<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.future.as_mut().expect("nobody polls a future after its end");
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Drop for Surviving<F> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            self.tasks.spawn_on(future, &runtime);
        }
    }
}
