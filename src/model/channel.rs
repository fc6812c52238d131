//! The messages of a channel: a counted, copy-on-write B+tree of three levels (head, pages, blocks).

use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;

use super::block::Edited;
pub use super::block::{Block, Message, MessageRef};
use super::ids::{LogPosition, MessageId};
use super::planted::{Bug, Planted};

/// What a parent knows of a node: where it begins, which version of it is meant, and its sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeRef {
    /// The node holds the messages from this id up to the next node's first. The lowest node begins at 0.
    pub first: MessageId,
    /// The last record that changed the node or anything below it.
    pub version: LogPosition,
    /// Messages that were created and not deleted.
    pub live: u64,
    /// Those of them that mention everyone.
    pub everyone: u64,
    /// The newest live message; 0 if there is none.
    pub newest_live: MessageId,
}

/// What a parent knows of its children, ascending. Most have one, which is kept in the parent itself.
pub type NodeRefs = SmallVec<[NodeRef; 1]>;

/// An inner node: neighbouring blocks, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The blocks.
    pub blocks: NodeRefs,
}

/// The root, with the newest page and the newest block in it, where nearly everything happens: what a new message needs
/// is in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The last record that changed the channel.
    pub applied: LogPosition,
    /// Gone for good.
    pub deleted: bool,
    /// The largest id of any message created, deleted or not.
    pub newest_seen: MessageId,
    /// All pages, ascending. The last of them is `newest_page`. Empty until the first message.
    pub pages: NodeRefs,
    /// The newest page, which is not a node of its own. Its last block is `newest_block`.
    pub newest_page: Page,
    /// The newest block, which is not a node of its own.
    pub newest_block: Block,
}

/// How high a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Messages.
    Block = 0,
    /// References to blocks.
    Page = 1,
}

/// A node of a channel that is stored on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Messages.
    Block(Arc<Block>),
    /// References to blocks.
    Page(Arc<Page>),
}

/// A node that an operation needs and that is not at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wanted {
    /// How high it stands.
    pub level: Level,
    /// Where it begins.
    pub first: MessageId,
    /// The version that its parent names.
    pub version: LogPosition,
}

/// A node that is looked at.
#[derive(Debug)]
pub enum AtHand<'a, T> {
    /// In the head.
    Newest(&'a T),
    /// One of its own.
    Own(Arc<T>),
}

impl<T: Clone> AtHand<'_, T> {
    /// The node, for one who changes it.
    fn into_owned(self) -> T {
        match self {
            AtHand::Newest(node) => node.clone(),
            AtHand::Own(node) => Arc::unwrap_or_clone(node),
        }
    }
}

impl<T> Deref for AtHand<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            AtHand::Newest(node) => node,
            AtHand::Own(node) => node,
        }
    }
}

/// The nodes of one channel that are at hand.
pub trait Nodes {
    /// The block, if it is at hand in this version.
    fn block(&self, first: MessageId, version: LogPosition) -> Option<Arc<Block>>;
    /// The page, if it is at hand in this version.
    fn page(&self, first: MessageId, version: LogPosition) -> Option<Arc<Page>>;
    /// Takes a node that was changed (`replaced` is the version before) or is new.
    fn put(&mut self, node: NodeRef, content: Node, replaced: Option<LogPosition>);
}

/// The fan-outs of the tree. The rows depend on them, so a deployment keeps them for good.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Messages in a block.
    pub block_messages_max: usize,
    /// By-name mentions in a block of more than one message.
    pub block_mentions_max: usize,
    /// Blocks in a page.
    pub page_blocks_max: usize,
    /// For tests.
    pub planted: Planted,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            block_messages_max: 128,
            block_mentions_max: 16_384,
            page_blocks_max: 128,
            planted: Planted::default(),
        }
    }
}

/// What is above an id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Above {
    /// Live messages.
    pub live: u64,
    /// Those of them that mention everyone.
    pub everyone: u64,
}

impl NodeRef {
    /// Of a node with these sums.
    pub(super) fn new(first: MessageId, version: LogPosition, sums: Above, newest_live: MessageId) -> Self {
        let Above { live, everyone } = sums;
        NodeRef {
            first,
            version,
            live,
            everyone,
            newest_live,
        }
    }

    /// The node after an edit of one of its messages. Takes the same time however many there are.
    fn edited(self, edited: &Edited, newest_live: MessageId, version: LogPosition) -> Self {
        NodeRef {
            first: self.first,
            version,
            live: self.live + edited.after.live - edited.before.live,
            everyone: self.everyone + edited.after.everyone - edited.before.everyone,
            newest_live,
        }
    }
}

