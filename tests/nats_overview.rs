//! The overview over a real nats-server, with partitions and a store whose answers are known.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
mod support {
    pub mod callers;
    pub mod fakes;
    pub mod servers;
}

use std::time::{Duration, Instant};

use readstates::model::ids::{LogPosition, MAX_ID, MessageId, Offset, PartitionId};
use readstates::model::read_state::{Membership, ReadState, Remembered};
use readstates::partition::io::{Answer, Failure, Millis};
use readstates::wire::proto::v1;
use readstates::wire::query::read_state;

use support::callers::{Deployment, code};
use support::fakes::{PARTITIONS, World, key, partition};

const USER: u64 = 77;

fn row(mentions: u64) -> ReadState {
    let remembered = |id| Remembered {
        id: MessageId(id),
        everyone: id % 2 == 0,
    };
    ReadState {
        applied: LogPosition::new(0, Offset(3)),
        last_read: MessageId(5),
        mentions: (6..6 + mentions).map(remembered).collect(),
        own: vec![remembered(8)].into(),
        ..ReadState::default()
    }
}

/// Channels of the user: most in the store, some only with their owners, some left, deleted, or read. Answers those that an
/// overview shows, ascending.
fn populate(world: &World, channels: u64) -> Vec<Answer> {
    let mut shown = Vec::new();
    for n in 1..=channels {
        // Far apart, so that the lowest and the highest ids occur as well.
        let channel = if n == channels { MAX_ID } else { n * n };
        let mut answer = World::answer(key(USER, channel));
        answer.unread = if n % 3 == 0 { (n % 5) as u32 } else { 0 };
        match n % 11 {
            1 => answer.membership = Membership::Left,
            2 => answer.channel_deleted = true,
            _ => shown.push(answer.clone()),
        }
        if n % 13 == 0 {
            world.put(answer);
        } else {
            world.put_stored(answer, row(n % 4));
        }
        // A neighbour in the store, of whom nothing may be shown.
        world.put_stored(World::answer(key(USER + 1, channel)), row(0));
    }
    shown
}

