//! How the store is asked again when it fails: for writes and positions as long as it takes, for loads after a pause.
//!
//! To give up, drop the future: whatever was under way can be done again.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::model::ids::PartitionId;
use crate::partition::io::{LoadKey, LoadedRow, Write};
use crate::store::{Store, StoreError, StoredPosition};

/// The longest pause after the first failure; it doubles with each further one.
pub const BACKOFF_FIRST_MS: u64 = 50;
/// The longest pause.
pub const BACKOFF_MAX_MS: u64 = 4_000;
/// A failure is old news after this long: nobody may be asking any more.
pub const FAILING_MS: u64 = 30_000;
/// The log says that the store works again once it has done so for this long without a failure.
pub const RECOVERED_AFTER_MS: u64 = 5_000;

/// The pause before an attempt; `attempt` is how often it failed before, and 0 is no pause.
///
/// It lies between half of the longest and the longest, spread by `seed`, so that what failed together does not come
/// back together.
pub fn backoff(attempt: u32, seed: u64) -> Duration {
    let Some(doublings) = attempt.checked_sub(1) else {
        return Duration::ZERO;
    };
    let longest_ms = BACKOFF_FIRST_MS
        .saturating_mul(1 << doublings.min(32))
        .min(BACKOFF_MAX_MS);
    let half_us = longest_ms * 500;
    Duration::from_micros(half_us + hash(&(attempt, seed)) % (half_us + 1))
}

/// Whether the store works, as seen by all who use it. Logs once when it begins to fail and once when it has recovered.
#[derive(Debug)]
pub struct StoreHealth {
    since: Instant,
    /// In ms after `since`, at least 1; 0 where the newest attempt worked.
    failed_at_ms: AtomicU64,
    failures_seen: AtomicU64,
    /// Whether the log says that it fails.
    is_logged: AtomicBool,
    failures: Mutex<Failures>,
}

/// Those since the log said that it fails.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    first_ms: u64,
    newest_ms: u64,
}

impl Default for StoreHealth {
    fn default() -> Self {
        Self::new()
    }
}

impl StoreHealth {
    /// A store of which nothing is known works.
    pub fn new() -> Self {
        StoreHealth {
            since: Instant::now(),
            failed_at_ms: AtomicU64::new(0),
            failures_seen: AtomicU64::new(0),
            is_logged: AtomicBool::new(false),
            failures: Mutex::default(),
        }
    }

    /// Whether the newest attempt failed, and not longer than [`FAILING_MS`] ago.
    pub fn is_failing(&self) -> bool {
        let failed_at_ms = self.failed_at_ms.load(Ordering::Relaxed);
        failed_at_ms > 0 && self.now_ms() - failed_at_ms.min(self.now_ms()) < FAILING_MS
    }

    /// How many attempts failed.
    pub fn failures(&self) -> u64 {
        self.failures_seen.load(Ordering::Relaxed)
    }

    /// Takes note of how an attempt ended. A row that is unusable says nothing about the store.
    pub fn saw<T>(&self, result: &Result<T, StoreError>) {
        match result {
            Ok(_) => self.worked(),
            Err(StoreError::Unavailable(_)) => self.failed(result),
            Err(StoreError::Unusable(_) | StoreError::RolledBack(_) | StoreError::Broken(_)) => (),
        }
    }

    fn failed<T>(&self, result: &Result<T, StoreError>) {
        let now_ms = self.now_ms();
        self.failed_at_ms.store(now_ms, Ordering::Relaxed);
        self.failures_seen.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.since_logged();
        if failures.count == 0 {
            failures.first_ms = now_ms;
        }
        failures.count += 1;
        failures.newest_ms = failures.newest_ms.max(now_ms);
        if let (false, Err(error)) = (self.is_logged.swap(true, Ordering::Relaxed), result) {
            tracing::warn!(
                "{error}; this is tried again until it works, and nothing is lost meanwhile, but what is not cached \
                 may not be answered: check that the store is up, can be reached, and lets us read and write"
            );
        }
    }

