//! Reads that wait for their turn, so that several are made as one.
//!
//! Nothing waits in order to be gathered: while every reader is busy more comes, so what is read at once adapts to how
//! much is asked for and how long a read takes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// What is asked for, and who waits for it.
pub struct Waiting<K, V> {
    /// What.
    pub key: K,
    /// Closed where nobody waits any more.
    pub done: oneshot::Sender<V>,
}

/// What nobody reads yet, in the order in which it came.
pub struct Gathering<K, V> {
    queue: Mutex<Queue<K, V>>,
    /// Whether one reader more is wanted, by how many there are and how much waits.
    wants_reader: fn(usize, usize) -> bool,
}

struct Queue<K, V> {
    waiting: VecDeque<Waiting<K, V>>,
    readers: usize,
}

/// One that reads, for as long as something waits.
pub struct Reader<K, V> {
    gathering: Arc<Gathering<K, V>>,
    has_ended: bool,
}

impl<K, V> Gathering<K, V> {
    /// With nothing in it. `wants_reader` is told how many readers there are and how much waits.
    pub fn new(wants_reader: fn(usize, usize) -> bool) -> Arc<Self> {
        let queue = Mutex::new(Queue {
            waiting: VecDeque::new(),
            readers: 0,
        });
        Arc::new(Gathering { queue, wants_reader })
    }

    /// Asks for something: the value comes there, and the reader, if there is one, is to be set to work.
    pub fn ask(self: &Arc<Self>, key: K) -> (oneshot::Receiver<V>, Option<Reader<K, V>>) {
        let (done, value) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push_back(Waiting { key, done });
        if !(self.wants_reader)(queue.readers, queue.waiting.len()) {
            return (value, None);
        }
        queue.readers += 1;
        let reader = Reader {
            gathering: Arc::clone(self),
            has_ended: false,
        };
        (value, Some(reader))
    }

    fn queue(&self) -> MutexGuard<'_, Queue<K, V>> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Reader<K, V> {
    /// What is to be read next: of the first `looked_at` that wait those that `takes` says yes to, in order; it
    /// does to the first that it is asked about. Where nothing waits there is nothing, and this reader has ended.
    pub fn next(
        &mut self,
        looked_at: usize,
        mut takes: impl FnMut(&K) -> bool,
    ) -> Option<Vec<Waiting<K, V>>> {
        let mut queue = self.gathering.queue();
        while !queue.waiting.is_empty() {
            let (mut taken, mut passed) = (Vec::new(), Vec::new());
            while taken.len() + passed.len() < looked_at
                && let Some(waiting) = queue.waiting.pop_front()
            {
                match () {
                    () if waiting.done.is_closed() => {}
                    () if takes(&waiting.key) => taken.push(waiting),
                    () => passed.push(waiting),
                }
            }
            let is_stuck = taken.is_empty();
            for passed in passed.into_iter().rev() {
                queue.waiting.push_front(passed);
            }
            if !is_stuck {
                return Some(taken);
            }
        }
        queue.readers -= 1;
        self.has_ended = true;
        None
    }
}

impl<K, V> Drop for Reader<K, V> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.gathering.queue().readers -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_reader(readers: usize, _: usize) -> bool {
        readers == 0
    }

    #[test]
    fn what_comes_meanwhile_is_read_at_once_and_in_order() {
        let gathering = Gathering::<u32, u32>::new(one_reader);
        let (first, reader) = gathering.ask(1);
        let mut reader = reader.expect("nobody reads yet");
        assert_eq!(keys(reader.next(9, |_| true)), [1]);
        drop(first);
        let values: Vec<_> = [2, 3, 4, 5].map(|key| gathering.ask(key)).into();
        assert!(values.iter().all(|(_, reader)| reader.is_none()));
        assert_eq!(keys(reader.next(9, |key| key % 2 == 0)), [2, 4]);
        assert_eq!(keys(reader.next(1, |_| true)), [3], "only what is looked at");
        assert_eq!(keys(reader.next(9, |_| true)), [5]);
        assert!(reader.next(9, |_| true).is_none());
        assert!(gathering.ask(6).1.is_some(), "the reader has ended");
    }

    #[test]
    fn what_nobody_waits_for_is_not_read() {
        let gathering = Gathering::<u32, u32>::new(one_reader);
        let (gone, reader) = gathering.ask(1);
        drop(gone);
        let _waits = gathering.ask(2);
        assert_eq!(keys(reader.expect("nobody reads yet").next(1, |_| true)), [2]);
        let (_waits, reader) = gathering.ask(3);
        assert!(reader.is_some(), "one that was dropped reads no more");
    }

    fn keys(taken: Option<Vec<Waiting<u32, u32>>>) -> Vec<u32> {
        taken
            .expect("something waits")
            .into_iter()
            .map(|waiting| waiting.key)
            .collect()
    }
}
