//! Every metric there is: its name, its sentence, and the handles that count.
//!
//! Looking a metric up by name costs 60 to 100 ns and a handle 9 ns, so whoever counts keeps a handle. The series of
//! partitions are no handles at all: they are written at the scrape, so that those of a partition that moved away
//! don't linger.

use std::fmt::Write;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::model::event::EVENT_KINDS;
use crate::model::ids::Offset;
use crate::partition::Ignored;
use crate::query::Status;

/// The bounds of every histogram's buckets, in seconds: 10 µs (what an answer from the cache takes) to 10 s.
const DURATION_BUCKETS_SECONDS: [f64; 19] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Why records are dead letters, as in `readstates_dead_letters_total`, in the order of
/// [`Totals::dead_letters`](crate::shard::Totals::dead_letters).
pub const DEAD_LETTER_REASONS: [&str; 3] = ["undecodable", "invalid", "misrouted"];

/// Why records are not taken, as in `readstates_source_paused`: a dead letter is not safe yet, too much waits for the
/// store, or so much was taken that a partition is not read any more.
pub const PAUSE_REASONS: [&str; 3] = ["dead_letters", "store", "queue"];

/// What happens to partitions, as in `readstates_rebalances_total`.
pub const REBALANCE_KINDS: [&str; 3] = ["assigned", "revoked", "lost"];

/// The phases of a partition, as in `readstates_partition_phase`.
pub const PHASES: [&str; 5] = ["assigning", "catching-up", "live", "draining", "stuck"];

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* const $name: &str = $value;)*
    };
}

names! {
    EVENTS_IGNORED = "readstates_events_ignored_total";
    DEAD_LETTERS = "readstates_dead_letters_total";
    SOURCE_PAUSED = "readstates_source_paused";
    NATS_DROPPED = "readstates_nats_dropped_total";
    CACHE_CAPACITY = "readstates_cache_capacity";
    CACHE_HITS = "readstates_cache_hits_total";
    CACHE_MISSES = "readstates_cache_misses_total";
    CACHE_EVICTIONS = "readstates_cache_evictions_total";
    STORE_WRITES = "readstates_store_writes_total";
    STORE_WRITE_DURATION = "readstates_store_write_duration_seconds";
    STORE_READS = "readstates_store_reads_total";
    STORE_READ_DURATION = "readstates_store_read_duration_seconds";
    QUERIES = "readstates_queries_total";
    QUERY_DURATION = "readstates_query_duration_seconds";
    REBALANCES = "readstates_rebalances_total";
    BUILD_INFO = "readstates_build_info";
}

fn describe() {
    describe_counter!(
        EVENTS_IGNORED,
        "Events that change nothing by their meaning, by why."
    );
    describe_counter!(
        DEAD_LETTERS,
        "Records that could not be used and went to the dead letters, by why."
    );
    describe_gauge!(
        SOURCE_PAUSED,
        "1 while records are not taken from the stream, by why."
    );
    describe_counter!(
        NATS_DROPPED,
        "Messages from NATS that came faster than they could be looked at; at least so many, as bursts are told in part."
    );
    describe_gauge!(
        CACHE_CAPACITY,
        "What the caches of this instance hold at most: read states, or bytes of channels."
    );
    describe_counter!(CACHE_HITS, "Look-ups that found their entry in the cache.");
    describe_counter!(
        CACHE_MISSES,
        "Look-ups that had to load their entry from the store."
    );
    describe_counter!(CACHE_EVICTIONS, "Entries that made room for others.");
    describe_counter!(
        STORE_WRITES,
        "Writes to the store, by how they ended; each attempt counts."
    );
    describe_histogram!(
        STORE_WRITE_DURATION,
        "How long a write to the store took, failed or not."
    );
    describe_counter!(
        STORE_READS,
        "Reads from the store, by how they ended; each attempt counts."
    );
    describe_histogram!(
        STORE_READ_DURATION,
        "How long a read from the store took, failed or not."
    );
    describe_counter!(
        QUERIES,
        "Questions over NATS, by the code of the reply; one that names no subject to reply to, or one of ours, gets none and counts as 400."
    );
    describe_histogram!(QUERY_DURATION, "How long a question over NATS was worked on.");
    describe_counter!(
        REBALANCES,
        "Times that the group gave partitions to this instance (assigned), wanted some back (revoked), or had given them to others already (lost)."
    );
    describe_gauge!(BUILD_INFO, "1, for its labels: what is running.");
}

