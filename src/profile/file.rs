//! A profile as it was written: every key read and checked by itself, each with its place.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{
    Cost, StreamKind,
    answer::{self, Answer},
    path::Pattern,
    scope::Template,
    selector::Selector,
    truth::{Test, usable},
};
use crate::{
    units,
    written::{At, Mistakes, Node, Source, Table, Value, parse, suggestion},
};

/// Something with its place.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// What stands there.
    pub value: T,
    /// Where.
    pub at: At,
}

/// Scopes as written.
pub type Scopes = Vec<Placed<Template<Selector>>>;

/// A response of ours as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Its status; absent: the one that it would have anyway.
    pub status: Option<StatusCode>,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, with `{retry_after}`, `{class}`, `{rule}` and `{id}` in it.
    pub body: String,
}

/// A whole profile.
#[derive(Debug, Default)]
pub struct File {
    /// `name`
    pub name: Option<String>,
    /// `prefix`, its segments.
    pub prefix: Option<Vec<String>>,
    /// `extends`
    pub extends: Option<Placed<String>>,
    /// `credential`
    pub credential: Option<Vec<Placed<Selector>>>,
    /// `client`
    pub client: Option<Vec<Placed<Selector>>>,
    /// `denied`
    pub denied: Option<Vec<(Selector, Test)>>,
    /// `anonymous`
    pub anonymous: Option<bool>,
    /// `ignore_headers`
    pub ignore_headers: Option<Vec<String>>,
    /// `class`
    pub class: Option<Placed<String>>,
    /// `unmatched.class`
    pub unmatched: Option<Placed<String>>,
    /// `failure`
    pub failure: Option<Shape>,
    /// `reject`
    pub reject: Option<Shape>,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[[example]]`
    pub examples: Vec<Example>,
}

/// One `[[route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where it stands.
    pub at: At,
    /// Its name.
    pub name: String,
    /// Its methods; none: any.
    pub methods: Vec<Method>,
    /// Its paths; none: any.
    pub paths: Vec<Pattern>,
    /// Tables of tests, any of which must hold; none: no test.
    pub when: Vec<Vec<Placed<(Selector, Test)>>>,
    /// `body_over`, in bytes.
    pub body_over: Option<u64>,
    /// `class`
    pub class: Option<Placed<String>>,
    /// `long`
    pub long: Option<Placed<String>>,
    /// `cost`
    pub cost: Cost,
    /// `stream`
    pub stream: Option<StreamKind>,
    /// `reads`
    pub reads: Option<Scopes>,
    /// `writes`
    pub writes: Option<Scopes>,
    /// `pending`
    pub pending: Option<Scopes>,
    /// `answer`
    pub answer: Option<Answer>,
}

impl Route {
    /// Every scope that it names.
    pub fn scopes(&self) -> impl Iterator<Item = &Placed<Template<Selector>>> {
        self.reads.iter().chain(&self.writes).chain(&self.pending).flatten()
    }
}

/// One `[[example]]`.
#[derive(Clone, Debug)]
pub struct Example {
    /// `request`: the method and the target.
    pub request: Placed<String>,
    /// `headers`
    pub headers: HeaderMap,
    /// `body`, or what `body_file` holds.
    pub body: Vec<u8>,
    /// `expect.route`
    pub route: Option<Placed<String>>,
    /// `expect.client`
    pub client: Option<Placed<String>>,
    /// `expect.class`
    pub class: Option<Placed<String>>,
    /// `expect.reads`
    pub reads: Option<Placed<Vec<String>>>,
    /// `expect.writes`
    pub writes: Option<Placed<Vec<String>>>,
    /// `expect.effect`
    pub effect: Option<Placed<String>>,
}

impl File {
    /// Reads a profile; what is wrong with it goes to `mistakes`.
    #[must_use]
    pub fn read(source: &Arc<Source>, mistakes: &Mistakes) -> Self {
        let node = parse(source, mistakes);
        let Some(table) = Table::of(&node, "", mistakes) else { return Self::default() };
        let mut file = Self {
            name: table.text("name").map(str::to_owned),
            prefix: table.parsed("prefix", prefix),
            extends: placed(&table, "extends"),
            credential: selectors(&table, "credential", Selector::cannot_tell_who),
            client: selectors(&table, "client", Selector::cannot_tell_who),
            denied: reply_tests(&table, "denied"),
            anonymous: table.flag("anonymous"),
            ignore_headers: answer::header_names(&table, "ignore_headers"),
            class: placed(&table, "class"),
            unmatched: table.table("unmatched").and_then(|unmatched| {
                let class = placed(&unmatched, "class");
                unmatched.finish();
                class
            }),
            failure: shape(&table, "failure", false),
            reject: shape(&table, "reject", true),
            ..Self::default()
        };
        if file.name.is_none() {
            mistakes.error(table.key_at("name"), "a profile needs a name", "write name = \"myservice\"");
        }
        for route in table.tables("route") {
            file.routes.push(read_route(&route));
        }
        for example in table.tables("example") {
            file.examples.extend(read_example(&example, source));
        }
        table.finish();
        file
    }
}

fn prefix(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let bad = text.contains(['%', '{', '}', '?', '#']) || text.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    match text.strip_prefix('/') {
        Some(rest) if !bad => Ok(rest.split('/').map(str::to_owned).collect()),
        _ => Err("write a path without a slash at its end, such as \"/couch\", or \"\"".to_owned()),
    }
}

fn placed(table: &Table<'_>, key: &str) -> Option<Placed<String>> {
    let value = table.text(key)?.to_owned();
    Some(Placed { value, at: table.node(key)?.at.clone() })
}

fn selectors(table: &Table<'_>, key: &str, refuse: impl Fn(&Selector) -> Option<String>) -> Option<Vec<Placed<Selector>>> {
    let texts = table.texts(key)?;
    let read = texts.into_iter().filter_map(|(text, at)| {
        match Selector::parse(text).and_then(|selector| refuse(&selector).map_or(Ok(selector), Err)) {
            Ok(selector) => Some(Placed { value: selector, at: at.clone() }),
            Err(instead) => {
                table.mistakes.error(at, format!("`{}` cannot be \"{text}\"", table.name_of(key)), instead);
                None
            }
        }
    });
    Some(read.collect())
}

/// A table of tests on the reply.
pub fn reply_tests(table: &Table<'_>, key: &str) -> Option<Vec<(Selector, Test)>> {
    let tests = tests_of(&table.table(key)?);
    let mut list = Vec::new();
    for Placed { value: (selector, test), at } in tests {
        if selector.reads_reply() {
            list.push((selector, test));
        } else {
            table.mistakes.error(
                &at,
                format!("`{}` asks of the reply, not of the request", table.name_of(key)),
                "write reply.json.PATH or reply.header.NAME",
            );
        }
    }
    Some(list)
}

/// Every key a selector, every value a test.
fn tests_of(table: &Table<'_>) -> Vec<Placed<(Selector, Test)>> {
    let mut tests = Vec::new();
    for (key, node) in table.entries() {
        let selector = match Selector::parse(&key.name) {
            Ok(selector) => selector,
            Err(mut instead) => {
                if let Value::Table(_) = node.value {
                    instead = format!("put a selector that has dots in quotation marks, such as \"{}.NAME\"", key.name);
                }
                table.mistakes.error(&key.at, format!("`{}` is no selector", key.name), instead);
                continue;
            }
        };
        if let Some(test) = test_of(node, table.mistakes) {
            tests.push(Placed { value: (selector, test), at: key.at.clone() });
        }
    }
    tests
}

const TESTS: &str =
    "write \"present\", \"absent\", \"empty\", \"nonempty\", a list of values, { glob = \"x*\" }, { over = 50 } or { not = ... }";

fn test_of(node: &Node, mistakes: &Mistakes) -> Option<Test> {
    match &node.value {
        Value::Text(word) => match word.as_str() {
            "present" => Some(Test::Present),
            "absent" => Some(Test::Not(Box::new(Test::Present))),
            "empty" => Some(Test::Empty),
            "nonempty" => Some(Test::Not(Box::new(Test::Empty))),
            _ => {
                mistakes.error(&node.at, format!("there is no test \"{word}\""), format!("{TESTS}; one value is a list too: [\"{word}\"]"));
                None
            }
        },
        Value::List(list) if !list.is_empty() => {
            let words: Vec<String> = list.iter().filter_map(|item| word_of(item, mistakes)).collect();
            (words.len() == list.len()).then_some(Test::AnyOf(words))
        }
        Value::Table(fields) if fields.len() == 1 => {
            let table = Table::of(node, "test", mistakes)?;
            let test = if let Some(inner) = table.node("not") {
                test_of(inner, mistakes).map(|test| Test::Not(Box::new(test)))
            } else if table.node("over").is_some() {
                table.number("over", -9e15..=9e15).map(Test::Over)
            } else {
                table.node("glob").and_then(|_| table.text("glob")).map(|pattern| Test::Glob(pattern.to_owned()))
            };
            table.finish();
            test
        }
        other => {
            mistakes.error(&node.at, format!("a test cannot be {} like this", other.kind()), TESTS);
            None
        }
    }
}

fn word_of(item: &Node, mistakes: &Mistakes) -> Option<String> {
    match &item.value {
        Value::Text(text) if usable(text) => return Some(text.clone()),
        Value::Integer(number) if number.unsigned_abs() < 1 << 53 => return Some(number.to_string()),
        Value::Flag(flag) => return Some(flag.to_string()),
        Value::Text(_) => {
            mistakes.error(&item.at, "no value with control characters or more than 1 KiB is ever equal to anything", "shorten it");
        }
        other => mistakes.error(
            &item.at,
            format!("{} cannot be compared for certain", other.kind()),
            "write strings, whole numbers below 2^53, true or false",
        ),
    }
    None
}

fn read_route(table: &Table<'_>) -> Route {
    let mistakes = table.mistakes;
    let name = table.text("name").map(str::to_owned);
    if name.is_none() {
        mistakes.error(table.at, "a route needs a name", "write name = \"what it is for\"");
    }
    let answer_node = table.node("answer");
    let route = Route {
        at: table.at.clone(),
        name: name.unwrap_or_default(),
        methods: methods(table),
        paths: patterns(table),
        when: when(table),
        body_over: table.parsed("body_over", units::bytes),
        class: placed(table, "class"),
        long: placed(table, "long"),
        cost: table.choice("cost", &[("app", Cost::App), ("database", Cost::Database), ("reply", Cost::Reply)]).unwrap_or(Cost::App),
        stream: table
            .choice("stream", &[("longpoll", StreamKind::LongPoll), ("sse", StreamKind::Events), ("websocket", StreamKind::WebSocket)]),
        reads: templates(table, "reads", false),
        writes: templates(table, "writes", true),
        pending: templates(table, "pending", false),
        answer: answer_node.and_then(|_| table.table("answer")).map(|answer| Answer::read(&answer)),
    };
    table.finish();
    check_effects(&route, table);
    check_captures(&route, mistakes);
    route
}

fn check_effects(route: &Route, table: &Table<'_>) {
    let mistakes = table.mistakes;
    if route.pending.is_some() && !route.writes.iter().flatten().any(|scope| scope.value.reads_reply()) {
        mistakes.error(
            table.key_at("pending"),
            "`pending` is for a write whose documents only its reply names",
            "remove it, or write writes = [\"doc:{reply.json.id}\"]",
        );
    }
    if route.stream.is_some() && route.writes.iter().flatten().any(|scope| scope.value.reads_reply()) {
        mistakes.error(
            table.key_at("stream"),
            "the reply of a stream is never read, and nothing would be answered while it is open",
            "name what it writes by its request, or write writes = [\"*\"]",
        );
    }
    if route.answer.is_none() {
        return;
    }
    let at = table.key_at("answer");
    if route.reads.as_ref().is_none_or(Vec::is_empty) {
        mistakes.error(at, "a poll must say what it reads", "add reads = [\"...\"], or remove `answer`");
    }
    if route.writes.as_ref().is_some_and(|writes| !writes.is_empty()) {
        mistakes.error(table.key_at("writes"), "a poll must not write", "remove `writes`, or `answer`");
    }
    if route.stream.is_some() {
        mistakes.error(table.key_at("stream"), "a stream cannot be answered", "remove `stream`, or `answer`");
    }
}

/// Every `path.NAME` must be a name in each of the route's paths.
fn check_captures(route: &Route, mistakes: &Mistakes) {
    let check = |selector: &Selector, at: &At| {
        if let Selector::Capture(name) = selector
            && (route.paths.is_empty() || !route.paths.iter().all(|path| path.names(name)))
        {
            mistakes.error(at, format!("`path.{name}` names nothing in every path of this route"), format!("write {{{name}}} in its path"));
        }
    };
    for test in route.when.iter().flatten() {
        check(&test.value.0, &test.at);
    }
    for scope in route.scopes() {
        scope.value.selectors().for_each(|selector| check(selector, &scope.at));
    }
}

fn methods(table: &Table<'_>) -> Vec<Method> {
    let mut methods = Vec::new();
    for (text, at) in table.texts("method").unwrap_or_default() {
        let upper = text.to_ascii_uppercase();
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if text == upper => methods.push(method),
            _ => table.mistakes.error(at, format!("there is no method \"{text}\""), format!("write \"{upper}\"")),
        }
    }
    methods
}

fn patterns(table: &Table<'_>) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for (text, at) in table.texts("path").unwrap_or_default() {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(instead) => table.mistakes.error(at, format!("`{}` cannot be \"{text}\"", table.name_of("path")), instead),
        }
    }
    patterns
}

