//! Records of the stream: section 1 of the contract.

use prost::Message;

use crate::model::event::{Event, EventKind, Mentions};
use crate::model::ids::{ChannelId, MAX_ID, MessageId, PartitionId, UserId};

use super::event_json::event_from_json;
use super::headers;
use super::partitioner::{DecimalKey, is_key_of, partition_of_key};
use super::proto::v1;

/// How much of a key is shown in [`Unusable::detail`].
const SHOWN_KEY_BYTES_MAX: usize = 40;

/// Where a record was found.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The partition it is in.
    pub partition: PartitionId,
    /// How many partitions the stream has; at least 1.
    pub partition_count: u32,
    /// Whether a record without a key is as good as one with the right key: in JetStream.
    pub is_key_optional: bool,
}

/// How large a record may be. `limits.max_…` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLimits {
    /// Length of the value.
    pub event_bytes_max: usize,
    /// Users mentioned by name in one message, repetitions counted: it is what was sent that is limited.
    pub mentions_max: usize,
    /// Messages in one `MessageDeleted`, repetitions counted.
    pub deletes_max: usize,
}

impl Default for RecordLimits {
    /// Those of a service whose `limits` were not changed.
    fn default() -> Self {
        RecordLimits {
            event_bytes_max: 1_048_576,
            mentions_max: 10_000,
            deletes_max: 10_000,
        }
    }
}

/// Why a record can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its value is neither protobuf nor JSON of an event.
    Undecodable,
    /// It says something that can't be.
    Invalid,
    /// It is in the wrong partition.
    Misrouted,
}

impl Reason {
    /// As in the dead letter's header and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Undecodable => "undecodable",
            Reason::Invalid => "invalid",
            Reason::Misrouted => "misrouted",
        }
    }
}

/// A record that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.name())]
pub struct Unusable {
    /// Why.
    pub reason: Reason,
    /// What exactly, for the log.
    pub detail: String,
}

/// Decodes and checks a record, in the order that the contract gives: size, decoding, kind, ids, limits, key, partition.
///
/// `json` says that the value is JSON (see [`is_json`]) and not protobuf. Of an event with two kinds, protobuf takes
/// the last; JSON does not decode then.
///
/// # Errors
/// Why the record goes to the dead letters.
///
/// # Panics
/// If the place has 0 partitions.
pub fn decode(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    json: bool,
    place: Place,
    limits: &RecordLimits,
) -> Result<Event, Unusable> {
    let value = value.unwrap_or_default();
    if value.len() > limits.event_bytes_max {
        return Err(invalid(format!(
            "the value has {} bytes, limits.max_event_bytes is {}",
            value.len(),
            limits.event_bytes_max
        )));
    }
    if value.is_empty() {
        return Err(invalid("there is no value".to_owned()));
    }
    let event = event_from_bytes(value, json)?;
    let event = check(event, limits).map_err(invalid)?;
    match key {
        None if place.is_key_optional => {
            check_partition(DecimalKey::new(event.channel).as_bytes(), place)?;
        }
        key => check_partition(check_key(key, event.channel)?, place)?,
    }
    Ok(event)
}

/// The value of a record: protobuf.
pub fn encode_event(event: &Event) -> Vec<u8> {
    v1::Event::from(event).encode_to_vec()
}

/// Whether the headers of a record say that its value is JSON. Of several that say what it is, the last one counts.
pub fn is_json<'a>(record_headers: impl DoubleEndedIterator<Item = (&'a str, Option<&'a [u8]>)>) -> bool {
    record_headers
        .rev()
        .find(|(name, _)| name.eq_ignore_ascii_case(headers::CONTENT_TYPE))
        .and_then(|(_, value)| value)
        .is_some_and(headers::is_json_content_type)
}

