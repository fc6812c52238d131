//! Folders that are newer, damaged, or on a full disk.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use readstates::store::embedded::FOLDER_VERSION;
use readstates::store::{Store, StoreError};

use super::child::{Writing, check};
use super::support::servers::{fresh_dir, wait_for};
use super::support::stores::{at, key, read_state};
use super::{DEADLINE, open, refusal};
use readstates::partition::io::{LoadKey, Write};

const ROUNDS: u64 = 5;

/// A folder with some rounds in it, which are all in the journal.
pub fn written(name: &str, rounds: u64) -> PathBuf {
    let path = fresh_dir(name).join("store");
    let ended = Writing::start(&path, 1, rounds, &[]).end();
    assert_eq!(ended, (Some(rounds), None));
    path
}

fn copy(from: &Path, name: &str) -> PathBuf {
    let to = fresh_dir(name).join("copy");
    let copied = Command::new("cp").arg("-r").args([from, &to]).status();
    assert!(copied.unwrap().success());
    to
}

/// All files below a folder whose paths contain this.
pub fn files(folder: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, part));
        } else if path.to_str().unwrap().contains(part) {
            found.push(path);
        }
    }
    found
}

/// The same bytes in every file.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = files(folder, "");
    all.sort();
    all.into_iter()
        .map(|file| (file.clone(), fs::read(file).unwrap()))
        .collect()
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_newer_version_is_left_alone() {
    assert_eq!(FOLDER_VERSION, 3);
    let path = written("newer", 1);
    for (file, text, version) in [
        (
            "format",
            &b"readstates embedded store, version 4\n"[..],
            "version 4",
        ),
        ("rows/version", b"FJL\x04", "version 4"),
    ] {
        let path = copy(&path, "of-newer");
        fs::write(path.join(file), text).unwrap();
        let before = contents(&path);
        let line = refusal(&path).await;
        assert!(line.contains("newer version") && line.contains(version), "{line}");
        assert!(contents(&path) == before, "{file}");
    }
    check(&open(&path).await, 1).await;
}

/// Whatever is damaged, it is not opened as if nothing had happened, and a good copy has everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_folder_is_refused() {
    let good = written("good", ROUNDS);
    let journal = "rows/0.jnl";
    let journal_end = {
        let bytes = fs::read(good.join(journal)).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64
    };
    type Damage<'a> = (&'a str, Box<dyn Fn(&Path)>);
    let flip = |place: u64| -> Box<dyn Fn(&Path)> {
        Box::new(move |path| overwrite(&path.join(journal), place, &[0xff; 4]))
    };
    let damages: Vec<Damage> = vec![
        ("the first batch", flip(0)),
        ("a batch in the middle", flip(journal_end / 2)),
        ("the last batch", flip(journal_end - 5)),
        (
            "the journal is cut",
            Box::new(move |path| {
                let file = OpenOptions::new().write(true).open(path.join(journal)).unwrap();
                file.set_len(journal_end / 2).unwrap();
            }),
        ),
        (
            "no journal",
            Box::new(move |path| fs::remove_file(path.join(journal)).unwrap()),
        ),
        (
            "no database",
            Box::new(|path| fs::remove_dir_all(path.join("rows")).unwrap()),
        ),
        (
            "no version",
            Box::new(|path| fs::remove_file(path.join("rows/version")).unwrap()),
        ),
        (
            "no file of a keyspace",
            Box::new(|path| {
                for file in files(&path.join("rows/keyspaces"), "/v") {
                    fs::remove_file(file).unwrap();
                }
            }),
        ),
        (
            "a bad format",
            Box::new(|path| fs::write(path.join("format"), "?").unwrap()),
        ),
        (
            "a bad number",
            Box::new(|path| fs::write(path.join("acknowledged"), "?").unwrap()),
        ),
    ];
    for (what, damage) in damages {
        let path = copy(&good, "bad");
        damage(&path);
        for attempt in 1..=2 {
            let line = refusal(&path).await;
            assert!(
                line.contains("is damaged") && line.contains("restore the whole folder from a backup"),
                "{what}, attempt {attempt}: {line}"
            );
        }
    }
    check(&open(&good).await, ROUNDS).await;
}

/// A folder of a process that was killed while its first journals were rotated and not in files of rows yet, and the last
/// round that it had acknowledged.
fn with_a_rotated_journal() -> (PathBuf, u64) {
    for _ in 0..20 {
        let path = fresh_dir("rotated").join("store");
        let mut writing = Writing::start(&path, 1, u64::MAX / 2, &[]);
        let journals = || match path.join("rows").exists() {
            true => files(&path.join("rows"), ".jnl"),
            false => Vec::new(),
        };
        wait_for("a journal is rotated", DEADLINE, || journals().len() >= 2);
        writing.process.kill().unwrap();
        let (last, failure) = writing.end();
        assert_eq!(failure, None);
        if journals().len() >= 2 {
            return (path, last.unwrap());
        }
    }
    panic!("each time the journal was in files already");
}

