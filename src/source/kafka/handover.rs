//! Giving partitions back, and committing what is durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tokio::sync::oneshot::error::TryRecvError;

use super::KafkaSettings;
use super::context::{Committed, Looked, give_back};
use super::lifecycle::{Event, Phase};
use super::locate::offset_after;
use super::owned::Owned;
use super::reader::Reader;
use super::timings::GivingBack;
use crate::model::ids::{LogPosition, PartitionId};
use crate::source::{Confirmed, Owners};
use crate::store::Store;

/// How long to wait for the answer to the last commit. It only serves lag tools: the store has the positions.
const COMMIT_WAIT: Duration = Duration::from_secs(2);
/// How often to look whether it has come.
const COMMIT_POLL: Duration = Duration::from_millis(2);

/// A member joins a second time once another has given partitions back, and librdkafka lets a second pass between two
/// joins that a heartbeat brings about. Given back earlier, they would have no owner for the rest of that second.
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(1000);
/// How long before that draining begins: until then their records are taken. Mostly it takes less.
const DRAIN_AHEAD: Duration = Duration::from_millis(400);

/// Partitions that are given back together, which is when all of them are drained.
pub(super) struct Handover {
    partitions: Vec<PartitionId>,
    /// The group waits for it; otherwise the process ends.
    for_group: bool,
    /// When draining begins, and before which time nothing is given back. Nothing once it has begun, or passed.
    drain_at: Option<Instant>,
    give_back_at: Option<Instant>,
    commit: Commit,
    timings: GivingBack,
}

enum Commit {
    NotSent,
    Sent {
        offsets: Vec<(PartitionId, u64)>,
        at: Instant,
    },
    Answered,
}

impl Handover {
    /// Of partitions that the group wants back.
    pub fn to_group(partitions: Vec<PartitionId>, now: Instant) -> Self {
        Handover {
            partitions,
            for_group: true,
            drain_at: Some(now + GIVE_BACK_PAUSE - DRAIN_AHEAD),
            give_back_at: Some(now + GIVE_BACK_PAUSE),
            commit: Commit::NotSent,
            timings: GivingBack::new(),
        }
    }

    /// Of the partitions of a process that ends: their drain has begun.
    pub fn at_end(partitions: Vec<PartitionId>) -> Self {
        Handover {
            partitions,
            for_group: false,
            drain_at: None,
            give_back_at: None,
            commit: Commit::NotSent,
            timings: GivingBack::new(),
        }
    }
}

/// What was committed to the group.
pub(super) struct Commits {
    pub group: String,
    /// `stream.epoch`: positions of an earlier one are no offsets of this stream.
    pub epoch: u32,
    /// The offset that comes next, as last asked for.
    pub asked: BTreeMap<PartitionId, u64>,
    /// Those that were not sent yet: one commit after the other, so that an older one can't come last.
    waiting: BTreeMap<PartitionId, u64>,
    /// One was sent and not answered.
    in_flight: bool,
    /// The last commit failed.
    failing: bool,
}

impl Commits {
    pub fn new(settings: &KafkaSettings) -> Self {
        Commits {
            group: settings.group.clone(),
            epoch: settings.epoch,
            asked: BTreeMap::new(),
            waiting: BTreeMap::new(),
            in_flight: false,
            failing: false,
        }
    }
}

/// What happened to a partition that is draining, if anything.
pub(super) fn drain_event(owned: &mut Owned, now: Instant) -> Option<Event> {
    let answer = owned.draining.as_mut().map(|draining| draining.try_recv());
    match answer {
        Some(Ok(durable)) => {
            owned.drained = Some(durable);
            Some(Event::Drained)
        }
        Some(Err(TryRecvError::Empty)) => owned
            .drain_deadline
            .is_some_and(|deadline| now >= deadline)
            .then_some(Event::DeadlinePassed),
        Some(Err(TryRecvError::Closed)) | None => Some(Event::Drained),
    }
}

impl<O: Owners, S: Store> Reader<O, S> {
    /// Goes on with whatever is being given back.
    pub fn serve_handovers(&mut self, now: Instant) {
        let mut open = Vec::new();
        for mut handover in std::mem::take(&mut self.handovers) {
            if self.go_on(&mut handover, now) {
                self.hand_over(&handover);
            } else {
                open.push(handover);
            }
        }
        self.handovers.append(&mut open);
    }

