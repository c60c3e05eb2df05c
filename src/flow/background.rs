//! A question of our own at the app: it has no client, but it takes the app's time, and what that teaches is learned.

use std::sync::{Arc, OnceLock};

use http::{HeaderMap, StatusCode};

use super::{
    Flow,
    fresh::{ledger::NotSolid, replay::NotKept},
    origin::{Held, Watch},
    report::{Report, server_timing},
    tracked::{self, Lesson},
};
use crate::{
    flow::{classify::documents::Documents, report::DatabaseTime},
    wire::pipe::End,
};

/// Watches a call that nobody waits for.
pub struct Background {
    report: Report,
    documents: Arc<Documents>,
    lesson: parking_lot::Mutex<Option<Lesson>>,
    told: OnceLock<(StatusCode, DatabaseTime)>,
}

impl Background {
    /// For one call; `lesson` is what its request would have taught.
    #[must_use]
    pub fn new(flow: &Flow, lesson: Option<Lesson>) -> Arc<Self> {
        Arc::new(Self {
            report: flow.report.clone(),
            documents: Arc::clone(&flow.documents),
            lesson: parking_lot::Mutex::new(lesson),
            told: OnceLock::new(),
        })
    }
}

impl Watch for Background {
    fn asked(&self, _: Result<(), NotSolid>) {}

    fn kept(&self, _: Result<(), NotKept>) {}

    fn answered(&self, status: StatusCode, headers: &HeaderMap) {
        let _ = self.told.set((status, server_timing::read(headers)));
    }

    fn held(&self, held: Held) {
        let (status, told) = self.told.get().copied().map_or((None, DatabaseTime::default()), |(status, told)| (Some(status), told));
        self.report.background(held.account, held.hold, &told);
        if let Some(lesson) = self.lesson.lock().take() {
            tracked::learn(&self.documents, &lesson, (held.close, status), held.hold, told.time, held.reply);
        }
    }

    fn ended(&self, _: End, _: u64) {}
}
