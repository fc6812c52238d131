//! Kafka and NATS killed and restarted, dead letters that can't be written, and a store that is put back to an older copy.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use readstates::oracle::Limits;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::load::{Load, Seen};
use crate::support::servers::{Cassandra, Kafka, Nats, wait_for};
use crate::support::service::Service;
use crate::whole_path::run::{Addresses, Run};

const LIMITS: Limits = Limits {
    max_unread_count: 10_000,
    max_direct_mentions: 1000,
};
const PARTITIONS: u32 = 6;
/// The partition whose dead letter can't be written.
const STUCK: u32 = 2;
/// How long it may take until everything is answered again once a server is there.
const RECOVERED_MAX: Duration = Duration::from_secs(30);
/// Lines that a trouble with Kafka may cost: gone, a commit that failed, back, and what librdkafka thinks of it.
const KAFKA_LINES_MAX: usize = 6;
const KAFKA_AGAIN: &str = "Kafka answers again";
/// Lines that a trouble with NATS may cost: lost, some failures (more and more rarely), and back.
const NATS_LINES_MAX: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_nats_and_dead_letters_fail_and_the_store_is_rolled_back() {
    let (mut kafka, mut nats, mut cassandra) = block_in_place(|| {
        std::thread::scope(|scope| {
            let kafka = scope.spawn(Kafka::start);
            let cassandra = scope.spawn(Cassandra::start);
            (kafka.join().unwrap(), Nats::start(), cassandra.join().unwrap())
        })
    });
    let addresses = Addresses {
        brokers: kafka.url(),
        nats: nats.url(),
        cassandra: cassandra.url(),
    };
    let settings = [("store.write_delay", "1s")];
    let run = Run::on(&addresses, "streams", PARTITIONS, LIMITS, &settings);
    let mut load = Load::start(run, &[]).await;
    sleep(Duration::from_secs(2)).await;

    fail_kafka(&mut load, &mut kafka).await;
    fail_nats(&mut load, &mut nats).await;
    fail_dead_letters(&mut load, &kafka.url()).await;
    roll_back(&mut load, &mut cassandra).await;

    let (run, mut service, publishing) = load.finish().await;
    assert_eq!(
        block_in_place(|| service.terminate()).code(),
        Some(0),
        "{}",
        service.log_tail()
    );
    run.check_all_is_durable(&publishing.ends()).await;
}

async fn fail_kafka(load: &mut Load, kafka: &mut Kafka) {
    let stopped = load.trouble("Kafka stopped gracefully, 5 s");
    block_in_place(|| kafka.stop());
    sleep(Duration::from_secs(5)).await;
    check_kafka(&*load, &load.seen(&stopped));
    block_in_place(|| kafka.restart());
    check_recovered(&load.over(stopped, Some(KAFKA_AGAIN)).await, KAFKA_LINES_MAX);

    let killed = load.trouble("Kafka killed, 8 s");
    kafka.kill9();
    sleep(Duration::from_secs(8)).await;
    check_kafka(&*load, &load.seen(&killed));
    block_in_place(|| kafka.restart());
    check_recovered(&load.over(killed, Some(KAFKA_AGAIN)).await, KAFKA_LINES_MAX);
}

/// Everything was answered, as of the last record.
fn check_kafka(load: &Load, tallies: &crate::probes::Tallies) {
    for tally in [&tallies.quiet, &tallies.busy, &tallies.fresh] {
        assert_eq!(tally.percent(), 100, "{tally:?}\n{}", load.service.log_tail());
    }
}

fn check_recovered(seen: &Seen, lines_max: usize) {
    assert!(seen.recovered_after < RECOVERED_MAX, "{:?}", seen.recovered_after);
    assert!(seen.lines.len() <= lines_max, "{:#?}", seen.lines);
}

