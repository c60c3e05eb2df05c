//! What is kept of documents over a restart, and its form: JSON with a version, one short text per document.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KINDS, Kind, cost::Average, stripe::Document};
use crate::{
    clock::Moment,
    model::{Class, Classes, DocumentKey},
};

const VERSION: u32 = 1;

/// The most documents that are kept: some 4 MB of text.
pub(super) const SAVED_MAX: usize = 100_000;

/// Everything that is kept.
pub(super) struct Saved {
    /// The key of the keyed hash: without it, document keys mean nothing.
    pub(super) secret: [u64; 2],
    pub(super) documents: Vec<Document>,
}

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    /// 32 hexadecimal digits.
    secret: String,
    /// The names of classes, by the numbers in the rows.
    classes: Vec<String>,
    /// `KEY CLASS TIME REPLY`: 16 hexadecimal digits, a number, and per kind the cost (microseconds, bytes) with a `!` if it is dear, or `-`.
    documents: Vec<String>,
}

/// As JSON.
pub(super) fn format(saved: &Saved, classes: &Classes) -> Value {
    let mut documents = Vec::with_capacity(saved.documents.len());
    for document in &saved.documents {
        let mut row = format!("{:016x} {}", document.key.0, document.class.0);
        for kind in KINDS {
            let average = document.average(kind);
            let mark = if average.is_marked() { "!" } else { "" };
            match average.cost() {
                Some(cost) => _ = write!(row, " {cost:.0}{mark}"),
                None => row.push_str(" -"),
            }
        }
        documents.push(row);
    }
    let form = Form {
        version: VERSION,
        secret: format!("{:016x}{:016x}", saved.secret[0], saved.secret[1]),
        classes: classes.iter().map(|(_, name)| name.to_owned()).collect(),
        documents,
    };
    serde_json::to_value(form).unwrap_or(Value::Null)
}

/// From JSON; `None` if anything in it cannot be understood. A class that is no more becomes the first one: it matters for counting only.
pub(super) fn parse(saved: &Value, classes: &Classes, now: Moment) -> Option<Saved> {
    let form = Form::deserialize(saved).ok()?;
    if form.version != VERSION || form.secret.len() != 32 || form.documents.len() > SAVED_MAX {
        return None;
    }
    let secret = [hexadecimal(form.secret.get(..16)?)?, hexadecimal(form.secret.get(16..)?)?];
    let names: Vec<Class> = form.classes.iter().map(|name| classes.find(name).unwrap_or(Class(0))).collect();
    let documents = form.documents.iter().map(|row| document(row, &names, now)).collect::<Option<_>>()?;
    Some(Saved { secret, documents })
}

fn hexadecimal(text: &str) -> Option<u64> {
    (text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| u64::from_str_radix(text, 16).ok())?
}

fn document(row: &str, classes: &[Class], now: Moment) -> Option<Document> {
    let mut words = row.split(' ');
    let key = hexadecimal(words.next()?)?;
    let class = *classes.get(words.next()?.parse::<usize>().ok()?)?;
    let mut document = Document::new(DocumentKey(key), class);
    for kind in [Kind::Time, Kind::Reply] {
        *document.average_mut(kind) = average(words.next()?, now)?;
    }
    let known = KINDS.iter().any(|kind| document.average(*kind).cost().is_some());
    (known && words.next().is_none()).then_some(document)
}

fn average(word: &str, now: Moment) -> Option<Average> {
    if word == "-" {
        return Some(Average::NONE);
    }
    let (cost, dear) = word.strip_suffix('!').map_or((word, false), |cost| (cost, true));
    let digits = !cost.is_empty() && cost.len() <= 20 && cost.bytes().all(|byte| byte.is_ascii_digit());
    let cost: f32 = cost.parse().ok().filter(|_| digits)?;
    Some(Average::restored(cost, dear, now))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(value: &Value) -> Option<Saved> {
        parse(value, &Classes::shipped(), Moment(0))
    }

    fn rows(rows: &[&str]) -> Value {
        json!({"version": 1, "secret": "0123456789abcdef0123456789ABCDEF", "classes": ["noop", "gone"], "documents": rows})
    }

    #[test]
    fn what_is_written_reads_back() {
        let value = rows(&["00000000000000ff 0 25000! -", "0000000000000001 1 - 1000000", "0000000000000002 0 0 7!"]);
        let saved = parsed(&value).expect("valid");
        assert_eq!(saved.secret, [0x0123_4567_89ab_cdef; 2]);
        assert_eq!(saved.documents.len(), 3);
        assert!(saved.documents[0].is_marked() && !saved.documents[1].is_marked() && saved.documents[2].is_marked());
        assert_eq!(saved.documents[0].average(Kind::Time).cost(), Some(25_000.0));
        let again = parsed(&format(&saved, &Classes::shipped())).expect("valid");
        assert_eq!(again.documents, saved.documents);
        assert_eq!(again.secret, saved.secret);
    }

    #[test]
    fn what_cannot_be_understood_is_not_taken() {
        for row in [
            "",
            "00000000000000ff",
            "00000000000000ff 0 1",
            "00000000000000ff 0 1 - 1",
            "00000000000000ff 0 - -",
            "00000000000000ff 2 1 -",
            "00000000000000ff -1 1 -",
            "ff 0 1 -",
            "+0000000000000ff 0 1 -",
            "00000000000000ff 0 NaN -",
            "00000000000000ff 0 -1 -",
            "00000000000000ff 0 1e9 -",
            "00000000000000ff 0 ! -",
            "00000000000000ff 0 999999999999999999999 -",
            "ééééééééé 0 1 -",
        ] {
            assert!(parsed(&rows(&[row])).is_none(), "{row:?}");
        }
        assert!(parsed(&rows(&[])).is_some());
        for (field, wrong) in [
            ("version", json!(2)),
            ("secret", json!("12")),
            ("secret", json!("é".repeat(16))),
            ("documents", json!({})),
            ("classes", json!([1])),
        ] {
            let mut value = rows(&[]);
            value[field] = wrong;
            assert!(parsed(&value).is_none(), "{value}");
        }
        for wrong in [json!(null), json!([]), json!("x"), json!({})] {
            assert!(parsed(&wrong).is_none());
        }
    }
}
