//! Waiting: what a record or a question needs is loaded once, and what follows in its channel waits behind it.

use std::collections::VecDeque;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Partition;
use super::channels::Need;
use super::io::{Effect, LoadKey, LoadToken, LoadedRow, Millis, NodeKey};
use super::requests::Question;
use crate::model::channel::{Level, Wanted};
use crate::model::event::EventKind;
use crate::model::ids::{ChannelId, LogPosition, MessageId, Offset, ReadStateKey, UserId};
use crate::model::planted::Bug;
use crate::model::read_state::ReadState;

/// What waits in one channel, in order, and what it waits for.
#[derive(Default)]
pub struct Queue {
    pub items: VecDeque<Item>,
    /// Single flight: a row is loaded once, however many wait for it.
    loading: HashMap<LoadKey, LoadToken>,
    /// Read states that came before the head: they count only if the head is not ahead.
    parked: Vec<(ReadStateKey, Option<ReadState>)>,
    /// The last load failed: the store can't be reached.
    is_failing: bool,
    /// A load takes long: perhaps the store can't be reached.
    is_slow: bool,
}

/// Something that waits.
pub enum Item {
    /// A record of the stream.
    Record(LogPosition, EventKind),
    /// A question, to be answered as of the position.
    Question(LogPosition, Question),
}

/// A load under way.
pub struct Pending {
    channel: ChannelId,
    key: LoadKey,
    attempt: u32,
    since: Millis,
}

/// How often to look for loads that take long.
const SLOW_LOADS_INTERVAL_MS: u64 = 50;

/// Queues that are kept for channels in which something waits next: most wait for one row, and to make a queue for it takes
/// several allocations.
const SPARE_QUEUES_MAX: usize = 64;
/// Larger ones than this are not kept.
const SPARE_ROOM_MAX: usize = 16;

/// What is missing to go on.
pub type Missing = SmallVec<[LoadKey; 2]>;

impl Queue {
    /// How many records wait.
    pub fn records(&self) -> usize {
        self.items
            .iter()
            .filter(|item| matches!(item, Item::Record(..)))
            .count()
    }

    /// Whether the last load failed.
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// The first record that waits.
    pub fn first_record(&self) -> Option<LogPosition> {
        self.items.iter().find_map(|item| match item {
            Item::Record(at, _) => Some(*at),
            Item::Question(..) => None,
        })
    }

    /// Checks what must always hold; for tests.
    pub fn check(&self) {
        assert!(
            !self.items.is_empty(),
            "a queue is there as long as something waits in it"
        );
        assert!(!self.loading.is_empty(), "liveness: what waits, waits for a load");
    }
}

/// The keys of missing nodes.
pub fn keys_of(channel: ChannelId, wanted: &[Wanted]) -> impl Iterator<Item = LoadKey> {
    wanted.iter().map(
        move |Wanted {
                  level,
                  first,
                  version,
              }| {
            LoadKey::Node(
                NodeKey {
                    channel,
                    level: *level,
                    first: *first,
                },
                *version,
            )
        },
    )
}

/// The users that a record names itself: their read states are needed whatever the channel says.
pub fn users_named(event: &EventKind) -> impl Iterator<Item = UserId> {
    let (one, listed): (Option<&UserId>, &[UserId]) = match event {
        EventKind::MessageCreated { author, mentions, .. } => (author.as_ref(), &mentions.users),
        EventKind::MessageUpdated { mentions, .. } => (None, &mentions.users),
        EventKind::MessageRead { user, .. }
        | EventKind::MessageMarkedUnread { user, .. }
        | EventKind::MemberJoined { user }
        | EventKind::MemberLeft { user } => (Some(user), &[]),
        EventKind::MessageDeleted { .. } | EventKind::ChannelDeleted => (None, &[]),
    };
    one.into_iter().chain(listed).copied()
}

/// Messages that are there and that a record changes: the read states of their authors are needed as well.
pub fn messages_changed(event: &EventKind) -> &[MessageId] {
    match event {
        EventKind::MessageUpdated { message, .. } => std::slice::from_ref(message),
        EventKind::MessageDeleted { messages } => messages,
        _ => &[],
    }
}

/// How much of its channel a record needs.
pub fn needed_of_channel(event: &EventKind) -> Need {
    match event {
        EventKind::MessageRead { .. } | EventKind::MemberLeft { .. } => Need::Summary,
        EventKind::MemberJoined { .. } | EventKind::ChannelDeleted => Need::Head,
        EventKind::MessageCreated { .. }
        | EventKind::MessageUpdated { .. }
        | EventKind::MessageDeleted { .. }
        | EventKind::MessageMarkedUnread { .. } => Need::Messages,
    }
}

