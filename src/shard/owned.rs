//! One owned partition on its thread: its state machine, its records, and who waits for its answers.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::{oneshot, watch};

use super::effects::{Load, Origin, Runner};
use super::intake::{Intake, Next};
use super::progress::{Found, Progress, STUCK_AFTER};
use super::taken::Taken;
use super::{Asked, Assign, DeadLetterSink, PartitionReport, ShardSettings, Totals};
use crate::model::event::Event;
use crate::model::ids::{LogPosition, Offset, PartitionId};
use crate::partition::io::{Effect, Get, Input, Millis, Overview, Reply, RequestId};
use crate::partition::{Partition, Phase, ReadStateCache, Share};
use crate::query::{Status, Unanswered};
use crate::store::{Session, Store};

/// Records taken between two looks at the inbox.
const RECORDS_AT_ONCE_MAX: usize = 64;

/// A reply leaves this much before the asker's time runs out.
const REPLY_MARGIN: Duration = Duration::from_millis(5);

/// Who waits for an answer.
pub type Waiting = oneshot::Sender<Result<Reply, Unanswered>>;

/// One owned partition.
pub struct Owned {
    partition: Partition,
    origin: Origin,
    /// Dropped with the partition, which ends what goes on for it.
    _owned: watch::Sender<()>,
    intake: Intake,
    /// Taken from there, and applied at once.
    events: Vec<(Offset, Event)>,
    /// Taken once all records before it are.
    pending_end: Option<Offset>,
    /// The offset that comes next at the end of the log, as last seen.
    end_seen: Option<Offset>,
    /// Records of the log that were not handed over yet, where offsets don't tell.
    records_beyond: Option<u64>,
    /// What was taken, where offsets don't tell how much that is.
    taken: Option<Taken>,
    /// Since when the end of the log has been ahead.
    behind_since: Option<Millis>,
    waiting: HashMap<RequestId, Waiting>,
    last_request: u64,
    drained: Option<oneshot::Sender<LogPosition>>,
    progress: Progress,
    /// What [`Owned::take_news`] gave last.
    told: Option<News>,
}

/// What others want to know of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    pub is_live: bool,
    pub durable: LogPosition,
    /// What is applied, where it is stuck there.
    pub stuck_at: Option<LogPosition>,
}

impl Owned {
    pub fn new(assign: &Assign, settings: &ShardSettings, cache: ReadStateCache) -> Self {
        let Assign {
            partition: id,
            assignment,
            durable,
            live_at,
            queued,
            share,
            witness,
        } = assign;
        let (_owned, gone) = watch::channel(());
        let partition = Partition::new(settings.partition, *share, cache, *assignment, *durable, *live_at);
        Owned {
            partition,
            _owned,
            origin: Origin {
                partition: *id,
                assignment: *assignment,
                session: Session::new(*id),
                gone,
                witness: Arc::clone(witness),
            },
            intake: Intake::new(
                *id,
                settings.stream.partition_count,
                settings.is_key_optional,
                settings.records,
                Arc::clone(queued),
            ),
            events: Vec::with_capacity(RECORDS_AT_ONCE_MAX),
            pending_end: None,
            end_seen: Some(*live_at),
            records_beyond: None,
            // It is JetStream that has both.
            taken: settings.is_key_optional.then(Taken::default),
            behind_since: None,
            waiting: HashMap::new(),
            last_request: 0,
            drained: None,
            progress: Progress::new(settings.stuck_after),
            told: None,
        }
    }

