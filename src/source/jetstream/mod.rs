//! Records from NATS JetStream.
//!
//! All partitions are subjects of one stream, `<stream>.<partition>`, and share its sequences, which are the offsets. One
//! instance at a time owns them all, by a [`lease`]; others wait. Each partition has a task of its own with an ordered
//! consumer ([`partition`]); where the log ends is asked for all of them together ([`ends`]).
//!
//! Consumers acknowledge nothing: positions are in the store.

mod api;
pub mod dead_letters;
mod ends;
mod lease;
mod partition;
mod prepare;
mod takeover;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::Context;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

pub use prepare::prepare;

use self::api::Api;
use self::ends::Ends;
use self::lease::{Held, Lease, Renewed};
use self::partition::PartitionReader;
use self::takeover::Takeover;
use self::waiting::Waiting;
use super::failure::{SourceFailure, StreamInfo};
use super::position::Refusal;
use super::stats::{Seen, SourceStats};
use super::{Owners, first_assignment};
use crate::config;
use crate::model::ids::PartitionId;
use crate::store::{Store, StreamIdentity};

/// Failures that wait for the wiring to look; one is enough to end the process.
const FAILURES_MAX: usize = 16;
/// How long one question to the server may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// So often within the lease's time it is renewed.
const RENEWALS_PER_TTL: u32 = 6;
/// The pause after a renewal of which nobody knows whether it was accepted.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often a standby looks whether somebody has the lease.
const STANDBY_INTERVAL: Duration = Duration::from_millis(100);

/// What the source, the dead letters and `publish` need to know.
#[derive(Clone, Debug)]
pub struct JetStreamSettings {
    /// A connection that nothing else uses: the capacity of subscriptions is that of a whole connection.
    pub client: Client,
    /// The stream; its subjects are `<stream>.<partition>`.
    pub stream: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// Its replicas, where it is created.
    pub replicas: u32,
    /// `stream.epoch`.
    pub epoch: u32,
}

impl JetStreamSettings {
    /// As configured, over a connection that nothing else uses.
    pub fn new(stream: &config::Stream, client: Client) -> Self {
        let jetstream = &stream.jetstream;
        JetStreamSettings {
            client,
            stream: jetstream.stream.clone(),
            partitions: jetstream.partitions,
            replicas: jetstream.replicas,
            epoch: stream.epoch,
        }
    }

    /// Where dead letters go.
    pub fn dead_letter_stream(&self) -> String {
        format!("{}-dlq", self.stream)
    }

    /// The bucket that the lease is in.
    pub fn lease_bucket(&self) -> String {
        format!("{}-lease", self.stream)
    }

    /// The subject of a partition.
    pub fn subject(&self, partition: PartitionId) -> String {
        format!("{}.{partition}", self.stream)
    }

    fn context(&self) -> Context {
        let mut context = async_nats::jetstream::new(self.client.clone());
        context.set_timeout(ASK_TIMEOUT);
        context
    }
}

/// Reads the stream and feeds the owners of its partitions while it has the lease, until it is stopped.
pub struct JetStreamSource {
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
    stats: Arc<SourceStats>,
}

impl JetStreamSource {
    /// Starts to wait for the lease. Must be called within a tokio runtime.
    ///
    /// What goes wrong later comes by the receiver: the first [`SourceFailure`] is to end the process, after
    /// [`JetStreamSource::stop`]. It closes without one when the source has ended.
    pub fn start<O: Owners + Sync, S: Store>(
        settings: &JetStreamSettings,
        stream: &StreamInfo,
        owners: O,
        store: S,
    ) -> (Self, mpsc::Receiver<SourceFailure>) {
        let (stop, stopped) = watch::channel(false);
        let (failures, failed) = mpsc::channel(FAILURES_MAX);
        let stats = Arc::new(SourceStats::default());
        let instance = Instance {
            settings: settings.clone(),
            identity: StreamIdentity {
                stream_id: stream.stream_id.clone(),
                partition_count: stream.partition_count,
                epoch: settings.epoch,
            },
            owners,
            store,
            stats: stats.clone(),
            failures,
            stopped,
            next_assignment: first_assignment(),
            name: format!("{}-{}", std::process::id(), first_assignment()).into(),
        };
        let running = tokio::spawn(instance.run());
        (JetStreamSource { stop, running, stats }, failed)
    }

