//! The oracle against the sentences of section 2 of the contract, one by one, and against properties that follow
//! from them and don't depend on how it counts.

use proptest::prelude::*;
use readstates::oracle::{Event, Limits, Membership, Numbers, Oracle, Reported};

const CHANNEL: u64 = 7;
const LIMITS: Limits = Limits {
    max_unread_count: 5,
    max_direct_mentions: 2,
};

fn created(message: u64, author: u64, mentions: &[u64]) -> Event {
    Event::MessageCreated {
        message,
        author,
        mentions: mentions.to_vec(),
        everyone: false,
    }
}

fn everyone(message: u64, author: u64) -> Event {
    Event::MessageCreated {
        message,
        author,
        mentions: vec![],
        everyone: true,
    }
}

fn read(user: u64, message: u64) -> Event {
    Event::MessageRead { user, message }
}

fn mark(user: u64, message: u64) -> Event {
    Event::MessageMarkedUnread { user, message }
}

fn edited(message: u64, mentions: &[u64]) -> Event {
    Event::MessageUpdated {
        message,
        mentions: mentions.to_vec(),
        everyone: false,
    }
}

fn deleted(messages: &[u64]) -> Event {
    Event::MessageDeleted {
        messages: messages.to_vec(),
    }
}

fn joined(user: u64) -> Event {
    Event::MemberJoined { user }
}

fn left(user: u64) -> Event {
    Event::MemberLeft { user }
}

fn after(events: &[Event]) -> Oracle {
    let mut oracle = Oracle::new(LIMITS);
    for event in events {
        oracle.apply(CHANNEL, event);
    }
    oracle
}

/// User 1 after the events: last_read, last_message, unread, mentions, direct.
#[track_caller]
fn check(events: &[Event], expected: [u64; 5]) -> Numbers {
    let numbers = after(events).numbers(1, CHANNEL);
    let seen = [
        numbers.last_read,
        numbers.last_message,
        numbers.unread_exact,
        numbers.mentions_exact,
        numbers.direct_exact,
    ];
    assert_eq!(seen, expected, "{events:?}");
    numbers
}

#[test]
fn messages_count_as_the_contract_says() {
    // Ids decide, not arrival: late and read already.
    check(
        &[created(10, 2, &[]), read(1, 10), created(5, 2, &[1])],
        [10, 10, 0, 0, 0],
    );
    // The author has read up to the own message, and does not count it.
    check(&[created(5, 2, &[]), created(10, 1, &[1])], [10, 10, 0, 0, 0]);
    check(
        &[created(5, 2, &[]), created(10, 1, &[1]), mark(1, 1)],
        [0, 10, 1, 0, 0],
    );
    // A message counts once, however it mentions, and however often it is published.
    let both = Event::MessageCreated {
        message: 5,
        author: 2,
        mentions: vec![1, 1],
        everyone: true,
    };
    check(&[both.clone(), both], [0, 5, 1, 1, 1]);
    check(&[created(5, 2, &[]), created(5, 1, &[1])], [0, 5, 1, 0, 0]);
    // Deleted before it was created: deleted, but the author has read it, and a join goes above it.
    check(&[deleted(&[5]), created(5, 1, &[])], [5, 0, 0, 0, 0]);
    check(&[deleted(&[5]), created(5, 2, &[1]), joined(1)], [5, 0, 0, 0, 0]);
    check(&[deleted(&[5]), read(2, 9), joined(1)], [0, 0, 0, 0, 0]);
    // Edits replace mentions; an unknown message has none.
    check(&[created(5, 2, &[1]), edited(5, &[3])], [0, 5, 1, 0, 0]);
    check(&[edited(5, &[1]), created(5, 2, &[])], [0, 5, 1, 0, 0]);
    check(
        &[deleted(&[5]), edited(5, &[1]), created(5, 2, &[])],
        [0, 0, 0, 0, 0],
    );
    // The newest message left.
    check(
        &[created(5, 2, &[]), created(6, 2, &[1]), deleted(&[6, 99])],
        [0, 5, 1, 0, 0],
    );
}

