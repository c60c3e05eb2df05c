//! The service's database: documents, their versions and their change rows, in `SQLite`. Every function really runs its queries and
//! says how many rows they touched.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

/// What went wrong in the database.
pub type Result<T> = rusqlite::Result<T>;

const SCHEMA: &str = "
    CREATE TABLE documents (document INTEGER PRIMARY KEY, file_id TEXT NOT NULL UNIQUE, title TEXT NOT NULL) STRICT;
    CREATE TABLE versions (document INTEGER NOT NULL, version INTEGER NOT NULL, changes INTEGER NOT NULL,
        PRIMARY KEY (document, version)) STRICT, WITHOUT ROWID;
    CREATE TABLE changes (document INTEGER NOT NULL, version INTEGER NOT NULL, position INTEGER NOT NULL,
        change_id TEXT NOT NULL, content TEXT NOT NULL, PRIMARY KEY (document, version, position)) STRICT, WITHOUT ROWID;
    CREATE INDEX changes_by_id ON changes (change_id);
";

/// A document to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Its name.
    pub file_id: String,
    /// How many change rows it has.
    pub rows: u32,
}

/// A change as a client sends it: its id is chosen by the client, so that it is applied once however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Unique over all clients and time.
    pub id: String,
    /// What was typed.
    pub content: String,
}

/// A document as a sync finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Its version now.
    pub version: u32,
    /// How many changes are newer than the client's version.
    pub newer: Vec<Change>,
    /// How many rows the queries touched.
    pub rows: u32,
}

/// Prepares a connection: write-ahead log, no waiting for the disk, up to 5 s for the lock of a writer.
///
/// # Errors
/// Whatever the database says.
pub fn prepare(connection: &Connection) -> Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "off")?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Makes the tables and their first rows.
///
/// # Errors
/// Whatever the database says.
pub fn fill(connection: &mut Connection, seeds: &[Seed]) -> Result<()> {
    connection.execute_batch(SCHEMA)?;
    let transaction = connection.transaction()?;
    for seed in seeds {
        let document = add_document(&transaction, &seed.file_id)?;
        add_version(&transaction, document, 1, seed.rows)?;
        let mut insert = transaction.prepare_cached("INSERT INTO changes VALUES (?1, 1, ?2, '', ?3)")?;
        for position in 0..seed.rows {
            insert.execute(params![document, position, "- an item of the outline"])?;
        }
    }
    transaction.commit()
}

fn add_document(transaction: &Transaction<'_>, file_id: &str) -> Result<i64> {
    transaction.prepare_cached("INSERT INTO documents (file_id, title) VALUES (?1, ?1)")?.execute([file_id])?;
    Ok(transaction.last_insert_rowid())
}

fn add_version(transaction: &Transaction<'_>, document: i64, version: u32, changes: u32) -> Result<()> {
    transaction.prepare_cached("INSERT INTO versions VALUES (?1, ?2, ?3)")?.execute(params![document, version, changes])?;
    Ok(())
}

fn find(connection: &Connection, file_id: &str) -> Result<Option<i64>> {
    connection.prepare_cached("SELECT document FROM documents WHERE file_id = ?1")?.query_row([file_id], |row| row.get(0)).optional()
}

fn version_of(connection: &Connection, document: i64) -> Result<u32> {
    connection.prepare_cached("SELECT max(version) FROM versions WHERE document = ?1")?.query_row([document], |row| row.get(0))
}

/// A number of rows; a request body is far too short for more than fit.
fn counted(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

/// "Anything new since `version`?" It goes through all of the document's change rows, as the sync of 2017 did. None: no such document.
/// All that it says is of one moment: its queries share a transaction.
///
/// # Errors
/// Whatever the database says.
pub fn sync(connection: &mut Connection, file_id: &str, version: u32) -> Result<Option<Synced>> {
    look(&*connection.transaction()?, file_id, version)
}

/// [`sync`] inside of a transaction.
fn look(connection: &Connection, file_id: &str, version: u32) -> Result<Option<Synced>> {
    let Some(document) = find(connection, file_id)? else { return Ok(None) };
    let rows = connection
        .prepare_cached("SELECT count(*) FROM changes WHERE document = ?1 AND length(content) > 0")?
        .query_row([document], |row| row.get(0))?;
    let newer = connection
        .prepare_cached("SELECT change_id, content FROM changes WHERE document = ?1 AND version > ?2")?
        .query_map(params![document, version], |row| Ok(Change { id: row.get(0)?, content: row.get(1)? }))?
        .collect::<Result<Vec<Change>>>()?;
    Ok(Some(Synced { version: version_of(connection, document)?, newer, rows }))
}

/// Applies those changes whose ids are not there yet, as one version, and then does as [`sync`]. None: no such document.
///
/// # Errors
/// Whatever the database says; then nothing is applied.
pub fn change(connection: &mut Connection, file_id: &str, version: u32, changes: &[Change]) -> Result<Option<Synced>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Some(document) = find(&transaction, file_id)? else { return Ok(None) };
    apply(&transaction, document, changes)?;
    let synced = look(&transaction, file_id, version)?;
    transaction.commit()?;
    Ok(synced)
}

