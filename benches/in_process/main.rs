//! How fast the state machines of partitions are on one thread: no stream, no store, no network.
//!
//!     cargo bench --bench in_process -- [READ_STATES] [PARTITIONS] [EVENTS] [--even] [--json]
//!     cargo bench --bench in_process -- pauses [READ_STATES] [PARTITIONS] [EVICTIONS] [--json]
//!     cargo bench --bench in_process -- growth [CASE]
//!
//! The store has nothing and acknowledges at once; changes are written a second later, at a million events a second. The
//! first form: every read state comes into the cache and is written, then events are applied that find all they need there, once to see how
//! many that are in a second and once with the clock read around each call. Channels are as busy as Zipf's law says, or with
//! `--even` all alike, so that next to nothing is in the processor's caches. `pauses`: the longest of all calls while the cache fills,
//! while as many read states leave it, and while the partitions are given up after a message in every channel; then the longest time
//! between two looks at the clock, which is the machine's own. `growth`: what an event and an answer cost where there is more of something, a line of
//! JSON for each case.
//!
//! Events are made beforehand. Times are CPU times of the thread, since others may use the processor as well; the longest of
//! millions has interrupts in it all the same.
#![allow(clippy::unwrap_used, missing_docs)]

mod driven;
mod growth;
#[path = "../support/random.rs"]
mod random;
mod traffic;

use std::time::Instant;

use driven::{Driven, clock_ns, cpu_ns, page_ns, rss_bytes};
use traffic::{Chat, Traffic};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Members of a channel.
const MEMBERS: u64 = 100;
/// Events that are made at a time.
const MADE_AT_ONCE: u64 = 4_000_000;

fn main() {
    readstates::memory::use_small_pages();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let numbers: Vec<u64> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    let number = |index: usize, otherwise| numbers.get(index).copied().unwrap_or(otherwise);
    let (read_states, partitions) = (number(0, 8_000_000), number(1, 16));
    if has("growth") {
        growth::measure(&arguments);
    } else if has("pauses") {
        pauses(read_states, partitions, number(2, 40_000_000), has("--json"));
    } else {
        throughput(read_states, partitions, number(2, 20_000_000), &has);
    }
}

fn throughput(read_states: u64, partitions: u64, events: u64, has: &impl Fn(&str) -> bool) {
    let chat = Chat {
        channels: read_states / MEMBERS,
        members: MEMBERS,
        is_skewed: !has("--even"),
    };
    let mut traffic = Traffic::new(chat);
    let before = rss_bytes();
    let mut driven = Driven::new(read_states, partitions);
    let began = cpu_ns();
    driven.apply_all(chat.joins());
    let cold_per_second = read_states as f64 / seconds_since(began);
    let rss = (rss_bytes() - before) as f64 / read_states as f64;
    let missed = driven.missed();
    driven.write_all();

    // Not freed before the end: its memory would be given back in the middle of what is measured.
    let mut made = Vec::with_capacity(MADE_AT_ONCE as usize);
    let (mut wall, mut cpu) = (0.0, 0.0);
    for count in portions(events) {
        made.extend((0..count).map(|_| traffic.event()));
        let began = (Instant::now(), cpu_ns());
        driven.apply_all(made.drain(..));
        wall += began.0.elapsed().as_secs_f64();
        cpu += seconds_since(began.1);
    }

    driven.start_timing();
    for count in portions(events.div_ceil(5)) {
        made.extend((0..count).map(|_| traffic.event()));
        driven.apply_all(made.drain(..));
    }
    let timed = driven.stop_timing();
    assert_eq!(driven.missed(), missed, "everything is cached");
    let at = |quantile| timed.events_ns.value_at_quantile(quantile);
    let (p50, p99, p999, longest) = (at(0.5), at(0.99), at(0.999), timed.longest_ns());
    let batch_p999 = timed.batches_ns.value_at_quantile(0.999);
    let (per_second, per_second_wall) = (events as f64 / cpu, events as f64 / wall);
    let (clock, page) = (clock_ns(), page_ns());
    if has("--json") {
        println!(
            "{{\"read_states\":{read_states},\"partitions\":{partitions},\"events\":{events},\"is_skewed\":{},\"events_per_second\":{per_second:.0},\"events_per_second_wall\":{per_second_wall:.0},\"cold_events_per_second\":{cold_per_second:.0},\"p50_ns\":{p50},\"p99_ns\":{p99},\"p999_ns\":{p999},\"longest_ns\":{longest},\"batch_p999_ns\":{batch_p999},\"clock_ns\":{clock},\"page_ns\":{page},\"rss_bytes_per_read_state\":{rss:.1}}}",
            chat.is_skewed
        );
        return;
    }
    println!(
        "{read_states} read states, {} channels, {partitions} partitions, {events} events\n\
         every one cold: {:.2} M events/s of CPU; RSS {rss:.1} bytes for each read state, channels included\n\
         all cached: {:.2} M events/s of CPU, {:.2} M events/s by the wall's clock\n\
         an event, with {clock} ns of the clock: p50 {p50} ns, p99 {p99} ns, p99.9 {p999} ns; a page touched for the first time: {page} ns\n\
         what is done for a batch: p99.9 {batch_p999} ns; the longest of all calls: {:.1} µs",
        chat.channels,
        cold_per_second / 1e6,
        per_second / 1e6,
        per_second_wall / 1e6,
        longest as f64 / 1e3
    );
}

