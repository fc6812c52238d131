//! What the threads tell about their partitions.

use crate::model::ids::PartitionId;
use crate::partition::Counters;
use crate::query::Status;

/// How the partitions are, and what was counted.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each owned partition, ascending.
    pub partitions: Vec<PartitionReport>,
    /// All partitions together, those that were given up too.
    pub totals: Totals,
}

/// How one partition is.
#[derive(Clone, Debug)]
pub struct PartitionReport {
    /// For people and gauges.
    pub status: Status,
    /// Why its records are kept back, if they are.
    pub paused: Option<&'static str>,
}

/// What was counted since the start.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// By the partitions.
    pub counters: Counters,
    /// Dead letters, by reason: undecodable, invalid, misrouted.
    pub dead_letters: [u64; 3],
}

impl PartitionReport {
    /// Of a partition of which nothing is known yet.
    pub(super) fn assigning(partition: PartitionId) -> Self {
        let status = Status {
            partition,
            phase: "assigning",
            ..Status::default()
        };
        PartitionReport { status, paused: None }
    }
}

impl Totals {
    pub(super) fn add(&mut self, other: &Totals) {
        self.counters.add(&other.counters);
        for (sum, count) in self.dead_letters.iter_mut().zip(other.dead_letters) {
            *sum += count;
        }
    }
}
