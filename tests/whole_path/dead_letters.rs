//! Compares the dead letters with the records that can't be used.

use std::collections::BTreeMap;

use rdkafka::Message;
use rdkafka::message::{Headers, OwnedMessage};

use super::publishing::EXPECTED;
use super::truth::header;

/// Headers in order, by name and value.
type NamesAndValues = Vec<(String, Option<Vec<u8>>)>;

fn headers(record: &OwnedMessage) -> NamesAndValues {
    let Some(headers) = record.headers() else {
        return vec![];
    };
    headers
        .iter()
        .map(|it| (it.key.to_owned(), it.value.map(<[u8]>::to_vec)))
        .collect()
}

/// Checks that each record that can't be used, and no other, is among the dead letters, untouched, with its reason and
/// its place; once, unless `may_repeat`, since a crash may come between a letter and what follows it. Says how many
/// records had one, and how many letters came again.
pub fn check(topic: &[Vec<OwnedMessage>], letters: &[Vec<OwnedMessage>], may_repeat: bool) -> (usize, usize) {
    let mut found: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    for letter in letters.iter().flatten() {
        let number = |name| -> i64 {
            let digits = header(letter, name).unwrap_or_else(|| panic!("no {name} in {letter:?}"));
            String::from_utf8(digits.to_vec()).unwrap().parse().unwrap()
        };
        let partition = number("readstates-source-partition") as i32;
        let offset = number("readstates-source-offset");
        let source = &topic[partition as usize][offset as usize];
        let what = format!("the dead letter of partition {partition}, offset {offset}");
        assert_eq!(letter.key(), source.key(), "the key of {what}");
        // A null header value or payload stays null.
        assert_eq!(letter.payload(), source.payload(), "the value of {what}");
        let mut expected = headers(source);
        let reason = header(source, EXPECTED).unwrap_or_else(|| panic!("{what} could be used"));
        let text = |text: String| Some(text.into_bytes());
        expected.push(("readstates-reason".to_owned(), Some(reason.to_vec())));
        expected.push((
            "readstates-source-partition".to_owned(),
            text(partition.to_string()),
        ));
        expected.push(("readstates-source-offset".to_owned(), text(offset.to_string())));
        assert_eq!(headers(letter), expected, "the headers of {what}");
        *found.entry((partition, offset)).or_default() += 1;
    }
    let unusable = topic
        .iter()
        .flatten()
        .filter(|record| header(record, EXPECTED).is_some());
    let unusable: Vec<_> = unusable
        .map(|record| (record.partition(), record.offset()))
        .collect();
    for place in &unusable {
        assert!(
            found.contains_key(place),
            "no dead letter of partition {}, offset {}",
            place.0,
            place.1
        );
    }
    let again: usize = found.values().map(|times| times - 1).sum();
    assert!(
        may_repeat || again == 0,
        "{again} dead letters are there again, and nothing crashed"
    );
    (unusable.len(), again)
}
