//! Scopes as profiles write them, `doc:{json.file_id}`, and the scopes of a request that they make.

use std::{borrow::Cow, fmt, sync::Arc};

use super::{
    facts::{Facts, Looks, Probe},
    path::{self, Captures, Target},
    reply::Filled,
    selector::Selector,
    truth::Found,
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

impl<S> Template<S> {
    /// Its pieces, and whether it is a tree; none for everything.
    fn pieces(&self) -> Option<(&[Piece<S>], bool)> {
        match self {
            Self::All => None,
            Self::Plain(pieces) => Some((pieces, false)),
            Self::Tree(pieces) => Some((pieces, true)),
        }
    }

    /// Its selectors.
    pub fn selectors(&self) -> impl Iterator<Item = &S> {
        let pieces = self.pieces().map_or(&[][..], |(pieces, _)| pieces);
        pieces.iter().filter_map(|piece| match piece {
            Piece::Select(selector) => Some(selector),
            Piece::Literal(_) => None,
        })
    }
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
    pub fn prepare(&self, looks: &mut Looks) -> Template<Probe> {
        let mut prepare = |pieces: &[Piece<Selector>]| {
            pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Literal(text) => Piece::Literal(text.clone()),
                    Piece::Select(selector) => Piece::Select(Probe::new(selector.clone(), looks)),
                })
                .collect()
        };
        match self {
            Self::All => Template::All,
            Self::Plain(pieces) => Template::Plain(prepare(pieces)),
            Self::Tree(pieces) => Template::Tree(prepare(pieces)),
        }
    }

    /// Whether only the reply completes it.
    #[must_use]
    pub fn reads_reply(&self) -> bool {
        self.selectors().any(Selector::reads_reply)
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

/// A part of a scope that waits for the reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// What stands there already; one of these in each scope.
    Texts(Vec<String>),
    /// What the reply says.
    Reply(Selector),
}

/// The request that scopes are made of.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'r, 'f, 'c> {
    /// What it shows.
    pub facts: &'r Facts<'f>,
    /// What the names in its path matched.
    pub captures: &'r Captures<'c>,
    /// The profile's prefix.
    pub prefix: &'r [String],
}

/// The scopes that these templates make of a request, each once. Everything, if a selector finds nothing, finds what has no text, finds it
/// for some elements only, or may find more; and if there are more than `max`.
#[must_use]
pub fn scopes(templates: &[Template<Probe>], shown: Shown<'_, '_, '_>, max: usize) -> Vec<Scope> {
    let mut list: Vec<Scope> = Vec::with_capacity(templates.len());
    for template in templates {
        if add(template, shown, max, &mut list).is_none() {
            return vec![Scope::All];
        }
    }
    list
}

/// Adds the scopes of one template; none if that is everything.
fn add(template: &Template<Probe>, shown: Shown<'_, '_, '_>, max: usize, list: &mut Vec<Scope>) -> Option<()> {
    let (pieces, tree) = template.pieces()?;
    let mut texts = vec![String::new()];
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(literal) => texts.iter_mut().for_each(|text| text.push_str(literal)),
            Piece::Select(probe) => {
                let found = shown.facts.find(probe, shown.captures);
                let values = values(&probe.selector, &found, tree.then_some((shown.prefix, index == 0)), max)?;
                texts = cross(&texts, &values, max)?;
            }
        }
    }
    push(texts, tree, max, list)
}

