//! The threads that own partitions: each drives its own, state is never behind a lock.
//!
//! [`Shards`] is the way to them: sources hand records over through [`Owners`], questions come through [`Partitions`].
//! For each thread there is one inbox, and beside it a queue for questions, which go first.

mod confirmation;
mod effects;
mod intake;
mod owned;
mod progress;
mod report;
pub mod retry;
mod rollback;
mod taken;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::{oneshot, watch};

use self::confirmation::Confirmation;
use crate::model::ids::{LogPosition, Offset, PartitionId, ReadStateKey};
use crate::partition::io::{Answer, Failure, Input, Reply, Stamp};
use crate::partition::{Settings, Share};
use crate::query::{Partitions, Status, Statuses, Unanswered, UserRows};
use crate::source::{Confirmed, DeadLetter, Owners, RecordBatch, Stuck};
use crate::store::Store;
use crate::wire::record::RecordLimits;
use rollback::Witness;
use worker::{Setup, Worker};

pub use progress::STUCK_AFTER;
pub use report::{PartitionReport, Report, Totals};

/// Records of one partition that wait to be taken; above, no more are accepted.
const QUEUED_RECORDS_MAX: usize = 8192;

/// How the instance's partitions behave and what they share.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    /// Of each partition.
    pub partition: Settings,
    /// Read states cached in the instance, shared out over its threads.
    pub read_states: usize,
    /// The capacity of the instance for the rest, shared out over its partitions.
    pub capacity: Share,
    /// What records may be like.
    pub records: RecordLimits,
    /// Whether a record without a key is as good as one with the right key: in JetStream.
    pub is_key_optional: bool,
    /// Threads, at least 1.
    pub threads: usize,
    /// Which stream it is: stored with the positions.
    pub stream: crate::store::StreamIdentity,
    /// [`STUCK_AFTER`], or less.
    pub stuck_after: Duration,
}

/// Where records go that can't be used.
pub trait DeadLetterSink: Clone + Send + Sync + 'static {
    /// Sends one, trying for as long as it takes.
    fn send(&self, letter: DeadLetter) -> impl Future<Output = ()> + Send;
}

/// The way to the threads that own partitions.
#[derive(Clone)]
pub struct Shards {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ShardSettings,
    threads: Vec<Thread>,
    owned: Mutex<BTreeMap<PartitionId, Ownership>>,
    /// Those that are ours by the group and whose position is being looked for.
    assigning: Mutex<BTreeSet<PartitionId>>,
    live: watch::Sender<BTreeSet<PartitionId>>,
    confirmation: Arc<Confirmation>,
    store_health: Arc<retry::StoreHealth>,
    /// Why the store is older than it was, once that was found.
    rolled_back: watch::Sender<Option<String>>,
}

/// What the sender's side knows of an owned partition.
struct Ownership {
    assignment: u64,
    queued: Arc<AtomicUsize>,
    durable: LogPosition,
    /// What is applied, where it does not move although its log does.
    stuck_at: Option<LogPosition>,
}

/// The ways to a thread. A question must not wait for everything that came before it, so it overtakes the rest.
#[derive(Clone)]
struct Thread {
    inbox: Sender<Message>,
    questions: Sender<Question>,
}

/// What comes to a thread.
enum Message {
    Assign(Assign),
    Share(Share),
    Records(RecordBatch),
    CaughtUp(PartitionId, u64, Offset),
    EndSeen(PartitionId, Offset),
    RecordsBeyond(PartitionId, u64),
    Drain(PartitionId, u64, oneshot::Sender<LogPosition>),
    Forget(PartitionId, u64),
    /// A question that came before what assigns its partition.
    Ask(Question),
    /// The outcomes of effects.
    Done(PartitionId, u64, Vec<Input>),
    /// The dead letter at this offset is safe.
    DeadLettered(PartitionId, u64, Offset),
    Report(oneshot::Sender<Report>),
}

struct Assign {
    partition: PartitionId,
    assignment: u64,
    durable: LogPosition,
    live_at: Offset,
    queued: Arc<AtomicUsize>,
    share: Share,
    witness: Arc<Witness>,
}

