//! The documentation says what the program does.

use std::fs;
use std::path::Path;

use readstates::oracle::{Event, Limits, Oracle};

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All pages, by their paths.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap();
    let docs = docs.map(|page| format!("docs/{}", page.unwrap().file_name().to_str().unwrap()));
    // Beside them are plots.
    let docs = docs.filter(|page| page.ends_with(".md"));
    let first = ["README.md", "ARCHITECTURE.md", "BENCHMARKS.md"].map(str::to_owned);
    first.into_iter().chain(docs).collect()
}

#[test]
fn the_readme_has_every_key_of_the_configuration() {
    let reference = readstates::config::reference();
    assert!(
        read("README.md").contains(&reference),
        "put this table into README.md:\n{reference}"
    );
}

#[test]
fn links_to_files_lead_somewhere() {
    for page in pages() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(&page);
        for link in read(&page).split("](").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            let is_file = !target.contains("://") && !file.is_empty();
            assert!(
                !is_file || folder.parent().is_some_and(|parent| parent.join(file).exists()),
                "{page} links to {target}, which is not there"
            );
        }
    }
}

/// The blocks of code of a page: what stands behind the opening fence, and the text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let text = read(page);
    let mut lines = text.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((info.to_owned(), block.join("\n")));
        }
    }
    blocks
}

#[test]
fn programs_in_the_documentation_are_those_that_are_run() {
    let mut shown = 0;
    for page in pages() {
        for (info, block) in blocks(&page) {
            let Some((_, file)) = info.split_once(' ') else {
                continue;
            };
            shown += 1;
            assert!(
                block.lines().count() > 2 && read(file).contains(&block),
                "{page} shows what is not in {file}:\n{block}"
            );
        }
    }
    assert!(shown >= 10, "{shown} blocks that name their file");
}

#[test]
fn the_examples_of_the_semantics_are_right() {
    let mut checked = 0;
    for (info, block) in blocks("docs/semantics.md") {
        if info != "events" {
            continue;
        }
        let mut oracle = Oracle::new(Limits {
            max_unread_count: 10_000,
            max_direct_mentions: 1000,
        });
        for line in block.lines() {
            let (event, numbers) = line.split_once("   ").unwrap_or((line, ""));
            oracle.apply(1, &event_of(event.trim()));
            for expected in numbers.split(';').map(str::trim).filter(|text| !text.is_empty()) {
                let (user, _) = expected.split_once(": ").unwrap_or_default();
                let numbers = oracle.numbers(number(user), 1);
                let plural = if numbers.mentions == 1 { "" } else { "s" };
                let found = format!(
                    "{user}: {} unread, {} mention{plural}",
                    numbers.unread, numbers.mentions
                );
                assert_eq!(expected, found, "after {event:?} in\n{block}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 30, "{checked} numbers in docs/semantics.md");
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|error| panic!("{text:?} is no id: {error}"))
}

/// `8 and 9 and everyone`.
fn mentions_of(text: Option<&str>) -> (Vec<u64>, bool) {
    let (everyone, users): (Vec<_>, Vec<_>) = text
        .into_iter()
        .flat_map(|text| text.split(" and "))
        .partition(|who| *who == "everyone");
    (users.into_iter().map(number).collect(), !everyone.is_empty())
}

/// An event as docs/semantics.md writes it.
fn event_of(text: &str) -> Event {
    let (what, mentioned) = match text.split_once(", mentions ") {
        Some((what, mentioned)) => (what, Some(mentioned)),
        None => (text, None),
    };
    let (mentions, everyone) = mentions_of(mentioned);
    match what.split(' ').collect::<Vec<_>>()[..] {
        ["the", "channel", "is", "deleted"] => Event::ChannelDeleted,
        [message, "is", "edited"] => Event::MessageUpdated {
            message: number(message),
            mentions,
            everyone,
        },
        [message, "is", "deleted"] => Event::MessageDeleted {
            messages: vec![number(message)],
        },
        [author, "writes", message] => Event::MessageCreated {
            message: number(message),
            author: number(author),
            mentions,
            everyone,
        },
        [user, "reads", message] => Event::MessageRead {
            user: number(user),
            message: number(message),
        },
        [user, "marks", message, "unread"] => Event::MessageMarkedUnread {
            user: number(user),
            message: number(message),
        },
        [user, "joins"] => Event::MemberJoined { user: number(user) },
        [user, "leaves"] => Event::MemberLeft { user: number(user) },
        _ => panic!("no such event: {text:?}"),
    }
}
