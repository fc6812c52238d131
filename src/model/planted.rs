//! Bugs that a test can plant, one at a time, to show that the simulation finds them.

/// A bug that was thought of: each breaks a rule that the design needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A head is written before the read states that its records changed.
    HeadBeforeReadStates,
    /// A head is written before its nodes.
    HeadBeforeNodes,
    /// A changed node keeps its version, so that it overwrites the row that a stored head names.
    NodeOverwrittenInPlace,
    /// The durable position is one record too far.
    DurableOneTooFar,
    /// A changed entry is evicted before it was written.
    DirtyEvicted,
    /// A record is applied although the store has a row that is further.
    ReplayNotSkipped,
    /// A read is applied although records of its channel are waiting.
    ReadOvertakesQueue,
    /// Each thing that a record does to a read state is a change of its own.
    TwoChangesOfOneRecord,
    /// An edit changes only those whom it names now.
    EditForgetsNamedBefore,
    /// A head that is further than the cached rows of its channel is taken without dropping these.
    NewerHeadKeepsRows,
    /// A load that became void is taken all the same.
    VoidLoadTaken,
    /// An answer is made of a row that is ahead of its position.
    AnswerFromRowAhead,
    /// A row handed over with an old stamp is taken.
    StaleHandedRow,
    /// The lowest block begins at its smallest id.
    LowestBlockAtSmallestId,
    /// The sums of a page that was split are wrong.
    SplitLosesCount,
    /// A staged head is replaced by a newer one before it is written.
    StagedReplaced,
    /// The durable position goes past records that wait for a load.
    DurablePastWaiting,
    /// A write that was acknowledged clears changes made since it was sent.
    AckClearsNewerChange,
    /// Marking as unread looks only for mentions, not for own messages.
    RewindForgetsOwn,
    /// Old versions of a node are deleted before the head that replaces them is in the store.
    NodesDeletedEarly,
    /// The overview leaves out read states that are not in the store yet.
    OverviewFromStoreOnly,
    /// A join reads up to the newest live message instead of the newest ever seen.
    JoinForgetsDeleted,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 22] = [
        Bug::HeadBeforeReadStates,
        Bug::HeadBeforeNodes,
        Bug::NodeOverwrittenInPlace,
        Bug::DurableOneTooFar,
        Bug::DirtyEvicted,
        Bug::ReplayNotSkipped,
        Bug::ReadOvertakesQueue,
        Bug::TwoChangesOfOneRecord,
        Bug::EditForgetsNamedBefore,
        Bug::NewerHeadKeepsRows,
        Bug::VoidLoadTaken,
        Bug::AnswerFromRowAhead,
        Bug::StaleHandedRow,
        Bug::LowestBlockAtSmallestId,
        Bug::SplitLosesCount,
        Bug::StagedReplaced,
        Bug::DurablePastWaiting,
        Bug::AckClearsNewerChange,
        Bug::RewindForgetsOwn,
        Bug::NodesDeletedEarly,
        Bug::OverviewFromStoreOnly,
        Bug::JoinForgetsDeleted,
    ];
}

/// Which bug is planted, if any. Only a build with the feature `planted-bugs` can have one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<Bug>,
}

impl Planted {
    /// Plants a bug.
    #[cfg(feature = "planted-bugs")]
    pub fn new(bug: Bug) -> Self {
        Planted { bug: Some(bug) }
    }

    /// Whether this bug is planted.
    #[inline]
    pub fn is(self, bug: Bug) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self.bug == Some(bug);
        #[cfg(not(feature = "planted-bugs"))]
        {
            let _ = bug;
            false
        }
    }
}
