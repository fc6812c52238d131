//! Proves, on a real broker, that dead letters arrive as the contract says, however long that takes, and that `publish`
//! puts every event where the service looks for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, OwnedMessage};
use rdkafka::{ClientConfig, Message, Offset as KafkaOffset, TopicPartitionList};
use readstates::cli::publish::{Published, Refusal, publish};
use readstates::model::ids::{ChannelId, Offset, PartitionId};
use readstates::source::dead_letters::DeadLetters;
use readstates::source::kafka::{KafkaSettings, prepare};
use readstates::source::stream::StreamSettings;
use readstates::source::{DeadLetter, RawRecord};
use readstates::wire::partitioner::partition_of;
use readstates::wire::record::{Place, RecordLimits, decode};
use support::servers::Kafka;

const DEADLINE: Duration = Duration::from_secs(60);
const LIMITS: RecordLimits = RecordLimits {
    event_bytes_max: 1_048_576,
    mentions_max: 10_000,
    deletes_max: 10_000,
};

fn broker() -> String {
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    BROKER.get_or_init(Kafka::start).url()
}

/// A topic of its own for each test.
fn settings(partitions: u32) -> KafkaSettings {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let topic = format!("events-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    KafkaSettings {
        brokers: broker(),
        group: format!("group-of-{topic}"),
        topic,
        partitions,
        replication: -1,
        password: None,
        properties: BTreeMap::new(),
        epoch: 0,
    }
}

/// Reads the first `count` records of a topic, waiting for them.
fn read(settings: &KafkaSettings, topic: &str, partitions: u32, count: usize) -> Vec<OwnedMessage> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("group.id", "reader-of-tests");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition as i32, KafkaOffset::Beginning)
            .unwrap();
    }
    consumer.assign(&list).unwrap();
    let end = Instant::now() + DEADLINE;
    let mut found = Vec::new();
    while found.len() < count {
        assert!(
            Instant::now() < end,
            "{} of {count} records in {topic}",
            found.len()
        );
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            found.push(message.detach());
        }
    }
    found
}

fn letter(value: Bytes) -> DeadLetter {
    let header = |name: &str, value: Option<&'static str>| (name.to_owned(), value.map(Bytes::from));
    DeadLetter {
        partition: PartitionId(3),
        record: RawRecord {
            offset: Offset(77),
            timestamp_ms: Some(1_700_000_000_000),
            key: Some(Bytes::from_static(b"42")),
            value: Some(value),
            headers: vec![header("b", Some("1")), header("a", None), header("b", Some(""))],
        },
        reason: "undecodable",
        detail: "no such field".into(),
    }
}

/// Names and values of all headers, in order; a value that is missing is "null".
fn headers(message: &OwnedMessage) -> Vec<(String, String)> {
    let text =
        |value: Option<&[u8]>| value.map_or("null".into(), |v| String::from_utf8_lossy(v).into_owned());
    message
        .headers()
        .unwrap()
        .iter()
        .map(|header| (header.key.to_owned(), text(header.value)))
        .collect()
}

const HEADERS: [(&str, &str); 6] = [
    ("b", "1"),
    ("a", "null"),
    ("b", ""),
    ("readstates-reason", "undecodable"),
    ("readstates-source-partition", "3"),
    ("readstates-source-offset", "77"),
];

