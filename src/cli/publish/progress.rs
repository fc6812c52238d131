//! What people see while events are published, and at the end.

use std::time::Duration;

use super::counts::Published;

/// Characters of the bar.
const BAR_CHARS: u64 = 24;

/// One line: how far it is. `input_bytes` is the size of the input where that is known, `rate` the events in a second of
/// late.
pub fn line(published: &Published, input_bytes: Option<u64>, rate: f64) -> String {
    let mut line = String::new();
    if let Some(all) = input_bytes.filter(|all| *all > 0) {
        let read = published.input_bytes.min(all);
        let done = read * BAR_CHARS / all;
        let (bar, rest) = ("#".repeat(done as usize), "-".repeat((BAR_CHARS - done) as usize));
        line += &format!("[{bar}{rest}] {:>3}%  ", read * 100 / all);
    }
    line += &format!("{} events, {rate:.0} events/s", published.acknowledged);
    let refused = published.refused_count();
    if refused > 0 {
        line += &format!(", {refused} refused");
    }
    line
}

/// What was done. Several lines where something was refused.
pub fn summary(published: &Published, time: Duration, is_interrupted: bool) -> String {
    let seconds = time.as_secs_f64();
    let refused = published.refused_count();
    let mut text = format!(
        "published {} events, {}, in {seconds:.1} s, {:.0} events/s; {refused} refused\n",
        published.acknowledged,
        bytes(published.acknowledged_bytes),
        published.acknowledged as f64 / seconds.max(0.001),
    );
    for (refusal, refused) in &published.refused {
        text += &format!("{} lines: {refusal}\n", refused.count);
        for (line, why) in &refused.first {
            text += &format!("  line {line}: {why}\n");
        }
        let unnamed = refused.count - refused.first.len() as u64;
        if unnamed > 0 {
            text += &format!("  and {unnamed} further lines\n");
        }
    }
    let unacknowledged = published.unacknowledged();
    if unacknowledged > 0 {
        text += &format!("{unacknowledged} events are not acknowledged: they may be there or not\n");
    }
    if is_interrupted {
        text += &format!(
            "interrupted after line {}: the lines after it were not published\n",
            published.lines
        );
    }
    text
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts::{Counts, Refusal};
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_what_is_read() {
        let published = |input_bytes| Published {
            input_bytes,
            acknowledged: 7,
            ..Published::default()
        };
        assert_eq!(line(&published(50), None, 3.2), "7 events, 3 events/s");
        let half = line(&published(50), Some(100), 3.0);
        assert_eq!(half, "[############------------]  50%  7 events, 3 events/s");
        // A file that grows meanwhile.
        assert!(line(&published(300), Some(100), 3.0).contains("] 100%  7"));
    }

    #[test]
    fn the_summary_names_the_first_lines_of_each_reason() {
        let counts = Counts::default();
        for number in 1..=9 {
            counts.refuse(Refusal::Invalid, number, &format!("wrong {number}"));
        }
        counts.refuse(Refusal::NotTaken, 12, "broker");
        counts.read(80);
        (0..3).for_each(|_| counts.sent());
        counts.acknowledged(1500);
        let text = summary(&counts.so_far(), Duration::from_secs(2), true);
        let expected = "published 1 events, 1.5 kB, in 2.0 s, 0 events/s; 10 refused\n9 lines: invalid\n  line 1: wrong 1\n  \
                        line 2: wrong 2\n  line 3: wrong 3\n  line 4: wrong 4\n  line 5: wrong 5\n  and 4 further lines\n\
                        1 lines: not taken by the stream\n  line 12: broker\n1 events are not acknowledged: they may be there or \
                        not\ninterrupted after line 1: the lines after it were not published\n";
        assert_eq!(text, expected);
    }
}
