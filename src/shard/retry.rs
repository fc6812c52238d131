//! Trying again while the store is away: how long to wait, and one line when it goes and one when it comes back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// The first pause.
const PAUSE_MS_FIRST: u64 = 20;
/// The longest pause.
const PAUSE_MS_MAX: u64 = 2000;

/// How long to wait before the attempt after `failures` failed ones: doubling, with up to a half taken off by `seed`, so
/// that many that failed together don't come back together.
pub fn pause(failures: u32, seed: u64) -> Duration {
    let longest = PAUSE_MS_FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(PAUSE_MS_MAX);
    let spread = seed
        .wrapping_add(u64::from(failures))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        >> 32;
    Duration::from_millis(longest - spread * (longest / 2) / (1 << 32))
}

/// Whether the store is away, as all who use it see it.
#[derive(Default)]
pub struct Outage {
    began: Mutex<Option<Began>>,
}

struct Began {
    at: Instant,
    failures: u64,
}

impl Outage {
    /// The store did not do what it was asked.
    pub fn failed(&self, error: &StoreError) {
        let mut began = self.lock();
        match began.as_mut() {
            Some(began) => began.failures += 1,
            None => {
                *began = Some(Began {
                    at: Instant::now(),
                    failures: 1,
                });
                tracing::warn!("{error}; trying again for as long as it takes, nothing is lost meanwhile");
            }
        }
    }

    /// The store did what it was asked.
    pub fn succeeded(&self) {
        let mut began = self.lock();
        if let Some(Began { at, failures }) = began.take() {
            let seconds = at.elapsed().as_secs_f64();
            tracing::info!("the store answers again after {seconds:.1} s and {failures} failed attempts");
        }
    }

    /// Whether the last attempt failed.
    pub fn is_on(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Began>> {
        self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_differ() {
        assert!(pause(1, 7) <= Duration::from_millis(PAUSE_MS_FIRST));
        assert!(pause(1, 7) >= Duration::from_millis(PAUSE_MS_FIRST / 2));
        assert!(pause(u32::MAX, 7) <= Duration::from_millis(PAUSE_MS_MAX));
        assert!(pause(20, 7) >= Duration::from_millis(PAUSE_MS_MAX / 2));
        assert_ne!(pause(20, 7), pause(20, 8));
    }
}
