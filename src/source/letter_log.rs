//! What the log says of dead letters.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::DeadLetter;

/// At most one line in this time: one wrong publisher can make every record a dead letter.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// How much of a key the log shows.
const SHOWN_KEY_BYTES_MAX: usize = 40;

/// The log of one way to the dead letters.
pub(super) struct LetterLog {
    /// Where records come from.
    topic: String,
    /// Where letters go.
    letters: String,
    /// Some letter could not be delivered at the first attempt, and none was since.
    failing: Mutex<bool>,
    logged: Mutex<Logged>,
}

#[derive(Default)]
struct Logged {
    last: Option<Instant>,
    left_out: u64,
}

impl LetterLog {
    /// Of records of `topic` that go to `letters`.
    pub fn new(topic: &str, letters: &str) -> Self {
        LetterLog {
            topic: topic.to_owned(),
            letters: letters.to_owned(),
            failing: Mutex::new(false),
            logged: Mutex::default(),
        }
    }

    /// A record can't be used.
    pub fn put_aside(&self, letter: &DeadLetter) {
        let left_out = {
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            if logged.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
                logged.left_out += 1;
                return;
            }
            logged.last = Some(Instant::now());
            std::mem::take(&mut logged.left_out)
        };
        let key = letter.record.key.as_deref().unwrap_or_default();
        let key = String::from_utf8_lossy(&key[..key.len().min(SHOWN_KEY_BYTES_MAX)]);
        tracing::warn!(
            topic = self.topic, partition = %letter.partition, offset = %letter.record.offset, %key,
            reason = letter.reason, left_out,
            "a record can't be used and goes to {}: {}", self.letters, letter.detail
        );
    }

    /// A letter is where it should be.
    pub fn delivered(&self) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *failing) {
            tracing::info!(topic = self.letters, "dead letters are delivered again");
        }
    }

    /// It is not, and is tried again.
    pub fn failed(&self, letter: &DeadLetter, error: &dyn fmt::Display) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *failing, true) {
            tracing::warn!(
                topic = self.letters, source_partition = %letter.partition,
                source_offset = %letter.record.offset, %error,
                "can't deliver a dead letter: the partition waits and tries again; see that the topic exists and that \
                 we may write to it"
            );
        }
    }
}
