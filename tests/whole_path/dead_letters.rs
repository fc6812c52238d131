//! Compares the dead letters with the records that can't be used.

use std::collections::BTreeMap;

use readstates::config::StreamKind;

use super::publishing::EXPECTED;
use crate::support::streams::Records;

/// Checks that each record that can't be used, and no other, is among the dead letters, untouched, with its reason and
/// its place; once, unless `may_repeat`, since a crash may come between a letter and what follows it. Says how many
/// records had one, and how many letters came again.
pub fn check(topic: &Records, letters: &Records, may_repeat: bool) -> (usize, usize) {
    let mut found: BTreeMap<(u32, u64), usize> = BTreeMap::new();
    for letter in letters.partitions.iter().flatten() {
        let number = |name| -> u64 {
            let digits = letter
                .header(name)
                .unwrap_or_else(|| panic!("no {name} in {letter:?}"));
            String::from_utf8(digits.to_vec()).unwrap().parse().unwrap()
        };
        let partition = number("readstates-source-partition") as u32;
        let offset = number("readstates-source-offset");
        let what = format!("the dead letter of partition {partition}, offset {offset}");
        let source = topic
            .at(partition, offset)
            .unwrap_or_else(|| panic!("{what} has no record"));
        assert_eq!(letter.key, source.key, "the key of {what}");
        // A null header value or payload stays null.
        assert_eq!(letter.value, source.value, "the value of {what}");
        let mut expected = source.headers.clone();
        let reason = source
            .header(EXPECTED)
            .unwrap_or_else(|| panic!("{what} could be used"));
        let text = |text: String| Some(text.into_bytes());
        expected.push(("readstates-reason".to_owned(), Some(reason.to_vec())));
        expected.push((
            "readstates-source-partition".to_owned(),
            text(partition.to_string()),
        ));
        expected.push(("readstates-source-offset".to_owned(), text(offset.to_string())));
        if topic.kind == StreamKind::JetStream {
            assert_eq!(letter.partition, partition, "the subject of {what}");
            expected.sort_by(|one, other| one.0.cmp(&other.0));
        }
        assert_eq!(letter.headers, expected, "the headers of {what}");
        *found.entry((partition, offset)).or_default() += 1;
    }
    let records = topic.partitions.iter().flatten();
    let unusable: Vec<_> = records
        .filter(|record| record.header(EXPECTED).is_some())
        .map(|record| (record.partition, record.offset))
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
