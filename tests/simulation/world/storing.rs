//! What the owners want from the store, and what becomes of it.

use std::rc::Rc;

use readstates::model::channel::Level;
use readstates::model::ids::LogPosition;
use readstates::partition::io::{Input, LoadKey, LoadToken, LoadedRow, Write};

use super::{Outcome, World};
use crate::simulation::judge::Evidence;
use crate::simulation::owner::Flight;
use crate::simulation::stats::Stat;
use crate::simulation::store::Effective;

impl World<'_> {
    pub(super) fn toggle_store(&mut self) {
        self.store.is_down = if self.store.is_down {
            self.stats.hit(Stat::StoreUp);
            false
        } else {
            self.rng.percent(30)
        };
        self.trace(|| format!("the store is down: {}", self.store.is_down));
    }

    pub(super) fn complete_some(&mut self) -> Outcome {
        let index = self.any_owner();
        for _ in 0..self.rng.between(1, 4) {
            let flights = self.owners[index].flights.len();
            if flights == 0 {
                return Ok(());
            }
            let flight = self.rng.index(flights);
            if self.owners[index].flights[flight].0 > self.step {
                continue;
            }
            let (_, flight) = self.owners[index].flights.swap_remove(flight);
            self.complete(index, flight)?;
        }
        Ok(())
    }

    /// An operation begins, or goes on; a slow one takes many steps.
    pub(super) fn take_off(&mut self, index: usize, flight: Flight) {
        let slow_percent = match flight {
            Flight::Load { .. } | Flight::Loaded { .. } => self.profile.slow_load_percent,
            _ => self.profile.slow_write_percent,
        };
        let slow = self.rng.percent(slow_percent);
        let steps = if slow { self.rng.between(10, 150) } else { 0 };
        self.owners[index].flights.push((self.step + steps, flight));
    }

    pub(super) fn complete(&mut self, index: usize, flight: Flight) -> Outcome {
        match flight {
            Flight::Load { token, key } => self.complete_load(index, token, key),
            Flight::Loaded { token, row } => self.deliver_row(index, token, row),
            Flight::Write(write) => self.complete_write(index, write),
            Flight::Written(key) => {
                self.trace(|| format!("owner {} hears {key:?}", self.owners[index].id));
                self.handle(index, Input::Written(key))
            }
            Flight::StorePosition(position) => self.complete_position(index, position),
            Flight::PositionStored(position) => self.handle(index, Input::PositionStored(position)),
        }
    }

    pub(super) fn fails(&mut self, percent: u64) -> bool {
        !self.healed && (self.store.is_down || self.rng.percent(percent))
    }

    pub(super) fn is_late(&mut self) -> bool {
        !self.healed && self.rng.percent(self.profile.late_percent)
    }

    pub(super) fn complete_load(&mut self, index: usize, token: LoadToken, key: LoadKey) -> Outcome {
        if self.fails(self.profile.load_fails_percent) {
            self.stats.hit(Stat::LoadFailed);
            self.owners[index].load_failed = true;
            self.trace(|| format!("owner {} can't load {key:?}", self.owners[index].id));
            return self.handle(index, Input::LoadFailed { token });
        }
        let row = self.store.load(key);
        self.trace(|| format!("owner {} loads {key:?}: {row:?}", self.owners[index].id));
        self.note_load(index, key, &row);
        if self.is_late() {
            self.stats.hit(Stat::LoadAnsweredLate);
            self.take_off(index, Flight::Loaded { token, row });
            return Ok(());
        }
        self.deliver_row(index, token, row)
    }

    pub(super) fn note_load(&mut self, index: usize, key: LoadKey, row: &LoadedRow) {
        self.stats.hit(match key {
            LoadKey::ReadState(_) => Stat::LoadOfReadState,
            LoadKey::Head(_) => Stat::LoadOfHead,
            LoadKey::Node(node, _) if node.level == Level::Page => Stat::LoadOfPage,
            LoadKey::Node(..) => Stat::LoadOfBlock,
        });
        let taken = self.owners[index].taken;
        let ahead = |place: LogPosition| self.count_at(place) > taken;
        let stat = match row {
            LoadedRow::Node(None) => Stat::NodeLoadedGone,
            LoadedRow::ReadState(None) | LoadedRow::Head(None) => Stat::LoadFoundNothing,
            LoadedRow::ReadState(Some(row)) if ahead(row.applied) => Stat::ReadStateLoadedAhead,
            LoadedRow::Head(Some(head)) if ahead(head.applied) => Stat::HeadLoadedAhead,
            _ => return,
        };
        self.stats.hit(stat);
    }

    pub(super) fn deliver_row(&mut self, index: usize, token: LoadToken, row: LoadedRow) -> Outcome {
        self.handle(index, Input::Loaded { token, row })
    }

    pub(super) fn complete_write(&mut self, index: usize, write: Write) -> Outcome {
        let id = self.owners[index].id;
        if self.fails(self.profile.write_fails_percent) {
            self.stats.hit(Stat::WriteFailed);
            if self.rng.percent(40) {
                self.stats.hit(Stat::WriteTimedOut);
                self.late.push((id, write.clone()));
            }
            self.take_off(index, Flight::Write(write));
            return Ok(());
        }
        if !self.healed && self.rng.percent(self.profile.write_times_out_percent) {
            // It is in the store, but nobody hears of it: it is sent again.
            self.stats.hit(Stat::WriteTimedOut);
            self.apply_in_order(id, &write)?;
            self.take_off(index, Flight::Write(write));
            return Ok(());
        }
        let effective = self.apply_in_order(id, &write)?;
        if self.owners[index].is_zombie {
            self.stats
                .hit_if(effective == Effective::Won, Stat::ZombieWriteWins);
            self.stats
                .hit_if(effective == Effective::Lost, Stat::ZombieWriteLoses);
        }
        let acknowledged = write.key();
        if self.is_late() {
            self.stats.hit(Stat::WriteAcknowledgedLate);
            self.take_off(index, Flight::Written(acknowledged));
            return Ok(());
        }
        self.handle(index, Input::Written(acknowledged))
    }

    /// Applies a write that is the newest of its row where a store may take it for that.
    fn apply_in_order(&mut self, id: u64, write: &Write) -> Outcome<Effective> {
        let is_newest = self.order.take(Some(id), write);
        let effective = self.apply_write(id, write)?;
        if is_newest && effective == Effective::Lost {
            return Err(format!(
                "owner {id} alone has come so far, and is late with {write:?}"
            ));
        }
        Ok(effective)
    }

    /// Applies a write to the store, and keeps what can be judged of it.
    pub(super) fn apply_write(&mut self, id: u64, write: &Write) -> Outcome<Effective> {
        let effective = self.store.apply(write, self.stats)?;
        self.trace(|| format!("a write of owner {id} {effective:?}: {write:?}"));
        self.stats.hit(match write {
            Write::ReadState(..) => Stat::WriteOfReadState,
            Write::Head(..) => Stat::WriteOfHead,
            Write::Node(node, ..) if node.level == Level::Page => Stat::WriteOfPage,
            Write::Node(..) => Stat::WriteOfBlock,
            Write::DeleteNodesBelow(..) => Stat::DeleteOfNodes,
        });
        self.stats
            .hit_if(effective == Effective::Lost, Stat::OlderWriteLost);
        self.stats
            .hit_if(effective == Effective::Same, Stat::SameWriteTwice);
        if effective != Effective::Won {
            return Ok(effective);
        }
        match write {
            Write::ReadState(key, state) => {
                let row = Rc::clone(&self.store.read_states[key]);
                self.keep(self.count_at(state.applied), Evidence::Row { key: *key, row });
            }
            Write::Head(channel, head) => {
                let stored = self.store.channel(*channel)?;
                let stored = Box::new(stored.ok_or("the head just written is not there")?);
                let rows = self.store.read_states.iter();
                let rows = rows.filter(|(key, _)| key.channel == *channel);
                let rows = rows.map(|(key, row)| (*key, row.clone())).collect();
                let channel = *channel;
                let evidence = Evidence::Head {
                    channel,
                    stored,
                    rows,
                };
                self.keep(self.count_at(head.applied), evidence);
            }
            Write::Node(..) | Write::DeleteNodesBelow(..) => {}
        }
        Ok(effective)
    }

    pub(super) fn complete_position(&mut self, index: usize, position: LogPosition) -> Outcome {
        if self.fails(self.profile.write_fails_percent) {
            if self.rng.percent(40) {
                self.late_positions.push(position);
            }
            self.take_off(index, Flight::StorePosition(position));
            return Ok(());
        }
        self.apply_position(position);
        if self.is_late() {
            self.take_off(index, Flight::PositionStored(position));
            return Ok(());
        }
        self.handle(index, Input::PositionStored(position))
    }

    pub(super) fn apply_position(&mut self, position: LogPosition) {
        let effective = self.store.store_position(position);
        self.trace(|| format!("durable position {position} {effective:?}"));
        if effective != Effective::Won {
            return;
        }
        self.stats.hit(Stat::PositionStored);
        let rows = self.store.read_states.iter();
        let rows = rows.map(|(key, row)| (*key, row.clone())).collect();
        let heads = self.store.heads.iter();
        let heads = heads.map(|(channel, head)| (*channel, head.clone(), self.count_at(head.applied)));
        let heads = heads.collect();
        self.keep(self.count_at(position), Evidence::Durable { rows, heads });
    }

    pub(super) fn land_late_write(&mut self) -> Outcome {
        if self.store.is_down {
            return Ok(());
        }
        if !self.late_positions.is_empty() && self.rng.percent(20) {
            let position = self.rng.index(self.late_positions.len());
            let position = self.late_positions.swap_remove(position);
            self.apply_position(position);
            return Ok(());
        }
        if self.late.is_empty() {
            return Ok(());
        }
        let index = self.rng.index(self.late.len());
        let (id, write) = self.late.swap_remove(index);
        self.order.take(None, &write);
        self.stats.hit(Stat::LateWriteLanded);
        let dead = !self.owners.iter().any(|owner| owner.id == id);
        self.stats.hit_if(dead, Stat::LateWriteOfTheDeadLanded);
        self.apply_write(id, &write)?;
        Ok(())
    }
}
