//! Through [`Config::load`], as `serve` calls it.

#![allow(clippy::unwrap_used)]

mod every_key;

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

/// The example of section 4 of the contract, which has every key with its default.
const CONTRACT: &str = r#"
[stream]
kind = "kafka"
epoch = 0
[stream.kafka]
brokers = "127.0.0.1:9092"
topic = "message-events"
group = "readstates"
partitions = 16
replication = -1
password_file = ""
properties = {}
[stream.jetstream]
stream = "message-events"
partitions = 16
replicas = 1
[nats]
url = "nats://127.0.0.1:4222"
subject_prefix = "readstates"
credentials_file = ""
user = ""
password_file = ""
nkey_file = ""
tls_ca = ""
tls_cert = ""
tls_key = ""
[store]
kind = "cassandra"
write_delay = "30s"
[store.cassandra]
nodes = ["127.0.0.1:9042"]
keyspace = "readstates"
create_schema = true
replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
datacenter = ""
username = ""
password_file = ""
tls_ca = ""
tls_cert = ""
tls_key = ""
[store.embedded]
path = "readstates-data"
[cache]
read_states = 1_000_000
channel_memory = "256MiB"
[admin]
listen = "127.0.0.1:9464"
[log]
format = "text"
level = "info"
[limits]
max_mentions = 10_000
max_deletes = 10_000
max_event_bytes = 1_048_576
max_keys = 1000
max_unread_count = 10_000
max_direct_mentions = 1000
max_dirty = 1_000_000
"#;

/// A file, variables and flags to load from.
struct Given {
    dir: TempDir,
    env: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

impl Given {
    fn file(text: &str) -> Self {
        let given = Given {
            dir: tempfile::tempdir().unwrap(),
            env: Vec::new(),
            flags: Vec::new(),
        };
        std::fs::write(given.path("c.toml"), text).unwrap();
        given
    }

    fn env(variables: &[(&str, &str)]) -> Self {
        Given::file("").and_env(variables)
    }

    fn flags(flags: &[(&str, &str)]) -> Self {
        Given::file("").and_flags(flags)
    }

    fn and_env(mut self, variables: &[(&str, &str)]) -> Self {
        self.env = owned(variables);
        self
    }

