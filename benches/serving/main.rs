//! How fast questions are answered by the program itself, on real servers: beside a plain NATS echo (`queries`), and over
//! a long time with eviction and write-behind at work (`soak`).
//!
//!     cargo bench --bench serving -- queries
//!     cargo bench --bench serving -- soak
//!
//! Starts Kafka, Cassandra and NATS (`scripts/install` first) and one instance. Results are lines of JSON in
//! `target/bench/queries.jsonl` and `target/bench/soak.jsonl`, and what is interesting of them is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod asking;
mod echo;
mod queries;
#[path = "../support/random.rs"]
#[allow(dead_code)]
mod random;
#[path = "../../tests/support/servers.rs"]
#[allow(dead_code)]
mod servers;
#[path = "../../tests/support/service.rs"]
#[allow(dead_code)]
mod service;
mod soak;
mod stand;
mod traffic;

use std::env;

fn main() {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = env::args().skip(1).filter(|it| it != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["queries"] => queries::run(),
        ["soak"] => soak::run(),
        ["echo", url, subject, bytes] => echo::answer(url, subject, bytes.parse().unwrap()),
        _ => println!("what is to be measured? queries or soak"),
    }
}

/// For what asks and answers; threads of their own pace and publish.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// From the environment.
fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |number| number.parse().unwrap())
}
