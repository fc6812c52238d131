//! The connection to NATS.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use metrics::Counter;

use crate::config::{Login, Nats, NatsLogin, Tls};

/// How many messages of one subscription may wait to be looked at; further ones are dropped and counted. They wait
/// for a moment only, since each is handed off or refused at once.
pub const SUBSCRIPTION_MESSAGES_MAX: usize = 4096;
/// Pauses between attempts to connect grow from this…
const RECONNECT_PAUSE_MS_FIRST: u64 = 50;
/// … to this.
const RECONNECT_PAUSE_MS_MAX: u64 = 5_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is gone without a word is noticed after three of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The connection can't be tried as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(String);

/// Connects and stays connected: at the start as later on it is tried for as long as it takes, and the log says so. The
/// client comes back at once; what is asked or published before there is a connection waits.
///
/// `dropped` counts the messages that came faster than they were looked at.
///
/// # Errors
/// If what is configured is of no use: what trying again does not cure.
pub async fn connect(nats: &Nats, dropped: Counter) -> Result<Client, ConnectError> {
    let shown = shown(&nats.urls);
    tls(login(ConnectOptions::new(), &nats.login)?, &nats.tls)
        .name("readstates")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .reconnect_delay_callback(reconnect_pause)
        .event_callback(on_event(shown.clone(), dropped))
        .connect(nats.urls.as_slice())
        .await
        .map_err(|error| ConnectError(format!("nats.url {shown}: {error}")))
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum CannotConnect {
    /// Trying again can help.
    #[error("{0}")]
    Unreachable(String),
    /// Something has to be changed first.
    #[error("{0}")]
    Misconfigured(String),
}

/// Connects for someone who would rather know at once that there is no server than wait for it. A connection that is
/// lost later is made again.
///
/// # Errors
/// Which settings to look at.
pub async fn connect_once(nats: &Nats) -> Result<Client, CannotConnect> {
    let misconfigured = |error: ConnectError| CannotConnect::Misconfigured(error.to_string());
    let options = login(ConnectOptions::new(), &nats.login).map_err(misconfigured)?;
    let connecting = tls(options, &nats.tls)
        .name("readstates")
        .max_reconnects(None)
        .connection_timeout(CONNECT_TIMEOUT)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .connect(nats.urls.as_slice());
    let shown = shown(&nats.urls);
    connecting.await.map_err(|error| match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            CannotConnect::Misconfigured(format!(
                "nats.url {shown} does not let us in ({error}): check nats.user and nats.password_file, \
                 nats.credentials_file or nats.nkey_file"
            ))
        }
        _ => CannotConnect::Unreachable(format!(
            "nats.url {shown} can't be reached ({error}): is nats-server up, and is this its address?"
        )),
    })
}

fn login(connect: ConnectOptions, login: &NatsLogin) -> Result<ConnectOptions, ConnectError> {
    match login {
        NatsLogin::Nobody => Ok(connect),
        NatsLogin::User(Login { user, password }) => {
            Ok(connect.user_and_password(user.clone(), password.reveal().to_owned()))
        }
        NatsLogin::Credentials(credentials) => connect.credentials(credentials.reveal()).map_err(|error| {
            ConnectError(format!(
                "nats.credentials_file: {error}: a file as `nsc generate creds` makes it is needed"
            ))
        }),
        NatsLogin::Nkey(seed) => {
            // Tools write comments around it.
            let mut lines = seed.reveal().lines().map(str::trim);
            let seed = lines.find(|line| line.starts_with('S')).ok_or_else(|| {
                ConnectError("nats.nkey_file: there is no line with a seed, which begins with S".to_owned())
            })?;
            Ok(connect.nkey(seed.to_owned()))
        }
    }
}

fn tls(mut connect: ConnectOptions, files: &Tls) -> ConnectOptions {
    if let Some(ca) = &files.ca {
        connect = connect.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&files.cert, &files.key) {
        connect = connect.add_client_certificate(cert.clone(), key.clone());
    }
    if files.is_set() {
        connect = connect.require_tls(true);
    }
    connect
}

fn reconnect_pause(attempts: usize) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16) as u32;
    let pause_ms = match attempts {
        0 | 1 => 0,
        _ => RECONNECT_PAUSE_MS_FIRST << (doublings - 1),
    };
    Duration::from_millis(pause_ms.min(RECONNECT_PAUSE_MS_MAX))
}

type Ready = std::future::Ready<()>;

fn on_event(url: String, dropped: Counter) -> impl Fn(Event) -> Ready + Send + Sync + 'static {
    let failures = Arc::new(AtomicU32::new(0));
    move |event| {
        match event {
            Event::SlowConsumer(_) => dropped.increment(1),
            Event::Connected => {
                failures.store(0, Ordering::Relaxed);
                tracing::info!(url, "connected to NATS");
            }
            Event::Disconnected => tracing::warn!(url, "the connection to NATS is lost, connecting again"),
            Event::ClientError(error) => {
                // Rarer and rarer: it is tried every few seconds for as long as it takes.
                let failed = failures.fetch_add(1, Ordering::Relaxed) + 1;
                if failed.is_power_of_two() {
                    tracing::warn!(url, failed, "NATS can't be reached, trying on: {error}");
                }
            }
            Event::ServerError(error) => tracing::warn!(url, "NATS says: {error}"),
            Event::LameDuckMode => tracing::info!(url, "the NATS server is about to stop"),
            Event::Draining | Event::Closed => {}
        }
        std::future::ready(())
    }
}

/// The urls as they may be shown: without user, password or token.
fn shown(urls: &[String]) -> String {
    let one = |url: &String| match url.rsplit_once('@') {
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://{host}"),
            None => host.to_owned(),
        },
        None => url.clone(),
    };
    urls.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_urls_are_not_shown() {
        let urls = ["nats://bob:pa@ss@one:4222", "token@two", "tls://three"].map(str::to_owned);
        assert_eq!(shown(&urls), "nats://one:4222, two, tls://three");
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let pauses: Vec<_> = [0, 1, 2, 3, 4, 8, 9, 1_000_000]
            .into_iter()
            .map(|attempts| reconnect_pause(attempts).as_millis())
            .collect();
        assert_eq!(pauses, [0, 0, 50, 100, 200, 3200, 5000, 5000]);
    }
}
