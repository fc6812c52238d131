//! Rows in Cassandra or ScyllaDB.
//!
//! Every write has a place in the log as its timestamp, so an older row never replaces a newer one and every statement
//! can be repeated. A row whose timestamp is not the place that it carries was not written by us, and is refused.

mod connect;
mod groups;
mod pace;
mod schema;
mod statements;
mod tls;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use scylla::client::session::Session;
use scylla::response::query_result::{QueryResult, QueryRowsResult};
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::Semaphore;

pub use self::connect::ConnectError;
pub use self::groups::{GROUP_PAIRS_MAX, GROUP_ROWS_MAX, GROUPS_IN_FLIGHT_MAX};
use self::groups::{Suspects, Wanted};
use self::pace::Pace;
pub use self::schema::GENERATION;
use self::statements::Statements;
use super::gather::Gathering;
use super::rows::{self, RowName};
use super::{Store, StoreError, StoredPosition};
use crate::model::ids::{ChannelId, LogPosition, PartitionId, ReadStateKey, UserId};
use crate::model::read_state::ReadState;
use crate::ops::metrics::StoreMetrics;
use crate::partition::io::{LoadKey, LoadedRow, NodeKey, Write};

/// How long a request may take. Longer than the server's own limits (2 s for a write, 5 s for a read by default), since
/// its word is better than ours: a request that we give up keeps its place in the connection until it is answered.
pub const REQUEST_TIMEOUT_MS: u64 = 6_000;
/// How long it may take to find the cluster and to connect.
pub const CONNECT_TIMEOUT_MS: u64 = 30_000;
/// How long a change of the schema may take until all nodes have it.
pub const SCHEMA_TIMEOUT_MS: u64 = 60_000;
/// How often an idle connection is probed, and how long a probe may take.
pub const KEEPALIVE_MS: u64 = 10_000;
/// Writes under way at once; others wait. More than this makes Cassandra slower, not faster. Fewer where it is slow.
pub const WRITES_IN_FLIGHT_MAX: usize = 1024;
/// Reads of users and positions under way at once; others wait. Apart from the writes, so that someone who asks does not
/// wait for these.
pub const READS_IN_FLIGHT_MAX: usize = 512;

/// Where the rows are and how to get there: `[store.cassandra]` of the configuration. Empty settings are nothing here.
#[derive(Clone, Debug)]
pub struct CassandraConfig {
    /// Some of the nodes, `host:port`; the others are found.
    pub nodes: Vec<String>,
    /// Where the tables are: letters, digits and `_`, up to 48. Case counts.
    pub keyspace: String,
    /// Whether to create the keyspace and the tables where they are missing.
    pub create_schema: bool,
    /// The `replication` of a keyspace that is created: a CQL map.
    pub replication: String,
    /// The local datacenter: only its nodes are asked, and a quorum of them is enough. Nothing: nodes of all datacenters
    /// are asked, and a quorum of all of them is needed.
    pub datacenter: Option<String>,
    /// Whom to log in as.
    pub username: Option<String>,
    /// With which password.
    pub password: Option<Password>,
    /// PEM file: who may have signed the nodes' certificates, which must name the addresses of the nodes. TLS is on where
    /// this is given.
    pub tls_ca: Option<PathBuf>,
    /// PEM file: our certificate, with those between it and the root.
    pub tls_cert: Option<PathBuf>,
    /// PEM file: the key of our certificate.
    pub tls_key: Option<PathBuf>,
}

/// A password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A connected store. Clones share everything.
#[derive(Clone)]
pub struct CassandraStore {
    shared: Arc<Shared>,
}

struct Shared {
    session: Session,
    statements: Statements,
    metrics: StoreMetrics,
    datacenter: Option<String>,
    writes: Pace,
    reads: Semaphore,
    loads: Arc<Gathering<Wanted, Result<LoadedRow, StoreError>>>,
    suspects: Suspects,
}

/// A row's `state`, and its write timestamp.
type Cells<'a> = (Option<&'a [u8]>, Option<i64>);

