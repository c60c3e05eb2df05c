//! Scopes as keys of the ledger: what a write touches and what a poll asks for have a key in common exactly if one concerns the other.
//!
//! A plain scope is one key. A node of a tree has two, both in the same flat map: HERE(p), "p itself or something above it was written", and
//! BELOW(p), "p itself or something below it was written". A write of `/a/b` touches HERE(/a/b) and BELOW of `/a/b`, `/a` and `/`; a read of it
//! asks for BELOW(/a/b) and for HERE of `/a` and `/`. So a write and a read meet exactly if one path is the other or lies above it, at the cost
//! of depth + 2 keys for a write and depth + 1 for a read, and without any walk.
//!
//! Paths deeper than `depth_max` are cut. Prefixes of comparable paths are comparable: the cut is coarser, never wrong.
//!
//! `*` is the root over all kinds. Its HERE is the ledger's cell `all`, which is part of every document; its BELOW ("was anything written?") is
//! the ledger's `everything`. So neither is a key: [`Touched::all`] and [`Reads::everything`] stand for them.
//!
//! Keys are SipHash-1-3 under a secret. Two scopes with the same key are taken for one document, which costs an answer now and then, never
//! truth; kinds of keys differ in the first byte that is hashed, and the roles of a node in the last two, of which one is no UTF-8.

use std::{fmt, hash::Hasher};

use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use crate::{model::Scope, profile};

/// A write of more keys touches everything.
pub const WRITE_KEYS_MAX: usize = 64;

const PLAIN: u8 = 0;
const TREE: u8 = 1;
const CREDENTIAL: u8 = 2;

/// What follows a node's path, which is UTF-8 and so never holds the first byte.
const HERE: [u8; 2] = [0xff, 0];
const BELOW: [u8; 2] = [0xff, 1];

/// The key of a cell of the ledger: a keyed hash, spread evenly over all its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

/// What a write or a notice touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everything: the cell `all`. There are no keys then.
    pub all: bool,
    /// At most [`WRITE_KEYS_MAX`], each once.
    pub keys: SmallVec<[Key; 4]>,
}

impl Touched {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { all: true, keys: SmallVec::new() }
    }

    /// One key.
    #[must_use]
    pub fn one(key: Key) -> Self {
        Self { all: false, keys: SmallVec::from_slice(&[key]) }
    }

    /// Whether nothing is touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.keys.is_empty()
    }

    /// Touches what `other` touches, too.
    pub fn add(&mut self, other: &Self) {
        self.all |= other.all;
        self.keys.extend_from_slice(&other.keys);
        self.settle();
    }

    /// Each key once, and everything if there are too many.
    fn settle(&mut self) {
        self.keys.sort_unstable();
        self.keys.dedup();
        if self.all || self.keys.len() > WRITE_KEYS_MAX {
            *self = Self::everything();
        }
    }
}

/// What the answer to a poll depends on. Small: it is stored with each answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Whether any write concerns it: it reads `*`.
    pub everything: bool,
    /// Its documents and its credential, each once, in order.
    pub keys: SmallVec<[Key; 4]>,
}

/// The scope with this text, as in `Tidegate-Changed` and `/invalidate`: `*`, `kind`, `kind:text`, or `tree:/path`. None for anything else.
#[must_use]
pub fn scope(text: &str) -> Option<Scope> {
    if text == "*" {
        return Some(Scope::All);
    }
    let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
    let sound = !kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !sound || rest == Some("") || text.chars().any(char::is_control) {
        return None;
    }
    if kind == "tree" {
        let path = rest.filter(|path| path.starts_with('/'))?;
        return Some(Scope::Tree(profile::normalise(path)?.into()));
    }
    Some(Scope::Plain(text.into()))
}

/// Makes keys under a secret.
#[derive(Clone)]
pub struct Keyring {
    secret: [u64; 2],
    depth_max: usize,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keyring").field("depth_max", &self.depth_max).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Under this secret, which must be random; paths of trees are cut to `depth_max` segments.
    #[must_use]
    pub fn new(secret: [u64; 2], depth_max: usize) -> Self {
        Self { secret, depth_max }
    }

    /// The secret, for a state file that names keys.
    #[must_use]
    pub fn secret(&self) -> [u64; 2] {
        self.secret
    }

    /// What a poll of these scopes by this credential asks for; none if that is more than `keys_max` keys, the credential's counted: its answer
    /// is never kept.
    #[must_use]
    pub fn reads(&self, scopes: &[Scope], credential: Key, keys_max: usize) -> Option<Reads> {
        let mut reads = Reads { everything: false, keys: SmallVec::from_slice(&[credential]) };
        for scope in scopes {
            match scope {
                Scope::All => reads.everything = true,
                Scope::Plain(text) => reads.keys.push(self.plain(text)),
                Scope::Tree(path) => self.walk(path, |node, last| reads.keys.push(role(node, if last { BELOW } else { HERE }))),
            }
        }
        reads.keys.sort_unstable();
        reads.keys.dedup();
        (reads.keys.len() <= keys_max).then_some(reads)
    }

