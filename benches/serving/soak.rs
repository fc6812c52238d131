//! A long time at a steady rate, with more read states than the cache has room for: what each ten seconds were like.
//!
//! `MINUTES` (20), `EVENTS` (20000 a second), `QUERIES` (2000 a second), `CACHE` (8000000 read states), `STORE`
//! (`cassandra` or `embedded`).

use std::time::{Duration, Instant};

use prost::Message;
use readstates::wire::proto::v1::OverviewRequest;
use serde_json::json;

use crate::asking::{Outcome, Outcomes, Question, ask_at_rate};
use crate::number;
use crate::queries::request;
use crate::random::Random;
use crate::service::Service;
use crate::stand::{Results, Stand, wait_until_applied, wait_until_written};
use crate::traffic::{Traffic, World};

const PARTITIONS: u32 = 16;
const WINDOW: Duration = Duration::from_secs(10);
/// Users of a channel.
const MEMBERS: u64 = 240;
/// Channels of a user.
const CHANNELS_EACH: u64 = 12;
/// Of a hundred questions, how many are overviews. The others ask for one read state.
const OVERVIEWS_PERCENT: u64 = 5;
const KINDS: [&str; 2] = ["get", "overview"];

pub fn run() {
    let cache = number("CACHE", 8_000_000);
    // A fifth more than the cache has room for.
    let channels = (cache * 6 / 5 / MEMBERS).next_multiple_of(CHANNELS_EACH);
    let world = World {
        users: channels * MEMBERS / CHANNELS_EACH,
        channels,
        members: MEMBERS,
    };
    let store = std::env::var("STORE").unwrap_or_else(|_| "cassandra".into());
    let mut settings = vec![
        ("cache.read_states", cache.to_string()),
        ("store.kind", store.clone()),
        ("cache.channel_memory", "1GiB".to_owned()),
    ];
    if store == "embedded" {
        let folder = crate::servers::fresh_dir("soak-store");
        settings.push(("store.embedded.path", folder.join("store").display().to_string()));
    }
    let stand = Stand::start("soak", PARTITIONS, settings);
    let service = stand.serve("it");
    let mut traffic = Traffic::new(
        &stand.deployment.brokers,
        &stand.deployment.topic(),
        PARTITIONS,
        world,
    );
    let began = Instant::now();
    let events = traffic.fill();
    wait_until_applied(&service);
    println!(
        "{} read states of {} users in {} channels began by {events} events in {:.0?}; RSS {} MiB",
        world.read_states(),
        world.users,
        world.channels,
        began.elapsed(),
        service.resident_bytes() >> 20,
    );
    wait_until_written(&service);
    println!(
        "all written after {:.0?}; RSS {} MiB",
        began.elapsed(),
        service.resident_bytes() >> 20
    );
    soak(&stand, service, traffic, world);
}

fn soak(stand: &Stand, mut service: Service, traffic: Traffic, world: World) {
    let time = Duration::from_secs(60 * number("MINUTES", 20));
    let rate = number("QUERIES", 2000);
    let runtime = crate::runtime();
    let outcomes = Outcomes::new(KINDS.len());
    let steady = traffic.keep_on(number("EVENTS", 20_000));
    let asking = {
        let (outcomes, nats) = (outcomes.clone(), stand.deployment.nats.clone());
        let next = questions(stand.deployment.name.clone(), world);
        runtime.spawn(async move {
            let nats = async_nats::connect(nats).await.unwrap();
            ask_at_rate(&nats, rate, time, next, &outcomes).await;
        })
    };
    let mut results = Results::new("soak");
    let began = Instant::now();
    let mut before = Counted::of(&service, steady.count());
    let mut all = vec![Outcome::new(); KINDS.len()];
    println!(
        "seconds | kind: p50 p99 p99.9 longest, ms | events/s | lag | RSS MiB | evicted/s | read/s | written/s"
    );
    for window in 1..=(time.as_secs() / WINDOW.as_secs()) {
        let end = began + WINDOW * window as u32;
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        service.assert_runs();
        let taken = outcomes.take();
        let now = Counted::of(&service, steady.count());
        note(
            &mut results,
            (end - began).as_secs(),
            &taken,
            &now.since(&before),
            &service,
        );
        before = now;
        for (all, taken) in all.iter_mut().zip(&taken) {
            all.add(taken);
        }
    }
    runtime.block_on(asking).unwrap();
    steady.stop();
    for (kind, all) in KINDS.iter().zip(&all) {
        println!(
            "{kind}: {} asked, {} without an answer; p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, longest {:.3} ms",
            all.latencies_ns.len(),
            all.failed,
            all.ms(0.5),
            all.ms(0.99),
            all.ms(0.999),
            all.longest_ms()
        );
    }
    println!("the log: {:#?}", service.complaints());
}

