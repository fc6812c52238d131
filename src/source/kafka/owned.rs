//! One partition that the group gave us.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::batch::BatchBuilder;
use super::lifecycle::Phase;
use crate::model::ids::{LogPosition, PartitionId};
use crate::source::position::{Refusal, Start};
use crate::source::{Owners, RecordBatch};

/// How long an owner may refuse everything before reading its partition is paused. Pausing throws away what
/// librdkafka has prefetched, so it must not happen whenever a queue is full for a moment.
const REFUSED_MAX: Duration = Duration::from_secs(1);
/// Refused records of one partition that are kept; then nothing is read until some are taken or the partition is
/// paused.
const HELD_RECORDS_MAX: usize = 4096;
/// The same in bytes.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A partition that is ours.
pub(super) struct Owned {
    pub partition: PartitionId,
    /// Unlike that of any other ownership, of whichever process.
    pub assignment: u64,
    pub phase: Phase,
    /// The offset to be read next; below it everything was read.
    pub next: u64,
    /// Whether librdkafka reads it.
    pub fetching: bool,
    /// The end was reached, and its owner doesn't know yet.
    pub end_reached: bool,
    /// Nothing was read since the end was reached.
    pub at_end: bool,
    /// Finds out where to begin.
    pub locating: Option<AbortHandle>,
    /// Where it began.
    pub start: Option<Start>,
    /// Why its position does not fit the log.
    pub refusal: Option<Refusal>,
    /// Until when it must be drained.
    pub drain_deadline: Option<Instant>,
    /// Tells when it is.
    pub draining: Option<oneshot::Receiver<LogPosition>>,
    /// What was durable in the end.
    pub drained: Option<LogPosition>,
    /// What was applied when it was found stuck and taken anew.
    pub was_stuck_at: Option<LogPosition>,
    pub builder: BatchBuilder,
    held: VecDeque<RecordBatch>,
    held_records: usize,
    held_bytes: usize,
    refused_since: Option<Instant>,
}

impl Owned {
    pub fn new(partition: PartitionId, assignment: u64) -> Self {
        Owned {
            partition,
            assignment,
            phase: Phase::Locating,
            next: 0,
            fetching: false,
            end_reached: false,
            at_end: false,
            locating: None,
            start: None,
            refusal: None,
            drain_deadline: None,
            draining: None,
            drained: None,
            was_stuck_at: None,
            builder: BatchBuilder::default(),
            held: VecDeque::new(),
            held_records: 0,
            held_bytes: 0,
            refused_since: None,
        }
    }

    /// As if the group had given it just now, under this number.
    pub fn renew(&mut self, assignment: u64) {
        *self = Owned {
            phase: self.phase,
            was_stuck_at: self.was_stuck_at,
            ..Owned::new(self.partition, assignment)
        };
    }

    /// Offers what was gathered, after what was refused before.
    pub fn flush(&mut self, owners: &impl Owners, now: Instant) {
        if self.builder.is_empty() {
            return;
        }
        let batch = self.builder.finish(self.partition, self.assignment);
        if !self.held.is_empty() {
            self.hold_last(batch);
        } else if let Err(batch) = owners.offer(batch) {
            self.refused_since = Some(now);
            self.hold_last(batch);
        }
    }

    /// Offers what was refused before.
    pub fn offer_held(&mut self, owners: &impl Owners, now: Instant) {
        while let Some(batch) = self.held.pop_front() {
            self.held_records -= batch.records.len();
            self.held_bytes -= batch.records.bytes();
            match owners.offer(batch) {
                Ok(()) => self.refused_since = None,
                Err(batch) => {
                    self.held_records += batch.records.len();
                    self.held_bytes += batch.records.bytes();
                    self.held.push_front(batch);
                    self.refused_since.get_or_insert(now);
                    return;
                }
            }
        }
    }

    fn hold_last(&mut self, batch: RecordBatch) {
        self.held_records += batch.records.len();
        self.held_bytes += batch.records.bytes();
        self.held.push_back(batch);
    }

    /// Something was refused and waits to be offered again.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// So much was refused that no more may be read until it is taken.
    pub fn is_full(&self) -> bool {
        self.held_records >= HELD_RECORDS_MAX || self.held_bytes >= HELD_BYTES_MAX
    }

    /// Its owner has taken nothing for too long.
    pub fn is_stalled(&self, now: Instant) -> bool {
        self.refused_since
            .is_some_and(|since| now.duration_since(since) >= REFUSED_MAX)
    }

    /// Its owner has everything that was read.
    pub fn is_accepted(&self) -> bool {
        self.held.is_empty() && self.builder.is_empty()
    }

    /// Drops what was read and not offered.
    pub fn discard(&mut self) {
        self.builder.clear();
        self.held.clear();
        self.held_records = 0;
        self.held_bytes = 0;
        self.refused_since = None;
        self.end_reached = false;
    }
}
