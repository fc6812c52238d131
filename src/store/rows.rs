//! The bytes of rows: what the `state` column holds, as in `schemas/rows.proto`. Pure.
//!
//! Equal values have equal bytes (invariant 2). What the model promises about a value is checked before it is written
//! and after it is read.

mod check;
mod columns;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use prost::Message as _;

use self::columns::{messages_of, messages_to, refs_of, refs_to, remembered_of, remembered_to};
use super::{StoreError, StoredPosition, StreamIdentity};
use crate::model::channel::{Block, Head, Level, Node, Page};
use crate::model::ids::{ChannelId, LogPosition, MessageId, PartitionId, ReadStateKey};
use crate::model::read_state::{Membership, ReadState};
use crate::partition::io::{LoadKey, LoadedRow, NodeKey};

mod proto {
    include!(concat!(env!("OUT_DIR"), "/readstates.rows.v1.rs"));
}

/// The format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The largest row that is written or read: half of what Cassandra takes in one write by default. A block of 16,384
/// mentions has 200 kB, the head of a channel of 100 million messages about as much.
pub const ROW_BYTES_MAX: usize = 8 << 20;

/// Log positions are below this.
const POSITION_BITS_END: u64 = (LogPosition::EPOCHS_MAX as u64) << 42;

/// Which row, in terms of the tables' key columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowName {
    /// Of `read_states`.
    ReadState(ReadStateKey),
    /// Of `channels`.
    Head(ChannelId),
    /// Of `channel_nodes`, in this version.
    Node(NodeKey, LogPosition),
    /// Of `positions`.
    Position(PartitionId),
}

impl fmt::Display for RowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowName::ReadState(key) => {
                write!(
                    f,
                    "read_states row user_id={} channel_id={}",
                    key.user, key.channel
                )
            }
            RowName::Head(channel) => write!(f, "channels row channel_id={channel}"),
            RowName::Node(key, version) => write!(
                f,
                "channel_nodes row channel_id={} level={} first_id={} applied={}",
                key.channel,
                key.level as u8,
                key.first,
                version.to_bits()
            ),
            RowName::Position(partition) => write!(f, "positions row partition={partition}"),
        }
    }
}

/// A row that can't be read, or must not be written: which one, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RowError(String);

impl From<RowError> for StoreError {
    fn from(error: RowError) -> Self {
        StoreError::Unusable(error.0)
    }
}

impl RowError {
    fn unreadable(row: RowName, why: impl fmt::Display) -> Self {
        RowError(format!(
            "the {row} can't be used: {why}; it is damaged or was not written by readstates: restore the store from \
             a backup, or rebuild it from the stream with `readstates replay`"
        ))
    }

    fn newer(row: RowName, version: u32) -> Self {
        RowError(format!(
            "the {row} has format version {version}, and this program knows versions up to {FORMAT_VERSION}: run the \
             version of readstates that wrote it, or a newer one"
        ))
    }

    /// A row whose write timestamp is not the log position that it carries.
    fn foreign(row: RowName, written_at: i64, applied: u64) -> Self {
        RowError(format!(
            "the {row} was written by something else than readstates, perhaps by hand: its write timestamp is \
             {written_at}, and the state in it is of {applied}; what readstates writes there may lose against it for \
             good: rebuild the store into a new generation with `readstates replay`"
        ))
    }

    fn unwritable(row: RowName, why: impl fmt::Display) -> Self {
        RowError(format!(
            "the {row} is not written, since it could not be read again: {why}; this is a bug in readstates, please \
             report it with this line"
        ))
    }
}

/// Encodes a read state.
///
/// # Errors
/// If it breaks what the model promises.
pub fn encode_read_state(key: ReadStateKey, state: &ReadState) -> Result<Vec<u8>, RowError> {
    let row = RowName::ReadState(key);
    check::read_state(state).map_err(|why| RowError::unwritable(row, why))?;
    let encoded = proto::ReadStateRow {
        format_version: FORMAT_VERSION,
        applied: state.applied.to_bits(),
        last_read: state.last_read.0,
        membership: match state.membership {
            Membership::Unspecified => proto::Membership::Unspecified,
            Membership::Joined => proto::Membership::Joined,
            Membership::Left => proto::Membership::Left,
        }
        .into(),
        mentions: remembered_to(state.last_read, &state.mentions),
        own: remembered_to(state.last_read, &state.own),
        forgotten: state.forgotten.0,
        own_unknown: state.own_unknown.0,
    };
    sized(row, encoded.encode_to_vec())
}

