//! Proves on the threads that own partitions, with a store in memory that answers as it is told: how a partition is
//! shown (assigning, catching up, live, and stuck where nothing moves and nobody knows why); that nothing is answered
//! and no position stored while others may own it; and that it answers until it is given up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message as _;
use readstates::model::ids::{ChannelId, LogPosition, Offset, PartitionId, ReadStateKey, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::{LoadKey, LoadedRow, Write};
use readstates::partition::{Settings, Share};
use readstates::query::{Partitions, Statuses, Unanswered};
use readstates::shard::{DeadLetterSink, ShardSettings, Shards};
use readstates::source::{Confirmed, DeadLetter, Owners, RawRecord, RecordBatch, Stuck};
use readstates::store::{Store, StoreError, StoredPosition, StreamIdentity};
use readstates::wire::proto::v1::{Event, MessageRead, event::Kind};
use readstates::wire::record::RecordLimits;
use tokio::sync::watch;

const PARTITION: PartitionId = PartitionId(0);
const ASSIGNMENT: u64 = 5;
const USER: UserId = UserId(7);
/// How long something may take that is to happen.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long it is watched that something does not happen.
const WATCHED: Duration = Duration::from_millis(400);
/// What a store says that can't be used any more.
const BROKEN: &str = "the disk is full: make room";
const STUCK_AFTER: Duration = Duration::from_millis(600);

/// How the store answers loads. It has no rows, takes every write, and notes positions.
#[derive(Clone, Copy, PartialEq)]
enum Loads {
    Empty,
    Failing,
    /// For good.
    Broken,
    /// Never, which no store does.
    Silent,
    /// The same for one read state.
    SilentFor(ReadStateKey),
}

#[derive(Clone)]
struct InMemory {
    loads: Arc<watch::Sender<Loads>>,
    positions: Arc<Mutex<Vec<LogPosition>>>,
}

impl InMemory {
    fn new() -> Self {
        InMemory {
            loads: Arc::new(watch::Sender::new(Loads::Empty)),
            positions: Arc::default(),
        }
    }

    fn set(&self, loads: Loads) {
        self.loads.send_replace(loads);
    }

    fn positions(&self) -> Vec<LogPosition> {
        self.positions.lock().unwrap().clone()
    }
}

impl Store for InMemory {
    async fn load(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        let mut told = self.loads.subscribe();
        let is_silent = |loads: &Loads| match loads {
            Loads::SilentFor(silent) => key == LoadKey::ReadState(*silent),
            loads => *loads == Loads::Silent,
        };
        let loads = *told.wait_for(|loads| !is_silent(loads)).await.unwrap();
        match (loads, key) {
            (Loads::Failing, _) => Err(StoreError::Unavailable("it is told to".to_owned())),
            (Loads::Broken, _) => Err(StoreError::Broken(BROKEN.to_owned())),
            (_, LoadKey::ReadState(_)) => Ok(LoadedRow::ReadState(None)),
            (_, LoadKey::Head(_)) => Ok(LoadedRow::Head(None)),
            (_, LoadKey::Node(..)) => Ok(LoadedRow::Node(None)),
        }
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

    async fn store_position(&self, _: PartitionId, position: &StoredPosition) -> Result<(), StoreError> {
        self.positions.lock().unwrap().push(position.durable);
        Ok(())
    }

    async fn load_position(&self, _: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        if *self.loads.borrow() == Loads::Failing {
            return Err(StoreError::Unavailable("it is told to".to_owned()));
        }
        let durable = self.positions.lock().unwrap().last().copied();
        Ok(durable.map(|durable| StoredPosition {
            durable,
            stream: stream(),
        }))
    }
}

#[derive(Clone)]
struct NoDeadLetters;

impl DeadLetterSink for NoDeadLetters {
    async fn send(&self, letter: DeadLetter) {
        panic!("every record can be used: {letter:?}");
    }
}

fn stream() -> StreamIdentity {
    StreamIdentity {
        stream_id: "it".to_owned(),
        partition_count: 1,
        epoch: 0,
    }
}

fn start(store: &InMemory) -> Shards {
    let settings = ShardSettings {
        is_key_optional: false,
        partition: Settings {
            write_delay_ms: 1,
            position_interval_ms: 1,
            ..Settings::default()
        },
        read_states: 1000,
        capacity: Share {
            channel_bytes: 1 << 20,
            dirty: 1000,
        },
        records: RecordLimits {
            event_bytes_max: 1000,
            mentions_max: 10,
            deletes_max: 10,
        },
        threads: 1,
        stream: stream(),
        stuck_after: STUCK_AFTER,
    };
    let runtime = tokio::runtime::Handle::current();
    Shards::start(settings, store.clone(), NoDeadLetters, runtime).unwrap()
}

/// The same, with one live partition and one record in it, which nobody has confirmed yet.
async fn start_live(store: &InMemory) -> Shards {
    let shards = start(store);
    shards.assign(PARTITION, ASSIGNMENT, LogPosition::start(0), Offset(1));
    offer(&shards, 0);
    shards.caught_up(PARTITION, ASSIGNMENT, Offset(1));
    let mut live = shards.live();
    let is_live = live.wait_for(|live| live.contains(&PARTITION));
    tokio::time::timeout(DEADLINE, is_live).await.unwrap().unwrap();
    shards
}

/// The key that the record at this offset changes, and no other one does.
fn key(offset: u64) -> ReadStateKey {
    ReadStateKey {
        user: USER,
        channel: ChannelId(offset + 1),
    }
}

fn offer(shards: &Shards, offset: u64) {
    let kind = Kind::MessageRead(MessageRead {
        user_id: USER.0,
        message_id: 5,
    });
    let channel_id = key(offset).channel.0;
    let event = Event {
        channel_id,
        kind: Some(kind),
    };
    let record = RawRecord {
        offset: Offset(offset),
        timestamp_ms: None,
        key: Some(channel_id.to_string().into()),
        value: Some(event.encode_to_vec().into()),
        headers: Vec::new(),
    };
    let batch = RecordBatch {
        partition: PARTITION,
        assignment: ASSIGNMENT,
        records: [record].into_iter().collect(),
    };
    shards.offer(batch).unwrap();
}

async fn phase(shards: &Shards) -> &'static str {
    let status = shards.status().await;
    status.first().map_or("none", |status| status.phase)
}

/// Waits until the partition is in this phase, while the broker tells where its log ends, as it does every second.
async fn until_phase(shards: &Shards, expected: &str, end: u64) {
    let began = Instant::now();
    loop {
        let now = phase(shards).await;
        if now == expected {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{now}, not {expected}");
        shards.end_seen(PARTITION, Offset(end));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_does_not_move_is_stuck_until_it_does() {
    let store = InMemory::new();
    let shards = start(&store);
    assert_eq!(phase(&shards).await, "none");
    shards.assigning(PARTITION, true);
    assert_eq!(phase(&shards).await, "assigning");
    shards.assign(PARTITION, ASSIGNMENT, LogPosition::start(0), Offset(1));
    until_phase(&shards, "catching-up", 1).await;
    offer(&shards, 0);
    until_phase(&shards, "live", 1).await;

    store.set(Loads::Silent);
    offer(&shards, 1);
    let began = Instant::now();
    until_phase(&shards, "stuck", 2).await;
    assert!(began.elapsed() >= STUCK_AFTER);
    let stuck = Stuck {
        partition: PARTITION,
        assignment: ASSIGNMENT,
        applied: LogPosition::new(0, Offset(0)),
    };
    assert_eq!(shards.stuck(), [stuck]);

    store.set(Loads::Empty);
    until_phase(&shards, "live", 2).await;
    assert_eq!(shards.stuck(), []);
}

/// A store that is away is a known reason, which is shown as such; taking the partition anew would not help.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_store_is_away_is_not_stuck() {
    let store = InMemory::new();
    let shards = start(&store);
    store.set(Loads::Failing);
    shards.assigning(PARTITION, true);
    shards.assign(PARTITION, ASSIGNMENT, LogPosition::start(0), Offset(0));
    offer(&shards, 0);
    let began = Instant::now();
    while began.elapsed() < STUCK_AFTER * 4 {
        shards.end_seen(PARTITION, Offset(1));
        assert_ne!(phase(&shards).await, "stuck");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(shards.store_is_away());
    store.set(Loads::Empty);
    let applied = async || shards.status().await[0].applied == Some(Offset(0));
    while !applied().await {
        assert!(began.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The process is told, and gives its partitions up without waiting for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_store_ends_the_process() {
    let store = InMemory::new();
    let shards = start_live(&store).await;
    store.set(Loads::Broken);
    offer(&shards, 1);
    let told = tokio::time::timeout(DEADLINE, shards.rolled_back()).await;
    assert_eq!(told.unwrap(), BROKEN);
    let drained = shards.drain(PARTITION, ASSIGNMENT);
    tokio::time::timeout(DEADLINE, drained)
        .await
        .unwrap()
        .unwrap_err();
}

/// What is given up before it was known where it begins is not shown any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_comes_to_nothing_is_forgotten() {
    let shards = start(&InMemory::new());
    shards.assigning(PARTITION, true);
    shards.assigning(PARTITION, false);
    assert_eq!(phase(&shards).await, "none");
}

/// Asks, and says at which position it was answered.
async fn ask(shards: &Shards, timeout: Duration) -> Result<Option<Offset>, Unanswered> {
    let answers = shards.get(PARTITION, vec![key(0)], None, timeout).await?;
    Ok(answers[0].as_ref().unwrap().position)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_or_stored_while_others_may_own_it() {
    let store = InMemory::new();
    let shards = start_live(&store).await;
    assert_eq!(ask(&shards, WATCHED).await, Err(Unanswered::NotOwned));
    assert_eq!(store.positions(), [], "nobody has confirmed it");

    // Certain at one moment: those who asked before are answered, and nobody who comes later.
    let waiting = tokio::spawn({
        let shards = shards.clone();
        async move { ask(&shards, DEADLINE).await }
    });
    tokio::time::sleep(WATCHED).await;
    assert!(!waiting.is_finished());
    let now = Instant::now();
    shards.confirmed(Some(Confirmed { at: now, until: now }));
    assert_eq!(waiting.await.unwrap(), Ok(Some(Offset(0))));
    assert_eq!(ask(&shards, WATCHED).await, Err(Unanswered::NotOwned));

    // Certain from now on.
    let until = Instant::now() + DEADLINE * 10;
    shards.confirmed(Some(Confirmed { at: now, until }));
    assert_eq!(ask(&shards, DEADLINE).await, Ok(Some(Offset(0))));
    let end = Instant::now() + DEADLINE;
    while store.positions().is_empty() {
        assert!(Instant::now() < end, "the position is stored");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // In doubt, and then it turns out that it is gone: those who wait are sent away at once.
    shards.confirmed(None);
    let waiting = tokio::spawn({
        let shards = shards.clone();
        async move { ask(&shards, DEADLINE * 10).await }
    });
    tokio::time::sleep(WATCHED).await;
    assert!(!waiting.is_finished());
    shards.forget(PARTITION, ASSIGNMENT);
    let told = tokio::time::timeout(DEADLINE, waiting).await;
    assert_eq!(told.unwrap().unwrap(), Err(Unanswered::NotOwned));
}

/// Rows are asked for many at once, and come back each as it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_does_not_come_holds_up_no_other() {
    let store = InMemory::new();
    let shards = start_live(&store).await;
    let (at, until) = (Instant::now(), Instant::now() + DEADLINE * 10);
    shards.confirmed(Some(Confirmed { at, until }));
    store.set(Loads::SilentFor(key(1)));
    (1..=40).for_each(|offset| offer(&shards, offset));
    for offset in 2..=40 {
        let after = Some(Offset(40));
        let answers = shards.get(PARTITION, vec![key(offset)], after, DEADLINE).await;
        assert!(answers.unwrap()[0].as_ref().unwrap().exists, "{offset}");
    }
    assert_eq!(shards.status().await[0].applied, Some(Offset(0)));
    store.set(Loads::Empty);
    let end = Instant::now() + DEADLINE;
    while shards.status().await[0].applied != Some(Offset(40)) {
        assert!(Instant::now() < end, "it goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_drained_answers_until_it_is_given_up() {
    let shards = start_live(&InMemory::new()).await;
    let (at, until) = (Instant::now(), Instant::now() + DEADLINE * 10);
    shards.confirmed(Some(Confirmed { at, until }));
    // A record that waits for rows is left to the next owner.
    assert_eq!(ask(&shards, DEADLINE).await, Ok(Some(Offset(0))));
    let drained = shards.drain(PARTITION, ASSIGNMENT);
    let drained = tokio::time::timeout(DEADLINE, drained).await.unwrap();
    assert_eq!(drained.unwrap(), LogPosition::new(0, Offset(0)));
    // Nothing more is taken, and what is there is answered.
    offer(&shards, 1);
    assert_eq!(ask(&shards, DEADLINE).await, Ok(Some(Offset(0))));
    assert!(shards.live().borrow().contains(&PARTITION));
    shards.forget(PARTITION, ASSIGNMENT);
    assert!(shards.live().borrow().is_empty());
    assert_eq!(ask(&shards, DEADLINE).await, Err(Unanswered::NotOwned));
}
