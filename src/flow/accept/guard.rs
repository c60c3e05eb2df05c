//! The front's generic layer: a request that panics is answered 500 and told, and costs nobody else anything.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, StatusCode, header};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::wire::{Body, Request, Response};

/// Puts a [`Guard`] around a service.
#[derive(Clone, Copy, Debug)]
pub struct GuardLayer;

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner }
    }
}

/// A service whose panics become answers. What the request held is given back by its destructors as the panic unwinds.
#[derive(Clone, Debug)]
pub struct Guard<S> {
    inner: S,
}

impl<S: Service<Request, Response = Response>> Service<Request> for Guard<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Guarded<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        Guarded { future: Some(self.inner.call(request)) }
    }
}

pin_project! {
    /// The answer on its way.
    #[derive(Debug)]
    pub struct Guarded<F> {
        #[pin]
        future: Option<F>,
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Guarded<F> {
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        // After a panic the future is dropped and never looked at again.
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(polled) => polled,
            Err(panic) => {
                this.future.set(None);
                tracing::error!(message = said(&*panic), "a request panicked; please report this");
                Poll::Ready(Ok(answer()))
            }
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn answer() -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert("proxy-status", HeaderValue::from_static("tidegate; error=proxy_internal_error"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_a_500() {
        let panics: Guarded<_> = Guarded {
            future: Some(async {
                assert!(said(&"x").is_empty(), "out of cheese");
                Ok::<_, Infallible>(Response::new(Body::Empty))
            }),
        };
        let response = panics.await.expect("infallible");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let fine = Guarded { future: Some(async { Ok::<_, Infallible>(Response::new(Body::Empty)) }) };
        assert_eq!(fine.await.expect("infallible").status(), StatusCode::OK);
    }
}
