//! Read states in a slab of fixed capacity, shared by the partitions of a thread.
//!
//! An entry takes 44 bytes, its part of the index 6.4, and whether it may leave a quarter.
//! Nothing of it is ever moved or hashed anew, so that no operation takes longer than the others. A partition is a tenant
//! for as long as it is assigned: it comes and goes without a look at any entry. What it leaves behind is evicted in time,
//! as what nobody uses.

mod clock;
mod entry;
mod index;
mod prefetch;

use hashbrown::HashSet;
use smallvec::SmallVec;

use super::io::Millis;
use super::read_states::STAMP_LIFE_MS;
use clock::Clock;
use entry::{Entry, Memory, More, TENANTS_MAX};
use index::Index;
pub use prefetch::prefetch;

use crate::model::ids::{LogPosition, ReadStateKey};
use crate::model::read_state::ReadState;

/// Times are kept in units of 16 ms, which last for two years.
const TIME_SHIFT: u32 = 4;
/// No slot.
const NONE: u32 = u32::MAX;
/// Slots beyond the capacity that are reserved, one for so many: entries leave after a batch.
const SLOTS_PER_SPARE: usize = 64;
/// Read states that records which are taken together need, mostly.
const PREFETCHED_TOGETHER: usize = 96;
/// Changed entries of tenants that are gone, let go at a time.
const LET_GO_AT_ONCE: usize = 256;

/// An entry that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

impl Slot {
    /// No entry's.
    pub const NOBODYS: Slot = Slot(NONE);
}

/// Whose entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tenant(u16);

#[derive(Default)]
struct Tenancy {
    is_over: bool,
    len: usize,
    evicted: u64,
}

/// Read states of several tenants.
pub struct Slab {
    capacity: usize,
    entries: Vec<Entry>,
    free: u32,
    len: usize,
    index: Index,
    clock: Clock,
    more: Vec<Option<More>>,
    more_free: Vec<u32>,
    /// Something waits for these.
    held: HashSet<u32>,
    tenants: Vec<Tenancy>,
    /// Changed entries of tenants that are gone.
    orphans: Vec<Slot>,
    /// When a fresh entry was evicted last.
    fresh_evicted_at: Option<Millis>,
}

/// A time in 32 bits, rounded up: nothing looks older than it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u32);

impl Time {
    /// The time `at` or just after it.
    pub fn at(at: Millis) -> Self {
        Time(u32::try_from(at.0.div_ceil(1 << TIME_SHIFT)).unwrap_or(u32::MAX))
    }

    /// The time `at` or just before it.
    pub fn before(at: Millis) -> Self {
        Time(u32::try_from(at.0 >> TIME_SHIFT).unwrap_or(u32::MAX))
    }

    /// In milliseconds.
    pub fn millis(self) -> Millis {
        Millis(u64::from(self.0) << TIME_SHIFT)
    }
}

/// What left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// How many entries.
    pub entries: u64,
    /// One of them was settled so short a time ago that rows which were read from the store may be older.
    pub is_fresh: bool,
}

/// Folded multiplication, as in wyhash by Wang Yi; the constants are digits of pi.
#[inline]
fn hash(key: &ReadStateKey) -> u64 {
    let (user, channel) = (
        key.user.0 ^ 0x243F_6A88_85A3_08D3,
        key.channel.0 ^ 0x1319_8A2E_0370_7344,
    );
    let product = u128::from(user.wrapping_mul(0x9E37_79B9_7F4A_7C15))
        * u128::from(channel.wrapping_mul(0xA409_3822_299F_31D1));
    (product >> 64) as u64 ^ product as u64
}

impl Slab {
    /// For so many read states. Their memory is taken and touched at once, so that nothing waits for it later.
    pub fn new(capacity: usize) -> Self {
        let slots = capacity + capacity.div_ceil(SLOTS_PER_SPARE);
        let mut entries = vec![Entry::default(); slots];
        entries.clear();
        Slab {
            capacity,
            entries,
            free: NONE,
            len: 0,
            index: Index::new(capacity),
            clock: Clock::new(slots),
            more: Vec::new(),
            more_free: Vec::new(),
            held: HashSet::new(),
            tenants: Vec::new(),
            orphans: Vec::new(),
            fresh_evicted_at: None,
        }
    }

    /// Someone who has nothing yet.
    pub fn admit(&mut self) -> Tenant {
        let is_vacant = |tenancy: &Tenancy| tenancy.is_over && tenancy.len == 0;
        if let Some(number) = self.tenants.iter().position(is_vacant) {
            self.tenants[number] = Tenancy::default();
            return Tenant(number as u16);
        }
        if self.tenants.len() == usize::from(TENANTS_MAX) {
            self.clear_out();
            return self.admit();
        }
        self.tenants.push(Tenancy::default());
        Tenant((self.tenants.len() - 1) as u16)
    }

    /// Nothing of this tenant is found any more. What it has leaves in time, unless it is changed.
    pub fn dismiss(&mut self, tenant: Tenant) {
        self.tenants[usize::from(tenant.0)].is_over = true;
    }

