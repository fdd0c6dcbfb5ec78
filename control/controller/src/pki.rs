//! The cluster's own certificate authority, and the join token.
//!
//! Files in the `pki` folder of the data directory, all made at the first start and kept:
//! `ca.pem`, `ca.key`, `server.pem`, `server.key` and `join-token`; [`crate::certificates`] adds those of the
//! configuration API. Keys and token are readable by their owner only.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The name every controller's certificate carries, whatever its address.
pub const SERVER_NAME: &str = "skein-controller";

/// How long a node's certificate holds; agents renew long before.
const NODE_CERTIFICATE_DAYS: i64 = 90;
/// How long the authority and controllers' certificates hold.
pub(crate) const LONG_CERTIFICATE_YEARS: i32 = 10;

/// Why certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{path}: {source}; check that the data directory is writable")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate could not be made, or a file holds none.
    #[error("{what}: {source}; remove the damaged file to have it made again")]
    Certificate {
        /// What was being made or read.
        what: String,
        /// What is wrong with it.
        source: rcgen::Error,
    },
    /// A signing request was refused.
    #[error("signing request refused: {0}")]
    Request(String),
    /// The fabric has another authority than this data directory.
    #[error(
        "{dir} belongs to another fabric: its authority or join token is not that of the other controllers; \
         nothing was changed. Give this controller a data directory of its own, or move {dir} away if no node \
         joined by it"
    )]
    Foreign {
        /// The folder.
        dir: PathBuf,
    },
}

/// What all controllers of a fabric have in common. Who has it can issue certificates.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SharedAuthority {
    ca_pem: String,
    ca_key_pem: String,
    join_token: String,
}

impl std::fmt::Debug for SharedAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key and the token stay out of logs.
        f.debug_struct("SharedAuthority").field("ca_pem", &self.ca_pem).finish_non_exhaustive()
    }
}

impl SharedAuthority {
    /// A new authority.
    ///
    /// # Errors
    /// No key can be made.
    pub fn generate() -> Result<SharedAuthority, PkiError> {
        let failed = |e| certificate("certificate authority", e);
        let key = KeyPair::generate().map_err(failed)?;
        let ca_pem = ca_params().self_signed(&key).map_err(failed)?.pem();
        let join_token = new_token(&digest(&ca_pem)?);
        Ok(SharedAuthority { ca_pem, ca_key_pem: key.serialize_pem(), join_token })
    }

    /// The authority in `dir`, if there is one.
    ///
    /// # Errors
    /// When a file cannot be read, or the token is missing.
    pub fn read(dir: &Path) -> Result<Option<SharedAuthority>, PkiError> {
        let [ca_pem, ca_key_pem, token] =
            ["ca.pem", "ca.key", "join-token"].map(|name| read(&dir.join(name)));
        match (ca_pem?, ca_key_pem?, token?) {
            (Some(ca_pem), Some(ca_key_pem), Some(token)) => {
                let join_token = token.trim().to_owned();
                Ok(Some(SharedAuthority { ca_pem, ca_key_pem, join_token }))
            }
            // Writing them was interrupted, or a person took some away: what is missing is made as ever.
            (None, None, _) => Ok(None),
            _ => {
                Authority::open(dir)?;
                Self::read(dir)
            }
        }
    }

    /// Makes `dir` one of this authority's.
    ///
    /// # Errors
    /// When it has another one, or a file cannot be written.
    pub fn adopt(&self, dir: &Path) -> Result<(), PkiError> {
        fs::create_dir_all(dir).map_err(|source| file(dir, source))?;
        let files = [
            ("join-token", format!("{}\n", self.join_token), 0o600),
            ("ca.key", self.ca_key_pem.clone(), 0o600),
            // Last: with it the folder counts as complete.
            ("ca.pem", self.ca_pem.clone(), 0o644),
        ];
        for (name, content, _) in &files {
            if read(&dir.join(name))?.is_some_and(|found| found.trim() != content.trim()) {
                return Err(PkiError::Foreign { dir: dir.to_owned() });
            }
        }
        for (name, content, mode) in &files {
            if read(&dir.join(name))?.is_none() {
                write(&dir.join(name), content.as_bytes(), *mode)?;
            }
        }
        Ok(())
    }
}

