//! A synthetic chat: channels of very different size, bursts, replies, mentions, people coming and going.

use std::io::Read;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// People in the chat.
const USERS: u64 = 400;
/// Channels in the chat.
const CHANNELS: u64 = 24;
/// Channel sizes fall with the rank by this power.
const ZIPF_EXPONENT: f64 = 1.1;
/// Everyone is mentioned this often.
const EVERYONE_INTERVAL: Duration = Duration::from_secs(60);
/// How much is made at a time.
const TURN: Duration = Duration::from_millis(20);

/// The id of a user, by number.
pub fn user(number: u64) -> u64 {
    1_000 + number
}

/// The id of a channel, by rank.
pub fn channel(rank: u64) -> u64 {
    70_000 + rank
}

/// The ids of all users.
pub fn users() -> RangeInclusive<u64> {
    user(1)..=user(USERS)
}

/// The ids of all channels.
pub fn channels() -> RangeInclusive<u64> {
    channel(1)..=channel(CHANNELS)
}

/// Events as JSON, one a line, at a steady rate with bursts. Ends when told to.
pub struct Chat {
    rate: u32,
    stopped: watch::Receiver<bool>,
    random: u64,
    started: Instant,
    made: u64,
    text: Vec<u8>,
    shares: Vec<f64>,
    newest: Vec<u64>,
    sequence: u64,
    everyone_at: Instant,
    is_joined: bool,
}

impl Chat {
    /// So many events in a second, until told to stop. The seed decides who does what; ids of messages are of the time.
    pub fn new(rate: u32, seed: u64, stopped: watch::Receiver<bool>) -> Self {
        let weights: Vec<f64> = (1..=CHANNELS)
            .map(|rank| (rank as f64).powf(-ZIPF_EXPONENT))
            .collect();
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let shares = weights.iter().map(|weight| {
            sum += weight / total;
            sum
        });
        Chat {
            rate,
            stopped,
            random: seed,
            started: Instant::now(),
            made: 0,
            text: Vec::new(),
            shares: shares.collect(),
            newest: vec![0; CHANNELS as usize],
            sequence: 0,
            everyone_at: Instant::now() + EVERYONE_INTERVAL / 6,
            is_joined: false,
        }
    }

    /// SplitMix64, by Steele, Lea and Flood, 2014.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn a_channel(&mut self) -> u64 {
        let share = self.next() as f64 / u64::MAX as f64;
        self.shares
            .partition_point(|sum| *sum < share)
            .min(self.shares.len() - 1) as u64
    }

    /// Someone who is in the channel: the larger it is, the more are.
    fn a_member(&mut self, rank: u64) -> u64 {
        let members = (USERS / (rank + 1)).max(12);
        let number = self.below(members);
        user(number + 1)
    }

    fn line(&mut self, rank: u64, kind: &str, fields: &str) {
        let channel = channel(rank + 1);
        let line = format!("{{\"channelId\":\"{channel}\",\"{kind}\":{{{fields}}}}}\n");
        self.text.extend_from_slice(line.as_bytes());
        self.made += 1;
    }

    /// Like a snowflake: milliseconds first, so that newer is larger.
    fn message_id(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.sequence += 1;
        (since.as_millis() as u64) << 16 | (self.sequence & 0xFFFF)
    }

    fn post(&mut self, rank: u64, mentions_everyone: bool) {
        let (message, author) = (self.message_id(), self.a_member(rank));
        let mentioned = if self.below(6) == 0 {
            format!("\"{}\"", self.a_member(rank))
        } else {
            String::new()
        };
        self.newest[rank as usize] = message;
        let fields = format!(
            "\"messageId\":\"{message}\",\"authorId\":\"{author}\",\"mentionedUserIds\":[{mentioned}],\
             \"mentionsEveryone\":{mentions_everyone}"
        );
        self.line(rank, "messageCreated", &fields);
    }

    /// One thing that happens.
    fn step(&mut self) {
        let rank = self.a_channel();
        let newest = self.newest[rank as usize];
        let someone = self.a_member(rank);
        match self.below(100) {
            _ if self.everyone_at <= Instant::now() => {
                self.everyone_at += EVERYONE_INTERVAL;
                self.post(0, true);
            }
            0..50 => self.post(rank, false),
            50..55 => (0..self.below(8)).for_each(|_| self.post(rank, false)),
            _ if newest == 0 => {}
            55..92 => self.line(
                rank,
                "messageRead",
                &format!("\"userId\":\"{someone}\",\"messageId\":\"{newest}\""),
            ),
            92..95 => self.line(
                rank,
                "messageUpdated",
                &format!("\"messageId\":\"{newest}\",\"mentionedUserIds\":[\"{someone}\"]"),
            ),
            95..97 => self.line(rank, "messageDeleted", &format!("\"messageIds\":[\"{newest}\"]")),
            97 => self.line(
                rank,
                "messageMarkedUnread",
                &format!("\"userId\":\"{someone}\",\"messageId\":\"{newest}\""),
            ),
            98 => self.line(rank, "memberLeft", &format!("\"userId\":\"{someone}\"")),
            _ => self.line(rank, "memberJoined", &format!("\"userId\":\"{someone}\"")),
        }
    }

    fn everyone_joins(&mut self) {
        for rank in 0..CHANNELS {
            for number in 1..=(USERS / (rank + 1)).max(12) {
                self.line(rank, "memberJoined", &format!("\"userId\":\"{}\"", user(number)));
            }
        }
        self.made = 0;
        self.started = Instant::now();
    }
}

impl Read for Chat {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !std::mem::replace(&mut self.is_joined, true) {
            self.everyone_joins();
        }
        while self.text.is_empty() {
            if *self.stopped.borrow() {
                return Ok(0);
            }
            let wanted = (self.started.elapsed().as_secs_f64() * f64::from(self.rate)) as u64;
            if wanted <= self.made {
                std::thread::sleep(TURN);
            }
            while self.made < wanted {
                self.step();
            }
        }
        let length = self.text.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.text[..length]);
        self.text.drain(..length);
        Ok(length)
    }
}
