//! The thread that polls: what it does in turn, and what becomes of a partition.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::context::{FetcherContext, GroupEvent, MemberContext};
use super::fetches::FetchQueue;
use super::handover::{Commits, Handover};
use super::lifecycle::{self, Action, Event, Phase};
use super::locate::Locator;
use super::membership::Membership;
use super::owned::Owned;
use super::timings::{Assignment, list};
use super::{SourceFailure, SourceStats};
use crate::model::ids::{Offset, PartitionId};
use crate::source::position::{Refusal, Start};
use crate::source::{Owners, Stuck};
use crate::store::Store;

/// How often the group is asked for news.
const GROUP_INTERVAL: Duration = Duration::from_millis(10);
/// News of the group that are taken at once.
const GROUP_POLLS_MAX: u32 = 16;
/// How often librdkafka is made to look whether a heartbeat is due.
const HEARTBEAT_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// How often durable offsets are committed and ends are asked for.
const PERIODIC_INTERVAL: Duration = Duration::from_secs(1);
/// How long an owner may take to write everything.
pub(super) const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// A partition's position was compared with the log.
pub(super) struct Located {
    partition: PartitionId,
    assignment: u64,
    /// When the store had told the position.
    loaded_at: Option<Instant>,
    result: Result<Start, Refusal>,
}

/// The thread's state.
pub(super) struct Reader<O, S> {
    pub topic: Arc<str>,
    pub owners: O,
    pub locator: Arc<Locator<S>>,
    pub fetcher: Arc<BaseConsumer<FetcherContext>>,
    pub member: Arc<BaseConsumer<MemberContext>>,
    pub group: Receiver<GroupEvent>,
    /// Something comes when everything is to be drained; disconnected when nobody waits for that.
    pub stop: Receiver<()>,
    pub located: Receiver<Located>,
    pub tell_located: Sender<Located>,
    pub runtime: Handle,
    pub failures: mpsc::Sender<SourceFailure>,
    pub stats: Arc<SourceStats>,
    pub next_assignment: u64,
    /// By number.
    pub partitions: Vec<Option<Box<Owned>>>,
    pub handovers: Vec<Handover>,
    pub commits: Commits,
    pub membership: Membership,
    /// Those whose partitions are not all read yet.
    pub assignments: Vec<Assignment>,
    pub stopping: bool,
    pub asking_ends: Option<JoinHandle<()>>,
    /// How often ends were asked for.
    pub end_rounds: u32,
}

impl<O: Owners, S: Store> Reader<O, S> {
    /// Polls until it is told to stop.
    pub fn run(mut self, mut fetches: FetchQueue) {
        let mut group_due = Instant::now();
        let mut heartbeat_due = group_due;
        let mut periodic_due = Instant::now() + PERIODIC_INTERVAL;
        while self.serve_stop() {
            while let Ok(located) = self.located.try_recv() {
                self.located(located);
            }
            let now = Instant::now();
            if now >= group_due {
                group_due = now + GROUP_INTERVAL;
                self.serve_group(now);
                self.prove_membership(now);
            }
            if now >= heartbeat_due {
                heartbeat_due = now + HEARTBEAT_CHECK_INTERVAL;
                self.check_heartbeat();
            }
            if now >= periodic_due {
                periodic_due = now + PERIODIC_INTERVAL;
                self.commit_durable();
                self.serve_stuck();
                self.ask_ends();
            }
            self.serve_owners(now);
            self.serve_handovers(now);
            self.serve_assignments(now);
            if self.stopping && self.handovers.is_empty() {
                break;
            }
            self.read(&mut fetches);
        }
        self.member.context().close();
        self.await_commits();
        // Dropping the member leaves the group, which is told at once that nothing is kept.
        drop(self.member);
    }

    /// Applies an event to a partition and does what follows.
    pub fn apply(&mut self, partition: PartitionId, event: Event) {
        let Some(owned) = self.owned(partition) else {
            return;
        };
        let before = owned.phase;
        let (phase, actions) = lifecycle::next(before, event);
        owned.phase = phase;
        self.stats.moved(before, phase);
        for action in actions {
            self.act(partition, *action);
        }
        if phase == Phase::Gone {
            self.partitions[partition.0 as usize] = None;
        }
    }

