//! The rules of the house, enforced by reading its sources: which module may import which (the table in `src/lib.rs`),
//! who may wait, lock or read the clock, and what no file may contain. Every rule has a test that shows it failing.
//!
//! The reader is a lexer of some 80 lines, not a parser: it knows comments, literals, words and marks. What stands under
//! `#[cfg(test)]` is left out, for tests may do as they like.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The stages of the path, in its order (which the alphabet keeps): a stage imports only stages before it.
const STAGES: [&str; 7] = ["accept", "classify", "fresh", "gate", "origin", "report", "tune"];

/// Parts of the path's own function, beside `flow/mod.rs` and like it above the stages.
const PATH: [&str; 4] = ["background", "shared", "surviving", "tracked"];

/// Who may await, lock and read the clock, besides every `shell.rs`: a file, or a folder with all that is in it.
const SHELLS: [&str; 10] =
    ["main.rs", "clock.rs", "wire", "store", "flow/mod.rs", "flow/accept", "flow/origin", "flow/report", "ops", "app"];

/// Layer 6 stands outside of the proxy: it plays its clients and its app.
const LAB: &str = "lab";

/// Whose business it is to print.
const PRINTERS: [&str; 4] = ["main.rs", "app.rs", "ops", LAB];

/// The one file that declares metrics.
const METRICS: &str = "flow/report/metrics.rs";

/// What begins like a metric and is none: the mark of the state file.
const NO_METRIC: &str = "tidegate_state";

/// The most lines of a file before its tests.
const LINES_MAX: usize = 600;

#[test]
fn the_house_keeps_its_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = read(&root.join("src"), &["rs"]);
    assert!(sources.iter().any(|source| source.path == "lib.rs"), "no sources found under {}", root.display());
    let mut found = violations(&sources);
    for folder in ["tests", "benches"] {
        for source in read(&root.join(folder), &["rs"]) {
            found.extend(head(&source).map(|problem| format!("{folder}/{problem}")));
        }
    }
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_dependency_is_used_and_has_its_reason_in_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |name: &str| fs::read_to_string(root.join(name)).expect("a file of this project");
    let found = dependencies(&text("Cargo.toml"), &text("README.md"), &read(&root.join("src"), &["rs"]));
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn alerts_speak_of_declared_metrics_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |name: &str| fs::read_to_string(root.join(name)).expect("a file of this project");
    let found = undeclared(&text("config/alerts.yml"), &text(&format!("src/{METRICS}")));
    assert!(found.is_empty(), "not declared in {METRICS}: {found:?}");
}

// ---------------------------------------------------------------------------------------------------------- reading

/// A file below `src`, by its path there.
struct Source {
    path: String,
    text: String,
}

/// All files below `folder` with one of these extensions, by path; none if there is no such folder.
fn read(folder: &Path, extensions: &[&str]) -> Vec<Source> {
    let mut open = vec![folder.to_path_buf()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
                files.push(path);
            }
        }
    }
    files.sort();
    let source = |file: PathBuf| {
        let path = file.strip_prefix(folder).expect("a file below its folder").to_string_lossy().replace('\\', "/");
        Source { path, text: fs::read_to_string(file).expect("a source in UTF-8") }
    };
    files.into_iter().map(source).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An identifier or keyword.
    Word,
    /// What stands between the quotes of a string.
    Text,
    /// Anything else: one character, `::`, or a number.
    Mark,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    text: String,
    line: usize,
}

