//! Applying a record: all nodes that it needs first, then one change for each read state.

use std::collections::BTreeSet;

use smallvec::{SmallVec, smallvec};

use super::Partition;
use super::counters::Ignored;
use super::io::LoadKey;
use super::loads::{Missing, keys_of, users_named};
use super::slab::Slot;
use crate::model::channel::{Message, Nodes};
use crate::model::counts::{CountLimits, rewind};
use crate::model::event::{EventKind, Mentions};
use crate::model::ids::{ChannelId, LogPosition, MessageId, ReadStateKey, UserId};
use crate::model::planted::Bug;
use crate::model::read_state::{Membership, ReadState};

/// What a record does to one read state besides beginning it.
enum Change {
    /// An own message, this one, was created.
    Authored(MessageId),
    /// Everything up to here was read.
    Read(MessageId),
    /// A live message of someone else mentions the user by name now, with this everyone flag.
    Mentioned(MessageId, bool),
    /// A message does not mention the user any more.
    NotMentioned(MessageId),
    /// An own message has this everyone flag now.
    OwnChanged(MessageId, bool),
    /// An own message is gone.
    OwnDeleted(MessageId),
    /// This is what marking as unread makes of it.
    Rewound(Box<ReadState>),
    /// The user joined where this is the newest message ever seen.
    Joined(MessageId),
    /// The user left.
    Left,
    /// Nothing but that the read state begins.
    Begun,
}

/// What a record does to the read states of its channel. Most do something to one or two.
#[derive(Default)]
struct Changes(SmallVec<[(UserId, Change); 2]>);

impl Changes {
    fn add(&mut self, user: UserId, change: Change) {
        self.0.push((user, change));
    }

    /// Puts what is done to one user together, in the order in which it was added.
    fn sort(&mut self) {
        self.0.sort_by_key(|(user, _)| *user);
    }

    /// What is done to each user, once they are sorted.
    fn by_user(&self) -> impl Iterator<Item = (UserId, &[(UserId, Change)])> {
        self.0
            .chunk_by(|a, b| a.0 == b.0)
            .map(|changes| (changes[0].0, changes))
    }
}

/// What it does to the channel's tree. Most do one thing or nothing.
type Edits = SmallVec<[Edit; 1]>;

/// Where read states are that a record changes.
type Slots = SmallVec<[Slot; 2]>;

/// All that a record does. Made in place: it is too large to be handed about.
#[derive(Default)]
struct Plan {
    changes: Changes,
    edits: Edits,
}

/// What to do to the channel's tree.
enum Edit {
    Insert(Message),
    /// What was deleted before it was created is known now.
    Create(MessageId, Option<UserId>, Mentions),
    SetMentions(MessageId, Mentions),
    Delete(MessageId),
}

impl Partition {
    /// Applies a record if everything that it needs is cached.
    ///
    /// # Errors
    /// What must be loaded first; nothing was changed.
    pub(super) fn apply(
        &mut self,
        channel: ChannelId,
        at: LogPosition,
        event: &EventKind,
    ) -> Result<(), Missing> {
        let Some(summary) = self.channels.summary(channel) else {
            let mut missing = self.missing_read_states(channel, users_named(event));
            missing.push(LoadKey::Head(channel));
            return Err(missing);
        };
        if summary.applied >= at {
            self.counters.ignore(Ignored::Replayed);
            return Ok(());
        }
        let is_of_the_channel = !matches!(
            event,
            EventKind::MessageRead { .. } | EventKind::MemberLeft { .. }
        );
        if summary.deleted && is_of_the_channel {
            self.counters.ignore(Ignored::ChannelDeleted);
            return Ok(());
        }
        if let Some((user, change)) = self.only_change(channel, event) {
            return self.change_one(channel, at, user, &change);
        }
        let mut plan = Plan::default();
        if !self.plan(channel, at, event, &mut plan)? {
            return Ok(());
        }
        plan.changes.sort();
        let users = plan.changes.by_user().map(|(user, _)| user);
        let mut slots = Slots::new();
        self.find_all(channel, users, &mut slots)?;
        self.counters.read_state_hits += slots.len() as u64;
        self.counters.channel_hits += 1;
        self.change_channel(channel, at, event, &mut plan.edits);
        self.change_read_states(channel, at, &plan.changes, &slots);
        Ok(())
    }

