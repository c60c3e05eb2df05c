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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::{HeaderMap, Method, Request, Uri};

    use super::*;

    /// A poll as it is varied.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Poll {
        generation: u64,
        route: u16,
        method: &'static str,
        target: String,
        headers: Vec<(String, String)>,
        secret: Vec<u8>,
        selected: bool,
        body: Vec<u8>,
    }

    fn is_noise(name: &HeaderName) -> bool {
        matches!(name.as_str(), "cf-ray" | "x-request-id" | "user-agent" | "host" | "cookie" | "authorization")
    }

    impl Poll {
        fn random(random: &mut fastrand::Rng) -> Self {
            let names = ["host", "authorization", "cookie", "accept", "if-none-match", "depth", "x-a", "cf-ray", "user-agent"];
            let headers = (0..random.usize(0..12)).map(|_| (names[random.usize(0..names.len())].to_owned(), text(random))).collect();
            Self {
                generation: random.u64(0..3),
                route: random.u16(0..3),
                method: ["GET", "POST", "REPORT"][random.usize(0..3)],
                target: format!("/{}?{}", text(random), text(random)),
                headers,
                secret: text(random).into_bytes(),
                selected: random.bool(),
                body: text(random).into_bytes(),
            }
        }

        fn head(&self) -> Parts {
            let mut head = Request::new(()).into_parts().0;
            head.method = Method::from_bytes(self.method.as_bytes()).expect("a method");
            head.uri = self.target.parse::<Uri>().expect("a target");
            for (name, value) in &self.headers {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
                head.headers.append(name, HeaderValue::from_str(value).expect("a value"));
            }
            head
        }

        fn question(&self) -> Question {
            let asked = if self.selected { Asked::Selected(&self.body) } else { Asked::Body(&self.body) };
            Questioner::new([1, 2]).question(self.generation, RouteId(self.route), &self.head(), &self.secret, asked, is_noise)
        }

        /// What counts, in a form that can be compared.
        fn counts(&self) -> Self {
            let mut poll = self.clone();
            let always = ["host", "cookie", "authorization"];
            poll.headers.retain(|(name, _)| always.contains(&name.as_str()) || !is_noise(&name.parse().expect("a name")));
            poll.headers.sort_by(|one, other| one.0.cmp(&other.0));
            poll
        }
    }

    fn text(random: &mut fastrand::Rng) -> String {
        (0..random.usize(0..4)).map(|_| char::from(b"ab1"[random.usize(0..3)])).collect()
    }

    fn seed() -> u64 {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        println!("SEED={seed}");
        seed
    }

    #[test]
    fn two_polls_are_one_question_exactly_if_all_that_counts_is_the_same() {
        let mut random = fastrand::Rng::with_seed(seed());
        let (mut same, mut other) = (0, 0);
        for _ in 0..60_000 {
            let poll = Poll::random(&mut random);
            let mut changed = poll.clone();
            let next = Poll::random(&mut random);
            match random.u8(0..12) {
                0 => changed.generation = next.generation,
                1 => changed.route = next.route,
                2 => changed.method = next.method,
                3 => changed.target = next.target,
                4 => changed.secret = next.secret,
                5 => changed.body = next.body,
                6 => changed.selected = next.selected,
                7 => changed.headers = next.headers,
                8 => changed.headers.extend(next.headers.into_iter().take(1)),
                9 => drop(changed.headers.pop()),
                10 => random.shuffle(&mut changed.headers),
                _ => {
                    if let Some(place) = (!changed.headers.is_empty()).then(|| random.usize(0..changed.headers.len())) {
                        changed.headers[place].1 = text(&mut random);
                    }
                }
            }
            let expected = poll.counts() == changed.counts();
            assert_eq!(poll.question() == changed.question(), expected, "{poll:?} and {changed:?}");
            if expected { same += 1 } else { other += 1 }
        }
        assert!(same > 5_000 && other > 20_000, "{same} {other}");
    }

    #[test]
    fn a_new_ray_is_no_new_question_and_a_new_credential_is() {
        let mut poll = Poll {
            generation: 1,
            route: 0,
            method: "GET",
            target: "/doc?since=7".to_owned(),
            headers: [("host", "a"), ("cf-ray", "1"), ("authorization", "Basic eA=="), ("accept", "*/*")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            secret: b"x".to_vec(),
            selected: false,
            body: Vec::new(),
        };
        let question = poll.question();
        poll.headers[1].1 = "2".to_owned();
        assert_eq!(poll.question(), question);
        poll.headers.push(("x-request-id".to_owned(), "7".to_owned()));
        poll.headers.rotate_left(2);
        assert_eq!(poll.question(), question, "neither more noise nor another order is another question");
        for (place, (name, _)) in poll.headers.clone().into_iter().enumerate() {
            let mut other = poll.clone();
            other.headers[place].1.push('2');
            let counts = ["host", "authorization", "accept"].contains(&name.as_str());
            assert_eq!(other.question() != question, counts, "{name}");
        }
    }

    #[test]
    fn what_moves_from_one_part_to_the_next_is_another_question() {
        let ask = |method: &str, target: &str, secret: &str, headers: &[(&'static str, &'static str)], asked: Asked<'_>| {
            let mut head = Request::new(()).into_parts().0;
            head.method = Method::from_bytes(method.as_bytes()).expect("a method");
            head.uri = target.parse().expect("a target");
            head.headers =
                headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect::<HeaderMap>();
            Questioner::new([1, 2]).question(1, RouteId(0), &head, secret.as_bytes(), asked, |_| false)
        };
        let questions = [
            ask("GET", "/a", "b", &[("x", "c")], Asked::Body(b"d")),
            ask("GET", "/ab", "", &[("x", "c")], Asked::Body(b"d")),
            ask("GET", "/a", "", &[("bx", "c")], Asked::Body(b"d")),
            ask("GET", "/a", "b", &[("x", "cd")], Asked::Body(b"")),
            ask("GET", "/a", "b", &[("xc", "")], Asked::Body(b"d")),
            ask("GET", "/a", "b", &[("x", "c")], Asked::Selected(b"d")),
            ask("GET", "/a", "b", &[("x", ""), ("c", "")], Asked::Body(b"d")),
            ask("GET", "/a", "bxc", &[], Asked::Body(b"d")),
            ask("GE", "/a", "b", &[("x", "c")], Asked::Body(b"d")),
            ask("GET", "/a", "b", &[("x", "c")], Asked::Body(b"d\0")),
            ask("GET", "http://a/a", "b", &[("x", "c")], Asked::Body(b"d")),
        ];
        assert_eq!(questions.iter().collect::<HashSet<_>>().len(), questions.len());
    }

    #[test]
    fn another_key_makes_other_questions_and_is_not_shown() {
        let head = Request::new(()).into_parts().0;
        let ask = |key| Questioner::new(key).question(1, RouteId(0), &head, b"", Asked::Body(b""), |_| false);
        assert!(ask([1, 2]) == ask([1, 2]) && ask([1, 2]) != ask([1, 3]) && ask([1, 2]) != ask([2, 2]));
        assert!(!format!("{:?}", Questioner::new([77_777, 88_888])).contains("77"));
    }
}
