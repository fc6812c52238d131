//! How fast records come from Kafka, with what processor time and memory: librdkafka's two ways of handing them out, bare;
//! the source with owners that only count; and all of it up to applied state, without a store.
//!
//! `cargo bench --bench kafka_reading` starts a broker of its own (`scripts/install` first) and fills a topic once. Each
//! measurement is a process of its own that catches up from the beginning, in turns, so that a busy machine
//! disturbs all alike. `ROUNDS` (5) says how many turns, `RECORDS` (2,000,000) how many records, `VARIANTS`
//! (`poll,batch,source,refused,applied,written`) what is measured (`other-source` and so on by the benchmark as built elsewhere, in
//! `OTHER`; `streams-memory` and `streams-rocksdb` by the command in `STREAMS`), `PROPERTIES` (`fetch.max.bytes=4194304,…`)
//! sets further properties of the source's clients. Each measurement is a line of JSON.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "kafka_reading/applied.rs"]
mod applied;
#[allow(dead_code)]
#[path = "../tests/support/owners.rs"]
mod owners;
#[allow(dead_code)]
#[path = "../tests/support/servers.rs"]
mod servers;

use std::collections::BTreeMap;
use std::env;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use owners::Positions;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset as KafkaOffset, TopicPartitionList};
use readstates::model::event::{Event, EventKind, Mentions};
use readstates::model::ids::{ChannelId, LogPosition, MessageId, Offset, PartitionId, UserId};
use readstates::source::kafka::{KafkaSettings, KafkaSource, prepare};
use readstates::source::{Confirmed, Owners, RecordBatch, Stuck};
use readstates::wire::partitioner::partition_of;
use readstates::wire::record::encode_event;
use servers::Kafka;
use tokio::sync::oneshot;

const PARTITIONS: u32 = 12;
const CHANNELS: u64 = 10_000;
/// Of a channel.
const MEMBERS: u64 = 10;
const TOPIC: &str = "events";
/// Records taken with one call of librdkafka.
const BATCH: usize = 1024;
const DEADLINE: Duration = Duration::from_secs(120);

/// What is measured: a bare loop of either kind, whose prefetch is as large as it pays; the source; for its memory
/// the source with owners that take nothing for a while, so that all comes in that may; up to applied state; and the
/// same with so short a write delay that all of it is written as well.
const VARIANTS: &str = "poll,batch,source,refused,applied,written";
/// As by default: longer than the measurement takes.
const WRITE_DELAY_MS: u64 = 30_000;
const SHORT_WRITE_DELAY_MS: u64 = 300;
/// How long they take nothing. After a second the source pauses, and begins again from there later.
const REFUSED_FOR: Duration = Duration::from_millis(900);
const BARE: [(&str, &str); 4] = [
    ("queued.min.messages", "1000000"),
    ("queued.max.messages.kbytes", "131072"),
    ("fetch.message.max.bytes", "4194304"),
    ("fetch.queue.backoff.ms", "20"),
];

fn main() {
    if let Ok(variant) = env::var("VARIANT") {
        return measure(&variant);
    }
    let broker = Kafka::start_with(&["-XX:TieredStopAtLevel=4"]);
    let records = number("RECORDS", 2_000_000);
    fill(&broker.url(), records);
    let variants = env::var("VARIANTS").unwrap_or_else(|_| VARIANTS.into());
    let mut measured: BTreeMap<&str, Vec<[f64; 3]>> = BTreeMap::new();
    println!(
        "{records} records of 48 bytes in {PARTITIONS} partitions, {CHANNELS} channels by rank, half messages and half reads, lz4; bare loops with {}",
        BARE.map(|(name, value)| format!("{name}={value}")).join(", ")
    );
    for round in 1..=number("ROUNDS", 5) {
        for variant in variants.split(',') {
            let output = command(variant, &broker.url(), records).output().unwrap();
            let output = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            let line = output.lines().find_map(|line| line.strip_prefix("measured "));
            let numbers: Vec<f64> = line
                .unwrap_or_else(|| panic!("{variant}: {output}"))
                .split(' ')
                .map(|number| number.parse().unwrap())
                .collect();
            let numbers: [f64; 3] = numbers.try_into().unwrap();
            print_line(variant, round, numbers);
            measured.entry(variant).or_default().push(numbers);
        }
    }
    println!("median (lowest to highest)  thousand records/s | ns of CPU a record | MB at most");
    for variant in variants.split(',') {
        let of = |place: usize| {
            let mut all: Vec<f64> = measured[variant].iter().map(|it| it[place]).collect();
            all.sort_by(f64::total_cmp);
            format!(
                "{:5.0} ({:.0} to {:.0})",
                all[all.len() / 2],
                all[0],
                all[all.len() - 1]
            )
        };
        println!("{variant:16} {} | {} | {}", of(0), of(1), of(2));
    }
}

