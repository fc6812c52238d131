//! `publish`: events as JSON, one a line, into the stream.

mod counts;
mod feed;
mod progress;

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Seek};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use counts::{Counts, Published, Refusal, Refused};
pub use feed::publish;

use super::Failed;
use super::serve::signals;
use crate::client::StreamOptions;
use crate::config::Config;
use crate::wire::record::RecordLimits;

/// Bytes read at a time.
const INPUT_BUFFER_BYTES: usize = 1 << 20;
/// How often progress is shown on a terminal, where each line replaces the one before.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is elsewhere.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// Goes back to the beginning of the line and clears it.
const CLEAR_LINE: &str = "\r\x1b[K";

/// Runs the command on standard input, until its end or Ctrl-C; status 0 if every line that was read was published.
///
/// # Errors
/// Where the input can't be read or there is no stream.
pub async fn run(config: &Config, limits: &RecordLimits) -> Result<ExitCode, Failed> {
    let stream = StreamOptions::from(config).settings().await?;
    let started = Instant::now();
    let counts = Arc::new(Counts::default());
    let is_interrupted = AtomicBool::new(false);
    let stop = async {
        signals().await;
        is_interrupted.store(true, Ordering::Relaxed);
    };
    let input_bytes = input_bytes();
    let input = BufReader::with_capacity(INPUT_BUFFER_BYTES, io::stdin());
    let publishing = publish(input, &stream, limits, &counts, stop);
    let published = tokio::select! {
        published = publishing => published,
        () = show(&counts, input_bytes) => unreachable!("it is shown for as long as it takes"),
    };
    if io::stderr().is_terminal() {
        eprint!("{CLEAR_LINE}");
    }
    // What was published until then is told with an error as well.
    let so_far = counts.so_far();
    let is_interrupted = is_interrupted.load(Ordering::Relaxed);
    if published.is_ok() || so_far.lines > 0 {
        eprint!(
            "{}",
            progress::summary(&so_far, started.elapsed(), is_interrupted)
        );
    }
    let published = published?;
    let is_done = published.refused_count() == 0 && published.unacknowledged() == 0;
    Ok(ExitCode::from(u8::from(!is_done)))
}

async fn show(counts: &Counts, input_bytes: Option<u64>) {
    let is_terminal = io::stderr().is_terminal();
    let interval = if is_terminal {
        TERMINAL_INTERVAL
    } else {
        LOG_INTERVAL
    };
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    let mut last = (Instant::now(), 0);
    loop {
        ticks.tick().await;
        let published = counts.so_far();
        let events = published.acknowledged - last.1;
        let rate = events as f64 / last.0.elapsed().as_secs_f64().max(0.001);
        last = (Instant::now(), published.acknowledged);
        let line = progress::line(&published, input_bytes, rate);
        match is_terminal {
            true => eprint!("{CLEAR_LINE}{line}"),
            false => eprintln!("{line}"),
        }
    }
}

/// What is still to be read, where that is a file.
fn input_bytes() -> Option<u64> {
    let mut file = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let size = file.metadata().ok().filter(|it| it.is_file())?.len();
    Some(size.saturating_sub(file.stream_position().ok()?))
}
