//! Fields of `multipart/form-data` bodies (RFC 7578).
//!
//! Readers of multipart differ in almost everything that the RFCs allow, so little is taken: the boundary delimits at once, without preamble or
//! padding, and stands nowhere else; lines end in CRLF; each part has one `Content-Disposition: form-data` with one quoted `name` in which nothing
//! is escaped; there is nothing behind the end. Any other body counts as unread. A part with a `filename` is a file: it is there, and nothing is
//! said of what it holds.

use memchr::memmem;

use super::{
    json::VALUES_MAX,
    truth::{Found, Value},
};

/// The most parts that are read; a body with more counts as unread.
const PARTS_MAX: usize = VALUES_MAX;

/// The longest boundary (RFC 2046 section 5.1.1).
const BOUNDARY_MAX: usize = 70;

/// A part, as far as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'a> {
    /// A text.
    Text(&'a str),
    /// A file.
    File,
    /// A field whose bytes are no text, or of a type that some readers take for a file's.
    Unclear,
}

/// The boundary that the parameters of a `Content-Type: multipart/form-data` name; none if there is not exactly one that is sound.
#[must_use]
pub fn boundary(content_type: &str) -> Option<&str> {
    let (_, rest) = content_type.split_once(';')?;
    let mut boundary = None;
    for Parameter { name, value, .. } in parameters(rest)? {
        if name.eq_ignore_ascii_case("boundary") && boundary.replace(value).is_some() {
            return None;
        }
    }
    let sound = |value: &&str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
        (1..=BOUNDARY_MAX).contains(&value.len()) && value.bytes().all(allowed) && !value.ends_with(' ')
    };
    boundary.filter(sound)
}

/// The values of a name. What is not certain is open.
#[must_use]
pub fn values<'a>(body: &'a [u8], boundary: &str, wanted: &str, whole: bool) -> Found<'a> {
    let Some(parts) = parts(body, boundary, whole) else { return Found::unread() };
    let values = parts.iter().filter(|(name, _)| *name == wanted).map(|(_, part)| match part {
        Part::Text(text) => Value::from_text((*text).into()),
        Part::File => Value::Opaque,
        Part::Unclear => Value::Unclear,
    });
    Found { values: values.collect(), open: !whole, gap: false }
}

/// The text of the one field of this name, for JSON that stands in it: nothing if there is no such field, unread if there are several, or if it
/// is not certain that it is a text.
///
/// # Errors
/// What is found if there is no such text.
pub fn text<'a>(body: &'a [u8], boundary: &str, wanted: &str) -> Result<&'a str, Found<'static>> {
    let parts = parts(body, boundary, true).ok_or_else(Found::unread)?;
    let mut fields = parts.iter().filter(|(name, _)| *name == wanted);
    match (fields.next(), fields.next()) {
        (None, _) => Err(Found::nothing()),
        (Some((_, Part::Text(text))), None) => Ok(text),
        _ => Err(Found::unread()),
    }
}

/// Every part with its name; none if the body is not read. Of a beginning, the parts that stand in it whole.
fn parts<'a>(body: &'a [u8], boundary: &str, whole: bool) -> Option<Vec<(&'a str, Part<'a>)>> {
    let delimiter = format!("--{boundary}");
    let finder = memmem::Finder::new(&delimiter);
    let mut list = Vec::new();
    let mut rest = match body.strip_prefix(delimiter.as_bytes()) {
        Some(rest) => rest,
        None if !whole && delimiter.as_bytes().starts_with(body) => return Some(list),
        None => return None,
    };
    loop {
        // Behind a delimiter: the end, or a part.
        if let Some(behind) = rest.strip_prefix(b"--") {
            return (matches!(behind, b"" | b"\r\n") || (!whole && behind == b"\r")).then_some(list);
        }
        let Some(part) = rest.strip_prefix(b"\r\n") else { return (!whole && rest.len() < 2).then_some(list) };
        let Some(end) = finder.find(part) else {
            return (!whole).then_some(list);
        };
        let content = part[..end].strip_suffix(b"\r\n")?;
        let (head, text) = match content.strip_prefix(b"\r\n") {
            Some(_) => return None,
            None => split(content)?,
        };
        if list.len() >= PARTS_MAX {
            return None;
        }
        list.push(read(head, text)?);
        rest = &part[end + delimiter.len()..];
    }
}

