//! Proves of the embedded store, in folders on the disk: that rows come back as they were written and an older one never
//! replaces a newer one; that what was acknowledged was synced before, and is there after `kill -9` at any moment; and
//! that a folder which is in use, newer, damaged or full is told in one line, with nothing lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "embedded_store/child.rs"]
mod child;
#[path = "embedded_store/damage.rs"]
mod damage;
#[path = "embedded_store/order.rs"]
mod order;
#[allow(dead_code)]
#[path = "../benches/support/random.rs"]
mod random;
mod support;
#[path = "embedded_store/syncs.rs"]
mod syncs;
#[path = "embedded_store/versions.rs"]
mod versions;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use readstates::model::channel::Level;
use readstates::model::ids::{ChannelId, PartitionId, UserId};
use readstates::partition::io::Write;
use readstates::store::Store;
use readstates::store::embedded::{COMMIT_CHANGES_MAX, EmbeddedStore};
use support::servers::{free_ports, fresh_dir};
use support::service::Deployment;
use support::stores::{self, at, key, load_node, load_read_state, node_key, position, read_state};

/// How long a child may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

async fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path).await.unwrap()
}

/// The line with which a folder is refused.
async fn refusal(path: &Path) -> String {
    let line = match EmbeddedStore::open(path).await {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{} was opened", path.display()),
    };
    let begin = format!("store.embedded.path {}", path.display());
    assert!(line.starts_with(&begin) && !line.contains('\n'), "{line}");
    line
}

/// An empty store, in a folder below ones that are not there yet.
async fn store(name: &str) -> (EmbeddedStore, PathBuf) {
    let path = fresh_dir(name).join("made/on the way");
    (open(&path).await, path)
}

#[tokio::test]
async fn every_kind_of_row_comes_back() {
    stores::every_kind_of_row_comes_back(&store("rows").await.0).await;
}

#[tokio::test]
async fn an_older_row_never_replaces_a_newer_one() {
    stores::an_older_row_never_replaces_a_newer_one(&store("fence").await.0).await;
}

#[tokio::test]
async fn a_deleted_node_stays_deleted() {
    stores::a_deleted_node_stays_deleted(&store("nodes").await.0).await;
}

#[tokio::test]
async fn the_rows_of_a_user_come_in_pages() {
    stores::the_rows_of_a_user_come_in_pages(&store("users").await.0).await;
}

/// The same where old and new come in one commit: what waits while one is synced is the next one.
#[tokio::test]
async fn an_older_row_never_replaces_a_newer_one_of_the_same_commit() {
    let (store, path) = store("one-commit").await;
    let mut places: Vec<u64> = (1..=99).collect();
    // Up and down again, so that the newest is neither the first nor the last.
    places.extend((1..=98).rev());
    let block = || readstates::model::channel::Node::Block(stores::block(9).into());
    let deleted = node_key(Level::Block, 9);
    let (states, nodes) = (
        places
            .iter()
            .map(|place| Write::ReadState(key(1, 2), read_state(at(*place), *place))),
        places.iter().flat_map(|place| {
            let delete = Write::DeleteNodesBelow(deleted, at(*place));
            [Write::Node(deleted, at(*place), block()), delete]
        }),
    );
    let writes: Vec<Write> = states.chain(nodes).collect();
    let written = futures::future::join_all(writes.iter().map(|write| store.write(write))).await;
    written.into_iter().for_each(|written| written.unwrap());
    let check = async |store: &EmbeddedStore| {
        assert_eq!(
            load_read_state(store, key(1, 2)).await,
            Some(read_state(at(99), 99))
        );
        for place in 1..=98 {
            assert_eq!(load_node(store, deleted, at(place)).await, None, "{place}");
        }
        assert_eq!(load_node(store, deleted, at(99)).await, Some(block()));
    };
    check(&store).await;
    drop(store);
    check(&open(&path).await).await;
}

