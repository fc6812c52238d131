//! A chat of any size, and its events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use readstates::model::event::{Event, EventKind, Mentions};
use readstates::model::ids::{ChannelId, MessageId, ReadStateKey, UserId};
use readstates::wire::partitioner::partition_of;
use readstates::wire::record::encode_event;

use crate::random::Random;

/// Users that a message of [`Traffic::fill`] mentions.
const MENTIONED: u64 = 10;
/// Of a thousand messages, how many mention someone.
const MENTIONING_PERMILLE: u64 = 500;
const FLUSH_DEADLINE: Duration = Duration::from_secs(120);
/// What is due is published so often.
const TICK: Duration = Duration::from_millis(5);
/// Where the ids of users, channels and messages begin.
const FIRST_USER: u64 = 40_000_000_000_000_000;
const FIRST_CHANNEL: u64 = 30_000_000_000_000_000;
const FIRST_MESSAGE: u64 = 1_000_000_000_000_000_000;

/// Who is in which channel: every user in as many, every channel with as many.
#[derive(Clone, Copy)]
pub struct World {
    pub users: u64,
    pub channels: u64,
    /// Users of a channel; `channels * members` is a multiple of `users`.
    pub members: u64,
}

impl World {
    pub fn read_states(&self) -> u64 {
        self.channels * self.members
    }

    pub fn user(&self, number: u64) -> UserId {
        UserId(FIRST_USER + number)
    }

    /// Any of its read states.
    pub fn key(&self, number: u64) -> ReadStateKey {
        ReadStateKey {
            user: self.user(number % self.users),
            channel: ChannelId(FIRST_CHANNEL + number / self.members),
        }
    }

    /// One of a few that are busy more often than one of many that are not: the busiest hundredth is chosen in 22 of 100
    /// cases, the half that is least busy in 20.
    pub fn pick(&self, random: &mut Random) -> ReadStateKey {
        let all = self.read_states();
        let rank = (random.fraction().powi(3) * all as f64) as u64;
        // Busy ones are spread over all channels and users. The factor is prime and no divisor.
        self.key((u128::from(rank) * 2_147_483_647 % u128::from(all)) as u64)
    }
}

/// Publishes into a topic.
pub struct Traffic {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    partitions: u32,
    world: World,
    random: Random,
    next_message: u64,
}

impl Traffic {
    pub fn new(brokers: &str, topic: &str, partitions: u32, world: World) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "20")
            .set("queue.buffering.max.messages", "500000")
            .create()
            .unwrap();
        Traffic {
            producer,
            topic: topic.to_owned(),
            partitions,
            world,
            random: Random(1),
            next_message: FIRST_MESSAGE,
        }
    }

    /// Begins every read state of these channels by mentions. Gives the number of events.
    pub fn fill(&mut self) -> u64 {
        let mut events = 0;
        // The members of a channel one after another, the channels side by side, as they would come.
        for first in (0..self.world.members).step_by(MENTIONED as usize) {
            for channel in 0..self.world.channels {
                let members = first..self.world.members.min(first + MENTIONED);
                let keys = members.map(|member| self.world.key(channel * self.world.members + member));
                let mentioned = keys.map(|key| key.user).collect();
                let channel = ChannelId(FIRST_CHANNEL + channel);
                let kind = self.message(channel, mentioned);
                self.send(channel, kind);
                events += 1;
            }
        }
        self.producer.flush(FLUSH_DEADLINE).unwrap();
        events
    }

    /// So many events of what goes on, as fast as the broker takes them.
    pub fn publish(&mut self, events: u64) {
        for _ in 0..events {
            self.publish_one();
        }
        self.producer.flush(FLUSH_DEADLINE).unwrap();
    }

    /// Goes on at a rate until it is stopped.
    pub fn keep_on(mut self, rate: u64) -> Steady {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), count.clone());
        let thread = thread::spawn(move || {
            let began = Instant::now();
            let mut published = 0;
            while !stopped.load(Ordering::Relaxed) {
                let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
                while published < due {
                    self.publish_one();
                    published += 1;
                }
                counted.store(published, Ordering::Relaxed);
                thread::sleep(TICK);
            }
            self.producer.flush(FLUSH_DEADLINE).unwrap();
            self
        });
        Steady { stop, count, thread }
    }

    /// Half of what happens is a message, half someone reading.
    fn publish_one(&mut self) {
        let key = self.world.pick(&mut self.random);
        let what = self.random.next();
        let kind = match what % 2 {
            0 => EventKind::MessageRead {
                user: key.user,
                message: MessageId(self.next_message),
            },
            _ => match what / 2 % 1000 < MENTIONING_PERMILLE {
                true => self.message(key.channel, vec![key.user]),
                false => self.message(key.channel, Vec::new()),
            },
        };
        self.send(key.channel, kind);
    }

    /// By one of the channel's members.
    fn message(&mut self, channel: ChannelId, mentioned: Vec<UserId>) -> EventKind {
        self.next_message += 1;
        let members = self.world.members;
        let author = (channel.0 - FIRST_CHANNEL) * members + self.random.next() % members;
        EventKind::MessageCreated {
            message: MessageId(self.next_message),
            author: Some(self.world.key(author).user),
            mentions: Mentions::new(mentioned, false),
        }
    }

    fn send(&self, channel: ChannelId, kind: EventKind) {
        let event = encode_event(&Event { channel, kind });
        let key = channel.to_string();
        let mut record = BaseRecord::to(&self.topic)
            .partition(partition_of(channel, self.partitions).0 as i32)
            .key(&key)
            .payload(&event);
        while let Err((_, back)) = self.producer.send(record) {
            record = back;
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Events at a rate.
pub struct Steady {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: thread::JoinHandle<Traffic>,
}

impl Steady {
    /// Published so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn stop(self) -> Traffic {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
