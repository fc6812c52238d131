//! Proves, on a real broker, what the Kafka source promises the owners of partitions: every record in order and once in
//! each ownership, partitions drained before they change hands while the others go on, and nothing skipped silently.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset as KafkaOffset, TopicPartitionList};
use readstates::model::ids::{LogPosition, Offset, PartitionId};
use readstates::source::kafka::{
    KafkaSettings, KafkaSource, PrepareError, Refusal, SourceFailure, StreamInfo, prepare,
};
use support::owners::{DEADLINE, Positions, Recorder, Seen, Told, at, identity, until};
use support::servers::Kafka;
use tokio::sync::mpsc;

/// Short, so that a killed member is noticed soon.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

fn broker() -> String {
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    BROKER.get_or_init(Kafka::start).url()
}

/// A topic of its own for each test.
fn settings(brokers: &str, partitions: u32) -> KafkaSettings {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let topic = format!("events-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    KafkaSettings {
        brokers: brokers.to_owned(),
        group: format!("group-of-{topic}"),
        topic,
        partitions,
        replication: -1,
        password: None,
        properties: BTreeMap::from([(
            "session.timeout.ms".into(),
            SESSION_TIMEOUT.as_millis().to_string(),
        )]),
        epoch: 0,
    }
}

struct Member {
    owners: Recorder,
    source: KafkaSource,
    failures: mpsc::Receiver<SourceFailure>,
}

fn start(settings: &KafkaSettings, stream: &StreamInfo, positions: &Positions) -> Member {
    let owners = Recorder::new(positions, identity(stream));
    let (source, failures) = KafkaSource::start(settings, stream, owners.clone(), positions.clone()).unwrap();
    Member {
        owners,
        source,
        failures,
    }
}

type Writer = ThreadedProducer<DefaultProducerContext>;

