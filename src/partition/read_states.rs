//! The read states of a partition: those that are cached, and those that are not in the store yet.

use std::collections::{BTreeSet, VecDeque};

use super::cache::{InChannel, PinnedLru, Weigh};
use super::io::{Kept, Millis, Row};
use crate::model::ids::{ChannelId, LogPosition, ReadStateKey, UserId};
use crate::model::planted::{Bug, Planted};
use crate::model::read_state::ReadState;

/// How long the store may go on showing what was there before, to a read that began earlier: rows that an overview
/// read are taken for so long, and new read states are added to it for so long.
pub const STAMP_LIFE_MS: u64 = 5000;

struct Entry {
    state: ReadState,
    /// When it was loaded or last acknowledged.
    settled_at: Millis,
    /// The store has a row of it.
    stored: bool,
    dirty: Option<Dirty>,
}

/// Changes that the store has not acknowledged.
struct Dirty {
    /// The oldest of them.
    since: LogPosition,
    /// When that was made.
    changed_at: Millis,
    in_flight: Option<InFlight>,
}

/// A write under way.
struct InFlight {
    applied: LogPosition,
    /// The first change since it was sent.
    next: Option<(LogPosition, Millis)>,
}

impl InChannel for ReadStateKey {
    fn channel(&self) -> ChannelId {
        self.channel
    }
}

impl Weigh for Entry {
    fn weight(&self) -> usize {
        1
    }
}

/// Cached read states, with write-behind. A changed one stays until the store has acknowledged it (invariant 7).
#[derive(Default)]
pub struct ReadStates {
    cache: PinnedLru<ReadStateKey, Entry>,
    /// First changes in the order they were made: when each is due. Entries that are no longer true are passed over.
    queue: VecDeque<(Millis, LogPosition, ReadStateKey)>,
    unacknowledged: BTreeSet<(LogPosition, ReadStateKey)>,
    /// Read states of which a read of the store that is still used may not have shown a row.
    unseen: BTreeSet<(UserId, ChannelId)>,
    /// When those that are in the store by now can be taken out of `unseen`.
    seen_from: VecDeque<(Millis, ReadStateKey)>,
    /// What was durable when the partition was assigned: read states up to here were in the store before any stamp.
    stored_up_to: LogPosition,
    planted: Planted,
}

impl ReadStates {
    pub fn new(durable: LogPosition, planted: Planted) -> Self {
        ReadStates {
            stored_up_to: durable,
            planted,
            ..ReadStates::default()
        }
    }

    pub fn get(&mut self, key: &ReadStateKey) -> Option<&ReadState> {
        self.cache.get(key).map(|entry| &entry.state)
    }

    pub fn contains(&self, key: &ReadStateKey) -> bool {
        self.cache.peek(key).is_some()
    }

    /// The read state, and how it stands to the store.
    pub fn explain(&self, key: &ReadStateKey, now: Millis) -> Option<(ReadState, Row)> {
        let entry = self.cache.peek(key)?;
        let (kept, since) = match &entry.dirty {
            Some(Dirty {
                in_flight: Some(_),
                changed_at,
                ..
            }) => (Kept::Writing, *changed_at),
            Some(dirty) => (Kept::Changed, dirty.changed_at),
            None if entry.stored => (Kept::Stored, entry.settled_at),
            None => (Kept::Nowhere, entry.settled_at),
        };
        let row = Row {
            applied: entry.state.applied,
            kept,
            age_ms: now.0.saturating_sub(since.0),
        };
        Some((entry.state.clone(), row))
    }

    /// Takes a row as the store has it. Another owner may have written it just now, after an overview read the store.
    pub fn put_loaded(&mut self, key: ReadStateKey, row: Option<ReadState>, now: Millis) {
        let is_later = |row: &ReadState| row.applied > self.stored_up_to;
        if row.as_ref().is_some_and(is_later) && !self.planted.is(Bug::OverviewFromStoreOnly) {
            self.unseen.insert((key.user, key.channel));
            self.seen_from.push_back((Millis(now.0 + STAMP_LIFE_MS), key));
        }
        let entry = Entry {
            stored: row.is_some(),
            state: row.unwrap_or_default(),
            settled_at: now,
            dirty: None,
        };
        self.cache.put(key, entry, false);
    }

