//! Proves, on a real nats-server, what the JetStream source promises the owners of partitions: every record in order and
//! once in each ownership, ends and lags by partition although sequences are shared, and nothing skipped silently.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context};
use futures::StreamExt;
use readstates::model::ids::{LogPosition, Offset, PartitionId};
use readstates::source::failure::{PrepareError, SourceFailure, StreamInfo};
use readstates::source::jetstream::dead_letters::DeadLetters;
use readstates::source::jetstream::{JetStreamSettings, JetStreamSource, prepare};
use readstates::source::{DeadLetter, RawRecord};
use readstates::store::StoredPosition;
use support::owners::{DEADLINE, Positions, Recorder, Seen, Told, at, identity, until};
use support::servers::Nats;
use tokio::sync::mpsc;

fn server() -> String {
    static SERVER: OnceLock<Nats> = OnceLock::new();
    SERVER.get_or_init(Nats::start).url()
}

/// A stream of its own for each test.
async fn settings(url: &str, partitions: u32) -> JetStreamSettings {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    JetStreamSettings {
        client: async_nats::connect(url).await.unwrap(),
        stream: format!("events-{}", COUNT.fetch_add(1, Ordering::Relaxed)),
        partitions,
        replicas: 1,
        epoch: 0,
    }
}

struct Member {
    owners: Recorder,
    source: JetStreamSource,
    failures: mpsc::Receiver<SourceFailure>,
}

fn start(settings: &JetStreamSettings, stream: &StreamInfo, positions: &Positions) -> Member {
    let owners = Recorder::new(positions, identity(stream));
    let (source, failures) = JetStreamSource::start(settings, stream, owners.clone(), positions.clone());
    Member {
        owners,
        source,
        failures,
    }
}

fn context(settings: &JetStreamSettings) -> Context {
    jetstream::new(settings.client.clone())
}

/// Publishes records into these partitions, in turn; each value names its partition and its place in it. Returns the
/// sequences of each partition.
async fn append(settings: &JetStreamSettings, partitions: &[u32], count: u64) -> Vec<Vec<u64>> {
    let context = context(settings);
    let mut waiting = Vec::new();
    for number in 0..count {
        for partition in partitions {
            let subject = settings.subject(PartitionId(*partition));
            let value = format!("{partition}:{number}");
            waiting.push(context.publish(subject, value.into()).await.unwrap());
        }
        if waiting.len() > 1000 {
            append_wait(&mut waiting).await;
        }
    }
    append_wait(&mut waiting).await;
    let stream = context.get_stream(&settings.stream).await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let each = partitions.len() as u64;
    let first = last + 1 - count * each;
    (0..each)
        .map(|index| (0..count).map(|number| first + number * each + index).collect())
        .collect()
}

