//! The channels of a partition: cached heads and nodes, and their way into the store.
//!
//! ```text
//!          change             due               nodes acknowledged,                 acknowledged
//!  clean ─────────▶ dirty ───────────▶ staged ─ read states up to it acknowledged ─▶ writing ─────────▶ clean
//!                     ▲                  │ a change while staged or writing: dirty as well │
//!                     └──────────────────┴──────────────────────────────────────────┘
//! ```
//! One staged copy of a channel at a time, never replaced (invariant 3).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

use super::cache::{InChannel, PinnedLru, Weigh};
use super::io::{Kept, Millis, NodeKey, Row, Write};
use super::read_states::STAMP_LIFE_MS;
use super::slab::prefetch;
use crate::model::channel::{Block, Head, Level, Node, NodeRef, Nodes, Page};
use crate::model::ids::{ChannelId, LogPosition, MessageId, UserId};
use crate::model::planted::{Bug, Planted};

struct HeadEntry {
    head: Arc<Head>,
    /// Of this head.
    summary: Summary,
    /// When it was loaded or last acknowledged.
    settled_at: Millis,
    dirty: Option<Dirty>,
    staged: Option<Box<Staged>>,
}

/// All that a record needs to know of its channel, unless it is about messages: kept where the channel is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// As [`Head::applied`].
    pub applied: LogPosition,
    /// As [`Head::deleted`].
    pub deleted: bool,
}

impl From<&Head> for Summary {
    fn from(head: &Head) -> Self {
        Summary {
            applied: head.applied,
            deleted: head.deleted,
        }
    }
}

/// How much of a channel a record needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// [`Summary`].
    Summary,
    /// The head.
    Head,
    /// The newest messages as well.
    Messages,
}

/// Changes that are not staged yet.
struct Dirty {
    since: LogPosition,
    changed_at: Millis,
    /// The changed nodes, each with the version that the staged or stored head names.
    nodes: BTreeMap<(Level, MessageId), Option<LogPosition>>,
}

/// A channel as it was at one moment, on its way into the store.
struct Staged {
    head: Arc<Head>,
    /// The oldest change that it holds and the store does not.
    since: LogPosition,
    changed_at: Millis,
    /// Nodes that are not acknowledged.
    unwritten: BTreeSet<(NodeKey, LogPosition)>,
    /// Nodes of which the store has older versions.
    superseding: Vec<(NodeKey, LogPosition)>,
    is_writing_head: bool,
}

struct NodeEntry {
    node: Node,
    version: LogPosition,
}

impl InChannel for ChannelId {
    fn channel(&self) -> ChannelId {
        *self
    }
}

impl InChannel for NodeKey {
    fn channel(&self) -> ChannelId {
        self.channel
    }
}

impl Weigh for HeadEntry {
    fn weight(&self) -> usize {
        size_of::<HeadEntry>() + self.head.weight_bytes()
    }
}

impl Weigh for NodeEntry {
    fn weight(&self) -> usize {
        let content = match &self.node {
            Node::Block(block) => block.weight_bytes(),
            Node::Page(page) => page.weight_bytes(),
        };
        size_of::<NodeEntry>() + content
    }
}

/// Cached channels, with write-behind. What is changed stays until the store has acknowledged it (invariant 7).
#[derive(Default)]
pub struct Channels {
    heads: PinnedLru<ChannelId, HeadEntry>,
    nodes: PinnedLru<NodeKey, NodeEntry>,
    /// First changes in the order they were made. Entries that are no longer true are passed over.
    queue: VecDeque<(Millis, LogPosition, ChannelId)>,
    /// Oldest changes that are not acknowledged, staged or not.
    unacknowledged: BTreeSet<(LogPosition, ChannelId)>,
    /// Staged channels of which all nodes are acknowledged and the head is not sent, by the place of the head.
    ready: BTreeSet<(LogPosition, ChannelId)>,
    /// Nodes to be written.
    node_writes: VecDeque<(NodeKey, LogPosition, Node)>,
    /// Old versions to be deleted.
    deletes: VecDeque<(NodeKey, LogPosition)>,
    /// Whose turn it is to be written.
    turn: usize,
    planted: Planted,
}

/// What is written in turn.
#[derive(Clone, Copy)]
enum Turn {
    Node,
    Head,
    Deletion,
}

impl Turn {
    const ALL: [Turn; 3] = [Turn::Node, Turn::Head, Turn::Deletion];
}