#[test]
fn reads_marks_and_membership_are_as_the_contract_says() {
    // Reads go forward only, ahead of the newest too; marks go back only.
    let ahead = [read(1, 9), read(1, 4), created(9, 2, &[1]), created(10, 2, &[1])];
    check(&ahead, [9, 10, 1, 1, 1]);
    check(
        &[created(9, 2, &[1]), read(1, 9), mark(1, 12), mark(1, 9)],
        [8, 9, 1, 1, 1],
    );
    // Joined already: nothing. Left: no counts, no reads, no marks, but facts stay.
    check(&[joined(1), created(5, 2, &[1]), joined(1)], [0, 5, 1, 1, 1]);
    check(&[created(5, 2, &[1]), left(1), read(1, 5)], [0, 5, 0, 0, 0]);
    check(
        &[created(5, 2, &[1]), left(1), created(6, 1, &[])],
        [0, 6, 0, 0, 0],
    );
    let rejoined = [
        left(1),
        created(5, 2, &[1]),
        created(6, 1, &[]),
        joined(1),
        created(9, 3, &[1]),
        mark(1, 1),
    ];
    check(&rejoined, [0, 9, 2, 2, 2]);
    let gone = check(
        &[created(5, 2, &[1]), Event::ChannelDeleted, read(1, 5)],
        [0, 0, 0, 0, 0],
    );
    assert_eq!(gone.membership, Membership::ChannelDeleted);
}

#[test]
fn a_read_state_begins_with_whatever_names_the_user() {
    let begins = [
        created(5, 1, &[]),
        created(5, 2, &[1]),
        read(1, 1),
        mark(1, 1),
        joined(1),
        left(1),
    ];
    for event in begins {
        assert_eq!(after(&[event]).channels_of(1), [CHANNEL]);
    }
    let by_edit = [created(5, 2, &[]), deleted(&[5]), edited(5, &[1])];
    assert_eq!(after(&by_edit).channels_of(1), [CHANNEL]);
    for nothing in [
        &by_edit[..2],
        &[everyone(5, 2), edited(6, &[1])],
        &[joined(1), Event::ChannelDeleted],
    ] {
        assert!(after(nothing).channels_of(1).is_empty(), "{nothing:?}");
    }
}

fn report(numbers: &Numbers) -> Reported {
    Reported {
        exists: Some(numbers.exists),
        last_read: numbers.last_read,
        last_message: numbers.last_message,
        unread: numbers.unread,
        unread_capped: numbers.unread_capped,
        mentions: numbers.mentions,
        direct: numbers.direct,
        mentions_capped: numbers.mentions_capped,
        membership: numbers.membership,
    }
}

