//! Where the store does not look at what a change replaces, the newest row stays nevertheless.

use std::collections::BTreeMap;

use readstates::model::ids::{PartitionId, ReadStateKey};
use readstates::partition::io::Write;
use readstates::store::embedded::EmbeddedStore;
use readstates::store::{Session, Store};

use super::open;
use super::random::Random;
use super::support::servers::fresh_dir;
use super::support::stores::{at, key, load_read_state, read_state};
use super::versions::as_it_was_made;

const PARTITIONS: [PartitionId; 2] = [PartitionId(1), PartitionId(2)];
const ROWS_EACH: u64 = 5;

/// A session of a partition, and how far it has written each of its rows.
struct Owner {
    session: Session,
    reached: BTreeMap<ReadStateKey, u64>,
}

impl Owner {
    /// Reads the log from here on.
    fn from(partition: PartitionId, place: u64) -> Self {
        let keys = (1..=ROWS_EACH).map(|channel| key(u64::from(partition.0), channel));
        Owner {
            session: Session::new(partition),
            reached: keys.map(|key| (key, place)).collect(),
        }
    }

    /// A later version of one of its rows.
    fn next(&mut self, random: &mut Random) -> (ReadStateKey, u64) {
        let index = random.below(ROWS_EACH) as usize;
        let (key, reached) = self.reached.iter_mut().nth(index).unwrap();
        *reached += 1 + random.below(9);
        (*key, *reached)
    }
}

async fn write(store: &EmbeddedStore, session: &Session, key: ReadStateKey, place: u64) {
    let write = Write::ReadState(key, read_state(at(place), place));
    store.for_session(session).write(&write).await.unwrap();
}

/// Owners come, replay what others wrote, overlap with those before, and the process starts anew.
#[tokio::test]
async fn whoever_writes_the_newest_row_stays() {
    const STEPS: u64 = 600;
    let path = fresh_dir("order").join("store");
    let mut random = Random(5);
    let mut store = open(&path).await;
    let mut newest: BTreeMap<ReadStateKey, u64> = BTreeMap::new();
    let mut owners: Vec<Owner> = PARTITIONS.map(|partition| Owner::from(partition, 1)).into();
    for step in 0..STEPS {
        if random.below(20) == 0 {
            let partition = PARTITIONS[random.below(2) as usize];
            let furthest = newest.values().max().copied().unwrap_or(1);
            owners.push(Owner::from(partition, 1 + random.below(furthest)));
        }
        if random.below(10) == 0 && owners.len() > 2 {
            owners.remove(random.below(owners.len() as u64) as usize);
        }
        if random.below(40) == 0 {
            drop(store);
            store = open(&path).await;
        }
        // In one commit, as far as they come at once.
        let writes: Vec<_> = owners
            .iter_mut()
            .map(|owner| (owner.session.clone(), owner.next(&mut random)))
            .collect();
        let writing = writes
            .iter()
            .map(|(session, (key, place))| write(&store, session, *key, *place));
        futures::future::join_all(writing).await;
        for (_, (key, place)) in writes {
            let newest = newest.entry(key).or_default();
            *newest = place.max(*newest);
        }
        for (key, place) in &newest {
            let found = load_read_state(&store, *key).await;
            assert_eq!(
                found,
                Some(read_state(at(*place), *place)),
                "step {step}: {key:?}"
            );
        }
    }
}

/// Nobody knows how far its rows go.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_version_2_is_looked_at() {
    let path = fresh_dir("version-2").join("store");
    let now = fresh_dir("version-2-now").join("store");
    let store = open(&now).await;
    write(&store, &Session::new(PARTITIONS[0]), key(1, 1), 10).await;
    drop(store);
    tokio::task::block_in_place(|| as_it_was_made(2, &now, &path));

    for _ in 0..2 {
        let store = open(&path).await;
        write(&store, &Session::new(PARTITIONS[0]), key(1, 1), 5).await;
        let found = load_read_state(&store, key(1, 1)).await;
        assert_eq!(found, Some(read_state(at(10), 10)));
    }
}
