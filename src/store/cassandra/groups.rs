//! Rows that wait to be read, several by one statement: a request costs Cassandra more than a row does.
//!
//! What is read by one statement has the same replica, which is asked: so reads stay where the rows are. Read states are
//! named by their users and their channels, so that all pairs of these are looked for; few pairs more than asked for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::future::join_all;
use scylla::cluster::Node;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::response::query_result::QueryRowsResult;

use super::{CassandraStore, bigint, rows_of, unanswered, unexpected};
use crate::model::ids::{ChannelId, ReadStateKey, UserId};
use crate::partition::io::{LoadKey, LoadedRow};
use crate::store::StoreError;
use crate::store::gather::{Reader, Waiting};
use crate::store::rows;

/// Statements under way at once that read rows by their keys; what is asked for meanwhile gathers.
pub const GROUPS_IN_FLIGHT_MAX: usize = 64;
/// Rows that are asked for by one statement.
pub const GROUP_ROWS_MAX: usize = 32;
/// Users times channels in one statement.
pub const GROUP_PAIRS_MAX: usize = 64;
/// Of what waits so many are looked at for those that go together.
const LOOKED_AT_MAX: usize = 128;

/// Rows that are remembered as [`Suspects`].
pub const SUSPECTS_MAX: usize = 4096;

/// Rows of statements for several that took too long. Perhaps one of them always does: each is read by itself the next
/// time, so that nobody suffers from that one again and again.
#[derive(Default)]
pub struct Suspects(Mutex<HashSet<LoadKey>>);

/// A row that is asked for.
#[derive(Clone)]
pub struct Wanted {
    pub key: LoadKey,
    /// It is read by itself.
    pub is_suspect: bool,
    /// Who has it; nothing where that makes no difference.
    pub replica: Option<Arc<Node>>,
}

/// Who waits for a row.
pub type RowWaiting = Waiting<Wanted, Result<LoadedRow, StoreError>>;

/// What one statement asks for.
#[derive(Default)]
struct Group {
    first: Option<Wanted>,
    rows: usize,
    users: Vec<i64>,
    channels: Vec<i64>,
}

/// What a key has in the store: when it was written, and its state.
type Found<'a> = HashMap<LoadKey, (i64, &'a [u8])>;

/// Whether one more statement may be under way.
pub fn wants_reader(readers: usize, _: usize) -> bool {
    readers < GROUPS_IN_FLIGHT_MAX
}

impl Suspects {
    fn add(&self, keys: impl Iterator<Item = LoadKey>) {
        let mut suspects = self.keys();
        let room = SUSPECTS_MAX.saturating_sub(suspects.len());
        suspects.extend(keys.take(room));
    }

    /// Whether it is one. It is none any more.
    pub fn take(&self, key: &LoadKey) -> bool {
        self.keys().remove(key)
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<LoadKey>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Takes a row if it can be asked for together with the others.
    fn takes(&mut self, wanted: &Wanted) -> bool {
        let Some(first) = &self.first else {
            self.first = Some(wanted.clone());
            self.add(wanted.key);
            return true;
        };
        if first.is_suspect || wanted.is_suspect {
            return false;
        }
        let host = |wanted: &Wanted| wanted.replica.as_ref().map(|node| node.host_id);
        if self.rows == GROUP_ROWS_MAX || host(first) != host(wanted) {
            return false;
        }
        let goes_along = match (first.key, wanted.key) {
            (LoadKey::Head(_), LoadKey::Head(_)) => true,
            (LoadKey::ReadState(_), LoadKey::ReadState(key)) => {
                let users = self.users.len() + usize::from(!self.users.contains(&bigint(key.user.0)));
                let channels =
                    self.channels.len() + usize::from(!self.channels.contains(&bigint(key.channel.0)));
                users * channels <= GROUP_PAIRS_MAX
            }
            _ => false,
        };
        if goes_along {
            self.add(wanted.key);
        }
        goes_along
    }

    fn name(&self) -> String {
        match self.users.is_empty() {
            true => format!("channels rows of channel_id in {:?}", self.channels),
            false => format!(
                "{} read_states rows of user_id in {:?} and channel_id in {:?}",
                self.rows, self.users, self.channels
            ),
        }
    }

    fn add(&mut self, key: LoadKey) {
        self.rows += 1;
        let mut add = |user: Option<UserId>, channel: ChannelId| {
            let channel = bigint(channel.0);
            if !self.channels.contains(&channel) {
                self.channels.push(channel);
            }
            if let Some(user) = user.map(|user| bigint(user.0))
                && !self.users.contains(&user)
            {
                self.users.push(user);
            }
        };
        match key {
            LoadKey::ReadState(key) => add(Some(key.user), key.channel),
            LoadKey::Head(channel) => add(None, channel),
            LoadKey::Node(..) => {}
        }
    }
}

impl CassandraStore {
    /// Reads until nothing waits any more.
    pub(super) async fn read_groups(self, mut reader: Reader<Wanted, Result<LoadedRow, StoreError>>) {
        loop {
            let mut group = Group::default();
            let Some(waiting) = reader.next(LOOKED_AT_MAX, |wanted| group.takes(wanted)) else {
                return;
            };
            self.read_group(&group, waiting).await;
        }
    }

