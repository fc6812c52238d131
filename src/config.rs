//! The configuration: all keys, in layers, all mistakes at once.
//!
//! A value is taken from the flag `--set section.key=value`, else from the environment variable
//! `READSTATES_SECTION__KEY`, else from the file, else it is the default. Variables without `__` are none of ours.
//! Paths are relative to the working directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wire::record::RecordLimits;

mod effective;
mod keys;
mod layers;
mod mistakes;
mod parse;
mod properties;
mod reader;
mod secret;
mod sections;
#[cfg(test)]
mod tests;
mod tls;

pub use effective::Effective;
pub use keys::{KEYS, Key, reference};
pub use layers::{FILE_DEFAULT, VARIABLE_PREFIX};
pub use mistakes::{Mistake, Mistakes};
pub(crate) use parse::is_nats_url;
pub use properties::Properties;
pub use secret::Secret;
pub use tls::handshake_advice;

use layers::Layers;
use reader::Reader;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where events come from.
    pub stream: Stream,
    /// Where questions come from.
    pub nats: Nats,
    /// Where rows are kept.
    pub store: Store,
    /// What is kept in memory.
    pub cache: Cache,
    /// What operators look at.
    pub admin: Admin,
    /// Diagnostics.
    pub log: Log,
    /// How much of everything.
    pub limits: Limits,
}

/// Section `stream`.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Which kind of stream.
    pub kind: StreamKind,
    /// Raised by one when the stream is replaced by another; below [`LogPosition::EPOCHS_MAX`](crate::model::ids::LogPosition::EPOCHS_MAX).
    pub epoch: u32,
    /// For [`StreamKind::Kafka`].
    pub kafka: Kafka,
    /// For [`StreamKind::JetStream`].
    pub jetstream: JetStream,
}

/// The kinds of stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A Kafka topic.
    Kafka,
    /// A NATS JetStream stream.
    JetStream,
}

impl StreamKind {
    /// What people call the server.
    pub fn server(self) -> &'static str {
        match self {
            StreamKind::Kafka => "Kafka",
            StreamKind::JetStream => "JetStream",
        }
    }
}

/// Section `stream.kafka`.
#[derive(Clone, Debug, PartialEq)]
pub struct Kafka {
    /// `host:port`, several with commas: `bootstrap.servers`.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// The consumer group: `group.id`.
    pub group: String,
    /// Partitions of the topic, where it is created.
    pub partitions: u32,
    /// Replicas of the topic, where it is created; -1: the broker's default.
    pub replication: i32,
    /// `sasl.password`.
    pub password: Option<Secret>,
    /// Further settings of librdkafka; none that readstates makes itself.
    pub properties: Properties,
}

/// Section `stream.jetstream`.
#[derive(Clone, Debug, PartialEq)]
pub struct JetStream {
    /// The stream.
    pub stream: String,
    /// Its partitions.
    pub partitions: u32,
    /// Its replicas, where it is created.
    pub replicas: u32,
}

impl JetStream {
    /// What the subjects of records and of dead letters begin with: whatever is published there becomes a record.
    pub fn subject_prefixes(&self) -> [String; 2] {
        [self.stream.clone(), format!("{}-dlq", self.stream)]
    }
}

/// Section `nats`.
#[derive(Clone, Debug, PartialEq)]
pub struct Nats {
    /// Of some servers, at least one: `nats://host:port` or `tls://host:port`.
    pub urls: Vec<String>,
    /// What subjects begin with.
    pub subject_prefix: String,
    /// How to log in.
    pub login: NatsLogin,
    /// TLS, which is also on where a URL says `tls://`.
    pub tls: Tls,
}

/// How to log in to NATS.
#[derive(Clone, Debug, PartialEq)]
pub enum NatsLogin {
    /// Not at all.
    Nobody,
    /// By user and password.
    User(Login),
    /// The text of a credentials file: JWT and seed.
    Credentials(Secret),
    /// The seed of an nkey.
    Nkey(Secret),
}

