//! Records that can't be used, put aside in a Kafka topic of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use super::DeadLetter;
use super::kafka::KafkaSettings;
use super::kafka::context::PlainContext;
use super::kafka::not_taken;
use super::letter_log::LetterLog;
use crate::shard::DeadLetterSink;
use crate::wire::headers;

/// How long librdkafka tries by itself before it says why it can't.
const ATTEMPT_MS: &str = "15000";
/// How long librdkafka takes a missing topic for one that is just being created.
const MISSING_TOPIC_MS: &str = "3000";
/// The first pause between two attempts; doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(5);

type Sender = FutureProducer<PlainContext>;

/// The way to the dead-letter topic.
pub struct DeadLetters {
    settings: KafkaSettings,
    topic: String,
    sender: Mutex<Sender>,
    log: LetterLog,
}

impl DeadLetters {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// Where librdkafka does not take the settings, in words.
    pub fn new(settings: &KafkaSettings) -> Result<Self, String> {
        Ok(DeadLetters {
            settings: settings.clone(),
            topic: settings.dead_letter_topic(),
            sender: Mutex::new(sender(settings)?),
            log: LetterLog::new(&settings.topic, &settings.dead_letter_topic()),
        })
    }

    /// Returns when the letter is in the dead-letter topic, acknowledged by all replicas, however long that takes.
    ///
    /// A value that is too large for the topic is cut, since the stream must go on; the letter says so.
    pub async fn send(&self, letter: DeadLetter) {
        self.log.put_aside(&letter);
        let value_bytes = letter.record.value.as_ref().map_or(0, bytes::Bytes::len);
        let mut kept_bytes = value_bytes;
        let mut pause = RETRY_MIN;
        loop {
            let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Err(error) = self.attempt(&sender, &letter, kept_bytes).await else {
                self.log.delivered();
                return;
            };
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) && kept_bytes > 0 {
                kept_bytes /= 2;
                continue;
            }
            self.log.failed(&letter, &error);
            self.replace_if_broken(&sender);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
            // What was too large for a topic that takes nothing may not be for one that does.
            kept_bytes = value_bytes;
        }
    }

    async fn attempt(
        &self,
        sender: &Sender,
        letter: &DeadLetter,
        kept_bytes: usize,
    ) -> Result<(), KafkaError> {
        let record = &letter.record;
        let value = record
            .value
            .as_deref()
            .map(|value| &value[..kept_bytes.min(value.len())]);
        let is_cut = value.map(<[u8]>::len) != record.value.as_deref().map(<[u8]>::len);
        let to_send: FutureRecord<'_, [u8], [u8]> = FutureRecord {
            topic: &self.topic,
            partition: None,
            payload: value,
            key: record.key.as_deref(),
            timestamp: record.timestamp_ms,
            headers: Some(letter_headers(letter, is_cut)),
        };
        match sender.send(to_send, Duration::ZERO).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error),
        }
    }

    /// An idempotent producer that has lost its place never sends again.
    fn replace_if_broken(&self, used: &Sender) {
        let Some((_, why)) = client(used).fatal_error() else {
            return;
        };
        let mut current = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if client(&current).fatal_error().is_none() {
            return;
        }
        match sender(&self.settings) {
            Ok(fresh) => {
                tracing::info!(
                    topic = self.topic,
                    why,
                    "the producer of dead letters was replaced"
                );
                *current = fresh;
            }
            Err(error) => tracing::error!(
                topic = self.topic,
                error,
                "can't replace the producer of dead letters"
            ),
        }
    }
}

impl DeadLetterSink for Arc<DeadLetters> {
    async fn send(&self, letter: DeadLetter) {
        DeadLetters::send(self, letter).await;
    }
}

fn sender(settings: &KafkaSettings) -> Result<Sender, String> {
    settings
        .producer(&[
            ("message.timeout.ms", ATTEMPT_MS),
            ("topic.metadata.propagation.max.ms", MISSING_TOPIC_MS),
            ("partitioner", "murmur2_random"),
        ])
        .create_with_context(PlainContext::default())
        .map_err(|error| not_taken(&error))
}

fn client(sender: &Sender) -> &Client<impl rdkafka::ClientContext + use<>> {
    sender.client()
}

/// The record's own headers in their order, then ours.
fn letter_headers(letter: &DeadLetter, is_cut: bool) -> OwnedHeaders {
    let own = &letter.record.headers;
    let mut all = OwnedHeaders::new_with_capacity(own.len() + 4);
    for (name, value) in own {
        all = all.insert(Header {
            key: name,
            value: value.as_deref(),
        });
    }
    let partition = letter.partition.to_string();
    let offset = letter.record.offset.to_string();
    let ours = [
        (headers::DEAD_LETTER_REASON, letter.reason),
        (headers::DEAD_LETTER_SOURCE_PARTITION, &partition),
        (headers::DEAD_LETTER_SOURCE_OFFSET, &offset),
    ];
    for (name, value) in ours
        .into_iter()
        .chain(is_cut.then_some((headers::DEAD_LETTER_TRUNCATED, "true")))
    {
        all = all.insert(Header {
            key: name,
            value: Some(value),
        });
    }
    all
}
