use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// How long is looked at.
const MINUTES: u64 = 5;

fn chat(rate: u32, seed: u64) -> Chat {
    Chat::new(rate, seed, 1_700_000_000_000, &[])
}

/// What happens in so many minutes, after everyone has joined.
fn minutes(chat: &mut Chat, minutes: u64) -> Vec<Event> {
    let slices = minutes * 60_000 / SLICE_MS;
    (0..slices).flat_map(|_| chat.slice()).collect()
}

fn created(events: &[Event]) -> impl Iterator<Item = (u64, &MessageCreated)> {
    events.iter().filter_map(|event| match &event.kind {
        Some(Kind::MessageCreated(created)) => Some((event.channel_id, created)),
        _ => None,
    })
}

#[test]
fn the_same_seed_makes_the_same_chat() {
    let of = |seed| {
        let mut chat = chat(300, seed);
        (chat.begin(), minutes(&mut chat, 1))
    };
    assert_eq!(of(7), of(7));
    assert_ne!(of(7).1, of(8).1);
    assert_eq!(of(7).0, of(8).0, "who belongs where does not depend on it");
}

#[test]
fn the_rate_is_what_was_asked_for() {
    for rate in [1, 20, 200, 5000] {
        let made = minutes(&mut chat(rate, 3), MINUTES).len() as f64;
        let wanted = f64::from(rate) * 60.0 * MINUTES as f64;
        assert!((made / wanted - 1.0).abs() < 0.05, "{made} of {wanted}");
    }
    // One mention of everyone a minute is there whatever the rate.
    assert_eq!(
        created(&minutes(&mut chat(0, 3), MINUTES)).count() as u64,
        MINUTES
    );
}

#[test]
fn everyone_is_mentioned_once_a_minute_in_the_largest_channel() {
    let mut chat = chat(200, 11);
    chat.begin();
    for minute in 0..MINUTES {
        let events = minutes(&mut chat, 1);
        let everyone: Vec<_> = created(&events).filter(|(_, it)| it.mentions_everyone).collect();
        assert_eq!(everyone.len(), 1, "minute {minute}");
        assert_eq!(everyone[0].0, channel(1));
    }
}

#[test]
fn channels_fall_in_size_and_activity_with_their_rank() {
    let mut chat = chat(1000, 5);
    let joins = chat.begin();
    let events = minutes(&mut chat, MINUTES);
    let count = |events: Vec<u64>| {
        let mut counts = vec![0_f64; CHANNELS as usize + 1];
        events
            .iter()
            .for_each(|channel| counts[(channel - 70_000) as usize] += 1.0);
        counts
    };
    let sizes = count(joins.iter().map(|event| event.channel_id).collect());
    let messages = count(created(&events).map(|(channel, _)| channel).collect());
    assert_eq!(sizes[1], USERS as f64);
    for rank in 1..CHANNELS as usize {
        assert!(sizes[rank] >= sizes[rank + 1], "{sizes:?}");
    }
    for (counts, exponent) in [(&sizes, 0.9), (&messages, ACTIVITY_EXPONENT)] {
        for rank in [2, 4, 8, 16] {
            let expected = counts[1] * (rank as f64).powf(-exponent);
            let off = counts[rank] / expected;
            assert!((0.6..1.7).contains(&off), "rank {rank}: {off} of {expected}");
        }
    }
}

