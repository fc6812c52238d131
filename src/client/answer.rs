//! What the service answers.

use std::collections::BTreeMap;
use std::fmt;

use super::position::Position;
use crate::model::ids::{ChannelId, MessageId, PartitionId, ReadStateKey, UserId};
use crate::wire::proto::v1::{self, Membership};

/// What one user has read in one channel, right after the record at [`ReadState::position`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The user.
    pub user: UserId,
    /// The channel.
    pub channel: ChannelId,
    /// The newest message that the user has read; [`MessageId::NONE`]: nothing yet.
    pub last_read: MessageId,
    /// The newest message of the channel that is not deleted; [`MessageId::NONE`]: there is none.
    pub last_message: MessageId,
    /// Messages that the user has not read.
    pub unread: Count,
    /// Those of them that mention the user, by name, by role or as everyone.
    pub mentions: Count,
    /// Those of them that mention the user by name or by role.
    pub direct_mentions: Count,
    /// Whether the user is a member. Counts are 0 for those who left, and in a channel that is deleted.
    pub membership: Membership,
    /// The last record that the answer takes into account. None: the partition has none yet.
    pub position: Option<Position>,
}

/// How many. Shows as `12`, or as `10000+` where it is capped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// So many, or where it is capped at least so many.
    pub number: u32,
    /// The service counts no further.
    pub is_capped: bool,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number, if self.is_capped { "+" } else { "" })
    }
}

/// What became of one key, where an incomplete answer was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is known.
    Known(ReadState),
    /// Its partition can't be reached now, so nothing is known.
    Unavailable(ReadStateKey),
}

impl Answer {
    /// The read state, if it is known.
    pub fn known(&self) -> Option<&ReadState> {
        match self {
            Answer::Known(read_state) => Some(read_state),
            Answer::Unavailable(_) => None,
        }
    }
}

/// Channels of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// By channel, ascending. Channels that the user left and deleted ones are not among them.
    pub read_states: Vec<ReadState>,
    /// There are further channels, above the last one.
    pub has_more: bool,
    /// Partitions that can't be reached now, whose channels are missing. Empty unless an incomplete answer was asked for.
    pub missing_partitions: Vec<PartitionId>,
}

/// How the numbers of a read state come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The read state.
    pub read_state: ReadState,
    /// For people, in order.
    pub lines: Vec<String>,
    /// The same for programs.
    pub facts: BTreeMap<String, String>,
}

impl From<v1::ReadState> for ReadState {
    fn from(it: v1::ReadState) -> Self {
        let mentions = |number| Count {
            number,
            is_capped: it.mention_count_capped,
        };
        ReadState {
            user: UserId(it.user_id),
            channel: ChannelId(it.channel_id),
            last_read: MessageId(it.last_read_message_id),
            last_message: MessageId(it.last_message_id),
            unread: Count {
                number: it.unread_count,
                is_capped: it.unread_count_capped,
            },
            mentions: mentions(it.mention_count),
            direct_mentions: mentions(it.direct_mention_count),
            membership: it.membership(),
            position: it.position.map(Position::from),
        }
    }
}

impl From<&ReadState> for v1::ReadState {
    fn from(it: &ReadState) -> Self {
        v1::ReadState {
            user_id: it.user.0,
            channel_id: it.channel.0,
            last_read_message_id: it.last_read.0,
            last_message_id: it.last_message.0,
            unread_count: it.unread.number,
            unread_count_capped: it.unread.is_capped,
            mention_count: it.mentions.number,
            direct_mention_count: it.direct_mentions.number,
            mention_count_capped: it.mentions.is_capped,
            membership: it.membership.into(),
            position: it.position.map(v1::Position::from),
            unavailable: false,
        }
    }
}

impl From<v1::ReadState> for Answer {
    fn from(it: v1::ReadState) -> Self {
        match it.unavailable {
            false => Answer::Known(it.into()),
            true => Answer::Unavailable(ReadStateKey {
                user: UserId(it.user_id),
                channel: ChannelId(it.channel_id),
            }),
        }
    }
}

impl From<ReadState> for Answer {
    fn from(read_state: ReadState) -> Self {
        Answer::Known(read_state)
    }
}

impl From<&Answer> for v1::ReadState {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Known(read_state) => read_state.into(),
            Answer::Unavailable(key) => v1::ReadState {
                user_id: key.user.0,
                channel_id: key.channel.0,
                unavailable: true,
                ..v1::ReadState::default()
            },
        }
    }
}

impl From<v1::OverviewReply> for Overview {
    fn from(reply: v1::OverviewReply) -> Self {
        Overview {
            read_states: reply.read_states.into_iter().map(ReadState::from).collect(),
            has_more: reply.more,
            missing_partitions: reply.missing_partitions.into_iter().map(PartitionId).collect(),
        }
    }
}

impl From<&Overview> for v1::OverviewReply {
    fn from(overview: &Overview) -> Self {
        v1::OverviewReply {
            read_states: overview.read_states.iter().map(v1::ReadState::from).collect(),
            more: overview.has_more,
            missing_partitions: overview.missing_partitions.iter().map(|it| it.0).collect(),
        }
    }
}

impl From<v1::ExplainReply> for Explanation {
    fn from(reply: v1::ExplainReply) -> Self {
        Explanation {
            read_state: reply.read_state.unwrap_or_default().into(),
            lines: reply.lines,
            facts: reply.facts.into_iter().collect(),
        }
    }
}

impl From<&Explanation> for v1::ExplainReply {
    fn from(it: &Explanation) -> Self {
        v1::ExplainReply {
            read_state: Some((&it.read_state).into()),
            lines: it.lines.clone(),
            facts: it.facts.clone().into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_answer_is_lost() {
        let known = v1::ReadState {
            user_id: 1,
            channel_id: 2,
            last_read_message_id: 3,
            last_message_id: 4,
            unread_count: 5,
            unread_count_capped: true,
            mention_count: 6,
            direct_mention_count: 7,
            mention_count_capped: true,
            membership: Membership::ChannelDeleted.into(),
            position: Some(v1::Position {
                partition: 8,
                offset: 9,
            }),
            unavailable: false,
        };
        let unavailable = v1::ReadState {
            user_id: 1,
            channel_id: 2,
            unavailable: true,
            ..v1::ReadState::default()
        };
        for reply in [known, unavailable] {
            let answer = Answer::from(reply);
            assert_eq!(v1::ReadState::from(&answer), reply, "{answer:?}");
        }
        let overview = v1::OverviewReply {
            read_states: vec![known],
            more: true,
            missing_partitions: vec![3],
        };
        assert_eq!(
            v1::OverviewReply::from(&Overview::from(overview.clone())),
            overview
        );
    }
}
