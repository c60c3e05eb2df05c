//! The operators' listener: metrics, health, state, configuration, reload and drain, on its own port with its own bounds.
//!
//! With a token, everything but `/healthz` and `/readyz` needs `Authorization: Bearer`. Without one the listener is on loopback only, and a
//! page in the operator's browser must not be able to reach it: `Host` must be a loopback name (DNS rebinding), and what changes something
//! needs the header `Tidegate-Admin: 1`, which a page of another origin cannot send. Only what needs a body has it read, after that.

use std::{convert::Infallible, future::Future, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use super::{
    ask::{self, Invalidate, ResetAudit},
    reload::Reloader,
    state,
};
use crate::flow::{
    fresh::view::{DocumentView, Invalidated},
    report::{Report, Scrape},
};

/// The most connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 128;

/// From a connection's opening, or the end of a response, to the end of the next head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that one connection may last.
const CONNECTION_AGE_MAX: Duration = Duration::from_mins(5);

/// The most bytes of one head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How many clients, documents and routes `/state` names.
const TOP_SHOWN: usize = 20;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What the listener asks of the running tidegate.
pub trait Running: Send + Sync + 'static {
    /// Everything that is read when somebody asks.
    fn scrape(&self) -> Scrape;
    /// Whether new requests should be sent here: from the first accept until SIGTERM or `/drain`, whatever the app does.
    fn ready(&self) -> bool;
    /// Begins to drain, as SIGTERM does.
    fn drain(&self);
    /// What is known of the document with this scope; none if that is no scope. It may take some milliseconds.
    fn document(&self, scope: &str) -> Option<DocumentView>;
    /// Takes these scopes for written.
    ///
    /// # Errors
    /// A sentence that says which scope cannot be read and how to write it; nothing has changed then.
    fn invalidate(&self, scopes: &[String]) -> Result<Invalidated, String>;
    /// Lets routes answer again that a mismatch has put back to `verify`: these, or all. How many it were.
    fn reset_audit(&self, routes: Option<&[String]>) -> usize;
}

/// Answers operators.
pub struct Console {
    /// The running tidegate.
    pub running: Arc<dyn Running>,
    /// Its metrics.
    pub report: Report,
    /// Its configuration.
    pub reloader: Reloader,
}

/// Serves operators until `stop` comes; then running answers are cut.
pub async fn serve(listener: TcpListener, console: Arc<Console>, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepting = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((listener.accept().await, place))
        };
        tokio::select! {
            () = &mut stop => return,
            Some(_) = connections.join_next() => {}
            accepted = accepting => match accepted {
                Some((Ok((stream, _)), place)) => {
                    let console = Arc::clone(&console);
                    connections.spawn(async move {
                        converse(stream, console).await;
                        drop(place);
                    });
                }
                Some((Err(error), _)) => {
                    tracing::warn!(%error, "an operator's connection could not be accepted");
                    // Out of file descriptors, most likely: without a pause this would spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                None => return,
            },
        }
    }
}

async fn converse(stream: TcpStream, console: Arc<Console>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let console = Arc::clone(&console);
        async move { Ok::<_, Infallible>(console.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever ends a connection concerns only the operator behind it.
    let _ = tokio::time::timeout(CONNECTION_AGE_MAX, connection).await;
}

/// What a path answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Index,
    Metrics,
    Healthy,
    Ready,
    State,
    Config,
    Reload,
    Drain,
    Invalidate,
    ResetAudit,
    Later(&'static str),
}

impl Page {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Index,
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Healthy,
            "/readyz" => Self::Ready,
            "/state" => Self::State,
            "/config" => Self::Config,
            "/reload" => Self::Reload,
            "/drain" => Self::Drain,
            "/maintenance" => Self::Later("Maintenance mode is not built yet; close classes with `closed = true` and reload.\n"),
            "/invalidate" => Self::Invalidate,
            "/audit/reset" => Self::ResetAudit,
            _ => return None,
        })
    }

    fn changes(self) -> bool {
        matches!(self, Self::Reload | Self::Drain | Self::Invalidate | Self::ResetAudit | Self::Later(_))
    }

    fn open(self) -> bool {
        matches!(self, Self::Healthy | Self::Ready)
    }

    fn allowed(self) -> &'static str {
        if self.changes() { "POST" } else { "GET, HEAD" }
    }
}

