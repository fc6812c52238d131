//! The program itself, as processes: `readstates serve` and `readstates publish` on real servers.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use readstates::config::StreamKind;

use super::servers::{free_ports, fresh_dir, spawn};

/// How much of an instance's log a panic shows.
const LOG_TAIL_LINES: usize = 40;
/// Draining has 10 s, answering 2 s more.
const STOP_DEADLINE: Duration = Duration::from_secs(40);

/// The first thing that an instance does is to listen.
const LISTEN_DEADLINE: Duration = Duration::from_secs(30);

/// Of records that can't be used.
const EXPECTED_COMPLAINTS: &[&str] = &["a record can't be used"];

/// What all instances of a deployment have in common: a topic (or stream), group, keyspace and subject prefix of its own.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// All of these are called so, more or less.
    pub name: String,
    pub brokers: String,
    pub nats: String,
    pub cassandra: String,
    pub partitions: u32,
    /// Further settings.
    pub settings: Vec<(&'static str, String)>,
}

impl Deployment {
    pub fn keyspace(&self) -> String {
        format!("ks_{}", self.name)
    }

    pub fn topic(&self) -> String {
        format!("{}-events", self.name)
    }

    pub fn group(&self) -> String {
        format!("{}-group", self.name)
    }

    /// Where events come from.
    pub fn stream_kind(&self) -> StreamKind {
        match self.settings.contains(&("stream.kind", "jetstream".to_owned())) {
            true => StreamKind::JetStream,
            false => StreamKind::Kafka,
        }
    }

    /// The folder of the embedded store, where that is the one.
    pub fn embedded_path(&self) -> Option<PathBuf> {
        let is_it = |(name, _): &&(&str, String)| *name == "store.embedded.path";
        self.settings.iter().find(is_it).map(|(_, path)| path.into())
    }

    /// Half of what the servers need comes by the environment, half by flags.
    fn command(&self, by: &[&str], command: &str, more: &[(&str, String)]) -> Command {
        // setpriv: the process must not outlive the test, whatever ends that.
        let mut started = Command::new("setpriv");
        started
            .args(["--pdeathsig", "KILL"])
            .args(by)
            .args([env!("CARGO_BIN_EXE_readstates"), command])
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("READSTATES_STREAM__KAFKA__BROKERS", &self.brokers)
            .env("READSTATES_STREAM__KAFKA__TOPIC", self.topic())
            .env("READSTATES_STREAM__KAFKA__GROUP", self.group())
            .env("READSTATES_STREAM__JETSTREAM__STREAM", self.topic())
            .env("READSTATES_NATS__URL", &self.nats)
            .env("READSTATES_STORE__CASSANDRA__KEYSPACE", self.keyspace());
        let flags = [
            ("stream.kafka.partitions", self.partitions.to_string()),
            ("stream.jetstream.partitions", self.partitions.to_string()),
            ("nats.subject_prefix", self.name.clone()),
            ("store.cassandra.nodes", self.cassandra.clone()),
        ];
        for (name, value) in flags.iter().chain(&self.settings).chain(more) {
            started.arg("--set").arg(format!("{name}={value}"));
        }
        started
    }

    /// Starts an instance, and does not wait for anything.
    pub fn serve(&self, name: &str, more: &[(&str, String)]) -> Service {
        self.serve_by(name, more, &[])
    }

    /// The same by another program that runs it, such as `prlimit` with its arguments.
    pub fn serve_by(&self, name: &str, more: &[(&str, String)], by: &[&str]) -> Service {
        let dir = fresh_dir(&format!("{}-{name}", self.name));
        let admin = format!("127.0.0.1:{}", free_ports(1)[0]);
        let mut more = more.to_vec();
        more.push(("admin.listen", admin.clone()));
        let mut command = self.command(by, "serve", &more);
        let log = dir.join("serve.log");
        let output = File::create(&log).unwrap();
        command
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        Service {
            name: name.to_owned(),
            process: spawn(command),
            admin,
            dir,
            log,
        }
    }

    /// Publishes lines of JSON by the command, and returns what it said about it.
    ///
    /// # Panics
    /// If it does not end with status 0.
    pub fn publish(&self, lines: &[u8]) -> String {
        let said = self.run("publish", &[], lines);
        assert_eq!(said.status, Some(0), "publish: {}", said.stderr);
        said.stderr
    }
}

