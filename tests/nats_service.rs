//! The NATS service as such, over a real nats-server: how it is found, what it withstands, how it starts and stops.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod support {
    pub mod callers;
    pub mod fakes;
    pub mod servers;
}

use std::time::{Duration, Instant};

use readstates::model::ids::{PartitionId, ReadStateKey};
use readstates::wire::proto::v1;

use support::callers::{Deployment, code, until};
use support::fakes::{PARTITIONS, World, channel_in, key};

fn get(keys: impl IntoIterator<Item = ReadStateKey>) -> v1::GetRequest {
    v1::GetRequest {
        keys: keys.into_iter().map(v1::Key::from).collect(),
        ..v1::GetRequest::default()
    }
}

fn encoded(message: &impl prost::Message) -> Vec<u8> {
    message.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_at_once_are_refused_at_once_and_the_rest_answered() {
    let Deployment {
        world,
        instances: _instances,
        caller,
        ..
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
        let names = ["explain", "get", "overview", "status"];
        assert_eq!(field("name"), names);
        assert_eq!(field("subject"), names.map(|name| format!("discovery.v1.{name}")));
        assert_eq!(field("queue_group")[..3], ["readstates"; 3]);
        status_groups.push(field("queue_group")[3].clone());
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
    assert!(!caller.gather("$SRV.PING.readstates", b"").await.is_empty());
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
        ..
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
        ..
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

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_answered_refused_or_counted_and_then_over() {
    use futures::StreamExt;
    const FLOOD: usize = 200_000;
    let Deployment {
        world,
        instances: _instances,
        caller,
        dropped,
    } = Deployment::start_with("flood", 1, 64).await;
    let asked = key(1, channel_in(PartitionId(3)));
    world.put(World::answer(asked));
    let (inbox, request) = (caller.client.new_inbox(), encoded(&get([asked])));
    // Connections of its own, so that nothing is dropped on the asking side.
    let options = || async_nats::ConnectOptions::new().subscription_capacity(FLOOD);
    let url = support::callers::server().url();
    let flooding = options().connect(&url).await.unwrap();
    let listening = options().connect(&url).await.unwrap();
    let mut replies = listening.subscribe(inbox.clone()).await.unwrap();
    listening.flush().await.unwrap();
    let sending = tokio::spawn({
        let subject = caller.subjects.get();
        async move {
            for _ in 0..FLOOD {
                let request = request.clone().into();
                flooding
                    .publish_with_reply(subject.clone(), inbox.clone(), request)
                    .await
                    .unwrap();
            }
            flooding.flush().await.unwrap();
        }
    });
    let (mut answered, mut refused) = (0, 0);
    while let Ok(Some(reply)) = tokio::time::timeout(Duration::from_secs(1), replies.next()).await {
        match code(&reply) {
            None => answered += 1,
            Some(429) => refused += 1,
            Some(other) => panic!("{other}"),
        }
    }
    sending.await.unwrap();
    let dropped = dropped.load(std::sync::atomic::Ordering::Relaxed);
    println!("of {FLOOD}: {answered} answered, {refused} refused, {dropped} at least dropped by the service");
    assert!(answered > 0 && refused > 0);
    assert_eq!(
        answered + refused < FLOOD,
        dropped > 0,
        "what is dropped is counted"
    );
    assert!(answered + refused + dropped as usize <= FLOOD);
    for _ in 0..100 {
        assert_eq!(caller.get(&get([asked])).await.unwrap().len(), 1);
    }
}
