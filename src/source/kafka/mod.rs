//! Records from Kafka.
//!
//! One thread polls two clients of librdkafka. The *member* belongs to the group and reads nothing; the *fetcher*
//! reads the partitions it is told to and belongs to no group. With a single client the partitions that stay would
//! stand still while those that go are drained: see [`context::MemberContext`].
//!
//! What becomes of a partition, from its assignment by the group until it is given back, is in [`lifecycle`]; the
//! thread in [`reader`] does what that says, and reads in between ([`reading`]).
//!
//! Kafka's id of a topic can't be had through this crate without more unsafe code, so a stream is known by the cluster's
//! id and the topic's name. A topic that was deleted and made anew under its name is noticed by a position beyond its
//! end, and only by that.

mod batch;
pub(crate) mod context;
mod fetches;
mod handover;
mod lifecycle;
mod locate;
mod membership;
mod owned;
mod prepare;
mod reader;
mod reading;
mod settings;
mod timings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::Sender;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::mpsc;

pub use super::failure::{PrepareError, SourceFailure, StreamInfo};
pub use super::position::Refusal;
pub use super::stats::SourceStats;
pub use prepare::prepare;
pub use settings::KafkaSettings;
pub(crate) use settings::not_taken;

use self::context::{FetcherContext, GroupEvent, MemberContext};
use self::fetches::FetchQueue;
use self::handover::Commits;
use self::lifecycle::Phase;
use self::locate::Locator;
use self::membership::Membership;
use self::reader::Reader;
use self::settings::CLIENT_ID;
use super::stats::Seen;
use super::{Owners, first_assignment};
use crate::model::ids::{Offset, PartitionId};
use crate::store::{Store, StreamIdentity};

/// Failures that wait for the wiring to look; one is enough to end the process.
const FAILURES_MAX: usize = 16;

/// Reads the stream and feeds the owners of its partitions, until it is stopped.
///
/// Dropped without [`KafkaSource::stop`], it leaves the group without draining.
pub struct KafkaSource {
    stop: Sender<()>,
    thread: JoinHandle<()>,
    stats: Arc<SourceStats>,
}

impl KafkaSource {
    /// Joins the group and starts the thread. Must be called within a tokio runtime, on which the store is asked.
    ///
    /// What goes wrong later comes by the receiver: the first [`SourceFailure`] is to end the process, after
    /// [`KafkaSource::stop`]. It closes without one when the thread has ended.
    ///
    /// # Errors
    /// Where librdkafka does not take the settings, in words.
    pub fn start<O: Owners, S: Store>(
        settings: &KafkaSettings,
        stream: &StreamInfo,
        owners: O,
        store: S,
    ) -> Result<(Self, mpsc::Receiver<SourceFailure>), String> {
        let (tell_group, group) = crossbeam_channel::unbounded::<GroupEvent>();
        let stats = Arc::new(SourceStats::default());
        let fetcher: BaseConsumer<FetcherContext> = settings
            .fetcher()
            .create_with_context(FetcherContext::new(stats.clone()))
            .map_err(|error| not_taken(&error))?;
        let member = settings.member(&process_name());
        let client_id = member.get(CLIENT_ID).unwrap_or_default();
        let membership = Membership::new(settings.session()?, client_id, Instant::now());
        let member: BaseConsumer<MemberContext> = member
            .create_with_context(MemberContext::new(tell_group))
            .map_err(|error| not_taken(&error))?;
        member
            .subscribe(&[&settings.topic])
            .map_err(|error| format!("can't subscribe to the topic {:?}: {error}", settings.topic))?;

        let (stop, told_to_stop) = crossbeam_channel::bounded(1);
        let (tell_located, located) = crossbeam_channel::unbounded();
        let (failures, failed) = mpsc::channel(FAILURES_MAX);
        let (fetcher, topic) = (Arc::new(fetcher), Arc::<str>::from(settings.topic.as_str()));
        let fetches = FetchQueue::new(fetcher.clone())?;
        let stream = StreamIdentity {
            stream_id: stream.stream_id.clone(),
            partition_count: stream.partition_count,
            epoch: settings.epoch,
        };
        let locator = Locator {
            store,
            fetcher: fetcher.clone(),
            topic: topic.clone(),
            stream,
        };
        let reader = Reader {
            topic,
            owners,
            locator: Arc::new(locator),
            fetcher,
            member: Arc::new(member),
            group,
            stop: told_to_stop,
            located,
            tell_located,
            runtime: tokio::runtime::Handle::current(),
            failures,
            stats: stats.clone(),
            next_assignment: first_assignment(),
            partitions: Vec::new(),
            handovers: Vec::new(),
            commits: Commits::new(settings),
            membership,
            assignments: Vec::new(),
            stopping: false,
            asking_ends: None,
            end_rounds: 0,
        };
        let thread = std::thread::Builder::new()
            .name("kafka".into())
            .spawn(move || reader.run(fetches))
            .map_err(|error| format!("can't start a thread: {error}"))?;
        Ok((KafkaSource { stop, thread, stats }, failed))
    }

    /// What the source counts.
    pub fn stats(&self) -> Arc<SourceStats> {
        self.stats.clone()
    }

    /// Drains every partition, for at most 10 s, commits, leaves the group and ends the thread.
    ///
    /// # Errors
    /// Where the thread had panicked.
    pub async fn stop(self) -> Result<(), String> {
        // Where nobody receives it, the thread has ended already.
        let _ = self.stop.send(());
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        match joined {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the Kafka thread had panicked".into()),
            Err(error) => Err(format!("could not wait for the Kafka thread: {error}")),
        }
    }
}

/// Tells this process from all others that are or were.
fn process_name() -> String {
    format!("{}-{}", std::process::id(), first_assignment())
}

impl SourceStats {
    /// Takes note of whether a broker answers. The log says so once when that ends and once when it does again.
    fn saw_broker(&self, answer: Result<(), &str>) {
        match (self.saw_server(answer.is_ok()), answer) {
            (Some(Seen::Away), Err(why)) => tracing::warn!(
                "Kafka can't be reached: {why}; this is tried again until it works, nothing is lost, and answers go \
                 on as of the last record for stream.kafka's session.timeout.ms: check that a broker of \
                 stream.kafka.brokers is up and can be reached"
            ),
            (Some(Seen::Back), _) => tracing::info!("Kafka answers again"),
            _ => {}
        }
    }

    fn rebalanced(&self, kind: &AtomicU64) {
        kind.fetch_add(1, Ordering::Relaxed);
    }

    fn moved(&self, from: Phase, to: Phase) {
        match (from == Phase::Paused, to == Phase::Paused) {
            (false, true) => self.paused.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.paused.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
    }

    fn set_committed(&self, partition: PartitionId, next: Option<u64>) {
        let mut committed = self.committed_table();
        match next {
            Some(next) => committed.insert(partition, Offset(next)),
            None => committed.remove(&partition),
        };
    }
}