impl Partition {
    pub(super) fn take_record(
        &mut self,
        offset: Offset,
        event: Option<crate::model::event::Event>,
        out: &mut Vec<Effect>,
    ) {
        let at = LogPosition::new(self.epoch, offset);
        assert!(
            at > self.position,
            "records come in order: {at} after {}",
            self.position
        );
        let Some(event) = event else {
            self.counters.dead_letters += 1;
            return self.move_to(at, out);
        };
        self.counters.events[event.kind.index()] += 1;
        let channel = event.channel;
        let overtakes =
            self.is_planted(Bug::ReadOvertakesQueue) && matches!(event.kind, EventKind::MessageRead { .. });
        if self.queues.contains_key(&channel) && !(overtakes && self.apply(channel, at, &event.kind).is_ok())
        {
            self.counters.records_queued += 1;
            self.enqueue(channel, Item::Record(at, event.kind), out);
        } else if let Err(missing) = self.apply(channel, at, &event.kind) {
            self.counters.records_waited += 1;
            self.enqueue(channel, Item::Record(at, event.kind), out);
            self.load_all(channel, missing, out);
        }
        self.move_to(at, out);
    }

    /// Puts something at the end of its channel's queue, and asks in advance for what it is known to need.
    pub(super) fn enqueue(&mut self, channel: ChannelId, item: Item, out: &mut Vec<Effect>) {
        if let Item::Record(at, _) = &item {
            self.waiting.insert(*at);
        }
        let has_room = self.pending_loads.len() < self.settings.loads_max;
        let missing = has_room.then(|| self.missing_for(channel, &item));
        let queue = self.queues.entry(channel);
        let queue = queue.or_insert_with(|| self.spare_queues.pop().unwrap_or_default());
        queue.items.push_back(item);
        if let Some(missing) = missing {
            self.load_all(channel, missing, out);
        }
    }

    /// Which read states that something is known to need are not cached.
    fn missing_for(&self, channel: ChannelId, item: &Item) -> Missing {
        match item {
            Item::Record(_, event) => self.missing_read_states(channel, users_named(event)),
            Item::Question(_, question) => {
                self.missing_read_states(channel, question.user_to_load().into_iter())
            }
        }
    }

    /// Which of these users' read states are not cached.
    pub(super) fn missing_read_states(
        &self,
        channel: ChannelId,
        users: impl Iterator<Item = UserId>,
    ) -> Missing {
        let keys = users.map(|user| ReadStateKey { user, channel });
        keys.filter(|key| !self.read_states.contains(key))
            .map(LoadKey::ReadState)
            .collect()
    }

    /// Asks for rows, unless they are on their way.
    pub(super) fn load_all(&mut self, channel: ChannelId, missing: Missing, out: &mut Vec<Effect>) {
        let Some(queue) = self.queues.get_mut(&channel) else {
            return;
        };
        for key in missing {
            if queue.loading.contains_key(&key) || queue.has_parked(&key) {
                continue;
            }
            match key {
                LoadKey::ReadState(_) => self.counters.read_state_misses += 1,
                LoadKey::Head(_) | LoadKey::Node(..) => self.counters.channel_misses += 1,
            }
            self.last_token += 1;
            let token = LoadToken(self.last_token);
            queue.loading.insert(key, token);
            self.pending_loads.insert(
                token,
                Pending {
                    channel,
                    key,
                    attempt: 0,
                    since: self.now,
                },
            );
            out.push(Effect::Load {
                token,
                key,
                attempt: 0,
            });
        }
    }

    pub(super) fn take_row(&mut self, token: LoadToken, row: LoadedRow, out: &mut Vec<Effect>) {
        let Some(Pending { channel, key, .. }) = self.pending_loads.remove(&token) else {
            self.counters.void_loads += 1;
            return;
        };
        let Some(queue) = self.queues.get_mut(&channel) else {
            return;
        };
        queue.loading.remove(&key);
        queue.is_failing = false;
        match (key, row) {
            (LoadKey::ReadState(key), LoadedRow::ReadState(row)) => {
                if self.channels.peek(channel).is_some() {
                    self.read_states.put_loaded(key, row, self.now, true);
                } else if let Some(queue) = self.queues.get_mut(&channel) {
                    queue.parked.push((key, row));
                }
            }
            (LoadKey::Head(_), LoadedRow::Head(head)) => self.take_head(channel, head),
            (LoadKey::Node(node, version), LoadedRow::Node(Some(row))) => {
                self.channels.put_loaded_node(node, version, row);
            }
            (LoadKey::Node(node, version), LoadedRow::Node(None)) => self.find_node_gone(node, version),
            (key, row) => unreachable!("a load of {key:?} was answered with {row:?}"),
        }
        self.advance(channel, out);
    }

