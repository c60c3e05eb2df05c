//! Everything that an answer depends on, as a hash.
//!
//! Two polls are one question if the same profile reads them by the same route and they have the same method, target, headers (those that are
//! known to be noise aside), credential and body. Each part goes into the hash with its length before it, so that no two different polls feed
//! the same bytes; headers go in by the order of their names, so that a proxy in front that puts them in another order costs no hit.
//!
//! The hash is SipHash-2-4 with 128 bits under a random key (Aumasson and Bernstein, INDOCRYPT 2012): nobody without the key can make two polls
//! collide, and by chance it happens among a million answers less often than once in 10^26.

use std::hash::Hasher;

use http::{HeaderName, HeaderValue, header, request::Parts};
use siphasher::sip128::{Hasher128, SipHasher24};
use smallvec::SmallVec;

use crate::profile::RouteId;

/// Everything that an answer depends on, as a keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question(pub u128);

/// What of a poll's body is part of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// All of its bytes.
    Body(&'a [u8]),
    /// What `key_body` selected, in a form in which different values never look the same.
    Selected(&'a [u8]),
}

/// Makes questions of polls; those of two questioners are never comparable.
#[derive(Clone)]
pub struct Questioner {
    key: [u64; 2],
}

/// The bytes of a poll's head that need no allocation.
const HEAD_INLINE: usize = 1024;

/// The headers of a poll that need no allocation.
const HEADERS_INLINE: usize = 24;

impl Questioner {
    /// Questions under this key, which must be random and is never shown.
    #[must_use]
    pub fn new(key: [u64; 2]) -> Self {
        Self { key }
    }

    /// The question of a poll that the profile of this generation read by this route. `secret` is the credential wherever it was found;
    /// `is_noise` says which headers are no part of a question: `Authorization`, `Cookie` and `Host` are part of each, whatever it says.
    #[must_use]
    pub fn question(
        &self,
        generation: u64,
        route: RouteId,
        head: &Parts,
        secret: &[u8],
        body: Asked<'_>,
        is_noise: impl Fn(&HeaderName) -> bool,
    ) -> Question {
        let mut feed = Feed { bytes: SmallVec::new() };
        feed.bytes.extend_from_slice(&generation.to_le_bytes());
        feed.bytes.extend_from_slice(&route.0.to_le_bytes());
        feed.part(head.method.as_str().as_bytes());
        feed.part(head.uri.authority().map_or("", |authority| authority.as_str()).as_bytes());
        feed.part(head.uri.path_and_query().map_or("", |target| target.as_str()).as_bytes());
        feed.part(secret);
        let mut fields: SmallVec<[(&HeaderName, &HeaderValue); HEADERS_INLINE]> =
            head.headers.iter().filter(|(name, _)| is_always_asked(name) || !is_noise(name)).collect();
        // A stable sort: the values of one header keep their order, which counts.
        fields.sort_by(|(one, _), (other, _)| by_name(one, other));
        feed.length(fields.len());
        for (name, value) in fields {
            feed.part(name.as_str().as_bytes());
            feed.part(value.as_bytes());
        }
        let (kind, body) = match body {
            Asked::Body(bytes) => (0, bytes),
            Asked::Selected(bytes) => (1, bytes),
        };
        feed.bytes.push(kind);
        let mut hasher = SipHasher24::new_with_keys(self.key[0], self.key[1]);
        hasher.write(&feed.bytes);
        hasher.write(body);
        Question(hasher.finish128().as_u128())
    }
}

impl std::fmt::Debug for Questioner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Questioner { key: hidden }")
    }
}

/// Whether a header is part of every question: who asks, and whom.
#[must_use]
pub fn is_always_asked(name: &HeaderName) -> bool {
    *name == header::AUTHORIZATION || *name == header::COOKIE || *name == header::HOST
}

/// Some order of names; the length first, as it is cheap and seldom equal.
pub(super) fn by_name(one: &HeaderName, other: &HeaderName) -> std::cmp::Ordering {
    let (one, other) = (one.as_str(), other.as_str());
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// What goes into the hash before the body.
struct Feed {
    bytes: SmallVec<[u8; HEAD_INLINE]>,
}

impl Feed {
    fn part(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    fn length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&(length as u64).to_le_bytes());
    }
}
