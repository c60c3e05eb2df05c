//! Reads values out of JSON along the paths of a profile's selectors, all in one pass, without building the document.
//!
//! What is read must be what the app reads (RFC 8259 leaves much open), so whatever readers take differently counts as unread: a key on a
//! selector's path that occurs twice, or that another key differs from by letter case only (some readers fold case); a byte order mark; bytes
//! after the document; a document that is malformed anywhere. In a prefix, a value or element that stands whole is found; everything else stays
//! open. The parser is `serde_json`'s; it recurses along the selectors' paths only, so the depth of a document costs no stack.

use std::{borrow::Cow, fmt, ops::Range};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::{
    selector::{JsonPath, JsonStep},
    truth::{Found, Value},
};

/// The most values of one selector; with more it stays open.
pub const VALUES_MAX: usize = 1024;

/// The largest whole number that every reader of JSON understands alike (RFC 8259 section 6).
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// The paths of all selectors of a profile, as one tree. Each path has a slot: its place in what [`Paths::gather`] returns.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    root: Node,
    list: Vec<JsonPath>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// The slots of paths that end here.
    ends: Vec<usize>,
    /// The slots of paths that end here with `~keys`.
    names: Vec<usize>,
    keys: Vec<(String, Node)>,
    each: Option<Box<Node>>,
    /// Holds what `each` holds too.
    indices: Vec<(usize, Node)>,
    /// Every slot of this node and below.
    below: Vec<usize>,
}

impl Node {
    fn insert(&mut self, steps: &[JsonStep], slot: usize) {
        self.below.push(slot);
        let Some((step, rest)) = steps.split_first() else {
            self.ends.push(slot);
            return;
        };
        match step {
            JsonStep::Keys => self.names.push(slot),
            JsonStep::Key(key) => {
                let index = self.keys.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
                    self.keys.push((key.clone(), Self::default()));
                    self.keys.len() - 1
                });
                self.keys[index].1.insert(rest, slot);
            }
            JsonStep::Each => {
                self.each.get_or_insert_default().insert(rest, slot);
                for (_, node) in &mut self.indices {
                    node.insert(rest, slot);
                }
            }
            JsonStep::Index(wanted) => {
                let index = self.indices.iter().position(|(known, _)| known == wanted).unwrap_or_else(|| {
                    self.indices.push((*wanted, self.each.as_deref().cloned().unwrap_or_default()));
                    self.indices.len() - 1
                });
                self.indices[index].1.insert(rest, slot);
            }
        }
    }

    fn element(&self, index: usize) -> Option<&Self> {
        self.indices.iter().find(|(wanted, _)| *wanted == index).map(|(_, node)| node).or(self.each.as_deref())
    }
}

impl Paths {
    /// The slot of a path, added if it is new.
    pub fn slot(&mut self, path: &JsonPath) -> usize {
        if let Some(slot) = self.slot_of(path) {
            return slot;
        }
        let slot = self.list.len();
        self.list.push(path.clone());
        self.root.insert(&path.0, slot);
        slot
    }

    /// The slot of a path that was added.
    #[must_use]
    pub fn slot_of(&self, path: &JsonPath) -> Option<usize> {
        self.list.iter().position(|known| known == path)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What all paths find where there is no JSON: nothing for certain, or, if `open`, nothing that was read.
    #[must_use]
    pub fn nothing<'de>(&self, open: bool) -> Gathered<'de> {
        Gathered { slots: vec![Slot { found: Found { open, ..Found::default() }, unread: open }; self.list.len()] }
    }

    /// Reads all paths in one pass. `whole` says that `text` is the whole document, not its beginning.
    #[must_use]
    pub fn gather<'de>(&self, text: &'de [u8], whole: bool) -> Gathered<'de> {
        let mut gathered = Gathered { slots: vec![Slot::default(); self.list.len()] };
        let text = if whole { text } else { without_cut_scalar(text) };
        let mut parser = serde_json::Deserializer::from_slice(text);
        let read = Walk { node: &self.root, gathered: &mut gathered }.deserialize(&mut parser).and_then(|()| parser.end());
        let open = match read {
            Ok(()) => !whole,
            Err(error) if error.is_eof() && !whole => true,
            Err(_) => {
                gathered.slots.fill(Slot { unread: true, ..Slot::default() });
                true
            }
        };
        for slot in &mut gathered.slots {
            if slot.unread {
                slot.found = Found::unread();
            }
            slot.found.open |= open;
        }
        gathered
    }
}