    fn act(&mut self, partition: PartitionId, action: Action) {
        let Some(owned) = self
            .partitions
            .get_mut(partition.0 as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        match action {
            Action::Assign => {
                if let Some(start) = owned.start {
                    self.owners
                        .assign(partition, owned.assignment, start.durable, Offset(start.end));
                    self.owners.end_seen(partition, Offset(start.end));
                }
            }
            Action::Report => {
                if let Some(refusal) = owned.refusal.take() {
                    self.fail(SourceFailure::Refused {
                        topic: self.topic.to_string(),
                        partition,
                        refusal,
                    });
                }
            }
            Action::Fetch => {
                owned.fetching = true;
                let next = owned.next;
                self.fetch_from(partition, next);
            }
            Action::Pause => {
                owned.flush(&self.owners, Instant::now());
                self.fetch_no_more(partition);
            }
            Action::Halt => {
                owned.discard();
                self.fetch_no_more(partition);
            }
            Action::Renew => {
                self.next_assignment += 1;
                owned.renew(self.next_assignment);
            }
            Action::Locate => self.locate(partition),
            Action::Cancel => {
                if let Some(task) = owned.locating.take() {
                    task.abort();
                }
                self.owners.assigning(partition, false);
            }
            Action::Drain => {
                owned.drain_deadline = Some(Instant::now() + DRAIN_DEADLINE);
                owned.draining = Some(self.owners.drain(partition, owned.assignment));
            }
            Action::Overdue => {
                tracing::warn!(topic = &*self.topic, %partition, deadline_s = DRAIN_DEADLINE.as_secs(),
                    "not everything was written before the partition is given up: its next owner applies those \
                     records again");
            }
            Action::Forget => self.owners.forget(partition, owned.assignment),
        }
    }

    /// A partition that is ours.
    pub fn owned(&mut self, partition: PartitionId) -> Option<&mut Owned> {
        self.partitions.get_mut(partition.0 as usize)?.as_deref_mut()
    }

    /// All partitions that are ours.
    pub fn all(&self) -> impl Iterator<Item = &Owned> {
        self.partitions.iter().flatten().map(|owned| &**owned)
    }

    /// Those of them that are so.
    pub fn those(&self, is_so: impl Fn(&Owned) -> bool) -> Vec<PartitionId> {
        self.all()
            .filter(|owned| is_so(owned))
            .map(|owned| owned.partition)
            .collect()
    }

    /// False where the thread is to end at once.
    fn serve_stop(&mut self) -> bool {
        match self.stop.try_recv() {
            Ok(()) => self.stop(),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return self.stopping,
        }
        true
    }

    fn serve_group(&mut self, now: Instant) {
        for _ in 0..GROUP_POLLS_MAX {
            match self.member.poll(Duration::ZERO) {
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => self.fail(SourceFailure::Fatal(
                    format!("the group {:?}: {code}", self.commits.group),
                )),
                Some(Err(KafkaError::MessageConsumption(code))) => self.group_trouble(code),
                _ => {}
            }
        }
        while let Ok(event) = self.group.try_recv() {
            match event {
                GroupEvent::Assigned(partitions) => self.assigned(&partitions),
                GroupEvent::Revoked { partitions, lost } => self.revoked(partitions, lost, now),
                GroupEvent::Committed(committed) => self.committed(committed, now),
                GroupEvent::Looked(looked) => self.looked(&looked, now),
            }
        }
    }

    /// librdkafka's thread looks whether a heartbeat is due when something wakes it, which may be no more than once a
    /// second: so much later members would hear of a rebalance. Any question that this thread answers wakes it.
    fn check_heartbeat(&self) {
        if let Err(error) = self.member.subscription() {
            tracing::debug!(%error, "librdkafka does not tell its subscription");
        }
    }

    /// Later on the broker may let us in again, and meanwhile what is owned is answered for.
    fn group_trouble(&self, code: RDKafkaErrorCode) {
        if code != RDKafkaErrorCode::GroupAuthorizationFailed {
            return;
        }
        if self.stats.assigned.load(Ordering::Relaxed) > 0 {
            let log = &self.member.context().log;
            log.forbidden("Kafka does not let us be in the group any more", code);
        } else {
            self.fail(SourceFailure::Forbidden(format!(
                "Kafka does not let us join the group {:?} ({code}): allow our user to read it, or correct \
                 stream.kafka.group",
                self.commits.group
            )));
        }
    }

    fn assigned(&mut self, partitions: &[PartitionId]) {
        if self.stopping || partitions.is_empty() {
            return;
        }
        tracing::debug!(
            topic = &*self.topic,
            partitions = list(partitions),
            "the group gives partitions"
        );
        self.stats.rebalanced(&self.stats.assigned);
        let mut assignment = Assignment::new();
        for partition in partitions {
            let index = partition.0 as usize;
            if self.partitions.len() <= index {
                self.partitions.resize_with(index + 1, || None);
            }
            self.next_assignment += 1;
            self.partitions[index] = Some(Box::new(Owned::new(*partition, self.next_assignment)));
            assignment.add(*partition, self.next_assignment);
            self.locate(*partition);
        }
        self.assignments.push(assignment);
    }

    fn revoked(&mut self, partitions: Vec<PartitionId>, lost: bool, now: Instant) {
        tracing::debug!(
            topic = &*self.topic,
            partitions = list(&partitions),
            lost,
            "the group takes partitions"
        );
        if lost {
            self.stats.rebalanced(&self.stats.lost);
            self.membership.lost();
            self.owners.confirmed(None);
            tracing::warn!(
                topic = &*self.topic,
                partitions = list(&partitions),
                "lost: the group has given these to others, since it had heard nothing of this member for the time of its \
                 session (session.timeout.ms); what was not written is applied there"
            );
            for partition in partitions {
                self.apply(partition, Event::Lost);
            }
        } else {
            self.stats.rebalanced(&self.stats.revoked);
            self.handovers.push(Handover::to_group(partitions, now));
        }
    }

    fn stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        let partitions = self.those(|_| true);
        tracing::debug!(
            topic = &*self.topic,
            partitions = list(&partitions),
            "draining before the end"
        );
        for partition in &partitions {
            self.apply(*partition, Event::Revoked);
        }
        self.handovers.push(Handover::at_end(partitions));
    }

