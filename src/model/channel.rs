//! The messages of a channel: a counted, copy-on-write B+tree of three levels (head, pages, blocks).

use std::sync::Arc;

use super::ids::{LogPosition, MessageId, UserId};

/// A message, or the mark that one was deleted before it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Who wrote it, if a user did.
    pub author: Option<UserId>,
    /// Users mentioned by name or by role, ascending, each once.
    pub mentions: Box<[UserId]>,
    /// Whether it mentions everyone.
    pub everyone: bool,
    /// Whether it was deleted.
    pub deleted: bool,
    /// Whether it was created. False for a message that was deleted before it was created: a mark, no message.
    pub created: bool,
}

/// A leaf: neighbouring messages, ascending by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The messages.
    pub messages: Vec<Message>,
}

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

/// An inner node: neighbouring blocks, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The blocks.
    pub blocks: Vec<NodeRef>,
}

/// The root, with the newest page and the newest block in it, where nearly everything happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The last record that changed the channel.
    pub applied: LogPosition,
    /// Gone for good.
    pub deleted: bool,
    /// The largest id of any message created, deleted or not.
    pub newest_seen: MessageId,
    /// All pages, ascending. The last of them is `newest_page`. Empty until the first message.
    pub pages: Vec<NodeRef>,
    /// The newest page, which is not a node of its own. Its last block is `newest_block`.
    pub newest_page: Arc<Page>,
    /// The newest block, which is not a node of its own.
    pub newest_block: Arc<Block>,
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
