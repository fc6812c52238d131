//! Records on their way into a partition: decoded one by one, kept back while a dead letter is not safe.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::event::Event;
use crate::model::ids::{Offset, PartitionId};
use crate::source::{DeadLetter, RawRecord};
use crate::wire::record::{self, Place, Reason, RecordLimits};

/// What the next record is.
pub enum Next {
    /// An event.
    Event(Offset, Event),
    /// It can't be used: nothing follows before it is safe.
    Unusable(Offset, Box<DeadLetter>),
    /// There is none, or none may be taken now.
    Nothing,
}

/// The records of one partition that were not taken yet.
pub struct Intake {
    partition: PartitionId,
    partition_count: u32,
    is_key_optional: bool,
    limits: RecordLimits,
    records: VecDeque<RawRecord>,
    queued: Arc<AtomicUsize>,
    /// The record that is on its way to the dead letters.
    sending: Option<Offset>,
    /// When the record taken last was published.
    pub last_timestamp_ms: Option<i64>,
    /// By reason.
    pub dead_letters: [u64; 3],
}

impl Intake {
    pub fn new(
        partition: PartitionId,
        partition_count: u32,
        is_key_optional: bool,
        limits: RecordLimits,
        queued: Arc<AtomicUsize>,
    ) -> Self {
        Intake {
            partition,
            partition_count,
            is_key_optional,
            limits,
            records: VecDeque::new(),
            queued,
            sending: None,
            last_timestamp_ms: None,
            dead_letters: [0; 3],
        }
    }

    pub fn push(&mut self, records: Vec<RawRecord>) {
        self.records.extend(records);
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// When the oldest record here was published.
    pub fn oldest_timestamp_ms(&self) -> Option<i64> {
        self.records.front()?.timestamp_ms
    }

    /// Takes the next record.
    pub fn next(&mut self) -> Next {
        if self.sending.is_some() {
            return Next::Nothing;
        }
        let Some(record) = self.records.pop_front() else {
            return Next::Nothing;
        };
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.last_timestamp_ms = record.timestamp_ms;
        let place = Place {
            partition: self.partition,
            partition_count: self.partition_count,
            is_key_optional: self.is_key_optional,
        };
        let is_json = record::is_json(&record.headers);
        match record::decode(
            record.key.as_deref(),
            record.value.as_deref(),
            is_json,
            place,
            &self.limits,
        ) {
            Ok(event) => Next::Event(record.offset, event),
            Err(unusable) => {
                self.sending = Some(record.offset);
                self.dead_letters[index_of(unusable.reason)] += 1;
                let offset = record.offset;
                let reason = unusable.reason.name();
                let letter = DeadLetter {
                    partition: self.partition,
                    record,
                    reason,
                    detail: unusable.detail,
                };
                Next::Unusable(offset, Box::new(letter))
            }
        }
    }

    /// The dead letter at this offset is safe. Whether it was waited for.
    pub fn dead_lettered(&mut self, offset: Offset) -> bool {
        self.sending.take_if(|sending| *sending == offset).is_some()
    }

    /// Drops all records.
    pub fn clear(&mut self) {
        self.queued.fetch_sub(self.records.len(), Ordering::Relaxed);
        self.records.clear();
    }
}

/// The place of a reason in `dead_letters`.
fn index_of(reason: Reason) -> usize {
    match reason {
        Reason::Undecodable => 0,
        Reason::Invalid => 1,
        Reason::Misrouted => 2,
    }
}
