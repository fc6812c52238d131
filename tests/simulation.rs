//! Thousands of random lives of a partition, with crashes, lingering owners and late writes, against the oracle.
//!
//! `READSTATES_SIM_SEED=n` tells one life step by step, `READSTATES_SIM_RUNS` and `READSTATES_SIM_FIRST` live others.
//! With `-- --nocapture` it tells how often everything was reached.

#[path = "simulation/mod.rs"]
mod simulation;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use simulation::stats::{Stat, Stats};
use simulation::{Options, run_seed};

const RUNS: u64 = 20_000;
const THREADS: u64 = 2;
const LONG_RUNS: u64 = 3;
const FAILURES_SHOWN_MAX: usize = 5;

/// Seeds that once showed a bug.
const REGRESSIONS: &[(u64, &str)] = &[
    (
        419,
        "a mark that passes no message makes the mention count capped",
    ),
    (404, "an overview misses a read state that another owner began"),
    (795, "an overview misses a read state that another owner began"),
    (
        933,
        "a question with a handed row waits for nodes that nobody loads",
    ),
    (
        1577,
        "a question with a handed row waits for nodes that nobody loads",
    ),
];

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is not a number")),
    )
}

/// Runs of the seeds from `first`, on all threads: what they reached, and what failed.
fn run_all(first: u64, runs: u64) -> (Stats, Vec<String>) {
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(0);
    let live = || {
        let (mut stats, mut failures) = (Stats::new(), Vec::new());
        while failed.load(Ordering::Relaxed) < FAILURES_SHOWN_MAX as u64 {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + runs {
                break;
            }
            if let Err(failure) = run_seed(seed, Options::default(), &mut stats) {
                failed.fetch_add(1, Ordering::Relaxed);
                failures.push(failure);
            }
        }
        (stats, failures)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(live)).collect();
        let (mut stats, mut failures) = (Stats::new(), Vec::new());
        for thread in threads {
            let (more, failed) = thread.join().expect("a thread of runs ended");
            stats.add(&more);
            failures.extend(failed);
        }
        (stats, failures)
    })
}

/// Prints how fast it was and how often each thing was reached, also where the runner keeps what tests print to itself.
fn show(runs: u64, seconds: f64, stats: &Stats) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(
        output,
        "\n{runs} runs in {seconds:.1} s, {:.0} a second; reached:",
        runs as f64 / seconds
    )?;
    for stat in Stat::ALL {
        writeln!(output, "{:>12} {stat:?}", stats.get(*stat))?;
    }
    for (name, count) in stats.counters() {
        writeln!(output, "{count:>12} {name}")?;
    }
    Ok(())
}

/// Every life is right in every answer and row, comes to its end, and together they reach everything that was thought of.
#[test]
fn every_life_agrees_with_the_oracle() {
    let runs = variable("READSTATES_SIM_RUNS").unwrap_or(RUNS);
    let first = variable("READSTATES_SIM_FIRST").unwrap_or(0);
    let began = Instant::now();
    let (stats, failures) = run_all(first, runs);
    let seconds = began.elapsed().as_secs_f64();
    assert!(
        failures.is_empty(),
        "{} lives went wrong:\n{}",
        failures.len(),
        failures.join("\n")
    );
    show(runs, seconds, &stats).expect("standard output can be written");
    let unreached = stats.never_reached();
    assert!(
        unreached.is_empty() || runs < RUNS,
        "never reached: {unreached:?}"
    );
}

/// Lives of 20,000 records in one channel, in a tree whose blocks are as large as real ones.
#[test]
fn long_lives_agree_with_the_oracle() {
    let options = Options {
        is_large: true,
        ..Options::default()
    };
    for seed in 0..LONG_RUNS {
        if let Err(failure) = run_seed(seed, options, &mut Stats::new()) {
            panic!("large: {failure}");
        }
    }
}

#[test]
fn seeds_that_once_failed_are_right() {
    for (seed, what) in REGRESSIONS {
        if let Err(failure) = run_seed(*seed, Options::default(), &mut Stats::new()) {
            panic!("{what}: {failure}");
        }
    }
}

/// One life with a trace: `READSTATES_SIM_SEED=n`.
#[test]
fn one_seed() {
    let seed = variable("READSTATES_SIM_SEED");
    let options = Options {
        trace: seed.is_some(),
        ..Options::default()
    };
    if let Err(failure) = run_seed(seed.unwrap_or(1), options, &mut Stats::new()) {
        panic!("{failure}");
    }
}
