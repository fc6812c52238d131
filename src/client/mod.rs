//! For programs in Rust that ask the service, and publish to it. The commands of this program use it as well.
//!
//! - [`Client`] asks: [`Client::get`], [`Client::overview`], [`Client::explain`], [`Client::status`]. What can pass by
//!   itself (503: a partition moves; 429; a question that got lost) is asked again, with pauses that grow, within the
//!   timeout and never beyond it. What remains is an [`AskError`], by its code.
//! - [`Publisher`] publishes to Kafka or JetStream, each event in the right partition, and says where it is.
//! - [`Positions`] gathers what was published, and [`Get::after`] waits for it: read your own writes.
//!
//! ```no_run
//! use readstates::client::{Client, Options, Positions, Publisher, StreamOptions};
//! use readstates::model::event::{Event, EventKind, Mentions};
//! use readstates::model::ids::{ChannelId, MessageId, ReadStateKey, UserId};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let nats = Options::new("nats://127.0.0.1:4222");
//! let client = Client::connect(nats.clone()).await?;
//! let publisher = Publisher::connect(&StreamOptions::jetstream(nats)).await?;
//! let (alice, bob, channel) = (UserId(7), UserId(8), ChannelId(42));
//!
//! let position = publisher
//!     .publish(Event {
//!         channel,
//!         kind: EventKind::MessageCreated {
//!             message: MessageId(1001),
//!             author: Some(alice),
//!             mentions: Mentions::new(vec![bob], false),
//!         },
//!     })
//!     .await?;
//! let mut seen = Positions::new();
//! seen.add(position);
//!
//! let key = ReadStateKey { user: bob, channel };
//! let read_states = client.get([key]).after(&seen).await?;
//! println!("{} unread, {} mentions", read_states[0].unread, read_states[0].mentions);
//! for read_state in client.overview(bob).only_unread().all().await?.read_states {
//!     println!("channel {}: {} unread", read_state.channel, read_state.unread);
//! }
//! # Ok(())
//! # }
//! ```

mod answer;
mod attempts;
mod error;
mod explain;
mod get;
mod options;
mod overview;
mod position;
pub mod publish;
mod status;

use std::time::Duration;

use prost::Message;

pub use self::answer::{Answer, Count, Explanation, Overview, ReadState};
pub use self::error::AskError;
pub use self::explain::Explain;
pub use self::get::{Get, GetPartial};
pub use self::options::Options;
pub use self::overview::{OVERVIEW_ROWS_MAX, OverviewOf};
pub use self::position::{Position, Positions};
pub use self::publish::{PublishError, Publisher, Sent, StreamOptions};
pub use self::status::{Status, Statuses};
pub use crate::query::CannotConnect;
pub use crate::wire::proto::v1::{Membership, PartitionStatus, StatusReply};

use self::attempts::{Patience, ask_within};
use crate::config;
use crate::model::ids::{ReadStateKey, UserId};
use crate::query::{Subjects, connect_once};
use crate::wire::headers::TIMEOUT_DEFAULT_MS;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the service over NATS. Clones share the connection, which is made again when it is lost.
#[derive(Clone, Debug)]
pub struct Client {
    nats: async_nats::Client,
    subjects: Subjects,
    timeout: Duration,
}

impl Client {
    /// Connects, and does not wait for a server that isn't there: for 5 s at most.
    ///
    /// # Errors
    /// Whether trying again can help, and what to change if not.
    pub async fn connect(options: Options) -> Result<Self, CannotConnect> {
        let nats = options.nats()?;
        let client = Client::from_nats(connected(&nats).await?, &nats.subject_prefix);
        Ok(client.with_timeout(options.timeout))
    }

    /// Over a connection that is there already. `subject_prefix` is `nats.subject_prefix` of the service: `readstates`
    /// unless it was changed.
    pub fn from_nats(nats: async_nats::Client, subject_prefix: &str) -> Self {
        Client {
            nats,
            subjects: Subjects::new(subject_prefix, &[]),
            timeout: Duration::from_millis(TIMEOUT_DEFAULT_MS),
        }
    }

    /// How long to wait for an answer where a question does not say it itself; 2 s by default.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks what users have read in channels: any mix, at most `limits.max_keys` (1000 by default) keys. The answers come
    /// in the order of the keys.
    pub fn get(&self, keys: impl IntoIterator<Item = ReadStateKey>) -> Get {
        Get::new(self.question(), keys)
    }

    /// Asks for every channel in which a user has a read state, as when the user connects.
    pub fn overview(&self, user: UserId) -> OverviewOf {
        OverviewOf::new(self.question(), user)
    }

    /// Asks how the numbers of a user in a channel come about.
    pub fn explain(&self, key: ReadStateKey) -> Explain {
        Explain::new(self.question(), key)
    }

    /// Asks all instances how their partitions are.
    pub fn status(&self) -> Status {
        Status::new(self.clone())
    }

    fn question(&self) -> Question {
        Question {
            client: self.clone(),
            patience: Patience {
                timeout: self.timeout,
                is_once: false,
            },
        }
    }
}

/// What all questions have in common.
#[derive(Clone, Debug)]
struct Question {
    client: Client,
    patience: Patience,
}

impl Question {
    async fn ask<Req, Rep>(&self, subject: &str, request: &Req) -> Result<Rep, AskError>
    where
        Req: Message,
        Rep: Message + Default,
    {
        ask_within(&self.client.nats, subject, request, self.patience).await
    }
}

/// Connects, and does not wait for a server that isn't there.
async fn connected(nats: &config::Nats) -> Result<async_nats::Client, CannotConnect> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect_once(nats)).await;
    connecting.unwrap_or_else(|_| {
        Err(CannotConnect::Unreachable(format!(
            "nats.url {} does not answer within {} s: is this its address?",
            nats.urls.join(","),
            CONNECT_TIMEOUT.as_secs()
        )))
    })
}

/// The methods that all questions have.
macro_rules! patience {
    () => {
        /// How long to wait for the answer, attempts and pauses together.
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.question.patience.timeout = timeout;
            self
        }

        /// Asks once, and tells what comes of it, whatever that is.
        pub fn once(mut self) -> Self {
            self.question.patience.is_once = true;
            self
        }
    };
}
use patience;