fn check_headers(message: &OwnedMessage, truncated: bool) {
    let mut expected = HEADERS.to_vec();
    if truncated {
        expected.push(("readstates-truncated", "true"));
    }
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    assert_eq!(headers(message), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_the_record_and_says_why() {
    let settings = settings(1);
    prepare(&settings).await.unwrap();
    let letters = DeadLetters::new(&settings).unwrap();
    letters.send(letter(Bytes::from_static(b"\0what?"))).await;
    let mut bare = letter(Bytes::new());
    bare.record.key = None;
    bare.record.value = None;
    letters.send(bare).await;
    letters.send(letter(Bytes::new())).await;
    let found = read(&settings, &settings.dead_letter_topic(), 1, 3);
    assert_eq!(
        (found[0].key(), found[0].payload()),
        (Some(&b"42"[..]), Some(&b"\0what?"[..]))
    );
    assert_eq!((found[1].key(), found[1].payload()), (None, None));
    assert_eq!(
        (found[2].key(), found[2].payload()),
        (Some(&b"42"[..]), Some(&b""[..]))
    );
    for message in &found {
        check_headers(message, false);
        assert_eq!(message.timestamp().to_millis(), Some(1_700_000_000_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_too_large_for_the_topic_is_cut() {
    let settings = settings(1);
    prepare(&settings).await.unwrap();
    let letters = DeadLetters::new(&settings).unwrap();
    // The topic takes 1 MiB and a little.
    let value: Bytes = (0..3_000_000_u32).map(|number| number as u8).collect();
    letters.send(letter(value.clone())).await;
    let found = read(&settings, &settings.dead_letter_topic(), 1, 1);
    let kept = found[0].payload().unwrap();
    assert!(
        value.starts_with(kept) && kept.len() > 500_000 && kept.len() < value.len(),
        "{}",
        kept.len()
    );
    check_headers(&found[0], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_waits_for_its_topic() {
    let settings = settings(1);
    let letters = Arc::new(DeadLetters::new(&settings).unwrap());
    let sending = tokio::spawn({
        let letters = letters.clone();
        async move { letters.send(letter(Bytes::from_static(b"late"))).await }
    });
    // Longer than librdkafka takes a missing topic for one that is being created.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!sending.is_finished());
    let admin: AdminClient<_> = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .create()
        .unwrap();
    let topic = settings.dead_letter_topic();
    let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
    admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    tokio::time::timeout(DEADLINE, sending).await.unwrap().unwrap();
    let found = read(&settings, &topic, 1, 1);
    assert_eq!(found[0].payload(), Some(&b"late"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn published_events_are_where_the_service_looks_for_them() {
    const CHANNELS: u64 = 50;
    const EVENTS: u64 = 2000;
    let settings = settings(5);
    let mut input = String::new();
    for number in 1..=EVENTS {
        let channel = 1 + number % CHANNELS;
        input += &format!(
            "{{\"channelId\":\"{channel}\",\"messageRead\":{{\"userId\":1,\"messageId\":{number}}}}}\n"
        );
    }
    input += "\n{\"channelId\":\"1\"}\nno JSON\n{\"channelId\":0,\"channelDeleted\":{}}\n";
    input += "{\"channel_id\":\"1\",\"channel_deleted\":{}}";
    let published = published(input, &settings).await;
    assert_eq!(
        (published.acknowledged, published.refused_count()),
        (EVENTS + 1, 3)
    );
    assert_eq!((published.sent, published.unacknowledged()), (EVENTS + 1, 0));
    let lines = |refusal| {
        let refused = &published.refused[&refusal];
        refused.first.iter().map(|(line, _)| *line).collect::<Vec<_>>()
    };
    assert_eq!(lines(Refusal::Invalid), [EVENTS + 2, EVENTS + 4]);
    assert_eq!(lines(Refusal::Undecodable), [EVENTS + 3]);

    let mut last_of_channel = BTreeMap::new();
    for message in read(&settings, &settings.topic, 5, EVENTS as usize + 1) {
        let place = Place {
            partition: PartitionId(message.partition() as u32),
            partition_count: 5,
            is_key_optional: false,
        };
        let event = decode(message.key(), message.payload(), false, place, &LIMITS).unwrap();
        assert_eq!(partition_of(event.channel, 5), place.partition);
        if let Some(last) = last_of_channel.insert(event.channel, message.offset()) {
            assert!(last < message.offset());
        }
        assert!(event.channel <= ChannelId(CHANNELS));
    }
    assert_eq!(last_of_channel.len() as u64, CHANNELS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_end_is_refused_and_the_next_one_published() {
    let settings = settings(1);
    let mut input = vec![b'x'; 17 * 1024 * 1024];
    input.extend_from_slice(b"\n{\"channelId\":\"1\",\"channelDeleted\":{}}\n");
    let bytes = input.len() as u64;
    let published = published(input, &settings).await;
    assert_eq!((published.acknowledged, published.refused_count()), (1, 1));
    assert_eq!((published.lines, published.input_bytes), (2, bytes));
    assert_eq!(published.refused[&Refusal::TooLong].first[0].0, 1);
}

async fn published(input: impl AsRef<[u8]> + Send + 'static, settings: &KafkaSettings) -> Published {
    let input = std::io::Cursor::new(input);
    let counts = Default::default();
    let stream = StreamSettings::Kafka(settings.clone());
    let publishing = publish(input, &stream, &LIMITS, &counts, std::future::pending());
    publishing.await.unwrap()
}
