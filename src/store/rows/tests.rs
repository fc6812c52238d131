//! Rows come back as they were written; whatever else is read is an error and never a panic; and the bytes of a format
//! version never change.
#![allow(clippy::unwrap_used)]

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use smallvec::smallvec;

use super::*;
use crate::model::channel::{Message, NodeRef, NodeRefs};
use crate::model::ids::{MAX_ID, Offset, UserId};
use crate::model::read_state::Remembered;

const PROBE: ReadStateKey = ReadStateKey {
    user: UserId(5),
    channel: ChannelId(7),
};

fn at(offset: u64) -> LogPosition {
    LogPosition::new(0, Offset(offset))
}

fn timestamp(position: LogPosition) -> i64 {
    position.to_bits().cast_signed()
}

fn node_key(level: Level, first: u64) -> NodeKey {
    NodeKey {
        channel: ChannelId(7),
        level,
        first: MessageId(first),
    }
}

/// Any row, with what it takes to read it.
#[derive(Clone, Debug, PartialEq)]
enum AnyRow {
    ReadState(ReadState),
    Head(Head),
    Node(NodeKey, LogPosition, Node),
    Position(StoredPosition),
}

impl AnyRow {
    fn encode(&self) -> Result<Vec<u8>, RowError> {
        match self {
            AnyRow::ReadState(state) => encode_read_state(PROBE, state),
            AnyRow::Head(head) => encode_head(PROBE.channel, head),
            AnyRow::Node(key, version, node) => encode_node(*key, *version, node),
            AnyRow::Position(position) => encode_position(PartitionId(3), position),
        }
    }

    fn written_at(&self) -> i64 {
        timestamp(match self {
            AnyRow::ReadState(state) => state.applied,
            AnyRow::Head(head) => head.applied,
            AnyRow::Node(_, version, _) => *version,
            AnyRow::Position(position) => position.durable,
        })
    }

    /// Reads a row of this kind under this key.
    fn decode(&self, written_at: i64, bytes: &[u8]) -> Result<AnyRow, RowError> {
        Ok(match self {
            AnyRow::ReadState(_) => AnyRow::ReadState(decode_read_state(PROBE, written_at, bytes)?),
            AnyRow::Head(_) => AnyRow::Head(decode_head(PROBE.channel, written_at, bytes)?),
            AnyRow::Node(key, version, _) => {
                AnyRow::Node(*key, *version, decode_node(*key, *version, written_at, bytes)?)
            }
            AnyRow::Position(_) => AnyRow::Position(decode_position(PartitionId(3), written_at, bytes)?),
        })
    }
}

fn id() -> impl Strategy<Value = u64> {
    prop_oneof![1..50_u64, 1..=MAX_ID, Just(MAX_ID)]
}

fn position() -> impl Strategy<Value = LogPosition> {
    let offset = prop_oneof![0..1000_u64, 0..LogPosition::OFFSETS_MAX];
    (prop_oneof![Just(0), 0..LogPosition::EPOCHS_MAX], offset)
        .prop_map(|(e, o)| LogPosition::new(e, Offset(o)))
}

fn read_state() -> impl Strategy<Value = ReadState> {
    let ids = || btree_set(id(), 0..6);
    let membership = prop_oneof![
        Just(Membership::Unspecified),
        Just(Membership::Joined),
        Just(Membership::Left)
    ];
    let last_read = prop_oneof![Just(0), id()];
    (
        position(),
        last_read,
        membership,
        ids(),
        ids(),
        id(),
        id(),
        any::<u64>(),
    )
        .prop_map(
            |(applied, last_read, membership, mentions, own, forgotten, own_unknown, flags)| {
                let remembered = |ids: std::collections::BTreeSet<u64>| {
                    let above = ids.into_iter().filter(|id| *id > last_read);
                    above
                        .map(|id| Remembered {
                            id: MessageId(id),
                            everyone: flags >> (id % 64) & 1 == 1,
                        })
                        .collect()
                };
                let mark = |id: u64| MessageId(if id > last_read { id } else { 0 });
                ReadState {
                    applied,
                    last_read: MessageId(last_read),
                    membership,
                    mentions: remembered(mentions),
                    own: remembered(own),
                    forgotten: mark(forgotten),
                    own_unknown: mark(own_unknown),
                }
            },
        )
}

