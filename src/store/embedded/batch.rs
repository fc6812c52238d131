//! What a commit changes: changes in the order in which they came, each only where it is not older than what is there.

use std::collections::BTreeMap;

use fjall::{Database, Keyspace, PersistMode};

use super::keys;
use super::order::Order;
use crate::model::ids::LogPosition;
use crate::partition::io::NodeKey;
use crate::store::Session;

/// A change, encoded.
pub(super) enum Change {
    /// A row of a partition. Replaces what is there, unless that is of a later place in the log.
    Newest(Row, Option<Session>),
    /// The same of a position.
    Position(Row),
    /// A version of a node, unless it was deleted.
    Node(NodeKey, LogPosition, Vec<u8>),
    /// Deletes the versions of a node below this one, and those that come later.
    DeleteNodesBelow(NodeKey, LogPosition),
}

/// What is there of a key.
pub(super) struct Row {
    pub key: Vec<u8>,
    /// Its place in the log.
    pub at: LogPosition,
    /// See [`keys::row`].
    pub row: Vec<u8>,
}

impl Change {
    /// About how much room it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Change::Newest(Row { row, .. }, _)
            | Change::Position(Row { row, .. })
            | Change::Node(_, _, row) => row.len(),
            Change::DeleteNodesBelow(..) => 0,
        }
    }
}

/// Changes that are committed together, on top of what the database has.
pub(super) struct Batch<'a> {
    rows: &'a Keyspace,
    /// New rows by key; nothing where one is deleted. A key comes once in a commit: of two, either could win.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Batch<'a> {
    pub fn new(rows: &'a Keyspace) -> Self {
        Batch {
            rows,
            changes: BTreeMap::new(),
        }
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Takes a change, unless what is there is newer. It is looked at only where `order` does not know.
    ///
    /// # Errors
    /// What is there can't be read. Then nothing is changed.
    pub fn take(&mut self, change: Change, order: &mut Order) -> fjall::Result<()> {
        match change {
            Change::Newest(row, session) => {
                let is_newest = order.take(session.as_ref(), row.at);
                self.replace(row, is_newest)?;
            }
            Change::Position(row) => self.replace(row, false)?,
            Change::Node(key, version, row) => {
                if self.place_of(&keys::deleted_below(key))? <= version.to_bits() {
                    self.changes.insert(keys::node(key, version), Some(row));
                }
            }
            Change::DeleteNodesBelow(key, version) => self.delete_nodes_below(key, version)?,
        }
        Ok(())
    }

    fn replace(&mut self, Row { key, at, row }: Row, is_newest: bool) -> fjall::Result<()> {
        if is_newest || self.place_of(&key)? <= at.to_bits() {
            self.changes.insert(key, Some(row));
        }
        Ok(())
    }

    /// The number that a row begins with; 0 where there is no row. One that is too short can only be replaced.
    fn place_of(&self, key: &[u8]) -> fjall::Result<u64> {
        let place = |row: &[u8]| keys::parts(row).map_or(0, |(at, _)| at);
        match self.changes.get(key) {
            Some(row) => Ok(row.as_deref().map_or(0, place)),
            None => Ok(self.rows.get(key)?.map_or(0, |row| place(&row))),
        }
    }

    fn delete_nodes_below(&mut self, key: NodeKey, version: LogPosition) -> fjall::Result<()> {
        let mark = keys::deleted_below(key);
        let deleted = self.place_of(&mark)?;
        if deleted >= version.to_bits() {
            return Ok(());
        }
        // Below the mark there are none any more.
        let begin = keys::node(key, LogPosition::from_bits(deleted.max(1)));
        let end = keys::node(key, version);
        let mut gone = Vec::new();
        for row in self.rows.range(begin.clone()..end.clone()) {
            gone.push(row.key()?.to_vec());
        }
        gone.extend(self.changes.range(begin..end).map(|(key, _)| key.clone()));
        self.changes.extend(gone.into_iter().map(|key| (key, None)));
        self.changes.insert(mark, Some(keys::row(version, &[])));
        Ok(())
    }

    /// Writes and syncs all of it, or nothing.
    ///
    /// # Errors
    /// It is not known how much of it is on the disk, and nothing can be written any more.
    pub fn commit(self, database: &Database, order: &mut Order, commit: u64) -> fjall::Result<()> {
        let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
        for (key, row) in self.changes {
            match row {
                Some(row) => batch.insert(self.rows, key, row),
                None => batch.remove(self.rows, key),
            }
        }
        for (partition, newest) in order.take_uncommitted() {
            batch.insert(self.rows, keys::newest(partition), newest.to_bits().to_be_bytes());
        }
        batch.insert(self.rows, keys::COMMITS, commit.to_be_bytes());
        batch.commit()
    }
}
