//! What every store must do, whatever it is: rows to write, and checks of what comes back.

use std::sync::Arc;

use readstates::model::channel::{Block, Head, Level, Message, Node, NodeRef, Page};
use readstates::model::ids::{ChannelId, LogPosition, MessageId, Offset, PartitionId, ReadStateKey, UserId};
use readstates::model::read_state::{Membership, ReadState, Remembered};
use readstates::partition::io::{LoadKey, LoadedRow, NodeKey, Write};
use readstates::store::{Store, StoreError, StoredPosition, StreamIdentity};
use smallvec::smallvec;

pub fn at(offset: u64) -> LogPosition {
    LogPosition::new(0, Offset(offset))
}

pub fn key(user: u64, channel: u64) -> ReadStateKey {
    ReadStateKey {
        user: UserId(user),
        channel: ChannelId(channel),
    }
}

pub fn read_state(applied: LogPosition, last_read: u64) -> ReadState {
    ReadState {
        applied,
        last_read: MessageId(last_read),
        membership: Membership::Joined,
        mentions: vec![Remembered {
            id: MessageId(last_read + 3),
            everyone: true,
        }]
        .into(),
        own: vec![Remembered {
            id: MessageId(last_read + 4),
            everyone: false,
        }]
        .into(),
        forgotten: MessageId(last_read + 2),
        own_unknown: MessageId::NONE,
    }
}

pub fn block(id: u64) -> Block {
    let message = Message {
        id: MessageId(id),
        author: Some(UserId(1)),
        mentions: [2, 3].map(UserId).into(),
        everyone: true,
        deleted: false,
        created: true,
    };
    Block::new(vec![message])
}

pub fn node_ref(first: u64, version: LogPosition, newest_live: u64) -> NodeRef {
    NodeRef {
        first: MessageId(first),
        version,
        live: 1,
        everyone: 1,
        newest_live: MessageId(newest_live),
    }
}

pub fn head(applied: LogPosition) -> Head {
    let newest = node_ref(0, applied, 50);
    Head {
        applied,
        deleted: false,
        newest_seen: MessageId(60),
        pages: smallvec![newest],
        newest_page: Page {
            blocks: smallvec![newest],
        },
        newest_block: block(50),
    }
}

pub fn position(durable: LogPosition) -> StoredPosition {
    let stream = StreamIdentity {
        stream_id: "a topic".into(),
        partition_count: 16,
        epoch: durable.epoch(),
    };
    StoredPosition { durable, stream }
}

pub fn node_key(level: Level, first: u64) -> NodeKey {
    NodeKey {
        channel: ChannelId(7),
        level,
        first: MessageId(first),
    }
}

pub async fn load_read_state(store: &impl Store, key: ReadStateKey) -> Option<ReadState> {
    match store.load(LoadKey::ReadState(key)).await.unwrap() {
        LoadedRow::ReadState(state) => state,
        other => panic!("{other:?}"),
    }
}

pub async fn load_head(store: &impl Store, channel: ChannelId) -> Option<Arc<Head>> {
    match store.load(LoadKey::Head(channel)).await.unwrap() {
        LoadedRow::Head(head) => head,
        other => panic!("{other:?}"),
    }
}

pub async fn load_node(store: &impl Store, key: NodeKey, version: LogPosition) -> Option<Node> {
    match store.load(LoadKey::Node(key, version)).await.unwrap() {
        LoadedRow::Node(node) => node,
        other => panic!("{other:?}"),
    }
}

/// Rows of every kind, with the smallest and the largest ids and places.
pub async fn every_kind_of_row_comes_back(store: &impl Store) {
    let (user, channel) = (key(i64::MAX as u64, 7), ChannelId(i64::MAX as u64));
    assert_eq!(load_read_state(store, user).await, None);
    assert_eq!(load_head(store, channel).await, None);
    assert_eq!(load_node(store, node_key(Level::Block, 0), at(1)).await, None);
    assert_eq!(store.load_position(PartitionId(u32::MAX)).await.unwrap(), None);

    let newest = LogPosition::new(255, Offset(LogPosition::OFFSETS_MAX - 1));
    for applied in [at(0), newest] {
        let state = read_state(applied, 1 << 60);
        store.write(&Write::ReadState(user, state.clone())).await.unwrap();
        assert_eq!(load_read_state(store, user).await, Some(state));
        store
            .write(&Write::Head(channel, Arc::new(head(applied))))
            .await
            .unwrap();
        assert_eq!(load_head(store, channel).await.as_deref(), Some(&head(applied)));
        let page = Page {
            blocks: smallvec![node_ref(9, applied, 10)],
        };
        let nodes = [
            (node_key(Level::Block, 9), Node::Block(Arc::new(block(9)))),
            (node_key(Level::Page, 9), Node::Page(Arc::new(page))),
        ];
        for (key, node) in nodes {
            store
                .write(&Write::Node(key, applied, node.clone()))
                .await
                .unwrap();
            assert_eq!(load_node(store, key, applied).await, Some(node));
        }
        assert_eq!(
            load_node(store, node_key(Level::Block, 9), at(5)).await,
            None,
            "only the very version"
        );
    }
    for durable in [LogPosition::NOTHING, at(0), LogPosition::start(1), newest] {
        store
            .store_position(PartitionId(u32::MAX), &position(durable))
            .await
            .unwrap();
        assert_eq!(
            store.load_position(PartitionId(u32::MAX)).await.unwrap(),
            Some(position(durable))
        );
    }
}

