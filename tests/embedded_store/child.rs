//! A process that writes in rounds, and tells on standard error which one was acknowledged; killed, traced and stinted.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use readstates::model::channel::{Block, Level, Message, Node};
use readstates::model::ids::{ChannelId, PartitionId, UserId};
use readstates::partition::io::Write;
use readstates::store::Store;
use readstates::store::embedded::EmbeddedStore;

use super::support::servers::{fresh_dir, spawn};
use super::support::stores::{
    at, block, head, key, load_head, load_node, load_read_state, node_key, position, read_state,
};
use super::{DEADLINE, open};

/// What tells a test of this binary that it is the child: the folder, the first round and how many.
const TOLD: &str = "READSTATES_TEST_CHILD";
const STATES: u64 = 40;
const NODES: u64 = 40;
const PARTITION: PartitionId = PartitionId(1);

/// What is written in a round. Each replaces what the round before has written, and the position comes last.
fn writes(round: u64) -> Vec<Write> {
    let states = (1..=STATES).map(|n| Write::ReadState(key(n % 5, n), read_state(at(round), round)));
    let nodes = (1..=NODES).flat_map(|n| {
        let key = node_key(Level::Block, n * 10);
        let node = Write::Node(key, at(round), large(n));
        [node, Write::DeleteNodesBelow(key, at(round))]
    });
    let head = Write::Head(ChannelId(7), Arc::new(head(at(round))));
    states.chain(nodes).chain([head]).collect()
}

/// Large enough that files are made in the background after some rounds.
fn large(n: u64) -> Node {
    let mentions: Box<[UserId]> = (1000..6000).map(|user| UserId(user * 100_000)).collect();
    let block = block(n * 10);
    let messages = block.messages().map(|message| Message {
        mentions: mentions.clone(),
        ..message.to_owned()
    });
    Node::Block(Arc::new(Block::new(messages)))
}

/// Writes all of a round at once.
async fn write_round(store: &EmbeddedStore, round: u64) -> Result<(), readstates::store::StoreError> {
    let (writes, position) = (writes(round), position(at(round)));
    let rows = futures::future::join_all(writes.iter().map(|write| store.write(write)));
    // They are handed over in this order, as long as tokio lets them, and the position does not wait for the rows.
    let all = futures::future::join(rows, store.store_position(PARTITION, &position));
    let (rows, stored) = tokio::task::unconstrained(all).await;
    rows.into_iter().collect::<Result<(), _>>().and(stored)
}

/// One system call, so that it can be seen when it was.
fn tell(line: &str) {
    let line = format!("\n{line}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
#[ignore = "a process of other tests"]
fn it_is_a_child() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let [path, first, rounds] = told.splitn(3, '|').collect::<Vec<_>>()[..] else {
        panic!("{told}");
    };
    let (first, rounds): (u64, u64) = (first.parse().unwrap(), rounds.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = match EmbeddedStore::open(Path::new(path)).await {
            Ok(store) => store,
            Err(error) => return tell(&format!("refused {error}")),
        };
        tell("opened");
        for round in first..first + rounds {
            match write_round(&store, round).await {
                Ok(()) => tell(&format!("acknowledged {round}")),
                Err(error) => return tell(&format!("failed {error:?}")),
            }
        }
    });
}

/// The child, and the lines that it says.
pub struct Writing {
    pub process: Child,
    pub lines: Receiver<String>,
}

impl Writing {
    /// Starts it, by these programs and their arguments if any.
    pub fn start(path: &Path, first: u64, rounds: u64, by: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .args(by)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "child::it_is_a_child", "--ignored", "--nocapture"])
            .env(TOLD, format!("{}|{first}|{rounds}", path.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = spawn(command);
        let lines = lines_of(process.stderr.take().unwrap());
        Writing { process, lines }
    }

    /// Waits for a line that begins so, and returns it.
    pub fn wait_for(&self, begin: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).expect("it says something");
            if line.starts_with(begin) {
                return line;
            }
        }
    }

    /// The last round that it has acknowledged, once it has ended, and the line of its failure.
    pub fn end(mut self) -> (Option<u64>, Option<String>) {
        let (mut last, mut failure) = (None, None);
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            match line.split_once(' ') {
                Some(("acknowledged", round)) => last = round.parse().ok(),
                Some(("failed" | "refused", _)) => failure = Some(line),
                _ => {}
            }
        }
        self.process.wait().unwrap();
        (last, failure)
    }
}

fn lines_of(stderr: ChildStderr) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

/// Checks that all of a round is there, or of a later one, and no position ahead of its rows. Returns the last round of
/// which something is there.
pub async fn check(store: &EmbeddedStore, acknowledged: u64) -> u64 {
    let stored = store.load_position(PARTITION).await.unwrap();
    let Some(stored) = stored else {
        assert_eq!(acknowledged, 0, "the position is gone");
        return 0;
    };
    let least = stored.durable.offset().unwrap().0;
    assert!(
        least >= acknowledged,
        "round {acknowledged} was acknowledged, and {least} is there"
    );
    let mut last = least;
    for n in 1..=STATES {
        let state = load_read_state(store, key(n % 5, n)).await.unwrap();
        let round = state.applied.offset().unwrap().0;
        assert!(round >= least, "state {n} is of round {round}, before {least}");
        assert_eq!(state, read_state(at(round), round));
        last = last.max(round);
    }
    let found = load_head(store, ChannelId(7)).await.unwrap();
    let round = found.applied.offset().unwrap().0;
    assert!(round >= least);
    assert_eq!(*found, head(at(round)));
    for n in 1..=NODES {
        // What was begun of a later round may have deleted it already, but then that one is there.
        let mut found = None;
        for round in (least..=last + 1).rev() {
            let node = load_node(store, node_key(Level::Block, n * 10), at(round)).await;
            found = found.or(node);
        }
        assert_eq!(found, Some(large(n)), "node {n}");
    }
    last.max(round)
}

/// Killed at any moment, while it opens, writes, syncs, or makes files in the background: each time all that was
/// acknowledged is there, and no position is ahead of its rows.
#[tokio::test(flavor = "multi_thread")]
async fn it_survives_kill_9_at_any_moment() {
    const KILLS: u64 = 50;
    let path = fresh_dir("killed").join("store");
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (mut random, mut next, mut kept, mut killed_writing) = (seed | 1, 1, 0, 0);
    for kill in 0..KILLS {
        let mut writing = Writing::start(&path, next, u64::MAX / 2, &[]);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Of five, one is killed while it opens the folder, and the others while they write.
        if kill % 5 != 0 {
            tokio::task::block_in_place(|| writing.wait_for("opened"));
        }
        tokio::time::sleep(Duration::from_micros(random % 300_000)).await;
        writing.process.kill().unwrap();
        let (last, failure) = tokio::task::block_in_place(|| writing.end());
        assert_eq!(failure, None, "seed {seed}");
        killed_writing += u64::from(last.is_some());
        kept = last.unwrap_or(kept);
        next = check(&open(&path).await, kept).await + 1;
    }
    println!("{killed_writing} of {KILLS} had acknowledged something; {next} rounds");
    assert!(killed_writing >= KILLS / 2, "{killed_writing}");
}