    /// What the source counts.
    pub fn stats(&self) -> Arc<SourceStats> {
        self.stats.clone()
    }

    /// Drains every partition, for at most 10 s, gives the lease back and ends.
    ///
    /// # Errors
    /// Where it had panicked.
    pub async fn stop(self) -> Result<(), String> {
        // Where nobody receives it, it has ended already.
        let _ = self.stop.send(true);
        self.running
            .await
            .map_err(|error| format!("the JetStream source had panicked: {error}"))
    }
}

/// What partitions are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Read.
    Owned,
    /// Write what is left, and give up.
    Draining,
    /// Give up at once: others own the partitions.
    Lost,
}

/// How owning the partitions has ended.
#[derive(PartialEq, Eq)]
enum Ended {
    Stopped,
    Lost,
}

/// This process as a candidate for the lease.
struct Instance<O, S> {
    settings: JetStreamSettings,
    identity: StreamIdentity,
    owners: O,
    store: S,
    stats: Arc<SourceStats>,
    failures: mpsc::Sender<SourceFailure>,
    stopped: watch::Receiver<bool>,
    next_assignment: u64,
    /// Tells this process from all others that are or were.
    name: Bytes,
}

impl<O: Owners + Sync, S: Store> Instance<O, S> {
    async fn run(mut self) {
        let mut stopped = self.stopped.clone();
        loop {
            let held = tokio::select! {
                held = self.acquire() => held,
                () = is_stopped(&mut stopped) => return,
            };
            let (lease, held, last_sign) = held;
            if self.own(&lease, held, last_sign, &mut stopped).await == Ended::Stopped {
                return;
            }
        }
    }

