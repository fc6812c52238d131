//! `overview`: every channel in which a user has a read state.
//!
//! The owners give stamps, then the store is read, then each owner gets the rows of its partition, answers from them
//! and adds what the store may not have shown (see "Loads" in the design). Only one range of channels is looked at at a
//! time, as long as more rows are needed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;

use super::Partitions;
use super::deadline::Deadline;
use super::error::{Code, QueryError};
use super::internal::{HandOver, ProcessStamp};
use super::owner::{Owners, TakeStamp};
use crate::model::ids::{ChannelId, MAX_ID, PartitionId, UserId};
use crate::model::read_state::ReadState;
use crate::store::Store;
use crate::wire::partitioner::partition_of;
use crate::wire::proto::v1;

/// The most rows of one reply.
pub const OVERVIEW_ROWS_MAX: usize = 1000;
/// Fewer rows are not worth a read of the store: those that were left or read are in between.
const STORE_PAGE_ROWS_MIN: usize = 256;

/// Before an overview begins anew since a partition has moved meanwhile.
const ANEW_PAUSE: Duration = Duration::from_millis(20);

/// Answers `overview`.
///
/// # Errors
/// Those of the contract; with `partial` those of the request and of the store only.
pub(super) async fn overview<P: Partitions, S: Store>(
    owners: &Owners<P>,
    store: &S,
    partition_count: u32,
    request: &v1::OverviewRequest,
    deadline: Deadline,
) -> Result<v1::OverviewReply, QueryError> {
    loop {
        match attempt(owners, store, partition_count, request, deadline).await {
            Err(error) if error.code == Code::StampVoid => {
                if deadline.remaining().is_zero() {
                    return Err(QueryError::new(
                        Code::TimedOut,
                        format_args!("the time ran out while partitions moved: {}", error.message),
                    ));
                }
            }
            ended => return ended,
        }
        tokio::time::sleep(ANEW_PAUSE).await;
    }
}

/// Answers, unless a stamp becomes void meanwhile: partitions have moved, or another owner was further.
async fn attempt<P: Partitions, S: Store>(
    owners: &Owners<P>,
    store: &S,
    partition_count: u32,
    request: &v1::OverviewRequest,
    deadline: Deadline,
) -> Result<v1::OverviewReply, QueryError> {
    let mut listing = Listing::new(owners, partition_count, request, deadline)?;
    listing.take_stamps(store.is_shared()).await?;
    let page_rows = (listing.limit + 1).max(STORE_PAGE_ROWS_MIN);
    let mut above = ChannelId(request.after_channel_id);
    while listing.found.len() <= listing.limit {
        let rows = load_page(store, listing.user, above, page_rows, listing.deadline).await?;
        let up_to = match rows.last() {
            Some((channel, _)) if rows.len() >= page_rows => *channel,
            _ => ChannelId(MAX_ID),
        };
        listing.add_range(rows, above, up_to).await?;
        if up_to == ChannelId(MAX_ID) {
            break;
        }
        above = up_to;
    }
    Ok(listing.into_reply())
}

async fn load_page<S: Store>(
    store: &S,
    user: UserId,
    above: ChannelId,
    rows: usize,
    deadline: Deadline,
) -> Result<Vec<(ChannelId, ReadState)>, QueryError> {
    match tokio::time::timeout_at(deadline.at(), store.load_user(user, above, rows)).await {
        Ok(page) => page.map_err(|error| {
            QueryError::new(
                Code::Unavailable,
                format_args!("the rows of user {user}: {error}"),
            )
        }),
        Err(_) => Err(QueryError::new(
            Code::TimedOut,
            format_args!("the time ran out before the store had shown the rows of user {user}"),
        )),
    }
}

struct Listing<'a, P> {
    owners: &'a Owners<P>,
    partition_count: u32,
    user: UserId,
    only_unread: bool,
    partial: bool,
    limit: usize,
    deadline: Deadline,
    /// The stamps of the partitions that are not missing.
    stamps: BTreeMap<PartitionId, ProcessStamp>,
    /// Ascending, of partitions that are not missing.
    found: Vec<v1::ReadState>,
}

impl<'a, P: Partitions> Listing<'a, P> {
    fn new(
        owners: &'a Owners<P>,
        partition_count: u32,
        request: &v1::OverviewRequest,
        deadline: Deadline,
    ) -> Result<Self, QueryError> {
        if !(1..=MAX_ID).contains(&request.user_id) {
            return Err(QueryError::malformed(format_args!(
                "user_id is {}, and must be 1 to {MAX_ID}",
                request.user_id
            )));
        }
        if request.after_channel_id > MAX_ID {
            return Err(QueryError::malformed(format_args!(
                "after_channel_id is {}, and must be 0 to {MAX_ID}",
                request.after_channel_id
            )));
        }
        Ok(Listing {
            owners,
            partition_count,
            user: UserId(request.user_id),
            only_unread: request.only_unread,
            partial: request.partial,
            limit: match request.limit as usize {
                0 => OVERVIEW_ROWS_MAX,
                limit => limit.min(OVERVIEW_ROWS_MAX),
            },
            deadline: if request.partial {
                deadline.for_partial()
            } else {
                deadline
            },
            stamps: BTreeMap::new(),
            found: Vec::new(),
        })
    }

