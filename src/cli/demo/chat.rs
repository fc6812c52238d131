//! A synthetic chat: channels of very different size, conversations, replies, mentions, people coming and going.
//!
//! It is a function of its seed and of the time at which it begins: who does what is decided by the seed alone, and in
//! slices of time, so that the same chat happens however fast it is read.

mod paced;
mod people;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::f64::consts::TAU;
use std::ops::RangeInclusive;

use crate::wire::proto::v1::event::Kind;
use crate::wire::proto::v1::{
    Event, MemberJoined, MemberLeft, MessageCreated, MessageDeleted, MessageMarkedUnread, MessageRead,
    MessageUpdated,
};

pub use paced::Paced;
pub use people::watched;
use people::{Presence, Room, rosters};

/// People in the chat.
const USERS: u64 = 400;
/// Channels in the chat.
const CHANNELS: u64 = 24;
/// A channel's activity falls with its rank by this power.
const ACTIVITY_EXPONENT: f64 = 1.1;
/// Everyone is mentioned this often, in the largest channel.
pub const EVERYONE_INTERVAL_MS: u64 = 60_000;
/// And after so long for the first time.
pub const EVERYONE_FIRST_MS: u64 = 10_000;
/// How much is made at a time.
pub const SLICE_MS: u64 = 20;
/// How long it takes from one lively time to the next, and how much livelier than on average it is then.
const WAVE_MS: f64 = 31_000.0;
const WAVE_SHARE: f64 = 0.35;
/// Messages of a channel that may still be edited or deleted.
const RECENT_MAX: usize = 32;

/// The id of a user, by number from 1.
pub fn user(number: u64) -> u64 {
    1_000 + number
}

/// The id of a channel, by rank from 1: the first is the largest.
pub fn channel(rank: u64) -> u64 {
    70_000 + rank
}

/// The ids of all users.
pub fn users() -> RangeInclusive<u64> {
    user(1)..=user(USERS)
}

/// The ids of all channels.
pub fn channels() -> RangeInclusive<u64> {
    channel(1)..=channel(CHANNELS)
}

/// SplitMix64, by Steele, Lea and Flood, 2014.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to the bound, which is above 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn is_one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn share(&mut self) -> f64 {
        self.next() as f64 / u64::MAX as f64
    }
}

/// A message that may still be edited or deleted.
#[derive(Clone, Debug)]
struct Recent {
    message: u64,
    author: usize,
}

/// Some people who talk to each other.
#[derive(Clone, Debug)]
struct Conversation {
    rank: usize,
    people: Vec<usize>,
    last_author: usize,
    messages_left: usize,
}

/// A chat that goes on slice by slice.
#[derive(Debug)]
pub struct Chat {
    random: Random,
    rate: f64,
    began_unix_ms: u64,
    slices: u64,
    /// Events that are due and not made yet, less than one after each slice.
    due: f64,
    everyone_at_ms: u64,
    sequence: u64,
    last_message: u64,
    activity: Vec<f64>,
    rooms: Vec<Room>,
    presence: Presence,
    conversation: Option<Conversation>,
    made: Vec<Event>,
}

impl Chat {
    /// So many events in a second on average, from this time on. `newest` is the newest message of each channel by rank,
    /// where the chat goes on in channels that have some; messages after it have larger ids.
    pub fn new(rate: u32, seed: u64, began_unix_ms: u64, newest: &[u64]) -> Self {
        let weights = (1..=CHANNELS).map(|rank| (rank as f64).powf(-ACTIVITY_EXPONENT));
        let total: f64 = weights.clone().sum();
        let mut sum = 0.0;
        let activity = weights.map(|weight| {
            sum += weight / total;
            sum
        });
        let mut random = Random(seed);
        let newest_of = |rank: usize| newest.get(rank).copied().unwrap_or(0);
        let rooms = rosters().into_iter().enumerate();
        let rooms: Vec<Room> = rooms
            .map(|(rank, roster)| Room::new(roster, newest_of(rank)))
            .collect();
        Chat {
            rate: f64::from(rate),
            began_unix_ms,
            slices: 0,
            due: 0.0,
            everyone_at_ms: EVERYONE_FIRST_MS,
            // Two chats at once (the demo's and that of `load`) hardly ever take the same ids.
            sequence: random.next(),
            last_message: newest.iter().copied().max().unwrap_or(0),
            activity: activity.collect(),
            presence: Presence::new(&rooms, &mut random),
            rooms,
            conversation: None,
            made: Vec::new(),
            random,
        }
    }

