//! Rows in files of this process: fjall, a log-structured store with a journal.
//!
//! What is acknowledged was synced before. An older row never replaces a newer one: one thread makes all changes, and
//! compares each with what is there, unless it knows that nothing newer is (`order.rs`). A folder is used by one process at a time, so an embedded store is for one instance.

mod batch;
mod fault;
mod folder;
mod keys;
mod memtable;
mod order;
mod writer;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::config::{PartitioningPolicy, PinningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use self::batch::{Batch, Change, Row};
use self::folder::Folder;
use self::memtable::Sizes;
use self::order::Order;
use self::writer::{Broken, Waiting, Writer};
use super::gather::{self, Gathering, Reader};
use super::rows::{self, RowName};
use super::{Session, Store, StoreError, StoredPosition};
use crate::model::ids::{ChannelId, LogPosition, PartitionId, ReadStateKey, UserId};
use crate::model::read_state::ReadState;
use crate::ops::metrics::StoreMetrics;
use crate::partition::io::{LoadKey, LoadedRow, Write};

pub use self::folder::FOLDER_VERSION;
pub use self::memtable::{BACKGROUND_THREADS, MEMTABLE_BYTES_MAX, MEMTABLE_BYTES_MIN, MEMTABLE_PART};
pub use self::writer::{COMMIT_BYTES_MAX, COMMIT_CHANGES_MAX};

/// Changes that wait for the writer; others wait to be let in.
pub const CHANGES_WAITING_MAX: usize = 4096;
/// Reads of users and positions under way at once; others wait.
pub const READS_IN_FLIGHT_MAX: usize = 64;
/// Threads that read rows by their keys, each one after the other.
pub const READERS_MAX: usize = 64;
/// Rows that a thread takes at once, and that must wait for each thread before there is another.
pub const ROWS_A_READER: usize = 16;
/// Blocks of files that the database keeps in memory. What is asked of the store is cold, so more would not help.
pub const BLOCK_CACHE_BYTES: u64 = 8 << 20;
/// After so long without an acknowledgement it is looked whether the database is broken: it holds writes back for as
/// long as its own threads have not made room, and these may have ended.
pub const STALL_LOOK_MS: u64 = 2_000;

/// All rows are in this keyspace of the database.
const KEYSPACE: &str = "rows";

/// Why there is no store, and what to do, in one line. Waiting does not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

/// An open store. Clones share everything; the folder is given back with the last one.
#[derive(Clone)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// Who writes with this one.
    session: Option<Session>,
}

struct Shared {
    path: PathBuf,
    database: Database,
    rows: Keyspace,
    /// Dropped first, which ends the writer.
    inbox: Option<mpsc::Sender<Waiting>>,
    writer: Option<JoinHandle<()>>,
    reads: Arc<Semaphore>,
    loads: Arc<Gathering<LoadKey, Result<LoadedRow, StoreError>>>,
    metrics: StoreMetrics,
    broken: Broken,
    is_looking: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.inbox = None;
        if let Some(writer) = self.writer.take() {
            // A panic in it was logged as such, and what it had not acknowledged is nobody's any more.
            let _ = writer.join();
        }
    }
}

