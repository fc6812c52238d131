//! The folder around the database:
//!
//! - `format`: the version of all of this. Written last when a folder is made, so one without it was never finished.
//! - `acknowledged`: the number of the last commit that was acknowledged, and the lock of who uses the folder.
//! - `rows/`: the database.
//!
//! The database drops the end of a journal that it can't read, since that is how a crash leaves it. So the number of the
//! last commit is kept here as well: what was acknowledged and is missing afterwards was damaged, and must be told.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{OpenError, fault, keys};

/// The version of the layout and of the keys that this program makes, and the newest that it reads.
///
/// - 1: the database has a file made whenever 8 MiB are in memory, and its filters and indexes are in parts. The database
///   keeps what it was made with, so such a folder stays like that.
/// - 2: this program says when a file is made (`memtable.rs`), and filters and indexes are whole and in memory.
/// - 3: the rows say how far partitions were written (`order.rs`). In earlier folders each change looks at what is there.
pub const FOLDER_VERSION: u32 = 3;

/// How long somebody else may have the folder when it is opened.
const LOCK_WAIT_MS: u128 = 1_000;

const FORMAT: &str = "format";
const FORMAT_UNFINISHED: &str = "format.new";
const ACKNOWLEDGED: &str = "acknowledged";
const ROWS: &str = "rows";
/// What the file `format` begins with; the version follows.
const FORMAT_TEXT: &str = "readstates embedded store, version ";

/// A folder that this process has for itself.
pub(super) struct Folder {
    path: PathBuf,
    acknowledged: File,
    /// Whether it was not finished before: there is nothing in it.
    pub is_new: bool,
    /// At most [`FOLDER_VERSION`].
    pub version: u32,
}

impl Folder {
    /// Takes the folder, creates it where it is missing.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        let unusable = |error: io::Error| OpenError(fault::unusable(path, &error));
        fs::create_dir_all(path).map_err(unusable)?;
        let is_new = !path.join(FORMAT).try_exists().map_err(unusable)?;
        let version = if is_new {
            check_is_ours(path)?;
            FOLDER_VERSION
        } else {
            known_version(path)?
        };
        let acknowledged = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(ACKNOWLEDGED))
            .map_err(unusable)?;
        lock(path, &acknowledged)?;
        let folder = Folder {
            path: path.to_owned(),
            acknowledged,
            is_new,
            version,
        };
        if is_new {
            folder.clear().map_err(unusable)?;
        }
        Ok(folder)
    }

    /// Whether its rows say how far partitions were written.
    pub fn says_order(&self) -> bool {
        self.version >= 3
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database is.
    pub fn rows(&self) -> PathBuf {
        self.path.join(ROWS)
    }

    /// The number of the last commit that is known to have been acknowledged.
    pub fn acknowledged(&self) -> Result<u64, OpenError> {
        let mut bytes = Vec::new();
        (&self.acknowledged)
            .read_to_end(&mut bytes)
            .map_err(|error| OpenError(fault::unusable(&self.path, &error)))?;
        let why = "the file `acknowledged` does not have 8 bytes";
        keys::number(&bytes).ok_or_else(|| OpenError(fault::damaged(&self.path, why)))
    }

    /// Takes note of a commit that is durable, before it is acknowledged. Not synced, since a number that is too low does
    /// no harm.
    pub fn note(&self, commit: u64) -> io::Result<()> {
        self.acknowledged.write_all_at(&commit.to_be_bytes(), 0)
    }

    /// The database is there: from now on this is a store.
    pub fn finish(&self) -> Result<(), OpenError> {
        let finish = || -> io::Result<()> {
            self.acknowledged.sync_all()?;
            let unfinished = self.path.join(FORMAT_UNFINISHED);
            let mut format = File::create(&unfinished)?;
            writeln!(format, "{FORMAT_TEXT}{FOLDER_VERSION}")?;
            format.sync_all()?;
            fs::rename(unfinished, self.path.join(FORMAT))?;
            File::open(&self.path)?.sync_all()?;
            match self.path.canonicalize()?.parent() {
                Some(parent) => File::open(parent)?.sync_all(),
                None => Ok(()),
            }
        };
        finish().map_err(|error| OpenError(fault::unusable(&self.path, &error)))
    }

    /// Removes what a first start that did not come to its end has left.
    fn clear(&self) -> io::Result<()> {
        self.acknowledged.set_len(0)?;
        match fs::remove_dir_all(self.rows()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Keeps others out. Waits a moment: who was just killed may not be gone yet, and a process that is being started by the
/// former holder has its files until it runs its own program.
fn lock(path: &Path, file: &File) -> Result<(), OpenError> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(OpenError(fault::unusable(path, &error))),
            Err(TryLockError::WouldBlock) if began.elapsed().as_millis() >= LOCK_WAIT_MS => {
                return Err(OpenError(fault::in_use(path)));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Nothing of somebody else may be in a folder where a store is to be made.
fn check_is_ours(path: &Path) -> Result<(), OpenError> {
    let unusable = |error: io::Error| OpenError(fault::unusable(path, &error));
    for entry in fs::read_dir(path).map_err(unusable)? {
        let name = entry.map_err(unusable)?.file_name();
        if ![FORMAT_UNFINISHED, ACKNOWLEDGED, ROWS]
            .iter()
            .any(|ours| name == *ours)
        {
            return Err(OpenError(format!(
                "store.embedded.path {} is no embedded store, and not empty (it has {name:?}): name a new folder, or \
                 restore the file `format` if it was one",
                path.display()
            )));
        }
    }
    Ok(())
}

fn known_version(path: &Path) -> Result<u32, OpenError> {
    let text = match fs::read_to_string(path.join(FORMAT)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::InvalidData => String::new(),
        Err(error) => return Err(OpenError(fault::unusable(path, &error))),
    };
    let version = text
        .strip_prefix(FORMAT_TEXT)
        .map(|version| version.trim().parse());
    match version {
        Some(Ok(version @ 1..=FOLDER_VERSION)) => Ok(version),
        Some(Ok(version)) if version > FOLDER_VERSION => {
            let what = format!("the folder has version {version}, and this one knows up to {FOLDER_VERSION}");
            Err(OpenError(fault::newer(path, &what)))
        }
        _ => Err(OpenError(fault::damaged(
            path,
            "the file `format` does not say its version",
        ))),
    }
}
