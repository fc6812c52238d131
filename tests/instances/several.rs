//! Three instances of one group come and go while events are published and questions asked: one after the other they
//! join, one is stopped for longer than its session and wakes up (a zombie: it believes that it owns what others own by
//! then), one is killed, one is asked to end. Every answer is compared at the position that it names.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, block_in_place};

use crate::support::servers::wait_for;
use crate::support::service::Service;
use crate::whole_path::asker::Asker;
use crate::whole_path::publishing::Publishing;
use crate::whole_path::run::{Run, alone, shared_keys};
use crate::{LIMITS_DEFAULT, Stream, finish, some_days};

const PARTITIONS: u32 = 12;
/// `cache.read_states`: less than there are, so that caches are full.
const CACHED_READ_STATES: u64 = 2400;
const SESSION: &str = r#"{ "session.timeout.ms" = "6000" }"#;
/// An owner that was killed is noticed after its session, and its partitions move.
const MOVED_DEADLINE: Duration = Duration::from_secs(60);
/// Questions to those who may believe that they own a partition, at the same time.
const PRESSING: usize = 32;
/// How long a woken zombie is asked: it notices in less.
const PRESSED: Duration = Duration::from_secs(4);
/// For so long it is asked before it wakes up.
const ASLEEP_AND_ASKED: Duration = Duration::from_secs(1);
/// How much later than the first answer of a partition's new owner those may have theirs who asked before.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// The partitions of an instance.
pub async fn owned_by(asker: &Asker, service: &Service) -> Vec<u32> {
    let process = format!("-{}", service.id());
    let status = asker.status().await;
    let own = status.iter().filter(|status| status.instance.ends_with(&process));
    own.flat_map(|status| &status.partitions)
        .map(|partition| partition.partition)
        .collect()
}

/// Some keys of each of these partitions.
fn keys_of(asker: &Asker, keys: &[(u64, u64)], partitions: &[u32]) -> BTreeMap<u32, Vec<(u64, u64)>> {
    const EACH_MAX: usize = 20;
    let mut chosen: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    for key in keys {
        let partition = asker.partition(key.1) as u32;
        let of_partition = chosen.entry(partition).or_default();
        if partitions.contains(&partition) && of_partition.len() < EACH_MAX {
            of_partition.push(*key);
        }
    }
    chosen.retain(|_, keys| !keys.is_empty());
    chosen
}

