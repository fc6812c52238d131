//! Proves, with processes, a real nats-server and Cassandra, that one instance at a time owns a JetStream stream: a standby
//! takes over soon after a kill, and a holder that was stopped for longer than its lease and wakes up answers
//! nothing old and undoes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use futures::StreamExt;
use readstates::model::ids::ChannelId;
use readstates::wire::partitioner::partition_of;
use serde_json::Value;
use support::servers::{Cassandra, Nats, wait_for};
use support::service::{Deployment, Service};

const STREAM: &str = "lease-events";
const PARTITIONS: u32 = 4;
const CHANNEL: u64 = 42;
const READER: u64 = 8;
const DEADLINE: Duration = Duration::from_secs(60);
/// From a kill to answers by a standby, at most.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);
/// Questions that wait for a stopped holder when it wakes up.
const ASKED_ASLEEP: u32 = 3000;
/// For so long a woken holder is asked.
const PRESSED: Duration = Duration::from_secs(4);

/// Messages of the channel, by someone else than who reads.
fn messages(from: u64, to: u64) -> Vec<u8> {
    let line = |id: u64| {
        format!(
            "{{\"channelId\":\"{CHANNEL}\",\"messageCreated\":{{\"messageId\":\"{id}\",\"authorId\":\"7\"}}}}\n"
        )
    };
    (from..to).map(line).collect::<String>().into_bytes()
}

fn question() -> String {
    format!(r#"{{"keys":[{{"userId":"{READER}","channelId":"{CHANNEL}"}}]}}"#)
}

fn has_lease(service: &Service) -> bool {
    service.log().contains("this instance has the lease")
}

/// The unread count, if there is an answer.
async fn unread(nats: &async_nats::Client, name: &str) -> Option<u64> {
    let asked = nats
        .request(format!("{name}.v1.get"), question().into())
        .await
        .ok()?;
    unread_of(&asked)
}

fn unread_of(reply: &async_nats::Message) -> Option<u64> {
    let reply: Value = serde_json::from_slice(&reply.payload).ok()?;
    reply["readStates"][0]["unreadCount"].as_u64()
}

async fn until_unread(nats: &async_nats::Client, name: &str, expected: u64) {
    let end = Instant::now() + DEADLINE;
    loop {
        let found = unread(nats, name).await;
        if found == Some(expected) {
            return;
        }
        assert!(Instant::now() < end, "{found:?} unread, not {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_and_a_holder_that_wakes_up_does_no_harm() {
    let (nats_server, cassandra) = std::thread::scope(|scope| {
        let cassandra = scope.spawn(Cassandra::start);
        (Nats::start(), cassandra.join().unwrap())
    });
    let name = "lease".to_owned();
    let deployment = Deployment {
        name: name.clone(),
        brokers: "127.0.0.1:1".to_owned(),
        nats: nats_server.url(),
        cassandra: cassandra.url(),
        partitions: PARTITIONS,
        settings: vec![
            ("stream.kind", "jetstream".to_owned()),
            ("stream.jetstream.stream", STREAM.to_owned()),
            ("stream.jetstream.partitions", PARTITIONS.to_string()),
            ("store.write_delay", "200ms".to_owned()),
        ],
    };
    let nats = async_nats::connect(nats_server.url()).await.unwrap();

    let mut first = deployment.serve("first", &[]);
    wait_for("the first has the lease", DEADLINE, || has_lease(&first));
    let second = deployment.serve("second", &[]);
    wait_for("the second stands by", DEADLINE, || {
        second.log().contains("standby: another instance has the lease")
    });
    deployment.publish(&messages(1, 11));
    until_unread(&nats, &name, 10).await;
    assert!(
        second.page("/readyz").contains("200 OK"),
        "a standby is ready: {}",
        second.page("/readyz")
    );

    // A reply that is to go where records come from goes nowhere.
    let last = async || {
        let context = async_nats::jetstream::new(nats.clone());
        let mut stream = context.get_stream(STREAM).await.unwrap();
        stream.info().await.unwrap().state.last_sequence
    };
    let before = last().await;
    for reply in [format!("{STREAM}.0"), format!("{STREAM}-dlq.0")] {
        let asked = nats.publish_with_reply(format!("{name}.v1.get"), reply, question().into());
        asked.await.unwrap();
    }
    until_unread(&nats, &name, 10).await;
    assert_eq!(last().await, before);

    // One that is killed.
    let killed = Instant::now();
    first.kill9();
    until_unread(&nats, &name, 10).await;
    let took = killed.elapsed();
    assert!(has_lease(&second) && took < TAKEN_OVER_WITHIN, "{took:?}");
    println!("answers {took:?} after the kill");

    // One that is stopped for longer than its lease, and asked meanwhile.
    let mut third = deployment.serve("third", &[]);
    wait_for("the third stands by", DEADLINE, || {
        third.log().contains("standby: another instance has the lease")
    });
    deployment.publish(&messages(11, 21));
    until_unread(&nats, &name, 20).await;
    second.signal("STOP");
    wait_for("the third has the lease", DEADLINE, || has_lease(&third));
    deployment.publish(&messages(21, 31));
    let partition = partition_of(ChannelId(CHANNEL), PARTITIONS);
    let subject = format!("{name}.v1.partition.{partition}.get");
    let inbox = nats.new_inbox();
    let mut replies = nats.subscribe(inbox.clone()).await.unwrap();
    let end = Instant::now() + DEADLINE;
    loop {
        let asked = nats
            .publish_with_reply(subject.clone(), inbox.clone(), question().into())
            .await;
        asked.unwrap();
        let reply = tokio::time::timeout(Duration::from_millis(200), replies.next()).await;
        if reply.is_ok_and(|reply| unread_of(&reply.unwrap()) == Some(30)) {
            break;
        }
        assert!(Instant::now() < end, "the third does not answer");
    }
    // From here on 30 is known to callers. What waits for the stopped one is asked before it wakes up.
    let deadline_headers = || {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("readstates-timeout-ms", "8000");
        headers
    };
    for _ in 0..ASKED_ASLEEP {
        let (inbox, question) = (inbox.clone(), question().into());
        let asked = nats.publish_with_reply_and_headers(subject.clone(), inbox, deadline_headers(), question);
        asked.await.unwrap();
    }
    nats.flush().await.unwrap();
    second.signal("CONT");
    let (woken, mut answers, mut refused) = (Instant::now(), 0, 0);
    while woken.elapsed() < PRESSED {
        let asked = nats
            .publish_with_reply(subject.clone(), inbox.clone(), question().into())
            .await;
        asked.unwrap();
        while let Ok(Some(reply)) = tokio::time::timeout(Duration::from_millis(5), replies.next()).await {
            match unread_of(&reply) {
                Some(found) => {
                    assert_eq!(found, 30, "an answer from before");
                    answers += 1;
                }
                None => refused += 1,
            }
        }
    }
    assert!(answers > ASKED_ASLEEP, "{answers} answers, {refused} refused");
    wait_for("the second knows", DEADLINE, || {
        second.log().contains("lost: the lease")
    });
    wait_for("the second stands by again", DEADLINE, || {
        second.log().matches("standby: another instance").count() == 2
    });

    // One that is asked to end gives the lease back, and what is in the store is right.
    let ended = Instant::now();
    assert!(third.terminate().success());
    until_unread(&nats, &name, 30).await;
    println!("answers {:?} after SIGTERM", ended.elapsed());
    deployment.publish(&messages(31, 41));
    until_unread(&nats, &name, 40).await;
}