fn new_token(ca_digest: &str) -> String {
    format!("skein1.{}{}.{ca_digest}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The authority and what it has issued to this controller.
pub struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    /// The authority's certificate.
    pub ca_pem: String,
    /// The controller's certificate followed by the authority's.
    pub server_chain_pem: String,
    /// The controller's private key.
    pub server_key_pem: String,
    token: String,
    ca_digest: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys and the token stay out of logs.
        f.debug_struct("Authority").field("ca_digest", &self.ca_digest).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in `dir`, making what is missing.
    ///
    /// # Errors
    /// When a file cannot be read, written or understood.
    pub fn open(dir: &Path) -> Result<Authority, PkiError> {
        fs::create_dir_all(dir).map_err(|source| file(dir, source))?;
        let (ca_file, ca_key_file) = (dir.join("ca.pem"), dir.join("ca.key"));
        let ca_key = load_key(&ca_key_file)?;
        let ca_pem = match read(&ca_file)? {
            Some(pem) => pem,
            None => {
                let pem = ca_params()
                    .self_signed(&ca_key)
                    .map_err(|e| certificate("certificate authority", e))?
                    .pem();
                write(&ca_file, pem.as_bytes(), 0o644)?;
                pem
            }
        };
        let ca_digest = digest(&ca_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key)
            .map_err(|e| certificate(&ca_file.display().to_string(), e))?;
        let server_key = load_key(&dir.join("server.key"))?;
        let server_file = dir.join("server.pem");
        let server_pem = match read(&server_file)? {
            Some(pem) => pem,
            None => {
                let mut params = named(SERVER_NAME, vec![SERVER_NAME.to_owned()])?;
                params.not_after = rcgen::date_time_ymd(year() + LONG_CERTIFICATE_YEARS, 1, 1);
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
                let pem = params
                    .signed_by(&server_key, &issuer)
                    .map_err(|e| certificate("controller certificate", e))?
                    .pem();
                write(&server_file, pem.as_bytes(), 0o644)?;
                pem
            }
        };
        let token_file = dir.join("join-token");
        let joined = match read(&token_file)? {
            Some(joined) => joined.trim().to_owned(),
            None => {
                let joined = new_token(&ca_digest);
                write(&token_file, format!("{joined}\n").as_bytes(), 0o600)?;
                joined
            }
        };
        let token = joined.split('.').nth(1).unwrap_or_default().to_owned();
        if token.is_empty() {
            return Err(PkiError::Request(format!(
                "{} holds no join token; remove it to have one made",
                token_file.display()
            )));
        }
        Ok(Authority {
            issuer,
            server_chain_pem: format!("{server_pem}{ca_pem}"),
            ca_pem,
            server_key_pem: server_key.serialize_pem(),
            token,
            ca_digest,
        })
    }

    /// Whether a presented token is the join token. Takes the same time wherever they differ.
    pub fn token_matches(&self, presented: &str) -> bool {
        let (a, b) = (self.token.as_bytes(), presented.as_bytes());
        a.len() == b.len() && a.iter().zip(b).fold(0u8, |acc, (x, y)| acc | (x ^ y)) == 0
    }

    /// Issues a certificate for a node. Only the key of the request is used: names, uses and
    /// lifetime are ours to say.
    ///
    /// # Errors
    /// When the name is not acceptable or the request is no PKCS#10 request.
    pub fn sign_node(&self, node: &str, csr_pem: &str) -> Result<String, PkiError> {
        let acceptable = !node.is_empty()
            && node.len() <= 253
            && node.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if !acceptable {
            return Err(PkiError::Request(format!(
                "node name {node:?}; use letters, digits, '-', '.' and '_', at most 253"
            )));
        }
        if node == SERVER_NAME {
            return Err(PkiError::Request(format!(
                "the name {SERVER_NAME} is the controllers' own"
            )));
        }
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| PkiError::Request(format!("no PKCS#10 request in PEM: {e}")))?;
        let mut params = named(node, vec![node.to_owned()])?;
        params.not_after = params.not_before + time_days(NODE_CERTIFICATE_DAYS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.params = params;
        let signed = request
            .signed_by(&self.issuer)
            .map_err(|e| PkiError::Request(format!("signing failed: {e}")))?;
        Ok(signed.pem())
    }
}

pub(crate) fn named(name: &str, alternatives: Vec<String>) -> Result<CertificateParams, PkiError> {
    let mut params =
        CertificateParams::new(alternatives).map_err(|e| certificate("certificate name", e))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A day of slack for clocks that are behind ours.
    params.not_before = now() - time_days(1);
    Ok(params)
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Skein cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now() - time_days(1);
    params.not_after = rcgen::date_time_ymd(year() + LONG_CERTIFICATE_YEARS, 1, 1);
    params
}

pub(crate) fn now() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc()
}

