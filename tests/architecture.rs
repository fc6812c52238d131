//! Reads the sources and proves that imports between modules point downwards only, and that what decides knows nothing
//! of threads, clocks, randomness, files or any server.

#![allow(clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each module and those it may import. `cli` may import all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("memory", &[]),
    ("model", &[]),
    ("partition", &["model"]),
    ("oracle", &["model", "partition"]),
    ("wire", &["model", "partition"]),
    ("config", &["model", "wire"]),
    ("client", &["model", "wire", "config", "source", "query"]),
    ("shard", &["model", "memory", "partition", "wire", "config"]),
    ("source", &["model", "partition", "wire", "config", "shard"]),
    ("store", &["model", "partition", "wire", "config", "shard"]),
    ("query", &["model", "partition", "wire", "config", "shard"]),
    ("ops", &["model", "partition", "wire", "config", "shard"]),
];

/// What their `mod.rs` declares is what the parts say to each other: these may import it.
const INTERFACES: &[&str] = &["source", "store", "query"];
const SPEAK_TO_INTERFACES: &[&str] = &["shard", "source", "store", "query", "ops"];

/// Where all metrics are declared, which are counted everywhere above the pure modules.
const METRICS: [&str; 2] = ["ops", "metrics"];

/// The modules that decide, and do nothing else.
const PURE: &[&str] = &["model", "wire", "partition"];
/// Words that are none of theirs.
const IMPURE: &[&str] = &[
    "tokio",
    "futures",
    "crossbeam_channel",
    "rdkafka",
    "scylla",
    "async_nats",
    "axum",
    "rand",
    "RandomState",
    "tracing",
    "thread",
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "File",
    "TcpStream",
    "UdpSocket",
];

/// A source file: the module path it is, and its text without comments.
struct Source {
    path: String,
    module: Vec<String>,
    text: String,
}

#[test]
fn imports_point_downwards() {
    let sources = sources();
    let declared = interfaces(&sources);
    let wrong: Vec<_> = sources
        .iter()
        .flat_map(|source| wrong_imports(source, &declared))
        .collect();
    assert!(sources.len() > 10, "only {} sources were found", sources.len());
    assert_eq!(wrong, [""; 0], "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let sources = sources();
    let wrong: Vec<_> = sources.iter().flat_map(impurities).collect();
    for module in PURE {
        assert!(
            sources.iter().any(|source| source.module[0] == *module),
            "there is no {module}"
        );
    }
    assert_eq!(wrong, [""; 0], "\n{}\n", wrong.join("\n"));
}

#[test]
fn what_is_forbidden_is_found() {
    let interface = source(
        "src/source/mod.rs",
        "pub use self::kafka::Reader;\npub trait Owners {}\n",
    );
    let declared = interfaces(&[interface]);
    for (path, text, wrong) in [
        ("src/model/ids.rs", "use crate::wire::proto;", 1),
        (
            "src/model/ids.rs",
            "fn f() { let x = crate::wire::proto::f(); }",
            1,
        ),
        (
            "src/model/ids.rs",
            "// use crate::wire::proto;\nuse crate::model::event;",
            0,
        ),
        (
            "src/partition/mod.rs",
            "use crate::{model::ids, wire::{proto, json}};",
            2,
        ),
        ("src/shard.rs", "use crate::source::Owners;", 0),
        ("src/shard.rs", "use crate::source::{Owners, Reader};", 1),
        ("src/shard.rs", "use crate::source::kafka::Reader;", 1),
        ("src/wire/mod.rs", "use crate::source::Owners;", 1),
        (
            "src/query/get.rs",
            "use crate::ops::metrics;\nuse crate::ops::http;",
            1,
        ),
        ("src/cli/serve.rs", "use crate::source::kafka::Reader;", 0),
        ("src/client/get.rs", "use crate::query::ask;", 0),
        ("src/client/get.rs", "use crate::store::Store;", 1),
        ("src/query/get.rs", "use crate::client::Client;", 1),
        ("src/shard.rs", "use super::source::kafka;", 1),
        ("src/wire/record.rs", "use super::super::source::kafka;", 1),
        (
            "src/wire/record.rs",
            "use super::json;\nmod tests {\n    use super::super::json;\n}",
            0,
        ),
        ("src/unheard_of.rs", "", 1),
    ] {
        let found = wrong_imports(&source(path, text), &declared);
        assert_eq!(found.len(), wrong, "{path}: {text}: {found:?}");
    }
    for (path, text, wrong) in [
        ("src/model/ids.rs", "use std::time::Instant;", 1),
        ("src/partition/loads.rs", "use std::{thread, fs::File};", 2),
        ("src/wire/json.rs", "async fn f() { tokio::spawn(g()).await; }", 1),
        (
            "src/wire/json.rs",
            "/// Like tokio.\nfn f(instant: u64, strand: u8) {}",
            0,
        ),
        ("src/shard.rs", "use std::time::Instant;", 0),
    ] {
        let found = impurities(&source(path, text));
        assert_eq!(found.len(), wrong, "{path}: {text}: {found:?}");
    }
}

/// All sources of the library; `main.rs` and `lib.rs` only wire.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("sources can be listed") {
            let path = entry.expect("sources can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources can be read");
                let path = path.strip_prefix(root).expect("it is in the root");
                found.push(source(&path.to_string_lossy(), &text));
            }
        }
    }
    found.retain(|source| source.path != "src/main.rs" && source.path != "src/lib.rs");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn source(path: &str, text: &str) -> Source {
    let module = path
        .trim_start_matches("src/")
        .trim_end_matches(".rs")
        .trim_end_matches("/mod");
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    Source {
        path: path.to_owned(),
        module: module.split('/').map(str::to_owned).collect(),
        text: text.lines().map(without_comment).collect::<Vec<_>>().join("\n"),
    }
}