impl Page {
    /// What the parent has to know of this page.
    pub fn to_ref(&self, first: MessageId, version: LogPosition) -> NodeRef {
        NodeRef::new(first, version, sum_of(&self.blocks), self.newest_live())
    }

    fn newest_live(&self) -> MessageId {
        let newest = self.blocks.iter().rev().find(|block| block.live > 0);
        newest.map_or(MessageId::NONE, |block| block.newest_live)
    }

    /// The memory it takes.
    pub fn weight_bytes(&self) -> usize {
        size_of::<Page>() + heap_bytes(&self.blocks)
    }
}

/// The memory that children take beside their parent.
fn heap_bytes(children: &NodeRefs) -> usize {
    match children.spilled() {
        true => children.capacity() * size_of::<NodeRef>(),
        false => 0,
    }
}

/// The place of the child that holds `id`: mostly the last.
fn child_of(children: &[NodeRef], id: MessageId) -> usize {
    if children.last().is_some_and(|last| last.first <= id) {
        return children.len() - 1;
    }
    children
        .partition_point(|child| child.first <= id)
        .saturating_sub(1)
}

fn sum_of(children: &[NodeRef]) -> Above {
    children.iter().fold(Above::default(), |sum, child| Above {
        live: sum.live + child.live,
        everyone: sum.everyone + child.everyone,
    })
}

/// A block that is changed, and where it belongs.
struct Taken {
    page_index: usize,
    page: Page,
    index: usize,
    block: Block,
}

/// How many lower neighbours of a missing block are asked for with it while messages are read downwards.
const READ_AHEAD_BLOCKS: usize = 8;

impl Head {
    /// The newest live message; 0 if there is none.
    pub fn last_message(&self) -> MessageId {
        self.pages
            .iter()
            .rev()
            .find(|page| page.live > 0)
            .map_or(MessageId::NONE, |page| page.newest_live)
    }

    /// The memory it takes.
    pub fn weight_bytes(&self) -> usize {
        size_of::<Head>()
            + heap_bytes(&self.pages)
            + heap_bytes(&self.newest_page.blocks)
            + self.newest_block.heap_bytes()
    }

