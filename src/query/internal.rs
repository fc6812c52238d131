//! What instances say to each other for the overview: `schemas/internal.proto` to and from the model.

use std::ops::Range;

use prost::Message;

use super::UserRows;
use super::error::QueryError;
use crate::model::ids::{ChannelId, LogPosition, MAX_ID, MessageId, PartitionId, UserId};
use crate::model::read_state::{Membership, ReadState, Remembered, RememberedList};
use crate::partition::io::{Millis, Stamp};
use crate::wire::partitioner::partition_of;
// The generated code finds the schema that it imports by this name.
use crate::wire::proto::v1;

mod generated {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/readstates.internal.v1.rs"));
    }
}

pub(super) use generated::v1 as wire;

/// Rows go over in messages of about this size, half of what a server lets through by default: one row with all
/// the mentions it may remember has 20 kB.
const HAND_OVER_BYTES_MAX: usize = 512 * 1024;

/// An assignment that no owner ever has, so that a stamp of it is void.
const VOID_ASSIGNMENT: u64 = u64::MAX;

/// A stamp and whose clock it is of. Numbers of assignments mean nothing in another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProcessStamp {
    pub process: String,
    pub stamp: Stamp,
}

impl ProcessStamp {
    /// The stamp as an owner in `process` is to take it.
    pub fn seen_by(&self, process: &str) -> Stamp {
        if self.process == process {
            self.stamp
        } else {
            Stamp {
                assignment: VOID_ASSIGNMENT,
                at: Millis(0),
            }
        }
    }
}

impl From<&ProcessStamp> for wire::Stamp {
    fn from(stamp: &ProcessStamp) -> Self {
        wire::Stamp {
            process: stamp.process.clone(),
            assignment: stamp.stamp.assignment,
            at_ms: stamp.stamp.at.0,
        }
    }
}

impl From<wire::Stamp> for ProcessStamp {
    fn from(stamp: wire::Stamp) -> Self {
        ProcessStamp {
            process: stamp.process,
            stamp: Stamp {
                assignment: stamp.assignment,
                at: Millis(stamp.at_ms),
            },
        }
    }
}

/// What is handed to the owner of a partition for an overview.
#[derive(Clone, Debug)]
pub(super) struct HandOver {
    pub user: UserId,
    pub stamp: ProcessStamp,
    /// Ascending.
    pub rows: Vec<(ChannelId, ReadState)>,
    pub above: ChannelId,
    pub up_to: ChannelId,
    pub only_unread: bool,
    /// More than so many are not needed.
    pub limit: usize,
}

impl HandOver {
    /// Cuts the range into parts that fit into a message each.
    pub fn into_parts(self) -> Vec<HandOver> {
        let sizes = self
            .rows
            .iter()
            .map(|(channel, state)| row(*channel, state).encoded_len());
        let cuts = cuts(sizes, HAND_OVER_BYTES_MAX);
        if cuts.len() <= 1 {
            return vec![self];
        }
        let mut above = self.above;
        let last = cuts.len() - 1;
        let mut parts = Vec::with_capacity(cuts.len());
        for (number, cut) in cuts.into_iter().enumerate() {
            let rows = self.rows[cut].to_vec();
            let up_to = match rows.last() {
                Some((channel, _)) if number != last => *channel,
                _ => self.up_to,
            };
            parts.push(HandOver {
                stamp: self.stamp.clone(),
                rows,
                above,
                up_to,
                ..self
            });
            above = up_to;
        }
        parts
    }

    /// Whether an instance may have sent this to the owner of a partition. The subject is open to whoever has the
    /// rights, and what a partition takes it relies on.
    pub fn check(&self, partition: PartitionId, partition_count: u32) -> Result<(), QueryError> {
        let wrong = |what: String| Err(QueryError::malformed(format_args!("rows handed over: {what}")));
        let (above, up_to) = (self.above, self.up_to);
        if !(1..=MAX_ID).contains(&self.user.0) || above > up_to || up_to.0 > MAX_ID {
            return wrong(format!(
                "user {}, channels above {above} up to {up_to}",
                self.user
            ));
        }
        let mut below = above;
        for (channel, state) in &self.rows {
            if *channel <= below || *channel > up_to || partition_of(*channel, partition_count) != partition {
                return wrong(format!("channel {channel} has no place there"));
            }
            if state.applied.epoch() >= LogPosition::EPOCHS_MAX {
                return wrong(format!("channel {channel}: applied is out of range"));
            }
            if let Err(what) = state.check() {
                return wrong(format!("channel {channel}: {what}"));
            }
            below = *channel;
        }
        Ok(())
    }

