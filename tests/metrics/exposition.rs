//! A small and strict reader of what Prometheus reads (text format 0.0.4).

use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

/// One metric with all its series.
#[derive(Debug)]
pub struct Family {
    pub help: String,
    pub kind: String,
    /// By name (a histogram has three) and labels.
    pub series: BTreeMap<(String, Labels), f64>,
}

/// All that was there at a time.
#[derive(Debug)]
pub struct Page {
    pub families: BTreeMap<String, Family>,
}

impl Page {
    /// # Panics
    /// If it is not as it should be: each family once, with its help and type before its series, and without others in
    /// between; no series twice; counters that end in `_total`; histograms whose buckets add up.
    pub fn parse(text: &str) -> Self {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        let mut help: Option<(String, String)> = None;
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, text) = rest.split_once(' ').expect(line);
                assert!(help.is_none(), "a help without a type before: {line}");
                help = Some((name.to_owned(), text.to_owned()));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                let (helped, help) = help.take().expect("a help before each type");
                assert_eq!(helped, name, "{line}");
                let family = Family {
                    help,
                    kind: kind.to_owned(),
                    series: BTreeMap::new(),
                };
                assert!(
                    families.insert(name.to_owned(), family).is_none(),
                    "twice: {line}"
                );
                current = name.to_owned();
            } else {
                assert!(!line.starts_with('#'), "an unusual comment: {line}");
                let (name, labels, value) = sample(line);
                let family = families
                    .get_mut(&current)
                    .expect("a type before the first series");
                let suffixes: &[&str] = match family.kind.as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                let belongs = suffixes.iter().any(|suffix| name == format!("{current}{suffix}"));
                assert!(belongs, "under {current}: {line}");
                assert!(
                    family.series.insert((name, labels), value).is_none(),
                    "twice: {line}"
                );
            }
        }
        for (name, family) in &families {
            family.check(name);
        }
        Page { families }
    }

    pub fn family(&self, name: &str) -> &Family {
        self.families.get(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// The series with exactly these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| self.families.get(name.strip_suffix(suffix)?))
            .or_else(|| self.families.get(name))?;
        let labels = labels
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        family.series.get(&(name.to_owned(), labels.collect())).copied()
    }

    /// # Panics
    /// If there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels)
            .unwrap_or_else(|| panic!("no {name} with {labels:?}"))
    }

    /// Of all series that have these labels and perhaps others.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.family(name).series.iter();
        let those = series.filter(|((_, of), _)| {
            labels
                .iter()
                .all(|(name, value)| of.get(*name).is_some_and(|it| it == value))
        });
        those.map(|(_, value)| value).sum()
    }

    /// # Panics
    /// If a counter was higher before, apart from those of partitions, which are counted while they are owned; or if one
    /// is gone.
    pub fn check_goes_on_from(&self, before: &Page) {
        for (name, family) in &before.families {
            for ((series, labels), value) in &family.series {
                let is_counted = family.kind != "gauge" && !labels.contains_key("partition");
                let now = self.family(name).series.get(&(series.clone(), labels.clone()));
                if is_counted {
                    assert!(
                        now.is_some_and(|now| now >= value),
                        "{series} {labels:?}: {value}, then {now:?}"
                    );
                }
            }
        }
    }
}

impl Family {
    fn check(&self, name: &str) {
        assert!(self.help.len() > 10, "{name}: {:?}", self.help);
        match self.kind.as_str() {
            "gauge" => assert!(!name.ends_with("_total"), "{name} is a gauge"),
            "counter" => {
                assert!(name.ends_with("_total"), "{name} is a counter");
                for (series, value) in &self.series {
                    assert!(value.is_finite() && *value >= 0.0, "{series:?} {value}");
                }
            }
            "histogram" => self.check_histogram(name),
            other => panic!("{name} is a {other}"),
        }
    }

    fn check_histogram(&self, name: &str) {
        let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for ((series, labels), value) in &self.series {
            let mut labels = labels.clone();
            if series.ends_with("_bucket") {
                let bound = number(&labels.remove("le").expect("le"));
                buckets.entry(labels).or_default().push((bound, *value));
            }
        }
        for (labels, mut buckets) in buckets {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            let counts: Vec<f64> = buckets.iter().map(|bucket| bucket.1).collect();
            assert!(counts.is_sorted(), "{name} {labels:?}: {buckets:?}");
            let (widest, all) = buckets[buckets.len() - 1];
            assert_eq!(widest, f64::INFINITY, "{name} {labels:?}");
            let of = |suffix: &str| self.series.get(&(format!("{name}{suffix}"), labels.clone()));
            assert_eq!(of("_count"), Some(&all), "{name} {labels:?}");
            assert!(
                of("_sum").is_some_and(|sum| (*sum > 0.0) == (all > 0.0)),
                "{name} {labels:?}"
            );
            // Microseconds to seconds.
            assert!(
                buckets[0].0 <= 0.000_05 && buckets[buckets.len() - 2].0 >= 5.0,
                "{buckets:?}"
            );
        }
    }
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        text => text.parse().unwrap_or_else(|_| panic!("no number: {text}")),
    }
}

fn is_name(name: &str) -> bool {
    let is_start = |char: char| char.is_ascii_lowercase() || char == '_';
    name.starts_with(is_start) && name.chars().all(|char| is_start(char) || char.is_ascii_digit())
}

fn sample(line: &str) -> (String, Labels, f64) {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let (name, mut rest) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").expect(line);
        assert!(is_name(label), "{line}");
        let end = quoted.find('"').expect(line);
        assert!(
            !quoted[..end].contains('\\'),
            "none of our values needs an escape: {line}"
        );
        assert!(
            labels
                .insert(label.to_owned(), quoted[..end].to_owned())
                .is_none(),
            "{line}"
        );
        rest = &quoted[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    (name.to_owned(), labels, number(value))
}
