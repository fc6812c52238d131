//! Why there is no stream, or none any more.

use super::position::Refusal;
use crate::model::ids::{LogPosition, PartitionId};

/// What the stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// How many partitions it has.
    pub partition_count: u32,
    /// Tells it from other streams: the cluster's id and the topic's name, or the stream's name and when it was created.
    pub stream_id: String,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The server can't be reached: trying again can help.
    #[error("{0}")]
    Unreachable(String),
    /// Something has to be changed first.
    #[error("{0}")]
    Misconfigured(String),
}

/// Why the process can't go on like this. The partitions that aren't named go on until it ends.
#[derive(Debug, thiserror::Error)]
pub enum SourceFailure {
    /// A stored position does not fit the log.
    #[error("topic {topic:?}, partition {partition} is refused: {refusal}")]
    Refused {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// The same of a JetStream stream, in words.
    #[error("{0}")]
    Misfit(String),
    /// A batch of records is damaged.
    #[error(
        "topic {topic:?} has records that can't be read ({error}), and they are not skipped: check the broker's log \
         and disk, then start again"
    )]
    Unreadable {
        /// The topic.
        topic: String,
        /// What librdkafka says.
        error: String,
    },
    /// A partition does not move although its log does, and taking it anew did not help.
    #[error(
        "topic {topic:?}, partition {partition} is stuck after record {applied} although its log goes on, also after it \
         was read again from the stored position: ending, so that another instance takes it. If that one ends like \
         this too, look at this record and at what the log says of this partition"
    )]
    Stuck {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// The last record applied.
        applied: LogPosition,
    },
    /// The brokers do not let us read, and never did.
    #[error("{0}")]
    Forbidden(String),
    /// librdkafka gave up.
    #[error("{0}")]
    Fatal(String),
}
