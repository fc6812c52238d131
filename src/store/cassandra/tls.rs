//! TLS by PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::CassandraConfig;
use super::connect::ConnectError;

/// What TLS needs, or nothing where it is off.
pub(super) fn context(config: &CassandraConfig) -> Result<Option<Arc<ClientConfig>>, ConnectError> {
    let wrong = |line: &str| Err(ConnectError::Final(format!("store.cassandra: {line}")));
    let identity = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return wrong("tls_cert and tls_key belong together: give both or none"),
    };
    let Some(ca) = &config.tls_ca else {
        return match identity {
            None => Ok(None),
            Some(_) => {
                wrong("tls_cert needs tls_ca: name the PEM file of who signed the nodes' certificates")
            }
        };
    };

    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls_ca", ca)? {
        roots
            .add(certificate)
            .map_err(|error| unusable("tls_ca", ca, error))?;
    }
    // The provider is named, so that it does not matter which other parts of the program use TLS, and how.
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("tls_ca", ca, error))?
        .with_root_certificates(roots);
    let context = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let private =
                PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("tls_key", key, error))?;
            let chain = certificates("tls_cert", cert)?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| unusable("tls_cert", cert, error))?
        }
    };
    Ok(Some(Arc::new(context)))
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    let found = found.map_err(|error| unusable(setting, path, error))?;
    if found.is_empty() {
        return Err(unusable(setting, path, "it has no certificate in PEM form"));
    }
    Ok(found)
}

fn unusable(setting: &str, path: &Path, error: impl std::fmt::Display) -> ConnectError {
    ConnectError::Final(format!(
        "store.cassandra.{setting}: {} can't be used: {error}",
        path.display()
    ))
}
