//! A log that looks for trouble: what is published in a run.

use std::collections::HashSet;

use readstates::model::event::{Event as ModelEvent, EventKind, Mentions};
use readstates::model::ids::{ChannelId, LogPosition, MessageId, Offset, UserId};
use readstates::oracle::Event;

use super::judge::Count;
use super::profile::Profile;
use super::rng::Rng;
use super::stats::{Stat, Stats};

/// One record.
pub struct Record {
    pub offset: u64,
    /// Nothing if it went to the dead letters.
    pub event: Option<(u64, Event)>,
}

/// A stream that was replaced by the next one when everything of it was in the store.
pub struct Epoch {
    pub number: u32,
    /// How many records came before it.
    pub first: Count,
    /// How many records there are with its own.
    pub last: Count,
    /// The offset after its last record; markers may lie in between.
    pub end: u64,
}

pub struct Log {
    /// In order; offsets ascend within an epoch, with gaps.
    pub records: Vec<Record>,
    pub epochs: Vec<Epoch>,
}

impl Log {
    pub fn generate(profile: &Profile, rng: &mut Rng, stats: &mut Stats) -> Self {
        let mut channels: Vec<Channel> = (1..=profile.channels).map(Channel::new).collect();
        let mut log = Log {
            records: Vec::with_capacity(profile.records),
            epochs: Vec::new(),
        };
        let cut = match rng.percent(profile.two_epochs_percent) {
            true => rng.index(profile.records),
            false => profile.records,
        };
        log.add_epoch(profile.epoch, cut, &mut channels, profile, rng, stats);
        if cut < profile.records {
            let next = profile.epoch + rng.between(1, 2) as u32;
            log.add_epoch(next, profile.records, &mut channels, profile, rng, stats);
        }
        log
    }

    fn add_epoch(
        &mut self,
        number: u32,
        up_to: Count,
        channels: &mut [Channel],
        profile: &Profile,
        rng: &mut Rng,
        stats: &mut Stats,
    ) {
        let first = self.records.len();
        let mut offset = if rng.percent(30) { rng.below(5) } else { 0 };
        for _ in first..up_to {
            let event = if rng.percent(2) {
                stats.hit(Stat::DeadLetter);
                None
            } else {
                let index = rng.index(channels.len()).min(rng.index(channels.len()));
                let channel = &mut channels[index];
                Some((channel.id, channel.next(profile, rng, stats)))
            };
            self.records.push(Record { offset, event });
            offset += 1;
            if rng.percent(4) {
                stats.hit(Stat::OffsetGap);
                offset += rng.between(1, 3);
            }
        }
        self.epochs.push(Epoch {
            number,
            first,
            last: up_to,
            end: offset,
        });
    }

    /// How many records there are up to this place.
    pub fn count_at(&self, position: LogPosition) -> Count {
        let epochs = self.epochs.iter().rev();
        let mut begun = epochs.skip_while(|epoch| epoch.number > position.epoch());
        let Some(epoch) = begun.next() else { return 0 };
        match position.offset() {
            _ if epoch.number < position.epoch() => epoch.last,
            None => epoch.first,
            Some(offset) => {
                let records = &self.records[epoch.first..epoch.last];
                epoch.first + records.partition_point(|record| record.offset <= offset.0)
            }
        }
    }

    /// The place of a record.
    pub fn position_of(&self, index: usize) -> LogPosition {
        let mut epochs = self.epochs.iter();
        let epoch = epochs.find(|epoch| index < epoch.last);
        let epoch = epoch.expect("a record is in an epoch");
        LogPosition::new(epoch.number, Offset(self.records[index].offset))
    }
}

/// What the generator knows of a channel.
struct Channel {
    id: u64,
    newest: u64,
    oldest: u64,
    known: Vec<u64>,
    known_ids: HashSet<u64>,
    early: HashSet<u64>,
    early_ids: Vec<u64>,
    reverse_left: u64,
    /// A user that edits name and un-name in turn.
    burst_left: u64,
}