    async fn read_group(&self, group: &Group, waiting: Vec<RowWaiting>) {
        let one_by_one = match waiting.len() {
            1 => waiting,
            _ => self.read_at_once(group, waiting).await,
        };
        join_all(one_by_one.into_iter().map(async |Waiting { key, done }| {
            let row = self.load_one(key.key).await;
            if key.is_suspect && matches!(row, Err(StoreError::Unavailable(_))) {
                self.shared.suspects.add([key.key].into_iter());
            }
            // Nobody may be waiting any more.
            let _ = done.send(row);
        }))
        .await;
    }

    /// Gives those back that are to be read by themselves, since it failed for a reason that may be that of one row, or
    /// of the replica.
    async fn read_at_once(&self, group: &Group, waiting: Vec<RowWaiting>) -> Vec<RowWaiting> {
        let started = Instant::now();
        let selected = self.select(group).await;
        let took = started.elapsed();
        let answer = |waiting: RowWaiting, row: Result<LoadedRow, StoreError>| {
            self.shared.metrics.reads.ended(row.is_ok(), took);
            // Nobody may be waiting any more.
            let _ = waiting.done.send(row);
        };
        let result = match selected {
            Ok(result) => result,
            Err(error) if is_of_all(&error) => {
                self.shared
                    .suspects
                    .add(waiting.iter().map(|waiting| waiting.key.key));
                let what = group.name();
                for waiting in waiting {
                    answer(waiting, Err(unanswered(&what, &error)));
                }
                return Vec::new();
            }
            Err(_) => return waiting,
        };
        let result = rows_of("rows", result);
        let found = result
            .as_ref()
            .map_err(|_| ())
            .and_then(|rows| found_in(group, rows).map_err(drop));
        let Ok(found) = found else {
            return waiting;
        };
        for waiting in waiting {
            let key = waiting.key.key;
            // Without a state or a timestamp it decodes to an error.
            answer(waiting, rows::decode(key, found.get(&key).copied()));
        }
        Vec::new()
    }

    async fn select(
        &self,
        group: &Group,
    ) -> Result<scylla::response::query_result::QueryResult, ExecutionError> {
        let statements = &self.shared.statements;
        let session = &self.shared.session;
        let statement = match group.users.is_empty() {
            true => &statements.select_heads,
            false => &statements.select_read_states,
        };
        let replica = group.first.as_ref().and_then(|first| first.replica.as_ref());
        let targeted = replica.map(|node| {
            let mut targeted = statement.clone();
            let node = NodeIdentifier::Node(Arc::clone(node));
            targeted.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(node, None)));
            targeted
        });
        let statement = targeted.as_ref().unwrap_or(statement);
        match group.users.is_empty() {
            true => session.execute_unpaged(statement, (&group.channels,)).await,
            false => {
                session
                    .execute_unpaged(statement, (&group.users, &group.channels))
                    .await
            }
        }
    }

    /// Who is asked for a row where it is asked for together with others.
    pub(super) fn replica_of(&self, key: LoadKey) -> Option<Arc<Node>> {
        let cluster = self.shared.session.get_cluster_state();
        if cluster.get_nodes_info().len() < 2 {
            return None;
        }
        let statements = &self.shared.statements;
        let (statement, token) = match key {
            LoadKey::ReadState(key) => {
                let statement = &statements.select_read_state;
                let columns = (bigint(key.user.0), bigint(key.channel.0));
                (statement, statement.calculate_token(&columns))
            }
            LoadKey::Head(channel) => {
                let statement = &statements.select_head;
                (statement, statement.calculate_token(&(bigint(channel.0),)))
            }
            LoadKey::Node(..) => return None,
        };
        let table = statement.get_table_spec()?;
        let replicas = cluster.get_token_endpoints(table.ks_name(), table.table_name(), token.ok()??);
        let is_near = |node: &Node| {
            let wanted = self.shared.datacenter.as_ref();
            wanted.is_none_or(|wanted| node.datacenter.as_ref() == Some(wanted))
        };
        replicas
            .into_iter()
            .map(|(node, _)| node)
            .find(|node| node.is_connected() && is_near(node))
    }
}

