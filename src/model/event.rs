//! What happens in a channel, after decoding and validation.

use super::ids::{ChannelId, MessageId, UserId};

/// One record of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The channel in which it happened.
    pub channel: ChannelId,
    /// What happened.
    pub kind: EventKind,
}

/// What happened in a channel. The meaning of each is in section 2 of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A message appeared.
    MessageCreated {
        /// Its id.
        message: MessageId,
        /// Who wrote it; nobody did if it is a system message.
        author: Option<UserId>,
        /// Whom it mentions.
        mentions: Mentions,
    },
    /// A user has read up to and including a message.
    MessageRead {
        /// Who read.
        user: UserId,
        /// Up to here. Need not exist.
        message: MessageId,
    },
    /// A message was edited: these are its mentions now.
    MessageUpdated {
        /// Which message.
        message: MessageId,
        /// Whom it mentions now.
        mentions: Mentions,
    },
    /// Messages were deleted.
    MessageDeleted {
        /// Which; ascending, each once.
        messages: Vec<MessageId>,
    },
    /// A user marked a message, and so all that follows it, as unread.
    MessageMarkedUnread {
        /// Who marked.
        user: UserId,
        /// The oldest message that is unread now.
        message: MessageId,
    },
    /// A user became a member.
    MemberJoined {
        /// Who.
        user: UserId,
    },
    /// A user is no longer a member.
    MemberLeft {
        /// Who.
        user: UserId,
    },
    /// The channel is gone for good.
    ChannelDeleted,
}

impl EventKind {
    /// The name in metrics: the field of the wire format's oneof.
    pub fn name(&self) -> &'static str {
        EVENT_KINDS[self.index()]
    }

    /// The place in [`EVENT_KINDS`].
    pub fn index(&self) -> usize {
        match self {
            EventKind::MessageCreated { .. } => 0,
            EventKind::MessageRead { .. } => 1,
            EventKind::MessageUpdated { .. } => 2,
            EventKind::MessageDeleted { .. } => 3,
            EventKind::MessageMarkedUnread { .. } => 4,
            EventKind::MemberJoined { .. } => 5,
            EventKind::MemberLeft { .. } => 6,
            EventKind::ChannelDeleted => 7,
        }
    }
}

/// The names of all kinds, as in the wire format.
pub const EVENT_KINDS: [&str; 8] = [
    "message_created",
    "message_read",
    "message_updated",
    "message_deleted",
    "message_marked_unread",
    "member_joined",
    "member_left",
    "channel_deleted",
];

/// Whom a message mentions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// By name or by role; ascending, each once.
    pub users: Box<[UserId]>,
    /// Every member, with one flag.
    pub everyone: bool,
}

impl Mentions {
    /// Sorts the users and keeps each once.
    pub fn new(mut users: Vec<UserId>, everyone: bool) -> Self {
        users.sort_unstable();
        users.dedup();
        Mentions {
            users: users.into_boxed_slice(),
            everyone,
        }
    }

    /// Whether the user is mentioned by name or by role.
    pub fn names(&self, user: UserId) -> bool {
        self.users.binary_search(&user).is_ok()
    }
}
