//! Proves by the system calls of a process that each round was synced before it was acknowledged.

use std::collections::BTreeMap;
use std::fs;

use super::child::{Writing, check};
use super::open;
use super::support::servers::fresh_dir;

const ROUNDS: u64 = 30;

/// What of a trace counts, in its order.
#[derive(Debug, PartialEq)]
enum Call {
    /// Into a journal.
    Written,
    /// A journal, and it succeeded.
    Synced,
    Acknowledged(u64),
}

/// Reads a trace. A call that others came between has two lines, and counts by the second one, but a write by the first:
/// each is taken as late, or as early, as it can have been.
fn calls(trace: &str) -> Vec<Call> {
    let mut unfinished = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let is_journal = call.contains(".jnl>");
        if call.starts_with("write") || call.starts_with("pwrite") {
            let told = call.split_once("\"\\nacknowledged ");
            if let Some((_, told)) = told {
                let round = told.split('\\').next().unwrap();
                calls.push(Call::Acknowledged(round.parse().unwrap()));
            } else if is_journal {
                calls.push(Call::Written);
            }
        } else if call.starts_with("fsync(") || call.starts_with("fdatasync(") {
            if call.contains("<unfinished") {
                unfinished.insert(thread, is_journal);
            } else if is_journal && call.ends_with("= 0") {
                calls.push(Call::Synced);
            }
        } else if call.contains("sync resumed>") && unfinished.remove(thread) == Some(true) {
            assert!(call.ends_with("= 0"), "{line}");
            calls.push(Call::Synced);
        }
    }
    calls
}

/// The first round that was acknowledged before everything written so far was synced, or without anything written.
fn acknowledged_too_early(calls: &[Call]) -> Option<u64> {
    let (mut is_written, mut is_synced) = (false, false);
    for call in calls {
        match call {
            Call::Written => (is_written, is_synced) = (true, false),
            Call::Synced => is_synced = true,
            Call::Acknowledged(round) => {
                if !is_written || !is_synced {
                    return Some(*round);
                }
                is_written = false;
            }
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_was_synced_before() {
    let dir = fresh_dir("traced");
    let (path, trace) = (dir.join("store"), dir.join("trace"));
    let calls_traced = "trace=fsync,fdatasync,write,writev,pwrite64,pwritev";
    let by = [
        "strace",
        "-f",
        "-y",
        "-s",
        "64",
        "-e",
        calls_traced,
        "-o",
        trace.to_str().unwrap(),
    ];
    let writing = Writing::start(&path, 1, ROUNDS, &by);
    let (last, failure) = tokio::task::block_in_place(|| writing.end());
    assert_eq!((last, failure), (Some(ROUNDS), None));
    let trace = fs::read_to_string(trace).unwrap();
    let calls = calls(&trace);
    let told = calls
        .iter()
        .filter(|call| matches!(call, Call::Acknowledged(_)))
        .count();
    assert_eq!(told as u64, ROUNDS, "all are in the trace");
    assert_eq!(acknowledged_too_early(&calls), None, "{calls:?}");
    check(&open(&path).await, ROUNDS).await;
}

#[test]
fn a_missing_sync_is_found() {
    let written = r#"7 write(5</x/0.jnl>, "a", 1) = 1"#;
    let synced = "7 fsync(5</x/0.jnl>) = 0";
    let told = r#"8 write(2</dev/pts/1>, "\nacknowledged 4\n", 16) = 16"#;
    let found = |lines: &[&str]| acknowledged_too_early(&calls(&lines.join("\n")));
    assert_eq!(found(&[written, synced, told]), None);
    assert_eq!(found(&[written, told, synced]), Some(4));
    assert_eq!(found(&[written, synced, written, told]), Some(4));
    assert_eq!(found(&[written, synced, told, told]), Some(4));
    let (begun, ended) = (
        "7 fsync(5</x/0.jnl> <unfinished ...>",
        "7 <... fsync resumed>) = 0",
    );
    assert_eq!(found(&[written, begun, told, ended]), Some(4));
    assert_eq!(found(&[written, begun, ended, told]), None);
    assert_eq!(found(&[written, "7 fsync(6</x/other>) = 0", told]), Some(4));
}