/// Words, strings and marks; comments, characters and lifetimes are dropped.
fn lex(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let wordy = |character: char| character.is_alphanumeric() || character == '_';
    let (mut tokens, mut line, mut index) = (Vec::new(), 1, 0);
    while index < chars.len() {
        let start = index;
        let here = line;
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < chars.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(index), at(index + 1)) {
                        ('/', '*') => (depth, index) = (depth + 1, index + 2),
                        ('*', '/') => (depth, index) = (depth - 1, index + 2),
                        _ => index += 1,
                    }
                    if depth == 0 || index >= chars.len() {
                        break;
                    }
                }
            }
            '"' => {
                index += 1;
                while index < chars.len() && at(index) != '"' {
                    index += if at(index) == '\\' { 2 } else { 1 };
                }
                let end = index.min(chars.len());
                tokens.push(Token { kind: Kind::Text, text: chars[start + 1..end].iter().collect(), line: here });
                index = end + 1;
            }
            '\'' if at(index + 1) == '\\' => {
                index += 3;
                while index < chars.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            '\'' if at(index + 2) == '\'' => index += 3,
            '\'' => {
                index += 1;
                while wordy(at(index)) {
                    index += 1;
                }
            }
            first if wordy(first) => {
                while wordy(at(index)) {
                    index += 1;
                }
                let word: String = chars[start..index].iter().collect();
                let hashes = chars[index..].iter().take_while(|character| **character == '#').count();
                if matches!(word.as_str(), "r" | "br" | "cr") && at(index + hashes) == '"' {
                    let body = index + hashes + 1;
                    let closes = |end: usize| at(end) == '"' && (1..=hashes).all(|offset| at(end + offset) == '#');
                    let end = (body..chars.len()).find(|end| closes(*end)).unwrap_or(chars.len());
                    tokens.push(Token { kind: Kind::Text, text: chars[body.min(end)..end].iter().collect(), line: here });
                    index = end + 1 + hashes;
                } else {
                    let kind = if first.is_numeric() { Kind::Mark } else { Kind::Word };
                    tokens.push(Token { kind, text: word, line: here });
                }
            }
            ':' if at(index + 1) == ':' => {
                tokens.push(Token { kind: Kind::Mark, text: "::".into(), line: here });
                index += 2;
            }
            mark => {
                if !mark.is_whitespace() {
                    tokens.push(Token { kind: Kind::Mark, text: mark.into(), line: here });
                }
                index += 1;
            }
        }
        line += chars[start..index.min(chars.len())].iter().filter(|character| **character == '\n').count();
    }
    tokens
}

/// What the rules look at: a file's tokens without its tests.
struct File<'a> {
    path: &'a str,
    /// Where it stands: `flow/gate/shell.rs` is `flow`, `gate`, `shell`; `lib.rs` and `main.rs` are the root.
    module: Vec<String>,
    tokens: Vec<Token>,
    /// The line on which its tests begin, or one past its last.
    tests_from: usize,
}

/// Removes every item under `#[cfg(test)]`; files that belong to a `#[cfg(test)] mod name;` are removed whole.
fn files(sources: &[Source]) -> Vec<File<'_>> {
    let mut tests = BTreeSet::new();
    let mut files = Vec::new();
    for Source { path, text } in sources {
        let mut module: Vec<String> = path.trim_end_matches(".rs").split('/').map(String::from).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        let mut file = File { path, module, tokens: Vec::new(), tests_from: text.lines().count() + 1 };
        let tokens = lex(text);
        let mut index = 0;
        while index < tokens.len() {
            if !spells(&tokens[index..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
                file.tokens.push(tokens[index].clone());
                index += 1;
                continue;
            }
            let end = end_of_item(&tokens, index + 7);
            let item = &tokens[index + 7..end];
            if let Some(name) = item.iter().position(|token| token.text == "mod").and_then(|place| item.get(place + 1)) {
                file.tests_from = file.tests_from.min(tokens[index].line);
                tests.insert([file.module.as_slice(), std::slice::from_ref(&name.text)].concat());
            }
            index = end;
        }
        files.push(file);
    }
    files.retain(|file| !tests.iter().any(|test| file.module.starts_with(test)));
    files
}

/// Where the item that begins at `from` ends: after its `;`, or after its closing brace.
fn end_of_item(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(from).filter(|(_, token)| token.kind == Kind::Mark) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token.text == "}" {
                    // `use a::{b};` goes on to its semicolon.
                    return index + 1 + usize::from(tokens.get(index + 1).is_some_and(|next| next.text == ";"));
                }
            }
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Whether the tokens begin with these words and marks.
fn spells(tokens: &[Token], wanted: &[&str]) -> bool {
    tokens.len() >= wanted.len() && wanted.iter().zip(tokens).all(|(wanted, token)| token.kind != Kind::Text && token.text == *wanted)
}

// ------------------------------------------------------------------------------------------------------------ rules

