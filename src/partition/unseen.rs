//! Read states of which a read of the store that is still used may not have shown a row, by user.
//!
//! ```text
//!                add                  stored              STAMP_LIFE_MS later
//!   (unknown) ────────▶ not in the store ────────▶ in the store ────────▶ (seen by all)
//! ```
//! Each time that one begins this way it ends it, whatever else becomes of it, so that a read state is here as often as it is
//! on its way. They begin and end it in much the same order. So a few lists, by user, are enough: what comes and what leaves
//! is at their ends, where memory is at hand, and who asks looks through one of them. With a tree of a million read states,
//! which waits for memory at each of its levels, half of what a new read state took was this.

use std::collections::VecDeque;

use super::fifo::Fifo;
use super::io::Millis;
use super::read_states::STAMP_LIFE_MS;
use crate::model::ids::{ChannelId, ReadStateKey, UserId};

/// Lists that share the users.
const LISTS: usize = 1 << LIST_BITS;
const LIST_BITS: u32 = 6;
/// Lists with more room than this give it back.
const LIST_ROOM_MIN: usize = 64;

/// Read states on their way into what everyone sees.
pub struct Unseen {
    /// In the order in which they came.
    lists: Box<[VecDeque<ReadStateKey>]>,
    /// Those that the store has by now, and from when on every read that is still used shows them.
    seen_from: Fifo<(Millis, ReadStateKey)>,
}

impl Default for Unseen {
    fn default() -> Self {
        Unseen {
            lists: (0..LISTS).map(|_| VecDeque::new()).collect(),
            seen_from: Fifo::default(),
        }
    }
}

impl Unseen {
    /// Takes a read state in of which the store may have no row, or not this one. [`Unseen::stored`] has to be told of it once.
    pub fn add(&mut self, key: ReadStateKey) {
        self.lists[Self::list_of(key.user)].push_back(key);
    }

    /// The store has it now, or it is gone.
    pub fn stored(&mut self, key: ReadStateKey, now: Millis) {
        self.seen_from.push((Millis(now.0 + STAMP_LIFE_MS), key));
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Millis) {
        while let Some((_, key)) = self.seen_from.pop_if(|(from, _)| *from < now) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: ReadStateKey) {
        let list = &mut self.lists[Self::list_of(key.user)];
        // Near the front: few are overtaken by those that came later.
        if let Some(place) = list.iter().position(|it| *it == key) {
            list.remove(place);
        }
        if list.capacity() > LIST_ROOM_MIN && list.len() < list.capacity() / 4 {
            list.shrink_to(list.capacity() / 2);
        }
    }

    /// Channels above one and up to another in which the user has such a read state, some more than once.
    pub fn channels_of(
        &self,
        user: UserId,
        above: ChannelId,
        up_to: ChannelId,
    ) -> impl Iterator<Item = ChannelId> {
        let of_user = self.lists[Self::list_of(user)]
            .iter()
            .filter(move |key| key.user == user);
        let channels = of_user.map(|key| key.channel);
        channels.filter(move |channel| *channel > above && *channel <= up_to)
    }

    fn list_of(user: UserId) -> usize {
        (user.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - LIST_BITS)) as usize
    }

    /// Checks what must always hold, with those that are not in the store yet; for tests.
    pub fn check(&self, new: impl Iterator<Item = ReadStateKey>) {
        let mut expected: Vec<ReadStateKey> = new.chain(self.seen_from.iter().map(|(_, key)| *key)).collect();
        let mut found: Vec<ReadStateKey> = self.lists.iter().flatten().copied().collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected, "each is here as often as it is on its way");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Add(u64, u64),
        /// One of those that were added.
        Stored(prop::sample::Index),
        Tick(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..4_u64, 1..40_u64).prop_map(|(user, channel)| Step::Add(user, channel)),
            3 => any::<prop::sample::Index>().prop_map(Step::Stored),
            1 => (0..STAMP_LIFE_MS).prop_map(Step::Tick),
        ]
    }

    proptest! {
        /// Against a list of those that are on their way, each with the time from when on all see it.
        #[test]
        fn they_are_there_until_everyone_sees_them(steps in prop::collection::vec(step(), 1..600)) {
            let mut unseen = Unseen::default();
            let (mut new, mut stored) = (Vec::new(), Vec::<(u64, ReadStateKey)>::new());
            let mut now = 1;
            for step in steps {
                match step {
                    Step::Add(user, channel) => {
                        let key = ReadStateKey { user: UserId(user), channel: ChannelId(channel) };
                        unseen.add(key);
                        new.push(key);
                    }
                    Step::Stored(index) if !new.is_empty() => {
                        let key = new.swap_remove(index.index(new.len()));
                        unseen.stored(key, Millis(now));
                        stored.push((now + STAMP_LIFE_MS, key));
                    }
                    Step::Stored(_) => {}
                    Step::Tick(ms) => {
                        now += ms;
                        unseen.tick(Millis(now));
                        stored.retain(|(from, _)| *from >= now);
                    }
                }
                unseen.check(new.iter().copied());
            }
            let all = || new.iter().chain(stored.iter().map(|(_, key)| key));
            for user in (0..5).map(UserId) {
                for (above, up_to) in [(0, 41), (7, 23), (23, 7), (12, 12)].map(|(a, b)| (ChannelId(a), ChannelId(b))) {
                    let mut found: Vec<ChannelId> = unseen.channels_of(user, above, up_to).collect();
                    found.sort_unstable();
                    found.dedup();
                    let is_meant = |key: &&ReadStateKey| key.user == user && key.channel > above && key.channel <= up_to;
                    let expected: std::collections::BTreeSet<_> = all().filter(is_meant).map(|key| key.channel).collect();
                    prop_assert_eq!(found, Vec::from_iter(expected));
                }
            }
        }
    }
}
