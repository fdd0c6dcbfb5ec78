//! Asking from anywhere: from hosts, from beyond the cluster, and from pods whose image has none of the programs.

use super::{ClusterError, KubePod, ProbeOutcome, WebAnswer, read_outcomes};
use crate::command::run;
use crate::{Host, Pod, Ran};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a page is waited for, in seconds.
const PAGE: &str = "15";

/// Where a program of this machine can be run.
pub trait Site {
    /// Runs it to its end, in the network of the site.
    ///
    /// # Errors
    /// It could not be started; its own failure is in [`Ran`].
    fn run_there(&self, command: &mut Command) -> Result<Ran, ClusterError>;
}

impl Site for Host {
    fn run_there(&self, command: &mut Command) -> Result<Ran, ClusterError> {
        Ok(self.run(command)?)
    }
}

impl Site for Pod {
    fn run_there(&self, command: &mut Command) -> Result<Ran, ClusterError> {
        Ok(self.run(command)?)
    }
}

impl Site for KubePod {
    fn run_there(&self, command: &mut Command) -> Result<Ran, ClusterError> {
        let network = format!("/proc/{}/ns/net", self.pid()?);
        Ok(run(Some(Path::new(&network)), command, None)?)
    }
}

/// Asks targets, `tcp:10.0.0.1:80`, all at once, as [`KubePod::ask`] does; `programs` is the folder with
/// `skein-probe`.
///
/// # Errors
/// The program is missing.
pub fn ask_from(
    site: &dyn Site,
    programs: &Path,
    targets: &[String],
    timeout: Duration,
) -> Result<Vec<ProbeOutcome>, ClusterError> {
    let mut command = Command::new(programs.join("skein-probe"));
    command.args(["ask", "--timeout", &timeout.as_millis().to_string()]).args(targets);
    read_outcomes(&site.run_there(&mut command)?.success()?)
}

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Code of the answer.
    pub code: u16,
    /// What it says.
    pub body: String,
}

impl Page {
    /// Fetches a page from an address, whatever its name would lead to. TLS only with this certificate.
    ///
    /// # Errors
    /// No answer; the error quotes curl.
    pub fn fetch(
        site: &dyn Site,
        url: &str,
        to: &str,
        certificate: Option<&Path>,
    ) -> Result<Page, ClusterError> {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", PAGE])
            .args(["--write-out", "\n%{http_code}"])
            .args(["--connect-to", &format!("::{to}{}", if to.contains(':') { "" } else { ":" })])
            .arg(url);
        if let Some(file) = certificate {
            command.arg("--cacert").arg(file);
        }
        let text = site.run_there(&mut command)?.success()?;
        let (body, code) = text.rsplit_once('\n').unwrap_or((&text, ""));
        let code =
            code.parse().map_err(|_| ClusterError::answer("curl", format!("no code: {text}")))?;
        Ok(Page { code, body: body.to_owned() })
    }

    /// What the probe that served it said, if it is a probe's.
    #[must_use]
    pub fn said(&self) -> Option<WebAnswer> {
        (self.code == 200).then(|| serde_json::from_str(self.body.trim()).ok()).flatten()
    }
}
