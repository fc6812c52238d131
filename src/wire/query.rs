//! Questions and their answers over NATS: section 3 of the contract.

use prost::{Message, Name};

use crate::model::ids::{ChannelId, PartitionId, ReadStateKey, UserId};
use crate::model::read_state::Membership;
use crate::partition::io::Answer;

use super::json::{from_json, to_json};
use super::proto::v1;
use super::record::id;

/// What a request is written in, and so its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The default.
    Protobuf,
    /// Canonical proto3 JSON.
    Json,
}

impl Form {
    /// The form of a request: JSON if its content type says so (see
    /// [`is_json_content_type`](super::headers::is_json_content_type)) or its first byte is `{`.
    pub fn of_request(payload: &[u8], content_type_json: bool) -> Self {
        // No message has a field whose tag would be this byte, so it is no protobuf.
        if content_type_json || payload.first() == Some(&b'{') {
            Form::Json
        } else {
            Form::Protobuf
        }
    }
}

/// Reads a request, and finds out in which form the reply is to be.
///
/// # Errors
/// What is wrong with it, for error 400.
pub fn decode_request<T: Message + Name + Default>(
    payload: &[u8],
    content_type_json: bool,
) -> Result<(T, Form), String> {
    let form = Form::of_request(payload, content_type_json);
    match form {
        Form::Protobuf => T::decode(payload).map_err(|error| error.to_string()),
        Form::Json => from_json(payload),
    }
    .map(|request| (request, form))
    .map_err(|error| format!("this is no {} in {form:?}: {error}", T::NAME))
}

/// Writes a reply. In JSON, default values (0, false, empty) are written out.
pub fn encode_reply<T: Message + Name>(reply: &T, form: Form) -> Vec<u8> {
    match form {
        Form::Protobuf => reply.encode_to_vec(),
        Form::Json => to_json(reply),
    }
}

impl TryFrom<&v1::Key> for ReadStateKey {
    /// What is wrong with it, for error 400.
    type Error = String;

    fn try_from(key: &v1::Key) -> Result<Self, String> {
        Ok(ReadStateKey {
            user: UserId(id("user_id", key.user_id)?),
            channel: ChannelId(id("channel_id", key.channel_id)?),
        })
    }
}

impl From<ReadStateKey> for v1::Key {
    fn from(key: ReadStateKey) -> Self {
        v1::Key {
            user_id: key.user.0,
            channel_id: key.channel.0,
        }
    }
}

/// An answer of `partition` as it goes out. Of a deleted channel all numbers are 0.
pub fn read_state(answer: &Answer, partition: PartitionId) -> v1::ReadState {
    let place = v1::ReadState {
        user_id: answer.key.user.0,
        channel_id: answer.key.channel.0,
        position: answer.position.map(|offset| v1::Position {
            partition: partition.0,
            offset: offset.0,
        }),
        ..v1::ReadState::default()
    };
    if answer.channel_deleted {
        return v1::ReadState {
            membership: v1::Membership::ChannelDeleted.into(),
            ..place
        };
    }
    v1::ReadState {
        last_read_message_id: answer.last_read.0,
        last_message_id: answer.last_message.0,
        unread_count: answer.unread,
        unread_count_capped: answer.unread_capped,
        mention_count: answer.mentions,
        direct_mention_count: answer.direct_mentions,
        mention_count_capped: answer.mentions_capped,
        membership: v1::Membership::from(answer.membership).into(),
        ..place
    }
}

/// In the place of an answer that can't be had, where the request allows that.
pub fn unavailable(key: ReadStateKey) -> v1::ReadState {
    v1::ReadState {
        user_id: key.user.0,
        channel_id: key.channel.0,
        unavailable: true,
        ..v1::ReadState::default()
    }
}

