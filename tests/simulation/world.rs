//! A run: a log, a store, and owners that come and go, in an order that the seed determines.

mod asking;
mod ending;
mod storing;

use readstates::model::ids::{LogPosition, Offset};
use readstates::partition::io::{Effect, Input, RequestId, Write};
use readstates::partition::{Phase, ReadStateCache};

use super::judge::{Count, Evidence, Judge};
use super::log::{Epoch, Log, to_model};
use super::order::Order;
use super::owner::{Flight, Owner, Process};
use super::profile::{Profile, Step};
use super::rng::Rng;
use super::stats::{Stat, Stats};
use super::store::FakeStore;
use super::{Options, share_of, start_partition};

pub type Outcome<T = ()> = Result<T, String>;

/// The owners' own checks are made at every so many steps, since they take longer than a step.
const CHECKED_STEP: u64 = 4;
const STEPS_MAX: u64 = 6000;

pub struct World<'a> {
    pub profile: &'a Profile,
    log: &'a Log,
    pub rng: Rng,
    pub stats: &'a mut Stats,
    options: Options,
    store: FakeStore,
    order: Order,
    /// The newest is the rightful owner, if there is one.
    owners: Vec<Owner>,
    /// That of the owner that ended last: it may own the partition again.
    ended: Option<Process>,
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
            order: Order::default(),
            owners: Vec::new(),
            ended: None,
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
        let process = self.a_process();
        let taken = self.count_at(from);
        let live_at = Offset(self.rng.below(epoch.end + 1));
        self.trace(|| format!("owner {} starts from {from} ({taken} records)", self.last_owner));
        self.owners.push(Owner {
            id: self.last_owner,
            partition: start_partition(
                self.profile,
                self.options,
                process.cache.clone(),
                self.last_owner,
                from,
                live_at,
            ),
            epoch: self.epoch,
            taken,
            is_zombie: false,
            is_draining: false,
            is_drained: false,
            is_paused: false,
            flights: Vec::new(),
            requests: Default::default(),
            overviews: Vec::new(),
            process,
            load_failed: false,
            loading_since: None,
            load_was_slow: false,
            began_at: taken,
            live_at,
            read_states_max: self.profile.read_states_max,
        });
        if beside_another {
            self.stats.hit(Stat::ZombieBegins);
        }
        Ok(())
    }

    /// A new one, or that of an owner that ended: what that left in the cache is there still.
    fn a_process(&mut self) -> Process {
        let read_states_max = self.profile.read_states_max;
        let used = self.ended.take().filter(|_| self.rng.percent(50));
        if let Some(process) = used {
            self.stats.hit(Stat::ProcessOwnsAgain);
            process.cache.set_capacity(read_states_max);
            return process;
        }
        Process {
            clock_ms: self.rng.below(100_000),
            cache: ReadStateCache::new(read_states_max),
        }
    }

    /// Ends an owner at once. What it sent may land all the same.
    fn kill(&mut self, index: usize) {
        let owner = self.owners.remove(index);
        self.ended = Some(owner.process.clone());
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
        owner.time_loads(now, self.profile.load_patience_ms());
        owner.partition.handle(now, input, &mut out);
        self.take_effects(index, &mut out, asked)?;
        if is_tick || self.healed || self.rng.percent(self.profile.settle_percent) {
            self.owners[index].partition.settle(now, &mut out);
            self.take_effects(index, &mut out, None)?;
        }
        self.out = out;
        let owner = &mut self.owners[index];
        owner.time_loads(now, self.profile.load_patience_ms());
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
        let mut read_states_max = self.profile.read_states_max;
        if !self.healed && self.rng.percent(50) {
            read_states_max = (read_states_max / 2).max(1);
            share.channel_bytes /= 2;
            share.dirty = (share.dirty / 2).max(2);
        }
        self.stats.hit(Stat::ShareChanged);
        self.owners[index].process.cache.set_capacity(read_states_max);
        self.owners[index].read_states_max = read_states_max;
        self.owners[index].partition.set_share(share);
    }
}
