//! What happened in a chat: a real year where its file is there, else one by a seed. Into both is mixed what the file
//! lacks: edits, deletions, marks, leaves, deleted channels, duplicates, late messages, and many small channels.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use readstates::wire::json::from_json;
use readstates::wire::proto::v1::event::Kind;
use readstates::wire::proto::v1::{
    ChannelDeleted, Event, MemberJoined, MemberLeft, MessageCreated, MessageDeleted, MessageMarkedUnread,
    MessageRead, MessageUpdated,
};

use super::rng::Rng;

/// Events of the synthetic year, where there is no file.
const SYNTHETIC_EVENTS: usize = 250_000;
const SYNTHETIC_USERS: usize = 1500;
/// Further events after each thousand of the year.
const MIXED_IN_PERMILLE: u64 = 130;
/// Of small channels, beside those of the year.
const SMALL_CHANNELS: usize = 300;
/// Mentions by name in one message, deletions in one event: within the limits that the tests set.
pub const LISTED_MAX: u64 = 8;
/// Channels of the year have so many events at least if they are never to be deleted.
const LARGE_CHANNEL_EVENTS: usize = 3000;
const MAX_ID: u64 = i64::MAX as u64;

/// The year as it is: the real one if its file is found, else a synthetic one.
pub fn year(seed: u64) -> (Vec<Event>, &'static str) {
    match find_file() {
        Some(path) => (read(&path), "the year 2019 of a real chat"),
        None => (synthetic(seed), "a synthetic year"),
    }
}

fn find_file() -> Option<PathBuf> {
    let name = "shared/data/chat-2019.ndjson.zst";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = match std::env::var_os("READSTATES_EVENTS") {
        Some(named) => vec![PathBuf::from(named)],
        None => ["..", "../.."].map(|up| root.join(up).join(name)).to_vec(),
    };
    paths.into_iter().find(|path| path.exists())
}

fn read(path: &Path) -> Vec<Event> {
    let file = std::fs::File::open(path).unwrap();
    let lines = BufReader::new(zstd::Decoder::new(file).unwrap()).split(b'\n');
    lines.map(|line| from_json(&line.unwrap()).unwrap()).collect()
}

fn synthetic(seed: u64) -> Vec<Event> {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let users: Vec<u64> = (0..SYNTHETIC_USERS).map(|_| 1 + rng.below(MAX_ID)).collect();
    let channels: Vec<u64> = (0..8).map(|_| 1 + rng.below(MAX_ID)).collect();
    let mut newest = vec![1_900_000_000_000_000_000; channels.len()];
    let mut events: Vec<Event> = Vec::new();
    for n in 0..SYNTHETIC_EVENTS {
        let place = rng.weighted(&[60, 15, 13, 9, 5, 2, 1, 1]);
        // Some talk much, most hardly ever; all of them come bit by bit.
        let known = 20 + users.len() * n / SYNTHETIC_EVENTS;
        let user = users[(rng.index(known.min(users.len()))).min(rng.index(users.len()))];
        let kind = match rng.weighted(&[55, 44, 1]) {
            0 => {
                newest[place] += rng.between(1, 5_000_000);
                Kind::MessageCreated(MessageCreated {
                    message_id: newest[place],
                    author_id: user,
                    mentioned_user_ids: if rng.percent(19) {
                        vec![*rng.pick(&users)]
                    } else {
                        vec![]
                    },
                    mentions_everyone: false,
                })
            }
            1 => read_of(user, newest[place]),
            _ => Kind::MemberJoined(MemberJoined { user_id: user }),
        };
        events.push(event(channels[place], kind));
    }
    events
}

fn event(channel_id: u64, kind: Kind) -> Event {
    Event {
        channel_id,
        kind: Some(kind),
    }
}

fn read_of(user_id: u64, message_id: u64) -> Kind {
    Kind::MessageRead(MessageRead { user_id, message_id })
}

/// Every user and channel that have to do with each other.
pub fn keys(events: &[Event]) -> Vec<(u64, u64)> {
    let mut keys = BTreeSet::new();
    for event in events {
        keys.extend(users_of(event).into_iter().map(|user| (user, event.channel_id)));
    }
    keys.into_iter().collect()
}

