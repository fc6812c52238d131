//! Three callers that ask on and on for single keys, each of one kind, and note how long each question took.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::whole_path::asker::Asker;

/// Between two questions of one caller.
const PAUSE: Duration = Duration::from_millis(60);
/// What a question gives the service.
const TIMEOUT_MS: u64 = 2000;
/// Users from here on have nothing to do with anything, and each is asked for once.
const FRESH_USER_FIRST: u64 = 1 << 62;

/// What came of one kind of question.
#[derive(Clone, Default)]
pub struct Tally {
    pub answered: usize,
    /// What was said instead of an answer.
    pub refused: Vec<String>,
    pub longest: Duration,
}

impl Tally {
    fn note(&mut self, took: Duration, refused: Option<String>) {
        self.longest = self.longest.max(took);
        match refused {
            None => self.answered += 1,
            Some(what) => self.refused.push(what),
        }
    }

    /// How many of a hundred were answered.
    pub fn percent(&self) -> usize {
        100 * self.answered / (self.answered + self.refused.len()).max(1)
    }

    /// Whether nothing was left without a word: 503 and 504 are one.
    pub fn is_all_told(&self) -> bool {
        self.refused.iter().all(|what| what == "503" || what == "504")
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = std::collections::BTreeMap::new();
        for what in &self.refused {
            *kinds.entry(what.as_str()).or_insert(0) += 1;
        }
        write!(
            f,
            "{} answered, {kinds:?} not, longest {:.1?}",
            self.answered, self.longest
        )
    }
}

/// By the kind of key.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    /// Cached, and nothing happens in their channels.
    pub quiet: Tally,
    /// Cached, and much happens in their channels.
    pub busy: Tally,
    /// Not cached.
    pub fresh: Tally,
}

/// The callers.
pub struct Probes {
    tallies: Arc<Mutex<Tallies>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    fresh: Arc<AtomicU64>,
}

impl Probes {
    /// Begins to ask. Fresh keys are of the quiet channels, whose heads are cached.
    pub fn start(asker: &Asker, quiet: &[(u64, u64)], busy: &[(u64, u64)]) -> Self {
        let mut probes = Probes {
            tallies: Arc::default(),
            stop: Arc::default(),
            tasks: Vec::new(),
            fresh: Arc::new(AtomicU64::new(FRESH_USER_FIRST)),
        };
        let (fresh, channels) = (Arc::clone(&probes.fresh), quiet.to_vec());
        let new = move |n: usize| {
            let user = fresh.fetch_add(1, Ordering::Relaxed);
            (user, channels[n % channels.len()].1)
        };
        probes.ask_on(asker, in_turn(quiet), |tallies| &mut tallies.quiet);
        probes.ask_on(asker, in_turn(busy), |tallies| &mut tallies.busy);
        probes.ask_on(asker, new, |tallies| &mut tallies.fresh);
        probes
    }

    fn ask_on(
        &mut self,
        asker: &Asker,
        key: impl Fn(usize) -> (u64, u64) + Send + 'static,
        kind: fn(&mut Tallies) -> &mut Tally,
    ) {
        let (asker, tallies, stop) = (asker.clone(), Arc::clone(&self.tallies), Arc::clone(&self.stop));
        self.tasks.push(tokio::spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let asked = asker.get("get", &[key(n)], vec![], n % 7 == 0, TIMEOUT_MS).await;
                let refused = asked.err().map(|refused| refused.what);
                kind(&mut tallies.lock().unwrap()).note(began.elapsed(), refused);
                n += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }));
    }

    /// What was noted since [`Probes::take`].
    pub fn seen(&self) -> Tallies {
        self.tallies.lock().unwrap().clone()
    }

    /// What was noted since the last time.
    pub fn take(&self) -> Tallies {
        std::mem::take(&mut self.tallies.lock().unwrap())
    }

    /// Asks no more.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no question panicked");
        }
    }
}

fn in_turn(keys: &[(u64, u64)]) -> impl Fn(usize) -> (u64, u64) + Send + 'static {
    let keys = keys.to_vec();
    move |n| keys[n % keys.len()]
}
