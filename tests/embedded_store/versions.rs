//! Folders of earlier versions of this program.

use std::fs;
use std::path::Path;

use fjall::config::PartitioningPolicy;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};

use super::child::{Writing, check};
use super::damage::{files, written};
use super::open;
use super::support::servers::{fresh_dir, wait_for};

/// What the keys begin with that say how far partitions were written. Earlier versions have none.
const NEWEST: &[u8] = &[0, b'n'];

/// The rows of a folder in one as version 1 or 2 made it: keys and rows are the same, but for what those don't have. The
/// database is set up as in version 1.
pub fn as_it_was_made(version: u32, from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let now = Database::builder(from.join("rows")).open().unwrap();
    let now = now.keyspace("rows", || panic!("it is there")).unwrap();
    let database = Database::builder(to.join("rows"))
        .worker_threads(2)
        .open()
        .unwrap();
    let options = || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(8 << 20)
            .filter_block_partitioning_policy(PartitioningPolicy::all(true))
            .index_block_partitioning_policy(PartitioningPolicy::all(true))
    };
    let rows = database.keyspace("rows", options).unwrap();
    let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
    for row in now.iter() {
        let (key, value) = row.into_inner().unwrap();
        if !key.starts_with(NEWEST) {
            batch.insert(&rows, key, value);
        }
    }
    batch.commit().unwrap();
    fs::copy(from.join("acknowledged"), to.join("acknowledged")).unwrap();
    let format = format!("readstates embedded store, version {version}\n");
    fs::write(to.join("format"), format).unwrap();
}

/// It is read and written as it is, many files long, and stays of version 1.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_version_1_goes_on() {
    const ROUNDS: u64 = 3;
    let path = fresh_dir("version-1").join("store");
    tokio::task::block_in_place(|| as_it_was_made(1, &written("of-now", ROUNDS), &path));
    check(&open(&path).await, ROUNDS).await;

    let mut writing = Writing::start(&path, ROUNDS + 1, u64::MAX / 2, &[]);
    let last = tokio::task::block_in_place(|| {
        let journals = || files(&path.join("rows"), ".jnl");
        wait_for("a journal is rotated", super::DEADLINE, || journals().len() >= 2);
        writing.process.kill().unwrap();
        writing.end().0
    });
    check(&open(&path).await, last.unwrap()).await;
    let format = fs::read_to_string(path.join("format")).unwrap();
    assert_eq!(format, "readstates embedded store, version 1\n");
}