/// Every breach of every rule, as `path:line: what`.
fn violations(sources: &[Source]) -> Vec<String> {
    let table = sources.iter().find(|source| source.path == "lib.rs").map_or_else(Vec::new, |source| layers(&source.text));
    let mut found: Vec<String> = sources.iter().filter_map(head).collect();
    for file in files(sources) {
        let mut report = |line: usize, what: String| found.push(format!("{}:{line}: {what}", file.path));
        if file.tests_from > LINES_MAX + 1 {
            report(LINES_MAX, format!("{} lines before its tests; {LINES_MAX} are the most", file.tests_from - 1));
        }
        let paths = paths(&file);
        imports(&file, &paths, &table, &mut report);
        purity(&file, &paths, &mut report);
        for index in 0..file.tokens.len() {
            house(&file, index, &mut report);
        }
    }
    found
}

/// Every file says what lives in it.
fn head(source: &Source) -> Option<String> {
    (!source.text.starts_with("//! ")).then(|| format!("{}:1: does not begin with `//! ` and what lives here", source.path))
}

/// The table at the head of `lib.rs`, lowest layer first.
fn layers(lib: &str) -> Vec<Vec<String>> {
    let row = |line: &str| {
        let (number, modules) = line.strip_prefix("//! | ")?.split_once(" | ")?;
        number.parse::<usize>().ok()?;
        Some(modules.split('`').skip(1).step_by(2).map(String::from).collect())
    };
    lib.lines().filter_map(row).collect()
}

/// Modules import lower layers only; stages of the path, earlier stages only.
fn imports(file: &File, paths: &[(usize, Vec<String>)], table: &[Vec<String>], report: &mut dyn FnMut(usize, String)) {
    let Some(own) = file.module.first() else { return };
    let place = |top: &str| table.iter().enumerate().find_map(|(layer, row)| Some((layer, row.iter().position(|name| name == top)?)));
    let Some(from) = place(own) else {
        return report(1, format!("`{own}` does not stand in the table of lib.rs"));
    };
    for (line, path) in paths {
        let line = *line;
        let Some(top) = path.first() else { continue };
        match place(top) {
            None => report(line, format!("`crate::{top}` does not stand in the table of lib.rs")),
            Some(_) if top == own && own == "flow" => {
                if let Err(what) = stage(&file.module, path) {
                    report(line, what);
                }
            }
            Some(_) if top == own => {}
            // In the lowest layer the table's order is the order of imports; in the others neighbours do not meet.
            Some(to) if to.0 < from.0 || (to.0 == 0 && from.0 == 0 && to.1 < from.1) => {}
            Some(to) => report(line, format!("`{own}` (layer {}) imports `{}` (layer {})", from.0, path.join("::"), to.0)),
        }
    }
}

/// Whether this place inside `flow` may import that one.
fn stage(own: &[String], path: &[String]) -> Result<(), String> {
    let index = |name: Option<&String>| name.and_then(|name| STAGES.iter().position(|stage| stage == name));
    let Some(name) = own.get(1) else { return Ok(()) };
    if PATH.contains(&name.as_str()) {
        return Ok(());
    }
    let Some(from) = index(Some(name)) else {
        return Err(format!("`flow::{name}` is no stage of the path"));
    };
    match index(path.get(1)) {
        Some(to) if to <= from => Ok(()),
        Some(_) => Err(format!("the stage `{name}` imports the later `{}`", path.join("::"))),
        None => Err(format!("the stage `{name}` imports `{}`, which stands above the stages", path.join("::"))),
    }
}

/// All paths from `crate::`, `super::` and `self::`, groups unfolded, as seen from the crate's root.
fn paths(file: &File) -> Vec<(usize, Vec<String>)> {
    let tokens = &file.tokens;
    let mut found = Vec::new();
    // Modules inside this file, with the depth of their braces.
    let mut inner: Vec<(usize, String)> = Vec::new();
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate() {
        let next = tokens.get(index + 1).map(|token| token.text.as_str());
        match (token.kind, token.text.as_str()) {
            (Kind::Mark, "{") => {
                depth += 1;
                if index >= 2 && spells(&tokens[index - 2..], &["mod"]) {
                    inner.push((depth, tokens[index - 1].text.clone()));
                }
            }
            (Kind::Mark, "}") => {
                inner.retain(|(opened, _)| *opened != depth);
                depth -= 1;
            }
            (Kind::Word, "crate" | "super" | "self") if next == Some("::") && (index == 0 || tokens[index - 1].text != "::") => {
                let mut base: Vec<String> = file.module.iter().chain(inner.iter().map(|(_, name)| name)).cloned().collect();
                let mut rest = index;
                while matches!(tokens[rest].text.as_str(), "crate" | "super" | "self") && tokens[rest + 1].text == "::" {
                    match tokens[rest].text.as_str() {
                        "crate" => base.clear(),
                        "super" => base.truncate(base.len().saturating_sub(1)),
                        _ => {}
                    }
                    rest += 2;
                }
                unfold(tokens, &mut rest, &base, &mut found);
            }
            _ => {}
        }
    }
    found
}

