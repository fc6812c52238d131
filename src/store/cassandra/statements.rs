//! The statements, prepared once.

use scylla::client::session::Session;
use scylla::errors::PrepareError;
use scylla::statement::prepared::PreparedStatement;

use super::connect::{ConnectError, is_final};

pub(super) struct Statements {
    pub insert_read_state: PreparedStatement,
    pub insert_head: PreparedStatement,
    pub insert_node: PreparedStatement,
    pub insert_position: PreparedStatement,
    pub delete_nodes_below: PreparedStatement,
    pub select_read_state: PreparedStatement,
    pub select_user: PreparedStatement,
    pub select_read_states: PreparedStatement,
    pub select_head: PreparedStatement,
    pub select_heads: PreparedStatement,
    pub select_node: PreparedStatement,
    pub select_position: PreparedStatement,
}

impl Statements {
    pub async fn prepare(session: &Session, keyspace: &str) -> Result<Self, ConnectError> {
        let read_states = &format!("\"{keyspace}\".read_states_g1");
        let channels = &format!("\"{keyspace}\".channels_g1");
        let nodes = &format!("\"{keyspace}\".channel_nodes_g1");
        let positions = &format!("\"{keyspace}\".positions_g1");
        let node_key = "channel_id = ? AND level = ? AND first_id = ?";
        let cells = "state, WRITETIME(state)";
        let one = |text: String| prepare(session, text);
        Ok(Statements {
            insert_read_state: one(format!(
                "INSERT INTO {read_states} (user_id, channel_id, state) VALUES (?, ?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            insert_head: one(format!(
                "INSERT INTO {channels} (channel_id, state) VALUES (?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            insert_node: one(format!(
                "INSERT INTO {nodes} (channel_id, level, first_id, applied, state) VALUES (?, ?, ?, ?, ?) \
                 USING TIMESTAMP ?"
            ))
            .await?,
            insert_position: one(format!(
                "INSERT INTO {positions} (partition, state) VALUES (?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            delete_nodes_below: one(format!(
                "DELETE FROM {nodes} USING TIMESTAMP ? WHERE {node_key} AND applied < ?"
            ))
            .await?,
            select_read_state: one(format!(
                "SELECT {cells} FROM {read_states} WHERE user_id = ? AND channel_id = ?"
            ))
            .await?,
            select_user: one(format!(
                "SELECT channel_id, {cells} FROM {read_states} WHERE user_id = ? AND channel_id > ? \
                 ORDER BY channel_id ASC LIMIT ?"
            ))
            .await?,
            select_read_states: one(format!(
                "SELECT user_id, channel_id, {cells} FROM {read_states} WHERE user_id IN ? AND channel_id IN ?"
            ))
            .await?,
            select_heads: one(format!(
                "SELECT channel_id, {cells} FROM {channels} WHERE channel_id IN ?"
            ))
            .await?,
            select_head: one(format!("SELECT {cells} FROM {channels} WHERE channel_id = ?")).await?,
            select_node: one(format!(
                "SELECT {cells} FROM {nodes} WHERE {node_key} AND applied = ?"
            ))
            .await?,
            select_position: one(format!("SELECT {cells} FROM {positions} WHERE partition = ?")).await?,
        })
    }
}

async fn prepare(session: &Session, text: String) -> Result<PreparedStatement, ConnectError> {
    let mut prepared = session.prepare(text.as_str()).await.map_err(|error| {
        let line = format!("the store can't run `{text}`: {error}");
        match &error {
            PrepareError::AllAttemptsFailed { first_attempt } if is_final(first_attempt) => {
                ConnectError::Final(format!(
                    "{line}; are its tables and grants as in schemas/tables.cql?"
                ))
            }
            _ => ConnectError::Unavailable(line),
        }
    })?;
    // Whatever we run may be run twice: timestamps decide. So the driver may ask another node at once.
    prepared.set_is_idempotent(true);
    Ok(prepared)
}