    fn and_flags(mut self, flags: &[(&str, &str)]) -> Self {
        self.flags = owned(flags);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn load(&self) -> Result<Config, Mistakes> {
        Config::load(&self.flags, Some(&self.path("c.toml")), self.env.iter().cloned())
    }

    #[track_caller]
    fn config(&self) -> Config {
        self.load().map_err(|mistakes| mistakes.to_string()).unwrap()
    }

    /// All mistakes, with `DIR` for the folder.
    #[track_caller]
    fn mistakes(&self) -> String {
        let mistakes = self.load().unwrap_err().to_string();
        mistakes.replace(&self.dir.path().display().to_string(), "DIR")
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn leaves(prefix: &str, table: &toml::Table, names: &mut Vec<String>) {
    for (name, value) in table {
        let name = format!("{prefix}{name}");
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => leaves(&format!("{name}."), inner, names),
            _ => names.push(name),
        }
    }
}

#[test]
fn keys_and_defaults_are_those_of_the_contract() {
    let mut contract = Vec::new();
    leaves("", &CONTRACT.parse().unwrap(), &mut contract);
    let mut keys: Vec<_> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    contract.sort();
    keys.sort();
    assert_eq!(keys, contract);
    assert_eq!(Given::file(CONTRACT).config(), Given::file("").config());
}

#[test]
fn each_key_is_read() {
    for key in KEYS.iter().filter(|key| key.name != "stream.kafka.properties") {
        // No key allows this: no number, no time, no name, no file of that name.
        let mistakes = Given::flags(&[(key.name, "\u{7} /://@")]).load();
        let free = [
            "stream.kafka.group",
            "store.embedded.path",
            "store.cassandra.datacenter",
        ];
        if free.contains(&key.name) {
            assert_ne!(mistakes.unwrap(), Given::file("").config(), "{}", key.name);
        } else {
            let mistakes = mistakes.unwrap_err();
            assert!(
                mistakes.0.iter().any(|it| it.subject == key.name),
                "{}: {mistakes}",
                key.name
            );
        }
    }
}

#[test]
fn flags_go_before_the_environment_before_the_file_before_defaults() {
    let file = "[stream.kafka]\ntopic = 'f'\ngroup = 'f'\npartitions = 3";
    let env = [
        ("READSTATES_STREAM__KAFKA__TOPIC", "e"),
        ("READSTATES_STREAM__KAFKA__GROUP", "e"),
    ];
    let flags = [("stream.kafka.topic", "a"), ("stream.kafka.topic", "b")];
    let kafka = Given::file(file)
        .and_env(&env)
        .and_flags(&flags)
        .config()
        .stream
        .kafka;
    assert_eq!((kafka.topic.as_str(), kafka.group.as_str()), ("b", "e"));
    assert_eq!((kafka.partitions, kafka.replication), (3, -1));
}

#[test]
fn values_can_be_written_in_several_ways() {
    let nodes = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect::<Vec<_>>();
    for (value, expected) in [
        ("a", nodes(&["a"])),
        ("a:1, b:2", nodes(&["a:1", "b:2"])),
        ("[\"a:1\", \"[::1]:2\"]", nodes(&["a:1", "[::1]:2"])),
    ] {
        let config = Given::env(&[("READSTATES_STORE__CASSANDRA__NODES", value)]).config();
        assert_eq!(config.store.cassandra.nodes, expected);
    }
    for (value, expected_ms) in [
        ("500ms", 500),
        ("2s", 2000),
        ("1m30s", 90_000),
        ("24h", 86_400_000),
    ] {
        let config = Given::flags(&[("store.write_delay", value)]).config();
        assert_eq!(
            config.store.write_delay,
            Duration::from_millis(expected_ms),
            "{value}"
        );
    }
    for (value, expected) in [
        ("'1_000KB'", 1_000_000),
        ("'2 GiB'", 2 << 30),
        ("'7B'", 7),
        ("4_096", 4096),
    ] {
        let config = Given::file(&format!("cache.channel_memory = {value}")).config();
        assert_eq!(config.cache.channel_memory_bytes, expected, "{value}");
    }
    let config = Given::flags(&[
        ("store.cassandra.create_schema", "false"),
        ("cache.read_states", "2_000"),
        ("admin.listen", "[::]:0"),
        ("nats.url", "tls://a.example:4222, b"),
        ("log.level", "WARN,scylla::transport=off"),
        ("log.format", "json"),
    ])
    .config();
    assert!(!config.store.cassandra.create_schema);
    assert_eq!(config.cache.read_states, 2000);
    assert_eq!(config.admin.listen.port(), 0);
    assert_eq!(config.nats.urls, ["tls://a.example:4222", "b"]);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn each_value_out_of_range_is_a_mistake_that_says_what_is_allowed() {
    for (key, value, allowed) in [
        ("stream.epoch", "256", "must be a whole number from 0 to 255"),
        ("stream.epoch", "-1", "must be a whole number from 0 to 255"),
        ("stream.epoch", "1.5", "must be a whole number from 0 to 255"),
        ("stream.epoch", "", "must be a whole number from 0 to 255"),
        (
            "stream.kafka.partitions",
            "0",
            "must be a whole number from 1 to 100000",
        ),
        (
            "stream.kafka.replication",
            "0",
            "must be -1 (the broker's default) or at least 1",
        ),
        (
            "stream.kafka.replication",
            "-2",
            "must be a whole number from -1 to 32767",
        ),
        (
            "stream.kafka.brokers",
            "a:1,,b",
            "must be host:port, several with commas",
        ),
        (
            "stream.kafka.brokers",
            "a:0",
            "must be host:port, several with commas",
        ),
        ("stream.kafka.topic", "a b", "must be a topic of letters"),
        ("stream.kafka.topic", &"t".repeat(246), "at most 245"),
        ("stream.kind", "kinesis", "must be \"kafka\" or \"jetstream\""),
        ("store.kind", "sqlite", "must be \"cassandra\" or \"embedded\""),
        ("store.write_delay", "0s", "more than 0"),
        ("store.write_delay", "30", "a time with its unit"),
        ("store.write_delay", "s", "a time with its unit"),
        ("store.write_delay", "1d", "a time with its unit"),
        ("store.write_delay", "24h1ms", "up to 86400s"),
        ("store.write_delay", "18446744073709551615h", "up to 86400s"),
        ("store.cassandra.nodes", "[]", "at least one"),
        ("store.cassandra.nodes", "[1]", "at least one"),
        ("store.cassandra.keyspace", "1a", "must be a letter"),
        ("store.cassandra.replication", "3", "must be a CQL map"),
        ("store.cassandra.create_schema", "yes", "must be true or false"),
        ("cache.read_states", "0", "must be a whole number from 1"),
        ("cache.channel_memory", "0MiB", "must be a size"),
        ("cache.channel_memory", "1 apple", "must be a size"),
        ("cache.channel_memory", "99999999999TiB", "must be a size"),
        ("admin.listen", "localhost:1", "must be an IP address and a port"),
        ("nats.url", "http://a", "must be nats://host:port"),
        ("nats.subject_prefix", "a..b", "must be one or more names"),
        ("nats.subject_prefix", "a.>", "must be one or more names"),
        ("log.level", "inof", "must be off, error"),
        ("limits.max_mentions", "0", "from 1"),
        ("limits.max_event_bytes", "0", "from 1"),
        ("limits.max_unread_count", "4294967296", "to 4294967295"),
    ] {
        let mistakes = Given::flags(&[(key, value)]).mistakes();
        assert!(mistakes.starts_with(&format!("{key} = \"")), "{mistakes}");
        assert!(
            mistakes.contains(" (from --set): ") && mistakes.contains(allowed),
            "{mistakes}"
        );
        assert_eq!(mistakes.lines().count(), 1, "{mistakes}");
    }
}

#[test]
fn questions_are_not_asked_below_the_subjects_of_the_stream() {
    let given = |prefix: &str, kind: &str| {
        Given::flags(&[
            ("stream.jetstream.stream", "events"),
            ("nats.subject_prefix", prefix),
            ("stream.kind", kind),
        ])
    };
    for prefix in ["events", "events.questions", "events-dlq.x"] {
        let mistakes = given(prefix, "jetstream").mistakes();
        assert!(
            mistakes.contains("must not begin with the name of the stream"),
            "{mistakes}"
        );
        given(prefix, "kafka").config();
    }
    given("eventsquestions", "jetstream").config();
}

#[test]
fn all_mistakes_are_reported_at_once_with_key_origin_value_and_what_is_allowed() {
    let given = Given::file(
        r#"
        admin = 5
        [stream]
        epoch = "two"
        [stream.kafka.properties]
        linger.ms = 5
        "check.crcs" = "false"
        [cache]
        read_state = 1
        [cache.read_states]
        [nats]
        user = "u"
        tls_cert = "/nowhere.pem"
        [elsewhere]
        a = [1]
        [empty]
        "#,
    )
    .and_env(&[
        ("READSTATES_STORE__WRITE_DELAY", "soon\n"),
        ("READSTATES_STORE__CASANDRA__NODES", "n"),
        ("READSTATES_SERVICE_HOST", "10.0.0.1"),
        ("READSTATE_STORE__X", "other"),
    ])
    .and_flags(&[("kafka.brokers", "b"), ("limits.max_keys", "0"), ("nats", "n")]);
    let expected = [
        r#"admin = 5 (from DIR/c.toml): this is a section, and no key"#,
        r#"cache.read_state = 1 (from DIR/c.toml): there is no such key; perhaps cache.read_states?"#,
        r#"cache.read_states (from DIR/c.toml): must be a whole number from 1 to 4000000000"#,
        r#"elsewhere.a = [1] (from DIR/c.toml): there is no such key"#,
        r#"empty (from DIR/c.toml): there is no such key"#,
        r#"kafka.brokers = "b" (from --set): there is no such key; perhaps stream.kafka.brokers?"#,
        r#"limits.max_keys = "0" (from --set): must be a whole number from 1 to 1000000"#,
        r#"nats = "n" (from --set): this is a section, and no key"#,
        r#"nats.tls_cert = "/nowhere.pem" (from DIR/c.toml): needs nats.tls_key too"#,
        r#"nats.tls_cert = "/nowhere.pem" (from DIR/c.toml): the file can't be read: No such file or directory (os error 2)"#,
        r#"nats.user = "u" (from DIR/c.toml): needs nats.password_file too"#,
        r#"store.casandra.nodes = "n" (from READSTATES_STORE__CASANDRA__NODES in the environment): there is no such key; perhaps store.cassandra.nodes?"#,
        r#"store.write_delay = "soon\n" (from READSTATES_STORE__WRITE_DELAY in the environment): must be a time with its unit (ms, s, m, h) such as "30s", more than 0 and up to 86400s"#,
        r#"stream.epoch = "two" (from DIR/c.toml): must be a whole number from 0 to 255"#,
        r#"stream.kafka.properties.check.crcs = "false" (from DIR/c.toml): readstates sets this itself and allows no other value: records are checked"#,
        r#"stream.kafka.properties.linger.ms = 5 (from DIR/c.toml): must be a string, in quotes in the file"#,
    ];
    let mistakes = given.mistakes();
    let mut lines: Vec<_> = mistakes.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, expected);
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let missing = Config::load(&[], Some(Path::new("/nowhere/c.toml")), std::iter::empty());
    let mistakes = missing.unwrap_err().to_string();
    assert_eq!(
        mistakes,
        "/nowhere/c.toml: the file can't be read: No such file or directory (os error 2)"
    );
    let broken = Given::file("[nats]\n  user = hunter2\n").and_flags(&[("limits.max_keys", "x")]);
    let mistakes = broken.mistakes();
    let lines: Vec<_> = mistakes.lines().collect();
    assert_eq!(lines.len(), 2, "{mistakes}");
    assert!(
        lines[0].starts_with("DIR/c.toml: line 2, column 10: "),
        "{mistakes}"
    );
    let long = Given::file(&"#".repeat(1024 * 1024 + 1));
    assert_eq!(
        long.mistakes(),
        "DIR/c.toml: the file is longer than 1048576 bytes"
    );
}

#[test]
fn properties_of_librdkafka_add_up_over_the_layers() {
    let file =
        "[stream.kafka.properties]\nsession.timeout.ms = '1'\n'fetch.min.bytes' = '1'\nclient.id = '1'";
    let given = Given::file(file)
        .and_env(&[
            ("READSTATES_STREAM__KAFKA__PROPERTIES__session.timeout.ms", "2"),
            ("READSTATES_STREAM__KAFKA__PROPERTIES__FETCH_MIN_BYTES", "2"),
            ("READSTATES_STREAM__KAFKA__PROPERTIES", "{ \"debug\" = \"cgrp\" }"),
        ])
        .and_flags(&[
            ("stream.kafka.properties.session.timeout.ms", "3"),
            ("stream.kafka.properties.\"security.protocol\"", "ssl"),
        ]);
    let properties = given.config().stream.kafka.properties;
    let expected: std::collections::BTreeMap<_, _> = owned(&[
        ("client.id", "1"),
        ("debug", "cgrp"),
        ("fetch.min.bytes", "2"),
        ("security.protocol", "ssl"),
        ("session.timeout.ms", "3"),
    ])
    .into_iter()
    .collect();
    assert_eq!(*properties, expected);
}

#[test]
fn properties_that_readstates_sets_itself_are_mistakes() {
    for name in [
        "bootstrap.servers",
        "group.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "isolation.level",
        "partition.assignment.strategy",
        "check.crcs",
        "enable.partition.eof",
        "sasl.password",
    ] {
        let key = format!("stream.kafka.properties.{name}");
        let mistakes = Given::flags(&[(&key, "x")]).mistakes();
        assert!(mistakes.contains("readstates sets this itself"), "{mistakes}");
    }
    for table in ["5", "{", "'x'\nother = 1"] {
        let mistakes = Given::flags(&[("stream.kafka.properties", table)]).mistakes();
        assert!(
            mistakes.starts_with("stream.kafka.properties (from --set): "),
            "{mistakes}"
        );
    }
}

#[test]
fn secrets_come_from_files() {
    let given = Given::file("");
    std::fs::write(given.path("secret"), "hunter2 \r\n").unwrap();
    let secret = given.path("secret").display().to_string();
    let load = |pairs: &[(&str, &str)]| Given::flags(pairs).config();

    let config = load(&[("stream.kafka.password_file", &secret)]);
    assert_eq!(config.stream.kafka.password.unwrap().reveal(), "hunter2 ");
    let config = load(&[("nats.user", "u"), ("nats.password_file", &secret)]);
    assert!(matches!(config.nats.login, NatsLogin::User(login) if login.user == "u"));
    let config = load(&[("nats.credentials_file", &secret)]);
    assert!(matches!(config.nats.login, NatsLogin::Credentials(text) if text.reveal() == "hunter2 "));
    let config = load(&[("nats.nkey_file", &secret)]);
    assert!(matches!(config.nats.login, NatsLogin::Nkey(_)));
    let login = [
        ("store.cassandra.username", "u"),
        ("store.cassandra.password_file", secret.as_str()),
    ];
    assert_eq!(
        load(&login).store.cassandra.login.unwrap().password.reveal(),
        "hunter2 "
    );

    let empty = given.path("empty").display().to_string();
    std::fs::write(&empty, "\n").unwrap();
    for (pairs, problem) in [
        (
            vec![("stream.kafka.password_file", empty.as_str())],
            "the file is empty",
        ),
        (
            vec![("stream.kafka.password_file", "/nowhere")],
            "the file can't be read: No such file",
        ),
        (
            vec![("store.cassandra.password_file", &secret)],
            "needs store.cassandra.username too",
        ),
        (
            vec![("store.cassandra.username", "u")],
            "needs store.cassandra.password_file too",
        ),
        (
            vec![("nats.nkey_file", &secret), ("nats.credentials_file", &secret)],
            "one way to log in, and nats.credentials_file is set already",
        ),
    ] {
        let mistakes = Given::flags(&pairs).mistakes();
        assert!(mistakes.contains(problem), "{mistakes}");
        assert_eq!(mistakes.lines().count(), 1, "{mistakes}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let given = Given::file("");
    std::fs::write(given.path("secret"), "hunter2").unwrap();
    let secret = given.path("secret").display().to_string();
    let config = Given::flags(&[
        ("stream.kafka.password_file", &secret),
        ("stream.kafka.properties.ssl.key.password", "hunter2"),
        ("nats.nkey_file", &secret),
        ("store.cassandra.username", "u"),
        ("store.cassandra.password_file", &secret),
    ])
    .config();
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    assert_eq!(config.stream.kafka.password.unwrap().to_string(), "***");

    let file = "nats = [{ a = 'hunter2' }]\n[store.cassandra]\npassword = 'hunter2'\n[x.login]\npassword = 'hunter2'\n\
                [cache]\nread_states = { password = 'hunter2' }";
    let mistakes = Given::file(file)
        .and_env(&[("READSTATES_NATS__PASSWORD", "hunter2")])
        .and_flags(&[
            ("stream.kafka.properties.sasl.password", "hunter2"),
            ("stream.kafka.properties", "{ \"ssl.key.password\" = hunter2 }"),
            ("nats.url", "nats://u:hunter2@host"),
            ("nats.servers", "a,nats://hunter2@host"),
        ])
        .mistakes();
    assert_eq!(mistakes.lines().count(), 9, "{mistakes}");
    assert!(!mistakes.contains("hunter2"), "{mistakes}");
    // toml's own error has the line.
    let broken = Given::file("[stream.kafka.properties]\nssl.key.password = hunter2").mistakes();
    assert!(!broken.contains("hunter2"), "{broken}");
}

#[test]
fn a_set_flag_is_split_at_its_first_equals_sign() {
    let split = |argument| parse_set(argument).map_err(|_| ());
    assert_eq!(split("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
    assert_eq!(split("a.b="), Ok(("a.b".to_owned(), String::new())));
    assert_eq!(split("a.b"), Err(()));
}

#[test]
fn the_reference_has_a_row_for_each_key() {
    let reference = reference();
    assert_eq!(reference.lines().count(), KEYS.len() + 2);
    assert!(
        reference.contains("\n| `store.write_delay` | `30s` | From an entry's"),
        "{reference}"
    );
}
