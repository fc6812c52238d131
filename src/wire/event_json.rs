//! JSON of events without reflection, which takes most of the time that it takes to publish one.
//!
//! Only what looks as usual is read here: anything else, whatever is wrong with it or unusual about it, goes the long way
//! through [`from_json`]. So there is one place that says what is allowed and what is wrong, and this one only has to be
//! right about what it takes: a subset, with the same result.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::json::from_json;
use super::proto::v1;
use super::proto::v1::event::Kind;

/// Decimal digits that fit into a `u64`, whichever they are.
const DIGITS_MAX: usize = 19;

/// Reads an event: the same as [`from_json`], faster.
///
/// # Errors
/// What is wrong, as there.
pub fn event_from_json(json: &[u8]) -> Result<v1::Event, String> {
    match usual_event(json) {
        Some(event) => Ok(event),
        None => from_json(json),
    }
}

/// The event, if it looks as usual: ids as decimal strings or whole numbers, each field at most once, no null.
fn usual_event(json: &[u8]) -> Option<v1::Event> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let Usual(event) = Usual::deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(event)
}

struct Usual(v1::Event);

/// The fields of all kinds. A field that a kind does not have is unknown in it, and so ignored; where its value is none
/// of this type, that is for the long way to see.
#[derive(Default)]
struct Fields {
    message_id: Option<u64>,
    author_id: Option<u64>,
    user_id: Option<u64>,
    mentioned_user_ids: Option<Vec<u64>>,
    mentions_everyone: Option<bool>,
    message_ids: Option<Vec<u64>>,
}

struct Id(u64);

enum Name {
    ChannelId,
    Kind(KindName),
    MessageId,
    AuthorId,
    UserId,
    MentionedUserIds,
    MentionsEveryone,
    MessageIds,
    Unknown,
}

enum KindName {
    MessageCreated,
    MessageRead,
    MessageUpdated,
    MessageDeleted,
    MessageMarkedUnread,
    MemberJoined,
    MemberLeft,
    ChannelDeleted,
}

impl Name {
    fn of(name: &str) -> Self {
        match name {
            "channelId" | "channel_id" => Name::ChannelId,
            "messageCreated" | "message_created" => Name::Kind(KindName::MessageCreated),
            "messageRead" | "message_read" => Name::Kind(KindName::MessageRead),
            "messageUpdated" | "message_updated" => Name::Kind(KindName::MessageUpdated),
            "messageDeleted" | "message_deleted" => Name::Kind(KindName::MessageDeleted),
            "messageMarkedUnread" | "message_marked_unread" => Name::Kind(KindName::MessageMarkedUnread),
            "memberJoined" | "member_joined" => Name::Kind(KindName::MemberJoined),
            "memberLeft" | "member_left" => Name::Kind(KindName::MemberLeft),
            "channelDeleted" | "channel_deleted" => Name::Kind(KindName::ChannelDeleted),
            "messageId" | "message_id" => Name::MessageId,
            "authorId" | "author_id" => Name::AuthorId,
            "userId" | "user_id" => Name::UserId,
            "mentionedUserIds" | "mentioned_user_ids" => Name::MentionedUserIds,
            "mentionsEveryone" | "mentions_everyone" => Name::MentionsEveryone,
            "messageIds" | "message_ids" => Name::MessageIds,
            _ => Name::Unknown,
        }
    }
}

impl KindName {
    fn with(self, fields: Fields) -> Kind {
        let message_id = fields.message_id.unwrap_or_default();
        let user_id = fields.user_id.unwrap_or_default();
        let mentioned_user_ids = fields.mentioned_user_ids.unwrap_or_default();
        let mentions_everyone = fields.mentions_everyone.unwrap_or_default();
        match self {
            KindName::MessageCreated => Kind::MessageCreated(v1::MessageCreated {
                message_id,
                author_id: fields.author_id.unwrap_or_default(),
                mentioned_user_ids,
                mentions_everyone,
            }),
            KindName::MessageRead => Kind::MessageRead(v1::MessageRead { user_id, message_id }),
            KindName::MessageUpdated => Kind::MessageUpdated(v1::MessageUpdated {
                message_id,
                mentioned_user_ids,
                mentions_everyone,
            }),
            KindName::MessageDeleted => Kind::MessageDeleted(v1::MessageDeleted {
                message_ids: fields.message_ids.unwrap_or_default(),
            }),
            KindName::MessageMarkedUnread => {
                Kind::MessageMarkedUnread(v1::MessageMarkedUnread { user_id, message_id })
            }
            KindName::MemberJoined => Kind::MemberJoined(v1::MemberJoined { user_id }),
            KindName::MemberLeft => Kind::MemberLeft(v1::MemberLeft { user_id }),
            KindName::ChannelDeleted => Kind::ChannelDeleted(v1::ChannelDeleted {}),
        }
    }
}

/// Takes the value of a field. Twice is unusual.
fn once<'de, T: Deserialize<'de>, U, M: MapAccess<'de>>(
    map: &mut M,
    field: &mut Option<U>,
    of: impl FnOnce(T) -> U,
) -> Result<(), M::Error> {
    let value = map.next_value()?;
    match field.replace(of(value)) {
        None => Ok(()),
        Some(_) => Err(M::Error::custom("twice")),
    }
}