/// Decodes a read state that was written with this timestamp.
///
/// # Errors
/// If it is of a newer format, damaged, or not ours.
pub fn decode_read_state(key: ReadStateKey, written_at: i64, bytes: &[u8]) -> Result<ReadState, RowError> {
    let row = RowName::ReadState(key);
    let (decoded, applied) = open::<proto::ReadStateRow>(row, written_at, bytes)?;
    let build = || -> Result<ReadState, String> {
        let membership = match proto::Membership::try_from(decoded.membership) {
            Ok(proto::Membership::Unspecified) => Membership::Unspecified,
            Ok(proto::Membership::Joined) => Membership::Joined,
            Ok(proto::Membership::Left) => Membership::Left,
            Err(_) => return Err(format!("membership {} is not known", decoded.membership)),
        };
        let last_read = MessageId(decoded.last_read);
        let state = ReadState {
            applied,
            last_read,
            membership,
            mentions: remembered_of(last_read, &decoded.mentions)?,
            own: remembered_of(last_read, &decoded.own)?,
            forgotten: MessageId(decoded.forgotten),
            own_unknown: MessageId(decoded.own_unknown),
        };
        check::read_state(&state)?;
        Ok(state)
    };
    build().map_err(|why| RowError::unreadable(row, why))
}

/// Encodes the root of a channel.
///
/// # Errors
/// If it breaks what the model promises.
pub fn encode_head(channel: ChannelId, head: &Head) -> Result<Vec<u8>, RowError> {
    let row = RowName::Head(channel);
    check::head(head).map_err(|why| RowError::unwritable(row, why))?;
    let has_messages = !head.pages.is_empty();
    let encoded = proto::HeadRow {
        format_version: FORMAT_VERSION,
        applied: head.applied.to_bits(),
        deleted: head.deleted,
        newest_seen: head.newest_seen.0,
        pages: has_messages.then(|| refs_to(&head.pages)),
        newest_page: has_messages.then(|| refs_to(&head.newest_page.blocks)),
        newest_block: has_messages.then(|| messages_to(&head.newest_block)),
    };
    sized(row, encoded.encode_to_vec())
}

/// Makes of what the store has of a row (when it was written, and its bytes) what was asked for.
///
/// # Errors
/// If it is of a newer format, damaged, or not ours.
pub fn decode(key: LoadKey, found: Option<(i64, &[u8])>) -> Result<LoadedRow, StoreError> {
    Ok(match key {
        LoadKey::ReadState(key) => {
            let state = found.map(|(at, state)| decode_read_state(key, at, state));
            LoadedRow::ReadState(state.transpose()?)
        }
        LoadKey::Head(channel) => {
            let head = found.map(|(at, state)| decode_head(channel, at, state));
            LoadedRow::Head(head.transpose()?.map(Arc::new))
        }
        LoadKey::Node(key, version) => {
            let node = found.map(|(at, state)| decode_node(key, version, at, state));
            LoadedRow::Node(node.transpose()?)
        }
    })
}

/// Decodes the root of a channel that was written with this timestamp.
///
/// # Errors
/// If it is of a newer format, damaged, or not ours.
pub fn decode_head(channel: ChannelId, written_at: i64, bytes: &[u8]) -> Result<Head, RowError> {
    let row = RowName::Head(channel);
    let (decoded, applied) = open::<proto::HeadRow>(row, written_at, bytes)?;
    let build = || -> Result<Head, String> {
        let head = Head {
            applied,
            deleted: decoded.deleted,
            newest_seen: MessageId(decoded.newest_seen),
            pages: refs_of(&decoded.pages.unwrap_or_default())?,
            newest_page: Page {
                blocks: refs_of(&decoded.newest_page.unwrap_or_default())?,
            },
            newest_block: Block::new(messages_of(&decoded.newest_block.unwrap_or_default())?),
        };
        check::head(&head)?;
        Ok(head)
    };
    build().map_err(|why| RowError::unreadable(row, why))
}

/// Encodes a node of a channel in this version.
///
/// # Errors
/// If it breaks what the model promises, or is of another level than its key says.
pub fn encode_node(key: NodeKey, version: LogPosition, node: &Node) -> Result<Vec<u8>, RowError> {
    let row = RowName::Node(key, version);
    check::node(key, version, node).map_err(|why| RowError::unwritable(row, why))?;
    let (format_version, applied) = (FORMAT_VERSION, version.to_bits());
    let bytes = match node {
        Node::Block(block) => {
            let messages = Some(messages_to(block));
            proto::BlockRow {
                format_version,
                applied,
                messages,
            }
            .encode_to_vec()
        }
        Node::Page(page) => {
            let blocks = Some(refs_to(&page.blocks));
            proto::PageRow {
                format_version,
                applied,
                blocks,
            }
            .encode_to_vec()
        }
    };
    sized(row, bytes)
}

