//! Owners of partitions that only note what the source tells them, and a store that only has positions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use readstates::model::ids::{ChannelId, LogPosition, Offset, PartitionId, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::{LoadKey, LoadedRow, Write};
use readstates::source::failure::StreamInfo;
use readstates::source::{Confirmed, Owners, RawRecord, RecordBatch, Stuck};
use readstates::store::{Store, StoreError, StoredPosition, StreamIdentity};
use tokio::sync::oneshot;

/// The positions in the store. Shared by members, as a real store is.
#[derive(Clone, Default)]
pub struct Positions {
    rows: Arc<Mutex<BTreeMap<PartitionId, StoredPosition>>>,
    away: Arc<AtomicBool>,
}

impl Positions {
    pub fn set(&self, partition: PartitionId, position: StoredPosition) {
        self.rows.lock().unwrap().insert(partition, position);
    }

    pub fn get(&self, partition: PartitionId) -> Option<StoredPosition> {
        self.rows.lock().unwrap().get(&partition).cloned()
    }

    /// From now on nothing is answered, or again.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }
}

impl Store for Positions {
    async fn load(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        unreachable!("the source loads no rows: {key:?}")
    }

    async fn write(&self, write: &Write) -> Result<(), StoreError> {
        unreachable!("the source writes no rows: {write:?}")
    }

    async fn load_user(
        &self,
        user: UserId,
        _: ChannelId,
        _: usize,
    ) -> Result<Vec<(ChannelId, ReadState)>, StoreError> {
        unreachable!("the source loads no rows: {user}")
    }

    async fn store_position(&self, partition: PartitionId, _: &StoredPosition) -> Result<(), StoreError> {
        unreachable!("the source stores no positions: {partition}")
    }

    async fn load_position(&self, partition: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("it is away".into()));
        }
        Ok(self.get(partition))
    }
}

/// What the source told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Assign {
        assignment: u64,
        durable: LogPosition,
        live_at: u64,
    },
    CaughtUp {
        next: u64,
    },
    Drain,
    Forget,
}

/// Everything about one partition.
#[derive(Default)]
pub struct Seen {
    pub told: Vec<Told>,
    /// With the assignment of each.
    pub records: Vec<(u64, RawRecord)>,
    pub end: Option<u64>,
    /// How many records are still to come, as told last.
    pub beyond: Option<u64>,
    /// The same, all that was told.
    pub beyonds: Vec<u64>,
    /// It was given by the group, and where it begins is not known yet.
    pub assigning: bool,
    assignment: Option<u64>,
    durable: Option<LogPosition>,
    waiting: Option<oneshot::Sender<LogPosition>>,
}

impl Seen {
    pub fn offsets(&self) -> Vec<u64> {
        self.records.iter().map(|(_, record)| record.offset.0).collect()
    }

    pub fn next(&self) -> u64 {
        self.records.last().map_or(0, |(_, record)| record.offset.0 + 1)
    }

    pub fn owned(&self) -> bool {
        self.assignment.is_some()
    }

    pub fn draining(&self) -> bool {
        self.waiting.is_some()
    }

    pub fn caught_up(&self) -> Option<u64> {
        self.told.iter().rev().find_map(|told| match told {
            Told::CaughtUp { next } => Some(*next),
            _ => None,
        })
    }
}

#[derive(Default)]
struct State {
    seen: BTreeMap<PartitionId, Seen>,
    refusing: BTreeSet<PartitionId>,
    hold_drains: bool,
    stuck: BTreeMap<PartitionId, LogPosition>,
    confirmed: Option<Confirmed>,
}

/// One member's owners. A partition that is drained has everything durable that was offered to it.
#[derive(Clone)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
    positions: Positions,
    stream: StreamIdentity,
}

