//! Proves with a nats-server that runs with `deploy/nats/nats-server.conf` that the permissions in there are enough for
//! the service and for who asks it, and that callers can do nothing else: not listen to others, not speak to
//! instances as one of them, and not answer in the service's place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod support {
    pub mod callers;
    pub mod fakes;
    pub mod servers;
}

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use futures::StreamExt;
use readstates::config::{Config, Nats};
use readstates::model::ids::{LogPosition, Offset, PartitionId};
use readstates::model::read_state::ReadState;
use readstates::query::REQUESTS_IN_WORK_MAX;
use readstates::wire::proto::v1;

use support::callers::{Deployment, code, until};
use support::fakes::{PARTITIONS, World, channel_in, key};
use support::servers;

/// The server with the passwords of the file set: each user's is its name.
fn server(dir: &Path) -> servers::Nats {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats/nats-server.conf");
    let mut text = fs::read_to_string(example).unwrap();
    for user in ["readstates", "caller", "operator", "publisher"] {
        let variable = format!("${}_PASSWORD", user.to_uppercase());
        assert!(text.contains(&variable), "{variable}");
        text = text.replace(&variable, &format!("\"{user}\""));
    }
    let config = dir.join("nats-server.conf");
    fs::write(&config, text).unwrap();
    servers::Nats::start_with(&[&format!("config={}", config.display())])
}

/// As the program itself would be configured.
fn service(dir: &Path, url: &str) -> Nats {
    let password = dir.join("password");
    fs::write(&password, "readstates\n").unwrap();
    let set = [
        ("nats.url", url),
        ("nats.user", "readstates"),
        ("nats.password_file", password.to_str().unwrap()),
    ];
    let flags: Vec<_> = set
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    Config::load(&flags, None, std::iter::empty()).unwrap().nats
}

/// A client, and what the server has refused it.
async fn client(url: &str, user: &str, inbox_prefix: &str) -> (Client, Arc<Mutex<Vec<String>>>) {
    let refused = Arc::new(Mutex::new(Vec::new()));
    let told = refused.clone();
    let client = ConnectOptions::new()
        .user_and_password(user.to_owned(), user.to_owned())
        .custom_inbox_prefix(inbox_prefix)
        .event_callback(move |event| {
            if let Event::ServerError(error) = event {
                told.lock().unwrap().push(error.to_string());
            }
            std::future::ready(())
        })
        .connect(url)
        .await
        .unwrap();
    (client, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_permissions_are_enough_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let url = server.url();
    let (caller, refused) = client(&url, "caller", "_INBOX_caller").await;
    let nats = service(dir.path(), &url);
    let Deployment {
        world,
        instances,
        caller,
        ..
    } = Deployment::start_as(&nats, caller, "readstates", 2, REQUESTS_IN_WORK_MAX).await;

    // Keys of all partitions, of which each instance owns every other one.
    let keys: Vec<_> = (0..PARTITIONS)
        .map(|n| key(1, channel_in(PartitionId(n))))
        .collect();
    for key in &keys {
        let row = ReadState {
            applied: LogPosition::new(0, Offset(5)),
            ..ReadState::default()
        };
        world.put_stored(World::answer(*key), row);
    }
    let request = v1::GetRequest {
        keys: keys.iter().copied().map(v1::Key::from).collect(),
        ..v1::GetRequest::default()
    };
    let everything = v1::OverviewRequest {
        user_id: 1,
        ..v1::OverviewRequest::default()
    };
    // Either instance may have answered; so often both have.
    for _ in 0..20 {
        assert_eq!(caller.get(&request).await.unwrap().len(), keys.len());
        let overview = caller.overview(&everything).await.unwrap();
        assert_eq!(overview.read_states.len(), keys.len());
        let (subject, key) = (caller.subjects.explain(), v1::Key::from(keys[0]));
        let explained: v1::ExplainReply = caller.ask(&subject, &key).await.unwrap();
        assert!(!explained.lines.is_empty());
    }
    let status = caller.subjects.status();
    assert_eq!(caller.gather(&status, b"").await.len(), 2);
    assert_eq!(refused.lock().unwrap().len(), 0, "{refused:?}");

    let (operator, refused_operator) = client(&url, "operator", "_INBOX").await;
    let people = support::callers::Caller {
        client: operator,
        subjects: caller.subjects.clone(),
    };
    assert_eq!(people.gather("$SRV.INFO.readstates", b"").await.len(), 2);
    assert_eq!(people.get(&request).await.unwrap().len(), keys.len());
    assert_eq!(refused_operator.lock().unwrap().len(), 0, "{refused_operator:?}");

    callers_can_do_nothing_else(&caller, &refused).await;
    assert_eq!(caller.get(&request).await.unwrap().len(), keys.len());
    for instance in instances {
        instance.service.stop(Duration::from_secs(5)).await;
    }
}

async fn callers_can_do_nothing_else(caller: &support::callers::Caller, refused: &Arc<Mutex<Vec<String>>>) {
    let client = &caller.client;
    let get = caller.subjects.get();
    let mut overheard = Vec::new();
    for subject in [
        "readstates.>",
        ">",
        "readstates.internal.>",
        get.as_str(),
        "_INBOX.>",
        "_INBOX_other.>",
        "$SRV.>",
    ] {
        overheard.push(client.subscribe(subject.to_owned()).await.unwrap());
        until(async || is_refused(refused, "Subscription", subject)).await;
    }
    // Answering in the service's place.
    let queue = client.queue_subscribe(get.clone(), "readstates".to_owned());
    overheard.push(queue.await.unwrap());
    for subject in [
        "readstates.internal.v1.partition.3.stamp",
        "readstates.internal.v1.partition.3.overview",
        "readstates.internal.v1.partition.3.explain",
        "_INBOX.of.someone",
        "$SRV.PING",
        "$JS.API.STREAM.NAMES",
        "$SYS.REQ.SERVER.PING",
        "message-events.3",
    ] {
        client
            .publish_with_reply(subject.to_owned(), client.new_inbox(), "".into())
            .await
            .unwrap();
        until(async || is_refused(refused, "Publish", subject)).await;
    }
    for _ in 0..20 {
        let reply = caller.raw(&get, &[], &[0xff]).await;
        assert_eq!(code(&reply), Some(400), "an instance answers, not this client");
    }
    let heard = futures::future::join_all(overheard.iter_mut().map(|subscriber| {
        let quiet = tokio::time::sleep(Duration::from_millis(300));
        subscriber.take_until(quiet).count()
    }));
    assert_eq!(heard.await.into_iter().sum::<usize>(), 0);
}

fn is_refused(refused: &Mutex<Vec<String>>, what: &str, subject: &str) -> bool {
    let expected = format!("Permissions Violation for {what} to \"{subject}\"").to_lowercase();
    let refused = refused.lock().unwrap();
    refused.iter().any(|said| said.to_lowercase().contains(&expected))
}
