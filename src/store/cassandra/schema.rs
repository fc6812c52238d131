//! The keyspace and the tables: created where they are missing, refused where they are not ours.

use std::collections::HashSet;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryRowsResult;
use scylla::statement::unprepared::Statement;

use super::connect::{ConnectError, is_final};
use super::{CassandraConfig, SCHEMA_TIMEOUT_MS};

/// The generation of tables that this program reads and writes.
pub const GENERATION: u32 = 1;

const TABLES: &str = include_str!("../../../schemas/tables.cql");
const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS ";
const INSERT: &str = "INSERT INTO ";

/// Checks that all is there, and creates what is missing where that is allowed.
pub(super) async fn ensure(session: &Session, config: &CassandraConfig) -> Result<(), ConnectError> {
    let keyspace = &config.keyspace;
    let names = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    if texts(session, names, (keyspace,)).await?.is_empty() {
        if !config.create_schema {
            return Err(ConnectError::Final(format!(
                "there is no keyspace \"{keyspace}\" (store.cassandra.keyspace) and store.cassandra.create_schema is \
                 false: create it and run schemas/tables.cql in it, or set create_schema = true"
            )));
        }
        let replication = &config.replication;
        let create = format!("CREATE KEYSPACE IF NOT EXISTS \"{keyspace}\" WITH replication = {replication}");
        execute(session, &create, "store.cassandra.replication").await?;
        tracing::info!(keyspace, replication, "created the keyspace");
    }

    let names = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
    let existing: HashSet<String> = texts(session, names, (keyspace,)).await?.into_iter().collect();
    let missing: Vec<&str> = table_names().filter(|name| !existing.contains(*name)).collect();
    if !missing.is_empty() {
        if !config.create_schema {
            return Err(ConnectError::Final(format!(
                "the keyspace \"{keyspace}\" lacks the tables {} and store.cassandra.create_schema is false: run \
                 schemas/tables.cql in it, or set create_schema = true",
                missing.join(", ")
            )));
        }
        for statement in statements() {
            execute(session, &qualified(statement, keyspace), "create_schema").await?;
        }
        tracing::info!(keyspace, tables = missing.join(", "), "created the tables");
    }
    check_generation(session, keyspace).await
}

async fn check_generation(session: &Session, keyspace: &str) -> Result<(), ConnectError> {
    let select = format!("SELECT value FROM \"{keyspace}\".meta WHERE name = 'generation'");
    let live = texts(session, &select, ()).await?.pop();
    let expected = GENERATION.to_string();
    match live {
        Some(live) if live == expected => Ok(()),
        Some(live) => Err(ConnectError::Final(format!(
            "generation {live} of the tables in the keyspace \"{keyspace}\" is live (its table meta says so), and this \
             program knows generation {expected}: run the version of readstates that made it, or a newer one"
        ))),
        None => Err(ConnectError::Final(format!(
            "the table meta in the keyspace \"{keyspace}\" does not say which generation is live: run \
             schemas/tables.cql in it"
        ))),
    }
}

/// The statements of `tables.cql`, without comments.
fn statements() -> impl Iterator<Item = &'static str> {
    // No statement has a comment or a semicolon within, so a comment ends where a line starts without one.
    TABLES.split(';').filter_map(|part| {
        let start = part.find(CREATE_TABLE).or_else(|| part.find(INSERT))?;
        Some(part[start..].trim())
    })
}

fn table_names() -> impl Iterator<Item = &'static str> {
    statements().filter_map(|statement| statement.strip_prefix(CREATE_TABLE)?.split_whitespace().next())
}

/// The statement with its table named in this keyspace.
fn qualified(statement: &str, keyspace: &str) -> String {
    for start in [CREATE_TABLE, INSERT] {
        if let Some(rest) = statement.strip_prefix(start) {
            return format!("{start}\"{keyspace}\".{rest}");
        }
    }
    statement.to_string()
}

async fn execute(session: &Session, text: &str, setting: &str) -> Result<(), ConnectError> {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(Duration::from_millis(SCHEMA_TIMEOUT_MS)));
    statement.set_is_idempotent(true);
    let result = session.query_unpaged(statement, ()).await;
    result.map(drop).map_err(|error| failed(text, &error, setting))
}

/// A column of text.
async fn texts(
    session: &Session,
    text: &str,
    values: impl scylla::serialize::row::SerializeRow,
) -> Result<Vec<String>, ConnectError> {
    let unexpected = |error: &dyn std::fmt::Display| {
        ConnectError::Final(format!("`{text}` has another answer than expected: {error}"))
    };
    let result = session.query_unpaged(text, values).await;
    let result = result.map_err(|error| failed(text, &error, "keyspace"))?;
    let rows: QueryRowsResult = result.into_rows_result().map_err(|error| unexpected(&error))?;
    let rows = rows.rows::<(String,)>().map_err(|error| unexpected(&error))?;
    rows.map(|row| row.map(|(text,)| text).map_err(|error| unexpected(&error)))
        .collect()
}

fn failed(text: &str, error: &ExecutionError, setting: &str) -> ConnectError {
    let statement = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = format!("the store can't run `{statement}`: {error}");
    match error {
        ExecutionError::LastAttemptError(attempt) if is_final(attempt) => ConnectError::Final(format!(
            "{line}; check {setting} and the grants of store.cassandra.username"
        )),
        _ => ConnectError::Unavailable(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_are_those_of_the_file() {
        let names: Vec<&str> = table_names().collect();
        let expected = [
            "read_states_g1",
            "channels_g1",
            "channel_nodes_g1",
            "positions_g1",
            "meta",
        ];
        assert_eq!(names, expected);
        assert_eq!(statements().count(), 6);
        assert!(statements().all(|statement| !statement.contains("--")));
        let last = qualified(statements().last().unwrap_or_default(), "ks");
        let insert = "INSERT INTO \"ks\".meta (name, value) VALUES ('generation', '1') USING TIMESTAMP 1";
        assert_eq!(last, insert);
    }
}
