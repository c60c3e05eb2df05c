//! What the stage that answers by itself tells, in the words of `Cache-Status`, the metrics and the log.

use crate::flow::{
    fresh::{
        self, Judged, NoPoll, Tell, Verdict,
        ledger::{Cause, NotSolid, Stale},
        replay::NotKept,
    },
    report::{Again, Asked, Detail, Fwd, Invalidation, Mismatch, Report, Why},
};

impl From<NotSolid> for Detail {
    fn from(reason: NotSolid) -> Self {
        match reason {
            NotSolid::Settle => Self::Settle,
            NotSolid::Doubt => Self::Doubt,
            NotSolid::Writer => Self::Writer,
        }
    }
}

impl From<NotKept> for Detail {
    fn from(reason: NotKept) -> Self {
        match reason {
            NotKept::Status | NotKept::Framing => Self::Status,
            NotKept::SetCookie | NotKept::Vary | NotKept::Trailers | NotKept::Upgrade => Self::Header,
            NotKept::Size => Self::Size,
            NotKept::OnlyIf | NotKept::Renew => Self::Shape,
            NotKept::Scope => Self::Scope,
        }
    }
}

/// Why a poll goes to the app; none for what is no poll.
#[must_use]
pub fn why(why: fresh::Why) -> Option<Why> {
    let bypass = |detail| Why { fwd: Fwd::Bypass, detail: Some(detail) };
    let stale = |detail| Why { fwd: Fwd::Stale, detail: Some(detail) };
    Some(match why {
        fresh::Why::NoPoll(NoPoll::Effect) => return None,
        fresh::Why::NoPoll(NoPoll::Mode) => bypass(Detail::Mode),
        fresh::Why::NoPoll(NoPoll::Credential) => bypass(Detail::Credential),
        fresh::Why::NoPoll(NoPoll::Scope) => bypass(Detail::Scope),
        fresh::Why::NoPoll(NoPoll::Body) => bypass(Detail::Body),
        fresh::Why::NoPoll(NoPoll::Reload) => bypass(Detail::Reload),
        fresh::Why::Verify => bypass(Detail::Verify),
        fresh::Why::Miss => Why { fwd: Fwd::UriMiss, detail: None },
        fresh::Why::Stale(Stale::NotSolid(reason)) => stale(reason.into()),
        fresh::Why::Stale(Stale::Age) => stale(Detail::Age),
        fresh::Why::Stale(Stale::Suspended) => stale(Detail::Suspended),
        fresh::Why::Stale(Stale::Written(_)) => stale(Detail::Writer),
    })
}

/// The same, once it is known what the app's answer is good for.
#[must_use]
pub fn refine(why: Why, solid: Option<Result<(), NotSolid>>, kept: Option<Result<(), NotKept>>) -> (Why, bool) {
    if why.fwd != Fwd::UriMiss {
        return (why, kept == Some(Ok(())));
    }
    match (solid, kept) {
        (Some(Err(reason)), _) => (Why { fwd: Fwd::Bypass, detail: Some(reason.into()) }, false),
        (_, Some(Err(reason))) => (Why { detail: Some(reason.into()), ..why }, false),
        (_, kept) => (why, kept.is_some()),
    }
}

impl Report {
    /// A question was not asked again, as nobody's seat was free for it.
    pub fn not_asked_again(&self, why: fresh::Again) {
        if let Some(asked) = asked(why) {
            self.asked_again(asked, Again::Dropped);
        }
    }
}

fn asked(why: fresh::Again) -> Option<Asked> {
    match why {
        fresh::Again::Verify => None,
        fresh::Again::Refresh => Some(Asked::Refresh),
        fresh::Again::Audit => Some(Asked::Audit),
    }
}

impl Tell for Report {
    fn judged(&self, judged: Judged) {
        let Judged { route, why, verdict, age } = judged;
        let Some(asked) = asked(why) else {
            self.would_have(
                route,
                match verdict {
                    Verdict::Same => Some(true),
                    Verdict::Mismatch(..) => Some(false),
                    Verdict::Nothing => None,
                },
            );
            return;
        };
        match verdict {
            Verdict::Same => self.asked_again(asked, Again::Same),
            Verdict::Nothing => self.asked_again(asked, Again::Unjudged),
            Verdict::Mismatch(stored, found) => {
                self.asked_again(asked, Again::Mismatch);
                self.mismatch(&Mismatch { route, asked, stored: stored.0, found: found.0, age });
            }
        }
    }

    fn invalidated(&self, cause: Cause, everything: bool) {
        let by = match cause {
            Cause::NOTICE => Invalidation::Notice,
            Cause::INVALIDATED => Invalidation::Invalidate,
            Cause::DENIED => Invalidation::Denied,
            Cause::RELOADED => Invalidation::Reload,
            Cause::MISMATCH => Invalidation::Mismatch,
            _ if everything => Invalidation::Everything,
            _ => Invalidation::Write,
        };
        self.invalidated(by);
    }
}
