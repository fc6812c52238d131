//! What is changed and not in the store yet: a list of records in the order of the changes.
//!
//! ```text
//!   oldest ─▶ ● ─▶ ● ─▶ ○ ─▶ ● ─▶ ● ─▶ ● ─▶ newest
//!             sent  kept    sent ▲
//!                   back         └ next to be sent
//! ```
//! An entry has a record of its first change since what was sent, so one while it waits, one while it is in flight, and a second one if
//! it is changed meanwhile. Where that one's turn comes before the write is acknowledged it is kept back until then.
//!
//! Records of the stream that waited for a load are applied after later ones. So what is kept of a change is not its place, but
//! the first place that was not applied when it was made: no change made from then on stands before it, and it never goes
//! back. So the head of the list says before what everything is in the store, and no step takes longer where there are more
//! changes. Room grows without moving anything.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::slab::{Slot, Time};
use crate::model::ids::{LogPosition, ReadStateKey};

/// No record.
const NONE: u32 = u32::MAX;
/// Records that are made room for at a time.
const CHUNK_RECORDS: usize = 4096;

/// The changes of an entry that the store has not acknowledged.
#[derive(Clone, Copy)]
struct Record {
    /// No later change stands before this place; in halves, so that a record takes 24 bytes.
    not_before: [u32; 2],
    /// When the oldest of them was made.
    changed_at: Time,
    /// Whose.
    slot: Slot,
    /// The next older one.
    older: u32,
    /// The next newer one; among the free ones: the next one.
    newer: u32,
}

const _: () = assert!(size_of::<Record>() == 24);

impl Record {
    fn new(not_before: LogPosition, changed_at: Time, slot: Slot) -> Self {
        let bits = not_before.to_bits();
        Record {
            not_before: [(bits >> 32) as u32, bits as u32],
            changed_at,
            slot,
            older: NONE,
            newer: NONE,
        }
    }

    fn not_before(&self) -> LogPosition {
        LogPosition::from_bits(u64::from(self.not_before[0]) << 32 | u64::from(self.not_before[1]))
    }
}

/// Records by number, linked from the oldest to the newest. Free ones are used in the order in which they became free, so that
/// neighbours in the list are mostly neighbours in memory.
struct Records {
    chunks: Vec<Box<[Record]>>,
    /// Those that are free, from the first that will be used to the last.
    free: u32,
    last_free: u32,
    oldest: u32,
    newest: u32,
}

impl Default for Records {
    fn default() -> Self {
        Records {
            chunks: Vec::new(),
            free: NONE,
            last_free: NONE,
            oldest: NONE,
            newest: NONE,
        }
    }
}

impl Records {
    fn get(&self, number: u32) -> &Record {
        &self.chunks[number as usize / CHUNK_RECORDS][number as usize % CHUNK_RECORDS]
    }

    fn get_mut(&mut self, number: u32) -> &mut Record {
        &mut self.chunks[number as usize / CHUNK_RECORDS][number as usize % CHUNK_RECORDS]
    }

    /// Puts one in as the newest.
    fn add(&mut self, mut record: Record) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        let number = self.free;
        self.free = self.get(number).newer;
        record.older = self.newest;
        *self.get_mut(number) = record;
        match self.newest {
            NONE => self.oldest = number,
            newest => self.get_mut(newest).newer = number,
        }
        self.newest = number;
        number
    }

    fn remove(&mut self, number: u32) {
        let Record { older, newer, .. } = *self.get(number);
        match older {
            NONE => self.oldest = newer,
            older => self.get_mut(older).newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.get_mut(newer).older = older,
        }
        self.get_mut(number).newer = NONE;
        match self.free {
            NONE => self.free = number,
            _ => self.get_mut(self.last_free).newer = number,
        }
        self.last_free = number;
    }

    /// Makes room where there is none.
    fn grow(&mut self) {
        let first = (self.chunks.len() * CHUNK_RECORDS) as u32;
        let last = first + CHUNK_RECORDS as u32 - 1;
        let free = (first..=last).map(|number| Record {
            newer: if number == last { NONE } else { number + 1 },
            ..Record::new(LogPosition::NOTHING, Time::default(), Slot::NOBODYS)
        });
        self.chunks.push(free.collect());
        (self.free, self.last_free) = (first, last);
    }

    /// From this one on, oldest first.
    fn from(&self, number: u32) -> impl Iterator<Item = (u32, &Record)> {
        let mut next = number;
        std::iter::from_fn(move || {
            let number = next;
            let record = (number != NONE).then(|| self.get(number))?;
            next = record.newer;
            Some((number, record))
        })
    }
}

