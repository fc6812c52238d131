//! Proves that whatever comes in from outside, records and requests, decodes or is refused, and never does harm: no
//! panic, no deep stack, no event that breaks a limit. Bytes at random, valid encodings with a few bytes changed, and the
//! same message in both forms.

#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use prost::{Message, Name};
use readstates::model::event::{Event, EventKind};
use readstates::model::ids::{ChannelId, MAX_ID, PartitionId};
use readstates::wire::event_json::event_from_json;
use readstates::wire::json::{from_json, to_json};
use readstates::wire::partitioner::partition_of;
use readstates::wire::proto::v1;
use readstates::wire::query::{Form, decode_request, encode_reply};
use readstates::wire::record::{Place, Reason, RecordLimits, Unusable, decode, encode_event};
use serde_json::{Value, json};

const LIMITS: RecordLimits = RecordLimits {
    event_bytes_max: 2000,
    mentions_max: 6,
    deletes_max: 6,
};
const PARTITIONS: u32 = 16;

fn place(channel: u64) -> Place {
    Place {
        partition: partition_of(ChannelId(channel), PARTITIONS),
        partition_count: PARTITIONS,
        is_key_optional: false,
    }
}

/// Ids in range, with small and largest ones often.
fn id() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![4 => 1..=4_u64, 4 => 1..=MAX_ID, 1 => Just(MAX_ID), 1 => Just((1 << 53) + 1)]
}

/// Ids that are now and then out of range.
fn any_id() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![12 => id(), 1 => Just(0), 1 => Just(MAX_ID + 1), 1 => any::<u64>()]
}

/// Events of every kind, and some of none.
fn event(id: impl Strategy<Value = u64> + Clone + 'static) -> impl Strategy<Value = v1::Event> {
    use v1::event::Kind;
    let ids = || vec(id.clone(), 0..8);
    let pair = || (id.clone(), id.clone());
    let author = prop_oneof![1 => Just(0), 4 => id.clone()];
    let kind = prop_oneof![
        (id.clone(), author, ids(), any::<bool>()).prop_map(|(message_id, author_id, users, everyone)| {
            Kind::MessageCreated(v1::MessageCreated {
                message_id,
                author_id,
                mentioned_user_ids: users,
                mentions_everyone: everyone,
            })
        }),
        pair().prop_map(|(user_id, message_id)| Kind::MessageRead(v1::MessageRead { user_id, message_id })),
        (id.clone(), ids(), any::<bool>()).prop_map(|(message_id, users, everyone)| {
            Kind::MessageUpdated(v1::MessageUpdated {
                message_id,
                mentioned_user_ids: users,
                mentions_everyone: everyone,
            })
        }),
        ids().prop_map(|message_ids| Kind::MessageDeleted(v1::MessageDeleted { message_ids })),
        pair().prop_map(|(user_id, message_id)| {
            Kind::MessageMarkedUnread(v1::MessageMarkedUnread { user_id, message_id })
        }),
        id.clone()
            .prop_map(|user_id| Kind::MemberJoined(v1::MemberJoined { user_id })),
        id.clone()
            .prop_map(|user_id| Kind::MemberLeft(v1::MemberLeft { user_id })),
        Just(Kind::ChannelDeleted(v1::ChannelDeleted {})),
    ];
    (id, proptest::option::weighted(0.95, kind)).prop_map(|(channel_id, kind)| v1::Event { channel_id, kind })
}

/// A few bytes replaced, put in or left out, and perhaps the end cut off.
fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 1..5)
}

