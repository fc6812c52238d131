//! Records into a Kafka topic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::counts::{Counts, Refusal};
use super::feed::broken_off;
use crate::cli::Failed;
use crate::model::ids::ChannelId;
use crate::source::kafka::context::PlainContext;
use crate::source::kafka::{KafkaSettings, not_taken};
use crate::wire::partitioner::{DecimalKey, partition_of};

/// How long to wait where librdkafka's queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// How long records are gathered: long enough for full batches, too short to be noticed by someone who types.
const LINGER_MS: &str = "20";
/// Bytes of a batch, before compression.
const BATCH_BYTES: &str = "1000000";
/// Records of a batch.
const BATCH_RECORDS: &str = "50000";
/// On a year of real chat a quarter of the bytes, for hardly any CPU. zstd makes it a seventh, for a tenth more.
const COMPRESSION: &str = "lz4";

/// A producer.
pub(super) struct IntoKafka {
    producer: Arc<ThreadedProducer<Acknowledging>>,
    topic: String,
    partition_count: u32,
    counts: Arc<Counts>,
}

impl IntoKafka {
    /// Into a topic with so many partitions.
    pub fn new(settings: &KafkaSettings, partition_count: u32, counts: Arc<Counts>) -> Result<Self, Failed> {
        let context = Acknowledging {
            log: PlainContext::default(),
            counts: counts.clone(),
        };
        let producer = settings
            .producer(&[
                ("linger.ms", LINGER_MS),
                ("batch.size", BATCH_BYTES),
                ("batch.num.messages", BATCH_RECORDS),
                ("compression.type", COMPRESSION),
            ])
            .create_with_context(context)
            .map_err(|error| Failed::Misconfigured(not_taken(&error)))?;
        Ok(IntoKafka {
            producer: Arc::new(producer),
            topic: settings.topic.clone(),
            partition_count,
            counts,
        })
    }

    /// Sends a record, waiting where librdkafka's queue is full.
    pub fn send(&self, line: u64, channel: ChannelId, value: &[u8], is_stopped: &AtomicBool) {
        let key = DecimalKey::new(channel);
        let partition = partition_of(channel, self.partition_count);
        let mut record = BaseRecord::with_opaque_to(&self.topic, usize::try_from(line).unwrap_or(usize::MAX))
            .partition(i32::try_from(partition.0).unwrap_or(i32::MAX))
            .key(key.as_bytes())
            .payload(value);
        loop {
            match self.producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    // Counted as sent, it will be told as not acknowledged.
                    if is_stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    record = back;
                    std::thread::sleep(QUEUE_FULL_WAIT);
                }
                Err((error, _)) => {
                    let why = error.to_string();
                    return self.counts.refuse(Refusal::NotTaken, line, &why);
                }
            }
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
        broken_off(flushing.await)
    }
}

/// Counts what is acknowledged.
struct Acknowledging {
    log: PlainContext,
    counts: Arc<Counts>,
}

impl ClientContext for Acknowledging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ProducerContext for Acknowledging {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, line: usize) {
        match result {
            Ok(record) => {
                let bytes = record.payload_len() + record.key_len();
                self.counts.acknowledged(bytes as u64);
            }
            Err((error, _)) => self
                .counts
                .refuse(Refusal::NotTaken, line as u64, &error.to_string()),
        }
    }
}
