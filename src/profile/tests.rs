//! The rules of the language, one by one, on small profiles.

mod watched;

use std::{io::Write, net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, Request, StatusCode, request::Parts};

use super::*;
use crate::{
    model::Rule,
    written::{Mistake, Severity, render},
};

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn extend(name: &str) -> Result<Arc<Source>, String> {
    let text = match name {
        "base" => {
            "name = \"base\"\ncredential = [\"query.key\"]\nclass = \"other\"\n[[route]]\nname = \"base\"\npath = \"/{x}\"\nwrites = [\"doc:{path.x}\"]\n"
        }
        "circle" => "name = \"circle\"\nextends = \"circle\"\n",
        _ => return Err("it is not there".to_owned()),
    };
    Ok(Arc::new(Source { name: name.to_owned(), text: text.to_owned() }))
}

fn compile(text: &str) -> (Option<Profile>, Vec<Mistake>) {
    let mistakes = Mistakes::default();
    let source = Arc::new(Source { name: "p.toml".to_owned(), text: text.to_owned() });
    let profile = Profile::compile(&source, &extend, &Classes::shipped(), &mistakes);
    (profile, mistakes.into_list())
}

fn profile(text: &str) -> Profile {
    let (profile, mistakes) = compile(&format!("name = \"p\"\n{text}"));
    profile.unwrap_or_else(|| panic!("{}", render(&mistakes)))
}

fn head(request: &str, headers: &[(&str, &str)]) -> Parts {
    let (method, target) = request.split_once(' ').expect("a method and a target");
    let mut builder = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).expect("a request").into_parts().0
}

fn read(profile: &Profile, request: &str, headers: &[(&str, &str)], body: &str) -> Reading {
    profile.read(&head(request, headers), BodySeen::Whole(body.as_bytes()), PEER)
}

fn names(scopes: &[Scope]) -> Vec<String> {
    scopes.iter().map(ToString::to_string).collect()
}

const JSON: (&str, &str) = ("content-type", "application/json");

const SYNC: &str = r#"
credential = ["header.authorization", "json.token"]
[[route]]
name = "poll"
path = "/sync"
when = { "json.changes" = "empty" }
reads = ["doc:{json.id}"]
answer = {}
[[route]]
name = "many"
path = "/sync"
body_over = "1KiB"
class = "import"
writes = ["doc:{json.id}"]
[[route]]
name = "write"
path = "/sync"
writes = ["doc:{json.id}"]
"#;

