//! Asks at a fixed rate, whatever comes back: a latency counts from when its question was due.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use async_nats::Client;
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer ones are recorded as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// The service's own refusals have it.
const ERROR_HEADER: &str = "Nats-Service-Error-Code";

/// What is asked of which subject.
pub struct Question {
    pub subject: String,
    pub request: Bytes,
    /// Which latencies it belongs to.
    pub kind: usize,
}

/// Of questions of one kind.
#[derive(Clone)]
pub struct Outcome {
    pub latencies_ns: Histogram<u64>,
    pub failed: u64,
}

impl Outcome {
    pub fn new() -> Self {
        Outcome {
            latencies_ns: Histogram::new_with_bounds(1000, LATENCY_NS_MAX, 3).unwrap(),
            failed: 0,
        }
    }

    pub fn add(&mut self, other: &Outcome) {
        self.latencies_ns.add(&other.latencies_ns).unwrap();
        self.failed += other.failed;
    }

    pub fn ms(&self, quantile: f64) -> f64 {
        self.latencies_ns.value_at_quantile(quantile) as f64 / 1e6
    }

    pub fn longest_ms(&self) -> f64 {
        self.latencies_ns.max() as f64 / 1e6
    }
}

/// Outcomes by kind, which are taken out while others come in.
#[derive(Clone)]
pub struct Outcomes(Arc<Mutex<Vec<Outcome>>>);

impl Outcomes {
    pub fn new(kinds: usize) -> Self {
        Outcomes(Arc::new(Mutex::new(vec![Outcome::new(); kinds])))
    }

    /// Takes those that have come in.
    pub fn take(&self) -> Vec<Outcome> {
        let mut outcomes = self.0.lock().unwrap();
        let kinds = outcomes.len();
        std::mem::replace(&mut *outcomes, vec![Outcome::new(); kinds])
    }

    fn note(&self, kind: usize, latency: Duration, is_answered: bool) {
        let outcome = &mut self.0.lock().unwrap()[kind];
        outcome.latencies_ns.saturating_record(latency.as_nanos() as u64);
        outcome.failed += u64::from(!is_answered);
    }
}

/// Asks for so long. A thread sends each question when it is due: tokio's timers are exact to a millisecond only.
pub async fn ask_at_rate(
    nats: &Client,
    rate: u64,
    time: Duration,
    mut next: impl FnMut() -> Question + Send + 'static,
    outcomes: &Outcomes,
) {
    let (sender, mut due_questions) = unbounded_channel();
    let began = Instant::now();
    let pacing = thread::spawn(move || {
        for number in 0.. {
            let due = began + Duration::from_nanos(number * 1_000_000_000 / rate);
            if due >= began + time {
                break;
            }
            let question = next();
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send((due, question)).is_err() {
                break;
            }
        }
    });
    let mut asking = JoinSet::new();
    while let Some((due, question)) = due_questions.recv().await {
        let (nats, outcomes) = (nats.clone(), outcomes.clone());
        asking.spawn(async move {
            let is_answered = ask(&nats, &question).await.is_some();
            outcomes.note(question.kind, due.elapsed(), is_answered);
        });
        while asking.try_join_next().is_some() {}
    }
    asking.join_all().await;
    pacing.join().unwrap();
}

/// The answer, where it is one.
pub async fn ask(nats: &Client, question: &Question) -> Option<Bytes> {
    let asked = nats.request(question.subject.clone(), question.request.clone());
    let answer = tokio::time::timeout(TIMEOUT, asked).await.ok()?.ok()?;
    let is_error = |headers: &async_nats::HeaderMap| headers.get(ERROR_HEADER).is_some();
    match answer.headers.as_ref().is_some_and(is_error) {
        true => None,
        false => Some(answer.payload),
    }
}
