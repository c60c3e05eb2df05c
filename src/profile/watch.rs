//! Watches a long JSON body while it streams by, when its route and scopes were taken from its beginning.
//!
//! What the beginning showed holds for the whole body unless something later contradicts it, and only two things can: a key on the path of
//! a selector that was relied on comes a second time in the same object (readers differ in which one they take), or differs from one by
//! letter case only (some readers fold case); or the body is no JSON, so that readers may see anything in it. Then the request writes
//! everything, and the caller learns that before the byte that made it so is passed on.
//!
//! The tokenizer takes the body in pieces of any size and keeps no text: a bit for each open array or object, a frame for each that lies on a
//! path (at most as many as a path has steps, and one), and of a key at most as many bytes as the longest key of a path. It accepts what
//! `serde_json` reads as a `Value` (RFC 8259, UTF-8, escaped surrogates in pairs), with two bounds of its own: at most [`DEPTH_MAX`] levels
//! of nesting, and no number of 10^308 or more. What exceeds a bound is not watched any more, which counts as contradicted.

use http::request::Parts;
use memchr::memchr2;
use smallvec::{SmallVec, smallvec};

use super::{
    Profile,
    facts::{Facts, Probe},
    scope::{Piece, Template},
    selector::{JsonPath, JsonStep, Selector},
};

/// The deepest nesting that is watched.
pub const DEPTH_MAX: usize = 512;

/// A number with more digits before its point, its exponent counted in, may be one that no reader can hold.
const DIGITS_MAX: i64 = 308;

/// What bytes do to what was read of the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It still holds.
    Fine,
    /// It need not hold: the request writes everything, from before these bytes are passed on. Said once.
    Widen,
}

/// What is known of one body. It must be given the body from its first byte.
#[derive(Clone, Debug, PartialEq)]
pub struct Watcher {
    nodes: Vec<Node>,
    state: State,
    depth: usize,
    /// A bit for each open level: whether it is an object.
    objects: [u64; DEPTH_MAX / 64],
    frames: Vec<Frame>,
    key: Key,
    utf8: Utf8,
    /// It has said `Widen`.
    over: bool,
}

/// A place in the tree of the paths, by its index in the list of nodes; the first is the document itself.
#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    keys: Vec<(String, usize)>,
    /// What a path says of an array's elements: of one, or of each.
    elements: Vec<(Option<usize>, usize)>,
}

/// Where several paths go the same way for a while, a value lies on several places of the tree.
type Places = SmallVec<[usize; 4]>;

/// An open array or object that lies on a path.
#[derive(Clone, Debug, PartialEq)]
struct Frame {
    depth: usize,
    places: Places,
    /// In an object: the places of its keys that came.
    seen: Places,
    /// In an object: the places of the value of the newest key.
    child: Places,
    /// In an array: which element it is at.
    index: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// A value must come.
    Value,
    /// A value or the end of an array.
    First,
    /// A key must come.
    Key,
    /// A key or the end of an object.
    FirstKey,
    Colon,
    /// A value has ended.
    Behind,
    Text,
    Escape(Escape),
    Number(Number),
    /// The rest of `true`, `false` or `null`.
    Literal(&'static [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Escape {
    /// Behind the backslash.
    Begun,
    /// So many hexadecimal digits are to come; `high` is the first half of a pair (RFC 8259 section 7).
    Hex { left: u8, value: u32, high: Option<u32> },
    /// The backslash of a pair's second half must come.
    High(u32),
    /// Its `u` must come.
    Low(u32),
}

impl Watcher {
    /// Watches the keys on these paths.
    #[must_use]
    pub fn new<'p>(paths: impl Iterator<Item = &'p JsonPath>) -> Self {
        let mut nodes = vec![Node::default()];
        for path in paths {
            insert(&mut nodes, &path.0);
        }
        let longest = nodes.iter().flat_map(|node| &node.keys).map(|(key, _)| key.len()).max();
        Self {
            nodes,
            state: State::Value,
            depth: 0,
            objects: [0; DEPTH_MAX / 64],
            frames: Vec::new(),
            key: Key { max: longest.unwrap_or(0), ..Key::default() },
            utf8: Utf8::default(),
            over: false,
        }
    }

