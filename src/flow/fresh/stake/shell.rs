//! The write or the question of one call, moment by moment: before the first byte of each attempt, at the app's head, at its last byte, and
//! when nothing of that comes.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, response::Parts};
use parking_lot::Mutex;

use super::{is_delimited, is_known, listed};
use crate::{
    clock::{self, Moment},
    flow::fresh::{
        Again, Delivered, Fresh, Judged, Poll, Verdict,
        answers::{Put, Stored},
        join::{Running, shell::Lead},
        judge::{self, Digest},
        keys::{Key, Touched},
        ledger::{Asked, Cause, NotSolid, Quiet, generation::End},
        replay::{self, NotKept, Whole},
        shell::Member,
    },
    profile::{Later, Profile, Reply, RouteId},
};

const CHANGED: HeaderName = HeaderName::from_static("tidegate-changed");

/// What hangs on a call. However the call ends, this ends with it: if nobody said how, as unknown.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and they change apart")]
pub struct Stake {
    fresh: Arc<Fresh>,
    profile: Arc<Profile>,
    route: RouteId,
    credential: Key,
    is_head: bool,
    is_stream: bool,
    member: Member,
    write: Option<Write>,
    asking: Option<Box<Asking>>,
    widening: Option<Arc<Widening>>,
    /// The first byte of an attempt may have been written, and nothing is known of its end.
    sent: bool,
    /// An attempt was lost: whatever becomes of a later one, that one may still take effect.
    was_lost: bool,
    head: Option<Head>,
}

/// What a call writes.
#[derive(Debug)]
pub struct Write {
    touched: Touched,
    /// Documents that only the reply names.
    later: Option<Later>,
    suspends: bool,
    /// Only what `pending` names is begun: the app may show others that it wrote before they are known (rule 21).
    hides: bool,
    /// What the reply names, once it is known.
    listed: Option<Touched>,
}

/// Widens a write to everything while its body streams: a later byte may contradict what its beginning showed.
#[derive(Debug)]
pub struct Widening {
    fresh: Arc<Fresh>,
    route: RouteId,
    state: Mutex<Width>,
}

/// How wide a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    /// As its beginning showed.
    Narrow,
    /// Everything, too.
    Wide,
    /// It has ended.
    Ended,
}

impl Widening {
    /// Before the bytes that say so go on.
    pub fn widen(&self) {
        let mut state = self.state.lock();
        let everything = Touched::everything();
        match *state {
            Width::Wide => {}
            Width::Narrow => {
                self.fresh.ledger.begin(&everything, Cause::from(self.route));
                *state = Width::Wide;
            }
            // Its end is known to nobody: an answer came before these bytes went out.
            Width::Ended => {
                self.fresh.ledger.begin(&everything, Cause::from(self.route));
                self.fresh.ledger.end(&everything, self.fresh.quiet_from(false), Quiet::Doubt);
            }
        }
    }

    fn end(&self, quiet: Option<(Moment, Quiet)>) {
        let before = std::mem::replace(&mut *self.state.lock(), Width::Ended);
        if before == Width::Wide {
            let everything = Touched::everything();
            match quiet {
                None => self.fresh.ledger.unsent(&everything),
                Some((quiet_from, quiet)) => self.fresh.ledger.end(&everything, quiet_from, quiet),
            }
        }
    }
}

/// What a call asks.
pub struct Asking {
    poll: Arc<Poll>,
    asked: Option<Asked>,
    /// Those who share it.
    lead: Option<Lead<Delivered>>,
    /// The answer that it is compared with.
    against: Option<(Arc<Stored>, Again)>,
    /// Why its answer is not kept.
    kept: Result<(), NotKept>,
}

/// What is remembered of the app's head.
#[derive(Debug)]
struct Head {
    status: StatusCode,
    delimited: bool,
    /// As it goes on, of answers that are read, kept or shared.
    parts: Option<Box<Parts>>,
}

impl fmt::Debug for Stake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Stake")
            .field("route", &self.route)
            .field("write", &self.write)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

impl Write {
    /// A write of these documents, and of those that only the reply names.
    #[must_use]
    pub fn new(fresh: &Fresh, mut touched: Touched, later: Option<Later>) -> Self {
        let pending = later.as_ref().and_then(Later::pending);
        if let Some(pending) = pending {
            touched.add(&fresh.keys.writes(pending));
        }
        let suspends = later.is_some() && pending.is_none();
        let hides = pending.is_some();
        Self { touched, later, suspends, hides, listed: None }
    }

