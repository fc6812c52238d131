//! Proves with the program as processes what JetStream and the embedded store do together where another instance, another
//! stream or no server is there: what waiting can help with is waited for, whatever else ends the program with status 2
//! and one line, and nobody is told numbers that are wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use async_nats::jetstream;
use serde_json::Value;
use support::servers::{Nats, fresh_dir, wait_for};
use support::service::{self, Deployment, Service, loud};

const PARTITIONS: u32 = 2;
const DEADLINE: Duration = Duration::from_secs(120);
/// User 8 has a read state in so many channels.
const CHANNELS: u64 = 12;

fn deployment(name: &str, nats: &Nats) -> Deployment {
    // Neither Kafka nor Cassandra is anywhere.
    let nowhere = "127.0.0.1:1".to_owned();
    Deployment {
        name: name.to_owned(),
        brokers: nowhere.clone(),
        nats: nats.url(),
        cassandra: nowhere,
        partitions: PARTITIONS,
        settings: vec![
            ("stream.kind", "jetstream".to_owned()),
            ("store.kind", "embedded".to_owned()),
            ("store.embedded.path", folder(name)),
            ("store.write_delay", "100ms".to_owned()),
        ],
    }
}

fn folder(name: &str) -> String {
    fresh_dir(name).join("store").to_str().unwrap().to_owned()
}

/// A message for user 8 in each channel, in this order.
fn publish(deployment: &Deployment, message: u64) {
    let line = |channel| {
        format!(
            "{{\"channelId\":\"{channel}\",\"messageCreated\":{{\"messageId\":\"{message}\",\"authorId\":\"7\",\
             \"mentionedUserIds\":[\"8\"]}}}}\n"
        )
    };
    deployment.publish((1..=CHANNELS).map(line).collect::<String>().as_bytes());
}

fn wait_until_live(service: &mut Service) {
    wait_for("all partitions to be live", DEADLINE, || {
        service.assert_runs();
        service.metric("readstates_partition_phase", "phase=\"live\"") == f64::from(PARTITIONS)
    });
}

/// Waits until the first so many records are in the store.
fn wait_until_durable(service: &mut Service, records: u64) {
    wait_for("everything to be durable", DEADLINE, || {
        service.assert_runs();
        // Sequences are shared, and the position of a partition that has none of the last ones moves on.
        service.metric("readstates_durable_offset", "") == (u64::from(PARTITIONS) * records) as f64
    });
}

/// Ends with status 2 and one line that has all of these words.
fn check_refused(deployment: &Deployment, more: &[(&str, String)], words: &[&str]) {
    service::check_refused(deployment, more, DEADLINE, words);
}

fn json_of(deployment: &Deployment, command: &str, arguments: &[&str]) -> Option<Value> {
    let said = deployment.run(command, arguments, b"");
    match said.status {
        Some(0) => Some(serde_json::from_str(&said.stdout).unwrap()),
        _ => {
            assert!(
                said.stderr.contains("503 ") || said.stderr.contains("504 "),
                "{said:?}"
            );
            None
        }
    }
}

/// The channels of user 8's overview and their unread counts, where there is an answer.
fn overview(deployment: &Deployment) -> Option<Vec<(u64, u64)>> {
    let overview = json_of(deployment, "overview", &["8", "--json"])?;
    let states = overview["readStates"].as_array().unwrap().iter();
    let shown = |state: &Value| {
        let channel = state["channelId"].as_str().unwrap().parse().unwrap();
        (channel, state["unreadCount"].as_u64().unwrap())
    };
    Some(states.map(shown).collect())
}

/// An embedded store is that of one instance. Another one on its folder is refused. One that has a folder of its own knows
/// nothing of what the first has stored: it takes over by applying the stream from its beginning, and until then
/// it shows no overview, since that would lack rows.
#[test]
fn an_instance_without_the_rows_is_refused_or_says_so() {
    let nats = Nats::start();
    let deployment = deployment("rows", &nats);
    let expected = |unread| -> Vec<(u64, u64)> { (1..=CHANNELS).map(|channel| (channel, unread)).collect() };
    let mut one = deployment.serve("one", &[]);
    wait_until_live(&mut one);
    publish(&deployment, 100);
    wait_until_durable(&mut one, CHANNELS);
    let path = deployment.embedded_path().unwrap();
    check_refused(
        &deployment,
        &[],
        &["store.embedded.path", path.to_str().unwrap(), "another process"],
    );
    // Whoever has just written shows that besides what is in the store.
    assert_eq!(one.terminate().code(), Some(0), "{}", one.log_tail());
    let mut one = deployment.serve("one-again", &[]);
    wait_until_live(&mut one);

    let mut two = deployment.serve("two", &[("store.embedded.path", folder("other"))]);
    wait_for("the second to stand by", DEADLINE, || {
        two.assert_runs();
        two.log().contains("standby: another instance has the lease")
    });
    wait_for("the second to be ready", DEADLINE, || {
        two.page("/readyz").starts_with("HTTP/1.1 200")
    });
    // Both are asked, in no order.
    let end = Instant::now() + DEADLINE;
    let asked = |service: &Service, code: &str| {
        let labels = format!("endpoint=\"overview\",code=\"{code}\"");
        service.metric("readstates_queries_total", &labels)
    };
    while asked(&one, "200") < 3.0 || asked(&two, "503") < 3.0 {
        if let Some(shown) = overview(&deployment) {
            assert_eq!(shown, expected(1));
        }
        let got = json_of(&deployment, "get", &["8", "1", "--json"]).unwrap();
        assert_eq!(got["readStates"][0]["unreadCount"], 1);
        assert!(Instant::now() < end, "both are asked");
    }
    assert_eq!((asked(&two, "200"), asked(&one, "503")), (0.0, 0.0));
    // What can be shown is nothing, and it says so.
    let partial = json_of(&deployment, "overview", &["8", "--json", "--partial"]).unwrap();
    let missing = partial["missingPartitions"].as_array().unwrap().len();
    let shown = partial["readStates"].as_array().unwrap().len();
    assert!(
        [(0, CHANNELS as usize), (PARTITIONS as usize, 0)].contains(&(missing, shown)),
        "{partial}"
    );

    one.kill9();
    let killed = Instant::now();
    wait_until_live(&mut two);
    println!("live on another folder {:.1?} after the kill", killed.elapsed());
    assert_eq!(two.metric("readstates_events_total", ""), CHANNELS as f64);
    assert_eq!(overview(&deployment), Some(expected(1)));
    publish(&deployment, 101);
    wait_until_durable(&mut two, 2 * CHANNELS);
    // And back: what the first folder lacks is applied there.
    assert_eq!(two.terminate().code(), Some(0), "{}", two.log_tail());
    let mut one = deployment.serve("one-last", &[]);
    wait_until_live(&mut one);
    assert_eq!(one.metric("readstates_events_total", ""), CHANNELS as f64);
    assert_eq!(overview(&deployment), Some(expected(2)));
}

