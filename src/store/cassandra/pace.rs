//! How many writes are under way at once: as many as the store takes in time. Where it slows down, what is too much for it
//! waits here. In the store it would wait until that gives up on it, and then come again, so that the store would be busy
//! with what nobody waits for any more.
//!
//! Multiplicative increase and decrease: fewer where writes fail or take long, more as soon as they no longer do. That they
//! take a little longer is no sign, since a busy store is at its fastest then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

/// Under way even if all fail.
pub const IN_FLIGHT_MIN: usize = 16;
/// Under way however long they take, if they do not fail: it may be the way that is long.
pub const SLOW_IN_FLIGHT_MIN: usize = 128;
/// How often it is decided how many more or fewer it may be, at most.
pub const WINDOW_US: u64 = 50_000;
/// Longer than this is too long: half of Cassandra's own patience with a write.
pub const SLOW_US: u64 = 1_000_000;
/// Fewer, where more than one in so many fails.
pub const FAILING_ONE_IN: u64 = 10;

/// Lets writes through.
pub struct Pace {
    since: Instant,
    permits: Semaphore,
    limit: Mutex<Limit>,
}

/// A write under way.
pub struct Place<'a> {
    pace: &'a Pace,
    began_us: u64,
}

/// Decides how many there may be. Its time is in µs since some moment.
struct Limit {
    in_flight: usize,
    in_flight_max: usize,
    /// Permits that are to go as soon as they come back.
    debt: usize,
    /// What began before says nothing: it was too much, and there are fewer since.
    heeded_from_us: u64,
    window: Window,
}

/// Writes that ended since it began.
#[derive(Default)]
struct Window {
    began_us: u64,
    writes: u64,
    failed: u64,
    sum_us: u64,
    /// As many as may be were under way.
    was_full: bool,
}

impl Pace {
    /// Up to so many at once, and so many at first.
    pub fn new(in_flight_max: usize) -> Self {
        Pace {
            since: Instant::now(),
            permits: Semaphore::new(in_flight_max),
            limit: Mutex::new(Limit::new(in_flight_max)),
        }
    }

    /// Waits until one more may be under way. Who comes first goes first.
    pub async fn enter(&self) -> Place<'_> {
        // Never closed, so there always is a permit.
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
        }
        Place {
            pace: self,
            began_us: self.now_us(),
        }
    }

    fn now_us(&self) -> u64 {
        self.since.elapsed().as_micros() as u64
    }

    fn saw(&self, began_us: u64, failed: bool) {
        let is_full = self.permits.available_permits() == 0;
        let mut limit = self.limit();
        let before = limit.in_flight;
        limit.saw(self.now_us(), began_us, failed, is_full);
        match limit.in_flight.checked_sub(before) {
            Some(more) => {
                let paid = more.min(limit.debt);
                limit.debt -= paid;
                self.permits.add_permits(more - paid);
            }
            None => {
                let fewer = before - limit.in_flight;
                limit.debt += fewer - self.permits.forget_permits(fewer);
            }
        }
    }

    fn leave(&self) {
        let mut limit = self.limit();
        match limit.debt.checked_sub(1) {
            Some(debt) => limit.debt = debt,
            None => self.permits.add_permits(1),
        }
    }

    fn limit(&self) -> MutexGuard<'_, Limit> {
        // Nothing panics while it is held.
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// The store took the write, or did not.
    pub fn ended(self, failed: bool) {
        self.pace.saw(self.began_us, failed);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pace.leave();
    }
}

impl Limit {
    fn new(in_flight_max: usize) -> Self {
        Limit {
            in_flight: in_flight_max,
            in_flight_max,
            debt: 0,
            heeded_from_us: 0,
            window: Window::default(),
        }
    }

    fn saw(&mut self, now_us: u64, began_us: u64, failed: bool, is_full: bool) {
        let window = &mut self.window;
        if began_us >= self.heeded_from_us {
            window.writes += 1;
            window.failed += u64::from(failed);
            window.sum_us += now_us.saturating_sub(began_us);
            window.was_full |= is_full;
        }
        if window.writes > 0 && now_us >= window.began_us + WINDOW_US {
            self.decide(now_us);
        }
    }

