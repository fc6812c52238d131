//! `demo`: the whole thing on this machine. Starts nats-server, serves, feeds a lively chat into the stream, and shows
//! what happens.

mod asking;
pub(super) mod chat;
mod figures;
mod happenings;
mod input;
mod kept_log;
mod names;
mod nats;
mod place;
mod screen;
mod show;
mod terminal;
mod view;

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::serve::Serving;
use super::{Failed, exit_status, logging, publish, serve, settings};
use crate::client::Client;
use crate::config::{Config, Effective, StoreKind, StreamKind};
use crate::shard::Shards;
use crate::wire::record::RecordLimits;
use asking::{Asked, Whom};
use chat::{Chat, Paced};
use happenings::Happenings;
use kept_log::KeptLog;
use nats::NatsServer;
use place::Place;
use show::Show;
use view::Facts;

/// Users and channels on the screen.
const USERS_MAX: usize = 6;
const CHANNELS_MAX: usize = 6;
/// What the demo sets unless someone else does: enough to see everything, and little of this machine.
const READ_STATES: usize = 100_000;
const CHANNEL_MEMORY_BYTES: u64 = 16 << 20;
const PARTITIONS: u32 = 8;
const WRITE_DELAY: Duration = Duration::from_secs(5);
/// How long the service may take until it can say where a former chat has ended.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Events that were read may still be published at the end, for so long.
const PUBLISHED_MAX: Duration = Duration::from_secs(2);

/// Runs everything on this machine: starts nats-server with JetStream on a free port, serves with the embedded store,
/// publishes a synthetic chat, and shows what happens. Everything is in a temporary folder and gone at the end, which is
/// Ctrl-C or q.
///
/// A server that is configured is used and not started: `--set nats.url=nats://HOST:PORT`, `--set stream.kind=kafka`
/// (with `stream.kafka.brokers`), `--set store.kind=cassandra` (with `store.cassandra.nodes`), by flag, environment or
/// file. The chat is published there for real. Unless they are set, cache.read_states is 100000, cache.channel_memory
/// 16MiB, store.write_delay 5s, the stream has 8 partitions, and the status page a free port.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Keeps the data in this folder, and goes on with what is there.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Events of the synthetic chat in a second, on average.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    rate: u32,
    /// Questions that the demo asks in a second.
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    query_rate: u32,
    /// Decides who does what in the chat; another one each time if not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Feeds this file of events (JSON, one a line; .zst is decompressed by zstdcat) in place of the synthetic chat.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "seed"])]
    events: Option<PathBuf>,
    /// The nats-server to start; looked for on PATH, and where scripts/install puts it, if not given.
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
}

/// Runs until it is told to end. Status 0 then.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(
    mut config: Config,
    effective: &Effective,
    arguments: Arguments,
) -> Result<ExitCode, Failed> {
    let mut ending = Ending::new()?;
    let log = KeptLog::default();
    let is_own_nats = !effective.is_given("nats.url");
    start_log(&config, effective, is_own_nats, &log);
    let whom = match &arguments.events {
        Some(file) => input::watched(file, USERS_MAX, CHANNELS_MAX)?,
        None => chat::watched(USERS_MAX, CHANNELS_MAX),
    };
    let whom = Whom {
        users: whom.0,
        channels: whom.1,
    };
    let program = if is_own_nats {
        Some(nats::find(arguments.nats_server.as_deref())?)
    } else {
        None
    };
    let place = Place::take(arguments.data.as_deref()).await?;
    adapt(&mut config, effective, &place);
    let mut nats = match &program {
        Some(program) => tokio::select! {
            started = NatsServer::start(program, &place) => Some(started?),
            () = ending.told() => return Ok(ExitCode::SUCCESS),
        },
        None => None,
    };
    if let Some(nats) = &nats {
        config.nats.urls = vec![nats.url.clone()];
    }
    let ended = tokio::select! {
        ended = serve_and_show(config, &arguments, &place, whom, is_own_nats, &mut ending, &log) => ended,
        failed = nats_ended(&mut nats, &place) => Err(failed),
    };
    log.release();
    if let Some(nats) = nats {
        nats.stop().await;
    }
    place.leave();
    ended
}