fn users_of(event: &Event) -> Vec<u64> {
    match event.kind.as_ref().unwrap() {
        Kind::MessageCreated(it) => {
            let author = Some(it.author_id).filter(|author| *author != 0);
            it.mentioned_user_ids.iter().copied().chain(author).collect()
        }
        Kind::MessageUpdated(it) => it.mentioned_user_ids.clone(),
        Kind::MessageRead(it) => vec![it.user_id],
        Kind::MessageMarkedUnread(it) => vec![it.user_id],
        Kind::MemberJoined(it) => vec![it.user_id],
        Kind::MemberLeft(it) => vec![it.user_id],
        Kind::MessageDeleted(_) | Kind::ChannelDeleted(_) => vec![],
    }
}

/// What the mixer knows of a channel.
#[derive(Default)]
struct Channel {
    messages: Vec<u64>,
    known: BTreeSet<u64>,
    users: Vec<u64>,
}

/// Mixes further events into a year.
pub fn mix(year: &[Event], seed: u64) -> Vec<Event> {
    let mut sizes = BTreeMap::new();
    for event in year {
        *sizes.entry(event.channel_id).or_insert(0) += 1;
    }
    let all_users: BTreeSet<u64> = year.iter().flat_map(users_of).collect();
    let mut mixer = Mixer {
        rng: Rng::new(seed),
        channels: BTreeMap::new(),
        mixed: Vec::with_capacity(year.len() * 2),
        small: Vec::new(),
        users: all_users.into_iter().collect(),
        sizes,
    };
    mixer.small = (0..SMALL_CHANNELS).map(|_| 1 + mixer.rng.below(MAX_ID)).collect();
    for (at, event) in year.iter().enumerate() {
        mixer.push(event.clone());
        if mixer.rng.permille(MIXED_IN_PERMILLE) {
            mixer.mix_in(event.channel_id, &year[at + 1..]);
        }
        if mixer.rng.percent(12) {
            mixer.talk_in_small();
        }
    }
    mixer.mixed
}

struct Mixer {
    rng: Rng,
    channels: BTreeMap<u64, Channel>,
    mixed: Vec<Event>,
    small: Vec<u64>,
    users: Vec<u64>,
    sizes: BTreeMap<u64, usize>,
}

impl Mixer {
    fn push(&mut self, event: Event) {
        let channel = self.channels.entry(event.channel_id).or_default();
        if let Some(Kind::MessageCreated(it)) = &event.kind
            && channel.known.insert(it.message_id)
        {
            channel.messages.push(it.message_id);
        }
        channel.users.extend(users_of(&event));
        self.mixed.push(event);
    }

    fn user(&mut self, channel: u64) -> u64 {
        let users = self
            .channels
            .get(&channel)
            .map_or(&[][..], |channel| &channel.users);
        match users.is_empty() || self.rng.percent(3) {
            true => *self.rng.pick(&self.users),
            false => *self.rng.pick(users),
        }
    }

    /// A message of the channel: mostly a recent one, at times any.
    fn message(&mut self, channel: u64) -> u64 {
        let messages = self
            .channels
            .get(&channel)
            .map_or(&[][..], |channel| &channel.messages);
        let from = match self.rng.weighted(&[70, 20, 10]) {
            0 => messages.len().saturating_sub(30),
            1 => messages.len().saturating_sub(1500),
            _ => 0,
        };
        match messages.len() {
            0 => 1 + self.rng.below(1000),
            len => messages[from + self.rng.index(len - from)],
        }
    }

    fn mentions(&mut self, channel: u64) -> Vec<u64> {
        let count = match self.rng.weighted(&[50, 35, 15]) {
            0 => 0,
            1 => 1,
            _ => self.rng.between(2, LISTED_MAX),
        };
        (0..count).map(|_| self.user(channel)).collect()
    }

