//! How a role reaches the configuration API: the same flags and variables for each.

use clap::Args;
use std::path::PathBuf;

/// Flags of roles that are clients of the configuration API.
#[derive(Debug, Args)]
pub(crate) struct ApiFlags {
    /// Address of the configuration API; of several controllers all, with commas in between [default: http://127.0.0.1:8082]
    #[arg(long, value_name = "URL", env = "SKEIN_API")]
    api: Option<String>,
    /// Certificates of the authority that vouches for the API (PEM) [default: those the machine trusts]
    #[arg(long, value_name = "FILE", env = "SKEIN_CA")]
    ca: Option<PathBuf>,
    /// Certificate that the API asks for (PEM)
    #[arg(long, value_name = "FILE", env = "SKEIN_CERT")]
    cert: Option<PathBuf>,
    /// Private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", env = "SKEIN_KEY")]
    key: Option<PathBuf>,
    /// Name in the API's certificate, if not the one in its address
    #[arg(long, value_name = "NAME", env = "SKEIN_SERVER_NAME")]
    server_name: Option<String>,
}

/// The settings of a role's file that these flags win over.
pub(crate) struct ApiSettings<'a> {
    pub(crate) api: &'a mut String,
    pub(crate) ca: &'a mut Option<PathBuf>,
    pub(crate) certificate: &'a mut Option<PathBuf>,
    pub(crate) key: &'a mut Option<PathBuf>,
    pub(crate) server_name: &'a mut Option<String>,
}

impl ApiFlags {
    /// Writes what was given over what the file says.
    pub(crate) fn over(self, settings: ApiSettings<'_>) {
        fn set<T>(into: &mut Option<T>, given: Option<T>) {
            if given.is_some() {
                *into = given;
            }
        }
        let ApiSettings { api, ca, certificate, key, server_name } = settings;
        if let Some(given) = self.api {
            *api = given;
        }
        set(ca, self.ca);
        set(certificate, self.cert);
        set(key, self.key);
        set(server_name, self.server_name);
    }
}
