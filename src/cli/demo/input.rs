//! Events from a file, in place of the synthetic chat.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::happenings::Happenings;
use crate::cli::Failed;
use crate::wire::json::from_json;
use crate::wire::proto::v1::Event;
use crate::wire::proto::v1::event::Kind;

/// How much of a file is searched for users to show.
const SEARCHED_LINES_MAX: usize = 20_000;
/// One event in this time is looked at for the screen: there may be hundreds of thousands in a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A child that decompresses ends with its reader.
struct Decompressed(Child);

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.stdout.as_mut() {
            Some(output) => output.read(buffer),
            None => Ok(0),
        }
    }
}

impl Drop for Decompressed {
    fn drop(&mut self) {
        // It has ended where it can't be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens a file of events.
///
/// # Errors
/// Why it can't be read.
pub fn open(file: &Path) -> Result<Box<dyn Read + Send>, Failed> {
    let failed =
        |error: std::io::Error| Failed::Misconfigured(format!("can't read {}: {error}", file.display()));
    let opened = File::open(file).map_err(failed)?;
    if opened.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    if file.extension().is_some_and(|extension| extension == "zst") {
        let child = Command::new("zstdcat")
            .stdin(opened)
            .stdout(Stdio::piped())
            .spawn();
        let child =
            child.map_err(|error| failed(std::io::Error::new(error.kind(), format!("zstdcat: {error}"))))?;
        return Ok(Box::new(Decompressed(child)));
    }
    Ok(Box::new(opened))
}

/// The users and channels of a file to look at: those with the most reads and joins at its beginning.
///
/// # Errors
/// Why it can't be read.
pub fn watched(file: &Path, users_max: usize, channels_max: usize) -> Result<(Vec<u64>, Vec<u64>), Failed> {
    let mut pairs: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut channels: BTreeMap<u64, usize> = BTreeMap::new();
    for line in BufReader::new(open(file)?).lines().take(SEARCHED_LINES_MAX) {
        let line = line.map_err(|error| Failed::Broken(format!("{}: {error}", file.display())))?;
        let Ok(event) = from_json::<Event>(line.as_bytes()) else {
            continue;
        };
        let user_id = match event.kind {
            Some(Kind::MessageRead(read)) => read.user_id,
            Some(Kind::MemberJoined(joined)) => joined.user_id,
            _ => continue,
        };
        pairs.insert((user_id, event.channel_id));
        *channels.entry(event.channel_id).or_default() += 1;
    }
    let channels = most(channels, channels_max);
    let mut users: BTreeMap<u64, usize> = BTreeMap::new();
    for (user, _) in pairs.iter().filter(|(_, channel)| channels.contains(channel)) {
        *users.entry(*user).or_default() += 1;
    }
    Ok((most(users, users_max), channels))
}

/// The ids that were counted most.
fn most(counts: BTreeMap<u64, usize>, max: usize) -> Vec<u64> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().take(max).map(|(id, _)| id).collect()
}

/// Lines on their way, some of which are told.
pub struct Told<R> {
    input: R,
    happenings: Arc<Happenings>,
    looked_at: Instant,
}

impl<R: BufRead> Told<R> {
    /// Tells `happenings` some of what is read.
    pub fn new(input: R, happenings: Arc<Happenings>) -> Self {
        Told {
            input,
            happenings,
            looked_at: Instant::now(),
        }
    }
}

impl<R: BufRead> Read for Told<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let filled = self.input.fill_buf()?;
        if self.looked_at.elapsed() > LOOK_INTERVAL {
            self.looked_at = Instant::now();
            // The first line is the end of one, except where it happens to begin here.
            let whole = filled.split(|byte| *byte == b'\n').nth(1);
            if let Some(event) = whole.and_then(|line| from_json::<Event>(line).ok()) {
                self.happenings.happens(&event);
            }
        }
        let length = filled.len().min(buffer.len());
        buffer[..length].copy_from_slice(&filled[..length]);
        self.input.consume(length);
        Ok(length)
    }
}
