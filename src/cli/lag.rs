//! `lag`: partitions, their owners and how far behind they are, over all instances.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Failed;
use super::asking::{self, print};
use super::table::{Column, or_dash, table};
use crate::client::{Client, PartitionStatus, Statuses};
use crate::config::Config;
use crate::wire::query::{Form, encode_reply};

/// How often `--watch` asks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Clears the screen of a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What to show.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Asks again each second, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// Prints one JSON object (with --watch: each time one, on a line).
    #[arg(long)]
    json: bool,
    /// How long to wait for instances while a partition has no owner.
    #[arg(long, default_value_t = 2000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    wait: u64,
}

/// Asks all instances and prints.
///
/// # Errors
/// That NATS can't be reached, or that no instance answers.
pub async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failed> {
    let client = asking::connect(config).await?;
    if !arguments.watch {
        let gathered = gather(&client, arguments.wait).await?;
        return show(&gathered, arguments, "");
    }
    let clear = if stdout().is_terminal() { CLEAR } else { "" };
    let watching = async {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let shown = match gather(&client, arguments.wait).await {
                Ok(gathered) => show(&gathered, arguments, clear),
                Err(failed) => Err(failed),
            };
            if let Err(failed) = shown {
                eprintln!("{failed}");
            }
        }
    };
    tokio::select! {
        () = watching => Ok(()),
        () = super::serve::signals() => Ok(()),
    }
}

fn show(gathered: &Statuses, arguments: &Arguments, clear: &str) -> Result<(), Failed> {
    for error in &gathered.errors {
        eprintln!("{error}");
    }
    if gathered.instances.is_empty() {
        return Err(Failed::Broken(match gathered.errors.is_empty() {
            true => {
                "no instance answers: is `readstates serve` up, with the same nats.subject_prefix?".to_owned()
            }
            false => "no instance answers with its status".to_owned(),
        }));
    }
    match arguments.json {
        true => print(&format!("{}\n", as_json(gathered))),
        false => print(&format!("{clear}{}\n", as_table(gathered))),
    }
}

async fn gather(client: &Client, wait_ms: u64) -> Result<Statuses, Failed> {
    Ok(client.status().wait(Duration::from_millis(wait_ms)).await?)
}

/// Records that would be replayed after a crash.
fn durable_lag_records(status: &PartitionStatus) -> u64 {
    let after = |offset: Option<u64>| offset.map_or(0, |offset| offset.saturating_add(1));
    after(status.end_offset).saturating_sub(after(status.durable_offset))
}

fn totals(gathered: &Statuses) -> Totals {
    let mut totals = Totals::default();
    for (_, status) in gathered.partitions() {
        totals.lag_records += status.applied_lag_records;
        totals.lag_seconds = totals.lag_seconds.max(status.applied_lag_seconds);
        totals.durable_lag_records += durable_lag_records(status);
        totals.oldest_dirty_seconds = totals.oldest_dirty_seconds.max(status.oldest_dirty_seconds);
        totals.dirty_entries += status.dirty_entries;
    }
    totals
}

/// Over all partitions: sums of records and entries, the largest of ages.
#[derive(Debug, Default)]
struct Totals {
    lag_records: u64,
    lag_seconds: f64,
    durable_lag_records: u64,
    oldest_dirty_seconds: f64,
    dirty_entries: u64,
}

fn as_table(gathered: &Statuses) -> String {
    let columns = [
        Column::Right("partition"),
        Column::Left("instance"),
        Column::Left("phase"),
        Column::Right("applied"),
        Column::Right("end"),
        Column::Right("lag"),
        Column::Right("lag s"),
        Column::Right("durable"),
        Column::Right("durable lag"),
        Column::Right("oldest dirty s"),
    ];
    let cells = gathered.partitions().into_iter().map(|(instance, status)| {
        [
            status.partition.to_string(),
            instance.to_owned(),
            status.phase.clone(),
            or_dash(status.applied_offset),
            or_dash(status.end_offset),
            status.applied_lag_records.to_string(),
            format!("{:.1}", status.applied_lag_seconds),
            or_dash(status.durable_offset),
            durable_lag_records(status).to_string(),
            format!("{:.1}", status.oldest_dirty_seconds),
        ]
    });
    let mut text = table(columns, &cells.collect::<Vec<_>>());
    let totals = totals(gathered);
    let unowned = unowned(gathered);
    let count = gathered.partition_count();
    text += &format!(
        "\n{} of {count} partitions at {} instances; lag {} records, {:.1} s; durable lag {} records; {} entries not \
         stored yet, the oldest for {:.1} s\n",
        count as usize - unowned.len(),
        gathered.instances.len(),
        totals.lag_records,
        totals.lag_seconds,
        totals.durable_lag_records,
        totals.dirty_entries,
        totals.oldest_dirty_seconds,
    );
    if !unowned.is_empty() {
        text += &format!("no owner answers for partitions {}\n", ranges(&unowned));
    }
    text
}

