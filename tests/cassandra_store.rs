//! Proves on a real Cassandra that rows come back as they were written, that an older one never replaces a newer one,
//! and that what is missing, damaged or not ours is told in one line. Each test has a keyspace of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use readstates::model::channel::{Level, Node};
use readstates::model::ids::{ChannelId, PartitionId, UserId};
use readstates::partition::io::{LoadKey, LoadedRow, Write};
use readstates::shard::retry::{
    StoreHealth, load_after_backoff, store_position_until_done, write_until_done,
};
use readstates::store::cassandra::{CassandraConfig, CassandraStore, ConnectError, Password};
use readstates::store::{Store, StoreError};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use support::servers::Cassandra;
use support::stores::{
    self, at, block, check_refused, head, key, load_read_state, node_key, position, read_state,
};

fn server() -> &'static str {
    static SERVER: OnceLock<(Cassandra, String)> = OnceLock::new();
    &SERVER
        .get_or_init(|| {
            let server = Cassandra::start();
            let url = server.url();
            (server, url)
        })
        .1
}

fn config(node: &str, keyspace: &str) -> CassandraConfig {
    CassandraConfig {
        nodes: vec![node.into()],
        keyspace: keyspace.into(),
        create_schema: true,
        replication: "{'class': 'SimpleStrategy', 'replication_factor': 1}".into(),
        datacenter: None,
        username: None,
        password: None,
        tls_ca: None,
        tls_cert: None,
        tls_key: None,
    }
}

async fn store(keyspace: &str) -> CassandraStore {
    CassandraStore::connect(&config(server(), keyspace))
        .await
        .unwrap()
}

/// A session beside the store's, as of somebody with cqlsh.
async fn by_hand() -> Session {
    SessionBuilder::new().known_node(server()).build().await.unwrap()
}

async fn run(session: &Session, statement: &str) {
    session.query_unpaged(statement, ()).await.unwrap();
}

#[tokio::test]
async fn every_kind_of_row_comes_back() {
    stores::every_kind_of_row_comes_back(&store("rows").await).await;
}

#[tokio::test]
async fn an_older_row_never_replaces_a_newer_one() {
    stores::an_older_row_never_replaces_a_newer_one(&store("fence").await).await;
}

#[tokio::test]
async fn a_deleted_node_stays_deleted() {
    stores::a_deleted_node_stays_deleted(&store("nodes").await).await;
}

#[tokio::test]
async fn the_rows_of_a_user_come_in_pages() {
    stores::the_rows_of_a_user_come_in_pages(&store("users").await).await;
}

