//! A run: a log, a store, and owners that come and go, in an order that the seed determines.

use readstates::model::channel::Level;
use readstates::model::ids::{ChannelId, LogPosition, Offset, ReadStateKey, UserId};
use readstates::partition::Phase;
use readstates::partition::io::{
    Answer, Effect, Failure, Get, Input, LoadKey, LoadedRow, Millis, Overview, Reply, RequestId, Stamp, Write,
};

use super::judge::{Count, Evidence, Judge};
use super::log::{Epoch, Log, to_model};
use super::owner::{Asked, Flight, OverviewTask, Owner, Request};
use super::profile::{Profile, Step};
use super::rng::Rng;
use super::stats::{Stat, Stats};
use super::store::{Effective, FakeStore};
use super::{Options, share_of, start_partition};

pub type Outcome<T = ()> = Result<T, String>;

/// How long rows that an overview read can be handed over.
const STAMP_LIFE_MS: u64 = 5000;
/// A run that is healed must have nothing left to do after so many rounds.
const ROUNDS_TO_DRAIN_MAX: usize = 3000;
/// The owners' own checks are made at every so many steps, since they take longer than a step.
const CHECKED_STEP: u64 = 4;
const STEPS_MAX: u64 = 6000;
/// An overview that is alone must not have to begin again more often.
const STAMPS_VOID_MAX: usize = 5;

pub struct World<'a> {
    pub profile: &'a Profile,
    log: &'a Log,
    pub rng: Rng,
    pub stats: &'a mut Stats,
    options: Options,
    store: FakeStore,
    /// The newest is the rightful owner, if there is one.
    owners: Vec<Owner>,
    /// Writes that timed out, or whose sender died, and land some time or never.
    late: Vec<(u64, Write)>,
    late_positions: Vec<LogPosition>,
    /// The current one of the log's epochs.
    epoch: usize,
    published: Count,
    /// The most that any owner ever took.
    taken_most: Count,
    now_ms: u64,
    lives: u64,
    step: u64,
    last_owner: u64,
    last_request: u64,
    evidence: Vec<Vec<Evidence>>,
    out: Vec<Effect>,
    healed: bool,
    stamp_was_void: bool,
}

impl<'a> World<'a> {
    pub fn new(profile: &'a Profile, log: &'a Log, rng: Rng, stats: &'a mut Stats, options: Options) -> Self {
        let mut evidence = Vec::new();
        evidence.resize_with(log.records.len() + 1, Vec::new);
        World {
            profile,
            log,
            rng: rng.clone(),
            stats,
            options,
            store: FakeStore::new(profile.bytes_percent, rng),
            owners: Vec::new(),
            late: Vec::new(),
            late_positions: Vec::new(),
            epoch: 0,
            published: 0,
            taken_most: 0,
            now_ms: 0,
            lives: 0,
            step: 0,
            last_owner: 0,
            last_request: 0,
            evidence,
            out: Vec::new(),
            healed: false,
            stamp_was_void: false,
        }
    }

    /// Lives through everything, heals, and compares.
    ///
    /// # Errors
    /// What is wrong.
    pub fn run(mut self) -> Outcome {
        self.start_owner(false)?;
        let weights = self.profile.step_weights;
        for step in 0..STEPS_MAX {
            self.step = step;
            self.now_ms += self.rng.below(self.profile.step_ms + 1);
            match Step::ALL[self.rng.weighted(&weights)] {
                Step::TakeRecords => self.take_records()?,
                Step::Complete => self.complete_some()?,
                Step::Tick => self.tick_all()?,
                Step::Get => self.ask()?,
                Step::Overview => self.go_on_with_overview()?,
                Step::Jump => {
                    self.now_ms += *self.rng.pick(&[300, 1000, 5001, 31_000]);
                    self.tick_all()?;
                }
                Step::Store => self.toggle_store(),
                Step::Crash => self.crash()?,
                Step::SecondOwner => self.second_owner()?,
                Step::Drain => self.drain_or_cut()?,
                Step::LateWrite => self.land_late_write()?,
                Step::Publish => self.publish()?,
            }
            if step % CHECKED_STEP == 0 {
                self.check_owners();
            }
            if self.current_taken() == self.log.records.len() && self.rng.percent(2) {
                break;
            }
        }
        self.finish()?;
        let evidence = std::mem::take(&mut self.evidence);
        Judge::new(self.profile, self.log).judge(evidence, self.stats)
    }

