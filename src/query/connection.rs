//! The connection to NATS.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use metrics::Counter;

use crate::config::{Login, Nats, NatsLogin, Tls, handshake_advice};

/// How many messages of one subscription may wait to be looked at; further ones are dropped and counted. They wait
/// for a moment only, since each is handed off or refused at once.
pub const SUBSCRIPTION_MESSAGES_MAX: usize = 4096;
/// Pauses between attempts to connect grow from this…
const RECONNECT_PAUSE_MS_FIRST: u64 = 50;
/// … to this.
const RECONNECT_PAUSE_MS_MAX: u64 = 5_000;
/// How often a server that hangs up is asked why, before it counts as away.
const FIRST_ATTEMPTS: u32 = 5;
/// How often one that was away at the start is asked whether it refuses us.
const REFUSED_INTERVAL: Duration = Duration::from_secs(1);
/// Attempts to connect, each some seconds after the other, that the log has one line for.
const FAILURES_BETWEEN_LINES: u32 = 100;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is gone without a word is noticed after three of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The connection can't be tried as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// What is configured is of no use.
    #[error("{0}")]
    Misconfigured(String),
    /// The server does not take the login.
    #[error("{0}")]
    Refused(String),
}

/// Connects and stays connected: at the start as later on it is tried for as long as it takes, and the log says so. The
/// client comes back at once; what is asked or published before there is a connection waits.
///
/// `dropped` counts the messages that came faster than they were looked at.
///
/// # Errors
/// If what is configured is of no use, or the server refuses it: what trying again does not cure.
pub async fn connect(nats: &Nats, dropped: Counter) -> Result<Client, ConnectError> {
    // One that retries by itself doesn't tell a server that refuses us from one that is away.
    match first_attempt(nats, || client_options(nats, &dropped)).await? {
        Attempt::Connected(client) => Ok(client),
        Attempt::Away(_) => client_options(nats, &dropped)?
            .retry_on_initial_connect()
            .connect(nats.urls.as_slice())
            .await
            .map_err(|error| ConnectError::Misconfigured(format!("nats.url {}: {error}", shown(&nats.urls)))),
    }
}

/// Returns if the server turns out to refuse us once it is there; never once `client` has been connected. An instance
/// that owned partitions and could not be asked would be worse than none.
pub async fn refused(nats: &Nats, client: &Client) -> ConnectError {
    while client.connection_state() != State::Connected {
        let attempt = first_attempt(nats, || plain_options(nats)).await;
        if let Err(refused) = attempt {
            return refused;
        }
        tokio::time::sleep(REFUSED_INTERVAL).await;
    }
    std::future::pending().await
}

/// What came of asking a server that may be away.
enum Attempt {
    Connected(Client),
    /// It is away, and how that showed.
    Away(String),
}

/// Connects, unless the server is away.
async fn first_attempt(
    nats: &Nats,
    options: impl Fn() -> Result<ConnectOptions, ConnectError>,
) -> Result<Attempt, ConnectError> {
    let mut why = String::new();
    for _ in 0..FIRST_ATTEMPTS {
        match options()?.connect(nats.urls.as_slice()).await {
            Ok(client) => return Ok(Attempt::Connected(client)),
            Err(error) => match refusal(nats, &error) {
                Some(refusal) => return Err(refusal.of(nats)),
                None => {
                    why = error.to_string();
                    if !is_broken_off(&error) {
                        break;
                    }
                }
            },
        }
    }
    Ok(Attempt::Away(why))
}

fn client_options(nats: &Nats, dropped: &Counter) -> Result<ConnectOptions, ConnectError> {
    Ok(plain_options(nats)?
        .max_reconnects(None)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .reconnect_delay_callback(reconnect_pause)
        .event_callback(on_event(
            shown(&nats.urls),
            login_advice(&nats.login),
            dropped.clone(),
        )))
}

fn plain_options(nats: &Nats) -> Result<ConnectOptions, ConnectError> {
    Ok(tls(login(ConnectOptions::new(), &nats.login)?, &nats.tls)
        .name("readstates")
        .connection_timeout(CONNECT_TIMEOUT))
}

/// What trying again does not cure, and which setting to change.
enum Refusal {
    Login(String),
    Other(String),
}

impl Refusal {
    fn of(self, nats: &Nats) -> ConnectError {
        let line = |why: &str| format!("nats.url {}: {why}", shown(&nats.urls));
        match self {
            Refusal::Login(why) => ConnectError::Refused(line(&why)),
            Refusal::Other(why) => ConnectError::Misconfigured(line(&why)),
        }
    }
}

/// Why the server will refuse us again; none if trying again can help.
fn refusal(nats: &Nats, error: &async_nats::ConnectError) -> Option<Refusal> {
    use ConnectErrorKind as K;
    if let Some(advice) = handshake_advice("nats", error) {
        return Some(Refusal::Other(advice));
    }
    let login = login_advice(&nats.login);
    match error.kind() {
        K::AuthorizationViolation | K::Authentication => {
            Some(Refusal::Login(format!("{}: {login}", error.kind())))
        }
        K::Tls => Some(Refusal::Other(format!(
            "{error}: check nats.tls_ca, nats.tls_cert and nats.tls_key"
        ))),
        K::ServerParse => Some(Refusal::Other(error.to_string())),
        K::Io => {
            let said = error.source()?.downcast_ref::<ServerError>()?.to_string();
            // All that async-nats has of them is the text: of accounts and users that have expired or were revoked.
            said.to_lowercase()
                .contains("authentication")
                .then(|| Refusal::Login(format!("{said}: {login}")))
        }
        K::Dns | K::TimedOut | K::MaxReconnects => None,
    }
}

