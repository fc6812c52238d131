//! Where the stream and each of its partitions end, asked for every second.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;

use super::api::{Api, Bounds};
use crate::model::ids::{Offset, PartitionId};
use crate::source::Owners;

/// How often ends are asked for.
const INTERVAL: Duration = Duration::from_secs(1);
/// Questions under way at once.
const ASKED_MAX: usize = 16;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Counts the rounds.
    pub round: u64,
    /// Of the stream; none where there is no stream any more, or before the first round.
    pub bounds: Option<Bounds>,
    /// The last sequence of each partition, asked for after the bounds: a record that comes later has a sequence that is
    /// beyond their end. None of a partition without records; nothing of one whose question failed.
    pub lasts: Vec<Option<Option<u64>>>,
}

/// Asks.
pub(super) struct Ends<O> {
    pub api: Api,
    pub partition_count: u32,
    pub owners: O,
    pub tell: watch::Sender<Arc<Found>>,
}

impl<O: Owners + Sync> Ends<O> {
    /// Asks until it is aborted.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut known_end = 0;
        for round in 1.. {
            ticks.tick().await;
            let bounds = match self.api.bounds().await {
                Ok(bounds) => bounds,
                Err(error) => {
                    tracing::debug!(error, "can't ask for the end of the stream");
                    continue;
                }
            };
            let end = bounds.as_ref().map_or(0, |bounds| bounds.end);
            // Where nothing was published since, the partitions end where they did.
            let former = self.tell.borrow().clone();
            let lasts = match end == known_end && former.lasts.iter().all(Option::is_some) {
                true => former.lasts.clone(),
                false => self.lasts().await,
            };
            known_end = end;
            for (number, last) in (0..).zip(&lasts) {
                if let Some(Some(last)) = last {
                    self.owners.end_seen(PartitionId(number), Offset(last + 1));
                }
            }
            self.tell.send_replace(Arc::new(Found { round, bounds, lasts }));
        }
    }

    async fn lasts(&self) -> Vec<Option<Option<u64>>> {
        let asking = (0..self.partition_count).map(|number| {
            let api = self.api.clone();
            async move { api.last(PartitionId(number)).await.ok() }
        });
        futures::stream::iter(asking).buffered(ASKED_MAX).collect().await
    }
}
