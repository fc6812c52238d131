//! The cache of read states beside what others would use, with the same keys, as large values, and the same trace.
//!
//!     cargo bench --bench caches            all of them, each in a process of its own
//!
//! `ENTRIES` (8,000,000) is the capacity, `LOOKUPS` (8,000,000) the length of the trace, in which a key's share falls with its rank (Zipf,
//! exponent 1) over twice as many keys as there is room for, `ROUNDS` (3) how many turns, and `CACHES` which of them. Each measurement
//! is a line of JSON. What is measured: filling up; looking up keys that are there, in the order of the
//! trace; the trace with an insertion for each miss; as many new keys, each in place of another; the longest single insertion, by the thread's CPU time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/random.rs"]
#[allow(dead_code)]
mod random;

use std::collections::HashMap;
use std::env;
use std::hint::black_box;
use std::process::Command;

use random::Random;
use readstates::model::ids::{ChannelId, LogPosition, MessageId, ReadStateKey, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::Millis;
use readstates::partition::slab::{Slab, Tenant, Time};
use rustix::time::{ClockId, clock_gettime};

const CACHES: &str = "slab,slab-batch,lru,hashlink,quick_cache,moka,HashMap";
/// Looked up together where a cache can do that: as many records as a thread takes at a time.
const BATCH: usize = 64;
/// Keys of the trace for one place in the cache.
const KEYS_PER_ENTRY: u64 = 2;

/// 24 bytes, as the smallest read state would take: last read, applied, a mention.
type Value = [u64; 3];
type Key = (u64, u64);

fn key(rank: u64) -> Key {
    // One to one, so that neighbours in rank are not neighbours anywhere else.
    let user = rank.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1 | 1;
    (user, 70_000 + rank % 100_000)
}

/// The rank of a random place in a Zipf distribution with exponent 1: by the inverse of its integral.
fn rank(random: &mut Random, keys: u64) -> u64 {
    ((keys as f64 + 1.0).powf(random.fraction()) as u64 - 1).min(keys - 1)
}

/// What is asked of each. `get` counts as a use.
trait Cache {
    fn get(&mut self, key: Key) -> Option<u64>;
    /// One that is not there; something else leaves where there is no room.
    fn insert(&mut self, key: Key, value: Value);
    /// Looks at what is about to be asked for.
    fn prefetch(&self, _keys: &[Key]) {}
    fn batch(&self) -> usize {
        1
    }
}

struct Ours {
    slab: Slab,
    tenant: Tenant,
    batch: usize,
}

fn ours((user, channel): Key) -> ReadStateKey {
    ReadStateKey {
        user: UserId(user),
        channel: ChannelId(channel),
    }
}

impl Cache for Ours {
    fn get(&mut self, key: Key) -> Option<u64> {
        let slot = self.slab.find(self.tenant, &ours(key))?;
        Some(self.slab.applied(slot).to_bits())
    }

    fn insert(&mut self, key: Key, value: Value) {
        let state = ReadState {
            applied: LogPosition::from_bits(value[0]),
            last_read: MessageId(value[1]),
            ..ReadState::default()
        };
        self.slab
            .insert(self.tenant, &ours(key), &state, true, Time::default());
        self.slab.evict(Millis(1 << 30));
    }

    fn prefetch(&self, keys: &[Key]) {
        if self.batch > 1 {
            self.slab.prefetch(keys.iter().map(|key| ours(*key)));
        }
    }

    fn batch(&self) -> usize {
        self.batch
    }
}

impl Cache for lru::LruCache<Key, Value> {
    fn get(&mut self, key: Key) -> Option<u64> {
        lru::LruCache::get(self, &key).map(|value| value[0])
    }

    fn insert(&mut self, key: Key, value: Value) {
        self.push(key, value);
    }
}

struct Linked(hashlink::LruCache<Key, Value>);

impl Cache for Linked {
    fn get(&mut self, key: Key) -> Option<u64> {
        self.0.get(&key).map(|value| value[0])
    }

    fn insert(&mut self, key: Key, value: Value) {
        self.0.insert(key, value);
    }
}

impl Cache for quick_cache::unsync::Cache<Key, Value> {
    fn get(&mut self, key: Key) -> Option<u64> {
        quick_cache::unsync::Cache::get(self, &key).map(|value| value[0])
    }

    fn insert(&mut self, key: Key, value: Value) {
        quick_cache::unsync::Cache::insert(self, key, value);
    }
}

impl Cache for moka::sync::Cache<Key, Value> {
    fn get(&mut self, key: Key) -> Option<u64> {
        moka::sync::Cache::get(self, &key).map(|value| value[0])
    }

    fn insert(&mut self, key: Key, value: Value) {
        moka::sync::Cache::insert(self, key, value);
    }
}

/// Without any order of use: at its capacity whatever comes first leaves.
struct Plain(HashMap<Key, Value>, usize);

impl Cache for Plain {
    fn get(&mut self, key: Key) -> Option<u64> {
        self.0.get(&key).map(|value| value[0])
    }

    fn insert(&mut self, key: Key, value: Value) {
        if self.0.len() < self.1 {
            self.0.insert(key, value);
        }
    }
}

fn made(name: &str, entries: usize) -> Box<dyn Cache> {
    match name {
        "slab" | "slab-batch" => {
            let mut slab = Slab::new(entries);
            let tenant = slab.admit();
            let batch = if name == "slab" { 1 } else { BATCH };
            Box::new(Ours { slab, tenant, batch })
        }
        "lru" => Box::new(lru::LruCache::new(entries.try_into().unwrap())),
        "hashlink" => Box::new(Linked(hashlink::LruCache::new(entries))),
        "quick_cache" => Box::new(quick_cache::unsync::Cache::<Key, Value>::new(entries)),
        "moka" => Box::new(moka::sync::Cache::<Key, Value>::new(entries as u64)),
        "HashMap" => Box::new(Plain(HashMap::new(), entries)),
        other => panic!("no such cache: {other}"),
    }
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |number| number.parse().unwrap())
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

/// What one process measures: a line of JSON.
fn measure(name: &str) {
    let (entries, lookups) = (number("ENTRIES", 8_000_000), number("LOOKUPS", 8_000_000));
    let keys = entries * KEYS_PER_ENTRY;
    let mut random = Random(1);
    // The pages of the traces are there before memory is looked at.
    let there: Vec<Key> = (0..lookups).map(|_| key(rank(&mut random, entries))).collect();
    let trace: Vec<Key> = (0..lookups).map(|_| key(rank(&mut random, keys))).collect();
    let mut cache = made_after(name, entries, rss_bytes());

    // From the least asked for to the most.
    let (fill_ns, growing_longest) = put_in(&mut *cache.0, (0..entries).rev());
    let bytes = (rss_bytes() - cache.1) as f64 / entries as f64;

    let began = cpu_ns();
    let found = look_up(&mut *cache.0, &there);
    let hit_ns = (cpu_ns() - began) as f64 / lookups as f64;

    let (misses, churn_ns) = churn(&mut *cache.0, &trace);
    // Keys that were never there, each in place of another.
    let (evict_ns, evicting_longest) = put_in(&mut *cache.0, keys..keys + entries);
    let line = serde_json::json!({
        "cache": name, "entries": entries, "bytes_per_entry": bytes, "fill_ns": fill_ns,
        "hit_ns": hit_ns, "found": found as f64 / lookups as f64,
        "hit_ratio": 1.0 - misses as f64 / lookups as f64,
        "trace_ns": churn_ns,
        "longest_growing_us": growing_longest as f64 / 1e3, "evict_ns": evict_ns, "longest_evicting_us": evicting_longest as f64 / 1e3,
    });
    println!("{line}");
}

fn made_after(name: &str, entries: u64, before: u64) -> (Box<dyn Cache>, u64) {
    (made(name, entries as usize), before)
}

/// Of a look at the clock, which is a call of the system, when nothing comes in between.
fn clock_ns() -> f64 {
    const LOOKS: u64 = 100_000;
    const ROUNDS: usize = 10;
    let looks_ns = || {
        let began = cpu_ns();
        for _ in 0..LOOKS {
            black_box(cpu_ns());
        }
        cpu_ns() - began
    };
    let least_ns = (0..ROUNDS).map(|_| looks_ns()).min().unwrap_or_default();
    least_ns as f64 / LOOKS as f64
}

/// Puts keys in that are not there: nanoseconds for each without the clock, and the longest.
fn put_in(cache: &mut dyn Cache, ranks: impl Iterator<Item = u64>) -> (f64, u64) {
    let began = cpu_ns();
    let (mut longest, mut last, mut entries) = (0, began, 0);
    for rank in ranks {
        entries += 1;
        cache.insert(key(rank), [rank; 3]);
        let now = cpu_ns();
        longest = longest.max(now - last);
        last = now;
    }
    ((last - began) as f64 / entries as f64 - clock_ns(), longest)
}

fn look_up(cache: &mut dyn Cache, keys: &[Key]) -> u64 {
    let mut found = 0;
    for keys in keys.chunks(cache.batch()) {
        cache.prefetch(keys);
        for key in keys {
            found += u64::from(black_box(cache.get(*key)).is_some());
        }
    }
    found
}

/// Looks up, and inserts what is not there: misses, and nanoseconds for each key.
fn churn(cache: &mut dyn Cache, trace: &[Key]) -> (u64, f64) {
    let began = cpu_ns();
    let mut misses = 0;
    for keys in trace.chunks(cache.batch()) {
        cache.prefetch(keys);
        for key in keys {
            if cache.get(*key).is_none() {
                misses += 1;
                cache.insert(*key, [key.1; 3]);
            }
        }
    }
    (misses, (cpu_ns() - began) as f64 / trace.len() as f64)
}

fn main() {
    if let Ok(name) = env::var("CACHE") {
        return measure(&name);
    }
    let caches = env::var("CACHES").unwrap_or_else(|_| CACHES.into());
    for _ in 0..number("ROUNDS", 3) {
        for name in caches.split(',') {
            let output = Command::new(env::current_exe().unwrap())
                .env("CACHE", name)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            print!("{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