    /// Everybody joins where they belong: what the chat begins with, however it ended the last time.
    pub fn begin(&mut self) -> Vec<Event> {
        for rank in 0..self.rooms.len() {
            for person in self.rooms[rank].roster() {
                self.make(rank, Kind::MemberJoined(MemberJoined { user_id: id(person) }));
            }
        }
        std::mem::take(&mut self.made)
    }

    /// What happens in the next [`SLICE_MS`].
    pub fn slice(&mut self) -> Vec<Event> {
        let now_ms = self.slices * SLICE_MS;
        let wave = 1.0 + WAVE_SHARE * (TAU * now_ms as f64 / WAVE_MS).sin();
        self.due += self.rate * SLICE_MS as f64 / 1000.0 * wave;
        self.slices += 1;
        if now_ms >= self.everyone_at_ms {
            self.everyone_at_ms += EVERYONE_INTERVAL_MS;
            self.mention_everyone();
        }
        // Nobody may have anything to do: that is no reason to wait for it forever.
        for _ in 0..(4.0 * self.due) as usize {
            if self.made.len() as f64 + 1.0 > self.due {
                break;
            }
            self.step();
        }
        let made = std::mem::take(&mut self.made);
        self.due = (self.due - made.len() as f64).clamp(-1.0, 1.0);
        made
    }

    fn step(&mut self) {
        match self.random.below(1000) {
            0..440 => self.post(),
            440..900 => self.look(),
            900..930 => self.edit(),
            930..945 => self.delete(),
            945..955 => self.mark_unread(),
            955..965 => self.leave_or_join(),
            _ => self.presence.come_or_go(&self.rooms, &mut self.random),
        }
    }

    /// Someone says something, usually within a conversation.
    fn post(&mut self) {
        let conversation = self.conversation.take().filter(|it| it.messages_left > 0);
        let is_ended = conversation.is_none() || self.random.is_one_in(4);
        let mut conversation = match conversation {
            Some(conversation) if !is_ended => conversation,
            // Beside it, others talk as well.
            other => match self.conversation_somewhere() {
                Some(new) if other.is_none() || self.random.is_one_in(3) => new,
                Some(mut new) => {
                    self.say(&mut new);
                    self.conversation = other;
                    return;
                }
                None => return,
            },
        };
        self.say(&mut conversation);
        self.conversation = Some(conversation);
    }

    fn conversation_somewhere(&mut self) -> Option<Conversation> {
        let share = self.random.share();
        let rank = self.activity.partition_point(|sum| *sum < share);
        let rank = rank.min(self.rooms.len() - 1);
        let members = self.presence.online_members(&self.rooms[rank]);
        if members.is_empty() {
            return None;
        }
        let people: Vec<_> = (0..2 + self.random.below(4))
            .map(|_| members[self.random.below(members.len())])
            .collect();
        Some(Conversation {
            rank,
            last_author: people[0],
            people,
            messages_left: 3 + self.random.below(20),
        })
    }

    /// The next message of a conversation: often a reply, which mentions whom it replies to.
    fn say(&mut self, conversation: &mut Conversation) {
        conversation.messages_left = conversation.messages_left.saturating_sub(1);
        let (rank, people) = (conversation.rank, &conversation.people);
        let author = people[self.random.below(people.len())];
        let is_there = |person: usize| self.rooms[rank].is_member(person);
        if !is_there(author) {
            return;
        }
        let mut mentioned = Vec::new();
        if author != conversation.last_author
            && is_there(conversation.last_author)
            && self.random.is_one_in(3)
        {
            mentioned.push(conversation.last_author);
        }
        if self.random.is_one_in(8) {
            // Perhaps someone who is not even online.
            let members = self.rooms[rank].members();
            let other = members[self.random.below(members.len())];
            if other != author && !mentioned.contains(&other) {
                mentioned.push(other);
            }
        }
        conversation.last_author = author;
        self.create(rank, author, mentioned, false);
    }

    fn mention_everyone(&mut self) {
        let members = self.presence.online_members(&self.rooms[0]);
        let members = if members.is_empty() {
            self.rooms[0].members()
        } else {
            members
        };
        if members.is_empty() {
            return;
        }
        let author = members[self.random.below(members.len())];
        self.create(0, author, Vec::new(), true);
    }

