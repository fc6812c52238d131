//! Measures the ways to the store through the real threads that own partitions, with records offered to them directly:
//! read states that are not cached, and write-behind against a bare loop of single-row writes with the same rows.
//!
//! `cargo bench --bench store_paths -- [cassandra|embedded] [cold|writes|slowed]… [KEYS=n] [ROUNDS=n] [NODE=host:port]
//! [PID=n]`; without NODE it starts a Cassandra of its own. PID is that of NODE, to slow it down.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../tests/support/servers.rs"]
mod servers;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message as _;
use readstates::model::ids::{ChannelId, LogPosition, MessageId, Offset, PartitionId, ReadStateKey, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::{LoadKey, LoadedRow, Write};
use readstates::partition::{Settings, Share};
use readstates::query::Statuses;
use readstates::shard::{DeadLetterSink, STUCK_AFTER, ShardSettings, Shards};
use readstates::source::{Confirmed, DeadLetter, Owners, RawRecord, RecordBatch};
use readstates::store::cassandra::{CassandraConfig, CassandraStore};
use readstates::store::embedded::EmbeddedStore;
use readstates::store::{Store, StoreError, StoredPosition, StreamIdentity, rows};
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1::{Event, MessageRead, event::Kind};
use readstates::wire::record::RecordLimits;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::json;

const PARTITIONS: u32 = 8;
const ASSIGNMENT: u64 = 1;
/// Records offered at once, of one partition.
const BATCH_RECORDS: usize = 256;
/// Channels whose members are cold.
const WARM_CHANNELS: u64 = 1000;
/// Writes under way in the bare loop: what the store lets through.
const BARE_WRITES: usize = 1024;
const BARE_READS: usize = 256;
/// How long the store is slowed down.
const SLOWED: Duration = Duration::from_secs(20);
/// Of each 500 ms it runs so long.
const AWAKE: Duration = Duration::from_millis(10);
const ASLEEP: Duration = Duration::from_millis(490);

/// Which read states are touched.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    /// Each of another user, in some channels.
    Members,
    /// Each in a channel of its own.
    Channels,
}

impl Shape {
    fn key(self, index: u64) -> ReadStateKey {
        let (user, channel) = match self {
            // Odd, so that all channels come, in no order.
            Shape::Members => (index + 1, index.wrapping_mul(2_654_435_761) % WARM_CHANNELS + 1),
            Shape::Channels => (index + 1, index + 1_000_000),
        };
        ReadStateKey {
            user: UserId(user),
            channel: ChannelId(channel),
        }
    }
}

#[derive(Default)]
struct Counters {
    loads: AtomicU64,
    loads_in_flight: AtomicU64,
    loads_in_flight_most: AtomicU64,
    load_us: AtomicU64,
    writes_done: AtomicU64,
    writes_failed: AtomicU64,
}

/// A store that is watched, and that has no rows where told so.
#[derive(Clone)]
struct Watched<S> {
    store: S,
    is_empty: bool,
    counters: Arc<Counters>,
}

