//! Proves with the program as processes that it gets through the TLS and the logins of real servers that insist on them,
//! from an event that is published to a count that is answered; and that with anything wrong about them it ends with
//! status 2 and one line that names the setting and shows no secret, but waits where a server is only away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::certificates::{Authority, STORE_PASSWORD};
use support::jwt::{self, Operator};
use support::servers::{Cassandra, Kafka, Nats, wait_for};
use support::service::{Deployment, Service};

/// For whatever needs servers to start and a busy machine to get to it.
const DEADLINE: Duration = Duration::from_secs(180);

const PASSWORD: &str = "open-sesame-4711";
const WRONG_PASSWORD: &str = "open-barley-0815";

type Settings = Vec<(&'static str, String)>;

/// A deployment on servers that want nothing.
fn plain(name: &str) -> Deployment {
    static SERVERS: OnceLock<(Kafka, Cassandra, Nats)> = OnceLock::new();
    let (kafka, cassandra, nats) =
        SERVERS.get_or_init(|| (Kafka::start(), Cassandra::start(), Nats::start()));
    Deployment {
        name: name.to_owned(),
        brokers: kafka.url(),
        nats: nats.url(),
        cassandra: cassandra.url(),
        partitions: 2,
        settings: Vec::new(),
    }
}

fn with(deployment: &Deployment, settings: &Settings) -> Deployment {
    let mut deployment = deployment.clone();
    deployment.settings.extend(settings.iter().cloned());
    deployment
}

/// Writes a file, and returns its path.
fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    shown(&path)
}

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Asks for a count by the command.
fn count(deployment: &Deployment, channel: u64) -> Option<u64> {
    let asked = deployment.run("get", &["8", &channel.to_string(), "--json"], &[]);
    let reply: serde_json::Value = serde_json::from_str(&asked.stdout).ok()?;
    reply["readStates"][0]["unreadCount"].as_u64()
}

/// An event goes in by one command, and the count that follows comes out by another.
fn check_answers(deployment: &Deployment, service: &mut Service) {
    static CHANNEL: AtomicU64 = AtomicU64::new(1);
    let channel = CHANNEL.fetch_add(1, Ordering::Relaxed);
    let mut wait_until = |counted| {
        wait_for(&format!("{counted} in channel {channel}"), DEADLINE, || {
            service.assert_runs();
            count(deployment, channel) == Some(counted)
        });
    };
    wait_until(0);
    let event = format!(r#"{{"channelId":"{channel}","messageCreated":{{"messageId":"9","authorId":"7"}}}}"#);
    deployment.publish(event.as_bytes());
    wait_until(1);
}

fn check_works(deployment: &Deployment) {
    let mut service = deployment.serve("welcome", &[]);
    check_answers(deployment, &mut service);
    assert_eq!(service.terminate().code(), Some(0), "{}", service.log_tail());
    check_silent(&service.log());
}

/// Ends with status 2 and a single line beside those that tell of progress, which says all of `said`.
fn check_refused(deployment: &Deployment, said: &[&str]) {
    let mut service = deployment.serve("refused", &[]);
    let status = service.wait_until_ended(DEADLINE);
    check_one_line(status.code(), &service.log(), said);
}

/// Says it, and ends with status 2 or tries on.
fn check_told(deployment: &Deployment, said: &str) {
    let service = deployment.serve("told", &[]);
    wait_for(said, DEADLINE, || service.log().contains(said));
    check_silent(&service.log());
}

/// The same of a command.
fn check_command_refused(deployment: &Deployment, command: &str, arguments: &[&str], said: &[&str]) {
    let ended = deployment.run(command, arguments, &[]);
    check_one_line(ended.status, &ended.stderr, said);
}

fn check_one_line(code: Option<i32>, log: &str, said: &[&str]) {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains(" INFO ")).collect();
    println!("{}", lines.join("\n"));
    assert_eq!((code, lines.len()), (Some(2), 1), "{log}");
    for said in said {
        assert!(lines[0].contains(said), "{said:?} is not in: {log}");
    }
    check_silent(log);
}

/// No secret of these tests is in the log.
fn check_silent(log: &str) {
    for secret in [
        PASSWORD,
        WRONG_PASSWORD,
        STORE_PASSWORD,
        "SUA",
        "PRIVATE KEY",
        "eyJ",
    ] {
        assert!(!log.contains(secret), "{secret} is in: {log}");
    }
}