    fn decide(&mut self, now_us: u64) {
        let next = Window {
            began_us: now_us,
            ..Window::default()
        };
        let window = std::mem::replace(&mut self.window, next);
        let mean_us = window.sum_us / window.writes.max(1);
        let before = self.in_flight;
        let in_flight = match () {
            () if window.failed * FAILING_ONE_IN > window.writes => before / 2,
            () if mean_us > SLOW_US => (before - before / 4).max(before.min(SLOW_IN_FLIGHT_MIN)),
            () if window.was_full && mean_us < SLOW_US / 2 => before + before / 8,
            () => before,
        };
        self.in_flight = in_flight.clamp(IN_FLIGHT_MIN, self.in_flight_max);
        if self.in_flight < before {
            self.heeded_from_us = now_us;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::join_all;
    use proptest::prelude::*;
    use tokio::time::sleep;

    use super::*;

    const MAX: usize = 1024;
    /// After so long the store gives up on a write that waits for it.
    const PATIENCE_US: u64 = 2_000_000;

    /// A store that does one write after the other, each in so long, and gives up on what has waited for too long: that
    /// takes as long.
    struct SlowStore {
        now_us: u64,
        waiting: VecDeque<u64>,
    }

    impl SlowStore {
        /// Has as many writes as may be under way at all times; returns how many were done.
        fn run(&mut self, limit: &mut Limit, each_us: u64, for_us: u64) -> u64 {
            let (until_us, mut done) = (self.now_us + for_us, 0);
            while self.now_us < until_us {
                while self.waiting.len() < limit.in_flight {
                    self.waiting.push_back(self.now_us);
                }
                self.now_us += each_us;
                let began_us = self.waiting.pop_front().unwrap_or(self.now_us);
                let failed = self.now_us - began_us > PATIENCE_US;
                limit.saw(self.now_us, began_us, failed, true);
                done += u64::from(!failed);
            }
            done
        }
    }

    #[test]
    fn a_store_that_slows_down_does_what_it_can_and_is_fast_again() {
        let mut limit = Limit::new(MAX);
        let mut store = SlowStore {
            now_us: 0,
            waiting: VecDeque::new(),
        };
        assert_eq!(store.run(&mut limit, 20, 1_000_000), 50_000);
        assert_eq!(limit.in_flight, MAX);
        // So many would each wait for 5 s, and none be done.
        store.run(&mut limit, 5_000, 10_000_000);
        let done = store.run(&mut limit, 5_000, 10_000_000);
        assert!(done > 1_900, "{done} of 2000 that it can do");
        assert!(
            (SLOW_IN_FLIGHT_MIN..MAX / 2).contains(&limit.in_flight),
            "{}",
            limit.in_flight
        );
        store.run(&mut limit, 20, 3_000_000);
        assert_eq!(limit.in_flight, MAX);
    }

    #[test]
    fn one_that_is_far_away_is_not_slow() {
        let mut limit = Limit::new(MAX);
        for now_us in (0..10_000_000).step_by(1_000) {
            limit.saw(now_us, now_us.saturating_sub(500_000), false, true);
        }
        assert_eq!(limit.in_flight, MAX);
    }

    proptest! {
        #[test]
        fn the_limit_stays_in_its_bounds(
            ended in prop::collection::vec((0..200_000_u64, 0..3_000_000_u64, any::<bool>(), any::<bool>()), 1..300)
        ) {
            let mut limit = Limit::new(MAX);
            let mut now_us = 0;
            for (after_us, took_us, failed, is_full) in ended {
                now_us += after_us;
                let before = limit.in_flight;
                limit.saw(now_us, now_us.saturating_sub(took_us), failed, is_full);
                prop_assert!((IN_FLIGHT_MIN..=MAX).contains(&limit.in_flight));
                prop_assert!(limit.in_flight <= before + before / 8 && limit.in_flight >= before / 2);
            }
            for _ in 0..10_000 {
                now_us += 1_000;
                limit.saw(now_us, now_us, false, true);
            }
            prop_assert_eq!(limit.in_flight, MAX, "it always comes back");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn never_more_than_the_limit_and_all_permits_come_back() {
        let pace = Pace::new(MAX);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        join_all((0..20_000).map(async |index| {
            let place = pace.enter().await;
            most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_millis(5)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            match index % 3 {
                0 => drop(place),
                _ => place.ended(index > 500 && index < 10_000),
            }
        }))
        .await;
        assert!(most.into_inner() <= MAX);
        let limit = pace.limit();
        assert_eq!(
            (pace.permits.available_permits(), limit.debt),
            (limit.in_flight, 0)
        );
    }
}
