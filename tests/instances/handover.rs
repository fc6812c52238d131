//! Measures, from outside, for how long partitions have no live owner as instances come and go: the subject of each
//! partition is asked all the time. `make bench-handover` runs it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use readstates::model::ids::ChannelId;
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1::Event;
use tokio::task::block_in_place;

use crate::several_instances::owned_by;
use crate::whole_path::asker::Asker;
use crate::whole_path::publishing::Publishing;
use crate::whole_path::run::{Run, alone};
use crate::{LIMITS_DEFAULT, some_days};

const PARTITIONS: u32 = 12;
/// What is published all the time.
const EVENTS_PER_S: usize = 5000;
const PORTION: usize = 250;
/// Between two questions to a partition.
const ASK_INTERVAL: Duration = Duration::from_millis(5);
/// A question that gets no answer for so long is lost with its owner, and is asked again.
const ASK_TIMEOUT_MS: u64 = 100;
/// Caches fill and settle before the first measurement, and between two.
const LULL: Duration = Duration::from_secs(6);
const ROUNDS: u32 = 3;

/// The longest times that one partition was without something.
#[derive(Clone, Copy, Default)]
struct Gaps {
    /// Without an answer.
    answer: Duration,
    /// Without an answer that is newer than all before.
    progress: Duration,
}

/// Asks all partitions.
struct Prober {
    gaps: Arc<Mutex<Vec<Gaps>>>,
    stop: Arc<AtomicBool>,
}

impl Prober {
    fn start(asker: &Asker) -> Self {
        let gaps = Arc::new(Mutex::new(vec![Gaps::default(); PARTITIONS as usize]));
        let stop = Arc::new(AtomicBool::new(false));
        for partition in 0..PARTITIONS {
            let (asker, gaps, stop) = (asker.clone(), gaps.clone(), stop.clone());
            tokio::spawn(async move {
                let key = (1, channel_of(partition));
                let subject = format!("partition.{partition}.get");
                let (mut answered, mut progressed, mut newest) = (Instant::now(), Instant::now(), None);
                while !stop.load(Ordering::SeqCst) {
                    let states = asker.get(&subject, &[key], vec![], false, ASK_TIMEOUT_MS).await;
                    if let Ok(states) = states {
                        let (now, position) = (Instant::now(), states[0].position.map(|it| it.offset));
                        let gap = &mut gaps.lock().unwrap()[partition as usize];
                        gap.answer = gap.answer.max(now - answered);
                        answered = now;
                        if position > newest {
                            gap.progress = gap.progress.max(now - progressed);
                            (progressed, newest) = (now, position);
                        }
                    }
                    tokio::time::sleep(ASK_INTERVAL).await;
                }
            });
        }
        Prober { gaps, stop }
    }

    /// What was measured since the last time.
    fn take(&self) -> Vec<Gaps> {
        std::mem::replace(
            &mut self.gaps.lock().unwrap(),
            vec![Gaps::default(); PARTITIONS as usize],
        )
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Some channel of a partition.
fn channel_of(partition: u32) -> u64 {
    let mut channels = (1..).map(ChannelId);
    let is_there = |channel: &ChannelId| partition_of(*channel, PARTITIONS).0 == partition;
    channels.find(is_there).unwrap().0
}

/// Publishes at a steady rate, the same events over and over: replayed messages are ignored, reads and marks are not.
fn publish_steadily(mut publishing: Publishing, events: Vec<Event>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let began = Instant::now();
        for (n, portion) in (0_u32..).zip(events.chunks(PORTION).cycle()) {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            publishing.by_producer(portion, 0);
            let due = began + Duration::from_secs_f64(f64::from(n) * PORTION as f64 / EVENTS_PER_S as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    })
}

/// What was measured, partition by partition.
fn tell(run: &Run, what: &str, all: &mut BTreeMap<String, Vec<Gaps>>, gaps: Vec<Gaps>) {
    let of = |of: fn(&Gaps) -> Duration| {
        let mut gaps: Vec<Duration> = gaps.iter().map(of).collect();
        gaps.sort();
        gaps
    };
    run.say(format_args!(
        "{what}: without an answer {:.2?}; without progress {:.2?}",
        of(|gaps| gaps.answer),
        of(|gaps| gaps.progress)
    ));
    all.entry(what.to_owned()).or_default().extend(gaps);
}

/// Three instances under load; one joins, one is asked to end, one is killed, in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, for minutes: make bench-handover"]
async fn handover_gaps() {
    let _alone = alone().await;
    let settings = [
        ("store.write_delay", "30s"),
        ("stream.kafka.properties", r#"{ "session.timeout.ms" = "6000" }"#),
    ];
    let mut run = Run::new("handover", PARTITIONS, LIMITS_DEFAULT, &settings);
    let events = some_days(&mut run, 250_000);
    let publishing = Publishing::new(&run.deployment, run.seed);
    let asker = Asker::new(&run.deployment, publishing.acknowledged()).await;
    let mut services = vec![run.deployment.serve("first", &[])];
    asker.wait_until_live().await;
    services.push(run.deployment.serve("second", &[]));
    asker.wait_until_shared(2).await;
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = publish_steadily(publishing, events, stop.clone());
    let prober = Prober::start(&asker);
    let mut all = BTreeMap::new();
    let lull = async || {
        tokio::time::sleep(LULL).await;
        prober.take()
    };
    tell(&run, "nothing happens", &mut all, lull().await);
    for round in 0..ROUNDS {
        prober.take();
        services.push(run.deployment.serve(&format!("joining-{round}"), &[]));
        asker.wait_until_shared(3).await;
        tell(&run, "a third joins", &mut all, lull().await);

        let mut leaving = services.remove(0);
        let status = block_in_place(|| leaving.terminate());
        assert_eq!(status.code(), Some(0), "{}", leaving.log_tail());
        asker.wait_until_shared(2).await;
        tell(&run, "one of three ends (SIGTERM)", &mut all, lull().await);

        services.push(run.deployment.serve(&format!("again-{round}"), &[]));
        asker.wait_until_shared(3).await;
        tell(&run, "a third joins", &mut all, lull().await);

        services.remove(0).kill9();
        asker.wait_until_live().await;
        asker.wait_until_shared(2).await;
        tell(&run, "one of three is killed (kill -9)", &mut all, lull().await);
    }
    // The group waits for the one that was killed, and the one that stays must answer all the time.
    let staying = owned_by(&asker, &services[1]).await;
    services.remove(0).kill9();
    services.push(run.deployment.serve("replacing", &[]));
    asker.wait_until_live().await;
    asker.wait_until_shared(2).await;
    let gaps = lull().await;
    let stay = |partition: &u32| gaps[*partition as usize];
    let staying = staying.iter().map(stay).collect();
    tell(
        &run,
        "one of two is killed and replaced at once",
        &mut all,
        gaps.clone(),
    );
    tell(&run, "and the partitions of the other one", &mut all, staying);
    stop.store(true, Ordering::SeqCst);
    block_in_place(|| publisher.join()).unwrap();
    for (what, gaps) in all {
        let worst = |of: fn(&Gaps) -> Duration| gaps.iter().map(of).max().unwrap_or_default();
        run.say(format_args!(
            "{what}: at the longest {:.2?} without an answer, {:.2?} without progress",
            worst(|gaps| gaps.answer),
            worst(|gaps| gaps.progress)
        ));
    }
    for service in &services {
        run.say(format_args!("complaints: {:#?}", service.complaints()));
    }
}
