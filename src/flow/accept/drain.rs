//! The three stages of a listener's life: open, closing (answers say so, accepting goes on), closed.

use tokio::sync::watch;

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Serving.
    Open,
    /// `/readyz` fails and answers carry `Connection: close`, while accepting goes on for `drain_delay`.
    Closing,
    /// Nothing is accepted any more; what runs may end until `drain_timeout`.
    Closed,
    /// What still runs is cut.
    Cut,
}

/// Where a drain is told to everybody.
#[derive(Clone, Debug)]
pub struct Drain {
    sender: watch::Sender<Stage>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { sender: watch::Sender::new(Stage::Open) }
    }
}

impl Drain {
    /// Goes on to a later stage; an earlier one changes nothing.
    pub fn advance(&self, stage: Stage) {
        self.sender.send_if_modified(|now| {
            let later = stage > *now;
            if later {
                *now = stage;
            }
            later
        });
    }

    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.sender.borrow()
    }

    /// Comes when `stage` is reached.
    pub async fn reached(&self, stage: Stage) {
        let mut receiver = self.sender.subscribe();
        let _ = receiver.wait_for(|now| *now >= stage).await;
    }
}
