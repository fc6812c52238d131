//! Records that can't be used, put aside in a JetStream stream of their own.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode};
use bytes::Bytes;

use super::JetStreamSettings;
use crate::shard::DeadLetterSink;
use crate::source::DeadLetter;
use crate::source::letter_log::LetterLog;
use crate::wire::headers;

/// The first pause between two attempts; doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// What the headers begin with that tell the server what to do with a message, such as to drop it if its
/// `Nats-Msg-Id` is known, or to refuse it in another stream.
const SERVER_PREFIX: &str = "Nats-";
/// Put before these, so that they do nothing to the dead letter.
const ESCAPE: &str = "readstates-source-";

/// The way to the dead-letter stream.
pub struct DeadLetters {
    context: Context,
    stream: String,
    log: LetterLog,
}

impl DeadLetters {
    /// Sends nothing yet.
    pub fn new(settings: &JetStreamSettings) -> Self {
        let stream = settings.dead_letter_stream();
        DeadLetters {
            context: settings.context(),
            log: LetterLog::new(&settings.stream, &stream),
            stream,
        }
    }

    /// Returns when the letter is in the dead-letter stream, acknowledged, however long that takes.
    ///
    /// A value that is too large is cut, since the stream must go on; the letter says so.
    pub async fn send(&self, letter: DeadLetter) {
        self.log.put_aside(&letter);
        let value = letter.record.value.clone().unwrap_or_default();
        let mut kept = value.clone();
        let mut pause = RETRY_MIN;
        loop {
            let is_cut = kept.len() < value.len();
            let Err(error) = self.attempt(&letter, kept.clone(), is_cut).await else {
                return self.log.delivered();
            };
            if is_too_large(&error) && !kept.is_empty() {
                kept.truncate(kept.len() / 2);
                continue;
            }
            self.log.failed(&letter, &error);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
            kept = value.clone();
        }
    }

    async fn attempt(&self, letter: &DeadLetter, value: Bytes, is_cut: bool) -> Result<(), PublishError> {
        let subject = format!("{}.{}", self.stream, letter.partition);
        let headers = letter_headers(letter, is_cut);
        let sent = self.context.publish_with_headers(subject, headers, value);
        sent.await?.await.map(drop)
    }
}

impl DeadLetterSink for Arc<DeadLetters> {
    async fn send(&self, letter: DeadLetter) {
        DeadLetters::send(self, letter).await;
    }
}

fn is_too_large(error: &PublishError) -> bool {
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return true;
    }
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<jetstream::Error>());
    cause.is_some_and(|cause| cause.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
}

/// The record's own headers, then ours.
fn letter_headers(letter: &DeadLetter, is_cut: bool) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, value) in &letter.record.headers {
        let value = String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
        match name.starts_with(SERVER_PREFIX) {
            true => all.append(format!("{ESCAPE}{name}"), value),
            false => all.append(name.as_str(), value),
        }
    }
    all.insert(headers::DEAD_LETTER_REASON, letter.reason);
    all.insert(
        headers::DEAD_LETTER_SOURCE_PARTITION,
        letter.partition.to_string(),
    );
    all.insert(
        headers::DEAD_LETTER_SOURCE_OFFSET,
        letter.record.offset.to_string(),
    );
    if is_cut {
        all.insert(headers::DEAD_LETTER_TRUNCATED, "true");
    }
    all
}