/// A write under way.
#[derive(Clone, Copy)]
struct InFlight {
    record: u32,
    /// What was sent.
    applied: LogPosition,
    /// What was changed since then.
    next: u32,
    /// Whether its turn has come already.
    is_next_kept_back: bool,
}

/// An entry whose turn it is to be written.
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
pub struct Changes {
    records: Records,
    /// The record whose turn comes next.
    next: u32,
    /// Records that were kept back and need not be any more.
    overdue: VecDeque<u32>,
    in_flight: HashMap<ReadStateKey, InFlight>,
    len: usize,
}

impl Default for Changes {
    fn default() -> Self {
        Changes {
            records: Records::default(),
            next: NONE,
            overdue: VecDeque::new(),
            in_flight: HashMap::new(),
            len: 0,
        }
    }
}

impl Changes {
    /// An entry is changed that was not. What is not applied yet begins at `not_before`, which never goes back. Gives the
    /// number to keep with it.
    pub fn add(&mut self, not_before: LogPosition, changed_at: Time, slot: Slot) -> u32 {
        self.len += 1;
        self.note(not_before, changed_at, slot)
    }

    fn note(&mut self, not_before: LogPosition, changed_at: Time, slot: Slot) -> u32 {
        let number = self.records.add(Record::new(not_before, changed_at, slot));
        if self.next == NONE {
            self.next = number;
        }
        number
    }

    fn take_out(&mut self, number: u32) {
        if self.next == number {
            self.next = self.records.get(number).newer;
        }
        self.records.remove(number);
    }

    /// A changed entry is changed again.
    pub fn change_again(&mut self, key: &ReadStateKey, not_before: LogPosition, changed_at: Time) {
        let Some(InFlight {
            record, next: NONE, ..
        }) = self.in_flight.get(key).copied()
        else {
            return;
        };
        let slot = self.records.get(record).slot;
        let next = self.note(not_before, changed_at, slot);
        if let Some(in_flight) = self.in_flight.get_mut(key) {
            in_flight.next = next;
        }
    }

    /// The entry that has waited longest, if its first change was made at or before `changed_by`. It has to be given to
    /// [`Changes::sent`], [`Changes::keep_back`] or [`Changes::dropped`].
    pub fn next_due(&mut self, changed_by: Time) -> Option<Due> {
        if let Some(record) = self.overdue.pop_front() {
            let slot = self.records.get(record).slot;
            return Some(Due { slot, record });
        }
        let record = self.next;
        let Record {
            changed_at,
            slot,
            newer,
            ..
        } = *(record != NONE).then(|| self.records.get(record))?;
        if changed_at > changed_by {
            return None;
        }
        self.next = newer;
        Some(Due { slot, record })
    }

    /// Those that [`Changes::next_due`] will give next.
    pub fn coming(&self, changed_by: Time) -> impl Iterator<Item = Slot> {
        let waiting = self.records.from(self.next);
        let due = waiting.take_while(move |(_, record)| record.changed_at <= changed_by);
        due.map(|(_, record)| record.slot)
    }

    /// The entry is being written as it is after the record at `applied`.
    pub fn sent(&mut self, key: ReadStateKey, due: &Due, applied: LogPosition) {
        let in_flight = InFlight {
            record: due.record,
            applied,
            next: NONE,
            is_next_kept_back: false,
        };
        self.in_flight.insert(key, in_flight);
    }

    /// Keeps an entry back whose former write is under way. Whether there is one.
    pub fn keep_back(&mut self, key: &ReadStateKey) -> bool {
        let in_flight = self.in_flight.get_mut(key);
        in_flight.map(|it| it.is_next_kept_back = true).is_some()
    }

    /// The entry is not written: it is gone.
    pub fn dropped(&mut self, due: &Due) {
        self.take_out(due.record);
        self.len -= 1;
    }

    /// An entry that waits is gone.
    pub fn abandon(&mut self, number: u32) {
        self.overdue.retain(|overdue| *overdue != number);
        self.take_out(number);
        self.len -= 1;
    }

    /// The store has what was sent. Nothing if something else or nothing is under way; otherwise also whose it is.
    pub fn written(
        &mut self,
        key: &ReadStateKey,
        applied: LogPosition,
        keeps_newer: bool,
    ) -> Option<(Slot, Left)> {
        let Entry::Occupied(entry) = self.in_flight.entry(*key) else {
            return None;
        };
        if entry.get().applied != applied {
            return None;
        }
        let in_flight = entry.remove();
        let slot = self.records.get(in_flight.record).slot;
        self.take_out(in_flight.record);
        let next = in_flight.next;
        if next == NONE {
            self.len -= 1;
            return Some((slot, Left::Nothing));
        }
        if !keeps_newer {
            self.take_out(next);
            self.len -= 1;
            return Some((slot, Left::Nothing));
        }
        if in_flight.is_next_kept_back {
            self.overdue.push_back(next);
        }
        Some((slot, Left::Change(next)))
    }

