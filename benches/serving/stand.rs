//! The servers, one instance, and where results go.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::servers::{Cassandra, Kafka, Nats};
use crate::service::{Deployment, Service};

/// As for servers that run for long, where tests have the quickest start.
const JVM_FLAGS: &[&str] = &["-XX:TieredStopAtLevel=4"];
/// How long it may take until all is applied, or written.
const SETTLED_DEADLINE: Duration = Duration::from_secs(1800);

/// What is at rest is busy for less than this part of the time, for so long.
const BUSY_AT_REST: f64 = 0.05;
const REST_FOR: Duration = Duration::from_secs(5);
/// Something may go on for good.
const REST_DEADLINE: Duration = Duration::from_secs(180);

/// Kafka, NATS and, unless the store is embedded, Cassandra, and how an instance is to be on them.
pub struct Stand {
    pub deployment: Deployment,
    _servers: (Kafka, Option<Cassandra>, Nats),
}

impl Stand {
    pub fn start(name: &str, partitions: u32, settings: Vec<(&'static str, String)>) -> Self {
        let is_embedded = settings.contains(&("store.kind", "embedded".to_owned()));
        let (kafka, cassandra, nats) = std::thread::scope(|scope| {
            let kafka = scope.spawn(|| Kafka::start_with(JVM_FLAGS));
            let cassandra = scope.spawn(|| (!is_embedded).then(|| Cassandra::start_with(JVM_FLAGS)));
            (kafka.join().unwrap(), cassandra.join().unwrap(), Nats::start())
        });
        let deployment = Deployment {
            name: name.to_owned(),
            brokers: kafka.url(),
            nats: nats.url(),
            // Where there is none nobody connects to it.
            cassandra: cassandra
                .as_ref()
                .map_or_else(|| "127.0.0.1:1".to_owned(), |it| it.url()),
            partitions,
            settings,
        };
        Stand {
            deployment,
            _servers: (kafka, cassandra, nats),
        }
    }

    /// Starts an instance, and waits until it owns every partition and has caught up.
    pub fn serve(&self, name: &str) -> Service {
        let service = self.deployment.serve(name, &[]);
        let is_live = || {
            service.metric("readstates_partition_phase", "phase=\"live\"")
                == f64::from(self.deployment.partitions)
        };
        settle("every partition is live", is_live);
        wait_until_applied(&service);
        service
    }
}

/// Waits until nothing waits to be applied.
pub fn wait_until_applied(service: &Service) {
    settle("everything is applied", || {
        service.metric("readstates_applied_lag_records", "") == 0.0
    });
}

/// Waits until nothing waits to be written.
pub fn wait_until_written(service: &Service) {
    settle("everything is written", || {
        service.metric("readstates_dirty_entries", "") == 0.0
    });
}

fn settle(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SETTLED_DEADLINE, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until servers that have just been filled have done what they put off: next to nothing runs for some seconds. Returns
/// the busy share of the processors that is left.
pub fn wait_until_at_rest() -> f64 {
    let began = Instant::now();
    loop {
        let before = processor_time();
        std::thread::sleep(REST_FOR);
        let now = processor_time();
        let busy = 1.0 - (now.idle - before.idle) / (now.all - before.all);
        if busy < BUSY_AT_REST || began.elapsed() > REST_DEADLINE {
            return busy;
        }
    }
}

/// Of all processors since the start, in ticks.
struct ProcessorTime {
    idle: f64,
    all: f64,
}

fn processor_time() -> ProcessorTime {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let of_all = stat.lines().next().unwrap().split_whitespace().skip(1);
    let ticks: Vec<f64> = of_all.map(|ticks| ticks.parse().unwrap()).collect();
    // The fourth is idle, the fifth idle with a disk at work, and the last two are in others already.
    ProcessorTime {
        idle: ticks[3] + ticks[4],
        all: ticks[..8].iter().sum(),
    }
}

/// Lines of JSON in `target/bench`.
pub struct Results(File);

impl Results {
    pub fn new(name: &str) -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .parent()
            .unwrap()
            .join("bench");
        fs::create_dir_all(&target).unwrap();
        Results(File::create(target.join(format!("{name}.jsonl"))).unwrap())
    }

    pub fn add(&mut self, line: &Value) {
        writeln!(self.0, "{line}").unwrap();
    }
}
