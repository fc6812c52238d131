//! Reads single values. Each parser takes what the file had as well as text, and its error says what is allowed.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Value;

use super::layers::{Raw, parse_value};

/// A value, or what is allowed.
pub(super) type Parsed<T> = Result<T, String>;

/// Any text.
pub(super) fn text(raw: &Raw) -> Parsed<String> {
    match raw {
        Raw::Text(text) | Raw::Toml(Value::String(text)) => Ok(text.clone()),
        Raw::Toml(_) => Err("must be a string".to_owned()),
    }
}

/// Text that passes a check.
pub(super) fn text_that(allowed: &'static str, check: fn(&str) -> bool) -> impl Fn(&Raw) -> Parsed<String> {
    move |raw| {
        text(raw)
            .ok()
            .filter(|text| check(text))
            .ok_or_else(|| format!("must be {allowed}"))
    }
}

/// One of some words.
pub(super) fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Raw) -> Parsed<T> {
    move |raw| {
        let text = text(raw).unwrap_or_default();
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            format!("must be {}", words.join(" or "))
        })
    }
}

/// Whether or not.
pub(super) fn flag(raw: &Raw) -> Parsed<bool> {
    match raw {
        Raw::Toml(Value::Boolean(flag)) => Ok(*flag),
        Raw::Text(text) if text == "true" => Ok(true),
        Raw::Text(text) if text == "false" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// A whole number in a range.
pub(super) fn whole<T: TryFrom<i64>>(range: RangeInclusive<i64>) -> impl Fn(&Raw) -> Parsed<T> {
    move |raw| {
        whole_number(raw)
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
    }
}

fn whole_number(raw: &Raw) -> Option<i64> {
    match raw {
        Raw::Toml(Value::Integer(number)) => Some(*number),
        Raw::Text(text) => without_underscores(text.trim())?.parse().ok(),
        Raw::Toml(_) => None,
    }
}

/// Digits with underscores between them, as in TOML, without these.
fn without_underscores(number: &str) -> Option<String> {
    let digits = number.trim_start_matches(['+', '-']);
    let groups_ok = digits.split('_').all(|group| !group.is_empty());
    groups_ok.then(|| number.replace('_', ""))
}

/// A number of bytes, up to a largest one: `256MiB`, or a whole number.
pub(super) fn bytes(max: u64) -> impl Fn(&Raw) -> Parsed<u64> {
    const UNITS: &[(&str, u64)] = &[
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    move |raw| {
        let number = whole_number(raw).and_then(|number| u64::try_from(number).ok());
        let sized = || {
            let text = text(raw).ok()?;
            UNITS.iter().find_map(|(unit, factor)| {
                let number = text.trim().strip_suffix(unit)?.trim_end();
                without_underscores(number)?
                    .parse::<u64>()
                    .ok()?
                    .checked_mul(*factor)
            })
        };
        number
            .or_else(sized)
            .filter(|bytes| (1..=max).contains(bytes))
            .ok_or_else(|| {
                format!("must be a size such as \"256MiB\" or a number of bytes, from 1 to {max} bytes")
            })
    }
}

/// A time, more than nothing and up to a longest one: `30s`, `500ms`, `1h30m`.
pub(super) fn duration(max: Duration) -> impl Fn(&Raw) -> Parsed<Duration> {
    move |raw| {
        text(raw)
            .ok()
            .and_then(|text| duration_of(text.trim()))
            .filter(|duration| !duration.is_zero() && *duration <= max)
            .ok_or_else(|| {
                let max = max.as_secs();
                format!(
                    "must be a time with its unit (ms, s, m, h) such as \"30s\", more than 0 and up to {max}s"
                )
            })
    }
}

fn duration_of(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total_ms = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        rest = &rest[unit..];
        total_ms = total_ms.checked_add(number.checked_mul(unit_ms)?)?;
    }
    Some(Duration::from_millis(total_ms))
}

/// An IP address and a port.
pub(super) fn address(raw: &Raw) -> Parsed<SocketAddr> {
    text(raw).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        "must be an IP address and a port such as \"127.0.0.1:9464\" or \"[::]:9464\"".to_owned()
    })
}

/// A list of at least one text, each of which passes a check: a TOML array, or text with commas.
pub(super) fn list_that(
    allowed: &'static str,
    check: fn(&str) -> bool,
) -> impl Fn(&Raw) -> Parsed<Vec<String>> {
    move |raw| {
        strings(raw)
            .filter(|list| !list.is_empty() && list.iter().all(|text| check(text)))
            .ok_or_else(|| format!("must be {allowed}"))
    }
}

fn strings(raw: &Raw) -> Option<Vec<String>> {
    match raw {
        Raw::Toml(Value::Array(array)) => array
            .iter()
            .map(|value| value.as_str().map(|text| text.trim().to_owned()))
            .collect(),
        Raw::Text(text) if text.trim_start().starts_with('[') => parse_value(text.trim())
            .ok()
            .filter(Value::is_array)
            .and_then(|array| strings(&Raw::Toml(array))),
        Raw::Text(text) | Raw::Toml(Value::String(text)) => {
            Some(text.split(',').map(|part| part.trim().to_owned()).collect())
        }
        Raw::Toml(_) => None,
    }
}

/// `host` or `host:port`; an IPv6 address in brackets.
pub(super) fn is_host_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let port = rest.strip_prefix(':');
            if address.parse::<std::net::Ipv6Addr>().is_err() || (port.is_none() && !rest.is_empty()) {
                return false;
            }
            (address, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_ok = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@[],".contains(c));
    host_ok && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// `nats://` or `tls://` or nothing, then host and port. A login in it is refused: passwords come from files.
pub(crate) fn is_nats_url(text: &str) -> bool {
    let address = match text.split_once("://") {
        Some(("nats" | "tls", address)) => address,
        Some(_) => return false,
        None => text,
    };
    is_host_port(address.strip_suffix('/').unwrap_or(address))
}

/// A name of up to so many characters, of letters, digits and some others.
pub(super) fn is_name(text: &str, chars_max: usize, others: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    !text.is_empty() && text.len() <= chars_max && text.chars().all(allowed)
}

/// A level, or levels of targets, with commas, as `tracing-subscriber` reads them.
pub(super) fn is_log_filter(text: &str) -> bool {
    let is_level = |level: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(level))
    };
    text.split(',').all(|part| match part.trim().split_once('=') {
        Some((target, level)) => is_name(target, 200, "_:-") && is_level(level),
        None => is_level(part.trim()),
    })
}
