//! Random lives of a partition: a fake log, a fake store, owners that crash, linger and hand over; everything that is
//! answered or written is compared with the oracle. A run is determined by its seed.

mod judge;
mod log;
mod order;
mod owner;
mod profile;
mod rng;
pub mod stats;
mod store;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use readstates::model::channel::Shape;
use readstates::model::counts::CountLimits;
use readstates::model::ids::{LogPosition, Offset};
use readstates::model::planted::Planted;
use readstates::partition::{Partition, ReadStateCache, Settings, Share};

use log::Log;
use profile::Profile;
use rng::Rng;
use stats::Stats;
use world::World;

/// How a run is run.
#[derive(Clone, Copy, Default)]
pub struct Options {
    /// Tell each step on standard error.
    pub trace: bool,
    /// Live a long life in a tree with blocks as large as real ones.
    pub is_large: bool,
    pub planted: Planted,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_RUNNING: RefCell<bool> = const { RefCell::new(false) };
}

/// Keeps what a panic of a run said, instead of printing it: it is reported with the seed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IS_RUNNING.with(|is_running| *is_running.borrow()) {
                PANIC.with(|panic| *panic.borrow_mut() = Some(info.to_string()));
            } else {
                default(info);
            }
        }));
    });
}

/// Lives the life of a seed.
///
/// # Errors
/// What is wrong, and how to see it again.
pub fn run_seed(seed: u64, options: Options, stats: &mut Stats) -> Result<(), String> {
    keep_panics();
    IS_RUNNING.with(|is_running| *is_running.borrow_mut() = true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut rng = Rng::new(seed);
        let mut profile = Profile::draw(&mut rng);
        if options.is_large {
            profile.enlarge();
        }
        if options.trace {
            eprintln!("{profile:?}");
        }
        let log = Log::generate(&profile, &mut rng, stats);
        World::new(&profile, &log, rng, stats, options).run()
    }));
    IS_RUNNING.with(|is_running| *is_running.borrow_mut() = false);
    let outcome = outcome.unwrap_or_else(|_| {
        let said = PANIC.with(|panic| panic.borrow_mut().take());
        Err(said.unwrap_or_else(|| "panicked".to_owned()))
    });
    outcome.map_err(|wrong| {
        format!(
            "seed {seed}: {wrong}\n  again, with a trace: READSTATES_SIM_SEED={seed} cargo test --test simulation one_seed \
             -- --nocapture"
        )
    })
}

fn settings_of(profile: &Profile, options: Options) -> Settings {
    Settings {
        write_delay_ms: profile.write_delay_ms,
        position_interval_ms: profile.position_interval_ms,
        shape: Shape {
            block_messages_max: profile.block_messages_max,
            block_mentions_max: profile.block_mentions_max,
            page_blocks_max: profile.page_blocks_max,
            planted: options.planted,
        },
        counts: CountLimits {
            unread_max: profile.max_unread_count,
            direct_mentions_max: profile.max_direct_mentions as usize,
        },
        read_state_writes_max: profile.writes_max,
        channel_writes_max: profile.writes_max,
        loads_max: profile.loads_max,
        load_patience_ms: profile.load_patience_ms(),
        waiting_records_max: profile.waiting_records_max,
        waiting_questions_max: profile.waiting_questions_max,
        planted: options.planted,
    }
}

fn share_of(profile: &Profile) -> Share {
    Share {
        channel_bytes: profile.channel_bytes_max,
        dirty: profile.dirty_max,
    }
}

fn start_partition(
    profile: &Profile,
    options: Options,
    cache: ReadStateCache,
    assignment: u64,
    from: LogPosition,
    live_at: Offset,
) -> Partition {
    Partition::new(
        settings_of(profile, options),
        share_of(profile),
        cache,
        assignment,
        from,
        live_at,
    )
}