impl<S: Store> Store for Watched<S> {
    async fn load(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        if self.is_empty {
            return Ok(match key {
                LoadKey::ReadState(_) => LoadedRow::ReadState(None),
                LoadKey::Head(_) => LoadedRow::Head(None),
                LoadKey::Node(..) => LoadedRow::Node(None),
            });
        }
        let counters = &self.counters;
        counters.loads.fetch_add(1, Ordering::Relaxed);
        let in_flight = counters.loads_in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        counters
            .loads_in_flight_most
            .fetch_max(in_flight, Ordering::Relaxed);
        let began = Instant::now();
        let row = self.store.load(key).await;
        counters
            .load_us
            .fetch_add(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        counters.loads_in_flight.fetch_sub(1, Ordering::Relaxed);
        row
    }

    async fn write(&self, write: &Write) -> Result<(), StoreError> {
        let written = self.store.write(write).await;
        let counter = match written {
            Ok(()) => &self.counters.writes_done,
            Err(_) => &self.counters.writes_failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        written
    }

    async fn load_user(
        &self,
        user: UserId,
        above: ChannelId,
        limit: usize,
    ) -> Result<Vec<(ChannelId, ReadState)>, StoreError> {
        self.store.load_user(user, above, limit).await
    }

    async fn store_position(
        &self,
        partition: PartitionId,
        position: &StoredPosition,
    ) -> Result<(), StoreError> {
        self.store.store_position(partition, position).await
    }

    async fn load_position(&self, partition: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        self.store.load_position(partition).await
    }

    fn for_session(&self, session: &readstates::store::Session) -> Self {
        let store = self.store.for_session(session);
        Watched {
            store,
            ..self.clone()
        }
    }
}

#[derive(Clone)]
struct NoDeadLetters;

impl DeadLetterSink for NoDeadLetters {
    async fn send(&self, letter: DeadLetter) {
        panic!("every record can be used: {letter:?}");
    }
}

fn start<S: Store>(store: &Watched<S>, write_delay_ms: u64, durable: &[LogPosition]) -> Shards {
    let settings = ShardSettings {
        is_key_optional: false,
        partition: Settings {
            write_delay_ms,
            ..Settings::default()
        },
        read_states: 1_000_000,
        capacity: Share {
            channel_bytes: 4 << 30,
            dirty: 20_000_000,
        },
        records: RecordLimits {
            event_bytes_max: 1000,
            mentions_max: 10,
            deletes_max: 10,
        },
        threads: 1,
        stream: StreamIdentity {
            stream_id: "bench".to_owned(),
            partition_count: PARTITIONS,
            epoch: 0,
        },
        stuck_after: STUCK_AFTER,
    };
    let runtime = tokio::runtime::Handle::current();
    let shards = Shards::start(settings, store.clone(), NoDeadLetters, runtime).unwrap();
    let at = Instant::now();
    let until = at + Duration::from_secs(3600);
    shards.confirmed(Some(Confirmed { at, until }));
    for (partition, durable) in (0..PARTITIONS).zip(durable) {
        shards.assign(PartitionId(partition), ASSIGNMENT, *durable, Offset(0));
    }
    shards
}

/// Records by partition, with offsets from just after `after`.
fn records(shape: Shape, indexes: impl Iterator<Item = u64>, after: &[LogPosition]) -> Vec<Vec<RawRecord>> {
    let mut by_partition = vec![Vec::new(); PARTITIONS as usize];
    for index in indexes {
        let ReadStateKey { user, channel } = shape.key(index);
        let event = Event {
            channel_id: channel.0,
            kind: Some(Kind::MessageRead(MessageRead {
                user_id: user.0,
                message_id: index + 5,
            })),
        };
        let partition = partition_of(channel, PARTITIONS).0 as usize;
        let records: &mut Vec<RawRecord> = &mut by_partition[partition];
        let first = after[partition].offset().map_or(0, |last| last.0 + 1);
        records.push(RawRecord {
            offset: Offset(first + records.len() as u64),
            timestamp_ms: None,
            key: Some(channel.0.to_string().into()),
            value: Some(event.encode_to_vec().into()),
            headers: Vec::new(),
        });
    }
    by_partition
}

/// Offers all of them, a batch of each partition in turn, and waits until they are applied.
async fn apply(shards: &Shards, records: Vec<Vec<RawRecord>>) {
    let last: BTreeMap<PartitionId, Offset> = (0..PARTITIONS)
        .zip(&records)
        .filter_map(|(partition, records)| Some((PartitionId(partition), records.last()?.offset)))
        .collect();
    let mut sources: Vec<_> = records.into_iter().map(Vec::into_iter).collect();
    let mut has_more = true;
    while has_more {
        has_more = false;
        for (partition, source) in (0..PARTITIONS).zip(&mut sources) {
            let records: Vec<_> = source.by_ref().take(BATCH_RECORDS).collect();
            if records.is_empty() {
                continue;
            }
            has_more = true;
            let mut batch = RecordBatch {
                partition: PartitionId(partition),
                assignment: ASSIGNMENT,
                records: records.into_iter().collect(),
            };
            while let Err(refused) = shards.offer(batch) {
                batch = refused;
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }
    }
    loop {
        let statuses = shards.status().await;
        let is_done = |(partition, last): (&PartitionId, &Offset)| {
            statuses
                .iter()
                .any(|status| status.partition == *partition && status.applied == Some(*last))
        };
        if last.iter().all(is_done) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn drain(shards: &Shards) -> Vec<LogPosition> {
    let drained: Vec<_> = (0..PARTITIONS)
        .map(|partition| shards.drain(PartitionId(partition), ASSIGNMENT))
        .collect();
    let mut durable = Vec::new();
    for drained in drained {
        durable.push(drained.await.unwrap());
    }
    give_up(shards);
    durable
}

fn give_up(shards: &Shards) {
    (0..PARTITIONS).for_each(|partition| shards.forget(PartitionId(partition), ASSIGNMENT));
}

fn watched<S: Store>(store: &S, is_empty: bool) -> Watched<S> {
    Watched {
        store: store.clone(),
        is_empty,
        counters: Arc::default(),
    }
}

/// Rows/s from the first record to the last acknowledgement, nothing to load. And how far it came.
async fn write_through<S: Store>(store: &S, shape: Shape, keys: u64) -> (f64, Vec<LogPosition>) {
    let start_at = vec![LogPosition::start(0); PARTITIONS as usize];
    let records = records(shape, 0..keys, &start_at);
    let store = watched(store, true);
    let shards = start(&store, 1, &start_at);
    let began = Instant::now();
    apply(&shards, records).await;
    let durable = drain(&shards).await;
    let rate = keys as f64 / began.elapsed().as_secs_f64();
    assert_eq!(
        store.counters.writes_done.load(Ordering::Relaxed),
        keys,
        "once each"
    );
    (rate, durable)
}

struct Cold {
    records_per_s: f64,
    loads_per_s: f64,
    in_flight: f64,
    in_flight_most: u64,
}

/// Touches all keys after those of `warm` were touched before.
async fn cold<S: Store>(store: &S, shape: Shape, keys: u64, warm: bool, durable: &[LogPosition]) -> Cold {
    let store = watched(store, false);
    let shards = start(&store, 3_600_000, durable);
    let mut after = durable.to_vec();
    if warm {
        let warming = records(shape, (0..keys).step_by(2), &after);
        for (after, records) in after.iter_mut().zip(&warming) {
            *after = LogPosition::new(0, records.last().unwrap().offset);
        }
        apply(&shards, warming).await;
    }
    let records = records(shape, 0..keys, &after);
    let (loads, load_us) = (&store.counters.loads, &store.counters.load_us);
    let (loads_before, us_before) = (loads.load(Ordering::Relaxed), load_us.load(Ordering::Relaxed));
    let began = Instant::now();
    apply(&shards, records).await;
    let took = began.elapsed().as_secs_f64();
    give_up(&shards);
    Cold {
        records_per_s: keys as f64 / took,
        loads_per_s: (loads.load(Ordering::Relaxed) - loads_before) as f64 / took,
        in_flight: (load_us.load(Ordering::Relaxed) - us_before) as f64 / 1e6 / took,
        in_flight_most: store.counters.loads_in_flight_most.load(Ordering::Relaxed),
    }
}

/// The row that a key has in the store after [`write_through`].
fn row_of(shape: Shape, index: u64) -> (ReadStateKey, ReadState) {
    let key = shape.key(index);
    let state = ReadState {
        applied: LogPosition::new(0, Offset(index)),
        last_read: MessageId(index + 5),
        ..ReadState::default()
    };
    (key, state)
}

/// The same rows, of other users, by so many loops at once of which each does one after the other.
async fn bare<F>(keys: u64, loops: usize, one: impl Fn(u64) -> F + Clone + Send + 'static) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..loops)
        .map(|_| {
            let (next, one) = (Arc::clone(&next), one.clone());
            tokio::spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= keys {
                        return;
                    }
                    one(index).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    keys as f64 / began.elapsed().as_secs_f64()
}

/// How often a little of all is done before anything is measured: the server compiles its code as it runs.
const WARM_ROUNDS: usize = 4;
/// Apart from those of the partitions.
const OTHER_USERS: u64 = 1 << 40;

async fn bare_cassandra(session: &Arc<Session>, keyspace: &str, shape: Shape, keys: u64) -> (f64, f64) {
    let table = format!("\"{keyspace}\".read_states_g1");
    let insert =
        format!("INSERT INTO {table} (user_id, channel_id, state) VALUES (?, ?, ?) USING TIMESTAMP ?");
    let select = format!("SELECT state, WRITETIME(state) FROM {table} WHERE user_id = ? AND channel_id = ?");
    let insert = Arc::new(session.prepare(insert).await.unwrap());
    let select = Arc::new(session.prepare(select).await.unwrap());
    let writing = Arc::clone(session);
    let writes = bare(keys, BARE_WRITES, move |index| {
        let (session, insert) = (Arc::clone(&writing), Arc::clone(&insert));
        async move {
            let (key, state) = row_of(shape, index);
            let blob = rows::encode_read_state(key, &state).unwrap();
            let user = (key.user.0 + OTHER_USERS) as i64;
            let values = (user, key.channel.0 as i64, blob, index as i64 + 1);
            // On a busy machine it may take too long; partitions try again as well.
            while session.execute_unpaged(&insert, &values).await.is_err() {}
        }
    })
    .await;
    let reading = Arc::clone(session);
    let reads = bare(keys, BARE_READS, move |index| {
        let (session, select) = (Arc::clone(&reading), Arc::clone(&select));
        async move {
            let key = shape.key(index);
            let values = ((key.user.0 + OTHER_USERS) as i64, key.channel.0 as i64);
            while session.execute_unpaged(&select, &values).await.is_err() {}
        }
    })
    .await;
    (writes, reads)
}

async fn bare_embedded(store: &EmbeddedStore, shape: Shape, keys: u64) -> (f64, f64) {
    let other = move |index| {
        let (mut key, state) = row_of(shape, index);
        key.user.0 += OTHER_USERS;
        (key, state)
    };
    let writing = store.clone();
    let writes = bare(keys, BARE_WRITES, move |index| {
        let (store, (key, state)) = (writing.clone(), other(index));
        async move { store.write(&Write::ReadState(key, state)).await.unwrap() }
    })
    .await;
    let reading = store.clone();
    let reads = bare(keys, BARE_READS, move |index| {
        let (store, (key, _)) = (reading.clone(), other(index));
        async move { drop(store.load(LoadKey::ReadState(key)).await.unwrap()) }
    })
    .await;
    (writes, reads)
}

/// Stops and continues the server in slices, while all keys are written: rows/s, and attempts that failed.
async fn slowed(store: &CassandraStore, keys: u64, pid: u32) {
    let start_at = vec![LogPosition::start(0); PARTITIONS as usize];
    let all = records(Shape::Members, 0..keys, &start_at);
    let store = watched(store, true);
    let shards = start(&store, 1, &start_at);
    let is_over = Arc::new(AtomicBool::new(false));
    let slicer = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        let signal = move |signal: &str| {
            let done = Command::new("kill").args([signal, &pid.to_string()]).status();
            assert!(done.unwrap().success());
        };
        move || {
            while !is_over.load(Ordering::Relaxed) {
                signal("-STOP");
                std::thread::sleep(ASLEEP);
                signal("-CONT");
                std::thread::sleep(AWAKE);
            }
        }
    });
    let offering = tokio::spawn({
        let shards = shards.clone();
        async move { apply(&shards, all).await }
    });
    let counters = &store.counters;
    tokio::time::sleep(SLOWED).await;
    let (done, failed) = (
        counters.writes_done.load(Ordering::Relaxed),
        counters.writes_failed.load(Ordering::Relaxed),
    );
    is_over.store(true, Ordering::Relaxed);
    slicer.join().unwrap();
    let freed = Instant::now();
    offering.await.unwrap();
    drain(&shards).await;
    let rest = (keys - done.min(keys)) as f64 / freed.elapsed().as_secs_f64();
    println!(
        "slowed: {:.0} rows/s acknowledged, {failed} attempts failed; freed: {rest:.0} rows/s",
        done as f64 / SLOWED.as_secs_f64()
    );
}

struct Asked {
    keys: u64,
    rounds: usize,
    parts: Vec<String>,
}

impl Asked {
    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|asked| asked == part)
    }
}

/// All that goes for both stores. A store for each shape and round. What runs later may run faster, since the server is warmer, or
/// slower, since it has more to tidy up: so partitions and bare loop come first in turn.
async fn measure<S: Store>(
    name: &str,
    asked: &Asked,
    mut open: impl AsyncFnMut(Shape, usize) -> S,
    bare: impl AsyncFn(&S, Shape, usize) -> (f64, f64),
) {
    for round in 0..asked.rounds {
        for shape in [Shape::Members, Shape::Channels] {
            let store = open(shape, round).await;
            let mut line = json!({
                "case": format!("{name}, {}", format!("{shape:?}").to_lowercase()),
                "keys": asked.keys,
                "round": round,
            });
            let mut bare_rates = None;
            if asked.wants("writes") && round % 2 == 1 {
                bare_rates = Some(bare(&store, shape, round).await);
            }
            let (written, durable) = write_through(&store, shape, asked.keys).await;
            if asked.wants("writes") && bare_rates.is_none() {
                bare_rates = Some(bare(&store, shape, round).await);
            }
            line["rows_written_per_second"] = written.into();
            if let Some((writes, reads)) = bare_rates {
                line["bare_writes_per_second"] = writes.into();
                line["writes_of_bare"] = (written / writes).into();
                line["bare_reads_per_second"] = reads.into();
            }
            if asked.wants("cold") {
                for (what, is_warm) in [("all_cold", false), ("half_cold", true)] {
                    let cold = cold(&store, shape, asked.keys, is_warm, &durable).await;
                    line[format!("{what}_records_per_second")] = cold.records_per_s.into();
                    line[format!("{what}_rows_read_per_second")] = cold.loads_per_s.into();
                    line[format!("{what}_in_flight")] = cold.in_flight.into();
                    line[format!("{what}_in_flight_most")] = cold.in_flight_most.into();
                }
            }
            println!("{line}");
        }
    }
}

fn config(node: &str, keyspace: &str) -> CassandraConfig {
    CassandraConfig {
        nodes: vec![node.into()],
        keyspace: keyspace.into(),
        create_schema: true,
        replication: "{'class': 'SimpleStrategy', 'replication_factor': 1}".into(),
        datacenter: None,
        username: None,
        password: None,
        tls_ca: None,
        tls_cert: None,
        tls_key: None,
    }
}

async fn measure_cassandra(asked: &Asked, node: Option<&String>, pid: Option<u32>) {
    let own = node.is_none().then(|| {
        let fast = [
            "commitlog_sync=periodic",
            "commitlog_sync_period=10000ms",
            "-XX:TieredStopAtLevel=4",
        ];
        tokio::task::block_in_place(|| servers::Cassandra::start_with(&fast))
    });
    let node = node
        .cloned()
        .unwrap_or_else(|| own.as_ref().map(|own| own.url()).unwrap());
    let session = Arc::new(SessionBuilder::new().known_node(&node).build().await.unwrap());
    let prefix = format!("bench_{}", std::process::id());
    let keyspace = |shape: Shape, round: usize| format!("{prefix}_{shape:?}_{round}").to_lowercase();
    let drop_keyspace = async |name: String| {
        let statement = format!("DROP KEYSPACE IF EXISTS \"{name}\"");
        session.query_unpaged(statement, ()).await.unwrap();
    };
    // Code that has not run yet is slow.
    let warm = CassandraStore::connect(&config(&node, &prefix)).await.unwrap();
    for _ in 0..WARM_ROUNDS {
        bare_cassandra(&session, &prefix, Shape::Members, 100_000).await;
        let (_, durable) = write_through(&warm, Shape::Channels, 50_000).await;
        cold(&warm, Shape::Channels, 50_000, false, &durable).await;
        let truncate = format!("TRUNCATE \"{prefix}\".positions_g1");
        session.query_unpaged(truncate, ()).await.unwrap();
    }
    if asked.wants("slowed")
        && let Some(pid) = pid
    {
        slowed(&warm, asked.keys, pid).await;
    }
    drop_keyspace(prefix.clone()).await;
    if asked.wants("cold") || asked.wants("writes") {
        let open = async |shape, round| {
            CassandraStore::connect(&config(&node, &keyspace(shape, round)))
                .await
                .unwrap()
        };
        let bare = async |_: &CassandraStore, shape, round| {
            bare_cassandra(&session, &keyspace(shape, round), shape, asked.keys).await
        };
        measure("Cassandra", asked, open, bare).await;
        for shape in [Shape::Members, Shape::Channels] {
            for round in 0..asked.rounds {
                drop_keyspace(keyspace(shape, round)).await;
            }
        }
    }
}

async fn measure_embedded(asked: &Asked) {
    let folder = tempfile::tempdir().unwrap();
    let open = async |shape: Shape, round: usize| {
        let path = folder.path().join(format!("{shape:?}-{round}"));
        EmbeddedStore::open(&path).await.unwrap()
    };
    let bare = async |store: &EmbeddedStore, shape, _| bare_embedded(store, shape, asked.keys).await;
    measure("embedded", asked, open, bare).await;
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (mut stores, mut node, mut pid) = (Vec::new(), None, None);
    let mut asked = Asked {
        keys: 200_000,
        rounds: 3,
        parts: Vec::new(),
    };
    // Cargo adds options of its own.
    for argument in std::env::args().skip(1).filter(|it| !it.starts_with('-')) {
        match argument.split_once('=') {
            Some(("KEYS", keys)) => asked.keys = keys.parse().unwrap(),
            Some(("ROUNDS", rounds)) => asked.rounds = rounds.parse().unwrap(),
            Some(("NODE", address)) => node = Some(address.to_owned()),
            Some(("PID", process)) => pid = Some(process.parse().unwrap()),
            None if ["cassandra", "embedded"].contains(&argument.as_str()) => stores.push(argument),
            None if ["cold", "writes", "slowed"].contains(&argument.as_str()) => asked.parts.push(argument),
            _ => panic!("not understood: {argument}"),
        }
    }
    let wants = |name: &str| stores.is_empty() || stores.iter().any(|store| store == name);
    if wants("embedded") {
        measure_embedded(&asked).await;
    }
    if wants("cassandra") {
        measure_cassandra(&asked, node.as_ref(), pid).await;
    }
}
