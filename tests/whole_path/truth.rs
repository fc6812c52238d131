//! What is true: the stream is read back, and each answer is compared with the oracle at the position that it names.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use prost::Message as _;
use readstates::model::ids::ChannelId;
use readstates::oracle::{self, Event, Limits, Numbers, Oracle, Reported};
use readstates::wire::json::from_json;
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1;

use super::publishing::EXPECTED;
use crate::support::streams::{Record, Records};
use crate::support::truth::oracle_event;

/// Mismatches that are told in full.
const TOLD_MAX: usize = 8;
/// Records of the channel that are told with one.
const TOLD_RECORDS_MAX: usize = 12;
const THREADS: usize = 2;

/// Something that was answered, to be compared later.
#[derive(Clone, Debug)]
pub enum Seen {
    /// One read state.
    State {
        state: v1::ReadState,
        /// The position can't be behind this: what was durable, or asked for by `after`, before the question.
        floor: Option<u64>,
        /// How it was asked.
        how: &'static str,
    },
    /// Which channels an overview listed, all of them.
    Listing {
        user: u64,
        channels: BTreeSet<u64>,
        /// By partition, as above.
        floors: Vec<Option<u64>>,
    },
}

/// The event of a record, if it has one: whoever published it said so.
pub fn event_of(record: &Record) -> Option<v1::Event> {
    if record.header(EXPECTED).is_some() {
        return None;
    }
    let value = &record.value.as_ref().unwrap()[..];
    Some(match record.header("content-type") {
        Some(_) => from_json(value).unwrap(),
        None => v1::Event::decode(value).unwrap(),
    })
}

/// A record as the oracle takes it, at its offset; none where it has no event.
type Told = (u64, Option<(u64, Event)>);

/// The records of a stream as the oracle takes them.
pub struct Truth {
    limits: Limits,
    /// By partition, in order.
    partitions: Vec<Vec<Told>>,
    /// Where sequences are shared, a partition's position moves on with the records of others, up to here.
    last_sequence: Option<u64>,
    /// Users and channels with a leave anywhere.
    left: HashSet<(u64, u64)>,
    /// Channels that are deleted anywhere.
    deleted: HashSet<u64>,
}

impl Truth {
    pub fn new(topic: &Records, limits: Limits) -> Self {
        let told = |record: &Record| (record.offset, event_of(record).map(oracle_event));
        let partitions: Vec<Vec<_>> = topic
            .partitions
            .iter()
            .map(|records| records.iter().map(told).collect())
            .collect();
        let (mut left, mut deleted) = (HashSet::new(), HashSet::new());
        for (channel, event) in partitions.iter().flatten().filter_map(|(_, told)| told.as_ref()) {
            match event {
                Event::MemberLeft { user } => drop(left.insert((*user, *channel))),
                Event::ChannelDeleted => drop(deleted.insert(*channel)),
                _ => {}
            }
        }
        Truth {
            limits,
            partitions,
            last_sequence: topic.last_sequence,
            left,
            deleted,
        }
    }

    fn partition_of(&self, channel: u64) -> usize {
        partition_of(ChannelId(channel), self.partitions.len() as u32).0 as usize
    }

    /// By partition, the last offset; none where there are no records.
    pub fn ends(&self) -> Vec<Option<u64>> {
        self.partitions
            .iter()
            .map(|records| records.last().map(|(offset, _)| *offset))
            .collect()
    }

    /// Whether a partition can have been at this position, or said that it is durable.
    fn is_place(&self, partition: usize, at: Option<u64>, is_position: bool) -> bool {
        let records = &self.partitions[partition];
        match (at, self.last_sequence) {
            (None, _) => true,
            (Some(at), None) => at < records.len() as u64,
            // What is before the first record is durable, and is no position.
            (Some(at), Some(last)) => {
                at <= last && (!is_position || records.first().is_some_and(|(first, _)| *first <= at))
            }
        }
    }