/// The same templates with what the request shows filled in and what the reply says left open; none if what the request shows is not certain.
#[must_use]
pub fn fill(templates: &[Template<Probe>], shown: Shown<'_, '_, '_>, max: usize) -> Option<Vec<Filled>> {
    let fill = |template: &Template<Probe>| {
        let (pieces, tree) = template.pieces()?;
        let part = |(index, piece): (usize, &Piece<Probe>)| match piece {
            Piece::Literal(literal) => Some(Part::Texts(vec![literal.clone()])),
            Piece::Select(probe) if probe.selector.reads_reply() => Some(Part::Reply(probe.selector.clone())),
            Piece::Select(probe) => {
                let found = shown.facts.find(probe, shown.captures);
                let values = values(&probe.selector, &found, tree.then_some((shown.prefix, index == 0)), max)?;
                Some(Part::Texts(values.into_iter().map(Cow::into_owned).collect()))
            }
        };
        let parts = pieces.iter().enumerate().map(part).collect::<Option<_>>()?;
        Some(Filled { tree, parts })
    };
    templates.iter().map(fill).collect()
}

/// Adds the scopes that a reply completes, as `find` reads it; none if that is not certain.
pub fn complete(
    filled: &Filled,
    find: &dyn Fn(&Selector) -> Option<Found<'static>>,
    prefix: &[String],
    max: usize,
    list: &mut Vec<Scope>,
) -> Option<()> {
    let mut texts = vec![String::new()];
    for (index, part) in filled.parts.iter().enumerate() {
        match part {
            Part::Texts(values) => texts = cross(&texts, values, max)?,
            Part::Reply(selector) => {
                let found = find(selector)?;
                let values = values(selector, &found, filled.tree.then_some((prefix, index == 0)), max)?;
                texts = cross(&texts, &values, max)?;
            }
        }
    }
    push(texts, filled.tree, max, list)
}

/// The texts of what a selector found, each once; none if it is not certain that these are all, or if there are more than `max`. `tree` is
/// the prefix to take off where they stand in a tree, and whether the tree begins with them.
fn values<'f>(selector: &Selector, found: &'f Found<'_>, tree: Option<(&[String], bool)>, max: usize) -> Option<Vec<Cow<'f, str>>> {
    if found.open || found.gap || found.values.is_empty() {
        return None;
    }
    let mut values: Vec<Cow<'f, str>> = Vec::with_capacity(found.values.len());
    for value in &found.values {
        let text = value.text()?;
        let text = match tree {
            Some((prefix, first)) => Cow::Owned(tree_value(selector, &text, prefix, first)?),
            None => text,
        };
        if !values.contains(&text) {
            values.push(text);
        }
        if values.len() > max {
            return None;
        }
    }
    Some(values)
}

/// Each text with each value behind it; none if there are more than `max`.
fn cross<V: AsRef<str>>(texts: &[String], values: &[V], max: usize) -> Option<Vec<String>> {
    if texts.len() * values.len() > max {
        return None;
    }
    Some(texts.iter().flat_map(|text| values.iter().map(move |value| format!("{text}{}", value.as_ref()))).collect())
}

/// Adds the scopes of these texts, each once; none if one is in doubt, or if there are more than `max`.
fn push(texts: Vec<String>, tree: bool, max: usize, list: &mut Vec<Scope>) -> Option<()> {
    for text in texts {
        let scope = if tree { Scope::Tree(Arc::from(path::normalise(&text)?)) } else { Scope::Plain(Arc::from(text)) };
        if !list.contains(&scope) {
            list.push(scope);
        }
    }
    (list.len() <= max).then_some(())
}

/// A value as it stands in the path of a tree, which is decoded afterwards: what was taken from the request's own path is decoded already; any
/// other is read as a URL's path, and the prefix is taken off. A tree that begins with a relative path is in doubt: relative to what?
fn tree_value(selector: &Selector, text: &str, prefix: &[String], first: bool) -> Option<String> {
    if matches!(selector, Selector::Path | Selector::Capture(_) | Selector::HeaderPath(_)) {
        return Some(text.replace('%', "%25"));
    }
    let path = path::of_url(text);
    if !path.starts_with('/') {
        return (!first).then(|| path.to_owned());
    }
    if prefix.is_empty() {
        return Some(path.to_owned());
    }
    let name = path::normalise(path)?;
    let name = Target::parse(&name.replace('%', "%25"), prefix).map_or(name, |target| target.text());
    Some(name.replace('%', "%25"))
}
