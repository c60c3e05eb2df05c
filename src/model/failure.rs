//! In which ways the app can fail, in the words of RFC 9209.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

/// In which way the app, or the way to it, failed: a registered proxy error type of RFC 9209 section 2.3 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The name was not resolved in time.
    DnsTimeout,
    /// The name could not be resolved.
    DnsError,
    /// The app refused the connection.
    ConnectRefused,
    /// The connection was not open in time.
    ConnectTimeout,
    /// The connection could not be opened for any other reason.
    ConnectFailed,
    /// Every connection to the app is in use.
    ConnectionLimit,
    /// The app closed the connection before its answer was complete.
    ConnectionTerminated,
    /// The app did not read the request's body in time.
    WriteTimeout,
    /// The answer stood still between two reads.
    ReadTimeout,
    /// The head of the answer did not come in time, or the whole answer did not.
    ResponseTimeout,
    /// The answer ended before it was complete.
    ResponseIncomplete,
    /// The answer's head is too large.
    HeadTooLarge,
    /// The answer is no HTTP.
    ProtocolError,
    /// The app's answer to an upgrade cannot be passed on.
    UpgradeFailed,
    /// The request has come through this tidegate before.
    LoopDetected,
    /// A fault of tidegate's own.
    Internal,
}

impl FailureKind {
    /// Every kind, in the order of the declaration.
    pub const ALL: [Self; 16] = [
        Self::DnsTimeout,
        Self::DnsError,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectFailed,
        Self::ConnectionLimit,
        Self::ConnectionTerminated,
        Self::WriteTimeout,
        Self::ReadTimeout,
        Self::ResponseTimeout,
        Self::ResponseIncomplete,
        Self::HeadTooLarge,
        Self::ProtocolError,
        Self::UpgradeFailed,
        Self::LoopDetected,
        Self::Internal,
    ];

    /// The registered name, the `error` of `Proxy-Status` and the label of the metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::DnsTimeout => "dns_timeout",
            Self::DnsError => "dns_error",
            Self::ConnectRefused => "connection_refused",
            Self::ConnectTimeout => "connection_timeout",
            Self::ConnectFailed => "destination_unavailable",
            Self::ConnectionLimit => "connection_limit_reached",
            Self::ConnectionTerminated => "connection_terminated",
            Self::WriteTimeout => "connection_write_timeout",
            Self::ReadTimeout => "connection_read_timeout",
            Self::ResponseTimeout => "http_response_timeout",
            Self::ResponseIncomplete => "http_response_incomplete",
            Self::HeadTooLarge => "http_response_header_section_size",
            Self::ProtocolError => "http_protocol_error",
            Self::UpgradeFailed => "http_upgrade_failed",
            Self::LoopDetected => "proxy_loop_detected",
            Self::Internal => "proxy_internal_error",
        }
    }

    /// 504 where time ran out, 500 for our own fault, else 502.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::DnsTimeout | Self::ConnectTimeout | Self::WriteTimeout | Self::ReadTimeout | Self::ResponseTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// What happened and what to do, for people.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::DnsTimeout | Self::DnsError => "The name of the app server could not be resolved. Try again later.",
            Self::ConnectRefused | Self::ConnectTimeout | Self::ConnectFailed | Self::ConnectionLimit => {
                "The app server could not be reached; the request was not sent. Try again later."
            }
            Self::ConnectionTerminated | Self::ResponseIncomplete => {
                "The app server closed the connection before it had answered. Whether the request took effect is unknown."
            }
            Self::WriteTimeout => "The app server did not read the request in time. Whether the request took effect is unknown.",
            Self::ReadTimeout | Self::ResponseTimeout => {
                "The app server did not answer in time. It may still be working on the request: do not send it again at once."
            }
            Self::HeadTooLarge | Self::ProtocolError | Self::UpgradeFailed => "The app server's answer could not be understood.",
            Self::LoopDetected => "The request has come through here before: the app server's address leads back to this proxy.",
            Self::Internal => "The proxy itself failed.",
        }
    }

    /// The value of `Proxy-Status`.
    #[must_use]
    pub fn proxy_status(self) -> HeaderValue {
        let text = format!("tidegate; error={}", self.label());
        HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("tidegate"))
    }

    /// What an I/O error of a connection attempt means.
    #[must_use]
    pub fn of_connect(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::ConnectRefused,
            std::io::ErrorKind::TimedOut => Self::ConnectTimeout,
            _ => Self::ConnectFailed,
        }
    }
}
