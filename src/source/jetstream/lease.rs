//! Who owns the partitions: the instance whose name is under one key of a bucket whose entries live for a short time.
//!
//! | state | means | ends by |
//! |---|---|---|
//! | standby | another instance has the lease | its entry is deleted, runs out, or stands unchanged for its life, and ours is the first after it |
//! | certain | nobody else can have it | nine tenths of the entry's life without an accepted renewal |
//! | in doubt | others may have it | an accepted renewal, or the loss |
//! | lost | another one has it, or nobody knows who had it meanwhile | the next acquisition |
//!
//! A renewal names the revision that it replaces, so one that was overtaken is refused, however late it arrives. The
//! server counts an entry's life from when it took the renewal, this from when it was *sent*, which is earlier. So a
//! holder that was stopped and wakes up is in doubt before anybody else can have the lease.
//!
//! The server may take seconds to remove what has run out. So a standby counts as well, from when it first *saw* a
//! revision, which is later than when the server took it, and then replaces that very revision.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use bytes::Bytes;

use super::JetStreamSettings;
use crate::source::Confirmed;

/// How long an entry lives in a bucket that is created here.
pub(super) const TTL: Duration = Duration::from_secs(5);
/// Of an entry's life, so many tenths count: clocks may run at rates that differ by the rest.
const CERTAIN_TENTHS: u32 = 9;
/// The key that the holder's name is under.
const KEY: &str = "owner";

/// The way to the lease.
pub(super) struct Lease {
    bucket: Store,
    /// Names this process and no other.
    name: Bytes,
    /// How long an entry lives.
    pub ttl: Duration,
}

/// This process has the lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Of the entry.
    pub revision: u64,
    /// For so long.
    pub confirmed: Confirmed,
}

/// What a standby knows of the holder.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenEntry {
    revision: u64,
    /// When it was seen first.
    pub at: Instant,
}

/// What came of a renewal.
pub(super) enum Renewed {
    Held(Held),
    /// Another one has it or had it.
    Lost,
    /// It may have been accepted or not.
    Unknown(String),
}

impl Lease {
    /// Of the bucket that [`prepare`](super::prepare) has made. `name` tells this process from all others that are or were.
    pub async fn open(settings: &JetStreamSettings, name: &Bytes) -> Result<Self, String> {
        let bucket = settings.context().get_key_value(settings.lease_bucket()).await;
        let bucket = bucket.map_err(|error| format!("the bucket {:?}: {error}", settings.lease_bucket()))?;
        Ok(Lease {
            ttl: bucket.stream.cached_info().config.max_age,
            bucket,
            name: name.clone(),
        })
    }

    /// Takes the lease if nobody has it. `seen`: the holder's newest entry, kept from one attempt to the next.
    pub async fn acquire(&self, seen: &mut Option<SeenEntry>) -> Result<Option<Held>, String> {
        let entry = self.bucket.entry(KEY).await.map_err(|error| error.to_string())?;
        let replaced = match entry {
            None => 0,
            Some(entry) if entry.operation != Operation::Put || entry.value == self.name => entry.revision,
            Some(entry) => match seen {
                Some(seen) if seen.revision == entry.revision => match seen.at.elapsed() >= self.ttl {
                    true => entry.revision,
                    false => return Ok(None),
                },
                _ => {
                    *seen = Some(SeenEntry {
                        revision: entry.revision,
                        at: Instant::now(),
                    });
                    return Ok(None);
                }
            },
        };
        match self.put(replaced).await {
            Put::Accepted(held) => Ok(Some(held)),
            Put::Overtaken => Ok(None),
            Put::Failed(error) => Err(error),
        }
    }

    /// Replaces our entry of this revision.
    pub async fn renew(&self, revision: u64) -> Renewed {
        match self.put(revision).await {
            Put::Accepted(held) => return Renewed::Held(held),
            Put::Failed(error) => return Renewed::Unknown(error),
            Put::Overtaken => {}
        }
        match self.bucket.entry(KEY).await {
            Err(error) => Renewed::Unknown(error.to_string()),
            // A renewal was accepted and its answer was lost.
            Ok(Some(entry)) if entry.operation == Operation::Put && entry.value == self.name => {
                self.renewed(entry.revision).await
            }
            Ok(Some(_)) => Renewed::Lost,
            // It has run out. Revisions count all that was ever in the bucket: where ours is followed by ours, nobody else
            // had the lease in between.
            Ok(None) => match self.put(0).await {
                Put::Accepted(held) if held.revision == revision + 1 => Renewed::Held(held),
                Put::Accepted(_) | Put::Overtaken => Renewed::Lost,
                Put::Failed(error) => Renewed::Unknown(error),
            },
        }
    }

    async fn renewed(&self, revision: u64) -> Renewed {
        match self.put(revision).await {
            Put::Accepted(held) => Renewed::Held(held),
            Put::Overtaken => Renewed::Unknown("the entry has changed meanwhile".to_owned()),
            Put::Failed(error) => Renewed::Unknown(error),
        }
    }

    /// Gives the lease back, so that a standby need not wait until it runs out.
    pub async fn release(&self, revision: u64) {
        if let Err(error) = self.bucket.delete_expect_revision(KEY, Some(revision)).await {
            tracing::debug!(%error, "the lease is not given back: it runs out by itself");
        }
    }

    async fn put(&self, revision: u64) -> Put {
        let at = Instant::now();
        match self.bucket.update(KEY, self.name.clone(), revision).await {
            Ok(revision) => Put::Accepted(Held {
                revision,
                confirmed: Confirmed {
                    at,
                    until: at + self.ttl * CERTAIN_TENTHS / 10,
                },
            }),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Put::Overtaken,
            Err(error) => Put::Failed(error.to_string()),
        }
    }
}

enum Put {
    Accepted(Held),
    /// The entry has another revision.
    Overtaken,
    Failed(String),
}