    /// These are changed, and nobody will write them any more: they leave, some with each look at what leaves.
    pub fn let_go(&mut self, changed: impl Iterator<Item = Slot>) {
        self.orphans.extend(changed);
    }

    /// Takes out everything that those left behind who are gone: so many came and went that there is no number left.
    fn clear_out(&mut self) {
        self.orphans.clear();
        for slot in 0..self.entries.len() as u32 {
            let entry = &self.entries[slot as usize];
            if !entry.is_free() && self.tenants[usize::from(entry.tenant())].is_over {
                self.remove(Slot(slot));
            }
        }
    }

    /// The entry, if it is there.
    #[inline]
    pub fn peek(&self, tenant: Tenant, key: &ReadStateKey) -> Option<Slot> {
        let is_wanted = |slot: u32| self.entries[slot as usize].is(tenant.0, key);
        self.index.find(hash(key), is_wanted).map(Slot)
    }

    /// The entry, if it is there; counts as a use.
    #[inline]
    pub fn find(&mut self, tenant: Tenant, key: &ReadStateKey) -> Option<Slot> {
        let slot = self.peek(tenant, key)?;
        self.clock.touch(slot.0);
        Some(slot)
    }

    /// Has the processor fetch what [`Slab::find`] will look at, for all keys at once: none waits for another.
    pub fn prefetch(&self, keys: impl Iterator<Item = ReadStateKey>) {
        let mut hashes: SmallVec<[u64; PREFETCHED_TOGETHER]> = SmallVec::new();
        for key in keys {
            let hash = hash(&key);
            self.index.prefetch(hash);
            hashes.push(hash);
        }
        for slot in hashes.into_iter().filter_map(|hash| self.index.likely(hash)) {
            self.prefetch_slot(Slot(slot));
        }
    }

    /// The same for an entry.
    #[inline]
    pub fn prefetch_slot(&self, slot: Slot) {
        if let Some(entry) = self.entries.get(slot.0 as usize) {
            prefetch(entry);
            self.clock.prefetch(slot.0);
        }
    }

    /// Puts in an entry that is not there, clean.
    pub fn insert(
        &mut self,
        tenant: Tenant,
        key: &ReadStateKey,
        state: &ReadState,
        is_stored: bool,
        settled_at: Time,
    ) -> Slot {
        let slot = self.take_free();
        let mut entry = Entry::new(tenant.0, key);
        entry.set_stored(is_stored);
        self.entries[slot as usize] = entry;
        self.set_state(Slot(slot), state);
        self.entries[slot as usize].tag = settled_at.0;
        let entries = &self.entries;
        self.index
            .insert(hash(key), slot, |slot| hash(&entries[slot as usize].key()));
        self.clock.set_evictable(slot, true);
        self.len += 1;
        self.tenants[usize::from(tenant.0)].len += 1;
        Slot(slot)
    }

    fn take_free(&mut self) -> u32 {
        if self.free != NONE {
            let slot = self.free;
            self.free = self.entries[slot as usize].tag;
            return slot;
        }
        self.entries.push(Entry::default());
        (self.entries.len() - 1) as u32
    }

    /// Takes out an entry.
    pub fn remove(&mut self, slot: Slot) {
        self.drop_more(slot);
        let entry = std::mem::take(&mut self.entries[slot.0 as usize]);
        self.index.remove(hash(&entry.key()), slot.0);
        self.clock.set_evictable(slot.0, false);
        self.held.remove(&slot.0);
        self.entries[slot.0 as usize].tag = self.free;
        self.free = slot.0;
        self.len -= 1;
        self.tenants[usize::from(entry.tenant())].len -= 1;
    }

    /// Whose it is, and what for.
    pub fn owner(&self, slot: Slot) -> (Tenant, ReadStateKey) {
        let entry = &self.entries[slot.0 as usize];
        (Tenant(entry.tenant()), entry.key())
    }

    /// The read state.
    #[inline]
    pub fn state(&self, slot: Slot) -> ReadState {
        let entry = &self.entries[slot.0 as usize];
        let more = entry
            .has_more()
            .then(|| self.more[entry.memory().number() as usize].as_ref());
        entry.unpack(more.flatten())
    }

    /// The last record that changed it.
    #[inline]
    pub fn applied(&self, slot: Slot) -> LogPosition {
        self.entries[slot.0 as usize].applied()
    }

    /// Makes the change of the record at `at`. Whether that made it another one than before, or begins it.
    pub fn change(&mut self, slot: Slot, at: LogPosition, change: impl FnOnce(&mut ReadState)) -> bool {
        let before = self.entries[slot.0 as usize];
        if before.has_more() {
            return self.change_with_more(slot, at, change);
        }
        let mut state = before.unpack(None);
        change(&mut state);
        let mut entry = before;
        let more = entry.pack(&state);
        if entry == before && before.exists() {
            return false;
        }
        entry.set_applied(at);
        self.entries[slot.0 as usize] = entry;
        if let Some(more) = more {
            self.keep_more(slot, more);
        }
        true
    }

