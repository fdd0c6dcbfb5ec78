//! A controller as one of several that share an etcd: flags, files, and the authority that they have in common.

use crate::all_in_one::RoleError;
use clap::Args;
use serde::Deserialize;
use skein_api::{Cluster, PeerFiles};
use skein_controller::{SERVER_NAME, SharedAuthority};
use skein_store::{Etcd, EtcdOptions, StoreError};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_PREFIX: &str = "/skein/";
/// Key of what the controllers share.
const AUTHORITY: &str = "authority";
/// Between attempts to reach etcd at start.
const PAUSE: Duration = Duration::from_secs(1);

/// Flags for configuration in etcd.
#[derive(Debug, Args)]
pub(crate) struct ReplicaFlags {
    /// Keep the configuration in this etcd, with other controllers [default: in the data directory]
    #[arg(long, value_name = "URL", env = "SKEIN_ETCD", value_delimiter = ',')]
    etcd: Vec<String>,
    /// Certificates of the authority that vouches for etcd (PEM)
    #[arg(long, value_name = "FILE", env = "SKEIN_ETCD_CA")]
    etcd_ca: Option<PathBuf>,
    /// Certificate that etcd asks for (PEM)
    #[arg(long, value_name = "FILE", env = "SKEIN_ETCD_CERTIFICATE")]
    etcd_certificate: Option<PathBuf>,
    /// Private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", env = "SKEIN_ETCD_KEY")]
    etcd_key: Option<PathBuf>,
    /// What the fabric's keys in etcd begin with [default: /skein/]
    #[arg(long, value_name = "PREFIX", env = "SKEIN_ETCD_PREFIX")]
    etcd_prefix: Option<String>,
    /// Speak to etcd on other machines without TLS: whoever is on the way reads the fabric's keys
    #[arg(long, env = "SKEIN_ETCD_INSECURE")]
    etcd_insecure: bool,
    /// Where the other controllers reach this one's configuration API, its --api-https listener
    #[arg(long, value_name = "https://HOST:8182", env = "SKEIN_ADVERTISE_API")]
    advertise_api: Option<String>,
}

/// The same in the settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    endpoints: Vec<String>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    prefix: Option<String>,
    insecure: bool,
}

/// What was settled, of a controller among others.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) etcd: EtcdOptions,
    pub(crate) advertise: String,
    /// The host in that address, for the certificate.
    pub(crate) host: String,
}

fn wrong(name: &'static str, reason: impl Into<String>) -> RoleError {
    RoleError::Flag { name, reason: reason.into() }
}

/// Scheme and host of a URL.
fn parts(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    (!host.is_empty()).then_some((scheme, host))
}

/// Whether what is sent to a URL can be read on its way.
fn is_open(url: &str) -> bool {
    let Some((scheme, host)) = parts(url) else { return true };
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    scheme != "https" && !is_local
}

impl ReplicaFlags {
    /// Flags over the file. None: the configuration is in the data directory.
    pub(crate) fn settle(
        self,
        file: File,
        advertise: Option<String>,
    ) -> Result<Option<Settings>, RoleError> {
        let endpoints = if self.etcd.is_empty() { file.endpoints } else { self.etcd };
        let endpoints = endpoints.iter().map(|url| url.trim().trim_end_matches('/').to_owned());
        // An empty variable is how a unit or a pod says nothing.
        let endpoints: Vec<String> = endpoints.filter(|url| !url.is_empty()).collect();
        let advertise = self.advertise_api.filter(|url| !url.is_empty()).or(advertise);
        if endpoints.is_empty() {
            return match advertise {
                None => Ok(None),
                Some(_) => Err(wrong("--advertise-api", "there are no others without --etcd")),
            };
        }
        for url in &endpoints {
            match parts(url) {
                Some(("http" | "https", _)) => {}
                _ => {
                    return Err(wrong("--etcd", format!("{url:?}; write it as https://HOST:2379")));
                }
            }
        }
        let insecure = self.etcd_insecure || file.insecure;
        if let Some(url) = endpoints.iter().find(|url| is_open(url) && !insecure) {
            let reason = format!(
                "{url} is on another machine and without TLS, and what is kept there can issue \
                 certificates; use https://, or say --etcd-insecure where nobody else is on the wire"
            );
            return Err(wrong("--etcd", reason));
        }
        let advertise = advertise.ok_or_else(|| {
            wrong("--advertise-api", "must be given with --etcd: https://HOST:8182 of this machine")
        })?;
        let advertise = advertise.trim_end_matches('/').to_owned();
        let host = match parts(&advertise) {
            Some((_, host)) if !is_open(&advertise) => host.to_owned(),
            _ => {
                let reason = format!("{advertise:?}; write it as https://HOST:8182");
                return Err(wrong("--advertise-api", reason));
            }
        };
        let mut prefix = self.etcd_prefix.or(file.prefix).unwrap_or_else(|| DEFAULT_PREFIX.into());
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        let etcd = EtcdOptions {
            ca: self.etcd_ca.or(file.ca),
            certificate: self.etcd_certificate.or(file.certificate),
            key: self.etcd_key.or(file.key),
            prefix,
            ..EtcdOptions::new(endpoints)
        };
        Ok(Some(Settings { etcd, advertise, host }))
    }
}

impl Settings {
    /// How the API takes part. Replicas know each other by the authority that they share.
    pub(crate) fn cluster(&self, name: String, pki: &Path) -> Cluster {
        let peers = self.advertise.starts_with("https:").then(|| PeerFiles {
            ca: pki.join("ca.pem"),
            certificate: pki.join("client.pem"),
            key: pki.join("client.key"),
            server_name: Some(SERVER_NAME.to_owned()),
        });
        Cluster { etcd: self.etcd.clone(), name, advertise: self.advertise.clone(), peers }
    }

    /// Has the folder hold the authority and join token of all controllers. The first of them brings its own.
    pub(crate) async fn share_authority(&self, pki: &Path) -> Result<(), RoleError> {
        let etcd = Etcd::new(self.etcd.clone())?;
        let mut complained = false;
        loop {
            match self.try_share(&etcd, pki).await {
                Err(RoleError::Store(error @ StoreError::Unreachable { .. })) => {
                    if !complained {
                        tracing::warn!(%error, "waiting for etcd");
                        complained = true;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    async fn try_share(&self, etcd: &Etcd, pki: &Path) -> Result<(), RoleError> {
        let shared = match etcd.get(AUTHORITY).await? {
            Some(found) => found,
            None => {
                let ours = match SharedAuthority::read(pki)? {
                    Some(ours) => ours,
                    None => SharedAuthority::generate()?,
                };
                let text = serde_json::to_vec(&ours).map_err(|error| self.unreadable(&error))?;
                // Another controller may be at the same: both go on with what is there then.
                etcd.create(AUTHORITY, text).await?
            }
        };
        let shared: SharedAuthority =
            serde_json::from_slice(&shared).map_err(|error| self.unreadable(&error))?;
        shared.adopt(pki)?;
        Ok(())
    }

    fn unreadable(&self, error: &serde_json::Error) -> RoleError {
        let reason = format!(
            "{}{AUTHORITY} in etcd is not an authority of this version ({error}); restore etcd from a backup",
            self.etcd.prefix
        );
        wrong("--etcd", reason)
    }
}