impl From<Membership> for v1::Membership {
    fn from(membership: Membership) -> Self {
        match membership {
            Membership::Unspecified => v1::Membership::Unspecified,
            Membership::Joined => v1::Membership::Joined,
            Membership::Left => v1::Membership::Left,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::ids::{MessageId, Offset};

    fn answer() -> Answer {
        Answer {
            key: ReadStateKey {
                user: UserId(7),
                channel: ChannelId(i64::MAX as u64),
            },
            exists: true,
            last_read: MessageId(1),
            last_message: MessageId(9),
            unread: 2,
            unread_capped: true,
            mentions: 3,
            direct_mentions: 4,
            mentions_capped: true,
            membership: Membership::Left,
            channel_deleted: false,
            position: Some(Offset(0)),
            explanation: None,
        }
    }

    fn json<T: Message + Name>(reply: &T) -> serde_json::Value {
        serde_json::from_slice(&encode_reply(reply, Form::Json)).unwrap()
    }

    #[test]
    fn json_replies_write_default_values_and_leave_out_what_is_absent() {
        let empty = json(&v1::ReadState::default());
        let expected = serde_json::json!({
            "userId": "0", "channelId": "0", "lastReadMessageId": "0", "lastMessageId": "0",
            "unreadCount": 0, "unreadCountCapped": false, "mentionCount": 0, "directMentionCount": 0,
            "mentionCountCapped": false, "membership": "MEMBERSHIP_UNSPECIFIED", "unavailable": false,
        });
        assert_eq!(empty, expected);
        assert_eq!(
            json(&v1::GetReply::default()),
            serde_json::json!({"readStates": []})
        );
        let overview = serde_json::json!({"readStates": [], "more": false, "missingPartitions": []});
        assert_eq!(json(&v1::OverviewReply::default()), overview);
        let explain = serde_json::json!({"lines": [], "facts": {}});
        assert_eq!(json(&v1::ExplainReply::default()), explain);
        let status = json(&v1::PartitionStatus {
            applied_offset: Some(0),
            ..Default::default()
        });
        assert_eq!(status["appliedOffset"], "0");
        assert_eq!(status.get("durableOffset"), None);
        assert_eq!(status["appliedLagSeconds"], 0.0);
    }

    #[test]
    fn every_number_of_an_answer_goes_out() {
        let expected = serde_json::json!({
            "userId": "7", "channelId": "9223372036854775807", "lastReadMessageId": "1", "lastMessageId": "9",
            "unreadCount": 2, "unreadCountCapped": true, "mentionCount": 3, "directMentionCount": 4,
            "mentionCountCapped": true, "membership": "MEMBERSHIP_LEFT",
            "position": {"partition": 5, "offset": "0"}, "unavailable": false,
        });
        assert_eq!(json(&read_state(&answer(), PartitionId(5))), expected);
    }

    #[test]
    fn a_deleted_channel_has_nothing_but_a_position() {
        let deleted = Answer {
            channel_deleted: true,
            ..answer()
        };
        let expected = v1::ReadState {
            user_id: 7,
            channel_id: i64::MAX as u64,
            membership: 3,
            position: Some(v1::Position {
                partition: 5,
                offset: 0,
            }),
            ..Default::default()
        };
        assert_eq!(read_state(&deleted, PartitionId(5)), expected);
    }

    #[test]
    fn a_request_tells_its_form() {
        let request = v1::OverviewRequest {
            user_id: 7,
            only_unread: true,
            ..Default::default()
        };
        let protobuf = request.encode_to_vec();
        let with_space: &[u8] = br#" {"user_id": 7, "onlyUnread": true, "later": [{}]}"#;
        assert_eq!(decode_request(&protobuf, false), Ok((request, Form::Protobuf)));
        assert_eq!(decode_request(&with_space[1..], false), Ok((request, Form::Json)));
        assert_eq!(decode_request(with_space, true), Ok((request, Form::Json)));
        assert_eq!(
            decode_request(b"", false),
            Ok((v1::OverviewRequest::default(), Form::Protobuf))
        );
        for (malformed, json) in [
            (with_space, false),
            (b"", true),
            (b"[]", true),
            (b"{} {}", false),
            (&[0xff], false),
        ] {
            let error = decode_request::<v1::OverviewRequest>(malformed, json).unwrap_err();
            assert!(error.starts_with("this is no OverviewRequest in "), "{error}");
        }
    }

    #[test]
    fn ids_of_a_key_are_checked() {
        let key = |user_id, channel_id| ReadStateKey::try_from(&v1::Key { user_id, channel_id });
        let largest = i64::MAX as u64;
        assert_eq!(key(1, largest).map(|key| key.channel), Ok(ChannelId(largest)));
        for (user, channel) in [(0, 1), (1, 0), (largest + 1, 1), (1, u64::MAX)] {
            assert!(key(user, channel).is_err(), "{user} {channel}");
        }
    }
}
