//! Scopes as profiles write them, `doc:{json.file_id}`, and the scopes of a request that they make.

use std::{borrow::Cow, fmt, sync::Arc};

use super::{
    facts::{Facts, Probe},
    json::Paths,
    path::{self, Captures, Target},
    selector::Selector,
};
use crate::model::Scope;

/// A part of a scope's text.
#[derive(Clone, Debug)]
pub enum Piece<S> {
    /// As it stands.
    Literal(String),
    /// What a selector finds.
    Select(S),
}

/// A scope as written.
#[derive(Clone, Debug)]
pub enum Template<S> {
    /// `"*"`
    All,
    /// `kind` or `kind:text{selector}...`
    Plain(Vec<Piece<S>>),
    /// `tree:text{selector}...`
    Tree(Vec<Piece<S>>),
}

impl Template<Selector> {
    /// Reads a scope.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write \"*\", \"kind\", \"kind:text{selector}\" or \"tree:{path}\"";
        if text == "*" {
            return Ok(Self::All);
        }
        let (kind, body) = text.split_once(':').map_or((text, None), |(kind, body)| (kind, Some(body)));
        if kind.is_empty() || !kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            return Err(FORM.to_owned());
        }
        let mut pieces = Vec::new();
        let mut rest = body.unwrap_or_default();
        while !rest.is_empty() {
            let (literal, selector) = rest.split_once('{').map_or((rest, None), |(literal, selector)| (literal, Some(selector)));
            if literal.contains('}') || literal.chars().any(char::is_control) {
                return Err(FORM.to_owned());
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            rest = "";
            if let Some(selector) = selector {
                let (selector, behind) = selector.split_once('}').ok_or("close the brace")?;
                pieces.push(Piece::Select(Selector::parse(selector)?));
                rest = behind;
            }
        }
        if kind == "tree" {
            return match pieces.first() {
                None => Err("write tree:{path}, or tree: and a path".to_owned()),
                Some(Piece::Literal(text)) if !text.starts_with('/') => Err("begin the path of a tree with a slash".to_owned()),
                Some(_) => Ok(Self::Tree(pieces)),
            };
        }
        if body == Some("") {
            return Err(FORM.to_owned());
        }
        let start = if body.is_some() { format!("{kind}:") } else { kind.to_owned() };
        pieces.insert(0, Piece::Literal(start));
        Ok(Self::Plain(pieces))
    }

    /// The same with its selectors ready to be looked up.
    #[must_use]
    pub fn prepare(&self, paths: &mut Paths) -> Template<Probe> {
        let mut prepare = |pieces: &[Piece<Selector>]| {
            pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Literal(text) => Piece::Literal(text.clone()),
                    Piece::Select(selector) => Piece::Select(Probe::new(selector.clone(), paths)),
                })
                .collect()
        };
        match self {
            Self::All => Template::All,
            Self::Plain(pieces) => Template::Plain(prepare(pieces)),
            Self::Tree(pieces) => Template::Tree(prepare(pieces)),
        }
    }

    /// Its selectors.
    pub fn selectors(&self) -> impl Iterator<Item = &Selector> {
        let pieces = match self {
            Self::All => &[][..],
            Self::Plain(pieces) | Self::Tree(pieces) => pieces,
        };
        pieces.iter().filter_map(|piece| match piece {
            Piece::Select(selector) => Some(selector),
            Piece::Literal(_) => None,
        })
    }

    /// What stands before the colon; `*` for everything.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Tree(_) => "tree",
            Self::Plain(pieces) => match pieces.first() {
                Some(Piece::Literal(text)) => text.split(':').next().unwrap_or(text),
                _ => "",
            },
        }
    }
}

impl fmt::Display for Template<Selector> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces = match self {
            Self::All => return formatter.write_str("*"),
            Self::Plain(pieces) => pieces,
            Self::Tree(pieces) => {
                formatter.write_str("tree:")?;
                pieces
            }
        };
        for piece in pieces {
            match piece {
                Piece::Literal(text) => formatter.write_str(text)?,
                Piece::Select(selector) => write!(formatter, "{{{selector}}}")?,
            }
        }
        Ok(())
    }
}

/// The scopes that these templates make of a request, each once. Everything, if a selector finds nothing, finds what has no text, finds it
/// for some elements only, or may find more; and if there are more than `max`.
#[must_use]
pub fn scopes(templates: &[Template<Probe>], facts: &Facts<'_>, captures: &Captures<'_>, prefix: &[String], max: usize) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = Vec::with_capacity(templates.len());
    for template in templates {
        let (pieces, tree) = match template {
            Template::All => return vec![Scope::All],
            Template::Plain(pieces) => (pieces, false),
            Template::Tree(pieces) => (pieces, true),
        };
        let Some(texts) = texts(pieces, facts, captures, tree.then_some(prefix), max) else { return vec![Scope::All] };
        for text in texts {
            let scope = if tree {
                let Some(name) = path::normalise(&text) else { return vec![Scope::All] };
                Scope::Tree(Arc::from(name))
            } else {
                Scope::Plain(Arc::from(text))
            };
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        if scopes.len() > max {
            return vec![Scope::All];
        }
    }
    scopes
}

/// Every text that the pieces make; none if it is not certain that these are all, or if there are more than `max`. `tree` is the prefix to
/// take off where the text is that of a tree.
fn texts(pieces: &[Piece<Probe>], facts: &Facts<'_>, captures: &Captures<'_>, tree: Option<&[String]>, max: usize) -> Option<Vec<String>> {
    let mut texts = vec![String::new()];
    for piece in pieces {
        match piece {
            Piece::Literal(literal) => texts.iter_mut().for_each(|text| text.push_str(literal)),
            Piece::Select(probe) => {
                let found = facts.find(probe, captures);
                if found.open || found.gap || found.values.is_empty() {
                    return None;
                }
                let mut values: Vec<Cow<'_, str>> = Vec::with_capacity(found.values.len());
                for value in &found.values {
                    let text = value.text()?;
                    let text = match tree {
                        Some(prefix) => Cow::Owned(tree_value(&probe.selector, &text, prefix)?),
                        None => text,
                    };
                    if !values.contains(&text) {
                        values.push(text);
                    }
                    if values.len() > max {
                        return None;
                    }
                }
                if texts.len() * values.len() > max {
                    return None;
                }
                texts = texts.iter().flat_map(|text| values.iter().map(move |value| format!("{text}{value}"))).collect();
            }
        }
    }
    Some(texts)
}

/// A value as it stands in the path of a tree, which is decoded afterwards: what was taken from the request's own path is decoded already; any
/// other is read as a URL's path, and the prefix is taken off.
fn tree_value(selector: &Selector, text: &str, prefix: &[String]) -> Option<String> {
    if matches!(selector, Selector::Path | Selector::Capture(_) | Selector::HeaderPath(_)) {
        return Some(text.replace('%', "%25"));
    }
    let path = path::of_url(text);
    if prefix.is_empty() || !path.starts_with('/') {
        return Some(path.to_owned());
    }
    let name = path::normalise(path)?;
    let name = Target::parse(&name.replace('%', "%25"), prefix).map_or(name, |target| target.text());
    Some(name.replace('%', "%25"))
}
