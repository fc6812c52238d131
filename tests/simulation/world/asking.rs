//! Questions to the owners, and whether the answers may be as they are.

use readstates::model::counts::Counts;
use readstates::model::ids::{ChannelId, LogPosition, Offset, ReadStateKey, UserId};
use readstates::model::read_state::ReadState;
use readstates::partition::io::{
    Answer, Explanation, Failure, Get, Input, Millis, Overview, Reply, RequestId, Stamp,
};

use super::{Outcome, World};
use crate::simulation::judge::Evidence;
use crate::simulation::owner::{Asked, OverviewTask, Request};
use crate::simulation::settings_of;
use crate::simulation::stats::Stat;

/// How long rows that an overview read can be handed over.
const STAMP_LIFE_MS: u64 = 5000;

impl World<'_> {
    pub(super) fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    pub(super) fn any_key(&mut self) -> ReadStateKey {
        let nobody = u64::from(self.rng.percent(5));
        self.stats.hit_if(nobody > 0, Stat::GetOfNobody);
        ReadStateKey {
            user: UserId(self.rng.between(1, self.profile.users + nobody)),
            channel: ChannelId(self.rng.between(1, self.profile.channels)),
        }
    }

    pub(super) fn any_deadline(&mut self, index: usize) -> Millis {
        let in_ms = *self.rng.pick(&[0, 20, 400, 2000, 60_000]);
        Millis(self.owners[index].clock(self.now_ms).0 + in_ms)
    }

    pub(super) fn ask(&mut self) -> Outcome {
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

    pub(super) fn get(
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
        // By its number, so that the runs of known seeds stay as they are.
        let explain = request.0.is_multiple_of(10);
        let what = Asked::Get {
            keys: keys.clone(),
            after: after_count,
            explain,
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
            explain,
            deadline,
        };
        self.handle(index, Input::Get(get))
    }

    /// An overview takes a stamp, then reads the store, then asks the owner; anything may happen in between.
    pub(super) fn go_on_with_overview(&mut self) -> Outcome {
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

    pub(super) fn begin_overview(&mut self, index: usize) -> Outcome {
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

    pub(super) fn take_stamp(&mut self, index: usize, stamp: Stamp) {
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

    pub(super) fn ask_overview(
        &mut self,
        index: usize,
        task: &OverviewTask,
        rows: Vec<(ChannelId, ReadState)>,
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

    pub(super) fn take_reply(
        &mut self,
        index: usize,
        request: RequestId,
        reply: Reply,
        at_once: bool,
    ) -> Outcome {
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

    pub(super) fn take_failure(
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

    pub(super) fn take_answer(
        &mut self,
        index: usize,
        asked: &Request,
        key: ReadStateKey,
        answer: Answer,
    ) -> Outcome {
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
        let least = if owner.load_failed || owner.load_was_slow {
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
        let is_explained = answer.explanation.is_some();
        if is_explained != matches!(asked.what, Asked::Get { explain: true, .. }) {
            return Err(format!(
                "{answer:?} is explained or not, against {:?}",
                asked.what
            ));
        }
        self.stats.hit_if(is_explained, Stat::AnswerExplained);
        let mut answer = answer;
        if let Some(explanation) = answer.explanation.take() {
            self.check_explanation(index, &answer, &explanation)?;
        }
        let owner = &self.owners[index];
        self.stats.hit_if(owner.is_zombie, Stat::AnsweredByZombie);
        self.stats.hit_if(self.store.is_down, Stat::AnswerWhileStoreDown);
        self.keep(at, Evidence::Answer(answer));
        Ok(())
    }

    /// What is said of an answer makes its numbers, and nothing of it is from after its position (invariant 6).
    fn check_explanation(&self, index: usize, answer: &Answer, explanation: &Explanation) -> Outcome {
        let Counts {
            unread,
            unread_capped,
            mentions,
            direct_mentions,
            mentions_capped,
        } = explanation
            .parts
            .counts(&settings_of(self.profile, self.options).counts);
        let made = Answer {
            unread,
            unread_capped,
            mentions,
            direct_mentions,
            mentions_capped,
            exists: explanation.read_state_row.applied != LogPosition::NOTHING,
            membership: explanation.state.membership,
            ..answer.clone()
        };
        let epoch = self.owners[index].partition.position().epoch();
        let at = answer.position.map_or(LogPosition::start(epoch), |offset| {
            LogPosition::new(epoch, offset)
        });
        let newest = explanation
            .read_state_row
            .applied
            .max(explanation.channel_row.applied);
        if made != *answer || newest > at || explanation.durable > explanation.applied {
            return Err(format!("{answer:?} is explained by {explanation:?}"));
        }
        Ok(())
    }

    pub(super) fn take_overview(
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
}