/// The types and traits that the `mod.rs` of each interface declares itself.
fn interfaces(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let of = |source: &Source| {
        let words: Vec<_> = words(&source.text).collect();
        let is_declaration = |word: &str| ["struct", "enum", "trait", "type"].contains(&word);
        words
            .windows(2)
            .filter(|pair| is_declaration(pair[0]))
            .map(|pair| pair[1].to_owned())
            .collect()
    };
    sources
        .iter()
        .filter(|source| source.module.len() == 1 && INTERFACES.contains(&source.module[0].as_str()))
        .map(|source| (source.module[0].clone(), of(source)))
        .collect()
}

fn wrong_imports(source: &Source, declared: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let module = source.module[0].as_str();
    if module == "cli" {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
        return vec![format!(
            "{}: say in this test what the module may import",
            source.path
        )];
    };
    let speaks = SPEAK_TO_INTERFACES.contains(&module);
    let is_allowed = |path: &[String]| {
        let [first, rest @ ..] = path else { return true };
        first == module
            || allowed.contains(&first.as_str())
            || (speaks && path.starts_with(&METRICS.map(str::to_owned)))
            || (speaks
                && rest
                    .first()
                    .is_some_and(|name| declared.get(first).is_some_and(|it| it.contains(name))))
    };
    let mut wrong: Vec<_> = imports(&source.text)
        .into_iter()
        .filter(|path| !is_allowed(path))
        .map(|path| format!("{}: {module} must not import {}", source.path, path.join("::")))
        .collect();
    // Paths that climb up to the root by `super` can't be told from others by their names.
    let climbs = format!("use {}", "super::".repeat(source.module.len()));
    if source.text.lines().any(|line| line.starts_with(&climbs)) {
        wrong.push(format!("{}: write crate:: instead of {climbs}", source.path));
    }
    wrong
}

fn impurities(source: &Source) -> Vec<String> {
    let pure = PURE.contains(&source.module[0].as_str());
    let found: BTreeSet<_> = words(&source.text)
        .filter(|word| pure && IMPURE.contains(word))
        .collect();
    found
        .into_iter()
        .map(|word| {
            format!(
                "{}: {} must know nothing of {word}",
                source.path, source.module[0]
            )
        })
        .collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// The paths after each `crate::`, groups in braces taken apart.
fn imports(text: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let whole_word = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        if whole_word {
            expand(&text[at + "crate::".len()..], Vec::new(), &mut paths);
        }
    }
    paths
}

/// Reads one path, or group of paths, and returns what follows.
fn expand<'a>(text: &'a str, mut prefix: Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = expand(rest, prefix.clone(), paths).trim_start();
            match rest.strip_prefix(',') {
                Some(after) if !after.trim_start().starts_with('}') => rest = after,
                Some(after) => return after.trim_start().trim_start_matches('}'),
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    prefix.push(text[..end].to_owned());
    let rest = &text[end..];
    match rest.strip_prefix("::") {
        // Generic arguments end a path of names.
        Some(after) if !after.starts_with(['<', '*']) => expand(after, prefix, paths),
        _ => {
            paths.push(prefix);
            let rename = rest.trim_start().strip_prefix("as ").map(str::trim_start);
            rename.map_or(rest, |name| {
                name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
            })
        }
    }
}
