//! What kind of a life a run is: sizes, limits, and how often what goes wrong.

use super::rng::Rng;

/// Drawn from the seed first, so that runs differ in kind and not only in detail.
#[derive(Clone, Debug)]
pub struct Profile {
    pub records: usize,
    pub channels: u64,
    pub users: u64,
    /// Of the eight kinds, in the order of the wire format.
    pub kind_weights: [u64; 8],
    pub mention_percent: u64,
    pub everyone_percent: u64,
    pub id_step: u64,
    pub reverse_permille: u64,
    pub reverse_max: u64,
    pub burst_permille: u64,
    pub epoch: u32,

    pub max_unread_count: u32,
    pub max_direct_mentions: u32,
    pub block_messages_max: usize,
    pub page_blocks_max: usize,
    pub read_states_max: usize,
    pub channel_bytes_max: usize,
    pub dirty_max: usize,
    pub write_delay_ms: u64,
    pub position_interval_ms: u64,
    pub block_mentions_max: usize,
    pub writes_max: usize,
    pub loads_max: usize,
    pub waiting_records_max: usize,
    pub waiting_questions_max: usize,
    /// How often what is due is done after an input.
    pub settle_percent: u64,

    /// Weights of the steps, in the order of `world::Step`.
    pub step_weights: [u64; 12],
    pub step_ms: u64,
    pub load_fails_percent: u64,
    pub write_fails_percent: u64,
    pub write_times_out_percent: u64,
    pub late_percent: u64,
    pub lives_max: u64,
}

impl Profile {
    pub fn draw(rng: &mut Rng) -> Self {
        let mut kind_weights = [45, 14, 10, 7, 10, 5, 3, 0];
        match rng.below(6) {
            0 => kind_weights = [60, 8, 4, 4, 14, 4, 2, 0],
            1 => kind_weights = [30, 10, 28, 12, 10, 4, 2, 0],
            2 => kind_weights = [30, 25, 5, 5, 20, 8, 7, 0],
            _ => {}
        }
        if rng.percent(40) {
            kind_weights[7] = 1;
        }
        let tiny_caches = rng.percent(45);
        let troubled = rng.percent(70);
        let reliable = |percent: u64| if troubled { percent } else { percent / 5 };
        Profile {
            records: rng.between(200, 280) as usize,
            channels: rng.between(1, 4),
            users: rng.between(2, 6),
            kind_weights,
            mention_percent: *rng.pick(&[10, 40, 70]),
            everyone_percent: *rng.pick(&[0, 10, 30]),
            id_step: *rng.pick(&[1, 3, 10]),
            reverse_permille: *rng.pick(&[0, 10, 40]),
            reverse_max: *rng.pick(&[8, 40]),
            burst_permille: *rng.pick(&[0, 15]),
            epoch: *rng.pick(&[0, 0, 0, 3]),
            max_unread_count: *rng.pick(&[3, 7, 20, 10_000]),
            max_direct_mentions: *rng.pick(&[2, 4, 10, 1000]),
            block_messages_max: *rng.pick(&[2, 3, 4, 8]),
            page_blocks_max: *rng.pick(&[2, 3, 4]),
            read_states_max: if tiny_caches { rng.between(1, 6) } else { 10_000 } as usize,
            channel_bytes_max: if tiny_caches {
                rng.between(1, 4000) as usize
            } else {
                1 << 24
            },
            dirty_max: *rng.pick(&[4, 20, 1_000_000]),
            write_delay_ms: *rng.pick(&[0, 40, 400, 30_000]),
            position_interval_ms: *rng.pick(&[0, 100, 1000]),
            block_mentions_max: *rng.pick(&[3, 100]),
            writes_max: *rng.pick(&[1, 4, 256]),
            loads_max: *rng.pick(&[1, 4, 256]),
            waiting_records_max: *rng.pick(&[3, 4096]),
            waiting_questions_max: *rng.pick(&[4, 16_384, 16_384]),
            settle_percent: *rng.pick(&[20, 70, 100]),
            step_weights: step_weights(rng),
            step_ms: *rng.pick(&[1, 5, 50]),
            load_fails_percent: reliable(*rng.pick(&[2, 10])),
            write_fails_percent: reliable(*rng.pick(&[2, 10])),
            write_times_out_percent: reliable(*rng.pick(&[2, 10])),
            late_percent: *rng.pick(&[5, 30]),
            lives_max: rng.between(0, 8),
        }
    }
}

fn step_weights(rng: &mut Rng) -> [u64; 12] {
    let mut weights = [0; 12];
    weights[0] = *rng.pick(&[30, 60, 120]); // Record
    weights[1] = *rng.pick(&[40, 100, 160]); // Complete an operation
    weights[2] = *rng.pick(&[5, 20]); // Tick
    weights[3] = 8; // Get
    weights[4] = 6; // Overview, next move
    weights[5] = 2; // Jump in time
    weights[6] = *rng.pick(&[0, 1, 3]); // Store goes down or comes back
    weights[7] = *rng.pick(&[0, 1, 2]); // Crash
    weights[8] = *rng.pick(&[0, 1, 2]); // A second owner
    weights[9] = *rng.pick(&[0, 1, 2]); // Drain
    weights[10] = *rng.pick(&[3, 10]); // A late write lands
    weights[11] = *rng.pick(&[8, 20]); // Publish
    weights
}
