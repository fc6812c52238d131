//! Proves with the program as processes what happens at the start where something is missing or does not fit: what
//! waiting can help with is waited for, and whatever else ends the program with status 2; each with one line that names
//! the setting, says what happened and what to do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use support::servers::{Cassandra, Kafka, Nats, free_ports, fresh_dir, wait_for};
use support::service::{self, Deployment, Service, loud};

/// For whatever needs servers to start and a busy machine to get to it.
const DEADLINE: Duration = Duration::from_secs(180);
const PARTITIONS: u32 = 2;
/// A user of Kafka and of Cassandra who may do nothing, and its password in both.
const POOR: &str = "poor";
const PASSWORD: &str = "alms";
/// Cassandra's first user, who may do everything, and its password.
const RICH: &str = "cassandra";

type Settings<'a> = &'a [(&'static str, String)];

/// Servers that know users: in Kafka everybody may do everything on the first port, and [`POOR`] nothing on the other.
struct Servers {
    kafka: Kafka,
    guarded: String,
    cassandra: Cassandra,
    nats: Nats,
}

fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let guarded = format!("127.0.0.1:{}", free_ports(1)[0]);
        thread::scope(|scope| {
            let kafka = scope.spawn(|| start_kafka(&guarded));
            let cassandra = scope.spawn(start_cassandra);
            Servers {
                nats: Nats::start(),
                kafka: kafka.join().unwrap(),
                cassandra: cassandra.join().unwrap(),
                guarded: guarded.clone(),
            }
        })
    })
}

fn start_kafka(guarded: &str) -> Kafka {
    let addresses = format!("PLAINTEXT://127.0.0.1:{{port}},GUARDED://{guarded}");
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let properties = [
        format!("listeners={addresses},CONTROLLER://127.0.0.1:{{port2}}"),
        format!("advertised.listeners={addresses}"),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT"
            .to_owned(),
        "sasl.enabled.mechanisms=PLAIN".to_owned(),
        format!("listener.name.guarded.plain.sasl.jaas.config={login} user_{POOR}=\"{PASSWORD}\";"),
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
        "super.users=User:ANONYMOUS".to_owned(),
    ];
    let properties: Vec<&str> = properties.iter().map(String::as_str).collect();
    Kafka::start_with(&properties)
}

fn start_cassandra() -> Cassandra {
    let cassandra = Cassandra::start_with(&[
        "authenticator=PasswordAuthenticator",
        "authorizer=CassandraAuthorizer",
        "-Dcassandra.superuser_setup_delay_ms=0",
    ]);
    // Its first user is made after the start.
    let mut session = None;
    wait_for("the first user", DEADLINE, || {
        session = session_of(&cassandra);
        session.is_some()
    });
    let (runtime, session) = session.unwrap();
    let create = format!("CREATE ROLE {POOR} WITH PASSWORD = '{PASSWORD}' AND LOGIN = true");
    runtime.block_on(session.query_unpaged(create, ())).unwrap();
    cassandra
}

fn session_of(cassandra: &Cassandra) -> Option<(tokio::runtime::Runtime, Session)> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let session = SessionBuilder::new().known_node(cassandra.url()).user(RICH, RICH);
    let session = runtime.block_on(session.build()).ok()?;
    Some((runtime, session))
}

/// A file with a password.
fn password_file(password: &str) -> String {
    let path = fresh_dir("password").join("file");
    fs::write(&path, password).unwrap();
    path.to_str().unwrap().to_owned()
}

fn deployment(name: &str) -> Deployment {
    let servers = servers();
    Deployment {
        name: name.to_owned(),
        brokers: servers.kafka.url(),
        nats: servers.nats.url(),
        cassandra: servers.cassandra.url(),
        partitions: PARTITIONS,
        settings: vec![
            ("store.cassandra.username", RICH.to_owned()),
            ("store.cassandra.password_file", password_file(RICH)),
            ("store.write_delay", "100ms".to_owned()),
        ],
    }
}

