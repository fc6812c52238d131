//! Reads keys as typed values, and collects what is wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::effective::{Effective, Written};
use super::keys;
use super::layers::{Given, Layers, Origin, Raw};
use super::mistakes::Mistakes;
use super::parse::{Parsed, text};
use super::secret::{Secret, read_text};

/// The longest file of certificates; those of a whole system have a fourth of it.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// What was given, being read.
pub(super) struct Reader {
    layers: Layers,
    effective: Effective,
}

impl Reader {
    pub fn new(layers: Layers) -> Self {
        Reader {
            layers,
            effective: Effective::default(),
        }
    }

    /// The value of a key. What is wrong is noted, and the default taken so that the others are read too.
    #[expect(
        clippy::expect_used,
        reason = "names and defaults are in the program; a test reads every key without a layer"
    )]
    pub fn get<T: Written>(&mut self, name: &'static str, parse: impl Fn(&Raw) -> Parsed<T>) -> T {
        let key = keys::find(name).expect("only keys of the table are read");
        if let Some(given) = self.layers.keys.get(name).cloned() {
            match parse(&given.value) {
                Ok(value) => {
                    self.effective.add(name, &value, Some(given.origin));
                    return value;
                }
                Err(problem) => self.layers.mistake(name, &given, problem),
            }
        }
        let value = parse(&Raw::Text(key.default.to_owned())).expect("a default is allowed");
        self.effective.add(name, &value, None);
        value
    }

    /// Whether a key is given and not empty.
    pub fn is_set(&self, name: &str) -> bool {
        let given = self.layers.keys.get(name);
        given.is_some_and(|given| text(&given.value) != Ok(String::new()))
    }

    /// The secret in the file that a key names.
    pub fn secret(&mut self, name: &'static str) -> Option<Secret> {
        let path = self.path(name)?;
        Secret::read(&path)
            .map_err(|problem| self.mistake(name, &problem))
            .ok()
    }

    /// The PEM file that a key names: it is there, and `check` says what is wrong with its text.
    pub fn pem_file(
        &mut self,
        name: &'static str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<PathBuf> {
        let path = self.path(name)?;
        if let Err(problem) = read_text(&path, PEM_BYTES_MAX).and_then(|text| check(&text)) {
            self.mistake(name, &problem);
        }
        Some(path)
    }

    fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let path = self.get(name, text);
        Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty())
    }

    /// The properties given, by name.
    pub fn take_properties(&mut self) -> BTreeMap<String, Given> {
        std::mem::take(&mut self.layers.properties)
    }

    /// A property that was read.
    pub fn property(&mut self, name: &str, value: &str, origin: Origin) {
        self.effective.add_property(name, value, origin);
    }

    /// Notes that something is wrong with the value of a key that was given.
    pub fn mistake(&mut self, name: &str, problem: &str) {
        if let Some(given) = self.layers.keys.get(name).cloned() {
            self.layers.mistake(name, &given, problem.to_owned());
        }
    }

    /// The same for a value that is no longer among the layers.
    pub fn mistake_of(&mut self, name: &str, given: &Given, problem: String) {
        self.layers.mistake(name, given, problem);
    }

    /// What was read, or all that was wrong.
    pub fn finish(self) -> Result<Effective, Mistakes> {
        if self.layers.mistakes.is_empty() {
            Ok(self.effective)
        } else {
            Err(Mistakes(self.layers.mistakes))
        }
    }
}
