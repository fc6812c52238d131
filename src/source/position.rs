//! Where reading a partition begins: its stored position, compared with the log.

use std::fmt;
use std::time::Duration;

use crate::model::ids::{LogPosition, PartitionId};
use crate::store::{Store, StoreError, StoredPosition, StreamIdentity};

/// The first pause between two attempts; doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Why a stored position does not fit the log. Reading on could lose or double events, so nothing is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The position belongs to another stream.
    OtherStream {
        /// As stored.
        stored: String,
        /// As found.
        found: String,
    },
    /// The number of partitions changed, so channels may have moved to other partitions.
    PartitionCount {
        /// As stored, or as it was when the process started.
        stored: u32,
        /// As found.
        found: u32,
    },
    /// The position is in a later epoch than the configured one.
    EpochBack {
        /// As stored.
        stored: u32,
        /// `stream.epoch`.
        configured: u32,
    },
    /// The log ends before the position.
    BeyondEnd {
        /// The offset that would come next.
        next: u64,
        /// The log's end.
        end: u64,
    },
    /// The log begins after the position: records are gone that were never applied.
    BeforeStart {
        /// The offset that would come next.
        next: u64,
        /// The log's start.
        start: u64,
    },
    /// The stored position can't be used.
    Unusable(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REPLACED: &str = "if the stream was replaced on purpose, raise stream.epoch by one";
        match self {
            Refusal::OtherStream { stored, found } => write!(
                f,
                "the store belongs to the stream {stored:?}, and this is {found:?}: correct stream.kafka.brokers and \
                 stream.kafka.topic; {REPLACED}"
            ),
            Refusal::PartitionCount { stored, found } => write!(
                f,
                "the stream had {stored} partitions and has {found}, which moves channels between partitions: go \
                 back to {stored}, or make a new stream as the contract says and raise stream.epoch by one"
            ),
            Refusal::EpochBack { stored, configured } => write!(
                f,
                "the store is at stream.epoch {stored} already, and {configured} is configured: set stream.epoch to \
                 {stored}"
            ),
            Refusal::BeyondEnd { next, end } => write!(
                f,
                "the store has applied everything below offset {next}, and the log ends at {end}: the topic was made \
                 anew or lost records. {REPLACED}; otherwise restore the topic, or a backup of the store that is as \
                 old as the topic"
            ),
            Refusal::BeforeStart { next, start } => write!(
                f,
                "offset {next} comes next, and the log begins at {start}: the records between were deleted before \
                 they were applied. Remove the topic's time and size limits (retention.ms=-1, retention.bytes=-1) \
                 and restore the records, or rebuild on a new stream with stream.epoch raised by one"
            ),
            Refusal::Unusable(what) => write!(f, "the stored position can't be used: {what}"),
        }
    }
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Everything up to here is in the store.
    pub durable: LogPosition,
    /// The offset to read first.
    pub next: u64,
    /// The log's end.
    pub end: u64,
}

/// Decides where to begin, from what the store has and where the log starts and ends.
pub(super) fn decide(
    stream: &StreamIdentity,
    stored: Option<&StoredPosition>,
    (start, end): (u64, u64),
) -> Result<Start, Refusal> {
    let begin = Start {
        durable: LogPosition::start(stream.epoch),
        next: start,
        end,
    };
    let Some(stored) = stored else {
        return Ok(begin);
    };
    let stored_epoch = stored.stream.epoch.max(stored.durable.epoch());
    if stored_epoch > stream.epoch {
        return Err(Refusal::EpochBack {
            stored: stored_epoch,
            configured: stream.epoch,
        });
    }
    if stored_epoch < stream.epoch {
        return Ok(begin);
    }
    if stored.stream.stream_id != stream.stream_id {
        return Err(Refusal::OtherStream {
            stored: stored.stream.stream_id.clone(),
            found: stream.stream_id.clone(),
        });
    }
    if stored.stream.partition_count != stream.partition_count {
        return Err(Refusal::PartitionCount {
            stored: stored.stream.partition_count,
            found: stream.partition_count,
        });
    }
    // The start of an epoch is a position as well: that of a partition that had nothing to read yet.
    let Some(durable) = stored.durable.offset() else {
        return Ok(begin);
    };
    let next = durable.0 + 1;
    check(next, (start, end))?;
    Ok(Start {
        durable: stored.durable,
        next,
        end,
    })
}

/// Whether reading can begin at `next`.
pub(super) fn check(next: u64, (start, end): (u64, u64)) -> Result<(), Refusal> {
    if next > end {
        Err(Refusal::BeyondEnd { next, end })
    } else if next < start {
        Err(Refusal::BeforeStart { next, start })
    } else {
        Ok(())
    }
}

