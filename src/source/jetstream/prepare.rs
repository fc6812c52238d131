//! Creates what is missing, and learns what the stream is.

use std::collections::HashMap;
use std::fmt;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Config, Info, RetentionPolicy, StorageType};

use super::JetStreamSettings;
use super::api::bounds;
use super::lease::TTL;
use crate::source::failure::{PrepareError, StreamInfo};

/// What the subjects of requests begin with.
const API: &str = "$JS.API.";
/// Where a stream that was made here says how many partitions it has.
const PARTITIONS: &str = "readstates-partitions";

/// Creates the stream, its dead-letter stream and the bucket of the lease where they are missing, and learns what they
/// are. What exists is used as it is.
///
/// # Errors
/// One line that says which setting to change, or that JetStream can't be reached (then try again).
pub async fn prepare(settings: &JetStreamSettings) -> Result<StreamInfo, PrepareError> {
    let context = settings.context();
    let partitions = settings.partitions;
    let metadata = HashMap::from([(PARTITIONS.to_owned(), partitions.to_string())]);
    let info = ensure(&context, settings, &settings.stream, metadata).await?;
    check_subjects(&info)?;
    if info.config.retention != RetentionPolicy::Limits {
        return Err(PrepareError::Misconfigured(format!(
            "the stream {:?} deletes what was read (its retention is {:?}), and replay needs every record: make it with \
             the retention \"limits\", or correct stream.jetstream.stream",
            settings.stream, info.config.retention
        )));
    }
    let made_with = info.config.metadata.get(PARTITIONS);
    if let Some(made_with) = made_with.filter(|made_with| **made_with != partitions.to_string()) {
        return Err(PrepareError::Misconfigured(format!(
            "the stream {:?} was made with {made_with} partitions, and stream.jetstream.partitions is {partitions}: \
             set it to {made_with}, or make a new stream as the contract says and raise stream.epoch by one",
            settings.stream
        )));
    }
    let letters = ensure(&context, settings, &settings.dead_letter_stream(), HashMap::new()).await?;
    check_subjects(&letters)?;
    ensure_bucket(&context, settings).await?;
    Ok(StreamInfo {
        partition_count: partitions,
        stream_id: bounds(&info).stream_id,
    })
}

async fn ensure(
    context: &Context,
    settings: &JetStreamSettings,
    name: &str,
    metadata: HashMap<String, String>,
) -> Result<Info, PrepareError> {
    if let Some(info) = look(context, name).await? {
        return Ok(info);
    }
    // Without limits: replay needs every record.
    let config = Config {
        name: name.to_owned(),
        subjects: vec![all_of(name)],
        storage: StorageType::File,
        num_replicas: settings.replicas as usize,
        metadata,
        ..Default::default()
    };
    let created = format!("{API}STREAM.CREATE.{name}");
    match context.create_stream(config).await {
        Ok(stream) => {
            tracing::info!(stream = name, partitions = settings.partitions, "created");
            if settings.replicas == 1 && name == settings.stream {
                tracing::warn!(
                    stream = name,
                    "one replica: nats-server acknowledges records before they are on the disk and syncs every two \
                     minutes, unless its configuration says `sync_interval: always` (which a client can't see). What it \
                     loses in a power failure was published and will not be counted"
                );
            }
            Ok(stream.cached_info().clone())
        }
        Err(error) => match error.kind() {
            // Another instance may have been faster.
            CreateStreamErrorKind::JetStream(cause) => match look(context, name).await? {
                Some(info) => Ok(info),
                None if cause.code() == 503 => Err(unreachable(&created, &error)),
                None => Err(PrepareError::Misconfigured(format!(
                    "can't create the stream {name:?} with {} replicas and the subjects {:?} ({cause}): correct \
                     stream.jetstream.stream or stream.jetstream.replicas, or create it by hand without limits",
                    settings.replicas,
                    all_of(name)
                ))),
            },
            _ => Err(unreachable(&created, &error)),
        },
    }
}

async fn look(context: &Context, name: &str) -> Result<Option<Info>, PrepareError> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(cause) if cause.code() == 404 => Ok(None),
            _ => Err(unreachable(&format!("{API}STREAM.INFO.{name}"), &error)),
        },
    }
}

async fn ensure_bucket(context: &Context, settings: &JetStreamSettings) -> Result<(), PrepareError> {
    let name = settings.lease_bucket();
    if let Ok(bucket) = context.get_key_value(&name).await {
        if bucket.stream.cached_info().config.max_age.is_zero() {
            return Err(PrepareError::Misconfigured(format!(
                "entries of the bucket {name:?} live for ever, so that nobody could take over: give it a TTL of {} s, or \
                 delete it",
                TTL.as_secs()
            )));
        }
        return Ok(());
    }
    let config = kv::Config {
        bucket: name.clone(),
        description: "which instance of readstates owns the partitions".to_owned(),
        history: 1,
        max_age: TTL,
        storage: StorageType::File,
        num_replicas: settings.replicas as usize,
        ..Default::default()
    };
    match context.create_key_value(config).await {
        Ok(_) => Ok(()),
        // Another instance may have been faster.
        Err(_) if context.get_key_value(&name).await.is_ok() => Ok(()),
        Err(error) => Err(unreachable(&format!("{API}STREAM.CREATE.KV_{name}"), &error)),
    }
}

/// The subjects of a stream.
fn all_of(stream: &str) -> String {
    format!("{stream}.>")
}

fn check_subjects(info: &Info) -> Result<(), PrepareError> {
    let (name, subjects) = (&info.config.name, &info.config.subjects);
    let fitting = [all_of(name), format!("{name}.*"), ">".to_owned()];
    if subjects.iter().any(|subject| fitting.contains(subject)) {
        return Ok(());
    }
    Err(PrepareError::Misconfigured(format!(
        "the stream {name:?} has the subjects {subjects:?}, and {:?} is needed: add it, or correct \
         stream.jetstream.stream",
        all_of(name)
    )))
}

/// `asked`: the subject of the request that failed.
fn unreachable(asked: &str, error: &impl fmt::Display) -> PrepareError {
    PrepareError::Unreachable(format!(
        "can't reach JetStream: {asked}: {error}: start nats-server with JetStream (-js), or correct nats.url, or let our \
         user publish there and subscribe to its inbox (deploy/nats/nats-server.conf has all that it needs)"
    ))
}
