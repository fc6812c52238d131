//! Proves what people get who use the commands, with the program as a process on real servers: tables, JSON, exit
//! statuses, and what is said where something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::time::Duration;

use readstates::config::StreamKind;
use serde_json::{Value, json};
use support::servers::{self, wait_for};
use support::service::{Deployment, Said, Service};

const PARTITIONS: u32 = 4;
/// A service starts within seconds on an idle machine.
const LIVE_DEADLINE: Duration = Duration::from_secs(90);

fn deployment(name: &str) -> Deployment {
    let servers = servers::shared();
    Deployment {
        name: name.to_owned(),
        brokers: servers.kafka.url(),
        nats: servers.nats.url(),
        cassandra: servers.cassandra.url(),
        partitions: PARTITIONS,
        settings: Vec::new(),
    }
}

/// The same with JetStream and the embedded store.
fn one_machine(name: &str) -> Deployment {
    let mut deployment = deployment(name);
    let path = servers::fresh_dir(name).join("store");
    deployment.settings.extend([
        ("stream.kind", "jetstream".to_owned()),
        ("store.kind", "embedded".to_owned()),
        ("store.embedded.path", path.to_str().unwrap().to_owned()),
    ]);
    deployment
}

/// A test of each pair of stream and store.
macro_rules! with_either_pair {
    ($($check:ident: $kafka_and_cassandra:ident, $jetstream_and_embedded:ident;)*) => {$(
        #[test]
        fn $kafka_and_cassandra() {
            $check(deployment(stringify!($check)));
        }

        #[test]
        fn $jetstream_and_embedded() {
            $check(one_machine(concat!("one_", stringify!($check))));
        }
    )*};
}

with_either_pair! {
    shown: what_was_published_is_shown_as_tables_and_as_json,
        what_was_published_to_jetstream_is_shown_as_tables_and_as_json;
    lag: lag_shows_every_instance_and_who_is_missing,
        lag_shows_every_instance_and_who_is_missing_with_jetstream;
    errors: errors_of_the_service_are_shown_with_code_and_text,
        errors_of_the_service_are_shown_with_code_and_text_with_jetstream;
    refusals: publish_tells_what_was_refused_and_why,
        publish_tells_what_was_refused_and_why_with_jetstream;
    interrupted: publish_ends_at_ctrl_c_with_a_summary,
        publish_to_jetstream_ends_at_ctrl_c_with_a_summary;
    load: load_reports_what_came_of_it,
        load_reports_what_came_of_it_with_jetstream;
}

/// A service whose partitions are all live.
fn live(deployment: &Deployment) -> Service {
    let mut service = deployment.serve("one", &[]);
    wait_for("all partitions to be live", LIVE_DEADLINE, || {
        service.assert_runs();
        let said = deployment.run("lag", &["--json", "--wait", "300"], b"");
        said.status == Some(0) && {
            let lag = parsed(&said);
            let partitions = lag["partitions"].as_array().unwrap();
            partitions.len() == PARTITIONS as usize && partitions.iter().all(|it| it["phase"] == "live")
        }
    });
    service
}

#[track_caller]
fn parsed(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

#[track_caller]
fn done(said: Said) -> Said {
    assert_eq!(said.status, Some(0), "{said:?}");
    said
}

/// Status, and what standard error has to say.
#[track_caller]
fn check_fails(said: &Said, status: i32, expected: &[&str]) {
    assert_eq!(said.status, Some(status), "{said:?}");
    for part in expected {
        assert!(said.stderr.contains(part), "{part}: {said:?}");
    }
    assert!(!said.stderr.contains("panicked"), "{said:?}");
}

/// The cells of each line.
fn cells(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| line.split_whitespace().collect())
        .collect()
}

/// User 8 has one unread message with a mention in each of these channels.
const CHANNELS: [u64; 5] = [41, 42, 43, 44, 45];

fn events() -> String {
    let mut events = String::new();
    for channel in CHANNELS {
        events += &format!(
            "{{\"channelId\":\"{channel}\",\"messageCreated\":{{\"messageId\":\"1000\",\"authorId\":\"7\",\
             \"mentionedUserIds\":[\"8\"]}}}}\n"
        );
    }
    events += "{\"channelId\":\"45\",\"messageRead\":{\"userId\":\"8\",\"messageId\":\"1000\"}}\n";
    events
}