    /// What a write of these scopes touches; everything, if that is more than [`WRITE_KEYS_MAX`] keys.
    #[must_use]
    pub fn writes(&self, scopes: &[Scope]) -> Touched {
        let mut touched = Touched::default();
        for scope in scopes {
            match scope {
                Scope::All => return Touched::everything(),
                Scope::Plain(text) => touched.keys.push(self.plain(text)),
                Scope::Tree(path) => self.walk(path, |node, last| {
                    touched.keys.push(role(node, BELOW));
                    if last {
                        touched.keys.push(role(node, HERE));
                    }
                }),
            }
        }
        touched.settle();
        touched
    }

    /// The key of a credential, as it stands in requests.
    #[must_use]
    pub fn credential(&self, secret: &[u8]) -> Key {
        let mut hasher = self.hasher(CREDENTIAL);
        hasher.write(secret);
        Key(hasher.finish())
    }

    /// What a write of the one scope with this text would touch, as in `Tidegate-Changed` and `/invalidate`: `*`, `kind`, `kind:text`, or
    /// `tree:/path`, which is decoded and normalised as a profile's is. None for anything else.
    #[must_use]
    pub fn named(&self, text: &str) -> Option<Touched> {
        scope(text).map(|scope| self.writes(&[scope]))
    }

    fn hasher(&self, kind: u8) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_keys(self.secret[0], self.secret[1]);
        hasher.write_u8(kind);
        hasher
    }

    fn plain(&self, text: &str) -> Key {
        let mut hasher = self.hasher(PLAIN);
        hasher.write(text.as_bytes());
        Key(hasher.finish())
    }

    /// Visits the nodes of a path from the root down to `depth_max`, each as the hash of what leads to it, and whether it is the last one.
    fn walk(&self, path: &str, mut visit: impl FnMut(&SipHasher13, bool)) {
        let mut node = self.hasher(TREE);
        let mut segments = path.split('/').filter(|segment| !segment.is_empty()).take(self.depth_max).peekable();
        visit(&node, segments.peek().is_none());
        while let Some(segment) = segments.next() {
            node.write_u8(b'/');
            node.write(segment.as_bytes());
            visit(&node, segments.peek().is_none());
        }
    }
}