/// Checks kind, ids and limits of an event, and turns it into the model's.
///
/// # Errors
/// The first thing that is wrong: such a record is [`Reason::Invalid`].
pub fn check(event: v1::Event, limits: &RecordLimits) -> Result<Event, String> {
    use v1::event::Kind;
    let Some(kind) = event.kind else {
        return Err("it has no kind that is known here".to_owned());
    };
    let channel = ChannelId(id("channel_id", event.channel_id)?);
    let kind = match kind {
        Kind::MessageCreated(it) => EventKind::MessageCreated {
            message: message(it.message_id)?,
            author: match it.author_id {
                0 => None,
                author => Some(UserId(id("author_id", author)?)),
            },
            mentions: mentions(it.mentioned_user_ids, it.mentions_everyone, limits)?,
        },
        Kind::MessageRead(it) => EventKind::MessageRead {
            user: user(it.user_id)?,
            message: message(it.message_id)?,
        },
        Kind::MessageUpdated(it) => EventKind::MessageUpdated {
            message: message(it.message_id)?,
            mentions: mentions(it.mentioned_user_ids, it.mentions_everyone, limits)?,
        },
        Kind::MessageDeleted(it) => EventKind::MessageDeleted {
            messages: deletes(it.message_ids, limits)?,
        },
        Kind::MessageMarkedUnread(it) => EventKind::MessageMarkedUnread {
            user: user(it.user_id)?,
            message: message(it.message_id)?,
        },
        Kind::MemberJoined(it) => EventKind::MemberJoined {
            user: user(it.user_id)?,
        },
        Kind::MemberLeft(it) => EventKind::MemberLeft {
            user: user(it.user_id)?,
        },
        Kind::ChannelDeleted(v1::ChannelDeleted {}) => EventKind::ChannelDeleted,
    };
    Ok(Event { channel, kind })
}

fn event_from_bytes(value: &[u8], json: bool) -> Result<v1::Event, Unusable> {
    let (form, event) = if json {
        ("JSON", event_from_json(value))
    } else {
        (
            "protobuf",
            v1::Event::decode(value).map_err(|error| error.to_string()),
        )
    };
    event.map_err(|error| Unusable {
        reason: Reason::Undecodable,
        detail: format!("the value is no event in {form}: {error}"),
    })
}

/// Returns the key, which is the channel id.
fn check_key(key: Option<&[u8]>, channel: ChannelId) -> Result<&[u8], Unusable> {
    match key {
        Some(key) if is_key_of(key, channel) => Ok(key),
        Some(key) => {
            let shown = &key[..key.len().min(SHOWN_KEY_BYTES_MAX)];
            Err(invalid(format!(
                "the key must be the channel id {channel} in decimal ASCII, not \"{}\"{}",
                shown.escape_ascii(),
                if shown.len() < key.len() { " and more" } else { "" }
            )))
        }
        None => Err(invalid(format!(
            "there is no key; it must be the channel id {channel} in decimal ASCII"
        ))),
    }
}

fn check_partition(key: &[u8], place: Place) -> Result<(), Unusable> {
    let Place {
        partition,
        partition_count,
        ..
    } = place;
    let right = partition_of_key(key, partition_count);
    if right == partition {
        return Ok(());
    }
    Err(Unusable {
        reason: Reason::Misrouted,
        detail: format!(
            "channel {} belongs to partition {right} of {partition_count}, and the record is in {partition}: its \
             publisher must partition as Kafka's Java client does (librdkafka: partitioner=murmur2_random)",
            key.escape_ascii()
        ),
    })
}

pub(super) fn id(name: &str, id: u64) -> Result<u64, String> {
    if (1..=MAX_ID).contains(&id) {
        Ok(id)
    } else {
        Err(format!("{name} is {id}, and must be 1 to {MAX_ID}"))
    }
}

fn user(user_id: u64) -> Result<UserId, String> {
    id("user_id", user_id).map(UserId)
}

fn message(message_id: u64) -> Result<MessageId, String> {
    id("message_id", message_id).map(MessageId)
}