/// Ends with status 2 and one line that has all of these words, and no password.
fn check_refused(deployment: &Deployment, more: Settings<'_>, words: &[&str]) {
    let log = service::check_refused(deployment, more, DEADLINE, words);
    assert!(!log.contains(PASSWORD), "{log}");
}

/// Waits until it has said something besides how it gets on, so often and no oftener, in one line with all of these words.
fn wait_until_said(service: &mut Service, times: usize, words: &[&str]) {
    wait_for(&format!("line {times}, with {words:?}"), DEADLINE, || {
        service.assert_runs();
        let log = service.log();
        let said = loud(&log);
        assert!(said.len() <= times, "{log}");
        let is_it = |line: &&str| words.iter().all(|word| line.contains(word));
        said.len() == times && said.iter().any(is_it)
    });
}

fn wait_until_ready(service: &mut Service) {
    wait_for("being ready", DEADLINE, || {
        service.assert_runs();
        service.page("/readyz").starts_with("HTTP/1.1 200")
    });
}

fn wait_until_durable(service: &mut Service, offsets: f64) {
    wait_for("everything to be durable", DEADLINE, || {
        service.assert_runs();
        service.metric("readstates_durable_offset", "") == offsets
            && service.metric("readstates_partition_phase", "phase=\"live\"") == f64::from(PARTITIONS)
    });
}

/// One event in each of some channels; the sum of the last offsets afterwards, where there were so many before.
fn publish(deployment: &Deployment, channels: u64, before: u64) -> f64 {
    let line = |channel: u64| {
        format!(
            "{{\"channelId\":\"{channel}\",\"messageCreated\":{{\"messageId\":\"{}\",\"authorId\":\"7\"}}}}\n",
            before + 1
        )
    };
    deployment.publish((1..=channels).map(line).collect::<String>().as_bytes());
    (before + channels) as f64 - f64::from(PARTITIONS)
}

/// Each server comes when it is missed most. Health is told all the while.
#[test]
fn servers_that_are_missing_are_waited_for() {
    let (mut kafka, mut cassandra, mut nats) = (
        Kafka::start_unready(&[]),
        Cassandra::start_unready(&[]),
        Nats::start(),
    );
    kafka.kill9();
    cassandra.kill9();
    nats.kill9();
    let deployment = Deployment {
        name: "missing".to_owned(),
        brokers: kafka.url(),
        nats: nats.url(),
        cassandra: cassandra.url(),
        partitions: PARTITIONS,
        settings: vec![("store.write_delay", "100ms".to_owned())],
    };
    let mut service = deployment.serve("early", &[]);
    wait_until_said(
        &mut service,
        2,
        &[
            &deployment.cassandra,
            "store.cassandra.nodes",
            "start it",
            "trying again",
        ],
    );
    wait_until_said(&mut service, 2, &["nats.url", "start it", "trying again"]);
    assert!(service.page("/healthz").starts_with("HTTP/1.1 200"));
    let ready = service.page("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    for server in ["NATS", "the store", "Kafka"] {
        assert!(ready.contains(&format!("{server} is not connected")), "{ready}");
    }
    assert_eq!(service.metric("readstates_build_info", ""), 1.0);
    cassandra.restart();
    wait_until_said(
        &mut service,
        3,
        &[
            &deployment.brokers,
            "stream.kafka.brokers",
            "start it",
            "trying again",
        ],
    );
    kafka.restart();
    wait_for("all but NATS", DEADLINE, || {
        service.assert_runs();
        let ready = service.page("/readyz");
        ready.contains("NATS is not connected") && !ready.contains("the store") && !ready.contains("Kafka")
    });
    nats.restart();
    wait_until_ready(&mut service);
    let sum = publish(&deployment, 10, 0);
    wait_until_durable(&mut service, sum);
    // One line for each, however often it was tried.
    wait_until_said(&mut service, 3, &[]);
    assert_eq!(service.terminate().code(), Some(0), "{}", service.log_tail());

    // The same store with another cluster.
    let other = Deployment {
        brokers: servers().kafka.url(),
        ..deployment
    };
    check_refused(
        &other,
        &[],
        &["belongs to the stream", "stream.kafka.brokers", "stream.epoch"],
    );
}