    /// Takes anew what is stuck, and ends the process where that did not help.
    fn serve_stuck(&mut self) {
        for Stuck {
            partition,
            assignment,
            applied,
        } in self.owners.stuck()
        {
            let is_it = |owned: &&mut Owned| owned.assignment == assignment;
            let Some(owned) = self.owned(partition).filter(is_it) else {
                continue;
            };
            if owned.was_stuck_at.is_none_or(|at| at < applied) {
                owned.was_stuck_at = Some(applied);
                self.apply(partition, Event::Stuck);
            } else if owned.phase != Phase::Stopped {
                self.apply(partition, Event::Hopeless);
                self.fail(SourceFailure::Stuck {
                    topic: self.topic.to_string(),
                    partition,
                    applied,
                });
            }
        }
    }

    /// Compares the position of a partition with the log, at the beginning with that of the store.
    fn locate(&mut self, partition: PartitionId) {
        let (locator, tell) = (self.locator.clone(), self.tell_located.clone());
        let Some(owned) = self.partitions[partition.0 as usize].as_mut() else {
            return;
        };
        let (assignment, next, first) = (owned.assignment, owned.next, owned.phase == Phase::Locating);
        if first {
            self.owners.assigning(partition, true);
        }
        let task = self.runtime.spawn(async move {
            let mut loaded_at = None;
            let result = if first {
                locator.locate(partition, &mut loaded_at).await
            } else {
                locator.check(partition, next).await
            };
            // Nobody waits for it where the thread has ended.
            let _ = tell.send(Located {
                partition,
                assignment,
                loaded_at,
                result,
            });
        });
        owned.locating = Some(task.abort_handle());
    }

    fn located(
        &mut self,
        Located {
            partition,
            assignment,
            loaded_at,
            result,
        }: Located,
    ) {
        for open in &mut self.assignments {
            open.located(assignment, loaded_at);
        }
        let Some(owned) = self
            .owned(partition)
            .filter(|owned| owned.assignment == assignment)
        else {
            return;
        };
        match result {
            Ok(start) => {
                owned.next = start.next;
                owned.start.get_or_insert(start);
                self.stats.saw_broker(Ok(()));
                self.apply(partition, Event::Located);
            }
            Err(refusal) => {
                owned.refusal = Some(refusal);
                self.apply(partition, Event::Misfit);
            }
        }
    }

    /// Says that the process can't go on like this. The first failure ends it and is in its log; what follows from it, such
    /// as the same for other partitions, would only hide it there.
    pub fn fail(&self, failure: SourceFailure) {
        tracing::debug!("{failure}");
        let _ = self.failures.try_send(failure);
    }

    /// Offers again what was refused, and looks who is drained.
    fn serve_owners(&mut self, now: Instant) {
        for index in 0..self.partitions.len() {
            let Some(owned) = self.partitions[index].as_mut() else {
                continue;
            };
            if owned.is_holding() {
                owned.offer_held(&self.owners, now);
            }
            let event = match owned.phase {
                Phase::Running if owned.is_stalled(now) => Some(Event::Stalled),
                Phase::Paused if owned.is_accepted() => Some(Event::Accepted),
                Phase::Draining => super::handover::drain_event(owned, now),
                _ => None,
            };
            let partition = owned.partition;
            if let Some(event) = event {
                if event == Event::Stalled {
                    tracing::info!(topic = &*self.topic, %partition, "paused: its owner takes no more for now");
                }
                self.apply(partition, event);
            }
        }
    }
}
