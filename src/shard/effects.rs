//! Does what partitions want done, on the runtime, and brings the outcome back to their thread.

use std::future::ready;
use std::sync::Arc;
use std::time::Instant;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::confirmation::Confirmation;
use super::retry::{StoreHealth, load_after_backoff, store_position_until_done, write_until_done};
use super::rollback::{Guarded, LOOK_INTERVAL, Witness};
use super::{DeadLetterSink, Message, Question, Thread};
use crate::model::ids::{LogPosition, Offset, PartitionId};
use crate::partition::io::{Failure, Input, LoadKey, LoadToken, Reply, Write};
use crate::source::DeadLetter;
use crate::store::{Session, Store, StoreError, StoredPosition, StreamIdentity};

/// Which ownership of a partition an effect is for.
#[derive(Clone)]
pub struct Origin {
    pub partition: PartitionId,
    pub assignment: u64,
    /// Who writes its rows.
    pub session: Session,
    /// Closed when the partition is given up: what outlives it stops trying.
    pub gone: watch::Receiver<()>,
    /// Looks whether the store is as new as it was.
    pub witness: Arc<Witness>,
}

/// A row to be read.
pub struct Load {
    /// Comes back.
    pub token: LoadToken,
    pub key: LoadKey,
    /// How often this has failed before.
    pub attempt: u32,
}

/// Rows that one task reads or writes, and outcomes that one message brings back.
pub const ROWS_TOGETHER_MAX: usize = 64;

/// Does effects.
pub struct Runner<S, D> {
    pub store: S,
    pub dead_letters: D,
    pub runtime: tokio::runtime::Handle,
    pub thread: Thread,
    pub stream: StreamIdentity,
    pub store_health: Arc<StoreHealth>,
    pub confirmation: Arc<Confirmation>,
}

impl<S: Store, D: DeadLetterSink> Runner<S, D> {
    /// Reads rows, each once, after a pause if that failed before.
    pub fn load(self: &Arc<Self>, origin: &Origin, loads: Vec<Load>) {
        for loads in in_parts(loads) {
            let store = self.store_of(origin);
            let outcomes = loads.into_iter().map(|Load { token, key, attempt }| {
                let (runner, store) = (Arc::clone(self), store.clone());
                async move {
                    match load_after_backoff(&store, &runner.store_health, key, attempt).await {
                        Ok(row) => Some(Input::Loaded { token, row }),
                        Err(_) => Some(Input::LoadFailed { token }),
                    }
                }
            });
            self.bring_all_back(origin, outcomes.collect());
        }
    }

    /// Writes rows, each for as long as it takes and the partition is owned.
    pub fn write(self: &Arc<Self>, origin: &Origin, writes: Vec<Write>) {
        for writes in in_parts(writes) {
            let store = self.store_of(origin);
            let outcomes = writes.into_iter().map(|write| {
                let (runner, store) = (Arc::clone(self), store.clone());
                async move {
                    let written = write_until_done(&store, &runner.store_health, &write).await;
                    written
                        .inspect_err(log_unwritable)
                        .ok()
                        .map(|()| Input::Written(write.key()))
                }
            });
            self.bring_all_back(origin, outcomes.collect());
        }
    }

    /// Stores the durable position, trying for as long as the partition is owned, and only while that is certain: a
    /// position that was stored is one that no later owner may be behind of.
    pub fn store_position(self: &Arc<Self>, origin: &Origin, durable: LogPosition) {
        let (runner, store, partition) = (Arc::clone(self), self.store_of(origin), origin.partition);
        self.bring_back(origin, async move {
            let position = StoredPosition {
                durable,
                stream: runner.stream.clone(),
            };
            runner.confirmation.certain_since(Instant::now()).await;
            let stored = store_position_until_done(&store, &runner.store_health, partition, &position).await;
            stored
                .inspect_err(log_unwritable)
                .ok()
                .map(|()| Input::PositionStored(durable))
        });
    }

