//! Secrets, which come from files only and are never shown.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The longest file that holds a secret.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// A password, seed or the like. Shows as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one who has to send it. Never log it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Reads a secret; line ends after it are no part of it.
    ///
    /// # Errors
    /// What is wrong with the file; nothing of it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = read_text(path, SECRET_FILE_BYTES_MAX)?;
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err("the file is empty".to_owned());
        }
        Ok(Secret(secret.to_owned()))
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Secret(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads a text file of at most so many bytes.
pub(super) fn read_text(path: &Path, bytes_max: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("the file can't be read: {error}"))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("the file is longer than {bytes_max} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "the file is no UTF-8 text".to_owned())
}
