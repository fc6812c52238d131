//! Which slots may be evicted, and which of them next: CLOCK (Corbató, 1968), a bit for each slot.

use super::prefetch::prefetch;

/// Bits of a word.
const WORD_BITS: usize = 64;

/// Of [`WORD_BITS`] slots, a bit for each: beside one another, since both are wanted mostly.
#[derive(Clone, Copy, Default)]
struct Word {
    /// Taken, and free to leave.
    evictable: u64,
    used: u64,
}

/// The hand goes round over the slots: one that was used since it came by last is passed over, once.
#[derive(Default)]
pub struct Clock {
    words: Vec<Word>,
    hand: usize,
}

fn set(bits: &mut u64, slot: u32, value: bool) {
    let mask = 1 << (slot as usize % WORD_BITS);
    *bits = if value { *bits | mask } else { *bits & !mask };
}

impl Clock {
    /// With room for so many slots; more can come.
    pub fn new(slots: usize) -> Self {
        Clock {
            words: Vec::with_capacity(slots.div_ceil(WORD_BITS)),
            hand: 0,
        }
    }

    fn word(&mut self, slot: u32) -> &mut Word {
        let index = slot as usize / WORD_BITS;
        if index >= self.words.len() {
            self.words.resize(index + 1, Word::default());
        }
        &mut self.words[index]
    }

    /// The slot is used now.
    #[inline]
    pub fn touch(&mut self, slot: u32) {
        set(&mut self.word(slot).used, slot, true);
    }

    /// Whether the slot may leave.
    pub fn set_evictable(&mut self, slot: u32, is_evictable: bool) {
        set(&mut self.word(slot).evictable, slot, is_evictable);
    }

    /// Has the processor fetch what is known of the slot.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        if let Some(word) = self.words.get(slot as usize / WORD_BITS) {
            prefetch(word);
        }
    }

    /// The slot that is to leave next. Nothing if none may. A whole round over 8 million slots takes some 0.1 ms.
    pub fn next_victim(&mut self) -> Option<u32> {
        let words = self.words.len();
        if words == 0 {
            return None;
        }
        // From within a word once round to the same one may only find slots that were used, and a second round is needed.
        for _ in 0..=2 * words {
            let index = self.hand / WORD_BITS % words;
            let place = self.hand % WORD_BITS;
            let word = &mut self.words[index];
            let ahead = u64::MAX << place;
            let evictable = word.evictable & ahead;
            let cold = evictable & !word.used;
            let stop = cold.trailing_zeros();
            // What the hand passes over is not used any more, until it is used again.
            let passed = match u64::MAX.checked_shl(stop) {
                Some(behind) => ahead & !behind,
                None => ahead,
            };
            word.used &= !(passed & evictable);
            if cold != 0 {
                self.hand = index * WORD_BITS + stop as usize;
                return Some(self.hand as u32);
            }
            self.hand = (index + 1) * WORD_BITS;
        }
        None
    }
}
