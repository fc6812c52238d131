//! Publishes a history, by the command and by a producer of the test's own, and remembers what was sent.

use std::collections::BTreeMap;

use prost::Message as _;
use readstates::config::StreamKind;
use readstates::model::ids::ChannelId;
use readstates::wire::json::to_json;
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1::event::Kind;
use readstates::wire::proto::v1::{Event, MessageCreated, MessageDeleted, MessageRead};
use tokio::runtime::Handle;

use super::history::LISTED_MAX;
use super::rng::Rng;
use super::truth::event_of;
use crate::support::service::Deployment;
pub use crate::support::streams::Acknowledged;
use crate::support::streams::{Headers, Producer, Records};

/// Header of records that can't be used: the reason that their dead letter has to give.
pub const EXPECTED: &str = "test-expected";
/// `limits.max_mentions` and `limits.max_deletes` of the deployments.
pub const LISTED_LIMIT: u64 = LISTED_MAX;
/// `limits.max_event_bytes` of the deployments.
pub const EVENT_BYTES_LIMIT: usize = 4096;

/// Publishes into one stream.
pub struct Publishing {
    deployment: Deployment,
    producer: Producer,
    rng: Rng,
    /// By partition: what each record is; none for those that can't be used.
    sent: Vec<Vec<Option<Event>>>,
    /// By reason.
    pub unusable: BTreeMap<&'static str, u64>,
    /// By form: the command, protobuf, JSON.
    pub usable: BTreeMap<&'static str, u64>,
}

/// A record that can't be used.
struct Unusable {
    reason: &'static str,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    is_json: bool,
    partition: u32,
}

impl Publishing {
    /// Within a tokio runtime with several threads.
    pub fn new(deployment: &Deployment, seed: u64) -> Self {
        Publishing {
            deployment: deployment.clone(),
            producer: Producer::new(deployment, &Handle::current()),
            rng: Rng::new(seed),
            sent: vec![Vec::new(); deployment.partitions as usize],
            unusable: BTreeMap::new(),
            usable: BTreeMap::new(),
        }
    }

    pub fn acknowledged(&self) -> Acknowledged {
        self.producer.acknowledged()
    }

    fn is_jetstream(&self) -> bool {
        self.deployment.stream_kind() == StreamKind::JetStream
    }

    fn partition(&self, channel: u64) -> u32 {
        partition_of(ChannelId(channel), self.deployment.partitions).0
    }

    /// Publishes by the command, and waits until all is acknowledged.
    pub fn by_command(&mut self, events: &[Event]) {
        let mut lines = Vec::new();
        for event in events {
            lines.extend(to_json(event));
            lines.push(b'\n');
            let partition = self.partition(event.channel_id);
            self.sent[partition as usize].push(Some(event.clone()));
        }
        let said = self.deployment.publish(&lines);
        let summary = format!("published {} events", events.len());
        assert!(said.contains(&summary), "{summary}: {said}");
        *self.usable.entry("command").or_default() += events.len() as u64;
    }

    /// Publishes by a producer, some as JSON, with some among them that can't be used; waits until all is acknowledged.
    pub fn by_producer(&mut self, events: &[Event], unusable_permille: u64) {
        for event in events {
            while self.rng.permille(unusable_permille) {
                let unusable = self.unusable(event.channel_id);
                self.send_unusable(unusable);
            }
            let partition = self.partition(event.channel_id);
            let key = event.channel_id.to_string();
            // In JetStream the subject says which partition it is, and the key is optional.
            let has_key = !self.is_jetstream() || self.rng.percent(50);
            let (form, value, headers) = match self.rng.below(3) {
                0 => {
                    let is = *self
                        .rng
                        .pick(&["application/json", "Application/JSON; charset=utf-8"]);
                    let name = match self.is_jetstream() && self.rng.percent(50) {
                        true => "Content-Type",
                        false => "content-type",
                    };
                    ("JSON", to_json(event), vec![header(name, is)])
                }
                _ => ("protobuf", event.encode_to_vec(), Headers::new()),
            };
            *self.usable.entry(form).or_default() += 1;
            let key = has_key.then_some(key.as_bytes());
            self.producer.send(partition, key, Some(&value), &headers);
            self.sent[partition as usize].push(Some(event.clone()));
        }
        self.producer.flush();
    }

    /// Makes a record that can't be used the last one of every partition.
    pub fn end_with_unusable(&mut self) {
        for partition in 0..self.deployment.partitions {
            self.unusable_in(partition);
        }
        self.producer.flush();
    }