#[test]
fn nats_with_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (
        Authority::new(dir.path(), "ours"),
        Authority::new(dir.path(), "other"),
    );
    let (node, client, stranger) = (ours.issue("node"), ours.issue("client"), other.issue("stranger"));
    let base = plain("natstls");
    let trust = |authority: &Authority| ("nats.tls_ca", shown(&authority.pem));

    let (cert, key) = (shown(&node.pem), shown(&node.key));
    let server = Nats::start_with(&["--tls", "--tlscert", &cert, "--tlskey", &key]);
    let on_tls = Deployment {
        nats: server.url(),
        ..base.clone()
    };
    check_works(&with(&on_tls, &vec![trust(&ours)]));
    let by_url = Deployment {
        nats: server.url().replace("nats://", "tls://"),
        ..base.clone()
    };
    check_works(&with(&by_url, &vec![trust(&ours)]));
    check_refused(
        &with(&on_tls, &vec![trust(&other)]),
        &["nats.tls_ca", &server.url()],
    );
    check_refused(&on_tls, &["nats.tls_ca"]);
    check_command_refused(&on_tls, "get", &["8", "1"], &["nats.tls_ca"]);
    check_refused(
        &with(&base, &vec![trust(&ours)]),
        &["does not speak TLS", "nats.tls_ca"],
    );

    let ca = shown(&ours.pem);
    let arguments = [
        "--tlsverify",
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
        "--tlscacert",
        &ca,
    ];
    let server = Nats::start_with(&arguments);
    let on_certificates = Deployment {
        nats: server.url(),
        ..base
    };
    let identity = |certificate: &support::certificates::Certificate| {
        vec![
            trust(&ours),
            ("nats.tls_cert", shown(&certificate.pem)),
            ("nats.tls_key", shown(&certificate.key)),
        ]
    };
    check_works(&with(&on_certificates, &identity(&client)));
    let no_certificate = vec![trust(&ours)];
    check_refused(
        &with(&on_certificates, &no_certificate),
        &["nats.tls_cert", "nats.tls_key"],
    );
    check_refused(&with(&on_certificates, &identity(&stranger)), &["nats.tls_cert"]);
    let mut mixed = identity(&client);
    mixed[2].1 = shown(&stranger.key);
    check_refused(&with(&on_certificates, &mixed), &["nats.tls_key"]);
    let mut no_key = identity(&client);
    no_key[2].1 = shown(&client.pem);
    check_refused(
        &with(&on_certificates, &no_key),
        &["nats.tls_key", "no private key"],
    );
}

#[test]
fn nats_with_user_and_password() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Nats::start_with(&["--user", "readstates", "--pass", PASSWORD]);
    let base = Deployment {
        nats: server.url(),
        ..plain("natsuser")
    };
    let login = |password: &str| {
        vec![
            ("nats.user", "readstates".to_owned()),
            (
                "nats.password_file",
                file(dir.path(), password, &format!("{password}\n")),
            ),
        ]
    };
    let (right, wrong) = (with(&base, &login(PASSWORD)), with(&base, &login(WRONG_PASSWORD)));
    check_works(&right);
    check_refused(&wrong, &["nats.user", "nats.password_file", &server.url()]);
    check_refused(&base, &["nats.user", "wants a login"]);
    check_command_refused(&wrong, "get", &["8", "1"], &["nats.password_file"]);

    // One that is away is waited for, until it is there and refuses us: who can't be asked must not own partitions.
    server.stop();
    let (mut waiting, mut refused) = (right.serve("waiting", &[]), wrong.serve("refused", &[]));
    for service in [&waiting, &refused] {
        wait_for("the line", DEADLINE, || {
            service.log().contains("NATS can't be reached")
        });
    }
    server.restart();
    assert_eq!(refused.wait_until_ended(DEADLINE).code(), Some(2));
    let said = refused.log();
    let why = |line: &&str| line.contains(" ERROR ") && line.contains("nats.password_file");
    assert_eq!(said.lines().filter(why).count(), 1, "{said}");
    check_silent(&said);
    check_answers(&right, &mut waiting);
}

