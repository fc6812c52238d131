//! Gathers what was given, from the file, the environment and the flags, before anything is read as a value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::keys::{self, PROPERTIES};
use super::mistakes::{Mistake, shown};
use super::secret::read_text;

/// The file that is read where none is named.
pub const FILE_DEFAULT: &str = "readstates.toml";
/// What the names of environment variables begin with.
pub const VARIABLE_PREFIX: &str = "READSTATES_";
const PROPERTIES_VARIABLE: &str = "STREAM__KAFKA__PROPERTIES__";
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A value as it was given.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// By a flag, a variable or as a default: text that is still to be read as what the key needs.
    Text(String),
    /// In the file.
    Toml(toml::Value),
}

impl Raw {
    /// As it may be shown. None for tables, whose names may be those of secrets.
    fn shown(&self, name: &str) -> Option<String> {
        match self {
            Raw::Text(text) | Raw::Toml(toml::Value::String(text)) => Some(shown(name, text, true)),
            Raw::Toml(toml::Value::Table(_)) => None,
            Raw::Toml(toml::Value::Array(array)) if array.iter().any(|it| it.is_array() || it.is_table()) => {
                None
            }
            Raw::Toml(value) => Some(shown(name, &value.to_string(), false)),
        }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The file of this path.
    File(String),
    /// The variable of this name.
    Environment(String),
    /// `--set`.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => f.write_str(path),
            Origin::Environment(variable) => write!(f, "{variable} in the environment"),
            Origin::Flag => f.write_str("--set"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub value: Raw,
    pub origin: Origin,
}

/// What was given, the strongest of each key.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// By key.
    pub keys: BTreeMap<&'static str, Given>,
    /// Of [`PROPERTIES`], by name. Each is a key of its own: a layer adds to those below it.
    pub properties: BTreeMap<String, Given>,
    /// Keys that there are not, and files that can't be read.
    pub mistakes: Vec<Mistake>,
}

impl Layers {
    /// Gathers everything; what comes later is stronger.
    pub fn gather(
        flags: &[(String, String)],
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Self {
        let mut layers = Layers::default();
        layers.add_file(file);
        let mut variables: Vec<_> = env.collect();
        // The environment has no order; mistakes should have one.
        variables.sort();
        for (variable, value) in variables {
            if let Some(name) = variable_key(&variable) {
                layers.add(&name, Raw::Text(value), &Origin::Environment(variable));
            } else if let Some(meant) = mistyped_variable(&variable) {
                layers.mistakes.push(Mistake {
                    value: Some(shown(meant, &value, true)),
                    origin: Some("the environment".to_owned()),
                    problem: format!("there is no such variable; perhaps {}?", variable_of(meant)),
                    subject: variable,
                });
            }
        }
        for (name, value) in flags {
            layers.add(name, Raw::Text(value.clone()), &Origin::Flag);
        }
        layers
    }

    fn add_file(&mut self, file: Option<&Path>) {
        let path = file.unwrap_or(Path::new(FILE_DEFAULT));
        if file.is_none() && !path.exists() {
            return;
        }
        let origin = path.display().to_string();
        match read_text(path, FILE_BYTES_MAX).and_then(|text| parse_table(&text)) {
            Ok(table) => self.add_table("", table, &Origin::File(origin)),
            Err(problem) => self.mistakes.push(Mistake {
                subject: origin,
                value: None,
                origin: None,
                problem,
            }),
        }
    }

    fn add_table(&mut self, prefix: &str, table: toml::Table, origin: &Origin) {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            match value {
                // Unknown sections too, so that each of their keys is reported by its name.
                toml::Value::Table(inner)
                    if keys::is_section(&name) || (keys::find(&name).is_none() && !inner.is_empty()) =>
                {
                    self.add_table(&format!("{name}."), inner, origin);
                }
                value => self.add(&name, Raw::Toml(value), origin),
            }
        }
    }