fn shown(deployment: Deployment) {
    let _service = live(&deployment);
    let said = done(deployment.run("publish", &[], events().as_bytes()));
    assert!(said.stderr.contains("published 6 events, "), "{said:?}");
    assert!(said.stderr.contains("0 refused\n"), "{said:?}");
    let run = |command: &str, arguments: &[&str]| done(deployment.run(command, arguments, b""));
    let unread = |json: &Value| json["readStates"][0]["unreadCount"].clone();
    wait_for("what was published", Duration::from_secs(20), || {
        CHANNELS[..4]
            .iter()
            .all(|channel| unread(&parsed(&run("get", &["8", &channel.to_string(), "--json"]))) == 1)
            && parsed(&run("get", &["8", "45", "--json"]))["readStates"][0]["lastReadMessageId"] == "1000"
    });

    let got = run("get", &["8", "42", "99"]);
    let table = cells(&got.stdout);
    assert_eq!(table.len(), 3, "{got:?}");
    assert_eq!(table[1][..7], ["42", "1", "1", "1", "0", "1000", "-"]);
    assert_eq!(table[2][..7], ["99", "0", "0", "0", "0", "0", "-"]);
    let position = table[1][7];
    let explained = run("explain", &["8", "42"]);
    for part in [
        "User 8 in channel 42: 1 unread",
        "by name 1 in all",
        "The row of the channel",
    ] {
        assert!(explained.stdout.contains(part), "{explained:?}");
    }
    let explained = parsed(&run("explain", &["8", "42", "--json"]));
    assert_eq!(explained["readState"]["unreadCount"], 1);
    assert_eq!(explained["facts"]["counted.mentions_by_name"], "1");
    let after = run("get", &["8", "42", "--partial", "--after", position, "--json"]);
    let state = &parsed(&after)["readStates"][0];
    let at = &state["position"];
    assert_eq!(
        format!("{}:{}", at["partition"], at["offset"].as_str().unwrap()),
        position
    );
    // Canonical JSON: ids as strings, defaults written out.
    let (user, capped) = (&state["userId"], &state["unreadCountCapped"]);
    assert_eq!((user, capped), (&json!("8"), &json!(false)));

    let overview = parsed(&run("overview", &["8", "--json"]));
    let channels = |json: &Value| -> Vec<u64> {
        let states = json["readStates"].as_array().unwrap().iter();
        states
            .map(|state| state["channelId"].as_str().unwrap().parse().unwrap())
            .collect()
    };
    assert_eq!(channels(&overview), CHANNELS);
    assert_eq!(overview["more"], false);
    let page = parsed(&run(
        "overview",
        &["8", "--limit", "2", "--after", "41", "--json"],
    ));
    assert_eq!((channels(&page), &page["more"]), (vec![42, 43], &json!(true)));
    let all = parsed(&run(
        "overview",
        &["8", "--limit", "2", "--all", "--only-unread", "--json"],
    ));
    assert_eq!(
        (channels(&all), &all["more"]),
        (CHANNELS[..4].to_vec(), &json!(false))
    );
    let text = run("overview", &["8", "--limit", "2", "--partial"]).stdout;
    assert_eq!(cells(&text)[2][0], "42");
    assert!(text.ends_with("there are more: --after 42, or --all\n"), "{text}");
}

