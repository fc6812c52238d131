//! What happened in the chat lately, for the screen.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::names::{channel_name, user_name};
use crate::wire::proto::v1::Event;
use crate::wire::proto::v1::event::Kind;

/// Happenings that are kept until someone takes them.
const KEPT_MAX: usize = 256;
/// Mentioned people who are named.
const NAMED_MAX: usize = 2;

/// Something that happened in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Where.
    pub channel: u64,
    /// Whom it is about, the one who did it first.
    pub people: Vec<u64>,
    /// For people.
    pub text: String,
    /// How much it is worth to be shown: the more, the rarer it is.
    pub weight: u8,
    /// Whether everyone was mentioned.
    pub is_for_everyone: bool,
}

impl Happening {
    /// What an event says. None for those that nobody would look at.
    pub fn of(event: &Event) -> Option<Self> {
        let place = channel_name(event.channel_id);
        let mut people = Vec::new();
        let mut by = |id: u64| {
            people.push(id);
            user_name(id)
        };
        let mut is_for_everyone = false;
        let (weight, text) = match event.kind.as_ref()? {
            Kind::MessageCreated(it) if it.mentions_everyone => {
                is_for_everyone = true;
                (9, format!("{} mentions everyone in {place}", by(it.author_id)))
            }
            Kind::MessageCreated(it) if it.mentioned_user_ids.is_empty() => {
                (1, format!("{} writes in {place}", by(it.author_id)))
            }
            Kind::MessageCreated(it) => {
                let author = by(it.author_id);
                let mentioned = &it.mentioned_user_ids;
                let names: Vec<_> = mentioned.iter().take(NAMED_MAX).map(|id| by(*id)).collect();
                let more = match mentioned.len() - names.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                (
                    3,
                    format!("{author} mentions {}{more} in {place}", names.join(", ")),
                )
            }
            Kind::MessageRead(it) => (0, format!("{} reads {place}", by(it.user_id))),
            Kind::MessageUpdated(_) => (4, format!("a message in {place} is edited")),
            Kind::MessageDeleted(_) => (5, format!("a message in {place} is deleted")),
            Kind::MessageMarkedUnread(it) => (6, format!("{} marks {place} as unread", by(it.user_id))),
            Kind::MemberJoined(it) => (2, format!("{} joins {place}", by(it.user_id))),
            Kind::MemberLeft(it) => (5, format!("{} leaves {place}", by(it.user_id))),
            Kind::ChannelDeleted(_) => (8, format!("{place} is deleted")),
        };
        Some(Happening {
            channel: event.channel_id,
            people,
            text,
            weight,
            is_for_everyone,
        })
    }
}

/// Shared by who makes things happen and who shows them.
#[derive(Debug, Default)]
pub struct Happenings {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Happening>,
    everyone: Option<(Instant, Happening)>,
}

impl Happenings {
    /// It happens now.
    pub fn happens(&self, event: &Event) {
        let Some(happening) = Happening::of(event) else {
            return;
        };
        let mut inner = self.inner();
        if happening.is_for_everyone {
            inner.everyone = Some((Instant::now(), happening.clone()));
        }
        if inner.waiting.len() == KEPT_MAX {
            inner.waiting.pop_front();
        }
        inner.waiting.push_back(happening);
    }

    /// The last mention of everyone.
    pub fn everyone(&self) -> Option<(Instant, Happening)> {
        self.inner().everyone.clone()
    }

    /// What was most worth to be seen since the last time, where `is_watched` people and channels come first.
    pub fn take(&self, is_watched: impl Fn(&Happening) -> bool) -> Option<Happening> {
        let waiting = std::mem::take(&mut self.inner().waiting);
        waiting
            .into_iter()
            .max_by_key(|happening| (happening.is_for_everyone, is_watched(happening), happening.weight))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::v1::{MessageCreated, MessageRead};

    fn created(author_id: u64, mentioned_user_ids: Vec<u64>, mentions_everyone: bool) -> Event {
        Event {
            channel_id: 70_001,
            kind: Some(Kind::MessageCreated(MessageCreated {
                message_id: 1,
                author_id,
                mentioned_user_ids,
                mentions_everyone,
            })),
        }
    }

    #[test]
    fn the_rarest_is_shown_and_a_mention_of_everyone_before_all() {
        let happenings = Happenings::default();
        assert_eq!(happenings.take(|_| true), None);
        let read = MessageRead {
            user_id: 1001,
            message_id: 1,
        };
        let read = Event {
            channel_id: 70_001,
            kind: Some(Kind::MessageRead(read)),
        };
        let all = [
            read,
            created(1001, vec![1002, 1003, 1004], false),
            created(1002, vec![], false),
        ];
        all.iter().for_each(|event| happenings.happens(event));
        let text = |happening: Option<Happening>| happening.map(|happening| happening.text);
        assert_eq!(
            text(happenings.take(|_| false)).as_deref(),
            Some("Ada A. mentions Ben A., Chloe A. and 1 more in #general")
        );
        all.iter().for_each(|event| happenings.happens(event));
        assert_eq!(
            text(happenings.take(|it| it.people == [1002])).as_deref(),
            Some("Ben A. writes in #general")
        );
        happenings.happens(&created(1003, vec![], true));
        all.iter().for_each(|event| happenings.happens(event));
        let text = text(happenings.take(|it| it.people == [1002]));
        assert_eq!(text.as_deref(), Some("Chloe A. mentions everyone in #general"));
        assert!(happenings.everyone().is_some());
    }
}
