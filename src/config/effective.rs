//! The configuration in force, for people who wonder which value is, and why.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use toml::Value;

use super::keys::{KEYS, PROPERTIES};
use super::layers::Origin;
use super::mistakes::is_secret;
use super::sections::{FORMATS, STORE_KINDS, STREAM_KINDS};
use super::{LogFormat, StoreKind, StreamKind};

/// The keys whose value is a list in a file too; other lists are written with commas.
const LISTS: &[&str] = &["store.cassandra.nodes"];

/// Every key with its value and where that came from. Its display is a configuration file: loaded, it gives the same
/// configuration, except for secrets among the properties of librdkafka, which are not shown. Files with secrets are named.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    keys: Vec<(&'static str, Setting)>,
    properties: Vec<(String, Setting)>,
}

/// A value, and where it came from if it is not the default.
#[derive(Clone, Debug)]
struct Setting {
    value: Value,
    origin: Option<Origin>,
}

/// A value of a key, as it is written in a file.
pub(super) trait Written {
    /// In a form that is read as the same value.
    fn written(&self) -> Value;
}

impl Effective {
    pub(super) fn add<T: Written>(&mut self, name: &'static str, value: &T, origin: Option<Origin>) {
        let value = match value.written() {
            Value::Array(list) if !LISTS.contains(&name) => {
                let parts: Vec<_> = list.iter().filter_map(Value::as_str).collect();
                Value::String(parts.join(","))
            }
            value => value,
        };
        self.keys.push((name, Setting { value, origin }));
    }

    pub(super) fn add_property(&mut self, name: &str, value: &str, origin: Origin) {
        let setting = Setting {
            value: Value::String(value.to_owned()),
            origin: Some(origin),
        };
        self.properties.push((name.to_owned(), setting));
    }

    /// Whether a key has another value than its default, or the same one on purpose.
    pub fn is_given(&self, name: &str) -> bool {
        let mut keys = self.keys.iter();
        keys.any(|(key, setting)| *key == name && setting.origin.is_some())
    }

    fn write_properties(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.properties.is_empty() {
            return writeln!(f, "properties = {{}}  # default");
        }
        writeln!(f, "\n[{PROPERTIES}]")?;
        for (name, setting) in &self.properties {
            let name = Value::String(name.clone());
            match is_secret(name.as_str().unwrap_or_default()) {
                true => writeln!(f, "# {name} = ***  # {}, not shown", setting.from())?,
                false => writeln!(f, "{name} = {}  # {}", setting.value, setting.from())?,
            }
        }
        Ok(())
    }
}

impl Setting {
    fn from(&self) -> String {
        match &self.origin {
            None => "default".to_owned(),
            // A line's end in a path would end the comment.
            Some(Origin::File(path)) => format!("file {}", path.replace(char::is_control, "?")),
            Some(Origin::Environment(variable)) => format!("environment {variable}"),
            Some(Origin::Flag) => "flag --set".to_owned(),
        }
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        for key in KEYS {
            let (of, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
            if section != of {
                let gap = if section.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}[{of}]")?;
                section = of;
            }
            if key.name == PROPERTIES {
                self.write_properties(f)?;
            }
            let setting = self.keys.iter().find(|(name, _)| *name == key.name);
            if let Some((_, setting)) = setting {
                writeln!(f, "{name} = {}  # {}", setting.value, setting.from())?;
            }
        }
        Ok(())
    }
}

macro_rules! written_as_integer {
    ($($number:ty),*) => {
        $(impl Written for $number {
            fn written(&self) -> Value {
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        })*
    };
}
written_as_integer!(i32, u32, usize);

/// Numbers of bytes.
impl Written for u64 {
    fn written(&self) -> Value {
        let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
        let unit = units.iter().find(|(_, size)| self.is_multiple_of(*size));
        Value::String(match unit {
            Some((unit, size)) => format!("{}{unit}", self / size),
            None => format!("{self}B"),
        })
    }
}

impl Written for bool {
    fn written(&self) -> Value {
        Value::Boolean(*self)
    }
}

impl Written for String {
    fn written(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Written for Vec<String> {
    fn written(&self) -> Value {
        self.iter().cloned().map(Value::String).collect::<Vec<_>>().into()
    }
}

impl Written for Duration {
    fn written(&self) -> Value {
        let ms = self.as_millis();
        Value::String(match ms.is_multiple_of(1000) {
            true => format!("{}s", ms / 1000),
            false => format!("{ms}ms"),
        })
    }
}

impl Written for SocketAddr {
    fn written(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl Written for StreamKind {
    fn written(&self) -> Value {
        word(STREAM_KINDS, self)
    }
}

impl Written for StoreKind {
    fn written(&self) -> Value {
        word(STORE_KINDS, self)
    }
}

impl Written for LogFormat {
    fn written(&self) -> Value {
        word(FORMATS, self)
    }
}

fn word<T: PartialEq>(words: &[(&str, T)], value: &T) -> Value {
    let word = words.iter().find(|(_, known)| known == value);
    Value::String(word.map_or("", |(word, _)| word).to_owned())
}