/// Head and text of a part, which an empty line parts.
fn split(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memmem::find(content, b"\r\n\r\n")?;
    Some((&content[..end], &content[end + 4..]))
}

/// Name and kind of a part; none if its head can be read in two ways.
fn read<'a>(head: &'a [u8], text: &'a [u8]) -> Option<(&'a str, Part<'a>)> {
    let head = std::str::from_utf8(head).ok()?;
    let (mut disposition, mut kind, mut encoding) = (None, None, None);
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(':')?;
        if name.is_empty() || !name.bytes().all(is_token) || value.contains(|c: char| c.is_control() && c != '\t') {
            return None;
        }
        let slot = match name.to_ascii_lowercase().as_str() {
            "content-disposition" => &mut disposition,
            "content-type" => &mut kind,
            "content-transfer-encoding" => &mut encoding,
            _ => continue,
        };
        if slot.replace(value.trim()).is_some() {
            return None;
        }
    }
    if !encoding.is_none_or(|encoding| ["7bit", "8bit", "binary"].iter().any(|known| known.eq_ignore_ascii_case(encoding))) {
        return None;
    }
    let (name, file) = disposed(disposition?)?;
    let part = match std::str::from_utf8(text) {
        _ if file => Part::File,
        Ok(text) if plain(kind)? => Part::Text(text),
        _ => Part::Unclear,
    };
    Some((name, part))
}

/// Name of a field, and whether it is a file, by its `Content-Disposition`.
fn disposed(value: &str) -> Option<(&str, bool)> {
    let (kind, rest) = value.split_once(';')?;
    if !kind.trim_end().eq_ignore_ascii_case("form-data") {
        return None;
    }
    let (mut name, mut file, mut starred) = (None, false, false);
    for Parameter { name: key, value, quoted } in parameters(rest)? {
        match key.to_ascii_lowercase().as_str() {
            // Some readers turn `%22` in a name into a quotation mark, and `_charset_` changes how they read all others.
            "name" if quoted && name.is_none() && !value.is_empty() && !value.contains('%') && value != "_charset_" => name = Some(value),
            "filename" if quoted && !file => file = true,
            "filename*" if !starred => starred = true,
            _ => return None,
        }
    }
    (file || !starred).then_some(())?;
    Some((name?, file))
}

/// Whether a field of this type is a text in UTF-8 to every reader; none if it is no single field.
fn plain(kind: Option<&str>) -> Option<bool> {
    let Some(kind) = kind else { return Some(true) };
    let (essence, rest) = kind.split_once(';').unwrap_or((kind, ""));
    let essence = essence.trim().to_ascii_lowercase();
    if essence.starts_with("multipart/") || essence.starts_with("message/") {
        return None;
    }
    let utf_8 = parameters(rest)?.iter().all(|parameter| {
        !parameter.name.eq_ignore_ascii_case("charset") || ["utf-8", "utf8"].iter().any(|known| known.eq_ignore_ascii_case(parameter.value))
    });
    Some(utf_8 && (essence == "text/plain" || essence == "application/json" || essence.ends_with("+json")))
}

/// A parameter: its name, its value without quotation marks, and whether it had any.
struct Parameter<'a> {
    name: &'a str,
    value: &'a str,
    quoted: bool,
}

/// The parameters behind a `;`, each `name=token` or `name="text"` without escapes; none if they are anything else.
fn parameters(text: &str) -> Option<Vec<Parameter<'_>>> {
    let mut list = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, behind) = rest.split_once('=')?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return None;
        }
        let (value, behind, quoted) = if let Some(quoted) = behind.strip_prefix('"') {
            let (value, behind) = quoted.split_once('"').filter(|(value, _)| !value.contains('\\'))?;
            (value, behind, true)
        } else {
            let end = behind.find(|c: char| !u8::try_from(c).is_ok_and(is_token)).unwrap_or(behind.len());
            let (value, behind) = (end > 0).then(|| behind.split_at(end))?;
            (value, behind, false)
        };
        list.push(Parameter { name, value, quoted });
        rest = behind.trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix(';')?.trim_start();
        }
    }
    Some(list)
}

