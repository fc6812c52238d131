//! Proves that no secret gets out. Each password, seed and key has a canary in it; everything that the program writes,
//! serves or answers is searched for them: while it works at `log.level=trace` on servers that want these secrets, when
//! they are wrong, when they stand where they don't belong, and in what a panic could show.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use readstates::config::Config;
use scylla::client::session_builder::SessionBuilder;
use support::jwt::{self, Operator};
use support::servers::{Cassandra, Kafka, Nats, wait_for};
use support::service::{Deployment, Service};

const DEADLINE: Duration = Duration::from_secs(180);

const KAFKA: &str = "canary-of-kafka-q8Zt";
const CASSANDRA: &str = "canary-of-cassandra-w3Rx";
const NATS: &str = "canary-of-nats-k7Lp";
const WRONG: &str = "canary-that-is-wrong-b5Nm";
const MISPLACED: &str = "canary-that-is-misplaced-v2Jd";
/// What every one of them begins with.
const CANARY: &str = "canary-";

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// # Panics
/// If a canary or one of `more` is in the text.
fn check_clean(what: &str, text: &str, more: &[String]) {
    let found = [CANARY.to_owned(), "PRIVATE KEY".to_owned()];
    for secret in found.iter().chain(more) {
        let at = text.find(secret.as_str());
        let around = at.map(|at| String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(200)..]));
        let around = around.map(|around| around.chars().take(500).collect::<String>());
        assert_eq!(around, None, "{what} shows {secret}");
    }
}

fn kafka() -> Kafka {
    let listener = "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config";
    let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
    Kafka::start_unready(&[
        "listeners=SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port2}",
        "advertised.listeners=SASL_PLAINTEXT://127.0.0.1:{port}",
        "inter.broker.listener.name=SASL_PLAINTEXT",
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms=SCRAM-SHA-256",
        "sasl.mechanism.inter.broker.protocol=SCRAM-SHA-256",
        &format!("{listener}={module} required username=\"readstates\" password=\"{KAFKA}\";"),
        &format!("--add-scram=SCRAM-SHA-256=[name=readstates,password={KAFKA}]"),
    ])
}

