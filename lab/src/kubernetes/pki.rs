//! The cluster's certificate authority and what it issues.

use super::{ClusterError, files};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Certificates hold until this year: the lab does not outlive it.
const LAST_YEAR: i32 = 2099;

/// The certificate authority of a cluster, its files in one folder.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    folder: PathBuf,
    server: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority and its files `ca.pem` and `ca.key`, and the key pair that signs service
    /// account tokens, `service-account.key` and `.pub`. `server` is the API server's URL, for the
    /// kubeconfigs.
    pub(crate) fn new(folder: &Path, server: &str) -> Result<Authority, ClusterError> {
        let failed = |source| ClusterError::Certificate { what: "the authority".into(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = named("kubernetes", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let ca_pem = params.self_signed(&key).map_err(failed)?.pem();
        files::write(&folder.join("ca.pem"), &ca_pem)?;
        files::write_secret(&folder.join("ca.key"), &key.serialize_pem())?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(failed)?;
        let tokens = KeyPair::generate().map_err(failed)?;
        files::write_secret(&folder.join("service-account.key"), &tokens.serialize_pem())?;
        files::write(&folder.join("service-account.pub"), tokens.public_key_pem())?;
        Ok(Authority { issuer, ca_pem, folder: folder.to_owned(), server: server.to_owned() })
    }

    /// The file with the authority's certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The folder with everything that was made.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Issues a certificate to the user `user` of `groups`, good as a server of `names` too. Gives
    /// certificate and key, PEM.
    ///
    /// # Errors
    /// A name that no certificate can carry.
    pub fn issue(
        &self,
        user: &str,
        groups: &[&str],
        names: &[String],
    ) -> Result<(String, String), ClusterError> {
        let failed = |source| ClusterError::Certificate { what: user.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = named(user, groups)?;
        params.subject_alt_names =
            CertificateParams::new(names.to_vec()).map_err(failed)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !names.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// As [`Authority::issue`], into `<file>.pem` and `<file>.key` of the authority's folder.
    pub(crate) fn issue_files(
        &self,
        file: &str,
        user: &str,
        groups: &[&str],
        names: &[String],
    ) -> Result<(PathBuf, PathBuf), ClusterError> {
        let (certificate, key) = self.issue(user, groups, names)?;
        let paths =
            (self.folder.join(format!("{file}.pem")), self.folder.join(format!("{file}.key")));
        files::write(&paths.0, certificate)?;
        files::write_secret(&paths.1, &key)?;
        Ok(paths)
    }

    /// Writes a kubeconfig, complete in itself, for a user of groups: how another component of the
    /// cluster gets its identity.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kubeconfig(&self, path: &Path, user: &str, groups: &[&str]) -> Result<(), ClusterError> {
        let (certificate, key) = self.issue(user, groups, &[])?;
        self.write_kubeconfig(
            path,
            &json!({
                "client-certificate-data": base64(certificate.as_bytes()),
                "client-key-data": base64(key.as_bytes()),
            }),
        )
    }

    /// Writes a kubeconfig that authenticates by a token.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn token_kubeconfig(&self, path: &Path, token: &str) -> Result<(), ClusterError> {
        self.write_kubeconfig(path, &json!({ "token": token }))
    }

    fn write_kubeconfig(&self, path: &Path, user: &serde_json::Value) -> Result<(), ClusterError> {
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {
                "server": self.server,
                "certificate-authority-data": base64(self.ca_pem.as_bytes()),
            }}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
            "current-context": "lab",
        });
        files::write_secret(path, &format!("{text:#}\n"))
    }
}

fn named(user: &str, groups: &[&str]) -> Result<CertificateParams, ClusterError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    // rcgen keeps one value of a kind; more groups than one are nobody's need here.
    if let Some(group) = groups.first() {
        name.push(DnType::OrganizationName, *group);
    }
    if groups.len() > 1 {
        return Err(ClusterError::answer(user, "a lab certificate carries at most one group"));
    }
    name.push(DnType::CommonName, user);
    params.distinguished_name = name;
    params.not_after = rcgen::date_time_ymd(LAST_YEAR, 1, 1);
    Ok(params)
}

/// RFC 4648, section 4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .enumerate()
            .fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            if at <= chunk.len() {
                let index = (word >> (18 - 6 * at)) & 63;
                out.push(char::from(ALPHABET[index as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_that_of_the_rfc() {
        // RFC 4648, section 10.
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in vectors {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