    /// Everything, whatever was thought so far. For what has not begun.
    pub fn widen(&mut self) {
        self.touched = Touched::everything();
    }
}

impl Asking {
    /// A question of this poll.
    #[must_use]
    pub fn new(poll: Arc<Poll>) -> Self {
        Self { poll, asked: None, lead: None, against: None, kept: Ok(()) }
    }
}

/// Who and what a call is.
#[derive(Debug)]
pub struct Whose {
    /// By which it was read.
    pub profile: Arc<Profile>,
    /// Its route.
    pub route: RouteId,
    /// Whose it is.
    pub credential: Key,
    /// It asks for the head alone.
    pub is_head: bool,
    /// It is open-ended: nothing of its reply is held.
    pub is_stream: bool,
}

impl Stake {
    /// What hangs on a call of this request.
    #[must_use]
    pub fn new(fresh: Arc<Fresh>, whose: Whose, member: Member, write: Option<Write>, poll: Option<Arc<Poll>>) -> Box<Self> {
        let Whose { profile, route, credential, is_head, is_stream } = whose;
        let asking = poll.map(|poll| Box::new(Asking::new(poll)));
        Box::new(Self {
            fresh,
            profile,
            route,
            credential,
            is_head,
            is_stream,
            member,
            write,
            asking,
            widening: None,
            sent: false,
            was_lost: false,
            head: None,
        })
    }

    /// Whose generation it belongs to.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// What widens its write while it streams. A body that streams is sent once.
    pub fn widening(&mut self) -> Arc<Widening> {
        let made = || Arc::new(Widening { fresh: Arc::clone(&self.fresh), route: self.route, state: Mutex::new(Width::Narrow) });
        Arc::clone(self.widening.get_or_insert_with(made))
    }

    /// Its answer goes to those who share it.
    pub fn lead(&mut self, lead: Lead<Delivered>) {
        if let Some(asking) = &mut self.asking {
            asking.lead = Some(lead);
        }
    }

    /// Its answer is compared with this one.
    pub fn compare(&mut self, stored: Arc<Stored>, why: Again) {
        if let Some(asking) = &mut self.asking {
            asking.against = Some((stored, why));
        }
    }

    /// The first byte of an attempt's head is about to be sent (rules 2, 5, 7 and 13). For a poll, whether its answer lasts.
    pub fn sending(&mut self) -> Option<Result<(), NotSolid>> {
        self.lost();
        let ledger = &self.fresh.ledger;
        if let Some(write) = &mut self.write {
            if write.suspends {
                ledger.suspend();
            }
            if write.hides {
                self.fresh.hidden.fetch_add(1, Ordering::Relaxed);
            }
            write.listed = None;
            ledger.begin(&write.touched, Cause::from(self.route));
        }
        self.sent = true;
        self.head = None;
        let asking = self.asking.as_mut()?;
        // The clocks before the sequence, the sequence before the documents, all before the first byte.
        let (boot, now) = (clock::boot(), clock::now());
        let asked = ledger.ask(&asking.poll.reads, now, boot);
        if let Some(lead) = &asking.lead {
            let solid = asked.solid.is_ok() && self.member.is_current();
            lead.sent(Running { reads: asking.poll.reads.clone(), s: asked.s, asked_at: asked.asked_at, solid });
        }
        asking.asked = Some(asked);
        Some(asked.solid)
    }