fn lag(mut deployment: Deployment) {
    deployment.settings.push(("store.write_delay", "10m".to_owned()));
    let none = deployment.run("lag", &["--wait", "300"], b"");
    check_fails(&none, 1, &["no instance answers"]);
    assert_eq!(none.stdout, "");

    let mut service = live(&deployment);
    done(deployment.run("publish", &[], events().as_bytes()));
    // In JetStream all partitions share the sequences, which begin at 1.
    let is_jetstream = deployment.stream_kind() == StreamKind::JetStream;
    let records_of = |lag: &Value| -> u64 {
        let partitions = lag["partitions"].as_array().unwrap().iter();
        let applied = partitions.filter_map(|it| it["appliedOffset"].as_str()?.parse::<u64>().ok());
        match is_jetstream {
            true => applied.max().unwrap_or_default(),
            false => applied.map(|offset| offset + 1).sum(),
        }
    };
    wait_for("all to be applied", Duration::from_secs(20), || {
        let lag = parsed(&done(deployment.run("lag", &["--json"], b"")));
        records_of(&lag) == 6 && lag["totals"]["appliedLagRecords"] == "0"
    });
    let lag = parsed(&done(deployment.run("lag", &["--json"], b"")));
    assert_eq!(lag["partitionCount"], PARTITIONS);
    assert_eq!(lag["unowned"], json!([]));
    assert_eq!(lag["instances"][0]["partitions"], json!([0, 1, 2, 3]));
    // Nothing is durable yet: the write delay is longer than this test.
    let durable_lag = lag["totals"]["durableLagRecords"].as_str().unwrap();
    match is_jetstream {
        // At most: what is between a partition's records belongs to others.
        true => assert!((6..=24).contains(&durable_lag.parse::<u64>().unwrap()), "{lag}"),
        false => assert_eq!(durable_lag, "6"),
    }
    assert!(
        lag["totals"]["oldestDirtySeconds"].as_f64().unwrap() > 0.0,
        "{lag}"
    );

    let text = done(deployment.run("lag", &[], b"")).stdout;
    let table = cells(&text);
    assert_eq!(table[0][..4], ["partition", "instance", "phase", "applied"]);
    assert!(
        (0..4).all(|at| table[at + 1][0] == at.to_string() && table[at + 1][2] == "live"),
        "{text}"
    );
    assert!(text.contains("4 of 4 partitions at 1 instances; "), "{text}");

    // Two tables, one after the other, and then the end.
    let mut watching = deployment.start("lag", &["--watch", "--json"]);
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let lag: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(lag["partitionCount"], PARTITIONS);
    }
    signal(watching.id(), "INT");
    assert_eq!(watching.wait().unwrap().code(), Some(0));

    service.signal("STOP");
    let paused = deployment.run("lag", &["--wait", "300"], b"");
    service.signal("CONT");
    check_fails(&paused, 1, &["no instance answers"]);
    assert_eq!(service.terminate().code(), Some(0));
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn who_asks_wrongly_or_nobody_is_told_so() {
    let deployment = deployment("wrong");
    for (command, arguments, expected) in [
        ("get", &["0", "1"][..], "an id is a whole number from 1 to"),
        ("get", &["8"], "required"),
        (
            "get",
            &["8", "1", "--after", "3"],
            "a position is PARTITION:OFFSET",
        ),
        ("overview", &["alice"], "an id is a whole number"),
        ("overview", &["8", "--limit", "0"], "--limit"),
        (
            "explain",
            &["8", "9223372036854775808"],
            "an id is a whole number",
        ),
        ("load", &["--rate", "0"], "a number above 0"),
        ("load", &["--overview", "2"], "a number from 0 to 1"),
        ("load", &["--users", "9-1"], "a range is FIRST-LAST"),
        ("load", &["--keys", "/nowhere"], "can't read /nowhere"),
        ("nonsense", &[], "unrecognized subcommand"),
        ("lag", &["--set", "nats.ulr=x"], "perhaps nats.url?"),
        (
            "lag",
            &["--config", "/nowhere.toml"],
            "/nowhere.toml: the file can't be read",
        ),
    ] {
        check_fails(&deployment.run(command, arguments, b""), 2, &[expected]);
    }
    // Nobody listens on these subjects.
    for command in ["get", "explain"] {
        check_fails(
            &deployment.run(command, &["8", "1"], b""),
            1,
            &["503 nobody answers on wrong.v1."],
        );
    }
    check_fails(
        &deployment.run("overview", &["8"], b""),
        1,
        &["503 nobody answers on wrong.v1.overview"],
    );
    let load = deployment.run("load", &["--rate", "50", "--duration", "1"], b"");
    check_fails(&load, 1, &["not one request was answered"]);
    assert!(load.stdout.contains("errors 503: nobody answers"), "{load:?}");

    // Both servers are missing: told at once, with the setting.
    let away = Deployment {
        nats: "nats://127.0.0.1:1".to_owned(),
        ..deployment
    };
    for (command, arguments) in [("get", &["8", "1"][..]), ("lag", &[]), ("load", &[])] {
        let said = away.run(command, arguments, b"");
        check_fails(
            &said,
            1,
            &[
                "nats.url nats://127.0.0.1:1 can't be reached (",
                "is nats-server up",
            ],
        );
    }
    let nowhere = ["--set", "stream.kafka.brokers=127.0.0.1:1"];
    check_fails(
        &away.run("publish", &nowhere, b""),
        1,
        &["127.0.0.1:1", "stream.kafka.brokers"],
    );
}

