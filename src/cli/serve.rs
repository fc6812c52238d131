//! `serve`: the service. Connects to everything, runs, drains.

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use super::reached::Reached;
use super::{Failed, published, settings};
use crate::config::{Config, StoreKind, StreamKind};
use crate::ops::{http, metrics};
use crate::query::{self, QueryService, REQUESTS_IN_WORK_MAX, ServiceOptions, Subjects, connect};
use crate::shard::Shards;
use crate::source::failure::{PrepareError, SourceFailure, StreamInfo};
use crate::source::stream::{Source, StreamSettings};
use crate::store::StreamIdentity;
use crate::store::cassandra::{CassandraStore, ConnectError};
use crate::store::either::EitherStore;
use crate::store::embedded::EmbeddedStore;

/// How long to wait before the next attempt to reach a server at the start.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How long questions that are being worked on may take once the partitions are given up.
const ANSWERING_MAX: Duration = Duration::from_secs(2);

/// A runtime of its own for what reads and writes the store: where many rows are written, a question would wait for its turn
/// behind all of them.
struct StoreRuntime(Option<Runtime>);

impl StoreRuntime {
    fn start() -> Result<Self, Failed> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("store")
            .build();
        runtime
            .map(|runtime| StoreRuntime(Some(runtime)))
            .map_err(|error| Failed::Broken(format!("the store's runtime can't be started: {error}")))
    }

    fn handle(&self) -> Handle {
        match &self.0 {
            Some(runtime) => runtime.handle().clone(),
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl Drop for StoreRuntime {
    /// Whatever still runs has nothing left to lose: rows are in the store or their records are replayed.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A service that runs.
pub struct Serving {
    shards: Shards,
    source: Source,
    queries: QueryService,
    failures: mpsc::Receiver<SourceFailure>,
    refused: JoinHandle<query::ConnectError>,
    admin_stop: watch::Sender<bool>,
    store_runtime: StoreRuntime,
}

/// Serves until `shutdown`, then drains. Fails at once where the configuration can't work, waits where a server is only
/// not there yet.
///
/// # Errors
/// Why it could not start, or had to end. The log has it already.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Failed> {
    tokio::pin!(shutdown);
    let starting = async {
        let listener = listen(&config).await?;
        start(config, listener).await
    };
    let started = tokio::select! {
        started = starting => started.inspect_err(tell)?,
        () = &mut shutdown => return Ok(()),
    };
    started.run_until(shutdown).await
}

/// Says why it ends, by the log, or by itself where that is off.
fn tell(failed: &Failed) {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{failed}");
    } else {
        eprintln!("{failed}");
    }
}

/// Takes the address of metrics and health.
///
/// # Errors
/// Who else may have it.
pub async fn listen(config: &Config) -> Result<TcpListener, Failed> {
    let listen = config.admin.listen;
    TcpListener::bind(listen).await.map_err(|error| {
        Failed::Misconfigured(format!(
            "admin.listen {listen}: {error}: choose another address or end who has it"
        ))
    })
}

/// Connects to everything and starts to serve.
///
/// # Errors
/// Why that can't work.
pub async fn start(config: Config, listener: TcpListener) -> Result<Serving, Failed> {
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    let recorder = metrics::install(&librdkafka)
        .map_err(|error| Failed::Broken(format!("metrics can't be recorded: {error}")))?;
    let instance = instance_name();
    let reached = Reached::default();
    let (admin_stop, admin_stopped) = watch::channel(false);
    let admin = http::Admin {
        instance: instance.clone(),
        metrics: recorder,
        partitions: reached.clone(),
        dependencies: reached.dependencies(config.stream.kind),
    };
    tokio::spawn(serve_admin(listener, admin, admin_stopped));
    let nats = connect(&config.nats, metrics::nats_dropped())
        .await
        .map_err(|error| Failed::Misconfigured(error.to_string()))?;
    reached.nats(&nats);
    let store_runtime = StoreRuntime::start()?;
    // There, so that its connections are there too.
    let reaching = store_runtime.handle().spawn(reach_store(config.clone()));
    let store = reaching
        .await
        .map_err(|error| Failed::Broken(format!("the store can't be reached: {error}")))??;
    reached.store();
    let stream_settings = settings::stream(&config).await?;
    let stream = reach_stream(&stream_settings, config.stream.kind).await?;

    let identity = StreamIdentity {
        stream_id: stream.stream_id.clone(),
        partition_count: stream.partition_count,
        epoch: config.stream.epoch,
    };
    let dead_letters = stream_settings.dead_letters().map_err(Failed::Misconfigured)?;
    let shard_settings = settings::shards(&config, identity);
    let shards = Shards::start(
        shard_settings,
        store.clone(),
        dead_letters,
        store_runtime.handle(),
    )
    .map_err(|error| Failed::Broken(format!("the threads for partitions can't be started: {error}")))?;
    let (source, failures) = stream_settings
        .start(&stream, shards.clone(), store.clone())
        .map_err(Failed::Misconfigured)?;

    let kind = config.stream.kind;
    let publisher = published::Publisher::new(shards.clone(), source.stats(), kind, &config.cache);
    reached.running(publisher, &shards, source.stats());
    let options = ServiceOptions {
        subjects: Subjects::new(&config.nats.subject_prefix, &record_subjects(&config)),
        instance,
        partition_count: stream.partition_count,
        keys_max: config.limits.max_keys,
        requests_in_work_max: REQUESTS_IN_WORK_MAX,
    };
    let refused = tokio::spawn({
        let (config, nats) = (config.nats.clone(), nats.clone());
        async move { query::refused(&config, &nats).await }
    });
    let queries = QueryService::start(nats, shards.clone(), store, options)
        .await
        .map_err(|error| Failed::Broken(error.to_string()))?;
    match &stream_settings {
        StreamSettings::Kafka(kafka) => tracing::info!(
            "serving topic {} with {} partitions as a member of group {}",
            kafka.topic,
            stream.partition_count,
            kafka.group
        ),
        StreamSettings::JetStream(jetstream) => tracing::info!(
            "serving stream {} with {} partitions while this instance has the lease",
            jetstream.stream,
            stream.partition_count
        ),
    }
    Ok(Serving {
        shards,
        source,
        queries,
        failures,
        refused,
        admin_stop,
        store_runtime,
    })
}

impl Serving {
    /// The partitions of this instance.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Runs until `shutdown` or a failure that ends it, then drains.
    ///
    /// # Errors
    /// The failure.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Failed> {
        let failure = tokio::select! {
            () = shutdown => None,
            failure = self.failures.recv() => Some(source_failed(failure)),
            refused = &mut self.refused => Some(nats_refused(refused)),
            // Nothing is written any more; draining only tells the group, so that others take the partitions soon.
            why = self.shards.rolled_back() => Some(Failed::Broken(why)),
        };
        self.refused.abort();
        // At once, since draining may take a while.
        failure.iter().for_each(tell);
        let drained = self.drain().await;
        failure.map_or_else(|| drained.inspect_err(tell), Err)
    }

    /// Writes everything, gives the partitions up, and answers what was asked before.
    async fn drain(self) -> Result<(), Failed> {
        tracing::info!("draining");
        let stopped = self.source.stop().await.map_err(Failed::Broken);
        self.queries.stop(ANSWERING_MAX).await;
        drop(self.store_runtime);
        // Nobody listens where the server has ended already.
        let _ = self.admin_stop.send(true);
        tracing::info!("drained");
        stopped
    }
}

