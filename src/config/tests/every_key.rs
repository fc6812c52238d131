//! Each key in each layer, what is printed of it, and what is refused.

use super::*;

/// Every key as someone would set it who wants something else than the default.
const OTHERS: &[(&str, &str)] = &[
    ("stream.kind", "kafka"),
    ("stream.epoch", "3"),
    ("stream.kafka.brokers", "a:1, b:2"),
    ("stream.kafka.topic", "t"),
    ("stream.kafka.group", "g #\"1\""),
    ("stream.kafka.partitions", "1_2"),
    ("stream.kafka.replication", "3"),
    ("stream.kafka.password_file", "DIR/secret"),
    (
        "stream.kafka.properties",
        "{ \"client.id\" = \"x\", \"security.protocol\" = \"ssl\" }",
    ),
    ("stream.jetstream.stream", "s"),
    ("stream.jetstream.partitions", "5"),
    ("stream.jetstream.replicas", "3"),
    ("nats.url", "tls://a:1,nats://b:2"),
    ("nats.subject_prefix", "p.q"),
    ("nats.credentials_file", ""),
    ("nats.user", "u"),
    ("nats.password_file", "DIR/secret"),
    ("nats.nkey_file", ""),
    ("nats.tls_ca", "DIR/pem"),
    ("nats.tls_cert", "DIR/pem"),
    ("nats.tls_key", "DIR/pem"),
    ("store.kind", "cassandra"),
    ("store.write_delay", "1m500ms"),
    ("store.cassandra.nodes", "a:1,b"),
    ("store.cassandra.keyspace", "k"),
    ("store.cassandra.create_schema", "false"),
    ("store.cassandra.replication", "{'class': 'X'}"),
    ("store.cassandra.datacenter", "d"),
    ("store.cassandra.username", "u"),
    ("store.cassandra.password_file", "DIR/secret"),
    ("store.cassandra.tls_ca", "DIR/pem"),
    ("store.cassandra.tls_cert", "DIR/pem"),
    ("store.cassandra.tls_key", "DIR/pem"),
    ("store.embedded.path", "e"),
    ("cache.read_states", "2_000"),
    ("cache.channel_memory", "3MiB"),
    ("admin.listen", "[::1]:1"),
    ("log.format", "json"),
    ("log.level", "info,scylla=debug"),
    ("limits.max_mentions", "1"),
    ("limits.max_deletes", "2"),
    ("limits.max_event_bytes", "1_000_001"),
    ("limits.max_keys", "3"),
    ("limits.max_unread_count", "4"),
    ("limits.max_direct_mentions", "5"),
    ("limits.max_dirty", "6"),
];

const CANARY: &str = "hunter2-canary";