    /// Makes the one change of the record at `at` to a read state, which must be cached. Skipped if the row has it
    /// already (invariant 4). Returns whether it was skipped.
    pub fn change(
        &mut self,
        key: ReadStateKey,
        at: LogPosition,
        now: Millis,
        change: impl FnOnce(&mut ReadState),
    ) -> bool {
        let planted = self.planted;
        let outcome = self.cache.update(&key, |entry| {
            if entry.state.applied >= at && !planted.is(Bug::ReplayNotSkipped) {
                return Outcome::Skipped;
            }
            let mut next = entry.state.clone();
            change(&mut next);
            if entry.state.exists() && next == entry.state {
                return Outcome::Unchanged;
            }
            next.applied = at;
            entry.state = next;
            let stored = entry.stored;
            match &mut entry.dirty {
                None => {
                    entry.dirty = Some(Dirty {
                        since: at,
                        changed_at: now,
                        in_flight: None,
                    });
                    Outcome::FirstChange { stored }
                }
                Some(Dirty {
                    in_flight: Some(in_flight),
                    ..
                }) => {
                    in_flight.next.get_or_insert((at, now));
                    Outcome::Unchanged
                }
                Some(_) => Outcome::Unchanged,
            }
        });
        match outcome.unwrap_or_else(|| unreachable!("{key:?} is changed but not cached")) {
            Outcome::Skipped => return true,
            Outcome::Unchanged => {}
            Outcome::FirstChange { stored } => {
                self.cache.pin(&key);
                self.queue.push_back((now, at, key));
                self.unacknowledged.insert((at, key));
                if !stored && !self.planted.is(Bug::OverviewFromStoreOnly) {
                    self.unseen.insert((key.user, key.channel));
                }
            }
        }
        false
    }

    /// The next row to write whose first change was made at or before `changed_by`.
    pub fn next_write(&mut self, changed_by: Millis) -> Option<(ReadStateKey, ReadState)> {
        while let Some((changed_at, since, key)) = self.queue.front().copied() {
            let waiting = self.cache.peek(&key).and_then(|entry| entry.dirty.as_ref());
            if !waiting.is_some_and(|dirty| dirty.since == since && dirty.in_flight.is_none()) {
                self.queue.pop_front();
                continue;
            }
            if changed_at > changed_by {
                return None;
            }
            self.queue.pop_front();
            return self.cache.update(&key, |entry| {
                if let Some(dirty) = &mut entry.dirty {
                    dirty.in_flight = Some(InFlight {
                        applied: entry.state.applied,
                        next: None,
                    });
                }
                (key, entry.state.clone())
            });
        }
        None
    }

    /// The store has the row as it was at `applied`. Ignored if no such write is under way any more.
    pub fn written(&mut self, key: ReadStateKey, applied: LogPosition, now: Millis) {
        let planted = self.planted;
        let acknowledged = self.cache.update(&key, |entry| {
            let dirty = entry.dirty.as_mut()?;
            let in_flight = dirty
                .in_flight
                .take_if(|in_flight| in_flight.applied == applied)?;
            let since = dirty.since;
            let first_write = !std::mem::replace(&mut entry.stored, true);
            entry.settled_at = now;
            let next = in_flight.next.filter(|_| !planted.is(Bug::AckClearsNewerChange));
            entry.dirty = next.map(|(since, changed_at)| Dirty {
                since,
                changed_at,
                in_flight: None,
            });
            Some((since, next, first_write))
        });
        let Some((since, next, first_write)) = acknowledged.flatten() else {
            return;
        };
        self.unacknowledged.remove(&(since, key));
        match next {
            None => self.cache.unpin(&key),
            Some((since, changed_at)) => {
                self.queue.push_back((changed_at, since, key));
                self.unacknowledged.insert((since, key));
            }
        }
        if first_write {
            self.seen_from.push_back((Millis(now.0 + STAMP_LIFE_MS), key));
        }
    }

