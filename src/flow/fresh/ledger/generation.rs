//! Requests by the profile that classified them: when a reload changes what routes read and write, those that were classified by the older one
//! count as writing everything until they end (rule 17).

pub mod shell;

use crate::{clock::Moment, profile::RouteId};

/// How a request ended, for the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing of it was sent.
    Unsent,
    /// It is known what the app did.
    Known(Moment),
    /// The app may still commit it.
    Unknown(Moment),
}

/// Requests that have not ended, by route, and which routes are unharmed once the generation is retired.
#[derive(Debug)]
struct Members {
    /// By route; the last is for requests that matched none.
    running: Box<[u32]>,
    /// Once retired: the routes that read and write what they always did.
    exempt: Option<Box<[bool]>>,
}

impl Members {
    fn new(routes: usize) -> Self {
        Self { running: vec![0; routes + 1].into(), exempt: None }
    }

    fn place(&self, route: RouteId) -> usize {
        usize::from(route.0).min(self.running.len() - 1)
    }

    /// Whether requests of this route count as writing everything.
    fn writes_everything(&self, route: RouteId) -> bool {
        self.exempt.as_ref().is_some_and(|exempt| !exempt[self.place(route)])
    }

    /// Counts a request in; whether it writes everything from now on.
    fn enter(&mut self, route: RouteId) -> bool {
        let place = self.place(route);
        self.running[place] += 1;
        self.writes_everything(route)
    }

    /// Counts a request out; whether it wrote everything.
    fn leave(&mut self, route: RouteId) -> bool {
        let place = self.place(route);
        self.running[place] = self.running[place].saturating_sub(1);
        self.writes_everything(route)
    }

    /// Whether no request of it runs.
    fn is_empty(&self) -> bool {
        self.running.iter().all(|running| *running == 0)
    }

    /// Retires the generation; how many requests write everything from now on that did not before. A route that is exempt at one reload may
    /// not be so at the next.
    fn retire(&mut self, exempt: impl Fn(RouteId) -> bool) -> usize {
        let matched = self.running.len() - 1;
        let route = |index: usize| u16::try_from(index).ok().filter(|_| index < matched).map_or(RouteId::UNMATCHED, RouteId);
        let before = self.exempt.take().unwrap_or_else(|| vec![true; matched + 1].into());
        let exempt: Box<[bool]> = before.iter().enumerate().map(|(index, before)| *before && exempt(route(index))).collect();
        let harmed = self.running.iter().zip(before.iter().zip(&exempt)).filter(|(_, (before, exempt))| **before && !**exempt);
        let count = harmed.map(|(running, _)| *running as usize).sum();
        self.exempt = Some(exempt);
        count
    }
}
