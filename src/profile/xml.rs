//! Reads elements out of XML by their local names, all in one pass.
//!
//! What is read must be what the app reads, and readers of XML differ more than those of JSON. So the whole document counts as unread if it is not
//! well formed (XML 1.0, 5th edition, with Namespaces 1.0), and also where readers that keep to both may still differ, or are often told to: a
//! document type, references to entities other than the five, processing instructions, an encoding other than UTF-8, names that are not ASCII,
//! elements nested deeper than common limits, very many attributes or prefixes. Of one element it is unclear what it says if a comment or a mix of
//! plain text and `CDATA` stands in it, or if white space begins or ends it, which some readers strip.
//!
//! The tokens are `quick_xml`'s, which is lenient by design; everything that it leaves to its caller is checked here.

use quick_xml::{Error, Reader, errors::SyntaxError, events::Event};

use super::{
    json::VALUES_MAX,
    truth::{Found, Value},
};

/// The deepest nesting that is read: libxml2 stops at 256.
const DEPTH_MAX: usize = 128;

/// The most attributes of one element, and the most prefixes that are declared at one place.
const ATTRIBUTES_MAX: usize = 64;

/// Namespaces that may not be bound to a prefix (Namespaces in XML 1.0, section 3).
const RESERVED: [&str; 2] = ["http://www.w3.org/XML/1998/namespace", "http://www.w3.org/2000/xmlns/"];

/// The local names that a profile's selectors look for. Each has a slot: its place in what [`Names::gather`] returns.
#[derive(Clone, Debug, Default)]
pub struct Names {
    list: Vec<String>,
}

/// What the names found, by slot, and the name of the outermost element.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    /// `xml.root`
    pub root: Found<'a>,
    slots: Vec<Found<'a>>,
}

impl<'a> Elements<'a> {
    /// What the name of this slot found.
    #[must_use]
    pub fn found(&self, slot: usize) -> &Found<'a> {
        &self.slots[slot]
    }
}

impl Names {
    /// The slot of a name, added if it is new.
    pub fn slot(&mut self, name: &str) -> usize {
        self.list.iter().position(|known| known == name).unwrap_or_else(|| {
            self.list.push(name.to_owned());
            self.list.len() - 1
        })
    }

    /// What all names find where there is no XML: nothing for certain, or, if `open`, nothing that was read.
    #[must_use]
    pub fn nothing<'a>(&self, open: bool) -> Elements<'a> {
        let found = Found { open, ..Found::default() };
        Elements { root: found.clone(), slots: vec![found; self.list.len()] }
    }

    /// Reads all names in one pass. `whole` says that `text` is the whole document, not its beginning.
    #[must_use]
    pub fn gather<'a>(&self, text: &[u8], whole: bool) -> Elements<'a> {
        let text = match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(error) if !whole && error.error_len().is_none() => std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
            Err(_) => return self.nothing(true),
        };
        if !text.chars().all(is_char) {
            return self.nothing(true);
        }
        let mut walk = Walk { names: self, found: self.nothing(!whole), stack: Vec::new(), prefixes: Vec::new(), rooted: false };
        match walk.run(text) {
            Ok(()) if walk.rooted && walk.stack.is_empty() => walk.found,
            Ok(()) | Err(Stop::Cut) if !whole => walk.found,
            Ok(()) | Err(Stop::Cut | Stop::Doubtful) => self.nothing(true),
        }
    }
}

/// Why a document is not read further.
enum Stop {
    /// It ends inside markup.
    Cut,
    /// Readers differ in what it says, or do not take it at all.
    Doubtful,
}

/// An element that is open.
struct Open {
    /// Its slot, if a selector looks for it.
    slot: Option<usize>,
    /// How many prefixes were declared outside it.
    prefixes: usize,
    holds: Holds,
    text: String,
}

/// What stands in an element so far.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    Nothing,
    Plain,
    Cdata,
    /// A comment, or a mixture.
    Unclear,
    Elements,
}

impl Holds {
    fn and(self, more: Self) -> Self {
        match (self, more) {
            (Self::Elements, _) | (_, Self::Elements) => Self::Elements,
            (Self::Nothing, more) => more,
            (before, more) if before == more => before,
            _ => Self::Unclear,
        }
    }
}