async fn append_wait(waiting: &mut Vec<jetstream::context::PublishAckFuture>) {
    for acknowledgement in waiting.drain(..) {
        acknowledgement.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_comes_once_in_order_and_the_end_is_told() {
    const COUNT: u64 = 5_000;
    let settings = settings(&server(), 4).await;
    let stream = prepare(&settings).await.unwrap();
    assert_eq!(stream.partition_count, 4);
    let sequences = append(&settings, &[0, 1], COUNT).await;
    let last = 2 * COUNT;
    let positions = Positions::default();
    let stored = sequences[1][99];
    positions.set(PartitionId(1), at(&stream, stored));
    // One that was quiet since: its position is that of another partition's record.
    positions.set(PartitionId(2), at(&stream, 17));
    let mut member = start(&settings, &stream, &positions);
    let owners = &member.owners;
    until("the ends", || {
        owners.see(0, Seen::caught_up) == Some(last + 1)
            && owners.see(1, Seen::caught_up) == Some(last + 1)
            && owners.see(2, Seen::caught_up) == Some(last + 1)
            && owners.see(3, Seen::caught_up) == Some(0)
    })
    .await;
    owners.see(0, |seen| {
        assert_eq!(seen.offsets(), sequences[0]);
        let Told::Assign { durable, live_at, .. } = &seen.told[0] else {
            panic!("{:?}", seen.told)
        };
        assert_eq!((*durable, *live_at), (LogPosition::start(0), last));
        let record = &seen.records[5].1;
        assert_eq!(record.value.as_deref(), Some(&b"0:5"[..]));
        assert_eq!(record.key, None);
        assert!(record.timestamp_ms.unwrap() > 1_500_000_000_000 && record.headers.is_empty());
        assert_eq!((seen.end, seen.beyond), (Some(last), Some(0)));
    });
    owners.see(1, |seen| assert_eq!(seen.offsets(), sequences[1][100..]));

    // What is published now moves its own partition, and the quiet ones that have a position after it.
    let mut headers = HeaderMap::new();
    headers.insert("key", "7");
    let context = context(&settings);
    let published = context.publish_with_headers(settings.subject(PartitionId(3)), headers, "3:0".into());
    let sequence = published.await.unwrap().await.unwrap().sequence;
    until("the new end", || {
        (0..4).all(|p| owners.see(p, Seen::caught_up) == Some(sequence + 1))
    })
    .await;
    owners.see(3, |seen| {
        assert_eq!(seen.offsets(), [sequence]);
        assert_eq!(seen.records[0].1.key.as_deref(), Some(&b"7"[..]));
    });
    assert!(owners.confirmed_last().unwrap().until > Instant::now());

    let owners = member.owners.clone();
    assert!(member.failures.try_recv().is_err());
    member.source.stop().await.unwrap();
    for partition in 0..4 {
        owners.see(partition, |seen| {
            assert_eq!(seen.told[seen.told.len() - 2..], [Told::Drain, Told::Forget]);
            assert!(!seen.owned());
        });
    }
    assert_eq!(owners.confirmed_last(), None, "nothing is owned any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_counts_the_records_of_the_partition_only() {
    let settings = settings(&server(), 2).await;
    let stream = prepare(&settings).await.unwrap();
    append(&settings, &[0, 1], 300).await;
    let positions = Positions::default();
    let owners = Recorder::new(&positions, identity(&stream));
    owners.set_refusing(0, true);
    let (source, _failures) = JetStreamSource::start(&settings, &stream, owners.clone(), positions);
    until("one partition has all, the other is paused", || {
        owners.see(1, |seen| seen.beyond) == Some(0) && source.stats().paused.load(Ordering::Relaxed) == 1
    })
    .await;
    assert!(owners.see(0, |seen| seen.records.is_empty()));
    owners.set_refusing(0, false);
    until("the other has all too", || {
        owners.see(0, |seen| seen.records.len() == 300 && seen.beyond == Some(0))
    })
    .await;
    let told = owners.see(0, |seen| seen.beyonds.clone());
    // The sequences of 300 records span 600: what is told never exceeds what there is, also while it is paused.
    assert!(
        told[0] == 300 && told[1] >= 300 - 64 && told.is_sorted_by(|a, b| a >= b),
        "{told:?}"
    );
    until("it is not paused", || {
        source.stats().paused.load(Ordering::Relaxed) == 0
    })
    .await;
    source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_read_on_from_where_it_was() {
    let mut server = Nats::start_with(&["sync_interval=always"]);
    let settings = settings(&server.url(), 2).await;
    let stream = prepare(&settings).await.unwrap();
    append(&settings, &[0, 1], 500).await;
    let positions = Positions::default();
    let mut member = start(&settings, &stream, &positions);
    let owners = member.owners.clone();
    until("all", || {
        (0..2).all(|p| owners.see(p, |seen| seen.records.len() == 500))
    })
    .await;
    tokio::task::block_in_place(|| {
        server.kill9();
        server.restart();
    });
    until("the client is back", || {
        settings.client.connection_state() == async_nats::connection::State::Connected
    })
    .await;
    append(&settings, &[0, 1], 500).await;
    until("the rest", || {
        (0..2).all(|p| {
            owners.see(p, |seen| {
                seen.owned()
                    && seen
                        .records
                        .last()
                        .is_some_and(|(_, record)| record.offset.0 > 1998)
            })
        })
    })
    .await;
    for partition in 0..2 {
        owners.see(partition, |seen| {
            let assignment = seen.records.last().unwrap().0;
            let of_last = seen.records.iter().filter(|(of, _)| *of == assignment);
            let offsets: Vec<u64> = of_last.map(|(_, record)| record.offset.0).collect();
            // Whether it kept the lease or took it again, nothing is missing and nothing comes twice.
            assert!(
                offsets.windows(2).all(|pair| pair[1] == pair[0] + 2),
                "{offsets:?}"
            );
            assert_eq!(*offsets.last().unwrap(), 1999 + u64::from(partition));
        });
    }
    assert!(member.failures.try_recv().is_err());
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owns_all_partitions_and_the_next_takes_over_at_once_where_it_ends() {
    let settings = settings(&server(), 3).await;
    let stream = prepare(&settings).await.unwrap();
    append(&settings, &[0, 1, 2], 10).await;
    let positions = Positions::default();
    let first = start(&settings, &stream, &positions);
    until("the first has all", || first.owners.owned().len() == 3).await;
    let bucket = context(&settings).get_key_value(settings.lease_bucket()).await;
    let ttl = bucket.unwrap().stream.cached_info().config.max_age;
    let confirmed = first.owners.confirmed_last().unwrap();
    assert!(
        confirmed.at <= Instant::now() && confirmed.until < confirmed.at + ttl,
        "whoever has the lease is in doubt before it can pass to another"
    );
    let second = start(&settings, &stream, &positions);
    until("the first has read all", || {
        (0..3).all(|p| first.owners.see(p, |seen| seen.records.len() == 10))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(second.owners.owned().is_empty() && second.owners.confirmed_last().is_none());
    let owners = first.owners.clone();
    first.source.stop().await.unwrap();
    let stopped = Instant::now();
    assert!(owners.owned().is_empty());
    until("the second has all", || second.owners.owned().len() == 3).await;
    // Well below the life of the lease.
    assert!(
        stopped.elapsed() < Duration::from_secs(2),
        "{:?}",
        stopped.elapsed()
    );
    append(&settings, &[0, 1, 2], 10).await;
    until("only what is new comes", || {
        (0..3).all(|p| second.owners.see(p, |seen| seen.records.len() == 10))
    })
    .await;
    second.source.stop().await.unwrap();
}

/// What the source says when it starts with this position in partition 0.
async fn refusal(settings: &JetStreamSettings, stream: &StreamInfo, stored: StoredPosition) -> String {
    let positions = Positions::default();
    positions.set(PartitionId(0), stored);
    let mut member = start(settings, stream, &positions);
    let failure = tokio::time::timeout(DEADLINE, member.failures.recv()).await;
    let failure = failure.unwrap().unwrap();
    assert!(!member.owners.see(0, Seen::owned));
    member.source.stop().await.unwrap();
    failure.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_does_not_fit_is_refused_with_what_to_do() {
    let settings = settings(&server(), 1).await;
    let stream = prepare(&settings).await.unwrap();
    append(&settings, &[0], 20).await;
    let said = refusal(&settings, &stream, at(&stream, 21)).await;
    assert!(
        said.contains("below sequence 22") && said.contains("ends at 21") && said.contains("stream.epoch"),
        "{said}"
    );
    let raw = context(&settings).get_stream(&settings.stream).await.unwrap();
    raw.purge().sequence(10).await.unwrap();
    let said = refusal(&settings, &stream, at(&stream, 8)).await;
    assert!(
        said.contains("sequence 9 comes next") && said.contains("begins at 10"),
        "{said}"
    );
    let mut other = at(&stream, 15);
    other.stream.stream_id = "another/1".to_owned();
    let said = refusal(&settings, &stream, other).await;
    assert!(
        said.contains("another/1") && said.contains("stream.epoch"),
        "{said}"
    );
    let mut other = at(&stream, 15);
    other.stream.partition_count = 2;
    let said = refusal(&settings, &stream, other).await;
    assert!(said.contains("had 2 partitions"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_replaced_under_it_is_refused() {
    let settings = settings(&server(), 1).await;
    let stream = prepare(&settings).await.unwrap();
    append(&settings, &[0], 5).await;
    let mut member = start(&settings, &stream, &Positions::default());
    let owners = member.owners.clone();
    until("all", || owners.see(0, |seen| seen.records.len() == 5)).await;
    context(&settings).delete_stream(&settings.stream).await.unwrap();
    let replaced = prepare(&settings).await.unwrap();
    assert_ne!(replaced.stream_id, stream.stream_id);
    append(&settings, &[0], 9).await;
    let failure = tokio::time::timeout(DEADLINE, member.failures.recv()).await;
    let said = failure.unwrap().unwrap().to_string();
    assert!(
        said.contains("made anew") && said.contains("stream.epoch"),
        "{said}"
    );
    assert_eq!(
        owners.see(0, |seen| seen.records.len()),
        5,
        "nothing of the other stream"
    );
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_created_and_what_does_not_fit_is_refused() {
    let mut settings = settings(&server(), 3).await;
    let stream = prepare(&settings).await.unwrap();
    let context = context(&settings);
    for name in [settings.stream.clone(), settings.dead_letter_stream()] {
        let made = context.get_stream(&name).await.unwrap();
        let config = &made.cached_info().config;
        assert_eq!(config.subjects, [format!("{name}.>")]);
        assert_eq!(config.storage, StorageType::File);
        assert_eq!(
            (config.max_age, config.max_messages, config.max_bytes),
            (Duration::ZERO, -1, -1),
            "replay needs every record"
        );
    }
    assert_eq!(prepare(&settings).await.unwrap(), stream, "used as it is");

    settings.partitions = 4;
    let refused = prepare(&settings).await.unwrap_err();
    let PrepareError::Misconfigured(said) = refused else {
        panic!("{refused}")
    };
    assert!(
        said.contains("3 partitions") && said.contains("stream.epoch"),
        "{said}"
    );

    settings.stream = format!("{}-other", settings.stream);
    let config = Config {
        name: settings.stream.clone(),
        subjects: vec!["elsewhere.>".to_owned()],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let refused = prepare(&settings).await.unwrap_err();
    assert!(
        matches!(&refused, PrepareError::Misconfigured(said) if said.contains("elsewhere.>")),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_say_what_they_were_and_are_cut_where_they_are_too_large() {
    let settings = settings(&server(), 2).await;
    prepare(&settings).await.unwrap();
    let letters = DeadLetters::new(&settings);
    let all = format!("{}.>", settings.dead_letter_stream());
    let mut delivered = settings.client.subscribe(all).await.unwrap();
    let own = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned().into()));
    let letter = |offset, value: Vec<u8>| DeadLetter {
        partition: PartitionId(1),
        record: RawRecord {
            offset: Offset(offset),
            timestamp_ms: Some(1),
            key: Some("7".into()),
            value: Some(value.into()),
            // The last two would have the server refuse or drop it.
            headers: vec![
                own("key", "7"),
                own("twice", "a"),
                own("twice", "b"),
                own("Nats-Expected-Stream", "other"),
                own("Nats-Msg-Id", "same"),
            ],
        },
        reason: "invalid",
        detail: String::new(),
    };
    let large: Vec<u8> = (0..2_000_000_u32).map(|byte| byte as u8).collect();
    letters.send(letter(4, b"it".to_vec())).await;
    letters.send(letter(5, large.clone())).await;
    let raw = context(&settings)
        .get_stream(settings.dead_letter_stream())
        .await
        .unwrap();
    for (sequence, offset) in [(1, "4"), (2, "5")] {
        let found = raw.get_raw_message(sequence).await.unwrap();
        assert_eq!(
            found.subject.as_str(),
            format!("{}.1", settings.dead_letter_stream())
        );
        let header = |name: &str| found.headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(header("readstates-reason").as_deref(), Some("invalid"));
        assert_eq!(header("readstates-source-partition").as_deref(), Some("1"));
        assert_eq!(header("readstates-source-offset").as_deref(), Some(offset));
        assert_eq!(header("key").as_deref(), Some("7"));
        assert_eq!(header("readstates-source-Nats-Msg-Id").as_deref(), Some("same"));
        // The answer to a question for a single message has but one value of a header.
        let delivered = delivered.next().await.unwrap();
        let twice = delivered.headers.as_ref().unwrap().get_all("twice");
        assert_eq!(twice.map(|value| value.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        if sequence == 1 {
            assert_eq!(
                (&found.payload[..], header("readstates-truncated")),
                (&b"it"[..], None)
            );
        } else {
            assert_eq!(header("readstates-truncated").as_deref(), Some("true"));
            assert!(found.payload.len() >= 250_000 && large.starts_with(&found.payload));
        }
    }
}
