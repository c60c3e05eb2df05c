//! What the end of a request teaches: which ends say what documents cost, which say how much at least, and which say nothing.

use std::time::Duration;

use http::StatusCode;

use crate::{
    clock::Moment,
    flow::classify::documents::{Documents, Sample},
    model::{Class, DocumentKey},
    profile::Cost,
};

/// A request that is over, as far as it teaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    /// The class of its route (not the `long` class that it may have been admitted or charged as).
    pub class: Class,
    /// What its route remembers of documents.
    pub cost: Cost,
    /// From the last byte of the request to the last byte of the answer, as the app gave it, or to the moment when it was given up.
    pub app: Duration,
    /// Of it in the database, where the app told.
    pub database: Option<Duration>,
    /// The bytes of the reply's body that the app gave.
    pub reply: u64,
    /// How it ended.
    pub end: End,
}

/// How a request ended at the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The app gave a whole answer, whether or not its client was still there.
    Answered(StatusCode),
    /// The app's answer, or its connection, broke off.
    Cut,
    /// It was given up at a time-out.
    TimedOut,
    /// It never reached the app whole: no connection, or the client did not send all of it. The time was not the app's.
    Unsent,
    /// It was open-ended: a long poll, an event stream, an upgrade. It takes as long as nothing happens.
    Stream,
}

/// What an end teaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// What it took is what it costs.
    Cost,
    /// It costs at least what it took: lowers nothing that is known.
    AtLeast,
    /// Nothing.
    Nothing,
}

/// What this end teaches.
///
/// Only a whole answer of 2xx or 3xx is a price. A denial or an error may be had for nothing, else a client with a wrong password could make
/// a dear document look cheap; but one that took long did cost that much, and so did what was cut or timed out.
#[must_use]
pub fn lesson(end: End) -> Lesson {
    match end {
        End::Answered(status) if status.is_success() || status.is_redirection() => Lesson::Cost,
        End::Answered(status) if status.is_informational() => Lesson::Nothing,
        End::Answered(_) | End::Cut | End::TimedOut => Lesson::AtLeast,
        End::Unsent | End::Stream => Lesson::Nothing,
    }
}

/// Tells the memory of documents what a request for them took. Local answers, and those that were shared, are not to be told: they took nothing.
pub fn teach(documents: &Documents, keys: &[DocumentKey], finished: &Finished, now: Moment) {
    let Finished { class, cost, app, database, reply, end } = *finished;
    let sample = Sample { class, cost, app, database, reply };
    match lesson(end) {
        Lesson::Cost => documents.learn(keys, &sample, now),
        Lesson::AtLeast => documents.learn_at_least(keys, &sample, now),
        Lesson::Nothing => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::classify::documents::Bounds, model::Classes};

    const KEY: DocumentKey = DocumentKey(7);

    fn cost_after(ends: &[(End, u64)]) -> Option<Duration> {
        let documents = Documents::bounded(Bounds {
            documents_max: 100,
            long_cost: Duration::from_millis(25),
            long_reply: 1000,
            long_after: Vec::new(),
            classes: Classes::shipped(),
        });
        for (end, seconds) in ends {
            let app = Duration::from_secs(*seconds);
            let finished = Finished { class: Class(1), cost: Cost::Database, app, database: None, reply: 10, end: *end };
            teach(&documents, &[KEY], &finished, Moment(0));
        }
        documents.cost(KEY).0
    }

    fn answered(status: u16) -> End {
        End::Answered(StatusCode::from_u16(status).expect("valid"))
    }

    #[test]
    fn a_whole_answer_is_a_price() {
        for status in [200, 204, 207, 304] {
            assert_eq!(cost_after(&[(answered(status), 10)]), Some(Duration::from_secs(10)));
            assert_eq!(cost_after(&[(End::TimedOut, 10), (answered(status), 0)]), Some(Duration::from_secs(7)));
        }
    }

    #[test]
    fn what_failed_costs_at_least_what_it_took() {
        for end in [answered(401), answered(429), answered(500), answered(503), End::Cut, End::TimedOut] {
            assert_eq!(cost_after(&[(end, 30)]), Some(Duration::from_secs(30)), "{end:?}");
            assert_eq!(cost_after(&[(answered(200), 10), (end, 0)]), Some(Duration::from_secs(10)), "{end:?}");
            assert_eq!(cost_after(&[(answered(200), 10), (end, 20)]), Some(Duration::from_secs(13)), "{end:?}");
        }
    }

    #[test]
    fn what_never_was_the_apps_time_teaches_nothing() {
        for end in [End::Unsent, End::Stream, answered(101)] {
            assert_eq!(cost_after(&[(end, 30)]), None, "{end:?}");
        }
    }
}
