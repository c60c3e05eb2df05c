//! `${NAME}` in any string takes an environment variable; what came from there is shown nowhere.

use crate::written::{At, Mistake, Mistakes, Node, Value};

/// A string that takes something from the environment.
#[derive(Debug)]
pub(super) struct Filled {
    /// The dotted name of the key whose value it is, or is part of.
    pub key: String,
    at: At,
    /// What was put in, and what stood there instead.
    taken: Vec<(String, String)>,
    /// Whether something in it could not be put in, so that its value means nothing.
    broken: bool,
}

/// Puts the environment into every string below `root`; a variable that is not set is a mistake.
pub(super) fn fill(root: &mut Node, environment: &dyn Fn(&str) -> Option<String>, mistakes: &Mistakes) -> Vec<Filled> {
    let mut filled = Vec::new();
    descend(root, "", environment, mistakes, &mut filled);
    filled
}

fn descend(node: &mut Node, key: &str, environment: &dyn Fn(&str) -> Option<String>, mistakes: &Mistakes, filled: &mut Vec<Filled>) {
    match &mut node.value {
        Value::Table(fields) => {
            for (name, field) in fields {
                let below = if key.is_empty() { name.name.clone() } else { format!("{key}.{}", name.name) };
                descend(field, &below, environment, mistakes, filled);
            }
        }
        Value::List(list) => {
            for item in list {
                descend(item, key, environment, mistakes, filled);
            }
        }
        Value::Text(text) if text.contains("${") => {
            let replaced = replace(text, &node.at, environment, mistakes);
            *text = replaced.text;
            filled.push(Filled { key: key.to_owned(), at: node.at.clone(), taken: replaced.taken, broken: replaced.broken });
        }
        _ => {}
    }
}

/// A text with every `${NAME}` replaced.
#[derive(Default)]
struct Replaced {
    text: String,
    taken: Vec<(String, String)>,
    broken: bool,
}

fn replace(text: &str, at: &At, environment: &dyn Fn(&str) -> Option<String>, mistakes: &Mistakes) -> Replaced {
    let mut replaced = Replaced::default();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        replaced.text.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            mistakes.error(at, "a `${` without its `}`", "write ${NAME} with the name of an environment variable");
            replaced.broken = true;
            return replaced;
        };
        let reference = format!("${{{name}}}");
        let here = narrow(at, &reference);
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let instead = "write ${NAME} with the name of an environment variable: letters, digits and _";
            mistakes.error(&here, format!("`{reference}` names no environment variable"), instead);
            replaced.broken = true;
        } else if let Some(value) = environment(name) {
            replaced.text.push_str(&value);
            replaced.taken.push((value, reference));
        } else {
            let what = format!("the environment variable `{name}` is not set");
            mistakes.error(&here, what, "set it for this process, or write the value here");
            replaced.broken = true;
        }
        rest = behind;
    }
    replaced.text.push_str(rest);
    replaced
}

/// The place of `part` inside a string, or the whole string where an escape hides it.
fn narrow(at: &At, part: &str) -> At {
    let offset = at.source.text.get(at.span.clone()).and_then(|written| written.find(part));
    offset.map_or_else(
        || at.clone(),
        |offset| {
            let start = at.span.start + offset;
            At { source: at.source.clone(), span: start..start + part.len() }
        },
    )
}

/// The mistake without what the environment gave; none if it speaks of a value that the environment failed to give.
pub(super) fn hide(mut mistake: Mistake, filled: &[Filled]) -> Option<Mistake> {
    let Some(at) = mistake.at.clone() else { return Some(mistake) };
    for filled in filled.iter().filter(|filled| filled.at.source == at.source && filled.at.span == at.span) {
        if filled.broken {
            return None;
        }
        for (value, reference) in filled.taken.iter().filter(|(value, _)| !value.is_empty()) {
            mistake.what = mistake.what.replace(value, reference);
            mistake.instead = mistake.instead.replace(value, reference);
        }
    }
    Some(mistake)
}