/// A question to a partition, as it was owned when it was asked.
struct Question {
    partition: PartitionId,
    assignment: u64,
    asked: Asked,
    reply: oneshot::Sender<Result<Reply, Unanswered>>,
}

/// What is asked of a partition.
enum Asked {
    Get {
        keys: Vec<ReadStateKey>,
        after: Option<Offset>,
        explain: bool,
        timeout: Duration,
    },
    Stamp,
    Overview {
        rows: UserRows,
        timeout: Duration,
    },
}

impl Shards {
    /// Starts the threads. They end once every handle is dropped.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start<S: Store, D: DeadLetterSink>(
        settings: ShardSettings,
        store: S,
        dead_letters: D,
        runtime: tokio::runtime::Handle,
    ) -> std::io::Result<Self> {
        let (shards, setups) = Shards::not_started(settings, &store, &dead_letters, &runtime);
        for (index, setup) in setups.into_iter().enumerate() {
            std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || Worker::new(setup).run())?;
        }
        Ok(shards)
    }

    /// The way to threads, and what each needs.
    fn not_started<S: Store, D: DeadLetterSink>(
        settings: ShardSettings,
        store: &S,
        dead_letters: &D,
        runtime: &tokio::runtime::Handle,
    ) -> (Self, Vec<Setup<S, D>>) {
        let (live, _) = watch::channel(BTreeSet::new());
        let (threads, incoming): (Vec<_>, Vec<_>) =
            (0..settings.threads.max(1)).map(|_| worker::ways()).unzip();
        let inner = Arc::new(Inner {
            settings,
            threads,
            owned: Mutex::default(),
            assigning: Mutex::default(),
            live,
            confirmation: Arc::new(Confirmation::new()),
            store_health: Arc::new(retry::StoreHealth::new()),
            rolled_back: watch::Sender::new(None),
        });
        let setups = inner.threads.iter().zip(incoming).map(|(thread, incoming)| {
            let runner = effects::Runner {
                store: store.clone(),
                dead_letters: dead_letters.clone(),
                runtime: runtime.clone(),
                thread: thread.clone(),
                stream: inner.settings.stream.clone(),
                confirmation: Arc::clone(&inner.confirmation),
                store_health: Arc::clone(&inner.store_health),
            };
            Setup {
                incoming,
                runner: Arc::new(runner),
                shards: Arc::downgrade(&inner),
                settings: inner.settings.clone(),
            }
        });
        let setups = setups.collect();
        (Shards { inner }, setups)
    }

    /// How the partitions are, and what was counted.
    pub async fn report(&self) -> Report {
        let mut waiting = Vec::new();
        for thread in &self.inner.threads {
            let (reply, report) = oneshot::channel();
            if thread.inbox.send(Message::Report(reply)).is_ok() {
                waiting.push(report);
            }
        }
        let mut all = Report::default();
        for report in waiting {
            let Report { partitions, totals } = report.await.unwrap_or_default();
            all.partitions.extend(partitions);
            all.totals.add(&totals);
        }
        let assigning = self.inner.assigning().clone();
        all.partitions
            .extend(assigning.into_iter().map(PartitionReport::assigning));
        all.partitions.sort_by_key(|report| report.status.partition);
        all
    }

    /// Returns once the store is found to be older than it was, or broken, with what happened and what to do. Nothing is
    /// written from then on, and partitions are given up without that: the process has to end.
    pub async fn rolled_back(&self) -> String {
        let mut told = self.inner.rolled_back.subscribe();
        match told.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // Never: the sender is in here as well.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether the store fails.
    pub fn store_is_away(&self) -> bool {
        self.inner.store_health.is_failing()
    }

    async fn ask(
        &self,
        partition: PartitionId,
        asked: Asked,
        timeout: Duration,
    ) -> Result<Reply, Unanswered> {
        let arrived = Instant::now();
        let certain = self.inner.owned_for_certain(partition, arrived, timeout).await;
        let Some(assignment) = certain else {
            return Err(Unanswered::NotOwned);
        };
        let timeout = timeout.saturating_sub(arrived.elapsed());
        let (reply, answer) = oneshot::channel();
        self.inner.ask(Question {
            partition,
            assignment,
            asked,
            reply,
        });
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Unanswered::NotOwned),
            Err(_) => Err(Unanswered::TimedOut),
        }
    }
}

