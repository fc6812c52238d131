//! Proves what the service with JetStream and an embedded store does while both fail, on a real nats-server that the test
//! hurts, with events published and questions asked all the time. Every answer on the way, and all counts at the end,
//! are compared with the oracle at their positions; memory and the log stay small; and it goes on by itself afterwards,
//! or ends with what to do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "bad_days_pair/load.rs"]
mod load;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::TryStreamExt;
use load::Load;
use readstates::store::embedded::EmbeddedStore;
use support::proxy::Proxy;
use support::servers::{Nats, fresh_dir, wait_for};
use support::service::{Deployment, Service};
use tokio::task::block_in_place;
use tokio::time::sleep;

const NAME: &str = "pair";
const PARTITIONS: u32 = 4;
/// The partition whose dead letter can't be written.
const HELD: u32 = 2;
/// How long it may take until everything is answered again.
const RECOVERED_MAX: Duration = Duration::from_secs(40);
/// Lines that an outage may cost. Two connections are lost, fail more and more rarely, and are back: eight; JetStream, the
/// stream and the lease: two each.
const OUTAGE_LINES_MAX: usize = 16;
/// What the service may need more in the end than in the beginning.
const GROWN_MAX_BYTES: u64 = 60 << 20;
/// Room that the journal has left when the disk is full for the service.
const ROOM_BYTES: u64 = 30_000;

/// The log says these at its own rate.
const EVERYDAY_LINES: &[&str] = &["a record can't be used"];

struct Day {
    load: Load,
    deployment: Deployment,
    service: Service,
    context: jetstream::Context,
}

impl Day {
    fn stream(&self) -> String {
        format!("{NAME}-events")
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = self.service.log_lines();
        lines.retain(|line| !EVERYDAY_LINES.iter().any(|everyday| line.contains(everyday)));
        lines
    }

    /// Waits until everything that was published is answered, and tells how the trouble went.
    async fn over(&mut self, name: &str, began: Instant, lines_before: usize, lines_max: usize) {
        let (lasted, since) = (began.elapsed(), Instant::now());
        self.load.settle(RECOVERED_MAX).await;
        let settled = since.elapsed();
        self.service.assert_runs();
        block_in_place(|| {
            wait_for("all is said to be well again", RECOVERED_MAX, || {
                self.is_said_to_be_well()
            })
        });
        let lines = self.lines().split_off(lines_before);
        println!(
            "{name}: {lasted:.1?}, all answered {settled:.1?} later, {} MiB; {:?}; log: {lines:#?}",
            self.service.resident_bytes() >> 20,
            self.load.take_tally(),
        );
        assert!(lines.len() <= lines_max, "{} lines: {lines:#?}", lines.len());
    }

    /// Answers may come before the line that says so.
    fn is_said_to_be_well(&self) -> bool {
        let log = self.service.log();
        let said = |line: &str| log.matches(line).count();
        said("JetStream can't be reached") <= said("JetStream answers again")
            && said("the stream can't be read") <= said("the stream is read again")
    }