fn errors(mut deployment: Deployment) {
    deployment.settings.push(("limits.max_keys", "2".to_owned()));
    let _service = live(&deployment);
    let many = deployment.run("get", &["8", "1", "2", "3"], b"");
    check_fails(&many, 1, &["413 "]);
    assert_eq!(many.stdout, "");
    let unknown = deployment.run("get", &["8", "1", "--after", "99:1"], b"");
    check_fails(&unknown, 1, &["400 "]);
    let never = deployment.run("get", &["8", "1", "--after", "0:999999", "--timeout", "300"], b"");
    check_fails(&never, 1, &["504 "]);
}

fn refusals(deployment: Deployment) {
    let mut lines = events();
    lines += "no JSON\n\n{\"channelId\":\"1\"}\n";
    for _ in 0..7 {
        lines += "{\"channelId\":\"0\",\"channelDeleted\":{}}\n";
    }
    let said = deployment.run("publish", &[], lines.as_bytes());
    let expected = [
        "published 6 events, ",
        "; 9 refused\n",
        "1 lines: no event in JSON\n  line 7: ",
        "8 lines: invalid\n  line 9: it has no kind that is known here\n  line 10: channel_id is 0, ",
        "  and 3 further lines\n",
    ];
    check_fails(&said, 1, &expected);

    // Wrong settings are no matter of trying again.
    let said = deployment.run(
        "publish",
        &["--set", "stream.kafka.properties.compression.codec=zip"],
        b"",
    );
    check_fails(
        &said,
        2,
        &["stream.kafka.properties.compression.codec = \"zip\" (from --set): librdkafka"],
    );
}

fn interrupted(deployment: Deployment) {
    let mut publishing = deployment.start("publish", &[]);
    let mut input = publishing.stdin.take().unwrap();
    let mut complaints = BufReader::new(publishing.stderr.take().unwrap()).lines();
    input.write_all(events().as_bytes()).unwrap();
    // The first line of progress says that all are acknowledged, while the input stays open.
    let first = complaints
        .by_ref()
        .map(Result::unwrap)
        .find(|line| line.starts_with("6 events, "));
    assert!(first.is_some());
    signal(publishing.id(), "INT");
    assert_eq!(publishing.wait().unwrap().code(), Some(0));
    let rest: Vec<String> = complaints.map(Result::unwrap).collect();
    let rest = rest.join("\n");
    assert!(rest.contains("published 6 events, "), "{rest}");
    assert!(
        rest.ends_with("interrupted after line 6: the lines after it were not published"),
        "{rest}"
    );
    drop(input);
}

