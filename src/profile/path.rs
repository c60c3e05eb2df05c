//! Request paths, cut into segments and decoded once, and the patterns of routes that match them segment by segment.

use std::{borrow::Cow, fmt};

use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

/// The path of a request behind the profile's prefix: its segments, decoded once. `/` has one segment, which is empty; a trailing slash makes
/// an empty last segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    segments: SmallVec<[Cow<'a, str>; 8]>,
    skipped: usize,
}

impl<'a> Target<'a> {
    /// Cuts and decodes a path; none if it holds an encoded slash, a dot segment, an empty segment before the last or an encoding that is
    /// invalid or no UTF-8, or if it does not lie below `prefix`.
    #[must_use]
    pub fn parse(path: &'a str, prefix: &[String]) -> Option<Self> {
        let mut segments: SmallVec<[Cow<'a, str>; 8]> = SmallVec::new();
        let mut parts = path.strip_prefix('/')?.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() && parts.peek().is_some() {
                return None;
            }
            segments.push(segment(part)?);
        }
        if segments.len() < prefix.len() || prefix.iter().zip(&segments).any(|(wanted, found)| wanted != found) {
            return None;
        }
        Some(Self { segments, skipped: prefix.len() })
    }

    /// The segments behind the prefix.
    #[must_use]
    pub fn segments(&self) -> &[Cow<'a, str>] {
        &self.segments[self.skipped..]
    }

    /// The decoded path behind the prefix.
    #[must_use]
    pub fn text(&self) -> String {
        self.segments().iter().fold(String::new(), |mut text, segment| {
            text.push('/');
            text.push_str(segment);
            text
        })
    }
}

/// Decodes a segment; none if it is a dot segment, holds an encoded slash or cannot be decoded.
fn segment(raw: &str) -> Option<Cow<'_, str>> {
    let text = decode(raw)?;
    (!matches!(&*text, "." | "..") && !text.contains('/')).then_some(text)
}

/// Percent-decodes a text; none if an encoding is invalid or the result no UTF-8.
#[must_use]
pub fn decode(raw: &str) -> Option<Cow<'_, str>> {
    let bytes = raw.as_bytes();
    if !bytes.contains(&b'%') {
        return Some(Cow::Borrowed(raw));
    }
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let valid = bytes.iter().enumerate().all(|(at, byte)| *byte != b'%' || (hex(at + 1) && hex(at + 2)));
    if valid { percent_decode_str(raw).decode_utf8().ok() } else { None }
}

/// The one name of a path: decoded once, without doubled and trailing slashes; `/` for the root. None for a path with a dot segment, an
/// encoded slash, a control character or an invalid encoding: what it names is in doubt.
#[must_use]
pub fn normalise(path: &str) -> Option<String> {
    let mut name = String::with_capacity(path.len() + 1);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let text = segment(part)?;
        if text.chars().any(char::is_control) {
            return None;
        }
        name.push('/');
        name.push_str(&text);
    }
    if name.is_empty() {
        name.push('/');
    }
    Some(name)
}

/// The path of a URL: scheme, host, query and fragment are cut off.
#[must_use]
pub fn of_url(url: &str) -> &str {
    let url = &url[..url.find(['?', '#']).unwrap_or(url.len())];
    let scheme = url.find("://").filter(|end| url[..*end].chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)));
    let behind = match scheme {
        Some(end) => &url[end + 3..],
        None => match url.strip_prefix("//") {
            Some(behind) => behind,
            None => return url,
        },
    };
    behind.find('/').map_or("/", |slash| &behind[slash..])
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// A literal, maybe empty, and a name for what follows, which is never empty.
    Name(String, String),
}

impl Piece {
    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Literal(text) => text == segment,
            Self::Name(start, _) => segment.len() > start.len() && segment.starts_with(start.as_str()),
        }
    }

    /// Whether it matches all that `other` matches.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Literal(text)) => self.matches(text),
            (Self::Name(start, _), Self::Name(longer, _)) => longer.starts_with(start.as_str()),
            (Self::Literal(_), Self::Name(..)) => false,
        }
    }
}

