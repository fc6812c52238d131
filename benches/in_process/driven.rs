//! Partitions of one thread, driven as the service drives them, with a store that has nothing and acknowledges at once.

use hdrhistogram::Histogram;
use readstates::memory;
use readstates::model::event::Event;
use readstates::model::ids::{LogPosition, Offset, ReadStateKey};
use readstates::partition::io::{Effect, Get, Input, LoadKey, LoadedRow, Millis, Reply, RequestId, Write};
use readstates::partition::{Partition, Phase, ReadStateCache, Settings, Share};
use rustix::time::{ClockId, clock_gettime};

/// Records between two looks at what is due, as the threads take them.
const BATCH_RECORDS: usize = 64;
/// Events in a millisecond, by the clock that partitions see.
const EVENTS_PER_MS: u64 = 1000;
/// Changes are written this much later, so that it goes on all the time.
const WRITE_DELAY_MS: u64 = 1000;
const START_MS: u64 = 86_400_000;

/// Partitions of one thread.
pub struct Driven {
    partitions: Vec<Partition>,
    offsets: Vec<u64>,
    waiting: Vec<Vec<Event>>,
    effects: Vec<Effect>,
    events: u64,
    /// Where that is asked for: the clock takes a while itself.
    timed: Option<Timed>,
}

/// Times of single calls, in CPU time of the thread, with that of reading the clock.
pub struct Timed {
    /// Of each event with all that came of it: rows that were loaded, acknowledgements.
    pub events_ns: Histogram<u64>,
    /// Of what is done for a batch: looking ahead, and afterwards writing and evicting, with acknowledgements.
    pub batches_ns: Histogram<u64>,
}

impl Timed {
    fn new() -> Self {
        let histogram = || Histogram::new_with_bounds(1, 10_000_000_000, 3).unwrap();
        Timed {
            events_ns: histogram(),
            batches_ns: histogram(),
        }
    }

    pub fn longest_ns(&self) -> u64 {
        self.events_ns.max().max(self.batches_ns.max())
    }
}

impl Driven {
    pub fn new(read_states: u64, partitions: u64) -> Self {
        let cache = memory::in_huge_pages(|| ReadStateCache::new(read_states as usize));
        let share = Share {
            channel_bytes: usize::MAX,
            dirty: usize::MAX,
        };
        let partition = |number| {
            let settings = Settings {
                write_delay_ms: WRITE_DELAY_MS,
                ..Settings::default()
            };
            let start = LogPosition::start(0);
            Partition::new(settings, share, cache.clone(), number, start, Offset(0))
        };
        Driven {
            partitions: (0..partitions).map(partition).collect(),
            offsets: vec![0; partitions as usize],
            waiting: (0..partitions)
                .map(|_| Vec::with_capacity(BATCH_RECORDS))
                .collect(),
            effects: Vec::new(),
            events: 0,
            timed: None,
        }
    }

    fn now(&self) -> Millis {
        Millis(START_MS + self.events / EVENTS_PER_MS)
    }

    /// Takes times of single calls from now on.
    pub fn start_timing(&mut self) {
        self.timed = Some(Timed::new());
    }

    /// What was taken since then.
    pub fn stop_timing(&mut self) -> Timed {
        self.timed.take().unwrap()
    }

    /// Applies events, each with those of its partition that a thread takes at a time.
    pub fn apply_all(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            let index = self.partition_of(event.channel.0);
            self.waiting[index].push(event);
            if self.waiting[index].len() == BATCH_RECORDS {
                self.apply(index);
            }
        }
        (0..self.partitions.len()).for_each(|index| self.apply(index));
    }

    /// Lets time pass until everything is in the store.
    pub fn write_all(&mut self) {
        // More than the delay: times are kept in coarse units.
        self.events += 2 * WRITE_DELAY_MS * EVENTS_PER_MS;
        for index in 0..self.partitions.len() {
            while self.partitions[index].standing().dirty > 0 {
                self.apply(index);
            }
        }
    }

    /// Gives all partitions up: everything is written without delay.
    pub fn drain(&mut self) {
        let now = self.now();
        for index in 0..self.partitions.len() {
            self.partitions[index].handle(now, Input::Drain, &mut self.effects);
            while self.partitions[index].phase() != Phase::Drained {
                self.apply(index);
            }
        }
    }

    fn partition_of(&self, channel: u64) -> usize {
        (channel % self.partitions.len() as u64) as usize
    }

    fn timed(&mut self, of: fn(&mut Timed) -> &mut Histogram<u64>, call: impl FnOnce(&mut Self)) {
        let began = self.timed.is_some().then(cpu_ns);
        call(self);
        if let Some((began, timed)) = began.zip(self.timed.as_mut()) {
            of(timed).record((cpu_ns() - began).max(1)).unwrap();
        }
    }

    fn apply(&mut self, index: usize) {
        let now = self.now();
        let mut events = std::mem::take(&mut self.waiting[index]);
        self.timed(
            |timed| &mut timed.batches_ns,
            |driven| driven.partitions[index].prefetch(events.iter()),
        );
        for event in events.drain(..) {
            let offset = Offset(self.offsets[index]);
            self.offsets[index] += 1;
            self.events += 1;
            let record = Input::Record {
                offset,
                event: Some(event),
            };
            self.timed(
                |timed| &mut timed.events_ns,
                |driven| {
                    driven.partitions[index].handle(now, record, &mut driven.effects);
                    driven.answer(index);
                },
            );
        }
        self.waiting[index] = events;
        self.timed(
            |timed| &mut timed.batches_ns,
            |driven| {
                driven.partitions[index].settle(now, &mut driven.effects);
                driven.answer(index);
            },
        );
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

    /// Asks about one key, which is cached.
    pub fn ask(&mut self, key: ReadStateKey) {
        let now = self.now();
        let get = Get {
            request: RequestId(0),
            keys: vec![key],
            after: None,
            deadline: Millis(now.0 + 1000),
            explain: false,
        };
        let index = self.partition_of(key.channel.0);
        self.partitions[index].handle(now, Input::Get(get), &mut self.effects);
        let Some(Effect::Reply {
            reply: Reply::Answers(answers),
            ..
        }) = self.effects.pop()
        else {
            panic!("{key:?} is not cached");
        };
        assert!(answers[0].as_ref().is_ok_and(|answer| answer.exists), "{key:?}");
    }

    /// Read states that were evicted.
    pub fn evicted(&self) -> u64 {
        let counters = self.partitions.iter().map(|partition| partition.counters());
        counters.map(|counters| counters.read_states_evicted).sum()
    }

    /// Read states that had to be loaded.
    pub fn missed(&self) -> u64 {
        let counters = self.partitions.iter().map(|partition| partition.counters());
        counters.map(|counters| counters.read_state_misses).sum()
    }
}

/// CPU time of this thread.
pub fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What it takes to read that clock.
pub fn clock_ns() -> u64 {
    median_ns(100_000, |_| ())
}

/// What it takes to touch a page of memory for the first time, with the clock: a message that needs one waits for it.
pub fn page_ns() -> u64 {
    const PAGES: usize = 16_384;
    let page_bytes = rustix::param::page_size();
    let mut memory = vec![0_u8; PAGES * page_bytes];
    median_ns(PAGES, |page| {
        std::hint::black_box(&mut memory)[page * page_bytes] = 1
    })
}

fn median_ns(times: usize, mut call: impl FnMut(usize)) -> u64 {
    let mut times: Vec<u64> = (0..times)
        .map(|number| {
            let began = cpu_ns();
            call(number);
            cpu_ns() - began
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Memory of this process.
pub fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}
