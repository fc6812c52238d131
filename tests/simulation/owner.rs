//! One instance that owns the partition, or believes so.

use std::collections::BTreeMap;

use readstates::model::ids::{ChannelId, Offset, ReadStateKey, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::{
    Effect, LoadKey, LoadToken, LoadedRow, Millis, RequestId, Stamp, Write, WriteKey,
};
use readstates::partition::{Partition, ReadStateCache};

use super::judge::Count;

/// A step of the run.
pub type StepNumber = u64;

/// What the owners share that follow one another in one process.
#[derive(Clone)]
pub struct Process {
    /// How far its clock is off.
    pub clock_ms: u64,
    pub cache: ReadStateCache,
}

pub struct Owner {
    /// The number of its assignment.
    pub id: u64,
    pub partition: Partition,
    /// Which of the log's epochs it is in.
    pub epoch: usize,
    /// Records taken.
    pub taken: Count,
    pub is_zombie: bool,
    pub is_draining: bool,
    pub is_drained: bool,
    pub is_paused: bool,
    /// Operations under way, and the step before which they do not come to an end.
    pub flights: Vec<(StepNumber, Flight)>,
    pub requests: BTreeMap<RequestId, Request>,
    pub overviews: Vec<OverviewTask>,
    pub process: Process,
    /// A load failed, so that answers may be as of an earlier place.
    pub load_failed: bool,
    /// Since when some load has been under way.
    pub loading_since: Option<Millis>,
    /// A load took longer than the partition's patience, which has the same effect.
    pub load_was_slow: bool,
    /// Records taken at the start.
    pub began_at: Count,
    /// The end of the log as it was told at the start.
    pub live_at: Offset,
    /// Of its share.
    pub read_states_max: usize,
}

impl Owner {
    /// Takes note of how long loads have been under way.
    pub fn time_loads(&mut self, now: Millis, patience_ms: u64) {
        let is_load = |(_, flight): &(StepNumber, Flight)| {
            matches!(flight, Flight::Load { .. } | Flight::Loaded { .. })
        };
        self.loading_since = match self.flights.iter().any(is_load) {
            true => self.loading_since.or(Some(now)),
            false => None,
        };
        self.load_was_slow |= self
            .loading_since
            .is_some_and(|since| since.0 + patience_ms < now.0);
    }
}

impl Flight {
    /// What a partition wants from the store.
    ///
    /// # Errors
    /// Any other effect.
    pub fn of(effect: Effect) -> Result<Flight, Effect> {
        match effect {
            Effect::Load { token, key, .. } => Ok(Flight::Load { token, key }),
            Effect::Write(write) => Ok(Flight::Write(write)),
            Effect::StorePosition(position) => Ok(Flight::StorePosition(position)),
            other => Err(other),
        }
    }
}

/// An operation on the store, and how far it is.
pub enum Flight {
    Load { token: LoadToken, key: LoadKey },
    Loaded { token: LoadToken, row: LoadedRow },
    Write(Write),
    Written(WriteKey),
    StorePosition(readstates::model::ids::LogPosition),
    PositionStored(readstates::model::ids::LogPosition),
}

/// A question not answered yet.
pub struct Request {
    pub what: Asked,
    /// Records taken when it was asked.
    pub asked_at: Count,
    pub deadline: Millis,
    /// Asked after everything was healed, so that nothing excuses a failure.
    pub is_healed: bool,
}

#[derive(Debug)]
pub enum Asked {
    Get {
        keys: Vec<ReadStateKey>,
        /// The answers must be at least of this place.
        after: Count,
        /// They must say how they come about.
        explain: bool,
    },
    Stamp,
    Overview {
        user: UserId,
        above: ChannelId,
        up_to: ChannelId,
    },
}

/// An overview between its stamp and its question.
pub struct OverviewTask {
    pub user: UserId,
    pub above: ChannelId,
    pub up_to: ChannelId,
    pub stamp: Stamp,
    /// Nothing before the store was read.
    pub rows: Option<Vec<(ChannelId, ReadState)>>,
}

impl Owner {
    /// Its clock.
    pub fn clock(&self, now_ms: u64) -> Millis {
        Millis(now_ms + self.process.clock_ms)
    }
}