impl Open {
    fn value<'a>(self) -> Value<'a> {
        let padded = self.text.starts_with(is_space) || self.text.ends_with(is_space);
        match self.holds {
            Holds::Elements => Value::Container { empty: false },
            Holds::Nothing | Holds::Plain | Holds::Cdata if !padded => Value::from_text(self.text.into()),
            _ => Value::Unclear,
        }
    }
}

struct Walk<'n, 'a> {
    names: &'n Names,
    found: Elements<'a>,
    stack: Vec<Open>,
    prefixes: Vec<String>,
    /// Whether the outermost element has begun.
    rooted: bool,
}

impl Walk<'_, '_> {
    fn run(&mut self, text: &str) -> Result<(), Stop> {
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_comments = true;
        loop {
            let first = reader.buffer_position() == 0;
            let event = reader.read_event().map_err(|error| match error {
                Error::Syntax(SyntaxError::InvalidBangMarkup) => Stop::Doubtful,
                Error::Syntax(_) => Stop::Cut,
                _ => Stop::Doubtful,
            })?;
            let sound = match event {
                Event::Start(tag) => self.open(&tag),
                Event::Empty(tag) => self.open(&tag) && self.close(),
                Event::End(_) => self.close(),
                Event::Text(text) if self.stack.is_empty() => text.chars().all(is_space),
                Event::Text(text) => !text.contains("]]>") && self.add(Holds::Plain, &text),
                Event::CData(text) => self.add(Holds::Cdata, &text),
                Event::GeneralRef(name) => reference(&name).is_some_and(|c| self.add(Holds::Plain, c.encode_utf8(&mut [0; 4]))),
                Event::Comment(_) => self.stack.is_empty() || self.add(Holds::Unclear, ""),
                Event::Decl(declaration) => first && declares_utf_8(&declaration),
                Event::PI(_) | Event::DocType(_) => false,
                Event::Eof => return Ok(()),
            };
            if !sound {
                return Err(Stop::Doubtful);
            }
        }
    }

    /// Adds to the innermost element; false if there is none.
    fn add(&mut self, more: Holds, text: &str) -> bool {
        let Some(open) = self.stack.last_mut() else { return false };
        open.holds = open.holds.and(more);
        if open.slot.is_some() {
            open.text.push_str(text);
        }
        true
    }

    fn open(&mut self, tag: &str) -> bool {
        if (self.stack.is_empty() && self.rooted) || self.stack.len() >= DEPTH_MAX {
            return false;
        }
        let end = tag.find(is_space).unwrap_or(tag.len());
        let (name, rest) = tag.split_at(end);
        let prefixes = self.prefixes.len();
        let Some(attributes) = attributes(rest) else { return false };
        if !attributes.iter().all(|attribute| self.declare(attribute)) || !distinct(&attributes) {
            return false;
        }
        let declared = |prefix: &str| prefix.is_empty() || self.prefixes.iter().any(|known| known == prefix);
        let Some((prefix, local)) = qualified(name) else { return false };
        let mut used = attributes.iter().filter(|attribute| !attribute.declares()).map(|attribute| attribute.prefix);
        if !declared(prefix) || !used.all(|prefix| prefix == "xml" || declared(prefix)) {
            return false;
        }
        if !self.add(Holds::Elements, "") {
            self.rooted = true;
            self.found.root.values.push(Value::from_text(local.to_owned().into()));
        }
        let slot = self.names.list.iter().position(|wanted| wanted == local);
        self.stack.push(Open { slot, prefixes, holds: Holds::Nothing, text: String::new() });
        true
    }

    /// Takes in a declaration of a prefix; false if it is one that readers need not take.
    fn declare(&mut self, attribute: &Attribute<'_>) -> bool {
        if !attribute.declares() {
            return true;
        }
        let (value, local) = (attribute.value, attribute.local);
        if value.contains('&') || RESERVED.contains(&value) {
            return false;
        }
        if attribute.prefix.is_empty() {
            return true;
        }
        if value.is_empty() || matches!(local, "xml" | "xmlns") || self.prefixes.len() >= ATTRIBUTES_MAX {
            return false;
        }
        self.prefixes.push(local.to_owned());
        true
    }

