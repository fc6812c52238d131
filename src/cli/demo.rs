//! `demo`: serves, feeds a lively chat into the stream, and shows what happens.

pub(super) mod chat;
mod screen;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use metrics::Counter;
use tokio::sync::watch;

use super::{Failed, publish, serve, settings};
use crate::config::Config;
use crate::query::{Subjects, ask, connect};
use crate::wire::proto::v1::{GetReply, GetRequest, Key};
use crate::wire::record::RecordLimits;
use chat::Chat;
use screen::{Asked, Screen};

/// How often the screen is drawn anew.
const DRAW_INTERVAL: Duration = Duration::from_secs(1);
/// How often the users on the screen are asked about.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// How long to wait for an answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What to feed.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Feeds this file of events (JSON, one a line; .zst is decompressed by zstdcat) in place of a synthetic chat.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Events of the synthetic chat in a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
}

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(config: Config, arguments: Arguments) -> Result<(), Failed> {
    let listener = serve::listen(&config).await?;
    let serving = serve::start(config.clone(), listener).await?;
    let (stop, stopped) = watch::channel(false);

    let (input, users): (Box<dyn Read + Send>, Users) = match &arguments.events {
        Some(file) => (open(file)?, Users::of_file(file)?),
        None => (
            Box::new(Chat::new(arguments.rate, some_seed(), stopped.clone())),
            Users::of_chat(),
        ),
    };
    let stream = settings::stream(&config).await?;
    let limits = RecordLimits::from(&config.limits);
    let feeding = tokio::spawn(async move {
        let counts = Arc::default();
        let input = BufReader::new(input);
        publish::publish(input, &stream, &limits, &counts, std::future::pending()).await
    });

    let client = connect(&config.nats, Counter::noop())
        .await
        .map_err(|error| Failed::Broken(error.to_string()))?;
    let shards = serving.shards().clone();
    let (asked, latest) = watch::channel(Asked::default());
    let subject = Subjects::new(&config.nats.subject_prefix, &[]).get();
    let asking = tokio::spawn(ask_again_and_again(client, subject, users.keys(), asked));
    let drawing = tokio::spawn(async move {
        let mut screen = Screen::new(&config);
        let mut ticks = tokio::time::interval(DRAW_INTERVAL);
        loop {
            ticks.tick().await;
            let report = shards.report().await;
            let asked = latest.borrow().clone();
            screen.draw(&report, &asked);
        }
    });

    let ended = serving.run_until(serve::signals()).await;
    // The chat ends with the receiver if it has not ended yet.
    let _ = stop.send(true);
    drawing.abort();
    asking.abort();
    feeding.abort();
    ended
}

/// Another one each time.
fn some_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64)
}

/// Who is shown.
struct Users(Vec<Key>);

/// How many read states are shown.
const SHOWN_MAX: usize = 8;
/// How much of a file is searched for users to show.
const SEARCHED_LINES_MAX: usize = 20_000;

impl Users {
    fn of_chat() -> Self {
        let channels = [1, 1, 1, 2, 2, 3, 5, 8];
        let keys = channels.into_iter().zip(1..).map(|(channel, user)| Key {
            user_id: chat::user(user * 3),
            channel_id: chat::channel(channel),
        });
        Users(keys.take(SHOWN_MAX).collect())
    }

    /// Some who read or joined in the file.
    fn of_file(file: &Path) -> Result<Self, Failed> {
        use std::io::BufRead;
        let mut keys: Vec<Key> = Vec::new();
        for line in BufReader::new(open(file)?).lines().take(SEARCHED_LINES_MAX) {
            let line = line.map_err(|error| Failed::Broken(format!("{}: {error}", file.display())))?;
            let Ok(event) = crate::wire::json::from_json::<crate::wire::proto::v1::Event>(line.as_bytes())
            else {
                continue;
            };
            use crate::wire::proto::v1::event::Kind;
            let user_id = match event.kind {
                Some(Kind::MessageRead(read)) => read.user_id,
                Some(Kind::MemberJoined(joined)) => joined.user_id,
                _ => continue,
            };
            let key = Key {
                user_id,
                channel_id: event.channel_id,
            };
            if !keys.contains(&key) {
                keys.push(key);
            }
            if keys.len() == SHOWN_MAX {
                break;
            }
        }
        Ok(Users(keys))
    }

    fn keys(self) -> Vec<Key> {
        self.0
    }
}

/// A child that decompresses ends with its reader.
struct Decompressed(Child);

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.stdout.as_mut() {
            Some(output) => output.read(buffer),
            None => Ok(0),
        }
    }
}

impl Drop for Decompressed {
    fn drop(&mut self) {
        // It has ended where it can't be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn open(file: &Path) -> Result<Box<dyn Read + Send>, Failed> {
    let failed = |error: std::io::Error| Failed::Broken(format!("can't read {}: {error}", file.display()));
    if file.extension().is_some_and(|extension| extension == "zst") {
        let child = Command::new("zstdcat").arg(file).stdout(Stdio::piped()).spawn();
        return Ok(Box::new(Decompressed(child.map_err(failed)?)));
    }
    Ok(Box::new(File::open(file).map_err(failed)?))
}

async fn ask_again_and_again(
    client: async_nats::Client,
    subject: String,
    keys: Vec<Key>,
    asked: watch::Sender<Asked>,
) {
    let request = GetRequest {
        keys,
        ..GetRequest::default()
    };
    let mut ticks = tokio::time::interval(ASK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        let reply: Result<GetReply, _> = ask(&client, &subject, &request, ASK_TIMEOUT).await;
        let took = began.elapsed();
        asked.send_modify(|asked| match reply {
            Ok(reply) => asked.answered(reply.read_states, took),
            Err(error) => asked.failed(error.to_string()),
        });
    }
}
