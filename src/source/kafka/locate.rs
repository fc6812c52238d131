//! Where reading a partition begins: its stored position, compared with the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::context::FetcherContext;
use crate::model::ids::{LogPosition, Offset, PartitionId};
use crate::source::position::{Backoff, Refusal, Start, check, decide, stored};
use crate::store::{Store, StreamIdentity};

/// How long one question to the broker may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the store and the broker, for as long as it takes, where reading a partition begins.
pub(super) struct Locator<S> {
    pub store: S,
    pub fetcher: Arc<BaseConsumer<FetcherContext>>,
    pub topic: Arc<str>,
    pub stream: StreamIdentity,
}

impl<S: Store> Locator<S> {
    /// Where a partition that was just assigned begins. `loaded_at`: when the store had told the position.
    pub async fn locate(
        &self,
        partition: PartitionId,
        loaded_at: &mut Option<Instant>,
    ) -> Result<Start, Refusal> {
        if partition.0 >= self.stream.partition_count {
            return Err(Refusal::PartitionCount {
                stored: self.stream.partition_count,
                found: partition.0 + 1,
            });
        }
        let stored = stored(&self.store, &self.topic, partition).await?;
        *loaded_at = Some(Instant::now());
        decide(&self.stream, stored.as_ref(), self.bounds(partition).await)
    }

    /// Whether a partition that was running can go on at `next`.
    pub async fn check(&self, partition: PartitionId, next: u64) -> Result<Start, Refusal> {
        let bounds = self.bounds(partition).await;
        check(next, bounds)?;
        Ok(Start {
            durable: LogPosition::start(self.stream.epoch),
            next,
            end: bounds.1,
        })
    }

    /// The log's first offset and the one after its last.
    async fn bounds(&self, partition: PartitionId) -> (u64, u64) {
        let mut backoff = Backoff::default();
        loop {
            match ask_bounds(&self.fetcher, &self.topic, partition).await {
                Ok(bounds) => return bounds,
                Err(error) => {
                    if !backoff.waited() {
                        tracing::warn!(topic = &*self.topic, %partition, error,
                            "can't learn where the log starts and ends: the partition waits for Kafka");
                    }
                    backoff.wait().await;
                }
            }
        }
    }
}

/// Asks the broker once for the log's first offset and the one after its last.
pub(super) async fn ask_bounds(
    fetcher: &Arc<BaseConsumer<FetcherContext>>,
    topic: &Arc<str>,
    partition: PartitionId,
) -> Result<(u64, u64), String> {
    let (fetcher, topic) = (fetcher.clone(), topic.clone());
    let number = i32::try_from(partition.0).map_err(|_| format!("no partition {partition}"))?;
    let asked =
        tokio::task::spawn_blocking(move || fetcher.fetch_watermarks(&topic, number, ASK_TIMEOUT)).await;
    match asked {
        Ok(Ok((start, end))) => match (u64::try_from(start), u64::try_from(end)) {
            (Ok(start), Ok(end)) => Ok((start, end)),
            _ => Err(format!("the broker says that it goes from {start} to {end}")),
        },
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// A log position as the offset that comes after it, where it has one.
pub(super) fn offset_after(position: LogPosition) -> Option<Offset> {
    position.offset().map(|offset| Offset(offset.0 + 1))
}
