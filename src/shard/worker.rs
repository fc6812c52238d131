//! A thread's loop: what came into the inbox first, then some records of each partition in turn, and questions before each of
//! these.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Select, unbounded};

use super::effects::Runner;
use super::owned::Owned;
use super::{Asked, DeadLetterSink, Inner, Message, Question, Report, ShardSettings, Thread, Totals};
use crate::memory;
use crate::model::ids::PartitionId;
use crate::partition::ReadStateCache;
use crate::partition::io::{Effect, Millis};
use crate::query::Unanswered;
use crate::store::Store;

/// How long a thread sleeps where nothing comes in, before it looks for what is due.
const TICK: Duration = Duration::from_millis(50);

/// Messages taken between two looks at the records.
const MESSAGES_AT_ONCE_MAX: usize = 1024;

/// Questions taken between two looks at the rest.
const QUESTIONS_AT_ONCE_MAX: usize = 256;

/// What comes to a thread.
pub struct Incoming {
    messages: Receiver<Message>,
    questions: Receiver<Question>,
}

/// The ways to a thread, and what comes out of them.
pub fn ways() -> (Thread, Incoming) {
    let (inbox, messages) = unbounded();
    let (to_questions, questions) = unbounded();
    let thread = Thread {
        inbox,
        questions: to_questions,
    };
    (thread, Incoming { messages, questions })
}

impl Incoming {
    /// Waits until something is there, or [`TICK`] has passed.
    fn wait(&self) {
        let mut either = Select::new();
        either.recv(&self.messages);
        either.recv(&self.questions);
        // Which of them it is does not matter.
        let _ = either.ready_timeout(TICK);
    }
}

/// What a thread needs.
pub struct Setup<S, D> {
    pub incoming: Incoming,
    pub runner: Arc<Runner<S, D>>,
    pub shards: Weak<Inner>,
    pub settings: ShardSettings,
}

/// Drives the partitions of one thread.
pub struct Worker<S, D> {
    incoming: Incoming,
    runner: Arc<Runner<S, D>>,
    shards: Weak<Inner>,
    settings: ShardSettings,
    /// What its partitions share.
    cache: ReadStateCache,
    owned: BTreeMap<PartitionId, Owned>,
    /// What partitions counted that were given up.
    retired: Totals,
    effects: Vec<Effect>,
    started: Instant,
}

/// Clocks of partitions start here, so that "long ago" can be told.
const START_MS: u64 = 24 * 3600 * 1000;

