//! What the database's errors mean for whoever runs the service: one line, with the folder and what to do.

use std::io::{self, ErrorKind};
use std::path::Path;

use fjall::{Error, LsmError};

/// What to do about a folder that can't be trusted any more.
const REBUILD: &str = "restore the whole folder from a backup, or delete it, so that everything is replayed from the \
                       stream";

/// Whether something in the files is not as it was written, while reading and writing as such work.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::Io(error) | Error::Storage(LsmError::Io(error)) => matches!(
            error.kind(),
            ErrorKind::UnexpectedEof
                | ErrorKind::InvalidData
                | ErrorKind::NotFound
                | ErrorKind::AlreadyExists
        ),
        Error::Poisoned | Error::Locked | Error::KeyspaceDeleted => false,
        _ => true,
    }
}

/// The folder can't be opened.
pub(super) fn on_opening(path: &Path, error: &Error) -> String {
    match error {
        Error::Locked => in_use(path),
        Error::Io(io) | Error::Storage(LsmError::Io(io)) if !is_damage(error) => unusable(path, io),
        _ => damaged(path, said(error)),
    }
}

/// A write has failed, and with it all later ones.
pub(super) fn on_writing(path: &Path, error: &Error) -> String {
    let path = path.display();
    let (why, what_to_do) = match error {
        Error::Io(error) | Error::Storage(LsmError::Io(error)) => (error.to_string(), advice(error)),
        Error::Poisoned => (
            "it failed to write or to read files in the background, as the log says above".to_owned(),
            "make room on the disk if it is full, or see what is wrong with it",
        ),
        other => (said(other), REBUILD),
    };
    format!(
        "the embedded store can't write any more: store.embedded.path {path}: {why}: {what_to_do}, and start this \
         again; nothing that was acknowledged is lost, and the rest is replayed from the stream"
    )
}

/// Reading does not work, whatever is read.
pub(super) fn on_reading(path: &Path, error: &Error) -> String {
    let (path, why) = (path.display(), said(error));
    format!(
        "the embedded store can't be read: store.embedded.path {path}: {why}: see what is wrong with the disk, and \
         start this again"
    )
}

/// It is not as it was written.
pub(super) fn damaged(path: &Path, why: impl std::fmt::Display) -> String {
    let path = path.display();
    format!("store.embedded.path {path} is damaged: {why}: {REBUILD}")
}

/// Another process has it.
pub(super) fn in_use(path: &Path) -> String {
    let path = path.display();
    format!(
        "store.embedded.path {path} is in use by another process: end that one; an embedded store is for one instance, \
         and several need store.kind = \"cassandra\""
    )
}

/// It was made by a program that knows more than this one.
pub(super) fn newer(path: &Path, what: &str) -> String {
    let path = path.display();
    format!(
        "store.embedded.path {path} was made by a newer version of readstates ({what}): run that version, or a newer \
         one; nothing was changed"
    )
}

/// The system refuses something.
pub(super) fn unusable(path: &Path, error: &io::Error) -> String {
    let (path, advice) = (path.display(), advice(error));
    format!("store.embedded.path {path} can't be used: {error}: {advice}")
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "make room there, or raise the limit"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "let this user write there, or name another folder"
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "name a folder, not a file",
        _ => "see what is wrong with the disk, or name another folder",
    }
}

/// The error itself, without the names of the types it is made of.
fn said(error: &Error) -> String {
    match error {
        Error::Io(error) | Error::Storage(LsmError::Io(error)) => error.to_string(),
        Error::Storage(error) => format!("{error:?}"),
        other => format!("{other:?}"),
    }
}