/// Follows one path, or a braced group of them, from `index`; leaves `index` behind it.
fn unfold(tokens: &[Token], index: &mut usize, base: &[String], found: &mut Vec<(usize, Vec<String>)>) {
    let line = tokens.get(*index).map_or(0, |token| token.line);
    let mut path = base.to_vec();
    while let Some(token) = tokens.get(*index) {
        match (token.kind, token.text.as_str()) {
            (Kind::Word, "self") => *index += 1,
            (Kind::Word, "super") => {
                path.pop();
                *index += 1;
            }
            (Kind::Word, name) => {
                path.push(name.into());
                *index += 1;
            }
            (Kind::Mark, "{") => {
                *index += 1;
                while tokens.get(*index).is_some_and(|token| token.text != "}") {
                    unfold(tokens, index, &path, found);
                    // To the next of the group: over `as name` and the comma.
                    while tokens.get(*index).is_some_and(|token| token.text != "," && token.text != "}") {
                        *index += 1;
                    }
                    *index += usize::from(tokens.get(*index).is_some_and(|token| token.text == ","));
                }
                *index += 1;
                return;
            }
            _ => break,
        }
        if tokens.get(*index).is_none_or(|token| token.text != "::") {
            break;
        }
        *index += 1;
    }
    found.push((line, path));
}

/// Whether a path is one of these files or lies in one of these folders (a trailing part of a name counts as a file's stem).
fn within(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path == *place || path.strip_prefix(place).is_some_and(|rest| rest.starts_with(['/', '.', '_'])))
}

/// Decisions neither wait nor lock nor read the clock; and nobody but `clock.rs` reads it in any other way than by asking that.
fn purity(file: &File, paths: &[(usize, Vec<String>)], report: &mut dyn FnMut(usize, String)) {
    let path = file.module.first().is_some_and(|top| top == "flow") && file.module.get(1).is_some_and(|name| PATH.contains(&name.as_str()));
    let shell = path || within(file.path, &SHELLS) || within(file.path, &[LAB]) || file.path.rsplit('/').next() == Some("shell.rs");
    for (line, path) in paths.iter().filter(|_| !shell) {
        if path.first().is_some_and(|top| top == "clock") && path.get(1).is_some_and(|name| asks(name)) {
            report(*line, format!("reads the clock (`{}`) outside of a shell", path.join("::")));
        }
    }
    for (index, token) in file.tokens.iter().enumerate().filter(|(_, token)| token.kind == Kind::Word) {
        let rest = &file.tokens[index..];
        let before = |mark: &str| index > 0 && file.tokens[index - 1].text == mark;
        let word = token.text.as_str();
        if file.path != "clock.rs" && (spells(rest, &["Instant", "::", "now"]) || spells(rest, &["SystemTime", "::", "now"])) {
            report(token.line, format!("`{word}::now`: only clock.rs reads time"));
        }
        if shell {
            continue;
        }
        let asked = word == "clock" && spells(&rest[1..], &["::"]) && rest.get(2).is_some_and(|name| asks(&name.text)) && !before("::");
        match word {
            "async" | "await" | "tokio" => report(token.line, format!("`{word}`: waits outside of a shell")),
            "Mutex" | "RwLock" | "Condvar" | "DashMap" => report(token.line, format!("`{word}`: locks outside of a shell")),
            "lock" if before(".") => report(token.line, "`.lock()`: locks outside of a shell".into()),
            // `type Instant = ..` names a trait's own notion of time and reads none.
            "Instant" | "SystemTime" if !before("type") => report(token.line, format!("`{word}`: decisions take a `Moment`")),
            "clock" if asked => report(token.line, "reads the clock outside of a shell".into()),
            _ => {}
        }
    }
}

/// The questions of `clock.rs` that tell the time.
fn asks(name: &str) -> bool {
    matches!(name, "now" | "wall" | "boot" | "since_epoch")
}