    /// The next bytes of the body.
    pub fn push(&mut self, bytes: &[u8]) -> Verdict {
        if self.over || (self.utf8.push(bytes).is_some() && self.read(bytes).is_some()) {
            return Verdict::Fine;
        }
        self.over = true;
        Verdict::Widen
    }

    /// The body has ended.
    pub fn finish(&mut self) -> Verdict {
        let ended = match self.state {
            State::Behind => true,
            State::Number(number) => number.end().is_some(),
            _ => false,
        };
        if self.over || (ended && self.depth == 0) {
            return Verdict::Fine;
        }
        self.over = true;
        Verdict::Widen
    }

    /// Reads on; `None` if what was read of the beginning need not hold.
    fn read(&mut self, bytes: &[u8]) -> Option<()> {
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = match self.state {
                State::Text => self.text(rest)?,
                State::Escape(escape) => {
                    self.state = self.escape(escape, byte)?;
                    behind
                }
                State::Number(mut number) => {
                    if number.push(byte)? {
                        self.state = State::Number(number);
                        behind
                    } else {
                        self.state = State::Behind;
                        rest
                    }
                }
                State::Literal(expected) => {
                    let (first, left) = expected.split_first()?;
                    if *first != byte {
                        return None;
                    }
                    self.state = if left.is_empty() { State::Behind } else { State::Literal(left) };
                    behind
                }
                _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => behind,
                state => {
                    self.state = self.structure(state, byte)?;
                    behind
                }
            };
        }
        Some(())
    }

    fn in_object(&self) -> bool {
        self.depth.checked_sub(1).is_some_and(|level| self.objects[level / 64] >> (level % 64) & 1 == 1)
    }

    /// The frame of the innermost level, if that lies on a path.
    fn frame(&mut self) -> Option<&mut Frame> {
        let depth = self.depth;
        self.frames.last_mut().filter(|frame| frame.depth == depth)
    }

    fn structure(&mut self, state: State, byte: u8) -> Option<State> {
        Some(match (state, byte) {
            (State::First, b']') | (State::FirstKey, b'}') => self.close(),
            (State::First | State::Value, _) => return self.value(byte),
            (State::FirstKey | State::Key, b'"') => {
                let watched = self.frame().is_some();
                self.key.begin(watched);
                State::Text
            }
            (State::Colon, b':') => State::Value,
            (State::Behind, b',') if self.in_object() => State::Key,
            (State::Behind, b'}') if self.in_object() => self.close(),
            (State::Behind, b',') if self.depth > 0 => {
                if let Some(frame) = self.frame() {
                    frame.index += 1;
                }
                State::Value
            }
            (State::Behind, b']') if self.depth > 0 && !self.in_object() => self.close(),
            _ => return None,
        })
    }

    fn value(&mut self, byte: u8) -> Option<State> {
        match byte {
            b'{' => self.open(true),
            b'[' => self.open(false),
            b'"' => Some(State::Text),
            b't' => Some(State::Literal(b"rue")),
            b'f' => Some(State::Literal(b"alse")),
            b'n' => Some(State::Literal(b"ull")),
            _ => Number::begin(byte).map(State::Number),
        }
    }

    fn open(&mut self, object: bool) -> Option<State> {
        if self.depth == DEPTH_MAX {
            return None;
        }
        let mut places = self.places();
        places.retain(|place| if object { !self.nodes[*place].keys.is_empty() } else { !self.nodes[*place].elements.is_empty() });
        let bit = 1 << (self.depth % 64);
        let word = &mut self.objects[self.depth / 64];
        *word = if object { *word | bit } else { *word & !bit };
        self.depth += 1;
        if !places.is_empty() {
            self.frames.push(Frame { depth: self.depth, places, seen: Places::new(), child: Places::new(), index: 0 });
        }
        Some(if object { State::FirstKey } else { State::First })
    }

    fn close(&mut self) -> State {
        if self.frame().is_some() {
            self.frames.pop();
        }
        self.depth -= 1;
        State::Behind
    }

    /// The places of the value that begins here.
    fn places(&mut self) -> Places {
        if self.depth == 0 {
            return smallvec![0];
        }
        let object = self.in_object();
        let depth = self.depth;
        let Some(frame) = self.frames.last_mut().filter(|frame| frame.depth == depth) else { return Places::new() };
        if object {
            return std::mem::take(&mut frame.child);
        }
        let elements = frame.places.iter().flat_map(|place| &self.nodes[*place].elements);
        elements.filter(|(wanted, _)| wanted.is_none_or(|wanted| wanted == frame.index)).map(|(_, place)| *place).collect()
    }

    /// Reads on in a text, and gives what is behind what it has read.
    fn text<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let end = memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
        let (run, rest) = bytes.split_at(end);
        // The least of all bytes is found without a branch for each.
        if run.iter().copied().fold(u8::MAX, u8::min) < b' ' {
            return None;
        }
        self.key.push(run);
        let Some((&byte, behind)) = rest.split_first() else { return Some(rest) };
        self.state = match byte {
            b'\\' => State::Escape(Escape::Begun),
            _ if self.key.end() => {
                self.judge()?;
                State::Colon
            }
            _ => State::Behind,
        };
        Some(behind)
    }

    fn escape(&mut self, escape: Escape, byte: u8) -> Option<State> {
        Some(match escape {
            Escape::Begun => {
                let meant = match byte {
                    b'"' | b'\\' | b'/' => byte,
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'u' => return Some(State::Escape(Escape::Hex { left: 4, value: 0, high: None })),
                    _ => return None,
                };
                self.key.push(&[meant]);
                State::Text
            }
            Escape::Hex { left, value, high } => {
                let value = value << 4 | char::from(byte).to_digit(16)?;
                match (left, high, value) {
                    (2.., ..) => State::Escape(Escape::Hex { left: left - 1, value, high }),
                    (_, None, 0xd800..=0xdbff) => State::Escape(Escape::High(value)),
                    (_, None, _) => self.character(value)?,
                    (_, Some(high), 0xdc00..=0xdfff) => self.character(0x10000 + ((high - 0xd800) << 10) + (value - 0xdc00))?,
                    (_, Some(_), _) => return None,
                }
            }
            Escape::High(high) if byte == b'\\' => State::Escape(Escape::Low(high)),
            Escape::Low(high) if byte == b'u' => State::Escape(Escape::Hex { left: 4, value: 0, high: Some(high) }),
            Escape::High(_) | Escape::Low(_) => return None,
        })
    }

    fn character(&mut self, code: u32) -> Option<State> {
        let character = char::from_u32(code)?;
        self.key.push(character.encode_utf8(&mut [0; 4]).as_bytes());
        Some(State::Text)
    }

    /// What the key that has just ended is to the paths; `None` if it came before, or is like one of theirs but for letter case.
    fn judge(&mut self) -> Option<()> {
        let depth = self.depth;
        let Some(frame) = self.frames.last_mut().filter(|frame| frame.depth == depth) else { return Some(()) };
        frame.child.clear();
        if self.key.long {
            return Some(());
        }
        let text = self.key.text.as_slice();
        let keys = || frame.places.iter().flat_map(|place| &self.nodes[*place].keys);
        for (_, place) in keys().filter(|(known, _)| known.as_bytes() == text) {
            if frame.seen.contains(place) {
                return None;
            }
            frame.seen.push(*place);
            frame.child.push(*place);
        }
        if frame.child.is_empty() && keys().any(|(known, _)| known.as_bytes().eq_ignore_ascii_case(text)) {
            return None;
        }
        Some(())
    }
}