fn damaged(mut bytes: Vec<u8>, damage: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    for (at, what, byte) in damage {
        let at = at.index(bytes.len() + 1);
        match what {
            0 => bytes.insert(at, *byte),
            1 => bytes.truncate(at),
            _ if at == bytes.len() => {}
            2 => bytes[at] = *byte,
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

/// How JSON can be written that is the same event.
#[derive(Clone, Copy, Debug)]
struct Style {
    names_of_the_schema: bool,
    ids_as_numbers: bool,
    defaults_left_out: bool,
}

fn style() -> impl Strategy<Value = Style> {
    any::<[bool; 3]>().prop_map(|[a, b, c]| Style {
        names_of_the_schema: a,
        ids_as_numbers: b,
        defaults_left_out: c,
    })
}

fn restyled(value: Value, style: Style) -> Value {
    match value {
        Value::Object(map) => {
            let is_default = |value: &Value| [json!("0"), json!(0), json!(false), json!([])].contains(value);
            let entries = map
                .into_iter()
                .filter(|(_, value)| !(style.defaults_left_out && is_default(value)))
                .map(|(name, value)| {
                    let snake = |c: char| match c.is_ascii_uppercase() {
                        true => format!("_{}", c.to_ascii_lowercase()),
                        false => c.to_string(),
                    };
                    let name = match style.names_of_the_schema {
                        true => name.chars().map(snake).collect(),
                        false => name,
                    };
                    (name, restyled(value, style))
                });
            Value::Object(entries.collect())
        }
        Value::Array(values) => values.into_iter().map(|value| restyled(value, style)).collect(),
        Value::String(digits) if style.ids_as_numbers => json!(digits.parse::<u64>().unwrap()),
        other => other,
    }
}

/// What must hold of every event that was let in.
fn check_event(event: &Event, key: Option<&[u8]>, value: Option<&[u8]>, place: Place) {
    assert_eq!(key, Some(event.channel.to_string().as_bytes()));
    assert_eq!(
        partition_of(event.channel, place.partition_count),
        place.partition
    );
    assert!((1..=LIMITS.event_bytes_max).contains(&value.map_or(0, <[u8]>::len)));
    let (users, messages) = match &event.kind {
        EventKind::MessageCreated {
            message,
            author,
            mentions,
        } => {
            let users = mentions.users.iter().map(|user| user.0);
            (
                users.chain(author.map(|author| author.0)).collect(),
                vec![message.0],
            )
        }
        EventKind::MessageUpdated { message, mentions } => (
            mentions.users.iter().map(|user| user.0).collect(),
            vec![message.0],
        ),
        EventKind::MessageDeleted { messages } => {
            (vec![], messages.iter().map(|message| message.0).collect())
        }
        EventKind::MessageRead { user, message } | EventKind::MessageMarkedUnread { user, message } => {
            (vec![user.0], vec![message.0])
        }
        EventKind::MemberJoined { user } | EventKind::MemberLeft { user } => (vec![user.0], vec![]),
        EventKind::ChannelDeleted => (vec![], vec![]),
    };
    let ids = users.iter().chain(&messages).chain([&event.channel.0]);
    assert!(ids.into_iter().all(|id| (1..=MAX_ID).contains(id)), "{event:?}");
    assert!(
        users.len() <= LIMITS.mentions_max + 1 && messages.len() <= LIMITS.deletes_max,
        "{event:?}"
    );
    assert!(messages.is_sorted_by(|a, b| a < b), "{event:?}");
    if let EventKind::MessageCreated { mentions, .. } | EventKind::MessageUpdated { mentions, .. } =
        &event.kind
    {
        assert!(mentions.users.is_sorted_by(|a, b| a < b), "{event:?}");
    }
}

/// Decodes, and checks what must hold of any result.
fn decode_checked(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    json: bool,
    place: Place,
) -> Result<Event, Unusable> {
    let decoded = decode(key, value, json, place, &LIMITS);
    match &decoded {
        Ok(event) => check_event(event, key, value, place),
        Err(unusable) => assert!(
            unusable.detail.len() < 1000,
            "{} bytes of detail",
            unusable.detail.len()
        ),
    }
    decoded
}

/// The reason why a record of this event can't be used, said a second time.
fn expected_reason(event: &v1::Event) -> Option<Reason> {
    use v1::event::Kind;
    let (ids, mentions, deletes) = match event.kind.clone() {
        None => return Some(Reason::Invalid),
        Some(Kind::MessageCreated(it)) => {
            let author = if it.author_id == 0 { 1 } else { it.author_id };
            let mentions = it.mentioned_user_ids.len();
            (
                [vec![it.message_id, author], it.mentioned_user_ids].concat(),
                mentions,
                0,
            )
        }
        Some(Kind::MessageUpdated(it)) => {
            let mentions = it.mentioned_user_ids.len();
            ([vec![it.message_id], it.mentioned_user_ids].concat(), mentions, 0)
        }
        Some(Kind::MessageDeleted(it)) => (it.message_ids.clone(), 0, it.message_ids.len()),
        Some(Kind::MessageRead(it)) => (vec![it.user_id, it.message_id], 0, 0),
        Some(Kind::MessageMarkedUnread(it)) => (vec![it.user_id, it.message_id], 0, 0),
        Some(Kind::MemberJoined(it)) => (vec![it.user_id], 0, 0),
        Some(Kind::MemberLeft(it)) => (vec![it.user_id], 0, 0),
        Some(Kind::ChannelDeleted(_)) => (vec![], 0, 0),
    };
    let bad = |id: &u64| *id == 0 || *id > MAX_ID;
    let invalid = bad(&event.channel_id)
        || ids.iter().any(bad)
        || mentions > LIMITS.mentions_max
        || deletes > LIMITS.deletes_max;
    invalid.then_some(Reason::Invalid)
}

/// A request in both forms is the same request, and is damaged without harm.
fn check_request<T: Message + Name + Default + PartialEq + Clone + Debug>(
    request: &T,
    damage: &[(prop::sample::Index, u8, u8)],
) {
    for form in [Form::Protobuf, Form::Json] {
        let payload = encode_reply(request, form);
        for content_type_json in [false, true] {
            let decoded = decode_request::<T>(&payload, content_type_json);
            if form == Form::Json || !content_type_json {
                assert_eq!(decoded, Ok((request.clone(), form)));
            }
            let damaged = damaged(payload.clone(), damage);
            if let Ok((_, form)) = decode_request::<T>(&damaged, content_type_json) {
                assert_eq!(form == Form::Json, content_type_json || damaged.starts_with(b"{"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn bytes_at_random_do_no_harm(
        key in proptest::option::of(vec(any::<u8>(), 0..30)),
        value in proptest::option::of(vec(any::<u8>(), 0..300)),
        partition in 0..PARTITIONS,
    ) {
        let place = Place { partition: PartitionId(partition), partition_count: PARTITIONS, is_key_optional: false };
        for json in [false, true] {
            let _ = decode_checked(key.as_deref(), value.as_deref(), json, place);
        }
        let payload = value.unwrap_or_default();
        for json in [false, true] {
            let _ = decode_request::<v1::GetRequest>(&payload, json);
            let _ = decode_request::<v1::OverviewRequest>(&payload, json);
        }
    }

    #[test]
    fn an_event_is_the_same_in_both_forms(event in event(any_id())) {
        let key = event.channel_id.to_string();
        let of = |value: Vec<u8>, json| {
            decode_checked(Some(key.as_bytes()), Some(&value), json, place(event.channel_id))
        };
        let from_protobuf = match event.encode_to_vec() {
            // No channel and no kind: nothing at all is written.
            value if value.is_empty() => return Ok(()),
            value => of(value, false),
        };
        prop_assert_eq!(&from_protobuf, &of(to_json(&event), true));
        prop_assert_eq!(from_protobuf.err().map(|unusable| unusable.reason), expected_reason(&event));
    }

    /// Also of what is no event: the same refusal, word by word.
    #[test]
    fn json_is_read_the_same_with_and_without_reflection(
        event in event(any_id()),
        style in style(),
        damage in damage(),
    ) {
        let json = restyled(serde_json::from_slice(&to_json(&event)).unwrap(), style).to_string().into_bytes();
        prop_assert_eq!(event_from_json(&json), Ok(event));
        let damaged = damaged(json, &damage);
        prop_assert_eq!(event_from_json(&damaged), from_json(&damaged));
    }

    #[test]
    fn what_was_decoded_encodes_to_the_same_event(event in event(id())) {
        let key = event.channel_id.to_string();
        let of = |value: &[u8]| decode_checked(Some(key.as_bytes()), Some(value), false, place(event.channel_id));
        if let Ok(first) = of(&event.encode_to_vec()) {
            prop_assert_eq!(of(&encode_event(&first)), Ok(first));
        }
    }

    #[test]
    fn damaged_events_do_no_harm(event in event(any_id()), damage in damage()) {
        let key = event.channel_id.to_string();
        for (value, json) in [(event.encode_to_vec(), false), (to_json(&event), true)] {
            let value = damaged(value, &damage);
            let _ = decode_checked(Some(key.as_bytes()), Some(&value), json, place(event.channel_id));
        }
    }

    #[test]
    fn the_wrong_partition_or_key_is_noticed(event in event(id()), partition in 0..PARTITIONS, key in id()) {
        let right = event.channel_id.to_string();
        let value = event.encode_to_vec();
        let elsewhere = Place { partition: PartitionId(partition), partition_count: PARTITIONS, is_key_optional: false };
        let misrouted = partition_of(ChannelId(event.channel_id), PARTITIONS) != elsewhere.partition;
        let reason = decode_checked(Some(right.as_bytes()), Some(&value), false, elsewhere)
            .err()
            .map(|unusable| unusable.reason);
        prop_assert_eq!(reason, expected_reason(&event).or(misrouted.then_some(Reason::Misrouted)));
        if key != event.channel_id {
            let wrong = key.to_string();
            let decoded = decode_checked(Some(wrong.as_bytes()), Some(&value), false, place(event.channel_id));
            prop_assert_eq!(decoded.unwrap_err().reason, Reason::Invalid);
        }
    }

    #[test]
    fn requests_are_the_same_in_both_forms(
        keys in vec((any::<u64>(), any::<u64>()), 0..5),
        after in vec((any::<u32>(), any::<u64>()), 0..5),
        flags in any::<[bool; 2]>(),
        numbers in any::<(u64, u32, u64)>(),
        damage in damage(),
    ) {
        let key = |(user_id, channel_id)| v1::Key { user_id, channel_id };
        let position = |(partition, offset)| v1::Position { partition, offset };
        let get = v1::GetRequest {
            keys: keys.iter().copied().map(key).collect(),
            after: after.into_iter().map(position).collect(),
            partial: flags[0],
        };
        let overview = v1::OverviewRequest {
            user_id: numbers.0,
            only_unread: flags[1],
            limit: numbers.1,
            after_channel_id: numbers.2,
            partial: flags[0],
        };
        check_request(&get, &damage);
        check_request(&overview, &damage);
        check_request(&v1::StatusRequest {}, &damage);
        check_request(&keys.first().copied().map(key).unwrap_or_default(), &damage);
    }
}

/// Far deeper than any stack: a decoder that recursed would not come back.
#[test]
fn nesting_has_a_limit() {
    const DEPTH: usize = 1_000_000;
    let limits = RecordLimits {
        event_bytes_max: usize::MAX,
        ..LIMITS
    };
    let of = |value: &[u8], json| decode(Some(b"7"), Some(value), json, place(7), &limits);
    let nested = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let unknown = format!(r#"{{"later":{nested},"channelId":"7","channelDeleted":{{}}}}"#);
    assert!(of(unknown.as_bytes(), true).is_ok());
    let known = format!(r#"{{"channelId":{nested}}}"#);
    assert_eq!(
        of(known.as_bytes(), true).unwrap_err().reason,
        Reason::Undecodable
    );
    assert_eq!(
        of(nested.as_bytes(), true).unwrap_err().reason,
        Reason::Undecodable
    );
    // Field 15 as a group that begins a million times.
    let groups = vec![15 << 3 | 3; DEPTH];
    assert_eq!(of(&groups, false).unwrap_err().reason, Reason::Undecodable);
}
