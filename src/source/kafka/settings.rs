//! How the clients of librdkafka are set up.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::config::{Secret, Stream};

/// What the source, the dead letters and `publish` need to know of Kafka: `[stream.kafka]` and `stream.epoch`.
#[derive(Clone)]
pub struct KafkaSettings {
    /// Addresses, separated by commas.
    pub brokers: String,
    /// The topic of the stream.
    pub topic: String,
    /// The consumer group.
    pub group: String,
    /// Partitions of the topic where it is created.
    pub partitions: u32,
    /// Replicas of the topic where it is created; -1: the broker's default.
    pub replication: i32,
    /// `sasl.password`; never logged.
    pub password: Option<Secret>,
    /// Further settings of librdkafka; what the service relies on wins over them.
    pub properties: BTreeMap<String, String>,
    /// `stream.epoch`.
    pub epoch: u32,
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Properties may hold passwords too.
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl From<&Stream> for KafkaSettings {
    /// As configured.
    fn from(stream: &Stream) -> Self {
        let kafka = &stream.kafka;
        KafkaSettings {
            brokers: kafka.brokers.clone(),
            topic: kafka.topic.clone(),
            group: kafka.group.clone(),
            partitions: kafka.partitions,
            replication: kafka.replication,
            password: kafka.password.clone(),
            properties: kafka.properties.clone().into(),
            epoch: stream.epoch,
        }
    }
}

/// The longest wait of a fetch that was held back because the prefetch was full.
const FETCH_QUEUE_BACKOFF_MS: u32 = 20;
/// Prefetched records of all partitions together, below which librdkafka fetches more.
const PREFETCH_RECORDS_MIN: u32 = 100_000;
/// Keys and values of prefetched records of all partitions together, below which librdkafka fetches more.
const PREFETCH_MAX_KIB: u32 = 32 * 1024;
/// One fetch from one partition. Larger records are fetched all the same.
const FETCH_PARTITION_MAX_BYTES: u32 = 512 * 1024;
/// One fetch from one broker, as it was compressed: what bounds memory, since librdkafka unpacks all of it at once, some 350
/// bytes and the record each. Larger ones were not faster.
const FETCH_MAX_BYTES: u32 = 2 * 1024 * 1024;
/// How long the broker may hold a fetch back until there is something.
const FETCH_WAIT_MAX_MS: u32 = 100;
/// How soon a member notices that the group is being rebalanced: for so long partitions that move have no owner.
const HEARTBEAT_INTERVAL_MS: &str = "200";
/// The longest wait before a broker that could not be reached is tried again. librdkafka's own 10 s would be added to every
/// outage.
const RECONNECT_BACKOFF_MAX_MS: &str = "1000";
pub(super) const CLIENT_ID: &str = "client.id";
const SESSION_TIMEOUT: &str = "session.timeout.ms";
/// Unacknowledged records of a producer.
const PRODUCER_QUEUE_MAX_RECORDS: u32 = 100_000;
/// The largest value librdkafka allows: what is too large is for the topic to say.
const MESSAGE_MAX_BYTES: u32 = 1_000_000_000;

/// Two names of one setting, by librdkafka's CONFIGURATION.md ("Alias for"), where it is one of our preferences. Given under both
/// names, either value may win.
const SYNONYMS: [(&str, &str); 4] = [
    ("compression.type", "compression.codec"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
];

/// Why librdkafka does not take the settings, in one line. Without values, as rdkafka would print them: a password under
/// a name that is spelled wrong must not be shown either.
pub(crate) fn not_taken(error: &KafkaError) -> String {
    let why = match error {
        KafkaError::ClientConfig(_, description, name, _) => format!("{name}: {description}"),
        error => error.to_string(),
    };
    format!("librdkafka does not take the settings of stream.kafka: {why}: correct stream.kafka.properties")
}

impl KafkaSettings {
    /// The dead-letter topic.
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dlq", self.topic)
    }

    /// Our preferences, then the configured properties, then what isn't up for choice.
    fn client(&self, preferences: &[(&str, &str)], ours: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set(CLIENT_ID, "readstates");
        config.set("reconnect.backoff.max.ms", RECONNECT_BACKOFF_MAX_MS);
        for (name, value) in preferences {
            if !self.has_synonym_of(name) {
                config.set(*name, *value);
            }
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config.set("statistics.interval.ms", "0");
        if let Some(password) = &self.password {
            config.set("sasl.password", password.reveal());
        }
        for (name, value) in ours {
            config.set(*name, *value);
        }
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// Whether a preference is among the properties under its other name.
    fn has_synonym_of(&self, preference: &str) -> bool {
        let other = |(one, other): &(_, _)| match preference {
            name if name == *one => self.properties.contains_key(*other),
            name if name == *other => self.properties.contains_key(*one),
            _ => false,
        };
        SYNONYMS.iter().any(other)
    }

    fn consumer(&self, preferences: &[(&str, &str)]) -> ClientConfig {
        let mut config = self.client(
            preferences,
            &[
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "error"),
                ("enable.partition.eof", "true"),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("group.protocol", "classic"),
                ("isolation.level", "read_committed"),
                ("check.crcs", "true"),
                ("allow.auto.create.topics", "false"),
            ],
        );
        config.set("group.id", &self.group);
        config
    }

    /// The client that is a member of the group, and reads nothing. `process` tells it from all others in its `client.id`.
    pub(super) fn member(&self, process: &str) -> ClientConfig {
        let mut config = self.consumer(&[("heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS)]);
        let client_id = config.get(CLIENT_ID).unwrap_or_default();
        let client_id = format!("{client_id}-{process}");
        config.set(CLIENT_ID, client_id);
        config
    }

    /// After which time without a sign of life the group gives a member up.
    ///
    /// # Errors
    /// Where librdkafka does not take the settings, in words.
    pub(super) fn session(&self) -> Result<Duration, String> {
        let member = self.member("").create_native_config();
        let timeout_ms = member.and_then(|member| member.get(SESSION_TIMEOUT));
        let timeout_ms = timeout_ms.map_err(|error| error.to_string())?;
        let timeout_ms = timeout_ms.trim_end_matches('\0').parse();
        let timeout_ms = timeout_ms.map_err(|error| format!("librdkafka's {SESSION_TIMEOUT}: {error}"))?;
        Ok(Duration::from_millis(timeout_ms))
    }

    /// The client that reads partitions as it is told, and is a member of no group.
    pub(super) fn fetcher(&self) -> ClientConfig {
        self.consumer(&[
            ("fetch.queue.backoff.ms", &FETCH_QUEUE_BACKOFF_MS.to_string()),
            ("queued.min.messages", &PREFETCH_RECORDS_MIN.to_string()),
            ("queued.max.messages.kbytes", &PREFETCH_MAX_KIB.to_string()),
            ("fetch.message.max.bytes", &FETCH_PARTITION_MAX_BYTES.to_string()),
            ("fetch.max.bytes", &FETCH_MAX_BYTES.to_string()),
            ("fetch.wait.max.ms", &FETCH_WAIT_MAX_MS.to_string()),
        ])
    }

    /// A client that only asks questions.
    pub(super) fn admin(&self) -> ClientConfig {
        self.client(&[], &[("allow.auto.create.topics", "false")])
    }

    /// A producer that keeps the order and writes each record once.
    pub(crate) fn producer(&self, preferences: &[(&str, &str)]) -> ClientConfig {
        let mut all = vec![
            (
                "queue.buffering.max.messages",
                PRODUCER_QUEUE_MAX_RECORDS.to_string(),
            ),
            ("message.max.bytes", MESSAGE_MAX_BYTES.to_string()),
        ];
        all.extend(preferences.iter().map(|(name, value)| (*name, value.to_string())));
        let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.client(
            &all,
            &[
                ("acks", "all"),
                ("enable.idempotence", "true"),
                ("allow.auto.create.topics", "false"),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(properties: &[(&str, &str)]) -> KafkaSettings {
        KafkaSettings {
            brokers: "127.0.0.1:1".into(),
            topic: "events".into(),
            group: "group".into(),
            partitions: 1,
            replication: -1,
            password: None,
            properties: properties
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            epoch: 0,
        }
    }

    #[test]
    fn properties_win_over_preferences_and_not_over_needs() {
        let settings = settings(&[
            ("fetch.wait.max.ms", "7"),
            ("check.crcs", "false"),
            ("group.id", "other"),
        ]);
        let config = settings.fetcher();
        assert_eq!(config.get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(config.get("check.crcs"), Some("true"));
        assert_eq!(config.get("group.id"), Some("group"));
    }

    #[test]
    fn properties_win_over_preferences_under_either_name() {
        for (one, other) in SYNONYMS {
            for (preferred, given) in [(one, other), (other, one)] {
                let config = settings(&[(given, "1")]).client(&[(preferred, "2")], &[]);
                assert_eq!(config.get(given), Some("1"));
                assert_eq!(config.get(preferred), None, "{given}");
            }
        }
        let fetcher = settings(&[("max.partition.fetch.bytes", "1000000")]).fetcher();
        let fetcher = fetcher.create_native_config().unwrap();
        let bytes = fetcher.get("fetch.message.max.bytes").unwrap();
        assert_eq!(bytes.trim_end_matches('\0'), "1000000");
    }

    #[test]
    fn the_session_is_that_of_the_member() {
        assert_eq!(settings(&[]).session(), Ok(Duration::from_secs(45)));
        let short = settings(&[("session.timeout.ms", "6000")]);
        assert_eq!(short.session(), Ok(Duration::from_secs(6)));
    }

    #[test]
    fn librdkafka_takes_every_setting() {
        let settings = settings(&[]);
        for config in [
            settings.member("it"),
            settings.fetcher(),
            settings.admin(),
            settings.producer(&[]),
        ] {
            assert!(config.create_native_config().is_ok());
        }
    }

    #[test]
    fn a_setting_that_is_not_taken_is_named_without_its_value() {
        for name in ["sasl.pasword", "sasl.jaas.config", "ssl.key.passwort"] {
            let error = settings(&[(name, "swordfish")]).admin().create_native_config();
            let said = not_taken(&error.err().unwrap());
            assert!(said.contains(name) && !said.contains("swordfish"), "{said}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let settings = settings(&[("ssl.key.password", "swordfish")]);
        let printed = format!("{settings:?}");
        assert!(!printed.contains("swordfish"), "{printed}");
    }
}
