//! What is wrong with a configuration.

use std::fmt;

/// How much of a value is shown.
const SHOWN_CHARS_MAX: usize = 120;
/// What the seed of an nkey is long.
const NKEY_SEED_CHARS: usize = 58;

/// One mistake. Its display is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key, or the file.
    pub subject: String,
    /// The value as it was given; passwords and the like are `***`.
    pub value: Option<String>,
    /// Where it came from: `--set`, an environment variable, a file.
    pub origin: Option<String>,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " (from {origin})")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// All mistakes, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Whether what is called so must not be shown. A path to a secret is none.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Fragments rather than words, since names are spelled wrong as well.
    let secret = [
        "pass",
        "pasw",
        "pwd",
        "pw",
        "secr",
        "token",
        "cred",
        "jaas",
        "jwt",
        "pem",
        "nkey",
        "seed",
        "oauthbearer.config",
    ];
    let path = ["_file", "location", "method"];
    let is_named = name.ends_with(".key") || secret.iter().any(|part| name.contains(part));
    is_named && !path.iter().any(|end| name.ends_with(end))
}

/// Whether the value must not be shown, whatever it is called: a login in a URL, a key in PEM, a JWT, or the seed of an
/// nkey in the place of its file.
fn looks_secret(value: &str) -> bool {
    let userinfo = value
        .rsplit_once('@')
        .is_some_and(|(login, _)| login.contains(':'));
    let seed = value.len() == NKEY_SEED_CHARS
        && value.starts_with('S')
        && value
            .bytes()
            .all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'));
    userinfo || seed || value.contains("-----BEGIN") || value.starts_with("eyJ")
}

/// The value of a key as it may be shown: one line, cut, without secrets; text in quotes.
pub(super) fn shown(name: &str, value: &str, is_text: bool) -> String {
    if is_secret(name) || looks_secret(value) {
        return "***".to_owned();
    }
    let mut shown: String = value
        .chars()
        .take(SHOWN_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if value.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    if is_text { format!("\"{shown}\"") } else { shown }
}
