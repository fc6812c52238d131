//! How fast a partition's state machine is in one process: no stream, no store, no network.
//!
//!     cargo bench --bench in_process -- [READ_STATES] [PARTITIONS] [EVENTS]
//!
//! Rows that are asked for are not there, writes are acknowledged at once. First every read state comes into the cache
//! and is changed once, then events are applied that find all they need there.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Instant;

use hdrhistogram::Histogram;
use readstates::model::event::{Event, EventKind, Mentions};
use readstates::model::ids::{ChannelId, LogPosition, MessageId, Offset, UserId};
use readstates::partition::io::{Effect, Input, LoadKey, LoadedRow, Millis, Write};
use readstates::partition::{Partition, ReadStateCache, Settings, Share};
use rustix::time::{ClockId, clock_gettime};

/// Records between two looks at what is due, as the threads take them.
const BATCH_RECORDS: usize = 64;
/// Events in a second, by the clock that partitions see.
const EVENTS_PER_MS: u64 = 1000;
/// Members of a channel.
const MEMBERS: u64 = 100;

/// SplitMix64, by Steele, Lea and Flood, 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Partitions of one thread, each with a store that has nothing and forgets everything.
struct Driven {
    partitions: Vec<Partition>,
    offsets: Vec<u64>,
    waiting: Vec<Vec<Event>>,
    effects: Vec<Effect>,
    events: u64,
    /// Of each event, in CPU time, where that is asked for: the clock takes a while itself.
    latencies_ns: Option<Histogram<u64>>,
}

impl Driven {
    fn new(read_states: usize, partitions: u64) -> Self {
        let cache = ReadStateCache::new(read_states);
        let share = Share {
            channel_bytes: usize::MAX,
            dirty: usize::MAX,
        };
        let partition = |number| {
            let settings = Settings {
                write_delay_ms: 1000,
                ..Settings::default()
            };
            Partition::new(
                settings,
                share,
                cache.clone(),
                number,
                LogPosition::start(0),
                Offset(0),
            )
        };
        Driven {
            partitions: (0..partitions).map(partition).collect(),
            offsets: vec![0; partitions as usize],
            waiting: vec![Vec::new(); partitions as usize],
            effects: Vec::new(),
            events: 0,
            latencies_ns: None,
        }
    }

    fn now(&self) -> Millis {
        Millis(86_400_000 + self.events / EVENTS_PER_MS)
    }

    /// Takes an event, and applies those of its partition once there are as many as a thread takes at a time.
    fn take(&mut self, event: Event) {
        let index = (event.channel.0 % self.partitions.len() as u64) as usize;
        self.waiting[index].push(event);
        if self.waiting[index].len() == BATCH_RECORDS {
            self.apply(index);
        }
    }

    fn apply(&mut self, index: usize) {
        let now = self.now();
        let mut events = std::mem::take(&mut self.waiting[index]);
        self.partitions[index].prefetch(events.iter());
        for event in events.drain(..) {
            let offset = Offset(self.offsets[index]);
            self.offsets[index] += 1;
            self.events += 1;
            let event = Some(event);
            let began = self.latencies_ns.is_some().then(cpu_ns);
            self.partitions[index].handle(now, Input::Record { offset, event }, &mut self.effects);
            self.answer(index);
            if let Some((began, latencies_ns)) = began.zip(self.latencies_ns.as_mut()) {
                latencies_ns.record((cpu_ns() - began).max(1)).unwrap();
            }
        }
        self.waiting[index] = events;
        self.partitions[index].settle(now, &mut self.effects);
        self.answer(index);
    }

    fn apply_all(&mut self) {
        (0..self.partitions.len()).for_each(|index| self.apply(index));
    }

    fn answer(&mut self, index: usize) {
        let now = self.now();
        while let Some(effect) = self.effects.pop() {
            let input = match effect {
                Effect::Load { token, key, .. } => Input::Loaded {
                    token,
                    row: match key {
                        LoadKey::ReadState(_) => LoadedRow::ReadState(None),
                        LoadKey::Head(_) => LoadedRow::Head(None),
                        LoadKey::Node(..) => LoadedRow::Node(None),
                    },
                },
                Effect::Write(
                    write @ (Write::ReadState(..)
                    | Write::Node(..)
                    | Write::Head(..)
                    | Write::DeleteNodesBelow(..)),
                ) => Input::Written(write.key()),
                Effect::StorePosition(position) => Input::PositionStored(position),
                Effect::Reply { .. } | Effect::Drained => continue,
            };
            self.partitions[index].handle(now, input, &mut self.effects);
        }
    }
}

fn event(random: &mut Random, channels: u64, message: u64) -> Event {
    let channel = random.below(channels);
    let member = |random: &mut Random| UserId(1 + channel * MEMBERS + random.below(MEMBERS));
    let kind = match random.below(100) {
        0..50 => EventKind::MessageCreated {
            message: MessageId(message),
            author: Some(member(random)),
            mentions: Mentions {
                users: match random.below(5) {
                    0 => Box::new([member(random)]),
                    _ => Box::default(),
                },
                everyone: false,
            },
        },
        _ => EventKind::MessageRead {
            user: member(random),
            message: MessageId(message),
        },
    };
    Event {
        channel: ChannelId(1 + channel),
        kind,
    }
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let number = |index: usize, otherwise| numbers.get(index).copied().unwrap_or(otherwise);
    let (read_states, partitions, events) = (number(0, 8_000_000), number(1, 16), number(2, 20_000_000));
    let channels = read_states / MEMBERS;
    let mut random = Random(1);
    let before = rss_bytes();
    let mut driven = Driven::new(read_states as usize, partitions);

    let began = Instant::now();
    for user in 0..MEMBERS {
        for channel in 0..channels {
            let kind = EventKind::MemberJoined {
                user: UserId(1 + channel * MEMBERS + user),
            };
            driven.take(Event {
                channel: ChannelId(1 + channel),
                kind,
            });
        }
    }
    driven.apply_all();
    let seconds = began.elapsed().as_secs_f64();
    let bytes = (rss_bytes() - before) as f64 / read_states as f64;
    println!(
        "{read_states} read states, {channels} channels, {partitions} partitions\nevery one cold: {:.2} M events/s; RSS {bytes:.1} bytes for each read state, channels included",
        read_states as f64 / seconds / 1e6
    );

    let made: Vec<Event> = (0..events.min(4_000_000))
        .map(|number| event(&mut random, channels, 1_000_000 + number))
        .collect();
    let began = (Instant::now(), cpu_ns());
    for event in &made {
        driven.take(event.clone());
    }
    driven.apply_all();
    let (wall, cpu) = (began.0.elapsed().as_secs_f64(), (cpu_ns() - began.1) as f64 / 1e9);
    println!(
        "all cached: {:.2} M events/s, {:.2} M events per second of CPU",
        made.len() as f64 / wall / 1e6,
        made.len() as f64 / cpu / 1e6
    );

    driven.latencies_ns = Some(Histogram::new_with_bounds(1, 10_000_000_000, 3).unwrap());
    let made: Vec<Event> = (0..events.min(4_000_000))
        .map(|number| event(&mut random, channels, 9_000_000 + number))
        .collect();
    for event in made {
        driven.take(event);
    }
    driven.apply_all();
    let histogram = driven.latencies_ns.take().unwrap();
    println!(
        "each event, in CPU time: p50 {} ns, p99 {} ns, p99.9 {} ns, longest {} µs",
        histogram.value_at_quantile(0.5),
        histogram.value_at_quantile(0.99),
        histogram.value_at_quantile(0.999),
        histogram.max() / 1000
    );
}