fn insert(nodes: &mut Vec<Node>, steps: &[JsonStep]) {
    let mut place = 0;
    for step in steps {
        let known = match step {
            JsonStep::Key(key) => nodes[place].keys.iter().find(|(known, _)| known == key).map(|(_, next)| *next),
            JsonStep::Each => nodes[place].elements.iter().find(|(known, _)| known.is_none()).map(|(_, next)| *next),
            JsonStep::Index(index) => nodes[place].elements.iter().find(|(known, _)| *known == Some(*index)).map(|(_, next)| *next),
            // Which names there are does not change if one comes twice.
            JsonStep::Keys => return,
        };
        let next = known.unwrap_or(nodes.len());
        if known.is_none() {
            nodes.push(Node::default());
            match step {
                JsonStep::Key(key) => nodes[place].keys.push((key.clone(), next)),
                JsonStep::Each => nodes[place].elements.push((None, next)),
                JsonStep::Index(index) => nodes[place].elements.push((Some(*index), next)),
                JsonStep::Keys => {}
            }
        }
        place = next;
    }
}

/// A key while it comes, without its escapes: as much of it as is needed to tell whether it lies on a path.
#[derive(Clone, Debug, Default, PartialEq)]
struct Key {
    text: Vec<u8>,
    /// The bytes of the longest key on a path.
    max: usize,
    /// The text that comes is a key.
    coming: bool,
    /// It is one of an object that lies on a path.
    watched: bool,
    /// It is longer than any on a path.
    long: bool,
}

