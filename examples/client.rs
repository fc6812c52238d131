//! Publishes a message that mentions someone, asks what that person has not read, and reads it.
//!
//! `cargo run --example client` speaks to the service of `readstates.toml`, or of the file that is named as the argument, or
//! of the environment: `READSTATES_NATS__URL=nats://127.0.0.1:4222`, `READSTATES_STREAM__KIND=jetstream`.

use std::error::Error;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use readstates::client::{Client, Options, Positions, Publisher, StreamOptions};
use readstates::config::{Config, environment};
use readstates::model::event::{Event, EventKind, Mentions};
use readstates::model::ids::{ChannelId, MessageId, ReadStateKey, UserId};

const ALICE: UserId = UserId(7);
const BOB: UserId = UserId(8);
const CHANNEL: ChannelId = ChannelId(42);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let config =
        Config::load(&[], file.as_deref(), environment()).map_err(|mistakes| mistakes.to_string())?;
    let client = Client::connect(Options::from(&config.nats)).await?;
    let publisher = Publisher::connect(&StreamOptions::from(&config)).await?;

    // Ids rise with time, as those of real messages do.
    let message = MessageId(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64);
    let position = publisher
        .publish(Event {
            channel: CHANNEL,
            kind: EventKind::MessageCreated {
                message,
                author: Some(ALICE),
                mentions: Mentions::new(vec![BOB], false),
            },
        })
        .await?;
    println!("message {message} in channel {CHANNEL} is at {position}");

    // Whatever this program published is in the answers that it gets.
    let mut seen = Positions::from(position);
    show(&client, &seen).await?;
    for read_state in client.overview(BOB).only_unread().all().await?.read_states {
        println!(
            "overview: channel {} has {} unread",
            read_state.channel, read_state.unread
        );
    }

    let read = EventKind::MessageRead { user: BOB, message };
    seen.add(
        publisher
            .publish(Event {
                channel: CHANNEL,
                kind: read,
            })
            .await?,
    );
    show(&client, &seen).await?;
    publisher.close().await?;
    Ok(())
}

async fn show(client: &Client, seen: &Positions) -> Result<(), Box<dyn Error>> {
    let key = ReadStateKey {
        user: BOB,
        channel: CHANNEL,
    };
    for read_state in client.get([key]).after(seen).await? {
        println!(
            "user {} in channel {}: {} unread, {} of them with a mention",
            read_state.user, read_state.channel, read_state.unread, read_state.mentions
        );
    }
    Ok(())
}
