//! Records into a stream of either kind, many under way at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message as _;
use rdkafka::util::IntoOpaque;

use super::PublishError;
use super::jetstream::IntoJetStream;
use super::kafka::IntoKafka;
use crate::client::{CannotConnect, Position};
use crate::model::ids::{ChannelId, PartitionId};
use crate::source::stream::StreamSettings;
use crate::wire::partitioner::partition_of;
use crate::wire::proto::v1;
use crate::wire::record::{RecordLimits, check};

/// How long records are gathered where someone waits for each.
const LINGER_PROMPT: Duration = Duration::from_millis(2);
/// How long they are where many are sent: long enough for full batches, too short to be noticed by someone who types.
const LINGER_BULK: Duration = Duration::from_millis(20);

/// Is told what becomes of each record.
pub trait Receipts: Send + Sync + 'static {
    /// Goes with a record, and comes back: a `usize`, or a `Box` or an `Arc` of anything.
    type Tag: IntoOpaque + Send + 'static;

    /// A record was acknowledged by all replicas, or was not. Called once for each that was sent, on some thread that must
    /// not wait.
    fn settled(&self, tag: Self::Tag, receipt: Result<Receipt, PublishError>);
}

/// Of a record that all replicas have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where it is; Kafka does not tell it where the producer had to ask twice.
    pub position: Option<Position>,
    /// Bytes of its key and value.
    pub bytes: u64,
}

/// An event, ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub(super) channel: ChannelId,
    pub(super) value: &'a [u8],
}

/// Many at once, or each at once.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    pub(super) linger: Duration,
    /// None: as long as librdkafka or async-nats think best.
    pub(super) acknowledged_within: Option<Duration>,
}

impl Tuning {
    /// For those who wait for each record, at most so long.
    pub fn prompt(acknowledged_within: Duration) -> Self {
        Tuning {
            linger: LINGER_PROMPT,
            acknowledged_within: Some(acknowledged_within),
        }
    }

    /// For those who publish more than they can wait for.
    pub fn bulk() -> Self {
        Tuning {
            linger: LINGER_BULK,
            acknowledged_within: None,
        }
    }
}

/// Publishes records and calls back. The records of a channel are there in the order in which they were sent.
pub struct Pipeline<R: Receipts> {
    sink: Sink<R>,
    limits: RecordLimits,
    partition_count: u32,
    receipts: Arc<R>,
    is_stopped: AtomicBool,
}

enum Sink<R: Receipts> {
    Kafka(IntoKafka<R>),
    JetStream(Box<IntoJetStream<R>>),
}

impl<R: Receipts> Pipeline<R> {
    /// Creates what is missing of the stream, and learns how many partitions it has. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where there is no stream, or the settings are wrong.
    pub async fn open(
        settings: &StreamSettings,
        limits: RecordLimits,
        tuning: Tuning,
        receipts: Arc<R>,
    ) -> Result<Self, CannotConnect> {
        let partition_count = settings.prepare().await?.partition_count;
        let sink = match settings {
            StreamSettings::Kafka(settings) => {
                Sink::Kafka(IntoKafka::new(settings, tuning, receipts.clone())?)
            }
            StreamSettings::JetStream(settings) => {
                Sink::JetStream(Box::new(IntoJetStream::new(settings, tuning, receipts.clone())))
            }
        };
        Ok(Pipeline {
            sink,
            limits,
            partition_count,
            receipts,
            is_stopped: AtomicBool::new(false),
        })
    }

    /// Checks an event as the service will, and writes the value of its record.
    ///
    /// # Errors
    /// [`PublishError::Invalid`].
    pub fn record<'a>(&self, event: v1::Event, value: &'a mut Vec<u8>) -> Result<Record<'a>, PublishError> {
        value.clear();
        let invalid = PublishError::Invalid;
        event.encode(value).map_err(|error| invalid(error.to_string()))?;
        let (bytes, max) = (value.len(), self.limits.event_bytes_max);
        if bytes > max {
            return Err(invalid(format!(
                "it has {bytes} bytes as protobuf, limits.max_event_bytes is {max}"
            )));
        }
        let channel = check(event, &self.limits).map_err(invalid)?.channel;
        Ok(Record { channel, value })
    }

    /// Sends a record, waiting where too many are under way; what becomes of it is told by [`Receipts::settled`].
    pub async fn send(&self, record: Record<'_>, tag: R::Tag) {
        let partition = self.partition_of(record.channel);
        let sent = match &self.sink {
            Sink::Kafka(into) => into.send(record, partition, tag).await,
            Sink::JetStream(into) => into.send(record, partition, tag, &self.is_stopped).await,
        };
        self.settle_unsent(sent);
    }

    /// The same for a thread that may wait, and is none of the runtime's. Once this is stopped, what would have to wait is
    /// dropped, without a word.
    pub fn send_blocking(&self, record: Record<'_>, tag: R::Tag) {
        let partition = self.partition_of(record.channel);
        let sent = match &self.sink {
            Sink::Kafka(into) => into.send_blocking(record, partition, tag, &self.is_stopped),
            Sink::JetStream(into) => into.send_blocking(record, partition, tag, &self.is_stopped),
        };
        self.settle_unsent(sent);
    }

    fn settle_unsent(&self, sent: Result<(), (PublishError, R::Tag)>) {
        if let Err((error, tag)) = sent {
            self.receipts.settled(tag, Err(error));
        }
    }

    /// The partition that a channel's events go to.
    pub fn partition_of(&self, channel: ChannelId) -> PartitionId {
        partition_of(channel, self.partition_count)
    }

    /// Lets nobody wait in [`Pipeline::send_blocking`] any more.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Whether this was stopped.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Waits until everything that was sent is settled, at most for this time.
    ///
    /// # Errors
    /// If it is not by then.
    pub async fn flush(&self, time: Option<Duration>) -> Result<(), String> {
        match &self.sink {
            Sink::Kafka(into) => into.flush(time).await,
            Sink::JetStream(into) => into.flush(time).await,
        }
    }
}