    fn page_at(&self, index: usize, nodes: &impl Nodes) -> Result<AtHand<'_, Page>, Wanted> {
        let page = &self.pages[index];
        if index + 1 == self.pages.len() {
            return Ok(AtHand::Newest(&self.newest_page));
        }
        let wanted = Wanted {
            level: Level::Page,
            first: page.first,
            version: page.version,
        };
        nodes
            .page(page.first, page.version)
            .map(AtHand::Own)
            .ok_or(wanted)
    }

    fn block_at(
        &self,
        page: usize,
        blocks: &Page,
        index: usize,
        nodes: &impl Nodes,
    ) -> Result<AtHand<'_, Block>, Wanted> {
        let block = &blocks.blocks[index];
        if page + 1 == self.pages.len() && index + 1 == blocks.blocks.len() {
            return Ok(AtHand::Newest(&self.newest_block));
        }
        let wanted = Wanted {
            level: Level::Block,
            first: block.first,
            version: block.version,
        };
        nodes
            .block(block.first, block.version)
            .map(AtHand::Own)
            .ok_or(wanted)
    }

    /// The block that holds `id`, or would hold it. Nothing in a channel without messages.
    pub fn block_of(&self, id: MessageId, nodes: &impl Nodes) -> Result<Option<AtHand<'_, Block>>, Wanted> {
        if self.pages.is_empty() {
            return Ok(None);
        }
        let page = child_of(&self.pages, id);
        let blocks = self.page_at(page, nodes)?;
        self.block_at(page, &blocks, child_of(&blocks.blocks, id), nodes)
            .map(Some)
    }

    /// Counts what is above `id`: one path from the head, at any depth.
    pub fn above(&self, id: MessageId, nodes: &impl Nodes) -> Result<Above, Wanted> {
        if self.pages.is_empty() {
            return Ok(Above::default());
        }
        let page = child_of(&self.pages, id);
        let newer_pages = sum_of(&self.pages[page + 1..]);
        if self.pages[page].newest_live <= id {
            return Ok(newer_pages);
        }
        let blocks = self.page_at(page, nodes)?;
        let block = child_of(&blocks.blocks, id);
        let newer_blocks = sum_of(&blocks.blocks[block + 1..]);
        let within = if blocks.blocks[block].newest_live <= id {
            Above::default()
        } else {
            self.block_at(page, &blocks, block, nodes)?.above(id)
        };
        Ok(Above {
            live: newer_pages.live + newer_blocks.live + within.live,
            everyone: newer_pages.everyone + newer_blocks.everyone + within.everyone,
        })
    }

    /// Visits the live messages above `above` and up to `up_to`, newest first, until `visit` has had enough.
    ///
    /// # Errors
    /// The nodes that are missing, with some of those that come next. Visit again from the start once they are there.
    pub fn descend(
        &self,
        up_to: MessageId,
        above: MessageId,
        nodes: &impl Nodes,
        mut visit: impl FnMut(&MessageRef<'_>) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Vec<Wanted>> {
        if self.pages.is_empty() {
            return Ok(());
        }
        for page in (child_of(&self.pages, above)..=child_of(&self.pages, up_to)).rev() {
            let blocks = self.page_at(page, nodes).map_err(|wanted| vec![wanted])?;
            let lowest = child_of(&blocks.blocks, above);
            for index in (lowest..=child_of(&blocks.blocks, up_to)).rev() {
                let Ok(block) = self.block_at(page, &blocks, index, nodes) else {
                    let next = (lowest..=index).rev().take(READ_AHEAD_BLOCKS);
                    return Err(next
                        .filter_map(|i| self.block_at(page, &blocks, i, nodes).err())
                        .collect());
                };
                let messages = block.messages().rev();
                for message in messages.filter(|m| m.is_live() && m.id > above && m.id <= up_to) {
                    if visit(&message).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts a message, or a mark, into the tree. Its id must not be there yet, and its block must be at hand.
    pub fn insert(
        &mut self,
        message: Message,
        at: LogPosition,
        shape: &Shape,
        nodes: &mut impl Nodes,
    ) -> Result<(), Wanted> {
        if self.pages.is_empty() {
            let lowest = if shape.planted.is(Bug::LowestBlockAtSmallestId) {
                message.id
            } else {
                MessageId::NONE
            };
            let first = NodeRef {
                first: lowest,
                version: at,
                ..NodeRef::default()
            };
            self.newest_page.blocks.push(first);
            self.pages.push(first);
        }
        self.edit_block(message.id, at, shape, nodes, |block| block.insert(&message))
    }

    /// Changes a message that is in the tree. Its block must be at hand.
    pub fn modify(
        &mut self,
        id: MessageId,
        at: LogPosition,
        shape: &Shape,
        nodes: &mut impl Nodes,
        change: impl FnOnce(&mut Message),
    ) -> Result<(), Wanted> {
        self.edit_block(id, at, shape, nodes, |block| block.modify(id, change))
    }

    /// Changes the block of `id` and then all that is above it, splitting what has become too large.
    fn edit_block(
        &mut self,
        id: MessageId,
        at: LogPosition,
        shape: &Shape,
        nodes: &mut impl Nodes,
        edit: impl FnOnce(&mut Block) -> Edited,
    ) -> Result<(), Wanted> {
        if self.is_in_newest_block(id) {
            let edited = edit(&mut self.newest_block);
            if !self.newest_block.is_overfull(shape) {
                self.put_sums_of_newest(&edited, at);
                return Ok(());
            }
            let taken = Taken {
                page_index: self.pages.len() - 1,
                index: self.newest_page.blocks.len() - 1,
                page: std::mem::take(&mut self.newest_page),
                block: std::mem::take(&mut self.newest_block),
            };
            self.put_block(taken, edited.index, at, shape, nodes);
            return Ok(());
        }
        let page_index = child_of(&self.pages, id);
        let page = self.page_at(page_index, nodes)?;
        let index = child_of(&page.blocks, id);
        let mut block = self.block_at(page_index, &page, index, nodes)?.into_owned();
        let own_page = match page {
            AtHand::Newest(_) => None,
            AtHand::Own(page) => Some(Arc::unwrap_or_clone(page)),
        };
        let page = own_page.unwrap_or_else(|| std::mem::take(&mut self.newest_page));
        let edited = edit(&mut block);
        let taken = Taken {
            page_index,
            index,
            page,
            block,
        };
        self.put_block(taken, edited.index, at, shape, nodes);
        Ok(())
    }

    fn is_in_newest_block(&self, id: MessageId) -> bool {
        let is_only = self.pages.len() == 1 && self.newest_page.blocks.len() == 1;
        let newest = self.newest_page.blocks.last();
        is_only || newest.is_some_and(|newest| newest.first <= id)
    }

    /// What the newest block's parents have to know of it after an edit.
    fn put_sums_of_newest(&mut self, edited: &Edited, at: LogPosition) {
        let page = &mut self.newest_page;
        if let Some(block) = page.blocks.last_mut() {
            *block = block.edited(edited, self.newest_block.newest_live(), at);
            debug_assert_eq!(*block, self.newest_block.to_ref(block.first, at));
        }
        let newest_live = page.newest_live();
        if let Some(page) = self.pages.last_mut() {
            *page = page.edited(edited, newest_live, at);
            debug_assert_eq!(*page, self.newest_page.to_ref(page.first, at));
        }
    }

    /// Puts a changed block back in its place, splitting it if it has become too large.
    fn put_block(
        &mut self,
        taken: Taken,
        edited: usize,
        at: LogPosition,
        shape: &Shape,
        nodes: &mut impl Nodes,
    ) {
        let Taken {
            page_index,
            mut page,
            index,
            block,
        } = taken;
        let is_newest_page = page_index + 1 == self.pages.len();
        let is_newest = is_newest_page && index + 1 == page.blocks.len();
        let old = page.blocks[index];
        let mut parts = Vec::new();
        if block.is_overfull(shape) {
            let cut = cut_of(edited, block.len(), is_newest);
            block.split(cut, shape, &mut parts);
        } else {
            parts.push(block);
        }

        let mut refs: NodeRefs = parts
            .iter()
            .enumerate()
            .map(|(i, part)| {
                let first = part.first().filter(|_| i > 0);
                part.to_ref(first.unwrap_or(old.first), at)
            })
            .collect();
        if shape.planted.is(Bug::NodeOverwrittenInPlace) && !is_newest {
            refs[0].version = old.version;
        }
        let last = parts.len() - 1;
        for (i, part) in parts.into_iter().enumerate() {
            match is_newest && i == last {
                true => self.newest_block = part,
                false => {
                    let replaced = (i == 0 && !is_newest).then_some(old.version);
                    nodes.put(refs[i], Node::Block(Arc::new(part)), replaced);
                }
            }
        }
        replace_child(&mut page.blocks, index, refs);
        self.put_page(page_index, is_newest_page, page, at, shape, nodes);
    }

    /// Puts a changed page back in its place, splitting it if it has become too large.
    fn put_page(
        &mut self,
        index: usize,
        is_newest: bool,
        mut page: Page,
        at: LogPosition,
        shape: &Shape,
        nodes: &mut impl Nodes,
    ) {
        let old = self.pages[index];
        if page.blocks.len() <= shape.page_blocks_max {
            let changed = page.to_ref(old.first, at);
            self.pages[index] = changed;
            match is_newest {
                true => self.newest_page = page,
                false => nodes.put(changed, Node::Page(Arc::new(page)), Some(old.version)),
            }
            return;
        }
        let blocks = &mut page.blocks;
        let mut parts = Vec::new();
        while !blocks.is_empty() {
            let rest = blocks.len();
            let cut = match rest > shape.page_blocks_max {
                true if is_newest => shape.page_blocks_max,
                true => rest / 2,
                false => rest,
            };
            parts.push(Page {
                blocks: blocks.drain(..cut.max(1)).collect(),
            });
        }
        let mut refs: NodeRefs = parts
            .iter()
            .enumerate()
            .map(|(i, part)| part.to_ref(if i == 0 { old.first } else { part.blocks[0].first }, at))
            .collect();
        if shape.planted.is(Bug::SplitLosesCount) {
            refs[0].live = refs[0].live.saturating_sub(1);
        }
        let last = parts.len() - 1;
        for (i, part) in parts.into_iter().enumerate() {
            match is_newest && i == last {
                true => self.newest_page = part,
                false => {
                    let replaced = (i == 0 && !is_newest).then_some(old.version);
                    nodes.put(refs[i], Node::Page(Arc::new(part)), replaced);
                }
            }
        }
        replace_child(&mut self.pages, index, refs);
    }
}

/// Puts what has become of a child in its place.
fn replace_child(children: &mut NodeRefs, index: usize, parts: NodeRefs) {
    let mut parts = parts.into_iter();
    children[index] = parts.next().unwrap_or(children[index]);
    children.insert_many(index + 1, parts);
}

/// Where an overfull block is cut: messages that come in ascending order fill the newest block, and those that come in
/// descending order (a reverse import) fill the lowest, so that blocks end up full; others are cut in the middle.
fn cut_of(edited: usize, messages: usize, is_newest: bool) -> usize {
    match edited {
        last if is_newest && last + 1 == messages => messages - 1,
        0 => 1,
        _ => messages / 2,
    }
}