impl EmbeddedStore {
    /// Opens the store in this folder, and makes it where it is missing.
    ///
    /// # Errors
    /// One line with the folder, what is the matter and what to do.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let folder = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || open(&folder)).await;
        // Some damaged files make the database panic.
        opened.unwrap_or_else(|_| {
            Err(OpenError(fault::damaged(
                path,
                "reading it failed, as said above",
            )))
        })
    }

    /// Makes a change, and returns once it is durable.
    async fn write_change(&self, change: Change) -> Result<(), StoreError> {
        let started = Instant::now();
        let result = self.make_durable(change).await;
        self.shared
            .metrics
            .writes
            .ended(result.is_ok(), started.elapsed());
        result
    }

    async fn make_durable(&self, change: Change) -> Result<(), StoreError> {
        self.check_whole()?;
        let (done, mut durable) = oneshot::channel();
        let Some(inbox) = &self.shared.inbox else {
            return Err(self.writer_ended());
        };
        let sent = inbox.send(Waiting { change, done }).await;
        sent.map_err(|_| self.writer_ended())?;
        loop {
            match timeout(Duration::from_millis(STALL_LOOK_MS), &mut durable).await {
                Ok(done) => return done.unwrap_or_else(|_| Err(self.writer_ended())),
                Err(_) => self.look_for_the_end().await?,
            }
        }
    }

    /// # Errors
    /// If the database has given up.
    async fn look_for_the_end(&self) -> Result<(), StoreError> {
        if !self.shared.is_looking.swap(true, Ordering::Relaxed) {
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || {
                // Says so without writing anything: whatever was written was handed over to the system already.
                if let Err(error) = shared.database.persist(PersistMode::Buffer) {
                    shared
                        .broken
                        .get_or_init(|| fault::on_writing(&shared.path, &error));
                }
                shared.is_looking.store(false, Ordering::Relaxed);
            });
        }
        self.check_whole()
    }

    /// # Errors
    /// If it is known to be broken.
    fn check_whole(&self) -> Result<(), StoreError> {
        match self.shared.broken.get() {
            Some(why) => Err(StoreError::Broken(why.clone())),
            None => Ok(()),
        }
    }

    fn writer_ended(&self) -> StoreError {
        let why = || {
            format!(
                "the thread that writes the embedded store in {} has ended, which is a bug in readstates: please \
                 report it with what the log says above, and start this again",
                self.shared.path.display()
            )
        };
        StoreError::Broken(self.shared.broken.get_or_init(why).clone())
    }

    /// Reads on a thread that may wait for the disk: most reads are answered from memory within microseconds, but one
    /// that is not must not hold up everybody's questions.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_whole()?;
        // Never closed, so there always is a permit.
        let permit = Arc::clone(&self.shared.reads).acquire_owned().await;
        let started = Instant::now();
        let shared = Arc::clone(&self.shared);
        let result = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(&shared)
        })
        .await
        .unwrap_or_else(|error| {
            let why = fault::damaged(&self.shared.path, error);
            Err(StoreError::Unusable(why))
        });
        self.shared.metrics.reads.ended(result.is_ok(), started.elapsed());
        result
    }
}

impl Shared {
    /// Reads until nothing waits any more.
    fn read_rows(&self, mut reader: Reader<LoadKey, Result<LoadedRow, StoreError>>) {
        while let Some(waiting) = reader.next(ROWS_A_READER, |_| true) {
            for gather::Waiting { key, done } in waiting {
                let started = Instant::now();
                // Some damaged files make the database panic.
                let row = catch_unwind(AssertUnwindSafe(|| self.read_row(key))).unwrap_or_else(|_| {
                    let why = fault::damaged(&self.path, format_args!("reading {key:?} failed"));
                    Err(StoreError::Unusable(why))
                });
                self.metrics.reads.ended(row.is_ok(), started.elapsed());
                // Nobody may be waiting any more.
                let _ = done.send(row);
            }
        }
    }

    fn read_row(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        let (row, place) = match key {
            LoadKey::ReadState(key) => (RowName::ReadState(key), keys::read_state(key)),
            LoadKey::Head(channel) => (RowName::Head(channel), keys::head(channel)),
            LoadKey::Node(key, version) => (RowName::Node(key, version), keys::node(key, version)),
        };
        let found = self.rows.get(place).map_err(|error| self.unread(row, &error))?;
        rows::decode(key, found.as_deref().map(parts))
    }

    fn unread(&self, what: impl fmt::Display, error: &fjall::Error) -> StoreError {
        if fault::is_damage(error) {
            let why = format!("the {what} can't be read: {error:?}");
            return StoreError::Unusable(fault::damaged(&self.path, why));
        }
        let why = self.broken.get_or_init(|| fault::on_reading(&self.path, error));
        StoreError::Broken(why.clone())
    }
}

