//! Proves what programs get that ask through `readstates::client`, over a real nats-server: typed answers and errors, what
//! is asked again and what is not, and that the time they gave is kept, whatever the service and the network do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod support {
    pub mod callers;
    pub mod fakes;
    pub mod proxy;
    pub mod servers;
}

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use readstates::client::{Answer, AskError, CannotConnect, Client, Options, Positions};
use readstates::model::ids::{ChannelId, MessageId, Offset, PartitionId, ReadStateKey, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io;
use readstates::wire::proto::v1;
use support::callers::{Deployment, server};
use support::fakes::{PARTITIONS, World, channel_in, key, partition};
use support::proxy::Proxy;
use tokio::task::JoinHandle;

/// An error comes so long after the deadline at the latest, on a machine that is not too busy.
const LATE_MAX: Duration = Duration::from_millis(100);

async fn client(name: &str) -> Client {
    let options = Options::new(&server().url()).subject_prefix(name);
    Client::connect(options).await.unwrap()
}

/// Who answers in the place of a service: each question in turn as the script says, the last line for all that follow.
struct Scripted {
    asked: Arc<Mutex<Vec<u64>>>,
    answering: JoinHandle<()>,
}

#[derive(Clone, Copy)]
enum Line {
    Error(u16),
    /// Takes so long.
    SlowError(u16, Duration),
    Answer,
    Silence,
}

impl Scripted {
    async fn start(name: &str, script: &'static [Line]) -> Self {
        let nats = async_nats::connect(server().url()).await.unwrap();
        let mut questions = nats.subscribe(format!("{name}.v1.get")).await.unwrap();
        nats.flush().await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        let answering = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let headers = question.headers.as_ref().unwrap();
                let timeout_ms = headers.get("readstates-timeout-ms").unwrap().as_str();
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(timeout_ms.parse().unwrap());
                    seen.len() - 1
                };
                let line = script[number.min(script.len() - 1)];
                let (reply, nats) = (question.reply.unwrap(), nats.clone());
                tokio::spawn(async move {
                    let code = match line {
                        Line::Silence => return,
                        Line::Answer => {
                            let request = v1::GetRequest::decode(question.payload).unwrap();
                            let read_states = request.keys.iter().map(|key| v1::ReadState {
                                user_id: key.user_id,
                                channel_id: key.channel_id,
                                unread_count: 3,
                                ..Default::default()
                            });
                            let reply_of = v1::GetReply {
                                read_states: read_states.collect(),
                            };
                            return nats
                                .publish(reply, reply_of.encode_to_vec().into())
                                .await
                                .unwrap();
                        }
                        Line::Error(code) => code,
                        Line::SlowError(code, after) => {
                            tokio::time::sleep(after).await;
                            code
                        }
                    };
                    let mut headers = HeaderMap::new();
                    headers.insert("Nats-Service-Error-Code", code.to_string());
                    headers.insert("Nats-Service-Error", format!("as scripted: {code}"));
                    nats.publish_with_headers(reply, headers, "".into())
                        .await
                        .unwrap();
                });
            }
        });
        Scripted { asked, answering }
    }

    /// `readstates-timeout-ms` of each question so far.
    fn asked(&self) -> Vec<u64> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_what_the_service_says() {
    let deployment = Deployment::start("cl_all", 2).await;
    let client = client("cl_all").await;
    let keys: Vec<ReadStateKey> = (1..=20).map(|channel| key(3, channel)).collect();
    for key in &keys {
        let row = ReadState::default();
        let answer = io::Answer {
            unread_capped: key.channel.0 == 2,
            ..World::answer(*key)
        };
        deployment.world.put_stored(answer, row);
    }
    let got = client.get(keys.clone()).await.unwrap();
    assert_eq!(got.len(), keys.len());
    for (state, key) in got.iter().zip(&keys) {
        let expected = World::answer(*key);
        assert_eq!((state.user, state.channel), (key.user, key.channel));
        assert_eq!(
            (state.last_read, state.last_message),
            (expected.last_read, expected.last_message)
        );
        let counts = (state.unread.number, state.mentions.number);
        assert_eq!(counts, (expected.unread, expected.mentions));
        assert_eq!(state.unread.is_capped, key.channel.0 == 2);
        let at = state.position.unwrap();
        assert_eq!((at.partition, at.offset), (partition(key.channel.0), Offset(5)));
    }
    assert!(got[1].unread.to_string().ends_with('+'));

    // Pages of 3 are the same as one of all.
    let overview = client.overview(UserId(3)).await.unwrap();
    assert_eq!((&overview.read_states, overview.has_more), (&got, false));
    let paged = client.overview(UserId(3)).limit(3).all().await.unwrap();
    assert_eq!(paged, overview);
    let pages: Vec<_> = client
        .overview(UserId(3))
        .limit(3)
        .pages()
        .try_collect()
        .await
        .unwrap();
    let more: Vec<_> = pages.iter().map(|page| page.has_more).collect();
    assert_eq!(more, [true, true, true, true, true, true, false]);
    let above = client
        .overview(UserId(3))
        .after(ChannelId(18))
        .only_unread()
        .await
        .unwrap();
    let channels: Vec<_> = above.read_states.iter().map(|it| it.channel.0).collect();
    assert_eq!(channels, [19, 20]);

    let explained = client.explain(keys[0]).await.unwrap();
    assert_eq!(explained.read_state, got[0]);
    assert!(!explained.lines.is_empty() && !explained.facts.is_empty());

    let status = client.status().await.unwrap();
    assert_eq!(status.instances.len(), 2);
    assert_eq!(
        (status.partition_count(), status.is_complete()),
        (PARTITIONS, true)
    );
    assert_eq!(status.partitions().len(), PARTITIONS as usize);
    assert!(status.errors.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_there_can_be_used() {
    let _deployment = Deployment::start("cl_shared", 1).await;
    let nats = async_nats::connect(server().url()).await.unwrap();
    let client = Client::from_nats(nats, "cl_shared");
    assert_eq!(client.get([]).await, Ok(vec![]));
    assert_eq!(
        client.get([key(1, 1)]).await.unwrap()[0].last_read,
        MessageId::NONE
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_reached_is_named_where_that_is_asked_for() {
    let deployment = Deployment::start("cl_partial", 1).await;
    let client = client("cl_partial").await;
    let gone = PartitionId(2);
    let (there, missing) = (channel_in(PartitionId(1)), channel_in(gone));
    deployment.instances[0].partitions.lose(gone);
    let keys = [key(1, there), key(1, missing)];
    let timeout = Duration::from_millis(600);
    let answers = client.get(keys).timeout(timeout).partial().await.unwrap();
    assert!(matches!(&answers[0], Answer::Known(it) if it.channel.0 == there));
    assert_eq!(answers[1], Answer::Unavailable(keys[1]));
    let failed = client.get(keys).timeout(timeout).await.unwrap_err();
    assert_eq!((failed.code(), failed.is_passing()), (503, true), "{failed}");
    let overview = client
        .overview(UserId(1))
        .timeout(timeout)
        .partial()
        .await
        .unwrap();
    assert_eq!(overview.missing_partitions, [gone]);
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_are_waited_for() {
    let deployment = Deployment::start("cl_after", 1).await;
    let client = client("cl_after").await;
    let channel = channel_in(PartitionId(1));
    let mut seen: Positions = "1:7".parse().unwrap();
    let asking = tokio::spawn(client.get([key(1, channel)]).after(&seen).into_future());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!asking.is_finished());
    deployment.world.apply(PartitionId(1), Offset(7));
    assert_eq!(asking.await.unwrap().unwrap().len(), 1);
    // One that never comes.
    seen.add("1:8".parse().unwrap());
    let began = Instant::now();
    let question = client.get([key(1, channel)]).after(&seen);
    let failed = question.timeout(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(failed, AskError::TimedOut(_)), "{failed}");
    assert!(
        began.elapsed() >= Duration::from_millis(250),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_comes_up_within_the_time_answers() {
    let client = client("cl_late").await;
    let asking = client.get([key(1, 1)]).timeout(Duration::from_secs(30));
    let overview = client.overview(UserId(1)).timeout(Duration::from_secs(30));
    let (asking, overview) = (
        tokio::spawn(asking.into_future()),
        tokio::spawn(overview.into_future()),
    );
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!asking.is_finished() && !overview.is_finished());
    let _deployment = Deployment::start("cl_late", 1).await;
    assert_eq!(asking.await.unwrap().unwrap()[0].channel, ChannelId(1));
    assert_eq!(overview.await.unwrap().unwrap().read_states, []);
}

/// Asks up to three times: the machine may be busy for a moment.
async fn check_kept(client: &Client, timeout: Duration, code: u16) {
    let mut late = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let failed = client.get([key(1, 1)]).timeout(timeout).await.unwrap_err();
        let took = began.elapsed();
        assert_eq!(failed.code(), code, "{failed}");
        assert!(took + LATE_MAX >= timeout, "{took:?} of {timeout:?}: {failed}");
        if took <= timeout + LATE_MAX {
            return;
        }
        late.push(took);
    }
    panic!("{late:?} instead of {timeout:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_told_at_the_deadline() {
    let client = client("cl_nobody").await;
    for timeout_ms in [1, 50, 700] {
        check_kept(&client, Duration::from_millis(timeout_ms), 503).await;
    }
    let began = Instant::now();
    let failed = client
        .get([key(1, 1)])
        .timeout(Duration::from_secs(20))
        .once()
        .await;
    let failed = failed.unwrap_err();
    assert!(
        failed
            .to_string()
            .starts_with("503 nobody answers on cl_nobody.v1.get"),
        "{failed}"
    );
    assert!(began.elapsed() < Duration::from_secs(10), "asked once");
    assert!(
        client
            .status()
            .wait(Duration::from_millis(200))
            .await
            .unwrap()
            .instances
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_pass_is_asked_again_with_the_time_that_is_left() {
    use Line::{Answer, Error};
    let scripted = Scripted::start(
        "cl_again",
        &[Error(503), Error(429), Error(504), Error(503), Answer],
    )
    .await;
    let client = client("cl_again").await;
    let got = client
        .get([key(1, 9)])
        .timeout(Duration::from_secs(20))
        .await
        .unwrap();
    assert_eq!((got[0].channel, got[0].unread.number), (ChannelId(9), 3));
    let asked = scripted.asked();
    assert_eq!(asked.len(), 5);
    assert!(
        asked.is_sorted_by(|a, b| a > b) && asked[0] <= 20_000,
        "{asked:?}"
    );
    // Pauses of 20, 40, 80 and 160 ms, each shortened by a half at most.
    assert!(asked[0] - asked[4] >= 140, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_pass_is_asked_once() {
    for (name, script, code) in [
        ("cl_400", &[Line::Error(400)][..], 400),
        ("cl_413", &[Line::Error(413)], 413),
    ] {
        let scripted = Scripted::start(name, script).await;
        let began = Instant::now();
        let failed = client(name)
            .await
            .get([key(1, 1)])
            .timeout(Duration::from_secs(20))
            .await;
        let failed = failed.unwrap_err();
        assert_eq!((failed.code(), failed.is_passing()), (code, false));
        assert_eq!(failed.to_string(), format!("{code} as scripted: {code}"));
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(scripted.asked().len(), 1);
    }
    let scripted = Scripted::start("cl_once", &[Line::Error(503)]).await;
    let failed = client("cl_once").await.get([key(1, 1)]).once().await.unwrap_err();
    assert_eq!((failed.code(), scripted.asked().len()), (503, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_service_is_not_asked_more_and_more() {
    let scripted = Scripted::start("cl_429", &[Line::Error(429)]).await;
    let client = client("cl_429").await;
    check_kept(&client, Duration::from_millis(1500), 429).await;
    // Pauses grow: 20, 40, … 320, 500, each at least half of that.
    let asked = scripted.asked();
    assert!(
        (3..=16).contains(&(asked.len() / asked.iter().filter(|it| **it >= 1490).count().max(1))),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_got_lost_is_asked_again() {
    let scripted = Scripted::start("cl_lost", &[Line::Silence, Line::Answer]).await;
    let client = client("cl_lost").await;
    let got = client
        .get([key(1, 1)])
        .timeout(Duration::from_secs(20))
        .await
        .unwrap();
    assert_eq!((got.len(), scripted.asked().len()), (1, 2));
    // Silence to the end is the 504 of the client itself.
    let scripted = Scripted::start("cl_silent", &[Line::Silence]).await;
    check_kept(&self::client("cl_silent").await, Duration::from_millis(1300), 504).await;
    assert!(scripted.asked().len() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_counts_although_it_was_asked_again() {
    // The first question is answered after the second was asked; the second never is.
    let slow = Line::SlowError(400, Duration::from_millis(1400));
    let script: &'static [Line] = Box::leak(Box::new([slow, Line::Silence]));
    let scripted = Scripted::start("cl_slow", script).await;
    let began = Instant::now();
    let failed = client("cl_slow")
        .await
        .get([key(1, 1)])
        .timeout(Duration::from_secs(30))
        .await;
    assert_eq!(failed.unwrap_err().code(), 400);
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(scripted.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_is_kept_while_the_network_stands_still() {
    let _deployment = Deployment::start("cl_stall", 1).await;
    let url = server().url();
    let proxy = Proxy::start(url.trim_start_matches("nats://")).await;
    let options = Options::new(&proxy.address()).subject_prefix("cl_stall");
    let client = Client::connect(options).await.unwrap();
    client.get([key(1, 1)]).await.unwrap();
    proxy.stall(true);
    check_kept(&client, Duration::from_millis(400), 504).await;
    // More than the connection has room for.
    let timeout = Duration::from_millis(500);
    let began = Instant::now();
    let many = (0..5000).map(|_| client.get([key(1, 1)]).timeout(timeout).into_future());
    let failed = futures::future::join_all(many).await;
    assert!(
        failed
            .iter()
            .all(|it| it.as_ref().is_err_and(|it| it.code() == 504))
    );
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // It goes on within the time of who asked meanwhile; and a connection that is cut is made again.
    let asking = tokio::spawn(
        client
            .get([key(1, 1)])
            .timeout(Duration::from_secs(30))
            .into_future(),
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.stall(false);
    asking.await.unwrap().unwrap();
    proxy.stall(true);
    let asking = tokio::spawn(
        client
            .get([key(1, 1)])
            .timeout(Duration::from_secs(30))
            .into_future(),
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.cut(false);
    proxy.stall(false);
    asking.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_not_connect_is_told_why() {
    let began = Instant::now();
    let away = Client::connect(Options::new("nats://127.0.0.1:1"))
        .await
        .unwrap_err();
    assert!(matches!(&away, CannotConnect::Unreachable(_)), "{away:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    for urls in ["http://one:4222", "nats://me:hunter2@one:4222", ""] {
        let wrong = Client::connect(Options::new(urls)).await.unwrap_err();
        assert!(matches!(&wrong, CannotConnect::Misconfigured(_)), "{wrong:?}");
        assert!(!wrong.to_string().contains("hunter2"));
    }
    let nowhere = Options::new(&server().url()).credentials_file("/nowhere");
    let wrong = Client::connect(nowhere).await.unwrap_err();
    assert!(
        matches!(&wrong, CannotConnect::Misconfigured(why) if why.contains("/nowhere")),
        "{wrong:?}"
    );

    let guarded = support::servers::Nats::start_with(&["--user", "gateway", "--pass", "swordfish"]);
    let options = Options::new(&guarded.url());
    for login in [
        options.clone(),
        options.clone().user_and_password("gateway", "shark"),
    ] {
        let refused = Client::connect(login).await.unwrap_err();
        assert!(
            matches!(&refused, CannotConnect::Refused(why) if !why.contains("shark")),
            "{refused:?}"
        );
    }
    let right = options.user_and_password("gateway", "swordfish");
    assert!(!format!("{right:?}").contains("swordfish"));
    let client = Client::connect(right).await.unwrap();
    assert_eq!(client.get([key(1, 1)]).once().await.unwrap_err().code(), 503);
}