/// The nodes of one channel, as the tree sees them.
pub struct NodesOf<'a> {
    nodes: &'a mut PinnedLru<NodeKey, NodeEntry>,
    channel: ChannelId,
    changed: Vec<(NodeRef, Level, Option<LogPosition>)>,
}

/// The same, to look only; a look is a use.
pub struct NodesInUse<'a> {
    nodes: RefCell<&'a mut PinnedLru<NodeKey, NodeEntry>>,
    channel: ChannelId,
}

/// The same, to look only, which is no use.
pub struct NodesAtHand<'a> {
    nodes: &'a PinnedLru<NodeKey, NodeEntry>,
    channel: ChannelId,
}

fn peek(
    nodes: &PinnedLru<NodeKey, NodeEntry>,
    channel: ChannelId,
    level: Level,
    first: MessageId,
    version: LogPosition,
) -> Option<&Node> {
    let entry = nodes.peek(&NodeKey {
        channel,
        level,
        first,
    })?;
    (entry.version == version).then_some(&entry.node)
}

/// Whether all changes of read states up to this place are acknowledged.
fn may_write_head(applied: LogPosition, oldest_read_state: Option<LogPosition>) -> bool {
    oldest_read_state.is_none_or(|oldest| applied < oldest)
}

fn as_block(node: &Node) -> Option<Arc<Block>> {
    match node {
        Node::Block(block) => Some(Arc::clone(block)),
        Node::Page(_) => None,
    }
}

fn as_page(node: &Node) -> Option<Arc<Page>> {
    match node {
        Node::Page(page) => Some(Arc::clone(page)),
        Node::Block(_) => None,
    }
}

impl Nodes for NodesAtHand<'_> {
    fn block(&self, first: MessageId, version: LogPosition) -> Option<Arc<Block>> {
        peek(self.nodes, self.channel, Level::Block, first, version).and_then(as_block)
    }

    fn page(&self, first: MessageId, version: LogPosition) -> Option<Arc<Page>> {
        peek(self.nodes, self.channel, Level::Page, first, version).and_then(as_page)
    }

    fn put(&mut self, node: NodeRef, _: Node, _: Option<LogPosition>) {
        unreachable!("the node at {} is changed by one who only looks", node.first)
    }
}

impl NodesInUse<'_> {
    fn use_node(&self, level: Level, first: MessageId, version: LogPosition) -> Option<Node> {
        let mut nodes = self.nodes.borrow_mut();
        let entry = nodes.get(&NodeKey {
            channel: self.channel,
            level,
            first,
        })?;
        (entry.version == version).then(|| entry.node.clone())
    }
}

impl Nodes for NodesInUse<'_> {
    fn block(&self, first: MessageId, version: LogPosition) -> Option<Arc<Block>> {
        self.use_node(Level::Block, first, version)
            .as_ref()
            .and_then(as_block)
    }

    fn page(&self, first: MessageId, version: LogPosition) -> Option<Arc<Page>> {
        self.use_node(Level::Page, first, version)
            .as_ref()
            .and_then(as_page)
    }

    fn put(&mut self, node: NodeRef, _: Node, _: Option<LogPosition>) {
        unreachable!("the node at {} is changed by one who only looks", node.first)
    }
}

impl Nodes for NodesOf<'_> {
    fn block(&self, first: MessageId, version: LogPosition) -> Option<Arc<Block>> {
        peek(self.nodes, self.channel, Level::Block, first, version).and_then(as_block)
    }

    fn page(&self, first: MessageId, version: LogPosition) -> Option<Arc<Page>> {
        peek(self.nodes, self.channel, Level::Page, first, version).and_then(as_page)
    }

    fn put(&mut self, node: NodeRef, content: Node, replaced: Option<LogPosition>) {
        let level = match content {
            Node::Block(_) => Level::Block,
            Node::Page(_) => Level::Page,
        };
        let key = NodeKey {
            channel: self.channel,
            level,
            first: node.first,
        };
        self.nodes.put(
            key,
            NodeEntry {
                node: content,
                version: node.version,
            },
            true,
        );
        self.changed.push((node, level, replaced));
    }
}

impl Channels {
    pub fn new(planted: Planted) -> Self {
        Channels {
            planted,
            ..Channels::default()
        }
    }

