//! What of a service is there already, for the admin pages: these are served while it still waits for its servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use async_nats::connection::State;

use super::published::Publisher;
use crate::config::StreamKind;
use crate::ops::http::Dependency;
use crate::query::{Status, Statuses};
use crate::shard::Shards;
use crate::source::stats::SourceStats;

/// What was reached so far. Clones share it.
#[derive(Clone, Default)]
pub struct Reached {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    nats: OnceLock<async_nats::Client>,
    store: AtomicBool,
    running: OnceLock<Running>,
}

struct Running {
    publisher: Publisher,
    shards: Shards,
    source: Arc<SourceStats>,
}

impl Reached {
    /// There is a client, connected or not.
    pub fn nats(&self, client: &async_nats::Client) {
        // Only the first start of a process comes here.
        let _ = self.shared.nats.set(client.clone());
    }

    /// The store has answered.
    pub fn store(&self) {
        self.shared.store.store(true, Ordering::Relaxed);
    }

    /// The stream was reached, and partitions may come.
    pub fn running(&self, publisher: Publisher, shards: &Shards, source: Arc<SourceStats>) {
        let shards = shards.clone();
        let _ = self.shared.running.set(Running {
            publisher,
            shards,
            source,
        });
    }

    /// What must be connected for this instance to be ready.
    pub fn dependencies(&self, stream: StreamKind) -> Vec<Dependency> {
        let dependency = |name, connected: fn(&Shared) -> bool| {
            let shared = self.shared.clone();
            Dependency {
                name,
                connected: Box::new(move || connected(&shared)),
            }
        };
        vec![
            dependency("NATS", |shared| {
                let nats = shared.nats.get();
                nats.is_some_and(|nats| nats.connection_state() == State::Connected)
            }),
            dependency("the store", |shared| {
                let running = shared.running.get();
                let is_away = running.is_some_and(|running| running.shards.store_is_away());
                shared.store.load(Ordering::Relaxed) && !is_away
            }),
            dependency(stream.server(), |shared| {
                let running = shared.running.get();
                running.is_some_and(|running| running.source.is_connected.load(Ordering::Relaxed))
            }),
        ]
    }
}

impl Statuses for Reached {
    async fn status(&self) -> Vec<Status> {
        match self.shared.running.get() {
            Some(running) => running.publisher.status().await,
            None => Vec::new(),
        }
    }
}