/// Users join who were never heard of: each takes the place of another once the cache is full.
fn pauses(read_states: u64, partitions: u64, evictions: u64, is_json: bool) {
    let channels = read_states / MEMBERS;
    let chat = Chat {
        channels,
        members: (read_states + evictions).div_ceil(channels),
        is_skewed: false,
    };
    let mut driven = Driven::new(read_states, partitions);
    let mut joins = chat.joins();
    let mut measure = |count: u64| {
        driven.start_timing();
        driven.apply_all(joins.by_ref().take(count as usize));
        (driven.stop_timing(), driven.evicted())
    };
    let (filling, none) = measure(read_states);
    let (evicting, evicted) = measure(evictions);
    let mut traffic = Traffic::new(chat);
    let everywhere: Vec<_> = (0..channels)
        .map(|channel| traffic.message(channel, 0, false))
        .collect();
    driven.apply_all(everywhere);
    driven.start_timing();
    driven.drain();
    let draining_ns = driven.stop_timing().longest_ns();
    let (filling_ns, evicting_ns) = (filling.longest_ns(), evicting.longest_ns());
    let nothing_ns = longest_of_nothing(evictions);
    if is_json {
        println!(
            "{{\"read_states\":{read_states},\"partitions\":{partitions},\"evictions\":{evicted},\"longest_filling_ns\":{filling_ns},\"longest_evicting_ns\":{evicting_ns},\"longest_draining_ns\":{draining_ns},\"longest_of_nothing_ns\":{nothing_ns},\"event_p50_ns\":{},\"event_p999_ns\":{}}}",
            evicting.events_ns.value_at_quantile(0.5),
            evicting.events_ns.value_at_quantile(0.999)
        );
        return;
    }
    println!(
        "{read_states} read states came ({none} evicted meanwhile), the longest call took {:.1} µs\n\
         {evicted} were evicted, the longest call took {:.1} µs\n\
         {channels} channels changed and all partitions were given up, the longest call took {:.1} µs\n\
         the longest of {evictions} times between two looks at the clock was {:.1} µs",
        filling_ns as f64 / 1e3,
        evicting_ns as f64 / 1e3,
        draining_ns as f64 / 1e3,
        nothing_ns as f64 / 1e3
    );
}

/// What the machine alone makes of it: the longest time between two looks at the clock, with nothing between them.
fn longest_of_nothing(times: u64) -> u64 {
    (0..times)
        .fold((cpu_ns(), 0), |(before, longest), _| {
            let now = cpu_ns();
            (now, longest.max(now - before))
        })
        .1
}

/// A count in parts of at most [`MADE_AT_ONCE`].
fn portions(count: u64) -> impl Iterator<Item = u64> {
    (0..count.div_ceil(MADE_AT_ONCE)).map(move |part| (count - part * MADE_AT_ONCE).min(MADE_AT_ONCE))
}

fn seconds_since(began_ns: u64) -> f64 {
    (cpu_ns() - began_ns) as f64 / 1e9
}