#[tokio::test]
async fn rows_outlive_the_process_that_closed_the_folder() {
    let (store, path) = store("again").await;
    for round in 1..4 {
        let written = Write::ReadState(key(1, round), read_state(at(round), round));
        store.write(&written).await.unwrap();
    }
    store
        .store_position(PartitionId(3), &position(at(3)))
        .await
        .unwrap();
    drop(store);
    let store = open(&path).await;
    for round in 1..4 {
        let found = load_read_state(&store, key(1, round)).await;
        assert_eq!(found, Some(read_state(at(round), round)));
    }
    let found = store.load_position(PartitionId(3)).await.unwrap();
    assert_eq!(found, Some(position(at(3))));
}

/// Many more rows than fit into a commit or into memory: all arrive. Prints the rates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writes_at_once() {
    const ROWS: u64 = 200_000;
    const BATCH: u64 = 2_000;
    let (store, path) = store("many").await;
    let write = |i: u64| {
        let store = store.clone();
        async move {
            let row = Write::ReadState(key(1 + i / 100, 1 + i % 100), read_state(at(i), i));
            store.write(&row).await.unwrap();
        }
    };
    let started = Instant::now();
    for batch in 0..ROWS / BATCH {
        let rows = (batch * BATCH..(batch + 1) * BATCH).map(write);
        futures::future::join_all(rows).await;
    }
    let rate = ROWS as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} rows/s written, {BATCH} at once and waited for");
    let started = Instant::now();
    stream::iter(0..ROWS)
        .for_each_concurrent(4 * COMMIT_CHANGES_MAX, write)
        .await;
    let rate = ROWS as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} rows/s written, {} at once", 4 * COMMIT_CHANGES_MAX);
    drop(store);

    let store = open(&path).await;
    let started = Instant::now();
    let counts: Vec<usize> = stream::iter(1..=ROWS / 100)
        .map(async |user| {
            let rows = store.load_user(UserId(user), ChannelId(0), 1000).await.unwrap();
            rows.len()
        })
        .buffer_unordered(100)
        .collect()
        .await;
    assert_eq!(counts, [100; (ROWS / 100) as usize]);
    let rate = counts.len() as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} overviews of 100 rows/s read");
}

/// While a process has the folder, nobody else gets it, and the program ends with status 2 and that line.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_for_one_process() {
    let (store, path) = store("shared").await;
    assert!(refusal(&path).await.contains("in use by another process"));

    let away = format!("127.0.0.1:{}", free_ports(1)[0]);
    let deployment = Deployment {
        name: "second".to_owned(),
        brokers: away.clone(),
        nats: format!("nats://{away}"),
        cassandra: away,
        partitions: 1,
        settings: vec![
            ("store.kind", "embedded".to_owned()),
            ("store.embedded.path", path.to_str().unwrap().to_owned()),
        ],
    };
    let status = tokio::task::block_in_place(|| {
        let mut service = deployment.serve("it", &[]);
        let status = service.wait_until_ended(DEADLINE);
        let told = service.complaints();
        assert!(
            told.iter()
                .any(|line| line.contains("ERROR") && line.contains("in use by another process")),
            "{told:#?}"
        );
        status
    });
    assert_eq!(status.code(), Some(2));
    drop(store);
    open(&path).await;
}

/// A folder that can't be made or is somebody else's is left as it is.
#[tokio::test]
async fn a_folder_that_can_not_be_used_is_told() {
    let dir = fresh_dir("foreign");
    let (file, foreign) = (dir.join("file"), dir.join("foreign"));
    fs::write(&file, "text").unwrap();
    let line = refusal(&file.join("below")).await;
    assert!(line.contains("name a folder"), "{line}");
    assert!(refusal(&file).await.contains("name a folder"));
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "text").unwrap();
    let line = refusal(&foreign).await;
    assert!(
        line.contains("thesis.tex") && line.contains("name a new folder"),
        "{line}"
    );
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
    // Not even root can write there.
    let line = refusal(Path::new("/proc/readstates")).await;
    assert!(line.contains("can't be used"), "{line}");
}
