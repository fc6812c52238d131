//! What each part needs of the configuration.

use std::path::Path;

use crate::config::Config;
use crate::model::channel::Shape;
use crate::model::counts::CountLimits;
use crate::partition::{Settings, Share};
use crate::shard::{STUCK_AFTER, ShardSettings};
use crate::source::kafka::KafkaSettings;
use crate::store::StreamIdentity;
use crate::store::cassandra::{CassandraConfig, Password};
use crate::wire::record::RecordLimits;

/// For the source, the dead letters and `publish`.
pub fn kafka(config: &Config) -> KafkaSettings {
    let kafka = &config.stream.kafka;
    KafkaSettings {
        brokers: kafka.brokers.clone(),
        topic: kafka.topic.clone(),
        group: kafka.group.clone(),
        partitions: kafka.partitions,
        replication: kafka.replication,
        password: kafka.password.clone(),
        properties: kafka
            .properties
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        epoch: config.stream.epoch,
    }
}

/// For the store in Cassandra.
pub fn cassandra(config: &Config) -> CassandraConfig {
    let cassandra = &config.store.cassandra;
    let login = cassandra.login.as_ref();
    CassandraConfig {
        nodes: cassandra.nodes.clone(),
        keyspace: cassandra.keyspace.clone(),
        create_schema: cassandra.create_schema,
        replication: cassandra.replication.clone(),
        datacenter: cassandra.datacenter.clone(),
        username: login.map(|login| login.user.clone()),
        password: login.map(|login| Password(login.password.reveal().to_owned())),
        tls_ca: cassandra.tls.ca.clone(),
        tls_cert: cassandra.tls.cert.clone(),
        tls_key: cassandra.tls.key.clone(),
    }
}

/// The folder of the embedded store.
pub fn embedded(config: &Config) -> &Path {
    &config.store.embedded.path
}

/// For the threads that own partitions.
pub fn shards(config: &Config, stream: StreamIdentity) -> ShardSettings {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ShardSettings {
        partition: Settings {
            write_delay_ms: config.store.write_delay.as_millis() as u64,
            shape: Shape::default(),
            counts: CountLimits {
                unread_max: config.limits.max_unread_count,
                direct_mentions_max: config.limits.max_direct_mentions,
            },
            ..Settings::default()
        },
        capacity: Share {
            read_states: config.cache.read_states,
            channel_bytes: usize::try_from(config.cache.channel_memory_bytes).unwrap_or(usize::MAX),
            dirty: config.limits.max_dirty,
        },
        records: RecordLimits::from(&config.limits),
        threads: cores.saturating_sub(1).max(1),
        stuck_after: STUCK_AFTER,
        stream,
    }
}
