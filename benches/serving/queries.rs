//! Questions to the owner of a partition beside a NATS echo, in turns: with nothing else going on, and while events come at
//! half the rate that the whole of it can take.
//!
//! `ROUNDS` (6), `RATE` (2000 questions a second), `SECONDS` (5 for each of the two in each round).

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use readstates::model::ids::ReadStateKey;
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1::{GetReply, GetRequest, Key, OverviewReply, OverviewRequest};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::asking::{Outcome, Outcomes, Question, ask, ask_at_rate};
use crate::echo::Echo;
use crate::number;
use crate::random::Random;
use crate::servers::wait_for;
use crate::service::Service;
use crate::stand::{Results, Stand, wait_until_applied, wait_until_at_rest, wait_until_written};
use crate::traffic::{Traffic, World};

const PARTITIONS: u32 = 12;
/// Every user is in 500 channels.
const WORLD: World = World {
    users: 1000,
    channels: 5000,
    members: 100,
};
/// Users who have no channel in common: with each, other ones become warm.
const STRANGERS: [u64; 10] = [0, 100, 200, 300, 400, 500, 600, 700, 800, 900];
const KEYS_AT_ONCE: u64 = 1000;
/// Events by which the full rate is measured.
const FULL_EVENTS: u64 = 3_000_000;
const ECHO: &str = "echo";

pub fn run() {
    let stand = Stand::start("queries", PARTITIONS, Vec::new());
    let mut service = stand.serve("first");
    let mut traffic = Traffic::new(
        &stand.deployment.brokers,
        &stand.deployment.topic(),
        PARTITIONS,
        WORLD,
    );
    traffic.fill();
    wait_until_applied(&service);
    wait_until_written(&service);
    let mut bench = Bench {
        runtime: crate::runtime(),
        nats: stand.deployment.nats.clone(),
        prefix: stand.deployment.name.clone(),
        results: Results::new("queries"),
    };
    let reply_bytes = bench
        .answer(&question(&bench.prefix, &[WORLD.key(0)]))
        .unwrap()
        .len();
    let _echo = Echo::start(&stand.deployment.nats, ECHO, reply_bytes);
    wait_for("the echo answers", Duration::from_secs(30), || {
        bench.answer(&to_echo(Bytes::new())).is_some()
    });
    println!("a question asks for one read state, its answer has {reply_bytes} bytes");

    let busy = wait_until_at_rest();
    println!(
        "at rest: processors are busy for {:.1} % of the time",
        busy * 100.0
    );
    bench.beside_echo("nothing else");
    let full_rate = full_rate(&mut traffic, &service);
    let rss_mib = service.resident_bytes() >> 20;
    println!("events published and applied at the full rate: {full_rate}/s; RSS {rss_mib} MiB");
    let steady = traffic.keep_on(full_rate / 2);
    std::thread::sleep(Duration::from_secs(2));
    let (since, before) = (Instant::now(), steady.count());
    bench.beside_echo("events at half the full rate");
    let rate = (steady.count() - before) as f64 / since.elapsed().as_secs_f64();
    let lag = service.metric("readstates_applied_lag_records", "");
    println!("meanwhile {rate:.0} events/s were published; {lag:.0} are not applied yet");
    bench
        .results
        .add(&json!({"case": "ingest", "full_events_per_second": full_rate, "half_events_per_second": rate}));
    drop(steady.stop());
    wait_until_applied(&service);
    wait_until_written(&service);

    bench.large_ones("warm", 100);
    for cold in ["first time", "second time", "third time"] {
        service.terminate();
        service = stand.serve(cold);
        bench.large_ones("cold", 10);
    }
}

/// Events in a second, from the first that is published to the last that is applied.
fn full_rate(traffic: &mut Traffic, service: &Service) -> u64 {
    let began = Instant::now();
    traffic.publish(FULL_EVENTS);
    wait_until_applied(service);
    (FULL_EVENTS as f64 / began.elapsed().as_secs_f64()) as u64
}

struct Bench {
    runtime: Runtime,
    nats: String,
    prefix: String,
    results: Results,
}

impl Bench {
    fn answer(&self, question: &Question) -> Option<Bytes> {
        self.runtime.block_on(async {
            let nats = async_nats::connect(&self.nats).await.unwrap();
            ask(&nats, question).await
        })
    }