    /// Takes out the entries of which nobody wants to know any more whether they are written.
    pub fn forget_in_flight(&mut self, is_forgotten: impl Fn(&ReadStateKey) -> bool) -> Vec<Slot> {
        let forgotten: Vec<InFlight> = self
            .in_flight
            .extract_if(|key, _| is_forgotten(key))
            .map(|(_, in_flight)| in_flight)
            .collect();
        let slot_of = |it: &InFlight| self.records.get(it.record).slot;
        let slots = forgotten.iter().map(slot_of).collect();
        for InFlight { record, next, .. } in forgotten {
            self.take_out(record);
            if next != NONE {
                self.take_out(next);
            }
            self.len -= 1;
        }
        slots
    }

    /// Whether a changed entry is being written.
    pub fn is_in_flight(&self, key: &ReadStateKey) -> bool {
        self.in_flight.contains_key(key)
    }

    /// When the first change was made.
    pub fn changed_at(&self, number: u32) -> Time {
        self.records.get(number).changed_at
    }

    /// No change stands before this that the store has not acknowledged.
    pub fn oldest(&self) -> Option<LogPosition> {
        self.oldest_record().map(Record::not_before)
    }

    /// When the oldest of these was made.
    pub fn oldest_changed_at(&self) -> Option<Time> {
        self.oldest_record().map(|record| record.changed_at)
    }

    fn oldest_record(&self) -> Option<&Record> {
        (self.records.oldest != NONE).then(|| self.records.get(self.records.oldest))
    }