/// Makes the recorder the one that all handles made from now on count in. Once for a process, before anything counts.
///
/// # Errors
/// If there is one already.
pub fn install(librdkafka: &str) -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    declare(librdkafka);
    Ok(handle)
}

/// A recorder that is not installed, and its handle: for tests, with [`metrics::with_local_recorder`].
///
/// # Errors
/// None, in fact: the buckets are not empty.
pub fn recorder() -> Result<(PrometheusRecorder, PrometheusHandle), BuildError> {
    let recorder = builder()?.build_recorder();
    let handle = recorder.handle();
    Ok((recorder, handle))
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new().set_buckets(&DURATION_BUCKETS_SECONDS)
}

/// Describes everything, and makes what has labels known beforehand show up with 0: an alert on a series that is not
/// there never fires.
pub fn declare(librdkafka: &str) {
    describe();
    metrics_process::Collector::default().describe();
    gauge!(
        BUILD_INFO,
        "version" => env!("CARGO_PKG_VERSION"),
        "librdkafka" => librdkafka.to_owned()
    )
    .set(1.0);
    let _ = nats_dropped();
    let _ = QueryMetrics::new();
    let _ = StoreMetrics::new();
    for kind in [CacheKind::ReadState, CacheKind::Channel] {
        let _ = CacheMetrics::new(kind);
    }
    for reason in Ignored::NAMES {
        let _ = events_ignored(reason);
    }
    for reason in DEAD_LETTER_REASONS {
        let _ = dead_letters(reason);
    }
    for reason in PAUSE_REASONS {
        source_paused(reason).set(0.0);
    }
    for kind in REBALANCE_KINDS {
        let _ = rebalances(kind);
    }
}

/// `readstates_nats_dropped_total`.
pub fn nats_dropped() -> Counter {
    counter!(NATS_DROPPED)
}

/// `readstates_events_ignored_total{reason}`.
pub fn events_ignored(reason: &'static str) -> Counter {
    counter!(EVENTS_IGNORED, "reason" => reason)
}

/// `readstates_dead_letters_total{reason}`.
pub fn dead_letters(reason: &'static str) -> Counter {
    counter!(DEAD_LETTERS, "reason" => reason)
}

/// `readstates_source_paused{reason}`, 0 or 1.
pub fn source_paused(reason: &'static str) -> Gauge {
    gauge!(SOURCE_PAUSED, "reason" => reason)
}

/// `readstates_rebalances_total{kind}`.
pub fn rebalances(kind: &'static str) -> Counter {
    counter!(REBALANCES, "kind" => kind)
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheKind {
    /// Read states; its capacity is their number.
    ReadState,
    /// Heads, pages and blocks of channels; its capacity is in bytes.
    Channel,
}

impl CacheKind {
    fn name(self) -> &'static str {
        match self {
            CacheKind::ReadState => "read_state",
            CacheKind::Channel => "channel",
        }
    }
}

/// The handles of the caches of one kind, all partitions together.
#[derive(Clone)]
pub struct CacheMetrics {
    /// `readstates_cache_capacity{kind}`.
    pub capacity: Gauge,
    /// `readstates_cache_hits_total{kind}`.
    pub hits: Counter,
    /// `readstates_cache_misses_total{kind}`.
    pub misses: Counter,
    /// `readstates_cache_evictions_total{kind}`.
    pub evictions: Counter,
}

impl CacheMetrics {
    /// The handles of one kind.
    pub fn new(kind: CacheKind) -> Self {
        let kind = kind.name();
        CacheMetrics {
            capacity: gauge!(CACHE_CAPACITY, "kind" => kind),
            hits: counter!(CACHE_HITS, "kind" => kind),
            misses: counter!(CACHE_MISSES, "kind" => kind),
            evictions: counter!(CACHE_EVICTIONS, "kind" => kind),
        }
    }
}

/// One kind of access to the store.
#[derive(Clone)]
pub struct AccessMetrics {
    ok: Counter,
    failed: Counter,
    duration: Histogram,
}