impl CassandraStore {
    /// Connects, and creates the keyspace and the tables where they are missing and that is allowed.
    ///
    /// # Errors
    /// One line that says what is the matter and what to do, and whether to wait.
    pub async fn connect(config: &CassandraConfig) -> Result<Self, ConnectError> {
        let session = connect::session(config).await?;
        schema::ensure(&session, config).await?;
        let statements = Statements::prepare(&session, &config.keyspace).await?;
        let shared = Arc::new(Shared {
            session,
            statements,
            metrics: StoreMetrics::new(),
            datacenter: config.datacenter.clone(),
            writes: Pace::new(WRITES_IN_FLIGHT_MAX),
            reads: Semaphore::new(READS_IN_FLIGHT_MAX),
            loads: Gathering::new(groups::wants_reader),
            suspects: Suspects::default(),
        });
        Ok(CassandraStore { shared })
    }

    /// Runs a statement that writes a row.
    async fn execute_write(
        &self,
        row: RowName,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), StoreError> {
        let place = self.shared.writes.enter().await;
        let started = Instant::now();
        let result = self.shared.session.execute_unpaged(statement, values).await;
        let result = result.map(drop).map_err(|error| unanswered(row, error));
        self.shared
            .metrics
            .writes
            .ended(result.is_ok(), started.elapsed());
        place.ended(result.is_err());
        result
    }

    /// Runs a statement that reads rows, and makes something of them.
    async fn execute_read<T>(
        &self,
        what: impl fmt::Display,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        make: impl FnOnce(&QueryRowsResult) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _permit = self.shared.reads.acquire().await;
        let started = Instant::now();
        let result = self.shared.session.execute_unpaged(statement, values).await;
        let result = result
            .map_err(|error| unanswered(&what, error))
            .and_then(|result| rows_of(&what, result))
            .and_then(|rows| make(&rows));
        self.shared.metrics.reads.ended(result.is_ok(), started.elapsed());
        result
    }

