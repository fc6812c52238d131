//! Proves, on a real nats-server that the tests hurt, that the JetStream source goes on by itself where that is possible
//! (consumers that are deleted, a record that is lost on the way, an owner that stands still), tells what waits while it
//! is paused, and ends with what to do where records are gone: never does it skip one silently.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use futures::TryStreamExt;
use readstates::model::ids::{LogPosition, Offset, PartitionId};
use readstates::source::failure::{SourceFailure, StreamInfo};
use readstates::source::jetstream::{JetStreamSettings, JetStreamSource, prepare};
use support::owners::{DEADLINE, Positions, Recorder, Seen, Told, identity, until};
use support::proxy::Proxy;
use support::servers::Nats;
use tokio::sync::mpsc;
use tokio::task::block_in_place;

/// The source with owners that only take notes, of a stream of its own.
struct Member {
    settings: JetStreamSettings,
    stream: StreamInfo,
    owners: Recorder,
    source: JetStreamSource,
    failures: mpsc::Receiver<SourceFailure>,
    /// Not through what a test may put between the source and the server.
    context: Context,
}

impl Member {
    /// Of two partitions. `url`: what the source connects to.
    async fn start(server: &Nats, url: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let settings = JetStreamSettings {
            client: async_nats::connect(url).await.unwrap(),
            stream: format!("trouble-{}", COUNT.fetch_add(1, Ordering::Relaxed)),
            partitions: 2,
            replicas: 1,
            epoch: 0,
        };
        let stream = prepare(&settings).await.unwrap();
        let positions = Positions::default();
        let owners = Recorder::new(&positions, identity(&stream));
        let (source, failures) = JetStreamSource::start(&settings, &stream, owners.clone(), positions);
        let direct = async_nats::connect(server.url()).await.unwrap();
        Member {
            settings,
            stream,
            owners,
            source,
            failures,
            context: jetstream::new(direct),
        }
    }

    /// Publishes so many records into partition 0.
    async fn append(&self, count: usize) {
        let subject = self.settings.subject(PartitionId(0));
        for number in 0..count {
            let published = self
                .context
                .publish(subject.clone(), format!("record {number}").into());
            published.await.unwrap().await.unwrap();
        }
    }

    async fn until_offered(&self, count: usize) {
        let offered = || self.owners.see(0, |seen| seen.records.len());
        until("all are offered", || offered() >= count).await;
        assert_eq!(offered(), count);
    }

    async fn raw(&self) -> jetstream::stream::Stream {
        self.context.get_stream(&self.settings.stream).await.unwrap()
    }

