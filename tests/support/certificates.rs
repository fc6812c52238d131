//! Certificates for servers and clients of tests, by the program `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Of every key store.
pub const STORE_PASSWORD: &str = "of-the-key-store";

/// A certificate authority with a folder.
pub struct Authority {
    dir: PathBuf,
    /// Its own certificate, in PEM.
    pub pem: PathBuf,
}

/// A certificate that an authority has signed, good for 127.0.0.1, as a server's and as a client's.
pub struct Certificate {
    pub pem: PathBuf,
    pub key: PathBuf,
    /// Both, as a JVM takes them, with [`STORE_PASSWORD`].
    pub store: PathBuf,
}

impl Authority {
    pub fn new(dir: &Path, name: &str) -> Self {
        let (pem, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        openssl(
            dir,
            &["req", "-x509", "-days", "30", "-subj", &format!("/CN={name}")],
        )
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&pem)
        .run();
        Authority {
            dir: dir.to_owned(),
            pem,
        }
    }

    /// Who trusts this authority, as a JVM takes it, with [`STORE_PASSWORD`].
    pub fn trust_store(&self) -> PathBuf {
        let store = self.pem.with_extension("trust.p12");
        Command::new("keytool")
            .args(["-importcert", "-noprompt", "-alias", "ca", "-storetype", "PKCS12"])
            .args(["-storepass", STORE_PASSWORD, "-file"])
            .arg(&self.pem)
            .arg("-keystore")
            .arg(&store)
            .stderr(Stdio::null())
            .run();
        store
    }

    pub fn issue(&self, name: &str) -> Certificate {
        let file = |end: &str| self.dir.join(format!("{name}.{end}"));
        let (request, extensions) = (file("csr"), file("ext"));
        let issued = Certificate {
            pem: file("pem"),
            key: file("key"),
            store: file("p12"),
        };
        openssl(&self.dir, &["req", "-subj", &format!("/CN={name}")])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .arg("-keyout")
            .arg(&issued.key)
            .arg("-out")
            .arg(&request)
            .run();
        fs::write(&extensions, "subjectAltName=IP:127.0.0.1\n").unwrap();
        openssl(
            &self.dir,
            &["x509", "-req", "-days", "30", "-CAcreateserial", "-in"],
        )
        .arg(&request)
        .arg("-CA")
        .arg(&self.pem)
        .arg("-CAkey")
        .arg(self.pem.with_extension("key"))
        .arg("-extfile")
        .arg(&extensions)
        .arg("-out")
        .arg(&issued.pem)
        .run();
        openssl(&self.dir, &["pkcs12", "-export", "-passout"])
            .arg(format!("pass:{STORE_PASSWORD}"))
            .arg("-in")
            .arg(&issued.pem)
            .arg("-inkey")
            .arg(&issued.key)
            .arg("-out")
            .arg(&issued.store)
            .run();
        issued
    }
}

fn openssl(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(arguments).stderr(Stdio::null());
    command
}

trait Run {
    fn run(&mut self);
}

impl Run for Command {
    fn run(&mut self) {
        assert!(self.status().unwrap().success(), "{self:?}");
    }
}
