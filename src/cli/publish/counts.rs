//! What is counted while events are published.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Lines that are named for each kind of refusal.
const NAMED_MAX: usize = 5;
/// How much of a reason is kept: it can quote what was refused.
const REASON_CHARS_MAX: usize = 300;

/// Why a line was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Longer than a line may be.
    TooLong,
    /// No event in JSON.
    Undecodable,
    /// An event that the service would send to the dead letters.
    Invalid,
    /// The stream did not take it.
    NotTaken,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::TooLong => "too long",
            Refusal::Undecodable => "no event in JSON",
            Refusal::Invalid => "invalid",
            Refusal::NotTaken => "not taken by the stream",
        })
    }
}

/// Lines that were refused for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// How many.
    pub count: u64,
    /// The first of them, by number (the first line is 1), with what is wrong.
    pub first: Vec<(u64, String)>,
}

/// How far publishing has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Lines read.
    pub lines: u64,
    /// Bytes of them.
    pub input_bytes: u64,
    /// Events handed to the producer.
    pub sent: u64,
    /// Events that all replicas have acknowledged.
    pub acknowledged: u64,
    /// Bytes of their keys and values.
    pub acknowledged_bytes: u64,
    /// What was refused, by reason.
    pub refused: BTreeMap<Refusal, Refused>,
}

impl Published {
    /// All lines that were refused.
    pub fn refused_count(&self) -> u64 {
        self.refused.values().map(|refused| refused.count).sum()
    }

    /// Events that were sent and of which nobody knows whether they have arrived.
    pub fn unacknowledged(&self) -> u64 {
        let not_taken = self.refused.get(&Refusal::NotTaken);
        let settled = self.acknowledged + not_taken.map_or(0, |refused| refused.count);
        self.sent.saturating_sub(settled)
    }
}

/// Shared by who reads, who hears from Kafka and who shows it.
#[derive(Debug, Default)]
pub struct Counts {
    lines: AtomicU64,
    input_bytes: AtomicU64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    acknowledged_bytes: AtomicU64,
    refused: Mutex<BTreeMap<Refusal, Refused>>,
}

impl Counts {
    /// A line was read, of so many bytes.
    pub fn read(&self, bytes: u64) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        self.input_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The event of a line was handed to the producer.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Kafka has a record of so many bytes.
    pub fn acknowledged(&self, bytes: u64) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.acknowledged_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A line is not published.
    pub fn refuse(&self, refusal: Refusal, line: u64, why: &str) {
        let mut all = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = all.entry(refusal).or_default();
        refused.count += 1;
        if refused.first.len() < NAMED_MAX {
            let why = why.chars().take(REASON_CHARS_MAX).collect();
            refused.first.push((line, why));
        }
    }

    /// As of now.
    pub fn so_far(&self) -> Published {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        Published {
            lines: self.lines.load(Ordering::Relaxed),
            input_bytes: self.input_bytes.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            acknowledged_bytes: self.acknowledged_bytes.load(Ordering::Relaxed),
            refused: refused.clone(),
        }
    }
}
