//! The NATS service: takes requests from subjects, and replies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::service::endpoint::Endpoint as NatsEndpoint;
use async_nats::service::{Request as NatsRequest, Service, ServiceExt, error::Error as NatsServiceError};
use async_nats::{Client, HeaderMap, Message, Subscriber};
use futures::StreamExt;
use prost::{Message as _, Name};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::deadline::Deadline;
use super::error::{Code, QueryError};
use super::explain::OwnerExplain;
use super::get::{GetLimits, get, partition_get};
use super::internal::{HandOver, wire};
use super::overview::overview;
use super::owner::{Owners, Question, TakeStamp};
use super::request::decode;
use super::subjects::Subjects;
use super::{Partitions, status};
use crate::model::ids::PartitionId;
use crate::ops::metrics::{QueryEndpoint, QueryMetrics};
use crate::store::Store;
use crate::wire::headers;
use crate::wire::partitioner::partition_of;
use crate::wire::query::{Form, encode_reply};

/// How many requests are worked on at once, of callers, and again of other instances: these must not wait for those,
/// or two instances that are full would wait for each other.
pub const REQUESTS_IN_WORK_MAX: usize = 4096;
/// A request of more than this counts as several, so all requests in work have 64 MiB at most.
const REQUEST_BYTES_PER_PERMIT: usize = 16 * 1024;
/// The name of the service and of its queue group.
const NAME: &str = "readstates";
/// What headers may add to a payload.
const REPLY_HEADER_BYTES: usize = 256;
/// The threads that own partitions answer within microseconds.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// What the service must know of this instance.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Where it listens.
    pub subjects: Subjects,
    /// Names this instance in `status`.
    pub instance: String,
    /// Of the stream.
    pub partition_count: u32,
    /// `limits.max_keys`.
    pub keys_max: usize,
    /// [`REQUESTS_IN_WORK_MAX`], or less.
    pub requests_in_work_max: usize,
}

/// The service can't be started.
#[derive(Debug, thiserror::Error)]
#[error("the NATS service can't be started: {0}")]
pub struct ServiceError(String);

/// The service while it runs.
pub struct QueryService {
    client: Client,
    service: Service,
    stop: watch::Sender<bool>,
    intakes: JoinSet<()>,
    in_work: [Arc<Semaphore>; 2],
    in_work_max: usize,
}

impl QueryService {
    /// Starts to answer. The endpoints are there when this returns; those of partitions come and go with
    /// [`Partitions::live`].
    ///
    /// # Errors
    /// If a subject is none, or the client was closed.
    pub async fn start<P: Partitions, S: Store>(
        client: Client,
        partitions: P,
        store: S,
        options: ServiceOptions,
    ) -> Result<Self, ServiceError> {
        if options.partition_count == 0 {
            return Err(ServiceError("the stream has no partitions".to_owned()));
        }
        let failed = |error: async_nats::Error| ServiceError(error.to_string());
        let in_work_max = options.requests_in_work_max.clamp(1, REQUESTS_IN_WORK_MAX);
        let in_work = [(); 2].map(|()| Arc::new(Semaphore::new(in_work_max)));
        let inbox = client.new_inbox();
        let process = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        let service = client
            .service_builder()
            .description("unread and mention counts of every user in every channel")
            .queue_group(NAME)
            .start(NAME, env!("CARGO_PKG_VERSION"))
            .await
            .map_err(failed)?;
        let subjects = options.subjects.clone();
        let answerer = Arc::new(Answerer {
            owners: Owners {
                partitions,
                client: client.clone(),
                subjects: subjects.clone(),
                process: process.clone(),
                instance: options.instance.clone(),
            },
            store,
            options,
            metrics: QueryMetrics::new(),
            in_work: in_work.clone(),
        });
        let (stop, stopping) = watch::channel(false);
        let mut intakes = JoinSet::new();
        for (name, asked, subject, queue_group) in [
            ("get", Asked::Get, subjects.get(), NAME),
            ("overview", Asked::Overview, subjects.overview(), NAME),
            ("explain", Asked::Explain, subjects.explain(), NAME),
            // A queue group of its own for each instance, so that all of them answer.
            ("status", Asked::Status, subjects.status(), process.as_str()),
        ] {
            let builder = service.endpoint_builder().name(name).queue_group(queue_group);
            let intake = Intake::Endpoint(Box::new(builder.add(subject).await.map_err(failed)?));
            intakes.spawn(take_in(answerer.clone(), intake, asked, stopping.clone()));
        }
        intakes.spawn(follow_partitions(answerer, stopping));
        Ok(QueryService {
            client,
            service,
            stop,
            intakes,
            in_work,
            in_work_max,
        })
    }

