//! Puts neighbouring records of one partition into one buffer.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};

use crate::model::ids::{Offset, PartitionId};
use crate::source::{RawRecord, RecordBatch};

/// Records in a batch; what a shard takes between two looks at its inbox.
const BATCH_RECORDS_MAX: usize = 64;
/// Bytes of keys, values and headers in a batch; a single larger record is a batch of its own.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Room for the keys and values of a new batch. An event is some 40 bytes.
const BATCH_BYTES_RESERVED: usize = 4 * 1024;

/// A batch under construction.
#[derive(Default)]
pub(super) struct BatchBuilder {
    buffer: BytesMut,
    records: Vec<Pending>,
}

struct Pending {
    offset: Offset,
    timestamp_ms: Option<i64>,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Vec<(String, Option<Range<usize>>)>,
}

impl BatchBuilder {
    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Nothing more should go in.
    pub fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS_MAX || self.buffer.len() >= BATCH_BYTES_MAX
    }

    /// Copies a record in.
    pub fn push(&mut self, offset: Offset, message: &BorrowedMessage<'_>) {
        if self.records.is_empty() {
            self.buffer.reserve(BATCH_BYTES_RESERVED);
            self.records.reserve(BATCH_RECORDS_MAX);
        }
        let key = message.key().map(|key| self.copy(key));
        let value = message.payload().map(|value| self.copy(value));
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| (header.key.to_owned(), header.value.map(|value| self.copy(value))))
                .collect()
        });
        self.records.push(Pending {
            offset,
            timestamp_ms: message.timestamp().to_millis(),
            key,
            value,
            headers,
        });
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let from = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        from..self.buffer.len()
    }

    /// Takes the batch out.
    pub fn finish(&mut self, partition: PartitionId, assignment: u64) -> RecordBatch {
        let buffer: Bytes = self.buffer.split().freeze();
        let slice = |range: Option<Range<usize>>| range.map(|range| buffer.slice(range));
        let records = self
            .records
            .drain(..)
            .map(|pending| RawRecord {
                offset: pending.offset,
                timestamp_ms: pending.timestamp_ms,
                key: slice(pending.key),
                value: slice(pending.value),
                headers: pending
                    .headers
                    .into_iter()
                    .map(|(name, value)| (name, slice(value)))
                    .collect(),
            })
            .collect();
        RecordBatch {
            partition,
            assignment,
            records,
        }
    }

    /// Drops what is in it.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.records.clear();
    }
}