    /// What may happen to any channel; `ahead` is what the year brings next.
    fn mix_in(&mut self, channel: u64, ahead: &[Event]) {
        let user_id = self.user(channel);
        let message_id = self.message(channel);
        let kind = match self.rng.weighted(&[25, 22, 15, 9, 9, 8, 6, 3, 2, 1]) {
            0 => Kind::MessageUpdated(MessageUpdated {
                message_id,
                mentioned_user_ids: self.mentions(channel),
                mentions_everyone: self.rng.percent(5),
            }),
            1 => Kind::MessageDeleted(MessageDeleted {
                message_ids: self.deletions(channel, ahead),
            }),
            2 => Kind::MessageMarkedUnread(MessageMarkedUnread {
                user_id,
                message_id: message_id - self.rng.below(2).min(message_id - 1),
            }),
            3 => Kind::MemberLeft(MemberLeft { user_id }),
            4 => Kind::MemberJoined(MemberJoined { user_id }),
            // A late message, just behind another one.
            5 => Kind::MessageCreated(MessageCreated {
                message_id: message_id + 1,
                author_id: if self.rng.percent(5) { 0 } else { user_id },
                mentioned_user_ids: self.mentions(channel),
                mentions_everyone: self.rng.percent(5),
            }),
            6 => return self.repeat(),
            // A read of a message that is not there, at times ahead of the newest.
            7 => read_of(user_id, message_id + self.rng.below(1 << 20)),
            8 => Kind::MessageCreated(MessageCreated {
                message_id: self.newest(channel) + 1,
                author_id: user_id,
                mentioned_user_ids: self.mentions(channel),
                mentions_everyone: true,
            }),
            _ if self.sizes[&channel] < LARGE_CHANNEL_EVENTS && self.rng.percent(5) => {
                Kind::ChannelDeleted(ChannelDeleted {})
            }
            _ => read_of(user_id, message_id),
        };
        self.push(event(channel, kind));
    }

    fn newest(&self, channel: u64) -> u64 {
        let known = self
            .channels
            .get(&channel)
            .and_then(|channel| channel.known.last());
        known.copied().unwrap_or(1_900_000_000_000_000_000)
    }

    /// Some messages of the channel, at times one that does not exist or does not exist yet.
    fn deletions(&mut self, channel: u64, ahead: &[Event]) -> Vec<u64> {
        let mut ids: Vec<u64> = match self.rng.weighted(&[2, 70, 28]) {
            0 => vec![],
            1 => vec![self.message(channel)],
            _ => (0..self.rng.between(2, LISTED_MAX - 1))
                .map(|_| self.message(channel))
                .collect(),
        };
        let coming = ahead.iter().take(40).find_map(|event| match &event.kind {
            Some(Kind::MessageCreated(it)) if event.channel_id == channel => Some(it.message_id),
            _ => None,
        });
        match self.rng.below(20) {
            0 => ids.push(self.message(channel) + self.rng.between(1, 3)),
            1 | 2 => ids.extend(coming),
            _ => {}
        }
        ids
    }

    /// Publishes again what was published before.
    fn repeat(&mut self) {
        let back = self.rng.between(1, 2000).min(self.mixed.len() as u64) as usize;
        let again = self.mixed[self.mixed.len() - back].clone();
        self.push(again);
    }

    fn talk_in_small(&mut self) {
        let place = self
            .rng
            .index(self.small.len())
            .min(self.rng.index(self.small.len()));
        let channel = self.small[place];
        let user_id = self.users[(place * 7 + self.rng.index(12)) % self.users.len()];
        let kind = match self.rng.weighted(&[500, 240, 60, 198, 2]) {
            0 => Kind::MessageCreated(MessageCreated {
                message_id: self.newest(channel) + self.rng.between(1, 1000),
                author_id: if self.rng.percent(3) { 0 } else { user_id },
                mentioned_user_ids: self.mentions(channel),
                mentions_everyone: self.rng.percent(3),
            }),
            1 => read_of(user_id, self.message(channel)),
            2 => Kind::MemberJoined(MemberJoined { user_id }),
            3 => {
                self.sizes.insert(channel, LARGE_CHANNEL_EVENTS);
                return self.mix_in(channel, &[]);
            }
            _ => Kind::ChannelDeleted(ChannelDeleted {}),
        };
        self.push(event(channel, kind));
    }
}
