//! Gathers neighbouring records of one partition.

use super::fetches::Fetched;
use crate::model::ids::{Offset, PartitionId};
use crate::source::RecordBatch;
use crate::wire::records::Records;

/// Records in a batch; what a shard takes between two looks at its inbox.
const BATCH_RECORDS_MAX: usize = 64;
/// Bytes of keys, values and headers in a batch; a single larger record is a batch of its own.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Room for the keys and values of a new batch. An event is some 40 bytes, its key up to 19.
const BATCH_BYTES_RESERVED: usize = 4 * 1024;

/// A batch under construction.
#[derive(Default)]
pub(super) struct BatchBuilder {
    records: Records,
}

impl BatchBuilder {
    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Nothing more should go in.
    pub fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS_MAX || self.records.bytes() >= BATCH_BYTES_MAX
    }

    /// Copies a record in.
    pub fn push(&mut self, offset: Offset, record: &Fetched<'_>) {
        if self.records.is_empty() {
            self.records = Records::with_capacity(BATCH_RECORDS_MAX, BATCH_BYTES_RESERVED);
        }
        self.records
            .push(offset, record.timestamp_ms, record.key, record.value);
        for (name, value) in record.headers() {
            self.records.push_header(&name, value);
        }
    }

    /// Takes the batch out.
    pub fn finish(&mut self, partition: PartitionId, assignment: u64) -> RecordBatch {
        RecordBatch {
            partition,
            assignment,
            records: std::mem::take(&mut self.records),
        }
    }

    /// Drops what is in it.
    pub fn clear(&mut self) {
        self.records = Records::default();
    }
}
