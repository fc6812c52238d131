//! One partition, from when the lease gave it until it is given up.
//!
//! | step | ends by |
//! |---|---|
//! | locating: its stored position is compared with the stream | it fits; or it doesn't, which ends the process |
//! | reading, by an ordered consumer from just after what was read | a gap, a record that was read before, a silence, or an error: another consumer |
//! | draining: the owner writes what is left | all is written, or 10 s |
//!
//! The consumer is an ephemeral one without acknowledgements. What gets lost on the way (a connection that broke) is seen
//! by its own numbering, which has a gap then; by heartbeats that stay away; or, where it was the last record, by
//! the partition's end, which is asked for every second.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use futures::StreamExt;
use tokio::sync::{mpsc, watch};

use super::api::{Api, Bounds};
use super::ends::Found;
use super::{JetStreamSettings, Phase, misfit};
use crate::model::ids::{LogPosition, Offset, PartitionId};
use crate::source::failure::SourceFailure;
use crate::source::position::{Backoff, Refusal, Start, check, decide, stored};
use crate::source::stats::SourceStats;
use crate::source::{Owners, RawRecord, RecordBatch};
use crate::store::{Store, StreamIdentity};
use crate::wire::headers;

/// How long an owner may take to write everything.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Records in a batch; what a shard takes between two looks at its inbox.
const BATCH_RECORDS_MAX: usize = 64;
/// The pause before refused records are offered again.
const OFFER_PAUSE: Duration = Duration::from_millis(2);
/// How long an owner may refuse everything before the partition counts as paused.
const REFUSED_MAX: Duration = Duration::from_secs(1);
/// So many rounds a partition may stand although there are records; then it is read by another consumer.
const STANDING_ROUNDS_MAX: u32 = 5;

/// Reads one partition.
pub(super) struct PartitionReader<O, S> {
    pub api: Api,
    pub settings: JetStreamSettings,
    pub partition: PartitionId,
    /// Unlike that of any other ownership, of whichever process.
    pub assignment: u64,
    pub identity: StreamIdentity,
    pub owners: O,
    pub store: S,
    pub stats: Arc<SourceStats>,
    pub failures: mpsc::Sender<SourceFailure>,
    pub phase: watch::Receiver<Phase>,
    pub ends: watch::Receiver<Arc<Found>>,
    /// The sequence to be read next; below it everything was offered.
    pub next: u64,
    /// Something is applied, so that the position has to move on with the stream.
    pub has_position: bool,
    /// What the owner was told last of the end.
    pub told_end: Option<u64>,
    /// Where it was when there was more to read, and for how many rounds.
    pub standing_at: Option<u64>,
    pub standing_rounds: u32,
    /// What was applied when it was found stuck and taken anew.
    pub was_stuck_at: Option<LogPosition>,
}

/// Why a partition is not read any more.
enum Over {
    /// The phase has changed.
    Told,
    /// Its owner does not get further.
    Stuck(LogPosition),
    /// The position does not fit the stream any more.
    Misfit(Refusal),
}

impl<O: Owners + Sync, S: Store> PartitionReader<O, S> {
    /// Reads until it is told otherwise, and gives the partition up then.
    pub async fn run(mut self) {
        loop {
            let mut phase = self.phase.clone();
            self.owners.assigning(self.partition, true);
            let located = tokio::select! {
                located = self.locate() => Some(located),
                () = is_over(&mut phase) => None,
            };
            let (start, live_at) = match located {
                Some(Ok(located)) => located,
                Some(Err(refusal)) => {
                    self.refuse(&refusal);
                    is_over(&mut phase).await;
                    return self.owners.assigning(self.partition, false);
                }
                None => return self.owners.assigning(self.partition, false),
            };
            self.next = start.next;
            self.has_position = start.durable.offset().is_some();
            (self.told_end, self.standing_at) = (None, None);
            self.owners
                .assign(self.partition, self.assignment, start.durable, Offset(live_at));
            self.owners.end_seen(self.partition, Offset(live_at));
            let over = tokio::select! {
                over = self.read() => over,
                () = is_over(&mut phase) => Over::Told,
            };
            match over {
                Over::Stuck(applied) if self.was_stuck_at.is_none_or(|at| at < applied) => {
                    self.was_stuck_at = Some(applied);
                    self.owners.forget(self.partition, self.assignment);
                    // Those of all partitions are given at once, with none in between.
                    self.assignment += u64::from(self.identity.partition_count);
                    continue;
                }
                Over::Stuck(applied) => {
                    let failure = SourceFailure::Stuck {
                        topic: self.settings.stream.clone(),
                        partition: self.partition,
                        applied,
                    };
                    let _ = self.failures.try_send(failure);
                }
                Over::Misfit(refusal) => self.refuse(&refusal),
                Over::Told => {}
            }
            is_over(&mut phase).await;
            return self.give_up().await;
        }
    }