    /// Takes no more requests, and waits until those in work are answered or the time is up.
    ///
    /// A request on its way at this very moment may get no answer: the client library forgets a subscription before
    /// the server does.
    pub async fn stop(mut self, within: Duration) {
        let _ = self.stop.send(true);
        let answered = async {
            while self.intakes.join_next().await.is_some() {}
            for in_work in &self.in_work {
                let all = u32::try_from(self.in_work_max).unwrap_or(u32::MAX);
                let _ = in_work.acquire_many(all).await;
            }
            let _ = self.client.flush().await;
        };
        if tokio::time::timeout(within, answered).await.is_err() {
            tracing::warn!(
                "questions over NATS were still unanswered after {} ms",
                within.as_millis()
            );
        }
        let _ = self.service.stop().await;
    }
}

/// What came in on a subject.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Get,
    Overview,
    Explain,
    Status,
    PartitionGet(PartitionId),
    Stamp(PartitionId),
    HandOver(PartitionId),
    OwnerExplain(PartitionId),
}

impl Asked {
    fn endpoint(self) -> QueryEndpoint {
        match self {
            Asked::Get => QueryEndpoint::Get,
            Asked::Overview => QueryEndpoint::Overview,
            Asked::Explain => QueryEndpoint::Explain,
            Asked::Status => QueryEndpoint::Status,
            Asked::PartitionGet(_) => QueryEndpoint::PartitionGet,
            Asked::Stamp(_) => QueryEndpoint::InternalStamp,
            Asked::HandOver(_) => QueryEndpoint::InternalOverview,
            Asked::OwnerExplain(_) => QueryEndpoint::InternalExplain,
        }
    }
}

/// Where requests come from.
enum Intake {
    Endpoint(Box<NatsEndpoint>),
    Subject(Subscriber),
}

impl Intake {
    async fn next(&mut self) -> Option<Incoming> {
        match self {
            Intake::Endpoint(endpoint) => endpoint.next().await.map(Incoming::Endpoint),
            Intake::Subject(subscriber) => subscriber.next().await.map(Incoming::Subject),
        }
    }

    /// Lets no more in; what is in already still comes out.
    async fn close(&mut self) {
        let _ = match self {
            Intake::Endpoint(endpoint) => endpoint.stop().await.is_ok(),
            Intake::Subject(subscriber) => subscriber.drain().await.is_ok(),
        };
    }
}

/// A request, and how it is replied to.
enum Incoming {
    Endpoint(NatsRequest),
    Subject(Message),
}

impl Incoming {
    fn message(&self) -> &Message {
        match self {
            Incoming::Endpoint(request) => &request.message,
            Incoming::Subject(message) => message,
        }
    }

    async fn respond(&self, client: &Client, answer: Result<Answer, QueryError>) {
        let sent = match (self, answer) {
            (Incoming::Endpoint(request), Ok(answer)) => {
                request
                    .respond_with_headers(Ok(answer.payload.into()), answer.headers)
                    .await
            }
            (Incoming::Endpoint(request), Err(error)) => {
                let further = error.further_headers();
                let error = NatsServiceError {
                    code: usize::from(error.code.number()),
                    status: error.message,
                };
                request.respond_with_headers(Err(error), further).await
            }
            (Incoming::Subject(message), answer) => {
                let Some(reply) = message.reply.clone() else {
                    return;
                };
                let (headers, payload) = match answer {
                    Ok(answer) => (answer.headers, answer.payload),
                    Err(error) => (error.headers(), Vec::new()),
                };
                if headers.is_empty() {
                    client.publish(reply, payload.into()).await
                } else {
                    client.publish_with_headers(reply, headers, payload.into()).await
                }
            }
        };
        if let Err(error) = sent {
            tracing::debug!("a reply over NATS could not be sent: {error}");
        }
    }
}

struct Answer {
    headers: HeaderMap,
    payload: Vec<u8>,
}