    /// Drops all rows of a channel, changed ones too: the store has them, and further (invariant 8).
    pub fn forget_channel(&mut self, channel: ChannelId, now: Millis) {
        for key in self.cache.keys_in(channel) {
            let Some(entry) = self.cache.remove(&key) else {
                continue;
            };
            if let Some(dirty) = entry.dirty {
                self.unacknowledged.remove(&(dirty.since, key));
            }
            if !entry.stored {
                self.seen_from.push_back((Millis(now.0 + STAMP_LIFE_MS), key));
            }
        }
    }

    /// Evicts until at most `capacity` are cached, as far as clean ones go that no record waits for. Returns how many
    /// were evicted, and whether one of them was so fresh that rows read from the store before now can't be trusted.
    pub fn evict(
        &mut self,
        capacity: usize,
        now: Millis,
        is_waited_for: impl Fn(ChannelId) -> bool,
    ) -> (u64, bool) {
        let (mut evicted, mut fresh) = (0, false);
        let mut kept = Vec::new();
        while self.cache.len() + kept.len() > capacity {
            if self.planted.is(Bug::DirtyEvicted) && self.cache.pinned_len() > 0 {
                self.evict_dirty();
            }
            let Some((key, entry)) = self.cache.pop_coldest() else {
                break;
            };
            if is_waited_for(key.channel) {
                kept.push((key, entry));
                if kept.len() >= WAITED_FOR_SKIPPED_MAX {
                    break;
                } else {
                    continue;
                }
            }
            evicted += 1;
            fresh |= entry.settled_at.0 + STAMP_LIFE_MS > now.0;
        }
        for (key, entry) in kept {
            self.cache.put(key, entry, false);
        }
        (evicted, fresh)
    }

    fn evict_dirty(&mut self) {
        if let Some((_, key)) = self.unacknowledged.pop_first() {
            self.cache.remove(&key);
        }
    }

    /// Channels in which the user has a read state that a read of the store may not have shown.
    pub fn unseen_of(
        &self,
        user: UserId,
        above: ChannelId,
        up_to: ChannelId,
    ) -> impl Iterator<Item = ChannelId> {
        use std::ops::Bound::{Excluded, Included};
        let from = if above < up_to {
            Excluded((user, above))
        } else {
            Excluded((user, up_to))
        };
        self.unseen
            .range((from, Included((user, up_to))))
            .map(|(_, channel)| *channel)
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Millis) {
        while let Some((_, key)) = self.seen_from.pop_front_if(|(from, _)| *from < now) {
            if self.cache.peek(&key).is_none_or(|entry| entry.stored) {
                self.unseen.remove(&(key.user, key.channel));
            }
        }
    }

    /// The oldest change that is not acknowledged.
    pub fn oldest_unacknowledged(&self) -> Option<LogPosition> {
        self.unacknowledged.first().map(|(since, _)| *since)
    }

    /// When the oldest change that waits to be written was made.
    pub fn oldest_change_at(&self) -> Option<Millis> {
        let (_, key) = self.unacknowledged.first()?;
        Some(self.cache.peek(key)?.dirty.as_ref()?.changed_at)
    }

    /// How many are changed and not acknowledged.
    pub fn dirty_len(&self) -> usize {
        self.unacknowledged.len()
    }

    /// How many are cached.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether more than `capacity` are cached and nothing of it can leave before it is written.
    pub fn is_pressed(&self, capacity: usize) -> bool {
        self.cache.len() > capacity && self.cache.pinned_len() > 0
    }

    /// Checks what must always hold; for tests.
    pub fn check(&self) {
        let dirty = self
            .cache
            .keys()
            .filter(|key| self.cache.peek(key).is_some_and(|entry| entry.dirty.is_some()));
        assert_eq!(
            dirty.count(),
            self.unacknowledged.len(),
            "each changed read state is in the frontier once"
        );
        assert_eq!(
            self.cache.pinned_len(),
            self.unacknowledged.len(),
            "what is pinned is what is changed"
        );
    }
}

/// How many entries that something waits for an eviction passes over before it gives up for now.
const WAITED_FOR_SKIPPED_MAX: usize = 16;

enum Outcome {
    Skipped,
    Unchanged,
    FirstChange { stored: bool },
}
