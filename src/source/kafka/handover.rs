//! Giving partitions back, and committing what is durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tokio::sync::oneshot::error::TryRecvError;

use super::context::give_back;
use super::lifecycle::{Event, Phase};
use super::locate::offset_after;
use super::owned::Owned;
use super::reader::Reader;
use crate::model::ids::{LogPosition, PartitionId};
use crate::source::Owners;
use crate::store::Store;

/// How long to wait for the answer to the last commit. It only serves lag tools: the store has the positions.
const COMMIT_WAIT: Duration = Duration::from_secs(2);
/// How often to look whether it has come.
const COMMIT_POLL: Duration = Duration::from_millis(2);

/// Partitions that are given back together, which is when all of them are drained.
pub(super) struct Handover {
    partitions: Vec<PartitionId>,
    /// The group waits for it; otherwise the process ends.
    for_group: bool,
    commit: Commit,
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
    pub fn new(partitions: Vec<PartitionId>, for_group: bool) -> Self {
        Handover {
            partitions,
            for_group,
            commit: Commit::NotSent,
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
    /// The last commit failed.
    pub failing: bool,
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
        let draining = handover.partitions.iter().any(|partition| {
            self.owned(*partition)
                .is_some_and(|owned| owned.phase == Phase::Draining)
        });
        if draining {
            return false;
        }
        match &handover.commit {
            Commit::NotSent => {
                let offsets = self.last_offsets(&handover.partitions);
                if offsets.is_empty() {
                    return true;
                }
                self.commit(&offsets);
                handover.commit = Commit::Sent { offsets, at: now };
                false
            }
            Commit::Sent { at, .. } => now.duration_since(*at) >= COMMIT_WAIT,
            Commit::Answered => true,
        }
    }

    fn hand_over(&mut self, handover: &Handover) {
        if handover.for_group {
            give_back(&self.member);
        }
        for partition in &handover.partitions {
            self.commits.asked.remove(partition);
            self.stats.set_committed(*partition, None);
            self.apply(*partition, Event::HandedOver);
        }
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

    /// Asks the group to note these offsets; the answer comes back by [`Reader::committed`].
    ///
    /// Beside this thread, and waiting for the answer: rdkafka 0.39 never calls back for a commit that nobody waits for.
    fn commit(&mut self, offsets: &[(PartitionId, u64)]) {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, next) in offsets {
            let (Ok(number), Ok(next)) = (i32::try_from(partition.0), i64::try_from(*next)) else {
                continue;
            };
            if let Err(error) = list.add_partition_offset(&self.topic, number, KafkaOffset::Offset(next)) {
                tracing::error!(topic = &*self.topic, %partition, %error, "no offset to commit");
            }
        }
        self.commits.asked.extend(offsets.iter().copied());
        let (member, offsets) = (Arc::clone(&self.member), offsets.to_vec());
        self.runtime.spawn_blocking(move || {
            let error = member.commit(&list, CommitMode::Sync).err();
            member.context().committed(offsets, error);
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
    pub fn committed(&mut self, offsets: &[(PartitionId, u64)], error: Option<KafkaError>) {
        match error {
            None => {
                self.commits.failing = false;
                for (partition, next) in offsets {
                    if self.owned(*partition).is_some() {
                        self.stats.set_committed(*partition, Some(*next));
                    }
                }
            }
            Some(error) => {
                self.commit_failed(&error);
                for (partition, _) in offsets {
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
    }

    fn commit_failed(&mut self, error: &KafkaError) {
        if !self.commits.failing {
            tracing::warn!(topic = &*self.topic, group = self.commits.group, %error,
                "can't commit to the group: lag tools that ask Kafka show old numbers; nothing else depends on it");
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

fn is_read(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Running | Phase::Paused | Phase::Checking | Phase::Stopped
    )
}
