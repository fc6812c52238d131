//! Does what partitions want done, on the runtime, and brings the outcome back to their thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;

use super::retry::{Outage, pause};
use super::{DeadLetterSink, Message};
use crate::model::ids::{LogPosition, Offset, PartitionId};
use crate::partition::io::{Input, LoadKey, LoadToken, Write};
use crate::source::DeadLetter;
use crate::store::{Store, StoreError, StoredPosition, StreamIdentity};

/// Which ownership of a partition an effect is for; what outlives it stops trying.
#[derive(Clone)]
pub struct Origin {
    pub partition: PartitionId,
    pub assignment: u64,
    pub is_gone: Arc<AtomicBool>,
}

/// Does effects.
pub struct Runner<S, D> {
    pub store: S,
    pub dead_letters: D,
    pub runtime: tokio::runtime::Handle,
    pub inbox: Sender<Message>,
    pub stream: StreamIdentity,
    pub outage: Arc<Outage>,
}

impl<S: Store, D: DeadLetterSink> Runner<S, D> {
    /// Reads a row once, after a pause if that failed before.
    pub fn load(self: &Arc<Self>, origin: &Origin, token: LoadToken, key: LoadKey, attempt: u32) {
        let (runner, origin) = (Arc::clone(self), origin.clone());
        self.runtime.spawn(async move {
            if attempt > 0 {
                tokio::time::sleep(pause(attempt, token.0)).await;
            }
            if origin.is_gone.load(Ordering::Relaxed) {
                return;
            }
            let input = match runner.store.load(key).await {
                Ok(row) => {
                    runner.outage.succeeded();
                    Input::Loaded { token, row }
                }
                Err(error) => {
                    runner.outage.failed(&error);
                    Input::LoadFailed { token }
                }
            };
            origin.tell(&runner.inbox, input);
        });
    }

    /// Writes a row, trying for as long as the partition is owned.
    pub fn write(self: &Arc<Self>, origin: &Origin, write: Write) {
        let (runner, origin) = (Arc::clone(self), origin.clone());
        self.runtime.spawn(async move {
            let key = write.key();
            let is_done = origin
                .until_done(&runner.outage, || runner.store.write(&write))
                .await;
            if is_done {
                origin.tell(&runner.inbox, Input::Written(key));
            }
        });
    }

    /// Stores the durable position, trying for as long as the partition is owned.
    pub fn store_position(self: &Arc<Self>, origin: &Origin, durable: LogPosition) {
        let (runner, origin) = (Arc::clone(self), origin.clone());
        let position = StoredPosition {
            durable,
            stream: self.stream.clone(),
        };
        self.runtime.spawn(async move {
            let store_once = || runner.store.store_position(origin.partition, &position);
            if origin.until_done(&runner.outage, store_once).await {
                origin.tell(&runner.inbox, Input::PositionStored(durable));
            }
        });
    }

    /// Sends a dead letter, trying for as long as it takes: only then the stream goes on past it.
    pub fn send_dead_letter(self: &Arc<Self>, origin: &Origin, offset: Offset, letter: DeadLetter) {
        let (runner, origin) = (Arc::clone(self), origin.clone());
        self.runtime.spawn(async move {
            runner.dead_letters.send(letter).await;
            let _ = runner
                .inbox
                .send(Message::DeadLettered(origin.partition, origin.assignment, offset));
        });
    }
}

impl Origin {
    /// The thread may have ended; then nobody waits for the outcome.
    fn tell(&self, inbox: &Sender<Message>, input: Input) {
        let _ = inbox.send(Message::Done(self.partition, self.assignment, input));
    }

    /// Tries until it is done, or nobody needs it any more. Says whether it was done.
    async fn until_done<F>(&self, outage: &Outage, attempt: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let mut attempts = 0;
        while !self.is_gone.load(Ordering::Relaxed) {
            match attempt().await {
                Ok(()) => {
                    outage.succeeded();
                    return true;
                }
                Err(error) => outage.failed(&error),
            }
            attempts += 1;
            tokio::time::sleep(pause(attempts, u64::from(self.partition.0))).await;
        }
        false
    }
}