fn ids(ids: Vec<Id>) -> Vec<u64> {
    ids.into_iter().map(|Id(id)| id).collect()
}

impl<'de> Deserialize<'de> for Usual {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UsualVisitor)
    }
}

struct UsualVisitor;

impl<'de> Visitor<'de> for UsualVisitor {
    type Value = Usual;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Usual, M::Error> {
        let mut channel_id = None;
        let mut kind: Option<Kind> = None;
        while let Some(name) = map.next_key()? {
            match name {
                Name::ChannelId => once(&mut map, &mut channel_id, |Id(id)| id)?,
                Name::Kind(name) => once(&mut map, &mut kind, |fields| name.with(fields))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Usual(v1::Event {
            channel_id: channel_id.unwrap_or_default(),
            kind,
        }))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fields of an event")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key()? {
            match name {
                Name::MessageId => once(&mut map, &mut fields.message_id, |Id(id)| id)?,
                Name::AuthorId => once(&mut map, &mut fields.author_id, |Id(id)| id)?,
                Name::UserId => once(&mut map, &mut fields.user_id, |Id(id)| id)?,
                Name::MentionedUserIds => once(&mut map, &mut fields.mentioned_user_ids, ids)?,
                Name::MentionsEveryone => once(&mut map, &mut fields.mentions_everyone, |flag: bool| flag)?,
                Name::MessageIds => once(&mut map, &mut fields.message_ids, ids)?,
                Name::ChannelId | Name::Kind(_) | Name::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
        Ok(Name::of(name))
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Id, E> {
        Ok(Id(id))
    }

    fn visit_str<E: Error>(self, id: &str) -> Result<Id, E> {
        let usual = (1..=DIGITS_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
        if !usual {
            return Err(E::custom("no usual id"));
        }
        let number = id
            .bytes()
            .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        Ok(Id(number))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::json::to_json;
    use super::*;

    #[test]
    fn every_kind_as_it_is_usually_written_goes_the_short_way() {
        let ids = vec![1, 9_223_372_036_854_775_807];
        let kinds = [
            Kind::MessageCreated(v1::MessageCreated {
                message_id: 2,
                author_id: 3,
                mentioned_user_ids: ids.clone(),
                mentions_everyone: true,
            }),
            Kind::MessageRead(v1::MessageRead {
                user_id: 4,
                message_id: 5,
            }),
            Kind::MessageUpdated(v1::MessageUpdated {
                message_id: 6,
                mentioned_user_ids: ids.clone(),
                mentions_everyone: true,
            }),
            Kind::MessageDeleted(v1::MessageDeleted { message_ids: ids }),
            Kind::MessageMarkedUnread(v1::MessageMarkedUnread {
                user_id: 7,
                message_id: 8,
            }),
            Kind::MemberJoined(v1::MemberJoined { user_id: 9 }),
            Kind::MemberLeft(v1::MemberLeft { user_id: 10 }),
            Kind::ChannelDeleted(v1::ChannelDeleted {}),
        ];
        for kind in kinds {
            let event = v1::Event {
                channel_id: 9_007_199_254_740_993,
                kind: Some(kind),
            };
            assert_eq!(usual_event(&to_json(&event)), Some(event));
        }
        let names_of_the_schema =
            br#"{"channel_id":7,"message_created":{"message_id":1,"later":[{"a":null}]},"new":1}"#;
        assert_eq!(
            usual_event(names_of_the_schema).unwrap(),
            from_json(names_of_the_schema).unwrap()
        );
    }

    /// Each of these would be an event to serde's derived code, or a different one.
    #[test]
    fn what_is_unusual_goes_the_long_way() {
        for (json, is_event) in [
            (r#"["7",{"messageId":1}]"#, false),
            (r#"{"channelId":"7","messageRead":["1","2"]}"#, false),
            (
                r#"{"channelId":"7","memberLeft":{"userId":1},"memberJoined":{"userId":1}}"#,
                false,
            ),
            (r#"{"channelId":"7","channelDeleted":{}} x"#, false),
            (r#"{"channelId":"7.0","channelDeleted":{}}"#, false),
            (r#"{"channelId":-1,"channelDeleted":{}}"#, false),
            (
                r#"{"channelId":"18446744073709551616","channelDeleted":{}}"#,
                false,
            ),
            (
                r#"{"channelId":"7","messageCreated":{"mentionsEveryone":"true"}}"#,
                false,
            ),
            (
                r#"{"channelId":"18446744073709551615","channelDeleted":{}}"#,
                true,
            ),
            (r#"{"channelId":"+7","channelDeleted":{}}"#, true),
            (r#"{"channelId":7e0,"channelDeleted":{}}"#, true),
            (r#"{"channelId":"7","channel_id":"8","channelDeleted":{}}"#, true),
            (
                r#"{"channelId":null,"messageRead":null,"channelDeleted":{}}"#,
                true,
            ),
            (
                r#"{"channelId":"7","channelDeleted":{"messageId":"not its field"}}"#,
                true,
            ),
        ] {
            assert_eq!(usual_event(json.as_bytes()), None, "{json}");
            assert_eq!(
                event_from_json(json.as_bytes()),
                from_json(json.as_bytes()),
                "{json}"
            );
            assert_eq!(event_from_json(json.as_bytes()).is_ok(), is_event, "{json}");
        }
    }
}
