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

#[tokio::test(flavor = "multi_thread")]
async fn json_is_answered_in_json_with_default_values() {
    let Deployment {
        world,
        instances: _instances,
        caller,
    } = Deployment::start("json", 2).await;
    world.put(readstates::partition::io::Answer {
        key: key(1, 2),
        exists: true,
        ..Default::default()
    });
    let json = ("content-type", "application/json");
    let request = br#"{"keys":[{"userId":"1","channel_id":2}]}"#;
    let spaced = br#"  {"keys":[{"userId":1,"channelId":"2"}],"future":[]}"#;
    for (headers, request) in [(&[][..], &request[..]), (&[json][..], &spaced[..])] {
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

#[tokio::test(flavor = "multi_thread")]
async fn too_many_at_once_are_refused_at_once_and_the_rest_answered() {
    let Deployment {
        world,
        instances: _instances,
        caller,
    } = Deployment::start_with("overload", 1, 4).await;
    let asked = key(1, channel_in(PartitionId(3)));
    world.put(World::answer(asked));
    world.held.send_replace(true);
    let ask = |timeout_ms| {
        let caller = caller.clone();
        tokio::spawn(async move {
            let subject = caller.subjects.get();
            let (headers, request) = ([("readstates-timeout-ms", timeout_ms)], encoded(&get([asked])));
            code(&caller.raw(&subject, &headers, &request).await)
        })
    };
    let held: Vec<_> = (0..4).map(|_| ask("9000")).collect();
    until(async || world.held.receiver_count() == 4).await;
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(ask("9000").await.unwrap(), Some(429));
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let status = caller.gather(&caller.subjects.status(), b"").await;
    assert_eq!(status.len(), 1, "how things are is told all the same");
    world.held.send_replace(false);
    for held in held {
        assert_eq!(held.await.unwrap(), None);
    }
    assert_eq!(ask("9000").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_found_and_counts() {
    let Deployment {
        instances: _instances,
        caller,
        ..
    } = Deployment::start("discovery", 2).await;
    assert_eq!(
        code(&caller.raw(&caller.subjects.get(), &[], &[0xff]).await),
        Some(400)
    );
    let ours = |messages: Vec<async_nats::Message>| -> Vec<serde_json::Value> {
        let values = messages
            .iter()
            .map(|message| serde_json::from_slice(&message.payload).unwrap());
        values
            .filter(|value: &serde_json::Value| value["endpoints"].to_string().contains("discovery.v1."))
            .collect()
    };
    let infos = ours(caller.gather("$SRV.INFO.readstates", b"").await);
    assert_eq!(infos.len(), 2);
    let mut status_groups = Vec::new();
    for info in &infos {
        assert_eq!(
            (&info["name"], &info["type"]),
            (&"readstates".into(), &"io.nats.micro.v1.info_response".into())
        );
        let mut endpoints: Vec<_> = info["endpoints"].as_array().unwrap().clone();
        endpoints.sort_by_key(|endpoint| endpoint["name"].to_string());
        let field = |name: &str| -> Vec<String> {
            endpoints
                .iter()
                .map(|endpoint| endpoint[name].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(field("name"), ["get", "overview", "status"]);
        assert_eq!(
            field("subject"),
            ["discovery.v1.get", "discovery.v1.overview", "discovery.v1.status"]
        );
        assert_eq!(field("queue_group")[..2], ["readstates", "readstates"]);
        status_groups.push(field("queue_group")[2].clone());
    }
    assert_ne!(status_groups[0], status_groups[1]);
    let pings = caller.gather("$SRV.PING.readstates", b"").await;
    for info in &infos {
        let id = info["id"].as_str().unwrap();
        assert!(
            pings
                .iter()
                .any(|ping| String::from_utf8_lossy(&ping.payload).contains(id))
        );
    }
    let stats = ours(caller.gather("$SRV.STATS.readstates", b"").await);
    let sum = |endpoint: &str, field: &str| -> u64 {
        let endpoints = stats
            .iter()
            .flat_map(|stats| stats["endpoints"].as_array().unwrap());
        endpoints
            .filter(|e| e["name"] == endpoint)
            .map(|e| e[field].as_u64().unwrap())
            .sum()
    };
    assert_eq!((sum("get", "num_requests"), sum("get", "num_errors")), (1, 1));
    assert_eq!(
        (sum("overview", "num_requests"), sum("overview", "num_errors")),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_tells_how_it_is() {
    let Deployment {
        instances: _instances,
        caller,
        ..
    } = Deployment::start("status", 3).await;
    for request in [&b""[..], &b"{}"[..]] {
        let replies = caller.gather(&caller.subjects.status(), request).await;
        let mut owned = Vec::new();
        let mut names: Vec<_> = replies
            .iter()
            .map(|reply| {
                let reply: v1::StatusReply = match request {
                    b"" => prost::Message::decode(&reply.payload[..]).unwrap(),
                    _ => readstates::wire::json::from_json(&reply.payload).unwrap(),
                };
                assert_eq!(reply.partition_count, PARTITIONS);
                assert!(reply.partitions.is_sorted_by_key(|partition| partition.partition));
                let first = &reply.partitions[0];
                assert_eq!(
                    (first.applied_offset, first.durable_offset, first.end_offset),
                    (Some(41), None, Some(42))
                );
                assert_eq!((first.phase.as_str(), first.applied_lag_records), ("live", 1));
                owned.extend(reply.partitions.iter().map(|partition| partition.partition));
                reply.instance
            })
            .collect();
        names.sort();
        owned.sort_unstable();
        assert_eq!(names, ["instance-0", "instance-1", "instance-2"]);
        assert_eq!(owned, (0..PARTITIONS).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_never_goes_where_services_listen() {
    use futures::StreamExt;
    let Deployment {
        instances: _instances,
        caller,
        ..
    } = Deployment::start("hostile", 2).await;
    let subjects = &caller.subjects;
    let (get, one) = (subjects.get(), subjects.partition_get(PartitionId(3)));
    let mut overheard = caller.client.subscribe("hostile.>").await.unwrap();
    let mut commanded = caller
        .client
        .subscribe("$JS.API.STREAM.DELETE.events")
        .await
        .unwrap();
    caller.client.flush().await.unwrap();
    let sent = [&get, &one, &subjects.overview(), &subjects.status()];
    for subject in sent {
        for reply in [
            get.as_str(),
            one.as_str(),
            "hostile.inbox",
            "$JS.API.STREAM.DELETE.events",
        ] {
            let reply = reply.to_owned();
            caller
                .client
                .publish_with_reply(subject.clone(), reply, "".into())
                .await
                .unwrap();
        }
        caller.client.publish(subject.clone(), "".into()).await.unwrap();
    }
    // What comes after has been answered, so what came before has been dealt with.
    for _ in 0..20 {
        assert!(caller.get(&v1::GetRequest::default()).await.is_ok());
    }
    let quiet = tokio::time::sleep(Duration::from_millis(300));
    let heard: Vec<_> = overheard.by_ref().take_until(quiet).collect().await;
    assert!(
        heard
            .iter()
            .all(|message| message.reply.is_some() || message.payload.is_empty())
    );
    let to = |subject: &String| {
        heard
            .iter()
            .filter(|message| message.subject.as_str() == subject)
            .count()
    };
    assert_eq!(to(&one), 5, "what was sent, and no reply");
    assert_eq!(to(&"hostile.inbox".to_owned()), 0);
    let silence = tokio::time::timeout(Duration::from_millis(100), commanded.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert_eq!(caller.gather("$SRV.PING.readstates", b"").await.is_empty(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_before_nats_and_comes_back_after_it() {
    let mut server = support::servers::Nats::start();
    server.stop();
    let url = server.url();
    let (deployment, ()) = tokio::join!(Deployment::start_at(&url, "back", 2, 100), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::task::block_in_place(|| server.restart());
    });
    let Deployment {
        world,
        instances,
        caller,
    } = deployment;
    let keys: Vec<_> = (1..=50).map(|channel| key(1, channel)).collect();
    keys.iter().for_each(|key| world.put(World::answer(*key)));
    assert_eq!(caller.get(&get(keys.clone())).await.unwrap().len(), 50);
    tokio::task::block_in_place(|| server.kill9());
    // Meanwhile a partition moves.
    instances[0].partitions.lose(PartitionId(0));
    instances[1].partitions.gain(PartitionId(0));
    tokio::task::block_in_place(|| server.restart());
    let request = encoded(&get(keys));
    until(async || caller.is_answered(&caller.subjects.get(), &request).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_answers_what_is_in_work() {
    let Deployment {
        world,
        mut instances,
        caller,
    } = Deployment::start("stop", 1).await;
    let asked = key(1, channel_in(PartitionId(3)));
    world.put(World::answer(asked));
    world.held.send_replace(true);
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move {
                let (subject, patient) = (caller.subjects.get(), [("readstates-timeout-ms", "9000")]);
                code(&caller.raw(&subject, &patient, &encoded(&get([asked]))).await)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let stopping = tokio::spawn(instances.remove(0).service.stop(Duration::from_secs(5)));
    until(async || caller.nobody_answers_on(&caller.subjects.get()).await).await;
    assert!(!stopping.is_finished());
    world.held.send_replace(false);
    for asking in asking {
        assert_eq!(asking.await.unwrap(), None);
    }
    stopping.await.unwrap();
    assert!(
        caller
            .gather("$SRV.INFO.readstates", b"")
            .await
            .iter()
            .all(|info| { !String::from_utf8_lossy(&info.payload).contains("\"stop.v1.get\"") })
    );
}
