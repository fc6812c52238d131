//! Proves the whole path on real servers, with the program as a process: events from Kafka or JetStream, rows in Cassandra
//! or in the embedded store, answers over NATS. Every answer is compared with the oracle at the position that it names, whatever was killed meanwhile.
//!
//! Each run has a seed, which a failure tells; `READSTATES_SEED` makes the same decisions again, though not the same
//! timing. `READSTATES_EVENTS` names the file of events to use; empty, they are made up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "instances/handover.rs"]
mod handover;
#[path = "instances/several.rs"]
mod several_instances;
#[path = "instances/standbys.rs"]
mod standbys;
mod support;
#[path = "whole_path/mod.rs"]
mod whole_path;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use readstates::oracle::Limits;
use readstates::wire::proto::v1::Event;
use support::servers::wait_for;
use support::service::Service;
use tokio::task::block_in_place;
use whole_path::asker::{Asker, Asking};
use whole_path::history;
use whole_path::publishing::Publishing;
use whole_path::rng::Rng;
use whole_path::run::{Run, alone, embedded, jetstream, shared_keys};

const LIMITS_DEFAULT: Limits = Limits {
    max_unread_count: 10_000,
    max_direct_mentions: 1000,
};
/// Of a thousand events, before so many a record comes that can't be used.
const UNUSABLE_PERMILLE: u64 = 12;
/// The most events that are published between two pauses.
const PORTION_MAX: u64 = 1500;

/// Publishes in portions, most by the command, the others by a producer with other forms and unusable records.
fn publish(publishing: &mut Publishing, events: &[Event], portion: usize) {
    for events in events.chunks(portion) {
        let (by_command, by_producer) = events.split_at(events.len() * 4 / 5);
        publishing.by_command(by_command);
        publishing.by_producer(by_producer, UNUSABLE_PERMILLE);
    }
}

