//! The log while the terminal shows the screen: kept, and written when the terminal is given back.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that are kept, the newest.
const KEPT_MAX: usize = 30;

/// Where log lines go. Clones share it.
#[derive(Clone, Default)]
pub struct KeptLog {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    is_held: bool,
    lines: VecDeque<String>,
}

impl KeptLog {
    /// Keeps lines from now on, since they would break what is on the screen.
    pub fn hold(&self) {
        self.inner().is_held = true;
    }

    /// Writes what was kept to standard error, and everything that comes.
    pub fn release(&self) {
        let mut inner = self.inner();
        inner.is_held = false;
        for line in inner.lines.drain(..) {
            eprint!("{line}");
        }
    }

    /// The last line that was kept.
    pub fn last(&self) -> Option<String> {
        self.inner().lines.back().map(|line| line.trim_end().to_owned())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for KeptLog {
    /// A line is written at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut inner = self.inner();
        if !inner.is_held {
            return io::stderr().write_all(line).map(|()| line.len());
        }
        if inner.lines.len() == KEPT_MAX {
            inner.lines.pop_front();
        }
        inner.lines.push_back(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for KeptLog {
    type Writer = KeptLog;

    fn make_writer(&'a self) -> KeptLog {
        self.clone()
    }
}
