//! The screen. It is a function of what there is to show, and fits any size: what matters least goes first.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};

use super::asking::Cell;
use super::figures::{Figures, grouped, mebibytes, milliseconds};
use super::happenings::Happening;
use super::names::{channel_name, user_name};
use super::view::Facts;
use crate::wire::proto::v1::Membership;

/// A change is marked for so long.
const MARKED: Duration = Duration::from_millis(900);
const NAME_COLUMNS: usize = 10;
const CELL_COLUMNS: usize = 12;
const BAR_COLUMNS: usize = 10;
/// From here on, there is room for empty lines between the parts.
const AIRY_LINES: usize = 24;
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Readable on dark and on light: of the terminal's own colours, neither the darkest nor the brightest.
const CALM: Color = Color::Green;
const LOUD: Color = Color::Magenta;
const BAD: Color = Color::Red;

/// What there is to show.
pub struct View<'a> {
    pub facts: &'a Facts,
    pub figures: &'a Figures,
    /// The newest first.
    pub happenings: &'a [Happening],
    /// Everyone was mentioned a moment ago.
    pub everyone: Option<&'a str>,
    /// Seconds until the next time, where that is known.
    pub next_everyone_s: Option<u64>,
    /// What went wrong last.
    pub warning: Option<&'a str>,
}

/// Draws all of it.
pub fn draw(frame: &mut Frame, view: &View) {
    let area = frame.area();
    let lines = lines(view, area.width as usize, area.height as usize);
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        frame.render_widget(line, Rect { y, height: 1, ..area });
    }
}

/// As many lines as there is room for.
fn lines(view: &View, width: usize, height: usize) -> Vec<Line<'static>> {
    let gap = |lines: &mut Vec<Line<'static>>| {
        if height >= AIRY_LINES {
            lines.push(Line::default());
        }
    };
    let mut top = vec![title(view, width)];
    top.extend(numbers(view.figures, width));
    gap(&mut top);
    let bottom = footer(view, width);
    let table = table(view, width);
    // The table shrinks before the numbers do, and what is below it goes before that.
    let mut room = height.saturating_sub(top.len());
    let bottom_lines = if room >= bottom.len() + 5 { bottom.len() } else { 0 };
    room -= bottom_lines;
    let table_lines = table.len().min(room);
    let mut lines = top;
    lines.extend(table.into_iter().take(table_lines));
    room -= table_lines;
    if room >= 2 {
        if height >= AIRY_LINES && room > 3 {
            lines.push(Line::default());
            room -= 1;
        }
        lines.extend(news(view, width, room));
    }
    if bottom_lines > 0 {
        lines.resize(height - bottom_lines, Line::default());
        lines.extend(bottom);
    }
    lines.truncate(height);
    lines
}

fn title(view: &View, width: usize) -> Line<'static> {
    let seconds = view.figures.running.as_secs();
    let running = format!("{}:{:02}", seconds / 60, seconds % 60);
    let left = format!(" readstates demo  {}", view.facts.servers);
    let right = format!("{running}  q ends it ");
    let gap = width.saturating_sub(left.chars().count() + right.len());
    let left: String = match gap {
        0 => " readstates demo".to_owned(),
        _ => left,
    };
    let gap = width.saturating_sub(left.chars().count() + right.len());
    Line::from(format!("{left}{}{right}", " ".repeat(gap))).reversed()
}

/// A label, and what it says; what has no room at the end is left out as a whole.
fn labelled(label: &'static str, width: usize, parts: Vec<Vec<Span<'static>>>) -> Line<'static> {
    let mut spans = vec![Span::from(format!(" {label:<9}")).bold()];
    let mut used = 10;
    for part in parts {
        let columns: usize = part.iter().map(Span::width).sum();
        if used + columns > width {
            break;
        }
        used += columns;
        spans.extend(part);
    }
    Line::from(spans)
}

fn plain(text: impl Into<String>) -> Vec<Span<'static>> {
    vec![Span::from(text.into())]
}

fn strong(text: impl Into<String>) -> Vec<Span<'static>> {
    vec![Span::from(text.into()).bold()]
}

