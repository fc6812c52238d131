//! The read states of a partition: those that are cached, and those that are not in the store yet.

use std::cell::RefCell;
use std::rc::Rc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::changes::{Changes, Left};
use super::io::{Kept, Millis, Row};
use super::slab::{Slab, Slot, Tenant, Time};
use super::unseen::Unseen;
use crate::model::ids::{ChannelId, LogPosition, ReadStateKey, UserId};
use crate::model::planted::{Bug, Planted};
use crate::model::read_state::ReadState;

/// How long the store may go on showing what was there before, to a read that began earlier: rows that an overview
/// read are taken for so long, and new read states are added to it for so long.
pub const STAMP_LIFE_MS: u64 = 5000;
/// Channels that were forgotten, until their old entries are looked for.
const FORGOTTEN_MAX: usize = 65_536;
/// How often a channel is forgotten until then.
const GENERATIONS_MAX: usize = 16;

/// Room for read states that the partitions of a thread share: what one does not use is there for the others.
#[derive(Clone)]
pub struct ReadStateCache(Rc<RefCell<Slab>>);

impl ReadStateCache {
    /// For so many.
    pub fn new(capacity: usize) -> Self {
        ReadStateCache(Rc::new(RefCell::new(Slab::new(capacity))))
    }

    /// Keeps so many from now on.
    pub fn set_capacity(&self, capacity: usize) {
        self.0.borrow_mut().set_capacity(capacity);
    }
}

/// Cached read states, with write-behind. A changed one stays until the store has acknowledged it (invariant 7).
pub struct ReadStates {
    cache: ReadStateCache,
    /// Whose entries the cached ones are. Those of a channel that was forgotten are of the next generation each time, so
    /// that what was there before is not found any more.
    generations: Vec<Tenant>,
    /// Of channels that were forgotten: their generation.
    forgotten: HashMap<ChannelId, usize>,
    changes: Changes,
    /// Entries that must not leave, by channel: something waits there.
    held: HashMap<ChannelId, SmallVec<[Slot; 4]>>,
    /// Read states of which a read of the store that is still used may not have shown a row: those that are new.
    new: Unseen,
    /// Those that were loaded and that another owner may have written just before. Apart, since they don't wait for a write.
    loaded: Unseen,
    /// What was durable when the partition was assigned: read states up to here were in the store before any stamp.
    stored_up_to: LogPosition,
    /// Of generations that are over.
    evicted_before: u64,
    planted: Planted,
}

impl Drop for ReadStates {
    fn drop(&mut self) {
        let mut slab = self.cache.0.borrow_mut();
        for slot in self.held.drain().flat_map(|(_, slots)| slots) {
            slab.release(slot);
        }
        slab.let_go(self.changes.slots());
        for tenant in &self.generations {
            slab.dismiss(*tenant);
        }
    }
}

impl ReadStates {
    pub fn new(cache: ReadStateCache, durable: LogPosition, planted: Planted) -> Self {
        let first = cache.0.borrow_mut().admit();
        ReadStates {
            cache,
            generations: vec![first],
            forgotten: HashMap::new(),
            changes: Changes::default(),
            held: HashMap::new(),
            new: Unseen::default(),
            loaded: Unseen::default(),
            stored_up_to: durable,
            evicted_before: 0,
            planted,
        }
    }

    fn tenant_of(&self, channel: ChannelId) -> Tenant {
        if self.forgotten.is_empty() {
            return self.generations[0];
        }
        self.generations[self.forgotten.get(&channel).copied().unwrap_or(0)]
    }

    fn peek(&self, key: &ReadStateKey) -> Option<Slot> {
        self.cache.0.borrow().peek(self.tenant_of(key.channel), key)
    }

    pub fn get(&mut self, key: &ReadStateKey) -> Option<ReadState> {
        let slot = self.find(key)?;
        Some(self.at(slot))
    }

    /// The read state in a slot.
    #[inline]
    pub fn at(&self, slot: Slot) -> ReadState {
        self.cache.0.borrow().state(slot)
    }

