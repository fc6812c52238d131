//! The simulation finds each bug that was thought of: with one planted, some life must go wrong.
#![cfg(feature = "planted-bugs")]

#[path = "simulation/mod.rs"]
#[allow(
    dead_code,
    reason = "the statistics are of use to the simulation's own test only"
)]
mod simulation;

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use readstates::model::planted::{Bug, Planted};
use simulation::stats::Stats;
use simulation::{Options, run_seed};

/// Most are found within ten. A void load does harm only where a former owner writes a read state and then its head while it is
/// on its way, which is rare.
const RUNS_MAX: u64 = 10_000;
const THREADS: usize = 2;

/// After how many runs a bug is found, and how it shows.
fn runs_to_find(bug: Bug) -> Option<(u64, String)> {
    let options = Options {
        planted: Planted::new(bug),
        ..Options::default()
    };
    (0..RUNS_MAX).find_map(|seed| {
        let failure = run_seed(seed, options, &mut Stats::new()).err()?;
        Some((seed + 1, failure))
    })
}

/// Each planted bug is found within `RUNS_MAX` runs.
#[test]
fn every_planted_bug_is_found() {
    let next = AtomicUsize::new(0);
    let unfound = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match runs_to_find(*bug) {
                        Some((runs, failure)) => {
                            let failure: String = failure.chars().take(160).collect();
                            // The runner keeps what tests print to itself, but not this.
                            writeln!(std::io::stdout(), "{bug:?}: found in {runs} runs: {failure}")
                                .expect("standard output can be written");
                        }
                        None => unfound.lock().expect("no thread panicked").push(*bug),
                    }
                }
            });
        }
    });
    let unfound = unfound.into_inner().expect("no thread panicked");
    assert!(unfound.is_empty(), "not found in {RUNS_MAX} runs: {unfound:?}");
}