#[test]
fn the_first_route_whose_tests_hold_is_taken() {
    let profile = profile(SYNC);
    let poll = read(&profile, "POST /sync", &[JSON], r#"{"token":"t","id":"a"}"#);
    assert_eq!(profile.route_name(poll.route), "poll");
    assert_eq!((poll.effect, names(&poll.reads), names(&poll.writes)), (Effect::Poll, vec!["doc:a".to_owned()], vec![]));
    assert_eq!((poll.class, poll.long), (Class(0), Class(2)));
    assert_eq!(poll.client, Client::Named { name: "t".to_owned(), secret: true });
    let write = read(&profile, "POST /sync", &[JSON], r#"{"id":"a","changes":[1]}"#);
    assert_eq!(profile.route_name(write.route), "write");
    assert_eq!((write.effect, names(&write.writes), write.client), (Effect::Write, vec!["doc:a".to_owned()], Client::Address(PEER)));
    let long = format!(r#"{{"id":"a","changes":[1],"pad":"{}"}}"#, "x".repeat(2000));
    let many = read(&profile, "POST /sync", &[JSON], &long);
    assert_eq!((profile.route_name(many.route), many.class, many.long), ("many", Class(3), Class(3)));
}

#[test]
fn what_could_not_be_read_writes_everything_under_the_first_route_that_may_be_meant() {
    let profile = profile(SYNC);
    for (headers, body) in [
        (&[JSON][..], r#"{"id":"a","changes":[],"changes":[1]}"#),
        (&[JSON], r#"{"id":"a","changes":[]"#),
        (&[("content-type", "text/plain")], r#"{"id":"a"}"#),
        (&[("content-type", "application/json; charset=utf-16")], r#"{"id":"a"}"#),
        (&[JSON, JSON], r#"{"id":"a"}"#),
        (&[JSON, ("content-encoding", "br")], r#"{"id":"a"}"#),
        (&[JSON, ("content-encoding", "gzip")], r#"{"id":"a"}"#),
    ] {
        let reading = read(&profile, "POST /sync", headers, body);
        assert_eq!(profile.route_name(reading.route), "poll", "{body}");
        assert_eq!((reading.effect, reading.unknown, names(&reading.writes)), (Effect::Write, true, vec!["*".to_owned()]), "{body}");
    }
    let unread = profile.read(&head("POST /sync", &[JSON]), BodySeen::Unread, PEER);
    assert!(unread.unknown && unread.effect == Effect::Write);
    for headers in [&[][..], &[JSON], &[("content-type", "application/vnd.x+json;charset=\"UTF-8\"")]] {
        assert_eq!(read(&profile, "POST /sync", headers, r#"{"id":"a"}"#).effect, Effect::Poll, "{headers:?}");
    }
}

#[test]
fn how_long_a_body_is_matters_only_where_something_looks_into_it() {
    let profile = profile(
        "[[route]]\nname = \"put\"\nmethod = [\"PUT\"]\npath = \"/{id}\"\nwrites = [\"doc:{path.id}\"]\n\
        [[route]]\nname = \"poll\"\nmethod = [\"POST\"]\npath = \"/{id}\"\nreads = [\"doc:{path.id}\"]\nanswer = {}\n",
    );
    let put = profile.read(&head("PUT /a", &[]), BodySeen::Prefix(b"xx"), PEER);
    assert_eq!((names(&put.writes), put.unknown), (vec!["doc:a".to_owned()], false));
    let poll = profile.read(&head("POST /a", &[]), BodySeen::Prefix(b"xx"), PEER);
    assert_eq!(poll.effect, Effect::Read, "a question that was not read whole cannot be answered");
    assert!(!profile.inspects(&head("PUT /a", &[])));
    assert!(self::profile(SYNC).inspects(&head("GET /other", &[])), "the credential stands in the body");
}

#[test]
fn a_compressed_body_is_decoded() {
    let profile = profile(SYNC);
    let text = br#"{"id":"a","changes":[1]}"#;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(text).expect("memory");
    let zlib = zlib.finish().expect("memory");
    let effect = |coding: &str, bytes: &[u8]| {
        let reading = profile.read(&head("POST /sync", &[JSON, ("content-encoding", coding)]), BodySeen::Whole(bytes), PEER);
        names(&reading.writes)
    };
    assert_eq!(effect("gzip", &gzip), ["doc:a"]);
    assert_eq!(effect("deflate", &zlib), ["doc:a"]);
    assert_eq!(effect("gzip", &[&gzip[..], b"x"].concat()), ["*"], "bytes behind the end");
    assert_eq!(effect("gzip", &gzip[..gzip.len() - 9]), ["*"], "cut");
    assert_eq!(effect("gzip, gzip", &gzip), ["*"]);
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    bomb.write_all(br#"{"id":"a","changes":[1],"pad":""#).expect("memory");
    bomb.write_all(&vec![b'x'; 1 << 20]).expect("memory");
    bomb.write_all(b"\"}").expect("memory");
    let bomb = bomb.finish().expect("memory");
    assert!(bomb.len() < 65536);
    assert_eq!(effect("gzip", &bomb), ["*"], "longer than what is decoded");
    let reading = profile.read(&head("POST /sync", &[JSON, ("content-encoding", "gzip")]), BodySeen::Whole(&bomb), PEER);
    assert_ne!(profile.route_name(reading.route), "poll", "what was decoded decides as a prefix does");
    assert_eq!(effect("identity", &[0x28, 0xb5, 0x2f, 0xfd]), ["*"]);
}

#[test]
fn scopes_that_are_not_certain_are_everything() {
    let profile = profile(
        "prefix = \"/m\"\n[[route]]\nname = \"w\"\npath = \"/x/{rest*}\"\n\
        writes = [\"doc:{json.ids[*]}\", \"tree:{path}\", \"tree:/k{json.path}\", \"tree:{header.destination#path}\"]\n",
    );
    let writes =
        |request: &str, destination: &str, body: &str| names(&read(&profile, request, &[JSON, ("destination", destination)], body).writes);
    assert_eq!(
        writes("PUT /m/x/a%25b/", "https://h/m/y%25/", r#"{"ids":["a",5,true,"a"],"path":"http://h/m//p%41/?q"}"#),
        ["doc:a", "doc:5", "doc:true", "tree:/x/a%b", "tree:/k/pA", "tree:/y%"]
    );
    for (destination, body) in [
        ("/elsewhere/y", r#"{"ids":["a"],"path":"/p"}"#),
        ("/m/y", r#"{"ids":[],"path":"/p"}"#),
        ("/m/y", r#"{"ids":["a",null],"path":"/p"}"#),
        ("/m/y", r#"{"ids":["a",1.0],"path":"/p"}"#),
        ("/m/y", r#"{"ids":["a",{}],"path":"/p"}"#),
        ("/m/y", r#"{"ids":["a\u0001"],"path":"/p"}"#),
        ("/m/y", r#"{"ids":["a"]}"#),
        ("/m/y", r#"{"ids":["a"],"path":"/p/../q"}"#),
        ("/m/y", r#"{"ids":["a"],"path":"/p%2fq"}"#),
        ("/m/../y", r#"{"ids":["a"],"path":"/p"}"#),
    ] {
        assert_eq!(writes("PUT /m/x", destination, body), ["*"], "{destination} {body}");
    }
    let many: Vec<String> = (0..=WRITES_MAX).map(|id| format!("\"{id}\"")).collect();
    assert_eq!(writes("PUT /m/x", "/m/y", &format!(r#"{{"ids":[{}],"path":"/p"}}"#, many.join(","))), ["*"]);
    let long = "x".repeat(1025);
    assert_eq!(writes("PUT /m/x", "/m/y", &format!(r#"{{"ids":["{long}"],"path":"/p"}}"#)), ["*"]);
    assert_eq!(profile.route_name(read(&profile, "PUT /x", &[], "").route), "unmatched", "outside the prefix");
}

#[test]
fn a_route_without_effects_goes_by_its_method() {
    let profile = profile(
        "[[route]]\nname = \"bare\"\npath = \"/bare\"\n[[route]]\nname = \"none\"\npath = \"/none\"\nwrites = []\n\
        [[route]]\nname = \"socket\"\npath = \"/socket\"\nstream = \"websocket\"\n[[route]]\nname = \"reads\"\npath = \"/reads\"\nreads = [\"a\"]\n",
    );
    let effect = |request: &str, headers: &[(&str, &str)]| read(&profile, request, headers, "").effect;
    for (request, expected) in [
        ("GET /bare", Effect::None),
        ("HEAD /bare", Effect::None),
        ("OPTIONS /bare", Effect::None),
        ("POST /bare", Effect::Write),
        ("PROPFIND /bare", Effect::Write),
        ("POST /none", Effect::None),
        ("GET /unknown", Effect::None),
        ("POST /unknown", Effect::Write),
        ("POST /reads", Effect::Read),
        ("GET /socket", Effect::Write),
        ("GET /bare/../none", Effect::None),
        ("POST /none%2f", Effect::Write),
    ] {
        assert_eq!(effect(request, &[]), expected, "{request}");
    }
    let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    assert_eq!(effect("GET /none", &upgrade), Effect::Write, "an upgrade that no profile declares");
    assert_eq!(effect("GET /unknown", &upgrade), Effect::Write);
    assert_eq!(effect("GET /none", &[("connection", "upgrade"), ("upgrade", "h2c")]), Effect::None);
}

#[test]
fn every_selector_of_a_head_finds_its_value() {
    let profile = profile("client = [\"cookie.user\", \"basic.user\", \"query.user\", \"form.user\", \"form.meta#a[*].u\"]\n");
    let client = |request: &str, headers: &[(&str, &str)], body: &str| read(&profile, request, headers, body).client.shown();
    let form = ("content-type", "application/x-www-form-urlencoded");
    assert_eq!(client("GET /?user=b", &[("cookie", "x=1; user=a")], ""), "a");
    assert_eq!(client("GET /?user=b", &[("authorization", "Basic YWxpY2U6c2VjcmV0")], ""), "alice");
    assert_eq!(client("GET /?user=b+c%21", &[], ""), "b c!");
    assert_eq!(client("GET /?user=a&user=b", &[], ""), "a, b");
    assert_eq!(client("POST /", &[form], "x=1&user=d%20e"), "d e");
    assert_eq!(client("POST /", &[form], "meta=%7B%22a%22%3A%5B%7B%22u%22%3A%22f%22%7D%5D%7D"), "f");
    assert_eq!(client("POST /", &[JSON], "user=d"), "192.0.2.7");
    assert_eq!(client("GET /?user=%0a", &[("authorization", "Basic !")], ""), "192.0.2.7");
    let v6: IpAddr = "2001:db8:1:2:3:4:5:6".parse().expect("an address");
    assert_eq!(profile.read(&head("GET /", &[]), BodySeen::Whole(b""), v6).client.shown(), "2001:db8:1:2::");
    let mapped: IpAddr = "::ffff:192.0.2.7".parse().expect("an address");
    assert_eq!(profile.read(&head("GET /", &[]), BodySeen::Whole(b""), mapped).client, Client::Address(PEER));
}

#[test]
fn selectors_in_xml_multipart_and_headers_find_what_is_certain() {
    let profile = profile(
        "[[route]]\nname = \"xml\"\npath = \"/x\"\nwhen = { \"xml.root\" = [\"multiget\"] }\nwrites = [\"doc:{xml.href}\"]\n\
        [[route]]\nname = \"form\"\npath = \"/f\"\nwrites = [\"doc:{form.id}\", \"doc:{form.meta#[*].id}\"]\n\
        [[route]]\nname = \"header\"\npath = \"/h\"\nwrites = [\"doc:{header.meta#a.id}\"]\n",
    );
    let writes = |request: &str, headers: &[(&str, &str)], body: &str| names(&read(&profile, request, headers, body).writes);
    let xml = "<multiget><href>a</href><href>b</href></multiget>";
    for headers in [
        &[][..],
        &[("content-type", "text/xml")],
        &[("content-type", "application/XML; charset=\"utf-8\"")],
        &[("content-type", "a/b+xml")],
    ] {
        assert_eq!(writes("POST /x", headers, xml), ["doc:a", "doc:b"], "{headers:?}");
    }
    for headers in [&[JSON][..], &[("content-type", "text/plain")], &[("content-type", "text/xml; charset=utf-16")]] {
        assert_eq!(writes("POST /x", headers, xml), ["*"], "{headers:?}");
    }
    assert_eq!(writes("POST /x", &[], "<multiget><href>a</href><href><b/></href></multiget>"), ["*"]);
    assert_eq!(writes("POST /x", &[], "<multiget><href>a</href>"), ["*"]);
    assert_eq!(profile.route_name(read(&profile, "POST /x", &[], "<other/>").route), "unmatched");
    let multipart = ("content-type", "multipart/form-data; boundary=\"b c\"");
    let part = |name: &str, text: &str| format!("--b c\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n");
    let body = |meta: &str| part("id", "a") + &part("meta", meta) + "--b c--\r\n";
    assert_eq!(writes("POST /f", &[multipart], &body(r#"[{"id":"b"},{"id":5}]"#)), ["doc:a", "doc:b", "doc:5"]);
    assert_eq!(writes("POST /f", &[multipart], &body(r#"[{"id":"b"},{}]"#)), ["*"]);
    assert_eq!(writes("POST /f", &[multipart], &body(r#"[{"id":"b","id":"c"}]"#)), ["*"]);
    assert_eq!(writes("POST /f", &[("content-type", "multipart/form-data")], &body(r#"[{"id":"b"}]"#)), ["*"]);
    let form = ("content-type", "application/x-www-form-urlencoded");
    assert_eq!(writes("POST /f", &[form], "id=a&meta=[{\"id\":\"b\"}]"), ["doc:a", "doc:b"]);
    assert_eq!(writes("POST /h", &[("meta", r#"{"a":{"id":"x"}}"#)], ""), ["doc:x"]);
    for meta in [r#"{"a":{"id":"x","id":"y"}}"#, r#"{"a":{"id":"x"}"#, r#"{"a":{}}"#, "", "x", r#"{"a":{"id":"x"}}{}"#] {
        assert_eq!(writes("POST /h", &[("meta", meta)], ""), ["*"], "{meta}");
    }
    let one = ("meta", r#"{"a":{"id":"x"}}"#);
    assert_eq!(writes("POST /h", &[one, one], ""), ["*"], "two headers");
}

const REPLIES: &str = r#"
credential = ["header.authorization", "json.token", "header.x-key"]
denied = { "reply.json._code" = ["InvalidToken"], "reply.header.x-denied" = "present" }
ignore_headers = ["x-build-*", "x-doc", "x-key"]
[[route]]
name = "poll"
path = "/poll"
reads = ["doc:{json.id}", "doc:{header.x-doc}"]
answer = { only_if = { "reply.json._code" = ["Ok", "OK"], "reply.header.x-partial" = "absent" }, key_body = ["json.since"], ignore_headers = ["x-noise"] }
[[route]]
name = "inbox"
path = "/inbox"
writes = ["list", "doc:{json.kind}/{reply.json.ids[*]}", "tree:{reply.header.location}"]
pending = ["doc:{json.kind}"]
[[route]]
name = "plain"
path = "/plain"
writes = ["doc:{reply.header.etag}"]
"#;

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value))).collect()
}

#[test]
fn a_denial_is_told_by_the_status_or_by_what_the_reply_says_for_certain() {
    let profile = profile(REPLIES);
    let denied = |status: u16, list: &[(&'static str, &'static str)], body: Option<&str>| {
        let headers = headers(list);
        profile.is_denied(&Reply {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: &headers,
            body: body.map(str::as_bytes),
        })
    };
    assert!(denied(401, &[], None) && denied(403, &[], None) && !denied(404, &[], None));
    assert!(denied(200, &[JSON], Some(r#"{"_code":"InvalidToken"}"#)) && denied(200, &[], Some(r#"{"_code":"InvalidToken"}"#)));
    assert!(denied(200, &[("x-denied", "")], None), "the header alone decides");
    for (list, body) in [
        (&[JSON][..], Some(r#"{"_code":"Ok"}"#)),
        (&[JSON], Some(r#"{"_code":"InvalidToken","_code":"Ok"}"#)),
        (&[JSON], Some(r#"{"_code":"InvalidToken""#)),
        (&[JSON], Some("")),
        (&[JSON], None),
        (&[("content-type", "text/html")], Some(r#"{"_code":"InvalidToken"}"#)),
        (&[("content-encoding", "gzip")], Some(r#"{"_code":"InvalidToken"}"#)),
    ] {
        assert!(!denied(200, list, body), "{list:?} {body:?}");
    }
}

#[test]
fn a_reply_is_kept_only_if_every_test_certainly_holds() {
    let profile = profile(REPLIES);
    let kept = |list: &[(&'static str, &'static str)], body: Option<&[u8]>| {
        profile.may_keep(RouteId(0), &Reply { status: StatusCode::OK, headers: &headers(list), body })
    };
    let ok = br#"{"_code":"OK","versions":{"a":7}}"#;
    assert!(kept(&[JSON], Some(ok)));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(ok).expect("memory");
    assert!(kept(&[JSON, ("content-encoding", "gzip")], Some(&gzip.finish().expect("memory"))));
    assert!(!kept(&[JSON, ("x-partial", "1")], Some(ok)));
    assert!(!kept(&[JSON], None) && !kept(&[JSON], Some(br#"{"_code":"LockFail"}"#)) && !kept(&[JSON], Some(&ok[..20])));
    let long = format!(r#"{{"_code":"Ok","x":"{}"}}"#, "x".repeat(1 << 17));
    assert!(kept(&[JSON], Some(long.as_bytes())), "what was held whole is read whole");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(long.as_bytes()).expect("memory");
    assert!(!kept(&[JSON, ("content-encoding", "gzip")], Some(&gzip.finish().expect("memory"))), "longer than what is decoded");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(format!("{{\"_code\":\"Ok\"}}{}x", " ".repeat(1 << 17)).as_bytes()).expect("memory");
    assert!(!kept(&[JSON, ("content-encoding", "gzip")], Some(&gzip.finish().expect("memory"))), "what follows was not read");
    assert!(profile.may_keep(RouteId(2), &Reply { status: StatusCode::OK, headers: &HeaderMap::new(), body: None }));
    assert!(profile.may_keep(RouteId::UNMATCHED, &Reply { status: StatusCode::OK, headers: &HeaderMap::new(), body: None }));
    let none = self::profile(
        "[[route]]\nname = \"a\"\nwrites = [\"d:{reply.header.etag}\"]\n[[route]]\nname = \"b\"\nwrites = [\"d:{reply.json.a}\"]",
    );
    assert_eq!([0, 1, 9].map(|route| none.reads_reply_body(RouteId(route))), [false, true, false]);
    assert_eq!([0, 1, 2, 9].map(|route| profile.reads_reply_body(RouteId(route))), [true; 4], "`denied` looks into every body");
}

#[test]
fn what_only_the_reply_names_is_named_by_it_for_certain_or_is_everything() {
    let profile = profile(REPLIES);
    let reading = read(&profile, "POST /inbox", &[JSON], r#"{"kind":"k"}"#);
    assert_eq!((names(&reading.writes), reading.effect), (vec!["list".to_owned()], Effect::Write));
    let later = reading.later.expect("something is left to the reply");
    assert_eq!(later.pending().map(names), Some(vec!["doc:k".to_owned()]));
    assert_eq!(later.shown(), ["doc:k/{reply.json.ids[*]}", "tree:{reply.header.location}"]);
    let scopes = |list: &[(&'static str, &'static str)], body: Option<&str>| {
        names(&later.scopes(&Reply { status: StatusCode::CREATED, headers: &headers(list), body: body.map(str::as_bytes) }))
    };
    let location = ("location", "https://h/notes/%41?x");
    assert_eq!(scopes(&[JSON, location], Some(r#"{"ids":["a",5,"a"]}"#)), ["doc:k/a", "doc:k/5", "tree:/notes/A"]);
    for (list, body) in [
        (&[JSON, location][..], Some(r#"{"ids":[]}"#)),
        (&[JSON, location], Some(r#"{"ids":["a",null]}"#)),
        (&[JSON, location], Some(r#"{"ids":["a"],"ids":["b"]}"#)),
        (&[JSON, location], Some(r#"{"ids":["a"]"#)),
        (&[JSON, location], Some("")),
        (&[JSON, location], None),
        (&[JSON], Some(r#"{"ids":["a"]}"#)),
        (&[JSON, ("location", "notes/a")], Some(r#"{"ids":["a"]}"#)),
        (&[JSON, ("location", "/notes/../a")], Some(r#"{"ids":["a"]}"#)),
        (&[("content-type", "text/html"), location], Some(r#"{"ids":["a"]}"#)),
    ] {
        assert_eq!(scopes(list, body), ["*"], "{list:?} {body:?}");
    }
    let many: Vec<String> = (0..=WRITES_MAX).map(|id| id.to_string()).collect();
    assert_eq!(scopes(&[JSON, location], Some(&format!(r#"{{"ids":[{}]}}"#, many.join(",")))), ["*"]);
    for body in ["{}", r#"{"kind":"k","kind":"l"}"#, r#"{"kind":["k"]}"#] {
        let unsure = read(&profile, "POST /inbox", &[JSON], body);
        assert_eq!((names(&unsure.writes), unsure.later), (vec!["*".to_owned()], None), "{body}");
    }
    let plain = read(&profile, "POST /plain", &[], "");
    assert_eq!((plain.writes.len(), plain.effect), (0, Effect::Write));
    let later = plain.later.expect("something is left to the reply");
    assert_eq!(later.pending(), None, "everything is suspended meanwhile");
    let etag = headers(&[("etag", "e")]);
    assert_eq!(names(&later.scopes(&Reply { status: StatusCode::OK, headers: &etag, body: None })), ["doc:e"]);
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    let upgraded = read(&profile, "GET /plain", &upgrade, "");
    assert_eq!((names(&upgraded.writes), upgraded.later), (vec!["*".to_owned()], None));
}

#[test]
fn a_secret_is_that_of_the_credential_whatever_the_rest_of_the_request_is() {
    let profile = profile(REPLIES);
    let secret = |request: &str, list: &[(&str, &str)], body: &str| read(&profile, request, list, body).secret;
    let one = secret("POST /poll", &[("authorization", "a")], "");
    assert_eq!(one, secret("GET /plain?x", &[("authorization", "a"), JSON, ("x-doc", "d")], r#"{"id":"z"}"#));
    assert_eq!(one, secret("PUT /a%2Fb", &[("authorization", "a"), JSON], "{"));
    assert!(!one.is_empty() && secret("GET /", &[], "").is_empty() && Secret::default().is_empty());
    let token = |token: &str| format!(r#"{{"token":{token}}}"#);
    let different = [
        one,
        secret("GET /", &[("authorization", "b")], ""),
        secret("GET /", &[("authorization", "a"), ("authorization", "a")], ""),
        secret("GET /", &[("authorization", "a"), ("authorization", "b")], ""),
        secret("GET /", &[("authorization", "a, b")], ""),
        secret("POST /", &[JSON], &token("\"a\"")),
        secret("POST /", &[JSON], &token("5")),
        secret("POST /", &[JSON], &token("\"5\"")),
        secret("POST /", &[JSON, ("authorization", "a")], &token("\"a\"")),
        secret("POST /", &[("x-key", "a")], ""),
        Secret::default(),
    ];
    for (index, one) in different.iter().enumerate() {
        assert!(different[..index].iter().all(|other| one != other && one.as_bytes() != other.as_bytes()), "{index}");
    }
    assert_eq!(secret("GET /", &[("authorization", &"x".repeat(1025))], ""), Secret::default(), "too long: not found");
    let shown = format!("{:?}", read(&profile, "GET /", &[("authorization", "hush")], "").secret);
    assert_eq!(shown, "hidden");
}

#[test]
fn of_a_body_that_is_keyed_by_selectors_only_what_they_find_for_certain_is_the_question() {
    let profile = profile(REPLIES);
    let key = |body: &str| profile.key_body(RouteId(0), &head("POST /poll", &[JSON]), body.as_bytes());
    let values = |body: &str| match key(body) {
        KeyBody::Values(bytes) => bytes,
        other => panic!("{body}: {other:?}"),
    };
    assert_eq!(values(r#"{"id":"a","since":5,"noise":1}"#), values(r#"{"noise":2, "since":5, "id":"a"}"#));
    let different = [
        r#"{"id":"a","since":5}"#,
        r#"{"id":"b","since":5}"#,
        r#"{"id":"a","since":"5"}"#,
        r#"{"id":"a","since":null}"#,
        r#"{"id":"a","since":""}"#,
        r#"{"id":"a","since":false}"#,
        r#"{"id":"a","since":"false"}"#,
        r#"{"id":"a"}"#,
        r#"{"since":"a"}"#,
        "{}",
    ];
    for (index, one) in different.iter().enumerate() {
        assert!(different[..index].iter().all(|other| values(one) != values(other)), "{one}");
    }
    for body in [
        r#"{"id":"a","since":1.5}"#,
        r#"{"id":"a","since":[]}"#,
        r#"{"id":"a","since":"\n"}"#,
        r#"{"id":"a","since":5,"since":6}"#,
        r#"{"id":"a","since":5"#,
        r#"{"id":"a","since":5,"token":1.5}"#,
        r#"{"id":"a","since":5,"token":"a","token":"b"}"#,
        r#"{"id":"a","since":9007199254740993}"#,
    ] {
        assert_eq!(key(body), KeyBody::Uncertain, "{body}");
    }
    assert_eq!(profile.key_body(RouteId(1), &head("POST /inbox", &[JSON]), b"{}"), KeyBody::Whole);
    assert_eq!(profile.key_body(RouteId::UNMATCHED, &head("POST /", &[JSON]), b"{}"), KeyBody::Whole);
}

#[test]
fn noise_is_what_the_list_and_the_profile_say_but_never_what_they_read() {
    let profile = profile(REPLIES);
    let noise = |route: RouteId, name: &'static str| profile.is_noise(route, &HeaderName::from_static(name));
    for name in
        ["x-forwarded-for", "cf-ray", "x-b3-traceid", "b3", "user-agent", "connection", "te", "content-length", "x-build-7", "forwarded"]
    {
        assert!([RouteId(0), RouteId(1), RouteId::UNMATCHED].iter().all(|route| noise(*route, name)), "{name}");
    }
    for name in [
        "accept",
        "accept-encoding",
        "if-none-match",
        "authorization",
        "cookie",
        "range",
        "depth",
        "content-type",
        "host",
        "x-b4",
        "x-key",
        "x",
    ] {
        assert!([RouteId(0), RouteId(1), RouteId::UNMATCHED].iter().all(|route| !noise(*route, name)), "{name}");
    }
    assert!(noise(RouteId(0), "x-noise") && !noise(RouteId(1), "x-noise"));
    assert!(!noise(RouteId(0), "x-doc") && noise(RouteId(1), "x-doc"), "a poll of one document is no other's");
}

#[test]
fn the_meaning_up_to_a_route_changes_with_all_that_comes_before_it_only() {
    let routes = [RouteId(0), RouteId(1), RouteId(2), RouteId::UNMATCHED];
    let meanings = |text: &str| routes.map(|route| profile(text).meaning_up_to(route));
    let before = meanings(REPLIES);
    assert_eq!(before, meanings(&REPLIES.replace("name = \"inbox\"", "name = \"box\"")));
    assert!(routes.iter().enumerate().all(|(index, _)| !before[..index].contains(&before[index])));
    for (from, to, same) in [
        ("json.since", "json.from", 0),
        ("\"Ok\", \"OK\"", "\"Ok\"", 0),
        ("[\"x-noise\"]", "[]", 0),
        ("pending = [\"doc:{json.kind}\"]", "", 1),
        ("reply.json.ids[*]", "reply.json.ids[0]", 1),
        ("reply.header.etag", "reply.header.x-id", 2),
        ("path = \"/plain\"", "path = \"/plain\"\nmethod = [\"POST\"]", 2),
        ("json.token", "json.key", 0),
        ("InvalidToken", "Invalid", 0),
        ("x-build-*", "x-build", 0),
        ("\n[[route]]\nname = \"poll\"", "\nclient = [\"json.user\"]\n[[route]]\nname = \"poll\"", 0),
        ("\n[[route]]\nname = \"poll\"", "\nunmatched = { class = \"sync\" }\n[[route]]\nname = \"poll\"", 0),
        ("\n[[route]]\nname = \"poll\"", "\nprefix = \"/p\"\n[[route]]\nname = \"poll\"", 0),
    ] {
        assert!(REPLIES.contains(from), "{from}");
        let after = meanings(&REPLIES.replacen(from, to, 1));
        assert_eq!((&before[..same], before[same..].iter().zip(&after[same..]).all(|(a, b)| a != b)), (&after[..same], true), "{from}");
    }
    let longer = format!("{REPLIES}[[route]]\nname = \"new\"\npath = \"/new\"\nwrites = []\n");
    let after = meanings(&longer);
    assert_eq!(before[..3], after[..3]);
    assert_ne!(before[3], after[3]);
    let all = |text: &str| profile(text).meaning();
    assert_eq!(
        all(REPLIES),
        all(&REPLIES.replacen("\n[[route]]", "\nclient = [\"json.user\"]\n[[route]]", 1)),
        "who is limited is no effect"
    );
}

#[test]
fn any_of_several_tables_of_tests_may_hold() {
    let profile = profile(
        "[[route]]\nname = \"any\"\nwhen = [{ \"query.a\" = [\"1\"], \"query.b\" = [2] }, { \"query.c\" = { not = { glob = \"x*\" } }, \"query.d\" = { over = 5 } }]\nwrites = []\n",
    );
    let route = |target: &str| profile.route_name(read(&profile, &format!("GET {target}"), &[], "").route).to_owned();
    for (target, expected) in
        [("/?a=1&b=2", "any"), ("/?a=1", "unmatched"), ("/?d=6", "any"), ("/?d=6&c=xy", "unmatched"), ("/?d=5", "unmatched")]
    {
        assert_eq!(route(target), expected, "{target}");
    }
}

#[test]
fn what_is_extended_comes_behind_and_fills_what_is_not_set() {
    let profile = profile("extends = \"base\"\nclass = \"import\"\n[[route]]\nname = \"own\"\npath = \"/own\"\nreads = [\"doc:x\"]\n");
    assert_eq!((profile.routes(), profile.route_name(RouteId(0)), profile.route_name(RouteId(1))), (2, "own", "base"));
    let base = read(&profile, "PUT /other?key=k", &[], "");
    assert_eq!((base.class, base.credential, names(&base.writes)), (Class(3), true, vec!["doc:other".to_owned()]));
    assert_eq!(profile.classes_used(), [Class(3), Class(4)]);
}

#[test]
fn refusals_and_failures_take_the_profiles_shape() {
    let refusal = Refusal { rule: Rule::QueueFull, own_doing: false, retry_after: Duration::from_millis(1500) };
    let shaped = profile("reject = { status = 200, headers = { \"content-type\" = \"application/json\" }, body = '{\"in\":{retry_after},\"c\":\"{class}\",\"r\":\"{rule}\",\"i\":\"{id}\",\"o\":{\"retry_after\":0}}' }")
        .refusal(&refusal, "sync", "7")
        .expect("a shape");
    assert_eq!(shaped.status, StatusCode::OK);
    assert_eq!(shaped.headers["content-type"], "application/json");
    assert_eq!(&shaped.body[..], br#"{"in":2,"c":"sync","r":"queue_full","i":"7","o":{"retry_after":0}}"#);
    let plain = profile("failure = { body = \"sorry {id}\" }\nreject = { body = \"no\" }");
    assert_eq!(plain.refusal(&refusal, "sync", "7").expect("a shape").status, StatusCode::SERVICE_UNAVAILABLE);
    let failure = plain.failure(StatusCode::BAD_GATEWAY, Duration::ZERO, "sync", "7").expect("a shape");
    assert_eq!((failure.status, &failure.body[..]), (StatusCode::BAD_GATEWAY, &b"sorry 7"[..]));
    let none = profile("failure = { headers = {}, body = \"\" }");
    assert!(none.failure(StatusCode::BAD_GATEWAY, Duration::ZERO, "sync", "7").is_none() && none.refusal(&refusal, "sync", "7").is_none());
}

#[test]
fn every_mistake_is_told_with_its_place_and_what_to_write_instead() {
    for (text, place, what, instead) in [
        ("clas = \"sync\"", "2:1", "no key `clas`", "class"),
        ("class = \"snyc\"", "2:9", "no class `snyc`", "`sync`"),
        ("prefix = \"couch/\"", "2:10", "`prefix` cannot be", "/couch"),
        ("extends = \"nowhere\"", "2:11", "no profile \"nowhere\"", "known here"),
        ("extends = \"circle\"", "2:11", "extend one another", "circle"),
        ("credential = [\"jsn.token\"]", "2:15", "cannot be \"jsn.token\"", "json.PATH"),
        ("client = [\"reply.json.a\"]", "2:11", "cannot be", "request"),
        ("client = [\"path.user\"]", "2:11", "cannot be", "route"),
        ("denied = { \"json.a\" = \"present\" }", "2:12", "asks of the reply", "reply.json"),
        ("reject = { body = \"{retryafter}\" }", "2:19", "knows no {retryafter}", "retry_after"),
        ("reject = { headers = { \"retry-after\" = \"1\" } }", "2:24", "set by tidegate itself", "remove"),
        ("failure = { status = 200 }", "2:13", "no key `failure.status`", ""),
        ("[[route]]\npath = \"/a\"", "2:1", "a route needs a name", "name ="),
        ("[[route]]\nname = \"a\"\npath = \"a\"", "4:8", "cannot be \"a\"", "slash"),
        ("[[route]]\nname = \"a\"\nmethod = \"get\"", "4:10", "no method \"get\"", "\"GET\""),
        ("[[route]]\nname = \"a\"\nwhen = { \"json.a\" = \"x\" }", "4:21", "no test \"x\"", "[\"x\"]"),
        ("[[route]]\nname = \"a\"\nwhen = { json.a = \"empty\" }", "4:10", "`json` is no selector", "quotation marks"),
        ("[[route]]\nname = \"a\"\nwhen = { \"json.a\" = [1.5] }", "4:22", "cannot be compared", "whole numbers"),
        ("[[route]]\nname = \"a\"\nwhen = {}", "4:8", "without tests", "remove"),
        ("[[route]]\nname = \"a\"\nwhen = { \"reply.json.a\" = \"empty\" }", "4:10", "before there is a reply", "request"),
        ("[[route]]\nname = \"a\"\nreads = [\"doc:{json.a\"]", "4:10", "cannot be", "brace"),
        ("[[route]]\nname = \"a\"\nreads = [\"tree:a\"]", "4:10", "cannot be", "slash"),
        ("[[route]]\nname = \"a\"\nreads = [\"doc:{path.x}\"]\npath = [\"/{x}\", \"/{y}\"]", "4:10", "`path.x` names nothing", "{x}"),
        ("[[route]]\nname = \"a\"\nreads = [\"doc:{reply.json.x}\"]", "4:10", "before there is a reply", "request"),
        ("[[route]]\nname = \"a\"\nanswer = {}", "4:1", "a poll must say what it reads", "reads ="),
        ("[[route]]\nname = \"a\"\nreads = [\"a\"]\nwrites = [\"a\"]\nanswer = {}", "5:1", "a poll must not write", "remove"),
        ("[[route]]\nname = \"a\"\nreads = [\"a\"]\nstream = \"sse\"\nanswer = {}", "5:1", "a stream cannot be answered", "remove"),
        ("[[route]]\nname = \"a\"\nreads = [\"a\"]\nanswer = { statuses = [500] }", "5:24", "no status that can be stored", "[200, 304]"),
        ("[[route]]\nname = \"a\"\nreads = [\"a\"]\nanswer = { ignore_headers = [\"Authorization\"] }", "5:30", "who asks", "always part"),
        ("[[route]]\nname = \"a\"\nwrites = [\"doc:x\"]\npending = []", "5:1", "`pending` is for a write", "remove"),
        (
            "[[route]]\nname = \"a\"\nwrites = [\"d:{reply.json.i}\"]\npending = [\"d:{reply.json.i}\"]",
            "5:12",
            "before there is a reply",
            "request",
        ),
        ("[[route]]\nname = \"a\"\nreads = [\"a\"]\nanswer = { renew = { \"json.a[*].b\" = \"now\" } }", "5:22", "several values", "one"),
        ("[[route]]\nname = \"a\"\nbody_over = \"5\"", "4:13", "cannot be \"5\"", "64KiB"),
        ("[[example]]\nrequest = \"GET /\"\n[example.expect]\nroute = \"x\"", "5:9", "this example's route is \"unmatched\"", "correct"),
        ("[[example]]\nrequest = \"GET /\"", "2:1", "must say what it expects", "example.expect"),
        ("[[example]]\nrequest = \"GET\"\n[example.expect]\nroute = \"unmatched\"", "3:11", "no request", "method"),
        (
            "[[example]]\nrequest = \"PUT /\"\n[example.expect]\nwrites = []\neffect = \"none\"\nclass = \"sync\"\nclient = \"c\"",
            "5:10",
            "writes [\"*\"]",
            "",
        ),
    ] {
        let (profile, mistakes) = compile(&format!("name = \"p\"\n{text}"));
        let told = mistakes.iter().any(|mistake| {
            let line = mistake.to_string();
            mistake.severity == Severity::Error
                && line.contains(&format!("{place}: "))
                && mistake.what.contains(what)
                && mistake.instead.contains(instead)
        });
        assert!(told && profile.is_none(), "{text}\n{}", render(&mistakes));
    }
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let example = "[[example]]\nrequest = \"GET /a%2Fb\"\n[example.expect]\nroute = \"unmatched\"\n";
    for (text, what) in [
        (
            "[[route]]\nname = \"a\"\npath = \"/{x}\"\nreads = [\"r\"]\n[[route]]\nname = \"b\"\npath = \"/b\"\nwrites = []",
            "`b` can never match: `a`",
        ),
        (
            "[[route]]\nname = \"a\"\npath = \"/{x}\"\nreads = [\"r\"]\nanswer = {}\n[[route]]\nname = \"b\"\npath = \"/b\"\nwrites = [\"r\"]",
            "`b` is hidden by the poll `a`",
        ),
        (
            "[[route]]\nname = \"a\"\nmethod = [\"GET\", \"POST\"]\nreads = [\"r\"]\nanswer = {}\n[[route]]\nname = \"b\"\nmethod = [\"POST\", \"PUT\"]\npath = \"/b\"\nwrites = [\"r\"]",
            "takes POST of it",
        ),
        ("[[route]]\nname = \"a\"\nwrites = [\"*\"]", "`a` writes everything"),
        ("[[route]]\nname = \"a\"\npath = \"/a\"", "says neither"),
        ("[[route]]\nname = \"a\"\nwrites = [\"doc:x\"]", "nobody reads doc:x"),
        ("[[route]]\nname = \"a\"\nreads = [\"doc:{query.x}\"]", "nobody writes doc:{query.x}"),
        ("credential = [\"query.k\"]\n[[route]]\nname = \"a\"\nreads = [\"u:{query.k}\"]", "made from the credential query.k"),
        ("credential = [\"query.k\"]", "no example shows the credential query.k"),
        ("[[route]]\nname = \"a\"\npath = \"/a\"\nwrites = []", "`a` has no example"),
    ] {
        let (profile, mistakes) = compile(&format!("name = \"p\"\n{text}\n{example}"));
        assert!(profile.is_some(), "{text}\n{}", render(&mistakes));
        let told = mistakes.iter().any(|mistake| mistake.severity == Severity::Warning && mistake.what.contains(what));
        assert!(told, "{text}\n{}", render(&mistakes));
    }
}

#[test]
fn what_is_explained_names_every_test_that_was_asked() {
    let profile = profile(SYNC);
    let explanation = profile.explain(&head("POST /sync", &[JSON]), BodySeen::Whole(br#"{"id":"a","changes":[1]}"#), PEER);
    assert_eq!((explanation.route.as_str(), explanation.effect, explanation.writes), ("write", "write", vec!["doc:a".to_owned()]));
    let steps: Vec<(&str, &str)> = explanation.steps.iter().map(|step| (step.route.as_str(), step.holds)).collect();
    assert_eq!(steps, [("poll", "false"), ("many", "false"), ("write", "true")]);
    assert_eq!(explanation.steps[0].tests, [("json.changes = \"empty\"".to_owned(), "false")]);
    let poll = profile.explain(&head("POST /sync", &[JSON]), BodySeen::Whole(br#"{"id":"a","token":"hush"}"#), PEER);
    assert_eq!(poll.answer.as_deref(), Some("200"));
    assert_eq!((poll.question, poll.credential, poll.reply_held), (Some("all of the body"), vec!["json.token".to_owned()], false));
    let replies = self::profile(REPLIES);
    let inbox = replies.explain(&head("POST /inbox", &[JSON]), BodySeen::Whole(br#"{"kind":"k"}"#), PEER);
    assert_eq!(inbox.later, ["doc:k/{reply.json.ids[*]}", "tree:{reply.header.location}"]);
    assert_eq!((inbox.pending, inbox.question, inbox.reply_held), (Some(vec!["doc:k".to_owned()]), None, true));
    let poll = replies.explain(&head("POST /poll", &[JSON, ("x-doc", "d"), ("x-key", "hush")]), BodySeen::Whole(br#"{"id":"a"}"#), PEER);
    assert_eq!(poll.question, Some("of the body what `key_body` names"));
    assert_eq!(poll.asked_of_reply.len(), 4);
    assert_eq!(poll.asked_of_reply[2], r#"kept only if reply.json._code = ["Ok", "OK"]"#);
    let shown = format!("{:?} {:?} {:?} {:?}", poll.credential, poll.reading.secret, poll.reads, poll.asked_of_reply);
    assert!(!shown.contains("hush"), "{shown}");
}

#[test]
fn the_meaning_changes_with_effects_and_credentials_only() {
    let same = profile(&SYNC.replace("class = \"import\"", "class = \"other\"").replace("name = \"many\"", "name = \"lots\""));
    assert_eq!(profile(SYNC).meaning(), same.meaning());
    for (from, to) in [
        ("json.token", "json.key"),
        ("doc:{json.id}", "file:{json.id}"),
        ("answer = {}", "answer = { statuses = [304] }"),
        ("1KiB", "2KiB"),
    ] {
        assert_ne!(profile(SYNC).meaning(), profile(&SYNC.replace(from, to)).meaning(), "{from}");
    }
}

#[test]
fn no_request_makes_a_shipped_profile_panic() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let profiles: Vec<Profile> = SHIPPED
        .iter()
        .map(|name| {
            let source = Arc::new(Source { name: (*name).to_owned(), text: shipped(name).expect("shipped").to_owned() });
            Profile::compile(&source, &extend, &Classes::shipped(), &Mistakes::default()).expect("a profile")
        })
        .collect();
    let paths = [
        "/sync",
        "/v1/batch",
        "/v1/buckets/default/x",
        "/a/_changes",
        "/a/b/",
        "/%2F",
        "/a//b",
        "/%",
        "/",
        "/../x",
        "/v1/%F0%9F%92%A9",
        "*",
    ];
    let bodies = [
        "<a xmlns='DAV:'><href>/x</href></a>",
        "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b--",
        r#"{"token":"t","changes":["#,
        r#"{"requests":[{"path":"/a"},{"path":[]}]}"#,
        "",
        "\u{0}\u{ff}",
        "[[[[",
        r#"{"file_ids":[1,2,{}]}"#,
    ];
    for _ in 0..30_000 {
        let method = ["GET", "POST", "PUT", "PROPFIND", "MOVE", "OPTIONS"][random.usize(..6)];
        let mut head = head(&format!("{method} {}", paths[random.usize(..paths.len())]), &[]);
        for name in
            ["content-type", "content-encoding", "content-length", "destination", "authorization", "cookie", "upgrade", "connection"]
        {
            if random.u8(..4) == 0 {
                let values =
                    ["application/json", "gzip", "7", "http://h/%2e", "Basic eDp5", "\u{e9}", "Upgrade", "", "text/xml", "br", "zstd"];
                let value = values[random.usize(..values.len())];
                head.headers.insert(name, http::HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
            }
        }
        let mut body = bodies[random.usize(..bodies.len())].as_bytes().to_vec();
        if random.bool() && !body.is_empty() {
            let at = random.usize(..body.len());
            body[at] = random.u8(..);
        }
        let shown = match random.u8(..3) {
            0 => BodySeen::Whole(&body),
            1 => BodySeen::Prefix(&body),
            _ => BodySeen::Unread,
        };
        for profile in &profiles {
            let reading = profile.read(&head, shown, PEER);
            let _ = profile.inspects(&head);
            assert_eq!(reading.effect == Effect::Write, !reading.writes.is_empty() || reading.later.is_some(), "seed {seed}");
            assert!(!reading.unknown || reading.writes == [Scope::All], "seed {seed}");
            assert!(reading.effect != Effect::Poll || matches!(shown, BodySeen::Whole(_)), "seed {seed}");
        }
    }
}