/// [`OTHERS`], with the files that they name.
fn others(given: &Given) -> Vec<(&'static str, String)> {
    std::fs::write(given.path("secret"), format!("{CANARY}\n")).unwrap();
    let pem = ["CERTIFICATE", "PRIVATE KEY"]
        .map(|what| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n"));
    std::fs::write(given.path("pem"), pem.concat()).unwrap();
    let dir = given.dir.path().display().to_string();
    OTHERS
        .iter()
        .map(|(name, value)| (*name, value.replace("DIR", &dir)))
        .collect()
}

/// The file that is printed of this, and loaded again.
#[track_caller]
fn printed(given: &Given) -> (Config, String) {
    let loaded = Config::load_with_origins(
        &given.flags,
        Some(&given.path("c.toml")),
        given.env.iter().cloned(),
    );
    let (config, effective) = loaded.map_err(|mistakes| mistakes.to_string()).unwrap();
    let printed = effective.to_string();
    let again = Given::file(&printed).load();
    let again = again.unwrap_or_else(|mistakes| panic!("{mistakes}\n{printed}"));
    assert_eq!(again, config, "{printed}");
    (config, printed)
}

/// Proves that each key does the same as a flag, as a variable and in a file, that what is printed of it is the same
/// configuration again with every key, and that no secret is in it.
#[test]
fn each_key_does_the_same_in_each_layer_and_can_be_printed() {
    let dir = Given::file("");
    let others = others(&dir);
    let mut names: Vec<_> = others.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let mut keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    keys.sort_unstable();
    assert_eq!(names, keys, "OTHERS has every key");

    let pairs: Vec<_> = others
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let variables: Vec<_> = others
        .iter()
        .map(|(name, value)| {
            let variable = format!("READSTATES_{}", name.replace('.', "__").to_uppercase());
            (variable, value.clone())
        })
        .collect();
    let mut by_env = Given::file("");
    by_env.env = variables;
    let (by_flag, text) = printed(&Given::flags(&pairs));
    let (by_env, env_text) = printed(&by_env);
    let (by_file, file_text) = printed(&Given::file(&text));
    assert_eq!(by_flag, by_env);
    assert_eq!(by_flag, by_file);
    assert_ne!(by_flag, Given::file("").config());
    for (text, origin) in [
        (&text, "# flag --set"),
        (&env_text, "# environment READSTATES_"),
        (&file_text, "# file /"),
    ] {
        assert!(!text.contains(CANARY), "{text}");
        let (values, comments): (Vec<_>, Vec<_>) = text
            .lines()
            .filter_map(|line| line.split_once("  # "))
            .map(|(value, comment)| (value, format!("# {comment}")))
            .unzip();
        // The one table has two lines.
        assert_eq!(values.len(), KEYS.len() + 1, "{text}");
        assert!(
            comments.iter().all(|comment| comment.starts_with(origin)),
            "{origin}: {text}"
        );
    }
}

#[test]
fn what_is_printed_of_the_defaults_has_those_of_the_contract() {
    let (_, text) = printed(&Given::file(""));
    let lines: Vec<_> = text.lines().filter(|line| line.contains(" = ")).collect();
    assert!(lines.iter().all(|line| line.ends_with("  # default")), "{text}");
    let mut keys = Vec::new();
    leaves("", &text.parse().unwrap(), &mut keys);
    let mut contract = Vec::new();
    leaves("", &CONTRACT.parse().unwrap(), &mut contract);
    keys.sort();
    contract.sort();
    assert_eq!(keys, contract);
    for line in [
        "nodes = [\"127.0.0.1:9042\"]",
        "write_delay = \"30s\"",
        "read_states = 1000000",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn secrets_among_properties_are_not_printed() {
    let given = Given::flags(&[
        ("stream.kafka.properties.ssl.key.password", CANARY),
        ("stream.kafka.properties.client.id", "c"),
        ("limits.max_keys", "7"),
    ]);
    let (_, effective) =
        Config::load_with_origins(&given.flags, Some(&given.path("c.toml")), std::iter::empty()).unwrap();
    let text = effective.to_string();
    assert!(!text.contains(CANARY), "{text}");
    let expected = "\n[stream.kafka.properties]\n\"client.id\" = \"c\"  # flag --set\n# \"ssl.key.password\" = ***  # flag \
                    --set, not shown\n";
    assert!(text.contains(expected), "{text}");
    assert_eq!(Given::file(&text).config().limits.max_keys, 7);
}

#[test]
fn settings_that_librdkafka_does_not_take_are_mistakes_with_the_others() {
    let mistakes = Given::flags(&[
        ("stream.kafka.properties.no.such.thing", "1"),
        ("stream.kafka.properties.session.timeout.ms", "0"),
        ("stream.kafka.properties.security.protocol", "tls"),
        ("stream.kafka.properties.ssl.key.pem", CANARY),
        ("limits.max_keys", "x"),
    ])
    .mistakes();
    for expected in [
        "stream.kafka.properties.no.such.thing = \"1\" (from --set): librdkafka does not take it: No such",
        "stream.kafka.properties.session.timeout.ms = \"0\" (from --set): librdkafka does not take it: Configuration",
        "range 1..3600000",
        "stream.kafka.properties.security.protocol = \"tls\" (from --set): librdkafka does not take it: Invalid",
        "limits.max_keys = \"x\"",
    ] {
        assert!(mistakes.contains(expected), "{expected}: {mistakes}");
    }
    assert!(!mistakes.contains(CANARY), "{mistakes}");
}

/// A property that readstates overrides would do nothing without a word.
#[test]
fn no_property_is_ignored_silently() {
    for name in [
        "statistics.interval.ms",
        "allow.auto.create.topics",
        "delivery.report.only.error",
    ] {
        let mistakes = Given::flags(&[(&format!("stream.kafka.properties.{name}"), "1")]).mistakes();
        assert!(mistakes.contains("readstates sets this itself"), "{mistakes}");
    }
}

#[test]
fn a_variable_with_single_underscores_is_a_mistake_where_it_was_meant_for_a_key() {
    let mistakes = Given::env(&[
        ("READSTATES_NATS_URL", "nats://a"),
        ("READSTATES_STORE_CASSANDRA_PASSWORD_FILE", "/p"),
        ("READSTATES_SERVICE_HOST", "10.0.0.1"),
        ("READSTATES_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("READSTATES_NATS_PORT", "tcp://10.0.0.1:4222"),
        ("READSTATES_CACHE", "/home/me/.cache"),
    ])
    .mistakes();
    let expected = "READSTATES_NATS_URL = \"nats://a\" (from the environment): there is no such variable; perhaps \
                    READSTATES_NATS__URL?\nREADSTATES_STORE_CASSANDRA_PASSWORD_FILE = \"/p\" (from the environment): there \
                    is no such variable; perhaps READSTATES_STORE__CASSANDRA__PASSWORD_FILE?";
    assert_eq!(mistakes, expected);
}

#[test]
fn password_files_that_hold_none_are_mistakes() {
    let given = Given::file("");
    let folder = given.dir.path().display().to_string();
    let binary = given.path("binary").display().to_string();
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    let long = given.path("long").display().to_string();
    std::fs::write(&long, "x".repeat(70_000)).unwrap();
    for (file, problem) in [
        (&folder, "the file can't be read: Is a directory"),
        (&binary, "the file is no UTF-8 text"),
        (&long, "the file is longer than 65536 bytes"),
    ] {
        let mistakes = Given::flags(&[("stream.kafka.password_file", file)]).mistakes();
        assert!(
            mistakes.starts_with("stream.kafka.password_file = \"/") && mistakes.contains(problem),
            "{mistakes}"
        );
    }
}

#[test]
fn a_login_in_an_address_is_not_shown() {
    for (key, value) in [
        ("stream.kafka.brokers", format!("me:{CANARY}@host:9092")),
        (
            "store.cassandra.nodes",
            format!("[\"a:1\", \"me:{CANARY}@host:9042\"]"),
        ),
        ("nats.url", format!("nats://{CANARY}@host:4222")),
    ] {
        let mistakes = Given::flags(&[(key, &value)]).mistakes();
        assert!(
            mistakes.starts_with(key) && !mistakes.contains(CANARY),
            "{mistakes}"
        );
    }
}

#[test]
fn underscores_stand_between_digits() {
    for wrong in ["1__0", "_1", "1_", "-_1", "_"] {
        let mistakes = Given::flags(&[("limits.max_keys", wrong)]).mistakes();
        assert!(mistakes.contains("must be a whole number"), "{mistakes}");
        let size = format!("{wrong}MiB");
        let mistakes = Given::flags(&[("cache.channel_memory", &size)]).mistakes();
        assert!(mistakes.contains("must be a size"), "{mistakes}");
    }
}