#[test]
fn nats_with_nkeys_and_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let base = plain("natskeys");
    let ((public, seed), (_, other_seed)) = (jwt::nkey(), jwt::nkey());
    let config = format!("authorization {{ users: [ {{ nkey: {public} }} ] }}\n");
    let config = file(dir.path(), "nkeys.conf", &config);
    let server = Nats::start_with(&[&format!("config={config}")]);
    let on_nkeys = Deployment {
        nats: server.url(),
        ..base.clone()
    };
    let nkey = |name: &str, text: &str| vec![("nats.nkey_file", file(dir.path(), name, text))];
    let good = with(
        &on_nkeys,
        &nkey("good.nk", &format!("# of the service\n{seed}\n")),
    );
    check_works(&good);
    for (name, text) in [
        ("other.nk", other_seed.as_str()),
        ("no.nk", "nothing"),
        ("bad.nk", "SUABCDEFG"),
    ] {
        check_refused(&with(&on_nkeys, &nkey(name, text)), &["nats.nkey_file"]);
    }

    let operator = Operator::new();
    let config = file(dir.path(), "operator.conf", &operator.configuration());
    let server = Nats::start_with(&[&format!("config={config}")]);
    let on_jwt = Deployment {
        nats: server.url(),
        ..base
    };
    let credentials = |name: &str, text: &str| vec![("nats.credentials_file", file(dir.path(), name, text))];
    check_works(&with(
        &on_jwt,
        &credentials("good.creds", &operator.credentials()),
    ));
    for (name, text) in [
        ("other.creds", Operator::new().credentials().as_str()),
        ("no.creds", "nothing"),
    ] {
        check_refused(
            &with(&on_jwt, &credentials(name, text)),
            &["nats.credentials_file"],
        );
    }
}

/// Arguments for a broker whose only listener for clients is of this protocol and wants SCRAM.
fn scram_broker(protocol: &str) -> Vec<String> {
    let mut arguments = vec![
        format!("listeners={protocol}://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{port2}}"),
        format!("advertised.listeners={protocol}://127.0.0.1:{{port}}"),
        format!("inter.broker.listener.name={protocol}"),
        format!("listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocol}:{protocol}"),
        "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512".to_owned(),
        "sasl.mechanism.inter.broker.protocol=SCRAM-SHA-256".to_owned(),
    ];
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let listener = format!("{}.{}", protocol.to_lowercase(), mechanism.to_lowercase());
        arguments.push(format!(
            "listener.name.{listener}.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule \
             required username=\"readstates\" password=\"{PASSWORD}\";"
        ));
        arguments.push(format!(
            "--add-scram={mechanism}=[name=readstates,password={PASSWORD}]"
        ));
    }
    arguments
}

fn start_kafka(arguments: &[String]) -> Kafka {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The script that waits for it speaks neither SASL nor TLS. The program waits as well.
    Kafka::start_unready(&arguments)
}

fn scram(dir: &Path, protocol: &str, mechanism: &str, password: &str) -> Settings {
    vec![
        ("stream.kafka.properties.security.protocol", protocol.to_owned()),
        ("stream.kafka.properties.sasl.mechanism", mechanism.to_owned()),
        ("stream.kafka.properties.sasl.username", "readstates".to_owned()),
        ("stream.kafka.password_file", file(dir, password, password)),
    ]
}

#[test]
fn kafka_with_sasl() {
    let dir = tempfile::tempdir().unwrap();
    let base = plain("sasl");
    let server = start_kafka(&scram_broker("SASL_PLAINTEXT"));
    let base = Deployment {
        brokers: server.url(),
        ..base
    };
    let login = |mechanism, password| with(&base, &scram(dir.path(), "SASL_PLAINTEXT", mechanism, password));
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        check_works(&login(mechanism, PASSWORD));
        let wrong = login(mechanism, WRONG_PASSWORD);
        check_refused(&wrong, &["stream.kafka.password_file", &server.url()]);
    }
    let wrong = login("SCRAM-SHA-256", WRONG_PASSWORD);
    check_command_refused(&wrong, "publish", &[], &["stream.kafka.password_file"]);
    let unknown = login("PLAIN", PASSWORD);
    check_refused(&unknown, &["stream.kafka.properties", "sasl"]);

    // A broker that hangs up on who speaks without SASL may only be starting.
    let mut without = base.serve("without", &[]);
    wait_for("the line", DEADLINE, || {
        without.log().contains("stream.kafka.properties")
    });
    without.assert_runs();
}

