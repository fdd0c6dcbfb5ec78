//! How a node gets its certificate: a join string, one call, and files kept in the data directory.
//!
//! A join string is `skein1.<secret>.<sha256 of the CA certificate, DER, in hex>`. The digest lets the
//! node trust the controller before it has any certificate; the secret lets the controller trust the node.

use crate::files::{self, Durability};
use crate::tls::{self, Identity};
use crate::{AgentConfig, AgentError};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use skein_proto::enroll::JoinRequest;
use skein_proto::enroll::enroll_client::EnrollClient;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CA: &str = "ca.pem";
const CERTIFICATE: &str = "node.pem";
const KEY: &str = "node.key";
const RETRY: Duration = Duration::from_secs(1);

/// A parsed join string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinString {
    /// What the controller wants to hear.
    pub secret: String,
    /// SHA-256 of the CA certificate.
    pub ca_digest: [u8; 32],
}

impl std::str::FromStr for JoinString {
    type Err = AgentError;

    fn from_str(text: &str) -> Result<Self, AgentError> {
        let wrong = |reason: &str| AgentError::Config {
            field: "join",
            reason: format!("{reason}; a join string is `skein1.<secret>.<64 hex digits>`"),
        };
        let mut parts = text.trim().split('.');
        let (Some("skein1"), Some(secret), Some(digest), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong("it does not have three parts, the first `skein1`"));
        };
        if secret.is_empty() {
            return Err(wrong("the secret is empty"));
        }
        let mut ca_digest = [0; 32];
        if digest.len() != 64 || !digest.is_ascii() {
            return Err(wrong("the digest has not 64 digits"));
        }
        for (index, byte) in ca_digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digest[2 * index..2 * index + 2], 16)
                .map_err(|_| wrong("the digest is not hexadecimal"))?;
        }
        Ok(Self { secret: secret.to_owned(), ca_digest })
    }
}