fn mentions(user_ids: Vec<u64>, everyone: bool, limits: &RecordLimits) -> Result<Mentions, String> {
    let sent = user_ids.len();
    let users = user_ids
        .into_iter()
        .map(|user| id("mentioned_user_ids", user).map(UserId))
        .collect::<Result<_, _>>()?;
    if sent > limits.mentions_max {
        return Err(format!(
            "it mentions {sent} users by name, limits.max_mentions is {}",
            limits.mentions_max
        ));
    }
    Ok(Mentions::new(users, everyone))
}

fn deletes(message_ids: Vec<u64>, limits: &RecordLimits) -> Result<Vec<MessageId>, String> {
    let sent = message_ids.len();
    let mut messages = message_ids
        .into_iter()
        .map(|message| id("message_ids", message).map(MessageId))
        .collect::<Result<Vec<_>, _>>()?;
    if sent > limits.deletes_max {
        return Err(format!(
            "it deletes {sent} messages, limits.max_deletes is {}",
            limits.deletes_max
        ));
    }
    messages.sort_unstable();
    messages.dedup();
    Ok(messages)
}

fn invalid(detail: String) -> Unusable {
    Unusable {
        reason: Reason::Invalid,
        detail,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::partitioner::partition_of;
    use super::*;

    const LIMITS: RecordLimits = RecordLimits {
        event_bytes_max: 200,
        mentions_max: 3,
        deletes_max: 2,
    };
    const COUNT: u32 = 16;

    /// Decodes JSON in the right partition, under the right key.
    fn decode_json(channel: u64, json: &str) -> Result<Event, Unusable> {
        decode_at(channel, Some(&channel.to_string()), Some(json.as_bytes()), true)
    }

    fn decode_at(
        channel: u64,
        key: Option<&str>,
        value: Option<&[u8]>,
        json: bool,
    ) -> Result<Event, Unusable> {
        let place = Place {
            partition: partition_of(ChannelId(channel), COUNT),
            partition_count: COUNT,
            is_key_optional: false,
        };
        decode(key.map(str::as_bytes), value, json, place, &LIMITS)
    }

    #[track_caller]
    fn check_reason(result: Result<Event, Unusable>, reason: Reason, detail: &str) {
        let unusable = result.unwrap_err();
        assert_eq!(unusable.reason, reason, "{unusable}");
        assert!(unusable.detail.contains(detail), "{unusable}");
    }

    #[test]
    fn names_ids_and_unknown_fields_of_json() {
        let expected = Event {
            channel: ChannelId(7),
            kind: EventKind::MessageCreated {
                message: MessageId(MAX_ID),
                author: None,
                mentions: Mentions::new(vec![UserId(2), UserId(3)], true),
            },
        };
        for json in [
            r#"{"channelId":"7","messageCreated":{"messageId":"9223372036854775807","mentionedUserIds":["3","2","3"],"mentionsEveryone":true}}"#,
            r#"{"channel_id":7,"message_created":{"message_id":9223372036854775807,"author_id":0,"mentioned_user_ids":[2,3],"mentions_everyone":true}}"#,
            r#" {"new":{"a":[1]},"messageRead":null,"channelId":7.0,"messageCreated":{"messageId":9223372036854775807,"authorId":null,"mentionedUserIds":[2,"3"],"mentionsEveryone":true,"b":null}} "#,
        ] {
            assert_eq!(decode_json(7, json), Ok(expected.clone()), "{json}");
        }
    }

    #[test]
    fn what_json_is_no_event() {
        for json in [
            " ",
            "null",
            "[]",
            "{",
            r#"{"channelId":"7","channelDeleted":{}} x"#,
            r#"{"channelId":"7","memberLeft":{"userId":-1}}"#,
            r#"{"channelId":"7","memberLeft":{"userId":1.5}}"#,
            r#"{"channelId":"7","memberLeft":{"userId":"0x1"}}"#,
            r#"{"channelId":"7","memberLeft":{"userId":true}}"#,
            r#"{"channelId":"7","memberLeft":7}"#,
            r#"{"channelId":"7","memberLeft":{"userId":1},"memberJoined":{"userId":1}}"#,
            r#"{"channelId":"7","messageDeleted":{"messageIds":[null]}}"#,
        ] {
            check_reason(decode_json(7, json), Reason::Undecodable, "no event in JSON");
        }
        check_reason(
            decode_at(7, Some("7"), Some(&[0x08]), false),
            Reason::Undecodable,
            "no event in protobuf",
        );
    }

    #[test]
    fn the_size_of_the_value_is_limited() {
        let of_size = |size| {
            decode_json(
                7,
                &format!("{:size$}", r#"{"channelId":"7","channelDeleted":{}}"#),
            )
        };
        assert!(of_size(200).is_ok());
        check_reason(
            of_size(201),
            Reason::Invalid,
            "has 201 bytes, limits.max_event_bytes is 200",
        );
    }

    #[test]
    fn ids_are_1_to_the_largest() {
        for json in [
            r#"{"channelId":"0","channelDeleted":{}}"#,
            r#"{"channelId":"9223372036854775808","channelDeleted":{}}"#,
            r#"{"channelId":"7","memberLeft":{}}"#,
            r#"{"channelId":"7","memberJoined":{"userId":"18446744073709551615"}}"#,
            r#"{"channelId":"7","messageRead":{"userId":"1"}}"#,
            r#"{"channelId":"7","messageMarkedUnread":{"messageId":"1"}}"#,
            r#"{"channelId":"7","messageUpdated":{"messageId":"1","mentionedUserIds":["0"]}}"#,
            r#"{"channelId":"7","messageDeleted":{"messageIds":["1","0"]}}"#,
            r#"{"channelId":"7","messageCreated":{"messageId":"1","authorId":"9223372036854775808"}}"#,
        ] {
            check_reason(
                decode_json(7, json),
                Reason::Invalid,
                "must be 1 to 9223372036854775807",
            );
        }
    }

    #[test]
    fn lists_are_sorted_and_limited_as_they_were_sent() {
        let deletes = |ids: &str| {
            let json = format!(r#"{{"channelId":"7","messageDeleted":{{"messageIds":[{ids}]}}}}"#);
            decode_json(7, &json).map(|event| event.kind)
        };
        let messages = |ids: &[u64]| {
            Ok(EventKind::MessageDeleted {
                messages: ids.iter().copied().map(MessageId).collect(),
            })
        };
        assert_eq!(deletes(""), messages(&[]));
        assert_eq!(deletes("5,4"), messages(&[4, 5]));
        assert_eq!(deletes("4,4"), messages(&[4]));
        let three = r#"{"channelId":"7","messageDeleted":{"messageIds":[4,4,4]}}"#;
        check_reason(decode_json(7, three), Reason::Invalid, "deletes 3 messages");
        let four = r#"{"channelId":"7","messageUpdated":{"messageId":1,"mentionedUserIds":[1,1,1,1]}}"#;
        check_reason(decode_json(7, four), Reason::Invalid, "mentions 4 users");
    }

    #[test]
    fn the_last_of_two_kinds_counts_and_an_unknown_one_is_none() {
        let joined = v1::Event {
            channel_id: 7,
            kind: Some(v1::event::Kind::MemberJoined(v1::MemberJoined { user_id: 1 })),
        };
        let left = v1::Event {
            channel_id: 7,
            kind: Some(v1::event::Kind::MemberLeft(v1::MemberLeft { user_id: 2 })),
        };
        let both = [joined.encode_to_vec(), left.encode_to_vec()].concat();
        assert_eq!(
            decode_at(7, Some("7"), Some(&both), false).map(|event| event.kind),
            Ok(EventKind::MemberLeft { user: UserId(2) })
        );
        let channel_only = v1::Event {
            channel_id: 7,
            kind: None,
        };
        // Field 10, one byte long: a kind that this version does not know.
        let unknown = [channel_only.encode_to_vec(), vec![10 << 3 | 2, 1, 0]].concat();
        check_reason(
            decode_at(7, Some("7"), Some(&unknown), false),
            Reason::Invalid,
            "no kind",
        );
        check_reason(decode_json(7, r#"{"channelId":"7"}"#), Reason::Invalid, "no kind");
    }

    #[test]
    fn the_key_is_the_channel_in_canonical_decimal() {
        let event = encode_event(&Event {
            channel: ChannelId(7),
            kind: EventKind::ChannelDeleted,
        });
        assert!(decode_at(7, Some("7"), Some(&event), false).is_ok());
        for key in ["", "07", "+7", " 7", "7 ", "8", "7.0", "\u{0}", &"9".repeat(1000)] {
            check_reason(
                decode_at(7, Some(key), Some(&event), false),
                Reason::Invalid,
                "must be the channel id 7",
            );
        }
        check_reason(decode_at(7, None, Some(&event), false), Reason::Invalid, "no key");
    }

    #[test]
    fn where_the_key_is_optional_the_channel_tells_the_partition() {
        let event = encode_event(&Event {
            channel: ChannelId(7),
            kind: EventKind::ChannelDeleted,
        });
        let right = partition_of(ChannelId(7), COUNT);
        let at = |partition: u32, key: Option<&str>| {
            let place = Place {
                partition: PartitionId(partition),
                partition_count: COUNT,
                is_key_optional: true,
            };
            let key = key.map(str::as_bytes);
            decode(key, Some(&event), false, place, &LIMITS).map_err(|unusable| unusable.reason)
        };
        assert!(at(right.0, None).is_ok() && at(right.0, Some("7")).is_ok());
        assert_eq!(at((right.0 + 1) % COUNT, None), Err(Reason::Misrouted));
        assert_eq!(
            at(right.0, Some("8")),
            Err(Reason::Invalid),
            "one that is there counts"
        );
    }

    #[test]
    fn checks_come_in_the_order_of_the_contract() {
        let right = partition_of(ChannelId(7), COUNT);
        let wrong = Place {
            partition: PartitionId((right.0 + 1) % COUNT),
            partition_count: COUNT,
            is_key_optional: false,
        };
        let check = |key: &str, value: &[u8], reason, detail| {
            check_reason(
                decode(Some(key.as_bytes()), Some(value), true, wrong, &LIMITS),
                reason,
                detail,
            );
        };
        // Each value is wrong in the way expected and in all those that come later.
        check("8", &[b'{'; 201], Reason::Invalid, "has 201 bytes");
        check("8", b"", Reason::Invalid, "no value");
        check("8", b"{", Reason::Undecodable, "no event");
        check("8", b"{}", Reason::Invalid, "no kind");
        let ids = br#"{"channelId":7,"messageDeleted":{"messageIds":[0,1,1]}}"#;
        check("8", ids, Reason::Invalid, "message_ids is 0");
        check(
            "8",
            br#"{"channelId":7,"channelDeleted":{}}"#,
            Reason::Invalid,
            "the key",
        );
        let misrouted = "murmur2_random";
        check(
            "7",
            br#"{"channelId":7,"channelDeleted":{}}"#,
            Reason::Misrouted,
            misrouted,
        );
        check_reason(
            decode(None, None, false, wrong, &LIMITS),
            Reason::Invalid,
            "no value",
        );
    }

    #[test]
    fn the_last_content_type_of_a_record_counts() {
        let headers = |values: &[(&str, Option<&[u8]>)]| is_json(values.iter().copied());
        let json: Option<&[u8]> = Some(b"application/json");
        let protobuf: Option<&[u8]> = Some(b"application/protobuf");
        assert!(headers(&[
            ("trace", None),
            ("content-type", json),
            ("other", protobuf)
        ]));
        assert!(headers(&[("Content-Type", protobuf), ("Content-Type", json)]));
        assert!(!headers(&[("content-type", json), ("content-type", protobuf)]));
        assert!(!headers(&[("content-type", None), ("content", json)]));
        assert!(!headers(&[]));
    }
}
