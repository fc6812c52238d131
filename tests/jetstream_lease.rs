//! Proves, with processes, a real nats-server and Cassandra, that one instance at a time owns a JetStream stream: a standby
//! takes over soon after a kill, and a holder that was stopped for longer than its lease and wakes up answers
//! nothing old and undoes nothing, also while it has not noticed yet.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::StreamExt;
use readstates::model::ids::ChannelId;
use readstates::model::ids::PartitionId;
use readstates::store::Store;
use readstates::store::cassandra::{CassandraConfig, CassandraStore};
use readstates::wire::partitioner::partition_of;
use serde_json::Value;
use support::proxy::Proxy;
use support::servers::{Cassandra, Nats, wait_for};
use support::service::{Deployment, Service};

const PARTITIONS: u32 = 4;
const CHANNEL: u64 = 42;
const READER: u64 = 8;
const DEADLINE: Duration = Duration::from_secs(60);
/// From a kill to answers by a standby, at most.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);
/// Questions that wait for a stopped holder when it wakes up.
const ASKED_ASLEEP: u32 = 3000;
/// An instance connects for questions first, and then for JetStream.
const JETSTREAM_CONNECTION: usize = 1;
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

/// Servers that the tests share, which run one after the other.
struct Servers {
    nats: Nats,
    cassandra: Cassandra,
}

async fn servers() -> (tokio::sync::MutexGuard<'static, ()>, &'static Servers) {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    let alone = ONE.lock().await;
    let started = SERVERS.get_or_init(|| {
        std::thread::scope(|scope| {
            let cassandra = scope.spawn(Cassandra::start);
            Servers {
                nats: Nats::start(),
                cassandra: cassandra.join().unwrap(),
            }
        })
    });
    (alone, started)
}

fn deployment(servers: &Servers, name: &str, write_delay: &str) -> Deployment {
    Deployment {
        name: name.to_owned(),
        brokers: "127.0.0.1:1".to_owned(),
        nats: servers.nats.url(),
        cassandra: servers.cassandra.url(),
        partitions: PARTITIONS,
        settings: vec![
            ("stream.kind", "jetstream".to_owned()),
            ("store.write_delay", write_delay.to_owned()),
        ],
    }
}

/// What an instance says of its takeover, once it has it.
fn takeover(service: &Service) -> String {
    let told = || {
        let lines = service.log_lines();
        lines.into_iter().rfind(|line| line.contains("took over:"))
    };
    wait_for("the takeover is told", DEADLINE, || told().is_some());
    told().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_and_a_holder_that_wakes_up_does_no_harm() {
    let (_alone, servers) = servers().await;
    let name = "lease".to_owned();
    let deployment = deployment(servers, &name, "200ms");
    let stream = format!("{name}-events");
    let nats = async_nats::connect(servers.nats.url()).await.unwrap();

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
        let mut stream = context.get_stream(&stream).await.unwrap();
        stream.info().await.unwrap().state.last_sequence
    };
    let before = last().await;
    for reply in [format!("{stream}.0"), format!("{stream}-dlq.0")] {
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
    println!("answers {took:?} after the kill: {}", takeover(&second));

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
    println!(
        "answers {:?} after SIGTERM: {}",
        ended.elapsed(),
        takeover(&second)
    );
    deployment.publish(&messages(31, 41));
    until_unread(&nats, &name, 40).await;
}

/// A holder that was stopped for longer than its lease wakes up, and can't learn yet that it has lost it: its connection
/// for JetStream is held back, that for questions is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_has_not_noticed_its_loss_answers_and_stores_nothing() {
    let (_alone, servers) = servers().await;
    let name = "zombie".to_owned();
    // So that it has something to write when it wakes up.
    let deployment = deployment(servers, &name, "2s");
    let nats = async_nats::connect(servers.nats.url()).await.unwrap();
    let proxy = Proxy::start(servers.nats.url().trim_start_matches("nats://")).await;
    let by_proxy = [("nats.url", format!("nats://{}", proxy.address()))];
    let holder = deployment.serve("holder", &by_proxy);
    wait_for("it has the lease", DEADLINE, || has_lease(&holder));
    deployment.publish(&messages(1, 11));
    until_unread(&nats, &name, 10).await;
    let successor = deployment.serve("successor", &[]);
    wait_for("it stands by", DEADLINE, || {
        successor
            .log()
            .contains("standby: another instance has the lease")
    });
    deployment.publish(&messages(11, 21));
    until_unread(&nats, &name, 20).await;
    holder.signal("STOP");
    proxy.stall_from(JETSTREAM_CONNECTION);
    wait_for("the successor has the lease", DEADLINE, || has_lease(&successor));
    deployment.publish(&messages(21, 31));
    let partition = partition_of(ChannelId(CHANNEL), PARTITIONS);
    let subject = format!("{name}.v1.partition.{partition}.get");
    let store = CassandraStore::connect(&store_config(servers, &deployment))
        .await
        .unwrap();
    let durable = async || {
        let position = store.load_position(PartitionId(partition.0)).await.unwrap();
        position.and_then(|position| position.durable.offset())
    };
    let last = {
        let context = async_nats::jetstream::new(nats.clone());
        let stream = context.get_stream(format!("{name}-events")).await.unwrap();
        stream.cached_info().state.last_sequence
    };
    let end = Instant::now() + DEADLINE;
    while durable().await.is_none_or(|offset| offset.0 < last) {
        assert!(Instant::now() < end, "the successor stores its position");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // From here on 30 is durable, and a holder that answers 20 is behind that.
    let inbox = nats.new_inbox();
    let mut replies = nats.subscribe(inbox.clone()).await.unwrap();
    holder.signal("CONT");
    let (woken, mut answers, mut refused) = (Instant::now(), 0, 0);
    while woken.elapsed() < PRESSED {
        let asked = nats.publish_with_reply(subject.clone(), inbox.clone(), question().into());
        asked.await.unwrap();
        while let Ok(Some(reply)) = tokio::time::timeout(Duration::from_millis(5), replies.next()).await {
            match unread_of(&reply) {
                Some(found) => {
                    assert_eq!(
                        found,
                        30,
                        "an answer from before, {:?} after it woke up",
                        woken.elapsed()
                    );
                    answers += 1;
                }
                None => refused += 1,
            }
        }
        let stored = durable().await.unwrap().0;
        assert!(stored >= last, "position {stored} was stored, after {last}");
    }
    // Whoever asked the holder had to wait for the rest of the question's time, two seconds.
    assert!(
        answers > 100 && refused > 20,
        "{answers} by the successor, {refused} refused by the holder"
    );
    assert!(
        !holder.log().contains("lost: the lease"),
        "it must not know yet, or this proves nothing:\n{}",
        holder.log()
    );
    proxy.stall_from(usize::MAX);
    wait_for("it learns it", DEADLINE, || {
        holder.log().contains("lost: the lease")
    });
    drop(successor);
    until_unread(&nats, &name, 30).await;
    deployment.publish(&messages(31, 41));
    until_unread(&nats, &name, 40).await;
}

fn store_config(servers: &Servers, deployment: &Deployment) -> CassandraConfig {
    CassandraConfig {
        nodes: vec![servers.cassandra.url()],
        keyspace: deployment.keyspace(),
        create_schema: false,
        replication: String::new(),
        datacenter: None,
        username: None,
        password: None,
        tls_ca: None,
        tls_cert: None,
        tls_key: None,
    }
}
