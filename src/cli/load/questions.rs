//! What is asked: decided by the seed alone, so that the same seed asks the same.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::Path;

use crate::cli::asking::id;
use crate::model::ids::{ChannelId, ReadStateKey, UserId};

/// Keys that are read from a file.
const FILE_KEYS_MAX: usize = 10_000_000;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// To `get`.
    Get(Vec<ReadStateKey>),
    /// To `overview`.
    Overview(UserId),
}

/// Whom and what to ask about.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Any user of the first, in any channel of the second.
    Ranges(RangeInclusive<u64>, RangeInclusive<u64>),
    /// These, at least one.
    Listed(Vec<ReadStateKey>),
}

/// Reads `1-1000`, or a single id.
///
/// # Errors
/// What is allowed.
pub fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = id(first.trim())?..=id(last.trim())?;
    match range.is_empty() {
        false => Ok(range),
        true => Err("a range is FIRST-LAST, such as 1-1000".to_owned()),
    }
}

/// Reads keys, `user channel` on each line.
///
/// # Errors
/// The line that is none.
pub fn listed(path: &Path) -> Result<Keys, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("can't read {shown}: {error}"))?;
    let mut keys = Vec::new();
    for (line, number) in BufReader::new(file).lines().zip(1..) {
        let line = line.map_err(|error| format!("can't read {shown}, line {number}: {error}"))?;
        let words: Vec<_> = line.split_whitespace().collect();
        let parsed = match words[..] {
            [] => continue,
            [user, channel] => id(user).and_then(|user| Ok((user, id(channel)?))),
            _ => Err("it must be a user and a channel".to_owned()),
        };
        let (user, channel) = parsed.map_err(|why| format!("{shown}, line {number}: {why}"))?;
        keys.push(key(user, channel));
        if keys.len() > FILE_KEYS_MAX {
            return Err(format!("{shown} has more than {FILE_KEYS_MAX} keys"));
        }
    }
    match keys.is_empty() {
        false => Ok(Keys::Listed(keys)),
        true => Err(format!("{shown} has no keys: it needs lines of `user channel`")),
    }
}

fn key(user: u64, channel: u64) -> ReadStateKey {
    ReadStateKey {
        user: UserId(user),
        channel: ChannelId(channel),
    }
}

/// Questions without end.
pub struct Questions {
    random: u64,
    keys: Keys,
    keys_per_request: usize,
    overview_share: f64,
}

impl Questions {
    /// Of `overview_share` from 0 to 1 overviews; the others ask for so many keys each.
    pub fn new(seed: u64, keys: Keys, keys_per_request: usize, overview_share: f64) -> Self {
        Questions {
            random: seed,
            keys,
            keys_per_request,
            overview_share,
        }
    }

    /// The next one.
    pub fn next(&mut self) -> Question {
        if (self.random() as f64 / u64::MAX as f64) < self.overview_share {
            return Question::Overview(self.key().user);
        }
        Question::Get((0..self.keys_per_request).map(|_| self.key()).collect())
    }

    /// SplitMix64, by Steele, Lea and Flood, 2014.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn key(&mut self) -> ReadStateKey {
        let (first, second) = (self.random(), self.random());
        match &self.keys {
            Keys::Listed(keys) => keys[(first % keys.len() as u64) as usize],
            Keys::Ranges(users, channels) => key(within(users, first), within(channels, second)),
        }
    }
}

fn within(range: &RangeInclusive<u64>, random: u64) -> u64 {
    range.start() + random % (range.end() - range.start() + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn some(seed: u64, overview_share: f64) -> Vec<Question> {
        let keys = Keys::Ranges(5..=9, 100..=100);
        let mut questions = Questions::new(seed, keys, 3, overview_share);
        (0..1000).map(|_| questions.next()).collect()
    }

    #[test]
    fn the_seed_decides_and_ranges_hold() {
        assert_eq!(some(1, 0.5), some(1, 0.5));
        assert_ne!(some(1, 0.5), some(2, 0.5));
        let mut overviews = 0;
        for question in some(1, 0.25) {
            match question {
                Question::Get(keys) => {
                    assert_eq!(keys.len(), 3);
                    assert!(keys.iter().all(|key| (5..=9).contains(&key.user.0)));
                    assert!(keys.iter().all(|key| key.channel == ChannelId(100)));
                }
                Question::Overview(user) => {
                    overviews += 1;
                    assert!((5..=9).contains(&user.0));
                }
            }
        }
        assert!((200..300).contains(&overviews), "{overviews}");
        assert!(some(1, 0.0).iter().all(|it| matches!(it, Question::Get(_))));
    }

    #[test]
    fn keys_come_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, "1 2\n\n 3\t4 \n").unwrap();
        let Keys::Listed(keys) = listed(&path).unwrap() else {
            panic!()
        };
        let keys: Vec<_> = keys.iter().map(|key| (key.user.0, key.channel.0)).collect();
        assert_eq!(keys, [(1, 2), (3, 4)]);
        for (text, expected) in [
            ("1 2\n3\n", "line 2: it must be a user and a channel"),
            ("1 0", "line 1: an id is"),
            ("\n", "has no keys"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = listed(&path).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn ranges_are_of_ids() {
        assert_eq!(range("1-1000"), Ok(1..=1000));
        assert_eq!(range("7"), Ok(7..=7));
        for wrong in ["0-5", "9-1", "a-b", "1-", ""] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
