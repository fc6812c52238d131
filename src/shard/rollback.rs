//! Notices a store that was rolled back while the service runs, before anything is made of its rows.
//!
//! A service that stays up holds what it wrote for written. Were the store put back to an older copy, rows between the
//! two would be missing for good: a head that is written on top of them says that their records were applied (invariant
//! 3). So the stored position of a partition, which never goes back by itself, is read again before the first use of the
//! store after any failure, before each new position, and now and then. Where it has gone back nothing is written any
//! more, and the process ends: whoever takes the partition next replays it from the stored position.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::retry::StoreHealth;
use crate::model::ids::{ChannelId, LogPosition, PartitionId, UserId};
use crate::model::read_state::ReadState;
use crate::partition::io::{LoadKey, LoadedRow, Write};
use crate::store::{Store, StoreError, StoredPosition};

/// How often the position is read where nothing else asks for it. No store is restored within this without a failure.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// No number of failures.
const NEVER: u64 = u64::MAX;

/// What the store is known to have had of one owned partition.
pub struct Witness {
    partition: PartitionId,
    /// The furthest position that it was seen with.
    known: std::sync::Mutex<LogPosition>,
    /// How many failures had been seen before the last look that found everything well.
    failures_before: AtomicU64,
    /// Looks so far.
    looks: AtomicU64,
    /// Held by who looks: how the last look failed, if it did.
    last_failure: Mutex<Option<String>>,
    health: Arc<StoreHealth>,
    rolled_back: watch::Sender<Option<String>>,
}

impl Witness {
    /// Of a partition whose stored position was `durable`. What is found out is told to `rolled_back`, which the
    /// partitions of a process share: once one of them has found it out, none uses the store any more.
    pub fn new(
        partition: PartitionId,
        durable: LogPosition,
        health: Arc<StoreHealth>,
        rolled_back: watch::Sender<Option<String>>,
    ) -> Self {
        let witness = Witness {
            partition,
            known: std::sync::Mutex::new(LogPosition::NOTHING),
            failures_before: AtomicU64::new(NEVER),
            looks: AtomicU64::new(0),
            last_failure: Mutex::default(),
            health,
            rolled_back,
        };
        witness.saw_stored(durable);
        witness
    }

    /// Whether the store has not failed since it was last found well.
    pub fn is_sure(&self) -> bool {
        self.failures_before.load(Ordering::Relaxed) == self.health.failures()
            && self.rolled_back.borrow().is_none()
    }

    /// Makes sure that the store is not older than it was, unless that is so already.
    ///
    /// # Errors
    /// It can't be found out, or it is older.
    pub async fn make_sure(&self, store: &impl Store) -> Result<(), StoreError> {
        match self.is_sure() {
            true => Ok(()),
            false => self.look(store).await,
        }
    }

    /// Reads the stored position, and compares it with what is known. Who comes while somebody looks shares a failure
    /// with them: they would all ask a store that does not answer, one after the other.
    ///
    /// # Errors
    /// It can't be found out, or it is older.
    pub async fn look(&self, store: &impl Store) -> Result<(), StoreError> {
        let looks = self.looks.load(Ordering::Relaxed);
        let mut last_failure = self.last_failure.lock().await;
        if let Some(why) = &*self.rolled_back.borrow() {
            return Err(StoreError::RolledBack(why.clone()));
        }
        if self.looks.load(Ordering::Relaxed) != looks {
            match &*last_failure {
                Some(failure) => return Err(StoreError::Unavailable(failure.clone())),
                None if self.is_sure() => return Ok(()),
                None => {}
            }
        }
        let known = *self.known();
        let failures = self.health.failures();
        let stored = store.load_position(self.partition).await;
        self.looks.fetch_add(1, Ordering::Relaxed);
        *last_failure = None;
        match stored {
            Ok(stored) => {
                let found = stored.map_or(LogPosition::NOTHING, |stored| stored.durable);
                if found < known {
                    return Err(self.found_older(known, format_args!("is {found}")));
                }
                self.failures_before.store(failures, Ordering::Relaxed);
                Ok(())
            }
            Err(StoreError::Unavailable(failure)) => {
                *last_failure = Some(failure.clone());
                Err(StoreError::Unavailable(failure))
            }
            Err(StoreError::Broken(why)) => Err(self.found_broken(why)),
            Err(error) => Err(self.found_older(known, format_args!("can't be used ({error})"))),
        }
    }

    /// The store has this position.
    pub fn saw_stored(&self, position: LogPosition) {
        if position.offset().is_some() {
            let mut known = self.known();
            *known = position.max(*known);
        }
    }

    fn known(&self) -> MutexGuard<'_, LogPosition> {
        // Nothing panics while it is held.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found_older(&self, known: LogPosition, what: std::fmt::Arguments<'_>) -> StoreError {
        let partition = self.partition;
        let why = format!(
            "the stored position of partition {partition} {what}, and was {known}: the store was put back to an older \
             copy, or has lost what it had acknowledged. Nothing more is written, and this process ends, so that \
             everything since is replayed from the stream: start it again"
        );
        self.tell(&why);
        StoreError::RolledBack(why)
    }

    /// No partition of the process may use the store any more, as if it were older.
    fn found_broken(&self, why: String) -> StoreError {
        self.tell(&why);
        StoreError::Broken(why)
    }

    fn tell(&self, why: &str) {
        self.rolled_back.send_if_modified(|told| {
            let is_first = told.is_none();
            told.get_or_insert_with(|| why.to_owned());
            is_first
        });
    }
}

/// A store that is used for one owned partition, only while it is not older than it was.
#[derive(Clone)]
pub struct Guarded<S> {
    store: S,
    witness: Arc<Witness>,
}

impl<S> Guarded<S> {
    /// The store, as the witness knows it.
    pub fn new(store: S, witness: Arc<Witness>) -> Self {
        Guarded { store, witness }
    }

    /// Tells the process where the store is broken.
    fn checked<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.map_err(|error| match error {
            StoreError::Broken(why) => self.witness.found_broken(why),
            other => other,
        })
    }
}

impl<S: Store> Store for Guarded<S> {
    async fn load(&self, key: LoadKey) -> Result<LoadedRow, StoreError> {
        self.witness.make_sure(&self.store).await?;
        self.checked(self.store.load(key).await)
    }

    async fn write(&self, write: &Write) -> Result<(), StoreError> {
        self.witness.make_sure(&self.store).await?;
        self.checked(self.store.write(write).await)
    }

    async fn load_user(
        &self,
        user: UserId,
        above: ChannelId,
        limit: usize,
    ) -> Result<Vec<(ChannelId, ReadState)>, StoreError> {
        self.witness.make_sure(&self.store).await?;
        self.checked(self.store.load_user(user, above, limit).await)
    }

    async fn store_position(
        &self,
        partition: PartitionId,
        position: &StoredPosition,
    ) -> Result<(), StoreError> {
        self.witness.look(&self.store).await?;
        self.checked(self.store.store_position(partition, position).await)?;
        self.witness.saw_stored(position.durable);
        Ok(())
    }

    async fn load_position(&self, partition: PartitionId) -> Result<Option<StoredPosition>, StoreError> {
        self.store.load_position(partition).await
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }
}
