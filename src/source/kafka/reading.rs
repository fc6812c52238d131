//! Reading: takes what librdkafka has fetched, gathers records and offers them, notices ends and trouble.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::context::FetcherContext;
use super::fetches::{Batch, FetchQueue, Fetched, Taken};
use super::lifecycle::{Event, Phase};
use super::locate::ask_bounds;
use super::owned::Owned;
use super::reader::Reader;
use super::{SourceFailure, SourceStats};
use crate::model::ids::{Offset, PartitionId};
use crate::source::Owners;
use crate::store::Store;

/// How long records are gathered before they are offered.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// Ends of partitions that have come to theirs are asked for in one of so many rounds, a second each.
const ROUNDS_BETWEEN_ALL_ENDS: u32 = 10;
/// How long to wait for a record while nothing else is to be done.
const IDLE_WAIT: Duration = Duration::from_millis(10);
/// The same while an owner refuses records or is draining.
const BUSY_WAIT: Duration = Duration::from_millis(1);

impl<O: Owners, S: Store> Reader<O, S> {
    /// Reads for about a millisecond and offers what came.
    pub fn read(&mut self, fetches: &mut FetchQueue) {
        fetches.serve(|error| self.trouble(error));
        if self
            .all()
            .any(|owned| owned.phase == Phase::Running && owned.is_full())
        {
            std::thread::sleep(BUSY_WAIT);
            return;
        }
        let busy = self
            .all()
            .any(|owned| owned.is_holding() || owned.phase == Phase::Draining);
        let mut wait = if busy { BUSY_WAIT } else { IDLE_WAIT };
        let mut gathering_since = None;
        loop {
            let taken = fetches.take(wait);
            if taken.is_empty() || self.take_all(&taken) {
                break;
            }
            if gathering_since.get_or_insert_with(Instant::now).elapsed() >= GATHER_MAX {
                break;
            }
            wait = Duration::ZERO;
        }
        self.flush();
    }

    /// Takes everything, since it does not come again; true if no more should be read for now.
    fn take_all(&mut self, taken: &Batch<'_>) -> bool {
        let mut is_enough = false;
        for it in taken.iter() {
            match it {
                Taken::Record(record) => is_enough |= self.take(&record),
                Taken::End { partition, next } => self.end(partition, next),
                Taken::Trouble(error) => self.trouble(&error),
            }
        }
        is_enough
    }

    /// Takes a record; true if no more should be read for now.
    fn take(&mut self, record: &Fetched<'_>) -> bool {
        let Some(owned) = running(&mut self.partitions, record.partition) else {
            return false;
        };
        let offset = u64::try_from(record.offset).unwrap_or_default();
        if offset < owned.next {
            tracing::error!(topic = &*self.topic, partition = %owned.partition, offset, expected = owned.next,
                "librdkafka went back in the log: reading on from where it was");
            let partition = owned.partition;
            self.apply(partition, Event::Doubted);
            return true;
        }
        owned.builder.push(Offset(offset), record);
        owned.next = offset + 1;
        owned.at_end = false;
        if !owned.builder.is_full() {
            return false;
        }
        owned.flush(&self.owners, Instant::now());
        owned.is_full()
    }

    /// The end of a partition. It is behind transaction markers and aborted records as well, not only the last record.
    fn end(&mut self, partition: i32, next: i64) {
        if let Some(owned) = running(&mut self.partitions, partition) {
            owned.end_reached = true;
            owned.next = owned.next.max(u64::try_from(next).unwrap_or_default());
        }
    }

