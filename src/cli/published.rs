//! Publishes what partitions and the source count in plain fields, when someone looks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::{self, StreamKind};
use crate::model::ids::Offset;
use crate::ops::metrics::{
    CacheKind, CacheMetrics, DEAD_LETTER_REASONS, PAUSE_REASONS, REBALANCE_KINDS, dead_letters,
    events_ignored, rebalances, source_paused,
};
use crate::partition::Ignored;
use crate::query::{Status, Statuses};
use crate::shard::{Report, Shards};
use crate::source::stats::SourceStats;

/// Too many records are waiting to be taken: what the source knows of, and partitions don't.
const QUEUE: &str = "queue";

/// The partitions of this instance for the admin pages: with every look at their status the metrics are brought up to
/// date.
#[derive(Clone)]
pub struct Publisher {
    shards: Shards,
    source: Arc<SourceStats>,
    stream: StreamKind,
    read_states: CacheMetrics,
    channels: CacheMetrics,
}

impl Publisher {
    /// Publishes what these count.
    pub fn new(shards: Shards, source: Arc<SourceStats>, stream: StreamKind, cache: &config::Cache) -> Self {
        let read_states = CacheMetrics::new(CacheKind::ReadState);
        let channels = CacheMetrics::new(CacheKind::Channel);
        read_states.capacity.set(cache.read_states as f64);
        channels.capacity.set(cache.channel_memory_bytes as f64);
        Publisher {
            shards,
            source,
            stream,
            read_states,
            channels,
        }
    }

    fn publish(&self, report: &Report) {
        let counters = &report.totals.counters;
        for (name, count) in Ignored::NAMES.into_iter().zip(counters.ignored) {
            events_ignored(name).absolute(count);
        }
        for (reason, count) in DEAD_LETTER_REASONS.into_iter().zip(report.totals.dead_letters) {
            dead_letters(reason).absolute(count);
        }
        self.read_states.hits.absolute(counters.read_state_hits);
        self.read_states.misses.absolute(counters.read_state_misses);
        self.read_states.evictions.absolute(counters.read_states_evicted);
        self.channels.hits.absolute(counters.channel_hits);
        self.channels.misses.absolute(counters.channel_misses);
        self.channels.evictions.absolute(counters.channels_evicted);
        let is_queue_full = self.source.paused.load(Ordering::Relaxed) > 0;
        for reason in PAUSE_REASONS {
            let mut partitions = report.partitions.iter();
            let is_paused = partitions.any(|partition| partition.paused == Some(reason))
                || (reason == QUEUE && is_queue_full);
            source_paused(reason).set(f64::from(u8::from(is_paused)));
        }
        let source = &self.source;
        let counts = [&source.assigned, &source.revoked, &source.lost];
        for (kind, count) in REBALANCE_KINDS.into_iter().zip(counts) {
            rebalances(kind).absolute(count.load(Ordering::Relaxed));
        }
    }
}

impl Statuses for Publisher {
    async fn status(&self) -> Vec<Status> {
        let report = self.shards.report().await;
        self.publish(&report);
        let committed = self.source.committed();
        let mut status: Vec<Status> = report
            .partitions
            .into_iter()
            .map(|report| report.status)
            .collect();
        for partition in &mut status {
            partition.committed = match self.stream {
                StreamKind::Kafka => {
                    let next = committed.get(&partition.partition);
                    next.and_then(|next| next.0.checked_sub(1)).map(Offset)
                }
                // There is no group: what an owner goes on from is the position in the store.
                StreamKind::JetStream => partition.durable,
            };
        }
        status
    }
}
