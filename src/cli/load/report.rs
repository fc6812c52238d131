//! What came of the load.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::client::AskError;

/// Latencies are recorded in µs, with a thousandth of inaccuracy.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Longer latencies are recorded as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Characters of the longest bar.
const BAR_CHARS: u64 = 40;

/// Outcomes so far.
#[derive(Clone, Debug)]
pub struct Report {
    latencies_us: Histogram<u64>,
    answered: u64,
    errors: BTreeMap<u16, (u64, String)>,
    unsent: u64,
    sent_late: u64,
}

/// What the load was, for those who read the report.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Requests in a second that were asked for.
    pub rate: f64,
    /// How long it took altogether.
    pub took: Duration,
    /// How late a request may be sent before it counts as late.
    pub late: Duration,
    /// The seed.
    pub seed: u64,
    /// Events that were published meanwhile.
    pub published: u64,
}

impl Report {
    /// Nothing yet.
    #[expect(clippy::expect_used, reason = "the bounds are fixed, and allowed")]
    pub fn new() -> Self {
        Report {
            latencies_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS).expect("bounds"),
            answered: 0,
            errors: BTreeMap::new(),
            unsent: 0,
            sent_late: 0,
        }
    }

    /// A request that was due `latency` ago has ended. Refusals are counted by their code only: those that come at once
    /// would make it look faster than it is.
    pub fn ended(&mut self, result: Result<(), AskError>, latency: Duration, gave_up: bool) {
        match result {
            Ok(()) => self.answered += 1,
            Err(error) => {
                let counted = self.errors.entry(error.code()).or_default();
                counted.0 += 1;
                if counted.1.is_empty() {
                    counted.1 = error.message().to_owned();
                }
                if !gave_up {
                    return;
                }
            }
        }
        self.record(latency);
    }

    /// A request could be sent only some time after it was due.
    pub fn sent_late(&mut self) {
        self.sent_late += 1;
    }

    /// A request that was due `latency` ago was never sent, since too many were waiting for their answers.
    pub fn unsent(&mut self, latency: Duration) {
        self.unsent += 1;
        self.record(latency);
    }

    /// Whether anything was answered.
    pub fn is_answered(&self) -> bool {
        self.answered > 0
    }

    fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies_us.saturating_record(us.max(1));
    }

    fn requests(&self) -> u64 {
        let errors: u64 = self.errors.values().map(|(count, _)| count).sum();
        self.answered + errors + self.unsent
    }

    fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies_us.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Each with the largest latency in it, a power of two of µs, without empty ones at both ends.
    fn buckets(&self) -> Vec<(u64, u64)> {
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for value in self.latencies_us.iter_recorded() {
            let power = u64::BITS - (value.value_iterated_to() - 1).leading_zeros();
            *counts.entry(power).or_default() += value.count_at_value();
        }
        let (Some(first), Some(last)) = (counts.keys().next(), counts.keys().last()) else {
            return Vec::new();
        };
        let all = *first..=*last;
        all.map(|power| (1 << power, counts.get(&power).copied().unwrap_or(0)))
            .collect()
    }

    /// For people.
    pub fn text(&self, setting: &Setting) -> String {
        let seconds = setting.took.as_secs_f64().max(0.001);
        let mut text = format!(
            "{} requests in {seconds:.1} s, {:.0}/s of {:.0}/s; {} answered; seed {}\n",
            self.requests(),
            self.requests() as f64 / seconds,
            setting.rate,
            self.answered,
            setting.seed,
        );
        let late = setting.late.as_millis();
        text += &format!("{} were sent more than {late} ms late", self.sent_late);
        text += &format!(
            ", {} not at all; {} events were published\n",
            self.unsent, setting.published
        );
        for (code, (count, first)) in &self.errors {
            text += &format!("{count} errors {code}: {first}\n");
        }
        text += &format!(
            "\nlatency from when a request was due, ms: p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}\n",
            self.quantile_ms(0.5),
            self.quantile_ms(0.9),
            self.quantile_ms(0.99),
            self.quantile_ms(0.999),
            self.latencies_us.max() as f64 / 1000.0,
        );
        let buckets = self.buckets();
        let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1);
        for (up_to_us, count) in buckets {
            let bar = "#".repeat((count * BAR_CHARS).div_ceil(most) as usize);
            let line = format!("{:>12.3} ms {count:>10} {bar}", up_to_us as f64 / 1000.0);
            text += &format!("{}\n", line.trim_end());
        }
        text
    }

    /// For programs: the same.
    pub fn json(&self, setting: &Setting) -> Value {
        let errors = self.errors.iter();
        let seconds = setting.took.as_secs_f64();
        let buckets = self.buckets().into_iter();
        json!({
            "requests": self.requests(),
            "answered": self.answered,
            "errors": errors.map(|(code, (count, _))| (code.to_string(), json!(count))).collect::<serde_json::Map<_, _>>(),
            "unsent": self.unsent,
            "sentLate": self.sent_late,
            "seconds": seconds,
            "targetRate": setting.rate,
            "rate": self.requests() as f64 / seconds.max(0.001),
            "published": setting.published,
            "seed": setting.seed,
            "latencyMs": {
                "p50": self.quantile_ms(0.5),
                "p90": self.quantile_ms(0.9),
                "p99": self.quantile_ms(0.99),
                "p99.9": self.quantile_ms(0.999),
                "max": self.latencies_us.max() as f64 / 1000.0,
                "mean": self.latencies_us.mean() / 1000.0,
            },
            "histogram": buckets
                .map(|(up_to_us, count)| json!({"upToMs": up_to_us as f64 / 1000.0, "count": count}))
                .collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting {
            rate: 100.0,
            took: Duration::from_secs(2),
            late: Duration::from_millis(5),
            seed: 7,
            published: 3,
        }
    }

    #[test]
    fn latencies_and_errors_are_told() {
        let mut report = Report::new();
        for ms in 1..=98 {
            report.ended(Ok(()), Duration::from_millis(ms), false);
        }
        let refused = AskError::Overloaded("too much".to_owned());
        report.ended(Err(refused), Duration::from_micros(3), false);
        let lost = AskError::TimedOut("no answer".to_owned());
        report.ended(Err(lost), Duration::from_millis(2050), true);
        report.unsent(Duration::from_millis(3000));
        let json = report.json(&setting());
        assert_eq!(
            (json["requests"].as_u64(), json["answered"].as_u64()),
            (Some(101), Some(98))
        );
        assert_eq!(json["errors"], serde_json::json!({"429": 1, "504": 1}));
        let ms = |quantile: &str| json["latencyMs"][quantile].as_f64().unwrap_or(0.0);
        // 100 latencies: 98 answers, one that was given up and one never sent. The refusal is none of them.
        assert!((49.0..52.0).contains(&ms("p50")), "{json}");
        assert!((2045.0..2055.0).contains(&ms("p99")), "{json}");
        assert!((2995.0..3005.0).contains(&ms("max")), "{json}");
        let counts = json["histogram"].as_array().into_iter().flatten();
        let all: u64 = counts.filter_map(|bucket| bucket["count"].as_u64()).sum();
        assert_eq!(all, 100);
        let text = report.text(&setting());
        assert!(
            text.contains("1 errors 429: too much\n1 errors 504: no answer\n"),
            "{text}"
        );
        assert!(
            text.contains("101 requests in 2.0 s, 50/s of 100/s; 98 answered; seed 7"),
            "{text}"
        );
    }

    #[test]
    fn a_bucket_holds_what_is_up_to_its_power_of_two() {
        let mut report = Report::new();
        for us in [1, 2, 3, 4, 5, 1024, 1025] {
            report.ended(Ok(()), Duration::from_micros(us), false);
        }
        let filled: Vec<_> = report
            .buckets()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(filled, [(1, 1), (2, 1), (4, 2), (8, 1), (1024, 1), (2048, 1)]);
        assert_eq!(Report::new().buckets(), []);
        assert!(Report::new().text(&setting()).contains("0 requests"));
    }
}
