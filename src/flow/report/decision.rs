//! What the client is told: `Tidegate-Decision`, `Proxy-Status` (RFC 9209), and problem details (RFC 9457) for refusals and failures.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::exchange::Decided;
use crate::model::{FailureKind, Refusal, Rule};

/// The media type of [`Problem::body`].
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The value of `Tidegate-Decision`: `class=sync; rule=none; mode=enforce`.
#[must_use]
pub fn decision(class: &str, decided: Decided) -> HeaderValue {
    let rule = decided.rule.map_or("none", Rule::label);
    let text = format!("class={class}; rule={rule}; mode={}", decided.mode.label());
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("class=none; rule=none; mode=off"))
}

/// The value of `Proxy-Status` for a request that was itself at fault (RFC 9209 section 2.3.17).
pub const REQUEST_ERROR: HeaderValue = HeaderValue::from_static("tidegate; error=http_request_error");

/// Problem details (RFC 9457). `type` is `about:blank`, so the title is the status's own phrase; what to do stands in `detail`.
#[derive(Clone, Debug, Serialize)]
pub struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    /// The status of the response that carries it.
    pub status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    id: String,
}

impl<'a> Problem<'a> {
    /// Of a refusal.
    #[must_use]
    pub fn refusal(refusal: &Refusal, class: &'a str, id: u64) -> Self {
        Self {
            retry_after: Some(retry_after_seconds(refusal.retry_after)),
            class: Some(class),
            rule: Some(refusal.rule.label()),
            ..Self::bare(refusal.status(), refused_because(refusal), id)
        }
    }

    /// Of a request that was itself at fault: `detail` says in a sentence what is wrong with it.
    #[must_use]
    pub fn malformed(status: StatusCode, detail: &'a str, id: u64) -> Self {
        Self { rule: Some(Rule::Malformed.label()), ..Self::bare(status, detail, id) }
    }

    /// Of the app's failure.
    #[must_use]
    pub fn failure(kind: FailureKind, retry_after: Duration, class: &'a str, id: u64) -> Self {
        Self {
            retry_after: Some(retry_after_seconds(retry_after)),
            class: Some(class),
            error: Some(kind.label()),
            ..Self::bare(kind.status(), kind.detail(), id)
        }
    }

    fn bare(status: StatusCode, detail: &'a str, id: u64) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail,
            retry_after: None,
            class: None,
            rule: None,
            error: None,
            id: show_id(id),
        }
    }

    /// As JSON.
    #[must_use]
    pub fn body(&self) -> Bytes {
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }
}

/// Whole seconds for `Retry-After` (RFC 9110 section 10.2.3), rounded up, at least 1.
#[must_use]
pub fn retry_after_seconds(span: Duration) -> u64 {
    (span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1)
}

/// A request's number as it is shown everywhere.
#[must_use]
pub fn show_id(id: u64) -> String {
    format!("{id:016x}")
}

fn refused_because(refusal: &Refusal) -> &'static str {
    match (refusal.rule, refusal.own_doing) {
        (Rule::Closed, _) => "This kind of request is closed at the moment. It was not carried out; try again after the time given.",
        (Rule::ClientRate, _) => "You send requests of this kind too often. It was not carried out; try again after the time given.",
        (Rule::ClientCap, _) => {
            "Too many of your requests are running at the same time. This one was not carried out; let some of them end first."
        }
        (Rule::QueueFull | Rule::Stream, true) => {
            "Too many of your requests are waiting or open. This one was not carried out; let some of them end first."
        }
        (Rule::Stream, false) => "Too many streams are open. This one was not opened; try again after the time given.",
        (Rule::RetryBudget, _) => "Too many requests are being repeated. This one was not carried out; try again after the time given.",
        (Rule::Malformed, _) => "The request could not be understood. It was not carried out.",
        (Rule::ClassRate | Rule::Breaker | Rule::QueueFull | Rule::PredictedWait | Rule::Deadline, _) => {
            "The service is busy with requests of this kind. It was not carried out; try again after the time given."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;

    #[test]
    fn the_decision_names_class_rule_and_mode() {
        let refused = Decided { rule: Some(Rule::QueueFull), mode: Mode::Enforce };
        assert_eq!(decision("import", refused), "class=import; rule=queue_full; mode=enforce");
        let admitted = Decided { rule: None, mode: Mode::Shadow };
        assert_eq!(decision("sync", admitted), "class=sync; rule=none; mode=shadow");
        assert_eq!(decision("a\nb", admitted), "class=none; rule=none; mode=off", "a broken name never breaks a head");
    }

    #[test]
    fn every_failure_has_a_name_of_its_own_and_a_server_status() {
        let names: std::collections::BTreeSet<_> = FailureKind::ALL.iter().map(|kind| kind.label()).collect();
        assert_eq!(names.len(), FailureKind::ALL.len());
        for kind in FailureKind::ALL {
            assert!([500, 502, 504].contains(&kind.status().as_u16()), "{kind:?}");
            assert_eq!(kind.proxy_status().to_str().ok(), Some(format!("tidegate; error={}", kind.label()).as_str()));
            assert!(kind.label().contains("timeout") == (kind.status() == StatusCode::GATEWAY_TIMEOUT), "{kind:?}");
        }
    }

    #[test]
    fn a_refusal_says_why_and_when_to_come_back() {
        let refusal = Refusal { rule: Rule::Deadline, own_doing: false, retry_after: Duration::from_millis(2100) };
        let problem: serde_json::Value = serde_json::from_slice(&Problem::refusal(&refusal, "large", 0x1f).body()).expect("JSON");
        assert_eq!(
            problem,
            serde_json::json!({
                "type": "about:blank", "title": "Service Unavailable", "status": 503,
                "detail": "The service is busy with requests of this kind. It was not carried out; try again after the time given.",
                "retry_after": 3, "class": "large", "rule": "deadline", "id": "000000000000001f",
            })
        );
    }

    #[test]
    fn a_failure_and_a_malformed_request_have_problems_too() {
        let failure: serde_json::Value =
            serde_json::from_slice(&Problem::failure(FailureKind::ConnectRefused, Duration::ZERO, "sync", 1).body()).expect("JSON");
        assert_eq!(
            (&failure["status"], &failure["error"], &failure["retry_after"]),
            (&502.into(), &"connection_refused".into(), &1.into())
        );
        let malformed: serde_json::Value =
            serde_json::from_slice(&Problem::malformed(StatusCode::BAD_REQUEST, "Two Host headers.", 1).body()).expect("JSON");
        assert_eq!((&malformed["status"], &malformed["detail"]), (&400.into(), &"Two Host headers.".into()));
        assert!(malformed.get("retry_after").is_none(), "repeating a malformed request does not help");
    }
}
