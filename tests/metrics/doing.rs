//! Does things to a service, and remembers what must be counted.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Request};
use prost::Message;
use readstates::config::StreamKind;
use readstates::model::ids::ChannelId;
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1;
use readstates::wire::proto::v1::event::Kind;

use super::exposition::Page;
use super::support::servers::wait_for;
use super::support::service::{Deployment, Service};
use super::support::streams::Producer;
use super::{DEADLINE, PARTITIONS, owned, page};

/// What was done, and what must be counted.
pub struct Doing {
    pub deployment: Deployment,
    pub producer: Producer,
    pub client: Client,
    pub runtime: tokio::runtime::Runtime,
    /// By kind.
    pub events: BTreeMap<&'static str, u64>,
    /// By reason.
    pub letters: BTreeMap<&'static str, u64>,
    /// By endpoint and code.
    pub asked: BTreeMap<(&'static str, &'static str), u64>,
}

impl Doing {
    pub fn new(deployment: &Deployment) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        Doing {
            deployment: deployment.clone(),
            producer: Producer::new(deployment, runtime.handle()),
            client: runtime.block_on(async_nats::connect(&deployment.nats)).unwrap(),
            runtime,
            events: BTreeMap::new(),
            letters: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    pub fn send(&mut self, channel: u64, value: &[u8], elsewhere: u32) {
        let partition = (partition_of(ChannelId(channel), PARTITIONS).0 + elsewhere) % PARTITIONS;
        let key = channel.to_string();
        self.producer
            .send(partition, Some(key.as_bytes()), Some(value), &Vec::new());
    }

    /// Where the partition is once all that was sent is applied; in JetStream positions move on with the records of others.
    pub fn last(&self, partition: usize) -> f64 {
        let acknowledged = self.producer.acknowledged();
        let acknowledged = acknowledged.lock().unwrap();
        let last = match self.deployment.stream_kind() {
            StreamKind::Kafka => acknowledged[partition],
            StreamKind::JetStream => acknowledged.iter().copied().max().flatten(),
        };
        last.unwrap() as f64
    }

    pub fn event(&mut self, channel: u64, kind: Kind) {
        let name = match &kind {
            Kind::MessageCreated(_) => "message_created",
            Kind::MessageRead(_) => "message_read",
            Kind::MessageUpdated(_) => "message_updated",
            Kind::MessageDeleted(_) => "message_deleted",
            Kind::MessageMarkedUnread(_) => "message_marked_unread",
            Kind::MemberJoined(_) => "member_joined",
            Kind::MemberLeft(_) => "member_left",
            Kind::ChannelDeleted(_) => "channel_deleted",
        };
        let event = v1::Event {
            channel_id: channel,
            kind: Some(kind),
        };
        self.send(channel, &event.encode_to_vec(), 0);
        *self.events.entry(name).or_default() += 1;
    }

    pub fn letter(&mut self, reason: &'static str, channel: u64, value: &[u8]) {
        self.send(channel, value, u32::from(reason == "misrouted"));
        *self.letters.entry(reason).or_default() += 1;
    }

    /// Waits until all records that can't be used were seen.
    pub fn wait_for_letters(&mut self, service: &Service) {
        self.producer.flush();
        let sent: u64 = self.letters.values().sum();
        wait_for("dead letters", DEADLINE, || {
            service.metric("readstates_dead_letters_total", "") == sent as f64
        });
    }

    /// Waits until all that was sent is applied.
    pub fn settle(&mut self, service: &mut Service) -> Page {
        self.producer.flush();
        wait_for("everything to be applied", DEADLINE, || {
            service.assert_runs();
            let page = page(service);
            owned(&page).iter().all(|partition| {
                let last = self.last(partition.parse().unwrap());
                page.get("readstates_applied_offset", &[("partition", partition)]) == Some(last)
            })
        });
        page(service)
    }

    /// Asks, and checks the code of the reply.
    pub fn ask(&mut self, endpoint: &'static str, code: &'static str, timeout_ms: u64, payload: Vec<u8>) {
        let subject = match endpoint {
            "partition_get" => format!("{}.v1.partition.0.get", self.deployment.name),
            endpoint => format!("{}.v1.{endpoint}", self.deployment.name),
        };
        let mut headers = HeaderMap::new();
        headers.insert("readstates-timeout-ms", timeout_ms.to_string());
        let request = Request::new()
            .payload(payload.into())
            .headers(headers)
            .timeout(Some(Duration::from_secs(30)));
        let reply = self
            .runtime
            .block_on(self.client.send_request(subject, request))
            .unwrap();
        let said = reply
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Service-Error-Code"));
        assert_eq!(
            said.map_or("200", |code| code.as_str()),
            code,
            "{endpoint}: {:?}",
            reply.headers
        );
        *self.asked.entry((endpoint, code)).or_default() += 1;
    }

    /// Without a subject to reply to.
    pub fn shout(&mut self) {
        let subject = format!("{}.v1.get", self.deployment.name);
        self.runtime.block_on(async {
            self.client.publish(subject, Vec::new().into()).await.unwrap();
            self.client.flush().await.unwrap();
        });
        *self.asked.entry(("get", "400")).or_default() += 1;
    }

    pub fn check_asked(&self, service: &Service) -> Page {
        let all = |page: &Page| {
            self.asked.iter().all(|((endpoint, code), count)| {
                let labels = [("endpoint", *endpoint), ("code", *code)];
                page.value("readstates_queries_total", &labels) == *count as f64
            })
        };
        // It is counted just before the reply goes out, and what gets none at some time.
        wait_for(&format!("the questions {:?}", self.asked), DEADLINE, || {
            all(&page(service))
        });
        page(service)
    }
}
