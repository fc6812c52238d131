//! Proves on a real Cassandra that rows come back as they were written, that an older one never replaces a newer one,
//! and that what is missing, damaged or not ours is told in one line. Each test has a keyspace of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use readstates::model::channel::{Block, Head, Level, Message, Node, NodeRef, Page};
use readstates::model::ids::{ChannelId, LogPosition, MessageId, Offset, PartitionId, ReadStateKey, UserId};
use readstates::model::read_state::{Membership, ReadState, Remembered};
use readstates::partition::io::{LoadKey, LoadedRow, NodeKey, Write};
use readstates::shard::retry::{
    StoreHealth, load_after_backoff, store_position_until_done, write_until_done,
};
use readstates::store::cassandra::{CassandraConfig, CassandraStore, ConnectError, Password};
use readstates::store::{Store, StoreError, StoredPosition, StreamIdentity};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use support::servers::Cassandra;

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

fn at(offset: u64) -> LogPosition {
    LogPosition::new(0, Offset(offset))
}

fn key(user: u64, channel: u64) -> ReadStateKey {
    ReadStateKey {
        user: UserId(user),
        channel: ChannelId(channel),
    }
}

fn read_state(applied: LogPosition, last_read: u64) -> ReadState {
    ReadState {
        applied,
        last_read: MessageId(last_read),
        membership: Membership::Joined,
        mentions: vec![Remembered {
            id: MessageId(last_read + 3),
            everyone: true,
        }],
        own: vec![Remembered {
            id: MessageId(last_read + 4),
            everyone: false,
        }],
        forgotten: MessageId(last_read + 2),
        own_unknown: MessageId::NONE,
    }
}

fn block(id: u64) -> Block {
    let message = Message {
        id: MessageId(id),
        author: Some(UserId(1)),
        mentions: [2, 3].map(UserId).into(),
        everyone: true,
        deleted: false,
        created: true,
    };
    Block {
        messages: vec![message],
    }
}

fn node_ref(first: u64, version: LogPosition, newest_live: u64) -> NodeRef {
    NodeRef {
        first: MessageId(first),
        version,
        live: 1,
        everyone: 1,
        newest_live: MessageId(newest_live),
    }
}

fn head(applied: LogPosition) -> Head {
    let newest = node_ref(0, applied, 50);
    Head {
        applied,
        deleted: false,
        newest_seen: MessageId(60),
        pages: vec![newest],
        newest_page: Arc::new(Page { blocks: vec![newest] }),
        newest_block: Arc::new(block(50)),
    }
}

fn position(durable: LogPosition) -> StoredPosition {
    let stream = StreamIdentity {
        stream_id: "a topic".into(),
        partition_count: 16,
        epoch: durable.epoch(),
    };
    StoredPosition { durable, stream }
}

fn node_key(level: Level, first: u64) -> NodeKey {
    NodeKey {
        channel: ChannelId(7),
        level,
        first: MessageId(first),
    }
}

async fn load_read_state(store: &CassandraStore, key: ReadStateKey) -> Option<ReadState> {
    match store.load(LoadKey::ReadState(key)).await.unwrap() {
        LoadedRow::ReadState(state) => state,
        other => panic!("{other:?}"),
    }
}

async fn load_head(store: &CassandraStore, channel: ChannelId) -> Option<Arc<Head>> {
    match store.load(LoadKey::Head(channel)).await.unwrap() {
        LoadedRow::Head(head) => head,
        other => panic!("{other:?}"),
    }
}

