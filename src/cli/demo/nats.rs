//! The demo's own nats-server: found, started, watched, and ended whatever becomes of the demo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use super::place::Place;
use crate::cli::Failed;

const PROGRAM: &str = "nats-server";
/// How long it may take until it takes connections.
const READY_MAX: Duration = Duration::from_secs(20);
const READY_INTERVAL: Duration = Duration::from_millis(5);
/// How long it may take to end, of which the shell below waits most before it is killed.
const STOP_MAX: Duration = Duration::from_secs(8);
/// What its garbage collector aims at.
const MEMORY: &str = "64MiB";
/// How much of its log is shown where it has failed.
const LOG_LINES: usize = 5;

/// A shell that has nats-server as its child, and reads from a pipe of ours. After a line it ends the server. The end of
/// the pipe without a line says that we were killed: then it removes what is temporary as well.
const SUPERVISOR: &str = r#"
exec 3<&0
"$1" --config "$2" </dev/null 3<&- &
server=$!
{
  removed=
  read -r _ <&3 || { trap '' TERM; removed=$3; }
  kill "$server"
  tries=0
  while kill -0 "$server" && [ "$tries" -lt 60 ]; do tries=$((tries + 1)); sleep 0.1; done
  kill -9 "$server"
  [ -z "$removed" ] || rm -rf "$removed"
} 2>/dev/null &
watching=$!
wait "$server"
status=$?
kill "$watching" 2>/dev/null
exit "$status"
"#;

/// Looks for the program: where it is said to be, on PATH, and where scripts/install puts it.
///
/// # Errors
/// How to get it.
pub fn find(given: Option<&Path>) -> Result<PathBuf, Failed> {
    let is_program = |path: &PathBuf| path.is_file();
    if let Some(given) = given {
        let given = given.to_owned();
        return Some(given.clone()).filter(is_program).ok_or_else(|| {
            Failed::Misconfigured(format!(
                "--nats-server {}: there is no such file",
                given.display()
            ))
        });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(installed());
    let mut programs = folders.map(|folder| folder.join(PROGRAM));
    programs.find(is_program).ok_or_else(|| {
        Failed::Misconfigured(
            "the demo needs nats-server 2.10 or newer, which is neither on PATH nor where `scripts/install nats` puts \
             it: run that (or `make demo`, which does), or `go install github.com/nats-io/nats-server/v2@latest`, or \
             take it from https://github.com/nats-io/nats-server/releases; or name it with --nats-server FILE, or one \
             that runs already with --set nats.url=nats://HOST:PORT"
                .to_owned(),
        )
    })
}

/// The folder of scripts/install.
fn installed() -> Option<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = variable("READSTATES_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("readstates")))
        .or_else(|| Some(variable("HOME")?.join(".cache/readstates")))?;
    Some(cache.join("bin"))
}

/// One that runs.
pub struct NatsServer {
    supervisor: Child,
    pipe: Option<ChildStdin>,
    /// Where it takes connections.
    pub url: String,
}

impl NatsServer {
    /// Starts one with JetStream on a free port of 127.0.0.1, and waits until it takes connections.
    ///
    /// # Errors
    /// What its log says.
    pub async fn start(program: &Path, place: &Place) -> Result<Self, Failed> {
        let failed = |what: String| {
            let log = place.log_tail(LOG_LINES);
            let log = if log.is_empty() {
                log
            } else {
                format!("; its log ends with:\n{log}")
            };
            Failed::Broken(format!("{} {what}{log}", program.display()))
        };
        let broken = |error: std::io::Error| failed(format!("can't be started: {error}"));
        let configuration = place.temporary().join("nats-server.conf");
        fs::write(&configuration, text(place)).map_err(broken)?;
        let (output, errors) = (place.log().map_err(broken)?, place.log().map_err(broken)?);
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .args([program, &configuration, place.temporary()])
            .env("GOMEMLIMIT", MEMORY)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // Out of reach of a terminal's Ctrl-C, so that what is served can still be written when the demo ends.
            .process_group(0)
            .spawn()
            .map_err(broken)?;
        let pipe = supervisor.stdin.take();
        let until = Instant::now() + READY_MAX;
        let url = loop {
            if let Some(url) = listening(place.temporary()) {
                break url;
            }
            if let Ok(Some(status)) = supervisor.try_wait() {
                return Err(failed(format!("ended at once ({status})")));
            }
            if Instant::now() > until {
                return Err(failed(format!(
                    "takes no connections after {} s",
                    READY_MAX.as_secs()
                )));
            }
            sleep(READY_INTERVAL).await;
        };
        Ok(NatsServer {
            supervisor,
            pipe,
            url,
        })
    }

    /// Returns when it has ended, which is none of the demo's doing, with what there is to know about it.
    pub async fn ended(&mut self, place: &Place) -> Failed {
        let how = match self.supervisor.wait().await {
            Ok(status) => how(status),
            Err(error) => error.to_string(),
        };
        Failed::Broken(format!(
            "nats-server has ended by itself ({how}), so the demo ends as well; its log ends with:\n{}",
            place.log_tail(LOG_LINES)
        ))
    }

    /// Ends it.
    pub async fn stop(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            // It has ended where nobody reads that.
            let _ = pipe.write_all(b"end\n").await;
            // With the pipe open: its end would say something else.
            let _ = timeout(STOP_MAX, self.supervisor.wait()).await;
        }
    }
}

/// A shell tells a signal by a status above 128.
fn how(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..=192) => format!("killed by signal {}", code - 128),
        _ => status.to_string(),
    }
}

fn text(place: &Place) -> String {
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    // What is thrown away needs no disk that has it: the default is to sync every two minutes.
    let sync = if place.is_kept() {
        "  sync_interval: always\n"
    } else {
        ""
    };
    format!(
        "listen: \"127.0.0.1:-1\"\nports_file_dir: {}\njetstream {{\n  store_dir: {}\n{sync}}}\n",
        quoted(place.temporary().to_owned()),
        quoted(place.data().join("nats")),
    )
}

/// What nats-server has written about its ports, once that is whole.
fn listening(folder: &Path) -> Option<String> {
    let files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut files = files.filter(|path| path.extension().is_some_and(|extension| extension == "ports"));
    let ports: Value = serde_json::from_slice(&fs::read(files.next()?).ok()?).ok()?;
    Some(ports.get("nats")?.get(0)?.as_str()?.to_owned())
}