    fn close(&mut self) -> bool {
        let Some(open) = self.stack.pop() else { return false };
        self.prefixes.truncate(open.prefixes);
        if let Some(slot) = open.slot {
            let found = &mut self.found.slots[slot];
            if found.values.len() < VALUES_MAX {
                found.values.push(open.value());
            } else {
                (found.open, found.gap) = (true, true);
            }
        }
        true
    }
}

/// An attribute: its prefix, empty if it has none, its local name and its value as written.
struct Attribute<'t> {
    prefix: &'t str,
    local: &'t str,
    value: &'t str,
}

impl Attribute<'_> {
    /// Whether it declares a prefix, or the namespace of names without one.
    fn declares(&self) -> bool {
        self.prefix == "xmlns" || (self.prefix.is_empty() && self.local == "xmlns")
    }
}

/// The attributes of a tag, from what stands behind its name; none if they are malformed or very many.
fn attributes(text: &str) -> Option<Vec<Attribute<'_>>> {
    let mut list = Vec::new();
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start_matches(is_space);
        if trimmed.is_empty() {
            return Some(list);
        }
        if trimmed.len() == rest.len() || list.len() >= ATTRIBUTES_MAX {
            return None;
        }
        let (name, behind) = trimmed.split_once('=')?;
        let (prefix, local) = qualified(name.trim_end_matches(is_space))?;
        let behind = behind.trim_start_matches(is_space);
        let quote = behind.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let (value, behind) = behind[1..].split_once(quote)?;
        if value.contains('<') || !value.split('&').skip(1).all(|part| part.split_once(';').and_then(|(name, _)| reference(name)).is_some())
        {
            return None;
        }
        list.push(Attribute { prefix, local, value });
        rest = behind;
    }
}

/// Whether no two attributes could be the same: two prefixes may stand for one namespace.
fn distinct(attributes: &[Attribute<'_>]) -> bool {
    attributes.iter().enumerate().all(|(index, one)| {
        attributes[..index].iter().all(|other| {
            let prefixed = |attribute: &Attribute<'_>| !attribute.prefix.is_empty() && !attribute.declares();
            one.local != other.local || (one.prefix != other.prefix && !(prefixed(one) && prefixed(other)))
        })
    })
}

/// Prefix and local name; none if this is no name, or one with letters that not every reader takes for such.
fn qualified(name: &str) -> Option<(&str, &str)> {
    let (prefix, local) = name.split_once(':').map_or((None, name), |(prefix, local)| (Some(prefix), local));
    let sound = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    (sound(local) && prefix.is_none_or(sound)).then_some((prefix.unwrap_or_default(), local))
}

/// The character that one of the five entities or a character's number stands for.
fn reference(name: &str) -> Option<char> {
    let Some(number) = name.strip_prefix('#') else {
        return match name {
            "lt" => Some('<'),
            "gt" => Some('>'),
            "amp" => Some('&'),
            "apos" => Some('\''),
            "quot" => Some('"'),
            _ => None,
        };
    };
    let (digits, radix) = number.strip_prefix('x').map_or((number, 10), |digits| (digits, 16));
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok().and_then(char::from_u32).filter(|c| is_char(*c))
}

/// Whether a declaration, `xml version="1.0" ...`, is of XML 1.0 in UTF-8.
fn declares_utf_8(declaration: &str) -> bool {
    let Some(list) = declaration.strip_prefix("xml").and_then(attributes) else { return false };
    let mut rest =
        list.iter().filter(|attribute| attribute.prefix.is_empty()).map(|attribute| (attribute.local, attribute.value)).peekable();
    rest.next() == Some(("version", "1.0"))
        && rest.next_if(|(name, _)| *name == "encoding").is_none_or(|(_, value)| value.eq_ignore_ascii_case("utf-8"))
        && rest.next_if(|(name, _)| *name == "standalone").is_none_or(|(_, value)| matches!(value, "yes" | "no"))
        && rest.next().is_none()
        && list.iter().all(|attribute| attribute.prefix.is_empty())
}

/// White space (XML 1.0 section 2.3).
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// A character (XML 1.0 section 2.2).
fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::truth::{Test, Truth};

    fn found(name: &str, text: &str, whole: bool) -> Found<'static> {
        let mut names = Names::default();
        let slot = names.slot(name);
        names.gather(text.as_bytes(), whole).found(slot).clone()
    }

    fn texts(name: &str, text: &str) -> Vec<String> {
        let found = found(name, text, true);
        assert!(!found.open, "{name} {text}");
        found.values.iter().map(|value| value.text().map_or_else(|| format!("{value:?}"), std::borrow::Cow::into_owned)).collect()
    }

    const MULTIGET: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<C:calendar-multiget xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav">
  <D:prop><D:getetag/><C:calendar-data/></D:prop>
  <D:href>/a/x.ics</D:href><D:href>/a/y&amp;&#x7a;.ics</D:href>
  <D:empty></D:empty><D:raw><![CDATA[<z>]]></D:raw>
