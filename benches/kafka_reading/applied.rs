//! From Kafka to applied state: the threads that `serve` has, over a store that acknowledges at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use readstates::model::ids::{ChannelId, PartitionId, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::{LoadKey, LoadedRow, Write};
use readstates::partition::{Settings, Share};
use readstates::shard::{DeadLetterSink, STUCK_AFTER, ShardSettings, Shards};
use readstates::source::DeadLetter;
use readstates::source::kafka::{KafkaSettings, KafkaSource, prepare};
use readstates::store::{Store, StoreError, StoredPosition, StreamIdentity};
use readstates::wire::record::RecordLimits;

use super::{Clock, DEADLINE};

/// As the configuration has them where nothing is set.
const READ_STATES: usize = 1_000_000;
const CHANNEL_BYTES: usize = 256 * 1024 * 1024;
const DIRTY: usize = 1_000_000;
/// Between two looks at what was counted, for which each thread stops for a few microseconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Applies so many records and returns how many of them the clock saw: it starts with the first that are applied.
pub fn measure(kafka: &KafkaSettings, records: u64, write_delay_ms: u64, clock: &Clock) -> u64 {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Acknowledging::default();
    let before_clock = runtime.block_on(async {
        let stream = prepare(kafka).await.unwrap();
        let settings = settings(
            write_delay_ms,
            StreamIdentity {
                stream_id: stream.stream_id.clone(),
                partition_count: stream.partition_count,
                epoch: kafka.epoch,
            },
        );
        let handle = tokio::runtime::Handle::current();
        let shards = Shards::start(settings, store.clone(), NoDeadLetters, handle).unwrap();
        let source = KafkaSource::start(kafka, &stream, shards.clone(), store).unwrap();
        let reading = async {
            let mut before_clock = 0;
            loop {
                let applied: u64 = shards.report().await.totals.counters.events.iter().sum();
                if before_clock == 0 && applied > 0 {
                    clock.start();
                    before_clock = applied;
                }
                if applied >= records {
                    return before_clock;
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let before_clock = tokio::time::timeout(DEADLINE, reading).await.unwrap();
        std::mem::forget(source);
        before_clock
    });
    std::mem::forget(runtime);
    records - before_clock
}

fn settings(write_delay_ms: u64, stream: StreamIdentity) -> ShardSettings {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ShardSettings {
        partition: Settings {
            write_delay_ms,
            ..Settings::default()
        },
        read_states: READ_STATES,
        capacity: Share {
            channel_bytes: CHANNEL_BYTES,
            dirty: DIRTY,
        },
        records: RecordLimits::default(),
        is_key_optional: false,
        threads: cores.saturating_sub(1).max(1),
        stream,
        stuck_after: STUCK_AFTER,
    }
}

/// A store that has no rows, takes every write and keeps none of it but positions.
#[derive(Clone, Default)]
struct Acknowledging {
    positions: Arc<Mutex<BTreeMap<PartitionId, StoredPosition>>>,
}

impl Store for Acknowledging {
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

    async fn store_position(
        &self,
        partition: PartitionId,
        position: &StoredPosition,
    ) -> Result<(), StoreError> {
        self.positions.lock().unwrap().insert(partition, position.clone());
        Ok(())
    }

    async fn load_position(&self, partition: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        Ok(self.positions.lock().unwrap().get(&partition).cloned())
    }
}

#[derive(Clone)]
struct NoDeadLetters;

impl DeadLetterSink for NoDeadLetters {
    async fn send(&self, letter: DeadLetter) {
        panic!("every record can be used: {letter:?}");
    }
}
