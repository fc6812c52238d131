//! Events as the oracle takes them.

use readstates::oracle::Event;
use readstates::wire::proto::v1::{self, event::Kind};

/// An event with its channel.
pub fn oracle_event(event: v1::Event) -> (u64, Event) {
    let told = match event.kind.unwrap() {
        Kind::MessageCreated(it) => Event::MessageCreated {
            message: it.message_id,
            author: it.author_id,
            mentions: it.mentioned_user_ids,
            everyone: it.mentions_everyone,
        },
        Kind::MessageRead(it) => Event::MessageRead {
            user: it.user_id,
            message: it.message_id,
        },
        Kind::MessageUpdated(it) => Event::MessageUpdated {
            message: it.message_id,
            mentions: it.mentioned_user_ids,
            everyone: it.mentions_everyone,
        },
        Kind::MessageDeleted(it) => Event::MessageDeleted {
            messages: it.message_ids,
        },
        Kind::MessageMarkedUnread(it) => Event::MessageMarkedUnread {
            user: it.user_id,
            message: it.message_id,
        },
        Kind::MemberJoined(it) => Event::MemberJoined { user: it.user_id },
        Kind::MemberLeft(it) => Event::MemberLeft { user: it.user_id },
        Kind::ChannelDeleted(_) => Event::ChannelDeleted,
    };
    (event.channel_id, told)
}