/// A place in a node of `writes`, whose mentions are all as far apart: each takes the same few bytes. A length that differs
/// in front of a value would be another damage, which can't be told from an early end.
fn within_a_value(journal: &[u8], from: usize) -> u64 {
    const ALIKE_BYTES: usize = 300;
    const MENTION_BYTES: usize = 3;
    let is_within = |place: &usize| {
        let alike = &journal[*place..place + ALIKE_BYTES];
        alike[MENTION_BYTES..] == alike[..ALIKE_BYTES - MENTION_BYTES] && alike[0] != alike[1]
    };
    let place = (from..journal.len() - ALIKE_BYTES).find(is_within);
    (place.expect("a node behind it") + ALIKE_BYTES / 2) as u64
}

/// The number of the last commit is in the newest journal, so it does not tell of an older one: there only the database's
/// own checksums do. (They don't tell that it ends early, as docs/operations.md says.)
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_differ_in_a_rotated_journal_are_found() {
    let (good, last) = tokio::task::block_in_place(with_a_rotated_journal);
    let oldest = |path: &Path| {
        let mut journals = files(&path.join("rows"), ".jnl");
        let number = |path: &PathBuf| -> u64 { path.file_stem().unwrap().to_str().unwrap().parse().unwrap() };
        journals.sort_by_key(number);
        journals[0].clone()
    };
    let journal = fs::read(oldest(&good)).unwrap();
    let length = journal.len();
    for from in [length / 8, length / 4, length / 2] {
        let place = within_a_value(&journal, from);
        let path = copy(&good, "rotated-flipped");
        overwrite(&oldest(&path), place, &[0xff; 4]);
        let line = refusal(&path).await;
        assert!(
            line.contains("is damaged"),
            "flipped at {place} of {length}: {line}"
        );
    }
    check(&open(&good).await, last).await;
}

/// A file that the database made in the background is checked only where it is read: what is damaged is told then, and
/// nothing wrong is ever read.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_of_rows_is_told_when_it_is_read() {
    const USERS: u64 = 300;
    let good = fresh_dir("tables").join("store");
    let store = open(&good).await;
    let state = |user: u64| {
        let mut state = read_state(at(user), user);
        // 10 kB each.
        state.mentions = (1..=1000)
            .map(|n| readstates::model::read_state::Remembered {
                id: readstates::model::ids::MessageId(user + n * (1 << 50)),
                everyone: false,
            })
            .collect();
        state
    };
    let mut rounds = 0;
    let tables = || files(&good.join("rows/keyspaces"), "/tables/");
    // The keyspace that names the others has none of its own before there is much to do.
    let rows_of = |tables: Vec<PathBuf>| -> Vec<PathBuf> {
        tables
            .into_iter()
            .filter(|table| fs::metadata(table).is_ok_and(|table| table.len() > 1 << 20))
            .collect()
    };
    while rows_of(tables()).is_empty() {
        rounds += 1;
        assert!(rounds < 50, "a file is made in the background");
        // Each is written once, so that what came later hides nothing.
        let rows: Vec<Write> = ((rounds - 1) * USERS + 1..=rounds * USERS)
            .map(|user| Write::ReadState(key(user, 1), state(user)))
            .collect();
        let written = futures::future::join_all(rows.iter().map(|row| store.write(row))).await;
        written.into_iter().for_each(|written| written.unwrap());
    }
    wait_for("the files are finished", DEADLINE, || {
        let before = tables();
        std::thread::sleep(std::time::Duration::from_millis(300));
        before == tables()
    });
    drop(store);
    let path = copy(&good, "bad-tables");
    for table in rows_of(files(&path.join("rows/keyspaces"), "/tables/")) {
        let length = fs::metadata(&table).unwrap().len();
        // Data is in front; what a file begins and ends with is checked when it is opened, and so is the first block, with
        // the number of the last commit and how far rows go.
        for place in (64 << 10..length * 3 / 4).step_by(64 << 10) {
            overwrite(&table, place, &[0xff; 16]);
        }
    }
    let store = open(&path).await;
    let mut told = 0;
    for user in 1..=rounds * USERS {
        match store.load(LoadKey::ReadState(key(user, 1))).await {
            Ok(readstates::partition::io::LoadedRow::ReadState(Some(found))) => {
                assert_eq!(found, state(user));
            }
            Err(StoreError::Unusable(line)) => {
                assert!(
                    line.contains(path.to_str().unwrap()) && line.contains(&format!("user_id={user} ")),
                    "{line}"
                );
                told += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    println!("{told} of {} rows can't be read", rounds * USERS);
    assert!(told > 0);
}

/// Where files may not grow any more, as on a full disk, writing ends with one line, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_loses_nothing() {
    let path = written("full", 1);
    // Opened again, its journal has the size of what is in it.
    drop(open(&path).await);
    // Without the signal that comes with this limit, a write past it fails like one to a full disk.
    let by = ["prlimit", "--fsize=3000000", "env", "--ignore-signal=XFSZ"];
    let writing = Writing::start(&path, 2, 10_000, &by);
    let (last, failure) = tokio::task::block_in_place(|| writing.end());
    let line = failure.expect("it ends");
    for part in [
        "failed Broken",
        "can't write any more",
        path.to_str().unwrap(),
        "make room",
        "nothing that was acknowledged is lost",
    ] {
        assert!(line.contains(part), "{line}");
    }
    let last = last.expect("some rounds fit");
    let store = open(&path).await;
    check(&store, last).await;
    store
        .write(&Write::ReadState(key(1, 1), read_state(at(last + 9), 1)))
        .await
        .unwrap();
}