/// Quiet, since the screen tells what goes on.
fn start_log(config: &Config, effective: &Effective, is_own_nats: bool, log: &KeptLog) {
    // Its own nats-server goes when the demo does: what it syncs is all right, and its end is told by the demo.
    let more = match is_own_nats {
        true => ",readstates::source::jetstream::prepare=error,readstates::query::connection=off",
        false => "",
    };
    let is_given = effective.is_given("log.level");
    let level = if is_given { &config.log.level } else { "warn" };
    logging::start_to(
        &config.log,
        level,
        if is_given { "" } else { more },
        false,
        log.clone(),
    );
}

/// Never returns where nats-server is none of the demo's.
async fn nats_ended(nats: &mut Option<NatsServer>, place: &Place) -> Failed {
    match nats {
        Some(nats) => nats.ended(place).await,
        None => std::future::pending().await,
    }
}

/// What is not set becomes what fits a demo.
fn adapt(config: &mut Config, effective: &Effective, place: &Place) {
    let set = |name: &str, change: &mut dyn FnMut()| {
        if !effective.is_given(name) {
            change();
        }
    };
    set("stream.kind", &mut || config.stream.kind = StreamKind::JetStream);
    set("store.kind", &mut || config.store.kind = StoreKind::Embedded);
    set("stream.kafka.partitions", &mut || {
        config.stream.kafka.partitions = PARTITIONS
    });
    set("stream.jetstream.partitions", &mut || {
        config.stream.jetstream.partitions = PARTITIONS
    });
    set("store.write_delay", &mut || {
        config.store.write_delay = WRITE_DELAY
    });
    set("store.embedded.path", &mut || {
        config.store.embedded.path = place.data().join("store")
    });
    set("cache.read_states", &mut || {
        config.cache.read_states = READ_STATES
    });
    set("cache.channel_memory", &mut || {
        config.cache.channel_memory_bytes = CHANNEL_MEMORY_BYTES
    });
    set("admin.listen", &mut || config.admin.listen.set_port(0));
}

/// Everything but nats-server.
async fn serve_and_show(
    mut config: Config,
    arguments: &Arguments,
    place: &Place,
    whom: Whom,
    is_own_nats: bool,
    ending: &mut Ending,
    log: &KeptLog,
) -> Result<ExitCode, Failed> {
    let starting = async {
        let listener = serve::listen(&config).await?;
        if let Ok(address) = listener.local_addr() {
            config.admin.listen = address;
        }
        let serving = serve::start(config.clone(), listener).await?;
        let client = super::asking::connect(&config).await?;
        Ok::<_, Failed>((serving, client))
    };
    let (serving, client) = tokio::select! {
        started = starting => started?,
        () = ending.told() => return Ok(ExitCode::SUCCESS),
    };
    let facts = facts(&config, arguments, place, whom.clone(), is_own_nats);
    let happenings = Arc::new(Happenings::default());
    let asked = Arc::new(Asked::default());
    let (stop, stopped) = watch::channel(false);
    let feeding = feed(&config, arguments, client.clone(), happenings.clone(), stopped);
    let asking = asking::ask_at_rate(client, whom, arguments.query_rate, asked.clone());
    let asking = tokio::spawn(asking);

    let shards = serving.shards().clone();
    let (drain, drained) = watch::channel(false);
    let serving = std::pin::pin!(serve_until(serving, drained));
    let mut show = Show::new(&config, facts, happenings, log.clone());
    let ended = run_until(
        serving,
        feeding,
        &mut show,
        (&shards, &asked),
        ending,
        (&stop, &drain),
    )
    .await;
    asking.abort();
    ended
}

/// Runs, and ends in order: first the chat, then what is served.
async fn run_until(
    mut serving: Pin<&mut impl Future<Output = Result<(), Failed>>>,
    mut feeding: JoinHandle<Result<(), Failed>>,
    show: &mut Show,
    (shards, asked): (&Shards, &Asked),
    ending: &mut Ending,
    (stop, drain): (&watch::Sender<bool>, &watch::Sender<bool>),
) -> Result<ExitCode, Failed> {
    let why = tokio::select! {
        served = &mut serving => {
            show.end();
            // The log has it, which is written now.
            return Ok(exit_status(&served));
        }
        fed = &mut feeding => joined(fed),
        shown = show.run(shards, asked) => shown,
        () = ending.told() => Ok(()),
    };
    show.end();
    // Nobody hears it where the chat has ended already.
    let _ = stop.send(true);
    let ordered = async {
        if !feeding.is_finished() {
            let _ = tokio::time::timeout(PUBLISHED_MAX, &mut feeding).await;
        }
        let _ = drain.send(true);
        serving.as_mut().await
    };
    let served = tokio::select! {
        served = ordered => served,
        // Who says so twice does not want to wait. What is not written is replayed, if the data is kept.
        () = ending.told() => Ok(()),
    };
    why.map(|()| exit_status(&served))
}

