//! Proves that the metrics of section 5 of the contract and the log lines of a running service say what was done to it: on
//! real servers known events, unusable records and questions come in, partitions go to a second instance and come back,
//! and the store goes away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "metrics/doing.rs"]
mod doing;
#[path = "metrics/exposition.rs"]
mod exposition;
#[path = "metrics/log.rs"]
mod log;
mod support;

use std::thread;
use std::time::Duration;

use prost::Message;
use readstates::model::ids::ChannelId;
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1;
use readstates::wire::proto::v1::event::Kind;

use doing::Doing;
use exposition::Page;
use log::{check_json_log, check_text_log};
use support::servers::{Cassandra, Kafka, Nats, fresh_dir, wait_for};
use support::service::{Deployment, Service};

/// For whatever a busy machine has to get to.
const DEADLINE: Duration = Duration::from_secs(120);
const PARTITIONS: u32 = 2;
const CHANNELS: u64 = 20;
const READ_STATES_CACHED: u64 = 40;
const KEYS_MAX: usize = 10;
/// Above the time in which the log has one line on dead letters.
const LETTER_PAUSE: Duration = Duration::from_millis(1200);

/// Section 5 of the contract: name, type, labels.
const CONTRACT: &[(&str, &str, &[&str])] = &[
    ("events_total", "counter", &["partition", "kind"]),
    ("events_ignored_total", "counter", &["reason"]),
    ("dead_letters_total", "counter", &["reason"]),
    ("applied_offset", "gauge", &["partition"]),
    ("durable_offset", "gauge", &["partition"]),
    ("end_offset", "gauge", &["partition"]),
    ("committed_offset", "gauge", &["partition"]),
    ("applied_lag_records", "gauge", &["partition"]),
    ("applied_lag_seconds", "gauge", &["partition"]),
    ("durable_lag_records", "gauge", &["partition"]),
    ("oldest_dirty_seconds", "gauge", &["partition"]),
    ("dirty_entries", "gauge", &["partition"]),
    ("source_paused", "gauge", &["reason"]),
    ("nats_dropped_total", "counter", &[]),
    ("cache_entries", "gauge", &["partition", "kind"]),
    ("cache_capacity", "gauge", &["kind"]),
    ("cache_hits_total", "counter", &["kind"]),
    ("cache_misses_total", "counter", &["kind"]),
    ("cache_evictions_total", "counter", &["kind"]),
    ("store_writes_total", "counter", &["result"]),
    ("store_write_duration_seconds", "histogram", &[]),
    ("store_reads_total", "counter", &["result"]),
    ("store_read_duration_seconds", "histogram", &[]),
    ("queries_total", "counter", &["endpoint", "code"]),
    ("query_duration_seconds", "histogram", &["endpoint"]),
    ("rebalances_total", "counter", &["kind"]),
    ("partition_phase", "gauge", &["partition", "phase"]),
    ("build_info", "gauge", &["version", "librdkafka"]),
];

/// Of any process.
const PROCESS: &[(&str, &str)] = &[
    ("cpu_seconds_total", "counter"),
    ("open_fds", "gauge"),
    ("max_fds", "gauge"),
    ("virtual_memory_bytes", "gauge"),
    ("resident_memory_bytes", "gauge"),
    ("start_time_seconds", "gauge"),
    ("threads", "gauge"),
];

/// Label values that are known before anything has happened.
const KNOWN: &[(&str, &str, &[&str])] = &[
    (
        "events_ignored_total",
        "reason",
        &["duplicate", "unknown_message", "channel_deleted", "replayed"],
    ),
    (
        "dead_letters_total",
        "reason",
        &["undecodable", "invalid", "misrouted"],
    ),
    ("source_paused", "reason", &["dead_letters", "store", "queue"]),
    ("cache_hits_total", "kind", &["read_state", "channel"]),
    ("cache_misses_total", "kind", &["read_state", "channel"]),
    ("cache_evictions_total", "kind", &["read_state", "channel"]),
    ("store_writes_total", "result", &["ok", "failed"]),
    ("store_reads_total", "result", &["ok", "failed"]),
    ("rebalances_total", "kind", &["assigned", "revoked", "lost"]),
];