    fn trace(&self, line: impl FnOnce() -> String) {
        if self.options.trace {
            eprintln!("{:>7} ms  {}", self.now_ms, line());
        }
    }

    fn current_taken(&self) -> Count {
        self.owners.last().map_or(0, |owner| owner.taken)
    }

    fn count_at(&self, position: LogPosition) -> Count {
        self.log.count_at(position)
    }

    /// How many records there are up to an offset of an owner's epoch.
    fn count_of(&self, index: usize, offset: Offset) -> Count {
        self.count_at(LogPosition::new(self.epoch_of(index).number, offset))
    }

    /// The epoch of an owner.
    fn epoch_of(&self, index: usize) -> &'a Epoch {
        &self.log.epochs[self.owners[index].epoch]
    }

    /// Before the first record of the epoch that is current.
    fn zero(&self) -> LogPosition {
        LogPosition::start(self.log.epochs[self.epoch].number)
    }

    fn keep(&mut self, at: Count, evidence: Evidence) {
        self.evidence[at].push(evidence);
    }

    // ---- Owners

    fn start_owner(&mut self, beside_another: bool) -> Outcome {
        self.last_owner += 1;
        let zero = self.zero();
        let epoch = &self.log.epochs[self.epoch];
        let stored = self.store.position.max(zero);
        let from = match self.rng.weighted(&[80, 12, 8]) {
            _ if self.healed => stored,
            1 if self.count_at(stored) > epoch.first + 1 => {
                self.stats.hit(Stat::StartFromEarlier);
                let taken = self.count_at(stored) - epoch.first;
                self.log.position_of(epoch.first + self.rng.index(taken - 1))
            }
            2 => {
                self.stats.hit(Stat::StartFromZero);
                zero
            }
            _ => {
                self.stats.hit(Stat::StartFromStored);
                stored
            }
        };
        let clock_ms = self.rng.below(100_000);
        let taken = self.count_at(from);
        let live_at = Offset(self.rng.below(epoch.end + 1));
        self.trace(|| format!("owner {} starts from {from} ({taken} records)", self.last_owner));
        self.owners.push(Owner {
            id: self.last_owner,
            partition: start_partition(self.profile, self.options, self.last_owner, from, live_at),
            epoch: self.epoch,
            taken,
            is_zombie: false,
            is_draining: false,
            is_drained: false,
            is_paused: false,
            flights: Vec::new(),
            requests: Default::default(),
            overviews: Vec::new(),
            clock_ms,
            load_failed: false,
            began_at: taken,
            live_at,
            read_states_max: self.profile.read_states_max,
        });
        if beside_another {
            self.stats.hit(Stat::ZombieBegins);
        }
        Ok(())
    }

    /// Ends an owner at once. What it sent may land all the same.
    fn kill(&mut self, index: usize) {
        let owner = self.owners.remove(index);
        self.stats.count(owner.partition.counters());
        self.trace(|| format!("owner {} dies", owner.id));
        let mut writes_lost = false;
        for (_, flight) in owner.flights {
            match flight {
                Flight::Write(write) if self.rng.percent(60) => {
                    writes_lost = true;
                    self.late.push((owner.id, write));
                }
                Flight::StorePosition(position) if self.rng.percent(60) => {
                    self.late_positions.push(position);
                }
                _ => {}
            }
        }
        self.stats.hit_if(writes_lost, Stat::CrashWithWritesInFlight);
    }

    fn crash(&mut self) -> Outcome {
        if self.lives >= self.profile.lives_max || self.owners.is_empty() {
            return Ok(());
        }
        self.lives += 1;
        self.stats.hit(Stat::Crash);
        self.kill(self.owners.len() - 1);
        self.start_owner(false)
    }

    fn second_owner(&mut self) -> Outcome {
        if let Some(zombie) = self.owners.iter().position(|owner| owner.is_zombie) {
            if self.rng.percent(25) {
                self.kill(zombie);
            }
            return Ok(());
        }
        if self.lives >= self.profile.lives_max {
            return Ok(());
        }
        self.lives += 1;
        for owner in &mut self.owners {
            owner.is_zombie = true;
        }
        self.start_owner(true)
    }

    fn drain_or_cut(&mut self) -> Outcome {
        let index = self.owners.len() - 1;
        if self.owners[index].is_draining {
            if self.rng.percent(10) {
                self.stats.hit(Stat::DrainCut);
                self.kill(index);
                return self.start_owner(false);
            }
            return Ok(());
        }
        if self.lives >= self.profile.lives_max {
            return Ok(());
        }
        self.lives += 1;
        self.drain(index)
    }

    fn drain(&mut self, index: usize) -> Outcome {
        self.stats.hit(Stat::Drain);
        self.owners[index].is_draining = true;
        self.trace(|| format!("owner {} drains", self.owners[index].id));
        self.handle(index, Input::Drain)
    }

    fn check_owners(&self) {
        for owner in &self.owners {
            owner.partition.check();
        }
    }

    /// A partition is live once it has taken what was there when it was assigned.
    fn check_phase(&self, index: usize) -> Outcome {
        let owner = &self.owners[index];
        let partition = &owner.partition;
        let next = partition.position().offset().map_or(0, |offset| offset.0 + 1);
        let expected = if next >= owner.live_at.0 {
            Phase::Live
        } else {
            Phase::CatchingUp
        };
        if partition.phase() == expected {
            return Ok(());
        }
        Err(format!(
            "{:?} at {next}, live at {}",
            partition.phase(),
            owner.live_at
        ))
    }

    /// Invariant 9: after a tick, no more is cached than the share allows, or than is not in the store yet.
    fn check_capacity(&self, index: usize) -> Outcome {
        let owner = &self.owners[index];
        let standing = owner.partition.standing();
        let loads = |flight: &Flight| matches!(flight, Flight::Load { .. } | Flight::Loaded { .. });
        let is_quiet = !owner.flights.iter().any(|(_, flight)| loads(flight));
        let most = owner.read_states_max.max(standing.dirty);
        if is_quiet && standing.read_states_cached > most {
            return Err(format!("invariant 9: capacity {most}, but {standing:?}"));
        }
        Ok(())
    }

    fn any_owner(&mut self) -> usize {
        self.rng.index(self.owners.len())
    }

    // ---- The log

    fn publish(&mut self) -> Outcome {
        let more = self.rng.between(1, 3 * self.profile.batch_records_max) as usize;
        let last = self.log.epochs[self.epoch].last;
        self.published = (self.published + more).min(last);
        let is_all_durable = self.count_at(self.store.position) == last;
        if self.epoch + 1 < self.log.epochs.len() && is_all_durable && self.rng.percent(30) {
            return self.replace_stream();
        }
        Ok(())
    }

    /// Everything of the stream is in the store: it is replaced by the next one, of a higher epoch. An owner of the old
    /// one may linger.
    fn replace_stream(&mut self) -> Outcome {
        self.stats.hit(Stat::NewEpoch);
        self.epoch += 1;
        let epoch = self.log.epochs[self.epoch].number;
        self.trace(|| format!("epoch {epoch} begins"));
        while self.owners.len() > 1 {
            self.kill(0);
        }
        let lingers = !self.healed && self.rng.percent(60);
        if lingers {
            self.owners[0].is_zombie = true;
            self.stats.hit(Stat::NewEpochBesideZombie);
        } else {
            self.kill(0);
        }
        self.start_owner(lingers)
    }

    fn take_records(&mut self) -> Outcome {
        let index = self.any_owner();
        if self.owners[index].is_draining {
            return Ok(());
        }
        if self.owners[index].is_paused {
            if !self.rng.percent(5) {
                return Ok(());
            }
            self.stats.hit(Stat::RecordTakenWhilePaused);
        }
        for _ in 0..self.rng.between(1, self.profile.batch_records_max) {
            let owner = &self.owners[index];
            if owner.taken >= self.published.min(self.epoch_of(index).last) {
                return self.reach_the_end(index);
            }
            self.take_record(index)?;
        }
        Ok(())
    }

    fn take_record(&mut self, index: usize) -> Outcome {
        let owner = &mut self.owners[index];
        let record = &self.log.records[owner.taken];
        owner.taken += 1;
        let again = owner.taken <= self.taken_most;
        self.taken_most = self.taken_most.max(owner.taken);
        self.stats.hit(Stat::RecordTaken);
        self.stats.hit_if(again, Stat::RecordTakenAgain);
        self.stats.hit_if(owner.is_zombie, Stat::ZombieTakesRecord);
        let id = owner.id;
        self.trace(|| format!("owner {id} takes {} {:?}", record.offset, record.event));
        let event = record.event.as_ref();
        let input = Input::Record {
            offset: Offset(record.offset),
            event: event.map(|(channel, event)| to_model(*channel, event)),
        };
        self.handle(index, input)?;
        self.check_phase(index)
    }

    fn reach_the_end(&mut self, index: usize) -> Outcome {
        let taken = self.owners[index].taken;
        let epoch = self.epoch_of(index);
        let from = match taken {
            none if none == epoch.first => 0,
            some => self.log.records[some - 1].offset + 1,
        };
        let to = match taken {
            all if all == epoch.last => epoch.end,
            some => self.log.records[some].offset,
        };
        let next = if self.healed {
            to
        } else {
            self.rng.between(from, to)
        };
        self.stats.hit(Stat::CaughtUp);
        self.trace(|| format!("owner {} is caught up at {next}", self.owners[index].id));
        self.handle(index, Input::CaughtUp { next: Offset(next) })
    }

    // ---- Inputs and effects

    fn handle(&mut self, index: usize, input: Input) -> Outcome {
        let mut out = std::mem::take(&mut self.out);
        let owner = &mut self.owners[index];
        let now = owner.clock(self.now_ms);
        let asked = match &input {
            Input::Get(get) => Some(get.request),
            Input::Overview(overview) => Some(overview.request),
            _ => None,
        };
        let is_tick = matches!(input, Input::Tick);
        owner.partition.handle(now, input, &mut out);
        self.take_effects(index, &mut out, asked)?;
        if is_tick || self.healed || self.rng.percent(self.profile.settle_percent) {
            self.owners[index].partition.settle(now, &mut out);
            self.take_effects(index, &mut out, None)?;
        }
        self.out = out;
        let owner = &mut self.owners[index];
        let was_paused = owner.is_paused;
        owner.is_paused = owner.partition.is_congested();
        self.stats
            .hit_if(owner.is_paused && !was_paused, Stat::SourcePaused);
        self.stats
            .hit_if(!owner.is_paused && was_paused, Stat::SourceResumed);
        Ok(())
    }

    fn take_effects(&mut self, index: usize, out: &mut Vec<Effect>, asked: Option<RequestId>) -> Outcome {
        for effect in out.drain(..) {
            let retried = matches!(effect, Effect::Load { attempt: 1.., .. });
            self.stats.hit_if(retried, Stat::LoadRetried);
            match Flight::of(effect) {
                Ok(flight) => self.take_off(index, flight),
                Err(Effect::Reply { request, reply }) => {
                    let at_once = asked == Some(request);
                    self.take_reply(index, request, reply, at_once)?;
                }
                Err(Effect::Drained) => self.take_drained(index)?,
                Err(other) => return Err(format!("nobody does {other:?}")),
            }
        }
        Ok(())
    }

    fn take_drained(&mut self, index: usize) -> Outcome {
        let owner = &mut self.owners[index];
        if !owner.is_draining || owner.is_drained {
            return Err(format!("owner {} is drained, unasked or twice", owner.id));
        }
        owner.is_drained = true;
        let (id, applied) = (owner.id, owner.partition.standing().applied);
        self.stats.hit(Stat::Drained);
        self.trace(|| format!("owner {id} is drained at {applied}"));
        let stored = self.store.position.max(self.zero());
        if stored < applied {
            return Err(format!(
                "owner {id} is drained at {applied}, but {stored} is stored"
            ));
        }
        Ok(())
    }

    fn tick_all(&mut self) -> Outcome {
        self.stats.hit_if(self.store.is_down, Stat::StoreDown);
        let mut index = 0;
        while index < self.owners.len() {
            if self.rng.percent(3) {
                self.change_share(index);
            }
            self.handle(index, Input::Tick)?;
            self.check_capacity(index)?;
            let now = self.owners[index].clock(self.now_ms);
            let mut overdue = self.owners[index].requests.iter();
            if let Some((request, _)) = overdue.find(|(_, asked)| asked.deadline < now) {
                return Err(format!("{request:?} is overdue at {now:?}"));
            }
            let owner = &self.owners[index];
            if owner.is_drained && !self.healed {
                self.kill(index);
                if index == self.owners.len() {
                    self.start_owner(false)?;
                }
            }
            index += 1;
        }
        Ok(())
    }

    /// Other partitions come and go, so that there is more room, or less.
    fn change_share(&mut self, index: usize) {
        let mut share = share_of(self.profile);
        if !self.healed && self.rng.percent(50) {
            share.read_states = (share.read_states / 2).max(1);
            share.channel_bytes /= 2;
            share.dirty = (share.dirty / 2).max(2);
        }
        self.stats.hit(Stat::ShareChanged);
        self.owners[index].read_states_max = share.read_states;
        self.owners[index].partition.set_share(share);
    }

    // ---- The store

    fn toggle_store(&mut self) {
        self.store.is_down = if self.store.is_down {
            self.stats.hit(Stat::StoreUp);
            false
        } else {
            self.rng.percent(30)
        };
        self.trace(|| format!("the store is down: {}", self.store.is_down));
    }

    fn complete_some(&mut self) -> Outcome {
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
    fn take_off(&mut self, index: usize, flight: Flight) {
        let slow_percent = match flight {
            Flight::Load { .. } | Flight::Loaded { .. } => self.profile.slow_load_percent,
            _ => self.profile.slow_write_percent,
        };
        let slow = self.rng.percent(slow_percent);
        let steps = if slow { self.rng.between(10, 150) } else { 0 };
        self.owners[index].flights.push((self.step + steps, flight));
    }

    fn complete(&mut self, index: usize, flight: Flight) -> Outcome {
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

    fn fails(&mut self, percent: u64) -> bool {
        !self.healed && (self.store.is_down || self.rng.percent(percent))
    }

    fn is_late(&mut self) -> bool {
        !self.healed && self.rng.percent(self.profile.late_percent)
    }

    fn complete_load(
        &mut self,
        index: usize,
        token: readstates::partition::io::LoadToken,
        key: LoadKey,
    ) -> Outcome {
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

    fn note_load(&mut self, index: usize, key: LoadKey, row: &LoadedRow) {
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

    fn deliver_row(
        &mut self,
        index: usize,
        token: readstates::partition::io::LoadToken,
        row: LoadedRow,
    ) -> Outcome {
        self.handle(index, Input::Loaded { token, row })
    }

    fn complete_write(&mut self, index: usize, write: Write) -> Outcome {
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
            self.apply_write(id, &write)?;
            self.take_off(index, Flight::Write(write));
            return Ok(());
        }
        let effective = self.apply_write(id, &write)?;
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

    /// Applies a write to the store, and keeps what can be judged of it.
    fn apply_write(&mut self, id: u64, write: &Write) -> Outcome<Effective> {
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
                let row = std::rc::Rc::clone(&self.store.read_states[key]);
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

    fn complete_position(&mut self, index: usize, position: LogPosition) -> Outcome {
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

    fn apply_position(&mut self, position: LogPosition) {
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

    fn land_late_write(&mut self) -> Outcome {
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
        self.stats.hit(Stat::LateWriteLanded);
        let dead = !self.owners.iter().any(|owner| owner.id == id);
        self.stats.hit_if(dead, Stat::LateWriteOfTheDeadLanded);
        self.apply_write(id, &write)?;
        Ok(())
    }

    // ---- Questions

    fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    fn any_key(&mut self) -> ReadStateKey {
        let nobody = u64::from(self.rng.percent(5));
        self.stats.hit_if(nobody > 0, Stat::GetOfNobody);
        ReadStateKey {
            user: UserId(self.rng.between(1, self.profile.users + nobody)),
            channel: ChannelId(self.rng.between(1, self.profile.channels)),
        }
    }

    fn any_deadline(&mut self, index: usize) -> Millis {
        let in_ms = *self.rng.pick(&[0, 20, 400, 2000, 60_000]);
        Millis(self.owners[index].clock(self.now_ms).0 + in_ms)
    }

    fn ask(&mut self) -> Outcome {
        let index = self.any_owner();
        let keys = (0..self.rng.between(1, 4)).map(|_| self.any_key()).collect();
        let taken = self.owners[index].taken;
        let epoch = self.epoch_of(index);
        let after = (self.rng.percent(25) && epoch.first < epoch.last).then(|| {
            let near = (taken + self.rng.index(4)).saturating_sub(1);
            Offset(self.log.records[near.clamp(epoch.first, epoch.last - 1)].offset)
        });
        let deadline = self.any_deadline(index);
        self.get(index, keys, after, deadline)
    }

    fn get(
        &mut self,
        index: usize,
        keys: Vec<ReadStateKey>,
        after: Option<Offset>,
        deadline: Millis,
    ) -> Outcome {
        let request = self.next_request();
        let asked_at = self.owners[index].taken;
        let after_count = after.map_or(0, |after| self.count_of(index, after));
        self.stats.hit(Stat::Get);
        self.stats.hit_if(after_count > asked_at, Stat::GetAfterAhead);
        self.trace(|| {
            let id = self.owners[index].id;
            format!("owner {id} is asked {request:?} {keys:?} after {after:?} until {deadline:?}")
        });
        let what = Asked::Get {
            keys: keys.clone(),
            after: after_count,
        };
        let asked = Request {
            what,
            asked_at,
            deadline,
            is_healed: self.healed,
        };
        self.owners[index].requests.insert(request, asked);
        let get = Get {
            request,
            keys,
            after,
            deadline,
        };
        self.handle(index, Input::Get(get))
    }

    /// An overview takes a stamp, then reads the store, then asks the owner; anything may happen in between.
    fn go_on_with_overview(&mut self) -> Outcome {
        let index = self.any_owner();
        let owner = &mut self.owners[index];
        if owner.overviews.is_empty() || self.rng.percent(30) {
            return self.begin_overview(index);
        }
        let task = self.rng.index(owner.overviews.len());
        let mut task = owner.overviews.swap_remove(task);
        match task.rows.take() {
            None if self.store.is_down => owner.overviews.push(task),
            None => {
                task.rows = Some(self.store.load_user(task.user, task.above, task.up_to));
                owner.overviews.push(task);
            }
            Some(rows) => {
                let to_another = self.owners.len() > 1 && self.rng.percent(10);
                let to = if to_another { self.any_owner() } else { index };
                let deadline = self.any_deadline(to);
                self.ask_overview(to, &task, rows, deadline)?;
            }
        }
        Ok(())
    }

    fn begin_overview(&mut self, index: usize) -> Outcome {
        let request = self.next_request();
        let asked = Request {
            what: Asked::Stamp,
            asked_at: self.owners[index].taken,
            deadline: Millis(u64::MAX),
            is_healed: self.healed,
        };
        self.owners[index].requests.insert(request, asked);
        self.handle(index, Input::TakeStamp(request))
    }

    fn take_stamp(&mut self, index: usize, stamp: Stamp) {
        let channels = self.profile.channels;
        let (above, up_to) = match self.rng.percent(20) {
            true => (self.rng.below(channels), self.rng.between(1, channels)),
            false => (0, u64::MAX >> 1),
        };
        self.stats
            .hit_if(above > 0 || up_to <= channels, Stat::OverviewInPart);
        let user = UserId(self.rng.between(1, self.profile.users));
        self.owners[index].overviews.push(OverviewTask {
            user,
            above: ChannelId(above),
            up_to: ChannelId(up_to),
            stamp,
            rows: None,
        });
    }

    fn ask_overview(
        &mut self,
        index: usize,
        task: &OverviewTask,
        rows: Vec<(ChannelId, readstates::model::read_state::ReadState)>,
        deadline: Millis,
    ) -> Outcome {
        let request = self.next_request();
        let owner = &mut self.owners[index];
        let now = owner.clock(self.now_ms);
        self.stats.hit(Stat::Overview);
        self.stats.hit_if(!rows.is_empty(), Stat::OverviewRowsHandedOver);
        if task.stamp.assignment != owner.id {
            self.stats.hit(Stat::OverviewStampOfAnother);
        } else if now.0 > task.stamp.at.0 + STAMP_LIFE_MS {
            self.stats.hit(Stat::OverviewStampTooOld);
        }
        let (user, above, up_to) = (task.user, task.above, task.up_to);
        let asked = Request {
            what: Asked::Overview { user, above, up_to },
            asked_at: owner.taken,
            deadline,
            is_healed: self.healed,
        };
        owner.requests.insert(request, asked);
        let id = owner.id;
        self.trace(|| {
            format!(
                "owner {id} is asked {request:?} for {user:?} {above}..={up_to} with {rows:?}, {:?}",
                task.stamp
            )
        });
        let overview = Overview {
            request,
            user,
            stamp: task.stamp,
            rows,
            above,
            up_to,
            deadline,
        };
        self.handle(index, Input::Overview(overview))
    }

    fn take_reply(&mut self, index: usize, request: RequestId, reply: Reply, at_once: bool) -> Outcome {
        let owner = &mut self.owners[index];
        let id = owner.id;
        self.trace(|| format!("owner {id} answers {request:?}: {reply:?}"));
        let owner = &mut self.owners[index];
        let Some(asked) = owner.requests.remove(&request) else {
            return Err(format!("{request:?} was answered, unasked or twice"));
        };
        let answers = match (reply, &asked.what) {
            (Reply::Stamp(stamp), Asked::Stamp) => {
                self.take_stamp(index, stamp);
                return Ok(());
            }
            (Reply::StampVoid, Asked::Overview { .. }) => {
                self.stats.hit(Stat::OverviewStampVoid);
                self.stamp_was_void = true;
                return Ok(());
            }
            (Reply::Answers(answers), Asked::Get { .. } | Asked::Overview { .. }) => answers,
            (reply, _) => return Err(format!("{request:?} was answered with {reply:?}")),
        };
        self.stats.hit_if(at_once, Stat::AnswerAtOnce);
        self.stats.hit_if(!at_once, Stat::AnswerLater);
        if let Asked::Get { keys, .. } = &asked.what
            && keys.len() != answers.len()
        {
            return Err(format!("{request:?} of {keys:?} was answered with {answers:?}"));
        }
        if let Asked::Overview { user, above, up_to } = asked.what {
            self.take_overview(index, &asked, &answers, user, above, up_to)?;
        }
        for (place, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(answer) => {
                    let key = match &asked.what {
                        Asked::Get { keys, .. } => keys[place],
                        _ => answer.key,
                    };
                    self.take_answer(index, &asked, key, answer)?;
                }
                Err(failure) => self.take_failure(index, request, &asked, failure)?,
            }
        }
        Ok(())
    }

    fn take_failure(
        &mut self,
        index: usize,
        request: RequestId,
        asked: &Request,
        failure: Failure,
    ) -> Outcome {
        let owner = &self.owners[index];
        let now = owner.clock(self.now_ms);
        let (stat, allowed) = match failure {
            Failure::TimedOut => (Stat::TimedOut, now >= asked.deadline),
            Failure::StoreUnavailable => (Stat::StoreUnavailable, owner.load_failed),
            Failure::Overloaded => (Stat::Overloaded, true),
        };
        self.stats.hit(stat);
        if !allowed || asked.is_healed {
            return Err(format!("{request:?} was answered with {failure:?}"));
        }
        Ok(())
    }

    fn take_answer(&mut self, index: usize, asked: &Request, key: ReadStateKey, answer: Answer) -> Outcome {
        let owner = &self.owners[index];
        if answer.key != key {
            return Err(format!("{key:?} was answered with {answer:?}"));
        }
        let nothing = self.epoch_of(index).first;
        let at = answer
            .position
            .map_or(nothing, |offset| self.count_of(index, offset));
        let after = match asked.what {
            Asked::Get { after, .. } => after,
            _ => 0,
        };
        let as_of_then = asked.asked_at.min(owner.taken);
        let least = if owner.load_failed {
            owner.began_at
        } else {
            as_of_then
        };
        if at < after.max(least) || at > owner.taken {
            return Err(format!(
                "{answer:?} is of {at} records, asked at {}, after {after}, taken {}",
                asked.asked_at, owner.taken
            ));
        }
        self.stats.hit_if(owner.is_zombie, Stat::AnsweredByZombie);
        self.stats.hit_if(self.store.is_down, Stat::AnswerWhileStoreDown);
        self.keep(at, Evidence::Answer(answer));
        Ok(())
    }

    fn take_overview(
        &mut self,
        index: usize,
        asked: &Request,
        answers: &[Result<Answer, Failure>],
        user: UserId,
        above: ChannelId,
        up_to: ChannelId,
    ) -> Outcome {
        let mut channels = Vec::with_capacity(answers.len());
        for answer in answers {
            let Ok(answer) = answer else { return Ok(()) };
            let channel = answer.key.channel;
            let strange = answer.key.user != user || channel <= above || channel > up_to;
            if strange || channels.contains(&channel.0) {
                return Err(format!(
                    "an overview of {user:?} {above}..={up_to} has {answer:?}"
                ));
            }
            let row = self.store.read_states.contains_key(&answer.key);
            self.stats.hit_if(!row, Stat::OverviewAddsUnstored);
            channels.push(channel.0);
        }
        let until = self.owners[index].taken;
        let evidence = Evidence::Overview {
            user: user.0,
            above: above.0,
            up_to: up_to.0,
            channels,
            until,
        };
        self.keep(asked.asked_at, evidence);
        Ok(())
    }

    // ---- The end

    /// Heals everything, lets the last owner finish, and asks for all there is; then again from a cold start.
    fn finish(&mut self) -> Outcome {
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
    fn settle(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) -> Outcome {
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

    fn ask_all(&mut self) -> Outcome {
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

    fn overview_of_all(&mut self, user: UserId, deadline: Millis) -> Outcome {
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
