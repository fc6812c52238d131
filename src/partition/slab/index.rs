//! Finds slots by hash in lines of one cache line each. The number of lines never changes, so that nothing is ever
//! moved about: an entry whose line is full goes into a second one, and where that is full too into a small map.

use hashbrown::HashMap;

use super::prefetch::prefetch;

/// Slots of a line: with their tags and a count they make 64 bytes.
const SLOTS_PER_LINE: usize = 12;
/// Entries for which a line is made: below [`SLOTS_PER_LINE`], so that few find it full.
const ENTRIES_PER_LINE: usize = 10;
/// Of a place without a slot.
const NO_TAG: u8 = 0;

#[derive(Clone, Default)]
#[repr(C, align(64))]
struct Line {
    slots: [u32; SLOTS_PER_LINE],
    tags: [u8; SLOTS_PER_LINE],
    /// Slots that belong here and are elsewhere.
    away: u32,
}

impl Line {
    /// The places with this tag, one bit each.
    fn matching(&self, tag: u8) -> u32 {
        let mut bits = 0;
        for (place, other) in self.tags.iter().enumerate() {
            bits |= u32::from(*other == tag) << place;
        }
        bits
    }

    fn place(&mut self, tag: u8, slot: u32) -> bool {
        let free = self.matching(NO_TAG).trailing_zeros() as usize;
        if free >= SLOTS_PER_LINE {
            return false;
        }
        self.tags[free] = tag;
        self.slots[free] = slot;
        true
    }

    fn take_out(&mut self, tag: u8, slot: u32) -> bool {
        let mut places = self.matching(tag);
        while places != 0 {
            let place = places.trailing_zeros() as usize;
            if self.slots[place] == slot {
                self.tags[place] = NO_TAG;
                return true;
            }
            places &= places - 1;
        }
        false
    }
}

/// Slots by hash.
pub struct Index {
    lines: Box<[Line]>,
    /// What found both its lines full.
    beyond: HashMap<u64, Vec<u32>>,
}

impl Index {
    /// For so many entries. More than that can be put in, at the speed of an ordinary map.
    pub fn new(capacity: usize) -> Self {
        let lines = capacity.div_ceil(ENTRIES_PER_LINE).max(2);
        Index {
            lines: vec![Line::default(); lines].into_boxed_slice(),
            beyond: HashMap::new(),
        }
    }

    /// Upper bits of the product choose the line: no division.
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.lines.len() as u128) >> 64) as usize
    }

    /// Where an entry goes whose home is full.
    fn second(&self, hash: u64) -> usize {
        self.home(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32))
    }

    fn tag(hash: u64) -> u8 {
        (hash as u8).max(NO_TAG + 1)
    }

    /// The first slot of this hash that is the one wanted.
    #[inline]
    pub fn find(&self, hash: u64, is_wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = Self::tag(hash);
        let home = &self.lines[self.home(hash)];
        let found = Self::find_in(home, tag, &is_wanted);
        if found.is_some() || home.away == 0 {
            return found;
        }
        Self::find_in(&self.lines[self.second(hash)], tag, &is_wanted).or_else(|| {
            let beyond = self.beyond.get(&hash)?;
            beyond.iter().copied().find(|slot| is_wanted(*slot))
        })
    }

    #[inline]
    fn find_in(line: &Line, tag: u8, is_wanted: &impl Fn(u32) -> bool) -> Option<u32> {
        let mut places = line.matching(tag);
        while places != 0 {
            let slot = line.slots[places.trailing_zeros() as usize];
            if is_wanted(slot) {
                return Some(slot);
            }
            places &= places - 1;
        }
        None
    }

    /// Has the processor fetch what [`Index::find`] and [`Index::likely`] look at.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.lines[self.home(hash)]);
    }

    /// A slot that may be the one wanted.
    #[inline]
    pub fn likely(&self, hash: u64) -> Option<u32> {
        let line = &self.lines[self.home(hash)];
        let place = line.matching(Self::tag(hash)).trailing_zeros() as usize;
        line.slots.get(place).copied()
    }

    /// Puts a slot in that is not there. `hash_of` is asked about others that are: one may have to move over.
    pub fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let tag = Self::tag(hash);
        let (home, second) = (self.home(hash), self.second(hash));
        if self.lines[home].place(tag, slot) {
            return;
        }
        if self.lines[second].place(tag, slot) {
            self.lines[home].away += 1;
        } else if self.make_room(home, hash_of) {
            self.lines[home].place(tag, slot);
        } else {
            self.lines[home].away += 1;
            self.beyond.entry(hash).or_default().push(slot);
        }
    }

    /// Moves one slot of a full line to the other line that it can be in, if there is one with room.
    fn make_room(&mut self, full: usize, hash_of: impl Fn(u32) -> u64) -> bool {
        for place in 0..SLOTS_PER_LINE {
            let slot = self.lines[full].slots[place];
            let hash = hash_of(slot);
            let (home, second) = (self.home(hash), self.second(hash));
            let other = if home == full { second } else { home };
            if other == full || !self.lines[other].place(Self::tag(hash), slot) {
                continue;
            }
            self.lines[full].tags[place] = NO_TAG;
            if other == second {
                self.lines[home].away += 1;
            } else {
                self.lines[home].away -= 1;
            }
            return true;
        }
        false
    }

    /// Takes a slot out.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let tag = Self::tag(hash);
        let (home, second) = (self.home(hash), self.second(hash));
        if self.lines[home].take_out(tag, slot) {
            return;
        }
        self.lines[home].away -= 1;
        if self.lines[second].take_out(tag, slot) {
            return;
        }
        if let Some(slots) = self.beyond.get_mut(&hash) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.beyond.remove(&hash);
            }
        }
    }
}