    /// True when nothing is left to wait for.
    fn go_on(&mut self, handover: &mut Handover, now: Instant) -> bool {
        let is_time = |at: &mut Instant| now >= *at || self.stopping;
        if handover.drain_at.take_if(is_time).is_some() {
            for partition in &handover.partitions {
                self.apply(*partition, Event::Revoked);
            }
        }
        if handover.drain_at.is_some() {
            return false;
        }
        let draining = handover.partitions.iter().any(|partition| {
            self.owned(*partition)
                .is_some_and(|owned| owned.phase == Phase::Draining)
        });
        if draining {
            return false;
        }
        handover.timings.drained(now);
        match &handover.commit {
            Commit::NotSent => {
                let offsets = self.last_offsets(&handover.partitions);
                if offsets.is_empty() {
                    handover.commit = Commit::Answered;
                } else {
                    self.commit(&offsets);
                    handover.commit = Commit::Sent { offsets, at: now };
                }
                return false;
            }
            Commit::Sent { at, .. } if now.duration_since(*at) < COMMIT_WAIT => return false,
            Commit::Sent { .. } | Commit::Answered => {}
        }
        handover.timings.committed(now);
        handover.give_back_at.is_none_or(|at| now >= at || self.stopping)
    }

    /// Nobody answers here any more before somebody else can own them.
    fn hand_over(&mut self, handover: &Handover) {
        for partition in &handover.partitions {
            self.commits.asked.remove(partition);
            self.commits.waiting.remove(partition);
            self.stats.set_committed(*partition, None);
            self.apply(*partition, Event::HandedOver);
        }
        if handover.for_group {
            give_back(&self.member);
        }
        handover.timings.log(&self.topic, &handover.partitions);
    }

    /// What is durable of drained partitions, as the offset that comes next. Where the deadline has passed before
    /// the owner told, it is what was durable by then.
    fn last_offsets(&mut self, partitions: &[PartitionId]) -> Vec<(PartitionId, u64)> {
        let durable: BTreeMap<PartitionId, LogPosition> = self.owners.durable().into_iter().collect();
        let epoch = self.commits.epoch;
        partitions
            .iter()
            .filter_map(|partition| {
                let owned = self.owned(*partition)?;
                let assigned = owned.phase == Phase::Drained { assigned: true };
                let position = owned.drained.or_else(|| durable.get(partition).copied())?;
                Some((*partition, committable(position, epoch).filter(|_| assigned)?))
            })
            .collect()
    }

    /// Commits what became durable, for ordinary lag tools: nothing is ever read from there.
    pub fn commit_durable(&mut self) {
        let epoch = self.commits.epoch;
        let durable = self.owners.durable();
        let offsets: Vec<(PartitionId, u64)> = durable
            .into_iter()
            .filter_map(|(partition, position)| {
                self.owned(partition).filter(|owned| is_read(owned.phase))?;
                let next = committable(position, epoch)?;
                (self.commits.asked.get(&partition) != Some(&next)).then_some((partition, next))
            })
            .collect();
        if !offsets.is_empty() {
            self.commit(&offsets);
        }
    }

    /// Sees to it that this process is known to be a member, as far as it is time for that.
    pub fn prove_membership(&mut self, now: Instant) {
        let Some((partition, began)) = self
            .all()
            .filter(|owned| is_assigned(owned.phase))
            .find_map(|owned| Some((owned.partition, owned.start?.next)))
        else {
            return;
        };
        if self.membership.is_due(now) && !self.commits.in_flight {
            self.commit_proof(partition, began);
        }
        if self.membership.is_in_doubt(now) {
            self.look_at_members(now);
        }
    }

    /// Commits what is durable of a partition, or where it began to be read.
    fn commit_proof(&mut self, partition: PartitionId, began: u64) {
        let mut durable = self.owners.durable().into_iter();
        let durable = durable.find_map(|(owned, position)| (owned == partition).then_some(position));
        let next = durable.and_then(|position| committable(position, self.commits.epoch));
        self.commit(&[(partition, next.unwrap_or(began))]);
    }

    /// Asks the group to note these offsets; the answer comes back by [`Reader::committed`].
    fn commit(&mut self, offsets: &[(PartitionId, u64)]) {
        self.commits.asked.extend(offsets.iter().copied());
        self.commits.waiting.extend(offsets.iter().copied());
        self.send_commit();
    }

