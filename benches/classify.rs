//! What it costs to read a request by a profile: route, client, class and scopes.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use divan::{Bencher, black_box};
use http::{Request, request::Parts};
use tidegate::{
    model::Classes,
    profile::{BodySeen, Profile, Verdict, Watcher, shipped},
    written::{Mistakes, Source},
};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn main() {
    divan::main();
}

fn profile(name: &str) -> Profile {
    let text = shipped(name).expect("a shipped profile").to_owned();
    let source = Arc::new(Source { name: name.to_owned(), text });
    Profile::compile(&source, &|_| Err(String::new()), &Classes::shipped(), &Mistakes::default()).expect("it passes its own check")
}

fn head(method: &str, target: &str) -> Parts {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "sync.example.org")
        .header("content-type", "application/json")
        .header("authorization", "Basic YWxpY2U6c2VjcmV0")
        .header("user-agent", "bench");
    request.body(()).expect("a request").into_parts().0
}

fn token() -> String {
    "t".repeat(64)
}

fn read(bencher: Bencher<'_, '_>, name: &str, head: &Parts, body: &str) {
    let profile = profile(name);
    let body = BodySeen::Whole(body.as_bytes());
    bencher.bench_local(|| profile.read(black_box(head), black_box(body), PEER));
}

/// 327 bytes, as in a poll of one document: the token, the document and the changes are wanted.
#[divan::bench]
fn dynalist_poll(bencher: Bencher<'_, '_>) {
    let body = format!(r#"{{"token":"{}","file_id":"aBcDeFgHiJ","version":7,"client":"{}","changes":[]}}"#, token(), "c".repeat(190));
    read(bencher, "dynalist", &head("POST", "/sync"), &body);
}

/// A key behind 40 KB of a body of 60 KB.
#[divan::bench]
fn dynalist_large_write(bencher: Bencher<'_, '_>) {
    let body = format!(
        r#"{{"token":"{}","notes":"{}","file_id":"aBcDeFgHiJ","changes":[{{"content":"{}"}}]}}"#,
        token(),
        "n".repeat(40_000),
        "c".repeat(20_000)
    );
    read(bencher, "dynalist", &head("POST", "/api/v1/doc/edit"), &body);
}

/// The last routes of a profile, by the path alone.
#[divan::bench]
fn couchdb_document(bencher: Bencher<'_, '_>) {
    read(bencher, "couchdb", &head("PUT", "/notes/4f1c0c4e"), "{}");
}

/// A tree of five segments.
#[divan::bench]
fn kinto_record(bencher: Bencher<'_, '_>) {
    read(bencher, "kinto", &head("PUT", "/v1/buckets/work/collections/notes/records/4f1c0c4e"), "{}");
}

/// A batch of 25 parts, each with two possible names.
#[divan::bench]
fn kinto_batch(bencher: Bencher<'_, '_>) {
    let parts: Vec<String> = (0..25)
        .map(|part| {
            format!(r#"{{"method":"PUT","path":"/buckets/work/collections/notes/records/{part}","body":{{"data":{{"text":"x"}}}}}}"#)
        })
        .collect();
    read(bencher, "kinto", &head("POST", "/v1/batch"), &format!(r#"{{"requests":[{}]}}"#, parts.join(",")));
}

/// Whether the body matters at all.
#[divan::bench]
fn inspects(bencher: Bencher<'_, '_>) {
    let (profile, head) = (profile("couchdb"), head("PUT", "/notes/4f1c0c4e"));
    bencher.bench_local(|| profile.inspects(black_box(&head)));
}

/// A watcher in the middle of a long import: its document was named, and its list has begun.
fn watcher() -> Box<Watcher> {
    let begun = r#"{"token":"t","file_id":"aBcDeFgHiJ","changes":["#;
    let beginning = format!("{begun}{{}},");
    let reading = profile("dynalist").read(&head("POST", "/import"), BodySeen::Prefix(beginning.as_bytes()), PEER);
    let mut watcher = reading.watch.expect("it is watched");
    assert_eq!(watcher.push(begun.as_bytes()), Verdict::Fine);
    watcher
}

/// Watches 1 KiB made of this element over and over.
fn watched(bencher: Bencher<'_, '_>, element: &str) {
    let mut watcher = watcher();
    let mut piece = element.repeat(1024 / element.len());
    piece.push_str(&" ".repeat(1024 - piece.len()));
    bencher.bench_local(|| assert_eq!(watcher.push(black_box(piece.as_bytes())), Verdict::Fine));
}

/// 1 KiB of a long import's list: short keys and values.
#[divan::bench]
fn watched_kib_of_items(bencher: Bencher<'_, '_>) {
    watched(bencher, r#"{"id":"aBcDeFgHiJ","content":"a line of an outline","note":"","checked":false,"depth":3,"order":12},"#);
}

/// 1 KiB of long text without, and with, characters beyond ASCII.
#[divan::bench(args = ["plain", "accents"])]
fn watched_kib_of_text(bencher: Bencher<'_, '_>, kind: &str) {
    let line = if kind == "plain" { "one line of a long note " } else { "une ligne d'une note très très longue " };
    watched(bencher, &format!("\"{}\",", line.repeat(1000 / line.len())));
}