    /// How many entries are changed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of them. Takes time in proportion to them.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let second: Vec<u32> = self.in_flight.values().map(|it| it.next).collect();
        let all = self.records.from(self.records.oldest);
        all.filter(move |(number, _)| !second.contains(number))
            .map(|(_, record)| record.slot)
    }

    /// Checks what must always hold; for tests.
    pub fn check(&self) {
        let all: Vec<&Record> = self
            .records
            .from(self.records.oldest)
            .map(|(_, record)| record)
            .collect();
        assert!(
            all.is_sorted_by_key(|record| (record.not_before(), record.changed_at)),
            "changes are in the order in which they were made"
        );
        let kept_back = self.in_flight.values().filter(|it| it.is_next_kept_back).count();
        let sent = self.in_flight.len() + kept_back + self.overdue.len();
        let waiting = self.records.from(self.next).count();
        assert_eq!(
            all.len(),
            sent + waiting,
            "each change is sent, kept back, or waits"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::io::Millis;
    use super::*;
    use crate::model::ids::{ChannelId, Offset, UserId};

    fn place(offset: u64) -> LogPosition {
        LogPosition::new(0, Offset(offset))
    }

    fn key(user: u64) -> ReadStateKey {
        ReadStateKey {
            user: UserId(user),
            channel: ChannelId(1),
        }
    }

    /// What the list should say: of each user what is sent and what is not, by the place of the first change.
    #[derive(Default)]
    struct Expected {
        waiting: BTreeMap<u64, (u64, u32)>,
        /// With what was sent, and the slot.
        in_flight: BTreeMap<u64, (u64, u64, Slot)>,
        /// Whose turn came while they were in flight.
        kept_back: BTreeSet<u64>,
    }

    impl Expected {
        fn oldest(&self) -> Option<LogPosition> {
            let sent = self.in_flight.values().map(|(since, ..)| *since);
            sent.chain(self.waiting.values().map(|(since, _)| *since))
                .min()
                .map(place)
        }

        /// Those that wait and are not in flight.
        fn free(&self) -> impl Iterator<Item = (&u64, &(u64, u32))> {
            self.waiting
                .iter()
                .filter(|(user, _)| !self.in_flight.contains_key(user))
        }

        fn len(&self) -> usize {
            let again = self
                .waiting
                .keys()
                .filter(|user| self.in_flight.contains_key(user));
            self.waiting.len() + self.in_flight.len() - again.count()
        }
    }

    /// Slots come from a slab elsewhere; here from one with nothing else in it.
    fn slots(count: u64) -> Vec<Slot> {
        use super::super::slab::Slab;
        use crate::model::read_state::ReadState;
        let mut slab = Slab::new(count as usize);
        let tenant = slab.admit();
        (1..=count)
            .map(|user| slab.insert(tenant, &key(user), &ReadState::default(), false, Time::default()))
            .collect()
    }

    const USERS: u64 = 5;

    #[derive(Debug, Clone)]
    enum Step {
        Change(u64),
        Send,
        Acknowledge(usize),
        Abandon(usize),
        Forget(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..USERS).prop_map(Step::Change),
            3 => Just(Step::Send),
            2 => (0..8_usize).prop_map(Step::Acknowledge),
            1 => (0..8_usize).prop_map(Step::Abandon),
            1 => (0..USERS).prop_map(Step::Forget),
        ]
    }

    fn next_free(changes: &mut Changes, expected: &mut Expected, slots: &[Slot]) -> Option<(u64, Due)> {
        loop {
            let due = changes.next_due(Time::before(Millis(u64::MAX)))?;
            let user = slots.iter().position(|slot| *slot == due.slot).unwrap() as u64;
            if !changes.keep_back(&key(user)) {
                return Some((user, due));
            }
            expected.kept_back.insert(user);
        }
    }

    fn take(changes: &mut Changes, expected: &mut Expected, slots: &[Slot], at: u64, step: Step) {
        match step {
            Step::Change(user) => {
                let slot = slots[user as usize];
                let is_dirty = expected.waiting.contains_key(&user) || expected.in_flight.contains_key(&user);
                if !is_dirty {
                    let number = changes.add(place(at), Time::default(), slot);
                    expected.waiting.insert(user, (at, number));
                    return;
                }
                changes.change_again(&key(user), place(at), Time::default());
                // What it is called is told with the acknowledgement.
                expected.waiting.entry(user).or_insert((at, NONE));
            }
            Step::Send => {
                let Some((user, due)) = next_free(changes, expected, slots) else {
                    assert_eq!(expected.free().count(), 0, "who is free is due");
                    return;
                };
                let is_oldest =
                    expected.free().map(|(_, (since, _))| *since).min() == Some(expected.waiting[&user].0);
                assert!(
                    is_oldest || expected.kept_back.contains(&user),
                    "in the order of first changes"
                );
                changes.sent(key(user), &due, place(at));
                expected.kept_back.remove(&user);
                let (since, _) = expected.waiting.remove(&user).unwrap();
                expected.in_flight.insert(user, (since, at, due.slot));
            }
            Step::Acknowledge(index) => {
                let Some((user, (_, applied, slot))) = expected
                    .in_flight
                    .iter()
                    .nth(index)
                    .map(|(user, it)| (*user, *it))
                else {
                    return;
                };
                assert_eq!(changes.written(&key(user), place(applied + 1), true), None);
                let written = changes.written(&key(user), place(applied), true);
                expected.in_flight.remove(&user);
                match (expected.waiting.get_mut(&user), written) {
                    (Some((_, number)), Some((whose, Left::Change(waits)))) => {
                        assert_eq!(whose, slot);
                        *number = waits;
                    }
                    (None, written) => assert_eq!(written, Some((slot, Left::Nothing))),
                    (_, other) => panic!("{other:?}"),
                }
            }
            Step::Abandon(index) => {
                let free = expected
                    .free()
                    .map(|(user, (_, number))| (*user, *number))
                    .nth(index);
                if let Some((user, number)) = free {
                    expected.kept_back.remove(&user);
                    changes.abandon(number);
                    expected.waiting.remove(&user);
                }
            }
            Step::Forget(user) => {
                let forgotten = changes.forget_in_flight(|of| *of == key(user));
                let sent = expected.in_flight.remove(&user);
                assert_eq!(
                    forgotten,
                    sent.map(|(.., slot)| slot).into_iter().collect::<Vec<_>>()
                );
                if sent.is_some() {
                    expected.kept_back.remove(&user);
                    expected.waiting.remove(&user);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_oldest_change_is_that_of_a_naive_list(steps in prop::collection::vec(step(), 1..200)) {
            let slots = slots(USERS);
            let (mut changes, mut expected) = (Changes::default(), Expected::default());
            for (at, step) in (1..).zip(steps) {
                take(&mut changes, &mut expected, &slots, at, step);
                changes.check();
                prop_assert_eq!(changes.oldest(), expected.oldest());
                prop_assert_eq!(changes.len(), expected.len());
                let mut all: Vec<Slot> = changes.slots().collect();
                all.sort_unstable();
                prop_assert_eq!(all.len(), expected.len());
                all.dedup();
                prop_assert_eq!(all.len(), expected.len(), "each entry once");
            }
        }
    }
}