fn when(table: &Table<'_>) -> Vec<Vec<Placed<(Selector, Test)>>> {
    let Some(node) = table.node("when") else { return Vec::new() };
    let name = table.name_of("when");
    let nodes = match &node.value {
        Value::List(list) => list.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let tables: Vec<_> =
        nodes.iter().filter_map(|node| Table::of(node, name.clone(), table.mistakes)).map(|table| tests_of(&table)).collect();
    for node in nodes {
        if matches!(&node.value, Value::Table(tests) if tests.is_empty()) {
            table.mistakes.error(&node.at, "a table without tests always holds", "remove `when`, or write a test");
        }
    }
    for test in tables.iter().flatten().filter(|test| test.value.0.reads_reply()) {
        table.mistakes.error(&test.at, "a route is chosen before there is a reply", "test the request");
    }
    tables
}

fn templates(table: &Table<'_>, key: &str, reply: bool) -> Option<Scopes> {
    let mut templates = Vec::new();
    for (text, at) in table.texts(key)? {
        match Template::parse(text) {
            Ok(template) if !reply && template.reads_reply() => {
                table.mistakes.error(at, format!("`{}` is known before there is a reply", table.name_of(key)), "name it by the request");
            }
            Ok(template) => templates.push(Placed { value: template, at: at.clone() }),
            Err(instead) => table.mistakes.error(at, format!("`{}` cannot be \"{text}\"", table.name_of(key)), instead),
        }
    }
    Some(templates)
}

/// Headers that a shape may not set: they frame the message, or are always set by the caller.
const SET_ELSEWHERE: [&str; 6] = ["content-length", "transfer-encoding", "connection", "retry-after", "cache-control", "date"];

/// The words that a body knows.
pub const WORDS: [&str; 4] = ["retry_after", "class", "rule", "id"];

fn shape(table: &Table<'_>, key: &str, reject: bool) -> Option<Shape> {
    let table = table.table(key)?;
    let status = if reject {
        table.integer("status", 200..=599).and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok())
    } else {
        None
    };
    let mut headers = HeaderMap::new();
    if let Some(entries) = table.table("headers") {
        for (name, node) in entries.entries() {
            let Value::Text(text) = &node.value else {
                table.mistakes.error(
                    &node.at,
                    format!("a header must be a string, not {}", node.value.kind()),
                    "write it in quotation marks",
                );
                continue;
            };
            match (HeaderName::try_from(name.name.as_str()), HeaderValue::try_from(text.as_str())) {
                (Ok(header), Ok(_)) if SET_ELSEWHERE.contains(&header.as_str()) => {
                    table.mistakes.error(&name.at, format!("`{header}` is set by tidegate itself"), "remove it");
                }
                (Ok(header), Ok(value)) => {
                    headers.append(header, value);
                }
                _ => table.mistakes.error(
                    &name.at,
                    format!("`{}` and its value make no header", name.name),
                    "write a name of letters, digits and dashes",
                ),
            }
        }
    }
    let body = table.text("body").unwrap_or_default().to_owned();
    for word in words_of(&body).filter(|word| !WORDS.contains(word)) {
        let at = table.node("body").map_or(table.at, |node| &node.at);
        table.mistakes.error(at, format!("a body knows no {{{word}}}"), suggestion(word, &WORDS));
    }
    table.finish();
    (status.is_some() || !headers.is_empty() || !body.is_empty()).then_some(Shape { status, headers, body })
}

