//! What is changed and not in the store yet: a record for each such entry, in the order of the first changes.
//!
//! Room grows without moving anything, and what comes nearly in order takes next to no time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::slab::{Slot, Time};
use crate::model::ids::LogPosition;

/// No record.
const NONE: u32 = u32::MAX;
/// Records that are made room for at a time, so that room grows without moving any.
const CHUNK_RECORDS: usize = 4096;

/// The changes of an entry that the store has not acknowledged.
#[derive(Clone, Copy)]
struct Record {
    /// The oldest of them, in halves, so that a record takes 20 bytes.
    since: [u32; 2],
    /// When that was made.
    changed_at: Time,
    /// Whose. Nobody's if the entry was forgotten.
    slot: Slot,
    /// In the queue or among the free ones: the next one.
    next: u32,
}

const _: () = assert!(size_of::<Record>() == 20);

impl Record {
    fn new(since: LogPosition, changed_at: Time, slot: Slot) -> Self {
        let bits = since.to_bits();
        Record {
            since: [(bits >> 32) as u32, bits as u32],
            changed_at,
            slot,
            next: NONE,
        }
    }

    fn since(&self) -> LogPosition {
        LogPosition::from_bits(u64::from(self.since[0]) << 32 | u64::from(self.since[1]))
    }
}

/// Records by number.
#[derive(Default)]
struct Records {
    chunks: Vec<Box<[Record]>>,
    free: Option<u32>,
}

impl Records {
    fn get(&self, number: u32) -> &Record {
        &self.chunks[number as usize / CHUNK_RECORDS][number as usize % CHUNK_RECORDS]
    }

    fn get_mut(&mut self, number: u32) -> &mut Record {
        &mut self.chunks[number as usize / CHUNK_RECORDS][number as usize % CHUNK_RECORDS]
    }

    fn add(&mut self, record: Record) -> u32 {
        let number = self.free.unwrap_or_else(|| self.grow());
        let next = self.get(number).next;
        self.free = (next != NONE).then_some(next);
        *self.get_mut(number) = record;
        number
    }

    fn remove(&mut self, number: u32) {
        self.get_mut(number).next = self.free.unwrap_or(NONE);
        self.free = Some(number);
    }

    fn grow(&mut self) -> u32 {
        let first = (self.chunks.len() * CHUNK_RECORDS) as u32;
        let last = first + CHUNK_RECORDS as u32 - 1;
        let free = (first..=last).map(|number| Record {
            next: if number == last { NONE } else { number + 1 },
            ..Record::new(LogPosition::NOTHING, Time::default(), Slot::NOBODYS)
        });
        self.chunks.push(free.collect());
        first
    }
}

/// A write under way.
#[derive(Clone, Copy)]
struct InFlight {
    record: u32,
    /// What was sent.
    applied: LogPosition,
    /// The first change since then, and when it was made.
    next: Option<(LogPosition, Time)>,
}

/// An entry that is to be written now: it waits no more.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Which.
    pub slot: Slot,
    record: u32,
}

/// What an acknowledgement leaves of the changes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The store has them all.
    Nothing,
    /// There is a newer one, which waits under this number.
    Change(u32),
}

/// The changed entries of a partition.
#[derive(Default)]
pub struct Changes {
    records: Records,
    /// First and last of those that wait to be written.
    queue: Option<(u32, u32)>,
    in_flight: HashMap<Slot, InFlight>,
    frontier: Frontier,
    len: usize,
}

impl Changes {
    /// An entry is changed that was not. Gives the number to keep with it.
    pub fn add(&mut self, since: LogPosition, changed_at: Time, slot: Slot) -> u32 {
        let number = self.records.add(Record::new(since, changed_at, slot));
        self.frontier.add(since);
        self.len += 1;
        let first = match self.queue {
            None => number,
            Some((first, last)) => {
                self.records.get_mut(last).next = number;
                first
            }
        };
        self.queue = Some((first, number));
        number
    }

    /// A changed entry is changed again.
    pub fn change_again(&mut self, slot: Slot, at: LogPosition, changed_at: Time) {
        if let Some(in_flight) = self.in_flight.get_mut(&slot) {
            in_flight.next.get_or_insert((at, changed_at));
        }
    }

    /// The entry that has waited longest, if its first change was made at or before `changed_by`. It has to be given to
    /// [`Changes::sent`] or [`Changes::dropped`].
    pub fn next_due(&mut self, changed_by: Time) -> Option<Due> {
        loop {
            let (first, last) = self.queue?;
            let Record {
                changed_at,
                slot,
                next,
                ..
            } = *self.records.get(first);
            if slot != Slot::NOBODYS && changed_at > changed_by {
                return None;
            }
            self.queue = (first != last).then_some((next, last));
            if slot != Slot::NOBODYS {
                return Some(Due { slot, record: first });
            }
            self.records.remove(first);
        }
    }

