//! A store that behaves like Cassandra: the last write by timestamp wins, deletes are tombstones with a timestamp.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use readstates::model::channel::{Block, Head, Level, Node, NodeRef, Page};
use readstates::model::ids::{ChannelId, LogPosition, MessageId, ReadStateKey, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::{LoadKey, LoadedRow, NodeKey, Write};
use readstates::store::rows;

use super::rng::Rng;
use super::stats::{Stat, Stats};

/// A channel as the store has it: everything that its head names.
#[derive(Clone)]
pub struct StoredChannel {
    pub head: Arc<Head>,
    /// All pages in order, the newest too.
    pub pages: Vec<Arc<Page>>,
    /// All blocks in order, the newest too.
    pub blocks: Vec<Arc<Block>>,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effective {
    /// It is what the store has now.
    Won,
    /// The store had the very same.
    Same,
    /// The store had something newer.
    Lost,
}

pub struct FakeStore {
    /// How many rows go through their bytes.
    bytes_percent: u64,
    rng: Rng,
    pub is_down: bool,
    pub read_states: BTreeMap<ReadStateKey, Rc<ReadState>>,
    pub heads: BTreeMap<ChannelId, Arc<Head>>,
    nodes: BTreeMap<(NodeKey, LogPosition), Node>,
    tombstones: HashMap<NodeKey, LogPosition>,
    pub position: LogPosition,
    /// All rows that were ever written, to see that equal places mean equal rows.
    written_read_states: HashMap<(ReadStateKey, LogPosition), Rc<ReadState>>,
    written_heads: HashMap<(ChannelId, LogPosition), Arc<Head>>,
    written_nodes: HashMap<(NodeKey, LogPosition), Node>,
}

fn same<T: PartialEq + std::fmt::Debug>(before: &T, now: &T, what: &str) -> Result<(), String> {
    if before == now {
        return Ok(());
    }
    Err(format!(
        "invariant 2: two different rows of {what}: {before:?} and {now:?}"
    ))
}

impl FakeStore {
    /// Has nothing yet.
    pub fn new(bytes_percent: u64, rng: Rng) -> Self {
        FakeStore {
            bytes_percent,
            rng,
            is_down: false,
            read_states: BTreeMap::new(),
            heads: BTreeMap::new(),
            nodes: BTreeMap::new(),
            tombstones: HashMap::new(),
            position: LogPosition::NOTHING,
            written_read_states: HashMap::new(),
            written_heads: HashMap::new(),
            written_nodes: HashMap::new(),
        }
    }

    /// A row that is written goes through its bytes and must come back the same.
    fn check_bytes(&mut self, write: &Write) -> Result<(), String> {
        if !self.rng.percent(self.bytes_percent) {
            return Ok(());
        }
        let written_at = |place: LogPosition| place.to_bits() as i64;
        let same = match write {
            Write::ReadState(key, state) => rows::encode_read_state(*key, state)
                .and_then(|bytes| rows::decode_read_state(*key, written_at(state.applied), &bytes))
                .map(|row| row == *state),
            Write::Head(channel, head) => rows::encode_head(*channel, head)
                .and_then(|bytes| rows::decode_head(*channel, written_at(head.applied), &bytes))
                .map(|row| row == **head),
            Write::Node(key, version, node) => rows::encode_node(*key, *version, node)
                .and_then(|bytes| rows::decode_node(*key, *version, written_at(*version), &bytes))
                .map(|row| row == *node),
            Write::DeleteNodesBelow(..) => Ok(true),
        };
        match same {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("{write:?} does not come back from its bytes")),
            Err(why) => Err(format!("{write:?} has no bytes: {why}")),
        }
    }

    /// Applies a write, whoever sent it and whenever.
    ///
    /// # Errors
    /// If a row differs from another one of the same place (invariant 2), if a head is ahead of its nodes (3), or
    /// if nodes are deleted that the head names.
    pub fn apply(&mut self, write: &Write, stats: &mut Stats) -> Result<Effective, String> {
        self.check_bytes(write)?;
        match write {
            Write::ReadState(key, state) => self.write_read_state(*key, state),
            Write::Head(channel, head) => self.write_head(*channel, head),
            Write::Node(key, version, node) => self.write_node(*key, *version, node, stats),
            Write::DeleteNodesBelow(key, version) => self.delete_nodes(*key, *version),
        }
    }

    fn write_read_state(&mut self, key: ReadStateKey, state: &ReadState) -> Result<Effective, String> {
        let place = (key, state.applied);
        let row = match self.written_read_states.get(&place) {
            Some(before) => {
                same(&**before, state, &format!("{key:?}"))?;
                Rc::clone(before)
            }
            None => {
                let row = Rc::new(state.clone());
                self.written_read_states.insert(place, Rc::clone(&row));
                row
            }
        };
        let before = self.read_states.get(&key).map(|row| row.applied);
        if before > Some(state.applied) {
            return Ok(Effective::Lost);
        }
        self.read_states.insert(key, row);
        Ok(won_or_same(before == Some(state.applied)))
    }

    fn write_head(&mut self, channel: ChannelId, head: &Arc<Head>) -> Result<Effective, String> {
        let place = (channel, head.applied);
        match self.written_heads.get(&place) {
            Some(before) if Arc::ptr_eq(before, head) => {}
            Some(before) => same(before, head, &format!("head of channel {channel}"))?,
            None => drop(self.written_heads.insert(place, Arc::clone(head))),
        }
        let before = self.heads.get(&channel).map(|head| head.applied);
        if before > Some(head.applied) {
            return Ok(Effective::Lost);
        }
        self.heads.insert(channel, Arc::clone(head));
        self.channel(channel)
            .map_err(|missing| format!("invariant 3: the head just written needs {missing}"))?;
        Ok(won_or_same(before == Some(head.applied)))
    }

    fn write_node(
        &mut self,
        key: NodeKey,
        version: LogPosition,
        node: &Node,
        stats: &mut Stats,
    ) -> Result<Effective, String> {
        match self.written_nodes.get(&(key, version)) {
            Some(before) => same(before, node, &format!("{key:?} {version}"))?,
            None => drop(self.written_nodes.insert((key, version), node.clone())),
        }
        if self.tombstones.get(&key).is_some_and(|below| version < *below) {
            stats.hit(Stat::NodeWriteBelowTombstone);
            return Ok(Effective::Lost);
        }
        let before = self.nodes.insert((key, version), node.clone());
        Ok(won_or_same(before.is_some()))
    }

    fn delete_nodes(&mut self, key: NodeKey, below: LogPosition) -> Result<Effective, String> {
        let tombstone = self.tombstones.entry(key).or_default();
        *tombstone = below.max(*tombstone);
        let range = (key, LogPosition::NOTHING)..(key, below);
        let gone: Vec<_> = self.nodes.range(range).map(|(at, _)| *at).collect();
        for at in &gone {
            self.nodes.remove(at);
        }
        match self.version_named(&key) {
            Some(named) if named < below => Err(format!(
                "{key:?} below {below} was deleted, but the head names {named}"
            )),
            _ => Ok(won_or_same(gone.is_empty())),
        }
    }

    /// The version of a node that the stored head names, directly or by a page.
    fn version_named(&self, key: &NodeKey) -> Option<LogPosition> {
        fn find(nodes: &[NodeRef], id: MessageId) -> Option<(&NodeRef, bool)> {
            let index = nodes.partition_point(|node| node.first <= id).checked_sub(1)?;
            Some((&nodes[index], index + 1 == nodes.len()))
        }
        let head = self.heads.get(&key.channel)?;
        let (page, is_newest_page) = find(&head.pages, key.first)?;
        let (node, is_newest) = match (key.level, self.node(key.channel, Level::Page, page)) {
            (Level::Page, _) => (page, is_newest_page),
            (Level::Block, Some(Node::Page(page))) if !is_newest_page => {
                (find(&page.blocks, key.first)?.0, false)
            }
            (Level::Block, _) if is_newest_page => find(&head.newest_page.blocks, key.first)?,
            (Level::Block, _) => return None,
        };
        (node.first == key.first && !is_newest).then_some(node.version)
    }

    /// Everything that the head of a channel names.
    ///
    /// # Errors
    /// What is missing.
    pub fn channel(&self, channel: ChannelId) -> Result<Option<StoredChannel>, String> {
        let Some(head) = self.heads.get(&channel) else {
            return Ok(None);
        };
        let mut stored = StoredChannel {
            head: Arc::clone(head),
            pages: Vec::with_capacity(head.pages.len()),
            blocks: Vec::new(),
        };
        for (index, page) in head.pages.iter().enumerate() {
            let newest = index + 1 == head.pages.len();
            let page = if newest {
                Arc::new(head.newest_page.clone())
            } else {
                match self.node(channel, Level::Page, page) {
                    Some(Node::Page(page)) => Arc::clone(page),
                    _ => return Err(format!("page {page:?} of channel {channel} ({head:?})")),
                }
            };
            for (place, block) in page.blocks.iter().enumerate() {
                stored.blocks.push(if newest && place + 1 == page.blocks.len() {
                    Arc::new(head.newest_block.clone())
                } else {
                    match self.node(channel, Level::Block, block) {
                        Some(Node::Block(block)) => Arc::clone(block),
                        _ => {
                            return Err(format!("block {block:?} of channel {channel} ({head:?})"));
                        }
                    }
                });
            }
            stored.pages.push(page);
        }
        Ok(Some(stored))
    }

    fn node(&self, channel: ChannelId, level: Level, node: &NodeRef) -> Option<&Node> {
        let key = NodeKey {
            channel,
            level,
            first: node.first,
        };
        self.nodes.get(&(key, node.version))
    }

    pub fn load(&self, key: LoadKey) -> LoadedRow {
        match key {
            LoadKey::ReadState(key) => {
                LoadedRow::ReadState(self.read_states.get(&key).map(|row| (**row).clone()))
            }
            LoadKey::Head(channel) => LoadedRow::Head(self.heads.get(&channel).cloned()),
            LoadKey::Node(key, version) => LoadedRow::Node(self.nodes.get(&(key, version)).cloned()),
        }
    }

    /// The rows of a user with a channel above `above` and up to `up_to`.
    pub fn load_user(&self, user: UserId, above: ChannelId, up_to: ChannelId) -> Vec<(ChannelId, ReadState)> {
        let rows = self
            .read_states
            .iter()
            .filter(|(key, _)| key.user == user && key.channel > above && key.channel <= up_to);
        rows.map(|(key, row)| (key.channel, (**row).clone())).collect()
    }

    pub fn store_position(&mut self, position: LogPosition) -> Effective {
        let before = self.position;
        self.position = position.max(before);
        match position {
            _ if position < before => Effective::Lost,
            _ => won_or_same(position == before),
        }
    }
}

fn won_or_same(same: bool) -> Effective {
    if same { Effective::Same } else { Effective::Won }
}