/// Where ids begin, so that there is room below for imports in reverse.
const FIRST_ID: u64 = 1_000_000;

impl Channel {
    fn new(id: u64) -> Self {
        Channel {
            id,
            newest: FIRST_ID,
            oldest: FIRST_ID,
            known: Vec::new(),
            known_ids: HashSet::new(),
            early: HashSet::new(),
            early_ids: Vec::new(),
            reverse_left: 0,
            burst_left: 0,
        }
    }

    fn next(&mut self, profile: &Profile, rng: &mut Rng, stats: &mut Stats) -> Event {
        if self.reverse_left > 0 {
            self.reverse_left -= 1;
            stats.hit(Stat::ReverseImport);
            let id = self.oldest.saturating_sub(rng.between(1, 3)).max(1);
            return self.created(id, profile, rng, stats);
        }
        if self.burst_left > 0 {
            self.burst_left -= 1;
            let id = self.newest + rng.between(1, 2);
            return self.created(id, profile, rng, stats);
        }
        if rng.permille(profile.reverse_permille) && self.oldest > 60 {
            self.reverse_left = rng.between(3, profile.reverse_max);
        }
        if rng.permille(profile.burst_permille) {
            self.burst_left = rng.between(5, 25);
        }
        match rng.weighted(&profile.kind_weights) {
            0 => self.any_created(profile, rng, stats),
            1 => self.read(profile, rng, stats),
            2 => {
                let message = self.any_message(rng);
                Event::MessageUpdated {
                    message,
                    mentions: mentions(profile, rng),
                    everyone: rng.percent(profile.everyone_percent),
                }
            }
            3 => self.deleted(rng, stats),
            4 => self.marked(profile, rng, stats),
            5 => Event::MemberJoined {
                user: user(profile, rng),
            },
            6 => Event::MemberLeft {
                user: user(profile, rng),
            },
            _ => Event::ChannelDeleted,
        }
    }

    fn any_created(&mut self, profile: &Profile, rng: &mut Rng, stats: &mut Stats) -> Event {
        let id = match rng.weighted(&[70, 8, 12, 10]) {
            1 if !self.known.is_empty() => *rng.pick(&self.known),
            2 => rng.between(self.oldest.saturating_sub(5).max(1), self.newest),
            3 if !self.early_ids.is_empty() => *rng.pick(&self.early_ids),
            _ => self.newest + rng.between(1, profile.id_step),
        };
        self.created(id, profile, rng, stats)
    }

    fn created(&mut self, id: u64, profile: &Profile, rng: &mut Rng, stats: &mut Stats) -> Event {
        if !self.known_ids.insert(id) {
            stats.hit(Stat::DuplicateMessage);
        } else {
            if self.early.contains(&id) {
                stats.hit(Stat::CreatedAfterDeleted);
            }
            if id < self.newest {
                stats.hit(Stat::LateMessage);
            }
            self.known.push(id);
        }
        self.newest = self.newest.max(id);
        self.oldest = self.oldest.min(id);
        let author = if rng.percent(10) { 0 } else { user(profile, rng) };
        Event::MessageCreated {
            message: id,
            author,
            mentions: mentions(profile, rng),
            everyone: rng.percent(profile.everyone_percent),
        }
    }

    /// Mostly one that exists, and of these the newer ones.
    fn any_message(&mut self, rng: &mut Rng) -> u64 {
        if self.known.is_empty() || rng.percent(4) {
            return rng.between(self.oldest.saturating_sub(3).max(1), self.newest + 5);
        }
        let last = self.known.len() - 1;
        if rng.percent(40) {
            self.known[last - rng.index(last.min(4) + 1)]
        } else {
            *rng.pick(&self.known)
        }
    }

