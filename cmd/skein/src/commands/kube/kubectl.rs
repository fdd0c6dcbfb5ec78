//! kubectl as a program: whatever way of authenticating it knows, this knows.

use crate::error::Error;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

/// For a forwarding to be set up: API server and kubelet are asked.
const FORWARDING: Duration = Duration::from_secs(20);

/// kubectl with the options that say which cluster.
#[derive(Clone, Debug)]
pub(super) struct Kubectl {
    program: PathBuf,
    options: Vec<String>,
}

/// Ports of a pod that are ports of this machine while this lives.
#[derive(Debug)]
pub(super) struct Forward {
    /// Addresses, in the order of the ports that were asked for.
    pub(super) addresses: Vec<String>,
    _process: Child,
}

impl Kubectl {
    pub(super) fn new(program: &Path, context: Option<&str>, kubeconfig: Option<&Path>) -> Kubectl {
        let mut options = Vec::new();
        options.extend(context.map(|context| format!("--context={context}")));
        options.extend(kubeconfig.map(|path| format!("--kubeconfig={}", path.display())));
        Kubectl { program: program.to_owned(), options }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.options).args(arguments).kill_on_drop(true).stdin(Stdio::null());
        command
    }

    fn missing(&self, error: &io::Error) -> Error {
        Error::usage(
            format!("{} cannot be started: {error}", self.program.display()),
            "install kubectl, or say by --kubectl or KUBECTL where it is",
        )
    }

    /// Runs it, whatever it says.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<Output, Error> {
        self.command(arguments).output().await.map_err(|error| self.missing(&error))
    }

    /// What it prints; anything but success is an error.
    pub(super) async fn text(&self, arguments: &[&str]) -> Result<String, Error> {
        let output = self.run(arguments).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(refused(arguments, &output.stderr))
    }

    /// What it prints as JSON.
    pub(super) async fn json(&self, arguments: &[&str]) -> Result<Value, Error> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let text = self.text(&all).await?;
        serde_json::from_str(&text).map_err(|error| Error::Answer {
            action: format!("kubectl {}", arguments.join(" ")),
            reason: error.to_string(),
        })
    }

    /// One object; none if it is not there.
    pub(super) async fn find(&self, arguments: &[&str]) -> Result<Option<Value>, Error> {
        match self.json(arguments).await {
            Ok(value) => Ok(Some(value)),
            Err(Error::Kubectl { reason, .. })
                if reason.contains("(NotFound)") || reason.contains("have a resource type") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The items of a list.
    pub(super) async fn list(&self, arguments: &[&str]) -> Result<Vec<Value>, Error> {
        match self.json(arguments).await?.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// Applies a manifest.
    pub(super) async fn apply(&self, manifest: &str) -> Result<(), Error> {
        let arguments = ["apply", "-f", "-"];
        let mut command = self.command(&arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.missing(&error))?;
        if let Some(mut input) = child.stdin.take() {
            // A kubectl that ends early says why by its own words.
            let _ = input.write_all(manifest.as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(|error| self.missing(&error))?;
        if output.status.success() { Ok(()) } else { Err(refused(&arguments, &output.stderr)) }
    }

    /// Forwards ports of a pod, or of one pod of a workload (`statefulset/NAME`).
    pub(super) async fn forward(
        &self,
        namespace: &str,
        target: &str,
        ports: &[u16],
    ) -> Result<Forward, Error> {
        let ports: Vec<String> = ports.iter().map(|port| format!(":{port}")).collect();
        let mut arguments = vec!["port-forward", "--address", "127.0.0.1", "-n", namespace, target];
        arguments.extend(ports.iter().map(String::as_str));
        let mut command = self.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().map_err(|error| self.missing(&error))?;
        let mut addresses = Vec::new();
        let lines = process.stdout.take();
        let read = async {
            let Some(lines) = lines else { return };
            let mut lines = BufReader::new(lines).lines();
            while addresses.len() < ports.len() {
                let Ok(Some(line)) = lines.next_line().await else { return };
                let address = line.strip_prefix("Forwarding from ");
                let address = address.and_then(|rest| rest.split_once(" -> "));
                addresses.extend(address.map(|(address, _)| address.to_owned()));
            }
            // The pipe must stay open: kubectl writes a line for each connection.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        };
        let late = tokio::time::timeout(FORWARDING, read).await.is_err();
        if addresses.len() == ports.len() {
            return Ok(Forward { addresses, _process: process });
        }
        let _ = process.start_kill();
        let mut reason = Vec::new();
        if let Some(mut errors) = process.stderr.take() {
            let _ = errors.read_to_end(&mut reason).await;
        }
        if reason.is_empty() && late {
            reason = b"no answer in time".to_vec();
        }
        Err(refused(&arguments, &reason))
    }
}

fn refused(arguments: &[&str], reason: &[u8]) -> Error {
    let text = String::from_utf8_lossy(reason);
    let reason = text.trim().trim_start_matches("Error from server ").to_owned();
    Error::Kubectl { call: arguments.join(" "), reason }
}
