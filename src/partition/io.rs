//! What goes into a [`Partition`](super::Partition) and what comes out.

use crate::model::channel::{Head, Level, Node};
use crate::model::counts::Parts;
use crate::model::event::Event;
use crate::model::ids::{ChannelId, LogPosition, MessageId, Offset, ReadStateKey, UserId};
use crate::model::read_state::{Membership, ReadState};
use std::sync::Arc;

/// Milliseconds on a clock that never goes back; only differences mean anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

/// The caller's number for a request: unique among those that a partition has not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The partition's number for a load: a load that is void keeps its number, and its row is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadToken(pub u64);

/// A node of a channel's tree, whatever its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey {
    /// The channel.
    pub channel: ChannelId,
    /// Block or page.
    pub level: Level,
    /// Where it begins.
    pub first: MessageId,
}

/// Something that happens to a partition.
#[derive(Debug)]
pub enum Input {
    /// The next record of the stream; no event if it was dead-lettered, which counts as applied.
    Record {
        /// Its offset; above all before it.
        offset: Offset,
        /// What it says.
        event: Option<Event>,
    },
    /// There is no record below `next` left to take: the end of the partition was reached.
    CaughtUp {
        /// The offset of the record that comes next.
        next: Offset,
    },
    /// A question about some read states.
    Get(Get),
    /// A question about all read states of a user, with the rows that the store showed.
    Overview(Overview),
    /// Asks for a stamp, to be taken before the store is read for an overview.
    TakeStamp(RequestId),
    /// The store's answer to [`Effect::Load`].
    Loaded {
        /// From the effect.
        token: LoadToken,
        /// What the store had.
        row: LoadedRow,
    },
    /// The store did not answer [`Effect::Load`].
    LoadFailed {
        /// From the effect.
        token: LoadToken,
    },
    /// The store has what [`Effect::Write`] asked it to write, or something newer. Told once for each such effect.
    Written(WriteKey),
    /// The store has the durable position of [`Effect::StorePosition`].
    PositionStored(LogPosition),
    /// Time has passed.
    Tick,
    /// The partition is to be given up: write everything, take no more records.
    Drain,
}

/// A question about some read states of one partition.
#[derive(Clone, Debug)]
pub struct Get {
    /// Comes back with the reply.
    pub request: RequestId,
    /// What is asked, in order; any number of times each.
    pub keys: Vec<ReadStateKey>,
    /// Answer only once this record has been applied.
    pub after: Option<Offset>,
    /// Then the answer is of no use any more.
    pub deadline: Millis,
    /// Whether each answer says how it comes about.
    pub explain: bool,
}

/// A question about all read states of a user in one partition.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Comes back with the reply.
    pub request: RequestId,
    /// Whose.
    pub user: UserId,
    /// Taken before the store was read.
    pub stamp: Stamp,
    /// What the store had in this partition and in the range.
    pub rows: Vec<(ChannelId, ReadState)>,
    /// Only channels above this one.
    pub above: ChannelId,
    /// Only channels up to this one.
    pub up_to: ChannelId,
    /// Then the answer is of no use any more.
    pub deadline: Millis,
}

/// Says when a read of the store began, on the clock of the partition's owner. Rows read since then can be handed
/// over to that owner, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which ownership of the partition gave it.
    pub assignment: u64,
    /// When, on the clock of the owner.
    pub at: Millis,
}

/// A row as the store had it; nothing where it has none.
#[derive(Clone, Debug)]
pub enum LoadedRow {
    /// Of [`LoadKey::ReadState`].
    ReadState(Option<ReadState>),
    /// Of [`LoadKey::Head`].
    Head(Option<Arc<Head>>),
    /// Of [`LoadKey::Node`].
    Node(Option<Node>),
}

/// Something that a partition wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Read a row, then tell [`Input::Loaded`] or [`Input::LoadFailed`].
    Load {
        /// Comes back.
        token: LoadToken,
        /// Which row.
        key: LoadKey,
        /// How often this has failed before: wait accordingly.
        attempt: u32,
    },
    /// Write a row, trying for as long as it takes, then tell [`Input::Written`].
    Write(Write),
    /// Every record up to here is in the store: store this as the durable position, trying for as long as it takes,
    /// then tell [`Input::PositionStored`]. One at a time.
    StorePosition(LogPosition),
    /// Answer a request.
    Reply {
        /// Which.
        request: RequestId,
        /// With what.
        reply: Reply,
    },
    /// All that could be written is in the store, the durable position too: the partition can be given up.
    Drained,
}