impl Store for EmbeddedStore {
    /// Rows are read on threads that may wait for the disk: most are in memory and found within microseconds, but one that
    /// is not must not hold up everybody's questions.
    async fn load(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        self.check_whole()?;
        let (row, reader) = self.shared.loads.ask(key);
        if let Some(reader) = reader {
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || shared.read_rows(reader));
        }
        // It ends without an answer only as the process does.
        row.await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("{key:?}: not read, ending"))))
    }

    async fn write(&self, write: &Write) -> Result<(), StoreError> {
        let change = match write {
            Write::ReadState(key, state) => {
                let encoded = rows::encode_read_state(*key, state)?;
                let row = row(keys::read_state(*key), state.applied, &encoded);
                Change::Newest(row, self.session.clone())
            }
            Write::Head(channel, head) => {
                let encoded = rows::encode_head(*channel, head)?;
                let row = row(keys::head(*channel), head.applied, &encoded);
                Change::Newest(row, self.session.clone())
            }
            Write::Node(key, version, node) => {
                let encoded = rows::encode_node(*key, *version, node)?;
                Change::Node(*key, *version, keys::row(*version, &encoded))
            }
            Write::DeleteNodesBelow(key, version) => Change::DeleteNodesBelow(*key, *version),
        };
        self.write_change(change).await
    }

    async fn load_user(
        &self,
        user: UserId,
        above: ChannelId,
        limit: usize,
    ) -> Result<Vec<(ChannelId, ReadState)>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.read(move |shared| {
            let what = || format!("read_states rows of user_id={user} above channel_id={above}");
            let key = |channel| ReadStateKey { user, channel };
            // Just above the key itself.
            let mut begin = keys::read_state(key(above));
            begin.push(0);
            let mut states = Vec::new();
            for row in shared.rows.range(begin..keys::end_of(user)).take(limit) {
                let (found, row) = row.into_inner().map_err(|error| shared.unread(what(), &error))?;
                let channel = keys::channel_of(&found).ok_or_else(|| {
                    let why = format!("the {} have a key that is none", what());
                    StoreError::Unusable(fault::damaged(&shared.path, why))
                })?;
                let (at, state) = parts(&row);
                states.push((channel, rows::decode_read_state(key(channel), at, state)?));
            }
            Ok(states)
        })
        .await
    }

    async fn store_position(
        &self,
        partition: PartitionId,
        position: &StoredPosition,
    ) -> Result<(), StoreError> {
        let state = rows::encode_position(partition, position)?;
        let row = row(keys::position(partition), position.durable, &state);
        self.write_change(Change::Position(row)).await
    }

    async fn load_position(&self, partition: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        self.read(move |shared| {
            let found = shared.rows.get(keys::position(partition));
            let row = RowName::Position(partition);
            let found = found.map_err(|error| shared.unread(row, &error))?;
            let position = found.as_deref().map(parts);
            let position = position.map(|(at, state)| rows::decode_position(partition, at, state));
            Ok(position.transpose()?)
        })
        .await
    }

    fn for_session(&self, session: &Session) -> Self {
        EmbeddedStore {
            shared: Arc::clone(&self.shared),
            session: Some(session.clone()),
        }
    }

    /// These files are of one process.
    fn is_shared(&self) -> bool {
        false
    }
}

/// Few may wait for the disk before there is another thread, and many rows that are in memory need one or two.
fn wants_reader(readers: usize, waiting: usize) -> bool {
    readers < READERS_MAX && (readers == 0 || waiting > readers * ROWS_A_READER)
}

fn row(key: Vec<u8>, at: LogPosition, state: &[u8]) -> Row {
    let row = keys::row(at, state);
    Row { key, at, row }
}

/// The write time of a row, and its `state`. A row that is too short decodes to an error.
fn parts(row: &[u8]) -> (i64, &[u8]) {
    let (at, state) = keys::parts(row).unwrap_or_default();
    (at.cast_signed(), state)
}