fn joined(result: Result<Result<(), Failed>, tokio::task::JoinError>) -> Result<(), Failed> {
    result.unwrap_or_else(|error| Err(Failed::Broken(format!("a part of the demo broke off: {error}"))))
}

async fn serve_until(serving: Serving, mut drained: watch::Receiver<bool>) -> Result<(), Failed> {
    let told = async move {
        // An error says that the demo is gone, which is an end as well.
        let _ = drained.wait_for(|drained| *drained).await;
    };
    serving.run_until(told).await
}

/// Publishes the chat, or the file: at its end nothing more comes, and the demo goes on.
fn feed(
    config: &Config,
    arguments: &Arguments,
    client: Client,
    happenings: Arc<Happenings>,
    stopped: watch::Receiver<bool>,
) -> JoinHandle<Result<(), Failed>> {
    let config = config.clone();
    let file = arguments.events.clone();
    let (rate, seed) = (arguments.rate, arguments.seed);
    tokio::spawn(async move {
        let input: Box<dyn Read + Send> = match &file {
            Some(file) => Box::new(input::Told::new(BufReader::new(input::open(file)?), happenings)),
            None => {
                let newest = newest(&client).await;
                let chat = Chat::new(rate, seed.unwrap_or_else(some_seed), unix_ms(), &newest);
                Box::new(Paced::new(chat, happenings, stopped.clone()))
            }
        };
        let stream = settings::stream(&config).await?;
        let limits = RecordLimits::from(&config.limits);
        let counts = Arc::default();
        let mut told = stopped.clone();
        let stop = async move {
            let _ = told.wait_for(|stopped| *stopped).await;
        };
        publish::publish(BufReader::new(input), &stream, &limits, &counts, stop).await?;
        let mut stopped = stopped;
        // A file that is read to its end: what it has done is still to be seen.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        Ok(())
    })
}

/// Where a former chat has ended, from the service itself: it answers once it has caught up.
async fn newest(client: &Client) -> Vec<u64> {
    loop {
        match asking::newest(client, chat::channels()).await {
            Ok(newest) => return newest,
            Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}

fn facts(config: &Config, arguments: &Arguments, place: &Place, whom: Whom, is_own_nats: bool) -> Facts {
    let nats_url = config.nats.urls.join(",");
    let stream = match config.stream.kind {
        StreamKind::JetStream => "JetStream".to_owned(),
        StreamKind::Kafka => format!("Kafka {}", config.stream.kafka.brokers),
    };
    let store = match config.store.kind {
        StoreKind::Embedded => "embedded store".to_owned(),
        StoreKind::Cassandra => format!("Cassandra {}", config.store.cassandra.nodes.join(",")),
    };
    let whose = if is_own_nats {
        "its own nats-server"
    } else {
        nats_url.as_str()
    };
    let data = match place.is_kept() {
        true => format!("{} (kept)", place.data().display()),
        false => format!("{} (removed at the end)", place.data().display()),
    };
    let program = std::env::args().next();
    Facts {
        servers: format!("{stream}, {store}, {whose}"),
        program: program.unwrap_or_else(|| "readstates".to_owned()),
        subject_prefix: config.nats.subject_prefix.clone(),
        admin: config.admin.listen.to_string(),
        is_own_chat: arguments.events.is_none(),
        nats_url,
        data,
        whom,
    }
}

/// The time of day, which message ids begin with.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_millis() as u64)
}

/// Another one each time.
fn some_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64)
}

/// Whether someone wants it to end: by Ctrl-C, by SIGTERM, or by closing the terminal.
struct Ending(mpsc::UnboundedReceiver<()>);

impl Ending {
    /// From now on a signal ends nothing by itself.
    fn new() -> Result<Self, Failed> {
        // One for each signal, which are few.
        let (told, ending) = mpsc::unbounded_channel();
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            let signals = signal(kind);
            let mut signals =
                signals.map_err(|error| Failed::Broken(format!("signals can't be received: {error}")))?;
            let told = told.clone();
            tokio::spawn(async move { while signals.recv().await.is_some() && told.send(()).is_ok() {} });
        }
        Ok(Ending(ending))
    }

    async fn told(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}
