//! The store: stopped, killed, slow, refusing writes, and too much waiting for it.

use std::time::{Duration, Instant};

use readstates::oracle::Limits;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::load::{Load, Seen};
use crate::probes::Tallies;
use crate::support::proxy::Proxy;
use crate::support::servers::{Cassandra, Kafka, Nats, wait_for};
use crate::whole_path::run::{Addresses, Run};

const LIMITS: Limits = Limits {
    max_unread_count: 300,
    max_direct_mentions: 5,
};
/// Who the service logs in as.
const USER: &str = "readstates_service";
const PASSWORD: &str = "not-secret";
/// How long the store is away when it is killed, its start included.
const KILLED: Duration = Duration::from_secs(60);
/// What it takes to start again, at least.
const CASSANDRA_STARTS: Duration = Duration::from_secs(6);
/// How long it may take until everything is answered again once the store is there: the driver tries at least every 10 s.
const RECOVERED_MAX: Duration = Duration::from_secs(30);
/// What the service may need more in the end than in the beginning; its caches grow meanwhile.
const GROWN_MAX_BYTES: u64 = 100 << 20;
const WORKS_AGAIN: &str = "the store works again";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_away_slow_or_refuses() {
    let (kafka, nats, mut cassandra) = block_in_place(|| {
        std::thread::scope(|scope| {
            let kafka = scope.spawn(Kafka::start);
            let settings = [
                "authenticator=PasswordAuthenticator",
                "authorizer=CassandraAuthorizer",
                "permissions_validity=0ms",
            ];
            let cassandra = Cassandra::start_with(&settings);
            (kafka.join().unwrap(), Nats::start(), cassandra)
        })
    });
    let admin = admin(&cassandra.url()).await;
    let proxy = Proxy::start(&cassandra.url()).await;
    let passwords = tempfile::tempdir().unwrap();
    let password_file = passwords.path().join("password");
    std::fs::write(&password_file, PASSWORD).unwrap();
    let password_file = password_file.to_str().unwrap().to_owned();
    let addresses = Addresses {
        brokers: kafka.url(),
        nats: nats.url(),
        cassandra: proxy.address(),
    };
    let settings = [
        ("store.write_delay", "1s"),
        ("limits.max_dirty", "600"),
        ("store.cassandra.username", USER),
        ("store.cassandra.password_file", &password_file),
    ];
    let mut run = Run::on(&addresses, "store", 6, LIMITS, &settings);
    run.login = Some((USER.to_owned(), PASSWORD.to_owned()));
    let keyspace = run.deployment.keyspace();
    create_role(&admin, &keyspace).await;
    let mut load = Load::start(run, &[]).await;
    sleep(Duration::from_secs(3)).await;
    let usual_bytes = load.service.resident_bytes();

    let stopped = load.trouble("stopped (SIGSTOP) for 20 s");
    cassandra.pause();
    sleep(Duration::from_secs(20)).await;
    cassandra.resume();
    check_away(&load.over(stopped, Some(WORKS_AGAIN)).await);

    let killed = load.trouble("killed for 60 s");
    let began = Instant::now();
    cassandra.kill9();
    let paused = || {
        load.service
            .metric("readstates_source_paused", "reason=\"store\"")
            == 1.0
    };
    block_in_place(|| wait_for("max_dirty is reached", KILLED - CASSANDRA_STARTS, paused));
    let reached_after = began.elapsed();
    sleep((KILLED - CASSANDRA_STARTS).saturating_sub(began.elapsed())).await;
    assert!(paused(), "it has no reason to go on");
    // One may have been answered just as it was killed.
    let fresh = load.seen(&killed).fresh;
    assert!(fresh.answered <= 1, "there is nothing to answer from: {fresh:?}");
    block_in_place(|| cassandra.restart());
    let seen = load.over(killed, Some(WORKS_AGAIN)).await;
    check_away(&seen);
    assert!(seen.recovered_after < RECOVERED_MAX, "{:?}", seen.recovered_after);
    let goes_on = || load.service.metric("readstates_source_paused", "") == 0.0;
    block_in_place(|| wait_for("nothing is paused", RECOVERED_MAX, goes_on));
    load.run
        .say(format_args!("max_dirty was reached after {reached_after:.1?}"));

    let slow = load.trouble("slow, 500 ms more");
    proxy.delay(Duration::from_millis(250));
    sleep(Duration::from_secs(10)).await;
    proxy.delay(Duration::ZERO);
    let seen = load.over(slow, None).await;
    check_all_answered(&seen);
    assert!(seen.lines.is_empty(), "{:#?}", seen.lines);

    let refusing = load.trouble("refusing writes");
    let tables = tables(&admin, &keyspace).await;
    change_right(&admin, "REVOKE", "FROM", &keyspace, &tables).await;
    let durable_before = load.service.metric("readstates_durable_offset", "");
    sleep(Duration::from_secs(10)).await;
    let durable = load.service.metric("readstates_durable_offset", "");
    change_right(&admin, "GRANT", "TO", &keyspace, &tables).await;
    let seen = load.over(refusing, Some(WORKS_AGAIN)).await;
    check_all_answered(&seen);
    check_lines(&seen);
    assert!(seen.lines[0].contains("MODIFY"), "{}", seen.lines[0]);
    // What was on its way as the right went may have arrived.
    let progress = durable - durable_before;
    assert!(
        progress < 3000.0,
        "{progress} records were durable without a write"
    );

    let cut = load.trouble("connections cut for 5 s");
    proxy.cut(true);
    sleep(Duration::from_secs(5)).await;
    proxy.cut(false);
    check_away(&load.over(cut, Some(WORKS_AGAIN)).await);

    let bytes = load.service.resident_bytes();
    assert!(
        bytes < usual_bytes + GROWN_MAX_BYTES,
        "{} MiB before, {} MiB after",
        usual_bytes >> 20,
        bytes >> 20
    );
    let (run, mut service, publishing) = load.finish().await;
    assert_eq!(
        block_in_place(|| service.terminate()).code(),
        Some(0),
        "{}",
        service.log_tail()
    );
    run.check_all_is_durable(&publishing.ends()).await;
}