    /// Of a record that changes one read state and nothing else: that.
    fn only_change(&self, channel: ChannelId, event: &EventKind) -> Option<(UserId, Change)> {
        match event {
            EventKind::MessageRead { user, message } => Some((*user, Change::Read(*message))),
            EventKind::MemberJoined { user } => {
                let newest = self.channels.peek(channel).map(|(head, _)| {
                    match self.is_planted(Bug::JoinForgetsDeleted) {
                        true => head.last_message(),
                        false => head.newest_seen,
                    }
                });
                Some((*user, Change::Joined(newest.unwrap_or_default())))
            }
            EventKind::MemberLeft { user } => Some((*user, Change::Left)),
            EventKind::MessageCreated { .. }
            | EventKind::MessageUpdated { .. }
            | EventKind::MessageDeleted { .. }
            | EventKind::MessageMarkedUnread { .. }
            | EventKind::ChannelDeleted => None,
        }
    }

    fn change_one(
        &mut self,
        channel: ChannelId,
        at: LogPosition,
        user: UserId,
        change: &Change,
    ) -> Result<(), Missing> {
        let key = ReadStateKey { user, channel };
        let Some(slot) = self.read_states.find(&key) else {
            return Err(smallvec![LoadKey::ReadState(key)]);
        };
        self.counters.read_state_hits += 1;
        self.counters.channel_hits += 1;
        let (limits, when) = (self.settings.counts, self.when(at));
        let was_skipped = self
            .read_states
            .change((key, slot), when, self.now, |state| change.make(state, &limits));
        self.counters.changes_skipped += u64::from(was_skipped);
        Ok(())
    }

    /// When a change is made, and where it begins if what is before it waits.
    fn when(&self, at: LogPosition) -> (LogPosition, LogPosition) {
        (at, self.waiting.first().map_or(at, |first| at.min(*first)))
    }