    /// Starts an instance in place of the one that has ended.
    async fn restart(&mut self, name: &str) {
        let began = Instant::now();
        self.load.forget_durable();
        self.service = self.deployment.serve(name, &[]);
        self.load.settle(RECOVERED_MAX).await;
        println!(
            "{name}: all answered after {:.1?}; {:?}",
            began.elapsed(),
            self.load.take_tally()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetstream_and_the_embedded_store_fail() {
    let mut server = block_in_place(Nats::start);
    let proxy = Proxy::start(server.url().trim_start_matches("nats://")).await;
    let folder = fresh_dir(NAME).join("store");
    let deployment = Deployment {
        name: NAME.to_owned(),
        brokers: "127.0.0.1:1".to_owned(),
        nats: format!("nats://{}", proxy.address()),
        cassandra: "127.0.0.1:1".to_owned(),
        partitions: PARTITIONS,
        settings: vec![
            ("stream.kind", "jetstream".to_owned()),
            ("store.kind", "embedded".to_owned()),
            ("store.embedded.path", folder.to_str().unwrap().to_owned()),
            ("store.write_delay", "1s".to_owned()),
            ("cache.read_states", "50000".to_owned()),
        ],
    };
    let service = deployment.serve("first", &[]);
    wait_for("it owns the partitions", RECOVERED_MAX, || {
        service.log().contains("took over")
    });
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut day = Day {
        load: Load::start(&server.url(), NAME, PARTITIONS).await,
        deployment,
        service,
        context: jetstream::new(client),
    };
    sleep(Duration::from_secs(3)).await;
    day.load.settle(RECOVERED_MAX).await;
    let usual_bytes = day.service.resident_bytes();

    fail_the_server(&mut day, &mut server, &proxy).await;
    delete_consumers(&mut day).await;
    fail_dead_letters(&mut day).await;
    let bytes = day.service.resident_bytes();
    assert!(
        bytes < usual_bytes + GROWN_MAX_BYTES,
        "{usual_bytes} before, {bytes} after"
    );
    fail_the_process(&mut day, &folder).await;
    fill_the_disk(&mut day, &folder).await;

    day.load.finish(&day.context, &day.stream()).await;
    assert_eq!(
        block_in_place(|| day.service.terminate()).code(),
        Some(0),
        "{}",
        day.service.log_tail()
    );
}

async fn fail_the_server(day: &mut Day, server: &mut Nats, proxy: &Proxy) {
    let (began, lines) = (Instant::now(), day.lines().len());
    block_in_place(|| server.stop());
    sleep(Duration::from_secs(20)).await;
    block_in_place(|| server.restart());
    day.over("nats-server stopped for 20 s", began, lines, OUTAGE_LINES_MAX)
        .await;

    let (began, lines) = (Instant::now(), day.lines().len());
    block_in_place(|| {
        server.kill9();
        server.restart();
    });
    day.over("nats-server killed", began, lines, OUTAGE_LINES_MAX)
        .await;

    let (began, lines) = (Instant::now(), day.lines().len());
    proxy.cut(true);
    sleep(Duration::from_secs(7)).await;
    proxy.cut(false);
    day.over("connections cut for 7 s", began, lines, OUTAGE_LINES_MAX)
        .await;
}

async fn delete_consumers(day: &mut Day) {
    let (began, lines) = (Instant::now(), day.lines().len());
    for _ in 0..5 {
        let raw = day.context.get_stream(day.stream()).await.unwrap();
        let names: Vec<String> = raw.consumer_names().try_collect().await.unwrap();
        for name in names {
            // Some are gone by themselves.
            let _ = raw.delete_consumer(&name).await;
        }
        sleep(Duration::from_millis(700)).await;
    }
    day.over("consumers deleted", began, lines, 0).await;
}

async fn fail_dead_letters(day: &mut Day) {
    let letters = format!("{}-dlq", day.stream());
    let limit = async |max_bytes: i64| {
        let mut stream = day.context.get_stream(&letters).await.unwrap();
        let mut config = stream.info().await.unwrap().config.clone();
        config.max_bytes = max_bytes;
        config.discard = jetstream::stream::DiscardPolicy::New;
        day.context.update_stream(config).await.unwrap();
    };
    let (began, lines) = (Instant::now(), day.lines().len());
    limit(1).await;
    let subject = format!("{}.{HELD}", day.stream());
    let published = day.context.publish(subject, "no event".into()).await.unwrap();
    let held = published.await.unwrap().sequence;
    let is_paused = || day.service.metric("readstates_source_paused", "dead_letters") == 1.0;
    block_in_place(|| wait_for("the partition waits", RECOVERED_MAX, is_paused));
    let applied = |label: &str| day.service.metric("readstates_applied_offset", label);
    let other = applied("partition=\"0\"");
    sleep(Duration::from_secs(4)).await;
    assert!(is_paused());
    assert!(
        applied(&format!("partition=\"{HELD}\"")) < held as f64,
        "nothing goes past the record"
    );
    assert!(applied("partition=\"0\"") > other, "other partitions go on");
    limit(-1).await;
    day.over("a dead letter that can't be written", began, lines, 4)
        .await;
    let log = day.service.log();
    assert!(log.contains("can't deliver a dead letter") && log.contains("delivered again"));
    let found = day.context.get_stream(&letters).await.unwrap();
    assert_eq!(found.cached_info().state.messages, 1);
}

async fn fail_the_process(day: &mut Day, folder: &Path) {
    block_in_place(|| day.service.kill9());
    day.restart("killed").await;

    // Files that are open can be written, so it goes on; what was in the folder is replayed from the stream.
    sleep(Duration::from_secs(2)).await;
    fs::remove_dir_all(folder).unwrap();
    sleep(Duration::from_secs(3)).await;
    day.load.settle(RECOVERED_MAX).await;
    let ended = block_in_place(|| day.service.terminate());
    println!(
        "after its folder was removed: {ended}: {}",
        day.service.log_tail()
    );
    day.restart("without a folder").await;
    let replayed = day.service.metric("readstates_events_total", "");
    assert!(replayed > 500.0, "everything is replayed: {replayed} events");
}

async fn fill_the_disk(day: &mut Day, folder: &Path) {
    assert!(block_in_place(|| day.service.terminate()).success());
    // Opened again, its journal has the size of what is in it.
    drop(EmbeddedStore::open(folder).await.unwrap());
    // Without the signal that comes with this limit, a write past it fails like one to a full disk.
    let limit = format!("--fsize={}", largest(folder) + ROOM_BYTES);
    let by = ["prlimit", &limit, "env", "--ignore-signal=XFSZ"];
    let began = Instant::now();
    day.load.forget_durable();
    day.service = day
        .deployment
        .serve_by("full", &[("log.level", "info".to_owned())], &by);
    let status = block_in_place(|| day.service.wait_until_ended(Duration::from_secs(60)));
    let log = day.service.log();
    println!(
        "the disk was full after {:.1?}: {}",
        began.elapsed(),
        day.service.log_tail()
    );
    assert_eq!(status.code(), Some(1), "{log}");
    let told: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(
        told.len() == 1
            && told[0].contains("can't write any more")
            && told[0].contains(folder.to_str().unwrap()),
        "{told:#?}"
    );
    day.restart("with room again").await;
}

/// The size of the largest file below a folder.
fn largest(folder: &Path) -> u64 {
    let sizes = fs::read_dir(folder).unwrap().map(|entry| {
        let path: PathBuf = entry.unwrap().path();
        match path.is_dir() {
            true => largest(&path),
            false => fs::metadata(&path).unwrap().len(),
        }
    });
    sizes.max().unwrap_or(0)
}