impl Key {
    fn begin(&mut self, watched: bool) {
        self.text.clear();
        (self.coming, self.watched, self.long) = (true, watched, false);
    }

    fn push(&mut self, bytes: &[u8]) {
        if !self.watched || self.long {
            return;
        }
        if self.text.len() + bytes.len() > self.max {
            self.long = true;
        } else {
            self.text.extend_from_slice(bytes);
        }
    }

    /// The text has ended; whether it was a key.
    fn end(&mut self) -> bool {
        self.watched = false;
        std::mem::take(&mut self.coming)
    }
}

/// A number while it comes (RFC 8259 section 6), and how large it is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Number {
    part: Part,
    /// Any digit but zero has come, the exponent aside.
    some: bool,
    /// The digits before the point, less the zeros behind it where there are none: the number is less than ten to this.
    size: i64,
    exponent: i64,
    negative: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    fn begin(byte: u8) -> Option<Self> {
        let mut number = Self { part: Part::Minus, some: false, size: 0, exponent: 0, negative: false };
        (byte == b'-' || number.push(byte)?).then_some(number)
    }

    /// Whether this byte belongs to it; if not, it has ended before it. `None` if that is no number.
    fn push(&mut self, byte: u8) -> Option<bool> {
        self.part = match (self.part, byte) {
            (Part::Minus, b'0') => Part::Zero,
            (Part::Minus, b'1'..=b'9') | (Part::Whole, b'0'..=b'9') => {
                self.some = true;
                self.size = self.size.saturating_add(1);
                Part::Whole
            }
            (Part::Zero | Part::Whole, b'.') => Part::Point,
            (Part::Point | Part::Fraction, b'0'..=b'9') => {
                if byte != b'0' {
                    self.some = true;
                } else if !self.some {
                    self.size = self.size.saturating_sub(1);
                }
                Part::Fraction
            }
            (Part::Zero | Part::Whole | Part::Fraction, b'e' | b'E') => Part::E,
            (Part::E, b'+' | b'-') => {
                self.negative = byte == b'-';
                Part::Sign
            }
            (Part::E | Part::Sign | Part::Exponent, b'0'..=b'9') => {
                self.exponent = self.exponent.saturating_mul(10).saturating_add(i64::from(byte - b'0'));
                Part::Exponent
            }
            _ => return self.end().map(|()| false),
        };
        Some(true)
    }

    /// `None` if it must go on, or is too large.
    fn end(&self) -> Option<()> {
        let whole = matches!(self.part, Part::Zero | Part::Whole | Part::Fraction | Part::Exponent);
        let exponent = if self.negative { -self.exponent } else { self.exponent };
        (whole && (!self.some || self.size.saturating_add(exponent) <= DIGITS_MAX)).then_some(())
    }
}

