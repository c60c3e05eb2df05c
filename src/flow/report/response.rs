//! Our own answers: every refusal, failure and malformed request becomes a response here and nowhere else.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::decision::{self, Problem};
use crate::{
    model::{FailureKind, Refusal},
    profile::{Profile, Shaped},
    wire::{Body, Response},
};

const PROXY_STATUS: &str = "proxy-status";

/// A refusal, in the profile's shape if it has one. `Retry-After` and `Cache-Control: no-store` are always there.
#[must_use]
pub fn refusal(profile: &Profile, refusal: &Refusal, class: &str, id: u64) -> Response {
    let shaped = profile.refusal(refusal, class, &decision::show_id(id));
    let mut response = match shaped {
        Some(shaped) => from_shape(shaped),
        None => problem(refusal.status(), &Problem::refusal(refusal, class, id)),
    };
    retry_after(&mut response, refusal.retry_after);
    response
}

/// A request that was itself at fault; `detail` says in a sentence what is wrong. The connection is closed after it.
#[must_use]
pub fn malformed(status: StatusCode, detail: &str, id: u64) -> Response {
    let mut response = problem(status, &Problem::malformed(status, detail, id));
    response.headers_mut().insert(PROXY_STATUS, decision::REQUEST_ERROR);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The app's failure: 502 or 504 with `Proxy-Status`, in the profile's shape if it has one.
#[must_use]
pub fn failure(profile: &Profile, kind: FailureKind, after: Duration, class: &str, id: u64) -> Response {
    let shaped = profile.failure(kind.status(), after, class, &decision::show_id(id));
    let mut response = match shaped {
        Some(shaped) => from_shape(shaped),
        None => problem(kind.status(), &Problem::failure(kind, after, class, id)),
    };
    response.headers_mut().insert(PROXY_STATUS, kind.proxy_status());
    retry_after(&mut response, after);
    response
}

fn retry_after(response: &mut Response, after: Duration) {
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(decision::retry_after_seconds(after)));
}

fn problem(status: StatusCode, problem: &Problem<'_>) -> Response {
    let mut response = bare(status, problem.body());
    response.headers_mut().insert(header::CONTENT_TYPE, decision::PROBLEM_JSON);
    response
}

fn from_shape(shaped: Shaped) -> Response {
    let mut response = bare(shaped.status, shaped.body);
    response.headers_mut().extend(shaped.headers);
    response
}

fn bare(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
