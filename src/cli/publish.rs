//! `publish`: events as JSON, one a line, into the stream.

use std::io::{self, BufRead, BufReader, Read};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::{Failed, ended};
use crate::model::ids::ChannelId;
use crate::source::kafka::context::PlainContext;
use crate::source::kafka::{KafkaSettings, not_taken, prepare};
use crate::wire::json::from_json;
use crate::wire::partitioner::{DecimalKey, partition_of};
use crate::wire::proto::v1;
use crate::wire::record::{RecordLimits, check};

/// The longest line. JSON takes up to some four times the bytes of protobuf.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Refused lines that the summary names.
const REFUSED_NAMED_MAX: usize = 100;
/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait where librdkafka's queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// How long records are gathered: long enough for full batches, too short to be noticed by someone who types.
const LINGER_MS: &str = "20";
/// Bytes of a batch, before compression.
const BATCH_BYTES: &str = "1000000";
/// Records of a batch.
const BATCH_RECORDS: &str = "50000";
/// On a year of real chat a quarter of the bytes, for hardly any CPU. zstd makes it a seventh, for a tenth more.
const COMPRESSION: &str = "lz4";

/// How far publishing has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Events that all replicas have acknowledged.
    pub acknowledged: u64,
    /// Lines that were refused.
    pub refused: u64,
    /// The first of them, by number (the first line is 1), with the reason.
    pub named: Vec<(u64, String)>,
}

/// Runs the command on standard input; 0 if every line was published, else 1, or 2 where it can't be as it is configured.
pub async fn run(settings: &KafkaSettings, limits: &RecordLimits) -> ExitCode {
    let started = Instant::now();
    let mut last = (started, 0);
    let progress = move |published: &Published| {
        let rate = rate(published.acknowledged - last.1, last.0.elapsed());
        last = (Instant::now(), published.acknowledged);
        eprintln!(
            "{} events, {rate} events/s, {} refused",
            published.acknowledged, published.refused
        );
    };
    match publish(
        BufReader::with_capacity(1 << 20, io::stdin()),
        settings,
        limits,
        progress,
    )
    .await
    {
        Ok(published) => {
            for (line, why) in &published.named {
                eprintln!("line {line} refused: {why}");
            }
            let unnamed = published.refused - published.named.len() as u64;
            if unnamed > 0 {
                eprintln!("and {unnamed} further lines");
            }
            let seconds = started.elapsed().as_secs_f64();
            let rate = rate(published.acknowledged, started.elapsed());
            eprintln!(
                "published {} events in {seconds:.1} s, {rate} events/s; {} refused",
                published.acknowledged, published.refused
            );
            ExitCode::from(u8::from(published.refused > 0))
        }
        Err(failed) => ended(Err(failed)),
    }
}

fn rate(events: u64, time: Duration) -> u64 {
    (events as f64 / time.as_secs_f64().max(0.001)) as u64
}

/// Publishes events, canonical JSON, one a line, and returns when all are acknowledged. Creates the topic where it is
/// missing. The events of a channel keep their order; empty lines are skipped.
///
/// `progress` is called about once a second while there is input.
///
/// # Errors
/// Where the input can't be read or there is no stream. A refused line is no error: see [`Published`].
pub async fn publish(
    input: impl BufRead + Send + 'static,
    settings: &KafkaSettings,
    limits: &RecordLimits,
    progress: impl FnMut(&Published) + Send + 'static,
) -> Result<Published, Failed> {
    let stream = prepare(settings).await?;
    let acknowledged = Arc::new(Mutex::new(Published::default()));
    let producer: ThreadedProducer<Acknowledging> = settings
        .producer(&[
            ("linger.ms", LINGER_MS),
            ("batch.size", BATCH_BYTES),
            ("batch.num.messages", BATCH_RECORDS),
            ("compression.type", COMPRESSION),
        ])
        .create_with_context(Acknowledging {
            log: PlainContext::default(),
            published: acknowledged.clone(),
        })
        .map_err(|error| Failed::Misconfigured(not_taken(&error)))?;
    let publishing = Publishing {
        producer,
        topic: settings.topic.clone(),
        partition_count: stream.partition_count,
        limits: *limits,
        published: acknowledged,
    };
    tokio::task::spawn_blocking(move || publishing.run(input, progress))
        .await
        .map_err(|error| Failed::Broken(format!("publishing broke off: {error}")))?
        .map_err(Failed::Broken)
}

