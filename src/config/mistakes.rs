//! What is wrong with a configuration.

use std::fmt;

/// How much of a value is shown.
const SHOWN_CHARS_MAX: usize = 120;

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
    let secret = [
        "password",
        "passwd",
        "secret",
        "token",
        "credential",
        "jaas",
        "pem",
        "seed",
        "oauthbearer.config",
    ];
    let path = ["_file", "location", "method"];
    secret.iter().any(|part| name.contains(part)) && !path.iter().any(|end| name.ends_with(end))
}

/// The value of a key as it may be shown: one line, cut, without secrets; text in quotes.
pub(super) fn shown(name: &str, value: &str, is_text: bool) -> String {
    // Login in a URL or an address.
    let userinfo = value
        .rsplit_once('@')
        .is_some_and(|(login, _)| value.contains("://") || login.contains(':'));
    if is_secret(name) || userinfo {
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
