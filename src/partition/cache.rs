//! A cache with a capacity by weight, of which some entries are pinned: in use, or not in the store yet.
//!
//! Entries never move. They are found by many small hash tables of places instead of a large one, each with the hashes in it:
//! one that grows is done soon, and looks at no entry.

use std::cell::Cell;
use std::hash::{BuildHasher, Hash};

use hashbrown::hash_table::HashTable;
use hashbrown::{DefaultHashBuilder, HashMap};

use super::slab::prefetch;
use crate::model::ids::ChannelId;

/// What an entry takes of the capacity.
pub trait Weigh {
    /// In the unit of the capacity: entries, or bytes.
    fn weight(&self) -> usize;
}

/// A key of something that belongs to a channel.
pub trait InChannel: Hash + Eq + Copy {
    /// That channel.
    fn channel(&self) -> ChannelId;
}

/// No entry.
const NONE: u32 = u32::MAX;
/// Entries for which room is made at a time.
const CHUNK_ENTRIES: usize = 256;
/// Hash tables that share the entries, by the highest bits of the hash.
const TABLES: usize = 1 << TABLE_BITS;
const TABLE_BITS: u32 = 6;

/// Where an entry is.
#[derive(Clone, Copy)]
pub struct Place(u32);

struct Entry<K, V> {
    key: K,
    /// Nothing if the entry is free.
    value: Option<V>,
    is_pinned: bool,
    /// Of one that is not pinned: its neighbours by last use. Of a free one: the next free one.
    colder: u32,
    warmer: u32,
}

impl<K: PartialEq, V> Entry<K, V> {
    fn is(&self, key: &K) -> bool {
        self.key == *key && self.value.is_some()
    }
}

/// Entries by key. Those that are not pinned leave in the order of their last use when the capacity asks for it; the
/// pinned ones never do, so that the capacity can be exceeded by them alone.
pub struct PinnedLru<K: InChannel, V: Weigh> {
    index: Index,
    chunks: Vec<Vec<Entry<K, V>>>,
    free: u32,
    coldest: u32,
    warmest: u32,
    len: usize,
    pinned: usize,
    weight: usize,
    /// How many entries each channel has, so that one that has none is forgotten at once.
    by_channel: HashMap<ChannelId, usize>,
    /// What was found last: mostly it is wanted again.
    found: Cell<u32>,
}

impl<K: InChannel, V: Weigh> Default for PinnedLru<K, V> {
    fn default() -> Self {
        PinnedLru {
            index: Index::default(),
            chunks: Vec::new(),
            free: NONE,
            coldest: NONE,
            warmest: NONE,
            len: 0,
            pinned: 0,
            weight: 0,
            by_channel: HashMap::new(),
            found: Cell::new(NONE),
        }
    }
}

impl<K: InChannel, V: Weigh> PinnedLru<K, V> {
    fn entry(&self, place: u32) -> &Entry<K, V> {
        &self.chunks[place as usize / CHUNK_ENTRIES][place as usize % CHUNK_ENTRIES]
    }

    fn entry_mut(&mut self, place: u32) -> &mut Entry<K, V> {
        &mut self.chunks[place as usize / CHUNK_ENTRIES][place as usize % CHUNK_ENTRIES]
    }

    fn find(&self, key: &K) -> Option<u32> {
        let last = self.found.get();
        if last != NONE && self.entry(last).is(key) {
            return Some(last);
        }
        let place = self
            .index
            .find(self.index.hash(key), |place| self.entry(place).is(key))?;
        self.found.set(place);
        Some(place)
    }

