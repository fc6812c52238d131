//! `demo` as a visitor has it: the program with its own nats-server, on a terminal and without one. It is up within
//! seconds, shows what is true, and leaves nothing behind, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

mod support;
use support::servers::{fresh_dir, spawn};

/// Everything takes a second or two on an idle machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A demo that runs, with a folder for what is temporary.
struct Demo {
    process: Child,
    dir: PathBuf,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Demo {
    fn command(dir: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_readstates"), "demo"])
            .args(arguments)
            .env_clear()
            .envs(
                ["PATH", "HOME", "READSTATES_CACHE"]
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .env("TMPDIR", dir)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn start(name: &str, arguments: &[&str]) -> Self {
        let dir = fresh_dir(&format!("demo-{name}"));
        let mut process = spawn(Self::command(&dir, arguments));
        let (line, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(process.stdout.take().unwrap()),
            Box::new(process.stderr.take().unwrap()),
        ];
        for output in outputs {
            let line = line.clone();
            thread::spawn(move || {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                lines.for_each(|text| drop(line.send(text)));
            });
        }
        Demo {
            process,
            dir,
            lines,
            said: Vec::new(),
        }
    }

    /// Waits for a line with this in it.
    fn line(&mut self, expected: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no {expected:?} in\n{}", self.said.join("\n")));
            self.said.push(line.clone());
            if line.contains(expected) {
                return line;
            }
        }
    }

    /// What follows a word of the lines so far, up to a blank or a comma.
    fn fact(&self, before: &str) -> String {
        let text = self.said.join("\n");
        let (_, rest) = text
            .split_once(before)
            .unwrap_or_else(|| panic!("no {before:?} in {text}"));
        rest.split([' ', ',', '\n']).next().unwrap().to_owned()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.process.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the end of the demo", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        self.said.extend(self.lines.iter());
        status.unwrap()
    }

    /// The process of its nats-server, by the folder that is in the command line of both.
    fn nats_server(&self) -> Option<u32> {
        let configuration = "/nats-server.conf";
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find(|id: &u32| {
                let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                !command.starts_with("sh ")
                    && command.contains(self.dir.to_str().unwrap())
                    && command.contains(configuration)
            })
    }

    /// Nothing is left of it: no process, no folder.
    fn assert_nothing_is_left(&self) {
        let found = || {
            (
                self.nats_server(),
                fs::read_dir(&self.dir)
                    .unwrap()
                    .flatten()
                    .map(|it| it.path())
                    .collect::<Vec<_>>(),
            )
        };
        until(
            "nothing to be left",
            || matches!(found(), (None, files) if files.is_empty()),
        );
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "waited for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The last message of a channel, asked for as the demo says.
fn last_message(nats_url: &str, channel: &str) -> Option<u64> {
    let output = Command::new(env!("CARGO_BIN_EXE_readstates"))
        .args([
            "get",
            "1001",
            channel,
            "--json",
            "--set",
            &format!("nats.url={nats_url}"),
        ])
        .output()
        .unwrap();
    let reply: Value = serde_json::from_slice(&output.stdout).ok()?;
    reply["readStates"][0]["lastMessageId"].as_str()?.parse().ok()
}

#[test]
fn it_runs_by_itself_stays_small_and_leaves_nothing() {
    let mut demo = Demo::start("alone", &["--rate", "2000", "--seed", "7"]);
    demo.line(" events/s");
    let url = demo.fact("nats.url=");
    until("answers from anybody who asks", || {
        last_message(&url, "70001").is_some_and(|id| id > 0)
    });
    for _ in 0..2 {
        demo.line(" events/s");
    }
    let line = demo.line(" events/s");
    assert!(
        !line.contains("partitions live") && !line.contains("last question"),
        "{line}"
    );
    let status = fs::read_to_string(format!("/proc/{}/status", demo.process.id())).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(resident < 100_000, "{resident} kB resident");
    demo.signal("INT");
    assert_eq!(demo.ended().code(), Some(0));
    demo.assert_nothing_is_left();
    let complaints: Vec<_> = demo
        .said
        .iter()
        .filter(|line| !line.starts_with("demo: "))
        .collect();
    assert_eq!(complaints, [""; 0]);
}

#[test]
fn nothing_is_left_of_a_demo_that_was_killed() {
    let mut demo = Demo::start("killed", &[]);
    demo.line(" events/s");
    assert!(demo.nats_server().is_some());
    demo.signal("KILL");
    demo.ended();
    demo.assert_nothing_is_left();
}

#[test]
fn the_end_of_nats_server_is_told_once_and_ends_it() {
    let mut demo = Demo::start("orphaned", &[]);
    demo.line(" events/s");
    let server = demo.nats_server().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-9", &server])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(demo.ended().code(), Some(1));
    let told = demo
        .said
        .iter()
        .filter(|line| line.contains("nats-server has ended by itself (killed by signal 9)"));
    assert_eq!(told.count(), 1, "{}", demo.said.join("\n"));
    demo.assert_nothing_is_left();
}

#[test]
fn kept_data_goes_on_and_belongs_to_one_demo_at_a_time() {
    let data = fresh_dir("demo-data");
    let arguments = ["--data", data.to_str().unwrap(), "--rate", "500"];
    let mut demo = Demo::start("first", &arguments);
    demo.line(" events/s");
    let mut last = 0;
    let url = demo.fact("nats.url=");
    until("messages", || {
        last = last_message(&url, "70002").unwrap_or(0);
        last > 0
    });
    let mut second = Demo::start("at-once", &arguments);
    assert_eq!(second.ended().code(), Some(2));
    assert_eq!(second.said.len(), 1, "{:?}", second.said);
    assert!(second.said[0].contains("another demo uses"), "{:?}", second.said);
    second.assert_nothing_is_left();
    demo.signal("TERM");
    assert_eq!(demo.ended().code(), Some(0));
    demo.assert_nothing_is_left();

    let mut again = Demo::start("again", &arguments);
    again.line(" events/s");
    let url = again.fact("nats.url=");
    let is_newer = |id: u64| id >= last;
    until("what was there", || {
        last_message(&url, "70002").is_some_and(is_newer)
    });
    let then = last_message(&url, "70002").unwrap();
    until("more of it", || {
        last_message(&url, "70002").is_some_and(|id| id > then)
    });
    again.signal("INT");
    assert_eq!(again.ended().code(), Some(0));
    let format = data.join("store/format");
    assert!(format.exists(), "{}", format.display());
    fs::write(&format, "readstates embedded store, version 99\n").unwrap();
    let mut newer = Demo::start("newer", &arguments);
    assert_eq!(newer.ended().code(), Some(2), "{:?}", newer.said);
    assert_eq!(
        newer
            .said
            .iter()
            .filter(|line| line.contains("has version 99"))
            .count(),
        1,
        "{:?}",
        newer.said
    );
    newer.assert_nothing_is_left();
    fs::remove_dir_all(&data).unwrap();
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let dir = fresh_dir("demo-missing");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = Demo::command(&dir, arguments)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let nowhere = [
        ("PATH", "/usr/bin:/bin"),
        ("HOME", "/nonexistent"),
        ("READSTATES_CACHE", "/nonexistent"),
    ];
    let (status, said) = run(&[], &nowhere);
    assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
    assert!(
        said.contains("scripts/install nats") && said.contains("--nats-server"),
        "{said}"
    );
    let (status, said) = run(&[], &[("TMPDIR", "/proc")]);
    assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
    assert!(
        said.contains("can't write to /proc") && said.contains("TMPDIR"),
        "{said}"
    );
    let (status, said) = run(&["--events", "/nonexistent.ndjson"], &[]);
    assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

/// Runs a shell command under a terminal of the given size by python's pty: `keys` are typed once `prompt` is on the
/// screen. Returns all that the terminal got, and the status.
fn on_a_terminal(dir: &Path, (columns, rows): (u16, u16), prompt: &str, keys: &str) -> (String, i32) {
    const SCRIPT: &str = r#"
import fcntl, os, pty, select, struct, sys, termios, time
columns, rows, prompt, keys, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4].encode(), sys.argv[5:]
child, terminal = pty.fork()
if child == 0:
    os.execvp(program[0], program)
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
seen, typed, end = b"", False, time.time() + 60
while time.time() < end:
    try:
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536)
    except OSError:
        break
    if not typed and prompt in seen:
        typed = True
        os.write(terminal, keys)
sys.stdout.buffer.write(seen)
if time.time() >= end:
    os.kill(child, 9)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;
    let mut shown = Command::new("python3");
    shown
        .args([
            "-c",
            SCRIPT,
            &columns.to_string(),
            &rows.to_string(),
            prompt,
            keys,
        ])
        .args([env!("CARGO_BIN_EXE_readstates"), "demo"])
        .env("TMPDIR", dir)
        .env("TERM", "xterm-256color")
        .current_dir(dir);
    let output = shown.output().unwrap();
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        output.status.code().unwrap(),
    )
}

#[test]
fn a_terminal_shows_the_screen_and_is_given_back() {
    for (size, keys) in [((80, 24), "\u{3}"), ((140, 40), "q"), ((40, 10), "q")] {
        let dir = fresh_dir("demo-terminal");
        // What is on every screen once there are numbers.
        let (seen, status) = on_a_terminal(&dir, size, "general", keys);
        assert_eq!(status, 0, "{seen}");
        let at = |what: &str| {
            seen.find(what)
                .unwrap_or_else(|| panic!("no {what:?} at {size:?}:\n{seen}"))
        };
        let (enter, leave) = ("\u{1b}[?1049h", "\u{1b}[?1049l");
        assert!(
            at(enter) < at("readstates demo") && at("readstates demo") < at(leave),
            "{seen}"
        );
        assert!(
            at("\u{1b}[?25l") < at("\u{1b}[?25h"),
            "the cursor is back: {seen}"
        );
        let after = &seen[at(leave) + leave.len()..];
        assert_eq!(
            after.trim_matches(|c: char| c.is_control()),
            "",
            "nothing is said after it"
        );
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing is left");
        fs::remove_dir(&dir).unwrap();
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_it() {
    let dir = fresh_dir("demo-head");
    let mut process = spawn(Demo::command(&dir, &[]));
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.starts_with("demo: serving JetStream"), "{line}");
    drop(output);
    let mut status = None;
    until("the end of the demo", || {
        status = process.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn it_feeds_events_of_a_file() {
    let dir = fresh_dir("demo-events");
    let file = dir.join("events.ndjson");
    let mut events = fs::File::create(&file).unwrap();
    for message in 1..=300 {
        writeln!(
            events,
            r#"{{"channelId":"42","messageCreated":{{"messageId":"{message}","authorId":"7"}}}}"#
        )
        .unwrap();
    }
    writeln!(
        events,
        r#"{{"channelId":"42","messageRead":{{"userId":"8","messageId":"290"}}}}"#
    )
    .unwrap();
    drop(events);
    let mut demo = Demo::start("file", &["--events", file.to_str().unwrap()]);
    demo.line("301 in all");
    assert_eq!(last_message(&demo.fact("nats.url="), "42"), Some(300));
    // It is the one who is shown.
    assert!(
        demo.said.iter().any(|line| line.contains("get 8 42")),
        "{:?}",
        demo.said
    );
    demo.signal("TERM");
    assert_eq!(demo.ended().code(), Some(0));
    demo.assert_nothing_is_left();
    fs::remove_dir_all(&dir).unwrap();
}