    /// Both in turns, so that a busy machine disturbs both.
    fn beside_echo(&mut self, meanwhile: &str) {
        let (rate, time) = (number("RATE", 2000), Duration::from_secs(number("SECONDS", 5)));
        let (mut echoes, mut answers) = (Outcome::new(), Outcome::new());
        let mut ratios = Vec::new();
        for round in 0..number("ROUNDS", 6) {
            let echo = self.asked(rate, time, || {
                let mut random = Random(round);
                move || to_echo(request(&[WORLD.pick(&mut random)]))
            });
            let prefix = self.prefix.clone();
            let answer = self.asked(rate, time, || {
                let mut random = Random(round);
                move || question(&prefix, &[WORLD.pick(&mut random)])
            });
            ratios.push(answer.ms(0.99) / echo.ms(0.99));
            echoes.add(&echo);
            answers.add(&answer);
        }
        self.note("echo", meanwhile, &echoes);
        self.note("get, one read state", meanwhile, &answers);
        ratios.sort_by(f64::total_cmp);
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        let median = ratios[ratios.len() / 2];
        println!("{meanwhile}: p99 of get / p99 of echo: {median:.2} ({least:.2} to {most:.2})");
        self.results.add(&json!({
            "case": "ratio", "when": meanwhile, "p99_ratio": median, "least": least, "most": most,
        }));
    }

    fn asked<N: FnMut() -> Question + Send + 'static>(
        &self,
        rate: u64,
        time: Duration,
        questions: impl FnOnce() -> N,
    ) -> Outcome {
        let outcomes = Outcomes::new(1);
        self.runtime.block_on(async {
            let nats = async_nats::connect(&self.nats).await.unwrap();
            ask_at_rate(&nats, rate, time, questions(), &outcomes).await;
        });
        outcomes.take().remove(0)
    }

    /// Questions for a thousand read states, and for everything of a user, one after another.
    fn large_ones(&mut self, cache: &str, count: u64) {
        let mut gets = Outcome::new();
        let mut overviews = Outcome::new();
        self.runtime.block_on(async {
            let nats = async_nats::connect(&self.nats).await.unwrap();
            for number in 0..count {
                let user = WORLD.user(STRANGERS[number as usize % STRANGERS.len()]);
                let question = Question {
                    subject: format!("{}.v1.overview", self.prefix),
                    request: OverviewRequest {
                        user_id: user.0,
                        ..Default::default()
                    }
                    .encode_to_vec()
                    .into(),
                    kind: 0,
                };
                let answer = note_time(&nats, &question, &mut overviews).await;
                let rows = OverviewReply::decode(answer).unwrap().read_states.len();
                assert_eq!(rows as u64, WORLD.read_states() / WORLD.users);
            }
            for number in 0..count {
                let first = number * KEYS_AT_ONCE;
                let keys: Vec<ReadStateKey> = (first..first + KEYS_AT_ONCE)
                    .map(|number| WORLD.key(number * 7919 % WORLD.read_states()))
                    .collect();
                let question = Question {
                    subject: format!("{}.v1.get", self.prefix),
                    request: request(&keys),
                    kind: 0,
                };
                let answer = note_time(&nats, &question, &mut gets).await;
                let rows = GetReply::decode(answer).unwrap().read_states.len();
                assert_eq!(rows as u64, KEYS_AT_ONCE);
            }
        });
        self.note("overview, 500 channels", cache, &overviews);
        self.note("get, 1,000 read states", cache, &gets);
    }

    fn note(&mut self, what: &str, when: &str, outcome: &Outcome) {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| outcome.ms(quantile));
        let (count, longest) = (outcome.latencies_ns.len(), outcome.longest_ms());
        println!(
            "{what}, {when}: p50 {p50:.3} ms, p99 {p99:.3} ms, p99.9 {p999:.3} ms, longest {longest:.3} ms; {count} \
             asked, {} without an answer",
            outcome.failed
        );
        self.results.add(&json!({
            "case": what, "when": when, "count": count, "failed": outcome.failed,
            "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "longest_ms": longest,
        }));
    }
}

async fn note_time(nats: &async_nats::Client, question: &Question, outcome: &mut Outcome) -> Bytes {
    let asked = Instant::now();
    let answer = ask(nats, question).await.expect("an answer");
    outcome
        .latencies_ns
        .saturating_record(asked.elapsed().as_nanos() as u64);
    answer
}

fn to_echo(request: Bytes) -> Question {
    Question {
        subject: ECHO.to_owned(),
        request,
        kind: 0,
    }
}

/// To the owner of the partition of the first key.
fn question(prefix: &str, keys: &[ReadStateKey]) -> Question {
    let partition = partition_of(keys[0].channel, PARTITIONS);
    Question {
        subject: format!("{prefix}.v1.partition.{partition}.get"),
        request: request(keys),
        kind: 0,
    }
}

/// For these read states.
pub fn request(keys: &[ReadStateKey]) -> Bytes {
    let keys = keys.iter().map(|key| Key {
        user_id: key.user.0,
        channel_id: key.channel.0,
    });
    let request = GetRequest {
        keys: keys.collect(),
        ..Default::default()
    };
    request.encode_to_vec().into()
}