    async fn failure(&mut self) -> String {
        let failure = tokio::time::timeout(DEADLINE, self.failures.recv()).await;
        failure.expect("it ends").unwrap().to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_told_while_a_partition_is_paused() {
    let server = block_in_place(Nats::start);
    let member = Member::start(&server, &server.url()).await;
    until("it owns them", || member.owners.owned().len() == 2).await;
    member.owners.set_refusing(0, true);
    let told = |count| {
        let owners = member.owners.clone();
        async move { until("the count", || owners.see(0, |seen| seen.beyond) == Some(count)).await }
    };
    member.append(700).await;
    told(700).await;
    member.append(300).await;
    told(1000).await;
    assert!(member.owners.see(0, |seen| seen.records.is_empty()));
    member.owners.set_refusing(0, false);
    member.until_offered(1000).await;
    told(0).await;
    member.source.stop().await.unwrap();
}

/// Its owner takes nothing any more, which is when it matters: the reader is busy offering then.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_stuck_is_taken_anew_and_then_given_up() {
    let server = block_in_place(Nats::start);
    let mut member = Member::start(&server, &server.url()).await;
    member.append(100).await;
    member.until_offered(100).await;
    member.owners.set_refusing(0, true);
    member.append(100).await;
    until("it is paused", || {
        member.source.stats().paused.load(Ordering::Relaxed) == 1
    })
    .await;
    let applied = LogPosition::new(0, Offset(90));
    member.owners.set_stuck(0, Some(applied));
    let assignments = || {
        member.owners.see(0, |seen| {
            let number = |told: &Told| match told {
                Told::Assign { assignment, .. } => Some(*assignment),
                _ => None,
            };
            seen.told.iter().filter_map(number).collect::<Vec<_>>()
        })
    };
    until("it is taken anew", || assignments().len() == 2).await;
    assert!(assignments()[0] < assignments()[1]);
    // Stuck at the same place again, there is no use in trying on.
    let said = member.failure().await;
    assert!(said.contains("partition 0 is stuck after record 90"), "{said}");
    assert_eq!(member.source.stats().paused.load(Ordering::Relaxed), 0);
    assert!(member.owners.see(1, Seen::owned), "the other one goes on");
    member.source.stop().await.unwrap();
}

/// The last record of a partition is lost on its way, so that no later one shows the gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_lost_on_its_way_is_read_after_all() {
    let server = block_in_place(Nats::start);
    let proxy = Proxy::start(server.url().trim_start_matches("nats://")).await;
    let member = Member::start(&server, &format!("nats://{}", proxy.address())).await;
    member.append(20).await;
    member.until_offered(20).await;
    proxy.lose(b"record 0");
    member.append(1).await;
    until("it is lost", || proxy.has_lost()).await;
    assert_eq!(member.owners.see(0, |seen| seen.records.len()), 20);
    member.until_offered(21).await;
    assert_eq!(member.owners.see(0, Seen::offsets), (1..=21).collect::<Vec<_>>());
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_somebody_deletes_are_made_again() {
    let server = block_in_place(Nats::start);
    let mut member = Member::start(&server, &server.url()).await;
    for round in 0..5 {
        member.append(300).await;
        let raw = member.raw().await;
        let names: Vec<String> = raw.consumer_names().try_collect().await.unwrap();
        assert!(!names.is_empty());
        for name in names {
            raw.delete_consumer(&name).await.unwrap();
        }
        member.append(300).await;
        member.until_offered(600 * (round + 1)).await;
    }
    assert_eq!(
        member.owners.see(0, Seen::offsets),
        (1..=3000).collect::<Vec<_>>()
    );
    assert!(member.failures.try_recv().is_err());
    member.source.stop().await.unwrap();
}

/// A consumer goes on behind a gap as if nothing had been there.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_purged_before_they_were_read_are_not_skipped_silently() {
    let server = block_in_place(Nats::start);
    let mut member = Member::start(&server, &server.url()).await;
    member.append(100).await;
    member.until_offered(100).await;
    // All of these are read: purging them takes nothing.
    member.raw().await.purge().sequence(50).await.unwrap();
    member.owners.set_refusing(0, true);
    // More than may be on their way.
    member.append(2000).await;
    member.raw().await.purge().sequence(1900).await.unwrap();
    assert!(member.failures.try_recv().is_err());
    member.owners.set_refusing(0, false);
    let said = member.failure().await;
    assert!(
        said.contains("the stream begins at 1900") && said.contains("deleted before they were applied"),
        "{said}"
    );
    let offsets = member.owners.see(0, Seen::offsets);
    assert_eq!(offsets, (1..=offsets.len() as u64).collect::<Vec<_>>(), "no gap");
    member.source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_with_an_older_copy_is_refused() {
    let mut server = block_in_place(Nats::start);
    let mut member = Member::start(&server, &server.url()).await;
    member.append(50).await;
    member.until_offered(50).await;
    let (data, copy) = (server.dir().join("data"), server.dir().join("copy"));
    block_in_place(|| {
        server.stop();
        copy_folder(&data, &copy);
        server.restart();
    });
    // Taken anew by then or not: the lease may have run out.
    until("it is connected again", || {
        member.settings.client.connection_state() == async_nats::connection::State::Connected
    })
    .await;
    member.append(50).await;
    until("it has the last one", || {
        member.owners.see(0, |seen| seen.next() == 101)
    })
    .await;
    block_in_place(|| {
        server.stop();
        copy_folder(&copy, &data);
        server.restart();
    });
    let said = member.failure().await;
    assert!(
        said.contains("below sequence 101") && said.contains("restored from an older copy"),
        "{said} of {}",
        member.stream.stream_id
    );
    member.source.stop().await.unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// Says nothing while a stream is away, and refuses the one that is put in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_deleted_is_waited_for() {
    let server = block_in_place(Nats::start);
    let mut member = Member::start(&server, &server.url()).await;
    member.append(10).await;
    member.until_offered(10).await;
    member
        .context
        .delete_stream(&member.settings.stream)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(member.failures.try_recv().is_err(), "it may be restored");
    assert!(member.owners.see(0, Seen::owned), "answers go on");
    let replaced = prepare(&member.settings).await.unwrap();
    assert_ne!(replaced, member.stream);
    let said = member.failure().await;
    assert!(
        said.contains("made anew") && said.contains("stream.epoch"),
        "{said}"
    );
    member.source.stop().await.unwrap();
}
