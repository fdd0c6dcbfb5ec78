//! Whom a client trusts, who it is, and what to do when that does not work out.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::ClientError;

/// Time for a connection to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// The same where another replica can be asked instead: the kernel repeats a lost first packet after one second.
pub(crate) const CONNECT_ONE_OF_SEVERAL: Duration = Duration::from_millis(1500);
/// After so long without any sign from a host its connections end.
const SILENCE: Duration = Duration::from_secs(2);

/// Makes the connections of a client.
pub type Connector = HttpsConnector<HttpConnector>;

/// Files and names of a client that speaks TLS. The default trusts what the machine trusts and shows no certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities to trust, PEM; none: those of the machine.
    pub ca: Option<PathBuf>,
    /// Certificate (and chain) that this client shows, PEM. It needs `key`.
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, PEM.
    pub key: Option<PathBuf>,
    /// Name that the server's certificate must carry, if not the one in the address.
    pub server_name: Option<String>,
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, ClientError> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| ClientError::TlsFile { path: "TLS".into(), reason: e.to_string() })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn tcp(connect: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(connect));
    // A host without power says nothing, not even that a connection is over. The kernel asks it; a busy server need not.
    connector.set_keepalive(Some(SILENCE / 2));
    connector.set_keepalive_interval(Some(SILENCE / 2));
    connector.set_keepalive_retries(Some(2));
    connector.set_tcp_user_timeout(Some(SILENCE));
    connector.enforce_http(false);
    connector
}

fn wrap(
    config: ClientConfig,
    server_name: Option<ServerName<'static>>,
    connect: Duration,
) -> Connector {
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
    let builder = match server_name {
        Some(name) => {
            builder.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
        }
        None => builder,
    };
    builder.enable_http1().wrap_connector(tcp(connect))
}

impl Tls {
    /// Makes connections to addresses without TLS. It trusts nobody, as nothing is asked of it.
    ///
    /// # Errors
    /// The cryptography is not usable on this machine.
    pub fn plain() -> Result<Connector, ClientError> {
        Self::plain_within(CONNECT)
    }

    /// The same, with the time that a connection may take to come about.
    pub(crate) fn plain_within(connect: Duration) -> Result<Connector, ClientError> {
        let config =
            builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        Ok(wrap(config, None, connect))
    }

    /// Makes connections by these files.
    ///
    /// # Errors
    /// A file cannot be read or holds something else.
    pub fn connector(&self) -> Result<Connector, ClientError> {
        self.connector_within(CONNECT)
    }

    /// The same, with the time that a connection may take to come about.
    pub(crate) fn connector_within(&self, connect: Duration) -> Result<Connector, ClientError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| bad(path, &e))?;
                }
            }
            None => {
                // A machine that trusts nobody says so when the server is met.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let builder = builder()?.with_root_certificates(roots);
        let config = match (&self.certificate, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(path), Some(key_path)) => {
                let key = PrivateKeyDer::from_pem_file(key_path).map_err(|e| bad(key_path, &e))?;
                builder
                    .with_client_auth_cert(certificates(path)?, key)
                    .map_err(|e| bad(path, &format!("it does not fit its key: {e}")))?
            }
            (Some(path), None) => {
                return Err(bad(path, &"a certificate needs its private key as well"));
            }
            (None, Some(path)) => return Err(bad(path, &"a key needs its certificate as well")),
        };
        let name = self.server_name.as_ref().map(|name| {
            ServerName::try_from(name.clone()).map_err(|e| ClientError::TlsFile {
                path: "server name".into(),
                reason: format!("{name:?}: {e}; write a DNS name or an address"),
            })
        });
        Ok(wrap(config, name.transpose()?, connect))
    }
}

fn bad(path: &Path, reason: &dyn std::fmt::Display) -> ClientError {
    ClientError::TlsFile { path: path.display().to_string(), reason: reason.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let list = read.map_err(|e| bad(path, &e))?;
    if list.is_empty() {
        return Err(bad(path, &"it holds no certificate; write it in PEM"));
    }
    Ok(list)
}

/// What to do about a failed connection, if TLS is why it failed.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(advice(tls));
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::UnexpectedEof
            && io.to_string().contains("handshake")
        {
            return Some(
                "what answers there closed the connection instead of speaking TLS; is it an \
                 http:// address, or another port?"
                    .into(),
            );
        }
        // An I/O error hides what it wraps from `source`.
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(inner) = io.get_ref()
        {
            let inner: &(dyn Error + 'static) = inner;
            if let Some(reason) = explain(inner) {
                return Some(reason);
            }
        }
        next = error.source();
    }
    None
}

/// Whether what answered did not speak HTTP, as TLS does not.
pub(crate) fn is_no_http(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(http) = error.downcast_ref::<hyper::Error>() {
            return http.is_parse() || http.is_incomplete_message();
        }
        next = error.source();
    }
    false
}

/// A name without the type around it: `DnsName("a")`, `IpAddress(10.0.0.1)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

fn advice(error: &rustls::Error) -> String {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is from an authority that is not trusted here; give the right one's \
             certificate (pki/ca.pem in the controller's data directory)"
                .into()
        }
        E::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => format!("{error}; renew the server's certificate, or set this machine's clock"),
        E::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => format!("{error}; set the clock of this machine or of the server"),
        E::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            format!(
                "its certificate is not for {}, but for {}; use one of these names, or say by the \
                 server name which one is right",
                expected.to_str(),
                presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")
            )
        }
        E::InvalidCertificate(_) => format!("{error}; have the server's certificate made anew"),
        E::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            // A certificate of an authority with the name of the right one and another key.
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => format!(
            "the server refuses this client's certificate ({error}); take one that its authority \
             issued and that holds now (pki/client.pem in the controller's data directory)"
        ),
        E::InvalidMessage(_) => format!(
            "what answers there does not speak TLS ({error}); is it an http:// address, or another \
             port?"
        ),
        _ => format!("TLS: {error}"),
    }
}
