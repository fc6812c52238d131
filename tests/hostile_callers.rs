//! Proves of the program itself, on real servers, that callers who mean harm get an error that the contract names, or no
//! answer at all, and that meanwhile it stays alive, answers others as fast as ever, and does not grow.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod support {
    pub mod callers;
    pub mod fakes;
    pub mod servers;
    pub mod service;
}

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use futures::StreamExt;
use prost::Message;
use readstates::model::ids::PartitionId;
use readstates::query::Subjects;
use readstates::wire::proto::v1;
use tokio::task::block_in_place;

use support::callers::{Caller, code, until};
use support::servers::{Cassandra, Kafka, Nats};
use support::service::{Deployment, Service};

const PARTITIONS: u32 = 2;
/// What a request may have at most, as nats-server comes.
const REQUEST_BYTES_MAX: usize = 1_048_576;
/// What the program may grow by, whatever it is sent: 64 MiB of each kind of request in work, what is being read of them
/// on each core, and what the allocator keeps.
const GROWTH_BYTES_MAX: f64 = 400e6;
/// Of another caller's question, on a busy machine: 2.5 s were seen there in a build without optimization.
const PATIENCE: Duration = Duration::from_secs(5);

fn key(user_id: u64, channel_id: u64) -> v1::Key {
    v1::Key { user_id, channel_id }
}

fn get(keys: Vec<v1::Key>) -> Vec<u8> {
    let request = v1::GetRequest {
        keys,
        ..v1::GetRequest::default()
    };
    request.encode_to_vec()
}

/// Subjects, headers, payload, and the code of the error; none: an answer.
type Case = (String, Vec<(&'static str, &'static str)>, Vec<u8>, Option<u16>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_callers_harm_nobody() {
    let (kafka, cassandra, nats) = block_in_place(|| (Kafka::start(), Cassandra::start(), Nats::start()));
    let deployment = Deployment {
        name: "hostile".to_owned(),
        brokers: kafka.url(),
        nats: nats.url(),
        cassandra: cassandra.url(),
        partitions: PARTITIONS,
        settings: Vec::new(),
    };
    let mut service = block_in_place(|| deployment.serve("it", &[]));
    let client = || async_nats::connect(nats.url());
    let caller = Caller {
        client: client().await.unwrap(),
        subjects: Subjects::new("hostile", &[]),
    };
    let innocent = Caller {
        client: client().await.unwrap(),
        ..caller.clone()
    };
    let started = Instant::now();
    while !innocent
        .is_answered(
            &innocent.subjects.get(),
            &get(vec![key(1, 1), key(1, 2), key(1, 3)]),
        )
        .await
    {
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "{}",
            service.log_tail()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    for (subject, headers, payload, expected) in cases(&caller.subjects) {
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(60)]).into_owned();
        let reply = caller.raw(&subject, &headers, &payload).await;
        assert_eq!(code(&reply), expected, "{subject} {headers:?} {shown}");
        for (_, values) in reply.headers.iter().flat_map(HeaderMap::iter) {
            for value in values {
                assert!(value.as_str().len() < 4096 && !value.as_str().contains(['\r', '\n']));
            }
        }
    }
    let mut twice = HeaderMap::new();
    twice.append("readstates-timeout-ms", "1000");
    twice.append("readstates-timeout-ms", "rubbish");
    let request = async_nats::Request::new().headers(twice).payload("".into());
    let reply = caller.client.send_request(caller.subjects.get(), request).await;
    assert_eq!(code(&reply.unwrap()), None, "the first of two headers counts");
    internal_subjects_take_no_rubbish(&caller).await;
    replies_go_nowhere_else(&caller).await;
    floods_are_bounded(&service, &caller, &innocent).await;
    service.assert_runs();
    assert_eq!(service.complaints(), [""; 0]);
    assert_eq!(block_in_place(|| service.terminate()).code(), Some(0));
}