    async fn take_stamps(&mut self, is_store_shared: bool) -> Result<(), QueryError> {
        // With `partial` an owner that can't be found must not take the time that the others need.
        let deadline = if self.partial {
            self.deadline.for_partial()
        } else {
            self.deadline
        };
        let owners = self.owners;
        let all = (0..self.partition_count).map(PartitionId);
        let stamps = join_all(all.map(async |partition| {
            let stamp = owners.ask(partition, &TakeStamp, deadline).await;
            (partition, stamp.map(ProcessStamp::from))
        }));
        for (partition, stamp) in stamps.await {
            let stamp = stamp.and_then(|stamp| match is_store_shared || stamp.process == owners.process {
                true => Ok(stamp),
                false => Err(rows_elsewhere(partition)),
            });
            if let Some(stamp) = self.or_missing(partition, stamp)? {
                self.stamps.insert(partition, stamp);
            }
        }
        Ok(())
    }

    /// Has the owners answer for one range of channels.
    async fn add_range(
        &mut self,
        rows: Vec<(ChannelId, ReadState)>,
        above: ChannelId,
        up_to: ChannelId,
    ) -> Result<(), QueryError> {
        let mut by_partition: BTreeMap<PartitionId, Vec<_>> = BTreeMap::new();
        for row in rows {
            by_partition
                .entry(partition_of(row.0, self.partition_count))
                .or_default()
                .push(row);
        }
        let hand_overs: Vec<_> = self
            .stamps
            .iter()
            .map(|(partition, stamp)| {
                let hand_over = HandOver {
                    user: self.user,
                    stamp: stamp.clone(),
                    rows: by_partition.remove(partition).unwrap_or_default(),
                    above,
                    up_to,
                    only_unread: self.only_unread,
                    // One more than is shown tells that there is more.
                    limit: self.limit + 1,
                };
                (*partition, hand_over)
            })
            .collect();
        let (owners, deadline) = (self.owners, self.deadline);
        let answers = join_all(hand_overs.into_iter().map(async |(partition, hand_over)| {
            (partition, list(owners, partition, hand_over, deadline).await)
        }));
        let mut found = Vec::new();
        for (partition, listed) in answers.await {
            found.extend(self.or_missing(partition, listed)?.unwrap_or_default());
        }
        found.sort_unstable_by_key(|read_state| read_state.channel_id);
        self.found.extend(found);
        Ok(())
    }

    /// What a partition said; where `partial` was asked for, one that said nothing is left out altogether.
    fn or_missing<T>(
        &mut self,
        partition: PartitionId,
        said: Result<T, QueryError>,
    ) -> Result<Option<T>, QueryError> {
        match said {
            Ok(said) => Ok(Some(said)),
            Err(error) if self.partial && error.code != Code::StampVoid => {
                self.stamps.remove(&partition);
                let count = self.partition_count;
                self.found
                    .retain(|read_state| partition_of(ChannelId(read_state.channel_id), count) != partition);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn into_reply(mut self) -> v1::OverviewReply {
        let more = self.found.len() > self.limit;
        self.found.truncate(self.limit);
        let missing = (0..self.partition_count).filter(|n| !self.stamps.contains_key(&PartitionId(*n)));
        v1::OverviewReply {
            missing_partitions: missing.collect(),
            more,
            read_states: self.found,
        }
    }
}

/// What is in this instance's store says nothing about such a partition: an overview of it would lack rows.
fn rows_elsewhere(partition: PartitionId) -> QueryError {
    QueryError::new(
        Code::Unavailable,
        format_args!(
            "another instance owns partition {partition}, and its rows are in the embedded store of that one: only it can \
             show them"
        ),
    )
}

/// Has the owner of one partition answer for one range of channels.
async fn list<P: Partitions>(
    owners: &Owners<P>,
    partition: PartitionId,
    hand_over: HandOver,
    deadline: Deadline,
) -> Result<Vec<v1::ReadState>, QueryError> {
    let mut listed = Vec::new();
    for part in hand_over.into_parts() {
        let reply = owners.ask(partition, &part, deadline).await?;
        listed.extend(reply.read_states);
        // Each part comes after the one before, so what follows is not needed.
        if listed.len() >= part.limit {
            break;
        }
    }
    Ok(listed)
}
