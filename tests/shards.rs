//! Proves, with a store that answers when it is told to, what the threads that own partitions tell about them: being
//! assigned, catching up, live, and stuck where nothing moves and nobody knows why.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use prost::Message as _;
use readstates::model::channel::Shape;
use readstates::model::ids::{ChannelId, LogPosition, Offset, PartitionId, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::{LoadKey, LoadedRow, Write};
use readstates::partition::{Settings, Share};
use readstates::query::Statuses;
use readstates::shard::{DeadLetterSink, ShardSettings, Shards};
use readstates::source::{DeadLetter, Owners, RawRecord, RecordBatch, Stuck};
use readstates::store::{Store, StoreError, StoredPosition, StreamIdentity};
use readstates::wire::proto::v1::{Event, MemberJoined, event::Kind};
use readstates::wire::record::RecordLimits;
use tokio::sync::watch;

const PARTITION: PartitionId = PartitionId(0);
const DEADLINE: Duration = Duration::from_secs(30);
const STUCK_AFTER: Duration = Duration::from_millis(600);

/// How the store answers loads; it takes every write.
#[derive(Clone, Copy, PartialEq)]
enum Loads {
    Empty,
    Failing,
    /// Never, which no store does.
    Silent,
}

/// A store that answers as it is told.
#[derive(Clone)]
struct ToldStore(watch::Receiver<Loads>);

impl Store for ToldStore {
    async fn load(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        let mut told = self.0.clone();
        let loads = *told.wait_for(|loads| *loads != Loads::Silent).await.unwrap();
        match (loads, key) {
            (Loads::Failing, _) => Err(StoreError::Unavailable("it is told to".to_owned())),
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
        unreachable!("every record can be used: {letter:?}")
    }
}

fn start() -> (Shards, watch::Sender<Loads>) {
    let (tell, told) = watch::channel(Loads::Empty);
    let settings = ShardSettings {
        partition: Settings {
            write_delay_ms: 100,
            shape: Shape::default(),
            ..Settings::default()
        },
        capacity: Share {
            read_states: 1000,
            channel_bytes: 1 << 20,
            dirty: 1000,
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
        stuck_after: STUCK_AFTER,
    };
    let runtime = tokio::runtime::Handle::current();
    let shards = Shards::start(settings, ToldStore(told), NoDeadLetters, runtime).unwrap();
    (shards, tell)
}

/// A record that needs the row of its channel and of its user.
fn record(offset: u64) -> RawRecord {
    let channel_id = offset + 1;
    let joined = Kind::MemberJoined(MemberJoined { user_id: 7 });
    let event = Event {
        channel_id,
        kind: Some(joined),
    };
    RawRecord {
        offset: Offset(offset),
        timestamp_ms: None,
        key: Some(channel_id.to_string().into()),
        value: Some(event.encode_to_vec().into()),
        headers: Vec::new(),
    }
}

fn offer(shards: &Shards, assignment: u64, offset: u64) {
    let batch = RecordBatch {
        partition: PARTITION,
        assignment,
        records: vec![record(offset)],
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
    let (shards, loads) = start();
    assert_eq!(phase(&shards).await, "none");
    shards.assigning(PARTITION, true);
    assert_eq!(phase(&shards).await, "assigning");
    shards.assign(PARTITION, 5, LogPosition::start(0), Offset(1));
    until_phase(&shards, "catching-up", 1).await;
    offer(&shards, 5, 0);
    until_phase(&shards, "live", 1).await;

    loads.send_replace(Loads::Silent);
    offer(&shards, 5, 1);
    let began = Instant::now();
    until_phase(&shards, "stuck", 2).await;
    assert!(began.elapsed() >= STUCK_AFTER);
    let stuck = Stuck {
        partition: PARTITION,
        assignment: 5,
        applied: LogPosition::new(0, Offset(0)),
    };
    assert_eq!(shards.stuck(), [stuck]);

    loads.send_replace(Loads::Empty);
    until_phase(&shards, "live", 2).await;
    assert_eq!(shards.stuck(), []);
}

/// A store that is away is a known reason, which is shown as such; taking the partition anew would not help.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_store_is_away_is_not_stuck() {
    let (shards, loads) = start();
    loads.send_replace(Loads::Failing);
    shards.assigning(PARTITION, true);
    shards.assign(PARTITION, 5, LogPosition::start(0), Offset(0));
    offer(&shards, 5, 0);
    let began = Instant::now();
    while began.elapsed() < STUCK_AFTER * 4 {
        shards.end_seen(PARTITION, Offset(1));
        assert_ne!(phase(&shards).await, "stuck");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(shards.store_is_away());
    loads.send_replace(Loads::Empty);
    let applied = async || shards.status().await[0].applied == Some(Offset(0));
    while !applied().await {
        assert!(began.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What is given up before it was known where it begins is not shown any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_comes_to_nothing_is_forgotten() {
    let (shards, _loads) = start();
    shards.assigning(PARTITION, true);
    shards.assigning(PARTITION, false);
    assert_eq!(phase(&shards).await, "none");
}
