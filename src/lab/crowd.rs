//! The crowd: the same clients with the same plan for each side, hundreds of light tasks.

mod client;
pub mod plan;
pub mod wire;
pub mod witness;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    client::{Client, World},
    witness::Witness,
};
use super::{scenario::Scenario, tally::Tally};
use crate::clock::Moment;

/// A crowd at work.
#[derive(Debug)]
pub struct Crowd {
    /// What it has seen.
    pub tally: Arc<Tally>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Crowd {
    /// Lets everybody of the plan begin at `start` and ask `address`.
    #[must_use]
    pub fn start(scenario: &Arc<Scenario>, address: SocketAddr, start: Moment) -> Self {
        let tally = Arc::new(Tally::default());
        let witness = Witness::default();
        let world = Arc::new(World { scenario: Arc::clone(scenario), address, start, tally: Arc::clone(&tally), witness });
        let crowd = Self { tally, tasks: TaskTracker::new(), stop: CancellationToken::new() };
        for member in plan::members(scenario) {
            crowd.tasks.spawn(crowd.stop.clone().run_until_cancelled_owned(Client::new(member, &world).live()));
        }
        for (index, begin) in plan::imports(scenario).into_iter().enumerate() {
            crowd.tasks.spawn(crowd.stop.clone().run_until_cancelled_owned(client::import(Arc::clone(&world), index, begin)));
        }
        crowd.tasks.close();
        crowd
    }

    /// Waits until everybody has said all there is to say, but no longer than `patience` by the clock; then all leave.
    pub async fn finish(self, patience: Duration) -> Arc<Tally> {
        // Running out of patience is one of the two ends.
        let _ = tokio::time::timeout(patience, self.tasks.wait()).await;
        self.stop.cancel();
        self.tasks.wait().await;
        self.tally
    }
}
