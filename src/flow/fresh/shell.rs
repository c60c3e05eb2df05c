//! The stage as requests meet it: the ledger, the answers and those who ask, with what is in force of `[fresh]`.

use std::{
    collections::BTreeSet,
    fmt,
    hash::Hasher,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{
    HeaderName,
    header::{AUTHORIZATION, COOKIE},
    request::Parts,
};

use siphasher::sip::SipHasher13;

use super::{
    Again, Delivered, NoPoll, Poll, Tell, Why,
    answers::{Answers, Stored},
    join::shell::{Joins, Place},
    keys::{Key, Keyring, Touched},
    ledger::{Cause, Ledger, Proof},
    question::{self, Questioner},
};
use crate::{
    clock::{self, Moment},
    config::{
        Settings,
        settings::{self, FreshMode},
    },
    model::Effect,
    profile::{AnswerMode, KeyBody, Profile, Reading, RouteId},
};

pub use super::ledger::generation::shell::{Generation, Member};

/// What was in doubt when the last process stopped cleanly (rule 15).
#[derive(Clone, Debug)]
pub struct Doubts {
    /// The secret of the keys.
    pub secret: [u64; 2],
    /// How documents are named: other profiles, and other versions, name them otherwise.
    pub names: u64,
    /// Each key, and for how long after the start it is in doubt.
    pub doubts: Vec<(Key, Duration)>,
}

/// The stage.
pub struct Fresh {
    /// Which documents were written when.
    pub ledger: Arc<Ledger>,
    /// What the app said.
    pub answers: Answers,
    /// Who asks the same.
    pub joins: Arc<Joins<Delivered>>,
    /// Makes keys.
    pub keys: Keyring,
    questions: Questioner,
    settings: ArcSwap<InForce>,
    /// Routes that a mismatch has put back to `verify`, by their names.
    demoted: ArcSwap<BTreeSet<Arc<str>>>,
    /// Writes that run of which only a part was begun (rule 21).
    pub(super) hidden: AtomicUsize,
    pub(super) tell: Box<dyn Tell>,
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// `[fresh]`
    pub fresh: settings::Fresh,
    /// The most bytes of a reply that are held to be read.
    pub held_max: usize,
    /// The most bytes of a reply that is shared.
    pub shared_max: usize,
}

impl InForce {
    fn of(settings: &Settings) -> Self {
        Self { fresh: settings.fresh.clone(), held_max: settings.inspect.bytes_max, shared_max: settings.app.buffer }
    }
}

impl fmt::Debug for Fresh {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Fresh").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

/// A local answer, and whether its question should be put to the app again.
#[derive(Debug)]
pub struct Local {
    /// What is replayed.
    pub stored: Arc<Stored>,
    /// That it may be.
    pub proof: Proof,
    /// Whether, and why, the question is asked again.
    pub again: Option<Again>,
}

impl Fresh {
    /// Nothing is known. Everything is in doubt for `start_doubt`, unless the last process stopped cleanly and said what is.
    #[must_use]
    pub fn new(settings: &Settings, profile: &Profile, doubts: Option<Doubts>, tell: Box<dyn Tell>) -> Arc<Self> {
        let bounds = &settings.fresh;
        let now = clock::now();
        let (secret, ledger) = if let Some(Doubts { secret, doubts, .. }) = doubts.filter(|doubts| doubts.names == names(settings, profile))
        {
            let doubts: Vec<_> = doubts.into_iter().map(|(key, left)| (key, now + left)).collect();
            (secret, Ledger::with_doubts(bounds.documents_max, &doubts))
        } else {
            let quiet_from = now + bounds.start_doubt + bounds.settle;
            ([fastrand::u64(..), fastrand::u64(..)], Ledger::new(bounds.documents_max, quiet_from))
        };
        Arc::new(Self {
            ledger: Arc::new(ledger),
            answers: Answers::for_largest(bounds.answers_max, bounds.answer_max as u64),
            joins: Arc::new(Joins::new()),
            keys: Keyring::new(secret, bounds.depth_max),
            questions: Questioner::new([fastrand::u64(..), fastrand::u64(..)]),
            settings: ArcSwap::from_pointee(InForce::of(settings)),
            demoted: ArcSwap::default(),
            hidden: AtomicUsize::new(0),
            tell,
        })
    }

    /// New settings take effect; what is learned stays.
    pub fn reload(&self, settings: &Settings) {
        self.answers.resize(settings.fresh.answers_max);
        self.settings.store(Arc::new(InForce::of(settings)));
    }

    /// A profile of another meaning takes over (rule 17): before it reads its first request. `exempt`: routes that are read alike by both.
    pub fn retire(&self, old: &Generation, exempt: impl Fn(RouteId) -> bool) {
        old.retire(exempt, &self.ledger);
        // What was lost before is in doubt under the old names, or under none if the old profile did not know it for a write.
        self.ledger.doubt_everything(self.quiet_from(false));
        self.answers.clear();
    }

    /// What is in force.
    #[must_use]
    pub fn in_force(&self) -> Arc<InForce> {
        self.settings.load_full()
    }

    /// Until when what the app shows need not last, for something that ends now.
    #[must_use]
    pub fn quiet_from(&self, known: bool) -> Moment {
        let settings = self.settings.load();
        let doubt = if known { Duration::ZERO } else { settings.fresh.doubt };
        clock::now() + settings.fresh.settle + doubt
    }

    /// The documents in doubt, if nothing else is in doubt, for the next start.
    #[must_use]
    pub fn doubts(&self, settings: &Settings, profile: &Profile) -> Option<Doubts> {
        let doubts = self.ledger.doubts(clock::now())?;
        Some(Doubts { secret: self.keys.secret(), names: names(settings, profile), doubts })
    }

    /// A poll as a question.
    ///
    /// # Errors
    /// Why its answer may be neither kept nor shared.
    pub fn poll(&self, profile: &Profile, generation: u64, reading: &Reading, head: &Parts, body: Option<&[u8]>) -> Result<Poll, NoPoll> {
        let rules = profile.answer(reading.route).ok_or(NoPoll::Effect)?;
        let body = body.filter(|_| reading.effect == Effect::Poll).ok_or(NoPoll::Body)?;
        let settings = self.settings.load();
        let own = match rules.mode {
            Some(AnswerMode::Off) => FreshMode::Off,
            Some(AnswerMode::Verify) => FreshMode::Verify,
            Some(AnswerMode::On) | None => FreshMode::On,
        };
        let mode = settings.fresh.mode.min(own);
        if mode == FreshMode::Off {
            return Err(NoPoll::Mode);
        }
        let mode = if self.is_demoted(profile.route_name(reading.route)) { FreshMode::Verify } else { mode };
        // One that is too long for a selector is a credential all the same, and part of every question.
        let shown = !reading.secret.is_empty() || head.headers.contains_key(AUTHORIZATION);
        if !shown && !profile.anonymous {
            return Err(NoPoll::Credential);
        }
        let credential = self.credential(reading, head);
        let reads = self.keys.reads(&reading.reads, credential, settings.fresh.keys_max).ok_or(NoPoll::Scope)?;
        let key_body = profile.key_body(reading.route, head, body);
        let asked = match &key_body {
            KeyBody::Whole => question::Asked::Body(body),
            KeyBody::Values(bytes) => question::Asked::Selected(bytes),
            KeyBody::Uncertain => return Err(NoPoll::Body),
        };
        let is_noise = |name: &HeaderName| profile.is_noise(reading.route, name);
        let question = self.questions.question(generation, reading.route, head, reading.secret.as_bytes(), asked, is_noise);
        Ok(Poll { question, reads, route: reading.route, mode, age_max: rules.age_max })
    }

    /// Whose request it is, as a key of the ledger: by what the profile calls the credential, else by what HTTP does.
    #[must_use]
    pub fn credential(&self, reading: &Reading, head: &Parts) -> Key {
        if !reading.secret.is_empty() {
            return self.keys.credential(reading.secret.as_bytes());
        }
        let mut shown = Vec::new();
        for name in [AUTHORIZATION, COOKIE] {
            for value in head.headers.get_all(&name) {
                shown.extend_from_slice(name.as_str().as_bytes());
                shown.extend_from_slice(&(value.len() as u64).to_le_bytes());
                shown.extend_from_slice(value.as_bytes());
            }
        }
        self.keys.credential(&shown)
    }

    /// A stored answer that proves now (rules 9 and 10), for a poll that came before. `down`: the app is down or in maintenance.
    ///
    /// # Errors
    /// Why there is none.
    pub fn replay(&self, poll: &Poll, member: &Member, down: bool) -> Result<Local, Why> {
        if !member.is_current() {
            return Err(Why::NoPoll(NoPoll::Reload));
        }
        let stored = self.answers.get(&poll.question).ok_or(Why::Miss)?;
        let boot = clock::boot();
        let proof = self.ledger.prove(&stored.reads, &stored.asked(), boot, self.age_max(poll, down)).map_err(Why::Stale)?;
        let again = self.again(boot.since(stored.asked_at));
        Ok(Local { stored, proof, again })
    }

    /// The longest time for which an answer to this poll is replayed, judged at each check.
    fn age_max(&self, poll: &Poll, down: bool) -> Duration {
        let settings = self.settings.load();
        let age_max = if down { settings.fresh.age_max_down } else { settings.fresh.age_max };
        poll.age_max.map_or(age_max, |own| own.min(age_max))
    }

    fn again(&self, age: Duration) -> Option<Again> {
        let settings = self.settings.load();
        if age >= settings.fresh.refresh_after {
            return Some(Again::Refresh);
        }
        let audit = settings.fresh.audit;
        (audit > 0 && fastrand::u32(0..audit) == 0).then_some(Again::Audit)
    }

    /// A poll that may share arrives (rules 10 and 11).
    #[must_use]
    pub fn arrive(&self, poll: &Poll, down: bool) -> Place<Delivered> {
        let members_max = self.settings.load().fresh.joiners_max;
        let age_max = self.age_max(poll, down);
        self.joins.arrive(poll.question, members_max, |running| {
            self.ledger.prove(&running.reads, &running.asked(), clock::boot(), age_max).is_ok()
        })
    }

    fn is_demoted(&self, route: &str) -> bool {
        let demoted = self.demoted.load();
        !demoted.is_empty() && demoted.contains(route)
    }

    /// A mismatch puts a route back to `verify`; true if it was not yet.
    pub fn demote(&self, route: &str) -> bool {
        let before = self.demoted.rcu(|demoted| {
            let mut demoted = BTreeSet::clone(demoted);
            demoted.insert(Arc::from(route));
            demoted
        });
        !before.contains(route)
    }

    /// Lets routes answer again that a mismatch has put back to `verify`: these, or all. How many it were.
    pub fn promote(&self, routes: Option<&[String]>) -> usize {
        let before = self.demoted.rcu(|demoted| {
            let keeps = |route: &Arc<str>| routes.is_some_and(|routes| !routes.iter().any(|name| **name == **route));
            demoted.iter().filter(|route| keeps(route)).cloned().collect::<BTreeSet<_>>()
        });
        before.len() - self.demoted.load().len().min(before.len())
    }

    /// The routes that a mismatch has put back to `verify`.
    #[must_use]
    pub fn demoted(&self) -> Vec<Arc<str>> {
        self.demoted.load().iter().cloned().collect()
    }

    /// Documents have changed without a write that passed through (rule 12).
    pub fn notice(&self, touched: &Touched, cause: Cause) {
        self.ledger.notice(touched, self.quiet_from(true), cause);
        self.tell.invalidated(cause, touched.all);
    }
}

/// How documents are named by this profile, cut to this depth, by this version.
fn names(settings: &Settings, profile: &Profile) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(env!("CARGO_PKG_VERSION").as_bytes());
    hasher.write_u64(settings.fresh.depth_max as u64);
    hasher.write_u64(profile.meaning_up_to(RouteId::UNMATCHED));
    hasher.finish()
}
