//! A part of the memory: a bounded number of documents, the least asked for forgotten first.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{KINDS, Kind, cost::Average};
use crate::{
    clock::Moment,
    model::{Class, DocumentKey},
};

/// The clock's hand passes over a dear document so often until it is forgotten, over any other one once.
const LIVES_DEAR: u8 = 3;

/// What is remembered of a document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Document {
    pub(super) key: DocumentKey,
    /// The class of the route by which it was last learned of.
    pub(super) class: Class,
    /// Passes of the hand that it outlives.
    lives: u8,
    /// By kind.
    averages: [Average; KINDS.len()],
}

impl Document {
    /// Nothing is known of it yet.
    pub(super) fn new(key: DocumentKey, class: Class) -> Self {
        Self { key, class, lives: 0, averages: [Average::NONE; KINDS.len()] }
    }

    pub(super) fn average(&self, kind: Kind) -> &Average {
        &self.averages[kind as usize]
    }

    pub(super) fn average_mut(&mut self, kind: Kind) -> &mut Average {
        &mut self.averages[kind as usize]
    }

    /// Whether it is dear beside requests of a class with these medians (by kind).
    pub(super) fn is_dear(&self, medians: [Option<f32>; KINDS.len()], now: Moment) -> bool {
        self.averages.iter().zip(medians).any(|(average, median)| average.is_dear(median, now))
    }

    /// Whether it is dear but for what its class's median may say.
    pub(super) fn is_marked(&self) -> bool {
        self.averages.iter().any(|average| average.is_marked())
    }

    /// Whether anybody asked for it since the hand last came by.
    pub(super) fn is_in_use(&self) -> bool {
        self.lives > 0
    }

    fn touch(&mut self) {
        self.lives = if self.is_marked() { LIVES_DEAR } else { 1 };
    }
}

/// At most `max` documents.
#[derive(Debug, Default)]
pub(super) struct Stripe {
    documents: Vec<Document>,
    /// Where each one is in `documents`.
    places: HashMap<u64, u32, RandomState>,
    /// Where the clock's hand stands.
    hand: usize,
    max: usize,
}

impl Stripe {
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.min(u32::MAX as usize), ..Self::default() }
    }

    /// A document that is asked for; allocates nothing.
    pub(super) fn find(&mut self, key: DocumentKey) -> Option<&Document> {
        let document = self.documents.get_mut(*self.places.get(&key.0)? as usize)?;
        document.touch();
        Some(document)
    }

    /// Changes what is known of a document, which takes the place of another one if there is none left.
    pub(super) fn change(&mut self, key: DocumentKey, class: Class, change: impl FnOnce(&mut Document)) {
        let known = self.places.get(&key.0).map(|place| *place as usize);
        let Some(place) = known.or_else(|| self.make_room(key, class)) else {
            return;
        };
        if let Some(document) = self.documents.get_mut(place) {
            document.class = class;
            change(document);
            document.touch();
            if known.is_none() && !document.is_marked() {
                // A newcomer has to be asked for once more before it may push others out: else a flood would.
                document.lives = 0;
            }
        }
    }

    /// The place of a new document; `None` if nothing at all may be remembered.
    fn make_room(&mut self, key: DocumentKey, class: Class) -> Option<usize> {
        if self.max == 0 {
            return None;
        }
        let new = Document::new(key, class);
        let place = if self.documents.len() < self.max {
            self.documents.push(new);
            self.documents.len() - 1
        } else {
            let place = self.least();
            self.places.remove(&self.documents[place].key.0);
            self.documents[place] = new;
            place
        };
        self.places.insert(key.0, u32::try_from(place).ok()?);
        Some(place)
    }

    /// Moves the hand to the next document without a life left, which it takes from those on its way. Of a stripe that is not empty.
    fn least(&mut self) -> usize {
        loop {
            let place = self.hand % self.documents.len();
            self.hand = place + 1;
            let document = &mut self.documents[place];
            if document.lives == 0 {
                return place;
            }
            document.lives -= 1;
        }
    }

    /// A new bound; what is too much is forgotten.
    pub(super) fn bound(&mut self, max: usize) {
        self.max = max.min(u32::MAX as usize);
        while self.documents.len() > self.max {
            let place = self.least();
            let gone = self.documents.swap_remove(place);
            self.places.remove(&gone.key.0);
            if let (Some(moved), Ok(place)) = (self.documents.get(place), u32::try_from(place)) {
                self.places.insert(moved.key.0, place);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.max);
    }

    pub(super) fn documents(&self) -> &[Document] {
        &self.documents
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.documents.len() <= self.max);
        assert_eq!(self.documents.len(), self.places.len());
        for (place, document) in self.documents.iter().enumerate() {
            assert_eq!(self.places.get(&document.key.0).map(|place| *place as usize), Some(place));
            assert!(document.lives <= LIVES_DEAR);
            assert!(KINDS.iter().any(|kind| document.average(*kind).cost().is_some()), "a document is remembered with something");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Class = Class(1);

    fn learn(stripe: &mut Stripe, key: u64, cost: f32) {
        stripe.change(DocumentKey(key), SYNC, |document| document.average_mut(Kind::Time).learn(cost, 25_000.0, Some(10.0), Moment(0)));
        stripe.check();
    }

    #[test]
    fn documents_in_use_and_dear_ones_outlive_a_flood_of_others() {
        let mut stripe = Stripe::new(100);
        learn(&mut stripe, 1, 20.0);
        learn(&mut stripe, 2, 1e6);
        for key in 1000..1199 {
            learn(&mut stripe, key, 20.0);
            assert!(stripe.find(DocumentKey(1)).is_some());
        }
        assert!(stripe.find(DocumentKey(2)).is_some(), "nobody asked for it, but it is dear");
        for key in 2000..3000 {
            learn(&mut stripe, key, 20.0);
        }
        assert!(stripe.find(DocumentKey(2)).is_none(), "nobody asked for it for too long");
        assert_eq!(stripe.documents().len(), 100);
    }

    #[test]
    fn a_new_bound_forgets_what_is_too_much() {
        let mut stripe = Stripe::new(100);
        (0..100).for_each(|key| learn(&mut stripe, key, 20.0));
        stripe.bound(7);
        stripe.check();
        assert_eq!(stripe.documents().len(), 7);
        stripe.bound(0);
        learn(&mut stripe, 5, 20.0);
        assert!(stripe.find(DocumentKey(5)).is_none());
        stripe.bound(2);
        learn(&mut stripe, 5, 20.0);
        assert!(stripe.find(DocumentKey(5)).is_some());
    }
}