impl Answer {
    fn new<T: prost::Message + Name>(reply: &T, form: Form) -> Self {
        let mut headers = HeaderMap::new();
        if form == Form::Json {
            headers.insert(headers::CONTENT_TYPE, headers::CONTENT_TYPE_JSON);
        }
        Answer {
            headers,
            payload: encode_reply(reply, form),
        }
    }
}

/// Takes requests from one subject until told to stop, then those that are in already.
async fn take_in<P: Partitions, S: Store>(
    answerer: Arc<Answerer<P, S>>,
    mut intake: Intake,
    asked: Asked,
    mut stopping: watch::Receiver<bool>,
) {
    let mut open = true;
    loop {
        tokio::select! {
            incoming = intake.next() => match incoming {
                Some(incoming) => answerer.clone().take(asked, incoming).await,
                None => return,
            },
            () = told_to_stop(&mut stopping), if open => {
                open = false;
                intake.close().await;
            }
        }
    }
}

/// Also when whoever could tell is gone.
async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Listens on the subjects of the partitions that are live here, and on no others.
async fn follow_partitions<P: Partitions, S: Store>(
    answerer: Arc<Answerer<P, S>>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut live = answerer.owners.partitions.live();
    let mut listening: BTreeMap<PartitionId, watch::Sender<bool>> = BTreeMap::new();
    let mut intakes = JoinSet::new();
    loop {
        let now = live.borrow_and_update().clone();
        listening.retain(|partition, stop| now.contains(partition) || stop.send(true).is_err());
        for partition in now {
            if listening.contains_key(&partition) {
                continue;
            }
            let (stop, stopped) = watch::channel(false);
            if let Err(error) = listen(&answerer, partition, &stopped, &mut intakes).await {
                tracing::error!("partition {partition} can't be asked over NATS: {error}");
                continue;
            }
            listening.insert(partition, stop);
        }
        while intakes.try_join_next().is_some() {}
        tokio::select! {
            changed = live.changed() => if changed.is_err() { break },
            () = told_to_stop(&mut stopping) => break,
        }
    }
    drop(listening);
    while intakes.join_next().await.is_some() {}
}

async fn listen<P: Partitions, S: Store>(
    answerer: &Arc<Answerer<P, S>>,
    partition: PartitionId,
    stopped: &watch::Receiver<bool>,
    intakes: &mut JoinSet<()>,
) -> Result<(), async_nats::SubscribeError> {
    let subjects = &answerer.options.subjects;
    for (asked, subject) in [
        (Asked::PartitionGet(partition), subjects.partition_get(partition)),
        (Asked::Stamp(partition), subjects.stamp(partition)),
        (Asked::HandOver(partition), subjects.hand_over(partition)),
        (Asked::OwnerExplain(partition), subjects.owner_explain(partition)),
    ] {
        let intake = Intake::Subject(answerer.owners.client.subscribe(subject).await?);
        intakes.spawn(take_in(answerer.clone(), intake, asked, stopped.clone()));
    }
    Ok(())
}

/// Answers whatever comes in.
struct Answerer<P, S> {
    owners: Owners<P>,
    store: S,
    options: ServiceOptions,
    metrics: QueryMetrics,
    /// Of callers; of other instances.
    in_work: [Arc<Semaphore>; 2],
}

impl<P: Partitions, S: Store> Answerer<P, S> {
    /// Hands a request off, or refuses it at once.
    async fn take(self: Arc<Self>, asked: Asked, incoming: Incoming) {
        let endpoint = asked.endpoint();
        // Without a subject that may be replied to, nobody would learn the answer.
        let reply = incoming.message().reply.as_ref();
        if !reply.is_some_and(|subject| self.options.subjects.may_reply_to(subject)) {
            self.metrics.refused(endpoint, Code::Malformed.number());
            return;
        }
        match self.permit(asked, incoming.message().payload.len()) {
            // How things are must be told even when there is too much to do, one caller after the other.
            Ok(None) => self.work(asked, incoming).await,
            Ok(Some(permit)) => {
                tokio::spawn(async move {
                    self.work(asked, incoming).await;
                    drop(permit);
                });
            }
            Err(error) => {
                self.metrics.refused(endpoint, error.code.number());
                incoming.respond(&self.owners.client, Err(error)).await;
            }
        }
    }

