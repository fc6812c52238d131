//! Where rows are kept: Cassandra and ScyllaDB, or files of this process.

pub mod cassandra;
pub mod either;
pub mod embedded;
mod gather;
pub mod rows;

use std::future::Future;
use std::sync::Arc;

use crate::model::ids::{ChannelId, PartitionId, UserId};
use crate::model::read_state::ReadState;
use crate::partition::io::{LoadKey, LoadedRow, Write};

/// Which stream a position belongs to. Positions of another stream mean nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamIdentity {
    /// The Kafka topic's id (or the JetStream stream's creation time); empty where it can't be had.
    pub stream_id: String,
    /// How many partitions it has.
    pub partition_count: u32,
    /// `stream.epoch`.
    pub epoch: u32,
}

/// The position row of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPosition {
    /// Every record up to here is in the store.
    pub durable: crate::model::ids::LogPosition,
    /// Of this stream.
    pub stream: StreamIdentity,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, did not answer in time, or refused: trying again can help.
    #[error("the store failed: {0}")]
    Unavailable(String),
    /// A row can't be read or is not ours: trying again can't help.
    #[error("{0}")]
    Unusable(String),
    /// It is older than it was: nothing may be made of its rows, and nothing written over them.
    #[error("{0}")]
    RolledBack(String),
    /// It can't be written or read any more by this process, which has to end.
    #[error("{0}")]
    Broken(String),
}

/// One ownership of a partition. Of each row it writes one version after another, each of a later place in the log and when
/// the former is acknowledged, unless that one is behind what another session wrote.
#[derive(Clone, Debug)]
pub struct Session {
    /// Whose rows it writes.
    pub partition: PartitionId,
    identity: Arc<()>,
}

impl Session {
    /// Is no other one.
    pub fn new(partition: PartitionId) -> Self {
        Session {
            partition,
            identity: Arc::default(),
        }
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &other.identity)
    }
}

impl Eq for Session {}

/// Rows by key. Writes are idempotent, and an older row never replaces a newer one.
pub trait Store: Clone + Send + Sync + 'static {
    /// Reads one row.
    fn load(&self, key: LoadKey) -> impl Future<Output = Result<LoadedRow, StoreError>> + Send;

    /// Writes one row, once; returns when it is in the store. The caller tries again.
    fn write(&self, write: &Write) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reads up to `limit` rows of a user with a channel above `above`, ascending by channel.
    fn load_user(
        &self,
        user: UserId,
        above: ChannelId,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(ChannelId, ReadState)>, StoreError>> + Send;

    /// Stores the position of a partition, once.
    fn store_position(
        &self,
        partition: PartitionId,
        position: &StoredPosition,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reads the position of a partition.
    fn load_position(
        &self,
        partition: PartitionId,
    ) -> impl Future<Output = Result<Option<StoredPosition>, StoreError>> + Send;

    /// The same store, for what this session writes.
    fn for_session(&self, _session: &Session) -> Self {
        self.clone()
    }

    /// Whether all instances have the same rows. Where not, this one knows only those of the partitions that it owns.
    fn is_shared(&self) -> bool {
        true
    }
}