struct Publishing {
    producer: ThreadedProducer<Acknowledging>,
    topic: String,
    partition_count: u32,
    limits: RecordLimits,
    published: Arc<Mutex<Published>>,
}

impl Publishing {
    fn run(self, mut input: impl BufRead, mut progress: impl FnMut(&Published)) -> Result<Published, String> {
        let mut line = Vec::new();
        let mut value = Vec::new();
        let mut reported = Instant::now();
        for number in 1.. {
            line.clear();
            let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            let read = read.map_err(|error| format!("can't read line {number}: {error}"))?;
            if read == 0 {
                break;
            }
            if read as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
                skip_line(&mut input).map_err(|error| format!("can't read line {number}: {error}"))?;
                self.refuse(number, format!("it is longer than {LINE_BYTES_MAX} bytes"));
                continue;
            }
            let event = line.trim_ascii();
            if event.is_empty() {
                continue;
            }
            value.clear();
            match self.encode(event, &mut value) {
                Ok(channel) => self.send(number, channel, &value),
                Err(why) => self.refuse(number, why),
            }
            if number % 1024 == 0 && reported.elapsed() >= PROGRESS_INTERVAL {
                reported = Instant::now();
                progress(&self.so_far());
            }
        }
        self.producer
            .flush(None)
            .map_err(|error| format!("not everything that was sent is acknowledged: {error}"))?;
        Ok(self.so_far())
    }

    /// Writes the value of the record, and says to which channel it belongs.
    fn encode(&self, json: &[u8], value: &mut Vec<u8>) -> Result<ChannelId, String> {
        let event: v1::Event = from_json(json)?;
        event.encode(value).map_err(|error| error.to_string())?;
        if value.len() > self.limits.event_bytes_max {
            return Err(format!(
                "it has {} bytes as protobuf, limits.max_event_bytes is {}",
                value.len(),
                self.limits.event_bytes_max
            ));
        }
        Ok(check(event, &self.limits)?.channel)
    }

    fn send(&self, line: u64, channel: ChannelId, value: &[u8]) {
        let key = DecimalKey::new(channel);
        let partition = partition_of(channel, self.partition_count);
        let mut record = BaseRecord::with_opaque_to(&self.topic, usize::try_from(line).unwrap_or(usize::MAX))
            .partition(i32::try_from(partition.0).unwrap_or(i32::MAX))
            .key(key.as_bytes())
            .payload(value);
        loop {
            match self.producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(QUEUE_FULL_WAIT);
                }
                Err((error, _)) => return self.refuse(line, error.to_string()),
            }
        }
    }

    fn refuse(&self, line: u64, why: String) {
        refuse(
            &mut self.published.lock().unwrap_or_else(PoisonError::into_inner),
            line,
            why,
        );
    }

    fn so_far(&self) -> Published {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn refuse(published: &mut Published, line: u64, why: String) {
    published.refused += 1;
    if published.named.len() < REFUSED_NAMED_MAX {
        published.named.push((line, why));
    }
}

fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = buffer.len();
        input.consume(end.map_or(length, |end| end + 1));
        if end.is_some() {
            return Ok(());
        }
    }
}

/// Counts what is acknowledged.
struct Acknowledging {
    log: PlainContext,
    published: Arc<Mutex<Published>>,
}

impl ClientContext for Acknowledging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ProducerContext for Acknowledging {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, line: usize) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => published.acknowledged += 1,
            Err((error, _)) => refuse(&mut published, line as u64, error.to_string()),
        }
    }
}
