//! Lists of the model as columns of numbers and back. Reading trusts nothing: columns may have any length and any
//! numbers in them. Whether the result keeps the promises of the model is checked afterwards.

use super::{POSITION_BITS_END, proto};
use crate::model::channel::{Block, Message, MessageRef, NodeRef, NodeRefs};
use crate::model::ids::{LogPosition, MessageId, UserId};
use crate::model::read_state::{Remembered, RememberedList};

const EVERYONE: u8 = 1;
const DELETED: u8 = 2;
const NOT_CREATED: u8 = 4;

/// Ascending numbers as the differences between neighbours, the first one from `start`.
fn steps_to(start: u64, values: impl IntoIterator<Item = u64>) -> impl Iterator<Item = u64> {
    values.into_iter().scan(start, |before, value| {
        Some(value - std::mem::replace(before, value))
    })
}

fn steps_of(start: u64, steps: &[u64]) -> impl Iterator<Item = Result<u64, String>> {
    let add = |before: &mut u64, step: &u64| {
        let next = before
            .checked_add(*step)
            .ok_or_else(|| format!("{before} + {step} is out of range"));
        *before = before.saturating_add(*step);
        Some(next)
    };
    steps.iter().scan(start, add)
}

pub(super) fn remembered_to(last_read: MessageId, list: &[Remembered]) -> Vec<u64> {
    steps_to(last_read.0, list.iter().map(|message| message.id.0))
        .zip(list)
        .map(|(step, message)| step << 1 | u64::from(message.everyone))
        .collect()
}

pub(super) fn remembered_of(last_read: MessageId, column: &[u64]) -> Result<RememberedList, String> {
    let steps: Vec<u64> = column.iter().map(|packed| packed >> 1).collect();
    steps_of(last_read.0, &steps)
        .zip(column)
        .map(|(id, packed)| {
            Ok(Remembered {
                id: MessageId(id?),
                everyone: packed & 1 == 1,
            })
        })
        .collect()
}

pub(super) fn refs_to(refs: &[NodeRef]) -> proto::NodeRefs {
    let versions = || refs.iter().map(|node| node.version.to_bits().cast_signed());
    let newest_live = |node: &NodeRef| match node.newest_live {
        MessageId::NONE => 0,
        newest => newest.0 - node.first.0 + 1,
    };
    proto::NodeRefs {
        first_steps: steps_to(0, refs.iter().map(|node| node.first.0)).collect(),
        version_steps: std::iter::once(0)
            .chain(versions())
            .zip(versions())
            .map(|(a, b)| b - a)
            .collect(),
        live: refs.iter().map(|node| node.live).collect(),
        everyone: refs.iter().map(|node| node.everyone).collect(),
        newest_live_steps: refs.iter().map(newest_live).collect(),
    }
}

pub(super) fn refs_of(columns: &proto::NodeRefs) -> Result<NodeRefs, String> {
    let count = columns.first_steps.len();
    same_length(
        count,
        [
            columns.version_steps.len(),
            columns.live.len(),
            columns.everyone.len(),
            columns.newest_live_steps.len(),
        ],
    )?;
    let mut refs = NodeRefs::with_capacity(count);
    let mut version = 0_i64;
    for (index, first) in steps_of(0, &columns.first_steps).enumerate() {
        let first = first?;
        version = version.wrapping_add(columns.version_steps[index]);
        let newest_live = match columns.newest_live_steps[index] {
            0 => 0,
            step => first
                .checked_add(step - 1)
                .ok_or("a newest message is out of range")?,
        };
        refs.push(NodeRef {
            first: MessageId(first),
            version: log_position(version)?,
            live: columns.live[index],
            everyone: columns.everyone[index],
            newest_live: MessageId(newest_live),
        });
    }
    Ok(refs)
}

pub(super) fn messages_to(block: &Block) -> proto::Messages {
    let authors = block.messages().filter_map(|message| message.author);
    let mentioned = block.messages().flat_map(|message| message.mentions);
    let mut users: Vec<UserId> = authors.chain(mentioned.copied()).collect();
    users.sort_unstable();
    users.dedup();
    // Always found, since all of them were put in; a row has fewer than 2^32 bytes and so fewer users.
    let place = |user: UserId| users.partition_point(|other| *other < user) as u32;

    let mut columns = proto::Messages {
        id_steps: steps_to(0, block.messages().map(|message| message.id.0)).collect(),
        user_steps: steps_to(0, users.iter().map(|user| user.0)).collect(),
        ..proto::Messages::default()
    };
    for message in block.messages() {
        columns
            .authors
            .push(message.author.map_or(0, |author| place(author) + 1));
        columns.flags.push(flags_to(&message));
        columns.mention_counts.push(message.mentions.len() as u32);
        let mut before = 0;
        columns.mention_steps.extend(message.mentions.iter().map(|user| {
            let next = place(*user);
            next - std::mem::replace(&mut before, next)
        }));
    }
    columns
}

pub(super) fn messages_of(columns: &proto::Messages) -> Result<Vec<Message>, String> {
    let count = columns.id_steps.len();
    same_length(
        count,
        [
            columns.authors.len(),
            columns.flags.len(),
            columns.mention_counts.len(),
        ],
    )?;
    let users = steps_of(0, &columns.user_steps).collect::<Result<Vec<u64>, String>>()?;
    let user_at = |place: Option<u32>| -> Result<UserId, String> {
        let user = place.and_then(|place| users.get(place as usize));
        user.map(|user| UserId(*user))
            .ok_or_else(|| "a user is named that is not there".into())
    };
    let mut mention_steps = columns.mention_steps.as_slice();
    let mut messages = Vec::with_capacity(count);
    for (index, id) in steps_of(0, &columns.id_steps).enumerate() {
        let (these, rest) = mention_steps
            .split_at_checked(columns.mention_counts[index] as usize)
            .ok_or("there are fewer mentions than their counts say")?;
        mention_steps = rest;
        let mut place = Some(0_u32);
        let mentions = these.iter().map(|step| {
            place = place.and_then(|place| place.checked_add(*step));
            user_at(place)
        });
        let flags = columns.flags[index];
        if flags & !(EVERYONE | DELETED | NOT_CREATED) != 0 {
            return Err(format!("flags {flags} are not known"));
        }
        messages.push(Message {
            id: MessageId(id?),
            author: match columns.authors[index] {
                0 => None,
                place => Some(user_at(Some(place - 1))?),
            },
            mentions: mentions.collect::<Result<_, _>>()?,
            everyone: flags & EVERYONE != 0,
            deleted: flags & DELETED != 0,
            created: flags & NOT_CREATED == 0,
        });
    }
    if !mention_steps.is_empty() {
        return Err("there are more mentions than their counts say".into());
    }
    Ok(messages)
}

fn flags_to(message: &MessageRef<'_>) -> u8 {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    flag(message.everyone, EVERYONE) | flag(message.deleted, DELETED) | flag(!message.created, NOT_CREATED)
}

fn same_length<const N: usize>(count: usize, others: [usize; N]) -> Result<(), String> {
    match others.into_iter().find(|other| *other != count) {
        None => Ok(()),
        Some(other) => Err(format!("its columns have {count} and {other} entries")),
    }
}

fn log_position(bits: i64) -> Result<LogPosition, String> {
    let bits = u64::try_from(bits).ok().filter(|bits| *bits < POSITION_BITS_END);
    bits.map(LogPosition::from_bits)
        .ok_or_else(|| "a version is out of range".into())
}
