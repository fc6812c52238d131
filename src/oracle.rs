//! Section 2 of the contract as lists and loops: slow, naive, and on its own, so that it can be wrong only where the
//! contract was misread. The simulation, the contract tests and `verify` compare the service with it.
//!
//! It keeps every message and every read state there ever was, and counts by walking over the messages above
//! `last_read`. It shares no type with the service. Ids are plain numbers: messages and users 1 ..= 2^63-1, 0 for "none".
//!
//! Where the contract can be read in two ways, this is how it is read here:
//! - In a deleted channel every number is 0, for everyone, and the channel is left out of overviews. Reads, leaves and
//!   whatever else comes later for it can't be seen any more.
//! - An edit of a message that was deleted after its creation replaces its mentions all the same, so whoever it names
//!   begins a read state. An edit of a message that is known only as "deleted before it was created" is an edit of an
//!   unknown message.
//! - Who mentions oneself by name is never counted, but is named.
//! - A read, mark, join or leave begins a read state even if it changes no number.

mod check;

pub use check::Reported;

use std::collections::{BTreeMap, BTreeSet};

/// The limits of the contract that show in the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `limits.max_unread_count`: counts above it are this number, and capped.
    pub max_unread_count: u32,
    /// `limits.max_direct_mentions`: older unread by-name mentions of a read state may be forgotten.
    pub max_direct_mentions: u32,
}

/// What happened in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message appeared.
    MessageCreated {
        /// Its id.
        message: u64,
        /// Who wrote it; 0: no user.
        author: u64,
        /// Whom it mentions by name, in any order, any number of times.
        mentions: Vec<u64>,
        /// Whether it mentions everyone.
        everyone: bool,
    },
    /// A user has read up to a message.
    MessageRead {
        /// Who.
        user: u64,
        /// Up to here.
        message: u64,
    },
    /// The mentions of a message are these now.
    MessageUpdated {
        /// Which.
        message: u64,
        /// Whom it mentions by name, in any order, any number of times.
        mentions: Vec<u64>,
        /// Whether it mentions everyone.
        everyone: bool,
    },
    /// Messages were deleted.
    MessageDeleted {
        /// Which, in any order, any number of times.
        messages: Vec<u64>,
    },
    /// A user marked a message, and what follows it, as unread.
    MessageMarkedUnread {
        /// Who.
        user: u64,
        /// The oldest unread message.
        message: u64,
    },
    /// A user became a member.
    MemberJoined {
        /// Who.
        user: u64,
    },
    /// A user is no longer a member.
    MemberLeft {
        /// Who.
        user: u64,
    },
    /// The channel is gone for good.
    ChannelDeleted,
}

/// Membership as the wire format tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// No join or leave seen.
    #[default]
    Unspecified,
    /// Joined.
    Joined,
    /// Left: counts are 0.
    Left,
    /// The channel is gone: everything is 0.
    ChannelDeleted,
}

/// The true numbers of one user in one channel, and how far an answer may stay below them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Whether a read state has begun.
    pub exists: bool,
    /// Everything up to here is read.
    pub last_read: u64,
    /// The newest message that is not deleted; 0: none.
    pub last_message: u64,
    /// Unread messages, as answered: at most `max_unread_count`.
    pub unread: u32,
    /// There are more.
    pub unread_capped: bool,
    /// Unread mentions, as answered if nothing was forgotten: at most `max_unread_count`.
    pub mentions: u32,
    /// Those by name, likewise.
    pub direct: u32,
    /// There are more than `max_unread_count` mentions, as answered if nothing was forgotten.
    pub mentions_capped: bool,
    /// Of the user.
    pub membership: Membership,
    /// Unread messages, whatever the limits.
    pub unread_exact: u64,
    /// Unread mentions, whatever the limits.
    pub mentions_exact: u64,
    /// Those by name, whatever the limits.
    pub direct_exact: u64,
    /// Whether by-name mentions above `last_read` may have been forgotten; see [`Reported::check`].
    pub may_be_forgotten: bool,
    /// Mentions that may not have been forgotten: a lower bound of `mentions` that every answer must reach.
    pub mentions_kept: u32,
    /// Those by name: a lower bound of `direct` that every answer must reach.
    pub direct_kept: u32,
}

/// One message of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Who wrote it; 0: no user.
    pub author: u64,
    /// Whom it mentions by name.
    pub mentions: BTreeSet<u64>,
    /// Whether it mentions everyone.
    pub everyone: bool,
    /// Whether it was created. If not, this is a mark that it was deleted before.
    pub created: bool,
    /// Whether it was deleted.
    pub deleted: bool,
}

impl Message {
    /// Whether it counts.
    pub fn is_live(&self) -> bool {
        self.created && !self.deleted
    }
}

/// What one user has read in a channel.
#[derive(Clone, Debug, Default)]
struct ReadState {
    last_read: u64,
    membership: Membership,
    /// Live messages of others, read ones too, that mention the user by name.
    named_in: BTreeSet<u64>,
    /// By-name mentions up to here may have been forgotten. 0 if none above `last_read` may.
    forgotten: u64,
}

