//! Publishing events: each in the partition of its channel, in order, acknowledged by all replicas.
//!
//! [`Publisher`] is for programs: [`Publisher::publish`] waits for one event, [`Publisher::send`] has many under way.
//! [`Pipeline`] is below it, for those that publish millions: it tells what became of each record by calling back.

mod error;
mod jetstream;
mod kafka;
mod options;
mod pipeline;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

pub use self::error::PublishError;
pub use self::options::StreamOptions;
pub use self::pipeline::{Pipeline, Receipt, Receipts, Record, Tuning};

use super::{CannotConnect, Position};
use crate::model::ids::{ChannelId, PartitionId};
use crate::wire::proto::v1;

/// Publishes events. Clones share the connection and the order.
///
/// The events of a channel are in the stream in the order in which [`Publisher::send`] and [`Publisher::publish`] were
/// called for them, also where the connection is lost in between: a producer that retries keeps it. One that failed is
/// missing there, or if it is [`PublishError::Unacknowledged`] may be; then those sent after it may be there all the same.
///
/// ```no_run
/// # use readstates::client::{Publisher, StreamOptions};
/// # use readstates::model::event::{Event, EventKind};
/// # use readstates::model::ids::{ChannelId, MessageId, UserId};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let publisher = Publisher::connect(&StreamOptions::kafka("127.0.0.1:9092")).await?;
/// let mut under_way = Vec::new();
/// for message in 1..=1000 {
///     let kind = EventKind::MessageRead { user: UserId(8), message: MessageId(message) };
///     under_way.push(publisher.send(Event { channel: ChannelId(42), kind }).await?);
/// }
/// for sent in under_way {
///     println!("{}", sent.await?);
/// }
/// publisher.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Publisher {
    pipeline: Arc<Pipeline<Waiting>>,
}

impl Publisher {
    /// Connects, and creates the stream and that of its dead letters where they are missing, as the service does.
    ///
    /// # Errors
    /// Whether trying again can help, and what to change if not.
    pub async fn connect(options: &StreamOptions) -> Result<Self, CannotConnect> {
        let settings = options.settings().await?;
        let tuning = Tuning::prompt(options.acknowledged_within);
        let waiting = Arc::new(Waiting);
        let pipeline = Pipeline::open(&settings, options.limits, tuning, waiting).await?;
        Ok(Publisher {
            pipeline: Arc::new(pipeline),
        })
    }

    /// Publishes an event, a [`model::event::Event`](crate::model::event::Event) or one of the wire format, and waits until
    /// all replicas have it.
    ///
    /// # Errors
    /// Why it isn't there, or may not be.
    pub async fn publish(&self, event: impl Into<v1::Event>) -> Result<Position, PublishError> {
        self.send(event).await?.await
    }

    /// Hands an event over, waiting where too many are under way. What is returned, awaited, says what became of it; it
    /// may be dropped.
    ///
    /// # Errors
    /// If it is no event that the service would take, or can't be sent.
    pub async fn send(&self, event: impl Into<v1::Event>) -> Result<Sent, PublishError> {
        let mut value = Vec::new();
        let record = self.pipeline.record(event.into(), &mut value)?;
        let (settle, settled) = oneshot::channel();
        self.pipeline.send(record, Box::new(settle)).await;
        Ok(Sent(settled))
    }

    /// The partition that a channel's events go to.
    pub fn partition_of(&self, channel: ChannelId) -> PartitionId {
        self.pipeline.partition_of(channel)
    }

    /// Waits until all that was sent is acknowledged or has failed.
    ///
    /// # Errors
    /// If waiting itself broke off.
    pub async fn flush(&self) -> Result<(), PublishError> {
        let flushed = self.pipeline.flush(None).await;
        flushed.map_err(PublishError::Unacknowledged)
    }

    /// The same, and the end. What was sent before a publisher is dropped without this may be lost.
    ///
    /// # Errors
    /// As [`Publisher::flush`].
    pub async fn close(self) -> Result<(), PublishError> {
        self.flush().await
    }
}

/// An event on its way; awaited, what became of it. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "whether it was published is known when this is awaited"]
pub struct Sent(oneshot::Receiver<Result<Position, PublishError>>);

impl Future for Sent {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|settled| {
            settled.unwrap_or_else(|_| {
                Err(PublishError::Unacknowledged(
                    "the publisher ended before the event was acknowledged".to_owned(),
                ))
            })
        })
    }
}

/// Someone waits for each record.
struct Waiting;

impl Receipts for Waiting {
    type Tag = Box<oneshot::Sender<Result<Position, PublishError>>>;

    fn settled(&self, tag: Self::Tag, receipt: Result<Receipt, PublishError>) {
        let settled = receipt.and_then(|receipt| receipt.position.ok_or(PublishError::PositionUnknown));
        // Nobody may be waiting any more.
        let _ = tag.send(settled);
    }
}
