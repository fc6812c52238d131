#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::ids::{ChannelId, MessageId, Offset, UserId};
use crate::model::read_state::{Membership, Remembered};

const TENANTS: usize = 3;
const KEYS: u64 = 60;
const CAPACITY: usize = 24;

/// What the slab is held against: everything in a map, and nothing clever.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    state: ReadState,
    is_stored: bool,
    change: Option<u32>,
    is_held: bool,
}

impl Known {
    fn can_leave(&self) -> bool {
        self.change.is_none() && !self.is_held
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u64, ReadState, bool),
    Find(usize, u64),
    Remove(usize, u64),
    SetState(usize, u64, ReadState),
    Change(usize, u64, u32),
    Settle(usize, u64),
    Hold(usize, u64),
    Release(usize, u64),
    Evict,
    /// Someone goes, with or without what is changed, and someone else comes.
    Replace(usize),
}

fn key(number: u64) -> ReadStateKey {
    ReadStateKey {
        user: UserId(1 + number % 7),
        channel: ChannelId(crate::model::ids::MAX_ID - number / 7),
    }
}

fn remembered() -> impl Strategy<Value = Vec<Remembered>> {
    let one = (1..=crate::model::ids::MAX_ID, any::<bool>());
    let one = one.prop_map(|(id, everyone)| Remembered {
        id: MessageId(id),
        everyone,
    });
    prop::collection::vec(one, 0..4)
}

fn state() -> impl Strategy<Value = ReadState> {
    let membership = prop_oneof![
        Just(Membership::Unspecified),
        Just(Membership::Joined),
        Just(Membership::Left)
    ];
    let id = prop_oneof![Just(0), 1..=crate::model::ids::MAX_ID];
    let ids = (id.clone(), id.clone(), id);
    let applied = (0..255_u32, 0..LogPosition::OFFSETS_MAX);
    (applied, ids, membership, remembered(), remembered()).prop_map(
        |((epoch, offset), (last_read, forgotten, own_unknown), membership, mentions, own)| ReadState {
            applied: LogPosition::new(epoch, Offset(offset)),
            last_read: MessageId(last_read),
            membership,
            mentions: mentions.into(),
            own: own.into(),
            forgotten: MessageId(forgotten),
            own_unknown: MessageId(own_unknown),
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..TENANTS, 0..KEYS);
    prop_oneof![
        8 => (place(), state(), any::<bool>()).prop_map(|((tenant, key), state, stored)| Step::Put(tenant, key, state, stored)),
        4 => place().prop_map(|(tenant, key)| Step::Find(tenant, key)),
        2 => place().prop_map(|(tenant, key)| Step::Remove(tenant, key)),
        2 => (place(), state()).prop_map(|((tenant, key), state)| Step::SetState(tenant, key, state)),
        3 => (place(), any::<u32>()).prop_map(|((tenant, key), change)| Step::Change(tenant, key, change)),
        3 => place().prop_map(|(tenant, key)| Step::Settle(tenant, key)),
        1 => place().prop_map(|(tenant, key)| Step::Hold(tenant, key)),
        1 => place().prop_map(|(tenant, key)| Step::Release(tenant, key)),
        4 => Just(Step::Evict),
        1 => (0..TENANTS).prop_map(Step::Replace),
    ]
}

struct Pair {
    slab: Slab,
    tenants: Vec<Tenant>,
    known: BTreeMap<(usize, u64), Known>,
    now: u64,
}

impl Pair {
    fn new() -> Self {
        let mut slab = Slab::new(CAPACITY);
        let tenants = (0..TENANTS).map(|_| slab.admit()).collect();
        Pair {
            slab,
            tenants,
            known: BTreeMap::new(),
            now: 100_000,
        }
    }

    fn slot(&self, tenant: usize, number: u64) -> Option<Slot> {
        self.slab.peek(self.tenants[tenant], &key(number))
    }

    fn take(&mut self, step: Step) {
        self.now += 7;
        let now = Time::at(Millis(self.now));
        match step {
            Step::Put(tenant, number, state, is_stored) => {
                if let Some(slot) = self.slot(tenant, number) {
                    self.slab.remove(slot);
                }
                self.slab
                    .insert(self.tenants[tenant], &key(number), &state, is_stored, now);
                let known = Known {
                    state,
                    is_stored,
                    change: None,
                    is_held: false,
                };
                self.known.insert((tenant, number), known);
            }
            Step::Find(tenant, number) => {
                let found = self.slab.find(self.tenants[tenant], &key(number));
                assert_eq!(found.is_some(), self.known.contains_key(&(tenant, number)));
            }
            Step::Evict => self.evict(),
            Step::Replace(tenant) => {
                let gone = self.known.extract_if(.., |(whose, _), _| *whose == tenant);
                let changed = gone.filter(|(_, known)| known.change.is_some());
                let changed: Vec<u64> = changed.map(|((_, number), _)| number).collect();
                let slots: Vec<Slot> = changed
                    .iter()
                    .map(|number| self.slot(tenant, *number).unwrap())
                    .collect();
                self.slab.let_go(slots.into_iter());
                self.slab.dismiss(self.tenants[tenant]);
                self.tenants[tenant] = self.slab.admit();
            }
            Step::Remove(tenant, number)
            | Step::SetState(tenant, number, _)
            | Step::Change(tenant, number, _)
            | Step::Settle(tenant, number)
            | Step::Hold(tenant, number)
            | Step::Release(tenant, number) => {
                if let Some(slot) = self.slot(tenant, number) {
                    self.touch(step, slot, (tenant, number), now);
                }
            }
        }
    }

    fn touch(&mut self, step: Step, slot: Slot, place: (usize, u64), now: Time) {
        let known = self.known.get_mut(&place).unwrap();
        match step {
            Step::Remove(..) => {
                self.slab.remove(slot);
                self.known.remove(&place);
            }
            Step::SetState(_, _, state) => {
                self.slab.set_state(slot, &state);
                known.state = state;
            }
            Step::Change(_, _, change) => {
                self.slab.set_changed(slot, change);
                known.change = Some(change);
            }
            Step::Settle(..) if known.change.take().is_some() => {
                self.slab.set_settled(slot, now);
                self.slab.set_stored(slot);
                known.is_stored = true;
            }
            Step::Hold(..) => {
                self.slab.hold(slot);
                known.is_held = true;
            }
            Step::Release(..) => {
                self.slab.release(slot);
                known.is_held = false;
            }
            _ => {}
        }
    }

    /// Only what can leave has left, and no more than had to.
    fn evict(&mut self) {
        self.slab.evict(Millis(self.now));
        let all = std::mem::take(&mut self.known);
        for (place, known) in all {
            match self.slot(place.0, place.1) {
                Some(_) => drop(self.known.insert(place, known)),
                None => assert!(known.can_leave(), "{place:?} has left: {known:?}"),
            }
        }
        let is_all_kept = self.known.values().all(|known| !known.can_leave());
        assert!(
            self.slab.len <= CAPACITY || is_all_kept,
            "{} are there",
            self.slab.len
        );
    }

    fn check(&self) {
        for tenant in 0..TENANTS {
            let mut count = 0;
            for number in 0..KEYS {
                let slot = self.slot(tenant, number);
                let found = slot.map(|slot| Known {
                    state: self.slab.state(slot),
                    is_stored: self.slab.is_stored(slot),
                    change: self.slab.change_of(slot),
                    is_held: self.slab.held.contains(&slot.0),
                });
                count += usize::from(found.is_some());
                assert_eq!(
                    found.as_ref(),
                    self.known.get(&(tenant, number)),
                    "{tenant} {number}"
                );
                if let Some(slot) = slot {
                    assert_eq!(self.slab.owner(slot), (self.tenants[tenant], key(number)));
                }
            }
            assert_eq!(self.slab.len_of(self.tenants[tenant]), count);
        }
        assert_eq!(self.slab.slots().count(), self.slab.len);
    }
}

proptest! {
    #[test]
    fn it_is_as_a_map_of_which_some_leave(steps in prop::collection::vec(step(), 1..250)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.take(step);
            pair.check();
        }
    }
}

