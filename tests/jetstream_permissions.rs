//! Proves with a nats-server that runs with `deploy/nats/nats-server.conf` that its permissions are enough for the program
//! with JetStream and an embedded store (`serve`, `publish`, and who asks), that they are no more than is needed, and
//! that what is not granted is named in the log.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, Event};
use serde_json::Value;
use support::servers::{Nats, fresh_dir, wait_for};
use support::service::{Deployment, Service};
use tokio::task::block_in_place;

const USERS: [&str; 4] = ["readstates", "caller", "operator", "publisher"];
const DEADLINE: Duration = Duration::from_secs(60);

/// The server with each user's name as its password, and without these lines of the file.
fn server(dir: &Path, without: &[&str]) -> Nats {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats/nats-server.conf");
    let mut text = fs::read_to_string(example).unwrap();
    for user in USERS {
        let variable = format!("${}_PASSWORD", user.to_uppercase());
        text = text.replace(&variable, &format!("\"{user}\""));
    }
    for line in without {
        assert!(text.contains(line), "{line}");
        text = text.replace(line, "");
    }
    let config = dir.join("nats-server.conf");
    fs::write(&config, text).unwrap();
    Nats::start_with(&[&format!("config={}", config.display())])
}

/// The settings of the program, as this user.
fn login(dir: &Path, user: &'static str) -> Vec<(&'static str, String)> {
    let password = dir.join(user);
    fs::write(&password, user).unwrap();
    vec![
        ("nats.user", user.to_owned()),
        ("nats.password_file", password.to_str().unwrap().to_owned()),
    ]
}

fn deployment(dir: &Path, nats: &Nats, user: &'static str) -> Deployment {
    let mut settings = login(dir, user);
    let store = dir.join("store").to_str().unwrap().to_owned();
    settings.extend([
        ("stream.kind", "jetstream".to_owned()),
        // As in the file.
        ("stream.jetstream.stream", "message-events".to_owned()),
        ("store.kind", "embedded".to_owned()),
        ("store.embedded.path", store),
        ("store.write_delay", "100ms".to_owned()),
    ]);
    Deployment {
        // The prefix of the subjects in the file.
        name: "readstates".to_owned(),
        brokers: "127.0.0.1:1".to_owned(),
        nats: nats.url(),
        cassandra: "127.0.0.1:1".to_owned(),
        partitions: 3,
        settings,
    }
}

fn event(id: u64) -> String {
    format!("{{\"channelId\":\"42\",\"messageCreated\":{{\"messageId\":\"{id}\",\"authorId\":\"7\"}}}}\n")
}

fn until_unread(operator: &Deployment, expected: u64) {
    let end = Instant::now() + DEADLINE;
    loop {
        let said = operator.run("get", &["8", "42", "--json"], b"");
        let found = serde_json::from_str::<Value>(&said.stdout)
            .ok()
            .map(|it| it.to_string());
        if said.status == Some(0) && said.stdout.contains(&format!("\"unreadCount\": {expected}"))
            || found.is_some_and(|it| it.contains(&format!("\"unreadCount\":{expected},")))
        {
            return;
        }
        assert!(Instant::now() < end, "{said:?}");
    }
}

fn has_all(service: &Service) -> bool {
    service.log().contains("took over")
}

/// A client, and what the server has refused it.
async fn client(url: &str, user: &str) -> (Client, Arc<Mutex<Vec<String>>>) {
    let refused = Arc::new(Mutex::new(Vec::new()));
    let told = refused.clone();
    let client = ConnectOptions::new()
        .user_and_password(user.to_owned(), user.to_owned())
        .event_callback(move |event| {
            if let Event::ServerError(error) = event {
                told.lock().unwrap().push(error.to_string().to_lowercase());
            }
            std::future::ready(())
        })
        .connect(url)
        .await
        .unwrap();
    (client, refused)
}

