//! Certificates for the configuration API and its clients, issued by the controller's own authority.
//!
//! Files in the `pki` folder: `api.pem` and `api.key` are the server's, `client.pem` and `client.key` those of
//! whoever may configure the network: the Kubernetes manager, administrators.

use crate::pki::{
    Authority, LONG_CERTIFICATE_YEARS, PkiError, SERVER_NAME, certificate, load_key, named, now,
    read, write, year,
};
use rcgen::{DnType, ExtendedKeyUsagePurpose};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The organization in certificates that the configuration API takes. Nodes' certificates have none.
pub const CLIENT_ORGANIZATION: &str = "skein:clients";

/// Name in the certificate for clients.
const CLIENT_NAME: &str = "skein-client";

/// A certificate with its private key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate followed by the authority's, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// The configuration API's certificate, for the controllers' own name and `names` (DNS names and addresses). It
    /// is made anew when it lacks one of them or is in the last third of its life.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a name cannot be one.
    pub fn api_certificate(&self, dir: &Path, names: &[String]) -> Result<Issued, PkiError> {
        let mut wanted: BTreeSet<String> = names.iter().map(|name| canonical(name)).collect();
        wanted.insert(SERVER_NAME.to_owned());
        let purposes = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(dir, "api", SERVER_NAME, None, &wanted, purposes)
    }

    /// The certificate for clients of the configuration API.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn client_certificate(&self, dir: &Path) -> Result<Issued, PkiError> {
        let wanted = BTreeSet::from([CLIENT_NAME.to_owned()]);
        let purposes = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(dir, "client", CLIENT_NAME, Some(CLIENT_ORGANIZATION), &wanted, purposes)
    }

    fn issue(
        &self,
        dir: &Path,
        file: &str,
        name: &str,
        organization: Option<&str>,
        wanted: &BTreeSet<String>,
        purposes: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<Issued, PkiError> {
        let issued = Issued {
            certificate: dir.join(format!("{file}.pem")),
            key: dir.join(format!("{file}.key")),
        };
        let key = load_key(&issued.key)?;
        if let Some(pem) = read(&issued.certificate)?
            && pem.ends_with(&self.ca_pem)
            && still_good(&pem, wanted)
        {
            return Ok(issued);
        }
        let mut params = named(name, wanted.iter().cloned().collect())?;
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.not_after = rcgen::date_time_ymd(year() + LONG_CERTIFICATE_YEARS, 1, 1);
        params.extended_key_usages = purposes;
        let pem = params
            .signed_by(&key, &self.issuer)
            .map_err(|e| certificate(&format!("certificate {file}"), e))?
            .pem();
        write(&issued.certificate, format!("{pem}{}", self.ca_pem).as_bytes(), 0o644)?;
        Ok(issued)
    }
}

/// Addresses have many forms.
fn canonical(name: &str) -> String {
    name.parse::<IpAddr>().map_or_else(|_| name.to_ascii_lowercase(), |address| address.to_string())
}

/// Whether the first certificate of a chain carries all of these names and is not in the last third of its life.
fn still_good(pem: &str, wanted: &BTreeSet<String>) -> bool {
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok((_, parsed)) = X509Certificate::from_der(&block.contents) else { return false };
    let validity = parsed.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if now().unix_timestamp() > from + (until - from) / 3 * 2 {
        return false;
    }
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    let carried: BTreeSet<String> = names.value.general_names.iter().filter_map(text).collect();
    wanted.is_subset(&carried)
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = address.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_kept_until_a_name_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let issued =
            authority.api_certificate(dir.path(), &names(&["10.0.0.1", "FD00:0::1"])).unwrap();
        let first = std::fs::read_to_string(&issued.certificate).unwrap();
        authority.api_certificate(dir.path(), &names(&["fd00::1"])).unwrap();
        assert_eq!(std::fs::read_to_string(&issued.certificate).unwrap(), first);
        authority.api_certificate(dir.path(), &names(&["10.0.0.2"])).unwrap();
        assert_ne!(std::fs::read_to_string(&issued.certificate).unwrap(), first);
        // Another authority's certificate is not kept, either.
        let client = authority.client_certificate(dir.path()).unwrap();
        let second = std::fs::read_to_string(&client.certificate).unwrap();
        std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        let other = Authority::open(dir.path()).unwrap();
        other.client_certificate(dir.path()).unwrap();
        assert_ne!(std::fs::read_to_string(&client.certificate).unwrap(), second);
    }
}
