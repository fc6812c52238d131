//! How long each step of a rebalance took: one line in the log for each.

use std::time::{Duration, Instant};

use super::lifecycle::Phase;
use super::reader::Reader;
use crate::model::ids::PartitionId;
use crate::source::Owners;
use crate::store::Store;

/// So long after an assignment the log says how far it has come, though not all is read yet.
const TOLD_AFTER: Duration = Duration::from_secs(10);

/// Partitions that the group gave together.
pub(super) struct Assignment {
    at: Instant,
    partitions: Vec<Taken>,
}

/// One of them, and when each step was done.
struct Taken {
    partition: PartitionId,
    assignment: u64,
    loaded_at: Option<Instant>,
    located_at: Option<Instant>,
    read: Read,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    NotYet,
    /// Up to where its log ended when it was located.
    At(Instant),
    /// It was refused, or it is not ours any more.
    Never,
}

impl Assignment {
    /// It comes just now.
    pub fn new() -> Self {
        Assignment {
            at: Instant::now(),
            partitions: Vec::new(),
        }
    }

    /// A partition that came, and its number.
    pub fn add(&mut self, partition: PartitionId, assignment: u64) {
        self.partitions.push(Taken {
            partition,
            assignment,
            loaded_at: None,
            located_at: None,
            read: Read::NotYet,
        });
    }

    /// The stored position of one of its partitions, if it is one, was loaded and compared with the log.
    pub fn located(&mut self, assignment: u64, loaded_at: Option<Instant>) {
        let taken = self.partitions.iter_mut();
        for taken in taken.filter(|taken| taken.assignment == assignment && taken.located_at.is_none()) {
            taken.loaded_at = loaded_at;
            taken.located_at = Some(Instant::now());
        }
    }

    /// Until the last partition had come so far, in milliseconds.
    fn took(&self, at: impl Fn(&Taken) -> Option<Instant>) -> Option<u64> {
        let last = self.partitions.iter().filter_map(at).max()?;
        Some(millis(self.at, last))
    }

    fn count(&self, read: Read) -> usize {
        self.partitions.iter().filter(|taken| taken.read == read).count()
    }

    fn log(&self, topic: &str) {
        let partitions: Vec<PartitionId> = self.partitions.iter().map(|taken| taken.partition).collect();
        let read_at = |taken: &Taken| match taken.read {
            Read::At(at) => Some(at),
            Read::NotYet | Read::Never => None,
        };
        let catching_up = self.count(Read::NotYet);
        let given_up = self.count(Read::Never);
        tracing::info!(
            topic,
            partitions = list(&partitions),
            position_loaded_ms = self.took(|taken| taken.loaded_at),
            located_ms = self.took(|taken| taken.located_at),
            caught_up_ms = self.took(read_at),
            still_catching_up = (catching_up > 0).then_some(catching_up),
            given_up = (given_up > 0).then_some(given_up),
            "assigned"
        );
    }
}

/// Partitions that are being given back together.
pub(super) struct GivingBack {
    at: Instant,
    drained_at: Option<Instant>,
    committed_at: Option<Instant>,
}

impl GivingBack {
    /// It begins just now.
    pub fn new() -> Self {
        GivingBack {
            at: Instant::now(),
            drained_at: None,
            committed_at: None,
        }
    }

    /// All is written and the positions are stored, or the time for that is over.
    pub fn drained(&mut self, now: Instant) {
        self.drained_at.get_or_insert(now);
    }

    /// What is durable is committed, or the time for that is over.
    pub fn committed(&mut self, now: Instant) {
        self.committed_at.get_or_insert(now);
    }

    /// They are given back just now.
    pub fn log(&self, topic: &str, partitions: &[PartitionId]) {
        if partitions.is_empty() {
            return;
        }
        tracing::info!(
            topic,
            partitions = list(partitions),
            stored_ms = self.drained_at.map(|at| millis(self.at, at)),
            committed_ms = self.committed_at.map(|at| millis(self.at, at)),
            given_back_ms = millis(self.at, Instant::now()),
            "given back"
        );
    }
}

impl<O: Owners, S: Store> Reader<O, S> {
    /// Looks how far assignments have come.
    pub fn serve_assignments(&mut self, now: Instant) {
        for mut open in std::mem::take(&mut self.assignments) {
            for taken in &mut open.partitions {
                if taken.read == Read::NotYet {
                    taken.read = self.how_far(taken, now);
                }
            }
            if open.count(Read::NotYet) == 0 || now.duration_since(open.at) >= TOLD_AFTER {
                open.log(&self.topic);
            } else {
                self.assignments.push(open);
            }
        }
    }

    fn how_far(&mut self, taken: &Taken, now: Instant) -> Read {
        let is_it = |owned: &&mut super::owned::Owned| owned.assignment == taken.assignment;
        let Some(owned) = self.owned(taken.partition).filter(is_it) else {
            return Read::Never;
        };
        match (owned.phase, owned.start) {
            (Phase::Locating, _) | (_, None) if owned.phase != Phase::Refused => Read::NotYet,
            (Phase::Running | Phase::Paused | Phase::Checking, Some(start)) => {
                match owned.next >= start.end {
                    true => Read::At(now),
                    false => Read::NotYet,
                }
            }
            _ => Read::Never,
        }
    }
}

/// As people write them: `0, 1, 5`.
pub(super) fn list(partitions: &[PartitionId]) -> String {
    let mut numbers: Vec<u32> = partitions.iter().map(|partition| partition.0).collect();
    numbers.sort_unstable();
    let shown: Vec<String> = numbers.iter().map(u32::to_string).collect();
    shown.join(", ")
}

fn millis(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX)
}