/// One whose first user has the canary as password.
fn cassandra() -> Cassandra {
    let server = Cassandra::start_with(&["authenticator=PasswordAuthenticator"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let alter = format!("ALTER ROLE cassandra WITH PASSWORD = '{CASSANDRA}'");
    let says = |password: &str, statement: &str| {
        runtime.block_on(async {
            let session = SessionBuilder::new()
                .known_node(server.url())
                .user("cassandra", password);
            match session.build().await {
                Ok(session) => session.query_unpaged(statement, ()).await.is_ok(),
                Err(_) => false,
            }
        })
    };
    wait_for("the first user", DEADLINE, || says("cassandra", &alter));
    // The server remembers passwords for some seconds.
    let select = "SELECT key FROM system.local";
    wait_for("the password", DEADLINE, || says(CASSANDRA, select));
    server
}

/// All that the program shows while it runs, and what others are answered.
fn check_running(deployment: &Deployment, service: &mut Service, secrets: &[String]) {
    wait_for("an answer", DEADLINE, || {
        service.assert_runs();
        let asked = deployment.run("get", &["8", "1", "--json"], &[]);
        check_clean("get", &format!("{asked:?}"), secrets);
        asked.status == Some(0)
    });
    for (command, arguments) in [
        ("overview", &["8"][..]),
        ("explain", &["8", "1"]),
        ("lag", &[]),
        ("serve", &["--print-config"]),
    ] {
        let said = deployment.run(command, arguments, &[]);
        assert_eq!(said.status, Some(0), "{command}: {said:?}");
        assert!(!said.stdout.is_empty());
        check_clean(command, &format!("{said:?}"), secrets);
    }
    let event = r#"{"channelId":"1","messageCreated":{"messageId":"9","authorId":"7"}}"#;
    check_clean("publish", &deployment.publish(event.as_bytes()), secrets);
    // An error reply.
    let asked = deployment.run("get", &["0", "0"], &[]);
    assert_eq!(asked.status, Some(2));
    check_clean("an error", &asked.stderr, secrets);
    for page in ["/", "/metrics", "/healthz", "/readyz", "/nothing"] {
        check_clean(page, &service.page(page), secrets);
    }
    service.terminate();
    let log = service.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    check_clean("the log", &log, secrets);
}

#[test]
fn no_secret_gets_out_of_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (kafka, cassandra) = (kafka(), cassandra());
    let (operator, (public, seed)) = (Operator::new(), jwt::nkey());
    let credentials = operator.credentials();
    let parts = |text: &str| -> Vec<String> {
        let long = text
            .lines()
            .filter(|line| line.len() > 40 && !line.contains("---"));
        long.map(str::to_owned).collect()
    };
    let config = |name: &str, text: &str| format!("config={}", file(dir, name, text));
    let nkeys = format!("authorization {{ users: [ {{ nkey: {public} }} ] }}\n");
    let by_user = Nats::start_with(&["--user", "readstates", "--pass", NATS]);
    let by_nkey = Nats::start_with(&[&config("nkeys.conf", &nkeys)]);
    let by_jwt = Nats::start_with(&[&config("operator.conf", &operator.configuration())]);

    let base = Deployment {
        name: "secrets".to_owned(),
        brokers: kafka.url(),
        nats: by_user.url(),
        cassandra: cassandra.url(),
        partitions: 2,
        settings: vec![
            ("log.level", "trace".to_owned()),
            (
                "stream.kafka.properties.security.protocol",
                "SASL_PLAINTEXT".to_owned(),
            ),
            (
                "stream.kafka.properties.sasl.mechanism",
                "SCRAM-SHA-256".to_owned(),
            ),
            ("stream.kafka.properties.sasl.username", "readstates".to_owned()),
            ("stream.kafka.properties.debug", "all".to_owned()),
            ("stream.kafka.password_file", file(dir, "kafka", KAFKA)),
            ("store.cassandra.username", "cassandra".to_owned()),
            ("store.cassandra.password_file", file(dir, "cassandra", CASSANDRA)),
        ],
    };
    let user = vec![
        ("nats.user", "readstates".to_owned()),
        ("nats.password_file", file(dir, "nats", NATS)),
    ];
    let nkey = vec![("nats.nkey_file", file(dir, "nkey", &seed))];
    let jwt = vec![("nats.credentials_file", file(dir, "creds", &credentials))];
    let everything = "trace,async_nats=trace,scylla=trace,rustls=trace,librdkafka=trace,rdkafka=trace";
    for (server, login, level) in [
        (&by_user, user.clone(), everything),
        (&by_nkey, nkey, "trace,hyper=trace"),
        (&by_jwt, jwt, everything),
    ] {
        let mut deployment = Deployment {
            nats: server.url(),
            ..base.clone()
        };
        deployment.settings.extend(login);
        deployment.settings.push(("log.level", level.to_owned()));
        let mut service = deployment.serve("it", &[]);
        let secrets = [parts(&credentials), vec![seed.clone()]].concat();
        check_running(&deployment, &mut service, &secrets);
    }

    // Each wrong.
    let wrong = file(dir, "wrong", WRONG);
    for key in [
        "stream.kafka.password_file",
        "store.cassandra.password_file",
        "nats.password_file",
    ] {
        let mut deployment = base.clone();
        deployment.settings.extend(user.clone());
        deployment.settings.push(("log.level", everything.to_owned()));
        deployment.settings.push((key, wrong.clone()));
        let mut service = deployment.serve("wrong", &[]);
        assert_eq!(
            service.wait_until_ended(DEADLINE).code(),
            Some(2),
            "{}",
            service.log_tail()
        );
        check_clean(key, &service.log(), &[]);
    }
    for key in [
        "nats.credentials_file",
        "nats.nkey_file",
        "nats.tls_key",
        "nats.tls_ca",
    ] {
        let mut deployment = base.clone();
        deployment.settings.push((key, wrong.clone()));
        let mut service = deployment.serve("wrong", &[]);
        assert_eq!(
            service.wait_until_ended(DEADLINE).code(),
            Some(2),
            "{}",
            service.log_tail()
        );
        check_clean(key, &service.log(), &[]);
    }
}

/// Where a secret stands in the place of something else, it is refused, and not shown.
#[test]
fn no_secret_gets_out_of_what_is_refused() {
    let deployment = Deployment {
        name: "misplaced".to_owned(),
        brokers: "127.0.0.1:1".to_owned(),
        nats: "nats://127.0.0.1:1".to_owned(),
        cassandra: "127.0.0.1:1".to_owned(),
        partitions: 2,
        settings: Vec::new(),
    };
    let (_, seed) = jwt::nkey();
    let in_url = format!("nats://user:{MISPLACED}@127.0.0.1:4222");
    for (name, value) in [
        ("stream.kafka.properties.sasl.password", MISPLACED),
        (
            "stream.kafka.properties",
            &format!("{{ \"sasl.password\" = \"{MISPLACED}\" }}"),
        ),
        (
            "stream.kafka.properties",
            &format!("{{ \"sasl.password\" = \"{MISPLACED}"),
        ),
        ("nats.password", MISPLACED),
        ("nats.pasword", MISPLACED),
        ("nats.token", MISPLACED),
        ("nats.credentials", MISPLACED),
        ("nats.seed", MISPLACED),
        ("store.cassandra.password", MISPLACED),
        ("nats.url", &in_url),
        ("nats.nkey_file", &seed),
        ("nats.nkey", &seed),
        (
            "stream.kafka.topic",
            &format!("-----BEGIN PRIVATE KEY----- {MISPLACED}"),
        ),
    ] {
        let ended = deployment.run_with("serve", &[], &[(name, value.to_owned())]);
        assert_eq!(ended.status, Some(2), "{name}: {ended:?}");
        check_clean(name, &format!("{ended:?}"), std::slice::from_ref(&seed));
    }
    // librdkafka knows nothing of these, and says so.
    for name in [
        "sasl.jaas.config",
        "sasl.pasword",
        "ssl.keystore.key",
        "ssl.truststore.password",
    ] {
        let key = format!("stream.kafka.properties.{name}");
        let ended = deployment.run_with("publish", &[], &[(key.as_str(), MISPLACED.to_owned())]);
        assert_eq!(ended.status, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(name), "{ended:?}");
        check_clean(name, &format!("{ended:?}"), &[]);
    }
}

/// What a panic or a log line could show is the debug form.
#[test]
fn no_secret_gets_out_of_a_debug_form() {
    let dir = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| (name.to_owned(), file(dir.path(), name, text));
    let mut flags = vec![
        secret("stream.kafka.password_file", KAFKA),
        secret("store.cassandra.password_file", CASSANDRA),
        secret("nats.password_file", NATS),
    ];
    for (name, value) in [
        ("store.cassandra.username", "somebody"),
        ("nats.user", "somebody"),
        ("stream.kafka.properties.ssl.key.password", MISPLACED),
        ("stream.kafka.properties.ssl.key.pem", MISPLACED),
    ] {
        flags.push((name.to_owned(), value.to_owned()));
    }
    let config = Config::load(&flags, None, std::iter::empty()).unwrap();
    let panic = std::panic::catch_unwind(|| panic!("{config:?} {config:#?}")).unwrap_err();
    let said = panic.downcast_ref::<String>().unwrap();
    assert!(said.contains("ssl.key.password"), "{said}");
    check_clean("a panic", said, &[]);
}
