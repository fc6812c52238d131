//! Either kind of stream as a publisher and a reader of the tests' own see it, past all code of the program.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::jetstream::{self, Context};
use futures::StreamExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{DeliveryResult, Header, Headers as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Message, Offset, TopicPartitionList};
use readstates::config::StreamKind;
use tokio::runtime::Handle;

use super::service::Deployment;

const DEADLINE: Duration = Duration::from_secs(120);
/// Records on their way to JetStream, at most.
const IN_FLIGHT_MAX: usize = 1000;

/// Names and values. Kafka keeps their order; from JetStream they come sorted by name, since NATS keeps only the order of
/// values that have the same name.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// By partition, the newest offset that the server has acknowledged.
pub type Acknowledged = Arc<Mutex<Vec<Option<u64>>>>;

/// A record as it stands in a stream.
#[derive(Clone, Debug)]
pub struct Record {
    pub partition: u32,
    pub offset: u64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

impl Record {
    /// What a header says, if it is there. Many libraries of NATS write names as HTTP does, so case does not matter.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self
            .headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name));
        found?.1.as_deref()
    }
}

/// All records of a stream.
pub struct Records {
    pub kind: StreamKind,
    /// By partition, in order.
    pub partitions: Vec<Vec<Record>>,
    /// The newest sequence of all partitions and of what belongs to none, which share them. JetStream only.
    pub last_sequence: Option<u64>,
}

impl Records {
    /// The record at an offset.
    pub fn at(&self, partition: u32, offset: u64) -> Option<&Record> {
        let records = &self.partitions[partition as usize];
        let found = records.binary_search_by_key(&offset, |record| record.offset);
        found.ok().map(|index| &records[index])
    }
}

/// Waits for something that a runtime does, on whichever thread.
fn block_on<T>(runtime: &Handle, future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| runtime.block_on(future))
}

/// Publishes records into the partitions that it is told.
pub struct Producer {
    into: Into,
    acknowledged: Acknowledged,
}

#[allow(clippy::large_enum_variant, reason = "a test has one")]
enum Into {
    Kafka {
        topic: String,
        producer: Box<ThreadedProducer<Noting>>,
    },
    JetStream {
        stream: String,
        context: Context,
        runtime: Handle,
        in_flight: VecDeque<(u32, PublishAckFuture)>,
    },
}

struct Noting(Acknowledged);

impl ClientContext for Noting {}

impl ProducerContext for Noting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let record = match result {
            Ok(record) => record,
            // After a failure of the test the producer goes with its broker.
            Err(_) if std::thread::panicking() => return,
            Err((error, _)) => panic!("the broker takes every record: {error}"),
        };
        note(&self.0, record.partition() as u32, record.offset() as u64);
    }
}

fn note(acknowledged: &Acknowledged, partition: u32, offset: u64) {
    let newest = &mut acknowledged.lock().unwrap()[partition as usize];
    *newest = (*newest).max(Some(offset));
}

impl Producer {
    /// Into the stream of a deployment. The runtime has more threads than the one that publishes.
    pub fn new(deployment: &Deployment, runtime: &Handle) -> Self {
        let acknowledged = Arc::new(Mutex::new(vec![None; deployment.partitions as usize]));
        let into = match deployment.stream_kind() {
            StreamKind::Kafka => {
                let mut config = ClientConfig::new();
                config
                    .set("bootstrap.servers", &deployment.brokers)
                    .set("enable.idempotence", "true")
                    .set("reconnect.backoff.max.ms", "1000")
                    .set("linger.ms", "5");
                let producer = config.create_with_context(Noting(acknowledged.clone())).unwrap();
                Into::Kafka {
                    topic: deployment.topic(),
                    producer: Box::new(producer),
                }
            }
            StreamKind::JetStream => {
                let connecting =
                    async { jetstream::new(async_nats::connect(&deployment.nats).await.unwrap()) };
                Into::JetStream {
                    stream: deployment.topic(),
                    context: block_on(runtime, connecting),
                    runtime: runtime.clone(),
                    in_flight: VecDeque::new(),
                }
            }
        };
        Producer { into, acknowledged }
    }

