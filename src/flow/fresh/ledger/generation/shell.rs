//! A profile's generation with its lock, and the requests that belong to it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{End, Members};
use crate::{
    flow::fresh::{
        keys::Touched,
        ledger::{Cause, Ledger, Quiet},
    },
    profile::RouteId,
};

/// A profile in force, or one that was.
#[derive(Debug)]
pub struct Generation {
    id: u64,
    retired: AtomicBool,
    members: Mutex<Members>,
}

/// A request that was classified by a generation, until it has ended.
pub struct Member {
    generation: Arc<Generation>,
    ledger: Arc<Ledger>,
    route: RouteId,
    end: End,
}

impl Generation {
    /// The generation of a profile with so many routes. `id` is part of every question asked under it.
    #[must_use]
    pub fn new(id: u64, routes: usize) -> Arc<Self> {
        Arc::new(Self { id, retired: AtomicBool::new(false), members: Mutex::new(Members::new(routes)) })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A request was classified by this profile. If that is retired already, it writes everything from here on, unless its route is exempt.
    #[must_use]
    pub fn enter(self: &Arc<Self>, route: RouteId, ledger: &Arc<Ledger>) -> Member {
        if self.members.lock().enter(route) {
            ledger.begin_all(1, Cause::RELOADED);
        }
        Member { generation: Arc::clone(self), ledger: Arc::clone(ledger), route, end: End::Unsent }
    }

    /// Whether no request of it runs any more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.lock().is_empty()
    }

    /// Another profile takes over, or yet another one: before the first request is classified by it. Each request that has not ended writes everything until it
    /// ends, unless its route is exempt, which must read, write and be chosen as ever.
    pub fn retire(&self, exempt: impl Fn(RouteId) -> bool, ledger: &Ledger) {
        let mut members = self.members.lock();
        self.retired.store(true, Ordering::Release);
        // Inside the lock: who leaves from here on ends what begins here.
        ledger.begin_all(members.retire(exempt), Cause::RELOADED);
    }
}

impl Member {
    /// Whether its generation is in force: if not, it is neither kept, joined nor answered by us, exempt or not.
    #[must_use]
    pub fn is_current(&self) -> bool {
        !self.generation.retired.load(Ordering::Acquire)
    }