impl<S: Store, D: DeadLetterSink> Worker<S, D> {
    pub fn new(setup: Setup<S, D>) -> Self {
        let Setup {
            incoming,
            runner,
            shards,
            settings,
        } = setup;
        let read_states = settings.read_states.div_ceil(settings.threads);
        Worker {
            incoming,
            runner,
            shards,
            settings,
            cache: memory::in_huge_pages(|| ReadStateCache::new(read_states)),
            owned: BTreeMap::new(),
            retired: Totals::default(),
            effects: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Runs until every handle to the threads is dropped.
    pub fn run(mut self) {
        let _abort = AbortOnPanic;
        let mut has_more = false;
        while self.shards.strong_count() > 0 {
            if !has_more {
                self.incoming.wait();
            }
            self.take_messages();
            has_more = self.take_records();
        }
    }

    fn now(&self) -> Millis {
        Millis(START_MS + self.started.elapsed().as_millis() as u64)
    }

    fn take_messages(&mut self) {
        for _ in 0..MESSAGES_AT_ONCE_MAX {
            self.take_questions();
            let Ok(message) = self.incoming.messages.try_recv() else {
                break;
            };
            self.take_message(self.now(), message);
        }
    }

    /// Some of each partition in turn. Whether there were any.
    fn take_records(&mut self) -> bool {
        let (mut took_any, mut turn) = (false, PartitionId(0));
        while let Some((partition, took)) = self.take_turn(turn) {
            took_any |= took;
            turn = PartitionId(partition.0 + 1);
            self.take_questions();
        }
        took_any
    }

    /// Takes some records of the first partition from this one on. Which it was, and whether there were any.
    fn take_turn(&mut self, from: PartitionId) -> Option<(PartitionId, bool)> {
        let now = self.now();
        let (partition, owned) = self.owned.range_mut(from..).next()?;
        let took_any = owned.take_records(now, &mut self.effects, &self.runner);
        owned.settle(now, &mut self.effects, &self.runner);
        owned.run(&mut self.effects, &self.runner);
        tell(&self.shards, owned);
        Some((*partition, took_any))
    }

    fn take_questions(&mut self) {
        for _ in 0..QUESTIONS_AT_ONCE_MAX {
            let Ok(question) = self.incoming.questions.try_recv() else {
                break;
            };
            if let Err(question) = self.ask(question) {
                // It may have overtaken what assigns the partition. If not, the partition is given up. There is a
                // receiver: this thread.
                let _ = self.runner.thread.inbox.send(Message::Ask(question));
            }
        }
    }

    /// Asks the partition, if it is still the ownership that is meant.
    fn ask(&mut self, question: Question) -> Result<(), Question> {
        let now = self.now();
        let owned = self.owned.get_mut(&question.partition);
        let Some(owned) = owned.filter(|owned| owned.assignment() == question.assignment) else {
            return Err(question);
        };
        // Its rows come from the store.
        let needs_store = matches!(question.asked, Asked::Overview { .. });
        if needs_store && !owned.origin().witness.is_sure() {
            self.runner.ask_when_sure(owned.origin(), question);
        } else {
            owned.ask(now, question.asked, question.reply, &mut self.effects);
            owned.run(&mut self.effects, &self.runner);
        }
        Ok(())
    }

    fn take_message(&mut self, now: Millis, message: Message) {
        let effects = &mut self.effects;
        match message {
            Message::Assign(assign) => {
                let mut owned = Owned::new(&assign, &self.settings, self.cache.clone());
                tell(&self.shards, &mut owned);
                self.runner.keep_looking(owned.origin());
                if let Some(former) = self.owned.insert(assign.partition, owned) {
                    self.retired.add(&former.give_up());
                }
            }
            Message::Share(share) => self.owned.values_mut().for_each(|owned| owned.set_share(share)),
            Message::Records(batch) => {
                if let Some(owned) = self.owned_as(batch.partition, batch.assignment) {
                    owned.intake().push(batch.records);
                }
            }
            Message::CaughtUp(partition, assignment, next) => {
                if let Some(owned) = self.owned_as(partition, assignment) {
                    owned.caught_up(next);
                }
            }
            Message::EndSeen(partition, next) => {
                if let Some(owned) = self.owned.get_mut(&partition) {
                    owned.saw_end(now, next);
                }
            }
            Message::RecordsBeyond(partition, records) => {
                if let Some(owned) = self.owned.get_mut(&partition) {
                    owned.saw_records_beyond(records);
                }
            }
            Message::Drain(partition, assignment, done) => {
                let owned = self
                    .owned
                    .get_mut(&partition)
                    .filter(|owned| owned.assignment() == assignment);
                if let Some(owned) = owned {
                    owned.drain(now, done, effects);
                    owned.run(effects, &self.runner);
                }
            }
            Message::Forget(partition, assignment) => {
                if self.owned_as(partition, assignment).is_some() {
                    let given_up = self.owned.remove(&partition).map(Owned::give_up);
                    self.retired.add(&given_up.unwrap_or_default());
                }
            }
            Message::Ask(question) => {
                if let Err(question) = self.ask(question) {
                    // Who asked may have gone.
                    let _ = question.reply.send(Err(Unanswered::NotOwned));
                }
            }
            Message::Done(partition, assignment, inputs) => {
                let owned = self
                    .owned
                    .get_mut(&partition)
                    .filter(|owned| owned.assignment() == assignment);
                if let Some(owned) = owned {
                    for input in inputs {
                        owned.handle(now, input, effects);
                    }
                    owned.run(effects, &self.runner);
                }
            }
            Message::DeadLettered(partition, assignment, offset) => {
                let owned = self
                    .owned
                    .get_mut(&partition)
                    .filter(|owned| owned.assignment() == assignment);
                if let Some(owned) = owned {
                    owned.dead_lettered(now, offset, effects);
                    owned.run(effects, &self.runner);
                }
            }
            Message::Report(reply) => {
                let unix_ms = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_millis() as i64);
                let partitions = self
                    .owned
                    .values()
                    .map(|owned| owned.report(now, unix_ms))
                    .collect();
                let mut totals = self.retired.clone();
                self.owned.values().for_each(|owned| totals.add(&owned.totals()));
                // Who asked may have gone.
                let _ = reply.send(Report { partitions, totals });
            }
        }
    }

    /// The partition, if it is still the ownership that is meant.
    fn owned_as(&mut self, partition: PartitionId, assignment: u64) -> Option<&mut Owned> {
        self.owned
            .get_mut(&partition)
            .filter(|owned| owned.assignment() == assignment)
    }
}

/// Ends the process where this thread panics: its partitions must move to other instances rather than stand still, and
/// whatever is not in the store yet is replayed there.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "a thread that owns partitions broke an invariant, which is a bug in readstates; ending"
            );
            std::process::abort();
        }
    }
}

/// Tells the others where a partition stands, if that changed since they were told.
fn tell(shards: &Weak<Inner>, owned: &mut Owned) {
    let Some(news) = owned.take_news() else {
        return;
    };
    let Some(shards) = shards.upgrade() else { return };
    let partition = owned.partition_id();
    let mut all_owned = shards.owned();
    let Some(ownership) = all_owned
        .get_mut(&partition)
        .filter(|it| it.assignment == owned.assignment())
    else {
        return;
    };
    ownership.durable = news.durable;
    ownership.stuck_at = news.stuck_at;
    // Under the lock: once it is given up, nobody calls it live.
    shards.live.send_if_modified(|live| match news.is_live {
        true => live.insert(partition),
        false => live.remove(&partition),
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
