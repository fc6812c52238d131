//! The end of a run: everything is healed, comes to rest, and is compared.

use readstates::model::ids::{ChannelId, ReadStateKey, UserId};
use readstates::partition::io::{Millis, Stamp};

use super::{Outcome, World};
use crate::simulation::owner::OverviewTask;

/// A run that is healed must have nothing left to do after so many rounds.
const ROUNDS_TO_DRAIN_MAX: usize = 3000;
/// An overview that is alone must not have to begin again more often.
const STAMPS_VOID_MAX: usize = 5;

impl World<'_> {
    /// Heals everything, lets the last owner finish, and asks for all there is; then again from a cold start.
    pub(super) fn finish(&mut self) -> Outcome {
        self.healed = true;
        self.store.is_down = false;
        self.published = self.log.epochs[self.epoch].last;
        while self.owners.len() > 1 {
            self.kill(0);
        }
        while !self.late.is_empty() || !self.late_positions.is_empty() {
            if self.rng.percent(50) {
                self.late.clear();
                self.late_positions.clear();
            } else {
                self.land_late_write()?;
            }
        }
        if self.owners[0].is_draining {
            self.settle("drain", |world| world.owners[0].is_drained)?;
            self.kill(0);
            self.start_owner(false)?;
        }
        self.trace(|| "everything is healed".to_owned());
        loop {
            self.published = self.log.epochs[self.epoch].last;
            let all_stored = |world: &Self| world.count_at(world.store.position) == world.published;
            self.settle("store everything", all_stored)?;
            if self.published == self.log.records.len() {
                break;
            }
            self.replace_stream()?;
        }
        self.ask_all()?;
        self.drain(0)?;
        self.settle("drain at the end", |world| world.owners[0].is_drained)?;
        self.kill(0);
        self.start_owner(false)?;
        if self.owners[0].taken != self.published {
            return Err(format!(
                "the drained partition starts again at {}",
                self.owners[0].taken
            ));
        }
        self.ask_all()
    }

    /// Liveness: what is healed comes to its end within a bound.
    pub(super) fn settle(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) -> Outcome {
        let mut rounds = 0;
        while rounds < ROUNDS_TO_DRAIN_MAX {
            while let Some((_, flight)) = self.owners[0].flights.pop() {
                self.complete(0, flight)?;
            }
            if is_done(self) {
                return Ok(());
            }
            let owner = &self.owners[0];
            if !owner.is_draining && !owner.is_paused {
                if owner.taken < self.published {
                    self.take_record(0)?;
                    continue;
                }
                self.reach_the_end(0)?;
            }
            rounds += 1;
            self.now_ms += 500;
            self.tick_all()?;
        }
        let stored = self.store.position;
        Err(format!(
            "liveness: could not {what}, {stored} is stored of {} records",
            self.published
        ))
    }

    pub(super) fn ask_all(&mut self) -> Outcome {
        let deadline = Millis(u64::MAX);
        for user in 1..=self.profile.users {
            let channels = 1..=self.profile.channels;
            let keys = channels.map(|channel| ReadStateKey {
                user: UserId(user),
                channel: ChannelId(channel),
            });
            self.get(0, keys.collect(), None, deadline)?;
            self.settle("answer", |world| world.owners[0].requests.is_empty())?;
            self.overview_of_all(UserId(user), deadline)?;
        }
        Ok(())
    }

    pub(super) fn overview_of_all(&mut self, user: UserId, deadline: Millis) -> Outcome {
        for _ in 0..STAMPS_VOID_MAX {
            self.now_ms += 1;
            let owner = &self.owners[0];
            let all = OverviewTask {
                user,
                above: ChannelId(0),
                up_to: ChannelId(u64::MAX >> 1),
                stamp: Stamp {
                    assignment: owner.id,
                    at: owner.clock(self.now_ms),
                },
                rows: None,
            };
            let rows = self.store.load_user(all.user, all.above, all.up_to);
            self.stamp_was_void = false;
            self.ask_overview(0, &all, rows, deadline)?;
            self.settle("answer an overview", |world| world.owners[0].requests.is_empty())?;
            if !self.stamp_was_void {
                return Ok(());
            }
        }
        Err("liveness: every stamp is void".to_owned())
    }
}