    /// The number of its generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.id
    }

    /// How it ends when it is dropped: as if nothing was sent, unless this says otherwise.
    pub fn ends(&mut self, how: End) {
        self.end = how;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.generation.members.lock().leave(self.route) {
            return;
        }
        let everything = Touched::everything();
        match self.end {
            End::Unsent => self.ledger.unsent(&everything),
            End::Known(quiet_from) => self.ledger.end(&everything, quiet_from, Quiet::Settle),
            End::Unknown(quiet_from) => self.ledger.end(&everything, quiet_from, Quiet::Doubt),
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Member").field("generation", &self.generation.id).field("route", &self.route).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::{Boot, Moment},
        flow::fresh::{
            keys::{Key, Reads},
            ledger::{Asked, NotSolid},
        },
    };

    const ROUTES: usize = 3;

    fn ledger() -> Arc<Ledger> {
        Arc::new(Ledger::new(1000, Moment(0)))
    }

    fn ask(ledger: &Ledger, now: u64) -> Asked {
        ledger.ask(&reads(), Moment(now), Boot(0))
    }

    fn reads() -> Reads {
        Reads { everything: false, keys: [Key(1)].into_iter().collect() }
    }

    fn proven(ledger: &Ledger, asked: &Asked) -> bool {
        ledger.prove(&reads(), asked, Boot(0), Duration::from_secs(1)).is_ok()
    }

    #[test]
    fn a_generation_in_force_costs_nothing() {
        let (ledger, generation) = (ledger(), Generation::new(7, ROUTES));
        let asked = ask(&ledger, 0);
        let mut member = generation.enter(RouteId(1), &ledger);
        assert!(member.is_current() && member.generation() == 7 && generation.id() == 7);
        member.ends(End::Unknown(Moment(100)));
        drop(member);
        assert!(proven(&ledger, &asked) && ask(&ledger, 0).solid.is_ok());
    }

    #[test]
    fn who_is_in_a_retired_generation_writes_everything_until_it_ends() {
        for (end, quiet_from, reason) in [
            (End::Unsent, 0_u64, None),
            (End::Known(Moment(10)), 10, Some(NotSolid::Settle)),
            (End::Unknown(Moment(100)), 100, Some(NotSolid::Doubt)),
        ] {
            for route in [RouteId(2), RouteId::UNMATCHED] {
                let (ledger, generation) = (ledger(), Generation::new(1, ROUTES));
                drop(generation.enter(route, &ledger));
                let mut members = [generation.enter(route, &ledger), generation.enter(route, &ledger)];
                let before = ask(&ledger, 0);
                assert!(proven(&ledger, &before), "not retired yet");
                generation.retire(|_| false, &ledger);
                generation.retire(|_| false, &ledger);
                assert!(!members[0].is_current() && !proven(&ledger, &before), "what was asked before is written since");
                assert_eq!(ledger.view(Moment(0)).all.writers, 2, "whoever ended does not count, the others count once");
                for member in &mut members {
                    member.ends(end);
                }
                let [first, second] = members;
                drop(first);
                assert_eq!(ask(&ledger, 1000).solid, Err(NotSolid::Writer), "one runs still");
                drop(second);
                assert_eq!(ask(&ledger, quiet_from.saturating_sub(2)).solid.err(), reason);
                assert_eq!(ask(&ledger, quiet_from).solid, Ok(()));
                assert_eq!(ledger.doubts(Moment(1000)), Some(Vec::new()), "no writer is left");
            }
        }
    }

    #[test]
    fn who_enters_a_retired_generation_writes_everything_at_once() {
        let (ledger, generation) = (ledger(), Generation::new(1, ROUTES));
        generation.retire(|_| false, &ledger);
        assert_eq!(ask(&ledger, 0).solid, Ok(()));
        let member = generation.enter(RouteId(0), &ledger);
        assert_eq!(ask(&ledger, 0).solid, Err(NotSolid::Writer));
        assert!(!member.is_current());
        drop(member);
        assert_eq!(ask(&ledger, 0).solid, Ok(()));
    }

    #[test]
    fn who_is_on_an_exempt_route_harms_nobody_but_is_not_current() {
        let (ledger, generation) = (ledger(), Generation::new(1, ROUTES));
        let mut members = vec![generation.enter(RouteId(1), &ledger), generation.enter(RouteId(2), &ledger)];
        let asked = ask(&ledger, 0);
        generation.retire(|route| route == RouteId(1), &ledger);
        assert_eq!(ledger.view(Moment(0)).all.writers, 1, "the other route is not exempt");
        drop(members.pop());
        assert!(!proven(&ledger, &asked));
        let asked = ask(&ledger, 0);
        members.push(generation.enter(RouteId(1), &ledger));
        assert!(members.iter().all(|member| !member.is_current()));
        drop(members);
        assert!(proven(&ledger, &asked) && ask(&ledger, 0).solid.is_ok());
    }

    #[test]
    fn under_threads_each_begin_of_a_retired_generation_is_ended_once() {
        for _ in 0..20 {
            let (ledger, generation) = (ledger(), Generation::new(1, ROUTES));
            std::thread::scope(|scope| {
                for number in 0..3 {
                    let (ledger, generation) = (&ledger, &generation);
                    scope.spawn(move || {
                        let members: Vec<Member> = (0..200).map(|_| generation.enter(RouteId(number), ledger)).collect();
                        drop(members);
                    });
                }
                scope.spawn(|| generation.retire(|route| route == RouteId(0), &ledger));
            });
            assert_eq!(ledger.doubts(Moment(0)), Some(Vec::new()), "no writer is left");
        }
    }
}
