//! What is asked of the stream.

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind};

use std::time::Duration;

use super::JetStreamSettings;
use crate::model::ids::PartitionId;

/// Records asked for at once, which may wait in this process: far below the capacity of the subscription.
pub(super) const FETCHED_RECORDS_MAX: usize = 512;
/// How long such a request holds.
const FETCH_EXPIRES: Duration = Duration::from_secs(30);
/// The server shows in this interval that it still has the request; it is missed after twice that.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A consumer that nobody asks is deleted after this.
const INACTIVE_MAX: Duration = Duration::from_secs(60);

/// Asks the server about one stream.
#[derive(Clone)]
pub(super) struct Api {
    context: Context,
    settings: JetStreamSettings,
}

/// Where a stream begins and ends, and which it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Tells it from other streams of its name.
    pub stream_id: String,
    /// The first sequence that is there.
    pub start: u64,
    /// The one that comes next.
    pub end: u64,
}

impl Api {
    pub fn new(settings: &JetStreamSettings) -> Self {
        Api {
            context: settings.context(),
            settings: settings.clone(),
        }
    }

    /// The stream's bounds. None if there is no such stream.
    pub async fn bounds(&self) -> Result<Option<Bounds>, String> {
        let found = self.context.get_stream(&self.settings.stream).await;
        match found {
            Ok(stream) => Ok(Some(bounds(stream.cached_info()))),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(cause) if cause.code() == 404 => Ok(None),
                _ => Err(error.to_string()),
            },
        }
    }

    /// The sequence of a partition's last record.
    pub async fn last(&self, partition: PartitionId) -> Result<Option<u64>, String> {
        let stream = self.context.get_stream_no_info(&self.settings.stream).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let subject = self.settings.subject(partition);
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => Ok(Some(message.sequence)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The records of a partition from this sequence on, and how many there are now.
    pub async fn records(&self, partition: PartitionId, from: u64) -> Result<(pull::Stream, u64), String> {
        let consumer = self.consumer(partition, from).await?;
        let pending = consumer.cached_info().num_pending;
        let records = consumer
            .stream()
            .max_messages_per_batch(FETCHED_RECORDS_MAX)
            .expires(FETCH_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| error.to_string())?;
        Ok((records, pending))
    }

    /// How many records a partition has from this sequence on.
    pub async fn pending(&self, partition: PartitionId, from: u64) -> Result<u64, String> {
        let consumer = self.consumer(partition, from).await?;
        let info = consumer.cached_info();
        let stream = self.context.get_stream_no_info(&self.settings.stream).await;
        let stream = stream.map_err(|error| error.to_string())?;
        if let Err(error) = stream.delete_consumer(&info.name).await {
            tracing::debug!(%error, "a consumer is left to go by itself");
        }
        Ok(info.num_pending)
    }

    /// One that begins at this sequence.
    async fn consumer(&self, partition: PartitionId, from: u64) -> Result<PullConsumer, String> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from.max(1),
            },
            ack_policy: AckPolicy::None,
            filter_subject: self.settings.subject(partition),
            inactive_threshold: INACTIVE_MAX,
            memory_storage: true,
            num_replicas: 1,
            description: Some("readstates".to_owned()),
            ..Default::default()
        };
        self.context
            .create_consumer_on_stream(config, &self.settings.stream)
            .await
            .map_err(|error| error.to_string())
    }
}

pub(super) fn bounds(info: &Info) -> Bounds {
    Bounds {
        stream_id: format!("{}/{}", info.config.name, info.created.unix_timestamp_nanos()),
        // One that was never written to begins at 0.
        start: info.state.first_sequence.max(1),
        end: info.state.last_sequence + 1,
    }
}
