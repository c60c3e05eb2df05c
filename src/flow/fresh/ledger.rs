//! Which documents were written when.

/// That an answer is provably unchanged; spent on its replay.
#[derive(Debug)]
pub struct Proof {
    _private: (),
}

#[cfg(test)]
impl Proof {
    pub(super) fn for_tests() -> Self {
        Self { _private: () }
    }
}
