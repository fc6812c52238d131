//! A cache with a capacity by weight, of which some entries are pinned: in use, or not in the store yet.

use std::hash::Hash;

use hashbrown::HashMap;
use lru::LruCache;

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

/// Entries by key. Those that are not pinned leave in the order of their last use when the capacity asks for it; the
/// pinned ones never do, so that the capacity can be exceeded by them alone.
pub struct PinnedLru<K: InChannel, V: Weigh> {
    clean: LruCache<K, V>,
    pinned: HashMap<K, V>,
    weight: usize,
    /// How many entries each channel has, so that one that has none is forgotten at once.
    by_channel: HashMap<ChannelId, usize>,
}

impl<K: InChannel, V: Weigh> Default for PinnedLru<K, V> {
    fn default() -> Self {
        PinnedLru {
            clean: LruCache::unbounded(),
            pinned: HashMap::new(),
            weight: 0,
            by_channel: HashMap::new(),
        }
    }
}

impl<K: InChannel, V: Weigh> PinnedLru<K, V> {
    /// The entry, if it is there; counts as a use.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        match self.pinned.get(key) {
            Some(value) => Some(value),
            None => self.clean.get(key),
        }
    }

    /// The entry, if it is there; does not count as a use.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.pinned.get(key).or_else(|| self.clean.peek(key))
    }

    /// Puts an entry in, in place of one that may be there.
    pub fn put(&mut self, key: K, value: V, pinned: bool) {
        self.remove(&key);
        self.weight += value.weight();
        *self.by_channel.entry(key.channel()).or_default() += 1;
        if pinned {
            self.pinned.insert(key, value);
        } else {
            self.clean.push(key, value);
        }
    }

    /// Changes an entry in place. Nothing if it isn't there.
    pub fn update<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let value = match self.pinned.get_mut(key) {
            Some(value) => value,
            None => self.clean.get_mut(key)?,
        };
        let before = value.weight();
        let result = change(value);
        let after = value.weight();
        self.weight = self.weight - before + after;
        Some(result)
    }

    /// Keeps an entry from leaving.
    pub fn pin(&mut self, key: &K) {
        if let Some(value) = self.clean.pop(key) {
            self.pinned.insert(*key, value);
        }
    }

    /// Lets an entry leave; its last use is now.
    pub fn unpin(&mut self, key: &K) {
        if let Some(value) = self.pinned.remove(key) {
            self.clean.push(*key, value);
        }
    }

    /// Takes an entry out, pinned or not.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.pinned.remove(key).or_else(|| self.clean.pop(key))?;
        self.left(key, &value);
        Some(value)
    }

    /// Takes out the entry that was not used for the longest time and is not pinned.
    pub fn pop_coldest(&mut self) -> Option<(K, V)> {
        let (key, value) = self.clean.pop_lru()?;
        self.left(&key, &value);
        Some((key, value))
    }

    /// An entry was taken out.
    fn left(&mut self, key: &K, value: &V) {
        self.weight -= value.weight();
        if let Some(count) = self.by_channel.get_mut(&key.channel()) {
            *count -= 1;
            if *count == 0 {
                self.by_channel.remove(&key.channel());
            }
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
        self.pinned.keys().chain(self.clean.iter().map(|(key, _)| key))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.clean.len() + self.pinned.len()
    }

    /// How many of them are pinned.
    pub fn pinned_len(&self) -> usize {
        self.pinned.len()
    }

    /// The weight of all entries.
    pub fn weight(&self) -> usize {
        self.weight
    }
}