fn message() -> impl Strategy<Value = Message> {
    let author = prop_oneof![Just(None), id().prop_map(|user| Some(UserId(user)))];
    let mentions = btree_set(id().prop_map(UserId), 0..4);
    (
        id(),
        author,
        mentions,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(id, author, mentions, everyone, deleted, created)| Message {
            id: MessageId(id),
            author,
            mentions: mentions.into_iter().collect(),
            everyone,
            deleted: deleted || !created,
            created,
        })
}

/// Messages at or above `first`.
fn block(first: u64) -> impl Strategy<Value = Block> {
    vec(message(), 0..12).prop_map(move |mut messages| {
        messages.retain(|message| message.id.0 >= first);
        messages.sort_by_key(|message| message.id);
        messages.dedup_by_key(|message| message.id);
        Block::new(messages)
    })
}

/// Neighbouring nodes from `first` on, none newer than `version`.
fn refs(first: u64, version: LogPosition) -> impl Strategy<Value = NodeRefs> {
    let node = (id(), 0..1000_u64, 0..=100_u64, any::<u64>(), any::<u64>());
    vec(node, 0..8).prop_map(move |mut nodes| {
        nodes.retain(|node| node.0 > first);
        nodes.push((first, 3, 0, 1, 1));
        nodes.sort_unstable();
        nodes.dedup_by_key(|node| node.0);
        let ends: Vec<u64> = nodes
            .iter()
            .skip(1)
            .map(|node| node.0)
            .chain([MAX_ID + 1])
            .collect();
        let ref_of = |((first, live, everyone, newest, older), end): ((u64, u64, u64, u64, u64), u64)| {
            let newest = first + newest % (end - first);
            let live = if newest == 0 { 0 } else { live };
            let offset = version.offset().unwrap_or_default().0;
            NodeRef {
                first: MessageId(first),
                version: LogPosition::new(version.epoch(), Offset(offset.saturating_sub(older % 1000))),
                live,
                everyone: live * everyone / 100,
                newest_live: MessageId(if live == 0 { 0 } else { newest }),
            }
        };
        nodes.into_iter().zip(ends).map(ref_of).collect()
    })
}

fn sum_up(node: &mut NodeRef, below: impl Iterator<Item = (u64, u64, MessageId)>) {
    (node.live, node.everyone, node.newest_live) = below.fold((0, 0, MessageId::NONE), |sum, one| {
        (sum.0 + one.0, sum.1 + one.1, sum.2.max(one.2))
    });
}

fn head() -> impl Strategy<Value = Head> {
    let with_pages = position().prop_flat_map(|applied| {
        let pages = refs(0, applied);
        let blocks = pages.prop_flat_map(|pages| {
            let last = *pages.last().unwrap();
            (Just(pages), refs(last.first.0, last.version))
        });
        let messages = blocks.prop_flat_map(|(pages, blocks)| {
            let first = blocks.last().unwrap().first.0;
            (Just(pages), Just(blocks), block(first))
        });
        (Just(applied), any::<bool>(), messages)
    });
    let with_pages = with_pages.prop_map(|(applied, deleted, (mut pages, mut blocks, block))| {
        let live = block
            .messages()
            .filter(|message| message.created && !message.deleted);
        sum_up(
            blocks.last_mut().unwrap(),
            live.map(|m| (1, u64::from(m.everyone), m.id)),
        );
        let sums = blocks
            .iter()
            .map(|block| (block.live, block.everyone, block.newest_live));
        sum_up(pages.last_mut().unwrap(), sums);
        Head {
            applied,
            deleted,
            newest_seen: MessageId(MAX_ID),
            pages,
            newest_page: Page { blocks },
            newest_block: block,
        }
    });
    let empty = (position(), any::<bool>(), id()).prop_map(|(applied, deleted, newest_seen)| Head {
        applied,
        deleted,
        newest_seen: MessageId(newest_seen),
        ..Head::default()
    });
    prop_oneof![5 => with_pages, 1 => empty]
}

fn node() -> impl Strategy<Value = AnyRow> {
    let first = || prop_oneof![Just(0), id()];
    let block = (first(), position()).prop_flat_map(|(first, version)| {
        let key = node_key(Level::Block, first);
        block(first).prop_map(move |block| AnyRow::Node(key, version, Node::Block(Arc::new(block))))
    });
    let page = (first(), position()).prop_flat_map(|(first, version)| {
        let key = node_key(Level::Page, first);
        refs(first, version)
            .prop_map(move |blocks| AnyRow::Node(key, version, Node::Page(Arc::new(Page { blocks }))))
    });
    prop_oneof![block, page]
}

