//! Where the demo keeps its data: a temporary folder, or one that stays.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::Failed;

/// How long to wait for the nats-server of a demo that was killed a moment ago.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// A folder, for this demo alone.
#[derive(Debug)]
pub struct Place {
    /// Removed at the end; the data is in it unless it is to stay.
    temporary: PathBuf,
    kept: Option<PathBuf>,
    log: File,
}

impl Place {
    /// Makes a temporary folder, and takes `kept` where the data is to stay.
    ///
    /// # Errors
    /// Which folder can't be made or written, or that another demo uses it.
    pub async fn take(kept: Option<&Path>) -> Result<Self, Failed> {
        let temporary = make_temporary()?;
        let place = Self::take_in(&temporary, kept).await;
        if place.is_err() {
            // There is nothing in it yet.
            let _ = fs::remove_dir_all(&temporary);
        }
        place
    }

    async fn take_in(temporary: &Path, kept: Option<&Path>) -> Result<Self, Failed> {
        let kept = kept.map(absolute).transpose()?;
        let data = kept.as_deref().unwrap_or(temporary);
        // The log of nats-server is what is locked: the server has it open as well, so the folder is free again only
        // when both have ended, whatever became of this process.
        let path = data.join("nats-server.log");
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|error| unusable(data, &error))?;
        lock(&log, data).await?;
        Ok(Place {
            temporary: temporary.to_owned(),
            kept,
            log,
        })
    }

    /// What is for this run only.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Where the data is.
    pub fn data(&self) -> &Path {
        self.kept.as_deref().unwrap_or(&self.temporary)
    }

    /// Whether the data stays.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Where nats-server writes its log, and whoever has it open has the folder.
    pub fn log(&self) -> io::Result<File> {
        self.log.try_clone()
    }

    /// The last lines of that log.
    pub fn log_tail(&self, lines_max: usize) -> String {
        let log = fs::read(self.data().join("nats-server.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(lines_max)..].join("\n")
    }

    /// Removes what is temporary.
    pub fn leave(&self) {
        let removed = fs::remove_dir_all(&self.temporary);
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} can't be removed: {error}", self.temporary.display());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

fn unusable(folder: &Path, error: &io::Error) -> Failed {
    Failed::Misconfigured(format!(
        "the demo can't write to {}: {error}: choose another folder with --data, or with TMPDIR for temporary ones",
        folder.display()
    ))
}

/// Of the working directory, since nats-server writes paths down.
fn absolute(folder: &Path) -> Result<PathBuf, Failed> {
    let made = fs::create_dir_all(folder).and_then(|()| fs::canonicalize(folder));
    made.map_err(|error| unusable(folder, &error))
}

/// Nobody else may look into it.
fn make_temporary() -> Result<PathBuf, Failed> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = format!("readstates-demo.{}-{:x}", std::process::id(), since.as_nanos());
    let parent = std::env::temp_dir();
    let folder = absolute(&parent)?.join(name);
    let made = DirBuilder::new().mode(0o700).create(&folder);
    made.map(|()| folder).map_err(|error| unusable(&parent, &error))
}

async fn lock(log: &File, folder: &Path) -> Result<(), Failed> {
    let until = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match log.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOCK_INTERVAL).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Failed::Misconfigured(format!(
                    "another demo uses {}: end it, or choose another folder with --data",
                    folder.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(folder, &error)),
        }
    }
}
