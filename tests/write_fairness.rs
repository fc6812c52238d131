//! Proves on a partition alone, with a store that takes its time: what changes all the time does not keep other rows from
//! being written, nor its own. Each change is in the store a bound after it was made, whatever else changes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap, VecDeque};

use readstates::model::event::{Event, EventKind, Mentions};
use readstates::model::ids::{ChannelId, LogPosition, MessageId, Offset, ReadStateKey, UserId};
use readstates::partition::io::{Effect, Input, LoadKey, LoadedRow, Millis, WriteKey};
use readstates::partition::{Partition, ReadStateCache, Settings, Share};

const WRITE_DELAY_MS: u64 = 2_000;
/// How long the store takes for a row.
const STORE_TAKES_MS: u64 = 20;
/// What a row may wait for besides its delay: others that are due, and the store.
const SPARE_MS: u64 = 200;
const STEP_MS: u64 = 5;
/// Channels in which something happens in each step.
const HOT_CHANNELS: u64 = 40;
/// Messages of a hot channel that are edited again and again, over several of its blocks.
const EDITED_MESSAGES: u64 = 2_000;
/// Something happens in a quiet channel, each time in another one.
const QUIET_EVERY_MS: u64 = 100;
const RUN_MS: u64 = 20_000;

/// A row, whatever its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RowKey {
    ReadState(ReadStateKey),
    Head(ChannelId),
}

struct Driven {
    partition: Partition,
    now: Millis,
    offset: u64,
    effects: Vec<Effect>,
    /// Rows on their way, and when the store has them.
    under_way: VecDeque<(Millis, Input)>,
    /// Changes that the store does not have, and when they were made.
    missing: HashMap<RowKey, BTreeMap<LogPosition, Millis>>,
    /// The longest that a change waited, of hot and of quiet rows.
    longest_ms: HashMap<&'static str, u64>,
    rows_written: u64,
}

fn is_hot(channel: ChannelId) -> bool {
    channel.0 <= HOT_CHANNELS
}

impl Driven {
    fn new(dirty_max: usize) -> Self {
        let settings = Settings {
            write_delay_ms: WRITE_DELAY_MS,
            ..Settings::default()
        };
        let share = Share {
            channel_bytes: 1 << 30,
            dirty: dirty_max,
        };
        let cache = ReadStateCache::new(100_000);
        Driven {
            partition: Partition::new(settings, share, cache, 1, LogPosition::start(0), Offset(0)),
            now: Millis(1_000_000),
            offset: 0,
            effects: Vec::new(),
            under_way: VecDeque::new(),
            missing: HashMap::new(),
            longest_ms: HashMap::new(),
            rows_written: 0,
        }
    }

    /// A record that changes these rows.
    fn take(&mut self, channel: ChannelId, kind: EventKind, rows: &[RowKey]) {
        let offset = Offset(self.offset);
        self.offset += 1;
        let at = LogPosition::new(0, offset);
        for row in rows {
            self.missing.entry(*row).or_default().insert(at, self.now);
        }
        let event = Some(Event { channel, kind });
        self.partition
            .handle(self.now, Input::Record { offset, event }, &mut self.effects);
        self.do_effects();
    }

    fn created(&mut self, channel: ChannelId, author: UserId, message: MessageId) {
        let kind = EventKind::MessageCreated {
            message,
            author: Some(author),
            mentions: Mentions::default(),
        };
        let state = RowKey::ReadState(ReadStateKey {
            user: author,
            channel,
        });
        self.take(channel, kind, &[state, RowKey::Head(channel)]);
    }

    fn edited(&mut self, channel: ChannelId, message: MessageId, everyone: bool) {
        let mentions = Mentions::new(Vec::new(), everyone);
        let kind = EventKind::MessageUpdated { message, mentions };
        self.take(channel, kind, &[RowKey::Head(channel)]);
    }

    fn step(&mut self) {
        self.now.0 += STEP_MS;
        while let Some((_, input)) = self.under_way.pop_front_if(|(at, _)| *at <= self.now) {
            if let Input::Written(key) = &input {
                self.note_written(key);
            }
            self.partition.handle(self.now, input, &mut self.effects);
            self.do_effects();
        }
        self.partition.settle(self.now, &mut self.effects);
        self.do_effects();
    }