impl Inner {
    fn owned(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Ownership>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assigning(&self) -> MutexGuard<'_, BTreeSet<PartitionId>> {
        self.assigning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The assignment of a partition that is owned here, where nobody else can own it. Waits for that while it is in doubt.
    async fn owned_for_certain(
        &self,
        partition: PartitionId,
        arrived: Instant,
        timeout: Duration,
    ) -> Option<u64> {
        let assignment = || self.owned().get(&partition).map(|owned| owned.assignment);
        if !self.confirmation.is_certain_since(arrived) && assignment().is_some() {
            let mut live = self.live.subscribe();
            let is_given_up = live.wait_for(|live| !live.contains(&partition));
            tokio::select! {
                () = self.confirmation.certain_since(arrived) => {}
                _ = is_given_up => {}
                () = tokio::time::sleep(timeout) => return None,
            }
        }
        // In this order: what is given up between the two is not owned any more.
        match self.confirmation.is_certain_since(arrived) {
            true => assignment(),
            false => None,
        }
    }

    fn thread(&self, partition: PartitionId) -> &Thread {
        &self.threads[partition.0 as usize % self.threads.len()]
    }

    /// A thread that has ended takes no messages, and nobody waits for its answer: the process is ending.
    fn send(&self, partition: PartitionId, message: Message) {
        let _ = self.thread(partition).inbox.send(message);
    }

    /// The same for a question.
    fn ask(&self, question: Question) {
        let _ = self.thread(question.partition).questions.send(question);
    }

    fn share_out(&self, owned: &BTreeMap<PartitionId, Ownership>) -> Share {
        let Share { channel_bytes, dirty } = self.settings.capacity;
        let partitions = owned.len().max(1);
        let share = Share {
            channel_bytes: channel_bytes / partitions,
            dirty: (dirty / partitions).max(1),
        };
        for thread in &self.threads {
            let _ = thread.inbox.send(Message::Share(share));
        }
        share
    }
}

impl Owners for Shards {
    fn assigning(&self, partition: PartitionId, is_being: bool) {
        let mut assigning = self.inner.assigning();
        match is_being {
            true => assigning.insert(partition),
            false => assigning.remove(&partition),
        };
    }

    fn assign(&self, partition: PartitionId, assignment: u64, durable: LogPosition, live_at: Offset) {
        self.assigning(partition, false);
        let queued = Arc::new(AtomicUsize::new(0));
        let mut owned = self.inner.owned();
        owned.insert(
            partition,
            Ownership {
                assignment,
                queued: Arc::clone(&queued),
                durable,
                stuck_at: None,
            },
        );
        let share = self.inner.share_out(&owned);
        let (health, rolled_back) = (&self.inner.store_health, &self.inner.rolled_back);
        let witness = Witness::new(partition, durable, Arc::clone(health), rolled_back.clone());
        let assign = Assign {
            partition,
            assignment,
            durable,
            live_at,
            queued,
            share,
            witness: Arc::new(witness),
        };
        // Under the lock: whoever knows of the assignment comes after this.
        self.inner.send(partition, Message::Assign(assign));
    }

    fn confirmed(&self, confirmed: Option<Confirmed>) {
        self.inner.confirmation.set(confirmed);
    }

    fn offer(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        let owned = self.inner.owned();
        let Some(ownership) = owned
            .get(&batch.partition)
            .filter(|owned| owned.assignment == batch.assignment)
        else {
            return Ok(());
        };
        if ownership.queued.load(Ordering::Relaxed) >= QUEUED_RECORDS_MAX {
            return Err(batch);
        }
        ownership.queued.fetch_add(batch.records.len(), Ordering::Relaxed);
        self.inner.send(batch.partition, Message::Records(batch));
        Ok(())
    }

