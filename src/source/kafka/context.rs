//! What librdkafka calls back: rebalances, commits, errors and log lines. Everything on the thread that polls.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::SourceStats;
use crate::model::ids::PartitionId;

/// The same error is logged once in this time.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

/// Consumers and producers are given the same `stream.kafka.properties`, and each ignores what is for the other.
const OTHER_CLIENTS_PROPERTY: &str = "property and will be ignored by this";

/// A producer that asks for its number, which a broker that has just started does not give at once, asks again.
const PRODUCER_NUMBER: (&str, &str) = ("GETPID", ": retrying");

/// Logs what librdkafka says, each error once in a while. That a broker can't be reached is for [`SourceStats`] to say:
/// each client says so itself, in several ways, with every attempt.
#[derive(Default)]
pub(crate) struct Log {
    /// When each error was logged last.
    logged: Mutex<BTreeMap<String, Instant>>,
    last: Mutex<Option<String>>,
}

/// What librdkafka logs of broken connections and of what was to go over them comes as an error too.
const FACILITIES_OF_CONNECTIONS: [&str; 2] = ["FAIL", "REQTMOUT"];

impl Log {
    fn line(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel as L;
        let (producer_number, again) = PRODUCER_NUMBER;
        let is_asked_again = facility == producer_number && message.ends_with(again);
        let is_told_elsewhere =
            message.contains(OTHER_CLIENTS_PROPERTY) || FACILITIES_OF_CONNECTIONS.contains(&facility);
        if is_asked_again || is_told_elsewhere {
            return tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        match level {
            L::Emerg | L::Alert | L::Critical | L::Error | L::Warning => {
                tracing::warn!(target: "librdkafka", facility, "{message}");
            }
            L::Notice | L::Info => tracing::info!(target: "librdkafka", facility, "{message}"),
            L::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: &KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        let code = error.to_string();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(code.clone());
        if is_of_connections(error) || error.rdkafka_error_code().is_some_and(is_forbidden) {
            return tracing::debug!(target: "librdkafka", reason, "{code}");
        }
        if self.is_new(&code) {
            tracing::warn!(target: "librdkafka", reason, "{code}");
        }
    }

    /// Says that the broker refuses us what it had allowed before.
    pub fn forbidden(&self, what: &str, code: RDKafkaErrorCode) {
        if self.is_new(what) {
            tracing::warn!("{what}: {code}; trying again until it is allowed");
        }
    }

    /// Whether this was not logged a while ago.
    fn is_new(&self, said: &str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, at| at.elapsed() < REPEAT_AFTER);
        match logged.entry(said.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(Instant::now());
                true
            }
            Entry::Occupied(_) => false,
        }
    }
}

/// What comes of these is said where they are met: the same error comes by a call as well, with what it was for.
fn is_forbidden(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed
    )
}

fn is_of_connections(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        error.rdkafka_error_code(),
        Some(C::AllBrokersDown | C::BrokerTransportFailure | C::OperationTimedOut)
    )
}

macro_rules! client_context {
    ($name:ident) => {
        impl ClientContext for $name {
            fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
                self.log.line(level, facility, message);
            }

            fn error(&self, error: KafkaError, reason: &str) {
                self.log.error(&error, reason);
            }
        }
    };
}

/// Of a client that nothing else is asked of.
#[derive(Default)]
pub(crate) struct PlainContext {
    log: Log,
}
client_context!(PlainContext);

/// Of the client that finds out what there is. What goes wrong is told by whoever asked, in one line.
#[derive(Default)]
pub(super) struct AskContext {
    said: Mutex<Said>,
}

/// What librdkafka said while it could not connect.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// The last thing, in words.
    pub last: Option<String>,
    /// That a broker does not let us in, or that we don't trust it: it will be so again.
    pub refusal: Option<String>,
}

/// What librdkafka calls its lines about connections that failed.
const CONNECTION_FAILED: &str = "FAIL";
/// In what librdkafka says, what only TLS can have said: for a certificate that the broker misses there is no code.
const TLS_ALERT: &str = "alert";