/// Asks the store, for as long as it takes, for the position of a partition.
pub(super) async fn stored<S: Store>(
    store: &S,
    stream: &str,
    partition: PartitionId,
) -> Result<Option<StoredPosition>, Refusal> {
    let mut backoff = Backoff::default();
    loop {
        match store.load_position(partition).await {
            Ok(stored) => {
                if backoff.waited() {
                    tracing::info!(stream, %partition, "the store answers again");
                }
                return Ok(stored);
            }
            Err(StoreError::Unusable(what) | StoreError::RolledBack(what) | StoreError::Broken(what)) => {
                return Err(Refusal::Unusable(what));
            }
            Err(error @ StoreError::Unavailable(_)) => {
                if !backoff.waited() {
                    tracing::warn!(stream, %partition, %error,
                        "can't load the position: the partition waits for the store");
                }
                backoff.wait().await;
            }
        }
    }
}

/// Pauses between attempts.
#[derive(Default)]
pub(super) struct Backoff {
    next: Option<Duration>,
}

impl Backoff {
    /// Whether an attempt has failed.
    pub fn waited(&self) -> bool {
        self.next.is_some()
    }

    /// Waits longer each time.
    pub async fn wait(&mut self) {
        let pause = self.next.unwrap_or(RETRY_MIN);
        self.next = Some((pause * 2).min(RETRY_MAX));
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Offset;

    fn stream(id: &str, partition_count: u32, epoch: u32) -> StreamIdentity {
        StreamIdentity {
            stream_id: id.into(),
            partition_count,
            epoch,
        }
    }

    fn stored(stream: StreamIdentity, offset: u64) -> Option<StoredPosition> {
        Some(StoredPosition {
            durable: LogPosition::new(stream.epoch, Offset(offset)),
            stream,
        })
    }

    /// Stream `a` with 4 partitions in epoch 1, whose log goes from 10 to 20.
    fn begin(stored: Option<StoredPosition>) -> Result<u64, Refusal> {
        decide(&stream("a", 4, 1), stored.as_ref(), (10, 20)).map(|start| start.next)
    }

    #[test]
    fn a_position_is_taken_where_it_fits_and_refused_where_it_does_not() {
        assert_eq!(begin(None), Ok(10));
        assert_eq!(begin(stored(stream("a", 4, 1), 14)), Ok(15));
        assert_eq!(
            begin(stored(stream("a", 4, 1), 9)),
            Ok(10),
            "just before the start"
        );
        assert_eq!(begin(stored(stream("a", 4, 1), 19)), Ok(20), "at the end");
        assert_eq!(
            begin(stored(stream("b", 7, 0), 99)),
            Ok(10),
            "an older epoch says nothing about this stream"
        );

        assert_eq!(
            begin(stored(stream("a", 4, 1), 20)),
            Err(Refusal::BeyondEnd { next: 21, end: 20 })
        );
        assert_eq!(
            begin(stored(stream("a", 4, 1), 8)),
            Err(Refusal::BeforeStart { next: 9, start: 10 })
        );
        assert_eq!(
            begin(stored(stream("a", 5, 1), 14)),
            Err(Refusal::PartitionCount { stored: 5, found: 4 })
        );
        assert_eq!(
            begin(stored(stream("a", 4, 2), 14)),
            Err(Refusal::EpochBack {
                stored: 2,
                configured: 1
            })
        );
        assert!(matches!(
            begin(stored(stream("b", 4, 1), 14)),
            Err(Refusal::OtherStream { .. })
        ));
    }

    #[test]
    fn a_partition_without_records_keeps_the_identity_of_its_stream() {
        let durable = LogPosition::start(1);
        let of = |id: &str| {
            Some(StoredPosition {
                durable,
                stream: stream(id, 4, 1),
            })
        };
        assert_eq!(begin(of("a")), Ok(10));
        assert!(matches!(begin(of("b")), Err(Refusal::OtherStream { .. })));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for refusal in [
            Refusal::OtherStream {
                stored: "a".into(),
                found: "b".into(),
            },
            Refusal::PartitionCount { stored: 1, found: 2 },
            Refusal::EpochBack {
                stored: 2,
                configured: 1,
            },
            Refusal::BeyondEnd { next: 2, end: 1 },
            Refusal::BeforeStart { next: 1, start: 2 },
        ] {
            assert!(refusal.to_string().contains("stream.epoch"), "{refusal}");
        }
    }
}
