//! What an event and an answer cost where there is more of something.

use readstates::model::event::{Event, EventKind};
use readstates::model::ids::MessageId;

use super::driven::{Driven, cpu_ns};
use super::random::Random;
use super::traffic::{Chat, Traffic};

/// Events and answers of each case.
const EVENTS: u64 = 2_000_000;
const ANSWERS: u64 = 500_000;
/// Members of a channel where they are not the case.
const MEMBERS: u64 = 100;

/// Prints each case, or those of the names asked for, with the nanoseconds of CPU time that an event and an answer take.
pub fn measure(asked: &[String]) {
    let cases = ["read_states", "partitions", "members", "messages", "mentioned"];
    let is_all = !cases.iter().any(|case| asked.iter().any(|name| name == case));
    let wants = |case: &str| is_all || asked.iter().any(|name| name == case);
    for read_states in [1_000_000, 8_000_000, 32_000_000] {
        if wants("read_states") {
            of_chat("read_states", read_states, (read_states / MEMBERS, MEMBERS), 16);
        }
    }
    for partitions in [1, 64] {
        if wants("partitions") {
            of_chat("partitions", partitions, (80_000, MEMBERS), partitions);
        }
    }
    for members in [10, 1_000_000] {
        if wants("members") {
            of_chat("members", members, (1_000_000 / members, members), 1);
        }
    }
    for messages in [100, 1_000_000] {
        if wants("messages") {
            of_messages(messages);
        }
    }
    for everyone in [false, true] {
        if wants("mentioned") {
            of_mention(everyone);
        }
    }
}

fn filled(chat: Chat, partitions: u64) -> Driven {
    let mut driven = Driven::new(chat.channels * chat.members, partitions);
    driven.apply_all(chat.joins());
    driven.write_all();
    driven
}

/// The usual events, in all channels alike.
fn of_chat(case: &str, value: u64, (channels, members): (u64, u64), partitions: u64) {
    let chat = Chat {
        channels,
        members,
        is_skewed: false,
    };
    let mut driven = filled(chat, partitions);
    let mut traffic = Traffic::new(chat);
    let events = traffic.events(EVENTS);
    show(case, value, &mut driven, &mut traffic, events);
}

/// Reads and edits anywhere in channels that have so many messages, and answers for members who have read up to anywhere. There
/// are as many messages and read states in all.
fn of_messages(messages: u64) {
    let channels = 1_000_000 / messages;
    let chat = Chat {
        channels,
        members: 1_000_000 / channels,
        is_skewed: false,
    };
    let mut driven = filled(chat, 1);
    let mut traffic = Traffic::new(chat);
    for _ in 0..messages {
        let created: Vec<Event> = (0..chat.channels)
            .map(|channel| traffic.message(channel, 0, false))
            .collect();
        driven.apply_all(created);
    }
    let mut random = Random(2);
    let read = |_| {
        let channel = traffic.channel();
        let key = traffic.member(channel);
        // Message ids go round over the channels.
        let message = MessageId(1 + random.below(messages) * chat.channels + channel);
        let user = key.user;
        let kind = match random.below(20) {
            0 => EventKind::MessageUpdated {
                message,
                mentions: Default::default(),
            },
            _ => EventKind::MessageRead { user, message },
        };
        Event {
            channel: key.channel,
            kind,
        }
    };
    let events = (0..EVENTS).map(read).collect();
    show("messages", messages, &mut driven, &mut traffic, events);
}

/// Messages that mention one member, or all of the million.
fn of_mention(everyone: bool) {
    let chat = Chat {
        channels: 1,
        members: 1_000_000,
        is_skewed: false,
    };
    let mut driven = filled(chat, 1);
    let mut traffic = Traffic::new(chat);
    let events = (0..EVENTS)
        .map(|_| traffic.message(0, usize::from(!everyone), everyone))
        .collect();
    let mentioned = if everyone { chat.members } else { 1 };
    show("mentioned", mentioned, &mut driven, &mut traffic, events);
}

fn show(case: &str, value: u64, driven: &mut Driven, traffic: &mut Traffic, events: Vec<Event>) {
    driven.write_all();
    let began = cpu_ns();
    driven.apply_all(events);
    let event_ns = (cpu_ns() - began) / EVENTS;
    let keys: Vec<_> = (0..ANSWERS)
        .map(|_| {
            let channel = traffic.channel();
            traffic.member(channel)
        })
        .collect();
    let began = cpu_ns();
    keys.into_iter().for_each(|key| driven.ask(key));
    let answer_ns = (cpu_ns() - began) / ANSWERS;
    println!("{{\"case\":\"{case}\",\"value\":{value},\"event_ns\":{event_ns},\"answer_ns\":{answer_ns}}}");
}