impl AskContext {
    /// What librdkafka said so far.
    pub fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for AskContext {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
        // A broker that hangs up is no error to librdkafka, and all that there is to say.
        if facility == CONNECTION_FAILED {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.last.get_or_insert_with(|| message.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode as C;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match error.rdkafka_error_code() {
            // It adds nothing to why.
            Some(C::AllBrokersDown) => return,
            Some(C::Authentication | C::SaslAuthenticationFailed | C::SSL) => {
                said.refusal = Some(reason.to_owned());
            }
            Some(C::BrokerTransportFailure) if reason.contains(TLS_ALERT) => {
                said.refusal = Some(reason.to_owned());
            }
            _ => {}
        }
        said.last = Some(reason.to_owned());
    }
}
impl ConsumerContext for AskContext {}

/// Of the client that reads.
pub(super) struct FetcherContext {
    pub log: Log,
    stats: Arc<SourceStats>,
}

impl FetcherContext {
    pub fn new(stats: Arc<SourceStats>) -> Self {
        FetcherContext {
            log: Log::default(),
            stats,
        }
    }
}

impl ClientContext for FetcherContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.stats.saw_broker(Err(reason));
        }
        self.log.error(&error, reason);
    }
}
impl ConsumerContext for FetcherContext {}

/// What the group tells.
#[derive(Debug)]
pub(super) enum GroupEvent {
    /// These partitions are ours.
    Assigned(Vec<PartitionId>),
    /// The group waits until these are given back; or has given them to others already.
    Revoked {
        partitions: Vec<PartitionId>,
        lost: bool,
    },
    /// A commit was answered.
    Committed(Committed),
    /// The group's members were looked at.
    Looked(Looked),
}

/// What came of a commit.
#[derive(Debug)]
pub(super) struct Committed {
    pub offsets: Vec<(PartitionId, u64)>,
    /// Before the request left.
    pub sent_at: Instant,
    /// [`MemberContext::losses`] at that time.
    pub losses: u64,
    pub error: Option<KafkaError>,
}

/// What came of a look at the group's members.
#[derive(Debug)]
pub(super) struct Looked {
    pub sent_at: Instant,
    /// [`MemberContext::losses`] at that time.
    pub losses: u64,
    pub is_listed: bool,
}

/// Of the client that is a member of the group.
///
/// The member never reads: librdkafka pauses every partition of a client from the moment it announces a rebalance
/// until the application has answered with `incremental_assign` or `incremental_unassign`, so a client that drains
/// some partitions before it gives them back could not read the others meanwhile. So the member always answers with
/// an empty list, at once to an assignment and after draining to a revocation, and another client reads.
pub(super) struct MemberContext {
    pub log: Log,
    events: Sender<GroupEvent>,
    closing: AtomicBool,
    losses: AtomicU64,
}
client_context!(MemberContext);

impl MemberContext {
    pub fn new(events: Sender<GroupEvent>) -> Self {
        MemberContext {
            log: Log::default(),
            events,
            closing: AtomicBool::new(false),
            losses: AtomicU64::new(0),
        }
    }

    /// From now on whatever the group wants back it gets at once.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// How often the group has given this member up.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// The group has answered a commit.
    pub fn committed(&self, committed: Committed) {
        self.tell(GroupEvent::Committed(committed));
    }

    /// The group's members were looked at.
    pub fn looked(&self, looked: Looked) {
        self.tell(GroupEvent::Looked(looked));
    }

    fn tell(&self, event: GroupEvent) {
        // The receiver lives as long as the thread that polls.
        if self.events.send(event).is_err() {
            tracing::debug!("the group said something after the end");
        }
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(&self, member: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = list
            .elements()
            .iter()
            .filter_map(|element| partition_id(element.partition()))
            .collect();
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            answer(member.incremental_assign(&TopicPartitionList::new()));
            self.tell(GroupEvent::Assigned(partitions));
            return;
        }
        let lost = member.assignment_lost();
        self.losses.fetch_add(u64::from(lost), Ordering::Relaxed);
        if lost || self.closing.load(Ordering::Relaxed) {
            give_back(member);
        }
        self.tell(GroupEvent::Revoked { partitions, lost });
    }
}

/// Answers a revocation: the group may give the partitions to others now.
pub(super) fn give_back(member: &BaseConsumer<MemberContext>) {
    answer(member.incremental_unassign(&TopicPartitionList::new()));
}

fn answer(result: KafkaResult<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "librdkafka did not take the answer to a rebalance");
    }
}

fn partition_id(number: i32) -> Option<PartitionId> {
    u32::try_from(number).ok().map(PartitionId)
}
