//! `get`: asks what a user has read in some channels.

use std::time::Duration;

use async_nats::connection::State;
use clap::Args;
use metrics::Counter;

use super::Failed;
use crate::config::Config;
use crate::query::{Subjects, ask, connect};
use crate::wire::proto::v1::{GetReply, GetRequest, Key, Membership, ReadState};
use crate::wire::query::{Form, encode_reply};

/// What to ask.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The user's id.
    user: u64,
    /// The ids of channels.
    #[arg(required = true)]
    channels: Vec<u64>,
    /// Prints the reply as JSON.
    #[arg(long)]
    json: bool,
    /// How long to wait for the answer.
    #[arg(long, default_value_t = 2000, value_name = "MILLISECONDS")]
    timeout: u64,
}

/// Asks and prints.
///
/// # Errors
/// What the service said, or that nobody answered.
pub async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failed> {
    let timeout = Duration::from_millis(arguments.timeout);
    let connecting = connect(&config.nats, Counter::noop());
    let client = connecting
        .await
        .map_err(|error| Failed::Misconfigured(error.to_string()))?;
    let keys = arguments.channels.iter();
    let request = GetRequest {
        keys: keys
            .map(|channel| Key {
                user_id: arguments.user,
                channel_id: *channel,
            })
            .collect(),
        ..GetRequest::default()
    };
    let subject = Subjects::new(&config.nats.subject_prefix, &[]).get();
    let reply: GetReply = ask(&client, &subject, &request, timeout).await.map_err(|error| {
        Failed::Broken(match client.connection_state() {
            State::Connected => format!("{subject}: {error}"),
            State::Disconnected | State::Pending => {
                let urls = config.nats.urls.join(",");
                format!("nats.url {urls} can't be reached: is nats-server up, and is this its address?")
            }
        })
    })?;
    match arguments.json {
        true => println!("{}", String::from_utf8_lossy(&encode_reply(&reply, Form::Json))),
        false => print!("{}", table(&reply.read_states)),
    }
    Ok(())
}

/// One line for each read state.
pub fn table(read_states: &[ReadState]) -> String {
    let mut text = format!(
        "{:>20} {:>8} {:>8} {:>8} {:>20} {:>20} {:<12} {}\n",
        "channel", "unread", "mentions", "direct", "last read", "last message", "membership", "position"
    );
    for state in read_states {
        let capped = |count: u32, capped: bool| format!("{count}{}", if capped { "+" } else { "" });
        let membership = match state.membership() {
            Membership::Unspecified => "-",
            Membership::Joined => "joined",
            Membership::Left => "left",
            Membership::ChannelDeleted => "deleted",
        };
        let position = state.position.as_ref();
        let position = position.map_or("-".to_owned(), |at| format!("{}:{}", at.partition, at.offset));
        text.push_str(&format!(
            "{:>20} {:>8} {:>8} {:>8} {:>20} {:>20} {:<12} {}\n",
            state.channel_id,
            capped(state.unread_count, state.unread_count_capped),
            capped(state.mention_count, state.mention_count_capped),
            capped(state.direct_mention_count, state.mention_count_capped),
            state.last_read_message_id,
            state.last_message_id,
            membership,
            position
        ));
    }
    text
}
