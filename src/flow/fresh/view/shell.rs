//! Looks into the running stage for operators, and does what they ask of it. Nothing here is on the path of a request.

use std::{cmp::Reverse, collections::HashSet};

use super::{DEPENDENTS_SHOWN_MAX, Dependent, DocumentView, Invalidated, View};
use crate::{
    clock::{self, Boot},
    flow::fresh::{
        answers::Stored,
        keys::{self, Key, Reads, Touched},
        ledger::{Cause, Looked, Quiet},
        shell::Fresh,
    },
    model::Scope,
    profile::RouteId,
};

/// What to write for a scope.
const FORM: &str = "write \"doc:x\" or another kind, \"tree:/a/path\", or \"*\" for everything";

impl Fresh {
    /// All of it at a moment.
    #[must_use]
    pub fn view(&self) -> View {
        let now = clock::now();
        let (ledger, answers, joins) = (self.ledger.view(now), self.answers.view(), self.joins.view());
        let whole = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        #[expect(clippy::cast_precision_loss, reason = "some thousand parts at most")]
        let share = ledger.floors_in_doubt as f64 / ledger.parts.max(1) as f64;
        View {
            answers: whole(answers.count),
            answers_bytes: answers.bytes,
            evicted: answers.evicted,
            documents: ledger.entries,
            documents_bytes: ledger.bytes,
            writers: usize::try_from(ledger.everything.writers).unwrap_or(usize::MAX),
            suspended: whole(ledger.suspended),
            running: joins.running,
            waiting: joins.waiting,
            joiners: joins.members,
            doubt: ledger.everything.quiet_from.since(now),
            in_doubt: if ledger.all_solid.is_err() { 1.0 } else { share },
            distrusted: self.demoted().iter().map(ToString::to_string).collect(),
        }
    }

    /// What is known of the document with this scope, as in `Tidegate-Changed`: none if that is no scope. `route` gives a route's name. Looks
    /// at every stored answer.
    #[must_use]
    pub fn document(&self, text: &str, route: impl Fn(RouteId) -> String) -> Option<DocumentView> {
        let scope = keys::scope(text)?;
        let now = clock::now();
        let ledger = self.ledger.view(now);
        let looked = match &scope {
            Scope::All => ledger.everything,
            Scope::Plain(_) | Scope::Tree(_) => self.look(&scope).unwrap_or(ledger.all),
        };
        let (answers, newest) = self.dependents(&self.keys.writes(std::slice::from_ref(&scope)));
        let boot = clock::boot();
        let name = |cause: Cause| cause.route().map_or_else(|| format!("({})", cause.label().unwrap_or("unknown")), &route);
        let doubt = looked.quiet_from.since(now);
        let doubt_by = match looked.quiet {
            Quiet::Doubt => "doubt",
            Quiet::Settle => "settle",
        };
        Some(DocumentView {
            document: scope.to_string(),
            entry: looked.entry,
            last_write: looked.last_write,
            newest_write: ledger.seq,
            last_write_by: name(looked.cause),
            writers: looked.writers,
            doubt,
            doubt_by: (!doubt.is_zero()).then_some(doubt_by),
            answers,
            dependents: newest.into_iter().map(|found| found.shown(boot, &route)).collect(),
        })
    }

    /// Takes these scopes for written, by whoever did it past this tidegate. Each is a step of its own, so that many of them are not taken for
    /// everything.
    ///
    /// # Errors
    /// A sentence that says which scope cannot be read and how to write it; nothing has changed then.
    pub fn invalidate(&self, texts: &[String]) -> Result<Invalidated, String> {
        let mut scopes = Vec::with_capacity(texts.len());
        for text in texts {
            scopes.push(keys::scope(text).ok_or_else(|| format!("\"{}\" is no scope: {FORM}", text.escape_debug()))?);
        }
        scopes.sort();
        scopes.dedup();
        if scopes.contains(&Scope::All) {
            scopes = vec![Scope::All];
        }
        let touched: Vec<Touched> = scopes.iter().map(|scope| self.keys.writes(std::slice::from_ref(scope))).collect();
        let keys: HashSet<Key> = touched.iter().flat_map(|touched| touched.keys.iter().copied()).collect();
        let everything = touched.iter().any(|touched| touched.all);
        let mut answers = 0;
        self.answers.each(|_, stored| {
            answers += usize::from(everything || stored.reads.everything || stored.reads.keys.iter().any(|key| keys.contains(key)));
        });
        for touched in &touched {
            self.notice(touched, Cause::INVALIDATED);
        }
        Ok(Invalidated { scopes: scopes.iter().map(ToString::to_string).collect(), keys: keys.len(), everything, answers })
    }

    /// What a poll of this scope is held against, as one.
    fn look(&self, scope: &Scope) -> Option<Looked> {
        // Whose poll it is does not matter here, so any credential will do.
        let nobody = Key(0);
        let Reads { keys, .. } = self.keys.reads(std::slice::from_ref(scope), nobody, usize::MAX)?;
        let keys = keys.into_iter().filter(|key| *key != nobody).collect();
        let looked = self.ledger.look(&Touched { all: false, keys });
        looked.into_iter().map(|(_, looked)| looked).reduce(|one, other| {
            let (last, quiet) = (if other.last_write > one.last_write { other } else { one }, one.quiet_from.max(other.quiet_from));
            Looked {
                writers: one.writers.saturating_add(other.writers),
                quiet_from: quiet,
                quiet: if other.quiet_from == quiet { other.quiet } else { one.quiet },
                entry: one.entry || other.entry,
                ..last
            }
        })
    }

    /// How many stored answers a write of this makes stale, and the newest of them.
    fn dependents(&self, touched: &Touched) -> (usize, Vec<Found>) {
        let (mut count, mut newest) = (0, Vec::new());
        self.answers.each(|_, stored| {
            if touched.all || stored.reads.everything || stored.reads.keys.iter().any(|key| touched.keys.contains(key)) {
                count += 1;
                newest.push(Found::of(stored, self.ledger.unchanged(&stored.reads, stored.s)));
                if newest.len() > 10 * DEPENDENTS_SHOWN_MAX {
                    cut(&mut newest);
                }
            }
        });
        cut(&mut newest);
        (count, newest)
    }
}

/// The newest first, and no more than are shown.
fn cut(found: &mut Vec<Found>) {
    found.sort_by_key(|found| Reverse(found.asked_at));
    found.truncate(DEPENDENTS_SHOWN_MAX);
}

/// A stored answer that depends on a document.
struct Found {
    route: RouteId,
    asked_at: Boot,
    status: u16,
    bytes: usize,
    unchanged: bool,
}

impl Found {
    fn of(stored: &Stored, unchanged: bool) -> Self {
        let status = stored.kept.status().as_u16();
        Self { route: stored.route, asked_at: stored.asked_at, status, bytes: stored.size(), unchanged }
    }

    fn shown(self, now: Boot, route: impl Fn(RouteId) -> String) -> Dependent {
        let Self { status, bytes, unchanged, .. } = self;
        Dependent { route: route(self.route), age: now.since(self.asked_at), status, bytes, unchanged }
    }
}