    /// Not one byte of the attempt was written (rule 3).
    pub fn unsent(&mut self) {
        if !std::mem::take(&mut self.sent) {
            return;
        }
        if let Some(write) = &self.write {
            self.fresh.ledger.unsent(&write.touched);
            if write.suspends {
                self.fresh.ledger.resume();
            }
            if write.hides {
                self.fresh.hidden.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// The attempt ended, and nobody knows whether it took effect, or may yet (rule 4).
    pub fn lost(&mut self) {
        if !std::mem::take(&mut self.sent) {
            return;
        }
        self.was_lost = true;
        self.finish(false);
    }

    fn finish(&mut self, known: bool) {
        let ledger = &self.fresh.ledger;
        let quiet_from = self.fresh.quiet_from(known);
        let quiet = if known { Quiet::Settle } else { Quiet::Doubt };
        if let Some(write) = &self.write {
            match &write.listed {
                // Again: it may have been committed at any moment until now, and a poll may have been asked since the head came (rule 13).
                Some(listed) if known => ledger.notice(listed, quiet_from, Cause::from(self.route)),
                // Which documents it wrote is not known, and may never be.
                _ if write.later.is_some() => {
                    let everything = Touched::everything();
                    ledger.begin(&everything, Cause::from(self.route));
                    ledger.end(&everything, quiet_from, quiet);
                }
                _ => {}
            }
            ledger.end(&write.touched, quiet_from, quiet);
            if write.suspends {
                ledger.resume();
            }
            if write.hides {
                self.fresh.hidden.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if let Some(widening) = &self.widening {
            widening.end(Some((quiet_from, quiet)));
        }
        self.member.ends(if self.was_lost || !known { End::Unknown(self.fresh.quiet_from(false)) } else { End::Known(quiet_from) });
    }

    /// The app's final head has come, as it came, and nothing of it has gone on (rule 12).
    pub fn answered(&mut self, head: &Parts) {
        for value in head.headers.get_all(&CHANGED) {
            self.changed(value.to_str().ok());
        }
        let status = head.status;
        self.head = Some(Head { status, delimited: is_delimited(self.is_head, head), parts: None });
        if self.holds().is_none() {
            self.read(&Reply { status, headers: &head.headers, body: None });
        }
    }

    /// The same head as it goes on.
    pub fn passes(&mut self, head: &Parts) {
        if self.asking.is_none() && self.holds().is_none() {
            return;
        }
        let mut parts = http::Response::new(()).into_parts().0;
        (parts.status, parts.version) = (head.status, head.version);
        parts.headers.clone_from(&head.headers);
        if let Some(head) = &mut self.head {
            head.parts = Some(Box::new(parts));
        }
    }

    /// `Tidegate-Changed: scope, scope`; none: it cannot be read.
    fn changed(&self, scopes: Option<&str>) {
        let mut touched = Touched::default();
        match scopes {
            None => touched = Touched::everything(),
            Some(scopes) => {
                for scope in listed(scopes) {
                    touched.add(&self.fresh.keys.named(scope).unwrap_or_else(Touched::everything));
                }
            }
        }
        self.fresh.notice(&touched, Cause::NOTICE);
    }

    /// Up to how many bytes of the reply's body must be read before anything of it goes on; none: it need not be read.
    #[must_use]
    pub fn holds(&self) -> Option<usize> {
        (!self.is_stream && self.profile.reads_reply_body(self.route)).then(|| self.fresh.in_force().held_max)
    }

    /// The reply's body, where it is to be held: if it was held whole. Nothing of it has gone on.
    pub fn replied(&mut self, body: Option<&[u8]>) {
        let Some(head) = self.head.take() else { return };
        if let Some(parts) = &head.parts {
            self.read(&Reply { status: head.status, headers: &parts.headers, body });
        }
        self.head = Some(head);
    }

    fn read(&mut self, reply: &Reply<'_>) {
        if self.profile.is_denied(reply) {
            self.fresh.notice(&Touched::one(self.credential), Cause::DENIED);
        }
        if let Some(asking) = &mut self.asking
            && !self.profile.may_keep(self.route, reply)
        {
            asking.kept = Err(NotKept::OnlyIf);
        }
        if let Some(write) = &mut self.write
            && let Some(later) = &write.later
        {
            let touched = self.fresh.keys.writes(&later.scopes(reply));
            self.fresh.ledger.notice(&touched, self.fresh.quiet_from(true), Cause::from(self.route));
            write.listed = Some(touched);
        }
    }

    /// Up to how many bytes of the reply's body are wanted; 0: none.
    #[must_use]
    pub fn copies(&self) -> usize {
        let Some(asking) = &self.asking else { return 0 };
        let settings = self.fresh.in_force();
        if asking.lead.is_some() { settings.fresh.answer_max.max(settings.shared_max) } else { settings.fresh.answer_max }
    }

    /// The reply is longer than that, or there was no memory for it: nobody shares it.
    pub fn too_long(&mut self) {
        if let Some(asking) = &mut self.asking {
            asking.kept = Err(NotKept::Size);
            if let Some(lead) = &asking.lead {
                lead.deliver(Delivered::Alone);
            }
        }
    }

    /// The answer is complete to its last byte (rules 3 and 8). `body`: what was copied of it; `trailers`: whether it has any; `request_whole`:
    /// the request was sent to its last byte. For a poll whose answer lasts, whether it is kept.
    pub fn whole(&mut self, body: Option<Bytes>, trailers: bool, request_whole: bool) -> Option<Result<(), NotKept>> {
        if !std::mem::take(&mut self.sent) {
            return None;
        }
        let head = self.head.take();
        let known = head.as_ref().is_some_and(|head| request_whole && head.delimited && is_known(head.status));
        self.finish(known);
        let Head { delimited, parts, .. } = head?;
        let (parts, mut asking) = (parts?, self.asking.take()?);
        if let Some(body) = body {
            if trailers {
                asking.kept = Err(NotKept::Trailers);
            } else if !delimited {
                asking.kept = Err(NotKept::Framing);
            }
            self.take(&mut asking, &parts, &body);
        } else {
            asking.kept = Err(NotKept::Size);
        }
        if let Some(lead) = &asking.lead {
            lead.deliver(Delivered::Alone);
        }
        let kept = asking.asked.filter(|asked| asked.solid.is_ok() && self.member.is_current()).map(|_| asking.kept);
        self.asking = Some(asking);
        kept
    }

    /// Keeps, judges and shares a whole answer.
    fn take(&self, asking: &mut Asking, head: &Parts, body: &Bytes) {
        let Some(rules) = self.profile.answer(self.route) else { return };
        let settings = self.fresh.in_force();
        let is_noise = |name: &HeaderName| self.profile.is_noise(self.route, name);
        // A poll never asks for an upgrade: such a request writes.
        let may = replay::may_keep(&Method::GET, &HeaderMap::new(), head, rules, is_noise);
        if let Some((stored, why)) = asking.against.take()
            && !matches!(asking.kept, Err(NotKept::OnlyIf | NotKept::Framing | NotKept::Trailers))
            // Else its documents have other names by now, under which it would be seen what was written meanwhile.
            && self.member.is_current()
        {
            self.judge(&asking.poll, &stored, why, head.status, judge::digest(head, body, rules));
        }
        // What depends on more than the question, or belongs to one client, or may be cut, is nobody else's.
        let shared = !matches!(may, Err(NotKept::SetCookie | NotKept::Vary | NotKept::Upgrade | NotKept::Trailers))
            && !matches!(asking.kept, Err(NotKept::Trailers | NotKept::Framing));
        if body.len() > settings.fresh.answer_max {
            asking.kept = Err(NotKept::Size);
        }
        asking.kept = asking.kept.and(may);
        let lasts = asking.asked.filter(|asked| asked.solid.is_ok() && self.member.is_current());
        if let Some(Asked { s, asked_at, .. }) = lasts
            && asking.kept.is_ok()
        {
            let Poll { question, reads, route, .. } = &*asking.poll;
            match replay::keep(head, body, rules) {
                Ok(kept) => {
                    let stored = Stored { kept, reads: reads.clone(), s, asked_at, route: *route };
                    if self.fresh.answers.put(*question, stored) == Put::TooLarge {
                        asking.kept = Err(NotKept::Size);
                    }
                }
                Err(why) => asking.kept = Err(why),
            }
        }
        if let Some(lead) = asking.lead.as_ref().filter(|_| shared) {
            lead.deliver(Delivered::Answer(Arc::new(Whole::new(head, body.clone(), None))));
        }
    }

    /// Compares an answer with the one that was, or would have been, replayed (rule 18).
    fn judge(&self, poll: &Poll, stored: &Stored, why: Again, status: StatusCode, after: Digest) {
        let before = stored.kept.digest();
        let hidden = self.fresh.hidden.load(Ordering::Relaxed) > 0;
        let counts = judge::says_something(status) && !hidden && self.fresh.ledger.unchanged(&poll.reads, stored.s);
        let verdict = match counts {
            false => Verdict::Nothing,
            true if before == after => Verdict::Same,
            true => Verdict::Mismatch(before, after),
        };
        if matches!(verdict, Verdict::Mismatch(..)) {
            let touched = Touched { all: poll.reads.everything, keys: poll.reads.keys.clone() };
            self.fresh.notice(&touched, Cause::MISMATCH);
            if why != Again::Verify {
                self.fresh.demote(self.profile.route_name(self.route));
            }
        }
        let age = clock::boot().since(stored.asked_at);
        self.fresh.tell.judged(Judged { route: self.route, why, verdict, age });
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.lost();
        // If nothing was sent after all, nothing was written.
        if let Some(widening) = &self.widening {
            widening.end(None);
        }
    }
}