    /// As the partition takes it.
    pub fn user_rows(&self, process: &str) -> UserRows {
        UserRows {
            user: self.user,
            stamp: self.stamp.seen_by(process),
            rows: self.rows.clone(),
            above: self.above,
            up_to: self.up_to,
        }
    }
}

/// Neighbours that together have at most `max` bytes; one that has more stands alone.
fn cuts(sizes: impl Iterator<Item = usize>, max: usize) -> Vec<Range<usize>> {
    let mut cuts: Vec<Range<usize>> = Vec::new();
    let mut sum = 0;
    for (at, size) in sizes.enumerate() {
        match cuts.last_mut() {
            Some(cut) if sum + size <= max => {
                cut.end = at + 1;
                sum += size;
            }
            _ => {
                cuts.push(at..at + 1);
                sum = size;
            }
        }
    }
    cuts
}

impl From<&HandOver> for wire::HandOver {
    fn from(hand_over: &HandOver) -> Self {
        wire::HandOver {
            user_id: hand_over.user.0,
            stamp: Some((&hand_over.stamp).into()),
            rows: hand_over
                .rows
                .iter()
                .map(|(channel, state)| row(*channel, state))
                .collect(),
            above_channel_id: hand_over.above.0,
            up_to_channel_id: hand_over.up_to.0,
            only_unread: hand_over.only_unread,
            limit: u32::try_from(hand_over.limit).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<wire::HandOver> for HandOver {
    type Error = QueryError;

    fn try_from(hand_over: wire::HandOver) -> Result<Self, QueryError> {
        let stamp = hand_over
            .stamp
            .ok_or_else(|| QueryError::malformed("rows are handed over without a stamp"))?;
        Ok(HandOver {
            user: UserId(hand_over.user_id),
            stamp: stamp.into(),
            rows: hand_over.rows.into_iter().map(state).collect::<Result<_, _>>()?,
            above: ChannelId(hand_over.above_channel_id),
            up_to: ChannelId(hand_over.up_to_channel_id),
            only_unread: hand_over.only_unread,
            limit: hand_over.limit as usize,
        })
    }
}

fn row(channel: ChannelId, state: &ReadState) -> wire::Row {
    wire::Row {
        channel_id: channel.0,
        applied: state.applied.to_bits(),
        last_read: state.last_read.0,
        membership: match state.membership {
            Membership::Unspecified => 0,
            Membership::Joined => 1,
            Membership::Left => 2,
        },
        mentions: state.mentions.iter().map(remembered).collect(),
        own: state.own.iter().map(remembered).collect(),
        forgotten: state.forgotten.0,
        own_unknown: state.own_unknown.0,
    }
}

fn remembered(message: &Remembered) -> wire::Remembered {
    wire::Remembered {
        id: message.id.0,
        everyone: message.everyone,
    }
}

fn state(row: wire::Row) -> Result<(ChannelId, ReadState), QueryError> {
    let remembered = |messages: Vec<wire::Remembered>| -> RememberedList {
        messages
            .into_iter()
            .map(|message| Remembered {
                id: MessageId(message.id),
                everyone: message.everyone,
            })
            .collect()
    };
    let state = ReadState {
        applied: LogPosition::from_bits(row.applied),
        last_read: MessageId(row.last_read),
        membership: match row.membership {
            0 => Membership::Unspecified,
            1 => Membership::Joined,
            2 => Membership::Left,
            other => {
                return Err(QueryError::malformed(format_args!(
                    "the row of channel {} has membership {other}",
                    row.channel_id
                )));
            }
        },
        mentions: remembered(row.mentions),
        own: remembered(row.own),
        forgotten: MessageId(row.forgotten),
        own_unknown: MessageId(row.own_unknown),
    };
    Ok((ChannelId(row.channel_id), state))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::ids::Offset;

    fn hand_over(rows: Vec<(ChannelId, ReadState)>) -> HandOver {
        HandOver {
            user: UserId(7),
            stamp: ProcessStamp {
                process: "here".to_owned(),
                stamp: Stamp {
                    assignment: 3,
                    at: Millis(99),
                },
            },
            rows,
            above: ChannelId(10),
            up_to: ChannelId(1 << 40),
            only_unread: true,
            limit: 50,
        }
    }

    fn state(mentions: u64) -> ReadState {
        ReadState {
            applied: LogPosition::new(2, Offset(1 << 40)),
            last_read: MessageId(5),
            membership: Membership::Left,
            mentions: (0..mentions)
                .map(|id| Remembered {
                    id: MessageId((1 << 62) + id),
                    everyone: id % 2 == 0,
                })
                .collect(),
            own: vec![Remembered {
                id: MessageId(9),
                everyone: true,
            }]
            .into(),
            forgotten: MessageId(6),
            own_unknown: MessageId(8),
        }
    }

    #[test]
    fn what_is_handed_over_arrives_as_it_was() {
        let sent = hand_over(vec![
            (ChannelId(11), state(3)),
            (ChannelId(12), ReadState::default()),
        ]);
        let bytes = wire::HandOver::from(&sent).encode_to_vec();
        let received = HandOver::try_from(wire::HandOver::decode(bytes.as_slice()).unwrap()).unwrap();
        assert_eq!(format!("{sent:?}"), format!("{received:?}"));
    }

    #[test]
    fn rows_that_no_instance_hands_over_are_refused() {
        let channel = (11..)
            .map(ChannelId)
            .find(|channel| partition_of(*channel, 8) == PartitionId(3));
        let channel = channel.unwrap();
        let good = hand_over(vec![(channel, ReadState::default())]);
        let refused = |change: fn(&mut HandOver)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.check(PartitionId(3), 8).is_err()
        };
        assert_eq!(good.check(PartitionId(3), 8), Ok(()));
        assert!(good.check(PartitionId(4), 8).is_err());
        for (number, change) in [
            (|bad| bad.user = UserId(0)) as fn(&mut HandOver),
            |bad| bad.user = UserId(u64::MAX),
            |bad| bad.above = ChannelId(u64::MAX),
            |bad| bad.up_to = ChannelId(u64::MAX),
            |bad| bad.above = bad.rows[0].0,
            |bad| bad.rows.push(bad.rows[0].clone()),
            |bad| bad.rows[0].1.applied = LogPosition::from_bits(u64::MAX),
            |bad| bad.rows[0].1.last_read = MessageId(u64::MAX),
            |bad| bad.rows[0].1.mentions = state(3).mentions.into_iter().rev().collect(),
        ]
        .into_iter()
        .enumerate()
        {
            assert!(refused(change), "{number}");
        }
    }

    #[test]
    fn a_stamp_of_another_process_is_void() {
        let stamp = hand_over(Vec::new()).stamp;
        assert_eq!(stamp.seen_by("here"), stamp.stamp);
        assert_eq!(stamp.seen_by("there").assignment, VOID_ASSIGNMENT);
    }

    #[test]
    fn parts_cover_the_range_once_and_fit() {
        let rows: Vec<_> = (0..200).map(|n| (ChannelId(11 + n), state(1000))).collect();
        let parts = hand_over(rows.clone()).into_parts();
        assert!(parts.len() > 1);
        let mut above = ChannelId(10);
        for part in &parts {
            assert_eq!(part.above, above);
            above = part.up_to;
            assert!(wire::HandOver::from(part).encoded_len() < HAND_OVER_BYTES_MAX + 100);
            assert!(
                part.rows
                    .iter()
                    .all(|(channel, _)| *channel > part.above && *channel <= part.up_to)
            );
        }
        assert_eq!(above, ChannelId(1 << 40));
        let together: Vec<_> = parts.into_iter().flat_map(|part| part.rows).collect();
        assert_eq!(together, rows);
        assert_eq!(hand_over(Vec::new()).into_parts().len(), 1);
    }
}
