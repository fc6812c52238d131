//! `load`: asks at a fixed rate, whatever comes back, and tells how long the answers took.
//!
//! Each request has a time at which it is due, and its latency counts from then: a service that is slow for a moment
//! makes all requests late that were due in it, as callers would see it, and not only the few that were on their way.

mod questions;
mod report;

use std::io::BufReader;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Failed;
use super::asking::{self, print};
use super::demo::chat::{self, Chat, Paced};
use super::demo::unix_ms;
use super::publish::{Counts, publish};
use crate::client::{AskError, Client, StreamOptions};
use crate::config::Config;
use crate::wire::record::RecordLimits;
use questions::{Keys, Question, Questions, listed, range};
use report::{Report, Setting};

/// A request that is sent so long after it was due is counted as late.
const LATE: Duration = Duration::from_millis(5);
/// The most requests in a second that can be asked for.
const RATE_MAX: f64 = 10_000_000.0;

/// How much load, and of what kind.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Requests in a second.
    #[arg(long, default_value_t = 100.0, value_name = "N", value_parser = rate)]
    rate: f64,
    /// How long, in seconds.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    duration: u64,
    /// Keys in each request.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys_per_request: u32,
    /// Ids of users; those of the synthetic chat if not given.
    #[arg(long, value_name = "FIRST-LAST", value_parser = range)]
    users: Option<RangeInclusive<u64>>,
    /// Ids of channels; those of the synthetic chat if not given.
    #[arg(long, value_name = "FIRST-LAST", value_parser = range)]
    channels: Option<RangeInclusive<u64>>,
    /// A file of keys to ask for, `user channel` on each line.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["users", "channels"])]
    keys: Option<PathBuf>,
    /// How many of the requests are overviews, from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    overview: f64,
    /// Events of a synthetic chat that are published in a second meanwhile.
    #[arg(long, default_value_t = 0, value_name = "N")]
    publish_rate: u32,
    /// Requests that wait for their answers at a time; what is due beyond is sent later, and counted as late.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: u32,
    /// How long to wait for an answer.
    #[arg(long, default_value_t = 2000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout: u64,
    /// Decides what is asked: the same seed asks the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Generates load and reports; ends early, and reports, at Ctrl-C.
///
/// # Errors
/// That a server can't be reached, or that not one request was answered.
pub async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failed> {
    let keys = match &arguments.keys {
        Some(file) => listed(file).map_err(Failed::Misconfigured)?,
        None => Keys::Ranges(
            arguments.users.clone().unwrap_or(chat::users()),
            arguments.channels.clone().unwrap_or(chat::channels()),
        ),
    };
    let keys_per_request = arguments.keys_per_request as usize;
    let questions = Questions::new(arguments.seed, keys, keys_per_request, arguments.overview);
    let client = asking::connect(config).await?;
    let chat = start_chat(config, arguments);

    let began = Instant::now();
    let report = Arc::new(Mutex::new(Report::new()));
    ask_at_rate(&client, questions, arguments, &report).await;
    let took = began.elapsed();
    let published = match chat {
        Some(chat) => chat.end().await?,
        None => 0,
    };
    let report = report.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let setting = Setting {
        rate: arguments.rate,
        took,
        late: LATE,
        seed: arguments.seed,
        published,
    };
    match arguments.json {
        true => print(&format!("{}\n", report.json(&setting)))?,
        false => print(&report.text(&setting))?,
    }
    match report.is_answered() {
        true => Ok(()),
        false => Err(Failed::Broken("not one request was answered".to_owned())),
    }
}

/// Sends each request when it is due, or as soon after as fewer than allowed wait for their answers.
async fn ask_at_rate(
    client: &Client,
    mut questions: Questions,
    arguments: &Arguments,
    report: &Arc<Mutex<Report>>,
) {
    let timeout = Duration::from_millis(arguments.timeout);
    let in_flight = Arc::new(Semaphore::new(arguments.in_flight as usize));
    let began = Instant::now();
    let mut end = began + Duration::from_secs(arguments.duration);
    // What is due by the end and could not be sent may still be, for as long as an answer may take.
    let mut patience = end + timeout;
    let stopped = super::serve::signals();
    tokio::pin!(stopped);
    let mut is_stopped = false;
    for number in 0_u64.. {
        let due = began + Duration::from_secs_f64(number as f64 / arguments.rate);
        if due >= end {
            break;
        }
        tokio::select! {
            () = sleep_until(due) => {}
            () = &mut stopped, if !is_stopped => break,
        }
        let question = questions.next();
        let permit = tokio::select! {
            permit = timeout_at(patience, in_flight.clone().acquire_owned()) => permit.ok(),
            () = &mut stopped, if !is_stopped => {
                is_stopped = true;
                (end, patience) = (Instant::now(), Instant::now());
                None
            }
        };
        let Some(Ok(permit)) = permit else {
            lock(report).unsent(due.elapsed());
            continue;
        };
        if due.elapsed() > LATE {
            lock(report).sent_late();
        }
        let (client, report) = (client.clone(), report.clone());
        tokio::spawn(async move {
            let result = ask(&client, question, timeout).await;
            let gave_up = matches!(&result, Err(AskError::TimedOut(_)));
            lock(&report).ended(result, due.elapsed(), gave_up);
            drop(permit);
        });
    }
    // Each ends by its own timeout.
    let _ = in_flight.acquire_many(arguments.in_flight).await;
}

fn lock(report: &Mutex<Report>) -> std::sync::MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Once: how often something had to be asked again is what the report is about.
async fn ask(client: &Client, question: Question, timeout: Duration) -> Result<(), AskError> {
    match question {
        Question::Get(keys) => client.get(keys).timeout(timeout).once().await.map(drop),
        Question::Overview(user) => client.overview(user).timeout(timeout).once().await.map(drop),
    }
}

/// A synthetic chat that is being published.
struct Published {
    stop: watch::Sender<bool>,
    publishing: tokio::task::JoinHandle<Result<super::publish::Published, Failed>>,
}

fn start_chat(config: &Config, arguments: &Arguments) -> Option<Published> {
    if arguments.publish_rate == 0 {
        return None;
    }
    let (stop, stopped) = watch::channel(false);
    let chat = Chat::new(arguments.publish_rate, arguments.seed, unix_ms(), &[]);
    let chat = Paced::new(chat, Arc::default(), stopped);
    let config = config.clone();
    let limits = RecordLimits::from(&config.limits);
    let publishing = tokio::spawn(async move {
        let counts = Arc::new(Counts::default());
        let input = BufReader::new(chat);
        let stream = StreamOptions::from(&config).settings().await?;
        publish(input, &stream, &limits, &counts, std::future::pending()).await
    });
    Some(Published { stop, publishing })
}

impl Published {
    /// Ends the chat, and says how many events were published.
    async fn end(self) -> Result<u64, Failed> {
        // The chat has ended already where nobody hears this.
        let _ = self.stop.send(true);
        let published = self.publishing.await;
        let published =
            published.map_err(|error| Failed::Broken(format!("publishing broke off: {error}")))??;
        Ok(published.acknowledged)
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
    rate.ok_or_else(|| format!("a number above 0, up to {RATE_MAX}"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a number from 0 to 1".to_owned())
}
