//! The server's certificate: read, checked against its key, and read again with the apps.

use crate::error::Error;
use rustix::fs::{Mode, OFlags};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

/// More is not read of a certificate or key.
const MAX_SIZE: u64 = 16 << 20;
/// How long a file that is a pipe may take to be written.
const PATIENCE: Duration = Duration::from_secs(10);

/// The files of a certificate, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    cert: PathBuf,
    key: PathBuf,
}

impl TlsFiles {
    /// A certificate with those of its issuers behind it, and its private key (PKCS #8, PKCS #1
    /// or SEC 1).
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        TlsFiles {
            cert: cert.into(),
            key: key.into(),
        }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        [&*self.cert, &*self.key].into_iter()
    }

    pub(crate) async fn load(&self) -> Result<Tls, Error> {
        let failed = |file: &Path| {
            let file = file.to_owned();
            move |why: String| Error::Tls { file, why }
        };
        let of_cert = failed(&self.cert);
        let cert = read(&self.cert).await;
        let certs = cert
            .map_err(pem::Error::Io)
            .and_then(|text| CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>())
            .map_err(|error| of_cert(format!("cannot read the certificate: {error}")))?;
        if certs.is_empty() {
            let of_cert = failed(&self.cert);
            return Err(of_cert("expected a certificate in PEM".to_owned()));
        }
        let of_key = failed(&self.key);
        let key = read(&self.key).await;
        let key = key
            .map_err(pem::Error::Io)
            .and_then(|text| PrivateKeyDer::from_pem_slice(&text))
            .map_err(|error| of_key(format!("cannot read the private key: {error}")))?;
        let fingerprint = certs.iter().map(|cert| cert.as_ref().to_vec()).collect();
        let of_key = failed(&self.key);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_no_client_auth())
            .and_then(|builder| builder.with_single_cert(certs, key))
            .map_err(|error| of_key(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Tls {
            config: Arc::new(config),
            certs: fingerprint,
        })
    }
}

/// All of a file. A pipe is waited for without a thread, so that it keeps no server from its end.
async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    if !file.metadata()?.file_type().is_fifo() {
        file.take(MAX_SIZE).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    let pipe = Receiver::from_file(file)?;
    let reading = async {
        let mut pipe = pipe.take(MAX_SIZE);
        pipe.read_to_end(&mut bytes).await
    };
    match timeout(PATIENCE, reading).await {
        Ok(read) => read?,
        Err(_) => {
            let why = format!("no program has written all of it within {PATIENCE:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    };
    Ok(bytes)
}

/// What connections are encrypted with.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    certs: Vec<Vec<u8>>,
}

impl PartialEq for Tls {
    /// By its certificates: each has one key.
    fn eq(&self, other: &Self) -> bool {
        self.certs == other.certs
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