/// A store and a stream that do not belong together.
#[test]
fn positions_that_do_not_fit_the_log_are_refused() {
    let mut deployment = deployment("positions");
    deployment.settings.push(("stream.epoch", "1".to_owned()));
    let mut service = deployment.serve("first", &[]);
    wait_until_ready(&mut service);
    let sum = publish(&deployment, 20, 0);
    wait_until_durable(&mut service, sum);
    assert_eq!(service.terminate().code(), Some(0), "{}", service.log_tail());

    let lowered: Settings<'_> = &[
        ("stream.epoch", "0".to_owned()),
        ("stream.kafka.group", "positions-lowered".to_owned()),
        ("log.format", "json".to_owned()),
    ];
    let elsewhere: Settings<'_> = &[
        ("stream.kafka.topic", "positions-other".to_owned()),
        ("stream.kafka.group", "positions-other".to_owned()),
    ];
    thread::scope(|scope| {
        scope.spawn(|| {
            check_refused(
                &deployment,
                lowered,
                &["{\"timestamp\"", "\"level\":\"ERROR\"", "set stream.epoch to 1"],
            )
        });
        scope.spawn(|| {
            let words = [
                "belongs to the stream",
                "positions-events",
                "positions-other",
                "stream.kafka.topic",
                "stream.epoch",
            ];
            check_refused(&deployment, elsewhere, &words);
        });
    });

    let kafka: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &deployment.brokers)
        .create()
        .unwrap();
    let (topic, options) = (deployment.topic(), AdminOptions::new());
    publish(&deployment, 20, 20);
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(&topic, partition as i32, Offset::End)
            .unwrap();
    }
    block_on(kafka.delete_records(&all, &options)).unwrap();
    check_refused(
        &deployment,
        &[],
        &[
            "the log begins at",
            "deleted before they were applied",
            "retention.ms=-1",
            "stream.epoch",
        ],
    );

    let grown = NewPartitions::new(&topic, PARTITIONS as usize + 1);
    block_on(kafka.create_partitions([&grown], &options)).unwrap()[0]
        .as_ref()
        .unwrap();
    check_refused(
        &deployment,
        &[],
        &["had 2 partitions and has 3", "go back to 2", "stream.epoch"],
    );

    block_on(kafka.delete_topics(&[&topic], &options)).unwrap()[0]
        .as_ref()
        .unwrap();
    wait_for("the topic to be gone", DEADLINE, || {
        let metadata = kafka.inner().fetch_metadata(Some(&topic), Duration::from_secs(5));
        metadata.is_ok_and(|metadata| metadata.topics().iter().all(|topic| topic.error().is_some()))
    });
    // The service makes it anew.
    check_refused(
        &deployment,
        &[],
        &["the log ends at 0", "made anew or lost records", "stream.epoch"],
    );
    // What the line says to do helps.
    let mut service = deployment.serve("raised", &[("stream.epoch", "2".to_owned())]);
    let sum = publish(&deployment, 20, 0);
    wait_until_durable(&mut service, sum);
    assert_eq!(service.terminate().code(), Some(0), "{}", service.log_tail());
    assert!(loud(&service.log()).is_empty(), "{}", service.log());
}

