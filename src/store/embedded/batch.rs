//! What a commit changes: changes in the order in which they came, each only where it is not older than what is there.

use std::collections::BTreeMap;

use fjall::{Database, Keyspace, PersistMode};

use super::keys;
use crate::model::ids::LogPosition;
use crate::partition::io::NodeKey;

/// A change, encoded.
pub(super) enum Change {
    /// Replaces the row, unless that is of a later place in the log.
    Newest {
        /// Of the row.
        key: Vec<u8>,
        /// Its place in the log.
        at: LogPosition,
        /// See [`keys::row`].
        row: Vec<u8>,
    },
    /// A version of a node, unless it was deleted.
    Node(NodeKey, LogPosition, Vec<u8>),
    /// Deletes the versions of a node below this one, and those that come later.
    DeleteNodesBelow(NodeKey, LogPosition),
}

impl Change {
    /// About how much room it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Change::Newest { row, .. } | Change::Node(_, _, row) => row.len(),
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

    /// Takes a change, unless what is there is newer.
    ///
    /// # Errors
    /// What is there can't be read. Then nothing is changed.
    pub fn take(&mut self, change: Change) -> fjall::Result<()> {
        match change {
            Change::Newest { key, at, row } => {
                if self.place_of(&key)? <= at.to_bits() {
                    self.changes.insert(key, Some(row));
                }
            }
            Change::Node(key, version, row) => {
                if self.place_of(&keys::deleted_below(key))? <= version.to_bits() {
                    self.changes.insert(keys::node(key, version), Some(row));
                }
            }
            Change::DeleteNodesBelow(key, version) => self.delete_nodes_below(key, version)?,
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
    pub fn commit(self, database: &Database, commit: u64) -> fjall::Result<()> {
        let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
        for (key, row) in self.changes {
            match row {
                Some(row) => batch.insert(self.rows, key, row),
                None => batch.remove(self.rows, key),
            }
        }
        batch.insert(self.rows, keys::COMMITS, commit.to_be_bytes());
        batch.commit()
    }
}
