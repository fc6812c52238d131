//! Settings of librdkafka, handed over as they are.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use super::mistakes::is_secret;

/// Settings that readstates makes itself, and why: with another value it would lose or repeat records, or not start.
const OWN: &[(&str, &str)] = &[
    ("bootstrap.servers", "set stream.kafka.brokers"),
    ("metadata.broker.list", "set stream.kafka.brokers"),
    ("group.id", "set stream.kafka.group"),
    ("sasl.password", "set stream.kafka.password_file"),
    (
        "enable.auto.commit",
        "offsets are committed once they are durable",
    ),
    (
        "auto.commit.enable",
        "offsets are committed once they are durable",
    ),
    (
        "auto.commit.interval.ms",
        "offsets are committed once they are durable",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed once they are durable",
    ),
    (
        "offset.store.method",
        "offsets are committed once they are durable",
    ),
    ("auto.offset.reset", "positions come from the store"),
    (
        "isolation.level",
        "records of aborted transactions must not be applied",
    ),
    ("partition.assignment.strategy", "rebalances are cooperative"),
    ("group.protocol", "rebalances are cooperative"),
    ("check.crcs", "records are checked"),
    (
        "allow.auto.create.topics",
        "topics are created with what they need",
    ),
    ("statistics.interval.ms", "its statistics are not read"),
    (
        "delivery.report.only.error",
        "a dead letter must be durable before the stream goes on",
    ),
    ("enable.partition.eof", "the end of a partition must be seen"),
    ("acks", "a dead letter must be durable before the stream goes on"),
    (
        "request.required.acks",
        "a dead letter must be durable before the stream goes on",
    ),
    ("enable.idempotence", "records are published in order"),
    ("transactional.id", "records are published without transactions"),
    ("partitioner", "partitions are chosen as Kafka's Java client does"),
];

/// Settings of librdkafka by name. Those that hold secrets show as `***`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(pub(super) BTreeMap<String, String>);

impl Deref for Properties {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl From<BTreeMap<String, String>> for Properties {
    fn from(properties: BTreeMap<String, String>) -> Self {
        Properties(properties)
    }
}

impl From<Properties> for BTreeMap<String, String> {
    fn from(properties: Properties) -> Self {
        properties.0
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): (&String, &String)| {
            let value = if is_secret(name) { "***" } else { value };
            (name.clone(), value.to_owned())
        };
        f.debug_map().entries(self.0.iter().map(shown)).finish()
    }
}

/// What is wrong with the name of a setting, if anything.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a property has a name".to_owned());
    }
    match OWN.iter().find(|(own, _)| *own == name) {
        Some((_, why)) => Err(format!(
            "readstates sets this itself and allows no other value: {why}"
        )),
        None => Ok(()),
    }
}

/// What librdkafka says against a setting, if anything.
pub(super) fn check_value(name: &str, value: &str) -> Result<(), String> {
    let mut alone = ClientConfig::new();
    alone.set(name, value);
    match alone.create_native_config() {
        Ok(_) => Ok(()),
        // It quotes the value.
        Err(_) if is_secret(name) => Err("librdkafka does not allow this value".to_owned()),
        Err(KafkaError::ClientConfig(_, why, _, _)) => Err(format!("librdkafka does not take it: {why}")),
        Err(error) => Err(format!("librdkafka does not take it: {error}")),
    }
}
