//! The state machine of one partition: pure, it takes an input and the time and returns effects.
//!
//! Everything about a channel is decided here, in stream order (invariant 1): there is nothing to race with. States,
//! events and invariants are in ARCHITECTURE.md.

mod answers;
mod apply;
mod cache;
mod changes;
mod channels;
mod counters;
mod fifo;
pub mod io;
mod loads;
mod read_states;
mod requests;
pub mod slab;
mod unseen;

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

pub use counters::{Counters, Ignored};
use io::{Effect, Input, LoadToken, Millis, Write, WriteKey};
use loads::{Pending, Queue, messages_changed, needed_of_channel, users_named};
use requests::{Later, Requests};

use crate::model::channel::Shape;
use crate::model::counts::CountLimits;
use crate::model::event::Event;
use crate::model::ids::{ChannelId, LogPosition, Offset, ReadStateKey};
use crate::model::planted::{Bug, Planted};
pub use read_states::{ReadStateCache, STAMP_LIFE_MS};

/// How a partition behaves. The rows depend on `shape` and `counts`, so a deployment keeps these.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// From an entry's first change to its write.
    pub write_delay_ms: u64,
    /// Between two writes of the durable position, at least.
    pub position_interval_ms: u64,
    /// Fan-outs of the channel tree.
    pub shape: Shape,
    /// Up to where counts are exact.
    pub counts: CountLimits,
    /// Writes of read states under way at a time.
    pub read_state_writes_max: usize,
    /// Writes of heads and nodes under way at a time.
    pub channel_writes_max: usize,
    /// Loads under way at a time that are only asked for in advance.
    pub loads_max: usize,
    /// A load under way for longer than this may be one of a store that does not answer: what is cached does not wait
    /// for it.
    pub load_patience_ms: u64,
    /// Records that wait for a load; above, no more are wanted.
    pub waiting_records_max: usize,
    /// Questions that wait; above, more are refused.
    pub waiting_questions_max: usize,
    /// For tests.
    pub planted: Planted,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            write_delay_ms: 30_000,
            position_interval_ms: 1000,
            shape: Shape::default(),
            counts: CountLimits::default(),
            read_state_writes_max: 1024,
            channel_writes_max: 64,
            loads_max: 256,
            load_patience_ms: 500,
            waiting_records_max: 4096,
            waiting_questions_max: 16_384,
            planted: Planted::default(),
        }
    }
}

/// What one partition may take of the instance's capacity. Changes as partitions come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Cached heads, pages and blocks.
    pub channel_bytes: usize,
    /// Entries that are not in the store yet; above, no more records are wanted.
    pub dirty: usize,
}

/// Where a partition stands, from being assigned to being given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Takes records that were there when it was assigned.
    CatchingUp,
    /// Has come to what was the end of the log when it was assigned.
    Live,
    /// Writes everything, takes no more records.
    Draining,
    /// Everything is in the store.
    Drained,
}

/// How a partition stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The last record taken that nothing before is waiting for.
    pub applied: LogPosition,
    /// Every record up to here is in the store.
    pub durable: LogPosition,
    /// When the oldest change that is not in the store was made.
    pub oldest_change_at: Option<Millis>,
    /// Cached read states.
    pub read_states_cached: usize,
    /// Cached channels.
    pub channels_cached: usize,
    /// The memory that these take.
    pub channel_bytes_cached: usize,
    /// Changed entries that are not in the store.
    pub dirty: usize,
    /// Records that wait for a load.
    pub waiting_records: usize,
}

/// One partition of the stream: caches, write-behind, loads and answers.
pub struct Partition {
    settings: Settings,
    share: Share,
    assignment: u64,
    epoch: u32,
    phase: Phase,
    live_at: LogPosition,
    /// The position: the last record taken.
    position: LogPosition,
    now: Millis,
    read_states: read_states::ReadStates,
    channels: channels::Channels,
    /// Channels of which something is waiting for a load.
    queues: HashMap<ChannelId, Queue>,
    /// Emptied, for the next channels in which something waits.
    spare_queues: Vec<Queue>,
    pending_loads: HashMap<LoadToken, Pending>,
    slow_loads_due: Millis,
    last_token: u64,
    /// Records that wait, each by its place.
    waiting: BTreeSet<LogPosition>,
    requests: Requests,
    /// What waits until the position has come to a place.
    later: BTreeMap<LogPosition, Vec<Later>>,
    /// Stamps up to here are void for rows: a fresh entry was evicted since.
    rows_void_up_to: Option<Millis>,
    /// Stamps up to here are void altogether: another owner was further.
    stamps_void_up_to: Option<Millis>,
    read_state_writes: usize,
    channel_writes: usize,
    position_stored: LogPosition,
    position_sent: Option<LogPosition>,
    position_sent_at: Option<Millis>,
    is_congested: bool,
    counters: Counters,
}