    /// The entry, if it is there; counts as a use.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        let place = self.find(key)?;
        self.warm(place);
        self.entry(place).value.as_ref()
    }

    /// The entry, if it is there; does not count as a use.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.entry(self.find(key)?).value.as_ref()
    }

    /// The place of the entry if it is there, or perhaps of another one: looks at no entry.
    pub fn guess(&self, key: &K) -> Option<Place> {
        self.index.find(self.index.hash(key), |_| true).map(Place)
    }

    /// Has the processor fetch the entry at a place.
    pub fn prefetch(&self, place: Place) {
        prefetch(self.entry(place.0));
    }

    /// The entry at a place.
    pub fn at(&self, place: Place) -> Option<&V> {
        self.entry(place.0).value.as_ref()
    }

    /// Puts an entry in, in place of one that may be there.
    pub fn put(&mut self, key: K, value: V, is_pinned: bool) {
        self.remove(&key);
        self.weight += value.weight();
        self.len += 1;
        self.pinned += usize::from(is_pinned);
        *self.by_channel.entry(key.channel()).or_default() += 1;
        let place = self.take_free(Entry {
            key,
            value: Some(value),
            is_pinned,
            colder: NONE,
            warmer: NONE,
        });
        self.index.insert(self.index.hash(&key), place);
        if !is_pinned {
            self.link(place);
        }
    }

    fn take_free(&mut self, entry: Entry<K, V>) -> u32 {
        if self.free != NONE {
            let place = self.free;
            self.free = self.entry(place).colder;
            *self.entry_mut(place) = entry;
            return place;
        }
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_ENTRIES => chunk.push(entry),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_ENTRIES);
                chunk.push(entry);
                self.chunks.push(chunk);
            }
        }
        let in_last = self.chunks.last().map_or(0, Vec::len);
        ((self.chunks.len() - 1) * CHUNK_ENTRIES + in_last - 1) as u32
    }

    /// Changes an entry in place, which counts as a use. Nothing if it isn't there.
    pub fn update<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let place = self.find(key)?;
        self.warm(place);
        self.change(place, change)
    }

    /// The same, and keeps the entry from leaving.
    pub fn update_and_pin<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let place = self.find(key)?;
        if !self.entry(place).is_pinned {
            self.unlink(place);
            self.entry_mut(place).is_pinned = true;
            self.pinned += 1;
        }
        self.change(place, change)
    }

    fn change<R>(&mut self, place: u32, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let value = self.entry_mut(place).value.as_mut()?;
        let before = value.weight();
        let result = change(value);
        let after = value.weight();
        self.weight = self.weight - before + after;
        Some(result)
    }

    /// Lets an entry leave; its last use is now.
    pub fn unpin(&mut self, key: &K) {
        if let Some(place) = self.find(key).filter(|place| self.entry(*place).is_pinned) {
            self.entry_mut(place).is_pinned = false;
            self.pinned -= 1;
            self.link(place);
        }
    }

    /// Takes an entry out, pinned or not.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).and_then(|place| self.take_out(place))
    }

    /// Takes out the entry that was not used for the longest time and is not pinned.
    pub fn pop_coldest(&mut self) -> Option<(K, V)> {
        let place = self.coldest;
        let key = (place != NONE).then(|| self.entry(place).key)?;
        Some((key, self.take_out(place)?))
    }

    fn take_out(&mut self, place: u32) -> Option<V> {
        match self.entry(place).is_pinned {
            true => self.pinned -= 1,
            false => self.unlink(place),
        }
        let free = self.free;
        let entry = self.entry_mut(place);
        let (key, value) = (entry.key, entry.value.take()?);
        entry.colder = free;
        self.free = place;
        self.index.remove(self.index.hash(&key), place);
        self.len -= 1;
        self.weight -= value.weight();
        if let Some(count) = self.by_channel.get_mut(&key.channel()) {
            *count -= 1;
            if *count == 0 {
                self.by_channel.remove(&key.channel());
            }
        }
        Some(value)
    }

    /// An entry that is not pinned is used now.
    fn warm(&mut self, place: u32) {
        if self.warmest != place && !self.entry(place).is_pinned {
            self.unlink(place);
            self.link(place);
        }
    }

    fn link(&mut self, place: u32) {
        let colder = self.warmest;
        let entry = self.entry_mut(place);
        (entry.colder, entry.warmer) = (colder, NONE);
        match colder {
            NONE => self.coldest = place,
            colder => self.entry_mut(colder).warmer = place,
        }
        self.warmest = place;
    }

    fn unlink(&mut self, place: u32) {
        let Entry { colder, warmer, .. } = *self.entry(place);
        match colder {
            NONE => self.coldest = warmer,
            colder => self.entry_mut(colder).warmer = warmer,
        }
        match warmer {
            NONE => self.warmest = colder,
            warmer => self.entry_mut(warmer).colder = colder,
        }
    }

    /// The keys of a channel. Takes time in proportion to all entries, unless it has none.
    pub fn keys_in(&self, channel: ChannelId) -> Vec<K> {
        if !self.by_channel.contains_key(&channel) {
            return Vec::new();
        }
        self.keys()
            .filter(|key| key.channel() == channel)
            .copied()
            .collect()
    }

    /// All keys, in no order. Takes time in proportion to the entries.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        let taken = self.chunks.iter().flatten().filter(|entry| entry.value.is_some());
        taken.map(|entry| &entry.key)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many of them are pinned.
    pub fn pinned_len(&self) -> usize {
        self.pinned
    }

    /// The weight of all entries.
    pub fn weight(&self) -> usize {
        self.weight
    }
}

/// An entry's place, and half its hash.
struct Indexed {
    hash: u32,
    place: u32,
}

/// Places by hash.
struct Index {
    hasher: DefaultHashBuilder,
    tables: Box<[HashTable<Indexed>]>,
}

impl Default for Index {
    fn default() -> Self {
        Index {
            hasher: DefaultHashBuilder::default(),
            tables: (0..TABLES).map(|_| HashTable::new()).collect(),
        }
    }
}

