//! `overview`: asks for every channel in which a user has a read state.

use clap::Args;

use super::Failed;
use super::asking::{Asking, Connection, id, print, print_json};
use super::get::read_states;
use crate::config::Config;
use crate::model::ids::MAX_ID;
use crate::wire::proto::v1::{OverviewReply, OverviewRequest};

/// With `--all`: what is gathered before it is printed.
const ROWS_MAX: usize = 1_000_000;

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
    let connection = Connection::open(config).await?;
    let reply = gather(&connection, arguments).await?;
    match arguments.asking.json {
        true => print_json(&reply),
        false => print(&shown(&reply)),
    }
}

/// One page, or all of them as if they were one.
async fn gather(connection: &Connection, arguments: &Arguments) -> Result<OverviewReply, Failed> {
    let subject = connection.subjects.overview();
    let mut all = OverviewReply::default();
    let mut request = OverviewRequest {
        user_id: arguments.user,
        only_unread: arguments.only_unread,
        limit: arguments.limit.unwrap_or(0),
        after_channel_id: arguments.after,
        partial: arguments.partial,
    };
    loop {
        let page: OverviewReply = connection
            .ask(&subject, &request, arguments.asking.timeout())
            .await?;
        let last = page.read_states.last().map(|state| state.channel_id);
        all.more = page.more;
        all.read_states.extend(page.read_states);
        all.missing_partitions.extend(page.missing_partitions);
        match last {
            Some(last) if arguments.all && all.more && all.read_states.len() < ROWS_MAX => {
                request.after_channel_id = last;
            }
            _ => break,
        }
    }
    all.missing_partitions.sort_unstable();
    all.missing_partitions.dedup();
    Ok(all)
}

fn shown(reply: &OverviewReply) -> String {
    let mut text = read_states(&reply.read_states);
    if let Some(last) = reply.read_states.last().filter(|_| reply.more) {
        text += &format!("there are more: --after {}, or --all\n", last.channel_id);
    }
    if !reply.missing_partitions.is_empty() {
        let missing: Vec<_> = reply.missing_partitions.iter().map(u32::to_string).collect();
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
        let text = shown(&reply);
        assert!(
            text.contains("more: --after 42,") && text.contains("now: 3, 7\n"),
            "{text}"
        );
        let text = shown(&OverviewReply::default());
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
