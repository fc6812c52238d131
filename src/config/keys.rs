//! Every key: its name, its default and what it is for. Nothing else says which keys there are.

/// A key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`, as in the file and after `--set`.
    pub name: &'static str,
    /// As after `--set name=`.
    pub default: &'static str,
    /// One sentence for people.
    pub doc: &'static str,
}

/// The one key that is a table: settings of librdkafka by name.
pub(super) const PROPERTIES: &str = "stream.kafka.properties";

/// All keys, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key(
        "stream.kind",
        "kafka",
        "Where events come from: `kafka`, or `jetstream` (of the nats-server that `nats` names).",
    ),
    key(
        "stream.epoch",
        "0",
        "Raise by one when the stream is replaced by another; 0 to 255.",
    ),
    key(
        "stream.kafka.brokers",
        "127.0.0.1:9092",
        "`host:port`, several with commas.",
    ),
    key(
        "stream.kafka.topic",
        "message-events",
        "The topic; dead letters go to `<topic>.dlq`.",
    ),
    key("stream.kafka.group", "readstates", "The consumer group."),
    key(
        "stream.kafka.partitions",
        "16",
        "Partitions of the topic, where it is created.",
    ),
    key(
        "stream.kafka.replication",
        "-1",
        "Replicas of the topic, where it is created; -1: the broker's default.",
    ),
    key(
        "stream.kafka.password_file",
        "",
        "A file with what becomes `sasl.password`.",
    ),
    key(
        PROPERTIES,
        "{}",
        "Handed to librdkafka as they are: a table of strings.",
    ),
    key(
        "stream.jetstream.stream",
        "message-events",
        "The stream; dead letters go to `<stream>-dlq`.",
    ),
    key(
        "stream.jetstream.partitions",
        "16",
        "Partitions of the stream; another number takes another stream.",
    ),
    key(
        "stream.jetstream.replicas",
        "1",
        "Replicas of the stream, where it is created; 1 to 5.",
    ),
    key(
        "nats.url",
        "nats://127.0.0.1:4222",
        "`nats://` or `tls://`, host and port, several with commas.",
    ),
    key(
        "nats.subject_prefix",
        "readstates",
        "What the subjects begin with, so that two deployments can share a NATS.",
    ),
    key(
        "nats.credentials_file",
        "",
        "A file with credentials (JWT and seed); or `user`, or `nkey_file`.",
    ),
    key("nats.user", "", "The user, with `password_file`."),
    key("nats.password_file", "", "A file with the password of `user`."),
    key("nats.nkey_file", "", "A file with the seed of an nkey."),
    key("nats.tls_ca", "", "PEM file with the CAs to trust; turns TLS on."),
    key(
        "nats.tls_cert",
        "",
        "PEM file with the client's certificate, with `tls_key`; turns TLS on.",
    ),
    key("nats.tls_key", "", "PEM file with the client's private key."),
    key(
        "store.kind",
        "cassandra",
        "`cassandra`: Cassandra or ScyllaDB; `embedded`: files of this one instance.",
    ),
    key(
        "store.write_delay",
        "30s",
        "From an entry's first change to its write; up to `24h`.",
    ),
    key(
        "store.cassandra.nodes",
        "127.0.0.1:9042",
        "A list of `host:port` of some nodes; others are found.",
    ),
    key("store.cassandra.keyspace", "readstates", "The keyspace."),
    key(
        "store.cassandra.create_schema",
        "true",
        "Whether keyspace and tables that are missing are created.",
    ),
    key(
        "store.cassandra.replication",
        "{'class': 'SimpleStrategy', 'replication_factor': 1}",
        "Of the keyspace, where it is created: a CQL map.",
    ),
    key("store.cassandra.datacenter", "", "The local one; empty: any."),
    key("store.cassandra.username", "", "The user, with `password_file`."),
    key(
        "store.cassandra.password_file",
        "",
        "A file with the password of `username`.",
    ),
    key(
        "store.cassandra.tls_ca",
        "",
        "PEM file with the CAs to trust; turns TLS on.",
    ),
    key(
        "store.cassandra.tls_cert",
        "",
        "PEM file with the client's certificate, with `tls_key`; turns TLS on.",
    ),
    key(
        "store.cassandra.tls_key",
        "",
        "PEM file with the client's private key.",
    ),
    key(
        "store.embedded.path",
        "readstates-data",
        "The folder of the embedded store; made where it is missing.",
    ),
    key(
        "cache.read_states",
        "1000000",
        "Read states cached in one instance, for all its partitions together.",
    ),
    key(
        "cache.channel_memory",
        "256MiB",
        "Memory for heads, pages and blocks of channels in one instance.",
    ),
    key(
        "admin.listen",
        "127.0.0.1:9464",
        "IP address and port of metrics, health and the status page.",
    ),
    key("log.format", "text", "`text` or `json`."),
    key(
        "log.level",
        "info",
        "`off`, `error`, `warn`, `info`, `debug` or `trace`; also for one target: `info,scylla=debug`.",
    ),
    key(
        "limits.max_mentions",
        "10000",
        "Users mentioned by name in one message.",
    ),
    key("limits.max_deletes", "10000", "Messages in one MessageDeleted."),
    key("limits.max_event_bytes", "1048576", "Size of a record's value."),
    key("limits.max_keys", "1000", "Keys in one GetRequest."),
    key(
        "limits.max_unread_count",
        "10000",
        "Unread messages are counted up to here.",
    ),
    key(
        "limits.max_direct_mentions",
        "1000",
        "Mentions by name that one read state remembers.",
    ),
    key(
        "limits.max_dirty",
        "1000000",
        "Entries waiting for the store; above, the stream is paused.",
    ),
];

const fn key(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, default, doc }
}

/// The key of that name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether the name is that of a section.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| {
        key.name
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The key that was probably meant: the one spelled most alike, or else one that ends alike.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let tolerated = name.len() / 4 + 1;
    let alike = KEYS
        .iter()
        .map(|key| (edits(name, key.name), key.name))
        .min()
        .filter(|(edits, _)| *edits <= tolerated);
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    alike.map(|(_, name)| name).or_else(|| {
        KEYS.iter()
            .map(|key| key.name)
            .find(|key| last(key) == last(name))
    })
}

/// How many characters have to be put in, left out or replaced (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// All keys as a Markdown table, for the documentation.
pub fn reference() -> String {
    let mut table = String::from("| key | default | what it is |\n|---|---|---|\n");
    for Key { name, default, doc } in KEYS {
        let default = if default.is_empty() {
            String::new()
        } else {
            format!("`{default}`")
        };
        table.push_str(&format!("| `{name}` | {default} | {doc} |\n"));
    }
    table
}
