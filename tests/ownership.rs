//! Proves on the threads that own partitions, with a store in memory, that nothing is answered and no position stored
//! while others may own them, and that a partition answers until it is given up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use readstates::model::ids::{ChannelId, LogPosition, Offset, PartitionId, ReadStateKey, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::{LoadKey, LoadedRow, Write};
use readstates::partition::{Settings, Share};
use readstates::query::{Partitions, Unanswered};
use readstates::shard::{DeadLetterSink, ShardSettings, Shards};
use readstates::source::{Confirmed, DeadLetter, Owners, RawRecord, RecordBatch};
use readstates::store::{Store, StoreError, StoredPosition, StreamIdentity};
use readstates::wire::proto::v1::{Event, MessageRead, event::Kind};
use readstates::wire::record::RecordLimits;

const PARTITION: PartitionId = PartitionId(0);
const ASSIGNMENT: u64 = 7;
const KEY: ReadStateKey = ReadStateKey {
    user: UserId(1),
    channel: ChannelId(2),
};
/// How long something may take that is to happen.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long it is watched that something does not happen.
const WATCHED: Duration = Duration::from_millis(400);

/// A store that takes everything, has no rows, and notes positions.
#[derive(Clone, Default)]
struct Noting {
    positions: Arc<Mutex<Vec<LogPosition>>>,
}

impl Store for Noting {
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
        Ok(vec![])
    }

    async fn store_position(&self, _: PartitionId, position: &StoredPosition) -> Result<(), StoreError> {
        self.positions.lock().unwrap().push(position.durable);
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
        panic!("{letter:?}");
    }
}

/// Threads that own one live partition with one record, which nobody has confirmed yet.
async fn owners(store: &Noting) -> Shards {
    let settings = ShardSettings {
        partition: Settings {
            write_delay_ms: 1,
            position_interval_ms: 1,
            ..Settings::default()
        },
        capacity: Share {
            read_states: 100,
            channel_bytes: 1 << 20,
            dirty: 100,
        },
        records: RecordLimits {
            event_bytes_max: 1000,
            mentions_max: 10,
            deletes_max: 10,
        },
        threads: 1,
        stream: StreamIdentity {
            stream_id: "it".to_owned(),
            partition_count: 1,
            epoch: 0,
        },
    };
    let runtime = tokio::runtime::Handle::current();
    let shards = Shards::start(settings, store.clone(), NoDeadLetters, runtime).unwrap();
    shards.assign(PARTITION, ASSIGNMENT, LogPosition::start(0), Offset(1));
    offer(&shards, 0);
    shards.caught_up(PARTITION, ASSIGNMENT, Offset(1));
    let mut live = shards.live();
    let is_live = live.wait_for(|live| live.contains(&PARTITION));
    tokio::time::timeout(DEADLINE, is_live).await.unwrap().unwrap();
    shards
}

fn offer(shards: &Shards, offset: u64) {
    let kind = Kind::MessageRead(MessageRead {
        user_id: KEY.user.0,
        message_id: 5 + offset,
    });
    let event = Event {
        channel_id: KEY.channel.0,
        kind: Some(kind),
    };
    let record = RawRecord {
        offset: Offset(offset),
        timestamp_ms: None,
        key: Some(Bytes::from(KEY.channel.to_string())),
        value: Some(event.encode_to_vec().into()),
        headers: vec![],
    };
    let batch = RecordBatch {
        partition: PARTITION,
        assignment: ASSIGNMENT,
        records: vec![record],
    };
    shards.offer(batch).unwrap();
}

/// Asks, and says at which position it was answered.
async fn ask(shards: &Shards, timeout: Duration) -> Result<Option<Offset>, Unanswered> {
    let answers = shards.get(PARTITION, vec![KEY], None, timeout).await?;
    Ok(answers[0].as_ref().unwrap().position)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_or_stored_while_others_may_own_it() {
    let store = Noting::default();
    let shards = owners(&store).await;
    assert_eq!(ask(&shards, WATCHED).await, Err(Unanswered::NotOwned));
    assert_eq!(*store.positions.lock().unwrap(), [], "nobody has confirmed it");

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
    while store.positions.lock().unwrap().is_empty() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_drained_answers_until_it_is_given_up() {
    let shards = owners(&Noting::default()).await;
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
