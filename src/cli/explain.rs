//! `explain`: asks how the numbers of a user in a channel come about.

use clap::Args;

use super::Failed;
use super::asking::{self, Asking, id, print, print_json};
use super::get::read_states;
use crate::client::Explanation;
use crate::config::Config;
use crate::model::ids::{ChannelId, ReadStateKey, UserId};
use crate::wire::proto::v1::ExplainReply;

/// What to ask.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The user's id.
    #[arg(value_parser = id)]
    user: u64,
    /// The channel's id.
    #[arg(value_parser = id)]
    channel: u64,
    #[command(flatten)]
    asking: Asking,
}

/// Asks and prints.
///
/// # Errors
/// What the service said, or that nobody answered.
pub async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failed> {
    let client = asking::connect(config).await?;
    let key = ReadStateKey {
        user: UserId(arguments.user),
        channel: ChannelId(arguments.channel),
    };
    let explanation = client.explain(key).timeout(arguments.asking.timeout()).await?;
    match arguments.asking.json {
        true => print_json(&ExplainReply::from(&explanation)),
        false => print(&shown(&explanation)),
    }
}

fn shown(explanation: &Explanation) -> String {
    let mut text = read_states(std::slice::from_ref(&explanation.read_state));
    for line in &explanation.lines {
        text += &format!("\n{line}");
    }
    text.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::v1::ReadState;

    #[test]
    fn the_numbers_come_first_and_then_the_lines() {
        let reply = ExplainReply {
            read_state: Some(ReadState {
                channel_id: 42,
                ..ReadState::default()
            }),
            lines: vec!["first".to_owned(), "second".to_owned()],
            ..ExplainReply::default()
        };
        let text = shown(&reply.into());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].trim_start().starts_with("42"), "{text}");
        assert_eq!(lines[2..], ["", "first", "second"]);
    }
}