impl Index {
    fn hash(&self, key: &impl Hash) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// The hash that a table goes by: all of its bits are made from what is kept.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn table(hash: u32) -> usize {
        (hash >> (u32::BITS - TABLE_BITS)) as usize
    }

    fn find(&self, hash: u32, is_wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let is_wanted = |it: &Indexed| it.hash == hash && is_wanted(it.place);
        let found = self.tables[Self::table(hash)].find(Self::spread(hash), is_wanted);
        found.map(|it| it.place)
    }

    fn insert(&mut self, hash: u32, place: u32) {
        let table = &mut self.tables[Self::table(hash)];
        table.insert_unique(Self::spread(hash), Indexed { hash, place }, |it| {
            Self::spread(it.hash)
        });
    }

    fn remove(&mut self, hash: u32, place: u32) {
        let table = &mut self.tables[Self::table(hash)];
        if let Ok(found) = table.find_entry(Self::spread(hash), |it| it.place == place) {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Weigh for usize {
        fn weight(&self) -> usize {
            *self
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Get(u64),
        Peek(u64),
        Put(u64, usize, bool),
        Update(u64, usize),
        UpdateAndPin(u64, usize),
        Unpin(u64),
        Remove(u64),
        PopColdest,
    }

    fn step() -> impl Strategy<Value = Step> {
        const KEYS: u64 = 600;
        prop_oneof![
            1 => (0..KEYS).prop_map(Step::Get),
            1 => (0..KEYS).prop_map(Step::Peek),
            4 => (0..KEYS, 1..9_usize, any::<bool>()).prop_map(|(key, weight, pin)| Step::Put(key, weight, pin)),
            1 => (0..KEYS, 1..9_usize).prop_map(|(key, weight)| Step::Update(key, weight)),
            1 => (0..KEYS, 1..9_usize).prop_map(|(key, weight)| Step::UpdateAndPin(key, weight)),
            1 => (0..KEYS).prop_map(Step::Unpin),
            1 => (0..KEYS).prop_map(Step::Remove),
            1 => Just(Step::PopColdest),
        ]
    }

    /// The coldest first: key, weight, whether it is pinned.
    type Naive = Vec<(ChannelId, usize, bool)>;

    fn expect(naive: &mut Naive, step: &Step) -> Option<usize> {
        let find = |naive: &Naive, key: u64| naive.iter().position(|(other, ..)| other.0 == key);
        match *step {
            Step::Get(key) => {
                let entry = naive.remove(find(naive, key)?);
                naive.push(entry);
                Some(entry.1)
            }
            Step::Peek(key) => Some(naive[find(naive, key)?].1),
            Step::Put(key, weight, is_pinned) => {
                naive.retain(|(other, ..)| other.0 != key);
                naive.push((ChannelId(key), weight, is_pinned));
                None
            }
            Step::Update(key, weight) | Step::UpdateAndPin(key, weight) => {
                let mut entry = naive.remove(find(naive, key)?);
                let before = std::mem::replace(&mut entry.1, weight);
                entry.2 |= matches!(step, Step::UpdateAndPin(..));
                naive.push(entry);
                Some(before)
            }
            Step::Unpin(key) => {
                let index = find(naive, key).filter(|index| naive[*index].2)?;
                let mut entry = naive.remove(index);
                entry.2 = false;
                naive.push(entry);
                None
            }
            Step::Remove(key) => Some(naive.remove(find(naive, key)?).1),
            Step::PopColdest => {
                let index = naive.iter().position(|(.., is_pinned)| !is_pinned)?;
                Some(naive.remove(index).1)
            }
        }
    }

    fn take(cache: &mut PinnedLru<ChannelId, usize>, step: &Step) -> Option<usize> {
        let replace = |weight| move |value: &mut usize| std::mem::replace(value, weight);
        match *step {
            Step::Get(key) => cache.get(&ChannelId(key)).copied(),
            Step::Peek(key) => cache.peek(&ChannelId(key)).copied(),
            Step::Put(key, weight, is_pinned) => {
                cache.put(ChannelId(key), weight, is_pinned);
                None
            }
            Step::Update(key, weight) => cache.update(&ChannelId(key), replace(weight)),
            Step::UpdateAndPin(key, weight) => cache.update_and_pin(&ChannelId(key), replace(weight)),
            Step::Unpin(key) => {
                cache.unpin(&ChannelId(key));
                None
            }
            Step::Remove(key) => cache.remove(&ChannelId(key)),
            Step::PopColdest => cache.pop_coldest().map(|(_, weight)| weight),
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_list_in_the_order_of_uses_does(steps in prop::collection::vec(step(), 1..2000)) {
            let (mut cache, mut naive) = (PinnedLru::default(), Naive::new());
            for step in steps {
                prop_assert_eq!(take(&mut cache, &step), expect(&mut naive, &step), "{:?}", step);
                prop_assert_eq!(cache.len(), naive.len());
                prop_assert_eq!(cache.pinned_len(), naive.iter().filter(|(.., is_pinned)| *is_pinned).count());
                prop_assert_eq!(cache.weight(), naive.iter().map(|(_, weight, _)| weight).sum::<usize>());
            }
            let mut keys: Vec<u64> = cache.keys().map(|key| key.0).collect();
            let mut expected: Vec<u64> = naive.iter().map(|(key, ..)| key.0).collect();
            keys.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(&keys, &expected);
            for key in 0..600 {
                let is_there = expected.contains(&key);
                prop_assert_eq!(cache.keys_in(ChannelId(key)), is_there.then_some(ChannelId(key)).into_iter().collect::<Vec<_>>());
            }
        }
    }
}