/// Which page a request may have. Pure.
fn admit(method: &Method, path: &str, headers: &HeaderMap, token: Option<&str>) -> Result<Page, Box<Response<Full<Bytes>>>> {
    let found = Page::of(path);
    if !found.is_some_and(Page::open) {
        entitled(headers, token, found.is_some_and(Page::changes))?;
    }
    let page = found.ok_or_else(|| text(StatusCode::NOT_FOUND, "There is no such page; / lists those that there are.\n"))?;
    let fits = if page.changes() { method == Method::POST } else { method == Method::GET || method == Method::HEAD };
    if !fits {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("Use {} here.\n", page.allowed()));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(page.allowed()));
        return Err(response);
    }
    Ok(page)
}

fn entitled(headers: &HeaderMap, token: Option<&str>, changes: bool) -> Result<(), Box<Response<Full<Bytes>>>> {
    if let Some(token) = token {
        let shown = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        if shown.is_some_and(|shown| same(shown, token.as_bytes())) {
            return Ok(());
        }
        let mut response = text(StatusCode::UNAUTHORIZED, "Show the token of [admin] token_file: `Authorization: Bearer TOKEN`.\n");
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidegate\""));
        return Err(response);
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() || !host.is_some_and(loopback_name) {
        return Err(text(
            StatusCode::FORBIDDEN,
            "Without a token only a loopback name may stand in `Host`, such as 127.0.0.1 or localhost.\n",
        ));
    }
    if changes && headers.get("tidegate-admin").is_none_or(|value| value != "1") {
        return Err(text(StatusCode::FORBIDDEN, "What changes something needs the header `Tidegate-Admin: 1`.\n"));
    }
    Ok(())
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether both are the same, in a time that tells nothing about where they differ.
fn same(shown: &[u8], token: &[u8]) -> bool {
    let differences = shown.iter().zip(token).fold(0u8, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    shown.len() == token.len() && differences == 0
}

/// Whether the value of `Host` names this machine and nothing else: `localhost`, an address of 127.0.0.0/8, or `[::1]`, with any port.
fn loopback_name(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Console {
    async fn answer<B: Body>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let token = self.reloader.in_force().loaded.settings.admin.as_ref().and_then(|admin| admin.token.clone());
        match admit(request.method(), request.uri().path(), request.headers(), token.as_deref()) {
            Ok(page) => *self.page(page, request).await,
            Err(refused) => *refused,
        }
    }

    async fn page<B: Body>(&self, page: Page, request: Request<B>) -> Box<Response<Full<Bytes>>> {
        match page {
            Page::Index => text(StatusCode::OK, INDEX),
            Page::Metrics => response(StatusCode::OK, METRICS, self.report.metrics(&self.running.scrape(), &self.reloader.scrape())),
            Page::Healthy => text(StatusCode::OK, "ok\n"),
            Page::Ready if self.running.ready() => text(StatusCode::OK, "ready\n"),
            Page::Ready => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            Page::State => match ask::document(request.uri().query()) {
                Ok(Some(scope)) => self.document(&scope),
                Ok(None) => json(StatusCode::OK, &state::state(&self.running.scrape(), &self.report, &self.reloader, TOP_SHOWN)),
                Err(sentence) => text(StatusCode::BAD_REQUEST, sentence),
            },
            Page::Config => json(StatusCode::OK, &state::config(&self.reloader)),
            Page::Reload => match self.reloader.reload().await {
                Ok(taken) => json(StatusCode::OK, &serde_json::json!({ "reloaded": true, "hash": taken.hash, "warnings": taken.warnings })),
                Err(mistakes) => text(StatusCode::UNPROCESSABLE_ENTITY, mistakes),
            },
            Page::Drain => {
                self.running.drain();
                text(StatusCode::ACCEPTED, "draining\n")
            }
            Page::Invalidate => self.invalidate(request.into_body()).await,
            Page::ResetAudit => self.reset_audit(request.into_body()).await,
            Page::Later(sentence) => text(StatusCode::NOT_IMPLEMENTED, sentence),
        }
    }

    fn document(&self, scope: &str) -> Box<Response<Full<Bytes>>> {
        match self.running.document(scope) {
            Some(view) => json(StatusCode::OK, &view),
            None => text(StatusCode::BAD_REQUEST, format!("\"{}\" is no scope: {}\n", scope.escape_debug(), ask::SCOPE_FORM)),
        }
    }

    async fn invalidate<B: Body>(&self, body: B) -> Box<Response<Full<Bytes>>> {
        let asked = match ask::read(body).await {
            Ok(bytes) => Invalidate::parse(&bytes),
            Err((status, sentence)) => return text(status, sentence),
        };
        match asked.and_then(|Invalidate(scopes)| self.running.invalidate(&scopes)) {
            Ok(invalidated) => {
                tracing::warn!(scopes = invalidated.scopes.len(), answers = invalidated.answers, "an operator has invalidated");
                json(StatusCode::OK, &invalidated)
            }
            Err(sentence) => text(StatusCode::BAD_REQUEST, format!("{sentence}\n")),
        }
    }

    async fn reset_audit<B: Body>(&self, body: B) -> Box<Response<Full<Bytes>>> {
        let asked = match ask::read(body).await {
            Ok(bytes) => ResetAudit::parse(&bytes),
            Err((status, sentence)) => return text(status, sentence),
        };
        match asked {
            Ok(ResetAudit(routes)) => {
                let reset = self.running.reset_audit(routes.as_deref());
                let left = self.running.scrape().fresh.distrusted;
                json(StatusCode::OK, &serde_json::json!({ "reset": reset, "still_in_verify": left }))
            }
            Err(sentence) => text(StatusCode::BAD_REQUEST, format!("{sentence}\n")),
        }
    }
}

const INDEX: &str = "\
tidegate

GET  /metrics        for Prometheus
GET  /healthz        200 while the process answers
GET  /readyz         200 from the first accept until SIGTERM or /drain
GET  /state          what runs, waits, was refused and answered here, and who takes the app's time, as JSON
GET  /state?document=doc:x  when a document was written last, and which stored answers depend on it
GET  /config         what is in force, where from, its hash and age, as JSON
POST /reload         read all files anew: whole or not at all
POST /invalidate     {\"scopes\": [\"doc:x\", \"tree:/a\"]} or {\"all\": true}: what was changed past tidegate
POST /audit/reset    let routes answer again that a mismatch put back to verify; {\"routes\": [...]} or nothing for all
POST /drain          stop as SIGTERM does
";

fn text(status: StatusCode, body: impl Into<Bytes>) -> Box<Response<Full<Bytes>>> {
    response(status, TEXT, body)
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Box<Response<Full<Bytes>>> {
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    response(status, JSON, body)
}

fn response(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Box<Response<Full<Bytes>>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Box::new(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &Method, path: &str, headers: &[(&'static str, &str)], token: Option<&str>) -> Result<Page, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("valid"));
        }
        admit(method, path, &map, token).map_err(|response| response.status().as_u16())
    }

    const LOCAL: (&str, &str) = ("host", "127.0.0.1:9090");
    const CHANGES: (&str, &str) = ("tidegate-admin", "1");

    #[test]
    fn without_a_token_only_loopback_names_are_answered() {
        for host in ["127.0.0.1:9090", "localhost", "LOCALHOST:1", "127.9.9.9", "[::1]:9090", "[::1]"] {
            assert_eq!(asked(&Method::GET, "/metrics", &[("host", host)], None), Ok(Page::Metrics), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", "", "localhost:x", "[::2]", "0.0.0.0:9090"]
        {
            assert_eq!(asked(&Method::GET, "/metrics", &[("host", host)], None), Err(403), "{host}");
        }
        assert_eq!(asked(&Method::GET, "/metrics", &[], None), Err(403));
        assert_eq!(asked(&Method::GET, "/metrics", &[LOCAL, ("host", "evil.example")], None), Err(403));
    }

    #[test]
    fn without_a_token_what_changes_something_needs_its_header() {
        assert_eq!(asked(&Method::POST, "/reload", &[LOCAL], None), Err(403));
        assert_eq!(asked(&Method::POST, "/drain", &[LOCAL, ("tidegate-admin", "0")], None), Err(403));
        assert_eq!(asked(&Method::POST, "/reload", &[LOCAL, CHANGES], None), Ok(Page::Reload));
        assert_eq!(asked(&Method::POST, "/drain", &[("host", "evil.example"), CHANGES], None), Err(403));
    }

    #[test]
    fn a_token_must_be_shown_wherever_one_is_set() {
        let token = Some("s3cret");
        for wrong in ["Bearer s3cre", "Bearer s3cret2", "Bearer", "Basic s3cret", "Bearer ", "s3cret", "Bearer S3cret"] {
            assert_eq!(asked(&Method::GET, "/state", &[LOCAL, ("authorization", wrong)], token), Err(401), "{wrong}");
        }
        assert_eq!(asked(&Method::GET, "/state", &[LOCAL], token), Err(401));
        assert_eq!(asked(&Method::GET, "/nowhere", &[LOCAL], token), Err(401), "which pages there are is nobody's business");
        let right = ("authorization", "bearer s3cret");
        assert_eq!(asked(&Method::GET, "/state", &[("host", "tidegate.internal"), right], token), Ok(Page::State));
        assert_eq!(asked(&Method::POST, "/reload", &[("host", "tidegate.internal"), right], token), Ok(Page::Reload));
    }

    #[test]
    fn health_and_readiness_are_open_to_all() {
        for token in [None, Some("s3cret")] {
            assert_eq!(asked(&Method::GET, "/healthz", &[("host", "10.0.0.1:9090")], token), Ok(Page::Healthy));
            assert_eq!(asked(&Method::HEAD, "/readyz", &[], token), Ok(Page::Ready));
        }
    }

    #[test]
    fn a_method_that_does_not_fit_is_told_which_does() {
        assert_eq!(asked(&Method::GET, "/reload", &[LOCAL, CHANGES], None), Err(405));
        assert_eq!(asked(&Method::POST, "/metrics", &[LOCAL, CHANGES], None), Err(405));
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost"));
        headers.insert("tidegate-admin", HeaderValue::from_static("1"));
        let refused = admit(&Method::DELETE, "/drain", &headers, None).expect_err("refused");
        assert_eq!(refused.headers().get("allow").map(HeaderValue::as_bytes), Some(b"POST".as_slice()));
        assert_eq!(asked(&Method::GET, "/nowhere", &[LOCAL], None), Err(404));
        assert_eq!(asked(&Method::GET, "/metrics/", &[LOCAL], None), Err(404));
    }

    #[test]
    fn what_is_not_built_yet_says_so() {
        assert!(matches!(asked(&Method::POST, "/maintenance", &[LOCAL, CHANGES], None), Ok(Page::Later(_))));
        assert_eq!(asked(&Method::POST, "/invalidate", &[LOCAL], None), Err(403));
        assert_eq!(asked(&Method::POST, "/audit/reset", &[LOCAL, CHANGES], None), Ok(Page::ResetAudit));
    }
}
