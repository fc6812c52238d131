//! The store that the configuration names.

use super::cassandra::CassandraStore;
use super::embedded::EmbeddedStore;
use super::{Session, Store, StoreError, StoredPosition};
use crate::model::ids::{ChannelId, PartitionId, UserId};
use crate::model::read_state::ReadState;
use crate::partition::io::{LoadKey, LoadedRow, Write};

/// One of the stores.
#[derive(Clone)]
pub enum EitherStore {
    /// `store.kind = "cassandra"`.
    Cassandra(CassandraStore),
    /// `store.kind = "embedded"`.
    Embedded(EmbeddedStore),
}

impl Store for EitherStore {
    async fn load(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        match self {
            EitherStore::Cassandra(store) => store.load(key).await,
            EitherStore::Embedded(store) => store.load(key).await,
        }
    }

    async fn write(&self, write: &Write) -> Result<(), StoreError> {
        match self {
            EitherStore::Cassandra(store) => store.write(write).await,
            EitherStore::Embedded(store) => store.write(write).await,
        }
    }

    async fn load_user(
        &self,
        user: UserId,
        above: ChannelId,
        limit: usize,
    ) -> Result<Vec<(ChannelId, ReadState)>, StoreError> {
        match self {
            EitherStore::Cassandra(store) => store.load_user(user, above, limit).await,
            EitherStore::Embedded(store) => store.load_user(user, above, limit).await,
        }
    }

    async fn store_position(
        &self,
        partition: PartitionId,
        position: &StoredPosition,
    ) -> Result<(), StoreError> {
        match self {
            EitherStore::Cassandra(store) => store.store_position(partition, position).await,
            EitherStore::Embedded(store) => store.store_position(partition, position).await,
        }
    }

    async fn load_position(&self, partition: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        match self {
            EitherStore::Cassandra(store) => store.load_position(partition).await,
            EitherStore::Embedded(store) => store.load_position(partition).await,
        }
    }

    fn for_session(&self, session: &Session) -> Self {
        match self {
            EitherStore::Cassandra(store) => EitherStore::Cassandra(store.for_session(session)),
            EitherStore::Embedded(store) => EitherStore::Embedded(store.for_session(session)),
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            EitherStore::Cassandra(store) => store.is_shared(),
            EitherStore::Embedded(store) => store.is_shared(),
        }
    }
}
