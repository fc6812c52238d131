//! Creates the topics that are missing, and learns what the stream is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use super::context::{AskContext, PlainContext, Said};
use super::settings::{KafkaSettings, not_taken};
use crate::source::failure::{PrepareError, StreamInfo};

/// How long one question to the broker may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often to look meanwhile whether an answer is still to be expected.
const ASK_STEP: Duration = Duration::from_secs(1);
/// How much librdkafka may have to say in that time.
const NEWS_MAX: u32 = 64;
/// How long the broker may take to create a topic.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take until a new topic can be used.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often to look whether it can.
const VISIBLE_INTERVAL: Duration = Duration::from_millis(100);

/// Creates the topic of the stream and its dead-letter topic where they are missing, and learns what they are. What
/// exists is used as it is.
///
/// # Errors
/// One line that says which setting to change, or that Kafka can't be reached (then try again).
pub async fn prepare(settings: &KafkaSettings) -> Result<StreamInfo, PrepareError> {
    let admin = settings.admin();
    let not_taken = |error| PrepareError::Misconfigured(not_taken(&error));
    let preparing = Preparing {
        settings,
        asker: admin
            .create_with_context(AskContext::default())
            .map(Arc::new)
            .map_err(not_taken)?,
        admin: admin
            .create_with_context(PlainContext::default())
            .map_err(not_taken)?,
    };
    let partition_count = preparing.ensure(&settings.topic, settings.partitions).await?;
    preparing
        .ensure(&settings.dead_letter_topic(), partition_count)
        .await?;
    let cluster = preparing.cluster_id().await?;
    Ok(StreamInfo {
        partition_count,
        stream_id: format!("{cluster}/{}", settings.topic),
    })
}

struct Preparing<'a> {
    settings: &'a KafkaSettings,
    /// Asks, since an admin client never tells why it can't connect.
    asker: Arc<BaseConsumer<AskContext>>,
    /// Creates.
    admin: AdminClient<PlainContext>,
}

impl Preparing<'_> {
    /// The topic's number of partitions, after creating it if it is missing.
    async fn ensure(&self, topic: &str, partitions: u32) -> Result<u32, PrepareError> {
        if let Some(count) = self.partition_count(topic).await? {
            return Ok(count);
        }
        self.create(topic, partitions).await?;
        let deadline = Instant::now() + VISIBLE_TIMEOUT;
        loop {
            if let Some(count) = self.partition_count(topic).await? {
                return Ok(count);
            }
            if Instant::now() >= deadline {
                return Err(PrepareError::Unreachable(format!(
                    "the topic {topic:?} was created and can't be used after {} s",
                    VISIBLE_TIMEOUT.as_secs()
                )));
            }
            tokio::time::sleep(VISIBLE_INTERVAL).await;
        }
    }

    /// Nothing where there is no such topic, or none that can be used yet.
    async fn partition_count(&self, topic: &str) -> Result<Option<u32>, PrepareError> {
        let (asker, name) = (self.asker.clone(), topic.to_owned());
        let metadata = match tokio::task::spawn_blocking(move || ask(&asker, &name)).await {
            Ok(Ok(metadata)) => metadata,
            Ok(Err(KafkaError::MetadataFetch(code))) if is_missing(code) => return Ok(None),
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(error) => return Err(PrepareError::Unreachable(error.to_string())),
        };
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(code) if is_missing(code) => return Ok(None),
            Some(code) => return Err(refused(topic, "look at", code, self.settings)),
        }
        let count = u32::try_from(found.partitions().len()).unwrap_or(u32::MAX);
        Ok((count > 0).then_some(count))
    }

    async fn create(&self, topic: &str, partitions: u32) -> Result<(), PrepareError> {
        let count = i32::try_from(partitions).unwrap_or(i32::MAX);
        // Replay needs every record.
        let new = NewTopic::new(topic, count, TopicReplication::Fixed(self.settings.replication))
            .set("retention.ms", "-1")
            .set("retention.bytes", "-1")
            .set("cleanup.policy", "delete");
        let options = AdminOptions::new()
            .operation_timeout(Some(CREATE_TIMEOUT))
            .request_timeout(Some(CREATE_TIMEOUT));
        match self.admin.create_topics([&new], &options).await {
            Ok(results) => match results.into_iter().next() {
                Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                    Err(refused(topic, "create", code, self.settings))
                }
                _ => {
                    tracing::info!(topic, partitions, "created");
                    Ok(())
                }
            },
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    async fn cluster_id(&self) -> Result<String, PrepareError> {
        let asker = self.asker.clone();
        match tokio::task::spawn_blocking(move || asker.client().fetch_cluster_id(ASK_TIMEOUT)).await {
            Ok(Some(id)) => Ok(id),
            Ok(None) => Err(PrepareError::Unreachable(format!(
                "Kafka at {} does not tell the id of its cluster",
                self.settings.brokers
            ))),
            Err(error) => Err(PrepareError::Unreachable(error.to_string())),
        }
    }

    fn unreachable(&self, error: &KafkaError) -> PrepareError {
        use RDKafkaErrorCode as C;
        let brokers = &self.settings.brokers;
        // The broker that can't be reached is in librdkafka's own words, the question that failed in the error's.
        let Said { last, refusal } = self.asker.context().said();
        let refused = matches!(
            error.rdkafka_error_code(),
            Some(C::Authentication | C::SaslAuthenticationFailed | C::SSL)
        );
        if let Some(why) = refusal.or_else(|| refused.then(|| error.to_string())) {
            return PrepareError::Misconfigured(format!(
                "Kafka at {brokers} and this program don't let each other in ({why}): check stream.kafka.properties \
                 (security.protocol, sasl.*, ssl.*) and what is in stream.kafka.password_file"
            ));
        }
        let why = last.unwrap_or_else(|| error.to_string());
        PrepareError::Unreachable(format!(
            "can't reach Kafka at {brokers} ({why}): start it, or correct stream.kafka.brokers, or where it wants TLS \
             or a login stream.kafka.properties"
        ))
    }
}

