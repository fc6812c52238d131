//! What a source counts, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::ids::{Offset, PartitionId};

/// What the source counts.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Times that the group (or the lease) gave partitions.
    pub assigned: AtomicU64,
    /// Times that it wanted some back.
    pub revoked: AtomicU64,
    /// Times that it had given them to others already.
    pub lost: AtomicU64,
    /// Partitions that are paused now since their owners take no more.
    pub paused: AtomicU64,
    /// Whether a server answers. Where there is nothing to read it takes up to a second to notice that one does again.
    pub is_connected: AtomicBool,
    /// The log says that none does.
    is_away_logged: AtomicBool,
    committed: Mutex<BTreeMap<PartitionId, Offset>>,
}

/// What became of the server's being there, where that is worth a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It does not answer any more.
    Away,
    /// It does again, and the log says that it did not.
    Back,
}

impl SourceStats {
    /// The offset that comes next as last committed to the group, for each owned partition that has
    /// one. Kafka only.
    pub fn committed(&self) -> BTreeMap<PartitionId, Offset> {
        self.committed_table().clone()
    }

    pub(super) fn committed_table(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Offset>> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of whether a server answers. Each change is told once.
    pub(super) fn saw_server(&self, answers: bool) -> Option<Seen> {
        let was_connected = self.is_connected.swap(answers, Ordering::Relaxed);
        if !answers && was_connected {
            self.is_away_logged.store(true, Ordering::Relaxed);
            return Some(Seen::Away);
        }
        (answers && self.is_away_logged.swap(false, Ordering::Relaxed)).then_some(Seen::Back)
    }
}
