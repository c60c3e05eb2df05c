//! What does not queue: a request that is answered without a seat, and a question of our own that takes a seat only if nobody wants it.

use std::time::Duration;

use super::{Core, Entered, Moment, Notice, OTHER, Rule, Shadows, Ticket};
use crate::model::{Class, ClientKey, Intent, Mode, Refusal};

/// For how long after its last refusal a class counts as refusing.
const REFUSING: Duration = Duration::from_secs(10);

impl Core {
    /// Whether a client's rate lets it have an answer that costs no seat; takes a token. No other rule concerns such an answer.
    ///
    /// # Errors
    /// The refusal, with what would also have refused it.
    pub fn knock(&mut self, class: Class, client: ClientKey, now: Moment) -> Result<Shadows, (Refusal, Shadows)> {
        let class = if class.index() < self.rules.len() { class } else { OTHER };
        let mut shadows = Shadows::new();
        let Some(rate) = self.rules[class.index()].client_rate else { return Ok(shadows) };
        match self.client_rates.take(class.0, client.0, now) {
            Ok(()) => Ok(shadows),
            Err(wait) if rate.mode == Mode::Enforce => Err((self.other(Rule::ClientRate, true, wait), shadows)),
            Err(_) => {
                shadows.push(Rule::ClientRate);
                Ok(shadows)
            }
        }
    }

    /// A seat for a question of our own: at once, or not at all. Nobody may be waiting for a seat of any class, its own class may neither be
    /// closed nor have refused anybody of late, and the unfilled reserves of all classes stay free.
    pub fn spare(&mut self, intent: Intent, now: Moment, notices: &mut Vec<Notice>) -> Option<Ticket> {
        let class = intent.class.index();
        let rules = self.rules.get(class)?;
        let refusing = self.refused[class].is_some_and(|at| now.since(at) < REFUSING);
        let free = self.real.in_flight() < self.seats();
        if rules.closed || refusing || !free || self.real.waits() {
            return None;
        }
        match self.enter(Intent { unseen: true, ..intent }, now, notices) {
            Entered::Seat(ticket, _) => {
                // It costs its class no token that a client may want.
                let request = &mut self.requests[ticket.index];
                let (class, client) = (request.class, request.client);
                if std::mem::take(&mut request.client_token) {
                    self.client_rates.give_back(class.0, client.0, now);
                }
                if std::mem::take(&mut request.class_token) {
                    self.class_rates.give_back(class.0, 0, now);
                }
                Some(ticket)
            }
            Entered::Wait(ticket) => {
                self.leave(ticket, false, now, notices);
                None
            }
            // It was not a client's request that was refused.
            Entered::Refused(..) => {
                self.refused[class] = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::trial::{IMPORT, NOOP, SYNC, at, intent, settings},
        *,
    };
    use crate::{
        clock::Moment,
        config::{Settings, settings::Rate},
    };

    fn core(settings: Settings) -> Core {
        Core::new(std::sync::Arc::new(settings), 1, at(0.0))
    }

    fn spare(core: &mut Core, class: Class, now: Moment) -> Option<Ticket> {
        core.spare(intent(class, 999), now, &mut Vec::new())
    }

    fn enter(core: &mut Core, class: Class, client: u64) -> Entered {
        core.enter(intent(class, client), at(0.0), &mut Vec::new())
    }

    #[test]
    fn a_local_answer_costs_a_token_of_its_client_and_nothing_else() {
        let mut settings = settings(1);
        settings.class[NOOP.index()].closed = true;
        settings.class[NOOP.index()].client_rate = Some(Rate { per_second: 1.0, burst: 2, mode: Mode::Enforce });
        let mut core = core(settings);
        let knock = |core: &mut Core, client| core.knock(NOOP, ClientKey(client), at(0.0));
        assert!(knock(&mut core, 1).is_ok() && knock(&mut core, 1).is_ok());
        let (refusal, _) = knock(&mut core, 1).expect_err("the bucket is empty");
        assert_eq!((refusal.rule, refusal.own_doing), (Rule::ClientRate, true));
        assert!(knock(&mut core, 2).is_ok());
        assert_eq!(core.view(at(0.0)).in_flight, 0);
    }

    #[test]
    fn in_shadow_an_empty_bucket_is_only_told() {
        let mut settings = settings(1);
        settings.class[NOOP.index()].client_rate = Some(Rate { per_second: 1.0, burst: 1, mode: Mode::Shadow });
        let mut core = core(settings);
        assert!(core.knock(NOOP, ClientKey(1), at(0.0)).is_ok_and(|shadows| shadows.is_empty()));
        assert!(core.knock(NOOP, ClientKey(1), at(0.0)).is_ok_and(|shadows| shadows[..] == [Rule::ClientRate]));
    }

    #[test]
    fn a_question_of_our_own_leaves_every_reserve_free() {
        let mut core = core(settings(8));
        let mut got = 0_u64;
        while core.spare(intent(NOOP, 1000 + got), at(0.0), &mut Vec::new()).is_some() {
            got += 1;
        }
        let reserves: usize = core.view(at(0.0)).classes.iter().map(|class| class.reserve).sum();
        assert_eq!(got, 8 - reserves as u64);
        assert!(matches!(enter(&mut core, SYNC, 1), Entered::Seat(..)));
    }

    #[test]
    fn a_question_of_our_own_never_waits_and_never_goes_before_one_who_does() {
        let mut core = core(settings(2));
        assert!(matches!(enter(&mut core, SYNC, 1), Entered::Seat(..)));
        assert!(matches!(enter(&mut core, SYNC, 2), Entered::Seat(..)));
        let Entered::Wait(waiter) = enter(&mut core, SYNC, 3) else { panic!("both seats are taken") };
        assert_eq!(spare(&mut core, NOOP, at(0.0)), None);
        assert_eq!(core.view(at(0.0)).classes.iter().map(|class| class.queued).sum::<usize>(), 1);
        core.leave(waiter, false, at(0.0), &mut Vec::new());
        assert_eq!(spare(&mut core, NOOP, at(0.0)), None);
    }

    #[test]
    fn a_question_of_our_own_costs_its_class_no_token() {
        let mut settings = settings(64);
        settings.class[NOOP.index()].rate = Some(Rate { per_second: 0.01, burst: 1, mode: Mode::Enforce });
        let mut core = core(settings);
        assert!(spare(&mut core, NOOP, at(0.0)).is_some());
        assert!(matches!(enter(&mut core, NOOP, 1), Entered::Seat(..)));
    }

    #[test]
    fn while_its_class_refuses_it_asks_nothing() {
        let mut settings = settings(64);
        settings.class[IMPORT.index()].rate = Some(Rate { per_second: 1.0, burst: 1, mode: Mode::Enforce });
        let mut core = core(settings);
        assert!(matches!(enter(&mut core, IMPORT, 1), Entered::Seat(..)));
        assert!(matches!(enter(&mut core, IMPORT, 2), Entered::Refused(..)));
        assert_eq!(spare(&mut core, IMPORT, at(5.0)), None);
        assert!(spare(&mut core, NOOP, at(5.0)).is_some());
        assert!(spare(&mut core, IMPORT, at(11.0)).is_some());
    }
}