/// A former owner that wakes up and writes late loses, without locks and clocks.
pub async fn an_older_row_never_replaces_a_newer_one(store: &impl Store) {
    let of_epoch_1 = LogPosition::new(1, Offset(3));
    for (newer, older) in [(at(9), at(8)), (of_epoch_1, at(1_000_000))] {
        store
            .write(&Write::ReadState(key(1, 2), read_state(newer, 90)))
            .await
            .unwrap();
        store
            .write(&Write::ReadState(key(1, 2), read_state(older, 80)))
            .await
            .unwrap();
        assert_eq!(
            load_read_state(store, key(1, 2)).await,
            Some(read_state(newer, 90))
        );

        store
            .write(&Write::Head(ChannelId(2), Arc::new(head(newer))))
            .await
            .unwrap();
        store
            .write(&Write::Head(ChannelId(2), Arc::new(head(older))))
            .await
            .unwrap();
        assert_eq!(
            load_head(store, ChannelId(2)).await.as_deref(),
            Some(&head(newer))
        );

        store
            .store_position(PartitionId(0), &position(newer))
            .await
            .unwrap();
        store
            .store_position(PartitionId(0), &position(older))
            .await
            .unwrap();
        assert_eq!(
            store.load_position(PartitionId(0)).await.unwrap(),
            Some(position(newer))
        );
    }
}

/// Versions below a deletion are gone, and stay so; others are untouched.
pub async fn a_deleted_node_stays_deleted(store: &impl Store) {
    let (deleted, other) = (node_key(Level::Block, 9), node_key(Level::Block, 100));
    let node = |id| Node::Block(Arc::new(block(id)));
    for version in [3, 5, 8, 9] {
        store
            .write(&Write::Node(deleted, at(version), node(9)))
            .await
            .unwrap();
        store
            .write(&Write::Node(other, at(version), node(100)))
            .await
            .unwrap();
    }
    store
        .write(&Write::DeleteNodesBelow(deleted, at(8)))
        .await
        .unwrap();
    // What a late owner writes is below the deletion as well.
    for version in [3, 4, 7] {
        store
            .write(&Write::Node(deleted, at(version), node(9)))
            .await
            .unwrap();
    }
    for version in [3, 4, 5, 7] {
        assert_eq!(load_node(store, deleted, at(version)).await, None, "{version}");
    }
    for version in [8, 9] {
        assert_eq!(
            load_node(store, deleted, at(version)).await,
            Some(node(9)),
            "{version}"
        );
    }
    assert_eq!(load_node(store, other, at(3)).await, Some(node(100)));
}

/// Ascending by channel, only of the user, as many as asked for.
pub async fn the_rows_of_a_user_come_in_pages(store: &impl Store) {
    for channel in [40, 10, 30, 20, i64::MAX as u64] {
        store
            .write(&Write::ReadState(
                key(1, channel),
                read_state(at(channel % 99), 5),
            ))
            .await
            .unwrap();
        store
            .write(&Write::ReadState(key(2, channel), read_state(at(1), 6)))
            .await
            .unwrap();
    }
    let page = async |above, limit| {
        let rows = store.load_user(UserId(1), ChannelId(above), limit).await.unwrap();
        rows.into_iter()
            .map(|(channel, state)| {
                assert_eq!(state, read_state(at(channel.0 % 99), 5));
                channel.0
            })
            .collect::<Vec<u64>>()
    };
    assert_eq!(page(0, 3).await, [10, 20, 30]);
    assert_eq!(page(30, 3).await, [40, i64::MAX as u64]);
    assert_eq!(page(i64::MAX as u64, 3).await, [0; 0]);
    assert_eq!(page(0, 0).await, [0; 0]);
    assert_eq!(page(0, usize::MAX).await.len(), 5);
    assert_eq!(store.load_user(UserId(3), ChannelId(0), 10).await.unwrap(), []);
}

/// Checks that the row is refused with a line that has all this.
pub fn check_refused<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: &[&str]) {
    let Err(StoreError::Unusable(line)) = result else {
        panic!("{result:?}")
    };
    for part in expected {
        assert!(line.contains(part), "{line}");
    }
}