    pub fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.clone()
    }

    /// Sends a record, and waits only where too many are on their way. JetStream takes the key as a header, and headers
    /// and values that are null as empty ones.
    pub fn send(&mut self, partition: u32, key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) {
        match &mut self.into {
            Into::Kafka { topic, producer } => {
                let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic)
                    .partition(partition as i32)
                    .headers(kafka_headers(headers));
                record.key = key;
                record.payload = value;
                while let Err((error, back)) = producer.send(record) {
                    let code = error.rdkafka_error_code();
                    assert_eq!(code, Some(rdkafka::types::RDKafkaErrorCode::QueueFull));
                    record = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Into::JetStream {
                stream,
                context,
                runtime,
                in_flight,
            } => {
                let subject = format!("{stream}.{partition}");
                let value = value.unwrap_or_default().to_vec().into();
                let headers = nats_headers(key, headers);
                let (acknowledged, room) = (&self.acknowledged, IN_FLIGHT_MAX - 1);
                block_on(runtime, async {
                    settle(in_flight, room, acknowledged).await;
                    let sent = match headers.is_empty() {
                        true => context.publish(subject, value).await,
                        false => context.publish_with_headers(subject, headers, value).await,
                    };
                    in_flight.push_back((partition, sent.expect("JetStream takes every record")));
                });
            }
        }
    }

    /// Puts a record into the stream that belongs to no partition. JetStream only: there is no such place in Kafka.
    pub fn send_beside(&mut self) {
        let Into::JetStream {
            stream,
            context,
            runtime,
            ..
        } = &self.into
        else {
            return;
        };
        block_on(runtime, async {
            let sent = context
                .publish(format!("{stream}.elsewhere"), "beside".into())
                .await;
            sent.unwrap().await.unwrap();
        });
    }

    /// Waits until everything is acknowledged.
    pub fn flush(&mut self) {
        match &mut self.into {
            Into::Kafka { producer, .. } => producer.flush(DEADLINE).unwrap(),
            Into::JetStream {
                runtime, in_flight, ..
            } => {
                block_on(runtime, settle(in_flight, 0, &self.acknowledged));
            }
        }
    }

    /// By partition, the last sequence of the stream, whoever published it.
    pub fn last_sequences(&self) -> Option<Vec<Option<u64>>> {
        let Into::JetStream {
            stream,
            context,
            runtime,
            ..
        } = &self.into
        else {
            return None;
        };
        let partitions = self.acknowledged.lock().unwrap().len();
        Some(block_on(runtime, async {
            let found = context.get_stream(stream).await.unwrap();
            let mut lasts = Vec::new();
            for partition in 0..partitions {
                let subject = format!("{stream}.{partition}");
                lasts.push(match found.get_last_raw_message_by_subject(&subject).await {
                    Ok(message) => Some(message.sequence),
                    Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
                    Err(error) => panic!("{error}"),
                });
            }
            lasts
        }))
    }
}

/// Waits until at most so many are on their way.
async fn settle(in_flight: &mut VecDeque<(u32, PublishAckFuture)>, left: usize, acknowledged: &Acknowledged) {
    while in_flight.len() > left {
        let (partition, sent) = in_flight.pop_front().unwrap();
        let taken = sent.await.expect("JetStream takes every record");
        assert!(!taken.duplicate);
        note(acknowledged, partition, taken.sequence);
    }
}

fn kafka_headers(headers: &Headers) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new(), |all, (name, value)| {
        all.insert(Header {
            key: name,
            value: value.as_ref(),
        })
    })
}

fn nats_headers(key: Option<&[u8]>, headers: &Headers) -> HeaderMap {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("NATS headers are text");
    let mut all = HeaderMap::new();
    if let Some(key) = key {
        // As some libraries write it, and as HTTP does.
        let name = if key.len().is_multiple_of(2) { "key" } else { "Key" };
        all.insert(name, text(key));
    }
    for (name, value) in headers {
        all.append(name.as_str(), text(value.as_deref().unwrap_or_default()));
    }
    all
}