fn cases(subjects: &Subjects) -> Vec<Case> {
    let (all, one, overview) = (
        subjects.get(),
        subjects.partition_get(PartitionId(1)),
        subjects.overview(),
    );
    let json = vec![("content-type", "application/json")];
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |subjects: &[&String], headers: &[(&'static str, &'static str)], payload: &[u8], code| {
        for subject in subjects {
            cases.push(((*subject).clone(), headers.to_vec(), payload.to_vec(), code));
        }
    };
    let every = [&all, &one, &overview, &subjects.explain(), &subjects.status()];

    // Size and depth.
    for rubbish in [0x00, 0xff, 0x5a] {
        add(&every, &[], &vec![rubbish; REQUEST_BYTES_MAX], Some(400));
    }
    let no_json = format!("{{{}", "#".repeat(REQUEST_BYTES_MAX - 1));
    add(&every, &[], no_json.as_bytes(), Some(400));
    let keys: Vec<_> = (1..=10_000).map(|channel| key(1, channel)).collect();
    add(&[&all, &one], &[], &get(keys), Some(413));
    // An empty key has two bytes.
    add(
        &[&all, &one],
        &[],
        &[0x0a, 0x00].repeat(REQUEST_BYTES_MAX / 2),
        Some(413),
    );
    let many = r#"{"userId":"1","channelId":"1"},"#.repeat(10_000);
    let many = format!(r#"{{"keys":[{}]}}"#, many.trim_end_matches(','));
    add(&[&all, &one], &[], many.as_bytes(), Some(413));
    let empty = format!(r#"{{"keys":[{}{{}}]}}"#, "{},".repeat(340_000));
    add(&[&all, &one], &[], empty.as_bytes(), Some(413));
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let (open, close) = (open.repeat(50_000), close.repeat(50_000));
        for field in ["keys", "unknown", "user_id"] {
            let nested = format!(r#"{{"{field}":{open}1"#);
            add(&every, &[], nested.as_bytes(), Some(400));
            let nested = format!(r#"{{"{field}":{open}1{close}}}"#);
            // What is not known is skipped, however deep it is.
            let known = field == "keys";
            add(&[&all], &[], nested.as_bytes(), known.then_some(400));
        }
        add(&every, &json, format!("{open}{close}").as_bytes(), Some(400));
    }
    // Groups within groups, which no message here has.
    add(&every, &[], &[0x73; 100_000], Some(400));
    add(&every, &json, b"", Some(400));
    add(
        &every,
        &[("content-type", "APPLICATION/Json; x=y")],
        b"[]",
        Some(400),
    );
    add(&[&all], &[("content-type", "Application/JSON")], b" {}", None);
    add(&[&all], &[("Content-Type", "application/json")], b" {}", None);
    add(&[&all], &[("content-type", "text/plain")], b"{}", None);

    // Numbers.
    for (user, channel) in [
        (0, 1),
        (1, 0),
        (1 << 63, 1),
        (1, 1 << 63),
        (u64::MAX, 1),
        (1, u64::MAX),
    ] {
        add(&[&all, &one], &[], &get(vec![key(user, channel)]), Some(400));
        let text = format!(r#"{{"keys":[{{"userId":"{user}","channelId":{channel}}}]}}"#);
        add(&[&all, &one], &[], text.as_bytes(), Some(400));
    }
    for number in [
        "-1",
        "1.5",
        "1e300",
        "\"1.5\"",
        "\"-1\"",
        "18446744073709551616",
        "\"\"",
        "true",
        "[1]",
        "NaN",
    ] {
        let text = format!(r#"{{"keys":[{{"userId":"1","channelId":{number}}}]}}"#);
        add(&[&all], &[], text.as_bytes(), Some(400));
        let text = format!(r#"{{"userId":{number}}}"#);
        add(&[&overview], &[], text.as_bytes(), Some(400));
        let text = format!(r#"{{"after":[{{"partition":{number},"offset":"0"}}]}}"#);
        add(&[&all], &[], text.as_bytes(), Some(400));
    }
    for partition in [PARTITIONS, u32::MAX] {
        let after = vec![v1::Position { partition, offset: 0 }];
        let request = v1::GetRequest {
            after,
            ..v1::GetRequest::default()
        };
        add(&[&all, &one], &[], &request.encode_to_vec(), Some(400));
    }
    for (user_id, limit, after_channel_id, expected) in [
        (1, u32::MAX, 0, None),
        (1, 1, (1 << 63) - 1, None),
        (1, 0, 1 << 63, Some(400)),
        (1, 0, u64::MAX, Some(400)),
        (0, 0, 0, Some(400)),
        (1 << 63, 0, 0, Some(400)),
    ] {
        let request = v1::OverviewRequest {
            user_id,
            limit,
            after_channel_id,
            ..v1::OverviewRequest::default()
        };
        add(&[&overview], &[], &request.encode_to_vec(), expected);
    }
    let text = r#"{"userId":"1","limit":-1}"#;
    add(&[&overview], &[], text.as_bytes(), Some(400));

    // Headers.
    for timeout in [
        "",
        "-1",
        "soon",
        "1.5",
        "2000ms",
        "99999999999999999999999",
        "0x10",
    ] {
        add(&every, &[("readstates-timeout-ms", timeout)], b"", Some(400));
    }
    add(
        &[&all],
        &[("readstates-timeout-ms", "18446744073709551615")],
        b"",
        None,
    );
    // An error must not smuggle lines into its own headers.
    let smuggled = r#"{"keys":"\r\nNats-Service-Error-Code: 200\r\n\r\nhello"}"#;
    add(&[&all], &[], smuggled.as_bytes(), Some(400));
    let raw = "{\"keys\":\r\nNats-Service-Error-Code: 200\r\n\r\n";
    add(&[&all], &[], raw.as_bytes(), Some(400));
    cases
}

/// `schemas/internal.proto`, as somebody would write it who has it.
mod internal {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Stamp {
        #[prost(string, tag = "1")]
        pub process: String,
        #[prost(uint64, tag = "2")]
        pub assignment: u64,
        #[prost(uint64, tag = "3")]
        pub at_ms: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HandOver {
        #[prost(fixed64, tag = "1")]
        pub user_id: u64,
        #[prost(message, optional, tag = "2")]
        pub stamp: Option<Stamp>,
        #[prost(message, repeated, tag = "3")]
        pub rows: Vec<Row>,
        #[prost(fixed64, tag = "4")]
        pub above_channel_id: u64,
        #[prost(fixed64, tag = "5")]
        pub up_to_channel_id: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Row {
        #[prost(fixed64, tag = "1")]
        pub channel_id: u64,
        #[prost(fixed64, tag = "2")]
        pub applied: u64,
        #[prost(fixed64, tag = "3")]
        pub last_read: u64,
    }
}

/// Not even from somebody who has got a stamp.
async fn internal_subjects_take_no_rubbish(caller: &Caller) {
    let subject = |what| format!("hostile.internal.v1.partition.0.{what}");
    for rubbish in [&b""[..], b"{}", b"\xff\xff", &vec![0x5a; REQUEST_BYTES_MAX]] {
        assert_eq!(
            code(&caller.raw(&subject("overview"), &[], rubbish).await),
            Some(400)
        );
        let stamp = caller.raw(&subject("stamp"), &[], rubbish).await;
        assert_eq!(code(&stamp), None);
    }
    let stamp = caller.raw(&subject("stamp"), &[], b"").await;
    let stamp = internal::Stamp::decode(stamp.payload).unwrap();
    assert!(!stamp.process.is_empty());
    let row = |channel_id, applied| internal::Row {
        channel_id,
        applied,
        last_read: u64::MAX,
    };
    for (at_ms, rows, up_to_channel_id) in [
        (u64::MAX, vec![], 100),
        (u64::MAX - 1, vec![], 100),
        (0, vec![], 100),
        (stamp.at_ms, vec![], u64::MAX),
        (stamp.at_ms, vec![row(1, 1), row(2, 1), row(3, 1), row(4, 1)], 100),
        (stamp.at_ms, vec![row(4, u64::MAX), row(1, 1)], 100),
        (stamp.at_ms, vec![row(u64::MAX, 7)], u64::MAX),
    ] {
        let hand_over = internal::HandOver {
            user_id: 1,
            stamp: Some(internal::Stamp {
                at_ms,
                ..stamp.clone()
            }),
            rows,
            above_channel_id: 0,
            up_to_channel_id,
        };
        let reply = caller
            .raw(&subject("overview"), &[], &hand_over.encode_to_vec())
            .await;
        let code = code(&reply);
        assert!(matches!(code, Some(400 | 409)), "{code:?} for {hand_over:?}");
    }
}

/// A reply subject of ours, or of a server, is no inbox: nothing goes there.
async fn replies_go_nowhere_else(caller: &Caller) {
    let client = &caller.client;
    let (get, one) = (
        caller.subjects.get(),
        caller.subjects.partition_get(PartitionId(0)),
    );
    let internal = "hostile.internal.v1.partition.0.stamp".to_owned();
    let asked = [
        &get,
        &one,
        &internal,
        &caller.subjects.overview(),
        &caller.subjects.status(),
    ];
    let mut ours = client.subscribe("hostile.>").await.unwrap();
    let mut servers = client.subscribe("$JS.API.STREAM.DELETE.*").await.unwrap();
    client.flush().await.unwrap();
    let mut sent = 0;
    for subject in asked {
        for reply in [
            &get,
            &one,
            &internal,
            "hostile.x",
            "$JS.API.STREAM.DELETE.message-events",
            "$SRV.PING",
        ] {
            let (subject, reply) = (subject.clone(), reply.to_owned());
            client
                .publish_with_reply(subject, reply, "".into())
                .await
                .unwrap();
            sent += 1;
        }
        client.publish(subject.clone(), "".into()).await.unwrap();
        sent += 1;
    }
    // Discovery is the client library's, and replies to anything; what it says there is a request that nobody would
    // learn the answer of, so it ends there.
    for subject in [
        "$SRV.PING.readstates",
        "$SRV.INFO.readstates",
        "$SRV.STATS.readstates",
    ] {
        client
            .publish_with_reply(subject, get.clone(), "".into())
            .await
            .unwrap();
        sent += 1;
    }
    client.flush().await.unwrap();
    // What comes after has been answered, so what came before has been dealt with.
    for _ in 0..20 {
        assert_eq!(code(&caller.raw(&get, &[], b"").await), None);
        sent += 1;
    }
    let quiet = tokio::time::sleep(Duration::from_millis(500));
    let heard = ours.by_ref().take_until(quiet).count().await;
    assert_eq!(heard, sent, "nothing but what was sent");
    let silence = tokio::time::timeout(Duration::from_millis(100), servers.next()).await;
    assert!(silence.is_err(), "{silence:?}");
}

/// Large requests by the hundred, from several connections at once.
async fn floods_are_bounded(service: &Service, caller: &Caller, innocent: &Caller) {
    const CONNECTIONS: usize = 4;
    const REQUESTS: usize = 300;
    // All together less than what nats-server keeps for a client that reads slowly, 64 MiB as it comes: with 1200 at
    // once the service's connection was lost, and nobody was answered until it was there again.
    const IN_FLIGHT: usize = 8;
    let resident = || block_in_place(|| service.metric("process_resident_memory_bytes", ""));
    let before = resident();
    let payloads = [
        [0x0a, 0x00].repeat(REQUEST_BYTES_MAX / 2),
        format!(r#"{{"keys":[{}{{}}]}}"#, "{},".repeat(100_000)).into_bytes(),
        vec![0xff; REQUEST_BYTES_MAX],
    ];
    let flooding: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (caller, payloads) = (caller.clone(), payloads.clone());
            tokio::spawn(async move {
                let mut refused = 0;
                for payload in &payloads {
                    let subject = caller.subjects.get();
                    let asking = (0..REQUESTS).map(async |_| {
                        let request = async_nats::Request::new().payload(payload.clone().into());
                        let request = request.timeout(Some(Duration::from_secs(20)));
                        caller.client.send_request(subject.clone(), request).await
                    });
                    let replies = futures::stream::iter(asking).buffer_unordered(IN_FLIGHT);
                    for reply in replies.collect::<Vec<_>>().await.into_iter().flatten() {
                        assert!(matches!(code(&reply), Some(400 | 413 | 429)), "{reply:?}");
                        refused += 1;
                    }
                }
                refused
            })
        })
        .collect();
    let (mut peak, mut answered, mut refused, mut slowest) = (before, 0, 0, Duration::ZERO);
    while flooding.iter().any(|flood| !flood.is_finished()) {
        let begun = Instant::now();
        let reply = innocent
            .raw(&innocent.subjects.get(), &[], &get(vec![key(1, 1)]))
            .await;
        slowest = slowest.max(begun.elapsed());
        match code(&reply) {
            None => answered += 1,
            Some(429) => refused += 1,
            other => panic!("{other:?}"),
        }
        peak = peak.max(resident());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut floods = 0;
    for flood in flooding {
        floods += flood.await.unwrap();
    }
    println!(
        "{floods} of {} large requests answered; meanwhile {answered} small ones answered and {refused} refused, the \
         slowest in {slowest:?}; {:.0} MB before, {:.0} MB at most",
        CONNECTIONS * payloads.len() * REQUESTS,
        before / 1e6,
        peak / 1e6
    );
    assert!(floods > 0 && answered > refused, "{answered} {refused}");
    assert!(slowest < PATIENCE, "{slowest:?}");
    assert!(peak - before < GROWTH_BYTES_MAX, "{before} {peak}");
    until(async || {
        innocent
            .is_answered(&innocent.subjects.get(), &get(vec![key(1, 1)]))
            .await
    })
    .await;
}
