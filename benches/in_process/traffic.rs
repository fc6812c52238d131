//! The events of a chat, made before they are measured.

use readstates::model::event::{Event, EventKind, Mentions};
use readstates::model::ids::{ChannelId, MessageId, ReadStateKey, UserId};

use super::random::Random;

/// Messages of a channel that are edited, deleted, marked or read.
const RECENT: usize = 4;

/// How many channels and members there are, and which channels the events are about.
#[derive(Clone, Copy)]
pub struct Chat {
    pub channels: u64,
    /// Of each channel.
    pub members: u64,
    /// The n-th busiest channel has 1/n of the events of the busiest (Zipf); otherwise all have as many.
    pub is_skewed: bool,
}

impl Chat {
    /// Users are in as many channels as channels have members, but in no more than there are.
    fn users(&self) -> u64 {
        self.channels.max(self.members)
    }

    /// A member of a channel, both counted from 0.
    pub fn key(&self, channel: u64, member: u64) -> ReadStateKey {
        let spread = member.wrapping_mul(if self.users() > self.members { 7919 } else { 1 });
        ReadStateKey {
            user: UserId(1 + (channel * 31 + spread) % self.users()),
            channel: ChannelId(1 + channel),
        }
    }

    /// Every member joins every channel. The members of one come far apart.
    pub fn joins(&self) -> impl Iterator<Item = Event> + use<> {
        let chat = *self;
        (0..chat.members).flat_map(move |member| {
            (0..chat.channels).map(move |channel| {
                let ReadStateKey { user, channel } = chat.key(channel, member);
                Event {
                    channel,
                    kind: EventKind::MemberJoined { user },
                }
            })
        })
    }
}

/// What happens in a chat. Messages have rising ids.
pub struct Traffic {
    pub chat: Chat,
    pub random: Random,
    last_message: u64,
    /// Of each channel.
    recent: Vec<[MessageId; RECENT]>,
    /// Of each channel, busiest first: the events of all up to it. Empty if all have as many.
    busy: Vec<f64>,
}

impl Traffic {
    pub fn new(chat: Chat) -> Self {
        let ranks = if chat.is_skewed { chat.channels } else { 0 };
        let mut sum = 0.0;
        Traffic {
            chat,
            random: Random(1),
            last_message: 0,
            recent: vec![[MessageId(1); RECENT]; chat.channels as usize],
            busy: (1..=ranks)
                .map(|rank| {
                    sum += 1.0 / rank as f64;
                    sum
                })
                .collect(),
        }
    }

    /// Which channel the next event is about, counted from 0.
    pub fn channel(&mut self) -> u64 {
        let channels = self.chat.channels;
        let Some(all) = self.busy.last() else {
            return self.random.below(channels);
        };
        let at = self.random.fraction() * all;
        let rank = self.busy.partition_point(|up_to| *up_to <= at) as u64;
        // The busy ones are not neighbours.
        (rank * 65_537 + 1) % channels
    }

    pub fn member(&mut self, channel: u64) -> ReadStateKey {
        let member = self.random.below(self.chat.members);
        self.chat.key(channel, member)
    }

    /// A new message.
    pub fn message(&mut self, channel: u64, named: usize, everyone: bool) -> Event {
        self.last_message += 1;
        let message = MessageId(self.last_message);
        self.recent[channel as usize][(self.last_message % RECENT as u64) as usize] = message;
        let users = (0..named).map(|_| self.member(channel).user).collect();
        Event {
            channel: ChannelId(1 + channel),
            kind: EventKind::MessageCreated {
                message,
                author: Some(self.member(channel).user),
                mentions: Mentions::new(users, everyone),
            },
        }
    }

    /// Of 100 events 60 are reads and 30 new messages, of which a fifth mentions someone by name and a fiftieth everyone.
    pub fn event(&mut self) -> Event {
        let channel = self.channel();
        let message = self.recent[channel as usize][self.random.below(RECENT as u64) as usize];
        let user = self.member(channel).user;
        let kind = match self.random.below(100) {
            0..30 => {
                let named = [0, 0, 0, 0, 0, 0, 0, 0, 1, 3][self.random.below(10) as usize];
                let everyone = self.random.below(50) == 0;
                return self.message(channel, named, everyone);
            }
            30..33 => EventKind::MessageUpdated {
                message,
                mentions: Mentions::default(),
            },
            33..35 => EventKind::MessageDeleted {
                messages: vec![message],
            },
            35..36 => EventKind::MessageMarkedUnread { user, message },
            36..38 => EventKind::MemberJoined { user },
            38..39 => EventKind::MemberLeft { user },
            39..100 => EventKind::MessageRead { user, message },
            100.. => unreachable!("below 100"),
        };
        Event {
            channel: ChannelId(1 + channel),
            kind,
        }
    }

    pub fn events(&mut self, count: u64) -> Vec<Event> {
        (0..count).map(|_| self.event()).collect()
    }
}