/// A character of a token (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=xYz";

    fn found(body: &str, whole: bool) -> Found<'_> {
        values(body.as_bytes(), "xYz", "a", whole)
    }

    fn part(head: &str, text: &str) -> String {
        format!("--xYz\r\n{head}\r\n\r\n{text}\r\n")
    }

    fn field(name: &str, text: &str) -> String {
        part(&format!("Content-Disposition: form-data; name=\"{name}\""), text)
    }

    fn body(parts: &[String]) -> String {
        parts.concat() + "--xYz--\r\n"
    }

    #[test]
    fn fields_and_files_are_found_by_their_names() {
        let text = body(&[
            field("b", "no"),
            field("a", "1"),
            part("content-disposition:form-data;name=\"a\"\r\nContent-Type: text/plain; charset=utf-8", "2\r\n--xY\r\n3"),
            part("Content-Type: application/json\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: 8bit", "{}"),
            part("Content-Disposition: form-data; name=\"a\"; filename=\"x \u{e9}.png\"\r\nContent-Type: image/png", "\u{1}"),
            part("Content-Disposition: form-data; name=\"a\"; filename=\"x\"; filename*=utf-8''x", ""),
            part("Content-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; charset=iso-8859-1", "x"),
            part("Content-Disposition: form-data; name=\"a\"\r\nContent-Type: application/octet-stream", "x"),
            field("a", ""),
        ]);
        let values: Vec<Value<'_>> = found(&text, true).values.to_vec();
        let text = |text: &'static str| Value::Text(text.into());
        let unclear = Value::Unclear;
        assert_eq!(
            values,
            [text("1"), Value::Opaque, text("{}"), Value::Opaque, Value::Opaque, unclear.clone(), unclear, text("")],
            "a text of several lines has no text of its own"
        );
        assert!(!found(&body(&[field("b", "")]), true).open);
        assert_eq!(found("--xYz--", true), Found::nothing());
        assert_eq!(super::text(body(&[field("a", "{\r\n}")]).as_bytes(), "xYz", "a"), Ok("{\r\n}"));
    }

    #[test]
    fn a_body_that_can_be_read_in_two_ways_is_unread() {
        let good = field("a", "1");
        let disposed = |rest: &str| body(&[part(&format!("Content-Disposition: {rest}"), "1")]);
        let hostile = [
            String::new(),
            good.clone(),
            good.clone() + "--xYz",
            good.clone() + "--xYz-",
            good.clone() + "--xYz--\n",
            good.clone() + "--xYz--\r\nepilogue",
            good.clone() + "--xYz--\r\n\r\n",
            format!("preamble\r\n{}", body(std::slice::from_ref(&good))),
            format!("\r\n{}", body(std::slice::from_ref(&good))),
            body(std::slice::from_ref(&good)).replace("\r\n", "\n"),
            body(std::slice::from_ref(&good)).replace("--xYz\r\n", "--xYz \r\n"),
            body(std::slice::from_ref(&good)).replace("1\r\n", "1\n"),
            body(&[field("a", "1\n--xYz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n2")]),
            body(&[field("a", "--xYz")]),
            body(&[field("a", "1\r\n--xYzz")]),
            body(&["--xYz\r\n\r\n1\r\n".to_owned()]),
            body(&["--xYz\r\nContent-Disposition: form-data; name=\"a\"\r\n1\r\n".to_owned()]),
            body(&["--xYz\r\nContent-Disposition: form-data; name=\"a\"\n\n1\r\n".to_owned()]),
            body(&[part("Content-Type: text/plain", "1")]),
            body(&[part("Content-Disposition : form-data; name=\"a\"", "1")]),
            body(&[part("Content-Disposition: form-data;\r\n name=\"a\"", "1")]),
            body(&[part("Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"b\"", "1")]),
            body(&[part("Content-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain\r\nContent-Type: text/plain", "1")]),
            body(&[part("Content-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: base64", "MQ==")]),
            body(&[part("Content-Disposition: form-data; name=\"a\"\r\nContent-Type: multipart/mixed; boundary=n", "--n--")]),
            body(&[part("Content-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; charset=\"a\\\"b\"", "1")]),
            disposed("form-data"),
            disposed("attachment; name=\"a\""),
            disposed("form-data; name=\"a\"; name=\"b\""),
            disposed("form-data; name=\"a\"; NAME=\"b\""),
            disposed("form-data; name*=utf-8''a"),
            disposed("form-data; name=\"a\"; name*=utf-8''b"),
            disposed("form-data; name=\"a\"; filename=\"x\"; filename=\"y\""),
            disposed("form-data; name=\"a\"; filename*=utf-8''x"),
            disposed("form-data; name=\"a\\\"b\""),
            disposed("form-data; name=\"a%22\""),
            disposed("form-data; name=\"a"),
            disposed("form-data; name=a"),
            disposed("form-data; name=\"a\"; filename=x"),
            disposed("form-data; name=a\"b\""),
            disposed("form-data; name=\"a\" x"),
            disposed("form-data; name=\"a\"; x"),
            disposed("form-data; name=\"\""),
            disposed("form-data; name=\"_charset_\""),
            disposed("form-data; name=\"a\tb\u{7f}\""),
        ];
        for text in hostile {
            assert_eq!(found(&text, true), Found::unread(), "{text}");
        }
        assert_eq!(
            values(b"--xYz\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\n1\r\n--xYz--", "xYz", "a", true),
            Found::unread()
        );
        assert!(found(&body(&vec![good.clone(); PARTS_MAX + 1]), true).open);
        let twice = body(&[good.clone(), good]);
        assert_eq!(super::text(twice.as_bytes(), "xYz", "a"), Err(Found::unread()));
    }

    #[test]
    fn the_boundary_is_the_one_that_is_named_for_certain() {
        assert_eq!(boundary(TYPE), Some("xYz"));
        assert_eq!(boundary("multipart/form-data; charset=utf-8; Boundary=\"a b:c\""), Some("a b:c"));
        for text in [
            "multipart/form-data",
            "multipart/form-data;",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=a b",
            "multipart/form-data; boundary=\"a ",
            "multipart/form-data; boundary=\"a \"",
            "multipart/form-data; boundary=\"a\\\\b\"",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=\u{e9}",
            "multipart/form-data; boundary=a%b",
        ] {
            assert_eq!(boundary(text), None, "{text}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "a".repeat(71))), None);
    }

    #[test]
    fn of_a_beginning_the_parts_that_stand_in_it_whole_are_found() {
        let text = body(&[field("a", "1"), field("a", "2")]);
        let counts: Vec<(usize, bool)> =
            (0..=text.len()).map(|end| found(&text[..end], false)).map(|found| (found.values.len(), found.open)).collect();
        assert!(counts.iter().all(|(_, open)| *open));
        assert!(counts.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{counts:?}");
        assert_eq!((counts[0].0, counts[text.len()].0), (0, 2));
    }

    /// Bodies of random pieces: what is read is what cutting them at every delimiter gives.
    #[test]
    fn random_bodies_are_cut_where_the_boundary_stands_and_nowhere_else() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        let mut random = fastrand::Rng::with_seed(seed);
        let pieces = [
            "--xYz",
            "\r\n",
            "\n",
            "\r",
            "--",
            "x",
            "Content-Disposition: form-data; name=\"a\"",
            "name=\"a\"",
            "\"",
            ";",
            " ",
            "\r\n\r\n",
            "--xYz\r\n",
        ];
        let mut read = 0;
        for _ in 0..60_000 {
            let mut text = body(&[field("a", "1"), field("b", "2"), field("a", "3")]);
            for _ in 0..random.usize(0..3) {
                let at = random.usize(..=text.len());
                text.insert_str(at, pieces[random.usize(..pieces.len())]);
            }
            let found = found(&text, true);
            if found.open {
                continue;
            }
            read += 1;
            let inner =
                text.strip_prefix("--xYz\r\n").and_then(|rest| rest.strip_suffix("\r\n--xYz--\r\n").or(rest.strip_suffix("\r\n--xYz--")));
            let inner = inner.unwrap_or_else(|| panic!("seed {seed}: {text:?}"));
            let fields: Vec<&str> = inner
                .split("\r\n--xYz\r\n")
                .filter(|part| {
                    part.split("\r\n\r\n").next().is_some_and(|head| head.contains("Content-Disposition:") && head.contains("name=\"a\""))
                })
                .collect();
            assert_eq!(text.matches("--xYz").count(), inner.split("\r\n--xYz\r\n").count() + 1, "seed {seed}: {text:?}");
            assert_eq!(found.values.len(), fields.len(), "seed {seed}: {text:?}");
            for (value, part) in found.values.iter().zip(fields) {
                let content = part.split_once("\r\n\r\n").map(|(_, content)| content);
                assert!(*value == Value::Opaque || value.text().as_deref() == content, "seed {seed}: {text:?}");
            }
        }
        assert!(read > 1_000, "{read}");
    }
}