fn rows(answers: &[&Answer]) -> Vec<v1::ReadState> {
    let row = |answer: &&Answer| read_state(answer, partition(answer.key.channel.0));
    answers.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_what_a_full_scan_has() {
    let Deployment {
        world,
        instances: _instances,
        caller,
        ..
    } = Deployment::start("pages", 2).await;
    let shown = populate(&world, 2600);
    for only_unread in [false, true] {
        let matching: Vec<_> = shown
            .iter()
            .filter(|answer| !only_unread || answer.unread > 0)
            .collect();
        let total = matching.len() as u32;
        for limit in [0, 1, 7, 255, 999, 1000, 5000, total, total - 1] {
            let page_rows = if limit == 0 {
                1000
            } else {
                limit.min(1000) as usize
            };
            let mut after_channel_id = 0;
            // Single rows would take thousands of pages.
            let pages = matching.chunks(page_rows).take(12);
            for (number, page) in pages.enumerate() {
                let request = v1::OverviewRequest {
                    user_id: USER,
                    only_unread,
                    limit,
                    after_channel_id,
                    partial: number % 2 == 0,
                };
                let reply = caller.overview(&request).await.unwrap();
                let what = format!("limit {limit}, only_unread {only_unread}, page {number}");
                assert_eq!(reply.read_states, rows(page), "{what}");
                assert_eq!(reply.more, (number + 1) * page_rows < matching.len(), "{what}");
                assert!(reply.missing_partitions.is_empty());
                after_channel_id = page.last().unwrap().key.channel.0;
            }
        }
    }
    let beyond = v1::OverviewRequest {
        user_id: USER,
        after_channel_id: MAX_ID,
        ..Default::default()
    };
    assert_eq!(
        caller.overview(&beyond).await.unwrap(),
        v1::OverviewReply::default()
    );
    let request = v1::OverviewRequest {
        user_id: USER,
        limit: 300,
        ..Default::default()
    };
    let json: v1::OverviewReply = caller
        .ask_json(&caller.subjects.overview(), &request)
        .await
        .unwrap();
    assert_eq!(json, caller.overview(&request).await.unwrap());
    let stamps: Vec<_> = world
        .handed_over()
        .into_iter()
        .map(|(_, handed)| handed.stamp)
        .collect();
    assert!(
        stamps
            .iter()
            .all(|stamp| (stamp.assignment, stamp.at) == (1, Millis(7)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stamp_of_a_former_owner_is_void_for_the_next() {
    let Deployment {
        world,
        instances,
        caller,
        ..
    } = Deployment::start("stamps", 2).await;
    let shown = populate(&world, 300);
    // Both have the same number of assignment, and a partition moves to and fro while overviews are asked for.
    let moving = PartitionId(2);
    let stop = tokio::sync::watch::Sender::new(false);
    let asking = tokio::spawn({
        let (caller, stop, expected) = (
            caller.clone(),
            stop.subscribe(),
            rows(&shown.iter().collect::<Vec<_>>()),
        );
        async move {
            let mut answered = 0;
            while !*stop.borrow() {
                let request = v1::OverviewRequest {
                    user_id: USER,
                    ..Default::default()
                };
                let reply = caller
                    .overview(&request)
                    .await
                    .expect("an overview while a partition moves");
                assert_eq!(reply.read_states, expected);
                answered += 1;
            }
            answered
        }
    });
    let deadline = Instant::now() + Duration::from_secs(8);
    let void = || {
        world
            .handed_over()
            .iter()
            .filter(|(_, handed)| handed.stamp.assignment != 1)
            .count()
    };
    let mut moves = 0;
    while void() == 0 && Instant::now() < deadline {
        let here = usize::from(!instances[0].partitions.live.borrow().contains(&moving));
        instances[here].partitions.lose(moving);
        instances[1 - here].partitions.gain(moving);
        tokio::time::sleep(Duration::from_millis(moves % 7)).await;
        moves += 1;
    }
    stop.send_replace(true);
    let answered = asking.await.unwrap();
    println!(
        "{answered} overviews during {moves} moves, {} with a void stamp",
        void()
    );
    assert!(void() > 0, "no overview ever saw the partition move");
    assert!(answered > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_too_large_for_one_message_are_handed_over_all_the_same() {
    let Deployment {
        world,
        instances: _instances,
        caller,
        ..
    } = Deployment::start("large", 2).await;
    let mut expected = Vec::new();
    for channel in 1..=400 {
        let answer = World::answer(key(USER, channel));
        // 12 kB each, so a partition's rows are half a megabyte and the whole is five.
        world.put_stored(answer.clone(), row(1000));
        expected.push(answer);
    }
    let request = v1::OverviewRequest {
        user_id: USER,
        ..Default::default()
    };
    for _ in 0..6 {
        let reply = caller.overview(&request).await.unwrap();
        assert_eq!(reply.read_states, rows(&expected.iter().collect::<Vec<_>>()));
    }
    assert!(world.handed_over().len() > 6 * PARTITIONS as usize, "parts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_missing_fails_the_whole_or_is_named() {
    let Deployment {
        world,
        instances,
        caller,
        ..
    } = Deployment::start("missing", 2).await;
    let shown = populate(&world, 3000);
    let gone = PartitionId(5);
    let quick = [("readstates-timeout-ms", "400")];
    let ask = async |partial| {
        use prost::Message;
        let request = v1::OverviewRequest {
            user_id: USER,
            partial,
            ..Default::default()
        };
        let reply = caller
            .raw(&caller.subjects.overview(), &quick, &request.encode_to_vec())
            .await;
        match code(&reply) {
            None => Ok(v1::OverviewReply::decode(reply.payload).unwrap()),
            Some(code) => Err(code),
        }
    };
    let without: Vec<_> = shown
        .iter()
        .filter(|answer| partition(answer.key.channel.0) != gone)
        .collect();
    let check_partial = |reply: Result<v1::OverviewReply, u16>| {
        let reply = reply.unwrap();
        assert_eq!(reply.missing_partitions, [gone.0]);
        assert_eq!(reply.read_states, rows(&without[..1000]));
        assert!(reply.more);
    };
    instances[1].partitions.lose(gone);
    for _ in 0..4 {
        assert_eq!(ask(false).await, Err(503));
        let begun = Instant::now();
        check_partial(ask(true).await);
        assert!(
            begun.elapsed() < Duration::from_millis(400),
            "{:?}",
            begun.elapsed()
        );
    }
    instances[0].partitions.gain(gone);
    // One read state of it, on the second page of the store, that can't be had.
    let bad = shown
        .iter()
        .rev()
        .find(|answer| partition(answer.key.channel.0) == gone)
        .unwrap();
    world.fail(bad.key, Some(Failure::StoreUnavailable));
    let all = ask(true).await.unwrap();
    assert!(
        all.missing_partitions.is_empty() && all.more,
        "the failing one is not on this page"
    );
    let request = v1::OverviewRequest {
        user_id: USER,
        after_channel_id: bad.key.channel.0 - 1,
        ..Default::default()
    };
    assert_eq!(caller.overview(&request).await, Err(503));
    let partial = caller
        .overview(&v1::OverviewRequest {
            partial: true,
            ..request
        })
        .await
        .unwrap();
    assert_eq!(partial.missing_partitions, [gone.0]);
    assert!(
        partial
            .read_states
            .iter()
            .all(|row| partition(row.channel_id) != gone)
    );
    world.fail(bad.key, None);
    world.set_store_down(true);
    assert_eq!(ask(false).await, Err(503));
    assert_eq!(ask(true).await, Err(503));
    world.set_store_down(false);
    assert_eq!(ask(false).await.unwrap().read_states.len(), 1000);
}