fn command(variant: &str, brokers: &str, records: u64) -> Command {
    if let Some(kept_in) = variant.strip_prefix("streams-") {
        let words = env::var("STREAMS").expect("STREAMS is a command");
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args([brokers, TOPIC, &records.to_string(), kept_in]);
        return command;
    }
    let (program, what) = match variant.strip_prefix("other-") {
        Some(what) => (env::var("OTHER").expect("OTHER is a program").into(), what),
        None => (env::current_exe().unwrap(), variant),
    };
    let mut command = Command::new(program);
    command.envs([("VARIANT", what), ("BROKERS", brokers)]);
    command.env("RECORDS", records.to_string());
    command
}

fn print_line(variant: &str, round: u64, [thousands, cpu_ns, peak_mb]: [f64; 3]) {
    let line = serde_json::json!({
        "variant": variant, "round": round, "records_per_second": thousands * 1e3,
        "cpu_ns_per_record": cpu_ns, "peak_mb": peak_mb,
    });
    println!("{line}");
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |number| number.parse().unwrap())
}

/// Half messages that mention nobody, half reads of the newest one: key and value have 48 bytes. A channel's share falls with
/// its rank, as in a real chat.
fn fill(brokers: &str, records: u64) {
    let settings = settings(brokers);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(prepare(&settings)).unwrap();
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.messages", "500000")
        .create()
        .unwrap();
    for number in 0..records {
        let event = event(number);
        let (channel, event) = (event.channel, encode_event(&event));
        let key = channel.to_string();
        assert_eq!(key.len() + event.len(), 48);
        let partition = partition_of(channel, PARTITIONS).0 as i32;
        let mut record = BaseRecord::to(TOPIC)
            .partition(partition)
            .key(&key)
            .payload(&event);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    producer.flush(DEADLINE).unwrap();
}

fn event(number: u64) -> Event {
    // Multiples of the golden ratio spread evenly; the bits below choose the member.
    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let rank = (CHANNELS as f64).powf((spread >> 11) as f64 / (1u64 << 53) as f64) as u64;
    let user = UserId(40_000_000_000_000_000 + rank * MEMBERS + number / 2 % MEMBERS);
    let message = MessageId(30_000_000_000_000_000 + number);
    Event {
        channel: ChannelId(3_000_000_000_000_000_000 + rank),
        kind: match number % 2 {
            0 => EventKind::MessageCreated {
                message,
                author: Some(user),
                mentions: Mentions::default(),
            },
            _ => EventKind::MessageRead { user, message },
        },
    }
}

fn settings(brokers: &str) -> KafkaSettings {
    let properties = env::var("PROPERTIES").unwrap_or_default();
    let properties = properties
        .split(',')
        .filter_map(|property| property.split_once('='));
    KafkaSettings {
        brokers: brokers.to_owned(),
        topic: TOPIC.into(),
        group: format!("group-{}", std::process::id()),
        partitions: PARTITIONS,
        replication: -1,
        password: None,
        properties: properties
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        epoch: 0,
    }
}

/// Catches up and says how that went. The clock starts with the first record.
fn measure(variant: &str) {
    let (brokers, records) = (env::var("BROKERS").unwrap(), number("RECORDS", 0));
    let clock = Clock::default();
    let mut measured = records;
    match variant {
        "poll" => poll(&brokers, records, &clock),
        "batch" => batch(&brokers, records, &clock),
        "source" => source(&brokers, records, &clock, Duration::ZERO),
        "refused" => source(&brokers, records, &clock, REFUSED_FOR),
        "applied" => measured = applied::measure(&settings(&brokers), records, WRITE_DELAY_MS, &clock),
        "written" => measured = applied::measure(&settings(&brokers), records, SHORT_WRITE_DELAY_MS, &clock),
        other => panic!("no such variant: {other}"),
    }
    let (elapsed, cpu_ns) = clock.read();
    println!(
        "measured {:.1} {:.1} {:.1}",
        measured as f64 / elapsed.as_secs_f64() / 1e3,
        cpu_ns / measured as f64,
        peak_mb()
    );
    // Without leaving the group or closing clients: nothing of that is measured.
    std::process::exit(0);
}

#[derive(Default)]
struct Clock(OnceLock<(Instant, f64)>);

impl Clock {
    fn start(&self) {
        self.0.get_or_init(|| (Instant::now(), cpu_ns()));
    }

    fn read(&self) -> (Duration, f64) {
        let (at, cpu) = self.0.get().unwrap();
        (at.elapsed(), cpu_ns() - cpu)
    }
}

/// Of all threads. Counted by the kernel in hundredths of a second.
fn cpu_ns() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 1e7
}

fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

fn consumer(brokers: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "bare");
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false");
    config.set("check.crcs", "true");
    for (name, value) in BARE {
        config.set(name, value);
    }
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS as i32 {
        all.add_partition_offset(TOPIC, partition, KafkaOffset::Beginning)
            .unwrap();
    }
    consumer.assign(&all).unwrap();
    consumer
}

fn poll(brokers: &str, records: u64, clock: &Clock) {
    let consumer = consumer(brokers);
    let mut count = 0;
    while count < records {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            message.unwrap();
            clock.start();
            count += 1;
        }
    }
}

#[allow(unsafe_code, reason = "rdkafka offers this call by its bindings only")]
fn batch(brokers: &str, records: u64, clock: &Clock) {
    use rdkafka::bindings as sys;
    let consumer = consumer(brokers);
    let mut messages = [std::ptr::null_mut(); BATCH];
    let mut count = 0;
    // SAFETY: the client lives until the end; messages are destroyed once each.
    unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        while count < records {
            let taken = sys::rd_kafka_consume_batch_queue(queue, 10, messages.as_mut_ptr(), BATCH);
            for message in &messages[..usize::try_from(taken).unwrap()] {
                clock.start();
                count += u64::from((**message).err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
                sys::rd_kafka_message_destroy(*message);
            }
        }
        sys::rd_kafka_queue_destroy(queue);
    }
}

fn source(brokers: &str, records: u64, clock: &Clock, refused_for: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let settings = settings(brokers);
    let owners = Counting {
        count: Arc::default(),
        since: Arc::default(),
        refused_for,
    };
    let began = Instant::now();
    let source = runtime.block_on(async {
        let stream = prepare(&settings).await.unwrap();
        KafkaSource::start(&settings, &stream, owners.clone(), Positions::default()).unwrap()
    });
    loop {
        match owners.count.load(Ordering::Relaxed) {
            0 => std::thread::sleep(Duration::from_micros(100)),
            count => {
                clock.start();
                if count >= records {
                    break;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        assert!(
            began.elapsed() < DEADLINE,
            "{} of {records}",
            owners.count.load(Ordering::Relaxed)
        );
    }
    std::mem::forget(source);
    std::mem::forget(runtime);
}

/// Owners that count records and look at nothing.
#[derive(Clone)]
struct Counting {
    count: Arc<AtomicU64>,
    since: Arc<OnceLock<Instant>>,
    refused_for: Duration,
}

impl Owners for Counting {
    fn assigning(&self, _: PartitionId, _: bool) {}

    fn assign(&self, _: PartitionId, _: u64, _: LogPosition, _: Offset) {}

    fn confirmed(&self, _: Option<Confirmed>) {}

    fn offer(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        if !self.refused_for.is_zero() && self.since.get_or_init(Instant::now).elapsed() < self.refused_for {
            return Err(batch);
        }
        self.count
            .fetch_add(batch.records.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn caught_up(&self, _: PartitionId, _: u64, _: Offset) {}

    fn drain(&self, _: PartitionId, _: u64) -> oneshot::Receiver<LogPosition> {
        oneshot::channel().1
    }

    fn forget(&self, _: PartitionId, _: u64) {}

    fn durable(&self) -> Vec<(PartitionId, LogPosition)> {
        Vec::new()
    }

    fn stuck(&self) -> Vec<Stuck> {
        Vec::new()
    }

    fn end_seen(&self, _: PartitionId, _: Offset) {}
}