fn page(service: &Service) -> Page {
    let answer = service.page("/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let page = Page::parse(body);
    check_names(&page);
    page
}

/// All that the contract names, and nothing else that looks like it.
fn check_names(page: &Page) {
    for (name, kind, labels) in CONTRACT {
        let family = page.family(&format!("readstates_{name}"));
        assert_eq!(family.kind, *kind, "{name}");
        for (_, found) in family.series.keys() {
            let mut found: Vec<&str> = found
                .keys()
                .map(String::as_str)
                .filter(|label| *label != "le")
                .collect();
            let mut labels = labels.to_vec();
            found.sort_unstable();
            labels.sort_unstable();
            assert_eq!(found, labels, "{name}");
        }
    }
    for (name, kind) in PROCESS {
        let family = page.family(&format!("process_{name}"));
        assert_eq!((family.kind.as_str(), family.series.len()), (*kind, 1), "{name}");
    }
    for name in page.families.keys() {
        let is_ours = |name: &str| CONTRACT.iter().any(|(known, ..)| *known == name);
        assert!(
            name.strip_prefix("readstates_").is_some_and(is_ours) || name.starts_with("process_"),
            "{name}"
        );
    }
    for (name, label, values) in KNOWN {
        for value in *values {
            page.value(&format!("readstates_{name}"), &[(label, value)]);
        }
    }
    for endpoint in ["get", "partition_get", "overview", "explain", "status"] {
        for code in ["200", "400", "413", "429", "503", "504"] {
            page.value(
                "readstates_queries_total",
                &[("endpoint", endpoint), ("code", code)],
            );
        }
    }
    for (_, labels) in page.family("readstates_queries_total").series.keys() {
        assert!(labels["code"].parse::<u16>().is_ok(), "{labels:?}");
    }
}

fn owned(page: &Page) -> Vec<String> {
    let phases = &page.family("readstates_partition_phase").series;
    let mut owned: Vec<String> = phases
        .keys()
        .map(|(_, labels)| labels["partition"].clone())
        .collect();
    owned.dedup();
    owned
}

/// Waits until so many partitions are live here, and no others are here.
fn wait_until_live(service: &mut Service, count: usize) -> Page {
    wait_for(&format!("{count} live partitions"), DEADLINE, || {
        service.assert_runs();
        let page = page(service);
        let live = page.sum("readstates_partition_phase", &[("phase", "live")]) as usize;
        live == count && owned(&page).len() == count
    });
    page(service)
}

fn keys(keys: impl IntoIterator<Item = (u64, u64)>) -> v1::GetRequest {
    let keys = keys
        .into_iter()
        .map(|(user_id, channel_id)| v1::Key { user_id, channel_id });
    v1::GetRequest {
        keys: keys.collect(),
        ..v1::GetRequest::default()
    }
}

/// Events of each kind, ignored ones, and records that can't be used.
fn publish(doing: &mut Doing, service: &Service) {
    let message = |channel: u64| 100 + channel;
    let created = |channel| {
        Kind::MessageCreated(v1::MessageCreated {
            message_id: message(channel),
            author_id: 7,
            mentioned_user_ids: vec![8],
            ..v1::MessageCreated::default()
        })
    };
    let updated = |message_id| {
        Kind::MessageUpdated(v1::MessageUpdated {
            message_id,
            ..v1::MessageUpdated::default()
        })
    };
    let read = |message_id| {
        Kind::MessageRead(v1::MessageRead {
            user_id: 8,
            message_id,
        })
    };
    // The first one is in the log, the others are counted there.
    doing.letter(
        "misrouted",
        1,
        &v1::Event {
            channel_id: 1,
            kind: Some(read(1)),
        }
        .encode_to_vec(),
    );
    doing.wait_for_letters(service);
    for _ in 0..3 {
        doing.letter("undecodable", 2, b"\xff\xff\xff\xff");
    }
    doing.letter("invalid", 3, b"");
    for channel in 1..=CHANNELS {
        doing.event(channel, created(channel));
    }
    for channel in 1..=3 {
        doing.event(channel, created(channel));
        doing.event(channel, Kind::MemberJoined(v1::MemberJoined { user_id: 9 }));
    }
    for channel in 1..=10 {
        doing.event(channel, read(message(channel)));
    }
    doing.event(1, updated(message(1)));
    doing.event(1, updated(5));
    doing.event(2, updated(5));
    let marked = v1::MessageMarkedUnread {
        user_id: 8,
        message_id: message(4),
    };
    doing.event(4, Kind::MessageMarkedUnread(marked));
    let deleted = v1::MessageDeleted {
        message_ids: vec![message(5)],
    };
    doing.event(5, Kind::MessageDeleted(deleted));
    doing.event(6, Kind::MemberLeft(v1::MemberLeft { user_id: 9 }));
    doing.event(CHANNELS, Kind::ChannelDeleted(v1::ChannelDeleted {}));
    doing.event(CHANNELS, created(CHANNELS + 1));
    doing.wait_for_letters(service);
    // The log is silent on dead letters for a second.
    thread::sleep(LETTER_PAUSE);
    doing.letter("invalid", 3, b"");
}

fn check_events(doing: &Doing, page: &Page) {
    for kind in readstates::model::event::EVENT_KINDS {
        let count = page.sum("readstates_events_total", &[("kind", kind)]);
        assert_eq!(count, doing.events[kind] as f64, "{kind}");
    }
    for (reason, count) in [
        ("duplicate", 3.0),
        ("unknown_message", 2.0),
        ("channel_deleted", 1.0),
        ("replayed", 0.0),
    ] {
        assert_eq!(
            page.value("readstates_events_ignored_total", &[("reason", reason)]),
            count,
            "{reason}"
        );
    }
    for (reason, count) in &doing.letters {
        assert_eq!(
            page.value("readstates_dead_letters_total", &[("reason", reason)]),
            *count as f64,
            "{reason}"
        );
    }
    for partition in 0..PARTITIONS as usize {
        let of = |name: &str| {
            page.value(
                &format!("readstates_{name}"),
                &[("partition", &partition.to_string())],
            )
        };
        assert_eq!(
            (of("applied_offset"), of("end_offset")),
            (doing.last(partition), doing.last(partition))
        );
        assert_eq!((of("applied_lag_records"), of("applied_lag_seconds")), (0.0, 0.0));
    }
}

/// All is written after a while, and committed.
fn check_written(doing: &Doing, service: &Service) -> Page {
    let is_written = |page: &Page| {
        (0..PARTITIONS as usize).all(|number| {
            let partition = [("partition", &*number.to_string())];
            let last = Some(doing.last(number));
            page.get("readstates_durable_offset", &partition) == last
                && page.get("readstates_committed_offset", &partition) == last
                && page.get("readstates_durable_lag_records", &partition) == Some(0.0)
                && page.get("readstates_dirty_entries", &partition) == Some(0.0)
                && page.get("readstates_oldest_dirty_seconds", &partition) == Some(0.0)
        })
    };
    wait_for("everything to be written and committed", DEADLINE, || {
        is_written(&page(service))
    });
    let page = page(service);
    // A head for each channel, a read state for each mentioned user and author, two positions: at least.
    let written = page.value("readstates_store_writes_total", &[("result", "ok")]);
    assert!(written >= (3 * CHANNELS + 2) as f64, "{written} writes");
    assert_eq!(
        page.value("readstates_store_write_duration_seconds_count", &[]),
        written
    );
    assert_eq!(
        page.value("readstates_store_writes_total", &[("result", "failed")]),
        0.0
    );
    page
}

fn check_queries(doing: &mut Doing, service: &Service) -> Page {
    let (one, all) = (
        keys([(8, 1)]),
        keys((1..=KEYS_MAX as u64 + 1).map(|user| (user, 1))),
    );
    for _ in 0..7 {
        doing.ask("get", "200", 5000, one.encode_to_vec());
    }
    doing.ask("get", "400", 5000, b"\xff".to_vec());
    doing.ask("get", "400", 5000, keys([(0, 1)]).encode_to_vec());
    doing.ask("get", "413", 5000, all.encode_to_vec());
    let later = v1::GetRequest {
        after: vec![v1::Position {
            partition: partition_of(ChannelId(1), PARTITIONS).0,
            offset: 1_000_000,
        }],
        ..one
    };
    doing.ask("get", "504", 200, later.encode_to_vec());
    doing.shout();
    for _ in 0..4 {
        doing.ask("partition_get", "200", 5000, Vec::new());
    }
    let overview = v1::OverviewRequest {
        user_id: 8,
        ..v1::OverviewRequest::default()
    };
    for _ in 0..2 {
        doing.ask("overview", "200", 5000, overview.encode_to_vec());
    }
    doing.ask(
        "explain",
        "200",
        5000,
        v1::Key {
            user_id: 8,
            channel_id: 1,
        }
        .encode_to_vec(),
    );
    for _ in 0..3 {
        doing.ask("status", "200", 5000, Vec::new());
    }
    let page = doing.check_asked(service);
    let worked_on = page.value("readstates_query_duration_seconds_count", &[("endpoint", "get")]);
    // All but the one that nobody could be told the answer of.
    assert_eq!(
        worked_on,
        page.sum("readstates_queries_total", &[("endpoint", "get")]) - 1.0
    );
    let waited = page.value("readstates_query_duration_seconds_sum", &[("endpoint", "get")]);
    assert!(waited >= 0.15, "one waited for 200 ms: {waited}");
    page
}

/// More read states are asked for than are cached; then one twice.
fn check_cache(doing: &mut Doing, service: &Service, before: &Page) {
    let of = |page: &Page, what: &str, kind| {
        page.value(&format!("readstates_cache_{what}_total"), &[("kind", kind)])
    };
    let users = 1000..1000 + 3 * READ_STATES_CACHED;
    for some in users.clone().collect::<Vec<_>>().chunks(KEYS_MAX) {
        let request = keys(some.iter().map(|user| (*user, 1)));
        doing.ask("get", "200", 10_000, request.encode_to_vec());
    }
    // Room is made once what came together is done.
    wait_for("room in the cache", DEADLINE, || {
        let entries = page(service).sum("readstates_cache_entries", &[("kind", "read_state")]);
        entries <= READ_STATES_CACHED as f64
    });
    let full = page(service);
    let missed = of(&full, "misses", "read_state") - of(before, "misses", "read_state");
    assert!(missed >= (3 * READ_STATES_CACHED) as f64, "{missed} misses");
    let evicted = of(&full, "evictions", "read_state") - of(before, "evictions", "read_state");
    assert!(
        evicted >= (3 * READ_STATES_CACHED - READ_STATES_CACHED) as f64 - 1.0,
        "{evicted} evictions"
    );
    assert!(of(&full, "hits", "channel") > of(before, "hits", "channel"));
    assert_eq!(
        full.value("readstates_cache_capacity", &[("kind", "read_state")]),
        READ_STATES_CACHED as f64
    );
    assert_eq!(
        full.value("readstates_cache_capacity", &[("kind", "channel")]),
        f64::from(1 << 20)
    );
    let entries = full.sum("readstates_cache_entries", &[("kind", "read_state")]);
    assert!(
        (1.0..=READ_STATES_CACHED as f64).contains(&entries),
        "{entries} entries"
    );
    assert!(full.sum("readstates_cache_entries", &[("kind", "channel")]) >= 1.0);
    let reads = full.value("readstates_store_reads_total", &[("result", "ok")]);
    assert!(reads >= missed, "{reads} reads");
    assert_eq!(
        full.value("readstates_store_read_duration_seconds_count", &[]),
        reads
    );

    let last = keys([(users.end - 1, 1)]);
    doing.ask("get", "200", 5000, last.encode_to_vec());
    let again = page(service);
    assert_eq!(
        of(&again, "hits", "read_state") - of(&full, "hits", "read_state"),
        1.0
    );
    assert_eq!(
        of(&again, "misses", "read_state"),
        of(&full, "misses", "read_state")
    );
}

fn rebalances(page: &Page) -> [f64; 3] {
    ["assigned", "revoked", "lost"].map(|kind| page.value("readstates_rebalances_total", &[("kind", kind)]))
}

fn settings() -> Vec<(&'static str, String)> {
    vec![
        ("store.write_delay", "200ms".to_owned()),
        ("cache.read_states", READ_STATES_CACHED.to_string()),
        ("cache.channel_memory", "1MiB".to_owned()),
        ("limits.max_keys", KEYS_MAX.to_string()),
    ]
}

/// All that one instance counts, whatever the stream and the store are.
fn check_alone(deployment: &Deployment, one: &mut Service) -> (Doing, Page) {
    let began = wait_until_live(one, PARTITIONS as usize);
    assert_eq!(rebalances(&began), [1.0, 0.0, 0.0]);
    assert!(!page_has_dirt(&began));
    let info = &began.family("readstates_build_info").series;
    let ((_, labels), value) = info.iter().next().unwrap();
    assert_eq!(
        (info.len(), *value, &*labels["version"]),
        (1, 1.0, env!("CARGO_PKG_VERSION"))
    );
    assert!(labels["librdkafka"].starts_with("2."), "{labels:?}");

    let mut doing = Doing::new(deployment);
    publish(&mut doing, one);
    let applied = doing.settle(one);
    check_events(&doing, &applied);
    let written = check_written(&doing, one);
    let asked = check_queries(&mut doing, one);
    check_cache(&mut doing, one, &asked);
    let alone = doing.check_asked(one);
    for (before, after) in [
        (&began, &applied),
        (&applied, &written),
        (&written, &asked),
        (&asked, &alone),
    ] {
        after.check_goes_on_from(before);
    }
    (doing, alone)
}

#[test]
fn metrics_say_what_was_done_with_jetstream_and_the_embedded_store() {
    let nats = Nats::start();
    let mut settings = settings();
    let path = fresh_dir("metrics").join("store");
    settings.extend([
        ("stream.kind", "jetstream".to_owned()),
        ("store.kind", "embedded".to_owned()),
        ("store.embedded.path", path.to_str().unwrap().to_owned()),
    ]);
    // Neither Kafka nor Cassandra is anywhere.
    let nowhere = "127.0.0.1:1".to_owned();
    let deployment = Deployment {
        name: "metrics".to_owned(),
        brokers: nowhere.clone(),
        nats: nats.url(),
        cassandra: nowhere,
        partitions: PARTITIONS,
        settings,
    };
    let mut one = deployment.serve("one", &[]);
    let (mut doing, alone) = check_alone(&deployment, &mut one);
    let status = one.page("/");
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    for partition in 0..PARTITIONS as usize {
        let row = format!("<td>{partition}<td>live<td>{}<td>", doing.last(partition));
        assert!(status.contains(&row), "{row}: {status}");
    }

    // A standby owns nothing, and shows no partition; on a folder of its own, since one has the first.
    let other = fresh_dir("metrics-other").join("store");
    let elsewhere = ("store.embedded.path", other.to_str().unwrap().to_owned());
    let mut two = deployment.serve("two", &[elsewhere]);
    wait_for("the second to stand by", DEADLINE, || {
        two.assert_runs();
        two.log().contains("standby: another instance has the lease")
    });
    let standing_by = page(&two);
    assert_eq!(rebalances(&standing_by), [0.0, 0.0, 0.0]);
    assert!(owned(&standing_by).is_empty());
    assert_eq!(two.terminate().code(), Some(0), "{}", two.log_tail());
    page(&one).check_goes_on_from(&alone);
    assert_eq!(one.terminate().code(), Some(0), "{}", one.log_tail());

    // Nothing is applied again, and what is not in the store yet shows as lag.
    let mut again = deployment.serve("again", &[("store.write_delay", "1h".to_owned())]);
    wait_until_live(&mut again, PARTITIONS as usize);
    let clean = doing.settle(&mut again);
    assert_eq!(clean.sum("readstates_events_total", &[]), 0.0);
    assert_eq!(clean.sum("readstates_durable_lag_records", &[]), 0.0);
    let read = Kind::MessageRead(v1::MessageRead {
        user_id: 11,
        message_id: 1,
    });
    // In the other partition, so that sequences are taken.
    let other = (1..).find(|channel| {
        partition_of(ChannelId(*channel), PARTITIONS) != partition_of(ChannelId(1), PARTITIONS)
    });
    for _ in 0..5 {
        doing.event(other.unwrap(), read.clone());
    }
    doing.event(1, read);
    let dirty = doing.settle(&mut again);
    assert_eq!(dirty.sum("readstates_events_total", &[]), 6.0);
    assert_eq!(dirty.sum("readstates_durable_lag_records", &[]), 6.0);
    let partition = partition_of(ChannelId(1), PARTITIONS).0 as usize;
    let of = |name: &str| dirty.value(name, &[("partition", &partition.to_string())]);
    let last = doing.last(partition);
    assert_eq!(of("readstates_applied_lag_records"), 0.0);
    // However many sequences lie between.
    assert_eq!(of("readstates_durable_lag_records"), 1.0);
    assert!(of("readstates_durable_offset") < last && of("readstates_committed_offset") < last);
    assert_eq!(again.terminate().code(), Some(0), "{}", again.log_tail());
}

#[test]
fn metrics_and_log_say_what_was_done() {
    let (kafka, mut cassandra, nats) = thread::scope(|scope| {
        let (kafka, cassandra) = (scope.spawn(Kafka::start), scope.spawn(Cassandra::start));
        (kafka.join().unwrap(), cassandra.join().unwrap(), Nats::start())
    });
    let deployment = Deployment {
        name: "metrics".to_owned(),
        brokers: kafka.url(),
        nats: nats.url(),
        cassandra: cassandra.url(),
        partitions: PARTITIONS,
        settings: settings(),
    };
    let mut one = deployment.serve("one", &[]);
    let (mut doing, alone) = check_alone(&deployment, &mut one);

    let mut two = deployment.serve("two", &[("log.format", "json".to_owned())]);
    let gained = wait_until_live(&mut two, 1);
    let shared = wait_until_live(&mut one, 1);
    assert_eq!(
        (rebalances(&gained), rebalances(&shared)),
        ([1.0, 0.0, 0.0], [1.0, 1.0, 0.0])
    );
    assert_ne!(owned(&gained), owned(&shared));
    shared.check_goes_on_from(&alone);
    assert_eq!(two.terminate().code(), Some(0), "{}", two.log_tail());
    let again = wait_until_live(&mut one, PARTITIONS as usize);
    assert_eq!(rebalances(&again), [2.0, 1.0, 0.0]);
    again.check_goes_on_from(&shared);
    check_json_log(&two.log());

    assert_eq!(one.terminate().code(), Some(0), "{}", one.log_tail());
    check_text_log(&one.log());
    check_replay_and_failure(&deployment, &mut doing, &mut cassandra);
}

fn page_has_dirt(page: &Page) -> bool {
    page.sum("readstates_dirty_entries", &[]) > 0.0
}

/// Positions that are gone make the next life apply everything again, which changes nothing; then the store goes away.
fn check_replay_and_failure(deployment: &Deployment, doing: &mut Doing, cassandra: &mut Cassandra) {
    doing.runtime.block_on(async {
        let session = scylla::client::session_builder::SessionBuilder::new().known_node(cassandra.url());
        let session = session.build().await.unwrap();
        let truncate = format!("TRUNCATE {}.positions_g1", deployment.keyspace());
        session.query_unpaged(truncate, ()).await.unwrap();
    });
    let mut service = deployment.serve("again", &[("store.write_delay", "1h".to_owned())]);
    wait_until_live(&mut service, PARTITIONS as usize);
    let replayed = doing.settle(&mut service);
    let all: u64 = doing.events.values().sum();
    assert_eq!(replayed.sum("readstates_events_total", &[]), all as f64);
    let ignored = replayed.value("readstates_events_ignored_total", &[("reason", "replayed")]);
    assert!(ignored > 0.0 && ignored <= all as f64, "{ignored} of {all}");

    cassandra.kill9();
    let failed = |page: &Page| page.value("readstates_store_reads_total", &[("result", "failed")]);
    assert_eq!(failed(&replayed), 0.0);
    doing.asked.clear();
    let mut user = 100_000;
    // The first ones may have to wait for attempts that hang.
    wait_for("the store to fail", DEADLINE, || {
        user += 1;
        let request = keys([(user, 1)]).encode_to_vec();
        let asking = doing
            .client
            .request(format!("{}.v1.get", deployment.name), request.into());
        let _ = doing.runtime.block_on(asking);
        page(&service).value(
            "readstates_queries_total",
            &[("endpoint", "get"), ("code", "503")],
        ) >= 1.0
    });
    let gone = page(&service);
    assert!(failed(&gone) >= 1.0);
    let reads = gone.sum("readstates_store_reads_total", &[]);
    assert_eq!(
        gone.value("readstates_store_read_duration_seconds_count", &[]),
        reads
    );
    let ready = service.page("/readyz");
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("the store is not connected"),
        "{ready}"
    );
    service.kill9();
}
