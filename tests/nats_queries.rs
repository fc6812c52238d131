//! Questions over a real nats-server, with partitions and a store whose answers are known: section 3 of the contract.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod support {
    pub mod callers;
    pub mod fakes;
    pub mod servers;
}

use std::time::{Duration, Instant};

use readstates::model::ids::{MAX_ID, Offset, PartitionId, ReadStateKey};
use readstates::partition::io::Failure;
use readstates::wire::proto::v1;
use readstates::wire::query::read_state;

use support::callers::{Deployment, code, until};
use support::fakes::{PARTITIONS, World, channel_in, key, partition};

fn get(keys: impl IntoIterator<Item = ReadStateKey>) -> v1::GetRequest {
    v1::GetRequest {
        keys: keys.into_iter().map(v1::Key::from).collect(),
        ..v1::GetRequest::default()
    }
}

fn after(partition: PartitionId, offset: u64) -> v1::Position {
    v1::Position {
        partition: partition.0,
        offset,
    }
}

fn encoded(message: &impl prost::Message) -> Vec<u8> {
    message.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_over_two_instances_answers_each_key_in_order_in_both_forms() {
    let Deployment {
        world,
        instances: _instances,
        caller,
        ..
    } = Deployment::start("order", 2).await;
    let keys: Vec<_> = (1..=200)
        .rev()
        .map(|channel| key(channel % 5 + 1, channel))
        .collect();
    for key in &keys {
        world.put(World::answer(*key));
    }
    // Asked for twice, and one that nobody has heard of.
    let keys: Vec<_> = keys.iter().copied().chain([keys[3], key(9, 999)]).collect();
    let expected: Vec<_> = keys
        .iter()
        .map(|asked| {
            let mut answer = World::answer(*asked);
            if asked.user.0 == 9 {
                answer = readstates::partition::io::Answer {
                    key: *asked,
                    ..Default::default()
                };
            }
            read_state(&answer, partition(asked.channel.0))
        })
        .collect();
    // Often enough that both instances are asked, and each has to ask the other.
    for _ in 0..20 {
        assert_eq!(caller.get(&get(keys.clone())).await.unwrap(), expected);
        let json: v1::GetReply = caller
            .ask_json(&caller.subjects.get(), &get(keys.clone()))
            .await
            .unwrap();
        assert_eq!(json.read_states, expected);
    }
}

/// Whichever instance is asked, the owner explains: the same numbers as `get` gives, what they are made of, and where
/// each row stands, for people and for programs.
#[tokio::test(flavor = "multi_thread")]
async fn explain_says_how_an_answer_comes_about() {
    let Deployment {
        world,
        instances,
        caller,
        ..
    } = Deployment::start("explain", 2).await;
    for partition in [0, 1].map(PartitionId) {
        let asked = key(7, channel_in(partition));
        world.put(World::answer(asked));
        let subject = caller.subjects.explain();
        let request = v1::Key::from(asked);
        let reply: v1::ExplainReply = caller.ask(&subject, &request).await.unwrap();
        let in_json: v1::ExplainReply = caller.ask_json(&subject, &request).await.unwrap();
        assert_eq!(reply, in_json);
        let numbers = caller.get(&get([asked])).await.unwrap();
        assert_eq!(reply.read_state, numbers.first().cloned());
        for (name, value) in [
            ("partition", partition.to_string()),
            ("instance", format!("instance-{partition}")),
            ("read_state.source", "store".to_owned()),
            ("read_state.applied_offset", "3".to_owned()),
            ("read_state.age_seconds", "1.500".to_owned()),
            ("channel.source", "memory".to_owned()),
            ("channel.applied_offset", "5".to_owned()),
            ("counted.messages_after_last_read", "5".to_owned()),
            ("partition.durable_offset", "2".to_owned()),
        ] {
            assert_eq!(reply.facts.get(name), Some(&value), "{name}");
        }
        let lines = reply.lines.join("\n");
        for part in [
            format!(
                "User 7 in channel {}: {} unread",
                asked.channel, numbers[0].unread_count
            ),
            format!("right after record 5 of partition {partition}"),
            "5 messages above 4 that are not deleted, without 1 by the user".to_owned(),
            "by name 1 in all: 6.".to_owned(),
            "last changed by record 3; as the store has it, read or written 1.5 s ago".to_owned(),
            "last changed by record 5; changed 0.7 s ago and not in the store yet".to_owned(),
        ] {
            assert!(lines.contains(&part), "{part:?} is not in\n{lines}");
        }
    }
    let subject = caller.subjects.explain();
    let nobody: Result<v1::ExplainReply, u16> = caller.ask(&subject, &v1::Key::default()).await;
    assert_eq!(nobody, Err(400));
    instances[0].partitions.lose(PartitionId(0));
    let request = prost::Message::encode_to_vec(&v1::Key::from(key(7, channel_in(PartitionId(0)))));
    let reply = caller
        .raw(&subject, &[("readstates-timeout-ms", "300")], &request)
        .await;
    assert_eq!(code(&reply), Some(503));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_answered_in_json_with_default_values() {
    let Deployment {
        world,
        instances: _instances,
        caller,
        ..
    } = Deployment::start("json", 2).await;
    world.put(readstates::partition::io::Answer {
        key: key(1, 2),
        exists: true,
        ..Default::default()
    });
    let json = ("content-type", "application/json");
    let request = br#"{"keys":[{"userId":"1","channel_id":2}]}"#;
    let spaced = br#"  {"keys":[{"userId":1,"channelId":"2"}],"future":[]}"#;
    let as_http_writes_it = ("Content-Type", "application/json; charset=utf-8");
    for (headers, request) in [
        (&[][..], &request[..]),
        (&[json][..], &spaced[..]),
        (&[as_http_writes_it][..], &spaced[..]),
    ] {
        let reply = caller.raw(&caller.subjects.get(), headers, request).await;
        assert_eq!(
            reply.headers.unwrap().get("content-type").unwrap().as_str(),
            "application/json"
        );
        let reply: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
        let expected = serde_json::json!({"readStates": [{
            "userId": "1", "channelId": "2", "lastReadMessageId": "0", "lastMessageId": "0", "unreadCount": 0,
            "unreadCountCapped": false, "mentionCount": 0, "directMentionCount": 0, "mentionCountCapped": false,
            "membership": "MEMBERSHIP_UNSPECIFIED", "unavailable": false,
        }]});
        assert_eq!(reply, expected);
    }
    let empty = caller.raw(&caller.subjects.get(), &[], b"{}").await;
    assert_eq!(&empty.payload[..], br#"{"readStates":[]}"#);
    let overview = caller
        .raw(&caller.subjects.overview(), &[], br#"{"userId":"1"}"#)
        .await;
    let overview: serde_json::Value = serde_json::from_slice(&overview.payload).unwrap();
    assert_eq!(overview["readStates"][0]["channelId"], "2");
    assert_eq!(
        (&overview["more"], &overview["missingPartitions"]),
        (&false.into(), &serde_json::json!([]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_has_its_code() {
    let Deployment {
        instances: _instances,
        caller,
        ..
    } = Deployment::start("codes", 2).await;
    let subjects = &caller.subjects;
    let (three, channel) = (PartitionId(3), channel_in(PartitionId(3)));
    let (any, one, overview) = (subjects.get(), subjects.partition_get(three), subjects.overview());
    let keys = |keys: &[(u64, u64)]| encoded(&get(keys.iter().map(|(user, channel)| key(*user, *channel))));
    let positions = |partition| {
        encoded(&v1::GetRequest {
            after: vec![after(PartitionId(partition), 1)],
            ..Default::default()
        })
    };
    let rows = |user_id, after_channel_id| {
        encoded(&v1::OverviewRequest {
            user_id,
            after_channel_id,
            ..Default::default()
        })
    };
    let many: Vec<_> = (1..=10_000).map(|user| (user, channel)).collect();
    let megabyte = vec![0xa5; 1_000_000];
    let cases: Vec<(&str, &str, Vec<u8>, Option<u16>)> = vec![
        ("no keys", &any, Vec::new(), None),
        ("no keys", &one, Vec::new(), None),
        ("as many keys as allowed", &any, keys(&many[..1000]), None),
        ("the largest ids", &any, keys(&[(MAX_ID, MAX_ID)]), None),
        ("one key too many", &any, keys(&many[..1001]), Some(413)),
        ("10,000 keys", &any, keys(&many), Some(413)),
        ("10,000 keys", &one, keys(&many), Some(413)),
        ("user 0", &any, keys(&[(1, channel), (0, channel)]), Some(400)),
        ("channel 0", &any, keys(&[(1, 0)]), Some(400)),
        ("user 2^63", &any, keys(&[(1 << 63, channel)]), Some(400)),
        ("channel 2^63", &one, keys(&[(1, 1 << 63)]), Some(400)),
        ("user 0", &one, keys(&[(0, channel)]), Some(400)),
        (
            "a key of another partition",
            &one,
            keys(&[(1, channel), (1, channel_in(PartitionId(4)))]),
            Some(400),
        ),
        (
            "a position of no partition",
            &any,
            positions(PARTITIONS),
            Some(400),
        ),
        (
            "a position of no partition",
            &one,
            positions(PARTITIONS),
            Some(400),
        ),
        ("a megabyte of garbage", &any, megabyte.clone(), Some(400)),
        ("a megabyte of garbage", &overview, megabyte.clone(), Some(400)),
        ("a megabyte of garbage", &one, megabyte, Some(400)),
        ("half a key", &any, vec![0x0a, 0x12, 0x09], Some(400)),
        ("JSON that is none", &any, br#"{"keys":[}"#.to_vec(), Some(400)),
        (
            "JSON of something else",
            &any,
            br#"{"keys":7}"#.to_vec(),
            Some(400),
        ),
        (
            "JSON, deep",
            &any,
            [br#"{"x":"#.as_slice(), &vec![b'['; 100_000]].concat(),
            Some(400),
        ),
        ("user 0", &overview, rows(0, 0), Some(400)),
        ("user 2^63", &overview, rows(1 << 63, 0), Some(400)),
        ("channel 2^63", &overview, rows(1, 1 << 63), Some(400)),
        ("a user without channels", &overview, rows(MAX_ID, MAX_ID), None),
    ];
    for (what, subject, payload, expected) in cases {
        let reply = caller.raw(subject, &[], &payload).await;
        assert_eq!(code(&reply), expected, "{what} on {subject}: {:?}", reply.headers);
    }
    for garbage in ["", "soon", "-5", "1e3"] {
        let reply = caller.raw(&any, &[("readstates-timeout-ms", garbage)], b"").await;
        assert_eq!(code(&reply), Some(400), "{garbage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_a_key_fails_the_whole_unless_partial() {
    let Deployment {
        world,
        instances: _instances,
        caller,
        ..
    } = Deployment::start("failures", 2).await;
    let keys: Vec<_> = (1..=40).map(|channel| key(1, channel)).collect();
    for key in &keys {
        world.put(World::answer(*key));
    }
    let bad = keys[17];
    for (failure, expected) in [
        (Failure::StoreUnavailable, 503),
        (Failure::Overloaded, 429),
        (Failure::TimedOut, 504),
    ] {
        world.fail(bad, Some(failure));
        let begun = Instant::now();
        for _ in 0..6 {
            assert_eq!(caller.get(&get(keys.clone())).await, Err(expected));
        }
        if expected == 503 {
            // The owner is there and has said so: asking on would help nobody.
            assert!(begun.elapsed() < Duration::from_secs(1));
        }
        for _ in 0..6 {
            let request = v1::GetRequest {
                partial: true,
                ..get(keys.clone())
            };
            for (key, read_state) in keys.iter().zip(caller.get(&request).await.unwrap()) {
                assert_eq!(read_state.unavailable, *key == bad);
                assert_eq!(
                    (read_state.user_id, read_state.channel_id),
                    (key.user.0, key.channel.0)
                );
                assert_eq!(
                    read_state.unread_count,
                    if *key == bad {
                        0
                    } else {
                        World::answer(*key).unread
                    }
                );
            }
        }
    }
    world.fail(bad, None);
    world.overload(partition(bad.channel.0));
    assert_eq!(caller.get(&get(keys.clone())).await, Err(429));
    let request = v1::GetRequest {
        partial: true,
        ..get(keys.clone())
    };
    let unavailable = caller
        .get(&request)
        .await
        .unwrap()
        .iter()
        .filter(|read_state| read_state.unavailable)
        .count();
    assert_eq!(
        unavailable,
        keys.iter()
            .filter(|key| partition(key.channel.0) == partition(17 + 1))
            .count()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_positions_asked_for() {
    let Deployment {
        world,
        instances: _instances,
        caller,
        ..
    } = Deployment::start("after", 2).await;
    let (three, four) = (PartitionId(3), PartitionId(4));
    let asked = key(1, channel_in(three));
    world.put(World::answer(asked));
    world.apply(three, Offset(10));
    let request = |offset, elsewhere| v1::GetRequest {
        after: vec![after(three, offset), after(three, 0), after(four, elsewhere)],
        ..get([asked])
    };
    let on_partition = caller.subjects.partition_get(three);
    // Partition 4 has applied nothing, which matters on the subject for all only.
    let there: v1::GetReply = caller.ask(&on_partition, &request(10, 0)).await.unwrap();
    assert_eq!(there.read_states.len(), 1);
    let quick = [("readstates-timeout-ms", "200")];
    for impossible in [11, u64::MAX] {
        let begun = Instant::now();
        let reply = caller
            .raw(&on_partition, &quick, &encoded(&request(impossible, 0)))
            .await;
        assert_eq!(code(&reply), Some(504));
        assert!(
            (190..1500).contains(&begun.elapsed().as_millis()),
            "{:?}",
            begun.elapsed()
        );
    }
    for _ in 0..4 {
        let reply = caller
            .raw(&caller.subjects.get(), &quick, &encoded(&request(10, 0)))
            .await;
        assert_eq!(code(&reply), Some(504));
        let partial = v1::GetRequest {
            partial: true,
            ..request(10, 0)
        };
        let reply = caller
            .raw(&caller.subjects.get(), &quick, &encoded(&partial))
            .await;
        assert_eq!(code(&reply), None);
    }
    // One that waits longer than a question that got lost would be waited for, here and elsewhere.
    for offset in 11..15 {
        let request = v1::GetRequest {
            partial: true,
            ..request(offset, 0)
        };
        let asking = tokio::spawn({
            let caller = caller.clone();
            async move {
                caller
                    .ask::<_, v1::GetReply>(&caller.subjects.get(), &request)
                    .await
            }
        });
        world.apply(four, Offset(0));
        tokio::time::sleep(Duration::from_millis(400)).await;
        world.apply(three, Offset(offset));
        assert!(!asking.await.unwrap().unwrap().read_states[0].unavailable);
    }
    world.apply(three, Offset(10));
    // Even a request without keys waits.
    for without_keys in [true, false] {
        for attempt in 0..4 {
            let offset = 20 + attempt + if without_keys { 10 } else { 0 };
            let mut request = request(10, offset);
            if without_keys {
                request.keys.clear();
            }
            let asking = tokio::spawn({
                let caller = caller.clone();
                async move { caller.get(&request).await }
            });
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert!(!asking.is_finished());
            world.apply(four, Offset(offset));
            assert_eq!(asking.await.unwrap().unwrap().len(), usize::from(!without_keys));
        }
        world.apply(four, Offset(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moves_is_found_again_and_never_answers_wrongly() {
    let Deployment {
        world,
        instances,
        caller,
        ..
    } = Deployment::start("moving", 2).await;
    let keys: Vec<_> = (0..PARTITIONS)
        .map(|n| key(1, channel_in(PartitionId(n))))
        .collect();
    for key in &keys {
        world.put(World::answer(*key));
    }
    let stop = tokio::sync::watch::Sender::new(false);
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let (caller, keys, stop) = (caller.clone(), keys.clone(), stop.subscribe());
            tokio::spawn(async move {
                let (mut answered, mut slowest) = (0, Duration::ZERO);
                while !*stop.borrow() {
                    let begun = Instant::now();
                    let read_states = caller
                        .get(&get(keys.clone()))
                        .await
                        .expect("an answer while partitions move");
                    slowest = slowest.max(begun.elapsed());
                    for (key, read_state) in keys.iter().zip(read_states) {
                        assert_eq!(read_state.unread_count, World::answer(*key).unread);
                    }
                    answered += 1;
                }
                (answered, slowest)
            })
        })
        .collect();
    for round in 0..60 {
        let moving = PartitionId(round % PARTITIONS);
        let here = usize::from(!instances[0].partitions.live.borrow().contains(&moving));
        instances[here].partitions.lose(moving);
        tokio::time::sleep(Duration::from_millis(u64::from(round % 4) * 20)).await;
        instances[1 - here].partitions.gain(moving);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.send_replace(true);
    let (mut answered, mut slowest) = (0, Duration::ZERO);
    for asking in asking {
        let (count, longest) = asking.await.unwrap();
        answered += count;
        slowest = slowest.max(longest);
    }
    println!("{answered} gets of all partitions during 60 moves, the slowest took {slowest:?}");
    assert!(answered > 50, "{answered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_owner_is_503_at_the_deadline_and_a_silent_one_504() {
    let Deployment {
        world,
        instances,
        caller,
        ..
    } = Deployment::start("owner", 2).await;
    let (three, five) = (PartitionId(3), PartitionId(5));
    let keys = [key(1, channel_in(three)), key(1, channel_in(five))];
    for key in keys {
        world.put(World::answer(key));
    }
    instances[1].partitions.lose(three);
    let quick = [("readstates-timeout-ms", "300")];
    let nobody = caller.subjects.partition_get(three);
    until(async || caller.nobody_answers_on(&nobody).await).await;
    for _ in 0..4 {
        let begun = Instant::now();
        let reply = caller
            .raw(&caller.subjects.get(), &quick, &encoded(&get(keys)))
            .await;
        assert_eq!(code(&reply), Some(503));
        assert!(
            (150..1500).contains(&begun.elapsed().as_millis()),
            "{:?}",
            begun.elapsed()
        );
        // What is missing is told before the caller has given up.
        let begun = Instant::now();
        let partial = v1::GetRequest {
            partial: true,
            ..get(keys)
        };
        let reply = caller
            .raw(&caller.subjects.get(), &quick, &encoded(&partial))
            .await;
        assert!(
            begun.elapsed() < Duration::from_millis(300),
            "{:?}",
            begun.elapsed()
        );
        let reply: v1::GetReply = prost::Message::decode(reply.payload).unwrap();
        assert_eq!(
            reply
                .read_states
                .iter()
                .map(|r| r.unavailable)
                .collect::<Vec<_>>(),
            [true, false]
        );
    }
    // Whoever asks already is answered as soon as there is an owner.
    let asking = tokio::spawn({
        let caller = caller.clone();
        async move { caller.get(&get(keys)).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!asking.is_finished());
    let begun = Instant::now();
    instances[0].partitions.gain(three);
    assert_eq!(asking.await.unwrap().unwrap().len(), 2);
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    world.held.send_replace(true);
    for _ in 0..4 {
        let reply = caller
            .raw(&caller.subjects.get(), &quick, &encoded(&get(keys)))
            .await;
        assert_eq!(code(&reply), Some(504));
    }
}