/// A user and the password.
#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// PEM files of a TLS connection. Each can be read; certificate and key come together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// The CAs to trust; otherwise those of the system.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// The client's private key.
    pub key: Option<PathBuf>,
}

impl Tls {
    /// Whether any file is set, which turns TLS on.
    pub fn is_set(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.key.is_some()
    }
}

/// Section `store`.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// Which kind of store.
    pub kind: StoreKind,
    /// From an entry's first change to its write; more than nothing.
    pub write_delay: Duration,
    /// For [`StoreKind::Cassandra`].
    pub cassandra: Cassandra,
    /// For [`StoreKind::Embedded`].
    pub embedded: Embedded,
}

/// The kinds of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Cassandra or ScyllaDB.
    Cassandra,
    /// In the instance's own files.
    Embedded,
}

/// Section `store.cassandra`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cassandra {
    /// `host` or `host:port` of some nodes, at least one.
    pub nodes: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// Whether keyspace and tables that are missing are created.
    pub create_schema: bool,
    /// Of the keyspace, where it is created: a CQL map.
    pub replication: String,
    /// The local one, where it matters.
    pub datacenter: Option<String>,
    /// How to log in, if at all.
    pub login: Option<Login>,
    /// TLS.
    pub tls: Tls,
}

/// Section `store.embedded`.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// The folder.
    pub path: PathBuf,
}

/// Section `cache`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Read states cached in one instance, for all its partitions together.
    pub read_states: usize,
    /// For heads, pages and blocks of channels in one instance.
    pub channel_memory_bytes: u64,
}

/// Section `admin`.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where metrics, health and the status page are served.
    pub listen: SocketAddr,
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// A level, or levels of targets with commas, as `tracing_subscriber::EnvFilter` reads them.
    pub level: String,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Section `limits`. Each is at least 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// By name, in one message.
    pub max_mentions: usize,
    /// In one `MessageDeleted`.
    pub max_deletes: usize,
    /// Of a record's value.
    pub max_event_bytes: usize,
    /// In one `GetRequest`.
    pub max_keys: usize,
    /// Unread messages are counted up to here.
    pub max_unread_count: u32,
    /// Mentions by name that one read state remembers.
    pub max_direct_mentions: usize,
    /// Entries waiting for the store; above, the stream is paused.
    pub max_dirty: usize,
}

impl From<&Limits> for RecordLimits {
    fn from(limits: &Limits) -> Self {
        RecordLimits {
            event_bytes_max: limits.max_event_bytes,
            mentions_max: limits.max_mentions,
            deletes_max: limits.max_deletes,
        }
    }
}

impl Config {
    /// Reads the configuration. `flags` are the pairs of `--set` (see [`parse_set`]), of which a later one is stronger;
    /// `file` is the one of `--config`, without which [`FILE_DEFAULT`] is read where it exists; `env` is
    /// [`environment`].
    ///
    /// # Errors
    /// All mistakes.
    pub fn load(
        flags: &[(String, String)],
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, Mistakes> {
        Self::load_with_origins(flags, file, env).map(|(config, _)| config)
    }

    /// The same, and every key with its value and where that came from.
    ///
    /// # Errors
    /// All mistakes.
    pub fn load_with_origins(
        flags: &[(String, String)],
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Config, Effective), Mistakes> {
        let mut reader = Reader::new(Layers::gather(flags, file, env));
        let config = sections::config(&mut reader);
        reader.finish().map(|effective| (config, effective))
    }
}

/// The environment of this process, for [`Config::load`].
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    })
}

/// Splits the argument of `--set`.
///
/// # Errors
/// How it should look, where there is no `=` in it.
pub fn parse_set(argument: &str) -> Result<(String, String), String> {
    argument
        .split_once('=')
        .map(|(name, value)| (name.trim().to_owned(), value.to_owned()))
        .ok_or_else(|| "must be section.key=value".to_owned())
}
