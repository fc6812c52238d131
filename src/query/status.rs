//! `status`: how the partitions of one instance are.

use super::Status;
use crate::wire::proto::v1;

impl From<&Status> for v1::PartitionStatus {
    fn from(status: &Status) -> Self {
        v1::PartitionStatus {
            partition: status.partition.0,
            applied_offset: status.applied.map(|offset| offset.0),
            durable_offset: status.durable.map(|offset| offset.0),
            end_offset: status.end.map(|offset| offset.0),
            applied_lag_seconds: status.applied_lag_seconds,
            oldest_dirty_seconds: status.oldest_dirty_seconds,
            read_states_cached: status.read_states_cached,
            channels_cached: status.channels_cached,
            dirty_entries: status.dirty_entries,
            applied_lag_records: status.applied_lag_records,
            phase: status.phase.to_owned(),
        }
    }
}

/// The reply of one instance.
pub(super) fn reply(instance: &str, partition_count: u32, mut status: Vec<Status>) -> v1::StatusReply {
    status.sort_unstable_by_key(|status| status.partition);
    v1::StatusReply {
        instance: instance.to_owned(),
        partition_count,
        partitions: status.iter().map(v1::PartitionStatus::from).collect(),
    }
}
