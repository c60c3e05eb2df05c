//! The store that all requests share: stripes of answers, each under a lock that is held for one step.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

use super::{Put, Stored, Stripe, View};
use crate::flow::fresh::question::Question;

/// The most stripes.
const STRIPES_MAX: u64 = 256;

/// How many of the largest answers a stripe holds, if that leaves more than one stripe.
const LARGEST_EACH: u64 = 16;

/// The default of `answer_max`.
const ANSWER_MAX: u64 = 256 * 1024;

/// What the app said, kept within a bound of bytes, in as many stripes as leave each of them room for several of the largest answers.
pub struct Answers {
    stripes: Box<[Mutex<Stripe>]>,
}

impl Answers {
    /// An empty store for so many bytes, all included.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self::for_largest(bytes_max, ANSWER_MAX)
    }

    /// An empty store for so many bytes, in which an answer of so many bytes finds room if it can.
    #[must_use]
    pub fn for_largest(bytes_max: u64, answer_max: u64) -> Self {
        let wanted = (bytes_max / answer_max.max(1) / LARGEST_EACH).clamp(1, STRIPES_MAX);
        // The largest power of two that is not above it.
        let count = 1_u64 << wanted.ilog2();
        Self { stripes: (0..count).map(|_| Mutex::new(Stripe::new(bytes_max / count))).collect() }
    }

    /// The answer to this question, which counts as a use of it. Whether it still holds is the ledger's to say.
    #[must_use]
    pub fn get(&self, question: &Question) -> Option<Arc<Stored>> {
        self.stripe(question).lock().get(question).cloned()
    }

    /// Stores an answer, unless one that is as new, or newer, stands there.
    pub fn put(&self, question: Question, stored: Stored) -> Put {
        let stored = Arc::new(stored);
        self.stripe(&question).lock().put(question, stored)
    }

    /// Takes the answer to this question out.
    pub fn remove(&self, question: &Question) {
        // Dropped after the lock.
        let gone = self.stripe(question).lock().remove(question);
        drop(gone);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for stripe in &self.stripes {
            // Dropped after the lock.
            let gone = stripe.lock().clear();
            drop(gone);
        }
    }

    /// Another bound; what is beyond it is pushed out.
    pub fn resize(&self, bytes_max: u64) {
        let share = bytes_max / self.stripes.len() as u64;
        for stripe in &self.stripes {
            stripe.lock().resize(share);
        }
    }

    /// How much there is, stripe by stripe.
    #[must_use]
    pub fn view(&self) -> View {
        self.stripes.iter().map(|stripe| stripe.lock().view()).fold(View::default(), |sum, view| View {
            count: sum.count + view.count,
            bytes: sum.bytes + view.bytes,
            evicted: sum.evicted + view.evicted,
            largest: view.largest,
        })
    }

    /// Every answer, stripe by stripe, each under its lock: for operators, not for requests.
    pub fn each(&self, mut visit: impl FnMut(&Question, &Stored)) {
        for stripe in &self.stripes {
            stripe.lock().each(&mut visit);
        }
    }

    fn stripe(&self, question: &Question) -> &Mutex<Stripe> {
        // The upper half chooses the stripe, the lower one the place in it. A power of two.
        #[expect(clippy::cast_possible_truncation, reason = "some bits are enough")]
        let bits = (question.0 >> 64) as usize;
        &self.stripes[bits & (self.stripes.len() - 1)]
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Answers").field("stripes", &self.stripes.len()).field("view", &self.view()).finish()
    }
}