    /// Where the read states of these users are.
    ///
    /// # Errors
    /// Those that are not cached.
    fn find_all(
        &mut self,
        channel: ChannelId,
        users: impl Iterator<Item = UserId>,
        slots: &mut Slots,
    ) -> Result<(), Missing> {
        let mut missing = Missing::new();
        for user in users {
            let key = ReadStateKey { user, channel };
            match self.read_states.find(&key) {
                Some(slot) => slots.push(slot),
                None => missing.push(LoadKey::ReadState(key)),
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(missing),
        }
    }

    /// Works out what a record does. Whether it does anything at all: some are ignored.
    fn plan(
        &mut self,
        channel: ChannelId,
        at: LogPosition,
        event: &EventKind,
        Plan { changes, edits }: &mut Plan,
    ) -> Result<bool, Missing> {
        match event {
            EventKind::MessageCreated {
                message,
                author,
                mentions,
            } => {
                let Some(edit) = self.plan_creation(channel, *message, *author, mentions, changes)? else {
                    self.counters.ignore(Ignored::Duplicate);
                    return Ok(false);
                };
                edits.push(edit);
            }
            EventKind::MessageUpdated { message, mentions } => {
                if !self.plan_update(channel, *message, mentions, changes)? {
                    self.counters.ignore(Ignored::UnknownMessage);
                    return Ok(false);
                }
                edits.push(Edit::SetMentions(*message, mentions.clone()));
            }
            EventKind::MessageDeleted { messages } => {
                self.plan_deletion(channel, messages, changes, edits)?
            }
            EventKind::MessageMarkedUnread { user, message } => {
                self.plan_rewind(channel, at, *user, *message, changes)?
            }
            // What changes one read state only needs no plan, and a channel's end changes none.
            EventKind::MessageRead { .. }
            | EventKind::MemberJoined { .. }
            | EventKind::MemberLeft { .. }
            | EventKind::ChannelDeleted => {}
        }
        Ok(true)
    }

    /// The message as the tree has it. Outer nothing: its node is missing.
    fn find(&mut self, channel: ChannelId, id: MessageId) -> Result<Option<Message>, Missing> {
        let Some((head, nodes)) = self.channels.get(channel) else {
            return Err(smallvec![LoadKey::Head(channel)]);
        };
        match head.block_of(id, &nodes) {
            Ok(block) => Ok(block.and_then(|block| block.get(id).map(|message| message.to_owned()))),
            Err(wanted) => Err(keys_of(channel, &[wanted]).collect()),
        }
    }

    fn plan_creation(
        &mut self,
        channel: ChannelId,
        id: MessageId,
        author: Option<UserId>,
        mentions: &Mentions,
        changes: &mut Changes,
    ) -> Result<Option<Edit>, Missing> {
        let known = self.find(channel, id)?;
        if known.as_ref().is_some_and(|known| known.created) {
            return Ok(None);
        }
        let is_live = known.is_none();
        for user in mentions
            .users
            .iter()
            .copied()
            .filter(|user| Some(*user) != author)
        {
            let change = if is_live {
                Change::Mentioned(id, mentions.everyone)
            } else {
                Change::Begun
            };
            changes.add(user, change);
        }
        if let Some(author) = author {
            changes.add(author, Change::Authored(id));
        }
        Ok(Some(match known {
            Some(_) => Edit::Create(id, author, mentions.clone()),
            None => Edit::Insert(Message {
                id,
                author,
                mentions: mentions.users.clone(),
                everyone: mentions.everyone,
                deleted: false,
                created: true,
            }),
        }))
    }

    /// An edit touches everyone named before or after, and the author, since the everyone flag may change for each.
    fn plan_update(
        &mut self,
        channel: ChannelId,
        id: MessageId,
        mentions: &Mentions,
        changes: &mut Changes,
    ) -> Result<bool, Missing> {
        let Some(known) = self.find(channel, id)?.filter(|known| known.created) else {
            return Ok(false);
        };
        let is_live = known.is_live();
        for user in &mentions.users {
            let change = match (is_live, known.author == Some(*user)) {
                (true, false) => Change::Mentioned(id, mentions.everyone),
                _ => Change::Begun,
            };
            changes.add(*user, change);
        }
        if is_live && !self.is_planted(Bug::EditForgetsNamedBefore) {
            for user in known.mentions.iter().filter(|user| !mentions.names(**user)) {
                changes.add(*user, Change::NotMentioned(id));
            }
        }
        if let Some(author) = known.author {
            changes.add(author, Change::OwnChanged(id, mentions.everyone));
        }
        Ok(true)
    }

    fn plan_deletion(
        &mut self,
        channel: ChannelId,
        ids: &[MessageId],
        changes: &mut Changes,
        edits: &mut Edits,
    ) -> Result<(), Missing> {
        let mut missing = BTreeSet::new();
        for id in ids {
            let known = match self.find(channel, *id) {
                Ok(known) => known,
                Err(keys) => {
                    missing.extend(keys);
                    continue;
                }
            };
            let Some(known) = known else {
                edits.push(Edit::Insert(mark_of(*id)));
                continue;
            };
            if known.deleted {
                continue;
            }
            edits.push(Edit::Delete(*id));
            for user in &known.mentions {
                changes.add(*user, Change::NotMentioned(*id));
            }
            if let Some(author) = known.author {
                changes.add(author, Change::OwnDeleted(*id));
            }
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing.into_iter().collect())
        }
    }

    fn plan_rewind(
        &mut self,
        channel: ChannelId,
        at: LogPosition,
        user: UserId,
        message: MessageId,
        changes: &mut Changes,
    ) -> Result<(), Missing> {
        let key = ReadStateKey { user, channel };
        let Some(state) = self.read_states.get(&key) else {
            return Err(smallvec![LoadKey::ReadState(key)]);
        };
        let is_done = state.applied >= at && !self.settings.planted.is(Bug::ReplayNotSkipped);
        if state.membership == Membership::Left || is_done {
            changes.add(user, Change::Begun);
            return Ok(());
        }
        let mut rewound = state;
        let Some((head, nodes)) = self.channels.get(channel) else {
            return Err(smallvec![LoadKey::Head(channel)]);
        };
        let last_read = MessageId(message.0 - 1);
        let (limits, planted) = (&self.settings.counts, self.settings.planted);
        match rewind(&mut rewound, last_read, user, head, &nodes, limits, planted) {
            Ok(()) => changes.add(user, Change::Rewound(Box::new(rewound))),
            Err(wanted) => return Err(keys_of(channel, &wanted).collect()),
        }
        Ok(())
    }

