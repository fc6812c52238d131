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

use super::api::{Api, Bounds, FETCHED_RECORDS_MAX};
use super::ends::Found;
use super::takeover::{Step, Takeover};
use super::waiting::Waiting;
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
/// How often the records that wait are counted while it is paused; a count takes a consumer of its own.
const COUNT_INTERVAL: Duration = Duration::from_secs(2);
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
    pub takeover: Arc<Takeover>,
    pub waiting: Arc<Waiting>,
    /// Just after its last record when it was located.
    pub live_at: u64,
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

/// What a consumer has said.
struct Delivered {
    /// So many records it has delivered.
    count: u64,
    /// So many it was to deliver after the last one.
    pending: u64,
    /// So many of the next ones may have waited in the stream although none was pending when the last one came: nothing
    /// was asked for meanwhile.
    unsure: usize,
}

impl Delivered {
    /// Whether records may have been in the stream, and been deleted, between the last one and the next.
    fn may_have_missed_some(&self) -> bool {
        self.pending > 0 || self.unsure > 0
    }
}

/// What came of offering records.
enum Offered {
    AtOnce,
    /// They were refused at first.
    Late,
    /// Not taken, and why that is of no use any more.
    InVain(Over),
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
            self.live_at = live_at;
            self.takeover.done(Step::Located, self.partition);
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
        self.waiting.waits(self.partition, error);
        backoff.wait().await;
    }

    /// Reads by one consumer after the other.
    async fn read(&mut self) -> Over {
        let mut backoff = Backoff::default();
        loop {
            match self.api.records(self.partition, self.next).await {
                Ok((records, pending)) => {
                    let from = self.next;
                    // After the consumer was made: what is deleted later is looked for while it delivers.
                    if let Err(refusal) = self.check_nothing_is_gone().await {
                        return Over::Misfit(refusal);
                    }
                    self.takeover.done(Step::Asked, self.partition);
                    self.waiting.is_read(self.partition);
                    match self.follow(records, pending).await {
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

    /// Whether all that is to be read next is still there, and was not taken back either.
    async fn check_nothing_is_gone(&self) -> Result<(), Refusal> {
        let bounds = self.bounds().await?;
        check(self.next.max(1), (bounds.start, bounds.end))
    }

    /// The same where records have come since. `start`: of the stream, asked for once for all that came together.
    async fn check_start(&self, start: &mut Option<u64>) -> Result<(), Refusal> {
        let next = self.next.max(1);
        let start = match *start {
            Some(start) => start,
            None => {
                let bounds = self.bounds().await?;
                // Where it had to be asked again: its consumer has gone on meanwhile.
                self.waiting.is_read(self.partition);
                *start.insert(bounds.start)
            }
        };
        match next < start {
            true => Err(Refusal::BeforeStart { next, start }),
            false => Ok(()),
        }
    }

    /// Reads by one consumer, for which so many records are pending, until that can't go on.
    async fn follow(&mut self, records: pull::Stream, pending: u64) -> Result<Over, String> {
        let mut ends = self.ends.clone();
        let mut chunks = records.ready_chunks(BATCH_RECORDS_MAX);
        let mut delivered = Delivered {
            count: 0,
            pending,
            unsure: 1,
        };
        loop {
            tokio::select! {
                chunk = chunks.next() => {
                    let chunk = chunk.ok_or("the consumer has ended")?;
                    if let Some(over) = self.take(chunk, &mut delivered).await? {
                        return Ok(over);
                    }
                }
                changed = ends.changed() => {
                    changed.map_err(|_| "nobody asks for ends any more")?;
                    let found = ends.borrow_and_update().clone();
                    if let Some(over) = self.compare(&found, &mut delivered)? {
                        return Ok(over);
                    }
                }
            }
        }
    }

    /// Offers what came.
    async fn take(
        &mut self,
        chunk: Vec<Result<jetstream::Message, pull::MessagesError>>,
        delivered: &mut Delivered,
    ) -> Result<Option<Over>, String> {
        let mut records = Vec::with_capacity(chunk.len());
        let mut beyond = None;
        let (mut broken, mut start) = (Ok(None), None);
        for message in chunk {
            match self.accept(message, delivered) {
                Ok((record, pending)) => {
                    // Sequences that are passed over are other partitions', or were deleted: a consumer does not say.
                    if record.offset.0 > self.next
                        && delivered.may_have_missed_some()
                        && let Err(refusal) = self.check_start(&mut start).await
                    {
                        broken = Ok(Some(Over::Misfit(refusal)));
                        break;
                    }
                    delivered.pending = pending;
                    delivered.unsure = delivered.unsure.saturating_sub(1);
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
            match self.offer(records).await {
                Offered::AtOnce => {}
                Offered::Late => delivered.unsure = FETCHED_RECORDS_MAX + 1,
                Offered::InVain(over) => return Ok(Some(over)),
            }
            self.tell_takeover();
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
        delivered: &mut Delivered,
    ) -> Result<(RawRecord, u64), String> {
        let message = message.map_err(|error| error.to_string())?;
        let info = message.info().map_err(|error| error.to_string())?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        if info.consumer_sequence != delivered.count + 1 {
            return Err(format!(
                "a gap: delivery {} after {}",
                info.consumer_sequence, delivered.count
            ));
        }
        if sequence < self.next {
            return Err(format!(
                "sequence {sequence} came, and {} was to come next",
                self.next
            ));
        }
        delivered.count += 1;
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

    /// Offers records until they are taken, or there is no use in that any more.
    async fn offer(&self, records: Vec<RawRecord>) -> Offered {
        let first = records.first().map_or(self.next, |record| record.offset.0);
        let mut batch = RecordBatch {
            partition: self.partition,
            assignment: self.assignment,
            records: records.into_iter().collect(),
        };
        let mut ends = self.ends.clone();
        let since = Instant::now();
        let mut paused: Option<(Paused<'_>, Instant)> = None;
        let mut offered = Offered::AtOnce;
        while let Err(back) = self.owners.offer(batch) {
            (batch, offered) = (back, Offered::Late);
            match &mut paused {
                None if since.elapsed() >= REFUSED_MAX => {
                    tracing::info!(stream = self.settings.stream, partition = %self.partition,
                        "paused: its owner takes no more for now");
                    paused = Some((Paused::new(&self.stats), Instant::now()));
                    self.count(first).await;
                }
                Some((_, counted)) if counted.elapsed() >= COUNT_INTERVAL => {
                    self.count(first).await;
                    *counted = Instant::now();
                }
                _ => {}
            }
            tokio::time::sleep(OFFER_PAUSE).await;
            if ends.has_changed().unwrap_or(false) {
                let found = ends.borrow_and_update().clone();
                if let Some(over) = self.is_in_vain(&found) {
                    return Offered::InVain(over);
                }
            }
        }
        offered
    }

    /// Tells how many records wait from this one on.
    async fn count(&self, from: u64) {
        match self.api.pending(self.partition, from).await {
            Ok(pending) => self.owners.records_beyond(self.partition, pending),
            Err(error) => tracing::debug!(error, "can't count the records that wait"),
        }
    }

    /// Whether its owner does not get further, or the stream is another one by now.
    fn is_in_vain(&self, found: &Found) -> Option<Over> {
        let mut stuck = self.owners.stuck().into_iter();
        let is_it = |stuck: &crate::source::Stuck| {
            stuck.partition == self.partition && stuck.assignment == self.assignment
        };
        if let Some(stuck) = stuck.find(is_it) {
            return Some(Over::Stuck(stuck.applied));
        }
        let bounds = self.same_stream(found.bounds.clone()?);
        bounds.err().map(Over::Misfit)
    }

    /// Compares where it is with where the stream ends.
    fn compare(&mut self, found: &Found, delivered: &mut Delivered) -> Result<Option<Over>, String> {
        if let Some(over) = self.is_in_vain(found) {
            return Ok(Some(over));
        }
        let bounds = found.bounds.clone().ok_or("there is no such stream")?;
        // Deleted under it: a consumer goes on after the gap as if nothing had been there.
        if bounds.start > self.next.max(1) && delivered.may_have_missed_some() {
            let (next, start) = (self.next, bounds.start);
            return Ok(Some(Over::Misfit(Refusal::BeforeStart { next, start })));
        }
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
        // It is waited for what comes next.
        (delivered.pending, delivered.unsure) = (0, 0);
        // All below the stream's end that is this partition's was offered.
        self.next = self.next.max(bounds.end);
        self.tell_end(if self.has_position { self.next } else { 0 });
        self.owners.records_beyond(self.partition, 0);
        Ok(None)
    }

    fn tell_takeover(&self) {
        if self.next >= self.live_at {
            self.takeover.done(Step::Read, self.partition);
        }
    }

    fn tell_end(&mut self, next: u64) {
        self.tell_takeover();
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