    fn refuse(&self, refusal: &Refusal) {
        // The first one ends the process; the same of other partitions would only hide it.
        let _ = self
            .failures
            .try_send(misfit(&self.settings, self.partition, refusal));
    }

    /// Has everything written, unless the lease is lost, and gives the partition up.
    async fn give_up(mut self) {
        if *self.phase.borrow() == Phase::Draining {
            let drained = self.owners.drain(self.partition, self.assignment);
            tokio::select! {
                drained = tokio::time::timeout(DRAIN_DEADLINE, drained) => if drained.is_err() {
                    tracing::warn!(stream = self.settings.stream, partition = %self.partition,
                        deadline_s = DRAIN_DEADLINE.as_secs(),
                        "not everything was written before the partition is given up: its next owner applies those \
                         records again");
                },
                _ = self.phase.wait_for(|phase| *phase == Phase::Lost) => {}
            }
        }
        self.owners.forget(self.partition, self.assignment);
    }

    /// Where reading begins, and where the partition is live.
    async fn locate(&self) -> Result<(Start, u64), Refusal> {
        let stored = stored(&self.store, &self.settings.stream, self.partition).await?;
        let bounds = self.bounds().await?;
        let start = decide(&self.identity, stored.as_ref(), (bounds.start, bounds.end))?;
        let mut backoff = Backoff::default();
        loop {
            match self.api.last(self.partition).await {
                Ok(last) => return Ok((start, last.map_or(0, |last| last + 1))),
                Err(error) => self.wait(&mut backoff, &error).await,
            }
        }
    }

    /// The bounds of the stream, if it is the one that it was.
    async fn bounds(&self) -> Result<Bounds, Refusal> {
        let mut backoff = Backoff::default();
        loop {
            match self.api.bounds().await {
                Ok(Some(bounds)) => return self.same_stream(bounds),
                Ok(None) => self.wait(&mut backoff, "there is no such stream").await,
                Err(error) => self.wait(&mut backoff, &error).await,
            }
        }
    }

    fn same_stream(&self, bounds: Bounds) -> Result<Bounds, Refusal> {
        if bounds.stream_id == self.identity.stream_id {
            return Ok(bounds);
        }
        Err(Refusal::OtherStream {
            stored: self.identity.stream_id.clone(),
            found: bounds.stream_id,
        })
    }

    async fn wait(&self, backoff: &mut Backoff, error: &str) {
        if !backoff.waited() {
            tracing::warn!(stream = self.settings.stream, partition = %self.partition, error,
                "the partition waits for JetStream");
        }
        backoff.wait().await;
    }

    /// Reads by one consumer after the other.
    async fn read(&mut self) -> Over {
        let mut backoff = Backoff::default();
        loop {
            let bounds = self.bounds().await;
            if let Err(refusal) =
                bounds.and_then(|bounds| check(self.next.max(1), (bounds.start, bounds.end)))
            {
                return Over::Misfit(refusal);
            }
            match self.api.records(self.partition, self.next).await {
                Ok(records) => {
                    let from = self.next;
                    match self.follow(records).await {
                        Ok(over) => return over,
                        Err(why) => {
                            tracing::debug!(stream = self.settings.stream, partition = %self.partition,
                            why, next = self.next, "read on by another consumer")
                        }
                    }
                    if self.next > from {
                        backoff = Backoff::default();
                    }
                    backoff.wait().await;
                }
                Err(error) => self.wait(&mut backoff, &error).await,
            }
        }
    }

    /// Reads by one consumer, until that can't go on.
    async fn follow(&mut self, records: pull::Stream) -> Result<Over, String> {
        let mut ends = self.ends.clone();
        let mut chunks = records.ready_chunks(BATCH_RECORDS_MAX);
        let mut delivered = 0;
        loop {
            tokio::select! {
                chunk = chunks.next() => {
                    let chunk = chunk.ok_or("the consumer has ended")?;
                    self.take(chunk, &mut delivered).await?;
                }
                changed = ends.changed() => {
                    changed.map_err(|_| "nobody asks for ends any more")?;
                    let found = ends.borrow_and_update().clone();
                    if let Some(over) = self.compare(&found)? {
                        return Ok(over);
                    }
                }
            }
        }
    }

    /// Offers what came. `delivered`: how many this consumer has delivered.
    async fn take(
        &mut self,
        chunk: Vec<Result<jetstream::Message, pull::MessagesError>>,
        delivered: &mut u64,
    ) -> Result<(), String> {
        let mut records = Vec::with_capacity(chunk.len());
        let mut beyond = None;
        let mut broken = Ok(());
        for message in chunk {
            match self.accept(message, delivered) {
                Ok((record, pending)) => {
                    self.next = record.offset.0 + 1;
                    records.push(record);
                    beyond = Some(pending);
                }
                Err(why) => {
                    broken = Err(why);
                    break;
                }
            }
        }
        if let Some(beyond) = beyond {
            self.has_position = true;
            self.offer(records).await;
            self.owners.records_beyond(self.partition, beyond);
            if beyond == 0 {
                self.tell_end(self.next);
            }
        }
        broken
    }

