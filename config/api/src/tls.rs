//! TLS of the listeners: certificates that are read again when their files change, and whom they serve.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::server::{Clients, ServerError, TlsFiles};

/// How often changed files are looked for. Whoever renews certificates does it days ahead.
const LOOK: Duration = Duration::from_secs(10);

/// Whether a connection may ask for more than its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may.
    Full,
    /// It showed no certificate.
    NoCertificate,
    /// It showed one that is not for clients of the API.
    WrongCertificate,
}

/// Accepts TLS connections on one listener.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    clients: Clients,
    current: Mutex<Current>,
}

#[derive(Clone)]
struct Current {
    looked: Instant,
    changed: Vec<Option<SystemTime>>,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("changed", &self.changed).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    pub(crate) fn new(files: TlsFiles, clients: Clients) -> Result<Tls, ServerError> {
        let changed = changed(&files, &clients);
        let acceptor = acceptor(&files, &clients)?;
        let current = Mutex::new(Current { looked: Instant::now(), changed, acceptor });
        Ok(Tls { files, clients, current })
    }

    /// What accepts connections now. Files that are wrong after a change leave the old ones in force.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock();
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            let now = changed(&self.files, &self.clients);
            if now != current.changed {
                match acceptor(&self.files, &self.clients) {
                    Ok(acceptor) => {
                        info!(certificate = %self.files.certificate.display(), "certificate read again");
                        current.acceptor = acceptor;
                        current.changed = now;
                    }
                    Err(error) => warn!(%error, "the changed certificate is not used"),
                }
            }
        }
        current.acceptor.clone()
    }

    /// What the client of a connection may do.
    pub(crate) fn admit(&self, connection: &ServerConnection) -> Admission {
        let Clients::Certified { organization, .. } = &self.clients else { return Admission::Full };
        let Some(certificate) = connection.peer_certificates().and_then(<[_]>::first) else {
            return Admission::NoCertificate;
        };
        match organization {
            Some(wanted) if !is_of(certificate, wanted) => Admission::WrongCertificate,
            _ => Admission::Full,
        }
    }
}

/// Whether a certificate's subject names an organization.
fn is_of(certificate: &[u8], wanted: &str) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
        let mut organizations = certificate.subject().iter_organization();
        organizations.any(|name| name.as_str() == Ok(wanted))
    })
}

fn changed(files: &TlsFiles, clients: &Clients) -> Vec<Option<SystemTime>> {
    let ca = match clients {
        Clients::Anyone => None,
        Clients::Certified { ca, .. } => Some(ca),
    };
    [Some(&files.certificate), Some(&files.key), ca]
        .into_iter()
        .flatten()
        .map(|path| std::fs::metadata(path).and_then(|found| found.modified()).ok())
        .collect()
}

fn wrong(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> ServerError + '_ {
    move |reason| ServerError::Tls { path: path.display().to_string(), reason: reason.to_string() }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let list = read.map_err(|e| wrong(path)(&e))?;
    if list.is_empty() {
        return Err(wrong(path)(&"it holds no certificate; write it in PEM"));
    }
    Ok(list)
}

fn acceptor(files: &TlsFiles, clients: &Clients) -> Result<TlsAcceptor, ServerError> {
    let of_certificate = wrong(&files.certificate);
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| wrong(&files.key)(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| of_certificate(&e))?;
    let config = match clients {
        Clients::Anyone => config.with_no_client_auth(),
        Clients::Certified { ca, .. } => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|e| wrong(ca)(&e))?;
            }
            // A client without a certificate gets a sentence instead of a broken handshake.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| wrong(ca)(&e))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let config = config.with_single_cert(chain, key).map_err(|e| of_certificate(&e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
