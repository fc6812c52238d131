//! `overview`: asks for every channel in which a user has a read state.

use clap::Args;

use super::Failed;
use super::asking::{self, Asking, id, print, print_json};
use super::get::read_states;
use crate::client::{AskError, Client, Overview};
use crate::config::Config;
use crate::model::ids::{ChannelId, MAX_ID, PartitionId, UserId};
use crate::wire::proto::v1::OverviewReply;

/// What to ask.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The user's id.
    #[arg(value_parser = id)]
    user: u64,
    /// Leaves out channels without unread messages.
    #[arg(long)]
    only_unread: bool,
    /// Channels in the reply, or with --all in each page; the service sends at most 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only channels with a larger id: the next page.
    #[arg(long, value_name = "CHANNEL", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MAX_ID))]
    after: u64,
    /// Leaves out what can't be reached, and names it.
    #[arg(long)]
    partial: bool,
    /// Asks for all pages.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    asking: Asking,
}

/// Asks and prints.
///
/// # Errors
/// What the service said, or that nobody answered.
pub async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failed> {
    let client = asking::connect(config).await?;
    let overview = ask(&client, arguments).await?;
    match arguments.asking.json {
        true => print_json(&OverviewReply::from(&overview)),
        false => print(&shown(&overview)),
    }
}

/// One page, or all of them as if they were one.
async fn ask(client: &Client, arguments: &Arguments) -> Result<Overview, AskError> {
    let mut question = client
        .overview(UserId(arguments.user))
        .limit(arguments.limit.unwrap_or(0))
        .after(ChannelId(arguments.after))
        .timeout(arguments.asking.timeout());
    if arguments.only_unread {
        question = question.only_unread();
    }
    if arguments.partial {
        question = question.partial();
    }
    match arguments.all {
        true => question.all().await,
        false => question.await,
    }
}

fn shown(overview: &Overview) -> String {
    let mut text = read_states(&overview.read_states);
    if let Some(last) = overview.read_states.last().filter(|_| overview.has_more) {
        text += &format!("there are more: --after {}, or --all\n", last.channel);
    }
    if !overview.missing_partitions.is_empty() {
        let missing: Vec<_> = overview
            .missing_partitions
            .iter()
            .map(PartitionId::to_string)
            .collect();
        text += &format!(
            "channels of these partitions are missing, which can't be reached now: {}\n",
            missing.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::v1::ReadState;

    #[test]
    fn what_is_not_shown_is_told() {
        let state = ReadState {
            channel_id: 42,
            ..ReadState::default()
        };
        let reply = OverviewReply {
            read_states: vec![state],
            more: true,
            missing_partitions: vec![3, 7],
        };
        let text = shown(&reply.into());
        assert!(
            text.contains("more: --after 42,") && text.contains("now: 3, 7\n"),
            "{text}"
        );
        let text = shown(&Overview::default());
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