/// Whether the server ended the connection. One that misses our certificate says so and hangs up, and what it said may
/// get lost.
fn is_broken_off(error: &async_nats::ConnectError) -> bool {
    use io::ErrorKind as K;
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| {
        matches!(
            cause.kind(),
            K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof
        )
    })
}

/// What to check where the server does not let us in.
fn login_advice(login: &NatsLogin) -> &'static str {
    match login {
        NatsLogin::Nobody => {
            "the server wants a login: set nats.user and nats.password_file, nats.nkey_file or nats.credentials_file"
        }
        NatsLogin::User(_) => {
            "the server does not take this login: check nats.user and what is in nats.password_file"
        }
        NatsLogin::Credentials(_) => {
            "the server does not take these credentials: check what is in nats.credentials_file, and that its user \
             and account are neither expired nor revoked"
        }
        NatsLogin::Nkey(_) => {
            "the server does not take this nkey: check that the seed in nats.nkey_file is that of a user it knows"
        }
    }
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
    /// The server does not take the login.
    #[error("{0}")]
    Refused(String),
}

impl From<ConnectError> for CannotConnect {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Misconfigured(why) => CannotConnect::Misconfigured(why),
            ConnectError::Refused(why) => CannotConnect::Refused(why),
        }
    }
}

/// Connects for someone who would rather know at once that there is no server than wait for it. A connection that is
/// lost later is made again.
///
/// # Errors
/// Which settings to look at.
pub async fn connect_once(nats: &Nats) -> Result<Client, CannotConnect> {
    let options = || {
        let options = plain_options(nats)?;
        Ok(options
            .max_reconnects(None)
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX))
    };
    match first_attempt(nats, options).await {
        Ok(Attempt::Connected(client)) => Ok(client),
        Ok(Attempt::Away(why)) => Err(CannotConnect::Unreachable(format!(
            "nats.url {} can't be reached ({why}): is nats-server up, and is this its address?",
            shown(&nats.urls)
        ))),
        Err(refused) => Err(refused.into()),
    }
}

fn login(connect: ConnectOptions, login: &NatsLogin) -> Result<ConnectOptions, ConnectError> {
    match login {
        NatsLogin::Nobody => Ok(connect),
        NatsLogin::User(Login { user, password }) => {
            Ok(connect.user_and_password(user.clone(), password.reveal().to_owned()))
        }
        NatsLogin::Credentials(credentials) => {
            // async-nats wants an end of line after the last one.
            let text = format!("{}\n", credentials.reveal());
            connect.credentials(&text).map_err(|error| {
                ConnectError::Misconfigured(format!(
                    "nats.credentials_file: {error}: a file as `nsc generate creds` makes it is needed"
                ))
            })
        }
        NatsLogin::Nkey(seed) => {
            // Tools write comments around it.
            let mut lines = seed.reveal().lines().map(str::trim);
            let seed = lines.find(|line| line.starts_with('S')).ok_or_else(|| {
                ConnectError::Misconfigured(
                    "nats.nkey_file: there is no line with a seed, which begins with S".to_owned(),
                )
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

fn on_event(
    url: String,
    login_advice: &'static str,
    dropped: Counter,
) -> impl Fn(Event) -> Ready + Send + Sync + 'static {
    let (failures, complaints) = (AtomicU32::new(0), AtomicU32::new(0));
    // All that async-nats tells of the cause, once it tries by itself.
    let refused = ConnectErrorKind::AuthorizationViolation.to_string();
    move |event| {
        match event {
            Event::SlowConsumer(_) => dropped.increment(1),
            Event::Connected => {
                failures.store(0, Ordering::Relaxed);
                tracing::info!(url, "connected to NATS");
            }
            Event::Disconnected => tracing::warn!(url, "the connection to NATS is lost, connecting again"),
            Event::ClientError(error) => {
                // Once, and then rarely: it is tried every few seconds for as long as it takes.
                let failed = failures.fetch_add(1, Ordering::Relaxed) + 1;
                if failed % FAILURES_BETWEEN_LINES == 1 {
                    match &error {
                        ClientError::Other(said) if *said == refused => {
                            tracing::warn!(url, failed, "{error}: {login_advice}; trying on");
                        }
                        _ => tracing::warn!(
                            url,
                            failed,
                            "NATS can't be reached ({error}): start it, or correct nats.url; trying again until it is there"
                        ),
                    }
                }
            }
            Event::ServerError(error) => {
                // Rarer and rarer too: a caller may make the server complain as often as it likes.
                let complaints = complaints.fetch_add(1, Ordering::Relaxed) + 1;
                if complaints.is_power_of_two() {
                    tracing::warn!(
                        url,
                        complaints,
                        "NATS says: {error} (deploy/nats has the permissions that this program needs)"
                    );
                }
            }
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
