//! The tidegate of the demo, in this process.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

/// A running tidegate.
#[derive(Debug)]
pub struct Tidegate {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators look.
    pub admin: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

/// Starts it with a configuration.
///
/// # Errors
/// What is wrong with the configuration, or why it cannot listen.
pub async fn start_tidegate(config: &str) -> Result<Tidegate, String> {
    let app = config.lines().find_map(|l| l.strip_prefix("servers = [\"")?.split('"').next()).ok_or("no app")?.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let task = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let app = app.clone();
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(&app).await else { return };
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    Ok(Tidegate { address, admin: address, task })
}

impl Tidegate {
    /// Stops it.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}