fn producer(settings: &KafkaSettings, more: &[(&str, &str)]) -> Writer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "2");
    for (name, value) in more {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

/// Appends records whose values are their offsets, beginning with `from`.
fn append(settings: &KafkaSettings, partition: u32, from: u64, count: u64) {
    append_with(&producer(settings, &[]), settings, partition, from, count);
}

fn append_with(producer: &Writer, settings: &KafkaSettings, partition: u32, from: u64, count: u64) {
    for number in from..from + count {
        let value = number.to_string();
        let mut record = BaseRecord::to(&settings.topic)
            .partition(partition as i32)
            .key("7")
            .payload(&value);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    producer.flush(DEADLINE).unwrap();
}

/// Every record of the partition from `from` up to `to`, once and in order.
fn check_whole(seen: &Seen, from: u64, to: u64) {
    let offsets = seen.offsets();
    assert!(
        offsets.iter().copied().eq(from..to),
        "{:?}",
        first_gap(&offsets, from)
    );
    for (_, record) in &seen.records {
        assert_eq!(
            record.value.as_deref(),
            Some(record.offset.0.to_string().as_bytes())
        );
    }
}

fn first_gap(offsets: &[u64], from: u64) -> Option<(u64, u64)> {
    offsets
        .iter()
        .copied()
        .zip(from..)
        .find(|(found, expected)| found != expected)
}

fn committed(settings: &KafkaSettings, partition: u32) -> Option<i64> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("group.id", &settings.group);
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition(&settings.topic, partition as i32);
    let list = consumer.committed_offsets(list, DEADLINE).unwrap();
    match list.elements()[0].offset() {
        KafkaOffset::Offset(offset) => Some(offset),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_comes_once_in_order_and_the_end_is_told() {
    const COUNT: u64 = 20_000;
    let settings = settings(&broker(), 3);
    let stream = prepare(&settings).await.unwrap();
    assert_eq!(stream.partition_count, 3);
    append(&settings, 0, 0, COUNT);
    append(&settings, 1, 0, COUNT);
    let positions = Positions::default();
    positions.set(PartitionId(1), at(&stream, 99));
    let member = start(&settings, &stream, &positions);
    let owners = &member.owners;
    until("the ends", || {
        owners.see(0, Seen::caught_up) == Some(COUNT)
            && owners.see(1, Seen::caught_up) == Some(COUNT)
            && owners.see(2, Seen::caught_up) == Some(0)
    })
    .await;
    owners.see(0, |seen| {
        check_whole(seen, 0, COUNT);
        let Told::Assign { durable, live_at, .. } = &seen.told[0] else {
            panic!("{:?}", seen.told)
        };
        assert_eq!((*durable, *live_at), (LogPosition::start(0), COUNT));
        let record = &seen.records[5].1;
        assert_eq!(record.key.as_deref(), Some(&b"7"[..]));
        assert!(record.timestamp_ms.unwrap() > 1_500_000_000_000 && record.headers.is_empty());
    });
    owners.see(1, |seen| {
        check_whole(seen, 100, COUNT);
        let Told::Assign { durable, .. } = &seen.told[0] else {
            panic!("{:?}", seen.told)
        };
        assert_eq!(*durable, LogPosition::new(0, Offset(99)));
    });

    append(&settings, 2, 0, 1);
    until("the new end", || owners.see(2, Seen::caught_up) == Some(1)).await;
    assert_eq!(owners.see(2, |seen| (seen.next(), seen.end)), (1, Some(1)));

    let owners = member.owners.clone();
    member.source.stop().await.unwrap();
    for (partition, count) in [(0, COUNT), (1, COUNT), (2, 1)] {
        owners.see(partition, |seen| {
            assert_eq!(seen.told[seen.told.len() - 2..], [Told::Drain, Told::Forget]);
            assert!(!seen.owned());
        });
        assert_eq!(
            committed(&settings, partition),
            Some(count as i64),
            "partition {partition}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_drained_before_they_change_hands_and_the_others_go_on() {
    let settings = settings(&broker(), 4);
    let stream = prepare(&settings).await.unwrap();
    let positions = Positions::default();
    let stop = AtomicBool::new(false);
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // Load: the same number of records in each partition, all the time.
        scope.spawn(|| {
            let writer = producer(&settings, &[]);
            while !stop.load(Ordering::SeqCst) {
                let from = written.load(Ordering::SeqCst);
                for partition in 0..4 {
                    append_with(&writer, &settings, partition, from, 50);
                }
                written.store(from + 50, Ordering::SeqCst);
            }
        });
        let stop_at_the_end = StopAtTheEnd(&stop);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let first = start(&settings, &stream, &positions);
                until("the first has all", || first.owners.owned().len() == 4).await;
                until("it reads", || {
                    (0..4).all(|p| first.owners.see(p, Seen::next) > 100)
                })
                .await;

                first.owners.hold_drains(true);
                let second = start(&settings, &stream, &positions);
                until("some are draining", || !first.owners.draining().is_empty()).await;
                let going = first.owners.draining();
                let staying: Vec<u32> = (0..4).filter(|p| !going.contains(p)).collect();
                assert!(!staying.is_empty(), "cooperative: some partitions stay");
                let before: Vec<u64> = staying.iter().map(|p| first.owners.see(*p, Seen::next)).collect();
                // Long enough for many records, and for a source that doesn't wait to have given the partitions away.
                tokio::time::sleep(Duration::from_secs(3)).await;
                for (partition, before) in staying.iter().zip(before) {
                    let now = first.owners.see(*partition, Seen::next);
                    assert!(
                        now >= before + 100,
                        "partition {partition} stood still: {before}, {now}"
                    );
                }
                assert_eq!(first.owners.draining(), going, "still draining");
                assert_eq!(
                    second.owners.owned(),
                    BTreeSet::new(),
                    "nothing is given away before it is drained"
                );

                first.owners.hold_drains(false);
                until("the second has them", || second.owners.owned() == going).await;
                assert_eq!(first.owners.owned(), staying.iter().copied().collect());
                until("it reads", || {
                    going
                        .iter()
                        .all(|p| second.owners.see(*p, |seen| seen.records.len()) > 100)
                })
                .await;

                let second_owners = second.owners.clone();
                second.source.stop().await.unwrap();
                until("the first has all again", || first.owners.owned().len() == 4).await;
                drop(stop_at_the_end);
                let end = wait_for_writer(&written).await;
                // The second may have read all that there is of one before it gave that back.
                until("everything is read", || {
                    let members = [&first.owners, &second_owners];
                    (0..4).all(|p| members.iter().any(|owners| owners.see(p, Seen::next) >= end))
                })
                .await;
                for partition in 0..4 {
                    check_hands(partition, &[&first.owners, &second_owners]);
                }
                first.source.stop().await.unwrap();
            });
        });
    });
}