async fn fail_nats(load: &mut Load, nats: &mut Nats) {
    let killed = load.trouble("NATS killed, 5 s");
    nats.kill9();
    let before = applied(&load.service, None);
    sleep(Duration::from_secs(5)).await;
    assert!(
        applied(&load.service, None) > before + 100.0,
        "the stream goes on without NATS"
    );
    block_in_place(|| nats.restart());
    let seen = load.over(killed, Some("connected to NATS")).await;
    check_recovered(&seen, NATS_LINES_MAX);
}

async fn fail_dead_letters(load: &mut Load, brokers: &str) {
    let letters = format!("{}.dlq", load.run.deployment.topic());
    load.stop_unusable();
    // What was published before must be through, or other partitions would stand still as well.
    sleep(Duration::from_secs(1)).await;
    let unwritable = load.trouble("a dead letter that can't be written");
    // Even its headers are too large.
    configure(brokers, &letters, &[("max.message.bytes", "1")]).await;
    load.publish_unusable(STUCK);
    let is_paused = || load.service.metric("readstates_source_paused", "dead_letters") == 1.0;
    block_in_place(|| wait_for("the partition waits", Duration::from_secs(10), is_paused));
    let (stuck_at, all_at) = (applied(&load.service, Some(STUCK)), applied(&load.service, None));
    sleep(Duration::from_secs(8)).await;
    assert!(is_paused());
    let still_at = applied(&load.service, Some(STUCK));
    assert_eq!(still_at, stuck_at, "nothing goes past the record");
    let went_on = applied(&load.service, None) - all_at;
    assert!(went_on > 100.0, "other partitions go on: {went_on} records");
    check_kafka(load, &load.seen(&unwritable));
    configure(brokers, &letters, &[]).await;
    let seen = load.over(unwritable, Some("delivered again")).await;
    check_recovered(&seen, 2);
    let goes_on = || load.service.metric("readstates_source_paused", "") == 0.0;
    block_in_place(|| wait_for("nothing is paused", RECOVERED_MAX, goes_on));
}

/// The sum of the applied offsets, or one of them.
fn applied(service: &Service, partition: Option<u32>) -> f64 {
    let label = partition.map_or_else(String::new, |partition| format!("partition=\"{partition}\""));
    service.metric("readstates_applied_offset", &label)
}

/// Gives a topic these settings, and no others.
async fn configure(brokers: &str, topic: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let mut config = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (name, value) in settings {
        config = config.set(name, value);
    }
    let altered = admin
        .alter_configs([&config], &AdminOptions::new())
        .await
        .unwrap();
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
}

/// The store is put back to an older copy: first under a service that stays up, which notices it and ends before it has
/// written or answered anything wrong, and then while no service runs.
async fn roll_back(load: &mut Load, cassandra: &mut Cassandra) {
    let (data, copy) = (cassandra.dir().join("data"), cassandra.dir().join("copy"));
    let copied = load.trouble("the store stopped for a copy");
    block_in_place(|| {
        cassandra.stop();
        copy_folder(&data, &copy);
        cassandra.restart();
    });
    load.over(copied, Some("the store works again")).await;
    sleep(Duration::from_secs(8)).await;

    block_in_place(|| {
        cassandra.stop();
        copy_folder(&copy, &data);
        cassandra.restart();
    });
    let began = Instant::now();
    let status = block_in_place(|| load.service.wait_until_ended(RECOVERED_MAX));
    let log = load.service.log_lines();
    assert_eq!(status.code(), Some(1), "{}", load.service.log_tail());
    let told: Vec<&String> = log.iter().filter(|line| line.contains("an older copy")).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    load.run.say(format_args!(
        "ended {:.1?} after the store was back: {}",
        began.elapsed(),
        told[0]
    ));
    load.restart_behind("1").await;
    sleep(Duration::from_secs(5)).await;

    assert_eq!(block_in_place(|| load.service.terminate()).code(), Some(0));
    block_in_place(|| {
        cassandra.stop();
        copy_folder(&copy, &data);
        cassandra.restart();
    });
    load.restart_behind("2").await;
}

fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}