/// What no file may contain, looked for at one token.
fn house(file: &File, index: usize, report: &mut dyn FnMut(usize, String)) {
    let rest = &file.tokens[index..];
    let Token { kind, text, line } = &rest[0];
    let next = rest.get(1).map_or("", |token| token.text.as_str());
    let before = index.checked_sub(1).map_or("", |index| file.tokens[index].text.as_str());
    let mut report = |what: &str| report(*line, what.into());
    if *kind == Kind::Text {
        let rest = text.strip_prefix("tidegate_").unwrap_or_default();
        let elsewhere = file.path != METRICS && !within(file.path, &[LAB]) && text != NO_METRIC;
        if elsewhere && rest.contains(|first: char| first.is_ascii_lowercase()) {
            report(&format!("\"{text}\": names of metrics stand in {METRICS} only"));
        }
        return;
    }
    match text.as_str() {
        "todo" | "unimplemented" if next == "!" => report(&format!("`{text}!`")),
        "unwrap" if before == "." => report("`.unwrap()` outside of tests"),
        "unsafe" => report("`unsafe`"),
        "allow" if next == "(" && matches!(before, "[" | ",") => report("`allow(..)`: use `expect(.., reason = \"..\")`"),
        "expect" if next == "(" && matches!(before, "[" | ",") => {
            let end = rest.iter().position(|token| token.text == "]").unwrap_or(rest.len());
            if !rest[..end].iter().any(|token| token.text == "reason") {
                report("`expect(..)` without a reason");
            }
        }
        "println" | "print" | "eprintln" | "eprint" if next == "!" && !within(file.path, &PRINTERS) => {
            report(&format!("`{text}!`: only commands print"));
        }
        "mpsc" if spells(rest, &["mpsc", "::", "channel"]) && spells(after_turbofish(&rest[3..]), &["(", ")"]) => {
            report("an unbounded channel");
        }
        "Opts" | "HistogramOpts" if file.path != METRICS => report(&format!("`{text}`: metrics are declared in {METRICS} only")),
        word if word.starts_with("unbounded") || word.starts_with("Unbounded") => report("an unbounded channel"),
        _ => {}
    }
}

/// What follows `::<..>`, if that is how the tokens begin.
fn after_turbofish(tokens: &[Token]) -> &[Token] {
    if !spells(tokens, &["::", "<"]) {
        return tokens;
    }
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "<" => depth += 1,
            ">" if depth == 1 => return &tokens[index + 1..],
            ">" => depth -= 1,
            _ => {}
        }
    }
    &[]
}

/// A dependency is used, and the README's table (`| name | why |`) says what for; the table names nothing else.
fn dependencies(manifest: &str, readme: &str, sources: &[Source]) -> Vec<String> {
    let section = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1).take_while(|line| !line.starts_with('['));
    let wanted: BTreeSet<&str> = section.filter_map(|line| line.split_once(" =")).map(|(name, _)| name).collect();
    let rows = readme.lines().skip_while(|line| *line != "| crate | why |").skip(2).take_while(|line| line.starts_with("| "));
    let named: BTreeSet<&str> = rows.filter_map(|line| line.split(" | ").next()?.strip_prefix("| ")).collect();
    let words: BTreeSet<String> = sources.iter().flat_map(|source| lex(&source.text)).map(|token| token.text).collect();
    let unused = wanted.iter().filter(|name| !words.contains(&name.replace('-', "_"))).map(|name| format!("{name} is not used"));
    let unnamed = wanted.difference(&named).map(|name| format!("{name} has no row in the README's table of dependencies"));
    let gone = named.difference(&wanted).map(|name| format!("the README gives a reason for {name}, which is no dependency"));
    unused.chain(unnamed).chain(gone).collect()
}

/// Names of metrics in this text that the source does not declare; a histogram's parts count as the histogram.
fn undeclared(text: &str, source: &str) -> Vec<String> {
    let declared: BTreeSet<String> = lex(source).into_iter().filter(|token| token.kind == Kind::Text).map(|token| token.text).collect();
    let names =
        text.split(|character: char| !character.is_ascii_lowercase() && character != '_').filter(|name| name.starts_with("tidegate_"));
    let known = |name: &str| {
        declared.contains(name)
            || ["_bucket", "_count", "_sum"].iter().any(|part| name.strip_suffix(part).is_some_and(|base| declared.contains(base)))
    };
    names.filter(|name| !known(name)).map(String::from).collect()
}

