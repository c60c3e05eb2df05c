//! Single keys laid over a file by flags: `--set KEY=VALUE`, and the flags that stand for a key of their own.

use std::sync::Arc;

use crate::written::{self, At, Key, Mistakes, Node, Source, Value};

/// One key with its value, and the flag that said it.
#[derive(Clone, Debug)]
pub struct Set {
    root: Node,
}

impl Set {
    /// Reads `KEY=VALUE`: a dotted key, and a TOML value, else a string (`gate.linger=5s` needs no quotation marks).
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(argument: &str) -> Result<Self, String> {
        const FORM: &str = "write KEY=VALUE, such as app.seats=32";
        let (key, value) = argument.split_once('=').ok_or(FORM)?;
        let source = Arc::new(Source { name: format!("--set {argument}"), text: argument.to_owned() });
        // A value of several lines could hold further keys, so it is a string.
        if !value.contains('\n')
            && let Some(root) = parsed(&source)
        {
            return Ok(Self { root });
        }
        let scratch = Arc::new(Source { name: source.name.clone(), text: format!("{key}=''") });
        let mut root = parsed(&scratch).ok_or_else(|| format!("`{key}` is no dotted key; {FORM}"))?;
        let span = key.len() + 1..argument.len();
        fill(&mut root, &source, &Node { value: Value::Text(value.to_owned()), at: At { source: Arc::clone(&source), span } });
        Ok(Self { root })
    }

    /// A flag that stands for a key: `Set::flag("--app", "app.servers", "127.0.0.1:3000")`. The value is a string as it stands.
    #[must_use]
    pub fn flag(flag: &str, key: &str, value: &str) -> Self {
        let source = Arc::new(Source { name: flag.to_owned(), text: value.to_owned() });
        let at = At { source: Arc::clone(&source), span: 0..value.len() };
        let mut root = Node { value: Value::Text(value.to_owned()), at: at.clone() };
        for segment in key.rsplit('.') {
            let key = Key { name: segment.to_owned(), at: at.clone() };
            root = Node { value: Value::Table(vec![(key, root)]), at: at.clone() };
        }
        Self { root }
    }

    /// Lays it over a file.
    pub(super) fn lay_over(&self, base: &mut Node) {
        written::lay_over(base, self.root.clone());
    }
}

/// The text as TOML, if it is free of mistakes.
fn parsed(source: &Arc<Source>) -> Option<Node> {
    let mistakes = Mistakes::default();
    let root = written::parse(source, &mistakes);
    (!mistakes.any_error()).then_some(root)
}

/// Moves a tree of one key into another source and gives the key its value.
fn fill(node: &mut Node, source: &Arc<Source>, leaf: &Node) {
    if let Value::Table(fields) = &mut node.value {
        node.at.source = Arc::clone(source);
        for (key, field) in fields {
            key.at.source = Arc::clone(source);
            fill(field, source, leaf);
        }
    } else {
        *node = leaf.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leaf of a tree of one key, with the path to it.
    fn leaf(set: &Set) -> (String, Node) {
        let mut path = Vec::new();
        let mut node = set.root.clone();
        while let Value::Table(fields) = &node.value {
            let (key, next) = fields.first().expect("one key").clone();
            path.push(key.name);
            node = next;
        }
        (path.join("."), node)
    }

    #[test]
    fn a_value_is_toml_or_else_a_string() {
        for (argument, path, wanted) in [
            ("app.seats=32", "app.seats", "Integer(32)"),
            ("app.seats = 32", "app.seats", "Integer(32)"),
            ("gate.linger=5s", "gate.linger", "Text(\"5s\")"),
            ("gate.linger=\"5s\"", "gate.linger", "Text(\"5s\")"),
            ("class.a-b.closed=true", "class.a-b.closed", "Flag(true)"),
            ("listen.address=127.0.0.1:8080", "listen.address", "Text(\"127.0.0.1:8080\")"),
            ("profile=", "profile", "Text(\"\")"),
            ("profile=a=b", "profile", "Text(\"a=b\")"),
            ("profile='a'\nlisten.x=1", "profile", "Text(\"'a'\\nlisten.x=1\")"),
        ] {
            let (key, node) = leaf(&Set::parse(argument).expect(argument));
            assert_eq!((key.as_str(), format!("{:?}", node.value).as_str()), (path, wanted), "{argument}");
            assert_eq!(node.at.source.text, argument);
        }
        for wrong in ["app.seats", "=3", "a b=3", "[app]=3", "a..b=3", ""] {
            assert!(Set::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_flag_is_a_string_as_it_stands() {
        let (key, node) = leaf(&Set::flag("--app", "app.servers", "3000"));
        assert_eq!((key.as_str(), format!("{:?}", node.value).as_str()), ("app.servers", "Text(\"3000\")"));
        assert_eq!(node.at.to_string(), "--app:1:1");
    }
}
