//! Reads values out of JSON along the paths of a profile's selectors, all in one pass, without building the document.
//!
//! What is read must be what the app reads (RFC 8259 leaves much open), so whatever readers take differently counts as unread: a key on a
//! selector's path that occurs twice, or that another key differs from by letter case only (some readers fold case); a byte order mark; bytes
//! after the document; a document that is malformed anywhere. In a prefix, a value or element that stands whole is found; everything else stays
//! open. The parser is `serde_json`'s; it recurses along the selectors' paths only, so the depth of a document costs no stack.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use smallvec::SmallVec;

use super::{
    selector::{JsonPath, Step},
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
    fn insert(&mut self, steps: &[Step], slot: usize) {
        self.below.push(slot);
        let Some((step, rest)) = steps.split_first() else {
            self.ends.push(slot);
            return;
        };
        match step {
            Step::Keys => self.names.push(slot),
            Step::Key(key) => {
                let index = self.keys.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
                    self.keys.push((key.clone(), Self::default()));
                    self.keys.len() - 1
                });
                self.keys[index].1.insert(rest, slot);
            }
            Step::Each => {
                self.each.get_or_insert_default().insert(rest, slot);
                for (_, node) in &mut self.indices {
                    node.insert(rest, slot);
                }
            }
            Step::Index(wanted) => {
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
        if let Some(slot) = self.list.iter().position(|known| known == path) {
            return slot;
        }
        let slot = self.list.len();
        self.list.push(path.clone());
        self.root.insert(&path.0, slot);
        slot
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
    fn scalar<E>(self, value: &Value<'de>) -> Result<(), E> {
        self.gathered.push(&self.node.ends, value);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(&Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<(), E> {
        self.scalar(&Value::Flag(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        #[expect(clippy::cast_precision_loss, reason = "a number beyond 2^53 has no exact value anyway")]
        let value = if number.unsigned_abs() <= INTEGER_MAX { Value::Integer(number) } else { Value::Number(number as f64) };
        self.scalar(&value)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        #[expect(clippy::cast_precision_loss, reason = "a number beyond 2^53 has no exact value anyway")]
        let beyond = Value::Number(number as f64);
        let value = i64::try_from(number).ok().filter(|_| number <= INTEGER_MAX).map_or(beyond, Value::Integer);
        self.scalar(&value)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.scalar(&Value::Number(number))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.scalar(&Value::from_text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if self.node.ends.is_empty() {
            return Ok(());
        }
        self.scalar(&Value::from_text(Cow::Owned(text.to_owned())))
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