fn unowned(gathered: &Statuses) -> Vec<u32> {
    gathered.unowned().iter().map(|partition| partition.0).collect()
}

/// `0-3, 7`.
fn ranges(ascending: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in ascending {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let runs = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// `partitions` are as in `StatusReply`, each with its instance and the durable lag.
fn as_json(gathered: &Statuses) -> Value {
    let partitions = gathered.partitions().into_iter().map(|(instance, status)| {
        let mut partition = canonical(status);
        partition["instance"] = json!(instance);
        partition["durableLagRecords"] = json!(durable_lag_records(status).to_string());
        partition
    });
    let instances = gathered.instances.values().map(|reply| {
        let owned = reply.partitions.iter().map(|status| status.partition);
        json!({"instance": reply.instance, "partitions": owned.collect::<Vec<_>>()})
    });
    let totals = totals(gathered);
    json!({
        "partitionCount": gathered.partition_count(),
        "instances": instances.collect::<Vec<_>>(),
        "partitions": partitions.collect::<Vec<_>>(),
        "unowned": unowned(gathered),
        "totals": {
            "appliedLagRecords": totals.lag_records.to_string(),
            "appliedLagSeconds": totals.lag_seconds,
            "durableLagRecords": totals.durable_lag_records.to_string(),
            "oldestDirtySeconds": totals.oldest_dirty_seconds,
            "dirtyEntries": totals.dirty_entries.to_string(),
        },
    })
}

#[expect(clippy::expect_used, reason = "canonical JSON is JSON")]
fn canonical(status: &PartitionStatus) -> Value {
    serde_json::from_slice(&encode_reply(status, Form::Json)).expect("JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::StatusReply;

    fn status(partition: u32, end: Option<u64>, durable: Option<u64>) -> PartitionStatus {
        PartitionStatus {
            partition,
            end_offset: end,
            durable_offset: durable,
            applied_lag_records: 2,
            oldest_dirty_seconds: f64::from(partition),
            phase: "live".to_owned(),
            ..PartitionStatus::default()
        }
    }

    fn gathered(owned: &[(&str, &[u32])]) -> Statuses {
        let instances = owned.iter().map(|(instance, partitions)| {
            let reply = StatusReply {
                instance: (*instance).to_owned(),
                partition_count: 6,
                partitions: partitions
                    .iter()
                    .map(|it| status(*it, Some(9), Some(4)))
                    .collect(),
            };
            ((*instance).to_owned(), reply)
        });
        Statuses {
            instances: instances.collect(),
            ..Statuses::default()
        }
    }

    #[test]
    fn durable_lag_counts_what_would_be_replayed() {
        for (end, durable, expected) in [
            (Some(9), Some(4), 5),
            (Some(9), Some(9), 0),
            (Some(9), None, 10),
            (None, None, 0),
            (Some(3), Some(9), 0),
        ] {
            let status = &status(0, end, durable);
            assert_eq!(durable_lag_records(status), expected, "{end:?} {durable:?}");
        }
    }

    #[test]
    fn partitions_without_owner_are_named() {
        let some = gathered(&[("a", &[5]), ("b", &[2])]);
        assert!(!some.is_complete());
        let text = as_table(&some);
        assert!(
            text.ends_with("no owner answers for partitions 0-1, 3-4\n"),
            "{text}"
        );
        assert!(
            text.contains("2 of 6 partitions at 2 instances; lag 4 records"),
            "{text}"
        );
        assert!(text.contains("durable lag 10 records;"), "{text}");
        assert!(text.contains("oldest for 5.0 s"), "{text}");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].contains("2  b"), "by partition: {text}");

        let all = gathered(&[("a", &[0, 1, 2]), ("b", &[3, 4, 5, 2])]);
        assert!(all.is_complete());
        assert!(!as_table(&all).contains("no owner"));
        assert!(!Statuses::default().is_complete());
    }

    #[test]
    fn json_has_instances_partitions_and_totals() {
        let json = as_json(&gathered(&[("a", &[5]), ("b", &[2])]));
        assert_eq!(json["unowned"], json!([0, 1, 3, 4]));
        assert_eq!(json["instances"][1], json!({"instance": "b", "partitions": [2]}));
        assert_eq!(json["partitions"][0]["partition"], 2);
        assert_eq!(json["partitions"][0]["endOffset"], "9");
        assert_eq!(json["partitions"][0]["durableLagRecords"], "5");
        assert_eq!(json["totals"]["appliedLagRecords"], "4");
        assert_eq!(json["partitionCount"], 6);
    }
}