    fn create(&mut self, rank: usize, author: usize, mentioned: Vec<usize>, mentions_everyone: bool) {
        let message = self.message_id();
        self.presence.mentioned(rank, &mentioned);
        self.rooms[rank].posted(message, author);
        let created = MessageCreated {
            message_id: message,
            author_id: id(author),
            mentioned_user_ids: mentioned.into_iter().map(id).collect(),
            mentions_everyone,
        };
        self.make(rank, Kind::MessageCreated(created));
    }

    /// Someone who is online looks at a channel, and reads it if there is something new.
    fn look(&mut self) {
        let Some((rank, person)) = self.presence.look(&self.rooms, &mut self.random) else {
            return;
        };
        if let Some(message) = self.rooms[rank].read(person) {
            let read = MessageRead {
                user_id: id(person),
                message_id: message,
            };
            self.make(rank, Kind::MessageRead(read));
        }
    }

    /// An author looks at what was said once more, and mentions others, or nobody any more.
    fn edit(&mut self) {
        let Some((rank, recent)) = self.recent() else {
            return;
        };
        let members = self.rooms[rank].members();
        let other = members.get(self.random.below(members.len().max(1))).copied();
        let other = other.filter(|other| *other != recent.author && self.random.is_one_in(2));
        self.presence.mentioned(rank, other.as_slice());
        let updated = MessageUpdated {
            message_id: recent.message,
            mentioned_user_ids: other.into_iter().map(id).collect(),
            mentions_everyone: false,
        };
        self.make(rank, Kind::MessageUpdated(updated));
    }

    fn delete(&mut self) {
        if let Some((rank, recent)) = self.recent() {
            self.rooms[rank].deleted(recent.message);
            let deleted = MessageDeleted {
                message_ids: vec![recent.message],
            };
            self.make(rank, Kind::MessageDeleted(deleted));
        }
    }

    fn mark_unread(&mut self) {
        let Some((rank, recent)) = self.recent() else {
            return;
        };
        let readers = self.presence.online_members(&self.rooms[rank]);
        if readers.is_empty() {
            return;
        }
        let person = readers[self.random.below(readers.len())];
        if self.rooms[rank].mark_unread(person, recent.message) {
            let marked = MessageMarkedUnread {
                user_id: id(person),
                message_id: recent.message,
            };
            self.make(rank, Kind::MessageMarkedUnread(marked));
        }
    }

    fn leave_or_join(&mut self) {
        let rank = self.random.below(self.rooms.len());
        let room = &mut self.rooms[rank];
        let kind = if room.members().len() * 10 > room.roster().len() * 9 {
            let members = room.members();
            let person = members[self.random.below(members.len())];
            room.left(person);
            self.presence.left(rank, person);
            Kind::MemberLeft(MemberLeft { user_id: id(person) })
        } else {
            let absent = room.absent();
            let person = absent[self.random.below(absent.len())];
            room.joined(person);
            Kind::MemberJoined(MemberJoined { user_id: id(person) })
        };
        self.make(rank, kind);
    }

    /// A message that may still be edited or deleted. Never one for everyone, of which there is one a minute.
    fn recent(&mut self) -> Option<(usize, Recent)> {
        let share = self.random.share();
        let rank = self.activity.partition_point(|sum| *sum < share);
        let rank = rank.min(self.rooms.len() - 1);
        let recent: &VecDeque<Recent> = self.rooms[rank].recent();
        if recent.is_empty() {
            return None;
        }
        Some((rank, recent[self.random.below(recent.len())].clone()))
    }

    /// Like a snowflake: milliseconds first, so that newer is larger, also than what an earlier run has made.
    fn message_id(&mut self) -> u64 {
        let now_ms = self.began_unix_ms + self.slices * SLICE_MS;
        self.sequence = self.sequence.wrapping_add(1);
        let by_time = now_ms << 16 | (self.sequence & 0xFFFF);
        self.last_message = by_time.max(self.last_message + 1);
        self.last_message
    }

    fn make(&mut self, rank: usize, kind: Kind) {
        self.made.push(Event {
            channel_id: channel(rank as u64 + 1),
            kind: Some(kind),
        });
    }
}

fn id(person: usize) -> u64 {
    user(person as u64 + 1)
}