    fn change_channel(&mut self, channel: ChannelId, at: LogPosition, event: &EventKind, edits: &mut Edits) {
        let is_deletion = matches!(event, EventKind::ChannelDeleted);
        if edits.is_empty() && !is_deletion {
            return;
        }
        let shape = self.settings.shape;
        self.channels.change(channel, at, self.now, |head, nodes| {
            head.deleted |= is_deletion;
            for edit in edits.drain(..) {
                edit.make(head, at, &shape, nodes);
            }
        });
    }

    fn change_read_states(&mut self, channel: ChannelId, at: LogPosition, changes: &Changes, slots: &[Slot]) {
        let limits = self.settings.counts;
        let one_by_one = self.is_planted(Bug::TwoChangesOfOneRecord);
        let when = self.when(at);
        for ((user, list), slot) in changes.by_user().zip(slots) {
            let place = (ReadStateKey { user, channel }, *slot);
            if one_by_one {
                for (_, change) in list {
                    self.read_states
                        .change(place, when, self.now, |state| change.make(state, &limits));
                }
                continue;
            }
            let was_skipped = self.read_states.change(place, when, self.now, |state| {
                for (_, change) in list {
                    change.make(state, &limits);
                }
            });
            self.counters.changes_skipped += u64::from(was_skipped);
        }
    }
}

/// The mark of a message that was deleted before it was created.
fn mark_of(id: MessageId) -> Message {
    Message {
        id,
        author: None,
        mentions: Box::default(),
        everyone: false,
        deleted: true,
        created: false,
    }
}

impl Edit {
    fn make(
        self,
        head: &mut crate::model::channel::Head,
        at: LogPosition,
        shape: &crate::model::channel::Shape,
        nodes: &mut impl Nodes,
    ) {
        let made = match self {
            Edit::Insert(message) => {
                if message.created {
                    head.newest_seen = head.newest_seen.max(message.id);
                }
                head.insert(message, at, shape, nodes)
            }
            Edit::Create(id, author, mentions) => {
                head.newest_seen = head.newest_seen.max(id);
                head.modify(id, at, shape, nodes, |message| {
                    message.created = true;
                    message.author = author;
                    message.mentions = mentions.users;
                    message.everyone = mentions.everyone;
                })
            }
            Edit::SetMentions(id, mentions) => head.modify(id, at, shape, nodes, |message| {
                message.mentions = mentions.users;
                message.everyone = mentions.everyone;
            }),
            Edit::Delete(id) => head.modify(id, at, shape, nodes, |message| message.deleted = true),
        };
        if let Err(wanted) = made {
            unreachable!(
                "all nodes that a record needs are at hand before it is applied, but {wanted:?} is not"
            );
        }
    }
}

impl Change {
    fn make(&self, state: &mut ReadState, limits: &CountLimits) {
        let has_left = state.membership == Membership::Left;
        match self {
            Change::Authored(id) | Change::Read(id) if !has_left => state.read_up_to(*id),
            Change::Mentioned(id, everyone) => state.mentioned_by(*id, *everyone, limits.direct_mentions_max),
            Change::NotMentioned(id) => state.not_mentioned_by(*id),
            Change::OwnChanged(id, everyone) => state.own_changed(*id, *everyone),
            Change::OwnDeleted(id) => state.own_deleted(*id),
            Change::Rewound(rewound) => *state = ReadState::clone(rewound),
            Change::Joined(newest) if state.membership != Membership::Joined => {
                state.membership = Membership::Joined;
                state.read_up_to(*newest);
            }
            Change::Left => state.leave(),
            Change::Authored(_) | Change::Read(_) | Change::Joined(_) | Change::Begun => {}
        }
    }
}