    /// Beside this thread, and waiting for the answer: rdkafka 0.39 never calls back for a commit that nobody waits for.
    fn send_commit(&mut self) {
        if self.commits.in_flight || self.commits.waiting.is_empty() {
            return;
        }
        let offsets: Vec<(PartitionId, u64)> =
            std::mem::take(&mut self.commits.waiting).into_iter().collect();
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, next) in &offsets {
            let (Ok(number), Ok(next)) = (i32::try_from(partition.0), i64::try_from(*next)) else {
                continue;
            };
            if let Err(error) = list.add_partition_offset(&self.topic, number, KafkaOffset::Offset(next)) {
                tracing::error!(topic = &*self.topic, %partition, %error, "no offset to commit");
            }
        }
        self.commits.in_flight = true;
        let member = Arc::clone(&self.member);
        let (sent_at, losses) = (Instant::now(), member.context().losses());
        self.runtime.spawn_blocking(move || {
            let error = member.commit(&list, CommitMode::Sync).err();
            member.context().committed(Committed {
                offsets,
                sent_at,
                losses,
                error,
            });
        });
    }

    /// Waits until no commit holds on to the member any more, but not for long.
    pub fn await_commits(&self) {
        let deadline = Instant::now() + COMMIT_WAIT;
        while Arc::strong_count(&self.member) > 1 && Instant::now() < deadline {
            std::thread::sleep(COMMIT_POLL);
        }
    }

    /// A commit was answered.
    pub fn committed(&mut self, committed: Committed, now: Instant) {
        self.commits.in_flight = false;
        self.weigh_proof(&committed, now);
        let Committed { offsets, error, .. } = committed;
        match error {
            None => {
                self.commits.failing = false;
                for (partition, next) in &offsets {
                    if self.owned(*partition).is_some() {
                        self.stats.set_committed(*partition, Some(*next));
                    }
                }
            }
            Some(error) => {
                self.commit_failed(&error);
                for (partition, _) in &offsets {
                    self.commits.asked.remove(partition);
                }
            }
        }
        for handover in &mut self.handovers {
            if let Commit::Sent { offsets: sent, .. } = &handover.commit
                && sent.iter().all(|offset| offsets.contains(offset))
            {
                handover.commit = Commit::Answered;
            }
        }
        self.send_commit();
    }

    fn look_at_members(&mut self, now: Instant) {
        let Some(look) = self.membership.look(now, &self.fetcher, &self.commits.group) else {
            return;
        };
        let member = Arc::clone(&self.member);
        let (sent_at, losses) = (Instant::now(), member.context().losses());
        self.runtime.spawn_blocking(move || {
            let is_listed = look();
            member.context().looked(Looked {
                sent_at,
                losses,
                is_listed,
            });
        });
    }

    /// The group's members were looked at.
    pub fn looked(&mut self, looked: &Looked, now: Instant) {
        self.membership.looked(now);
        // One that was given up is listed again only once it has joined anew, which comes after the loss.
        if looked.is_listed && !self.is_lost_since(looked.losses) && self.membership.is_in_doubt(now) {
            self.owners.confirmed(Some(Confirmed {
                at: looked.sent_at,
                until: looked.sent_at,
            }));
        }
    }

    /// Whether the group has given this process up since there were so many losses.
    fn is_lost_since(&self, losses: u64) -> bool {
        self.member.assignment_lost() || losses != self.member.context().losses()
    }

    /// What the answer to a commit says about being a member.
    fn weigh_proof(&mut self, committed: &Committed, now: Instant) {
        match committed.error.as_ref().map(KafkaError::rdkafka_error_code) {
            // One that was given up commits like a stranger, and a group without members lets strangers.
            None if self.is_lost_since(committed.losses) => {}
            None => {
                let confirmed = self.membership.proved(committed.sent_at);
                self.owners.confirmed(Some(confirmed));
            }
            Some(code) => {
                self.membership.refused(now);
                if code == Some(RDKafkaErrorCode::UnknownMemberId) {
                    self.owners.confirmed(None);
                }
            }
        }
    }

    fn commit_failed(&mut self, error: &KafkaError) {
        use RDKafkaErrorCode as C;
        if let Some(C::RebalanceInProgress | C::IllegalGeneration | C::UnknownMemberId) =
            error.rdkafka_error_code()
        {
            return tracing::debug!(topic = &*self.topic, %error, "not committed: the group is being rebalanced");
        }
        // Who may not read may not commit either, and reading says so.
        let is_forbidden = error.rdkafka_error_code() == Some(C::TopicAuthorizationFailed);
        if is_forbidden && self.has_read_nothing() {
            return;
        }
        if !self.commits.failing {
            tracing::warn!(topic = &*self.topic, group = self.commits.group, %error,
                "can't commit to the group: lag tools that ask Kafka show old numbers, and membership has to be proved by \
                 asking for the group's members, so answers take some 50 ms longer");
        }
        self.commits.failing = true;
    }
}

fn committable(position: LogPosition, epoch: u32) -> Option<u64> {
    (position.epoch() == epoch)
        .then(|| offset_after(position))
        .flatten()
        .map(|offset| offset.0)
}

/// Whether an owner has it.
fn is_assigned(phase: Phase) -> bool {
    is_read(phase) || matches!(phase, Phase::Draining | Phase::Drained { assigned: true })
}

fn is_read(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Running | Phase::Paused | Phase::Checking | Phase::Stopped
    )
}