// --------------------------------------------------------------------------------------------- the rules can be broken

/// A small house: the table, and one file with this text below its head.
fn house_with(path: &str, text: &str) -> Vec<String> {
    let lib = "//! A house.\n//!\n//! | layer | modules |\n//! | --- | --- |\n//! | 0 | `model` `clock` `units` `wire` |\n\
               //! | 1 | `config` `profile` |\n//! | 2 | `store` |\n//! | 3 | `flow` |\n//! | 4 | `ops` |\n//! | 5 | `app` |\n//! | 6 | `lab` |\n";
    let text = format!("//! A room.\n{text}");
    violations(&[Source { path: "lib.rs".into(), text: lib.into() }, Source { path: path.into(), text }])
}

#[track_caller]
fn refused(path: &str, text: &str, what: &str) {
    let found = house_with(path, text);
    assert!(found.len() == 1 && found[0].contains(what), "{path}: {text}\nshould be refused once, for {what}, but: {found:#?}");
    assert!(found[0].starts_with(path), "{found:#?}");
}

#[track_caller]
fn passes(path: &str, text: &str) {
    let found = house_with(path, text);
    assert!(found.is_empty(), "{path}: {text}\nshould pass, but: {found:#?}");
}

#[test]
fn a_module_that_imports_a_higher_layer_is_found() {
    refused("model.rs", "use crate::flow::gate;", "`model` (layer 0) imports `flow::gate` (layer 3)");
    refused("config/file.rs", "use crate::{model::Class, ops::reload};", "imports `ops::reload`");
    refused("config/file.rs", "fn f() -> crate::app::App { x }", "imports `app::App`");
    refused("config/file.rs", "use super::super::flow;", "imports `flow`");
    refused("flow/gate/mod.rs", "use crate::{model::{self, Class as Kind}, lab::{demo}};", "imports `lab::demo`");
    refused("ops/mod.rs", "pub(crate) use crate::app::{self};", "imports `app`");
    passes("flow/gate/mod.rs", "use crate::{clock::Moment, config::Settings, profile::{Cost, Effect}};");
    passes("lab/demo.rs", "use crate::{app::App, flow::gate, ops::state};");
    passes("model.rs", "/// As [`crate::flow`] says.\n// use crate::flow;\nconst NAME: &str = \"crate::flow::gate\";");
}

#[test]
fn neighbours_of_one_layer_do_not_meet_above_the_lowest() {
    refused("config/mod.rs", "use crate::profile::Cost;", "`config` (layer 1) imports `profile::Cost` (layer 1)");
    refused("profile/mod.rs", "use crate::config::Settings;", "`profile` (layer 1) imports");
    refused("clock.rs", "use crate::units;", "`clock` (layer 0) imports `units` (layer 0)");
    passes("units.rs", "use crate::{clock::Moment, model::Class};");
    passes("config/file.rs", "use crate::config::settings; use super::settings::App;");
}

#[test]
fn a_module_that_is_in_no_layer_is_found() {
    refused("helpers.rs", "", "`helpers` does not stand in the table");
    refused("ops/mod.rs", "use crate::helpers::help;", "`crate::helpers` does not stand in the table");
}

#[test]
fn a_stage_that_imports_a_later_one_is_found() {
    refused("flow/classify/mod.rs", "use crate::flow::gate::Gate;", "the stage `classify` imports the later `flow::gate::Gate`");
    refused("flow/classify/mod.rs", "use super::gate::Gate;", "imports the later");
    refused("flow/gate/queue.rs", "use super::super::report;", "imports the later");
    refused("flow/gate/queue.rs", "use crate::flow::{classify, origin::Reply};", "imports the later `flow::origin::Reply`");
    refused("flow/gate/queue.rs", "use crate::flow::Flow;", "which stands above the stages");
    refused("flow/helpers.rs", "use super::gate::Gate;", "`flow::helpers` is no stage");
    refused("flow/gate/queue.rs", "use crate::flow::tracked::Tracked;", "which stands above the stages");
    passes("flow/tracked.rs", "use super::{accept, report::Report}; async fn f() {}");
    passes("flow/gate/queue.rs", "use super::{buckets, schedule::{self, Seat}}; use crate::flow::classify::documents::Known;");
    passes("flow/mod.rs", "use self::{gate::Gate, report::Report}; use crate::flow::tune;");
}