/// What can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LoadKey {
    /// A read state.
    ReadState(ReadStateKey),
    /// The root of a channel.
    Head(ChannelId),
    /// A node of a channel, in this very version.
    Node(NodeKey, LogPosition),
}

/// Something to be written to the store. Everything carries its place in the log, which is its write timestamp.
#[derive(Clone, Debug)]
pub enum Write {
    /// A read state. Its place is its `applied`.
    ReadState(ReadStateKey, ReadState),
    /// A node of a channel, in a version that the store does not have yet.
    Node(NodeKey, LogPosition, Node),
    /// The root of a channel. Its place is its `applied`.
    Head(ChannelId, Arc<Head>),
    /// Deletes the versions of a node below this one, which no head names any more.
    DeleteNodesBelow(NodeKey, LogPosition),
}

/// Names a write, so that the one that was acknowledged is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriteKey {
    /// A read state and the place written.
    ReadState(ReadStateKey, LogPosition),
    /// A node and its version.
    Node(NodeKey, LogPosition),
    /// A head and its place.
    Head(ChannelId, LogPosition),
    /// Old versions of a node are gone.
    DeleteNodesBelow(NodeKey, LogPosition),
}

impl Write {
    /// What [`Input::Written`] says once this is in the store.
    pub fn key(&self) -> WriteKey {
        match self {
            Write::ReadState(key, state) => WriteKey::ReadState(*key, state.applied),
            Write::Node(key, version, _) => WriteKey::Node(*key, *version),
            Write::Head(channel, head) => WriteKey::Head(*channel, head.applied),
            Write::DeleteNodesBelow(key, version) => WriteKey::DeleteNodesBelow(*key, *version),
        }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Input::Get`]: one for each key, in order; one failure if it has no keys and fails. To [`Input::Overview`]: one
    /// for each read state there may be, in no order, those that do not exist, were left or are of a deleted channel among them.
    Answers(Vec<Result<Answer, Failure>>),
    /// To [`Input::TakeStamp`].
    Stamp(Stamp),
    /// To [`Input::Overview`]: the stamp is void or too old. Take another one, read the store again, and ask again.
    StampVoid,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The store does not answer, and what is asked is not cached.
    StoreUnavailable,
    /// Too much is waiting already.
    Overloaded,
    /// The deadline has passed.
    TimedOut,
}

/// The numbers of one read state, right after the record at `position`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whose and where.
    pub key: ReadStateKey,
    /// Whether there is such a read state at all.
    pub exists: bool,
    /// Everything up to here is read.
    pub last_read: MessageId,
    /// The newest message of the channel that is not deleted.
    pub last_message: MessageId,
    /// Unread messages.
    pub unread: u32,
    /// At least so many.
    pub unread_capped: bool,
    /// Unread messages that mention the user.
    pub mentions: u32,
    /// Those of them that do so by name.
    pub direct_mentions: u32,
    /// At least so many, of both.
    pub mentions_capped: bool,
    /// Of the user.
    pub membership: Membership,
    /// The channel is gone for good.
    pub channel_deleted: bool,
    /// The answer is the state right after this record; nothing while none was applied.
    pub position: Option<Offset>,
    /// How it comes about, where that was asked for.
    pub explanation: Option<Box<Explanation>>,
}

/// How an answer comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What is known of the user in the channel.
    pub state: ReadState,
    /// What the counts are made of.
    pub parts: Parts,
    /// The row of the read state.
    pub read_state_row: Row,
    /// The row of the channel.
    pub channel_row: Row,
    /// The largest id of any message created in the channel.
    pub newest_seen: MessageId,
    /// Messages of the channel that are not deleted.
    pub messages: u64,
    /// The partition's last record that nothing before is waiting for.
    pub applied: LogPosition,
    /// Every record of the partition up to here is in the store.
    pub durable: LogPosition,
}

/// Where a cached row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The last record in it; [`LogPosition::NOTHING`] if there is no such row.
    pub applied: LogPosition,
    /// How it stands to the store.
    pub kept: Kept,
    /// Of a row as the store has it: since it was loaded or acknowledged. Of a changed one: since its oldest change
    /// that is not in the store.
    pub age_ms: u64,
}

/// How a cached row stands to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Neither has one.
    Nowhere,
    /// It is as the store has it.
    Stored,
    /// It was changed, and is to be written.
    Changed,
    /// It was changed, and is being written.
    Writing,
}
