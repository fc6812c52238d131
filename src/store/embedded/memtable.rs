//! When what was written leaves memory for a file.
//!
//! The database can be told one size, for good. It asks its own thread for a file then, anew with each commit, and that
//! waits behind the merging of files. So who writes does it, by a size that follows what is there.

use fjall::{AbstractTree, Keyspace};

use super::folder::Folder;

/// What is in memory becomes a file when it is this part of what is in files: a merge writes much of these anew, and the
/// more there is of them, the less often that may happen.
pub const MEMTABLE_PART: u64 = 8;
/// What is in memory stays there up to this at least.
pub const MEMTABLE_BYTES_MIN: u64 = 8 << 20;
/// And up to this at most, and a commit more. While files are merged there may be four of them in addition; then
/// commits wait.
pub const MEMTABLE_BYTES_MAX: u64 = 64 << 20;
/// Threads that make files of what is in memory, and merge files. The first of several never merges: while another one does,
/// it takes that task out of their queue and puts it back again, over and over, which takes a core.
pub const BACKGROUND_THREADS: usize = 1;

/// Where the database asks for a file by itself: never, since a commit is smaller than what is left until there.
pub(super) const ASKED_FOR_BYTES: u64 = 2 * MEMTABLE_BYTES_MAX;

/// What depends on how the folder was made.
pub(super) struct Sizes {
    pub background_threads: usize,
    pub memtable_bytes_max: u64,
}

impl Sizes {
    pub fn of(folder: &Folder) -> Self {
        match folder.version {
            // The database asks by itself. One thread more, since one would not come to it while it merges.
            1 => Sizes {
                background_threads: 2,
                memtable_bytes_max: MEMTABLE_BYTES_MIN,
            },
            _ => Sizes {
                background_threads: BACKGROUND_THREADS,
                memtable_bytes_max: MEMTABLE_BYTES_MAX,
            },
        }
    }
}

/// Has a file made of what is in memory if that is enough for one.
///
/// # Errors
/// Nothing can be written any more.
pub(super) fn rotate_if_full(rows: &Keyspace, bytes_max: u64) -> fjall::Result<()> {
    if rows.tree.active_memtable().size() > bytes(rows.disk_space(), bytes_max) {
        rows.rotate_memtable()?;
    }
    Ok(())
}

/// How much may be in memory while there is so much in files.
fn bytes(in_files: u64, bytes_max: u64) -> u64 {
    (in_files / MEMTABLE_PART).clamp(MEMTABLE_BYTES_MIN, bytes_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::writer::COMMIT_BYTES_MAX;
    use crate::store::rows::ROW_BYTES_MAX;

    #[test]
    fn what_is_in_memory_follows_what_is_in_files() {
        const MIB: u64 = 1 << 20;
        for (in_files, in_memory) in [(0, 8), (64, 8), (160, 20), (512, 64), (1 << 20, 64)] {
            let bytes = bytes(in_files * MIB, MEMTABLE_BYTES_MAX);
            assert_eq!(bytes, in_memory * MIB, "{in_files} MiB");
        }
        assert_eq!(bytes(512 * MIB, MEMTABLE_BYTES_MIN), MEMTABLE_BYTES_MIN);
    }

    #[test]
    fn the_database_never_asks_by_itself() {
        let commit = (COMMIT_BYTES_MAX + ROW_BYTES_MAX) as u64;
        assert!(MEMTABLE_BYTES_MAX + 2 * commit < ASKED_FOR_BYTES);
    }
}