fn coloured(text: impl Into<String>, color: Color) -> Vec<Span<'static>> {
    vec![Span::from(text.into()).style(Style::new().fg(color))]
}

fn numbers(figures: &Figures, width: usize) -> Vec<Line<'static>> {
    let answers = &figures.answers;
    let lag = if figures.lag_seconds > 1.0 { BAD } else { CALM };
    let mut events = vec![
        strong(format!("{:>6}/s  ", grouped(figures.events_per_second as u64))),
        plain(format!("{} in all  ", grouped(figures.events))),
    ];
    if figures.dead_letters > 0 {
        events.push(coloured(
            format!("{} dead letters  ", grouped(figures.dead_letters)),
            BAD,
        ));
    }
    let used: usize = 10 + events.iter().flatten().map(Span::width).sum::<usize>();
    events.push(coloured(
        sparkline(&figures.history, width.saturating_sub(used + 1)),
        CALM,
    ));
    let mut queries = vec![
        strong(format!("{:>6}/s  ", grouped(figures.queries_per_second as u64))),
        plain(format!(
            "p50 {}  p99 {}  ",
            milliseconds(answers.p50),
            milliseconds(answers.p99)
        )),
        plain(format!("{} answered", grouped(answers.answered))),
    ];
    if answers.failed > 0 {
        queries.push(coloured(format!("  {} failed", grouped(answers.failed)), BAD));
    }
    let mut lags = vec![
        coloured(
            format!(
                "applied {} records, {:.1} s",
                grouped(figures.lag_records),
                figures.lag_seconds
            ),
            lag,
        ),
        plain(format!(
            "   durable {} records, {:.1} s",
            grouped(figures.durable_lag_records),
            figures.oldest_dirty_seconds
        )),
    ];
    if !figures.is_live() {
        let (live, all) = (figures.partitions_live, figures.partitions);
        lags.push(coloured(format!("   {live} of {all} partitions live"), BAD));
    }
    let cached = vec![
        coloured(bar(figures.read_states, figures.read_states_max), CALM),
        plain(format!(
            " {} of {} read states   ",
            grouped(figures.read_states),
            grouped(figures.read_states_max)
        )),
        coloured(bar(figures.channel_bytes, figures.channel_bytes_max), CALM),
        plain(format!(
            " {} of {}",
            mebibytes(figures.channel_bytes),
            mebibytes(figures.channel_bytes_max)
        )),
        plain(format!(" in {} channels", figures.channels)),
    ];
    let dirty = vec![
        strong(format!("{:>6}  ", grouped(figures.dirty_entries))),
        plain("entries are not in the store yet"),
        plain(format!(
            "; they are {:.0} s after their first change",
            figures.write_delay.as_secs_f64()
        )),
    ];
    vec![
        labelled("events", width, events),
        labelled("queries", width, queries),
        labelled("lag", width, lags),
        labelled("cache", width, cached),
        labelled("dirty", width, dirty),
    ]
}

/// The newest at the right end.
fn sparkline(history: &[u64], columns: usize) -> String {
    let shown = &history[history.len().saturating_sub(columns)..];
    // One second far above the others, as when everybody joins, must not flatten all of them.
    let mean = shown.iter().sum::<u64>() / (shown.len() as u64).max(1);
    let top = shown.iter().copied().max().unwrap_or(0).min(2 * mean).max(1);
    let block = |count: &u64| BLOCKS[(*count.min(&top) * (BLOCKS.len() as u64 - 1)).div_ceil(top) as usize];
    shown.iter().map(block).collect()
}

fn bar(part: u64, whole: u64) -> String {
    let share = (part as f64 / whole.max(1) as f64).min(1.0);
    // What is there at all is seen.
    let full = (share * BAR_COLUMNS as f64).ceil() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(BAR_COLUMNS - full))
}

