//! Requests that are not answered yet.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::Partition;
use super::io::{Answer, Effect, Failure, Get, Millis, Overview, Reply, RequestId, Stamp};
use super::loads::Item;
use super::read_states::STAMP_LIFE_MS;
use crate::model::event::EventKind;
use crate::model::ids::{ChannelId, LogPosition, Offset, ReadStateKey, UserId};
use crate::model::planted::Bug;
use crate::model::read_state::ReadState;

/// One key of a request.
#[derive(Clone, Debug)]
pub struct Question {
    pub request: RequestId,
    /// Its place in the reply.
    pub index: usize,
    pub key: ReadStateKey,
    /// The row that an overview read.
    pub handed: Option<(Stamp, ReadState)>,
}

impl Question {
    /// Whose read state has to be loaded, unless it was handed over.
    pub fn user_to_load(&self) -> Option<UserId> {
        self.handed.is_none().then_some(self.key.user)
    }
}

/// What goes on once the position has come to a place.
pub enum Later {
    /// All keys of a request.
    Request(RequestId, Vec<ReadStateKey>),
    /// A question that met a row which is ahead.
    Question(Question),
}

impl Later {
    fn request(&self) -> RequestId {
        match self {
            Later::Request(request, _) => *request,
            Later::Question(question) => question.request,
        }
    }
}

struct Open {
    answers: Vec<Option<Result<Answer, Failure>>>,
    missing: usize,
    deadline: Millis,
    /// Not to be answered as of an earlier place.
    after: LogPosition,
    explain: bool,
}

/// The open requests.
#[derive(Default)]
pub struct Requests {
    open: HashMap<RequestId, Open>,
    deadlines: BTreeSet<(Millis, RequestId)>,
    questions: usize,
}

impl Requests {
    fn open(&mut self, request: RequestId, keys: usize, deadline: Millis) -> &mut Open {
        self.questions += keys;
        self.deadlines.insert((deadline, request));
        self.open
            .entry(request)
            .insert(Open {
                answers: vec![None; keys],
                missing: keys,
                deadline,
                after: LogPosition::NOTHING,
                explain: false,
            })
            .into_mut()
    }

    /// Whether somebody still waits for this.
    pub fn is_open(&self, question: &Question) -> bool {
        self.open.contains_key(&question.request)
    }

    /// Up to where the asker knows the stream already.
    pub fn after(&self, request: RequestId) -> LogPosition {
        self.open
            .get(&request)
            .map_or(LogPosition::NOTHING, |open| open.after)
    }

    /// Whether the asker wants to know how the answers come about.
    pub fn explains(&self, request: RequestId) -> bool {
        self.open.get(&request).is_some_and(|open| open.explain)
    }

    /// Takes one answer, and gives all of them back once they are complete.
    fn answer(&mut self, question: &Question, answer: Result<Answer, Failure>) -> Option<Reply> {
        let open = self.open.get_mut(&question.request)?;
        let place = &mut open.answers[question.index];
        if place.is_none() {
            open.missing -= 1;
            self.questions -= 1;
        }
        *place = Some(answer);
        if open.missing > 0 {
            return None;
        }
        self.close(question.request)
    }

    /// Ends a request; what has no answer has run out of time.
    fn close(&mut self, request: RequestId) -> Option<Reply> {
        let open = self.open.remove(&request)?;
        self.deadlines.remove(&(open.deadline, request));
        self.questions -= open.missing;
        let answers = open
            .answers
            .into_iter()
            .map(|answer| answer.unwrap_or(Err(Failure::TimedOut)));
        Some(Reply::Answers(answers.collect()))
    }

    fn next_expired(&mut self, now: Millis) -> Option<RequestId> {
        self.deadlines
            .first()
            .filter(|(deadline, _)| *deadline <= now)
            .map(|(_, request)| *request)
    }
}

impl Partition {
    pub(super) fn take_get(&mut self, get: Get, out: &mut Vec<Effect>) {
        let Get {
            request,
            keys,
            after,
            deadline,
            explain,
        } = get;
        if !self.admit(request, keys.len(), out) {
            return;
        }
        let after = after.map_or(LogPosition::NOTHING, |offset| {
            LogPosition::new(self.epoch, Offset(offset.0.min(LogPosition::OFFSETS_MAX - 1)))
        });
        let open = self.requests.open(request, keys.len(), deadline);
        open.after = after;
        open.explain = explain;
        if after > self.position {
            self.counters.requests_after += 1;
            self.later
                .entry(after)
                .or_default()
                .push(Later::Request(request, keys));
        } else {
            self.ask_all(request, keys, out);
        }
    }

    pub(super) fn give_stamp(&self, request: RequestId, out: &mut Vec<Effect>) {
        let stamp = Stamp {
            assignment: self.assignment,
            at: self.now,
        };
        out.push(Effect::Reply {
            request,
            reply: Reply::Stamp(stamp),
        });
    }