/// Asks about a topic, until there is an answer, or none is to be expected.
fn ask(asker: &BaseConsumer<AskContext>, topic: &str) -> KafkaResult<Metadata> {
    let deadline = Instant::now() + ASK_TIMEOUT;
    loop {
        let asked = asker.fetch_metadata(Some(topic), ASK_STEP);
        // What it has to say of its connections it only says where it is polled.
        // A poll takes one thing, and comes back with nothing after it all the same.
        for _ in 0..NEWS_MAX {
            let _ = asker.poll(Duration::ZERO);
        }
        match asked {
            Err(KafkaError::MetadataFetch(
                RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut,
            )) if Instant::now() < deadline && asker.context().said().refusal.is_none() => {}
            asked => return asked,
        }
    }
}

fn is_missing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        code,
        C::UnknownTopicOrPartition | C::UnknownTopic | C::UnknownPartition | C::LeaderNotAvailable
    )
}

fn refused(topic: &str, doing: &str, code: RDKafkaErrorCode, settings: &KafkaSettings) -> PrepareError {
    use RDKafkaErrorCode as C;
    let replication = settings.replication;
    let partitions = settings.partitions;
    let advice = match code {
        C::InvalidReplicationFactor => {
            format!("stream.kafka.replication is {replication}: there are fewer brokers than that")
        }
        C::InvalidPartitions => format!("stream.kafka.partitions is {partitions}: at least 1"),
        C::InvalidTopic => "correct stream.kafka.topic: letters, digits, '.', '_' and '-'".to_owned(),
        C::TopicAuthorizationFailed | C::ClusterAuthorizationFailed => {
            "allow our user to describe and create it, or create it by hand with retention.ms=-1 and allow our user to \
             describe it"
                .to_owned()
        }
        C::PolicyViolation => {
            "the broker's policy forbids it: create it by hand with retention.ms=-1".to_owned()
        }
        C::RequestTimedOut | C::OperationTimedOut | C::NotController | C::BrokerTransportFailure => {
            return PrepareError::Unreachable(format!("can't {doing} the topic {topic:?} yet: {code}"));
        }
        _ => "create it by hand with retention.ms=-1".to_owned(),
    };
    PrepareError::Misconfigured(format!(
        "can't {doing} the topic {topic:?} ({code}), which stream.kafka.topic asks for: {advice}"
    ))
}
