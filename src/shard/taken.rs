//! How many records of a partition lie between two of its positions, where offsets don't tell: in JetStream all partitions
//! share them.

use std::collections::VecDeque;

use crate::model::ids::Offset;

/// Records that are remembered, 64 KiB of them. Where more wait for the store, every second one is, or every fourth, ….
const MARKS_MAX: usize = 4096;

/// Counts what was taken and is not durable yet. Exact as long as no more than [`MARKS_MAX`] records wait for the store; of
/// more it may be too many by one in a thousand of the most that did. None are none.
#[derive(Default)]
pub struct Taken {
    /// Some records, and how many were taken up to each of them.
    marks: VecDeque<(Offset, u64)>,
    /// So many records are skipped between two marks.
    skipped: u64,
    newest: Option<Offset>,
    count: u64,
    durable_count: u64,
}

impl Taken {
    /// A record was taken, with an offset above all before.
    pub fn add(&mut self, offset: Offset) {
        self.count += 1;
        self.newest = Some(offset);
        let marked = self.marks.back().map_or(self.durable_count, |(_, count)| *count);
        if self.count <= marked + self.skipped {
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            let mut is_kept = false;
            self.marks.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.skipped = self.skipped * 2 + 1;
        }
        self.marks.push_back((offset, self.count));
    }

    /// Everything up to here is in the store.
    pub fn durable(&mut self, up_to: Offset) {
        if self.newest.is_none_or(|newest| newest <= up_to) {
            self.durable_count = self.count;
            self.marks.clear();
            self.skipped = 0;
            return;
        }
        while let Some((_, count)) = self.marks.pop_front_if(|(offset, _)| *offset <= up_to) {
            self.durable_count = count;
        }
    }

    /// How many were taken that are not in the store.
    pub fn beyond_durable(&self) -> u64 {
        self.count - self.durable_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_whatever_lies_between_their_offsets() {
        let mut taken = Taken::default();
        for offset in [7, 20, 21, 90] {
            taken.add(Offset(offset));
        }
        for (durable, left) in [(6, 4), (7, 3), (19, 3), (20, 2), (89, 1), (90, 0), (500, 0)] {
            taken.durable(Offset(durable));
            assert_eq!(taken.beyond_durable(), left, "{durable}");
        }
        taken.add(Offset(501));
        assert_eq!(taken.beyond_durable(), 1);
    }

    #[test]
    fn of_very_many_some_are_remembered_and_the_count_is_nearly_right() {
        const RECORDS: u64 = 1_000_000;
        let mut taken = Taken::default();
        for number in 1..=RECORDS {
            taken.add(Offset(number * 3));
        }
        assert!(taken.marks.len() <= MARKS_MAX);
        for durable in (0..RECORDS).step_by(9973) {
            taken.durable(Offset(durable * 3));
            let (left, told) = (RECORDS - durable, taken.beyond_durable());
            assert!(told >= left && told - left <= RECORDS / 1000, "{told} of {left}");
        }
        taken.durable(Offset(RECORDS * 3));
        assert_eq!(taken.beyond_durable(), 0);
    }
}
