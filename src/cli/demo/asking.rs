//! The demo's own questions, over NATS as anybody's: at a steady rate, whatever comes back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::client::{AskError, Client, ReadState};
use crate::model::ids::{ChannelId, ReadStateKey, UserId};

/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Questions that wait for their answers at a time; what is due beyond has failed.
const IN_FLIGHT_MAX: usize = 512;
/// Percentiles are taken of what was answered in this time.
const WINDOW: Duration = Duration::from_secs(10);
/// And of at most so many.
const LATENCIES_MAX: usize = 20_000;
/// Users and channels on the screen are asked about so often.
const WATCHED_INTERVAL: Duration = Duration::from_millis(250);
/// Timers are as exact as this: less is none of the service's doing.
const TIMER: Duration = Duration::from_millis(2);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Whom {
    /// On the screen.
    pub users: Vec<u64>,
    /// On the screen.
    pub channels: Vec<u64>,
}

/// A read state on the screen.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The last answer.
    pub state: ReadState,
    /// When its counts changed.
    pub changed_at: Option<Instant>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Asked {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    cells: BTreeMap<(u64, u64), Cell>,
    latencies: VecDeque<(Instant, Duration)>,
    answered: u64,
    failed: u64,
    error: Option<String>,
}

/// A summary of it.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// By user and channel.
    pub cells: BTreeMap<(u64, u64), Cell>,
    /// In all.
    pub answered: u64,
    /// In all.
    pub failed: u64,
    /// Lately, if anything was answered.
    pub p50: Option<Duration>,
    /// Lately, if anything was answered.
    pub p99: Option<Duration>,
    /// What the last question got, if that was an error.
    pub error: Option<String>,
}

impl Asked {
    /// As of now.
    pub fn answers(&self) -> Answers {
        let mut inner = self.inner();
        let oldest = Instant::now().checked_sub(WINDOW);
        while inner.latencies.front().is_some_and(|(at, _)| Some(*at) < oldest) {
            inner.latencies.pop_front();
        }
        let mut latencies: Vec<_> = inner.latencies.iter().map(|(_, took)| *took).collect();
        latencies.sort_unstable();
        Answers {
            cells: inner.cells.clone(),
            answered: inner.answered,
            failed: inner.failed,
            p50: percentile(&latencies, 0.5),
            p99: percentile(&latencies, 0.99),
            error: inner.error.clone(),
        }
    }

    fn ended(&self, reply: Result<Vec<ReadState>, AskError>, took: Duration, is_watched: bool) {
        let mut inner = self.inner();
        match reply {
            Ok(read_states) => {
                inner.answered += 1;
                inner.error = None;
                if inner.latencies.len() == LATENCIES_MAX {
                    inner.latencies.pop_front();
                }
                inner.latencies.push_back((Instant::now(), took));
                if is_watched {
                    read_states.into_iter().for_each(|state| inner.see(state));
                }
            }
            Err(error) => {
                inner.failed += 1;
                inner.error = Some(error.to_string());
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn see(&mut self, state: ReadState) {
        let counts = |state: &ReadState| (state.unread, state.mentions, state.membership);
        let before = self.cells.get(&(state.user.0, state.channel.0));
        let changed_at = match before {
            Some(before) if counts(&before.state) == counts(&state) => before.changed_at,
            Some(_) => Some(Instant::now()),
            None => None,
        };
        let key = (state.user.0, state.channel.0);
        self.cells.insert(key, Cell { state, changed_at });
    }
}

fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied()
}

/// Asks for as long as it is let.
pub async fn ask_at_rate(client: Client, whom: Whom, rate: u32, asked: Arc<Asked>) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut due = Instant::now();
    let mut watched_due = due;
    let interval = Duration::from_secs(1) / rate.max(1);
    for number in 0_usize.. {
        sleep_until(due).await;
        let is_watched = watched_due <= due;
        let keys = if is_watched {
            watched_due += WATCHED_INTERVAL;
            whom.all()
        } else {
            whom.one(number)
        };
        let from = if due.elapsed() < TIMER {
            Instant::now()
        } else {
            due
        };
        due += interval;
        let Ok(permit) = in_flight.clone().try_acquire_owned() else {
            asked.inner().failed += 1;
            continue;
        };
        let (client, asked) = (client.clone(), asked.clone());
        tokio::spawn(async move {
            let reply = client.get(keys).timeout(TIMEOUT).once().await;
            asked.ended(reply, from.elapsed(), is_watched);
            drop(permit);
        });
    }
}

/// The newest message of each channel.
///
/// # Errors
/// What the service said to it, or that it does not answer yet.
pub async fn newest(client: &Client, channels: impl Iterator<Item = u64>) -> Result<Vec<u64>, AskError> {
    // Anybody sees the same.
    let read_states = client.get(channels.map(|channel| key(1, channel))).await?;
    Ok(read_states.iter().map(|state| state.last_message.0).collect())
}

impl Whom {
    fn all(&self) -> Vec<ReadStateKey> {
        let users = self.users.iter();
        let keys = users.flat_map(|user| self.channels.iter().map(|channel| key(*user, *channel)));
        keys.collect()
    }

    /// Each in turn.
    fn one(&self, number: usize) -> Vec<ReadStateKey> {
        let pairs = (self.users.len() * self.channels.len()).max(1);
        let at = number % pairs;
        let user = self.users.get(at % self.users.len().max(1));
        let channel = self.channels.get(at / self.users.len().max(1));
        user.zip(channel)
            .map(|(user, channel)| key(*user, *channel))
            .into_iter()
            .collect()
    }
}

fn key(user: u64, channel: u64) -> ReadStateKey {
    ReadStateKey {
        user: UserId(user),
        channel: ChannelId(channel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::v1;

    fn reply(unread_count: u32) -> Result<Vec<ReadState>, AskError> {
        let state = v1::ReadState {
            user_id: 8,
            channel_id: 42,
            unread_count,
            ..v1::ReadState::default()
        };
        Ok(vec![ReadState::from(state)])
    }

    #[tokio::test]
    async fn a_change_of_counts_is_noticed() {
        let asked = Asked::default();
        let changed = |unread: u32, is_watched: bool| {
            asked.ended(reply(unread), Duration::from_millis(2), is_watched);
            asked
                .answers()
                .cells
                .get(&(8, 42))
                .and_then(|cell| cell.changed_at)
        };
        assert_eq!(changed(3, true), None, "nothing is known of what was before");
        assert_eq!(changed(3, true), None);
        let at = changed(4, true);
        assert!(at.is_some());
        assert_eq!(changed(5, false), at, "that was not for the screen");
        assert_eq!(asked.answers().answered, 4);
        assert_eq!(asked.answers().p99, Some(Duration::from_millis(2)));
    }

    #[test]
    fn percentiles_are_those_of_the_field() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), Some(Duration::from_millis(101)));
        assert_eq!(percentile(&sorted, 0.99), Some(Duration::from_millis(199)));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
