//! The pool of database connections with its queue, as app servers have one: who finds none free waits, first come, first served,
//! for however long it takes.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::store;
use crate::{
    clock::{self, Moment},
    lab::kind::{Kind, PerKind},
};

/// A fixed number of connections to one database.
#[derive(Debug)]
pub struct Pool {
    path: PathBuf,
    slots: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    waiting: BTreeSet<(Moment, u64)>,
    arrivals: u64,
    busy: usize,
    last_wait: Duration,
    spent: PerKind<Duration>,
    unchanged: Duration,
}

/// The pool at a moment; times by the clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolView {
    /// Connections in use.
    pub busy: usize,
    /// Requests that wait for one.
    pub waiting: usize,
    /// How long the one that waits longest has waited, or, if none waits, the last one did.
    pub wait: Duration,
    /// How long connections were held, by kind.
    pub spent: PerKind<Duration>,
    /// How much of it for syncs that brought nothing and found nothing new.
    pub unchanged: Duration,
}

/// A connection of the pool, given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    connection: Option<Connection>,
    /// Since when it is held.
    pub since: Moment,
    /// Whose time it is.
    pub kind: Kind,
    /// Whether it is for a sync that brings nothing and finds nothing new.
    pub unchanged: bool,
    /// How often the database was asked.
    pub queries: u32,
    _slot: OwnedSemaphorePermit,
}

/// Why a query has no result.
#[derive(Debug)]
pub enum Failure {
    /// The database said no.
    Database(rusqlite::Error),
    /// The service is being stopped.
    Stopped,
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// A waiter's place, given up when it is dropped.
struct Place<'a>(&'a Pool, (Moment, u64));

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting.remove(&self.1);
    }
}

impl Pool {
    /// Opens `connections` connections to the database at `path`.
    ///
    /// # Errors
    /// Whatever the database says.
    pub fn open(path: &Path, connections: u32) -> store::Result<Self> {
        let mut state = State::default();
        for _ in 0..connections {
            let connection = Connection::open(path)?;
            store::prepare(&connection)?;
            state.idle.push(connection);
        }
        let slots = Arc::new(Semaphore::new(connections as usize));
        Ok(Self { path: path.to_owned(), slots, state: Mutex::new(state) })
    }

    /// Waits for a connection, behind all who came before.
    ///
    /// # Errors
    /// [`Failure::Stopped`] once the pool was closed; [`Failure::Database`] if a lost connection cannot be opened again.
    pub async fn lease(self: &Arc<Self>, kind: Kind) -> Result<Lease, Failure> {
        let arrived = clock::now();
        let place = {
            let mut state = self.state.lock();
            state.arrivals += 1;
            let place = (arrived, state.arrivals);
            state.waiting.insert(place);
            Place(self, place)
        };
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| Failure::Stopped)?;
        drop(place);
        let since = clock::now();
        let idle = {
            let mut state = self.state.lock();
            state.last_wait = since.since(arrived);
            state.busy += 1;
            state.idle.pop()
        };
        let mut lease = Lease { pool: Arc::clone(self), connection: idle, since, kind, unchanged: false, queries: 0, _slot: slot };
        if lease.connection.is_none() {
            let connection = Connection::open(&self.path)?;
            store::prepare(&connection)?;
            lease.connection = Some(connection);
        }
        Ok(lease)
    }

    /// Nobody gets a connection from now on; who waits is told so.
    pub fn close(&self) {
        self.slots.close();
    }

    /// Its state now.
    pub fn view(&self) -> PoolView {
        let state = self.state.lock();
        let wait = state.waiting.first().map_or(state.last_wait, |(arrived, _)| clock::now().since(*arrived));
        PoolView { busy: state.busy, waiting: state.waiting.len(), wait, spent: state.spent, unchanged: state.unchanged }
    }
}

impl Lease {
    /// Really runs a query, on a thread that may block.
    ///
    /// # Errors
    /// What the database says, or that the process is ending.
    pub async fn query<T: Send + 'static>(
        &mut self,
        query: impl FnOnce(&mut Connection) -> store::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut connection = self.connection.take().ok_or(Failure::Stopped)?;
        let (connection, result) = tokio::task::spawn_blocking(move || {
            let result = query(&mut connection);
            (connection, result)
        })
        .await
        .map_err(|_| Failure::Stopped)?;
        self.connection = Some(connection);
        self.queries += 1;
        Ok(result?)
    }

    /// Keeps the connection until `span` by the clock has passed since it was taken, without using the processor.
    pub async fn hold(&mut self, span: Duration) {
        tokio::time::sleep_until(clock::instant(self.since + span)).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.idle.extend(self.connection.take());
        state.busy -= 1;
        let held = clock::now().since(self.since);
        state.spent[self.kind.index()] += held;
        if self.unchanged {
            state.unchanged += held;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::folder::Folder;

    #[tokio::test]
    async fn who_finds_no_connection_waits_behind_those_who_came_before() {
        let folder = Folder::new().expect("made");
        let pool = Arc::new(Pool::open(&folder.path().join("a.db"), 1).expect("opened"));
        let first = pool.lease(Kind::Poll).await.expect("free");
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiters: Vec<_> = (0..3)
            .map(|number| {
                let (pool, order) = (Arc::clone(&pool), Arc::clone(&order));
                tokio::spawn(async move {
                    let mut lease = pool.lease(Kind::Change).await.expect("in turn");
                    order.lock().push(number);
                    lease.query(|connection| connection.query_row("SELECT 1", [], |row| row.get::<_, u32>(0))).await.expect("runs")
                })
            })
            .collect();
        while pool.view().waiting < 3 {
            tokio::task::yield_now().await;
        }
        waiters[1].abort();
        while pool.view().waiting > 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.view().busy, 1);
        drop(first);
        let mut ended = Vec::new();
        for waiter in waiters {
            ended.push(waiter.await.ok());
        }
        assert_eq!(ended, [Some(1), None, Some(1)]);
        assert_eq!(*order.lock(), [0, 2]);
        assert_eq!((pool.view().busy, pool.view().waiting), (0, 0));
    }
}