/// The path of a route: segments that are literals, names, or a literal and a name, and at most once any number of segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    before: Vec<Piece>,
    rest: Option<(String, Vec<Piece>)>,
    /// As written.
    pub text: String,
}

/// What the names of a pattern matched, in the order of the pattern.
pub type Captures<'p> = SmallVec<[(&'p str, Cow<'p, str>); 4]>;

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write a path such as \"/files/{id}\", \"/_{name}\" or, once in a path, \"{rest*}\" for any number of segments";
        let mut pattern = Self { before: Vec::new(), rest: None, text: text.to_owned() };
        let mut names: Vec<&str> = Vec::new();
        let mut parts = text.strip_prefix('/').ok_or("begin it with a slash")?.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() && parts.peek().is_some() {
                return Err("write no doubled slash: a request that holds one matches no route".to_owned());
            }
            let (start, name) = match part.split_once('{') {
                None => (part, None),
                Some((start, name)) => (start, Some(name.strip_suffix('}').ok_or(FORM)?)),
            };
            if start.contains(['{', '}', '*', '?', '#']) || matches!(start, "." | "..") {
                return Err(FORM.to_owned());
            }
            if start.contains('%') {
                return Err("write it decoded: segments are decoded before they are compared".to_owned());
            }
            let bare = name.map(|name| name.strip_suffix('*').unwrap_or(name));
            if let Some(bare) = bare {
                if bare.is_empty() || !bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    return Err(FORM.to_owned());
                }
                if names.contains(&bare) {
                    return Err(format!("give the second {{{bare}}} another name"));
                }
                names.push(bare);
            }
            match (name, bare) {
                (Some(name), Some(bare)) if name != bare => {
                    if !start.is_empty() || pattern.rest.is_some() {
                        return Err(FORM.to_owned());
                    }
                    pattern.rest = Some((bare.to_owned(), Vec::new()));
                }
                (_, bare) => {
                    let piece =
                        bare.map_or_else(|| Piece::Literal(start.to_owned()), |bare| Piece::Name(start.to_owned(), bare.to_owned()));
                    pattern.rest.as_mut().map_or(&mut pattern.before, |(_, after)| after).push(piece);
                }
            }
        }
        Ok(pattern)
    }

    /// Whether it matches.
    #[must_use]
    pub fn matches(&self, segments: &[Cow<'_, str>]) -> bool {
        let all = |pieces: &[Piece], segments: &[Cow<'_, str>]| pieces.iter().zip(segments).all(|(piece, segment)| piece.matches(segment));
        match &self.rest {
            None => segments.len() == self.before.len() && all(&self.before, segments),
            Some((_, after)) => {
                segments.len() >= self.before.len() + after.len()
                    && all(&self.before, segments)
                    && all(after, &segments[segments.len() - after.len()..])
            }
        }
    }

    /// What its names match, given that it matches.
    #[must_use]
    pub fn captures<'p>(&'p self, segments: &'p [Cow<'_, str>]) -> Captures<'p> {
        let mut captures = Captures::new();
        self.capture_into(&mut captures, segments);
        captures
    }

    fn capture_into<'p>(&'p self, captures: &mut Captures<'p>, segments: &'p [Cow<'_, str>]) {
        let named = |captures: &mut Captures<'p>, pieces: &'p [Piece], segments: &'p [Cow<'_, str>]| {
            for (piece, segment) in pieces.iter().zip(segments) {
                if let Piece::Name(start, name) = piece {
                    captures.push((name, Cow::Borrowed(segment.get(start.len()..).unwrap_or_default())));
                }
            }
        };
        named(captures, &self.before, segments);
        if let Some((name, after)) = &self.rest {
            let end = segments.len().saturating_sub(after.len());
            captures.push((name, segments.get(self.before.len()..end).unwrap_or_default().join("/").into()));
            named(captures, after, segments.get(end..).unwrap_or_default());
        }
    }

    /// Whether one of its names is this.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        let is = |piece: &Piece| matches!(piece, Piece::Name(_, known) if known == name);
        self.before.iter().any(is) || self.rest.as_ref().is_some_and(|(rest, after)| rest == name || after.iter().any(is))
    }

    /// Whether it surely matches all that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let all = |pieces: &[Piece], others: &[Piece]| pieces.iter().zip(others).all(|(piece, other)| piece.covers(other));
        match (&self.rest, &other.rest) {
            (None, None) => self.before.len() == other.before.len() && all(&self.before, &other.before),
            (None, Some(_)) => false,
            (Some((_, after)), None) => {
                let length = other.before.len();
                length >= self.before.len() + after.len()
                    && all(&self.before, &other.before)
                    && all(after, &other.before[length - after.len()..])
            }
            (Some((_, after)), Some((_, other_after))) => {
                other.before.len() >= self.before.len()
                    && other_after.len() >= after.len()
                    && all(&self.before, &other.before)
                    && all(after, &other_after[other_after.len() - after.len()..])
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<String> {
        Target::parse(path, &[]).map(|target| target.text())
    }

    fn captures(pattern: &str, path: &str) -> Option<Vec<String>> {
        let pattern = Pattern::parse(pattern).expect(pattern);
        let target = Target::parse(path, &[])?;
        pattern
            .matches(target.segments())
            .then(|| pattern.captures(target.segments()).into_iter().map(|(name, text)| format!("{name}={text}")).collect())
    }

    #[test]
    fn segments_are_decoded_once() {
        assert_eq!(target("/a%20b/%2541"), Some("/a b/%41".to_owned()));
        assert_eq!(target("/"), Some("/".to_owned()));
        assert_eq!(target("/a/"), Some("/a/".to_owned()));
    }

    #[test]
    fn a_path_that_readers_take_differently_has_no_target() {
        for path in ["/a%2Fb", "/a%2fb", "/a//b", "//a", "/.", "/a/../b", "/a/%2e%2E/b", "/%", "/%4", "/%zz", "/%ff", "*", "", "a"] {
            assert_eq!(target(path), None, "{path}");
        }
    }

    #[test]
    fn names_match_one_segment_and_a_starred_name_any_number() {
        assert_eq!(captures("/{db}", "/x"), Some(vec!["db=x".to_owned()]));
        assert_eq!(captures("/{db}", "/x/"), None);
        assert_eq!(captures("/{db}/", "/x/"), Some(vec!["db=x".to_owned()]));
        assert_eq!(captures("/{db}", "/"), None);
        assert_eq!(captures("/_{name}", "/_all"), Some(vec!["name=all".to_owned()]));
        assert_eq!(captures("/_{name}", "/_"), None);
        assert_eq!(captures("/a/{rest*}", "/a"), Some(vec!["rest=".to_owned()]));
        assert_eq!(captures("/a/{rest*}", "/a/b/c"), Some(vec!["rest=b/c".to_owned()]));
        assert_eq!(captures("/{rest*}/z", "/a/b/z"), Some(vec!["rest=a/b".to_owned()]));
        assert_eq!(captures("/{rest*}/z", "/a/b"), None);
        assert_eq!(captures("/A", "/a"), None);
    }

    #[test]
    fn a_prefix_is_taken_off_whole_segments_only() {
        let prefix = ["couch".to_owned()];
        assert_eq!(Target::parse("/couch/db", &prefix).map(|target| target.text()), Some("/db".to_owned()));
        assert_eq!(Target::parse("/%63ouch/db", &prefix).map(|target| target.text()), Some("/db".to_owned()));
        assert_eq!(Target::parse("/couchdb/x", &prefix), None);
    }

    #[test]
    fn a_pattern_that_could_never_match_is_refused() {
        for text in ["", "a", "/a//b", "/{a}/{a}", "/{a*}/{b*}", "/x{a*}", "/{}", "/{a", "/a}", "/a%20", "/..", "/a{b}c", "/a?b", "/a*"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_name_of_a_tree_does_not_depend_on_how_it_is_spelt() {
        for path in ["/a/b", "/a/b/", "//a//b//", "/%61/b", "a/b"] {
            assert_eq!(normalise(path), Some("/a/b".to_owned()), "{path}");
        }
        assert_eq!(normalise(""), Some("/".to_owned()));
        for path in ["/a/../b", "/./a", "/%2e/a", "/a%2fb", "/a%0ab", "/%x"] {
            assert_eq!(normalise(path), None, "{path}");
        }
    }

    #[test]
    fn only_the_path_of_a_url_counts() {
        for (url, path) in [
            ("https://h:1/a/b?x#y", "/a/b"),
            ("/a?x", "/a"),
            ("/a#x", "/a"),
            ("//h/a", "/a"),
            ("http://h", "/"),
            ("http://h?x=/y", "/"),
            ("/a://b/c", "/a://b/c"),
            ("", ""),
        ] {
            assert_eq!(of_url(url), path, "{url}");
        }
    }

    /// The pattern's text against the path's, segment by segment, trying every length for a starred name.
    fn naive(pattern: &[&str], path: &[String]) -> bool {
        let Some((first, rest)) = pattern.split_first() else { return path.is_empty() };
        if first.ends_with("*}") {
            return (0..=path.len()).any(|length| naive(rest, &path[length..]));
        }
        let Some((segment, others)) = path.split_first() else { return false };
        let fits = match first.split_once('{') {
            None => first == segment,
            Some((start, _)) => segment.strip_prefix(start).is_some_and(|name| !name.is_empty()),
        };
        fits && naive(rest, others)
    }

    fn naive_decode(segment: &str) -> Option<String> {
        let (mut bytes, mut rest) = (Vec::new(), segment.as_bytes());
        while let Some((first, others)) = rest.split_first() {
            rest = others;
            if *first == b'%' {
                let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'))?);
                rest = &rest[2..];
            } else {
                bytes.push(*first);
            }
        }
        let text = String::from_utf8(bytes).ok()?;
        (text != "." && text != ".." && !text.contains('/')).then_some(text)
    }

    #[test]
    fn random_patterns_match_as_a_naive_matcher_says_and_cover_only_what_they_match() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        let mut random = fastrand::Rng::with_seed(seed);
        let pieces = ["a", "b", "_x", "{m}", "_{n}", "a{o}", "{p}", "{rest*}", ""];
        let segments = ["a", "b", "_x", "_", "ab", "%61", "%5fx", "", "c", "c", ".", "%2E", "a%2Fb", "%zz", "%", "%C3%A9", "%ff", "..."];
        let mut steps = 0;
        while steps < 700_000 {
            let patterns: Vec<(Vec<&str>, Pattern)> = (0..6)
                .filter_map(|_| {
                    let list: Vec<&str> = (0..random.usize(1..5)).map(|_| pieces[random.usize(..pieces.len())]).collect();
                    let pattern = Pattern::parse(&format!("/{}", list.join("/"))).ok()?;
                    Some((list, pattern))
                })
                .collect();
            for _ in 0..8 {
                let list: Vec<&str> = (0..random.usize(1..5)).map(|_| segments[random.usize(..segments.len())]).collect();
                let path = format!("/{}", list.join("/"));
                let inner_empty = list[..list.len() - 1].contains(&"");
                let decoded: Option<Vec<String>> =
                    if inner_empty { None } else { list.iter().map(|segment| naive_decode(segment)).collect() };
                let target = Target::parse(&path, &[]);
                assert_eq!(target.is_some(), decoded.is_some(), "seed {seed}: {path}");
                let (Some(target), Some(decoded)) = (target, decoded) else {
                    steps += 1;
                    continue;
                };
                for (written, pattern) in &patterns {
                    steps += 1;
                    let matches = pattern.matches(target.segments());
                    assert_eq!(matches, naive(written, &decoded), "seed {seed}: {pattern} on {path}");
                    let _ = pattern.captures(target.segments());
                    for (_, other) in &patterns {
                        let wrong = other.covers(pattern) && matches && !other.matches(target.segments());
                        assert!(!wrong, "seed {seed}: {other} does not cover {pattern}: {path}");
                    }
                }
            }
        }
    }
}
