//! The session with the cluster.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    BrokenConnectionErrorKind, ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind,
    DbError, FrameHeaderParseError, MetadataError, NewSessionError, RequestAttemptError,
};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::DefaultRetryPolicy;
use scylla::statement::Consistency;
use tokio::time::timeout;

use crate::config::handshake_advice;

use super::{CONNECT_TIMEOUT_MS, CassandraConfig, KEEPALIVE_MS, REQUEST_TIMEOUT_MS, SCHEMA_TIMEOUT_MS, tls};

/// What to do where no node answers.
const AWAY_ADVICE: &str = "start it, or correct store.cassandra.nodes";
/// The longest name of a keyspace that Cassandra takes.
const KEYSPACE_CHARS_MAX: usize = 48;

/// Why there is no store. Both say in one line what is the matter and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It does not answer: waiting and trying again can help.
    #[error("{0}")]
    Unavailable(String),
    /// Something must be changed first.
    #[error("{0}")]
    Final(String),
}

pub(super) async fn session(config: &CassandraConfig) -> Result<Session, ConnectError> {
    check(config)?;
    let nodes = config.nodes.join(", ");
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .keyspaces_to_fetch([&config.keyspace])
        .default_execution_profile_handle(profile(config).into_handle())
        .connection_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS / 3))
        .schema_agreement_timeout(Duration::from_millis(SCHEMA_TIMEOUT_MS))
        .keepalive_interval(Duration::from_millis(KEEPALIVE_MS))
        .keepalive_timeout(Duration::from_millis(KEEPALIVE_MS))
        .tls_context(tls::context(config)?);
    if let (Some(username), Some(password)) = (&config.username, &config.password) {
        builder = builder.user(username, &password.0);
    }
    let session = timeout(Duration::from_millis(CONNECT_TIMEOUT_MS), builder.build())
        .await
        .map_err(|_| {
            let waited_s = CONNECT_TIMEOUT_MS / 1000;
            ConnectError::Unavailable(format!(
                "the store at {nodes} did not answer within {waited_s} s: {AWAY_ADVICE}"
            ))
        })?
        .map_err(|error| refused(&nodes, &error))?;
    check_datacenter(&session, config)?;
    Ok(session)
}

/// How requests are made: token-aware, so that a replica of the row is asked first.
///
/// A quorum of one datacenter only meets another quorum of the same one, so with LOCAL_QUORUM no node of another may be
/// asked, and where any may be asked it must be a quorum of all. In a cluster of one datacenter both are the same.
fn profile(config: &CassandraConfig) -> ExecutionProfile {
    let policy = DefaultPolicy::builder()
        .token_aware(true)
        .permit_dc_failover(false);
    let (policy, consistency) = match &config.datacenter {
        Some(datacenter) => (
            policy.prefer_datacenter(datacenter.clone()),
            Consistency::LocalQuorum,
        ),
        None => (policy.prefer_no_datacenter(), Consistency::Quorum),
    };
    ExecutionProfile::builder()
        .load_balancing_policy(policy.build())
        .consistency(consistency)
        // Asks another node at once where one is gone or overloaded, and leaves everything else to our own loop.
        .retry_policy(Arc::new(DefaultRetryPolicy::new()))
        .request_timeout(Some(Duration::from_millis(REQUEST_TIMEOUT_MS)))
        .build()
}

fn check(config: &CassandraConfig) -> Result<(), ConnectError> {
    let keyspace = &config.keyspace;
    let is_name = !keyspace.is_empty()
        && keyspace.len() <= KEYSPACE_CHARS_MAX
        && keyspace
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || char == '_');
    if !is_name {
        return Err(ConnectError::Final(format!(
            "store.cassandra.keyspace is \"{keyspace}\", and may have up to {KEYSPACE_CHARS_MAX} letters, digits and _"
        )));
    }
    if config.nodes.is_empty() {
        return Err(ConnectError::Final(
            "store.cassandra.nodes is empty: name one node or more".into(),
        ));
    }
    if config.username.is_some() != config.password.is_some() {
        return Err(ConnectError::Final(
            "store.cassandra.username and password_file belong together: give both or none".into(),
        ));
    }
    Ok(())
}

fn check_datacenter(session: &Session, config: &CassandraConfig) -> Result<(), ConnectError> {
    let Some(datacenter) = &config.datacenter else {
        return Ok(());
    };
    let cluster = session.get_cluster_state();
    let nodes = cluster.get_nodes_info();
    let names: BTreeSet<&str> = nodes
        .iter()
        .filter_map(|node| node.datacenter.as_deref())
        .collect();
    if names.contains(datacenter.as_str()) {
        return Ok(());
    }
    Err(ConnectError::Final(format!(
        "store.cassandra.datacenter is \"{datacenter}\", and the cluster has: {}",
        names.into_iter().collect::<Vec<_>>().join(", ")
    )))
}

fn refused(nodes: &str, error: &NewSessionError) -> ConnectError {
    // Some of the driver's own errors have several lines.
    let said = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let line = format!("can't connect to the store at {nodes}: {said}");
    let error = match error {
        NewSessionError::EmptyKnownNodesList | NewSessionError::IllegalConfig(_) => {
            return ConnectError::Final(line);
        }
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
            last_connection_error,
        })) => last_connection_error,
        _ => return ConnectError::Unavailable(format!("{line}: {AWAY_ADVICE}")),
    };
    if let Some(advice) = broken_by(error).and_then(|cause| handshake_advice("store.cassandra", cause)) {
        return ConnectError::Final(format!("can't connect to the store at {nodes}: {advice}"));
    }
    match error {
        ConnectionError::ConnectionSetupRequestError(request) => match &request.error {
            ConnectionSetupRequestErrorKind::MissingAuthentication
            | ConnectionSetupRequestErrorKind::DbError(
                DbError::AuthenticationError | DbError::Unauthorized,
                _,
            ) => ConnectError::Final(format!(
                "{line}; check store.cassandra.username and password_file"
            )),
            _ => ConnectError::Unavailable(format!(
                "{line}; check store.cassandra.nodes, and whether they want TLS (store.cassandra.tls_ca) or \
                 do not take our certificate (store.cassandra.tls_cert and tls_key)"
            )),
        },
        _ => ConnectError::Unavailable(format!("{line}: {AWAY_ADVICE}")),
    }
}

/// What ended a connection from below, if that is known.
fn broken_by(error: &ConnectionError) -> Option<&io::Error> {
    let broken = match error {
        ConnectionError::IoError(error) => return Some(error),
        ConnectionError::BrokenConnection(broken) => broken,
        ConnectionError::ConnectionSetupRequestError(request) => match &request.error {
            ConnectionSetupRequestErrorKind::BrokenConnection(broken) => broken,
            _ => return None,
        },
        _ => return None,
    };
    match broken.downcast_ref()? {
        BrokenConnectionErrorKind::WriteError(error)
        | BrokenConnectionErrorKind::FrameHeaderParseError(FrameHeaderParseError::HeaderIoError(error)) => {
            Some(error)
        }
        _ => None,
    }
}

/// Whether the server has understood the statement and will refuse it again.
pub(super) fn is_final(error: &RequestAttemptError) -> bool {
    let RequestAttemptError::DbError(error, _) = error else {
        return false;
    };
    matches!(
        error,
        DbError::SyntaxError | DbError::Invalid | DbError::Unauthorized | DbError::ConfigError
    )
}
