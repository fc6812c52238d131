//! Proves with the program as a process on real servers what publishers and callers in Rust build on: a publisher says
//! where its event is and why it isn't there, and who passes the position on reads the own writes, over Kafka and over
//! JetStream, also across a restart of the service.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy};
use prost::Message as _;
use readstates::client::{
    AskError, CannotConnect, Client, Options, Position, Positions, PublishError, Publisher, StreamOptions,
};
use readstates::model::event::{Event, EventKind, Mentions};
use readstates::model::ids::{ChannelId, MAX_ID, MessageId, ReadStateKey, UserId};
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1;
use support::servers::{Kafka, Nats, fresh_dir, wait_for};
use support::service::{Deployment, Service};

const PARTITIONS: u32 = 4;
/// A service starts within seconds on an idle machine.
const LIVE_DEADLINE: Duration = Duration::from_secs(90);
/// For an answer that needs a service that is starting.
const PATIENT: Duration = Duration::from_secs(90);
const BOB: UserId = UserId(8);

fn nats() -> &'static Nats {
    static NATS: OnceLock<Nats> = OnceLock::new();
    NATS.get_or_init(Nats::start)
}

fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(Kafka::start)
}

/// A stream of one kind or the other, and the embedded store.
fn deployment(name: &str, kind: &'static str) -> Deployment {
    let store = fresh_dir(name).join("store");
    Deployment {
        name: name.to_owned(),
        brokers: if kind == "kafka" {
            kafka().url()
        } else {
            String::new()
        },
        nats: nats().url(),
        cassandra: "127.0.0.1:1".to_owned(),
        partitions: PARTITIONS,
        settings: vec![
            ("stream.kind", kind.to_owned()),
            (
                "stream.kafka.brokers",
                if kind == "kafka" {
                    kafka().url()
                } else {
                    "127.0.0.1:1".to_owned()
                },
            ),
            ("store.kind", "embedded".to_owned()),
            ("store.embedded.path", store.to_str().unwrap().to_owned()),
        ],
    }
}

fn options(name: &str) -> Options {
    Options::new(&nats().url()).subject_prefix(name)
}

fn jetstream(name: &str) -> StreamOptions {
    let stream = format!("{name}-events");
    StreamOptions::jetstream(Options::new(&nats().url()))
        .stream(stream)
        .partitions(PARTITIONS)
}

fn into_kafka(name: &str) -> StreamOptions {
    StreamOptions::kafka(kafka().url())
        .stream(format!("{name}-events"))
        .partitions(PARTITIONS)
}

/// By 7, mentioning [`BOB`].
fn message(channel: u64, message: u64) -> Event {
    Event {
        channel: ChannelId(channel),
        kind: EventKind::MessageCreated {
            message: MessageId(message),
            author: Some(UserId(7)),
            mentions: Mentions::new(vec![BOB], false),
        },
    }
}

fn of_bob(channel: u64) -> ReadStateKey {
    ReadStateKey {
        user: BOB,
        channel: ChannelId(channel),
    }
}

fn restarted(deployment: &Deployment, service: Service) -> Service {
    let mut service = service;
    assert_eq!(service.terminate().code(), Some(0));
    drop(service);
    deployment.serve("again", &[])
}