    /// Waits for the lease. The last: when the former holder was seen to renew it last, if it was.
    async fn acquire(&self) -> (Lease, Held, Option<Instant>) {
        let (mut is_standby, mut seen) = (false, None);
        let lease = loop {
            match Lease::open(&self.settings, &self.name).await {
                Ok(lease) => break lease,
                Err(error) => self.saw_server(Err(&error)),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        loop {
            match lease.acquire(&mut seen).await {
                Ok(Some(held)) => {
                    self.saw_server(Ok(()));
                    return (lease, held, seen.map(|seen| seen.at));
                }
                Ok(None) => {
                    self.saw_server(Ok(()));
                    if !std::mem::replace(&mut is_standby, true) {
                        tracing::info!(
                            stream = self.settings.stream,
                            "standby: another instance has the lease; this one takes over when it ends"
                        );
                    }
                }
                Err(error) => self.saw_server(Err(&error)),
            }
            tokio::time::sleep(STANDBY_INTERVAL).await;
        }
    }

    /// Owns all partitions until it is stopped or the lease is lost.
    async fn own(
        &mut self,
        lease: &Lease,
        mut held: Held,
        last_sign: Option<Instant>,
        stopped: &mut watch::Receiver<bool>,
    ) -> Ended {
        let stream = self.settings.stream.clone();
        tracing::info!(stream, "this instance has the lease: it owns all partitions");
        self.stats
            .assigned
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.owners.confirmed(Some(held.confirmed));
        let (phase, told) = watch::channel(Phase::Owned);
        let takeover = Takeover::new(&self.settings, last_sign);
        let (ends, mut partitions) = self.start_partitions(&told, &takeover);
        let mut renew_at = held.confirmed.at + lease.ttl / RENEWALS_PER_TTL;
        let ended = loop {
            tokio::select! {
                () = tokio::time::sleep_until(renew_at.into()) => match lease.renew(held.revision).await {
                    Renewed::Held(renewed) => {
                        held = renewed;
                        self.saw_server(Ok(()));
                        self.owners.confirmed(Some(held.confirmed));
                        renew_at = held.confirmed.at + lease.ttl / RENEWALS_PER_TTL;
                    }
                    Renewed::Unknown(error) => {
                        self.saw_server(Err(&error));
                        renew_at = Instant::now() + RETRY_PAUSE;
                    }
                    Renewed::Lost => break Ended::Lost,
                },
                () = is_stopped(stopped), if *phase.borrow() == Phase::Owned => {
                    phase.send_replace(Phase::Draining);
                }
                done = partitions.join_next() => match done {
                    None => break Ended::Stopped,
                    Some(Ok(())) => {}
                    Some(Err(error)) => self.fail(SourceFailure::Fatal(format!("reading a partition broke off: {error}"))),
                },
            }
        };
        ends.abort();
        self.owners.confirmed(None);
        if ended == Ended::Stopped {
            lease.release(held.revision).await;
            return Ended::Stopped;
        }
        self.stats.lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::warn!(
            stream,
            "lost: the lease has passed to another instance, or has run out, since it was not renewed for its time; what \
             was not written is applied again by who has it"
        );
        phase.send_replace(Phase::Lost);
        while partitions.join_next().await.is_some() {}
        match *stopped.borrow() {
            true => Ended::Stopped,
            false => Ended::Lost,
        }
    }

    fn start_partitions(
        &mut self,
        told: &watch::Receiver<Phase>,
        takeover: &Arc<Takeover>,
    ) -> (JoinHandle<()>, JoinSet<()>) {
        let api = Api::new(&self.settings);
        let (tell_ends, ends) = watch::channel(Arc::default());
        let waiting = Arc::new(Waiting::new(&self.settings.stream));
        let mut partitions = JoinSet::new();
        // A partition that is taken anew gets a higher one in between.
        self.next_assignment = self.next_assignment.max(first_assignment());
        for number in 0..self.identity.partition_count {
            self.next_assignment += 1;
            let reader = PartitionReader {
                api: api.clone(),
                settings: self.settings.clone(),
                partition: PartitionId(number),
                assignment: self.next_assignment,
                identity: self.identity.clone(),
                owners: self.owners.clone(),
                store: self.store.clone(),
                stats: self.stats.clone(),
                failures: self.failures.clone(),
                phase: told.clone(),
                takeover: takeover.clone(),
                waiting: waiting.clone(),
                live_at: 0,
                ends: ends.clone(),
                next: 0,
                has_position: false,
                told_end: None,
                standing_at: None,
                standing_rounds: 0,
                was_stuck_at: None,
            };
            partitions.spawn(reader.run());
        }
        let ends = Ends {
            api,
            partition_count: self.identity.partition_count,
            owners: self.owners.clone(),
            tell: tell_ends,
        };
        (tokio::spawn(ends.run()), partitions)
    }

    fn fail(&self, failure: SourceFailure) {
        // The first one ends the process.
        let _ = self.failures.try_send(failure);
    }

    fn saw_server(&self, answer: Result<(), &str>) {
        match (self.stats.saw_server(answer.is_ok()), answer) {
            (Some(Seen::Away), Err(why)) => tracing::warn!(
                stream = self.settings.stream,
                "JetStream can't be reached: {why}; this is tried again until it works, nothing is lost, and answers go \
                 on for the time of the lease: check nats-server and nats.url"
            ),
            (Some(Seen::Back), _) => tracing::info!(stream = self.settings.stream, "JetStream answers again"),
            _ => {}
        }
    }
}

/// Returns once it is to stop; an error says that nobody waits any more, which is an end as well.
async fn is_stopped(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// What happened and what to do, where a position does not fit the stream.
fn misfit(settings: &JetStreamSettings, partition: PartitionId, refusal: &Refusal) -> SourceFailure {
    const REPLACED: &str = "if the stream was replaced on purpose, raise stream.epoch by one";
    let stream = &settings.stream;
    let why = match refusal {
        Refusal::OtherStream { stored, found } => format!(
            "the store belongs to the stream {stored:?}, and this is {found:?}: it was made anew, or nats.url or \
             stream.jetstream.stream names another one. {REPLACED}"
        ),
        Refusal::BeyondEnd { next, end } => format!(
            "the store has applied everything below sequence {next}, and the stream ends at {end}: it lost records (a \
             nats-server that crashed, without `sync_interval: always`) or was restored from an older copy. {REPLACED}; \
             otherwise restore the stream, or a backup of the store that is as old as the stream"
        ),
        Refusal::BeforeStart { next, start } => format!(
            "sequence {next} comes next, and the stream begins at {start}: the records between were deleted before they \
             were applied. Remove the stream's limits (max_age, max_bytes, max_msgs) and restore the records, or rebuild \
             on a new stream with stream.epoch raised by one"
        ),
        other => other.to_string(),
    };
    SourceFailure::Misfit(format!(
        "stream {stream:?}, partition {partition} is refused: {why}"
    ))
}
