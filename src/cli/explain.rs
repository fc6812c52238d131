//! `explain`: asks how the numbers of a user in a channel come about.

use clap::Args;

use super::Failed;
use super::asking::{Asking, Connection, id, print, print_json};
use super::get::read_states;
use crate::config::Config;
use crate::wire::proto::v1::{ExplainReply, Key};

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
    let connection = Connection::open(config).await?;
    let key = Key {
        user_id: arguments.user,
        channel_id: arguments.channel,
    };
    let subject = connection.subjects.explain();
    let reply: ExplainReply = connection.ask(&subject, &key, arguments.asking.timeout()).await?;
    match arguments.asking.json {
        true => print_json(&reply),
        false => print(&shown(&reply)),
    }
}

fn shown(reply: &ExplainReply) -> String {
    let mut text = read_states(reply.read_state.as_slice());
    for line in &reply.lines {
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
        let text = shown(&reply);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].trim_start().starts_with("42"), "{text}");
        assert_eq!(lines[2..], ["", "first", "second"]);
    }
}