/// Decodes a node of a channel in this version that was written with this timestamp.
///
/// # Errors
/// If it is of a newer format, damaged, not ours, or of another version.
pub fn decode_node(
    key: NodeKey,
    version: LogPosition,
    written_at: i64,
    bytes: &[u8],
) -> Result<Node, RowError> {
    let row = RowName::Node(key, version);
    let unreadable = |why: String| RowError::unreadable(row, why);
    let (node, applied) = match key.level {
        Level::Block => {
            let (decoded, applied) = open::<proto::BlockRow>(row, written_at, bytes)?;
            let messages = messages_of(&decoded.messages.unwrap_or_default()).map_err(unreadable)?;
            (Node::Block(Arc::new(Block::new(messages))), applied)
        }
        Level::Page => {
            let (decoded, applied) = open::<proto::PageRow>(row, written_at, bytes)?;
            let blocks = refs_of(&decoded.blocks.unwrap_or_default()).map_err(unreadable)?;
            (Node::Page(Arc::new(Page { blocks })), applied)
        }
    };
    if applied != version {
        return Err(unreadable(format!("it is of version {}", applied.to_bits())));
    }
    check::node(key, version, &node).map_err(unreadable)?;
    Ok(node)
}

/// Encodes the position of a partition.
///
/// # Errors
/// If the epoch is out of range.
pub fn encode_position(partition: PartitionId, position: &StoredPosition) -> Result<Vec<u8>, RowError> {
    let row = RowName::Position(partition);
    check::position(position).map_err(|why| RowError::unwritable(row, why))?;
    let encoded = proto::PositionRow {
        format_version: FORMAT_VERSION,
        applied: position.durable.to_bits(),
        stream_id: position.stream.stream_id.clone(),
        partition_count: position.stream.partition_count,
        epoch: position.stream.epoch,
    };
    sized(row, encoded.encode_to_vec())
}

/// Decodes the position of a partition that was written with this timestamp.
///
/// # Errors
/// If it is of a newer format, damaged, or not ours.
pub fn decode_position(
    partition: PartitionId,
    written_at: i64,
    bytes: &[u8],
) -> Result<StoredPosition, RowError> {
    let row = RowName::Position(partition);
    let (decoded, durable) = open::<proto::PositionRow>(row, written_at, bytes)?;
    let position = StoredPosition {
        durable,
        stream: StreamIdentity {
            stream_id: decoded.stream_id,
            partition_count: decoded.partition_count,
            epoch: decoded.epoch,
        },
    };
    check::position(&position).map_err(|why| RowError::unreadable(row, why))?;
    Ok(position)
}

/// Decodes a row of a format that is known and whose timestamp is its log position.
fn open<M: prost::Message + Default>(
    row: RowName,
    written_at: i64,
    bytes: &[u8],
) -> Result<(M, LogPosition), RowError> {
    if bytes.len() > ROW_BYTES_MAX {
        let why = format!("it has {} bytes, more than {ROW_BYTES_MAX}", bytes.len());
        return Err(RowError::unreadable(row, why));
    }
    let start = proto::RowStart::decode(bytes).map_err(|error| RowError::unreadable(row, error))?;
    match start.format_version {
        FORMAT_VERSION => (),
        0 => return Err(RowError::unreadable(row, "it has no format version")),
        newer => return Err(RowError::newer(row, newer)),
    }
    if u64::try_from(written_at) != Ok(start.applied) {
        return Err(RowError::foreign(row, written_at, start.applied));
    }
    if start.applied >= POSITION_BITS_END {
        let why = format!("{} is no log position", start.applied);
        return Err(RowError::unreadable(row, why));
    }
    let decoded = M::decode(bytes).map_err(|error| RowError::unreadable(row, error))?;
    Ok((decoded, LogPosition::from_bits(start.applied)))
}

fn sized(row: RowName, bytes: Vec<u8>) -> Result<Vec<u8>, RowError> {
    if bytes.len() > ROW_BYTES_MAX {
        let why = format!("it has {} bytes, more than {ROW_BYTES_MAX}", bytes.len());
        return Err(RowError::unwritable(row, why));
    }
    Ok(bytes)
}