#[test]
fn modules_inside_a_file_are_seen_from_where_they_stand() {
    passes("flow/gate/mod.rs", "mod inner { use super::Seat; }\nuse super::classify;");
    refused("flow/gate/mod.rs", "mod inner { use super::super::report; }", "imports the later `flow::report`");
}

#[test]
fn a_decision_that_waits_is_found() {
    refused("flow/gate/queue.rs", "async fn f() {}", "`async`: waits");
    refused("flow/classify/mod.rs", "fn f() { x.await; }", "`await`: waits");
    refused("flow/gate/buckets.rs", "fn f() { tokio::spawn(x); }", "`tokio`: waits");
    for shell in ["flow/gate/shell.rs", "flow/classify/shell.rs", "flow/accept/mod.rs", "flow/origin/pool.rs", "flow/mod.rs", "wire.rs"] {
        passes(shell, "async fn f() { g().await; tokio::spawn(h); }");
    }
}

#[test]
fn a_decision_that_locks_is_found() {
    refused("flow/gate/queue.rs", "struct S { inner: Mutex<u8> }", "`Mutex`: locks");
    refused("profile/mod.rs", "struct S { inner: RwLock<u8> }", "`RwLock`: locks");
    refused("flow/gate/queue.rs", "fn f() { self.inner.lock(); }", "`.lock()`: locks");
    passes("flow/gate/buckets/shell.rs", "struct S { inner: Mutex<u8> }");
    passes("flow/classify/documents/shell.rs", "fn f() { self.inner.lock(); }");
    passes("flow/gate/queue.rs", "fn f(lock: u8) {}");
}

#[test]
fn a_decision_that_reads_the_clock_is_found() {
    refused("flow/gate/queue.rs", "use crate::clock; fn f() { clock::now(); }", "reads the clock");
    refused("flow/gate/queue.rs", "use crate::{clock::{self, now}};", "reads the clock");
    refused("flow/gate/queue.rs", "fn f() { crate::clock::now(); }", "reads the clock");
    refused("flow/gate/queue.rs", "use std::time::{Duration, Instant};", "`Instant`: decisions take a `Moment`");
    refused("profile/mod.rs", "fn f(at: SystemTime) {}", "`SystemTime`: decisions take a `Moment`");
    passes("flow/gate/buckets.rs", "impl Clock for At { type Instant = Nanos; }");
    passes("flow/gate/queue.rs", "use crate::clock::Moment; fn f(now: Moment) { now.since(now); }");
    passes("flow/gate/shell.rs", "fn f() { crate::clock::now(); }");
}

#[test]
fn time_that_is_not_read_by_the_clock_is_found() {
    refused("flow/gate/shell.rs", "fn f() { std::time::Instant::now(); }", "only clock.rs reads time");
    refused("lab/demo.rs", "fn f() { SystemTime::now(); }", "only clock.rs reads time");
    refused("ops/mod.rs", "fn f() { tokio::time::Instant::now(); }", "only clock.rs reads time");
    passes("clock.rs", "fn f() { Instant::now(); SystemTime::now(); }");
}

#[test]
fn what_no_file_may_contain_is_found() {
    refused("model.rs", "fn f() { todo!() }", "`todo!`");
    refused("model.rs", "fn f() { x.unwrap(); }", "`.unwrap()`");
    refused("lab/demo.rs", "fn f() { x\n.unwrap(); }", "`.unwrap()`");
    refused("model.rs", "unsafe fn f() {}", "`unsafe`");
    refused("model.rs", "#[allow(dead_code)]\nfn f() {}", "`allow(..)`");
    refused("model.rs", "#![allow(dead_code)]", "`allow(..)`");
    refused("model.rs", "#[cfg_attr(windows, allow(dead_code))]\nfn f() {}", "`allow(..)`");
    refused("model.rs", "#[expect(dead_code)]\nfn f() {}", "without a reason");
    passes("model.rs", "#[expect(dead_code, reason = \"it is\")]\nfn f() { x.unwrap_or(1); y.expect(\"cannot fail\"); allow(1); }");
    passes(
        "model.rs",
        "const A: &str = \"todo!() .unwrap() unsafe\"; const B: &str = r#\"a \" unsafe\"#; const C: char = '\"'; /* unsafe /* */ unsafe */",
    );
}

