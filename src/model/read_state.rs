//! What one user has read in one channel.

use super::ids::{LogPosition, MessageId};

/// Membership as joins and leaves have told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// No join or leave seen: counts as a member that has read nothing.
    #[default]
    Unspecified,
    /// Joined.
    Joined,
    /// Left: counts are 0 until the next join.
    Left,
}

/// A message that a read state remembers, with its everyone flag so that it is not counted twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The message.
    pub id: MessageId,
    /// Whether it mentions everyone.
    pub everyone: bool,
}

/// What one user has read in one channel. The default is the state of a user nothing was heard of.
///
/// A function of the records up to `applied` (invariant 2). The lists hold live messages above `last_read` only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// The last record that changed this state; [`LogPosition::NOTHING`] while there is no such read state.
    pub applied: LogPosition,
    /// Every message up to here is read.
    pub last_read: MessageId,
    /// As joins and leaves have told.
    pub membership: Membership,
    /// Unread messages of others that mention the user by name, ascending: all those above `forgotten`.
    pub mentions: Vec<Remembered>,
    /// The user's own messages above `last_read`, ascending: all those above `own_unknown`.
    pub own: Vec<Remembered>,
    /// By-name mentions up to here may have been forgotten. 0 or above `last_read`.
    pub forgotten: MessageId,
    /// Own messages up to here were not looked for. 0 or above `last_read`.
    pub own_unknown: MessageId,
}
