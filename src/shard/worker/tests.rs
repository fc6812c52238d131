//! Proves what a question waits for and what it may overtake, on a thread's loop that is driven step by step: a question
//! that comes while records are applied is answered before the next partition has its turn, and each is answered by the
//! assignment that it was asked of, whether that is still on its way or given up already.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use prost::Message as _;

use super::*;
use crate::model::ids::{ChannelId, LogPosition, Offset, ReadStateKey, UserId};
use crate::model::read_state::ReadState;
use crate::partition::io::{LoadKey, LoadedRow, Write};
use crate::partition::{Settings, Share};
use crate::query::Partitions;
use crate::shard::Shards;
use crate::source::{Confirmed, DeadLetter, Owners, RecordBatch};
use crate::store::{StoreError, StoredPosition, StreamIdentity};
use crate::wire::partitioner::partition_of;
use crate::wire::proto::v1::{Event, MessageRead, event::Kind};
use crate::wire::record::RecordLimits;
use crate::wire::records::RawRecord;

const PARTITIONS: u32 = 3;
const FIRST: PartitionId = PartitionId(0);
const LAST: PartitionId = PartitionId(PARTITIONS - 1);
/// Of every partition, at first.
const ASSIGNMENT: u64 = 5;
const USER: UserId = UserId(7);
/// How long something may take that is to happen.
const DEADLINE: Duration = Duration::from_secs(30);
/// Of each partition: several turns.
const BACKLOG: u64 = 200;

type Hook = Box<dyn FnOnce() + Send>;

/// A store without rows. Before it is used, what was put there happens, on the thread that uses it.
#[derive(Default)]
struct Empty(Arc<Mutex<Option<Hook>>>);

/// The thread that owns partitions clones it for each task that it starts.
impl Clone for Empty {
    fn clone(&self) -> Self {
        if let Some(hook) = self.0.lock().unwrap().take() {
            hook();
        }
        Empty(Arc::clone(&self.0))
    }
}

impl Store for Empty {
    async fn load(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        Ok(match key {
            LoadKey::ReadState(_) => LoadedRow::ReadState(None),
            LoadKey::Head(_) => LoadedRow::Head(None),
            LoadKey::Node(..) => LoadedRow::Node(None),
        })
    }

    async fn write(&self, _: &Write) -> Result<(), StoreError> {
        Ok(())
    }

    async fn load_user(
        &self,
        _: UserId,
        _: ChannelId,
        _: usize,
    ) -> Result<Vec<(ChannelId, ReadState)>, StoreError> {
        Ok(Vec::new())
    }

    async fn store_position(&self, _: PartitionId, _: &StoredPosition) -> Result<(), StoreError> {
        Ok(())
    }

    async fn load_position(&self, _: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        Ok(None)
    }
}

#[derive(Clone)]
struct NoDeadLetters;

impl DeadLetterSink for NoDeadLetters {
    async fn send(&self, letter: DeadLetter) {
        panic!("every record can be used: {letter:?}");
    }
}

/// One thread's loop, and the way to it.
struct Driven {
    worker: Worker<Empty, NoDeadLetters>,
    shards: Shards,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl Driven {
    /// Owns nothing, and is a member for certain.
    fn new() -> Self {
        let settings = ShardSettings {
            is_key_optional: false,
            partition: Settings::default(),
            read_states: 10_000,
            capacity: Share {
                channel_bytes: 1 << 24,
                dirty: 10_000,
            },
            records: RecordLimits {
                event_bytes_max: 1000,
                mentions_max: 10,
                deletes_max: 10,
            },
            threads: 1,
            stream: StreamIdentity {
                stream_id: "it".to_owned(),
                partition_count: PARTITIONS,
                epoch: 0,
            },
            stuck_after: DEADLINE,
        };
        let store = Empty::default();
        let hook = Arc::clone(&store.0);
        let runtime = tokio::runtime::Handle::current();
        let (shards, mut setups) = Shards::not_started(settings, &store, &NoDeadLetters, &runtime);
        let (at, until) = (Instant::now(), Instant::now() + DEADLINE * 10);
        shards.confirmed(Some(Confirmed { at, until }));
        let worker = Worker::new(setups.pop().unwrap());
        Driven { worker, shards, hook }
    }

    fn assign(&self, partition: PartitionId, assignment: u64) {
        let start = LogPosition::start(0);
        self.shards.assign(partition, assignment, start, Offset(0));
    }

    fn round(&mut self) {
        self.worker.take_messages();
        self.worker.take_records();
    }

    /// Goes on until there is an answer.
    fn drive<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let (mut answer, began) = (pin!(answer), Instant::now());
        loop {
            if let Poll::Ready(answer) = poll(answer.as_mut()) {
                return answer;
            }
            assert!(began.elapsed() < DEADLINE, "it is answered");
            self.round();
            std::thread::yield_now();
        }
    }

    fn stamp(&self, partition: PartitionId) -> impl Future<Output = Result<u64, Unanswered>> + Send + use<> {
        let shards = self.shards.clone();
        async move { Ok(shards.take_stamp(partition, DEADLINE).await?.assignment) }
    }
}

fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits for its answer by now.
fn asked<T>(answer: impl Future<Output = T> + Send + 'static) -> Pin<Box<dyn Future<Output = T> + Send>> {
    let mut answer = Box::pin(answer);
    assert!(poll(answer.as_mut()).is_pending());
    answer
}

/// Channels of a partition.
fn channels(partition: PartitionId) -> impl Iterator<Item = ChannelId> {
    (1..)
        .map(ChannelId)
        .filter(move |channel| partition_of(*channel, PARTITIONS) == partition)
}

