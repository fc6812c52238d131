//! The keys of rows, and what stands before each row's `state`.
//!
//! Numbers are big-endian, so that keys sort by them: the rows of a user are neighbours, ascending by channel, and so are
//! the versions of a node. All rows are in one keyspace, so that whatever the database has is one moment of all of them.

use crate::model::ids::{ChannelId, LogPosition, PartitionId, ReadStateKey, UserId};
use crate::partition::io::NodeKey;

/// How many changes were committed: a number of 8 bytes.
pub(super) const COMMITS: &[u8] = &[0, b'c'];

/// What the keys begin with that say how far partitions were written.
pub(super) const NEWEST: &[u8] = &[0, b'n'];

const READ_STATES: u8 = 1;
const CHANNELS: u8 = 2;
const CHANNEL_NODES: u8 = 3;
const POSITIONS: u8 = 4;

/// How far a partition was written, or what is of none: the bits of a place in the log.
pub(super) fn newest(partition: Option<PartitionId>) -> Vec<u8> {
    let partition = partition.map(|partition| partition.0.to_be_bytes());
    [NEWEST, partition.as_ref().map_or(&[], |it| it)].concat()
}

/// The partition in a key of [`newest`], or nothing if it is no such key.
pub(super) fn partition_of(key: &[u8]) -> Option<Option<PartitionId>> {
    match key.strip_prefix(NEWEST)? {
        [] => Some(None),
        partition => {
            let partition = partition.try_into().ok().map(u32::from_be_bytes)?;
            Some(Some(PartitionId(partition)))
        }
    }
}

/// `read_states`: user, channel.
pub(super) fn read_state(key: ReadStateKey) -> Vec<u8> {
    join(READ_STATES, &[&be(key.user.0), &be(key.channel.0)])
}

/// The channel in a key of `read_states`.
pub(super) fn channel_of(key: &[u8]) -> Option<ChannelId> {
    number(key.get(9..)?).map(ChannelId)
}

/// The end of the rows of a user; exclusive, and of no row.
pub(super) fn end_of(user: UserId) -> Vec<u8> {
    let last = ChannelId(u64::MAX);
    let mut end = read_state(ReadStateKey { user, channel: last });
    end.push(0);
    end
}

/// `channels`: channel.
pub(super) fn head(channel: ChannelId) -> Vec<u8> {
    join(CHANNELS, &[&be(channel.0)])
}

/// `channel_nodes`: channel, level, first id, version.
pub(super) fn node(key: NodeKey, version: LogPosition) -> Vec<u8> {
    let level = [key.level as u8];
    let parts: [&[u8]; 4] = [
        &be(key.channel.0),
        &level,
        &be(key.first.0),
        &be(version.to_bits()),
    ];
    join(CHANNEL_NODES, &parts)
}

/// Below which version the versions of a node are deleted. No node has this version.
pub(super) fn deleted_below(key: NodeKey) -> Vec<u8> {
    node(key, LogPosition::NOTHING)
}

/// `positions`: partition.
pub(super) fn position(partition: PartitionId) -> Vec<u8> {
    join(POSITIONS, &[&partition.0.to_be_bytes()])
}

/// A row: its place in the log, and then its `state`.
pub(super) fn row(at: LogPosition, state: &[u8]) -> Vec<u8> {
    [&be(at.to_bits()), state].concat()
}

/// The place in the log and the `state` of a row, or nothing if it is too short to have any.
pub(super) fn parts(row: &[u8]) -> Option<(u64, &[u8])> {
    let (at, state) = row.split_at_checked(8)?;
    number(at).map(|at| (at, state))
}

/// The number of exactly 8 bytes.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().map(u64::from_be_bytes).ok()
}

fn be(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

fn join(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![table];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::channel::Level;
    use crate::model::ids::{MessageId, Offset};

    #[test]
    fn keys_sort_by_their_numbers() {
        let of = |user, channel| {
            let (user, channel) = (UserId(user), ChannelId(channel));
            read_state(ReadStateKey { user, channel })
        };
        let largest = i64::MAX as u64;
        let keys = [
            of(1, 0),
            of(1, 255),
            of(1, 256),
            of(1, largest),
            end_of(UserId(1)),
            of(2, 1),
            of(256, 0),
        ];
        assert!(keys.is_sorted_by(|a, b| a < b));
        assert_eq!(channel_of(&of(7, largest)), Some(ChannelId(largest)));
        let node_key = |first| NodeKey {
            channel: ChannelId(7),
            level: Level::Block,
            first: MessageId(first),
        };
        let at = |offset| LogPosition::new(1, Offset(offset));
        let nodes = [
            deleted_below(node_key(9)),
            node(node_key(9), at(255)),
            node(node_key(9), at(256)),
            deleted_below(node_key(10)),
        ];
        assert!(nodes.is_sorted_by(|a, b| a < b));
        assert_eq!(
            parts(&row(at(3), b"state")),
            Some((at(3).to_bits(), &b"state"[..]))
        );
        assert_eq!(parts(b"short"), None);
    }
}