    /// Has the processor fetch what these are.
    pub fn prefetch(&self, keys: impl Iterator<Item = ReadStateKey>) {
        self.cache.0.borrow().prefetch(keys);
    }

    /// The same for those that [`ReadStates::next_write`] will give next.
    pub fn prefetch_next_writes(&self, changed_by: Millis, count: usize) {
        let slab = self.cache.0.borrow();
        let coming = self.changes.coming(Time::before(changed_by)).take(count);
        coming.for_each(|slot| slab.prefetch_slot(slot));
    }

    pub fn contains(&self, key: &ReadStateKey) -> bool {
        self.peek(key).is_some()
    }

    /// The read state, and how it stands to the store.
    pub fn explain(&self, key: &ReadStateKey, now: Millis) -> Option<(ReadState, Row)> {
        let slot = self.peek(key)?;
        let slab = self.cache.0.borrow();
        let (kept, since) = match slab.change_of(slot) {
            Some(change) if self.changes.is_in_flight(key) => {
                (Kept::Writing, self.changes.changed_at(change))
            }
            Some(change) => (Kept::Changed, self.changes.changed_at(change)),
            None if slab.is_stored(slot) => (Kept::Stored, slab.settled_at(slot)),
            None => (Kept::Nowhere, slab.settled_at(slot)),
        };
        let row = Row {
            applied: slab.applied(slot),
            kept,
            age_ms: now.0.saturating_sub(since.millis().0),
        };
        Some((slab.state(slot), row))
    }

    /// Takes a row as the store has it. Another owner may have written it just now, after an overview read the store.
    /// Where something waits in the channel it stays until [`ReadStates::release`].
    pub fn put_loaded(
        &mut self,
        key: ReadStateKey,
        row: Option<ReadState>,
        now: Millis,
        is_waited_for: bool,
    ) {
        let is_later = |row: &ReadState| row.applied > self.stored_up_to;
        if row.as_ref().is_some_and(is_later) && !self.planted.is(Bug::OverviewFromStoreOnly) {
            self.loaded.add(key);
            self.loaded.stored(key, now);
        }
        let (tenant, known) = (self.tenant_of(key.channel), self.peek(&key));
        let mut slab = self.cache.0.borrow_mut();
        if let Some(slot) = known {
            slab.remove(slot);
        }
        let is_stored = row.is_some();
        let slot = slab.insert(tenant, &key, &row.unwrap_or_default(), is_stored, Time::at(now));
        if is_waited_for {
            slab.hold(slot);
            self.held.entry(key.channel).or_default().push(slot);
        }
    }

    /// Nothing waits in the channel any more.
    pub fn release(&mut self, channel: ChannelId) {
        let Some(slots) = self.held.remove(&channel) else {
            return;
        };
        let mut slab = self.cache.0.borrow_mut();
        for slot in slots {
            slab.release(slot);
        }
    }

    /// The read state, if it is cached, until something is loaded or leaves.
    pub fn find(&mut self, key: &ReadStateKey) -> Option<Slot> {
        let tenant = self.tenant_of(key.channel);
        self.cache.0.borrow_mut().find(tenant, key)
    }

    /// Makes the one change of the record at `at` to a read state, which is in `slot`. Skipped if the row has it
    /// already (invariant 4). What is not applied yet begins at `not_before`. Returns whether it was skipped.
    pub fn change(
        &mut self,
        (key, slot): (ReadStateKey, Slot),
        (at, not_before): (LogPosition, LogPosition),
        now: Millis,
        change: impl FnOnce(&mut ReadState),
    ) -> bool {
        let mut slab = self.cache.0.borrow_mut();
        debug_assert_eq!(slab.owner(slot), (self.tenant_of(key.channel), key));
        if slab.applied(slot) >= at && !self.planted.is(Bug::ReplayNotSkipped) {
            return true;
        }
        if !slab.change(slot, at, change) {
            return false;
        }
        if slab.change_of(slot).is_some() {
            self.changes.change_again(&key, not_before, Time::at(now));
            return false;
        }
        let number = self.changes.add(not_before, Time::at(now), slot);
        slab.set_changed(slot, number);
        if !slab.is_stored(slot) && !self.planted.is(Bug::OverviewFromStoreOnly) {
            self.new.add(key);
        }
        false
    }

