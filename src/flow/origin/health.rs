//! Whether the app is up: by its health path, or by whether connections to it can be made.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use http::{Request, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Origin;
use crate::{clock, config::settings::App, wire::Body};

/// How often idle connections are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The longest that a probe of the health path may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the last probe of the health path said.
#[derive(Debug)]
pub struct Health {
    well: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self { well: AtomicBool::new(true) }
    }
}

impl Origin {
    /// Whether the app is up: its health path answers 2xx or, without one, not all of the last five connects failed.
    #[must_use]
    pub fn is_up(&self) -> bool {
        if self.settings.load().health.is_some() { self.health.well.load(Ordering::Relaxed) } else { !self.pool.looks_down() }
    }

    /// Keeps the pool young, the name resolved and the health known, for ever.
    pub async fn watch(&self) {
        let mut resolved = clock::now();
        let mut probed = None;
        self.pool.resolve().await;
        loop {
            let settings = self.settings.load_full();
            let now = clock::now();
            self.pool.sweep();
            if now.since(resolved) >= settings.resolve_interval {
                self.pool.resolve().await;
                resolved = now;
            }
            if let Some(path) = &settings.health
                && probed.is_none_or(|probed| now.since(probed) >= settings.health_interval)
            {
                probed = Some(now);
                self.probe(&settings, path).await;
            }
            tokio::time::sleep(SWEEP_EVERY.min(settings.health_interval)).await;
        }
    }

    async fn probe(&self, settings: &App, path: &str) {
        let asked = tokio::time::timeout(PROBE_TIMEOUT, self.ask(settings, path)).await;
        let result = asked.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
        let well = result.is_ok();
        if self.health.well.swap(well, Ordering::Relaxed) != well {
            match result {
                Ok(()) => tracing::info!(path, "the app is up again"),
                Err(reason) => tracing::error!(path, reason, "the app is down"),
            }
        }
    }

    async fn ask(&self, settings: &App, path: &str) -> Result<(), String> {
        let host = settings.servers.first().map_or("", String::as_str);
        let socket = TcpStream::connect(self.pool.addresses().as_slice()).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())?;
        let request = Request::get(path).header(header::HOST, host).header(header::CONNECTION, "close");
        let request = request.body(Body::Empty).map_err(|error| error.to_string())?;
        // The connection ends with the future that drives it, at the latest when the probe has its answer. It may end by itself with the
        // answer already there.
        let mut answering = pin!(sender.send_request(request));
        let answer = tokio::select! {
            answer = &mut answering => answer,
            ended = connection => answering.await.map_err(|none| ended.err().unwrap_or(none)),
        };
        let status = answer.map_err(|error| error.to_string())?.status();
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }
}
