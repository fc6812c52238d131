//! The connection to NATS.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use metrics::Counter;

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

/// Where NATS is and who we are there.
#[derive(Clone, Default)]
pub struct NatsOptions {
    /// `nats://host:port` or `tls://host:port`, several separated by commas.
    pub url: String,
    /// A credentials file.
    pub credentials_file: Option<PathBuf>,
    /// A user, with its password.
    pub user: Option<String>,
    /// The password: a secret.
    pub password: Option<String>,
    /// A file with the seed of an nkey.
    pub nkey_file: Option<PathBuf>,
    /// Whom to trust, in PEM.
    pub tls_ca: Option<PathBuf>,
    /// Our certificate, in PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    pub tls_key: Option<PathBuf>,
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("url", &without_secrets(&self.url))
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

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
/// If a file can't be read or the url is none: what trying again does not cure.
pub async fn connect(options: &NatsOptions, dropped: Counter) -> Result<Client, ConnectError> {
    let servers: Vec<&str> = options.url.split(',').map(str::trim).collect();
    let shown = without_secrets(&options.url);
    let connect = tls(identity(ConnectOptions::new(), options)?, options)
        .name("readstates")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .reconnect_delay_callback(reconnect_pause)
        .event_callback(on_event(shown.clone(), dropped));
    connect
        .connect(servers)
        .await
        .map_err(|error| ConnectError(format!("nats.url {shown:?}: {error}")))
}

fn identity(connect: ConnectOptions, options: &NatsOptions) -> Result<ConnectOptions, ConnectError> {
    if let Some(file) = &options.credentials_file {
        let credentials = read("nats.credentials_file", file)?;
        return connect.credentials(&credentials).map_err(|error| {
            ConnectError(format!(
                "nats.credentials_file {}: {error}: a file made by `nsc generate creds` is needed",
                file.display()
            ))
        });
    }
    if let Some(file) = &options.nkey_file {
        let text = read("nats.nkey_file", file)?;
        // Tools write comments around it.
        let seed = text
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with('S'))
            .ok_or_else(|| {
                ConnectError(format!(
                    "nats.nkey_file {}: no line with a seed, which begins with S",
                    file.display()
                ))
            })?;
        return Ok(connect.nkey(seed.to_owned()));
    }
    Ok(match (&options.user, &options.password) {
        (Some(user), password) => {
            connect.user_and_password(user.clone(), password.clone().unwrap_or_default())
        }
        (None, _) => connect,
    })
}

fn tls(mut connect: ConnectOptions, options: &NatsOptions) -> ConnectOptions {
    if let Some(ca) = &options.tls_ca {
        connect = connect.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) {
        connect = connect
            .add_client_certificate(cert.clone(), key.clone())
            .require_tls(true);
    }
    connect
}

fn read(key: &str, file: &Path) -> Result<String, ConnectError> {
    std::fs::read_to_string(file)
        .map_err(|error| ConnectError(format!("{key} {} can't be read: {error}", file.display())))
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

/// The url as it may be shown: without user, password or token.
fn without_secrets(url: &str) -> String {
    let one = |url: &str| match url.rsplit_once('@') {
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://{host}"),
            None => host.to_owned(),
        },
        None => url.to_owned(),
    };
    url.split(',')
        .map(|url| one(url.trim()))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_urls_are_not_shown() {
        let options = NatsOptions {
            url: "nats://bob:pa@ss@one:4222, token@two,tls://three".to_owned(),
            password: Some("hunter2".to_owned()),
            ..NatsOptions::default()
        };
        assert_eq!(without_secrets(&options.url), "nats://one:4222,two,tls://three");
        let shown = format!("{options:?}");
        assert!(
            !shown.contains("pa@ss") && !shown.contains("token") && !shown.contains("hunter2"),
            "{shown}"
        );
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