    /// Looks at the stored position now and then, for as long as the partition is owned.
    pub fn keep_looking(self: &Arc<Self>, origin: &Origin) {
        let (runner, witness) = (Arc::clone(self), Arc::clone(&origin.witness));
        self.bring_back(origin, async move {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                let looked = witness.look(&runner.store).await;
                runner.store_health.saw(&looked);
                if let Err(StoreError::RolledBack(_) | StoreError::Broken(_)) = looked {
                    return None;
                }
            }
        });
    }

    /// Has a partition asked what takes a store that is as new as it was, once that is sure.
    pub fn ask_when_sure(self: &Arc<Self>, origin: &Origin, question: Question) {
        let (runner, origin) = (Arc::clone(self), origin.clone());
        self.runtime.spawn(async move {
            let sure = origin.witness.make_sure(&runner.store).await;
            runner.store_health.saw(&sure);
            // Neither the asker nor the thread need be there any more.
            if sure.is_ok() {
                let _ = runner.thread.questions.send(question);
            } else {
                let _ = question
                    .reply
                    .send(Ok(Reply::Answers(vec![Err(Failure::StoreUnavailable)])));
            }
        });
    }

    fn store_of(&self, origin: &Origin) -> Guarded<S> {
        Guarded::new(
            self.store.for_session(&origin.session),
            Arc::clone(&origin.witness),
        )
    }

    /// Sends a dead letter, trying for as long as the partition is owned: only then the stream goes on past it.
    pub fn send_dead_letter(self: &Arc<Self>, origin: &Origin, offset: Offset, letter: DeadLetter) {
        let (runner, origin) = (Arc::clone(self), origin.clone());
        self.runtime.spawn(async move {
            let Origin {
                partition,
                assignment,
                mut gone,
                ..
            } = origin;
            tokio::select! {
                () = runner.dead_letters.send(letter) => {
                    // The thread may have ended; then nobody waits for it.
                    let _ = runner.thread.inbox.send(Message::DeadLettered(partition, assignment, offset));
                }
                _ = gone.changed() => {}
            }
        });
    }

    /// Does something on the runtime, and brings what came of it back to the partition's thread.
    fn bring_back(
        self: &Arc<Self>,
        origin: &Origin,
        outcome: impl Future<Output = Option<Input>> + Send + 'static,
    ) {
        self.bring_all_back(origin, FuturesUnordered::from_iter([outcome]));
    }

    /// The same for several things at once. What came of them comes back as it comes, and together what comes together.
    fn bring_all_back(
        self: &Arc<Self>,
        origin: &Origin,
        outcomes: FuturesUnordered<impl Future<Output = Option<Input>> + Send + 'static>,
    ) {
        let Origin {
            partition,
            assignment,
            mut gone,
            ..
        } = origin.clone();
        let inbox = self.thread.inbox.clone();
        let mut outcomes = outcomes.filter_map(ready).ready_chunks(ROWS_TOGETHER_MAX);
        self.runtime.spawn(async move {
            loop {
                tokio::select! {
                    outcomes = outcomes.next() => {
                        let Some(outcomes) = outcomes else { return };
                        // The thread may have ended; then nobody waits for it.
                        let _ = inbox.send(Message::Done(partition, assignment, outcomes));
                    }
                    _ = gone.changed() => return,
                }
            }
        });
    }
}

/// What one task does, in the order in which it came.
fn in_parts<T>(mut all: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let rest = all.split_off(all.len().min(ROWS_TOGETHER_MAX));
        let part = std::mem::replace(&mut all, rest);
        (!part.is_empty()).then_some(part)
    })
}

/// Such a row stays unwritten, and the durable position does not pass it. That nothing may be written is said once,
/// when the process ends.
fn log_unwritable(error: &StoreError) {
    if !matches!(error, StoreError::RolledBack(_) | StoreError::Broken(_)) {
        tracing::error!("{error}");
    }
}