    fn caught_up(&self, partition: PartitionId, assignment: u64, next: Offset) {
        self.inner
            .send(partition, Message::CaughtUp(partition, assignment, next));
    }

    fn drain(&self, partition: PartitionId, assignment: u64) -> oneshot::Receiver<LogPosition> {
        let (done, drained) = oneshot::channel();
        if self.inner.rolled_back.borrow().is_some() {
            return drained;
        }
        self.inner
            .send(partition, Message::Drain(partition, assignment, done));
        drained
    }

    fn forget(&self, partition: PartitionId, assignment: u64) {
        let mut owned = self.inner.owned();
        if owned
            .get(&partition)
            .is_some_and(|owned| owned.assignment == assignment)
        {
            owned.remove(&partition);
            self.inner.live.send_if_modified(|live| live.remove(&partition));
            self.inner.share_out(&owned);
        }
        self.inner.send(partition, Message::Forget(partition, assignment));
    }

    fn durable(&self) -> Vec<(PartitionId, LogPosition)> {
        self.inner
            .owned()
            .iter()
            .map(|(partition, owned)| (*partition, owned.durable))
            .collect()
    }

    fn stuck(&self) -> Vec<Stuck> {
        let owned = self.inner.owned();
        let stuck = owned.iter().filter_map(|(partition, owned)| {
            Some(Stuck {
                partition: *partition,
                assignment: owned.assignment,
                applied: owned.stuck_at?,
            })
        });
        stuck.collect()
    }

    fn end_seen(&self, partition: PartitionId, next: Offset) {
        self.inner.send(partition, Message::EndSeen(partition, next));
    }

    fn records_beyond(&self, partition: PartitionId, records: u64) {
        self.inner
            .send(partition, Message::RecordsBeyond(partition, records));
    }
}

impl Partitions for Shards {
    fn live(&self) -> watch::Receiver<BTreeSet<PartitionId>> {
        self.inner.live.subscribe()
    }

    async fn get(
        &self,
        partition: PartitionId,
        keys: Vec<ReadStateKey>,
        after: Option<Offset>,
        timeout: Duration,
    ) -> Result<Vec<Result<Answer, Failure>>, Unanswered> {
        let asked = Asked::Get {
            keys,
            after,
            explain: false,
            timeout,
        };
        answers(self.ask(partition, asked, timeout).await?)
    }

    async fn explain(
        &self,
        partition: PartitionId,
        key: ReadStateKey,
        timeout: Duration,
    ) -> Result<Result<Answer, Failure>, Unanswered> {
        let asked = Asked::Get {
            keys: vec![key],
            after: None,
            explain: true,
            timeout,
        };
        let mut answers = answers(self.ask(partition, asked, timeout).await?)?;
        Ok(answers.pop().unwrap_or(Err(Failure::TimedOut)))
    }

    async fn take_stamp(&self, partition: PartitionId, timeout: Duration) -> Result<Stamp, Unanswered> {
        match self.ask(partition, Asked::Stamp, timeout).await? {
            Reply::Stamp(stamp) => Ok(stamp),
            Reply::Answers(_) | Reply::StampVoid => Err(Unanswered::StampVoid),
        }
    }

    async fn overview(
        &self,
        partition: PartitionId,
        rows: UserRows,
        timeout: Duration,
    ) -> Result<Vec<Result<Answer, Failure>>, Unanswered> {
        answers(
            self.ask(partition, Asked::Overview { rows, timeout }, timeout)
                .await?,
        )
    }
}

impl Statuses for Shards {
    async fn status(&self) -> Vec<Status> {
        let report = self.report().await;
        report
            .partitions
            .into_iter()
            .map(|report| report.status)
            .collect()
    }
}

fn answers(reply: Reply) -> Result<Vec<Result<Answer, Failure>>, Unanswered> {
    match reply {
        Reply::Answers(answers) => Ok(answers),
        Reply::StampVoid | Reply::Stamp(_) => Err(Unanswered::StampVoid),
    }
}
