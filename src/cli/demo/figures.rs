//! The numbers on the screen, from what the partitions and the questions say.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::asking::Answers;
use crate::config::{Config, StreamKind};
use crate::query::Status;
use crate::shard::Report;

/// How much of the past is shown, a figure for each second.
const HISTORY_S: usize = 60;
/// Rates are those of this time.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// What there is to show.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub running: Duration,
    pub partitions: usize,
    pub partitions_live: usize,
    pub events: u64,
    pub events_per_second: f64,
    /// Of each second, the newest last.
    pub history: Vec<u64>,
    pub dead_letters: u64,
    pub queries_per_second: f64,
    pub answers: Answers,
    pub lag_records: u64,
    pub lag_seconds: f64,
    pub durable_lag_records: u64,
    pub dirty_entries: u64,
    pub oldest_dirty_seconds: f64,
    pub read_states: u64,
    pub read_states_max: u64,
    pub channels: u64,
    pub channel_bytes: u64,
    pub channel_bytes_max: u64,
    pub write_delay: Duration,
}

impl Figures {
    /// The state of any partition that is not live, while there is one.
    pub fn is_live(&self) -> bool {
        self.partitions > 0 && self.partitions == self.partitions_live
    }
}

/// Makes rates of counts.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    sequences_are_shared: bool,
    settings: Figures,
    /// When, events and answers: of about [`RATE_WINDOW`].
    samples: VecDeque<(Instant, u64, u64)>,
    /// Events at the beginning of each second, the newest last.
    seconds: VecDeque<u64>,
}

impl Watch {
    /// From now on.
    pub fn new(config: &Config) -> Self {
        Watch {
            began: Instant::now(),
            sequences_are_shared: config.stream.kind == StreamKind::JetStream,
            settings: Figures {
                read_states_max: config.cache.read_states as u64,
                channel_bytes_max: config.cache.channel_memory_bytes,
                write_delay: config.store.write_delay,
                ..Figures::default()
            },
            samples: VecDeque::new(),
            seconds: VecDeque::new(),
        }
    }

    /// As of now.
    pub fn look(&mut self, report: &Report, answers: Answers) -> Figures {
        let now = Instant::now();
        let events = report.totals.counters.events.iter().sum();
        self.samples.push_back((now, events, answers.answered));
        while self.samples.len() > 2 && self.samples[1].0 + RATE_WINDOW < now {
            self.samples.pop_front();
        }
        self.count_seconds(now, events);
        let (since, events_before, answered_before) = self.samples[0];
        let seconds = (now - since).as_secs_f64().max(0.001);
        let all = || report.partitions.iter().map(|partition| &partition.status);
        let sum = |of: fn(&Status) -> u64| all().map(of).sum();
        let max = |of: fn(&Status) -> f64| all().map(of).fold(0.0, f64::max);
        Figures {
            running: now - self.began,
            partitions: report.partitions.len(),
            partitions_live: all().filter(|status| status.phase == "live").count(),
            events,
            events_per_second: events.saturating_sub(events_before) as f64 / seconds,
            history: self.history(events),
            dead_letters: report.totals.dead_letters.iter().sum(),
            queries_per_second: answers.answered.saturating_sub(answered_before) as f64 / seconds,
            lag_records: sum(|status| status.applied_lag_records),
            lag_seconds: max(|status| status.applied_lag_seconds),
            durable_lag_records: self.durable_lag(report),
            dirty_entries: sum(|status| status.dirty_entries),
            oldest_dirty_seconds: max(|status| status.oldest_dirty_seconds),
            read_states: sum(|status| status.read_states_cached),
            channels: sum(|status| status.channels_cached),
            channel_bytes: sum(|status| status.channel_bytes_cached),
            answers,
            ..self.settings.clone()
        }
    }

    fn count_seconds(&mut self, now: Instant, events: u64) {
        let whole = (now - self.began).as_secs() as usize;
        let counted = self.seconds.len();
        if counted == 0 || whole > counted.saturating_sub(1) {
            // Seconds that nobody looked at had no events as far as anybody knows.
            let missing = (whole + 1).saturating_sub(counted).min(HISTORY_S);
            self.seconds.extend(std::iter::repeat_n(events, missing));
        }
    }

    fn history(&self, events: u64) -> Vec<u64> {
        let begins: Vec<_> = self.seconds.iter().copied().chain([events]).collect();
        let each = begins.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        // The second that has only begun would look like a break.
        let mut each: Vec<_> = each.collect();
        each.pop();
        each.split_off(each.len().saturating_sub(HISTORY_S))
    }

    /// Records that are applied or not, and not in the store yet. Partitions of JetStream share the sequences of one
    /// stream: there it is estimated by the share of the events that each has had.
    fn durable_lag(&self, report: &Report) -> u64 {
        let next = |offset: Option<crate::model::ids::Offset>| offset.map_or(0, |offset| offset.0 + 1);
        let behind = |status: &Status| next(status.end).saturating_sub(next(status.durable));
        let events = |status: &Status| status.events.iter().sum::<u64>() as f64;
        let statuses = || report.partitions.iter().map(|partition| &partition.status);
        if !self.sequences_are_shared {
            return statuses().map(behind).sum();
        }
        let all: f64 = statuses().map(events).sum();
        let lag = |status: &Status| behind(status) as f64 * events(status) / all.max(1.0);
        statuses().map(lag).sum::<f64>().round() as u64
    }
}

/// With commas: 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for group in digits.as_bytes()[first..].chunks(3) {
        if !text.is_empty() {
            text.push(',');
        }
        text.extend(group.iter().map(|digit| char::from(*digit)));
    }
    text
}

/// In milliseconds.
pub fn milliseconds(time: Option<Duration>) -> String {
    match time {
        Some(time) => format!("{:.2} ms", time.as_secs_f64() * 1000.0),
        None => "-".to_owned(),
    }
}

/// In MiB, with what matters of small ones.
pub fn mebibytes(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    match mib {
        ..10.0 => format!("{mib:.1} MiB"),
        _ => format!("{mib:.0} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        let all = [0, 7, 999, 1_000, 12_345, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "7", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!(milliseconds(Some(Duration::from_micros(1234))), "1.23 ms");
        assert_eq!(milliseconds(None), "-");
        assert_eq!(
            (mebibytes(1 << 24), mebibytes(3 << 19)),
            ("16 MiB".to_owned(), "1.5 MiB".to_owned())
        );
    }

    #[test]
    fn each_second_has_its_events() {
        let config = Config::load(&[], None, std::iter::empty()).unwrap();
        let mut watch = Watch::new(&config);
        let began = watch.began;
        // Four looks in each second, 10 events in the first, 20 in the second, and so on.
        let mut events = 0;
        for quarter in 0..12_u64 {
            let now = began + Duration::from_millis(quarter * 250);
            watch.count_seconds(now, events);
            events += [10, 20, 30][quarter as usize / 4] / if quarter % 4 == 0 { 1 } else { 1_000 };
        }
        assert_eq!(watch.history(events), [10, 20]);
        watch.count_seconds(began + Duration::from_millis(3_010), events);
        assert_eq!(watch.history(events), [10, 20, 30]);
        // Nobody looked for two minutes.
        watch.count_seconds(began + Duration::from_secs(123), events);
        assert_eq!(watch.history(events).len(), HISTORY_S);
    }
}