    fn add(&mut self, name: &str, value: Raw, origin: &Origin) {
        if name == PROPERTIES {
            return self.add_properties(value, origin);
        }
        let given = Given {
            value,
            origin: origin.clone(),
        };
        if let Some(property) = name
            .strip_prefix(PROPERTIES)
            .and_then(|rest| rest.strip_prefix('.'))
        {
            let property = property.trim_matches('"').to_owned();
            self.properties.insert(property, given);
        } else if let Some(key) = keys::find(name) {
            self.keys.insert(key.name, given);
        } else {
            let problem = match keys::nearest(name) {
                _ if keys::is_section(name) => "this is a section, and no key".to_owned(),
                Some(nearest) => format!("there is no such key; perhaps {nearest}?"),
                None => "there is no such key".to_owned(),
            };
            self.mistake(name, &given, problem);
        }
    }

    fn add_properties(&mut self, value: Raw, origin: &Origin) {
        let parsed = match value {
            Raw::Toml(toml::Value::Table(table)) => Ok(table),
            Raw::Toml(_) => Err("this is no table".to_owned()),
            Raw::Text(text) => parse_value(&text).and_then(|value| match value {
                toml::Value::Table(table) => Ok(table),
                _ => Err("this is no table".to_owned()),
            }),
        };
        match parsed {
            Ok(table) => self.add_nested_properties("", table, origin),
            // Without the value, which could hold anything.
            Err(problem) => self.mistakes.push(Mistake {
                subject: PROPERTIES.to_owned(),
                value: None,
                origin: Some(origin.to_string()),
                problem: format!(
                    "{problem}; must be a table of strings such as {{ \"security.protocol\" = \"ssl\" }}"
                ),
            }),
        }
    }

    /// `session.timeout.ms = "6000"` without quotes around the name makes tables in tables in TOML.
    fn add_nested_properties(&mut self, prefix: &str, table: toml::Table, origin: &Origin) {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            if let toml::Value::Table(inner) = value {
                self.add_nested_properties(&format!("{name}."), inner, origin);
            } else {
                let given = Given {
                    value: Raw::Toml(value),
                    origin: origin.clone(),
                };
                self.properties.insert(name, given);
            }
        }
    }

    /// Notes that something is wrong with what was given for a key.
    pub fn mistake(&mut self, name: &str, given: &Given, problem: String) {
        self.mistakes.push(Mistake {
            subject: name.to_owned(),
            value: given.value.shown(name),
            origin: Some(given.origin.to_string()),
            problem,
        });
    }
}

/// The key that an environment variable sets. None for variables without `__`: Kubernetes makes such ones for a service
/// called `readstates`, as READSTATES_SERVICE_HOST.
fn variable_key(variable: &str) -> Option<String> {
    let rest = variable
        .strip_prefix(VARIABLE_PREFIX)
        .filter(|rest| rest.contains("__"))?;
    let Some(property) = rest.strip_prefix(PROPERTIES_VARIABLE) else {
        return Some(rest.to_ascii_lowercase().replace("__", "."));
    };
    // A shell has no names with dots, and librdkafka none in capitals.
    let shell_name = property
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let property = if shell_name {
        property.to_ascii_lowercase().replace('_', ".")
    } else {
        property.to_owned()
    };
    Some(format!("{PROPERTIES}.{property}"))
}

/// The variable that sets a key.
fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The key that a variable without `__` was surely meant for, as READSTATES_NATS_URL.
fn mistyped_variable(variable: &str) -> Option<&'static str> {
    let rest = variable.strip_prefix(VARIABLE_PREFIX)?.to_ascii_lowercase();
    let squeezed = |name: &str| name.replace(['.', '_'], "");
    let mut names = keys::KEYS.iter().map(|key| key.name);
    names.find(|name| squeezed(name) == squeezed(&rest))
}

/// Reads TOML. The error has the place, and not the line itself, as toml's own has: that could hold a password.
fn parse_table(text: &str) -> Result<toml::Table, String> {
    text.parse::<toml::Table>().map_err(|error| {
        let before = error
            .span()
            .map_or("", |span| text.get(..span.start).unwrap_or_default());
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!(
            "line {line}, column {column}: {}",
            error.message().trim().replace('\n', ", ")
        )
    })
}

/// Reads a TOML value that was given as text.
pub(super) fn parse_value(text: &str) -> Result<toml::Value, String> {
    let table = format!("value = {text}").parse::<toml::Table>();
    table
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .ok_or_else(|| "this is no TOML value".to_owned())
}
