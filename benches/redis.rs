//! Redis with one hash a user, as many would build this: unread and mention counts and the last message read are fields of
//! the user's hash, three for each channel.
//!
//!     cargo bench --bench redis             `scripts/install redis` first
//!
//! A server of its own for each round, without a disk, by a socket of its file system, and commands written ahead by the
//! thousand: as fast as it goes. `READ_STATES` (1,000,000), `EVENTS` (30,000) and `ROUNDS` (3). Half of the events are messages, one of
//! five mentions a member, half are reads. Each round is a line of JSON.
//!
//! - `every member`: a message adds one to the unread count of each member but its author, as exact counts need it.
//! - `mentions only`: unread counts are not kept; a message adds to the mentioned member's count and marks the author's place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/random.rs"]
#[allow(dead_code)]
mod random;

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use random::Random;

/// Members of a channel.
const MEMBERS: u64 = 100;
/// Channels of a user: with three fields each, few enough for the compact form of a hash (hash-max-listpack-entries is 128).
const CHANNELS_OF_USER: u64 = 25;
/// Commands that are written before the answers of those before them are read.
const AHEAD: usize = 1000;
const START_MAX: Duration = Duration::from_secs(10);

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |number| number.parse().unwrap())
}

struct Server(Child);

impl Server {
    fn start(socket: &Path) -> Self {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is there: scripts/install redis");
        let began = Instant::now();
        while UnixStream::connect(socket).is_err() {
            assert!(began.elapsed() < START_MAX, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection on which commands are written ahead of their answers.
struct Client {
    writes: UnixStream,
    reads: BufReader<UnixStream>,
    buffer: Vec<u8>,
    buffered: usize,
    under_way: usize,
    /// Bytes of text and numbers that were answered.
    answered_bytes: u64,
}

impl Client {
    fn connect(socket: &Path) -> Self {
        let writes = UnixStream::connect(socket).unwrap();
        let reads = BufReader::with_capacity(256 * 1024, writes.try_clone().unwrap());
        Client {
            writes,
            reads,
            buffer: Vec::with_capacity(1 << 20),
            buffered: 0,
            under_way: 0,
            answered_bytes: 0,
        }
    }

    fn command(&mut self, words: &[&[u8]]) {
        write!(self.buffer, "*{}\r\n", words.len()).unwrap();
        for word in words {
            write!(self.buffer, "${}\r\n", word.len()).unwrap();
            self.buffer.extend_from_slice(word);
            self.buffer.extend_from_slice(b"\r\n");
        }
        self.buffered += 1;
        if self.buffered == AHEAD {
            self.send();
        }
    }

    /// Writes what is there, and reads the answers of what was written the time before.
    fn send(&mut self) {
        self.writes.write_all(&self.buffer).unwrap();
        self.buffer.clear();
        for _ in 0..std::mem::replace(&mut self.under_way, self.buffered) {
            self.answer();
        }
        self.buffered = 0;
    }

    fn finish(&mut self) {
        self.send();
        self.send();
    }

    fn answer(&mut self) {
        let mut line = Vec::with_capacity(32);
        self.reads.read_until(b'\n', &mut line).unwrap();
        let rest = str::from_utf8(&line[1..]).unwrap().trim_end();
        match line[0] {
            b'+' | b':' => self.answered_bytes += rest.len() as u64,
            b'$' => {
                let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.reads.read_exact(&mut text).unwrap();
                self.answered_bytes += text.len() as u64 - 2;
            }
            b'*' => {
                for _ in 0..rest.parse::<usize>().unwrap() {
                    self.answer();
                }
            }
            _ => panic!("redis-server answers {}", String::from_utf8_lossy(&line)),
        }
    }

    /// Bytes that the server says it has taken for its data.
    fn used_bytes(&mut self) -> f64 {
        self.writes
            .write_all(b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n")
            .unwrap();
        let mut line = String::new();
        self.reads.read_line(&mut line).unwrap();
        let mut text = vec![0; line.trim_end()[1..].parse::<usize>().unwrap() + 2];
        self.reads.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let used = text.lines().find_map(|line| line.strip_prefix("used_memory:"));
        used.unwrap().parse().unwrap()
    }
}

/// Who is where: a channel has `MEMBERS` members, a user is in `CHANNELS_OF_USER` channels.
struct Chat {
    channels: u64,
    users: u64,
}

impl Chat {
    fn user(&self, channel: u64, member: u64) -> String {
        format!("u:{}", 40_000_000 + (channel * MEMBERS + member) % self.users)
    }

    fn fields(channel: u64) -> [String; 3] {
        ["u", "m", "r"].map(|what| format!("{}:{what}", 70_000_000 + channel))
    }

    fn read(&self, client: &mut Client, channel: u64, member: u64, message: u64) {
        let [unread, mentions, last_read] = Self::fields(channel);
        let (user, message) = (self.user(channel, member), message.to_string());
        client.command(&[
            b"HSET",
            user.as_bytes(),
            unread.as_bytes(),
            b"0",
            mentions.as_bytes(),
            b"0",
            last_read.as_bytes(),
            message.as_bytes(),
        ]);
    }

    fn created(&self, client: &mut Client, random: &mut Random, channel: u64, message: u64, for_all: bool) {
        let [unread, mentions, last_read] = Self::fields(channel);
        let author = random.below(MEMBERS);
        let add = |client: &mut Client, member: u64, field: &str| {
            client.command(&[
                b"HINCRBY",
                self.user(channel, member).as_bytes(),
                field.as_bytes(),
                b"1",
            ]);
        };
        if for_all {
            for member in (0..MEMBERS).filter(|member| *member != author) {
                add(client, member, &unread);
            }
        }
        if random.below(5) == 0 {
            add(client, random.below(MEMBERS), &mentions);
        }
        let (author, message) = (self.user(channel, author), message.to_string());
        client.command(&[
            b"HSET",
            author.as_bytes(),
            last_read.as_bytes(),
            message.as_bytes(),
        ]);
    }

    fn events(&self, client: &mut Client, events: u64, for_all: bool) -> f64 {
        let mut random = Random(7);
        let began = Instant::now();
        for number in 0..events {
            let (channel, message) = (random.below(self.channels), 900_000_000_000 + number);
            if number % 2 == 0 {
                self.created(client, &mut random, channel, message, for_all);
            } else {
                self.read(client, channel, random.below(MEMBERS), message);
            }
        }
        client.finish();
        events as f64 / began.elapsed().as_secs_f64()
    }
}

fn main() {
    let (read_states, events) = (number("READ_STATES", 1_000_000), number("EVENTS", 30_000));
    let chat = Chat {
        channels: read_states / MEMBERS,
        users: read_states / CHANNELS_OF_USER,
    };
    for round in 1..=number("ROUNDS", 3) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis");
        let _server = Server::start(&socket);
        let mut client = Client::connect(&socket);
        let before = client.used_bytes();
        for member in 0..MEMBERS {
            for channel in 0..chat.channels {
                chat.read(&mut client, channel, member, 800_000_000_000 + channel);
            }
        }
        client.finish();
        let bytes = (client.used_bytes() - before) / read_states as f64;
        let every = chat.events(&mut client, events, true);
        let mentions = chat.events(&mut client, events * 20, false);

        let (mut random, answers) = (Random(9), events);
        let (began, bytes_before) = (Instant::now(), client.answered_bytes);
        for _ in 0..answers {
            let user = format!("u:{}", 40_000_000 + random.below(chat.users));
            client.command(&[b"HGETALL", user.as_bytes()]);
        }
        client.finish();
        let overviews = answers as f64 / began.elapsed().as_secs_f64();
        assert!(client.answered_bytes - bytes_before > answers * CHANNELS_OF_USER * 30);
        let line = serde_json::json!({
            "round": round, "read_states": read_states, "events_per_second_every_member": every,
            "events_per_second_mentions_only": mentions, "overviews_per_second": overviews,
            "read_states_answered_per_second": overviews * CHANNELS_OF_USER as f64, "bytes_per_read_state": bytes,
        });
        println!("{line}");
    }
}