/// One channel.
#[derive(Clone, Debug, Default)]
struct Channel {
    deleted: bool,
    newest_seen: u64,
    messages: BTreeMap<u64, Message>,
    read_states: BTreeMap<u64, ReadState>,
}

/// Applies events and tells the true numbers.
#[derive(Clone, Debug)]
pub struct Oracle {
    limits: Limits,
    channels: BTreeMap<u64, Channel>,
}

impl Oracle {
    /// Knows of nothing yet.
    pub fn new(limits: Limits) -> Self {
        Oracle {
            limits,
            channels: BTreeMap::new(),
        }
    }

    /// Applies the next event of the channel. Events of different channels may come in any order.
    pub fn apply(&mut self, channel: u64, event: &Event) {
        let limits = self.limits;
        let channel = self.channels.entry(channel).or_default();
        if !channel.deleted {
            channel.apply(event, limits);
        }
    }

    /// The numbers of a user in a channel, whether or not anything was heard of either.
    ///
    /// Takes as many steps as there are messages above the user's `last_read`.
    pub fn numbers(&self, user: u64, channel: u64) -> Numbers {
        match self.channels.get(&channel) {
            None => Numbers::default(),
            Some(channel) => channel.numbers(user, self.limits),
        }
    }

    /// The channels in which the user has a read state, ascending; deleted ones are left out, left ones are not.
    pub fn channels_of(&self, user: u64) -> Vec<u64> {
        self.channels
            .iter()
            .filter(|(_, channel)| !channel.deleted && channel.read_states.contains_key(&user))
            .map(|(id, _)| *id)
            .collect()
    }

    /// All channels in which anything happened, ascending, deleted ones too.
    pub fn channels(&self) -> impl Iterator<Item = u64> + '_ {
        self.channels.keys().copied()
    }

    /// All users with a read state in the channel, ascending.
    pub fn users(&self, channel: u64) -> impl Iterator<Item = u64> + '_ {
        self.channels
            .get(&channel)
            .into_iter()
            .flat_map(|channel| channel.read_states.keys().copied())
    }

    /// All messages of the channel ascending by id, deleted ones and mere marks too.
    pub fn messages(&self, channel: u64) -> impl DoubleEndedIterator<Item = (u64, &Message)> + '_ {
        self.channels
            .get(&channel)
            .into_iter()
            .flat_map(|channel| channel.messages.iter().map(|(id, m)| (*id, m)))
    }

    /// One message, deleted or not, or the mark of one.
    pub fn message(&self, channel: u64, id: u64) -> Option<&Message> {
        self.channels.get(&channel)?.messages.get(&id)
    }

    /// The largest id of any message created in the channel, deleted or not; 0: none.
    pub fn newest_seen(&self, channel: u64) -> u64 {
        self.channels.get(&channel).map_or(0, |c| c.newest_seen)
    }

    /// Whether the channel is gone for good.
    pub fn is_deleted(&self, channel: u64) -> bool {
        self.channels.get(&channel).is_some_and(|c| c.deleted)
    }

    /// `last_read` and membership; nothing if no read state has begun. In a deleted channel they are as they were when
    /// it was deleted.
    pub fn read_state(&self, user: u64, channel: u64) -> Option<(u64, Membership)> {
        let state = self.channels.get(&channel)?.read_states.get(&user)?;
        Some((state.last_read, state.membership))
    }
}

impl Channel {
    fn apply(&mut self, event: &Event, limits: Limits) {
        match event {
            Event::MessageCreated {
                message,
                author,
                mentions,
                everyone,
            } => self.create(*message, *author, mentions, *everyone, limits),
            Event::MessageUpdated {
                message,
                mentions,
                everyone,
            } => self.update(*message, mentions, *everyone, limits),
            Event::MessageDeleted { messages } => {
                for message in messages {
                    self.delete(*message);
                }
            }
            Event::MessageRead { user, message } => {
                let state = self.begin(*user);
                if state.membership != Membership::Left {
                    state.read(*message);
                }
            }
            Event::MessageMarkedUnread { user, message } => {
                self.mark_unread(*user, *message, limits);
            }
            Event::MemberJoined { user } => {
                let newest_seen = self.newest_seen;
                let state = self.begin(*user);
                if state.membership != Membership::Joined {
                    state.membership = Membership::Joined;
                    state.read(newest_seen);
                }
            }
            Event::MemberLeft { user } => self.begin(*user).membership = Membership::Left,
            Event::ChannelDeleted => self.deleted = true,
        }
    }

    fn create(&mut self, id: u64, author: u64, mentions: &[u64], everyone: bool, limits: Limits) {
        let message = self.messages.entry(id).or_default();
        if message.created {
            return;
        }
        message.created = true;
        message.author = author;
        self.newest_seen = self.newest_seen.max(id);
        if author != 0 {
            let state = self.begin(author);
            if state.membership != Membership::Left {
                state.read(id);
            }
        }
        self.set_mentions(id, mentions, everyone, limits);
    }