    /// Rule 8: a head that is ahead of what the cached rows of its channel have seen was written by another owner, or
    /// in an earlier life. Its records will be skipped, so what they changed must come from the store.
    fn take_head(&mut self, channel: ChannelId, head: Option<std::sync::Arc<crate::model::channel::Head>>) {
        let applied = head.as_ref().map_or(LogPosition::NOTHING, |head| head.applied);
        let first_record = self.queues.get(&channel).and_then(Queue::first_record);
        let is_ahead = first_record.map_or(applied > self.position, |first| applied >= first);
        if is_ahead && !self.is_planted(Bug::NewerHeadKeepsRows) {
            self.counters.forgotten_ahead += 1;
            self.forget_channel(channel);
        }
        self.channels.put_loaded_head(channel, head, self.now);
        if let Some(queue) = self.queues.get_mut(&channel) {
            for (key, row) in std::mem::take(&mut queue.parked) {
                self.read_states.put_loaded(key, row, self.now, true);
            }
        }
    }

    /// Rule 8: another owner was further, and has deleted what our head names.
    fn find_node_gone(&mut self, node: NodeKey, version: LogPosition) {
        let is_named = self.channels.peek(node.channel).is_some_and(|(head, nodes)| {
            let place = head.block_of(node.first, &nodes);
            let wanted = Wanted {
                level: node.level,
                first: node.first,
                version,
            };
            place.is_err_and(|missing| {
                missing == wanted || (node.level == Level::Block && missing.level == Level::Page)
            })
        });
        if is_named {
            self.counters.forgotten_node_gone += 1;
            self.forget_channel(node.channel);
        }
    }

    /// Drops all cached rows of a channel and makes void what is on its way (rule 8).
    fn forget_channel(&mut self, channel: ChannelId) {
        self.read_states.forget_channel(channel, self.now);
        self.channels.forget(channel);
        self.stamps_void_up_to = Some(self.now);
        if let Some(queue) = self.queues.get_mut(&channel) {
            queue.parked.clear();
            if !self.settings.planted.is(Bug::VoidLoadTaken) {
                for (_, token) in queue.loading.drain() {
                    self.pending_loads.remove(&token);
                }
            }
        }
    }

    pub(super) fn take_load_failure(&mut self, token: LoadToken, out: &mut Vec<Effect>) {
        let Some(mut pending) = self.pending_loads.remove(&token) else {
            return;
        };
        self.counters.loads_failed += 1;
        let channel = pending.channel;
        let Some(queue) = self.queues.get_mut(&channel) else {
            return;
        };
        queue.is_failing = true;
        queue.loading.remove(&pending.key);
        self.answer_without_store(channel, out);
        let Some(queue) = self.queues.get_mut(&channel) else {
            return;
        };
        if queue.first_record().is_some() {
            pending.attempt += 1;
            pending.since = self.now;
            self.last_token += 1;
            let token = LoadToken(self.last_token);
            queue.loading.insert(pending.key, token);
            out.push(Effect::Load {
                token,
                key: pending.key,
                attempt: pending.attempt,
            });
            self.pending_loads.insert(token, pending);
        } else {
            self.drop_queue(channel);
        }
    }

    /// While the store fails, questions about what is cached are answered as of just before the first record that
    /// waits; others can't be.
    pub(super) fn answer_without_store(&mut self, channel: ChannelId, out: &mut Vec<Effect>) {
        let Some(queue) = self.queues.get_mut(&channel) else {
            return;
        };
        let as_of = queue.first_record().map_or(self.position, LogPosition::before);
        let (questions, records) = std::mem::take(&mut queue.items)
            .into_iter()
            .partition(|item| matches!(item, Item::Question(..)));
        queue.items = records;
        let questions: VecDeque<Item> = questions;
        for item in questions {
            if let Item::Question(_, question) = item {
                self.answer_from_cache(as_of, question, out);
            }
        }
    }