/// The key of a node in one of its roles.
fn role(node: &SipHasher13, role: [u8; 2]) -> Key {
    let mut hasher = *node;
    hasher.write(&role);
    Key(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIAL: Key = Key(7);

    fn ring(depth_max: usize) -> Keyring {
        Keyring::new([1, 2], depth_max)
    }

    fn tree(path: &str) -> Scope {
        Scope::Tree(path.into())
    }

    fn meet(ring: &Keyring, written: &Scope, read: &Scope) -> bool {
        let touched = ring.writes(std::slice::from_ref(written));
        let reads = ring.reads(std::slice::from_ref(read), CREDENTIAL, 256).expect("a few keys");
        touched.all || reads.everything || touched.keys.iter().any(|key| reads.keys.contains(key))
    }

    fn seed() -> u64 {
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..))
    }

    fn segments(path: &str) -> Vec<&str> {
        path.split('/').filter(|segment| !segment.is_empty()).collect()
    }

    #[test]
    fn a_tree_written_and_a_tree_read_meet_exactly_if_one_path_leads_to_the_other() {
        let seed = seed();
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut met, mut cut) = (0, 0);
        for _ in 0..500_000 {
            let depth_max = random.usize(0..6);
            let ring = Keyring::new([random.u64(..), random.u64(..)], depth_max);
            let mut path = || {
                let depth = random.usize(0..7);
                let text: String = (0..depth).map(|_| ["/a", "/b", "/ab", "/é", "/a\u{1}"][random.usize(..5)]).collect();
                if text.is_empty() { "/".to_owned() } else { text }
            };
            let (written, mut read) = (path(), path());
            if random.bool() {
                // Else deep paths would hardly ever be comparable.
                read = if read == "/" { written.clone() } else { format!("{}{read}", written.trim_end_matches('/')) };
            }
            let (written, read) = if random.bool() { (written, read) } else { (read, written) };
            let (one, other) = (segments(&written), segments(&read));
            let comparable = one.iter().zip(&other).all(|(one, other)| one == other);
            let comparable_cut = one.iter().zip(&other).take(depth_max).all(|(one, other)| one == other);
            let found = meet(&ring, &tree(&written), &tree(&read));
            assert_eq!(found, comparable_cut, "seed {seed}: {written} and {read}, cut to {depth_max}");
            assert!(found || !comparable, "seed {seed}: the cut lost that {written} and {read} meet");
            met += u32::from(found);
            cut += u32::from(found != comparable);
        }
        assert!(met > 100_000 && met < 450_000 && cut > 1000, "seed {seed}: {met} met, {cut} by the cut alone");
    }

    #[test]
    fn a_write_costs_its_depth_and_two_keys_and_a_read_its_depth_and_one() {
        for (path, depth) in [("/", 0), ("/a", 1), ("/a/b/c/d", 4), ("/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18", 16)] {
            let ring = ring(16);
            assert_eq!(ring.writes(&[tree(path)]).keys.len(), depth + 2, "{path}");
            let reads = ring.reads(&[tree(path)], CREDENTIAL, 256).expect("a few keys");
            assert_eq!(reads.keys.len(), depth + 1 + 1, "{path} and the credential");
        }
        assert_eq!(ring(16).writes(&[Scope::Plain("doc:x".into())]).keys.len(), 1);
    }

    #[test]
    fn kinds_never_meet() {
        let ring = ring(16);
        let plain = |text: &str| Scope::Plain(text.into());
        assert!(meet(&ring, &plain("doc:x"), &plain("doc:x")));
        assert!(!meet(&ring, &plain("doc:x"), &plain("doc:y")));
        assert!(!meet(&ring, &plain("/a"), &tree("/a")));
        assert!(!meet(&ring, &tree("/a"), &plain("/a")));
        assert!(!meet(&ring, &plain("tree:/a"), &tree("/a")));
        let secret = b"/a";
        assert!(!ring.writes(&[plain("/a")]).keys.contains(&ring.credential(secret)));
        assert!(!ring.writes(&[tree("/a")]).keys.contains(&ring.credential(secret)));
        assert_ne!(ring.credential(b"one"), ring.credential(b"other"));
    }

    #[test]
    fn everything_written_or_read_meets_everything() {
        let ring = ring(16);
        let scopes = [Scope::All, Scope::Plain("doc:x".into()), tree("/"), tree("/a")];
        for scope in &scopes {
            assert!(meet(&ring, scope, &Scope::All) && meet(&ring, &Scope::All, scope), "{scope}");
        }
        assert_eq!(ring.writes(&scopes), Touched::everything());
        let reads = ring.reads(&scopes, CREDENTIAL, 256).expect("a few keys");
        assert!(reads.everything && reads.keys.contains(&CREDENTIAL));
    }

    #[test]
    fn too_many_keys_written_are_everything_and_too_many_read_are_never_kept() {
        let ring = ring(16);
        let scopes: Vec<Scope> = (0..=256).map(|number| Scope::Plain(format!("doc:{number}").into())).collect();
        assert_eq!(ring.writes(&scopes[..64]).keys.len(), 64);
        assert_eq!(ring.writes(&scopes[..65]), Touched::everything());
        assert_eq!(ring.reads(&scopes[..255], CREDENTIAL, 256).expect("as many as may be").keys.len(), 256);
        assert_eq!(ring.reads(&scopes[..256], CREDENTIAL, 256), None);
        let twice = [scopes[0].clone(), scopes[0].clone()];
        assert_eq!(ring.writes(&twice).keys.len(), 1, "each key once");
        let mut touched = ring.writes(&scopes[..40]);
        touched.add(&ring.writes(&scopes[30..50]));
        assert_eq!(touched, ring.writes(&scopes[..50]));
        touched.add(&ring.writes(&scopes[50..70]));
        assert_eq!(touched, Touched::everything());
    }

    #[test]
    fn a_scope_as_text_touches_what_the_profile_s_scope_does() {
        let ring = ring(16);
        let one = |scope: Scope| Some(ring.writes(&[scope]));
        assert_eq!(ring.named("*"), one(Scope::All));
        for text in ["doc:x", "doc", "doc:a b:c/d", "account-2:x_y", "doc:*"] {
            assert_eq!(ring.named(text), one(Scope::Plain(text.into())), "{text}");
        }
        for (text, path) in [("tree:/a/b", "/a/b"), ("tree:/a//b/", "/a/b"), ("tree:/a%20b", "/a b"), ("tree:/", "/")] {
            assert_eq!(ring.named(text), one(tree(path)), "{text}");
        }
        for text in
            ["", ":", "doc:", ":x", "a doc:x", "tree", "tree:", "tree:a", "tree:/a/../b", "tree:/%zz", "tree:/a%2fb", "doc:x\n", "dök:x"]
        {
            assert_eq!(ring.named(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_stored_a_million_times_is_small() {
        assert!(size_of::<Reads>() <= 56, "{} bytes", size_of::<Reads>());
    }
}
