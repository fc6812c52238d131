//! From lines to records.

use std::future::Future;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};

use super::counts::{Counts, Published, Refusal};
use crate::cli::Failed;
use crate::client::publish::{Pipeline, PublishError, Receipt, Receipts, Record, Tuning};
use crate::source::stream::StreamSettings;
use crate::wire::event_json::event_from_json;
use crate::wire::record::RecordLimits;

/// The longest line. JSON takes up to some four times the bytes of protobuf.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long the reader may take to notice that it is to stop. One that waits for input never does.
const STOP_READING_MAX: Duration = Duration::from_millis(500);
/// How long the stream has to acknowledge what was sent once this is to stop.
const STOP_FLUSHING_MAX: Duration = Duration::from_secs(10);

/// Publishes events, canonical JSON, one a line, and returns when all are acknowledged, or soon after `stop`. Creates the
/// stream where it is missing. The events of a channel keep their order; empty lines are skipped.
///
/// # Errors
/// Where the input can't be read or there is no stream. A refused line is no error: see [`Published`].
pub async fn publish(
    input: impl BufRead + Send + 'static,
    settings: &StreamSettings,
    limits: &RecordLimits,
    counts: &Arc<Counts>,
    stop: impl Future<Output = ()>,
) -> Result<Published, Failed> {
    tokio::pin!(stop);
    let receipts = Arc::new(Lines(counts.clone()));
    let pipeline = tokio::select! {
        pipeline = Pipeline::open(settings, *limits, Tuning::bulk(), receipts) => pipeline?,
        () = &mut stop => return Ok(counts.so_far()),
    };
    let feed = Arc::new(Feed {
        pipeline,
        counts: counts.clone(),
    });
    let reader = feed.clone();
    let mut reading = tokio::task::spawn_blocking(move || reader.run(input));
    let read = tokio::select! {
        read = &mut reading => Some(broken_off(read)),
        () = &mut stop => None,
    };
    let is_stopped = read.is_none();
    let read = match read {
        Some(read) => read,
        None => feed.stop_reading(&mut reading).await,
    };
    let flushed = feed.flush(is_stopped, stop).await;
    read.and(flushed).map_err(Failed::Broken)?;
    Ok(counts.so_far())
}

fn broken_off(result: Result<Result<(), String>, JoinError>) -> Result<(), String> {
    result.unwrap_or_else(|error| Err(format!("publishing broke off: {error}")))
}

/// Counts what becomes of lines, by their numbers.
struct Lines(Arc<Counts>);

impl Receipts for Lines {
    type Tag = usize;

    fn settled(&self, line: usize, receipt: Result<Receipt, PublishError>) {
        match receipt {
            Ok(receipt) => self.0.acknowledged(receipt.bytes),
            Err(error) => self.0.refuse(Refusal::NotTaken, line as u64, &error.to_string()),
        }
    }
}

struct Feed {
    pipeline: Pipeline<Lines>,
    counts: Arc<Counts>,
}

impl Feed {
    /// Reads and sends everything.
    fn run(&self, mut input: impl BufRead) -> Result<(), String> {
        let mut line = Vec::new();
        let mut value = Vec::new();
        for number in 1.. {
            if self.pipeline.is_stopped() {
                return Ok(());
            }
            line.clear();
            let unreadable = |error: io::Error| format!("can't read line {number}: {error}");
            let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            let mut read = read.map_err(unreadable)? as u64;
            if read == 0 {
                break;
            }
            let is_cut = read == LINE_BYTES_MAX && line.last() != Some(&b'\n');
            if is_cut {
                read += skip_line(&mut input).map_err(unreadable)?;
            }
            self.counts.read(read);
            if is_cut {
                let why = format!("it has {read} bytes, of at most {LINE_BYTES_MAX}");
                self.counts.refuse(Refusal::TooLong, number, &why);
                continue;
            }
            let event = line.trim_ascii();
            if event.is_empty() {
                continue;
            }
            match self.record(event, &mut value) {
                Ok(record) => {
                    self.counts.sent();
                    let tag = usize::try_from(number).unwrap_or(usize::MAX);
                    self.pipeline.send_blocking(record, tag);
                }
                Err((refusal, why)) => self.counts.refuse(refusal, number, &why),
            }
        }
        Ok(())
    }

    fn record<'a>(&self, json: &[u8], value: &'a mut Vec<u8>) -> Result<Record<'a>, (Refusal, String)> {
        // The line of the input is told with it, and each has but one.
        let event = event_from_json(json).map_err(|why| {
            (
                Refusal::Undecodable,
                why.replace(" at line 1 column ", " at column "),
            )
        })?;
        let record = self.pipeline.record(event, value);
        record.map_err(|error| (Refusal::Invalid, error.to_string()))
    }

    async fn stop_reading(&self, reading: &mut JoinHandle<Result<(), String>>) -> Result<(), String> {
        self.pipeline.stop();
        match tokio::time::timeout(STOP_READING_MAX, reading).await {
            Ok(read) => broken_off(read),
            Err(_) => Ok(()),
        }
    }

    /// Waits until everything is acknowledged or given up; once this is to stop, for a while only.
    async fn flush(&self, is_stopped: bool, stop: impl Future<Output = ()>) -> Result<(), String> {
        if !is_stopped {
            tokio::select! {
                flushed = self.pipeline.flush(None) => return flushed,
                () = stop => {}
            }
        }
        // What is not acknowledged then is told by the counts.
        let _ = self.pipeline.flush(Some(STOP_FLUSHING_MAX)).await;
        Ok(())
    }
}

/// Skips the rest of a line, and says how many bytes that was.
fn skip_line(input: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffer.len(), |end| end + 1);
        skipped += length as u64;
        input.consume(length);
        if end.is_some() {
            return Ok(skipped);
        }
    }
}
