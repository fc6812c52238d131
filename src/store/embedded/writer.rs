//! The thread that writes: it takes what has come, commits it as one, syncs once, and then acknowledges each.
//!
//! While one commit is being synced the next ones gather, so the number of commits adapts to the disk. What came earlier is
//! in the same commit or in an earlier one: a durable position is never there without the rows that it stands for.

use std::sync::{Arc, OnceLock};

use fjall::{Database, Keyspace};
use tokio::sync::{mpsc, oneshot};

use super::batch::{Batch, Change};
use super::fault;
use super::folder::Folder;
use super::memtable;
use super::order::Order;
use crate::store::StoreError;

/// Changes that are committed together.
pub const COMMIT_CHANGES_MAX: usize = 4096;
/// Bytes of changes that are committed together, and one change more.
pub const COMMIT_BYTES_MAX: usize = 8 << 20;

/// A change, and who waits until it is durable.
pub(super) struct Waiting {
    pub change: Change,
    pub done: oneshot::Sender<Result<(), StoreError>>,
}

/// Why nothing can be written or read any more, once that is so.
pub(super) type Broken = Arc<OnceLock<String>>;

/// What the thread owns.
pub(super) struct Writer {
    pub inbox: mpsc::Receiver<Waiting>,
    pub database: Database,
    pub rows: Keyspace,
    pub folder: Folder,
    pub commits: u64,
    pub order: Order,
    pub memtable_bytes_max: u64,
    pub broken: Broken,
}

impl Writer {
    /// Runs until nobody can send any more.
    pub fn run(mut self) {
        while let Some(first) = self.inbox.blocking_recv() {
            let gathered = self.gather(first);
            self.write(gathered);
        }
    }

    /// What has come already, as far as it fits into a commit.
    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut bytes = first.change.bytes();
        let mut gathered = vec![first];
        while gathered.len() < COMMIT_CHANGES_MAX && bytes < COMMIT_BYTES_MAX {
            let Ok(next) = self.inbox.try_recv() else { break };
            bytes += next.change.bytes();
            gathered.push(next);
        }
        gathered
    }

    fn write(&mut self, gathered: Vec<Waiting>) {
        let rows = self.rows.clone();
        let mut batch = Batch::new(&rows);
        let mut taken = Vec::with_capacity(gathered.len());
        for Waiting { change, done } in gathered {
            if self.broken.get().is_some() {
                break;
            }
            match batch.take(change, &mut self.order) {
                Ok(()) => taken.push(done),
                Err(error) if fault::is_damage(&error) => {
                    let line = fault::damaged(self.folder.path(), format_args!("{error:?}"));
                    // Nobody waits for it where its partition was given up; so for all of these.
                    let _ = done.send(Err(StoreError::Unusable(line)));
                }
                Err(error) => {
                    self.broken
                        .get_or_init(|| fault::on_reading(self.folder.path(), &error));
                }
            }
        }
        let outcome = self.commit(batch);
        for done in taken {
            let _ = done.send(outcome.clone().map_err(StoreError::Broken));
        }
        if outcome.is_ok()
            && let Err(error) = memtable::rotate_if_full(&self.rows, self.memtable_bytes_max)
        {
            self.broken
                .get_or_init(|| fault::on_writing(self.folder.path(), &error));
        }
    }

    /// # Errors
    /// Why nothing can be written any more.
    fn commit(&mut self, batch: Batch<'_>) -> Result<(), String> {
        if let Some(why) = self.broken.get() {
            return Err(why.clone());
        }
        // What is there instead is durable: it was committed before.
        if batch.is_empty() {
            return Ok(());
        }
        let commit = self.commits + 1;
        let path = self.folder.path();
        batch
            .commit(&self.database, &mut self.order, commit)
            .map_err(|error| fault::on_writing(path, &error))
            .and_then(|()| {
                let noted = self.folder.note(commit);
                noted.map_err(|error| fault::on_writing(path, &error.into()))
            })
            .inspect_err(|why| {
                self.broken.get_or_init(|| why.clone());
            })?;
        self.commits = commit;
        Ok(())
    }
}
