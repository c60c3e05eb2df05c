//! What is taken from a prefix while the rest is watched.

use super::*;

#[test]
fn a_prefix_gives_route_and_scopes_as_far_as_it_decides_while_the_rest_is_watched() {
    let profile = profile(SYNC);
    let prefix = |body: &str, length: Option<&str>, headers: &[(&str, &str)]| {
        let mut head = head("POST /sync", headers);
        if let Some(length) = length {
            head.headers.insert("content-length", length.parse().expect("a value"));
        }
        profile.read(&head, BodySeen::Prefix(body.as_bytes()), PEER)
    };
    let begun = r#"{"token":"t","id":"a","changes":[{"x":1},"#;
    let decided = prefix(begun, Some("900"), &[JSON]);
    assert_eq!((profile.route_name(decided.route), names(&decided.writes)), ("write", vec!["doc:a".to_owned()]));
    assert!(!decided.unknown && decided.credential);
    for (rest, expected) in [
        (r#"{"id":1,"id":2,"changes":0}],"x":{"id":"b"}}"#, Verdict::Fine),
        (r#"{"x":2}],"token":"u","token":"v"}"#, Verdict::Fine),
        (r#"{"x":2}],"\u0069d":"#, Verdict::Widen),
        (r#"{"x":2}],"changes":"#, Verdict::Widen),
        (r#"{"x":2}],"ID":"#, Verdict::Widen),
        (r#"{"x":2}],}"#, Verdict::Widen),
    ] {
        let mut watch = decided.watch.clone().expect("it is watched");
        assert_eq!(watch.push(begun.as_bytes()), Verdict::Fine);
        assert_eq!(watch.push(rest.as_bytes()), expected, "{rest}");
        assert_eq!(watch.finish(), Verdict::Fine, "{rest}");
    }
    let mut cut = decided.watch.clone().expect("it is watched");
    assert_eq!((cut.push(begun.as_bytes()), cut.finish()), (Verdict::Fine, Verdict::Widen));
    for coding in ["gzip", "br"] {
        let coded = prefix(begun, Some("900"), &[JSON, ("content-encoding", coding)]);
        assert_eq!((names(&coded.writes), coded.watch), (vec!["*".to_owned()], None));
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded"] {
        assert_eq!(prefix(begun, Some("900"), &[("content-type", content_type)]).watch, None);
    }
    assert!(prefix(begun, Some("900"), &[]).watch.is_some(), "it says nothing");
    let long = prefix(r#"{"id":"a","changes":[{"x":1},"#, Some("2000"), &[JSON]);
    assert_eq!(profile.route_name(long.route), "many");
    let unsaid = prefix(r#"{"id":"a","changes":[{"x":1},"#, None, &[JSON]);
    assert_eq!(profile.route_name(unsaid.route), "many", "a body of unknown length that exceeds the prefix counts as over");
    for (undecided, route) in [
        (r#"{"id":"a","changes":["#, "poll"),
        (r#"{"id":"a","#, "poll"),
        (r#"{"id":"a","id":"a","changes":[1]"#, "write"),
        (r#"{"changes":[1],"id":"a"#, "write"),
        (r#"{"changes":[1],"id":12"#, "write"),
    ] {
        let reading = prefix(undecided, Some("900"), &[JSON]);
        let found = (profile.route_name(reading.route), names(&reading.writes), reading.effect, reading.watch);
        assert_eq!(found, (route, vec!["*".to_owned()], Effect::Write, None), "{undecided}");
    }
    let poll = prefix(r#"{"id":"a","changes":[],"#, Some("900"), &[JSON]);
    assert_eq!((profile.route_name(poll.route), poll.effect), ("poll", Effect::Read), "it is never answered by us");
    assert!(poll.watch.is_some(), "it may turn out a write");
}

#[test]
fn scopes_of_every_element_need_every_element() {
    let profile = profile("[[route]]\nname = \"w\"\nwrites = [\"doc:{json.ids[*]}\", \"doc:{json.more[1]}\"]\n");
    let text = br#"{"more":["a","b"],"ids":["c","d"]}"#;
    let whole = profile.read(&head("POST /", &[JSON]), BodySeen::Whole(text), PEER);
    assert_eq!(names(&whole.writes), ["doc:c", "doc:d", "doc:b"]);
    for end in 0..=text.len() {
        let prefix = profile.read(&head("POST /", &[JSON]), BodySeen::Prefix(&text[..end]), PEER);
        assert_eq!((names(&prefix.writes), prefix.watch), (vec!["*".to_owned()], None), "{end}");
    }
}

#[test]
fn a_route_that_the_prefix_could_not_exclude_is_not_excluded_for_safe_methods_either() {
    let profile = profile("[[route]]\nname = \"w\"\nwhen = { \"json.w\" = [\"yes\"] }\nwrites = [\"doc:a\"]\n");
    let read = |body| profile.read(&head("GET /", &[JSON]), body, PEER);
    assert_eq!(read(BodySeen::Whole(br#"{"w":"no"}"#)).effect, Effect::None);
    assert_eq!(read(BodySeen::Prefix(br#"{"w":"no","#)).effect, Effect::Write, "the rest is not watched");
}

const WATCHED: &str = r#"
[[route]]
name = "poll"
path = "/"
when = { "json.c" = "empty", "json.k" = { not = ["w"] } }
reads = ["doc:{json.id}"]
answer = {}
[[route]]
name = "over"
path = "/"
when = [{ "json.n" = { over = 10 }, "json.c[1].k" = "nonempty" }, { "json.k" = { glob = "x*" } }]
writes = ["doc:{json.id}", "kind:{json.c[0].k}"]
[[route]]
name = "each"
path = "/"
when = { "json.c[*].k" = ["w", "12"], "json.k" = "nonempty" }
writes = ["doc:{json.id}"]
[[route]]
name = "all"
path = "/"
when = { "json.c[*].k" = ["w", "12"] }
writes = ["doc:{json.c[*].k}"]
[[route]]
name = "names"
path = "/"
when = { "json.c~keys" = ["id"], "json.n" = "absent" }
writes = ["doc:{json.id}"]
[[route]]
name = "rest"
path = "/"
when = { "json.n" = { not = { over = 10 } } }
reads = ["doc:{json.id}"]
"#;

/// Writes a random document of few keys and values, in which keys may come twice.
fn random_document(random: &mut fastrand::Rng, depth: usize) -> String {
    let value = |random: &mut fastrand::Rng| match random.u8(0..if depth == 0 { 6 } else { 10 }) {
        0..=5 => ["12", "\"w\"", "\"xa\"", "null", "\"\"", "3", "true", "[]", "{}", "\"\\u0077\""][random.usize(0..10)].to_owned(),
        6 | 7 => {
            let items: Vec<String> = (0..random.usize(0..4)).map(|_| random_document(random, depth - 1)).collect();
            format!("[{}]", items.join(","))
        }
        _ => random_document(random, depth - 1),
    };
    let mut keys = vec!["id", "c", "k", "n", "\\u006b", "x", "N"];
    random.shuffle(&mut keys);
    keys.truncate(random.usize(0..7));
    let fields: Vec<String> = keys.iter().map(|key| format!("\"{key}\":{}", value(random))).collect();
    format!("{{{}}}", fields.join(","))
}

#[test]
fn what_a_prefix_said_and_the_rest_did_not_contradict_is_what_the_whole_says() {
    let profile = profile(WATCHED);
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let head = head("POST /", &[JSON]);
    let (mut certain, mut widened) = ([0, 0], 0);
    for _ in 0..40_000 {
        let mut text = random_document(&mut random, 3);
        if random.bool() {
            let mut value = || ["12", "\"w\"", "\"xa\"", "9", "[]"][random.usize(0..5)];
            let begun = format!(r#"{{"id":{},"c":[{{"k":{},"id":0}},{{"k":{}}}],"k":{},"#, value(), value(), value(), value());
            let other = ["\"id\"", "\"c\"", "\"k\"", "\"n\""][random.usize(0..4)];
            let rest = text.replace(other, "\"y\"").replace("\"id\"", "\"z\"");
            text = format!("{begun}{}", rest.strip_prefix('{').filter(|rest| *rest != "}").unwrap_or("\"n\":12}"));
        }
        if random.u8(0..8) == 0 {
            text.insert(random.usize(0..text.len()), ['}', ',', '"', '1'][random.usize(0..4)]);
        }
        let whole = profile.read(&head, BodySeen::Whole(text.as_bytes()), PEER);
        for _ in 0..12 {
            let prefix = profile.read(&head, BodySeen::Prefix(&text.as_bytes()[..random.usize(0..text.len())]), PEER);
            let Some(mut watch) = prefix.watch else {
                assert_eq!(prefix.writes, [Scope::All], "seed {seed}: {text}");
                continue;
            };
            if watch.push(text.as_bytes()) == Verdict::Widen || watch.finish() == Verdict::Widen {
                widened += 1;
                continue;
            }
            certain[usize::from(prefix.effect == Effect::Write)] += 1;
            let expected = (profile.route_name(whole.route), &whole.writes, whole.class);
            assert_eq!((profile.route_name(prefix.route), &prefix.writes, prefix.class), expected, "seed {seed}: {text}");
            assert!(prefix.reads == whole.reads || prefix.reads == [Scope::All], "seed {seed}: {text}");
        }
    }
    assert!(certain[0] > 500 && certain[1] > 500 && widened > 1000, "{certain:?} certain, {widened} widened");
}
