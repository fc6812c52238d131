//! Records into a JetStream stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::counts::{Counts, Refusal};
use crate::model::ids::ChannelId;
use crate::source::jetstream::JetStreamSettings;
use crate::wire::partitioner::partition_of;

/// Records that are not acknowledged yet; above, the next one waits.
const IN_FLIGHT_MAX: u32 = 4096;
/// How long the stream may take to acknowledge one.
const ACK_TIMEOUT: Duration = Duration::from_secs(15);

/// Publishes without waiting for each record's acknowledgement.
pub(super) struct IntoJetStream {
    context: Context,
    settings: JetStreamSettings,
    partition_count: u32,
    in_flight: Arc<Semaphore>,
    counts: Arc<Counts>,
    runtime: Handle,
}

impl IntoJetStream {
    /// Into a stream with so many partitions. Must be called within a tokio runtime.
    pub fn new(settings: &JetStreamSettings, partition_count: u32, counts: Arc<Counts>) -> Self {
        let mut context = jetstream::new(settings.client.clone());
        context.set_timeout(ACK_TIMEOUT);
        IntoJetStream {
            context,
            settings: settings.clone(),
            partition_count,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize)),
            counts,
            runtime: Handle::current(),
        }
    }

    /// Sends a record, waiting where too many are under way. Not to be called on a thread of the runtime.
    pub fn send(&self, line: u64, channel: ChannelId, value: &[u8], is_stopped: &AtomicBool) {
        // The partition follows from the channel, which is in the value: the header `key` would only repeat it.
        let subject = self.settings.subject(partition_of(channel, self.partition_count));
        let value = Bytes::copy_from_slice(value);
        let bytes = value.len() as u64;
        let counts = self.counts.clone();
        let sent = self.runtime.block_on(async {
            let permit = self.in_flight.clone().acquire_owned().await;
            // Counted as sent, it will be told as not acknowledged.
            if is_stopped.load(Ordering::Relaxed) {
                return None;
            }
            Some((permit, self.context.publish(subject, value).await))
        });
        match sent {
            None => {}
            Some((permit, Ok(acknowledgement))) => {
                self.runtime.spawn(async move {
                    match acknowledgement.await {
                        Ok(_) => counts.acknowledged(bytes),
                        Err(error) => counts.refuse(Refusal::NotTaken, line, &error.to_string()),
                    }
                    drop(permit);
                });
            }
            Some((_, Err(error))) => counts.refuse(Refusal::NotTaken, line, &error.to_string()),
        }
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