    /// Where a load takes long, questions about what is cached are answered as of just before the first record that
    /// waits, as if the store failed; others wait on.
    pub(super) fn answer_past_slow_loads(&mut self, out: &mut Vec<Effect>) {
        if self.now < self.slow_loads_due {
            return;
        }
        self.slow_loads_due = Millis(self.now.0 + SLOW_LOADS_INTERVAL_MS);
        self.queues.values_mut().for_each(|queue| queue.is_slow = false);
        let patience_ms = self.settings.load_patience_ms;
        let mut slow: Vec<ChannelId> = Vec::new();
        for Pending { channel, since, .. } in self.pending_loads.values() {
            if since.0 + patience_ms < self.now.0
                && let Some(queue) = self.queues.get_mut(channel)
                && !std::mem::replace(&mut queue.is_slow, true)
            {
                slow.push(*channel);
            }
        }
        // In an order that is the same each time.
        slow.sort_unstable();
        for channel in slow {
            let Some(as_of) = self.slow_as_of(channel) else {
                continue;
            };
            let Some(queue) = self.queues.get_mut(&channel) else {
                continue;
            };
            let mut items = std::mem::take(&mut queue.items);
            items.retain(|item| match item {
                Item::Record(..) => true,
                Item::Question(_, question) => !self.answer_if_cached(as_of, question, out),
            });
            if items.is_empty() {
                self.drop_queue(channel);
            } else if let Some(queue) = self.queues.get_mut(&channel) {
                queue.items = items;
            }
        }
    }

    /// Where a load of this channel takes long: just before the first record that waits, or the position.
    pub(super) fn slow_as_of(&self, channel: ChannelId) -> Option<LogPosition> {
        let queue = self.queues.get(&channel).filter(|queue| queue.is_slow)?;
        Some(queue.first_record().map_or(self.position, LogPosition::before))
    }

    /// Whether the row of a read state is on its way.
    pub(super) fn is_loading(&self, key: &ReadStateKey) -> bool {
        let queue = self.queues.get(&key.channel);
        queue.is_some_and(|queue| queue.loading.contains_key(&LoadKey::ReadState(*key)))
    }

    /// Where the store fails records of this channel: just before the first of those that wait.
    pub(super) fn failing_as_of(&self, channel: ChannelId) -> Option<LogPosition> {
        let queue = self.queues.get(&channel).filter(|queue| queue.is_failing)?;
        queue.first_record().map(LogPosition::before)
    }

    /// Goes on with what waits in a channel, as far as it can.
    pub(super) fn advance(&mut self, channel: ChannelId, out: &mut Vec<Effect>) {
        loop {
            let Some(queue) = self.queues.get_mut(&channel) else {
                return;
            };
            let Some(item) = queue.items.pop_front() else {
                return self.drop_queue(channel);
            };
            let (item, missing) = match item {
                Item::Record(at, event) => match self.apply(channel, at, &event) {
                    Ok(()) => {
                        self.waiting.remove(&at);
                        continue;
                    }
                    Err(missing) => (Item::Record(at, event), missing),
                },
                Item::Question(at, question) => match self.try_answer(at, &question, out) {
                    Ok(()) => continue,
                    Err(missing) => (Item::Question(at, question), missing),
                },
            };
            if let Some(queue) = self.queues.get_mut(&channel) {
                queue.items.push_front(item);
            }
            self.load_all(channel, missing, out);
            return self.load_ahead(channel, out);
        }
    }

    /// Asks for the read states of what waits further back.
    fn load_ahead(&mut self, channel: ChannelId, out: &mut Vec<Effect>) {
        let room = self.settings.loads_max.saturating_sub(self.pending_loads.len());
        let Some(queue) = self.queues.get(&channel).filter(|_| room > 0) else {
            return;
        };
        let mut missing = Missing::new();
        for item in queue.items.iter().take(room) {
            missing.extend(self.missing_for(channel, item));
        }
        missing.truncate(room);
        self.load_all(channel, missing, out);
    }

    fn drop_queue(&mut self, channel: ChannelId) {
        let Some(mut queue) = self.queues.remove(&channel) else {
            return;
        };
        self.read_states.release(channel);
        for (_, token) in queue.loading.drain() {
            self.pending_loads.remove(&token);
        }
        if self.spare_queues.len() < SPARE_QUEUES_MAX && queue.is_small() {
            self.spare_queues.push(queue.emptied());
        }
    }
}

impl Queue {
    fn is_small(&self) -> bool {
        self.items.capacity() <= SPARE_ROOM_MAX
            && self.loading.capacity() <= SPARE_ROOM_MAX
            && self.parked.capacity() <= SPARE_ROOM_MAX
    }

    /// A new one in the memory of this one.
    fn emptied(mut self) -> Self {
        self.items.clear();
        self.loading.clear();
        self.parked.clear();
        Queue {
            items: self.items,
            loading: self.loading,
            parked: self.parked,
            ..Queue::default()
        }
    }

    fn has_parked(&self, key: &LoadKey) -> bool {
        matches!(key, LoadKey::ReadState(key) if self.parked.iter().any(|(parked, _)| parked == key))
    }
}
