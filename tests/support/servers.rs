//! Real servers for tests: Kafka, Cassandra and NATS, each in a folder and on ports of its own, on 127.0.0.1.
//!
//! Started by `scripts/run-*` (after `scripts/install`). A server ends with its value, and, since a static is never
//! dropped, with the test's process at the latest.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take until it answers. Cassandra takes 7 s on an idle machine.
const READY_DEADLINE_S: u64 = 180;
/// How long a server may take to stop by itself.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// How much of a server's log a panic shows.
const LOG_TAIL_BYTES: u64 = 6_000;

macro_rules! server {
    ($(#[$doc:meta])* $name:ident, $kind:expr) => {
        $(#[$doc])*
        pub struct $name(Server);

        impl $name {
            /// Starts one on an empty folder, and waits until it answers.
            pub fn start() -> Self {
                Self::start_with(&[])
            }

            /// The same with further arguments for its script, in which `{port}` and `{port2}` are its ports.
            pub fn start_with(arguments: &[&str]) -> Self {
                let mut server = Server::new($kind, arguments);
                server.restart();
                $name(server)
            }

            /// The same without waiting until it answers, as for one that only answers over TLS.
            pub fn start_unready(arguments: &[&str]) -> Self {
                let mut server = Server::new($kind, arguments);
                server.start_again();
                $name(server)
            }
        }

        impl Deref for $name {
            type Target = Server;

            fn deref(&self) -> &Server {
                &self.0
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Server {
                &mut self.0
            }
        }
    };
}

server! {
    /// A Kafka broker. The url is `bootstrap.servers`. Topics aren't created by themselves.
    Kafka, Kind { name: "kafka", ports: 2, scheme: "" }
}
server! {
    /// A Cassandra node. The url is its CQL address.
    Cassandra, Kind { name: "cassandra", ports: 2, scheme: "" }
}
server! {
    /// A nats-server with JetStream that syncs every write.
    Nats, Kind { name: "nats", ports: 1, scheme: "nats://" }
}

/// One of each, which the tests of a binary share.
pub struct Servers {
    pub kafka: Kafka,
    pub cassandra: Cassandra,
    pub nats: Nats,
}

/// The shared ones, started side by side when they are asked for first.
pub fn shared() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        thread::scope(|scope| {
            let kafka = scope.spawn(Kafka::start);
            let cassandra = scope.spawn(Cassandra::start);
            Servers {
                nats: Nats::start(),
                kafka: kafka.join().unwrap(),
                cassandra: cassandra.join().unwrap(),
            }
        })
    })
}

#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    ports: usize,
    scheme: &'static str,
}

/// One server process. Stopped or killed, it keeps its folder and ports for [`Server::restart`].
pub struct Server {
    kind: Kind,
    dir: PathBuf,
    ports: Vec<String>,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Server {
    fn new(kind: Kind, arguments: &[&str]) -> Self {
        Server {
            kind,
            dir: fresh_dir(kind.name),
            ports: free_ports(kind.ports),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            process: None,
        }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("{}{}", self.kind.scheme, self.address())
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.ports[0].parse().unwrap()
    }

    /// Its folder: `data/`, its configuration, `server.log`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts it again on its data and ports, and waits until it answers. Stops it first if it runs.
    ///
    /// # Panics
    /// With the end of the server's log, if it does not get ready.
    pub fn restart(&mut self) {
        self.start_again();
        self.wait_ready();
    }

    /// Starts it again on its data and ports without waiting.
    pub fn start_again(&mut self) {
        self.stop();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(script(&format!("run-{}", self.kind.name)))
            .arg(&self.dir)
            .args(&self.ports)
            .args(self.arguments.iter().map(|argument| self.with_ports(argument)));
        self.process = Some(spawn(command));
    }

    /// Waits until it answers.
    ///
    /// # Panics
    /// With the end of the server's log, if it does not.
    pub fn wait_ready(&mut self) {
        let mut waiting = Command::new(script("wait-ready"))
            .args([self.kind.name, &self.address(), &READY_DEADLINE_S.to_string()])
            .spawn()
            .unwrap();
        loop {
            if let Some(status) = waiting.try_wait().unwrap() {
                assert!(
                    status.success(),
                    "{} isn't ready:\n{}",
                    self.kind.name,
                    self.log_tail()
                );
                return;
            }
            if let Some(status) = self
                .process
                .as_mut()
                .and_then(|process| process.try_wait().unwrap())
            {
                let _ = waiting.kill();
                let _ = waiting.wait();
                panic!("{} ended with {status}:\n{}", self.kind.name, self.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a crash does (SIGKILL).
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Asks it to stop (SIGTERM) and waits; kills it when it takes too long.
    pub fn stop(&mut self) {
        if self.process.is_none() {
            return;
        }
        self.resume();
        self.signal("TERM");
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        self.kill9();
    }

    /// Stops its process without ending it (SIGSTOP): connections stay open and nothing answers.
    pub fn pause(&mut self) {
        self.signal("STOP");
    }

    /// Lets it go on after [`Server::pause`].
    pub fn resume(&mut self) {
        self.signal("CONT");
    }

    /// Whether its process is there, paused or not.
    pub fn running(&mut self) -> bool {
        let ended = |process: &mut Child| -> Option<ExitStatus> { process.try_wait().unwrap() };
        self.process
            .as_mut()
            .is_some_and(|process| ended(process).is_none())
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let path = self.dir.join("server.log");
        let Ok(mut file) = fs::File::open(&path) else {
            return format!("{} can't be read", path.display());
        };
        let length = file.metadata().map(|metadata| metadata.len()).unwrap_or(0);
        let mut bytes = Vec::new();
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)));
        let _ = file.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `{port}` and `{port2}` are its ports, which nobody knows before.
    fn with_ports(&self, argument: &str) -> String {
        let last = self.ports.last().map_or("", String::as_str);
        argument
            .replace("{port}", &self.ports[0])
            .replace("{port2}", last)
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    fn signal(&self, signal: &str) {
        if let Some(process) = &self.process {
            // Fails where the process is gone already, which is what a caller wants or finds out.
            let _ = Command::new("kill")
                .args([format!("-{signal}"), process.id().to_string()])
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Ports of 127.0.0.1 that nothing uses.
pub fn free_ports(count: usize) -> Vec<String> {
    let output = Command::new(script("free-ports"))
        .arg(count.to_string())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_string)
        .collect()
}

/// Waits until a condition holds.
///
/// # Panics
/// With `what`, when it does not within the deadline.
pub fn wait_for(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < end, "waited {deadline:?} for: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// An empty folder that names this process, so that what a process left behind that was killed can be told and removed.
pub fn fresh_dir(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("servers");
    for left in fs::read_dir(&all).into_iter().flatten().flatten() {
        let owner = left
            .file_name()
            .to_string_lossy()
            .split('-')
            .next()
            .unwrap()
            .to_string();
        if !Path::new("/proc").join(owner).exists() {
            let _ = fs::remove_dir_all(left.path());
        }
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = all.join(format!("{}-{name}-{count}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Starts a process from a thread that lives as long as this process: the kernel's death signal (`--pdeathsig`) comes
/// when the starting *thread* ends, and that of a test ends with the test.
pub fn spawn(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, child) = channel();
    starter.send((command, reply)).unwrap();
    child
        .recv()
        .unwrap()
        .expect("setpriv (of util-linux) starts the server")
}
