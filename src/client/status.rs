//! How all instances are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use prost::Message;
use tokio::time::{Instant, timeout_at};

use super::{AskError, Client};
use crate::model::ids::PartitionId;
use crate::query::QueryError;
use crate::wire::proto::v1::{PartitionStatus, StatusReply, StatusRequest};

/// Where every partition has an owner, further instances have so long.
const QUIET_MAX: Duration = Duration::from_millis(250);
/// Above any number of instances; what is gathered has a limit.
const REPLIES_MAX: usize = 10_000;

/// A question to all instances; `.await` asks it. See [`Client::status`].
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before it is awaited"]
pub struct Status {
    client: Client,
    wait: Duration,
}

/// What the instances said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statuses {
    /// Each once, by the name of the instance.
    pub instances: BTreeMap<String, StatusReply>,
    /// What others said in place of their status, for people.
    pub errors: BTreeSet<String>,
}

impl Status {
    pub(super) fn new(client: Client) -> Self {
        let wait = client.timeout;
        Status { client, wait }
    }

    /// How long to wait for instances while a partition has no owner.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    async fn gather(self) -> Result<Statuses, AskError> {
        let deadline = Instant::now() + self.wait;
        let broken =
            |error: &dyn fmt::Display| AskError::Unavailable(format!("asking for the status: {error}"));
        let nats = &self.client.nats;
        let inbox = nats.new_inbox();
        let subscribing = nats.subscribe(inbox.clone());
        let mut replies = subscribing.await.map_err(|error| broken(&error))?;
        let request = StatusRequest {}.encode_to_vec();
        nats.publish_with_reply(self.client.subjects.status(), inbox, request.into())
            .await
            .map_err(|error| broken(&error))?;
        let mut gathered = Statuses::default();
        let mut until = deadline;
        while let Ok(Some(reply)) = timeout_at(until, replies.next()).await {
            if reply.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                break;
            }
            gathered.add(&reply);
            if gathered.is_complete() {
                until = deadline.min(Instant::now() + QUIET_MAX);
            }
            if gathered.instances.len() >= REPLIES_MAX {
                break;
            }
        }
        Ok(gathered)
    }
}

impl IntoFuture for Status {
    /// Who answered; nobody is no error.
    type Output = Result<Statuses, AskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.gather().boxed()
    }
}

impl Statuses {
    fn add(&mut self, reply: &async_nats::Message) {
        if let Some(error) = reply.headers.as_ref().and_then(QueryError::from_headers) {
            self.errors.insert(error.to_string());
            return;
        }
        match StatusReply::decode(reply.payload.clone()) {
            Ok(status) => {
                self.instances.insert(status.instance.clone(), status);
            }
            Err(error) => {
                self.errors
                    .insert(format!("an instance's status can't be read: {error}"));
            }
        }
    }

    /// How many partitions the stream has; 0 while nobody has answered.
    pub fn partition_count(&self) -> u32 {
        let counts = self.instances.values().map(|reply| reply.partition_count);
        counts.max().unwrap_or(0)
    }

    /// Each partition with the name of its instance, by partition. One that is being handed over can be at two.
    pub fn partitions(&self) -> Vec<(&str, &PartitionStatus)> {
        let of = |reply: &'_ StatusReply| reply.partitions.len();
        let mut all = Vec::with_capacity(self.instances.values().map(of).sum());
        for reply in self.instances.values() {
            let instance = reply.instance.as_str();
            all.extend(reply.partitions.iter().map(|status| (instance, status)));
        }
        all.sort_by_key(|(_, status)| status.partition);
        all
    }

    /// Partitions of which no owner has answered.
    pub fn unowned(&self) -> Vec<PartitionId> {
        let partitions = self.instances.values().flat_map(|reply| &reply.partitions);
        let owned: BTreeSet<u32> = partitions.map(|status| status.partition).collect();
        let all = 0..self.partition_count();
        all.filter(|partition| !owned.contains(partition))
            .map(PartitionId)
            .collect()
    }

    /// Whether every partition has an owner.
    pub fn is_complete(&self) -> bool {
        !self.instances.is_empty() && self.unowned().is_empty()
    }
}