fn load(deployment: Deployment) {
    let _service = live(&deployment);
    let arguments = [
        "--rate",
        "200",
        "--duration",
        "3",
        "--keys-per-request",
        "5",
        "--overview",
        "0.1",
        "--publish-rate",
        "100",
        "--seed",
        "7",
    ];
    let said = done(deployment.run("load", &[&arguments[..], &["--json"]].concat(), b""));
    let report = parsed(&said);
    assert_eq!(
        (&report["requests"], &report["seed"]),
        (&json!(600), &json!(7)),
        "{said:?}"
    );
    let number = |name: &str| report[name].as_f64().unwrap();
    assert_eq!(
        number("answered") + number("unsent") + errors_in(&report),
        600.0,
        "{said:?}"
    );
    assert!(number("answered") > 500.0, "{said:?}");
    // Three seconds of chat, after everyone has joined.
    assert!(number("published") > 500.0, "{said:?}");
    assert!(number("seconds") >= 2.9, "{said:?}");
    let latency = |name: &str| report["latencyMs"][name].as_f64().unwrap();
    let quantiles = ["p50", "p90", "p99", "p99.9", "max"].map(latency);
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{said:?}");
    let counts = report["histogram"].as_array().unwrap().iter();
    let all: u64 = counts.map(|bucket| bucket["count"].as_u64().unwrap()).sum();
    assert!(all as f64 >= number("answered"), "{said:?}");

    let text = done(deployment.run(
        "load",
        &["--duration", "1", "--users", "1-3", "--channels", "1-9"],
        b"",
    ))
    .stdout;
    assert!(
        text.contains("100 requests in ") && text.contains("p99.9 ") && text.contains(" ms "),
        "{text}"
    );
}

fn errors_in(report: &Value) -> f64 {
    let errors = report["errors"].as_object().unwrap().values();
    errors.map(|count| count.as_f64().unwrap()).sum()
}

/// The service stands still for a second: whoever was due in that second waited, and the report says so, though only
/// few requests were on their way.
#[test]
fn load_counts_from_when_a_request_was_due() {
    let deployment = deployment("due");
    let service = live(&deployment);
    let arguments = [
        "--rate",
        "100",
        "--duration",
        "4",
        "--in-flight",
        "1",
        "--timeout",
        "10000",
        "--json",
    ];
    let mut loading = deployment.start("load", &arguments);
    wait_for("some answers", Duration::from_secs(30), || {
        service.metric("readstates_queries_total", "endpoint=\"get\",code=\"200\"") >= 20.0
    });
    service.signal("STOP");
    std::thread::sleep(Duration::from_millis(1000));
    service.signal("CONT");
    drop(loading.stdin.take());
    let output = loading.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["requests"], 400, "{report}");
    // A quarter of the requests were due in that second, and waited for half of it on average.
    assert!(report["sentLate"].as_u64().unwrap() >= 60, "{report}");
    assert!(report["latencyMs"]["p90"].as_f64().unwrap() > 200.0, "{report}");
}

#[test]
fn the_configuration_is_printed_by_every_command_and_can_be_read_again() {
    let deployment = deployment("printed");
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "hunter2-canary").unwrap();
    let password = format!("stream.kafka.password_file={}", secret.display());
    for (command, arguments) in [
        ("serve", &[][..]),
        ("publish", &[]),
        ("get", &["8", "1"]),
        ("overview", &["8"]),
        ("explain", &["8", "1"]),
        ("lag", &[]),
        ("load", &[]),
        ("demo", &[]),
    ] {
        let arguments = [arguments, &["--print-config", "--set", &password]].concat();
        let said = done(deployment.run(command, &arguments, b""));
        assert!(!said.stdout.contains("hunter2"), "{said:?}");
        for expected in [
            "subject_prefix = \"printed\"  # flag --set\n",
            "topic = \"printed-events\"  # environment READSTATES_STREAM__KAFKA__TOPIC\n",
            "write_delay = \"30s\"  # default\n",
            "secret\"  # flag --set\n",
        ] {
            assert!(said.stdout.contains(expected), "{command} {expected}: {said:?}");
        }
        let file = dir.path().join("printed.toml");
        std::fs::write(&file, &said.stdout).unwrap();
        let again = Command::new(env!("CARGO_BIN_EXE_readstates"))
            .env_clear()
            .args(["--print-config", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let values = |text: &str| -> Vec<String> {
            let lines = text
                .lines()
                .map(|line| line.split("  # ").next().unwrap().to_owned());
            lines.collect()
        };
        assert_eq!(
            values(&String::from_utf8(again.stdout).unwrap()),
            values(&said.stdout)
        );
    }
    let wrong = deployment.run("serve", &["--print-config", "--set", "limits.max_keys=0"], b"");
    check_fails(
        &wrong,
        2,
        &["limits.max_keys = \"0\" (from --set): must be a whole number"],
    );
}
