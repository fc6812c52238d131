//! Reads each section.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::ids::LogPosition;

use super::keys::PROPERTIES;
use super::parse::{
    address, bytes, duration, flag, is_host_port, is_log_filter, is_name, is_nats_url, list_that, one_of,
    text, text_that, whole,
};
use super::properties::{self, Properties};
use super::reader::Reader;
use super::tls::{check_certificates, check_key};
use super::{
    Admin, Cache, Cassandra, Config, Embedded, JetStream, Kafka, Limits, Log, LogFormat, Login, Nats,
    NatsLogin, Store, StoreKind, Stream, StreamKind, Tls,
};

/// The longest `store.write_delay`: everything written since would be replayed after a crash.
const WRITE_DELAY_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest legal name of a Kafka topic is 249, and dead letters go to `<topic>.dlq`.
const TOPIC_CHARS_MAX: usize = 245;
/// Both for partitions of a stream: more than any stream has, and what a mistyped number stumbles over.
const PARTITIONS_MAX: i64 = 100_000;

/// The words for the kinds of stream.
pub(super) const STREAM_KINDS: &[(&str, StreamKind)] =
    &[("kafka", StreamKind::Kafka), ("jetstream", StreamKind::JetStream)];
/// The words for the kinds of store.
pub(super) const STORE_KINDS: &[(&str, StoreKind)] = &[
    ("cassandra", StoreKind::Cassandra),
    ("embedded", StoreKind::Embedded),
];
/// The words for the formats of log lines.
pub(super) const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Reads everything.
pub(super) fn config(reader: &mut Reader) -> Config {
    let config = Config {
        stream: stream(reader),
        nats: nats(reader),
        store: store(reader),
        cache: Cache {
            read_states: reader.get("cache.read_states", whole(1..=4_000_000_000)),
            channel_memory_bytes: reader.get("cache.channel_memory", bytes(1 << 40)),
        },
        admin: Admin {
            listen: reader.get("admin.listen", address),
        },
        log: log(reader),
        limits: limits(reader),
    };
    check_subjects(reader, &config);
    config
}

/// Questions below the stream's subjects would be records of it.
fn check_subjects(reader: &mut Reader, config: &Config) {
    let first = config.nats.subject_prefix.split('.').next().unwrap_or_default();
    let stream = &config.stream.jetstream;
    if config.stream.kind == StreamKind::JetStream
        && stream.subject_prefixes().iter().any(|taken| taken == first)
    {
        let problem = "nats.subject_prefix must not begin with the name of the stream or of its dead letters";
        reader.mistake("nats.subject_prefix", problem);
        reader.mistake("stream.jetstream.stream", problem);
    }
}

fn stream(reader: &mut Reader) -> Stream {
    let kind = reader.get("stream.kind", one_of(STREAM_KINDS));
    Stream {
        kind,
        epoch: reader.get("stream.epoch", whole(0..=i64::from(LogPosition::EPOCHS_MAX) - 1)),
        kafka: kafka(reader),
        jetstream: JetStream {
            stream: reader.get(
                "stream.jetstream.stream",
                text_that("a name of letters, digits, - and _", |text| {
                    is_name(text, 200, "-_")
                }),
            ),
            partitions: reader.get("stream.jetstream.partitions", whole(1..=PARTITIONS_MAX)),
            replicas: reader.get("stream.jetstream.replicas", whole(1..=5)),
        },
    }
}

fn kafka(reader: &mut Reader) -> Kafka {
    let brokers = list_that("host:port, several with commas", is_host_port);
    let topic = text_that(
        "a topic of letters, digits, ., - and _, at most 245 of them",
        |text| is_name(text, TOPIC_CHARS_MAX, ".-_") && text != "." && text != "..",
    );
    let replication = "stream.kafka.replication";
    let kafka = Kafka {
        brokers: reader.get("stream.kafka.brokers", brokers).join(","),
        topic: reader.get("stream.kafka.topic", topic),
        group: reader.get(
            "stream.kafka.group",
            text_that("a name", |text| !text.trim().is_empty()),
        ),
        partitions: reader.get("stream.kafka.partitions", whole(1..=PARTITIONS_MAX)),
        replication: reader.get(replication, whole(-1..=i64::from(i16::MAX))),
        password: reader.secret("stream.kafka.password_file"),
        properties: kafka_properties(reader),
    };
    if kafka.replication == 0 {
        reader.mistake(replication, "must be -1 (the broker's default) or at least 1");
    }
    kafka
}

fn kafka_properties(reader: &mut Reader) -> Properties {
    let mut properties = BTreeMap::new();
    for (name, given) in reader.take_properties() {
        let value = properties::check_name(&name)
            .and_then(|()| text(&given.value).map_err(|allowed| format!("{allowed}, in quotes in the file")))
            .and_then(|value| properties::check_value(&name, &value).map(|()| value));
        match value {
            Ok(value) => {
                reader.property(&name, &value, given.origin);
                properties.insert(name, value);
            }
            Err(problem) => reader.mistake_of(&format!("{PROPERTIES}.{name}"), &given, problem),
        }
    }
    Properties(properties)
}