    /// Reads a row by its whole key.
    async fn read_row<T>(
        &self,
        row: RowName,
        statement: &PreparedStatement,
        key: impl SerializeRow,
        decode: impl FnOnce(Option<(i64, &[u8])>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let make = |rows: &QueryRowsResult| {
            let cells = rows
                .maybe_first_row::<Cells>()
                .map_err(|error| unexpected(row, error))?;
            // Without a state or a timestamp it decodes to an error.
            decode(cells.map(|(state, at)| (at.unwrap_or_default(), state.unwrap_or_default())))
        };
        self.execute_read(row, statement, key, make).await
    }

    /// Reads a row by a statement of its own.
    async fn load_one(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        let statements = &self.shared.statements;
        match key {
            LoadKey::ReadState(of) => {
                let columns = (bigint(of.user.0), bigint(of.channel.0));
                let statement = &statements.select_read_state;
                self.load_by(key, RowName::ReadState(of), statement, columns)
                    .await
            }
            LoadKey::Head(channel) => {
                let columns = (bigint(channel.0),);
                let statement = &statements.select_head;
                self.load_by(key, RowName::Head(channel), statement, columns)
                    .await
            }
            LoadKey::Node(node, version) => {
                let (channel, level, first) = node_columns(node);
                let columns = (channel, level, first, timestamp(version));
                let statement = &statements.select_node;
                self.load_by(key, RowName::Node(node, version), statement, columns)
                    .await
            }
        }
    }

    async fn load_by(
        &self,
        key: LoadKey,
        row: RowName,
        statement: &PreparedStatement,
        columns: impl SerializeRow,
    ) -> Result<LoadedRow, StoreError> {
        let make = |cells: Option<(i64, &[u8])>| rows::decode(key, cells);
        self.read_row(row, statement, columns, make).await
    }

    async fn write_node(
        &self,
        key: NodeKey,
        version: LogPosition,
        node: &crate::model::channel::Node,
    ) -> Result<(), StoreError> {
        let (row, state) = (
            RowName::Node(key, version),
            rows::encode_node(key, version, node)?,
        );
        let (channel, level, first) = node_columns(key);
        let values = (
            channel,
            level,
            first,
            timestamp(version),
            state,
            timestamp(version),
        );
        self.execute_write(row, &self.shared.statements.insert_node, values)
            .await
    }

    async fn delete_nodes_below(&self, key: NodeKey, version: LogPosition) -> Result<(), StoreError> {
        let (channel, level, first) = node_columns(key);
        let values = (timestamp(version), channel, level, first, timestamp(version));
        let row = RowName::Node(key, version);
        self.execute_write(row, &self.shared.statements.delete_nodes_below, values)
            .await
    }
}

impl Store for CassandraStore {
    async fn load(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        let wanted = Wanted {
            key,
            is_suspect: self.shared.suspects.take(&key),
            replica: self.replica_of(key),
        };
        let (row, reader) = self.shared.loads.ask(wanted);
        if let Some(reader) = reader {
            tokio::spawn(self.clone().read_groups(reader));
        }
        // It ends without an answer only as the process does.
        row.await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("{key:?}: not read, ending"))))
    }

    async fn write(&self, write: &Write) -> Result<(), StoreError> {
        let statements = &self.shared.statements;
        match write {
            Write::ReadState(key, state) => {
                let encoded = rows::encode_read_state(*key, state)?;
                let values = (
                    bigint(key.user.0),
                    bigint(key.channel.0),
                    encoded,
                    timestamp(state.applied),
                );
                self.execute_write(RowName::ReadState(*key), &statements.insert_read_state, values)
                    .await
            }
            Write::Node(key, version, node) => self.write_node(*key, *version, node).await,
            Write::Head(channel, head) => {
                let values = (
                    bigint(channel.0),
                    rows::encode_head(*channel, head)?,
                    timestamp(head.applied),
                );
                self.execute_write(RowName::Head(*channel), &statements.insert_head, values)
                    .await
            }
            Write::DeleteNodesBelow(key, version) => self.delete_nodes_below(*key, *version).await,
        }
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
        let what = format!("read_states rows of user_id={user} above channel_id={above}");
        let make = |rows: &QueryRowsResult| {
            let rows = rows.rows::<(i64, Option<&[u8]>, Option<i64>)>();
            let mut states = Vec::new();
            for row in rows.map_err(|error| unexpected(&what, error))? {
                let (channel, state, at) = row.map_err(|error| unexpected(&what, error))?;
                let channel = ChannelId(channel.cast_unsigned());
                let key = ReadStateKey { user, channel };
                let state = rows::decode_read_state(key, at.unwrap_or_default(), state.unwrap_or_default())?;
                states.push((channel, state));
            }
            Ok(states)
        };
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let values = (bigint(user.0), bigint(above.0), limit);
        self.execute_read(&what, &self.shared.statements.select_user, values, make)
            .await
    }

    async fn store_position(
        &self,
        partition: PartitionId,
        position: &StoredPosition,
    ) -> Result<(), StoreError> {
        let state = rows::encode_position(partition, position)?;
        let values = (partition.0.cast_signed(), state, timestamp(position.durable));
        let row = RowName::Position(partition);
        self.execute_write(row, &self.shared.statements.insert_position, values)
            .await
    }

    async fn load_position(&self, partition: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        let columns = (partition.0.cast_signed(),);
        let decode = |cells: Option<(i64, &[u8])>| {
            let position = cells.map(|(at, state)| rows::decode_position(partition, at, state));
            Ok(position.transpose()?)
        };
        let row = RowName::Position(partition);
        self.read_row(row, &self.shared.statements.select_position, columns, decode)
            .await
    }
}

/// Ids are at most 2^63-1.
fn bigint(id: u64) -> i64 {
    id.cast_signed()
}

fn node_columns(key: NodeKey) -> (i64, i8, i64) {
    (bigint(key.channel.0), key.level as i8, bigint(key.first.0))
}

fn timestamp(position: LogPosition) -> i64 {
    position.to_bits().cast_signed()
}

/// Some errors of the driver have several lines, and one line of the log tells what happened.
fn unanswered(what: impl fmt::Display, error: impl fmt::Display) -> StoreError {
    let error = error.to_string();
    let words: Vec<&str> = error.split_whitespace().collect();
    StoreError::Unavailable(format!("{what}: {}", words.join(" ")))
}

/// The answer has another shape than the tables that we created give.
fn unexpected(what: impl fmt::Display, error: impl fmt::Display) -> StoreError {
    StoreError::Unusable(format!(
        "{what}: {error}; the tables are not as in schemas/tables.cql: put them right and restart"
    ))
}

fn rows_of(what: impl fmt::Display, result: QueryResult) -> Result<QueryRowsResult, StoreError> {
    result.into_rows_result().map_err(|error| unexpected(what, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_says_is_one_line() {
        let said = unanswered("a row", "the channel is closed.\n        It was broken before.\n");
        let expected = "the store failed: a row: the channel is closed. It was broken before.";
        assert_eq!(said.to_string(), expected);
    }
}