async fn publish(client: &Client, subject: &str) {
    let reply = client.new_inbox();
    let sent = client.publish_with_reply(subject.to_owned(), reply, "{}".into());
    sent.await.unwrap();
    client.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_permissions_are_enough_for_jetstream_and_no_more() {
    let dir = fresh_dir("permissions");
    let nats = block_in_place(|| server(&dir, &[]));
    let (serving, publishing, asking) = (
        deployment(&dir, &nats, "readstates"),
        deployment(&dir, &nats, "publisher"),
        deployment(&dir, &nats, "operator"),
    );
    let _second = block_in_place(|| {
        let mut service = serving.serve("first", &[]);
        wait_for("it owns the partitions", DEADLINE, || has_all(&service));
        let said = publishing.publish((1..=10).map(event).collect::<String>().as_bytes());
        assert!(said.contains("10"), "{said}");
        until_unread(&asking, 10);
        // One that ends gives the lease back, and the next one need not wait for it.
        let first_log = {
            assert!(service.terminate().success());
            service.log()
        };
        let second = serving.serve("second", &[]);
        let began = Instant::now();
        wait_for("it owns the partitions", DEADLINE, || has_all(&second));
        println!("the second owns them after {:.1?}", began.elapsed());
        publishing.publish((11..=20).map(event).collect::<String>().as_bytes());
        until_unread(&asking, 20);
        for command in [["overview", "8"], ["lag", "--json"]] {
            let said = asking.run(command[0], &command[1..], b"");
            assert_eq!(said.status, Some(0), "{said:?}");
        }
        for log in [first_log, second.log()] {
            assert!(!log.to_lowercase().contains("permissions violation"), "{log}");
            assert!(!log.contains(" WARN ") || log.contains("one replica"), "{log}");
        }
        second
    });
    a_dead_letter_arrives(&nats).await;

    // What the file grants without a reason would show here.
    let (service, refused_service) = client(&nats.url(), "readstates").await;
    let (publisher, refused_publisher) = client(&nats.url(), "publisher").await;
    let (caller, refused_caller) = client(&nats.url(), "caller").await;
    for subject in [
        "$JS.API.STREAM.DELETE.message-events",
        "$JS.API.STREAM.PURGE.message-events",
        "$JS.API.STREAM.UPDATE.message-events",
        "$JS.API.STREAM.CREATE.another",
        "$JS.API.CONSUMER.CREATE.message-events-dlq",
        "$JS.API.STREAM.MSG.DELETE.message-events",
        "$KV.message-events-lease.another",
    ] {
        for (client, refused) in [
            (&service, &refused_service),
            (&publisher, &refused_publisher),
            (&caller, &refused_caller),
        ] {
            publish(client, subject).await;
            until_refused(refused, subject).await;
        }
    }
    for subject in [
        "message-events-dlq.1",
        "$KV.message-events-lease.owner",
        "$JS.API.CONSUMER.CREATE.message-events",
        "readstates.internal.v1.partition.1.stamp",
    ] {
        publish(&publisher, subject).await;
        until_refused(&refused_publisher, subject).await;
    }
    // The service reads the stream, and does not write there.
    publish(&service, "message-events.1").await;
    until_refused(&refused_service, "message-events.1").await;
    // Counting what waits, while a partition is paused.
    let before = refused_service.lock().unwrap().len();
    publish(&service, "$JS.API.CONSUMER.DELETE.message-events.nobody").await;
    let _ = tokio::time::timeout(Duration::from_millis(200), std::future::pending::<()>()).await;
    assert_eq!(
        refused_service.lock().unwrap().len(),
        before,
        "{refused_service:?}"
    );
}

async fn until_refused(refused: &Mutex<Vec<String>>, subject: &str) {
    let expected = format!(
        "permissions violation for publish to \"{}\"",
        subject.to_lowercase()
    );
    let end = Instant::now() + DEADLINE;
    while !refused
        .lock()
        .unwrap()
        .iter()
        .any(|said| said.contains(&expected))
    {
        assert!(Instant::now() < end, "{subject} is not refused: {refused:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn a_dead_letter_arrives(nats: &Nats) {
    let (publisher, _) = client(&nats.url(), "publisher").await;
    publish(&publisher, "message-events.1").await;
    let context = async_nats::jetstream::new(publisher);
    let end = Instant::now() + DEADLINE;
    loop {
        let letters = context.get_stream("message-events-dlq").await.unwrap();
        if letters.cached_info().state.messages == 1 {
            return;
        }
        assert!(Instant::now() < end, "no dead letter");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Without one of them, the log names the subject, and where all of them are.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_named() {
    for without in [
        "\"$JS.API.STREAM.INFO.message-events\"",
        "\"$JS.API.STREAM.CREATE.message-events\"",
        "\"$JS.API.CONSUMER.CREATE.message-events\"",
        "\"$JS.API.CONSUMER.MSG.NEXT.message-events.*\"",
        "\"$JS.API.STREAM.MSG.GET.message-events\"",
        "\"$KV.message-events-lease.owner\"",
        "\"$JS.API.DIRECT.GET.KV_message-events-lease.$KV.message-events-lease.owner\"",
        "\"$JS.API.STREAM.CREATE.KV_message-events-lease\"",
    ] {
        let dir = fresh_dir("not-granted");
        let line = format!("        {without}\n");
        let nats = block_in_place(|| server(&dir, &[&line]));
        let service = deployment(&dir, &nats, "readstates").serve("service", &[]);
        let subject = without.trim_matches('"').trim_end_matches('*').to_lowercase();
        let is_named = || {
            let lines = service.log_lines();
            lines.iter().any(|line| {
                let line = line.to_lowercase();
                line.contains("permissions violation")
                    && line.contains(&subject)
                    && line.contains("deploy/nats")
            })
        };
        block_in_place(|| wait_for(without, DEADLINE, is_named));
        println!("{}", service.log_tail());
    }
}