/// The rows by their keys, more than were asked for perhaps.
fn found_in<'a>(group: &Group, rows: &'a QueryRowsResult) -> Result<Found<'a>, StoreError> {
    let mut found = Found::with_capacity(group.rows);
    let wrong = |error: String| unexpected("rows", error);
    if group.users.is_empty() {
        let rows = rows.rows::<(i64, Option<&[u8]>, Option<i64>)>();
        for row in rows.map_err(|error| wrong(error.to_string()))? {
            let (channel, state, at) = row.map_err(|error| wrong(error.to_string()))?;
            let key = LoadKey::Head(ChannelId(channel.cast_unsigned()));
            found.insert(key, (at.unwrap_or_default(), state.unwrap_or_default()));
        }
    } else {
        let rows = rows.rows::<(i64, i64, Option<&[u8]>, Option<i64>)>();
        for row in rows.map_err(|error| wrong(error.to_string()))? {
            let (user, channel, state, at) = row.map_err(|error| wrong(error.to_string()))?;
            let key = LoadKey::ReadState(ReadStateKey {
                user: UserId(user.cast_unsigned()),
                channel: ChannelId(channel.cast_unsigned()),
            });
            found.insert(key, (at.unwrap_or_default(), state.unwrap_or_default()));
        }
    }
    Ok(found)
}

/// Whether reading them one by one would only be more of what is too much.
fn is_of_all(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::RequestTimeout(_)
            | ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                DbError::ReadTimeout { .. } | DbError::Overloaded | DbError::RateLimitReached { .. },
                _
            ))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_state(user: u64, channel: u64) -> LoadKey {
        LoadKey::ReadState(ReadStateKey {
            user: UserId(user),
            channel: ChannelId(channel),
        })
    }

    /// How many of these one statement asks for.
    fn taken(keys: impl IntoIterator<Item = LoadKey>) -> usize {
        taken_but(&Suspects::default(), keys)
    }

    fn taken_but(suspects: &Suspects, keys: impl IntoIterator<Item = LoadKey>) -> usize {
        let mut group = Group::default();
        let taken = keys.into_iter().filter(|key| {
            let wanted = Wanted {
                key: *key,
                is_suspect: suspects.take(key),
                replica: None,
            };
            group.takes(&wanted)
        });
        let taken = taken.count();
        assert!(group.users.len() * group.channels.len() <= GROUP_PAIRS_MAX);
        taken
    }

    #[test]
    fn a_statement_asks_for_one_kind_of_row_and_not_for_many_more_than_wanted() {
        assert_eq!(taken((1..100).map(|id| read_state(7, id))), GROUP_ROWS_MAX);
        assert_eq!(taken((1..100).map(|id| read_state(id, 7))), GROUP_ROWS_MAX);
        assert_eq!(
            taken((1..100).map(|id| LoadKey::Head(ChannelId(id)))),
            GROUP_ROWS_MAX
        );
        assert_eq!(taken((1..100).map(|id| read_state(id, id))), 8);
        assert_eq!(
            taken([read_state(1, 1), LoadKey::Head(ChannelId(1)), read_state(2, 1)]),
            2
        );
        assert_eq!(taken([LoadKey::Head(ChannelId(1)), read_state(1, 1)]), 1);
    }

    #[test]
    fn rows_of_a_statement_that_took_too_long_are_read_by_themselves_the_next_time() {
        let suspects = Suspects::default();
        let heads = |ids: std::ops::Range<u64>| ids.map(|id| LoadKey::Head(ChannelId(id)));
        suspects.add(heads(1..4));
        assert_eq!(taken_but(&suspects, heads(1..9)), 1, "the first is one");
        assert_eq!(taken_but(&suspects, heads(1..9)), 8, "once");
        suspects.add(heads(3..5));
        assert_eq!(taken_but(&suspects, heads(1..9)), 6);
        suspects.add(heads(0..2 * SUSPECTS_MAX as u64));
        assert_eq!(suspects.keys().len(), SUSPECTS_MAX);
    }
}