/// Lets [`POOR`] do something: by a request of Kafka's protocol (CreateAcls, version 1), for which rdkafka has no words.
fn allow(resource: u8, name: &str, operation: u8) {
    let text = |text: &str| [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat();
    let request = [
        // Key, version, correlation, no client id; one entry.
        &[0, 30, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 1, resource][..],
        &text(name),
        // Of exactly this name.
        &[3],
        &text(&format!("User:{POOR}")),
        &text("*"),
        // Allowed.
        &[operation, 3],
    ]
    .concat();
    let mut broker = TcpStream::connect(servers().kafka.url()).unwrap();
    broker.write_all(&(request.len() as u32).to_be_bytes()).unwrap();
    broker.write_all(&request).unwrap();
    let mut answer = [0; 18];
    broker.read_exact(&mut answer).unwrap();
    // Length, correlation, throttling, one result; its error code.
    assert_eq!((answer[15], &answer[16..]), (1, &[0, 0][..]), "{answer:?}");
}

const TOPIC: u8 = 2;
const GROUP: u8 = 3;
const READ: u8 = 3;
const WRITE: u8 = 4;
const DESCRIBE: u8 = 8;

#[test]
fn a_user_of_kafka_without_rights_is_told_which_are_missing() {
    let poor = |name: &str| {
        let mut deployment = deployment(name);
        let login = format!(
            r#"{{ "security.protocol" = "sasl_plaintext", "sasl.mechanism" = "PLAIN", "sasl.username" = "{POOR}" }}"#
        );
        deployment.settings.extend([
            ("stream.kafka.brokers", servers().guarded.clone()),
            ("stream.kafka.properties", login),
            ("stream.kafka.password_file", password_file(PASSWORD)),
        ]);
        deployment
    };
    // By somebody who may.
    let made = |name: &str| {
        let rich = deployment(name);
        rich.publish(b"");
        for topic in [rich.topic(), format!("{}.dlq", rich.topic())] {
            allow(TOPIC, &topic, DESCRIBE);
        }
        // Of the topic of the stream no service writes anything.
        allow(TOPIC, &format!("{}.dlq", rich.topic()), WRITE);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let words = [
                "can't look at the topic \"blind-events\"",
                "stream.kafka.topic",
                "allow our user",
            ];
            check_refused(&poor("blind"), &[], &words);
        });
        scope.spawn(|| {
            allow(TOPIC, "seeing-events", DESCRIBE);
            let words = [
                "can't create the topic \"seeing-events\"",
                "stream.kafka.topic",
                "retention.ms=-1",
            ];
            check_refused(&poor("seeing"), &[], &words);
        });
        scope.spawn(|| {
            made("alone");
            let words = [
                "does not let us join the group \"alone-group\"",
                "stream.kafka.group",
            ];
            check_refused(&poor("alone"), &[], &words);
        });
        scope.spawn(|| {
            made("mute");
            allow(GROUP, "mute-group", READ);
            // Somebody must have published, or there is nothing to read.
            publish(&deployment("mute"), 20, 0);
            let words = [
                "does not let us read the topic \"mute-events\"",
                "stream.kafka.topic",
            ];
            check_refused(&poor("mute"), &[], &words);
        });
    });
}

#[test]
fn a_keyspace_that_is_missing_and_may_not_be_created_is_refused() {
    let (runtime, session) = session_of(&servers().cassandra).unwrap();
    let empty = deployment("empty");
    let create = format!(
        "CREATE KEYSPACE {} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}",
        empty.keyspace()
    );
    runtime.block_on(session.query_unpaged(create, ())).unwrap();
    let poor = [
        ("store.cassandra.username", POOR.to_owned()),
        ("store.cassandra.password_file", password_file(PASSWORD)),
    ];
    let by_hand = [("store.cassandra.create_schema", "false".to_owned())];
    thread::scope(|scope| {
        scope.spawn(|| {
            let words = [
                "no keyspace \"ks_none\"",
                "store.cassandra.keyspace",
                "create_schema",
                "tables.cql",
            ];
            check_refused(&deployment("none"), &by_hand, &words);
        });
        scope.spawn(|| {
            let words = [
                "the keyspace \"ks_empty\" lacks the tables",
                "create_schema",
                "tables.cql",
            ];
            check_refused(&empty, &by_hand, &words);
        });
        scope.spawn(|| {
            let words = ["CREATE KEYSPACE", "grants of store.cassandra.username"];
            check_refused(&deployment("none2"), &poor, &words);
        });
        scope.spawn(|| {
            check_refused(
                &empty,
                &poor,
                &["CREATE TABLE", "grants of store.cassandra.username"],
            )
        });
    });
}