    /// The entry is being written as it is after the record at `applied`.
    pub fn sent(&mut self, due: &Due, applied: LogPosition) {
        let in_flight = InFlight {
            record: due.record,
            applied,
            next: None,
        };
        self.in_flight.insert(due.slot, in_flight);
    }

    /// The entry is not written: it is gone.
    pub fn dropped(&mut self, due: &Due) {
        self.close(due.record);
        self.records.remove(due.record);
    }

    /// An entry that waits is gone.
    pub fn abandon(&mut self, number: u32) {
        self.close(number);
        self.records.get_mut(number).slot = Slot::NOBODYS;
    }

    fn close(&mut self, number: u32) {
        self.frontier.remove(self.records.get(number).since());
        self.len -= 1;
    }

    /// The store has what was sent. Nothing if something else or nothing is under way.
    pub fn written(&mut self, slot: Slot, applied: LogPosition, keeps_newer: bool) -> Option<Left> {
        let InFlight { record, next, .. } = *self.in_flight.get(&slot).filter(|it| it.applied == applied)?;
        self.in_flight.remove(&slot);
        self.close(record);
        self.records.remove(record);
        Some(match next.filter(|_| keeps_newer) {
            None => Left::Nothing,
            Some((since, changed_at)) => Left::Change(self.add(since, changed_at, slot)),
        })
    }

    /// Takes out the entries of which nobody wants to know any more whether they are written.
    pub fn forget_in_flight(&mut self, is_forgotten: impl Fn(Slot) -> bool) -> Vec<Slot> {
        let slots = self.in_flight.keys().copied().filter(|slot| is_forgotten(*slot));
        let slots: Vec<Slot> = slots.collect();
        for slot in &slots {
            if let Some(InFlight { record, .. }) = self.in_flight.remove(slot) {
                self.close(record);
                self.records.remove(record);
            }
        }
        slots
    }

    /// Whether a changed entry is being written.
    pub fn is_in_flight(&self, slot: Slot) -> bool {
        self.in_flight.contains_key(&slot)
    }

    /// When the first change was made.
    pub fn changed_at(&self, number: u32) -> Time {
        self.records.get(number).changed_at
    }

    /// The oldest change that the store has not acknowledged.
    pub fn oldest(&self) -> Option<LogPosition> {
        self.frontier.smallest()
    }

    /// When the first change was made of those that wait or are under way.
    pub fn oldest_changed_at(&self) -> Option<Time> {
        let under_way = self.in_flight.values().map(|it| it.record);
        let first = self.queue.map(|(first, _)| first);
        under_way.chain(first).map(|number| self.changed_at(number)).min()
    }

    /// How many entries are changed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of them.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let mut next = self.queue.map(|(first, _)| first);
        let waiting = std::iter::from_fn(move || {
            let record = self.records.get(next?);
            next = (record.next != NONE).then_some(record.next);
            Some(record.slot)
        });
        let waiting = waiting.filter(|slot| *slot != Slot::NOBODYS);
        self.in_flight.keys().copied().chain(waiting)
    }
}

/// The smallest of places that come and go.
#[derive(Default)]
struct Frontier {
    came: BinaryHeap<Reverse<LogPosition>>,
    /// Those of them that went while a smaller one was there.
    went: BinaryHeap<Reverse<LogPosition>>,
}

impl Frontier {
    fn add(&mut self, place: LogPosition) {
        self.came.push(Reverse(place));
    }

    /// Takes out one that was added.
    fn remove(&mut self, place: LogPosition) {
        self.went.push(Reverse(place));
        while self
            .went
            .peek()
            .is_some_and(|went| Some(went) == self.came.peek())
        {
            self.went.pop();
            self.came.pop();
        }
    }

    fn smallest(&self) -> Option<LogPosition> {
        self.came.peek().map(|place| place.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::ids::Offset;

    fn place(offset: u64) -> LogPosition {
        LogPosition::new(0, Offset(offset))
    }

    proptest! {
        #[test]
        fn the_frontier_is_the_smallest_that_is_there(steps in prop::collection::vec((any::<bool>(), 0..40_u64), 1..400)) {
            let mut frontier = Frontier::default();
            let mut there: BTreeMap<LogPosition, u32> = BTreeMap::new();
            for (comes, at) in steps {
                if comes {
                    frontier.add(place(at));
                    *there.entry(place(at)).or_default() += 1;
                } else if let Some((at, count)) = there.range_mut(place(at)..).next() {
                    let at = *at;
                    frontier.remove(at);
                    *count -= 1;
                    if *count == 0 {
                        there.remove(&at);
                    }
                }
                prop_assert_eq!(frontier.smallest(), there.keys().next().copied());
            }
        }
    }
}