fn stored_position() -> impl Strategy<Value = StoredPosition> {
    let durable = prop_oneof![
        position(),
        (0..LogPosition::EPOCHS_MAX).prop_map(LogPosition::start)
    ];
    (durable, any::<String>(), any::<u32>()).prop_map(|(durable, stream_id, partition_count)| {
        StoredPosition {
            durable,
            stream: StreamIdentity {
                stream_id,
                partition_count,
                epoch: durable.epoch(),
            },
        }
    })
}

fn any_row() -> impl Strategy<Value = AnyRow> {
    prop_oneof![
        read_state().prop_map(AnyRow::ReadState),
        head().prop_map(AnyRow::Head),
        node(),
        stored_position().prop_map(AnyRow::Position),
    ]
}

/// What a row turns into when it is read: itself, or an error that names the row.
fn check_never_panics(row: &AnyRow, written_at: i64, bytes: &[u8]) {
    match row.decode(written_at, bytes) {
        // What can be read keeps the promises of the model, so it can be written.
        Ok(read) => assert_eq!(
            read.decode(read.written_at(), &read.encode().unwrap()).unwrap(),
            read
        ),
        Err(RowError(line)) => assert!(line.contains(" row ") && line.contains('='), "{line}"),
    }
}

proptest! {
    #[test]
    fn rows_come_back(row in any_row()) {
        let bytes = row.encode().unwrap();
        prop_assert_eq!(row.decode(row.written_at(), &bytes).unwrap(), row.clone());
        prop_assert_eq!(row.clone().encode().unwrap(), bytes);
    }

    #[test]
    fn a_cut_row_is_an_error_or_another_row(row in any_row(), cut in any::<prop::sample::Index>()) {
        let bytes = row.encode().unwrap();
        check_never_panics(&row, row.written_at(), &bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn a_changed_row_never_panics(
        row in any_row(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = row.encode().unwrap();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        check_never_panics(&row, row.written_at(), &bytes);
    }

    #[test]
    fn columns_of_any_numbers_never_panic(
        row in any_row(),
        columns in vec(vec(prop_oneof![0..4_u64, any::<u64>()], 0..6), 6),
        same_length in any::<bool>(),
    ) {
        let count = if same_length { 3 } else { usize::MAX };
        let small = |i: usize| columns[i].iter().map(|n| *n as u32).take(count).collect::<Vec<_>>();
        let large = |i: usize| columns[i].iter().copied().take(count).collect::<Vec<_>>();
        let messages = proto::Messages {
            id_steps: large(0),
            user_steps: large(1),
            authors: small(2),
            flags: columns[3].iter().map(|n| *n as u8).take(count).collect(),
            mention_counts: small(4),
            mention_steps: small(5),
        };
        let refs = proto::NodeRefs {
            first_steps: large(0),
            version_steps: columns[1].iter().map(|n| n.cast_signed()).take(count).collect(),
            live: large(2),
            everyone: large(3),
            newest_live_steps: large(4),
        };
        let (format_version, applied) = (FORMAT_VERSION, row.written_at().cast_unsigned());
        let bytes = match &row {
            AnyRow::ReadState(_) => proto::ReadStateRow {
                format_version, applied, mentions: large(0), own: large(1), ..Default::default()
            }.encode_to_vec(),
            AnyRow::Head(_) => proto::HeadRow {
                format_version, applied, pages: Some(refs.clone()), newest_page: Some(refs),
                newest_block: Some(messages), ..Default::default()
            }.encode_to_vec(),
            AnyRow::Node(_, _, Node::Block(_)) => {
                proto::BlockRow { format_version, applied, messages: Some(messages) }.encode_to_vec()
            }
            AnyRow::Node(..) => proto::PageRow { format_version, applied, blocks: Some(refs) }.encode_to_vec(),
            AnyRow::Position(_) => proto::PositionRow {
                format_version, applied, epoch: small(0).first().copied().unwrap_or(0), ..Default::default()
            }.encode_to_vec(),
        };
        check_never_panics(&row, row.written_at(), &bytes);
    }

    #[test]
    fn any_bytes_never_panic(row in any_row(), written_at in any::<i64>(), bytes in vec(any::<u8>(), 0..80)) {
        check_never_panics(&row, written_at, &bytes);
    }
}

fn small_message(id: u64, author: u64, mentions: &[u64], everyone: bool, deleted: bool) -> Message {
    Message {
        id: MessageId(id),
        author: (author > 0).then_some(UserId(author)),
        mentions: mentions.iter().copied().map(UserId).collect(),
        everyone,
        deleted,
        created: true,
    }
}

fn small_block() -> Block {
    let mark = Message {
        created: false,
        ..small_message(40, 0, &[], false, true)
    };
    let messages = vec![
        small_message(10, 5, &[], false, false),
        small_message(30, 6, &[5, 900], true, false),
        mark,
        small_message(41, 0, &[5], false, true),
    ];
    Block::new(messages)
}

fn small_ref(first: u64, offset: u64, live: u64, everyone: u64, newest_live: u64) -> NodeRef {
    NodeRef {
        first: MessageId(first),
        version: at(offset),
        live,
        everyone,
        newest_live: MessageId(newest_live),
    }
}

fn small_rows() -> Vec<(AnyRow, &'static str)> {
    let read_state = ReadState {
        applied: LogPosition::new(1, Offset(9)),
        last_read: MessageId(1 << 60),
        membership: Membership::Joined,
        mentions: vec![
            Remembered {
                id: MessageId((1 << 60) + 2),
                everyone: false,
            },
            Remembered {
                id: MessageId((1 << 60) + 5),
                everyone: true,
            },
        ]
        .into(),
        own: vec![Remembered {
            id: MessageId((1 << 60) + 1),
            everyone: false,
        }]
        .into(),
        forgotten: MessageId((1 << 60) + 1),
        own_unknown: MessageId::NONE,
    };
    let head = Head {
        applied: at(90),
        deleted: false,
        newest_seen: MessageId(41),
        pages: smallvec![small_ref(0, 90, 2, 1, 30)],
        newest_page: Page {
            blocks: smallvec![small_ref(0, 90, 2, 1, 30)],
        },
        newest_block: small_block(),
    };
    let page = Page {
        blocks: smallvec![small_ref(0, 80, 3, 0, 7), small_ref(9, 4, 0, 0, 0)],
    };
    let position = StoredPosition {
        durable: at(99),
        stream: StreamIdentity {
            stream_id: "id".into(),
            partition_count: 16,
            epoch: 0,
        },
    };
    vec![
        (AnyRow::ReadState(read_state), READ_STATE_HEX),
        (AnyRow::Head(head), HEAD_HEX),
        (
            AnyRow::Node(
                node_key(Level::Block, 9),
                at(80),
                Node::Block(Arc::new(small_block())),
            ),
            BLOCK_HEX,
        ),
        (
            AnyRow::Node(node_key(Level::Page, 0), at(80), Node::Page(Arc::new(page))),
            PAGE_HEX,
        ),
        (AnyRow::Position(position), POSITION_HEX),
    ]
}

const READ_STATE_HEX: &str = "0801108a80808080800119000000000000001020012a020407320102390100000000000010";
const HEAD_HEX: &str = "0801105b2129000000000000002a100a01001202b6011a01022201012a011f32100a01001202b6011a01022201012a011f3a230a040a140a0112040501fe061a04010200002204000106022a04000200013203000200";
const BLOCK_HEX: &str = "080110511a230a040a140a0112040501fe061a04010200002204000106022a04000200013203000200";
const PAGE_HEX: &str = "080110511a160a0200091204a20197011a020300220200002a020800";
const POSITION_HEX: &str = "080110641a0269642010";

/// Rows that are in stores already are read by every later program, and written again byte for byte.
#[test]
fn the_bytes_of_format_version_1_never_change() {
    for (row, expected) in small_rows() {
        let bytes = row.encode().unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected, "{row:?}");
        assert_eq!(row.decode(row.written_at(), &bytes).unwrap(), row);
    }
}

/// Reads the row after a change and returns the line.
fn refused(row: &AnyRow, written_at: i64, bytes: &[u8]) -> String {
    row.decode(written_at, bytes).unwrap_err().to_string()
}

#[test]
fn what_is_not_ours_is_told_apart() {
    for (row, _) in small_rows() {
        let bytes = row.encode().unwrap();
        let written_at = row.written_at();
        let today = 1_790_000_000_000_000;
        let line = refused(&row, today, &bytes);
        assert!(
            line.contains("by hand") && line.contains("1790000000000000"),
            "{line}"
        );
        let mut newer = bytes.clone();
        newer[1] = 2;
        let line = refused(&row, written_at, &newer);
        assert!(
            line.contains("format version 2") && line.contains("a newer one"),
            "{line}"
        );
        let line = refused(&row, written_at, b"\x08\x01\xff");
        assert!(line.contains("readstates replay"), "{line}");
        let line = refused(&row, written_at, &vec![0; ROW_BYTES_MAX + 1]);
        assert!(line.contains("8388609 bytes"), "{line}");
    }
}

#[test]
fn a_node_of_another_version_or_place_is_refused() {
    let block = Node::Block(Arc::new(small_block()));
    let bytes = encode_node(node_key(Level::Block, 9), at(80), &block).unwrap();
    let decode = |key, version, written_at| {
        decode_node(key, version, written_at, &bytes)
            .unwrap_err()
            .to_string()
    };
    let line = decode(node_key(Level::Block, 9), at(81), timestamp(at(80)));
    assert!(
        line.contains("is of version 81") && line.contains("applied=82"),
        "{line}"
    );
    let line = decode(node_key(Level::Block, 11), at(80), timestamp(at(80)));
    assert!(line.contains("message 10 is out of order"), "{line}");
    assert!(encode_node(node_key(Level::Page, 9), at(80), &block).is_err());
}

/// Each breaks one promise of the model; none is written.
#[test]
fn what_breaks_the_model_is_not_written() {
    let rows = small_rows();
    let (AnyRow::ReadState(read_state), AnyRow::Head(head)) = (&rows[0].0, &rows[1].0) else {
        unreachable!()
    };
    type Change<T> = (&'static str, fn(&mut T));
    let read_states: [Change<ReadState>; 5] = [
        ("is no record", |state| state.applied = LogPosition::start(1)),
        ("mention", |state| state.mentions.swap(0, 1)),
        ("own message", |state| state.own[0].id = state.last_read),
        ("forgotten", |state| state.forgotten = state.last_read),
        ("last_read", |state| state.last_read = MessageId(u64::MAX)),
    ];
    for (why, change) in read_states {
        let mut state = read_state.clone();
        change(&mut state);
        let line = encode_read_state(PROBE, &state).unwrap_err().to_string();
        assert!(
            line.contains(why) && line.contains("a bug in readstates"),
            "{line}"
        );
    }
    let heads: [Change<Head>; 8] = [
        ("newest page do not fit", |head| head.pages[0].live = 3),
        ("newest block do not fit", |head| {
            change_newest(head, |messages| messages[0].deleted = true)
        }),
        ("no pages", |head| head.pages.clear()),
        ("page is empty", |head| head.newest_page.blocks.clear()),
        ("newer than its parent", |head| head.pages[0].version = at(91)),
        ("above newest_seen", |head| head.newest_seen = MessageId(29)),
        ("out of order", |head| {
            change_newest(head, |messages| messages.swap(0, 1))
        }),
        ("neither created nor deleted", |head| {
            change_newest(head, |messages| messages[2].deleted = false)
        }),
    ];
    for (why, change) in heads {
        let mut head = head.clone();
        change(&mut head);
        let line = encode_head(PROBE.channel, &head).unwrap_err().to_string();
        assert!(line.contains(why), "{line}");
    }
}

/// To what it could not become by itself.
fn change_newest(head: &mut Head, change: impl FnOnce(&mut [Message])) {
    let mut messages: Vec<Message> = head.newest_block.messages().map(|it| it.to_owned()).collect();
    change(&mut messages);
    head.newest_block = Block::new(messages);
}

/// Nearly every row is like these; storage is planned with their sizes.
#[test]
fn usual_rows_are_small() {
    let snowflake = 1_300_000_000_000_000_000;
    let state = ReadState {
        applied: at(1_000_000_000),
        last_read: MessageId(snowflake),
        membership: Membership::Joined,
        ..ReadState::default()
    };
    assert!(encode_read_state(PROBE, &state).unwrap().len() <= 19);
    let message = |i: u64| small_message(snowflake + (i << 30), 1 + i % 9 + snowflake, &[], false, false);
    let block = Node::Block(Arc::new(Block::new((0..128).map(message))));
    let bytes = encode_node(node_key(Level::Block, snowflake), at(1_000_000_000), &block).unwrap();
    assert!(bytes.len() <= 128 * 9, "{}", bytes.len());
}
