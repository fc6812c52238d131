//! Questions over NATS.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;

use crate::model::ids::{ChannelId, Offset, PartitionId, ReadStateKey, UserId};
use crate::model::read_state::ReadState;
use crate::partition::io::{Answer, Failure, Stamp};

/// What the threads that own partitions answer to those who ask.
pub trait Partitions: Clone + Send + Sync + 'static {
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
    /// Changed entries that are not in the store yet.
    pub dirty_entries: u64,
    /// Records not applied yet.
    pub applied_lag_records: u64,
    /// assigning, catching-up, live, draining, stuck.
    pub phase: &'static str,
}