    fn read(&mut self, profile: &Profile, rng: &mut Rng, stats: &mut Stats) -> Event {
        let message = match rng.weighted(&[55, 35, 10]) {
            0 => self.any_message(rng),
            1 => self.newest,
            _ => {
                stats.hit(Stat::ReadAhead);
                self.newest + rng.between(1, 20)
            }
        };
        Event::MessageRead {
            user: user(profile, rng),
            message,
        }
    }

    fn marked(&mut self, profile: &Profile, rng: &mut Rng, stats: &mut Stats) -> Event {
        let message = match rng.weighted(&[50, 30, 15, 5]) {
            0 => self.any_message(rng),
            1 => {
                stats.hit(Stat::DeepMark);
                let deep = self.known.iter().copied().min().unwrap_or(1);
                deep + rng.below((self.newest - deep) / 4 + 1)
            }
            2 => 1,
            _ => self.newest + rng.between(1, 20),
        };
        Event::MessageMarkedUnread {
            user: user(profile, rng),
            message,
        }
    }

    fn deleted(&mut self, rng: &mut Rng, stats: &mut Stats) -> Event {
        let count = match rng.weighted(&[5, 60, 25, 10]) {
            0 => 0,
            1 => 1,
            2 => rng.between(2, 4),
            _ => rng.between(5, 20),
        };
        let mut messages = Vec::new();
        for _ in 0..count {
            if rng.percent(15) {
                let id = rng.between(self.oldest.saturating_sub(9).max(1), self.newest + 9);
                if !self.known_ids.contains(&id) {
                    stats.hit(Stat::EarlyDelete);
                    self.early.insert(id);
                    self.early_ids.push(id);
                }
                messages.push(id);
            } else {
                messages.push(self.any_message(rng));
            }
        }
        if messages.len() > 1 {
            stats.hit(Stat::DeleteOfMany);
        }
        Event::MessageDeleted { messages }
    }
}

fn user(profile: &Profile, rng: &mut Rng) -> u64 {
    rng.between(1, profile.users)
}

fn mentions(profile: &Profile, rng: &mut Rng) -> Vec<u64> {
    if !rng.percent(profile.mention_percent) {
        return Vec::new();
    }
    (0..rng.between(1, 3)).map(|_| user(profile, rng)).collect()
}

/// The same as the service sees it after decoding.
pub fn to_model(channel: u64, event: &Event) -> ModelEvent {
    let users = |ids: &[u64]| ids.iter().map(|id| UserId(*id)).collect::<Vec<_>>();
    let kind = match event {
        Event::MessageCreated {
            message,
            author,
            mentions,
            everyone,
        } => EventKind::MessageCreated {
            message: MessageId(*message),
            author: (*author != 0).then_some(UserId(*author)),
            mentions: Mentions::new(users(mentions), *everyone),
        },
        Event::MessageRead { user, message } => EventKind::MessageRead {
            user: UserId(*user),
            message: MessageId(*message),
        },
        Event::MessageUpdated {
            message,
            mentions,
            everyone,
        } => EventKind::MessageUpdated {
            message: MessageId(*message),
            mentions: Mentions::new(users(mentions), *everyone),
        },
        Event::MessageDeleted { messages } => {
            let mut messages: Vec<_> = messages.iter().map(|id| MessageId(*id)).collect();
            messages.sort_unstable();
            messages.dedup();
            EventKind::MessageDeleted { messages }
        }
        Event::MessageMarkedUnread { user, message } => EventKind::MessageMarkedUnread {
            user: UserId(*user),
            message: MessageId(*message),
        },
        Event::MemberJoined { user } => EventKind::MemberJoined { user: UserId(*user) },
        Event::MemberLeft { user } => EventKind::MemberLeft { user: UserId(*user) },
        Event::ChannelDeleted => EventKind::ChannelDeleted,
    };
    ModelEvent {
        channel: ChannelId(channel),
        kind,
    }
}