/// Where no reply may go, since it would be a record.
fn record_subjects(config: &Config) -> Vec<String> {
    match config.stream.kind {
        StreamKind::Kafka => Vec::new(),
        StreamKind::JetStream => config.stream.jetstream.subject_prefixes().to_vec(),
    }
}

fn source_failed(failure: Option<SourceFailure>) -> Failed {
    match failure {
        Some(
            failure
            @ (SourceFailure::Refused { .. } | SourceFailure::Misfit(_) | SourceFailure::Forbidden(_)),
        ) => Failed::Misconfigured(failure.to_string()),
        Some(failure) => Failed::Broken(failure.to_string()),
        None => Failed::Broken("the source has ended unexpectedly".to_owned()),
    }
}

fn nats_refused(refused: Result<query::ConnectError, JoinError>) -> Failed {
    match refused {
        Ok(refused) => Failed::Misconfigured(refused.to_string()),
        Err(error) => Failed::Broken(format!("nobody looks after the connection to NATS: {error}")),
    }
}

/// Ends at SIGTERM or Ctrl-C.
pub async fn signals() {
    let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::error!("signals can't be received, so this ends without draining: {error}");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn reach_store(config: Config) -> Result<EitherStore, Failed> {
    match config.store.kind {
        StoreKind::Cassandra => reach_cassandra(&config).await.map(EitherStore::Cassandra),
        StoreKind::Embedded => {
            let opened = EmbeddedStore::open(settings::embedded(&config)).await;
            opened
                .map(EitherStore::Embedded)
                .map_err(|error| Failed::Misconfigured(error.to_string()))
        }
    }
}

async fn reach_cassandra(config: &Config) -> Result<CassandraStore, Failed> {
    let cassandra = settings::cassandra(config);
    let mut was_logged = false;
    loop {
        match CassandraStore::connect(&cassandra).await {
            Ok(store) => {
                log_reached(was_logged, "the store");
                return Ok(store);
            }
            Err(error @ ConnectError::Final(_)) => {
                return Err(Failed::Misconfigured(error.to_string()));
            }
            Err(error) => log_once(&mut was_logged, &error.to_string()),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn reach_stream(settings: &StreamSettings, kind: StreamKind) -> Result<StreamInfo, Failed> {
    let mut was_logged = false;
    loop {
        match settings.prepare().await {
            Ok(stream) => {
                log_reached(was_logged, kind.server());
                return Ok(stream);
            }
            Err(PrepareError::Misconfigured(error)) => return Err(Failed::Misconfigured(error)),
            Err(PrepareError::Unreachable(error)) => log_once(&mut was_logged, &error),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

fn log_once(was_logged: &mut bool, error: &str) {
    if !std::mem::replace(was_logged, true) {
        tracing::warn!("{error}; trying again until it is there");
    }
}

fn log_reached(was_missed: bool, server: &str) {
    if was_missed {
        tracing::info!("{server} is there now");
    }
}

async fn serve_admin(listener: TcpListener, admin: http::Admin<Reached>, mut stopped: watch::Receiver<bool>) {
    let until_stopped = async move {
        // An error says that the service is gone, which is an end as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    if let Err(error) = http::serve(listener, admin, until_stopped).await {
        tracing::error!("metrics and health are not served any more: {error}");
    }
}

/// Tells this instance from others: the host's name and the process id.
fn instance_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!(
        "{}-{}",
        if host.is_empty() { "readstates" } else { host },
        std::process::id()
    )
}