    fn trouble(&mut self, error: &KafkaError) {
        match error {
            KafkaError::MessageConsumption(code) if is_lost_place(*code) => self.doubt_all(),
            KafkaError::MessageConsumption(code) if skips_records(*code) => {
                // librdkafka would go on behind the batch. So everything behind the error is thrown away at once.
                self.doubt_all();
                self.fail(SourceFailure::Unreadable {
                    topic: self.topic.to_string(),
                    error: code.to_string(),
                });
            }
            KafkaError::MessageConsumption(code @ RDKafkaErrorCode::TopicAuthorizationFailed)
                if !self.has_read_nothing() =>
            {
                let log = &self.fetcher.context().log;
                log.forbidden("Kafka does not let us read the topic any more", *code);
            }
            KafkaError::MessageConsumption(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => {
                self.fail(SourceFailure::Forbidden(format!(
                    "Kafka does not let us read the topic {:?} ({code}): allow our user to read it, or correct \
                     stream.kafka.topic",
                    self.topic
                )));
            }
            KafkaError::MessageConsumptionFatal(code) => {
                self.fail(SourceFailure::Fatal(format!(
                    "reading the topic {:?}: {code}",
                    self.topic
                )));
            }
            // Passing; logged where librdkafka tells it.
            _ => {}
        }
    }

    /// Nothing since the partitions came: who was let in once may be let in again.
    pub fn has_read_nothing(&self) -> bool {
        self.all()
            .all(|owned| !owned.at_end && owned.start.is_none_or(|start| start.next == owned.next))
    }

    /// rdkafka doesn't say which partition an error belongs to, so all begin again from where they are.
    fn doubt_all(&mut self) {
        for partition in self.those(|owned| owned.phase == Phase::Running) {
            self.apply(partition, Event::Doubted);
        }
    }

    fn flush(&mut self) {
        let now = Instant::now();
        for owned in self.partitions.iter_mut().flatten() {
            owned.flush(&self.owners, now);
            if owned.end_reached && owned.phase == Phase::Running && owned.is_accepted() {
                owned.end_reached = false;
                owned.at_end = true;
                let next = Offset(owned.next);
                self.owners.caught_up(owned.partition, owned.assignment, next);
                self.owners.end_seen(owned.partition, next);
            }
        }
    }

    /// Asks for the ends of those partitions that have not come to theirs, unless the last asking still goes on; in some
    /// rounds of all, should librdkafka fail to notice that a log goes on. While no broker answers, some partition is
    /// asked for all the same, to notice when one does.
    pub fn ask_ends(&mut self) {
        if self.asking_ends.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let of_all = self.end_rounds.is_multiple_of(ROUNDS_BETWEEN_ALL_ENDS);
        self.end_rounds = self.end_rounds.wrapping_add(1);
        let mut behind = self.those(|owned| {
            (of_all || !owned.at_end)
                && matches!(owned.phase, Phase::Running | Phase::Paused | Phase::Checking)
        });
        let nobody_is = behind.is_empty();
        if nobody_is {
            if self.stats.is_connected.load(Ordering::Relaxed) {
                return;
            }
            behind.push(PartitionId(0));
        }
        let asking = Asking {
            owners: self.owners.clone(),
            fetcher: self.fetcher.clone(),
            topic: self.topic.clone(),
            stats: self.stats.clone(),
            partitions: behind,
            only_looks: nobody_is,
        };
        self.asking_ends = Some(self.runtime.spawn(asking.run()));
    }

    /// Reading a partition always begins by an assignment with an explicit offset, after a pause too: pausing and
    /// seeking have a state of their own in librdkafka, and throw the prefetched records away just the same.
    pub fn fetch_from(&self, partition: PartitionId, next: u64) {
        let list = self.list(
            partition,
            KafkaOffset::Offset(i64::try_from(next).unwrap_or(i64::MAX)),
        );
        if let Err(error) = list.and_then(|list| self.fetcher.incremental_assign(&list)) {
            self.fail(SourceFailure::Fatal(format!(
                "can't read the topic {:?}, partition {partition}, from offset {next}: {error}",
                self.topic
            )));
        }
    }

    pub fn fetch_no_more(&mut self, partition: PartitionId) {
        match self.owned(partition) {
            Some(owned) if owned.fetching => owned.fetching = false,
            _ => return,
        }
        let list = self.list(partition, KafkaOffset::Invalid);
        if let Err(error) = list.and_then(|list| self.fetcher.incremental_unassign(&list)) {
            self.fail(SourceFailure::Fatal(format!(
                "can't stop reading the topic {:?}, partition {partition}: {error}",
                self.topic
            )));
        }
    }

    fn list(&self, partition: PartitionId, offset: KafkaOffset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        let number = i32::try_from(partition.0).unwrap_or(i32::MAX);
        list.add_partition_offset(&self.topic, number, offset)?;
        Ok(list)
    }
}

/// The partition of this number, if it is being read: what comes of another was on its way when that ended.
fn running(partitions: &mut [Option<Box<Owned>>], number: i32) -> Option<&mut Owned> {
    let owned = partitions.get_mut(usize::try_from(number).ok()?)?.as_deref_mut();
    owned.filter(|owned| owned.phase == Phase::Running)
}

/// Where librdkafka was is not in the log.
fn is_lost_place(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
    )
}

/// librdkafka reports these for a whole batch of records and goes on behind it.
fn skips_records(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        code,
        C::BadMessage
            | C::BadCompression
            | C::NotImplemented
            | C::InvalidMessage
            | C::UnsupportedCompressionType
    )
}

/// Asks for the ends of some partitions, one after the other.
struct Asking<O> {
    owners: O,
    fetcher: Arc<BaseConsumer<FetcherContext>>,
    topic: Arc<str>,
    stats: Arc<SourceStats>,
    partitions: Vec<PartitionId>,
    /// Nobody waits for the answer.
    only_looks: bool,
}

impl<O: Owners> Asking<O> {
    async fn run(self) {
        for partition in self.partitions {
            let asked = ask_bounds(&self.fetcher, &self.topic, partition).await;
            self.stats
                .saw_broker(asked.as_ref().map(drop).map_err(String::as_str));
            match asked {
                Ok(_) if self.only_looks => {}
                Ok((_, end)) => self.owners.end_seen(partition, Offset(end)),
                Err(error) => {
                    tracing::debug!(topic = &*self.topic, %partition, error, "can't ask for the end");
                    return;
                }
            }
        }
    }
}
