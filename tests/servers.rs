//! Proves that the servers for tests do what their names say, since other tests take it for granted.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpStream;
use support::servers::{Cassandra, Kafka, Nats, Server};

/// Runs through the life of a server: it answers, it is gone after a kill and after a stop, and it comes back on its
/// address; paused, it is still there.
fn check(server: &mut Server) {
    let address = format!("127.0.0.1:{}", server.port());
    let url = server.url();
    assert!(url.ends_with(&address), "{url}");
    TcpStream::connect(&address).unwrap();
    server.kill9();
    assert!(TcpStream::connect(&address).is_err());
    server.restart();
    assert_eq!(server.url(), url);
    server.pause();
    assert!(server.running());
    server.resume();
    server.wait_ready();
    server.stop();
    assert!(!server.running() && TcpStream::connect(&address).is_err());
    assert!(!server.log_tail().is_empty());
    let dir = server.dir().to_path_buf();
    assert!(dir.join("data").is_dir());
}

#[test]
fn kafka_lives_and_dies() {
    check(&mut Kafka::start());
}

#[test]
fn cassandra_lives_and_dies() {
    check(&mut Cassandra::start());
}

#[test]
fn nats_lives_and_dies() {
    check(&mut Nats::start());
}
