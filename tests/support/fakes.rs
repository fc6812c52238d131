//! A chat system whose answers are known beforehand: partitions and a store for tests of what stands before them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use readstates::model::counts::Parts;
use readstates::model::ids::{
    ChannelId, LogPosition, MAX_ID, MessageId, Offset, PartitionId, ReadStateKey, UserId,
};
use readstates::model::read_state::{ReadState, Remembered};
use readstates::partition::io::{
    Answer, Explanation, Failure, Kept, LoadKey, LoadedRow, Millis, Row, Stamp, Write,
};
use readstates::query::{Partitions, Status, Statuses, Unanswered, UserRows};
use readstates::store::{Store, StoreError, StoredPosition};
use readstates::wire::partitioner::partition_of;
use tokio::sync::watch;

pub const PARTITIONS: u32 = 8;

/// What is true in all instances.
#[derive(Default)]
pub struct World {
    state: Mutex<State>,
    applied: watch::Sender<BTreeMap<PartitionId, Offset>>,
    /// While true, whoever asks waits.
    pub held: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    answers: BTreeMap<ReadStateKey, Answer>,
    /// Read states that the store has.
    stored: BTreeMap<ReadStateKey, ReadState>,
    failures: HashMap<ReadStateKey, Failure>,
    overloaded: BTreeSet<PartitionId>,
    store_down: bool,
    /// Where it is not `live`.
    phases: BTreeMap<PartitionId, &'static str>,
    handed_over: Vec<(PartitionId, UserRows)>,
}

pub fn key(user: u64, channel: u64) -> ReadStateKey {
    ReadStateKey {
        user: UserId(user),
        channel: ChannelId(channel),
    }
}

pub fn partition(channel: u64) -> PartitionId {
    partition_of(ChannelId(channel), PARTITIONS)
}

/// The lowest channel of a partition.
pub fn channel_in(wanted: PartitionId) -> u64 {
    (1..).find(|channel| partition(*channel) == wanted).unwrap()
}

impl World {
    /// A read state with numbers made of its ids.
    pub fn answer(key: ReadStateKey) -> Answer {
        Answer {
            key,
            exists: true,
            last_read: MessageId(key.user.0.saturating_mul(1000).min(MAX_ID)),
            last_message: MessageId(key.channel.0.saturating_mul(1000).min(MAX_ID)),
            unread: (key.channel.0 % 7) as u32,
            mentions: (key.channel.0 % 3) as u32,
            position: Some(Offset(5)),
            ..Answer::default()
        }
    }

    pub fn put(&self, answer: Answer) {
        self.state.lock().unwrap().answers.insert(answer.key, answer);
    }

    pub fn put_stored(&self, answer: Answer, row: ReadState) {
        self.state.lock().unwrap().stored.insert(answer.key, row);
        self.put(answer);
    }

    pub fn fail(&self, key: ReadStateKey, failure: Option<Failure>) {
        let failures = &mut self.state.lock().unwrap().failures;
        match failure {
            Some(failure) => failures.insert(key, failure),
            None => failures.remove(&key),
        };
    }

    pub fn overload(&self, partition: PartitionId) {
        self.state.lock().unwrap().overloaded.insert(partition);
    }

    pub fn set_phase(&self, partition: PartitionId, phase: &'static str) {
        self.state.lock().unwrap().phases.insert(partition, phase);
    }

    pub fn set_store_down(&self, down: bool) {
        self.state.lock().unwrap().store_down = down;
    }

    pub fn apply(&self, partition: PartitionId, offset: Offset) {
        self.applied.send_modify(|applied| {
            applied.insert(partition, offset);
        });
    }

    /// What owners were handed so far.
    pub fn handed_over(&self) -> Vec<(PartitionId, UserRows)> {
        self.state.lock().unwrap().handed_over.clone()
    }

    fn look_up(&self, key: ReadStateKey) -> Result<Answer, Failure> {
        let state = self.state.lock().unwrap();
        match state.failures.get(&key) {
            Some(failure) => Err(*failure),
            None => Ok(state.answers.get(&key).cloned().unwrap_or(Answer {
                key,
                ..Answer::default()
            })),
        }
    }

    async fn wait(&self, partition: PartitionId, after: Option<Offset>, timeout: Duration) -> bool {
        let (mut applied, mut held) = (self.applied.subscribe(), self.held.subscribe());
        let reached = async {
            held.wait_for(|held| !held).await.unwrap();
            let reached =
                |applied: &BTreeMap<_, _>| after.is_none() || applied.get(&partition).copied() >= after;
            applied.wait_for(reached).await.unwrap();
        };
        tokio::time::timeout(timeout, reached).await.is_ok()
    }
}

/// The partitions of one instance.
#[derive(Clone)]
pub struct FakePartitions {
    pub world: Arc<World>,
    pub live: Arc<watch::Sender<BTreeSet<PartitionId>>>,
    /// The same in all instances, as the numbers of assignments may be.
    pub assignment: u64,
}

impl FakePartitions {
    pub fn new(world: &Arc<World>, owned: impl IntoIterator<Item = u32>) -> Self {
        FakePartitions {
            world: world.clone(),
            live: Arc::new(watch::Sender::new(owned.into_iter().map(PartitionId).collect())),
            assignment: 1,
        }
    }

    pub fn gain(&self, partition: PartitionId) {
        self.live.send_modify(|live| {
            live.insert(partition);
        });
    }

    pub fn lose(&self, partition: PartitionId) {
        self.live.send_modify(|live| {
            live.remove(&partition);
        });
    }

