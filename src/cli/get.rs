//! `get`: asks what a user has read in some channels.

use clap::Args;

use super::Failed;
use super::asking::{Asking, Connection, id, print, print_json};
use super::table::{Column, or_dash, table};
use crate::config::Config;
use crate::wire::proto::v1::{GetReply, GetRequest, Key, Membership, Position, ReadState};

/// What to ask.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The user's id.
    #[arg(value_parser = id)]
    user: u64,
    /// The ids of channels.
    #[arg(required = true, value_parser = id)]
    channels: Vec<u64>,
    /// Answers what can be answered, and names what can't.
    #[arg(long)]
    partial: bool,
    /// Answers only once this record is applied; can be given for several partitions.
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = position)]
    after: Vec<Position>,
    #[command(flatten)]
    asking: Asking,
}

/// Asks and prints.
///
/// # Errors
/// What the service said, or that nobody answered.
pub async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failed> {
    let connection = Connection::open(config).await?;
    let keys = arguments.channels.iter().map(|channel| Key {
        user_id: arguments.user,
        channel_id: *channel,
    });
    let request = GetRequest {
        keys: keys.collect(),
        after: arguments.after.clone(),
        partial: arguments.partial,
    };
    let subject = connection.subjects.get();
    let reply: GetReply = connection
        .ask(&subject, &request, arguments.asking.timeout())
        .await?;
    match arguments.asking.json {
        true => print_json(&reply),
        false => print(&read_states(&reply.read_states)),
    }
}

fn position(text: &str) -> Result<Position, String> {
    let parts = text.split_once(':');
    let parsed = parts.and_then(|(partition, offset)| {
        Some(Position {
            partition: partition.parse().ok()?,
            offset: offset.parse().ok()?,
        })
    });
    parsed.ok_or_else(|| "a position is PARTITION:OFFSET, such as 3:1789".to_owned())
}

/// One line for each read state. A `+` says that it is at least so many.
pub fn read_states(read_states: &[ReadState]) -> String {
    let columns = [
        Column::Right("channel"),
        Column::Right("unread"),
        Column::Right("mentions"),
        Column::Right("direct"),
        Column::Right("last read"),
        Column::Right("last message"),
        Column::Left("membership"),
        Column::Left("position"),
    ];
    table(columns, &read_states.iter().map(row).collect::<Vec<_>>())
}

fn row(state: &ReadState) -> [String; 8] {
    let channel = state.channel_id.to_string();
    if state.unavailable {
        let [a, b, c, d, e] = [const { "-" }; 5].map(str::to_owned);
        return [channel, a, b, c, d, e, "unavailable".to_owned(), "-".to_owned()];
    }
    let capped = |count: u32, capped: bool| format!("{count}{}", if capped { "+" } else { "" });
    let membership = match state.membership() {
        Membership::Unspecified => "-",
        Membership::Joined => "joined",
        Membership::Left => "left",
        Membership::ChannelDeleted => "deleted",
    };
    let position = state.position.as_ref();
    [
        channel,
        capped(state.unread_count, state.unread_count_capped),
        capped(state.mention_count, state.mention_count_capped),
        capped(state.direct_mention_count, state.mention_count_capped),
        state.last_read_message_id.to_string(),
        state.last_message_id.to_string(),
        membership.to_owned(),
        or_dash(position.map(|at| format!("{}:{}", at.partition, at.offset))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_states_are_shown_with_what_is_not_known() {
        let known = ReadState {
            channel_id: 42,
            last_read_message_id: 5,
            last_message_id: 9,
            unread_count: 10_000,
            unread_count_capped: true,
            mention_count: 2,
            direct_mention_count: 1,
            membership: Membership::Left.into(),
            position: Some(Position {
                partition: 3,
                offset: 0,
            }),
            ..ReadState::default()
        };
        let unknown = ReadState {
            channel_id: 7,
            unavailable: true,
            ..ReadState::default()
        };
        let text = read_states(&[known, unknown]);
        let cells: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(cells[1], ["42", "10000+", "2", "1", "5", "9", "left", "3:0"]);
        assert_eq!(cells[2], ["7", "-", "-", "-", "-", "-", "unavailable", "-"]);
    }

    #[test]
    fn positions_are_partition_and_offset() {
        let three = Position {
            partition: 3,
            offset: 0,
        };
        assert_eq!(position("3:0"), Ok(three));
        for wrong in ["3", "3:", ":0", "3:-1", "a:1", "4294967296:1"] {
            assert!(position(wrong).is_err(), "{wrong}");
        }
    }
}