#[test]
fn kafka_with_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (
        Authority::new(dir.path(), "ours"),
        Authority::new(dir.path(), "other"),
    );
    let (node, client, stranger) = (ours.issue("node"), ours.issue("client"), other.issue("stranger"));
    let base = plain("saslssl");
    let mut arguments = scram_broker("SASL_SSL");
    arguments.extend([
        format!("ssl.keystore.location={}", node.store.display()),
        "ssl.keystore.type=PKCS12".to_owned(),
        format!("ssl.keystore.password={STORE_PASSWORD}"),
        format!("ssl.key.password={STORE_PASSWORD}"),
        format!("ssl.truststore.location={}", ours.trust_store().display()),
        "ssl.truststore.type=PKCS12".to_owned(),
        format!("ssl.truststore.password={STORE_PASSWORD}"),
        "listener.name.sasl_ssl.ssl.client.auth=required".to_owned(),
    ]);
    let server = start_kafka(&arguments);
    let base = Deployment {
        brokers: server.url(),
        ..base
    };
    let settings =
        |password, authority: &Authority, certificate: Option<&support::certificates::Certificate>| {
            let mut settings = scram(dir.path(), "SASL_SSL", "SCRAM-SHA-512", password);
            settings.push(("stream.kafka.properties.ssl.ca.location", shown(&authority.pem)));
            if let Some(certificate) = certificate {
                let location = "stream.kafka.properties.ssl.certificate.location";
                settings.push((location, shown(&certificate.pem)));
                settings.push((
                    "stream.kafka.properties.ssl.key.location",
                    shown(&certificate.key),
                ));
            }
            with(&base, &settings)
        };
    check_works(&settings(PASSWORD, &ours, Some(&client)));
    let wrong_password = settings(WRONG_PASSWORD, &ours, Some(&client));
    check_refused(&wrong_password, &["stream.kafka.password_file"]);
    for wrong in [
        settings(PASSWORD, &other, Some(&client)),
        settings(PASSWORD, &other, None),
    ] {
        check_refused(&wrong, &["stream.kafka.properties", "ssl.*"]);
    }
    // A broker that misses a certificate says so and hangs up, and what it said may get lost.
    for wrong in [
        settings(PASSWORD, &ours, None),
        settings(PASSWORD, &ours, Some(&stranger)),
    ] {
        check_told(&wrong, "stream.kafka.properties");
    }
    check_command_refused(&settings(PASSWORD, &other, None), "publish", &[], &["ssl.*"]);
}

#[test]
fn cassandra_with_tls_and_password() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (
        Authority::new(dir.path(), "ours"),
        Authority::new(dir.path(), "other"),
    );
    let (node, client, stranger) = (ours.issue("node"), ours.issue("client"), other.issue("stranger"));
    let base = plain("cql");
    let tls = format!(
        "client_encryption_options={{enabled: true, require_client_auth: true, store_type: PKCS12, keystore: {}, \
         truststore: {}, keystore_password: {STORE_PASSWORD}, truststore_password: {STORE_PASSWORD}}}",
        node.store.display(),
        ours.trust_store().display()
    );
    let server = Cassandra::start_unready(&[&tls, "authenticator=PasswordAuthenticator"]);
    let base = Deployment {
        cassandra: server.url(),
        ..base
    };
    let settings =
        |password: &str, authority: &Authority, certificate: Option<&support::certificates::Certificate>| {
            let mut settings = vec![
                ("store.cassandra.tls_ca", shown(&authority.pem)),
                ("store.cassandra.username", "cassandra".to_owned()),
                (
                    "store.cassandra.password_file",
                    file(dir.path(), password, password),
                ),
            ];
            if let Some(certificate) = certificate {
                settings.push(("store.cassandra.tls_cert", shown(&certificate.pem)));
                settings.push(("store.cassandra.tls_key", shown(&certificate.key)));
            }
            with(&base, &settings)
        };
    // Its first user, whose password is its name, is only there some seconds after it answers.
    let right = settings("cassandra", &ours, Some(&client));
    wait_for("the first user", DEADLINE, || {
        let log = fs::read_to_string(server.dir().join("server.log")).unwrap_or_default();
        log.contains("Created default superuser")
    });
    check_works(&right);
    let wrong = settings(WRONG_PASSWORD, &ours, Some(&client));
    check_refused(
        &wrong,
        &["store.cassandra.username", "password_file", &server.url()],
    );
    let untrusted = settings("cassandra", &other, Some(&client));
    check_refused(&untrusted, &["store.cassandra.tls_ca"]);
    // Java's word for a certificate of strangers is an internal error, which may pass.
    for certificate in [None, Some(&stranger)] {
        check_told(
            &settings("cassandra", &ours, certificate),
            "store.cassandra.tls_cert",
        );
    }
    check_told(&base, "store.cassandra.tls_ca");
}