    /// The next row to write whose first change was made at or before `changed_by`, and where it is.
    pub fn next_write(&mut self, changed_by: Millis, now: Millis) -> Option<(ReadStateKey, Slot)> {
        while let Some(due) = self.changes.next_due(Time::before(changed_by)) {
            let mut slab = self.cache.0.borrow_mut();
            let (tenant, key) = slab.owner(due.slot);
            if tenant == self.tenant_of(key.channel) {
                if self.changes.keep_back(&key) {
                    continue;
                }
                self.changes.sent(key, &due, slab.applied(due.slot));
                return Some((key, due.slot));
            }
            self.changes.dropped(&due);
            if !slab.is_stored(due.slot) {
                self.new.stored(key, now);
            }
            slab.remove(due.slot);
        }
        None
    }

    /// The store has the row as it was at `applied`. Ignored if no such write is under way any more.
    pub fn written(&mut self, key: ReadStateKey, applied: LogPosition, now: Millis) {
        let keeps_newer = !self.planted.is(Bug::AckClearsNewerChange);
        let Some((slot, left)) = self.changes.written(&key, applied, keeps_newer) else {
            return;
        };
        let mut slab = self.cache.0.borrow_mut();
        match left {
            Left::Nothing => slab.set_settled(slot, Time::at(now)),
            Left::Change(number) => slab.set_changed(slot, number),
        }
        if !slab.is_stored(slot) {
            slab.set_stored(slot);
            self.new.stored(key, now);
        }
    }

    /// Drops all rows of a channel, changed ones too: the store has them, and further (invariant 8).
    pub fn forget_channel(&mut self, channel: ChannelId, now: Millis) {
        self.release(channel);
        if self.len() == 0 {
            return;
        }
        let mut slab = self.cache.0.borrow_mut();
        let under_way = self.changes.forget_in_flight(|key| key.channel == channel);
        for slot in under_way {
            let (_, key) = slab.owner(slot);
            if !slab.is_stored(slot) {
                self.new.stored(key, now);
            }
            slab.remove(slot);
        }
        let generation = self.forgotten.entry(channel).or_default();
        *generation += 1;
        if *generation == self.generations.len() {
            self.generations.push(slab.admit());
        }
        let is_enough = *generation == GENERATIONS_MAX || self.forgotten.len() > FORGOTTEN_MAX;
        drop(slab);
        if is_enough {
            self.clear_out(now);
        }
    }

    /// Takes out what was forgotten, and makes what is left one generation. Takes time in proportion to the cache.
    fn clear_out(&mut self, now: Millis) {
        let mut slab = self.cache.0.borrow_mut();
        let slots: Vec<Slot> = slab.slots().collect();
        for slot in slots {
            let (tenant, key) = slab.owner(slot);
            if !self.generations.contains(&tenant) {
                continue;
            }
            if tenant == self.tenant_of(key.channel) {
                slab.hand_over(slot, self.generations[0]);
                continue;
            }
            if let Some(change) = slab.change_of(slot) {
                self.changes.abandon(change);
                if !slab.is_stored(slot) {
                    self.new.stored(key, now);
                }
            }
            slab.remove(slot);
        }
        for tenant in self.generations.drain(1..) {
            self.evicted_before += slab.evicted_of(tenant);
            slab.dismiss(tenant);
        }
        self.forgotten.clear();
    }

    /// Lets what nobody used leave, as far as it is in the store and nothing waits for it, until no more is cached than
    /// there is room for. It may be another partition's. Returns whether so fresh an entry left that rows read from the
    /// store before now can't be trusted.
    pub fn evict(&mut self, now: Millis) -> bool {
        if self.planted.is(Bug::DirtyEvicted) && self.cache.0.borrow().is_overfull() {
            self.evict_dirty();
        }
        self.cache.0.borrow_mut().evict(now).is_fresh
    }