#[test]
fn counts_are_capped_above_the_limit_and_not_at_it() {
    let mut events: Vec<Event> = (1..=5).map(|id| everyone(id, 2)).collect();
    let at = check(&events, [0, 5, 5, 5, 0]);
    assert_eq!(
        (at.unread, at.unread_capped, at.mentions_capped),
        (5, false, false)
    );
    events.push(everyone(6, 2));
    let above = check(&events, [0, 6, 6, 6, 0]);
    assert_eq!((above.unread, above.unread_capped), (5, true));
    assert_eq!((above.mentions, above.mentions_capped), (5, true));
    assert!(!above.may_be_forgotten);
    for wrong in [
        Reported {
            unread_capped: false,
            ..report(&above)
        },
        Reported {
            mentions_capped: false,
            ..report(&above)
        },
        Reported {
            unread: 6,
            ..report(&above)
        },
    ] {
        assert!(wrong.check(&above).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_lower_bound_is_right_only_where_mentions_may_be_forgotten() {
    let three = [1, 2, 3].map(|id| created(id, 2, &[1]));
    let truth = after(&three).numbers(1, CHANNEL);
    assert_eq!(
        (truth.direct, truth.direct_kept, truth.may_be_forgotten),
        (3, 2, true)
    );
    let exact = report(&truth);
    let lower = |count, capped| Reported {
        mentions: count,
        direct: count,
        mentions_capped: capped,
        ..exact
    };
    assert_eq!(exact.check(&truth), Ok(()));
    for (reported, right) in [
        (lower(3, true), true),
        (lower(2, true), true),
        (lower(1, true), false),
        (lower(4, true), false),
        (lower(2, false), false),
    ] {
        assert_eq!(reported.check(&truth).is_ok(), right, "{reported:?}");
    }
    let certain = after(&three[..2]).numbers(1, CHANNEL);
    assert_eq!(report(&certain).check(&certain), Ok(()));
    let capped = Reported {
        mentions_capped: true,
        ..report(&certain)
    };
    assert!(capped.check(&certain).is_err());
    // What is read is certain again, and so is what a mark recounts.
    let mut recounted = three.to_vec();
    recounted.extend([read(1, 1), read(1, 3), mark(1, 2)]);
    assert!(!after(&recounted).numbers(1, CHANNEL).may_be_forgotten);
}

#[test]
fn a_mark_permits_forgetting_only_what_it_passes_below_the_newest_messages() {
    // Messages 1 to 8; the newest 5 are 4 to 8.
    let may = |read_up_to: u64, mark_at: u64, more: &[Event]| {
        let mut events: Vec<Event> = (1..=8).map(|id| created(id, 2, &[])).collect();
        events.extend([read(1, read_up_to), mark(1, mark_at)]);
        events.extend_from_slice(more);
        after(&events).numbers(1, CHANNEL).may_be_forgotten
    };
    assert!(!may(6, 4, &[]));
    assert!(may(6, 3, &[]));
    assert!(may(6, 1, &[read(1, 2)]));
    assert!(!may(6, 1, &[read(1, 3)]));
    assert!(!may(6, 1, &[left(1)]));
    // Only up to what was read before, although 3 is not among the newest 5 either.
    assert!(may(2, 1, &[read(1, 1)]));
    assert!(!may(2, 1, &[read(1, 2)]));
}

fn any_event() -> impl Strategy<Value = Event> {
    let message = || 1..20u64;
    let user = || 1..5u64;
    let mentions = || prop::collection::vec(user(), 0..3);
    prop_oneof![
        4 => (message(), 0..5u64, mentions(), any::<bool>()).prop_map(
            |(message, author, mentions, everyone)| Event::MessageCreated {
                message, author, mentions, everyone,
            }
        ),
        2 => (user(), 0..25u64).prop_map(|(user, id)| read(user, id + 1)),
        2 => (message(), mentions(), any::<bool>()).prop_map(
            |(message, mentions, everyone)| Event::MessageUpdated { message, mentions, everyone }
        ),
        1 => prop::collection::vec(message(), 0..3).prop_map(|messages| deleted(&messages)),
        2 => (user(), message()).prop_map(|(user, message)| mark(user, message)),
        1 => user().prop_map(joined),
        1 => user().prop_map(left),
    ]
}

fn all_numbers(oracle: &Oracle, channel: u64) -> Vec<Numbers> {
    (1..5).map(|user| oracle.numbers(user, channel)).collect()
}

proptest! {
    #[test]
    fn a_record_that_comes_twice_in_a_row_changes_nothing(
        events in prop::collection::vec(any_event(), 1..40)
    ) {
        let twice: Vec<Event> = events.iter().flat_map(|e| [e.clone(), e.clone()]).collect();
        let (once, twice) = (after(&events), after(&twice));
        prop_assert_eq!(all_numbers(&once, CHANNEL), all_numbers(&twice, CHANNEL));
    }

    #[test]
    fn channels_know_nothing_of_each_other(
        events in prop::collection::vec((1..3u64, any_event()), 1..40)
    ) {
        let mut together = Oracle::new(LIMITS);
        for (channel, event) in &events {
            together.apply(*channel, event);
        }
        let mut apart = Oracle::new(LIMITS);
        for channel in [2, 1] {
            for (_, event) in events.iter().filter(|(of, _)| *of == channel) {
                apart.apply(channel, event);
            }
        }
        for channel in [1, 2] {
            prop_assert_eq!(all_numbers(&together, channel), all_numbers(&apart, channel));
        }
    }

    #[test]
    fn a_user_that_never_acts_counts_the_same_in_any_order_of_the_messages(
        mut events in prop::collection::vec((1..20u64, 2..5u64, any::<bool>(), any::<bool>()), 1..20),
        gone in prop::collection::vec(1..20u64, 0..5)
    ) {
        events.sort_unstable();
        events.dedup_by_key(|(id, ..)| *id);
        let message = |(id, author, named, everyone): &(u64, u64, bool, bool)| {
            Event::MessageCreated {
                message: *id,
                author: *author,
                mentions: if *named { vec![1] } else { vec![] },
                everyone: *everyone,
            }
        };
        let mut forwards: Vec<Event> = events.iter().map(message).collect();
        forwards.push(deleted(&gone));
        let mut backwards = vec![deleted(&gone)];
        backwards.extend(events.iter().rev().map(message));
        let counts = |events: &[Event]| {
            let n = after(events).numbers(1, CHANNEL);
            (n.last_message, n.unread_exact, n.mentions_exact, n.direct_exact)
        };
        prop_assert_eq!(counts(&forwards), counts(&backwards));
        let live = events.iter().filter(|(id, ..)| !gone.contains(id)).count();
        prop_assert_eq!(counts(&forwards).1, live as u64);
    }

    #[test]
    fn the_true_answer_is_right_and_what_is_kept_is_not_above_it(
        events in prop::collection::vec(any_event(), 1..60)
    ) {
        for numbers in all_numbers(&after(&events), CHANNEL) {
            prop_assert_eq!(report(&numbers).check(&numbers), Ok(()));
            prop_assert!(numbers.mentions_kept <= numbers.mentions);
            prop_assert!(numbers.direct_kept <= numbers.direct);
            if !numbers.may_be_forgotten {
                prop_assert_eq!(numbers.direct_kept, numbers.direct);
                prop_assert_eq!(numbers.mentions_kept, numbers.mentions);
            }
        }
    }
}