    fn note_written(&mut self, key: &WriteKey) {
        self.rows_written += 1;
        let (row, applied) = match key {
            WriteKey::ReadState(key, applied) => (RowKey::ReadState(*key), *applied),
            WriteKey::Head(channel, applied) => (RowKey::Head(*channel), *applied),
            WriteKey::Node(..) | WriteKey::DeleteNodesBelow(..) => return,
        };
        let Some(missing) = self.missing.get_mut(&row) else {
            return;
        };
        let kind = match row {
            RowKey::ReadState(key) if is_hot(key.channel) => "hot read state",
            RowKey::ReadState(_) => "quiet read state",
            RowKey::Head(channel) if is_hot(channel) => "hot head",
            RowKey::Head(_) => "quiet head",
        };
        let longest_ms = self.longest_ms.entry(kind).or_default();
        while let Some(change) = missing.first_entry().filter(|change| *change.key() <= applied) {
            *longest_ms = (*longest_ms).max(self.now.0 - change.remove().0);
        }
    }

    fn do_effects(&mut self) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                let due = Millis(self.now.0 + STORE_TAKES_MS);
                match effect {
                    Effect::Load { token, key, .. } => {
                        let row = match key {
                            LoadKey::ReadState(_) => LoadedRow::ReadState(None),
                            LoadKey::Head(_) => LoadedRow::Head(None),
                            LoadKey::Node(..) => panic!("all nodes are cached: {key:?}"),
                        };
                        let input = Input::Loaded { token, row };
                        self.partition.handle(self.now, input, &mut self.effects);
                    }
                    Effect::Write(write) => self.under_way.push_back((due, Input::Written(write.key()))),
                    Effect::StorePosition(position) => {
                        self.under_way.push_back((due, Input::PositionStored(position)));
                    }
                    Effect::Reply { .. } | Effect::Drained => {}
                }
            }
        }
    }

    /// Hot channels change in each step: head, blocks, pages, and the read state of who writes. Now and then one
    /// message of somebody in a quiet channel.
    fn run(&mut self) {
        for channel in (1..=HOT_CHANNELS).map(ChannelId) {
            (1..=EDITED_MESSAGES).for_each(|id| self.created(channel, UserId(channel.0), MessageId(id)));
        }
        self.missing.clear();
        let end = Millis(self.now.0 + RUN_MS);
        let mut steps = 0;
        while self.now < end {
            steps += 1;
            for channel in (1..=HOT_CHANNELS).map(ChannelId) {
                self.created(channel, UserId(channel.0), MessageId(EDITED_MESSAGES + steps));
                let edited = MessageId(1 + steps * 131 % EDITED_MESSAGES);
                self.edited(channel, edited, steps.is_multiple_of(2));
            }
            if self.now.0.is_multiple_of(QUIET_EVERY_MS) {
                self.created(ChannelId(1_000_000 + steps), UserId(7), MessageId(1));
            }
            self.step();
        }
        // What has waited until now and is not written counts as well.
        for (row, missing) in &self.missing {
            for made_at in missing.values() {
                let (kind, allowed_ms) = match row {
                    RowKey::ReadState(_) => ("a read state", WRITE_DELAY_MS + SPARE_MS),
                    RowKey::Head(_) => ("a head", 2 * WRITE_DELAY_MS + SPARE_MS),
                };
                let waits_ms = self.now.0 - made_at.0;
                assert!(
                    waits_ms <= allowed_ms,
                    "{kind}, {row:?}: not written after {waits_ms} ms"
                );
            }
        }
        println!(
            "{} rows written; longest ms: {:?}",
            self.rows_written, self.longest_ms
        );
    }

    fn check(&self, kind: &str, allowed_ms: u64) {
        let longest_ms = self.longest_ms.get(kind).copied();
        assert!(
            longest_ms.is_some_and(|longest_ms| longest_ms <= allowed_ms),
            "{kind}: a change waited for {longest_ms:?} ms, more than {allowed_ms}"
        );
    }
}

/// A head is due after the delay, and then waits for read states that were changed before, which are due a delay later.
#[test]
fn rows_that_change_all_the_time_hold_up_no_others_and_are_written_themselves() {
    let mut driven = Driven::new(1_000_000);
    driven.run();
    for kind in ["hot read state", "quiet read state"] {
        driven.check(kind, WRITE_DELAY_MS + SPARE_MS);
    }
    for kind in ["hot head", "quiet head"] {
        driven.check(kind, 2 * WRITE_DELAY_MS + SPARE_MS);
    }
}

/// More is changed than there is room for, so that all is written at once, and what is hot is due again at once: the store
/// is never idle. A hot head waits until all that belongs to the other hot ones is written, twice.
#[test]
fn in_haste_as_well() {
    let mut driven = Driven::new(20);
    driven.run();
    for kind in ["hot read state", "quiet read state", "quiet head"] {
        driven.check(kind, SPARE_MS);
    }
    driven.check("hot head", 1_000);
}
