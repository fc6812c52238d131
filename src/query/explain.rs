//! `explain`: how the numbers of one read state come about, for people and for programs.

use std::collections::HashMap;
use std::time::Duration;

use super::Partitions;
use super::error::QueryError;
use super::owner::{Asked, Question, unanswered};
use super::subjects::Subjects;
use crate::model::counts::Parts;
use crate::model::ids::{LogPosition, MessageId, PartitionId, ReadStateKey};
use crate::model::read_state::{Membership, Remembered};
use crate::partition::io::{Answer, Explanation, Kept, Row};
use crate::wire::proto::v1;
use crate::wire::query::read_state;

/// Ids of messages listed in a line or fact; the newest are.
const IDS_LISTED_MAX: usize = 20;

/// How the numbers of one read state come about, asked of the owner of its partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnerExplain {
    pub key: ReadStateKey,
}

impl TryFrom<&v1::Key> for OwnerExplain {
    type Error = QueryError;

    fn try_from(key: &v1::Key) -> Result<Self, QueryError> {
        let key = ReadStateKey::try_from(key).map_err(QueryError::malformed)?;
        Ok(OwnerExplain { key })
    }
}

impl Question for OwnerExplain {
    type Request = v1::Key;
    type Reply = v1::ExplainReply;

    fn subject(&self, subjects: &Subjects, partition: PartitionId) -> String {
        subjects.owner_explain(partition)
    }

    fn request(&self) -> v1::Key {
        self.key.into()
    }

    async fn answer_here<P: Partitions>(
        &self,
        asked: &Asked<'_, P>,
        timeout: Duration,
    ) -> Result<v1::ExplainReply, QueryError> {
        let answer = asked.partitions.explain(asked.partition, self.key, timeout).await;
        let answer = answer.map_err(|why| unanswered(asked.partition, why))??;
        Ok(reply(&answer, asked.partition, asked.instance))
    }
}

fn reply(answer: &Answer, partition: PartitionId, instance: &str) -> v1::ExplainReply {
    let mut said = Said {
        partition,
        lines: Vec::new(),
        facts: HashMap::new(),
    };
    said.numbers(answer);
    if let Some(explanation) = &answer.explanation {
        said.counting(answer, explanation);
        said.row("read_state", "the read state", &explanation.read_state_row);
        said.row("channel", "the channel", &explanation.channel_row);
        said.place(explanation, instance);
    }
    v1::ExplainReply {
        read_state: Some(read_state(answer, partition)),
        lines: said.lines,
        facts: said.facts,
    }
}

/// What has been said so far.
struct Said {
    partition: PartitionId,
    lines: Vec<String>,
    facts: HashMap<String, String>,
}

impl Said {
    fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    fn fact(&mut self, name: &str, value: impl ToString) {
        self.facts.insert(name.to_owned(), value.to_string());
    }

    /// The offset in a place, if it has one: `name` is absent where it hasn't.
    fn offset(&mut self, name: &str, place: LogPosition) {
        if let Some(offset) = place.offset() {
            self.fact(name, offset);
        }
    }

    fn numbers(&mut self, answer: &Answer) {
        let ReadStateKey { user, channel } = answer.key;
        let at_least = |capped: bool| if capped { "at least " } else { "" };
        let when = match answer.position {
            Some(offset) => format!("right after record {offset} of partition {}", self.partition),
            None => format!("before the first record of partition {}", self.partition),
        };
        self.line(format!(
            "User {user} in channel {channel}: {}{} unread; {}{} of them mention the user, {}{} of these by name. That \
             is the state {when}.",
            at_least(answer.unread_capped),
            answer.unread,
            at_least(answer.mentions_capped),
            answer.mentions,
            at_least(answer.mentions_capped),
            answer.direct_mentions,
        ));
        self.fact("partition", self.partition);
        self.fact("read_state.exists", answer.exists);
    }

