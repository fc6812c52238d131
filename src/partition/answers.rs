//! Answers: made of rows that are not ahead of the position they are given for (invariant 6).

use smallvec::smallvec;

use super::Partition;
use super::io::{Answer, Effect, Explanation, Failure, LoadKey, Stamp};
use super::loads::{Item, Missing, keys_of};
use super::read_states::STAMP_LIFE_MS;
use super::requests::{Later, Question};
use crate::model::channel::Head;
use crate::model::counts::{Counts, count, parts};
use crate::model::ids::{LogPosition, ReadStateKey};
use crate::model::planted::Bug;
use crate::model::read_state::ReadState;

/// What came of a question.
enum Outcome {
    Answer(Answer),
    /// A row holds records up to here already.
    Ahead(LogPosition),
    Missing(Missing),
}

impl Partition {
    /// Answers a question now, or puts it where it waits.
    pub(super) fn ask(&mut self, question: Question, out: &mut Vec<Effect>) {
        let channel = question.key.channel;
        if let Some(as_of) = self.failing_as_of(channel) {
            return self.answer_from_cache(as_of, question, out);
        }
        if let Some(as_of) = self.slow_as_of(channel)
            && self.answer_if_cached(as_of, &question, out)
        {
            return;
        }
        if self.queues.contains_key(&channel) {
            self.counters.answers_queued += 1;
            return self.enqueue(channel, Item::Question(self.position, question), out);
        }
        if let Err(missing) = self.try_answer(self.position, &question, out) {
            self.enqueue(channel, Item::Question(self.position, question), out);
            self.load_all(channel, missing, out);
        }
    }

    /// Answers a question as of `at`, with everything of its channel up to there applied.
    ///
    /// # Errors
    /// What must be loaded first.
    pub(super) fn try_answer(
        &mut self,
        at: LogPosition,
        question: &Question,
        out: &mut Vec<Effect>,
    ) -> Result<(), Missing> {
        if !self.requests.is_open(question) {
            return Ok(());
        }
        self.take_handed_row(question);
        match self.evaluate(question.key, at) {
            Outcome::Missing(mut missing) => {
                // Its own row can be taken once the head is there.
                let is_head = |key: &LoadKey| matches!(key, LoadKey::Head(_));
                if question.handed.is_some() && missing.iter().any(is_head) {
                    missing.retain(|key| is_head(key));
                }
                return Err(missing);
            }
            Outcome::Answer(answer) => {
                let answer = self.explained(question, answer);
                self.conclude(question, Ok(answer), out);
            }
            Outcome::Ahead(place) if place > self.position => {
                self.counters.answers_ahead += 1;
                self.later
                    .entry(place)
                    .or_default()
                    .push(Later::Question(question.clone()));
            }
            // The rows are as of a later record of this channel, which is taken but stands behind the question.
            Outcome::Ahead(_) => {
                self.counters.answers_ahead += 1;
                let again = Item::Question(self.position, question.clone());
                self.queues
                    .entry(question.key.channel)
                    .or_default()
                    .items
                    .push_back(again);
            }
        }
        Ok(())
    }

    /// Answers a question as of `at` from what is cached, or says that the store is away.
    pub(super) fn answer_from_cache(&mut self, at: LogPosition, question: Question, out: &mut Vec<Effect>) {
        let answer = match self.evaluate(question.key, at) {
            Outcome::Answer(answer) if at >= self.requests.after(question.request) => {
                self.counters.answers_without_store += 1;
                Ok(self.explained(&question, answer))
            }
            _ => Err(Failure::StoreUnavailable),
        };
        self.conclude(&question, answer, out);
    }

    /// Answers a question as of `at` if that takes nothing but what is cached. Whether it did.
    pub(super) fn answer_if_cached(
        &mut self,
        at: LogPosition,
        question: &Question,
        out: &mut Vec<Effect>,
    ) -> bool {
        if at < self.requests.after(question.request) {
            return false;
        }
        let Outcome::Answer(answer) = self.evaluate(question.key, at) else {
            return false;
        };
        self.counters.answers_past_slow_loads += 1;
        let answer = self.explained(question, answer);
        self.conclude(question, Ok(answer), out);
        true
    }