    /// An overview asks for the read states that the store showed, and for those that it may not have shown.
    pub(super) fn take_overview(&mut self, overview: Overview, out: &mut Vec<Effect>) {
        let Overview {
            request,
            user,
            stamp,
            rows,
            above,
            up_to,
            deadline,
        } = overview;
        if !self.admit(request, rows.len(), out) {
            return;
        }
        // It came over the network, so it may be of any time.
        let is_void = stamp.assignment != self.assignment
            || stamp.at > self.now
            || stamp.at.0.saturating_add(STAMP_LIFE_MS) < self.now.0
            || self.stamps_void_up_to.is_some_and(|void| stamp.at <= void);
        if is_void && !self.is_planted(Bug::StaleHandedRow) {
            self.counters.overviews_void += 1;
            return out.push(Effect::Reply {
                request,
                reply: Reply::StampVoid,
            });
        }
        let mut added: BTreeSet<ChannelId> = self.read_states.unseen_of(user, above, up_to).collect();
        added.extend(
            self.waiting_channels_of(user)
                .filter(|channel| *channel > above && *channel <= up_to),
        );
        for (channel, _) in &rows {
            added.remove(channel);
        }
        self.counters.overview_keys_added += added.len() as u64;
        let handed = rows
            .into_iter()
            .map(|(channel, row)| (channel, Some((stamp, row))));
        let all: Vec<_> = handed
            .chain(added.into_iter().map(|channel| (channel, None)))
            .collect();
        self.requests.open(request, all.len(), deadline);
        if all.is_empty() {
            return self.close(request, out);
        }
        for (index, (channel, handed)) in all.into_iter().enumerate() {
            let key = ReadStateKey { user, channel };
            self.ask(
                Question {
                    request,
                    index,
                    key,
                    handed,
                },
                out,
            );
        }
    }

    /// Channels in which a record waits that may begin a read state of the user.
    fn waiting_channels_of(&self, user: UserId) -> impl Iterator<Item = ChannelId> {
        let begins = move |item: &Item| match item {
            Item::Record(_, EventKind::MessageCreated { author, mentions, .. }) => {
                *author == Some(user) || mentions.names(user)
            }
            Item::Record(_, EventKind::MessageUpdated { mentions, .. }) => mentions.names(user),
            Item::Record(_, EventKind::MessageRead { user: other, .. })
            | Item::Record(_, EventKind::MessageMarkedUnread { user: other, .. })
            | Item::Record(_, EventKind::MemberJoined { user: other })
            | Item::Record(_, EventKind::MemberLeft { user: other }) => *other == user,
            Item::Record(_, EventKind::MessageDeleted { .. } | EventKind::ChannelDeleted)
            | Item::Question(..) => false,
        };
        let queues = self
            .queues
            .iter()
            .filter(move |(_, queue)| queue.items.iter().any(begins));
        queues.map(|(channel, _)| *channel)
    }

    /// Refuses a request where too many questions wait already.
    fn admit(&mut self, request: RequestId, keys: usize, out: &mut Vec<Effect>) -> bool {
        if self.requests.questions < self.settings.waiting_questions_max {
            return true;
        }
        self.counters.requests_refused += 1;
        let reply = Reply::Answers(vec![Err(Failure::Overloaded); keys.max(1)]);
        out.push(Effect::Reply { request, reply });
        false
    }

    fn ask_all(&mut self, request: RequestId, keys: Vec<ReadStateKey>, out: &mut Vec<Effect>) {
        if keys.is_empty() {
            return self.close(request, out);
        }
        for (index, key) in keys.into_iter().enumerate() {
            self.ask(
                Question {
                    request,
                    index,
                    key,
                    handed: None,
                },
                out,
            );
        }
    }

    /// Goes on with what waited for the position.
    pub(super) fn resume(&mut self, later: Later, out: &mut Vec<Effect>) {
        match later {
            Later::Request(request, keys) => self.ask_all(request, keys, out),
            Later::Question(question) => self.ask(question, out),
        }
    }

    pub(super) fn conclude(
        &mut self,
        question: &Question,
        answer: Result<Answer, Failure>,
        out: &mut Vec<Effect>,
    ) {
        if let Some(reply) = self.requests.answer(question, answer) {
            out.push(Effect::Reply {
                request: question.request,
                reply,
            });
        }
    }

    fn close(&mut self, request: RequestId, out: &mut Vec<Effect>) {
        if let Some(reply) = self.requests.close(request) {
            out.push(Effect::Reply { request, reply });
        }
    }

    /// Ends the requests that have run out of time. One without keys has failed as well: what it waited for did not come.
    pub(super) fn expire(&mut self, out: &mut Vec<Effect>) {
        let mut expired = false;
        while let Some(request) = self.requests.next_expired(self.now) {
            self.counters.requests_expired += 1;
            expired = true;
            let reply = match self.requests.close(request) {
                Some(Reply::Answers(answers)) if answers.is_empty() => {
                    Reply::Answers(vec![Err(Failure::TimedOut)])
                }
                Some(reply) => reply,
                None => continue,
            };
            out.push(Effect::Reply { request, reply });
        }
        if expired {
            let open = &self.requests.open;
            self.later.retain(|_, later| {
                later.retain(|later| open.contains_key(&later.request()));
                !later.is_empty()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::io::Input;
    use crate::partition::{ReadStateCache, Settings, Share};

    #[test]
    fn a_request_without_keys_fails_if_what_it_waits_for_does_not_come() {
        let share = Share {
            channel_bytes: 1,
            dirty: 1,
        };
        let (cache, start) = (ReadStateCache::new(1), LogPosition::start(0));
        let mut partition = Partition::new(Settings::default(), share, cache, 0, start, Offset(0));
        let get = Get {
            request: RequestId(1),
            keys: Vec::new(),
            after: Some(Offset(7)),
            deadline: Millis(10),
            explain: false,
        };
        let mut out = Vec::new();
        partition.handle(Millis(0), Input::Get(get), &mut out);
        assert!(out.is_empty());
        partition.handle(Millis(10), Input::Tick, &mut out);
        let Some(Effect::Reply {
            reply: Reply::Answers(answers),
            ..
        }) = out.pop()
        else {
            panic!("it is not answered");
        };
        assert_eq!(answers, [Err(Failure::TimedOut)]);
    }
}