    /// Large requests count as several, so that what waits takes a bounded room.
    fn permit(&self, asked: Asked, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, QueryError> {
        let in_work = match asked {
            Asked::Status => return Ok(None),
            Asked::Get | Asked::Overview | Asked::Explain => &self.in_work[0],
            Asked::PartitionGet(_) | Asked::Stamp(_) | Asked::HandOver(_) | Asked::OwnerExplain(_) => {
                &self.in_work[1]
            }
        };
        let weight = (1 + bytes / REQUEST_BYTES_PER_PERMIT).min(self.options.requests_in_work_max.max(1));
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        match in_work.clone().try_acquire_many_owned(weight) {
            Ok(permit) => Ok(Some(permit)),
            Err(_) => Err(QueryError::new(
                Code::Overloaded,
                format_args!(
                    "instance {} is answering {} questions already: ask later",
                    self.options.instance, self.options.requests_in_work_max
                ),
            )),
        }
    }

    async fn work(&self, asked: Asked, incoming: Incoming) {
        let begun = Instant::now();
        let client = &self.owners.client;
        let mut answer = self.answer(asked, incoming.message()).await;
        if let Ok(Answer { payload, .. }) = &answer
            && payload.len() + REPLY_HEADER_BYTES > client.max_payload()
        {
            answer = Err(QueryError::new(
                Code::TooLarge,
                format_args!(
                    "the answer has {} bytes and the NATS server allows {}: ask for less at a time",
                    payload.len(),
                    client.max_payload()
                ),
            ));
        }
        let code = answer.as_ref().err().map(|error| error.code.number());
        self.metrics.answered(asked.endpoint(), code, begun.elapsed());
        incoming.respond(client, answer).await;
    }

    async fn answer(&self, asked: Asked, message: &Message) -> Result<Answer, QueryError> {
        let deadline = Deadline::of(message.headers.as_ref())?;
        let (owners, limits) = (&self.owners, self.limits());
        match asked {
            Asked::Get => {
                let (request, form) = decode(message, limits)?;
                let reply = get(owners, limits, &request, deadline).await?;
                Ok(Answer::new(&reply, form))
            }
            Asked::PartitionGet(partition) => {
                let (request, form) = decode(message, limits)?;
                let reply = partition_get(owners, limits, partition, &request, deadline).await?;
                Ok(Answer::new(&reply, form))
            }
            Asked::Overview => {
                let (request, form) = decode(message, limits)?;
                let reply = overview(owners, &self.store, limits.partition_count, &request, deadline).await?;
                Ok(Answer::new(&reply, form))
            }
            Asked::Explain => {
                let (key, form) = decode(message, limits)?;
                let question = OwnerExplain::try_from(&key)?;
                let partition = partition_of(question.key.channel, limits.partition_count);
                let reply = owners.ask(partition, &question, deadline).await?;
                Ok(Answer::new(&reply, form))
            }
            Asked::Status => {
                let (_, form) = decode::<crate::wire::proto::v1::StatusRequest>(message, limits)?;
                let status = tokio::time::timeout(STATUS_TIMEOUT, owners.partitions.status())
                    .await
                    .map_err(|_| {
                        QueryError::new(Code::TimedOut, "the partitions do not tell how they are")
                    })?;
                let reply = status::reply(&self.options.instance, limits.partition_count, status);
                Ok(Answer::new(&reply, form))
            }
            Asked::Stamp(partition) => self.answer_instance(partition, &TakeStamp, deadline).await,
            Asked::OwnerExplain(partition) => {
                let (key, _) = decode(message, limits)?;
                let question = OwnerExplain::try_from(&key)?;
                self.answer_instance(partition, &question, deadline).await
            }
            Asked::HandOver(partition) => {
                let hand_over = wire::HandOver::decode(message.payload.clone())
                    .map_err(QueryError::malformed)
                    .and_then(HandOver::try_from)?;
                hand_over.check(partition, limits.partition_count)?;
                self.answer_instance(partition, &hand_over, deadline).await
            }
        }
    }

    async fn answer_instance<Q: Question>(
        &self,
        partition: PartitionId,
        question: &Q,
        deadline: Deadline,
    ) -> Result<Answer, QueryError> {
        let reply = self
            .owners
            .ask_here(partition, question, deadline.remaining())
            .await?;
        Ok(Answer {
            headers: HeaderMap::new(),
            payload: reply.encode_to_vec(),
        })
    }

    fn limits(&self) -> GetLimits {
        GetLimits {
            partition_count: self.options.partition_count,
            keys_max: self.options.keys_max,
        }
    }
}
