//! TLS: whether PEM files hold what they should, and which setting a failed handshake speaks of.

use std::error::Error;
use std::io;

use rustls::AlertDescription;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What is wrong with a file of certificates, if anything.
pub(super) fn check_certificates(pem: &str) -> Result<(), String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => {
            Err("the file has no certificate in PEM form".to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the file is no PEM: {error}")),
    }
}

/// What is wrong with the file of a private key, if anything. Nothing of the file is in it.
pub(super) fn check_key(pem: &str) -> Result<(), String> {
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) if pem.contains("ENCRYPTED") => {
            Err("the private key is encrypted, and must not be: protect the file instead".to_owned())
        }
        Err(_) => Err("the file has no private key in PEM form".to_owned()),
    }
}

/// Which setting of a section, such as `nats`, has to be changed where TLS failed, and why it did; one line. None where
/// something else failed, so that trying again can help.
pub fn handshake_advice(section: &str, error: &(dyn Error + 'static)) -> Option<String> {
    use AlertDescription as A;
    let error = rustls_error(error)?;
    let advice = match error {
        rustls::Error::InvalidCertificate(_) => format!(
            "set {section}.tls_ca to the PEM file of who signed the server's certificate, and name the server as that \
             does"
        ),
        rustls::Error::AlertReceived(
            A::CertificateRequired
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied,
        ) => format!(
            "set {section}.tls_cert and {section}.tls_key to a certificate and key that the server takes"
        ),
        rustls::Error::InconsistentKeys(_) => {
            format!("{section}.tls_key is not the key of {section}.tls_cert")
        }
        rustls::Error::InvalidMessage(_) => format!(
            "the server does not speak TLS there: connect without (no {section}.tls_ca, tls_cert and tls_key), or to \
             another port"
        ),
        _ => return None,
    };
    Some(format!("{error}: {advice}"))
}

/// What TLS itself said, wherever it is among the causes.
fn rustls_error<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    loop {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An io::Error gives the cause of what it wraps as its own.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error = match wrapped {
            Some(wrapped) => wrapped,
            None => error.source()?,
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_says_which_setting_is_wrong() {
        for (error, setting) in [
            (
                rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer),
                "nats.tls_ca",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
                "nats.tls_cert",
            ),
        ] {
            let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
            let advice = handshake_advice("nats", &wrapped).unwrap();
            assert!(advice.contains(setting), "{advice}");
        }
        let away = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(handshake_advice("nats", &away), None);
    }

    #[test]
    fn what_is_no_pem_is_told_without_the_text() {
        let secret = "swordfish";
        assert!(check_certificates(secret).unwrap_err().contains("no certificate"));
        let key = check_key(secret).unwrap_err();
        assert!(key.contains("no private key") && !key.contains(secret), "{key}");
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(check_key(encrypted).unwrap_err().contains("is encrypted"));
    }
}
