//! What the log of a service has to say, for people and for programs.

/// The lines that have all of these words.
fn lines<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(has_all).collect()
}

/// For people: one line for each rebalance, and none for each record.
pub fn check_text_log(log: &str) {
    let assigned = lines(
        log,
        &[
            " INFO assigned ",
            "position_loaded_ms=",
            "located_ms=",
            "caught_up_ms=",
        ],
    );
    assert_eq!(assigned.len(), 2, "{log}");
    assert!(assigned[0].contains("partitions=\"0, 1\""), "{}", assigned[0]);
    let given_back = lines(
        log,
        &[
            " INFO given back ",
            "stored_ms=",
            "committed_ms=",
            "given_back_ms=",
        ],
    );
    assert_eq!(given_back.len(), 2, "{log}");
    let letters = lines(log, &[" WARN a record can't be used"]);
    let said = [
        "reason=\"misrouted\"",
        "partitioner=murmur2_random",
        "key=1 ",
        "partition=",
        "offset=",
        "topic=\"metrics-events\"",
        "left_out=0",
    ];
    for said in said {
        assert!(letters[0].contains(said), "{said}: {}", letters[0]);
    }
    let last = letters[letters.len() - 1];
    assert!(
        last.contains("reason=\"invalid\"") && last.contains("key=3 "),
        "{last}"
    );
    let left_out = |line: &str| line.rsplit_once("left_out=").unwrap().1.parse::<usize>().unwrap();
    let all = letters.iter().map(|line| 1 + left_out(line)).sum::<usize>();
    assert_eq!(all, 6, "{letters:?}");
    assert!(log.lines().count() < 25, "{log}");
}

/// For programs: the same in objects.
pub fn check_json_log(log: &str) {
    let mut moved = Vec::new();
    for line in log.lines() {
        let object: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        for field in ["timestamp", "level", "message"] {
            assert!(object[field].is_string(), "{field}: {line}");
        }
        let steps: &[&str] = match object["message"].as_str().unwrap() {
            "assigned" => &["position_loaded_ms", "located_ms", "caught_up_ms"],
            "given back" => &["stored_ms", "committed_ms", "given_back_ms"],
            _ => continue,
        };
        let took: Vec<u64> = steps
            .iter()
            .map(|step| object[step].as_u64().expect(line))
            .collect();
        assert!(took.is_sorted(), "{line}");
        assert!(
            ["0", "1"].contains(&object["partitions"].as_str().unwrap()),
            "{line}"
        );
        moved.push(object["message"].as_str().unwrap().to_owned());
    }
    assert_eq!(moved, ["assigned", "given back"], "{log}");
}