/// What it says apart from how it gets on, and that one replica is few.
pub fn loud(log: &str) -> Vec<&str> {
    let is_quiet = [" INFO ", "\"level\":\"INFO\"", "one replica: "];
    let is_loud = |line: &&str| !is_quiet.iter().any(|quiet| line.contains(quiet));
    log.lines().filter(is_loud).collect()
}

/// Ends within this time with status 2 and one line that has all of these words. Gives its log.
pub fn check_refused(
    deployment: &Deployment,
    more: &[(&str, String)],
    deadline: Duration,
    words: &[&str],
) -> String {
    let mut service = deployment.serve("refused", more);
    let status = service.wait_until_ended(deadline);
    let log = service.log();
    println!("{}", loud(&log).join("\n"));
    assert_eq!((status.code(), loud(&log).len()), (Some(2), 1), "{log}");
    for word in words {
        assert!(loud(&log)[0].contains(word), "{word:?} is not in: {log}");
    }
    log
}

/// What a command has said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Deployment {
    /// Runs any command with these arguments and this input, and waits until it has ended.
    pub fn run(&self, command: &str, arguments: &[&str], input: &[u8]) -> Said {
        end(self.start(command, arguments), input)
    }

    /// The same with further settings.
    pub fn run_with(&self, command: &str, arguments: &[&str], more: &[(&str, String)]) -> Said {
        end(self.start_with(command, arguments, more), b"")
    }

    /// Starts any command with pipes to and from it.
    pub fn start(&self, command: &str, arguments: &[&str]) -> Child {
        self.start_with(command, arguments, &[])
    }

    fn start_with(&self, command: &str, arguments: &[&str], more: &[(&str, String)]) -> Child {
        let mut started = self.command(&[], command, more);
        started
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        spawn(started)
    }
}

/// Feeds a command, and waits until it has ended.
fn end(mut started: Child, input: &[u8]) -> Said {
    let mut stdin = started.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that does not read its input is no failure.
    let writing = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = started.wait_with_output().unwrap();
    writing.join().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        status: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// One instance.
pub struct Service {
    name: String,
    process: Child,
    admin: String,
    dir: PathBuf,
    log: PathBuf,
}

impl Service {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as a crash does (SIGKILL).
    ///
    /// # Panics
    /// If it had ended by itself.
    pub fn kill9(&mut self) {
        self.assert_runs();
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks it to stop (SIGTERM), and waits until it has ended.
    ///
    /// # Panics
    /// With its log, if it takes too long or had ended by itself.
    pub fn terminate(&mut self) -> ExitStatus {
        self.assert_runs();
        self.signal("TERM");
        self.wait_until_ended(STOP_DEADLINE)
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// With its log, if it does not within the deadline.
    pub fn wait_until_ended(&mut self, deadline: Duration) -> ExitStatus {
        let deadline = Instant::now() + deadline;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not end:\n{}",
                self.name,
                self.log_tail()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// All that it wrote, to standard output and error.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Memory that it has in use, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// All that its log says.
    pub fn log_lines(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Sends a signal, by its name without SIG.
    pub fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// # Panics
    /// With its log, if it has ended.
    pub fn assert_runs(&mut self) {
        if let Some(status) = self.process.try_wait().unwrap() {
            panic!("{} has ended with {status}:\n{}", self.name, self.log_tail());
        }
    }

    /// The sum over all series of a metric whose labels contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let page = self.page("/metrics");
        let series = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            (is_it && labels.contains(label)).then(|| value.parse::<f64>().unwrap())
        });
        series.sum()
    }

    /// What `admin.listen` answers, once it is taken.
    pub fn page(&self, path: &str) -> String {
        let deadline = Instant::now() + LISTEN_DEADLINE;
        let mut connection = loop {
            match TcpStream::connect(&self.admin) {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", self.admin),
            }
            thread::sleep(Duration::from_millis(10));
        };
        connection
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        write!(
            connection,
            "GET {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    /// What its log says more than that all is well, apart from what tests do
    /// on purpose.
    pub fn complaints(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let is_one = |line: &&str| {
            let is_loud = ["WARN", "ERROR", "panicked"]
                .iter()
                .any(|word| line.contains(word));
            is_loud && !EXPECTED_COMPLAINTS.iter().any(|expected| line.contains(expected))
        };
        log.lines().filter(is_one).map(str::to_owned).collect()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        tail.join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!(
                "--- the log of {} ({}) ends so:\n{}",
                self.name,
                self.log.display(),
                self.log_tail()
            );
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
