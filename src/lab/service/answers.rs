//! The endpoints: what each reads of a request, does in the database, and answers. HTTP 200 for everything, `_code` says the rest.

use serde::Deserialize;
use serde_json::json;

use super::{
    Answer, Shared,
    pool::{Failure, Lease},
    store::{self, Change, Synced},
};
use crate::{clock, lab::kind::Kind};

/// What a request says; each endpoint needs some of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    token: String,
    file_id: String,
    file_ids: Vec<String>,
    version: u32,
    changes: Vec<SaidChange>,
}

#[derive(Debug, Deserialize)]
struct SaidChange {
    id: String,
    #[serde(default)]
    content: String,
}

/// Answers one request; `Err` is a failure of the database or the end of the service.
pub(super) async fn answer(shared: &Shared, path: &str, body: &[u8]) -> Result<Answer, Failure> {
    let Ok(said) = serde_json::from_slice::<Said>(body) else { return Ok(refused("Invalid")) };
    if said.token.is_empty() {
        return Ok(refused("InvalidToken"));
    }
    match path {
        "/sync" if said.changes.is_empty() => sync(shared, Kind::Poll, said).await,
        "/sync" => sync(shared, Kind::Change, said).await,
        "/import" => import(shared, said).await,
        "/api/v1/doc/check_for_updates" => check_for_updates(shared, said).await,
        "/api/v1/doc/edit" => sync(shared, Kind::Api, said).await,
        "/api/v1/doc/read" => read(shared, said).await,
        _ => Ok(refused("NotFound")),
    }
}

fn refused(code: &str) -> Answer {
    Answer { body: json!({ "_code": code, "_msg": "" }), database: None }
}

/// The answer, and the connection goes back.
#[expect(clippy::needless_pass_by_value, reason = "the lease ends here")]
fn done(lease: Lease, body: serde_json::Value) -> Answer {
    let database = Some((clock::now().since(lease.since), lease.queries));
    Answer { body, database }
}

/// `/sync`: takes the changes, if there are any, and says what is newer than the client's version.
async fn sync(shared: &Shared, kind: Kind, said: Said) -> Result<Answer, Failure> {
    let mut lease = shared.pool.lease(kind).await?;
    let file_id = said.file_id.clone();
    let Some(synced) = run(&mut lease, said).await? else { return Ok(refused("NotFound")) };
    lease.unchanged = kind == Kind::Poll && synced.newer.is_empty();
    charge(shared, &mut lease, synced.rows).await;
    let newer: Vec<_> = synced.newer.iter().map(|change| json!({ "id": change.id, "content": change.content })).collect();
    Ok(done(lease, json!({ "_code": "Ok", "file_id": file_id, "version": synced.version, "changes": newer })))
}

async fn run(lease: &mut Lease, said: Said) -> Result<Option<Synced>, Failure> {
    let Said { file_id, version, changes, .. } = said;
    if changes.is_empty() {
        return lease.query(move |connection| store::sync(connection, &file_id, version)).await;
    }
    let changes: Vec<Change> = changes.into_iter().map(|change| Change { id: change.id, content: change.content }).collect();
    lease.query(move |connection| store::change(connection, &file_id, version, &changes)).await
}

/// Holds the connection for as long as the rows would have taken, on the account of large documents if it is one.
async fn charge(shared: &Shared, lease: &mut Lease, rows: u32) {
    if shared.scenario.service.is_large(rows) {
        lease.kind = Kind::Large;
    }
    lease.hold(shared.query_time(rows)).await;
}

/// `doc/read`: the whole document.
async fn read(shared: &Shared, said: Said) -> Result<Answer, Failure> {
    let mut lease = shared.pool.lease(Kind::Api).await?;
    let file_id = said.file_id.clone();
    let found = lease.query(move |connection| store::sync(connection, &file_id, 0)).await?;
    let Some(synced) = found else { return Ok(refused("NotFound")) };
    charge(shared, &mut lease, synced.rows).await;
    let nodes: Vec<_> =
        synced.newer.iter().enumerate().map(|(id, change)| json!({ "id": id.to_string(), "content": change.content })).collect();
    Ok(done(lease, json!({ "_code": "Ok", "file_id": said.file_id, "title": said.file_id, "version": synced.version, "nodes": nodes })))
}

/// `doc/check_for_updates`: the versions of some documents; unknown ones are left out.
async fn check_for_updates(shared: &Shared, said: Said) -> Result<Answer, Failure> {
    let mut lease = shared.pool.lease(Kind::Api).await?;
    let (versions, rows) = lease.query(move |connection| store::versions(connection, &said.file_ids)).await?;
    lease.hold(shared.query_time(rows)).await;
    let versions: serde_json::Map<_, _> = versions.into_iter().map(|(file_id, version)| (file_id, version.into())).collect();
    Ok(done(lease, json!({ "_code": "Ok", "versions": versions })))
}

/// `/import`: fetches from another service, with the connection in hand as in 2017, and then makes a document of it.
async fn import(shared: &Shared, said: Said) -> Result<Answer, Failure> {
    let mut lease = shared.pool.lease(Kind::Import).await?;
    let faults = *shared.faults.lock();
    lease.hold(shared.import_time(faults)).await;
    if faults.imports_hang {
        return Ok(done(lease, json!({ "_code": "LockFail", "_msg": "the other service does not answer" })));
    }
    let items: Vec<Change> = said.changes.into_iter().map(|change| Change { id: change.id, content: change.content }).collect();
    let file_id = said.file_id.clone();
    let imported = lease.query(move |connection| store::import(connection, &file_id, &items)).await?;
    Ok(done(lease, json!({ "_code": "Ok", "file_id": said.file_id, "version": imported.version })))
}