/// Reads the whole stream of a deployment. Within a tokio runtime.
pub fn read_stream(deployment: &Deployment) -> Records {
    match deployment.stream_kind() {
        StreamKind::Kafka => read_kafka(
            &deployment.brokers,
            &deployment.topic(),
            Some(deployment.partitions),
        ),
        StreamKind::JetStream => read_jetstream(&deployment.nats, deployment.topic(), deployment.partitions),
    }
}

/// Reads all dead letters of a deployment. Within a tokio runtime.
pub fn read_dead_letters(deployment: &Deployment) -> Records {
    let topic = deployment.topic();
    match deployment.stream_kind() {
        StreamKind::Kafka => read_kafka(&deployment.brokers, &format!("{topic}.dlq"), None),
        StreamKind::JetStream => {
            read_jetstream(&deployment.nats, format!("{topic}-dlq"), deployment.partitions)
        }
    }
}

fn read_kafka(brokers: &str, topic: &str, partitions: Option<u32>) -> Records {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "reader-of-tests")
        .create()
        .unwrap();
    let partitions = partitions.unwrap_or_else(|| {
        let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
        metadata.topics()[0].partitions().len() as u32
    });
    let mut places = TopicPartitionList::new();
    let mut missing = 0;
    let mut read: Vec<Vec<Record>> = Vec::new();
    for partition in 0..partitions as i32 {
        let (low, high) = consumer.fetch_watermarks(topic, partition, DEADLINE).unwrap();
        assert_eq!(low, 0, "{topic}/{partition} has lost its beginning");
        missing += high;
        read.push(Vec::with_capacity(high as usize));
        places
            .add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&places).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while missing > 0 {
        assert!(
            Instant::now() < deadline,
            "{missing} records of {topic} can't be read"
        );
        let Some(polled) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let record = polled.unwrap();
        let partition = &mut read[record.partition() as usize];
        assert_eq!(record.offset(), partition.len() as i64, "offsets without gaps");
        let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
        partition.push(Record {
            partition: record.partition() as u32,
            offset: record.offset() as u64,
            key: record.key().map(<[u8]>::to_vec),
            value: record.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect(),
        });
        missing -= 1;
    }
    Records {
        kind: StreamKind::Kafka,
        partitions: read,
        last_sequence: None,
    }
}

fn read_jetstream(url: &str, name: String, partitions: u32) -> Records {
    let reading = async {
        let context = jetstream::new(async_nats::connect(url).await.unwrap());
        let stream = context.get_stream(&name).await.unwrap();
        let state = &stream.cached_info().state;
        assert!(state.first_sequence <= 1, "{name} has lost its beginning");
        let last = state.last_sequence;
        let config = pull::Config {
            ack_policy: AckPolicy::None,
            memory_storage: true,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let pulled = consumer.stream().max_messages_per_batch(1000);
        let mut messages = pulled.messages().await.unwrap();
        let mut read = vec![Vec::new(); partitions as usize];
        for sequence in 1..=last {
            let message = messages.next().await.unwrap().unwrap();
            let found = message.info().unwrap().stream_sequence;
            assert_eq!(found, sequence, "sequences without gaps");
            let token = message.subject.strip_prefix(&format!("{name}.")).unwrap();
            if let Ok(partition) = token.parse::<u32>() {
                read[partition as usize].push(jetstream_record(&message, partition, sequence));
            }
        }
        Records {
            kind: StreamKind::JetStream,
            partitions: read,
            last_sequence: (last > 0).then_some(last),
        }
    };
    let reading = tokio::time::timeout(DEADLINE, reading);
    block_on(&Handle::current(), reading).expect("the stream can be read in time")
}

fn jetstream_record(message: &jetstream::Message, partition: u32, offset: u64) -> Record {
    let headers = message.headers.iter().flat_map(HeaderMap::iter);
    let mut headers: Headers = headers
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
        .map(|(name, value)| (name.to_string(), Some(value.as_str().as_bytes().to_vec())))
        .collect();
    headers.sort_by(|one, other| one.0.cmp(&other.0));
    let key = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("key"));
    Record {
        partition,
        offset,
        key: key.and_then(|(_, value)| value.clone()),
        value: Some(message.payload.to_vec()),
        headers,
    }
}