    /// The record, and how many follow it.
    fn accept(
        &self,
        message: Result<jetstream::Message, pull::MessagesError>,
        delivered: &mut u64,
    ) -> Result<(RawRecord, u64), String> {
        let message = message.map_err(|error| error.to_string())?;
        let info = message.info().map_err(|error| error.to_string())?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        if info.consumer_sequence != *delivered + 1 {
            return Err(format!(
                "a gap: delivery {} after {delivered}",
                info.consumer_sequence
            ));
        }
        if sequence < self.next {
            return Err(format!(
                "sequence {sequence} came, and {} was to come next",
                self.next
            ));
        }
        *delivered += 1;
        let timestamp_ms = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).ok();
        let headers = record_headers(&message);
        let key = headers
            .iter()
            .rev()
            .find(|(name, _)| name.eq_ignore_ascii_case(headers::KEY));
        let record = RawRecord {
            offset: Offset(sequence),
            timestamp_ms,
            key: key.and_then(|(_, value)| value.clone()),
            value: Some(message.message.payload.clone()),
            headers,
        };
        Ok((record, pending))
    }

    /// Offers records until they are taken.
    async fn offer(&self, records: Vec<RawRecord>) {
        let mut batch = RecordBatch {
            partition: self.partition,
            assignment: self.assignment,
            records,
        };
        let since = Instant::now();
        let mut paused = None;
        while let Err(back) = self.owners.offer(batch) {
            batch = back;
            if paused.is_none() && since.elapsed() >= REFUSED_MAX {
                tracing::info!(stream = self.settings.stream, partition = %self.partition,
                    "paused: its owner takes no more for now");
                paused = Some(Paused::new(&self.stats));
            }
            tokio::time::sleep(OFFER_PAUSE).await;
        }
    }

    /// Compares where it is with where the stream ends.
    fn compare(&mut self, found: &Found) -> Result<Option<Over>, String> {
        let mut stuck = self.owners.stuck().into_iter();
        let is_it = |stuck: &crate::source::Stuck| {
            stuck.partition == self.partition && stuck.assignment == self.assignment
        };
        if let Some(stuck) = stuck.find(is_it) {
            return Ok(Some(Over::Stuck(stuck.applied)));
        }
        let bounds = found.bounds.clone().ok_or("there is no such stream")?;
        let bounds = match self.same_stream(bounds) {
            Ok(bounds) => bounds,
            Err(refusal) => return Ok(Some(Over::Misfit(refusal))),
        };
        let Some(last) = found.lasts.get(self.partition.0 as usize).copied().flatten() else {
            return Ok(None);
        };
        if last.is_some_and(|last| last >= self.next) {
            if self.standing_at != Some(self.next) {
                (self.standing_at, self.standing_rounds) = (Some(self.next), 0);
            }
            self.standing_rounds += 1;
            return match self.standing_rounds > STANDING_ROUNDS_MAX {
                true => {
                    self.standing_at = None;
                    Err("nothing came although there are records".to_owned())
                }
                false => Ok(None),
            };
        }
        self.standing_at = None;
        // All below the stream's end that is this partition's was offered.
        if self.has_position {
            self.next = self.next.max(bounds.end);
            self.tell_end(self.next);
        } else {
            self.tell_end(0);
        }
        self.owners.records_beyond(self.partition, 0);
        Ok(None)
    }

    fn tell_end(&mut self, next: u64) {
        if self.told_end.is_none_or(|told| told < next) {
            self.told_end = Some(next);
            self.owners
                .caught_up(self.partition, self.assignment, Offset(next));
        }
    }
}

/// Counts a partition as paused for as long as it lives.
struct Paused<'a>(&'a SourceStats);

impl<'a> Paused<'a> {
    fn new(stats: &'a SourceStats) -> Self {
        stats.paused.fetch_add(1, Ordering::Relaxed);
        Paused(stats)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.paused.fetch_sub(1, Ordering::Relaxed);
    }
}

fn record_headers(message: &jetstream::Message) -> Vec<(String, Option<bytes::Bytes>)> {
    let Some(headers) = &message.message.headers else {
        return Vec::new();
    };
    let mut all = Vec::with_capacity(headers.len());
    for (name, values) in headers.iter() {
        for value in values {
            let value = bytes::Bytes::copy_from_slice(value.as_str().as_bytes());
            all.push((name.to_string(), Some(value)));
        }
    }
    all
}

/// Returns once the partition is not to be read any more.
async fn is_over(phase: &mut watch::Receiver<Phase>) {
    // An error says that nobody owns it any more.
    let _ = phase.wait_for(|phase| *phase != Phase::Owned).await;
}
