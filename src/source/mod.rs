//! Where records come from: Kafka, or NATS JetStream.

pub mod dead_letters;
pub mod failure;
pub mod jetstream;
pub mod kafka;
mod letter_log;
mod position;
pub mod stats;
pub mod stream;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::model::ids::{LogPosition, Offset, PartitionId};
pub use crate::wire::records::{RawRecord, Records};

/// Neighbouring records of one partition, as they came.
#[derive(Clone, Debug)]
pub struct RecordBatch {
    /// The partition.
    pub partition: PartitionId,
    /// Which ownership of the partition this belongs to.
    pub assignment: u64,
    /// The records, their offsets rising.
    pub records: Records,
}

/// When a process was or will be a member of the group for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// At this moment, or later: when the group was asked.
    pub at: Instant,
    /// And from then on until this moment, whatever happens. Not after `at` where only that is known.
    pub until: Instant,
}

/// What a source tells the threads that own partitions. Nothing here waits.
pub trait Owners: Clone + Send + 'static {
    /// The partition is ours, and its position is being looked for; or it is given up before that was found.
    fn assigning(&self, partition: PartitionId, is_being: bool);

    /// The partition is ours from now on, under this number, and its records follow from just after `durable`.
    /// It is live once it has come to `live_at` (the offset that would have come next when it was assigned).
    fn assign(&self, partition: PartitionId, assignment: u64, durable: LogPosition, live_at: Offset);

    /// The group has confirmed that this process is a member, so that nobody else owns what is assigned to it. With none,
    /// that is in doubt: nothing is answered and no position is stored meanwhile.
    fn confirmed(&self, confirmed: Option<Confirmed>);

    /// Hands over records; gives them back where too many are waiting already. Offer them again, in order, later.
    fn offer(&self, batch: RecordBatch) -> Result<(), RecordBatch>;

    /// The end of the partition was reached: there is no record below `next` that was not offered.
    fn caught_up(&self, partition: PartitionId, assignment: u64, next: Offset);

    /// Prepares to give the partition up: no record follows, everything is written. It answers until it is forgotten,
    /// since nobody else can own it before. The receiver learns the durable position
    /// once that is stored, or is dropped where the partition isn't owned. Then call [`Owners::forget`].
    fn drain(&self, partition: PartitionId, assignment: u64) -> oneshot::Receiver<LogPosition>;

    /// Drops the partition, whatever was not written: its records will be applied again by its next owner.
    fn forget(&self, partition: PartitionId, assignment: u64);

    /// The durable position of each partition owned, as last stored.
    fn durable(&self) -> Vec<(PartitionId, LogPosition)>;

    /// Partitions that have not moved for a while although their logs did, and nobody knows why.
    fn stuck(&self) -> Vec<Stuck>;

    /// The end of a partition's log as the broker told it just now (the offset that comes next), for lag, and for
    /// noticing what is stuck.
    fn end_seen(&self, partition: PartitionId, next: Offset);

    /// How many records of the partition there are that were not offered yet, as told just now. Only of a stream whose
    /// partitions share their offsets, so that these don't tell it.
    fn records_beyond(&self, _partition: PartitionId, _records: u64) {}
}

/// Assignment numbers tell ownerships apart in all processes, since stamps wander between them. So they begin at the
/// clock, in microseconds, and go up by one.
pub(crate) fn first_assignment() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or_default()
}

/// A partition that does not move although its log does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Which.
    pub partition: PartitionId,
    /// In which ownership.
    pub assignment: u64,
    /// Where it stands: the last record applied.
    pub applied: LogPosition,
}

/// A record that can't be used, as it goes to the dead letters.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Where it was.
    pub partition: PartitionId,
    /// The record, untouched.
    pub record: RawRecord,
    /// Why: `undecodable`, `invalid` or `misrouted`.
    pub reason: &'static str,
    /// What exactly, for the log.
    pub detail: String,
}