    fn evaluate(&mut self, key: ReadStateKey, at: LogPosition) -> Outcome {
        let state = self.read_states.get(&key);
        let Some((head, nodes)) = self.channels.get(key.channel) else {
            let state = state.is_none().then_some(LoadKey::ReadState(key));
            return Outcome::Missing(state.into_iter().chain([LoadKey::Head(key.channel)]).collect());
        };
        let Some(state) = state else {
            return Outcome::Missing(smallvec![LoadKey::ReadState(key)]);
        };
        let place = head.applied.max(state.applied);
        if place > at && !self.settings.planted.is(Bug::AnswerFromRowAhead) {
            return Outcome::Ahead(place);
        }
        match count(&state, key.user, head, &nodes, &self.settings.counts) {
            Err(wanted) => Outcome::Missing(keys_of(key.channel, &wanted).collect()),
            Ok(counts) => {
                self.counters.read_state_hits += 1;
                self.counters.channel_hits += 1;
                Outcome::Answer(answer(key, &state, head, counts, at))
            }
        }
    }

    /// The answer, with how it comes about where the asker wants to know that.
    fn explained(&self, question: &Question, answer: Answer) -> Answer {
        if !self.requests.explains(question.request) {
            return answer;
        }
        let explanation = self.explain(question.key).map(Box::new);
        Answer {
            explanation,
            ..answer
        }
    }

    /// How an answer to a question about the key comes about, if everything that it is made of is cached.
    fn explain(&self, key: ReadStateKey) -> Option<Explanation> {
        let (state, read_state_row) = self.read_states.explain(&key, self.now)?;
        let channel_row = self.channels.explain(key.channel, self.now)?;
        let (head, nodes) = self.channels.peek(key.channel)?;
        Some(Explanation {
            parts: parts(&state, key.user, head, &nodes, &self.settings.counts).ok()?,
            state,
            read_state_row,
            channel_row,
            newest_seen: head.newest_seen,
            messages: head.pages.iter().map(|page| page.live).sum(),
            applied: self.applied(),
            durable: self.stored(),
        })
    }

    /// Takes the row that an overview read, where nothing better is known and its stamp still holds.
    fn take_handed_row(&mut self, question: &Question) {
        let Some((stamp, row)) = &question.handed else {
            return;
        };
        if self.channels.peek(question.key.channel).is_none() {
            return;
        }
        if self.read_states.contains(&question.key) {
            self.counters.handed_rows_known += 1;
            return;
        }
        if self.is_loading(&question.key) {
            return;
        }
        let is_old = stamp.at.0 + STAMP_LIFE_MS < self.now.0;
        let is_void = self.is_void(*stamp);
        if (is_old || is_void) && !self.is_planted(Bug::StaleHandedRow) {
            self.counters.handed_rows_old += u64::from(is_old);
            self.counters.handed_rows_void += u64::from(is_void);
            return;
        }
        self.counters.handed_rows_taken += 1;
        let (key, row) = (question.key, Some(row.clone()));
        let is_waited_for = self.queues.contains_key(&key.channel);
        self.read_states.put_loaded(key, row, self.now, is_waited_for);
    }

    fn is_void(&self, stamp: Stamp) -> bool {
        let rows_void_up_to = self.rows_void_up_to.max(self.read_states.rows_void_up_to());
        let void_up_to = rows_void_up_to.max(self.stamps_void_up_to);
        stamp.assignment != self.assignment || void_up_to.is_some_and(|void| stamp.at <= void)
    }
}

fn answer(key: ReadStateKey, state: &ReadState, head: &Head, counts: Counts, at: LogPosition) -> Answer {
    let deleted = head.deleted;
    let Counts {
        unread,
        unread_capped,
        mentions,
        direct_mentions,
        mentions_capped,
    } = counts;
    Answer {
        key,
        exists: state.exists(),
        last_read: if deleted {
            Default::default()
        } else {
            state.last_read
        },
        last_message: if deleted {
            Default::default()
        } else {
            head.last_message()
        },
        unread,
        unread_capped,
        mentions,
        direct_mentions,
        mentions_capped,
        membership: state.membership,
        channel_deleted: deleted,
        position: at.offset(),
        explanation: None,
    }
}