#[tokio::test]
async fn a_row_edited_by_hand_is_refused() {
    let store = store("edited").await;
    let session = by_hand().await;
    let state = read_state(at(7), 5);
    store
        .write(&Write::ReadState(key(1, 2), state.clone()))
        .await
        .unwrap();
    store.write(&Write::ReadState(key(1, 3), state)).await.unwrap();
    store
        .store_position(PartitionId(4), &position(at(7)))
        .await
        .unwrap();
    store
        .write(&Write::Head(ChannelId(2), Arc::new(head(at(7)))))
        .await
        .unwrap();
    let node = Write::Node(node_key(Level::Block, 9), at(7), Node::Block(Arc::new(block(9))));
    store.write(&node).await.unwrap();

    // Copied by hand, as an import from a file does: the bytes are right, the timestamp is of today.
    let copy = "SELECT state FROM edited.read_states_g1 WHERE user_id = 1 AND channel_id = 3";
    let rows = session
        .query_unpaged(copy, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    let (bytes,) = rows.single_row::<(Vec<u8>,)>().unwrap();
    let update = "UPDATE edited.read_states_g1 SET state = ? WHERE user_id = 1 AND channel_id = 2";
    session.query_unpaged(update, (bytes,)).await.unwrap();
    let load = store.load(LoadKey::ReadState(key(1, 2))).await;
    check_refused(
        load,
        &[
            "read_states row user_id=1 channel_id=2",
            "by hand",
            "state in it is of 8",
            "replay",
        ],
    );
    let overview = store.load_user(UserId(1), ChannelId(0), 10).await;
    check_refused(overview, &["read_states row user_id=1 channel_id=2", "by hand"]);

    run(
        &session,
        "UPDATE edited.channels_g1 SET state = 0x00 WHERE channel_id = 2",
    )
    .await;
    check_refused(
        store.load(LoadKey::Head(ChannelId(2))).await,
        &["channels row channel_id=2", "replay"],
    );
    run(
        &session,
        "UPDATE edited.positions_g1 SET state = null WHERE partition = 4",
    )
    .await;
    check_refused(
        store.load_position(PartitionId(4)).await,
        &["positions row partition=4", "replay"],
    );
    let node = "UPDATE edited.channel_nodes_g1 USING TIMESTAMP 8 SET state = 0xff \
                WHERE channel_id = 7 AND level = 0 AND first_id = 9 AND applied = 8";
    run(&session, node).await;
    let load = store.load(LoadKey::Node(node_key(Level::Block, 9), at(7))).await;
    check_refused(
        load,
        &[
            "channel_nodes row channel_id=7 level=0 first_id=9 applied=8",
            "damaged",
        ],
    );
    run(
        &session,
        "UPDATE edited.channels_g1 USING TIMESTAMP 9 SET state = 0x08021009 WHERE channel_id = 3",
    )
    .await;
    let load = store.load(LoadKey::Head(ChannelId(3))).await;
    check_refused(
        load,
        &["channels row channel_id=3 has format version 2", "a newer one"],
    );
}

async fn refusal(config: CassandraConfig) -> String {
    match CassandraStore::connect(&config).await {
        Err(ConnectError::Final(line)) => line,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("connected"),
    }
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_told_in_one_line() {
    let base = || config(server(), "lines");
    let line = refusal(CassandraConfig {
        create_schema: false,
        ..base()
    })
    .await;
    assert!(
        line.contains("no keyspace \"lines\"") && line.contains("create_schema"),
        "{line}"
    );
    let line = refusal(CassandraConfig {
        replication: "{'class': 'Nonsense'}".into(),
        ..base()
    })
    .await;
    assert!(line.contains("store.cassandra.replication"), "{line}");
    let line = refusal(CassandraConfig {
        datacenter: Some("moon".into()),
        ..base()
    })
    .await;
    assert!(
        line.contains("\"moon\"") && line.contains("datacenter1"),
        "{line}"
    );
    let line = refusal(CassandraConfig {
        keyspace: "a; b".into(),
        ..base()
    })
    .await;
    assert!(line.contains("store.cassandra.keyspace"), "{line}");
    let line = refusal(CassandraConfig {
        username: Some("someone".into()),
        ..base()
    })
    .await;
    assert!(line.contains("belong together"), "{line}");
    let line = refusal(CassandraConfig {
        tls_ca: Some("missing.pem".into()),
        ..base()
    })
    .await;
    assert!(line.contains("tls_ca") && line.contains("missing.pem"), "{line}");

    let session = by_hand().await;
    let replication = base().replication;
    run(
        &session,
        &format!("CREATE KEYSPACE lines WITH replication = {replication}"),
    )
    .await;
    let line = refusal(CassandraConfig {
        create_schema: false,
        ..base()
    })
    .await;
    assert!(
        line.contains("lacks the tables read_states_g1") && line.contains("tables.cql"),
        "{line}"
    );
    CassandraStore::connect(&base()).await.unwrap();
    let local = CassandraConfig {
        create_schema: false,
        datacenter: Some("datacenter1".into()),
        ..base()
    };
    CassandraStore::connect(&local).await.unwrap();

    run(
        &session,
        "UPDATE lines.meta USING TIMESTAMP 2 SET value = '2' WHERE name = 'generation'",
    )
    .await;
    let line = refusal(base()).await;
    assert!(line.contains("generation 2") && line.contains("newer"), "{line}");

    let nobody = support::servers::free_ports(1).pop().unwrap();
    let result = CassandraStore::connect(&config(&format!("127.0.0.1:{nobody}"), "lines")).await;
    assert!(matches!(result, Err(ConnectError::Unavailable(line)) if line.contains(&nobody)));
    assert!(!format!("{:?}", Password("secret".into())).contains("secret"));
}

/// Two instances that start at once find or create the same tables.
#[tokio::test]
async fn tables_may_be_created_twice_at_once() {
    let config = config(server(), "Twice");
    let (one, other) = tokio::join!(CassandraStore::connect(&config), CassandraStore::connect(&config));
    let (one, other) = (one.unwrap(), other.unwrap());
    one.write(&Write::ReadState(key(1, 2), read_state(at(1), 5)))
        .await
        .unwrap();
    assert_eq!(
        load_read_state(&other, key(1, 2)).await,
        Some(read_state(at(1), 5))
    );
}

/// While the server hangs or is gone, requests fail within their time, and what must be written is once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_outlived() {
    // By default a lone Cassandra acknowledges up to a second before it syncs, and forgets that second in a crash.
    let mut server = Cassandra::start_with(&["commitlog_sync=batch", "commitlog_sync_period=0ms"]);
    let store = CassandraStore::connect(&config(&server.url(), "outage"))
        .await
        .unwrap();
    let health = Arc::new(StoreHealth::new());
    let write = |offset| Write::ReadState(key(1, offset), read_state(at(offset), 5));
    let load = |channel| LoadKey::ReadState(key(1, channel));
    store.write(&write(1)).await.unwrap();

    server.pause();
    let started = Instant::now();
    let loaded = load_after_backoff(&store, &health, load(1), 0).await;
    assert!(matches!(loaded, Err(StoreError::Unavailable(_))), "{loaded:?}");
    assert!(started.elapsed() < Duration::from_secs(30) && health.is_failing());
    let pending = tokio::spawn({
        let (store, health) = (store.clone(), Arc::clone(&health));
        async move { write_until_done(&store, &health, &write(2)).await }
    });
    server.resume();
    pending.await.unwrap().unwrap();
    assert!(!health.is_failing());

    server.kill9();
    assert!(matches!(
        store.write(&write(3)).await,
        Err(StoreError::Unavailable(_))
    ));
    let pending = tokio::spawn({
        let (store, health) = (store.clone(), Arc::clone(&health));
        async move {
            write_until_done(&store, &health, &write(3)).await?;
            store_position_until_done(&store, &health, PartitionId(0), &position(at(3))).await
        }
    });
    tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .map(|server| async move {
        pending.await.unwrap().unwrap();
        for offset in [1, 2, 3] {
            assert_eq!(
                load_read_state(&store, key(1, offset)).await,
                Some(read_state(at(offset), 5))
            );
        }
        assert_eq!(
            store.load_position(PartitionId(0)).await.unwrap(),
            Some(position(at(3)))
        );
        drop(server);
    })
    .unwrap()
    .await;
}

/// Requests that the server has had from everybody who is connected.
async fn requests(session: &Session) -> i64 {
    let counts = session
        .query_unpaged("SELECT request_count FROM system_views.clients", ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    counts.rows::<(i64,)>().unwrap().map(|row| row.unwrap().0).sum()
}

/// Loads that are asked for all at once: rows that are there, that are not, and one that was edited by hand. Each is
/// answered with its own row. Returns how many were asked for.
async fn load_at_once(store: &CassandraStore, session: &Session, keyspace: &str) -> usize {
    let pairs = (1..=50).flat_map(|user| (1..=4).map(move |channel| (user, channel)));
    let pairs = pairs
        .chain((10..=110).map(|id| (id, id)))
        .chain((200..300).map(|id| (7, id)));
    let pairs: Vec<(u64, u64)> = pairs.collect();
    let is_there = |user: u64, channel: u64| !(user + channel).is_multiple_of(3);
    let row = |user: u64, channel: u64| is_there(user, channel).then(|| read_state(at(user), channel));
    for (user, channel) in &pairs {
        if let Some(state) = row(*user, *channel) {
            store
                .write(&Write::ReadState(key(*user, *channel), state))
                .await
                .unwrap();
        }
        if *channel >= 200 && is_there(*user, *channel) {
            let written = Write::Head(ChannelId(*channel), Arc::new(head(at(*channel))));
            store.write(&written).await.unwrap();
        }
    }
    let edit =
        format!("UPDATE {keyspace}.read_states_g1 SET state = 0x00 WHERE user_id = 3 AND channel_id = 2");
    run(session, &edit).await;

    let states = futures::future::join_all(pairs.iter().map(async |(user, channel)| {
        let loaded = store.load(LoadKey::ReadState(key(*user, *channel))).await;
        match (user, channel) {
            (3, 2) => check_refused(loaded, &["user_id=3"]),
            _ => match loaded.unwrap() {
                LoadedRow::ReadState(state) => assert_eq!(state, row(*user, *channel), "{user} {channel}"),
                other => panic!("{other:?}"),
            },
        }
    }));
    let heads = futures::future::join_all((200..300).map(async |channel| {
        let expected = is_there(7, channel).then(|| Arc::new(head(at(channel))));
        assert_eq!(stores::load_head(store, ChannelId(channel)).await, expected);
    }));
    let (states, heads) = futures::join!(states, heads);
    states.len() + heads.len()
}

/// A store on a server of its own, and a session beside it.
async fn connected(server: &Cassandra, keyspace: &str) -> (CassandraStore, Session) {
    let store = CassandraStore::connect(&config(&server.url(), keyspace)).await;
    let session = SessionBuilder::new().known_node(server.url()).build().await;
    (store.unwrap(), session.unwrap())
}

#[tokio::test]
async fn what_is_asked_for_at_once_is_read_by_few_statements() {
    let server = Cassandra::start();
    let (store, session) = connected(&server, "together").await;
    load_at_once(&store, &session, "together").await;
    let before = requests(&session).await;
    let loads = load_at_once(&store, &session, "together").await as i64;
    let written = loads * 2 / 3;
    let reads = requests(&session).await - before - written;
    assert!(reads < loads / 2, "{reads} requests for {loads} rows");
}

/// As an operator may have it: then rows are read one by one.
#[tokio::test]
async fn a_server_that_allows_no_statement_for_several_rows_is_read_all_the_same() {
    let server = Cassandra::start_with(&[
        "partition_keys_in_select_warn_threshold=1",
        "partition_keys_in_select_fail_threshold=2",
    ]);
    let (store, session) = connected(&server, "guarded").await;
    load_at_once(&store, &session, "guarded").await;
}

/// Twenty times as many writes as may be under way at once: all arrive. Prints the rate.
#[tokio::test(flavor = "multi_thread")]
async fn many_writes_at_once() {
    const ROWS: u64 = 20_000;
    let store = store("many").await;
    let write = |i: u64| {
        let store = store.clone();
        async move {
            store
                .write(&Write::ReadState(
                    key(1 + i / 100, 1 + i % 100),
                    read_state(at(i), i),
                ))
                .await
        }
    };
    for round in ["cold", "warm"] {
        let started = Instant::now();
        let failed: Vec<_> = stream::iter(0..ROWS)
            .map(|i| tokio::spawn(write(i)))
            .buffer_unordered(ROWS as usize)
            .filter_map(|result| std::future::ready(result.unwrap().err()))
            .collect()
            .await;
        assert!(
            failed.is_empty(),
            "{} of {ROWS} failed: {}",
            failed.len(),
            failed[0]
        );
        let rate = ROWS as f64 / started.elapsed().as_secs_f64();
        println!("{round}: {rate:.0} rows/s written");
    }
    let started = Instant::now();
    let counts: Vec<usize> = stream::iter(1..=ROWS / 100)
        .map(async |user| {
            store
                .load_user(UserId(user), ChannelId(0), 1000)
                .await
                .unwrap()
                .len()
        })
        .buffer_unordered(100)
        .collect()
        .await;
    assert_eq!(counts, [100; (ROWS / 100) as usize]);
    let rate = counts.len() as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} overviews of 100 rows/s read");
}

/// Makes a certificate for 127.0.0.1 and returns the key store for Cassandra and the PEM file for us.
fn certificate(dir: &std::path::Path) -> (PathBuf, PathBuf) {
    let (store, pem) = (dir.join("node.p12"), dir.join("node.pem"));
    let keytool = |arguments: &[&str]| {
        let status = Command::new("keytool")
            .args(arguments)
            .args(["-alias", "node", "-storepass", "not-secret", "-keystore"])
            .arg(&store)
            .stderr(std::process::Stdio::null())
            .status();
        assert!(status.unwrap().success(), "keytool {arguments:?}");
    };
    let name = ["-dname", "CN=node", "-ext", "SAN=ip:127.0.0.1"];
    keytool(
        &[
            &["-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12"],
            &name[..],
        ]
        .concat(),
    );
    keytool(&["-exportcert", "-rfc", "-file", pem.to_str().unwrap()]);
    (store, pem)
}

/// TLS and passwords, right and wrong, on a server that insists on both.
#[tokio::test(flavor = "multi_thread")]
async fn tls_and_passwords_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let (key_store, pem) = certificate(dir.path());
    let tls = format!(
        "client_encryption_options={{enabled: true, keystore: {}, keystore_password: not-secret, store_type: PKCS12}}",
        key_store.display()
    );
    // Only what speaks TLS is answered, which the script that waits does not.
    let server = Cassandra::start_unready(&[&tls, "authenticator=PasswordAuthenticator"]);
    let with = |password: &str, tls_ca: Option<PathBuf>| CassandraConfig {
        username: Some("cassandra".into()),
        password: Some(Password(password.into())),
        tls_ca,
        ..config(&server.url(), "safe")
    };
    let good = with("cassandra", Some(pem.clone()));
    let wrong_password = with("wrong", Some(pem.clone()));
    let nobody = CassandraConfig {
        username: None,
        password: None,
        ..good.clone()
    };
    let plain = with("cassandra", None);

    // The server creates its first user only some seconds after it has started.
    let deadline = Instant::now() + Duration::from_secs(180);
    let store = loop {
        match CassandraStore::connect(&good).await {
            Ok(store) => break store,
            Err(error) if Instant::now() > deadline => panic!("{error}\n{}", server.log_tail()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    store
        .write(&Write::ReadState(key(1, 2), read_state(at(1), 5)))
        .await
        .unwrap();
    assert_eq!(
        load_read_state(&store, key(1, 2)).await,
        Some(read_state(at(1), 5))
    );
    for config in [wrong_password, nobody] {
        let line = refusal(config).await;
        assert!(
            line.contains("username and password_file") && !line.contains("wrong"),
            "{line}"
        );
    }
    assert!(matches!(
        CassandraStore::connect(&plain).await,
        Err(ConnectError::Unavailable(_))
    ));
    let other = tempfile::tempdir().unwrap();
    let (_, stranger) = certificate(other.path());
    let line = refusal(CassandraConfig {
        tls_ca: Some(stranger),
        ..good
    })
    .await;
    assert!(line.contains("store.cassandra.tls_ca"), "{line}");
}