/// Users by channels, unread counts and mentions.
fn table(view: &View, width: usize) -> Vec<Line<'static>> {
    let whom = &view.facts.whom;
    let channels_max = width.saturating_sub(NAME_COLUMNS + 1) / (CELL_COLUMNS + 1);
    let channels = &whom.channels[..whom.channels.len().min(channels_max)];
    let fit = |text: String, columns: usize| text.chars().take(columns).collect::<String>();
    let mut head = vec![Span::from(format!(" {:<NAME_COLUMNS$}", "unread @")).bold()];
    head.extend(channels.iter().map(|channel| {
        let name = fit(channel_name(*channel), CELL_COLUMNS);
        Span::from(format!(" {name:>CELL_COLUMNS$}")).bold()
    }));
    let rows = whom.users.iter().map(|user| {
        let mut spans = vec![Span::from(format!(
            " {:<NAME_COLUMNS$}",
            fit(user_name(*user), NAME_COLUMNS)
        ))];
        for channel in channels {
            let shown = view.figures.answers.cells.get(&(*user, *channel));
            spans.extend(cell(shown, view.facts.is_own_chat));
        }
        Line::from(spans)
    });
    std::iter::once(Line::from(head)).chain(rows).collect()
}

fn cell(cell: Option<&Cell>, is_own_chat: bool) -> Vec<Span<'static>> {
    let Some(cell) = cell else {
        return vec![Span::from(" ".repeat(CELL_COLUMNS + 1))];
    };
    let state = &cell.state;
    // The chat's own people have joined wherever they belong.
    if is_own_chat && state.membership == Membership::Unspecified {
        return vec![Span::from(format!(" {:>CELL_COLUMNS$}", "·")).dim()];
    }
    if state.membership == Membership::Left {
        return vec![Span::from(format!(" {:>CELL_COLUMNS$}", "left")).dim()];
    }
    let capped = if state.unread.is_capped { "+" } else { "" };
    let unread = format!("{}{capped}", grouped(state.unread.number.into()));
    let mentions = match state.mentions.number {
        0 => String::new(),
        count => format!(" @{count}"),
    };
    let gap = (CELL_COLUMNS + 1).saturating_sub(unread.len() + mentions.len());
    let is_fresh = cell.changed_at.is_some_and(|at| at.elapsed() < MARKED);
    let mark = |span: Span<'static>| if is_fresh { span.reversed() } else { span };
    let number = match state.unread.number {
        0 => Span::from(unread).dim(),
        _ => Span::from(unread).bold(),
    };
    vec![
        Span::from(" ".repeat(gap)),
        mark(number),
        mark(Span::from(mentions).style(Style::new().fg(LOUD)).bold()),
    ]
}

/// What happens: the newest on top, a mention of everyone before all.
fn news(view: &View, width: usize, lines_max: usize) -> Vec<Line<'static>> {
    let head = match (view.everyone, view.next_everyone_s) {
        (Some(everyone), _) => {
            let text = format!(" ► {everyone}: one flag, however many members");
            Line::from(text.chars().take(width).collect::<String>())
                .style(Style::new().fg(LOUD))
                .bold()
                .reversed()
        }
        (None, Some(seconds)) => Line::from(vec![
            Span::from(" what happens").bold(),
            Span::from(format!("   (everyone is mentioned in {seconds} s)")).dim(),
        ]),
        (None, None) => Line::from(" what happens").bold(),
    };
    let lines = view.happenings.iter().enumerate().map(|(age, happening)| {
        let text = Span::from(format!("   {}", happening.text));
        let text = match happening.weight {
            9.. => text.style(Style::new().fg(LOUD)),
            _ => text,
        };
        Line::from(if age == 0 { text } else { text.dim() })
    });
    std::iter::once(head).chain(lines).take(lines_max).collect()
}

/// How to ask for one yourself, and where things are.
fn footer(view: &View, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from(" ask for one yourself").bold()];
    for words in view.facts.commands() {
        lines.extend(command(&words, width));
    }
    let facts = view.facts;
    let last = match view.warning {
        Some(warning) => Line::from(format!(" {warning}")).style(Style::new().fg(BAD)),
        None => Line::from(format!(" data {}", facts.data)),
    };
    lines.push(Line::from(format!(
        " status http://{}/   metrics http://{}/metrics",
        facts.admin, facts.admin
    )));
    lines.push(last);
    lines
}

