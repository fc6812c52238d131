//! Records on their way into a partition: decoded one by one, kept back while a dead letter is not safe.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::event::Event;
use crate::model::ids::{Offset, PartitionId};
use crate::source::DeadLetter;
use crate::wire::record::{self, Place, Reason, RecordLimits};
use crate::wire::records::Records;

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
    /// As they came, none of them empty.
    batches: VecDeque<Records>,
    /// Records of the first batch that were taken.
    taken: usize,
    /// Records that were not.
    len: usize,
    /// Records that are on their way here or in `batches`, those taken of its first one among them.
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
            batches: VecDeque::new(),
            taken: 0,
            len: 0,
            queued,
            sending: None,
            last_timestamp_ms: None,
            dead_letters: [0; 3],
        }
    }

    pub fn push(&mut self, records: Records) {
        if !records.is_empty() {
            self.len += records.len();
            self.batches.push_back(records);
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// When the oldest record here was published.
    pub fn oldest_timestamp_ms(&self) -> Option<i64> {
        self.batches.front()?.get(self.taken)?.timestamp_ms
    }

    /// Takes the next record.
    pub fn next(&mut self) -> Next {
        if self.sending.is_some() {
            return Next::Nothing;
        }
        let Some(record) = self.batches.front().and_then(|batch| batch.get(self.taken)) else {
            return Next::Nothing;
        };
        self.last_timestamp_ms = record.timestamp_ms;
        let place = Place {
            partition: self.partition,
            partition_count: self.partition_count,
            is_key_optional: self.is_key_optional,
        };
        let is_json = record::is_json(record.headers());
        let next = match record::decode(record.key, record.value, is_json, place, &self.limits) {
            Ok(event) => Next::Event(record.offset, event),
            Err(unusable) => {
                self.sending = Some(record.offset);
                self.dead_letters[index_of(unusable.reason)] += 1;
                let letter = DeadLetter {
                    partition: self.partition,
                    record: record.to_owned(),
                    reason: unusable.reason.name(),
                    detail: unusable.detail,
                };
                Next::Unusable(record.offset, Box::new(letter))
            }
        };
        self.took_one();
        next
    }

    /// Whoever fills the queue shares the counter, so it is touched once for a batch.
    fn took_one(&mut self) {
        self.len -= 1;
        self.taken += 1;
        if let Some(done) = self.batches.pop_front_if(|batch| batch.len() == self.taken) {
            self.queued.fetch_sub(done.len(), Ordering::Relaxed);
            self.taken = 0;
        }
    }

    /// The dead letter at this offset is safe. Whether it was waited for.
    pub fn dead_lettered(&mut self, offset: Offset) -> bool {
        self.sending.take_if(|sending| *sending == offset).is_some()
    }

    /// Drops all records.
    pub fn clear(&mut self) {
        let records = self.batches.drain(..).map(|batch| batch.len()).sum();
        self.queued.fetch_sub(records, Ordering::Relaxed);
        (self.taken, self.len) = (0, 0);
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
