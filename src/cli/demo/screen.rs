//! What the demo shows.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::cli::get::read_states;
use crate::config::Config;
use crate::shard::Report;
use crate::wire::proto::v1::ReadState;

/// Latencies that percentiles are taken of.
const LATENCIES_MAX: usize = 500;

/// What came of asking.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    read_states: Vec<ReadState>,
    latencies: Vec<Duration>,
    answers: u64,
    error: Option<String>,
}

impl Asked {
    pub fn answered(&mut self, read_states: Vec<ReadState>, took: Duration) {
        self.read_states = read_states;
        self.answers += 1;
        self.error = None;
        if self.latencies.len() == LATENCIES_MAX {
            self.latencies.remove(0);
        }
        self.latencies.push(took);
    }

    pub fn failed(&mut self, error: String) {
        self.error = Some(error);
    }

    fn percentile_us(&self, share: f64) -> u128 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
        sorted.get(index).map_or(0, Duration::as_micros)
    }
}

/// Draws once a second.
pub struct Screen {
    urls: String,
    prefix: String,
    admin: String,
    is_terminal: bool,
    started: Instant,
    last: (Instant, u64, u64),
}

impl Screen {
    pub fn new(config: &Config) -> Self {
        Screen {
            urls: config.nats.urls.join(","),
            prefix: config.nats.subject_prefix.clone(),
            admin: config.admin.listen.to_string(),
            is_terminal: std::io::stdout().is_terminal(),
            started: Instant::now(),
            last: (Instant::now(), 0, 0),
        }
    }

    pub fn draw(&mut self, report: &Report, asked: &Asked) {
        let text = self.render(report, asked);
        let mut output = std::io::stdout().lock();
        // Nobody looks where it can't be written.
        if self.is_terminal {
            let _ = write!(output, "\x1b[2J\x1b[H");
        }
        let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    }

    fn render(&mut self, report: &Report, asked: &Asked) -> String {
        let events: u64 = report.totals.counters.events.iter().sum();
        let (at, events_before, answers_before) =
            std::mem::replace(&mut self.last, (Instant::now(), events, asked.answers));
        let seconds = at.elapsed().as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let sum = |of: fn(&crate::query::Status) -> u64| {
            report.partitions.iter().map(|p| of(&p.status)).sum::<u64>()
        };
        let live = report
            .partitions
            .iter()
            .filter(|p| p.status.phase == "live")
            .count();
        let oldest = report
            .partitions
            .iter()
            .map(|p| p.status.oldest_dirty_seconds)
            .fold(0.0, f64::max);
        let durable_lag = sum(|s| {
            (s.end.map_or(0, |end| end.0 + 1))
                - (s.durable.map_or(0, |durable| durable.0 + 1)).min(s.end.map_or(0, |end| end.0 + 1))
        });
        let mut text = format!(
            "readstates demo, {:.0} s      http://{}/\n\n\
             partitions {live} live of {} owned\n\
             events     {:.0}/s, {events} in all, {} waiting in the stream\n\
             questions  {:.0}/s, p50 {} µs, p99 {} µs\n\
             cached     {} read states, {} channels\n\
             unwritten  {} entries, the oldest for {oldest:.0} s; {durable_lag} records are not durable yet\n\n",
            self.started.elapsed().as_secs_f64(),
            self.admin,
            report.partitions.len(),
            rate(events, events_before),
            sum(|s| s.applied_lag_records),
            rate(asked.answers, answers_before),
            asked.percentile_us(0.5),
            asked.percentile_us(0.99),
            sum(|s| s.read_states_cached),
            sum(|s| s.channels_cached),
            sum(|s| s.dirty_entries),
        );
        let lines = read_states(&asked.read_states);
        let mut lines = lines.lines();
        if let Some(header) = lines.next().filter(|_| !asked.read_states.is_empty()) {
            text.push_str(&format!("{:>20}  {header}\n", "user"));
        }
        for (state, line) in asked.read_states.iter().zip(lines) {
            text.push_str(&format!("{:>20}  {line}\n", state.user_id));
        }
        if let Some(error) = &asked.error {
            text.push_str(&format!("last question: {error}\n"));
        }
        if let Some(state) = asked.read_states.first() {
            text.push_str(&format!(
                "\nAsk for one yourself:\n  nats --server {} request {}.v1.get \
                 '{{\"keys\":[{{\"userId\":\"{}\",\"channelId\":\"{}\"}}]}}'\n",
                self.urls, self.prefix, state.user_id, state.channel_id
            ));
        }
        text.push_str("Ctrl-C ends it.\n");
        text
    }
}
