//! What is counted about a store, the same for every kind of store (contract, section 5).

use std::time::Instant;

use metrics::{Counter, Histogram, counter, histogram};

use super::StoreError;

/// Handles of the store's metrics. Make them once, after the recorder was installed: a handle made before counts
/// nothing.
pub struct StoreMetrics {
    /// `readstates_store_writes_total{result}`, `readstates_store_write_duration_seconds`.
    pub writes: Calls,
    /// `readstates_store_reads_total{result}`, `readstates_store_read_duration_seconds`.
    pub reads: Calls,
}

/// Calls by their result (`ok`, `unavailable`, `unusable`), and how long they took, whatever their result.
pub struct Calls {
    ok: Counter,
    unavailable: Counter,
    unusable: Counter,
    duration: Histogram,
}

impl StoreMetrics {
    /// Makes the handles.
    pub fn new() -> Self {
        StoreMetrics {
            writes: Calls {
                ok: counter!("readstates_store_writes_total", "result" => "ok"),
                unavailable: counter!("readstates_store_writes_total", "result" => "unavailable"),
                unusable: counter!("readstates_store_writes_total", "result" => "unusable"),
                duration: histogram!("readstates_store_write_duration_seconds"),
            },
            reads: Calls {
                ok: counter!("readstates_store_reads_total", "result" => "ok"),
                unavailable: counter!("readstates_store_reads_total", "result" => "unavailable"),
                unusable: counter!("readstates_store_reads_total", "result" => "unusable"),
                duration: histogram!("readstates_store_read_duration_seconds"),
            },
        }
    }
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Calls {
    /// Counts a call that has ended.
    pub fn ended<T>(&self, started: Instant, result: &Result<T, StoreError>) {
        self.duration.record(started.elapsed());
        match result {
            Ok(_) => self.ok.increment(1),
            Err(StoreError::Unavailable(_)) => self.unavailable.increment(1),
            Err(StoreError::Unusable(_)) => self.unusable.increment(1),
        }
    }
}