/// A year goes through; all counts are right at the end, after a cold start with caches that hold next to nothing, and
/// after further events in such caches. SIGTERM leaves nothing to replay. What can't be used is in the dead letters.
async fn check_cold_starts(name: &'static str, pair: Vec<(&'static str, String)>) {
    let _alone = alone().await;
    let session = r#"{ "session.timeout.ms" = "6000" }"#;
    let settings = [("store.write_delay", "2s"), ("stream.kafka.properties", session)];
    let mut run = Run::new(name, 8, LIMITS_DEFAULT, &settings);
    run.deployment.settings.extend(pair);
    let (year, what) = history::year(run.seed);
    let events = history::mix(&year, run.seed);
    let keys = shared_keys(&events);
    run.say(format_args!(
        "{} events of {what} and more, {} keys",
        events.len(),
        keys.len()
    ));
    let (first, second) = events.split_at(events.len() * 85 / 100);

    let mut publishing = Publishing::new(&run.deployment, run.seed);
    let asker = Asker::new(&run.deployment, publishing.acknowledged()).await;
    let mut service = run.deployment.serve("warm", &[]);
    run.say(format_args!("live after {:.1?}", asker.wait_until_live().await));
    let began = Instant::now();
    block_in_place(|| publish(&mut publishing, first, 100_000));
    let published = began.elapsed();
    let (topic, truth) = block_in_place(|| run.truth());
    publishing.check_topic(&topic);
    let behind = asker.settle(&truth.ends()).await;
    let rate = first.len() as f64 / published.as_secs_f64();
    run.say(format_args!(
        "published {rate:.0} events/s; settled {behind:.1?} after the last one was read back"
    ));
    run.compare_all(&asker, &truth, &keys).await;
    let committed = run.wait_until_committed(&asker, &truth.ends()).await;
    run.say(format_args!(
        "all is committed {committed:.1?} later, while it runs"
    ));
    // rdkafka does not call back for commits that nobody waits for, so that the source once never learned of them.
    let ends: u64 = truth.ends().iter().flatten().sum();
    block_in_place(|| {
        wait_for(
            "the committed offsets in the metrics",
            Duration::from_secs(10),
            // In JetStream positions move on with the records of other partitions.
            || service.metric("readstates_committed_offset", "") >= ends as f64,
        );
    });

    let terminated = Instant::now();
    assert_eq!(
        block_in_place(|| service.terminate()).code(),
        Some(0),
        "{}",
        service.log_tail()
    );
    run.say(format_args!(
        "ended {:.1?} after SIGTERM; {:?}",
        terminated.elapsed(),
        service.complaints()
    ));
    run.check_all_is_durable(&truth.ends()).await;

    // Records that can't be used are all there is to catch up with.
    block_in_place(|| publishing.end_with_unusable());
    let (_, truth) = block_in_place(|| run.truth());
    let tiny = [
        ("cache.read_states", "400".to_owned()),
        ("cache.channel_memory", "1MiB".to_owned()),
    ];
    let mut service = run.deployment.serve("tiny", &tiny);
    run.say(format_args!(
        "live again after {:.1?}",
        asker.wait_until_live().await
    ));
    run.compare_all(&asker, &truth, &keys).await;
    assert_eq!(
        service.metric("readstates_events_total", ""),
        0.0,
        "nothing is replayed"
    );
    let asking = asker.ask_on(&keys, 3, run.seed);
    let began = Instant::now();
    block_in_place(|| publish(&mut publishing, second, 15_000));
    asker.settle(&publishing.ends()).await;
    let rate = second.len() as f64 / began.elapsed().as_secs_f64();
    let tally = asking.stop().await;
    run.say(format_args!(
        "published and applied with tiny caches {rate:.0} events/s; {tally:?}"
    ));
    let evicted = service.metric("readstates_cache_evictions_total", "");
    assert!(evicted > 1000.0, "{evicted} evictions");
    let (topic, truth) = block_in_place(|| run.truth());
    publishing.check_topic(&topic);
    run.compare_all(&asker, &truth, &keys).await;
    assert_eq!(
        block_in_place(|| service.terminate()).code(),
        Some(0),
        "{}",
        service.log_tail()
    );
    run.say(format_args!("{evicted} evictions; {:?}", service.complaints()));
    run.check_all_is_durable(&truth.ends()).await;

    let mut service = run.deployment.serve("cold", &[]);
    asker.wait_until_live().await;
    run.compare_all(&asker, &truth, &keys).await;
    assert_eq!(
        service.metric("readstates_events_total", ""),
        0.0,
        "nothing is replayed"
    );
    assert_eq!(
        block_in_place(|| service.terminate()).code(),
        Some(0),
        "{}",
        service.log_tail()
    );
    run.check_dead_letters(&topic, &publishing.unusable, false);
    run.say(format_args!("done; {:?}", publishing.usable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_counts_are_right_and_stay_right_after_cold_starts() {
    check_cold_starts("year", Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_counts_are_right_after_cold_starts_with_the_embedded_store() {
    check_cold_starts("year_embedded", embedded("year")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_counts_are_right_after_cold_starts_with_jetstream_and_the_embedded_store() {
    check_cold_starts("year_jetstream", [jetstream(), embedded("year")].concat()).await;
}

/// Whether events are published at this very moment.
struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Publishing>,
}

impl Stream {
    /// Publishes the events bit by bit, until they are through or it is stopped.
    fn start(mut publishing: Publishing, events: Vec<Event>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut rng = Rng::new(seed);
            let mut rest = &events[..];
            while !rest.is_empty() && !stopped.load(Ordering::SeqCst) {
                let (portion, later) =
                    rest.split_at(rng.between(1, PORTION_MAX).min(rest.len() as u64) as usize);
                rest = later;
                match rng.percent(40) {
                    true => publishing.by_command(portion),
                    false => publishing.by_producer(portion, UNUSABLE_PERMILLE),
                }
                std::thread::sleep(Duration::from_millis(rng.between(0, 400)));
            }
            publishing
        });
        Stream { stop, thread }
    }

    /// # Panics
    /// If everything was published already: then what was to happen meanwhile happened to nothing.
    fn stop(self) -> Publishing {
        assert!(!self.thread.is_finished(), "the events did not last");
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Somewhere in the year, with what is mixed in.
fn some_days(run: &mut Run, events: usize) -> Vec<Event> {
    let (year, what) = history::year(run.seed);
    let from = run.rng.index(year.len() - year.len().min(events) + 1);
    let days = &year[from..][..events.min(year.len() - from)];
    let events = history::mix(days, run.seed);
    run.say(format_args!(
        "{} events of {what} and more, from {from}",
        events.len()
    ));
    events
}

/// Publishing stops, everything settles, and all that was answered since the beginning is compared.
async fn finish(
    run: &mut Run,
    asker: &Asker,
    stream: Stream,
    asking: Asking,
    keys: &[(u64, u64)],
) -> Publishing {
    let publishing = block_in_place(|| stream.stop());
    let settled = asker.settle(&publishing.ends()).await;
    let tally = asking.stop().await;
    run.say(format_args!(
        "published {:?}, settled after {settled:.1?}; {tally:?}",
        publishing.usable
    ));
    let (topic, truth) = block_in_place(|| run.truth());
    publishing.check_topic(&topic);
    run.compare_all(asker, &truth, keys).await;
    run.check_dead_letters(&topic, &publishing.unusable, true);
    publishing
}

/// An instance is killed again and again, at any moment, while events are published and questions asked. After each
/// start it goes on; every answer on the way and all counts at the end are right.
async fn check_crashes(name: &'static str, kills: u64, pair: Vec<(&'static str, String)>) {
    let _alone = alone().await;
    let limits = Limits {
        max_unread_count: 300,
        max_direct_mentions: 5,
    };
    // A killed member keeps its partitions for its session's time.
    let session = r#"{ "session.timeout.ms" = "2000", "heartbeat.interval.ms" = "500" }"#;
    let settings = [
        ("store.write_delay", "1s"),
        ("stream.kafka.properties", session),
        ("cache.read_states", "900"),
        ("cache.channel_memory", "2MiB"),
    ];
    let mut run = Run::new(name, 6, limits, &settings);
    run.deployment.settings.extend(pair);
    let events = some_days(&mut run, 250_000);
    let keys = shared_keys(&events);
    let publishing = Publishing::new(&run.deployment, run.seed);
    let asker = Asker::new(&run.deployment, publishing.acknowledged()).await;
    let mut service = run.deployment.serve("0", &[]);
    asker.wait_until_live().await;
    let stream = Stream::start(publishing, events, run.seed);
    let asking = asker.ask_on(&keys, 3, run.seed);
    let mut recoveries = Vec::new();
    let mut killed = Vec::new();
    for kill in 1..=kills {
        tokio::time::sleep(Duration::from_millis(run.rng.between(20, 2500))).await;
        service.kill9();
        let began = Instant::now();
        killed.push(std::mem::replace(
            &mut service,
            run.deployment.serve(&kill.to_string(), &[]),
        ));
        // Sometimes it is killed before it has come to anything.
        if run.rng.percent(75) || kill == kills {
            asker.wait_until_live().await;
            recoveries.push(began.elapsed());
        }
    }
    recoveries.sort();
    let (median, longest) = (recoveries[recoveries.len() / 2], recoveries[recoveries.len() - 1]);
    run.say(format_args!(
        "{kills} kills; answering again after {median:.1?}, {longest:.1?} at the longest"
    ));
    finish(&mut run, &asker, stream, asking, &keys).await;
    let complaints: Vec<String> = killed
        .iter()
        .flat_map(Service::complaints)
        .chain(service.complaints())
        .collect();
    run.say(format_args!("complaints: {complaints:#?}"));
    assert_eq!(
        block_in_place(|| service.terminate()).code(),
        Some(0),
        "{}",
        service.log_tail()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_counts_are_right_after_crashes() {
    check_crashes("crashes", 20, Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_counts_are_right_after_crashes_with_the_embedded_store() {
    check_crashes("crashes_embedded", 20, embedded("crashes")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_counts_are_right_after_crashes_with_jetstream_and_the_embedded_store() {
    // A killed holder keeps its lease for some seconds.
    let pair = [jetstream(), embedded("crashes")].concat();
    check_crashes("crashes_jetstream", 10, pair).await;
}

/// Two instances share the partitions. One is killed and comes back, then the other one is asked to stop and comes back,
/// while events are published and both are asked. Every answer on the way and all counts at the end are right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_counts_are_right_as_instances_come_and_go() {
    let _alone = alone().await;
    let session = r#"{ "session.timeout.ms" = "6000" }"#;
    let settings = [
        ("store.write_delay", "2s"),
        ("stream.kafka.properties", session),
        ("cache.read_states", "3000"),
    ];
    let mut run = Run::new("two", 8, LIMITS_DEFAULT, &settings);
    let events = some_days(&mut run, 250_000);
    let keys = shared_keys(&events);
    let publishing = Publishing::new(&run.deployment, run.seed);
    let asker = Asker::new(&run.deployment, publishing.acknowledged()).await;
    let mut one = run.deployment.serve("one", &[]);
    // Schema changes are no transactions: the first instance starts alone.
    asker.wait_until_live().await;
    let stream = Stream::start(publishing, events, run.seed);
    let asking = asker.ask_on(&keys, 4, run.seed);
    let mut two = run.deployment.serve("two", &[]);
    let shared = asker.wait_until_shared(2).await;
    run.say(format_args!(
        "shared after {shared:.1?}: {:?}",
        asking.take_tally()
    ));
    let lull = || tokio::time::sleep(Duration::from_secs(3));
    lull().await;
    run.say(format_args!("both: {:?}", asking.take_tally()));

    one.kill9();
    let again = asker.wait_until_live().await;
    run.say(format_args!(
        "all answered {again:.1?} after a kill: {:?}",
        asking.take_tally()
    ));
    let killed = std::mem::replace(&mut one, run.deployment.serve("one-again", &[]));
    let shared = asker.wait_until_shared(2).await;
    run.say(format_args!(
        "shared again after {shared:.1?}: {:?}",
        asking.take_tally()
    ));
    lull().await;

    let began = Instant::now();
    let status = block_in_place(|| two.terminate());
    let ended = began.elapsed();
    assert_eq!(status.code(), Some(0), "{}", two.log_tail());
    asker.wait_until_live().await;
    run.say(format_args!(
        "ended {ended:.1?} after SIGTERM, all answered after {:.1?}: {:?}",
        began.elapsed(),
        asking.take_tally()
    ));
    let stopped = std::mem::replace(&mut two, run.deployment.serve("two-again", &[]));
    let shared = asker.wait_until_shared(2).await;
    run.say(format_args!(
        "shared again after {shared:.1?}: {:?}",
        asking.take_tally()
    ));
    lull().await;

    let publishing = finish(&mut run, &asker, stream, asking, &keys).await;
    for service in [&killed, &stopped, &one, &two] {
        run.say(format_args!("complaints: {:#?}", service.complaints()));
    }
    for service in [&mut one, &mut two] {
        assert_eq!(
            block_in_place(|| service.terminate()).code(),
            Some(0),
            "{}",
            service.log_tail()
        );
    }
    run.check_all_is_durable(&publishing.ends()).await;
}
