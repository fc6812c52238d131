//! Who is in which channel, who is online, and what they have read.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::{CHANNELS, RECENT_MAX, Random, Recent, USERS, channel, user};

/// A channel's size falls with its rank by this power.
const SIZE_EXPONENT: f64 = 0.9;
/// The smallest channel has so many members.
const SIZE_MIN: f64 = 8.0;
/// Of the people, one in so many is online.
const ONLINE_ONE_IN: usize = 3;
/// People change to another channel at one look in so many.
const MOVE_ONE_IN: usize = 6;
/// Channels with mentions that a person remembers.
const CALLS_MAX: usize = 16;

/// Who belongs into each channel, by number from 0: the same in every run, whatever its seed, so that a run that goes on
/// with the data of another one has the same people in the same places.
pub(super) fn rosters() -> Vec<Vec<usize>> {
    let of_rank = |rank: u64| {
        let size = (USERS as f64 * (rank as f64).powf(-SIZE_EXPONENT)).max(SIZE_MIN) as usize;
        let mut people: Vec<_> = (0..USERS as usize).collect();
        people.sort_by_key(|person| Random(rank << 32 | *person as u64).next());
        people.truncate(size);
        people.sort_unstable();
        people
    };
    (1..=CHANNELS).map(of_rank).collect()
}

/// People and channels to look at: channels of different size, and those who are in most of them.
pub fn watched(people_max: usize, channels_max: usize) -> (Vec<u64>, Vec<u64>) {
    let rosters = rosters();
    let ranks: Vec<usize> = [0, 1, 3, 6, 10, 15].into_iter().take(channels_max).collect();
    let memberships = |person: &usize| {
        ranks
            .iter()
            .filter(|rank| rosters[**rank].contains(person))
            .count()
    };
    let mut people: Vec<usize> = (0..USERS as usize).collect();
    people.sort_by_key(|person| Reverse(memberships(person)));
    people.truncate(people_max);
    (
        people.into_iter().map(|person| user(person as u64 + 1)).collect(),
        ranks.into_iter().map(|rank| channel(rank as u64 + 1)).collect(),
    )
}

/// A channel with its people.
#[derive(Debug)]
pub(super) struct Room {
    roster: Vec<usize>,
    /// What each of the roster has read; none for those who have left.
    last_read: Vec<Option<u64>>,
    recent: VecDeque<Recent>,
    newest: u64,
}

impl Room {
    pub fn new(roster: Vec<usize>, newest: u64) -> Self {
        Room {
            last_read: vec![Some(newest); roster.len()],
            roster,
            recent: VecDeque::new(),
            newest,
        }
    }

    pub fn roster(&self) -> Vec<usize> {
        self.roster.clone()
    }

    pub fn members(&self) -> Vec<usize> {
        self.those(Option::is_some)
    }

    pub fn absent(&self) -> Vec<usize> {
        self.those(Option::is_none)
    }

    fn those(&self, which: impl Fn(&Option<u64>) -> bool) -> Vec<usize> {
        let all = self.roster.iter().zip(&self.last_read);
        all.filter(|(_, last_read)| which(last_read))
            .map(|(person, _)| *person)
            .collect()
    }

    fn last_read(&self, person: usize) -> Option<u64> {
        let at = self.roster.binary_search(&person).ok()?;
        self.last_read[at]
    }

    fn set_last_read(&mut self, person: usize, last_read: Option<u64>) {
        if let Ok(at) = self.roster.binary_search(&person) {
            self.last_read[at] = last_read;
        }
    }

    pub fn is_member(&self, person: usize) -> bool {
        self.last_read(person).is_some()
    }

    pub fn is_unread(&self, person: usize) -> bool {
        self.last_read(person)
            .is_some_and(|last_read| last_read < self.newest)
    }

    pub fn recent(&self) -> &VecDeque<Recent> {
        &self.recent
    }