fn open(path: &Path) -> Result<EmbeddedStore, OpenError> {
    let folder = Folder::take(path)?;
    let refused = |error: fjall::Error| OpenError(fault::on_opening(path, &error));
    check_database_version(path, &folder.rows())?;
    let sizes = Sizes::of(&folder);
    let database = Database::builder(folder.rows())
        .cache_size(BLOCK_CACHE_BYTES)
        .worker_threads(sizes.background_threads)
        .open()
        .map_err(refused)?;
    // Filters and indexes are two bytes for each row. From the cache, each look at what is there would read some of them anew.
    let options = || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(memtable::ASKED_FOR_BYTES)
            .filter_block_partitioning_policy(PartitioningPolicy::all(false))
            .index_block_partitioning_policy(PartitioningPolicy::all(false))
            .filter_block_pinning_policy(PinningPolicy::all(true))
            .index_block_pinning_policy(PinningPolicy::all(true))
    };
    let rows = database.keyspace(KEYSPACE, options).map_err(refused)?;
    let commits = check_commits(&folder, &database, &rows)?;
    let order = read_order(&folder, &rows)?;

    let (inbox, waiting) = mpsc::channel(CHANGES_WAITING_MAX);
    let broken = Broken::default();
    let writer = Writer {
        inbox: waiting,
        database: database.clone(),
        rows: rows.clone(),
        folder,
        commits,
        order,
        memtable_bytes_max: sizes.memtable_bytes_max,
        broken: Arc::clone(&broken),
    };
    let writer = std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || writer.run())
        .map_err(|error| OpenError(fault::unusable(path, &error)))?;
    let shared = Arc::new(Shared {
        path: path.to_owned(),
        database,
        rows,
        inbox: Some(inbox),
        writer: Some(writer),
        reads: Arc::new(Semaphore::new(READS_IN_FLIGHT_MAX)),
        loads: Gathering::new(wants_reader),
        metrics: StoreMetrics::new(),
        broken,
        is_looking: AtomicBool::new(false),
    });
    Ok(EmbeddedStore {
        shared,
        session: None,
    })
}

/// A newer database is told from a damaged one.
fn check_database_version(path: &Path, rows: &Path) -> Result<(), OpenError> {
    const KNOWN: u8 = 3;
    match std::fs::read(rows.join("version")).as_deref() {
        Ok([b'F', b'J', b'L', version, ..]) if *version > KNOWN => {
            let what = format!("its database has version {version}, and this one knows up to {KNOWN}");
            Err(OpenError(fault::newer(path, &what)))
        }
        // Missing in a new folder, and else found out when it is opened.
        _ => Ok(()),
    }
}

/// How many commits there were; the first one is made here. Every one that was acknowledged must be there.
fn check_commits(folder: &Folder, database: &Database, rows: &Keyspace) -> Result<u64, OpenError> {
    let refused = |error: fjall::Error| OpenError(fault::on_opening(folder.path(), &error));
    if folder.is_new {
        const FIRST: u64 = 1;
        let first = Batch::new(rows).commit(database, &mut Order::default(), FIRST);
        first.map_err(refused)?;
        let noted = folder.note(FIRST);
        noted.map_err(|error| OpenError(fault::unusable(folder.path(), &error)))?;
        folder.finish()?;
        return Ok(FIRST);
    }
    let acknowledged = folder.acknowledged()?;
    let commits = rows.get(keys::COMMITS).map_err(refused)?;
    let commits = commits.and_then(|commits| keys::number(&commits)).unwrap_or(0);
    if commits < acknowledged {
        let why = format!("it ends with commit {commits}, and commit {acknowledged} was acknowledged");
        return Err(OpenError(fault::damaged(folder.path(), why)));
    }
    Ok(commits)
}

/// How far partitions were written. Folders of earlier versions don't say.
fn read_order(folder: &Folder, rows: &Keyspace) -> Result<Order, OpenError> {
    if !folder.says_order() {
        return Ok(Order::unknown());
    }
    let mut order = Order::default();
    for row in rows.prefix(keys::NEWEST) {
        let (key, newest) = row
            .into_inner()
            .map_err(|error| OpenError(fault::on_opening(folder.path(), &error)))?;
        let (Some(partition), Some(newest)) = (keys::partition_of(&key), keys::number(&newest)) else {
            let why = "what says how far a partition was written can't be read";
            return Err(OpenError(fault::damaged(folder.path(), why)));
        };
        order.saw_committed(partition, LogPosition::from_bits(newest));
    }
    Ok(order)
}
