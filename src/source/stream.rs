//! Either kind of stream, for who does not care which.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::dead_letters::DeadLetters as KafkaLetters;
use super::failure::{PrepareError, SourceFailure, StreamInfo};
use super::jetstream::dead_letters::DeadLetters as JetStreamLetters;
use super::jetstream::{self, JetStreamSettings, JetStreamSource};
use super::kafka::{self, KafkaSettings, KafkaSource};
use super::stats::SourceStats;
use super::{DeadLetter, Owners};
use crate::shard::DeadLetterSink;
use crate::store::Store;

/// Which stream, and how to get at it.
#[derive(Clone)]
pub enum StreamSettings {
    /// A Kafka topic.
    Kafka(KafkaSettings),
    /// A JetStream stream.
    JetStream(JetStreamSettings),
}

impl StreamSettings {
    /// Creates what is missing, and learns what the stream is. See [`kafka::prepare`] and [`jetstream::prepare`].
    ///
    /// # Errors
    /// One line that says which setting to change, or that the server can't be reached (then try again).
    pub async fn prepare(&self) -> Result<StreamInfo, PrepareError> {
        match self {
            StreamSettings::Kafka(settings) => kafka::prepare(settings).await,
            StreamSettings::JetStream(settings) => jetstream::prepare(settings).await,
        }
    }

    /// The way to the dead letters.
    ///
    /// # Errors
    /// Where the settings can't be used, in words.
    pub fn dead_letters(&self) -> Result<Letters, String> {
        Ok(match self {
            StreamSettings::Kafka(settings) => Letters::Kafka(Arc::new(KafkaLetters::new(settings)?)),
            StreamSettings::JetStream(settings) => {
                Letters::JetStream(Arc::new(JetStreamLetters::new(settings)))
            }
        })
    }

    /// Starts to read, as [`KafkaSource::start`] and [`JetStreamSource::start`] do.
    ///
    /// # Errors
    /// Where the settings can't be used, in words.
    pub fn start<O: Owners + Sync, S: Store>(
        &self,
        stream: &StreamInfo,
        owners: O,
        store: S,
    ) -> Result<(Source, mpsc::Receiver<SourceFailure>), String> {
        Ok(match self {
            StreamSettings::Kafka(settings) => {
                let (source, failures) = KafkaSource::start(settings, stream, owners, store)?;
                (Source::Kafka(source), failures)
            }
            StreamSettings::JetStream(settings) => {
                let (source, failures) = JetStreamSource::start(settings, stream, owners, store);
                (Source::JetStream(source), failures)
            }
        })
    }
}

/// Reads a stream until it is stopped.
pub enum Source {
    /// From Kafka.
    Kafka(KafkaSource),
    /// From JetStream.
    JetStream(JetStreamSource),
}

impl Source {
    /// What it counts.
    pub fn stats(&self) -> Arc<SourceStats> {
        match self {
            Source::Kafka(source) => source.stats(),
            Source::JetStream(source) => source.stats(),
        }
    }

    /// Drains every partition, for at most 10 s, gives them back and ends.
    ///
    /// # Errors
    /// Where it had panicked.
    pub async fn stop(self) -> Result<(), String> {
        match self {
            Source::Kafka(source) => source.stop().await,
            Source::JetStream(source) => source.stop().await,
        }
    }
}

/// The way to the dead letters of a stream.
#[derive(Clone)]
pub enum Letters {
    /// A Kafka topic.
    Kafka(Arc<KafkaLetters>),
    /// A JetStream stream.
    JetStream(Arc<JetStreamLetters>),
}

impl DeadLetterSink for Letters {
    async fn send(&self, letter: DeadLetter) {
        match self {
            Letters::Kafka(letters) => letters.send(letter).await,
            Letters::JetStream(letters) => letters.send(letter).await,
        }
    }
}