    fn update(&mut self, id: u64, mentions: &[u64], everyone: bool, limits: Limits) {
        if self.messages.get(&id).is_some_and(|m| m.created) {
            self.unname(id);
            self.set_mentions(id, mentions, everyone, limits);
        }
    }

    fn delete(&mut self, id: u64) {
        self.unname(id);
        self.messages.entry(id).or_default().deleted = true;
    }

    fn mark_unread(&mut self, user: u64, id: u64, limits: Limits) {
        let before = self.begin(user).last_read;
        let state = self.begin(user);
        if state.membership == Membership::Left || id > before {
            return;
        }
        state.last_read = id - 1;
        // Which messages need not be looked at again: see `Reported::check`.
        let oldest_recounted = self.nth_newest(limits.max_unread_count);
        let unseen_up_to = before.min(oldest_recounted.saturating_sub(1));
        let unseen = id <= unseen_up_to
            && (self.messages.range(id..=unseen_up_to)).any(|(_, message)| message.created);
        let state = self.begin(user);
        if unseen {
            state.forgotten = state.forgotten.max(unseen_up_to);
        }
        state.forget(limits);
    }

    /// The id of the n-th newest message, deleted or not; 0 if there are not so many.
    fn nth_newest(&self, n: u32) -> u64 {
        let mut created = self.messages.iter().rev().filter(|(_, m)| m.created);
        created
            .nth((n as usize).saturating_sub(1))
            .map_or(0, |(id, _)| *id)
    }

    fn begin(&mut self, user: u64) -> &mut ReadState {
        self.read_states.entry(user).or_default()
    }

    fn unname(&mut self, id: u64) {
        for user in self.messages.get(&id).iter().flat_map(|m| &m.mentions) {
            if let Some(state) = self.read_states.get_mut(user) {
                state.named_in.remove(&id);
            }
        }
    }

    fn set_mentions(&mut self, id: u64, mentions: &[u64], everyone: bool, limits: Limits) {
        let Some(message) = self.messages.get_mut(&id) else {
            return;
        };
        message.mentions = mentions.iter().copied().collect();
        message.everyone = everyone;
        for user in &message.mentions {
            let state = self.read_states.entry(*user).or_default();
            if message.is_live() && message.author != *user {
                state.named_in.insert(id);
                state.forget(limits);
            }
        }
    }

    fn numbers(&self, user: u64, limits: Limits) -> Numbers {
        if self.deleted {
            return Numbers {
                exists: self.read_states.contains_key(&user),
                membership: Membership::ChannelDeleted,
                ..Numbers::default()
            };
        }
        let none = ReadState::default();
        let state = self.read_states.get(&user).unwrap_or(&none);
        let newest_live = self.messages.iter().rev().find(|(_, m)| m.is_live());
        let mut numbers = Numbers {
            exists: self.read_states.contains_key(&user),
            last_read: state.last_read,
            last_message: newest_live.map_or(0, |(id, _)| *id),
            membership: state.membership,
            ..Numbers::default()
        };
        if state.membership != Membership::Left {
            self.count(user, state, limits, &mut numbers);
        }
        numbers
    }

    fn count(&self, user: u64, state: &ReadState, limits: Limits, numbers: &mut Numbers) {
        let (mut mentions_kept, mut direct_kept) = (0, 0);
        for (id, message) in self.messages.range(state.last_read + 1..) {
            if !message.is_live() || message.author == user {
                continue;
            }
            let direct = message.mentions.contains(&user);
            let kept = u64::from(*id > state.forgotten);
            numbers.unread_exact += 1;
            numbers.mentions_exact += u64::from(direct || message.everyone);
            numbers.direct_exact += u64::from(direct);
            mentions_kept += kept * u64::from(direct || message.everyone);
            direct_kept += kept * u64::from(direct);
        }
        let max = limits.max_unread_count;
        let cap = |count: u64| u32::try_from(count).map_or(max, |count| count.min(max));
        numbers.unread = cap(numbers.unread_exact);
        numbers.unread_capped = numbers.unread_exact > u64::from(max);
        numbers.mentions = cap(numbers.mentions_exact);
        numbers.direct = cap(numbers.direct_exact);
        numbers.mentions_capped = numbers.mentions_exact > u64::from(max);
        numbers.may_be_forgotten = state.forgotten > state.last_read;
        numbers.mentions_kept = cap(mentions_kept);
        numbers.direct_kept = cap(direct_kept);
    }
}

impl ReadState {
    fn read(&mut self, up_to: u64) {
        self.last_read = self.last_read.max(up_to);
        if self.forgotten <= self.last_read {
            self.forgotten = 0;
        }
    }

    /// Notes that mentions older than the newest `max_direct_mentions` may be forgotten from now on.
    fn forget(&mut self, limits: Limits) {
        let unread = self.named_in.range(self.last_read + 1..);
        if let Some(oldest) = unread.rev().nth(limits.max_direct_mentions as usize) {
            self.forgotten = self.forgotten.max(*oldest);
        }
    }
}
