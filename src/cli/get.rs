//! `get`: asks what a user has read in some channels.

use clap::Args;

use super::Failed;
use super::asking::{self, Asking, id, print, print_json};
use super::table::{Column, or_dash, table};
use crate::client::{Answer, Membership, Position, ReadState};
use crate::config::Config;
use crate::model::ids::{ChannelId, ReadStateKey, UserId};
use crate::wire::proto::v1::{self, GetReply};

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
    #[arg(long, value_name = "PARTITION:OFFSET")]
    after: Vec<Position>,
    #[command(flatten)]
    asking: Asking,
}

/// Asks and prints.
///
/// # Errors
/// What the service said, or that nobody answered.
pub async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failed> {
    let client = asking::connect(config).await?;
    let keys = arguments.channels.iter().map(|channel| ReadStateKey {
        user: UserId(arguments.user),
        channel: ChannelId(*channel),
    });
    let question = client
        .get(keys)
        .after(arguments.after.clone())
        .timeout(arguments.asking.timeout());
    let answers = match arguments.partial {
        true => question.partial().await?,
        false => question.await?.into_iter().map(Answer::Known).collect(),
    };
    match arguments.asking.json {
        true => print_json(&GetReply {
            read_states: answers.iter().map(v1::ReadState::from).collect(),
        }),
        false => print(&read_states(&answers)),
    }
}

/// One line for each, whether it is known or not. A `+` says that it is at least so many.
pub fn read_states<T: Clone + Into<Answer>>(answers: &[T]) -> String {
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
    let rows = answers.iter().cloned().map(|answer| match answer.into() {
        Answer::Known(state) => row(&state),
        Answer::Unavailable(key) => {
            let [a, b, c, d, e] = [const { "-" }; 5].map(str::to_owned);
            let channel = key.channel.to_string();
            [channel, a, b, c, d, e, "unavailable".to_owned(), "-".to_owned()]
        }
    });
    table(columns, &rows.collect::<Vec<_>>())
}

fn row(state: &ReadState) -> [String; 8] {
    let membership = match state.membership {
        Membership::Unspecified => "-",
        Membership::Joined => "joined",
        Membership::Left => "left",
        Membership::ChannelDeleted => "deleted",
    };
    [
        state.channel.to_string(),
        state.unread.to_string(),
        state.mentions.to_string(),
        state.direct_mentions.to_string(),
        state.last_read.to_string(),
        state.last_message.to_string(),
        membership.to_owned(),
        or_dash(state.position),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_states_are_shown_with_what_is_not_known() {
        let known = v1::ReadState {
            channel_id: 42,
            last_read_message_id: 5,
            last_message_id: 9,
            unread_count: 10_000,
            unread_count_capped: true,
            mention_count: 2,
            direct_mention_count: 1,
            membership: Membership::Left.into(),
            position: Some(v1::Position {
                partition: 3,
                offset: 0,
            }),
            ..v1::ReadState::default()
        };
        let unknown = v1::ReadState {
            channel_id: 7,
            unavailable: true,
            ..v1::ReadState::default()
        };
        let text = read_states(&[known, unknown]);
        let cells: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(cells[1], ["42", "10000+", "2", "1", "5", "9", "left", "3:0"]);
        assert_eq!(cells[2], ["7", "-", "-", "-", "-", "-", "unavailable", "-"]);
    }
}