fn nats(reader: &mut Reader) -> Nats {
    let urls = list_that(
        "nats://host:port or tls://host:port, several with commas, without user and password (nats.user and \
         nats.password_file are for them)",
        is_nats_url,
    );
    let prefix = text_that(
        "one or more names of letters, digits, - and _ with dots between",
        |text| text.split('.').all(|token| is_name(token, 100, "-_")),
    );
    Nats {
        urls: reader.get("nats.url", urls),
        subject_prefix: reader.get("nats.subject_prefix", prefix),
        login: nats_login(reader),
        tls: tls(reader, ["nats.tls_ca", "nats.tls_cert", "nats.tls_key"]),
    }
}

fn nats_login(reader: &mut Reader) -> NatsLogin {
    let ways = ["nats.credentials_file", "nats.user", "nats.nkey_file"];
    let set: Vec<_> = ways.into_iter().filter(|key| reader.is_set(key)).collect();
    for key in set.iter().skip(1) {
        reader.mistake(
            key,
            &format!("there is one way to log in, and {} is set already", set[0]),
        );
    }
    let credentials = reader.secret("nats.credentials_file").map(NatsLogin::Credentials);
    let login = login(reader, "nats.user", "nats.password_file").map(NatsLogin::User);
    let nkey = reader.secret("nats.nkey_file").map(NatsLogin::Nkey);
    credentials.or(login).or(nkey).unwrap_or(NatsLogin::Nobody)
}

fn store(reader: &mut Reader) -> Store {
    Store {
        kind: reader.get("store.kind", one_of(STORE_KINDS)),
        write_delay: reader.get("store.write_delay", duration(WRITE_DELAY_MAX)),
        cassandra: cassandra(reader),
        embedded: Embedded {
            path: reader
                .get(
                    "store.embedded.path",
                    text_that("a path", |text| !text.is_empty()),
                )
                .into(),
        },
    }
}

fn cassandra(reader: &mut Reader) -> Cassandra {
    let nodes = list_that("a list of host:port, at least one", is_host_port);
    let keyspace = text_that(
        "a letter, then letters, digits and _, at most 48 characters",
        |text| is_name(text, 48, "_") && text.starts_with(|c: char| c.is_ascii_alphabetic()),
    );
    let replication = text_that(
        "a CQL map such as {'class': 'NetworkTopologyStrategy', 'dc1': 3}",
        |text| text.starts_with('{') && text.ends_with('}') && text.contains("'class'"),
    );
    let datacenter = reader.get("store.cassandra.datacenter", text);
    Cassandra {
        nodes: reader.get("store.cassandra.nodes", nodes),
        keyspace: reader.get("store.cassandra.keyspace", keyspace),
        create_schema: reader.get("store.cassandra.create_schema", flag),
        replication: reader.get("store.cassandra.replication", replication),
        datacenter: Some(datacenter).filter(|name| !name.is_empty()),
        login: login(
            reader,
            "store.cassandra.username",
            "store.cassandra.password_file",
        ),
        tls: tls(
            reader,
            [
                "store.cassandra.tls_ca",
                "store.cassandra.tls_cert",
                "store.cassandra.tls_key",
            ],
        ),
    }
}

fn login(reader: &mut Reader, user_key: &'static str, password_key: &'static str) -> Option<Login> {
    let user = reader.get(user_key, text);
    let password = reader.secret(password_key);
    match (user.is_empty(), reader.is_set(password_key)) {
        (false, false) => reader.mistake(user_key, &format!("needs {password_key} too")),
        (true, true) => reader.mistake(password_key, &format!("needs {user_key} too")),
        _ => {}
    }
    password
        .filter(|_| !user.is_empty())
        .map(|password| Login { user, password })
}

fn tls(reader: &mut Reader, [ca, cert, key]: [&'static str; 3]) -> Tls {
    match (reader.is_set(cert), reader.is_set(key)) {
        (true, false) => reader.mistake(cert, &format!("needs {key} too")),
        (false, true) => reader.mistake(key, &format!("needs {cert} too")),
        _ => {}
    }
    Tls {
        ca: reader.pem_file(ca, check_certificates),
        cert: reader.pem_file(cert, check_certificates),
        key: reader.pem_file(key, check_key),
    }
}

fn log(reader: &mut Reader) -> Log {
    let level = text_that(
        "off, error, warn, info, debug or trace, or levels of targets such as \"info,scylla=debug\"",
        is_log_filter,
    );
    Log {
        format: reader.get("log.format", one_of(FORMATS)),
        level: reader.get("log.level", level),
    }
}

fn limits(reader: &mut Reader) -> Limits {
    let max_event_bytes = reader.get("limits.max_event_bytes", bytes(1 << 30));
    Limits {
        max_mentions: reader.get("limits.max_mentions", whole(1..=10_000_000)),
        max_deletes: reader.get("limits.max_deletes", whole(1..=10_000_000)),
        max_event_bytes: usize::try_from(max_event_bytes).unwrap_or(usize::MAX),
        max_keys: reader.get("limits.max_keys", whole(1..=1_000_000)),
        max_unread_count: reader.get("limits.max_unread_count", whole(1..=i64::from(u32::MAX))),
        max_direct_mentions: reader.get("limits.max_direct_mentions", whole(1..=1_000_000)),
        max_dirty: reader.get("limits.max_dirty", whole(1..=1_000_000_000)),
    }
}