fn questions(prefix: String, world: World) -> impl FnMut() -> Question + Send + 'static {
    let mut random = Random(7);
    move || {
        let key = world.pick(&mut random);
        match random.next() % 100 < OVERVIEWS_PERCENT {
            true => Question {
                subject: format!("{prefix}.v1.overview"),
                request: OverviewRequest {
                    user_id: key.user.0,
                    ..Default::default()
                }
                .encode_to_vec()
                .into(),
                kind: 1,
            },
            false => Question {
                subject: format!("{prefix}.v1.get"),
                request: request(&[key]),
                kind: 0,
            },
        }
    }
}

/// What only grows, and when it was looked at.
struct Counted {
    at: Instant,
    published: u64,
    evicted: f64,
    read: f64,
    written: f64,
}

/// In a second.
struct Rates {
    published: f64,
    evicted: f64,
    read: f64,
    written: f64,
}

impl Counted {
    fn of(service: &Service, published: u64) -> Self {
        Counted {
            at: Instant::now(),
            published,
            evicted: service.metric("readstates_cache_evictions_total", "kind=\"read_state\""),
            read: service.metric("readstates_store_reads_total", ""),
            written: service.metric("readstates_store_writes_total", ""),
        }
    }

    fn since(&self, before: &Counted) -> Rates {
        let seconds = (self.at - before.at).as_secs_f64();
        Rates {
            published: (self.published - before.published) as f64 / seconds,
            evicted: (self.evicted - before.evicted) / seconds,
            read: (self.read - before.read) / seconds,
            written: (self.written - before.written) / seconds,
        }
    }
}

fn note(results: &mut Results, seconds: u64, taken: &[Outcome], rates: &Rates, service: &Service) {
    let rss_mib = service.resident_bytes() >> 20;
    let lag = service.metric("readstates_applied_lag_records", "");
    let dirty = service.metric("readstates_dirty_entries", "");
    let mut line = json!({
        "seconds": seconds, "rss_mib": rss_mib, "lag_records": lag, "dirty": dirty,
        "events_per_second": rates.published, "evicted_per_second": rates.evicted,
        "reads_per_second": rates.read, "writes_per_second": rates.written,
    });
    let mut said = format!("{seconds:>5}");
    for (kind, outcome) in KINDS.iter().zip(taken) {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| outcome.ms(quantile));
        let longest = outcome.longest_ms();
        said += &format!(" | {kind}: {p50:.2} {p99:.2} {p999:.2} {longest:.1}");
        for (name, value) in [("p50", p50), ("p99", p99), ("p999", p999), ("longest", longest)] {
            line[format!("{kind}_{name}_ms")] = json!(value);
        }
        line[format!("{kind}_failed")] = json!(outcome.failed);
    }
    println!(
        "{said} | {:.0} | {lag:.0} | {rss_mib} | {:.0} | {:.0} | {:.0}",
        rates.published, rates.evicted, rates.read, rates.written
    );
    results.add(&line);
}