/// Every answer has all that was published before, whatever the moment at which it is asked; the service is stopped and
/// started in between, within the time of who asks.
async fn check_own_writes_are_read(deployment: Deployment, stream: StreamOptions) {
    const CHANNELS: u64 = 20;
    let client = Client::connect(options(&deployment.name)).await.unwrap();
    let publisher = Publisher::connect(&stream).await.unwrap();
    let mut service = deployment.serve("one", &[]);
    let mut seen = Positions::new();
    for round in 1..=30 {
        let mut under_way = Vec::new();
        for channel in 1..=CHANNELS {
            under_way.push(publisher.send(message(channel, round)).await.unwrap());
        }
        for (sent, channel) in under_way.into_iter().zip(1..) {
            let position = sent.await.unwrap();
            assert_eq!(position.partition, partition_of(ChannelId(channel), PARTITIONS));
            seen.add(position);
        }
        if round == 15 {
            let stopping = restarted(&deployment, service);
            service = stopping;
        }
        // The first waits for the service to start, as that after the restart does.
        let states = client
            .get((1..=CHANNELS).map(of_bob))
            .after(&seen)
            .timeout(PATIENT)
            .await
            .unwrap();
        for state in states {
            let counts = [state.unread, state.mentions, state.direct_mentions].map(|it| u64::from(it.number));
            assert_eq!((state.last_message.0, counts), (round, [round; 3]), "{state:?}");
        }
    }
    let read = EventKind::MessageRead {
        user: BOB,
        message: MessageId(30),
    };
    seen.add(
        publisher
            .publish(Event {
                channel: ChannelId(1),
                kind: read,
            })
            .await
            .unwrap(),
    );
    let state = &client
        .get([of_bob(1)])
        .after(&seen)
        .timeout(PATIENT)
        .await
        .unwrap()[0];
    assert_eq!((state.unread.number, state.last_read.0), (0, 30));
    let unread = client
        .overview(BOB)
        .only_unread()
        .limit(7)
        .timeout(PATIENT)
        .all()
        .await
        .unwrap();
    assert_eq!(unread.read_states.len() as u64, CHANNELS - 1);
    let wrong = client
        .get([of_bob(1)])
        .after("99:1".parse::<Positions>().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(wrong, AskError::Malformed(_)), "{wrong}");
    publisher.close().await.unwrap();
    assert_eq!(service.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_read_over_jetstream() {
    check_own_writes_are_read(deployment("rywj", "jetstream"), jetstream("rywj")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_read_over_kafka() {
    check_own_writes_are_read(deployment("rywk", "kafka"), into_kafka("rywk")).await;
}

/// Runs the compiled example beside a service, and reads what it prints.
#[test]
fn the_example_prints_what_it_should() {
    let deployment = deployment("example", "jetstream");
    let _service = deployment.serve("one", &[]);
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "client"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().unwrap().parent().unwrap().join("examples/client");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("it.toml");
    let stream =
        "[stream]\nkind = \"jetstream\"\n[stream.jetstream]\nstream = \"example-events\"\npartitions = 4\n";
    std::fs::write(&config, format!("{stream}[nats]\nsubject_prefix = \"example\"\n")).unwrap();
    wait_for("all partitions to be live", LIVE_DEADLINE, || {
        let said = deployment.run("lag", &["--wait", "300"], b"").stdout;
        said.matches(" live ").count() == PARTITIONS as usize
    });
    let run = || {
        let output = Command::new(&example)
            .arg(&config)
            .env_clear()
            .env("READSTATES_NATS__URL", nats().url())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = run();
    let lines: Vec<_> = said.lines().collect();
    let partition = partition_of(ChannelId(42), PARTITIONS);
    let (_, position) = lines[0].split_once(" in channel 42 is at ").unwrap();
    assert_eq!(position.parse::<Position>().unwrap().partition, partition);
    assert_eq!(
        lines[1..],
        [
            "user 8 in channel 42: 1 unread, 1 of them with a mention",
            "overview: channel 42 has 1 unread",
            "user 8 in channel 42: 0 unread, 0 of them with a mention",
        ]
    );
    assert_eq!(run().lines().count(), 4, "again");
}

/// What a service refuses is not sent, and is told as what it is.
async fn check_invalid_events(publisher: &Publisher) {
    for (event, why) in [
        (
            v1::Event {
                channel_id: 1,
                kind: None,
            },
            "it has no kind that is known here",
        ),
        (message(0, 1).into(), "channel_id is 0"),
        (message(MAX_ID + 1, 1).into(), "channel_id is 9223372036854775808"),
        (message(1, 0).into(), "message_id is 0"),
        (
            v1::Event {
                channel_id: 1,
                kind: Some(deletes(10_001)),
            },
            "limits.max_deletes is 10000",
        ),
        (
            v1::Event {
                channel_id: 1,
                kind: Some(deletes(200_000)),
            },
            "limits.max_event_bytes is 1048576",
        ),
    ] {
        let refused = publisher.publish(event.clone()).await.unwrap_err();
        assert!(
            matches!(&refused, PublishError::Invalid(it) if it.contains(why)),
            "{refused:?}"
        );
        assert!(publisher.send(event).await.is_err(), "at once");
    }
}

fn deletes(count: u64) -> v1::event::Kind {
    v1::event::Kind::MessageDeleted(v1::MessageDeleted {
        message_ids: (1..=count).collect(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_in_jetstream_where_the_publisher_says() {
    const EVENTS: u64 = 10_000;
    let publisher = Publisher::connect(&jetstream("placed")).await.unwrap();
    check_invalid_events(&publisher).await;
    let mut under_way = Vec::new();
    for number in 1..=EVENTS {
        under_way.push(publisher.send(message(1 + number % 50, number)).await.unwrap());
    }
    let mut positions = Vec::new();
    for sent in under_way {
        positions.push(sent.await.unwrap());
    }
    // One task sent them, so all are in order.
    assert!(positions.is_sorted_by(|a, b| a.offset < b.offset));
    publisher.close().await.unwrap();

    let client = async_nats::connect(nats().url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let mut stream = context.get_stream("placed-events").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, EVENTS);
    for number in (1..=EVENTS).step_by(997) {
        let position = positions[number as usize - 1];
        let found = stream.get_raw_message(position.offset.0).await.unwrap();
        assert_eq!(
            found.subject.as_str(),
            format!("placed-events.{}", position.partition)
        );
        let event = v1::Event::decode(found.payload).unwrap();
        assert_eq!(event, message(1 + number % 50, number).into());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jetstream_that_takes_no_more_says_so() {
    let client = async_nats::connect(nats().url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let full = StreamConfig {
        name: "full-events".to_owned(),
        subjects: vec!["full-events.>".to_owned()],
        max_messages: 3,
        discard: DiscardPolicy::New,
        ..StreamConfig::default()
    };
    context.create_stream(full).await.unwrap();
    let publisher = Publisher::connect(&jetstream("full")).await.unwrap();
    for number in 1..=3 {
        assert_eq!(
            publisher.publish(message(1, number)).await.unwrap().offset.0,
            number
        );
    }
    let refused = publisher.publish(message(1, 4)).await.unwrap_err();
    assert!(
        matches!(&refused, PublishError::NotTaken(why) if why.contains("maximum messages")),
        "{refused:?}"
    );
    context.delete_stream("full-events").await.unwrap();
    let gone = publisher.publish(message(1, 5)).await.unwrap_err();
    assert!(matches!(gone, PublishError::NotTaken(_)), "{gone:?}");
    publisher.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jetstream_that_is_gone_is_waited_for_only_so_long() {
    let mut server = Nats::start();
    let options = StreamOptions::jetstream(Options::new(&server.url()));
    let publisher = Publisher::connect(&options.acknowledged_within(Duration::from_secs(1)))
        .await
        .unwrap();
    publisher.publish(message(1, 1)).await.unwrap();
    server.pause();
    let began = Instant::now();
    let unknown = publisher.publish(message(1, 2)).await.unwrap_err();
    assert!(matches!(unknown, PublishError::Unacknowledged(_)), "{unknown:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    server.resume();
    // Publishing again is what it says to do.
    let position = publisher.publish(message(1, 2)).await.unwrap();
    assert!(position.offset.0 >= 2);
    publisher.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_publish_is_told_when_connecting() {
    let guarded = Nats::start_with(&["--user", "pipeline", "--pass", "swordfish"]);
    let wrong = Options::new(&guarded.url()).user_and_password("pipeline", "shark");
    let refused = Publisher::connect(&StreamOptions::jetstream(wrong))
        .await
        .err()
        .unwrap();
    assert!(matches!(refused, CannotConnect::Refused(_)), "{refused:?}");
    let right = Options::new(&guarded.url()).user_and_password("pipeline", "swordfish");
    let publisher = Publisher::connect(&StreamOptions::jetstream(right))
        .await
        .unwrap();
    publisher.publish(message(1, 1)).await.unwrap();

    let nowhere = StreamOptions::kafka("127.0.0.1:1");
    let away = Publisher::connect(&nowhere).await.err().unwrap();
    assert!(matches!(away, CannotConnect::Unreachable(_)), "{away:?}");
    let misspelled = into_kafka("never").property("compression.codec", "zip");
    let wrong = Publisher::connect(&misspelled).await.err().unwrap();
    assert!(matches!(wrong, CannotConnect::Misconfigured(_)), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_in_kafka_where_the_publisher_says() {
    const EVENTS: u64 = 20_000;
    let publisher = Publisher::connect(&into_kafka("kplaced")).await.unwrap();
    check_invalid_events(&publisher).await;
    let mut under_way = Vec::new();
    for number in 1..=EVENTS {
        under_way.push(publisher.send(message(1 + number % 50, number)).await.unwrap());
    }
    publisher.flush().await.unwrap();
    let mut next = BTreeMap::new();
    for (sent, number) in under_way.into_iter().zip(1..) {
        let position = sent.await.unwrap();
        let channel = ChannelId(1 + number % 50);
        assert_eq!(position.partition, partition_of(channel, PARTITIONS));
        // Each partition from 0 on, without gaps, in the order in which they were sent.
        let expected = next.entry(position.partition).or_insert(0);
        assert_eq!(position.offset.0, *expected, "{number}");
        *expected += 1;
    }
    assert_eq!(next.values().sum::<u64>(), EVENTS);
    // Larger than the topic takes.
    let many = v1::Event {
        channel_id: 1,
        kind: Some(deletes(140_000)),
    };
    let limits = readstates::wire::record::RecordLimits {
        event_bytes_max: 1 << 30,
        mentions_max: 1,
        deletes_max: 1 << 30,
    };
    let loose = into_kafka("kplaced")
        .limits(limits)
        .property("compression.codec", "none");
    let loose = Publisher::connect(&loose).await.unwrap();
    let refused = loose.publish(many).await.unwrap_err();
    assert!(
        matches!(&refused, PublishError::NotTaken(why) if why.contains("too large")),
        "{refused:?}"
    );
    assert!(loose.publish(message(1, EVENTS + 1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_is_waited_for_only_so_long() {
    let mut broker = Kafka::start();
    let options = StreamOptions::kafka(broker.url()).partitions(1);
    let publisher = Publisher::connect(&options.acknowledged_within(Duration::from_secs(2)))
        .await
        .unwrap();
    let first = publisher.publish(message(1, 1)).await.unwrap();
    broker.pause();
    let began = Instant::now();
    let unknown = publisher.publish(message(1, 2)).await.unwrap_err();
    assert!(matches!(unknown, PublishError::Unacknowledged(_)), "{unknown:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    broker.resume();
    let mut again = publisher.publish(message(1, 2)).await;
    // The broker may take a while to come back.
    for _ in 0..20 {
        if again.is_ok() {
            break;
        }
        again = publisher.publish(message(1, 2)).await;
    }
    assert!(again.unwrap().offset > first.offset);
    publisher.close().await.unwrap();
}