    /// The head, if it is cached, and what of its nodes is.
    pub fn get(&mut self, channel: ChannelId) -> Option<(&Head, NodesInUse<'_>)> {
        let Channels { heads, nodes, .. } = self;
        Some((
            &heads.get(&channel)?.head,
            NodesInUse {
                nodes: RefCell::new(nodes),
                channel,
            },
        ))
    }

    /// How a channel stands, if it is cached; does not count as a use.
    pub fn summary(&self, channel: ChannelId) -> Option<Summary> {
        Some(self.heads.peek(&channel)?.summary)
    }

    /// The head and its nodes, without counting as a use.
    pub fn peek(&self, channel: ChannelId) -> Option<(&Head, NodesAtHand<'_>)> {
        Some((
            &self.heads.peek(&channel)?.head,
            NodesAtHand {
                nodes: &self.nodes,
                channel,
            },
        ))
    }

    /// Has the processor fetch what records of these channels will need, one step after another for all of them: a step
    /// waits for the one before, but not for other channels.
    pub fn prefetch(&self, channels: impl Iterator<Item = (ChannelId, Need)>) {
        let mut before = None;
        let each_once = channels.filter(|channel| before.replace(*channel) != Some(*channel));
        let entries: SmallVec<[_; PREFETCHED_TOGETHER]> = each_once
            .filter_map(|(channel, need)| Some((self.heads.guess(&channel)?, need)))
            .inspect(|(place, _)| self.heads.prefetch(*place))
            .collect();
        let heads: SmallVec<[_; PREFETCHED_TOGETHER]> = entries
            .into_iter()
            .filter(|(_, need)| *need >= Need::Head)
            .filter_map(|(place, need)| Some((&*self.heads.at(place)?.head, need)))
            .inspect(|(head, _)| prefetch(*head))
            .collect();
        let in_need_of_messages = heads.into_iter().filter(|(_, need)| *need >= Need::Messages);
        for (head, _) in in_need_of_messages {
            head.newest_block.newest().into_iter().for_each(prefetch);
            head.pages.last().into_iter().for_each(prefetch);
            head.newest_page.blocks.last().into_iter().for_each(prefetch);
        }
    }

    /// Who wrote a message, if it is one of the newest of a cached channel.
    pub fn recent_author(&self, channel: ChannelId, message: MessageId) -> Option<UserId> {
        let entry = self.heads.peek(&channel)?;
        entry.head.newest_block.get(message)?.author
    }

    /// The same as [`Channels::prefetch`] for those that [`Channels::stage_next`] will stage next.
    pub fn prefetch_next_staged(&self, changed_by: Millis) {
        let waiting = self.queue.iter().take(PREFETCHED_TOGETHER);
        let due = waiting.take_while(|(changed_at, ..)| *changed_at <= changed_by);
        self.prefetch(due.map(|(.., channel)| (*channel, Need::Head)));
    }

    /// The same for those whose heads [`Channels::next_write`] will give next.
    pub fn prefetch_next_writes(&self, oldest_read_state: Option<LogPosition>, count: usize) {
        let next = self.ready.iter().take(count);
        let next = next.take_while(|(applied, _)| may_write_head(*applied, oldest_read_state));
        self.prefetch(next.map(|(_, channel)| (*channel, Need::Head)));
    }

    /// How the head stands to the store.
    pub fn explain(&self, channel: ChannelId, now: Millis) -> Option<Row> {
        let entry = self.heads.peek(&channel)?;
        let applied = entry.summary.applied;
        let (kept, since) = match (&entry.staged, &entry.dirty) {
            (Some(staged), _) => (Kept::Writing, staged.changed_at),
            (None, Some(dirty)) => (Kept::Changed, dirty.changed_at),
            (None, None) if applied == LogPosition::NOTHING => (Kept::Nowhere, entry.settled_at),
            (None, None) => (Kept::Stored, entry.settled_at),
        };
        let age_ms = now.0.saturating_sub(since.0);
        Some(Row {
            applied,
            kept,
            age_ms,
        })
    }

    /// Takes a head as the store has it; a new channel where it has none.
    pub fn put_loaded_head(&mut self, channel: ChannelId, head: Option<Arc<Head>>, now: Millis) {
        let head = head.unwrap_or_default();
        self.heads.put(
            channel,
            HeadEntry {
                summary: Summary::from(&*head),
                head,
                settled_at: now,
                dirty: None,
                staged: None,
            },
            false,
        );
    }