</C:calendar-multiget>
"#;

    #[test]
    fn elements_are_found_by_their_local_names() {
        assert_eq!(texts("href", MULTIGET), ["/a/x.ics", "/a/y&z.ics"]);
        assert_eq!(texts("prop", MULTIGET), ["Container { empty: false }"], "it holds elements, so it says no text");
        assert_eq!((texts("getetag", MULTIGET), texts("empty", MULTIGET)), (vec![String::new()], vec![String::new()]));
        assert_eq!(texts("raw", MULTIGET), ["<z>"]);
        assert_eq!((texts("none", MULTIGET), texts("Href", MULTIGET)), (vec![], vec![]));
        assert_eq!(texts("a", "<a><b><a>x</a></b></a>"), ["x", "Container { empty: false }"]);
        assert_eq!(Names::default().gather(MULTIGET.as_bytes(), true).root, Found::one(Value::Text("calendar-multiget".into())));
        assert_eq!(texts("a", "\u{feff}<!-- c --><a>\u{e9}</a> <!-- c -->\n"), ["\u{e9}"]);
        assert_eq!(texts("a", "<a b='1' xmlns:n=\"u\" n:b='&gt;' xml:lang='en' >x</a >"), ["x"]);
    }

    #[test]
    fn where_readers_may_differ_in_what_an_element_says_it_says_nothing() {
        for text in
            ["<a> x</a>", "<a>x\n</a>", "<a> </a>", "<a>x<!-- c --></a>", "<a><!-- c --></a>", "<a>x<![CDATA[y]]></a>", "<a>&#32;x</a>"]
        {
            let found = found("a", text, true);
            assert_eq!(found, Found::one(Value::Unclear), "{text}");
            assert_eq!(Test::Present.holds(&found), Truth::Yes);
            for test in [Test::Empty, Test::AnyOf(vec!["x".to_owned()]), Test::Glob("y*".to_owned()), Test::Over(0.0)] {
                assert_eq!(test.holds(&found), Truth::Unknown, "{text} {test}");
            }
        }
        assert_eq!(found("a", "<a>x\ny</a>", true), Found::one(Value::Opaque));
        assert_eq!(found("a", &format!("<a>{}</a>", "x".repeat(1025)), true), Found::one(Value::Opaque));
    }

    /// Not well formed, or well formed and still doubtful.
    const HOSTILE: [&str; 76] = [
        "",
        " ",
        "x",
        "<a>",
        "<a/",
        "<a",
        "<",
        "</a>",
        "<a></b>",
        "<a><b></a></b>",
        "<a></a x='1'>",
        "<a></ a>",
        "< a/>",
        "<a/><a/>",
        "<a/>x",
        "x<a/>",
        "<a/>&amp;",
        "<a/><![CDATA[x]]>",
        "<!DOCTYPE a><a/>",
        "<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>",
        "<!doctype a><a/>",
        "<a>&e;</a>",
        "<a>&nbsp;</a>",
        "<a>&amp</a>",
        "<a>&</a>",
        "<a>& </a>",
        "<a>&#;</a>",
        "<a>&#x;</a>",
        "<a>&#0;</a>",
        "<a>&#x1;</a>",
        "<a>&#xd800;</a>",
        "<a>&#x110000;</a>",
        "<a>&#+65;</a>",
        "<a>&#X41;</a>",
        "<a>]]></a>",
        "<a>\u{1}</a>",
        "<a>\u{fffe}</a>",
        "<a><![cdata[x]]></a>",
        "<a><![CDATA[x]></a>",
        "<a><!x></a>",
        "<a><!-- a -- b --></a>",
        "<a><!-- a ---></a>",
        "<a><!--></a>",
        "<a><!---></a>",
        "<a><!-- x</a>",
        "<a b></a>",
        "<a b=c></a>",
        "<a b='c></a>",
        "<a b='c'd='e'></a>",
        "<a b='<'></a>",
        "<a b='&e;'></a>",
        "<a b='&'></a>",
        "<a b='1' b='2'></a>",
        "<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'></a>",
        "<a / ></a>",
        "<a =''/>",
        "<1a/>",
        "<-a/>",
        "<a:b/>",
        "<a p:b='1'/>",
        "<a:b:c xmlns:a='u' xmlns:b='v'/>",
        "<:a/>",
        "<a:/>",
        "<xml:a/>",
        "<xmlns:a/>",
        "<a xmlns:p=''><p:b/></a>",
        "<a xmlns:xml='u'/>",
        "<a xmlns:p='http://www.w3.org/2000/xmlns/'/>",
        "<a><b xmlns:p='u'/><p:c/></a>",
        "<\u{e9}/>",
        "<a\u{a0}b='1'/>",
        " <?xml version='1.0'?><a/>",
        "<?xml version='1.1'?><a/>",
        "<?xml version='1.0' encoding='iso-8859-1'?><a/>",
        "<?xml encoding='utf-8' version='1.0'?><a/>",
        "<a><?x y?></a>",
    ];

    #[test]
    fn hostile_documents_are_unread() {
        for text in HOSTILE {
            let mut names = Names::default();
            let slot = names.slot("a");
            let elements = names.gather(text.as_bytes(), true);
            assert_eq!((elements.found(slot), &elements.root), (&Found::unread(), &Found::unread()), "{text}");
        }
        let deep = format!("{}{}", "<a>".repeat(DEPTH_MAX + 1), "</a>".repeat(DEPTH_MAX + 1));
        let wide = format!("<a {}/>", (0..=ATTRIBUTES_MAX).map(|index| format!("a{index}=''")).collect::<Vec<_>>().join(" "));
        for bytes in [deep.as_bytes(), wide.as_bytes(), b"<a>\xe9</a>", b"\xff\xfe<\0a\0/\0>\0", "\u{feff}\u{feff}<a/>".as_bytes()] {
            assert!(Names::default().gather(bytes, true).root.open, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
        }
    }

    #[test]
    fn in_a_beginning_only_elements_that_stand_whole_are_found() {
        let truth = |test: &Test, text: &str| test.holds(&found("href", text, false));
        assert_eq!(truth(&Test::Present, "<m><href>/a</href><hr"), Truth::Yes);
        assert_eq!(truth(&Test::Present, "<m><href>/a</hre"), Truth::Unknown);
        assert_eq!(truth(&Test::Present, "<m><x/>"), Truth::Unknown);
        assert_eq!(truth(&Test::Present, "<m><href>/a</href></n>"), Truth::Unknown, "malformed");
        let mut cut = "<m><href>/a</href>\u{e9}".as_bytes().to_vec();
        cut.pop();
        let mut names = Names::default();
        let slot = names.slot("href");
        assert_eq!(names.gather(&cut, false).found(slot).values.len(), 1);
    }

    #[test]
    fn more_elements_than_are_held_stay_open() {
        let text = format!("<m>{}</m>", "<a/>".repeat(VALUES_MAX + 1));
        let found = found("a", &text, true);
        assert!(found.open && found.gap && found.values.len() == VALUES_MAX);
    }

    /// Mostly sound XML, and sometimes not: whatever is read of it must be what another reader makes of it.
    fn document(random: &mut fastrand::Rng, depth: usize) -> String {
        let names = ["a", "b", "p:a", "p:b", "q:a", "c"];
        let name = names[random.usize(..names.len())];
        let mut text = format!("<{name}");
        for _ in 0..random.usize(0..3) {
            let attributes =
                [" xmlns:p='u'", " xmlns:q=\"u\"", " xmlns='v'", " a='1'", " p:a=\"&lt;\"", " b = '\u{e9}'", " q:a=''", " xmlns:p=''"];
            text.push_str(attributes[random.usize(..attributes.len())]);
        }
        if random.u8(..6) == 0 {
            return text + "/>";
        }
        text.push('>');
        for _ in 0..random.usize(0..4) {
            let pieces =
                ["x", " ", "&amp;", "&#65;", "&e;", "<!-- c -->", "<![CDATA[<y>]]>", "\n", "]]", ">", "<?t d?>", "&#x10ffff;", "\u{1f4a9}"];
            match random.u8(..4) {
                0 | 1 if depth > 0 => text.push_str(&document(random, depth - 1)),
                2 => text.push_str(pieces[random.usize(..pieces.len())]),
                _ => text.push_str(["/a/x.ics", "z"][random.usize(..2)]),
            }
        }
        text + "</" + name + ">"
    }

    fn oracle(document: &roxmltree::Document<'_>, name: &str) -> Vec<(bool, String)> {
        // Elements are found where they end, as here: children before their parent.
        fn walk(node: roxmltree::Node<'_, '_>, name: &str, list: &mut Vec<(bool, String)>) {
            for child in node.children().filter(roxmltree::Node::is_element) {
                walk(child, name, list);
                if child.tag_name().name() == name {
                    let elements = child.children().any(|inner| inner.is_element());
                    let text = child.children().filter(roxmltree::Node::is_text).filter_map(|inner| inner.text()).collect();
                    list.push((elements, text));
                }
            }
        }
        let mut list = Vec::new();
        walk(document.root(), name, &mut list);
        list
    }

    #[test]
    fn random_documents_are_read_as_another_reader_reads_them_and_a_beginning_never_contradicts_the_whole() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        let mut random = fastrand::Rng::with_seed(seed);
        let mut names = Names::default();
        let slots: Vec<(&str, usize)> = ["a", "b", "c"].iter().map(|name| (*name, names.slot(name))).collect();
        let tests = [Test::Present, Test::Empty, Test::AnyOf(vec!["z".to_owned(), "x".to_owned()]), Test::Glob("/a*".to_owned())];
        let (mut read, mut refused) = (0, 0);
        for _ in 0..40_000 {
            let mut text = document(&mut random, 3);
            if random.u8(..4) > 0 {
                text = format!("<r xmlns:p='u' xmlns:q='w'>{text}</r>");
            }
            if random.u8(..3) == 0 {
                let mut bytes = text.into_bytes();
                let at = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => bytes[at] = b"<>/&;'\" =!-[]:x\n"[random.usize(..16)],
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"<>/&;'\" =!-[]:x\n"[random.usize(..16)]),
                }
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
            let whole = names.gather(text.as_bytes(), true);
            if whole.root.open {
                refused += 1;
            } else {
                read += 1;
                let other = roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("seed {seed}: {error} in {text}"));
                assert_eq!(
                    whole.root,
                    Found::one(Value::Text(other.root_element().tag_name().name().to_owned().into())),
                    "seed {seed}: {text}"
                );
                for (name, slot) in &slots {
                    let expected = oracle(&other, name);
                    let values = &whole.found(*slot).values;
                    let same = values.len() == expected.len()
                        && values.iter().zip(&expected).all(|(value, (elements, text))| match value {
                            Value::Container { empty } => *elements && !empty,
                            Value::Text(found) => !elements && found == text,
                            Value::Opaque => !elements && text.contains('\n'),
                            _ => *value == Value::Unclear && !elements,
                        });
                    assert!(same, "seed {seed}: {name} in {text}: {values:?}, not {expected:?}");
                }
            }
            for _ in 0..5 {
                let end = random.usize(0..=text.len());
                let prefix = names.gather(&text.as_bytes()[..end], false);
                for (name, slot) in &slots {
                    for test in &tests {
                        let (early, late) = (test.holds(prefix.found(*slot)), test.holds(whole.found(*slot)));
                        let agree = early == Truth::Unknown || late == Truth::Unknown || early == late;
                        assert!(agree, "seed {seed}: {test} of {name} is {early:?} in {end} bytes of {text}, {late:?} in all");
                    }
                }
            }
        }
        assert!(read > 3_000 && refused > 3_000, "{read} read, {refused} refused");
    }
}
