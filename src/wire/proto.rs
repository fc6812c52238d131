//! The types generated from the schemas, and the model in terms of them.

use crate::model::event::{Event, EventKind, Mentions};
use crate::model::ids::UserId;

/// `schemas/readstates.proto`: the stream and the queries.
#[expect(missing_docs, reason = "generated; the schema has the comments")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/readstates.v1.rs"));
}

/// The descriptors of all schemas, as a `google.protobuf.FileDescriptorSet`.
pub(super) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

impl From<&Event> for v1::Event {
    fn from(event: &Event) -> Self {
        v1::Event {
            channel_id: event.channel.0,
            kind: Some((&event.kind).into()),
        }
    }
}

impl From<Event> for v1::Event {
    fn from(event: Event) -> Self {
        v1::Event::from(&event)
    }
}

impl From<&EventKind> for v1::event::Kind {
    fn from(kind: &EventKind) -> Self {
        use v1::event::Kind;
        match kind {
            EventKind::MessageCreated {
                message,
                author,
                mentions,
            } => Kind::MessageCreated(v1::MessageCreated {
                message_id: message.0,
                author_id: author.map_or(0, |author| author.0),
                mentioned_user_ids: user_ids(mentions),
                mentions_everyone: mentions.everyone,
            }),
            EventKind::MessageRead { user, message } => Kind::MessageRead(v1::MessageRead {
                user_id: user.0,
                message_id: message.0,
            }),
            EventKind::MessageUpdated { message, mentions } => Kind::MessageUpdated(v1::MessageUpdated {
                message_id: message.0,
                mentioned_user_ids: user_ids(mentions),
                mentions_everyone: mentions.everyone,
            }),
            EventKind::MessageDeleted { messages } => Kind::MessageDeleted(v1::MessageDeleted {
                message_ids: messages.iter().map(|message| message.0).collect(),
            }),
            EventKind::MessageMarkedUnread { user, message } => {
                Kind::MessageMarkedUnread(v1::MessageMarkedUnread {
                    user_id: user.0,
                    message_id: message.0,
                })
            }
            EventKind::MemberJoined { user } => Kind::MemberJoined(v1::MemberJoined { user_id: user.0 }),
            EventKind::MemberLeft { user } => Kind::MemberLeft(v1::MemberLeft { user_id: user.0 }),
            EventKind::ChannelDeleted => Kind::ChannelDeleted(v1::ChannelDeleted {}),
        }
    }
}

fn user_ids(mentions: &Mentions) -> Vec<u64> {
    mentions.users.iter().map(|UserId(user)| *user).collect()
}
