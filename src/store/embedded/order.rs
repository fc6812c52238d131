//! Which changes are newer than what is there, without a look at it.
//!
//! To read the row that is replaced takes longer than to write the new one. It need not be read where nothing newer can be
//! there: rows of a partition are written by its sessions, and a session writes one version of a row after another, each of a
//! later place in the log. So a change whose place is above everything that other sessions wrote in the partition is the
//! newest of its row. (Two versions may be under way at once after another session was found to be further; the former one is
//! then below that session's.)
//!
//! ```text
//!    written by other sessions            by this one
//!   ●     ●  ●        ●     ●    ●   │  ●       ○     ●
//!   ─────────────────────────────────┴────────────────────▶ place in the log
//!       below it: look at what is there    above it: no need
//! ```
//! How far a partition was written is committed with its rows. So after a restart, all that is there is of other sessions, and
//! what is replayed is looked at. Sessions may even write at the same time, as one does that has not yet heard of its end:
//! each change of session makes all that was written before it the work of others.

use std::collections::BTreeMap;

use crate::model::ids::{LogPosition, PartitionId};
use crate::store::Session;

/// How far each partition was written, and by whom.
#[derive(Default)]
pub(super) struct Order {
    partitions: BTreeMap<PartitionId, Written>,
    /// By nobody's session, in whatever partition.
    unassigned: Written,
    /// Whether there are rows of which it is not known how far they go.
    is_unknown: bool,
}

struct Written {
    newest: LogPosition,
    /// By other sessions than the last one.
    newest_of_others: LogPosition,
    last: Option<Session>,
    is_committed: bool,
}

impl Default for Written {
    fn default() -> Self {
        Written::committed(LogPosition::NOTHING)
    }
}

impl Order {
    /// Of rows of which nothing is known.
    pub fn unknown() -> Self {
        Order {
            is_unknown: true,
            ..Order::default()
        }
    }

    /// Of rows that were written so far in a partition, or outside of one, when the database was opened.
    pub fn saw_committed(&mut self, partition: Option<PartitionId>, newest: LogPosition) {
        let written = Written::committed(newest);
        match partition {
            Some(partition) => drop(self.partitions.insert(partition, written)),
            None => self.unassigned = written,
        }
    }

    /// Takes note of a change, and tells whether it is known to be newer than what is there.
    pub fn take(&mut self, session: Option<&Session>, at: LogPosition) -> bool {
        let Some(session) = session else {
            self.unassigned.reaches(at);
            return false;
        };
        let written = self.partitions.entry(session.partition).or_default();
        if written.last.as_ref() != Some(session) {
            written.newest_of_others = written.newest;
            written.last = Some(session.clone());
        }
        written.reaches(at);
        !self.is_unknown && at > written.newest_of_others && at > self.unassigned.newest
    }

    /// How far partitions, and what is outside of one, were written beyond what this gave before.
    pub fn take_uncommitted(&mut self) -> impl Iterator<Item = (Option<PartitionId>, LogPosition)> {
        let partitions = self
            .partitions
            .iter_mut()
            .map(|(id, written)| (Some(*id), written));
        let all = partitions.chain([(None, &mut self.unassigned)]);
        all.filter_map(|(id, written)| {
            let was_committed = std::mem::replace(&mut written.is_committed, true);
            (!was_committed).then_some((id, written.newest))
        })
    }
}

impl Written {
    fn committed(newest: LogPosition) -> Self {
        Written {
            newest,
            newest_of_others: newest,
            last: None,
            is_committed: true,
        }
    }

    fn reaches(&mut self, at: LogPosition) {
        if at > self.newest {
            self.newest = at;
            self.is_committed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Offset;

    const P: PartitionId = PartitionId(1);

    fn at(offset: u64) -> LogPosition {
        LogPosition::new(0, Offset(offset))
    }

    #[test]
    fn a_session_that_is_alone_needs_no_look_and_what_it_replays_does() {
        let (mut order, first, second) = (Order::default(), Session::new(P), Session::new(P));
        assert!(order.take(Some(&first), at(5)));
        // Of another row, so it may be of an earlier place.
        assert!(order.take(Some(&first), at(3)));
        assert!(order.take(Some(&first), at(9)));
        for (place, is_newest) in [(4, false), (9, false), (10, true), (8, false), (11, true)] {
            assert_eq!(order.take(Some(&second), at(place)), is_newest, "{place}");
        }
    }

    #[test]
    fn sessions_that_overlap_look_at_each_others_rows() {
        let (mut order, old, new) = (Order::default(), Session::new(P), Session::new(P));
        assert!(order.take(Some(&old), at(5)));
        assert!(order.take(Some(&new), at(9)));
        assert!(!order.take(Some(&old), at(7)));
        assert!(!order.take(Some(&new), at(8)));
        assert!(order.take(Some(&new), at(10)));
    }

    #[test]
    fn partitions_do_not_depend_on_each_other_but_on_what_is_of_none() {
        let (mut order, one, other) = (Order::default(), Session::new(P), Session::new(PartitionId(2)));
        assert!(order.take(Some(&one), at(9)));
        assert!(order.take(Some(&other), at(5)));
        assert!(!order.take(None, at(100)));
        assert!(!order.take(Some(&other), at(7)));
        assert!(order.take(Some(&other), at(101)));
    }

    #[test]
    fn what_was_committed_is_of_others() {
        let (mut order, session) = (Order::default(), Session::new(P));
        order.saw_committed(Some(P), at(9));
        assert_eq!(order.take_uncommitted().count(), 0);
        assert!(!order.take(Some(&session), at(9)));
        assert!(order.take(Some(&session), at(10)));
        assert_eq!(order.take_uncommitted().collect::<Vec<_>>(), [(Some(P), at(10))]);
        assert_eq!(order.take_uncommitted().count(), 0);
        let mut order = Order::unknown();
        assert!(!order.take(Some(&session), at(10)));
    }
}