/// A command on one line, or on several that a shell takes for one.
fn command(words: &[String], width: usize) -> Vec<Line<'static>> {
    let one = format!("   {}", words.join(" "));
    if one.chars().count() <= width {
        return vec![Line::from(one)];
    }
    let last = words.len() - 1;
    let line = |(at, word): (usize, &String)| {
        let indent = if at == 0 { "   " } else { "     " };
        Line::from(format!("{indent}{word}{}", if at < last { " \\" } else { "" }))
    };
    words.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::demo::asking::{Answers, Whom};
    use crate::wire::proto::v1::ReadState;

    fn facts() -> Facts {
        Facts {
            program: "readstates".to_owned(),
            nats_url: "nats://127.0.0.1:40001".to_owned(),
            subject_prefix: "readstates".to_owned(),
            admin: "127.0.0.1:40002".to_owned(),
            data: "/tmp/it (removed at the end)".to_owned(),
            servers: "JetStream, embedded store, its own nats-server".to_owned(),
            whom: Whom {
                users: (1001..=1006).collect(),
                channels: (70_001..=70_006).collect(),
            },
            is_own_chat: true,
        }
    }

    fn figures() -> Figures {
        let state = ReadState {
            user_id: 1001,
            channel_id: 70_001,
            unread_count: 10_000,
            unread_count_capped: true,
            mention_count: 321,
            membership: Membership::Joined.into(),
            ..ReadState::default()
        };
        let cells = BTreeMap::from([(
            (1001, 70_001),
            Cell {
                state: state.into(),
                changed_at: None,
            },
        )]);
        Figures {
            running: Duration::from_secs(83),
            partitions: 8,
            partitions_live: 8,
            events: 1_234_567,
            events_per_second: 200.0,
            history: (0..60).collect(),
            read_states: 1755,
            read_states_max: 100_000,
            answers: Answers {
                cells,
                p50: Some(Duration::from_micros(210)),
                ..Answers::default()
            },
            ..Figures::default()
        }
    }

    fn shown(width: u16, height: u16) -> String {
        let (facts, figures) = (facts(), figures());
        let view = View {
            facts: &facts,
            figures: &figures,
            happenings: &[],
            everyone: None,
            next_everyone_s: Some(17),
            warning: None,
        };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_is_seen_at_the_usual_size() {
        for size in [(80, 24), (140, 40)] {
            let text = shown(size.0, size.1);
            for expected in [
                "1:23  q ends it",
                "200/s  1,234,567 in all",
                "p50 0.21 ms",
                "durable 0 records",
                "1,755 of 100,000 read states",
                "entries are not in the store yet",
                "#general",
                "Ada A.",
                "10,000+ @321",
                "everyone is mentioned in 17 s",
                "readstates get 1001 70001 --set nats.url=nats://127.0.0.1:40001",
                "nats -s nats://127.0.0.1:40001 request readstates.v1.get",
                "'{\"keys\":[{\"userId\":\"1001\",\"channelId\":\"70001\"}]}'",
                "status http://127.0.0.1:40002/   metrics http://127.0.0.1:40002/metrics",
                "data /tmp/it (removed at the end)",
            ] {
                assert!(text.contains(expected), "{expected:?} at {size:?}:\n{text}");
            }
        }
    }

    #[test]
    fn the_numbers_stay_where_there_is_little_room() {
        for (width, height) in [(40, 10), (20, 4), (1, 1), (300, 3)] {
            let text = shown(width, height);
            assert_eq!(text.lines().count(), usize::from(height), "{text}");
            assert!(width < 20 || height < 4 || text.contains("200/s"), "{text}");
        }
        assert!(shown(40, 10).contains("10,000+ @321"), "{}", shown(40, 10));
    }

    #[test]
    fn one_high_second_does_not_flatten_the_others() {
        assert_eq!(sparkline(&[1500, 100, 200, 0], 10).chars().last(), Some('▁'));
        let line: Vec<char> = sparkline(&[5000, 200, 210, 190, 200, 205, 195, 200, 200, 200], 10)
            .chars()
            .collect();
        assert!(line[1] > '▂' && line[0] == '█', "{line:?}");
        assert_eq!(sparkline(&[], 10), "");
        assert_eq!(sparkline(&[7; 60], 10).chars().count(), 10);
    }
}