    fn counting(&mut self, answer: &Answer, explanation: &Explanation) {
        let state = &explanation.state;
        self.fact("read_state.last_read_message_id", state.last_read);
        self.fact("channel.newest_seen_message_id", explanation.newest_seen);
        self.fact("channel.messages", explanation.messages);
        if !answer.exists {
            self.line(
                "Nothing was ever heard of this user in this channel: no message, read, mark, join, leave or mention \
                 by name. That counts as a member who has read nothing."
                    .to_owned(),
            );
        }
        if answer.channel_deleted {
            return self.line("The channel was deleted: all numbers are 0, for good.".to_owned());
        }
        self.line(match (answer.last_message, explanation.newest_seen) {
            (MessageId::NONE, MessageId::NONE) => "The channel has never had a message.".to_owned(),
            (MessageId::NONE, newest) => format!(
                "All messages of the channel were deleted; the largest id that was ever created is {newest}."
            ),
            (last, newest) => format!(
                "The channel has {} messages that are not deleted, the newest of them is {last}; the largest id \
                 that was ever created is {newest}.",
                explanation.messages
            ),
        });
        self.line(match state.last_read {
            MessageId::NONE => "The user has read nothing yet.".to_owned(),
            last_read => format!("The user has read everything up to message {last_read}."),
        });
        match state.membership {
            Membership::Unspecified => {}
            Membership::Joined => self.line("The user joined the channel.".to_owned()),
            Membership::Left => {
                return self.line("The user left the channel: counts are 0 until the next join.".to_owned());
            }
        }
        self.parts(answer, explanation);
    }

    fn parts(&mut self, answer: &Answer, explanation: &Explanation) {
        let Parts {
            live,
            own,
            others_below,
            everyone,
            own_everyone,
            by_name,
            only_by_name,
            forgotten,
        } = explanation.parts;
        let state = &explanation.state;
        self.line(format!(
            "Unread: {live} messages above {} that are not deleted, without {own} by the user{}{}.",
            state.last_read.max(state.own_unknown),
            match others_below {
                0 => String::new(),
                below => format!(", and {below} of others further down, which a mark as unread passed over"),
            },
            if answer.unread_capped {
                format!(": more than are counted, so {} and capped", answer.unread)
            } else {
                String::new()
            }
        ));
        self.line(format!(
            "Mentions: {everyone} of everyone, without {own_everyone} by the user, and {only_by_name} that mention \
             the user by name and not everyone; by name {by_name} in all{}.",
            listed(&state.mentions)
        ));
        if forgotten {
            self.line(format!(
                "Mentions by name up to message {} may have been forgotten (limits.max_direct_mentions, \
                 limits.max_unread_count), so both mention counts are lower bounds.",
                state.forgotten
            ));
        }
        for (name, value) in [
            ("counted.messages_after_last_read", live),
            ("counted.own_messages", own),
            ("counted.mentions_of_everyone", everyone),
            ("counted.own_mentions_of_everyone", own_everyone),
            ("counted.mentions_by_name", by_name),
            ("counted.mentions_only_by_name", only_by_name),
        ] {
            self.fact(name, value);
        }
        self.fact("counted.mentions_may_be_forgotten", forgotten);
    }

    fn row(&mut self, name: &str, what: &str, row: &Row) {
        let age_seconds = row.age_ms as f64 / 1000.0;
        let (source, stands) = match row.kept {
            Kept::Nowhere => ("none", "there is none, neither here nor in the store".to_owned()),
            Kept::Stored => (
                "store",
                format!("as the store has it, read or written {age_seconds:.1} s ago"),
            ),
            Kept::Changed => (
                "memory",
                format!(
                    "changed {age_seconds:.1} s ago and not in the store yet; until then the stream has it"
                ),
            ),
            Kept::Writing => (
                "memory",
                format!("changed {age_seconds:.1} s ago and being written to the store"),
            ),
        };
        self.line(match row.applied {
            LogPosition::NOTHING => format!("The row of {what}: {stands}."),
            applied => format!("The row of {what}: last changed by record {applied}; {stands}."),
        });
        self.fact(&format!("{name}.source"), source);
        self.fact(&format!("{name}.age_seconds"), format!("{age_seconds:.3}"));
        self.offset(&format!("{name}.applied_offset"), row.applied);
    }

    fn place(&mut self, explanation: &Explanation, instance: &str) {
        let up_to = |place: LogPosition| match place.offset() {
            Some(_) => format!("up to record {place}"),
            None => "nothing yet".to_owned(),
        };
        self.line(format!(
            "Partition {} is owned by {instance}; applied: {}; in the store: {}.",
            self.partition,
            up_to(explanation.applied),
            up_to(explanation.durable)
        ));
        self.fact("instance", instance);
        self.fact("epoch", explanation.applied.epoch());
        self.offset("partition.applied_offset", explanation.applied);
        self.offset("partition.durable_offset", explanation.durable);
    }
}

/// The newest ids, ascending.
fn listed(messages: &[Remembered]) -> String {
    let newest = &messages[messages.len().saturating_sub(IDS_LISTED_MAX)..];
    if newest.is_empty() {
        return String::new();
    }
    let ids: Vec<String> = newest.iter().map(|message| message.id.to_string()).collect();
    let more = if newest.len() < messages.len() {
        "…, "
    } else {
        ""
    };
    format!(": {more}{}", ids.join(", "))
}