/// UTF-8 in pieces (RFC 3629).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Utf8 {
    /// The beginning of a character that the end of the last piece has cut.
    cut: [u8; 4],
    length: usize,
}

impl Utf8 {
    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let mut rest = bytes;
        while self.length > 0 {
            let Some((&byte, behind)) = rest.split_first() else { return Some(()) };
            rest = behind;
            self.cut[self.length] = byte;
            self.length += 1;
            match std::str::from_utf8(&self.cut[..self.length]) {
                Ok(_) => self.length = 0,
                // Four bytes are a character or wrong, so there is room for the next one.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return None,
            }
        }
        if let Err(error) = std::str::from_utf8(rest) {
            let cut = &rest[error.valid_up_to()..];
            if error.error_len().is_some() {
                return None;
            }
            self.cut[..cut.len()].copy_from_slice(cut);
            self.length = cut.len();
        }
        Some(())
    }
}

impl Profile {
    /// What the rest of a body must be watched for: the paths of all tests that were asked up to the route of this index, and of its scopes.
    pub(super) fn watcher(&self, head: &Parts, facts: &Facts<'_>, index: usize) -> Watcher {
        let asked = self.routes.iter().take(index + 1).filter(|route| route.fits(head, facts).is_some());
        let tests = asked.flat_map(|route| route.when.iter().flatten()).map(|(probe, _)| probe);
        let route = self.routes.get(index);
        let scopes = route.into_iter().flat_map(|route| route.reads.iter().chain(&route.writes)).flatten().flat_map(probes);
        Watcher::new(tests.chain(scopes).filter_map(|probe| match &probe.selector {
            Selector::Json(path) => Some(path),
            _ => None,
        }))
    }
}

