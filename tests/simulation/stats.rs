//! How often each fault and each transition was reached. A simulation that does not reach one proves nothing about it.

use std::collections::BTreeMap;

use readstates::model::event::EVENT_KINDS;
use readstates::partition::{Counters, Ignored};

macro_rules! stats {
    ($($name:ident,)*) => {
        /// Something that the runs must reach.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stat { $($name,)* }

        impl Stat {
            pub const ALL: &[Stat] = &[$(Stat::$name,)*];
        }
    };
}

stats! {
    // What is published.
    DeadLetter,
    OffsetGap,
    DuplicateMessage,
    LateMessage,
    ReverseImport,
    EarlyDelete,
    CreatedAfterDeleted,
    DeleteOfMany,
    ReadAhead,
    DeepMark,
    // What the source does.
    RecordTaken,
    RecordTakenAgain,
    RecordTakenWhilePaused,
    SourcePaused,
    SourceResumed,
    ShareChanged,
    ProcessOwnsAgain,
    CaughtUp,
    // What the store does.
    LoadOfReadState,
    LoadOfHead,
    LoadOfBlock,
    LoadOfPage,
    LoadFoundNothing,
    LoadFailed,
    LoadRetried,
    LoadAnsweredLate,
    WriteOfReadState,
    WriteOfHead,
    WriteOfBlock,
    WriteOfPage,
    DeleteOfNodes,
    PositionStored,
    WriteFailed,
    WriteTimedOut,
    WriteAcknowledgedLate,
    LateWriteLanded,
    LateWriteOfTheDeadLanded,
    OlderWriteLost,
    SameWriteTwice,
    NodeWriteBelowTombstone,
    StoreDown,
    StoreUp,
    // What the owners do.
    Crash,
    CrashWithWritesInFlight,
    StartFromStored,
    StartFromEarlier,
    StartFromZero,
    NewEpoch,
    NewEpochBesideZombie,
    ZombieBegins,
    ZombieTakesRecord,
    ZombieWriteWins,
    ZombieWriteLoses,
    HeadLoadedAhead,
    ReadStateLoadedAhead,
    NodeLoadedGone,
    Drain,
    DrainCut,
    Drained,
    // What is asked.
    Get,
    GetAfterAhead,
    GetOfNobody,
    AnswerAtOnce,
    AnswerLater,
    AnswerWhileStoreDown,
    AnsweredByZombie,
    AnswerExplained,
    TimedOut,
    StoreUnavailable,
    Overloaded,
    Overview,
    OverviewRowsHandedOver,
    OverviewStampTooOld,
    OverviewStampOfAnother,
    OverviewStampVoid,
    OverviewAddsUnstored,
    OverviewInPart,
    UnreadCapped,
    MentionsCapped,
    MentionsForgotten,
    LeftMember,
    DeletedChannel,
}

/// A count for each, and what the partitions counted themselves.
#[derive(Clone, Debug)]
pub struct Stats {
    reached: [u64; Stat::ALL.len()],
    counters: BTreeMap<&'static str, u64>,
}

impl Stats {
    pub fn new() -> Self {
        Stats {
            reached: [0; Stat::ALL.len()],
            counters: BTreeMap::new(),
        }
    }

    pub fn hit(&mut self, stat: Stat) {
        self.reached[stat as usize] += 1;
    }

    pub fn hit_if(&mut self, condition: bool, stat: Stat) {
        self.reached[stat as usize] += u64::from(condition);
    }

    /// Takes what a partition counted.
    pub fn count(&mut self, counters: &Counters) {
        let kinds = EVENT_KINDS.into_iter().zip(counters.events);
        let ignored = Ignored::NAMES.into_iter().zip(counters.ignored);
        for (name, count) in counters.named().chain(kinds).chain(ignored) {
            *self.counters.entry(name).or_default() += count;
        }
    }

    pub fn add(&mut self, other: &Stats) {
        for (mine, theirs) in self.reached.iter_mut().zip(other.reached) {
            *mine += theirs;
        }
        for (name, count) in &other.counters {
            *self.counters.entry(name).or_default() += count;
        }
    }

    pub fn get(&self, stat: Stat) -> u64 {
        self.reached[stat as usize]
    }

    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counters.iter().map(|(name, count)| (*name, *count))
    }

    /// What none of the runs came to.
    pub fn never_reached(&self) -> Vec<String> {
        let stats = Stat::ALL.iter().filter(|stat| self.get(**stat) == 0);
        let counters = self.counters.iter().filter(|(_, count)| **count == 0);
        let stats = stats.map(|stat| format!("{stat:?}"));
        stats
            .chain(counters.map(|(name, _)| (*name).to_owned()))
            .collect()
    }
}