async fn load_node(store: &CassandraStore, key: NodeKey, version: LogPosition) -> Option<Node> {
    match store.load(LoadKey::Node(key, version)).await.unwrap() {
        LoadedRow::Node(node) => node,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_kind_of_row_comes_back() {
    let store = store("rows").await;
    let (user, channel) = (key(i64::MAX as u64, 7), ChannelId(i64::MAX as u64));
    assert_eq!(load_read_state(&store, user).await, None);
    assert_eq!(load_head(&store, channel).await, None);
    assert_eq!(load_node(&store, node_key(Level::Block, 0), at(1)).await, None);
    assert_eq!(store.load_position(PartitionId(u32::MAX)).await.unwrap(), None);

    let newest = LogPosition::new(255, Offset(LogPosition::OFFSETS_MAX - 1));
    for applied in [at(0), newest] {
        let state = read_state(applied, 1 << 60);
        store.write(&Write::ReadState(user, state.clone())).await.unwrap();
        assert_eq!(load_read_state(&store, user).await, Some(state));
        store
            .write(&Write::Head(channel, Arc::new(head(applied))))
            .await
            .unwrap();
        assert_eq!(load_head(&store, channel).await.as_deref(), Some(&head(applied)));
        let page = Page {
            blocks: vec![node_ref(9, applied, 10)],
        };
        let nodes = [
            (node_key(Level::Block, 9), Node::Block(Arc::new(block(9)))),
            (node_key(Level::Page, 9), Node::Page(Arc::new(page))),
        ];
        for (key, node) in nodes {
            store
                .write(&Write::Node(key, applied, node.clone()))
                .await
                .unwrap();
            assert_eq!(load_node(&store, key, applied).await, Some(node));
        }
        assert_eq!(
            load_node(&store, node_key(Level::Block, 9), at(5)).await,
            None,
            "only the very version"
        );
    }
    for durable in [LogPosition::NOTHING, at(0), LogPosition::start(1), newest] {
        store
            .store_position(PartitionId(u32::MAX), &position(durable))
            .await
            .unwrap();
        assert_eq!(
            store.load_position(PartitionId(u32::MAX)).await.unwrap(),
            Some(position(durable))
        );
    }
}

/// A former owner that wakes up and writes late loses, without locks and clocks.
#[tokio::test]
async fn an_older_row_never_replaces_a_newer_one() {
    let store = store("fence").await;
    let of_epoch_1 = LogPosition::new(1, Offset(3));
    for (newer, older) in [(at(9), at(8)), (of_epoch_1, at(1_000_000))] {
        store
            .write(&Write::ReadState(key(1, 2), read_state(newer, 90)))
            .await
            .unwrap();
        store
            .write(&Write::ReadState(key(1, 2), read_state(older, 80)))
            .await
            .unwrap();
        assert_eq!(
            load_read_state(&store, key(1, 2)).await,
            Some(read_state(newer, 90))
        );

        store
            .write(&Write::Head(ChannelId(2), Arc::new(head(newer))))
            .await
            .unwrap();
        store
            .write(&Write::Head(ChannelId(2), Arc::new(head(older))))
            .await
            .unwrap();
        assert_eq!(
            load_head(&store, ChannelId(2)).await.as_deref(),
            Some(&head(newer))
        );

        store
            .store_position(PartitionId(0), &position(newer))
            .await
            .unwrap();
        store
            .store_position(PartitionId(0), &position(older))
            .await
            .unwrap();
        assert_eq!(
            store.load_position(PartitionId(0)).await.unwrap(),
            Some(position(newer))
        );
    }
}

#[tokio::test]
async fn a_deleted_node_stays_deleted() {
    let store = store("nodes").await;
    let (deleted, other) = (node_key(Level::Block, 9), node_key(Level::Block, 100));
    let node = |id| Node::Block(Arc::new(block(id)));
    for version in [3, 5, 8, 9] {
        store
            .write(&Write::Node(deleted, at(version), node(9)))
            .await
            .unwrap();
        store
            .write(&Write::Node(other, at(version), node(100)))
            .await
            .unwrap();
    }
    store
        .write(&Write::DeleteNodesBelow(deleted, at(8)))
        .await
        .unwrap();
    // What a late owner writes is below the deletion as well.
    for version in [3, 4, 7] {
        store
            .write(&Write::Node(deleted, at(version), node(9)))
            .await
            .unwrap();
    }
    for version in [3, 4, 5, 7] {
        assert_eq!(load_node(&store, deleted, at(version)).await, None, "{version}");
    }
    for version in [8, 9] {
        assert_eq!(
            load_node(&store, deleted, at(version)).await,
            Some(node(9)),
            "{version}"
        );
    }
    assert_eq!(load_node(&store, other, at(3)).await, Some(node(100)));
}

#[tokio::test]
async fn the_rows_of_a_user_come_in_pages() {
    let store = store("users").await;
    for channel in [40, 10, 30, 20, i64::MAX as u64] {
        store
            .write(&Write::ReadState(
                key(1, channel),
                read_state(at(channel % 99), 5),
            ))
            .await
            .unwrap();
        store
            .write(&Write::ReadState(key(2, channel), read_state(at(1), 6)))
            .await
            .unwrap();
    }
    let page = async |above, limit| {
        let rows = store.load_user(UserId(1), ChannelId(above), limit).await.unwrap();
        rows.into_iter()
            .map(|(channel, state)| {
                assert_eq!(state, read_state(at(channel.0 % 99), 5));
                channel.0
            })
            .collect::<Vec<u64>>()
    };
    assert_eq!(page(0, 3).await, [10, 20, 30]);
    assert_eq!(page(30, 3).await, [40, i64::MAX as u64]);
    assert_eq!(page(i64::MAX as u64, 3).await, [0; 0]);
    assert_eq!(page(0, 0).await, [0; 0]);
    assert_eq!(page(0, usize::MAX).await.len(), 5);
    assert_eq!(store.load_user(UserId(3), ChannelId(0), 10).await.unwrap(), []);
}

/// Checks that the row is refused with a line that has all this.
fn check_refused<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: &[&str]) {
    let Err(StoreError::Unusable(line)) = result else {
        panic!("{result:?}")
    };
    for part in expected {
        assert!(line.contains(part), "{line}");
    }
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