#[test]
fn an_unbounded_channel_is_found() {
    refused("ops/mod.rs", "fn f() { tokio::sync::mpsc::unbounded_channel(); }", "unbounded");
    refused("ops/mod.rs", "fn f() { std::sync::mpsc::channel(); }", "unbounded");
    refused("ops/mod.rs", "fn f() { mpsc::channel::<Vec<u8>>(); }", "unbounded");
    passes("ops/mod.rs", "fn f() { mpsc::channel::<Vec<u8>>(8); oneshot::channel(); mpsc::channel(8); }");
}

#[test]
fn who_may_not_print_is_found_printing() {
    refused("flow/mod.rs", "fn f() { println!(\"x\"); }", "only commands print");
    refused("config/mod.rs", "fn f() { eprintln!(\"x\"); }", "only commands print");
    passes("main.rs", "fn f() { println!(\"x\"); }");
    passes("ops/check.rs", "fn f() { println!(\"x\"); }");
}

#[test]
fn a_metric_declared_elsewhere_is_found() {
    refused("ops/mod.rs", "fn f() { counter(\"tidegate_requests_total\"); }", "names of metrics");
    refused("ops/mod.rs", "fn f() { prometheus::Opts::new(name, help); }", "metrics are declared in");
    passes("flow/report/metrics.rs", "fn f() { prometheus::Opts::new(\"tidegate_requests_total\", help); }");
}

#[test]
fn a_file_without_a_head_is_found() {
    let found = violations(&[Source { path: "lib.rs".into(), text: "use std::fs;\n".into() }]);
    assert!(found.len() == 1 && found[0].contains("does not begin with"), "{found:#?}");
}

#[test]
fn a_file_that_is_too_long_before_its_tests_is_found() {
    let lines = |count: usize| "const A: u8 = 1;\n".repeat(count);
    refused("model.rs", &lines(LINES_MAX), "601 lines before its tests");
    passes("model.rs", &lines(LINES_MAX - 1));
    passes("model.rs", &format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(LINES_MAX - 1), lines(500)));
}

#[test]
fn tests_may_do_as_they_like() {
    passes("model.rs", "#[cfg(test)]\nmod tests { use crate::lab; fn f() { x.unwrap(); todo!(); async {}; } }");
    passes("model.rs", "#[cfg(test)]\nuse crate::lab::{self, demo};\n#[cfg(test)]\nfn f(a: [u8; 2]) { x.unwrap() }");
    refused("model.rs", "#[cfg(test)]\nmod tests { use crate::lab; }\nfn g() { x.unwrap(); }", "`.unwrap()`");
    refused("model.rs", "#[cfg(test)]\nuse crate::lab::{self, demo};\nfn g() { x.unwrap(); }", "`.unwrap()`");
    let whole = [("model.rs", "//! A.\n#[cfg(test)]\nmod oracle;"), ("model/oracle.rs", "//! A.\nfn f() { x.unwrap() }")];
    let sources: Vec<Source> = whole.iter().map(|(path, text)| Source { path: (*path).into(), text: (*text).into() }).collect();
    assert!(!violations(&sources).iter().any(|found| found.contains("unwrap")));
}

#[test]
fn a_dependency_without_use_or_reason_is_found() {
    let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nhttp = \"1\"\nhttp-body = { version = \"1\" }\n\n[dev-dependencies]\ntempfile = \"3\"\n";
    let readme = "# x\n\n| crate | why |\n| --- | --- |\n| http | a |\n| tower | b |\n\n| other | table |\n";
    let sources = [Source { path: "lib.rs".into(), text: "//! A.\nuse http_body::Body;\n".into() }];
    let found = dependencies(manifest, readme, &sources);
    assert_eq!(found.len(), 3, "{found:#?}");
    for what in ["http is not used", "http-body has no row", "a reason for tower"] {
        assert!(found.iter().any(|line| line.contains(what)), "{found:#?}");
    }
}

#[test]
fn an_alert_on_a_metric_that_does_not_exist_is_found() {
    let source = "//! A.\nconst A: &str = \"tidegate_wait_seconds\"; // \"tidegate_gone\"\n";
    assert_eq!(
        undeclared("rate(tidegate_wait_seconds_bucket{le=\"1\"}[5m]) > tidegate_gone + tidegate_wait_seconds", source),
        ["tidegate_gone"]
    );
}
