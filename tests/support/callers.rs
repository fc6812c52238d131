//! Instances of the NATS service over fakes, and a caller that asks them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, HeaderMap, Message, Request};
use metrics::Counter;
use prost::Name;
use readstates::config::{Nats, NatsLogin, Tls};
use readstates::query::{QueryService, REQUESTS_IN_WORK_MAX, ServiceOptions, Subjects, connect};
use readstates::wire::proto::v1;

use super::fakes::{FakePartitions, FakeStore, PARTITIONS, World};
use super::servers;

/// One server for all tests, since each deployment has subjects of its own.
pub fn server() -> &'static servers::Nats {
    static SERVER: OnceLock<servers::Nats> = OnceLock::new();
    SERVER.get_or_init(servers::Nats::start)
}

pub struct Instance {
    pub partitions: FakePartitions,
    pub service: QueryService,
}

/// Some instances of one deployment, each with an equal share of the partitions, and a caller.
pub struct Deployment {
    pub world: Arc<World>,
    pub instances: Vec<Instance>,
    pub caller: Caller,
    /// Messages that all instances together dropped.
    pub dropped: Arc<AtomicU64>,
}

/// How everybody connects to a server that wants no login.
fn nobody(url: &str) -> Nats {
    Nats {
        urls: vec![url.to_owned()],
        subject_prefix: "readstates".to_owned(),
        login: NatsLogin::Nobody,
        tls: Tls::default(),
    }
}

impl Deployment {
    pub async fn start(name: &str, instances: u32) -> Self {
        Self::start_with(name, instances, REQUESTS_IN_WORK_MAX).await
    }

    pub async fn start_with(name: &str, instances: u32, requests_in_work_max: usize) -> Self {
        Self::start_at(&server().url(), name, instances, requests_in_work_max).await
    }

    pub async fn start_at(url: &str, name: &str, instances: u32, requests_in_work_max: usize) -> Self {
        let caller = connect(&nobody(url), Counter::noop()).await.unwrap();
        Self::start_as(&nobody(url), caller, name, instances, requests_in_work_max).await
    }

    /// With instances that connect as they are told, and a caller that did.
    pub async fn start_as(
        nats: &Nats,
        caller: Client,
        name: &str,
        instances: u32,
        requests_in_work_max: usize,
    ) -> Self {
        let world = Arc::new(World::default());
        let subjects = Subjects::new(name, &[]);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut started = Vec::new();
        for number in 0..instances {
            let owned = (0..PARTITIONS).filter(|partition| partition % instances == number);
            let partitions = FakePartitions::new(&world, owned);
            let options = ServiceOptions {
                subjects: subjects.clone(),
                instance: format!("instance-{number}"),
                partition_count: PARTITIONS,
                keys_max: 1000,
                requests_in_work_max,
            };
            let store = FakeStore(world.clone());
            let client = connect(nats, Counter::from_arc(dropped.clone())).await.unwrap();
            let service = QueryService::start(client, partitions.clone(), store, options);
            started.push(Instance {
                partitions,
                service: service.await.unwrap(),
            });
        }
        let caller = Caller {
            client: caller,
            subjects,
        };
        caller.wait_until_up(instances).await;
        Deployment {
            world,
            instances: started,
            caller,
            dropped,
        }
    }
}

/// Asks as any program would.
#[derive(Clone)]
pub struct Caller {
    pub client: Client,
    pub subjects: Subjects,
}

impl Caller {
    /// Waits until every partition is answered for.
    async fn wait_until_up(&self, instances: u32) {
        for partition in 0..PARTITIONS {
            let subject = self
                .subjects
                .partition_get(readstates::model::ids::PartitionId(partition));
            until(async || self.is_answered(&subject, b"").await).await;
        }
        until(async || self.gather(&self.subjects.status(), b"").await.len() as u32 == instances).await;
    }

    /// Asks for protobuf; what the error headers say if there are any.
    pub async fn ask<Req: prost::Message, Rep: prost::Message + Default>(
        &self,
        subject: &str,
        request: &Req,
    ) -> Result<Rep, u16> {
        let reply = self.raw(subject, &[], &request.encode_to_vec()).await;
        match code(&reply) {
            None => Ok(Rep::decode(reply.payload).unwrap()),
            Some(code) => Err(code),
        }
    }

    /// The same in JSON, there and back.
    pub async fn ask_json<Req: prost::Message + Name, Rep: prost::Message + Name + Default>(
        &self,
        subject: &str,
        request: &Req,
    ) -> Result<Rep, u16> {
        let json = readstates::wire::json::to_json(request);
        let reply = self.raw(subject, &[], &json).await;
        match code(&reply) {
            None => Ok(readstates::wire::json::from_json(&reply.payload).unwrap()),
            Some(code) => Err(code),
        }
    }

    pub async fn get(&self, request: &v1::GetRequest) -> Result<Vec<v1::ReadState>, u16> {
        let reply: v1::GetReply = self.ask(&self.subjects.get(), request).await?;
        Ok(reply.read_states)
    }

    pub async fn overview(&self, request: &v1::OverviewRequest) -> Result<v1::OverviewReply, u16> {
        self.ask(&self.subjects.overview(), request).await
    }

    /// # Panics
    /// If nobody answers within 10 s: each question has an answer.
    pub async fn raw(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Message {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let mut request = Request::new()
            .payload(payload.to_vec().into())
            .timeout(Some(Duration::from_secs(10)));
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        let reply = self.client.send_request(subject.to_owned(), request).await;
        reply.unwrap_or_else(|error| panic!("{subject}: {error}"))
    }

    /// Whether there is an answer within a moment that is no error.
    pub async fn is_answered(&self, subject: &str, payload: &[u8]) -> bool {
        let request = Request::new()
            .payload(payload.to_vec().into())
            .timeout(Some(Duration::from_millis(200)));
        let reply = self.client.send_request(subject.to_owned(), request).await;
        reply.is_ok_and(|reply| code(&reply).is_none())
    }

    /// Whether the server says so. A request that comes while a subscription ends may get lost instead.
    pub async fn nobody_answers_on(&self, subject: &str) -> bool {
        let request = Request::new().timeout(Some(Duration::from_millis(100)));
        let answer = self.client.send_request(subject.to_owned(), request).await;
        answer.is_err_and(|error| error.kind() == RequestErrorKind::NoResponders)
    }

    /// All answers that come within 300 ms.
    pub async fn gather(&self, subject: &str, payload: &[u8]) -> Vec<Message> {
        use futures::StreamExt;
        let inbox = self.client.new_inbox();
        let replies = self.client.subscribe(inbox.clone()).await.unwrap();
        let payload = payload.to_vec().into();
        self.client
            .publish_with_reply(subject.to_owned(), inbox, payload)
            .await
            .unwrap();
        let quiet = tokio::time::sleep(Duration::from_millis(300));
        replies
            .take_until(quiet)
            .filter(|reply| std::future::ready(reply.status.is_none()))
            .collect()
            .await
    }
}

/// The error code of a reply, if it is an error. Those have an empty body.
pub fn code(reply: &Message) -> Option<u16> {
    let headers = reply.headers.as_ref()?;
    let code = headers.get("Nats-Service-Error-Code")?.as_str().parse().unwrap();
    assert!(reply.payload.is_empty());
    assert!(!headers.get("Nats-Service-Error").unwrap().as_str().is_empty());
    Some(code)
}

/// Waits for a condition, 10 s at most.
pub async fn until(condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("the condition in time");
}