struct StopAtTheEnd<'a>(&'a AtomicBool);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What the writer has written once it has stopped.
async fn wait_for_writer(written: &AtomicU64) -> u64 {
    loop {
        let before = written.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if written.load(Ordering::SeqCst) == before {
            return before;
        }
    }
}

/// All ownerships of a partition together took every record once: each went on where the one before had stopped.
fn check_hands(partition: u32, members: &[&Recorder]) {
    let mut by_assignment: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for member in members {
        member.see(partition, |seen| {
            for (assignment, record) in &seen.records {
                by_assignment
                    .entry(*assignment)
                    .or_default()
                    .push(record.offset.0);
            }
        });
    }
    let mut all: Vec<Vec<u64>> = by_assignment.into_values().collect();
    all.sort_by_key(|offsets| offsets[0]);
    let offsets: Vec<u64> = all.concat();
    assert!(
        offsets.iter().copied().eq(0..offsets.len() as u64),
        "partition {partition}: {:?}",
        first_gap(&offsets, 0)
    );
}

/// Whatever librdkafka had fetched, or handed out already, when a partition was taken away or given back: what the owners
/// get of each partition goes on where the owner before stopped, and rises by one.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_rise_and_none_is_missing_while_members_come_and_go_under_load() {
    const PARTITIONS: u32 = 6;
    const ROUNDS: u32 = 3;
    let settings = settings(&broker(), PARTITIONS);
    let stream = prepare(&settings).await.unwrap();
    let positions = Positions::default();
    let stop = AtomicBool::new(false);
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = producer(&settings, &[("compression.type", "lz4")]);
            while !stop.load(Ordering::SeqCst) {
                let from = written.load(Ordering::SeqCst);
                for partition in 0..PARTITIONS {
                    append_with(&writer, &settings, partition, from, 300);
                }
                written.store(from + 300, Ordering::SeqCst);
            }
        });
        let stop_at_the_end = StopAtTheEnd(&stop);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut all = Vec::new();
                let first = start(&settings, &stream, &positions);
                all.push(first.owners.clone());
                for _ in 0..ROUNDS {
                    let others = [(); 2].map(|()| start(&settings, &stream, &positions));
                    until("each has its share", || {
                        let mut members = others.iter().chain([&first]);
                        members.all(|member| member.owners.owned().len() == 2)
                    })
                    .await;
                    until("the others read", || {
                        let read = |member: &Member, partition| {
                            member.owners.see(partition, |seen| seen.records.len() > 500)
                        };
                        others
                            .iter()
                            .all(|member| member.owners.owned().into_iter().all(|it| read(member, it)))
                    })
                    .await;
                    for other in others {
                        all.push(other.owners.clone());
                        other.source.stop().await.unwrap();
                    }
                }
                until("the first has all again", || {
                    first.owners.owned().len() == PARTITIONS as usize
                })
                .await;
                drop(stop_at_the_end);
                let end = wait_for_writer(&written).await;
                until("it has read everything", || {
                    (0..PARTITIONS).all(|p| first.owners.see(p, Seen::caught_up) >= Some(end))
                })
                .await;
                for partition in 0..PARTITIONS {
                    check_hands(partition, &all.iter().collect::<Vec<_>>());
                    // Whoever has read the last one: the first may have it back with nothing left to read.
                    let read_to = all.iter().map(|owners| owners.see(partition, Seen::next)).max();
                    assert_eq!(read_to, Some(end));
                }
                first.source.stop().await.unwrap();
            });
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_refuse_for_a_while_lose_nothing_and_hold_nobody_up() {
    const COUNT: u64 = 50_000;
    let settings = settings(&broker(), 2);
    let stream = prepare(&settings).await.unwrap();
    let positions = Positions::default();
    append(&settings, 0, 0, COUNT);
    let member = start(&settings, &stream, &positions);
    let (owners, stats) = (&member.owners, member.source.stats());
    owners.set_refusing(0, true);
    until("both are owned", || owners.owned().len() == 2).await;
    until("it is paused", || stats.paused.load(Ordering::Relaxed) == 1).await;
    let taken = owners.see(0, Seen::next);
    append(&settings, 1, 0, 1000);
    until("the other goes on", || {
        owners.see(1, Seen::caught_up) == Some(1000)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(owners.see(0, Seen::next), taken);
    owners.set_refusing(0, false);
    until("the end", || owners.see(0, Seen::caught_up) == Some(COUNT)).await;
    assert_eq!(stats.paused.load(Ordering::Relaxed), 0);
    owners.see(0, |seen| check_whole(seen, 0, COUNT));
    owners.see(1, |seen| check_whole(seen, 0, 1000));

    // For less than a second: nothing is paused, and nothing is lost either.
    owners.set_refusing(0, true);
    append(&settings, 0, COUNT, 1000);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stats.paused.load(Ordering::Relaxed), 0);
    owners.set_refusing(0, false);
    until("the end", || owners.see(0, Seen::caught_up) == Some(COUNT + 1000)).await;
    owners.see(0, |seen| check_whole(seen, 0, COUNT + 1000));
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_does_not_fit_is_refused_and_the_others_are_read() {
    let settings = settings(&broker(), 2);
    let stream = prepare(&settings).await.unwrap();
    append(&settings, 0, 0, 10);
    append(&settings, 1, 0, 10);
    let positions = Positions::default();
    positions.set(PartitionId(0), at(&stream, 10));
    let mut member = start(&settings, &stream, &positions);
    let failure = tokio::time::timeout(DEADLINE, member.failures.recv())
        .await
        .unwrap()
        .unwrap();
    let SourceFailure::Refused {
        partition, refusal, ..
    } = &failure
    else {
        panic!("{failure}")
    };
    assert_eq!(
        (*partition, refusal),
        (PartitionId(0), &Refusal::BeyondEnd { next: 11, end: 10 })
    );
    until("the other is read", || {
        member.owners.see(1, Seen::caught_up) == Some(10)
    })
    .await;
    assert_eq!(member.owners.owned(), BTreeSet::from([1]));
    member.source.stop().await.unwrap();

    let other = Positions::default();
    let elsewhere = StreamInfo {
        stream_id: "another cluster/events".into(),
        ..stream.clone()
    };
    other.set(PartitionId(0), at(&elsewhere, 3));
    let mut member = start(&settings, &stream, &other);
    let failure = tokio::time::timeout(DEADLINE, member.failures.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(
            failure,
            SourceFailure::Refused {
                refusal: Refusal::OtherStream { .. },
                ..
            }
        ),
        "{failure}"
    );
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_vanish_before_they_are_read_are_not_skipped() {
    const COUNT: u64 = 30_000;
    let settings = settings(&broker(), 1);
    let stream = prepare(&settings).await.unwrap();
    append(&settings, 0, 0, COUNT);
    let mut member = start(&settings, &stream, &Positions::default());
    let stats = member.source.stats();
    member.owners.set_refusing(0, true);
    until("it is paused", || stats.paused.load(Ordering::Relaxed) == 1).await;
    let admin: AdminClient<_> = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&settings.topic, 0, KafkaOffset::Offset(COUNT as i64 - 10))
        .unwrap();
    admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
    member.owners.set_refusing(0, false);
    let failure = tokio::time::timeout(DEADLINE, member.failures.recv())
        .await
        .unwrap()
        .unwrap();
    let SourceFailure::Refused {
        refusal: Refusal::BeforeStart { next, start },
        ..
    } = failure
    else {
        panic!("{failure}")
    };
    assert_eq!(start, COUNT - 10);
    // What had been read before was taken, and nothing behind the gap.
    member.owners.see(0, |seen| check_whole(seen, 0, next));
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for() {
    let settings = settings(&broker(), 1);
    let stream = prepare(&settings).await.unwrap();
    append(&settings, 0, 0, 10);
    let positions = Positions::default();
    positions.set(PartitionId(0), at(&stream, 4));
    positions.set_away(true);
    let member = start(&settings, &stream, &positions);
    let stats = member.source.stats();
    until("it is assigned", || stats.assigned.load(Ordering::Relaxed) == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(member.owners.owned(), BTreeSet::new());
    positions.set_away(false);
    until("the end", || member.owners.see(0, Seen::caught_up) == Some(10)).await;
    member.owners.see(0, |seen| check_whole(seen, 5, 10));
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_records_are_not_delivered_and_the_end_is_past_the_markers() {
    let settings = settings(&broker(), 1);
    let stream = prepare(&settings).await.unwrap();
    let writer = producer(&settings, &[("transactional.id", "writer-of-markers")]);
    writer.init_transactions(DEADLINE).unwrap();
    for (value, commit) in [("kept", true), ("aborted", false)] {
        writer.begin_transaction().unwrap();
        for _ in 0..3 {
            let record = BaseRecord::to(&settings.topic)
                .partition(0)
                .key("7")
                .payload(value);
            writer.send(record).map_err(|(error, _)| error).unwrap();
        }
        writer.flush(DEADLINE).unwrap();
        if commit {
            writer.commit_transaction(DEADLINE).unwrap();
        } else {
            writer.abort_transaction(DEADLINE).unwrap();
        }
    }
    // Offsets 0 to 2 kept, 3 a marker, 4 to 6 aborted, 7 a marker.
    let positions = Positions::default();
    let member = start(&settings, &stream, &positions);
    until("the end", || member.owners.see(0, Seen::caught_up) == Some(8)).await;
    member.owners.see(0, |seen| {
        assert_eq!(seen.offsets(), [0, 1, 2]);
        assert!(
            seen.records
                .iter()
                .all(|(_, record)| record.value.as_deref() == Some(b"kept"))
        );
    });
    member.source.stop().await.unwrap();

    // The position that was stored is that of the last record; the next owner passes the markers as well.
    assert_eq!(positions.get(PartitionId(0)), Some(at(&stream, 2)));
    let member = start(&settings, &stream, &positions);
    until("the end", || member.owners.see(0, Seen::caught_up) == Some(8)).await;
    assert_eq!(member.owners.see(0, Seen::offsets), Vec::<u64>::new());
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_headers_and_missing_values_come_as_they_are() {
    let settings = settings(&broker(), 1);
    let stream = prepare(&settings).await.unwrap();
    let writer = producer(&settings, &[]);
    let headers = OwnedHeaders::new()
        .insert(Header {
            key: "b",
            value: Some("1"),
        })
        .insert(Header {
            key: "a",
            value: None::<&str>,
        })
        .insert(Header {
            key: "b",
            value: Some(""),
        });
    writer
        .send(
            BaseRecord::<str, str>::to(&settings.topic)
                .partition(0)
                .headers(headers),
        )
        .map_err(|e| e.0)
        .unwrap();
    writer
        .send(BaseRecord::to(&settings.topic).partition(0).key("").payload(""))
        .map_err(|e| e.0)
        .unwrap();
    writer.flush(DEADLINE).unwrap();
    let member = start(&settings, &stream, &Positions::default());
    until("the end", || member.owners.see(0, Seen::caught_up) == Some(2)).await;
    member.owners.see(0, |seen| {
        let bare = &seen.records[0].1;
        assert_eq!((&bare.key, &bare.value), (&None, &None));
        let text = |bytes: &str| Some(bytes::Bytes::copy_from_slice(bytes.as_bytes()));
        assert_eq!(
            bare.headers,
            [
                ("b".into(), text("1")),
                ("a".into(), None),
                ("b".into(), text(""))
            ]
        );
        let empty = &seen.records[1].1;
        assert_eq!((&empty.key, &empty.value), (&text(""), &text("")));
    });
    member.source.stop().await.unwrap();
}

/// Kafka takes any bytes for the name of a header, so one publisher could stop everything by them.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_whose_name_is_no_text_stops_nothing() {
    let settings = settings(&broker(), 1);
    let stream = prepare(&settings).await.unwrap();
    let writer = producer(&settings, &[]);
    send_with_header_name(&writer, &settings.topic, b"a\xff");
    writer.flush(DEADLINE).unwrap();
    append(&settings, 0, 1, 1);
    let member = start(&settings, &stream, &Positions::default());
    until("the end", || member.owners.see(0, Seen::caught_up) == Some(2)).await;
    member.owners.see(0, |seen| {
        let headers = &seen.records[0].1.headers;
        assert_eq!(
            *headers,
            [("a\u{fffd}".into(), Some(bytes::Bytes::from_static(b"1")))]
        );
    });
    member.source.stop().await.unwrap();
}

/// Sends a record to partition 0 that has nothing but a header.
#[expect(unsafe_code, reason = "rdkafka takes only text for the name of a header")]
fn send_with_header_name(writer: &Writer, topic: &str, name: &[u8]) {
    use rdkafka::bindings::rd_kafka_vtype_t as V;
    use rdkafka::bindings::{rd_kafka_header_add, rd_kafka_headers_new, rd_kafka_producev};
    let topic = std::ffi::CString::new(topic).unwrap();
    let length = |bytes: &[u8]| isize::try_from(bytes.len()).unwrap();
    // SAFETY: pointers and lengths belong together; what is sent takes the headers over, and the client lives.
    unsafe {
        let headers = rd_kafka_headers_new(1);
        rd_kafka_header_add(
            headers,
            name.as_ptr().cast(),
            length(name),
            b"1".as_ptr().cast(),
            1,
        );
        let sent = rd_kafka_producev(
            writer.client().native_ptr(),
            V::RD_KAFKA_VTYPE_TOPIC,
            topic.as_ptr(),
            V::RD_KAFKA_VTYPE_PARTITION,
            0_i32,
            V::RD_KAFKA_VTYPE_HEADERS,
            headers,
            V::RD_KAFKA_VTYPE_END,
        );
        assert_eq!(sent as i32, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_expired_is_not_drained() {
    let mut kafka = Kafka::start();
    let settings = settings(&kafka.url(), 2);
    let stream = prepare(&settings).await.unwrap();
    append(&settings, 0, 0, 100);
    let member = start(&settings, &stream, &Positions::default());
    let (owners, stats) = (&member.owners, member.source.stats());
    until("the end", || owners.see(0, Seen::caught_up) == Some(100)).await;
    assert!(stats.is_connected.load(Ordering::Relaxed));
    // Sure of it for less than the session from what the broker has heard last, whatever librdkafka thinks.
    let is_certain = || {
        let confirmed = owners.confirmed_last();
        confirmed.is_some_and(|confirmed| confirmed.until > Instant::now())
    };
    until("it is certain", is_certain).await;
    kafka.pause();
    let until_at_most = Instant::now() + SESSION_TIMEOUT * 9 / 10;
    until("it is in doubt", || !is_certain()).await;
    assert!(
        owners
            .confirmed_last()
            .is_none_or(|last| last.until <= until_at_most)
    );
    until("the session is over", || stats.lost.load(Ordering::Relaxed) == 1).await;
    until("nothing is owned", || owners.owned().is_empty()).await;
    assert_eq!(owners.confirmed_last(), None);
    kafka.resume();
    until("owned again", || owners.owned().len() == 2).await;
    until("it is certain again", is_certain).await;
    until("read again", || owners.see(0, |seen| seen.records.len()) == 200).await;
    owners.see(0, |seen| {
        let assigned: Vec<u64> = seen
            .told
            .iter()
            .filter_map(|told| match told {
                Told::Assign { assignment, .. } => Some(*assignment),
                _ => None,
            })
            .collect();
        assert!(assigned.len() == 2 && assigned[0] < assigned[1], "{assigned:?}");
        assert!(!seen.told.contains(&Told::Drain), "{:?}", seen.told);
    });

    // The end comes all the same when nobody is there to say good-bye to.
    kafka.kill9();
    until("it is noticed", || !stats.is_connected.load(Ordering::Relaxed)).await;
    kafka.restart();
    until("and its return", || stats.is_connected.load(Ordering::Relaxed)).await;
    kafka.kill9();
    let stopping = tokio::time::timeout(DEADLINE, member.source.stop());
    stopping.await.expect("the source ends without a broker").unwrap();
    // A commit may be under way, and the end of this test's runtime waits for it.
    kafka.restart();
}

/// An owner that does not get further is given its partition anew, from the stored position; the others go on. If it
/// stands at the same place again, the process can't go on; if it got further meanwhile, it is given it anew again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stuck_is_read_again_and_then_given_up() {
    let settings = settings(&broker(), 2);
    let stream = prepare(&settings).await.unwrap();
    append(&settings, 0, 0, 50);
    append(&settings, 1, 0, 50);
    let positions = Positions::default();
    positions.set(PartitionId(0), at(&stream, 9));
    let mut member = start(&settings, &stream, &positions);
    let owners = member.owners.clone();
    let all = || owners.see(0, Seen::next) == 50 && owners.see(1, Seen::next) == 50;
    until("both are read", all).await;
    let assignments = || {
        owners.see(0, |seen| {
            let assigned = seen
                .told
                .iter()
                .filter(|told| matches!(told, Told::Assign { .. }));
            assigned.count()
        })
    };
    for (times, applied) in [(2, 20), (3, 21)] {
        owners.set_stuck(0, Some(LogPosition::new(0, Offset(applied))));
        until("it is assigned anew", || assignments() == times).await;
        owners.set_stuck(0, None);
        let again = || owners.see(0, |seen| seen.records.len()) == 40 * times;
        until("it is read again from the stored position", again).await;
    }
    assert!(member.failures.try_recv().is_err());
    owners.set_stuck(0, Some(LogPosition::new(0, Offset(21))));
    let failure = tokio::time::timeout(DEADLINE, member.failures.recv())
        .await
        .unwrap()
        .unwrap();
    let SourceFailure::Stuck {
        partition, applied, ..
    } = &failure
    else {
        panic!("{failure}");
    };
    assert_eq!(
        (*partition, *applied),
        (PartitionId(0), LogPosition::new(0, Offset(21)))
    );
    owners.see(1, |seen| {
        assert_eq!(seen.records.len(), 50, "nothing happened to the other one")
    });
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_member_is_succeeded() {
    let settings = settings(&broker(), 4);
    let stream = prepare(&settings).await.unwrap();
    let positions = Positions::default();
    let survivor = start(&settings, &stream, &positions);
    until("the survivor has all", || survivor.owners.owned().len() == 4).await;
    let mut victim = Victim::start(&settings);
    until("the victim has some", || survivor.owners.owned().len() == 2).await;
    for partition in 0..4 {
        append(&settings, partition, 0, 500);
    }
    victim.0.kill().unwrap();
    victim.0.wait().unwrap();
    until("the survivor has all again", || {
        survivor.owners.owned().len() == 4
    })
    .await;
    until("and reads them", || {
        (0..4).all(|p| survivor.owners.see(p, Seen::caught_up) == Some(500))
    })
    .await;
    for partition in 0..4 {
        survivor.owners.see(partition, |seen| check_whole(seen, 0, 500));
    }
    survivor.source.stop().await.unwrap();
}

const VICTIM: &str = "READSTATES_TEST_VICTIM";

/// A member in a process of its own.
struct Victim(Child);

impl Victim {
    fn start(settings: &KafkaSettings) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "member_to_be_killed", "--ignored", "--nocapture"])
            .env(
                VICTIM,
                format!("{} {} {}", settings.brokers, settings.topic, settings.group),
            )
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Victim(child)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is no test: another one starts and kills it"]
async fn member_to_be_killed() {
    let Ok(victim) = std::env::var(VICTIM) else { return };
    let [brokers, topic, group] = victim.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{victim}")
    };
    let mut settings = settings(brokers, 4);
    settings.topic = topic.to_owned();
    settings.group = group.to_owned();
    let stream = prepare(&settings).await.unwrap();
    let _member = start(&settings, &stream, &Positions::default());
    tokio::time::sleep(DEADLINE * 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_without_time_limit_and_used_as_they_are() {
    let mut settings = settings(&broker(), 5);
    let stream = prepare(&settings).await.unwrap();
    assert_eq!(stream.partition_count, 5);
    assert!(
        stream.stream_id.ends_with(&format!("/{}", settings.topic)),
        "{}",
        stream.stream_id
    );
    let admin: AdminClient<_> = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .create()
        .unwrap();
    for topic in [settings.topic.clone(), settings.dead_letter_topic()] {
        let asked = rdkafka::admin::ResourceSpecifier::Topic(&topic);
        let described = admin
            .describe_configs([&asked], &AdminOptions::new())
            .await
            .unwrap();
        let resource = described.into_iter().next().unwrap().unwrap();
        for name in ["retention.ms", "retention.bytes"] {
            assert_eq!(
                resource.get(name).unwrap().value.as_deref(),
                Some("-1"),
                "{topic} {name}"
            );
        }
    }
    settings.partitions = 9;
    assert_eq!(prepare(&settings).await.unwrap(), stream);

    settings.topic = "two brokers".into();
    let error = prepare(&settings).await.unwrap_err();
    assert!(
        matches!(&error, PrepareError::Misconfigured(what) if what.contains("stream.kafka.topic")),
        "{error}"
    );
    settings.topic = "replicated".into();
    settings.replication = 3;
    let error = prepare(&settings).await.unwrap_err();
    assert!(
        matches!(&error, PrepareError::Misconfigured(what) if what.contains("stream.kafka.replication is 3")),
        "{error}"
    );
    settings.brokers = format!("127.0.0.1:{}", support::servers::free_ports(1)[0]);
    let error = prepare(&settings).await.unwrap_err();
    assert!(
        matches!(&error, PrepareError::Unreachable(what) if what.contains(&settings.brokers)),
        "{error}"
    );
}