impl AccessMetrics {
    /// One access ended.
    pub fn ended(&self, ok: bool, took: Duration) {
        if ok { &self.ok } else { &self.failed }.increment(1);
        self.duration.record(took);
    }
}

/// The handles of the store.
#[derive(Clone)]
pub struct StoreMetrics {
    /// `readstates_store_writes_total{result}` and how long they took.
    pub writes: AccessMetrics,
    /// `readstates_store_reads_total{result}` and how long they took.
    pub reads: AccessMetrics,
}

impl StoreMetrics {
    /// The handles. `result` is `ok` or `failed`.
    #[expect(
        clippy::new_without_default,
        reason = "it has an effect: the series exist from now on"
    )]
    pub fn new() -> Self {
        StoreMetrics {
            writes: AccessMetrics {
                ok: counter!(STORE_WRITES, "result" => "ok"),
                failed: counter!(STORE_WRITES, "result" => "failed"),
                duration: histogram!(STORE_WRITE_DURATION),
            },
            reads: AccessMetrics {
                ok: counter!(STORE_READS, "result" => "ok"),
                failed: counter!(STORE_READS, "result" => "failed"),
                duration: histogram!(STORE_READ_DURATION),
            },
        }
    }
}

/// What is asked over NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryEndpoint {
    /// `get`.
    Get,
    /// `partition.<n>.get`.
    PartitionGet,
    /// `overview`.
    Overview,
    /// `explain`.
    Explain,
    /// `status`.
    Status,
    /// Another instance takes a stamp.
    InternalStamp,
    /// Another instance hands rows over.
    InternalOverview,
    /// Another instance asks how an answer comes about.
    InternalExplain,
}

/// What the names of endpoints that only instances ask begin with.
const INTERNAL: &str = "internal_";
const QUERY_ENDPOINTS: [(QueryEndpoint, &str); 8] = [
    (QueryEndpoint::Get, "get"),
    (QueryEndpoint::PartitionGet, "partition_get"),
    (QueryEndpoint::Overview, "overview"),
    (QueryEndpoint::Explain, "explain"),
    (QueryEndpoint::Status, "status"),
    (QueryEndpoint::InternalStamp, "internal_stamp"),
    (QueryEndpoint::InternalOverview, "internal_overview"),
    (QueryEndpoint::InternalExplain, "internal_explain"),
];
/// Of replies: those of the contract, then that of a stamp that became void, which only instances tell each other.
const QUERY_CODES: [(u16, &str); 7] = [
    (200, "200"),
    (400, "400"),
    (413, "413"),
    (429, "429"),
    (503, "503"),
    (504, "504"),
    (STAMP_VOID, "409"),
];
const STAMP_VOID: u16 = 409;

/// The handles of the NATS service.
pub struct QueryMetrics {
    endpoints: [EndpointMetrics; QUERY_ENDPOINTS.len()],
}

struct EndpointMetrics {
    replies: [Counter; QUERY_CODES.len()],
    duration: Histogram,
}

impl QueryMetrics {
    /// The handles of all endpoints and codes.
    #[expect(
        clippy::new_without_default,
        reason = "it has an effect: the series exist from now on"
    )]
    pub fn new() -> Self {
        QueryMetrics {
            endpoints: QUERY_ENDPOINTS.map(|(_, endpoint)| EndpointMetrics {
                replies: QUERY_CODES.map(|(number, code)| {
                    if number == STAMP_VOID && !endpoint.starts_with(INTERNAL) {
                        return Counter::noop();
                    }
                    counter!(QUERIES, "endpoint" => endpoint, "code" => code)
                }),
                duration: histogram!(QUERY_DURATION, "endpoint" => endpoint),
            }),
        }
    }

    /// A question was worked on for so long; none: and answered.
    pub fn answered(&self, endpoint: QueryEndpoint, code: Option<u16>, took: Duration) {
        self.count(endpoint, code.unwrap_or(200));
        self.endpoint(endpoint).duration.record(took);
    }

    /// A question was refused without a look at it.
    pub fn refused(&self, endpoint: QueryEndpoint, code: u16) {
        self.count(endpoint, code);
    }

    fn count(&self, endpoint: QueryEndpoint, code: u16) {
        let place = QUERY_CODES.iter().position(|(known, _)| *known == code);
        if let Some(place) = place {
            self.endpoint(endpoint).replies[place].increment(1);
        }
    }

    fn endpoint(&self, endpoint: QueryEndpoint) -> &EndpointMetrics {
        // In the order of the declaration.
        &self.endpoints[endpoint as usize]
    }
}

