//! Records into a JetStream stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::context::{PublishError as JetStreamError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::PublishError;
use super::pipeline::{Receipt, Receipts, Record, Tuning};
use crate::client::Position;
use crate::model::ids::{Offset, PartitionId};
use crate::source::jetstream::JetStreamSettings;

/// Records that are not acknowledged yet; above, the next one waits.
const IN_FLIGHT_MAX: u32 = 4096;
/// How long the stream may take to acknowledge one, where nobody says otherwise.
const ACK_TIMEOUT: Duration = Duration::from_secs(15);

/// Publishes without waiting for each record's acknowledgement. Nothing is sent again: that could turn the order round.
pub(super) struct IntoJetStream<R> {
    context: Context,
    settings: JetStreamSettings,
    in_flight: Arc<Semaphore>,
    receipts: Arc<R>,
    runtime: Handle,
}

impl<R: Receipts> IntoJetStream<R> {
    /// Must be called within a tokio runtime.
    pub fn new(settings: &JetStreamSettings, tuning: Tuning, receipts: Arc<R>) -> Self {
        let mut context = jetstream::new(settings.client.clone());
        context.set_timeout(tuning.acknowledged_within.unwrap_or(ACK_TIMEOUT));
        IntoJetStream {
            context,
            settings: settings.clone(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize)),
            receipts,
            runtime: Handle::current(),
        }
    }

    /// Sends a record, waiting where too many are under way.
    pub async fn send(
        &self,
        record: Record<'_>,
        partition: PartitionId,
        tag: R::Tag,
        is_stopped: &AtomicBool,
    ) -> Result<(), (PublishError, R::Tag)> {
        // The partition follows from the channel, which is in the value: the header `key` would only repeat it.
        let subject = self.settings.subject(partition);
        let value = Bytes::copy_from_slice(record.value);
        let bytes = value.len() as u64;
        let permit = self.in_flight.clone().acquire_owned().await;
        if is_stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        let acknowledgement = match self.context.publish(subject, value).await {
            Ok(acknowledgement) => acknowledgement,
            Err(error) => return Err((failed(&error), tag)),
        };
        let receipts = self.receipts.clone();
        self.runtime.spawn(async move {
            let receipt = acknowledgement.await;
            let receipt = receipt.map(|it| acknowledged(&it, partition, bytes));
            receipts.settled(tag, receipt.map_err(|error| failed(&error)));
            drop(permit);
        });
        Ok(())
    }

    /// The same on a thread that is none of the runtime's.
    pub fn send_blocking(
        &self,
        record: Record<'_>,
        partition: PartitionId,
        tag: R::Tag,
        is_stopped: &AtomicBool,
    ) -> Result<(), (PublishError, R::Tag)> {
        self.runtime
            .block_on(self.send(record, partition, tag, is_stopped))
    }

    /// Waits until everything is acknowledged or given up, at most for this time.
    pub async fn flush(&self, time: Option<Duration>) -> Result<(), String> {
        let all = self.in_flight.acquire_many(IN_FLIGHT_MAX);
        match tokio::time::timeout(time.unwrap_or(Duration::MAX), all).await {
            Ok(_) => Ok(()),
            Err(_) => Err("not everything that was sent is acknowledged".to_owned()),
        }
    }
}

fn acknowledged(acknowledgement: &PublishAck, partition: PartitionId, bytes: u64) -> Receipt {
    Receipt {
        position: Some(Position {
            partition,
            offset: Offset(acknowledgement.sequence),
        }),
        bytes,
    }
}

fn failed(error: &JetStreamError) -> PublishError {
    use PublishErrorKind as K;
    let text = error.to_string();
    match error.kind() {
        K::TimedOut | K::BrokenPipe => PublishError::Unacknowledged(text),
        K::StreamNotFound
        | K::WrongLastMessageId
        | K::WrongLastSequence
        | K::MaxAckPending
        | K::MaxPayloadExceeded
        | K::Other => PublishError::NotTaken(text),
    }
}