    fn change_with_more(&mut self, slot: Slot, at: LogPosition, change: impl FnOnce(&mut ReadState)) -> bool {
        let before = self.state(slot);
        let mut state = before.clone();
        change(&mut state);
        if state == before {
            return false;
        }
        state.applied = at;
        self.set_state(slot, &state);
        true
    }

    /// Replaces the read state.
    fn set_state(&mut self, slot: Slot, state: &ReadState) {
        self.drop_more(slot);
        if let Some(more) = self.entries[slot.0 as usize].pack(state) {
            self.keep_more(slot, more);
        }
    }

    fn keep_more(&mut self, slot: Slot, more: More) {
        let number = self.more_free.pop().unwrap_or_else(|| {
            self.more.push(None);
            (self.more.len() - 1) as u32
        });
        self.more[number as usize] = Some(more);
        self.entries[slot.0 as usize].set_memory(Memory::more(number));
    }

    fn drop_more(&mut self, slot: Slot) {
        let entry = &self.entries[slot.0 as usize];
        if entry.has_more() {
            let number = entry.memory().number();
            self.more[number as usize] = None;
            self.more_free.push(number);
        }
    }

    /// Whether the store has a row of it.
    pub fn is_stored(&self, slot: Slot) -> bool {
        self.entries[slot.0 as usize].is_stored()
    }

    /// The number of its change, if it is changed.
    #[inline]
    pub fn change_of(&self, slot: Slot) -> Option<u32> {
        let is_dirty = self.entries[slot.0 as usize].is_dirty();
        is_dirty.then(|| self.entries[slot.0 as usize].tag)
    }

    /// Of one that is not changed: when it was settled.
    pub fn settled_at(&self, slot: Slot) -> Time {
        Time(self.entries[slot.0 as usize].tag)
    }

    /// It is changed, under this number, and can't leave.
    pub fn set_changed(&mut self, slot: Slot, change: u32) {
        self.entries[slot.0 as usize].set_dirty(true);
        self.entries[slot.0 as usize].tag = change;
        self.clock.set_evictable(slot.0, false);
    }

    /// The store has it as it is. It can leave, and was used just now.
    pub fn set_settled(&mut self, slot: Slot, at: Time) {
        self.entries[slot.0 as usize].set_dirty(false);
        self.entries[slot.0 as usize].tag = at.0;
        self.clock.set_evictable(slot.0, !self.held.contains(&slot.0));
    }

    /// The store has a row of it, be it an older one.
    pub fn set_stored(&mut self, slot: Slot) {
        self.entries[slot.0 as usize].set_stored(true);
    }

    /// Keeps an entry from leaving.
    pub fn hold(&mut self, slot: Slot) {
        self.held.insert(slot.0);
        self.clock.set_evictable(slot.0, false);
    }

    /// Ends [`Slab::hold`], if the entry is still there.
    pub fn release(&mut self, slot: Slot) {
        if self.held.remove(&slot.0) {
            let is_dirty = self.entries[slot.0 as usize].is_dirty();
            self.clock.set_evictable(slot.0, !is_dirty);
        }
    }

    /// Lets entries leave until no more are there than the capacity, as far as that goes.
    pub fn evict(&mut self, now: Millis) -> Evicted {
        for _ in 0..LET_GO_AT_ONCE {
            let Some(slot) = self.orphans.pop() else { break };
            self.remove(slot);
        }
        let mut evicted = Evicted::default();
        while self.len > self.capacity {
            let Some(slot) = self.clock.next_victim().map(Slot) else {
                break;
            };
            evicted.entries += 1;
            evicted.is_fresh |= self.settled_at(slot).millis().0 + STAMP_LIFE_MS > now.0;
            let (tenant, _) = self.owner(slot);
            self.tenants[usize::from(tenant.0)].evicted += 1;
            self.remove(slot);
        }
        if evicted.is_fresh {
            self.fresh_evicted_at = Some(now);
        }
        evicted
    }

    /// When an entry was evicted last that was settled only just before, be it another tenant's.
    pub fn fresh_evicted_at(&self) -> Option<Millis> {
        self.fresh_evicted_at
    }

    /// From now on so many read states are kept. The index stays as it is.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Makes an entry that of another tenant.
    pub fn hand_over(&mut self, slot: Slot, to: Tenant) {
        let entry = &mut self.entries[slot.0 as usize];
        self.tenants[usize::from(entry.tenant())].len -= 1;
        self.tenants[usize::from(to.0)].len += 1;
        entry.set_tenant(to.0);
    }

    /// How many entries a tenant has.
    pub fn len_of(&self, tenant: Tenant) -> usize {
        self.tenants[usize::from(tenant.0)].len
    }

    /// How many entries of a tenant were evicted.
    pub fn evicted_of(&self, tenant: Tenant) -> u64 {
        self.tenants[usize::from(tenant.0)].evicted
    }

    /// Whether more is there than the capacity.
    pub fn is_overfull(&self) -> bool {
        self.len > self.capacity
    }

    /// All that is there, in no order. Takes time in proportion to the capacity.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let taken = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.is_free());
        taken.map(|(slot, _)| Slot(slot as u32))
    }
}

#[cfg(test)]
mod tests;