/// A name, a sentence, and the value of one partition.
type Series<T> = (&'static str, &'static str, fn(&Status) -> T);

/// The series of the partitions that are owned now, in the format of Prometheus.
pub fn render_partitions(partitions: &[Status]) -> String {
    let mut text = String::new();
    render_offsets(&mut text, partitions);
    let series: [Series<f64>; 5] = [
        (
            "readstates_applied_lag_records",
            "Records not applied yet.",
            |s| s.applied_lag_records as f64,
        ),
        (
            "readstates_applied_lag_seconds",
            "Age of the oldest record not applied yet.",
            |s| s.applied_lag_seconds,
        ),
        (
            "readstates_durable_lag_records",
            "Records that are in the stream and not in the store yet.",
            durable_lag,
        ),
        (
            "readstates_oldest_dirty_seconds",
            "Age of the oldest change that is not in the store yet.",
            |s| s.oldest_dirty_seconds,
        ),
        (
            "readstates_dirty_entries",
            "Changed entries that are not in the store yet.",
            |s| s.dirty_entries as f64,
        ),
    ];
    for (name, sentence, value) in series {
        head(&mut text, name, "gauge", sentence);
        for status in partitions {
            line(&mut text, name, status, "", value(status));
        }
    }
    render_labelled(&mut text, partitions);
    text
}

fn render_offsets(text: &mut String, partitions: &[Status]) {
    let series: [Series<Option<Offset>>; 4] = [
        (
            "readstates_applied_offset",
            "The last record applied; no series while there is none.",
            |s| s.applied,
        ),
        (
            "readstates_durable_offset",
            "Every record up to here is in the store.",
            |s| s.durable,
        ),
        (
            "readstates_end_offset",
            "The last record of the partition, as last seen.",
            |s| s.end,
        ),
        (
            "readstates_committed_offset",
            "The last record committed to the consumer group; with JetStream, which has none, the position in the store.",
            |s| s.committed,
        ),
    ];
    for (name, sentence, value) in series {
        head(text, name, "gauge", sentence);
        for status in partitions {
            if let Some(offset) = value(status) {
                line(text, name, status, "", offset.0 as f64);
            }
        }
    }
}

fn render_labelled(text: &mut String, partitions: &[Status]) {
    let name = "readstates_events_total";
    head(
        text,
        name,
        "counter",
        "Events applied since the partition was assigned, by kind.",
    );
    for status in partitions {
        for (kind, count) in EVENT_KINDS.iter().zip(status.events) {
            line(text, name, status, &format!(",kind=\"{kind}\""), count as f64);
        }
    }
    let name = "readstates_cache_entries";
    head(text, name, "gauge", "Cached entries, by kind.");
    for status in partitions {
        let entries = [
            (CacheKind::ReadState, status.read_states_cached),
            (CacheKind::Channel, status.channels_cached),
        ];
        for (kind, count) in entries {
            line(
                text,
                name,
                status,
                &format!(",kind=\"{}\"", kind.name()),
                count as f64,
            );
        }
    }
    let name = "readstates_partition_phase";
    head(
        text,
        name,
        "gauge",
        "1 for the phase that the partition is in, 0 for the others.",
    );
    for status in partitions {
        for phase in PHASES {
            let now = if status.phase == phase { 1.0 } else { 0.0 };
            line(text, name, status, &format!(",phase=\"{phase}\""), now);
        }
    }
}

fn durable_lag(status: &Status) -> f64 {
    let next = |offset: Option<Offset>| offset.map_or(0, |offset| offset.0 + 1);
    let offsets = || next(status.end).saturating_sub(next(status.durable));
    status.durable_lag_records.unwrap_or_else(offsets) as f64
}

fn head(text: &mut String, name: &str, kind: &str, sentence: &str) {
    let _ = writeln!(text, "# HELP {name} {sentence}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, status: &Status, further_labels: &str, value: f64) {
    let _ = writeln!(
        text,
        "{name}{{partition=\"{}\"{further_labels}}} {value}",
        status.partition
    );
}
