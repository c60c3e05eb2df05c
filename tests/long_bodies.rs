//! Bodies longer than what is read before the queue: they touch what their beginning names, unless their rest contradicts it.

mod common;

use common::{Answer, App, Tidegate, Wire, wire::message};
use serde_json::{Value, json};

const MB: usize = 1_000_000;

/// An import of about `size` bytes that names its document first, with `extra` after the first megabyte.
fn import(size: usize, extra: &str) -> String {
    let item = r#"{"content":"some text, \"quoted\", and ünïcödé","file_id":"of another kind","checked":false,"depth":3},"#;
    let items = |bytes: usize| item.repeat(bytes / item.len());
    format!(r#"{{"token":"t","file_id":"a","changes":[{}0]{extra},"more":[{}0]}}"#, items(MB), items(size - MB))
}

/// Sends a body in pieces of no round size, by its length or chunked.
async fn upload(tidegate: &Tidegate, target: &str, body: &[u8], chunked: bool) -> Answer {
    let mut wire = Wire::connect(tidegate.listen).await;
    let framing = if chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {}", body.len()) };
    wire.send(message("POST", target, &["content-type: application/json", &framing], &[])).await;
    for piece in body.chunks(77_777) {
        if chunked {
            wire.send(format!("{:x}\r\n", piece.len())).await;
        }
        wire.send(piece).await;
        if chunked {
            wire.send("\r\n").await;
        }
    }
    if chunked {
        wire.send("0\r\n\r\n").await;
    }
    wire.answer().await
}

async fn dynalist(app: &App) -> Tidegate {
    Tidegate::start(app.address, "profile = \"dynalist\"").await
}

/// What the access log says of the document, and what is done to it.
fn logged(line: &Value) -> Value {
    json!([line["route"], line["documents"], line["effect"], line["status"]])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_megabytes_touches_only_the_document_that_it_names_first() {
    let app = App::start().await;
    let tidegate = dynalist(&app).await;
    let body = import(5 * MB, "");
    for (target, chunked) in [("/import", false), ("/import", true), ("/sync", true)] {
        assert_eq!(upload(&tidegate, target, body.as_bytes(), chunked).await.status, 200);
    }
    let lines = tidegate.at_rest(3).await;
    let import = json!(["import from another service", ["doc:a"], "write", 200]);
    let expected = json!([import, import, ["sync: changes", ["doc:a"], "write", 200]]);
    assert_eq!(Value::Array(lines.iter().map(logged).collect()), expected);
    assert!(app.seen().iter().all(|seen| seen.whole && seen.length == body.len()));
    assert!(lines.iter().all(|line| line["bytes_in"] == body.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_whose_rest_contradicts_its_beginning_touches_everything() {
    let app = App::start().await;
    let tidegate = dynalist(&app).await;
    let long = import(3 * MB, "");
    let bodies = [
        import(3 * MB, r#","file_id":"b""#),
        import(3 * MB, r#","file\u005fid":"b""#),
        import(3 * MB, r#","File_Id":"b""#),
        import(3 * MB, r#",file_id:"b""#),
        format!("{long}{{\"file_id\":\"b\"}}"),
        long[..long.len() - 1].to_owned(),
    ];
    for (number, body) in bodies.iter().enumerate() {
        let answer = upload(&tidegate, "/import", body.as_bytes(), number % 2 == 0).await;
        assert_eq!(answer.status, 200, "it is passed on all the same");
        assert_eq!(app.seen().last().map(|seen| (seen.whole, seen.length)), Some((true, body.len())));
        let lines = tidegate.at_rest(number + 1).await;
        let expected = json!(["import from another service", ["*", "doc:a"], "write", 200]);
        assert_eq!(lines.last().map(logged), Some(expected), "{number}");
    }
    tidegate.until_metric("tidegate_everything_writes_total{route=\"import from another service\"}", 6.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_turns_out_a_write_behind_its_beginning_touches_everything() {
    let app = App::start().await;
    let tidegate = dynalist(&app).await;
    let body = |behind: &str| format!(r#"{{"token":"t","file_id":"a","changes":[],"seen":[{}0]{behind}}}"#, "1234567,".repeat(20_000));
    for behind in ["", r#","changes":[{"action":"edit"}]"#] {
        assert_eq!(upload(&tidegate, "/sync", body(behind).as_bytes(), false).await.status, 200);
    }
    let lines = tidegate.at_rest(2).await;
    let route = "sync: anything new?";
    let expected = [json!([route, ["doc:a"], "read", 200]), json!([route, ["*", "doc:a"], "write", 200])];
    assert_eq!(lines.iter().map(logged).collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_breaks_off_touches_only_its_document() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "profile = \"dynalist\"\napp.upstream_cancels = true").await;
    let body = import(2 * MB, "");
    let mut wire = Wire::connect(tidegate.listen).await;
    let length = format!("content-length: {}", body.len());
    wire.send(message("POST", "/import", &["content-type: application/json", &length], &[])).await;
    wire.send(&body.as_bytes()[..MB]).await;
    app.until_running("import", 1).await;
    drop(wire);
    let lines = tidegate.at_rest(1).await;
    assert_eq!((&lines[0]["documents"], &lines[0]["outcome"]), (&json!(["doc:a"]), &json!("gone")), "{lines:?}");
}