impl Recorder {
    pub fn new(positions: &Positions, stream: StreamIdentity) -> Self {
        Recorder {
            state: Arc::default(),
            positions: positions.clone(),
            stream,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Looks at a partition.
    pub fn see<T>(&self, partition: u32, look: impl FnOnce(&Seen) -> T) -> T {
        look(self.state().seen.entry(PartitionId(partition)).or_default())
    }

    /// The partitions that are owned.
    pub fn owned(&self) -> BTreeSet<u32> {
        let state = self.state();
        state
            .seen
            .iter()
            .filter(|(_, seen)| seen.owned())
            .map(|(partition, _)| partition.0)
            .collect()
    }

    /// When it was last certain that nobody else owns what is owned.
    pub fn confirmed_last(&self) -> Option<Confirmed> {
        self.state().confirmed
    }

    /// The partitions that are draining.
    pub fn draining(&self) -> BTreeSet<u32> {
        let state = self.state();
        state
            .seen
            .iter()
            .filter(|(_, seen)| seen.draining())
            .map(|(partition, _)| partition.0)
            .collect()
    }

    /// From now on refuses the records of a partition, or takes them again.
    pub fn set_refusing(&self, partition: u32, refusing: bool) {
        let mut state = self.state();
        if refusing {
            state.refusing.insert(PartitionId(partition));
        } else {
            state.refusing.remove(&PartitionId(partition));
        }
    }

    /// From now on a partition, in whichever ownership, says that it is stuck after this record; or not any more.
    pub fn set_stuck(&self, partition: u32, applied: Option<LogPosition>) {
        let mut state = self.state();
        match applied {
            Some(applied) => state.stuck.insert(PartitionId(partition), applied),
            None => state.stuck.remove(&PartitionId(partition)),
        };
    }

    /// From now on draining takes until this is called with false.
    pub fn hold_drains(&self, hold: bool) {
        let mut state = self.state();
        state.hold_drains = hold;
        if !hold {
            for (partition, seen) in &mut state.seen {
                if let Some(waiting) = seen.waiting.take() {
                    let _ = waiting.send(self.store(*partition, seen));
                }
            }
        }
    }

    fn store(&self, partition: PartitionId, seen: &mut Seen) -> LogPosition {
        let last = seen
            .records
            .last()
            .filter(|(assignment, _)| Some(*assignment) == seen.assignment);
        let durable = match (last, seen.durable) {
            (Some((_, record)), _) => LogPosition::new(self.stream.epoch, record.offset),
            (None, durable) => durable.unwrap(),
        };
        seen.durable = Some(durable);
        self.positions.set(
            partition,
            StoredPosition {
                durable,
                stream: self.stream.clone(),
            },
        );
        durable
    }
}

impl Owners for Recorder {
    fn assigning(&self, partition: PartitionId, is_being: bool) {
        let mut state = self.state();
        let seen = state.seen.entry(partition).or_default();
        assert!(
            !seen.owned() || !is_being,
            "partition {partition} is owned already"
        );
        seen.assigning = is_being;
    }

    fn stuck(&self) -> Vec<Stuck> {
        let state = self.state();
        let stuck = state.stuck.iter().filter_map(|(partition, applied)| {
            Some(Stuck {
                partition: *partition,
                assignment: state.seen.get(partition)?.assignment?,
                applied: *applied,
            })
        });
        stuck.collect()
    }

    fn assign(&self, partition: PartitionId, assignment: u64, durable: LogPosition, live_at: Offset) {
        let mut state = self.state();
        let seen = state.seen.entry(partition).or_default();
        assert!(!seen.owned(), "partition {partition} is assigned twice");
        assert!(
            std::mem::take(&mut seen.assigning),
            "partition {partition} comes out of the blue"
        );
        seen.assignment = Some(assignment);
        seen.durable = Some(durable);
        seen.told.push(Told::Assign {
            assignment,
            durable,
            live_at: live_at.0,
        });
    }

    fn confirmed(&self, confirmed: Option<Confirmed>) {
        self.state().confirmed = confirmed;
    }

    fn offer(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        let mut state = self.state();
        if state.refusing.contains(&batch.partition) {
            return Err(batch);
        }
        let seen = state.seen.get_mut(&batch.partition).unwrap();
        assert_eq!(
            seen.assignment,
            Some(batch.assignment),
            "records of another ownership"
        );
        assert!(seen.waiting.is_none(), "records after the drain began");
        assert!(!batch.records.is_empty() && batch.records.len() <= 64);
        seen.records.extend(
            batch
                .records
                .iter()
                .map(|record| (batch.assignment, record.to_owned())),
        );
        Ok(())
    }

    fn caught_up(&self, partition: PartitionId, assignment: u64, next: Offset) {
        let mut state = self.state();
        let seen = state.seen.get_mut(&partition).unwrap();
        assert_eq!(seen.assignment, Some(assignment));
        assert!(next.0 >= seen.next());
        seen.told.push(Told::CaughtUp { next: next.0 });
    }

    fn drain(&self, partition: PartitionId, assignment: u64) -> oneshot::Receiver<LogPosition> {
        let mut state = self.state();
        let hold = state.hold_drains;
        let seen = state.seen.get_mut(&partition).unwrap();
        assert_eq!(seen.assignment, Some(assignment));
        seen.told.push(Told::Drain);
        let (tell, told) = oneshot::channel();
        if hold {
            seen.waiting = Some(tell);
        } else {
            let _ = tell.send(self.store(partition, seen));
        }
        told
    }

    fn forget(&self, partition: PartitionId, assignment: u64) {
        let mut state = self.state();
        let seen = state.seen.get_mut(&partition).unwrap();
        assert_eq!(seen.assignment.take(), Some(assignment));
        seen.waiting = None;
        seen.told.push(Told::Forget);
    }

    fn durable(&self) -> Vec<(PartitionId, LogPosition)> {
        let state = self.state();
        let owned = state.seen.iter().filter(|(_, seen)| seen.owned());
        owned
            .filter_map(|(partition, seen)| Some((*partition, seen.durable?)))
            .collect()
    }

    fn end_seen(&self, partition: PartitionId, next: Offset) {
        self.state().seen.entry(partition).or_default().end = Some(next.0);
    }

    fn records_beyond(&self, partition: PartitionId, records: u64) {
        let mut state = self.state();
        let seen = state.seen.entry(partition).or_default();
        seen.beyond = Some(records);
        seen.beyonds.push(records);
    }
}

/// The stream that a source has learned of.
pub fn identity(stream: &StreamInfo) -> StreamIdentity {
    StreamIdentity {
        stream_id: stream.stream_id.clone(),
        partition_count: stream.partition_count,
        epoch: 0,
    }
}

/// A position of it, as stored.
pub fn at(stream: &StreamInfo, offset: u64) -> StoredPosition {
    StoredPosition {
        durable: LogPosition::new(0, Offset(offset)),
        stream: identity(stream),
    }
}

/// How long something may take that is to happen.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "waited {DEADLINE:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