    fn worked(&self) {
        if !self.is_logged.load(Ordering::Relaxed) {
            return;
        }
        self.failed_at_ms.store(0, Ordering::Relaxed);
        let mut failures = self.since_logged();
        if failures.count == 0 || self.now_ms() < failures.newest_ms + RECOVERED_AFTER_MS {
            return;
        }
        let failing_s = failures.newest_ms.saturating_sub(failures.first_ms) / 1000;
        tracing::info!(
            "the store works again, after {} failures in {failing_s} s",
            failures.count
        );
        *failures = Failures::default();
        self.is_logged.store(false, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.since.elapsed().as_millis() as u64 + 1
    }

    fn since_logged(&self) -> MutexGuard<'_, Failures> {
        // Nothing panics while it is held.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a row, again and again until it is in the store.
///
/// # Errors
/// [`StoreError::Unusable`] if the row can't be written, ever; [`StoreError::RolledBack`] if nothing may be.
pub async fn write_until_done(
    store: &impl Store,
    health: &StoreHealth,
    write: &Write,
) -> Result<(), StoreError> {
    until_done(health, hash(&write.key()), || store.write(write)).await
}

/// Stores the position of a partition, again and again until it is in the store.
///
/// # Errors
/// [`StoreError::Unusable`] if it can't be written, ever; [`StoreError::RolledBack`] if nothing may be.
pub async fn store_position_until_done(
    store: &impl Store,
    health: &StoreHealth,
    partition: PartitionId,
    position: &StoredPosition,
) -> Result<(), StoreError> {
    until_done(health, hash(&partition), || {
        store.store_position(partition, position)
    })
    .await
}

/// Reads a row once, after the pause that is due when it has failed `attempt` times before. The log says once that a row
/// is unusable, with its first attempt.
///
/// # Errors
/// Those of [`Store::load`].
pub async fn load_after_backoff(
    store: &impl Store,
    health: &StoreHealth,
    key: LoadKey,
    attempt: u32,
) -> Result<LoadedRow, StoreError> {
    sleep(backoff(attempt, hash(&key))).await;
    let loaded = store.load(key).await;
    health.saw(&loaded);
    if let (0, Err(StoreError::Unusable(line))) = (attempt, &loaded) {
        tracing::error!("{line}");
    }
    loaded
}

async fn until_done<F: Future<Output = Result<(), StoreError>>>(
    health: &StoreHealth,
    seed: u64,
    mut attempt: impl FnMut() -> F,
) -> Result<(), StoreError> {
    let mut failed: u32 = 0;
    loop {
        let result = attempt().await;
        health.saw(&result);
        match result {
            Err(StoreError::Unavailable(_)) => {
                failed = failed.saturating_add(1);
                sleep(backoff(failed, seed)).await;
            }
            done => return done,
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_spread() {
        assert_eq!(backoff(0, 7), Duration::ZERO);
        for attempt in [1, 2, 5, 8, 9, 40, u32::MAX] {
            let longest_ms = (BACKOFF_FIRST_MS << (attempt - 1).min(20)).min(BACKOFF_MAX_MS);
            let longest = Duration::from_millis(longest_ms);
            let mut pauses: Vec<Duration> = (0..100).map(|seed| backoff(attempt, seed)).collect();
            assert!(
                pauses
                    .iter()
                    .all(|pause| *pause >= longest / 2 && *pause <= longest),
                "{pauses:?}"
            );
            pauses.sort_unstable();
            assert!(pauses[90] - pauses[10] > longest / 4, "{pauses:?}");
            assert_eq!(backoff(attempt, 3), backoff(attempt, 3));
        }
    }

    #[tokio::test]
    async fn what_fails_is_tried_until_it_works() {
        let health = StoreHealth::new();
        let mut attempts = 0;
        let result = until_done(&health, 1, || {
            attempts += 1;
            let result = match attempts {
                1..=3 => Err(StoreError::Unavailable("down".into())),
                _ => Ok(()),
            };
            std::future::ready(result)
        });
        assert!(result.await.is_ok() && attempts == 4);
        assert!(!health.is_failing());
    }

    #[tokio::test]
    async fn what_can_never_work_is_given_back() {
        let health = StoreHealth::new();
        let never = || std::future::ready(Err(StoreError::Unusable("no".into())));
        assert!(matches!(
            until_done(&health, 1, never).await,
            Err(StoreError::Unusable(_))
        ));
        assert!(!health.is_failing());
    }

    #[test]
    fn the_newest_attempt_tells_whether_the_store_fails() {
        let health = StoreHealth::new();
        assert!(!health.is_failing());
        health.saw::<()>(&Err(StoreError::Unavailable("down".into())));
        assert!(health.is_failing());
        health.saw(&Ok(()));
        assert!(!health.is_failing());
        assert!(
            health.is_logged.load(Ordering::Relaxed),
            "too soon to say that it has recovered"
        );
        health.since_logged().newest_ms = 0;
        let late = StoreHealth {
            since: Instant::now() - Duration::from_secs(60),
            ..health
        };
        late.saw(&Ok(()));
        assert!(!late.is_logged.load(Ordering::Relaxed));
    }
}