/// Each in a channel of its own, of which nothing is cached.
fn offer(shards: &Shards, partition: PartitionId, offsets: std::ops::Range<u64>) {
    let records = offsets
        .clone()
        .zip(channels(partition).skip(offsets.start as usize));
    let records = records.map(|(offset, channel)| RawRecord {
        offset: Offset(offset),
        timestamp_ms: None,
        key: Some(channel.to_string().into()),
        value: Some(
            Event {
                channel_id: channel.0,
                kind: Some(Kind::MessageRead(MessageRead {
                    user_id: USER.0,
                    message_id: 5,
                })),
            }
            .encode_to_vec()
            .into(),
        ),
        headers: Vec::new(),
    });
    let batch = RecordBatch {
        partition,
        assignment: ASSIGNMENT,
        records: records.collect(),
    };
    shards.offer(batch).unwrap();
}

/// At which position it is answered, that of `after` or a later one.
async fn position(shards: Shards, partition: PartitionId, after: Option<Offset>) -> Option<Offset> {
    let key = ReadStateKey {
        user: USER,
        channel: channels(partition).next().unwrap(),
    };
    let answers = shards.get(partition, vec![key], after, DEADLINE).await.unwrap();
    answers[0].as_ref().unwrap().position
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_question_waits_for_one_turn_of_one_partition() {
    let mut driven = Driven::new();
    for partition in (0..PARTITIONS).map(PartitionId) {
        driven.assign(partition, ASSIGNMENT);
        offer(&driven.shards, partition, 0..1);
    }
    let at_first = position(driven.shards.clone(), LAST, Some(Offset(0)));
    assert_eq!(driven.drive(at_first), Some(Offset(0)));

    for partition in (0..PARTITIONS).map(PartitionId) {
        offer(&driven.shards, partition, 1..BACKLOG);
    }
    driven.worker.take_messages();
    // What is asked while records of the first partition are applied…
    let (answer, shards) = (Arc::new(Mutex::new(None)), driven.shards.clone());
    let to_ask = Arc::clone(&answer);
    *driven.hook.lock().unwrap() = Some(Box::new(move || {
        *to_ask.lock().unwrap() = Some(asked(position(shards, LAST, None)))
    }));
    assert!(driven.worker.take_records());
    // … is answered before any of the last one's are.
    let mut answer = answer.lock().unwrap().take().expect("it was asked");
    assert_eq!(poll(answer.as_mut()), Poll::Ready(Some(Offset(0))));
    let after = position(driven.shards.clone(), LAST, None);
    assert_eq!(driven.drive(after), Some(Offset(64)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_question_goes_before_what_came_earlier() {
    let mut driven = Driven::new();
    driven.assign(FIRST, ASSIGNMENT);
    driven.round();
    let report = tokio::spawn({
        let shards = driven.shards.clone();
        async move { shards.report().await }
    });
    while driven.worker.incoming.messages.is_empty() {
        tokio::task::yield_now().await;
    }
    let mut stamp = asked(driven.stamp(FIRST));
    driven.worker.take_questions();
    assert_eq!(poll(stamp.as_mut()), Poll::Ready(Ok(ASSIGNMENT)));
    assert!(!driven.worker.incoming.messages.is_empty());
    driven.round();
    report.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_question_that_overtakes_the_assignment_waits_for_it() {
    let mut driven = Driven::new();
    driven.assign(FIRST, ASSIGNMENT);
    let mut stamp = asked(driven.stamp(FIRST));
    driven.worker.take_questions();
    assert!(poll(stamp.as_mut()).is_pending());
    driven.worker.take_messages();
    assert_eq!(poll(stamp.as_mut()), Poll::Ready(Ok(ASSIGNMENT)));

    // And where the thread still has the former one.
    driven.shards.forget(FIRST, ASSIGNMENT);
    driven.assign(FIRST, ASSIGNMENT + 1);
    let mut stamp = asked(driven.stamp(FIRST));
    driven.worker.take_questions();
    assert!(poll(stamp.as_mut()).is_pending());
    driven.worker.take_messages();
    assert_eq!(poll(stamp.as_mut()), Poll::Ready(Ok(ASSIGNMENT + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_question_of_what_is_given_up_is_not_answered_by_anyone_else() {
    let mut driven = Driven::new();
    driven.assign(FIRST, ASSIGNMENT);
    driven.round();

    // Asked before it was given up, and taken before the thread knows: as if it had come a moment earlier.
    let mut before = asked(driven.stamp(FIRST));
    driven.shards.forget(FIRST, ASSIGNMENT);
    driven.worker.take_questions();
    assert_eq!(poll(before.as_mut()), Poll::Ready(Ok(ASSIGNMENT)));
    // Asked after that.
    let after = driven.stamp(FIRST).await;
    assert_eq!(after, Err(Unanswered::NotOwned));

    // Asked before, and taken after the partition has come back.
    driven.round();
    driven.assign(FIRST, ASSIGNMENT + 1);
    driven.round();
    let mut late = asked(driven.stamp(FIRST));
    driven.shards.forget(FIRST, ASSIGNMENT + 1);
    driven.assign(FIRST, ASSIGNMENT + 2);
    while let Ok(message) = driven.worker.incoming.messages.try_recv() {
        driven.worker.take_message(driven.worker.now(), message);
    }
    driven.worker.take_questions();
    driven.worker.take_messages();
    assert_eq!(poll(late.as_mut()), Poll::Ready(Err(Unanswered::NotOwned)));
    assert_eq!(driven.drive(driven.stamp(FIRST)), Ok(ASSIGNMENT + 2));
}