/// A store and a stream that do not belong together are refused, and what the line says helps.
#[test]
fn a_stream_that_is_not_the_one_of_the_store_is_refused() {
    let nats = Nats::start();
    let deployment = deployment("misfit", &nats);
    let epoch = |epoch: u32| [("stream.epoch", epoch.to_string())];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let context = runtime.block_on(async { jetstream::new(async_nats::connect(nats.url()).await.unwrap()) });
    let mut service = deployment.serve("first", &epoch(1));
    wait_until_live(&mut service);
    publish(&deployment, 100);
    wait_until_durable(&mut service, CHANNELS);
    assert_eq!(service.terminate().code(), Some(0), "{}", service.log_tail());

    check_refused(&deployment, &epoch(0), &["set stream.epoch to 1"]);
    let other = [
        epoch(1).as_slice(),
        &[("stream.jetstream.stream", "another".to_owned())],
    ]
    .concat();
    check_refused(
        &deployment,
        &other,
        &[
            "belongs to the stream",
            "misfit-events",
            "another",
            "stream.jetstream.stream",
            "stream.epoch",
        ],
    );
    let grown = [
        epoch(1).as_slice(),
        &[("stream.jetstream.partitions", "3".to_owned())],
    ]
    .concat();
    check_refused(
        &deployment,
        &grown,
        &["was made with 2 partitions", "stream.jetstream.partitions"],
    );

    // Records that were never applied are deleted.
    publish(&deployment, 101);
    runtime.block_on(async {
        let stream = context.get_stream(deployment.topic()).await.unwrap();
        stream.purge().sequence(CHANNELS + 5).await.unwrap();
    });
    check_refused(
        &deployment,
        &epoch(1),
        &[
            "the stream begins at",
            "deleted before they were applied",
            "max_age",
            "stream.epoch",
        ],
    );
    // It is made anew, with fewer records, and with more.
    for messages in [0, 3] {
        runtime
            .block_on(context.delete_stream(deployment.topic()))
            .unwrap();
        for message in 0..messages {
            publish(&deployment, 100 + message);
        }
        check_refused(&deployment, &epoch(1), &["made anew", "stream.epoch"]);
    }
    let mut service = deployment.serve("raised", &epoch(2));
    wait_until_live(&mut service);
    wait_until_durable(&mut service, 3 * CHANNELS);
    let got = json_of(&deployment, "get", &["8", "1", "--json"]).unwrap();
    // Messages 100, of the first stream as well, 101 and 102.
    assert_eq!(got["readStates"][0]["unreadCount"], 3);
    assert_eq!(service.terminate().code(), Some(0), "{}", service.log_tail());
    assert!(loud(&service.log()).is_empty(), "{}", service.log());
}

/// nats-server is all that is waited for; health is told all the while.
#[test]
fn a_nats_server_that_is_missing_is_waited_for() {
    let mut nats = Nats::start();
    nats.kill9();
    let deployment = deployment("missing", &nats);
    let mut service = deployment.serve("early", &[]);
    wait_for("two lines about it", DEADLINE, || {
        service.assert_runs();
        let log = service.log();
        assert!(loud(&log).len() <= 2, "{log}");
        loud(&log).len() == 2
            && loud(&log)
                .iter()
                .all(|line| line.contains("nats.url") && line.contains("start"))
    });
    assert!(service.page("/healthz").starts_with("HTTP/1.1 200"));
    let ready = service.page("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    for server in ["NATS", "JetStream"] {
        assert!(ready.contains(&format!("{server} is not connected")), "{ready}");
    }
    assert!(!ready.contains("Kafka"), "{ready}");
    nats.restart();
    wait_until_live(&mut service);
    // Questions have a connection of their own, which may come back later.
    wait_for("being ready", DEADLINE, || {
        service.page("/readyz").starts_with("HTTP/1.1 200")
    });
    publish(&deployment, 100);
    wait_until_durable(&mut service, CHANNELS);
    assert_eq!(loud(&service.log()).len(), 2, "{}", service.log());
    assert_eq!(service.terminate().code(), Some(0), "{}", service.log_tail());
}
