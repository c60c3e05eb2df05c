//! What all clients of one side were told together, and so what none of them may be told any more: every answer is checked when it comes.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::wire::Said;
use crate::lab::tally::Checked;

/// What somebody asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A document; with the version that the client has, if it asks for what is newer.
    Document(String, Option<u32>),
    /// The versions of some documents.
    Versions(Vec<String>),
    /// Nothing that has a version.
    Nothing,
}

/// The newest version of each document that anybody was told, with the acknowledgement of a write or as an answer.
#[derive(Debug, Default)]
pub struct Witness {
    told: Mutex<HashMap<String, u32>>,
}

/// What had been told before a question was put, by document.
#[derive(Debug)]
pub struct Before(HashMap<String, u32>);

impl Witness {
    /// What was told about these documents so far. Taken before the first byte of a question.
    pub fn before(&self, asks: &Asks) -> Before {
        let told = self.told.lock();
        let documents = asks.documents().iter();
        Before(documents.filter_map(|document| Some((document.clone(), *told.get(document)?))).collect())
    }

    /// Checks an answer and remembers it. `seen` is what this client itself was told.
    ///
    /// Stale: older than what was told, to anybody, before the question was put; the acknowledgement of a write counts, and so does an
    /// answer. Backwards: older than what this client had. Foreign: of another document, without a version, or with changes that do not
    /// fit the version that the client has.
    pub fn check(&self, asks: &Asks, before: &Before, said: &Said, seen: &mut HashMap<String, u32>) -> Checked {
        let mut checked = Checked { answers: u64::from(*asks != Asks::Nothing), ..Checked::default() };
        let mut told = self.told.lock();
        let (mut stale, mut backwards, mut foreign) = (false, false, !asks.fits(said));
        for document in asks.documents() {
            let Some(version) = asks.version(document, said) else {
                foreign = true;
                continue;
            };
            stale |= before.0.get(document).is_some_and(|before| version < *before);
            let own = seen.entry(document.clone()).or_default();
            backwards |= version < *own;
            *own = version.max(*own);
            let newest = told.entry(document.clone()).or_default();
            *newest = version.max(*newest);
        }
        (checked.stale, checked.backwards, checked.foreign) = (stale.into(), backwards.into(), foreign.into());
        checked
    }
}

impl Asks {
    fn documents(&self) -> &[String] {
        match self {
            Self::Document(document, _) => std::slice::from_ref(document),
            Self::Versions(documents) => documents,
            Self::Nothing => &[],
        }
    }

    fn version(&self, document: &str, said: &Said) -> Option<u32> {
        match self {
            Self::Document(..) => Some(said.version),
            Self::Versions(_) => said.versions.get(document).copied(),
            Self::Nothing => None,
        }
    }

    /// Whether the answer is one to this question at all.
    fn fits(&self, said: &Said) -> bool {
        let Self::Document(document, known) = self else { return true };
        // There are changes exactly if the version is another one.
        let fits = known.is_none_or(|known| (said.version > known) != said.changes.is_empty());
        said.file_id == *document && fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(version: u32, changes: usize) -> Said {
        let changes = vec![serde::de::IgnoredAny; changes];
        Said { version, changes, file_id: "a".to_owned(), ..Said::default() }
    }

    fn asks(known: u32) -> Asks {
        Asks::Document("a".to_owned(), Some(known))
    }

    #[test]
    fn an_answer_is_stale_if_anybody_was_told_more_before_it_was_asked_for() {
        let (witness, mut one, mut other) = (Witness::default(), HashMap::new(), HashMap::new());
        let early = witness.before(&asks(1));
        let written = witness.check(&asks(1), &early, &said(2, 1), &mut one);
        assert_eq!(written, Checked { answers: 1, ..Checked::default() });
        // Asked before the write was acknowledged: either answer is right.
        assert_eq!(witness.check(&asks(1), &early, &said(1, 0), &mut other).stale, 0);
        let late = witness.before(&asks(1));
        assert_eq!(witness.check(&asks(1), &late, &said(1, 0), &mut other), Checked { answers: 1, stale: 1, ..Checked::default() });
    }

    #[test]
    fn an_answer_goes_backwards_if_its_own_client_was_told_more() {
        let (witness, mut seen) = (Witness::default(), HashMap::new());
        let before = witness.before(&asks(1));
        witness.check(&asks(1), &before, &said(3, 2), &mut seen);
        let checked = witness.check(&asks(1), &before, &said(2, 1), &mut seen);
        assert_eq!(checked, Checked { answers: 1, backwards: 1, ..Checked::default() });
    }

    #[test]
    fn an_answer_to_another_question_is_foreign() {
        let witness = Witness::default();
        let foreign = |asks: &Asks, said: &Said| witness.check(asks, &witness.before(&Asks::Nothing), said, &mut HashMap::new()).foreign;
        assert_eq!(foreign(&asks(2), &said(2, 0)), 0);
        assert_eq!(foreign(&asks(2), &said(2, 1)), 1, "what the client has");
        assert_eq!(foreign(&asks(2), &said(3, 0)), 1, "nothing of what is new");
        assert_eq!(foreign(&Asks::Document("b".to_owned(), None), &said(2, 0)), 1, "another document");
        let versions = Said { versions: HashMap::from([("a".to_owned(), 1)]), ..Said::default() };
        assert_eq!(foreign(&Asks::Versions(vec!["a".to_owned()]), &versions), 0);
        assert_eq!(foreign(&Asks::Versions(vec!["b".to_owned()]), &versions), 1);
    }
}
