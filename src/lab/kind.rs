//! What the crowd and the service call a request, by their own knowledge and not by tidegate's.

/// What a client wants of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// "Anything new?" about a document that is not large: a `/sync` without changes.
    Poll,
    /// A `/sync` with changes to a document that is not large.
    Change,
    /// A client of the public API: `check_for_updates`, and the `read` or `edit` that follows.
    Api,
    /// Any sync of a large document.
    Large,
    /// "Import from ...": the service fetches from another one.
    Import,
}

impl Kind {
    /// Every kind, in the order of the table.
    pub const ALL: [Self; 5] = [Self::Poll, Self::Change, Self::Api, Self::Large, Self::Import];

    /// Its name in the table.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Poll => "polls",
            Self::Change => "changes",
            Self::Api => "API",
            Self::Large => "large",
            Self::Import => "imports",
        }
    }

    /// Whether it is a normal sync: of documents that are not large, and no import.
    #[must_use]
    pub fn is_normal(self) -> bool {
        matches!(self, Self::Poll | Self::Change | Self::Api)
    }

    /// The index into a per-kind array.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// One value for each kind.
pub type PerKind<T> = [T; Kind::ALL.len()];
