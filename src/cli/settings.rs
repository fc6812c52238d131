//! What each part needs of the configuration.

use std::path::Path;

use metrics::Counter;

use super::Failed;
use crate::config::{Config, StreamKind};
use crate::model::channel::Shape;
use crate::model::counts::CountLimits;
use crate::partition::{Settings, Share};
use crate::query::connect;
use crate::shard::{STUCK_AFTER, ShardSettings};
use crate::source::jetstream::JetStreamSettings;
use crate::source::kafka::KafkaSettings;
use crate::source::stream::StreamSettings;
use crate::store::StreamIdentity;
use crate::store::cassandra::{CassandraConfig, Password};
use crate::wire::record::RecordLimits;

/// For the source and the dead letters. A connection to NATS is tried for as long as it takes.
///
/// # Errors
/// Where NATS does not let us in.
pub async fn stream(config: &Config) -> Result<StreamSettings, Failed> {
    Ok(match config.stream.kind {
        StreamKind::Kafka => StreamSettings::Kafka(KafkaSettings::from(&config.stream)),
        StreamKind::JetStream => {
            let client = connect(&config.nats, Counter::noop()).await;
            let client = client.map_err(|error| Failed::Misconfigured(error.to_string()))?;
            StreamSettings::JetStream(JetStreamSettings::new(&config.stream, client))
        }
    })
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
        read_states: config.cache.read_states,
        capacity: Share {
            channel_bytes: usize::try_from(config.cache.channel_memory_bytes).unwrap_or(usize::MAX),
            dirty: config.limits.max_dirty,
        },
        records: RecordLimits::from(&config.limits),
        is_key_optional: config.stream.kind == StreamKind::JetStream,
        threads: cores.saturating_sub(1).max(1),
        stuck_after: STUCK_AFTER,
        stream,
    }
}