fn apply(transaction: &Transaction<'_>, document: i64, changes: &[Change]) -> Result<()> {
    let mut missing = Vec::with_capacity(changes.len());
    for change in changes {
        let there = transaction.prepare_cached("SELECT 1 FROM changes WHERE change_id = ?1")?.exists([&change.id])?;
        if !there {
            missing.push(change);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let version = version_of(transaction, document)? + 1;
    add_version(transaction, document, version, counted(missing.len()))?;
    for (position, change) in (0_u32..).zip(missing) {
        transaction.prepare_cached("INSERT INTO changes VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
            document,
            version,
            position,
            change.id,
            change.content
        ])?;
    }
    Ok(())
}

/// Makes a document of what was imported, unless the same import is there already.
///
/// # Errors
/// Whatever the database says; then nothing is applied.
pub fn import(connection: &mut Connection, file_id: &str, items: &[Change]) -> Result<Synced> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if find(&transaction, file_id)?.is_none() {
        let document = add_document(&transaction, file_id)?;
        add_version(&transaction, document, 1, 0)?;
        apply(&transaction, document, items)?;
    }
    transaction.commit()?;
    let rows = counted(items.len());
    Ok(Synced { version: 1, newer: Vec::new(), rows })
}

/// The versions of those documents that there are, and how many rows that touched.
///
/// # Errors
/// Whatever the database says.
pub fn versions(connection: &Connection, file_ids: &[String]) -> Result<(Vec<(String, u32)>, u32)> {
    let mut versions = Vec::with_capacity(file_ids.len());
    for file_id in file_ids {
        if let Some(document) = find(connection, file_id)? {
            versions.push((file_id.clone(), version_of(connection, document)?));
        }
    }
    let rows = counted(versions.len());
    Ok((versions, rows))
}

/// How often each change id stands in the database; ids that were given by a client only.
///
/// # Errors
/// Whatever the database says.
pub fn applied(connection: &Connection) -> Result<Vec<(String, u32)>> {
    connection
        .prepare("SELECT change_id, count(*) FROM changes WHERE change_id <> '' GROUP BY change_id")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let mut connection = Connection::open_in_memory().expect("memory");
        fill(&mut connection, &[Seed { file_id: "a".to_owned(), rows: 7 }]).expect("filled");
        connection
    }

    fn typed(id: &str) -> Change {
        Change { id: id.to_owned(), content: "typed".to_owned() }
    }

    #[test]
    fn a_change_is_applied_once_however_often_it_is_sent() {
        let mut connection = database();
        let first = change(&mut connection, "a", 1, &[typed("x")]).expect("applied").expect("there");
        let second = change(&mut connection, "a", 1, &[typed("x"), typed("y")]).expect("applied").expect("there");
        assert_eq!((first.version, first.rows), (2, 8));
        assert_eq!((second.version, second.newer), (3, vec![typed("x"), typed("y")]));
        assert_eq!(applied(&connection).expect("read"), [("x".to_owned(), 1), ("y".to_owned(), 1)]);
    }

    #[test]
    fn a_sync_goes_through_every_row_though_nothing_is_new() {
        let mut connection = database();
        assert_eq!(sync(&mut connection, "a", 1).expect("read"), Some(Synced { version: 1, newer: Vec::new(), rows: 7 }));
        assert_eq!(sync(&mut connection, "b", 1).expect("read"), None);
    }

    #[test]
    fn a_sync_beside_a_write_tells_a_version_with_all_its_changes() {
        let folder = crate::lab::folder::Folder::new().expect("made");
        let path = folder.path().join("a.db");
        let open = || {
            let connection = Connection::open(&path).expect("opened");
            prepare(&connection).expect("prepared");
            connection
        };
        let (mut writer, mut reader) = (open(), open());
        fill(&mut writer, &[Seed { file_id: "a".to_owned(), rows: 7 }]).expect("filled");
        let writing = std::thread::spawn(move || {
            for number in 0..400 {
                change(&mut writer, "a", 1, &[typed(&number.to_string())]).expect("applied");
            }
        });
        while !writing.is_finished() {
            let synced = sync(&mut reader, "a", 1).expect("read").expect("there");
            assert_eq!(counted(synced.newer.len()), synced.version - 1);
        }
        writing.join().expect("it wrote");
    }

    #[test]
    fn an_import_that_is_sent_again_changes_nothing() {
        let mut connection = database();
        for _ in 0..2 {
            import(&mut connection, "new", &[typed("i")]).expect("imported");
        }
        assert_eq!(applied(&connection).expect("read"), [("i".to_owned(), 1)]);
        let (known, rows) = versions(&connection, &["a".to_owned(), "new".to_owned(), "none".to_owned()]).expect("read");
        assert_eq!((known, rows), (vec![("a".to_owned(), 1), ("new".to_owned(), 2)], 2));
    }
}
