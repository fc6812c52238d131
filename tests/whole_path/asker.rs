//! Asks over NATS as any program would, and keeps what was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
use async_nats::{Client, HeaderMap, Request};
use futures::StreamExt;
use prost::{Message, Name};
use readstates::config::StreamKind;
use readstates::model::ids::ChannelId;
use readstates::wire::json::{from_json, to_json};
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1;

use super::publishing::Acknowledged;
use super::rng::Rng;
use super::truth::Seen;
use crate::support::service::Deployment;

/// Keys of one request, by default the most.
const KEYS_MAX: usize = 1000;
/// How long it may take until everything that was published is answered.
const SETTLE_DEADLINE: Duration = Duration::from_secs(150);
const TIMEOUT_MS: u64 = 2000;
/// How long replies are waited for where several may come.
const ALL_REPLIES_WAIT: Duration = Duration::from_millis(300);

/// Why there is no answer.
#[derive(Clone, Debug)]
pub struct NoAnswer {
    /// The error code, or a word.
    pub what: String,
    /// What the service says about it.
    #[allow(dead_code, reason = "shown by Debug")]
    why: String,
}

impl NoAnswer {
    fn new(what: &str, why: String) -> Self {
        NoAnswer {
            what: what.to_owned(),
            why,
        }
    }
}

/// One caller.
#[derive(Clone)]
pub struct Asker {
    client: Client,
    prefix: String,
    partitions: u32,
    stream: StreamKind,
    acknowledged: Acknowledged,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// By partition, the furthest that was said to be durable.
    durable: Mutex<Vec<Option<u64>>>,
    seen: Mutex<Vec<Seen>>,
    /// How often each thing came out.
    tally: Mutex<BTreeMap<String, u64>>,
    stop: AtomicBool,
}

impl Asker {
    pub async fn new(deployment: &Deployment, acknowledged: Acknowledged) -> Self {
        let shared = Shared::default();
        *shared.durable.lock().unwrap() = vec![None; deployment.partitions as usize];
        Asker {
            client: async_nats::connect(&deployment.nats).await.unwrap(),
            prefix: deployment.name.clone(),
            partitions: deployment.partitions,
            stream: deployment.stream_kind(),
            acknowledged,
            shared: Arc::new(shared),
        }
    }

    pub fn partition(&self, channel: u64) -> usize {
        partition_of(ChannelId(channel), self.partitions).0 as usize
    }