    fn owned(&self, partition: PartitionId) -> Result<(), Unanswered> {
        if !self.live.borrow().contains(&partition) {
            return Err(Unanswered::NotOwned);
        }
        if self.world.state.lock().unwrap().overloaded.contains(&partition) {
            return Err(Unanswered::Overloaded);
        }
        Ok(())
    }
}

/// How every answer comes about: a read state that the store has, in a channel that was changed.
pub fn explanation() -> Explanation {
    let place = |offset| LogPosition::new(0, Offset(offset));
    let row = |applied, kept, age_ms| Row {
        applied: place(applied),
        kept,
        age_ms,
    };
    Explanation {
        state: ReadState {
            applied: place(3),
            last_read: MessageId(4),
            mentions: vec![Remembered {
                id: MessageId(6),
                everyone: false,
            }]
            .into(),
            ..ReadState::default()
        },
        parts: Parts {
            live: 5,
            own: 1,
            by_name: 1,
            only_by_name: 1,
            ..Parts::default()
        },
        read_state_row: row(3, Kept::Stored, 1500),
        channel_row: row(5, Kept::Changed, 700),
        newest_seen: MessageId(9),
        messages: 8,
        applied: place(5),
        durable: place(2),
    }
}

impl Partitions for FakePartitions {
    fn live(&self) -> watch::Receiver<BTreeSet<PartitionId>> {
        self.live.subscribe()
    }

    async fn get(
        &self,
        partition: PartitionId,
        keys: Vec<ReadStateKey>,
        after: Option<Offset>,
        timeout: Duration,
    ) -> Result<Vec<Result<Answer, Failure>>, Unanswered> {
        self.owned(partition)?;
        if !self.world.wait(partition, after, timeout).await {
            return Err(Unanswered::TimedOut);
        }
        Ok(keys.into_iter().map(|key| self.world.look_up(key)).collect())
    }

    async fn explain(
        &self,
        partition: PartitionId,
        key: ReadStateKey,
        timeout: Duration,
    ) -> Result<Result<Answer, Failure>, Unanswered> {
        let mut answers = self.get(partition, vec![key], None, timeout).await?;
        Ok(answers.pop().unwrap().map(|answer| Answer {
            explanation: Some(Box::new(explanation())),
            ..answer
        }))
    }

    async fn take_stamp(&self, partition: PartitionId, _timeout: Duration) -> Result<Stamp, Unanswered> {
        self.owned(partition)?;
        Ok(Stamp {
            assignment: self.assignment,
            at: Millis(7),
        })
    }

    async fn overview(
        &self,
        partition: PartitionId,
        overview: UserRows,
        _timeout: Duration,
    ) -> Result<Vec<Result<Answer, Failure>>, Unanswered> {
        self.owned(partition)?;
        let in_range = |key: &ReadStateKey| {
            key.user == overview.user && key.channel > overview.above && key.channel <= overview.up_to
        };
        let mut state = self.world.state.lock().unwrap();
        for (channel, row) in &overview.rows {
            let key = key(overview.user.0, channel.0);
            assert!(in_range(&key), "{key:?} was handed over outside of its range");
            assert_eq!(state.stored.get(&key), Some(row), "{key:?}");
        }
        let unsaved = state.answers.keys().filter(|key| {
            in_range(key)
                && partition_of(key.channel, PARTITIONS) == partition
                && !state.stored.contains_key(key)
        });
        let handed = overview
            .rows
            .iter()
            .map(|(channel, _)| key(overview.user.0, channel.0));
        let keys: Vec<_> = handed.chain(unsaved.copied()).collect();
        state.handed_over.push((partition, overview));
        drop(state);
        // In no order: the lowest last.
        Ok(keys
            .into_iter()
            .rev()
            .map(|key| self.world.look_up(key))
            .collect())
    }
}

impl Statuses for FakePartitions {
    async fn status(&self) -> Vec<Status> {
        let phases = self.world.state.lock().unwrap().phases.clone();
        let status = |partition: &PartitionId| Status {
            partition: *partition,
            applied: Some(Offset(41)),
            durable: None,
            end: Some(Offset(42)),
            applied_lag_records: 1,
            phase: phases.get(partition).copied().unwrap_or("live"),
            events: [1, 2, 3, 4, 5, 6, 7, 8],
            ..Status::default()
        };
        self.live.borrow().iter().rev().map(status).collect()
    }
}

/// The store that all instances share.
#[derive(Clone)]
pub struct FakeStore(pub Arc<World>);

impl Store for FakeStore {
    async fn load_user(
        &self,
        user: UserId,
        above: ChannelId,
        limit: usize,
    ) -> Result<Vec<(ChannelId, ReadState)>, StoreError> {
        let state = self.0.state.lock().unwrap();
        if state.store_down {
            return Err(StoreError::Unavailable("it is down".to_owned()));
        }
        let rows = state.stored.range(key(user.0, above.0 + 1)..key(user.0 + 1, 0));
        Ok(rows
            .take(limit)
            .map(|(key, row)| (key.channel, row.clone()))
            .collect())
    }

    async fn load(&self, _key: LoadKey) -> Result<LoadedRow, StoreError> {
        unreachable!("queries read rows of users only")
    }

    async fn write(&self, _write: &Write) -> Result<(), StoreError> {
        unreachable!("queries write nothing")
    }

    async fn store_position(&self, _: PartitionId, _: &StoredPosition) -> Result<(), StoreError> {
        unreachable!("queries write nothing")
    }

    async fn load_position(&self, _: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        unreachable!("queries read rows of users only")
    }
}
