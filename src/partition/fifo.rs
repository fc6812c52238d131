//! A queue that grows without moving what is in it: to copy a million entries takes longer than anyone should wait.

use std::collections::VecDeque;

/// Entries for which room is made at a time.
const CHUNK_ENTRIES: usize = 1024;

/// First in, first out.
pub struct Fifo<T> {
    /// None of them is empty but the only one.
    chunks: VecDeque<VecDeque<T>>,
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Fifo {
            chunks: VecDeque::new(),
        }
    }
}

impl<T> Fifo<T> {
    /// Puts an entry in as the last.
    pub fn push(&mut self, entry: T) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_ENTRIES => chunk.push_back(entry),
            _ => {
                let mut chunk = VecDeque::with_capacity(CHUNK_ENTRIES);
                chunk.push_back(entry);
                self.chunks.push_back(chunk);
            }
        }
    }

    /// Takes the first entry out, if it is as wanted.
    pub fn pop_if(&mut self, is_wanted: impl FnOnce(&mut T) -> bool) -> Option<T> {
        let first = self.chunks.front_mut()?;
        let entry = first.pop_front_if(is_wanted)?;
        if first.is_empty() && self.chunks.len() > 1 {
            self.chunks.pop_front();
        }
        Some(entry)
    }

    /// From the first to the last.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_first_leaves_first() {
        let mut fifo = Fifo::default();
        let mut next = 0_usize;
        for round in 0..6 * CHUNK_ENTRIES {
            fifo.push(round);
            if round % 3 > 0 || round > 4 * CHUNK_ENTRIES {
                assert_eq!(fifo.pop_if(|_| true), Some(next));
                next += 1;
            }
            assert_eq!(fifo.pop_if(|first| *first != next), None);
        }
        assert!(fifo.iter().copied().eq(next..6 * CHUNK_ENTRIES));
        while let Some(first) = fifo.pop_if(|_| true) {
            assert_eq!(first, next);
            next += 1;
        }
        assert_eq!(next, 6 * CHUNK_ENTRIES);
        assert_eq!(fifo.chunks.len(), 1, "the last chunk stays");
    }
}