/// What is cached was answered, everything else refused in time, and the log has two lines about it.
fn check_away(seen: &Seen) {
    let Tallies { quiet, busy, fresh } = &seen.tallies;
    assert_eq!(quiet.percent(), 100, "{quiet:?}");
    assert_eq!(busy.percent(), 100, "{busy:?}");
    assert!(
        !fresh.refused.is_empty() && fresh.is_all_told(),
        "503 or 504, and in time: {fresh:?}"
    );
    check_lines(seen);
}

fn check_all_answered(seen: &Seen) {
    let Tallies { quiet, busy, fresh } = &seen.tallies;
    for tally in [quiet, busy, fresh] {
        assert_eq!(tally.percent(), 100, "{tally:?}");
    }
}

/// One line as it goes, one as it is back.
fn check_lines(seen: &Seen) {
    let [gone, back] = &seen.lines[..] else {
        panic!("{:#?}", seen.lines);
    };
    assert!(gone.contains("WARN the store failed: "), "{gone}");
    assert!(back.contains(WORKS_AGAIN), "{back}");
}

/// Logs in as the superuser, which the server creates only some seconds after it has started.
async fn admin(node: &str) -> Session {
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        let builder = SessionBuilder::new()
            .known_node(node)
            .user("cassandra", "cassandra");
        match builder.build().await {
            Ok(session) => return session,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn query(session: &Session, statement: &str) {
    let done = session.query_unpaged(statement, ()).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

async fn create_role(admin: &Session, keyspace: &str) {
    query(
        admin,
        &format!("CREATE ROLE {USER} WITH PASSWORD = '{PASSWORD}' AND LOGIN = true"),
    )
    .await;
    query(admin, &format!("GRANT CREATE ON ALL KEYSPACES TO {USER}")).await;
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    query(
        admin,
        &format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}"),
    )
    .await;
    query(admin, &format!("GRANT ALL ON KEYSPACE {keyspace} TO {USER}")).await;
}

async fn tables(admin: &Session, keyspace: &str) -> Vec<String> {
    let statement = format!("SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}'");
    let rows = admin.query_unpaged(statement, ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    rows.rows::<(String,)>()
        .unwrap()
        .map(|row| row.unwrap().0)
        .collect()
}

/// Takes the right to write, or gives it back. Who creates a table has every right to it.
async fn change_right(admin: &Session, what: &str, whom: &str, keyspace: &str, tables: &[String]) {
    query(
        admin,
        &format!("{what} MODIFY ON KEYSPACE {keyspace} {whom} {USER}"),
    )
    .await;
    for table in tables {
        query(
            admin,
            &format!("{what} MODIFY ON TABLE {keyspace}.{table} {whom} {USER}"),
        )
        .await;
    }
}