    /// Compares all answers, each at its position. How many there were.
    ///
    /// # Panics
    /// With the first ones that are wrong.
    pub fn verify(&self, answers: &[Seen]) -> usize {
        let mut by_partition: Vec<Vec<(Option<u64>, &Seen)>> = vec![Vec::new(); self.partitions.len()];
        for seen in answers {
            match seen {
                Seen::State { state, .. } => {
                    let partition = self.partition_of(state.channel_id);
                    by_partition[partition].push((state.position.map(|it| it.offset), seen));
                }
                Seen::Listing { floors, .. } => {
                    for (partition, floor) in floors.iter().enumerate() {
                        by_partition[partition].push((*floor, seen));
                    }
                }
            }
        }
        let work: Vec<_> = by_partition.into_iter().enumerate().collect();
        let next = std::sync::Mutex::new(work.into_iter());
        let results = std::thread::scope(|scope| {
            let worker = || {
                let mut wrong = Vec::new();
                loop {
                    let taken = next.lock().unwrap().next();
                    let Some((partition, checks)) = taken else {
                        return wrong;
                    };
                    wrong.extend(self.verify_partition(partition, checks));
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect::<Vec<String>>()
        });
        assert!(
            results.is_empty(),
            "{} of {} answers are wrong; the first ones:\n{}",
            results.len(),
            answers.len(),
            results[..results.len().min(TOLD_MAX)].join("\n\n")
        );
        answers.len()
    }

    fn verify_partition(&self, partition: usize, mut checks: Vec<(Option<u64>, &Seen)>) -> Vec<String> {
        checks.sort_by_key(|(at, _)| *at);
        let mut oracle = Oracle::new(self.limits);
        let mut records = self.partitions[partition].iter().peekable();
        let mut wrong = Vec::new();
        // Several answers about the same at the same place are many, at the end above all.
        let mut known: BTreeMap<(u64, u64), Numbers> = BTreeMap::new();
        for (at, seen) in checks {
            if !self.is_place(partition, at, matches!(seen, Seen::State { .. })) {
                wrong.push(format!(
                    "partition {partition}, offset {at:?}: there is no such record: {seen:?}"
                ));
                continue;
            }
            while let Some((_, told)) = records.next_if(|(offset, _)| Some(*offset) <= at) {
                known.clear();
                if let Some((channel, event)) = told {
                    oracle.apply(*channel, event);
                }
            }
            let result = match seen {
                Seen::State { state, floor, how } => {
                    let key = (state.user_id, state.channel_id);
                    let numbers = *known.entry(key).or_insert_with(|| oracle.numbers(key.0, key.1));
                    self.check_state(state, *floor, how, partition as u32, &numbers)
                }
                Seen::Listing { user, channels, .. } => self.check_listing(&oracle, *user, channels),
            };
            if let Err(what) = result {
                wrong.push(format!("partition {partition}, offset {at:?}: {what}"));
            }
        }
        wrong
    }

    fn check_state(
        &self,
        state: &v1::ReadState,
        floor: Option<u64>,
        how: &str,
        partition: u32,
        numbers: &Numbers,
    ) -> Result<(), String> {
        let at = state.position.map(|position| position.offset);
        let who = format!("{how}: user {} in channel {}", state.user_id, state.channel_id);
        if state
            .position
            .is_some_and(|position| position.partition != partition)
        {
            return Err(format!("{who}: of another partition: {state:?}"));
        }
        if at < floor {
            return Err(format!("{who}: behind {floor:?}, which was known before"));
        }
        let reported = Reported {
            exists: (how == "overview").then_some(true),
            last_read: state.last_read_message_id,
            last_message: state.last_message_id,
            unread: state.unread_count,
            unread_capped: state.unread_count_capped,
            mentions: state.mention_count,
            direct: state.direct_mention_count,
            mentions_capped: state.mention_count_capped,
            membership: match state.membership() {
                v1::Membership::Unspecified => oracle::Membership::Unspecified,
                v1::Membership::Joined => oracle::Membership::Joined,
                v1::Membership::Left => oracle::Membership::Left,
                v1::Membership::ChannelDeleted => oracle::Membership::ChannelDeleted,
            },
        };
        let is_hidden = matches!(
            reported.membership,
            oracle::Membership::Left | oracle::Membership::ChannelDeleted
        );
        if how == "overview" && is_hidden {
            return Err(format!("{who}: should be left out: {state:?}"));
        }
        reported.check(numbers).map_err(|what| {
            let records = self.partitions[partition as usize].iter();
            let records = records.filter(|(offset, _)| Some(*offset) <= at).rev();
            let about = |event: &&Event| format!("{event:?}").contains(&state.user_id.to_string());
            let mut told: Vec<String> = records
                .filter_map(|(offset, record)| {
                    let (channel, event) = record.as_ref()?;
                    let is_it = *channel == state.channel_id && about(&event);
                    is_it.then(|| format!("  {offset}: {event:?}"))
                })
                .take(TOLD_RECORDS_MAX)
                .collect();
            told.reverse();
            format!("{who}: {what}\n{}", told.join("\n"))
        })
    }

    /// Whatever the user had at the floor must be listed, unless it went later.
    fn check_listing(&self, oracle: &Oracle, user: u64, channels: &BTreeSet<u64>) -> Result<(), String> {
        let expected = oracle
            .channels_of(user)
            .into_iter()
            .filter(|channel| !self.left.contains(&(user, *channel)) && !self.deleted.contains(channel));
        let missing: Vec<u64> = expected.filter(|channel| !channels.contains(channel)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "overview of user {user} lacks channels {missing:?}; it has {channels:?}"
            )),
        }
    }

    /// The channels that a user's overview shows once everything is applied.
    pub fn final_oracle(&self) -> Oracle {
        let mut oracle = Oracle::new(self.limits);
        for (channel, event) in self
            .partitions
            .iter()
            .flatten()
            .filter_map(|(_, told)| told.as_ref())
        {
            oracle.apply(*channel, event);
        }
        oracle
    }
}
