//! Asking the owner of a partition, wherever it is, and finding it again when the partition moves.

use std::future::Future;
use std::time::Duration;

use async_nats::Client;
use prost::Message;

use super::ask::ask_patiently;
use super::deadline::Deadline;
use super::error::{Code, QueryError};
use super::internal::{HandOver, ProcessStamp, wire};
use super::subjects::Subjects;
use super::{Partitions, Unanswered};
use crate::model::ids::{LogPosition, Offset, PartitionId, ReadStateKey};
use crate::model::read_state::Membership;
use crate::partition::io::{Answer, Failure};
use crate::wire::proto::v1;
use crate::wire::query::{read_state, unavailable};

/// A question to an owner who goes at this moment gets lost, so it is asked again after this, and then after twice as
/// long each time: most owners that are slow are just that.
const PATIENCE_FIRST: Duration = Duration::from_millis(250);
/// Then one who owns the partition by now is asked at the latest: to an owner that hangs the question is lost as well.
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// Pauses between attempts grow from this…
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// … to this.
const BACKOFF_MAX: Duration = Duration::from_millis(100);
/// The threads that own partitions keep deadlines themselves; should one hang, callers don't.
const LOCAL_GRACE: Duration = Duration::from_millis(100);

/// A question that the owner of a partition answers.
pub(super) trait Question: Sync {
    type Request: Message;
    type Reply: Message + Default;

    fn subject(&self, subjects: &Subjects, partition: PartitionId) -> String;

    fn request(&self) -> Self::Request;

    /// Asks the owner, who is here.
    fn answer_here<P: Partitions>(
        &self,
        asked: &Asked<'_, P>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Self::Reply, QueryError>> + Send;
}

/// Who is asked here: a partition, in a process.
pub(super) struct Asked<'a, P> {
    pub partitions: &'a P,
    pub partition: PartitionId,
    pub process: &'a str,
    pub instance: &'a str,
}

/// The owners of all partitions.
pub(super) struct Owners<P> {
    pub partitions: P,
    pub client: Client,
    pub subjects: Subjects,
    /// Names this process among all that ever were.
    pub process: String,
    /// Names this process for people.
    pub instance: String,
}

impl<P: Partitions> Owners<P> {
    /// Asks the owner of a partition, who may be here or elsewhere, and may change meanwhile.
    ///
    /// # Errors
    /// What the owner says; at the deadline 503 if nobody owned the partition, 504 if somebody did.
    pub async fn ask<Q: Question>(
        &self,
        partition: PartitionId,
        question: &Q,
        deadline: Deadline,
    ) -> Result<Q::Reply, QueryError> {
        let mut live = self.partitions.live();
        let (mut pause, mut patience) = (BACKOFF_FIRST, PATIENCE_FIRST);
        loop {
            let here = live.borrow_and_update().contains(&partition);
            let remaining = deadline.remaining();
            let result = if here {
                self.ask_here(partition, question, remaining).await
            } else {
                self.ask_there(partition, question, remaining, patience).await
            };
            match result {
                Err(error) if error.again && deadline.remaining() > pause => {
                    if error.code == Code::TimedOut {
                        patience = (patience * 2).min(PATIENCE_MAX);
                    }
                }
                Err(error) => {
                    return Err(QueryError {
                        again: false,
                        ..error
                    });
                }
                Ok(reply) => return Ok(reply),
            }
            // A partition that arrives here ends the pause.
            let _ = tokio::time::timeout(pause, live.changed()).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// Asks the owner of a partition if that is here.
    ///
    /// # Errors
    /// What the owner says; [`QueryError::moving`] if the partition isn't live here.
    pub async fn ask_here<Q: Question>(
        &self,
        partition: PartitionId,
        question: &Q,
        timeout: Duration,
    ) -> Result<Q::Reply, QueryError> {
        if !self.partitions.live().borrow().contains(&partition) {
            return Err(not_owned(partition));
        }
        let asked = Asked {
            partitions: &self.partitions,
            partition,
            process: &self.process,
            instance: &self.instance,
        };
        tokio::time::timeout(timeout + LOCAL_GRACE, question.answer_here(&asked, timeout))
            .await
            .unwrap_or_else(|_| Err(timed_out(partition)))
    }

    async fn ask_there<Q: Question>(
        &self,
        partition: PartitionId,
        question: &Q,
        timeout: Duration,
        patience: Duration,
    ) -> Result<Q::Reply, QueryError> {
        let subject = question.subject(&self.subjects, partition);
        ask_patiently(&self.client, &subject, &question.request(), timeout, patience)
            .await
            .map_err(|error| match error {
                QueryError {
                    again: true,
                    code: Code::Unavailable,
                    ..
                } => QueryError::moving(format_args!("partition {partition} has no live owner")),
                error => error,
            })
    }
}

fn not_owned(partition: PartitionId) -> QueryError {
    QueryError::moving(format_args!("partition {partition} is not live here"))
}

fn timed_out(partition: PartitionId) -> QueryError {
    QueryError::new(
        Code::TimedOut,
        format_args!("the time ran out before partition {partition} had answered"),
    )
}

pub(super) fn unanswered(partition: PartitionId, why: Unanswered) -> QueryError {
    match why {
        Unanswered::NotOwned => not_owned(partition),
        Unanswered::Overloaded => QueryError::new(
            Code::Overloaded,
            format_args!("too many questions are waiting in partition {partition}"),
        ),
        Unanswered::TimedOut => timed_out(partition),
        Unanswered::StampVoid => QueryError::new(
            Code::StampVoid,
            format_args!("partition {partition} needs another stamp"),
        ),
    }
}

/// Read states of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct PartitionGet {
    pub keys: Vec<ReadStateKey>,
    pub after: Option<(PartitionId, Offset)>,
    pub partial: bool,
}

impl Question for PartitionGet {
    type Request = v1::GetRequest;
    type Reply = v1::GetReply;