impl Partition {
    /// A partition whose records follow from just after `durable`, the stored position. It is live once it has taken
    /// the record before `live_at`. Its read states are kept in `cache`, beside those of others.
    pub fn new(
        settings: Settings,
        share: Share,
        cache: ReadStateCache,
        assignment: u64,
        durable: LogPosition,
        live_at: Offset,
    ) -> Self {
        let epoch = durable.epoch();
        let live_at = match live_at.0.checked_sub(1) {
            Some(last) => LogPosition::new(epoch, Offset(last)),
            None => LogPosition::start(epoch),
        };
        Partition {
            settings,
            share,
            assignment,
            epoch,
            phase: if durable >= live_at {
                Phase::Live
            } else {
                Phase::CatchingUp
            },
            live_at,
            position: durable,
            now: Millis::default(),
            read_states: read_states::ReadStates::new(cache, durable, settings.planted),
            channels: channels::Channels::new(settings.planted),
            queues: HashMap::new(),
            spare_queues: Vec::new(),
            pending_loads: HashMap::new(),
            slow_loads_due: Millis::default(),
            last_token: 0,
            waiting: BTreeSet::new(),
            requests: Requests::default(),
            later: BTreeMap::new(),
            rows_void_up_to: None,
            stamps_void_up_to: None,
            read_state_writes: 0,
            channel_writes: 0,
            position_stored: durable,
            position_sent: None,
            position_sent_at: None,
            is_congested: false,
            counters: Counters::default(),
        }
    }

    /// Takes one input at a time that never goes back, and appends what is to be done about it.
    pub fn handle(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        self.now = now;
        match (self.phase, input) {
            (Phase::Draining | Phase::Drained, Input::Record { .. } | Input::CaughtUp { .. }) => {}
            (_, Input::Record { offset, event }) => self.take_record(offset, event, out),
            (_, Input::CaughtUp { next }) => self.take_end(next, out),
            (_, Input::Get(get)) => self.take_get(get, out),
            (_, Input::Overview(overview)) => self.take_overview(overview, out),
            (_, Input::TakeStamp(request)) => self.give_stamp(request, out),
            (_, Input::Loaded { token, row }) => self.take_row(token, row, out),
            (_, Input::LoadFailed { token }) => self.take_load_failure(token, out),
            (_, Input::Written(key)) => self.take_acknowledgement(key),
            (_, Input::PositionStored(position)) => self.take_stored_position(position),
            (_, Input::Tick) => {
                self.answer_past_slow_loads(out);
                self.expire(out);
            }
            (Phase::CatchingUp | Phase::Live, Input::Drain) => self.phase = Phase::Draining,
            (Phase::Draining | Phase::Drained, Input::Drain) => {}
        }
    }

