//! What the log says of partitions that can't be read: one line when the first waits, one when none does any more.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::ids::PartitionId;

/// Which partitions wait for the stream.
pub(super) struct Waiting {
    stream: String,
    partitions: Mutex<BTreeSet<PartitionId>>,
}

impl Waiting {
    /// None of this stream does yet.
    pub fn new(stream: &str) -> Self {
        Waiting {
            stream: stream.to_owned(),
            partitions: Mutex::default(),
        }
    }

    fn partitions(&self) -> MutexGuard<'_, BTreeSet<PartitionId>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition can't be read for now.
    pub fn waits(&self, partition: PartitionId, error: &str) {
        let mut partitions = self.partitions();
        let is_first = partitions.is_empty();
        if partitions.insert(partition) && is_first {
            tracing::warn!(
                stream = self.stream,
                "the stream can't be read ({error}); this is tried again until it works, and answers go on as of the last \
                 record while this instance has the lease: see that nats-server works and that the stream is there"
            );
        }
    }

    /// A partition is read.
    pub fn is_read(&self, partition: PartitionId) {
        let mut partitions = self.partitions();
        if partitions.remove(&partition) && partitions.is_empty() {
            tracing::info!(stream = self.stream, "the stream is read again");
        }
    }
}