pub(crate) fn year() -> i32 {
    now().year()
}

pub(crate) fn time_days(days: i64) -> time::Duration {
    time::Duration::days(days)
}

/// SHA-256 of a PEM certificate's DER form, in hex.
fn digest(pem: &str) -> Result<String, PkiError> {
    let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|e| PkiError::Request(format!("ca.pem is no PEM certificate: {e}")))?;
    let hash = ring::digest::digest(&ring::digest::SHA256, &parsed.contents);
    Ok(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn load_key(path: &Path) -> Result<KeyPair, PkiError> {
    let what = path.display().to_string();
    if let Some(pem) = read(path)? {
        return KeyPair::from_pem(&pem).map_err(|e| certificate(&what, e));
    }
    let key = KeyPair::generate().map_err(|e| certificate(&what, e))?;
    write(path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

pub(crate) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file(path, error)),
    }
}

/// Writes a whole file or none: first aside, then into place.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let aside = path.with_extension("new");
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&aside)
        .map_err(|source| file(&aside, source))?;
    out.write_all(content)
        .and_then(|()| out.sync_all())
        .and_then(|()| fs::rename(&aside, path))
        .map_err(|source| file(path, source))
}

fn file(path: &Path, source: std::io::Error) -> PkiError {
    PkiError::File { path: path.to_owned(), source }
}

pub(crate) fn certificate(what: &str, source: rcgen::Error) -> PkiError {
    PkiError::Certificate { what: what.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_of_a_fabric_share_an_authority() {
        let shared = SharedAuthority::generate().unwrap();
        let text = serde_json::to_string(&shared).unwrap();
        let (first, second, third) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
        );
        assert_eq!(SharedAuthority::read(first.path()).unwrap(), None);
        for dir in [&first, &second] {
            let read: SharedAuthority = serde_json::from_str(&text).unwrap();
            read.adopt(dir.path()).unwrap();
            read.adopt(dir.path()).unwrap();
            assert_eq!(SharedAuthority::read(dir.path()).unwrap(), Some(shared.clone()));
        }
        let (one, two) =
            (Authority::open(first.path()).unwrap(), Authority::open(second.path()).unwrap());
        assert_eq!(one.ca_pem, two.ca_pem);
        assert!(one.token_matches(&two.token));
        // Another one stays as it is.
        let other = Authority::open(third.path()).unwrap();
        let error = shared.adopt(third.path()).unwrap_err();
        assert!(matches!(error, PkiError::Foreign { .. }), "{error}");
        assert_eq!(Authority::open(third.path()).unwrap().ca_pem, other.ca_pem);
        assert!(!format!("{shared:?}").contains("PRIVATE"));
    }

    #[test]
    fn the_authority_survives_a_restart_and_signs_for_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(first.ca_pem, again.ca_pem);
        let token = fs::read_to_string(dir.path().join("join-token")).unwrap();
        let secret = token.split('.').nth(1).unwrap();
        assert!(again.token_matches(secret) && !again.token_matches("guess"));

        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::new(vec!["skein-controller".into()])
            .unwrap()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        let issued = again.sign_node("node-1", &request).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.as_bytes()).unwrap();
        let parsed = pem.parse_x509().unwrap();
        // Names in the request count for nothing.
        assert_eq!(parsed.subject().to_string(), "CN=node-1");
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1);
        assert!(again.sign_node("skein-controller", &request).is_err());
        assert!(again.sign_node("a b", &request).is_err());
        assert!(again.sign_node("node-1", "nothing").is_err());
    }
}