impl Paths {
    /// Takes a value that stands whole in a prefix for the only one, where its path leads to one place: true as long as no key on the path
    /// comes again.
    pub fn settle(&self, gathered: &mut Gathered<'_>) {
        for (path, slot) in self.list.iter().zip(&mut gathered.slots) {
            let single = path.0.iter().all(|step| matches!(step, JsonStep::Key(_) | JsonStep::Index(_)));
            slot.found.open &= !single || slot.found.values.is_empty();
        }
    }
}

/// Cuts off a number or literal that the end of the prefix may have cut: `12` may go on as `123`.
fn without_cut_scalar(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')).map_or(0, |last| last + 1);
    &text[..end]
}

/// What the paths found, by slot.
#[derive(Clone, Debug)]
pub struct Gathered<'de> {
    slots: Vec<Slot<'de>>,
}

#[derive(Clone, Debug, Default)]
struct Slot<'de> {
    found: Found<'de>,
    unread: bool,
}

impl<'de> Gathered<'de> {
    /// What the path of this slot found.
    #[must_use]
    pub fn found(&self, slot: usize) -> &Found<'de> {
        &self.slots[slot].found
    }

    fn push(&mut self, slots: &[usize], value: &Value<'de>) {
        for slot in slots {
            let found = &mut self.slots[*slot].found;
            if found.values.len() < VALUES_MAX {
                found.values.push(value.clone());
            } else {
                found.open = true;
                found.gap = true;
            }
        }
    }

    fn spoil(&mut self, slots: &[usize]) {
        for slot in slots {
            self.slots[*slot].unread = true;
        }
    }
}