    pub fn posted(&mut self, message: u64, author: usize) {
        self.newest = message;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent { message, author });
        self.set_last_read(author, Some(message));
    }

    pub fn deleted(&mut self, message: u64) {
        self.recent.retain(|recent| recent.message != message);
        if self.newest == message {
            self.newest = self.recent.back().map_or(0, |newest| newest.message);
        }
    }

    /// Reads everything. Up to which message, if there is something new.
    pub fn read(&mut self, person: usize) -> Option<u64> {
        let newest = self.newest;
        self.last_read(person).filter(|last_read| *last_read < newest)?;
        self.set_last_read(person, Some(newest));
        Some(newest)
    }

    /// Whether that changes anything.
    pub fn mark_unread(&mut self, person: usize, message: u64) -> bool {
        let is_read = self
            .last_read(person)
            .is_some_and(|last_read| last_read >= message);
        if is_read {
            self.set_last_read(person, Some(message - 1));
        }
        is_read
    }

    pub fn left(&mut self, person: usize) {
        self.set_last_read(person, None);
    }

    pub fn joined(&mut self, person: usize) {
        self.set_last_read(person, Some(self.newest));
    }
}

/// Who is online, and where.
#[derive(Debug)]
pub(super) struct Presence {
    people: Vec<Person>,
    online: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
struct Person {
    is_online: bool,
    /// The channel that is open.
    open: Option<usize>,
    /// Channels in which the person was mentioned, by rank.
    calls: Vec<usize>,
}

impl Presence {
    pub fn new(rooms: &[Room], random: &mut Random) -> Self {
        let mut presence = Presence {
            people: vec![Person::default(); USERS as usize],
            online: Vec::new(),
        };
        for _ in 0..USERS as usize / ONLINE_ONE_IN {
            presence.come(rooms, random);
        }
        presence
    }

    pub fn online_members(&self, room: &Room) -> Vec<usize> {
        let mut members = room.members();
        members.retain(|person| self.people[*person].is_online);
        members
    }

    /// These were mentioned in a channel.
    pub fn mentioned(&mut self, rank: usize, people: &[usize]) {
        for person in people {
            let calls = &mut self.people[*person].calls;
            if !calls.contains(&rank) && calls.len() < CALLS_MAX {
                calls.push(rank);
            }
        }
    }

    pub fn left(&mut self, rank: usize, person: usize) {
        let person = &mut self.people[person];
        person.calls.retain(|call| *call != rank);
        person.open = person.open.filter(|open| *open != rank);
    }

    /// Who looks, and where: at a channel with mentions first, else at the one that is open, now and then at another
    /// one that has something new.
    pub fn look(&mut self, rooms: &[Room], random: &mut Random) -> Option<(usize, usize)> {
        if self.online.is_empty() {
            return None;
        }
        let number = self.online[random.below(self.online.len())];
        let person = &mut self.people[number];
        let is_unread = |rank: &usize| rooms[*rank].is_unread(number);
        if !person.calls.is_empty() {
            person.open = Some(person.calls.remove(0));
        } else if person.open.filter(is_unread).is_none() || random.is_one_in(MOVE_ONE_IN) {
            let unread: Vec<_> = (0..rooms.len()).filter(is_unread).collect();
            if !unread.is_empty() {
                person.open = Some(unread[random.below(unread.len())]);
            }
        }
        Some((person.open?, number))
    }

    /// Someone goes, or someone comes.
    pub fn come_or_go(&mut self, rooms: &[Room], random: &mut Random) {
        if self.online.len() > USERS as usize / ONLINE_ONE_IN {
            let number = self.online.swap_remove(random.below(self.online.len()));
            let person = &mut self.people[number];
            (person.is_online, person.open) = (false, None);
        } else {
            self.come(rooms, random);
        }
    }

    fn come(&mut self, rooms: &[Room], random: &mut Random) {
        let number = random.below(self.people.len());
        let person = &mut self.people[number];
        if !std::mem::replace(&mut person.is_online, true) {
            let is_member = |rank: &usize| rooms[*rank].is_member(number);
            let places: Vec<_> = (0..rooms.len()).filter(is_member).collect();
            person.open = (!places.is_empty()).then(|| places[random.below(places.len())]);
            self.online.push(number);
        }
    }
}