/// Every `{word}` of lower-case letters and underscores.
fn words_of(body: &str) -> impl Iterator<Item = &str> {
    body.split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}').map(|(word, _)| word))
        .filter(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

fn read_example(table: &Table<'_>, source: &Source) -> Option<Example> {
    let request = placed(table, "request");
    if request.is_none() {
        table.mistakes.error(table.at, "an example needs a request", "write request = \"GET /path\"");
    }
    let mut headers = HeaderMap::new();
    for (name, node) in table.table("headers").iter().flat_map(Table::entries) {
        let value = if let Value::Text(text) = &node.value { HeaderValue::try_from(text.as_str()).ok() } else { None };
        match (HeaderName::try_from(name.name.as_str()), value) {
            (Ok(name), Some(value)) => {
                headers.append(name, value);
            }
            _ => table.mistakes.error(&name.at, format!("`{}` and its value make no header", name.name), "write name = \"value\""),
        }
    }
    let mut body = table.text("body").unwrap_or_default().as_bytes().to_vec();
    if let Some(file) = table.text("body_file") {
        let folder = std::path::Path::new(&source.name).parent().unwrap_or_else(|| std::path::Path::new(""));
        match std::fs::read(folder.join(file)) {
            Ok(bytes) => body = bytes,
            Err(error) => {
                let at = table.node("body_file").map_or(table.at, |node| &node.at);
                table.mistakes.error(
                    at,
                    format!("{} cannot be read: {error}", folder.join(file).display()),
                    "give its path relative to this file",
                );
            }
        }
    }
    let expect = table.table("expect");
    let expected = |key: &str| expect.as_ref().and_then(|expect| placed(expect, key));
    let scopes = |key: &str| {
        let expect = expect.as_ref()?;
        let value = expect.texts(key)?.into_iter().map(|(text, _)| text.to_owned()).collect();
        Some(Placed { value, at: expect.node(key)?.at.clone() })
    };
    let example = Example {
        request: request?,
        headers,
        body,
        route: expected("route"),
        client: expected("client"),
        class: expected("class"),
        reads: scopes("reads"),
        writes: scopes("writes"),
        effect: expected("effect"),
    };
    if let Some(expect) = &expect {
        expect.finish();
    } else {
        table.mistakes.error(table.at, "an example must say what it expects", "write [example.expect] and route = \"...\" below");
    }
    table.finish();
    Some(example)
}
