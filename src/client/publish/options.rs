//! Which stream to publish to.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::{CannotConnect, Options, connected};
use crate::config::{Config, Kafka, Properties, Secret, StreamKind};
use crate::config::{JetStream, Stream};
use crate::source::jetstream::JetStreamSettings;
use crate::source::kafka::KafkaSettings;
use crate::source::stream::StreamSettings;
use crate::wire::record::RecordLimits;

/// The topic or stream, its consumer group and its partitions, unless it is said otherwise: the defaults of the service.
const STREAM: &str = "message-events";
const GROUP: &str = "readstates";
const PARTITIONS: u32 = 16;
const REPLICATION: i32 = -1;
const REPLICAS: u32 = 1;
/// How long the stream may take to acknowledge an event, unless it is said otherwise.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(30);

/// Which stream to publish to, and how.
///
/// ```
/// use readstates::client::{Options, StreamOptions};
///
/// let kafka = StreamOptions::kafka("one:9092,two:9092").stream("chat-events");
/// let jetstream = StreamOptions::jetstream(Options::default()).partitions(4);
/// ```
#[derive(Clone, Debug)]
pub struct StreamOptions {
    stream: Stream,
    nats: Options,
    pub(super) limits: RecordLimits,
    pub(super) acknowledged_within: Duration,
}

impl StreamOptions {
    /// A Kafka topic; `brokers` are `host:port`, several with commas.
    pub fn kafka(brokers: impl Into<String>) -> Self {
        let mut options = StreamOptions::of(StreamKind::Kafka, Options::default());
        options.stream.kafka.brokers = brokers.into();
        options
    }

    /// A JetStream stream, over a connection of its own.
    pub fn jetstream(nats: Options) -> Self {
        StreamOptions::of(StreamKind::JetStream, nats)
    }

    fn of(kind: StreamKind, nats: Options) -> Self {
        StreamOptions {
            stream: Stream {
                kind,
                epoch: 0,
                kafka: Kafka {
                    brokers: String::new(),
                    topic: STREAM.to_owned(),
                    group: GROUP.to_owned(),
                    partitions: PARTITIONS,
                    replication: REPLICATION,
                    password: None,
                    properties: Properties::default(),
                },
                jetstream: JetStream {
                    stream: STREAM.to_owned(),
                    partitions: PARTITIONS,
                    replicas: REPLICAS,
                },
            },
            nats,
            limits: RecordLimits::default(),
            acknowledged_within: ACKNOWLEDGED_WITHIN,
        }
    }

    /// The topic or stream; `message-events` by default.
    pub fn stream(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.stream.kafka.topic = name.clone();
        self.stream.jetstream.stream = name;
        self
    }

    /// How many partitions the stream has, as in the configuration of the service; 16 by default. A Kafka topic that
    /// exists says it itself.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.stream.kafka.partitions = partitions;
        self.stream.jetstream.partitions = partitions;
        self
    }

    /// A setting of librdkafka, such as `security.protocol`; what the order and the place of events rest on wins over it.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let mut properties: BTreeMap<_, _> = self.stream.kafka.properties.clone().into();
        properties.insert(name.into(), value.into());
        self.stream.kafka.properties = Properties::from(properties);
        self
    }

    /// librdkafka's `sasl.password`.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.stream.kafka.password = Some(Secret::from(password.into()));
        self
    }

    /// What the service takes, where its `limits` were changed.
    pub fn limits(mut self, limits: RecordLimits) -> Self {
        self.limits = limits;
        self
    }

    /// How long the stream may take to acknowledge an event; 30 s by default. Then nobody knows whether it is there.
    pub fn acknowledged_within(mut self, time: Duration) -> Self {
        self.acknowledged_within = time;
        self
    }

    /// Connects to NATS where that is the server of the stream. librdkafka connects by itself.
    ///
    /// # Errors
    /// Where NATS can't be reached, or does not let us in.
    pub async fn settings(&self) -> Result<StreamSettings, CannotConnect> {
        Ok(match self.stream.kind {
            StreamKind::Kafka => StreamSettings::Kafka(KafkaSettings::from(&self.stream)),
            StreamKind::JetStream => {
                let client = connected(&self.nats.nats()?).await?;
                StreamSettings::JetStream(JetStreamSettings::new(&self.stream, client))
            }
        })
    }
}

impl From<&Config> for StreamOptions {
    /// The stream of a service with this configuration.
    fn from(config: &Config) -> Self {
        StreamOptions {
            stream: config.stream.clone(),
            nats: Options::from(&config.nats),
            limits: RecordLimits::from(&config.limits),
            acknowledged_within: ACKNOWLEDGED_WITHIN,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_service() {
        let set = |kind: &str| vec![("stream.kind".to_owned(), kind.to_owned())];
        let empty = tempfile::NamedTempFile::new().unwrap();
        let load = |kind| Config::load(&set(kind), Some(empty.path()), std::iter::empty()).unwrap();
        let (config, ours) = (load("kafka"), StreamOptions::kafka("127.0.0.1:9092"));
        assert_eq!(
            (&ours.stream, ours.limits),
            (&config.stream, (&config.limits).into())
        );
        let nats = Options::default();
        assert_eq!(nats.nats().unwrap(), config.nats);
        let ours = StreamOptions::jetstream(nats);
        assert_eq!(ours.stream.jetstream, load("jetstream").stream.jetstream);
    }
}