/// The node's certificate: from the configured files, from an earlier enrolment, or from a new one, which
/// is tried until a controller answers.
pub(crate) async fn identity(config: &AgentConfig) -> Result<Identity, AgentError> {
    if let Some(given) = &config.certificates {
        let read = |path: &Path| std::fs::read(path).map_err(AgentError::file("read", path));
        return Ok(Identity {
            ca: read(&given.ca)?,
            certificate: read(&given.certificate)?,
            key: read(&given.key)?,
        });
    }
    if let Some(stored) = stored(&config.data_dir)?
        && !needs_renewal(&stored.certificate, SystemTime::now())
    {
        return Ok(stored);
    }
    let Some(join) = join_string(config)? else {
        // An old certificate is better than none: the controller decides.
        return stored(&config.data_dir)?.ok_or_else(|| {
            AgentError::Tls(
                "this node has no certificate: give `join`, `join_file` or `certificates`".into(),
            )
        });
    };
    let mut last = String::new();
    loop {
        for controller in &config.controllers {
            match join_at(config, controller, &join).await {
                Ok(identity) => {
                    tracing::info!(controller, "enrolled");
                    return Ok(identity);
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != last {
                        tracing::warn!(controller, error = text, "not enrolled; trying again");
                        last = text;
                    }
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// True when the certificate of an enrolment is in the last third of its life.
pub(crate) fn is_ageing(config: &AgentConfig, identity: &Identity) -> bool {
    config.certificates.is_none() && needs_renewal(&identity.certificate, SystemTime::now())
}

fn join_string(config: &AgentConfig) -> Result<Option<JoinString>, AgentError> {
    if let Some(text) = &config.join {
        return text.parse().map(Some);
    }
    let Some(path) = &config.join_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(AgentError::file("read", path))?;
    text.parse().map(Some)
}

async fn join_at(
    config: &AgentConfig,
    controller: &str,
    join: &JoinString,
) -> Result<Identity, AgentError> {
    let failed =
        |what: &str, why: &dyn std::fmt::Display| AgentError::Tls(format!("{what}: {why}"));
    let key = KeyPair::generate().map_err(|error| failed("make a key", &error))?;
    let mut params = CertificateParams::new(Vec::<String>::new())
        .map_err(|error| failed("make a certificate request", &error))?;
    params.distinguished_name.push(DnType::CommonName, config.node.as_str());
    let request = params
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(|error| failed("make a certificate request", &error))?;
    let channel = tls::connect(controller, &config.server_name, tls::pinned(join.ca_digest)?)
        .await
        .map_err(AgentError::Tls)?;
    let reply = EnrollClient::new(channel)
        .join(JoinRequest {
            node: config.node.clone(),
            token: join.secret.clone(),
            csr_pem: request,
        })
        .await
        .map_err(|status| failed("the controller refused", &status.message()))?
        .into_inner();
    let identity = Identity {
        ca: reply.ca_pem.into_bytes(),
        certificate: reply.certificate_pem.into_bytes(),
        key: key.serialize_pem().into_bytes(),
    };
    // What does not work together is not stored.
    tls::mutual(&identity)?;
    for (name, bytes) in
        [(KEY, &identity.key), (CA, &identity.ca), (CERTIFICATE, &identity.certificate)]
    {
        files::replace(&config.data_dir.join(name), bytes, Durability::Machine)?;
    }
    Ok(identity)
}

fn stored(directory: &Path) -> Result<Option<Identity>, AgentError> {
    let read = |name: &str| files::read(&directory.join(name));
    let (Some(ca), Some(certificate), Some(key)) = (read(CA)?, read(CERTIFICATE)?, read(KEY)?)
    else {
        return Ok(None);
    };
    let identity = Identity { ca, certificate, key };
    match tls::mutual(&identity) {
        Ok(_) => Ok(Some(identity)),
        Err(error) => {
            tracing::warn!(%error, "the stored certificate is not usable; enrolling anew");
            Ok(None)
        }
    }
}

fn needs_renewal(certificate: &[u8], now: SystemTime) -> bool {
    let Some((from, until)) = CertificateDer::from_pem_slice(certificate)
        .ok()
        .and_then(|certificate| validity(certificate.as_ref()))
    else {
        return false;
    };
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    now > from + (until.saturating_sub(from)) / 3 * 2
}

/// `notBefore` and `notAfter` of an X.509 certificate (RFC 5280, section 4.1) in Unix seconds.
fn validity(der: &[u8]) -> Option<(u64, u64)> {
    let (_, certificate, _) = element(der)?;
    let (_, tbs, _) = element(certificate)?;
    let mut rest = tbs;
    let mut fields = Vec::new();
    while let Some((tag, value, next)) = element(rest) {
        // The version is optional and has a tag of its own.
        if tag != 0xa0 {
            fields.push(value);
        }
        rest = next;
    }
    // serialNumber, signature, issuer, validity
    let (tag, from, next) = element(fields.get(3)?)?;
    let (other, until, _) = element(next)?;
    Some((time(tag, from)?, time(other, until)?))
}

/// One DER element: tag, content, what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count > 4 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(count)?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, next) = rest.split_at_checked(length)?;
    Some((tag, content, next))
}

/// UTCTime (23) or GeneralizedTime (24) in Unix seconds.
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let (year, rest) = match tag {
        23 => {
            let (short, rest) = text.split_at_checked(2)?;
            let short = number(short)?;
            (if short < 50 { 2000 + short } else { 1900 + short }, rest)
        }
        24 => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let part = |index: usize| rest.get(2 * index..2 * index + 2).and_then(number);
    let (month, day) = (part(0)?, part(1)?);
    // Days since 1970 of the proleptic Gregorian calendar, years beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day;
    let since = days.checked_sub(719_469)?;
    Some(since * 86_400 + part(2)? * 3600 + part(3)? * 60 + part(4)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_strings_are_checked() {
        let digest = "ab".repeat(32);
        let join: JoinString = format!("skein1.s3cret.{digest}\n").parse().unwrap();
        assert_eq!((join.secret.as_str(), join.ca_digest), ("s3cret", [0xab; 32]));
        for wrong in ["", "skein1.s", "skein2.s.ab", &format!("skein1..{digest}"), "skein1.s.zz"] {
            assert!(wrong.parse::<JoinString>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn validity_is_read_from_a_real_certificate() {
        assert_eq!(time(24, b"20261122205000Z"), Some(1_795_380_600));
        assert_eq!(time(23, b"700101000000Z"), Some(0));
        let mut params = CertificateParams::new(vec!["n".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 12, 31);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let at = |day: u64| UNIX_EPOCH + Duration::from_secs(1_767_225_600 + day * 86_400);
        assert!(!needs_renewal(pem.as_bytes(), at(100)));
        assert!(needs_renewal(pem.as_bytes(), at(300)));
    }
}