    /// Takes a node as the store has it, unless a changed one is there.
    pub fn put_loaded_node(&mut self, key: NodeKey, version: LogPosition, node: Node) {
        if self.nodes.peek(&key).is_none_or(|entry| entry.version < version) {
            self.nodes.put(key, NodeEntry { node, version }, false);
        }
    }

    /// Makes the change of the record at `at` to a channel, which must be cached.
    pub fn change(
        &mut self,
        channel: ChannelId,
        at: LogPosition,
        now: Millis,
        change: impl FnOnce(&mut Head, &mut NodesOf<'_>),
    ) {
        let mut nodes = NodesOf {
            nodes: &mut self.nodes,
            channel,
            changed: Vec::new(),
        };
        let is_first_change = self.heads.update_and_pin(&channel, |entry| {
            debug_assert!(
                entry.summary.applied < at,
                "invariant 4: channel {channel} has the record {at} already"
            );
            let head = Arc::make_mut(&mut entry.head);
            change(head, &mut nodes);
            head.applied = at;
            entry.summary = Summary::from(&*head);
            let is_clean = entry.dirty.is_none() && entry.staged.is_none();
            let is_queued = entry.dirty.is_some();
            let dirty = entry.dirty.get_or_insert_with(|| Dirty {
                since: at,
                changed_at: now,
                nodes: BTreeMap::new(),
            });
            for (node, level, replaced) in nodes.changed.drain(..) {
                dirty.nodes.entry((level, node.first)).or_insert(replaced);
            }
            (is_clean, is_queued)
        });
        let Some((is_clean, is_queued)) = is_first_change else {
            unreachable!("channel {channel} is changed but not cached")
        };
        if !is_queued {
            self.queue.push_back((now, at, channel));
        }
        if is_clean {
            self.unacknowledged.insert((at, channel));
        }
    }

    /// Stages the next channel whose first change was made at or before `changed_by`. Returns whether there was one.
    pub fn stage_next(&mut self, changed_by: Millis) -> bool {
        for _ in 0..self.queue.len() {
            let Some((changed_at, since, channel)) = self.queue.front().copied() else {
                return false;
            };
            let entry = self.heads.peek(&channel);
            let dirty = entry.and_then(|entry| entry.dirty.as_ref());
            if dirty.is_none_or(|dirty| dirty.since != since) {
                self.queue.pop_front();
                continue;
            }
            if changed_at > changed_by {
                return false;
            }
            self.queue.pop_front();
            let is_staged = entry.is_some_and(|entry| entry.staged.is_some());
            if is_staged && !self.planted.is(Bug::StagedReplaced) {
                // Staged again as soon as the copy under way is acknowledged.
                continue;
            }
            self.stage(channel);
            return true;
        }
        false
    }

    fn stage(&mut self, channel: ChannelId) {
        let Channels {
            heads,
            nodes,
            node_writes,
            ready,
            planted,
            ..
        } = self;
        let staged = heads.update(&channel, |entry| {
            let dirty = entry.dirty.take()?;
            let mut staged = Staged {
                head: Arc::clone(&entry.head),
                since: dirty.since,
                changed_at: dirty.changed_at,
                unwritten: BTreeSet::new(),
                superseding: Vec::new(),
                is_writing_head: false,
            };
            if let Some(replaced) = entry.staged.take() {
                ready.remove(&(replaced.head.applied, channel));
                staged.since = replaced.since;
            }
            for ((level, first), replaced) in dirty.nodes {
                let key = NodeKey {
                    channel,
                    level,
                    first,
                };
                let Some(node) = nodes.peek(&key) else {
                    unreachable!("invariant 7: {key:?} is changed but gone")
                };
                node_writes.push_back((key, node.version, node.node.clone()));
                staged.unwritten.insert((key, node.version));
                if replaced.is_some() {
                    staged.superseding.push((key, node.version));
                }
            }
            let is_ready = staged.unwritten.is_empty() || planted.is(Bug::HeadBeforeNodes);
            let applied = staged.head.applied;
            entry.staged = Some(Box::new(staged));
            Some((is_ready, applied))
        });
        if let Some(Some((true, applied))) = staged {
            self.ready.insert((applied, channel));
        }
    }

    /// The next write: a node, a head and a deletion in turn, so that none waits for all that there is of another kind,
    /// which may never come to an end.
    pub fn next_write(&mut self, oldest_read_state: Option<LogPosition>) -> Option<Write> {
        for _ in 0..Turn::ALL.len() {
            let turn = Turn::ALL[self.turn % Turn::ALL.len()];
            self.turn = self.turn.wrapping_add(1);
            let write = match turn {
                Turn::Node => self.next_node_write(),
                Turn::Head => self.next_head_write(oldest_read_state),
                Turn::Deletion => self.next_deletion(),
            };
            if write.is_some() {
                return write;
            }
        }
        None
    }

    fn next_node_write(&mut self) -> Option<Write> {
        let (key, version, node) = self.node_writes.pop_front()?;
        Some(Write::Node(key, version, node))
    }

    fn next_deletion(&mut self) -> Option<Write> {
        let (key, below) = self.deletes.pop_front()?;
        Some(Write::DeleteNodesBelow(key, below))
    }

    /// The next head to write, if everything that it waits for is acknowledged: its nodes, and all changes of read
    /// states up to it.
    fn next_head_write(&mut self, oldest_read_state: Option<LogPosition>) -> Option<Write> {
        let (applied, channel) = self.ready.first().copied()?;
        if !may_write_head(applied, oldest_read_state) && !self.planted.is(Bug::HeadBeforeReadStates) {
            return None;
        }
        self.ready.pop_first();
        let head = self.heads.update(&channel, |entry| {
            let staged = entry.staged.as_mut()?;
            staged.is_writing_head = true;
            Some(Arc::clone(&staged.head))
        });
        if self.planted.is(Bug::NodesDeletedEarly) {
            self.heads.update(&channel, |entry| {
                self.deletes.extend(
                    entry
                        .staged
                        .as_mut()
                        .map(|staged| std::mem::take(&mut staged.superseding))
                        .unwrap_or_default(),
                );
            });
        }
        head.flatten().map(|head| Write::Head(channel, head))
    }

    /// The store has a node. Ignored if nothing waits for it any more.
    pub fn node_written(&mut self, key: NodeKey, version: LogPosition) {
        let acknowledged = self.heads.update(&key.channel, |entry| {
            let is_dirty = entry
                .dirty
                .as_ref()
                .is_some_and(|dirty| dirty.nodes.contains_key(&(key.level, key.first)));
            let staged = entry.staged.as_mut()?;
            let was_waiting = staged.unwritten.remove(&(key, version));
            let is_ready = was_waiting && staged.unwritten.is_empty() && !staged.is_writing_head;
            was_waiting.then_some((is_dirty, is_ready.then_some(staged.head.applied)))
        });
        let Some((is_dirty, ready)) = acknowledged.flatten() else {
            return;
        };
        if !is_dirty {
            self.nodes.unpin(&key);
        }
        if let Some(applied) = ready {
            self.ready.insert((applied, key.channel));
        }
    }

    /// The store has a head. Ignored if it isn't the one under way any more.
    pub fn head_written(&mut self, channel: ChannelId, applied: LogPosition, now: Millis) {
        let acknowledged = self.heads.update(&channel, |entry| {
            let staged = entry
                .staged
                .take_if(|staged| staged.is_writing_head && staged.head.applied == applied)?;
            entry.settled_at = now;
            Some((
                staged,
                entry.dirty.as_ref().map(|dirty| (dirty.changed_at, dirty.since)),
            ))
        });
        let Some((staged, dirty)) = acknowledged.flatten() else {
            return;
        };
        self.unacknowledged.remove(&(staged.since, channel));
        self.deletes.extend(staged.superseding);
        match dirty {
            None => self.heads.unpin(&channel),
            Some((changed_at, since)) => {
                self.unacknowledged.insert((since, channel));
                // It may be due already: behind newer ones it would wait for their delay as well.
                let place = self.queue.partition_point(|(at, ..)| *at <= changed_at);
                self.queue.insert(place, (changed_at, since, channel));
            }
        }
    }

    /// Drops a channel and its nodes, changed ones too: the store has them, and further (invariant 8).
    pub fn forget(&mut self, channel: ChannelId) {
        if let Some(entry) = self.heads.remove(&channel) {
            let staged = entry.staged.map(|staged| {
                self.ready.remove(&(staged.head.applied, channel));
                staged.since
            });
            if let Some(since) = staged.or(entry.dirty.map(|dirty| dirty.since)) {
                self.unacknowledged.remove(&(since, channel));
            }
        }
        for key in self.nodes.keys_in(channel) {
            self.nodes.remove(&key);
        }
        self.node_writes.retain(|(key, ..)| key.channel != channel);
    }

    /// Evicts until at most `capacity_bytes` are cached, as far as clean ones go that nothing waits for. Returns how
    /// many heads and nodes were evicted, and whether one was so fresh that rows read before now can't be trusted.
    pub fn evict(
        &mut self,
        capacity_bytes: usize,
        now: Millis,
        is_waited_for: impl Fn(ChannelId) -> bool,
    ) -> (u64, bool) {
        let (mut evicted, mut fresh, mut skipped) = (0, false, 0);
        while self.weight_bytes() > capacity_bytes && skipped < WAITED_FOR_SKIPPED_MAX {
            let heads_clean = self.heads.len() > self.heads.pinned_len();
            let nodes_clean = self.nodes.len() > self.nodes.pinned_len();
            let is_node = nodes_clean && (!heads_clean || self.nodes.weight() >= self.heads.weight());
            if is_node {
                let Some((key, entry)) = self.nodes.pop_coldest() else {
                    break;
                };
                if is_waited_for(key.channel) {
                    self.nodes.put(key, entry, false);
                    skipped += 1;
                    continue;
                }
            } else {
                let Some((channel, entry)) = self.heads.pop_coldest() else {
                    break;
                };
                if is_waited_for(channel) {
                    self.heads.put(channel, entry, false);
                    skipped += 1;
                    continue;
                }
                fresh |= entry.settled_at.0 + STAMP_LIFE_MS > now.0;
            }
            evicted += 1;
        }
        (evicted, fresh)
    }

    /// The oldest change that is not acknowledged.
    pub fn oldest_unacknowledged(&self) -> Option<LogPosition> {
        self.unacknowledged.first().map(|(since, _)| *since)
    }

    /// When that was made.
    pub fn oldest_change_at(&self) -> Option<Millis> {
        let entry = self.heads.peek(&self.unacknowledged.first()?.1)?;
        let staged = entry.staged.as_ref().map(|staged| staged.changed_at);
        staged.or(entry.dirty.as_ref().map(|dirty| dirty.changed_at))
    }

    /// How many channels are changed and not acknowledged.
    pub fn dirty_len(&self) -> usize {
        self.unacknowledged.len()
    }

    /// How many channels are cached.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// The memory that heads and nodes take.
    pub fn weight_bytes(&self) -> usize {
        self.heads.weight() + self.nodes.weight()
    }

    /// Whether more than `capacity_bytes` are cached and some of it can't leave before it is written.
    pub fn is_pressed(&self, capacity_bytes: usize) -> bool {
        self.weight_bytes() > capacity_bytes && self.heads.pinned_len() > 0
    }

    /// Whether nodes or deletions wait to be sent.
    pub fn has_writes(&self) -> bool {
        !self.node_writes.is_empty() || !self.deletes.is_empty()
    }

    /// Checks what must always hold; for tests.
    pub fn check(&self) {
        let mut dirty = 0;
        for channel in self.heads.keys() {
            let Some(entry) = self.heads.peek(channel) else {
                continue;
            };
            let oldest = entry
                .staged
                .as_ref()
                .map(|staged| staged.since)
                .or(entry.dirty.as_ref().map(|dirty| dirty.since));
            if let Some(since) = oldest {
                dirty += 1;
                assert!(
                    self.unacknowledged.contains(&(since, *channel)),
                    "channel {channel} is in the frontier"
                );
            }
            assert_eq!(entry.summary, Summary::from(&*entry.head), "channel {channel}");
            let pages = entry.head.pages.last();
            assert_eq!(
                pages.map(|page| entry.head.newest_page.to_ref(page.first, page.version)),
                pages.copied()
            );
            let block = entry.head.newest_page.blocks.last();
            assert_eq!(
                block.map(|block| entry.head.newest_block.to_ref(block.first, block.version)),
                block.copied()
            );
        }
        assert_eq!(
            dirty,
            self.unacknowledged.len(),
            "each changed channel is in the frontier once"
        );
    }
}

/// Channels that records which are taken together are about, mostly.
const PREFETCHED_TOGETHER: usize = 64;
/// How many entries that something waits for an eviction passes over before it gives up for now.
const WAITED_FOR_SKIPPED_MAX: usize = 16;