    fn subject(&self, subjects: &Subjects, partition: PartitionId) -> String {
        subjects.partition_get(partition)
    }

    fn request(&self) -> v1::GetRequest {
        v1::GetRequest {
            keys: self.keys.iter().copied().map(v1::Key::from).collect(),
            after: self
                .after
                .iter()
                .map(|(partition, offset)| v1::Position {
                    partition: partition.0,
                    offset: offset.0,
                })
                .collect(),
            partial: self.partial,
        }
    }

    async fn answer_here<P: Partitions>(
        &self,
        asked: &Asked<'_, P>,
        timeout: Duration,
    ) -> Result<v1::GetReply, QueryError> {
        let Asked {
            partitions,
            partition,
            ..
        } = *asked;
        // Nothing ever gets to an offset that is none, so waiting for the largest is the same.
        let after = self
            .after
            .map(|(_, offset)| offset.min(Offset(LogPosition::OFFSETS_MAX - 1)));
        let answers = match partitions.get(partition, self.keys.clone(), after, timeout).await {
            Ok(answers) => answers,
            Err(Unanswered::NotOwned) => return Err(not_owned(partition)),
            Err(_) if self.partial => return Ok(all_unavailable(&self.keys)),
            Err(why) => return Err(unanswered(partition, why)),
        };
        // Without keys there is nothing but the position to wait for.
        if let ([], [Err(failure)]) = (&self.keys[..], &answers[..]) {
            return match self.partial {
                true => Ok(all_unavailable(&self.keys)),
                false => Err(QueryError::from(*failure)),
            };
        }
        if answers.len() != self.keys.len() {
            return Err(QueryError::new(
                Code::Unavailable,
                format_args!(
                    "partition {partition} gave {} answers to {} keys",
                    answers.len(),
                    self.keys.len()
                ),
            ));
        }
        let read_states = self.keys.iter().zip(&answers).map(|(key, answer)| match answer {
            Ok(answer) => Ok(read_state(answer, partition)),
            Err(_) if self.partial => Ok(unavailable(*key)),
            Err(failure) => Err(QueryError::from(*failure)),
        });
        Ok(v1::GetReply {
            read_states: read_states.collect::<Result<_, _>>()?,
        })
    }
}

/// What is answered for keys of which nothing is known now.
pub(super) fn all_unavailable(keys: &[ReadStateKey]) -> v1::GetReply {
    v1::GetReply {
        read_states: keys.iter().copied().map(unavailable).collect(),
    }
}

/// The stamp of a partition.
pub(super) struct TakeStamp;

impl Question for TakeStamp {
    type Request = wire::StampRequest;
    type Reply = wire::Stamp;

    fn subject(&self, subjects: &Subjects, partition: PartitionId) -> String {
        subjects.stamp(partition)
    }

    fn request(&self) -> wire::StampRequest {
        wire::StampRequest {}
    }

    async fn answer_here<P: Partitions>(
        &self,
        asked: &Asked<'_, P>,
        timeout: Duration,
    ) -> Result<wire::Stamp, QueryError> {
        let stamp = asked.partitions.take_stamp(asked.partition, timeout).await;
        let stamp = ProcessStamp {
            process: asked.process.to_owned(),
            stamp: stamp.map_err(|why| unanswered(asked.partition, why))?,
        };
        Ok((&stamp).into())
    }
}

impl Question for HandOver {
    type Request = wire::HandOver;
    type Reply = wire::Listed;

    fn subject(&self, subjects: &Subjects, partition: PartitionId) -> String {
        subjects.hand_over(partition)
    }

    fn request(&self) -> wire::HandOver {
        self.into()
    }

    async fn answer_here<P: Partitions>(
        &self,
        asked: &Asked<'_, P>,
        timeout: Duration,
    ) -> Result<wire::Listed, QueryError> {
        let Asked {
            partitions,
            partition,
            process,
            ..
        } = *asked;
        let answers = partitions
            .overview(partition, self.user_rows(process), timeout)
            .await
            .map_err(|why| unanswered(partition, why))?;
        let answers = answers.into_iter().collect::<Result<Vec<Answer>, Failure>>()?;
        let mut listed: Vec<_> = answers.iter().filter(|answer| self.lists(answer)).collect();
        listed.sort_unstable_by_key(|answer| answer.key.channel);
        listed.truncate(self.limit);
        Ok(wire::Listed {
            read_states: listed
                .into_iter()
                .map(|answer| read_state(answer, partition))
                .collect(),
        })
    }
}

impl HandOver {
    fn lists(&self, answer: &Answer) -> bool {
        let ReadStateKey { user, channel } = answer.key;
        answer.exists
            && user == self.user
            && channel > self.above
            && channel <= self.up_to
            && answer.membership != Membership::Left
            && !answer.channel_deleted
            && !(self.only_unread && answer.unread == 0)
    }
}
