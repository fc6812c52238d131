//! What operators see over HTTP: the listener of a running service, over partitions whose state is known.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod support {
    pub mod fakes;
}

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use readstates::model::ids::PartitionId;
use readstates::ops::http::{Admin, Dependency, serve};
use readstates::ops::metrics::{
    self, CacheKind, CacheMetrics, QueryEndpoint, QueryMetrics, StoreMetrics, declare, recorder,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use support::fakes::{FakePartitions, World};

struct Running {
    address: SocketAddr,
    partitions: FakePartitions,
    connected: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// Counts a little of everything, and serves it.
async fn start() -> Running {
    let (recorder, handle) = recorder().unwrap();
    ::metrics::with_local_recorder(&recorder, || {
        declare("2.12.1");
        let queries = QueryMetrics::new();
        queries.answered(QueryEndpoint::Get, None, Duration::from_micros(300));
        queries.answered(QueryEndpoint::Get, Some(503), Duration::from_secs(20));
        queries.refused(QueryEndpoint::InternalOverview, 429);
        queries.answered(QueryEndpoint::InternalStamp, Some(409), Duration::from_micros(20));
        StoreMetrics::new().writes.ended(false, Duration::from_millis(3));
        CacheMetrics::new(CacheKind::Channel).hits.increment(7);
        metrics::events_ignored("duplicate").increment(2);
        metrics::source_paused("store").set(1.0);
        metrics::rebalances("assigned").increment(3);
    });
    let world = Arc::new(World::default());
    let partitions = FakePartitions::new(&world, []);
    let connected = Arc::new(AtomicBool::new(true));
    let admin = Admin {
        instance: "one<&>".to_owned(),
        metrics: handle,
        partitions: partitions.clone(),
        dependencies: vec![Dependency {
            name: "NATS",
            connected: Box::new({
                let connected = connected.clone();
                move || connected.load(Ordering::Relaxed)
            }),
        }],
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(serve(listener, admin, async {
        let _ = stopped.await;
    }));
    Running {
        address,
        partitions,
        connected,
        stop,
        served,
    }
}

/// The status and the body.
async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn metrics_of(address: SocketAddr) -> String {
    let (status, text) = fetch(address, "/metrics").await;
    assert_eq!(status, 200);
    check_exposition(&text);
    text
}

/// Each series once, each name with one TYPE and one HELP before it, each value a number.
fn check_exposition(text: &str) {
    let mut series = BTreeSet::new();
    let mut types = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap();
            assert!(types.insert(name.to_owned()), "twice: {line}");
            assert!(
                text.contains(&format!("# HELP {name} ")),
                "no sentence for {name}"
            );
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            assert!(series.insert(name.to_owned()), "twice: {line}");
            let name = name.split('{').next().unwrap();
            let of = |suffix| name.strip_suffix(suffix).is_some_and(|name| types.contains(name));
            assert!(
                types.contains(name) || of("_bucket") || of("_sum") || of("_count"),
                "no type: {line}"
            );
        }
    }
}

#[tokio::test]
async fn metrics_have_every_name_of_the_contract() {
    let running = start().await;
    running.partitions.gain(PartitionId(3));
    let text = metrics_of(running.address).await;
    // Section 5 of the contract. The labels after each name are those of one series that must be there.
    for series in [
        "events_total{partition=\"3\",kind=\"message_read\"} 2",
        "events_ignored_total{reason=\"duplicate\"} 2",
        "dead_letters_total{reason=\"misrouted\"} 0",
        "applied_offset{partition=\"3\"} 41",
        "end_offset{partition=\"3\"} 42",
        "applied_lag_records{partition=\"3\"} 1",
        "applied_lag_seconds{partition=\"3\"} 0",
        "durable_lag_records{partition=\"3\"} 43",
        "oldest_dirty_seconds{partition=\"3\"} 0",
        "dirty_entries{partition=\"3\"} 0",
        "source_paused{reason=\"store\"} 1",
        "nats_dropped_total 0",
        "cache_entries{partition=\"3\",kind=\"read_state\"} 0",
        "cache_capacity{kind=\"channel\"} 0",
        "cache_hits_total{kind=\"channel\"} 7",
        "cache_misses_total{kind=\"read_state\"} 0",
        "cache_evictions_total{kind=\"read_state\"} 0",
        "store_writes_total{result=\"failed\"} 1",
        "store_write_duration_seconds_bucket{le=\"0.0025\"} 0",
        "store_write_duration_seconds_bucket{le=\"0.005\"} 1",
        "store_reads_total{result=\"ok\"} 0",
        "store_read_duration_seconds_count 0",
        "queries_total{endpoint=\"get\",code=\"200\"} 1",
        "queries_total{endpoint=\"get\",code=\"503\"} 1",
        "queries_total{endpoint=\"internal_overview\",code=\"429\"} 1",
        "queries_total{endpoint=\"internal_stamp\",code=\"409\"} 1",
        "queries_total{endpoint=\"status\",code=\"504\"} 0",
        "query_duration_seconds_bucket{endpoint=\"get\",le=\"0.0005\"} 1",
        "query_duration_seconds_bucket{endpoint=\"get\",le=\"10\"} 1",
        "query_duration_seconds_bucket{endpoint=\"get\",le=\"+Inf\"} 2",
        "rebalances_total{kind=\"assigned\"} 3",
        "partition_phase{partition=\"3\",phase=\"live\"} 1",
        "partition_phase{partition=\"3\",phase=\"stuck\"} 0",
        "build_info{version=\"0.1.0\",librdkafka=\"2.12.1\"} 1",
    ] {
        assert!(
            text.lines().any(|line| line == format!("readstates_{series}")),
            "no {series} in\n{text}"
        );
    }
    for name in ["durable_offset", "committed_offset"] {
        assert!(
            text.contains(&format!("# TYPE readstates_{name} gauge")),
            "{name}"
        );
        assert!(
            !text.contains(&format!("readstates_{name}{{")),
            "{name} has no value yet"
        );
    }
}

#[tokio::test]
async fn series_of_a_partition_go_with_it() {
    let running = start().await;
    for partition in [3, 4] {
        running.partitions.gain(PartitionId(partition));
    }
    let both = metrics_of(running.address).await;
    running.partitions.lose(PartitionId(3));
    let one = metrics_of(running.address).await;
    let count = |text: &str, partition: u32| text.matches(&format!("partition=\"{partition}\"")).count();
    assert!(count(&both, 3) > 20);
    assert_eq!(count(&both, 3), count(&both, 4));
    assert_eq!((count(&one, 3), count(&one, 4)), (0, count(&both, 4)));
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let running = start().await;
    assert_eq!(
        fetch(running.address, "/readyz").await,
        (200, "ready\n".to_owned())
    );
    running.partitions.gain(PartitionId(3));
    running.partitions.gain(PartitionId(4));
    assert_eq!(fetch(running.address, "/readyz").await.0, 200);
    running.partitions.world.set_phase(PartitionId(4), "catching-up");
    let missing = "partition 4 is catching-up\n".to_owned();
    assert_eq!(fetch(running.address, "/readyz").await, (503, missing.clone()));
    running.connected.store(false, Ordering::Relaxed);
    let both = format!("NATS is not connected\n{missing}");
    assert_eq!(fetch(running.address, "/readyz").await, (503, both));
    assert_eq!(
        fetch(running.address, "/healthz").await,
        (200, "alive\n".to_owned())
    );
    let (status, page) = fetch(running.address, "/").await;
    assert_eq!(status, 200);
    assert!(
        page.contains("one&lt;&amp;&gt;") && !page.contains("one<&>"),
        "{page}"
    );
    assert!(
        page.contains("NATS is not connected; 1 of 2 partitions not live"),
        "{page}"
    );
    assert!(page.contains("<td>3<td>live<td>41<td>–<td>42<td>1<td>"), "{page}");
    assert!(page.contains("<td>4<td class=bad>catching-up<td>"), "{page}");
    running.partitions.world.set_phase(PartitionId(4), "live");
    running.connected.store(true, Ordering::Relaxed);
    assert_eq!(fetch(running.address, "/readyz").await.0, 200);
    assert_eq!(fetch(running.address, "/nowhere").await.0, 404);
    running.stop.send(()).unwrap();
    running.served.await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}
