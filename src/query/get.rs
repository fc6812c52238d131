//! `get`: read states of any partitions, and of one.

use std::collections::BTreeMap;

use futures::future::{join_all, try_join_all};

use super::Partitions;
use super::deadline::Deadline;
use super::error::{Code, QueryError};
use super::owner::{Owners, PartitionGet, all_unavailable};
use crate::model::ids::{Offset, PartitionId, ReadStateKey};
use crate::wire::partitioner::partition_of;
use crate::wire::proto::v1;

/// What a request is held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct GetLimits {
    pub partition_count: u32,
    pub keys_max: usize,
}

/// Answers `get`, whichever partitions the keys belong to.
///
/// # Errors
/// Those of the contract; with `partial` only those of the request itself.
pub(super) async fn get<P: Partitions>(
    owners: &Owners<P>,
    limits: GetLimits,
    request: &v1::GetRequest,
    deadline: Deadline,
) -> Result<v1::GetReply, QueryError> {
    let keys = keys(request, limits)?;
    let parts = split(&keys, &after(request, limits)?, limits, request.partial);
    let mut read_states = vec![v1::ReadState::default(); keys.len()];
    let ask = async |(partition, part): (&PartitionId, &Part), deadline| {
        let reply = owners.ask(*partition, &part.question, deadline).await?;
        if reply.read_states.len() == part.places.len() {
            Ok(reply)
        } else {
            Err(QueryError::new(
                Code::Unavailable,
                format_args!(
                    "partition {partition} did not answer each key: do all instances run the same version?"
                ),
            ))
        }
    };
    let replies = if request.partial {
        let deadline = deadline.for_partial();
        let replies = join_all(parts.iter().map(|part| ask(part, deadline))).await;
        let missing = |part: &Part| all_unavailable(&part.question.keys);
        replies
            .into_iter()
            .zip(parts.values())
            .map(|(reply, part)| reply.unwrap_or_else(|_| missing(part)))
            .collect()
    } else {
        try_join_all(parts.iter().map(|part| ask(part, deadline))).await?
    };
    for (part, reply) in parts.values().zip(replies) {
        for (place, read_state) in part.places.iter().zip(reply.read_states) {
            read_states[*place] = read_state;
        }
    }
    Ok(v1::GetReply { read_states })
}

/// Answers `partition.<n>.get`. Never asks anyone else, so that a question can't go in circles.
///
/// # Errors
/// Those of the contract; [`QueryError::moving`] if the partition isn't live here.
pub(super) async fn partition_get<P: Partitions>(
    owners: &Owners<P>,
    limits: GetLimits,
    partition: PartitionId,
    request: &v1::GetRequest,
    deadline: Deadline,
) -> Result<v1::GetReply, QueryError> {
    let keys = keys(request, limits)?;
    for (at, key) in keys.iter().enumerate() {
        let right = partition_of(key.channel, limits.partition_count);
        if right != partition {
            return Err(QueryError::malformed(format_args!(
                "keys[{at}]: channel {} belongs to partition {right}, and this is the subject of {partition}",
                key.channel
            )));
        }
    }
    let after = after(request, limits)?
        .get_key_value(&partition)
        .map(|(p, o)| (*p, *o));
    let question = PartitionGet {
        keys,
        after,
        partial: request.partial,
    };
    owners.ask_here(partition, &question, deadline.remaining()).await
}

/// What is asked of one partition, and where the answers go.
#[derive(Default)]
struct Part {
    question: PartitionGet,
    places: Vec<usize>,
}

/// A partition that only `after` names has a part as well: its position is waited for.
fn split(
    keys: &[ReadStateKey],
    after: &BTreeMap<PartitionId, Offset>,
    limits: GetLimits,
    partial: bool,
) -> BTreeMap<PartitionId, Part> {
    let mut parts: BTreeMap<PartitionId, Part> = BTreeMap::new();
    for (partition, offset) in after {
        parts.entry(*partition).or_default().question.after = Some((*partition, *offset));
    }
    for (place, key) in keys.iter().enumerate() {
        let part = parts
            .entry(partition_of(key.channel, limits.partition_count))
            .or_default();
        part.question.keys.push(*key);
        part.places.push(place);
    }
    for part in parts.values_mut() {
        part.question.partial = partial;
    }
    parts
}

fn keys(request: &v1::GetRequest, limits: GetLimits) -> Result<Vec<ReadStateKey>, QueryError> {
    if request.keys.len() > limits.keys_max {
        return Err(QueryError::new(
            Code::TooLarge,
            format_args!(
                "{} keys: at most {} are allowed",
                request.keys.len(),
                limits.keys_max
            ),
        ));
    }
    let key = |(at, key)| {
        ReadStateKey::try_from(key)
            .map_err(|error| QueryError::malformed(format_args!("keys[{at}]: {error}")))
    };
    request.keys.iter().enumerate().map(key).collect()
}

/// The positions to wait for, the last one of each partition.
fn after(request: &v1::GetRequest, limits: GetLimits) -> Result<BTreeMap<PartitionId, Offset>, QueryError> {
    let mut after = BTreeMap::new();
    for (at, position) in request.after.iter().enumerate() {
        if position.partition >= limits.partition_count {
            return Err(QueryError::malformed(format_args!(
                "after[{at}]: there is no partition {}, there are {}",
                position.partition, limits.partition_count
            )));
        }
        let offset = after.entry(PartitionId(position.partition)).or_default();
        *offset = Offset(position.offset).max(*offset);
    }
    Ok(after)
}