/// The capacity of an instance is for all the partitions that it has now.
fn check_caches(services: &[&Service]) {
    for service in services {
        let capacity = service.metric("readstates_cache_capacity", r#"kind="read_state""#);
        assert_eq!(capacity, CACHED_READ_STATES as f64);
        let cached = || service.metric("readstates_cache_entries", r#"kind="read_state""#);
        // What is dirty stays until it is written.
        let dirty = || service.metric("readstates_dirty_entries", "");
        wait_for("no more is cached than the instance may", MOVED_DEADLINE, || {
            cached() <= capacity + dirty()
        });
        assert!(cached() > 0.0);
    }
}

/// Asks everyone who listens for these partitions, for a while. How often more than one has answered.
async fn press(asker: &Asker, keys: &BTreeMap<u32, Vec<(u64, u64)>>) -> usize {
    let end = Instant::now() + PRESSED;
    let tasks: Vec<JoinHandle<usize>> = (0..PRESSING)
        .map(|first| {
            let (asker, keys) = (asker.clone(), keys.clone());
            tokio::spawn(async move {
                let mut twice = 0;
                for (partition, keys) in keys.iter().cycle().skip(first) {
                    if Instant::now() >= end {
                        break;
                    }
                    twice += usize::from(asker.get_from_all(*partition, keys).await > 1);
                }
                twice
            })
        })
        .collect();
    let mut twice = 0;
    for task in tasks {
        twice += task.await.unwrap();
    }
    twice
}

/// Someone who asks for a partition without an owner by `get`, which waits for one, while its own subject has no
/// responders. How much later than the subject it had its answer.
async fn waits_for_an_owner(asker: Asker, partition: u32, keys: Vec<(u64, u64)>) -> Duration {
    let subject = format!("partition.{partition}.get");
    let nobody = asker.get(&subject, &keys, vec![], false, 2000).await;
    let what = nobody.expect_err("its owner was killed just now").what;
    assert_eq!(what, "no responders", "partition {partition}");
    let (waiting, of) = (asker.clone(), keys.clone());
    let waiting = tokio::spawn(async move {
        let answer = waiting.get("get", &of, vec![], false, 20_000).await;
        answer.expect("there is an owner again within the time");
        Instant::now()
    });
    while asker.get(&subject, &keys, vec![], false, 2000).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let live = Instant::now();
    waiting.await.unwrap().saturating_duration_since(live)
}

/// Its session expires while it is stopped, others go on with its partitions, and then it wakes up and is asked.
pub async fn zombie(run: &Run, asker: &Asker, service: &Service, keys: &[(u64, u64)]) {
    let own = owned_by(asker, service).await;
    assert!(!own.is_empty());
    let before = asker.floors();
    service.signal("STOP");
    let stopped = Instant::now();
    // Someone else owns each of them, and has made progress that the zombie knows nothing of.
    loop {
        asker.status().await;
        let now = asker.floors();
        if own
            .iter()
            .all(|partition| now[*partition as usize] > before[*partition as usize])
        {
            break;
        }
        assert!(stopped.elapsed() < MOVED_DEADLINE, "{own:?}: {before:?}, {now:?}");
    }
    run.say(format_args!("{own:?} went on after {:.1?}", stopped.elapsed()));
    // What was asked while it slept is what it sees first.
    let (pressing, of) = (asker.clone(), keys_of(asker, keys, &own));
    let pressing = tokio::spawn(async move { press(&pressing, &of).await });
    tokio::time::sleep(ASLEEP_AND_ASKED).await;
    service.signal("CONT");
    let twice = pressing.await.unwrap();
    run.say(format_args!("woke up; two have answered {twice} questions"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_counts_are_right_with_several_instances_and_a_zombie() {
    let _alone = alone().await;
    let cached = CACHED_READ_STATES.to_string();
    let settings = [
        ("store.write_delay", "1s"),
        ("stream.kafka.properties", SESSION),
        ("cache.read_states", cached.as_str()),
    ];
    let mut run = Run::new("several", PARTITIONS, LIMITS_DEFAULT, &settings);
    let events = some_days(&mut run, 250_000);
    let keys = shared_keys(&events);
    let publishing = Publishing::new(&run.deployment, run.seed);
    let asker = Asker::new(&run.deployment, publishing.acknowledged()).await;
    let mut one = run.deployment.serve("one", &[]);
    asker.wait_until_live().await;
    let stream = Stream::start(publishing, events, run.seed);
    let asking = asker.ask_on(&keys, 3, run.seed);

    let mut two = run.deployment.serve("two", &[]);
    asker.wait_until_shared(2).await;
    let mut three = run.deployment.serve("three", &[]);
    asker.wait_until_shared(3).await;
    run.say(format_args!("three: {:?}", asking.take_tally()));
    block_in_place(|| check_caches(&[&one, &two, &three]));

    zombie(&run, &asker, &two, &keys).await;
    asker.wait_until_shared(3).await;
    run.say(format_args!("shared again: {:?}", asking.take_tally()));

    let own = owned_by(&asker, &three).await;
    three.kill9();
    let waiting = keys_of(&asker, &keys, &own)
        .into_iter()
        .map(|(partition, keys)| tokio::spawn(waits_for_an_owner(asker.clone(), partition, keys)));
    let waiting: Vec<_> = waiting.collect();
    assert!(!waiting.is_empty());
    for waiting in waiting {
        let later = waiting.await.unwrap();
        assert!(
            later < ANSWERED_WITHIN,
            "answered {later:.1?} after there was an owner"
        );
    }
    run.say(format_args!("one was killed: {:?}", asking.take_tally()));
    asker.wait_until_shared(2).await;
    block_in_place(|| check_caches(&[&one, &two]));

    let status = block_in_place(|| one.terminate());
    assert_eq!(status.code(), Some(0), "{}", one.log_tail());
    asker.wait_until_live().await;
    block_in_place(|| check_caches(&[&two]));
    let mut four = run.deployment.serve("four", &[]);
    asker.wait_until_shared(2).await;
    run.say(format_args!("one has ended, one came: {:?}", asking.take_tally()));

    let publishing = finish(&mut run, &asker, stream, asking, &keys).await;
    for service in [&mut two, &mut four] {
        let status = block_in_place(|| service.terminate());
        assert_eq!(status.code(), Some(0), "{}", service.log_tail());
    }
    for service in [&one, &two, &three, &four] {
        run.say(format_args!("complaints: {:#?}", service.complaints()));
    }
    run.check_all_is_durable(&publishing.ends()).await;
}
