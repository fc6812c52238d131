//! What a store knows of the order of writes without a look at its rows, as the embedded one does.

use readstates::model::ids::LogPosition;
use readstates::partition::io::Write;

/// How far the partition was written, and by whom.
#[derive(Default)]
pub struct Order {
    newest: LogPosition,
    /// By other owners than the last one.
    newest_of_others: LogPosition,
    last: Option<u64>,
}

impl Order {
    /// Takes note of a write, and tells whether it must be newer than the row that it replaces. One that comes late is
    /// nobody's.
    pub fn take(&mut self, owner: Option<u64>, write: &Write) -> bool {
        let at = match write {
            Write::ReadState(_, state) => state.applied,
            Write::Head(_, head) => head.applied,
            Write::Node(..) | Write::DeleteNodesBelow(..) => return false,
        };
        if owner != self.last {
            self.newest_of_others = self.newest;
            self.last = owner;
        }
        self.newest = self.newest.max(at);
        owner.is_some() && at > self.newest_of_others
    }
}