fn probes(template: &Template<Probe>) -> impl Iterator<Item = &Probe> {
    let pieces = match template {
        Template::All => &[][..],
        Template::Plain(pieces) | Template::Tree(pieces) => pieces,
    };
    pieces.iter().filter_map(|piece| match piece {
        Piece::Select(probe) => Some(probe),
        Piece::Literal(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::json::Paths;

    const PATHS: [&str; 9] = ["a", "a.b", "c[*].b", "c[1].d", "c[1]", "d[*][0].a", "[*].a", "[2].\u{e9}", "b~keys"];

    fn watcher(paths: &[&str]) -> Watcher {
        let paths: Vec<JsonPath> = paths.iter().map(|path| JsonPath::parse(path).expect("a path")).collect();
        Watcher::new(paths.iter())
    }

    fn seeded() -> (u64, fastrand::Rng) {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        (seed, fastrand::Rng::with_seed(seed))
    }

    /// Whether it widens, given the text in pieces of random sizes; at most once.
    fn widens(watcher: &Watcher, text: &[u8], random: &mut fastrand::Rng) -> bool {
        let mut watcher = watcher.clone();
        let mut said = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let most = if random.bool() { 3 } else { rest.len() };
            let (piece, behind) = rest.split_at(random.usize(0..=most.min(rest.len())));
            said += usize::from(watcher.push(piece) == Verdict::Widen);
            rest = behind;
        }
        said += usize::from(watcher.finish() == Verdict::Widen);
        said += usize::from(watcher.finish() == Verdict::Widen);
        assert!(said <= 1, "said {said} times of {}", String::from_utf8_lossy(text));
        said == 1
    }

    fn key(random: &mut fastrand::Rng, unique: Option<usize>) -> String {
        if let Some(number) = unique {
            // Each once in an object, some with escapes, one longer than any on a path.
            return ["a", "\\u0062", "c", "d", "\u{e9}", "x\\n", "a b", "\u{1f980}\\ud83e\\udd80", "aaaaaaaaaaaaaaaaaaaaaaaa"][number]
                .to_owned();
        }
        ["a", "\\u0061", "A", "b", "B", "c", "d", "\\u00e9", "\u{e9}", "ab", ""][random.usize(0..11)].to_owned()
    }

    fn space(random: &mut fastrand::Rng) -> &'static str {
        ["", "", "", "", " ", "\r\n\t"][random.usize(0..6)]
    }

    fn document(random: &mut fastrand::Rng, depth: usize, unique: bool) -> String {
        let around = space(random);
        let text = match random.u8(0..if depth == 0 { 6 } else { 11 }) {
            0 => ["null", "true", "false"][random.usize(0..3)].to_owned(),
            1 => random.i64(-20..200).to_string(),
            2 => ["1.5", "1e2", "9007199254740993", "-0", "0.0e+5", "-12.25E-3", "1e307", "0e999", "0.0001e311", "18446744073709551616"]
                [random.usize(0..10)]
            .to_owned(),
            3..=5 => {
                ["\"\"", "\"a\"", "\"\\u0061\\\\\"", "\"\\n\\/\\\"\"", "\"\u{e9}\u{20ac}\u{1f980}\"", "\"\\ud83e\\uDD80x\"", "\"\u{7f}\""]
                    [random.usize(0..7)]
                .to_owned()
            }
            6 | 7 => {
                let items: Vec<String> = (0..random.usize(0..4)).map(|_| document(random, depth - 1, unique)).collect();
                format!("[{}{}]", space(random), items.join(","))
            }
            _ => {
                let mut numbers: Vec<usize> = (0..9).collect();
                random.shuffle(&mut numbers);
                let count = random.usize(0..4);
                let fields: Vec<String> = numbers[..count]
                    .iter()
                    .map(|number| {
                        let key = key(random, unique.then_some(*number));
                        format!("{}\"{key}\"{}:{}", space(random), space(random), document(random, depth - 1, unique))
                    })
                    .collect();
                format!("{{{}{}}}", fields.join(","), space(random))
            }
        };
        format!("{around}{text}{}", space(random))
    }

    /// Whether it must widen, by `serde_json` and the reader of whole bodies.
    fn expected(paths: &Paths, slots: &[usize], text: &[u8]) -> bool {
        if serde_json::from_slice::<serde_json::Value>(text).is_err() {
            return true;
        }
        let gathered = paths.gather(text, true);
        slots.iter().any(|slot| gathered.found(*slot).open)
    }

    fn oracle() -> (Paths, Vec<usize>) {
        let mut paths = Paths::default();
        let slots = PATHS.iter().map(|path| paths.slot(&JsonPath::parse(path).expect("a path"))).collect();
        (paths, slots)
    }

    #[test]
    fn every_verdict_is_that_of_serde_json_and_the_reader_of_whole_bodies() {
        let (seed, mut random) = seeded();
        println!("SEED={seed}");
        let (paths, slots) = oracle();
        let watcher = watcher(&PATHS);
        let mut widened = 0;
        for case in 0..500_000 {
            let unique = case % 5 < 2;
            let mut text = document(&mut random, 4, unique).into_bytes();
            match case % 5 {
                // Cut, or something put in, taken out or behind.
                3 => text.truncate(random.usize(0..=text.len())),
                4 => {
                    let at = random.usize(0..=text.len());
                    let end = random.usize(at..=text.len().min(at + 2));
                    let alphabet = b"{}[]\",:\\/u09e.-+ tn\0\x1f\x7f\x80\xc3\xed\xf0\xffa\n";
                    let put: Vec<u8> = (0..random.usize(0..3)).map(|_| alphabet[random.usize(0..alphabet.len())]).collect();
                    text.splice(at..end, put);
                }
                _ => {}
            }
            let shown = String::from_utf8_lossy(&text);
            if case % 5 == 4 && (shown.contains("307") || shown.contains("311")) {
                // It may have become a number between our bound and that of `serde_json`.
                continue;
            }
            let expected = expected(&paths, &slots, &text);
            assert_eq!(widens(&watcher, &text, &mut random), expected, "seed {seed}: {shown}");
            assert!(!(unique && expected), "seed {seed}: {shown}");
            widened += u32::from(expected);
        }
        assert!((100_000..250_000).contains(&widened), "{widened} cases widened");
    }

    #[test]
    fn what_is_malformed_is_told_no_later_than_serde_json_knows_it() {
        let (seed, mut random) = seeded();
        println!("SEED={seed}");
        for _ in 0..20_000 {
            let mut text = document(&mut random, 3, true).into_bytes();
            for _ in 0..random.usize(1..3) {
                let at = random.usize(0..=text.len());
                text.insert(at, b"{}[]\",:\\u0e.- tx\x01\xc3\xa9"[random.usize(0..19)]);
            }
            let mut watcher = watcher(&[]);
            let mut over = false;
            for end in 1..=text.len() {
                over |= watcher.push(&text[end - 1..end]) == Verdict::Widen;
                let known = serde_json::from_slice::<serde_json::Value>(&text[..end]).is_err_and(|error| !error.is_eof());
                // A number may be too large, or end where it must not, as far as it goes; the next byte decides.
                let in_number = matches!(text[end - 1], b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
                assert!(over || !known || in_number, "seed {seed}: {}", String::from_utf8_lossy(&text[..end]));
            }
        }
    }

    /// A key comes again behind whatever stood between, at any depth, in any writing, cut anywhere.
    #[test]
    fn a_second_key_is_told_with_the_piece_that_ends_it() {
        let (seed, mut random) = seeded();
        println!("SEED={seed}");
        let watcher = watcher(&["file_id", "x.y[*].z.file_id", "l[3].file_id", "[*][*].file_id"]);
        for _ in 0..50_000 {
            let filler = |random: &mut fastrand::Rng, name: &str| format!("\"{name}\":{},", document(random, 3, true));
            let open = match random.u8(0..4) {
                0 => "{".to_owned(),
                1 => format!("{{{}\"x\":{{\"y\":[{},{{\"z\":{{", filler(&mut random, "q"), document(&mut random, 2, true)),
                2 => format!("{{\"l\":[1,[],{{}},{{{}", filler(&mut random, "q")),
                _ => format!("[{},[0,{{", document(&mut random, 0, true)),
            };
            let second = ["file_id", "file\\u005fid", "\\u0066ile_id", "File_id", "FILE_ID"][random.usize(0..5)];
            let head =
                format!("{open}{}{}{}\"{second}", filler(&mut random, "file_id"), filler(&mut random, "k"), filler(&mut random, "m"));
            let text = format!("{head}\":\"other\"");
            let (mut watcher, mut at) = (watcher.clone(), 0);
            loop {
                let end = (at + random.usize(1..40)).min(text.len());
                let verdict = watcher.push(&text.as_bytes()[at..end]);
                let ends_it = end > head.len();
                assert_eq!(verdict == Verdict::Widen, ends_it, "seed {seed}: {at}..{end} of {text}");
                if ends_it {
                    break;
                }
                at = end;
            }
        }
    }

    #[test]
    fn only_what_lies_on_a_path_counts() {
        let mut random = fastrand::Rng::with_seed(1);
        for (paths, text, expected) in [
            (&["a.b"][..], r#"{"b":1,"b":2,"a":{"c":1,"c":2,"b":3},"x":{"a":1,"a":2}}"#, false),
            (&["a.b"], r#"{"a":{"b":3},"x":{"a":{"b":1,"b":2}}}"#, false),
            (&["a.b"], r#"{"a":[{"b":3,"b":4}]}"#, false),
            (&["a.b"], r#"{"a":{"b":3,"b":3}}"#, true),
            (&["a.b"], r#"{"a":{"b":3},"a":0}"#, true),
            (&["a.b"], r#"{"a":{"b":3},"A":0}"#, true),
            (&["a.b"], r#"{"a":{"b":3},"aa":0,"":1,"ab":1}"#, false),
            (&["a[1].b"], r#"{"a":[{"b":1,"b":2},{"b":1}]}"#, false),
            (&["a[1].b"], r#"{"a":[[],{"b":1,"b":2}]}"#, true),
            (&["a[*].b"], r#"{"a":[{"b":1},{"b":1},{"b":1}]}"#, false),
            (&["a[*].b"], r#"{"a":[{"b":1},{"c":[{}],"b":1},{"b":1,"b":1}]}"#, true),
            (&["a~keys"], r#"{"a":{"x":1,"x":2}}"#, false),
            (&["a~keys"], r#"{"a":{"x":1},"a":{}}"#, true),
            (&["a", "A"], r#"{"a":1,"A":2}"#, false),
            (&["a", "A"], r#"{"a":1,"A":2,"a":3}"#, true),
            (&[], r#"{"a":1,"a":2}"#, false),
            (&["\u{1f980}"], r#"{"\ud83e\udd80":1,"🦀":2}"#, true),
            (&["a"], "{\"a\":1}{\"a\":2}", true),
            (&["a"], "\u{feff}{\"a\":1}", true),
            (&["a"], "", true),
            (&["a"], " 12 ", false),
            (&["a"], "-", true),
        ] {
            assert_eq!(widens(&watcher(paths), text.as_bytes(), &mut random), expected, "{paths:?} {text}");
        }
    }

    #[test]
    fn what_exceeds_a_bound_is_not_watched_any_more() {
        let mut random = fastrand::Rng::with_seed(1);
        let watcher = watcher(&["a"]);
        for (depth, expected) in [(DEPTH_MAX, false), (DEPTH_MAX + 1, true), (100_000, true)] {
            let arrays = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(widens(&watcher, arrays.as_bytes(), &mut random), expected, "{depth} arrays");
            let objects = format!("{}0{}", "{\"a\":".repeat(depth), "}".repeat(depth));
            assert_eq!(widens(&watcher, objects.as_bytes(), &mut random), expected, "{depth} objects");
        }
        let zeros = "0".repeat(400);
        for (number, expected) in [
            ("1e307", false),
            ("1e308", true),
            ("0.1e309", true),
            ("0.1e308", false),
            ("-1e99999999999999999999", true),
            ("1e-99999999999999999999", false),
            (&zeros.replacen('0', "1", 1), true),
            (&format!("0.{zeros}1e700"), false),
            (&format!("0.{zeros}1e710"), true),
        ] {
            assert_eq!(widens(&watcher, number.as_bytes(), &mut random), expected, "{number}");
        }
    }

    #[test]
    fn random_bytes_do_no_harm_and_take_no_memory() {
        let (seed, mut random) = seeded();
        println!("SEED={seed}");
        let (paths, slots) = oracle();
        let watcher = watcher(&PATHS);
        for _ in 0..100_000 {
            let bytes: Vec<u8> = (0..random.usize(0..40))
                .map(|_| if random.bool() { random.u8(..) } else { b"{}[]\",:\\u0e.- tab"[random.usize(0..17)] })
                .collect();
            let widened = widens(&watcher, &bytes, &mut random);
            assert_eq!(widened, expected(&paths, &slots, &bytes), "seed {seed}: {bytes:?}");
        }
        let long_key = format!("{{\"{}\":1,\"c\":[", "k".repeat(1 << 20));
        let elements = "{\"b\":[[[{\"b\":{}}]]],\"x\":\"\"},".repeat(10_000);
        let keys = (0..50_000).map(|number| format!("\"k{number}\":{{}}")).collect::<Vec<_>>().join(",") + ",";
        let mut watcher = watcher.clone();
        for piece in [long_key.as_str(), &elements, "{", &keys, "\"a\":", &"[".repeat(DEPTH_MAX - 3)] {
            assert_eq!(watcher.push(piece.as_bytes()), Verdict::Fine);
        }
        assert!(watcher.frames.capacity() <= 16 && watcher.key.text.capacity() <= 64);
        assert!(watcher.frames.iter().all(|frame| !frame.seen.spilled() && !frame.places.spilled() && !frame.child.spilled()));
    }
}