    /// Publishes a record that can't be used into a partition.
    pub fn unusable_in(&mut self, partition: u32) {
        self.send_unusable(Unusable {
            reason: "undecodable",
            key: None,
            value: Some(vec![0xff]),
            is_json: false,
            partition,
        });
    }

    fn send_unusable(&mut self, unusable: Unusable) {
        let Unusable {
            reason,
            key,
            value,
            is_json,
            partition,
        } = unusable;
        // NATS has neither bytes that are no text nor values that are null.
        let own = match self.is_jetstream() {
            true => "\u{fe}".as_bytes().to_vec(),
            false => vec![0xff, 0, 0xfe],
        };
        let mut headers = vec![
            header("own", "1"),
            header(EXPECTED, reason),
            ("own".to_owned(), Some(own)),
            ("nothing".to_owned(), None),
        ];
        if is_json {
            headers.push(header("content-type", "application/json"));
        }
        self.producer
            .send(partition, key.as_deref(), value.as_deref(), &headers);
        if self.rng.percent(10) {
            self.producer.send_beside();
        }
        self.sent[partition as usize].push(None);
        *self.unusable.entry(reason).or_default() += 1;
    }

    /// One of the ways to be wrong, in a channel that is in use.
    fn unusable(&mut self, channel: u64) -> Unusable {
        let partition = self.partition(channel);
        let user_id = 1 + self.rng.below(1000);
        let created = |mentions: u64| MessageCreated {
            message_id: 7,
            author_id: user_id,
            mentioned_user_ids: (1..=mentions).collect(),
            mentions_everyone: true,
        };
        let of = |channel_id, kind| {
            Event {
                channel_id,
                kind: Some(kind),
            }
            .encode_to_vec()
        };
        let right = of(channel, Kind::MessageCreated(created(1)));
        let mut it = Unusable {
            reason: "invalid",
            key: Some(channel.to_string().into_bytes()),
            value: None,
            is_json: false,
            partition,
        };
        match self.rng.below(14) {
            0 => it.reason = "undecodable",
            1 => (it.reason, it.is_json) = ("undecodable", true),
            2 => {}
            3 => it.value = Some(vec![]),
            4 => {
                it.value = Some(
                    Event {
                        channel_id: channel,
                        kind: None,
                    }
                    .encode_to_vec(),
                )
            }
            5 => {
                it.value = Some(of(
                    channel,
                    Kind::MessageRead(MessageRead {
                        user_id: 0,
                        message_id: 5,
                    }),
                ))
            }
            6 => {
                it.value = Some(of(
                    channel,
                    Kind::MessageRead(MessageRead {
                        user_id,
                        message_id: 1 << 63,
                    }),
                ))
            }
            7 => (it.key, it.value) = (Some(b"not the channel".to_vec()), Some(right.clone())),
            8 if !self.is_jetstream() => (it.key, it.value) = (None, Some(right.clone())),
            8 => (it.key, it.value) = (Some(vec![]), Some(right.clone())),
            9 => it.value = Some(of(channel, Kind::MessageCreated(created(LISTED_LIMIT + 1)))),
            10 => {
                let message_ids = (1..=LISTED_LIMIT + 1).collect();
                it.value = Some(of(channel, Kind::MessageDeleted(MessageDeleted { message_ids })));
            }
            11 => it.value = Some(vec![0xff; EVENT_BYTES_LIMIT + 1]),
            _ => {
                it.reason = "misrouted";
                it.partition = (partition + 1) % self.deployment.partitions;
                it.value = Some(right.clone());
            }
        }
        if it.reason == "undecodable" {
            it.value = Some(if it.is_json {
                b"{\"channelId\": ".to_vec()
            } else {
                vec![0xff, 1, 2]
            });
        }
        it
    }

    /// By partition, the last offset; none where nothing was sent.
    pub fn ends(&self) -> Vec<Option<u64>> {
        let counted = || {
            let last = |sent: &Vec<_>| (sent.len() as u64).checked_sub(1);
            self.sent.iter().map(last).collect()
        };
        self.producer.last_sequences().unwrap_or_else(counted)
    }

    /// Checks that the stream has what was sent, all of it, once, in order.
    pub fn check_topic(&self, topic: &Records) {
        for (partition, (sent, records)) in self.sent.iter().zip(&topic.partitions).enumerate() {
            assert_eq!(sent.len(), records.len(), "records of partition {partition}");
            for (sent, record) in sent.iter().zip(records) {
                let offset = record.offset;
                assert_eq!(*sent, event_of(record), "partition {partition}, offset {offset}");
            }
        }
    }
}

fn header(name: &str, value: &str) -> (String, Option<Vec<u8>>) {
    (name.to_owned(), Some(value.as_bytes().to_vec()))
}