    /// Has the processor fetch what these records will need, for all of them at once: most of the time that a record
    /// takes is spent on waiting for memory.
    pub fn prefetch<'a>(&self, events: impl Iterator<Item = &'a Event> + Clone) {
        let keys = events.clone().flat_map(|event| {
            let channel = event.channel;
            users_named(&event.kind).map(move |user| ReadStateKey { user, channel })
        });
        self.read_states.prefetch(keys);
        let channels = events
            .clone()
            .map(|event| (event.channel, needed_of_channel(&event.kind)));
        self.channels.prefetch(channels);
        let authors = events.flat_map(|event| {
            let channel = event.channel;
            let messages = messages_changed(&event.kind).iter();
            messages.filter_map(move |message| {
                let user = self.channels.recent_author(channel, *message)?;
                Some(ReadStateKey { user, channel })
            })
        });
        self.read_states.prefetch(authors);
        if let Some(changed_by) = self.due_by() {
            self.prefetch_next_writes(changed_by);
        }
    }

    /// The same for the read states that will be written next.
    fn prefetch_next_writes(&self, changed_by: Millis) {
        let room = self.settings.read_state_writes_max - self.read_state_writes;
        self.read_states.prefetch_next_writes(changed_by, room);
    }

    /// Does what is due after a batch of inputs: writes, evictions. Call it after each batch and now and then.
    pub fn settle(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.now = now;
        self.read_states.tick(now);
        self.write_what_is_due(out);
        self.store_position(out);
        self.evict();
        self.weigh_congestion();
        self.finish_draining(out);
    }

    /// Gives the partition another share of the instance's capacity.
    pub fn set_share(&mut self, share: Share) {
        self.share = share;
    }

    /// The position in the store: every record up to there is in it.
    pub fn stored(&self) -> LogPosition {
        self.position_stored
    }

    /// Whether records should be kept back: too much is not in the store yet, or waits for it.
    pub fn is_congested(&self) -> bool {
        self.is_congested
    }

    /// Whether something waits for a row that the store failed to give.
    pub fn has_failed_loads(&self) -> bool {
        self.queues.values().any(Queue::is_failing)
    }

    /// Where the partition stands in its life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which ownership of the partition this is.
    pub fn assignment(&self) -> u64 {
        self.assignment
    }

    /// The last record taken.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// The last record taken that nothing before is waiting for.
    pub fn applied(&self) -> LogPosition {
        self.waiting.first().map_or(self.position, |first| first.before())
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How the partition stands. Takes a while: for people, and not for each batch.
    pub fn standing(&self) -> Standing {
        let oldest = [
            self.read_states.oldest_change_at(),
            self.channels.oldest_change_at(),
        ];
        Standing {
            applied: self.applied(),
            durable: self.position_stored,
            oldest_change_at: oldest.into_iter().flatten().min(),
            read_states_cached: self.read_states.len(),
            channels_cached: self.channels.len(),
            channel_bytes_cached: self.channels.weight_bytes(),
            dirty: self.dirty_len(),
            waiting_records: self.waiting.len(),
        }
    }

    /// Every record up to here is in the store: just before the oldest change that is not acknowledged, be it queued,
    /// staged, under way, or waiting for a load (invariant 5).
    pub fn durable(&self) -> LogPosition {
        let oldest_waiting = self
            .waiting
            .first()
            .copied()
            .filter(|_| !self.is_planted(Bug::DurablePastWaiting));
        let oldest = [
            self.read_states.oldest_unacknowledged(),
            self.channels.oldest_unacknowledged(),
            oldest_waiting,
        ];
        match oldest.into_iter().flatten().min() {
            Some(oldest) if self.is_planted(Bug::DurableOneTooFar) => oldest,
            Some(oldest) => oldest.before(),
            None => self.position,
        }
    }

    fn is_planted(&self, bug: Bug) -> bool {
        self.settings.planted.is(bug)
    }

    fn dirty_len(&self) -> usize {
        self.read_states.dirty_len() + self.channels.dirty_len()
    }

    fn take_end(&mut self, next: Offset, out: &mut Vec<Effect>) {
        let end = match next.0.checked_sub(1) {
            Some(last) => LogPosition::new(self.epoch, Offset(last)),
            None => LogPosition::start(self.epoch),
        };
        if end > self.position {
            self.counters.ends_passed += 1;
        }
        self.move_to(end, out);
    }

    /// The position has come to `position`, if it was before it.
    fn move_to(&mut self, position: LogPosition, out: &mut Vec<Effect>) {
        self.position = self.position.max(position);
        if self.phase == Phase::CatchingUp && self.position >= self.live_at {
            self.phase = Phase::Live;
        }
        while self
            .later
            .first_key_value()
            .is_some_and(|(place, _)| *place <= self.position)
        {
            let Some((_, later)) = self.later.pop_first() else {
                break;
            };
            for later in later {
                self.resume(later, out);
            }
        }
    }

    fn take_acknowledgement(&mut self, key: WriteKey) {
        match key {
            WriteKey::ReadState(key, applied) => {
                self.read_state_writes -= 1;
                self.read_states.written(key, applied, self.now);
            }
            WriteKey::Node(key, version) => {
                self.channel_writes -= 1;
                self.channels.node_written(key, version);
            }
            WriteKey::Head(channel, applied) => {
                self.channel_writes -= 1;
                self.channels.head_written(channel, applied, self.now);
            }
            WriteKey::DeleteNodesBelow(..) => self.channel_writes -= 1,
        }
    }

    /// What was changed up to then is to be written, if anything is.
    fn due_by(&self) -> Option<Millis> {
        if self.is_in_haste() {
            return Some(Millis(u64::MAX));
        }
        self.now.0.checked_sub(self.settings.write_delay_ms).map(Millis)
    }

    /// Read states, then nodes, then heads (invariant 3).
    fn write_what_is_due(&mut self, out: &mut Vec<Effect>) {
        let Some(changed_by) = self.due_by() else {
            return self.write_channels(out);
        };
        self.prefetch_next_writes(changed_by);
        self.channels.prefetch_next_staged(changed_by);
        while self.read_state_writes < self.settings.read_state_writes_max {
            let Some((key, slot)) = self.read_states.next_write(changed_by, self.now) else {
                break;
            };
            self.read_state_writes += 1;
            out.push(Effect::Write(Write::ReadState(key, self.read_states.at(slot))));
        }
        while self.channels.stage_next(changed_by) {}
        self.write_channels(out);
    }

    fn write_channels(&mut self, out: &mut Vec<Effect>) {
        let room = self.settings.channel_writes_max - self.channel_writes;
        let oldest_read_state = self.read_states.oldest_unacknowledged();
        self.channels.prefetch_next_writes(oldest_read_state, room);
        for _ in 0..room {
            let Some(write) = self.channels.next_write(oldest_read_state) else {
                break;
            };
            self.channel_writes += 1;
            out.push(Effect::Write(write));
        }
    }

    /// Whether changes are written without waiting for `write_delay`: the partition is given up, or what is changed
    /// takes the room of what is needed.
    fn is_in_haste(&self) -> bool {
        self.phase >= Phase::Draining
            || self.dirty_len() > self.share.dirty / 2
            || self.read_states.is_pressed()
            || self.channels.is_pressed(self.share.channel_bytes)
    }

    fn store_position(&mut self, out: &mut Vec<Effect>) {
        if self.position_sent.is_some() {
            return;
        }
        let durable = self.durable();
        let next_at = self
            .position_sent_at
            .map_or(0, |at| at.0 + self.settings.position_interval_ms);
        let is_time = self.now.0 >= next_at || self.phase == Phase::Draining;
        if durable > self.position_stored && is_time {
            self.position_sent = Some(durable);
            self.position_sent_at = Some(self.now);
            out.push(Effect::StorePosition(durable));
        }
    }

    fn take_stored_position(&mut self, position: LogPosition) {
        self.position_stored = self.position_stored.max(position);
        self.position_sent = None;
    }

    fn evict(&mut self) {
        let queues = &self.queues;
        let is_waited_for = |channel: ChannelId| queues.contains_key(&channel);
        let (channels, is_head_fresh) =
            self.channels
                .evict(self.share.channel_bytes, self.now, is_waited_for);
        let is_fresh = self.read_states.evict(self.now);
        self.counters.read_states_evicted = self.read_states.evicted();
        self.counters.channels_evicted += channels;
        self.counters.fresh_evictions += u64::from(is_fresh || is_head_fresh);
        if is_head_fresh {
            self.rows_void_up_to = Some(self.now);
        }
    }

    fn weigh_congestion(&mut self) {
        let (dirty, waiting) = (self.dirty_len(), self.waiting.len());
        let (dirty_max, waiting_max) = (self.share.dirty, self.settings.waiting_records_max);
        let was_congested = self.is_congested;
        self.is_congested = match was_congested {
            false => dirty > dirty_max || waiting > waiting_max,
            true => dirty > dirty_max / 2 || waiting > waiting_max / 2,
        };
        self.counters.congestions += u64::from(!was_congested && self.is_congested);
    }

    fn finish_draining(&mut self, out: &mut Vec<Effect>) {
        let is_written = self.dirty_len() == 0 && self.channel_writes == 0 && !self.channels.has_writes();
        if self.phase == Phase::Draining && is_written && self.position_stored >= self.durable() {
            self.phase = Phase::Drained;
            out.push(Effect::Drained);
        }
    }

    /// Checks what must always hold; for tests.
    pub fn check(&self) {
        self.read_states.check();
        self.channels.check();
        for queue in self.queues.values() {
            queue.check();
        }
        let waiting: usize = self.queues.values().map(Queue::records).sum();
        assert_eq!(
            waiting,
            self.waiting.len(),
            "each waiting record is in the frontier once"
        );
        assert!(self.durable() <= self.position, "invariant 5");
    }
}
