//! What the model promises about a value, as far as it can be told from one row.

use crate::model::channel::{Block, Head, Node, NodeRef};
use crate::model::ids::{LogPosition, MAX_ID, MessageId};
use crate::model::read_state::ReadState;
use crate::partition::io::NodeKey;
use crate::store::StoredPosition;

/// More messages than a channel can have, since each takes a record; such sums can be added without a care.
const MESSAGES_END: u64 = 1 << 50;

type Check = Result<(), String>;

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(why()) }
}

pub(super) fn read_state(state: &ReadState) -> Check {
    applied(state.applied)?;
    state.check()
}

pub(super) fn head(head: &Head) -> Check {
    applied(head.applied)?;
    let newest_seen = head.newest_seen;
    ensure(newest_seen.0 <= MAX_ID, || {
        format!("newest_seen {newest_seen} is out of range")
    })?;
    let (blocks, messages) = (&head.newest_page.blocks, &head.newest_block);
    let Some(newest_page) = head.pages.last() else {
        return ensure(blocks.is_empty() && messages.is_empty(), || {
            "it has messages and no pages".into()
        });
    };
    let Some(newest_block) = blocks.last() else {
        return Err("its newest page is empty".into());
    };
    refs(MessageId::NONE, head.applied, &head.pages)?;
    refs(newest_page.first, newest_page.version, blocks)?;
    block(newest_block.first, messages)?;
    sums("page", newest_page, &page_sums(blocks))?;
    sums("block", newest_block, &block_sums(messages))?;
    let newest_live = head
        .pages
        .iter()
        .map(|page| page.newest_live)
        .max()
        .unwrap_or_default();
    ensure(newest_live <= newest_seen, || {
        format!("message {newest_live} is above newest_seen {newest_seen}")
    })
}

pub(super) fn node(key: NodeKey, version: LogPosition, node: &Node) -> Check {
    applied(version)?;
    match (key.level, node) {
        (crate::model::channel::Level::Block, Node::Block(content)) => block(key.first, content),
        (crate::model::channel::Level::Page, Node::Page(content)) => {
            refs(key.first, version, &content.blocks)
        }
        _ => Err("its level is not that of its content".into()),
    }
}

pub(super) fn position(position: &StoredPosition) -> Check {
    let epoch = position.stream.epoch;
    ensure(epoch < LogPosition::EPOCHS_MAX, || {
        format!("epoch {epoch} is out of range")
    })
}

/// A row was changed by a record.
fn applied(at: LogPosition) -> Check {
    ensure(at.offset().is_some(), || {
        format!("applied {} is no record", at.to_bits())
    })
}

/// Neighbouring nodes, the first of which begins at `first`, and none of which is newer than their parent.
fn refs(first: MessageId, parent_version: LogPosition, refs: &[NodeRef]) -> Check {
    ensure(refs.first().is_some_and(|node| node.first == first), || {
        format!("no node begins at {first}")
    })?;
    let mut live = 0_u64;
    for (index, node) in refs.iter().enumerate() {
        let end = refs
            .get(index + 1)
            .map_or(MessageId(MAX_ID + 1), |next| next.first);
        let at = node.first;
        ensure(at < end, || format!("node {at} is not below the next one"))?;
        applied(node.version)?;
        ensure(node.version <= parent_version, || {
            format!("node {at} is newer than its parent")
        })?;
        ensure(node.everyone <= node.live, || {
            format!("node {at} has more that mention everyone than messages")
        })?;
        let has_newest = node.newest_live != MessageId::NONE;
        ensure(has_newest == (node.live > 0), || {
            format!("node {at} has the wrong newest message")
        })?;
        let within = node.newest_live >= at && node.newest_live < end;
        ensure(within || !has_newest, || {
            format!("node {at} has a newest message outside of it")
        })?;
        live = live.saturating_add(node.live);
    }
    ensure(live < MESSAGES_END, || format!("{live} messages are too many"))
}

fn block(first: MessageId, block: &Block) -> Check {
    let mut end = first.0.max(1);
    for message in block.messages() {
        let id = message.id;
        ensure(id.0 >= end && id.0 <= MAX_ID, || {
            format!("message {id} is out of order")
        })?;
        end = id.0 + 1;
        ensure(message.created || message.deleted, || {
            format!("message {id} is neither created nor deleted")
        })?;
        let in_range = message
            .author
            .is_none_or(|author| (1..=MAX_ID).contains(&author.0));
        ensure(in_range, || format!("message {id} has an author out of range"))?;
        let mentions = message.mentions;
        let in_range = mentions.first().is_none_or(|user| user.0 > 0)
            && mentions.last().is_none_or(|user| user.0 <= MAX_ID)
            && mentions.is_sorted_by(|a, b| a < b);
        ensure(in_range, || {
            format!("the mentions of message {id} are out of order")
        })?;
    }
    Ok(())
}

/// Live messages, those that mention everyone, and the newest.
#[derive(PartialEq)]
struct Sums {
    live: u64,
    everyone: u64,
    newest_live: MessageId,
}

fn page_sums(blocks: &[NodeRef]) -> Sums {
    Sums {
        live: blocks.iter().map(|block| block.live).sum(),
        everyone: blocks.iter().map(|block| block.everyone).sum(),
        newest_live: blocks
            .iter()
            .map(|block| block.newest_live)
            .max()
            .unwrap_or_default(),
    }
}

fn block_sums(block: &Block) -> Sums {
    let live = || block.messages().filter(|message| message.is_live());
    Sums {
        live: live().count() as u64,
        everyone: live().filter(|message| message.everyone).count() as u64,
        newest_live: live().map(|message| message.id).max().unwrap_or_default(),
    }
}

fn sums(name: &str, named: &NodeRef, found: &Sums) -> Check {
    let said = Sums {
        live: named.live,
        everyone: named.everyone,
        newest_live: named.newest_live,
    };
    ensure(said == *found, || {
        format!("the sums of its newest {name} do not fit")
    })
}