    pub fn partition_id(&self) -> PartitionId {
        self.origin.partition
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn assignment(&self) -> u64 {
        self.origin.assignment
    }

    /// How it stands, if that is not what was taken the last time. It changes by records as well as by what comes back
    /// from the store and the dead letters.
    pub fn take_news(&mut self) -> Option<News> {
        let is_live = match self.partition.phase() {
            Phase::CatchingUp => false,
            Phase::Live => true,
            // Until it is forgotten nobody else answers.
            Phase::Draining | Phase::Drained => self.told.is_some_and(|told| told.is_live),
        };
        let news = Some(News {
            is_live,
            durable: self.partition.stored(),
            stuck_at: self.progress.is_stuck().then(|| self.partition.applied()),
        });
        (std::mem::replace(&mut self.told, news) != news)
            .then_some(news)
            .flatten()
    }

    pub fn set_share(&mut self, share: Share) {
        self.partition.set_share(share);
    }

    pub fn intake(&mut self) -> &mut Intake {
        &mut self.intake
    }

    pub fn handle(&mut self, now: Millis, input: Input, effects: &mut Vec<Effect>) {
        self.partition.handle(now, input, effects);
    }

    pub fn caught_up(&mut self, next: Offset) {
        self.pending_end = self.pending_end.max(Some(next));
        self.end_seen = self.end_seen.max(Some(next));
    }

    pub fn saw_end(&mut self, now: Millis, next: Offset) {
        self.progress.end_told(now);
        self.end_seen = self.end_seen.max(Some(next));
    }

    pub fn saw_records_beyond(&mut self, records: u64) {
        self.records_beyond = Some(records);
    }

    /// Takes some of the records that wait, as long as the partition wants them. Whether there were any.
    pub fn take_records<S: Store, D: DeadLetterSink>(
        &mut self,
        now: Millis,
        effects: &mut Vec<Effect>,
        runner: &Arc<Runner<S, D>>,
    ) -> bool {
        if self.drained.is_some() || self.partition.is_congested() {
            return false;
        }
        let mut unusable = None;
        while self.events.len() < RECORDS_AT_ONCE_MAX {
            match self.intake.next() {
                Next::Event(offset, event) => self.events.push((offset, event)),
                Next::Unusable(offset, letter) => {
                    unusable = Some((offset, letter));
                    break;
                }
                Next::Nothing => break,
            }
        }
        let took_any = !self.events.is_empty() || unusable.is_some();
        self.partition
            .prefetch(self.events.iter().map(|(_, event)| event));
        for (offset, event) in self.events.drain(..) {
            if let Some(taken) = &mut self.taken {
                taken.add(offset);
            }
            let event = Some(event);
            self.partition
                .handle(now, Input::Record { offset, event }, effects);
        }
        if let Some((offset, letter)) = unusable {
            runner.send_dead_letter(&self.origin, offset, *letter);
        }
        let is_at_end = self.intake.len() == 0 && !self.intake.is_sending();
        if let Some(next) = self.pending_end.take_if(|_| is_at_end) {
            self.partition.handle(now, Input::CaughtUp { next }, effects);
        }
        took_any
    }

    /// The dead letter at this offset is safe: the stream goes on past it.
    pub fn dead_lettered(&mut self, now: Millis, offset: Offset, effects: &mut Vec<Effect>) {
        if self.intake.dead_lettered(offset) {
            if let Some(taken) = &mut self.taken {
                taken.add(offset);
            }
            self.partition
                .handle(now, Input::Record { offset, event: None }, effects);
        }
    }

    pub fn ask(&mut self, now: Millis, asked: Asked, reply: Waiting, effects: &mut Vec<Effect>) {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.waiting.insert(request, reply);
        let deadline =
            |timeout: Duration| Millis(now.0 + timeout.saturating_sub(REPLY_MARGIN).as_millis() as u64);
        let input = match asked {
            Asked::Get {
                keys,
                after,
                explain,
                timeout,
            } => Input::Get(Get {
                request,
                keys,
                after,
                explain,
                deadline: deadline(timeout),
            }),
            Asked::Stamp => Input::TakeStamp(request),
            Asked::Overview { rows, timeout } => Input::Overview(Overview {
                request,
                user: rows.user,
                stamp: rows.stamp,
                rows: rows.rows,
                above: rows.above,
                up_to: rows.up_to,
                deadline: deadline(timeout),
            }),
        };
        self.partition.handle(now, input, effects);
    }

    pub fn drain(&mut self, now: Millis, done: oneshot::Sender<LogPosition>, effects: &mut Vec<Effect>) {
        self.intake.clear();
        self.pending_end = None;
        self.drained = Some(done);
        self.partition.handle(now, Input::Drain, effects);
    }

    /// Whether something may be due although nothing came in.
    pub fn settle<S: Store, D: DeadLetterSink>(
        &mut self,
        now: Millis,
        effects: &mut Vec<Effect>,
        runner: &Runner<S, D>,
    ) {
        self.partition.handle(now, Input::Tick, effects);
        self.partition.settle(now, effects);
        let durable = self.partition.stored().offset();
        if let (Some(taken), Some(durable)) = (&mut self.taken, durable) {
            taken.durable(durable);
        }
        let is_behind = self.end_seen.is_some_and(|end| end > self.next());
        self.behind_since = if is_behind {
            self.behind_since.or(Some(now))
        } else {
            None
        };
        if self.progress.is_due(now) {
            self.watch_progress(now, runner);
        }
    }

    fn watch_progress<S: Store, D: DeadLetterSink>(&mut self, now: Millis, runner: &Runner<S, D>) {
        let standing = self.partition.standing();
        let is_giving_up = self.partition.phase() >= Phase::Draining;
        let applied_next = standing.applied.offset().map_or(0, |last| last.0 + 1);
        let is_behind = !is_giving_up && self.end_seen.is_some_and(|end| end.0 > applied_next);
        let (partition, intake) = (&self.partition, &self.intake);
        let is_excused =
            || runner.store_health.is_failing() || partition.has_failed_loads() || intake.is_sending();
        let stream = &runner.stream.stream_id;
        match self.progress.look(now, &standing, is_behind, is_excused) {
            Found::Nothing => {}
            Found::Stuck => tracing::error!(
                stream,
                partition = %self.origin.partition,
                assignment = self.origin.assignment,
                applied = %standing.applied,
                taken = %self.partition.position(),
                end = %self.end_seen.unwrap_or_default(),
                queued_records = self.intake.len(),
                waiting_records = standing.waiting_records,
                dirty_entries = standing.dirty,
                congested = self.partition.is_congested(),
                "stuck: nothing was applied for {} s although the log goes on; it is read again from the stored position",
                STUCK_AFTER.as_secs()
            ),
            Found::MovesAgain => tracing::info!(
                stream, partition = %self.origin.partition, applied = %standing.applied, "moves again"
            ),
        }
    }

    /// Does what the partition wants done.
    pub fn run<S: Store, D: DeadLetterSink>(
        &mut self,
        effects: &mut Vec<Effect>,
        runner: &Arc<Runner<S, D>>,
    ) {
        let (mut loads, mut writes) = (Vec::new(), Vec::new());
        for effect in effects.drain(..) {
            match effect {
                Effect::Load { token, key, attempt } => loads.push(Load { token, key, attempt }),
                Effect::Write(write) => writes.push(write),
                Effect::StorePosition(position) => runner.store_position(&self.origin, position),
                Effect::Reply { request, reply } => {
                    if let Some(waiting) = self.waiting.remove(&request) {
                        // Who asked may have gone.
                        let _ = waiting.send(Ok(reply));
                    }
                }
                Effect::Drained => {
                    if let Some(done) = self.drained.take() {
                        let _ = done.send(self.partition.stored());
                    }
                }
            }
        }
        runner.load(&self.origin, loads);
        runner.write(&self.origin, writes);
    }

    /// The partition is given up: nothing that is under way for it goes on trying.
    pub fn give_up(mut self) -> Totals {
        self.intake.clear();
        self.totals()
    }

    /// What was counted since the partition was assigned.
    pub fn totals(&self) -> Totals {
        Totals {
            counters: self.partition.counters().clone(),
            dead_letters: self.intake.dead_letters,
        }
    }

    /// The offset that comes next.
    fn next(&self) -> Offset {
        self.partition
            .position()
            .offset()
            .map_or(Offset(0), |last| Offset(last.0 + 1))
    }

    pub fn report(&self, now: Millis, unix_ms: i64) -> PartitionReport {
        let standing = self.partition.standing();
        let next = standing.applied.offset().map_or(0, |last| last.0 + 1);
        // Records that were taken are newer than what was last said of the end.
        let end = self.end_seen.max(Some(self.next())).map_or(0, |end| end.0);
        let oldest_ms = self
            .intake
            .oldest_timestamp_ms()
            .or(match standing.waiting_records {
                0 => None,
                _ => self.intake.last_timestamp_ms,
            });
        let lag_ms = match oldest_ms {
            Some(oldest) => (unix_ms - oldest).max(0) as u64,
            None => self.behind_since.map_or(0, |since| now.0 - since.0),
        };
        let age_seconds = |since: Millis| (now.0.saturating_sub(since.0)) as f64 / 1000.0;
        let status = Status {
            partition: self.origin.partition,
            applied: standing.applied.offset(),
            durable: standing.durable.offset(),
            end: end.checked_sub(1).map(Offset),
            applied_lag_seconds: lag_ms as f64 / 1000.0,
            oldest_dirty_seconds: standing.oldest_change_at.map_or(0.0, age_seconds),
            read_states_cached: standing.read_states_cached as u64,
            channels_cached: standing.channels_cached as u64,
            channel_bytes_cached: standing.channel_bytes_cached as u64,
            dirty_entries: standing.dirty as u64,
            applied_lag_records: match self.records_beyond {
                None => end.saturating_sub(next),
                Some(beyond) => beyond + (self.intake.len() + standing.waiting_records) as u64,
            },
            durable_lag_records: self.taken.as_ref().map(|taken| {
                let untaken = self.records_beyond.unwrap_or_default() + self.intake.len() as u64;
                taken.beyond_durable() + untaken
            }),
            phase: match self.partition.phase() {
                Phase::CatchingUp | Phase::Live if self.progress.is_stuck() => "stuck",
                Phase::CatchingUp => "catching-up",
                Phase::Live => "live",
                Phase::Draining | Phase::Drained => "draining",
            },
            committed: None,
            events: self.partition.counters().events,
        };
        let paused = match (self.intake.is_sending(), self.partition.is_congested()) {
            (true, _) => Some("dead_letters"),
            (_, true) => Some("store"),
            _ => None,
        };
        PartitionReport { status, paused }
    }
}
