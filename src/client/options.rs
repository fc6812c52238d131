//! How to get at the service.

use std::path::PathBuf;
use std::time::Duration;

use super::CannotConnect;
use crate::config::{Login, Nats, NatsLogin, Secret, Tls, is_nats_url};
use crate::wire::headers::TIMEOUT_DEFAULT_MS;

/// What subjects begin with, unless it is said otherwise.
const SUBJECT_PREFIX: &str = "readstates";

/// How to connect to NATS, and how long to wait for answers.
///
/// ```
/// use std::time::Duration;
/// use readstates::client::Options;
///
/// let options = Options::new("nats://one:4222,nats://two:4222")
///     .user_and_password("gateway", "secret")
///     .timeout(Duration::from_millis(500));
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    nats: Nats,
    /// Read when it is connected.
    file: Option<LoginFile>,
    pub(super) timeout: Duration,
}

#[derive(Clone, Debug)]
enum LoginFile {
    Credentials(PathBuf),
    Nkey(PathBuf),
}

impl Options {
    /// Without a login, to `nats://host:port` or `tls://host:port`, several with commas.
    pub fn new(urls: &str) -> Self {
        Options::from(&Nats {
            urls: urls.split(',').map(|url| url.trim().to_owned()).collect(),
            subject_prefix: SUBJECT_PREFIX.to_owned(),
            login: NatsLogin::Nobody,
            tls: Tls::default(),
        })
    }

    /// `nats.subject_prefix` of the service; `readstates` by default.
    pub fn subject_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.nats.subject_prefix = prefix.into();
        self
    }

    /// Logs in by user and password.
    pub fn user_and_password(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.nats.login = NatsLogin::User(Login {
            user: user.into(),
            password: Secret::from(password.into()),
        });
        self
    }

    /// Logs in by a credentials file, as `nsc generate creds` makes it.
    pub fn credentials_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(LoginFile::Credentials(path.into()));
        self
    }

    /// Logs in by an nkey, whose seed is in this file.
    pub fn nkey_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(LoginFile::Nkey(path.into()));
        self
    }

    /// Connects by TLS and trusts the CAs in this PEM file, in place of those of the system.
    pub fn tls_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.nats.tls.ca = Some(path.into());
        self
    }

    /// Connects by TLS with a client certificate, two PEM files.
    pub fn tls_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.nats.tls.cert = Some(certificate.into());
        self.nats.tls.key = Some(key.into());
        self
    }

    /// How long to wait for an answer where a question does not say it itself, attempts and pauses together; 2 s by
    /// default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With the secrets that are in files.
    pub(super) fn nats(&self) -> Result<Nats, CannotConnect> {
        let wrong = self.nats.urls.iter().find(|url| !is_nats_url(url));
        if wrong.is_some() {
            // What is in it may be a password.
            return Err(CannotConnect::Misconfigured(
                "nats.url must be nats://host:port or tls://host:port, several with commas, without user and password"
                    .to_owned(),
            ));
        }
        let mut nats = self.nats.clone();
        let read = |path: &PathBuf| {
            Secret::read(path)
                .map_err(|why| CannotConnect::Misconfigured(format!("{}: {why}", path.display())))
        };
        match &self.file {
            None => {}
            Some(LoginFile::Credentials(path)) => nats.login = NatsLogin::Credentials(read(path)?),
            Some(LoginFile::Nkey(path)) => nats.login = NatsLogin::Nkey(read(path)?),
        }
        Ok(nats)
    }
}

impl From<&Nats> for Options {
    /// As configured for the service, with the default timeout.
    fn from(nats: &Nats) -> Self {
        Options {
            nats: nats.clone(),
            file: None,
            timeout: Duration::from_millis(TIMEOUT_DEFAULT_MS),
        }
    }
}

impl Default for Options {
    /// The nats-server of this machine.
    fn default() -> Self {
        Options::new("nats://127.0.0.1:4222")
    }
}
