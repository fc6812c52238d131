//! How long each step of taking the partitions over took: one line of the log.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::JetStreamSettings;
use crate::model::ids::PartitionId;

/// What every partition does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its stored position was compared with the stream.
    Located,
    /// It has a consumer.
    Asked,
    /// What was there when it was located is read.
    Read,
}

const STEPS: usize = 3;

/// One, from when this instance has the lease.
pub(super) struct Takeover {
    stream: String,
    partitions: usize,
    /// From when the former holder was seen to renew the lease last until it was ours.
    waited: Option<Duration>,
    began: Instant,
    steps: Mutex<Steps>,
}

#[derive(Default)]
struct Steps {
    /// Partitions that have done each step.
    done_by: [BTreeSet<PartitionId>; STEPS],
    /// After so long all had.
    done_after: [Option<Duration>; STEPS],
}

impl Takeover {
    /// Begins now.
    pub fn new(settings: &JetStreamSettings, last_sign: Option<Instant>) -> Arc<Self> {
        Arc::new(Takeover {
            stream: settings.stream.clone(),
            partitions: settings.partitions as usize,
            waited: last_sign.map(|at| at.elapsed()),
            began: Instant::now(),
            steps: Mutex::default(),
        })
    }

    /// A partition has done a step. Only the first time counts.
    pub fn done(&self, step: Step, partition: PartitionId) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, last) = (step as usize, Step::Read as usize);
        if steps.done_after[last].is_some() {
            return;
        }
        // Who is at the end needed no consumer for that where nothing was to be read.
        let first = if step == Step::Read { 0 } else { index };
        for index in first..=index {
            let by = &mut steps.done_by[index];
            by.insert(partition);
            if by.len() == self.partitions && steps.done_after[index].is_none() {
                steps.done_after[index] = Some(self.began.elapsed());
            }
        }
        if steps.done_after[last].is_some() {
            self.tell(&steps);
        }
    }

    fn tell(&self, steps: &Steps) {
        let ms = |took: Option<Duration>| took.map(|took| took.as_millis());
        let after = |step: Step| ms(steps.done_after[step as usize]);
        tracing::info!(
            stream = self.stream,
            partitions = self.partitions,
            since_last_renewal_ms = ms(self.waited),
            located_ms = after(Step::Located),
            consumers_ms = after(Step::Asked),
            read_ms = after(Step::Read),
            "took over: all partitions are read to where the stream ended"
        );
    }
}