    async fn ask<Req, Rep>(
        &self,
        subject: &str,
        request: &Req,
        json: bool,
        timeout_ms: u64,
    ) -> Result<Rep, NoAnswer>
    where
        Req: Message + Name,
        Rep: Message + Name + Default,
    {
        let mut headers = HeaderMap::new();
        headers.insert("readstates-timeout-ms", timeout_ms.to_string());
        let payload = if json {
            to_json(request)
        } else {
            request.encode_to_vec()
        };
        let request = Request::new()
            .payload(payload.into())
            .headers(headers)
            .timeout(Some(Duration::from_millis(timeout_ms + 500)));
        let subject = format!("{}.v1.{subject}", self.prefix);
        let reply = self
            .client
            .send_request(subject, request)
            .await
            .map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => NoAnswer::new("no responders", error.to_string()),
                RequestErrorKind::TimedOut => NoAnswer::new("no reply", error.to_string()),
                _ => panic!("{error}"),
            })?;
        let header = |name: &str| Some(reply.headers.as_ref()?.get(name)?.as_str().to_owned());
        if let Some(code) = header("Nats-Service-Error-Code") {
            let why = header("Nats-Service-Error").unwrap_or_default();
            assert!(matches!(&*code, "503" | "504"), "{code}: {why}");
            assert!(reply.payload.is_empty());
            return Err(NoAnswer::new(&code, why));
        }
        Ok(match json {
            true => from_json(&reply.payload).unwrap(),
            false => Rep::decode(reply.payload).unwrap(),
        })
    }

    /// What every instance says of itself.
    pub async fn status(&self) -> Vec<v1::StatusReply> {
        let inbox = self.client.new_inbox();
        let replies = self.client.subscribe(inbox.clone()).await.unwrap();
        let subject = format!("{}.v1.status", self.prefix);
        self.client
            .publish_with_reply(subject, inbox, vec![].into())
            .await
            .unwrap();
        let quiet = tokio::time::sleep(Duration::from_millis(300));
        let replies = replies
            .take_until(quiet)
            .filter(|reply| std::future::ready(reply.status.is_none()));
        let status: Vec<v1::StatusReply> = replies
            .map(|reply| v1::StatusReply::decode(reply.payload).unwrap())
            .collect()
            .await;
        let mut durable = self.shared.durable.lock().unwrap();
        for partition in status.iter().flat_map(|status| &status.partitions) {
            let known = &mut durable[partition.partition as usize];
            *known = (*known).max(partition.durable_offset);
        }
        status
    }

    /// Expects nothing of what was durable before: the store was rolled back.
    #[allow(dead_code, reason = "not every test rolls the store back")]
    pub fn forget_durable(&self) {
        self.shared.durable.lock().unwrap().fill(None);
    }

    /// By partition, the furthest that was said to be durable.
    pub fn floors(&self) -> Vec<Option<u64>> {
        self.shared.durable.lock().unwrap().clone()
    }

    /// Asks for read states; all of them are kept for comparison.
    pub async fn get(
        &self,
        subject: &str,
        keys: &[(u64, u64)],
        after: Vec<v1::Position>,
        json: bool,
        timeout_ms: u64,
    ) -> Result<Vec<v1::ReadState>, NoAnswer> {
        let mut floors = self.floors();
        for position in &after {
            let floor = &mut floors[position.partition as usize];
            *floor = (*floor).max(Some(position.offset));
        }
        let key = |(user_id, channel_id): &(u64, u64)| v1::Key {
            user_id: *user_id,
            channel_id: *channel_id,
        };
        let request = v1::GetRequest {
            keys: keys.iter().map(key).collect(),
            after,
            partial: false,
        };
        let reply: v1::GetReply = self.ask(subject, &request, json, timeout_ms).await?;
        assert_eq!(reply.read_states.len(), keys.len());
        for (state, key) in reply.read_states.iter().zip(keys) {
            assert_eq!(
                (state.user_id, state.channel_id),
                *key,
                "in the order of the request"
            );
            assert!(!state.unavailable);
        }
        let seen = reply.read_states.iter().map(|state| Seen::State {
            state: *state,
            floor: floors[self.partition(state.channel_id)],
            how: if json { "get, JSON" } else { "get" },
        });
        self.shared.seen.lock().unwrap().extend(seen);
        Ok(reply.read_states)
    }

    /// Asks for all pages of an overview; what is listed is kept for comparison.
    pub async fn overview(
        &self,
        user_id: u64,
        limit: u32,
        json: bool,
        timeout_ms: u64,
    ) -> Result<Vec<v1::ReadState>, NoAnswer> {
        let floors = self.floors();
        let mut listed: Vec<v1::ReadState> = Vec::new();
        loop {
            let after_channel_id = listed.last().map_or(0, |last| last.channel_id);
            let request = v1::OverviewRequest {
                user_id,
                limit,
                after_channel_id,
                ..Default::default()
            };
            let reply: v1::OverviewReply = self.ask("overview", &request, json, timeout_ms).await?;
            assert!(reply.missing_partitions.is_empty());
            for state in &reply.read_states {
                let last = listed.last().map_or(0, |last| last.channel_id);
                assert!(
                    state.user_id == user_id && state.channel_id > last,
                    "{last}: {state:?}"
                );
                listed.push(*state);
            }
            if !reply.more {
                break;
            }
        }
        let mut seen = self.shared.seen.lock().unwrap();
        seen.extend(listed.iter().map(|state| Seen::State {
            state: *state,
            floor: floors[self.partition(state.channel_id)],
            how: "overview",
        }));
        let channels: BTreeSet<u64> = listed.iter().map(|state| state.channel_id).collect();
        seen.push(Seen::Listing {
            user: user_id,
            channels,
            floors,
        });
        Ok(listed)
    }

    /// Asks on the subject of a partition, and keeps what everyone answers who listens there, not only who is first. How
    /// many did.
    pub async fn get_from_all(&self, partition: u32, keys: &[(u64, u64)]) -> usize {
        let floors = self.floors();
        let inbox = self.client.new_inbox();
        let replies = self.client.subscribe(inbox.clone()).await.unwrap();
        let key = |(user_id, channel_id): &(u64, u64)| v1::Key {
            user_id: *user_id,
            channel_id: *channel_id,
        };
        let request = v1::GetRequest {
            keys: keys.iter().map(key).collect(),
            ..Default::default()
        };
        let subject = format!("{}.v1.partition.{partition}.get", self.prefix);
        self.client
            .publish_with_reply(subject, inbox, request.encode_to_vec().into())
            .await
            .unwrap();
        let answers: Vec<v1::GetReply> = replies
            .take_until(tokio::time::sleep(ALL_REPLIES_WAIT))
            .filter(|reply| std::future::ready(reply.status.is_none() && reply.headers.is_none()))
            .map(|reply| v1::GetReply::decode(reply.payload).unwrap())
            .collect()
            .await;
        let states = answers.iter().flat_map(|answer| &answer.read_states);
        self.shared
            .seen
            .lock()
            .unwrap()
            .extend(states.map(|state| Seen::State {
                state: *state,
                floor: floors[partition as usize],
                how: "get from all",
            }));
        answers.len()
    }

    /// Waits until every partition's durable offset is at its end. How long that took.
    ///
    /// # Panics
    /// With what was said last, if it takes too long.
    pub async fn wait_until_durable(&self, ends: &[Option<u64>]) -> Duration {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            let mut durable = vec![None; ends.len()];
            for partition in status.iter().flat_map(|status| &status.partitions) {
                durable[partition.partition as usize] = partition.durable_offset;
            }
            if durable.iter().zip(ends).all(|(durable, end)| durable >= end) {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < SETTLE_DEADLINE,
                "not durable: {ends:?}, {status:#?}"
            );
        }
    }

    /// Takes what was answered since the last time.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }

    /// Waits until everything up to `ends` is answered for. How long that took.
    ///
    /// # Panics
    /// With what was said last, if it takes too long.
    pub async fn settle(&self, ends: &[Option<u64>]) -> Duration {
        let began = Instant::now();
        let after: Vec<v1::Position> = positions(ends);
        loop {
            match self.get("get", &[], after.clone(), false, 10_000).await {
                Ok(_) => return began.elapsed(),
                Err(why) if began.elapsed() > SETTLE_DEADLINE => {
                    panic!(
                        "not settled: {why:?}; wanted {ends:?}, there is {:#?}",
                        self.status().await
                    )
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Asks for every key, as many at a time as may be, at `ends` exactly; in JetStream positions move on with the records of
    /// other partitions.
    pub async fn ask_all(&self, keys: &[(u64, u64)], ends: &[Option<u64>]) {
        for keys in keys.chunks(KEYS_MAX) {
            let states = self.get("get", keys, positions(ends), false, 20_000).await;
            for state in states.expect("settled, so every question is answered") {
                let end = ends[self.partition(state.channel_id)];
                let at = state.position.map(|it| it.offset);
                let moves_on = self.stream == StreamKind::JetStream && end.is_some();
                assert!(
                    at == end || moves_on && at > end,
                    "at the end, {end:?}: {state:?}"
                );
            }
        }
    }

    /// Waits until every partition is answered for. How long that took.
    pub async fn wait_until_live(&self) -> Duration {
        let began = Instant::now();
        for partition in 0..self.partitions {
            let subject = format!("partition.{partition}.get");
            while let Err(why) = self.get(&subject, &[], vec![], false, TIMEOUT_MS).await {
                assert!(
                    began.elapsed() < SETTLE_DEADLINE,
                    "partition {partition} is not live: {why:?}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        began.elapsed()
    }

    /// Waits until so many instances own partitions, all partitions together, all of them live. How long that took.
    pub async fn wait_until_shared(&self, instances: usize) -> Duration {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            let partitions: Vec<_> = status.iter().flat_map(|status| &status.partitions).collect();
            let owning = status
                .iter()
                .filter(|status| !status.partitions.is_empty())
                .count();
            let all_live = partitions.iter().all(|partition| partition.phase == "live");
            if owning == instances && partitions.len() as u32 == self.partitions && all_live {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < SETTLE_DEADLINE,
                "not shared by {instances}: {status:#?}"
            );
        }
    }

    /// Asks random things from `callers` tasks, until [`Asking::stop`].
    pub fn ask_on(&self, keys: &Arc<Vec<(u64, u64)>>, callers: u64, seed: u64) -> Asking {
        self.shared.stop.store(false, Ordering::SeqCst);
        let tasks = (0..callers).map(|caller| {
            let (asker, keys) = (self.clone(), keys.clone());
            let mut rng = Rng::new(seed ^ (caller << 32));
            tokio::spawn(async move {
                while !asker.shared.stop.load(Ordering::SeqCst) {
                    asker.ask_something(&keys, &mut rng).await;
                    tokio::time::sleep(Duration::from_millis(rng.between(1, 12))).await;
                }
            })
        });
        let asker = self.clone();
        let watching = tokio::spawn(async move {
            while !asker.shared.stop.load(Ordering::SeqCst) {
                asker.status().await;
            }
        });
        Asking {
            asker: self.clone(),
            tasks: tasks.chain([watching]).collect(),
        }
    }

    async fn ask_something(&self, keys: &[(u64, u64)], rng: &mut Rng) {
        let json = rng.percent(10);
        let (what, outcome) = match rng.weighted(&[60, 15, 10, 15]) {
            0 => {
                let keys = self.some_keys(keys, rng, None);
                (
                    "get",
                    self.get("get", &keys, vec![], json, TIMEOUT_MS).await.map(drop),
                )
            }
            1 => {
                let partition = self.partition(rng.pick(keys).1);
                let keys = self.some_keys(keys, rng, Some(partition));
                let subject = format!("partition.{partition}.get");
                (
                    "partition.get",
                    self.get(&subject, &keys, vec![], json, TIMEOUT_MS)
                        .await
                        .map(drop),
                )
            }
            2 => {
                // Reads what was written just now.
                let keys = self.some_keys(keys, rng, None);
                let after = positions(&self.acknowledged.lock().unwrap().clone());
                (
                    "get after",
                    self.get("get", &keys, after, json, TIMEOUT_MS).await.map(drop),
                )
            }
            _ => {
                let limit = *rng.pick(&[0, 3, 50]);
                let user = rng.pick(keys).0;
                (
                    "overview",
                    self.overview(user, limit, json, TIMEOUT_MS).await.map(drop),
                )
            }
        };
        let how = outcome.err().map_or_else(|| "answered".to_owned(), |no| no.what);
        *self
            .shared
            .tally
            .lock()
            .unwrap()
            .entry(format!("{what}: {how}"))
            .or_default() += 1;
    }

    /// Mostly pairs that have to do with each other, at times any user and channel.
    fn some_keys(&self, keys: &[(u64, u64)], rng: &mut Rng, partition: Option<usize>) -> Vec<(u64, u64)> {
        let count = rng.between(1, 40);
        let any = (0..count).map(|_| match rng.percent(4) {
            true => (rng.pick(keys).0, rng.pick(keys).1),
            false => *rng.pick(keys),
        });
        any.filter(|key| partition.is_none_or(|partition| self.partition(key.1) == partition))
            .collect()
    }
}

fn positions(ends: &[Option<u64>]) -> Vec<v1::Position> {
    let position = |(partition, end): (usize, &Option<u64>)| {
        Some(v1::Position {
            partition: partition as u32,
            offset: (*end)?,
        })
    };
    ends.iter().enumerate().filter_map(position).collect()
}

/// Callers that ask until they are stopped.
pub struct Asking {
    asker: Asker,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Asking {
    /// How often each thing came out so far, and from now on from 0.
    pub fn take_tally(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.asker.shared.tally.lock().unwrap())
    }

    /// # Panics
    /// With what was wrong at once.
    pub async fn stop(self) -> BTreeMap<String, u64> {
        self.asker.shared.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("no question panicked");
        }
        std::mem::take(&mut self.asker.shared.tally.lock().unwrap())
    }
}
