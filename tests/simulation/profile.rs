//! What kind of a life a run is: sizes, limits, and how often what goes wrong.

use super::rng::Rng;

/// Drawn from the seed first, so that runs differ in kind and not only in detail.
#[derive(Clone, Debug)]
pub struct Profile {
    pub records: usize,
    /// Records taken in one step.
    pub batch_records_max: u64,
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
    pub two_epochs_percent: u64,

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

    /// How often each step is taken, in the order of [`Step::ALL`].
    pub step_weights: [u64; 12],
    pub step_ms: u64,
    pub load_fails_percent: u64,
    pub write_fails_percent: u64,
    pub write_times_out_percent: u64,
    pub late_percent: u64,
    pub slow_load_percent: u64,
    pub slow_write_percent: u64,
    /// How many rows go through their bytes.
    pub bytes_percent: u64,
    pub lives_max: u64,
}

impl Profile {
    pub fn draw(rng: &mut Rng) -> Self {
        let mut kind_weights = match rng.below(6) {
            0 => [600, 80, 40, 40, 140, 40, 20, 0],
            1 => [300, 100, 280, 120, 100, 40, 20, 0],
            2 => [300, 250, 50, 50, 200, 80, 70, 0],
            _ => [450, 140, 100, 70, 100, 50, 30, 0],
        };
        if rng.percent(40) {
            kind_weights[7] = rng.between(1, 5);
        }
        let tiny_caches = rng.percent(45);
        let troubled = rng.percent(70);
        let reliable = |percent: u64| if troubled { percent } else { percent / 5 };
        let mut profile = Profile {
            records: rng.between(200, 280) as usize,
            batch_records_max: 4,
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
            two_epochs_percent: 25,
            max_unread_count: *rng.pick(&[3, 7, 20, 10_000]),
            max_direct_mentions: *rng.pick(&[2, 4, 10, 1000]),
            block_messages_max: *rng.pick(&[2, 3, 4, 8]),
            page_blocks_max: *rng.pick(&[2, 3, 4, 12]),
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
            slow_load_percent: *rng.pick(&[0, 3, 20]),
            slow_write_percent: *rng.pick(&[0, 3, 20]),
            bytes_percent: *rng.pick(&[0, 0, 0, 10, 100]),
            lives_max: rng.between(0, 8),
        };
        if rng.percent(15) {
            profile.race(rng);
        }
        profile
    }

    /// Without a decision of its own, so that seeds stand for what they stood for before there was one.
    pub fn load_patience_ms(&self) -> u64 {
        match self.position_interval_ms {
            100 => 100,
            _ => u64::MAX / 2,
        }
    }

    /// Two owners all the time, one reading slowly what the other one is writing at once.
    fn race(&mut self, rng: &mut Rng) {
        self.read_states_max = rng.between(2, 20) as usize;
        self.channel_bytes_max = rng.between(1, 1500) as usize;
        self.write_delay_ms = 0;
        self.settle_percent = 100;
        self.loads_max = 256;
        self.writes_max = 256;
        self.load_fails_percent = 0;
        self.write_fails_percent = 0;
        self.write_times_out_percent = 0;
        self.slow_load_percent = 40;
        self.slow_write_percent = 0;
        self.late_percent = 50;
        self.lives_max = 8;
        self.step_weights[Step::Store as usize] = 0;
        self.step_weights[Step::SecondOwner as usize] = 6;
    }
}

impl Profile {
    /// The same life with many more records, in a tree whose blocks are as large as real ones.
    pub fn enlarge(&mut self) {
        self.records = 20_000;
        self.batch_records_max = 64;
        self.channels = 1;
        self.block_messages_max = 128;
        self.block_mentions_max = 16_384;
        self.page_blocks_max = 16;
        self.write_delay_ms = 30_000;
        self.reverse_max *= 20;
        self.read_states_max = self.read_states_max.min(3);
        self.channel_bytes_max = 200_000;
        self.dirty_max = 1_000_000;
        self.waiting_records_max = 4096;
        self.kind_weights[7] = 0;
    }
}

/// What may happen next.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    TakeRecords,
    Complete,
    Tick,
    Get,
    Overview,
    Jump,
    Store,
    Crash,
    SecondOwner,
    Drain,
    LateWrite,
    Publish,
}

impl Step {
    pub const ALL: [Step; 12] = [
        Step::TakeRecords,
        Step::Complete,
        Step::Tick,
        Step::Get,
        Step::Overview,
        Step::Jump,
        Step::Store,
        Step::Crash,
        Step::SecondOwner,
        Step::Drain,
        Step::LateWrite,
        Step::Publish,
    ];
}

/// In the order of [`Step::ALL`].
fn step_weights(rng: &mut Rng) -> [u64; 12] {
    [
        *rng.pick(&[30, 60, 120]),
        *rng.pick(&[40, 100, 160]),
        *rng.pick(&[5, 20]),
        8,
        6,
        2,
        *rng.pick(&[0, 1, 3]),
        *rng.pick(&[0, 1, 2]),
        *rng.pick(&[0, 1, 2]),
        *rng.pick(&[0, 1, 2]),
        *rng.pick(&[3, 10]),
        *rng.pick(&[8, 20]),
    ]
}