/// Reads one value along the paths that begin at `node`.
struct Walk<'p, 'g, 'de> {
    node: &'p Node,
    gathered: &'g mut Gathered<'de>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Walk<'_, '_, 'de> {
    fn scalar(self, value: &Value<'de>) {
        self.gathered.push(&self.node.ends, value);
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(&Value::Null);
        Ok(())
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<(), E> {
        self.scalar(&Value::Flag(flag));
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        #[expect(clippy::cast_precision_loss, reason = "a number beyond 2^53 has no exact value anyway")]
        let value = if number.unsigned_abs() <= INTEGER_MAX { Value::Integer(number) } else { Value::Number(number as f64) };
        self.scalar(&value);
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        #[expect(clippy::cast_precision_loss, reason = "a number beyond 2^53 has no exact value anyway")]
        let beyond = Value::Number(number as f64);
        let value = i64::try_from(number).ok().filter(|_| number <= INTEGER_MAX).map_or(beyond, Value::Integer);
        self.scalar(&value);
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.scalar(&Value::Number(number));
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.scalar(&Value::from_text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if self.node.ends.is_empty() {
            return Ok(());
        }
        self.scalar(&Value::from_text(Cow::Owned(text.to_owned())));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { node, gathered } = self;
        let mut index = 0;
        loop {
            let some = match node.element(index) {
                Some(element) => {
                    let counts: SmallVec<[usize; 8]> = element.below.iter().map(|slot| gathered.slots[*slot].found.values.len()).collect();
                    let some = list.next_element_seed(Walk { node: element, gathered: &mut *gathered })?.is_some();
                    for (slot, before) in element.below.iter().zip(counts) {
                        let found = &mut gathered.slots[*slot].found;
                        found.gap |= some && found.values.len() == before;
                    }
                    some
                }
                None => list.next_element::<IgnoredAny>()?.is_some(),
            };
            if !some {
                break;
            }
            if index == 0 {
                gathered.push(&node.ends, &Value::Container { empty: false });
            }
            index += 1;
        }
        if index == 0 {
            gathered.push(&node.ends, &Value::Container { empty: true });
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { node, gathered } = self;
        let mut seen: SmallVec<[bool; 16]> = SmallVec::from_elem(false, node.keys.len());
        let mut first = true;
        while let Some(key) = map.next_key_seed(KeyOf { node, gathered: &mut *gathered })? {
            match key {
                Key::Path(index) => {
                    let child = &node.keys[index].1;
                    if std::mem::replace(&mut seen[index], true) {
                        gathered.spoil(&child.below);
                    }
                    map.next_value_seed(Walk { node: child, gathered: &mut *gathered })?;
                }
                Key::Like(index) => {
                    gathered.spoil(&node.keys[index].1.below);
                    map.next_value::<IgnoredAny>()?;
                }
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            if std::mem::take(&mut first) {
                gathered.push(&node.ends, &Value::Container { empty: false });
            }
        }
        if first {
            gathered.push(&node.ends, &Value::Container { empty: true });
        }
        Ok(())
    }
}

/// What a key is to the paths.
enum Key {
    /// On the path of this child.
    Path(usize),
    /// Equal to this child's key but for the case of letters.
    Like(usize),
    /// On no path.
    Other,
}

struct KeyOf<'p, 'g, 'de> {
    node: &'p Node,
    gathered: &'g mut Gathered<'de>,
}

impl KeyOf<'_, '_, '_> {
    fn judge(&self, key: &str) -> Key {
        let keys = &self.node.keys;
        if let Some(index) = keys.iter().position(|(known, _)| known == key) {
            return Key::Path(index);
        }
        keys.iter().position(|(known, _)| known.eq_ignore_ascii_case(key)).map_or(Key::Other, Key::Like)
    }
}

impl<'de> DeserializeSeed<'de> for KeyOf<'_, '_, 'de> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeyOf<'_, '_, 'de> {
    type Value = Key;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Key, E> {
        if !self.node.names.is_empty() {
            self.gathered.push(&self.node.names, &Value::from_text(Cow::Borrowed(key)));
        }
        Ok(self.judge(key))
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
        if !self.node.names.is_empty() {
            self.gathered.push(&self.node.names, &Value::from_text(Cow::Owned(key.to_owned())));
        }
        Ok(self.judge(key))
    }
}

/// Where the value of a path stands in a whole body, strictly parsed: none if it is not there, occurs twice, is one of several that the path
/// names, or if the body is malformed anywhere.
#[must_use]
pub fn json_value_range(body: &[u8], path: &JsonPath) -> Option<Range<usize>> {
    let mut paths = Paths::default();
    let slot = paths.slot(path);
    let gathered = paths.gather(body, true);
    let found = gathered.found(slot);
    if found.open || found.values.len() != 1 || path.names_several() {
        return None;
    }
    let mut parser = serde_json::Deserializer::from_slice(body);
    let text = Locate(&path.0).deserialize(&mut parser).ok()??;
    let start = (text.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let range = start..start.checked_add(text.len())?;
    (range.end <= body.len()).then_some(range)
}

/// Finds the text of the one value that the steps lead to.
struct Locate<'p>(&'p [JsonStep]);

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            return <&RawValue>::deserialize(deserializer).map(|raw| Some(raw.get()));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Locate<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array or object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (wanted, rest) = match self.0.split_first() {
            Some((JsonStep::Index(wanted), rest)) => (Some(*wanted), rest),
            _ => (None, &[][..]),
        };
        let mut found = None;
        for index in 0.. {
            if Some(index) == wanted {
                match list.next_element_seed(Locate(rest))? {
                    Some(text) => found = text,
                    None => break,
                }
            } else if list.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (wanted, rest) = match self.0.split_first() {
            Some((JsonStep::Key(wanted), rest)) => (Some(wanted.as_str()), rest),
            _ => (None, &[][..]),
        };
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if Some(&*key) == wanted {
                found = map.next_value_seed(Locate(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::truth::{Test, Truth};

    fn found<'a>(path: &str, text: &'a str, whole: bool) -> Found<'a> {
        let mut paths = Paths::default();
        let slot = paths.slot(&JsonPath::parse(path).expect("a path"));
        paths.gather(text.as_bytes(), whole).found(slot).clone()
    }

    fn texts(path: &str, text: &str) -> Vec<String> {
        let found = found(path, text, true);
        assert!(!found.open, "{path} {text}");
        found.values.iter().map(|value| value.text().map_or_else(|| format!("{value:?}"), Cow::into_owned)).collect()
    }

    #[test]
    fn every_form_of_path_finds_its_values() {
        let text = r#"{"a":{"b":[{"c":1},{"c":"x"},{"d":null}]},"e":[true,[]],"f":{"k1":1,"k\u0032":2}}"#;
        assert_eq!(texts("a.b[*].c", text), ["1", "x"]);
        assert!(found("a.b[*].c", text, true).gap);
        assert_eq!(texts("a.b[1].c", text), ["x"]);
        assert_eq!(texts("e[0]", text), ["true"]);
        assert_eq!(texts("e[1]", text), ["Container { empty: true }"]);
        assert_eq!(texts("a.b[2].d", text), ["Null"]);
        assert_eq!(texts("f~keys", text), ["k1", "k2"]);
        assert_eq!(texts("a.c", text), Vec::<String>::new());
        assert_eq!(texts("[*].id", r#"[{"id":1},{"id":2}]"#), ["1", "2"]);
        assert_eq!(texts("[1]", "[1,2,3]"), ["2"]);
    }

    #[test]
    fn an_array_is_no_object_and_an_object_no_array() {
        assert_eq!(texts("a", r#"["a",1]"#), Vec::<String>::new());
        assert_eq!(texts("[*]", r#"{"a":1}"#), Vec::<String>::new());
        assert_eq!(texts("a.b", r#"{"a":"b"}"#), Vec::<String>::new());
    }

    #[test]
    fn an_index_and_every_element_are_found_side_by_side() {
        let mut paths = Paths::default();
        let slots: Vec<usize> =
            ["a[1].x", "a[*].x", "a[*].y", "a[1]"].iter().map(|path| paths.slot(&JsonPath::parse(path).expect("a path"))).collect();
        let gathered = paths.gather(br#"{"a":[{"x":1,"y":1},{"x":2,"y":2},{"x":3,"y":3}]}"#, true);
        let counts: Vec<usize> = slots.iter().map(|slot| gathered.found(*slot).values.len()).collect();
        assert_eq!(counts, [1, 3, 3, 1]);
    }

    /// Bodies that readers of JSON take differently, or that only some of them take at all.
    #[test]
    fn hostile_bodies_are_unread() {
        let deep = "[".repeat(60_000);
        let deep_closed = format!(r#"{{"x":{}{},"a":1,"a":2}}"#, "[".repeat(20_000), "]".repeat(20_000));
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":1,"A":2}"#,
            r#"{"A":2}"#,
            r#"{"a":1}x"#,
            r#"{"a":1}{"a":2}"#,
            r#"{"a":1},"#,
            r#"{"a":1"#,
            r#"{"a":1,}"#,
            "{a:1}",
            "{'a':1}",
            r#"{"a":NaN}"#,
            r#"{"a":Infinity}"#,
            r#"{"a":01}"#,
            r#"{"a":+1}"#,
            r#"{"a":.5}"#,
            r#"{"a":1.}"#,
            r#"{"a":0x10}"#,
            r#"{"a":1e}"#,
            r#"{"a":1 /* c */}"#,
            "{\"a\":1} // c",
            "\u{feff}{\"a\":1}",
            "{\"a\":\"x\ny\"}",
            "{\"a\":\"x\0y\"}",
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\udc00\ud800"}"#,
            r#"{"a":"\x41"}"#,
            r#"{"a":tru}"#,
            r#"{"a":undefined}"#,
            " ",
            "a",
            "{",
            deep.as_str(),
            deep_closed.as_str(),
            r#"{"a":1e999}"#,
        ] {
            let found = found("a", text, true);
            assert!(found.open && found.values.is_empty(), "{} {found:?}", &text[..text.len().min(40)]);
        }
        let mut paths = Paths::default();
        let slot = paths.slot(&JsonPath::parse("a").expect("a path"));
        for bytes in [&b"{\"a\":\"\xff\"}"[..], b"{\"a\xff\":1}", b"\xff\xfe{\0", b"\x1f\x8b\x08"] {
            assert!(paths.gather(bytes, true).found(slot).open);
        }
    }

    #[test]
    fn numbers_that_readers_round_differently_have_no_text() {
        assert_eq!(texts("a", r#"{"a":9007199254740991}"#), ["9007199254740991"]);
        assert_eq!(texts("a", r#"{"a":-9007199254740991}"#), ["-9007199254740991"]);
        for number in ["9007199254740992", "9007199254740993", "-9007199254740993", "1.0", "1e2", "-0", "18446744073709551616", "0.1"] {
            let text = format!(r#"{{"a":{number}}}"#);
            let found = found("a", &text, true);
            assert!(found.values.len() == 1 && found.values[0].text().is_none(), "{number} {found:?}");
        }
    }

    #[test]
    fn a_duplicate_elsewhere_does_no_harm() {
        assert_eq!(texts("a", r#"{"x":1,"x":2,"a":"v","y":{"a":1,"a":2}}"#), ["v"]);
    }

    #[test]
    fn in_a_prefix_only_what_stands_whole_is_found() {
        let truth = |path: &str, test: &Test, text: &str| test.holds(&found(path, text, false));
        let (empty, present) = (Test::Empty, Test::Present);
        let twelve = Test::AnyOf(vec!["12".to_owned()]);
        assert_eq!(truth("a", &twelve, r#"{"a":12"#), Truth::Unknown, "it may go on as 123");
        assert_eq!(truth("a", &twelve, r#"{"a":12,"#), Truth::Yes);
        assert_eq!(truth("a", &twelve, r#"{"a":"12"#), Truth::Unknown);
        assert_eq!(truth("a", &empty, r#"{"a":["#), Truth::Unknown);
        assert_eq!(truth("a", &empty, r#"{"a":[{"b":1"#), Truth::Unknown);
        assert_eq!(truth("a", &empty, r#"{"a":[{"b":1}"#), Truth::No);
        assert_eq!(truth("a", &empty, r#"{"a":[],"#), Truth::Unknown, "a second key may follow");
        assert_eq!(truth("a[1]", &present, r#"{"a":[1,2,"#), Truth::Yes);
        assert_eq!(truth("a[2]", &present, r#"{"a":[1,2,"#), Truth::Unknown);
        assert_eq!(truth("a", &present, r#"{"a":1,"b":x"#), Truth::Unknown, "malformed");
    }

    #[test]
    fn more_values_than_are_held_stay_open() {
        let text = format!("{{\"a\":[{}1]}}", "1,".repeat(VALUES_MAX));
        let found = found("a[*]", &text, true);
        assert!(found.open && found.gap && found.values.len() == VALUES_MAX);
    }

    #[test]
    fn the_place_of_a_value_is_found_only_if_it_is_the_one_that_is_meant() {
        let at = |path: &str, text: &str| {
            let range = json_value_range(text.as_bytes(), &JsonPath::parse(path).expect("a path"));
            range.map(|range| text[range].to_owned())
        };
        let text = r#" {"a":{"ts" : 17.50 ,"x":"y\u0061"},"\u0062":[1,{"c":null},"\n"],"ts":"5"} "#;
        for (path, value) in [
            ("a.ts", "17.50"),
            ("a.x", r#""y\u0061""#),
            ("b[1].c", "null"),
            ("b[2]", r#""\n""#),
            ("ts", "\"5\""),
            ("b[1]", r#"{"c":null}"#),
        ] {
            assert_eq!(at(path, text).as_deref(), Some(value), "{path}");
        }
        assert_eq!(
            (at("a.none", text), at("b[*]", text), at("a~keys", text), at("b[3]", text), at("ts.x", text)),
            (None, None, None, None, None)
        );
        for text in [
            r#"{"ts":1,"ts":2}"#,
            r#"{"ts":1,"TS":2}"#,
            r#"{"ts":1}x"#,
            r#"{"ts":1"#,
            r#"{"ts":1,"b":tru}"#,
            r#"["ts"]"#,
            "",
            "\u{feff}{\"ts\":1}",
        ] {
            assert_eq!(at("ts", text), None, "{text}");
        }
        assert_eq!(at("[0]", "[7]").as_deref(), Some("7"));
    }

    fn document(random: &mut fastrand::Rng, depth: usize, duplicates: bool) -> String {
        match random.u8(0..if depth == 0 { 7 } else { 11 }) {
            0 => "null".to_owned(),
            1 => random.bool().to_string(),
            2 => random.i64(-20..200).to_string(),
            3 => ["1.5", "1e2", "9007199254740993", "-0"][random.usize(0..4)].to_owned(),
            4 => "\"\"".to_owned(),
            5 | 6 => ["\"a\"", "\"x y\"", "\"\\u0061\"", "\"\\n\"", "\"\u{e9}\"", "\"12\""][random.usize(0..6)].to_owned(),
            7 | 8 => {
                let items: Vec<String> = (0..random.usize(0..4)).map(|_| document(random, depth - 1, duplicates)).collect();
                format!("[{}]", items.join([",", " , "][random.usize(0..2)]))
            }
            _ => {
                let mut keys = vec!["a", "b", "c", "\\u0064"];
                random.shuffle(&mut keys);
                let mut fields = Vec::new();
                for _ in 0..random.usize(0..4) {
                    let key = if duplicates { keys[random.usize(0..4)] } else { keys.pop().unwrap_or("e") };
                    fields.push(format!("\"{key}\":{}", document(random, depth - 1, duplicates)));
                }
                format!("{{{}}}", fields.join(","))
            }
        }
    }

    /// The same by a built document: every value that the steps lead to.
    fn oracle<'v>(value: &'v serde_json::Value, steps: &[JsonStep], list: &mut Vec<serde_json::Value>) {
        let Some((step, rest)) = steps.split_first() else {
            list.push(value.clone());
            return;
        };
        let children: Vec<&'v serde_json::Value> = match step {
            JsonStep::Key(key) => value.as_object().and_then(|object| object.get(key)).into_iter().collect(),
            JsonStep::Each => value.as_array().into_iter().flatten().collect(),
            JsonStep::Index(index) => value.as_array().and_then(|array| array.get(*index)).into_iter().collect(),
            JsonStep::Keys => {
                list.extend(value.as_object().into_iter().flat_map(|object| object.keys().map(|key| key.clone().into())));
                return;
            }
        };
        for child in children {
            oracle(child, rest, list);
        }
    }

    fn same(value: &Value<'_>, oracle: &serde_json::Value) -> bool {
        match (value, oracle) {
            (Value::Null, serde_json::Value::Null) => true,
            (Value::Flag(flag), serde_json::Value::Bool(expected)) => flag == expected,
            (Value::Integer(number), serde_json::Value::Number(expected)) => Some(*number) == expected.as_i64(),
            (Value::Number(number), serde_json::Value::Number(expected)) => Some(*number) == expected.as_f64(),
            (Value::Text(text), serde_json::Value::String(expected)) => text == expected,
            (Value::Opaque, serde_json::Value::String(expected)) => expected.contains('\n'),
            (Value::Container { empty }, serde_json::Value::Array(expected)) => *empty == expected.is_empty(),
            (Value::Container { empty }, serde_json::Value::Object(expected)) => *empty == expected.is_empty(),
            _ => false,
        }
    }

    #[test]
    fn random_documents_are_read_as_serde_json_reads_them_and_a_prefix_never_contradicts_the_whole() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        let mut random = fastrand::Rng::with_seed(seed);
        let wanted = ["a", "a.b", "a[*]", "a[*].b", "a[1]", "b[*][*]", "c~keys", "[*].a", "[0]", "d", "a[*].b.c", "a[1].b"];
        let mut paths = Paths::default();
        let parsed: Vec<JsonPath> = wanted.iter().map(|path| JsonPath::parse(path).expect("a path")).collect();
        let slots: Vec<usize> = parsed.iter().map(|path| paths.slot(path)).collect();
        let tests =
            [Test::Present, Test::Empty, Test::AnyOf(vec!["a".to_owned(), "12".to_owned()]), Test::Glob("*1*".to_owned()), Test::Over(9.0)];
        for _ in 0..25_000 {
            let duplicates = random.u8(0..4) == 0;
            let text = document(&mut random, 4, duplicates);
            let whole = paths.gather(text.as_bytes(), true);
            if !duplicates {
                let value: serde_json::Value = serde_json::from_str(&text).expect("valid");
                for (path, slot) in parsed.iter().zip(&slots) {
                    let mut list = Vec::new();
                    oracle(&value, &path.0, &mut list);
                    let mut found = whole.found(*slot).values.to_vec();
                    if path.0.contains(&JsonStep::Keys) {
                        found.sort_by_key(|value| value.text().map(Cow::into_owned));
                    }
                    let equal = found.len() == list.len() && found.iter().zip(&list).all(|(value, oracle)| same(value, oracle));
                    assert!(equal && !whole.found(*slot).open, "seed {seed}: {path} in {text}: {found:?}, not {list:?}");
                    let place = json_value_range(text.as_bytes(), path).map(|range| serde_json::from_str(&text[range]).expect("a value"));
                    let one = if path.names_several() { None } else { list.pop() };
                    assert_eq!(place, one, "seed {seed}: {path} in {text}");
                }
            }
            for _ in 0..20 {
                let end = random.usize(0..=text.len());
                let prefix = paths.gather(&text.as_bytes()[..end], false);
                for slot in &slots {
                    for test in &tests {
                        let (early, late) = (test.holds(prefix.found(*slot)), test.holds(whole.found(*slot)));
                        assert!(
                            early == Truth::Unknown || late == Truth::Unknown || early == late,
                            "seed {seed}: {test} of {} is {early:?} in {end} bytes of {text}, {late:?} in all",
                            wanted[*slot]
                        );
                    }
                }
            }
        }
    }
}
