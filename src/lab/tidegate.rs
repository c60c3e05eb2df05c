//! The tidegate of the demo, in this process.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    app::{self, Running},
    ops::load::{self, Origin},
    written::{self, Source},
};

/// A running tidegate.
#[derive(Debug)]
pub struct Tidegate {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators look.
    pub admin: SocketAddr,
    running: Running,
}

/// Starts it with a configuration.
///
/// # Errors
/// What is wrong with the configuration, or why it cannot listen.
pub fn start_tidegate(config: &str) -> Result<Tidegate, String> {
    let source = Source { name: "the demo's settings".to_owned(), text: config.to_owned() };
    let origin = Origin { text: Some(Arc::new(source)), ..Origin::default() };
    let loaded = load::load(&origin, None).map_err(|refused| written::render(&refused.mistakes))?;
    let running = app::start(origin, loaded).map_err(|error| error.to_string())?;
    let admin = running.admin_address().ok_or("the demo's tidegate has no admin listener")?;
    Ok(Tidegate { address: running.address(), admin, running })
}

impl Tidegate {
    /// Stops it.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}