#[test]
fn addresses_that_cannot_work_are_refused() {
    let base = deployment("addresses");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mistakes: Settings<'_> = &[
        ("nats.url", "http://127.0.0.1".to_owned()),
        ("stream.kafka.brokers", "kafka:99999".to_owned()),
        ("store.cassandra.nodes", "http://node:9042".to_owned()),
        ("admin.listen", "localhost".to_owned()),
    ];
    for (more, words) in [
        (
            &[("admin.listen", listen.clone())][..],
            vec![["admin.listen", &listen, "choose another address"]],
        ),
        // Of documentation (RFC 5737): no machine has it.
        (
            &[("admin.listen", "192.0.2.1:9464".to_owned())],
            vec![["admin.listen", "192.0.2.1", "choose another address"]],
        ),
        (
            mistakes,
            vec![
                ["nats.url", "http://127.0.0.1", "must be"],
                ["stream.kafka.brokers", "kafka:99999", "must be"],
                ["store.cassandra.nodes", "http://node:9042", "must be"],
                ["admin.listen", "localhost", "must be"],
            ],
        ),
    ] {
        let ended = base.run_with("serve", &[], more);
        let said = ended.stderr;
        println!("{said}");
        assert_eq!(
            (ended.status, said.lines().count()),
            (Some(2), words.len()),
            "{said}"
        );
        for words in words {
            let is_it = |line: &str| words.iter().all(|word| line.contains(word));
            assert!(said.lines().any(is_it), "{words:?}: {said}");
        }
    }
}

#[test]
fn tls_to_a_port_that_does_not_speak_it_is_told() {
    let authority = fresh_dir("authority").join("ca.pem");
    fs::write(&authority, AUTHORITY).unwrap();
    let base = deployment("tls");
    let kafka = [(
        "stream.kafka.properties",
        r#"{ "security.protocol" = "ssl" }"#.to_owned(),
    )];
    let cassandra = [("store.cassandra.tls_ca", authority.to_str().unwrap().to_owned())];
    let nats = [("nats.url", base.nats.replace("nats://", "tls://"))];
    thread::scope(|scope| {
        // A broker that is just ending hangs up like this as well.
        scope.spawn(|| {
            let mut service = base.serve("waiting", &kafka);
            let words = [
                &*base.brokers,
                "PLAINTEXT broker listener",
                "stream.kafka.properties",
            ];
            wait_until_said(&mut service, 1, &words);
        });
        scope.spawn(|| check_refused(&base, &cassandra, &[&base.cassandra, "store.cassandra.tls_ca"]));
        scope.spawn(|| check_refused(&base, &nats, &["nats.url", "does not speak TLS"]));
    });
}

/// Who signs certificates; nobody has its key any more.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIUK9KQBgC0pmSDUoHznPoyApuNCHwwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGYSB0ZXN0MCAXDTI2MTEyMjIxNDYwM1oYDzIxMjYxMDI5MjE0
NjAzWjARMQ8wDQYDVQQDDAZhIHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AATQmxNg9V4tw3ItT1nuJ5QJfjforBLU0i0bmpDwHHGeefmmPcNyaPOjYFWvQKG/
wqK/x3QKbb5xYxH+9PYQtBHTo1MwUTAdBgNVHQ4EFgQUYvOEUXM6Yu/tZijcBibX
1sQNcMUwHwYDVR0jBBgwFoAUYvOEUXM6Yu/tZijcBibX1sQNcMUwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiBkes6GtpXsdK9DWLuO1zs9msThUAKN
vYqqYM1X5xsAlAIhAIL8aK43LZh44kMJ8oG3RBwwY40JR8mvSbhc8nSkh+CL
-----END CERTIFICATE-----
";
