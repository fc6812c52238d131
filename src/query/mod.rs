//! Questions over NATS: section 3 of the contract.
//!
//! Any instance answers `get`, `overview` and `explain`. It asks the partitions that it owns directly, and the owners of the
//! others over the subjects of their partitions, which exist while a partition is live somewhere. Those never ask on.

mod ask;
mod connection;
mod deadline;
mod error;
mod explain;
mod get;
mod internal;
mod overview;
mod owner;
mod request;
mod service;
mod status;
mod subjects;

pub use ask::ask;
pub use connection::{
    CannotConnect, ConnectError, SUBSCRIPTION_MESSAGES_MAX, connect, connect_once, refused,
};
pub use deadline::TIMEOUT_MS_MAX;
pub use error::{Code, QueryError};
pub use overview::OVERVIEW_ROWS_MAX;
pub use service::{QueryService, REQUESTS_IN_WORK_MAX, ServiceError, ServiceOptions};
pub use subjects::Subjects;

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;

use crate::model::event::EVENT_KINDS;
use crate::model::ids::{ChannelId, Offset, PartitionId, ReadStateKey, UserId};
use crate::model::read_state::ReadState;
use crate::partition::io::{Answer, Failure, Stamp};

/// What the threads that own partitions answer to those who ask.
pub trait Partitions: Statuses {
    /// The partitions that are owned and live here.
    fn live(&self) -> watch::Receiver<BTreeSet<PartitionId>>;

    /// Asks for read states of one partition. [`Unanswered::NotOwned`] where the partition isn't owned here.
    fn get(
        &self,
        partition: PartitionId,
        keys: Vec<ReadStateKey>,
        after: Option<Offset>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<Result<Answer, Failure>>, Unanswered>> + Send;

    /// Asks for one read state and how it comes about ([`Answer::explanation`]).
    fn explain(
        &self,
        partition: PartitionId,
        key: ReadStateKey,
        timeout: Duration,
    ) -> impl Future<Output = Result<Result<Answer, Failure>, Unanswered>> + Send;

    /// Takes a stamp, before the store is read for an overview.
    fn take_stamp(
        &self,
        partition: PartitionId,
        timeout: Duration,
    ) -> impl Future<Output = Result<Stamp, Unanswered>> + Send;

    /// Asks for all read states of a user in one partition, handing over what the store showed.
    fn overview(
        &self,
        partition: PartitionId,
        overview: UserRows,
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<Result<Answer, Failure>>, Unanswered>> + Send;
}

/// What tells how the partitions of this instance are.
pub trait Statuses: Clone + Send + Sync + 'static {
    /// How each owned partition is.
    fn status(&self) -> impl Future<Output = Vec<Status>> + Send;
}

/// A user's rows in one partition, as the store showed them after `stamp` was taken.
#[derive(Clone, Debug)]
pub struct UserRows {
    /// Whose.
    pub user: UserId,
    /// Taken from the owner before the store was read.
    pub stamp: Stamp,
    /// What the store had in this partition and in the range.
    pub rows: Vec<(ChannelId, ReadState)>,
    /// Only channels above this one.
    pub above: ChannelId,
    /// Only channels up to this one.
    pub up_to: ChannelId,
}

/// Why a partition gave no answer at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// It isn't owned here, or not any more.
    NotOwned,
    /// Too many questions are waiting.
    Overloaded,
    /// The time ran out.
    TimedOut,
    /// To an overview: the stamp does not hold any more. Take another one and read the store again.
    StampVoid,
}

/// How one owned partition is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Which.
    pub partition: PartitionId,
    /// The last record that was applied and that nothing before is waiting for.
    pub applied: Option<Offset>,
    /// Every record up to here is in the store.
    pub durable: Option<Offset>,
    /// The last record of the partition, as last seen.
    pub end: Option<Offset>,
    /// Age of the oldest record not applied yet.
    pub applied_lag_seconds: f64,
    /// Age of the oldest change that is not in the store yet.
    pub oldest_dirty_seconds: f64,
    /// Cached read states.
    pub read_states_cached: u64,
    /// Cached channels.
    pub channels_cached: u64,
    /// The memory that cached channels take, in bytes.
    pub channel_bytes_cached: u64,
    /// Changed entries that are not in the store yet.
    pub dirty_entries: u64,
    /// Records not applied yet.
    pub applied_lag_records: u64,
    /// Records that are in the stream and not in the store, where offsets don't tell (JetStream).
    pub durable_lag_records: Option<u64>,
    /// assigning, catching-up, live, draining, stuck.
    pub phase: &'static str,
    /// The last record that was committed to the consumer group, for tools that look there. JetStream has none: durable.
    pub committed: Option<Offset>,
    /// Records applied since the partition was assigned, by [`EventKind::index`](crate::model::event::EventKind::index).
    pub events: [u64; EVENT_KINDS.len()],
}