#[test]
fn only_members_do_anything_and_messages_are_what_there_is() {
    let mut chat = chat(1000, 9);
    let mut members: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut authors: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut last_message = 0;
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut events = chat.begin();
    events.extend(minutes(&mut chat, MINUTES));
    for event in &events {
        let channel = event.channel_id;
        let is_member = |user: u64| members.contains(&(channel, user));
        let kind = match event.kind.as_ref().unwrap() {
            Kind::MessageCreated(it) => {
                assert!(it.message_id > last_message, "ids ascend");
                assert!(it.message_id < 1 << 63);
                assert!(is_member(it.author_id), "{event:?}");
                assert!(
                    it.mentioned_user_ids.iter().all(|user| is_member(*user)),
                    "{event:?}"
                );
                assert!(!it.mentioned_user_ids.contains(&it.author_id), "{event:?}");
                last_message = it.message_id;
                authors.insert(it.message_id, (channel, it.author_id));
                "created"
            }
            Kind::MessageRead(it) => {
                assert!(is_member(it.user_id), "{event:?}");
                assert_eq!(authors[&it.message_id].0, channel);
                "read"
            }
            Kind::MessageUpdated(it) => {
                assert_eq!(authors[&it.message_id].0, channel);
                "updated"
            }
            Kind::MessageDeleted(it) => {
                assert_eq!(authors.remove(&it.message_ids[0]).unwrap().0, channel);
                "deleted"
            }
            Kind::MessageMarkedUnread(it) => {
                assert!(is_member(it.user_id), "{event:?}");
                assert_eq!(authors[&it.message_id].0, channel);
                "marked"
            }
            Kind::MemberJoined(it) => {
                assert!(members.insert((channel, it.user_id)), "{event:?}");
                "joined"
            }
            Kind::MemberLeft(it) => {
                assert!(members.remove(&(channel, it.user_id)), "{event:?}");
                "left"
            }
            Kind::ChannelDeleted(_) => panic!("no channel is deleted"),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let share = |kind: &str| kinds[kind] as f64 / events.len() as f64;
    assert!((0.3..0.7).contains(&share("created")), "{kinds:?}");
    assert!((0.2..0.6).contains(&share("read")), "{kinds:?}");
    for rare in ["updated", "deleted", "marked", "left", "joined"] {
        assert!((0.001..0.06).contains(&share(rare)), "{rare}: {kinds:?}");
    }
}

#[test]
fn replies_mention_whom_they_reply_to() {
    let events = minutes(&mut chat(1000, 2), MINUTES);
    let mut last: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let (mut mentions, mut replies) = (0, 0);
    for (channel, message) in created(&events) {
        let before = last.entry(channel).or_default();
        mentions += message.mentioned_user_ids.len();
        let is_reply = |user: &&u64| before.iter().rev().take(6).any(|author| author == *user);
        replies += message.mentioned_user_ids.iter().filter(is_reply).count();
        before.push(message.author_id);
    }
    assert!(mentions * 10 > created(&events).count(), "{mentions} mentions");
    assert!(replies * 3 > mentions, "{replies} of {mentions}");
}

#[test]
fn who_is_mentioned_looks_there_first() {
    let mut chat = chat(1000, 4);
    let events = minutes(&mut chat, MINUTES);
    // The first read of somebody after having been mentioned in one channel only.
    let mut waiting: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    let (mut first, mut elsewhere) = (0, 0);
    for event in &events {
        match event.kind.as_ref().unwrap() {
            Kind::MessageCreated(it) => {
                for user in &it.mentioned_user_ids {
                    let at = waiting.entry(*user).or_insert(Some(event.channel_id));
                    *at = at.filter(|at| *at == event.channel_id);
                }
            }
            Kind::MessageRead(it) => match waiting.remove(&it.user_id) {
                Some(Some(at)) if at == event.channel_id => first += 1,
                Some(Some(_)) => elsewhere += 1,
                _ => {}
            },
            _ => {}
        }
    }
    assert!(first > 4 * elsewhere, "{first} there, {elsewhere} elsewhere");
}

#[test]
fn a_chat_goes_on_after_another_one() {
    let newest = [5 << 60, 17, 4];
    let mut chat = Chat::new(500, 1, 1_700_000_000_000, &newest);
    chat.begin();
    let events = minutes(&mut chat, 1);
    let first = created(&events).next().unwrap().1;
    assert!(first.message_id > 5 << 60, "also where the clock went back");
    // Nobody reads again what was read.
    let mut created_in: BTreeSet<u64> = BTreeSet::new();
    for event in &events {
        match event.kind.as_ref().unwrap() {
            Kind::MessageCreated(_) => _ = created_in.insert(event.channel_id),
            Kind::MessageRead(_) => assert!(created_in.contains(&event.channel_id), "{event:?}"),
            _ => {}
        }
    }
}

#[test]
fn those_who_are_watched_are_in_most_of_the_channels() {
    let (people, channels) = watched(6, 4);
    assert_eq!((people.len(), channels.len()), (6, 4));
    let rosters = rosters();
    let mut cells = 0;
    for user in &people {
        let is_in =
            |channel: &&u64| rosters[(**channel - 70_001) as usize].contains(&((*user - 1001) as usize));
        cells += channels.iter().filter(is_in).count();
    }
    assert!(cells >= 16, "{cells} of 24");
}