#[test]
fn what_was_used_stays_longest() {
    let mut slab = Slab::new(100);
    let tenant = slab.admit();
    let put = |slab: &mut Slab, number: u64| {
        let key = ReadStateKey {
            user: UserId(1),
            channel: ChannelId(number),
        };
        slab.insert(tenant, &key, &ReadState::default(), false, Time::at(Millis(0)));
        key
    };
    let hot: Vec<ReadStateKey> = (1..=10).map(|number| put(&mut slab, number)).collect();
    for number in 11..2000 {
        put(&mut slab, number);
        for key in &hot {
            assert!(
                slab.find(tenant, key).is_some(),
                "{key:?} left when {number} came"
            );
        }
        slab.evict(Millis(1 << 20));
    }
    assert_eq!(slab.len_of(tenant), 100);
    assert_eq!(slab.evicted_of(tenant), 1899);
}

#[test]
fn numbers_of_tenants_are_used_again() {
    let mut slab = Slab::new(10);
    for round in 0..3 * u64::from(TENANTS_MAX) {
        let tenant = slab.admit();
        let key = key(round % KEYS);
        assert_eq!(slab.peek(tenant, &key), None);
        // More than there is room for, so that some always leave behind what nobody took away.
        if round % 5000 == 0 {
            slab.insert(tenant, &key, &ReadState::default(), false, Time::at(Millis(0)));
        }
        slab.dismiss(tenant);
    }
    assert!(slab.tenants.len() <= usize::from(TENANTS_MAX));
}

#[test]
fn a_time_never_looks_older_than_it_is() {
    for at in [0, 1, 15, 16, 17, 86_400_000, 86_400_001] {
        let time = Time::at(Millis(at)).millis().0;
        assert!((at..at + 16).contains(&time), "{at}: {time}");
    }
}
