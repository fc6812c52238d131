//! Records into a Kafka topic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::PublishError;
use super::pipeline::{Receipt, Receipts, Record, Tuning};
use crate::client::{CannotConnect, Position};
use crate::model::ids::{Offset, PartitionId};
use crate::source::kafka::context::PlainContext;
use crate::source::kafka::{KafkaSettings, not_taken};
use crate::wire::partitioner::DecimalKey;

/// How long to wait where librdkafka's queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// Bytes of a batch, before compression.
const BATCH_BYTES: &str = "1000000";
/// Records of a batch.
const BATCH_RECORDS: &str = "50000";
/// On a year of real chat a quarter of the bytes, for hardly any CPU. zstd makes it a seventh, for a tenth more.
const COMPRESSION: &str = "lz4";

/// A producer.
pub(super) struct IntoKafka<R: Receipts> {
    producer: Arc<ThreadedProducer<Acknowledging<R>>>,
    topic: String,
}

/// What librdkafka has no room for, or does not take.
enum Unsent<R: Receipts> {
    QueueFull(R::Tag),
    Refused(PublishError, R::Tag),
}

impl<R: Receipts> IntoKafka<R> {
    pub fn new(settings: &KafkaSettings, tuning: Tuning, receipts: Arc<R>) -> Result<Self, CannotConnect> {
        let context = Acknowledging {
            log: PlainContext::default(),
            receipts,
        };
        let linger_ms = tuning.linger.as_millis().to_string();
        let mut preferences = vec![
            ("linger.ms", linger_ms.as_str()),
            ("batch.size", BATCH_BYTES),
            ("batch.num.messages", BATCH_RECORDS),
            ("compression.type", COMPRESSION),
        ];
        let within_ms = tuning
            .acknowledged_within
            .map(|time| time.as_millis().to_string());
        preferences.extend(within_ms.as_deref().map(|within| ("message.timeout.ms", within)));
        let producer = settings
            .producer(&preferences)
            .create_with_context(context)
            .map_err(|error| CannotConnect::Misconfigured(not_taken(&error)))?;
        Ok(IntoKafka {
            producer: Arc::new(producer),
            topic: settings.topic.clone(),
        })
    }

    /// Sends a record, waiting where librdkafka's queue is full.
    pub async fn send(
        &self,
        record: Record<'_>,
        partition: PartitionId,
        mut tag: R::Tag,
    ) -> Result<(), (PublishError, R::Tag)> {
        loop {
            tag = match self.try_send(record, partition, tag) {
                Ok(()) => return Ok(()),
                Err(Unsent::Refused(error, tag)) => return Err((error, tag)),
                Err(Unsent::QueueFull(tag)) => tag,
            };
            tokio::time::sleep(QUEUE_FULL_WAIT).await;
        }
    }

    /// The same on a thread that may wait.
    pub fn send_blocking(
        &self,
        record: Record<'_>,
        partition: PartitionId,
        mut tag: R::Tag,
        is_stopped: &AtomicBool,
    ) -> Result<(), (PublishError, R::Tag)> {
        loop {
            tag = match self.try_send(record, partition, tag) {
                Ok(()) => return Ok(()),
                Err(Unsent::Refused(error, tag)) => return Err((error, tag)),
                Err(Unsent::QueueFull(_)) if is_stopped.load(Ordering::Relaxed) => return Ok(()),
                Err(Unsent::QueueFull(tag)) => tag,
            };
            std::thread::sleep(QUEUE_FULL_WAIT);
        }
    }

    fn try_send(&self, record: Record<'_>, partition: PartitionId, tag: R::Tag) -> Result<(), Unsent<R>> {
        let key = DecimalKey::new(record.channel);
        let record = BaseRecord::with_opaque_to(&self.topic, tag)
            .partition(i32::try_from(partition.0).unwrap_or(i32::MAX))
            .key(key.as_bytes())
            .payload(record.value);
        match self.producer.send(record) {
            Ok(()) => Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                Err(Unsent::QueueFull(back.delivery_opaque))
            }
            Err((error, back)) => Err(Unsent::Refused(
                PublishError::NotTaken(error.to_string()),
                back.delivery_opaque,
            )),
        }
    }

    /// Waits until everything is acknowledged or given up, at most for this time.
    pub async fn flush(&self, time: Option<Duration>) -> Result<(), String> {
        let producer = self.producer.clone();
        let flushing = tokio::task::spawn_blocking(move || {
            producer
                .flush(time)
                .map_err(|error| format!("not everything that was sent is acknowledged: {error}"))
        });
        let broken_off = |error| Err(format!("publishing broke off: {error}"));
        flushing.await.unwrap_or_else(broken_off)
    }
}

/// Tells what is acknowledged.
struct Acknowledging<R> {
    log: PlainContext,
    receipts: Arc<R>,
}

impl<R: Receipts> ClientContext for Acknowledging<R> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl<R: Receipts> ProducerContext for Acknowledging<R> {
    type DeliveryOpaque = R::Tag;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: R::Tag) {
        let receipt = match result {
            Ok(record) => {
                let place = (u32::try_from(record.partition()), u64::try_from(record.offset()));
                Ok(Receipt {
                    position: match place {
                        (Ok(partition), Ok(offset)) => Some(Position {
                            partition: PartitionId(partition),
                            offset: Offset(offset),
                        }),
                        _ => None,
                    },
                    bytes: (record.payload_len() + record.key_len()) as u64,
                })
            }
            Err((error, _)) => Err(match is_given_up(error) {
                true => PublishError::Unacknowledged(error.to_string()),
                false => PublishError::NotTaken(error.to_string()),
            }),
        };
        self.receipts.settled(tag, receipt);
    }
}

/// Whether it may have arrived all the same.
fn is_given_up(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            C::MessageTimedOut
                | C::PurgeInflight
                | C::OperationTimedOut
                | C::RequestTimedOut
                | C::BrokerTransportFailure
                | C::NotEnoughReplicasAfterAppend
                | C::Fatal
        )
    })
}