    fn evict_dirty(&mut self) {
        let Some(due) = self.changes.next_due(Time::before(Millis(u64::MAX))) else {
            return;
        };
        let (_, key) = self.cache.0.borrow().owner(due.slot);
        if !self.changes.keep_back(&key) {
            self.changes.dropped(&due);
            self.cache.0.borrow_mut().remove(due.slot);
        }
    }

    /// Rows that were read from the store up to here may be older than what was cached and evicted since.
    pub fn rows_void_up_to(&self) -> Option<Millis> {
        self.cache.0.borrow().fresh_evicted_at()
    }

    /// How many were evicted.
    pub fn evicted(&self) -> u64 {
        let slab = self.cache.0.borrow();
        let now: u64 = self
            .generations
            .iter()
            .map(|tenant| slab.evicted_of(*tenant))
            .sum();
        self.evicted_before + now
    }

    /// Channels in which the user has a read state that a read of the store may not have shown, some more than once.
    pub fn unseen_of(
        &self,
        user: UserId,
        above: ChannelId,
        up_to: ChannelId,
    ) -> impl Iterator<Item = ChannelId> {
        let new = self.new.channels_of(user, above, up_to);
        new.chain(self.loaded.channels_of(user, above, up_to))
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Millis) {
        self.new.tick(now);
        self.loaded.tick(now);
    }

    /// No change stands before this that is not acknowledged.
    pub fn oldest_unacknowledged(&self) -> Option<LogPosition> {
        self.changes.oldest()
    }

    /// When the oldest change that waits to be written was made.
    pub fn oldest_change_at(&self) -> Option<Millis> {
        self.changes.oldest_changed_at().map(Time::millis)
    }

    /// How many are changed and not acknowledged.
    pub fn dirty_len(&self) -> usize {
        self.changes.len()
    }

    /// How many are cached.
    pub fn len(&self) -> usize {
        let slab = self.cache.0.borrow();
        self.generations.iter().map(|tenant| slab.len_of(*tenant)).sum()
    }

    /// Whether more are cached than there is room for, and something of it can leave once it is written.
    pub fn is_pressed(&self) -> bool {
        self.changes.len() > 0 && self.cache.0.borrow().is_overfull()
    }

    /// Checks what must always hold; for tests.
    pub fn check(&self) {
        let slab = self.cache.0.borrow();
        let is_own = |slot: &Slot| self.generations.contains(&slab.owner(*slot).0);
        let mut changed: Vec<Slot> = slab
            .slots()
            .filter(is_own)
            .filter(|slot| slab.change_of(*slot).is_some())
            .collect();
        let mut noted: Vec<Slot> = self.changes.slots().collect();
        changed.sort_unstable();
        noted.sort_unstable();
        self.changes.check();
        assert_eq!(changed, noted, "each changed read state is noted once");
        assert_eq!(noted.len(), self.changes.len(), "as many as are counted");
        if !self.planted.is(Bug::OverviewFromStoreOnly) {
            let new = noted.iter().filter(|slot| !slab.is_stored(**slot));
            self.new.check(new.map(|slot| slab.owner(*slot).1));
            self.loaded.check(std::iter::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_waited_for_leaves_once_its_partition_is_gone() {
        let cache = ReadStateCache::new(1);
        let new = || ReadStates::new(cache.clone(), LogPosition::start(0), Planted::default());
        let key = |user| ReadStateKey {
            user: UserId(user),
            channel: ChannelId(1),
        };
        let mut former = new();
        former.put_loaded(key(1), None, Millis(0), true);
        drop(former);
        let mut next = new();
        next.put_loaded(key(2), None, Millis(0), false);
        next.evict(Millis(0));
        next.evict(Millis(0));
        assert!(!cache.0.borrow().is_overfull());
        next.put_loaded(key(3), None, Millis(0), false);
        next.evict(Millis(0));
        assert_eq!(cache.0.borrow().slots().count(), 1);
        assert_eq!(next.len(), 1, "what the former left has gone");
    }
}
